//! Large leaves that redb need not read twice.
//!
//! An opening goes through all trees two times: redb 4.6 verifies every page, then it visits them again to learn what is taken. On
//! that second way it looks at no more of a table's leaf than at the byte that says what it is, and behind it it empties its cache.
//! Large pages are nearly all of a store. So the first way notes which of them are leaves, and the second is answered with that
//! byte. A list of tables has no large page, and what redb keeps of its own is visited behind the tables, when this is over.

use super::direct::LARGE;
use super::first::{PAGE, Pages};

/// The first byte of a leaf.
const LEAF: u8 = 1;

/// Where an opening is.
#[derive(Debug, Default)]
pub(super) enum Leaves {
    /// Elsewhere: everything is read.
    #[default]
    Off,
    /// Pages are verified.
    Verified(Pages),
    /// Tables are visited.
    Visited(Pages),
}

impl Leaves {
    /// Pages are verified from now on.
    pub(super) fn begin(&mut self) {
        *self = Self::Verified(Pages::default());
    }

    /// All are verified, and the tables are visited from now on.
    pub(super) fn visit(&mut self) {
        if let Self::Verified(pages) = self {
            *self = Self::Visited(std::mem::take(pages));
        }
    }

    /// Takes note of what was read.
    pub(super) fn note(&mut self, offset: u64, page: &[u8]) {
        if let Self::Verified(pages) = self
            && page.len() >= LARGE
        {
            pages.set(offset / PAGE, page[0] == LEAF);
        }
    }

    /// Answers in the place of the file, if enough is known of a page; what is behind its first byte stays as it was.
    pub(super) fn answer(&self, offset: u64, page: &mut [u8]) -> bool {
        let known =
            matches!(self, Self::Visited(pages) if page.len() >= LARGE && pages.contains(offset / PAGE));
        if known {
            page[0] = LEAF;
        }
        known
    }
}
