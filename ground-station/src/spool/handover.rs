//! Segments that stations with ledgers of their own took twice: one had committed them when its acknowledgement was lost, so the
//! satellite sent them to another.
//!
//! Hello says what each ledger has acknowledged lately. What this ledger has committed and another one has acknowledged is counted
//! here, once; which sequences those are stays with the epoch for as long as a Hello may name them.

use perigee_proto::link;
use perigee_shared::link::ranges::RangeSet;
use redb::ReadableTable;

use super::counters::{Counters, Kind};
use super::error::SpoolError;
use super::file::Txn;
use super::ledger::is_committed;
use super::tables::*;

/// Sequences of a lane that a Hello may name, and as many again.
const NAMED: u64 = 2000;

/// Counts what an epoch's Hello shows to be in another ledger too. Returns all that was counted and may be named again, by lane, and
/// how many were counted now.
pub(super) fn note(
    txn: &Txn<'_>,
    satellite: u32,
    epoch: &link::Epoch,
) -> Result<(Vec<TwiceRecord>, u64), SpoolError> {
    let key = EpochKey { satellite, epoch: epoch.epoch };
    let known =
        txn.tables.open_table(EPOCHS)?.get(key)?.map(|v| decode::<EpochRecord>(v.value())).transpose()?;
    let known = known.map(|record| record.twice).unwrap_or_default();
    let committed = txn.tables.open_table(COMMITTED)?;
    let (mut out, mut fresh) = (Vec::new(), 0);
    for lane in &epoch.lanes {
        let Ok(number) = u8::try_from(lane.lane) else { continue };
        let before = known.iter().find(|twice| twice.lane == lane.lane);
        let mut counted = before.map(|twice| RangeSet::from_wire(&twice.sequences)).unwrap_or_default();
        let oldest = lane.next_sequence.saturating_sub(NAMED);
        counted.remove(0..oldest);
        let others = lane.acknowledged.iter().filter(|a| a.ledger != txn.contents.ledger);
        let mut named = RangeSet::default();
        for range in others.flat_map(|a| &a.sequences) {
            let (start, end) = (range.start.max(oldest), range.end.min(lane.next_sequence));
            named.insert(start..end.max(start));
        }
        for range in named.iter() {
            for sequence in range {
                let key = SequenceKey { satellite, epoch: epoch.epoch, lane: number, sequence };
                if !counted.contains(sequence) && is_committed(&committed, key)? {
                    counted.insert(sequence..sequence + 1);
                    fresh += 1;
                }
            }
        }
        if !counted.is_empty() {
            out.push(TwiceRecord { lane: lane.lane, sequences: counted.to_wire() });
        }
    }
    if fresh > 0 {
        Counters::of(txn.tables, satellite)?.one(Kind::HandoverTwice, fresh)?;
    }
    Ok((out, fresh))
}
