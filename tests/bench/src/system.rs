//! What is measured: space-agent, or an OpenTelemetry Collector beside it, started for one measurement.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use perigee_shared::units::ByteSize;
use rcgen::{CertificateParams, KeyPair, SanType};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::Setup;
use crate::client::Transport;
use crate::process::Process;
use crate::scrape;

/// How long a system may take until it answers, and until its backlog is sealed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the agent sends what it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum To {
    /// A link without a contact.
    #[default]
    Link,
    /// A file of OTLP JSON.
    File,
    /// An OTLP/HTTP backend there.
    Http(SocketAddr),
}

impl To {
    /// The exporter's.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::File => "file",
            Self::Http(_) => "otlphttp",
        }
    }
}

/// Settings of the agent that differ between benches; `None` leaves the agent's own default.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AgentSettings {
    /// `processors.batch.defer_sealing`.
    pub(crate) defer_sealing: Option<ByteSize>,
    /// `processors.memory_limiter.limit`.
    pub(crate) memory_limit: Option<ByteSize>,
    /// `max_connections` of each listener.
    pub(crate) max_connections: Option<usize>,
    /// `acknowledge: received`.
    pub(crate) received: bool,
    /// `hostmetrics` once a second, with every scraper of the whole machine.
    pub(crate) hostmetrics: bool,
    /// `exporters`.
    pub(crate) to: To,
}

/// A system that runs.
pub(crate) struct Running {
    pub(crate) process: Process,
    grpc: SocketAddr,
    http: SocketAddr,
    /// The agent's; a Collector has none.
    metrics: Option<SocketAddr>,
    log: PathBuf,
    // Last, so that the process ends before its files go.
    directory: TempDir,
}

impl Running {
    /// Where `transport` is served.
    pub(crate) const fn endpoint(&self, transport: Transport) -> SocketAddr {
        match transport {
            Transport::Grpc => self.grpc,
            Transport::Http | Transport::Json => self.http,
        }
    }

    /// The value of one of the agent's metrics.
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        scrape::metric(self.metrics.context("only the agent has metrics")?, name).await
    }

    /// Whether there is a backlog to look at.
    pub(crate) const fn has_backlog(&self) -> bool {
        self.metrics.is_some()
    }

    /// Waits until nothing is on board. How many of the items that were accepted were not sent.
    pub(crate) async fn wait_delivered(&mut self) -> anyhow::Result<u64> {
        const PAUSE: Duration = Duration::from_millis(250);
        let metrics = self.metrics.context("only the agent has metrics")?;
        let (mut least, mut deadline) = (f64::INFINITY, Instant::now());
        loop {
            let text = scrape::get(metrics, "/metrics").await?;
            let left = scrape::sum(&text, "perigee_wal_unsealed_items")?
                + scrape::sum(&text, "perigee_wal_segments")?;
            if left == 0.0 {
                let of = |what: &str| -> anyhow::Result<f64> {
                    ["spans", "metric_points", "log_records"]
                        .iter()
                        .map(|items| scrape::sum(&text, &format!("otelcol_{what}_{items}_total")))
                        .sum()
                };
                return Ok((of("receiver_accepted")? - of("exporter_sent")?) as u64);
            }
            // What packs well is taken faster than a disk takes it unpacked.
            if left < least {
                (least, deadline) = (left, Instant::now() + PATIENCE);
            }
            ensure!(
                Instant::now() < deadline,
                "{left} items and segments are still on board: none has gone for {PATIENCE:?}"
            );
            self.process.check(&self.log)?;
            sleep(PAUSE).await;
        }
    }

    /// Bytes in the journal that are not in a segment yet.
    pub(crate) async fn unsealed(&self) -> anyhow::Result<u64> {
        Ok(self.metric("perigee_wal_unsealed_bytes").await? as u64)
    }

    /// Bytes on board, in the journal and in segments.
    pub(crate) async fn stored(&self) -> anyhow::Result<u64> {
        Ok(self.metric("perigee_wal_stored_bytes").await? as u64)
    }

    /// Waits until the backlog is sealed: less than a segment is left, which waits for more or for a contact, and it stays the
    /// same. A Collector has nothing to seal.
    pub(crate) async fn wait_sealed(&mut self) -> anyhow::Result<()> {
        const PAUSE: Duration = Duration::from_millis(250);
        const SEGMENT_ITEMS: f64 = 65_536.0;
        const HELD_BACK: f64 = 8_388_608.0;
        let Some(metrics) = self.metrics else { return Ok(()) };
        let deadline = Instant::now() + PATIENCE;
        let mut before = (f64::MAX, f64::MAX);
        loop {
            let text = scrape::get(metrics, "/metrics").await?;
            let items = scrape::sum(&text, "perigee_wal_unsealed_items")?;
            let left = (items, scrape::sum(&text, "perigee_wal_unsealed_bytes")?);
            if left == before && items < SEGMENT_ITEMS && left.1 < HELD_BACK {
                return Ok(());
            }
            before = left;
            ensure!(Instant::now() < deadline, "{items} items are still not sealed after {PATIENCE:?}");
            self.process.check(&self.log)?;
            sleep(PAUSE).await;
        }
    }

    /// The agent's log.
    pub(crate) fn wal(&self) -> PathBuf {
        self.directory.path().join("store/wal.redb")
    }

    /// kill -9.
    pub(crate) fn kill(self) -> Killed {
        drop(self.process);
        Killed { directory: self.directory }
    }

    /// An error when the process has ended by itself.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.process.check(&self.log)
    }

    /// Ends it and removes its files.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.process.stop().await
    }
}

/// An agent that was killed; its files are there.
pub(crate) struct Killed {
    directory: TempDir,
}

impl Killed {
    /// Starts it again with what it has on board.
    pub(crate) async fn start(self, setup: &Setup, settings: AgentSettings) -> anyhow::Result<Running> {
        start_in(setup, settings, self.directory).await
    }
}

/// Starts the agent with an empty store, out of contact.
pub(crate) async fn start_agent(setup: &Setup, settings: AgentSettings) -> anyhow::Result<Running> {
    let directory = scratch(setup)?;
    make_certificates(directory.path())?;
    start_in(setup, settings, directory).await
}

async fn start_in(setup: &Setup, settings: AgentSettings, directory: TempDir) -> anyhow::Result<Running> {
    let program = agent_program(setup)?;
    let path = directory.path();
    let [grpc, http, metrics, health] = free_ports()?;
    let config = path.join("agent.yaml");
    std::fs::write(&config, agent_config(setup, settings, path, [grpc, http, metrics, health]))?;
    let mut command = Command::new(program);
    command.arg("run").arg("--config").arg(&config);
    let log = path.join("log");
    let mut process = Process::start(command, setup.agent_core, &log)?;
    let deadline = Instant::now() + PATIENCE;
    while scrape::get(health, "/").await.is_err() {
        process.check(&log)?;
        ensure!(Instant::now() < deadline, "the agent is not healthy after {PATIENCE:?}");
        sleep(Duration::from_millis(20)).await;
    }
    Ok(Running { process, grpc, http, metrics: Some(metrics), log, directory })
}

/// Starts a Collector whose configuration reads its addresses and its queue's directory from the environment.
pub(crate) async fn start_collector(setup: &Setup, program: &Path, config: &Path) -> anyhow::Result<Running> {
    let directory = scratch(setup)?;
    let [grpc, http, export_to] = free_ports()?;
    let mut command = Command::new(program);
    command
        .arg("--config")
        .arg(config)
        .env("OTLP_GRPC", grpc.to_string())
        .env("OTLP_HTTP", http.to_string())
        .env("EXPORT_TO", export_to.to_string())
        .env("QUEUE_DIR", directory.path().join("queue"));
    let log = directory.path().join("log");
    let mut process = Process::start(command, setup.agent_core, &log)?;
    let deadline = Instant::now() + PATIENCE;
    for endpoint in [grpc, http] {
        while tokio::net::TcpStream::connect(endpoint).await.is_err() {
            process.check(&log)?;
            ensure!(Instant::now() < deadline, "the Collector does not listen after {PATIENCE:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(Running { process, grpc, http, metrics: None, log, directory })
}

fn agent_program(setup: &Setup) -> anyhow::Result<PathBuf> {
    let program = match &setup.agent {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("space-agent"),
    };
    if !program.is_file() {
        let build = "build it with `cargo build --release -p space-agent`, or name it with --agent";
        bail!("there is no agent at {}: {build}", program.display());
    }
    Ok(program)
}

/// A directory for one measurement.
fn scratch(setup: &Setup) -> anyhow::Result<TempDir> {
    let parent = setup.dir.clone().unwrap_or_else(std::env::temp_dir);
    let directory = tempfile::Builder::new().prefix("perigee-bench-").tempdir_in(&parent);
    let directory = directory.with_context(|| format!("--dir {}", parent.display()))?;
    let kind = nix::sys::statfs::statfs(directory.path())?.filesystem_type();
    if kind == nix::sys::statfs::TMPFS_MAGIC {
        eprintln!("bench: {} is in memory: name a directory on a disk with --dir", parent.display());
    }
    Ok(directory)
}

/// Ports that nobody listens on; all are taken at once so that they differ.
fn free_ports<const N: usize>() -> std::io::Result<[SocketAddr; N]> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut ports = [any; N];
    let mut taken = Vec::new();
    for port in &mut ports {
        let listener = TcpListener::bind(any)?;
        *port = listener.local_addr()?;
        taken.push(listener);
    }
    Ok(ports)
}

/// An authority and a satellite's certificate: the agent has a link, only no contact.
fn make_certificates(directory: &Path) -> anyhow::Result<()> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_certificate = authority.self_signed(&authority_key)?;
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = KeyPair::generate()?;
    let mut satellite = CertificateParams::default();
    satellite.subject_alt_names = vec![SanType::URI("spiffe://bench/satellite/bench".try_into()?)];
    let certificate = satellite.signed_by(&key, &issuer)?;
    std::fs::write(directory.join("ca.crt"), authority_certificate.pem())?;
    std::fs::write(directory.join("satellite.crt"), certificate.pem())?;
    std::fs::write(directory.join("satellite.key"), key.serialize_pem())?;
    Ok(())
}

fn agent_config(setup: &Setup, settings: AgentSettings, directory: &Path, ports: [SocketAddr; 4]) -> String {
    let [grpc, http, metrics, health] = ports;
    let at = directory.display();
    let line = |key: &str, value: Option<String>| value.map_or_else(String::new, |v| format!("{key}: {v}"));
    let connections = line("max_connections", settings.max_connections.map(|n| n.to_string()));
    let limit = line("limit", settings.memory_limit.map(|n| format!("{}B", n.0)));
    let defer = line("defer_sealing", settings.defer_sealing.map(|n| format!("{}B", n.0)));
    let (exporter, settings_of_it) = match settings.to {
        To::Link => ("link", "{}".to_owned()),
        // Some requests grow a thousandfold: no disk has room for all that they become.
        To::File => ("file", format!("{{path: {at}/out.jsonl, max_bytes: 256MiB, max_backups: 2}}")),
        To::Http(backend) => ("otlphttp", format!("{{endpoint: \"http://{backend}\"}}")),
    };
    let pipeline = |receivers: &str| {
        format!("{{receivers: [{receivers}], processors: [memory_limiter, batch], exporters: [{exporter}]}}")
    };
    let (machine, receivers) = if settings.hostmetrics {
        (
            "hostmetrics: {collection_interval: 1s, scrapers: {cpu: , memory: , load: , disk: , filesystem: , network: , \
             paging: , processes: , temperature: , system: }}",
            "otlp, hostmetrics",
        )
    } else {
        ("", "otlp")
    };
    let link = match settings.to {
        To::Link => format!(
            "\
link:
  certificate_file: {at}/satellite.crt
  private_key_file: {at}/satellite.key
  station_ca_file: {at}/ca.crt
  stations: {{nowhere: {{address: 127.0.0.1:9}}}}
contacts: {{source: manual}}"
        ),
        To::File | To::Http(_) => String::new(),
    };
    format!(
        "\
receivers:
  otlp:
    protocols:
      grpc: {{endpoint: {grpc}, {connections}}}
      http: {{endpoint: {http}, {connections}}}
    acknowledge: {acknowledge}
  {machine}
processors:
  memory_limiter: {{{limit}}}
  batch: {{{defer}}}
exporters: {{{exporter}: {settings_of_it}}}
storage:
  directory: {at}/store
  max_bytes: {max_bytes}B
  commit_interval: {commit_us}us
{link}
extensions:
  health_check: {{endpoint: {health}}}
  control: {{socket: {at}/control.sock}}
service:
  pipelines:
    traces: {otlp}
    metrics: {metrics_too}
    logs: {otlp}
  telemetry:
    metrics: {{endpoint: {metrics}}}
    logs: {{level: warn}}
    otlp: {{enabled: false}}
",
        otlp = pipeline("otlp"),
        metrics_too = pipeline(receivers),
        acknowledge = if settings.received { "received" } else { "durable" },
        max_bytes = setup.max_bytes.0,
        commit_us = setup.commit_interval.as_micros(),
    )
}
