use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http_body_util::BodyExt;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use prost::Message;

use super::super::{Compression, OtlpConfig, OtlpHttpConfig, RetryConfig};
use super::*;
use crate::serve::{Closed, Endpoint, Limits, Listener, keep};
use crate::units::Span;

/// A request of log records with these numbers as their times.
fn request(times: std::ops::Range<u64>) -> Bytes {
    let record = |time_unix_nano| LogRecord { time_unix_nano, ..Default::default() };
    let scope_logs = vec![ScopeLogs { log_records: times.map(record).collect(), ..Default::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..Default::default() }];
    ExportLogsServiceRequest { resource_logs }.encode_to_vec().into()
}

fn times(body: &[u8]) -> Vec<u64> {
    let request = ExportLogsServiceRequest::decode(body).unwrap();
    let scopes = request.resource_logs.into_iter().flat_map(|r| r.scope_logs);
    scopes.flat_map(|s| s.log_records).map(|r| r.time_unix_nano).collect()
}

/// What a backend has seen and taken.
#[derive(Default)]
struct Seen {
    requests: AtomicUsize,
    taken: Mutex<Vec<u64>>,
}

/// A backend that answers with these codes and delays to the requests that this says, and takes the rest; what sends to it.
async fn backend(
    refuses: impl Fn(usize, &[u64]) -> Option<(u16, Option<u32>)> + Clone + Send + Sync + 'static,
) -> (Delivery, Arc<Seen>, CancellationToken) {
    backend_of_kind("text/plain", refuses).await
}

/// The same with refusals of this kind.
async fn backend_of_kind(
    kind: &'static str,
    refuses: impl Fn(usize, &[u64]) -> Option<(u16, Option<u32>)> + Clone + Send + Sync + 'static,
) -> (Delivery, Arc<Seen>, CancellationToken) {
    let seen = Arc::new(Seen::default());
    let backend = Arc::clone(&seen);
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let (seen, refuses) = (Arc::clone(&backend), refuses.clone());
        async move {
            let number = seen.requests.fetch_add(1, Ordering::Relaxed);
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let times = times(&body);
            let (code, after) = refuses(number, &times).unwrap_or((200, None));
            if code == 200 {
                seen.taken.lock().unwrap().extend(times);
            }
            let kind = if code == 200 { "text/plain" } else { kind };
            let mut answer = http::Response::builder().status(code).header("content-type", kind);
            if let Some(seconds) = after {
                answer = answer.header("retry-after", seconds);
            }
            Ok::<_, Infallible>(answer.body(format!("not these, says request {number}")).unwrap())
        }
    });
    let listener = Listener::bind(&Endpoint::Tcp("127.0.0.1:0".into()), "a test", None).await.unwrap();
    let mut config = OtlpHttpConfig::new(format!("http://{}", listener.local_addr().unwrap()));
    config.compression = Compression::None;
    config.retry_on_failure = RetryConfig { initial_interval: Span::millis(1), ..RetryConfig::default() };
    config.retry_on_failure.max_interval = Span::millis(1);
    let stop = CancellationToken::new();
    let tasks = crate::supervise::Supervisor::new(&Env::production());
    keep(&tasks, "test", listener, (Limits::default(), Closed::default()), service, stop.clone());
    let (env, config) = (Env::production(), ExporterConfig::OtlpHttp(config));
    let client = Client::try_new("exporters.otlphttp", &config, &env).unwrap();
    (Delivery::new(client, &config, &env), seen, stop)
}

/// Sends `count` records to a backend that answers with `code` what this says, and takes the rest.
async fn deliver(
    count: u64,
    code: u16,
    refuses: impl Fn(usize, &[u64]) -> bool + Clone + Send + Sync + 'static,
) -> (Delivered, Arc<Seen>, usize) {
    let (mut delivery, seen, stop) =
        backend(move |number, times| refuses(number, times).then_some((code, None))).await;
    let mut retries = 0;
    let tell = |event: Event<'_>| retries += usize::from(matches!(event, Event::Retry { .. }));
    let delivered = delivery.send(Signal::Logs, request(0..count), count, &stop, tell).await.unwrap();
    stop.cancel();
    (delivered, seen, retries)
}

/// Sends 8 records that may be left.
async fn send_or_leave(delivery: &mut Delivery, trouble: Option<Trouble>) -> Sent {
    let (early, stop) = (CancellationToken::new(), CancellationToken::new());
    let leave = Leave { early: &early, waits: 3, trouble };
    delivery.send_or_leave(Signal::Logs, request(0..8), 8, &stop, leave, |_| ()).await.unwrap()
}

#[tokio::test]
async fn a_request_is_left_before_a_wait_that_others_would_notice() {
    let (mut delivery, seen, stop) = backend(|number, _| (number == 0).then_some((429, Some(60)))).await;
    let Sent::Undecided(wait, trouble) = send_or_leave(&mut delivery, None).await else { panic!() };
    assert_eq!(wait, Duration::from_secs(60), "after the first answer");
    assert!(!trouble.is_on_its_way());
    assert!(matches!(send_or_leave(&mut delivery, Some(trouble)).await, Sent::Done(_)));
    assert_eq!(*seen.taken.lock().unwrap(), (0..8).collect::<Vec<_>>());
    stop.cancel();
}

#[tokio::test]
async fn what_is_decided_in_part_may_be_left_where_there_is_room_and_is_not_sent_again() {
    // Too large as a whole; the half with the last record is not decided the first time.
    let refuses = |number: usize, times: &[u64]| match times.len() {
        8 => Some((413, None)),
        _ if times.contains(&7) && number < 3 => Some((503, Some(60))),
        _ => None,
    };
    let (mut delivery, seen, stop) = backend(refuses).await;
    let Sent::Undecided(wait, trouble) = send_or_leave(&mut delivery, None).await else { panic!() };
    assert_eq!((wait, seen.requests.load(Ordering::Relaxed)), (Duration::from_secs(60), 3));
    assert_eq!(*seen.taken.lock().unwrap(), [0, 1, 2, 3]);
    seen.taken.lock().unwrap().clear();
    let Sent::Done(delivered) = send_or_leave(&mut delivery, Some(trouble)).await else { panic!() };
    assert_eq!(delivered, Delivered::default());
    assert_eq!(*seen.taken.lock().unwrap(), [4, 5, 6, 7], "the first half was taken before");
    stop.cancel();
}

#[tokio::test]
async fn a_bad_item_is_found_with_few_requests_and_its_neighbours_get_through() {
    for code in [400, 413, 422, 500] {
        for bad in [0, 77, 199] {
            let (delivered, seen, _) = deliver(200, code, move |_, times| times.contains(&bad)).await;
            let refused: Vec<u64> = delivered.refused.iter().flat_map(|r| times(&r.body)).collect();
            assert_eq!(refused, [bad], "{code}");
            assert!(delivered.refused[0].reason.contains("not these"), "the backend's own words");
            let taken = seen.taken.lock().unwrap().len();
            assert_eq!(taken, 199, "{code}");
            // 4 × log2 200.
            let requests = seen.requests.load(Ordering::Relaxed);
            assert!(requests <= 30, "{code}: {requests} requests");
        }
    }
}

/// A gRPC backend that answers with this code to requests that have a record with one of these numbers; requests that it has had.
async fn over_grpc(code: u32, bad: u64) -> (Delivered, usize, Vec<u64>) {
    let seen = Arc::new(Seen::default());
    let backend = Arc::clone(&seen);
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let seen = Arc::clone(&backend);
        async move {
            seen.requests.fetch_add(1, Ordering::Relaxed);
            let body = request.into_body().collect().await.unwrap().to_bytes();
            // Behind the frame's flag and length.
            let times = times(&body[5..]);
            let is_bad = times.contains(&bad);
            if !is_bad {
                seen.taken.lock().unwrap().extend(times);
            }
            let answer = http::Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", if is_bad { code } else { 0 })
                .header("grpc-message", "not these");
            Ok::<_, Infallible>(answer.body(String::new()).unwrap())
        }
    });
    let listener = Listener::bind(&Endpoint::Tcp("127.0.0.1:0".into()), "a test", None).await.unwrap();
    let mut config = OtlpConfig::new(listener.local_addr().unwrap().to_string());
    config.compression = Compression::None;
    let stop = CancellationToken::new();
    let tasks = crate::supervise::Supervisor::new(&Env::production());
    keep(&tasks, "test", listener, (Limits::default(), Closed::default()), service, stop.clone());
    let (env, config) = (Env::production(), ExporterConfig::Otlp(config));
    let client = Client::try_new("exporters.otlp", &config, &env).unwrap();
    let mut delivery = Delivery::new(client, &config, &env);
    let delivered = delivery.send(Signal::Logs, request(0..200), 200, &stop, |_| ()).await.unwrap();
    stop.cancel();
    let taken = seen.taken.lock().unwrap().clone();
    (delivered, seen.requests.load(Ordering::Relaxed), taken)
}

#[tokio::test]
async fn a_bad_item_is_found_over_grpc_too() {
    // INVALID_ARGUMENT, INTERNAL, UNKNOWN.
    for code in [3, 13, 2] {
        for bad in [0, 77, 199] {
            let (delivered, requests, taken) = over_grpc(code, bad).await;
            let refused: Vec<u64> = delivered.refused.iter().flat_map(|r| times(&r.body)).collect();
            assert_eq!(refused, [bad], "{code}");
            assert!(delivered.refused[0].reason.contains("not these"), "the backend's own words");
            assert_eq!((taken.len(), taken.contains(&bad)), (199, false), "{code}");
            assert!(requests <= 30, "{code}: {requests} requests");
        }
    }
}

#[tokio::test]
async fn what_fails_whole_with_500_is_kept_and_sent_again() {
    for count in [1, 2, 100] {
        let (delivered, seen, retries) = deliver(count, 500, |number, _| number < 12).await;
        assert_eq!(delivered.refused, [], "{count}");
        let mut taken = seen.taken.lock().unwrap().clone();
        // It may have come back between two pieces.
        taken.sort_unstable();
        assert_eq!(taken, (0..count).collect::<Vec<_>>(), "once each");
        assert!(retries > 0);
    }
}

#[tokio::test]
async fn a_backend_that_fails_with_other_words_each_time_loses_nothing() {
    let (mut delivery, seen, stop) = backend(|number, _| (number < 40).then_some((500, None))).await;
    let delivered = delivery.send(Signal::Logs, request(0..64), 64, &stop, |_| ()).await.unwrap();
    assert_eq!(delivered, Delivered::default());
    assert_eq!(*seen.taken.lock().unwrap(), (0..64).collect::<Vec<_>>());
    stop.cancel();
}

#[tokio::test]
async fn a_backend_that_fails_while_a_bad_item_is_looked_for_costs_that_item_alone() {
    for code in [400, 500] {
        for bad in [0, 20, 63] {
            // The less is left to look at, the sooner it is held to be at fault.
            for (begin, time) in [(2, 60), (3, 60), (5, 40), (8, 8), (11, 8), (14, 8)] {
                let refuses = move |number: usize, times: &[u64]| match number {
                    _ if (begin..begin + time).contains(&number) => Some((500, None)),
                    _ => times.contains(&bad).then_some((code, None)),
                };
                let (mut delivery, seen, stop) = backend(refuses).await;
                let sent = delivery.send(Signal::Logs, request(0..64), 64, &stop, |_| ()).await.unwrap();
                let refused: Vec<u64> = sent.refused.iter().flat_map(|r| times(&r.body)).collect();
                assert_eq!(refused, [bad], "{code} from request {begin}");
                let mut taken = seen.taken.lock().unwrap().clone();
                taken.sort_unstable();
                assert_eq!(taken, (0..64).filter(|n| *n != bad).collect::<Vec<_>>());
                stop.cancel();
            }
        }
    }
}

#[tokio::test]
async fn bad_items_side_by_side_are_found_to_the_last() {
    for bad in [0..20, 30..50, 44..64] {
        let refuses = {
            let bad = bad.clone();
            move |_, times: &[u64]| times.iter().any(|n| bad.contains(n))
        };
        let (delivered, seen, _) = deliver(64, 500, refuses).await;
        let mut refused: Vec<u64> = delivered.refused.iter().flat_map(|r| times(&r.body)).collect();
        refused.sort_unstable();
        assert_eq!(refused, bad.clone().collect::<Vec<_>>());
        assert_eq!(seen.taken.lock().unwrap().len(), 44);
        let requests = seen.requests.load(Ordering::Relaxed);
        assert!(requests <= 4 * 6 * 20, "{bad:?}: {requests}");
    }
}

#[test]
fn a_request_of_both_temporalities_is_cut_in_them_and_these_in_halves() {
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::metrics::v1::{
        Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric,
    };
    let sum = |aggregation_temporality| {
        let data_points =
            (1..=4).map(|time_unix_nano| NumberDataPoint { time_unix_nano, ..Default::default() });
        let data = metric::Data::Sum(Sum {
            data_points: data_points.collect(),
            aggregation_temporality,
            is_monotonic: true,
        });
        Metric { data: Some(data), ..Default::default() }
    };
    let scope_metrics = vec![ScopeMetrics { metrics: vec![sum(1), sum(2)], ..Default::default() }];
    let resource_metrics = vec![ResourceMetrics { scope_metrics, ..Default::default() }];
    let body = ExportMetricsServiceRequest { resource_metrics }.encode_to_vec().into();
    let part = Part { body, items: 8, refused: None, failed: None };
    let cut = |times| part.cut(Signal::Metrics, times).iter().map(|p| p.items).collect::<Vec<_>>();
    assert_eq!((cut(1), cut(2)), (vec![4, 4], vec![2, 2, 2, 2]));
}

#[tokio::test]
async fn a_backend_that_fails_now_and_then_loses_nothing() {
    for tenths in 1..=4 {
        let fails = move |number: usize| number.wrapping_mul(0x9e37_79b9) / 128 % 10 < tenths;
        let (mut delivery, seen, stop) = backend(move |number, _| fails(number).then_some((500, None))).await;
        for _ in 0..20 {
            let sent = delivery.send(Signal::Logs, request(0..20), 20, &stop, |_| ()).await.unwrap();
            assert_eq!(sent, Delivered::default(), "{tenths}");
        }
        assert_eq!(seen.taken.lock().unwrap().len(), 400);
        stop.cancel();
    }
}

#[tokio::test]
async fn what_is_about_the_way_is_never_cut() {
    for code in [301, 402, 406, 407, 408, 411, 415, 421, 425, 426, 451, 501, 505, 507, 508, 511, 520, 530] {
        let (delivered, seen, retries) = deliver(50, code, |number, _| number < 5).await;
        assert_eq!((delivered.refused.len(), retries), (0, 5), "{code}");
        assert_eq!(seen.requests.load(Ordering::Relaxed), 6, "{code}");
    }
}

#[tokio::test]
async fn a_proxys_page_that_says_too_large_halves_and_sets_nothing_aside() {
    // Its limit is one record, and the last is let through once somebody has raised it.
    let refuses = |number: usize, times: &[u64]| {
        (times.len() > 1 || times == [7] && number < 20).then_some((413, None))
    };
    let (mut delivery, seen, stop) = backend_of_kind("text/html; charset=utf-8", refuses).await;
    let mut kept = 0;
    let tell =
        |event: Event<'_>| kept += usize::from(matches!(event, Event::Retry { misconfigured: true, .. }));
    let delivered = delivery.send(Signal::Logs, request(0..8), 8, &stop, tell).await.unwrap();
    assert_eq!(delivered, Delivered::default());
    assert!(kept > 0);
    assert_eq!(*seen.taken.lock().unwrap(), (0..8).collect::<Vec<_>>());
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_kept_is_told_every_ten_minutes_and_its_reason_once() {
    let (env, config) = (Env::production(), OtlpHttpConfig::new("http://127.0.0.1:1".to_owned()));
    let config = ExporterConfig::OtlpHttp(config);
    let client = Client::try_new("exporters.otlphttp", &config, &env).unwrap();
    let mut delivery = Delivery::new(client, &config, &env);
    let (began, stop) = (Instant::now(), CancellationToken::new());
    let (mut told, mut said) = (Vec::new(), Vec::new());
    while began.elapsed() < Duration::from_secs(1900) {
        let mut tell = |event: Event<'_>| {
            if let Event::Kept { time, reason } = event {
                assert_eq!(reason, "closed");
                told.push(time.as_secs() / 60);
            }
            said.extend(matches!(event, Event::Retry { news: true, .. }).then(|| began.elapsed()));
        };
        let until = Until { shutdown: &stop, leave: None };
        assert!(
            delivery
                .pause(None, "closed", false, (&mut Open::default(), true), until, &mut tell)
                .await
                .is_ok()
        );
    }
    assert_eq!(said, [Duration::ZERO], "the reason is said once");
    for (reason, news) in [("closed", 0), ("busy", 1), ("closed", 0), ("busy", 0)] {
        let mut count = 0;
        let mut tell =
            |event: Event<'_>| count += usize::from(matches!(event, Event::Retry { news: true, .. }));
        let until = Until { shutdown: &stop, leave: None };
        assert!(
            delivery.pause(None, reason, false, (&mut Open::default(), true), until, &mut tell).await.is_ok()
        );
        assert_eq!(count, news, "{reason}");
    }
    // A wait is up to 45 s.
    assert!(matches!(told[..], [10, 20..=21, 30..=32]), "{told:?}");
}

#[test]
fn a_backend_that_refuses_the_exporter_is_one_line_of_the_log() {
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    struct Lines(Arc<Mutex<Vec<tracing::Level>>>);

    impl<S: tracing::Subscriber> Layer<S> for Lines {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            self.0.lock().unwrap().push(*event.metadata().level());
        }
    }

    let seen = Arc::<Mutex<Vec<_>>>::default();
    let said = |misconfigured, news| {
        let wait = Duration::from_secs(1);
        let event = Event::Retry { wait, reason: "404 Not Found", misconfigured, news };
        let subscriber = tracing_subscriber::registry().with(Lines(Arc::clone(&seen)));
        tracing::subscriber::with_default(subscriber, || event.log("otlp", Signal::Logs, "spool"));
        std::mem::take(&mut *seen.lock().unwrap())
    };
    assert_eq!(said(true, true), [tracing::Level::ERROR]);
    assert_eq!(said(false, true), [tracing::Level::WARN]);
    assert_eq!(
        (said(true, false), said(false, false)),
        (vec![tracing::Level::DEBUG], vec![tracing::Level::DEBUG])
    );
}
