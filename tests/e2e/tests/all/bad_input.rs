//! Bad input: the right status, a clear message, nothing stored, nothing else disturbed.

use std::io::Write;

use bytes::Bytes;
use e2e::wire::{Answer, Target, frame, http1, http2};
use e2e::{Agent, Backend, Batch, Scene, Sent, eventually};
use flate2::Compression;
use http::{Method, StatusCode};
use perigee_shared::signal::Signal;
use prost::Message;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::PROGRAMS;

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

/// `google.rpc.Status`
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(bytes = "vec", repeated, tag = "3")]
    details: Vec<Vec<u8>>,
}

fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap().into()
}

fn deflate(bytes: &[u8]) -> Bytes {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap().into()
}

fn zstd(bytes: &[u8]) -> Bytes {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap().into()
}

fn good() -> Batch {
    Batch::new(Signal::Logs, "good", 1, 10)
}

/// A field that holds bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    prost::encoding::encode_varint(content.len() as u64, &mut out);
    out.extend(content);
    out
}

/// A log record whose body is an array in an array in an array, so many times.
fn nested(depth: usize) -> Vec<u8> {
    let mut any = field(1, b"end");
    for _ in 0..depth {
        any = field(5, &field(1, &any));
    }
    [2, 2, 1].iter().fold(field(5, &any), |inner, number| field(*number, &inner))
}

fn nested_json(depth: usize) -> String {
    let any = "{\"arrayValue\":{\"values\":[".repeat(depth) + "{}" + &"]}}".repeat(depth);
    format!("{{\"resourceLogs\":[{{\"scopeLogs\":[{{\"logRecords\":[{{\"body\":{any}}}]}}]}}]}}")
}

/// An agent that exports to nowhere, so that what it has stored stays.
async fn agent(scene: &Scene) -> Agent {
    let nowhere = Backend::new();
    let mut agent = Agent::new(scene, ([127, 0, 0, 1], 9).into())
        .exporting(json!({"otlp": {"endpoint": nowhere.endpoint()}}));
    agent.start().await;
    agent
}

/// Checks an answer's status code and that its body says why, in the request's format.
fn check(case: &str, answer: &Result<Answer, String>, status: u16, content_type: &str) {
    let answer = answer.as_ref().unwrap_or_else(|e| panic!("{case}: no answer: {e}"));
    assert_eq!(answer.status, StatusCode::from_u16(status).unwrap(), "{case}: {answer:?}");
    assert_eq!(answer.header("content-type"), content_type, "{case}");
    let (code, message) = if content_type == JSON {
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        (body["code"].as_i64().unwrap() as i32, body["message"].as_str().unwrap().to_owned())
    } else {
        let body = RpcStatus::decode(answer.body.clone()).unwrap();
        assert!(body.details.is_empty(), "{case}: nothing to try again for: {body:?}");
        (body.code, body.message)
    };
    assert!(code != 0 && message.len() > 5 && message.len() < 500, "{case}: {code} {message}");
    assert_eq!(answer.header("retry-after"), "", "{case}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_over_http_are_refused_for_what_they_are() {
    let scene = Scene::new(PROGRAMS);
    let agent = agent(&scene).await;
    let target = Target::Tcp(agent.http);
    let (proto, text) = (good().protobuf(), good().json());
    let zeros = vec![0; 64 << 20];
    let half = |b: &Bytes| b.slice(..b.len() / 2);
    let bytes = |s: &str| Bytes::copy_from_slice(s.as_bytes());
    let cases: Vec<(&str, &str, &str, Bytes, u16)> = vec![
        ("noise", PROTOBUF, "", bytes("\u{7f}\u{7f}\u{7f}"), 400),
        ("protobuf cut off", PROTOBUF, "", half(&proto), 400),
        ("JSON as protobuf", PROTOBUF, "", text.clone(), 400),
        ("a wrong wire type", PROTOBUF, "", Bytes::from_static(&[0x08, 0x01]), 400),
        ("deep protobuf", PROTOBUF, "", nested(3_000).into(), 400),
        ("half a JSON", JSON, "", half(&text), 400),
        ("protobuf as JSON", JSON, "", proto.clone(), 400),
        ("JSON of another shape", JSON, "", bytes("{\"resourceLogs\":5}"), 400),
        ("JSON with two roots", JSON, "", bytes("{}{}"), 400),
        ("deep JSON", JSON, "", nested_json(50_000).into(), 400),
        ("text", "text/plain", "", text.clone(), 415),
        ("no content type", "", "", text.clone(), 415),
        ("brotli", PROTOBUF, "br", proto.clone(), 400),
        ("an encoding in JSON", JSON, "br", text.clone(), 400),
        ("not gzip", PROTOBUF, "gzip", proto.clone(), 400),
        ("gzip cut off", PROTOBUF, "gzip", half(&gzip(&proto)), 400),
        ("zstd cut off", JSON, "zstd", half(&zstd(&text)), 400),
        ("a gzip bomb", PROTOBUF, "gzip", gzip(&zeros), 413),
        ("a zstd bomb", PROTOBUF, "zstd", zstd(&zeros), 413),
        ("a deflate bomb", JSON, "deflate", deflate(&zeros), 413),
    ];
    let mut taken = 0;
    for (case, content_type, encoding, body, status) in cases {
        let mut headers = vec![("content-type", content_type), ("content-encoding", encoding)];
        headers.retain(|(_, value)| !value.is_empty());
        let answer = http1(&target, Method::POST, "/v1/logs", &headers, body).await;
        check(case, &answer, status, if content_type == PROTOBUF { PROTOBUF } else { JSON });
        let next =
            http1(&target, Method::POST, "/v1/logs", &[("content-type", PROTOBUF)], proto.clone()).await;
        assert_eq!(next.unwrap().status, StatusCode::OK, "after {case}");
        taken += 1;
    }
    for (method, path, status) in
        [(Method::GET, "/v1/logs", 405), (Method::PUT, "/v1/traces", 405), (Method::POST, "/v1/log", 404)]
    {
        for content_type in [PROTOBUF, JSON] {
            let headers = [("content-type", content_type)];
            let answer = http1(&target, method.clone(), path, &headers, proto.clone()).await;
            check(path, &answer, status, content_type);
            assert_eq!(answer.unwrap().header("allow"), if status == 405 { "POST" } else { "" });
        }
    }
    for (content_type, body) in [(PROTOBUF, ""), (JSON, "{}"), (JSON, "{\"resourceLogs\":[]}")] {
        let headers = [("content-type", content_type)];
        let answer = http1(&target, Method::POST, "/v1/logs", &headers, bytes(body)).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "an empty request succeeds: {body}");
    }
    assert_eq!(agent.account().await.accepted.total(), taken, "only the good requests are stored");
    assert_eq!(agent.metric("otelcol_receiver_accepted_log_records_total").await, taken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_still_writing_gets_its_answer() {
    let scene = Scene::new(PROGRAMS);
    let agent = agent(&scene).await;
    let target = Target::Tcp(agent.http);
    let large = Bytes::from(vec![b' '; 20 << 20]);
    for (case, content_type, encoding, status) in [
        ("too large", PROTOBUF, "identity", 413),
        ("too large", JSON, "identity", 413),
        ("another encoding", JSON, "br", 400),
        ("another content type", "text/plain", "identity", 415),
    ] {
        let headers = [("content-type", content_type), ("content-encoding", encoding)];
        for _ in 0..5 {
            let answer = http1(&target, Method::POST, "/v1/logs", &headers, large.clone()).await;
            check(case, &answer, status, if content_type == PROTOBUF { PROTOBUF } else { JSON });
        }
    }
    assert_eq!(agent.send(&good()).await, Sent::Acknowledged);
    assert_eq!(agent.account().await.accepted.total(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_over_grpc_are_refused_for_what_they_are() {
    let scene = Scene::new(PROGRAMS);
    let agent = agent(&scene).await;
    let target = Target::Tcp(agent.grpc);
    let proto = good().protobuf();
    let zeros = vec![0; 64 << 20];
    let path = Signal::Logs.grpc_path();
    let cut = frame(0, &proto).slice(..20);
    let announced = Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]);
    let cases: Vec<(&str, &str, &str, Bytes, &str)> = vec![
        ("noise", path, "", frame(0, b"\x7f\x7f\x7f"), "3"),
        ("JSON", path, "", frame(0, &good().json()), "3"),
        ("protobuf cut off", path, "", frame(0, &proto[..proto.len() - 3]), "3"),
        ("deep protobuf", path, "", frame(0, &nested(3_000)), "3"),
        (
            "another method",
            "/opentelemetry.proto.collector.logs.v1.LogsService/Import",
            "",
            frame(0, &proto),
            "12",
        ),
        ("another encoding", path, "br", frame(1, &proto), "12"),
        ("a frame cut off", path, "", cut, "13"),
        ("no frame", path, "", Bytes::new(), "13"),
        ("half a prefix", path, "", Bytes::from_static(&[0, 0]), "13"),
        ("compressed without an encoding", path, "", frame(1, &gzip(&proto)), "13"),
        ("an unknown flag", path, "gzip", frame(7, &gzip(&proto)), "13"),
        ("not gzip", path, "gzip", frame(1, &proto), "3"),
        ("zstd cut off", path, "zstd", frame(1, &zstd(&proto)[..30]), "3"),
        ("a gzip bomb", path, "gzip", frame(1, &gzip(&zeros)), "8"),
        ("a zstd bomb", path, "zstd", frame(1, &zstd(&zeros)), "8"),
        ("large", path, "", frame(0, &zeros[..5 << 20]), "8"),
        ("four GiB announced", path, "", announced, "8"),
        ("two messages", path, "", [frame(0, &proto), frame(0, &proto)].concat().into(), "12"),
    ];
    let mut taken = 0;
    for (case, path, encoding, body, status) in cases {
        let mut headers = vec![("content-type", "application/grpc"), ("te", "trailers")];
        if !encoding.is_empty() {
            headers.push(("grpc-encoding", encoding));
        }
        let answer = http2(&target, path, &headers, body).await.unwrap_or_else(|e| panic!("{case}: {e}"));
        assert_eq!(answer.status, StatusCode::OK, "{case}");
        assert_eq!(answer.header("grpc-status"), status, "{case}: {answer:?}");
        assert!(answer.header("grpc-message").len() > 5, "{case}: {answer:?}");
        assert_eq!(answer.header("grpc-status-details-bin"), "", "{case}: nothing to try again for");
        agent.accept(&good()).await;
        taken += 1;
    }
    let answer = http2(&target, path, &[("content-type", "text/plain")], frame(0, &proto)).await.unwrap();
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    for kind in [PROTOBUF, JSON, "text/html", "application/grpc"] {
        let headers = [("content-type", kind)];
        let answer = http1(&target, Method::POST, "/v1/logs", &headers, proto.clone()).await.unwrap();
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind}");
        let said = String::from_utf8_lossy(&answer.body);
        assert!(said.contains("OTLP over gRPC") && said.contains("protocols.http"), "{kind}: {said}");
    }
    let http = Target::Tcp(agent.http);
    for path in [path, "/v1/logs"] {
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let answer = http2(&http, path, &headers, frame(0, &proto)).await.unwrap();
        assert_eq!((answer.status, answer.header("grpc-status")), (StatusCode::OK, "12"), "{path}");
        let said = answer.header("grpc-message");
        assert!(said.contains("protocols.grpc"), "{path}: {said}");
    }
    assert_eq!(agent.account().await.accepted.total(), taken, "only the good requests are stored");
    assert_eq!(agent.metric("otelcol_receiver_accepted_log_records_total").await, taken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_go_away_in_mid_request_leave_nothing_behind() {
    let scene = Scene::new(PROGRAMS);
    let agent = agent(&scene).await;
    for _ in 0..100 {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", agent.http)).await.unwrap();
        let head = "POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 4000000\r\n\r\n{\"";
        stream.write_all(head.as_bytes()).await.unwrap();
    }
    // Refused at most for now, while a slow machine has still to notice that they are gone.
    eventually("a request is taken", async || match agent.send(&good()).await {
        Sent::Acknowledged => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    eventually("their memory is given back", async || {
        let memory = agent.status().await["memory"].clone();
        (memory["in_flight_bytes"] == 0).then_some(()).ok_or_else(|| memory.to_string())
    })
    .await;
    assert_eq!(agent.account().await.accepted.total(), 1);
}

/// A request in JSON of so many bytes.
fn large(bytes: usize) -> Bytes {
    let mut batch = good().json().to_vec();
    // Blanks are as good as items here.
    batch.resize(bytes, b' ');
    batch.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_announced_and_not_sent_holds_no_room() {
    let scene = Scene::new(PROGRAMS);
    let agent = agent(&scene).await;
    let mut slow = Vec::new();
    for n in 0..60 {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", agent.http)).await.unwrap();
        let head = "POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 4000000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        // Half of them send some of it.
        stream.write_all(&vec![b' '; if n % 2 == 0 { 0 } else { 300_000 }]).await.unwrap();
        slow.push(stream);
    }
    eventually("they are being read", async || {
        let held = agent.status().await["memory"]["in_flight_bytes"].as_u64().unwrap();
        (held > 4_000_000).then_some(()).ok_or_else(|| format!("{held} bytes"))
    })
    .await;
    let headers = [("content-type", JSON)];
    for _ in 0..3 {
        let answer = http1(&Target::Tcp(agent.http), Method::POST, "/v1/logs", &headers, large(3_900_000))
            .await
            .unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
    assert_eq!(agent.account().await.accepted.total(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_requests_at_once_all_get_in_some_after_retries() {
    let scene = Scene::new(PROGRAMS);
    let agent = agent(&scene).await;
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let target = Target::Tcp(agent.http);
        senders.spawn(async move {
            let mut refused = 0u64;
            loop {
                let headers = [("content-type", JSON)];
                // A sender that is refused while it writes may find its connection closed.
                let answer = http1(&target, Method::POST, "/v1/logs", &headers, large(4_000_000)).await;
                match answer {
                    Ok(answer) if answer.status == StatusCode::OK => return refused,
                    Ok(answer) => {
                        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
                        assert_ne!(answer.header("retry-after"), "");
                    }
                    Err(_) => {}
                }
                refused += 1;
                assert!(refused < 300);
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        });
    }
    let refused: u64 = senders.join_all().await.into_iter().sum();
    eprintln!("60 requests were refused {refused} times");
    assert_eq!(agent.account().await.accepted.total(), 60);
}
