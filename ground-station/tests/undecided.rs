//! A backend that never decides about some requests: everything else goes on, and they go when it decides.

#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use perigee_shared::segment::{self, Codec, Encoder, Header};
use perigee_shared::signal::{Counts, Signal};
use prost::Message;
use support::{Running, Segment, Site, get, segment};

/// What a backend does not decide about: requests of this path, with this answer, that hold this text.
type Stubborn = Option<(&'static str, StatusCode, &'static str)>;

#[derive(Clone, Default)]
struct Backend {
    /// What it thinks, and the items that it has.
    state: Arc<Mutex<(Stubborn, BTreeMap<String, u32>)>>,
    /// A request with more items than so many is too large.
    most: Option<usize>,
    /// Answers wait for this.
    gate: Arc<tokio::sync::Mutex<()>>,
}

impl Backend {
    async fn start() -> (Self, SocketAddr) {
        Self::that_takes(None).await
    }

    async fn that_takes(most: Option<usize>) -> (Self, SocketAddr) {
        let backend = Self { most, ..Self::default() };
        let router = Router::new()
            .route("/v1/{signal}", axum::routing::post(take))
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(backend.clone());
        (backend, support::serve(router).await)
    }

    fn never(&self, stubborn: Stubborn) {
        self.state.lock().unwrap().0 = stubborn;
    }

    /// The items that it has, each once.
    fn taken(&self) -> BTreeSet<String> {
        let taken = &self.state.lock().unwrap().1;
        assert!(taken.values().all(|n| *n == 1), "nothing twice");
        taken.keys().cloned().collect()
    }

    async fn until(&self, items: &BTreeSet<String>) {
        while self.taken() != *items {
            tokio::task::yield_now().await;
        }
    }
}

async fn take(State(backend): State<Backend>, uri: Uri, body: Bytes) -> StatusCode {
    let code = decide(&backend, &uri, body);
    if uri.path() == "/v1/logs" {
        drop(backend.gate.lock().await);
    }
    code
}

fn decide(backend: &Backend, uri: &Uri, body: Bytes) -> StatusCode {
    let (stubborn, taken) = &mut *backend.state.lock().unwrap();
    let holds = |text: &str| body.windows(text.len()).any(|w| w == text.as_bytes());
    let stubborn = stubborn.filter(|(path, _, text)| uri.path() == *path && holds(text));
    let names: Vec<String> = if uri.path() == "/v1/traces" {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        let scopes = request.resource_spans.into_iter().flat_map(|r| r.scope_spans);
        scopes.flat_map(|s| s.spans).map(|span| span.name).collect()
    } else {
        let request = ExportLogsServiceRequest::decode(body).unwrap();
        let scopes = request.resource_logs.into_iter().flat_map(|r| r.scope_logs);
        scopes.flat_map(|s| s.log_records).map(|record| record.event_name).collect()
    };
    if backend.most.is_some_and(|most| names.len() > most) {
        return StatusCode::PAYLOAD_TOO_LARGE;
    }
    if let Some((_, code, _)) = stubborn {
        return code;
    }
    for name in names {
        *taken.entry(name).or_default() += 1;
    }
    StatusCode::OK
}

/// A segment with spans and log records.
fn mixed(sequence: u64, items: usize) -> Segment {
    let spans = segment(sequence, items);
    let mut requests = segment::Decoder::new(&spans.header, &spans.payload, None).unwrap();
    let body = requests.next().unwrap().unwrap().body;
    let record = |n| LogRecord { event_name: format!("log {sequence} {n}"), ..LogRecord::default() };
    let log_records = (0..items).map(record).collect();
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
    let logs = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
    let mut encoder = Encoder::new(Codec::ZstdRows, None).unwrap();
    encoder.push(Signal::Logs, &logs).unwrap();
    encoder.push(Signal::Traces, &body).unwrap();
    let payload = encoder.finish().unwrap().payload;
    let header = Header {
        payload_len: payload.len() as u64,
        raw_len: (body.len() + logs.len()) as u64,
        hash: segment::hash(&payload),
        items: Counts::of(Signal::Traces, items as u64) + Counts::of(Signal::Logs, items as u64),
        requests: 2,
        ..spans.header
    };
    Segment { header, payload }
}

/// The names of the items in segments of one signal.
fn names(segments: &[Segment], wanted: Signal) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for segment in segments {
        for request in segment::Decoder::new(&segment.header, &segment.payload, None).unwrap() {
            let request = request.unwrap();
            if request.signal != wanted {
                continue;
            }
            if wanted == Signal::Traces {
                let request = ExportTraceServiceRequest::decode(request.body).unwrap();
                let scopes = request.resource_spans.into_iter().flat_map(|r| r.scope_spans);
                out.extend(scopes.flat_map(|s| s.spans).map(|span| span.name));
            } else {
                let request = ExportLogsServiceRequest::decode(request.body).unwrap();
                let scopes = request.resource_logs.into_iter().flat_map(|r| r.scope_logs);
                out.extend(scopes.flat_map(|s| s.log_records).map(|record| record.event_name));
            }
        }
    }
    out
}

fn exporter(address: SocketAddr) -> String {
    format!(
        "otlphttp/x: {{endpoint: \"http://{address}\", compression: none, \
         retry_on_failure: {{initial_interval: 1ms, max_interval: 5ms}}}}"
    )
}

/// One signal that is never decided, whatever the answer is, holds no other back; not even over a restart.
#[tokio::test(flavor = "multi_thread")]
async fn one_signal_that_is_never_decided_holds_no_other_back() {
    for code in [StatusCode::SERVICE_UNAVAILABLE, StatusCode::NOT_FOUND, StatusCode::INTERNAL_SERVER_ERROR] {
        let site = Site::new();
        let (backend, address) = Backend::start().await;
        backend.never(Some(("/v1/logs", code, "log ")));
        let config = site.config("", &exporter(address));
        let ground = Running::start(config).await;
        let segments: Vec<Segment> = (1..=3).map(|sequence| mixed(sequence, 40)).collect();
        let mut sat = site.satellite("sat-1", ground.address).await;
        sat.hello(1..4).await;
        for segment in &segments[..2] {
            sat.send(segment).await;
        }
        sat.committed(&[1, 2]).await;
        backend.until(&names(&segments[..2], Signal::Traces)).await;
        ground.stop().await;

        let ground = Running::start(site.config("", &exporter(address))).await;
        let mut sat = site.satellite("sat-1", ground.address).await;
        sat.hello(3..4).await;
        sat.send(&segments[2]).await;
        sat.committed(&[3]).await;
        backend.until(&names(&segments, Signal::Traces)).await;
        let account = ground.account("sat-1").await;
        assert_eq!((account.in_spool.log_records, account.dead_lettered.log_records), (120, 0), "{code}");
        backend.never(None);
        let all = &names(&segments, Signal::Traces) | &names(&segments, Signal::Logs);
        backend.until(&all).await;
        let account = ground.drained("sat-1").await;
        assert_eq!((account.exported.spans, account.exported.log_records), (120, 120), "{code}");
        ground.stop().await;
    }
}

/// The data of one satellite that is never decided holds no other satellite back, and is said to be aside.
#[tokio::test(flavor = "multi_thread")]
async fn one_satellite_whose_data_is_never_decided_holds_no_other_back() {
    let site = Site::new();
    let (backend, address) = Backend::start().await;
    backend.never(Some(("/v1/traces", StatusCode::BAD_GATEWAY, "sat-1")));
    let ground = Running::start(site.config("", &exporter(address))).await;
    let (first, second) = (segment(1, 30), segment(2, 30));
    let mut one = site.satellite("sat-1", ground.address).await;
    one.hello(1..2).await;
    one.send(&first).await;
    one.committed(&[1]).await;
    let mut two = site.satellite("sat-2", ground.address).await;
    two.hello(2..3).await;
    two.send(&second).await;
    two.committed(&[2]).await;
    let others = names(&[second], Signal::Traces);
    backend.until(&others).await;
    let aside = "perigee_exporter_aside_requests{exporter=\"otlphttp/x\"} ";
    let shown = |metrics: String| metrics.lines().find_map(|l| l.strip_prefix(aside)?.parse::<u64>().ok());
    while shown(get(ground.metrics, "/metrics").await.1) != Some(1) {}
    backend.never(None);
    backend.until(&(&others | &names(&[first], Signal::Traces))).await;
    while shown(get(ground.metrics, "/metrics").await.1) != Some(0) {}
    ground.stop().await;
}

/// Commits two segments, one after the other.
async fn committed_in_turn(site: &Site, ground: &Running) -> Vec<Segment> {
    let segments: Vec<Segment> = (1..=2).map(|sequence| mixed(sequence, 40)).collect();
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..3).await;
    for (sequence, segment) in (1..).zip(&segments) {
        sat.send(segment).await;
        sat.committed(&[sequence]).await;
    }
    segments
}

/// A request of which a part is never decided holds nothing else back, and what is decided of it is not sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_decided_in_part_holds_no_other_back() {
    let site = Site::new();
    let (backend, address) = Backend::that_takes(Some(20)).await;
    backend.never(Some(("/v1/logs", StatusCode::SERVICE_UNAVAILABLE, "log 1 30")));
    let ground = Running::start(site.config("", &exporter(address))).await;
    let segments = committed_in_turn(&site, &ground).await;
    let first_half = (0..20).map(|n| format!("log 1 {n}")).collect();
    backend.until(&(&names(&segments, Signal::Traces) | &first_half)).await;
    backend.never(None);
    backend.until(&(&names(&segments, Signal::Traces) | &names(&segments, Signal::Logs))).await;
    assert_eq!(ground.drained("sat-1").await.dead_lettered, Counts::ZERO.into());
    ground.stop().await;
}

/// A request that is on its way for long holds nothing else back, and its answer counts when the program ends meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_on_its_way_holds_no_other_back_and_its_answer_is_waited_for_at_the_end() {
    let site = Site::new();
    let (backend, address) = Backend::start().await;
    let gate = Arc::clone(&backend.gate);
    let shut = gate.lock().await;
    let ground = Running::start(site.config("", &exporter(address))).await;
    let segments = committed_in_turn(&site, &ground).await;
    // It has the log records of the first segment, too, but has not said so.
    backend.until(&(&names(&segments, Signal::Traces) | &names(&segments[..1], Signal::Logs))).await;
    tokio::join!(ground.stop(), async { drop(shut) });

    let ground = Running::start(site.config("", &exporter(address))).await;
    backend.until(&(&names(&segments, Signal::Traces) | &names(&segments, Signal::Logs))).await;
    let account = ground.drained("sat-1").await;
    assert_eq!((account.exported.spans, account.exported.log_records), (80, 80));
    ground.stop().await;
}
