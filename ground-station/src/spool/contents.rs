//! What the spool keeps in memory of its tables, and how a transaction changes it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use perigee_shared::env::{Env, StoreFile};
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::signal::{Counts, Signal, SignalSet};
use perigee_shared::store::{Before, Contents as Stored, StoreError, guarded};
use redb::{ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction};

use super::alarms::Unread;
use super::catalogue::{self, Keep};
use super::decode::Decoded;
use super::error::SpoolError;
use super::file::View;
use super::outlet::Searched;
use super::tables::*;
use super::{archive, intake, migrate, mirror, rescue, torn};
use crate::memory::Budget;

/// Where the spool is and how large it may be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of the file.
    pub directory: PathBuf,
    /// Segments, bases, partials and dead letters may take so much.
    pub max_bytes: u64,
    /// Satellites with a bound of their own.
    pub satellites: Vec<(String, u64)>,
    /// Bytes set aside that are given back when the disk is full; 0: none.
    pub ballast: u64,
    /// Memory for bases that are kept decoded.
    pub decoded_bases: u64,
    /// Memory that whoever decodes segments shares.
    pub decoding: Budget,
    /// By satellite, how many times the usual bounds of a ledger it may use, where that is more than one.
    pub ledger_room: BTreeMap<String, u32>,
    /// This station's id.
    pub station: String,
    /// How long what was committed stays in the catalogue.
    pub catalogue: Keep,
    /// How long segments stay after their export; off unless both are more than 0.
    pub keep: Keep,
    /// Exporters with their signals.
    pub routes: BTreeMap<String, SignalSet>,
}

impl Settings {
    /// Exporters that get `signal`.
    pub(super) fn exporters_of(&self, signal: Signal) -> impl Iterator<Item = &str> {
        self.routes.iter().filter(move |(_, s)| s.contains(signal)).map(|(name, _)| name.as_str())
    }
}

/// What bytes in the spool belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Segment,
    Partial,
    /// What partials take beside their bytes.
    Overhead,
    Base,
    Letter,
    /// A segment that stays after its export, or a base that only such segments need.
    Archive,
}

/// Bytes in use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Segments, bases, partials and dead letters.
    pub(super) total: u64,
    /// The same by satellite number.
    pub(super) by_satellite: BTreeMap<u32, u64>,
    /// Partials by satellite number, with what they take beside their bytes.
    pub(super) partial: BTreeMap<u32, u64>,
    /// Bases by satellite number.
    pub(super) bases: BTreeMap<u32, u64>,
    /// What is kept after its export, by satellite number; it is not in the total.
    pub(super) kept: BTreeMap<u32, u64>,
}

impl Usage {
    pub(super) fn change(&mut self, satellite: u32, kept: Kept, before: u64, after: u64) {
        let shift = |n: &mut u64| *n = (*n + after).saturating_sub(before);
        if !matches!(kept, Kept::Overhead | Kept::Archive) {
            shift(&mut self.total);
            shift(self.by_satellite.entry(satellite).or_default());
        }
        match kept {
            Kept::Partial | Kept::Overhead => shift(self.partial.entry(satellite).or_default()),
            Kept::Base => shift(self.bases.entry(satellite).or_default()),
            Kept::Archive => shift(self.kept.entry(satellite).or_default()),
            Kept::Segment | Kept::Letter => {}
        }
    }

    /// All that is kept after its export.
    pub(super) fn kept(&self) -> u64 {
        self.kept.values().sum()
    }
}

/// What a lane of a satellite's log still has in the spool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Items that some exporter still has to pass.
    pub(super) items: Counts,
    /// The segments that they are in.
    pub(super) sequences: RangeSet,
}

/// What was committed of a lane since its satellite last said what waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Delivered {
    pub(super) bytes: u64,
    pub(super) items: Counts,
}

/// One thing that a transaction has changed.
pub(super) enum Effect {
    /// Bytes that something takes.
    Bytes { satellite: u32, kept: Kept, before: u64, after: u64 },
    /// A segment has become an entry with these items to be exported.
    Entered { entry: EntryKey, segment: SequenceKey, items: Counts },
    /// A segment was committed that was not before.
    Delivered { satellite: u32, lane: u8, bytes: u64, items: Counts },
    /// It is known what waits on board of a satellite.
    Told { satellite: u32 },
    /// Items of an entry are not to be exported any more; with `whole` it has none left.
    Left { entry: EntryKey, segment: SequenceKey, items: Counts, whole: bool },
    /// An entry was deleted.
    Deleted(EntryKey),
    /// Whether bases that satellites have passed may have become free.
    BasesHeld(bool),
    /// Bytes of bases at which it is looked again whether some can go.
    BasesLooked(u64),
    /// A gap was recorded of which a satellite tells no more once it is acknowledged.
    Gap,
}

/// What is in memory of the spool's tables.
pub(super) struct Contents {
    pub(super) settings: Arc<Settings>,
    /// The id of the ledger.
    pub(super) ledger: u64,
    pub(super) usage: Usage,
    /// By satellite, epoch and lane.
    pub(super) waiting: BTreeMap<(u32, u64, u8), Waiting>,
    /// By satellite and lane.
    pub(super) delivered: BTreeMap<(u32, u8), Delivered>,
    /// The last entry of each lane of a satellite that ever had one in this process.
    pub(super) lanes: BTreeMap<(u32, u8), u64>,
    /// Entries that everybody is done with and that are still to be deleted.
    pub(super) finished: BTreeSet<EntryKey>,
    pub(super) bases_held: bool,
    pub(super) bases_looked: u64,
    /// Transactions since it was read.
    pub(super) changes: u64,
    /// How many they were with the last one that recorded what a satellite told of gaps.
    pub(super) gaps_changed: u64,
    /// What was found out by reading, to be quicker the next time.
    pub(super) decoded: Decoded,
    pub(super) searched: Searched,
    /// To be looked through for alarms.
    pub(super) unread: Unread,
}

impl Contents {
    fn enter(&mut self, entry: EntryKey, segment: SequenceKey, items: Counts) {
        let last = self.lanes.entry((entry.satellite, entry.lane)).or_default();
        *last = (*last).max(entry.entry);
        if items.total() == 0 {
            self.finished.insert(entry);
            return;
        }
        let waiting = self.waiting.entry(lane_of(segment)).or_default();
        waiting.items += items;
        waiting.sequences.insert(segment.sequence..segment.sequence + 1);
    }

    fn leave(&mut self, entry: EntryKey, segment: SequenceKey, items: Counts, whole: bool) {
        if let Some(waiting) = self.waiting.get_mut(&lane_of(segment)) {
            waiting.items = waiting.items.saturating_sub(items);
            if whole {
                waiting.sequences.remove(segment.sequence..segment.sequence + 1);
            }
            if waiting.sequences.is_empty() {
                self.waiting.remove(&lane_of(segment));
            }
        }
        if whole {
            self.finished.insert(entry);
        }
    }

    /// Nothing is in memory yet of the ledger with this id.
    pub(super) fn empty(settings: &Arc<Settings>, ledger: u64) -> Self {
        Self {
            settings: Arc::clone(settings),
            ledger,
            usage: Usage::default(),
            waiting: BTreeMap::new(),
            delivered: BTreeMap::new(),
            lanes: BTreeMap::new(),
            finished: BTreeSet::new(),
            bases_held: true,
            bases_looked: 0,
            changes: 0,
            gaps_changed: 0,
            decoded: Decoded::new(settings.decoded_bases, &settings.decoding),
            searched: Searched::default(),
            unread: Unread::default(),
        }
    }

    /// Reads what is left to be exported.
    pub(super) fn measure_entries(&mut self, read: &ReadTransaction) -> Result<(), SpoolError> {
        for row in read.open_table(ENTRIES)?.iter()? {
            let (key, value) = row?;
            let (key, record) = (key.value(), decode::<SegmentRecord>(value.value())?);
            let segment = SequenceKey::new(key.satellite, record.header()?.id);
            self.enter(key, segment, record.open());
        }
        Ok(())
    }

    /// Reads the entries, the bytes and what is left to be exported.
    fn measure(&mut self, read: &ReadTransaction) -> Result<(), SpoolError> {
        self.measure_entries(read)?;
        for row in read.open_table(ENTRIES)?.iter()? {
            let (key, value) = row?;
            let record = decode::<SegmentRecord>(value.value())?;
            self.usage.change(key.value().satellite, Kept::Segment, 0, record.bytes());
            if record.open()[Signal::Logs] > 0 {
                self.unread.push(key.value());
            }
        }
        for row in read.open_table(PARTIALS)?.iter()? {
            let (key, value) = row?;
            let held = RangeSet::from_wire(&decode::<PartialRecord>(value.value())?.held);
            let satellite = key.value().satellite;
            self.usage.change(satellite, Kept::Partial, 0, held.total());
            self.usage.change(satellite, Kept::Overhead, 0, intake::overhead(&held));
        }
        for row in read.open_table(BASES)?.iter()? {
            let (key, value) = row?;
            let record = decode::<BaseRecord>(value.value())?;
            let bytes = record.header.as_ref().map_or(0, |h| h.payload_len);
            self.usage.change(key.value().satellite, record.counts_as(), 0, bytes);
        }
        for row in read.open_table(KEPT)?.iter()? {
            let record = decode::<SegmentRecord>(row?.1.value())?;
            self.usage.change(record.number, Kept::Archive, 0, record.bytes());
        }
        for row in read.open_table(LETTERS)?.iter()? {
            let record = decode::<LetterRecord>(row?.1.value())?;
            self.usage.change(record.number, Kept::Letter, 0, record.bytes);
        }
        Ok(())
    }
}

const fn lane_of(segment: SequenceKey) -> (u32, u64, u8) {
    (segment.satellite, segment.epoch, segment.lane)
}

/// Makes those tables that are not there yet.
pub(super) fn make_tables(txn: &WriteTransaction) -> Result<(), SpoolError> {
    macro_rules! make {
        ($($table:ident)*) => { $(txn.open_table($table)?;)* };
    }
    every_table!(make);
    Ok(())
}

/// What was read of a damaged file is of no use: the mirror alone is.
fn begin_again(
    db: &redb::Database,
    env: &Env,
    settings: &Settings,
    why: &StoreError,
) -> Result<(), StoreError> {
    tracing::error!(error = %why, "nothing in the damaged spool can be used; the ledger continues from its mirror alone");
    let txn = db.begin_write()?;
    macro_rules! delete {
        ($($table:ident)*) => { $(txn.delete_table($table)?;)* };
    }
    every_table!(delete);
    make_tables(&txn).and_then(|()| mirror::begin(&txn, env, settings)).map_err(of_file)?;
    write_format(txn)
}

fn write_format(txn: WriteTransaction) -> Result<(), StoreError> {
    txn.open_table(META)?.insert("format", FORMAT)?;
    Ok(txn.commit()?)
}

/// What was wrong with the tables of a file; anything else than the file's own errors is not expected there.
fn of_file(error: SpoolError) -> StoreError {
    match error {
        SpoolError::Store(error) => error,
        other => StoreError::Damaged(other.to_string()),
    }
}

impl Stored for Contents {
    type Settings = Arc<Settings>;
    type Change = Vec<Effect>;
    /// See [`torn`](super::torn).
    type Torn = ();

    const NAME: &'static str = "spool";
    const FILE: &'static str = "spool.redb";
    const FORMAT: u64 = FORMAT;
    const PAGE_CACHE: usize = 4 << 20;

    fn format(read: &ReadTransaction) -> Result<Option<u64>, StoreError> {
        match read.open_table(META) {
            Ok(meta) => Ok(meta.get("format")?.map(|v| v.value())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// A spool whose file is gone or damaged goes on from what can be read of it and from the mirror beside it.
    fn create(
        db: &redb::Database,
        env: &Env,
        settings: &Self::Settings,
        before: Before<'_>,
    ) -> Result<(), StoreError> {
        let txn = db.begin_write()?;
        make_tables(&txn).map_err(of_file)?;
        match before {
            Before::Nothing => mirror::begin(&txn, env, settings).map_err(of_file)?,
            Before::Damaged { file, .. } => {
                txn.commit()?;
                let rescued = || {
                    rescue::take_over(db, file, env, settings).map_err(of_file)?;
                    Self::load(&db.begin_read()?, None, settings).map(drop)
                };
                return match guarded(rescued) {
                    Err(error @ StoreError::Damaged(_)) => begin_again(db, env, settings, &error),
                    other => other.and_then(|()| write_format(db.begin_write()?)),
                };
            }
        }
        write_format(txn)
    }

    fn torn(_: &dyn StoreFile) {}

    /// Brings a file of format 1 to this one, and one that is older than the mirror beside it to what the mirror knows.
    fn settle(
        db: &redb::Database,
        env: &Env,
        settings: &Self::Settings,
        before: Option<&Self>,
        torn: Option<()>,
    ) -> Result<(), StoreError> {
        migrate::to_format_2(db, env, settings).map_err(of_file)?;
        if torn.is_some() {
            torn::settle(db, env, settings, before).map_err(of_file)?;
        }
        mirror::catch_up(db, env, settings).map_err(of_file)?;
        archive::begin(db).map_err(of_file)?;
        catalogue::rebuild(db).map_err(of_file)
    }

    fn load(
        read: &ReadTransaction,
        _: Option<&dyn StoreFile>,
        settings: &Self::Settings,
    ) -> Result<Self, StoreError> {
        let ledger = read.open_table(META)?.get("ledger")?.map_or(0, |v| v.value());
        let mut contents = Self::empty(settings, ledger);
        contents.measure(read).map_err(of_file)?;
        Ok(contents)
    }

    fn outlive(&self, env: &Env, settings: &Self::Settings, read: &ReadTransaction) {
        mirror::keep(env, settings, &View { tables: read, contents: self });
    }

    fn apply(&mut self, change: Vec<Effect>) {
        self.changes += 1;
        for effect in change {
            match effect {
                Effect::Bytes { satellite, kept, before, after } => {
                    self.usage.change(satellite, kept, before, after);
                }
                Effect::Entered { entry, segment, items } => {
                    if items[Signal::Logs] > 0 {
                        self.unread.push(entry);
                    }
                    self.enter(entry, segment, items);
                }
                Effect::Delivered { satellite, lane, bytes, items } => {
                    let delivered = self.delivered.entry((satellite, lane)).or_default();
                    delivered.bytes = delivered.bytes.saturating_add(bytes);
                    delivered.items += items;
                }
                Effect::Told { satellite } => self.delivered.retain(|(of, _), _| *of != satellite),
                Effect::Left { entry, segment, items, whole } => self.leave(entry, segment, items, whole),
                Effect::Deleted(entry) => drop(self.finished.remove(&entry)),
                Effect::BasesHeld(held) => self.bases_held = held,
                Effect::BasesLooked(bytes) => self.bases_looked = bytes,
                Effect::Gap => self.gaps_changed = self.changes,
            }
        }
    }
}
