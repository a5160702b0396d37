//! What makes lanes differ: the rules of each part of the journal, the order of sending, quotas and lifetimes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use perigee_proto::link::DropReason;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Header, Lane};
use perigee_shared::signal::Counts;
use redb::{ReadableDatabase, ReadableTable};

use super::state::{LaneState, META_FORMAT};
use super::tables::{LANE_RULES, META, RULES_FORMAT, SEGMENTS};
use super::{ConsumerId, SegmentRecord, Wal, WalError};
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToShip {
    /// In the lane's order; the second says that it was never on a wire.
    pub headers: Vec<(Header, bool)>,
    /// Sequences that were looked at, those that the consumer has passed already among them.
    pub looked: RangeSet,
    /// There may be more.
    pub more: bool,
}

fn record(
    segments: &impl ReadableTable<(u8, u64), &'static [u8]>,
    lane: Lane,
    sequence: u64,
) -> Result<Option<SegmentRecord>, WalError> {
    let found = segments.get((lane.0, sequence))?;
    found.map(|value| SegmentRecord::from_bytes(value.value())).transpose()
}

impl LaneState {
    /// `free` cut where the clock was set back: in each run what was sealed later by the clock has the higher sequence.
    fn runs(&self, free: &[Range<u64>]) -> Vec<Run> {
        let starts = std::iter::once(0).chain(self.set_back.at.iter().copied());
        let ends = self.set_back.at.iter().copied().chain([u64::MAX]);
        let within = |(start, end): (u64, u64)| {
            let cut = |r: &Range<u64>| r.start.max(start)..r.end.min(end);
            free.iter().map(cut).filter(|r| !r.is_empty()).collect::<Vec<_>>().into_iter().flatten()
        };
        starts.zip(ends).map(within).collect()
    }
}

/// Sequences in ascending order.
type Run = std::iter::Flatten<std::vec::IntoIter<Range<u64>>>;

/// Sequences of a lane in the order in which their lifetimes end, which is that of sealing by the clock: runs merged.
struct ByExpiry<'a, T> {
    segments: &'a T,
    lane: Lane,
    runs: Vec<Run>,
    /// When the next of each run was sealed, its sequence, and which run it is of.
    next: BinaryHeap<Reverse<(u64, u64, usize)>>,
}

impl<'a, T: ReadableTable<(u8, u64), &'static [u8]>> ByExpiry<'a, T> {
    fn try_new(segments: &'a T, lane: Lane, runs: Vec<Run>) -> Result<Self, WalError> {
        let mut out = Self { segments, lane, runs, next: BinaryHeap::new() };
        for run in 0..out.runs.len() {
            out.advance(run)?;
        }
        Ok(out)
    }

    fn advance(&mut self, run: usize) -> Result<(), WalError> {
        for sequence in self.runs[run].by_ref() {
            if let Some(record) = record(self.segments, self.lane, sequence)? {
                self.next.push(Reverse((record.header.sealed_unix_nano, sequence, run)));
                break;
            }
        }
        Ok(())
    }
}

impl<T: ReadableTable<(u8, u64), &'static [u8]>> Iterator for ByExpiry<'_, T> {
    type Item = Result<u64, WalError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((_, sequence, run)) = self.next.pop()?;
        Some(self.advance(run).map(|()| sequence))
    }
}

impl Wal {
    /// Keeps the rules of the configuration for the groups that come from now on. Those before are split as before.
    pub(super) fn register_rules(&mut self) -> Result<(), WalError> {
        let rules = Arc::clone(&self.config.lanes.rules);
        let latest = self.state.rules.last_key_value().map(|(_, rules)| rules);
        let changed = match latest {
            Some(latest) => **latest != *rules,
            None => !rules.is_empty(),
        };
        if !changed {
            return Ok(());
        }
        let from = self.state.next_group;
        // Rules that were superseded before the first group in the journal. One that every lane has passed needs its rules too: they
        // say so after a restart.
        let first = self.state.sealed_from;
        let current = self.state.rules.range(..=first).next_back().map_or(0, |(from, _)| *from);
        self.write(|txn| {
            let mut table = txn.open_table(LANE_RULES)?;
            table.retain_in(..current, |_, _| false)?;
            table.insert(from, rules.to_bytes().as_slice())?;
            let mut meta = txn.open_table(META)?;
            let found =
                meta.get(META_FORMAT)?.and_then(|v| Some(u64::from_le_bytes(v.value().try_into().ok()?)));
            meta.insert(META_FORMAT, &found.unwrap_or(0).max(RULES_FORMAT).to_le_bytes()[..])?;
            Ok(())
        })?;
        self.state.rules = self.state.rules.split_off(&current);
        for lane in rules.lanes() {
            self.state.lane(lane);
        }
        self.state.rules.insert(from, rules);
        tracing::info!(from_group = from, "the rules of the lanes have changed");
        Ok(())
    }

    pub(super) fn lane_summaries(&self) -> Vec<LaneSummary> {
        let summary = |(lane, state): (&Lane, &LaneState)| LaneSummary {
            lane: *lane,
            segments: state.on_board.total(),
            segment_bytes: state.segment_stored,
            in_journal: state.unsealed_items,
            journal_raw_bytes: state.unsealed_raw,
            oldest_unsealed_unix_nano: state.pending.front().map(|g| g.received),
        };
        self.state.lanes.iter().map(summary).collect()
    }

    /// Up to `most` segments of `lane` in its order that `consumer` has not passed and that are not in `taken`.
    pub fn to_ship(
        &mut self,
        consumer: ConsumerId,
        lane: Lane,
        taken: &RangeSet,
        most: usize,
    ) -> Result<ToShip, WalError> {
        let mut out = ToShip { headers: Vec::new(), looked: RangeSet::default(), more: false };
        let order = self.config.lanes.policy(lane).order;
        if order == Order::EarliestExpiry {
            self.look_for_set_back(lane)?;
        }
        let Some(state) = self.state.lanes.get(&lane) else { return Ok(out) };
        let free: Vec<Range<u64>> = state.on_board.iter().flat_map(|r| taken.missing(r)).collect();
        let runs = state.runs(&free);
        let txn = self.db()?.begin_read()?;
        let segments = txn.open_table(SEGMENTS)?;
        let sequences: Box<dyn Iterator<Item = Result<u64, WalError>>> = match order {
            Order::OldestFirst => Box::new(free.into_iter().flatten().map(Ok)),
            Order::NewestFirst => Box::new(free.into_iter().rev().flat_map(Iterator::rev).map(Ok)),
            Order::EarliestExpiry => Box::new(ByExpiry::try_new(&segments, lane, runs)?),
        };
        for sequence in sequences {
            let sequence = sequence?;
            if out.headers.len() == most {
                out.more = true;
                break;
            }
            out.looked.insert(sequence..sequence + 1);
            if let Some(record) = record(&segments, lane, sequence)?
                && record.waiting & (1 << consumer.0) != 0
            {
                out.headers.push((record.header, !self.was_sent(lane, sequence)));
            }
        }
        Ok(out)
    }

    /// Looks at what was sealed since it last looked: each segment once.
    fn look_for_set_back(&mut self, lane: Lane) -> Result<(), WalError> {
        let txn = self.db()?.begin_read()?;
        let segments = txn.open_table(SEGMENTS)?;
        let Some(state) = self.state.lanes.get_mut(&lane) else { return Ok(()) };
        let (back, first) = (&mut state.set_back, state.on_board.first().unwrap_or(0));
        back.at.retain(|at| *at > first);
        for entry in segments.range((lane.0, back.next)..=(lane.0, u64::MAX))? {
            let header = SegmentRecord::from_bytes(entry?.1.value())?.header;
            if header.sealed_unix_nano < back.last_sealed_unix_nano {
                back.at.push(header.id.sequence);
            }
            (back.next, back.last_sealed_unix_nano) = (header.id.sequence + 1, header.sealed_unix_nano);
        }
        Ok(())
    }

    /// Drops what a lane has above its quota.
    pub(super) fn keep_quota(&mut self, lane: Lane) -> Result<(), WalError> {
        let policy = self.config.lanes.policy(lane);
        let Some(quota) = policy.quota else { return Ok(()) };
        let state = self.state.lane(lane);
        let Some(mut above) = state.segment_stored.checked_sub(quota).filter(|above| *above > 0) else {
            return Ok(());
        };
        let on_board = state.on_board.clone();
        let (mut sequences, reason): (Box<dyn Iterator<Item = u64>>, _) = match policy.when_full {
            QuotaPolicy::DropOldest => (Box::new(on_board.iter().flatten()), DropReason::QuotaOldest),
            QuotaPolicy::DropNewest => {
                (Box::new(on_board.iter().rev().flat_map(Iterator::rev)), DropReason::QuotaNewest)
            }
        };
        let mut victims = Vec::new();
        let txn = self.db()?.begin_read()?;
        let segments = txn.open_table(SEGMENTS)?;
        while above > 0
            && let Some(sequence) = sequences.next()
        {
            if let Some(record) = record(&segments, lane, sequence)? {
                above = above.saturating_sub(record.header.payload_len);
                victims.push(record.header);
            }
        }
        drop((segments, txn));
        // Drops that touch become one record only in the order of their sequences.
        victims.sort_by_key(|h| h.id.sequence);
        self.drop_segments(victims, reason)
    }

    /// Drops the segments whose lifetime is over. Returns when that of the next one is, ns since the Unix epoch.
    pub fn expire(&mut self) -> Result<Option<u64>, WalError> {
        let now = self.env.unix_nano();
        let lifetimes: Vec<(Lane, Duration)> = self
            .config
            .lanes
            .policies
            .iter()
            .filter_map(|(lane, policy)| policy.lifetime.map(|lifetime| (*lane, lifetime)))
            .collect();
        let mut next: Option<u64> = None;
        let mut victims = Vec::new();
        let txn = self.db()?.begin_read()?;
        let segments = txn.open_table(SEGMENTS)?;
        for (lane, lifetime) in lifetimes {
            for entry in segments.range((lane.0, 0)..=(lane.0, u64::MAX))? {
                let header = SegmentRecord::from_bytes(entry?.1.value())?.header;
                let ends = header.sealed_unix_nano.saturating_add(lifetime.as_nanos() as u64);
                if ends <= now {
                    victims.push(header);
                } else {
                    next = Some(next.map_or(ends, |n| n.min(ends)));
                }
            }
        }
        drop((segments, txn));
        if !victims.is_empty() {
            self.drop_segments(victims, DropReason::Lifetime)?;
        }
        Ok(next)
    }
}
