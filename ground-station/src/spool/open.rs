//! Opening the spool's file, and opening it again after the disk failed.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use perigee_shared::env::Env;
use perigee_shared::signal::{Signal, SignalSet};
use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, StorageError, WriteTransaction,
};

use super::error::SpoolError;
use super::snapshot::Decoded;
use super::tables::*;

/// redb's page cache.
const CACHE: usize = 4 << 20;

/// A smaller file is not worth compacting.
const COMPACT_ABOVE: u64 = 64 << 20;

/// Bytes in use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of segments, bases, partials and dead letters.
    pub total: u64,
    /// By satellite number: segments, bases, partials and dead letters.
    pub by_satellite: BTreeMap<u32, u64>,
    /// By satellite number: partials.
    pub partial: BTreeMap<u32, u64>,
    /// By satellite number: bases.
    pub bases: BTreeMap<u32, u64>,
}

impl Usage {
    pub(super) fn grow(&mut self, number: u32, bytes: u64) {
        self.total += bytes;
        *self.by_satellite.entry(number).or_default() += bytes;
    }

    pub(super) fn shrink(&mut self, number: u32, bytes: u64) {
        self.total = self.total.saturating_sub(bytes);
        let of = self.by_satellite.entry(number).or_default();
        *of = of.saturating_sub(bytes);
    }

    pub(super) fn partial_changed(&mut self, number: u32, before: u64, after: u64) {
        self.shrink(number, before);
        self.grow(number, after);
        let partial = self.partial.entry(number).or_default();
        *partial = (*partial + after).saturating_sub(before);
    }

    pub(super) fn base_kept(&mut self, number: u32, bytes: u64) {
        self.grow(number, bytes);
        *self.bases.entry(number).or_default() += bytes;
    }

    pub(super) fn base_forgotten(&mut self, number: u32, bytes: u64) {
        self.shrink(number, bytes);
        let of = self.bases.entry(number).or_default();
        *of = of.saturating_sub(bytes);
    }
}

/// Where the spool is and how large it may be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of the file.
    pub directory: PathBuf,
    /// Of segments, bases, partials and dead letters.
    pub max_bytes: u64,
    /// Of satellites with a bound of their own.
    pub satellites: Vec<(String, u64)>,
    /// Of the file that is given back when the disk is full; 0: none.
    pub ballast: u64,
    /// What bases may take in memory that are kept decoded.
    pub decoded_bases: u64,
    /// This station's id.
    pub station: String,
    /// Exporters with their signals.
    pub routes: BTreeMap<String, SignalSet>,
}

/// The durable store of what was committed and is still to be exported, with the ledger. One place owns it and calls it
/// synchronously; [`Store`](super::Store) is how the rest asks.
pub struct Spool {
    /// Absent only while it is opened again.
    db: Option<Database>,
    pub(super) env: Env,
    pub(super) settings: Settings,
    pub(super) usage: Usage,
    pub(super) decoded: Decoded,
    /// Entries that were decoded once since the start.
    pub(super) checked: std::collections::BTreeSet<u64>,
    /// Settled entries that are still to be deleted, with their satellites.
    pub(super) finished: BTreeMap<u64, u32>,
    /// Where a file that could not be opened was put.
    quarantined: Option<PathBuf>,
    /// What the last failure was.
    disk_full: bool,
    /// By exporter: no entry before this one is for it.
    pub(super) searched: BTreeMap<String, u64>,
    /// Bases that the satellite does not need any more may have become free.
    pub(super) bases_held: bool,
    /// Bytes of bases at which it is looked again whether some can go.
    pub(super) bases_looked: u64,
}

impl Spool {
    /// Opens the spool; makes one when there is none. A damaged file is put aside under a new name.
    pub fn open(env: &Env, settings: Settings) -> Result<Self, SpoolError> {
        let path = settings.directory.join("spool.redb");
        let (db, quarantined) = match open_file(env, &path) {
            Err(Opening::Damaged(why)) => {
                let mut aside = path.clone();
                aside.as_mut_os_string().push(format!(".quarantined-{}", env.unix_nano()));
                tracing::error!(
                    event.name = "perigee.spool.quarantined",
                    why,
                    aside = %aside.display(),
                    "the spool cannot be opened; it is put aside and a new one begins"
                );
                env.store
                    .rename(&path, &aside)
                    .map_err(|e| SpoolError::Open { path: path.clone(), why: e.to_string() })?;
                (open_file(env, &path).map_err(|e| e.into_error(&path))?, Some(aside))
            }
            other => (other.map_err(|e| e.into_error(&path))?, None),
        };
        let mut spool = Self {
            db: Some(db),
            env: env.clone(),
            decoded: Decoded::new(settings.decoded_bases),
            settings,
            usage: Usage::default(),
            checked: Default::default(),
            finished: BTreeMap::new(),
            quarantined,
            disk_full: false,
            searched: BTreeMap::new(),
            bases_held: true,
            bases_looked: 0,
        };
        spool.prepare()?;
        Ok(spool)
    }

    /// Where the damaged file was put, if there was one.
    pub fn quarantined(&self) -> Option<&Path> {
        self.quarantined.as_deref()
    }

    /// Makes the tables, checks the format, and finds what is only kept in memory.
    fn prepare(&mut self) -> Result<(), SpoolError> {
        let path = self.settings.directory.join("spool.redb");
        let format = {
            let read = self.read()?;
            match read.open_table(META) {
                Ok(meta) => meta.get("format")?.map(|v| v.value()),
                Err(redb::TableError::TableDoesNotExist(_)) => None,
                Err(e) => return Err(e.into()),
            }
        };
        match format {
            Some(found) if found > FORMAT => return Err(SpoolError::Format { path, found, known: FORMAT }),
            Some(_) => self.make_base_tables()?,
            None => self.write(|txn| {
                txn.open_table(META)?.insert("format", FORMAT)?;
                txn.open_table(SATELLITES)?;
                txn.open_table(EPOCHS)?;
                txn.open_table(COMMITTED)?;
                txn.open_table(RECENT)?;
                txn.open_table(DROPS)?;
                txn.open_table(DROPPED)?;
                txn.open_table(PARTIALS)?;
                txn.open_table(PARTIAL_CHUNKS)?;
                txn.open_table(SEGMENTS)?;
                txn.open_table(SEGMENT_CHUNKS)?;
                txn.open_table(BASES)?;
                txn.open_table(BASE_CHUNKS)?;
                txn.open_table(CURSORS)?;
                txn.open_table(ENTRY_DEAD)?;
                txn.open_table(LETTERS)?;
                txn.open_table(LETTER_CHUNKS)?;
                txn.open_table(COUNTERS)?;
                Ok(())
            })?,
        }
        self.usage = self.measure()?;
        self.make_ballast();
        self.settle_all()?;
        self.compact(&path)
    }

    /// A file of before has no tables for bases.
    fn make_base_tables(&self) -> Result<(), SpoolError> {
        match self.read()?.open_table(BASES) {
            Ok(_) => return Ok(()),
            Err(redb::TableError::TableDoesNotExist(_)) => {}
            Err(e) => return Err(e.into()),
        }
        self.write(|txn| {
            txn.open_table(BASES)?;
            txn.open_table(BASE_CHUNKS)?;
            Ok(())
        })
    }

    /// Gives space back that redb keeps after deletes, when that is most of a large file.
    fn compact(&mut self, path: &Path) -> Result<(), SpoolError> {
        let (length, _) = self.env.store.size(path).unwrap_or((0, 0));
        if length < COMPACT_ABOVE || self.usage.total > length / 4 {
            return Ok(());
        }
        if let Some(db) = &mut self.db
            && let Err(error) = db.compact()
        {
            // Only space is at stake; a failed disk is noticed by the next transaction.
            tracing::warn!(%error, "the spool was not compacted");
        }
        Ok(())
    }

    fn measure(&self) -> Result<Usage, SpoolError> {
        let read = self.read()?;
        let mut usage = Usage::default();
        for row in read.open_table(SEGMENTS)?.iter()? {
            let record = decode::<SegmentRecord>(row?.1.value())?;
            usage.grow(record.number, record.header.map_or(0, |h| h.payload_len));
        }
        for row in read.open_table(PARTIALS)?.iter()? {
            let (key, value) = row?;
            let held = decode::<PartialRecord>(value.value())?.held.iter().map(|r| r.end - r.start).sum();
            usage.partial_changed(key.value().0, 0, held);
        }
        for row in read.open_table(BASES)?.iter()? {
            let (key, value) = row?;
            let record = decode::<BaseRecord>(value.value())?;
            usage.base_kept(key.value().0, record.header.map_or(0, |h| h.payload_len));
        }
        for row in read.open_table(LETTERS)?.iter()? {
            let record = decode::<LetterRecord>(row?.1.value())?;
            usage.grow(record.number, record.bytes);
        }
        Ok(usage)
    }

    fn ballast_path(&self) -> PathBuf {
        self.settings.directory.join("ballast")
    }

    fn make_ballast(&self) {
        let (path, bytes) = (self.ballast_path(), self.settings.ballast);
        let there = self.env.store.size(&path).is_ok_and(|(length, _)| length == bytes);
        if bytes > 0 && !there {
            // Not zeros: a file system must not find a hole in it.
            if let Err(error) = self.env.store.replace(&path, &vec![0x5a; bytes as usize]) {
                tracing::warn!(%error, "no room for the ballast file");
            }
        }
    }

    /// Opens the file again after `error`. On a full disk the ballast is given back first, so that deletes get through.
    pub fn recover(&mut self, error: &SpoolError) -> Result<(), SpoolError> {
        self.disk_full = matches!(error, SpoolError::DiskFull);
        if self.disk_full {
            let _ = self.env.store.remove(&self.ballast_path());
        }
        self.db = None;
        let path = self.settings.directory.join("spool.redb");
        self.db = Some(open_file(&self.env, &path).map_err(|e| e.into_error(&path))?);
        self.usage = self.measure()?;
        self.sweep()?;
        Ok(())
    }

    fn db(&self) -> Result<&Database, SpoolError> {
        self.db.as_ref().ok_or_else(|| match self.disk_full {
            true => SpoolError::DiskFull,
            false => SpoolError::Storage("it cannot be opened again".to_owned()),
        })
    }

    pub(super) fn read(&self) -> Result<ReadTransaction, SpoolError> {
        Ok(self.db()?.begin_read()?)
    }

    /// Runs `work` in a transaction that is synced when it returns; on an error nothing of it remains.
    pub(super) fn write<R>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<R, SpoolError>,
    ) -> Result<R, SpoolError> {
        let mut txn = self.db()?.begin_write()?;
        txn.set_durability(redb::Durability::Immediate).map_err(|e| SpoolError::Storage(e.to_string()))?;
        match work(&txn) {
            Ok(out) => {
                txn.commit()?;
                Ok(out)
            }
            Err(e) => {
                // After a failure of the disk this fails too, and says less.
                let _ = txn.abort();
                Err(e)
            }
        }
    }

    /// Exporters that get `signal`.
    pub(super) fn exporters_of(&self, signal: Signal) -> impl Iterator<Item = &str> {
        self.settings.routes.iter().filter(move |(_, s)| s.contains(signal)).map(|(name, _)| name.as_str())
    }

    /// Bytes in use.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Bytes in use of one satellite.
    pub fn bytes_of(&self, satellite: &str) -> u64 {
        let number = || -> Result<Option<u32>, SpoolError> {
            let table = self.read()?.open_table(SATELLITES)?;
            Ok(table
                .get(satellite)?
                .map(|v| decode::<SatelliteRecord>(v.value()))
                .transpose()?
                .map(|r| r.number))
        };
        let number = number().ok().flatten();
        number.and_then(|n| self.usage.by_satellite.get(&n)).copied().unwrap_or(0)
    }

    /// Gives the file back to the disk in order.
    pub fn close(mut self) -> Result<(), SpoolError> {
        match self.db.take() {
            Some(db) => db.close().map_err(|e| SpoolError::Storage(e.to_string())),
            None => Ok(()),
        }
    }
}

/// A record, read back.
pub(super) fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, SpoolError> {
    M::decode(bytes).map_err(|_| SpoolError::Damaged("a record cannot be read"))
}

enum Opening {
    /// The file is not what redb wrote.
    Damaged(String),
    /// Anything else.
    Failed(String),
}

impl Opening {
    fn into_error(self, path: &Path) -> SpoolError {
        let (Self::Damaged(why) | Self::Failed(why)) = self;
        SpoolError::Open { path: path.to_owned(), why }
    }
}

fn open_file(env: &Env, path: &Path) -> Result<Database, Opening> {
    // redb may panic on a file that a lying disk has damaged.
    let result = catch_unwind(AssertUnwindSafe(|| env.store.open(path, CACHE)));
    match result {
        Err(_) => Err(Opening::Damaged("redb panicked".to_owned())),
        Ok(Ok(db)) => Ok(db),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => Err(Opening::Failed(
            "another process has it open; ask that one over its control socket, or stop it".to_owned(),
        )),
        Ok(Err(DatabaseError::Storage(StorageError::Io(e))))
            if e.kind() == std::io::ErrorKind::InvalidData =>
        {
            Err(Opening::Damaged(e.to_string()))
        }
        Ok(Err(DatabaseError::Storage(StorageError::Io(e)))) => {
            Err(Opening::Failed(format!("{e}; check the directory, its owner and the space on the volume")))
        }
        Ok(Err(e @ DatabaseError::UpgradeRequired(_))) => Err(Opening::Failed(e.to_string())),
        Ok(Err(e)) => Err(Opening::Damaged(e.to_string())),
    }
}
