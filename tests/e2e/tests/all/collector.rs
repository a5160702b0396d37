//! A Collector's configuration files, run unchanged.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use e2e::wire::{Target, frame, get, http1, http2};
use e2e::{Backend, Batch, Process, Scene, eventually, free_port};
use http::{Method, StatusCode};
use perigee_shared::signal::Signal;

use crate::PROGRAMS;

const PROTOBUF: [(&str, &str); 1] = [("content-type", "application/x-protobuf")];

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/config/collector").join(name)
}

/// An agent with a Collector's file, on ports of its own.
struct Run {
    grpc: u16,
    http: u16,
    health: u16,
    metrics: u16,
    process: Process,
}

impl Run {
    fn new(scene: &Scene, file: &Path, backend: &Backend) -> Self {
        let [grpc, http, health, metrics] = std::array::from_fn(|_| free_port());
        let args = ["run", "--config", file.to_str().unwrap()];
        let process = Process::new("space-agent", PROGRAMS.agent, &args, scene.path()).with(&[
            ("OTLP_GRPC_PORT", &grpc.to_string()),
            ("OTLP_HTTP_PORT", &http.to_string()),
            ("HEALTH_PORT", &health.to_string()),
            ("METRICS_PORT", &metrics.to_string()),
            ("BACKEND", &format!("localhost:{}", backend.port)),
            ("STORAGE", scene.path().join("storage").to_str().unwrap()),
            // Where the log lies when no file says so.
            ("STATE_DIRECTORY", scene.path().join("state").to_str().unwrap()),
        ]);
        Self { grpc, http, health, metrics, process }
    }

    /// Starts it and waits until `port` is listened on.
    async fn start(&mut self, port: u16) {
        self.process.start();
        eventually("the agent listens", async || {
            self.process.must_run()?;
            tokio::net::TcpStream::connect(("localhost", port)).await.map(drop).map_err(|e| e.to_string())
        })
        .await;
    }

    async fn post(&self, signal: Signal, batch: &Batch) -> StatusCode {
        let target = Target::Tcp(self.http);
        http1(&target, Method::POST, signal.http_path(), &PROTOBUF, batch.protobuf()).await.unwrap().status
    }

    /// The gRPC status of a request.
    async fn call(&self, signal: Signal, batch: &Batch) -> String {
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let answer =
            http2(&Target::Tcp(self.grpc), signal.grpc_path(), &headers, frame(0, &batch.protobuf())).await;
        answer.unwrap().header("grpc-status").to_owned()
    }
}

async fn arrived(backend: &Backend, expected: &[&Batch]) {
    let expected: BTreeSet<String> = expected.iter().flat_map(|b| b.ids.clone()).collect();
    eventually("the backend has it", async || {
        let ids: BTreeSet<String> = backend.ids().into_iter().collect();
        if ids == expected { Ok(()) } else { Err(format!("{ids:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minimal_file_runs_and_data_arrives() {
    let scene = Scene::new(PROGRAMS);
    let mut backend = Backend::new();
    backend.start().await;
    let mut run = Run::new(&scene, &example("minimal.yaml"), &backend);
    run.start(run.http).await;
    let (spans, points) = (Batch::new(Signal::Traces, "t", 3, 5), Batch::new(Signal::Metrics, "m", 3, 5));
    assert_eq!(run.post(Signal::Traces, &spans).await, StatusCode::OK);
    assert_eq!(run.call(Signal::Metrics, &points).await, "0");
    let logs = Batch::new(Signal::Logs, "l", 3, 5);
    assert_eq!(run.post(Signal::Logs, &logs).await, StatusCode::NOT_FOUND, "there is no pipeline for logs");
    assert_eq!(run.call(Signal::Logs, &logs).await, "12");
    arrived(&backend, &[&spans, &points]).await;
    assert!(run.process.log().contains("storage.directory"), "it says where the log lies");
    assert!(run.process.terminate().await.success());
    assert!(scene.path().join("state/agent/wal.redb").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_larger_file_runs_and_data_arrives_also_after_a_crash() {
    let scene = Scene::new(PROGRAMS);
    let mut backend = Backend::new();
    let mut run = Run::new(&scene, &example("larger.yaml"), &backend);
    run.start(run.grpc).await;
    let (spans, points) = (Batch::new(Signal::Traces, "t", 3, 5), Batch::new(Signal::Metrics, "m", 3, 5));
    let logs = Batch::new(Signal::Logs, "l", 3, 5);
    assert_eq!(run.call(Signal::Traces, &spans).await, "0");
    assert_eq!(run.call(Signal::Metrics, &points).await, "0");
    assert_eq!(run.post(Signal::Logs, &logs).await, StatusCode::OK);
    assert_eq!(run.call(Signal::Logs, &logs).await, "12", "logs come in at the other receiver");
    let asks = [("origin", "https://app.example.com"), ("access-control-request-method", "POST")];
    let target = Target::Tcp(run.http);
    let answer = http1(&target, Method::OPTIONS, "/v1/logs", &asks, Bytes::new()).await.unwrap();
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example.com", "{answer:?}");
    run.process.kill().await;
    // It is bound last.
    run.start(run.health).await;
    assert!(get(&Target::Tcp(run.health), "/").await.contains("ok"));
    assert!(get(&Target::Tcp(run.metrics), "/metrics").await.contains("otelcol_receiver_accepted_spans"));
    backend.start().await;
    arrived(&backend, &[&spans, &points, &logs]).await;
    let said = backend.authorizations();
    let basic = "Basic YWRhOmV4YW1wbGU=";
    assert_eq!(said, BTreeSet::from(["Bearer example".to_owned(), basic.to_owned()]));
    let log = run.process.log();
    for warning in
        ["exporters.otlp_grpc.sending_queue", "exporters.otlp_grpc.compression", "extensions.pprof"]
    {
        assert!(log.contains(warning), "{warning} is not in {log}");
    }
    assert!(run.process.terminate().await.success());
    assert!(scene.path().join("storage/wal.redb").exists(), "the log lies where file_storage says");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_own_form_is_printed_and_valid() {
    let scene = Scene::new(PROGRAMS);
    let run = Run::new(&scene, &example("larger.yaml"), &Backend::new());
    let written =
        run.process.run(&["validate", "--from-collector", example("larger.yaml").to_str().unwrap()]).await;
    assert_eq!(written.code, Some(0), "{written:?}");
    assert!(
        written.out.contains("limit: 512MiB") && written.out.contains("${env:TOKEN:-example}"),
        "{}",
        written.out
    );
    let file = scene.path().join("own.yaml");
    std::fs::write(&file, &written.out).unwrap();
    let valid = run.process.run(&["validate", "--config", file.to_str().unwrap()]).await;
    assert_eq!(valid.code, Some(0), "{valid:?}");
    assert!(!valid.out.contains("warning"), "{}", valid.out);
    let asis = run.process.run(&["validate", "--config", example("larger.yaml").to_str().unwrap()]).await;
    assert!(asis.code == Some(0) && asis.out.contains("larger.yaml:10: warning: "), "{asis:?}");
}

/// What a `file` exporter has written so far.
fn written(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_of_the_host_arrive_and_are_counted() {
    let scene = Scene::new(PROGRAMS);
    let (out, metrics) = (scene.path().join("out.jsonl"), free_port());
    let file = scene.path().join("host.yaml");
    let text = format!(
        "receivers: {{hostmetrics/fast: {{collection_interval: 200ms, initial_delay: 0s, scrapers: {{cpu: , memory: , filesystem: , process: \
         {{include: {{names: [space-agent, e2e-space-agent], match_type: strict}}}}}}}}}}\n\
         exporters: {{file: {{path: {}}}}}\nstorage: {{directory: {}}}\n\
         service:\n  telemetry: {{metrics: {{endpoint: 'localhost:{metrics}'}}}}\n  \
         pipelines: {{metrics: {{receivers: [hostmetrics/fast], exporters: [file]}}}}\n",
        out.display(),
        scene.path().join("store").display(),
    );
    std::fs::write(&file, text).unwrap();
    let args = ["run", "--config", file.to_str().unwrap()];
    let mut process = Process::new("space-agent", PROGRAMS.agent, &args, scene.path());
    process.start();
    let names = ["system.cpu.time", "system.memory.usage", "system.filesystem.usage", "process.memory.usage"];
    eventually("what was measured is written", async || {
        process.must_run()?;
        let text = written(&out);
        let missing: Vec<&str> =
            names.into_iter().filter(|n| !text.contains(&format!("\"name\":\"{n}\""))).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} are not there")) }
    })
    .await;
    let counted = get(&Target::Tcp(metrics), "/metrics").await;
    let line = "otelcol_receiver_accepted_metric_points_total{receiver=\"hostmetrics/fast\",transport=\"\"} ";
    let accepted = counted.lines().find_map(|l| l.strip_prefix(line)).map(|n| n.parse::<u64>().unwrap());
    assert!(accepted.is_some_and(|n| n > 0), "{counted}");
    assert!(
        counted.contains("otelcol_exporter_send_failed_metric_points_total{exporter=\"file\"} 0"),
        "{counted}"
    );
    assert!(process.terminate().await.success());
}
