//! What people and tools are shown of the spool.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use perigee_proto::link::{DropReason, Lane};
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment;
use perigee_shared::signal::{Counts, Signal, SignalSet, TimeRange};
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};
use serde::Serialize;

use super::counters::Kind;
use super::error::SpoolError;
use super::file::View;
use super::ledger::committed_ranges;
use super::look::Part;
use super::passes;
use super::scrub::Scrubbed;
use super::standing::{StandingView, standing};
use super::tables::*;

/// First and last sequence of a range, both included.
type Sequences = (u64, u64);

fn shown(range: &Range<u64>) -> Sequences {
    (range.start, range.end - 1)
}

/// Items by signal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Items {
    /// Spans.
    pub spans: u64,
    /// Metric data points.
    pub metric_points: u64,
    /// Log records.
    pub log_records: u64,
}

impl From<Counts> for Items {
    fn from(c: Counts) -> Self {
        Self { spans: c[Signal::Traces], metric_points: c[Signal::Metrics], log_records: c[Signal::Logs] }
    }
}

/// A satellite and its lanes.
#[derive(Debug, Clone, Default, Serialize, utoipa::ToSchema)]
pub struct SatelliteView {
    /// Its id.
    pub satellite: String,
    /// What it runs.
    pub software: String,
    /// When it was last heard, ns since the Unix epoch; 0: never.
    pub last_contact_unix_nano: u64,
    /// The contact as it called it.
    pub contact: String,
    /// The station over which it was heard.
    pub station: String,
    /// How often it was heard.
    pub contacts: u64,
    /// Whether a link is open now.
    pub connected: bool,
    /// Bytes of it in the spool.
    pub spool_bytes: u64,
    /// Segments that another station's ledger has too.
    pub handover_twice: u64,
    /// How it stands.
    #[serde(flatten)]
    pub standing: StandingView,
    /// What its ledger has nearly, or quite, as much of as one satellite may have: at the bound it is not heard any more.
    pub ledger_tight: Option<String>,
    /// Lives of its log, in the order of their counters.
    pub epochs: Vec<EpochView>,
}

impl SatelliteView {
    /// These, and of each one that may connect and was never heard that there it is; by id.
    pub fn with_expected(mut heard: Vec<Self>, expected: impl Iterator<Item = String>) -> Vec<Self> {
        let known: BTreeSet<String> = heard.iter().map(|view| view.satellite.clone()).collect();
        let never = expected.filter(|id| !known.contains(id));
        heard.extend(never.map(|satellite| Self { satellite, ..Self::default() }));
        heard.sort_by(|a, b| a.satellite.cmp(&b.satellite));
        heard
    }
}

/// One life of a satellite's log.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct EpochView {
    /// Its random id, in hex.
    pub epoch: String,
    /// Counts the lives.
    pub start_counter: u64,
    /// When it began by the satellite's clock, ns since the Unix epoch.
    pub started_unix_nano: u64,
    /// Nothing more will come of it.
    pub closed: bool,
    /// Its lanes.
    pub lanes: Vec<LaneView>,
}

/// One lane.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct LaneView {
    /// Its number.
    pub lane: u8,
    /// The sequence that its next segment will have, as last said.
    pub next_sequence: u64,
    /// Sequences that are committed, both ends included.
    #[schema(value_type = Vec<Vec<u64>>)]
    pub committed: Vec<Sequences>,
    /// On board when last heard, and not committed since.
    #[schema(value_type = Vec<Vec<u64>>)]
    pub on_board: Vec<Sequences>,
    /// How many those are.
    pub backlog_segments: u64,
    /// Neither on board nor committed here nor dropped: delivered to another station.
    #[schema(value_type = Vec<Vec<u64>>)]
    pub elsewhere: Vec<Sequences>,
    /// Segments of which some bytes are held.
    pub partials: Vec<PartialView>,
}

/// A segment that is not whole.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct PartialView {
    /// Its sequence.
    pub sequence: u64,
    /// Bytes that are held.
    pub held_bytes: u64,
    /// Bytes of its payload.
    pub payload_bytes: u64,
    /// First and last byte of each held range.
    #[schema(value_type = Vec<Vec<u64>>)]
    pub held: Vec<(u64, u64)>,
}

/// Items that will never be exported.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct GapView {
    /// Whose they were.
    pub satellite: String,
    /// The life of its log, in hex.
    pub epoch: String,
    /// The lane.
    pub lane: u32,
    /// The drop's id in the epoch.
    pub id: u64,
    /// Why.
    pub reason: String,
    /// Sequences, both ends included; none: they had none yet.
    #[schema(value_type = Option<Vec<u64>>)]
    pub sequences: Option<Sequences>,
    /// Items of it that are missing.
    pub items: Items,
    /// The counts are a lower bound; of reason `station_lost` an upper bound, and where all are 0 nobody knows one.
    pub unknown: bool,
    /// The earliest timestamp among them, ns since the Unix epoch; 0: unknown.
    pub start_unix_nano: u64,
    /// The latest.
    pub end_unix_nano: u64,
    /// When they were dropped by the satellite's clock.
    pub dropped_unix_nano: u64,
    /// When this station learned of it.
    pub recorded_unix_nano: u64,
}

/// Where the items of a satellite are. `committed = exported + dead_lettered + lost + in_spool`; `rejected` are among the exported.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct AccountView {
    /// Of segments in the ledger.
    pub committed: Items,
    /// Every exporter of their pipeline is done with them.
    pub exported: Items,
    /// No backend takes them.
    pub dead_lettered: Items,
    /// This station had them and lost them; gaps of reason `station_lost` say which.
    pub lost: Items,
    /// Still to be exported.
    pub in_spool: Items,
    /// Sent again by replays of ranges; they are counted elsewhere too.
    pub replayed: Items,
    /// Taken by a backend and then refused.
    pub rejected: Items,
    /// Dropped on board, all reasons together.
    pub dropped: Items,
    /// Dropped on board, by reason.
    pub dropped_by_reason: BTreeMap<String, Items>,
    /// Segments committed.
    pub segments: u64,
    /// Segments that came again after they had been committed.
    pub duplicates: u64,
    /// Segments that a ledger of another station has committed as well.
    pub handover_twice: u64,
    /// Segments whose payload did not have its hash.
    pub hash_mismatches: u64,
    /// Payload bytes committed.
    pub bytes: u64,
}

/// The spool as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct SpoolView {
    /// The random id of the ledger, in hex.
    pub ledger: String,
    /// The number of the next segment in the order of commits.
    pub next_entry: u64,
    /// Segments, bases, partials and dead letters.
    pub used_bytes: u64,
    /// What they may take.
    pub max_bytes: u64,
    /// What the file takes on the volume.
    pub file_bytes: u64,
    /// How long the file is; parts of it may take nothing.
    pub file_length_bytes: u64,
    /// Segments that are still to be exported.
    pub segments: u64,
    /// Segments that are kept since later ones may need them to be decoded.
    pub bases: u64,
    /// What those take.
    pub base_bytes: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Segments that stay after their export, outside of what is used.
    pub kept_bytes: u64,
    /// Where the last damaged file was put since the start.
    pub quarantined: Option<String>,
    /// What the scrub has done since the start.
    pub scrub: Scrubbed,
    /// Each exporter's place.
    pub exporters: Vec<ExporterView>,
}

/// An exporter's place in the spool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ExporterView {
    /// Its name.
    pub name: String,
    /// Its signals.
    pub signals: Vec<&'static str>,
    /// The number of the segment it is at, in the order of commits.
    pub entry: u64,
    /// The request in it.
    pub request: u64,
    /// Segments that are still before it, among them those of other signals.
    pub backlog_segments: u64,
}

/// Every satellite that was ever heard.
pub(super) fn satellites(view: &View<'_>) -> Result<Vec<SatelliteView>, SpoolError> {
    let (mut out, twice) = (Vec::new(), view.tables.open_table(COUNTERS)?);
    let key = |satellite| CounterKey { satellite, kind: Kind::HandoverTwice as u8, signal: 0, reason: 0 };
    for row in view.tables.open_table(SATELLITES)?.iter()? {
        let (id, value) = row?;
        let record = decode::<SatelliteRecord>(value.value())?;
        let lives = epochs(view, record.number)?;
        out.push(SatelliteView {
            standing: standing(view, &record, passes::latest(view, record.number)?),
            satellite: id.value().to_owned(),
            software: record.software,
            last_contact_unix_nano: record.last_contact,
            contact: record.contact,
            station: record.station,
            contacts: record.contacts,
            connected: false,
            handover_twice: twice.get(key(record.number))?.map_or(0, |n| n.value()),
            spool_bytes: view.contents.usage.by_satellite.get(&record.number).copied().unwrap_or(0),
            ledger_tight: super::ledger::tight(view, record.number, id.value())?,
            epochs: lives,
        });
    }
    Ok(out)
}

/// Lives of a satellite's log, in the order of their counters.
pub(super) fn epochs(view: &View<'_>, satellite: u32) -> Result<Vec<EpochView>, SpoolError> {
    let mut lives = Vec::new();
    for row in view.tables.open_table(EPOCHS)?.range(EpochKey::all(satellite))? {
        let (key, value) = row?;
        lives.push(epoch_view(view.tables, key.value(), decode(value.value())?)?);
    }
    lives.sort_by_key(|e| e.start_counter);
    Ok(lives)
}

fn epoch_view(read: &ReadTransaction, key: EpochKey, record: EpochRecord) -> Result<EpochView, SpoolError> {
    let lanes = record.lanes.iter().filter(|said| said.lane <= u32::from(u8::MAX));
    Ok(EpochView {
        epoch: format!("{:016x}", key.epoch),
        start_counter: record.start_counter,
        started_unix_nano: record.started,
        closed: record.closed,
        lanes: lanes.map(|said| lane_view(read, key, said)).collect::<Result<_, _>>()?,
    })
}

fn lane_view(read: &ReadTransaction, key: EpochKey, said: &Lane) -> Result<LaneView, SpoolError> {
    let lane = said.lane as u8;
    let keys = SequenceKey::lane(key.satellite, key.epoch, segment::Lane(lane));
    let committed = read.open_table(COMMITTED)?;
    let here = committed_ranges(&committed, key.satellite, key.epoch, segment::Lane(lane))?;
    let here: RangeSet = here.into_iter().map(|(r, _)| r).collect();
    let next = said.next_sequence.max(here.last().map_or(1, |last| last + 1));
    let mut on_board = RangeSet::from_wire(&said.on_board);
    here.iter().for_each(|r| on_board.remove(r));
    let mut known = here.clone();
    on_board.iter().for_each(|r| known.insert(r));
    for row in read.open_table(DROPPED)?.range(keys.clone())? {
        let (key, run) = row?;
        known.insert(key.value().sequence..run.value().end);
    }
    let mut partials = Vec::new();
    for row in read.open_table(PARTIALS)?.range(keys)? {
        let (key, value) = row?;
        let record = decode::<PartialRecord>(value.value())?;
        let ranges = RangeSet::from_wire(&record.held);
        partials.push(PartialView {
            sequence: key.value().sequence,
            held_bytes: ranges.total(),
            payload_bytes: record.header.map_or(0, |h| h.payload_len),
            held: ranges.iter().map(|r| shown(&r)).collect(),
        });
    }
    Ok(LaneView {
        lane,
        next_sequence: next,
        committed: here.iter().map(|r| shown(&r)).collect(),
        on_board: on_board.iter().map(|r| shown(&r)).collect(),
        backlog_segments: on_board.total(),
        elsewhere: known.missing(1..next.max(1)).iter().map(shown).collect(),
        partials,
    })
}

/// What is missing for good, at most `limit` gaps.
pub(super) fn gaps(view: &View<'_>, limit: usize) -> Result<Vec<GapView>, SpoolError> {
    let names = names(view.tables)?;
    let mut out = Vec::new();
    for row in view.tables.open_table(DROPS)?.iter()?.take(limit) {
        let (key, value) = row?;
        out.extend(gap_view(&names, key.value(), decode(value.value())?));
    }
    Ok(out)
}

/// How many gaps there are, by satellite and reason.
pub type Gaps = BTreeMap<(String, String), u64>;

/// How many gaps there are, without those of which everything has come all the same.
pub(super) fn gap_counts(view: &View<'_>) -> Result<Gaps, SpoolError> {
    let (names, mut out) = (names(view.tables)?, Gaps::new());
    for row in view.tables.open_table(DROPS)?.iter()? {
        let (key, value) = row?;
        let record = decode::<DropRecord>(value.value())?;
        let came = record.overridden.is_some_and(|came| Counts::from(came) != Counts::default());
        let Some(gap) = gap_view(&names, key.value(), record) else { continue };
        if !came || gap.unknown || gap.items != Items::default() {
            *out.entry((gap.satellite, gap.reason)).or_default() += 1;
        }
    }
    Ok(out)
}

/// Gaps in the order in which they became known, the latest first.
pub(super) fn gaps_page(
    view: &View<'_>,
    of: Option<&str>,
    after: Option<&str>,
    limit: usize,
) -> Result<Part<GapView>, SpoolError> {
    type Mark = (u64, u32, u64, u64);
    let marked = |text: &str| {
        let mut parts = text.split('-').map(|part| part.parse::<u64>().ok());
        let mut next = || parts.next().flatten();
        Some((next()?, u32::try_from(next()?).ok()?, next()?, next()?))
    };
    let (names, after) = (names(view.tables)?, after.and_then(marked));
    // The latest so far; the oldest of them goes when there is one too many.
    let mut latest = BTreeMap::<Mark, DropRecord>::new();
    let mut more = false;
    for row in view.tables.open_table(DROPS)?.iter()? {
        let (key, value) = row?;
        let DropKey { satellite, epoch, id } = key.value();
        if of.is_some_and(|of| names.get(&satellite).is_none_or(|name| name != of)) {
            continue;
        }
        let record = decode::<DropRecord>(value.value())?;
        let mark = (record.recorded, satellite, epoch, id);
        if record.drop.is_none() || after.is_some_and(|after| mark >= after) {
            continue;
        }
        latest.insert(mark, record);
        if latest.len() > limit {
            latest.pop_first();
            more = true;
        }
    }
    let next = latest.keys().next().filter(|_| more).map(|(t, s, e, i)| format!("{t}-{s}-{e}-{i}"));
    let row =
        |((_, satellite, epoch, id), record)| gap_view(&names, DropKey { satellite, epoch, id }, record);
    Ok(Part { rows: latest.into_iter().rev().filter_map(row).collect(), next })
}

pub(super) fn gap_view(names: &BTreeMap<u32, String>, key: DropKey, record: DropRecord) -> Option<GapView> {
    let DropKey { satellite, epoch, id } = key;
    let drop = record.drop?;
    let items = Counts::from(drop.items.unwrap_or_default())
        .saturating_sub(record.overridden.unwrap_or_default().into());
    let time = TimeRange::from(drop.time.unwrap_or_default());
    Some(GapView {
        satellite: names.get(&satellite).cloned().unwrap_or_default(),
        epoch: format!("{epoch:016x}"),
        lane: drop.lane,
        id,
        reason: reason_name(u8::try_from(drop.reason).unwrap_or(0)),
        sequences: drop.sequences.filter(|r| r.start < r.end).map(|r| shown(&(r.start..r.end))),
        items: items.into(),
        unknown: drop.counts_unknown,
        start_unix_nano: if time.is_empty() { 0 } else { time.start },
        end_unix_nano: time.end,
        dropped_unix_nano: drop.dropped_unix_nano,
        recorded_unix_nano: record.recorded,
    })
}

/// Where the items are, by satellite.
pub(super) fn accounting(view: &View<'_>) -> Result<BTreeMap<String, AccountView>, SpoolError> {
    accounts(view, &names(view.tables)?)
}

/// The same, where the satellites' ids are known by number.
pub(super) fn accounts(
    view: &View<'_>,
    names: &BTreeMap<u32, String>,
) -> Result<BTreeMap<String, AccountView>, SpoolError> {
    let mut out: BTreeMap<String, AccountView> =
        names.values().map(|name| (name.clone(), AccountView::default())).collect();
    for row in view.tables.open_table(COUNTERS)?.iter()? {
        let (key, n) = row?;
        let (key, n) = (key.value(), n.value());
        let Some(account) = names.get(&key.satellite).and_then(|name| out.get_mut(name)) else { continue };
        let Some(kind) = Kind::ALL.into_iter().find(|k| *k as u8 == key.kind) else { continue };
        let items = Signal::from_number(key.signal);
        match kind {
            Kind::Committed => account.committed.add(items, n),
            Kind::Exported => account.exported.add(items, n),
            Kind::DeadLettered => account.dead_lettered.add(items, n),
            Kind::Lost => account.lost.add(items, n),
            Kind::Replayed => account.replayed.add(items, n),
            Kind::Rejected => account.rejected.add(items, n),
            Kind::Dropped => {
                account.dropped.add(items, n);
                account.dropped_by_reason.entry(reason_name(key.reason)).or_default().add(items, n);
            }
            Kind::Segments => account.segments = n,
            Kind::Duplicates => account.duplicates = n,
            Kind::HandoverTwice => account.handover_twice = n,
            Kind::HashMismatches => account.hash_mismatches = n,
            Kind::Bytes => account.bytes = n,
        }
    }
    for account in out.values_mut() {
        let left = account.committed.less(account.exported).less(account.dead_lettered);
        account.in_spool = left.less(account.lost);
    }
    Ok(out)
}

/// The spool as a whole; what its file takes and where a damaged one was put is not said in its tables.
pub(super) fn overview(view: &View<'_>) -> Result<SpoolView, SpoolError> {
    let entries = view.tables.open_table(ENTRIES)?;
    let settings = &view.contents.settings;
    let exporters = settings.routes.iter().map(|(name, signals)| exporter_view(view, name, *signals));
    let live = entries.len()?.saturating_sub(view.contents.finished.len() as u64);
    Ok(SpoolView {
        ledger: format!("{:016x}", view.contents.ledger),
        next_entry: next_entry(view)?,
        used_bytes: view.contents.usage.total,
        max_bytes: settings.max_bytes,
        file_bytes: 0,
        file_length_bytes: 0,
        segments: live,
        bases: view.tables.open_table(BASES)?.len()?,
        base_bytes: view.contents.usage.bases.values().sum(),
        dead_letters: view.tables.open_table(LETTERS)?.len()?,
        kept_bytes: view.contents.usage.kept(),
        quarantined: None,
        scrub: Scrubbed::default(),
        exporters: exporters.collect::<Result<_, _>>()?,
    })
}

fn next_entry(view: &View<'_>) -> Result<u64, SpoolError> {
    Ok(view.tables.open_table(META)?.get("next_entry")?.map_or(1, |v| v.value()))
}

/// How far an exporter is: the first segment in the order of commits that is not behind its place.
fn exporter_view(view: &View<'_>, name: &str, signals: SignalSet) -> Result<ExporterView, SpoolError> {
    let entries = view.tables.open_table(ENTRIES)?;
    let cursors = view.tables.open_table(CURSORS)?;
    let (mut entry, mut request, mut backlog_segments) = (next_entry(view)?, 0, 0);
    for (satellite, lane) in view.contents.lanes.keys() {
        let at = cursors.get((name, *satellite, *lane))?.map(|v| v.value());
        let from = EntryKey { satellite: *satellite, lane: *lane, entry: at.map_or(0, |c| c.entry) };
        let mut rows = entries.range(from.and_later())?;
        let Some((key, value)) = rows.next().transpose()? else { continue };
        backlog_segments += 1 + rows.count() as u64;
        let payload = decode::<SegmentRecord>(value.value())?.payload;
        if payload < entry {
            entry = payload;
            request = at.filter(|c| c.entry == key.value().entry).map_or(0, |c| c.request);
        }
    }
    let signals = signals.iter().map(Signal::name).collect();
    Ok(ExporterView { name: name.to_owned(), signals, entry, request, backlog_segments })
}

impl Items {
    fn slot(&mut self, signal: Signal) -> &mut u64 {
        match signal {
            Signal::Traces => &mut self.spans,
            Signal::Metrics => &mut self.metric_points,
            Signal::Logs => &mut self.log_records,
        }
    }

    fn add(&mut self, signal: Option<Signal>, n: u64) {
        if let Some(signal) = signal {
            *self.slot(signal) += n;
        }
    }

    /// All signals together.
    pub const fn total(self) -> u64 {
        self.spans + self.metric_points + self.log_records
    }

    /// The number of one signal.
    pub fn of(mut self, signal: Signal) -> u64 {
        *self.slot(signal)
    }

    fn less(self, other: Self) -> Self {
        Self {
            spans: self.spans.saturating_sub(other.spans),
            metric_points: self.metric_points.saturating_sub(other.metric_points),
            log_records: self.log_records.saturating_sub(other.log_records),
        }
    }
}

/// `quota_oldest`, `lifetime`, ...; `unknown` for a reason that this software does not know.
pub(super) fn reason_name(number: u8) -> String {
    match DropReason::try_from(i32::from(number)) {
        Ok(DropReason::Unspecified) | Err(_) => "unknown".to_owned(),
        Ok(reason) => perigee_shared::link::reason_name(reason),
    }
}

/// Satellites by their numbers.
pub(super) fn names(read: &ReadTransaction) -> Result<BTreeMap<u32, String>, SpoolError> {
    let mut out = BTreeMap::new();
    for row in read.open_table(SATELLITES)?.iter()? {
        let (id, value) = row?;
        out.insert(decode::<SatelliteRecord>(value.value())?.number, id.value().to_owned());
    }
    Ok(out)
}
