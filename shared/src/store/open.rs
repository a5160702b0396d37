//! Opening a store's file from the medium, and replacing one that is damaged.

use std::fmt;
use std::io::ErrorKind;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{BackendError, DatabaseError, ReadableDatabase, StorageBackend};

use super::first::FirstWrites;
use super::leaves::Leaves;
use super::rescue::{HEADER, is_header};
use super::{Before, Contents, Quarantine, StoreError, beside, guarded};
use crate::env::{Env, ReadFrom, StoreFile};
use crate::files::{is_missing, is_of_the_disk};

/// The progress that redb 4.6 tells its repair callback before it gives up the latest commit.
const FALLS_BACK: f64 = 0.3;

/// The progress that it tells when it has verified every page, and is about to go through all of them once more.
const VERIFIED: f64 = 0.6;

/// The progress that it tells when it has gone through the tables, and only its own are left.
const VISITED: f64 = 0.9;

/// Files that are kept of those that were put aside; the oldest goes first.
const KEPT_ASIDE: usize = 4;

/// A file between redb and the disk: once it has failed, nothing more reaches the disk, whatever redb does when it is dropped.
///
/// redb writes a commit in the order of its stripes, the header first. Here the header waits for the sync, so that a write which fails,
/// as on a full volume, leaves the file at the commit before, and not at one that is not whole.
pub struct Guard {
    file: Box<dyn StoreFile>,
    failed: AtomicBool,
    first: Mutex<FirstWrites>,
    leaves: Mutex<Leaves>,
    written: Mutex<Written>,
    /// The header, and where it begins, until everything else is written.
    waiting: Mutex<Vec<(u64, Vec<u8>)>>,
}

/// The header and the length of a file as they were written last, once it is open.
#[derive(Debug, Default)]
struct Written {
    header: Option<[u8; HEADER]>,
    length: u64,
}

impl Guard {
    /// A file that has not failed.
    pub(super) fn new(file: Box<dyn StoreFile>) -> Self {
        Self {
            file,
            failed: AtomicBool::new(false),
            first: Mutex::default(),
            leaves: Mutex::default(),
            written: Mutex::default(),
            waiting: Mutex::default(),
        }
    }

    /// From now on everything fails.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Whether `path` leads to the file.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        self.file.is_at(path)
    }

    /// What somebody else has done to the file, as far as its name, its length and its header show it.
    pub(super) fn meddled(&self) -> Option<&'static str> {
        if !self.file.is_linked() {
            return Some("the file was deleted");
        }
        let written = self.written();
        let expected = written.header?;
        let length = self.file.len().ok()?;
        let mut header = [0; HEADER];
        if length >= HEADER as u64 {
            self.file.read(0, &mut header).ok()?;
        }
        // The next commit overwrites another whole store that was put in its place.
        let is_cut = length < written.length && header == expected;
        (is_cut || !is_header(&header)).then_some("something else has cut or overwritten the file")
    }

    /// Takes note of the file as it lies there.
    fn note(&self) -> std::io::Result<()> {
        let (mut header, length) = ([0; HEADER], self.file.len()?);
        self.file.read(0, &mut header)?;
        *self.written() = Written { header: Some(header), length };
        Ok(())
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn first(&self) -> MutexGuard<'_, FirstWrites> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leaves(&self) -> MutexGuard<'_, Leaves> {
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<(u64, Vec<u8>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the header that waits.
    fn put_header(&self) -> std::io::Result<()> {
        for (offset, data) in std::mem::take(&mut *self.waiting()) {
            let mut written = self.written();
            let mut found = [0; HEADER];
            if written.header.is_some_and(|h| self.file.read(0, &mut found).is_ok() && found != h) {
                // From now on the file is neither of the two: what is wrong with it is found when it is read.
                written.header = None;
            }
            self.file.write(offset, &data)?;
            if let Some(header) = written.header.as_mut() {
                header[offset as usize..].iter_mut().zip(&data).for_each(|(to, from)| *to = *from);
            }
            drop(written);
            self.first().wrote(offset, &data);
        }
        Ok(())
    }

    /// Has the disk do something; once that fails, nothing more is done.
    fn change(&self, change: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<()> {
        self.check()?;
        change().inspect_err(|_| self.fail())
    }

    fn check(&self) -> std::io::Result<()> {
        match self.failed.load(Ordering::Relaxed) {
            true => Err(std::io::Error::other("it failed before")),
            false => Ok(()),
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("failed", &self.failed).finish_non_exhaustive()
    }
}

/// What redb is given of a guarded file.
#[derive(Debug)]
pub(super) struct Backend(pub(super) Arc<Guard>);

impl StorageBackend for Backend {
    fn len(&self) -> std::io::Result<u64> {
        self.0.check()?;
        self.0.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.check()?;
        if !self.0.leaves().answer(offset, out) {
            self.0.file.read(offset, out)?;
            self.0.leaves().note(offset, out);
        }
        for (at, data) in self.0.waiting().iter() {
            let (start, end) = (offset.max(*at), (offset + out.len() as u64).min(at + data.len() as u64));
            if start < end {
                let of = |from: u64| (start - from) as usize..(end - from) as usize;
                out[of(offset)].copy_from_slice(&data[of(*at)]);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.change(|| {
            let mut written = self.0.written();
            self.0.file.set_len(len)?;
            written.length = len;
            Ok(())
        })?;
        self.0.first().cut(len);
        Ok(())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.0.change(|| {
            self.0.put_header()?;
            self.0.file.sync_data()?;
            self.0.first().read_back(&*self.0.file)
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        if offset < HEADER as u64 {
            self.0.check()?;
            let mut waiting = self.0.waiting();
            waiting.retain(|(at, earlier)| (*at, earlier.len()) != (offset, data.len()));
            waiting.push((offset, data.to_vec()));
            return Ok(());
        }
        self.0.change(|| self.0.file.write(offset, data))?;
        self.0.first().wrote(offset, data);
        Ok(())
    }

    fn close(&self) -> std::io::Result<()> {
        if self.0.check().is_ok() {
            self.0.put_header()?;
        }
        self.0.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.lock_range(start, end)
    }
}

/// A file that is open and whole.
pub(super) struct Opened<C> {
    pub(super) db: redb::Database,
    pub(super) guard: Arc<Guard>,
    pub(super) contents: C,
    pub(super) quarantine: Option<Quarantine>,
}

/// Why a file cannot be used.
pub fn io_error(path: &Path, e: &std::io::Error) -> StoreError {
    match e.kind() {
        ErrorKind::StorageFull => StoreError::Full,
        _ if is_of_the_disk(e) => StoreError::Io(format!("{}: {e}", path.display())),
        _ => StoreError::File { path: path.to_owned(), why: e.to_string() },
    }
}

/// Opens the file at `path`, or makes one, or replaces one that is damaged. `before` is what was in memory when it failed;
/// `distrusted` says why it is not to be used though its pages have their checksums.
pub(super) fn open<C: Contents>(
    env: &Env,
    path: &Path,
    settings: &C::Settings,
    before: Option<&C>,
    distrusted: Option<&str>,
) -> Result<Opened<C>, StoreError> {
    finish_replacement::<C>(env, path)?;
    // What was put aside belongs to another process if this one cannot lock it, so the file is opened in any case.
    let opened = match length(env, path)? {
        // As many power cuts leave it.
        None | Some(0) => None,
        Some(_) => Some(attach::<C>(env, path, settings, before)),
    };
    let why = match (opened, distrusted) {
        (None, _) => {
            if let Some(before) = before {
                before.remember(env, settings);
            }
            let opened = make::<C>(env, path, settings, Before::Nothing, None)?;
            let lost = before.map(|_| Quarantine { moved_to: None, why: "the file was deleted".to_owned() });
            return Ok(Opened { quarantine: lost, ..opened });
        }
        (Some(Ok(opened)), None) => return Ok(opened),
        (Some(Ok(opened)), Some(why)) => {
            opened.guard.fail();
            drop(opened.db);
            why.to_owned()
        }
        (Some(Err(StoreError::Damaged(why))), _) => why,
        (Some(Err(error)), _) => return Err(error),
    };
    replace::<C>(env, path, settings, why)
}

/// Opens the file at `path` for a look at it.
pub(super) fn look<C: Contents>(
    env: &Env,
    path: &Path,
    settings: &C::Settings,
) -> Result<Opened<C>, StoreError> {
    attach::<C>(env, path, settings, None)
}

/// The length of the file at `path`, if there is one. One that cannot be looked at is an error: a file that is there must not make way
/// for a new one.
fn length(env: &Env, path: &Path) -> Result<Option<u64>, StoreError> {
    match env.store.size(path) {
        Ok((length, _)) => Ok(Some(length)),
        Err(e) if is_missing(&e) => Ok(None),
        Err(e) => Err(io_error(path, &e)),
    }
}

/// Opens a file, verifies it from the medium, and reads its contents.
fn attach<C: Contents>(
    env: &Env,
    path: &Path,
    settings: &C::Settings,
    before: Option<&C>,
) -> Result<Opened<C>, StoreError> {
    let file = env.store.open(path).map_err(|e| io_error(path, &e))?;
    let guard = Arc::new(Guard::new(file));
    let result = guarded(|| {
        let in_order = refuse_later::<C>(path, &guard)?;
        let (db, torn) = match database(path, &guard, C::PAGE_CACHE, false) {
            // Before the commit before takes its place in the file.
            Err(Unopened::Torn) => {
                let torn = C::torn(&*guard.file);
                (database(path, &guard, C::PAGE_CACHE, true)?, Some(torn))
            }
            other => (other?, None),
        };
        // A process that opens it again has a line of its own about that.
        if !in_order && torn.is_none() && before.is_none() {
            tracing::info!(
                store = C::NAME,
                "the previous process did not close the file; every page was verified and is whole"
            );
        }
        let found = C::format(&db.begin_read()?)?;
        let found = found.ok_or_else(|| StoreError::Damaged(format!("the file is not a {}", C::NAME)))?;
        if found > C::FORMAT {
            return Err(StoreError::Format { path: path.to_owned(), found, known: C::FORMAT });
        }
        C::settle(&db, env, settings, before, torn)?;
        guard.file.read_medium(false)?;
        let contents = C::load(&db.begin_read()?, Some(&*guard.file), settings)?;
        guard.note()?;
        Ok((db, contents))
    });
    if result.is_err() {
        guard.fail();
    }
    let (db, contents) = result?;
    Ok(Opened { db, guard, contents, quarantine: None })
}

/// Refuses a file of a later format before anything in it changes, as far as it was closed in order; whether it was.
fn refuse_later<C: Contents>(path: &Path, guard: &Arc<Guard>) -> Result<bool, StoreError> {
    let look = guarded(|| {
        let file = redb::Database::builder().open_read_only_with_backend(Look(Arc::clone(guard)))?;
        C::format(&file.begin_read()?)
    });
    match look {
        Ok(Some(found)) if found > C::FORMAT => {
            Err(StoreError::Format { path: path.to_owned(), found, known: C::FORMAT })
        }
        Ok(_) => Ok(true),
        // What is wrong with it is found out when it is verified.
        Err(_) => Ok(false),
    }
}

/// A file that is only read, and that stays open afterwards.
#[derive(Debug)]
struct Look(Arc<Guard>);

impl StorageBackend for Look {
    fn len(&self) -> std::io::Result<u64> {
        self.0.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.file.read(offset, out)
    }

    fn set_len(&self, _: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn write(&self, _: u64, _: &[u8]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

/// Why a file is not open.
pub(super) enum Unopened {
    /// Its latest commit is not whole; nothing was changed.
    Torn,
    Error(StoreError),
}

impl From<Unopened> for StoreError {
    fn from(unopened: Unopened) -> Self {
        match unopened {
            Unopened::Torn => Self::Damaged("the latest commit is not whole".to_owned()),
            Unopened::Error(error) => error,
        }
    }
}

/// The database in a file, with every page verified on the medium. With `at_the_one_before` it is opened at the commit before the
/// latest when that is not whole.
pub(super) fn database(
    path: &Path,
    guard: &Arc<Guard>,
    cache: usize,
    at_the_one_before: bool,
) -> Result<redb::Database, Unopened> {
    let from = guard.file.read_medium(true);
    if from.map_err(|e| Unopened::Error(e.into()))? == ReadFrom::EmptiedCache {
        tracing::warn!(
            path = %path.display(),
            "this file system does not support direct reads; the page cache is emptied instead, as far as the system allows"
        );
    }
    let torn = Arc::new(AtomicBool::new(false));
    let (seen, verified) = (Arc::clone(&torn), Arc::clone(guard));
    guard.leaves().begin();
    let opened = redb::Database::builder()
        .set_cache_size(cache)
        .set_check_integrity_on_open(true)
        .set_repair_callback(move |session| {
            // redb says so when it is about to take the commit before the latest.
            if session.progress() == FALLS_BACK && !at_the_one_before {
                seen.store(true, Ordering::Relaxed);
                session.abort();
            }
            if session.progress() == VERIFIED {
                // The cache was empty before: what is read from now on comes from the medium once, and then from memory.
                drop(verified.file.read_medium(false));
                verified.leaves().visit();
            }
            if session.progress() == VISITED {
                *verified.leaves() = Leaves::Off;
            }
        })
        .create_with_backend(Backend(Arc::clone(guard)));
    *guard.leaves() = Leaves::Off;
    opened.map_err(|e| match e {
        DatabaseError::RepairAborted if torn.load(Ordering::Relaxed) => Unopened::Torn,
        DatabaseError::DatabaseAlreadyOpen => Unopened::Error(StoreError::Locked(path.to_owned())),
        other => Unopened::Error(StoreError::from(redb::Error::from(other))),
    })
}

/// Makes a new file that gets its name when it is whole, in the place of `aside` if that is given.
fn make<C: Contents>(
    env: &Env,
    path: &Path,
    settings: &C::Settings,
    before: Before<'_>,
    aside: Option<&Path>,
) -> Result<Opened<C>, StoreError> {
    let new = beside(path, ".new");
    env.store.remove(&new).map_err(|e| io_error(&new, &e))?;
    let file = env.store.open(&new).map_err(|e| io_error(&new, &e))?;
    let guard = Arc::new(Guard::new(file));
    let result = guarded::<_, StoreError>(|| {
        let db = database(path, &guard, C::PAGE_CACHE, true)?;
        C::create(&db, env, settings, before)?;
        // What was made is verified too, and read from the medium.
        guard.file.read_medium(true)?;
        let contents = C::load(&db.begin_read()?, None, settings)?;
        guard.file.read_medium(false)?;
        guard.note()?;
        Ok((db, contents))
    });
    if result.is_err() {
        guard.fail();
        drop(env.store.remove(&new));
    }
    let (db, contents) = result?;
    if let Some(aside) = aside {
        env.store.rename(path, aside).map_err(|e| io_error(aside, &e))?;
    }
    env.store.rename(&new, path).map_err(|e| io_error(path, &e))?;
    Ok(Opened { db, guard, contents, quarantine: None })
}

/// Puts the damaged file at `path` aside and a new one in its place, with what can be read of the old.
fn replace<C: Contents>(
    env: &Env,
    path: &Path,
    settings: &C::Settings,
    why: String,
) -> Result<Opened<C>, StoreError> {
    let aside = name_aside(env, path)?;
    let file = env.store.open(path).map_err(|e| io_error(path, &e))?;
    file.read_medium(true)?;
    let opened = make::<C>(env, path, settings, Before::Damaged { file: &*file, why: &why }, Some(&aside))?;
    tracing::error!(
        event.name = "perigee.store.quarantined",
        store = C::NAME,
        why,
        aside = %aside.display(),
        "the file is damaged or not the one that belongs here; it was set aside, and a new one took its place"
    );
    Ok(Opened { quarantine: Some(Quarantine { moved_to: Some(aside), why }), ..opened })
}

/// A replacement that a crash has interrupted between its two renames is finished.
fn finish_replacement<C: Contents>(env: &Env, path: &Path) -> Result<(), StoreError> {
    let new = beside(path, ".new");
    if length(env, path)?.is_some() || length(env, &new)?.is_none() {
        return Ok(());
    }
    let file = env.store.open(&new).map_err(|e| io_error(&new, &e))?;
    let guard = Arc::new(Guard::new(file));
    let whole = guarded(|| {
        let db = database(&new, &guard, C::PAGE_CACHE, true)?;
        C::format(&db.begin_read()?)
    });
    guard.fail();
    match whole {
        Ok(Some(_)) => env.store.rename(&new, path).map_err(|e| io_error(path, &e)),
        _ => Ok(()),
    }
}

/// The next free name for a file that is put aside. Of earlier ones only the latest stay.
fn name_aside(env: &Env, path: &Path) -> Result<PathBuf, StoreError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let prefix = beside(path, ".quarantined-");
    let number =
        |file: &PathBuf| -> Option<u64> { file.to_str()?.strip_prefix(prefix.to_str()?)?.parse().ok() };
    let files = env.store.list(directory).map_err(|e| io_error(directory, &e))?;
    let mut numbers: Vec<u64> = files.iter().filter_map(number).collect();
    numbers.sort_unstable();
    let name = |n: u64| beside(&prefix, &n.to_string());
    for old in &numbers[..(numbers.len() + 1).saturating_sub(KEPT_ASIDE)] {
        tracing::warn!(file = %name(*old).display(), "an earlier quarantined file is deleted to make room");
        drop(env.store.remove(&name(*old)));
    }
    Ok(name(numbers.last().map_or(1, |n| n + 1)))
}
