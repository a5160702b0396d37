//! The program `linkem`.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use linkem::config::{Burst, OVERHEAD, Queue, Reorder, parse_chance, parse_interval};
use linkem::{Config, Link, Path, Schedule, Stats};
use perigee_shared::contact::parse_rate;
use perigee_shared::units::parse_duration;
use tokio::signal::unix::{SignalKind, signal};

/// A space link on a desk: passes UDP between clients and one server.
///
/// It has the rate, the delay, the losses and the outages of a link. Clients (space-agent) send to
/// --listen, the server (ground-station) is at --to. Each client gets a port of its own towards the
/// server, so that several may share the link. When the link goes down, what is under way is lost.
///
/// SIGUSR1 prints the statistics, SIGUSR2 cuts the link and restores it, SIGINT and SIGTERM print
/// the statistics and end.
///
/// Example, a pass of eight minutes of a low orbit with a thin return link:
///   linkem --listen 127.0.0.1:7000 --to 127.0.0.1:4433 --rate 20mbit --return-rate 64kbit \
///     --delay 20ms --loss 1% --window 10s..490s
#[derive(Parser)]
#[command(name = "linkem", version, verbatim_doc_comment)]
struct Arguments {
    /// Where clients send to
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Where the server is
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// Link rate from the clients to the server, IP and UDP headers included (64kbit, 20mbit, 1gbit) [default: no limit]
    #[arg(long, value_parser = parse_rate)]
    rate: Option<u64>,
    /// Link rate from the server to the clients [default: as --rate]
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    return_rate: Option<u64>,
    /// Time on the way, in each direction
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    delay: Duration,
    /// Chance that a datagram is lost by itself, in each direction (1% or 0.01)
    #[arg(long, default_value = "0%", value_name = "CHANCE", value_parser = parse_chance)]
    loss: f64,
    /// Chance of such a loss from the server to the clients [default: as --loss]
    #[arg(long, value_name = "CHANCE", value_parser = parse_chance)]
    return_loss: Option<f64>,
    /// Losses that come together: chance that a burst begins, and datagrams in one on average (0.1%:20)
    #[arg(long, value_name = "CHANCE:DATAGRAMS")]
    burst_loss: Option<Burst>,
    /// Datagrams that are held so that later ones overtake them: chance and time (1%:5ms)
    #[arg(long, value_name = "CHANCE:TIME")]
    reorder: Option<Reorder>,
    /// What may wait for the link: bandwidth-delay products (1bdp) or bytes (64KiB); what finds it full is dropped
    #[arg(long, default_value = "1bdp")]
    queue: Queue,
    /// The link is up only from this to that time after the start (10s..490s); may be given several times, in order
    #[arg(long, value_name = "FROM..TO", value_parser = parse_interval, conflicts_with = "outages")]
    window: Vec<(Duration, Duration)>,
    /// A file with a FROM..TO on each line, times after the start in which the link is down
    #[arg(long, value_name = "FILE")]
    outages: Option<PathBuf>,
    /// Seed of all chance [default: a random one, which is printed]
    #[arg(long)]
    seed: Option<u64>,
    /// End by itself after this time
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    lifetime: Option<Duration>,
    /// Print statistics as a line of JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Arguments {
    async fn config(&self) -> anyhow::Result<Config> {
        let to = tokio::net::lookup_host(&self.to).await.with_context(|| format!("--to {}", self.to))?.next();
        let Some(to) = to else { bail!("--to {}: no such host", self.to) };
        let schedule = match &self.outages {
            None if self.window.is_empty() => Ok(Schedule::default()),
            None => Schedule::windows(&self.window),
            Some(file) => {
                let text = std::fs::read_to_string(file);
                Schedule::parse_outages(&text.with_context(|| format!("--outages {}", file.display()))?)
            }
        };
        let forward = Path {
            rate: self.rate,
            overhead: OVERHEAD,
            delay: self.delay,
            queue: self.queue,
            loss: self.loss,
            burst: self.burst_loss,
            reorder: self.reorder,
        };
        let back = Path {
            rate: self.return_rate.or(self.rate),
            loss: self.return_loss.unwrap_or(self.loss),
            ..forward.clone()
        };
        let seed = self.seed.unwrap_or_else(rand::random);
        let schedule = schedule.map_err(anyhow::Error::msg)?;
        Ok(Config { listen: self.listen, to, forward, back, schedule, seed })
    }

    fn print(&self, stats: &Stats) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, stats)?;
            writeln!(out)?;
        } else {
            write!(out, "{stats}")?;
        }
        Ok(out.flush()?)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let config = arguments.config().await?;
    let (seed, to) = (config.seed, config.to);
    let link = Link::start(config).await.with_context(|| format!("--listen {}", arguments.listen))?;
    let mut report = signal(SignalKind::user_defined1())?;
    let mut toggle = signal(SignalKind::user_defined2())?;
    let mut terminate = signal(SignalKind::terminate())?;
    eprintln!("linkem: {} -> {to}, seed {seed}", link.local_addr());
    let end = async {
        match arguments.lifetime {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    loop {
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => break,
            _ = terminate.recv() => break,
            _ = report.recv() => arguments.print(&link.stats())?,
            _ = toggle.recv() => if link.is_up() { link.cut() } else { link.restore() },
            () = &mut end => break,
        }
    }
    arguments.print(&link.stats())
}
