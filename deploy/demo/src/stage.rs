//! The demo's directory: certificates, configurations and free ports.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ground_station::pki::{Pki, Role};
use perigee_shared::env::Env;
use perigee_shared::signal::Signal;
use serde_json::{Value, json};

use crate::backends::Backends;
use crate::options::Options;

/// The satellite's id.
pub(crate) const SATELLITE: &str = "demo-sat";
/// The station's id.
pub(crate) const STATION: &str = "demo-ground";
/// What is sent before everything else.
const ALARMS: &str = "alarms";
/// Its number.
pub(crate) const ALARM_LANE: u8 = 1;
/// A unix socket's path has 108 bytes; the names in the directory need some.
const LONGEST_PATH: usize = 90;

/// Where everything of one run is.
pub(crate) struct Stage {
    dir: PathBuf,
    keep: bool,
    /// The agent's OTLP/gRPC address.
    pub(crate) otlp: String,
    /// The agent's Prometheus endpoint.
    pub(crate) agent_metrics: String,
    /// The ground's Prometheus endpoint.
    pub(crate) ground_metrics: String,
    /// The ground's API for people.
    pub(crate) api: String,
    /// The ground's console.
    pub(crate) console: String,
    /// Where the ground listens for the link.
    pub(crate) link: SocketAddr,
}

impl Stage {
    /// Makes the directory, or takes an empty one, and finds ports.
    pub(crate) fn try_new(options: &Options) -> anyhow::Result<Self> {
        let dir = match options.dir.clone() {
            Some(dir) => {
                std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
                if std::fs::read_dir(&dir)?.next().is_some() {
                    bail!("{} is not empty; name another directory with --dir", dir.display());
                }
                dir.canonicalize()?
            }
            None => tempfile::Builder::new().prefix("perigee-demo-").tempdir()?.keep(),
        };
        if dir.as_os_str().len() > LONGEST_PATH {
            bail!("{} is too long for a unix socket in it; name a shorter one with --dir", dir.display());
        }
        // All are held until each has a port, so that no two are the same.
        let mut held = Vec::new();
        let [otlp, agent_metrics, ground_metrics, api, console] = [(); 5].map(|()| free_tcp(&mut held));
        let link = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        Ok(Self {
            dir,
            keep: options.keep,
            otlp: otlp?,
            agent_metrics: options.agent_metrics.clone().map_or(agent_metrics, Ok)?,
            ground_metrics: options.ground_metrics.clone().map_or(ground_metrics, Ok)?,
            api: api?,
            console: console?,
            link,
        })
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Issues certificates and writes both configurations; the satellite reaches the ground through `radio`.
    pub(crate) fn set(&self, backends: &Backends, radio: SocketAddr) -> anyhow::Result<()> {
        let pki = self.dir.join("pki");
        let mut authority = Pki::init(&pki, "perigee.example", false, &Env::production())?;
        authority.issue(Role::Satellite, SATELLITE, 60)?;
        authority.issue(Role::Station, STATION, 60)?;
        self.write("agent.yaml", &self.agent(radio))?;
        self.write("ground.yaml", &self.ground(backends))
    }

    /// JSON is YAML too.
    fn write(&self, name: &str, config: &Value) -> anyhow::Result<()> {
        let path = self.dir.join(name);
        std::fs::write(&path, format!("{config:#}\n"))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn agent(&self, radio: SocketAddr) -> Value {
        let pki = self.dir.join("pki");
        let pipeline = |receivers: &[&str]| json!({"receivers": receivers, "processors": ["memory_limiter", "batch"], "exporters": ["link"]});
        json!({
            "receivers": {
                "otlp": {"protocols": {"grpc": {"endpoint": self.otlp}}},
                "hostmetrics": {
                    "collection_interval": "10s",
                    "scrapers": {"cpu": {}, "disk": {}, "filesystem": {}, "load": {}, "memory": {}, "network": {}},
                },
            },
            // A build without optimisation is larger than the agent itself.
            "processors": {"memory_limiter": {"limit": "256MiB"}, "batch": {}},
            "exporters": {"link": {}},
            "lanes": {ALARMS: {"number": ALARM_LANE, "match": [{"severity": "fatal"}], "timeout": "0s"}},
            "storage": {"directory": self.dir.join("agent"), "max_bytes": "256MiB", "ballast": "1MiB"},
            "link": {
                "certificate_file": pki.join(format!("satellite-{SATELLITE}.crt")),
                "private_key_file": pki.join(format!("satellite-{SATELLITE}.key")),
                "station_ca_file": pki.join("station-ca.crt"),
                "stations": {STATION: {"address": radio}},
            },
            "contacts": {"source": "manual"},
            "extensions": {"control": {"socket": self.dir.join("agent.sock")}},
            "service": {
                "pipelines": {
                    "traces": pipeline(&["otlp"]),
                    "metrics": pipeline(&["otlp", "hostmetrics"]),
                    "logs": pipeline(&["otlp"]),
                },
                "telemetry": {"metrics": {"endpoint": self.agent_metrics}},
            },
        })
    }

    fn ground(&self, backends: &Backends) -> Value {
        let pki = self.dir.join("pki");
        let mut exporters = serde_json::Map::new();
        let mut pipelines = serde_json::Map::new();
        for signal in Signal::ALL {
            let (name, settings) = backends.exporter(signal, &self.dir);
            pipelines.insert(signal.name().into(), json!({"exporters": [name]}));
            exporters.insert(name, settings);
        }
        json!({
            "link": {
                "station": STATION,
                "listen": [self.link],
                "certificate_file": pki.join(format!("station-{STATION}.crt")),
                "private_key_file": pki.join(format!("station-{STATION}.key")),
                "satellite_ca_file": pki.join("satellite-ca.crt"),
                "satellite_crl_file": pki.join("satellite-ca.crl"),
                "satellites": {SATELLITE: {}},
            },
            "exporters": exporters,
            "storage": {"directory": self.dir.join("ground"), "max_bytes": "256MiB", "ballast": "1MiB"},
            "extensions": {
                "api": {"endpoint": self.api},
                "console": {"endpoint": self.console},
                "control": {"socket": self.dir.join("ground.sock")},
            },
            "service": {
                "pipelines": pipelines,
                "telemetry": {"metrics": {"endpoint": self.ground_metrics}},
            },
        })
    }

    /// Takes away the stores and certificates, unless they were to be kept; what was delivered and the logs stay.
    pub(crate) fn strike(&self) {
        if self.keep {
            return;
        }
        for name in ["agent", "ground", "pki"] {
            // What cannot be removed stays; the run is over.
            let _ = std::fs::remove_dir_all(self.dir.join(name));
        }
        for name in ["agent.yaml", "ground.yaml"] {
            let _ = std::fs::remove_file(self.dir.join(name));
        }
    }
}

fn free_tcp(held: &mut Vec<TcpListener>) -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
    let address = listener.local_addr()?.to_string();
    held.push(listener);
    Ok(address)
}
