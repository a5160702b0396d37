//! The agent's configuration: read strictly, checked whole before anything is bound.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use perigee_shared::config::{self, Component, Components, ConfigError, Invalid, settings_or_default};
use perigee_shared::export::config::ExporterConfig as DirectConfig;
use perigee_shared::link::tls::is_valid_id;
use perigee_shared::segment::Codec;
use perigee_shared::serve::{self, ControlConfig, Endpoint, HttpConfig, validate_endpoint};
use perigee_shared::signal::{Signal, SignalSet};
use perigee_shared::telemetry::TelemetryConfig;
use perigee_shared::units::{ByteSize, Span};
use serde::Deserialize;
use serde::de::MapAccess;

use crate::contacts::ContactsConfig;
use crate::lanes::{LanesConfig, Percent};
use crate::wal::{Volatile, WhenFull};

/// The consumer that ships segments to ground stations.
pub const LINK: &str = "link";

/// Everything in the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where OTLP comes in.
    pub receivers: Receivers,
    /// What happens to it before it is stored.
    #[serde(default)]
    pub processors: Processors,
    /// Where it goes.
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
    /// Health endpoint and control socket.
    #[serde(default)]
    pub extensions: Extensions,
    /// Which signals go where.
    pub service: Service,
}

/// `receivers`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receivers {
    /// The OTLP receiver.
    pub otlp: OtlpReceiver,
}

/// The smallest flow-control window of a connection, bytes.
pub const MIN_WINDOW: u64 = 16 << 10;

/// `receivers.otlp`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtlpReceiver {
    /// gRPC and HTTP.
    pub protocols: Protocols,
    /// The largest request, after decompression.
    #[serde(default = "default_max_request")]
    pub max_request_bytes: ByteSize,
    /// When a request is answered.
    #[serde(default)]
    pub acknowledge: Acknowledge,
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
    /// TLS, and with `client_ca_file` mutual TLS.
    pub tls: Option<ListenerTls>,
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

/// `processors`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Processors {
    /// The memory limiter.
    pub memory_limiter: LimiterConfig,
    /// The batch processor.
    pub batch: BatchConfig,
}

/// `processors.memory_limiter`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimiterConfig {
    /// How often resident memory is looked at.
    pub check_interval: Span,
    /// Above it everything is refused.
    pub limit: ByteSize,
    /// Above `limit − spike_limit` new requests are refused.
    pub spike_limit: ByteSize,
    /// New requests are refused while resident memory grows faster than this a second; 0: off.
    pub max_growth_per_second: ByteSize,
    /// Request bodies held at once.
    pub max_in_flight: ByteSize,
}

impl Default for LimiterConfig {
    fn default() -> Self {
        Self {
            check_interval: Span::millis(20),
            limit: ByteSize::mib(64),
            spike_limit: ByteSize::mib(16),
            max_growth_per_second: ByteSize(0),
            max_in_flight: ByteSize::mib(16),
        }
    }
}

/// `processors.batch`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchConfig {
    /// Items that seal a segment.
    pub send_batch_size: u64,
    /// Raw OTLP bytes that seal a segment.
    pub send_batch_bytes: ByteSize,
    /// The age that seals a segment, in contact or with a direct exporter.
    pub timeout: Span,
    /// Journal bytes that may wait out of contact before they are sealed.
    pub max_hold_back: ByteSize,
    /// What waits is sealed this long before AOS.
    pub seal_before_contact: Span,
    /// Sealing may lag behind a burst by this many journal bytes.
    pub defer_sealing: ByteSize,
    /// The part of one processor core that sealing bulk may have.
    pub sealing_cpu: Percent,
    /// How segments are encoded.
    pub codec: Codec,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            send_batch_size: 65_536,
            send_batch_bytes: ByteSize::mib(4),
            timeout: Span::secs(1),
            max_hold_back: ByteSize::mib(8),
            seal_before_contact: Span::secs(5),
            defer_sealing: ByteSize(0),
            sealing_cpu: Percent(1.0),
            codec: Codec::default(),
        }
    }
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
    const KINDS: &'static [&'static str] = &["link", "debug", "otlp", "otlphttp", "file"];
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
    /// A commit may wait this long for more requests.
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
    /// Stations by id.
    pub stations: BTreeMap<String, StationConfig>,
}

/// A ground station.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StationConfig {
    /// `HOST:PORT`, UDP.
    pub address: String,
}

/// `extensions`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Extensions {
    /// The health endpoint.
    pub health_check: Option<HttpConfig>,
    /// The control socket.
    pub control: Option<ControlConfig>,
}

/// `service`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// One for each signal.
    pub pipelines: Pipelines,
    /// The agent's own metrics and logs.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

/// `service.pipelines`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipelines {
    /// Spans.
    pub traces: Pipeline,
    /// Metric points.
    pub metrics: Pipeline,
    /// Log records.
    pub logs: Pipeline,
}

impl Pipelines {
    /// The pipeline of `signal`.
    pub const fn get(&self, signal: Signal) -> &Pipeline {
        match signal {
            Signal::Traces => &self.traces,
            Signal::Metrics => &self.metrics,
            Signal::Logs => &self.logs,
        }
    }
}

/// The way of one signal.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// `otlp`.
    pub receivers: Vec<String>,
    /// `memory_limiter` and `batch`, which are always there; naming them is allowed, as in the Collector.
    #[serde(default)]
    pub processors: Vec<String>,
    /// Names from `exporters`.
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

impl Config {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let config: Self = config::load(path, |name| std::env::var(name).ok())?;
        config.validate().map_err(|Invalid { key, message }| ConfigError::Invalid {
            path: path.display().to_string(),
            key,
            message,
        })?;
        Ok(config)
    }

    /// The signals that the exporter called `name` gets.
    pub fn signals_of(&self, name: &str) -> SignalSet {
        let uses = |s: &Signal| self.service.pipelines.get(*s).exporters.iter().any(|e| e == name);
        Signal::ALL.into_iter().filter(uses).fold(SignalSet::default(), SignalSet::with)
    }

    /// Exporters that a pipeline uses, with their signals.
    pub fn consumers(&self) -> BTreeMap<String, SignalSet> {
        let all = self.exporters.iter().map(|(name, _)| (name.to_owned(), self.signals_of(name)));
        all.filter(|(_, signals)| !signals.is_empty()).collect()
    }

    /// Whether the keys make sense together.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.validate_receiver()?;
        self.validate_processors()?;
        self.validate_pipelines()?;
        self.validate_link()?;
        self.lanes.lanes()?;
        for (key, http) in [
            ("extensions.health_check", self.extensions.health_check.as_ref()),
            ("service.telemetry.metrics", self.service.telemetry.metrics.as_ref()),
        ] {
            if let Some(http) = http {
                http.validate(key)?;
            }
        }
        if self.storage.max_bytes < ByteSize::mib(1) {
            return Err(Invalid::new("storage.max_bytes", "must be at least 1MiB"));
        }
        if self.storage.commit_interval > Span::secs(1) {
            return Err(Invalid::new("storage.commit_interval", "must not be above 1s: senders wait for it"));
        }
        Ok(())
    }

    fn validate_receiver(&self) -> Result<(), Invalid> {
        let otlp = &self.receivers.otlp;
        let protocols = &otlp.protocols;
        if protocols.grpc.is_none() && protocols.http.is_none() {
            return Err(Invalid::new("receivers.otlp.protocols", "has neither grpc nor http; configure one"));
        }
        for (name, listener) in [("grpc", protocols.grpc.as_ref()), ("http", protocols.http.as_ref())] {
            let Some(listener) = listener else { continue };
            let key = format!("receivers.otlp.protocols.{name}");
            validate_endpoint(
                &format!("{key}.endpoint"),
                &listener.endpoint,
                listener.insecure || listener.tls.is_some(),
                "configure tls",
            )?;
            for (name, span) in
                [("header_timeout", listener.header_timeout), ("idle_timeout", listener.idle_timeout)]
            {
                if span < Span::secs(1) {
                    return Err(Invalid::new(format!("{key}.{name}"), "must be at least 1s"));
                }
            }
            let most = self.processors.memory_limiter.limit.0 / 8 / MIN_WINDOW;
            if !(1..=most).contains(&(listener.max_connections as u64)) {
                let message = format!(
                    "must be from 1 to {most}, so that their buffers fit in an eighth of the memory limit"
                );
                return Err(Invalid::new(format!("{key}.max_connections"), message));
            }
        }
        let max = otlp.max_request_bytes;
        if max > self.processors.memory_limiter.max_in_flight {
            return Err(Invalid::new(
                "receivers.otlp.max_request_bytes",
                "must not be above processors.memory_limiter.max_in_flight, or the largest request could never be taken",
            ));
        }
        if !(ByteSize::kib(1)..=ByteSize::mib(32)).contains(&max) {
            return Err(Invalid::new("receivers.otlp.max_request_bytes", "must be from 1KiB to 32MiB"));
        }
        Ok(())
    }

    fn validate_processors(&self) -> Result<(), Invalid> {
        let limiter = &self.processors.memory_limiter;
        if limiter.spike_limit >= limiter.limit {
            return Err(Invalid::new("processors.memory_limiter.spike_limit", "must be below limit"));
        }
        if limiter.max_in_flight > limiter.limit {
            return Err(Invalid::new("processors.memory_limiter.max_in_flight", "must not be above limit"));
        }
        if limiter.check_interval < Span::millis(10) {
            return Err(Invalid::new("processors.memory_limiter.check_interval", "must be at least 10ms"));
        }
        let batch = &self.processors.batch;
        if !(ByteSize::kib(16)..=ByteSize::mib(32)).contains(&batch.send_batch_bytes) {
            return Err(Invalid::new("processors.batch.send_batch_bytes", "must be from 16KiB to 32MiB"));
        }
        if batch.send_batch_size == 0 {
            return Err(Invalid::new("processors.batch.send_batch_size", "must be above 0"));
        }
        if batch.timeout < Span::millis(10) {
            return Err(Invalid::new("processors.batch.timeout", "must be at least 10ms"));
        }
        if batch.sealing_cpu < Percent(0.01) {
            return Err(Invalid::new("processors.batch.sealing_cpu", "must be at least 1%"));
        }
        Ok(())
    }

    fn validate_pipelines(&self) -> Result<(), Invalid> {
        for signal in Signal::ALL {
            let key = |part: &str| format!("service.pipelines.{signal}.{part}");
            let pipeline = self.service.pipelines.get(signal);
            if pipeline.receivers != ["otlp"] {
                return Err(Invalid::new(key("receivers"), "must be [otlp], the only receiver there is"));
            }
            let known = ["memory_limiter", "batch"];
            if let Some(other) = pipeline.processors.iter().find(|p| !known.contains(&p.as_str())) {
                let message = format!("unknown processor `{other}` (known: memory_limiter, batch)");
                return Err(Invalid::new(key("processors"), message));
            }
            if pipeline.exporters.is_empty() {
                return Err(Invalid::new(key("exporters"), "is empty; name at least one exporter"));
            }
            for name in &pipeline.exporters {
                if self.exporters.get(name).is_none() {
                    return Err(self.exporters.unknown(key("exporters"), name));
                }
            }
        }
        for (name, exporter) in self.exporters.iter() {
            if matches!(exporter, ExporterConfig::Link) && name != LINK {
                return Err(Invalid::new(format!("exporters.{name}"), "there is one link; call it `link`"));
            }
            if let ExporterConfig::Direct(direct) = exporter {
                direct.validate(&format!("exporters.{name}"))?;
            }
        }
        Ok(())
    }

    fn validate_link(&self) -> Result<(), Invalid> {
        if self.signals_of(LINK).is_empty() {
            return Ok(());
        }
        let Some(link) = &self.link else {
            return Err(Invalid::new("link", "is missing; the exporter `link` needs it"));
        };
        if link.stations.is_empty() {
            return Err(Invalid::new("link.stations", "is empty; name at least one station"));
        }
        for (id, station) in &link.stations {
            let key = format!("link.stations.{id}");
            if !is_valid_id(id) {
                return Err(Invalid::new(key, "a station's id is 1 to 63 of a-z, 0-9 and -"));
            }
            if !matches!(Endpoint::parse(&station.address), Ok(Endpoint::Tcp(_))) {
                return Err(Invalid::new(format!("{key}.address"), "must be HOST:PORT"));
            }
        }
        self.contacts.validate(|id| link.stations.contains_key(id))
    }
}
