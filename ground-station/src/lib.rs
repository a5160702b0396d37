//! ground-station: takes segments from satellites over QUIC, commits them and re-exports OTLP.
//!
//! In the order in which data passes: [`config`] says what is wanted, the [`link`] receives segments, the [`spool`] keeps
//! them, each [`exporter`] sends them on, the [`console`] shows where things are, and [`telemetry`] counts. [`memory`] bounds what they
//! hold, [`ground`] puts them together; [`pki`] makes certificates; [`commands`] is what the command line does.

pub mod config;
pub mod link;
pub mod spool;

pub mod exporter;

pub mod console;
pub mod telemetry;

pub mod memory;

pub mod ground;

pub mod pki;

pub mod commands;
