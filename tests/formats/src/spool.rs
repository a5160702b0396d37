//! The ground's spool as plain values. This is the only file here that calls [`Store`]: whoever changes its interface ports
//! this one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use ground_station::spool::{
    AccountView, Applied, EpochView, GapView, Incoming, LaneView, LetterView, Piece, Progress, SatelliteView,
    Settings, Store,
};
use perigee_proto::link;
use perigee_shared::env::Env;
use perigee_shared::export::Limits;
use perigee_shared::segment::{Base, Hash, Header, Lane, SegmentId};
use perigee_shared::signal::{Counts, Signal, SignalSet, TimeRange};
use serde::Serialize;
use serde_json::Value;

use crate::fixture::hex;
use crate::items::{Content, Items, RequestDigest, digest};
use crate::segment::{HeaderView, requests};

/// More than any fixture has of anything.
const ALL: usize = 1000;

/// The fields of a pass that are compared.
const PASS: [&str; 9] = [
    "satellite",
    "station",
    "start_unix_nano",
    "end_unix_nano",
    "planned_bytes",
    "achieved_bytes",
    "committed_segments",
    "connected_seconds",
    "backlog_bytes",
];

/// Start and end of a range.
type Ends = (u64, u64);

/// A partial segment in Resume: its sequence, the hash of its payload, and what is held.
type HeldPart = (u64, String, Vec<Ends>);

/// A partial segment of a lane: its sequence, bytes held, bytes of its payload, and what is held.
type LanePart = (u64, u64, u64, Vec<Ends>);

/// An exporter's next entry and request, and the request under another cut.
type Next = (u64, u64, u64);

/// Everything that a spool holds.
#[derive(Debug, Serialize)]
pub struct Contents {
    /// What satellites last said, and what is committed of each.
    pub satellites: Vec<Satellite>,
    /// What was dropped on board.
    pub gaps: Vec<Gap>,
    /// By satellite: where its items are.
    pub accounts: BTreeMap<String, Account>,
    /// Segments that are still to be exported, in their order.
    pub segments: Vec<Segment>,
    /// By exporter: the entry and the request in it that come next.
    pub cursors: BTreeMap<String, (u64, u64)>,
    /// By exporter: the next entry and request under the cut of the fixture, and the request under another cut.
    pub next: BTreeMap<&'static str, Option<Next>>,
    /// The number of the next entry.
    pub next_entry: u64,
    /// Dead letters.
    pub letters: Vec<Letter>,
    /// The requests among the letters, as they are sent again.
    pub replayed: Vec<RequestDigest>,
    /// The segments among the letters that decode: they go back into the spool when letters are sent again.
    pub restored: Vec<Segment>,
    /// How many bases there are, and their bytes.
    pub bases: (u64, u64),
    /// Bytes of segments, bases, partials and letters.
    pub used_bytes: u64,
    /// Reports of passes, the latest first.
    pub passes: Vec<BTreeMap<&'static str, Value>>,
    /// By satellite: the answer to a Hello that says what the last one said.
    pub resume: BTreeMap<String, Vec<Resume>>,
    /// What a check of every segment and base finds wrong.
    pub wrong: Vec<String>,
}

/// A satellite.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the fields of SatelliteView")]
pub struct Satellite {
    pub satellite: String,
    pub software: String,
    pub last_contact_unix_nano: u64,
    pub contact: String,
    pub station: String,
    pub contacts: u64,
    pub spool_bytes: u64,
    pub forecast: Option<Value>,
    pub epochs: Vec<Epoch>,
}

/// A life of a satellite's log.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the fields of EpochView")]
pub struct Epoch {
    pub epoch: String,
    pub start_counter: u64,
    pub started_unix_nano: u64,
    pub closed: bool,
    pub lanes: Vec<LaneOfEpoch>,
}

/// A lane; both ends of ranges are in them.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the fields of LaneView")]
pub struct LaneOfEpoch {
    pub lane: u8,
    pub next_sequence: u64,
    pub committed: Vec<Ends>,
    pub on_board: Vec<Ends>,
    pub elsewhere: Vec<Ends>,
    pub partials: Vec<LanePart>,
}

/// What was dropped on board.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the fields of GapView")]
pub struct Gap {
    pub satellite: String,
    pub epoch: String,
    pub lane: u32,
    pub id: u64,
    pub reason: String,
    pub sequences: Option<(u64, u64)>,
    pub items: Items,
    pub unknown: bool,
    pub time: (u64, u64),
    pub dropped_unix_nano: u64,
}

/// Where a satellite's items are.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the fields of AccountView")]
pub struct Account {
    pub committed: Items,
    pub exported: Items,
    pub dead_lettered: Items,
    pub in_spool: Items,
    pub rejected: Items,
    pub dropped: BTreeMap<String, Items>,
    pub segments: u64,
    pub duplicates: u64,
    pub hash_mismatches: u64,
    pub bytes: u64,
}

/// A segment that is still to be exported.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Segment {
    /// Whose it is.
    pub satellite: String,
    /// Its header.
    pub header: HeaderView,
    /// What it decodes to.
    pub content: Content,
}

/// A dead letter.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the fields of LetterView")]
pub struct Letter {
    pub id: u64,
    pub satellite: String,
    pub segment: String,
    pub exporter: Option<String>,
    pub signal: Option<&'static str>,
    pub items: u64,
    pub bytes: u64,
    pub reason: String,
    pub unix_nano: u64,
    pub replay: bool,
}

/// An epoch in Resume.
#[derive(Debug, Serialize)]
pub struct Resume {
    /// The epoch.
    pub epoch: String,
    /// By lane: committed ranges, the second number not in them, with the hash of the last segment.
    pub committed: BTreeMap<u32, Vec<(u64, u64, String)>>,
    /// By lane: partial segments with the hash of the payload and what is held.
    pub partials: BTreeMap<u32, Vec<HeldPart>>,
}

/// The exporters of the fixtures: signals, and the fingerprint of the cut.
fn exporters() -> [(&'static str, SignalSet, u64); 2] {
    let direct = SignalSet::default().with(Signal::Traces).with(Signal::Logs);
    [("archive", direct, 0xf00d), ("tsdb", SignalSet::default().with(Signal::Metrics), 0xbeef)]
}

async fn open(directory: &Path) -> Result<Store> {
    let settings = Settings {
        directory: directory.to_owned(),
        max_bytes: 1 << 30,
        satellites: Vec::new(),
        ballast: 0,
        decoded_bases: 64 << 20,
        decoding: Default::default(),
        ledger_room: Default::default(),
        catalogue: Default::default(),
        keep: ground_station::spool::Keep::OFF,
        station: "svalbard".to_owned(),
        routes: exporters().map(|(name, signals, _)| (name.to_owned(), signals)).into(),
    };
    let store = Store::open(&Env::production(), settings, 0)?;
    let aside = store.views().overview().await?.quarantined;
    ensure!(aside.is_none(), "it was moved aside: {aside:?}");
    Ok(store)
}

/// Runs `work` to its end.
fn wait<R>(work: impl Future<Output = Result<R>>) -> Result<R> {
    tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(work)
}

/// Reads the spool in `directory` whole. Its letters are sent again and Hellos are said afterwards.
pub fn read(directory: &Path) -> Result<Contents> {
    wait(read_whole(directory))
}

async fn read_whole(directory: &Path) -> Result<Contents> {
    let store = open(directory).await?;
    let overview = store.views().overview().await?;
    let segments: Vec<Segment> = segments(&store).await?.into_iter().collect::<Result<_>>()?;
    ensure!(overview.segments == segments.len() as u64, "{} segments are counted", overview.segments);
    let views = store.views().satellites().await?;
    let contents = Contents {
        gaps: store.views().gaps(ALL).await?.into_iter().map(gap).collect(),
        accounts: store.views().accounting().await?.into_iter().map(|(id, a)| (id, account(a))).collect(),
        cursors: overview.exporters.into_iter().map(|e| (e.name, (e.entry, e.request))).collect(),
        next: next(&store).await?,
        next_entry: overview.next_entry,
        letters: store.views().letters(0, ALL).await?.into_iter().map(letter).collect(),
        bases: (overview.bases, overview.base_bytes),
        used_bytes: overview.used_bytes,
        passes: store.views().passes(ALL).await?.iter().map(pass).collect::<Result<_>>()?,
        wrong: store.upkeep().verify().await?,
        // What follows changes the spool.
        replayed: replay(&store).await?,
        restored: decoding(&store).await?.into_iter().filter(|s| !segments.contains(s)).collect(),
        resume: resume(&store, &views).await?,
        satellites: views.into_iter().map(satellite).collect(),
        segments,
    };
    store.close().await;
    Ok(contents)
}

/// What the spool in `directory` answers when a segment comes that it may have committed: once with this payload hash, once with
/// another one.
pub fn come_again(directory: &Path, satellite: &str, id: SegmentId, hash: Hash) -> Result<[Applied; 2]> {
    let mut header = Header {
        id,
        codec: 1,
        payload_len: 1,
        raw_len: 1,
        hash,
        items: Counts::ZERO,
        time: TimeRange::EMPTY,
        requests: 0,
        sealed_unix_nano: 0,
        base_sequence: None,
        is_base: false,
        delivery: None,
        made_of: None,
    };
    wait(async {
        let store = open(directory).await?;
        let same = apply(&store, satellite, &header, &[]).await?;
        header.hash[0] ^= 1;
        let other = apply(&store, satellite, &header, &[]).await?;
        store.close().await;
        Ok([same, other])
    })
}

/// Sends the missing bytes of the segment that is held in part; what comes of it, and its content when it is whole.
pub fn complete(
    directory: &Path,
    satellite: &str,
    header: &Header,
    missing: &[(u64, Vec<u8>)],
) -> Result<(Applied, Option<Content>)> {
    wait(async {
        let store = open(directory).await?;
        let applied = apply(&store, satellite, header, missing).await?;
        let id = header.id.to_string();
        let all = decoding(&store).await?;
        store.close().await;
        let found = all.into_iter().find(|s| s.satellite == satellite && s.header.id == id);
        Ok((applied, found.map(|s| s.content)))
    })
}

async fn apply(
    store: &Store,
    satellite: &str,
    header: &Header,
    pieces: &[(u64, Vec<u8>)],
) -> Result<Applied> {
    let pieces = pieces.iter().map(|(offset, bytes)| Piece { offset: *offset, bytes: bytes.clone() });
    let incoming = Incoming {
        satellite: satellite.into(),
        header: Arc::new(header.clone()),
        pieces: pieces.collect(),
        max_partial_bytes: 1 << 20,
        age: None,
    };
    let taken = store.intake().put_payload(incoming).await?;
    store.intake().commit(vec![taken]).await?.pop().context("an answer to each")
}

/// Every segment in the spool, or why it does not decode.
async fn segments(store: &Store) -> Result<Vec<Result<Segment>>> {
    let out = Arc::new(Mutex::new(Vec::new()));
    let found = Arc::clone(&out);
    let each = move |satellite: &str, header: &Header, payload: &[u8], base: Option<&Base>| {
        let segment = requests(header, payload, base).and_then(|requests| {
            Ok(Segment {
                satellite: satellite.to_owned(),
                header: header.into(),
                content: Content::of(&requests)?,
            })
        });
        found.lock().unwrap_or_else(PoisonError::into_inner).push(segment);
    };
    store.views().segments(each).await?;
    let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *out))
}

/// The segments that decode: a letter may be a segment that never will.
async fn decoding(store: &Store) -> Result<Vec<Segment>> {
    Ok(segments(store).await?.into_iter().flatten().collect())
}

/// What comes first in the order of commits. Exporters are handed urgent lanes first, so a copy of the store is emptied.
async fn next(store: &Store) -> Result<BTreeMap<&'static str, Option<Next>>> {
    let copy = tempfile::tempdir()?;
    store.upkeep().backup(copy.path().join("spool.redb")).await?;
    let store = open(copy.path()).await?;
    let mut out = BTreeMap::new();
    for (name, signals, cut) in exporters() {
        let mut first: Option<Next> = None;
        while let Some(work) = store.outlet().next(name.into(), signals, cut).await? {
            let other =
                store.outlet().next(name.into(), signals, !cut).await?.map_or(0, |work| work.first.least());
            if first.is_none_or(|(entry, ..)| work.number < entry) {
                first = Some((work.number, work.first.least(), other));
            }
            let done = Progress { finished: true, ..Progress::at(work.place, cut) };
            store.outlet().progress(name.into(), done).await?;
        }
        out.insert(name, first);
    }
    store.close().await;
    Ok(out)
}

async fn replay(store: &Store) -> Result<Vec<RequestDigest>> {
    store.replays().replay(None).await?;
    let mut out = Vec::new();
    for (name, ..) in exporters() {
        // One by one, as they were listed.
        let one = Limits { items: 0, bytes: 0 };
        while let Some(replay) = store.replays().next_replays(name.into(), one).await?.pop() {
            out.push(digest(replay.letter.signal, &replay.letter.body));
            store.replays().replayed([replay.id].into(), None).await?;
        }
    }
    Ok(out)
}

async fn resume(store: &Store, views: &[SatelliteView]) -> Result<BTreeMap<String, Vec<Resume>>> {
    let mut out = BTreeMap::new();
    for view in views {
        let epochs = view.epochs.iter().map(told).collect::<Result<_>>()?;
        let hello = link::Hello { epochs, ..link::Hello::default() };
        let answer = store.intake().ledger(view.satellite.as_str().into(), Arc::new(hello)).await?;
        out.insert(view.satellite.clone(), answer.epochs.into_iter().map(resume_epoch).collect());
    }
    Ok(out)
}

/// An epoch as the satellite last told it; everything that is committed counts as on board, so that Resume names it.
fn told(view: &EpochView) -> Result<link::Epoch> {
    let lane = |l: &LaneView| link::Lane {
        lane: u32::from(l.lane),
        on_board: vec![link::Range { start: 1, end: l.next_sequence }],
        next_sequence: l.next_sequence,
        oldest_base: Some(1),
        ..link::Lane::default()
    };
    Ok(link::Epoch {
        epoch: u64::from_str_radix(&view.epoch, 16)?,
        start_counter: view.start_counter,
        started_unix_nano: view.started_unix_nano,
        closed: view.closed,
        lanes: view.lanes.iter().map(lane).collect(),
        ..link::Epoch::default()
    })
}

fn resume_epoch(e: link::ResumeEpoch) -> Resume {
    let committed = |l: &link::ResumeLane| {
        let range = |c: &link::CommittedRange| {
            let range = c.sequences.unwrap_or_default();
            (range.start, range.end, hex(&c.top_hash))
        };
        (l.lane, l.committed.iter().map(range).collect())
    };
    let partials = |l: &link::ResumeLane| {
        let partial = |p: &link::Partial| {
            (p.sequence, hex(&p.payload_hash), p.held.iter().map(|r| (r.start, r.end)).collect())
        };
        (l.lane, l.partials.iter().map(partial).collect())
    };
    Resume {
        epoch: format!("{:016x}", e.epoch),
        committed: e.lanes.iter().map(committed).collect(),
        partials: e.lanes.iter().map(partials).collect(),
    }
}

fn items(i: ground_station::spool::Items) -> Items {
    Items { spans: i.spans, metric_points: i.metric_points, log_records: i.log_records }
}

fn satellite(s: SatelliteView) -> Satellite {
    Satellite {
        satellite: s.satellite,
        software: s.software,
        last_contact_unix_nano: s.last_contact_unix_nano,
        contact: s.contact,
        station: s.station,
        contacts: s.contacts,
        spool_bytes: s.spool_bytes,
        forecast: s.standing.forecast,
        epochs: s.epochs.into_iter().map(epoch).collect(),
    }
}

fn epoch(e: EpochView) -> Epoch {
    let lane = |l: LaneView| LaneOfEpoch {
        lane: l.lane,
        next_sequence: l.next_sequence,
        committed: l.committed,
        on_board: l.on_board,
        elsewhere: l.elsewhere,
        partials: l
            .partials
            .into_iter()
            .map(|p| (p.sequence, p.held_bytes, p.payload_bytes, p.held))
            .collect(),
    };
    Epoch {
        epoch: e.epoch,
        start_counter: e.start_counter,
        started_unix_nano: e.started_unix_nano,
        closed: e.closed,
        lanes: e.lanes.into_iter().map(lane).collect(),
    }
}

fn gap(g: GapView) -> Gap {
    Gap {
        satellite: g.satellite,
        epoch: g.epoch,
        lane: g.lane,
        id: g.id,
        reason: g.reason,
        sequences: g.sequences,
        items: items(g.items),
        unknown: g.unknown,
        time: (g.start_unix_nano, g.end_unix_nano),
        dropped_unix_nano: g.dropped_unix_nano,
    }
}

fn account(a: AccountView) -> Account {
    Account {
        committed: items(a.committed),
        exported: items(a.exported),
        dead_lettered: items(a.dead_lettered),
        in_spool: items(a.in_spool),
        rejected: items(a.rejected),
        dropped: a.dropped_by_reason.into_iter().map(|(reason, i)| (reason, items(i))).collect(),
        segments: a.segments,
        duplicates: a.duplicates,
        hash_mismatches: a.hash_mismatches,
        bytes: a.bytes,
    }
}

fn letter(l: LetterView) -> Letter {
    Letter {
        id: l.id,
        satellite: l.satellite,
        segment: l.segment,
        exporter: l.exporter,
        signal: l.signal,
        items: l.items,
        bytes: l.bytes,
        reason: l.reason,
        unix_nano: l.unix_nano,
        replay: l.replay,
    }
}

fn pass(view: &ground_station::spool::PassView) -> Result<BTreeMap<&'static str, Value>> {
    let all = serde_json::to_value(view)?;
    Ok(PASS.into_iter().map(|field| (field, all[field].clone())).collect())
}

/// A segment's name from its parts.
pub const fn id(epoch: u64, lane: u8, sequence: u64) -> SegmentId {
    SegmentId { epoch, lane: Lane(lane), sequence }
}
