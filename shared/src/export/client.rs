//! One exporter's client, whatever its kind.

use bytes::Bytes;

use super::config::{ExporterConfig, TlsConfig};
use super::debug::Debug;
use super::file::File;
use super::grpc::Grpc;
use super::http::Http;
use super::outcome::Outcome;
use crate::config::Invalid;
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
        Ok(match config {
            ExporterConfig::Debug(c) => Self::Debug(Debug::new(c, env.output.clone())),
            ExporterConfig::Otlp(c) => Self::Otlp(Box::new(Grpc::try_new(key, c)?)),
            ExporterConfig::OtlpHttp(c) => Self::OtlpHttp(Box::new(Http::try_new(key, c, env)?)),
            ExporterConfig::File(c) => Self::File(File::try_new(key, c, env)?),
        })
    }

    /// Sends one export request of `signal` and says what came of it.
    pub async fn send(&self, signal: Signal, body: &Bytes) -> Outcome {
        match self {
            Self::Debug(c) => c.send(signal, body),
            Self::Otlp(c) => Box::pin(c.send(signal, body)).await,
            Self::OtlpHttp(c) => Box::pin(c.send(signal, body)).await,
            Self::File(c) => c.send(signal, body).await,
        }
    }
}

/// The files of a [`TlsConfig`], read.
pub(super) struct TlsFiles {
    /// PEM.
    pub(super) ca: Option<Vec<u8>>,
    /// PEM: certificate and key.
    pub(super) identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl TlsFiles {
    pub(super) fn read(key: &str, config: &TlsConfig) -> Result<Self, Invalid> {
        let read = |name: &str, path: &std::path::Path| {
            std::fs::read(path).map_err(|e| {
                let message = format!(
                    "cannot read {}: {e}; check the path and that this user may read it",
                    path.display()
                );
                Invalid::new(format!("{key}.tls.{name}"), message)
            })
        };
        let ca = config.ca_file.as_deref().map(|p| read("ca_file", p)).transpose()?;
        let identity = match (&config.cert_file, &config.key_file) {
            (Some(cert), Some(key_file)) => Some((read("cert_file", cert)?, read("key_file", key_file)?)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(Invalid::new(format!("{key}.tls.key_file"), "cert_file needs its key_file"));
            }
            (None, Some(_)) => {
                return Err(Invalid::new(format!("{key}.tls.cert_file"), "key_file needs its cert_file"));
            }
        };
        Ok(Self { ca, identity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::OtlpConfig;

    #[test]
    fn an_unreadable_certificate_is_named_with_its_key() {
        for file in ["/nowhere/ca.pem", "/"] {
            let mut config = OtlpConfig::new("https://localhost:4317");
            config.tls = Some(TlsConfig { ca_file: Some(file.into()), ..TlsConfig::default() });
            let config = ExporterConfig::Otlp(config);
            let result = Client::try_new("exporters.otlp", &config, &Env::production());
            let Err(invalid) = result else { panic!("{file}") };
            assert_eq!(invalid.key, "exporters.otlp.tls.ca_file");
            assert!(invalid.message.contains(file), "{}", invalid.message);
        }
    }
}
