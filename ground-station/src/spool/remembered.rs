//! How many items the segments had that a lost file remembered: what a satellite was told is committed, less these, is what is missing.
//!
//! The mirror has them in parts, and a spool that goes on from it keeps these in the record of the epoch. A part counts where nothing
//! newer is known of its segments.

use perigee_shared::link::ranges::RangeSet;
use perigee_shared::signal::{Counts, Signal};
use redb::ReadableTable;

use super::error::SpoolError;
use super::ledger::{RECENT_KEPT, split_recent};
use super::tables::*;

/// Parts of a lane at most.
const MOST: usize = 64;

/// First sequence, the one behind the last, items by signal.
pub(super) type Part = (u64, u64, [u64; 3]);

/// The parts of a lane: those that the record of its epoch has, and what this file remembers itself.
pub(super) fn parts(
    recent: &impl ReadableTable<SequenceKey, &'static [u8; 56]>,
    of: SequenceKey,
    known: &[RememberedRecord],
) -> Result<Vec<Part>, SpoolError> {
    let (mut all, mut here) = (Vec::new(), RangeSet::default());
    for row in recent.range(of.at(0)..=of.at(u64::MAX))? {
        let (key, value) = row?;
        let sequence = key.value().sequence;
        here.insert(sequence..sequence + 1);
        let items = split_recent(value.value()).map_or(Counts::ZERO, |(_, items)| items);
        all.push((sequence, sequence + 1, items));
    }
    all.extend(older(of.lane, known, &here).map(|(range, items)| (range.start, range.end, items)));
    all.sort_unstable_by_key(|(start, ..)| *start);
    let kept = all.last().map_or(0, |(_, end, _)| end.saturating_sub(RECENT_KEPT));
    all.retain(|(start, _, items)| *start >= kept && items.total() > 0);
    let several = all.len().div_ceil(MOST).max(1);
    let join = |parts: &[(u64, u64, Counts)]| {
        let items: Counts = parts.iter().map(|(.., items)| *items).sum();
        Some((parts.first()?.0, parts.last()?.1, Signal::ALL.map(|s| items[s])))
    };
    Ok(all.chunks(several).filter_map(join).collect())
}

/// Those parts of a lane of which this file does not remember a segment.
fn older(
    lane: u8,
    known: &[RememberedRecord],
    here: &RangeSet,
) -> impl Iterator<Item = (std::ops::Range<u64>, Counts)> {
    known.iter().filter(move |of| of.lane == u32::from(lane)).filter_map(move |of| {
        let range = of.first..of.end;
        (!range.is_empty() && here.missing(range.clone()) == [range.clone()])
            .then(|| (range, of.items.unwrap_or_default().into()))
    })
}

/// Items of the parts of a lane whose segments are all in `told`, of which this file does not remember one.
pub(super) fn items(lane: u8, known: &[RememberedRecord], here: &RangeSet, told: &RangeSet) -> Counts {
    let all_told = |range: &std::ops::Range<u64>| told.missing(range.clone()).is_empty();
    older(lane, known, here).filter(|(range, _)| all_told(range)).map(|(_, items)| items).sum()
}

/// The record of a part.
pub(super) fn record(lane: u8, (first, end, items): Part) -> RememberedRecord {
    let items: Counts = Signal::ALL.into_iter().zip(items).map(|(s, n)| Counts::of(s, n)).sum();
    RememberedRecord { lane: u32::from(lane), first, end, items: Some(items.into()) }
}
