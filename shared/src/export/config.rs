//! The settings of exporters, with the Collector's names where they mean the same.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::MapAccess;

use super::auth::{AuthConfig, Authenticator, Authorization};
use super::cut::Limits;
use super::endpoint::{target, wrong_in};
use crate::config::{Component, Invalid, settings_or_default};
use crate::link::tls::out_of_date;
use crate::signal::{Signal, SignalSet};
use crate::units::{ByteSize, Span};

/// `retry_on_failure`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// The first wait.
    pub initial_interval: Span,
    /// The longest wait.
    pub max_interval: Span,
    /// Each wait is so many times the one before.
    pub multiplier: f64,
    /// Each wait is random within `1 ± this`.
    pub randomization_factor: f64,
    /// Give up on an attempt's series after so long; 0: never. Giving up deletes nothing.
    pub max_elapsed_time: Span,
    /// The longest wait that a backend may ask for.
    pub max_retry_after: Span,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            initial_interval: Span::secs(5),
            max_interval: Span::secs(30),
            multiplier: 1.5,
            randomization_factor: 0.5,
            max_elapsed_time: Span::secs(0),
            max_retry_after: Span::secs(300),
        }
    }
}

impl RetryConfig {
    fn problems(&self, key: &str) -> Vec<Invalid> {
        let checks = [
            (!self.initial_interval.0.is_zero(), "initial_interval", "must be above 0; the default is 5s"),
            (
                self.max_interval >= self.initial_interval,
                "max_interval",
                "must not be below initial_interval",
            ),
            (
                (1.0..=100.0).contains(&self.multiplier),
                "multiplier",
                "must be from 1 to 100; the default is 1.5",
            ),
            (
                (0.0..=1.0).contains(&self.randomization_factor),
                "randomization_factor",
                "must be from 0 to 1; the default is 0.5",
            ),
        ];
        let wrong = checks.into_iter().filter(|(right, ..)| !right);
        wrong.map(|(_, name, why)| Invalid::new(format!("{key}.retry_on_failure.{name}"), why)).collect()
    }
}

/// `tls` of a client. Present: TLS is used, with the system's authorities unless `ca_file` names others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// No TLS, for an endpoint without `https://` and settings without an authority.
    pub insecure: bool,
    /// Takes whatever certificate the server shows.
    pub insecure_skip_verify: bool,
    /// Authorities that the server's certificate may come from, PEM.
    pub ca_file: Option<PathBuf>,
    /// The same, not in a file.
    pub ca_pem: Option<Secret>,
    /// The system's authorities beside those.
    pub include_system_ca_certs_pool: bool,
    /// Our certificate for mutual TLS, PEM.
    pub cert_file: Option<PathBuf>,
    /// The same, not in a file.
    pub cert_pem: Option<Secret>,
    /// Its private key, PEM.
    pub key_file: Option<PathBuf>,
    /// The same, not in a file.
    pub key_pem: Option<Secret>,
    /// The name that the server's certificate must have, when it is not the endpoint's.
    pub server_name: Option<String>,
    /// The earliest version of TLS.
    pub min_version: TlsVersion,
}

impl TlsConfig {
    /// Whether these settings turn TLS off.
    pub fn is_off(&self) -> bool {
        self.insecure && self.ca_file.is_none() && self.ca_pem.is_none()
    }
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    Tls13,
}

/// Text that is not shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("...")
    }
}

/// How request bodies are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// RFC 1952: every OTLP server takes it.
    #[default]
    Gzip,
    /// RFC 8878.
    Zstd,
    /// Not at all.
    None,
}

/// Headers to send; their values may be secrets and are not shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Headers(pub BTreeMap<String, String>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The parts that `otlp` and `otlphttp` share.
macro_rules! otlp_config {
    ($(#[$doc:meta])* $name:ident, $(#[$endpoint:meta])* endpoint, $($(#[$more:meta])* $field:ident: $kind:ty,)*) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $(#[$endpoint])*
            #[serde(default)]
            pub endpoint: String,
            $($(#[$more])* #[serde(default)] pub $field: $kind,)*
            /// How request bodies are compressed.
            #[serde(default)]
            pub compression: Compression,
            /// How long one request may take.
            #[serde(default = "default_timeout")]
            pub timeout: Span,
            /// Sent with every request.
            #[serde(default)]
            pub headers: Headers,
            /// TLS settings.
            pub tls: Option<TlsConfig>,
            /// Who says who sends.
            pub auth: Option<AuthConfig>,
            /// What follows from it.
            #[serde(skip)]
            pub authorization: Option<Authorization>,
            /// Items a second at most; 0: no limit.
            #[serde(default)]
            pub rate_limit: u64,
            /// A response is read up to this size.
            #[serde(default = "default_max_response")]
            pub max_response_bytes: ByteSize,
            /// Items in one request at most.
            #[serde(default = "default_max_items")]
            pub max_request_items: u64,
            /// Bytes in one request at most, before compression.
            #[serde(default = "default_max_bytes")]
            pub max_request_bytes: ByteSize,
            /// Waits between attempts.
            #[serde(default)]
            pub retry_on_failure: RetryConfig,
        }

        impl $name {
            /// Everything at its default but the endpoint.
            pub fn new(endpoint: impl Into<String>) -> Self {
                Self {
                    endpoint: endpoint.into(),
                    $($field: <$kind>::default(),)*
                    compression: Compression::default(),
                    timeout: default_timeout(),
                    headers: Headers::default(),
                    tls: None,
                    auth: None,
                    authorization: None,
                    rate_limit: 0,
                    max_response_bytes: default_max_response(),
                    max_request_items: default_max_items(),
                    max_request_bytes: default_max_bytes(),
                    retry_on_failure: RetryConfig::default(),
                }
            }

            fn problems(&self, key: &str) -> Vec<Invalid> {
                let mut wrong = self.retry_on_failure.problems(key);
                wrong.extend(self.validate_endpoint(key).err());
                for (name, zero) in [
                    ("timeout", self.timeout.0.is_zero()),
                    ("max_response_bytes", self.max_response_bytes.0 == 0),
                    ("max_request_items", self.max_request_items == 0),
                    ("max_request_bytes", self.max_request_bytes.0 == 0),
                ] {
                    if zero {
                        wrong.push(Invalid::new(format!("{key}.{name}"), "must be above 0"));
                    }
                }
                wrong
            }

            fn limits(&self) -> Limits {
                Limits { items: self.max_request_items, bytes: self.max_request_bytes.as_usize() }
            }
        }
    };
}

fn default_timeout() -> Span {
    Span::secs(10)
}

fn default_max_response() -> ByteSize {
    ByteSize::mib(4)
}

fn default_max_items() -> u64 {
    Limits::default().items
}

fn default_max_bytes() -> ByteSize {
    ByteSize(Limits::default().bytes as u64)
}

otlp_config!(
    /// `otlp_grpc`, or `otlp`: OTLP over gRPC.
    OtlpConfig,
    /// `http://HOST:PORT`, `https://HOST:PORT` or `HOST:PORT`, which is TLS unless `tls.insecure` or this machine.
    endpoint,
    /// Pings on connections.
    keepalive: Option<KeepaliveConfig>,
);

otlp_config!(
    /// `otlp_http`, or `otlphttp`: OTLP over HTTP.
    OtlpHttpConfig,
    /// The URL before `/v1/traces`, `/v1/metrics` and `/v1/logs`.
    endpoint,
    /// The whole URL for spans.
    traces_endpoint: Option<String>,
    /// The whole URL for data points.
    metrics_endpoint: Option<String>,
    /// The whole URL for log records.
    logs_endpoint: Option<String>,
    /// How requests are written.
    encoding: Encoding,
);

const NO_ENDPOINT: &str = "is missing; name the backend's address";

impl OtlpConfig {
    pub(super) fn validate_endpoint(&self, key: &str) -> Result<(), Invalid> {
        let key = format!("{key}.endpoint");
        if self.endpoint.is_empty() {
            return Err(Invalid::new(key, NO_ENDPOINT));
        }
        if let Some(wrong) = wrong_in(&self.endpoint) {
            return Err(Invalid::new(key, wrong));
        }
        let target =
            target(&self.endpoint, self.tls.as_ref()).map_err(|message| Invalid::new(&key, message))?;
        let address = target.address.trim_end_matches('/');
        if address.contains(['/', '?']) {
            let message = "has a path or a query, and OTLP over gRPC has neither: write HOST:PORT (with a path it is otlp_http)";
            return Err(Invalid::new(key, message));
        }
        let authority: Result<http::uri::Authority, _> = address.parse();
        match authority {
            Err(e) => Err(Invalid::new(key, format!("is not an address ({e}); write HOST:PORT"))),
            Ok(authority) if authority.port_u16().is_none() => {
                Err(Invalid::new(key, "has no port; the usual one is 4317"))
            }
            Ok(_) => Ok(()),
        }
    }
}

impl OtlpHttpConfig {
    /// The setting with the whole URL of a signal, and its name.
    pub fn url_of(&self, signal: Signal) -> (&'static str, Option<&str>) {
        match signal {
            Signal::Traces => ("traces_endpoint", self.traces_endpoint.as_deref()),
            Signal::Metrics => ("metrics_endpoint", self.metrics_endpoint.as_deref()),
            Signal::Logs => ("logs_endpoint", self.logs_endpoint.as_deref()),
        }
    }

    pub(super) fn validate_endpoint(&self, key: &str) -> Result<(), Invalid> {
        if self.endpoint.is_empty() && Signal::ALL.iter().all(|s| self.url_of(*s).1.is_none()) {
            return Err(Invalid::new(format!("{key}.endpoint"), NO_ENDPOINT));
        }
        super::http::urls(key, self).map(drop)
    }
}

/// `keepalive` of an exporter over gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeepaliveConfig {
    /// The client pings a connection after this much silence; 0 disables it.
    pub time: Span,
    /// How long the answer may take.
    pub timeout: Span,
    /// Also while no request is on its way.
    pub permit_without_stream: bool,
}

impl Default for KeepaliveConfig {
    fn default() -> Self {
        Self { time: Span::default(), timeout: Span::secs(20), permit_without_stream: false }
    }
}

/// How `otlp_http` writes requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Protobuf.
    #[default]
    Proto,
    /// OTLP JSON.
    Json,
}

/// How much `debug` writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verbosity {
    /// One line per request: signal, items, bytes.
    #[default]
    Basic,
    /// One line per item.
    Normal,
    /// Everything.
    Detailed,
}

/// `debug`: writes to standard output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DebugConfig {
    /// How much it writes.
    pub verbosity: Verbosity,
    /// Items a second at most; 0: no limit.
    pub rate_limit: u64,
}

/// How `file` writes requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// OTLP JSON, a line each.
    #[default]
    Json,
    /// OTLP protobuf as it came, each behind its length.
    Proto,
}

/// `file`: appends requests to a file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// The file; it is made when it is absent.
    pub path: PathBuf,
    /// The directory that the file lies in is made when it is absent.
    #[serde(default)]
    pub create_directory: bool,
    /// How requests are written.
    #[serde(default)]
    pub format: FileFormat,
    /// The file is renamed to `PATH.1` when it has reached this size (and `PATH.1` to `PATH.2`, ...); 0: never.
    #[serde(default)]
    pub max_bytes: ByteSize,
    /// Renamed files that are kept.
    #[serde(default = "default_backups")]
    pub max_backups: u32,
}

fn default_backups() -> u32 {
    10
}

/// An exporter's kind and its settings.
#[derive(Debug, Clone)]
pub enum ExporterConfig {
    /// `debug`
    Debug(DebugConfig),
    /// `otlp`
    Otlp(OtlpConfig),
    /// `otlphttp`
    OtlpHttp(OtlpHttpConfig),
    /// `file`
    File(FileConfig),
}

impl ExporterConfig {
    /// Everything that is wrong and can be found without touching the network; `key` is the exporter's, from the top.
    pub fn problems(&self, key: &str) -> Vec<Invalid> {
        match self {
            Self::Otlp(c) => c.problems(key),
            Self::OtlpHttp(c) => c.problems(key),
            Self::File(c) if c.path.file_name().is_none() => {
                vec![Invalid::new(format!("{key}.path"), "must name a file")]
            }
            Self::Debug(_) | Self::File(_) => Vec::new(),
        }
    }

    /// The first of them.
    pub fn validate(&self, key: &str) -> Result<(), Invalid> {
        self.problems(key).into_iter().next().map_or(Ok(()), Err)
    }

    /// Its TLS settings.
    pub(super) fn tls(&self) -> Option<&TlsConfig> {
        match self {
            Self::Otlp(c) => c.tls.as_ref(),
            Self::OtlpHttp(c) => c.tls.as_ref(),
            Self::Debug(_) | Self::File(_) => None,
        }
    }

    /// What is to be said of the dates of the certificate that it shows, by a clock that says `now`, and of which key.
    pub fn dates(&self, key: &str, now: u64) -> Option<(String, String)> {
        let words = out_of_date(self.tls()?.cert_file.as_ref()?, now)?;
        Some((format!("{key}.tls.cert_file"), words))
    }

    /// Checks the signals of its pipelines.
    pub fn validate_signals(&self, key: &str, signals: SignalSet) -> Result<(), Invalid> {
        let several = signals.iter().count() > 1;
        match self {
            Self::File(FileConfig { format: FileFormat::Proto, .. }) if several => {
                let message = "does not say which signal a request is of: use an exporter and a file for each signal, such as `file/traces`";
                Err(Invalid::new(format!("{key}.format"), message))
            }
            _ => Ok(()),
        }
    }

    /// How large its requests may be.
    pub fn limits(&self) -> Limits {
        match self {
            Self::Otlp(c) => c.limits(),
            Self::OtlpHttp(c) => c.limits(),
            Self::Debug(_) | Self::File(_) => Limits::default(),
        }
    }

    /// Waits between attempts.
    pub fn retry(&self) -> RetryConfig {
        match self {
            Self::Otlp(c) => c.retry_on_failure,
            Self::OtlpHttp(c) => c.retry_on_failure,
            Self::Debug(_) | Self::File(_) => RetryConfig::default(),
        }
    }

    /// Who says who sends.
    pub fn auth(&self) -> Option<&AuthConfig> {
        match self {
            Self::Otlp(c) => c.auth.as_ref(),
            Self::OtlpHttp(c) => c.auth.as_ref(),
            Self::Debug(_) | Self::File(_) => None,
        }
    }

    /// The exporter's requests carry this header from now on.
    fn authorize(&mut self, authorization: Authorization) {
        match self {
            Self::Otlp(c) => c.authorization = Some(authorization),
            Self::OtlpHttp(c) => c.authorization = Some(authorization),
            Self::Debug(_) | Self::File(_) => {}
        }
    }

    /// Whether `auth` was not looked up.
    pub fn is_unauthorized(&self) -> bool {
        match self {
            Self::Otlp(c) => c.auth.is_some() && c.authorization.is_none(),
            Self::OtlpHttp(c) => c.auth.is_some() && c.authorization.is_none(),
            Self::Debug(_) | Self::File(_) => false,
        }
    }

    /// Looks up who sends in `authenticators`; `name` is the exporter's.
    pub fn authorize_from(
        &mut self,
        name: &str,
        authenticators: &BTreeMap<String, Authenticator>,
    ) -> Result<(), Invalid> {
        let Some(auth) = self.auth().map(|a| a.authenticator.clone()) else { return Ok(()) };
        let Some(found) = authenticators.get(&auth) else {
            let message = format!("`{auth}` is not an authenticator in extensions");
            return Err(Invalid::new(format!("exporters.{name}.auth.authenticator"), message));
        };
        self.authorize(Authorization::try_new(&format!("extensions.{auth}"), found)?);
        Ok(())
    }

    /// Items a second at most; `None`: no limit.
    pub fn rate_limit(&self) -> Option<u64> {
        let limit = match self {
            Self::Otlp(c) => c.rate_limit,
            Self::OtlpHttp(c) => c.rate_limit,
            Self::Debug(c) => c.rate_limit,
            Self::File(_) => 0,
        };
        (limit > 0).then_some(limit)
    }
}

impl Component for ExporterConfig {
    const KINDS: &'static [&'static str] = &["debug", "otlp_grpc", "otlp_http", "otlp", "otlphttp", "file"];
    const NOUN: &'static str = "exporter";

    fn deserialize_kind<'de, A: MapAccess<'de>>(kind: &str, map: &mut A) -> Result<Self, A::Error> {
        match kind {
            "debug" => settings_or_default(map).map(Self::Debug),
            "otlp" | "otlp_grpc" => map.next_value().map(Self::Otlp),
            "otlphttp" | "otlp_http" => map.next_value().map(Self::OtlpHttp),
            "file" => map.next_value().map(Self::File),
            _ => unreachable!("only kinds of KINDS are asked for"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Components, parse};

    fn read(text: &str) -> Result<Components<ExporterConfig>, String> {
        parse(text, "c.yaml", |_| None).map_err(|e| e.to_string())
    }

    #[test]
    fn every_kind_is_read() {
        let text = "debug:\notlp/a:\n  endpoint: localhost:4317\n  compression: zstd\n  headers: {key: secret}\n\
                    otlphttp:\n  endpoint: http://x\n  retry_on_failure: {initial_interval: 1s}\nfile: {path: a.jsonl}\n";
        let config = read(text).unwrap();
        let Some(ExporterConfig::Otlp(otlp)) = config.get("otlp/a") else { panic!() };
        assert_eq!((otlp.compression, otlp.timeout), (Compression::Zstd, Span::secs(10)));
        assert!(!format!("{otlp:?}").contains("secret"), "a header's value is not shown");
        for (name, config) in config.iter() {
            config.validate(name).unwrap();
        }
        assert_eq!(config.get("otlphttp").unwrap().retry().initial_interval, Span::secs(1));
    }

    #[test]
    fn a_wrong_setting_is_named() {
        let error = read("otlp:\n  endpoint: x\n  retry_on_failure:\n    max_intervall: 3s\n").unwrap_err();
        assert!(error.contains("c.yaml:4") && error.contains("`max_interval`"), "{error}");
        let invalid = read("otlp:\n").unwrap().get("otlp").unwrap().validate("exporters.otlp").unwrap_err();
        assert_eq!(
            (invalid.key.as_str(), invalid.message.as_str()),
            ("exporters.otlp.endpoint", NO_ENDPOINT)
        );
        let config = read("otlp: {endpoint: \"x:1\", timeout: 0}\n").unwrap();
        let invalid = config.get("otlp").unwrap().validate("exporters.otlp").unwrap_err();
        assert_eq!(invalid.key, "exporters.otlp.timeout");
    }
}
