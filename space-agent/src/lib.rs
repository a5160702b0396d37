//! space-agent: receives OTLP on board, keeps it durable and ships it when a contact opens.
//!
//! Modules in the order in which data passes them; [`agent`] puts them together.

pub mod agent;
pub mod cli;
pub mod config;
mod people;
mod top;
mod wal_text;

pub mod clock;

pub mod receiver;

pub mod limiter;

pub mod journal;

pub mod lanes;

pub mod wal;

mod leaning;

mod sizing;

pub mod batcher;

pub mod lifetimes;

pub mod mirroring;

pub mod scrub;

pub mod orbit;

pub mod contacts;

pub mod forecast;

pub mod exporter;

pub mod recode;

pub mod control;

pub mod shipper;

pub mod telemetry;
