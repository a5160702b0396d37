//! Taking bytes in: partial segments are kept, whole ones are checked and committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use perigee_proto::link::{self, RejectReason};
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::Header;
use prost::Message;
use redb::{ReadableTable, ReadableTableMetadata, Table, WriteTransaction};

use super::bases;
use super::counters::{Counters, Kind};
use super::error::SpoolError;
use super::ledger;
use super::open::{Spool, decode};
use super::tables::*;

/// Bytes of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where they begin in it.
    pub offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// What arrived of one segment.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// Whose it is.
    pub satellite: Arc<str>,
    /// What it says of itself.
    pub header: Arc<Header>,
    /// The bytes, which lie within the payload.
    pub pieces: Arc<[Piece]>,
    /// What this satellite's partials may take together.
    pub max_partial_bytes: u64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It is whole and durable now.
    New,
    /// It was so before.
    Duplicate,
    /// These bytes of it are durable.
    Held(RangeSet),
    /// Nothing of it is kept.
    Rejected(RejectReason),
    /// Another segment was committed under its name. Acknowledging it would lose it.
    Conflict,
}

/// Changes to what is only in memory, for after the commit.
#[derive(Default)]
struct Changes {
    /// Satellite, bytes, and the entry when there is nothing in it to export.
    segments: Vec<(u32, u64, Option<u64>)>,
    partials: Vec<(u32, u64, u64)>,
    /// Satellite and bytes.
    bases: Vec<(u32, u64)>,
}

impl Spool {
    /// Takes in what arrived of several segments, in one synced transaction: what comes back is durable.
    pub fn apply(&mut self, batch: &[Incoming]) -> Result<Vec<Applied>, SpoolError> {
        self.trim_bases()?;
        let now = self.env.unix_nano();
        let mut changes = Changes::default();
        let mut partial = self.usage.partial.clone();
        let out = self.write(|txn| {
            batch.iter().map(|incoming| one(txn, incoming, now, &mut changes, &mut partial)).collect()
        })?;
        for (number, before, after) in changes.partials {
            self.usage.partial_changed(number, before, after);
        }
        for (number, bytes) in changes.bases {
            self.usage.base_kept(number, bytes);
        }
        for (number, bytes, empty) in changes.segments {
            self.usage.grow(number, bytes);
            self.finished.extend(empty.map(|entry| (entry, number)));
        }
        Ok(out)
    }

    /// Gives up partial segments when they fill the spool up to `limit` and there is nothing to export: nothing else would make
    /// room, and links would wait for ever. Those of which least is held go, until half of `limit` is free; their bytes have to
    /// be sent again. Whether any was given up.
    pub fn relieve(&mut self, limit: u64) -> Result<bool, SpoolError> {
        if self.usage.total < limit {
            return Ok(false);
        }
        let read = self.read()?;
        if read.open_table(SEGMENTS)?.len()? > self.finished.len() as u64 {
            return Ok(false);
        }
        let mut partials = Vec::new();
        for row in read.open_table(PARTIALS)?.iter()? {
            let (key, value) = row?;
            let held = RangeSet::from_wire(&decode::<PartialRecord>(value.value())?.held).total();
            partials.push((held, key.value()));
        }
        drop(read);
        // What was exported and not deleted yet may be room enough.
        self.sweep()?;
        if self.usage.total < limit {
            return Ok(false);
        }
        partials.sort_unstable();
        let mut above = self.usage.total.saturating_sub(limit / 2);
        let enough = partials.iter().take_while(|(held, _)| {
            let more = above > 0;
            above = above.saturating_sub(*held);
            more
        });
        let given_up: Vec<(u64, SequenceKey)> = enough.copied().collect();
        if given_up.is_empty() {
            return Ok(false);
        }
        self.write(|txn| given_up.iter().try_for_each(|(_, key)| delete_partial(txn, *key).map(drop)))?;
        for (held, key) in &given_up {
            self.usage.partial_changed(key.0, *held, 0);
        }
        tracing::error!(
            event.name = "perigee.spool.relieved",
            partials = given_up.len(),
            bytes = given_up.iter().map(|(held, _)| held).sum::<u64>(),
            "the spool was full of partial segments alone; some were given up and are sent again"
        );
        Ok(true)
    }
}

fn one(
    txn: &WriteTransaction,
    incoming: &Incoming,
    now: u64,
    changes: &mut Changes,
    partial_bytes: &mut BTreeMap<u32, u64>,
) -> Result<Applied, SpoolError> {
    let header = &incoming.header;
    let number = ledger::number(txn, &incoming.satellite)?;
    let key = key(number, header.id);
    let mut change = |before: u64, after: u64| {
        changes.partials.push((number, before, after));
        let total = partial_bytes.entry(number).or_default();
        *total = (*total + after).saturating_sub(before);
        *total
    };
    if ledger::is_committed(&txn.open_table(COMMITTED)?, key)? {
        let known = ledger::recent(&txn.open_table(RECENT)?, key)?;
        if known.is_some_and(|(hash, _)| hash != header.hash) {
            return Ok(Applied::Conflict);
        }
        change(delete_partial(txn, key)?, 0);
        Counters(txn.open_table(COUNTERS)?).one(number, Kind::Duplicates, 1)?;
        return Ok(Applied::Duplicate);
    }
    match bases::chain(&txn.open_table(BASES)?, number, header) {
        Err(SpoolError::Undecodable(_)) => return Ok(Applied::Rejected(RejectReason::MissingBase)),
        chain => drop(chain?),
    }
    let mut held = held_of(txn, key)?;
    if held.as_ref().is_some_and(|(hash, _)| *hash != header.hash) {
        // Sealed again with other bytes: what is held is of no use.
        change(delete_partial(txn, key)?, 0);
        held = None;
    }
    let before = held.map(|(_, ranges)| ranges).unwrap_or_default();
    let mut after = before.clone();
    let mut fresh = BTreeMap::new();
    for piece in incoming.pieces.iter() {
        let end = (piece.offset + piece.bytes.len() as u64).min(header.payload_len);
        for missing in after.missing(piece.offset.min(end)..end) {
            let from = (missing.start - piece.offset) as usize;
            let to = (missing.end - piece.offset) as usize;
            fresh.insert(missing.start, &piece.bytes[from..to]);
            after.insert(missing);
        }
    }
    if after.missing(0..header.payload_len).is_empty() {
        let entry = commit(txn, incoming, number, now, &fresh)?;
        change(delete_partial(txn, key)?, 0);
        let Some(entry) = entry else { return Ok(Applied::Rejected(RejectReason::HashMismatch)) };
        let empty = (header.items.total() == 0).then_some(entry);
        changes.segments.push((number, header.payload_len, empty));
        if header.is_base {
            bases::keep(txn, key, entry, header)?;
            changes.bases.push((number, header.payload_len));
        }
        return Ok(Applied::New);
    }
    if change(before.total(), after.total()) > incoming.max_partial_bytes {
        change(after.total(), before.total());
        return Ok(Applied::Rejected(RejectReason::Quota));
    }
    hold(txn, key, header, &after, &fresh)?;
    Ok(Applied::Held(after))
}

fn held_of(txn: &WriteTransaction, key: SequenceKey) -> Result<Option<([u8; 32], RangeSet)>, SpoolError> {
    let table = txn.open_table(PARTIALS)?;
    let Some(value) = table.get(key)? else { return Ok(None) };
    let record = decode::<PartialRecord>(value.value())?;
    let hash = record.header.and_then(|h| h.payload_hash.try_into().ok()).unwrap_or_default();
    Ok(Some((hash, RangeSet::from_wire(&record.held))))
}

fn hold(
    txn: &WriteTransaction,
    key: SequenceKey,
    header: &Header,
    held: &RangeSet,
    fresh: &BTreeMap<u64, &[u8]>,
) -> Result<(), SpoolError> {
    let mut chunks = txn.open_table(PARTIAL_CHUNKS)?;
    for (start, bytes) in fresh {
        for (n, chunk) in bytes.chunks(CHUNK).enumerate() {
            let offset = start + (n * CHUNK) as u64;
            chunks.insert((key.0, key.1, key.2, key.3, offset), chunk)?;
        }
    }
    let record = PartialRecord { header: Some(header.into()), held: held.to_wire() };
    txn.open_table(PARTIALS)?.insert(key, record.encode_to_vec().as_slice())?;
    Ok(())
}

/// Deletes what is held of a segment; returns how many bytes that were.
pub(super) fn delete_partial(txn: &WriteTransaction, key: SequenceKey) -> Result<u64, SpoolError> {
    let (number, epoch, lane, sequence) = key;
    let bytes = match txn.open_table(PARTIALS)?.remove(key)? {
        Some(value) => RangeSet::from_wire(&decode::<PartialRecord>(value.value())?.held).total(),
        None => return Ok(0),
    };
    let chunks = (number, epoch, lane, sequence, 0)..=(number, epoch, lane, sequence, u64::MAX);
    txn.open_table(PARTIAL_CHUNKS)?.retain_in(chunks, |_, _| false)?;
    Ok(bytes)
}

/// Writes a payload in pieces of [`CHUNK`] and hashes it on the way.
struct ChunkWriter<'a, 't> {
    table: &'a mut Table<'t, (u64, u32), &'static [u8]>,
    entry: u64,
    chunks: u32,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
}

impl ChunkWriter<'_, '_> {
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), SpoolError> {
        self.hasher.update(bytes);
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == CHUNK {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SpoolError> {
        if !self.buffer.is_empty() {
            self.table.insert((self.entry, self.chunks), self.buffer.as_slice())?;
            self.chunks += 1;
            self.buffer.clear();
        }
        Ok(())
    }
}

/// Commits a whole segment as a new entry; `None` when its payload does not have its hash.
fn commit(
    txn: &WriteTransaction,
    incoming: &Incoming,
    number: u32,
    now: u64,
    fresh: &BTreeMap<u64, &[u8]>,
) -> Result<Option<u64>, SpoolError> {
    let header = &incoming.header;
    let key = key(number, header.id);
    let entry = take_number(txn, "next_entry")?;
    let mut counters = Counters(txn.open_table(COUNTERS)?);
    let mut table = txn.open_table(SEGMENT_CHUNKS)?;
    let mut writer = ChunkWriter {
        table: &mut table,
        entry,
        chunks: 0,
        buffer: Vec::with_capacity(CHUNK),
        hasher: blake3::Hasher::new(),
    };
    let mut fresh = fresh.iter().peekable();
    let stored = txn.open_table(PARTIAL_CHUNKS)?;
    let rows = (key.0, key.1, key.2, key.3, 0)..=(key.0, key.1, key.2, key.3, u64::MAX);
    for row in stored.range(rows)? {
        let (at, bytes) = row?;
        while let Some((_, first)) = fresh.next_if(|(offset, _)| **offset < at.value().4) {
            writer.push(first)?;
        }
        writer.push(bytes.value())?;
    }
    for (_, bytes) in fresh {
        writer.push(bytes)?;
    }
    writer.flush()?;
    if *writer.hasher.finalize().as_bytes() != header.hash {
        let chunks = writer.chunks;
        for n in 0..chunks {
            table.remove((entry, n))?;
        }
        counters.one(number, Kind::HashMismatches, 1)?;
        return Ok(None);
    }
    let record = SegmentRecord {
        satellite: incoming.satellite.to_string(),
        header: Some(link::SegmentHeader::from(header.as_ref())),
        committed: now,
        settled: 0,
        number,
    };
    txn.open_table(SEGMENTS)?.insert(entry, record.encode_to_vec().as_slice())?;
    ledger::insert(&mut txn.open_table(COMMITTED)?, key, header.hash)?;
    ledger::override_drop(txn, &mut counters, key, header.items)?;
    ledger::remember(&mut txn.open_table(RECENT)?, key, header)?;
    counters.add(number, Kind::Committed, 0, header.items)?;
    counters.one(number, Kind::Segments, 1)?;
    counters.one(number, Kind::Bytes, header.payload_len)?;
    Ok(Some(entry))
}

/// The next number of this name, from 1; numbers come from the database and are never used twice.
pub(super) fn take_number(txn: &WriteTransaction, name: &str) -> Result<u64, SpoolError> {
    let mut meta = txn.open_table(META)?;
    let next = meta.get(name)?.map_or(1, |v| v.value());
    meta.insert(name, next + 1)?;
    Ok(next)
}
