//! The agent's log as plain values. This is the only file here that calls [`Wal`]: whoever changes its interface ports this one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use perigee_proto::link;
use perigee_shared::clock::ClockBounds;
use perigee_shared::env::{Clock, Env, SinceBoot};
use perigee_shared::link::Slot;
use perigee_shared::segment::{Hash, Header, Lane};
use perigee_shared::signal::{Signal, SignalSet};
use serde::Serialize;
use space_agent::lanes::Lanes;
use space_agent::wal::{
    BatchLimits, Encoding, GroundLane, GroundView, Reconciled, SegmentRecord, Wal, WalConfig, WhenFull,
};

use crate::items::{Content, Items, T0};
use crate::segment::{HeaderView, requests};

/// Stations of the fixtures. The first one knows the first drop, the second one does not.
const STATIONS: [&str; 2] = ["svalbard", "kiruna"];

/// By lane: the segment that a consumer works on, and how many of its requests are done.
type Cursors = BTreeMap<u8, (u64, u64)>;

/// A ledger's id, its station, and sequences; the second of each pair is not in it.
type Acknowledged = (u64, String, Vec<(u64, u64)>);

/// Everything that a log holds.
#[derive(Debug, Serialize)]
pub struct Log {
    /// Its current life.
    pub life: Life,
    /// Items ever accepted.
    pub accepted: Items,
    /// Items delivered.
    pub delivered: Items,
    /// Items dropped, by reason.
    pub dropped: BTreeMap<&'static str, Items>,
    /// Items in segments.
    pub in_segments: Items,
    /// Items in the journal alone.
    pub in_journal: Items,
    /// Bytes of all segments' payloads.
    pub segment_bytes: u64,
    /// The names of those who take segments from it.
    pub consumers: Vec<String>,
    /// Where each consumer is.
    pub cursors: BTreeMap<String, Cursors>,
    /// Segments on board, in their order.
    pub segments: Vec<Segment>,
    /// What waits in the journal, lane by lane.
    pub journal: Vec<Unsealed>,
    /// By lane: what later segments may depend on.
    pub bases: BTreeMap<u8, Bases>,
    /// By station: the epochs that Hello names to it.
    pub hello: BTreeMap<&'static str, Vec<Epoch>>,
    /// Reports of passes, oldest first.
    pub passes: Vec<Pass>,
    /// The time is not before this.
    #[serde(skip_serializing_if = "is_zero")]
    pub clock_floor_unix_nano: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it so")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// A life of a log.
#[derive(Debug, Serialize)]
pub struct Life {
    /// Its id, in hexadecimal digits.
    pub epoch: String,
    /// Larger is later.
    pub start_counter: u64,
    /// When it began.
    pub started_unix_nano: u64,
}

/// A segment on board.
#[derive(Debug, Serialize)]
pub struct Segment {
    /// Its header.
    pub header: HeaderView,
    /// Who has still to pass it.
    pub waiting: Vec<String>,
    /// Items of it that a backend has refused.
    pub refused: Items,
    /// The boot in which it was sealed, and the time since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealed_since_boot: Option<(u64, u64)>,
    /// What it decodes to.
    pub content: Content,
}

/// What waits in the journal for a segment of a lane.
#[derive(Debug, Serialize)]
pub struct Unsealed {
    /// The lane.
    pub lane: u8,
    /// Bytes of its requests.
    pub raw: u64,
    /// Items.
    pub items: u64,
    /// When the oldest of it was committed.
    pub oldest_unix_nano: u64,
    /// What it comes to when it is sealed.
    pub content: Content,
}

/// Bases of a lane.
#[derive(Debug, Serialize)]
pub struct Bases {
    /// The one that a segment which is sealed now may depend on.
    pub current: Option<u64>,
    /// How many depend on one another below it, itself included.
    pub chain: usize,
}

/// An epoch as Hello names it.
#[derive(Debug, Serialize)]
pub struct Epoch {
    /// The life.
    pub life: Life,
    /// Nothing more comes of it.
    pub closed: bool,
    /// Its lanes.
    pub lanes: Vec<HelloLane>,
    /// Drops that the station does not know.
    pub drops: Vec<Drop>,
}

/// A lane as Hello names it.
#[derive(Debug, Serialize)]
pub struct HelloLane {
    /// Its number.
    pub lane: u32,
    /// Sequences on board; the second of each pair is not in it.
    pub on_board: Vec<(u64, u64)>,
    /// The next segment's sequence.
    pub next_sequence: u64,
    /// The oldest base that is still needed.
    pub oldest_base: Option<u64>,
    /// What ledgers have acknowledged.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub acknowledged: Vec<Acknowledged>,
}

/// A drop as Hello names it.
#[derive(Debug, Clone, Serialize)]
pub struct Drop {
    /// Its id.
    pub id: u64,
    /// Why.
    pub reason: &'static str,
    /// Its lane.
    pub lane: u32,
    /// Sequences; the second is not in it.
    pub sequences: Option<(u64, u64)>,
    /// Items.
    pub items: Items,
    /// The items are a lower bound.
    pub counts_unknown: bool,
    /// First and last time of the items.
    pub time: Option<(u64, u64)>,
    /// When.
    pub dropped_unix_nano: u64,
}

/// A report of a pass.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the fields of PassReport in link.proto")]
pub struct Pass {
    pub station: String,
    pub start_unix_nano: u64,
    pub end_unix_nano: u64,
    pub planned_bytes: u64,
    pub achieved_bytes: u64,
    pub sent_bytes: u64,
    pub committed_segments: u64,
    pub connected_nano: u64,
    pub backlog_bytes: u64,
    pub backlog_since_unix_nano: u64,
}

/// What is still known of a log whose file is damaged.
#[derive(Debug, Serialize)]
pub struct Lost {
    /// Counts the lives; the new one is later than what the mirror says.
    pub start_counter: u64,
    /// Items ever accepted.
    pub accepted: Items,
    /// Items delivered.
    pub delivered: Items,
    /// Items dropped, by reason; what was on board among them.
    pub dropped: BTreeMap<&'static str, Items>,
    /// What was on board.
    pub lost: Vec<Drop>,
    /// The earlier life as Hello names it from now on.
    pub closed: Vec<Epoch>,
}

/// A clock that stands still, so that what is written now has a known time.
struct Still;

impl Clock for Still {
    fn unix_nano(&self) -> u64 {
        T0 + 86_400_000_000_000
    }
}

/// Both clocks of a machine at one moment.
struct Stopped {
    wall: u64,
    since_boot: SinceBoot,
}

impl Clock for Stopped {
    fn unix_nano(&self) -> u64 {
        self.wall
    }

    fn since_boot(&self) -> SinceBoot {
        self.since_boot
    }
}

fn open(directory: &Path) -> Result<Wal> {
    let mut env = Env::production();
    env.clock = Arc::new(Still);
    Ok(Wal::open(config(directory), env)?)
}

/// Without lane rules, so that those in the file decide about what waits in the journal.
fn config(directory: &Path) -> WalConfig {
    // The consumers of the fixtures.
    let direct = SignalSet::default().with(Signal::Traces).with(Signal::Logs);
    let consumers = [("link", SignalSet::ALL), ("archive", direct)];
    WalConfig {
        directory: directory.to_owned(),
        satellite: None,
        volatile: space_agent::wal::Volatile::Refuse,
        volatile_bytes: 0,
        max_bytes: 1 << 30,
        when_full: WhenFull::Refuse,
        ballast: 0,
        consumers: consumers.map(|(name, signals)| (name.to_owned(), signals)).into(),
        lanes: Lanes::default(),
    }
}

/// Reads the log in `directory` whole. What was in its journal is in segments afterwards.
pub fn read(directory: &Path) -> Result<Log> {
    let mut wal = open(directory)?;
    let quarantine = wal.take_quarantine();
    ensure!(quarantine.is_none(), "it was moved aside: {quarantine:?}");
    let summary = wal.summary();
    let segments = segments(&mut wal)?;
    ensure!(summary.segments == segments.len() as u64, "{} segments are counted", summary.segments);
    let log = Log {
        life: Life {
            epoch: format!("{:016x}", summary.life.epoch),
            start_counter: summary.life.start_counter,
            started_unix_nano: summary.life.started_unix_nano,
        },
        accepted: summary.accepted.into(),
        delivered: summary.delivered.into(),
        dropped: dropped(&wal),
        in_segments: summary.in_segments.into(),
        in_journal: summary.in_journal.into(),
        segment_bytes: summary.segment_bytes,
        consumers: wal.custody().known(),
        cursors: cursors(&mut wal)?,
        segments,
        bases: bases(&mut wal)?,
        hello: hello(&mut wal)?,
        clock_floor_unix_nano: wal.summary().clock_floor,
        passes: wal.passes().latest(usize::MAX)?.into_iter().map(pass).collect(),
        // The last, since it changes the log.
        journal: journal(&mut wal)?,
    };
    wal.close()?;
    Ok(log)
}

/// Seconds that the oldest of what is on board waits for certain, by a clock that stands still in this boot, `since_boot` s after its start:
/// at `wall` s after [`T0`], from where on it is trusted.
pub fn waits(directory: &Path, boot: u64, since_boot: u64, wall: i64) -> Result<u64> {
    const S: u64 = 1_000_000_000;
    let mut env = Env::production();
    let since_boot = SinceBoot { boot, nano: since_boot * S };
    let now = T0.saturating_add_signed(wall * S as i64);
    env.clock = Arc::new(Stopped { wall: now, since_boot });
    env.bounds = Arc::new(ClockBounds::new(T0));
    let mut wal = Wal::open(config(directory), env)?;
    let oldest = wal.passes().oldest()?.context("something waits")?;
    Ok((now - oldest) / S)
}

/// Opens a log whose file is damaged.
pub fn read_damaged(directory: &Path) -> Result<Lost> {
    let mut wal = open(directory)?;
    wal.take_quarantine().context("a damaged file is moved aside")?;
    let summary = wal.summary();
    let mut closed: Vec<Epoch> = wal.epochs().hello(STATIONS[0])?.into_iter().map(epoch).collect();
    closed.pop();
    Ok(Lost {
        start_counter: summary.life.start_counter,
        accepted: summary.accepted.into(),
        delivered: summary.delivered.into(),
        dropped: dropped(&wal),
        lost: closed.iter().flat_map(|e| e.drops.clone()).collect(),
        closed,
    })
}

/// Whether the log in `directory` contradicts a ground that has committed this payload hash: it knows another one. It takes in what
/// the ground says, so each question needs a fresh copy.
pub fn contradicts(directory: &Path, lane: u8, sequence: u64, hash: Hash) -> Result<bool> {
    let mut wal = open(directory)?;
    let link = wal.custody().consumer("link").context("there is a link")?;
    let lane = GroundLane { tops: vec![(sequence, hash)], ..GroundLane::new(Lane(lane)) };
    let view = GroundView { epoch: wal.summary().life.epoch, lanes: vec![lane], ..GroundView::default() };
    Ok(wal.epochs().reconcile(link, Slot::FIRST, &view)? == Reconciled::NewEpoch)
}

fn dropped(wal: &Wal) -> BTreeMap<&'static str, Items> {
    wal.summary().dropped.into_iter().map(|(reason, items)| (reason.as_str_name(), items.into())).collect()
}

fn cursors(wal: &mut Wal) -> Result<BTreeMap<String, Cursors>> {
    let mut out = BTreeMap::new();
    for name in wal.custody().known() {
        let consumer = wal.custody().consumer(&name).context("a consumer has a number")?;
        let mut lanes = BTreeMap::new();
        for lane in wal.custody().lanes() {
            lanes.insert(lane.0, wal.custody().reached(consumer, lane)?.lane);
        }
        lanes.retain(|_, cursor| *cursor != (0, 0));
        out.insert(name, lanes);
    }
    Ok(out)
}

fn segments(wal: &mut Wal) -> Result<Vec<Segment>> {
    let records = wal.custody().segments(usize::MAX)?;
    records
        .into_iter()
        .map(|(SegmentRecord { refused, header, sealed_at, .. }, waiting)| {
            let content = content(wal, &header)?;
            let sealed_since_boot = sealed_at.map(|at| (at.boot, at.nano));
            let refused = refused.into();
            Ok(Segment { header: (&header).into(), waiting, refused, sealed_since_boot, content })
        })
        .collect()
}

fn content(wal: &mut Wal, header: &Header) -> Result<Content> {
    let lane = header.id.lane;
    let payload = wal.custody().payload(header)?.context("a segment has a payload")?;
    ensure!(perigee_shared::segment::hash(&payload) == header.hash, "the payload of {}", header.id);
    let base = wal.bases().chain(lane, header.base_sequence)?.decode()?;
    Content::of(&requests(header, &payload, base.as_ref())?)
}

fn journal(wal: &mut Wal) -> Result<Vec<Unsealed>> {
    let all = BatchLimits { items: u64::MAX, raw: u64::MAX };
    let encoding = Encoding::plain();
    let mut out = Vec::new();
    for unsealed in wal.segments().unsealed() {
        let batch = wal.segments().take_batch(unsealed.lane, all, true)?.context("something waits")?;
        let header = wal.segments().commit(batch.seal(&encoding, T0)?)?;
        out.push(Unsealed {
            lane: unsealed.lane.0,
            raw: unsealed.raw,
            items: unsealed.items,
            oldest_unix_nano: unsealed.oldest_unix_nano,
            content: content(wal, &header)?,
        });
    }
    Ok(out)
}

fn bases(wal: &mut Wal) -> Result<BTreeMap<u8, Bases>> {
    let mut out = BTreeMap::new();
    for lane in wal.custody().lanes() {
        let current = wal.bases().current(lane);
        out.insert(lane.0, Bases { current, chain: wal.bases().chain(lane, current)?.len() });
    }
    Ok(out)
}

fn hello(wal: &mut Wal) -> Result<BTreeMap<&'static str, Vec<Epoch>>> {
    let mut out = BTreeMap::new();
    for station in STATIONS {
        out.insert(station, wal.epochs().hello(station)?.into_iter().map(epoch).collect());
    }
    Ok(out)
}

fn epoch(e: link::Epoch) -> Epoch {
    let lane = |l: link::Lane| HelloLane {
        lane: l.lane,
        on_board: l.on_board.iter().map(|r| (r.start, r.end)).collect(),
        next_sequence: l.next_sequence,
        oldest_base: l.oldest_base,
        acknowledged: l
            .acknowledged
            .into_iter()
            .map(|a| (a.ledger, a.station, a.sequences.iter().map(|r| (r.start, r.end)).collect()))
            .collect(),
    };
    Epoch {
        life: Life {
            epoch: format!("{:016x}", e.epoch),
            start_counter: e.start_counter,
            started_unix_nano: e.started_unix_nano,
        },
        closed: e.closed,
        lanes: e.lanes.into_iter().map(lane).collect(),
        drops: e.drops.into_iter().map(drop_of).collect(),
    }
}

fn drop_of(d: link::Drop) -> Drop {
    Drop {
        id: d.id,
        reason: d.reason().as_str_name(),
        lane: d.lane,
        sequences: d.sequences.map(|r| (r.start, r.end)),
        items: d.items.unwrap_or_default().into(),
        counts_unknown: d.counts_unknown,
        time: d.time.map(|t| (t.start_unix_nano, t.end_unix_nano)),
        dropped_unix_nano: d.dropped_unix_nano,
    }
}

fn pass(p: link::PassReport) -> Pass {
    Pass {
        station: p.station,
        start_unix_nano: p.start_unix_nano,
        end_unix_nano: p.end_unix_nano,
        planned_bytes: p.planned_bytes,
        achieved_bytes: p.achieved_bytes,
        sent_bytes: p.sent_bytes,
        committed_segments: p.committed_segments,
        connected_nano: p.connected_nano,
        backlog_bytes: p.backlog_bytes,
        backlog_since_unix_nano: p.backlog_since_unix_nano,
    }
}
