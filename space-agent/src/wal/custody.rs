//! Custody: who has still to pass a segment, and when it is deleted.

use std::collections::BTreeMap;

use bytes::Bytes;
use perigee_proto::link::DropReason;
use perigee_shared::link::{Slot, reason_name};
use perigee_shared::segment::{Header, Lane, SegmentId, hash};
use perigee_shared::signal::{Counts, Signal, SignalSet};
use perigee_shared::store::{StoreError, join};
use redb::{ReadableTable, WriteTransaction};

use super::had::Takers;
use super::state::{Edit, State};
use super::tables::*;
use super::tally::Tally;
use super::{SegmentRecord, Wal, WalError, bases, drops, had};

/// One bit of a u64 each.
const MAX_CONSUMERS: u8 = 64;

/// A consumer's number in this log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerId(pub(super) u8);

impl ConsumerId {
    /// The key of what is noted of it and a segment.
    pub(super) const fn of(self, id: SegmentId) -> RefusedKey {
        RefusedKey { lane: id.lane.0, sequence: id.sequence, consumer: self.0 }
    }

    /// Its bit among those that wait.
    pub(super) const fn bit(self) -> u64 {
        1 << self.0
    }
}

/// How a consumer is done with a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// The segment.
    pub id: SegmentId,
    /// Items that the backend has refused for good, beyond those that [`Custody::advance`] was told of.
    pub refused: Counts,
}

impl Delivery {
    /// All of a segment was taken.
    pub const fn whole(id: SegmentId) -> Self {
        Self { id, refused: Counts::ZERO }
    }
}

/// Who has still to pass what.
pub struct Custody<'a>(pub(super) &'a mut Wal);

impl Custody<'_> {
    /// The number of the consumer called `name`.
    pub fn consumer(&self, name: &str) -> Option<ConsumerId> {
        self.0.state().consumers.get(name).copied().map(ConsumerId)
    }

    /// Every consumer that the log knows.
    pub fn known(&self) -> Vec<String> {
        self.0.state().consumers.keys().cloned().collect()
    }

    /// Consumers that the log knows and the configuration does not: they hold segments until they are released.
    pub fn abandoned(&self) -> Vec<String> {
        let configured = &self.0.config().consumers;
        self.0.state().consumers.keys().filter(|n| !configured.contains_key(*n)).cloned().collect()
    }

    /// Gives each consumer of the configuration a number.
    pub(super) fn register_consumers(&mut self) -> Result<(), WalError> {
        let mut consumers = self.0.state().consumers.clone();
        for name in self.0.config().consumers.keys() {
            if !consumers.contains_key(name) {
                let free = (0..MAX_CONSUMERS).find(|id| !consumers.values().any(|used| used == id));
                consumers.insert(name.clone(), free.ok_or(WalError::Consumers)?);
            }
        }
        if consumers == self.0.state().consumers {
            return Ok(());
        }
        self.0.write(|txn, _| {
            let mut table = txn.open_table(CONSUMERS)?;
            for (name, id) in &consumers {
                table.insert(name.as_str(), *id)?;
            }
            Ok(((), vec![Edit::Consumers(consumers)]))
        })
    }

    /// The consumers whose pipelines use one of `signals`.
    pub(super) fn waiting_for(&self, signals: SignalSet) -> u64 {
        waiting_for(self.0.state(), &self.0.config().consumers, signals)
    }

    /// Up to `most` segments of `lane` from `sequence` on that `consumer` has not passed.
    pub fn waiting(
        &mut self,
        consumer: ConsumerId,
        lane: Lane,
        sequence: u64,
        most: usize,
    ) -> Result<Vec<Header>, WalError> {
        self.0.read(|txn, _| {
            let mut out = Vec::new();
            for entry in txn.open_table(SEGMENTS)?.range(lane_from(lane, sequence))? {
                if out.len() >= most {
                    break;
                }
                let record = SegmentRecord::from_bytes(entry?.1.value())?;
                if record.waiting & consumer.bit() != 0 {
                    out.push(record.header);
                }
            }
            Ok(out)
        })
    }

    /// Up to `most` segments, each with the names of those that have still to pass it.
    pub fn segments(&mut self, most: usize) -> Result<Vec<(SegmentRecord, Vec<String>)>, WalError> {
        self.0.read(|txn, state| {
            let mut out = Vec::new();
            for entry in txn.open_table(SEGMENTS)?.iter()?.take(most) {
                let record = SegmentRecord::from_bytes(entry?.1.value())?;
                let waits = |id: u8| record.waiting & (1 << id) != 0;
                let waiting =
                    state.consumers.iter().filter(|(_, id)| waits(**id)).map(|(n, _)| n.clone()).collect();
                out.push((record, waiting));
            }
            Ok(out)
        })
    }

    /// The lanes that have segments on board, most urgent first.
    pub fn lanes(&self) -> Vec<Lane> {
        self.0.state().lanes.iter().filter(|(_, l)| !l.on_board.is_empty()).map(|(lane, _)| *lane).collect()
    }

    /// The segments of a lane that are on board, in their order.
    pub fn ids_on_board(&self, lane: Lane) -> Vec<SegmentId> {
        let state = self.0.state();
        let sequences = state.lanes.get(&lane).map(|l| l.on_board.iter().flatten()).into_iter().flatten();
        sequences.map(|sequence| SegmentId { epoch: state.life.epoch, lane, sequence }).collect()
    }

    /// The record of a segment, if it is on board.
    pub fn record(&mut self, id: SegmentId) -> Result<Option<SegmentRecord>, WalError> {
        self.0.read(|txn, _| {
            let found = txn.open_table(SEGMENTS)?.get(Place::of(id))?;
            let record = found.map(|value| SegmentRecord::from_bytes(value.value())).transpose()?;
            Ok(record.filter(|r| r.header.id == id))
        })
    }

    /// The payload of a segment that is on board. Bytes that do not have the header's hash are not handed out: the segment is dropped,
    /// counted as corruption.
    pub fn payload(&mut self, header: &Header) -> Result<Option<Bytes>, WalError> {
        let place = Place::of(header.id);
        let payload = self.0.read(|txn, _| {
            if txn.open_table(SEGMENTS)?.get(place)?.is_none() {
                return Ok(None);
            }
            Ok(Some(join(txn.open_table(CHUNKS)?.range(place.pieces())?, header.payload_len as usize)?))
        })?;
        let Some(payload) = payload else { return Ok(None) };
        if hash(&payload) == header.hash {
            return Ok(Some(payload.into()));
        }
        // It may have been encoded again since the header was read.
        let Some(now) = self.record(header.id)?.map(|r| r.header) else { return Ok(None) };
        if now.hash == header.hash {
            tracing::error!(event.name = "perigee.wal.corruption", segment = %header.id, "a payload is damaged; the segment is dropped");
            self.drop_segments(vec![now], DropReason::Corruption)?;
        }
        Ok(None)
    }

    /// Checks the payload of a segment; a damaged one is dropped. Whether it is whole, or gone.
    pub fn verify(&mut self, id: SegmentId) -> Result<bool, WalError> {
        let Some(record) = self.record(id)? else { return Ok(true) };
        Ok(self.payload(&record.header)?.is_some())
    }

    /// Notes that a segment is about to be on a wire, to the station in `slot`.
    pub fn mark_sent(&mut self, slot: Slot, id: SegmentId) {
        if let Some(unsent) = self.0.notes.unsent.get_mut(&id.lane) {
            unsent.remove(id.sequence..id.sequence + 1);
        }
        let to = self.0.notes.talks.of(slot).to;
        self.0.notes.sent.note(&to, id);
    }

    /// Whether a segment may have been on a wire.
    pub fn was_sent(&self, id: SegmentId) -> bool {
        !self.0.notes.unsent.get(&id.lane).is_some_and(|l| l.contains(id.sequence))
    }

    /// Moves the cursor of `consumer`, or that of one signal ahead of it, behind so many requests of a segment. Of the last one's items
    /// its backend has `taken` some and refused others for good. Whether the rest is wanted: the segment may have been dropped.
    pub fn advance(
        &mut self,
        consumer: ConsumerId,
        id: SegmentId,
        ahead: Option<Signal>,
        requests: u64,
        (taken, refused): (Counts, Counts),
    ) -> Result<bool, WalError> {
        if !self.is_on_board(id) {
            return self.late(consumer, id, |_| (taken, refused));
        }
        self.0.write(|txn, _| {
            let key = CursorKey { consumer: consumer.0, lane: id.lane.0 };
            let cursor = Cursor { sequence: id.sequence, requests };
            let before = match ahead {
                None => txn.open_table(CURSORS)?.insert(key, cursor)?.map(|c| c.value()),
                Some(signal) => txn.open_table(AHEAD)?.insert(key.of(signal), cursor)?.map(|c| c.value()),
            };
            // A transaction that failed may be there after all; its caller repeats it.
            if before != Some(cursor) {
                had::note(txn, REFUSED, consumer.of(id), refused)?;
                had::note(txn, TAKEN, consumer.of(id), taken)?;
            }
            Ok((true, Vec::new()))
        })
    }

    fn is_on_board(&self, id: SegmentId) -> bool {
        self.0.state().lanes.get(&id.lane).is_some_and(|lane| lane.on_board.contains(id.sequence))
    }

    /// Notes that `consumer` is done with these segments, and deletes those that nobody waits for any more. Returns how many
    /// were deleted.
    pub fn pass(&mut self, consumer: ConsumerId, deliveries: &[Delivery]) -> Result<u64, WalError> {
        if deliveries.is_empty() {
            return Ok(0);
        }
        let takers = had::takers(&self.0.state().consumers, self.0.config());
        for Delivery { id, refused } in deliveries {
            if !self.is_on_board(*id) {
                self.late(consumer, *id, |left| (left.saturating_sub(*refused), *refused))?;
            }
        }
        self.0.write(|txn, state| {
            let mut passing = Passing::new(txn, state, &takers);
            for delivery in deliveries {
                passing.one(consumer, delivery)?;
            }
            passing.finish()
        })
    }

    /// Takes a consumer out for good: it holds nothing any more.
    pub fn release(&mut self, name: &str) -> Result<u64, WalError> {
        let Some(consumer) = self.consumer(name) else { return Ok(0) };
        let mut deliveries = Vec::new();
        for lane in self.lanes() {
            deliveries.extend(
                self.waiting(consumer, lane, 0, usize::MAX)?.into_iter().map(|h| Delivery::whole(h.id)),
            );
        }
        let removed = self.pass(consumer, &deliveries)?;
        self.0.write(|txn, state| {
            txn.open_table(CONSUMERS)?.remove(name)?;
            txn.open_table(CURSORS)?.retain(|key, _| key.consumer != consumer.0)?;
            txn.open_table(AHEAD)?.retain(|key, _| key.consumer != consumer.0)?;
            txn.open_table(REFUSED)?.retain(|key, _| key.consumer != consumer.0)?;
            txn.open_table(TAKEN)?.retain(|key, _| key.consumer != consumer.0)?;
            let mut consumers = state.consumers.clone();
            consumers.remove(name);
            Ok(((), vec![Edit::Consumers(consumers)]))
        })?;
        Ok(removed)
    }

    /// Makes room by dropping the oldest segments, least urgent lanes first.
    pub(super) fn drop_oldest(&mut self) -> Result<(), WalError> {
        let budget = self.0.config().max_bytes;
        let keep = budget - budget / 16;
        let lanes = self.lanes();
        let victims = self.0.read(|txn, state| {
            let mut stored = state.stored();
            let mut victims = Vec::new();
            let segments = txn.open_table(SEGMENTS)?;
            for lane in lanes.into_iter().rev() {
                for entry in segments.range(lane_from(lane, 0))? {
                    if stored <= keep {
                        return Ok(victims);
                    }
                    let header = SegmentRecord::from_bytes(entry?.1.value())?.header;
                    stored -= header.payload_len;
                    victims.push(header);
                }
            }
            Ok(victims)
        })?;
        if victims.is_empty() {
            return Err(WalError::Full { budget });
        }
        self.drop_segments(victims, DropReason::QuotaOldest)
    }

    /// Drops segments by rule: they are counted, reported, and gone. What one consumer has is not dropped; who misses it is counted.
    pub fn drop_segments(&mut self, victims: Vec<Header>, reason: DropReason) -> Result<(), WalError> {
        let now = self.0.env().unix_nano();
        let sent: Vec<bool> = victims.iter().map(|h| self.was_sent(h.id)).collect();
        let count = victims.len();
        let takers = had::takers(&self.0.state().consumers, self.0.config());
        let (hands, since) = (std::mem::take(&mut self.0.notes.hands), self.0.env().since_boot().nano);
        let mut gone = Vec::new();
        let missed = self.0.write(|txn, state| {
            let mut tally = state.tally.clone();
            let mut missed: BTreeMap<u8, Counts> = BTreeMap::new();
            for (header, sent) in victims.iter().zip(sent) {
                let (had, missing) = match read_record(txn, header.id)? {
                    Some(record) => had::written(txn)?.had(&record, &takers)?,
                    None => (Counts::ZERO, Vec::new()),
                };
                missing.iter().for_each(|of| *missed.entry(of.consumer.0).or_default() += of.missed);
                remove_segment(txn, header.id)?;
                let lost = header.items.saturating_sub(had);
                tally.delivered += header.items.saturating_sub(lost);
                if lost.total() > 0 || header.items.total() == 0 {
                    let drop = drops::of_segment(header, lost, reason, now);
                    drops::record(txn, &mut tally, state.life.epoch, drop, sent)?;
                }
                let drop = (lost.total() > 0).then(|| tally.next_drop - 1);
                gone.extend(hands.gone(header.id, drop, had, &missing, since));
            }
            tally.store(txn)?;
            let missed = had::note_missed(txn, state, &missed)?;
            let removed = victims.into_iter().map(Edit::Removed);
            let edits = [Edit::Tally(tally), Edit::Missed(missed.clone())];
            Ok((missed, edits.into_iter().chain(removed).collect()))
        });
        self.0.notes.hands = hands;
        let missed = missed?;
        self.0.notes.hands.dropped(gone);
        let missed: Vec<&str> = missed.iter().map(|(name, _)| name.as_str()).collect();
        let missed = missed.join(", ");
        tracing::warn!(segments = count, reason = reason_name(reason), missed, "dropped segments");
        Ok(())
    }
}

fn waiting_for(state: &State, configured: &BTreeMap<String, SignalSet>, signals: SignalSet) -> u64 {
    let bit = |name: &String| state.consumers.get(name).map_or(0, |id| 1u64 << id);
    configured.iter().filter(|(_, s)| s.intersects(signals)).map(|(name, _)| bit(name)).sum()
}

/// The record of a segment that is on board.
pub(super) fn read_record(
    txn: &WriteTransaction,
    id: SegmentId,
) -> Result<Option<SegmentRecord>, StoreError> {
    let segments = txn.open_table(SEGMENTS)?;
    let found = segments.get(Place::of(id))?.map(|v| SegmentRecord::from_bytes(v.value())).transpose()?;
    Ok(found.filter(|record| record.header.id == id))
}

/// Segments that are passed in one transaction.
pub(super) struct Passing<'a> {
    txn: &'a WriteTransaction,
    takers: &'a Takers,
    pub(super) tally: Tally,
    edits: Vec<Edit>,
    removed: u64,
}

impl<'a> Passing<'a> {
    pub(super) fn new(txn: &'a WriteTransaction, state: &State, takers: &'a Takers) -> Self {
        Self { txn, takers, tally: state.tally.clone(), edits: Vec::new(), removed: 0 }
    }

    /// Notes that `consumer` is done with a segment.
    pub(super) fn one(&mut self, consumer: ConsumerId, delivery: &Delivery) -> Result<(), StoreError> {
        let place = Place::of(delivery.id);
        let mut segments = self.txn.open_table(SEGMENTS)?;
        let found = segments.get(place)?.map(|v| SegmentRecord::from_bytes(v.value())).transpose()?;
        let Some(mut record) = found.filter(|r| r.header.id == delivery.id) else { return Ok(()) };
        if record.waiting & consumer.bit() != 0 {
            had::note(self.txn, REFUSED, consumer.of(delivery.id), delivery.refused)?;
        }
        record.waiting &= !consumer.bit();
        if record.waiting != 0 {
            segments.insert(place, record.to_bytes().as_slice())?;
            drop(segments);
            let delivered = had::written(self.txn)?.delivered(&record, self.takers)?;
            self.edits.push(Edit::Delivered(place, delivered));
            return Ok(());
        }
        drop(segments);
        let dropped = self.refused_by_all(&record)?;
        remove_segment(self.txn, delivery.id)?;
        self.tally.delivered += record.header.items.saturating_sub(dropped);
        if dropped.total() > 0 {
            self.tally.drop(DropReason::BackendRefused, dropped);
        }
        self.removed += 1;
        self.edits.push(Edit::Removed(record.header));
        Ok(())
    }

    /// Items that no consumer has delivered: of those whose pipelines use a signal, the one that refused least tells.
    fn refused_by_all(&self, record: &SegmentRecord) -> Result<Counts, StoreError> {
        let table = self.txn.open_table(REFUSED)?;
        let id = record.header.id;
        let mut out = Counts::ZERO;
        for signal in record.header.items.signals().iter() {
            let mut least: Option<u64> = None;
            let took = |of: &ConsumerId| record.takers.is_none_or(|takers| takers & of.bit() != 0);
            let consumers = self.takers.iter().filter(|(of, s)| s.contains(signal) && took(of));
            let consumers: Vec<ConsumerId> = consumers.map(|(of, _)| *of).collect();
            let alone = consumers.len() == 1;
            for consumer in consumers {
                let refused = had::counts(Some(&table), consumer.of(id))?;
                // Software before this noted it in the record, whoever it was.
                let refused = refused[signal] + if alone { record.refused[signal] } else { 0 };
                least = Some(least.map_or(refused, |l| l.min(refused)));
            }
            out += Counts::of(signal, least.unwrap_or(0).min(record.header.items[signal]));
        }
        Ok(out)
    }

    /// Segments that a ground has under other names: nobody has them as bases under these.
    pub(super) fn proven(&mut self, consumer: ConsumerId, ids: &[SegmentId]) -> Result<Vec<Edit>, WalError> {
        let kept = bases::keep(self.txn, ids.iter().copied())?;
        ids.iter().try_for_each(|id| self.one(consumer, &Delivery::whole(*id)))?;
        Ok(kept.into_iter().map(Edit::BaseKept).collect())
    }

    /// Writes the counters; how many segments were deleted, and what that changes in memory.
    pub(super) fn finish(self) -> Result<(u64, Vec<Edit>), WalError> {
        self.tally.store(self.txn)?;
        Ok((self.removed, std::iter::once(Edit::Tally(self.tally)).chain(self.edits).collect()))
    }
}

/// Deletes a segment with its payload and what was noted of it.
pub(super) fn remove_segment(txn: &WriteTransaction, id: SegmentId) -> Result<(), StoreError> {
    let place = Place::of(id);
    txn.open_table(SEGMENTS)?.remove(place)?;
    txn.open_table(CHUNKS)?.retain_in(place.pieces(), |_, _| false)?;
    let SegmentId { lane, sequence, .. } = id;
    let key = |consumer| RefusedKey { lane: lane.0, sequence, consumer };
    txn.open_table(REFUSED)?.retain_in(key(0)..=key(u8::MAX), |_, _| false)?;
    txn.open_table(TAKEN)?.retain_in(key(0)..=key(u8::MAX), |_, _| false)?;
    Ok(())
}
