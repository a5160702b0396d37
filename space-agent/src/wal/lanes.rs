//! What makes lanes differ: the rules of each part of the journal, the order of sending, quotas and lifetimes.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use perigee_proto::link::DropReason;
use perigee_shared::link::Slot;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Header, Lane};
use perigee_shared::signal::Counts;
use perigee_shared::store::StoreError;
use redb::ReadableTable;

use super::state::{Edit, LaneState, State};
use super::tables::*;
use super::{ConsumerId, SegmentRecord, Wal, WalError, boots};
use crate::lanes::{Order, QuotaPolicy};

/// What a lane has on board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneSummary {
    /// The lane.
    pub lane: Lane,
    /// Sealed segments.
    pub segments: u64,
    /// Bytes of their payloads.
    pub segment_bytes: u64,
    /// Items in the journal.
    pub in_journal: Counts,
    /// Their raw OTLP bytes, about.
    pub journal_raw_bytes: u64,
    /// When the oldest of them was committed, ns since the Unix epoch.
    pub oldest_unsealed_unix_nano: Option<u64>,
}

/// Segments that a consumer may be sent next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToShip {
    /// In the lane's order; the second says that it was never on a wire.
    pub headers: Vec<(Header, bool)>,
    /// Sequences that were looked at, those that the consumer has passed already among them.
    pub looked: RangeSet,
    /// There may be more.
    pub more: bool,
    /// There are others that are on their way in another slot.
    pub elsewhere: bool,
    /// The log's epoch.
    pub epoch: u64,
}

/// Segments that a consumer may be sent though there is little time for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smaller {
    /// They have at most so many bytes.
    pub bytes: u64,
    /// Or these sequences: a part of them is on the ground.
    pub parts: RangeSet,
}

/// Among so many segments smaller ones are looked for.
const LOOKED: usize = 4_096;

fn record(
    segments: &impl ReadableTable<Place, &'static [u8]>,
    lane: Lane,
    sequence: u64,
) -> Result<Option<SegmentRecord>, StoreError> {
    let found = segments.get(Place { lane: lane.0, sequence })?;
    found.map(|value| SegmentRecord::from_bytes(value.value())).transpose()
}

pub(super) fn summaries(state: &State) -> Vec<LaneSummary> {
    let summary = |(lane, of): (&Lane, &LaneState)| LaneSummary {
        lane: *lane,
        segments: of.on_board.total(),
        segment_bytes: of.segment_stored,
        in_journal: of.unsealed_items,
        journal_raw_bytes: of.unsealed_raw,
        oldest_unsealed_unix_nano: of.pending.front().map(|g| g.received),
    };
    state.lanes.iter().map(summary).collect()
}

/// Lane by lane: order, quotas, lifetimes.
pub struct Queues<'a>(pub(super) &'a mut Wal);

impl Queues<'_> {
    /// Keeps the rules of the configuration for the groups that come from now on. Those before are split as before.
    pub(super) fn register_rules(&mut self) -> Result<(), WalError> {
        let rules = Arc::clone(&self.0.config().lanes.rules);
        let state = self.0.state();
        let latest = state.rules.last_key_value().map(|(_, rules)| rules);
        if latest.map_or(rules.is_empty(), |latest| **latest == *rules) {
            return Ok(());
        }
        let from = state.next_group;
        // Rules that were superseded before the first group in the journal. One that every lane has passed needs its rules too: they
        // say so after a restart.
        let first = state.sealed_from;
        let current = state.rules.range(..=first).next_back().map_or(0, |(from, _)| *from);
        self.0.write(|txn, _| {
            {
                let mut table = txn.open_table(LANE_RULES)?;
                table.retain_in(..current, |_, _| false)?;
                table.insert(from, rules.to_bytes().as_slice())?;
            }
            raise_format(txn, RULES_FORMAT)?;
            Ok(((), vec![Edit::Rules { from, current, rules }]))
        })?;
        tracing::info!(from_group = from, "the rules of the lanes have changed");
        Ok(())
    }

    /// Up to `most` segments of `lane` in its order that `consumer` has not passed, that are not in `taken` and that are not on their
    /// way in another slot than `slot`.
    pub fn to_ship(
        &mut self,
        consumer: ConsumerId,
        slot: Slot,
        lane: Lane,
        taken: &RangeSet,
        most: usize,
    ) -> Result<ToShip, WalError> {
        self.find(consumer, (slot, lane), taken, None, most)
    }

    /// The same of those that are `smaller`. Larger ones do not count as looked at.
    pub fn smaller_to_ship(
        &mut self,
        consumer: ConsumerId,
        slot: Slot,
        lane: Lane,
        taken: &RangeSet,
        smaller: &Smaller,
        most: usize,
    ) -> Result<ToShip, WalError> {
        self.find(consumer, (slot, lane), taken, Some(smaller), most)
    }

    fn find(
        &mut self,
        consumer: ConsumerId,
        (slot, lane): (Slot, Lane),
        taken: &RangeSet,
        smaller: Option<&Smaller>,
        most: usize,
    ) -> Result<ToShip, WalError> {
        let order = self.0.config().lanes.policy(lane).order;
        let away = self.0.notes.talks.elsewhere(slot, lane);
        let is_left = |header: &Header| {
            smaller.is_some_and(|s| header.payload_len > s.bytes && !s.parts.contains(header.id.sequence))
        };
        let mut out = self.0.read(|txn, state| {
            let mut out = ToShip { epoch: state.life.epoch, ..ToShip::default() };
            let Some(of) = state.lanes.get(&lane) else { return Ok(out) };
            let free: Vec<Range<u64>> = of.on_board.iter().flat_map(|r| taken.missing(r)).collect();
            let segments = txn.open_table(SEGMENTS)?;
            let sequences: Box<dyn Iterator<Item = u64>> = match order {
                Order::OldestFirst | Order::EarliestExpiry => Box::new(free.into_iter().flatten()),
                Order::NewestFirst => Box::new(free.into_iter().rev().flat_map(Iterator::rev)),
            };
            for sequence in sequences.take(smaller.map_or(usize::MAX, |_| LOOKED)) {
                if out.headers.len() == most {
                    out.more = true;
                    break;
                }
                if away.contains(&sequence) {
                    out.elsewhere = true;
                    continue;
                }
                let waiting = record(&segments, lane, sequence)?;
                let waiting = waiting.filter(|record| record.waiting & consumer.bit() != 0);
                if waiting.as_ref().is_some_and(|record| is_left(&record.header)) {
                    continue;
                }
                out.looked.insert(sequence..sequence + 1);
                out.headers.extend(waiting.map(|record| (record.header, false)));
            }
            Ok(out)
        })?;
        for (header, unsent) in &mut out.headers {
            *unsent = self.0.notes.answered
                && !self.0.custody().was_sent(header.id)
                && !self.0.bases().are_elsewhere(slot, header);
        }
        Ok(out)
    }

    /// Drops what a lane has above its quota.
    pub(super) fn keep_quota(&mut self, lane: Lane) -> Result<(), WalError> {
        let policy = self.0.config().lanes.policy(lane);
        let Some(quota) = policy.quota else { return Ok(()) };
        let stored = self.0.state().lanes.get(&lane).map_or(0, |l| l.segment_stored);
        let Some(mut above) = stored.checked_sub(quota).filter(|above| *above > 0) else { return Ok(()) };
        let (when_full, reason) = match policy.when_full {
            QuotaPolicy::DropOldest => (policy.when_full, DropReason::QuotaOldest),
            QuotaPolicy::DropNewest => (policy.when_full, DropReason::QuotaNewest),
        };
        let mut victims = self.0.read(|txn, state| {
            let on_board = state.lanes.get(&lane).map(|l| l.on_board.clone()).unwrap_or_default();
            let mut sequences: Box<dyn Iterator<Item = u64>> = match when_full {
                QuotaPolicy::DropOldest => Box::new(on_board.iter().flatten()),
                QuotaPolicy::DropNewest => Box::new(on_board.iter().rev().flat_map(Iterator::rev)),
            };
            let segments = txn.open_table(SEGMENTS)?;
            let mut victims = Vec::new();
            while above > 0
                && let Some(sequence) = sequences.next()
            {
                if let Some(record) = record(&segments, lane, sequence)? {
                    above = above.saturating_sub(record.header.payload_len);
                    victims.push(record.header);
                }
            }
            Ok(victims)
        })?;
        // Drops that touch become one record only in the order of their sequences.
        victims.sort_unstable_by_key(|h| h.id.sequence);
        self.0.custody().drop_segments(victims, reason)
    }

    /// Drops the segments whose lifetime is over for certain. Returns in what time that of the next one may be.
    pub fn expire(&mut self) -> Result<Option<Duration>, WalError> {
        let env = self.0.env().clone();
        let policies = &self.0.config().lanes.policies;
        let lifetimes: Vec<(Lane, Duration)> =
            policies.iter().filter_map(|(lane, policy)| Some((*lane, policy.lifetime?))).collect();
        let (victims, next) = self.0.read(|txn, state| {
            let segments = txn.open_table(SEGMENTS)?;
            let ages = state.boots.ages(&env);
            let (mut victims, mut next) = (Vec::new(), None::<Duration>);
            for (lane, lifetime) in lifetimes {
                for entry in segments.range(lane_from(lane, 0))? {
                    let record = SegmentRecord::from_bytes(entry?.1.value())?;
                    match lifetime.checked_sub(record.age(&ages, &env)).filter(|left| !left.is_zero()) {
                        Some(left) => next = Some(next.map_or(left, |n| n.min(left))),
                        None => victims.push(record.header),
                    }
                }
            }
            Ok((victims, next))
        })?;
        if !victims.is_empty() {
            self.0.custody().drop_segments(victims, DropReason::Lifetime)?;
        }
        if next.is_some() {
            self.note_boot(10 * boots::MINUTE)?;
        }
        Ok(next)
    }

    /// Notes this boot and how long it has lasted, if nothing that was written in the last `behind` ns has.
    pub(super) fn note_boot(&mut self, behind: u64) -> Result<(), WalError> {
        let Some(boot) = self.0.state().boots.due(self.0.env(), behind) else { return Ok(()) };
        self.0.write(|txn, state| {
            state.boots.store(txn, boot)?;
            Ok(((), vec![Edit::Boot(boot)]))
        })
    }

    /// Keeps that the time is not before `floor`.
    pub fn raise_clock_floor(&mut self, floor: u64) -> Result<(), WalError> {
        if floor <= self.0.state().clock_floor {
            return Ok(());
        }
        self.0.write(|txn, _| {
            set_numbers(txn, &[(META_CLOCK_FLOOR, floor)])?;
            Ok(((), vec![Edit::ClockFloor(floor)]))
        })
    }
}
