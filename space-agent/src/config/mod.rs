//! The agent's configuration: read strictly, checked whole before anything is bound.

mod check;
#[cfg(test)]
mod directory_tests;
mod outside;
#[cfg(test)]
mod practice_tests;
mod processors;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use perigee_shared::config::reload::InForce;
use perigee_shared::config::{Component, Components, Problem, settings_or_default};
use perigee_shared::export::auth::Authenticator;
use perigee_shared::export::config::ExporterConfig as DirectConfig;
use perigee_shared::serve::{self, ControlConfig, HttpConfig};
use perigee_shared::signal::{Signal, SignalSet};
use perigee_shared::telemetry::TelemetryConfig;
use perigee_shared::units::{ByteSize, Span};
use serde::Deserialize;
use serde::de::MapAccess;

pub use self::outside::Extent;
pub use self::processors::{BatchConfig, LimiterConfig, Processors};
use crate::contacts::ContactsConfig;
use crate::lanes::LanesConfig;
use crate::receiver::HostMetricsConfig;
use crate::wal::{Volatile, WhenFull};

/// The consumer that ships segments to ground stations.
pub const LINK: &str = "link";

/// Everything in the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where data comes in.
    #[serde(default)]
    pub receivers: Components<ReceiverConfig>,
    /// What happens to it before it is stored.
    #[serde(default)]
    pub processors: Processors,
    /// Where it goes.
    #[serde(default)]
    pub exporters: Components<ExporterConfig>,
    /// Where it waits.
    pub storage: StorageConfig,
    /// The link to ground stations; needed by the exporter `link`.
    pub link: Option<LinkConfig>,
    /// Priority classes.
    #[serde(default)]
    pub lanes: LanesConfig,
    /// When a station is reachable.
    #[serde(default)]
    pub contacts: ContactsConfig,
    /// Whether direct exporters add `perigee.delivery`.
    #[serde(default)]
    pub delivery_attribute: bool,
    /// Health endpoint and control socket.
    #[serde(default)]
    pub extensions: Extensions,
    /// Which signals go where.
    #[serde(default)]
    pub service: Service,
    /// The first 8 bytes of the BLAKE3 hash of its file; 0: there is none.
    #[serde(skip)]
    pub hash: u64,
    /// Whether `storage.directory` is written, and not found otherwise.
    #[serde(skip)]
    pub names_directory: bool,
    /// What its writer should know.
    #[serde(skip)]
    pub warnings: Vec<Problem>,
    /// The settings as they are written.
    #[serde(skip)]
    pub written: InForce,
}

/// The smallest flow-control window of a connection, bytes.
pub const MIN_WINDOW: u64 = 16 << 10;

/// `receivers.otlp`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtlpReceiver {
    /// gRPC and HTTP.
    #[serde(default)]
    pub protocols: Protocols,
    /// The largest request, after decompression.
    #[serde(default = "default_max_request")]
    pub max_request_bytes: ByteSize,
    /// When a request is answered.
    #[serde(default)]
    pub acknowledge: Acknowledge,
}

/// A receiver.
#[derive(Debug, Clone)]
pub enum ReceiverConfig {
    /// From clients.
    Otlp(Box<OtlpReceiver>),
    /// From this machine.
    HostMetrics(HostMetricsConfig),
}

impl Component for ReceiverConfig {
    const KINDS: &'static [&'static str] = &["otlp", "hostmetrics", "host_metrics"];
    const NOUN: &'static str = "receiver";

    fn deserialize_kind<'de, A: MapAccess<'de>>(kind: &str, map: &mut A) -> Result<Self, A::Error> {
        match kind {
            "otlp" => map.next_value().map(Self::Otlp),
            _ => map.next_value().map(Self::HostMetrics),
        }
    }
}

/// When a request is answered with success.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acknowledge {
    /// When it is synced to disk.
    #[default]
    Durable,
    /// When it is in memory: faster, and lost when the power is.
    Received,
}

/// `receivers.otlp.protocols`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protocols {
    /// OTLP/gRPC.
    pub grpc: Option<ListenerConfig>,
    /// OTLP/HTTP.
    pub http: Option<ListenerConfig>,
}

/// A listener for OTLP.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// `HOST:PORT` or `unix:///PATH`.
    pub endpoint: String,
    /// The largest request, when it is not the receiver's.
    pub max_request_bytes: Option<ByteSize>,
    /// TLS, and with `client_ca_file` mutual TLS.
    pub tls: Option<ListenerTls>,
    /// Pages of other origins that may send from a browser; HTTP only.
    pub cors: Option<CorsConfig>,
    /// Allows an address that is not loopback without TLS.
    #[serde(default)]
    pub insecure: bool,
    /// Connections at once.
    #[serde(default = "default_connections")]
    pub max_connections: usize,
    /// From accepting a connection to its first complete request head.
    #[serde(default = "default_header_timeout")]
    pub header_timeout: Span,
    /// How long an HTTP/1.1 connection may be idle between requests.
    #[serde(default = "default_idle_timeout")]
    pub idle_timeout: Span,
}

/// `cors` of a listener.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CorsConfig {
    /// Origins, each with at most one `*`.
    pub allowed_origins: Vec<String>,
    /// Headers that a page may send beside the usual ones; `*`: any.
    pub allowed_headers: Vec<String>,
    /// Headers of an answer that a page may read.
    pub exposed_headers: Vec<String>,
    /// Seconds for which a browser need not ask again.
    pub max_age: u64,
}

/// `tls` of a listener.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// The server's certificate chain, PEM.
    pub cert_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
    /// Authorities of client certificates; asks for one.
    pub client_ca_file: Option<PathBuf>,
}

/// An exporter: the link, or a backend directly.
#[derive(Debug, Clone)]
pub enum ExporterConfig {
    /// To a ground-station.
    Link,
    /// To a backend, without a ground-station.
    Direct(Box<DirectConfig>),
}

/// The exporter `link` has its settings in the sections `link` and `contacts`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl Component for ExporterConfig {
    const KINDS: &'static [&'static str] =
        &["link", "debug", "otlp_grpc", "otlp_http", "otlp", "otlphttp", "file"];
    const NOUN: &'static str = "exporter";

    fn deserialize_kind<'de, A: MapAccess<'de>>(kind: &str, map: &mut A) -> Result<Self, A::Error> {
        if kind == LINK {
            settings_or_default::<Nothing, A>(map)?;
            return Ok(Self::Link);
        }
        DirectConfig::deserialize_kind(kind, map).map(|direct| Self::Direct(Box::new(direct)))
    }
}

/// `storage`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// Where the write-ahead log is.
    pub directory: PathBuf,
    /// Its budget.
    #[serde(default = "default_max_bytes")]
    pub max_bytes: ByteSize,
    /// What happens when the budget is used up.
    #[serde(default)]
    pub when_full: WhenFull,
    /// Each commit is held so long for more requests.
    #[serde(default)]
    pub commit_interval: Span,
    /// Given back when the disk is full.
    #[serde(default = "default_ballast")]
    pub ballast: ByteSize,
    /// What happens when the store is gone for good.
    #[serde(default)]
    pub volatile: Volatile,
    /// How what lies in the log is read and compared with its checksums.
    #[serde(default)]
    pub scrub: ScrubConfig,
}

/// `storage.scrub`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScrubConfig {
    /// From the start of one round to the start of the next; 0 turns it off.
    pub interval: Span,
    /// Bytes a second that a round reads.
    pub rate: ByteSize,
}

impl Default for ScrubConfig {
    fn default() -> Self {
        Self { interval: Span(std::time::Duration::from_secs(24 * 3600)), rate: ByteSize(256 << 10) }
    }
}

/// `link`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    /// The satellite's certificate chain, PEM.
    pub certificate_file: PathBuf,
    /// Its private key, PEM.
    pub private_key_file: PathBuf,
    /// Authorities of stations, PEM.
    pub station_ca_file: PathBuf,
    /// Stations that are revoked, PEM or DER; read again when it changes.
    #[serde(default)]
    pub station_crl_file: Option<PathBuf>,
    /// Stations by id.
    pub stations: BTreeMap<String, StationConfig>,
}

/// A ground station.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StationConfig {
    /// `HOST:PORT`, UDP.
    pub address: String,
    /// The id in its certificate, when that is another one: of several antennas behind one ground-station.
    pub server_name: Option<String>,
}

impl StationConfig {
    /// Which ground-station answers for the station `id`.
    pub fn server_name<'a>(&'a self, id: &'a str) -> &'a str {
        self.server_name.as_deref().unwrap_or(id)
    }
}

/// `extensions`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(from = "Components<Extension>")]
pub struct Extensions {
    /// The health endpoint.
    pub health_check: Option<HttpConfig>,
    /// The control socket.
    pub control: Option<ControlConfig>,
    /// What exporters name in `auth`.
    pub authenticators: BTreeMap<String, Authenticator>,
}

#[derive(Debug, Clone)]
enum Extension {
    HealthCheck(HttpConfig),
    Control(ControlConfig),
    Authenticator(Authenticator),
}

impl Component for Extension {
    const KINDS: &'static [&'static str] = &["health_check", "control", "bearertokenauth", "basicauth"];
    const NOUN: &'static str = "extension";

    fn deserialize_kind<'de, A: MapAccess<'de>>(kind: &str, map: &mut A) -> Result<Self, A::Error> {
        Ok(match kind {
            "health_check" => Self::HealthCheck(map.next_value()?),
            "control" => Self::Control(map.next_value()?),
            _ => Self::Authenticator(Authenticator::deserialize_kind(kind, map)?),
        })
    }
}

impl From<Components<Extension>> for Extensions {
    fn from(all: Components<Extension>) -> Self {
        let mut out = Self::default();
        for (name, extension) in all.0 {
            match extension {
                Extension::HealthCheck(http) => out.health_check = Some(http),
                Extension::Control(control) => out.control = Some(control),
                Extension::Authenticator(authenticator) => {
                    out.authenticators.insert(name, authenticator);
                }
            }
        }
        out
    }
}

/// `service`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// One for each signal.
    #[serde(default)]
    pub pipelines: Pipelines,
    /// The agent's own metrics and logs.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

/// `service.pipelines`: one for each signal that is taken.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pipelines {
    /// Spans.
    pub traces: Option<Pipeline>,
    /// Metric points.
    pub metrics: Option<Pipeline>,
    /// Log records.
    pub logs: Option<Pipeline>,
}

impl Pipelines {
    /// The pipeline of `signal`.
    pub const fn get(&self, signal: Signal) -> Option<&Pipeline> {
        match signal {
            Signal::Traces => self.traces.as_ref(),
            Signal::Metrics => self.metrics.as_ref(),
            Signal::Logs => self.logs.as_ref(),
        }
    }

    /// The signals whose pipeline has `name` in the list that `of` shows.
    fn signals(&self, name: &str, of: impl Fn(&Pipeline) -> &[String]) -> SignalSet {
        let uses = |s: &Signal| self.get(*s).is_some_and(|p| of(p).iter().any(|n| n == name));
        Signal::ALL.into_iter().filter(uses).fold(SignalSet::default(), SignalSet::with)
    }
}

/// The way of one signal.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// Names from `receivers`.
    #[serde(default)]
    pub receivers: Vec<String>,
    /// `memory_limiter` and `batch`, which are always there; naming them is allowed, as in the Collector.
    #[serde(default)]
    pub processors: Vec<String>,
    /// Names from `exporters`.
    #[serde(default)]
    pub exporters: Vec<String>,
}

const fn default_max_request() -> ByteSize {
    ByteSize::mib(4)
}
const fn default_header_timeout() -> Span {
    Span(serve::HEADER_TIMEOUT)
}

const fn default_idle_timeout() -> Span {
    Span(serve::IDLE_TIMEOUT)
}

const fn default_connections() -> usize {
    64
}
const fn default_max_bytes() -> ByteSize {
    ByteSize::mib(1024)
}
const fn default_ballast() -> ByteSize {
    ByteSize::mib(8)
}
