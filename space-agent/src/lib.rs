//! space-agent: receives OTLP on board, keeps it durable and ships it when a contact opens.
//!
//! Modules in the order in which data passes them.

pub mod wal;
