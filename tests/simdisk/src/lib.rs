//! A disk in memory for the stores of both programs: it can be full, fail any operation, lie, lose its power after a number of
//! writes, and come back with only what was synced, or with some of the rest as well, torn where it likes.
//!
//! It has a page cache. A program reads what it wrote; the medium has what was synced. After a failed write-back
//! ([`Trouble::WriteBack`]) the two differ until the power is cut, though every later sync succeeds. `StoreFile::read_medium`
//! reads past the cache.

mod driver;
mod faults;
mod image;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::SeedableRng;
use rand::rngs::SmallRng;

pub use driver::File;
pub use faults::{Fault, Operation, Trouble};

use faults::Armed;
use image::{Image, torn};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Files in memory.
#[derive(Debug, Default)]
pub struct Disk {
    files: Mutex<BTreeMap<PathBuf, Arc<Mutex<Image>>>>,
    full: AtomicBool,
    unsynced: AtomicBool,
    /// Operations until the power goes; 0 stands for never, so it counts down to 1.
    power: AtomicU64,
    operations: AtomicU64,
    /// Environments so far: each has other random numbers.
    environments: AtomicU64,
    /// Counts the processes; files of earlier ones are dead.
    lives: AtomicU64,
    fault: Mutex<Option<Armed>>,
}

impl Disk {
    /// An empty disk.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// From now on every write says that the disk is full, or no longer does.
    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    /// From now on the content of a small file is written and not synced, so that it does not get its name, or no longer.
    pub fn set_unsynced(&self, unsynced: bool) {
        self.unsynced.store(unsynced, Ordering::Relaxed);
    }

    /// The power goes after so many further writes and syncs.
    pub fn power_off_after(&self, operations: u64) {
        self.power.store(operations + 1, Ordering::Relaxed);
    }

    /// Whether the power is gone.
    pub fn is_off(&self) -> bool {
        self.power.load(Ordering::Relaxed) == 1
    }

    /// Writes and syncs so far.
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    /// From now on `fault` happens, and no other one.
    pub fn arm(&self, fault: Fault) {
        *lock(&self.fault) = Some(Armed::new(fault));
    }

    /// The disk works again. How often the fault happened.
    pub fn heal(&self) -> u64 {
        self.set_full(false);
        lock(&self.fault).take().map_or(0, |armed| armed.fired)
    }

    /// How often the fault has happened so far.
    pub fn fired(&self) -> u64 {
        lock(&self.fault).as_ref().map_or(0, |armed| armed.fired)
    }

    fn meets(&self, operation: Operation) -> Option<Trouble> {
        lock(&self.fault).as_mut()?.meets(operation)
    }

    fn chance(&self, decide: impl FnOnce(&mut SmallRng)) {
        if let Some(armed) = lock(&self.fault).as_mut() {
            decide(armed.rng());
        }
    }

    fn check(&self) -> io::Result<()> {
        self.operations.fetch_add(1, Ordering::Relaxed);
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let left = self.power.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n > 1).then(|| n - 1));
        match left {
            Err(1) => Err(io::Error::other("the power is gone")),
            _ => Ok(()),
        }
    }

    fn life(&self) -> u64 {
        self.lives.load(Ordering::Relaxed)
    }

    /// kill -9: the files that the process had open are dead, and what it wrote stays in the page cache.
    pub fn kill(&self) {
        self.lives.fetch_add(1, Ordering::Relaxed);
    }

    /// The process was killed where the power was to go, and the power stayed: the page cache is as it was.
    pub fn power_stays(&self) {
        self.kill();
        self.power.store(0, Ordering::Relaxed);
    }

    /// After a power cut: what was not synced is lost.
    pub fn restart(&self) {
        self.come_back(|_| None);
    }

    /// After a power cut: of what was not synced some writes have happened, in any combination, and some of these only in part.
    pub fn restart_torn(&self, seed: u64) {
        let mut rng = SmallRng::seed_from_u64(seed);
        self.come_back(|len| torn(&mut rng, len));
    }

    fn come_back(&self, mut survives: impl FnMut(usize) -> Option<usize>) {
        for image in lock(&self.files).values() {
            lock(image).power_cut(&mut survives);
        }
        self.power.store(0, Ordering::Relaxed);
    }

    /// Changes the content of a file, as a damaged disk would.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(image) = lock(&self.files).get(path) {
            lock(image).damage(change);
        }
    }

    /// The content of a file as a program sees it; `None` when there is none.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        lock(&self.files).get(path).map(|image| lock(image).content().to_vec())
    }

    /// Puts a file in the place of what is at `path`; who has that open goes on with it.
    pub fn put(&self, path: &Path, content: Vec<u8>) {
        lock(&self.files).insert(path.to_owned(), Arc::new(Mutex::new(Image::new(content))));
    }

    /// Deletes a file; who has it open goes on with it.
    pub fn delete(&self, path: &Path) {
        lock(&self.files).remove(path);
    }

    /// The power goes now and for good: every further write fails. What comes back is the disk as it is found after that: with
    /// what was synced, and when there is a `seed` with some of the rest as well, torn where it likes.
    pub fn lose_power(&self, seed: Option<u64>) -> Arc<Self> {
        self.power.store(1, Ordering::Relaxed);
        let files = lock(&self.files)
            .iter()
            .map(|(path, image)| (path.clone(), Arc::new(Mutex::new(lock(image).clone()))))
            .collect();
        let found = Arc::new(Self { files: Mutex::new(files), ..Self::default() });
        match seed {
            Some(seed) => found.restart_torn(seed),
            None => found.restart(),
        }
        found
    }

    /// The names of all files.
    pub fn files(&self) -> Vec<PathBuf> {
        lock(&self.files).keys().cloned().collect()
    }
}
