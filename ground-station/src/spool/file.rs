//! The spool's file with what is in memory of it; everything else is functions over its transactions.

use std::sync::Arc;

use perigee_shared::env::Env;
use perigee_shared::store::{Database, Done, Failure, Quarantine, StoreError};
use redb::{ReadTransaction, WriteTransaction};
use tokio_util::task::TaskTracker;

use super::contents::{Contents, Effect, Kept, Settings};
use super::decode::Snapshot;
use super::error::SpoolError;
use super::mirror::{Mirror, Mirrored};
use super::outlet;

/// A transaction that changes the spool. What it changes in memory is noted as effects, which happen when it is committed.
pub(super) struct Txn<'t> {
    pub(super) tables: &'t WriteTransaction,
    pub(super) contents: &'t Contents,
    /// Ns since the Unix epoch.
    pub(super) now: u64,
    pub(super) effects: Vec<Effect>,
}

impl Txn<'_> {
    /// Notes what bytes something takes.
    pub(super) fn bytes(&mut self, satellite: u32, kept: Kept, before: u64, after: u64) {
        if before != after {
            self.effects.push(Effect::Bytes { satellite, kept, before, after });
        }
    }
}

/// The spool as it is at one moment.
pub(super) struct View<'t> {
    pub(super) tables: &'t ReadTransaction,
    pub(super) contents: &'t Contents,
}

/// The spool. One place owns it and calls it synchronously; [`Store`](super::Store) is how the rest asks.
pub(super) struct Spool {
    db: Database<Contents>,
    mirrored: Mirrored,
    /// Nobody runs it: it was opened to be asked something.
    only_looks: bool,
    /// The last file that was put aside since the start.
    quarantined: Option<Quarantine>,
    /// How often the file was replaced by a new one: what was held of partial segments is gone then.
    replaced: u64,
    /// Snapshots that somebody has.
    snapshots: TaskTracker,
}

impl Spool {
    /// Opens the spool; makes one when there is none. A damaged file is put aside, and a new one goes on from the mirror.
    pub(super) fn open(env: &Env, settings: Settings) -> Result<Self, SpoolError> {
        let (directory, ballast) = (settings.directory.clone(), settings.ballast);
        let db = Database::open(env.clone(), &directory, Arc::new(settings), ballast)?;
        let mirrored = Mirrored::default();
        let mut spool = Self::over(db, mirrored, false);
        spool.look_aside();
        outlet::settle_all(&mut spool)?;
        spool.compact()?;
        spool.mirror(true);
        Ok(spool)
    }

    /// Opens a spool that nobody runs, to ask it something.
    pub(super) fn open_existing(env: &Env, settings: Settings) -> Result<Self, SpoolError> {
        let directory = settings.directory.clone();
        let db = Database::open_existing(env.clone(), &directory, Arc::new(settings))?;
        // What is only looked at has nothing new to be mirrored.
        let mirrored = Mirrored::at((db.openings(), 0));
        Ok(Self::over(db, mirrored, true))
    }

    fn over(db: Database<Contents>, mirrored: Mirrored, only_looks: bool) -> Self {
        Self { db, mirrored, only_looks, quarantined: None, replaced: 0, snapshots: TaskTracker::new() }
    }

    /// Runs `work` in a transaction that is synced when it returns; on an error nothing of it remains.
    pub(super) fn write<R>(
        &mut self,
        work: impl FnOnce(&mut Txn<'_>) -> Result<R, SpoolError>,
    ) -> Result<R, SpoolError> {
        let now = self.db.env().unix_nano();
        let out = self.db.write(|tables, contents| {
            let mut txn = Txn { tables, contents, now, effects: Vec::new() };
            let out = work(&mut txn)?;
            Ok(Done { out, change: txn.effects })
        });
        self.look_aside();
        out
    }

    /// Has `work` look at the tables.
    pub(super) fn read<R>(
        &mut self,
        work: impl FnOnce(&View<'_>) -> Result<R, SpoolError>,
    ) -> Result<R, SpoolError> {
        let out = self.db.read(|tables, contents| work(&View { tables, contents }));
        self.look_aside();
        out
    }

    /// The spool as it is now, for work elsewhere.
    pub(super) fn snapshot(&mut self) -> Result<Snapshot, SpoolError> {
        let read = self.db.snapshot()?;
        let held = Some(self.snapshots.token());
        Ok(Snapshot { read, decoded: self.contents().decoded.clone(), held })
    }

    /// Counts the snapshots that somebody has: the file stays open as long as there is one.
    pub(super) fn snapshots(&self) -> TaskTracker {
        self.snapshots.clone()
    }

    /// Takes note of an error that was met in a snapshot.
    pub(super) fn note(&mut self, error: &impl Failure) {
        self.db.note(error);
    }

    /// Ns since the Unix epoch.
    pub(super) fn now(&self) -> u64 {
        self.db.env().unix_nano()
    }

    pub(super) fn contents(&self) -> &Contents {
        self.db.contents()
    }

    /// Length of the file and bytes that it takes on the volume.
    pub(super) fn file_bytes(&self) -> (u64, u64) {
        self.db.file_bytes()
    }

    /// Why it will never be written again in this process, if so.
    pub(super) fn given_up(&self) -> Option<&str> {
        self.db.failing().filter(|_| self.db.is_given_up())
    }

    /// How its file was taken from its place, if it was.
    pub(super) fn taken_away(&self) -> Option<String> {
        self.db.taken_away()
    }

    /// Where the last damaged file was put, and why.
    pub(super) const fn quarantined(&self) -> Option<&Quarantine> {
        self.quarantined.as_ref()
    }

    /// How often the file was replaced since the start.
    pub(super) const fn replaced(&self) -> u64 {
        self.replaced
    }

    /// Writes the mirror if something has changed since it was written.
    pub(super) fn mirror(&mut self, first: bool) {
        if first || !self.mirrored.is_current(self.changes()) {
            self.write_mirror(|mirror| mirror);
        }
    }

    /// Whether the mirror has every gap that a satellite has told of.
    pub(super) fn gaps_are_mirrored(&self) -> bool {
        self.mirrored.has((self.db.openings(), self.contents().gaps_changed))
    }

    /// Writes the mirror if there are gaps that it does not have. Whether it has them all.
    pub(super) fn mirror_gaps(&mut self) -> bool {
        if !self.gaps_are_mirrored() {
            self.write_mirror(|mirror| mirror);
        }
        self.gaps_are_mirrored()
    }

    fn changes(&self) -> (u64, u64) {
        (self.db.openings(), self.contents().changes)
    }

    fn write_mirror(&mut self, finish: impl FnOnce(Mirror) -> Mirror) {
        let (env, changes) = (self.db.env().clone(), self.changes());
        // A spool that fails is noticed by who needs it.
        if let Ok(mirror) = self.read(super::mirror::draw_up) {
            self.mirrored.write(&env, self.db.settings(), &finish(mirror), changes);
        }
    }

    fn compact(&mut self) -> Result<(), SpoolError> {
        let stored = self.contents().usage.total;
        match self.db.compact(stored, false) {
            // Only space is at stake; what was damaged is opened again by who needs it.
            Err(error @ StoreError::GivenUp(_)) => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn look_aside(&mut self) {
        while let Some(aside) = self.db.take_quarantine() {
            self.quarantined = Some(aside);
            self.replaced += 1;
        }
    }

    /// Writes the mirror and gives the file back to the disk in order.
    pub(super) fn close(mut self) -> Result<(), SpoolError> {
        // What only looked has changed nothing.
        if !self.mirrored.is_current(self.changes()) || !self.only_looks {
            self.write_mirror(Mirror::at_the_end);
        }
        Ok(self.db.close()?)
    }
}
