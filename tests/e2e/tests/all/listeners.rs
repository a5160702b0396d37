//! The ways in: compression, unix sockets, TLS and mutual TLS.

use std::sync::Arc;

use bytes::Bytes;
use e2e::wire::{Target, frame, http1, http2};
use e2e::{Agent, Backend, Batch, Grpc, Scene, eventually};
use flate2::Compression;
use http::{Method, StatusCode};
use perigee_shared::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use std::io::Write;
use tonic::codec::CompressionEncoding;

use crate::PROGRAMS;

fn agent(scene: &Scene) -> Agent {
    let nowhere = Backend::new();
    Agent::new(scene, ([127, 0, 0, 1], 9).into()).exporting(json!({"otlp": {"endpoint": nowhere.endpoint()}}))
}

/// Sends a request over HTTP/1.1 and one over gRPC; both must be taken.
async fn both(http: &Target, grpc: &Target) {
    let batch = Batch::new(Signal::Metrics, "both", 3, 0);
    let headers = [("content-type", "application/json; charset=utf-8")];
    let answer = http1(http, Method::POST, "/v1/metrics", &headers, batch.json()).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, b"{}".as_slice()));
    let headers = [("content-type", "application/grpc+proto"), ("te", "trailers")];
    let body = frame(0, &batch.protobuf());
    let answer = http2(grpc, Signal::Metrics.grpc_path(), &headers, body).await.unwrap();
    assert_eq!((answer.header("grpc-status"), &answer.body[..]), ("0", [0; 5].as_slice()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_compression_is_taken_on_both_protocols() {
    let scene = Scene::new(PROGRAMS);
    let mut agent = agent(&scene);
    agent.start().await;
    let batch = Batch::new(Signal::Traces, "compressed", 10, 0);
    let grpc = Grpc::new(agent.grpc);
    grpc.clone().compressed(CompressionEncoding::Gzip).send(&batch).await.unwrap();
    grpc.compressed(CompressionEncoding::Zstd).send(&batch).await.unwrap();
    let mut taken = 2;
    let zlib = |bytes: &[u8]| {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        Bytes::from(encoder.finish().unwrap())
    };
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        Bytes::from(encoder.finish().unwrap())
    };
    for (content_type, body) in
        [("application/x-protobuf", batch.protobuf()), ("application/json", batch.json())]
    {
        let zstd = Bytes::from(zstd::bulk::Compressor::new(3).unwrap().compress(&body).unwrap());
        for (encoding, body) in
            [("identity", body.clone()), ("gzip", gzip(&body)), ("deflate", zlib(&body)), ("zstd", zstd)]
        {
            let headers = [("content-type", content_type), ("content-encoding", encoding)];
            let answer = http1(&Target::Tcp(agent.http), Method::POST, "/v1/traces", &headers, body).await;
            assert_eq!(answer.unwrap().status, StatusCode::OK, "{content_type} {encoding}");
            taken += 1;
        }
    }
    assert_eq!(agent.account().await.accepted[Signal::Traces], 10 * taken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_protocols_are_served_on_unix_sockets() {
    let scene = Scene::new(PROGRAMS);
    let mut agent = agent(&scene);
    let [http, grpc] = ["http.sock", "grpc.sock"].map(|name| scene.path().join(name));
    agent.config["receivers"]["otlp"]["protocols"] = json!({
        "http": {"endpoint": format!("unix://{}", http.display())},
        "grpc": {"endpoint": format!("unix://{}", grpc.display())},
    });
    for start in 1..=2 {
        agent.start().await;
        both(&Target::Unix(http.clone()), &Target::Unix(grpc.clone())).await;
        assert_eq!(agent.account().await.accepted[Signal::Metrics], 6 * start);
        // The sockets stay behind, and the next start takes them over.
        agent.process.kill().await;
    }
}

/// An authority that signs certificates for `localhost`, and itself in PEM.
struct Authority(Issuer<'static, KeyPair>, rcgen::Certificate);

impl Authority {
    fn new() -> Self {
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::new(Vec::new()).unwrap());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self(Issuer::new(params, key), certificate)
    }

    fn issue(&self) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    /// What trusts this authority, and shows a certificate if it has one.
    fn client(&self, own: Option<(rcgen::Certificate, KeyPair)>, http2: bool) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.1.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        Arc::new(config)
    }

    /// Writes a listener's certificate and the authority of its clients; the listener's `tls` without them.
    fn write(&self, scene: &Scene, clients: &Self) -> Value {
        let (certificate, key) = self.issue();
        let path = |name: &str| scene.path().join(name);
        std::fs::write(path("server.crt"), certificate.pem()).unwrap();
        std::fs::write(path("server.key"), key.serialize_pem()).unwrap();
        std::fs::write(path("clients.crt"), clients.1.pem()).unwrap();
        json!({"cert_file": path("server.crt"), "key_file": path("server.key")})
    }
}

/// Both protocols over TLS.
fn with_tls(agent: &mut Agent, tls: &Value) {
    for protocol in ["grpc", "http"] {
        agent.config["receivers"]["otlp"]["protocols"][protocol]["tls"] = tls.clone();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_served_and_mutual_tls_lets_only_its_own_in() {
    let scene = Scene::new(PROGRAMS);
    let (servers, clients) = (Authority::new(), Authority::new());
    let path = |name: &str| scene.path().join(name);
    let tls = servers.write(&scene, &clients);

    let mut agent = agent(&scene);
    with_tls(&mut agent, &tls);
    agent.start().await;
    let target = |port, own: Option<_>, http2| Target::Tls(port, servers.client(own, http2));
    both(&target(agent.http, None, false), &target(agent.grpc, None, true)).await;
    let headers = [("content-type", "application/json")];
    let plain = http1(&Target::Tcp(agent.http), Method::POST, "/v1/logs", &headers, Bytes::new()).await;
    assert!(plain.is_err(), "nothing without TLS: {plain:?}");
    assert!(agent.process.terminate().await.success());

    let mut tls = tls;
    tls["client_ca_file"] = json!(path("clients.crt"));
    with_tls(&mut agent, &tls);
    agent.start().await;
    let known = || Some(clients.issue());
    both(&target(agent.http, known(), false), &target(agent.grpc, known(), true)).await;
    for own in [None, Some(servers.issue())] {
        let stranger = target(agent.http, own, false);
        let refused = http1(&stranger, Method::POST, "/v1/logs", &headers, Bytes::from_static(b"{}")).await;
        assert!(refused.is_err(), "{refused:?}");
    }
    both(&target(agent.http, known(), false), &target(agent.grpc, known(), true)).await;
    assert_eq!(agent.account().await.accepted[Signal::Metrics], 18);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exporters_send_with_tls_show_their_certificate_and_trust_nobody_else() {
    let scene = Scene::new(PROGRAMS);
    let (servers, clients) = (Authority::new(), Authority::new());
    let path = |name: &str| scene.path().join(name);
    let mut tls = servers.write(&scene, &clients);
    tls["client_ca_file"] = json!(path("clients.crt"));
    std::fs::write(path("servers.crt"), servers.1.pem()).unwrap();
    let own = Scene::new(PROGRAMS);
    let mut backend = agent(&own);
    with_tls(&mut backend, &tls);
    backend.start().await;
    let (certificate, key) = clients.issue();
    let (certificate, key) = (certificate.pem(), key.serialize_pem());
    let (grpc, http) = (format!("localhost:{}", backend.grpc), format!("https://127.0.0.1:{}", backend.http));
    let mut sender = Agent::new(&scene, ([127, 0, 0, 1], 9).into()).exporting(json!({
        "otlp_grpc": {"endpoint": grpc, "tls": {"ca_file": path("servers.crt"), "cert_pem": certificate, "key_pem": key}},
        "otlp_grpc/blind": {"endpoint": grpc, "tls": {"insecure_skip_verify": true, "cert_pem": certificate, "key_pem": key}},
        "otlp_http": {"endpoint": http, "tls": {"insecure_skip_verify": true, "cert_pem": certificate, "key_pem": key}},
        "otlp_grpc/stranger": {"endpoint": grpc, "tls": {"ca_file": path("clients.crt"), "cert_pem": certificate, "key_pem": key}},
    }));
    sender.config["processors"]["batch"] = json!({"timeout": "50ms"});
    sender.start().await;
    sender.accept(&Batch::new(Signal::Logs, "tls", 5, 5)).await;
    eventually("three of four get through", async || {
        let accepted = backend.account().await.accepted[Signal::Logs];
        let log = sender.process.log();
        let refused = log.lines().any(|l| l.contains("otlp_grpc/stranger") && l.contains("certificate"));
        if accepted == 15 && refused { Ok(()) } else { Err(format!("{accepted} accepted: {log}")) }
    })
    .await;
    let log = sender.process.log();
    assert!(log.contains("exporters.otlp_http.tls.insecure_skip_verify"), "it is said at each start: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_told_over_grpc() {
    let scene = Scene::new(PROGRAMS);
    let mut agent = Agent::new(&scene, ([127, 0, 0, 1], 9).into());
    agent.start().await;
    let name = |name: &str| [&[0x0a, name.len() as u8], name.as_bytes()].concat();
    let traces = "opentelemetry.proto.collector.trace.v1.TraceService";
    for (message, status) in
        [(Vec::new(), "0"), (name(traces), "0"), (name("nobody"), "5"), (vec![0x0a, 9], "3")]
    {
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let body = e2e::wire::frame(0, &message);
        let target = Target::tcp(agent.grpc);
        let answer = http2(&target, "/grpc.health.v1.Health/Check", &headers, body).await.unwrap();
        assert_eq!(answer.header("grpc-status"), status, "{message:?}");
        assert_eq!(answer.body.ends_with(&[0x08, 1]), status == "0", "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_says_what_it_serves() {
    let scene = Scene::new(PROGRAMS);
    let mut agent = Agent::new(&scene, ([127, 0, 0, 1], 9).into());
    agent.start().await;
    let traces = "opentelemetry.proto.collector.trace.v1.TraceService";
    let question = |number: u8, text: &str| {
        let message = [&[number << 3 | 2, text.len() as u8], text.as_bytes()].concat();
        e2e::wire::frame(0, &message)
    };
    // Several questions in one stream.
    let questions = [question(7, ""), question(4, traces), question(4, "nobody")].concat();
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let target = Target::Tcp(agent.grpc);
        let answer = http2(&target, &path, &headers, questions.clone().into()).await.unwrap();
        assert_eq!((answer.status, answer.header("grpc-status")), (StatusCode::OK, "0"), "{version}");
        let (mut rest, mut messages) = (&answer.body[..], Vec::new());
        while let Some((prefix, behind)) = rest.split_first_chunk::<5>() {
            let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
            messages.push(String::from_utf8_lossy(&behind[..length]).into_owned());
            rest = &behind[length..];
        }
        let [list, described, missing] = &messages[..] else { panic!("{} answers", messages.len()) };
        assert!(
            list.contains(traces) && list.contains("LogsService") && list.contains("MetricsService"),
            "{list}"
        );
        for part in ["ExportTraceServiceRequest", "ResourceSpans", "AnyValue", "trace_service.proto"] {
            assert!(described.contains(part), "{part}");
        }
        assert!(missing.contains("no symbol nobody"), "{missing}");
        let long = http2(&target, &path, &headers, e2e::wire::frame(0, &[9; 2_000])).await.unwrap();
        assert_eq!(long.header("grpc-status"), "8", "{version}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_success_has_the_content_type_of_its_request() {
    let scene = Scene::new(PROGRAMS);
    let mut agent = Agent::new(&scene, ([127, 0, 0, 1], 9).into());
    agent.start().await;
    let batch = Batch::new(Signal::Logs, "mirror", 3, 5);
    for (kind, body, full) in [
        ("application/json", batch.json(), "{}"),
        ("application/json; charset=utf-8", batch.json(), "{}"),
        ("application/x-protobuf", batch.protobuf(), ""),
    ] {
        let headers = [("content-type", kind)];
        let answer = http1(&Target::Tcp(agent.http), Method::POST, "/v1/logs", &headers, body).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, full.as_bytes()), "{kind}");
        assert_eq!(answer.header("content-type"), kind.split(';').next().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_metadata_is_taken_and_the_answer_says_which_compressions_are() {
    let scene = Scene::new(PROGRAMS);
    let mut agent = Agent::new(&scene, ([127, 0, 0, 1], 9).into());
    agent.start().await;
    let long = "a".repeat(20_000);
    let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("x-long", &*long)];
    let path = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
    let answer = http2(&Target::Tcp(agent.grpc), path, &headers, e2e::wire::frame(0, &[])).await.unwrap();
    assert_eq!((answer.status, answer.header("grpc-status")), (StatusCode::OK, "0"));
    let taken: Vec<&str> = answer.header("grpc-accept-encoding").split(',').map(str::trim).collect();
    for encoding in ["identity", "gzip", "zstd", "deflate", "snappy"] {
        assert!(taken.contains(&encoding), "{taken:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_served_without_a_restart_and_one_that_does_not_fit_raises_an_alarm() {
    let scene = Scene::new(PROGRAMS);
    let (before, after) = (Authority::new(), Authority::new());
    let tls = before.write(&scene, &before);
    let mut agent = agent(&scene);
    with_tls(&mut agent, &tls);
    agent.start().await;
    let target = |authority: &Authority, port, http2| Target::Tls(port, authority.client(None, http2));
    let both = async |authority: &Authority| {
        both(&target(authority, agent.http, false), &target(authority, agent.grpc, true)).await;
    };
    both(&before).await;
    // A certificate whose key is not there yet.
    let (certificate, key) = after.issue();
    let put = |name: &str, text: String| {
        std::fs::write(scene.path().join("new"), text).unwrap();
        std::fs::rename(scene.path().join("new"), scene.path().join(name)).unwrap();
    };
    put("server.crt", certificate.pem());
    both(&before).await;
    eventually("the alarm", async || {
        let log = agent.process.log();
        let said = log.contains("a listener's new certificates cannot be used; those in force stay");
        said.then_some(()).ok_or(log)
    })
    .await;
    put("server.key", key.serialize_pem());
    both(&after).await;
    let headers = [("content-type", "application/json")];
    let old = target(&before, agent.http, false);
    let refused = http1(&old, Method::POST, "/v1/logs", &headers, Bytes::from_static(b"{}")).await;
    assert!(refused.is_err(), "the old certificate is served no more: {refused:?}");
}
