//! What was sent to whom in this process: a station's word deletes nothing else.
//!
//! Nothing of it is written: what was sent before a start is offered again, and a ground that has it says so at once.

use std::collections::BTreeMap;

use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Lane, SegmentId};

/// Ledgers and stations of which it is known, at most. An honest fleet has few.
const MOST: usize = 64;

/// Who was sent something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum To {
    /// A station that has not said yet which ledger it serves, or never says.
    Station(String),
    Ledger(u64),
}

impl Default for To {
    fn default() -> Self {
        Self::Station(String::new())
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sent {
    to: BTreeMap<To, BTreeMap<Lane, RangeSet>>,
    /// The life of the log of which the last one was.
    epoch: u64,
}

impl Sent {
    /// `who` has named its ledger: what it got before is this ledger's.
    pub(super) fn names(&mut self, who: &mut To, ledger: u64) {
        if ledger == 0 || *who == To::Ledger(ledger) {
            return;
        }
        let early = self.to.remove(who).unwrap_or_default();
        *who = To::Ledger(ledger);
        if !early.is_empty() {
            let of = self.of(who);
            for (lane, sequences) in early {
                sequences.iter().for_each(|r| of.entry(lane).or_default().insert(r));
            }
        }
    }

    /// A segment is about to be on the wire to `who`.
    pub(super) fn note(&mut self, who: &To, id: SegmentId) {
        self.epoch = id.epoch;
        self.of(who).entry(id.lane).or_default().insert(id.sequence..id.sequence + 1);
    }

    /// Whether it is about this life of the log. One that begins with what is on board keeps its sequences.
    pub(super) const fn is_of(&self, epoch: u64) -> bool {
        self.epoch == epoch
    }

    /// Whether `who` was sent this segment.
    pub(super) fn has(&self, who: &To, id: SegmentId) -> bool {
        self.to.get(who).and_then(|of| of.get(&id.lane)).is_some_and(|s| s.contains(id.sequence))
    }

    /// A segment is on board no more.
    pub(super) fn forget(&mut self, id: SegmentId) {
        for of in self.to.values_mut() {
            if let Some(sequences) = of.get_mut(&id.lane) {
                sequences.remove(id.sequence..id.sequence + 1);
            }
        }
    }

    /// Whether the answer to something is open.
    pub(super) fn is_waiting(&self) -> bool {
        self.to.values().flat_map(BTreeMap::values).any(|sequences| !sequences.is_empty())
    }

    fn of(&mut self, who: &To) -> &mut BTreeMap<Lane, RangeSet> {
        if self.to.len() >= MOST && !self.to.contains_key(who) {
            self.to.pop_first();
        }
        self.to.entry(who.clone()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_ledger_was_sent_is_not_believed_of_another() {
        let id = |sequence| SegmentId { epoch: 1, lane: Lane::BULK, sequence };
        let station = |name: &str| To::Station(name.to_owned());
        let (mut sent, mut svalbard) = (Sent::default(), station("svalbard"));
        sent.note(&svalbard, id(1));
        assert!(sent.has(&svalbard, id(1)), "before it has said which ledger it serves");
        sent.names(&mut svalbard, 7);
        sent.note(&svalbard, id(2));
        // Another station of the same ledger.
        let mut kiruna = station("kiruna");
        assert!(!sent.has(&kiruna, id(1)));
        sent.names(&mut kiruna, 7);
        assert!(sent.has(&kiruna, id(1)) && sent.has(&kiruna, id(2)) && !sent.has(&kiruna, id(3)));
        let mut mallory = station("mallory");
        sent.names(&mut mallory, 8);
        assert!(!sent.has(&mallory, id(1)) && !sent.has(&mallory, id(2)));
        sent.note(&mallory, id(2));
        sent.forget(id(2));
        assert!(!sent.has(&mallory, id(2)));
        // A station that names a new ledger each time takes no memory.
        for ledger in 100..10_000 {
            mallory = station("mallory");
            sent.names(&mut mallory, ledger);
            sent.note(&mallory, id(5));
        }
        assert!(sent.to.len() <= MOST && sent.has(&mallory, id(5)));
    }
}
