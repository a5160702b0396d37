//! What direct exporters could not send, and what they hold back on board because of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perigee_shared::segment::Lane;
use perigee_shared::signal::Signal;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use serde_json::{Value, json};

use super::ExporterLabel;
use crate::wal::Held;

/// Shares of the store in percent: with each more that an exporter holds back, an alarm is raised.
const ALARMING: [u64; 3] = [50, 75, 90];

/// Characters of a reason that are kept.
const SHOWN: usize = 300;

/// An exporter and a signal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    exporter: Arc<str>,
    signal: &'static str,
}

/// A request that a backend does not decide about.
#[derive(Debug, Clone)]
struct Request {
    since_unix_nano: u64,
    reason: String,
}

/// What one exporter waits for.
#[derive(Debug, Clone, Default)]
struct Waiting {
    requests: BTreeMap<(Lane, Signal), Request>,
    held: Held,
    max_bytes: u64,
    alarmed: u64,
}

impl Waiting {
    fn percent(&self) -> u64 {
        self.held.bytes.saturating_mul(100) / self.max_bytes.max(1)
    }

    /// `metrics of lane 8: HTTP 503 (POST ...)`, one behind the other.
    fn said(&self) -> String {
        let said = |((lane, signal), request): (&(Lane, Signal), &Request)| {
            format!("{signal} of lane {}: {}", lane.0, request.reason)
        };
        self.requests.iter().map(said).collect::<Vec<_>>().join("; ")
    }

    fn shown(&self) -> Value {
        let request = |((lane, signal), request): (&(Lane, Signal), &Request)| {
            json!({
                "lane": lane.0,
                "signal": signal.name(),
                "since_unix_nano": request.since_unix_nano,
                "reason": request.reason,
                "held_bytes": self.held.by_signal[signal.slot()],
            })
        };
        json!({
            "requests": self.requests.iter().map(request).collect::<Vec<_>>(),
            "held_bytes": self.held.bytes,
            "percent": self.percent(),
        })
    }
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Undecided {
    all: Arc<Mutex<BTreeMap<Arc<str>, Waiting>>>,
    requests: Family<ExporterLabel, Gauge>,
    held: Family<Label, Gauge>,
}

impl Undecided {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let undecided = Self::default();
        let requests = "Requests that the backend neither accepts nor refuses, set aside while others go on";
        registry.register("perigee_exporter_aside_requests", requests, undecided.requests.clone());
        registry.register_with_unit(
            "perigee_exporter_held",
            "Segments that wait for this exporter alone, in which something of this signal is left",
            Unit::Bytes,
            undecided.held.clone(),
        );
        undecided
    }

    /// What is counted of the exporter is there from the start.
    pub fn begin(&self, exporter: &ExporterLabel) {
        self.requests.get_or_create(exporter).set(0);
        self.gauges(exporter, Held::default());
    }

    /// A request was put aside at `now`, ns since the Unix epoch.
    pub fn put(&self, exporter: &ExporterLabel, at: (Lane, Signal), now: u64, reason: Option<&str>) {
        let mut all = self.all();
        let waiting = all.entry(Arc::clone(&exporter.exporter)).or_default();
        let fresh = || Request { since_unix_nano: now, reason: "no answer yet".to_owned() };
        let request = waiting.requests.entry(at).or_insert_with(fresh);
        if let Some(reason) = reason {
            request.reason = reason.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
        }
        self.requests.get_or_create(exporter).set(waiting.requests.len() as i64);
    }

    /// Nothing of this is put aside any more.
    pub fn take(&self, exporter: &ExporterLabel, at: (Lane, Signal)) {
        let mut all = self.all();
        let Some(waiting) = all.get_mut(&exporter.exporter) else { return };
        if waiting.requests.remove(&at).is_some() {
            self.requests.get_or_create(exporter).set(waiting.requests.len() as i64);
        }
        if waiting.requests.is_empty() {
            all.remove(&exporter.exporter);
            self.gauges(exporter, Held::default());
        }
    }

    /// What the exporter holds back of a store of `max_bytes`. An alarm is raised in time.
    pub fn hold(&self, exporter: &ExporterLabel, held: Held, max_bytes: u64) {
        let mut all = self.all();
        let Some(waiting) = all.get_mut(&exporter.exporter) else { return };
        (waiting.held, waiting.max_bytes) = (held, max_bytes);
        self.gauges(exporter, held);
        let percent = waiting.percent();
        let level = ALARMING.into_iter().rfind(|level| percent >= *level).unwrap_or(0);
        if level > waiting.alarmed {
            tracing::error!(
                event.name = "perigee.exporter.holds_store",
                exporter = &*exporter.exporter,
                undecided = waiting.said(),
                bytes = held.bytes,
                max_bytes,
                percent,
                "what waits for this exporter alone fills the store: mend its backend, or take the signal out of its pipelines"
            );
            waiting.alarmed = level;
        }
    }

    fn gauges(&self, exporter: &ExporterLabel, held: Held) {
        for signal in Signal::ALL {
            let label = Label { exporter: Arc::clone(&exporter.exporter), signal: signal.name() };
            self.held.get_or_create(&label).set(held.by_signal[signal.slot()] as i64);
        }
    }

    /// What an exporter waits for, as JSON.
    pub(super) fn shown(&self, exporter: &str) -> Value {
        self.all().get(exporter).map_or(Value::Null, Waiting::shown)
    }

    /// Who holds back so much that an alarm was raised, as a sentence.
    pub fn alarming(&self) -> Vec<String> {
        let all = self.all();
        let many = all.iter().filter(|(_, waiting)| waiting.percent() >= ALARMING[0]);
        let said = |(name, waiting): (&Arc<str>, &Waiting)| {
            let (percent, bytes) = (waiting.percent(), waiting.held.bytes);
            format!(
                "exporter {name} alone holds {percent} % of the store ({bytes} bytes): {}",
                waiting.said()
            )
        };
        many.map(said).collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Waiting>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perigee_shared::telemetry::metrics_text;

    #[test]
    fn who_holds_back_half_of_the_store_is_named_with_signal_and_backend() {
        let mut registry = Registry::default();
        let undecided = Undecided::register(&mut registry);
        let (bench, at) = (ExporterLabel::new("otlp_http"), (Lane::BULK, Signal::Metrics));
        undecided.put(&bench, at, 7, None);
        undecided.put(&bench, at, 9, Some("HTTP 503 (metrics, POST http://b:1/v1/metrics)"));
        let mut held = Held { bytes: 49, ..Held::default() };
        held.by_signal[Signal::Metrics.slot()] = 40;
        undecided.hold(&bench, held, 100);
        assert!(undecided.alarming().is_empty(), "49 %");
        undecided.hold(&bench, Held { bytes: 50, ..held }, 100);
        assert_eq!(
            undecided.alarming(),
            ["exporter otlp_http alone holds 50 % of the store (50 bytes): \
                 metrics of lane 8: HTTP 503 (metrics, POST http://b:1/v1/metrics)"]
        );
        let shown = undecided.shown("otlp_http");
        assert_eq!(
            (&shown["requests"][0]["since_unix_nano"], &shown["requests"][0]["held_bytes"]),
            (&json!(7), &json!(40))
        );
        let line = "perigee_exporter_held_bytes{exporter=\"otlp_http\",signal=\"metrics\"}";
        assert!(metrics_text(&registry).contains(&format!("{line} 40")));
        undecided.take(&bench, at);
        assert_eq!(undecided.shown("otlp_http"), Value::Null);
        assert!(metrics_text(&registry).contains(&format!("{line} 0")));
    }
}
