//! What is known of the ledger when the spool's file is gone, damaged or an older copy: a small file with a checksum beside it.
//!
//! `ledger.json` has the ledger's id, how far the commits are, and of each satellite the counts, the committed ranges, and what
//! was still to be exported. It is written within seconds of a change and when the spool is closed, and before gaps are acknowledged that
//! it does not have, since the satellite may forget them then. A spool that begins without its file goes on from it: nothing is
//! committed twice in one ledger, and what was committed and not exported is a gap of reason `station_lost`. A file that is older than
//! its mirror, because a backup was restored, is brought to what the mirror knows in the same way.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use perigee_proto::link;
use perigee_shared::env::Env;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::Lane;
use perigee_shared::signal::{Counts, Signal, TimeRange};
use perigee_shared::store::mirror;
use perigee_shared::telemetry::Repeats;
use prost::Message;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::contents::Settings;
use super::counters::{Counters, Kind};
use super::error::SpoolError;
use super::file::View;
use super::gaps::{self, Lost};
use super::ledger::{committed_ranges, split_recent};
use super::namesakes;
use super::outlet::{self, settle_signals};
use super::own_gaps::{self, CursorRow, Missing, OwnGaps};
use super::remembered::{self, Part};
use super::tables::*;

/// The file's name in the spool's directory.
pub(super) const FILE: &str = "ledger.json";

/// Why a whole spool beside a mirror of another ledger is set aside, and how it comes back if the mirror is the wrong one. Nobody
/// can tell which one it is: what lies in a spool that was never this station's must not be exported.
pub(super) const OF_ANOTHER_LEDGER: &str = "it is not the ledger to which ledger.json beside it belongs; if the spool is the right \
    one, stop the station, move ledger.json and spool.redb away, give this file the name spool.redb, and start";

/// Epochs of a satellite, and ranges of a lane, that the file has at most: the latest ones. What is left out may be committed
/// a second time if a satellite still has it.
const MOST_EPOCHS: usize = 16;
const MOST_RANGES: usize = 64;

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Mirror {
    ledger: u64,
    /// The next payload number: it grows with every commit.
    commits: u64,
    satellites: BTreeMap<String, Satellite>,
    /// Exporter, satellite number, lane → entry, request, cut.
    cursors: Vec<(String, u32, u8, u64, u64, u64)>,
    /// The spool was closed in order after this: nothing has happened since.
    #[serde(default)]
    closed: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Satellite {
    number: u32,
    next_entry: u64,
    /// Kind, signal, reason → how many.
    counters: Vec<(u8, u8, u8, u64)>,
    epochs: Vec<Epoch>,
    /// Ledgers of other stations that have this one's name.
    #[serde(default)]
    namesakes: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Epoch {
    epoch: u64,
    start_counter: u64,
    started: u64,
    closed: bool,
    lanes: Vec<LaneOf>,
    /// The satellite's latest drops: the records of the file, in hexadecimal digits.
    #[serde(default)]
    drops: Vec<String>,
    /// What this station has lost of it.
    #[serde(default)]
    own_gaps: OwnGaps,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct LaneOf {
    lane: u8,
    next_sequence: u64,
    /// First sequence, the one behind the last, the last one's hash.
    committed: Vec<(u64, u64, [u8; 32])>,
    dropped: Vec<(u64, u64)>,
    /// What was still to be exported: first sequence, the one behind the last, and items by signal.
    waiting: Option<(u64, u64, [u64; 3])>,
    /// The sequences themselves, as far as they fit: first, the one behind the last.
    #[serde(default)]
    waiting_ranges: Vec<(u64, u64)>,
    /// How many items the latest segments have.
    #[serde(default)]
    remembered: Vec<Part>,
}

impl LaneOf {
    /// Items that were still to be exported.
    fn waiting(&self) -> Counts {
        let items = self.waiting.map_or([0; 3], |(_, _, items)| items);
        Signal::ALL.into_iter().zip(items).map(|(s, n)| Counts::of(s, n)).sum()
    }
}

/// How much of the spool is in the file.
#[derive(Default)]
pub(super) struct Mirrored {
    /// Openings and changes up to which everything is.
    at: Option<(u64, u64)>,
    /// When the log had a line about one that could not be written.
    said: Repeats,
}

impl Mirrored {
    /// Everything up to these openings and changes is.
    pub(super) fn at(changes: (u64, u64)) -> Self {
        Self { at: Some(changes), said: Repeats::default() }
    }

    /// Whether everything up to these openings and changes is.
    pub(super) fn is_current(&self, changes: (u64, u64)) -> bool {
        self.at == Some(changes)
    }

    /// Whether everything up to these openings and changes is, and maybe more of this opening.
    pub(super) fn has(&self, (openings, changes): (u64, u64)) -> bool {
        self.at.is_some_and(|(opening, at)| opening == openings && at >= changes)
    }

    pub(super) fn write(&mut self, env: &Env, settings: &Settings, content: &Mirror, changes: (u64, u64)) {
        match write(env, settings, content) {
            Ok(()) => self.at = Some(changes),
            Err(error) => {
                if let Some(times) = self.said.count("") {
                    say_not_written(settings, &error, times);
                }
            }
        }
    }
}

/// Writes the file.
fn write(env: &Env, settings: &Settings, content: &Mirror) -> io::Result<()> {
    mirror::write(env, &settings.directory.join(FILE), content)
}

/// It is tried every few seconds, and the log has a line a minute.
fn say_not_written(settings: &Settings, error: &io::Error, times: u64) {
    let path = settings.directory.join(FILE);
    tracing::warn!(%error, path = %path.display(), times, "the ledger's mirror was not written");
}

/// Writes the file, of a spool that ends here.
pub(super) fn keep(env: &Env, settings: &Settings, view: &View<'_>) {
    if let Ok(now) = draw_up(view)
        && let Err(error) = write(env, settings, &now)
    {
        say_not_written(settings, &error, 1);
    }
}

/// What the file is to say of the spool as it is now.
pub(super) fn draw_up(view: &View<'_>) -> Result<Mirror, SpoolError> {
    let meta = view.tables.open_table(META)?;
    let mut satellites = BTreeMap::new();
    for (number, id) in super::views::names(view.tables)? {
        let key = |kind, signal, reason| CounterKey { satellite: number, kind, signal, reason };
        let mut counters = Vec::new();
        for row in view.tables.open_table(COUNTERS)?.range(key(0, 0, 0)..=key(u8::MAX, u8::MAX, u8::MAX))? {
            let (key, n) = row?;
            counters.push((key.value().kind, key.value().signal, key.value().reason, n.value()));
        }
        let next_entry = meta.get(format!("entry.{number}").as_str())?.map_or(1, |v| v.value());
        let epochs = epochs_of(view, number)?;
        let namesakes = namesakes::in_use(view, &id)?;
        satellites.insert(id, Satellite { number, next_entry, counters, epochs, namesakes });
    }
    let mut cursors = Vec::new();
    for row in view.tables.open_table(CURSORS)?.iter()? {
        let (key, value) = row?;
        let ((exporter, satellite, lane), at) = (key.value(), value.value());
        cursors.push((exporter.to_owned(), satellite, lane, at.entry, at.request, at.cut));
    }
    let commits = meta.get("next_entry")?.map_or(1, |v| v.value());
    Ok(Mirror { ledger: view.contents.ledger, commits, satellites, cursors, closed: false })
}

/// The latest epochs of a satellite. One that was never named in a Hello may have committed segments all the same.
fn epochs_of(view: &View<'_>, satellite: u32) -> Result<Vec<Epoch>, SpoolError> {
    let mut epochs = BTreeMap::<u64, EpochRecord>::new();
    for row in view.tables.open_table(EPOCHS)?.range(EpochKey::all(satellite))? {
        let (key, value) = row?;
        epochs.insert(key.value().epoch, decode(value.value())?);
    }
    let mut lanes = BTreeMap::<u64, BTreeMap<u8, u64>>::new();
    for (epoch, record) in &epochs {
        let said = record.lanes.iter().filter_map(|l| Some((u8::try_from(l.lane).ok()?, l.next_sequence)));
        lanes.insert(*epoch, said.collect());
    }
    let committed = view.tables.open_table(COMMITTED)?;
    for row in committed.range(SequenceKey::satellites(satellite, satellite))? {
        let key = row?.0.value();
        lanes.entry(key.epoch).or_default().entry(key.lane).or_default();
    }
    let mut out = Vec::new();
    for (epoch, lanes) in lanes {
        let record = epochs.remove(&epoch).unwrap_or_default();
        let key = EpochKey { satellite, epoch };
        let known = &record.remembered;
        let lanes = lanes.into_iter().map(|(lane, next)| lane_of(view, key, (lane, next), known));
        out.push(Epoch {
            epoch,
            start_counter: record.start_counter,
            started: record.started,
            closed: record.closed,
            lanes: lanes.collect::<Result<_, _>>()?,
            drops: drops_of(view, key)?,
            own_gaps: own_gaps::draw_up(view, key)?,
        });
    }
    out.sort_by_key(|e| (e.start_counter, e.started));
    Ok(out.split_off(out.len().saturating_sub(MOST_EPOCHS)))
}

/// The latest drops that the satellite has reported of an epoch.
fn drops_of(view: &View<'_>, EpochKey { satellite, epoch }: EpochKey) -> Result<Vec<String>, SpoolError> {
    let key = |id| DropKey { satellite, epoch, id };
    let mut out = Vec::new();
    for row in view.tables.open_table(DROPS)?.range(key(0)..=key(u64::MAX))?.rev() {
        let value = row?.1;
        let reason = decode::<DropRecord>(value.value())?.drop.map(|d| d.reason());
        if reason.is_some_and(|reason| reason != link::DropReason::StationLost) {
            out.push(digits(value.value()));
        }
        if out.len() == MOST_RANGES {
            break;
        }
    }
    Ok(out)
}

/// The hexadecimal digits of a record.
pub(super) fn digits(record: &[u8]) -> String {
    record.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A record in hexadecimal digits.
pub(super) fn read_drop(digits: &str) -> Option<DropRecord> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Vec<u8> = digits.as_bytes().chunks(2).map(byte).collect::<Option<_>>()?;
    decode(&bytes).ok()
}

/// Puts a drop back that the tables do not have.
fn restore_drop(tables: &WriteTransaction, key: EpochKey, digits: &str) -> Result<(), SpoolError> {
    let EpochKey { satellite, epoch } = key;
    let Some(record) = read_drop(digits) else { return Ok(()) };
    let Some(drop) = record.drop else { return Ok(()) };
    let key = DropKey { satellite, epoch, id: drop.id };
    let mut drops = tables.open_table(DROPS)?;
    if drops.get(key)?.is_some() {
        return Ok(());
    }
    drops.insert(key, record.encode_to_vec().as_slice())?;
    if let (Some(range), Ok(lane)) = (drop.sequences, u8::try_from(drop.lane)) {
        let first = SequenceKey { satellite, epoch, lane, sequence: range.start };
        tables.open_table(DROPPED)?.insert(first, DroppedRun { end: range.end, id: drop.id })?;
    }
    Ok(())
}

fn lane_of(
    view: &View<'_>,
    key: EpochKey,
    (lane, next_sequence): (u8, u64),
    known: &[RememberedRecord],
) -> Result<LaneOf, SpoolError> {
    let EpochKey { satellite, epoch } = key;
    let committed = committed_ranges(&view.tables.open_table(COMMITTED)?, satellite, epoch, Lane(lane))?;
    let latest = committed.iter().skip(committed.len().saturating_sub(MOST_RANGES));
    let mut dropped = Vec::new();
    for row in view.tables.open_table(DROPPED)?.range(SequenceKey::lane(satellite, epoch, Lane(lane)))?.rev()
    {
        let (key, run) = row?;
        dropped.push((key.value().sequence, run.value().end));
        if dropped.len() == MOST_RANGES {
            break;
        }
    }
    let waiting = view.contents.waiting.get(&(satellite, epoch, lane));
    let first = SequenceKey { satellite, epoch, lane, sequence: 0 };
    let ranges = waiting.into_iter().flat_map(|left| left.sequences.iter());
    Ok(LaneOf {
        remembered: remembered::parts(&view.tables.open_table(RECENT)?, first, known)?,
        waiting_ranges: ranges.take(MOST_RANGES).map(|r| (r.start, r.end)).collect(),
        lane,
        next_sequence,
        committed: latest.map(|(range, top)| (range.start, range.end, *top)).collect(),
        dropped,
        waiting: waiting.and_then(|left| {
            let (first, last) = (left.sequences.first()?, left.sequences.last()?);
            Some((first, last + 1, Signal::ALL.map(|s| left.items[s])))
        }),
    })
}

/// Begins a ledger in an empty file: goes on with the one that the mirror has, or begins a new one.
pub(super) fn begin(txn: &WriteTransaction, env: &Env, settings: &Settings) -> Result<(), SpoolError> {
    match mirror::read::<Mirror>(env, &settings.directory.join(FILE)) {
        None => {
            txn.open_table(META)?.insert("ledger", env.random() | 1)?;
            Ok(())
        }
        Some(mirror) => {
            tracing::error!(
                event.name = "perigee.spool.restored",
                "the spool's file is missing or damaged; the ledger continues from its mirror, and what was not exported becomes a gap"
            );
            mirror.restore(txn, settings, env.unix_nano(), mirror.closed)
        }
    }
}

/// The ledger that the mirror is of, if there is one.
pub(super) fn ledger(env: &Env, settings: &Settings) -> Option<u64> {
    mirror::read::<Mirror>(env, &settings.directory.join(FILE)).map(|mirror| mirror.ledger)
}

/// Brings a file that is older than its mirror to what the mirror knows.
pub(super) fn catch_up(db: &Database, env: &Env, settings: &Settings) -> Result<(), SpoolError> {
    let Some(mirror) = mirror::read::<Mirror>(env, &settings.directory.join(FILE)) else { return Ok(()) };
    let read = db.begin_read()?;
    let ledger = read.open_table(META)?.get("ledger")?.map_or(0, |v| v.value());
    if ledger != mirror.ledger {
        // What lies in it was never ours to export.
        return Err(SpoolError::damaged(OF_ANOTHER_LEDGER));
    }
    if !is_older(&read, &mirror)? {
        return Ok(());
    }
    drop(read);
    tracing::error!(
        event.name = "perigee.spool.restored",
        "the spool is an older copy of itself; the ledger continues from its mirror, and what the copy lacks becomes a gap"
    );
    let txn = db.begin_write()?;
    mirror.restore(&txn, settings, env.unix_nano(), mirror.closed)?;
    txn.commit()?;
    Ok(())
}

/// Whether the mirror knows of commits or exports that the file does not.
fn is_older(read: &ReadTransaction, mirror: &Mirror) -> Result<bool, SpoolError> {
    if read.open_table(META)?.get("next_entry")?.map_or(1, |v| v.value()) < mirror.commits {
        return Ok(true);
    }
    let counters = read.open_table(COUNTERS)?;
    for satellite in mirror.satellites.values() {
        for (kind, signal, reason, n) in satellite.counters.iter().filter(|c| c.0 == Kind::Exported as u8) {
            let (kind, signal, reason) = (*kind, *signal, *reason);
            let key = CounterKey { satellite: satellite.number, kind, signal, reason };
            if counters.get(key)?.map_or(0, |v| v.value()) < *n {
                return Ok(true);
            }
        }
    }
    let cursors = read.open_table(CURSORS)?;
    for (exporter, satellite, lane, entry, request, cut) in &mirror.cursors {
        let here = cursors.get((exporter.as_str(), *satellite, *lane))?.map(|v| v.value());
        // Under another cut an exporter begins a segment again. A cursor ahead of its lane's, with a colon, may be there no more.
        let is_behind = here.map_or(!exporter.contains(':'), |here| {
            here.cut == *cut && (here.entry, here.request) < (*entry, *request)
        });
        if is_behind {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Mirror {
    /// Whether it mirrors the ledger with this id.
    pub(super) const fn is_of(&self, ledger: u64) -> bool {
        self.ledger == ledger
    }

    /// What the tables themselves know, for a ledger without a mirror.
    pub(super) fn without_file(tables: &WriteTransaction, ledger: u64) -> Result<Self, SpoolError> {
        let mut satellites = BTreeMap::new();
        for row in tables.open_table(SATELLITES)?.iter()? {
            let (id, value) = row?;
            let number = decode::<SatelliteRecord>(value.value())?.number;
            let mut epochs = Vec::new();
            for row in tables.open_table(EPOCHS)?.range(EpochKey::all(number))? {
                let (key, value) = row?;
                let EpochRecord { start_counter, started, closed, .. } = decode(value.value())?;
                let (epoch, lanes, drops) = (key.value().epoch, Vec::new(), Vec::new());
                let own_gaps = OwnGaps::default();
                epochs.push(Epoch { epoch, start_counter, started, closed, lanes, drops, own_gaps });
            }
            epochs.sort_by_key(|e| (e.start_counter, e.started));
            let (counters, namesakes) = (Vec::new(), Vec::new());
            let satellite = Satellite { number, next_entry: 1, counters, epochs, namesakes };
            satellites.insert(id.value().to_owned(), satellite);
        }
        Ok(Self { ledger, commits: 1, satellites, cursors: Vec::new(), closed: false })
    }

    /// Takes out what satellites have told of drops since this was written, of which some is lost: they tell all of that again, and what
    /// was counted of it would be counted twice.
    pub(super) fn forget_later_drops(&self, tables: &WriteTransaction) -> Result<(), SpoolError> {
        let listed = |digits: &String| Some(read_drop(digits)?.drop?.id).filter(|id| gaps::is_told(*id));
        for Satellite { number: satellite, epochs, .. } in self.satellites.values() {
            let satellite = *satellite;
            let latest: BTreeMap<u64, u64> = epochs
                .iter()
                .filter_map(|of| Some((of.epoch, of.drops.iter().filter_map(listed).max()?)))
                .collect();
            let drop = |epoch, id| DropKey { satellite, epoch, id };
            tables.open_table(DROPS)?.retain_in(drop(0, 0)..=drop(u64::MAX, u64::MAX), |key, _| {
                !gaps::is_told(key.id) || latest.get(&key.epoch).is_some_and(|latest| key.id <= *latest)
            })?;
            let of = |signal, reason| CounterKey { satellite, kind: Kind::Dropped as u8, signal, reason };
            tables.open_table(COUNTERS)?.retain_in(of(0, 0)..=of(u8::MAX, u8::MAX), |_, _| false)?;
        }
        Ok(())
    }

    /// Takes in what the file says; of a satellite that both have, the file's word counts.
    pub(super) fn know(&mut self, file: Option<Self>) {
        if let Some(file) = file {
            self.satellites.extend(file.satellites);
            (self.ledger, self.commits) = (file.ledger, file.commits);
            (self.cursors, self.closed) = (file.cursors, file.closed);
        }
    }

    /// Whether the spool was closed in order after this was written.
    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// The same, of a spool that is being closed.
    pub(super) const fn at_the_end(mut self) -> Self {
        self.closed = true;
        self
    }

    /// Takes into the tables what the mirror knows and they do not. `exact`: nothing was exported that neither of them knows.
    pub(super) fn restore(
        &self,
        tables: &WriteTransaction,
        settings: &Settings,
        now: u64,
        exact: bool,
    ) -> Result<(), SpoolError> {
        let mut meta = tables.open_table(META)?;
        meta.insert("ledger", self.ledger)?;
        let last = self.satellites.values().map(|s| u64::from(s.number)).max().unwrap_or(0);
        let mut at_least =
            vec![("next_entry".to_owned(), self.commits), ("next_satellite".to_owned(), last + 1)];
        at_least.extend(self.satellites.values().map(|s| (format!("entry.{}", s.number), s.next_entry)));
        for (name, n) in at_least {
            let before = meta.get(name.as_str())?.map_or(1, |v| v.value());
            meta.insert(name.as_str(), n.max(before))?;
        }
        drop(meta);
        let passed = own_gaps::cursors(tables)?;
        let mut cursors = tables.open_table(CURSORS)?;
        for (exporter, satellite, lane, entry, request, cut) in &self.cursors {
            let key = (exporter.as_str(), *satellite, *lane);
            let before = cursors.get(key)?.map(|v| v.value());
            if before.is_none_or(|before| (before.entry, before.request) < (*entry, *request)) {
                cursors.insert(key, Cursor { entry: *entry, request: *request, cut: *cut })?;
            }
        }
        drop(cursors);
        for (id, satellite) in &self.satellites {
            let missing = restore_ledger(tables, id, satellite, self.commits)?;
            restore_account(tables, satellite, settings, now, (exact, missing, &passed))?;
        }
        Ok(())
    }
}

fn restore_ledger(
    tables: &WriteTransaction,
    id: &str,
    satellite: &Satellite,
    commits: u64,
) -> Result<Missing, SpoolError> {
    let mut satellites = tables.open_table(SATELLITES)?;
    if satellites.get(id)?.is_none() {
        // How much they had acknowledged is not known; whatever it is now is more.
        let in_use = |ledger: &u64| NamesakeRecord { ledger: *ledger, marks: Vec::new(), heard: 1 };
        let namesakes = satellite.namesakes.iter().map(in_use).collect();
        let record = SatelliteRecord { number: satellite.number, namesakes, ..SatelliteRecord::default() };
        satellites.insert(id, record.encode_to_vec().as_slice())?;
    }
    let mut missing = Missing::default();
    for epoch in &satellite.epochs {
        let key = EpochKey { satellite: satellite.number, epoch: epoch.epoch };
        let mut epochs = tables.open_table(EPOCHS)?;
        let parts = epoch.lanes.iter().flat_map(|of| of.remembered.iter().map(|part| (of.lane, *part)));
        let remembered: Vec<_> = parts.map(|(lane, part)| remembered::record(lane, part)).collect();
        let known = epochs.get(key)?.map(|v| decode::<EpochRecord>(v.value())).transpose()?;
        if let Some(known) = known {
            epochs.insert(key, EpochRecord { remembered, ..known }.encode_to_vec().as_slice())?;
        } else {
            let lane = |l: &LaneOf| link::Lane {
                lane: u32::from(l.lane),
                next_sequence: l.next_sequence,
                ..link::Lane::default()
            };
            let record = EpochRecord {
                start_counter: epoch.start_counter,
                started: epoch.started,
                closed: epoch.closed,
                lanes: epoch.lanes.iter().map(lane).collect(),
                next_entry: commits,
                twice: Vec::new(),
                remembered,
            };
            epochs.insert(key, record.encode_to_vec().as_slice())?;
        }
        for digits in &epoch.drops {
            restore_drop(tables, key, digits)?;
        }
        missing.add(tables, key, &epoch.own_gaps)?;
        for lane in &epoch.lanes {
            restore_lane(tables, key, lane)?;
        }
    }
    Ok(missing)
}

fn restore_lane(tables: &WriteTransaction, key: EpochKey, lane: &LaneOf) -> Result<(), SpoolError> {
    let mut committed = tables.open_table(COMMITTED)?;
    let all = committed_ranges(&committed, key.satellite, key.epoch, Lane(lane.lane))?;
    let mut all: Vec<(u64, u64, [u8; 32])> = all.into_iter().map(|(r, top)| (r.start, r.end, top)).collect();
    all.extend(&lane.committed);
    all.sort_unstable_by_key(|(start, end, _)| (*start, *end));
    let first = SequenceKey { satellite: key.satellite, epoch: key.epoch, lane: lane.lane, sequence: 0 };
    committed.retain_in(first..=first.at(u64::MAX), |_, _| false)?;
    let mut joined: Vec<(u64, u64, [u8; 32])> = Vec::new();
    for (start, end, top) in all {
        match joined.last_mut() {
            Some((_, last, _)) if *last >= end => {}
            Some((_, last, of)) if *last >= start => (*last, *of) = (end, top),
            _ => joined.push((start, end, top)),
        }
    }
    for (start, end, top) in joined {
        committed.insert(first.at(start), Run { end, top })?;
    }
    let mut dropped = tables.open_table(DROPPED)?;
    for (start, end) in &lane.dropped {
        if dropped.get(first.at(*start))?.is_none() {
            dropped.insert(first.at(*start), DroppedRun { end: *end, id: 0 })?;
        }
    }
    Ok(())
}

/// Brings the counts of a satellite to what the mirror knows; what is not in the file and was not exported is lost.
fn restore_account(
    tables: &WriteTransaction,
    satellite: &Satellite,
    settings: &Settings,
    now: u64,
    (exact, mut missing, passed): (bool, Missing, &[CursorRow]),
) -> Result<(), SpoolError> {
    let number = satellite.number;
    let begun = begun_and_missing(tables, satellite, settings)?;
    let (here, returned) = settle(tables, number, settings, &mut missing, passed)?;
    missing.take_back(tables, number)?;
    let mut counters = Counters::of(tables, number)?;
    for (kind, signal, reason, n) in &satellite.counters {
        if ![Kind::DeadLettered as u8, Kind::Lost as u8].contains(kind) {
            counters.change(*kind, *signal, *reason, |before| before.max(*n))?;
        }
    }
    gaps::count(tables, &mut counters, number)?;
    let mut known: Counts = here.values().map(|(items, _)| *items).sum();
    known += returned;
    for kind in [Kind::Exported, Kind::DeadLettered, Kind::Lost] {
        known += counters.items(kind)?;
    }
    let lost_before = counters.items(Kind::Lost)?;
    // Pages of several commits may have come together: what is known of a segment was committed.
    let counted = counters.items(Kind::Committed)?;
    let committed = counted.max(known).max(recently_committed(tables, number)?);
    let exact = exact && committed == counted && !missing.at_most();
    counters.add(Kind::Committed, 0, committed.saturating_sub(counted))?;
    drop(counters);
    missing.record(tables, committed.saturating_sub(known))?;
    let known = known.saturating_sub(lost_before) + Counters::of(tables, number)?.items(Kind::Lost)?;
    let mut lost = committed.saturating_sub(known);
    let time = TimeRange::EMPTY;
    for epoch in satellite.epochs.iter().rev() {
        for of in &epoch.lanes {
            let Some((start, end, _)) = of.waiting else { continue };
            let waited = of.waiting();
            let (have, sequences) = here.get(&(epoch.epoch, of.lane)).cloned().unwrap_or_default();
            let items = waited.saturating_sub(have).min(lost);
            let mut missing: RangeSet = std::iter::once(start..end).collect();
            sequences.iter().for_each(|r| missing.remove(r));
            if items.total() > 0 {
                lost = lost.saturating_sub(items);
                let mut again: RangeSet = of.waiting_ranges.iter().map(|(start, end)| *start..*end).collect();
                sequences.iter().for_each(|r| again.remove(r));
                let sequences = missing.first().zip(missing.last()).map(|(s, e)| s..e + 1);
                let (epoch, lane, items) = (epoch.epoch, of.lane, Some(items));
                let exact = exact && !begun.contains(&lane);
                gaps::lose(
                    tables,
                    now,
                    Lost { satellite: number, epoch, lane, sequences, items, exact, time, again },
                )?;
            }
        }
    }
    if lost.total() > 0 {
        // Dead letters, and gaps that the lost file had.
        let (epoch, lane) =
            satellite.epochs.last().map_or((0, 0), |e| (e.epoch, e.lanes.first().map_or(0, |l| l.lane)));
        let (sequences, items, again) = (None, Some(lost), RangeSet::default());
        gaps::lose(
            tables,
            now,
            Lost { satellite: number, epoch, lane, sequences, items, exact, time, again },
        )?;
    }
    Ok(())
}

/// Those lanes in which exporters have a part of a segment that is not in the file: it waited as a whole.
fn begun_and_missing(
    tables: &WriteTransaction,
    Satellite { number: satellite, epochs, .. }: &Satellite,
    settings: &Settings,
) -> Result<BTreeSet<u8>, SpoolError> {
    let (cursors, entries) = (tables.open_table(CURSORS)?, tables.open_table(ENTRIES)?);
    let mut out = BTreeSet::new();
    for of in epochs.iter().flat_map(|epoch| &epoch.lanes) {
        let (satellite, lane) = (*satellite, of.lane);
        for entry in outlet::in_part(&cursors, settings, (satellite, lane), of.waiting().signals())? {
            if entries.get(EntryKey { satellite, lane, entry })?.is_none() {
                out.insert(lane);
            }
        }
    }
    Ok(out)
}

/// Items of the segments whose counts are still remembered.
fn recently_committed(tables: &WriteTransaction, satellite: u32) -> Result<Counts, SpoolError> {
    let mut out = Counts::ZERO;
    for row in tables.open_table(RECENT)?.range(SequenceKey::satellites(satellite, satellite))? {
        out += split_recent(row?.1.value()).map_or(Counts::ZERO, |(_, counts)| counts);
    }
    Ok(out)
}

/// By epoch and lane, what the file still has to be exported of a satellite.
type Here = BTreeMap<(u64, u8), (Counts, RangeSet)>;

/// Settles the entries of a satellite that cursors have passed, without what is in gaps and so was not exported. Returns what is still
/// to be exported, and how much of it is in these gaps no more.
fn settle(
    tables: &WriteTransaction,
    satellite: u32,
    settings: &Settings,
    missing: &mut Missing,
    passed: &[CursorRow],
) -> Result<(Here, Counts), SpoolError> {
    let first = EntryKey { satellite, lane: 0, entry: 0 };
    let last = EntryKey { satellite, lane: u8::MAX, entry: u64::MAX };
    let mut entries = Vec::new();
    for row in tables.open_table(ENTRIES)?.range(first..=last)? {
        let (key, value) = row?;
        entries.push((key.value(), decode::<SegmentRecord>(value.value())?));
    }
    let (mut here, mut returned) = (Here::new(), Counts::ZERO);
    for (at, mut record) in entries {
        let id = record.header()?.id;
        let lost = missing.of(id);
        // Without an exporter nothing was passed.
        if !settings.routes.is_empty() {
            record = settle_signals(tables, settings, at, record, lost)?.1;
        }
        let open = record.open();
        if !lost.is_empty() && open.total() > 0 {
            missing.withdraw(id, open, passed, satellite);
            returned += open;
        } else if open.total() > 0 {
            let (items, sequences) = here.entry((id.epoch, id.lane.0)).or_default();
            *items += open;
            sequences.insert(id.sequence..id.sequence + 1);
        }
    }
    Ok((here, returned))
}
