//! What ledgers have acknowledged lately: in the log with hashes and items, and for the epoch that is, in memory and in `counters.json`
//! too. From the satellite alone a station that has lost its spool and what lay beside it learns that it has lost something.

use std::collections::BTreeMap;

use perigee_proto::link;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Hash, Lane, SegmentId};
use perigee_shared::signal::Counts;
use perigee_shared::store::StoreError;
use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::state::Edit;
use super::tables::*;

/// Sequences of each lane, the latest, of which it is kept what a ground has acknowledged: to notice a log that is older than the
/// ground's knowledge, and a ledger that is older than the log's.
const KEPT_PAIRS: u64 = 1_000;

/// Ranges of a lane and a ledger in the file beside the log: the latest.
const MOST_RANGES: usize = 64;

/// A segment, its payload's hash, and its items where they are known.
pub(super) type Top = (SegmentId, Hash, Option<Counts>);

/// What ledgers have acknowledged of an epoch, by their ids.
pub(super) type Ledgers = BTreeMap<u64, Acknowledged>;

/// What one of them has.
#[derive(Debug, Clone, Default)]
pub(super) struct Acknowledged {
    /// The station that said so last.
    pub(super) station: String,
    lanes: BTreeMap<Lane, RangeSet>,
}

impl Acknowledged {
    /// Adds segments, and leaves of each lane the latest.
    pub(super) fn add(&mut self, segments: impl IntoIterator<Item = (Lane, u64)>) {
        for (lane, sequence) in segments {
            let of = self.lanes.entry(lane).or_default();
            of.insert(sequence..sequence.saturating_add(1));
            of.remove(0..first_kept(of.last()));
        }
    }
}

/// The first sequence that is kept when `last` is the latest.
pub(super) fn first_kept(last: Option<u64>) -> u64 {
    last.map_or(0, |last| last.saturating_sub(KEPT_PAIRS - 1))
}

/// The same in the file beside the log: ledger, station, lane, and of each range the first sequence and the one behind the last.
pub(super) type Mirrored = (u64, String, u8, Vec<(u64, u64)>);

/// What is noted of `ledgers` in the file.
pub(super) fn mirrored(ledgers: &Ledgers) -> Vec<Mirrored> {
    let mut out = Vec::new();
    for (ledger, of) in ledgers {
        for (lane, ranges) in &of.lanes {
            let latest = ranges.iter().rev().take(MOST_RANGES).map(|range| (range.start, range.end));
            out.push((*ledger, of.station.clone(), lane.0, latest.collect()));
        }
    }
    out
}

/// Puts what was noted so into the epoch as it is closed.
pub(super) fn tell((ledger, station, lane, sequences): &Mirrored, closed: &mut link::Epoch) {
    let Some(lane) = closed.lanes.iter_mut().find(|of| of.lane == u32::from(*lane)) else { return };
    lane.acknowledged.push(link::Acknowledged {
        ledger: *ledger,
        station: station.clone(),
        sequences: sequences.iter().map(|(start, end)| *start..*end).collect::<RangeSet>().to_wire(),
        ..link::Acknowledged::default()
    });
}

/// What the tables have, and behind it what `more` has beyond that.
pub(super) fn join(known: Vec<link::Acknowledged>, more: &[link::Acknowledged]) -> Vec<link::Acknowledged> {
    let mut out = known;
    for more in more {
        let mut rest = RangeSet::from_wire(&more.sequences);
        let same = out.iter().filter(|known| known.ledger == more.ledger);
        same.flat_map(|known| &known.sequences).for_each(|range| rest.remove(range.start..range.end));
        if rest.total() > 0 {
            let all = rest.to_wire() == more.sequences;
            let items = more.items.filter(|_| all);
            out.push(link::Acknowledged { sequences: rest.to_wire(), items, ..more.clone() });
        }
    }
    out
}

/// The lanes of segments.
pub(super) fn lanes(tops: &[Top]) -> Vec<(u64, Lane)> {
    let mut out = Vec::new();
    for (id, ..) in tops {
        if !out.contains(&(id.epoch, id.lane)) {
            out.push((id.epoch, id.lane));
        }
    }
    out
}

/// Keeps what a ledger has acknowledged, of each lane the latest.
pub(super) fn note(
    txn: &WriteTransaction,
    ledger: u64,
    station: &str,
    tops: &[Top],
) -> Result<Option<Edit>, StoreError> {
    if ledger == 0 || tops.is_empty() {
        return Ok(None);
    }
    let mut ledgers = txn.open_table(LEDGERS)?;
    if ledgers.get(ledger)?.is_none_or(|v| v.value() != station) {
        ledgers.insert(ledger, station)?;
    }
    let mut acknowledged = txn.open_table(ACKNOWLEDGED)?;
    let key = |epoch, lane: Lane, sequence| AckKey { ledger, epoch, lane: lane.0, sequence };
    for (SegmentId { epoch, lane, sequence }, hash, items) in tops {
        let key = key(*epoch, *lane, *sequence);
        let mut value = hash.to_vec();
        match items {
            Some(items) => value.extend(items.to_bytes()),
            // What was noted when it was on board stays.
            None if acknowledged.get(key)?.is_some_and(|v| v.value().starts_with(hash)) => continue,
            None => {}
        }
        acknowledged.insert(key, &value[..])?;
    }
    for (epoch, lane) in lanes(tops) {
        let of_lane = key(epoch, lane, 0)..=key(epoch, lane, u64::MAX);
        let latest = acknowledged.range(of_lane)?.next_back().transpose()?;
        let keep = first_kept(latest.map(|(key, _)| key.value().sequence));
        acknowledged.retain_in(key(epoch, lane, 0)..key(epoch, lane, keep), |_, _| false)?;
    }
    let segments = tops.iter().map(|(id, ..)| (id.lane, id.sequence)).collect();
    Ok(Some(Edit::Acknowledged { ledger, station: station.to_owned(), segments }))
}

/// What the tables have of an epoch.
pub(super) fn load(txn: &ReadTransaction, epoch: u64) -> Result<Ledgers, StoreError> {
    let mut out = Ledgers::new();
    let (Some(rows), Some(ledgers)) = (if_made(txn, ACKNOWLEDGED)?, if_made(txn, LEDGERS)?) else {
        return Ok(out);
    };
    for entry in ledgers.iter()? {
        let (ledger, station) = entry?;
        let key = |lane, sequence| AckKey { ledger: ledger.value(), epoch, lane, sequence };
        for row in rows.range(key(0, 0)..=key(u8::MAX, u64::MAX))? {
            let AckKey { lane, sequence, .. } = row?.0.value();
            let of = out.entry(ledger.value()).or_default();
            of.station = station.value().to_owned();
            of.add([(Lane(lane), sequence)]);
        }
    }
    Ok(out)
}

/// The hash of a segment that a ledger acknowledged, and behind it how many items it had. Earlier software, and what was no more on
/// board then, has the hash alone.
fn split_acknowledged(value: &[u8]) -> (&[u8], Option<Counts>) {
    let (hash, items) = value.split_at(value.len().min(size_of::<Hash>()));
    (hash, Counts::from_bytes(items))
}

/// What ledgers have acknowledged lately, by epoch and lane.
pub(super) fn told(
    txn: &ReadTransaction,
) -> Result<BTreeMap<(u64, u32), Vec<link::Acknowledged>>, StoreError> {
    let mut out: BTreeMap<(u64, u32), Vec<link::Acknowledged>> = BTreeMap::new();
    let (Some(rows), Some(ledgers)) = (if_made(txn, ACKNOWLEDGED)?, if_made(txn, LEDGERS)?) else {
        return Ok(out);
    };
    for row in rows.iter()? {
        let (key, value) = row?;
        let AckKey { ledger, epoch, lane, sequence } = key.value();
        let of = out.entry((epoch, u32::from(lane))).or_default();
        if of.last().is_none_or(|last| last.ledger != ledger) {
            let station = ledgers.get(ledger)?.map(|v| v.value().to_owned()).unwrap_or_default();
            let items = Some(link::Counts::default());
            of.push(link::Acknowledged { ledger, station, items, ..link::Acknowledged::default() });
        }
        if let Some(last) = of.last_mut() {
            let (hash, items) = split_acknowledged(value.value());
            last.top_hash = hash.to_vec();
            last.items = last.items.zip(items).map(|(sum, items)| (Counts::from(sum) + items).into());
            match last.sequences.last_mut() {
                Some(range) if range.end == sequence => range.end += 1,
                _ => last.sequences.push(link::Range { start: sequence, end: sequence + 1 }),
            }
        }
    }
    Ok(out)
}
