//! Custody: who has still to pass a segment, when it is deleted, and what is dropped instead.

use bytes::Bytes;
use perigee_proto::link::{self, DropReason};
use perigee_shared::segment::{Header, Lane, SegmentId};
use perigee_shared::signal::{Counts, SignalSet, TimeRange};
use prost::Message;
use redb::{ReadableDatabase, ReadableTable, WriteTransaction};

use super::group::Accepted;
use super::state::{ACCEPTED, DELIVERED, META_NEXT_DROP, META_NEXT_GROUP, State};
use super::tables::{CHUNKS, CONSUMERS, COUNTERS, CURSORS, DROPS, JOURNAL, META, SEGMENTS};
use super::{SegmentRecord, Wal, WalError};

/// One bit of a u64 each.
pub(super) const MAX_CONSUMERS: u8 = 64;

/// A consumer's number in this log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerId(pub(super) u8);

/// How a consumer is done with a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// The segment.
    pub id: SegmentId,
    /// Items that the backend has refused for good, beyond those that [`Wal::advance`] was told of.
    pub refused: Counts,
}

/// What one transaction changes in the state.
#[derive(Default)]
struct Changes {
    removed: Vec<Header>,
    delivered: Counts,
    dropped: Vec<(DropReason, Counts)>,
    drops: u64,
    last_drop_unsent: Option<bool>,
}

impl Wal {
    /// The number of the consumer called `name`.
    pub fn consumer(&self, name: &str) -> Option<ConsumerId> {
        self.state.consumers.get(name).copied().map(ConsumerId)
    }

    /// Every consumer that the log knows.
    pub fn known_consumers(&self) -> Vec<String> {
        self.state.consumers.keys().cloned().collect()
    }

    /// Consumers that the log knows and the configuration does not: they hold segments until they are released.
    pub fn abandoned(&self) -> Vec<String> {
        self.state.consumers.keys().filter(|n| !self.config.consumers.contains_key(*n)).cloned().collect()
    }

    pub(super) fn waiting_for(&self, signals: SignalSet) -> u64 {
        let bit = |name: &String| self.state.consumers.get(name).map_or(0, |id| 1u64 << id);
        self.config.consumers.iter().filter(|(_, s)| s.intersects(signals)).map(|(name, _)| bit(name)).sum()
    }

    /// Up to `most` segments of `lane` from `sequence` on that `consumer` has not passed.
    pub fn waiting(
        &mut self,
        consumer: ConsumerId,
        lane: Lane,
        sequence: u64,
        most: usize,
    ) -> Result<Vec<Header>, WalError> {
        let txn = self.db()?.begin_read()?;
        let segments = txn.open_table(SEGMENTS)?;
        let mut out = Vec::new();
        for entry in segments.range((lane.0, sequence)..=(lane.0, u64::MAX))? {
            let record = SegmentRecord::from_bytes(entry?.1.value())?;
            if record.waiting & (1 << consumer.0) != 0 {
                out.push(record.header);
                if out.len() >= most {
                    break;
                }
            }
        }
        Ok(out)
    }

    /// The first segment of `lane` from `sequence` on that `consumer` has not passed, and from where on to look the next time: what
    /// was passed stays so.
    pub fn first_waiting(
        &mut self,
        consumer: ConsumerId,
        lane: Lane,
        sequence: u64,
    ) -> Result<(Option<Header>, u64), WalError> {
        let found = self.waiting(consumer, lane, sequence, 1)?.pop();
        let end = self.state.lanes.get(&lane).map_or(0, |l| l.next_sequence);
        let next = found.as_ref().map_or(end, |header| header.id.sequence);
        Ok((found, next))
    }

    /// Up to `most` segments, each with the names of those that have still to pass it.
    pub fn segments(&mut self, most: usize) -> Result<Vec<(SegmentRecord, Vec<String>)>, WalError> {
        let names: Vec<(String, u8)> = self.state.consumers.iter().map(|(n, id)| (n.clone(), *id)).collect();
        let txn = self.db()?.begin_read()?;
        let mut out = Vec::new();
        for entry in txn.open_table(SEGMENTS)?.iter()?.take(most) {
            let record = SegmentRecord::from_bytes(entry?.1.value())?;
            let waits = |id: u8| record.waiting & (1 << id) != 0;
            let waiting = names.iter().filter(|(_, id)| waits(*id)).map(|(n, _)| n.clone()).collect();
            out.push((record, waiting));
        }
        Ok(out)
    }

    /// The lanes that have segments on board, most urgent first.
    pub fn lanes(&self) -> Vec<Lane> {
        self.state.lanes.iter().filter(|(_, l)| !l.on_board.is_empty()).map(|(lane, _)| *lane).collect()
    }

    /// The segments of a lane that are on board, in their order.
    pub fn ids_on_board(&self, lane: Lane) -> Vec<SegmentId> {
        let epoch = self.state.life.epoch;
        let sequences =
            self.state.lanes.get(&lane).map(|l| l.on_board.iter().flatten()).into_iter().flatten();
        sequences.map(|sequence| SegmentId { epoch, lane, sequence }).collect()
    }

    /// The payload of a segment; `None` when it is not on board.
    pub fn payload(&mut self, lane: Lane, sequence: u64) -> Result<Option<Bytes>, WalError> {
        let txn = self.db()?.begin_read()?;
        let mut out = Vec::new();
        for piece in txn.open_table(CHUNKS)?.range((lane.0, sequence, 0)..=(lane.0, sequence, u32::MAX))? {
            out.extend_from_slice(piece?.1.value());
        }
        Ok((!out.is_empty()).then(|| Bytes::from(out)))
    }

    /// Notes that a segment is about to be on a wire.
    pub fn mark_sent(&mut self, lane: Lane, sequence: u64) {
        self.state.lane(lane).sent.insert(sequence..sequence + 1);
    }

    /// Whether a segment may have been on a wire.
    pub fn was_sent(&self, lane: Lane, sequence: u64) -> bool {
        self.state.lanes.get(&lane).is_some_and(|l| l.sent.contains(sequence))
    }

    /// Where `consumer` is in `lane`: the segment it works on and how many of that segment's requests are done.
    pub fn cursor(&mut self, consumer: ConsumerId, lane: Lane) -> Result<(u64, u64), WalError> {
        let txn = self.db()?.begin_read()?;
        let cursor = txn.open_table(CURSORS)?.get((consumer.0, lane.0))?.map(|c| c.value());
        Ok(cursor.unwrap_or_default())
    }

    /// Moves the cursor of `consumer` behind so many requests of a segment; `refused` of the last one's items were refused for
    /// good.
    pub fn advance(
        &mut self,
        consumer: ConsumerId,
        id: SegmentId,
        requests: u64,
        refused: Counts,
    ) -> Result<(), WalError> {
        self.write(|txn| {
            txn.open_table(CURSORS)?.insert((consumer.0, id.lane.0), (id.sequence, requests))?;
            if refused.total() == 0 {
                return Ok(());
            }
            let mut segments = txn.open_table(SEGMENTS)?;
            let key = (id.lane.0, id.sequence);
            let found = segments.get(key)?.map(|v| SegmentRecord::from_bytes(v.value())).transpose()?;
            if let Some(mut record) = found {
                record.refuse(refused);
                segments.insert(key, record.to_bytes().as_slice())?;
            }
            Ok(())
        })
    }

    /// Notes that `consumer` is done with these segments, and deletes those that nobody waits for any more. Returns how many
    /// were deleted.
    pub fn pass(&mut self, consumer: ConsumerId, deliveries: &[Delivery]) -> Result<u64, WalError> {
        if deliveries.is_empty() {
            return Ok(0);
        }
        let state = self.state.clone_numbers();
        let changes = self.write(|txn| {
            let mut changes = Changes::default();
            for delivery in deliveries {
                pass_one(txn, consumer, delivery, &mut changes)?;
            }
            finish(txn, &state, &changes)?;
            Ok(changes)
        })?;
        let removed = changes.removed.len() as u64;
        self.apply(changes);
        Ok(removed)
    }

    /// Takes a consumer out for good: it holds nothing any more.
    pub fn release(&mut self, name: &str) -> Result<u64, WalError> {
        let Some(consumer) = self.consumer(name) else { return Ok(0) };
        let mut deliveries = Vec::new();
        for lane in self.lanes() {
            let waiting = self.waiting(consumer, lane, 0, usize::MAX)?;
            deliveries.extend(waiting.into_iter().map(|h| Delivery { id: h.id, refused: Counts::ZERO }));
        }
        let removed = self.pass(consumer, &deliveries)?;
        self.write(|txn| {
            txn.open_table(CONSUMERS)?.remove(name)?;
            txn.open_table(CURSORS)?.retain(|(id, _), _| id != consumer.0)?;
            Ok(())
        })?;
        self.state.consumers.remove(name);
        Ok(removed)
    }

    /// Makes room by dropping the oldest segments, least urgent lanes first.
    pub(super) fn drop_oldest(&mut self) -> Result<(), WalError> {
        let keep = self.config.max_bytes - self.config.max_bytes / 16;
        let mut victims = Vec::new();
        let mut stored = self.state.stored();
        'lanes: for lane in self.lanes().into_iter().rev() {
            let txn = self.db()?.begin_read()?;
            for entry in txn.open_table(SEGMENTS)?.range((lane.0, 0)..=(lane.0, u64::MAX))? {
                if stored <= keep {
                    break 'lanes;
                }
                let record = SegmentRecord::from_bytes(entry?.1.value())?;
                stored -= record.header.payload_len;
                victims.push(record.header);
            }
        }
        if victims.is_empty() {
            return Err(WalError::Full { budget: self.config.max_bytes });
        }
        self.drop_segments(victims, DropReason::QuotaOldest)
    }

    /// Drops segments by rule: they are counted, reported, and gone.
    pub fn drop_segments(&mut self, victims: Vec<Header>, reason: DropReason) -> Result<(), WalError> {
        let state = self.state.clone_numbers();
        let (epoch, now) = (self.state.life.epoch, self.env.unix_nano());
        let sent: Vec<bool> =
            victims.iter().map(|h| self.state.lane(h.id.lane).sent.contains(h.id.sequence)).collect();
        let changes = self.write(|txn| {
            let mut changes = Changes::default();
            let mut unsent = state.last_drop_unsent;
            for (header, sent) in victims.into_iter().zip(sent) {
                remove_segment(txn, header.id)?;
                let range = link::Range { start: header.id.sequence, end: header.id.sequence + 1 };
                let drop = drop_record(&header, reason, Some(range), now);
                changes.drops += record_drop(txn, &state, changes.drops, epoch, drop, sent, unsent)?;
                unsent = !sent;
                changes.dropped.push((reason, header.items));
                changes.removed.push(header);
            }
            changes.last_drop_unsent = Some(unsent);
            finish(txn, &state, &changes)?;
            Ok(changes)
        })?;
        tracing::warn!(segments = changes.removed.len(), reason = reason.as_str_name(), "dropped segments");
        self.apply(changes);
        Ok(())
    }

    /// Takes requests and drops them at once, counted.
    pub(super) fn drop_newest(&mut self, requests: &[Accepted]) -> Result<(), WalError> {
        let mut items = Counts::ZERO;
        let mut time = TimeRange::EMPTY;
        for request in requests {
            items += Counts::of(request.signal, request.walked.items);
            time.merge(request.walked.time);
        }
        let (epoch, now) = (self.state.life.epoch, self.env.unix_nano());
        let mut state = self.state.clone_numbers();
        state.accepted += items;
        let accepted = state.accepted;
        let changes = self.write(|txn| {
            let drop = unsealed_drop(DropReason::QuotaNewest, Lane::BULK, items, time, now);
            let drops = record_drop(txn, &state, 0, epoch, drop, false, state.last_drop_unsent)?;
            let dropped = vec![(DropReason::QuotaNewest, items)];
            let changes = Changes { dropped, drops, last_drop_unsent: Some(true), ..Changes::default() };
            finish(txn, &state, &changes)?;
            Ok(changes)
        })?;
        self.state.accepted = accepted;
        self.apply(changes);
        Ok(())
    }

    /// Drops a commit group that does not decode: what lanes have not sealed of it is counted and reported. When its items were
    /// recorded is not known any more; the time of its commit is said instead.
    pub fn drop_group(&mut self, number: u64) -> Result<(), WalError> {
        let lost: Vec<(Lane, Counts, TimeRange)> = self
            .state
            .lanes
            .iter()
            .filter_map(|(lane, state)| Some((*lane, *state.pending_at(number)?)))
            .map(|(lane, group)| {
                (lane, group.items, TimeRange { start: group.received, end: group.received })
            })
            .collect();
        let (epoch, now, next_group) = (self.state.life.epoch, self.env.unix_nano(), self.state.next_group);
        let state = self.state.clone_numbers();
        let changes = self.write(|txn| {
            txn.open_table(JOURNAL)?.retain_in((number, 0)..=(number, u16::MAX), |_, _| false)?;
            txn.open_table(META)?.insert(META_NEXT_GROUP, &next_group.to_le_bytes()[..])?;
            let mut changes = Changes { last_drop_unsent: Some(true), ..Changes::default() };
            let mut unsent = state.last_drop_unsent;
            for (lane, items, time) in lost {
                let drop = unsealed_drop(DropReason::Corruption, lane, items, time, now);
                changes.drops += record_drop(txn, &state, changes.drops, epoch, drop, false, unsent)?;
                unsent = true;
                changes.dropped.push((DropReason::Corruption, items));
            }
            finish(txn, &state, &changes)?;
            Ok(changes)
        })?;
        self.apply(changes);
        self.state.forget_group(number);
        Ok(())
    }

    fn apply(&mut self, changes: Changes) {
        let state = &mut self.state;
        for header in changes.removed {
            let id = header.id;
            state.segments -= 1;
            state.segment_stored -= header.payload_len;
            state.in_segments = state.in_segments.saturating_sub(header.items);
            let lane = state.lane(id.lane);
            lane.segment_stored = lane.segment_stored.saturating_sub(header.payload_len);
            lane.on_board.remove(id.sequence..id.sequence + 1);
            lane.sent.remove(id.sequence..id.sequence + 1);
        }
        state.delivered += changes.delivered;
        for (reason, items) in changes.dropped {
            state.count_drop(reason, items);
        }
        state.last_drop_unsent = changes.last_drop_unsent.unwrap_or(state.last_drop_unsent);
        state.next_drop += changes.drops;
        state.drops += changes.drops;
    }
}

impl State {
    /// The counters and numbers without the ranges.
    fn clone_numbers(&self) -> Self {
        Self {
            accepted: self.accepted,
            delivered: self.delivered,
            dropped: self.dropped.clone(),
            next_drop: self.next_drop,
            drops_reported: self.drops_reported,
            last_drop_unsent: self.last_drop_unsent,
            ..Self::default()
        }
    }
}

fn drop_record(header: &Header, reason: DropReason, sequences: Option<link::Range>, now: u64) -> link::Drop {
    link::Drop {
        id: 0,
        reason: reason as i32,
        lane: u32::from(header.id.lane.0),
        sequences,
        items: Some(header.items.into()),
        counts_unknown: false,
        time: Some(header.time.into()),
        dropped_unix_nano: now,
    }
}

/// A drop of what was in no segment yet.
fn unsealed_drop(reason: DropReason, lane: Lane, items: Counts, time: TimeRange, now: u64) -> link::Drop {
    link::Drop {
        reason: reason as i32,
        lane: u32::from(lane.0),
        items: Some(items.into()),
        time: Some(time.into()),
        dropped_unix_nano: now,
        ..link::Drop::default()
    }
}

fn pass_one(
    txn: &WriteTransaction,
    consumer: ConsumerId,
    delivery: &Delivery,
    changes: &mut Changes,
) -> Result<(), WalError> {
    let key = (delivery.id.lane.0, delivery.id.sequence);
    let mut segments = txn.open_table(SEGMENTS)?;
    let Some(mut record) = segments.get(key)?.map(|v| SegmentRecord::from_bytes(v.value())).transpose()?
    else {
        return Ok(());
    };
    record.waiting &= !(1 << consumer.0);
    record.refuse(delivery.refused);
    if record.waiting != 0 {
        segments.insert(key, record.to_bytes().as_slice())?;
        return Ok(());
    }
    drop(segments);
    remove_segment(txn, delivery.id)?;
    changes.delivered += record.header.items.saturating_sub(record.refused);
    if record.refused.total() > 0 {
        changes.dropped.push((DropReason::BackendRefused, record.refused));
    }
    changes.removed.push(record.header);
    Ok(())
}

fn remove_segment(txn: &WriteTransaction, id: SegmentId) -> Result<(), WalError> {
    txn.open_table(SEGMENTS)?.remove((id.lane.0, id.sequence))?;
    let range = (id.lane.0, id.sequence, 0)..=(id.lane.0, id.sequence, u32::MAX);
    txn.open_table(CHUNKS)?.retain_in(range, |_, _| false)?;
    Ok(())
}

/// Writes the counters as they will be after `changes`.
fn finish(txn: &WriteTransaction, before: &State, changes: &Changes) -> Result<(), WalError> {
    let mut counters = txn.open_table(COUNTERS)?;
    counters.insert(ACCEPTED, &before.accepted.to_bytes()[..])?;
    counters.insert(DELIVERED, &(before.delivered + changes.delivered).to_bytes()[..])?;
    let mut dropped = before.dropped.clone();
    for (reason, items) in &changes.dropped {
        *dropped.entry(*reason as i32).or_default() += *items;
    }
    for (reason, items) in dropped {
        counters.insert(format!("dropped:{reason}").as_str(), &items.to_bytes()[..])?;
    }
    if changes.drops > 0 {
        let next = before.next_drop + changes.drops;
        txn.open_table(META)?.insert(META_NEXT_DROP, &next.to_le_bytes()[..])?;
    }
    Ok(())
}

/// Records a drop, in the last record when that says the same and has not been reported. Returns how many records were added.
fn record_drop(
    txn: &WriteTransaction,
    state: &State,
    added: u64,
    epoch: u64,
    mut drop: link::Drop,
    may_be_on_the_ground: bool,
    unsent_before: bool,
) -> Result<u64, WalError> {
    let last = state.next_drop + added - 1;
    if !may_be_on_the_ground && unsent_before && last >= state.drops_reported && last > 0 {
        let found = txn.open_table(DROPS)?.get((epoch, last))?.map(|v| read_drop(v.value())).transpose()?;
        if let Some((_, earlier)) = found
            && let Some(merged) = merge(&earlier, &drop)
        {
            insert_drop(txn, epoch, &merged, &[])?;
            return Ok(0);
        }
    }
    drop.id = last + 1;
    insert_drop(txn, epoch, &drop, &[])?;
    Ok(1)
}

/// One record for both, if they have the same reason and lane and their sequences touch.
fn merge(a: &link::Drop, b: &link::Drop) -> Option<link::Drop> {
    let sequences = match (&a.sequences, &b.sequences) {
        (None, None) => None,
        (Some(a), Some(b)) if a.end == b.start => Some(link::Range { start: a.start, end: b.end }),
        _ => return None,
    };
    if a.reason != b.reason || a.lane != b.lane || a.counts_unknown != b.counts_unknown {
        return None;
    }
    let mut time = TimeRange::from(a.time.unwrap_or_default());
    time.merge(b.time.unwrap_or_default().into());
    let items = Counts::from(a.items.unwrap_or_default()) + b.items.unwrap_or_default().into();
    Some(link::Drop { sequences, time: Some(time.into()), items: Some(items.into()), ..*a })
}

/// Stores a drop with the stations that know of it.
pub(super) fn insert_drop(
    txn: &WriteTransaction,
    epoch: u64,
    drop: &link::Drop,
    known: &[String],
) -> Result<(), WalError> {
    let mut value = Vec::new();
    for station in known {
        value.push(station.len() as u8);
        value.extend_from_slice(station.as_bytes());
    }
    value.push(0);
    drop.encode(&mut value).map_err(|_| WalError::Damaged("a drop cannot be encoded"))?;
    txn.open_table(DROPS)?.insert((epoch, drop.id), value.as_slice())?;
    Ok(())
}

/// The inverse of [`insert_drop`].
pub(super) fn read_drop(mut value: &[u8]) -> Result<(Vec<String>, link::Drop), WalError> {
    const DAMAGED: WalError = WalError::Damaged("a drop");
    let mut known = Vec::new();
    loop {
        let (&length, rest) = value.split_first().ok_or(DAMAGED)?;
        if length == 0 {
            return Ok((known, link::Drop::decode(rest).map_err(|_| DAMAGED)?));
        }
        let (station, rest) = rest.split_at_checked(length as usize).ok_or(DAMAGED)?;
        known.push(String::from_utf8_lossy(station).into_owned());
        value = rest;
    }
}
