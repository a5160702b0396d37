//! `bench console`: what the pages cost with a thousand satellites and a hundred thousand passes in the store.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use clap::Args;
use e2e::hostile::{Peer, epoch};
use e2e::{Ground, SATELLITE, Scene, free_port};
use ground_station::config::Config;
use ground_station::ground::open_store;
use perigee_proto::link::{Hello, LaneBacklog, Orbit, PassReport, PassState, Site};
use perigee_shared::env::Env;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::peak::resident;
use crate::report::Row;

/// Passes that one Hello tells.
const TOLD: u64 = 50;

/// `bench console`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Satellites in the store
    #[arg(long, default_value_t = 1000, value_name = "N")]
    satellites: u64,
    /// Passes in the store, of all satellites
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    passes: u64,
    /// Viewers, each with a stream of events and the page that it keeps up to date
    #[arg(long, default_value_t = 10, value_name = "N")]
    viewers: usize,
    /// How long each turn lasts
    #[arg(long, default_value = "10s", value_parser = perigee_shared::units::parse_duration)]
    time: Duration,
    /// Turns without and with viewers
    #[arg(long, default_value_t = 3, value_name = "N")]
    turns: usize,
}

/// The columns; not every row has all of them.
const COLUMNS: [&str; 11] = [
    "new_look_ms",
    "same_look_ms",
    "bytes",
    "update_ms",
    "update_ms_max",
    "core_percent",
    "grown_mib",
    "looks_per_s",
    "commits_per_s_without",
    "commits_per_s_with",
    "ratio",
];

fn row(what: &str, values: &[(&str, f64, u32)]) -> Row {
    COLUMNS.into_iter().fold(Row::default().with("what", what), |row, column| {
        match values.iter().find(|(name, ..)| *name == column) {
            Some((_, value, digits)) => row.with_rounded(column, *value, *digits),
            None => row.with(column, ""),
        }
    })
}

/// A row for each page, one for what a browser loads beside them, two for how soon a commit is told, and one for the viewers.
pub(crate) fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let directory = tempfile::tempdir()?;
    let programs = ::survive::programs::links(directory.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let scene = Scene::new(programs);
        let mut ground = Ground::new(&scene);
        let console: SocketAddr = format!("127.0.0.1:{}", free_port()).parse()?;
        ground.config["extensions"]["console"] = json!({"endpoint": console.to_string()});
        Box::pin(fill(&ground, options)).await?;
        ground.start().await;
        let id = ground.process.id().context("the ground-station runs")?.to_string();
        let mut rows = Vec::new();
        for path in ["/", "/satellites/sat-500", "/passes", "/gaps", "/data", "/live", "/catalogue"] {
            rows.push(page(console, path).await?);
        }
        rows.push(assets(console).await?);
        rows.extend(updates(&scene, &ground, console).await?);
        rows.push(viewers(&scene, &ground, console, &id, options).await?);
        ground.process.terminate().await;
        Ok(rows)
    })
}

/// Has satellites tell of their passes, in a store that nobody runs.
async fn fill(ground: &Ground, options: &Options) -> anyhow::Result<()> {
    let config: Config = perigee_shared::config::parse(&ground.config.to_string(), "bench.yaml", |_| None)?;
    let env = Env::production();
    let store = open_store(&config, &env).await?;
    let (each, now) = (options.passes / options.satellites.max(1), env.unix_nano());
    let report = |n: u64| PassReport {
        station: "svalbard".to_owned(),
        start_unix_nano: now - n * 5_400_000_000_000,
        end_unix_nano: now - n * 5_400_000_000_000 + 480_000_000_000,
        planned_bytes: 100 << 20,
        held_bytes: (n % 100) << 20,
        connected_nano: 400_000_000_000,
        state: PassState::EndedByPlan.into(),
        ..PassReport::default()
    };
    for satellite in 0..options.satellites {
        let id: Arc<str> = format!("sat-{satellite}").into();
        for first in (0..each).step_by(TOLD as usize) {
            let hello = Hello {
                satellite: id.to_string(),
                software: "space-agent".to_owned(),
                orbit: Some(orbit(now)),
                passes: (first..each.min(first + TOLD))
                    .map(|n| report(n * options.satellites + satellite + 1))
                    .collect(),
                backlog: vec![LaneBacklog {
                    lane: 8,
                    name: "bulk".to_owned(),
                    bytes: 1 << 20,
                    ..Default::default()
                }],
                ..Hello::default()
            };
            store.intake().ledger(Arc::clone(&id), Arc::new(hello)).await?;
        }
    }
    store.close().await;
    Ok(())
}

/// Of a polar orbit, seen from one place.
fn orbit(epoch_unix_nano: u64) -> Orbit {
    let site = Site { station: "svalbard".to_owned(), latitude: 78.2, longitude: 15.4, ..Site::default() };
    Orbit {
        epoch_unix_nano,
        mean_motion: 15.2,
        eccentricity: 0.001,
        inclination: 97.5,
        sites: vec![site],
        ..Orbit::default()
    }
}

/// The answer to a request, head included.
async fn get(console: SocketAddr, path: &str) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(console).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    ensure!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{path}: {}",
        String::from_utf8_lossy(&answer[..100.min(answer.len())])
    );
    Ok(answer)
}

/// A page whose look is new, and the same again.
async fn page(console: SocketAddr, path: &str) -> anyhow::Result<Row> {
    // The file is in memory then.
    get(console, path).await?;
    let (mut fresh, mut again, mut bytes) = (Vec::new(), Vec::new(), 0);
    for _ in 0..3 {
        // A look is not kept for longer.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let began = Instant::now();
        bytes = get(console, path).await?.len();
        fresh.push(began.elapsed());
        let began = Instant::now();
        get(console, path).await?;
        again.push(began.elapsed());
    }
    let ms = |all: &mut Vec<Duration>| {
        all.sort_unstable();
        all[all.len() / 2].as_secs_f64() * 1e3
    };
    Ok(row(
        path,
        &[
            ("new_look_ms", ms(&mut fresh), 1),
            ("same_look_ms", ms(&mut again), 2),
            ("bytes", bytes as f64, 0),
        ],
    ))
}

/// What a browser loads beside the pages, each file as `gzip -9` makes it.
async fn assets(console: SocketAddr) -> anyhow::Result<Row> {
    let mut names = BTreeSet::new();
    for path in ["/", "/passes", "/satellites/sat-500", "/live", "/catalogue"] {
        let page = String::from_utf8(get(console, path).await?)?;
        names.extend(page.split('"').filter(|part| part.starts_with("/assets/")).map(str::to_owned));
    }
    ensure!(names.iter().any(|name| name.ends_with("/land.json")), "{names:?}");
    let mut bytes = 0;
    for name in &names {
        let answer = get(console, name).await?;
        let head = answer.windows(4).position(|w| w == b"\r\n\r\n").context("a head")? + 4;
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut packed, &answer[head..])?;
        bytes += packed.finish()?.len();
    }
    Ok(row(&format!("{} assets, gzip", names.len()), &[("bytes", bytes as f64, 0)]))
}

/// From the acknowledgement of a segment to the event that counts it: when nothing else happens, and when a commit follows another all
/// the time.
async fn updates(scene: &Scene, ground: &Ground, console: SocketAddr) -> anyhow::Result<[Row; 2]> {
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| anyhow!("the satellite: {e}");
    let mut peer = Peer::connect(scene, SATELLITE, ground.link).await.map_err(failed)?;
    peer.hello(vec![epoch(2)]).await.map_err(failed)?;
    let (counted, mut told) = tokio::sync::mpsc::channel(4096);
    let listens = AbortOnDropHandle::new(tokio::spawn(count(console, counted)));
    let mut sequence = 0;
    let mut rows = Vec::new();
    for (what, commits, pause) in [
        ("a commit after 4 s is told", 9, Duration::from_secs(4)),
        ("a commit every 130 ms is told", 150, Duration::from_millis(130)),
    ] {
        let mut acknowledged = Vec::new();
        for _ in 0..commits {
            tokio::time::sleep(pause).await;
            sequence += 1;
            peer.commit(2, sequence).await.map_err(failed)?;
            acknowledged.push((sequence, Instant::now()));
        }
        let mut all = Vec::new();
        let mut seen = (0, Instant::now());
        for (number, at) in acknowledged {
            while seen.0 < number {
                let next = tokio::time::timeout(Duration::from_secs(30), told.recv()).await;
                seen = next.context("an event counts the commit")?.context("the events go on")?;
            }
            all.push(seen.1.saturating_duration_since(at).as_secs_f64() * 1e3);
        }
        all.sort_by(f64::total_cmp);
        rows.push(row(
            what,
            &[("update_ms", all[all.len() / 2], 0), ("update_ms_max", all[all.len() - 1], 0)],
        ));
    }
    drop(listens);
    rows.try_into().map_err(|_| anyhow!("two rows"))
}

/// Segments that events count of the satellite, and when they said so.
async fn count(console: SocketAddr, counted: Sender<(u64, Instant)>) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(console).await?;
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await? {
        let now = Instant::now();
        let Some(data) = line.strip_prefix("data: ") else { continue };
        let event: serde_json::Value = serde_json::from_str(data)?;
        if event["satellite"] == SATELLITE
            && let Some(segments) = event["account"]["segments"].as_u64()
        {
            counted.send((segments, now)).await?;
        }
    }
    Ok(())
}

/// Viewers have been shown everything after so long.
const SETTLED: Duration = Duration::from_secs(2);

/// What viewers cost the process, and what they cost commits.
async fn viewers(
    scene: &Scene,
    ground: &Ground,
    console: SocketAddr,
    id: &str,
    options: &Options,
) -> anyhow::Result<Row> {
    let mut sequence = 0;
    let quiet = cpu_of(id, options.time).await?;
    let memory = resident(id, "VmRSS:")?;
    let watched = {
        let (over, _) = watch(console, options.viewers);
        tokio::time::sleep(SETTLED).await;
        let watched = cpu_of(id, options.time).await?;
        over.cancel();
        watched
    };
    let grown = resident(id, "VmRSS:")?.saturating_sub(memory);
    let (mut alone, mut beside, mut looks) = (Vec::new(), Vec::new(), 0);
    for _ in 0..options.turns {
        alone.push(commits(scene, ground, &mut sequence, options.time).await?);
        let (over, seen) = watch(console, options.viewers);
        // Whoever comes is shown the present at once; what follows is what viewers go on costing.
        commits(scene, ground, &mut sequence, SETTLED).await?;
        let before = seen.load(Ordering::Relaxed);
        beside.push(commits(scene, ground, &mut sequence, options.time).await?);
        over.cancel();
        looks += seen.load(Ordering::Relaxed) - before;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let watched_for = options.time.as_secs_f64() * options.turns as f64;
    let median = |all: &mut Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (alone, beside) = (median(&mut alone), median(&mut beside));
    Ok(row(
        &format!("{} viewers of /", options.viewers),
        &[
            ("core_percent", (watched - quiet) * 100.0, 2),
            ("grown_mib", grown as f64 / f64::from(1 << 20), 1),
            ("looks_per_s", looks as f64 / watched_for, 2),
            ("commits_per_s_without", alone, 1),
            ("commits_per_s_with", beside, 1),
            ("ratio", beside / alone, 3),
        ],
    ))
}

/// CPU time that a process takes in this time, as a part of a core.
async fn cpu_of(id: &str, time: Duration) -> anyhow::Result<f64> {
    let seconds = || -> anyhow::Result<f64> {
        let text = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        let fields: Vec<&str> = text.rsplit(')').next().context("no fields")?.split_whitespace().collect();
        let ticks: u64 = [11, 12].iter().map(|n| fields[*n].parse::<u64>().unwrap_or(0)).sum();
        Ok(ticks as f64 / 100.0)
    };
    let (before, began) = (seconds()?, Instant::now());
    tokio::time::sleep(time).await;
    Ok((seconds()? - before) / began.elapsed().as_secs_f64())
}

/// Has so many look at the fleet, as a browser does, until the token is cancelled. The number is that of the looks at the store that
/// the first one was told of.
fn watch(console: SocketAddr, viewers: usize) -> (CancellationToken, Arc<AtomicU64>) {
    let (over, looks) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
    for viewer in 0..viewers {
        let (over, looks) = (over.clone(), if viewer == 0 { Arc::clone(&looks) } else { Arc::default() });
        tokio::spawn(async move { over.run_until_cancelled(view(console, looks)).await });
    }
    (over, looks)
}

async fn view(console: SocketAddr, looks: Arc<AtomicU64>) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(console).await?;
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await? {
        looks.fetch_add(u64::from(line == "event: look"), Ordering::Relaxed);
        if line.contains("\"changed\":true") {
            get(console, "/").await?;
        }
    }
    Ok(())
}

/// Commits small segments one after the other; how many a second.
async fn commits(scene: &Scene, ground: &Ground, sequence: &mut u64, time: Duration) -> anyhow::Result<f64> {
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| anyhow!("the satellite: {e}");
    let mut peer = Peer::connect(scene, SATELLITE, ground.link).await.map_err(failed)?;
    peer.hello(vec![epoch(1)]).await.map_err(failed)?;
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < time {
        *sequence += 1;
        peer.commit(1, *sequence).await.map_err(failed)?;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}
