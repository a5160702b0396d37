//! Gaps: what was dropped on board, what a lost log had, and what this station has lost.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use perigee_proto::link::{self, DropReason};
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Header, Lane};
use perigee_shared::signal::{Counts, Signal, TimeRange};
use prost::Message;
use redb::{ReadableTable, WriteTransaction};

use super::contents::Effect;
use super::counters::{Counters, Kind};
use super::error::SpoolError;
use super::file::Txn;
use super::intake::take_number;
use super::ledger::{self, committed_ranges, split_recent};
use super::remembered;
use super::tables::*;

/// Ids that the ground gives are above every one that a satellite gives: from here on a lane of a lost log has its own, below
/// are those of what this station has lost, counted down.
const LOST_LOG: u64 = u64::MAX - u8::MAX as u64;

/// Ranges that are taken from what one Hello says was acknowledged of a lane; the rest is taken from the next.
const MOST_RANGES: usize = 64;

/// The number behind the id of a gap that this station has recorded.
pub(super) fn own_number(id: u64) -> Option<u64> {
    own_ids().contains(&id).then(|| LOST_LOG - id)
}

/// The ids of gaps that this station has recorded, the latest first.
pub(super) const fn own_ids() -> Range<u64> {
    LOST_LOG / 2..LOST_LOG
}

/// Whether a satellite gives such ids.
pub(super) const fn is_told(id: u64) -> bool {
    id < LOST_LOG / 2
}

fn reason(drop: &link::Drop) -> u8 {
    u8::try_from(drop.reason).unwrap_or(0)
}

/// What a gap is counted as: what the station has lost was committed, unless nobody knows how much it was.
fn kind(drop: &link::Drop) -> Kind {
    if drop.reason == DropReason::StationLost as i32 { Kind::Lost } else { Kind::Dropped }
}

/// A commit overrides a drop: what was reported dropped and came all the same is not dropped.
pub(super) fn override_drop(txn: &Txn<'_>, key: SequenceKey, items: Counts) -> Result<(), SpoolError> {
    let mut dropped = txn.tables.open_table(DROPPED)?;
    let row = dropped.range(key.at(0)..=key)?.next_back().transpose()?;
    let row = row.map(|(k, v)| (k.value(), v.value())).filter(|(_, run)| run.end > key.sequence);
    let Some((first, run)) = row else { return Ok(()) };
    let mut drops = txn.tables.open_table(DROPS)?;
    let at = DropKey { satellite: key.satellite, epoch: key.epoch, id: run.id };
    let record = drops.get(at)?.map(|v| decode::<DropRecord>(v.value())).transpose()?;
    let Some((mut record, drop)) = record.and_then(|r| r.drop.map(|drop| (r, drop))) else { return Ok(()) };
    let own = kind(&drop) == Kind::Lost;
    if drop.counts_unknown && !own {
        return Ok(());
    }
    let before = Counts::from(record.overridden.unwrap_or_default());
    let left = Counts::from(drop.items.unwrap_or_default()).saturating_sub(before);
    let taken = left.saturating_sub(left.saturating_sub(items));
    let mut counters = Counters::of(txn.tables, key.satellite)?;
    counters.sub(kind(&drop), reason(&drop), taken)?;
    if own {
        // It was counted as committed then, and is counted so again.
        counters.sub(Kind::Committed, 0, taken)?;
        // It is not lost any more: neither does it come a third time, nor does an older copy of the spool export it again.
        dropped.remove(first)?;
        if first.sequence < key.sequence {
            dropped.insert(first, DroppedRun { end: key.sequence, ..run })?;
        }
        let behind = key.at(key.sequence + 1);
        if behind.sequence < run.end && dropped.get(behind)?.is_none() {
            dropped.insert(behind, run)?;
        }
    }
    record.overridden = Some((before + taken).into());
    drops.insert(at, record.encode_to_vec().as_slice())?;
    Ok(())
}

/// Records the drops that are not recorded yet. Returns the acknowledgement of all of them.
pub(super) fn insert(
    txn: &mut Txn<'_>,
    satellite: u32,
    epoch: u64,
    new: &[link::Drop],
) -> Result<link::DropsAck, SpoolError> {
    let mut ack = link::DropsAck { epoch, ..link::DropsAck::default() };
    let mut counters = Counters::of(txn.tables, satellite)?;
    let mut drops = txn.tables.open_table(DROPS)?;
    let mut dropped = txn.tables.open_table(DROPPED)?;
    let recent = txn.tables.open_table(RECENT)?;
    for drop in new {
        let at = DropKey { satellite, epoch, id: drop.id };
        let known = drops.get(at)?.map(|v| decode::<DropRecord>(v.value())).transpose()?;
        if known.as_ref().is_some_and(|known| is_another(known.drop, drop)) {
            // Two states of one log have given the same id. It comes again under one of its own.
            continue;
        }
        ack.ids.push(drop.id);
        let came = elsewhere(drop);
        if let Some(mut known) = known {
            let fresh = came.saturating_sub(known.overridden.unwrap_or_default().into());
            if fresh.total() > 0 {
                counters.sub(kind(drop), reason(drop), fresh)?;
                known.overridden = Some(came.into());
                drops.insert(at, known.encode_to_vec().as_slice())?;
            }
            let items = known.overridden.filter(|items| *items != link::Counts::default());
            ack.overridden.extend(items.map(|items| link::DropOverride { id: drop.id, items: Some(items) }));
            continue;
        }
        let items = Counts::from(drop.items.unwrap_or_default());
        let mut overridden = Counts::ZERO;
        if let (Some(range), Ok(lane)) = (&drop.sequences, u8::try_from(drop.lane))
            && range.start < range.end
        {
            let first = SequenceKey { satellite, epoch, lane, sequence: range.start };
            // Of a number that is not exact nobody knows which segments it is about.
            let rows =
                if drop.counts_unknown { None } else { Some(recent.range(first..first.at(range.end))?) };
            for row in rows.into_iter().flatten() {
                overridden += split_recent(row?.1.value()).map_or(Counts::ZERO, |(_, counts)| counts);
            }
            overridden = items.saturating_sub(items.saturating_sub(overridden));
            dropped.insert(first, DroppedRun { end: range.end, id: drop.id })?;
        }
        overridden = overridden.max(came);
        counters.add(kind(drop), reason(drop), items.saturating_sub(overridden))?;
        if overridden.total() > 0 {
            ack.overridden.push(link::DropOverride { id: drop.id, items: Some(overridden.into()) });
        }
        let overridden = Some(overridden.into());
        let record = DropRecord { drop: Some(*drop), overridden, recorded: txn.now, ledger: 0 };
        drops.insert(at, record.encode_to_vec().as_slice())?;
        txn.effects.push(Effect::Gap);
    }
    Ok(ack)
}

/// Whether a drop that was told under this id is another one. Only what was overridden changes in one.
fn is_another(known: Option<link::Drop>, drop: &link::Drop) -> bool {
    known.is_some_and(|known| link::Drop { overridden: drop.overridden, ..known } != *drop)
}

/// The items of a drop if another station has committed them all the same. Of a part nobody knows which segments it is, and this station
/// may commit the same ones.
fn elsewhere(drop: &link::Drop) -> Counts {
    let is_whole = drop.overridden.is_some() && drop.overridden == drop.items && !drop.counts_unknown;
    drop.items.filter(|_| is_whole).map(Counts::from).unwrap_or_default()
}

/// The highest id of a drop that the satellite has told of an epoch; 0: none.
pub(super) fn highest(txn: &Txn<'_>, EpochKey { satellite, epoch }: EpochKey) -> Result<u64, SpoolError> {
    let key = |id| DropKey { satellite, epoch, id };
    let drops = txn.tables.open_table(DROPS)?;
    let last = drops.range(key(0)..key(LOST_LOG / 2))?.next_back().transpose()?;
    Ok(last.map_or(0, |(key, _)| key.value().id))
}

/// What the ledger had of the latest drops of an epoch, besides `told`.
pub(super) fn latest(
    txn: &Txn<'_>,
    EpochKey { satellite, epoch }: EpochKey,
    mut told: Vec<link::DropOverride>,
) -> Result<Vec<link::DropOverride>, SpoolError> {
    let key = |id| DropKey { satellite, epoch, id };
    let drops = txn.tables.open_table(DROPS)?;
    for row in drops.range(key(0)..key(LOST_LOG / 2))?.rev().take(MOST_RANGES) {
        let (key, value) = row?;
        let id = key.value().id;
        let items = decode::<DropRecord>(value.value())?.overridden;
        if items.is_some_and(|items| items != link::Counts::default()) && told.iter().all(|o| o.id != id) {
            told.push(link::DropOverride { id, items });
        }
    }
    Ok(told)
}

/// Brings the counters of a satellite to what its recorded gaps come to.
pub(super) fn count(
    tables: &WriteTransaction,
    counters: &mut Counters<'_>,
    satellite: u32,
) -> Result<(), SpoolError> {
    let mut sums = BTreeMap::<(u8, u8), Counts>::new();
    let key = |epoch, id| DropKey { satellite, epoch, id };
    for row in tables.open_table(DROPS)?.range(key(0, 0)..=key(u64::MAX, u64::MAX))? {
        let DropRecord { drop, overridden, .. } = decode(row?.1.value())?;
        let Some(drop) = drop else { continue };
        let items = Counts::from(drop.items.unwrap_or_default());
        let left = items.saturating_sub(overridden.unwrap_or_default().into());
        *sums.entry((kind(&drop) as u8, reason(&drop))).or_default() += left;
    }
    for ((kind, reason), items) in sums {
        for signal in Signal::ALL {
            counters.change(kind, signal as u8, reason, |before| before.max(items[signal]))?;
        }
    }
    Ok(())
}

/// A gap that this station records: it had the items and cannot export them any more.
pub(super) struct Lost {
    pub(super) satellite: u32,
    pub(super) epoch: u64,
    pub(super) lane: u8,
    pub(super) sequences: Option<Range<u64>>,
    /// `None`: nobody knows how many.
    pub(super) items: Option<Counts>,
    /// Whether that is the number, or the most that can be missing.
    pub(super) exact: bool,
    pub(super) time: TimeRange,
    /// Of these, what was exported is little or unknown: a satellite that still has them sends them again.
    pub(super) again: RangeSet,
}

impl Lost {
    /// What is left of a committed segment.
    pub(super) fn segment(satellite: u32, header: &Header, items: Counts) -> Self {
        let id = header.id;
        let again = (items == header.items).then_some(id.sequence..id.sequence + 1);
        Self {
            again: again.into_iter().collect(),
            satellite,
            epoch: id.epoch,
            lane: id.lane.0,
            sequences: Some(id.sequence..id.sequence + 1),
            items: Some(items),
            exact: true,
            time: header.time,
        }
    }
}

/// Records and counts what this station has lost.
pub(super) fn lose(tables: &WriteTransaction, now: u64, lost: Lost) -> Result<(), SpoolError> {
    lose_for(tables, now, lost, DropReason::StationLost)
}

/// The same for another reason.
pub(super) fn lose_for(
    tables: &WriteTransaction,
    now: u64,
    lost: Lost,
    why: DropReason,
) -> Result<(), SpoolError> {
    record(tables, now, lost, why, 0)
}

/// The same of what another `ledger` has acknowledged; 0: this one has.
fn record(
    tables: &WriteTransaction,
    now: u64,
    lost: Lost,
    why: DropReason,
    ledger: u64,
) -> Result<(), SpoolError> {
    let Lost { satellite, epoch, lane, sequences, items, exact, time, again } = lost;
    let id = LOST_LOG - take_number(tables, "next_gap")?;
    let drop = link::Drop {
        id,
        reason: why as i32,
        lane: u32::from(lane),
        sequences: sequences.as_ref().map(|r| link::Range { start: r.start, end: r.end }),
        items: items.map(Into::into),
        counts_unknown: items.is_none() || !exact,
        time: Some(time.into()),
        dropped_unix_nano: now,
        overridden: None,
    };
    Counters::of(tables, satellite)?.add(Kind::Lost, reason(&drop), items.unwrap_or_default())?;
    let mut dropped = tables.open_table(DROPPED)?;
    for Range { start, end } in again.iter() {
        dropped.insert(SequenceKey { satellite, epoch, lane, sequence: start }, DroppedRun { end, id })?;
    }
    let record = DropRecord { drop: Some(drop), overridden: None, recorded: now, ledger };
    let at = DropKey { satellite, epoch, id };
    tables.open_table(DROPS)?.insert(at, record.encode_to_vec().as_slice())?;
    Ok(())
}

/// What a satellite was told is committed here, and is not: this station has lost it. Nobody knows how much of it was exported
/// before. What a ledger of `others` has acknowledged is at another station.
pub(super) fn lose_acknowledged(
    txn: &mut Txn<'_>,
    (id, satellite): (&str, u32),
    epoch: &link::Epoch,
    others: &BTreeSet<u64>,
) -> Result<(), SpoolError> {
    let (ours, station) = (txn.contents.ledger, &txn.contents.settings.station);
    for said in &epoch.lanes {
        let Ok(lane) = u8::try_from(said.lane) else { continue };
        // By ledger, with the items of all that it has acknowledged; 0, and so the first, is this one.
        let mut told = BTreeMap::<u64, (RangeSet, Option<Counts>)>::new();
        for of in &said.acknowledged {
            let ledger = if of.ledger == ours { 0 } else { of.ledger };
            if ledger == 0 || (of.station == *station && !others.contains(&ledger)) {
                let (told, items) = told.entry(ledger).or_insert((RangeSet::default(), Some(Counts::ZERO)));
                RangeSet::from_wire(&of.sequences).iter().for_each(|range| told.insert(range));
                *items = items.zip(of.items).map(|(sum, more)| sum + more.into());
            }
        }
        if told.is_empty() {
            continue;
        }
        let mut known = RangeSet::default();
        for (range, _) in
            committed_ranges(&txn.tables.open_table(COMMITTED)?, satellite, epoch.epoch, Lane(lane))?
        {
            known.insert(range);
        }
        for row in
            txn.tables.open_table(DROPPED)?.range(SequenceKey::lane(satellite, epoch.epoch, Lane(lane)))?
        {
            let (key, run) = row?;
            known.insert(key.value().sequence..run.value().end);
        }
        for (ledger, (told, items)) in told {
            let mut missing = told.clone();
            known.iter().for_each(|range| missing.remove(range));
            let of = SequenceKey { satellite, epoch: epoch.epoch, lane, sequence: 0 };
            let mut most = items.map(|items| not_committed(txn, of, &told, items)).transpose()?;
            for sequences in missing.iter().take(MOST_RANGES) {
                say_lost(txn, id, (epoch.epoch, lane), &sequences, ledger);
                known.insert(sequences.clone());
                let (time, again) = (TimeRange::EMPTY, std::iter::once(sequences.clone()).collect());
                // How they are spread over several ranges is not known: the first gap has the bound of all.
                let items = most.as_mut().map(std::mem::take).filter(|items| items.total() > 0);
                Counters::of(txn.tables, satellite)?.add(Kind::Committed, 0, items.unwrap_or_default())?;
                let (epoch, sequences) = (epoch.epoch, Some(sequences));
                let lost = Lost { satellite, epoch, lane, sequences, items, exact: false, time, again };
                record(txn.tables, txn.now, lost, DropReason::StationLost, ledger)?;
                txn.effects.push(Effect::Gap);
            }
        }
    }
    Ok(())
}

/// Of `items` that a ledger had acknowledged in these sequences, those that are not in segments that this one has committed lately, or that
/// a lost file of it had.
fn not_committed(
    txn: &Txn<'_>,
    of: SequenceKey,
    told: &RangeSet,
    items: Counts,
) -> Result<Counts, SpoolError> {
    let recent = txn.tables.open_table(RECENT)?;
    let (mut there, mut here) = (Counts::ZERO, RangeSet::default());
    for range in told.iter() {
        for row in recent.range(of.at(range.start)..of.at(range.end))? {
            let (key, value) = row?;
            here.insert(key.value().sequence..key.value().sequence + 1);
            there += split_recent(value.value()).map_or(Counts::ZERO, |(_, counts)| counts);
        }
    }
    let key = EpochKey { satellite: of.satellite, epoch: of.epoch };
    if let Some(record) = txn.tables.open_table(EPOCHS)?.get(key)? {
        let known = decode::<EpochRecord>(record.value())?.remembered;
        there += remembered::items(of.lane, &known, &here, told);
    }
    Ok(items.saturating_sub(there))
}

fn say_lost(txn: &Txn<'_>, id: &str, (epoch, lane): (u64, u8), sequences: &Range<u64>, ledger: u64) {
    let (epoch, first, last) = (format!("{epoch:016x}"), sequences.start, sequences.end - 1);
    let is_other = ledger != 0;
    let why = if is_other {
        "another ledger has acknowledged these segments under this station's name: either this station's spool was lost, and what was \
         not exported before is gone, or another ground-station has the same name; in that case the gap is withdrawn once that one \
         has acknowledged more"
    } else {
        "this station has acknowledged these segments and does not have them: its spool was lost or is an older one; what was not \
         exported before is gone"
    };
    tracing::error!(
        event.name = "perigee.ledger.station_lost",
        satellite = id,
        epoch,
        lane,
        first,
        last,
        ledger = is_other.then(|| format!("{ledger:016x}")),
        station = is_other.then_some(txn.contents.settings.station.as_str()),
        "{why}"
    );
}

/// Takes back the gaps of what `ledger` has acknowledged: it is another station's. Returns how many there were.
pub(super) fn withdraw(txn: &Txn<'_>, satellite: u32, ledger: u64) -> Result<usize, SpoolError> {
    let key = |epoch, id| DropKey { satellite, epoch, id };
    let (mut drops, mut dropped) = (txn.tables.open_table(DROPS)?, txn.tables.open_table(DROPPED)?);
    let mut wrong = Vec::new();
    for row in drops.range(key(0, 0)..=key(u64::MAX, u64::MAX))? {
        let (key, value) = row?;
        if own_number(key.value().id).is_some() {
            let record = decode::<DropRecord>(value.value())?;
            let came = Counts::from(record.overridden.unwrap_or_default());
            let drop = record.drop.filter(|_| record.ledger == ledger);
            wrong.extend(drop.map(|drop| (key.value(), drop, came)));
        }
    }
    let mut counters = Counters::of(txn.tables, satellite)?;
    for (key, drop, came) in &wrong {
        drops.remove(*key)?;
        let left = Counts::from(drop.items.unwrap_or_default()).saturating_sub(*came);
        counters.sub(Kind::Lost, reason(drop), left)?;
        counters.sub(Kind::Committed, 0, left)?;
        if let (Some(range), Ok(lane)) = (drop.sequences, u8::try_from(drop.lane)) {
            let first = SequenceKey { satellite, epoch: key.epoch, lane, sequence: range.start };
            dropped.retain_in(first..first.at(range.end), |_, run| run.id != key.id)?;
        }
    }
    Ok(wrong.len())
}

/// What this station has lost and the satellite still has is not committed: it comes again, and overrides the gap. `on_board`: what
/// the satellite has by lane, under the name of this epoch, or `renamed` of one that continues it. What comes under another name may be
/// what was lost, so that the gap has as many items at most.
pub(super) fn take_again(
    txn: &Txn<'_>,
    satellite: u32,
    epoch: u64,
    on_board: &BTreeMap<u8, RangeSet>,
    renamed: bool,
) -> Result<(), SpoolError> {
    let (dropped, mut drops) = (txn.tables.open_table(DROPPED)?, txn.tables.open_table(DROPS)?);
    for (lane, there) in on_board {
        let mut lost = RangeSet::default();
        for row in dropped.range(SequenceKey::lane(satellite, epoch, Lane(*lane)))? {
            let (key, run) = row?;
            let (start, DroppedRun { end, id }) = (key.value().sequence, run.value());
            let both = there.iter().map(|r| r.start.max(start)..r.end.min(end)).filter(|r| !r.is_empty());
            let mut both = both.peekable();
            if both.peek().is_none() {
                continue;
            }
            let at = DropKey { satellite, epoch, id };
            let record = drops.get(at)?.map(|v| decode::<DropRecord>(v.value())).transpose()?;
            let Some(mut record) = record else { continue };
            let Some(drop) = record.drop.as_mut().filter(|d| d.reason() == DropReason::StationLost) else {
                continue;
            };
            both.for_each(|range| lost.insert(range));
            if renamed && !drop.counts_unknown {
                drop.counts_unknown = true;
                drops.insert(at, record.encode_to_vec().as_slice())?;
            }
        }
        if !lost.is_empty() {
            ledger::remove(txn, SequenceKey { satellite, epoch, lane: *lane, sequence: 0 }, &lost)?;
        }
    }
    Ok(())
}

/// Closes earlier lives of the log that the satellite does not mention any more: what it had on board then is gone, and nobody
/// can say how much that was. A satellite that knows ends an epoch itself and goes on naming it. A log that was begun without
/// knowing of an earlier one counts its lives from 1 again, so the start counters say nothing here.
pub(super) fn close_forgotten(
    txn: &mut Txn<'_>,
    (id, satellite): (&str, u32),
    told: &[link::Epoch],
) -> Result<(), SpoolError> {
    if told.is_empty() {
        return Ok(());
    }
    let told: BTreeSet<u64> = told.iter().map(|e| e.epoch).collect();
    let mut forgotten = Vec::new();
    for row in txn.tables.open_table(EPOCHS)?.range(EpochKey::all(satellite))? {
        let (key, value) = row?;
        let record = decode::<EpochRecord>(value.value())?;
        if !record.closed && !told.contains(&key.value().epoch) {
            forgotten.push((key.value(), record));
        }
    }
    for (key, mut record) in forgotten {
        tracing::error!(
            event.name = "perigee.ledger.epoch_lost",
            satellite = id,
            epoch = format!("{:016x}", key.epoch),
            "the satellite has lost an earlier log; its items are a gap with unknown counts"
        );
        let lanes = record.lanes.iter().filter_map(|lane| Some((u8::try_from(lane.lane).ok()?, lane)));
        let drops = lanes.map(|(n, lane)| lost_lane(txn, key, n, lane)).collect::<Result<Vec<_>, _>>()?;
        insert(txn, satellite, key.epoch, &drops)?;
        record.closed = true;
        txn.tables.open_table(EPOCHS)?.insert(key, record.encode_to_vec().as_slice())?;
    }
    Ok(())
}

/// What a lane of a lost log had on board and did not deliver.
fn lost_lane(txn: &Txn<'_>, key: EpochKey, number: u8, lane: &link::Lane) -> Result<link::Drop, SpoolError> {
    let committed =
        committed_ranges(&txn.tables.open_table(COMMITTED)?, key.satellite, key.epoch, Lane(number))?;
    let mut missing = RangeSet::from_wire(&lane.on_board);
    committed.into_iter().for_each(|(range, _)| missing.remove(range));
    Ok(link::Drop {
        id: u64::MAX - u64::from(number),
        reason: DropReason::Corruption as i32,
        lane: lane.lane,
        sequences: missing.first().zip(missing.last()).map(|(s, e)| link::Range { start: s, end: e + 1 }),
        counts_unknown: true,
        dropped_unix_nano: txn.now,
        ..link::Drop::default()
    })
}
