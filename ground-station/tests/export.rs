//! Exporters against backends that are down, slow, full of opinions, or wrong.

#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use ground_station::spool::ReplayWanted;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use perigee_shared::segment::Lane;
use prost::Message;
use support::{EPOCH, Running, Site, columns, get, lane, sealed, segment};

/// How a backend answers.
#[derive(Default)]
struct Opinion {
    /// Requests that get 503 before any is taken.
    unavailable: u32,
    /// But not any more once it was asked about a span whose name begins with this.
    wakes_up_at: Option<String>,
    /// Spans whose name begins with this make it refuse the request.
    refuses: Option<String>,
    /// Requests with more spans get 413.
    max_spans: Option<usize>,
    /// It wants a credential that the exporter does not have.
    unauthorized: bool,
    /// Says that it rejected so many of each request.
    rejects: u64,
    /// Names of the spans it took, and how often.
    taken: BTreeMap<String, u32>,
    /// The first span of each request, taken or not, and of those that were taken.
    asked: Vec<String>,
    order: Vec<String>,
    headers: Vec<HeaderMap>,
}

#[derive(Clone, Default)]
struct Backend(Arc<Mutex<Opinion>>);

impl Backend {
    async fn start(opinion: Opinion) -> (Self, SocketAddr) {
        let backend = Self(Arc::new(Mutex::new(opinion)));
        let router = Router::new()
            .route("/v1/traces", axum::routing::post(take))
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(backend.clone());
        (backend, support::serve(router).await)
    }

    fn with<R>(&self, work: impl FnOnce(&mut Opinion) -> R) -> R {
        work(&mut self.0.lock().unwrap())
    }

    fn taken(&self) -> usize {
        self.with(|o| {
            assert!(o.taken.values().all(|n| *n == 1), "nothing twice");
            o.taken.len()
        })
    }
}

async fn take(State(backend): State<Backend>, headers: HeaderMap, body: Bytes) -> impl IntoResponse {
    let (code, answer) = decide(&backend, headers, body);
    (code, [(CONTENT_TYPE, "application/x-protobuf")], answer)
}

fn decide(backend: &Backend, headers: HeaderMap, body: Bytes) -> (StatusCode, Vec<u8>) {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let spans = request.resource_spans.into_iter().flat_map(|r| r.scope_spans).flat_map(|s| s.spans);
    let names: Vec<String> = spans.map(|s| s.name).collect();
    backend.with(|o| {
        o.headers.push(headers);
        o.asked.push(names[0].clone());
        if o.unavailable > 0 {
            let wakes_up = o.wakes_up_at.as_ref().is_some_and(|name| names[0].starts_with(name.as_str()));
            o.unavailable = if wakes_up { 0 } else { o.unavailable - 1 };
            return (StatusCode::SERVICE_UNAVAILABLE, Vec::new());
        }
        if o.unauthorized {
            return (StatusCode::UNAUTHORIZED, Vec::new());
        }
        if o.max_spans.is_some_and(|max| names.len() > max) {
            return (StatusCode::PAYLOAD_TOO_LARGE, Vec::new());
        }
        if names.iter().any(|n| o.refuses.as_ref().is_some_and(|r| n.starts_with(r.as_str()))) {
            return (StatusCode::BAD_REQUEST, Vec::new());
        }
        o.order.push(names[0].clone());
        for name in names {
            *o.taken.entry(name).or_default() += 1;
        }
        let mut answer = Vec::new();
        if o.rejects > 0 {
            answer = vec![0x0a, 2, 8, o.rejects as u8];
        }
        (StatusCode::OK, answer)
    })
}

fn exporter(name: &str, address: SocketAddr) -> String {
    format!(
        "{name}: {{endpoint: \"http://{address}\", compression: none, \
         retry_on_failure: {{initial_interval: 1ms, max_interval: 5ms}}}}"
    )
}

/// A ground-station with these exporters and a segment of so many spans.
async fn ground(site: &Site, exporters: &str, spans: usize) -> Running {
    let ground = Running::start(site.config("", exporters)).await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..2).await;
    sat.send(&segment(1, spans)).await;
    sat.committed(&[1]).await;
    ground
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_down_gets_everything_once_when_it_is_up() {
    let site = Site::new();
    let (backend, address) = Backend::start(Opinion { unavailable: 7, ..Opinion::default() }).await;
    let ground = ground(&site, &exporter("otlphttp/x", address), 100).await;
    let account = ground.drained("sat-1").await;
    assert_eq!((account.exported.spans, backend.taken()), (100, 100));
    let (_, metrics) = get(ground.metrics, "/metrics").await;
    assert!(metrics.contains("perigee_exporter_retries_total{exporter=\"otlphttp/x\"} 7"), "{metrics}");
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_backend_refuses_is_found_by_halving_and_the_rest_gets_through() {
    let site = Site::new();
    let opinion = Opinion { refuses: Some("s1-37-".to_owned()), max_spans: Some(40), ..Opinion::default() };
    let (backend, address) = Backend::start(opinion).await;
    let ground = ground(&site, &exporter("otlphttp/x", address), 100).await;
    let account = ground.drained("sat-1").await;
    assert_eq!((account.exported.spans, account.dead_lettered.spans, backend.taken()), (99, 1, 99));

    // The backend is mended, and the operator has the letter sent again.
    backend.with(|o| o.refuses = None);
    assert_eq!(ground.store.as_ref().unwrap().replays().replay(None).await.unwrap(), 1);
    while backend.taken() < 100 {
        tokio::task::yield_now().await;
    }
    loop {
        let account = ground.account("sat-1").await;
        if account.dead_lettered.spans == 0 {
            assert_eq!(account.exported.spans, 100);
            break;
        }
    }
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_sends_requests_and_not_one_item_each() {
    let site = Site::new();
    let opinion = Opinion { refuses: Some("s1-".to_owned()), ..Opinion::default() };
    let (backend, address) = Backend::start(opinion).await;
    let ground = ground(&site, &exporter("otlphttp/x", address), 100).await;
    assert_eq!(ground.drained("sat-1").await.dead_lettered.spans, 100);
    let replay = async |left: u64| {
        let before = backend.with(|o| o.headers.len());
        assert_eq!(ground.store.as_ref().unwrap().replays().replay(None).await.unwrap(), 100);
        while ground.account("sat-1").await.dead_lettered.spans > left
            || ground.store.as_ref().unwrap().views().letters(0, 1000).await.unwrap().iter().any(|l| l.replay)
        {
            tokio::task::yield_now().await;
        }
        backend.with(|o| o.headers.len()) - before
    };
    // One of them is still refused.
    backend.with(|o| o.refuses = Some("s1-37-".to_owned()));
    let requests = replay(1).await;
    assert!(requests <= 28, "{requests} requests for 100 letters");
    assert_eq!(backend.taken(), 99);
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exporter_that_is_down_holds_no_other_back_and_resumes_after_a_restart() {
    let site = Site::new();
    let (up, up_address) = Backend::start(Opinion::default()).await;
    let (down, down_address) = Backend::start(Opinion { unavailable: u32::MAX, ..Opinion::default() }).await;
    let exporters =
        format!("{}\n  {}", exporter("otlphttp/up", up_address), exporter("otlphttp/down", down_address));
    let ground = ground(&site, &exporters, 50).await;
    while up.taken() < 50 {
        tokio::task::yield_now().await;
    }
    assert_eq!(ground.account("sat-1").await.exported.spans, 0, "one of them still has to take it");
    ground.stop().await;

    down.with(|o| o.unavailable = 0);
    let ground = Running::start(site.config("", &exporters)).await;
    assert_eq!(ground.drained("sat-1").await.exported.spans, 50);
    assert_eq!((up.taken(), down.taken()), (50, 50));
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_send_nothing_to_dead_letter() {
    let site = Site::new();
    let (backend, address) = Backend::start(Opinion { unauthorized: true, ..Opinion::default() }).await;
    let ground = ground(&site, &exporter("otlphttp/x", address), 50).await;
    while backend.with(|o| o.headers.len()) < 5 {
        tokio::task::yield_now().await;
    }
    let account = ground.account("sat-1").await;
    assert_eq!((account.in_spool.spans, account.dead_lettered.spans), (50, 0));
    backend.with(|o| o.unauthorized = false);
    assert_eq!(ground.drained("sat-1").await.exported.spans, 50);
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_items_are_counted() {
    let site = Site::new();
    let (_backend, address) = Backend::start(Opinion { rejects: 3, ..Opinion::default() }).await;
    let ground = ground(&site, &exporter("otlphttp/x", address), 50).await;
    let account = ground.drained("sat-1").await;
    assert_eq!((account.exported.spans, account.rejected.spans), (50, 3));
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_cannot_be_read_goes_to_dead_letter() {
    let site = Site::new();
    let (_backend, address) = Backend::start(Opinion::default()).await;
    let ground = ground(&site, &exporter("otlphttp/x", address), 5).await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(2..3).await;
    sat.send(&sealed(2, b"\x0a\xff", 1)).await;
    sat.committed(&[2]).await;
    ground.drained("sat-1").await;
    let (_, letters) = get(ground.api, "/api/v1/dead-letters").await;
    assert!(letters.contains("the request cannot be read"), "{letters}");
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_that_lean_on_exported_ones_are_exported_once() {
    let site = Site::new();
    let (backend, address) = Backend::start(Opinion::default()).await;
    let (first, base) = columns(1, 40, None);
    let (second, next) = columns(2, 40, Some((1, &base)));
    let (third, _) = columns(3, 40, Some((2, &next)));
    let epoch = |on_board: std::ops::Range<u64>| perigee_proto::link::Epoch {
        epoch: EPOCH,
        start_counter: 1,
        lanes: vec![perigee_proto::link::Lane { oldest_base: Some(1), ..lane(on_board, 4) }],
        ..Default::default()
    };
    for (number, segment) in [(1, &first), (2, &second), (3, &third)] {
        // Each time the program has forgotten what it had decoded.
        let ground = Running::start(site.config("", &exporter("otlphttp/x", address))).await;
        let mut sat = site.satellite("sat-1", ground.address).await;
        sat.hello_epoch(epoch(number..4)).await;
        sat.send(segment).await;
        sat.committed(&[number]).await;
        assert_eq!(ground.drained("sat-1").await.exported.spans, number * 40);
        ground.stop().await;
    }
    assert_eq!(backend.taken(), 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_stops_reading_drops_nothing_and_goes_on_when_there_is_room() {
    let site = Site::new();
    let (backend, address) = Backend::start(Opinion { unavailable: u32::MAX, ..Opinion::default() }).await;
    let ground = Running::start(site.config("", &exporter("otlphttp/x", address))).await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..41).await;
    // About 9 MiB into a spool of 8.
    let segments: Vec<_> = (1..41).map(|n| segment(n, 8_000)).collect();
    let total: u64 = segments.iter().map(|s| s.header.payload_len).sum();
    assert!(total > 9 << 20, "{total}");
    // Two at a time, as an agent has them: with more of them the parts alone could fill the spool, and links would be closed.
    let sending = tokio::spawn(async move {
        let mut open = BTreeSet::new();
        for (n, segment) in (1u64..).zip(&segments) {
            sat.send(segment).await;
            open.insert(n);
            while open.len() > if n == 40 { 0 } else { 1 } {
                for id in sat.ack().await.committed {
                    open.remove(&id.sequence);
                }
            }
        }
    });
    let mut status = ground.store.as_ref().unwrap().status();
    status.wait_for(|s| s.full).await.unwrap();
    assert!(status.borrow().used <= 8 << 20);
    backend.with(|o| o.unavailable = 0);
    // Every one is committed.
    sending.await.unwrap();
    let account = ground.drained("sat-1").await;
    assert_eq!((account.exported.spans, account.dead_lettered.spans), (320_000, 0));
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_full_of_partial_segments_gives_some_up_and_takes_them_again() {
    let site = Site::new();
    let (_backend, address) = Backend::start(Opinion::default()).await;
    let ground = Running::start(site.config("", &exporter("otlphttp/x", address))).await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..41).await;
    let segments: Vec<_> = (1..41).map(|n| segment(n, 8_000)).collect();
    let (connection, parts) = (sat.connection.clone(), segments.clone());
    // Of each segment all but the last byte, which never comes: more than fits.
    let sending = tokio::spawn(async move {
        let mut streams = Vec::new();
        for segment in parts {
            let open = perigee_proto::link::SegmentOpen {
                header: Some((&segment.header).into()),
                ranges: vec![perigee_proto::link::Range { start: 0, end: segment.header.payload_len }],
                age_milli: None,
            };
            let mut stream = connection.open_uni().await?;
            stream.write_all(&perigee_shared::link::wire::frame(&open)).await?;
            stream.write_all(&segment.payload[..segment.payload.len() - 1]).await?;
            streams.push(stream);
        }
        connection.closed().await;
        Ok::<_, quinn::WriteError>(())
    });
    let closed = sat.connection.closed().await;
    assert!(
        matches!(&closed, quinn::ConnectionError::ApplicationClosed(c) if c.error_code == 7u32.into()),
        "{closed}"
    );
    // It has ended with the connection, in the middle of a segment or not.
    drop(sending.await.unwrap());
    let mut sat = site.satellite("sat-1", ground.address).await;
    let resume = sat.hello(1..41).await;
    // What the connection held in memory when it was closed is kept beside what was not given up.
    let partials = resume.epochs.iter().flat_map(|e| &e.lanes).flat_map(|l| &l.partials);
    let held: u64 = partials.flat_map(|p| &p.held).map(|r| r.end - r.start).sum();
    assert!((1..6 << 20).contains(&held), "{held}");
    for (n, segment) in (1..).zip(&segments) {
        sat.send(segment).await;
        sat.committed(&[n]).await;
    }
    assert_eq!(ground.drained("sat-1").await.exported.spans, 320_000);
    ground.stop().await;
}

/// A segment of the lane of alarms.
fn alarm(sequence: u64, spans: usize) -> support::Segment {
    let mut alarm = segment(sequence, spans);
    alarm.header.id.lane = Lane(1);
    alarm
}

/// Waits until this holds of a backend.
async fn until(backend: &Backend, holds: impl Fn(&Opinion) -> bool) {
    while !backend.with(|o| holds(o)) {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_behind_a_day_of_bulk_goes_first_and_bulk_goes_on_where_it_was_left() {
    let site = Site::new();
    let (backend, address) = Backend::start(Opinion { unavailable: u32::MAX, ..Opinion::default() }).await;
    let fast = exporter("otlphttp/x", address);
    let slow = fast.replace("compression:", "rate_limit: 500, compression:");
    assert_ne!(fast, slow);
    let ground = ground(&site, &slow, 23_000).await;
    until(&backend, |o| !o.asked.is_empty()).await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(2..2).await;
    // The exporter waits to send bulk again. It leaves that, though the backend is still down.
    backend.with(|o| o.wakes_up_at = Some("s100-".to_owned()));
    sat.send(&alarm(100, 1)).await;
    sat.committed(&[100]).await;
    let first = |o: &Opinion, segment: &str| o.order.iter().position(|name| name.starts_with(segment));
    until(&backend, |o| first(o, "s1-").is_some()).await;
    // Now it waits for its rate, 16 s, in the middle of the segment, whichever of the two was tried again first.
    sat.send(&alarm(101, 1)).await;
    sat.committed(&[101]).await;
    until(&backend, |o| first(o, "s101-").is_some()).await;
    let (bulk, [one, other]) = backend.with(|o| {
        let bulk = o.order.iter().filter(|name| name.starts_with("s1-")).count();
        (bulk, ["s100-", "s101-"].map(|alarm| first(o, alarm)))
    });
    // The alarms did not wait for the rest of the segment.
    assert_eq!(bulk, 1);
    assert!(one.is_some() && one < other, "{one:?} {other:?}");
    ground.stop().await;

    let ground = Running::start(site.config("", &fast)).await;
    assert_eq!(ground.drained("sat-1").await.exported.spans, 23_002);
    assert_eq!(backend.taken(), 23_002);
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_keeps_a_tenth_of_what_is_sent_while_alarms_do_not_end() {
    const ALARMS: usize = 23;
    let site = Site::new();
    let (backend, address) = Backend::start(Opinion { unavailable: u32::MAX, ..Opinion::default() }).await;
    let mut config = site.config("", &exporter("otlphttp/x", address));
    // There is room for all of it.
    config.storage.max_bytes = perigee_shared::units::ByteSize::mib(32);
    let ground = Running::start(config).await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..3).await;
    for sequence in [1, 2] {
        sat.send(&segment(sequence, 8_192)).await;
    }
    sat.committed(&[1, 2]).await;
    let alarms = 100..100 + ALARMS as u64;
    for sequence in alarms.clone() {
        sat.send(&alarm(sequence, 8_192)).await;
    }
    sat.committed(&alarms.collect::<Vec<_>>()).await;
    until(&backend, |o| o.asked.last().is_some_and(|name| name.starts_with("s100-"))).await;
    backend.with(|o| o.unavailable = 0);
    ground.drained("sat-1").await;
    assert_eq!(backend.taken(), (ALARMS + 2) * 8_192);
    let order = backend.with(|o| o.order.clone());
    // While nothing was taken each was tried in its turn, so one of bulk may have been the first that was, and count.
    let is_bulk = |name: &&String| name.starts_with("s1-") || name.starts_with("s2-");
    let alarms = order.iter().skip_while(is_bulk);
    let bulk = alarms.clone().position(|name| is_bulk(&name)).unwrap();
    assert!(alarms.count() > ALARMS && (10..22).contains(&bulk), "one request in ten: {bulk} of {order:?}");
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_reaches_a_backend_that_is_new_and_goes_on_where_it_was_stopped() {
    let site = Site::new();
    let keep = |exporters: &str| {
        let mut config = site.config("", exporters);
        config.storage.keep.age = perigee_shared::units::Span::secs(86_400);
        config.storage.keep.bytes = perigee_shared::units::ByteSize::mib(64);
        config
    };
    let (first, at_first) = Backend::start(Opinion::default()).await;
    let ground = Running::start(keep(&exporter("otlphttp/x", at_first))).await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..5).await;
    for sequence in 1..=4 {
        sat.send(&segment(sequence, 50)).await;
    }
    sat.committed(&[1, 2, 3, 4]).await;
    ground.drained("sat-1").await;
    ground.stop().await;
    // It takes one request, and then nothing.
    let opinion = Opinion { refuses: Some("s3-7-".to_owned()), ..Opinion::default() };
    let (late, at_late) = Backend::start(opinion).await;
    let both = format!("{}\n  {}", exporter("otlphttp/x", at_first), exporter("otlphttp/late", at_late));
    let ground = Running::start(keep(&both)).await;
    let store = ground.store.clone().unwrap();
    late.with(|o| o.unavailable = u32::MAX);
    let wanted = ReplayWanted { exporter: "otlphttp/late".to_owned(), ..ReplayWanted::default() };
    store.replays().replay_range(wanted).await.unwrap();
    while late.with(|o| o.asked.is_empty()) {
        tokio::task::yield_now().await;
    }
    drop(store);
    ground.stop().await;
    // Streams arrive in any order.
    let begun = late.with(|o| o.asked[0].clone());
    assert_eq!(late.taken(), 0);
    late.with(|o| o.unavailable = 0);
    let ground = Running::start(keep(&both)).await;
    let store = ground.store.clone().unwrap();
    let done = loop {
        let replay = store.replays().ranges().await.unwrap().remove(0);
        if replay.state == "done" {
            break replay;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((late.taken(), first.taken()), (199, 200), "each once");
    assert_eq!((done.segments, done.items.spans, done.refused.spans), (4, 199, 1));
    assert_eq!(late.with(|o| o.order[0].clone()), begun, "it goes on where it was stopped");
    let account = ground.account("sat-1").await;
    assert_eq!((account.exported.spans, account.dead_lettered.spans), (200, 0), "no count changes");
    let (_, metrics) = get(ground.metrics, "/metrics").await;
    assert!(metrics.contains("perigee_ground_replayed_spans{satellite=\"sat-1\"} 199"), "{metrics}");
    drop(store);
    ground.stop().await;
}
