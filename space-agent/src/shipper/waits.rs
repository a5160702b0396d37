//! Which segments wait for smaller ones. One that the rest of a pass would not finish does, since a part of it is of no use before a
//! later pass, but not for ever: after two passes it goes in its turn in the third, and so on until the ground has all of it.

use std::collections::{BTreeMap, BTreeSet};

use perigee_shared::segment::SegmentId;

/// Passes in which a segment waits at most before its turn.
const PASSES: u8 = 2;

/// Segments that are known to have waited, at most.
const KNOWN: usize = 1_000;

/// What waits in one pass.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// Those that have waited long enough.
    due: BTreeSet<SegmentId>,
    /// Those that smaller ones went before, or may go before.
    waiting: BTreeSet<SegmentId>,
    /// Those that were due and went in their turn.
    gone: BTreeSet<SegmentId>,
}

impl Waits {
    /// Whether it goes in its turn, however large it is.
    pub(super) fn is_due(&self, id: SegmentId) -> bool {
        self.due.contains(&id)
    }

    /// Smaller ones go before it.
    pub(super) fn wait(&mut self, id: SegmentId) {
        self.waiting.insert(id);
    }

    /// It goes in its turn.
    pub(super) fn go(&mut self, id: SegmentId) {
        self.gone.insert(id);
    }
}

/// In how many passes segments have waited.
#[derive(Debug, Default)]
pub(super) struct Waited(BTreeMap<SegmentId, u8>);

impl Waited {
    /// A pass begins.
    pub(super) fn begin(&self) -> Waits {
        let due = self.0.iter().filter(|(_, passes)| **passes >= PASSES).map(|(id, _)| *id);
        Waits { due: due.collect(), ..Waits::default() }
    }

    /// A pass is over.
    pub(super) fn end(&mut self, waits: Waits) {
        for id in waits.waiting {
            *self.0.entry(id).or_default() += 1;
        }
        for id in waits.gone {
            self.0.remove(&id);
        }
        while self.0.len() > KNOWN {
            self.0.pop_first();
        }
    }

    /// Segments are on the ground for good.
    pub(super) fn forget(&mut self, is_among: impl Fn(&SegmentId) -> bool) {
        self.0.retain(|id, _| !is_among(id));
    }
}

#[cfg(test)]
mod tests {
    use perigee_shared::segment::Lane;

    use super::*;

    fn id(sequence: u64) -> SegmentId {
        SegmentId { epoch: 1, lane: Lane::BULK, sequence }
    }

    #[test]
    fn what_has_waited_in_two_passes_is_due_until_it_has_gone_in_its_turn() {
        let mut waited = Waited::default();
        let mut due = Vec::new();
        for pass in 1..=7 {
            let mut waits = waited.begin();
            if waits.is_due(id(1)) {
                due.push(pass);
                // In pass 3 nothing came of it: what is more urgent took all of the pass.
                if pass != 3 {
                    waits.go(id(1));
                }
            } else {
                waits.wait(id(1));
                waits.wait(id(1));
            }
            waited.end(waits);
        }
        assert_eq!(due, [3, 4, 7]);
        waited.end(Waits { waiting: [id(1), id(2)].into(), ..Waits::default() });
        waited.forget(|of| *of == id(2));
        assert_eq!(waited.0, [(id(1), 1)].into());
        waited.end(Waits { waiting: (0..5_000).map(id).collect(), ..Waits::default() });
        assert_eq!(waited.0.len(), KNOWN);
    }
}
