//! Dead letters of a kind, alarms on board, and what pages are asked for: over a backend that takes nothing.

#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use std::net::SocketAddr;

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use ground_station::console::ConsoleConfig;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use perigee_proto::link;
use perigee_shared::segment::{Codec, Encoder, Header, hash};
use perigee_shared::signal::{Counts, Signal};
use prost::Message;
use serde_json::Value;
use support::{Running, Segment, Site, get, sealed, segment};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const ACT: &str = "act-0123456789abcdef0";

/// Refuses each request in words that depend on its first span: of the first segment in others than of later ones.
async fn refuse(body: Bytes) -> impl IntoResponse {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut spans = request.resource_spans.into_iter().flat_map(|r| r.scope_spans).flat_map(|s| s.spans);
    let of_first = spans.next().is_some_and(|span| span.name.starts_with("s1-"));
    (StatusCode::BAD_REQUEST, [(CONTENT_TYPE, "text/plain")], if of_first { "too blue" } else { "too green" })
}

async fn start(site: &Site) -> Running {
    let backend = support::serve(Router::new().route("/v1/traces", axum::routing::post(refuse))).await;
    let exporter = format!("otlphttp: {{endpoint: \"http://{backend}\", compression: none}}");
    let mut config = site.config("", &exporter);
    std::fs::write(site.path("act"), format!("ann {ACT}\n")).unwrap();
    config.extensions.console = Some(ConsoleConfig {
        endpoint: "127.0.0.1:0".to_owned(),
        tls: None,
        read_tokens_file: None,
        act_tokens_file: Some(site.path("act")),
        act_certificates: Vec::new(),
    });
    Running::start(config).await
}

async fn act(address: SocketAddr, body: &Value) -> Value {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = body.to_string();
    let head = format!(
        "POST /api/v1/dead-letters/act HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         authorization: Bearer {ACT}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

async fn list(address: SocketAddr, path: &str) -> Vec<Value> {
    serde_json::from_str(&get(address, path).await.1).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_of_dead_letters_is_discarded_and_the_others_stay() {
    let site = Site::new();
    let ground = start(&site).await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..3).await;
    for (sequence, spans) in [(1, 2), (2, 3)] {
        sat.send(&segment(sequence, spans)).await;
        sat.committed(&[sequence]).await;
    }
    let address = ground.console.unwrap();
    let letters = async || list(address, "/api/v1/dead-letters").await;
    // Each item is refused alone; both segments are passed then.
    ground.drained("sat-1").await;
    let all = letters().await;
    assert_eq!(all.len(), 5, "{all:?}");
    let reason = |word: &str| {
        let of = |letter: &&Value| letter["reason"].as_str().unwrap().contains(word);
        all.iter().find(of).unwrap()["reason"].clone()
    };
    let kind = |what: &str, word: &str| serde_json::json!({"what": what, "exporter": "otlphttp", "reason": reason(word)});
    // The backend has nothing of them, and the catalogue does not say so either.
    let rows = list(address, "/api/v1/catalogue").await;
    let said = |row: &Value| (row["sequence"].clone(), row["backends"].clone(), row["refused"].clone());
    assert_eq!(
        rows.iter().map(said).collect::<Vec<_>>(),
        [
            (2.into(), serde_json::json!([]), serde_json::json!({"otlphttp": 3})),
            (1.into(), serde_json::json!([]), serde_json::json!({"otlphttp": 2})),
        ]
    );
    assert_eq!(act(address, &kind("discard", "too blue")).await["done"], 2);
    let left = letters().await;
    assert!(
        left.len() == 3 && left.iter().all(|l| l["reason"].as_str().unwrap().contains("too green")),
        "{left:?}"
    );
    let gaps = list(address, "/api/v1/gaps").await;
    assert!(gaps.iter().all(|gap| gap["reason"] == "operator"), "{gaps:?}");
    assert_eq!(gaps.iter().map(|gap| gap["items"]["spans"].as_u64().unwrap()).sum::<u64>(), 2);
    assert_eq!(act(address, &kind("discard", "too blue")).await["done"], 0, "they are gone");
    assert_eq!(act(address, &kind("replay", "too green")).await["done"], 3);
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_items_are_filtered_by_time_and_what_is_no_place_or_time_is_refused() {
    let site = Site::new();
    let ground = start(&site).await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..2).await;
    sat.send(&segment(1, 2)).await;
    sat.committed(&[1]).await;
    ground.drained("sat-1").await;
    let address = ground.console.unwrap();
    let page = async |path: &str| get(address, path).await;
    let (_, all) = page("/data").await;
    assert!(all.contains("s1-0"), "{all}");
    for (query, is_there) in [
        ("from=0", true),
        ("until=2100-01-01T00:00", true),
        ("from=2100-01-01T00:00:00Z", false),
        ("until=1", false),
    ] {
        let (status, body) = page(&format!("/data?{query}")).await;
        assert!(status.contains("200"), "{status}");
        let items = body.split("Latest items</h2>").nth(1).unwrap();
        assert_eq!(items.contains("s1-0"), is_there, "{query}");
    }
    for path in
        ["/data?from=yesterday", "/data?after=x", "/passes?after=x", "/passes?after=1-2-3", "/gaps?after=1-2"]
    {
        let (status, body) = page(path).await;
        assert!(status.contains("400") && body.contains("<h1>"), "{path}: {status}");
    }
    for path in ["/passes?after=1-2", "/gaps?after=1-2-3-4", "/passes?after=", "/data?after=7"] {
        assert!(page(path).await.0.contains("200"), "{path}");
    }
    ground.stop().await;
}

/// A segment with an alarm of the agent and what an application said after it.
fn alarm() -> Segment {
    let text = |text: &str| Some(AnyValue { value: Some(StringValue(text.to_owned())) });
    let service =
        KeyValue { key: "service.name".to_owned(), value: text("space-agent"), ..KeyValue::default() };
    let record = |severity_number, event: &str, body: &str| LogRecord {
        time_unix_nano: 1_000,
        severity_number,
        event_name: event.to_owned(),
        body: text(body),
        ..LogRecord::default()
    };
    let mut log_records = vec![record(17, "perigee.store.failed", "the <b>store</b> failed")];
    log_records.extend((0..300).map(|_| record(9, "", "nothing")));
    let items = log_records.len() as u64;
    let resource_logs = vec![ResourceLogs {
        resource: Some(Resource { attributes: vec![service], ..Resource::default() }),
        scope_logs: vec![ScopeLogs { log_records, ..ScopeLogs::default() }],
        ..ResourceLogs::default()
    }];
    let body = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
    let mut encoder = Encoder::new(Codec::ZstdRows, None).unwrap();
    encoder.push(Signal::Logs, &body).unwrap();
    let payload = encoder.finish().unwrap().payload;
    let header = Header {
        payload_len: payload.len() as u64,
        hash: hash(&payload),
        items: Counts::of(Signal::Logs, items),
        ..sealed(1, &body, items).header
    };
    Segment { header, payload }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_on_board_is_on_fleet_and_satellite_while_its_backend_takes_nothing() {
    let site = Site::new();
    // It knows no logs, which is waited out.
    let ground = start(&site).await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..2).await;
    sat.send(&alarm()).await;
    sat.committed(&[1]).await;
    let address = ground.console.unwrap();
    loop {
        let (_, fleet) = get(address, "/").await;
        // It comes before its certificate, which ends in a day.
        if fleet.contains("its agent raised perigee.store.failed") {
            assert!(fleet.contains("the &lt;b&gt;store&lt;/b&gt; failed"), "{fleet}");
            break;
        }
        tokio::task::yield_now().await;
    }
    let (_, satellite) = get(address, "/satellites/sat-1").await;
    let alarms = satellite.split("Alarms on board</h2>").nth(1).unwrap();
    assert!(alarms.contains("perigee.store.failed"), "{alarms}");
    assert!(alarms.contains("look at the storage on board; requests are refused meanwhile"), "{alarms}");
    assert_eq!(ground.account("sat-1").await.in_spool.log_records, 301, "nothing was exported");
    ground.stop().await;
}

/// Events of a stream, each with its name, until that of this name comes.
async fn until(stream: &mut BufReader<TcpStream>, wanted: &str) -> Vec<(String, Value)> {
    let (mut seen, mut name) = (Vec::new(), String::new());
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).await.unwrap() > 0, "the stream has ended");
        if let Some(event) = line.strip_prefix("event: ") {
            event.trim().clone_into(&mut name);
        } else if let Some(data) = line.strip_prefix("data: ") {
            seen.push((name.clone(), serde_json::from_str(data).unwrap()));
            if name == wanted {
                return seen;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_passes_gaps_and_dead_letters_that_change_and_nothing_twice() {
    let site = Site::new();
    let ground = start(&site).await;
    let console = ground.console.unwrap();
    let report = |n: u64, held: u64| link::PassReport {
        station: "kourou".to_owned(),
        start_unix_nano: n * 1_000,
        end_unix_nano: n * 1_000 + 1,
        planned_bytes: 100,
        held_bytes: held,
        state: link::PassState::Cut.into(),
        ..link::PassReport::default()
    };
    let drop = |id: u64| link::Drop {
        id,
        reason: link::DropReason::Lifetime.into(),
        lane: 8,
        items: Some(link::Counts { spans: id, ..link::Counts::default() }),
        ..link::Drop::default()
    };
    let hello = |passes: Vec<link::PassReport>, drops: u64| link::Hello {
        satellite: "sat-1".to_owned(),
        epochs: vec![link::Epoch {
            epoch: support::EPOCH,
            lanes: vec![support::lane(1..2, 2)],
            drops: (1..=drops).map(drop).collect(),
            ..link::Epoch::default()
        }],
        passes,
        ..link::Hello::default()
    };
    let say = async |hello: link::Hello| {
        let mut sat = site.satellite("sat-1", ground.address).await;
        sat.say(link::agent_message::Body::Hello(hello)).await;
        sat.hear().await;
        sat
    };
    let sat = say(hello(vec![report(1, 5)], 1)).await;
    let mut stream = TcpStream::connect(console).await.unwrap();
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut stream = BufReader::new(stream);
    let of = |seen: &[(String, Value)], name: &str| {
        seen.iter().filter(|(event, _)| event == name).map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let lists = ["pass", "gap", "dead-letter", "dead-letters-gone"];
    let first = until(&mut stream, "look").await;
    assert!(lists.iter().all(|list| of(&first, list).is_empty()), "what was there before is no news");

    // It tells of one more pass and more of the first one, and of one more drop. This station's record of the first link is news too.
    let mut sat = {
        std::mem::drop(sat);
        say(hello(vec![report(1, 7), report(2, 9)], 2)).await
    };
    let mut seen = Vec::new();
    let told = |seen: &[(String, Value)]| {
        let of_kourou = |pass: &Value| pass["station"] == "kourou";
        let mut held: Vec<_> =
            of(seen, "pass").iter().filter(|p| of_kourou(p)).map(|p| p["held_bytes"].as_u64()).collect();
        held.sort();
        (held, of(seen, "gap").iter().map(|gap| gap["id"].as_u64()).collect::<Vec<_>>())
    };
    while of(&seen, "gap").is_empty() || told(&seen).0.len() < 2 {
        seen.extend(until(&mut stream, "look").await);
    }
    assert_eq!(told(&seen), (vec![Some(7), Some(9)], vec![Some(2)]));
    assert!(
        of(&seen, "pass").iter().chain(&of(&seen, "gap")).all(|row| row["satellite"] == "sat-1"),
        "{seen:?}"
    );

    // A letter comes, and goes.
    sat.send(&segment(1, 2)).await;
    sat.committed(&[1]).await;
    seen.clear();
    while of(&seen, "dead-letter").is_empty() {
        seen.extend(until(&mut stream, "look").await);
    }
    let letters = of(&seen, "dead-letter");
    assert!(letters[0]["reason"].as_str().unwrap().contains("too blue"), "{letters:?}");
    let id = letters[0]["id"].as_u64().unwrap();
    assert_eq!(act(console, &serde_json::json!({"what": "discard", "id": id})).await["done"], 1);
    while of(&seen, "dead-letters-gone").is_empty() || of(&seen, "gap").is_empty() {
        seen.extend(until(&mut stream, "look").await);
    }
    assert_eq!(of(&seen, "dead-letters-gone"), [serde_json::json!({ "ids": [id] })]);
    let gaps = of(&seen, "gap");
    assert_eq!((gaps.len(), &gaps[0]["reason"]), (1, &"operator".into()), "{gaps:?}");

    // Nothing of it is told again.
    seen = until(&mut stream, "look").await;
    assert!(lists[1..].iter().all(|list| of(&seen, list).is_empty()), "{seen:?}");
    ground.stop().await;
}
