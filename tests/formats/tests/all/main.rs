//! Files and messages that earlier commits wrote, read by the present code.

#![allow(clippy::unwrap_used)]

mod counters;
mod link;
mod link_fields;
mod peers;
mod segments;
mod spool;
mod wal;
