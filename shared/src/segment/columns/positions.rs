//! Where things stand in a list, without holding them a second time.

use std::hash::{BuildHasher, Hash};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rustc_hash::FxBuildHasher;

/// Positions in a list. `of` says what stands at one; of what stands there more than once the last one is known.
#[derive(Debug, Clone, Default)]
pub(super) struct Positions(HashTable<u32>);

fn hash(what: &impl Hash) -> u64 {
    FxBuildHasher.hash_one(what)
}

impl Positions {
    pub(super) fn find<T: Hash + Eq>(&self, what: &T, of: impl Fn(u32) -> T) -> Option<u32> {
        self.0.find(hash(what), |n| of(*n) == *what).copied()
    }

    pub(super) fn insert<T: Hash + Eq>(&mut self, position: u32, of: impl Fn(u32) -> T) {
        let what = of(position);
        match self.0.entry(hash(&what), |n| of(*n) == what, |n| hash(&of(*n))) {
            Entry::Occupied(mut known) => *known.get_mut() = position,
            Entry::Vacant(free) => drop(free.insert(position)),
        }
    }

    /// Forgets `position`, at which something else will stand.
    pub(super) fn remove<T: Hash + Eq>(&mut self, position: u32, of: impl Fn(u32) -> T) {
        if let Ok(known) = self.0.find_entry(hash(&of(position)), |n| *n == position) {
            known.remove();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::Positions;

    #[test]
    fn the_last_position_of_what_stands_there_twice_is_known_until_it_is_removed() {
        let list = [7, 8, 7, 9];
        let of = |n: u32| list[n as usize];
        let mut positions = Positions::default();
        (0..4).for_each(|n| positions.insert(n, of));
        assert_eq!([7, 8, 9, 10].map(|what| positions.find(&what, of)), [Some(2), Some(1), Some(3), None]);
        positions.remove(0, of);
        assert_eq!(positions.find(&7, of), Some(2), "another position of it was removed");
        positions.remove(2, of);
        assert_eq!(positions.find(&7, of), None);
    }
}
