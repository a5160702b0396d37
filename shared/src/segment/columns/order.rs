//! The order of attributes, which some libraries shuffle: attributes are kept in the order of their dictionaries, and how they
//! stood as one number, the rank of the permutation (D. H. Lehmer, 1960).

use std::hash::Hasher;

use hashbrown::HashTable;
use rustc_hash::FxHasher;

/// Longer runs stay as they are; 20! is the last that a number holds.
pub(super) const LONGEST: usize = 20;

/// For each place in a run, which of the sorted attributes stands there.
pub(super) type Order = [u8; LONGEST];

/// How a run of attributes stands.
#[derive(Debug, Clone)]
struct Known {
    dictionaries: Box<[u32]>,
    order: Order,
    rank: u64,
}

/// Runs that were met.
#[derive(Debug, Default)]
pub(super) struct Orders(HashTable<Known>);

fn hash(dictionaries: &[u32]) -> u64 {
    let mut hasher = FxHasher::default();
    for d in dictionaries {
        hasher.write_u32(*d);
    }
    hasher.finish()
}

impl Orders {
    /// The order of a run of attributes of these dictionaries, and its rank. At most [`LONGEST`].
    pub(super) fn of(&mut self, dictionaries: &[u32]) -> (Order, u64) {
        let hashed = hash(dictionaries);
        if let Some(known) = self.0.find(hashed, |k| *k.dictionaries == *dictionaries) {
            return (known.order, known.rank);
        }
        let mut sorted: Vec<usize> = (0..dictionaries.len()).collect();
        sorted.sort_by_key(|n| dictionaries[*n]);
        let mut order = Order::default();
        for (place, n) in sorted.iter().enumerate() {
            order[*n] = place as u8;
        }
        let rank = rank(&order[..dictionaries.len()]);
        let known = Known { dictionaries: dictionaries.into(), order, rank };
        self.0.insert_unique(hashed, known, |k| hash(&k.dictionaries));
        (order, rank)
    }
}

/// The rank of `order` among all of its length; 0 is the sorted one.
fn rank(order: &[u8]) -> u64 {
    order.iter().enumerate().fold(0, |rank, (n, here)| {
        let smaller = order[n + 1..].iter().filter(|behind| *behind < here).count();
        rank * (order.len() - n) as u64 + smaller as u64
    })
}

/// The order of `length` attributes with this rank, taken modulo how many there are.
pub(super) fn unrank(mut rank: u64, length: usize) -> Order {
    let mut digits = Order::default();
    for n in (0..length).rev() {
        let base = (length - n) as u64;
        digits[n] = (rank % base) as u8;
        rank /= base;
    }
    let mut left: [u8; LONGEST] = std::array::from_fn(|n| n as u8);
    let mut order = Order::default();
    for n in 0..length {
        let at = usize::from(digits[n]);
        order[n] = left[at];
        left.copy_within(at + 1.., at);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_comes_back_from_its_rank() {
        for (dictionaries, expected) in
            [(&[1, 2, 3][..], 0), (&[3, 2, 1], 5), (&[7, 9, 8], 1), (&[5], 0), (&[4, 4], 0)]
        {
            let (order, rank) = Orders::default().of(dictionaries);
            assert_eq!(rank, expected);
            assert_eq!(unrank(rank, dictionaries.len()), order);
        }
        let backwards: Vec<u32> = (0..LONGEST as u32).rev().collect();
        let (order, rank) = Orders::default().of(&backwards);
        assert_eq!(rank, (1..=LONGEST as u64).product::<u64>() - 1);
        assert_eq!(unrank(rank, LONGEST), order);
        assert!(unrank(u64::MAX, 3)[..3].iter().all(|n| *n < 3), "a rank that there is not");
    }
}
