//! What lies under the logs of both programs: a redb file that is opened from the medium, put aside when it is damaged, opened
//! again after a failure, and changed only by transactions that take the state in memory along.
//!
//! [`Database`] owns the file and a [`Contents`]: what is kept in memory of the tables. Contents are changed by nothing but
//! [`Database::write`]: the transaction returns a change, and the change is applied when the commit has succeeded. After an error
//! the file is closed without a further write, opened again from the medium ([`StoreFile::read_medium`]), and the contents
//! are read anew: nothing is acknowledged that stands on pages that may never have been written.
//!
//! Every opening verifies the checksum of every page. A file that fails is replaced: [`Contents::create`] makes a new one beside
//! it, with what can be read of the old, and the old one gets the name `FILE.quarantined-N`. A new file gets its name when it is
//! whole, so that a start that is killed half-way leaves nothing that looks damaged.

pub mod backup;
mod ballast;
mod direct;
mod error;
mod file;
mod first;
mod keys;
mod leaves;
mod memory;
pub mod mirror;
mod open;
#[cfg(test)]
mod open_tests;
mod pieces;
pub mod rescue;
pub mod scrub;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{ReadTransaction, ReadableDatabase, WriteTransaction};

pub use ballast::Ballast;
pub use error::{GIVEN_UP, StoreError};
pub use file::Files;
pub(crate) use file::{DIRECTORY_MODE, FILE_MODE, sync_parent};
pub use memory::Memory;
pub use open::{Guard, io_error};
pub use pieces::{LARGEST_PIECE, join, next_piece, pieces};

use crate::env::{Env, StoreFile};
use crate::supervise::expecting;
use crate::telemetry::Repeats;

/// How long a store that has failed is left alone, in ns: a disk that fails would be asked for every request.
const REOPEN_AFTER: u64 = 1_000_000_000;

/// A compaction pays when the file takes more than this, and more than twice what is stored.
const COMPACT_ABOVE: u64 = 64 << 20;

/// Commits after which an earlier failure says nothing any more.
const FORGIVEN_AFTER: u32 = 256;

/// Files put aside in a row, after which the store is given up: the disk destroys what is written to it.
const MOST_QUARANTINES: u32 = 3;

/// What a store keeps in memory of its tables.
pub trait Contents: Sized {
    /// What is needed to make and to read it.
    type Settings;
    /// What a transaction changes in it.
    type Change;
    /// What can be had of a latest commit that is not whole.
    type Torn;

    /// What it is called in messages.
    const NAME: &'static str;
    /// The file's name in its directory.
    const FILE: &'static str;
    /// The latest format that this software knows.
    const FORMAT: u64;
    /// redb's page cache, in bytes.
    const PAGE_CACHE: usize;

    /// The format number in the tables; `None` when there are no tables.
    fn format(read: &ReadTransaction) -> Result<Option<u64>, StoreError>;

    /// Makes the tables in an empty file. The format number is written by the last transaction: without it the file is not whole.
    fn create(
        db: &redb::Database,
        env: &Env,
        settings: &Self::Settings,
        before: Before<'_>,
    ) -> Result<(), StoreError>;

    /// Looks at a file whose latest commit is not whole, before it is opened at the commit before: a power cut leaves it so, and so
    /// does damage to a commit that was called safe.
    fn torn(file: &dyn StoreFile) -> Self::Torn;

    /// Brings the tables to where [`Contents::load`] can read them, takes out what was refused, and takes in what was torn. `before`
    /// is what was in memory when the store failed, if it failed in this process.
    fn settle(
        db: &redb::Database,
        env: &Env,
        settings: &Self::Settings,
        before: Option<&Self>,
        torn: Option<Self::Torn>,
    ) -> Result<(), StoreError>;

    /// Reads everything. `file` has the same tables, verified a moment ago: how a value begins can be read there without the rest.
    fn load(
        read: &ReadTransaction,
        file: Option<&dyn StoreFile>,
        settings: &Self::Settings,
    ) -> Result<Self, StoreError>;

    /// Takes in what a transaction has changed; it is committed.
    fn apply(&mut self, change: Self::Change);

    /// Writes what is known into the files beside the store, for the last time: the file that `read` reads was deleted.
    fn outlive(&self, env: &Env, settings: &Self::Settings, read: &ReadTransaction);

    /// The same from memory alone, before a new file is made in the place of a deleted one: what lay beside it may be gone too.
    fn remember(&self, _env: &Env, _settings: &Self::Settings) {}
}

/// What was there before a new file.
#[derive(Clone, Copy)]
pub enum Before<'a> {
    /// No file, or one without a byte: a first start, or everything is gone. What lies beside it tells which.
    Nothing,
    /// A file that fails its checksums, for what can be read of it.
    Damaged {
        /// The file.
        file: &'a dyn StoreFile,
        /// What is wrong with it.
        why: &'a str,
    },
}

/// A file that was put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    /// The name that it has now; `None`: it was deleted.
    pub moved_to: Option<PathBuf>,
    /// What is wrong with it.
    pub why: String,
}

/// An error of a program's own that a store error can be turned into and found in.
pub trait Failure: From<StoreError> {
    /// The store error in it, if it is one.
    fn store_error(&self) -> Option<&StoreError>;
}

impl Failure for StoreError {
    fn store_error(&self) -> Option<&StoreError> {
        Some(self)
    }
}

/// What a transaction hands back.
pub struct Done<R, C> {
    /// For the caller.
    pub out: R,
    /// For the contents.
    pub change: C,
}

/// An open file, or why it is not open.
enum File {
    Open {
        db: redb::Database,
        guard: Arc<Guard>,
    },
    /// Until then it is not opened again.
    Closed {
        until: u64,
        why: String,
    },
    GivenUp(String),
}

/// A redb file with what is kept in memory of it.
pub struct Database<C: Contents> {
    env: Env,
    path: PathBuf,
    settings: C::Settings,
    file: File,
    contents: C,
    ballast: Ballast,
    /// Files that were put aside and that nobody was told of yet.
    quarantines: Vec<Quarantine>,
    /// How many were put aside in a row, and how often it was found damaged while every page had its checksum.
    in_a_row: u32,
    doubts: u32,
    /// Commits since then.
    commits: u32,
    /// How often it was opened.
    openings: u64,
    /// Why it is put aside when it is opened the next time.
    distrusted: Option<String>,
    /// Failures that the log has a line about.
    said: Repeats,
}

impl<C: Contents> Database<C> {
    /// Opens the store in `directory`, or makes one. A file that is damaged is put aside; see [`Database::take_quarantine`].
    pub fn open(env: Env, directory: &Path, settings: C::Settings, ballast: u64) -> Result<Self, StoreError> {
        env.store.make_directory(directory).map_err(|e| open::io_error(directory, &e))?;
        let path = directory.join(C::FILE);
        let ballast = Ballast::new(env.clone(), directory.join("ballast"), ballast);
        let open = || open::open::<C>(&env, &path, &settings, None, None);
        let opened = match open() {
            Err(StoreError::Full) => {
                ballast.release();
                open()?
            }
            other => other?,
        };
        ballast.refill();
        let in_a_row = u32::from(opened.quarantine.is_some());
        Ok(Self {
            env,
            path,
            settings,
            file: File::Open { db: opened.db, guard: opened.guard },
            contents: opened.contents,
            ballast,
            quarantines: opened.quarantine.into_iter().collect(),
            in_a_row,
            doubts: 0,
            commits: 0,
            openings: 1,
            distrusted: None,
            said: Repeats::default(),
        })
    }

    /// Opens a store that is there and whole, for a look at it: makes nothing and puts nothing aside.
    pub fn open_existing(env: Env, directory: &Path, settings: C::Settings) -> Result<Self, StoreError> {
        let path = directory.join(C::FILE);
        if !env.store.exists(&path) {
            return Err(StoreError::File { path, why: format!("there is no {} here", C::NAME) });
        }
        let opened = open::look::<C>(&env, &path, &settings)?;
        Ok(Self {
            ballast: Ballast::new(env.clone(), directory.join("ballast"), 0),
            env,
            path,
            settings,
            file: File::Open { db: opened.db, guard: opened.guard },
            contents: opened.contents,
            quarantines: Vec::new(),
            in_a_row: 0,
            doubts: 0,
            commits: 0,
            openings: 1,
            distrusted: None,
            said: Repeats::default(),
        })
    }

    /// What is in memory of the tables.
    pub const fn contents(&self) -> &C {
        &self.contents
    }

    /// What it was opened with.
    pub const fn settings(&self) -> &C::Settings {
        &self.settings
    }

    /// What it takes from the machine.
    pub const fn env(&self) -> &Env {
        &self.env
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next file that was put aside since this was last asked.
    pub fn take_quarantine(&mut self) -> Option<Quarantine> {
        (!self.quarantines.is_empty()).then(|| self.quarantines.remove(0))
    }

    /// How often it was opened: what was noted elsewhere of an earlier opening may not hold any more.
    pub const fn openings(&self) -> u64 {
        self.openings
    }

    /// Why it cannot be written now, as far as is known; `None` while it can.
    pub fn failing(&self) -> Option<&str> {
        match &self.file {
            File::Open { .. } => None,
            File::Closed { why, .. } | File::GivenUp(why) => Some(why),
        }
    }

    /// Whether it will never be written again in this process.
    pub const fn is_given_up(&self) -> bool {
        matches!(self.file, File::GivenUp(_))
    }

    /// Length of the file and bytes that it takes on the volume.
    pub fn file_bytes(&self) -> (u64, u64) {
        self.env.store.size(&self.path).unwrap_or_default()
    }

    /// Runs `work` in a transaction that is synced when this returns, and applies what it changes. On an error nothing of it remains,
    /// in the tables or in memory.
    pub fn write<R, E: Failure>(
        &mut self,
        work: impl FnOnce(&WriteTransaction, &C) -> Result<Done<R, C::Change>, E>,
    ) -> Result<R, E> {
        self.ensure_open()?;
        let (db, guard) = self.opened()?;
        let (contents, env, settings) = (&self.contents, &self.env, &self.settings);
        let result = guarded(|| {
            let txn = db.begin_write().map_err(StoreError::from)?;
            let done = work(&txn, contents)?;
            if let Some(how) = guard.meddled() {
                contents.outlive(env, settings, &db.begin_read().map_err(StoreError::from)?);
                return Err(StoreError::Damaged(how.to_owned()).into());
            }
            txn.commit().map_err(StoreError::from)?;
            Ok(done)
        });
        match result {
            Ok(Done { out, change }) => {
                self.contents.apply(change);
                self.commits = self.commits.saturating_add(1);
                if self.commits == FORGIVEN_AFTER {
                    (self.in_a_row, self.doubts) = (0, 0);
                }
                Ok(out)
            }
            Err(error) => Err(self.noted(error)),
        }
    }

    /// Takes in what has changed and is safe without a transaction.
    pub fn apply(&mut self, change: C::Change) {
        self.contents.apply(change);
    }

    /// Whether the file has its name and its header still, as far as it is open.
    pub fn is_there(&self) -> bool {
        self.opened().is_ok_and(|(_, guard)| guard.meddled().is_none())
    }

    /// Whether its path leads to no file, or to another one than the one that is open.
    pub fn is_elsewhere(&self) -> bool {
        match self.opened() {
            Ok((_, guard)) => !guard.is_at(&self.path),
            Err(_) => !self.env.store.exists(&self.path),
        }
    }

    /// That, in words. A file that was moved is still written, whatever is in its place now.
    pub fn taken_away(&self) -> Option<String> {
        let how = || if self.is_there() { "moved" } else { "deleted" };
        self.is_elsewhere().then(|| format!("{} was {}", self.path.display(), how()))
    }

    /// [`Database::write`] of what changes nothing in memory.
    pub fn record<R, E: Failure>(
        &mut self,
        work: impl FnOnce(&WriteTransaction, &C) -> Result<R, E>,
    ) -> Result<R, E>
    where
        C::Change: Default,
    {
        self.write(|txn, contents| Ok(Done { out: work(txn, contents)?, change: C::Change::default() }))
    }

    /// Has `work` look at the tables as they are now.
    pub fn read<R, E: Failure>(
        &mut self,
        work: impl FnOnce(&ReadTransaction, &C) -> Result<R, E>,
    ) -> Result<R, E> {
        self.ensure_open()?;
        let (db, _) = self.opened()?;
        let contents = &self.contents;
        let result = guarded(|| work(&db.begin_read().map_err(StoreError::from)?, contents));
        result.map_err(|error| self.noted(error))
    }

    /// What the page cache has of a file that something else has cut or overwritten is not what lies there: then it is opened again.
    pub fn check_file(&mut self) -> Result<(), StoreError> {
        self.ensure_open()?;
        let (db, guard) = self.opened()?;
        let Some(how) = guard.meddled() else { return Ok(()) };
        if let Ok(read) = db.begin_read() {
            self.contents.outlive(&self.env, &self.settings, &read);
        }
        Err(self.noted(StoreError::Damaged(how.to_owned())))
    }

    /// The tables as they are now, for work elsewhere. What goes wrong there is to be told with [`Database::note`].
    pub fn snapshot(&mut self) -> Result<ReadTransaction, StoreError> {
        self.check_file()?;
        let (db, _) = self.opened()?;
        let result = db.begin_read().map_err(StoreError::from);
        result.map_err(|error| self.noted(error))
    }

    /// Takes note of an error that was met in a snapshot: the file is closed and opened again if it was the file's.
    pub fn note(&mut self, error: &impl Failure) {
        let Some(error) = error.store_error().filter(|e| e.is_failure()) else { return };
        if self.is_given_up() {
            return;
        }
        // One that opens and fails again does so once a second. Each is counted as an alarm, logged or not.
        match self.said.count(&error.to_string()) {
            Some(times) => tracing::error!(
                event.name = "perigee.store.failed",
                %error,
                store = C::NAME,
                times,
                "the store failed; it is opened again from the medium"
            ),
            None => {
                tracing::debug!(event.name = "perigee.store.failed", %error, "the store failed again");
            }
        }
        self.abandon(error.to_string());
        match error {
            StoreError::Full => self.ballast.release(),
            StoreError::Damaged(why) => {
                self.doubts += 1;
                // Once may be a page that was wrong in memory alone.
                self.distrusted = (self.doubts > 1).then(|| why.clone());
            }
            _ => {}
        }
    }

    fn noted<E: Failure>(&mut self, error: E) -> E {
        self.note(&error);
        error
    }

    /// Closes the file without another byte written to it.
    fn abandon(&mut self, why: String) {
        let until = self.env.since_boot().nano.saturating_add(REOPEN_AFTER);
        if let File::Open { db, guard } = std::mem::replace(&mut self.file, File::Closed { until, why }) {
            guard.fail();
            // redb may panic once more.
            drop(expecting(|| drop(db)));
        }
    }

    fn opened(&self) -> Result<(&redb::Database, &Guard), StoreError> {
        match &self.file {
            File::Open { db, guard } => Ok((db, guard)),
            File::Closed { why, .. } => Err(StoreError::Closed(why.clone())),
            File::GivenUp(why) => Err(StoreError::GivenUp(why.clone())),
        }
    }

    /// Opens the file again if it failed before, unless that was a moment ago.
    pub fn ensure_open(&mut self) -> Result<(), StoreError> {
        let now = self.env.since_boot().nano;
        match &self.file {
            File::Open { .. } => return Ok(()),
            File::Closed { until, .. } if now < *until => {}
            File::Closed { .. } => self.reopen()?,
            File::GivenUp(_) => {}
        }
        self.opened().map(drop)
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        let distrusted = self.distrusted.take();
        let before = Some(&self.contents);
        match open::open::<C>(&self.env, &self.path, &self.settings, before, distrusted.as_deref()) {
            Ok(opened) => {
                if let Some(times) = self.said.count("open") {
                    tracing::info!(store = C::NAME, times, "the store is open again");
                }
                self.file = File::Open { db: opened.db, guard: opened.guard };
                self.contents = opened.contents;
                (self.commits, self.openings) = (0, self.openings + 1);
                if opened.quarantine.is_some() {
                    (self.in_a_row, self.doubts) = (self.in_a_row + 1, 0);
                    self.quarantines.extend(opened.quarantine);
                }
                if self.in_a_row >= MOST_QUARANTINES {
                    self.give_up(
                        "three files in a row were damaged; the disk destroys what is written to it",
                    );
                }
                Ok(())
            }
            Err(error) => {
                self.distrusted = distrusted;
                if matches!(error, StoreError::Full) {
                    self.ballast.release();
                }
                let until = self.env.since_boot().nano.saturating_add(REOPEN_AFTER);
                self.file = File::Closed { until, why: error.to_string() };
                Err(StoreError::Closed(error.to_string()))
            }
        }
    }

    fn give_up(&mut self, why: &str) {
        self.abandon(why.to_owned());
        self.file = File::GivenUp(why.to_owned());
    }

    /// Gives bytes back to the volume when that pays, or always with `force`. Returns what the file took before and after.
    pub fn compact(&mut self, stored: u64, force: bool) -> Result<Option<(u64, u64)>, StoreError> {
        self.ensure_open()?;
        let (_, before) = self.file_bytes();
        if !force && (before < COMPACT_ABOVE || before < stored.saturating_mul(2)) {
            return Ok(None);
        }
        let File::Open { db, .. } = &mut self.file else { return Ok(None) };
        let result = guarded(|| db.compact().map_err(StoreError::from));
        result.map_err(|error| self.noted(error))?;
        self.ballast.refill();
        Ok(Some((before, self.file_bytes().1)))
    }

    /// Closes the file in order.
    pub fn close(self) -> Result<(), StoreError> {
        match self.file {
            File::Open { db, .. } => guarded(|| db.close().map_err(StoreError::from)),
            File::Closed { .. } | File::GivenUp(_) => Ok(()),
        }
    }
}

/// Runs `work`; a panic in it is damage, since redb is known to panic on pages that it did not write.
pub fn guarded<R, E: From<StoreError>>(work: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
    expecting(work)
        .unwrap_or_else(|panic| Err(StoreError::Damaged(format!("panicked on it: {}", said(&*panic))).into()))
}

/// The path with something added to its last name.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut out = path.to_owned();
    out.as_mut_os_string().push(suffix);
    out
}

/// What a panic says.
fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
