//! What is known of the link's connections that are open, slot by slot: with whom each talks, and which segments are on their way
//! over it. A segment that is under way in one slot is not sent in another.
//!
//! It also knows which segments are live: of what was accepted since a contact was opened and that, or another one since, has been open.

use std::collections::{BTreeMap, BTreeSet};

use perigee_shared::env::SinceBoot;
use perigee_shared::link::Slot;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Delivery, Lane, SegmentId};

use super::sent::To;
use super::tables::{Place, lane_from};

/// The connection of a slot that is open, or was last.
#[derive(Debug, Clone, Default)]
pub(super) struct Talk {
    /// The station that was greeted.
    pub(super) station: Option<String>,
    /// Its ledger; 0: it has not said yet, or never says.
    pub(super) ledger: u64,
    /// As whom it is known what it was sent.
    pub(super) to: To,
    /// Current bases that it does not have.
    pub(super) lacking: BTreeSet<Place>,
    /// Bases that it is known to have.
    pub(super) has: BTreeSet<Place>,
    is_over: bool,
}

impl Talk {
    /// Its ledger and its name.
    pub(super) fn who(&self) -> (u64, String) {
        (self.ledger, self.station.clone().unwrap_or_default())
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Talks {
    of: BTreeMap<Slot, Talk>,
    under_way: BTreeMap<Place, Slot>,
    /// When the contact was opened that is open, or was last.
    opened: Option<SinceBoot>,
    /// Segments of what was accepted since.
    live: BTreeMap<Lane, RangeSet>,
}

impl Talks {
    /// A connection to `station` begins. What was known of connections that are over is of no use any more.
    pub(super) fn greet(&mut self, slot: Slot, station: &str) {
        self.end(slot);
        self.of.retain(|_, talk| !talk.is_over);
        let (station, to) = (Some(station.to_owned()), To::Station(station.to_owned()));
        self.of.insert(slot, Talk { station, to, ..Talk::default() });
    }

    /// A contact is opened. What was live waits for it, unless another slot is connected.
    pub(super) fn open(&mut self, now: SinceBoot) {
        if self.of.values().all(|talk| talk.is_over) {
            self.opened = Some(now);
            self.live.clear();
        }
    }

    /// A segment is sealed, of which the oldest item was accepted then.
    pub(super) fn sealed(&mut self, lane: Lane, sequence: u64, oldest: Option<SinceBoot>) {
        if let (Some(opened), Some(oldest)) = (self.opened, oldest)
            && oldest.boot == opened.boot
            && oldest.nano >= opened.nano
        {
            self.live.entry(lane).or_default().insert(sequence..sequence + 1);
        }
    }

    /// Whether what is in a segment has waited for a contact.
    pub(super) fn delivery(&self, id: SegmentId) -> Delivery {
        let live = self.live.get(&id.lane).is_some_and(|live| live.contains(id.sequence));
        if live { Delivery::Live } else { Delivery::Stored }
    }

    /// The connection of `slot` is over: nothing is on its way over it.
    pub(super) fn end(&mut self, slot: Slot) {
        self.under_way.retain(|_, by| *by != slot);
        if let Some(talk) = self.of.get_mut(&slot) {
            talk.is_over = true;
        }
    }

    /// With whom `slot` talks.
    pub(super) fn of(&self, slot: Slot) -> Talk {
        self.of.get(&slot).cloned().unwrap_or_default()
    }

    /// The same, to change it.
    pub(super) fn of_mut(&mut self, slot: Slot) -> &mut Talk {
        self.of.entry(slot).or_default()
    }

    /// Whether a connection that is open has another ledger than `ledger`.
    pub(super) fn have_another_than(&self, ledger: u64) -> bool {
        let is_other = |talk: &Talk| !talk.is_over && talk.ledger != 0 && talk.ledger != ledger;
        ledger != 0 && self.of.values().any(is_other)
    }

    /// Whether a station that is, or was last, connected does not have this base.
    pub(super) fn lack(&self, base: Place) -> bool {
        self.of.values().any(|talk| talk.lacking.contains(&base))
    }

    /// Whether all that are connected are known to have this base, and there is one.
    pub(super) fn have(&self, base: Place) -> bool {
        let mut open = self.of.values().filter(|talk| !talk.is_over).peekable();
        open.peek().is_some() && open.all(|talk| talk.has.contains(&base))
    }

    /// Whether the ground in `slot` is known to have this base.
    pub(super) fn knows(&self, slot: Slot, base: Place) -> bool {
        self.of.get(&slot).is_some_and(|talk| talk.has.contains(&base))
    }

    /// These bases are forgotten.
    pub(super) fn forget_bases(&mut self, gone: &[Place]) {
        for talk in self.of.values_mut() {
            talk.lacking.retain(|place| !gone.contains(place));
            talk.has.retain(|place| !gone.contains(place));
        }
    }

    /// A segment goes over the connection of `slot` from now on, if it goes over no other. Whether it does.
    pub(super) fn claim(&mut self, slot: Slot, segment: Place) -> bool {
        *self.under_way.entry(segment).or_insert(slot) == slot
    }

    /// A segment is not on its way any more: it is committed, or was given up.
    pub(super) fn release(&mut self, segment: Place) {
        self.under_way.remove(&segment);
    }

    /// Whether a segment is on its way.
    pub(super) fn are_about(&self, segment: Place) -> bool {
        self.under_way.contains_key(&segment)
    }

    /// The sequences of a lane that are on their way in another slot.
    pub(super) fn elsewhere(&self, slot: Slot, lane: Lane) -> BTreeSet<u64> {
        let of_lane = self.under_way.range(lane_from(lane, 0));
        of_lane.filter(|(_, by)| **by != slot).map(|(place, _)| place.sequence).collect()
    }

    /// Whether a segment is on its way in another slot.
    pub(super) fn are_about_elsewhere(&self, slot: Slot, segment: Place) -> bool {
        self.under_way.get(&segment).is_some_and(|by| *by != slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_in_one_slot_is_free_for_the_other_when_that_connection_ends() {
        let slots: Vec<Slot> = Slot::first(2).collect();
        let place = |sequence| Place { lane: 8, sequence };
        let mut talks = Talks::default();
        talks.greet(slots[0], "svalbard");
        talks.greet(slots[1], "kiruna");
        assert!(talks.claim(slots[0], place(1)) && talks.claim(slots[1], place(2)));
        assert!(talks.claim(slots[0], place(1)), "its own");
        assert!(!talks.claim(slots[1], place(1)) && !talks.claim(slots[0], place(2)));
        assert!(
            talks.are_about_elsewhere(slots[1], place(1)) && !talks.are_about_elsewhere(slots[0], place(1))
        );
        talks.end(slots[0]);
        assert!(
            talks.claim(slots[1], place(1)) && talks.are_about(place(2)),
            "the end of one is not of both"
        );
        // A connection that ended without a word ends with the next one in its slot.
        talks.greet(slots[1], "kiruna");
        assert!(!talks.are_about(place(1)) && !talks.are_about(place(2)));
        talks.claim(slots[1], place(3));
        talks.release(place(3));
        assert!(talks.claim(slots[0], place(3)));
    }

    #[test]
    fn a_segment_is_live_while_the_contact_lasts_in_which_all_of_it_was_accepted() {
        let slots: Vec<Slot> = Slot::first(2).collect();
        let at = |nano| Some(SinceBoot { boot: 5, nano });
        let (live, stored) = (Delivery::Live, Delivery::Stored);
        let id = |lane, sequence| SegmentId { epoch: 1, lane: Lane(lane), sequence };
        let mut talks = Talks::default();
        talks.sealed(Lane::BULK, 1, at(10));
        talks.open(SinceBoot { boot: 5, nano: 20 });
        talks.sealed(Lane::BULK, 2, at(19));
        talks.sealed(Lane::BULK, 3, at(20));
        talks.sealed(Lane::BULK, 4, Some(SinceBoot { boot: 4, nano: 30 }));
        talks.sealed(Lane::BULK, 5, None);
        talks.sealed(Lane(1), 3, at(20));
        let of = |talks: &Talks| [1, 2, 3, 4, 5].map(|sequence| talks.delivery(id(8, sequence)));
        assert_eq!(
            of(&talks),
            [stored, stored, live, stored, stored],
            "of another boot, and of no known time"
        );
        assert_eq!((talks.delivery(id(1, 3)), talks.delivery(id(1, 2))), (live, stored));
        // A connection that breaks and comes again is of the same contact.
        talks.greet(slots[0], "svalbard");
        talks.end(slots[0]);
        talks.greet(slots[0], "svalbard");
        assert_eq!(talks.delivery(id(8, 3)), live);
        // A second contact begins before the first is over: nothing has waited for it.
        talks.open(SinceBoot { boot: 5, nano: 40 });
        talks.greet(slots[1], "kiruna");
        talks.end(slots[0]);
        talks.sealed(Lane::BULK, 6, at(35));
        assert_eq!((talks.delivery(id(8, 3)), talks.delivery(id(8, 6))), (live, live));
        talks.end(slots[1]);
        talks.open(SinceBoot { boot: 5, nano: 60 });
        assert_eq!((talks.delivery(id(8, 3)), talks.delivery(id(8, 6))), (stored, stored));
    }

    #[test]
    fn what_a_station_lacks_counts_while_it_is_connected_or_was_last() {
        let slots: Vec<Slot> = Slot::first(2).collect();
        let base = Place { lane: 8, sequence: 1 };
        let mut talks = Talks::default();
        talks.greet(slots[0], "svalbard");
        talks.greet(slots[1], "kiruna");
        talks.of_mut(slots[1]).lacking.insert(base);
        (talks.of_mut(slots[0]).ledger, talks.of_mut(slots[1]).ledger) = (7, 8);
        assert!(talks.lack(base) && talks.have_another_than(7) && !talks.have_another_than(0));
        talks.end(slots[1]);
        assert!(talks.lack(base) && !talks.have_another_than(7));
        talks.greet(slots[0], "svalbard");
        assert!(!talks.lack(base), "another was heard since");
    }
}
