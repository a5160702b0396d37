//! The way out: each exporter has a durable cursor of its own in every lane of a satellite; what all of a signal's exporters have
//! passed is exported. Exporters take lanes by their urgency ([`Turns`]), and of a lane, over all satellites, segments in the order
//! of their commits.
//!
//! A lane has one cursor for each exporter. While a request of one signal is put aside, that cursor stays with it, and the others
//! have cursors of their own ahead of it ([`ahead`]); once it is decided the lane's cursor goes on, past what is done already.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use perigee_shared::segment::Header;
use perigee_shared::signal::{Counts, Signal, SignalSet};
use prost::Message;
use redb::{ReadableTable, WriteTransaction};

use super::alarms;
use super::archive;
use super::bases;
use super::catalogue;
use super::contents::{Effect, Kept, Settings};
use super::counters::{Counters, Kind};
use super::error::SpoolError;
use super::file::{Spool, Txn, View};
use super::gaps::{self, Lost};
use super::letters::{self, Letter};
use super::tables::*;
use super::turns::Turns;

/// Finished entries that are deleted together, at most.
const SWEEP: usize = 64;

/// A committed segment that is still to be exported, as its exporters name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(pub(super) EntryKey);

impl Place {
    /// Where no segment is.
    pub const NOWHERE: Self = Self(EntryKey { satellite: 0, lane: 0, entry: 0 });

    /// The lane that it is in, as a satellite's number and the lane's.
    pub const fn lane(self) -> (u32, u8) {
        (self.0.satellite, self.0.lane)
    }
}

/// The first request of each signal that an exporter has to send of a segment; of a signal that it is to leave alone, none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct First([Option<u64>; 3]);

impl First {
    /// Of these signals every request from this one on is to be sent.
    pub(super) fn from(signals: SignalSet, request: u64) -> Self {
        Self(std::array::from_fn(|slot| {
            signals.iter().any(|signal| signal.slot() == slot).then_some(request)
        }))
    }

    /// No request of this signal before this one is to be sent.
    pub fn of(self, signal: Signal) -> u64 {
        self.0[signal.slot()].unwrap_or(u64::MAX)
    }

    /// No request of any signal before this one is to be sent.
    pub fn least(self) -> u64 {
        self.0.into_iter().flatten().min().unwrap_or(u64::MAX)
    }

    /// Those that it is to send.
    pub fn signals(self) -> SignalSet {
        let all = Signal::ALL.into_iter().filter(|s| self.0[s.slot()].is_some());
        all.fold(SignalSet::default(), SignalSet::with)
    }
}

/// What an exporter has done.
#[derive(Debug, Clone)]
pub struct Progress {
    /// The segment.
    pub place: Place,
    /// The first request of it that is not done.
    pub request: u64,
    /// The fingerprint of the cut that numbers the requests.
    pub fingerprint: u64,
    /// The signals that are done so far; all, unless some are put aside.
    pub signals: SignalSet,
    /// Items of the request that was sent.
    pub items: u64,
    /// All of it is done.
    pub finished: bool,
    /// What the backend refused for good.
    pub letters: Vec<Letter>,
    /// Items that the backend took and rejected.
    pub rejected: Counts,
}

impl Progress {
    /// Nothing is done yet of the segment at `place`.
    pub fn at(place: Place, fingerprint: u64) -> Self {
        Self {
            place,
            request: 0,
            fingerprint,
            signals: SignalSet::ALL,
            items: 0,
            finished: false,
            letters: Vec::new(),
            rejected: Counts::ZERO,
        }
    }

    /// Whether it is about every signal that `exporter` gets.
    pub(super) fn is_of_all(&self, exporter: &str, settings: &Settings) -> bool {
        settings.routes.get(exporter).is_none_or(|all| all.without(self.signals).is_empty())
    }

    /// Whether this was done before, as a position says.
    const fn is_behind(&self, at: Position) -> bool {
        let entry = self.place.0.entry;
        at.entry > entry || at.entry == entry && !self.finished && at.request >= self.request
    }
}

/// How far somebody is in a lane: which request of which entry is the first that is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Position {
    pub(super) entry: u64,
    pub(super) request: u64,
}

impl Position {
    /// What a cursor says. Under another cut its number means nothing: the segment is sent from its beginning.
    pub(super) const fn of(cursor: Cursor, fingerprint: u64) -> Self {
        let request = if cursor.cut == fingerprint { cursor.request } else { 0 };
        Self { entry: cursor.entry, request }
    }
}

/// How far an exporter is in a lane.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reached {
    /// With everything.
    pub(super) lane: Position,
    /// Ahead of that, with a signal.
    pub(super) ahead: [Position; 3],
}

impl Reached {
    /// Asks for the cursors of an exporter in a lane.
    pub(super) fn read(
        exporter: &str,
        fingerprint: u64,
        cursor: impl Fn(&str) -> Result<Option<Cursor>, SpoolError>,
    ) -> Result<Self, SpoolError> {
        let position = |name: &str| -> Result<Position, SpoolError> {
            Ok(cursor(name)?.map_or_else(Position::default, |c| Position::of(c, fingerprint)))
        };
        let mut reached = Self { lane: position(exporter)?, ahead: Default::default() };
        for signal in Signal::ALL {
            reached.ahead[signal.slot()] = position(&ahead(exporter, signal))?;
        }
        Ok(reached)
    }

    pub(super) fn of(&self, signal: Signal) -> Position {
        self.lane.max(self.ahead[signal.slot()])
    }

    /// With all of these.
    pub(super) fn least(&self, signals: SignalSet) -> Position {
        signals.iter().map(|signal| self.of(signal)).min().unwrap_or(self.lane)
    }

    /// What is to be sent of an entry of these signals.
    pub(super) fn first(&self, entry: u64, wanted: SignalSet) -> First {
        let mut first = First([None; 3]);
        for signal in wanted.iter() {
            let at = self.of(signal);
            let done = match at.entry.cmp(&entry) {
                Ordering::Less => 0,
                Ordering::Equal => at.request,
                Ordering::Greater => u64::MAX,
            };
            first.0[signal.slot()] = Some(done);
        }
        first
    }
}

/// What a cursor ahead of its lane's is called.
pub(super) fn ahead(exporter: &str, signal: Signal) -> String {
    // No exporter has a colon in its name.
    format!("{exporter}:{}", signal.name())
}

/// A segment that an exporter has to send next.
pub(super) struct Found {
    pub(super) place: Place,
    pub(super) satellite: String,
    /// The station that committed it; empty: it is not known.
    pub(super) station: String,
    pub(super) header: Header,
    pub(super) payload: u64,
    /// What is to be sent of it.
    pub(super) first: First,
}

/// The next entry of a lane that an exporter has to look at.
#[derive(Clone, Copy, Default)]
struct Seek {
    /// No entry before this one is for it.
    from: u64,
    /// The payload number of the entry `from`, once it was found.
    payload: Option<u64>,
}

/// Of each lane of a satellite.
type Seeks = BTreeMap<(u32, u8), Seek>;

/// What an exporter is not handed for now: signals, by lane.
#[derive(Default)]
pub(super) struct LeftOut {
    signals: BTreeMap<(u32, u8), SignalSet>,
    /// Every other lane.
    but: Option<(u32, u8)>,
}

impl LeftOut {
    /// These, of the lane of `place`, in place of those before.
    pub(super) fn set(&mut self, place: Place, signals: SignalSet) {
        match signals.is_empty() {
            true => self.signals.remove(&place.lane()),
            false => self.signals.insert(place.lane(), signals),
        };
    }

    /// Every lane but that of `place`, from now on.
    pub(super) fn all_but(&mut self, place: Place) {
        self.but = Some(place.lane());
    }

    /// Whether anything of this lane is left out.
    pub(super) fn has(&self, lane: (u32, u8)) -> bool {
        self.signals.contains_key(&lane)
    }

    /// Of these signals, those that are not left out of this lane.
    pub(super) fn wanted(&self, lane: (u32, u8), signals: SignalSet) -> SignalSet {
        if self.but.is_some_and(|but| but != lane) {
            return SignalSet::default();
        }
        signals.without(self.signals.get(&lane).copied().unwrap_or_default())
    }
}

/// Where an exporter is, in memory.
#[derive(Default)]
struct Search {
    /// How far its lanes were looked through. Entries only come at the end, so what was looked at once need not be again.
    seeks: Seeks,
    turns: Turns,
    aside: LeftOut,
}

/// By exporter.
#[derive(Default)]
pub(super) struct Searched(Mutex<BTreeMap<String, Search>>);

fn cursor(
    table: &impl ReadableTable<(&'static str, u32, u8), Cursor>,
    exporter: &str,
    at: EntryKey,
) -> Result<Option<Cursor>, SpoolError> {
    Ok(table.get((exporter, at.satellite, at.lane))?.map(|v| v.value()))
}

fn reached(
    table: &impl ReadableTable<(&'static str, u32, u8), Cursor>,
    exporter: &str,
    at: EntryKey,
    fingerprint: u64,
) -> Result<Reached, SpoolError> {
    Reached::read(exporter, fingerprint, |name| cursor(table, name, at))
}

/// Leaves `signals` out of what `exporter` is handed of the lane of `place`, in place of those before.
pub(super) fn put_aside(searched: &Searched, exporter: &str, place: Place, signals: SignalSet) {
    let mut searched = searched.0.lock().unwrap_or_else(PoisonError::into_inner);
    let search = searched.entry(exporter.to_owned()).or_default();
    // What was left out before begins further back.
    search.seeks.remove(&place.lane());
    search.aside.set(place, signals);
}

/// Hands nothing but the lane of `place` to `exporter` from now on.
pub(super) fn only(searched: &Searched, exporter: &str, place: Place) {
    let mut searched = searched.0.lock().unwrap_or_else(PoisonError::into_inner);
    searched.entry(exporter.to_owned()).or_default().aside.all_but(place);
}

/// The next segment with one of `signals` for `exporter`, whose requests are numbered by `fingerprint`.
pub(super) fn next(
    view: &View<'_>,
    exporter: &str,
    signals: SignalSet,
    fingerprint: u64,
) -> Result<Option<Found>, SpoolError> {
    let entries = view.tables.open_table(ENTRIES)?;
    let cursors = view.tables.open_table(CURSORS)?;
    let mut searched = view.contents.searched.0.lock().unwrap_or_else(PoisonError::into_inner);
    let Search { seeks: lanes, turns, aside } = searched.entry(exporter.to_owned()).or_default();
    loop {
        // By the number of a lane: what was committed first.
        let mut first = BTreeMap::<u8, (u64, EntryKey)>::new();
        for (of, last) in &view.contents.lanes {
            let (satellite, lane) = of;
            let wanted = aside.wanted(*of, signals);
            if wanted.is_empty() {
                continue;
            }
            let seek = lanes.entry(*of).or_default();
            let at = EntryKey { satellite: *satellite, lane: *lane, entry: seek.from };
            if seek.payload.is_none() && seek.from <= *last {
                let done = reached(&cursors, exporter, at, fingerprint)?.least(wanted).entry;
                let from = EntryKey { entry: seek.from.max(done), ..at };
                *seek = match entries.range(from.and_later())?.next().transpose()? {
                    None => Seek { from: last + 1, payload: None },
                    Some((key, value)) => Seek {
                        from: key.value().entry,
                        payload: Some(decode::<SegmentRecord>(value.value())?.payload),
                    },
                };
            }
            if let Some(payload) = seek.payload
                && first.get(lane).is_none_or(|(least, _)| payload < *least)
            {
                first.insert(*lane, (payload, EntryKey { entry: seek.from, ..at }));
            }
        }
        let Some(lane) = turns.next(&first.keys().copied().collect::<BTreeSet<_>>()) else { return Ok(None) };
        let (payload, at) = first[&lane];
        let wanted = aside.wanted((at.satellite, at.lane), signals);
        let done = reached(&cursors, exporter, at, fingerprint)?;
        let record = entries.get(at)?.map(|v| decode::<SegmentRecord>(v.value())).transpose()?;
        let is_open =
            |r: &SegmentRecord| done.least(wanted).entry <= at.entry && r.open().signals().intersects(wanted);
        let Some(record) = record.filter(is_open) else {
            lanes.insert((at.satellite, at.lane), Seek { from: at.entry + 1, payload: None });
            continue;
        };
        let (header, first) = (record.header()?, done.first(at.entry, wanted));
        let SegmentRecord { satellite, station, .. } = record;
        return Ok(Some(Found { place: Place(at), satellite, station, header, payload, first }));
    }
}

/// Moves the cursor of `exporter` and keeps what its backend refused. What was done before is not done again: a transaction that
/// has failed may be there all the same.
pub(super) fn progress(txn: &mut Txn<'_>, exporter: &str, progress: &Progress) -> Result<(), SpoolError> {
    let at = progress.place.0;
    let Some(record) = entry(txn, at)? else { return Ok(()) };
    let before = reached(&txn.tables.open_table(CURSORS)?, exporter, at, progress.fingerprint)?;
    if progress.is_behind(before.least(progress.signals)) {
        return Ok(());
    }
    let mut searched = txn.contents.searched.0.lock().unwrap_or_else(PoisonError::into_inner);
    searched.entry(exporter.to_owned()).or_default().turns.sent(at.lane, progress.items);
    drop(searched);
    let mut dead = Counts::ZERO;
    for letter in &progress.letters {
        dead += letter.items;
        letters::insert(txn, &record, exporter, letter)?;
    }
    if dead.total() > 0 {
        let mut table = txn.tables.open_table(ENTRY_DEAD)?;
        let key = (record.payload, exporter);
        let before = table.get(key)?.and_then(|v| Counts::from_bytes(v.value()));
        table.insert(key, &(before.unwrap_or_default() + dead).to_bytes())?;
    }
    Counters::of(txn.tables, at.satellite)?.add(Kind::Rejected, 0, progress.rejected)?;
    let (entry, request) = if progress.finished { (at.entry + 1, 0) } else { (at.entry, progress.request) };
    let cursor = Cursor { entry, request, cut: progress.fingerprint };
    let here = Position { entry, request };
    let mut cursors = txn.tables.open_table(CURSORS)?;
    let all = progress.is_of_all(exporter, &txn.contents.settings);
    if all {
        cursors.insert((exporter, at.satellite, at.lane), cursor)?;
    }
    for signal in Signal::ALL {
        let (name, there) = (ahead(exporter, signal), before.ahead[signal.slot()]);
        let key = (name.as_str(), at.satellite, at.lane);
        if all && there != Position::default() && there <= here {
            cursors.remove(key)?;
        } else if !all && progress.signals.contains(signal) && there < here {
            cursors.insert(key, cursor)?;
        }
    }
    drop(cursors);
    if !progress.finished {
        return Ok(());
    }
    if let Some((services, found)) = txn.contents.decoded.take_learnt(record.payload) {
        catalogue::name_services(txn, record.payload, &services)?;
        alarms::note(txn, at.satellite, &found.committed(record.committed))?;
    }
    settle(txn, at, record)
}

/// Whether every exporter of a signal has passed an entry.
fn is_passed(
    cursors: &impl ReadableTable<(&'static str, u32, u8), Cursor>,
    settings: &Settings,
    at: EntryKey,
    signal: Signal,
) -> Result<bool, SpoolError> {
    for exporter in settings.exporters_of(signal) {
        if reached(cursors, exporter, at, 0)?.of(signal).entry <= at.entry {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The entries of a lane of which every exporter of one of `signals` has a part, and one of them no more: some of it is exported, and only
/// a cut could tell how many items.
pub(super) fn in_part(
    cursors: &impl ReadableTable<(&'static str, u32, u8), Cursor>,
    settings: &Settings,
    (satellite, lane): (u32, u8),
    signals: SignalSet,
) -> Result<BTreeSet<u64>, SpoolError> {
    let at = EntryKey { satellite, lane, entry: 0 };
    // A request is done under whatever cut.
    let any_cut = |name: &str| Ok(cursor(cursors, name, at)?.map(|of| Cursor { cut: 0, ..of }));
    let mut entries = BTreeSet::new();
    for signal in signals.iter() {
        let reached =
            settings.exporters_of(signal).map(|name| Ok(Reached::read(name, 0, any_cut)?.of(signal)));
        let least = reached.collect::<Result<Vec<_>, SpoolError>>()?.into_iter().min();
        entries.extend(least.filter(|least| least.request > 0).map(|least| least.entry));
    }
    Ok(entries)
}

/// Counts the signals of an entry that every exporter has passed, without those that `keep` has; which items those are, and what is written down of the entry.
pub(super) fn settle_signals(
    tables: &WriteTransaction,
    settings: &Settings,
    at: EntryKey,
    mut record: SegmentRecord,
    keep: SignalSet,
) -> Result<(Counts, SegmentRecord), SpoolError> {
    let open = record.open();
    let mut settled = Counts::ZERO;
    let cursors = tables.open_table(CURSORS)?;
    let dead = tables.open_table(ENTRY_DEAD)?;
    let mut counters = Counters::of(tables, at.satellite)?;
    for signal in open.signals().iter() {
        if keep.contains(signal) || !is_passed(&cursors, settings, at, signal)? {
            continue;
        }
        let mut refused = 0;
        for exporter in settings.exporters_of(signal) {
            let of = dead.get((record.payload, exporter))?.and_then(|v| Counts::from_bytes(v.value()));
            // Of several exporters that refused, nobody knows whether it was the same items.
            refused = refused.max(of.map_or(0, |counts| counts[signal]));
        }
        let refused = refused.min(open[signal]);
        record.settled |= 1 << signal as u8;
        settled += Counts::of(signal, open[signal]);
        counters.add(Kind::DeadLettered, 0, Counts::of(signal, refused))?;
        counters.add(Kind::Exported, 0, Counts::of(signal, open[signal] - refused))?;
    }
    if settled.total() > 0 {
        tables.open_table(ENTRIES)?.insert(at, record.encode_to_vec().as_slice())?;
    }
    Ok((settled, record))
}

fn settle(txn: &mut Txn<'_>, at: EntryKey, record: SegmentRecord) -> Result<(), SpoolError> {
    let (items, record) =
        settle_signals(txn.tables, &txn.contents.settings, at, record, SignalSet::default())?;
    let whole = record.is_finished();
    let segment = SequenceKey::new(at.satellite, record.header()?.id);
    txn.effects.push(Effect::Left { entry: at, segment, items, whole });
    Ok(())
}

/// Settles those entries in the tables that the exporters of this configuration have passed.
pub(super) fn settle_passed(txn: &mut Txn<'_>) -> Result<(), SpoolError> {
    let mut all = Vec::new();
    for row in txn.tables.open_table(ENTRIES)?.iter()? {
        let (key, value) = row?;
        all.push((key.value(), decode::<SegmentRecord>(value.value())?));
    }
    all.into_iter().try_for_each(|(at, record)| settle(txn, at, record))
}

/// An exporter was taken out of the configuration.
pub(super) fn say_given_up() {
    tracing::warn!(
        event.name = "perigee.exporter.given_up",
        "segments waited for an exporter that is not configured any more: they are given up for it, and leave the spool when \
         the others have them"
    );
}

/// Settles what the exporters of this configuration have passed: one may have been taken out of it.
pub(super) fn settle_all(spool: &mut Spool) -> Result<(), SpoolError> {
    let passed = spool.read(|view| {
        let (settings, cursors) = (&view.contents.settings, view.tables.open_table(CURSORS)?);
        let mut passed = Vec::new();
        if settings.routes.is_empty() {
            return Ok(passed);
        }
        for row in view.tables.open_table(ENTRIES)?.iter()? {
            let (key, value) = row?;
            for signal in decode::<SegmentRecord>(value.value())?.open().signals().iter() {
                if is_passed(&cursors, settings, key.value(), signal)? {
                    passed.push(key.value());
                    break;
                }
            }
        }
        Ok(passed)
    })?;
    if !passed.is_empty() {
        say_given_up();
    }
    for part in passed.chunks(SWEEP) {
        spool.write(|txn| {
            for at in part {
                if let Some(record) = entry(txn, *at)? {
                    settle(txn, *at, record)?;
                }
            }
            Ok(())
        })?;
    }
    sweep(spool)
}

/// Whether there are enough finished entries for them to be deleted.
pub(super) fn is_due(spool: &Spool) -> bool {
    spool.contents().finished.len() >= SWEEP
}

/// Deletes finished entries, many at a time; one alone would rewrite its neighbours.
pub(super) fn sweep(spool: &mut Spool) -> Result<(), SpoolError> {
    let any = !spool.contents().finished.is_empty();
    while !spool.contents().finished.is_empty() {
        spool.write(|txn| {
            let part: Vec<EntryKey> = txn.contents.finished.iter().take(SWEEP).copied().collect();
            part.into_iter().try_for_each(|at| finish(txn, at))
        })?;
    }
    if any { bases::sweep(spool) } else { Ok(()) }
}

/// Deletes the entries among those in the tables that everybody is done with.
pub(super) fn delete_finished(txn: &mut Txn<'_>) -> Result<(), SpoolError> {
    let mut finished = Vec::new();
    for row in txn.tables.open_table(ENTRIES)?.iter()? {
        let (key, value) = row?;
        if decode::<SegmentRecord>(value.value())?.is_finished() {
            finished.push(key.value());
        }
    }
    finished.into_iter().try_for_each(|at| finish(txn, at))
}

/// Puts a whole segment that does not decode into dead-letter.
pub(super) fn condemn(txn: &mut Txn<'_>, place: Place, reason: &str) -> Result<(), SpoolError> {
    let Some(record) = entry(txn, place.0)? else { return Ok(()) };
    let open = record.open();
    Counters::of(txn.tables, record.number)?.add(Kind::DeadLettered, 0, open)?;
    letters::insert_segment(txn, &record, open, reason)?;
    leave(txn, place.0, &record)
}

/// What is lost with an entry: of one that every exporter has a part of, its items at most.
pub(super) fn lost(
    tables: &WriteTransaction,
    settings: &Settings,
    at: EntryKey,
    record: &SegmentRecord,
    header: &Header,
) -> Result<Lost, SpoolError> {
    let open = record.open();
    let begun = in_part(&tables.open_table(CURSORS)?, settings, (at.satellite, at.lane), open.signals())?;
    Ok(Lost { exact: !begun.contains(&at.entry), ..Lost::segment(record.number, header, open) })
}

/// Removes a segment whose bytes are not what was committed; what was not exported of it becomes a gap.
pub(super) fn lose(txn: &mut Txn<'_>, place: Place) -> Result<(), SpoolError> {
    let Some(record) = entry(txn, place.0)? else { return Ok(()) };
    let header = record.header()?;
    tracing::error!(
        event.name = "perigee.spool.lost",
        satellite = record.satellite,
        segment = %header.id,
        "a committed segment is damaged on this disk; it is removed, and what was not exported of it is a gap"
    );
    let lost = lost(txn.tables, &txn.contents.settings, place.0, &record, &header)?;
    gaps::lose(txn.tables, txn.now, lost)?;
    leave(txn, place.0, &record)
}

/// Takes an entry out that nobody will pass.
fn leave(txn: &mut Txn<'_>, at: EntryKey, record: &SegmentRecord) -> Result<(), SpoolError> {
    let segment = SequenceKey::new(at.satellite, record.header()?.id);
    txn.effects.push(Effect::Left { entry: at, segment, items: record.open(), whole: true });
    delete(txn, at)
}

pub(super) fn entry(txn: &Txn<'_>, at: EntryKey) -> Result<Option<SegmentRecord>, SpoolError> {
    txn.tables.open_table(ENTRIES)?.get(at)?.map(|v| decode(v.value())).transpose()
}

/// Takes an entry out that everybody is done with; its payload may be kept.
fn finish(txn: &mut Txn<'_>, at: EntryKey) -> Result<(), SpoolError> {
    let kept = entry(txn, at)?.map(|record| archive::keep(txn, &record)).transpose()?.unwrap_or(false);
    take_out(txn, at, kept)
}

fn delete(txn: &mut Txn<'_>, at: EntryKey) -> Result<(), SpoolError> {
    take_out(txn, at, false)
}

fn take_out(txn: &mut Txn<'_>, at: EntryKey, kept: bool) -> Result<(), SpoolError> {
    txn.effects.push(Effect::Deleted(at));
    let Some(record) = remove(txn.tables, at, kept)? else { return Ok(()) };
    txn.bytes(at.satellite, Kept::Segment, record.bytes(), 0);
    Ok(())
}

/// Takes the rows of an entry out, with its bytes unless they are `kept`.
pub(super) fn remove(
    tables: &WriteTransaction,
    at: EntryKey,
    kept: bool,
) -> Result<Option<SegmentRecord>, SpoolError> {
    let removed = tables.open_table(ENTRIES)?.remove(at)?.map(|v| decode::<SegmentRecord>(v.value()));
    let Some(record) = removed.transpose()? else { return Ok(None) };
    if !kept {
        tables.open_table(SEGMENT_CHUNKS)?.retain_in(ChunkKey::all(record.payload), |_, _| false)?;
    }
    let refused = (record.payload, "")..(record.payload + 1, "");
    tables.open_table(ENTRY_DEAD)?.retain_in(refused, |_, _| false)?;
    Ok(Some(record))
}
