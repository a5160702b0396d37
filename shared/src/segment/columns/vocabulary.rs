//! The encoder's side of the dictionaries: finds a field among all entries, those of a base and those met since.
//!
//! Entries are numbered here as they are met. The decoder meets them in another order; [`Vocabulary::coded`] translates.

use std::hash::Hasher;

use hashbrown::HashTable;
use rustc_hash::{FxHashMap, FxHasher};

use super::dictionary::{Dictionary, Kind, Purpose};
use super::schema::Message;
use super::state::MOST_DICTIONARIES;

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Kept so that the table grows without looking at the pool.
    hash: u32,
    number: u32,
    /// Where it stands in the pool.
    start: u32,
    length: u32,
    /// Below [`MOST_DICTIONARIES`].
    dictionary: u16,
    message: u8,
}

/// An entry as the dictionary's list has it.
#[derive(Debug, Clone, Copy)]
struct Numbered {
    /// Its content in the pool.
    start: u32,
    length: u32,
    /// The decoder's number, `u32::MAX` while it does not know it.
    coded: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Vocabulary {
    pool: Vec<u8>,
    entries: HashTable<Entry>,
    pub(super) kinds: Vec<Kind>,
    by_kind: FxHashMap<Kind, u32>,
    numbered: Vec<Vec<Numbered>>,
    /// What each dictionary is for.
    purposes: Vec<Purpose>,
}

fn hash(message: u8, scope: u32, field: &[u8]) -> u32 {
    let mut hasher = FxHasher::default();
    hasher.write_u64(u64::from(message) | u64::from(scope) << 8);
    hasher.write(field);
    (hasher.finish() >> 32) as u32
}

/// The table looks at the highest and the lowest bits.
const fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Vocabulary {
    /// All that `dictionaries` hold.
    pub(super) fn new(dictionaries: &[Dictionary]) -> Self {
        let mut new = Self {
            pool: Vec::with_capacity(dictionaries.iter().map(Dictionary::size).sum()),
            entries: HashTable::with_capacity(dictionaries.iter().map(Dictionary::len).sum()),
            kinds: Vec::new(),
            by_kind: FxHashMap::default(),
            numbered: Vec::new(),
            purposes: Vec::new(),
        };
        for (dictionary, number) in dictionaries.iter().zip(0..) {
            new.dictionary(&dictionary.kind);
            let fixed = if dictionary.kind.message == 0 { number } else { u32::MAX };
            for field in dictionary.entries() {
                // The content of what is known is never asked for.
                let hash = hash(dictionary.kind.message, fixed, field);
                new.insert(dictionary.kind.message, hash, number, field, 0);
            }
            for (entry, coded) in new.numbered[number as usize].iter_mut().zip(0..) {
                entry.coded = coded;
            }
        }
        new
    }

    /// The number of the dictionary of this kind.
    pub(super) fn dictionary(&mut self, kind: &Kind) -> u32 {
        if let Some(found) = self.by_kind.get(kind) {
            return *found;
        }
        let number = self.kinds.len() as u32;
        self.by_kind.insert(kind.clone(), number);
        self.purposes.push(kind.purpose());
        self.kinds.push(kind.clone());
        self.numbered.push(Vec::new());
        number
    }

    /// What a dictionary is for.
    pub(super) fn purpose(&self, dictionary: u32) -> Purpose {
        self.purposes[dictionary as usize]
    }

    /// The dictionary and the entry of `field` of `message`. `scope` keeps fields apart that are not of a message. `describe`
    /// tells of a field that was never met which dictionary it belongs to and how long its content is.
    #[inline]
    pub(super) fn entry(
        &mut self,
        message: u8,
        scope: u32,
        field: &[u8],
        describe: impl FnOnce() -> (Kind, usize),
    ) -> (u32, u32) {
        let pool = &self.pool;
        let same = |e: &Entry| {
            let (start, end) = (e.start as usize, e.start as usize + e.length as usize);
            e.message == message
                && (scope == u32::MAX || u32::from(e.dictionary) == scope)
                && pool[start..end] == *field
        };
        let hash = hash(message, scope, field);
        if let Some(found) = self.entries.find(spread(hash), same) {
            return (u32::from(found.dictionary), found.number);
        }
        let (mut kind, mut content) = describe();
        if self.kinds.len() >= MOST_DICTIONARIES - Message::COUNT
            && !self.by_kind.contains_key(&kind)
            && message != 0
        {
            // Raw fields need no more than a dictionary for each message.
            (kind, content) = (Kind::raw(message), field.len());
        }
        let dictionary = self.dictionary(&kind);
        (dictionary, self.insert(message, hash, dictionary, field, content))
    }

    fn insert(&mut self, message: u8, hash: u32, dictionary: u32, field: &[u8], content: usize) -> u32 {
        let start = self.pool.len() as u32;
        self.pool.extend_from_slice(field);
        let list = &mut self.numbered[dictionary as usize];
        let number = list.len() as u32;
        let behind = start + (field.len() - content) as u32;
        list.push(Numbered { start: behind, length: content as u32, coded: u32::MAX });
        let (length, dictionary) = (field.len() as u32, dictionary as u16);
        let entry = Entry { hash, number, start, length, dictionary, message };
        self.entries.insert_unique(spread(hash), entry, |e| spread(e.hash));
        number
    }

    /// The number by which the decoder knows an entry, which is `known` when it is about to learn it.
    #[inline]
    pub(super) fn coded(&mut self, dictionary: usize, number: u64, known: u64) -> u64 {
        let entry = &mut self.numbered[dictionary][number as usize];
        if entry.coded == u32::MAX {
            entry.coded = known as u32;
        }
        u64::from(entry.coded)
    }

    /// The content of an entry.
    pub(super) fn content(&self, dictionary: usize, number: u64) -> &[u8] {
        let entry = self.numbered[dictionary][number as usize];
        &self.pool[entry.start as usize..entry.start as usize + entry.length as usize]
    }
}
