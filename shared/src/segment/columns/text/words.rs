//! Words that were met, each with its number.

use std::hash::Hasher;

use hashbrown::HashTable;
use rustc_hash::FxHasher;

use super::super::dictionary::append;
use super::super::entropy::Coder;
use super::tokens::{LONGEST_WORD, WORDS, is_letter};

/// Words that are kept.
const MOST: usize = 1 << 16;

/// Bytes of all words.
const MOST_BYTES: usize = 1 << 19;

/// Bytes of a short word.
const SHORT: usize = 16;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Words {
    /// One behind the other, and behind them [`LONGEST_WORD`] zeros.
    bytes: Vec<u8>,
    /// Where they begin, and where the next one will.
    starts: Vec<u32>,
    /// For the encoder; a base that came from decoding has none yet.
    by_hash: HashTable<u32>,
}

pub(super) fn hash(word: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(word);
    hasher.finish()
}

impl Default for Words {
    fn default() -> Self {
        Self { bytes: vec![0; LONGEST_WORD], starts: vec![0], by_hash: HashTable::new() }
    }
}

impl Words {
    pub(super) const fn len(&self) -> usize {
        self.starts.len() - 1
    }

    pub(super) const fn size(&self) -> usize {
        self.bytes.len() + self.starts.len() * 12
    }

    #[inline(always)]
    fn bounds(&self, id: u32) -> Option<[usize; 2]> {
        let n = id.checked_sub(WORDS)? as usize;
        self.starts.get(n..n + 2).map(|of| [of[0] as usize, of[1] as usize])
    }

    /// Whether a word begins with a letter.
    #[inline(always)]
    pub(super) fn has_letters(&self, id: u32) -> bool {
        let [start, _] = self.bounds(id).unwrap_or_default();
        id >= WORDS && is_letter(self.bytes[start])
    }

    /// The word with this number.
    fn get(&self, id: u32) -> Option<&[u8]> {
        self.bounds(id).map(|[start, end]| &self.bytes[start..end])
    }

    /// Appends the word with this number.
    #[inline(always)]
    pub(super) fn append(&self, id: u32, out: &mut Vec<u8>) -> Option<()> {
        let [start, end] = self.bounds(id)?;
        append::<SHORT>(&self.bytes, start..end, out);
        Some(())
    }

    /// The number of a word.
    pub(super) fn find(&mut self, word: &[u8]) -> Option<u32> {
        while self.by_hash.len() < self.len() {
            self.insert(WORDS + self.by_hash.len() as u32);
        }
        let same = |id: &u32| self.get(*id) == Some(word);
        self.by_hash.find(hash(word), same).copied()
    }

    fn insert(&mut self, id: u32) {
        let Some(word) = self.get(id) else { return };
        let hashed = hash(word);
        let mut table = std::mem::take(&mut self.by_hash);
        table.insert_unique(hashed, id, |id| self.get(*id).map_or(0, hash));
        self.by_hash = table;
    }

    /// Keeps a word, if there is room.
    pub(super) fn push<C: Coder>(&mut self, word: &[u8]) -> Option<u32> {
        let start = self.bytes.len() - LONGEST_WORD;
        if self.len() >= MOST || start + word.len() > MOST_BYTES {
            return None;
        }
        let id = WORDS + self.len() as u32;
        self.bytes.truncate(start);
        self.bytes.extend_from_slice(word);
        self.starts.push(self.bytes.len() as u32);
        self.bytes.resize(self.bytes.len() + LONGEST_WORD, 0);
        if C::ENCODES {
            self.insert(id);
        }
        Some(id)
    }
}
