//! Bases: segments that later ones need to be decoded, kept beside the spool's entries and whatever becomes of those.
//!
//! A base is kept in the transaction that commits its segment, and goes when the satellite has passed it
//! (`Lane.oldest_base`, or its epoch is closed) and nothing here depends on it any more: no segment that is still to be exported
//! and no dead letter that does not decode, neither directly nor through another base.
//!
//! A link that stays open says no Hello, so bases are bounded besides: each satellite's take at most a quarter of its room and
//! [`MOST_BYTES`], all together at most a quarter of the spool. Above that the earliest go. The satellite encodes a segment again
//! without a base when that base is not here.

use std::collections::{BTreeMap, BTreeSet};

use perigee_proto::link;
use perigee_shared::segment::{CodecError, Header, hash};
use perigee_shared::store::join;
use prost::Message;
use redb::{ReadableTable, WriteTransaction};

use super::contents::{Contents, Effect, Kept, Settings};
use super::error::SpoolError;
use super::file::{Spool, Txn};
use super::tables::*;
use super::views::names;

/// Bases that depend on one another, at most. An agent makes at most 8.
pub(super) const LONGEST_CHAIN: usize = 16;

/// What one satellite's bases may take.
const MOST_BYTES: u64 = 256 << 20;

/// Bases that are deleted in one transaction, at most.
const SWEEP: usize = 1024;

/// Bases of which each needs the next; the segment needs the first.
pub(super) type Chain = Vec<(SequenceKey, Header)>;

/// The bases that a segment of this satellite needs; [`SpoolError::Undecodable`] when one is not kept, or they are too many.
pub(super) fn chain(
    table: &impl ReadableTable<SequenceKey, &'static [u8]>,
    satellite: u32,
    header: &Header,
) -> Result<Chain, SpoolError> {
    let mut chain = Chain::new();
    let mut next = header.base_sequence;
    while let Some(sequence) = next {
        if chain.len() == LONGEST_CHAIN {
            return Err(CodecError::TooLarge("the number of segments that it depends on").into());
        }
        let key = SequenceKey::new(satellite, header.id).at(sequence);
        let value = table.get(key)?.ok_or(CodecError::MissingBase(sequence))?;
        let base = read_header(value.value())?;
        next = base.base_sequence;
        chain.push((key, base));
    }
    Ok(chain)
}

/// The header of a kept base.
pub(super) fn read_header(value: &[u8]) -> Result<Header, SpoolError> {
    header(decode::<BaseRecord>(value)?.header)
        .ok_or_else(|| SpoolError::damaged("a base's header cannot be read"))
}

/// Keeps the segment with this payload, which was just committed, as a base.
pub(super) fn keep(
    txn: &mut Txn<'_>,
    key: SequenceKey,
    payload: u64,
    header: &Header,
) -> Result<(), SpoolError> {
    let record = BaseRecord { header: Some(header.into()), entry: payload, kept_for: 0, only_kept: false };
    txn.tables.open_table(BASES)?.insert(key, record.encode_to_vec().as_slice())?;
    let segments = txn.tables.open_table(SEGMENT_CHUNKS)?;
    let mut chunks = txn.tables.open_table(BASE_CHUNKS)?;
    for row in segments.range(ChunkKey::all(payload))? {
        let (chunk, bytes) = row?;
        chunks.insert(key.base_chunk(chunk.value().piece), bytes.value())?;
    }
    txn.bytes(key.satellite, Kept::Base, 0, header.payload_len);
    Ok(())
}

/// Notes that a kept segment with this payload depends on its bases.
pub(super) fn need_for_kept(
    txn: &Txn<'_>,
    satellite: u32,
    header: &Header,
    payload: u64,
) -> Result<(), SpoolError> {
    let mut bases = txn.tables.open_table(BASES)?;
    let mut next = header.base_sequence;
    while let Some(sequence) = next {
        let key = SequenceKey::new(satellite, header.id).at(sequence);
        let found = bases.get(key)?.map(|v| decode::<BaseRecord>(v.value())).transpose()?;
        // What this base needs was noted with what needed this base before.
        let Some(record) = found.filter(|record| record.kept_for < payload) else { break };
        let record = BaseRecord { kept_for: payload, ..record };
        bases.insert(key, record.encode_to_vec().as_slice())?;
        next = self::header(record.header).and_then(|header| header.base_sequence);
    }
    Ok(())
}

/// Deletes a base that is damaged.
pub(super) fn discard(txn: &mut Txn<'_>, key: SequenceKey) -> Result<(), SpoolError> {
    let removed = txn.tables.open_table(BASES)?.remove(key)?.map(|v| decode::<BaseRecord>(v.value()));
    let Some(record) = removed.transpose()? else { return Ok(()) };
    txn.tables.open_table(BASE_CHUNKS)?.retain_in(key.base(), |_, _| false)?;
    txn.bytes(key.satellite, record.counts_as(), record.header.map_or(0, |h| h.payload_len), 0);
    Ok(())
}

/// Deletes the bases in a rescued file whose bytes are not all there: what depends on one is asked for in another encoding, not
/// committed to be undecodable.
pub(super) fn delete_damaged(tables: &WriteTransaction) -> Result<(), SpoolError> {
    let mut bases = tables.open_table(BASES)?;
    let mut chunks = tables.open_table(BASE_CHUNKS)?;
    let mut damaged = Vec::new();
    for row in bases.iter()? {
        let (key, value) = row?;
        let (key, header) = (key.value(), read_header(value.value())?);
        let payload = join(chunks.range(key.base())?, header.payload_len as usize)?;
        if hash(&payload) != header.hash {
            damaged.push(key);
        }
    }
    for key in damaged {
        bases.remove(key)?;
        chunks.retain_in(key.base(), |_, _| false)?;
    }
    Ok(())
}

/// What was deleted.
#[derive(Default)]
struct Forgotten {
    /// Satellites and bytes.
    freed: Vec<(u32, u64)>,
    /// The same of what counted as kept, and of what counts as kept from here on.
    kept_freed: Vec<(u32, u64)>,
    kept: Vec<(u32, u64)>,
    /// Something depends on others that could have gone, or there were too many at once.
    held: bool,
}

impl Forgotten {
    fn of(&self, satellite: u32) -> u64 {
        self.freed.iter().filter(|(n, _)| *n == satellite).map(|(_, bytes)| bytes).sum()
    }

    fn note(self, txn: &mut Txn<'_>) {
        for (satellite, bytes) in self.freed {
            txn.bytes(satellite, Kept::Base, bytes, 0);
        }
        for (satellite, bytes) in self.kept_freed {
            txn.bytes(satellite, Kept::Archive, bytes, 0);
        }
        for (satellite, bytes) in self.kept {
            txn.bytes(satellite, Kept::Archive, 0, bytes);
        }
    }
}

/// Deletes what the satellite does not need any more; its Hello is in the ledger.
pub(super) fn forget_passed(txn: &mut Txn<'_>, satellite: u32) -> Result<(), SpoolError> {
    let passed = passed(txn, satellite, satellite)?;
    if passed.is_empty() {
        return Ok(());
    }
    let mut forgotten = Forgotten::default();
    delete(txn, passed, u64::MAX, &needed(txn)?, &mut forgotten)?;
    if forgotten.held {
        txn.effects.push(Effect::BasesHeld(true));
    }
    forgotten.note(txn);
    Ok(())
}

/// Bases that satellites have passed.
fn passed(txn: &Txn<'_>, first: u32, last: u32) -> Result<Vec<SequenceKey>, SpoolError> {
    let epochs = txn.tables.open_table(EPOCHS)?;
    let bases = txn.tables.open_table(BASES)?;
    let mut known: Option<(EpochKey, Option<EpochRecord>)> = None;
    let mut out = Vec::new();
    for row in bases.range(SequenceKey::satellites(first, last))? {
        let (key, value) = row?;
        let (key, payload) = (key.value(), decode::<BaseRecord>(value.value())?.entry);
        let epoch = EpochKey { satellite: key.satellite, epoch: key.epoch };
        if known.as_ref().is_none_or(|(of, _)| *of != epoch) {
            let record = epochs.get(epoch)?.map(|v| decode::<EpochRecord>(v.value())).transpose()?;
            known = Some((epoch, record));
        }
        if let Some((_, Some(record))) = &known
            && is_passed(record, key, payload)
        {
            out.push(key);
        }
    }
    Ok(out)
}

/// Whether what the satellite last said of an epoch means that it needs a base no more.
fn is_passed(epoch: &EpochRecord, base: SequenceKey, payload: u64) -> bool {
    // The satellite takes for bases what it knows to be committed: neither what was committed after its Hello, nor what was on
    // board still, because it had not heard of the commit.
    let unheard = |lane: &link::Lane| lane.on_board.iter().any(|r| (r.start..r.end).contains(&base.sequence));
    let lane = epoch.lanes.iter().find(|l| l.lane == u32::from(base.lane));
    let older = |lane: &link::Lane| lane.oldest_base.is_none_or(|oldest| base.sequence < oldest);
    let told = payload < epoch.next_entry;
    epoch.closed || told && lane.is_none_or(|lane| older(lane) && !unheard(lane))
}

/// Bases that something here depends on.
fn needed(txn: &Txn<'_>) -> Result<BTreeSet<SequenceKey>, SpoolError> {
    let bases = txn.tables.open_table(BASES)?;
    let mut needed = BTreeSet::new();
    let mut need = |satellite: u32, wire: Option<link::SegmentHeader>| -> Result<(), SpoolError> {
        let Some(header) = header(wire) else { return Ok(()) };
        let mut next = header.base_sequence;
        while let Some(sequence) = next {
            let key = SequenceKey::new(satellite, header.id).at(sequence);
            let Some(base) = bases.get(key)? else { break };
            if !needed.insert(key) {
                break;
            }
            next = read_header(base.value())?.base_sequence;
        }
        Ok(())
    };
    for row in txn.tables.open_table(ENTRIES)?.iter()? {
        let (key, value) = row?;
        if !txn.contents.finished.contains(&key.value()) {
            let record = decode::<SegmentRecord>(value.value())?;
            need(record.number, record.header)?;
        }
    }
    for row in txn.tables.open_table(LETTERS)?.iter()? {
        let record = decode::<LetterRecord>(row?.1.value())?;
        if record.exporter.is_empty() {
            need(record.number, record.header)?;
        }
    }
    Ok(needed)
}

/// Deletes those of `keys` that are not needed, in their order, until `bytes` of them are gone.
fn delete(
    txn: &Txn<'_>,
    keys: Vec<SequenceKey>,
    bytes: u64,
    needed: &BTreeSet<SequenceKey>,
    forgotten: &mut Forgotten,
) -> Result<(), SpoolError> {
    let mut bases = txn.tables.open_table(BASES)?;
    let mut chunks = txn.tables.open_table(BASE_CHUNKS)?;
    // What is kept goes in the order of payloads.
    let oldest = txn.tables.open_table(KEPT)?.first()?.map(|(payload, _)| payload.value());
    let mut freed = 0;
    for key in keys {
        if freed >= bytes {
            break;
        }
        if needed.contains(&key) || forgotten.freed.len() + forgotten.kept_freed.len() >= SWEEP {
            forgotten.held = true;
            continue;
        }
        let Some(value) = bases.get(key)? else { continue };
        let record = decode::<BaseRecord>(value.value())?;
        drop(value);
        let length = record.header.as_ref().map_or(0, |h| h.payload_len);
        if oldest.is_some_and(|oldest| oldest <= record.kept_for) {
            if record.only_kept {
                continue;
            }
            forgotten.kept.push((key.satellite, length));
            let record = BaseRecord { only_kept: true, ..record };
            bases.insert(key, record.encode_to_vec().as_slice())?;
        } else {
            bases.remove(key)?;
            chunks.retain_in(key.base(), |_, _| false)?;
            if record.only_kept {
                forgotten.kept_freed.push((key.satellite, length));
                continue;
            }
        }
        forgotten.freed.push((key.satellite, length));
        freed += length;
    }
    Ok(())
}

/// A satellite's bases, the earliest committed first.
fn earliest(txn: &Txn<'_>, satellite: u32) -> Result<Vec<SequenceKey>, SpoolError> {
    let mut out = Vec::new();
    for row in txn.tables.open_table(BASES)?.range(SequenceKey::satellites(satellite, satellite))? {
        let (key, value) = row?;
        out.push((decode::<BaseRecord>(value.value())?.entry, key.value()));
    }
    out.sort_unstable();
    Ok(out.into_iter().map(|(_, key)| key).collect())
}

/// Deletes bases that were passed and held, or are above their bound; to be called when segments have left.
pub(super) fn sweep(spool: &mut Spool) -> Result<(), SpoolError> {
    let excess = excess(spool)?;
    if !spool.contents().bases_held && excess.is_empty() {
        return Ok(());
    }
    spool.write(|txn| {
        let needed = needed(txn)?;
        let mut forgotten = Forgotten::default();
        delete(txn, passed(txn, 0, u32::MAX)?, u64::MAX, &needed, &mut forgotten)?;
        let held = forgotten.held;
        for (satellite, bytes) in excess {
            let left = bytes.saturating_sub(forgotten.of(satellite));
            delete(txn, earliest(txn, satellite)?, left, &needed, &mut forgotten)?;
        }
        let freed: u64 = forgotten.freed.iter().map(|(_, bytes)| bytes).sum();
        let total: u64 = txn.contents.usage.bases.values().sum();
        txn.effects.push(Effect::BasesHeld(held));
        // What is needed is not looked at again for each segment.
        let looked = total.saturating_sub(freed) + bound(txn.contents.settings.max_bytes) / 16;
        txn.effects.push(Effect::BasesLooked(looked));
        forgotten.note(txn);
        Ok(())
    })
}

/// Deletes bases above their bound; to be called before more are kept.
pub(super) fn trim(spool: &mut Spool) -> Result<(), SpoolError> {
    let total: u64 = spool.contents().usage.bases.values().sum();
    if total <= spool.contents().bases_looked || excess(spool)?.is_empty() { Ok(()) } else { sweep(spool) }
}

/// Whether the bases of a satellite are above their bound, which its own room and that of the spool give.
pub(super) fn is_above_bound(settings: &Settings, name: &str, bytes: u64) -> bool {
    bytes > bound_of(settings, name)
}

/// Deletes the earliest bases of one satellite when they are above their bound; it alone is in the tables.
pub(super) fn trim_one(txn: &mut Txn<'_>, satellite: u32, name: &str) -> Result<(), SpoolError> {
    let bytes = txn.contents.usage.bases.get(&satellite).copied().unwrap_or(0);
    let most = bound_of(&txn.contents.settings, name);
    if bytes <= most {
        return Ok(());
    }
    let (needed, mut forgotten) = (needed(txn)?, Forgotten::default());
    delete(txn, passed(txn, satellite, satellite)?, u64::MAX, &needed, &mut forgotten)?;
    let left = (bytes - most + most / 8).saturating_sub(forgotten.of(satellite));
    delete(txn, earliest(txn, satellite)?, left, &needed, &mut forgotten)?;
    forgotten.note(txn);
    Ok(())
}

fn bound_of(settings: &Settings, name: &str) -> u64 {
    let own = settings.satellites.iter().find(|(of, _)| of == name);
    bound(own.map_or(settings.max_bytes, |(_, room)| *room))
}

/// What bases may take of so much room.
fn bound(room: u64) -> u64 {
    (room / 4).min(MOST_BYTES)
}

/// How much has to go of each satellite's bases.
fn excess(spool: &mut Spool) -> Result<BTreeMap<u32, u64>, SpoolError> {
    if spool.contents().usage.bases.values().all(|bytes| *bytes == 0) {
        return Ok(BTreeMap::new());
    }
    spool.read(|view| Ok(excess_of(view.contents, &names(view.tables)?)))
}

/// Somewhat more than is above the bound, so that it is seldom.
fn excess_of(contents: &Contents, names: &BTreeMap<u32, String>) -> BTreeMap<u32, u64> {
    let (settings, usage) = (&contents.settings, &contents.usage);
    let mut excess = BTreeMap::new();
    for (satellite, bytes) in &usage.bases {
        let own = settings.satellites.iter().find(|(name, _)| names.get(satellite) == Some(name));
        let most = bound(own.map_or(settings.max_bytes, |(_, room)| *room));
        if *bytes > most {
            excess.insert(*satellite, bytes - most + most / 8);
        }
    }
    let (all, total) = (settings.max_bytes / 4, usage.bases.values().sum::<u64>());
    let left = total - excess.values().sum::<u64>().min(total);
    if left > all
        && let Some((satellite, _)) = usage.bases.iter().max_by_key(|(_, bytes)| **bytes)
    {
        *excess.entry(*satellite).or_default() += left - all + all / 8;
    }
    excess
}
