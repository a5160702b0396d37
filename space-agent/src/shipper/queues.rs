//! Which segment is sent next: by lane, most urgent first, each lane in its order.
//!
//! Two segments of a lane are being written at most, and none while more urgent lanes write two, so that LOS leaves few of them
//! half sent. What is more urgent may always begin beside them: QUIC sends its streams first.
//!
//! A lane with a share is never starved. When it has got less than its share of the bytes of this connection, by as much as its
//! next segment, that segment goes before everything in QUIC too, and nothing more urgent begins until it is written. A segment
//! that went in its lane's turn may be stuck in QUIC behind what is more urgent: it counts only when the ground has it.
//!
//! One that the rest of the pass would not finish waits while a smaller one of its lane would be finished, in two passes at most
//! ([`Waits`]). While there is no smaller one it goes all the same, behind what its lane begins later.

use std::collections::{BTreeMap, VecDeque};

use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Header, Lane, SegmentId};

use super::budget::Budget;
use super::together::Held;
use super::waits::Waits;
use crate::lanes::{Lanes, Order};

/// Segments that are being written at once, those of more urgent lanes included.
const OPEN: usize = 2;

/// Headers that are fetched at once.
pub(super) const FETCH: usize = 16;

/// A segment that is being written.
#[derive(Debug)]
struct Writing {
    header: Header,
    /// Bytes of it that go.
    bytes: u64,
    /// It goes before everything.
    first: bool,
}

/// What may be begun in the rest of the pass.
#[derive(Debug)]
pub(super) struct Rest<'a> {
    /// Bytes that it carries beyond those that are on their way; `None`: that is not known.
    pub(super) room: Option<u64>,
    pub(super) budget: Option<Budget>,
    /// What the ground holds of segments.
    pub(super) held: &'a BTreeMap<SegmentId, Held>,
    pub(super) waits: &'a mut Waits,
}

impl Rest<'_> {
    /// What it carries of `lane`.
    fn room(&self, lane: Lane) -> u64 {
        let budget = self.budget.map_or(u64::MAX, |budget| budget.of(lane));
        self.room.unwrap_or(u64::MAX).min(budget)
    }

    /// Whether it finishes a segment.
    fn finishes(&self, header: &Header) -> bool {
        let held = self.held.get(&header.id).filter(|(hash, _)| *hash == header.hash);
        let missing = header.payload_len - held.map_or(0, |(_, held)| held.total()).min(header.payload_len);
        missing <= self.room(header.id.lane)
    }
}

/// A segment that is to be begun.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) header: Header,
    /// It goes before everything.
    pub(super) first: bool,
    /// It goes behind what its lane begins later.
    pub(super) late: bool,
}

/// A lane in this connection.
#[derive(Debug, Default)]
struct Queue {
    order: Order,
    share: f64,
    /// Segments that may be written, in sending order.
    ready: VecDeque<Header>,
    /// Segments that wait for Resume.
    held: Vec<Header>,
    writing: BTreeMap<SegmentId, Writing>,
    /// Bytes of segments that QUIC has, in their lane's turn, and the ground has not yet.
    in_turn: BTreeMap<SegmentId, u64>,
    /// Sequences that need not be asked for again.
    taken: RangeSet,
    fetching: bool,
    more: bool,
    /// The log is to be asked for a segment of at most so many bytes, or is being asked.
    seek: Option<u64>,
    seeking: Option<u64>,
    /// It has none of at most so many.
    none_within: Option<u64>,
    /// Some are on their way in another slot.
    elsewhere: bool,
    /// Bytes of segments that the ground has, or that went before everything.
    got: u64,
    /// Bytes of its share that it did not want while it had nothing to send: they are not made up for.
    waived: f64,
}

impl Queue {
    fn key(order: Order, header: &Header) -> u64 {
        match order {
            Order::OldestFirst | Order::EarliestExpiry => header.id.sequence,
            Order::NewestFirst => u64::MAX - header.id.sequence,
        }
    }

    fn sort(&mut self) {
        let order = self.order;
        self.ready.make_contiguous().sort_by_key(|h| Self::key(order, h));
    }

    /// Bytes of what goes next: of what is being written before everything, of what would be, or of what is stuck; `None` when
    /// there is nothing.
    fn next_bytes(&self) -> Option<u64> {
        let first = self.writing.values().find(|w| w.first).map(|w| w.bytes);
        let ready = || self.ready.front().map(|h| h.payload_len);
        let stuck = || self.in_turn.values().copied().chain(self.writing.values().map(|w| w.bytes)).min();
        first.or_else(ready).or_else(stuck)
    }

    /// Whether it has got less than its share of `total`, by as much as its next segment.
    fn is_owed(&self, total: u64) -> bool {
        let got = self.got as f64 + self.waived;
        let owed = |next| got + next as f64 <= self.share * (total + next) as f64;
        self.share > 0.0 && self.next_bytes().is_some_and(owed)
    }

    /// It has something to send again: what it did not get of `total` while it had nothing is forgotten.
    fn waive(&mut self, total: u64) {
        if self.next_bytes().is_none() {
            self.waived = self.waived.max(self.share * total as f64 - self.got as f64);
        }
    }

    /// Which of those that may be written goes next, and whether it goes late. `None`: there is none, or a smaller one may be found.
    fn choose(&mut self, rest: &mut Rest<'_>) -> Option<(usize, bool)> {
        let Self { ready, held, .. } = self;
        let lane = ready.front()?.id.lane;
        let Some(at) = ready.iter().position(|h| rest.finishes(h) || rest.waits.is_due(h.id)) else {
            // One that waits for Resume may be smaller, or finished by less.
            if !held.is_empty() || self.seeks(rest.room(lane)) {
                return None;
            }
            rest.waits.wait(self.ready.front()?.id);
            return Some((0, true));
        };
        ready.range(..at).for_each(|header| rest.waits.wait(header.id));
        if rest.waits.is_due(ready[at].id) {
            rest.waits.go(ready[at].id);
        }
        Some((at, false))
    }

    /// Whether the log may have a segment of at most `room` bytes: then it is asked.
    fn seeks(&mut self, room: u64) -> bool {
        let may_have = self.more && room > self.none_within.unwrap_or(0);
        if may_have && !self.fetching {
            self.seek = Some(room);
        }
        may_have || self.fetching
    }

    /// Whether the log should be asked for more. What is new goes first in a lane of that order, so it is asked for early.
    fn wants(&self) -> bool {
        let enough = if self.order == Order::NewestFirst { FETCH } else { OPEN };
        self.more && !self.fetching && self.ready.len() < enough && self.held.len() < FETCH
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queues(BTreeMap<Lane, Queue>);

impl Queues {
    /// Queues of the lanes `on_board` and of those that are configured.
    pub(super) fn new(on_board: impl Iterator<Item = Lane>, lanes: &Lanes) -> Self {
        let all = on_board.chain(lanes.policies.keys().copied()).chain([Lane::BULK]);
        let queue = |lane| {
            let policy = lanes.policy(lane);
            Queue { order: policy.order, share: policy.share, more: true, ..Queue::default() }
        };
        Self(all.map(|lane| (lane, queue(lane))).collect())
    }

    /// Whether this segment is being written.
    pub(super) fn is_writing(&self, id: SegmentId) -> bool {
        self.0.get(&id.lane).is_some_and(|queue| queue.writing.contains_key(&id))
    }

    /// Whether a segment is being written.
    pub(super) fn are_writing(&self) -> bool {
        self.0.values().any(|q| !q.writing.is_empty())
    }

    /// Whether the log is being asked.
    pub(super) fn are_fetching(&self) -> bool {
        self.0.values().any(|q| q.fetching)
    }

    /// Whether no segment waits to be written, as far as is known.
    pub(super) fn are_empty(&self) -> bool {
        self.0.values().all(|q| q.ready.is_empty())
    }

    /// Whether the log has no segment more, and nothing is being written.
    pub(super) fn are_drained(&self) -> bool {
        let is_drained = |q: &Queue| !q.more && !q.fetching && q.held.is_empty() && q.ready.is_empty();
        !self.are_writing() && self.0.values().all(is_drained)
    }

    /// Whether some segments are on their way in another slot, as far as is known.
    pub(super) fn are_elsewhere(&self) -> bool {
        self.0.values().any(|q| q.elsewhere)
    }

    /// There may be new segments in every lane.
    pub(super) fn look_again(&mut self) {
        self.0.values_mut().for_each(|q| (q.more, q.none_within, q.elsewhere) = (true, None, false));
    }

    /// The lanes for which the log is to be asked, with what is not wanted, and how large they may be. They count as being asked from
    /// now on.
    pub(super) fn wanted(&mut self) -> Vec<(Lane, RangeSet, Option<u64>)> {
        let mut out = Vec::new();
        for (lane, queue) in &mut self.0 {
            let seek = queue.seek.take().filter(|_| !queue.fetching);
            if queue.wants() || seek.is_some() {
                (queue.fetching, queue.seeking) = (true, seek);
                out.push((*lane, queue.taken.clone(), seek));
            }
        }
        out
    }

    /// The log was asked for `lane` and has looked at these sequences; `elsewhere`: others are on their way in another slot.
    pub(super) fn fetched(&mut self, lane: Lane, looked: &RangeSet, more: bool, elsewhere: bool) {
        let Some(queue) = self.0.get_mut(&lane) else { return };
        queue.fetching = false;
        match queue.seeking.take() {
            None => queue.more = more,
            // There are others that are larger.
            Some(within) if looked.is_empty() => queue.none_within = Some(within),
            Some(_) => {}
        }
        queue.elsewhere |= elsewhere;
        looked.iter().for_each(|r| queue.taken.insert(r));
    }

    fn total(&self) -> u64 {
        self.0.values().map(|q| q.got).sum()
    }

    /// Takes in a segment that may be written now, if `ready`, or after Resume.
    pub(super) fn put(&mut self, header: Header, ready: bool) {
        let total = self.total();
        let Some(queue) = self.0.get_mut(&header.id.lane) else { return };
        if queue.writing.contains_key(&header.id) {
            return;
        }
        if ready {
            queue.waive(total);
            queue.ready.push_back(header);
            queue.sort();
        } else {
            queue.held.push(header);
        }
    }

    /// Resume has come: nothing is held any more.
    pub(super) fn release(&mut self) {
        let total = self.total();
        for queue in self.0.values_mut() {
            queue.waive(total);
            queue.ready.extend(queue.held.drain(..));
            queue.sort();
        }
    }

    /// The ground has these sequences already.
    pub(super) fn forget(&mut self, lane: Lane, committed: &RangeSet) {
        if let Some(queue) = self.0.get_mut(&lane) {
            queue.held.retain(|h| !committed.contains(h.id.sequence));
        }
    }

    /// A segment is to be asked for once more.
    pub(super) fn again(&mut self, id: SegmentId) {
        if let Some(queue) = self.0.get_mut(&id.lane) {
            queue.taken.remove(id.sequence..id.sequence + 1);
            (queue.more, queue.none_within) = (true, None);
        }
    }

    /// Takes out the segment that is to be begun now, of lanes up to `last`; `None` when none may be.
    pub(super) fn next(&mut self, last: Lane, rest: &mut Rest<'_>) -> Option<Next> {
        let total = self.total();
        let owed = self.0.iter().filter(|(_, q)| q.is_owed(total)).map(|(lane, _)| *lane).next_back();
        let mut open = 0;
        for (lane, queue) in self.0.range_mut(..=last) {
            open += queue.writing.len();
            let waits_for_another = owed.is_some_and(|owed| owed > *lane);
            let first = owed == Some(*lane) && queue.writing.values().all(|w| !w.first);
            if (open < OPEN || first)
                && !waits_for_another
                && let Some((at, late)) = queue.choose(rest)
            {
                return queue.ready.remove(at).map(|header| Next { header, first, late });
            }
        }
        None
    }

    /// A segment is being written: so many bytes of it go.
    pub(super) fn begin(&mut self, header: Header, bytes: u64, first: bool) {
        if let Some(queue) = self.0.get_mut(&header.id.lane) {
            queue.writing.insert(header.id, Writing { header, bytes, first });
        }
    }

    /// QUIC has all of a segment.
    pub(super) fn written(&mut self, id: SegmentId) -> Option<Header> {
        let queue = self.0.get_mut(&id.lane)?;
        let Writing { header, bytes, first } = queue.writing.remove(&id)?;
        if first {
            queue.got += bytes;
        } else {
            queue.in_turn.insert(id, bytes);
        }
        Some(header)
    }

    /// The ground has a segment. Returns its header when QUIC was not known to have all of it.
    pub(super) fn acknowledged(&mut self, id: SegmentId) -> Option<Header> {
        let header = self.written(id);
        let queue = self.0.get_mut(&id.lane)?;
        queue.got += queue.in_turn.remove(&id).unwrap_or(0);
        header
    }

    /// A segment could not be written, or the ground does not want it. Bytes of it that were to go.
    pub(super) fn failed(&mut self, id: SegmentId) -> u64 {
        let Some(queue) = self.0.get_mut(&id.lane) else { return 0 };
        queue.in_turn.remove(&id);
        queue.writing.remove(&id).map_or(0, |writing| writing.bytes)
    }

    /// A segment is on its way in another slot. It is asked for again when that may have changed.
    pub(super) fn elsewhere(&mut self, id: SegmentId) {
        if let Some(queue) = self.0.get_mut(&id.lane) {
            queue.taken.remove(id.sequence..id.sequence + 1);
            queue.elsewhere = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use perigee_shared::segment::hash;
    use perigee_shared::signal::{Counts, TimeRange};
    use proptest::prelude::*;

    use super::*;
    use crate::lanes::Policy;

    const ALARMS: Lane = Lane(1);

    fn header(lane: Lane, sequence: u64, payload_len: u64) -> Header {
        Header {
            id: SegmentId { epoch: 9, lane, sequence },
            codec: 1,
            payload_len,
            raw_len: 1,
            hash: hash(&sequence.to_le_bytes()),
            items: Counts::ZERO,
            time: TimeRange::EMPTY,
            requests: 1,
            sealed_unix_nano: u64::MAX - sequence,
            base_sequence: None,
            is_base: false,
            delivery: None,
            made_of: None,
        }
    }

    fn queues(order: Order, bulk_share: f64) -> Queues {
        let alarms = Policy { order, ..Policy::default() };
        let bulk = Policy { share: bulk_share, ..Policy::default() };
        let lanes = Lanes { policies: [(ALARMS, alarms), (Lane::BULK, bulk)].into(), ..Lanes::default() };
        Queues::new(std::iter::empty(), &lanes)
    }

    /// The next one while so much may be sent.
    fn next_of(queues: &mut Queues, room: Option<u64>, waits: &mut Waits) -> Option<Next> {
        queues.next(Lane(u8::MAX), &mut Rest { room, budget: None, held: &BTreeMap::new(), waits })
    }

    fn next(queues: &mut Queues) -> Option<Next> {
        next_of(queues, None, &mut Waits::default())
    }

    /// Begins what may be begun.
    fn begin(queues: &mut Queues) -> Vec<(u8, u64)> {
        let mut out = Vec::new();
        while let Some(Next { header, first, .. }) = next(queues) {
            out.push((header.id.lane.0, header.id.sequence));
            let bytes = header.payload_len;
            queues.begin(header, bytes, first);
        }
        out
    }

    #[test]
    fn what_is_more_urgent_begins_beside_what_is_being_written() {
        let mut queues = queues(Order::OldestFirst, 0.0);
        for n in 1..=4 {
            queues.put(header(Lane::BULK, n, 1000), true);
        }
        assert_eq!(begin(&mut queues), [(8, 1), (8, 2)]);
        for n in 1..=3 {
            queues.put(header(ALARMS, n, 10), true);
        }
        assert_eq!(begin(&mut queues), [(1, 1), (1, 2)]);
        queues.written(header(Lane::BULK, 1, 0).id);
        assert!(begin(&mut queues).is_empty(), "bulk waits while two more urgent ones are written");
        queues.written(header(ALARMS, 1, 0).id);
        assert_eq!(begin(&mut queues), [(1, 3)]);
        assert!(!queues.are_empty() && queues.are_writing());
    }

    #[test]
    fn a_lane_is_sent_in_its_order() {
        for (order, expected) in [
            (Order::OldestFirst, [1, 2, 3]),
            (Order::NewestFirst, [3, 2, 1]),
            // Whatever the clock said when they were sealed.
            (Order::EarliestExpiry, [1, 2, 3]),
        ] {
            let mut queues = queues(order, 0.0);
            for n in [2, 1, 3] {
                queues.put(header(ALARMS, n, 10), true);
            }
            let sent: Vec<u64> =
                std::iter::from_fn(|| next(&mut queues)).map(|next| next.header.id.sequence).collect();
            assert_eq!(sent, expected, "{order:?}");
        }
    }

    #[test]
    fn a_lane_that_sends_what_is_new_first_asks_for_it_early() {
        let mut queues = queues(Order::NewestFirst, 0.0);
        assert_eq!(queues.wanted().len(), 2);
        queues.fetched(ALARMS, &std::iter::once(1..6).collect(), false, false);
        for n in 1..=5 {
            queues.put(header(ALARMS, n, 10), true);
        }
        assert!(queues.wanted().is_empty());
        queues.look_again();
        let taken = std::iter::once(1..6).collect();
        assert_eq!(queues.wanted(), [(ALARMS, taken, None)], "bulk is being asked for");
    }

    #[test]
    fn a_lane_that_had_nothing_to_send_does_not_make_up_for_it() {
        let mut queues = queues(Order::OldestFirst, 0.2);
        for n in 1..=50 {
            queues.put(header(ALARMS, n, 1_000_000), true);
            assert_eq!(begin(&mut queues), [(1, n)]);
            queues.acknowledged(header(ALARMS, n, 0).id);
        }
        queues.put(header(Lane::BULK, 1, 1_000_000), true);
        queues.put(header(ALARMS, 51, 10), true);
        assert_eq!(begin(&mut queues), [(1, 51), (8, 1)], "an alarm does not wait for bulk to catch up");
    }

    /// Keeps two segments ready in both lanes.
    fn fill(queues: &mut Queues, sequence: &mut u64, bytes: [(Lane, u64); 2]) {
        for (lane, bytes) in bytes {
            while queues.0[&lane].ready.len() < OPEN {
                *sequence += 1;
                queues.put(header(lane, *sequence, bytes), true);
            }
        }
    }

    proptest! {
        /// QUIC takes everything at once and sends the most urgent stream first, with more alarms and more bulk than the link
        /// can carry.
        #[test]
        fn prop_a_lane_that_is_never_empty_gets_its_share(
            share in 0.05f64..0.6, alarm_bytes in 100u64..200_000, bulk_bytes in 100u64..200_000,
        ) {
            let mut queues = queues(Order::OldestFirst, share);
            let (mut sequence, mut sent) = (0, BTreeMap::from([(ALARMS, 0u64), (Lane::BULK, 0u64)]));
            let mut in_quic: BTreeMap<(bool, SegmentId), u64> = BTreeMap::new();
            let enough = 200 * (alarm_bytes + bulk_bytes);
            while sent.values().sum::<u64>() < enough {
                fill(&mut queues, &mut sequence, [(ALARMS, alarm_bytes), (Lane::BULK, bulk_bytes)]);
                while in_quic.len() < 8
                    && let Some(Next { header, first, .. }) = next(&mut queues)
                {
                    let (id, bytes) = (header.id, header.payload_len);
                    in_quic.insert((!first, id), bytes);
                    queues.begin(header, bytes, first);
                    queues.written(id);
                    fill(&mut queues, &mut sequence, [(ALARMS, alarm_bytes), (Lane::BULK, bulk_bytes)]);
                }
                let ((_, id), bytes) = in_quic.pop_first().expect("something is always on its way");
                *sent.get_mut(&id.lane).unwrap() += bytes;
                queues.acknowledged(id);
            }
            let total: u64 = sent.values().sum();
            let got = sent[&Lane::BULK] as f64 / total as f64;
            let grain = 10.0 * (alarm_bytes + bulk_bytes) as f64 / total as f64;
            prop_assert!(got >= share - grain, "{got} of {share}");
            prop_assert!(got <= share + grain, "{got} of {share}: what is more urgent has the rest");
        }
    }

    #[test]
    fn a_segment_that_is_stuck_behind_alarms_holds_them_back_when_it_is_owed() {
        let mut queues = queues(Order::OldestFirst, 0.2);
        queues.put(header(Lane::BULK, 1, 1000), true);
        assert_eq!(begin(&mut queues), [(8, 1)]);
        queues.written(header(Lane::BULK, 1, 0).id);
        let mut alarms = 0;
        for n in 1..=20 {
            queues.put(header(ALARMS, n, 1000), true);
            alarms += begin(&mut queues).len();
            queues.acknowledged(header(ALARMS, n, 0).id);
        }
        assert_eq!(alarms, 4, "a fifth of the bytes is bulk's");
        queues.acknowledged(header(Lane::BULK, 1, 0).id);
        assert_eq!(begin(&mut queues), [(1, 5), (1, 6)]);
    }
}
