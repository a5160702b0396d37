//! The agent's own metrics. Names are the Collector's where the meaning is the same, else they begin with `perigee_`.

mod undecided;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use perigee_proto::link::DropReason;
use perigee_shared::env::Env;
use perigee_shared::export::AllFailing;
use perigee_shared::link::reason_name;
use perigee_shared::serve::Closed;
use perigee_shared::signal::{Counts, Signal, SignalSet};
use perigee_shared::supervise::Supervisor;
use perigee_shared::telemetry::{
    EXPORTER_SUCCESS, QUEUE_CAPACITY, STORE_FAILING, STORE_SYNCS, metrics_text, queue_capacity,
    register_identity,
};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use serde_json::{Map, Value, json};

pub use self::undecided::Undecided;
use crate::config::LINK;
use crate::limiter::Limiter;
use crate::wal::Summary;

/// A counter for each signal.
#[derive(Debug, Clone, Default)]
pub struct PerSignal([Counter; 3]);

impl PerSignal {
    fn get(&self, signal: Signal) -> &Counter {
        &self.0[signal as usize - 1]
    }

    /// Registers the three as `prefix` and the signal's item name.
    fn register(registry: &mut Registry, prefix: &str, help: &str) -> Self {
        let all = Self::default();
        for signal in Signal::ALL {
            let name = format!("{prefix}_{}", signal.items_name());
            registry.register(name, format!("{help} ({})", signal.items_name()), all.get(signal).clone());
        }
        all
    }

    fn set(&self, counts: Counts) {
        for signal in Signal::ALL {
            self.get(signal).inner().set(counts[signal]);
        }
    }
}

trait SetCounter {
    fn set(&self, value: u64);
}

impl SetCounter for AtomicU64 {
    fn set(&self, value: u64) {
        self.store(value, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Where a request came in, in the Collector's words.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Source {
    /// The receiver's name in the configuration.
    pub receiver: Arc<str>,
    /// `grpc` or `http`; empty where nothing is transported.
    pub transport: &'static str,
}

/// A counter for each signal and set of labels.
#[derive(Debug, Clone)]
struct Labelled<L>([Family<L, Counter>; 3]);

impl<L: Clone + std::hash::Hash + Eq> Default for Labelled<L> {
    fn default() -> Self {
        Self(Default::default())
    }
}

impl<L: Clone + std::fmt::Debug + std::hash::Hash + Eq + EncodeLabelSet + Send + Sync + 'static> Labelled<L> {
    /// Registers the three as `prefix` and the signal's item name.
    fn register(registry: &mut Registry, prefix: &str, help: &str) -> Self {
        let all = Self::default();
        for signal in Signal::ALL {
            let name = format!("{prefix}_{}", signal.items_name());
            let family = all.0[signal as usize - 1].clone();
            registry.register(name, format!("{help} ({})", signal.items_name()), family);
        }
        all
    }

    /// What was counted of all signals.
    fn total(&self, label: &L) -> u64 {
        self.0.iter().filter_map(|family| family.get(label)).map(|counter| counter.get()).sum()
    }

    /// Counts; with 0, from when on there is something to count.
    fn add(&self, label: &L, signal: Signal, items: u64) {
        self.0[signal as usize - 1].get_or_create(label).inc_by(items);
    }
}

/// What receivers and the journal count while they work.
#[derive(Debug, Clone, Default)]
pub struct ReceiverCounters {
    accepted: Labelled<Source>,
    refused: Labelled<Source>,
    malformed: Family<SignalLabel, Counter>,
    unread: Family<SignalLabel, Counter>,
    commits: Counter,
    committed_requests: Counter,
    closed: Closed,
}

/// The signal of a request that could not be counted by items.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SignalLabel {
    signal: &'static str,
}

impl ReceiverCounters {
    fn register(registry: &mut Registry) -> Self {
        let counters = Self {
            accepted: Labelled::register(
                registry,
                "otelcol_receiver_accepted",
                "Items answered with success",
            ),
            refused: Labelled::register(
                registry,
                "otelcol_receiver_refused",
                "Items refused after they were counted",
            ),
            ..Self::default()
        };
        registry.register(
            "perigee_receiver_malformed_requests",
            "Requests that are not OTLP protobuf",
            counters.malformed.clone(),
        );
        registry.register(
            "perigee_receiver_refused_requests",
            "Requests refused before they were complete: too large, too slow, no memory, or malformed",
            counters.unread.clone(),
        );
        registry.register("perigee_journal_commits", "Commits of the journal", counters.commits.clone());
        registry.register(
            "perigee_journal_requests",
            "Requests in those commits",
            counters.committed_requests.clone(),
        );
        counters.closed.register(registry);
        for signal in Signal::ALL {
            let label = SignalLabel { signal: signal.name() };
            counters.malformed.get_or_create(&label).inc_by(0);
            counters.unread.get_or_create(&label).inc_by(0);
        }
        counters
    }

    /// Items of these signals may come in here: what is counted is there from now on, as 0, so that the first is an increase.
    pub fn begin(&self, source: &Source, signals: SignalSet) {
        for signal in Signal::ALL.into_iter().filter(|signal| signals.contains(*signal)) {
            self.accepted(source, signal, 0);
            self.refused(source, signal, 0);
        }
    }

    /// Connections that listeners closed.
    pub const fn closed(&self) -> &Closed {
        &self.closed
    }

    /// `items` were answered with success.
    pub fn accepted(&self, source: &Source, signal: Signal, items: u64) {
        self.accepted.add(source, signal, items);
    }

    /// `items` were refused after they had been counted.
    pub fn refused(&self, source: &Source, signal: Signal, items: u64) {
        self.refused.add(source, signal, items);
    }

    /// A request was not OTLP.
    pub fn malformed(&self, signal: Signal) {
        self.malformed.get_or_create(&SignalLabel { signal: signal.name() }).inc();
    }

    /// A request was refused before it was whole.
    pub fn unread(&self, signal: Signal) {
        self.unread.get_or_create(&SignalLabel { signal: signal.name() }).inc();
    }

    #[cfg(test)]
    pub(crate) fn commits(&self) -> u64 {
        self.commits.get()
    }

    /// A commit of so many requests has ended.
    pub fn commit(&self, requests: usize) {
        self.commits.inc();
        self.committed_requests.inc_by(requests as u64);
    }
}

/// What the shipper and the direct exporters count.
#[derive(Debug, Clone, Default)]
pub struct ShipCounters {
    /// Payload bytes of segments handed to QUIC.
    pub sent_bytes: Counter,
    /// Of those, bytes that had been sent on an earlier connection.
    pub resent_bytes: Counter,
    /// Bytes of packets that QUIC took to be lost.
    pub lost_bytes: Counter,
    /// Segments that a ground has said to have committed.
    pub committed_segments: Counter,
    /// UDP payload bytes sent, everything included.
    pub udp_sent_bytes: Counter,
    /// UDP payload bytes received.
    pub udp_received_bytes: Counter,
    /// Connections that came up.
    pub connections: Counter,
    /// Attempts that failed.
    pub failed_attempts: Counter,
    /// 1 while the list of revoked stations has expired, or the newest one cannot be used.
    pub revocations_unusable: Gauge,
    /// When our certificate ends, s since the Unix epoch.
    certificate_end: Gauge,
    /// 1 while connected.
    pub connected: Gauge,
    sent: Labelled<ExporterLabel>,
    send_failed: Labelled<ExporterLabel>,
    rejected: Labelled<ExporterLabel>,
    retries: Family<ExporterLabel, Counter>,
    succeeded: Family<ExporterLabel, Gauge>,
    failing: Arc<AllFailing>,
    /// Requests of direct exporters that are put aside.
    pub undecided: Undecided,
}

/// An exporter, by its name in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ExporterLabel {
    exporter: Arc<str>,
}

impl ExporterLabel {
    /// The exporter called `name`.
    pub fn new(name: &str) -> Self {
        Self { exporter: name.into() }
    }
}

impl ShipCounters {
    /// When our certificate ends, ns since the Unix epoch.
    pub fn certificate_end(&self, end: Option<u64>) {
        self.certificate_end.set(end.map_or(0, |end| (end / 1_000_000_000) as i64));
    }

    /// There is a direct exporter with these signals: what is counted of it is there from now on, as 0.
    pub fn begin(&self, exporter: &ExporterLabel, signals: SignalSet) {
        for signal in Signal::ALL.into_iter().filter(|signal| signals.contains(*signal)) {
            self.sent(exporter, signal, 0, 0);
            self.send_failed(exporter, signal, 0);
        }
        self.retries.get_or_create(exporter).inc_by(0);
        self.undecided.begin(exporter);
    }

    /// A backend took items and rejected some of them.
    pub fn sent(&self, exporter: &ExporterLabel, signal: Signal, items: u64, rejected: u64) {
        self.sent.add(exporter, signal, items.saturating_sub(rejected));
        self.rejected.add(exporter, signal, rejected);
    }

    /// A backend took a request at this time, ns since the Unix epoch.
    pub fn succeeded(&self, exporter: &ExporterLabel, now: u64) {
        self.succeeded.get_or_create(exporter).set((now / 1_000_000_000) as i64);
    }

    /// A backend refused items for good.
    pub fn send_failed(&self, exporter: &ExporterLabel, signal: Signal, items: u64) {
        self.send_failed.add(exporter, signal, items);
    }

    /// A request has to be sent again.
    pub fn retried(&self, exporter: &ExporterLabel, now: u64, reason: &str, misconfigured: bool) {
        self.retries.get_or_create(exporter).inc();
        self.failing.note(&exporter.exporter, now, reason, misconfigured);
    }

    /// Nothing of an exporter has to be sent again.
    pub fn gets_on(&self, exporter: &ExporterLabel) {
        self.failing.over(&exporter.exporter);
    }
}

impl ShipCounters {
    fn register(registry: &mut Registry) -> Self {
        let c = Self {
            sent: Labelled::register(registry, "otelcol_exporter_sent", "Items that the backend took"),
            send_failed: Labelled::register(
                registry,
                "otelcol_exporter_send_failed",
                "Items that the backend refused for good",
            ),
            rejected: Labelled::register(
                registry,
                "otelcol_exporter_rejected",
                "Items that the backend rejected by partial_success",
            ),
            undecided: Undecided::register(registry),
            ..Self::default()
        };
        registry.register_with_unit(
            "perigee_link_sent",
            "Payload bytes of segments handed to QUIC",
            Unit::Bytes,
            c.sent_bytes.clone(),
        );
        registry.register_with_unit(
            "perigee_link_resent",
            "Payload bytes handed to QUIC again after an earlier connection, whether they had left or not",
            Unit::Bytes,
            c.resent_bytes.clone(),
        );
        registry.register_with_unit(
            "perigee_link_lost",
            "Bytes of packets that QUIC considered lost; their content is sent again",
            Unit::Bytes,
            c.lost_bytes.clone(),
        );
        registry.register_with_unit(
            "perigee_link_udp_sent",
            "UDP payload bytes sent, QUIC's own included",
            Unit::Bytes,
            c.udp_sent_bytes.clone(),
        );
        registry.register_with_unit(
            "perigee_link_udp_received",
            "UDP payload bytes received",
            Unit::Bytes,
            c.udp_received_bytes.clone(),
        );
        registry.register(
            "perigee_link_committed_segments",
            "Segments that a ground station has committed",
            c.committed_segments.clone(),
        );
        registry.register("perigee_link_connections", "Connections that came up", c.connections.clone());
        registry.register(
            "perigee_link_revocation_list_unusable",
            "1 while link.station_crl_file has expired, or the newest one cannot be used",
            c.revocations_unusable.clone(),
        );
        registry.register(
            "perigee_link_certificate_expiry_timestamp_seconds",
            "When link.certificate_file ends, in seconds since 1970; 0: nothing was connected to yet",
            c.certificate_end.clone(),
        );
        registry.register(
            "perigee_link_failed_attempts",
            "Attempts to connect that failed",
            c.failed_attempts.clone(),
        );
        registry.register("perigee_link_connected", "1 while connected to a station", c.connected.clone());
        registry.register("perigee_exporter_retries", "Requests sent again", c.retries.clone());
        registry.register(
            "perigee_exporter_last_success_timestamp_seconds",
            EXPORTER_SUCCESS,
            c.succeeded.clone(),
        );
        c
    }
}

/// What the scrub counts.
#[derive(Debug, Clone, Default)]
pub struct ScrubCounters {
    /// Groups and segments that were compared with their checksums.
    pub checked: Counter,
    /// Those that were damaged and are dropped.
    pub damaged: Counter,
}

impl ScrubCounters {
    fn register(registry: &mut Registry) -> Self {
        let c = Self::default();
        registry.register(
            "perigee_store_scrub_checked",
            "Groups and segments that the scrub has compared with their checksums",
            c.checked.clone(),
        );
        registry.register(
            "perigee_store_scrub_damaged",
            "Groups and segments that the scrub found damaged and that were dropped",
            c.damaged.clone(),
        );
        c
    }
}

/// What is known of the time.
#[derive(Debug, Clone, Default)]
pub struct ClockGauges {
    /// 1 while the wall clock cannot be right.
    pub untrusted: Gauge,
    /// By how much it is ahead of the station's that was heard last, in seconds.
    pub offset: Gauge<f64, AtomicU64>,
    /// Uncertainty of that offset.
    pub error: Gauge<f64, AtomicU64>,
}

impl ClockGauges {
    fn register(registry: &mut Registry) -> Self {
        let c = Self::default();
        // Nothing is measured yet.
        c.offset.set(f64::NAN);
        c.error.set(f64::NAN);
        registry.register(
            "perigee_clock_untrusted",
            "1 while the wall clock cannot be right: no data expires by it, and certificates are checked against the earliest time that it can be",
            c.untrusted.clone(),
        );
        registry.register(
            "perigee_clock_offset_seconds",
            "Offset of the wall clock from that of the latest station",
            c.offset.clone(),
        );
        registry.register(
            "perigee_clock_offset_error_seconds",
            "Uncertainty of that offset",
            c.error.clone(),
        );
        c
    }
}

/// What is sent of the agent itself.
#[derive(Debug, Clone, Default)]
pub struct OwnCounters {
    /// Records that had no room.
    pub lost: Counter,
    /// Times that metrics were due and not sent.
    pub put_off: Counter,
}

impl OwnCounters {
    fn register(registry: &mut Registry) -> Self {
        let c = Self::default();
        registry.register(
            "perigee_telemetry_lost_records",
            "The agent's own log records that had no room before they could be sent",
            c.lost.clone(),
        );
        registry.register(
            "perigee_telemetry_put_off",
            "Times that the agent's own metrics were due and not sent, for want of quota or memory",
            c.put_off.clone(),
        );
        c
    }
}

/// A drop's reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DropLabel {
    signal: &'static str,
    reason: String,
}

impl DropLabel {
    fn new(signal: Signal, reason: DropReason) -> Self {
        Self { signal: signal.name(), reason: reason_name(reason) }
    }
}

/// A lane, by its number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LaneLabel {
    lane: u8,
}

/// Every metric of one agent.
pub struct Metrics {
    registry: Registry,
    receiver: Arc<ReceiverCounters>,
    ship: Arc<ShipCounters>,
    scrub: ScrubCounters,
    clock: ClockGauges,
    own: OwnCounters,
    ever_accepted: PerSignal,
    delivered: PerSignal,
    dropped: Family<DropLabel, Counter>,
    queue_size: Family<ExporterLabel, Gauge>,
    queue_capacity: Family<ExporterLabel, Gauge>,
    exporters: Vec<ExporterLabel>,
    on_board: [Gauge; 3],
    unsealed_bytes: Gauge,
    unsealed_items: Gauge,
    segments: Gauge,
    lane_bytes: Family<LaneLabel, Gauge>,
    sealed: Counter,
    segment_bytes: Gauge,
    stored_bytes: Gauge,
    max_bytes: Gauge,
    file_bytes: Gauge,
    volatile: Gauge,
    failing: Gauge,
    accepted_in_memory: PerSignal,
    in_flight: Gauge,
    limiter_refused: Counter,
    pressure: Gauge,
    memory: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let r = &mut registry;
        let receiver = Arc::new(ReceiverCounters::register(r));
        let ship = Arc::new(ShipCounters::register(r));
        let (scrub, clock) = (ScrubCounters::register(r), ClockGauges::register(r));
        let own = OwnCounters::register(r);
        let ever_accepted =
            PerSignal::register(r, "perigee_accepted", "Items ever accepted, restarts included");
        let delivered = PerSignal::register(r, "perigee_delivered", "Items that every consumer has received");
        let accepted_in_memory = PerSignal::register(
            r,
            "perigee_store_volatile_accepted",
            "Items accepted into memory since the start, while the store was gone",
        );
        let on_board: [Gauge; 3] = Default::default();
        for (signal, gauge) in Signal::ALL.into_iter().zip(&on_board) {
            let name = format!("perigee_on_board_{}", signal.items_name());
            r.register(name, "Items in the journal and in segments", gauge.clone());
        }
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            r.register(name, help, gauge.clone());
            gauge
        };
        let unsealed_bytes =
            gauge("perigee_wal_unsealed_bytes", "Journal bytes that are not in a segment yet");
        let unsealed_items = gauge("perigee_wal_unsealed_items", "Items that are not in a segment yet");
        let segments = gauge("perigee_wal_segments", "Sealed segments on board");
        let segment_bytes = gauge("perigee_wal_segment_bytes", "Payload bytes of sealed segments on board");
        let stored_bytes = gauge("perigee_wal_stored_bytes", "Bytes that count against the budget");
        let max_bytes = gauge("perigee_wal_max_bytes", "The byte budget");
        let file_bytes = gauge("perigee_wal_file_bytes", "Bytes that the file takes on the volume");
        let volatile = gauge("perigee_store_volatile", "1 while the store is gone and the log is in memory");
        let failing = gauge("perigee_store_failing", STORE_FAILING);
        let in_flight = gauge("perigee_memory_limiter_in_flight_bytes", "Bytes of request bodies held");
        let pressure =
            gauge("perigee_memory_limiter_pressure", "0: none, 1: above the soft limit, 2: above the limit");
        let memory = gauge("otelcol_process_memory_rss", "Resident memory in bytes");
        let lane_bytes = Family::default();
        r.register(
            "perigee_lane_segment_bytes",
            "Payload bytes of segments on board, by lane",
            lane_bytes.clone(),
        );
        let dropped = Family::<DropLabel, Counter>::default();
        r.register("perigee_dropped_items", "Items dropped, by signal and reason", dropped.clone());
        for signal in Signal::ALL {
            let known = (1..32).filter_map(|number| DropReason::try_from(number).ok());
            for reason in known {
                dropped.get_or_create(&DropLabel::new(signal, reason)).inc_by(0);
            }
        }
        let (queue_size, queue_capacity) = <(Family<ExporterLabel, Gauge>, Family<_, _>)>::default();
        r.register(
            "otelcol_exporter_queue_size",
            "Sealed segments on board, which exporters share",
            queue_size.clone(),
        );
        r.register("otelcol_exporter_queue_capacity", QUEUE_CAPACITY, queue_capacity.clone());
        let (sealed, limiter_refused) = (Counter::default(), Counter::default());
        r.register("perigee_segments_sealed", "Segments sealed since the start", sealed.clone());
        r.register(
            "otelcol_processor_memory_limiter_refused_requests",
            "Requests refused because memory was short",
            limiter_refused.clone(),
        );
        Self {
            receiver,
            ship,
            scrub,
            clock,
            own,
            ever_accepted,
            delivered,
            dropped,
            queue_size,
            queue_capacity,
            exporters: Vec::new(),
            on_board,
            unsealed_bytes,
            unsealed_items,
            segments,
            lane_bytes,
            sealed,
            segment_bytes,
            stored_bytes,
            max_bytes,
            file_bytes,
            volatile,
            failing,
            accepted_in_memory,
            in_flight,
            limiter_refused,
            pressure,
            memory,
            registry,
        }
    }
}

impl Metrics {
    /// For receivers and the journal.
    pub fn receiver(&self) -> Arc<ReceiverCounters> {
        Arc::clone(&self.receiver)
    }

    /// Metrics of the agent of `satellite` with these consumers, which count the panics of `tasks`, and what `env` counts.
    pub fn watching(
        satellite: Option<&str>,
        tasks: &Supervisor,
        env: &Env,
        consumers: &BTreeMap<String, SignalSet>,
    ) -> Self {
        let mut metrics = Self::default();
        register_identity(&mut metrics.registry, "space-agent", satellite);
        tasks.register(&mut metrics.registry);
        env.alarms.register(&mut metrics.registry);
        if let Some(syncs) = env.store.syncs() {
            metrics.registry.register("perigee_store_syncs", STORE_SYNCS, syncs);
        }
        for (name, signals) in consumers {
            let exporter = ExporterLabel::new(name);
            if name != LINK {
                metrics.ship.begin(&exporter, *signals);
            }
            metrics.exporters.push(exporter);
        }
        metrics
    }

    /// What each direct exporter has done since the start, as JSON.
    pub fn exporters(&self) -> Value {
        let direct = self.exporters.iter().filter(|exporter| *exporter.exporter != *LINK);
        let done = direct.map(|exporter| {
            let retries = self.ship.retries.get(exporter).map_or(0, |counter| counter.get());
            let (sent, refused) = (self.ship.sent.total(exporter), self.ship.send_failed.total(exporter));
            let failing = self.ship.failing.of(&exporter.exporter);
            let undecided = self.ship.undecided.shown(&exporter.exporter);
            let done = json!({
                "sent": sent, "refused": refused, "retries": retries, "failing": failing, "undecided": undecided
            });
            (exporter.exporter.to_string(), done)
        });
        done.collect::<Map<_, _>>().into()
    }

    /// For the shipper and the direct exporters.
    pub fn ship(&self) -> Arc<ShipCounters> {
        Arc::clone(&self.ship)
    }

    /// For the scrub.
    pub fn scrub(&self) -> ScrubCounters {
        self.scrub.clone()
    }

    /// For what is sent of the agent itself.
    pub fn own(&self) -> OwnCounters {
        self.own.clone()
    }

    /// For what the agent knows of the time.
    pub fn clock(&self) -> ClockGauges {
        self.clock.clone()
    }

    /// The text of all metrics as of now.
    pub fn text(&self, wal: Option<&Summary>, sealed: u64, limiter: &Limiter, memory: Option<u64>) -> String {
        if let Some(wal) = wal {
            self.ever_accepted.set(wal.accepted);
            self.delivered.set(wal.delivered);
            for (reason, items) in &wal.dropped {
                for signal in Signal::ALL {
                    self.dropped.get_or_create(&DropLabel::new(signal, *reason)).inner().set(items[signal]);
                }
            }
            let on_board = wal.in_journal + wal.in_segments;
            for (signal, gauge) in Signal::ALL.into_iter().zip(&self.on_board) {
                gauge.set(on_board[signal] as i64);
            }
            self.unsealed_bytes.set(wal.unsealed_bytes as i64);
            self.unsealed_items.set(wal.in_journal.total() as i64);
            self.segments.set(wal.segments as i64);
            for lane in &wal.lanes {
                let label = LaneLabel { lane: lane.lane.0 };
                self.lane_bytes.get_or_create(&label).set(lane.segment_bytes as i64);
            }
            let capacity = queue_capacity(wal.segments, wal.stored_bytes, wal.max_bytes);
            for exporter in &self.exporters {
                self.queue_size.get_or_create(exporter).set(wal.segments as i64);
                self.queue_capacity.get_or_create(exporter).set(capacity as i64);
            }
            self.segment_bytes.set(wal.segment_bytes as i64);
            self.stored_bytes.set(wal.stored_bytes as i64);
            self.max_bytes.set(wal.max_bytes as i64);
            self.file_bytes.set(wal.file_bytes.1 as i64);
            self.volatile.set(i64::from(wal.in_memory.now));
            self.accepted_in_memory.set(wal.in_memory.accepted);
        }
        self.failing.set(i64::from(wal.is_none_or(|wal| wal.failing)));
        self.sealed.inner().set(sealed);
        self.in_flight.set(limiter.in_flight() as i64);
        self.limiter_refused.inner().set(limiter.refused());
        self.pressure.set(limiter.pressure() as i64);
        self.memory.set(memory.unwrap_or_default() as i64);
        metrics_text(&self.registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LimiterConfig;

    #[test]
    fn counters_have_the_collectors_labels_and_are_there_before_the_first_event() {
        let consumers = [
            (LINK.to_owned(), SignalSet::ALL),
            ("otlp/bench".to_owned(), SignalSet::default().with(Signal::Traces)),
        ];
        let (env, satellite) = (Env::production(), Some("sat-1"));
        let metrics = Metrics::watching(satellite, &Supervisor::new(&env), &env, &consumers.into());
        let source = Source { receiver: "otlp/2".into(), transport: "grpc" };
        metrics.receiver().begin(&source, SignalSet::default().with(Signal::Logs));
        let text = || metrics.text(None, 0, &Limiter::new(LimiterConfig::default()), None);
        let first = text();
        for line in [
            "otelcol_receiver_accepted_log_records_total{receiver=\"otlp/2\",transport=\"grpc\"} 0",
            "otelcol_receiver_refused_log_records_total{receiver=\"otlp/2\",transport=\"grpc\"} 0",
            "otelcol_exporter_sent_spans_total{exporter=\"otlp/bench\"} 0",
            "otelcol_exporter_send_failed_spans_total{exporter=\"otlp/bench\"} 0",
            "perigee_exporter_retries_total{exporter=\"otlp/bench\"} 0",
            "perigee_exporter_held_bytes{exporter=\"otlp/bench\",signal=\"traces\"} 0",
            "perigee_receiver_malformed_requests_total{signal=\"logs\"} 0",
            "perigee_dropped_items_total{signal=\"metrics\",reason=\"quota_oldest\"} 0",
            "perigee_dropped_items_total{signal=\"traces\",reason=\"station_lost\"} 0",
            concat!("perigee_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            concat!(
                "target_info{service_name=\"space-agent\",service_version=\"",
                env!("CARGO_PKG_VERSION"),
                "\",service_instance_id=\"sat-1\"} 1"
            ),
        ] {
            assert!(first.lines().any(|l| l == line), "{line}\n{first}");
        }
        assert!(!first.contains("exporter_sent_spans_total{exporter=\"link\"}"), "the link counts segments");
        metrics.receiver().accepted(&source, Signal::Logs, 7);
        metrics.ship().sent(&ExporterLabel::new("otlp/bench"), Signal::Traces, 5, 2);
        let then = text();
        for line in [
            "otelcol_receiver_accepted_log_records_total{receiver=\"otlp/2\",transport=\"grpc\"} 7",
            "otelcol_exporter_sent_spans_total{exporter=\"otlp/bench\"} 3",
            "otelcol_exporter_rejected_spans_total{exporter=\"otlp/bench\"} 2",
        ] {
            assert!(then.lines().any(|l| l == line), "{line}\n{then}");
        }
    }
}
