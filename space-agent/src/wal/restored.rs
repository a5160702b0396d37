//! A log that is whole and earlier than the mirror beside it: somebody has put a backup back, or a disk took commits back. The mirror
//! says what is still to be delivered; that stays, the rest goes, and what was accepted since is closed as a gap with its count.

use std::collections::BTreeMap;

use perigee_proto::link;
use perigee_shared::env::Env;
use perigee_shared::segment::SegmentId;
use perigee_shared::signal::Counts;
use perigee_shared::store::{Contents, StoreError};
use prost::Message;
use redb::{ReadableDatabase, ReadableTable, WriteTransaction};

use super::begin::{self, Found, NUMBERS_SKIPPED};
use super::custody::remove_segment;
use super::epochs::{COMPARED, begin_epoch, new_life};
use super::mirror::{Age, Mirror};
use super::salvaged::Identity;
use super::state::State;
use super::tables::*;
use super::tally::Tally;
use super::{SegmentRecord, WalConfig, bases, drops, group, salvaged};

/// Whether a log, of the life that the mirror is of, is an earlier state whose rest is to be had.
pub(super) fn is_earlier(mirror: &Mirror, age: Age, log: &Found) -> bool {
    let next = &log.next;
    let has_undone = || {
        let undone = mirror.undone(next);
        undone.iter().all(|(lane, end, _)| mirror.has_all(*lane, first(next, *lane)..*end))
    };
    mirror.is_detailed()
        && match age {
            Age::Current => false,
            // If a disk took it back, it may have been delivered after that.
            Age::OneSealBehind => mirror.is_last_word() || log.is_copy || !has_undone(),
            Age::Older => true,
        }
}

fn first(next: &BTreeMap<u8, u64>, lane: u8) -> u64 {
    next.get(&lane).copied().unwrap_or(1)
}

/// Leaves of the log what the mirror says was on board, with the mirror's counts, and begins a new epoch.
pub(super) fn put_right(
    db: &redb::Database,
    env: &Env,
    config: &WalConfig,
    found: &Found,
    mirror: &Mirror,
) -> Result<(), StoreError> {
    let mut next = found.next.clone();
    // The second commit makes both safe.
    let mut txn = db.begin_write()?;
    txn.set_durability(redb::Durability::None)?;
    let removed = remove_passed(&txn, mirror)?;
    pass_sealed(&txn, mirror, &mut next)?;
    txn.commit()?;

    let state = State::load(&db.begin_read()?, None, config)?;
    let left = state.in_segments + state.in_journal();
    let mut tally = counted(mirror, &state, left);
    let missing = tally.missing(left);
    let now = env.unix_nano();
    let txn = db.begin_write()?;
    drops::record_again(&txn, &mut tally, mirror.life().epoch, now)?;
    begin::record_closing(&txn, mirror, Some(&state), missing, &mut tally, now)?;
    drops::note_told(&txn, &mut tally)?;
    tally.store(&txn)?;
    begin::set_clock_floor(&txn, Some(mirror))?;
    let closed = link::Epoch { continued: true, ..begin::epoch(mirror.life(), &next) };
    let mut closed = mirror.acknowledged_in(closed);
    for lane in &mut closed.lanes {
        // What is sealed again of these a ground may have, though another consumer has not.
        let (start, end) = (first(&found.next, lane.lane as u8), lane.next_sequence);
        lane.compare = vec![link::Range { start: start.max(end.saturating_sub(COMPARED)), end }];
        lane.compare.retain(|range| range.start < range.end);
    }
    if closed.epoch != found.life.epoch {
        // That it was ended is not in an earlier state.
        let before = link::Epoch { continued: true, closed: true, ..begin::epoch(found.life, &found.next) };
        txn.open_table(EPOCHS)?.insert(before.epoch, before.encode_to_vec().as_slice())?;
    }
    let counter = found.life.start_counter.max(mirror.start_counter) + 1;
    begin_epoch(&txn, new_life(env, counter), closed)?;
    begin::lose_lives(&txn, Some(mirror), &state, found.life)?;
    forsake(&txn, &[found.life.epoch, mirror.life().epoch])?;
    txn.commit()?;
    tracing::error!(
        event.name = "perigee.wal.restored",
        left_items = left.total(),
        lost_items = missing.total(),
        delivered_segments = removed,
        "the log is older than counters.json beside it says, as after a backup was put back: what was delivered since is taken out, what \
         was accepted since is reported as lost, and a new epoch begins"
    );
    Ok(())
}

/// The mirror's counts, for a log that has `left` on board.
fn counted(mirror: &Mirror, state: &State, left: Counts) -> Tally {
    let mut tally = Tally {
        drops: state.tally.drops,
        drops_reported: state.tally.drops_reported,
        next_drop: state.tally.next_drop.max(mirror.tally().next_drop) + NUMBERS_SKIPPED,
        ..mirror.tally()
    };
    tally.accepted = tally.accepted.max(state.tally.accepted);
    // Of many ranges the mirror has noted some as one: what is left of that and was delivered is delivered again, in the ground's view.
    let dropped: Counts = tally.dropped.values().copied().sum();
    let twice = (tally.delivered + dropped + left).saturating_sub(tally.accepted);
    tally.delivered = tally.delivered.saturating_sub(twice);
    tally
}

/// Begins a new epoch in a log that is an earlier state of itself, whose sequences go on at `next`.
pub(super) fn begin_anew(
    txn: &WriteTransaction,
    env: &Env,
    found: &Found,
    mirror: Option<&Mirror>,
    next: &BTreeMap<u8, u64>,
) -> Result<(), StoreError> {
    let counter = found.life.start_counter.max(mirror.map_or(0, |m| m.start_counter)) + 1;
    let closed = link::Epoch { continued: true, ..begin::epoch(found.life, next) };
    begin_epoch(txn, new_life(env, counter), closed)?;
    forsake(txn, &[found.life.epoch])
}

/// Notes lives as lost, since a file of theirs that is found may have what was accepted later than this log knows, and which groups
/// are here, since it may have these too.
fn forsake(txn: &WriteTransaction, epochs: &[u64]) -> Result<(), StoreError> {
    salvaged::lose(txn, epochs)?;
    let journal = txn.open_table(JOURNAL)?;
    let mut next = 0;
    while let Some((first, _)) = journal.range(groups(next, u64::MAX))?.next().transpose()? {
        let number = first.value().group;
        let bytes = group::read(&journal, number)?;
        salvaged::remember(txn, number, [Identity::group(number, &bytes).of_lane(None)])?;
        next = number + 1;
    }
    Ok(())
}

/// Removes segments that were passed since; how many. Those that others depend on stay as bases.
fn remove_passed(txn: &WriteTransaction, mirror: &Mirror) -> Result<u64, StoreError> {
    let mut passed: Vec<SegmentId> = Vec::new();
    for row in txn.open_table(SEGMENTS)?.iter()? {
        let id = SegmentRecord::from_bytes(row?.1.value())?.header.id;
        if !mirror.has_all(id.lane.0, id.sequence..id.sequence + 1) {
            passed.push(id);
        }
    }
    bases::keep(txn, passed.iter().copied())?;
    passed.iter().try_for_each(|id| remove_segment(txn, *id))?;
    Ok(passed.len() as u64)
}

/// Passes what was sealed since. Where all those segments were on board still, what they were made of is sealed again.
fn pass_sealed(
    txn: &WriteTransaction,
    mirror: &Mirror,
    next: &mut BTreeMap<u8, u64>,
) -> Result<(), StoreError> {
    let mut lanes = txn.open_table(LANES)?;
    for (lane, end, position) in mirror.undone(next) {
        let known = lanes.get(lane)?.map(|numbers| numbers.value().position).unwrap_or(0);
        let position = if mirror.has_all(lane, first(next, lane)..end) { known } else { position };
        lanes.insert(lane, LaneNumbers { next_sequence: end, position })?;
        next.insert(lane, end);
    }
    drop(lanes);
    // A lane takes no group below its position, and no number is given twice.
    let given = number(&txn.open_table(META)?, META_NEXT_GROUP)?.unwrap_or(0);
    let highest = given.max(mirror.last_position().unwrap_or(0));
    set_numbers(txn, &[(META_NEXT_GROUP, highest + NUMBERS_SKIPPED)])
}
