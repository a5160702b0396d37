//! Opening the log: as it is, after a failure, or anew beside a file that cannot be opened; and the bytes it gives back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use perigee_proto::link::{self, DropReason};
use perigee_shared::env::Env;
use perigee_shared::signal::Counts;

use super::group::GroupWriter;
use super::mirror::Mirror;
use super::passes::Growth;
use super::state::{ACCEPTED, DELIVERED, Life, State};
use super::tables::{CONSUMERS, COUNTERS, EPOCHS};
use super::{Wal, WalConfig, WalError, custody, mirror};

/// redb's page cache. The log is written once and read once, so a larger one would not help.
const PAGE_CACHE: usize = 2 << 20;

/// A compaction pays when the file has more than this, and more than twice what is stored.
const COMPACT_ABOVE: u64 = 64 << 20;

const FILE: &str = "wal.redb";

/// What was found when the log was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    /// The name that the file has now.
    pub moved_to: PathBuf,
    /// Why it could not be opened.
    pub why: String,
    /// What was on board in it as far as is known, by lane; empty when nothing is.
    pub lost: Vec<link::Drop>,
}

impl Wal {
    /// Opens the log in `config.directory`, or begins one. A file that cannot be opened is moved aside and a new epoch begins;
    /// then the second value says so.
    pub fn open(config: WalConfig, env: Env) -> Result<(Self, Option<Quarantine>), WalError> {
        std::fs::create_dir_all(&config.directory)?;
        let path = config.directory.join(FILE);
        let (db, state, quarantine) = match try_open(&path, &env, 1) {
            Ok((db, state)) => (db, state, None),
            Err(Unopenable::Error(e)) => return Err(e),
            Err(Unopenable::Damaged(why)) => {
                let (db, state, quarantine) = begin_anew(&config, &env, &path, why)?;
                (db, state, Some(quarantine))
            }
        };
        let ballast = Ballast::new(config.directory.join("ballast"), config.ballast);
        let writer = GroupWriter::new()?;
        let growth = Growth::new(env.unix_nano());
        let mut wal = Self { config, env, db: Some(db), closed_until: 0, state, writer, ballast, growth };
        wal.ballast.refill();
        wal.register_consumers()?;
        wal.register_rules()?;
        Ok((wal, quarantine))
    }

    /// Opens a log that is there and whole, for a look at it: makes nothing and moves nothing aside.
    pub fn open_existing(config: WalConfig, env: Env) -> Result<Self, WalError> {
        let path = config.directory.join(FILE);
        if !env.store.exists(&path) {
            return Err(WalError::File(std::io::Error::new(
                std::io::ErrorKind::NotFound,
                "there is no log here",
            )));
        }
        let (db, state) = try_open(&path, &env, 1).map_err(|e| match e {
            Unopenable::Error(e) => e,
            Unopenable::Damaged(why) => {
                tracing::error!(why, "the write-ahead log is damaged; `run` would move it aside");
                WalError::Damaged(
                    "it cannot be opened; `space-agent run` moves it aside and begins a new epoch",
                )
            }
        })?;
        let ballast = Ballast::new(config.directory.join("ballast"), config.ballast);
        let writer = GroupWriter::new()?;
        let growth = Growth::new(env.unix_nano());
        Ok(Self { config, env, db: Some(db), closed_until: 0, state, writer, ballast, growth })
    }

    pub(super) fn path(&self) -> PathBuf {
        self.config.directory.join(FILE)
    }

    /// Opens the database again after a failure and reads the state anew.
    pub(super) fn reopen(&mut self) -> Result<(), WalError> {
        let (db, state) = try_open(&self.path(), &self.env, 1).map_err(|e| match e {
            Unopenable::Error(e) => e,
            Unopenable::Damaged(why) => {
                tracing::error!(
                    why,
                    "the write-ahead log cannot be opened any more; restart to begin a new epoch"
                );
                WalError::Closed
            }
        })?;
        tracing::info!("the write-ahead log is open again");
        self.db = Some(db);
        self.state = state;
        Ok(())
    }

    /// Closes the file in order, so that the next start need not repair it.
    pub fn close(mut self) -> Result<(), WalError> {
        drop(self.write_mirror());
        match self.db.take() {
            Some(db) => Ok(db.close()?),
            None => Ok(()),
        }
    }

    /// Gives bytes back to the volume when that pays; call it while the link is down. Returns the file's bytes before and after.
    pub fn compact(&mut self, force: bool) -> Result<Option<(u64, u64)>, WalError> {
        let (_, before) = self.env.store.size(&self.path())?;
        if !force && (before < COMPACT_ABOVE || before < 2 * self.state.stored()) {
            return Ok(None);
        }
        self.db()?;
        let Some(db) = self.db.as_mut() else { return Err(WalError::Closed) };
        if let Err(e) = db.compact() {
            self.db = None;
            return Err(e.into());
        }
        let (_, after) = self.env.store.size(&self.path())?;
        self.ballast.refill();
        Ok(Some((before, after)))
    }

    fn register_consumers(&mut self) -> Result<(), WalError> {
        let new: Vec<String> = self
            .config
            .consumers
            .keys()
            .filter(|n| !self.state.consumers.contains_key(*n))
            .cloned()
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut consumers = self.state.consumers.clone();
        for name in new {
            let used: Vec<u8> = consumers.values().copied().collect();
            let id = (0..custody::MAX_CONSUMERS).find(|id| !used.contains(id)).ok_or(WalError::Damaged(
                "too many consumers; release those that are gone with `wal release NAME`",
            ))?;
            consumers.insert(name, id);
        }
        self.write(|txn| {
            let mut table = txn.open_table(CONSUMERS)?;
            for (name, id) in &consumers {
                table.insert(name.as_str(), *id)?;
            }
            Ok(())
        })?;
        self.state.consumers = consumers;
        Ok(())
    }
}

enum Unopenable {
    /// The disk, the rights, or another process: the file may be whole.
    Error(WalError),
    /// The file is not what we wrote.
    Damaged(String),
}

fn try_open(path: &Path, env: &Env, start_counter: u64) -> Result<(redb::Database, State), Unopenable> {
    // redb has been seen to panic on files from disks that lie about syncs.
    let opened = catch_unwind(AssertUnwindSafe(|| -> Result<_, WalError> {
        let db = env.store.open(path, PAGE_CACHE)?;
        let state = State::load(&db, || new_life(env, start_counter))?;
        Ok((db, state))
    }));
    match opened {
        Ok(Ok(out)) => Ok(out),
        Ok(Err(WalError::Damaged(why))) => Err(Unopenable::Damaged(why.to_owned())),
        Ok(Err(WalError::Storage(e))) if is_damage(&e) => Err(Unopenable::Damaged(e.to_string())),
        Ok(Err(e)) => Err(Unopenable::Error(e)),
        Err(_) => Err(Unopenable::Damaged("the database panicked on it".to_owned())),
    }
}

fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_) | redb::Error::RepairAborted => true,
        // redb reports a foreign or cut file as invalid data.
        redb::Error::Io(e) => {
            matches!(e.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
        }
        redb::Error::TableTypeMismatch { .. } | redb::Error::TableDoesNotExist(_) => true,
        _ => false,
    }
}

pub(super) fn is_disk_full(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(e) if e.kind() == std::io::ErrorKind::StorageFull)
}

pub(super) fn new_life(env: &Env, start_counter: u64) -> Life {
    Life { epoch: env.random() | 1, start_counter, started_unix_nano: env.unix_nano() }
}

/// Moves the file aside, begins a new one, and closes the old epoch with what the mirror knows of it.
fn begin_anew(
    config: &WalConfig,
    env: &Env,
    path: &Path,
    why: String,
) -> Result<(redb::Database, State, Quarantine), WalError> {
    let now = env.unix_nano();
    let moved_to = config.directory.join(format!("{FILE}.quarantine-{}", now / 1_000_000_000));
    env.store.rename(path, &moved_to)?;
    let mirror = mirror::read(config, env);
    // Without the mirror nothing tells how many lives there were; the time is above any count of them.
    let start_counter = mirror.as_ref().map_or(now / 1_000_000_000, |m| m.start_counter + 1);
    let (db, _) = try_open(path, env, start_counter).map_err(|e| match e {
        Unopenable::Error(e) => e,
        Unopenable::Damaged(_) => WalError::Damaged("a new file cannot be opened"),
    })?;
    let lost = mirror.as_ref().map_or_else(Vec::new, |m| m.closing_drops(now));
    if let Some(mirror) = &mirror {
        carry_over(&db, mirror, &lost)?;
    }
    let state = State::load(&db, || new_life(env, start_counter))?;
    Ok((db, state, Quarantine { moved_to, why, lost }))
}

/// Writes what the mirror knows into the new file: the counters, and the old epoch with its last drops.
fn carry_over(db: &redb::Database, mirror: &Mirror, lost: &[link::Drop]) -> Result<(), WalError> {
    let txn = db.begin_write()?;
    {
        let mut counters = txn.open_table(COUNTERS)?;
        counters.insert(ACCEPTED, &mirror.accepted().to_bytes()[..])?;
        counters.insert(DELIVERED, &mirror.delivered().to_bytes()[..])?;
        let mut dropped = mirror.dropped();
        let items: Counts = lost.iter().map(|drop| drop.items.unwrap_or_default().into()).sum();
        *dropped.entry(DropReason::Corruption as i32).or_default() += items;
        for (reason, items) in dropped {
            counters.insert(format!("dropped:{reason}").as_str(), &items.to_bytes()[..])?;
        }
        let closed = mirror.closed_epoch();
        txn.open_table(EPOCHS)?.insert(closed.epoch, prost::Message::encode_to_vec(&closed).as_slice())?;
        for drop in lost {
            custody::insert_drop(&txn, closed.epoch, drop, &[])?;
        }
    }
    txn.commit()?;
    Ok(())
}

/// Bytes set aside on the volume, given back when it is full: on a really full disk even a delete needs free pages.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
    bytes: u64,
}

impl Ballast {
    fn new(path: PathBuf, bytes: u64) -> Self {
        Self { path, bytes }
    }

    /// Gives the bytes back.
    pub(super) fn release(&self) {
        if std::fs::remove_file(&self.path).is_ok() {
            tracing::error!(
                bytes = self.bytes,
                "the disk is full; the ballast was given back so that deletes get through: free space on the volume"
            );
        }
    }

    /// Takes the bytes again where that is possible.
    fn refill(&self) {
        use std::io::Write;
        if self.bytes == 0 || std::fs::metadata(&self.path).is_ok_and(|m| m.len() >= self.bytes) {
            return;
        }
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::File::create(&self.path)?;
            let block = vec![0xa5; 1 << 16];
            let mut left = self.bytes;
            while left > 0 {
                let n = left.min(block.len() as u64);
                file.write_all(&block[..n as usize])?;
                left -= n;
            }
            file.sync_data()
        };
        if let Err(error) = write() {
            drop(std::fs::remove_file(&self.path));
            tracing::warn!(%error, "no room for the ballast; a full disk may stop deletes");
        }
    }
}
