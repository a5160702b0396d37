//! The first write of each page is read back from the medium before it counts.
//!
//! The layer below a file takes room for a page when it is written for the first time: a thin volume, a sparse image, a card that
//! maps its blocks. When there is no room, some of them lose the page and say that it was written: a loop device of Linux 6.18
//! answers a short write with success, and so does the sync after it. Pages that were there once have their room.

use std::collections::BTreeMap;
use std::io;

use twox_hash::XxHash3_64;

use crate::env::StoreFile;

/// What redb writes in.
pub(super) const PAGE: u64 = 4096;

/// Pages that are read at once.
const MOST_AT_ONCE: u64 = 64;

/// Which pages of an open file were read back.
#[derive(Debug, Default)]
pub(super) struct FirstWrites {
    done: Pages,
    /// Pages that were written and not synced yet, with a hash of what they must have.
    pending: BTreeMap<u64, u64>,
    buffer: Vec<u8>,
}

impl FirstWrites {
    /// Takes note of a write. redb writes whole pages, but for the header, which is where room was taken first.
    pub(super) fn wrote(&mut self, offset: u64, data: &[u8]) {
        if !offset.is_multiple_of(PAGE) {
            return;
        }
        for (page, bytes) in (offset / PAGE..).zip(data.chunks_exact(PAGE as usize)) {
            if !self.done.contains(page) {
                self.pending.insert(page, XxHash3_64::oneshot(bytes));
            }
        }
    }

    /// After a sync: what was written first must be there.
    pub(super) fn read_back(&mut self, file: &dyn StoreFile) -> io::Result<()> {
        while let Some((&first, _)) = self.pending.first_key_value() {
            let run = self.pending.iter().zip(first..first + MOST_AT_ONCE);
            let run: Vec<(u64, u64)> =
                run.map_while(|((page, hash), next)| (*page == next).then_some((next, *hash))).collect();
            self.buffer.resize(run.len() * PAGE as usize, 0);
            file.read_back(first * PAGE, &mut self.buffer)?;
            for ((page, hash), bytes) in run.iter().zip(self.buffer.chunks_exact(PAGE as usize)) {
                if XxHash3_64::oneshot(bytes) != *hash {
                    return Err(io::Error::other(format!(
                        "the disk reported data written to byte {} of the file as safe, but it is not there",
                        page * PAGE
                    )));
                }
            }
            for (page, _) in run {
                self.pending.remove(&page);
                self.done.set(page, true);
            }
        }
        Ok(())
    }

    /// The file ends at `length` now: what lies behind it gives its room back.
    pub(super) fn cut(&mut self, length: u64) {
        let pages = length.div_ceil(PAGE);
        drop(self.pending.split_off(&pages));
        self.done.cut(pages);
    }
}

/// A set of pages by their numbers: a bit for each.
#[derive(Debug, Default)]
pub(super) struct Pages(Vec<u64>);

impl Pages {
    pub(super) fn contains(&self, page: u64) -> bool {
        self.0.get(page as usize / 64).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    pub(super) fn set(&mut self, page: u64, there: bool) {
        let word = page as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let bit = 1 << (page % 64);
        if there {
            self.0[word] |= bit;
        } else {
            self.0[word] &= !bit;
        }
    }

    /// Takes out the pages from this one on.
    fn cut(&mut self, pages: u64) {
        self.0.truncate(pages.div_ceil(64) as usize);
        if let Some(last) = self.0.get_mut(pages as usize / 64) {
            *last &= (1 << (pages % 64)) - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::StoreDriver;
    use crate::store::Files;

    #[test]
    fn what_is_on_the_medium_is_accepted_once_and_what_is_not_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = Files::default().open(&dir.path().join("file")).unwrap();
        let pages: Vec<u8> = (0..300 * PAGE).map(|n| (n / 7) as u8).collect();
        file.set_len(pages.len() as u64).unwrap();
        file.write(0, &pages).unwrap();
        file.sync_data().unwrap();
        let mut first = FirstWrites::default();
        first.wrote(0, &pages);
        first.read_back(&*file).unwrap();
        // Whatever is written there now has its room.
        first.wrote(4 * PAGE, &[9; PAGE as usize]);
        first.read_back(&*file).unwrap();

        first.cut(100 * PAGE);
        first.wrote(99 * PAGE, &[9; PAGE as usize]);
        first.read_back(&*file).unwrap();
        first.wrote(100 * PAGE, &[9; PAGE as usize]);
        let error = first.read_back(&*file).unwrap_err();
        assert!(error.to_string().contains("to byte 409600 "), "{error}");
    }
}
