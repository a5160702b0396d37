//! Taking bytes in: partial segments are kept, whole ones are checked and committed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use perigee_proto::link::{self, RejectReason};
use perigee_shared::link::bounds::SEGMENT_RANGES;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Header, SegmentId};
use perigee_shared::store::LARGEST_PIECE;
use prost::Message;
use redb::{ReadableTable, ReadableTableMetadata, Table, WriteTransaction};
use tokio::time::Instant;

use super::bases;
use super::contents::{Effect, Kept};
use super::counters::{Counters, Kind};
use super::error::SpoolError;
use super::file::{Spool, Txn, View};
use super::tables::*;
use super::views::names;
use super::{catalogue, gaps, ledger, outlet};

/// Bytes of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where they begin in it.
    pub offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// How old the oldest item of a segment was at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Age {
    had: Duration,
    at: Instant,
}

impl Age {
    /// What a satellite says is believed up to a century.
    const MOST: Duration = Duration::from_secs(100 * 31_557_600);

    /// It was so old then.
    pub fn new(had: Duration, at: Instant) -> Self {
        Self { had: had.min(Self::MOST), at }
    }

    /// How old it is now.
    pub fn now(self) -> Duration {
        self.had + self.at.elapsed()
    }
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
    /// How old the oldest of its items is, if that is known.
    pub age: Option<Age>,
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

/// Takes in what arrived of several segments.
pub(super) fn apply(txn: &mut Txn<'_>, batch: &[Incoming]) -> Result<Vec<Applied>, SpoolError> {
    let mut quota = txn.contents.usage.partial.clone();
    batch.iter().map(|incoming| one(txn, incoming, &mut quota)).collect()
}

/// Takes in what arrived of one segment; `quota` is what each satellite's partials take.
fn one(
    txn: &mut Txn<'_>,
    incoming: &Incoming,
    quota: &mut BTreeMap<u32, u64>,
) -> Result<Applied, SpoolError> {
    let header = &incoming.header;
    let satellite = ledger::number(txn, &incoming.satellite)?;
    let key = SequenceKey::new(satellite, header.id);
    let quota = quota.entry(satellite).or_default();
    if ledger::is_committed(&txn.tables.open_table(COMMITTED)?, key)? {
        let known = ledger::recent(&txn.tables.open_table(RECENT)?, key)?;
        if known.is_some_and(|(hash, _)| hash != header.hash) {
            return Ok(Applied::Conflict);
        }
        *quota = quota.saturating_sub(delete_partial(txn, key)?);
        Counters::of(txn.tables, satellite)?.one(Kind::Duplicates, 1)?;
        return Ok(Applied::Duplicate);
    }
    if ledger::has_in_another_epoch(txn.tables, key, &header.hash)? {
        // A log that was put back from a backup begins a new epoch and keeps its sequences and payloads.
        ledger::insert(&mut txn.tables.open_table(COMMITTED)?, key, header.hash)?;
        ledger::remember(txn.tables, key, header)?;
        *quota = quota.saturating_sub(delete_partial(txn, key)?);
        Counters::of(txn.tables, satellite)?.one(Kind::Duplicates, 1)?;
        return Ok(Applied::Duplicate);
    }
    match bases::chain(&txn.tables.open_table(BASES)?, satellite, header) {
        Err(SpoolError::Undecodable(_)) => return Ok(Applied::Rejected(RejectReason::MissingBase)),
        chain => drop(chain?),
    }
    let mut before = held_of(txn, key)?;
    if before.as_ref().is_some_and(|(hash, _)| *hash != header.hash) {
        // Sealed again with other bytes: what is held is of no use.
        *quota = quota.saturating_sub(delete_partial(txn, key)?);
        before = None;
    }
    let before = before.map(|(_, ranges)| ranges).unwrap_or_default();
    let (after, fresh) = join(&before, incoming);
    if after.missing(0..header.payload_len).is_empty() {
        let committed = commit(txn, incoming, key, &fresh)?;
        *quota = quota.saturating_sub(delete_partial(txn, key)?);
        return Ok(if committed { Applied::New } else { Applied::Rejected(RejectReason::HashMismatch) });
    }
    hold_part(txn, incoming, key, (&before, after, &fresh), quota)
}

/// Holds what arrived of a segment that is not whole.
fn hold_part(
    txn: &mut Txn<'_>,
    incoming: &Incoming,
    key: SequenceKey,
    (before, after, fresh): (&RangeSet, RangeSet, &BTreeMap<u64, &[u8]>),
    quota: &mut u64,
) -> Result<Applied, SpoolError> {
    if after.is_empty() {
        // A name without bytes is worth nothing after this contact.
        return Ok(Applied::Held(after));
    }
    let (was, is) = (before.total() + overhead(before), after.total() + overhead(&after));
    let total = (*quota + is).saturating_sub(was);
    // What ranges and headers take comes on top, within its own bound.
    if total > incoming.max_partial_bytes + incoming.max_partial_bytes / OVERHEAD {
        return Ok(Applied::Rejected(RejectReason::Quota));
    }
    *quota = total;
    hold(txn, key, &incoming.header, &after, fresh)?;
    txn.bytes(key.satellite, Kept::Partial, before.total(), after.total());
    txn.bytes(key.satellite, Kept::Overhead, overhead(before), overhead(&after));
    Ok(Applied::Held(after))
}

/// Holds what arrived, also what is whole: the ledger cannot be asked, so that nothing is committed.
pub(super) fn hold_only(txn: &mut Txn<'_>, batch: &[Incoming]) -> Result<Vec<Applied>, SpoolError> {
    let mut quotas = txn.contents.usage.partial.clone();
    let mut held = Vec::new();
    for incoming in batch {
        let satellite = ledger::number(txn, &incoming.satellite)?;
        let key = SequenceKey::new(satellite, incoming.header.id);
        let quota = quotas.entry(satellite).or_default();
        let mut before = held_of(txn, key)?;
        if before.as_ref().is_some_and(|(hash, _)| *hash != incoming.header.hash) {
            *quota = quota.saturating_sub(delete_partial(txn, key)?);
            before = None;
        }
        let before = before.map(|(_, ranges)| ranges).unwrap_or_default();
        let (after, fresh) = join(&before, incoming);
        held.push(hold_part(txn, incoming, key, (&before, after, &fresh), quota)?);
    }
    Ok(held)
}

/// The next segment behind `after` of which bytes are held, with those bytes.
pub(super) fn next_held(
    view: &View<'_>,
    after: Option<SequenceKey>,
) -> Result<Option<(SequenceKey, Incoming)>, SpoolError> {
    use std::ops::Bound;
    let partials = view.tables.open_table(PARTIALS)?;
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let Some(row) = partials.range((from, Bound::Unbounded))?.next().transpose()? else { return Ok(None) };
    let (key, record) = (row.0.value(), decode::<PartialRecord>(row.1.value())?);
    let wrong = || SpoolError::damaged("a partial segment's header cannot be read");
    let header = Arc::new(header(record.header).ok_or_else(wrong)?);
    let satellite = names(view.tables)?.remove(&key.satellite).ok_or_else(wrong)?.into();
    let mut pieces = Vec::new();
    for row in view.tables.open_table(PARTIAL_CHUNKS)?.range(key.partial())? {
        let (at, bytes) = row?;
        pieces.push(Piece { offset: at.value().offset, bytes: bytes.value().to_vec() });
    }
    Ok(Some((
        key,
        Incoming { satellite, header, pieces: pieces.into(), max_partial_bytes: u64::MAX / 2, age: None },
    )))
}

/// What a partial segment takes beside its bytes: its record, and what a lookup of it costs.
const PARTIAL: u64 = 4096;
/// What each of its ranges takes.
const RANGE: u64 = 32;
/// The part of `max_partial_bytes` that may be taken beside bytes.
const OVERHEAD: u64 = 16;

/// What a partial segment of which this is held takes beside its bytes.
pub(super) fn overhead(held: &RangeSet) -> u64 {
    if held.is_empty() { 0 } else { PARTIAL + RANGE * held.ranges() as u64 }
}

/// What is held with what arrived, and those bytes of it that are new, by their place. Bytes for which there would be too many
/// ranges are left out; they come again.
fn join<'i>(before: &RangeSet, incoming: &'i Incoming) -> (RangeSet, BTreeMap<u64, &'i [u8]>) {
    let (mut after, mut fresh) = (before.clone(), BTreeMap::new());
    for piece in incoming.pieces.iter() {
        let end = (piece.offset + piece.bytes.len() as u64).min(incoming.header.payload_len);
        for missing in after.missing(piece.offset.min(end)..end) {
            if after.ranges() >= SEGMENT_RANGES && !after.touches(&missing) {
                continue;
            }
            let from = (missing.start - piece.offset) as usize;
            let to = (missing.end - piece.offset) as usize;
            fresh.insert(missing.start, &piece.bytes[from..to]);
            after.insert(missing);
        }
    }
    (after, fresh)
}

fn held_of(txn: &Txn<'_>, key: SequenceKey) -> Result<Option<([u8; 32], RangeSet)>, SpoolError> {
    let table = txn.tables.open_table(PARTIALS)?;
    let Some(value) = table.get(key)? else { return Ok(None) };
    let record = decode::<PartialRecord>(value.value())?;
    let hash = record.header.and_then(|h| h.payload_hash.try_into().ok()).unwrap_or_default();
    Ok(Some((hash, RangeSet::from_wire(&record.held))))
}

fn hold(
    txn: &Txn<'_>,
    key: SequenceKey,
    header: &Header,
    held: &RangeSet,
    fresh: &BTreeMap<u64, &[u8]>,
) -> Result<(), SpoolError> {
    let mut chunks = txn.tables.open_table(PARTIAL_CHUNKS)?;
    for (start, bytes) in fresh {
        let mut offset = *start;
        for piece in bytes.chunks(LARGEST_PIECE) {
            chunks.insert(key.partial_at(offset), piece)?;
            offset += piece.len() as u64;
        }
    }
    let record = PartialRecord { header: Some(header.into()), held: held.to_wire() };
    txn.tables.open_table(PARTIALS)?.insert(key, record.encode_to_vec().as_slice())?;
    Ok(())
}

/// Deletes what is held of a segment; returns what it took.
pub(super) fn delete_partial(txn: &mut Txn<'_>, key: SequenceKey) -> Result<u64, SpoolError> {
    let held = match txn.tables.open_table(PARTIALS)?.remove(key)? {
        Some(value) => RangeSet::from_wire(&decode::<PartialRecord>(value.value())?.held),
        None => return Ok(0),
    };
    txn.tables.open_table(PARTIAL_CHUNKS)?.retain_in(key.partial(), |_, _| false)?;
    txn.bytes(key.satellite, Kept::Partial, held.total(), 0);
    txn.bytes(key.satellite, Kept::Overhead, overhead(&held), 0);
    Ok(held.total() + overhead(&held))
}

/// Writes a payload in pieces and hashes it on the way.
struct PayloadWriter<'a, 't> {
    table: &'a mut Table<'t, ChunkKey, &'static [u8]>,
    next: ChunkKey,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
}

impl PayloadWriter<'_, '_> {
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), SpoolError> {
        self.hasher.update(bytes);
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(LARGEST_PIECE - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == LARGEST_PIECE {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SpoolError> {
        if !self.buffer.is_empty() {
            self.table.insert(self.next, self.buffer.as_slice())?;
            self.next.piece += 1;
            self.buffer.clear();
        }
        Ok(())
    }
}

/// Writes the payload under this number, from what is held and what is fresh. Whether it has its hash.
fn write_payload(
    txn: &Txn<'_>,
    key: SequenceKey,
    payload: u64,
    header: &Header,
    fresh: &BTreeMap<u64, &[u8]>,
) -> Result<bool, SpoolError> {
    let mut table = txn.tables.open_table(SEGMENT_CHUNKS)?;
    let mut writer = PayloadWriter {
        table: &mut table,
        next: ChunkKey { of: payload, piece: 0 },
        buffer: Vec::with_capacity(LARGEST_PIECE.min(header.payload_len as usize)),
        hasher: blake3::Hasher::new(),
    };
    let mut fresh = fresh.iter().peekable();
    let stored = txn.tables.open_table(PARTIAL_CHUNKS)?;
    for row in stored.range(key.partial())? {
        let (at, bytes) = row?;
        while let Some((_, first)) = fresh.next_if(|(offset, _)| **offset < at.value().offset) {
            writer.push(first)?;
        }
        writer.push(bytes.value())?;
    }
    for (_, bytes) in fresh {
        writer.push(bytes)?;
    }
    writer.flush()?;
    let whole = *writer.hasher.finalize().as_bytes() == header.hash;
    if !whole {
        table.retain_in(ChunkKey::all(payload), |_, _| false)?;
    }
    Ok(whole)
}

/// Commits a whole segment as a new entry; false when its payload does not have its hash.
fn commit(
    txn: &mut Txn<'_>,
    incoming: &Incoming,
    key: SequenceKey,
    fresh: &BTreeMap<u64, &[u8]>,
) -> Result<bool, SpoolError> {
    let header = &incoming.header;
    let payload = take_number(txn.tables, "next_entry")?;
    if !write_payload(txn, key, payload, header, fresh)? {
        Counters::of(txn.tables, key.satellite)?.one(Kind::HashMismatches, 1)?;
        return Ok(false);
    }
    let record = SegmentRecord {
        satellite: incoming.satellite.to_string(),
        header: Some(link::SegmentHeader::from(header.as_ref())),
        committed: txn.now,
        settled: 0,
        number: key.satellite,
        payload,
        station: txn.contents.settings.station.clone(),
    };
    let entry = enter(txn, header.id, &record)?;
    catalogue::note(txn, key.satellite, header, (payload, entry), incoming.age)?;
    txn.effects.push(Effect::Delivered {
        satellite: key.satellite,
        lane: key.lane,
        bytes: header.payload_len,
        items: header.items,
    });
    ledger::insert(&mut txn.tables.open_table(COMMITTED)?, key, header.hash)?;
    gaps::override_drop(txn, key, header.items)?;
    ledger::remember(txn.tables, key, header)?;
    let mut counters = Counters::of(txn.tables, key.satellite)?;
    counters.add(Kind::Committed, 0, header.items)?;
    counters.one(Kind::Segments, 1)?;
    counters.one(Kind::Bytes, header.payload_len)?;
    drop(counters);
    if header.is_base {
        bases::keep(txn, key, payload, header)?;
    }
    Ok(true)
}

/// Makes a segment the latest entry of its satellite, whose number is returned. Its payload is there.
pub(super) fn enter(txn: &mut Txn<'_>, id: SegmentId, record: &SegmentRecord) -> Result<u64, SpoolError> {
    let satellite = record.number;
    let entry = take_number(txn.tables, &format!("entry.{satellite}"))?;
    let key = EntryKey { satellite, lane: id.lane.0, entry };
    txn.tables.open_table(ENTRIES)?.insert(key, record.encode_to_vec().as_slice())?;
    let segment = SequenceKey::new(satellite, id);
    txn.bytes(satellite, Kept::Segment, 0, record.bytes());
    txn.effects.push(Effect::Entered { entry: key, segment, items: record.open() });
    Ok(entry)
}

/// The next number of this name, from 1. No number is used twice.
pub(super) fn take_number(tables: &WriteTransaction, name: &str) -> Result<u64, SpoolError> {
    let mut meta = tables.open_table(META)?;
    let next = meta.get(name)?.map_or(1, |v| v.value());
    meta.insert(name, next + 1)?;
    Ok(next)
}

/// Gives up partial segments when they fill the spool up to `limit` and there is nothing to export: nothing else would make
/// room, and links would wait for ever. Those of which least is held go, until half of `limit` is free; their bytes have to be
/// sent again. Whether any was given up.
pub(super) fn relieve(spool: &mut Spool, limit: u64) -> Result<bool, SpoolError> {
    if spool.contents().usage.total < limit {
        return Ok(false);
    }
    let partials = spool.read(|view| {
        let mut partials = Vec::new();
        if view.tables.open_table(ENTRIES)?.len()? > view.contents.finished.len() as u64 {
            return Ok(partials);
        }
        for row in view.tables.open_table(PARTIALS)?.iter()? {
            let (key, value) = row?;
            let held = RangeSet::from_wire(&decode::<PartialRecord>(value.value())?.held).total();
            partials.push((held, key.value()));
        }
        partials.sort_unstable();
        Ok(partials)
    })?;
    // What was exported and not deleted yet may be room enough.
    if !partials.is_empty() {
        outlet::sweep(spool)?;
    }
    let total = spool.contents().usage.total;
    if total < limit {
        return Ok(false);
    }
    let mut above = total.saturating_sub(limit / 2);
    let enough = partials.iter().take_while(|(held, _)| {
        let more = above > 0;
        above = above.saturating_sub(*held);
        more
    });
    let given_up: Vec<(u64, SequenceKey)> = enough.copied().collect();
    if given_up.is_empty() {
        return Ok(false);
    }
    spool.write(|txn| given_up.iter().try_for_each(|(_, key)| delete_partial(txn, *key).map(drop)))?;
    tracing::error!(
        event.name = "perigee.spool.relieved",
        partials = given_up.len(),
        bytes = given_up.iter().map(|(held, _)| held).sum::<u64>(),
        "partial segments alone filled the spool; some were discarded and will be sent again"
    );
    Ok(true)
}
