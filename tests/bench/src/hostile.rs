//! `bench hostile`: one listed satellite was taken over; what that costs the ground-station, and the honest one beside it. And a station
//! (`hostile_station.rs`).

use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use e2e::hostile::{Attack, Peer, attack, epoch};
use e2e::{Ground, SATELLITE, Scene};
use ground_station::pki::Role;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::hostile_station;
use crate::peak::{forget, resident};
use crate::report::Row;

/// `bench hostile`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// How long each attack lasts
    #[arg(long, default_value = "5s", value_parser = perigee_shared::units::parse_duration)]
    time: Duration,
}

/// What the honest one sees.
pub(crate) struct Seen {
    median: Duration,
    worst: Duration,
}

impl Seen {
    pub(crate) fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self { median: all[all.len() / 2], worst: all[all.len() - 1] }
    }
}

/// What an attack costs: others' latency under it and without it, memory before and at most, and how long until all is as it was.
pub(crate) fn row(
    attack: &str,
    under: &Seen,
    alone: &Seen,
    (before, peak): (u64, u64),
    recovery: Duration,
) -> Row {
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    Row::default()
        .with("attack", attack)
        .with_rounded("median_ms", ms(under.median), 1)
        .with_rounded("of_alone", under.median.as_secs_f64() / alone.median.as_secs_f64(), 2)
        .with_rounded("worst_ms", ms(under.worst), 1)
        .with_rounded("worst_alone_ms", ms(alone.worst), 1)
        .with("rss_before_mib", before >> 20)
        .with("rss_peak_mib", peak >> 20)
        .with_rounded("recovery_ms", ms(recovery), 1)
}

/// A row for each attack.
pub(crate) fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let directory = tempfile::tempdir()?;
    let programs = ::survive::programs::links(directory.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let scene = Scene::new(programs);
        let mut ground = Ground::new(&scene);
        for n in 0..Attack::ALL.len() {
            let name = name(n);
            scene.issue(Role::Satellite, &name);
            ground.config["link"]["satellites"][name] = json!({});
        }
        ground.start().await;
        let mut rows = Vec::new();
        let mut sequence = 0;
        for (n, (kind, what)) in Attack::ALL.into_iter().enumerate() {
            let id = ground.process.id().context("the ground-station runs")?.to_string();
            let alone = honest(&scene, &ground, &mut sequence, options.time / 2).await?;
            forget(&id)?;
            let before = resident(&id, "VmRSS:")?;
            let over = CancellationToken::new();
            let attacking = async {
                let name = name(n);
                while !over.is_cancelled() {
                    let once = attack(&scene, &name, ground.link, kind);
                    // That its link is closed is what is to happen.
                    drop(tokio::time::timeout(options.time, over.run_until_cancelled(once)).await);
                }
            };
            let beside = async {
                let seen = honest(&scene, &ground, &mut sequence, options.time).await;
                over.cancel();
                seen
            };
            let ((), under) = tokio::join!(attacking, beside);
            let under = under?;
            let after = honest(&scene, &ground, &mut sequence, Duration::ZERO).await?;
            ground.process.must_run().map_err(|e| anyhow!(e))?;
            let peak = resident(&id, "VmHWM:")?;
            rows.push(row(what, &under, &alone, (before, peak), after.worst));
        }
        ground.process.terminate().await;
        rows.extend(hostile_station::run(&scene, options.time).await?);
        Ok(rows)
    })
}

fn name(n: usize) -> String {
    format!("taken-over-{n}")
}

/// Commits one small segment after the other for `time`, at least one.
async fn honest(scene: &Scene, ground: &Ground, sequence: &mut u64, time: Duration) -> anyhow::Result<Seen> {
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| anyhow!("the honest satellite: {e}");
    let mut peer = Peer::connect(scene, SATELLITE, ground.link).await.map_err(failed)?;
    peer.hello(vec![epoch(1)]).await.map_err(failed)?;
    let (began, mut all) = (Instant::now(), Vec::new());
    while all.is_empty() || began.elapsed() < time {
        *sequence += 1;
        all.push(peer.commit(1, *sequence).await.map_err(failed)?);
    }
    Ok(Seen::of(all))
}
