//! Where the ground sends what it has: spans to Jaeger and data points to Prometheus when they answer, else to files; log records to
//! a backend of the demo's own, which can fail.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use http::{Method, StatusCode};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Body;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_sdk::trace::SpanExporter as _;
use perigee_shared::signal::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::options::Options;
use crate::services::web::Client;

/// How long a backend may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two questions.
const AGAIN: Duration = Duration::from_millis(500);

/// What answers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Backends {
    jaeger: Option<String>,
    prometheus: Option<String>,
    /// Where log records go.
    pub(crate) logs: String,
    /// What the user should know about one that does not.
    pub(crate) notes: Vec<String>,
}

impl Backends {
    /// Asks both until they answer, for as long as the options allow or until `stop`.
    pub(crate) async fn find(options: &Options, stop: &CancellationToken) -> Self {
        let deadline = Instant::now() + options.wait;
        loop {
            let found = Self::ask(&options.jaeger, &options.prometheus).await;
            if found.notes.is_empty() || stop.is_cancelled() || Instant::now() >= deadline {
                return found;
            }
            sleep(AGAIN).await;
        }
    }

    async fn ask(jaeger: &str, prometheus: &str) -> Self {
        let mut found = Self::default();
        match takes_spans(jaeger).await {
            true => found.jaeger = Some(jaeger.to_owned()),
            false => found.notes.push(format!("no Jaeger answers on {jaeger}")),
        }
        match takes_points(prometheus).await {
            Ok(()) => found.prometheus = Some(format!("{prometheus}/api/v1/otlp")),
            Err(note) => found.notes.push(note),
        }
        found
    }

    /// The name and settings of the ground's exporter for `signal`.
    pub(crate) fn exporter(&self, signal: Signal, dir: &Path) -> (String, Value) {
        // A demo should not wait long for a backend that comes back.
        let retry = json!({"initial_interval": "500ms", "max_interval": "2s"});
        match (signal, &self.jaeger, &self.prometheus) {
            (Signal::Traces, Some(url), _) => {
                ("otlp/jaeger".into(), json!({"endpoint": url, "retry_on_failure": retry}))
            }
            (Signal::Metrics, _, Some(url)) => {
                ("otlphttp/prometheus".into(), json!({"endpoint": url, "retry_on_failure": retry}))
            }
            (Signal::Logs, ..) => (
                "otlphttp/logs".into(),
                json!({"endpoint": self.logs, "encoding": "json", "compression": "none", "retry_on_failure": retry}),
            ),
            _ => (format!("file/{signal}"), json!({"path": Self::file(signal, dir)})),
        }
    }

    /// The file of `signal`, if it goes to one.
    pub(crate) fn file(signal: Signal, dir: &Path) -> PathBuf {
        dir.join(format!("{signal}.jsonl"))
    }

    /// Where `signal` goes, for people.
    pub(crate) fn destination(&self, signal: Signal, dir: &Path) -> String {
        match (signal, &self.jaeger, &self.prometheus) {
            (Signal::Traces, Some(url), _) => format!("Jaeger at {url}"),
            (Signal::Metrics, _, Some(url)) => format!("Prometheus at {url}"),
            _ => Self::file(signal, dir).display().to_string(),
        }
    }

    /// How to look at what was delivered: a line for each signal but logs.
    pub(crate) fn queries(&self, dir: &Path) -> String {
        let traces = match &self.jaeger {
            Some(_) => "http://localhost:16686/search?service=front-end-a".to_owned(),
            None => format!("head -1 {}", Self::file(Signal::Traces, dir).display()),
        };
        let (points, host) = match &self.prometheus {
            Some(url) => {
                let query = format!("{}/query?g0.expr=", url.trim_end_matches("/api/v1/otlp"));
                (format!("{query}bus_attitude"), format!("{query}system_memory_usage_bytes"))
            }
            None => {
                let file = Self::file(Signal::Metrics, dir);
                (
                    format!("head -1 {}", file.display()),
                    format!("grep -m1 system.memory.usage {}", file.display()),
                )
            }
        };
        format!("traces   {traces}\npoints   {points}\nhost     {host}\n")
    }
}

/// Whether an empty OTLP request is answered with success.
async fn takes_spans(url: &str) -> bool {
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(url).with_timeout(PATIENCE).build();
    let Ok(exporter) = exporter else { return false };
    matches!(timeout(PATIENCE, exporter.export(Vec::new())).await, Ok(Ok(())))
}

/// Whether Prometheus is there and receives OTLP; else what to tell the user.
async fn takes_points(url: &str) -> Result<(), String> {
    let client = Client::new();
    let answer = |method, path: &str| {
        let (client, url) = (client.clone(), format!("{url}{path}"));
        async move { timeout(PATIENCE, client.send(method, &url)).await.ok()?.ok() }
    };
    if answer(Method::GET, "/api/v1/status/buildinfo").await != Some(StatusCode::OK) {
        return Err(format!("no Prometheus answers on {url}"));
    }
    match answer(Method::POST, "/api/v1/otlp/v1/metrics").await {
        Some(status) if status.is_success() => Ok(()),
        _ => Err(format!("Prometheus on {url} takes no OTLP: start it with --web.enable-otlp-receiver")),
    }
}

/// Timestamps of the log records of a file of OTLP JSON whose body is `text`, ns since the Unix epoch.
pub(crate) fn log_times(path: &Path, text: &str) -> anyhow::Result<Vec<u64>> {
    let mut times = Vec::new();
    each_record(path, |record| {
        let body = record.body.as_ref().and_then(|body| body.value.as_ref());
        if matches!(body, Some(Body::StringValue(body)) if body == text) {
            times.push(record.time_unix_nano);
        }
    })?;
    Ok(times)
}

/// Log records in a file of OTLP JSON; 0 when there is none yet.
pub(crate) fn count_logs(path: &Path) -> anyhow::Result<u64> {
    let mut records = 0;
    each_record(path, |_| records += 1)?;
    Ok(records)
}

fn each_record(path: &Path, mut found: impl FnMut(&LogRecord)) -> anyhow::Result<()> {
    let file = match std::fs::File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("cannot read {}", path.display()))?,
    };
    for line in std::io::BufReader::new(file).lines() {
        let request: ExportLogsServiceRequest =
            serde_json::from_str(&line?).with_context(|| format!("{} is not OTLP JSON", path.display()))?;
        let scopes = request.resource_logs.iter().flat_map(|r| &r.scope_logs);
        scopes.flat_map(|s| &s.log_records).for_each(&mut found);
    }
    Ok(())
}
