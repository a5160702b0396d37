//! The gaps of this station in the ledger's mirror.
//!
//! A gap goes on when the file that it is in is lost. When a file comes back that still has the segments of a gap, because the spool
//! was put back that the station had run without, they are exported, and the gap is withdrawn.

use std::collections::BTreeMap;

use perigee_proto::link::{self, DropReason};
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::SegmentId;
use perigee_shared::signal::{Counts, SignalSet};
use prost::Message;
use redb::{ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::counters::{Counters, Kind};
use super::error::SpoolError;
use super::file::View;
use super::gaps;
use super::mirror::{digits, read_drop};
use super::tables::*;

/// Gaps of an epoch, and ranges of a gap, that the mirror has at most: the latest gaps. What is left out is in the next gap.
const MOST: usize = 64;

/// Gaps of this station in one epoch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct OwnGaps {
    gaps: Vec<OwnGap>,
    /// Some that are left out say at most how many items they have.
    at_most: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct OwnGap {
    /// The record of the file, in hexadecimal digits.
    record: String,
    /// The segments that did not come again: first sequence, the one behind the last.
    sequences: Vec<(u64, u64)>,
}

/// What of a gap did not come again.
fn left(record: &DropRecord) -> Option<Counts> {
    let items = Counts::from(record.drop?.items?);
    Some(items.saturating_sub(record.overridden.unwrap_or_default().into()))
}

/// Whether all of a gap with a count came again.
fn is_over(record: &DropRecord) -> bool {
    let had_items = record.drop.and_then(|drop| drop.items).is_some_and(|i| i != link::Counts::default());
    had_items && left(record).is_some_and(|left| left.total() == 0)
}

/// The gaps of this station in an epoch.
pub(super) fn draw_up(view: &View<'_>, of: EpochKey) -> Result<OwnGaps, SpoolError> {
    let EpochKey { satellite, epoch } = of;
    let (mut out, ids) = (OwnGaps::default(), gaps::own_ids());
    let key = |id| DropKey { satellite, epoch, id };
    let dropped = view.tables.open_table(DROPPED)?;
    for row in view.tables.open_table(DROPS)?.range(key(ids.start)..key(ids.end))? {
        let (key, value) = row?;
        let record = decode::<DropRecord>(value.value())?;
        let Some(drop) = record.drop.filter(|drop| drop.reason() == DropReason::StationLost) else {
            continue;
        };
        if is_over(&record) {
            continue;
        }
        if out.gaps.len() == MOST {
            out.at_most |= drop.counts_unknown;
            continue;
        }
        let mut sequences = Vec::new();
        if let (Some(range), Ok(lane)) = (drop.sequences, u8::try_from(drop.lane)) {
            let first = SequenceKey { satellite, epoch, lane, sequence: range.start };
            for row in dropped.range(first..first.at(range.end))? {
                let (at, run) = row?;
                if run.value().id == key.value().id && sequences.len() < MOST {
                    sequences.push((at.value().sequence, run.value().end));
                }
            }
            // A part of one segment: it does not come again.
            if sequences.is_empty() && range.start + 1 == range.end {
                sequences.push((range.start, range.end));
            }
        }
        out.gaps.push(OwnGap { record: digits(value.value()), sequences });
    }
    Ok(out)
}

/// A gap of the mirror that the file does not have.
struct Unknown {
    key: DropKey,
    record: DropRecord,
    lane: u8,
    /// The signals of which it has, or may have, items.
    signals: SignalSet,
    sequences: RangeSet,
}

/// The gaps of a satellite that the mirror has and the file does not.
#[derive(Default)]
pub(super) struct Missing {
    gaps: Vec<Unknown>,
    at_most: bool,
    /// Where the exporters were in this file, in the lanes of which it has segments of these gaps.
    returned: BTreeMap<u8, Vec<(String, Cursor)>>,
}

impl Missing {
    /// Whether gaps that the mirror has no room for say at most how many items they have.
    pub(super) const fn at_most(&self) -> bool {
        self.at_most
    }

    /// Takes in the gaps of an epoch. One that the file has is not brought back, only to what came again of it.
    pub(super) fn add(
        &mut self,
        tables: &WriteTransaction,
        EpochKey { satellite, epoch }: EpochKey,
        known: &OwnGaps,
    ) -> Result<(), SpoolError> {
        self.at_most |= known.at_most;
        let (mut drops, mut lowest) = (tables.open_table(DROPS)?, u64::MAX);
        for gap in &known.gaps {
            let Some(mut record) = read_drop(&gap.record) else { continue };
            let Some(drop) = record.drop else { continue };
            let (Some(_), Ok(lane)) = (gaps::own_number(drop.id), u8::try_from(drop.lane)) else { continue };
            lowest = lowest.min(drop.id);
            let key = DropKey { satellite, epoch, id: drop.id };
            let here = drops.get(key)?.map(|v| decode::<DropRecord>(v.value())).transpose()?;
            let Some(here) = here else {
                let sequences = gap.sequences.iter().map(|(start, end)| *start..*end).collect();
                let counted = left(&record).filter(|_| !drop.counts_unknown);
                let signals = counted.map_or(SignalSet::ALL, Counts::signals);
                self.gaps.push(Unknown { key, record, lane, signals, sequences });
                continue;
            };
            let (ours, theirs) = (here.overridden.unwrap_or_default().into(), record.overridden);
            let came = Counts::from(theirs.unwrap_or_default()).max(ours);
            if here.drop == record.drop && came != ours {
                Counters::of(tables, satellite)?.sub(
                    Kind::Lost,
                    drop.reason as u8,
                    came.saturating_sub(ours),
                )?;
                record.overridden = Some(came.into());
                drops.insert(key, record.encode_to_vec().as_slice())?;
            }
        }
        if let Some(number) = gaps::own_number(lowest) {
            let mut meta = tables.open_table(META)?;
            let before = meta.get("next_gap")?.map_or(1, |v| v.value());
            meta.insert("next_gap", before.max(number + 1))?;
        }
        Ok(())
    }

    /// The signals of a segment of this file that are in one of these gaps: they were not exported, wherever the exporters are.
    pub(super) fn of(&self, id: SegmentId) -> SignalSet {
        let of = |gap: &&Unknown| {
            (gap.key.epoch, gap.lane) == (id.epoch, id.lane.0) && gap.sequences.contains(id.sequence)
        };
        self.gaps.iter().find(of).map_or(SignalSet::default(), |gap| gap.signals)
    }

    /// Takes a segment that this file has out of its gap. `before`: where the exporters were in this file.
    pub(super) fn withdraw(&mut self, id: SegmentId, items: Counts, before: &[CursorRow], satellite: u32) {
        let of = |gap: &&mut Unknown| {
            (gap.key.epoch, gap.lane) == (id.epoch, id.lane.0) && gap.sequences.contains(id.sequence)
        };
        let Some(gap) = self.gaps.iter_mut().find(of) else { return };
        gap.sequences.remove(id.sequence..id.sequence + 1);
        if let Some(left) = left(&gap.record) {
            let came = Counts::from(gap.record.overridden.unwrap_or_default());
            gap.record.overridden = Some((came + items.min(left)).into());
        }
        self.returned.entry(id.lane.0).or_insert_with(|| {
            let of_lane = before.iter().filter(|(_, of, lane, _)| (*of, *lane) == (satellite, id.lane.0));
            of_lane.map(|(name, _, _, cursor)| (name.clone(), *cursor)).collect()
        });
    }

    /// Takes the exporters back to where they were in this file, in lanes of which it has segments of these gaps: what was
    /// exported since is settled.
    pub(super) fn take_back(&self, tables: &WriteTransaction, satellite: u32) -> Result<(), SpoolError> {
        let mut cursors = tables.open_table(CURSORS)?;
        for (lane, before) in &self.returned {
            let (names, mut now) = (before.iter().map(|(name, _)| name), Vec::new());
            for row in cursors.iter()? {
                let key = row?.0;
                let (name, of, at) = key.value();
                if (of, at) == (satellite, *lane) && names.clone().all(|n| n != name) {
                    now.push(name.to_owned());
                }
            }
            for name in now {
                cursors.remove((name.as_str(), satellite, *lane))?;
            }
            for (name, cursor) in before {
                cursors.insert((name.as_str(), satellite, *lane), *cursor)?;
            }
        }
        Ok(())
    }

    /// Records what is left of the gaps, `room` at most: what the file knows of these items is no gap.
    pub(super) fn record(self, tables: &WriteTransaction, mut room: Counts) -> Result<(), SpoolError> {
        let mut drops = tables.open_table(DROPS)?;
        let mut dropped = tables.open_table(DROPPED)?;
        let (named, unnamed): (Vec<_>, Vec<_>) =
            self.gaps.into_iter().partition(|gap| !gap.sequences.is_empty());
        for Unknown { key, mut record, lane, sequences, .. } in named.into_iter().chain(unnamed) {
            let Some(drop) = &mut record.drop else { continue };
            let had = drop.sequences.map_or(0, |range| range.end.saturating_sub(range.start));
            if had > 0 && sequences.total() < had {
                let range = |(start, last)| link::Range { start, end: last + 1 };
                drop.sequences = sequences.first().zip(sequences.last()).map(range).or(drop.sequences);
            }
            let reason = u8::try_from(drop.reason).unwrap_or(0);
            match left(&record) {
                Some(left) => {
                    let lost = left.min(room);
                    room = room.saturating_sub(lost);
                    let came = Counts::from(record.overridden.unwrap_or_default());
                    record.overridden = Some((came + left.saturating_sub(lost)).into());
                    if is_over(&record) {
                        continue;
                    }
                    Counters::of(tables, key.satellite)?.add(Kind::Lost, reason, lost)?;
                }
                None if had > 0 && sequences.is_empty() => continue,
                None => {}
            }
            for range in sequences.iter() {
                let first =
                    SequenceKey { satellite: key.satellite, epoch: key.epoch, lane, sequence: range.start };
                dropped.insert(first, DroppedRun { end: range.end, id: key.id })?;
            }
            drops.insert(key, record.encode_to_vec().as_slice())?;
        }
        Ok(())
    }
}

/// Exporter, satellite, lane, and where it is.
pub(super) type CursorRow = (String, u32, u8, Cursor);

/// Where the exporters are.
pub(super) fn cursors(tables: &WriteTransaction) -> Result<Vec<CursorRow>, SpoolError> {
    let mut out = Vec::new();
    for row in tables.open_table(CURSORS)?.iter()? {
        let (key, value) = row?;
        let (name, satellite, lane) = key.value();
        out.push((name.to_owned(), satellite, lane, value.value()));
    }
    Ok(out)
}
