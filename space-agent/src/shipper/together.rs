//! What the shippers of all slots know together: what was sent and is not acknowledged, what ledgers hold of it, that something is
//! free to be sent again, and which segments wait for smaller ones.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Hash, SegmentId};
use tokio::sync::watch;

use super::waits::{Waited, Waits};

/// A part of a segment that a ledger holds: of which payload, and which bytes.
pub(super) type Held = (Hash, RangeSet);

/// Ledgers of which it is known what they hold, at most: those of the slots, and some before them.
const LEDGERS: usize = 8;

/// See the module. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Together(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    known: Mutex<Known>,
    freed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Known {
    /// Bytes that QUIC has taken on any connection, of segments that are not acknowledged.
    sent: BTreeMap<SegmentId, RangeSet>,
    /// What a ledger holds of segments that connections had under way when they ended.
    held: BTreeMap<u64, BTreeMap<SegmentId, Held>>,
    waited: Waited,
}

impl Together {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// QUIC has taken these bytes of a segment. How many of them it had taken before.
    pub(super) fn sent(&self, id: SegmentId, taken: &RangeSet) -> u64 {
        let mut known = self.known();
        let before = known.sent.entry(id).or_default();
        let fresh = |r| before.missing(r).into_iter().map(|m| m.end - m.start).sum::<u64>();
        let again = taken.iter().map(|r| r.end - r.start - fresh(r)).sum();
        taken.iter().for_each(|r| before.insert(r));
        again
    }

    /// Segments are on the ground for good.
    pub(super) fn committed(&self, is_among: impl Fn(&SegmentId) -> bool) {
        let mut known = self.known();
        known.sent.retain(|id, _| !is_among(id));
        known.held.values_mut().for_each(|of| of.retain(|id, _| !is_among(id)));
        known.held.retain(|_, of| !of.is_empty());
        known.waited.forget(is_among);
    }

    /// A pass begins.
    pub(super) fn begin(&self) -> Waits {
        self.known().waited.begin()
    }

    /// It is over.
    pub(super) fn end(&self, waits: Waits) {
        self.known().waited.end(waits);
    }

    /// A connection has ended, and this is what its ledger holds of what was under way.
    pub(super) fn leave(&self, ledger: u64, held: BTreeMap<SegmentId, Held>) {
        if ledger != 0 && !held.is_empty() {
            let of = &mut self.known().held;
            if of.len() >= LEDGERS && !of.contains_key(&ledger) {
                of.pop_first();
            }
            of.entry(ledger).or_default().extend(held);
        }
        self.free();
    }

    /// What `ledger` holds of what was under way on connections that have ended.
    pub(super) fn left(&self, ledger: u64) -> BTreeMap<SegmentId, Held> {
        self.known().held.remove(&ledger).unwrap_or_default()
    }

    /// What was under way in one slot may go in another.
    pub(super) fn free(&self) {
        self.0.freed.send_modify(|times| *times += 1);
    }

    /// Changes when something is free.
    pub(super) fn freed(&self) -> watch::Receiver<u64> {
        self.0.freed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use perigee_shared::segment::{Lane, hash};

    use super::*;

    fn id(sequence: u64) -> SegmentId {
        SegmentId { epoch: 1, lane: Lane::BULK, sequence }
    }

    fn range(start: u64, end: u64) -> RangeSet {
        std::iter::once(start..end).collect()
    }

    #[test]
    fn what_is_sent_again_in_any_slot_is_counted_until_it_is_acknowledged() {
        let (one, other) = (Together::default(), Together::default());
        let two = one.clone();
        assert_eq!((one.sent(id(1), &range(0, 100)), two.sent(id(1), &range(60, 200))), (0, 40));
        assert_eq!(other.sent(id(1), &range(0, 100)), 0);
        two.committed(|of| *of == id(1));
        assert_eq!(one.sent(id(1), &range(0, 10)), 0);
    }

    #[test]
    fn what_a_ledger_holds_is_of_use_to_stations_of_that_ledger() {
        let one = Together::default();
        let two = one.clone();
        let mut freed = two.freed();
        let held = |sequence| [(id(sequence), (hash(b"it"), range(0, 9)))].into();
        one.leave(7, held(1));
        one.leave(0, held(2));
        assert!(freed.has_changed().unwrap());
        freed.mark_unchanged();
        assert!(two.left(8).is_empty() && two.left(0).is_empty());
        assert_eq!(two.left(7), held(1));
        // A station that names a new ledger each time takes no memory.
        (100..1000).for_each(|ledger| one.leave(ledger, held(4)));
        assert_eq!(one.known().held.len(), LEDGERS);
        one.leave(7, held(3));
        one.committed(|of| *of == id(3));
        assert!(two.left(7).is_empty());
    }
}
