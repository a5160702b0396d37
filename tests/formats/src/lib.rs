//! Pinned formats: files that earlier commits wrote, and how this version's programs see them.
//!
//! `data/` holds the files, compressed, each beside a JSON file with the expected content. `README.md` says which commit made
//! which. The tests open a copy with the present code and compare. They write nothing under `data/`.
//!
//! - [`fixture`]: finds, unpacks and compares files.
//! - [`items`], [`segment`]: telemetry and segments as plain values.
//! - [`wal`], [`spool`]: the only files here that call the programs' stores. Each turns a store into a plain struct.

pub mod fixture;
pub mod items;
pub mod segment;
pub mod spool;
pub mod wal;
