//! One exporter's client, whatever its kind.

use std::path::Path;

use bytes::Bytes;

use super::config::ExporterConfig;
use super::debug::Debug;
use super::file::File;
use super::grpc::Grpc;
use super::http::Http;
use super::outcome::Outcome;
use super::tls::unreadable;
use crate::config::{Invalid, check_writable};
use crate::env::Env;
use crate::signal::Signal;

/// Sends export requests to one backend. It connects when the first is sent, and again after each failure.
pub enum Client {
    /// Writes what it is sent.
    Debug(Debug),
    /// OTLP over gRPC.
    Otlp(Box<Grpc>),
    /// OTLP over HTTP.
    OtlpHttp(Box<Http>),
    /// Appends to a file.
    File(File),
}

impl Client {
    /// A client as `config` says; `key` is the exporter's, from the top of the configuration.
    pub fn try_new(key: &str, config: &ExporterConfig, env: &Env) -> Result<Self, Invalid> {
        config.validate(key)?;
        if config.is_unauthorized() {
            // Never without the credentials that were asked for.
            return Err(Invalid::new(format!("{key}.auth"), "was not looked up in extensions"));
        }

        Ok(match config {
            ExporterConfig::Debug(c) => Self::Debug(Debug::new(c, env.output.clone())),
            ExporterConfig::Otlp(c) => Self::Otlp(Box::new(Grpc::try_new(key, c, env)?)),
            ExporterConfig::OtlpHttp(c) => Self::OtlpHttp(Box::new(Http::try_new(key, c, env)?)),
            ExporterConfig::File(c) => Self::File(File::try_new(key, c, env)?),
        })
    }

    /// Why there could be no such client, without opening what it writes to; the directory `made` is there when it does.
    pub fn check(key: &str, config: &ExporterConfig, env: &Env, made: Option<&Path>) -> Vec<Invalid> {
        let wrong = match config {
            ExporterConfig::File(file) => {
                let made = if file.create_directory { file.path.parent() } else { made };
                check_writable(&format!("{key}.path"), &file.path, made).err()
            }
            other => {
                let files = other.tls().filter(|tls| !tls.is_off()).map(|tls| unreadable(key, tls));
                match files.unwrap_or_default() {
                    // What is wrong with its authenticator is said there.
                    none if none.is_empty() && other.is_unauthorized() => None,
                    none if none.is_empty() => Self::try_new(key, other, env).err(),
                    some => return some,
                }
            }
        };
        wrong.into_iter().collect()
    }

    /// Sends one export request of `signal` and says what came of it.
    pub async fn send(&self, signal: Signal, body: &Bytes) -> Outcome {
        let (outcome, place) = match self {
            Self::Debug(c) => return c.send(signal, body),
            Self::File(c) => return c.send(signal, body).await,
            Self::Otlp(c) => (Box::pin(c.send(signal, body)).await, c.place().to_owned()),
            Self::OtlpHttp(c) => (Box::pin(c.send(signal, body)).await, c.place(signal)),
        };
        match outcome {
            Outcome::Retry { after, reason } => {
                Outcome::Retry { after, reason: format!("{reason} ({signal} to {place})") }
            }
            other => other,
        }
    }
}
