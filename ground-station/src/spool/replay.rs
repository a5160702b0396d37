//! Replays: what was committed of a range of time goes to one exporter once more, from the archive or from what is still in the spool.
//!
//! A replay walks the catalogue in the order of payload numbers and keeps a place of its own, a payload and a request in it, so that
//! it goes on after a restart and no exporter's cursor moves. It sends whole segments. It leaves out what its exporter has not
//! passed yet, since that comes by itself, and what was committed after it was asked for.

use std::collections::BTreeMap;

use perigee_proto::link;
use perigee_shared::signal::{Counts, Signal, SignalSet};
use prost::Message;
use redb::{ReadTransaction, ReadableTable, TableError};
use serde::Serialize;

use super::catalogue::{CatalogueRecord, Wanted};
use super::counters::{Counters, Kind};
use super::decode::Work;
use super::error::SpoolError;
use super::file::Txn;
use super::intake::take_number;
use super::outlet::{First, Found, Place, Reached};
use super::tables::*;
use super::views::{Items, names};

/// Replays that are remembered after their end; the oldest are forgotten.
pub(super) const REMEMBERED: u64 = 100;

/// What is to be sent again, and to whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplayWanted {
    /// The exporter.
    pub exporter: String,
    /// Only of this satellite.
    pub satellite: Option<String>,
    /// Only segments with items from then on, ns since the Unix epoch.
    pub from: Option<u64>,
    /// Only segments with items until then.
    pub until: Option<u64>,
}

/// A replay and how far it is.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ReplayRecord {
    #[prost(string, tag = "1")]
    pub(super) exporter: String,
    /// Empty: every satellite.
    #[prost(string, tag = "2")]
    pub(super) satellite: String,
    #[prost(uint64, optional, tag = "3")]
    from: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    until: Option<u64>,
    /// When it was asked for, ns since the Unix epoch.
    #[prost(fixed64, tag = "5")]
    asked: u64,
    /// When it ended; 0: it goes on.
    #[prost(fixed64, tag = "6")]
    pub(super) ended: u64,
    #[prost(bool, tag = "7")]
    pub(super) cancelled: bool,
    /// The payload number of the first segment that is not done.
    #[prost(uint64, tag = "8")]
    next: u64,
    /// The first request of it that is not done, in the cut with this fingerprint.
    #[prost(uint64, tag = "9")]
    request: u64,
    #[prost(fixed64, tag = "10")]
    cut: u64,
    /// Segments and items that there were when it was asked for.
    #[prost(uint64, tag = "11")]
    total_segments: u64,
    #[prost(message, optional, tag = "12")]
    total_items: Option<link::Counts>,
    #[prost(uint64, tag = "13")]
    segments: u64,
    #[prost(message, optional, tag = "14")]
    items: Option<link::Counts>,
    /// Items that the backend refused.
    #[prost(message, optional, tag = "15")]
    refused: Option<link::Counts>,
    /// Segments of the range that are not kept any more, and those that are damaged or do not decode.
    #[prost(uint64, tag = "16")]
    missing: u64,
    #[prost(uint64, tag = "17")]
    unusable: u64,
}

/// A replay as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ReplayView {
    /// What to call it.
    pub id: u64,
    /// Whom it is for.
    pub exporter: String,
    /// Of which satellite; none: of all.
    pub satellite: Option<String>,
    /// From when on, ns since the Unix epoch.
    pub from_unix_nano: Option<u64>,
    /// Until when.
    pub until_unix_nano: Option<u64>,
    /// When it was asked for.
    pub asked_unix_nano: u64,
    /// When it ended; none: it goes on.
    pub ended_unix_nano: Option<u64>,
    /// `running`, `done` or `cancelled`.
    pub state: &'static str,
    /// Segments to send when it was asked for.
    pub total_segments: u64,
    /// Items in them.
    pub total_items: Items,
    /// Segments that were sent.
    pub segments: u64,
    /// Items that the backend took.
    pub items: Items,
    /// Items that it refused.
    pub refused: Items,
    /// Segments of the range that are not kept any more.
    pub missing_segments: u64,
    /// Segments that are damaged or do not decode.
    pub unusable_segments: u64,
}

/// A segment that a replay sends next.
pub struct Again {
    /// The replay.
    pub id: u64,
    /// The segment.
    pub work: Work,
}

/// How far a replay has come.
#[derive(Debug, Clone, Default)]
pub struct ReplayStep {
    /// The payload number of the first segment that is not done.
    pub next: u64,
    /// The first request of it that is not done.
    pub request: u64,
    /// The fingerprint of the cut that numbers the requests.
    pub fingerprint: u64,
    /// A segment was sent to its end.
    pub segment: bool,
    /// Items that the backend took.
    pub items: Counts,
    /// Items that it refused.
    pub refused: Counts,
    /// A segment cannot be used.
    pub unusable: bool,
    /// Segments that were passed over, since they are not kept any more.
    pub missing: u64,
    /// There is nothing more to send.
    pub ended: bool,
}

/// What a replay comes to next.
pub(super) struct Sought {
    pub(super) found: Option<Found>,
    /// Segments before it that are not kept any more.
    pub(super) missing: u64,
    /// Behind the last row that was looked at.
    pub(super) next: u64,
}

impl ReplayRecord {
    pub(super) fn new(wanted: &ReplayWanted, now: u64) -> Self {
        let ReplayWanted { exporter, satellite, from, until } = wanted.clone();
        let satellite = satellite.unwrap_or_default();
        Self { exporter, satellite, from, until, asked: now, ..Self::default() }
    }

    pub(super) fn is_open(&self) -> bool {
        self.ended == 0 && !self.cancelled
    }

    /// The payload number of the first segment that is not done.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Everything before the payload number `next` is done.
    pub(super) fn go_on(&mut self, next: u64) {
        if next != self.next {
            (self.next, self.request) = (next, 0);
        }
    }

    /// Notes how much there is to send.
    pub(super) fn count(&mut self, found: &Found) {
        self.total_segments += 1;
        let signals = found.first.signals().iter();
        add(
            &mut self.total_items,
            signals.map(|signal| Counts::of(signal, found.header.items[signal])).sum(),
        );
    }

    pub(super) fn view(self, id: u64) -> ReplayView {
        let items = |counts: Option<link::Counts>| Counts::from(counts.unwrap_or_default()).into();
        ReplayView {
            id,
            state: if self.cancelled {
                "cancelled"
            } else if self.ended == 0 {
                "running"
            } else {
                "done"
            },
            exporter: self.exporter,
            satellite: Some(self.satellite).filter(|satellite| !satellite.is_empty()),
            from_unix_nano: self.from,
            until_unix_nano: self.until,
            asked_unix_nano: self.asked,
            ended_unix_nano: (self.ended != 0).then_some(self.ended),
            total_segments: self.total_segments,
            total_items: items(self.total_items),
            segments: self.segments,
            items: items(self.items),
            refused: items(self.refused),
            missing_segments: self.missing,
            unusable_segments: self.unusable,
        }
    }
}

fn add(to: &mut Option<link::Counts>, items: Counts) {
    *to = Some((Counts::from(to.unwrap_or_default()) + items).into());
}

/// The next segment that `job` sends of these rows of the catalogue, which come in the order of payload numbers from its place on.
pub(super) fn seek(
    read: &ReadTransaction,
    names: &BTreeMap<u32, String>,
    job: &ReplayRecord,
    signals: SignalSet,
    fingerprint: u64,
    rows: impl Iterator<Item = Result<(u64, CatalogueRecord), SpoolError>>,
) -> Result<Sought, SpoolError> {
    let satellite = Some(job.satellite.clone()).filter(|satellite| !satellite.is_empty());
    let wanted = Wanted { satellite, from: job.from, until: job.until, service: None, after: None };
    let mut sought = Sought { found: None, missing: 0, next: job.next };
    for row in rows {
        let (payload, row) = row?;
        sought.next = payload + 1;
        let signals = row.items().signals().without(SignalSet::ALL.without(signals));
        let is_wanted = names.get(&row.satellite).is_some_and(|name| wanted.is(name, &row));
        if !is_wanted || row.committed == 0 || row.committed > job.asked || signals.is_empty() {
            continue;
        }
        let request = if payload == job.next && job.cut == fingerprint { job.request } else { 0 };
        match held(read, job, payload, &row, signals)? {
            None => sought.missing += 1,
            Some((_, signals)) if signals.is_empty() => {}
            Some((record, signals)) => {
                let satellite = record.number;
                let at = row.entry().unwrap_or(EntryKey { satellite, lane: 0, entry: 0 });
                let (header, first) = (record.header()?, First::from(signals, request));
                let SegmentRecord { satellite, station, .. } = record;
                let found = Found { place: Place(at), satellite, station, header, payload, first };
                sought.found = Some(found);
                return Ok(sought);
            }
        }
    }
    Ok(sought)
}

/// A segment that is still here, and what of it is to be sent again; what its exporter has not passed comes by itself.
fn held(
    read: &ReadTransaction,
    job: &ReplayRecord,
    payload: u64,
    row: &CatalogueRecord,
    signals: SignalSet,
) -> Result<Option<(SegmentRecord, SignalSet)>, SpoolError> {
    if let Some(kept) = read.open_table(KEPT)?.get(payload)? {
        return Ok(Some((decode(kept.value())?, signals)));
    }
    let Some(at) = row.entry() else { return Ok(None) };
    let Some(value) = read.open_table(ENTRIES)?.get(at)? else { return Ok(None) };
    let record: SegmentRecord = decode(value.value())?;
    let cursors = read.open_table(CURSORS)?;
    let reached = Reached::read(&job.exporter, 0, |name| {
        Ok(cursors.get((name, at.satellite, at.lane))?.map(|cursor| cursor.value()))
    })?;
    let open = record.open().signals();
    let passed = |signal: Signal| !open.contains(signal) || reached.of(signal).entry > at.entry;
    let signals = signals.iter().filter(|s| passed(*s)).fold(SignalSet::default(), SignalSet::with);
    Ok(Some((record, signals)))
}

/// The same over all rows of the catalogue.
pub(super) fn seek_on(
    read: &ReadTransaction,
    job: &ReplayRecord,
    signals: SignalSet,
    fingerprint: u64,
) -> Result<Sought, SpoolError> {
    seek(read, &names(read)?, job, signals, fingerprint, rows(read, job.next)?)
}

/// Notes how much there is to send.
pub(super) fn measure(
    read: &ReadTransaction,
    mut job: ReplayRecord,
    signals: SignalSet,
) -> Result<ReplayRecord, SpoolError> {
    let (mut at, names) = (job.clone(), names(read)?);
    while let Some(found) = seek(read, &names, &at, signals, 0, rows(read, at.next)?)?.found {
        job.count(&found);
        at.go_on(found.payload + 1);
    }
    Ok(job)
}

/// Rows of the catalogue from a payload number on.
pub(super) fn rows(
    read: &ReadTransaction,
    from: u64,
) -> Result<impl Iterator<Item = Result<(u64, CatalogueRecord), SpoolError>>, SpoolError> {
    let range = match read.open_table(CATALOGUE) {
        Err(TableError::TableDoesNotExist(_)) => None,
        table => Some(table?.range(from..)?),
    };
    Ok(range.into_iter().flatten().map(|row| {
        let (key, value) = row?;
        Ok((key.value(), decode(value.value())?))
    }))
}

/// Writes a replay down that begins; its id.
pub(super) fn begin(txn: &Txn<'_>, record: &ReplayRecord) -> Result<u64, SpoolError> {
    let id = take_number(txn.tables, "next_replay")?;
    let mut table = txn.tables.open_table(REPLAYS)?;
    table.insert(id, record.encode_to_vec().as_slice())?;
    table.retain_in(..id.saturating_sub(REMEMBERED), |_, value| {
        decode::<ReplayRecord>(value).is_ok_and(|record| record.is_open())
    })?;
    Ok(id)
}

/// Notes how far a replay has come. What was noted before is not noted again: a transaction that has failed may be there all the same.
pub(super) fn note(txn: &Txn<'_>, id: u64, satellite: u32, step: &ReplayStep) -> Result<(), SpoolError> {
    let mut table = txn.tables.open_table(REPLAYS)?;
    let before = table.get(id)?.map(|v| decode::<ReplayRecord>(v.value())).transpose()?;
    let Some(mut job) = before.filter(ReplayRecord::is_open) else { return Ok(()) };
    let request = if job.cut == step.fingerprint { job.request } else { 0 };
    if !step.ended && (step.next, step.request) <= (job.next, request) {
        return Ok(());
    }
    (job.next, job.request, job.cut) = (step.next, step.request, step.fingerprint);
    job.segments += u64::from(step.segment);
    job.missing += step.missing;
    job.unusable += u64::from(step.unusable);
    add(&mut job.items, step.items);
    add(&mut job.refused, step.refused);
    if step.ended {
        job.ended = txn.now;
        tracing::info!(
            id,
            exporter = job.exporter,
            segments = job.segments,
            missing = job.missing,
            unusable = job.unusable,
            "a replay has ended"
        );
    }
    table.insert(id, job.encode_to_vec().as_slice())?;
    drop(table);
    match step.items.total() {
        0 => Ok(()),
        _ => Counters::of(txn.tables, satellite)?.add(Kind::Replayed, 0, step.items),
    }
}

/// Ends a replay that goes on; whether there was one.
pub(super) fn cancel(txn: &Txn<'_>, id: u64) -> Result<bool, SpoolError> {
    let mut table = txn.tables.open_table(REPLAYS)?;
    let before = table.get(id)?.map(|v| decode::<ReplayRecord>(v.value())).transpose()?;
    let Some(job) = before.filter(ReplayRecord::is_open) else { return Ok(false) };
    let job = ReplayRecord { cancelled: true, ended: txn.now, ..job };
    table.insert(id, job.encode_to_vec().as_slice())?;
    Ok(true)
}

/// Replays, the latest first.
pub(super) fn list(read: &ReadTransaction) -> Result<Vec<ReplayView>, SpoolError> {
    let table = read.open_table(REPLAYS)?;
    let rows = table.iter()?.rev();
    rows.map(|row| {
        let (id, value) = row?;
        Ok(decode::<ReplayRecord>(value.value())?.view(id.value()))
    })
    .collect()
}

/// The replay of this exporter that was asked for first and goes on.
pub(super) fn first_open(
    read: &ReadTransaction,
    exporter: &str,
) -> Result<Option<(u64, ReplayRecord)>, SpoolError> {
    for row in read.open_table(REPLAYS)?.iter()? {
        let (id, value) = row?;
        let job = decode::<ReplayRecord>(value.value())?;
        if job.is_open() && job.exporter == exporter {
            return Ok(Some((id.value(), job)));
        }
    }
    Ok(None)
}

impl ReplayStep {
    /// What was sought came to this: a payload, which may be unusable, or the end; `None` when there is nothing to note yet.
    pub(super) fn of(sought: &Sought, place: Option<u64>, unusable: bool, fingerprint: u64) -> Option<Self> {
        let next = match place {
            None => sought.next,
            Some(payload) => payload + u64::from(unusable),
        };
        let step = Self {
            next,
            fingerprint,
            missing: sought.missing,
            ended: place.is_none(),
            unusable,
            ..Self::default()
        };
        (step.ended || unusable || step.missing > 0).then_some(step)
    }
}
