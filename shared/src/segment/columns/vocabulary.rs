//! The encoder's side of the dictionaries: finds a field among all entries, those of a base and those met since.
//!
//! Entries are numbered here as they are met. The decoder meets them in another order; [`Vocabulary::coded`] translates. Those of
//! a base have the decoder's numbers, and are looked up in tables that are made once for all segments that lean on it.

use std::hash::Hasher;
use std::sync::Arc;

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

/// Entries as fields, and a table to find them.
#[derive(Debug, Default)]
struct Pool {
    bytes: Vec<u8>,
    /// Bytes of long fields among them.
    long: usize,
    entries: HashTable<Entry>,
}

/// A field from this length on is held several times while it is made smaller, in buffers that grow to twice what they hold.
const LONG: usize = 64 << 10;

impl Pool {
    #[inline]
    fn find(&self, hash: u32, message: u8, scope: u32, field: &[u8]) -> Option<(u32, u32)> {
        let same = |e: &Entry| {
            let (start, end) = (e.start as usize, e.start as usize + e.length as usize);
            e.message == message
                && (scope == u32::MAX || u32::from(e.dictionary) == scope)
                && self.bytes[start..end] == *field
        };
        self.entries.find(spread(hash), same).map(|found| (u32::from(found.dictionary), found.number))
    }

    /// Adds an entry; where its field begins.
    fn insert(&mut self, hash: u32, message: u8, dictionary: u32, number: u32, field: &[u8]) -> u32 {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(field);
        if field.len() >= LONG {
            self.long += field.len();
        }
        let (length, dictionary) = (field.len() as u32, dictionary as u16);
        let entry = Entry { hash, number, start, length, dictionary, message };
        self.entries.insert_unique(spread(hash), entry, |e| spread(e.hash));
        start
    }
}

/// What a base knows.
#[derive(Debug)]
pub(super) struct Known {
    pool: Pool,
    kinds: FxHashMap<Kind, u32>,
    /// How many entries each dictionary has.
    lengths: Vec<u32>,
}

impl Known {
    /// All that `dictionaries` hold.
    pub(super) fn new(dictionaries: &[Dictionary]) -> Self {
        let bytes = Vec::with_capacity(dictionaries.iter().map(Dictionary::size).sum());
        let entries = HashTable::with_capacity(dictionaries.iter().map(Dictionary::len).sum());
        let mut pool = Pool { bytes, entries, ..Pool::default() };
        for (dictionary, number) in dictionaries.iter().zip(0..) {
            let message = dictionary.kind.message;
            let scope = if message == 0 { number } else { u32::MAX };
            for (field, n) in dictionary.entries().zip(0..) {
                pool.insert(hash(message, scope, field), message, number, n, field);
            }
        }
        Self {
            pool,
            kinds: dictionaries.iter().map(|d| d.kind.clone()).zip(0..).collect(),
            lengths: dictionaries.iter().map(|d| d.len() as u32).collect(),
        }
    }
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
    known: Arc<Known>,
    /// What was met since.
    pool: Pool,
    pub(super) kinds: Vec<Kind>,
    by_kind: FxHashMap<Kind, u32>,
    /// Those that were met since, by dictionary.
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
    /// All that `dictionaries` hold, which is what is `known`.
    pub(super) fn new(dictionaries: &[Dictionary], known: Arc<Known>) -> Self {
        Self {
            known,
            pool: Pool::default(),
            kinds: dictionaries.iter().map(|d| d.kind.clone()).collect(),
            by_kind: FxHashMap::default(),
            numbered: vec![Vec::new(); dictionaries.len()],
            purposes: dictionaries.iter().map(|d| d.kind.purpose()).collect(),
        }
    }

    /// Bytes that it takes, and its text wherever that stands until the segment is made, roughly.
    #[inline]
    pub(super) fn size(&self) -> usize {
        self.pool.entries.len() * 420 + self.pool.bytes.len() * 3 + self.pool.long * 4
    }

    fn find_kind(&self, kind: &Kind) -> Option<u32> {
        self.known.kinds.get(kind).or_else(|| self.by_kind.get(kind)).copied()
    }

    /// The number of the dictionary of this kind.
    pub(super) fn dictionary(&mut self, kind: &Kind) -> u32 {
        if let Some(found) = self.find_kind(kind) {
            return found;
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

    /// How many entries of a dictionary a base knows.
    #[inline]
    fn known_of(&self, dictionary: usize) -> u32 {
        self.known.lengths.get(dictionary).copied().unwrap_or(0)
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
        let hash = hash(message, scope, field);
        let known = self.known.pool.find(hash, message, scope, field);
        if let Some(found) = known.or_else(|| self.pool.find(hash, message, scope, field)) {
            return found;
        }
        let (mut kind, mut content) = describe();
        if self.kinds.len() >= MOST_DICTIONARIES - Message::COUNT
            && self.find_kind(&kind).is_none()
            && message != 0
        {
            // Raw fields need no more than a dictionary for each message.
            (kind, content) = (Kind::raw(message), field.len());
        }
        let dictionary = self.dictionary(&kind);
        let list = self.numbered[dictionary as usize].len() as u32;
        let number = self.known_of(dictionary as usize) + list;
        let start = self.pool.insert(hash, message, dictionary, number, field);
        let start = start + (field.len() - content) as u32;
        let entry = Numbered { start, length: content as u32, coded: u32::MAX };
        self.numbered[dictionary as usize].push(entry);
        (dictionary, number)
    }

    /// The number by which the decoder knows an entry, which is `known` when it is about to learn it.
    #[inline]
    pub(super) fn coded(&mut self, dictionary: usize, number: u64, known: u64) -> u64 {
        let Some(since) = number.checked_sub(u64::from(self.known_of(dictionary))) else { return number };
        let entry = &mut self.numbered[dictionary][since as usize];
        if entry.coded == u32::MAX {
            entry.coded = known as u32;
        }
        u64::from(entry.coded)
    }

    /// Bytes of the entries of a dictionary that the decoder does not know yet.
    pub(super) fn left(&self, dictionary: usize) -> usize {
        let unknown = self.numbered[dictionary].iter().filter(|entry| entry.coded == u32::MAX);
        unknown.map(|entry| entry.length as usize).sum()
    }

    /// The content of an entry that was met since.
    pub(super) fn content(&self, dictionary: usize, number: u64) -> &[u8] {
        let since = number - u64::from(self.known_of(dictionary));
        let entry = self.numbered[dictionary][since as usize];
        &self.pool.bytes[entry.start as usize..entry.start as usize + entry.length as usize]
    }
}
