//! One file: what a program sees through the page cache, and what the medium has.

use std::io;

/// What a disk does in units of: a torn write ends at a multiple of it.
const SECTOR: usize = 512;

/// A file as a kernel keeps it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Image {
    /// What a program reads: the page cache over the medium.
    now: Vec<u8>,
    /// What is on the medium for certain.
    synced: Vec<u8>,
    /// Writes since the last sync, in order: the dirty pages.
    pending: Vec<(usize, Vec<u8>)>,
}

impl Image {
    /// A file with this content, all of it on the medium.
    pub(crate) fn new(content: Vec<u8>) -> Self {
        Self { synced: content.clone(), now: content, pending: Vec::new() }
    }

    pub(crate) const fn len(&self) -> usize {
        self.now.len()
    }

    /// What a program sees.
    pub(crate) fn content(&self) -> &[u8] {
        &self.now
    }

    /// A reader past the page cache sees the medium. The kernel writes dirty pages back before such a read, so they are in it; pages
    /// that it gave up after a failed write-back are not.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8], medium: bool) -> io::Result<()> {
        let range = offset as usize..offset as usize + out.len();
        let seen = self.now.get(range.clone()).ok_or(io::ErrorKind::UnexpectedEof)?;
        if !medium {
            out.copy_from_slice(seen);
            return Ok(());
        }
        out.fill(0);
        let there = self.synced.get(range.start.min(self.synced.len())..range.end.min(self.synced.len()));
        let there = there.unwrap_or_default();
        out[..there.len()].copy_from_slice(there);
        for (at, data) in &self.pending {
            let (from, to) = ((*at).max(range.start), (at + data.len()).min(range.end));
            if from < to {
                out[from - range.start..to - range.start].copy_from_slice(&data[from - at..to - at]);
            }
        }
        Ok(())
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        let offset = offset as usize;
        self.now[offset..offset + data.len()].copy_from_slice(data);
        self.pending.push((offset, data.to_vec()));
    }

    pub(crate) fn set_len(&mut self, len: usize) {
        self.now.resize(len, 0);
        if len < self.synced.len() {
            // What is beyond the end cannot come back.
            self.synced.truncate(len);
            self.pending.retain_mut(|(offset, data)| {
                data.truncate(len.saturating_sub(*offset));
                !data.is_empty()
            });
        }
    }

    /// Everything is on the medium.
    pub(crate) fn sync(&mut self) {
        self.synced.resize(self.now.len(), 0);
        for (offset, data) in self.pending.drain(..) {
            self.synced[offset..offset + data.len()].copy_from_slice(&data);
        }
    }

    /// The write-back of some dirty pages fails: they become clean, and the medium does not have them.
    pub(crate) fn lose_write_back(&mut self, mut arrives: impl FnMut() -> bool) {
        self.synced.resize(self.now.len(), 0);
        for (offset, data) in self.pending.drain(..) {
            if arrives() {
                self.synced[offset..offset + data.len()].copy_from_slice(&data);
            }
        }
    }

    /// Some pages are not on the medium, which has had no room for them before.
    pub(crate) fn lose_first_writes(&mut self, mut arrives: impl FnMut() -> bool) {
        self.synced.resize(self.now.len(), 0);
        for (offset, data) in self.pending.drain(..) {
            let place = &mut self.synced[offset..offset + data.len()];
            if place.iter().any(|byte| *byte != 0) || arrives() {
                place.copy_from_slice(&data);
            }
        }
    }

    /// The power was cut: of each write since the last sync `survives` says how many of its bytes the medium has.
    pub(crate) fn power_cut(&mut self, survives: &mut impl FnMut(usize) -> Option<usize>) {
        let mut content = std::mem::take(&mut self.synced);
        for (offset, data) in std::mem::take(&mut self.pending) {
            if let Some(len) = survives(data.len()) {
                let data = &data[..len.min(data.len())];
                if content.len() < offset + data.len() {
                    content.resize(offset + data.len(), 0);
                }
                content[offset..offset + data.len()].copy_from_slice(data);
            }
        }
        *self = Self::new(content);
    }

    /// Bytes change by themselves, in the cache and on the medium.
    pub(crate) fn damage(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.now);
        *self = Self::new(std::mem::take(&mut self.now));
    }
}

/// How much of a write of `len` bytes a power cut leaves: nothing, some sectors, or all.
pub(crate) fn torn(rng: &mut impl rand::Rng, len: usize) -> Option<usize> {
    match rng.random_range(0..4) {
        0 => None,
        1 => Some(rng.random_range(0..=len / SECTOR) * SECTOR),
        _ => Some(len),
    }
}
