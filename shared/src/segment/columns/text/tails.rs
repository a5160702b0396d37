//! How recent lines went on, by the values that they began with: one that begins with the same often ends with the same.

use super::predict::table;

/// Bytes of recent lines that are kept.
const KEPT: usize = 1 << 16;

/// Bytes of a line that is kept.
const LONGEST: usize = 1 << 11;

/// Beginnings that are told apart, a power of two.
const PLACES: usize = 1 << 12;

/// How a line went on: where in all bytes that were ever kept, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tail {
    check: u32,
    at: u32,
    length: u16,
}

impl Tail {
    const NONE: Self = Self { check: 0, at: 0, length: 0 };
}

/// A place in a line from which it could go on as another did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fork {
    /// A hash of the values so far.
    pub(super) key: u64,
    /// Bytes of the line before it.
    pub(super) offset: usize,
    /// The chain before it.
    pub(super) chain: u16,
    /// How the line before that began with the same went on.
    pub(super) tail: Option<Tail>,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Tails {
    bytes: Box<[u8; KEPT]>,
    written: u32,
    all: Box<[Tail; PLACES]>,
}

impl Default for Tails {
    fn default() -> Self {
        Self { bytes: table(0), written: 0, all: table(Tail::NONE) }
    }
}

const fn place(key: u64) -> usize {
    (key >> 40) as usize % PLACES
}

impl Tails {
    pub(super) const SIZE: usize = KEPT + PLACES * size_of::<Tail>();

    /// How the last line went on that began with these values.
    pub(super) fn find(&self, key: u64) -> Option<Tail> {
        let tail = self.all[place(key)];
        let age = self.written.wrapping_sub(tail.at) as usize;
        (tail.check == key as u32 && tail.length > 0 && age <= KEPT).then_some(tail)
    }

    pub(super) fn text(&self, tail: Tail) -> &[u8] {
        // Lines are kept in one piece.
        let start = tail.at as usize % KEPT;
        self.bytes.get(start..start + usize::from(tail.length)).unwrap_or_default()
    }

    /// Keeps how a line went on at each of these places.
    pub(super) fn keep(&mut self, line: &[u8], forks: &[Fork]) {
        if forks.is_empty() || line.len() > LONGEST {
            return;
        }
        let left = KEPT - self.written as usize % KEPT;
        if left < line.len() {
            self.written = self.written.wrapping_add(left as u32);
        }
        let start = self.written as usize % KEPT;
        self.bytes[start..start + line.len()].copy_from_slice(line);
        for fork in forks {
            let length = line.len().saturating_sub(fork.offset) as u16;
            let at = self.written.wrapping_add(fork.offset as u32);
            self.all[place(fork.key)] = Tail { check: fork.key as u32, at, length };
        }
        self.written = self.written.wrapping_add(line.len() as u32);
    }
}
