//! Which lane an exporter serves next: the most urgent, which is the one with the smallest number; those behind it keep a part.
//!
//! While a lane waits behind the most urgent one it is owed a tenth of what is sent, in items. It gets its turn, for one request,
//! once that makes a request of the largest usual size. With more than five such lanes they share half of what is sent, of which bulk
//! keeps its tenth. What a lane did not want, or got while nothing more urgent waited, counts neither for it nor against it.

use std::collections::{BTreeMap, BTreeSet};

use perigee_shared::segment::Lane;

/// The part of a lane behind the most urgent one, of what is sent while it waits.
const SHARE: f64 = 0.1;

/// What all of those have together, at most.
const TOGETHER: f64 = 0.5;

/// Items of a turn: as many as a request has at most, unless it is configured.
const TURN: f64 = 8192.0;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Of the lanes that wait behind the most urgent one: what each is owed, items.
    owed: BTreeMap<u8, f64>,
}

impl Turns {
    /// The lane whose turn it is of those that wait.
    pub(super) fn next(&mut self, waiting: &BTreeSet<u8>) -> Option<u8> {
        let first = *waiting.first()?;
        self.owed.retain(|lane, _| *lane != first && waiting.contains(lane));
        for lane in waiting.iter().skip(1) {
            self.owed.entry(*lane).or_default();
        }
        let due = self.owed.iter().rev().find(|(_, owed)| **owed >= TURN);
        Some(due.map_or(first, |(lane, _)| *lane))
    }

    /// So many items of a lane were sent.
    pub(super) fn sent(&mut self, lane: u8, items: u64) {
        let share = Share::among(self.owed.keys().copied());
        for (of, owed) in &mut self.owed {
            *owed += share.of(*of) * items as f64;
            if *of == lane {
                *owed -= items as f64;
            }
        }
    }
}

/// The part of each lane behind the most urgent one.
struct Share {
    others: f64,
}

impl Share {
    fn among(behind: impl Iterator<Item = u8> + Clone) -> Self {
        let others = behind.clone().filter(|lane| *lane != Lane::BULK.0).count();
        let bulk = if behind.count() > others { SHARE } else { 0.0 };
        Self { others: SHARE.min((TOGETHER - bulk) / others.max(1) as f64) }
    }

    const fn of(&self, lane: u8) -> f64 {
        if lane == Lane::BULK.0 { SHARE } else { self.others }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What each lane got after `requests` of so many items each, while all of them waited.
    fn shared(turns: &mut Turns, lanes: &BTreeMap<u8, u64>, requests: usize) -> BTreeMap<u8, u64> {
        let waiting = lanes.keys().copied().collect();
        let mut got = BTreeMap::new();
        for _ in 0..requests {
            let lane = turns.next(&waiting).unwrap();
            turns.sent(lane, lanes[&lane]);
            *got.entry(lane).or_default() += lanes[&lane];
        }
        got
    }

    #[test]
    fn bulk_that_was_alone_for_long_is_neither_owed_nor_in_debt() {
        let mut turns = Turns::default();
        assert_eq!(shared(&mut turns, &[(8, 8192)].into(), 1000)[&8], 8_192_000);
        let both = shared(&mut turns, &[(1, 8192), (8, 8192)].into(), 9);
        assert_eq!(both.get(&8), None, "the alarms go first");
        assert_eq!(turns.next(&[1, 8].into()), Some(1));
        assert_eq!(turns.next(&[8].into()), Some(8));
        assert_eq!(turns.next(&BTreeSet::new()), None);
    }

    #[test]
    fn bulk_has_a_tenth_behind_any_number_of_lanes() {
        for ahead in 1..=7 {
            let lanes = (1..=ahead).chain([8]).map(|lane| (lane, 8192)).collect();
            let got = shared(&mut Turns::default(), &lanes, 20_000);
            let share = got[&8] as f64 / got.values().sum::<u64>() as f64;
            assert!(share >= 0.0999, "{share} behind {ahead} lanes: {got:?}");
            assert!(got[&1] * 2 + 8192 >= got.values().sum(), "{got:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn prop_each_lane_behind_keeps_its_share_bulk_a_tenth_and_the_first_half(
            lanes in prop::collection::btree_map(1..=15u8, 1..=8192u64, 2..12),
        ) {
            let got = shared(&mut Turns::default(), &lanes, 200_000);
            let total: u64 = got.values().sum();
            let behind = lanes.keys().skip(1);
            let of_others = if behind.clone().any(|lane| *lane == 8) { 0.4 } else { 0.5 };
            let others = behind.filter(|lane| **lane != 8).count().max(1);
            let least = |lane: &u8, share: f64| {
                // What is still short of a turn, and the last request.
                let got = got.get(lane).copied().unwrap_or(0) as f64;
                got >= share * total as f64 - 2.0 * TURN
            };
            let mut all = lanes.keys();
            prop_assert!(least(all.next().unwrap(), TOGETHER), "{got:?}");
            for lane in all {
                let share = if *lane == 8 { 0.1 } else { (of_others / others as f64).min(0.1) };
                prop_assert!(least(lane, share), "{lane}: {got:?}");
            }
        }
    }
}
