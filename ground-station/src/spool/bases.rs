//! Bases: segments that others may lean on, kept beside the spool's entries and whatever becomes of those.
//!
//! A base is kept in the transaction that commits its segment, and goes when the satellite has passed it
//! (`Lane.oldest_base`, or its epoch is closed) and nothing here leans on it any more: no segment that is still to be exported
//! and no dead letter that does not decode, neither directly nor through another base.
//!
//! A link that stays open says no Hello, so bases are bounded besides: each satellite's take at most a quarter of its room and
//! [`MOST_BYTES`], all together at most a quarter of the spool. Above that the earliest go. The satellite encodes anew what
//! leans on one that is not here.

use std::collections::{BTreeMap, BTreeSet};

use perigee_proto::link;
use perigee_shared::segment::{CodecError, Header};
use prost::Message;
use redb::{ReadableTable, WriteTransaction};

use super::error::SpoolError;
use super::open::{Spool, decode};
use super::tables::*;
use super::views::names;

/// Bases that lean on one another, at most. An agent makes at most 8.
pub(super) const LONGEST_CHAIN: usize = 16;

/// Of one satellite's bases.
const MOST_BYTES: u64 = 256 << 20;

/// Bases that are deleted in one transaction, at most.
const SWEEP: usize = 1024;

/// Bases that lean on one another, the one first on which the segment leans.
pub(super) type Chain = Vec<(SequenceKey, Header)>;

/// What a segment of the satellite `number` leans on; [`SpoolError::Undecodable`] when that is not kept, or is too long.
pub(super) fn chain(
    table: &impl ReadableTable<SequenceKey, &'static [u8]>,
    number: u32,
    header: &Header,
) -> Result<Chain, SpoolError> {
    let mut chain = Chain::new();
    let mut next = header.base_sequence;
    while let Some(sequence) = next {
        if chain.len() == LONGEST_CHAIN {
            return Err(CodecError::TooLarge("the number of segments that it leans on").into());
        }
        let key = (number, header.id.epoch, header.id.lane.0, sequence);
        let value = table.get(key)?.ok_or(CodecError::MissingBase(sequence))?;
        let base = read_header(value.value())?;
        next = base.base_sequence;
        chain.push((key, base));
    }
    Ok(chain)
}

/// The header of a kept base.
pub(super) fn read_header(value: &[u8]) -> Result<Header, SpoolError> {
    header(decode::<BaseRecord>(value)?.header).ok_or(SpoolError::Damaged("a base's header cannot be read"))
}

/// Keeps the segment `entry`, which was just committed, as a base.
pub(super) fn keep(
    txn: &WriteTransaction,
    key: SequenceKey,
    entry: u64,
    header: &Header,
) -> Result<(), SpoolError> {
    let record = BaseRecord { header: Some(header.into()), entry };
    txn.open_table(BASES)?.insert(key, record.encode_to_vec().as_slice())?;
    let segments = txn.open_table(SEGMENT_CHUNKS)?;
    let mut chunks = txn.open_table(BASE_CHUNKS)?;
    for row in segments.range((entry, 0)..=(entry, u32::MAX))? {
        let (piece, bytes) = row?;
        chunks.insert((key.0, key.1, key.2, key.3, piece.value().1), bytes.value())?;
    }
    Ok(())
}

/// What was deleted.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    /// Satellites and bytes.
    freed: Vec<(u32, u64)>,
    /// Something leans on others that could have gone, or there were too many at once.
    held: bool,
}

impl Forgotten {
    fn of(&self, number: u32) -> u64 {
        self.freed.iter().filter(|(n, _)| *n == number).map(|(_, bytes)| bytes).sum()
    }
}

/// Deletes what `number` does not need any more, as it says in a Hello of which these are the epochs.
pub(super) fn forget_passed(
    txn: &WriteTransaction,
    number: u32,
    told: &[link::Epoch],
    finished: &BTreeMap<u64, u32>,
) -> Result<Forgotten, SpoolError> {
    let mut forgotten = Forgotten::default();
    let passed = passed(txn, number..=number, told)?;
    if !passed.is_empty() {
        delete(txn, passed, u64::MAX, &needed(txn, finished)?, &mut forgotten)?;
    }
    Ok(forgotten)
}

/// Bases that satellites have passed, as far as they have said it.
fn passed(
    txn: &WriteTransaction,
    numbers: std::ops::RangeInclusive<u32>,
    told: &[link::Epoch],
) -> Result<Vec<SequenceKey>, SpoolError> {
    let epochs = txn.open_table(EPOCHS)?;
    let bases = txn.open_table(BASES)?;
    let mut known: Option<((u32, u64), Option<EpochRecord>)> = None;
    let mut out = Vec::new();
    for row in bases.range((*numbers.start(), 0, 0, 0)..=(*numbers.end(), u64::MAX, u8::MAX, u64::MAX))? {
        let key = row?.0.value();
        let epoch = (key.0, key.1);
        if known.as_ref().is_none_or(|(of, _)| *of != epoch) {
            let record = epochs.get(epoch)?.map(|v| decode::<EpochRecord>(v.value())).transpose()?;
            known = Some((epoch, record));
        }
        let Some((_, Some(record))) = &known else { continue };
        let lane = record.lanes.iter().find(|l| l.lane == u32::from(key.2));
        let gone = record.closed
            || match lane {
                // What was sealed after the Hello is none of its business.
                Some(lane) => key.3 < lane.oldest_base.unwrap_or(lane.next_sequence),
                None => told.iter().any(|e| e.epoch == key.1),
            };
        if gone {
            out.push(key);
        }
    }
    Ok(out)
}

/// Bases that something here leans on.
fn needed(
    txn: &WriteTransaction,
    finished: &BTreeMap<u64, u32>,
) -> Result<BTreeSet<SequenceKey>, SpoolError> {
    let bases = txn.open_table(BASES)?;
    let mut needed = BTreeSet::new();
    let mut lean = |number: u32, wire: Option<link::SegmentHeader>| -> Result<(), SpoolError> {
        let Some(header) = header(wire) else { return Ok(()) };
        let mut next = header.base_sequence;
        while let Some(sequence) = next {
            let key = (number, header.id.epoch, header.id.lane.0, sequence);
            let Some(base) = bases.get(key)? else { break };
            if !needed.insert(key) {
                break;
            }
            next = read_header(base.value())?.base_sequence;
        }
        Ok(())
    };
    for row in txn.open_table(SEGMENTS)?.iter()? {
        let (entry, value) = row?;
        if !finished.contains_key(&entry.value()) {
            let record = decode::<SegmentRecord>(value.value())?;
            lean(record.number, record.header)?;
        }
    }
    for row in txn.open_table(LETTERS)?.iter()? {
        let record = decode::<LetterRecord>(row?.1.value())?;
        if record.exporter.is_empty() {
            lean(record.number, record.header)?;
        }
    }
    Ok(needed)
}

/// Deletes those of `keys` that are not needed, in their order, until `bytes` of them are gone.
fn delete(
    txn: &WriteTransaction,
    keys: Vec<SequenceKey>,
    bytes: u64,
    needed: &BTreeSet<SequenceKey>,
    forgotten: &mut Forgotten,
) -> Result<(), SpoolError> {
    let mut bases = txn.open_table(BASES)?;
    let mut chunks = txn.open_table(BASE_CHUNKS)?;
    let mut freed = 0;
    for key in keys {
        if freed >= bytes {
            break;
        }
        if needed.contains(&key) || forgotten.freed.len() >= SWEEP {
            forgotten.held = true;
            continue;
        }
        let Some(value) = bases.remove(key)? else { continue };
        let length = decode::<BaseRecord>(value.value())?.header.map_or(0, |h| h.payload_len);
        let pieces = (key.0, key.1, key.2, key.3, 0)..=(key.0, key.1, key.2, key.3, u32::MAX);
        chunks.retain_in(pieces, |_, _| false)?;
        forgotten.freed.push((key.0, length));
        freed += length;
    }
    Ok(())
}

/// A satellite's bases, the earliest committed first.
fn earliest(txn: &WriteTransaction, number: u32) -> Result<Vec<SequenceKey>, SpoolError> {
    let bases = txn.open_table(BASES)?;
    let mut out = Vec::new();
    for row in bases.range((number, 0, 0, 0)..=(number, u64::MAX, u8::MAX, u64::MAX))? {
        let (key, value) = row?;
        out.push((decode::<BaseRecord>(value.value())?.entry, key.value()));
    }
    out.sort_unstable();
    Ok(out.into_iter().map(|(_, key)| key).collect())
}

/// What bases may take of so much room.
fn bound(room: u64) -> u64 {
    (room / 4).min(MOST_BYTES)
}

impl Spool {
    pub(super) fn note_forgotten(&mut self, forgotten: Forgotten) {
        for (number, bytes) in forgotten.freed {
            self.usage.base_forgotten(number, bytes);
        }
        self.bases_held |= forgotten.held;
    }

    /// Deletes bases that were passed and held, or are above their bound; to be called when segments have left.
    pub(super) fn sweep_bases(&mut self) -> Result<(), SpoolError> {
        let excess = self.excess()?;
        if !self.bases_held && excess.is_empty() {
            return Ok(());
        }
        let forgotten = self.write(|txn| {
            let needed = needed(txn, &self.finished)?;
            let mut forgotten = Forgotten::default();
            delete(txn, passed(txn, 0..=u32::MAX, &[])?, u64::MAX, &needed, &mut forgotten)?;
            let held = forgotten.held;
            for (number, bytes) in excess {
                let left = bytes.saturating_sub(forgotten.of(number));
                delete(txn, earliest(txn, number)?, left, &needed, &mut forgotten)?;
            }
            Ok(Forgotten { held, ..forgotten })
        })?;
        self.bases_held = false;
        self.note_forgotten(forgotten);
        // What is needed is not looked at again for each segment.
        let total: u64 = self.usage.bases.values().sum();
        self.bases_looked = total + bound(self.settings.max_bytes) / 16;
        Ok(())
    }

    /// Deletes bases above their bound; to be called before more are kept.
    pub(super) fn trim_bases(&mut self) -> Result<(), SpoolError> {
        let total: u64 = self.usage.bases.values().sum();
        if total <= self.bases_looked || self.excess()?.is_empty() { Ok(()) } else { self.sweep_bases() }
    }

    /// How much has to go of each satellite's bases: somewhat more than is above the bound, so that it is seldom.
    fn excess(&self) -> Result<BTreeMap<u32, u64>, SpoolError> {
        let mut excess = BTreeMap::new();
        let total: u64 = self.usage.bases.values().sum();
        if total == 0 {
            return Ok(excess);
        }
        let names = names(&self.read()?)?;
        let all = self.settings.max_bytes / 4;
        for (number, bytes) in &self.usage.bases {
            let own = self.settings.satellites.iter().find(|(name, _)| names.get(number) == Some(name));
            let most = bound(own.map_or(self.settings.max_bytes, |(_, room)| *room));
            if *bytes > most {
                excess.insert(*number, bytes - most + most / 8);
            }
        }
        let left = total - excess.values().sum::<u64>().min(total);
        if left > all
            && let Some((number, _)) = self.usage.bases.iter().max_by_key(|(_, bytes)| **bytes)
        {
            *excess.entry(*number).or_default() += left - all + all / 8;
        }
        Ok(excess)
    }
}
