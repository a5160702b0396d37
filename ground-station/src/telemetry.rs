//! The program's own metrics, in a registry of its own; names are the Collector's where they mean the same.

mod satellites;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use perigee_shared::env::Env;
use perigee_shared::export::{AllFailing, Failing};
use perigee_shared::segment::Header;
use perigee_shared::serve::Closed;
use perigee_shared::signal::{Signal, SignalSet};
use perigee_shared::supervise::Supervisor;
use perigee_shared::telemetry::{
    EXPORTER_SUCCESS, QUEUE_CAPACITY, STORE_FAILING, STORE_SYNCS, queue_capacity, register_identity,
};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use crate::spool::{AccountView, Gaps, Items, SpoolView, StandingView, Status};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfExporter {
    exporter: Text,
}

/// Only names from the configuration become labels: satellites and exporters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSatellite {
    satellite: Text,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Text(Arc<str>);

impl EncodeLabelValue for Text {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.write_str(&self.0)
    }
}

/// What metrics show of the store.
#[derive(Debug)]
pub struct Stored {
    /// The spool as a whole.
    pub spool: SpoolView,
    /// Where items are, by satellite.
    pub accounts: BTreeMap<String, AccountView>,
    /// How satellites stand.
    pub standings: BTreeMap<String, StandingView>,
    /// How many gaps there are.
    pub gaps: Gaps,
}

type BySignal = [Family<OfExporter, Counter>; 3];

/// Counts what happens. Clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    station: String,
    started: Instant,
    env: Env,
    tasks: Supervisor,
    sent: BySignal,
    send_failed: BySignal,
    rejected: BySignal,
    retries: Family<OfExporter, Counter>,
    aside: Family<OfExporter, Gauge>,
    succeeded: Family<OfExporter, Gauge>,
    failing: AllFailing,
    received_bytes: Family<OfSatellite, Counter>,
    conflicts: Family<OfSatellite, Counter>,
    delays: satellites::Delays,
    expected: Mutex<BTreeSet<Arc<str>>>,
    refused: Counter,
    revocations_in_doubt: Gauge,
    certificate_end: Gauge,
    closed: Closed,
}

impl Metrics {
    /// Of `station`; nothing has happened yet.
    pub fn new(station: &str, env: &Env, tasks: Supervisor) -> Self {
        Self(Arc::new(Inner {
            station: station.to_owned(),
            started: Instant::now(),
            env: env.clone(),
            tasks,
            sent: Default::default(),
            send_failed: Default::default(),
            rejected: Default::default(),
            retries: Family::default(),
            aside: Family::default(),
            succeeded: Family::default(),
            failing: AllFailing::default(),
            received_bytes: Family::default(),
            conflicts: Family::default(),
            delays: satellites::delays(),
            expected: Mutex::default(),
            refused: Counter::default(),
            revocations_in_doubt: Gauge::default(),
            certificate_end: Gauge::default(),
            closed: Closed::default(),
        }))
    }

    /// What is wrong with tasks, for health.
    pub fn trouble(&self) -> Option<String> {
        self.0.tasks.trouble()
    }

    /// Tasks that have panicked in the last ten minutes.
    pub fn panicked_lately(&self) -> Vec<Arc<str>> {
        self.0.tasks.lately()
    }

    /// Starts what serves one peer, or one moment: a panic in it is counted under `name`.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.0.tasks.watched(name, work));
    }

    /// Connections that listeners closed.
    pub fn closed(&self) -> &Closed {
        &self.0.closed
    }

    /// There is an exporter with these signals: what is counted of it is there from now on, as 0, so that the first is an increase.
    pub fn begin(&self, exporter: &Arc<str>, signals: SignalSet) {
        for signal in Signal::ALL.into_iter().filter(|signal| signals.contains(*signal)) {
            self.sent(exporter, signal, 0, 0);
            self.send_failed(exporter, signal, 0);
        }
        self.0.retries.get_or_create(&OfExporter { exporter: Text(Arc::clone(exporter)) }).inc_by(0);
        self.aside(exporter, 0);
    }

    /// These satellites may connect, and no others; as above.
    pub fn expect<'s>(&self, satellites: impl Iterator<Item = &'s String>) {
        let expected: BTreeSet<Arc<str>> = satellites.map(|satellite| satellite.as_str().into()).collect();
        for satellite in &expected {
            let label = OfSatellite { satellite: Text(Arc::clone(satellite)) };
            self.0.received_bytes.get_or_create(&label).inc_by(0);
            self.0.conflicts.get_or_create(&label).inc_by(0);
        }
        *self.0.expected.lock().unwrap_or_else(PoisonError::into_inner) = expected;
    }

    /// The satellites that may connect.
    pub fn expected(&self) -> BTreeSet<Arc<str>> {
        self.0.expected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An exporter's backend took items and rejected some of them.
    pub fn sent(&self, exporter: &Arc<str>, signal: Signal, items: u64, rejected: u64) {
        let label = OfExporter { exporter: Text(Arc::clone(exporter)) };
        if items > 0 {
            let now = self.0.env.unix_nano() / 1_000_000_000;
            self.0.succeeded.get_or_create(&label).set(now as i64);
            if self.0.aside.get_or_create(&label).get() == 0 {
                self.0.failing.over(exporter);
            }
        }
        self.0.sent[signal as usize - 1].get_or_create(&label).inc_by(items.saturating_sub(rejected));
        self.0.rejected[signal as usize - 1].get_or_create(&label).inc_by(rejected);
    }

    /// An exporter's request did not get through and is tried again.
    pub fn troubled(&self, exporter: &Arc<str>, reason: &str, misconfigured: bool) {
        self.0.failing.note(exporter, self.0.env.unix_nano(), reason, misconfigured);
    }

    /// Why an exporter does not get on, if it does not.
    pub fn failing(&self, exporter: &str) -> Option<Failing> {
        self.0.failing.of(exporter)
    }

    /// Items that an exporter's backend took since the start.
    pub fn sent_by(&self, exporter: &str) -> u64 {
        let label = OfExporter { exporter: Text(exporter.into()) };
        self.0.sent.iter().map(|family| family.get_or_create(&label).get()).sum()
    }

    /// An exporter's backend refused items for good.
    pub fn send_failed(&self, exporter: &Arc<str>, signal: Signal, items: u64) {
        let label = OfExporter { exporter: Text(Arc::clone(exporter)) };
        self.0.send_failed[signal as usize - 1].get_or_create(&label).inc_by(items);
    }

    /// An exporter has to send a request again.
    pub fn retried(&self, exporter: &Arc<str>) {
        self.0.retries.get_or_create(&OfExporter { exporter: Text(Arc::clone(exporter)) }).inc();
    }

    /// So many requests of an exporter are put aside, since its backend does not decide about them.
    pub fn aside(&self, exporter: &Arc<str>, requests: usize) {
        let label = OfExporter { exporter: Text(Arc::clone(exporter)) };
        if self.0.aside.get_or_create(&label).set(requests as i64) > 0 && requests == 0 {
            self.0.failing.over(exporter);
        }
    }

    /// Payload bytes came over the link.
    pub fn received(&self, satellite: &Arc<str>, bytes: u64) {
        self.0
            .received_bytes
            .get_or_create(&OfSatellite { satellite: Text(Arc::clone(satellite)) })
            .inc_by(bytes);
    }

    /// Payload bytes that came over the link from a satellite since the start.
    pub fn received_from(&self, satellite: &str) -> u64 {
        self.0.received_bytes.get_or_create(&OfSatellite { satellite: Text(satellite.into()) }).get()
    }

    /// A segment of a satellite was committed, so long after the oldest of its items was accepted on board.
    pub fn delivered(&self, satellite: &str, header: &Header, after: Duration) {
        satellites::observe(&self.0.delays, satellite, header, after);
    }

    /// A segment came under the name of another.
    pub fn conflict(&self, satellite: &Arc<str>) {
        self.0.conflicts.get_or_create(&OfSatellite { satellite: Text(Arc::clone(satellite)) }).inc();
    }

    /// Whether the revocation list has expired, or the newest one cannot be used.
    pub fn revocations_in_doubt(&self, doubt: bool) {
        self.0.revocations_in_doubt.set(i64::from(doubt));
    }

    /// Our certificate ends then, ns since the Unix epoch.
    pub fn certificate_ends(&self, end: Option<u64>) {
        self.0.certificate_end.set(end.map_or(0, |end| (end / 1_000_000_000) as i64));
    }

    /// When it does, to the second; `None`: there is no link here, or it was not looked at yet.
    pub fn certificate_end(&self) -> Option<u64> {
        u64::try_from(self.0.certificate_end.get()).ok().filter(|end| *end > 0).map(|end| end * 1_000_000_000)
    }

    /// A peer was refused.
    pub fn refused(&self) {
        self.0.refused.inc();
    }

    /// Everything in Prometheus' text format (OpenMetrics). Without `stored`, what is known without the store; `connected` are the satellites with an open link, with when the last of it came, ns since the Unix epoch.
    pub fn render(
        &self,
        stored: Option<&Stored>,
        connected: &BTreeMap<String, u64>,
        status: &Status,
        connections: usize,
    ) -> String {
        let mut registry = Registry::default();
        register_identity(&mut registry, "ground-station", Some(&self.0.station));
        self.register_live(&mut registry);
        register_status(&mut registry, status);
        if let Some(stored) = stored {
            register_spool(&mut registry, &stored.spool);
            register_accounts(&mut registry, &stored.accounts);
            satellites::register(&mut registry, stored, &self.expected(), connected);
        }
        let connections = ConstGauge::new(connections as u64);
        registry.register("perigee_link_connections", "Open links", connections);
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &registry);
        text
    }

    fn register_live(&self, registry: &mut Registry) {
        let inner = &self.0;
        for signal in Signal::ALL {
            let (slot, items) = (signal as usize - 1, signal.items_name());
            let mut add = |name: &str, help: &str, family: &BySignal| {
                registry.register(format!("otelcol_exporter_{name}_{items}"), help, family[slot].clone());
            };
            add("sent", "Items that the backend took", &inner.sent);
            add("send_failed", "Items that the backend refused for good", &inner.send_failed);
            add("rejected", "Items that the backend rejected by partial_success", &inner.rejected);
        }
        inner.closed.register(registry);
        inner.tasks.register(registry);
        inner.env.alarms.register(registry);
        if let Some(syncs) = inner.env.store.syncs() {
            registry.register("perigee_store_syncs", STORE_SYNCS, syncs);
        }
        registry.register("perigee_exporter_retries", "Requests sent again", inner.retries.clone());
        let aside = "Requests that the backend neither accepts nor refuses, set aside while others go on";
        registry.register("perigee_exporter_aside_requests", aside, inner.aside.clone());
        let succeeded = inner.succeeded.clone();
        registry.register("perigee_exporter_last_success_timestamp_seconds", EXPORTER_SUCCESS, succeeded);
        let received = inner.received_bytes.clone();
        registry.register_with_unit(
            "perigee_link_received",
            "Payload bytes over the link",
            Unit::Bytes,
            received,
        );
        registry.register(
            "perigee_link_conflicts",
            "Segments that came under a name that was taken",
            inner.conflicts.clone(),
        );
        registry.register(
            "perigee_delivery_delay_seconds",
            "From when the oldest item of a segment was accepted on board to the commit here; once for each signal in it",
            inner.delays.clone(),
        );
        registry.register(
            "perigee_link_refused",
            "Peers whose certificate does not belong to a listed satellite",
            inner.refused.clone(),
        );
        registry.register(
            "perigee_link_revocation_list_unusable",
            "1 while the revocation list has expired, or the newest one cannot be used",
            inner.revocations_in_doubt.clone(),
        );
        registry.register(
            "perigee_link_certificate_expiry_timestamp_seconds",
            "When link.certificate_file ends, in seconds since 1970",
            inner.certificate_end.clone(),
        );
        let uptime = ConstGauge::new(inner.started.elapsed().as_secs_f64());
        registry.register("otelcol_process_uptime", "Seconds since the start", uptime);
        if let Some(memory) = (inner.env.memory)() {
            let rss = ConstGauge::new(memory.resident);
            registry.register("otelcol_process_memory_rss", "Resident memory, bytes", rss);
        }
    }
}

/// What is known of the store while it does not answer.
fn register_status(registry: &mut Registry, status: &Status) {
    let mut gauge = |name: &str, help: &str, value: bool| {
        registry.register(name, help, ConstGauge::new(u64::from(value)));
    };
    gauge("perigee_spool_full", "1 while links do not read because the spool is full", status.full);
    let failing = status.failing.is_some() || status.gone.is_some();
    gauge("perigee_spool_failing", "1 while the spool cannot be written", failing);
    gauge("perigee_store_failing", STORE_FAILING, failing);
    let help =
        "1 while the shared ledger does not answer and this station holds on its own disk what arrives";
    gauge("perigee_spool_aside", help, status.aside);
}

fn register_spool(registry: &mut Registry, spool: &SpoolView) {
    let mut gauge =
        |name: &str, help: &str, value: u64| registry.register(name, help, ConstGauge::new(value));
    gauge("perigee_spool_used_bytes", "Segments, partials and dead letters", spool.used_bytes);
    gauge("perigee_spool_max_bytes", "Budget of segments, partials and dead letters", spool.max_bytes);
    gauge("perigee_spool_file_bytes", "What the spool's file takes on the volume", spool.file_bytes);
    gauge("perigee_spool_file_length_bytes", "Length of the spool's file", spool.file_length_bytes);
    gauge("perigee_spool_segments", "Segments still to be exported", spool.segments);
    gauge("perigee_spool_base_bytes", "Segments kept because later ones may need them", spool.base_bytes);
    gauge("perigee_spool_kept_bytes", "Segments that stay after their export", spool.kept_bytes);
    gauge(
        "perigee_spool_dead_letters",
        "Requests and segments that a backend refused for good",
        spool.dead_letters,
    );
    let quarantined = u64::from(spool.quarantined.is_some());
    gauge("perigee_spool_quarantined", "1 when a damaged file was put aside since the start", quarantined);
    for (name, help, n) in [
        ("checked", "Segments and bases that the scrub has compared with their hashes", spool.scrub.checked),
        ("damaged", "Segments and bases that the scrub found damaged and removed", spool.scrub.damaged),
    ] {
        registry.register(format!("perigee_store_scrub_{name}"), help, ConstCounter::new(n));
    }
    let (backlog, capacity) = <(Family<OfExporter, Gauge>, Family<OfExporter, Gauge>)>::default();
    let room = queue_capacity(spool.segments, spool.used_bytes, spool.max_bytes);
    for exporter in &spool.exporters {
        let label = OfExporter { exporter: Text(exporter.name.as_str().into()) };
        backlog.get_or_create(&label).set(i64::try_from(exporter.backlog_segments).unwrap_or(i64::MAX));
        capacity.get_or_create(&label).set(i64::try_from(room).unwrap_or(i64::MAX));
    }
    registry.register("otelcol_exporter_queue_capacity", QUEUE_CAPACITY, capacity);
    registry.register("otelcol_exporter_queue_size", "Segments that the exporter has not finished", backlog);
}

fn register_accounts(registry: &mut Registry, accounts: &BTreeMap<String, AccountView>) {
    type ItemsOf = fn(&AccountView) -> Items;
    let counters: [(&str, &str, ItemsOf); 7] = [
        ("committed", "Items of segments in the ledger", |a| a.committed),
        ("exported", "Items that every exporter of their pipeline has finished", |a| a.exported),
        ("dead_lettered", "Items that a backend refused for good", |a| a.dead_lettered),
        ("lost", "Items that this station had and lost", |a| a.lost),
        ("dropped", "Items that were dropped on board", |a| a.dropped),
        ("in_spool", "Items still to be exported", |a| a.in_spool),
        ("replayed", "Items that replays of ranges sent again", |a| a.replayed),
    ];
    for (name, help, of) in counters {
        for signal in Signal::ALL {
            // Dead letters and drops can be taken back, so these are gauges.
            let family = Family::<OfSatellite, Gauge<i64, std::sync::atomic::AtomicI64>>::default();
            for (satellite, account) in accounts {
                let label = OfSatellite { satellite: Text(satellite.as_str().into()) };
                let value = i64::try_from(of(account).of(signal)).unwrap_or(i64::MAX);
                family.get_or_create(&label).set(value);
            }
            registry.register(format!("perigee_ground_{name}_{}", signal.items_name()), help, family);
        }
    }
    for (name, help, of) in [
        ("segments", "Segments in the ledger", (|a| a.segments) as fn(&AccountView) -> u64),
        ("duplicate_segments", "Segments that came again", |a| a.duplicates),
        ("handover_twice_segments", "Segments that another station's ledger has too", |a| a.handover_twice),
        ("hash_mismatches", "Segments whose payload did not match its hash", |a| a.hash_mismatches),
        ("committed_payload_bytes", "Payload bytes of segments in the ledger", |a| a.bytes),
    ] {
        let family = Family::<OfSatellite, Counter<u64, AtomicU64>>::default();
        for (satellite, account) in accounts {
            let label = OfSatellite { satellite: Text(satellite.as_str().into()) };
            family.get_or_create(&label).inc_by(of(account));
        }
        registry.register(format!("perigee_ground_{name}"), help, family);
    }
    registry.register(
        "perigee_ground_satellites",
        "Satellites ever heard",
        ConstCounter::new(accounts.len() as u64),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::ExporterView;

    #[test]
    fn the_collectors_names_are_kept() {
        let metrics = Metrics::new("svalbard", &Env::production(), Supervisor::new(&Env::production()));
        metrics.begin(&"otlp/prometheus".into(), SignalSet::default().with(Signal::Metrics));
        metrics.expect(["sat-2".to_owned()].iter());
        metrics.sent(&"otlp/jaeger".into(), Signal::Traces, 10, 2);
        metrics.send_failed(&"otlp/jaeger".into(), Signal::Logs, 3);
        let spool = SpoolView {
            used_bytes: 5,
            max_bytes: 10,
            ledger: String::new(),
            next_entry: 1,
            file_bytes: 0,
            file_length_bytes: 0,
            scrub: Default::default(),
            segments: 1,
            bases: 0,
            base_bytes: 0,
            dead_letters: 0,
            kept_bytes: 0,
            quarantined: None,
            exporters: vec![ExporterView {
                name: "otlp/jaeger".to_owned(),
                signals: vec!["traces"],
                entry: 1,
                request: 0,
                backlog_segments: 1,
            }],
        };
        let accounts = [("sat-1".to_owned(), AccountView::default())].into();
        let gaps = [(("sat-1".to_owned(), "station_lost".to_owned()), 2)].into();
        let stored = Stored { spool, accounts, standings: Default::default(), gaps };
        let mut failing = Status::default();
        failing.failing = Some("the disk is full".to_owned());
        let text = |stored, status: &Status| metrics.render(stored, &Default::default(), status, 0);
        let without = text(None, &failing);
        for line in [
            "perigee_store_failing 1",
            "perigee_spool_failing 1",
            "otelcol_exporter_sent_spans_total{exporter=\"otlp/jaeger\"} 8",
        ] {
            assert!(without.contains(line), "{line}\n{without}");
        }
        assert!(!without.contains("perigee_spool_used_bytes"), "it is not known: {without}");
        let text = text(Some(&stored), &Status::default());
        assert!(text.contains("perigee_exporter_last_success_timestamp_seconds{exporter=\"otlp/jaeger\"} 1"));
        assert!(!text.contains("last_success_timestamp_seconds{exporter=\"otlp/prometheus\"}"), "{text}");
        for line in [
            "otelcol_exporter_sent_spans_total{exporter=\"otlp/jaeger\"} 8",
            "otelcol_exporter_send_failed_log_records_total{exporter=\"otlp/jaeger\"} 3",
            "otelcol_exporter_sent_metric_points_total{exporter=\"otlp/prometheus\"} 0",
            "otelcol_exporter_send_failed_metric_points_total{exporter=\"otlp/prometheus\"} 0",
            "perigee_exporter_retries_total{exporter=\"otlp/prometheus\"} 0",
            "perigee_link_conflicts_total{satellite=\"sat-2\"} 0",
            "perigee_satellite_connected{satellite=\"sat-2\"} 0",
            "otelcol_exporter_queue_capacity{exporter=\"otlp/jaeger\"} 2",
            concat!("perigee_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            concat!(
                "target_info{service_name=\"ground-station\",service_version=\"",
                env!("CARGO_PKG_VERSION"),
                "\",service_instance_id=\"svalbard\"} 1"
            ),
            "perigee_ground_committed_spans{satellite=\"sat-1\"} 0",
            "perigee_spool_used_bytes 5",
            "perigee_store_failing 0",
            "perigee_satellite_gaps{satellite=\"sat-1\",reason=\"station_lost\"} 2",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
