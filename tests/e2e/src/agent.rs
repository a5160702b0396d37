//! `space-agent` as a process.

use std::net::SocketAddr;
use std::path::PathBuf;

use http::Method;
use perigee_shared::control::request;
use perigee_shared::signal::{Counts, Signal};
use serde_json::{Value, json};

use crate::process::{Exit, Process};
use crate::scene::{SATELLITE, STATION, Scene, free_port};
use crate::wait::eventually;
use crate::wire::{Target, get};

/// A process that receives on free ports; its contacts are opened by hand.
pub struct Agent {
    /// What it is started with; changes count from the next start on.
    pub config: Value,
    /// The process.
    pub process: Process,
    /// OTLP/gRPC.
    pub grpc: u16,
    /// OTLP/HTTP.
    pub http: u16,
    /// The metrics endpoint.
    pub metrics: u16,
    /// Where its configuration is.
    pub file: PathBuf,
    socket: PathBuf,
    directory: PathBuf,
}

impl Agent {
    /// Not started yet; it is [`SATELLITE`], and its station is at `ground`.
    pub fn new(scene: &Scene, ground: SocketAddr) -> Self {
        Self::named(scene, SATELLITE, "agent", ground)
    }

    /// Another satellite, whose certificate was issued; its files are called `name`.
    pub fn named(scene: &Scene, satellite: &str, name: &str, ground: SocketAddr) -> Self {
        let (grpc, http, metrics) = (free_port(), free_port(), free_port());
        let dir = scene.path();
        let pipeline =
            json!({"receivers": ["otlp"], "processors": ["memory_limiter", "batch"], "exporters": ["link"]});
        let config = json!({
            "receivers": {"otlp": {"protocols": {
                "grpc": {"endpoint": format!("127.0.0.1:{grpc}")},
                "http": {"endpoint": format!("127.0.0.1:{http}")},
            }}},
            "processors": {"memory_limiter": {"limit": "256MiB"}, "batch": {}},
            "exporters": {"link": {}},
            "storage": {"directory": dir.join(name), "max_bytes": "256MiB", "ballast": "64KiB"},
            "link": {
                "certificate_file": scene.certificate(&format!("satellite-{satellite}.crt")),
                "private_key_file": scene.certificate(&format!("satellite-{satellite}.key")),
                "station_ca_file": scene.certificate("station-ca.crt"),
                "stations": {STATION: {"address": ground.to_string()}},
            },
            "contacts": {"source": "manual"},
            "extensions": {"control": {"socket": dir.join(format!("{name}.sock"))}},
            "service": {
                "pipelines": {"traces": pipeline, "metrics": pipeline, "logs": pipeline},
                "telemetry": {
                    "metrics": {"endpoint": format!("127.0.0.1:{metrics}")},
                    // What arrives is what was sent.
                    "otlp": {"enabled": false},
                },
            },
        });
        let file = dir.join(format!("{name}.yaml"));
        let args = ["run", "--config", file.to_str().unwrap()];
        let process = Process::new(&format!("space-{name}"), scene.programs.agent, &args, dir);
        let (socket, directory) = (dir.join(format!("{name}.sock")), dir.join(name));
        Self { config, process, grpc, http, metrics, file, socket, directory }
    }

    /// Contacts with [`STATION`] all the time.
    #[must_use]
    pub fn always(mut self) -> Self {
        self.config["contacts"] = json!({"source": "always", "station": STATION});
        self
    }

    /// Every pipeline goes to `exporters`, which replace the link.
    #[must_use]
    pub fn exporting(mut self, exporters: Value) -> Self {
        let names: Vec<String> = exporters.as_object().unwrap().keys().cloned().collect();
        for signal in Signal::ALL {
            self.config["service"]["pipelines"][signal.name()]["exporters"] = json!(names);
        }
        self.config["exporters"] = exporters;
        self
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
        eventually("space-agent answers", async || {
            self.process.must_run()?;
            self.ask(Method::GET, "/status", None).await.map(drop)
        })
        .await;
    }

    /// Asks over the control socket.
    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, String> {
        request(&self.socket, method, path, body.as_ref()).await.map_err(|e| e.to_string())
    }

    /// `/status`
    pub async fn status(&self) -> Value {
        self.ask(Method::GET, "/status", None).await.unwrap()
    }

    /// `/wal/inspect`
    pub async fn inspect(&self) -> Value {
        self.ask(Method::GET, "/wal/inspect?most=10000", None).await.unwrap()
    }

    /// Opens a contact with `station`, as `contact` says beside that.
    pub async fn open_contact(&self, station: &str, mut contact: Value) {
        contact["station"] = station.into();
        self.ask(Method::POST, "/contact/open", Some(contact)).await.unwrap();
    }

    /// Closes the contact and waits until the link is down.
    pub async fn close_contact(&self) {
        self.ask(Method::POST, "/contact/close", None).await.unwrap();
        eventually("the link is down", async || {
            let status = self.ask(Method::GET, "/status", None).await?;
            (status["link"]["state"] == "down").then_some(()).ok_or_else(|| status["link"].to_string())
        })
        .await;
    }

    /// A command of the program with this configuration.
    pub async fn command(&self, args: &[&str]) -> Exit {
        std::fs::write(&self.file, format!("{:#}\n", self.config)).unwrap();
        let mut all = args.to_vec();
        all.extend(["--config", self.file.to_str().unwrap()]);
        self.process.run(&all).await
    }

    /// The sum of a metric over its labels; 0 when it is not there.
    pub async fn metric(&self, name: &str) -> u64 {
        let text = get(&Target::tcp(self.metrics), "/metrics").await;
        let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
        let is_it = |line: &&str| line.split(['{', ' ']).next() == Some(name);
        text.lines().filter(is_it).filter_map(value).sum::<f64>() as u64
    }

    /// Waits until nothing is on board.
    pub async fn drained(&mut self) {
        eventually("everything has left the agent", async || {
            self.process.must_run()?;
            let status = self.ask(Method::GET, "/status", None).await?;
            let left = counts(&status["wal"]["on_board"]);
            (left == Counts::default()).then_some(()).ok_or_else(|| status.to_string())
        })
        .await;
    }

    /// Where its log is.
    pub fn wal_directory(&self) -> &PathBuf {
        &self.directory
    }

    /// The configuration's file.
    pub const fn config_file(&self) -> &PathBuf {
        &self.file
    }
}

/// Reads `{"traces": 1, ...}`.
pub(crate) fn counts(value: &Value) -> Counts {
    let mut out = Counts::default();
    for signal in Signal::ALL {
        out[signal] = value[signal.name()].as_u64().unwrap_or(0);
    }
    out
}

/// What an agent's `/status` says of items: accepted, delivered, dropped, on board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// Ever accepted.
    pub accepted: Counts,
    /// Every consumer has passed them.
    pub delivered: Counts,
    /// For all reasons.
    pub dropped: Counts,
    /// In the journal and in segments.
    pub on_board: Counts,
}

impl Agent {
    /// Where its items are; the sum must be right at any time.
    pub async fn account(&self) -> Account {
        let wal = self.status().await["wal"].clone();
        let dropped = wal["dropped"].as_object().unwrap().values().map(counts);
        let account = Account {
            accepted: counts(&wal["accepted"]),
            delivered: counts(&wal["delivered"]),
            dropped: dropped.fold(Counts::default(), |a, b| a + b),
            on_board: counts(&wal["on_board"]),
        };
        assert_eq!(account.accepted, account.delivered + account.dropped + account.on_board, "{wal:#}");
        account
    }
}
