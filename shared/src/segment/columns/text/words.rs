//! Words that were met, each with its number.

use std::hash::Hasher;

use hashbrown::HashTable;
use rustc_hash::FxHasher;

use super::super::entropy::Coder;
use super::tokens::WORDS;

/// Words that are kept.
const MOST: usize = 1 << 16;

/// Bytes of all words.
const MOST_BYTES: usize = 1 << 19;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Words {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    /// For the encoder; a base that came from decoding has none yet.
    by_hash: HashTable<u32>,
}

fn hash(word: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(word);
    hasher.finish()
}

impl Words {
    pub(super) const fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) const fn size(&self) -> usize {
        self.bytes.len() + self.ends.len() * 12
    }

    /// The word with this number.
    #[inline]
    pub(super) fn get(&self, id: u32) -> Option<&[u8]> {
        let n = id.checked_sub(WORDS)? as usize;
        let end = *self.ends.get(n)? as usize;
        let start = if n == 0 { 0 } else { self.ends[n - 1] as usize };
        Some(&self.bytes[start..end])
    }

    /// The number of a word.
    pub(super) fn find(&mut self, word: &[u8]) -> Option<u32> {
        while self.by_hash.len() < self.ends.len() {
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
        if self.ends.len() >= MOST || self.bytes.len() + word.len() > MOST_BYTES {
            return None;
        }
        let id = WORDS + self.ends.len() as u32;
        self.bytes.extend_from_slice(word);
        self.ends.push(self.bytes.len() as u32);
        if C::ENCODES {
            self.insert(id);
        }
        Some(id)
    }
}
