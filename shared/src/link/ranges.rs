//! Sets of numbers kept as ranges: the bytes of a payload that are held, the sequences that are committed.

use std::collections::BTreeMap;
use std::ops::Range;

use perigee_proto::link;

/// A set of `u64` as sorted half-open ranges that neither overlap nor touch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RangeSet(BTreeMap<u64, u64>);

impl RangeSet {
    /// Adds every number of `range`.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        // The one that begins before and reaches into or touches this one.
        if let Some((&s, &e)) = self.0.range(..=start).next_back()
            && e >= start
        {
            start = s;
            end = end.max(e);
        }
        while let Some((&s, &e)) = self.0.range(start..=end).next() {
            end = end.max(e);
            self.0.remove(&s);
        }
        self.0.insert(start, end);
    }

    /// Takes every number of `range` out.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        if let Some((&s, &e)) = self.0.range(..range.start).next_back()
            && e > range.start
        {
            self.0.insert(s, range.start);
            if e > range.end {
                self.0.insert(range.end, e);
            }
        }
        while let Some((&s, &e)) = self.0.range(range.clone()).next() {
            self.0.remove(&s);
            if e > range.end {
                self.0.insert(range.end, e);
            }
        }
    }

    /// Whether `n` is in it.
    pub fn contains(&self, n: u64) -> bool {
        self.0.range(..=n).next_back().is_some_and(|(_, &e)| e > n)
    }

    /// Whether `range` would be joined with one that is in it.
    pub fn touches(&self, range: &Range<u64>) -> bool {
        self.0.range(..=range.end).next_back().is_some_and(|(_, &e)| e >= range.start)
    }

    /// The parts of `within` that are not in it, in order.
    pub fn missing(&self, within: Range<u64>) -> Vec<Range<u64>> {
        let mut out = Vec::new();
        let mut at = within.start;
        let before = self.0.range(..within.start).next_back().map(|(&s, &e)| (s, e));
        for (s, e) in before.into_iter().chain(self.0.range(within.clone()).map(|(&s, &e)| (s, e))) {
            if s > at {
                out.push(at..s);
            }
            at = at.max(e);
        }
        if at < within.end {
            out.push(at..within.end);
        }
        out
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(&s, &e)| s..e)
    }

    /// How many ranges there are.
    pub fn ranges(&self) -> usize {
        self.0.len()
    }

    /// How many numbers are in it.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|(s, e)| e - s).sum()
    }

    /// Whether there is none in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The smallest in it.
    pub fn first(&self) -> Option<u64> {
        self.0.keys().next().copied()
    }

    /// The largest in it.
    pub fn last(&self) -> Option<u64> {
        self.0.values().next_back().map(|e| e - 1)
    }

    /// As the wire has it.
    pub fn to_wire(&self) -> Vec<link::Range> {
        self.iter().map(|r| link::Range { start: r.start, end: r.end }).collect()
    }

    /// From the wire, in any order; ranges that end before they start are empty.
    pub fn from_wire(ranges: &[link::Range]) -> Self {
        ranges.iter().map(|r| r.start..r.end).collect()
    }
}

impl FromIterator<Range<u64>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(iter: I) -> Self {
        let mut out = Self::default();
        iter.into_iter().for_each(|r| out.insert(r));
        out
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn prop_it_behaves_like_a_set_of_numbers(
            steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..12), 0..60), from in 0u64..60, len in 0u64..30,
        ) {
            let mut set = RangeSet::default();
            let mut model = BTreeSet::new();
            for (insert, start, len) in steps {
                if insert {
                    set.insert(start..start + len);
                    model.extend(start..start + len);
                } else {
                    set.remove(start..start + len);
                    model.retain(|n| !(start..start + len).contains(n));
                }
                prop_assert_eq!(set.iter().flatten().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            }
            prop_assert_eq!(set.total(), model.len() as u64);
            prop_assert_eq!(set.first(), model.first().copied());
            prop_assert_eq!(set.last(), model.last().copied());
            let apart = set.iter().zip(set.iter().skip(1)).all(|(a, b)| a.end < b.start);
            prop_assert!(apart, "ranges that touch are one");
            let missing: Vec<u64> = set.missing(from..from + len).into_iter().flatten().collect();
            prop_assert_eq!(missing, (from..from + len).filter(|n| !model.contains(n)).collect::<Vec<_>>());
            prop_assert!((0..80).all(|n| set.contains(n) == model.contains(&n)));
            prop_assert_eq!(RangeSet::from_wire(&set.to_wire()), set);
        }
    }
}
