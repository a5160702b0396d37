//! What can be read of a damaged spool goes into the new one.
//!
//! Every entry of every table comes along whose pages have their checksums. Numbers go on behind the highest that is there, and
//! the ledger's mirror fills in what it knows. A segment whose bytes are not all there becomes a gap before any satellite is told
//! that it is committed, so that one that still has it sends it again; one whose entry is gone shows in the counts. Partial segments do not come along: their bytes are sent again.

use std::collections::BTreeMap;

use perigee_shared::env::{Env, StoreFile};
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::signal::TimeRange;
use perigee_shared::store::mirror;
use perigee_shared::store::rescue::{Extent, Rescue};
use prost::Message;
use redb::{Database, Key, ReadableTable, TableDefinition, TableHandle, Value, WriteTransaction};

use super::bases;
use super::contents::Settings;
use super::counters::{Counters, Kind};
use super::error::SpoolError;
use super::gaps::{self, Lost};
use super::migrate;
use super::mirror::{FILE, Mirror, OF_ANOTHER_LEDGER};
use super::outlet;
use super::tables::*;

/// Bytes that share a transaction.
const PART: usize = 8 << 20;

/// Fills a new file that has its tables.
pub(super) fn take_over(
    db: &Database,
    file: &dyn StoreFile,
    env: &Env,
    settings: &Settings,
) -> Result<(), SpoolError> {
    let (mut counted, mut has_drops) = (false, false);
    if let Some(rescue) = Rescue::open(file) {
        counted = copy(db, &rescue, COUNTERS, |_| true)? == Extent::Whole;
        macro_rules! copy {
            ($($table:path),*) => { $(copy(db, &rescue, $table, |_| true)?;)* };
        }
        copy!(
            META,
            COMMITTED,
            RECENT,
            GROUPS,
            DROPPED,
            SEGMENT_CHUNKS,
            BASE_CHUNKS,
            CURSORS,
            ENTRY_DEAD,
            LETTER_CHUNKS
        );
        copy!(PASSES, CONTACTS, CATALOGUE, REPLAYS, ALARMS, migrate::CURSORS_1);
        let segment = |value: &[u8]| decode(value).is_ok_and(|r: SegmentRecord| r.header().is_ok());
        copy(db, &rescue, ENTRIES, segment)?;
        copy(db, &rescue, KEPT, segment)?;
        copy(db, &rescue, migrate::SEGMENTS_1, segment)?;
        copy(db, &rescue, BASES, |value| bases::read_header(value).is_ok())?;
        copy(db, &rescue, SATELLITES, |value| decode::<SatelliteRecord>(value).is_ok())?;
        copy(db, &rescue, EPOCHS, |value| decode::<EpochRecord>(value).is_ok())?;
        has_drops = copy(db, &rescue, DROPS, |value| decode::<DropRecord>(value).is_ok())? == Extent::Whole;
        copy(db, &rescue, LETTERS, |value| decode::<LetterRecord>(value).is_ok())?;
        migrate::to_format_2(db, env, settings)?;
    }
    let txn = db.begin_write()?;
    bases::delete_damaged(&txn)?;
    number(&txn)?;
    let ledger = txn.open_table(META)?.get("ledger")?.map(|v| v.value());
    let known = mirror::read::<Mirror>(env, &settings.directory.join(FILE));
    if let (Some(mirror), Some(ledger)) = (&known, ledger)
        && !mirror.is_of(ledger)
    {
        return Err(SpoolError::damaged(OF_ANOTHER_LEDGER));
    }
    if let Some(mirror) = known.as_ref().filter(|_| !has_drops) {
        mirror.forget_later_drops(&txn)?;
    }
    let ledger = ledger.unwrap_or_else(|| env.random() | 1);
    let mut all = Mirror::without_file(&txn, ledger)?;
    all.know(known);
    let exact = counted || all.is_closed();
    all.restore(&txn, settings, env.unix_nano(), exact)?;
    lose_damaged(&txn, settings, env.unix_nano())?;
    if !counted {
        admit(&txn, env.unix_nano())?;
    }
    txn.commit()?;
    Ok(())
}

/// Takes out the segments whose payload is not what was committed.
fn lose_damaged(txn: &WriteTransaction, settings: &Settings, now: u64) -> Result<(), SpoolError> {
    let mut damaged = Vec::new();
    let chunks = txn.open_table(SEGMENT_CHUNKS)?;
    for row in txn.open_table(ENTRIES)?.iter()? {
        let (key, value) = row?;
        let record = decode::<SegmentRecord>(value.value())?;
        let (mut hasher, header) = (blake3::Hasher::new(), record.header()?);
        for row in chunks.range(ChunkKey::all(record.payload))? {
            hasher.update(row?.1.value());
        }
        if *hasher.finalize().as_bytes() != header.hash {
            damaged.push((key.value(), record, header));
        }
    }
    drop(chunks);
    for (key, record, header) in damaged {
        if record.open().total() > 0 {
            gaps::lose(txn, now, outlet::lost(txn, settings, key, &record, &header)?)?;
        }
        outlet::remove(txn, key, false)?;
    }
    Ok(())
}

/// Of segments that the ledger names and no count knows, nobody can say what they had or whether it was exported.
fn admit(txn: &WriteTransaction, now: u64) -> Result<(), SpoolError> {
    let mut named = BTreeMap::<u32, (u64, SequenceKey)>::new();
    for row in txn.open_table(COMMITTED)?.iter()? {
        let (key, run) = row?;
        let (key, run) = (key.value(), run.value());
        let (segments, latest) = named.entry(key.satellite).or_insert((0, key));
        *segments += run.end.saturating_sub(key.sequence);
        *latest = key;
    }
    for (satellite, (segments, SequenceKey { epoch, lane, .. })) in named {
        let remembered =
            txn.open_table(RECENT)?.range(SequenceKey::satellites(satellite, satellite))?.count() as u64;
        let mut known = remembered;
        Counters::of(txn, satellite)?.change(Kind::Segments as u8, 0, 0, |counted| {
            known = known.max(counted);
            counted.max(segments)
        })?;
        if segments > known {
            let (again, time) = (RangeSet::default(), TimeRange::EMPTY);
            let (sequences, items, exact) = (None, None, false);
            gaps::lose(txn, now, Lost { satellite, epoch, lane, sequences, items, exact, time, again })?;
        }
    }
    Ok(())
}

/// Copies what there is of a table and can be read. Returns how much of it was there.
fn copy<K: Key + 'static, V: Value + 'static>(
    db: &Database,
    rescue: &Rescue<'_>,
    table: TableDefinition<'static, K, V>,
    is_readable: impl Fn(&[u8]) -> bool,
) -> Result<Extent, SpoolError> {
    let (mut rows, mut bytes, mut failed) = (Vec::new(), 0, None);
    let extent = rescue.table(table.name(), |key, value| {
        if !is_readable(value) {
            return;
        }
        bytes += key.len() + value.len();
        rows.push((key.to_vec(), value.to_vec()));
        if bytes >= PART && failed.is_none() {
            failed = insert(db, table, &rows).err();
            (rows, bytes) = (Vec::new(), 0);
        }
    });
    failed.map_or(Ok(()), Err)?;
    insert(db, table, &rows)?;
    if extent != Extent::Whole {
        tracing::error!(
            event.name = "perigee.spool.rescued",
            table = table.name(),
            "this table of the damaged spool is incomplete or missing"
        );
    }
    Ok(extent)
}

fn insert<K: Key + 'static, V: Value + 'static>(
    db: &Database,
    table: TableDefinition<'static, K, V>,
    rows: &[(Vec<u8>, Vec<u8>)],
) -> Result<(), SpoolError> {
    if rows.is_empty() {
        return Ok(());
    }
    let txn = db.begin_write()?;
    let mut to = txn.open_table(table)?;
    for (key, value) in rows {
        to.insert(K::from_bytes(key), V::from_bytes(value))?;
    }
    drop(to);
    txn.commit()?;
    Ok(())
}

/// Numbers go on behind the highest that is there, and every satellite that has something has a name.
fn number(txn: &WriteTransaction) -> Result<(), SpoolError> {
    let mut next = BTreeMap::<String, u64>::new();
    let mut behind = |name: String, number: u64| {
        let next = next.entry(name).or_default();
        *next = (*next).max(number + 1);
    };
    let mut names = BTreeMap::new();
    for row in txn.open_table(ENTRIES)?.iter()? {
        let (key, value) = row?;
        let record = decode::<SegmentRecord>(value.value())?;
        behind("next_entry".to_owned(), record.payload);
        behind(format!("entry.{}", record.number), key.value().entry);
        names.insert(record.number, record.satellite);
    }
    for row in txn.open_table(CURSORS)?.iter()? {
        let (key, cursor) = row?;
        behind(format!("entry.{}", key.value().1), cursor.value().entry.saturating_sub(1));
    }
    let chunks = txn.open_table(SEGMENT_CHUNKS)?;
    let (last, letter) = (chunks.last()?, txn.open_table(LETTERS)?.last()?.map(|(id, _)| id.value()));
    last.into_iter().for_each(|(key, _)| behind("next_entry".to_owned(), key.value().of));
    letter.into_iter().for_each(|id| behind("next_letter".to_owned(), id));
    let replay = txn.open_table(REPLAYS)?.last()?.map(|(id, _)| id.value());
    replay.into_iter().for_each(|id| behind("next_replay".to_owned(), id));
    for row in txn.open_table(BASES)?.iter()? {
        behind("next_entry".to_owned(), decode::<BaseRecord>(row?.1.value())?.entry);
    }
    for row in txn.open_table(DROPS)?.iter()? {
        let id = row?.0.value().id;
        super::gaps::own_number(id).into_iter().for_each(|n| behind("next_gap".to_owned(), n));
    }
    for (number, id) in names {
        let mut satellites = txn.open_table(SATELLITES)?;
        if satellites.get(id.as_str())?.is_none() {
            let record = SatelliteRecord { number, ..SatelliteRecord::default() };
            satellites.insert(id.as_str(), record.encode_to_vec().as_slice())?;
        }
    }
    for row in txn.open_table(SATELLITES)?.iter()? {
        behind("next_satellite".to_owned(), u64::from(decode::<SatelliteRecord>(row?.1.value())?.number));
    }
    let mut meta = txn.open_table(META)?;
    for (name, number) in next {
        let before = meta.get(name.as_str())?.map_or(1, |v| v.value());
        meta.insert(name.as_str(), number.max(before))?;
    }
    Ok(())
}
