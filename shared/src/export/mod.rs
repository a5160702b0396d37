//! Sending OTLP to backends.
//!
//! In the order in which data passes: [`attributes`] are added to resources while [`cut`] turns the requests of a segment into
//! export requests of bounded size, which a [`Client`] sends; [`retry`] says how long to wait when it could not.

mod answer;
pub mod attributes;
pub mod auth;
mod client;
mod compression;
pub mod config;
pub mod cut;
mod debug;
pub mod deliver;
pub mod endpoint;
mod failing;
mod file;
mod grpc;
mod http;
mod outcome;
mod rate;
pub mod retry;
mod show;
mod split;
mod tls;

pub use tls::client_config as client_tls;

pub use attributes::Attributes;
pub use client::Client;
pub use config::{
    Compression, DebugConfig, ExporterConfig, FileConfig, OtlpConfig, OtlpHttpConfig, RetryConfig, Secret,
    TlsConfig,
};
pub use cut::{Cut, Cuts, Limits, Plan};
pub use deliver::Delivery;
pub use failing::{AllFailing, Failing};
pub use outcome::Outcome;
pub use retry::Backoff;
pub use split::{halve, without_empty};
#[cfg(test)]
pub(crate) use {
    grpc::MOST_HEADER_BYTES as MOST_ANSWER_HEADER_BYTES, http::MOST_REDIRECTIONS, outcome::MAX_TEXT,
};
