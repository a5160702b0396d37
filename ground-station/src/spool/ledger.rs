//! The ledger: what was committed and what was dropped, per satellite, epoch and lane.

use std::ops::Range;

use perigee_proto::link;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Hash, Header, Lane};
use perigee_shared::signal::Counts;
use prost::Message;
use redb::{ReadableTable, Table, WriteTransaction};

use super::bases;
use super::counters::{Counters, Kind};
use super::error::SpoolError;
use super::open::{Spool, decode};
use super::passes;
use super::tables::*;

/// Committed segments of each lane whose hash and counts are kept. The satellite keeps as many.
const RECENT_KEPT: u64 = 1000;

/// Ranges in one Resume, committed and held together; a message is at most 1 MiB. What is left out costs bytes, not items.
const MAX_RANGES: usize = 8192;

/// Whether `sequence` is committed.
pub(super) fn is_committed(
    table: &impl ReadableTable<SequenceKey, (u64, [u8; 32])>,
    key: SequenceKey,
) -> Result<bool, SpoolError> {
    let (number, epoch, lane, sequence) = key;
    let before = table.range((number, epoch, lane, 0)..=key)?.next_back().transpose()?;
    Ok(before.is_some_and(|(_, v)| v.value().0 > sequence))
}

/// Adds one sequence; true when it was not in it.
pub(super) fn insert(
    table: &mut Table<'_, SequenceKey, (u64, [u8; 32])>,
    key: SequenceKey,
    hash: Hash,
) -> Result<bool, SpoolError> {
    let (number, epoch, lane, sequence) = key;
    let before = table.range((number, epoch, lane, 0)..=key)?.next_back().transpose()?;
    let before = before.map(|(k, v)| (k.value().3, v.value().0));
    let start = match before {
        Some((_, end)) if end > sequence => return Ok(false),
        Some((start, end)) if end == sequence => start,
        _ => sequence,
    };
    let next = (number, epoch, lane, sequence + 1);
    let (end, top) = match table.remove(next)? {
        Some(joined) => joined.value(),
        None => (sequence + 1, hash),
    };
    table.insert((number, epoch, lane, start), (end, top))?;
    Ok(true)
}

/// Hash and counts of a segment that was committed lately.
pub(super) fn recent(
    table: &impl ReadableTable<SequenceKey, &'static [u8; 56]>,
    key: SequenceKey,
) -> Result<Option<(Hash, Counts)>, SpoolError> {
    Ok(table.get(key)?.and_then(|v| split_recent(v.value())))
}

fn split_recent(value: &[u8; 56]) -> Option<(Hash, Counts)> {
    let (hash, counts) = value.split_first_chunk::<32>()?;
    Some((*hash, Counts::from_bytes(counts)?))
}

/// Remembers a committed segment and forgets the oldest.
pub(super) fn remember(
    table: &mut Table<'_, SequenceKey, &'static [u8; 56]>,
    key: SequenceKey,
    header: &Header,
) -> Result<(), SpoolError> {
    let mut value = [0; 56];
    value[..32].copy_from_slice(&header.hash);
    value[32..].copy_from_slice(&header.items.to_bytes());
    table.insert(key, &value)?;
    let (number, epoch, lane, sequence) = key;
    if let Some(old) = sequence.checked_sub(RECENT_KEPT) {
        // Sequences come nearly in order, so that there is seldom more than one.
        table.retain_in((number, epoch, lane, 0)..=(number, epoch, lane, old), |_, _| false)?;
    }
    Ok(())
}

/// A commit overrides a drop: what was reported dropped and came all the same is not dropped.
pub(super) fn override_drop(
    txn: &WriteTransaction,
    counters: &mut Counters<'_>,
    key: SequenceKey,
    items: Counts,
) -> Result<(), SpoolError> {
    let (number, epoch, lane, sequence) = key;
    let dropped = txn.open_table(DROPPED)?;
    let row = dropped.range((number, epoch, lane, 0)..=key)?.next_back().transpose()?;
    let Some((end, id)) = row.map(|(_, v)| v.value()) else { return Ok(()) };
    if end <= sequence {
        return Ok(());
    }
    let mut drops = txn.open_table(DROPS)?;
    let Some(mut record) =
        drops.get((number, epoch, id))?.map(|v| decode::<DropRecord>(v.value())).transpose()?
    else {
        return Ok(());
    };
    let Some(drop) = &record.drop else { return Ok(()) };
    let before = Counts::from(record.overridden.unwrap_or_default());
    let left = Counts::from(drop.items.unwrap_or_default()).saturating_sub(before);
    let taken = left.saturating_sub(left.saturating_sub(items));
    counters.sub(number, Kind::Dropped, reason(drop), taken)?;
    record.overridden = Some((before + taken).into());
    drops.insert((number, epoch, id), record.encode_to_vec().as_slice())?;
    Ok(())
}

fn reason(drop: &link::Drop) -> u8 {
    u8::try_from(drop.reason).unwrap_or(0)
}

impl Spool {
    /// Takes in what a satellite says at the start of a contact and answers where it may resume; drops in it are in the
    /// ledger when this returns, and bases that nobody needs any more are gone.
    pub fn hello(
        &mut self,
        satellite: &str,
        hello: &link::Hello,
    ) -> Result<Vec<link::ResumeEpoch>, SpoolError> {
        let now = self.env.unix_nano();
        let (epochs, released, forgotten) = self.write(|txn| {
            let number = self.meet(txn, satellite, hello, now)?;
            passes::note(txn, number, &hello.passes)?;
            let mut out = Vec::new();
            let mut released = Vec::new();
            let mut room = MAX_RANGES;
            // The agent's own epoch is the last one.
            for epoch in hello.epochs.iter().rev() {
                self.note_epoch(txn, number, epoch)?;
                released.extend(forget_partials(txn, number, epoch)?);
                insert_drops(txn, number, epoch.epoch, &epoch.drops, now)?;
                out.push(resume_epoch(txn, number, epoch, &mut room)?);
            }
            close_forgotten(txn, number, &hello.epochs, now)?;
            let forgotten = bases::forget_passed(txn, number, &hello.epochs, &self.finished)?;
            Ok((out, released, forgotten))
        })?;
        self.note_forgotten(forgotten);
        for (number, bytes) in released {
            self.usage.partial_changed(number, bytes, 0);
        }
        Ok(epochs)
    }

    /// Records drops that were made during a contact.
    pub fn drops(&mut self, satellite: &str, drops: &link::EpochDrops) -> Result<(), SpoolError> {
        let now = self.env.unix_nano();
        self.write(|txn| {
            let number = number(txn, satellite)?;
            insert_drops(txn, number, drops.epoch, &drops.drops, now)
        })
    }

    fn meet(
        &self,
        txn: &WriteTransaction,
        satellite: &str,
        hello: &link::Hello,
        now: u64,
    ) -> Result<u32, SpoolError> {
        let number = number(txn, satellite)?;
        let mut table = txn.open_table(SATELLITES)?;
        let before = table.get(satellite)?.map(|v| decode::<SatelliteRecord>(v.value())).transpose()?;
        let record = SatelliteRecord {
            number,
            software: hello.software.chars().take(200).collect(),
            last_contact: now,
            contact: hello.contact.chars().take(200).collect(),
            station: self.settings.station.clone(),
            contacts: before.map_or(0, |r| r.contacts) + 1,
            forecast: hello.forecast,
        };
        table.insert(satellite, record.encode_to_vec().as_slice())?;
        Ok(number)
    }

    fn note_epoch(&self, txn: &WriteTransaction, number: u32, epoch: &link::Epoch) -> Result<(), SpoolError> {
        let record = EpochRecord {
            start_counter: epoch.start_counter,
            started: epoch.started_unix_nano,
            closed: epoch.closed,
            lanes: epoch.lanes.clone(),
        };
        txn.open_table(EPOCHS)?.insert((number, epoch.epoch), record.encode_to_vec().as_slice())?;
        Ok(())
    }
}

/// Closes earlier lives of the log that the satellite does not mention any more: what it had on board then is gone, and nobody
/// can say how much that was. A satellite that knows ends an epoch itself and goes on naming it.
fn close_forgotten(
    txn: &WriteTransaction,
    number: u32,
    told: &[link::Epoch],
    now: u64,
) -> Result<(), SpoolError> {
    let Some(current) = told.last() else { return Ok(()) };
    let mut forgotten = Vec::new();
    {
        let epochs = txn.open_table(EPOCHS)?;
        for row in epochs.range((number, 0)..=(number, u64::MAX))? {
            let (key, value) = row?;
            let (epoch, record) = (key.value().1, decode::<EpochRecord>(value.value())?);
            let earlier = record.start_counter < current.start_counter;
            if earlier && !record.closed && !told.iter().any(|e| e.epoch == epoch) {
                forgotten.push((epoch, record));
            }
        }
    }
    for (epoch, mut record) in forgotten {
        tracing::error!(
            event.name = "perigee.ledger.epoch_lost",
            epoch = format!("{epoch:016x}"),
            "the satellite has lost an earlier log; what was on board is reported as unknown"
        );
        let mut drops = Vec::new();
        for lane in &record.lanes {
            let Ok(lane_number) = u8::try_from(lane.lane) else { continue };
            let committed = committed_ranges(&txn.open_table(COMMITTED)?, number, epoch, Lane(lane_number))?;
            let mut missing = RangeSet::from_wire(&lane.on_board);
            committed.into_iter().for_each(|(range, _)| missing.remove(range));
            drops.push(link::Drop {
                // Above every id that the satellite gives.
                id: u64::MAX - u64::from(lane_number),
                reason: link::DropReason::Corruption as i32,
                lane: lane.lane,
                sequences: missing
                    .first()
                    .zip(missing.last())
                    .map(|(s, e)| link::Range { start: s, end: e + 1 }),
                counts_unknown: true,
                dropped_unix_nano: now,
                ..link::Drop::default()
            });
        }
        insert_drops(txn, number, epoch, &drops, now)?;
        record.closed = true;
        txn.open_table(EPOCHS)?.insert((number, epoch), record.encode_to_vec().as_slice())?;
    }
    Ok(())
}

/// The number of a satellite; a new one when it has none.
pub(super) fn number(txn: &WriteTransaction, satellite: &str) -> Result<u32, SpoolError> {
    let mut table = txn.open_table(SATELLITES)?;
    if let Some(known) = table.get(satellite)? {
        return Ok(decode::<SatelliteRecord>(known.value())?.number);
    }
    let mut meta = txn.open_table(META)?;
    let next = meta.get("next_satellite")?.map_or(1, |v| v.value());
    meta.insert("next_satellite", next + 1)?;
    let number = u32::try_from(next).map_err(|_| SpoolError::Damaged("satellite numbers ran out"))?;
    let record = SatelliteRecord { number, ..SatelliteRecord::default() };
    table.insert(satellite, record.encode_to_vec().as_slice())?;
    Ok(number)
}

/// Deletes partials of segments that are not on board any more; their bytes by satellite.
fn forget_partials(
    txn: &WriteTransaction,
    number: u32,
    epoch: &link::Epoch,
) -> Result<Vec<(u32, u64)>, SpoolError> {
    let mut stale = Vec::new();
    {
        let partials = txn.open_table(PARTIALS)?;
        let keys = (number, epoch.epoch, 0, 0)..=(number, epoch.epoch, u8::MAX, u64::MAX);
        for row in partials.range(keys)? {
            let key = row?.0.value();
            let lane = epoch.lanes.iter().find(|l| l.lane == u32::from(key.2));
            let on_board = lane.is_some_and(|l| {
                l.on_board.iter().any(|r| (r.start..r.end).contains(&key.3))
                    // It may have been sealed after this Hello was written.
                    || key.3 >= l.next_sequence
            });
            if !on_board {
                stale.push(key);
            }
        }
    }
    let mut out = Vec::new();
    for key in stale {
        out.push((number, super::intake::delete_partial(txn, key)?));
    }
    Ok(out)
}

fn insert_drops(
    txn: &WriteTransaction,
    number: u32,
    epoch: u64,
    new: &[link::Drop],
    now: u64,
) -> Result<(), SpoolError> {
    let mut counters = Counters(txn.open_table(COUNTERS)?);
    let mut drops = txn.open_table(DROPS)?;
    let mut dropped = txn.open_table(DROPPED)?;
    let recent = txn.open_table(RECENT)?;
    for drop in new {
        if drops.get((number, epoch, drop.id))?.is_some() {
            continue;
        }
        let items = Counts::from(drop.items.unwrap_or_default());
        let mut overridden = Counts::ZERO;
        if let (Some(range), Ok(lane)) = (&drop.sequences, u8::try_from(drop.lane))
            && range.start < range.end
        {
            let keys = (number, epoch, lane, range.start)..(number, epoch, lane, range.end);
            for row in recent.range(keys)? {
                overridden += split_recent(row?.1.value()).map_or(Counts::ZERO, |(_, counts)| counts);
            }
            overridden = items.saturating_sub(items.saturating_sub(overridden));
            dropped.insert((number, epoch, lane, range.start), (range.end, drop.id))?;
        }
        counters.add(number, Kind::Dropped, reason(drop), items.saturating_sub(overridden))?;
        let record = DropRecord { drop: Some(*drop), overridden: Some(overridden.into()), recorded: now };
        drops.insert((number, epoch, drop.id), record.encode_to_vec().as_slice())?;
    }
    Ok(())
}

/// Committed ranges of a lane with the hash of each one's last segment.
pub(super) fn committed_ranges(
    table: &impl ReadableTable<SequenceKey, (u64, [u8; 32])>,
    number: u32,
    epoch: u64,
    lane: Lane,
) -> Result<Vec<(Range<u64>, Hash)>, SpoolError> {
    let mut out = Vec::new();
    for row in table.range(lane_keys(number, epoch, lane))? {
        let (key, value) = row?;
        let (end, hash) = value.value();
        out.push((key.value().3..end, hash));
    }
    Ok(out)
}

fn resume_epoch(
    txn: &WriteTransaction,
    number: u32,
    epoch: &link::Epoch,
    room: &mut usize,
) -> Result<link::ResumeEpoch, SpoolError> {
    let committed = txn.open_table(COMMITTED)?;
    let partials = txn.open_table(PARTIALS)?;
    let mut lanes = Vec::new();
    for lane in &epoch.lanes {
        let Ok(number_of_lane) = u8::try_from(lane.lane) else { continue };
        let on_board = RangeSet::from_wire(&lane.on_board);
        let all = committed_ranges(&committed, number, epoch.epoch, Lane(number_of_lane))?;
        let last = all.len().saturating_sub(1);
        // What is not on board any more is of no use to the satellite, but for the last range, which shows it an older state.
        let wanted = all
            .into_iter()
            .enumerate()
            .filter(|(i, (range, _))| *i == last || on_board.missing(range.clone()) != [range.clone()]);
        let committed: Vec<_> = wanted
            .map(|(_, (range, hash))| link::CommittedRange {
                sequences: Some(link::Range { start: range.start, end: range.end }),
                top_hash: hash.to_vec(),
            })
            .take(*room)
            .collect();
        *room -= committed.len();
        let mut held = Vec::new();
        for row in partials.range(lane_keys(number, epoch.epoch, Lane(number_of_lane)))? {
            let (key, value) = row?;
            let mut record = decode::<PartialRecord>(value.value())?;
            record.held.truncate(*room);
            *room -= record.held.len();
            held.push(link::Partial {
                sequence: key.value().3,
                payload_hash: record.header.map(|h| h.payload_hash).unwrap_or_default(),
                held: record.held,
            });
        }
        lanes.push(link::ResumeLane { lane: lane.lane, committed, partials: held });
    }
    let drops_acknowledged = epoch.drops.iter().map(|d| d.id).collect();
    Ok(link::ResumeEpoch { epoch: epoch.epoch, lanes, drops_acknowledged })
}
