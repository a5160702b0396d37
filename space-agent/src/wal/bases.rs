//! Bases: segments that the ground has committed and that others depend on.
//!
//! A base stays on board, beside the segments, as long as one of them depends on it, directly or through another base, or later
//! ones will. So each segment here can be decoded here: for direct exporters, and to be encoded again for a ground that does not
//! have its base, or does not read its codec.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use perigee_shared::link::Slot;
use perigee_shared::segment::{Base, Codec, CodecError, Header, Lane, SegmentId, hash, learn};
use perigee_shared::store::{StoreError, join};
use redb::{ReadableTable, WriteTransaction};

use super::state::{Edit, State};
use super::tables::*;
use super::{GroundView, Notes, SegmentRecord, Wal, WalError};

/// The longest chain of bases. A segment with so many below it is self-contained.
pub const LONGEST_CHAIN: usize = 8;

/// Bases that depend on one another, the self-contained one first.
#[derive(Debug, Clone, Default)]
pub struct Chain(Vec<(Header, Bytes)>);

impl Chain {
    /// How many there are.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What a segment knows that depends on the last of them. CPU-heavy.
    pub fn decode(&self) -> Result<Option<Base>, CodecError> {
        self.decode_on(None)
    }

    /// The same, if the first of them depends on `below`.
    pub(crate) fn decode_on(&self, below: Option<&Base>) -> Result<Option<Base>, CodecError> {
        let mut base = below.filter(|_| !self.is_empty()).cloned();
        for (header, payload) in &self.0 {
            base = learn(header, payload, base)?;
        }
        Ok(base)
    }
}

/// Which stations have which bases, as far as they were heard since the start.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    /// The station from which it was first heard that it has a base.
    from: BTreeMap<Place, String>,
    /// Whether a station did not have what another one has: they have ledgers of their own. Until that shows, what the log says.
    ledgers_differ: Option<bool>,
}

impl Heard {
    /// Notes whether `station` has `base`, which is current.
    fn note(&mut self, station: Option<&String>, base: Place, has: bool) {
        let elsewhere = self.from.get(&base).is_some_and(|from| Some(from) != station);
        if elsewhere {
            self.ledgers_differ = Some(!has);
        }
    }

    /// Stations that are connected at once have ledgers of their own.
    pub(super) const fn differ(&mut self) {
        self.ledgers_differ = Some(true);
    }
}

/// The latest base of this epoch in a lane.
fn current(state: &State, lane: Lane) -> Option<u64> {
    let mut bases = state.bases.range(lane_from(lane, 0)).rev();
    bases.find(|(_, header)| header.id.epoch == state.life.epoch).map(|(place, _)| place.sequence)
}

/// The oldest base of a lane that the ground must keep.
pub(super) fn oldest(state: &State, lane: Lane) -> Option<u64> {
    let mut bases = state.bases.range(lane_from(lane, 0));
    bases.find(|(_, header)| header.id.epoch == state.life.epoch).map(|(place, _)| place.sequence)
}

/// Keeps those of these segments that others may depend on; the ground has just said that it has them.
pub(super) fn keep(
    txn: &WriteTransaction,
    ids: impl Iterator<Item = SegmentId>,
) -> Result<Vec<Header>, StoreError> {
    let segments = txn.open_table(SEGMENTS)?;
    let mut kept = Vec::new();
    for id in ids {
        let Some(value) = segments.get(Place::of(id))? else { continue };
        let header = SegmentRecord::from_bytes(value.value())?.header;
        if header.is_base && header.id == id {
            kept.push(header);
        }
    }
    if kept.is_empty() {
        return Ok(kept);
    }
    let chunks = txn.open_table(CHUNKS)?;
    let (mut bases, mut base_chunks) = (txn.open_table(BASES)?, txn.open_table(BASE_CHUNKS)?);
    for header in &kept {
        let place = Place::of(header.id);
        bases.insert(place, header.to_bytes().as_slice())?;
        for piece in chunks.range(place.pieces())? {
            let (key, value) = piece?;
            base_chunks.insert(key.value(), value.value())?;
        }
    }
    raise_format(txn, BASES_FORMAT)?;
    Ok(kept)
}

/// What segments depend on.
pub struct Bases<'a>(pub(super) &'a mut Wal);

impl Bases<'_> {
    /// Notes which codecs the ground reads, of those that this software knows; also for the next start, which seals before a contact.
    pub fn ground_reads(&mut self, codecs: &[u32]) -> Result<(), WalError> {
        let known = Codec::ALL.map(|codec| codec as u32);
        let said: Vec<u8> = known.iter().filter(|codec| codecs.contains(codec)).map(|c| *c as u8).collect();
        if self.0.state().ground_reads.as_ref() == Some(&said) {
            return Ok(());
        }
        self.0.write(|txn, _| {
            txn.open_table(META)?.insert(META_GROUND_READS, said.as_slice())?;
            Ok(((), vec![Edit::GroundReads(said)]))
        })
    }

    /// `codec` if the ground reads it, else the best below it that it does. A ground that has not said what it reads is taken to
    /// read codec 2, and no later one: earlier software would have to ask for each segment again.
    pub fn codec_for_ground(&self, codec: Codec) -> Codec {
        let said = self.0.state().ground_reads.as_ref();
        let reads = |codec: Codec| said.map(|codecs| codecs.contains(&(codec as u8)));
        match codec {
            Codec::ZstdRows => codec,
            _ if codec > Codec::Columns && reads(codec) == Some(true) => codec,
            Codec::ColumnsText => self.codec_for_ground(Codec::ColumnsSteps),
            Codec::ColumnsSteps => self.codec_for_ground(Codec::ColumnsRecent),
            Codec::ColumnsRecent => self.codec_for_ground(Codec::ColumnsNear),
            Codec::ColumnsNear => self.codec_for_ground(Codec::ColumnsChains),
            Codec::ColumnsChains => self.codec_for_ground(Codec::ColumnsTokens),
            _ if reads(Codec::Columns) != Some(false) => Codec::Columns,
            _ => Codec::ZstdRows,
        }
    }

    /// The base that a segment of `lane` that is sealed now may depend on: the latest that the ground has of this epoch.
    pub fn current(&self, lane: Lane) -> Option<u64> {
        current(self.0.state(), lane)
    }

    /// Notes which station is greeted in `slot`: what is heard in it from now on is that station's.
    pub fn greets(&mut self, slot: Slot, station: &str) {
        self.0.notes.talks.greet(slot, station);
    }

    /// The base that a segment of `lane` that is sealed now should depend on: the current one, unless the station that was heard
    /// last does not have it. Where stations have ledgers of their own, the one that is connected must have it: whether the next one
    /// can read the segment is not known. It may be encoded again then, so nobody else must count its requests.
    pub fn to_depend_on(&self, lane: Lane) -> Option<u64> {
        let (talks, differ) = (&self.0.notes.talks, self.ledgers_differ());
        let link_only = self.0.state().consumers.len() == 1;
        let may = |base: Place| if differ { link_only && talks.have(base) } else { !talks.lack(base) };
        self.current(lane).filter(|sequence| may(Place { lane: lane.0, sequence: *sequence }))
    }

    fn ledgers_differ(&self) -> bool {
        self.0.notes.heard.ledgers_differ.unwrap_or(self.0.state().own_ledgers)
    }

    /// Whether the ground in `slot` may not be able to read this segment, as far as that is known: what it depends on is in another
    /// ledger.
    pub(super) fn are_elsewhere(&self, slot: Slot, header: &Header) -> bool {
        let Some(sequence) = header.base_sequence.filter(|_| self.ledgers_differ()) else { return false };
        !self.0.notes.talks.knows(slot, Place { lane: header.id.lane.0, sequence })
    }

    /// Notes which of the current bases the station in `slot` has, and which others it is known to have, by its Resume.
    pub(super) fn hear(&mut self, slot: Slot, view: &GroundView) {
        let state = self.0.state();
        let has = |lane: u8, sequence: u64| {
            view.lanes.iter().any(|of| of.lane.0 == lane && of.committed.contains(sequence))
        };
        let of_epoch = state.bases.iter().filter(|(_, header)| header.id.epoch == state.life.epoch);
        let known =
            of_epoch.map(|(place, _)| *place).filter(|place| has(place.lane, place.sequence)).collect();
        let lanes: Vec<Lane> = state.lanes.keys().copied().collect();
        self.0.notes.talks.of_mut(slot).has = known;
        for lane in lanes {
            let Some(sequence) = self.current(lane) else { continue };
            let has = has(lane.0, sequence);
            let (base, Notes { heard, talks, .. }) = (Place { lane: lane.0, sequence }, &mut self.0.notes);
            let talk = talks.of_mut(slot);
            heard.note(talk.station.as_ref(), base, has);
            if has {
                talk.lacking.remove(&base);
            } else {
                talk.lacking.insert(base);
            }
        }
    }

    /// Notes that the station in `slot` has these bases, which were just kept.
    pub(super) fn heard(&mut self, slot: Slot, kept: &[Place]) {
        let Notes { heard, talks, .. } = &mut self.0.notes;
        let talk = talks.of_mut(slot);
        talk.has.extend(kept);
        if let Some(station) = &talk.station {
            heard.from.extend(kept.iter().map(|place| (*place, station.clone())));
        }
    }

    /// The base `sequence` of `lane` and those below it; none for `None`.
    pub fn chain(&mut self, lane: Lane, sequence: Option<u64>) -> Result<Chain, WalError> {
        Ok(self.chain_down_to(lane, sequence, None)?.0)
    }

    /// The same without the base `known` and those below it, and whether the first of what is left depends on that one.
    pub(crate) fn chain_down_to(
        &mut self,
        lane: Lane,
        sequence: Option<u64>,
        known: Option<u64>,
    ) -> Result<(Chain, bool), WalError> {
        self.0.read(|txn, state| {
            let mut chain = Vec::new();
            let mut next = sequence;
            while let Some(sequence) = next.filter(|n| Some(*n) != known) {
                let place = Place { lane: lane.0, sequence };
                let header = state.bases.get(&place).cloned().ok_or(WalError::MissingBase(sequence))?;
                next = header.base_sequence.filter(|below| *below < sequence);
                let payload =
                    join(txn.open_table(BASE_CHUNKS)?.range(place.pieces())?, header.payload_len as usize)?;
                if hash(&payload) != header.hash {
                    return Err(StoreError::Damaged(format!("base {sequence} of lane {}", lane.0)).into());
                }
                chain.push((header, Bytes::from(payload)));
            }
            chain.reverse();
            Ok((Chain(chain), next.is_some()))
        })
    }

    /// Deletes the bases that nothing needs any more. The oldest that is left of each lane is what Hello names.
    pub(super) fn forget(&mut self) -> Result<(), WalError> {
        if self.0.state().bases.is_empty() {
            return Ok(());
        }
        let gone = self.0.read(|txn, state| {
            let needed = needed(state, &txn.open_table(SEGMENTS)?)?;
            Ok(state.bases.keys().filter(|k| !needed.contains(k)).copied().collect::<Vec<_>>())
        })?;
        if gone.is_empty() {
            return Ok(());
        }
        self.0.write(|txn, _| {
            let (mut bases, mut chunks) = (txn.open_table(BASES)?, txn.open_table(BASE_CHUNKS)?);
            for place in &gone {
                bases.remove(*place)?;
                chunks.retain_in(place.pieces(), |_, _| false)?;
            }
            Ok(((), gone.iter().copied().map(Edit::BaseForgotten).collect()))
        })?;
        let heard = &mut self.0.notes.heard;
        heard.from.retain(|place, _| !gone.contains(place));
        self.0.notes.talks.forget_bases(&gone);
        Ok(())
    }
}

/// The bases that are needed: the current ones, those that a segment on board depends on, and all below them.
fn needed(
    state: &State,
    segments: &impl ReadableTable<Place, &'static [u8]>,
) -> Result<BTreeSet<Place>, StoreError> {
    let place = |lane: u8, sequence: u64| Place { lane, sequence };
    let mut open: Vec<Place> =
        state.lanes.keys().filter_map(|lane| Some(place(lane.0, current(state, *lane)?))).collect();
    for entry in segments.iter()? {
        let header = SegmentRecord::from_bytes(entry?.1.value())?.header;
        open.extend(header.base_sequence.map(|base| place(header.id.lane.0, base)));
    }
    let mut needed = BTreeSet::new();
    while let Some(next) = open.pop() {
        if let Some(header) = state.bases.get(&next)
            && needed.insert(next)
        {
            open.extend(header.base_sequence.map(|base| place(next.lane, base)));
        }
    }
    Ok(needed)
}
