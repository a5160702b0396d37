//! Where the ground sends what it has: Jaeger and Prometheus when they answer, else files.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use http::{Method, StatusCode};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
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

/// Log records in a file of the ground's `file` exporter; 0 when there is none yet.
pub(crate) fn count_logs(path: &Path) -> anyhow::Result<u64> {
    let file = match std::fs::File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        other => other.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let mut records = 0;
    for line in std::io::BufReader::new(file).lines() {
        let request: ExportLogsServiceRequest =
            serde_json::from_str(&line?).with_context(|| format!("{} is not OTLP JSON", path.display()))?;
        let scopes = request.resource_logs.iter().flat_map(|r| &r.scope_logs);
        records += scopes.map(|s| s.log_records.len() as u64).sum::<u64>();
    }
    Ok(records)
}
