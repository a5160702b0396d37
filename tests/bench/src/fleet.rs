//! `bench fleet`: what the ledger commits a second, in a file of one station and in PostgreSQL, alone and with standbys.
//!
//! Each committer is a satellite that hands in one segment after the other, as a connection does; the next one comes when the last
//! is answered. A committed segment is durable, with standbys on two disks. All servers share one disk here, so only ratios count.
//! Written bytes are those that the processes gave to the kernel, up to the checkpoint that follows, on servers that use the segments of
//! their WAL again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::fleet::Postgres;
use anyhow::{Context, ensure};
use clap::Args;
use ground_station::spool::postgres::{FleetSettings, Replication};
use ground_station::spool::{Applied, Incoming, Piece, Progress, Settings, Store};
use perigee_shared::env::Env;
use perigee_shared::segment::{Codec, Encoder, Header, Lane, SegmentId, hash};
use perigee_shared::signal::{Counts, Signal, SignalSet, TimeRange};
use perigee_shared::units::{ByteSize, parse_duration};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::report::Row;

/// Items of a segment.
const ITEMS: u64 = 1000;

/// Segments that workers export, and satellites that they are of.
const EXPORTED: (u64, u64) = (400, 16);

/// Segments of the WAL, of 16 MiB, that servers have before they are measured: more than one measurement fills.
const WAL_SEGMENTS: usize = 40;

/// What an operator of PostgreSQL is told to set.
const TUNING: &str = include_str!("../../../deploy/fleet/tuning.sql");

/// See the module.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Satellites that commit at once
    #[arg(long, default_value_t = 16)]
    committers: u64,
    /// How long each measurement takes
    #[arg(long, default_value = "8s", value_parser = parse_duration)]
    time: Duration,
    /// Payloads of a segment
    #[arg(long, default_values_t = [ByteSize(16 << 10), ByteSize(256 << 10), ByteSize(2 << 20)], value_delimiter = ',')]
    payload: Vec<ByteSize>,
    /// Standbys beside the primary, of which one must have each commit
    #[arg(long, default_values_t = [0, 2], value_delimiter = ',')]
    standbys: Vec<usize>,
    /// Workers that export, one row each
    #[arg(long, default_values_t = [1, 2, 4], value_delimiter = ',')]
    workers: Vec<usize>,
    /// Where stores lie while they are measured: a directory on a real disk [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What is measured.
enum Engine {
    File(tempfile::TempDir),
    /// With a directory for what stations keep beside them.
    Servers(Vec<Postgres>, tempfile::TempDir),
}

impl Engine {
    fn file(parent: &Path) -> anyhow::Result<Self> {
        Ok(Self::File(tempfile::tempdir_in(parent)?))
    }

    fn servers(parent: &Path, standbys: usize) -> Option<Self> {
        let settings = "shared_buffers = 128MB\ncheckpoint_timeout = 15min\nmin_wal_size = 1GB\n";
        let primary = Postgres::start_in(parent, settings)?;
        let names: Vec<String> = (1..=standbys).map(|n| format!("s{n}")).collect();
        let mut servers = vec![primary];
        for name in &names {
            let standby = servers[0].standby(name);
            servers.push(standby);
        }
        if standbys > 0 {
            servers[0].configure(&format!("synchronous_standby_names = 'ANY 1 ({})'", names.join(", ")));
            servers[0].reload();
        }
        use_wal(&servers);
        Some(Self::Servers(servers, tempfile::tempdir_in(parent).ok()?))
    }

    fn name(&self) -> String {
        match self {
            Self::File(_) => "redb".to_owned(),
            Self::Servers(servers, _) if servers.len() == 1 => "postgresql".to_owned(),
            Self::Servers(servers, _) => format!("postgresql x{}", servers.len()),
        }
    }

    fn nodes(&self) -> usize {
        if let Self::Servers(servers, _) = self { servers.len() } else { 1 }
    }

    async fn open(&self, database: &str) -> anyhow::Result<Store> {
        let settings = Settings {
            directory: PathBuf::new(),
            max_bytes: 1 << 40,
            satellites: Vec::new(),
            ballast: 0,
            decoded_bases: 64 << 20,
            decoding: Default::default(),
            ledger_room: Default::default(),
            catalogue: Default::default(),
            keep: ground_station::spool::Keep::OFF,
            station: "bench".to_owned(),
            routes: [("a".to_owned(), SignalSet::ALL)].into(),
        };
        let env = Env::production();
        Ok(match self {
            Self::File(dir) => {
                Store::open(&env, Settings { directory: dir.path().join(database), ..settings }, 0)?
            }
            Self::Servers(servers, beside) => {
                let settings =
                    Settings { directory: tempfile::tempdir_in(beside.path())?.keep(), ..settings };
                let replication = if servers.len() > 1 { Replication::Required } else { Replication::None };
                let fleet = FleetSettings {
                    hosts: vec![servers[0].host()],
                    database: database.to_owned(),
                    user: servers[0].user().to_owned(),
                    password: None,
                    password_file: None,
                    tls: None,
                    replication,
                    connections: 8,
                    lease: Duration::from_secs(15),
                };
                let store = Store::join(&env, settings, fleet, 0).await?;
                servers[0].sql(database, TUNING);
                store
            }
        })
    }

    /// The name of a new database.
    fn database(&self, name: &str) -> String {
        if let Self::Servers(servers, _) = self { servers[0].database() } else { name.to_owned() }
    }

    /// Bytes written by everything that belongs to the store.
    fn written(&self) -> u64 {
        match self {
            Self::File(_) => written_by("self"),
            Self::Servers(servers, _) => {
                servers[0].sql("postgres", "checkpoint");
                let processes = servers.iter().flat_map(Postgres::processes);
                processes.map(|pid| written_by(&pid)).sum()
            }
        }
    }

    /// Resident memory of this process and of the servers.
    fn memory(&self) -> u64 {
        let own = (Env::production().memory)().map_or(0, |m| m.resident);
        match self {
            Self::File(_) => own,
            Self::Servers(servers, _) => own + servers.iter().map(Postgres::resident_bytes).sum::<u64>(),
        }
    }
}

/// Has servers use so much of their WAL that it is used again from here on, as after their first days: a segment that is new is first
/// written full of zeros, and a short measurement would count that.
fn use_wal(servers: &[Postgres]) {
    let fill = format!(
        "do $$ begin for n in 1..{WAL_SEGMENTS} loop perform pg_logical_emit_message(false, 'bench', 'x'); \
         perform pg_switch_wal(); end loop; end $$"
    );
    servers[0].sql("postgres", &fill);
    servers[0].sql("postgres", "checkpoint");
    const BEHIND: &str = "select count(*) from pg_stat_replication where replay_lsn < pg_current_wal_lsn()";
    while servers[0].sql("postgres", BEHIND) != "0" {}
    servers[1..].iter().for_each(|standby| drop(standby.sql("postgres", "checkpoint")));
}

fn written_by(pid: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// A payload that does not compress, and the header of a segment of it.
fn sealed(bytes: u64, seed: u64) -> anyhow::Result<(Header, Vec<u8>)> {
    let mut body = vec![0; bytes as usize];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut body);
    let mut encoder = Encoder::new(Codec::ZstdRows, None)?;
    encoder.push(Signal::Logs, &body)?;
    let payload = encoder.finish()?.payload;
    let header = Header {
        id: SegmentId { epoch: 1, lane: Lane::BULK, sequence: 1 },
        codec: 1,
        payload_len: payload.len() as u64,
        raw_len: body.len() as u64,
        hash: hash(&payload),
        items: Counts::of(Signal::Logs, ITEMS),
        time: TimeRange::EMPTY,
        requests: 1,
        sealed_unix_nano: 1,
        base_sequence: None,
        is_base: false,
        delivery: None,
        made_of: None,
    };
    Ok((header, payload))
}

/// A satellite that hands in one segment after the other.
#[derive(Clone)]
struct Committer {
    store: Store,
    satellite: Arc<str>,
    header: Header,
    pieces: Arc<[Piece]>,
}

impl Committer {
    fn new(store: &Store, number: u64, bytes: u64) -> anyhow::Result<Self> {
        let (header, payload) = sealed(bytes, number)?;
        let pieces = [Piece { offset: 0, bytes: payload }].into();
        Ok(Self { store: store.clone(), satellite: format!("sat-{number}").into(), header, pieces })
    }

    async fn commit(&self, sequence: u64) -> anyhow::Result<Applied> {
        let id = SegmentId { sequence, ..self.header.id };
        let incoming = Incoming {
            satellite: Arc::clone(&self.satellite),
            header: Arc::new(Header { id, ..self.header.clone() }),
            pieces: Arc::clone(&self.pieces),
            max_partial_bytes: 1 << 30,
            age: None,
        };
        let taken = self.store.intake().put_payload(incoming).await?;
        self.store.intake().commit(vec![taken]).await?.pop().context("an answer for each segment")
    }

    /// Commits from the first sequence on until `end`; how long each took.
    async fn work(self, expected: Applied, end: Instant) -> anyhow::Result<Vec<Duration>> {
        let mut took = Vec::new();
        while Instant::now() < end {
            let began = Instant::now();
            let applied = self.commit(took.len() as u64 + 1).await?;
            ensure!(applied == expected, "{applied:?} in place of {expected:?}");
            took.push(began.elapsed());
        }
        Ok(took)
    }
}

/// How long each commit took, of all committers.
async fn commits(
    committers: &[Committer],
    expected: Applied,
    time: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let end = Instant::now() + time;
    let mut working = JoinSet::new();
    for committer in committers {
        working.spawn(committer.clone().work(expected.clone(), end));
    }
    let mut took = Vec::new();
    for one in working.join_all().await {
        took.extend(one?);
    }
    took.sort_unstable();
    Ok(took)
}

/// Measures commits of one payload on a store with nothing in it.
async fn row(engine: &Engine, options: &Options, payload: ByteSize) -> anyhow::Result<Row> {
    let store = Box::pin(engine.open(&engine.database(&format!("commits-{}", payload.0)))).await?;
    let committers = (1..=options.committers)
        .map(|n| Committer::new(&store, n, payload.0))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let (began, before) = (Instant::now(), engine.written());
    let took = commits(&committers, Applied::New, options.time).await?;
    let seconds = began.elapsed().as_secs_f64();
    let bytes = took.len() as f64 * payload.0 as f64;
    let written = (engine.written() - before) as f64 / bytes / engine.nodes() as f64;
    let memory = engine.memory();
    // What was committed comes again, as after a link that broke before its acknowledgement.
    let short = options.time.min(Duration::from_secs(3));
    let least = took.len() as u64 / options.committers / 4;
    let duplicates = duplicates(&committers, least.max(1), short).await?;
    drop(committers);
    store.close().await;
    let at = |part: f64| {
        let place = ((took.len() as f64 * part) as usize).min(took.len().saturating_sub(1));
        took.get(place).map_or(0.0, |took| took.as_secs_f64() * 1e3)
    };
    Ok(Row::default()
        .with("store", engine.name())
        .with("payload_kib", payload.0 >> 10)
        .with_rounded("commits_per_s", took.len() as f64 / seconds, 0)
        .with_rounded("mb_per_s", bytes / seconds / 1e6, 1)
        .with_rounded("p50_ms", at(0.5), 1)
        .with_rounded("p99_ms", at(0.99), 1)
        .with_rounded("written_per_byte_and_node", written, 2)
        .with("memory_mib", memory >> 20)
        .with_rounded("duplicates_per_s", duplicates, 0))
}

/// Duplicates a second.
async fn duplicates(committers: &[Committer], known: u64, time: Duration) -> anyhow::Result<f64> {
    let (began, end) = (Instant::now(), Instant::now() + time);
    let mut working = JoinSet::new();
    for committer in committers {
        let committer = committer.clone();
        working.spawn(async move {
            let mut n = 0u64;
            while Instant::now() < end {
                let applied = committer.commit(n % known + 1).await?;
                ensure!(applied == Applied::Duplicate, "{applied:?} in place of a duplicate");
                n += 1;
            }
            Ok(n)
        });
    }
    let mut all = 0;
    for one in working.join_all().await {
        all += one?;
    }
    Ok(all as f64 / began.elapsed().as_secs_f64())
}

/// Measures workers that share an exporter. A file has one.
async fn export(engine: &Engine, workers: usize, payload: ByteSize) -> anyhow::Result<Row> {
    let database = engine.database(&format!("export-{workers}"));
    let first = Box::pin(engine.open(&database)).await?;
    for number in 1..=EXPORTED.1 {
        let committer = Committer::new(&first, number, payload.0)?;
        for sequence in 1..=EXPORTED.0 / EXPORTED.1 {
            committer.commit(sequence).await?;
        }
    }
    let mut stores = vec![first];
    for _ in 1..workers {
        stores.push(Box::pin(engine.open(&database)).await?);
    }
    let began = Instant::now();
    let mut working = JoinSet::new();
    for store in &stores {
        let store = store.clone();
        working.spawn(async move {
            let mut segments = 0;
            while let Some(work) = store.outlet().next("a".into(), SignalSet::ALL, 1).await? {
                let done = Progress { finished: true, items: ITEMS, ..Progress::at(work.place, 1) };
                store.outlet().progress("a".into(), done).await?;
                segments += 1;
            }
            Ok::<u64, anyhow::Error>(segments)
        });
    }
    let mut segments = 0;
    for one in working.join_all().await {
        segments += one?;
    }
    let seconds = began.elapsed().as_secs_f64();
    ensure!(segments == EXPORTED.0 / EXPORTED.1 * EXPORTED.1, "{segments} segments were exported");
    let memory = engine.memory();
    for store in stores {
        store.close().await;
    }
    Ok(Row::default()
        .with("store", engine.name())
        .with("payload_kib", payload.0 >> 10)
        .with("export_workers", workers)
        .with("memory_mib", memory >> 20)
        .with_rounded("export_segments_per_s", segments as f64 / seconds, 0)
        .with_rounded("export_items_per_s", segments as f64 * ITEMS as f64 / seconds, 0))
}

/// The rows of commits, then those of exports.
pub(crate) fn run(options: &Options) -> anyhow::Result<(Vec<Row>, Vec<Row>)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut engines = vec![Engine::file(&parent)?];
    let (mut rows, mut exports) = (Vec::new(), Vec::new());
    for standbys in [None].into_iter().chain(options.standbys.iter().copied().map(Some)) {
        let engine = match standbys {
            None => engines.pop().context("the file")?,
            Some(standbys) => match Engine::servers(&parent, standbys) {
                Some(engine) => engine,
                None => break,
            },
        };
        for payload in &options.payload {
            rows.push(runtime.block_on(row(&engine, options, *payload))?);
        }
        for workers in &options.workers {
            if *workers == 1 || matches!(engine, Engine::Servers(..)) {
                exports.push(runtime.block_on(export(&engine, *workers, ByteSize(256 << 10)))?);
            }
        }
    }
    Ok((rows, exports))
}
