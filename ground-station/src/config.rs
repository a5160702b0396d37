//! The configuration file: what may be written, its defaults, and whether it makes sense.

mod outside;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use perigee_shared::config::collector::{self, Program};
use perigee_shared::config::reload::{InForce, Reread};
use perigee_shared::config::{Component, Components, ConfigError, ConfigFile, Invalid, Outside, Problem};
use perigee_shared::export::auth::Authenticator;
use perigee_shared::export::{ExporterConfig, Secret, TlsConfig};
use perigee_shared::link::tls;
use perigee_shared::serve::{ControlConfig, HttpConfig, check_apart};
use perigee_shared::signal::{Signal, SignalSet};
use perigee_shared::telemetry::TelemetryConfig;
use perigee_shared::units::{ByteSize, Span};
use serde::Deserialize;
use serde::de::MapAccess;

use crate::console::ConsoleConfig;
use crate::spool::Keep;
use crate::spool::postgres::{FleetSettings, Replication};

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who may connect and how.
    pub link: LinkConfig,
    /// Backends.
    pub exporters: Components<ExporterConfig>,
    /// The spool.
    pub storage: StorageConfig,
    /// How much memory may be used.
    #[serde(default)]
    pub memory: MemoryConfig,
    /// Whether `satellite.id` and `ground.station.id` are added to every resource.
    #[serde(default = "yes")]
    pub resource_attributes: bool,
    /// Whether `perigee.segment`, a segment's epoch/lane/sequence, is added too.
    #[serde(default)]
    pub segment_attribute: bool,
    /// Whether `perigee.delivery` is added: whether an item waited on board for a contact.
    #[serde(default)]
    pub delivery_attribute: bool,
    /// Listeners for people and machines.
    #[serde(default)]
    pub extensions: Extensions,
    /// What goes where, and what the program says of itself.
    pub service: Service,
    /// What its writer should know.
    #[serde(skip)]
    pub warnings: Vec<Problem>,
    /// The settings as they are written.
    #[serde(skip)]
    pub written: InForce,
}

fn yes() -> bool {
    true
}

/// `memory`
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// Resident memory without the pages of the program file.
    pub limit: ByteSize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { limit: ByteSize::mib(256) }
    }
}

/// `link`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    /// This station's id, as in its certificate.
    pub station: String,
    /// UDP addresses; they share one ledger.
    pub listen: Vec<String>,
    /// This station's certificate, PEM.
    pub certificate_file: PathBuf,
    /// Its private key, PEM.
    pub private_key_file: PathBuf,
    /// The satellites' authority, PEM; two during a change of authority.
    pub satellite_ca_file: PathBuf,
    /// Revoked satellite certificates, PEM; reloaded when it changes.
    pub satellite_crl_file: Option<PathBuf>,
    /// Partial segments are synced after so many bytes.
    #[serde(default = "default_sync_bytes")]
    pub partial_sync_bytes: ByteSize,
    /// Or after so much time.
    #[serde(default = "default_sync_interval")]
    pub partial_sync_interval: Span,
    /// What one connection may have sent that was not read yet.
    #[serde(default = "default_window")]
    pub receive_window: ByteSize,
    /// Connections at once, of all satellites.
    #[serde(default = "default_connections")]
    pub max_connections: usize,
    /// Above so many unfinished handshakes a peer must prove its address first.
    #[serde(default = "default_retry_above")]
    pub retry_above: usize,
    /// How long a handshake may take; the Moon is 2.6 s away and back.
    #[serde(default = "default_handshake")]
    pub handshake_timeout: Span,
    /// Who may connect.
    #[serde(default)]
    pub satellites: BTreeMap<String, Option<SatelliteConfig>>,
}

/// Who may connect, by id, with bounds.
pub type Satellites = BTreeMap<String, Option<SatelliteConfig>>;

fn default_sync_bytes() -> ByteSize {
    ByteSize::mib(2)
}

fn default_sync_interval() -> Span {
    Span::secs(1)
}

fn default_window() -> ByteSize {
    ByteSize::mib(16)
}

fn default_connections() -> usize {
    16
}

fn default_retry_above() -> usize {
    8
}

fn default_handshake() -> Span {
    Span::secs(15)
}

/// Bounds of one satellite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SatelliteConfig {
    /// Of segments that are not whole yet.
    pub max_partial_bytes: ByteSize,
    /// Of the spool; above it its link stops reading. 0: only the spool's own bound.
    pub max_spool_bytes: ByteSize,
    /// How many times the bounds of a ledger it may use.
    pub ledger_room: u32,
}

impl Default for SatelliteConfig {
    fn default() -> Self {
        Self { max_partial_bytes: ByteSize::mib(64), max_spool_bytes: ByteSize(0), ledger_room: 1 }
    }
}

/// `storage`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// What keeps ledger and spool.
    #[serde(default)]
    pub kind: StorageKind,
    /// Where the spool's file is.
    pub directory: PathBuf,
    /// With `kind: postgres`: the servers, as `host`, `host:port` or the directory of a socket.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// The database.
    #[serde(default)]
    pub database: String,
    /// The role.
    #[serde(default)]
    pub user: String,
    /// Its password.
    pub password: Option<Secret>,
    /// Or the file that has it.
    pub password_file: Option<PathBuf>,
    /// Of connections to the servers.
    pub tls: Option<TlsConfig>,
    /// What a server must do before the ledger trusts it.
    #[serde(default)]
    pub replication: Replication,
    /// Connections at once.
    #[serde(default = "default_pool")]
    pub connections: usize,
    /// After so long a worker that exports and says nothing is replaced.
    #[serde(default = "default_lease")]
    pub lease: Span,
    /// Of segments, partials and dead letters; keep it well below the volume.
    #[serde(default = "default_max_bytes")]
    pub max_bytes: ByteSize,
    /// Given back when the disk is full, so that deletes get through.
    #[serde(default = "default_ballast")]
    pub ballast: ByteSize,
    /// Memory for segments that later ones need, kept decoded. Our agents' take up to 8 MiB each.
    #[serde(default = "default_decoded_bases")]
    pub decoded_bases: ByteSize,
    /// Reading everything again now and then, so that damage is found early.
    #[serde(default)]
    pub scrub: ScrubConfig,
    /// What is remembered of every segment that was committed.
    #[serde(default)]
    pub catalogue: CatalogueConfig,
    /// What stays after it was exported, to be sent again.
    #[serde(default)]
    pub keep: KeepConfig,
}

/// `storage.keep`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeepConfig {
    /// For how long; 0: nothing stays.
    pub age: Span,
    /// How much of it, at most; the oldest goes first.
    pub bytes: ByteSize,
}

impl Default for KeepConfig {
    fn default() -> Self {
        Self { age: Span::secs(0), bytes: ByteSize(0) }
    }
}

impl KeepConfig {
    /// The same for the spool.
    pub fn keep(&self) -> Keep {
        Keep { nano: u64::try_from(self.age.0.as_nanos()).unwrap_or(u64::MAX), bytes: self.bytes.0 }
    }

    fn problems(&self, catalogue: CatalogueConfig) -> Option<Invalid> {
        let (age, bytes) = (self.age.0, self.bytes.0);
        let (key, message) = if age.is_zero() && bytes > 0 {
            ("age", "needs a time beside bytes, as in 30d; without both nothing is kept")
        } else if !age.is_zero() && bytes == 0 {
            ("bytes", "needs a size beside age, as in 100GiB; without both nothing is kept")
        } else if age > catalogue.keep.0 || !age.is_zero() && catalogue.max_bytes.0 == 0 {
            ("age", "must not be longer than storage.catalogue.keep, which finds what is kept")
        } else {
            return None;
        };
        Some(Invalid::new(format!("storage.keep.{key}"), message))
    }
}

/// `storage.catalogue`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CatalogueConfig {
    /// For how long; 0: nothing is remembered.
    pub keep: Span,
    /// What all of it may take; the oldest goes first. About 190 bytes a segment.
    pub max_bytes: ByteSize,
}

impl Default for CatalogueConfig {
    fn default() -> Self {
        Self { keep: Span::secs(90 * 86_400), max_bytes: ByteSize::mib(64) }
    }
}

impl CatalogueConfig {
    /// The same for the spool.
    pub fn keep(&self) -> Keep {
        Keep { nano: u64::try_from(self.keep.0.as_nanos()).unwrap_or(u64::MAX), bytes: self.max_bytes.0 }
    }
}

/// `storage.kind`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageKind {
    /// A file of this station alone.
    #[default]
    Redb,
    /// PostgreSQL, which several stations share.
    Postgres,
}

impl StorageConfig {
    /// How the shared ledger is reached, if there is one.
    pub fn fleet(&self) -> Option<FleetSettings> {
        (self.kind == StorageKind::Postgres).then(|| FleetSettings {
            hosts: self.hosts.clone(),
            database: self.database.clone(),
            user: self.user.clone(),
            password: self.password.clone(),
            password_file: self.password_file.clone(),
            tls: self.tls.clone(),
            replication: self.replication,
            connections: self.connections,
            lease: self.lease.0,
        })
    }

    fn problems(&self) -> Vec<Invalid> {
        if let Some(fleet) = self.fleet() {
            return fleet.problems("storage");
        }
        let written = [
            ("hosts", !self.hosts.is_empty()),
            ("database", !self.database.is_empty()),
            ("user", !self.user.is_empty()),
            ("password", self.password.is_some()),
            ("password_file", self.password_file.is_some()),
            ("tls", self.tls.is_some()),
        ];
        let only = |(name, _)| Invalid::new(format!("storage.{name}"), "needs kind: postgres beside it");
        written.into_iter().filter(|(_, is)| *is).map(only).collect()
    }
}

fn default_pool() -> usize {
    8
}

fn default_lease() -> Span {
    Span::secs(15)
}

/// `storage.scrub`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScrubConfig {
    /// From the beginning of a round to that of the next; 0: never.
    pub interval: Span,
    /// What is read a second, at most.
    pub rate: ByteSize,
}

impl Default for ScrubConfig {
    fn default() -> Self {
        Self { interval: Span::secs(86_400), rate: ByteSize::mib(4) }
    }
}

fn default_max_bytes() -> ByteSize {
    ByteSize(10 << 30)
}

fn default_ballast() -> ByteSize {
    ByteSize::mib(8)
}

fn default_decoded_bases() -> ByteSize {
    ByteSize::mib(64)
}

/// `extensions`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(from = "Components<Extension>")]
pub struct Extensions {
    /// `GET /` answers 200 while the program works.
    pub health_check: Option<HttpConfig>,
    /// JSON for people and tools.
    pub api: Option<HttpConfig>,
    /// Pages in the browser.
    pub console: Option<ConsoleConfig>,
    /// For the commands of this program.
    pub control: Option<ControlConfig>,
    /// What exporters name in `auth`.
    pub authenticators: BTreeMap<String, Authenticator>,
}

#[derive(Debug, Clone)]
enum Extension {
    HealthCheck(HttpConfig),
    Api(HttpConfig),
    Console(ConsoleConfig),
    Control(ControlConfig),
    Authenticator(Authenticator),
}

impl Component for Extension {
    const KINDS: &'static [&'static str] =
        &["health_check", "api", "console", "control", "bearertokenauth", "basicauth"];
    const NOUN: &'static str = "extension";

    fn deserialize_kind<'de, A: MapAccess<'de>>(kind: &str, map: &mut A) -> Result<Self, A::Error> {
        Ok(match kind {
            "health_check" => Self::HealthCheck(map.next_value()?),
            "api" => Self::Api(map.next_value()?),
            "console" => Self::Console(map.next_value()?),
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
                Extension::Api(http) => out.api = Some(http),
                Extension::Console(console) => out.console = Some(console),
                Extension::Control(control) => out.control = Some(control),
                Extension::Authenticator(authenticator) => {
                    out.authenticators.insert(name, authenticator);
                }
            }
        }
        out
    }
}

/// `service`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Exporters by signal.
    pub pipelines: Pipelines,
    /// What the program says of itself.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

/// `service.pipelines`: each signal needs one.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipelines {
    /// Spans.
    pub traces: Pipeline,
    /// Data points.
    pub metrics: Pipeline,
    /// Log records.
    pub logs: Pipeline,
}

/// One signal's way out.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// Names from `exporters`.
    pub exporters: Vec<String>,
}

impl Pipelines {
    /// The pipeline of `signal`.
    pub fn of(&self, signal: Signal) -> &Pipeline {
        match signal {
            Signal::Traces => &self.traces,
            Signal::Metrics => &self.metrics,
            Signal::Logs => &self.logs,
        }
    }

    /// The exporters that are used, in the order of their names, with their signals.
    pub fn routes(&self) -> BTreeMap<String, SignalSet> {
        let mut out = BTreeMap::<String, SignalSet>::new();
        for signal in Signal::ALL {
            for name in &self.of(signal).exporters {
                let set = out.entry(name.clone()).or_default();
                *set = set.with(signal);
            }
        }
        out
    }
}

impl Reread for Config {
    fn written(&self) -> &InForce {
        &self.written
    }

    fn warnings(&self) -> &[Problem] {
        &self.warnings
    }
}

impl Config {
    /// Reads and checks the file at `path`; nothing is bound.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::read_with(ConfigFile::open(path, &|name| std::env::var(name).ok())?, |_| Outside::default())
    }

    /// Checks a file whose text is read, with what `look` finds of what it names.
    fn read_with(mut file: ConfigFile, look: impl FnOnce(&Self) -> Outside) -> Result<Self, ConfigError> {
        collector::translate(&mut file, Program::Ground);
        let mut config: Option<Self> = file.read(|section| collector::keys(Program::Ground, section));
        if let Some(config) = &mut config {
            let wrong = config.problems().into_iter().chain(config.authorize());
            for problem in wrong.collect::<Vec<_>>() {
                file.complain(problem);
            }
            file.note_outside(look(config));
            config.warnings.clone_from(&file.warnings);
            config.written = InForce::new(file.tree.settings());
        }
        file.finish(config)
    }

    /// Checks that the settings make sense together; the first that does not.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.problems().into_iter().chain(self.references()).next().map_or(Ok(()), Err)
    }

    /// Gives exporters the headers that their authenticators say; one that no pipeline uses sends nothing and needs none.
    fn authorize(&mut self) -> Vec<Invalid> {
        let used = self.service.pipelines.routes();
        let (authenticators, mut wrong) = (&self.extensions.authenticators, Vec::new());
        for (name, exporter) in self.exporters.0.iter_mut().filter(|(name, _)| used.contains_key(*name)) {
            wrong.extend(exporter.authorize_from(name, authenticators).err());
        }
        wrong
    }

    /// Everything that is wrong with the settings together, but for names that nothing has.
    fn problems(&self) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        self.check_link(&mut wrong);
        self.check_pipelines(&mut wrong);
        if self.storage.max_bytes < ByteSize::mib(1) {
            wrong.push(Invalid::new("storage.max_bytes", "must be at least 1MiB; the default is 10GiB"));
        }
        wrong.extend(self.storage.problems());
        wrong.extend(self.storage.keep.problems(self.storage.catalogue));
        if self.storage.scrub.rate.0 == 0 {
            let message = "must be more than 0; for no scrub set storage.scrub.interval to 0";
            wrong.push(Invalid::new("storage.scrub.rate", message));
        }
        wrong.extend(self.service.telemetry.otlp.check("service.telemetry.otlp"));
        for (key, listener) in [
            ("extensions.health_check", &self.extensions.health_check),
            ("extensions.api", &self.extensions.api),
            ("service.telemetry.metrics", &self.service.telemetry.metrics_endpoint()),
        ] {
            wrong.extend(listener.as_ref().and_then(|listener| listener.validate(key).err()));
        }
        let console = self.extensions.console.as_ref();
        let endpoints = [
            ("extensions.health_check", self.extensions.health_check.as_ref().map(|http| &*http.endpoint)),
            ("extensions.api", self.extensions.api.as_ref().map(|http| &*http.endpoint)),
            ("extensions.console", console.map(|console| &*console.endpoint)),
            ("service.telemetry.metrics", self.service.telemetry.metrics.as_ref().map(|m| &*m.endpoint)),
        ];
        let listeners = endpoints.into_iter().filter_map(|(section, at)| Some((section.to_owned(), at?)));
        wrong.extend(check_apart(&listeners.collect::<Vec<_>>()));
        wrong.extend(console.into_iter().flat_map(|console| console.validate("extensions.console")));
        wrong
    }

    fn check_link(&self, wrong: &mut Vec<Invalid>) {
        let link = &self.link;
        const ID: &str = "must be 1 to 63 of a-z, 0-9 and -, as in the certificate";
        if !tls::is_valid_id(&link.station) {
            wrong.push(Invalid::new("link.station", ID));
        }
        if link.listen.is_empty() {
            let message = "needs at least one UDP address, for example 0.0.0.0:4433";
            wrong.push(Invalid::new("link.listen", message));
        }
        if let Some(address) = link.listen.iter().find(|a| a.parse::<SocketAddr>().is_err()) {
            let message = format!("`{address}` is not an address; write IP:PORT, for example 0.0.0.0:4433");
            wrong.push(Invalid::new("link.listen", message));
        }
        for (id, satellite) in &link.satellites {
            let key = format!("link.satellites.{id}");
            if !tls::is_valid_id(id) {
                wrong.push(Invalid::new(&key, ID));
            }
            if satellite.unwrap_or_default().max_partial_bytes.0 < perigee_shared::segment::MAX_PAYLOAD {
                let message = "must hold the largest segment, 64MiB";
                wrong.push(Invalid::new(format!("{key}.max_partial_bytes"), message));
            }
            if !(1..=64).contains(&satellite.unwrap_or_default().ledger_room) {
                wrong.push(Invalid::new(format!("{key}.ledger_room"), "must be between 1 and 64"));
            }
        }
        let millis = |span: Span| u64::try_from(span.0.as_millis()).unwrap_or(0);
        if self.memory.limit < ByteSize::mib(64) {
            wrong.push(Invalid::new("memory.limit", "must be at least 64MiB"));
        }
        for (name, value, least, shown) in [
            ("partial_sync_bytes", link.partial_sync_bytes.0, 64 << 10, "64KiB"),
            ("partial_sync_interval", millis(link.partial_sync_interval), 10, "10ms"),
            ("receive_window", link.receive_window.0, 64 << 10, "64KiB"),
            ("max_connections", link.max_connections as u64, 1, "1"),
            ("handshake_timeout", millis(link.handshake_timeout), 1000, "1s"),
        ] {
            if value < least {
                wrong.push(Invalid::new(format!("link.{name}"), format!("must be at least {shown}")));
            }
        }
    }

    fn check_pipelines(&self, wrong: &mut Vec<Invalid>) {
        for signal in Signal::ALL {
            if self.service.pipelines.of(signal).exporters.is_empty() {
                let message = "needs at least one exporter, or its items would never leave the spool";
                wrong.push(Invalid::new(format!("service.pipelines.{signal}.exporters"), message));
            }
        }
        for (name, exporter) in self.exporters.iter() {
            wrong.extend(exporter.problems(&format!("exporters.{name}")));
        }
        for (name, signals) in self.service.pipelines.routes() {
            let exporter = self.exporters.get(&name);
            wrong.extend(
                exporter.and_then(|e| e.validate_signals(&format!("exporters.{name}"), signals).err()),
            );
        }
    }

    /// Names in pipelines that nothing has.
    fn references(&self) -> Vec<Invalid> {
        let unknown = |signal: Signal| {
            let names = &self.service.pipelines.of(signal).exporters;
            let name = names.iter().find(|name| self.exporters.get(name).is_none())?;
            Some(self.exporters.unknown(format!("service.pipelines.{signal}.exporters"), name))
        };
        Signal::ALL.into_iter().filter_map(unknown).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use perigee_shared::config;

    use super::*;

    pub(crate) const EXAMPLE: &str = include_str!("../../deploy/config/ground.yaml");

    pub(crate) fn read(text: &str) -> Result<Config, String> {
        let config: Config = config::parse(text, "c.yaml", |_| None).map_err(|e| e.to_string())?;
        config.validate().map_err(|e| format!("{}: {}", e.key, e.message))?;
        Ok(config)
    }

    #[test]
    fn the_example_configuration_is_right_and_shows_the_defaults() {
        let config = read(EXAMPLE).unwrap();
        assert_eq!(config.link.partial_sync_bytes, default_sync_bytes());
        assert_eq!(config.link.partial_sync_interval, default_sync_interval());
        assert_eq!(config.link.receive_window, default_window());
        assert_eq!(config.link.max_connections, default_connections());
        assert_eq!(config.link.retry_above, default_retry_above());
        assert_eq!(config.link.handshake_timeout, default_handshake());
        assert_eq!(config.link.satellites["sat-1"], Some(SatelliteConfig::default()));
        assert_eq!(config.storage.max_bytes, default_max_bytes());
        assert_eq!(config.storage.ballast, default_ballast());
        assert_eq!(config.storage.scrub, ScrubConfig::default());
        assert_eq!(config.storage.catalogue, CatalogueConfig::default());
        assert_eq!(config.extensions.console.as_ref().unwrap().endpoint, "127.0.0.1:8891");
        assert_eq!(config.service.telemetry.logs, perigee_shared::telemetry::LogsConfig::default());
        let routes = config.service.pipelines.routes();
        assert!(routes["otlp/jaeger"].contains(Signal::Traces));
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_key() {
        for (from, to, expected) in [
            ("station: svalbard", "station: Svalbard", "link.station"),
            ("\"127.0.0.1:4433\"", "\"localhost\"", "link.listen"),
            ("exporters: [file/logs]", "exporters: []", "service.pipelines.logs.exporters"),
            ("exporters: [file/logs]", "exporters: [file/log]", "did you mean `file/logs`"),
            ("endpoint: 127.0.0.1:8890", "endpoint: 0.0.0.0:8890", "extensions.api.endpoint"),
            ("endpoint: 127.0.0.1:8891", "endpoint: 0.0.0.0:8891", "extensions.console.endpoint"),
            ("{endpoint: 127.0.0.1:8889}", "{endpoint: \"[::]:8889\"}", "insecure: true"),
            ("max_bytes: 10GiB", "max_bytes: 10KiB", "storage.max_bytes"),
            (
                "{endpoint: 127.0.0.1:8889}",
                "{endpoint: 127.0.0.1:8890}",
                "extensions.api listens at 127.0.0.1:8890",
            ),
            ("rate: 4MiB", "rate: 0B", "storage.scrub.rate"),
            ("max_partial_bytes: 64MiB", "max_partial_bytes: 1MiB", "link.satellites.sat-1"),
            ("ledger_room: 1", "ledger_room: 0", "link.satellites.sat-1.ledger_room"),
            ("partial_sync_bytes: 2MiB", "partial_sync_bytes: 2B", "link.partial_sync_bytes"),
            ("  station:", "  statoin:", "did you mean `station`"),
        ] {
            assert!(EXAMPLE.contains(from), "{from}");
            let error = read(&EXAMPLE.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(expected), "{to}: {error}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once_also_beside_a_mistyped_key_that_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("g.yaml");
        let text = EXAMPLE
            .replacen("  listen:", "  lisen:", 1)
            .replacen("max_bytes: 10GiB", "max_bytes: 10KiB", 1)
            .replacen("[file/logs]", "[file/log]", 1)
            .replacen("\"http://127.0.0.1:9090/api/v1/otlp\"", "prometheus", 1)
            .replacen("  health_check:", "  helth_check:", 1);
        std::fs::write(&file, text).unwrap();
        let error = Config::load(&file).unwrap_err().to_string();
        let parts = [
            "5 problems",
            "`lisen`",
            "`file/log`",
            "storage.max_bytes",
            "exporters.otlphttp/prometheus",
            "`helth_check`",
        ];
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }

    #[test]
    fn an_exporter_that_no_pipeline_uses_needs_no_authenticator() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("g.yaml");
        let spare = "exporters:\n  otlp/spare: {endpoint: 'x:4317', auth: {authenticator: oauth2client}}\n";
        let text = EXAMPLE.replacen("exporters:\n", spare, 1);
        std::fs::write(&file, &text).unwrap();
        Config::load(&file).unwrap();
        std::fs::write(&file, text.replacen("[file/logs]", "[file/logs, otlp/spare]", 1)).unwrap();
        let error = Config::load(&file).unwrap_err().to_string();
        assert!(error.contains("exporters.otlp/spare.auth.authenticator: `oauth2client`"), "{error}");
    }

    #[test]
    fn a_shared_ledger_is_configured_as_the_example_shows_and_mistakes_are_named() {
        const SHARED: &str = include_str!("../../deploy/fleet/station.yaml");
        let config = read(SHARED).unwrap();
        let fleet = config.storage.fleet().unwrap();
        assert_eq!((fleet.replication, fleet.connections), (Replication::Required, default_pool()));
        assert_eq!(fleet.lease, default_lease().0);
        assert!(read(EXAMPLE).unwrap().storage.fleet().is_none());
        for (from, to, expected) in [
            ("  kind: postgres\n", "", "storage.hosts"),
            ("hosts: [10.0.0.1, 10.0.0.2, 10.0.0.3]", "hosts: []", "storage.hosts"),
            ("10.0.0.2,", "\"10.0.0.2:port\",", "is no host"),
            ("  tls: {ca_file: /etc/perigee/ledger-ca.crt}", "", "storage.tls"),
            ("  database: perigee\n", "", "storage.database"),
            ("connections: 8", "connections: 1", "storage.connections"),
            ("lease: 15s", "lease: 1s", "storage.lease"),
            ("  user: perigee\n", "  user: perigee\n  password: x\n", "keep one of both"),
            ("replication: required", "replication: two", "required"),
        ] {
            assert!(SHARED.contains(from), "{from}");
            let error = read(&SHARED.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(expected), "{to}: {error}");
        }
        let clear = SHARED.replace("{ca_file: /etc/perigee/ledger-ca.crt}", "{insecure: true}");
        read(&clear).unwrap();
    }

    #[test]
    fn an_open_address_is_allowed_when_it_is_wanted() {
        let open = EXAMPLE.replace("{endpoint: 127.0.0.1:8890}", "{endpoint: 0.0.0.0:8890, insecure: true}");
        read(&open).unwrap();
    }
}
