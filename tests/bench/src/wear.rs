//! `bench wear`: what a flash disk has to write for a trickle of telemetry out of contact, and how often the processor wakes.

use std::time::Duration;

use clap::Args;
use perigee_shared::units::parse_duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Setup;
use crate::client::Transport;
use crate::corpus::Corpus;
use crate::load::{Load, Tally, drive};
use crate::process::Usage;
use crate::report::Row;
use crate::system::{AgentSettings, start_agent};

/// Until what a start writes and wakes is over.
const SETTLE: Duration = Duration::from_secs(3);

/// How often the agent had the disk make something durable.
const SYNCS: &str = "perigee_store_syncs_total";

/// `bench wear`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) setup: Setup,
    /// How long telemetry trickles; all rows at once
    #[arg(long, default_value = "600s", value_parser = parse_duration)]
    span: Duration,
}

/// A trickle, and how commits are held.
#[derive(Clone, Copy)]
struct Case {
    requests_per_s: f64,
    items: usize,
    received: bool,
    interval: Duration,
}

const CASES: [Case; 8] = [
    Case::new(5.0, 10, false, 0),
    Case::new(5.0, 10, false, 1000),
    Case::new(5.0, 10, false, 3000),
    Case::new(5.0, 10, true, 10_000),
    Case::new(5.0, 10, true, 60_000),
    Case::new(1.0, 10, false, 0),
    Case::new(1.0, 100, false, 1000),
    Case::new(0.0, 10, false, 0),
];

impl Case {
    const fn new(requests_per_s: f64, items: usize, received: bool, interval_ms: u64) -> Self {
        Self { requests_per_s, items, received, interval: Duration::from_millis(interval_ms) }
    }
}

/// A row for each case; the last one is idle.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let corpus = Corpus::spans(options.setup.corpus.as_deref())?;
    let mut running = JoinSet::new();
    for (n, case) in CASES.into_iter().enumerate() {
        let load = Load::new(Transport::Http, corpus.signal, case.items, &corpus.recut(case.items)?);
        let (setup, span) = (options.setup.clone(), options.span);
        running.spawn(async move { measure(setup, span, case, load).await.map(|row| (n, row)) });
    }
    let mut rows = running.join_all().await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    rows.sort_by_key(|(n, _)| *n);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

async fn measure(setup: Setup, span: Duration, case: Case, load: Load) -> anyhow::Result<Row> {
    let setup = Setup { commit_interval: case.interval, ..setup };
    let settings = AgentSettings { received: case.received, ..AgentSettings::default() };
    let mut running = start_agent(&setup, settings).await?;
    sleep(SETTLE).await;
    let syncs = running.metric(SYNCS).await?;
    let before = running.process.usage()?;
    let mut tally = Tally::default();
    if case.requests_per_s > 0.0 {
        let to = running.endpoint(Transport::Http);
        // The agent closes a connection on which nothing comes for 10 s.
        let senders = setup.senders.min((case.requests_per_s * 5.0).ceil() as usize);
        tally = drive(&load, to, senders, Some(case.requests_per_s), span).await?;
        // What is held is committed.
        sleep(case.interval).await;
    } else {
        sleep(span).await;
    }
    let after = running.process.usage()?;
    running.check()?;
    let commits = running.metric("perigee_journal_commits_total").await?;
    let syncs = running.metric(SYNCS).await? - syncs;
    running.stop().await?;
    Ok(row(span, case, tally, (commits, syncs), (before, after)))
}

fn row(
    span: Duration,
    case: Case,
    mut tally: Tally,
    (commits, syncs): (f64, f64),
    (before, after): (Usage, Usage),
) -> Row {
    let written = (after.written - before.written) as f64;
    let seconds = span.as_secs_f64();
    let round = |ms: Option<f64>| ms.map(|ms| (ms * 10.0).round() / 10.0);
    let row = Row::default()
        .with("requests_per_s", case.requests_per_s)
        .with("items_per_request", case.items)
        .with("acknowledge", if case.received { "received" } else { "durable" })
        .with_rounded("commit_interval_s", case.interval.as_secs_f64(), 1)
        .with("accepted", tally.accepted)
        .with("refused", tally.refused + tally.broken)
        .with("otlp_bytes", tally.bytes)
        .with("written_bytes", written)
        .with(
            "written_per_byte",
            (tally.bytes > 0).then(|| (written / tally.bytes as f64 * 100.0).round() / 100.0),
        )
        .with_rounded("written_mb_per_day", written / seconds * 86_400.0 / 1e6, 1)
        .with("commits", commits)
        .with_rounded("commits_per_s", commits / seconds, 2)
        .with("syncs", syncs)
        .with_rounded("syncs_per_s", syncs / seconds, 2)
        .with_rounded("wakeups_per_s", (after.wakeups - before.wakeups) as f64 / seconds, 2)
        .with("p50_ms", round(tally.percentile_ms(0.5)))
        .with("p99_ms", round(tally.percentile_ms(0.99)));
    eprintln!("bench: {}", serde_json::to_string(&row).unwrap_or_default());
    row
}
