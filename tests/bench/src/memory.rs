//! `bench memory`: resident memory idle, at a steady rate, and when offered far more than there is room for.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use perigee_shared::units::ByteSize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::Setup;
use crate::client::{Answer, Connection, Payload, Transport};
use crate::corpus::Corpus;
use crate::hostile_memory;
use crate::ingest::{measure, mib};
use crate::load::{Load, Tally, drive};
use crate::report::Row;
use crate::system::{AgentSettings, Running, start_agent};

/// Items of a large request: some 3.5 MiB of spans, below the agent's `max_request_bytes`.
const LARGE: usize = 12_000;

/// Until idle memory is looked at.
const SETTLE: Duration = Duration::from_secs(3);

/// `bench memory`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) setup: Setup,
    /// The agent's processors.memory_limiter.limit
    #[arg(long, default_value = "64MiB")]
    pub(crate) limit: ByteSize,
    /// With --hostile: the ground-station's memory.limit, and the limit of the satellites that it hears
    #[arg(long, default_value = "256MiB")]
    pub(crate) ground_limit: ByteSize,
    /// The steady rate, in items a second
    #[arg(long, default_value_t = 100_000.0)]
    rate: f64,
    /// Connections that offer too much at once
    #[arg(long, default_value_t = 256)]
    connections: usize,
    /// The agent's max_connections [default: the agent's own]
    #[arg(long, value_name = "N")]
    agent_connections: Option<usize>,
    /// Instead, requests that take many times their own size: a row for each kind
    #[arg(long)]
    hostile: bool,
    /// With --hostile: only rows of this exporter, `link`, `file`, `otlphttp` or `ground`
    #[arg(long, value_name = "NAME", requires = "hostile")]
    pub(crate) only: Option<String>,
}

/// Rows: idle, idle but for the machine's own metrics, steady for each transport and size of request, overload for each transport.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    if options.hostile {
        return hostile_memory::run(options).await;
    }
    let setup = &options.setup;
    let settings = AgentSettings {
        memory_limit: Some(options.limit),
        max_connections: options.agent_connections,
        ..AgentSettings::default()
    };
    let corpus = Corpus::spans(setup.corpus.as_deref())?;
    let hostmetrics = AgentSettings { hostmetrics: true, ..settings };
    let mut rows =
        vec![idle(options, settings, "idle").await?, idle(options, hostmetrics, "hostmetrics").await?];
    for transport in [Transport::Grpc, Transport::Http] {
        for items in [1000, 100] {
            let load = Load::new(transport, corpus.signal, items, &corpus.recut(items)?);
            let running = start_agent(setup, settings).await?;
            let rate = options.rate / items as f64;
            let measured = measure(setup, running, &load, Some(rate), setup.time).await?;
            let row = Figures {
                transport: Some(transport),
                items: Some(items),
                rate: Some(measured.items_per_s()),
                cpu: Some(measured.cpu_s_per_million()),
                core_percent: None,
                rss: measured.resident_mean(),
                peak: measured.peak(),
                recovery: None,
                tally: &measured.tally,
            };
            rows.push(row.row("steady", options.limit));
        }
    }
    let (large, small) = (corpus.recut(LARGE)?, corpus.recut(1000)?);
    for transport in [Transport::Grpc, Transport::Http] {
        let large = Load::new(transport, corpus.signal, LARGE, &large);
        let small = Load::new(transport, corpus.signal, 1000, &small);
        rows.push(overload(options, settings, &large, &small).await?);
    }
    Ok(rows)
}

struct Figures<'a> {
    transport: Option<Transport>,
    items: Option<usize>,
    rate: Option<f64>,
    cpu: Option<f64>,
    core_percent: Option<f64>,
    rss: f64,
    peak: u64,
    /// From the end of an overload to the first request that is taken.
    recovery: Option<Duration>,
    tally: &'a Tally,
}

impl Figures<'_> {
    fn row(&self, case: &str, limit: ByteSize) -> Row {
        let round = |value: Option<f64>| value.map(|v| (v * 1000.0).round() / 1000.0);
        let row = Row::default()
            .with("case", case)
            .with("transport", self.transport.map(Transport::name))
            .with("items_per_request", self.items)
            .with("items_per_s", self.rate.map(|r| r.round() as u64))
            .with("cpu_s_per_million", round(self.cpu))
            .with("core_percent", round(self.core_percent))
            .with_rounded("rss_mib", self.rss / f64::from(1 << 20), 1)
            .with_rounded("peak_mib", mib(self.peak), 1)
            .with_rounded("limit_mib", mib(limit.0), 1)
            .with_rounded("peak_of_limit", self.peak as f64 / limit.0 as f64, 3)
            .with("recovery_s", round(self.recovery.map(|d| d.as_secs_f64())))
            .with("accepted_requests", self.tally.accepted)
            .with("refused_requests", self.tally.refused)
            .with("broken_connections", self.tally.broken);
        eprintln!("bench: {}", serde_json::to_string(&row).unwrap_or_default());
        row
    }
}

async fn idle(options: &Options, settings: AgentSettings, case: &str) -> anyhow::Result<Row> {
    let running = start_agent(&options.setup, settings).await?;
    sleep(SETTLE).await;
    let (begin, before) = (Instant::now(), running.process.usage()?);
    // The kernel counts processor time in steps of 10 ms.
    sleep(options.setup.time * 4).await;
    let usage = running.process.usage()?;
    let core = (usage.cpu_s - before.cpu_s) / begin.elapsed().as_secs_f64();
    running.stop().await?;
    let tally = Tally::default();
    let figures = Figures {
        transport: None,
        items: None,
        rate: None,
        cpu: None,
        core_percent: Some(core * 100.0),
        rss: usage.rss as f64,
        peak: usage.peak,
        recovery: None,
        tally: &tally,
    };
    Ok(figures.row(case, options.limit))
}

/// Hundreds of connections at once: a third sends large requests as fast as it can, a third sends them slowly, and a third
/// sends small ones. What is outstanding is many times the limit. Afterwards the agent must still take a request.
async fn overload(
    options: &Options,
    settings: AgentSettings,
    large: &Load,
    small: &Load,
) -> anyhow::Result<Row> {
    let setup = &options.setup;
    let mut running = start_agent(setup, settings).await?;
    let begin = Instant::now();
    let end = begin + setup.time;
    let mut tasks = JoinSet::new();
    for n in 0..options.connections {
        let kind = [Kind::Large, Kind::Slow, Kind::Small][n % 3];
        let load = if kind == Kind::Small { small } else { large };
        let offer = Offer { load: load.clone(), kind, to: running.endpoint(load.transport), next: n, end };
        tasks.spawn(offer.run());
    }
    let mut tally = Tally::default();
    let mut resident = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            biased;
            done = tasks.join_next() => match done {
                Some(done) => tally.add(done?),
                None => break,
            },
            _ = ticks.tick() => {
                running.check()?;
                resident.push(running.process.usage()?.rss);
            }
        }
    }
    let peak = running.process.usage()?.peak;
    let recovery = recovers(&mut running, small).await?;
    running.stop().await?;
    let half = &resident[resident.len() / 2..];
    let figures = Figures {
        transport: Some(large.transport),
        items: Some(LARGE),
        rate: None,
        cpu: None,
        core_percent: None,
        rss: half.iter().sum::<u64>() as f64 / half.len().max(1) as f64,
        peak,
        recovery: Some(recovery),
        tally: &tally,
    };
    let outstanding: usize = large.bodies.iter().map(Bytes::len).sum::<usize>() / large.bodies.len()
        * (options.connections * 2 / 3);
    eprintln!("bench: overload had {:.0} MiB outstanding", mib(outstanding as u64));
    Ok(figures.row("overload", options.limit))
}

/// How long it takes until the agent takes a request again once the others are gone.
pub(crate) async fn recovers(running: &mut Running, load: &Load) -> anyhow::Result<Duration> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let begin = Instant::now();
    let mut seen = Tally::default();
    while begin.elapsed() < PATIENCE {
        let endpoint = running.endpoint(load.transport);
        let tried = begin.elapsed();
        match drive(load, endpoint, 1, None, Duration::from_millis(250)).await {
            Ok(tally) if tally.accepted > 0 => return Ok(tried),
            Ok(tally) => seen.add(tally),
            Err(_) => seen.broken += 1,
        }
        running.check()?;
    }
    let resident = mib(running.process.usage()?.rss);
    anyhow::bail!(
        "{PATIENCE:?} after the overload the agent takes nothing yet: {} refused, {} broken, {resident:.1} MiB resident",
        seen.refused,
        seen.broken,
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Large,
    Slow,
    Small,
}

/// A connection that offers too much, and is opened anew whenever it breaks.
pub(crate) struct Offer {
    pub(crate) load: Load,
    pub(crate) kind: Kind,
    pub(crate) to: std::net::SocketAddr,
    pub(crate) next: usize,
    pub(crate) end: Instant,
}

impl Offer {
    pub(crate) async fn run(mut self) -> Tally {
        let mut tally = Tally::default();
        while Instant::now() < self.end {
            // At the end whatever is under way is given up.
            if let Ok(Err(_)) = timeout_at(self.end, self.connection(&mut tally)).await {
                tally.broken += 1;
                sleep(Duration::from_millis(20)).await;
            }
        }
        tally
    }

    /// Offers over one connection until it breaks.
    async fn connection(&mut self, tally: &mut Tally) -> anyhow::Result<()> {
        const PIECE: usize = 64 << 10;
        const PAUSE: Duration = Duration::from_millis(50);
        let mut connection = Connection::open(self.load.transport, self.load.signal, self.to).await?;
        let bodies: &Arc<[Bytes]> = &self.load.bodies;
        loop {
            let body = bodies[self.next % bodies.len()].clone();
            self.next += 1;
            let length = body.len() as u64;
            let payload = match self.kind {
                Kind::Slow => Payload::slow(body, PIECE, PAUSE),
                Kind::Large | Kind::Small => Payload::whole(body),
            };
            match connection.export(payload).await.context("the connection broke")? {
                Answer::Accepted => {
                    tally.accepted += 1;
                    tally.bytes += length;
                }
                Answer::Refused => {
                    tally.refused += 1;
                    sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }
}
