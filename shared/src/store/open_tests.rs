//! What an opening reads.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use redb::{BackendError, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

use super::direct::LARGE;
use super::open::{Backend, Guard, database};
use super::{Files, Memory};
use crate::env::{ReadFrom, StoreDriver, StoreFile};

const LOG: TableDefinition<'_, (u64, u16), &[u8]> = TableDefinition::new("log");
const CACHE: usize = 1 << 20;

/// Reads by their length and place.
type Reads = Arc<Mutex<BTreeMap<(u64, usize), usize>>>;

/// A file that notes what is read of it, on a volume that something else may have filled: then what has its room can be written, the
/// rest cannot.
#[derive(Debug)]
struct Noted {
    file: Box<dyn StoreFile>,
    reads: Reads,
    full: Arc<AtomicBool>,
}

impl Noted {
    fn new(file: Box<dyn StoreFile>, reads: &Reads, full: &Arc<AtomicBool>) -> Self {
        Self { file, reads: Arc::clone(reads), full: Arc::clone(full) }
    }
}

impl StoreFile for Noted {
    fn read_medium(&self, medium: bool) -> io::Result<ReadFrom> {
        self.file.read_medium(medium)
    }

    fn read_back(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_back(offset, out)
    }

    fn is_linked(&self) -> bool {
        self.file.is_linked()
    }

    fn is_at(&self, path: &Path) -> bool {
        self.file.is_at(path)
    }
}

impl StorageBackend for Noted {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        *self.reads.lock().unwrap().entry((offset, out.len())).or_default() += 1;
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match offset > 0 && self.full.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => self.file.write(offset, data),
        }
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }
}

fn value(n: u64) -> Vec<u8> {
    let mut out = vec![0; [200, 40_000, 130_048, 261_120][n as usize % 4]];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Makes a file of 80 values and leaves it as a kill does.
fn make_killed(store: &dyn StoreDriver, path: &Path) {
    let guard = Arc::new(Guard::new(store.open(path).unwrap()));
    let db = redb::Database::builder().set_cache_size(CACHE).create_with_backend(Backend(Arc::clone(&guard)));
    let db = db.unwrap();
    for n in 0..100 {
        let txn = db.begin_write().unwrap();
        txn.open_table(LOG).unwrap().insert((n, 0), value(n).as_slice()).unwrap();
        txn.commit().unwrap();
    }
    // Large pages that are free, and in use again.
    let txn = db.begin_write().unwrap();
    txn.open_table(LOG).unwrap().retain_in((20, 0)..(40, 0), |_, _| false).unwrap();
    txn.commit().unwrap();
    for n in 20..40 {
        let txn = db.begin_write().unwrap();
        txn.open_table(LOG).unwrap().insert((n, 0), value(n).as_slice()).unwrap();
        txn.commit().unwrap();
    }
    guard.fail();
}

#[test]
fn an_opening_reads_each_large_page_once_and_everything_is_there_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let memory = Memory::default();
    for store in [&Files::default() as &dyn StoreDriver, &memory] {
        let path = dir.path().join("file");
        make_killed(store, &path);
        let reads = Reads::default();
        let file = Noted::new(store.open(&path).unwrap(), &reads, &Arc::default());
        let guard = Arc::new(Guard::new(Box::new(file)));
        let db = database(&path, &guard, CACHE, false).unwrap_or_else(|_| panic!("it is whole"));
        let large: Vec<usize> =
            reads.lock().unwrap().iter().filter(|((_, n), _)| *n >= LARGE).map(|(_, n)| *n).collect();
        assert!(large.len() >= 75 && large.iter().all(|n| *n == 1), "{large:?}");

        let all = |db: &redb::Database| {
            let txn = db.begin_read().unwrap();
            let table = txn.open_table(LOG).unwrap();
            for n in 0..100 {
                assert!(table.get((n, 0)).unwrap().unwrap().value() == value(n), "value {n}");
            }
            assert_eq!(table.iter().unwrap().count(), 100);
        };
        all(&db);
        // What is free is known: new values go in without harm to the others.
        for n in 100..140 {
            let txn = db.begin_write().unwrap();
            txn.open_table(LOG).unwrap().insert((n, 0), value(n).as_slice()).unwrap();
            txn.commit().unwrap();
        }
        let txn = db.begin_write().unwrap();
        txn.open_table(LOG).unwrap().retain_in((100, 0)..(140, 0), |_, _| false).unwrap();
        txn.commit().unwrap();
        guard.fail();
        drop(db);
        let guard = Arc::new(Guard::new(store.open(&path).unwrap()));
        all(&database(&path, &guard, CACHE, false).unwrap_or_else(|_| panic!("it is whole")));
    }
}

#[test]
fn a_byte_that_changed_in_any_page_is_found_by_an_opening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    make_killed(&Files::default(), &path);
    let whole = std::fs::read(&path).unwrap();
    let reads = Reads::default();
    let file = Noted::new(Files::default().open(&path).unwrap(), &reads, &Arc::default());
    drop(database(&path, &Arc::new(Guard::new(Box::new(file))), CACHE, true));
    let pages: Vec<(u64, usize)> =
        reads.lock().unwrap().keys().filter(|(_, n)| *n >= LARGE).copied().collect();
    for (at, length) in pages {
        // Its first byte, and one in the value.
        for place in [at as usize, at as usize + length / 2] {
            let mut damaged = whole.clone();
            damaged[place] ^= 0x10;
            std::fs::write(&path, &damaged).unwrap();
            let guard = Arc::new(Guard::new(Files::default().open(&path).unwrap()));
            assert!(database(&path, &guard, CACHE, false).is_err(), "byte {place}");
        }
    }
}

#[test]
fn the_header_is_written_last_and_not_at_all_behind_a_write_that_failed() {
    let (dir, full) = (tempfile::tempdir().unwrap(), Arc::new(AtomicBool::new(false)));
    let path = dir.path().join("file");
    let file = Noted::new(Files::default().open(&path).unwrap(), &Reads::default(), &full);
    let file = Backend(Arc::new(Guard::new(Box::new(file))));
    let (commit, there) = (|n: u8| (vec![n; 320], vec![n; 4096]), || std::fs::read(&path).unwrap());
    file.set_len(8192).unwrap();
    let (header, page) = commit(1);
    file.write(0, &header).unwrap();
    file.write(4096, &page).unwrap();
    assert_eq!((there()[0], there()[4096]), (0, 1), "it waits for the sync");
    let mut out = [0; 4];
    file.read(318, &mut out).unwrap();
    assert_eq!(out, [1, 1, 0, 0], "what waits is read as written");
    file.sync_data().unwrap();
    assert_eq!(there()[..320], header);

    full.store(true, Ordering::Relaxed);
    let (header, page) = commit(2);
    file.write(0, &header).unwrap();
    file.write(4096, &page).unwrap_err();
    full.store(false, Ordering::Relaxed);
    file.sync_data().unwrap_err();
    file.close().unwrap();
    assert_eq!((there()[0], there()[4096]), (1, 1), "the file is at the commit before");
}
