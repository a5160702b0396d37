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
enum To {
    /// A station that has not said yet which ledger it serves, or never says.
    Station(String),
    Ledger(u64),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Sent {
    to: BTreeMap<To, BTreeMap<Lane, RangeSet>>,
    now: To,
    /// The life of the log of which the last one was.
    epoch: u64,
}

impl Default for Sent {
    fn default() -> Self {
        Self { to: BTreeMap::new(), now: To::Station(String::new()), epoch: 0 }
    }
}

impl Sent {
    /// A connection to `station` begins.
    pub(super) fn greet(&mut self, station: &str) {
        self.now = To::Station(station.to_owned());
    }

    /// The station has named its ledger: what it got before is this ledger's.
    pub(super) fn names(&mut self, ledger: u64) {
        if ledger == 0 || self.now == To::Ledger(ledger) {
            return;
        }
        let early = self.to.remove(&self.now).unwrap_or_default();
        self.now = To::Ledger(ledger);
        if !early.is_empty() {
            let of = self.of_now();
            for (lane, sequences) in early {
                sequences.iter().for_each(|r| of.entry(lane).or_default().insert(r));
            }
        }
    }

    /// A segment is about to be on the wire.
    pub(super) fn note(&mut self, id: SegmentId) {
        self.epoch = id.epoch;
        self.of_now().entry(id.lane).or_default().insert(id.sequence..id.sequence + 1);
    }

    /// Whether it is about this life of the log. One that begins with what is on board keeps its sequences.
    pub(super) const fn is_of(&self, epoch: u64) -> bool {
        self.epoch == epoch
    }

    /// Whether who is connected was sent this segment.
    pub(super) fn has(&self, id: SegmentId) -> bool {
        self.to.get(&self.now).and_then(|of| of.get(&id.lane)).is_some_and(|s| s.contains(id.sequence))
    }

    /// A segment is on board no more.
    pub(super) fn forget(&mut self, id: SegmentId) {
        for of in self.to.values_mut() {
            if let Some(sequences) = of.get_mut(&id.lane) {
                sequences.remove(id.sequence..id.sequence + 1);
            }
        }
    }

    fn of_now(&mut self) -> &mut BTreeMap<Lane, RangeSet> {
        if self.to.len() >= MOST && !self.to.contains_key(&self.now) {
            self.to.pop_first();
        }
        self.to.entry(self.now.clone()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_ledger_was_sent_is_not_believed_of_another() {
        let id = |sequence| SegmentId { epoch: 1, lane: Lane::BULK, sequence };
        let mut sent = Sent::default();
        sent.greet("svalbard");
        sent.note(id(1));
        assert!(sent.has(id(1)), "before it has said which ledger it serves");
        sent.names(7);
        sent.note(id(2));
        // Another station of the same ledger.
        sent.greet("kiruna");
        assert!(!sent.has(id(1)));
        sent.names(7);
        assert!(sent.has(id(1)) && sent.has(id(2)) && !sent.has(id(3)));
        sent.greet("mallory");
        sent.names(8);
        assert!(!sent.has(id(1)) && !sent.has(id(2)));
        sent.note(id(2));
        sent.forget(id(2));
        assert!(!sent.has(id(2)));
        // A station that names a new ledger each time takes no memory.
        for ledger in 100..10_000 {
            sent.greet("mallory");
            sent.names(ledger);
            sent.note(id(5));
        }
        assert!(sent.to.len() <= MOST && sent.has(id(5)));
    }
}
