//! What the console shows, read from one moment of the spool and away from its thread: a page costs the store one short call,
//! whatever it shows.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use perigee_proto::link;
use perigee_shared::env::Env;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::signal::{Signal, SignalSet};
use perigee_shared::store::guarded;
use redb::{Database, ReadableTable, ReadableTableMetadata, TableError};
use serde::Serialize;

use super::alarms::{self, AlarmView, Unread};
use super::catalogue::{self, CatalogueView, Delay, Wanted};
use super::contents::{Contents, Waiting};
use super::decode::{Decoded, Snapshot};
use super::error::SpoolError;
use super::file::{Spool, View};
use super::letters::{self, LetterView};
use super::local::Views;
use super::outlet::Searched;
use super::passes::{self, Pass, PassView};
use super::postgres::Fleet;
use super::replay::{self, ReplayView};
use super::scrub::Scrubbed;
use super::standing::{StandingView, standing};
use super::tables::*;
use super::tail::{self, Tail};
use super::upkeep::Keeper;
use super::views::{self, AccountView, EpochView, GapView, Gaps, SpoolView};

/// Segments before an exporter that are counted, at most.
const COUNTED: usize = 10_000;

/// Rows of a shared catalogue that are read together.
const ROWS_AT_ONCE: usize = 4096;

/// Segments of a satellite that are not whole and are shown, at most.
const PARTIALS_SHOWN: usize = 64;

/// The spool and its satellites at one moment.
#[derive(Debug, Clone)]
pub struct Digest {
    /// Every satellite that was ever heard, by id.
    pub satellites: Vec<SatelliteDigest>,
    /// The spool as a whole; its exporters are below.
    pub spool: SpoolView,
    /// Each exporter's place.
    pub exporters: Vec<ExporterDigest>,
}

/// A satellite in a few words.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SatelliteDigest {
    /// Its id.
    pub satellite: String,
    /// What it runs.
    pub software: String,
    /// The station over which it was heard last.
    pub station: String,
    /// The contact as it called it.
    pub contact: String,
    /// How often it was heard.
    pub contacts: u64,
    /// Whether a link is open now.
    pub connected: bool,
    /// Bytes of it in the spool.
    pub spool_bytes: u64,
    /// How it stands.
    #[serde(flatten)]
    pub standing: StandingView,
    /// Where its items are.
    pub account: AccountView,
    /// Segments of which some bytes are held.
    pub partials: Vec<PartialDigest>,
    /// Alarms that its agent raised, the latest first; those that need a human are among its notes.
    #[serde(skip)]
    pub alarms: Vec<AlarmView>,
}

/// A segment that is not whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartialDigest {
    /// Its lane.
    pub lane: u8,
    /// Its sequence in the lane.
    pub sequence: u64,
    /// Bytes that are held.
    pub held_bytes: u64,
    /// Bytes of its payload.
    pub payload_bytes: u64,
}

/// An exporter's place in the spool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExporterDigest {
    /// Its name.
    pub name: String,
    /// Its signals.
    pub signals: Vec<&'static str>,
    /// Segments with its signals that it has not passed, as far as they are counted.
    pub waiting_segments: u64,
    /// There are more than were counted.
    pub and_more: bool,
    /// Payload bytes of those.
    pub waiting_bytes: u64,
    /// When the oldest of them was committed, ns since the Unix epoch.
    pub oldest_unix_nano: Option<u64>,
}

/// What a digest has read of each satellite, so that the next one reads again only of those that changed.
#[derive(Debug, Default)]
pub struct Records {
    of: BTreeMap<String, KeptSatellite>,
    /// Transactions that the spool's memory had seen.
    changes: u64,
}

/// A satellite's record. The tables of its passes never change without it: it says when the satellite was last heard.
#[derive(Debug)]
struct KeptSatellite {
    bytes: Vec<u8>,
    record: SatelliteRecord,
    last_pass: Option<Pass>,
}

/// A satellite in full.
#[derive(Debug, Clone)]
pub struct Portrait {
    /// Its latest passes, latest first.
    pub passes: Vec<Pass>,
    /// Lives of its log, in the order of their counters.
    pub epochs: Vec<EpochView>,
    /// How late its data came, by signal, since the time that was asked for.
    pub delays: BTreeMap<&'static str, Delay>,
    /// When each segment was committed since then, ns since the Unix epoch, and how late it came, s.
    pub delay_over_time: Vec<(u64, f64)>,
}

/// What has not come and may still come, or went elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AwayView {
    /// Whose it is.
    pub satellite: String,
    /// Its lane.
    pub lane: u8,
    /// Segments that were on board when it was last heard and are not committed.
    pub on_board: u64,
    /// Of those, segments of which some bytes are held.
    pub partial: u64,
    /// Bytes that are held of these.
    pub held_bytes: u64,
    /// Bytes of their payloads.
    pub partial_bytes: u64,
    /// Segments that another station has.
    pub elsewhere: u64,
}

/// A part of a list, and behind what the next one begins.
#[derive(Debug, Clone)]
pub struct Part<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// What to ask for next; none: this is the end.
    pub next: Option<String>,
}

/// The spool at one moment, to be asked as often as somebody likes: it costs the store's thread one short call. While it is kept,
/// what is deleted meanwhile is not given back to the file.
#[derive(Clone)]
pub struct Glance {
    moment: Arc<Moment>,
    /// Who is told when the file cannot be read; `None`: the tables are in memory.
    keeper: Option<Keeper>,
    /// Where the catalogue is, if it is not among the tables.
    fleet: Option<Fleet>,
    env: Env,
}

struct Moment {
    snapshot: Snapshot,
    contents: Contents,
    /// What is not said in the tables.
    spool: SpoolView,
    /// Where they are, if nobody else holds that.
    _tables: Option<Database>,
}

impl Views<'_> {
    /// The spool as it is now.
    pub(super) async fn glance(self) -> Result<Glance, SpoolError> {
        let scrub = self.0.round().done;
        let look = move |spool: &mut Spool| {
            let (file_length_bytes, file_bytes) = spool.file_bytes();
            let aside = spool.quarantined().and_then(|q| q.moved_to.as_ref());
            let quarantined = aside.map(|path| path.display().to_string());
            let (snapshot, contents) = (spool.snapshot()?, memory(spool.contents()));
            let spool =
                SpoolView { file_bytes, file_length_bytes, quarantined, scrub, ..in_memory(&contents) };
            Ok(Moment { snapshot, contents, spool, _tables: None })
        };
        let moment = Arc::new(self.0.keeper.ask(look).await?);
        Ok(Glance { moment, keeper: Some(self.0.keeper.clone()), fleet: None, env: self.0.env.clone() })
    }
}

impl Glance {
    /// Tables that were made for it.
    pub(super) fn over(
        snapshot: Snapshot,
        contents: &Contents,
        scrub: Scrubbed,
        tables: Database,
        fleet: Fleet,
    ) -> Self {
        let contents = memory(contents);
        let spool = SpoolView { scrub, ..in_memory(&contents) };
        let moment = Arc::new(Moment { snapshot, contents, spool, _tables: Some(tables) });
        Self { moment, keeper: None, env: fleet.env().clone(), fleet: Some(fleet) }
    }

    /// Every satellite and the spool in a few words, and what to give to the next digest; `read` is that of an earlier one.
    pub async fn digest(&self, read: Records) -> Result<(Records, Digest), SpoolError> {
        let spool = self.moment.spool.clone();
        self.look(move |view, _| digest(view, spool, read)).await
    }

    /// How every satellite stands; `read` as above.
    pub(super) async fn standings(
        &self,
        read: Records,
    ) -> Result<(Records, BTreeMap<String, StandingView>), SpoolError> {
        self.look(move |view, _| standings(view, read)).await
    }

    /// Replays of ranges of time, the latest first.
    pub async fn replays(&self) -> Result<Vec<ReplayView>, SpoolError> {
        match &self.fleet {
            Some(fleet) => fleet.replays().ranges().await,
            None => self.look(|view, _| replay::list(view.tables)).await,
        }
    }

    /// From where a satellite predicts its contacts, as it last said; `None` as well for one that was never heard.
    pub async fn orbit(&self, satellite: String) -> Result<Option<link::Orbit>, SpoolError> {
        self.look(move |view, _| orbit(view, &satellite)).await
    }

    /// A satellite with its latest passes and how late its data was since `from`.
    pub async fn portrait(&self, satellite: String, from: u64) -> Result<Option<Portrait>, SpoolError> {
        let shown = self.look(move |view, _| portrait(view, &satellite, from)).await?;
        let Some((number, mut portrait)) = shown else { return Ok(None) };
        if let Some(fleet) = &self.fleet {
            let rows = fleet.views().catalogue_since(number, from, catalogue::DELAYS_OF).await?;
            let records: Vec<_> = rows.into_iter().map(|(_, record)| record).collect();
            portrait.delays = catalogue::delays_of(&records);
            portrait.delay_over_time = catalogue::delay_over_time(&records);
        }
        Ok(Some(portrait))
    }

    /// Passes, the latest first, of one satellite or of all.
    pub async fn passes(
        &self,
        of: Option<String>,
        after: Option<String>,
        limit: usize,
    ) -> Result<Part<PassView>, SpoolError> {
        self.look(move |view, _| passes_page(view, of.as_deref(), after.as_deref(), limit)).await
    }

    /// Gaps, the latest first, of one satellite or of all.
    pub async fn gaps(
        &self,
        of: Option<String>,
        after: Option<String>,
        limit: usize,
    ) -> Result<Part<GapView>, SpoolError> {
        self.look(move |view, _| views::gaps_page(view, of.as_deref(), after.as_deref(), limit)).await
    }

    /// How many gaps there are.
    pub(super) async fn gap_counts(&self) -> Result<Gaps, SpoolError> {
        self.look(|view, _| views::gap_counts(view)).await
    }

    /// What is not here and may come, or is elsewhere.
    pub async fn away(&self, of: Option<String>) -> Result<Vec<AwayView>, SpoolError> {
        self.look(move |view, _| away(view, of.as_deref())).await
    }

    /// Dead letters, the latest first; `after` is the id that the part before ended with.
    pub async fn letters(&self, after: Option<u64>, limit: usize) -> Result<Part<LetterView>, SpoolError> {
        let work = move |view: &View<'_>, _: &Snapshot| {
            let mut rows = letters::list_back(view, after.unwrap_or(u64::MAX), limit.saturating_add(1))?;
            let more = rows.len() > limit;
            rows.truncate(limit);
            let next = rows.last().filter(|_| more).map(|last| last.id.to_string());
            Ok(Part { rows, next })
        };
        self.look(work).await
    }

    /// What was committed, the latest first.
    pub async fn catalogue(&self, wanted: Wanted, limit: usize) -> Result<Part<CatalogueView>, SpoolError> {
        let Some(fleet) = &self.fleet else { return self.catalogue_of_file(wanted, limit).await };
        let number = match wanted.satellite.clone() {
            None => None,
            Some(name) => match self.look(move |view, _| number(view, &name)).await? {
                None => return Ok(Part { rows: Vec::new(), next: None }),
                number => number,
            },
        };
        let (mut out, mut after, mut looked_at) = (Part { rows: Vec::new(), next: None }, wanted.after, 0);
        loop {
            let left = limit - out.rows.len();
            let most = if wanted.is_all() { left.saturating_add(1).min(ROWS_AT_ONCE) } else { ROWS_AT_ONCE };
            let rows = fleet.views().catalogue_before(number, after, most).await?;
            (looked_at, after) = (looked_at + rows.len(), rows.last().map(|(number, _)| *number).or(after));
            let is_end = rows.len() < most;
            let wanted = wanted.clone();
            let list = move |view: &View<'_>, _: &Snapshot| {
                let rows = rows.into_iter().map(|(number, record)| Ok((number, Some(record))));
                catalogue::list_of(view, &wanted, left, rows)
            };
            let part = self.look(list).await?;
            out.rows.extend(part.rows);
            if part.next.is_some() || is_end {
                out.next = part.next;
                return Ok(out);
            }
            if out.rows.len() == limit || looked_at >= catalogue::LOOKED_AT * catalogue::STEPS {
                out.next = after.map(|after| after.to_string());
                return Ok(out);
            }
        }
    }

    /// The same of a station's own file: in steps, so that nothing else waits for a long one.
    async fn catalogue_of_file(
        &self,
        mut wanted: Wanted,
        limit: usize,
    ) -> Result<Part<CatalogueView>, SpoolError> {
        let mut out = Part { rows: Vec::new(), next: None };
        for _ in 0..catalogue::STEPS {
            let (step, left) = (wanted.clone(), limit - out.rows.len());
            let part = self.look(move |view, _| catalogue::list(view, &step, left)).await?;
            out.rows.extend(part.rows);
            out.next = part.next;
            let next = out.next.as_ref().and_then(|next| next.parse().ok());
            if next.is_none() || out.rows.len() == limit {
                break;
            }
            wanted.after = next;
        }
        Ok(out)
    }

    /// Items of segments that were committed with a number above `after`: of the newest ones, until `bytes` of OTLP are decoded; of
    /// each at most `each`.
    pub async fn tail(&self, after: u64, bytes: u64, each: usize) -> Result<Tail, SpoolError> {
        self.look(move |view, snapshot| tail::tail(view, snapshot, after, bytes, each)).await
    }

    /// Has `work` look, away from the spool's thread.
    pub(super) async fn look<R: Send + 'static>(
        &self,
        work: impl FnOnce(&View<'_>, &Snapshot) -> Result<R, SpoolError> + Send + 'static,
    ) -> Result<R, SpoolError> {
        let moment = Arc::clone(&self.moment);
        let work = move || {
            let view = View { tables: &moment.snapshot.read, contents: &moment.contents };
            guarded(|| work(&view, &moment.snapshot))
        };
        match self.env.cpu(work).await {
            Err(error) => match &self.keeper {
                Some(keeper) => Err(keeper.noted(error).await),
                None => Err(error),
            },
            out => out,
        }
    }
}

/// The spool as far as its memory knows it.
fn in_memory(contents: &Contents) -> SpoolView {
    SpoolView {
        ledger: format!("{:016x}", contents.ledger),
        next_entry: 0,
        used_bytes: contents.usage.total,
        max_bytes: contents.settings.max_bytes,
        file_bytes: 0,
        file_length_bytes: 0,
        segments: 0,
        bases: 0,
        base_bytes: contents.usage.bases.values().sum(),
        dead_letters: 0,
        kept_bytes: contents.usage.kept(),
        quarantined: None,
        scrub: Default::default(),
        exporters: Vec::new(),
    }
}

/// What is in memory of the tables, as far as views need it.
fn memory(contents: &Contents) -> Contents {
    Contents {
        settings: Arc::clone(&contents.settings),
        ledger: contents.ledger,
        usage: contents.usage.clone(),
        waiting: BTreeMap::<_, Waiting>::new(),
        delivered: contents.delivered.clone(),
        lanes: contents.lanes.clone(),
        finished: contents.finished.clone(),
        bases_held: contents.bases_held,
        bases_looked: contents.bases_looked,
        changes: contents.changes,
        gaps_changed: contents.gaps_changed,
        decoded: Decoded::new(0, &contents.settings.decoding),
        searched: Searched::default(),
        unread: Unread::default(),
    }
}

/// Each satellite's record as it is now.
fn records(view: &View<'_>, mut read: Records) -> Result<Records, SpoolError> {
    let changes = view.contents.changes;
    if changes < read.changes {
        // The file was opened anew, and may have lost something.
        read = Records::default();
    }
    let mut known = BTreeMap::new();
    for row in view.tables.open_table(SATELLITES)?.iter()? {
        let (id, value) = row?;
        let (id, bytes) = (id.value(), value.value());
        let same = read.of.remove(id).filter(|known| known.bytes == bytes);
        known.insert(id.to_owned(), same.map_or_else(|| KeptSatellite::read(view, bytes), Ok)?);
    }
    Ok(Records { of: known, changes })
}

/// How every satellite stands, as its record says.
fn standings(
    view: &View<'_>,
    read: Records,
) -> Result<(Records, BTreeMap<String, StandingView>), SpoolError> {
    let records = records(view, read)?;
    let of = |known: &KeptSatellite| standing(view, &known.record, known.last_pass.clone());
    let standings = records.of.iter().map(|(id, known)| (id.clone(), of(known))).collect();
    Ok((records, standings))
}

fn digest(view: &View<'_>, spool: SpoolView, read: Records) -> Result<(Records, Digest), SpoolError> {
    let contents = view.contents;
    let records = records(view, read)?;
    let known = &records.of;
    let names = known.iter().map(|(id, known)| (known.record.number, id.clone())).collect();
    let mut accounts = views::accounts(view, &names)?;
    let mut alarms = alarms::all(view)?;
    let satellites = known.iter().map(|(id, known)| {
        let account = accounts.remove(id).unwrap_or_default();
        satellite(view, id, known, account, alarms.remove(&known.record.number).unwrap_or_default())
    });
    let satellites = satellites.collect::<Result<_, SpoolError>>()?;
    let entries = view.tables.open_table(ENTRIES)?.len()?;
    let exporters = contents.settings.routes.iter().map(|(name, signals)| exporter(view, name, *signals));
    let spool = SpoolView {
        next_entry: view.tables.open_table(META)?.get("next_entry")?.map_or(1, |v| v.value()),
        segments: entries.saturating_sub(contents.finished.len() as u64),
        bases: view.tables.open_table(BASES)?.len()?,
        dead_letters: view.tables.open_table(LETTERS)?.len()?,
        ..spool
    };
    let digest = Digest { satellites, spool, exporters: exporters.collect::<Result<_, _>>()? };
    Ok((records, digest))
}

impl KeptSatellite {
    fn read(view: &View<'_>, bytes: &[u8]) -> Result<Self, SpoolError> {
        let record = decode::<SatelliteRecord>(bytes)?;
        let last_pass = passes::latest(view, record.number)?;
        Ok(Self { bytes: bytes.to_vec(), record, last_pass })
    }
}

fn satellite(
    view: &View<'_>,
    id: &str,
    KeptSatellite { record, last_pass, .. }: &KeptSatellite,
    account: AccountView,
    alarms: Vec<AlarmView>,
) -> Result<SatelliteDigest, SpoolError> {
    let standing = standing(view, record, last_pass.clone());
    let mut partials = Vec::new();
    // Each takes something, however few bytes of it are held.
    if standing.partial_bytes > 0 {
        let of_one = SequenceKey::satellites(record.number, record.number);
        for row in view.tables.open_table(PARTIALS)?.range(of_one)?.take(PARTIALS_SHOWN) {
            let (key, value) = row?;
            let partial = decode::<PartialRecord>(value.value())?;
            partials.push(PartialDigest {
                lane: key.value().lane,
                sequence: key.value().sequence,
                held_bytes: RangeSet::from_wire(&partial.held).total(),
                payload_bytes: partial.header.map_or(0, |h| h.payload_len),
            });
        }
    }
    Ok(SatelliteDigest {
        satellite: id.to_owned(),
        software: record.software.clone(),
        station: record.station.clone(),
        contact: record.contact.clone(),
        contacts: record.contacts,
        connected: false,
        spool_bytes: view.contents.usage.by_satellite.get(&record.number).copied().unwrap_or(0),
        standing,
        account,
        partials,
        alarms,
    })
}

fn exporter(view: &View<'_>, name: &str, signals: SignalSet) -> Result<ExporterDigest, SpoolError> {
    let entries = view.tables.open_table(ENTRIES)?;
    let cursors = view.tables.open_table(CURSORS)?;
    let (mut count, mut waiting_segments, mut waiting_bytes, mut oldest) = (0, 0, 0, None::<u64>);
    'lanes: for (satellite, lane) in view.contents.lanes.keys() {
        let at = cursors.get((name, *satellite, *lane))?.map_or(0, |v| v.value().entry);
        let from = EntryKey { satellite: *satellite, lane: *lane, entry: at };
        for row in entries.range(from.and_later())? {
            count += 1;
            if count > COUNTED {
                break 'lanes;
            }
            let record = decode::<SegmentRecord>(row?.1.value())?;
            if !record.open().signals().intersects(signals) {
                continue;
            }
            waiting_segments += 1;
            waiting_bytes += record.bytes();
            oldest = Some(oldest.map_or(record.committed, |oldest| oldest.min(record.committed)));
        }
    }
    Ok(ExporterDigest {
        name: name.to_owned(),
        signals: signals.iter().map(Signal::name).collect(),
        waiting_segments,
        and_more: count > COUNTED,
        waiting_bytes,
        oldest_unix_nano: oldest,
    })
}

/// The number of a satellite, if it was ever heard.
pub(super) fn number(view: &View<'_>, id: &str) -> Result<Option<u32>, SpoolError> {
    let record = view.tables.open_table(SATELLITES)?.get(id)?.map(|v| decode::<SatelliteRecord>(v.value()));
    Ok(record.transpose()?.map(|record| record.number))
}

fn orbit(view: &View<'_>, id: &str) -> Result<Option<link::Orbit>, SpoolError> {
    let Some(record) = view.tables.open_table(SATELLITES)?.get(id)? else { return Ok(None) };
    Ok(decode::<SatelliteRecord>(record.value())?.orbit)
}

fn portrait(view: &View<'_>, id: &str, from: u64) -> Result<Option<(u32, Portrait)>, SpoolError> {
    /// Passes in a timeline.
    const PASSES_SHOWN: usize = 50;
    let Some(number) = number(view, id)? else { return Ok(None) };
    let records = catalogue::since(view, number, from)?;
    let portrait = Portrait {
        passes: passes::of_satellite(view, number, PASSES_SHOWN)?.into_iter().take(PASSES_SHOWN).collect(),
        epochs: views::epochs(view, number)?,
        delays: catalogue::delays_of(&records),
        delay_over_time: catalogue::delay_over_time(&records),
    };
    Ok(Some((number, portrait)))
}

/// Where a list goes on: a time and a satellite's number.
fn mark(text: Option<&str>) -> Option<(u64, u32)> {
    let (time, number) = text?.split_once('-')?;
    Some((time.parse().ok()?, number.parse().ok()?))
}

/// A satellite in the merge of all passes: by its newest pass that is not out yet.
type Next = (u64, Reverse<u32>);

/// Passes of a satellite that are read at first: seldom more of one are on a page of all satellites.
const AT_FIRST: usize = 16;

/// Passes of a satellite that were read and are not out yet.
struct Left {
    passes: VecDeque<Pass>,
    /// There may be earlier ones.
    and_more: bool,
}

impl Left {
    /// At most `most` passes of a satellite that are behind a place.
    fn read(
        view: &View<'_>,
        number: u32,
        after: Option<(u64, u32)>,
        most: usize,
    ) -> Result<Self, SpoolError> {
        let all = passes::of_satellite(view, number, most)?;
        let and_more = all.len() >= most;
        let behind = |pass: &Pass| after.is_none_or(|(time, n)| (pass.start(), n) < (time, number));
        Ok(Self { passes: all.into_iter().take(most).filter(behind).collect(), and_more })
    }
}

fn passes_page(
    view: &View<'_>,
    of: Option<&str>,
    after: Option<&str>,
    limit: usize,
) -> Result<Part<PassView>, SpoolError> {
    let after = mark(after);
    let names = views::names(view.tables)?;
    let mut newest =
        newest_before(view, names.iter().filter(|(_, name)| of.is_none_or(|of| of == *name)), after)?;
    let mut read = BTreeMap::<u32, Left>::new();
    let mut out = Part { rows: Vec::new(), next: None };
    let mut last = None;
    while let Some((time, Reverse(number))) = newest.pop() {
        let Some(left) = read.get_mut(&number) else {
            // The time was that of the newest record; that of the pass may be another one.
            let most = if after.is_none() && of.is_none() { AT_FIRST } else { usize::MAX };
            let left = Left::read(view, number, after, most)?;
            newest.extend(left.passes.front().map(|pass| (pass.start(), Reverse(number))));
            read.insert(number, left);
            continue;
        };
        if out.rows.len() == limit {
            out.next = last.map(|(time, number): (u64, u32)| format!("{time}-{number}"));
            break;
        }
        if let Some(pass) = left.passes.pop_front() {
            out.rows.push(PassView { satellite: names[&number].clone(), pass });
            last = Some((time, number));
        }
        if left.passes.is_empty() && left.and_more {
            *left = Left::read(view, number, Some((time, number)), usize::MAX)?;
        }
        newest.extend(left.passes.front().map(|pass| (pass.start(), Reverse(number))));
    }
    Ok(out)
}

/// The times of the newest records of passes of these satellites that are not after the mark.
fn newest_before<'n>(
    view: &View<'_>,
    satellites: impl Iterator<Item = (&'n u32, &'n String)>,
    after: Option<(u64, u32)>,
) -> Result<BinaryHeap<Next>, SpoolError> {
    let until = after.map_or(u64::MAX, |(time, _)| time);
    let reported = view.tables.open_table(PASSES)?;
    let seen = match view.tables.open_table(CONTACTS) {
        Err(TableError::TableDoesNotExist(_)) => None,
        table => Some(table?),
    };
    let mut newest = BinaryHeap::new();
    for (satellite, _) in satellites {
        let range =
            PassKey { satellite: *satellite, start: 0 }..=PassKey { satellite: *satellite, start: until };
        let last = |table: &redb::ReadOnlyTable<PassKey, &'static [u8]>| -> Result<Option<u64>, SpoolError> {
            Ok(table.range(range.clone())?.next_back().transpose()?.map(|(key, _)| key.value().start))
        };
        let time = last(&reported)?.max(seen.as_ref().map(last).transpose()?.flatten());
        newest.extend(time.map(|time| (time, Reverse(*satellite))));
    }
    Ok(newest)
}

fn away(view: &View<'_>, of: Option<&str>) -> Result<Vec<AwayView>, SpoolError> {
    let mut out = Vec::new();
    for (number, satellite) in views::names(view.tables)? {
        if of.is_some_and(|of| of != satellite) {
            continue;
        }
        let mut lanes = BTreeMap::<u8, AwayView>::new();
        for lane in views::epochs(view, number)?.into_iter().flat_map(|epoch| epoch.lanes) {
            let away = lanes.entry(lane.lane).or_insert_with(|| AwayView {
                satellite: satellite.clone(),
                lane: lane.lane,
                on_board: 0,
                partial: 0,
                held_bytes: 0,
                partial_bytes: 0,
                elsewhere: 0,
            });
            away.on_board += lane.backlog_segments;
            away.partial += lane.partials.len() as u64;
            away.held_bytes += lane.partials.iter().map(|partial| partial.held_bytes).sum::<u64>();
            away.partial_bytes += lane.partials.iter().map(|partial| partial.payload_bytes).sum::<u64>();
            away.elsewhere += lane.elsewhere.iter().map(|(first, last)| last - first + 1).sum::<u64>();
        }
        out.extend(lanes.into_values().filter(|a| a.on_board + a.partial + a.elsewhere > 0));
    }
    Ok(out)
}
