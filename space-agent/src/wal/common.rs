//! What two states of one log have in common, of which a ground has met the later one: what it has need not be sent again.
//!
//! A log that was put back as a whole, with everything beside it, cannot know that. It grows at its end alone and passes a group number
//! over at each opening. So groups that follow each other are the same in both states as far as this one goes, if the first has the same
//! number and checksum. The ground says that of each segment; see [`link::Groups`].

use std::collections::{BTreeMap, BTreeSet};

use perigee_proto::link;
use perigee_shared::segment::SegmentId;
use perigee_shared::store::StoreError;
use redb::ReadTransaction;

use super::epochs::GroundLane;
use super::gathered;
use super::group::alone;
use super::seal::{BatchLimits, Encoding};
use super::state::State;
use super::tables::*;
use super::{SegmentRecord, Wal, WalError};

/// What is sealed at once for the ground that has it already: little memory is asked for.
const LIMITS: BatchLimits = BatchLimits { items: u64::MAX, raw: 1 << 20 };

/// Segments on board that the ground has for certain, whatever else it has under their names. Only who was sent a segment, in another
/// state of this log, knows its hash, or what it was made of. What is in no segment yet is sealed for it, since others may wait for it.
pub(super) fn proven(wal: &mut Wal, ground: &[GroundLane]) -> Result<Vec<SegmentId>, WalError> {
    let mut all = Vec::new();
    for lane in ground {
        let ends = wal.read(|txn, state| Ok::<_, WalError>(in_common(txn, state, lane)?.1))?;
        for end in ends {
            while let Some(batch) = wal.segments().take_batch_below(lane.lane, LIMITS, true, end)? {
                let now = wal.env().unix_nano();
                // The next sealing finds the same damage, and says so.
                let Ok(sealed) = batch.seal(&Encoding::plain(), now) else { break };
                wal.segments().commit(sealed)?;
            }
        }
        all.extend(wal.read(|txn, state| Ok::<_, WalError>(in_common(txn, state, lane)?.0))?);
    }
    Ok(all)
}

/// The segments of a lane that the ground has; and of the groups that are in none, where those end that it has and those before them
/// that it may not have.
fn in_common(
    txn: &ReadTransaction,
    state: &State,
    ground: &GroundLane,
) -> Result<(Vec<SegmentId>, Vec<u64>), StoreError> {
    let mut walk = Walk::of(ground);
    let mut proven = Vec::new();
    for row in txn.open_table(SEGMENTS)?.range(lane_from(ground.lane, 0))? {
        let header = SegmentRecord::from_bytes(row?.1.value())?.header;
        // Each is walked over, for those behind it.
        let by_groups = header.made_of.is_some_and(|own| walk.reach(&own) == own.end);
        let by_hash = ground.tops.contains(&(header.id.sequence, header.hash));
        proven.extend((header.id.epoch == state.life.epoch && (by_groups || by_hash)).then_some(header.id));
    }
    let (mut ends, mut passed) = (Vec::new(), 0);
    let Some(lane) = state.lanes.get(&ground.lane) else { return Ok((proven, ends)) };
    let journal = txn.open_table(JOURNAL)?;
    let numbers: Vec<u64> = lane.pending.iter().map(|group| group.number).collect();
    let firsts: BTreeSet<u64> = gathered(ground.made_of.iter().map(|(_, of)| of.first));
    let is_together =
        |before: &u64, number: &u64| follows(state, *before, *number) && !firsts.contains(number);
    for together in numbers.chunk_by(is_together) {
        let (first, last) = (together[0], together[together.len() - 1]);
        let Some(own) = alone(first, &state.group(&journal, first)?) else { break };
        let had = walk.reach(&link::Groups { end: last + 1, ..own });
        if had > first {
            ends.extend([passed, had]);
        }
        passed = last + 1;
    }
    Ok((proven, ends))
}

/// The number that the next group gets. One is passed over at each opening: groups that follow each other were in the log together
/// before it may have been copied or put back.
pub(super) fn next_number(state: &State) -> u64 {
    state.next_group + u64::from(state.is_fresh)
}

/// Whether nothing but commits lies between two groups that are in the journal: no start of this program, and none that was dropped.
pub(super) fn follows(state: &State, before: u64, number: u64) -> bool {
    let at = |number| state.unsealed.binary_search_by_key(&number, |group| group.number).ok();
    at(before).zip(at(number)).is_some_and(|(from, to)| (to - from) as u64 == number - before)
}

/// Goes through this log's groups of a lane, beside what the ground's segments of it were made of.
pub(super) struct Walk {
    ground: BTreeMap<u64, link::Groups>,
    /// The ground's segment with the first of those that were together with the latest in both states.
    from: Option<u64>,
    /// Where the latest end.
    end: u64,
}

impl Walk {
    pub(super) fn of(lane: &GroundLane) -> Self {
        Self { ground: gathered(lane.made_of.iter().copied()), from: None, end: 0 }
    }

    /// The end of those of the next groups that the ground has; their beginning if it has none.
    pub(super) fn reach(&mut self, own: &link::Groups) -> u64 {
        let is_same = |groups: &link::Groups| (groups.first, groups.checksum) == (own.first, own.checksum);
        let same = self.ground.iter().find_map(|(sequence, groups)| is_same(groups).then_some(*sequence));
        let goes_on = own.first == self.end;
        self.from = same.or(self.from.filter(|_| goes_on));
        self.end = own.end;
        let Some(sequence) = self.from else { return own.first };
        // Behind a segment that the ground does not have it may have others: they prove nothing of what is missing.
        let behind_each_other =
            self.ground.range(sequence..).zip(sequence..).take_while(|((s, _), n)| *s == n);
        let groups = behind_each_other.map(|((_, groups), _)| groups).take_while(|g| g.first < own.end);
        groups.last().map_or(own.first, |groups| groups.end.clamp(own.first, own.end))
    }
}
