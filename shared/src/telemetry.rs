//! Logs, the text format of metrics, and what a program says of itself as OTLP.

mod alarms;
mod capture;
mod repeats;
mod report;

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, reload};

pub use self::alarms::Alarms;
pub use self::capture::Captured;
pub use self::repeats::Repeats;
pub use self::report::Report;
use crate::config::Invalid;
use crate::serve::HttpConfig;
use crate::units::Span;

/// `service.telemetry`: what a program says of itself.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// The Prometheus endpoint.
    pub metrics: Option<MetricsConfig>,
    /// Logs.
    pub logs: LogsConfig,
    /// The same as OTLP, on the way that all data takes.
    pub otlp: OwnConfig,
}

impl TelemetryConfig {
    /// Where metrics are served.
    pub fn metrics_endpoint(&self) -> Option<HttpConfig> {
        let metrics = self.metrics.as_ref()?;
        Some(HttpConfig { endpoint: metrics.endpoint.clone(), insecure: metrics.insecure })
    }

    /// Whether the counters of the Collector's names are served without `_total`.
    pub fn without_type_suffix(&self) -> bool {
        self.metrics.as_ref().is_some_and(|metrics| metrics.without_type_suffix)
    }
}

/// `service.telemetry.metrics`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsConfig {
    /// `HOST:PORT` or `unix:///PATH`.
    pub endpoint: String,
    /// That it is wanted where other machines reach it.
    #[serde(default)]
    pub insecure: bool,
    /// Counters of the Collector's names (`otelcol_`) are called as its default reader calls them.
    #[serde(default)]
    pub without_type_suffix: bool,
}

/// `service.telemetry.otlp`: metrics, warnings and alarms of the program itself, on the way that all data takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OwnConfig {
    /// Whether there are any.
    pub enabled: bool,
    /// How often metrics are sent.
    pub interval: Span,
    /// The least severity of log records that are sent.
    pub logs: OwnLevel,
}

impl Default for OwnConfig {
    fn default() -> Self {
        Self { enabled: true, interval: Span::secs(300), logs: OwnLevel::Warn }
    }
}

impl OwnConfig {
    /// What cannot be used of it.
    pub fn check(&self, key: &str) -> Option<Invalid> {
        let short = self.interval < Span::secs(1);
        short.then(|| Invalid::new(format!("{key}.interval"), "must be at least 1s"))
    }
}

/// The least severity of own log records that are sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OwnLevel {
    /// None is.
    Off,
    /// Alarms.
    Error,
    /// Warnings too.
    #[default]
    Warn,
}

/// `service.telemetry.logs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogsConfig {
    /// What is logged.
    pub level: Level,
    /// How a line looks.
    pub format: LogFormat,
}

/// The least urgent events that are logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to stderr. `RUST_LOG` (`TARGET=LEVEL`, separated by commas) overrides the configured level. What is to be sent as
/// OTLP is kept, and `alarms` counts, from here on.
pub fn init_logs(config: &TelemetryConfig, alarms: &Alarms) -> Logs {
    let own = config.otlp.enabled.then(|| Captured::new(config.otlp.logs));
    let config = &config.logs;
    let wanted: Option<Targets> = std::env::var("RUST_LOG").ok().and_then(|text| text.parse().ok());
    let is_fixed = wanted.is_some();
    let (filter, handle) = reload::Layer::new(wanted.unwrap_or_else(|| targets(config.level)));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = match config.format {
        LogFormat::Text => lines.with_ansi(ansi).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    // A second call in one process keeps the first, as a program that runs two of us in one process wants it.
    let layers = tracing_subscriber::registry().with(lines.with_filter(filter));
    let _ = layers.with(kept(own.clone())).with(kept(alarms.clone())).try_init();
    Logs { own, filter: (!is_fixed).then_some(handle) }
}

/// A layer that is handed what may be kept or counted. Without a filter it would be handed everything: libraries say some hundred
/// things of each request, which is a twentieth of an agent's CPU time.
fn kept<S, L>(layer: L) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    L: Layer<S>,
{
    layer.with_filter(LevelFilter::INFO)
}

/// Perigee's own crates, as targets of the log.
const OWN: [&str; 4] = ["space_agent", "ground_station", "perigee_shared", "perigee_top"];

/// `debug` is about what Perigee does: one request is dozens of lines of the libraries below it, which `trace` shows. What they say at
/// `trace` themselves is not in the programs.
fn targets(level: Level) -> Targets {
    let all = |level| Targets::new().with_default(level);
    match level {
        Level::Error => all(tracing::Level::ERROR),
        Level::Warn => all(tracing::Level::WARN),
        Level::Info => all(tracing::Level::INFO),
        Level::Debug => all(tracing::Level::INFO).with_targets(OWN.map(|own| (own, tracing::Level::DEBUG))),
        Level::Trace => all(tracing::Level::DEBUG),
    }
}

/// The key of what [`Logs::set_level`] sets.
pub const LOG_LEVEL: &str = "service.telemetry.logs.level";

/// Logging that was started.
pub struct Logs {
    /// What is to be sent as OTLP, if anything is.
    pub own: Option<Captured>,
    /// `None`: `RUST_LOG` says what is logged.
    filter: Option<reload::Handle<Targets, tracing_subscriber::Registry>>,
}

impl Logs {
    /// From here on this level holds.
    pub fn set_level(&self, level: Level) {
        if let Some(filter) = &self.filter {
            // It fails when nothing logs any more.
            let _ = filter.reload(targets(level));
        }
    }
}

/// Registers who this is: `target_info`, as the Collector has it, and `perigee_build_info`. `instance` is which one of them.
pub fn register_identity(registry: &mut Registry, service: &str, instance: Option<&str>) {
    let version = env!("CARGO_PKG_VERSION");
    registry.register("perigee_build", "Version of this program", Info::new([("version", version)]));
    let mut target = vec![("service_name", service.to_owned()), ("service_version", version.to_owned())];
    target.extend(instance.map(|instance| ("service_instance_id", instance.to_owned())));
    registry.register("target", "The program that these metrics describe", Info::new(target));
}

/// What `otelcol_exporter_queue_capacity` is, for its help.
pub const QUEUE_CAPACITY: &str = "Segments of the present mean size that the store would hold";

/// Help of `perigee_store_syncs`.
pub const STORE_SYNCS: &str = "How often a file of the store, or a directory of one, was synced";

/// What `perigee_store_failing` is, for its help.
pub const STORE_FAILING: &str = "1 while the store cannot be written, or is being opened again";

/// What `perigee_exporter_last_success_timestamp_seconds` is, for its help.
pub const EXPORTER_SUCCESS: &str =
    "When the backend took a request last, in seconds since 1970; absent: not since the start";

/// How many segments a store of `max_bytes` would hold if they were as large as those `segments` that take `used_bytes` of it now;
/// without any, as large as a full one.
pub fn queue_capacity(segments: u64, used_bytes: u64, max_bytes: u64) -> u64 {
    const FULL: u64 = 1 << 20;
    let mean = used_bytes.checked_div(segments).unwrap_or(FULL).max(1);
    (max_bytes / mean).max(segments)
}

/// The content type of [`metrics_text`].
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of `registry` in the OpenMetrics text format.
pub fn metrics_text(registry: &Registry) -> String {
    let mut out = String::new();
    match prometheus_client::encoding::text::encode(&mut out, registry) {
        Ok(()) => out,
        Err(std::fmt::Error) => String::from("# EOF\n"),
    }
}

/// The same with the counters of the Collector's names (`otelcol_`) as its default reader calls them: without `_total`. The format wants
/// that ending of a counter, so that their type is not said.
pub fn without_type_suffix(openmetrics: &str) -> String {
    let mut out = String::with_capacity(openmetrics.len());
    for line in openmetrics.split_inclusive('\n') {
        match line.strip_prefix("# TYPE otelcol_").and_then(|line| line.strip_suffix(" counter\n")) {
            Some(name) => out.extend(["# TYPE otelcol_", name, " unknown\n"]),
            None => match line.find([' ', '{']).map(|end| line.split_at(end)) {
                Some((name, rest)) if name.starts_with("otelcol_") => {
                    out.extend([name.strip_suffix("_total").unwrap_or(name), rest]);
                }
                _ => out.push_str(line),
            },
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_the_collectors_names_are_called_as_its_default_reader_calls_them() {
        let mut registry = Registry::default();
        let counter = || prometheus_client::metrics::counter::ConstCounter::new(3u64);
        registry.register("otelcol_receiver_accepted_spans", "Items, in _total", counter());
        registry.register("perigee_link_refused", "Others", counter());
        let text = without_type_suffix(&metrics_text(&registry));
        let expected = "# HELP otelcol_receiver_accepted_spans Items, in _total.\n\
                        # TYPE otelcol_receiver_accepted_spans unknown\n\
                        otelcol_receiver_accepted_spans 3\n\
                        # HELP perigee_link_refused Others.\n\
                        # TYPE perigee_link_refused counter\n\
                        perigee_link_refused_total 3\n\
                        # EOF\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_nobody_keeps_is_not_even_made() {
        use tracing::Subscriber;
        let alarms = Alarms::default();
        let layers =
            tracing_subscriber::registry().with(kept(Some(Captured::new(OwnLevel::Warn)))).with(kept(alarms));
        assert_eq!(layers.max_level_hint(), Some(LevelFilter::INFO));
        tracing::subscriber::with_default(layers, || {
            assert!(tracing::debug_span!(target: "h2", "any").is_disabled());
            assert!(tracing::enabled!(tracing::Level::INFO));
        });
    }

    #[test]
    fn debug_is_about_what_perigee_does_and_trace_about_its_libraries_too() {
        let shows = |level, target: &str, of| targets(level).would_enable(target, of);
        for own in ["space_agent::wal", "ground_station::spool", "perigee_shared::export"] {
            assert!(shows(Level::Debug, own, &tracing::Level::DEBUG), "{own}");
            assert!(!shows(Level::Info, own, &tracing::Level::DEBUG), "{own}");
        }
        for library in ["h2::codec", "tonic", "hyper_util::client", "quinn_proto"] {
            assert!(!shows(Level::Debug, library, &tracing::Level::DEBUG), "{library}");
            assert!(shows(Level::Debug, library, &tracing::Level::INFO), "{library}");
            assert!(shows(Level::Trace, library, &tracing::Level::DEBUG), "{library}");
        }
    }

    #[test]
    fn a_queue_is_as_full_as_the_store() {
        assert_eq!(queue_capacity(10, 1000, 4000), 40);
        assert_eq!(queue_capacity(0, 0, 8 << 20), 8, "nothing there yet");
        assert_eq!(queue_capacity(0, 5, 8 << 20), 8);
        assert_eq!(queue_capacity(10, 5000, 4000), 10, "never less than what is there");
    }
}
