//! `ground-station` as a process, and the file that it exports to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use http::Method;
use perigee_shared::control::request;
use perigee_shared::signal::{Counts, Signal};
use serde_json::{Value, json};

use crate::items::ids_in;
use crate::process::{Exit, Process};
use crate::scene::{SATELLITE, STATION, Scene, free_port};
use crate::wait::eventually;
use crate::wire::{Target, get};

/// A process that exports to files, one for each signal.
pub struct Ground {
    /// What it is started with; changes count from the next start on.
    pub config: Value,
    /// The process.
    pub process: Process,
    /// Where satellites connect.
    pub link: SocketAddr,
    /// What was exported.
    pub sink: Sink,
    /// The metrics endpoint.
    pub metrics_port: u16,
    /// Where its configuration is.
    pub file: PathBuf,
    socket: PathBuf,
}

impl Ground {
    /// Not started yet; the station is [`STATION`].
    pub fn new(scene: &Scene) -> Self {
        Self::named(scene, STATION)
    }

    /// Another station, whose certificate was issued.
    pub fn named(scene: &Scene, station: &str) -> Self {
        let (link, metrics) = (SocketAddr::from(([127, 0, 0, 1], free_port())), free_port());
        let dir = scene.path();
        let sink = Sink { directory: dir.to_owned(), prefix: station.to_owned() };
        let config = json!({
            "link": {
                "station": station,
                "listen": [link.to_string()],
                "certificate_file": scene.certificate(&format!("station-{station}.crt")),
                "private_key_file": scene.certificate(&format!("station-{station}.key")),
                "satellite_ca_file": scene.certificate("satellite-ca.crt"),
                "satellites": {SATELLITE: {}},
            },
            "exporters": {
                "file/traces": {"path": sink.file(Signal::Traces)},
                "file/metrics": {"path": sink.file(Signal::Metrics)},
                "file/logs": {"path": sink.file(Signal::Logs)},
            },
            "storage": {"directory": dir.join(station), "max_bytes": "256MiB", "ballast": "64KiB"},
            "extensions": {"control": {"socket": dir.join(format!("{station}.sock"))}},
            "service": {
                "pipelines": {
                    "traces": {"exporters": ["file/traces"]},
                    "metrics": {"exporters": ["file/metrics"]},
                    "logs": {"exporters": ["file/logs"]},
                },
                "telemetry": {
                    "metrics": {"endpoint": format!("127.0.0.1:{metrics}")},
                    // What arrives is what was sent.
                    "otlp": {"enabled": false},
                },
            },
        });
        let file = dir.join(format!("{station}.yaml"));
        let args = ["run", "--config", file.to_str().unwrap()];
        let process = Process::new(&format!("ground-{station}"), scene.programs.ground, &args, dir);
        Self {
            config,
            process,
            link,
            sink,
            metrics_port: metrics,
            file,
            socket: dir.join(format!("{station}.sock")),
        }
    }

    /// Starts it without waiting.
    pub fn start_only(&mut self) {
        std::fs::write(&self.file, format!("{:#}\n", self.config)).unwrap();
        self.process.start();
    }

    /// Starts it and waits until it answers.
    pub async fn start(&mut self) {
        self.start_only();
        self.ready().await;
    }

    /// Waits until it answers.
    pub async fn ready(&mut self) {
        eventually("ground-station answers", async || {
            self.process.must_run()?;
            self.ask("/api/v1/spool").await.map(drop)
        })
        .await;
    }

    /// Asks over the control socket.
    pub async fn ask(&self, path: &str) -> Result<Value, String> {
        request(&self.socket, Method::GET, path, None).await.map_err(|e| e.to_string())
    }

    /// `/api/v1/accounting` of a satellite; `Null` before its first contact.
    pub async fn accounting_of(&self, satellite: &str) -> Value {
        self.ask("/api/v1/accounting").await.unwrap()[satellite].clone()
    }

    /// `/api/v1/gaps`
    pub async fn gaps(&self) -> Vec<Value> {
        self.ask("/api/v1/gaps?limit=10000").await.unwrap().as_array().unwrap().clone()
    }

    /// Every lane of every epoch of [`SATELLITE`].
    pub async fn lanes(&self) -> Vec<Value> {
        let all = self.ask("/api/v1/satellites").await.unwrap();
        let epochs = |s: &Value| s["epochs"].as_array().cloned().unwrap_or_default();
        let lanes = |e: Value| e["lanes"].as_array().cloned().unwrap_or_default();
        all.as_array().unwrap().iter().flat_map(epochs).flat_map(lanes).collect()
    }

    /// Bytes of partial segments that it holds durably.
    pub async fn held_bytes(&self) -> u64 {
        let lanes = self.lanes().await;
        let partials = lanes.iter().flat_map(|l| l["partials"].as_array().into_iter().flatten());
        partials.map(|p| p["held_bytes"].as_u64().unwrap()).sum()
    }

    /// A command of the program with this configuration.
    pub async fn command(&self, args: &[&str]) -> Exit {
        std::fs::write(&self.file, format!("{:#}\n", self.config)).unwrap();
        let mut all = args.to_vec();
        all.extend(["--config", self.file.to_str().unwrap()]);
        self.process.run(&all).await
    }

    /// `/metrics`
    pub async fn metrics(&self) -> String {
        get(&Target::tcp(self.metrics_port), "/metrics").await
    }

    /// Waits until everything committed of [`SATELLITE`] is exported, and `least` items at least are committed.
    pub async fn exported(&mut self, least: Counts) -> Counts {
        eventually("everything is exported", async || {
            self.process.must_run()?;
            let account = self.ask("/api/v1/accounting").await?[SATELLITE].clone();
            let (committed, left) = (items(&account["committed"]), items(&account["in_spool"]));
            let enough = Signal::ALL.iter().all(|s| committed[*s] >= least[*s]);
            if enough && left == Counts::default() { Ok(committed) } else { Err(format!("{account:#}")) }
        })
        .await
    }
}

/// Reads `{"spans": 1, ...}`.
pub(crate) fn items(value: &Value) -> Counts {
    let mut out = Counts::default();
    for signal in Signal::ALL {
        out[signal] = value[signal.items_name()].as_u64().unwrap_or(0);
    }
    out
}

/// The files of the ground's exporters.
#[derive(Debug, Clone)]
pub struct Sink {
    directory: PathBuf,
    prefix: String,
}

impl Sink {
    /// The file of `signal`.
    pub fn file(&self, signal: Signal) -> PathBuf {
        self.directory.join(format!("{}-{signal}.jsonl", self.prefix))
    }

    /// How often each item id is there.
    pub fn ids(&self) -> BTreeMap<String, u64> {
        let mut out = BTreeMap::new();
        for signal in Signal::ALL {
            let text = std::fs::read_to_string(self.file(signal)).unwrap_or_default();
            for id in ids_in(&text) {
                *out.entry(id.to_owned()).or_default() += 1;
            }
        }
        out
    }
}
