//! Bases: segments that the ground has committed and that others lean on.
//!
//! A base stays on board, beside the segments, as long as one of them leans on it, directly or through another base, or later
//! ones will. So each segment here can be decoded here: for direct exporters, and to be encoded anew for a ground that does not
//! have its base, or does not read its codec.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use perigee_shared::segment::{Base, Codec, CodecError, Header, Lane, SegmentId, learn};
use redb::{ReadableDatabase, ReadableTable};

use super::tables::{BASE_CHUNKS, BASES, CHUNKS, FORMAT, META, SEGMENTS};
use super::{GroundView, SegmentRecord, Wal, WalError, state::META_FORMAT};

/// Bases that lean on one another. A segment with so many below it leans on nothing.
pub const LONGEST_CHAIN: usize = 8;

/// Bases that lean on one another, the one that leans on nothing first.
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

    /// What a segment knows that leans on the last of them. CPU-heavy.
    pub fn decode(&self) -> Result<Option<Base>, CodecError> {
        self.decode_on(None)
    }

    /// The same, if the first of them leans on `below`.
    pub(crate) fn decode_on(&self, below: Option<&Base>) -> Result<Option<Base>, CodecError> {
        let mut base = below.filter(|_| !self.is_empty()).cloned();
        for (header, payload) in &self.0 {
            base = learn(header, payload, base)?;
        }
        Ok(base)
    }
}

/// A base's lane and sequence.
type Key = (u8, u64);

/// Which stations have which bases, as far as they were heard since the start.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    /// The station that was greeted last.
    station: Option<String>,
    /// The station from which it was first heard that it has a base.
    from: BTreeMap<Key, String>,
    /// Current bases that the station that was heard last does not have.
    lacking: BTreeSet<Key>,
    /// A station did not have what another one has: they have ledgers of their own.
    ledgers_differ: bool,
}

impl Heard {
    /// Notes whether the station has `base`, which is current.
    fn note(&mut self, base: Key, has: bool) {
        let elsewhere = self.from.get(&base).is_some_and(|from| Some(from) != self.station.as_ref());
        if elsewhere {
            self.ledgers_differ = !has;
        }
        if has {
            self.lacking.remove(&base);
        } else {
            self.lacking.insert(base);
        }
    }
}

impl Wal {
    /// Notes which codecs the ground reads.
    pub fn ground_reads(&mut self, codecs: Vec<u32>) {
        self.state.ground_reads = Some(codecs);
    }

    /// `codec` if the ground has not said that it does not read it, else the one that every ground reads.
    pub fn codec_for_ground(&self, codec: Codec) -> Codec {
        let reads = |codecs: &Vec<u32>| codecs.contains(&(codec as u32));
        if self.state.ground_reads.as_ref().is_none_or(reads) { codec } else { Codec::ZstdRows }
    }

    /// The base that a segment of `lane` that is sealed now may lean on: the latest that the ground has of this epoch.
    pub fn current_base(&self, lane: Lane) -> Option<u64> {
        let bases = self.state.bases.range((lane.0, 0)..=(lane.0, u64::MAX));
        let current = bases.rev().find(|(_, header)| header.id.epoch == self.state.life.epoch);
        current.map(|((_, sequence), _)| *sequence)
    }

    /// Notes which station is greeted: what is heard from now on is its.
    pub fn greets(&mut self, station: &str) {
        self.state.heard.station = Some(station.to_owned());
    }

    /// The base that a segment of `lane` that is sealed now should lean on: the current one, unless the station that was heard
    /// last does not have it, or stations have ledgers of their own. Then the next one could not read the segment.
    pub fn base_to_lean_on(&self, lane: Lane) -> Option<u64> {
        let heard = &self.state.heard;
        self.current_base(lane)
            .filter(|sequence| !heard.ledgers_differ && !heard.lacking.contains(&(lane.0, *sequence)))
    }

    /// Notes which of the current bases the station has, by its Resume.
    pub(super) fn hear_of_bases(&mut self, view: &GroundView) {
        let lanes: Vec<Lane> = self.state.lanes.keys().copied().collect();
        for lane in lanes {
            let Some(sequence) = self.current_base(lane) else { continue };
            let of = view.lanes.iter().find(|l| l.lane == lane);
            let has = of.is_some_and(|l| l.committed.contains(sequence));
            self.state.heard.note((lane.0, sequence), has);
        }
    }

    /// The base `sequence` of `lane` and those below it; none for `None`.
    pub fn chain(&mut self, lane: Lane, sequence: Option<u64>) -> Result<Chain, WalError> {
        Ok(self.chain_down_to(lane, sequence, None)?.0)
    }

    /// The same without the base `known` and those below it, and whether the first of what is left leans on that one.
    pub(crate) fn chain_down_to(
        &mut self,
        lane: Lane,
        sequence: Option<u64>,
        known: Option<u64>,
    ) -> Result<(Chain, bool), WalError> {
        let mut chain = Vec::new();
        let mut next = sequence;
        while let Some(sequence) = next.filter(|n| Some(*n) != known) {
            let header = self.state.bases.get(&(lane.0, sequence)).cloned();
            let header = header.ok_or(WalError::Damaged("a base that a segment leans on is not there"))?;
            next = header.base_sequence.filter(|below| *below < sequence);
            let txn = self.db()?.begin_read()?;
            let mut payload = Vec::new();
            let range = (lane.0, sequence, 0)..=(lane.0, sequence, u32::MAX);
            for piece in txn.open_table(BASE_CHUNKS)?.range(range)? {
                payload.extend_from_slice(piece?.1.value());
            }
            chain.push((header, Bytes::from(payload)));
        }
        chain.reverse();
        Ok((Chain(chain), next.is_some()))
    }

    /// Keeps those of these segments that others may lean on; the ground has just said that it has them.
    pub(super) fn keep_bases(&mut self, ids: impl Iterator<Item = SegmentId>) -> Result<(), WalError> {
        let txn = self.db()?.begin_read()?;
        let segments = txn.open_table(SEGMENTS)?;
        let mut kept = Vec::new();
        for id in ids {
            let Some(value) = segments.get((id.lane.0, id.sequence))? else { continue };
            let header = SegmentRecord::from_bytes(value.value())?.header;
            if header.is_base {
                kept.push(header);
            }
        }
        drop((segments, txn));
        if kept.is_empty() {
            return Ok(());
        }
        self.write(|txn| {
            let chunks = txn.open_table(CHUNKS)?;
            let (mut bases, mut base_chunks) = (txn.open_table(BASES)?, txn.open_table(BASE_CHUNKS)?);
            for header in &kept {
                let SegmentId { lane, sequence, .. } = header.id;
                bases.insert((lane.0, sequence), header.to_bytes().as_slice())?;
                for piece in chunks.range((lane.0, sequence, 0)..=(lane.0, sequence, u32::MAX))? {
                    let (key, value) = piece?;
                    base_chunks.insert(key.value(), value.value())?;
                }
            }
            txn.open_table(META)?.insert(META_FORMAT, &FORMAT.to_le_bytes()[..])?;
            Ok(())
        })?;
        for header in kept {
            if let Some(station) = self.state.heard.station.clone() {
                self.state.heard.from.insert((header.id.lane.0, header.id.sequence), station);
            }
            self.state.keep_base(header);
        }
        Ok(())
    }

    /// The bases that are needed: the current ones, those that a segment on board leans on, and all below them.
    fn needed_bases(&mut self) -> Result<BTreeSet<(u8, u64)>, WalError> {
        let lanes: Vec<Lane> = self.state.lanes.keys().copied().collect();
        let mut open: Vec<(u8, u64)> =
            lanes.into_iter().filter_map(|lane| Some((lane.0, self.current_base(lane)?))).collect();
        let txn = self.db()?.begin_read()?;
        for entry in txn.open_table(SEGMENTS)?.range::<(u8, u64)>(..)? {
            let header = SegmentRecord::from_bytes(entry?.1.value())?.header;
            open.extend(header.base_sequence.map(|base| (header.id.lane.0, base)));
        }
        drop(txn);
        let mut needed = BTreeSet::new();
        while let Some(key) = open.pop() {
            if let Some(header) = self.state.bases.get(&key)
                && needed.insert(key)
            {
                open.extend(header.base_sequence.map(|base| (key.0, base)));
            }
        }
        Ok(needed)
    }

    /// Deletes the bases that nothing needs any more. The oldest that is left of each lane is what Hello names.
    pub(super) fn forget_bases(&mut self) -> Result<(), WalError> {
        if self.state.bases.is_empty() {
            return Ok(());
        }
        let needed = self.needed_bases()?;
        let gone: Vec<(u8, u64)> = self.state.bases.keys().filter(|k| !needed.contains(k)).copied().collect();
        if gone.is_empty() {
            return Ok(());
        }
        self.write(|txn| {
            let (mut bases, mut chunks) = (txn.open_table(BASES)?, txn.open_table(BASE_CHUNKS)?);
            for (lane, sequence) in &gone {
                bases.remove((*lane, *sequence))?;
                chunks.retain_in((*lane, *sequence, 0)..=(*lane, *sequence, u32::MAX), |_, _| false)?;
            }
            Ok(())
        })?;
        for key in gone {
            self.state.forget_base(key);
            self.state.heard.from.remove(&key);
            self.state.heard.lacking.remove(&key);
        }
        Ok(())
    }

    /// The oldest base of a lane that the ground must keep.
    pub(super) fn oldest_base(&self, lane: Lane) -> Option<u64> {
        let epoch = self.state.life.epoch;
        let mut bases = self.state.bases.range((lane.0, 0)..=(lane.0, u64::MAX));
        bases.find(|(_, header)| header.id.epoch == epoch).map(|((_, sequence), _)| *sequence)
    }
}
