//! What consumers have of segments that are still on board.
//!
//! A segment stays until the last consumer has passed it. Items whose every consumer has them count as delivered before that, and
//! items that one consumer has are not dropped when the segment is: only the others miss them, and that is counted by consumer. A direct
//! exporter that is in the middle of a segment when it is dropped has all of it in memory and goes on: the drop becomes less by what its
//! backend takes then, and stations are told of it when the exporter is done, or after half a minute.

use std::collections::BTreeMap;

use perigee_shared::segment::{Lane, SegmentId};
use perigee_shared::signal::{Counts, Signal, SignalSet};
use perigee_shared::store::StoreError;
use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

use super::custody::ConsumerId;
use super::reached::Reached;
use super::state::{Edit, State};
use super::tables::*;
use super::{Custody, SegmentRecord, WalConfig, WalError, drops};

/// Consumers by their numbers, with the signals that their pipelines use.
pub(super) type Takers = Vec<(ConsumerId, SignalSet)>;

/// The consumers of the configuration that the log knows.
pub(super) fn takers(consumers: &BTreeMap<String, u8>, config: &WalConfig) -> Takers {
    let number = |name: &String| consumers.get(name).map(|id| ConsumerId(*id));
    config.consumers.iter().filter_map(|(name, signals)| Some((number(name)?, *signals))).collect()
}

/// How far consumers are, as tables say.
pub(super) struct Progress<C, A, N> {
    cursors: C,
    ahead: Option<A>,
    refused: Option<N>,
    taken: Option<N>,
}

type Written<'t> = Progress<
    redb::Table<'t, CursorKey, Cursor>,
    redb::Table<'t, AheadKey, Cursor>,
    redb::Table<'t, RefusedKey, &'static [u8]>,
>;
type Read = Progress<
    redb::ReadOnlyTable<CursorKey, Cursor>,
    redb::ReadOnlyTable<AheadKey, Cursor>,
    redb::ReadOnlyTable<RefusedKey, &'static [u8]>,
>;

/// The tables of a transaction that writes.
pub(super) fn written(txn: &WriteTransaction) -> Result<Written<'_>, StoreError> {
    Ok(Progress {
        cursors: txn.open_table(CURSORS)?,
        ahead: Some(txn.open_table(AHEAD)?),
        refused: Some(txn.open_table(REFUSED)?),
        taken: Some(txn.open_table(TAKEN)?),
    })
}

/// Those of one that reads.
pub(super) fn read(txn: &ReadTransaction) -> Result<Read, StoreError> {
    Ok(Progress {
        cursors: txn.open_table(CURSORS)?,
        ahead: if_made(txn, AHEAD)?,
        refused: if_made(txn, REFUSED)?,
        taken: if_made(txn, TAKEN)?,
    })
}

/// What such a table says of a consumer and a segment.
pub(super) fn counts(
    table: Option<&impl ReadableTable<RefusedKey, &'static [u8]>>,
    key: RefusedKey,
) -> Result<Counts, StoreError> {
    let Some(table) = table else { return Ok(Counts::ZERO) };
    Ok(table.get(key)?.and_then(|value| Counts::from_bytes(value.value())).unwrap_or_default())
}

impl<C, A, N> Progress<C, A, N>
where
    C: ReadableTable<CursorKey, Cursor>,
    A: ReadableTable<AheadKey, Cursor>,
    N: ReadableTable<RefusedKey, &'static [u8]>,
{
    /// Where `consumer` is in `lane`.
    pub(super) fn reached(&self, consumer: ConsumerId, lane: Lane) -> Result<Reached, StoreError> {
        let at = |cursor: Cursor| (cursor.sequence, cursor.requests);
        let key = CursorKey { consumer: consumer.0, lane: lane.0 };
        let of_lane = self.cursors.get(key)?.map(|c| at(c.value())).unwrap_or_default();
        let mut reached = Reached { lane: of_lane, ahead: [None; 3] };
        if let Some(table) = &self.ahead {
            for signal in Signal::ALL {
                reached.ahead[signal.slot()] = table.get(key.of(signal))?.map(|c| at(c.value()));
            }
        }
        Ok(reached)
    }

    /// Whether nothing of `signal` in a segment waits for `consumer`.
    fn is_done(
        &self,
        record: &SegmentRecord,
        consumer: ConsumerId,
        signal: Signal,
    ) -> Result<bool, StoreError> {
        let id = record.header.id;
        Ok(record.waiting & consumer.bit() == 0
            || self.reached(consumer, id.lane)?.done(id.sequence, signal) == u64::MAX)
    }

    /// What a consumer that gets `signals` has of a segment, as far as is known for certain.
    fn had_by(
        &self,
        record: &SegmentRecord,
        (consumer, signals): (ConsumerId, SignalSet),
    ) -> Result<Counts, StoreError> {
        let header = &record.header;
        // Software before this did not note who has passed it.
        if record.takers.unwrap_or(record.waiting) & consumer.bit() == 0 {
            return Ok(Counts::ZERO);
        }
        let key = consumer.of(header.id);
        let (taken, refused) = (counts(self.taken.as_ref(), key)?, counts(self.refused.as_ref(), key)?);
        let mut out = Counts::ZERO;
        for signal in header.items.signals().iter().filter(|signal| signals.contains(*signal)) {
            let had = if self.is_done(record, consumer, signal)? {
                header.items[signal].saturating_sub(refused[signal])
            } else {
                taken[signal].min(header.items[signal])
            };
            out += Counts::of(signal, had);
        }
        Ok(out)
    }

    /// Items of a segment that at least one of `takers` has; and of those that wait for it, what each has not.
    pub(super) fn had(
        &self,
        record: &SegmentRecord,
        takers: &Takers,
    ) -> Result<(Counts, Vec<Missing>), StoreError> {
        let (mut most, mut missing) = (Counts::ZERO, Vec::new());
        for (consumer, signals) in takers {
            let had = self.had_by(record, (*consumer, *signals))?;
            most = most.max(had);
            if record.waiting & consumer.bit() != 0 {
                let missed = record.header.items.only(*signals).saturating_sub(had);
                let refused = counts(self.refused.as_ref(), consumer.of(record.header.id))?;
                let undecided = missed.saturating_sub(refused);
                missing.push(Missing { consumer: *consumer, had, missed, undecided });
            }
        }
        Ok((most, missing))
    }

    /// Items of a segment whose signals wait for nobody.
    pub(super) fn delivered(&self, record: &SegmentRecord, takers: &Takers) -> Result<Counts, StoreError> {
        let known = takers.iter().fold(0, |all, (consumer, _)| all | consumer.bit());
        // Nobody knows which signals one waits for that has left the configuration.
        if record.waiting & !known != 0 {
            return Ok(Counts::ZERO);
        }
        let mut done = record.header.items.signals();
        for (consumer, signals) in takers {
            for signal in done.iter().filter(|signal| signals.contains(*signal)) {
                if !self.is_done(record, *consumer, signal)? {
                    done = done.without(SignalSet::default().with(signal));
                }
            }
        }
        if done.is_empty() {
            return Ok(Counts::ZERO);
        }
        Ok(self.had(record, takers)?.0.only(done))
    }
}

/// What a consumer that waits for a segment has of it, and has not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Missing {
    pub(super) consumer: ConsumerId,
    had: Counts,
    pub(super) missed: Counts,
    /// Of those, the ones that its backend has not refused.
    undecided: Counts,
}

/// How long a station is not told of such a drop, in ns. When it is told, the consumer is not to go on.
const UNTOLD_FOR: u64 = 30_000_000_000;

/// A segment that was dropped while consumers were in the middle of it.
#[derive(Debug, Clone)]
pub(super) struct Gone {
    id: SegmentId,
    /// The record of it, if anything was lost.
    drop: Option<u64>,
    /// Items that at least one consumer has.
    had: Counts,
    by: Vec<Missing>,
    /// When, in ns since boot.
    since: u64,
}

/// What consumers are in the middle of.
#[derive(Debug, Default)]
pub(super) struct Hands {
    of: Vec<(ConsumerId, Place)>,
    gone: Vec<Gone>,
}

impl Hands {
    /// What there is to know of a segment that was dropped, if anybody is in the middle of it.
    pub(super) fn gone(
        &self,
        id: SegmentId,
        drop: Option<u64>,
        had: Counts,
        missing: &[Missing],
        since: u64,
    ) -> Option<Gone> {
        let in_hand = |m: &&Missing| self.of.contains(&(m.consumer, Place::of(id)));
        let by: Vec<Missing> = missing.iter().filter(in_hand).copied().collect();
        (!by.is_empty()).then_some(Gone { id, drop, had, by, since })
    }

    /// Segments were dropped.
    pub(super) fn dropped(&mut self, gone: Vec<Gone>) {
        self.gone.extend(gone);
    }

    /// The first drop of an epoch that stations are not told of yet, nor of those behind it, since it may still become less.
    pub(super) fn untold(&self, epoch: u64, now: u64) -> u64 {
        let waits = |gone: &&Gone| gone.id.epoch == epoch && now.saturating_sub(gone.since) < UNTOLD_FOR;
        let drops = self.gone.iter().filter(waits).filter_map(|gone| gone.drop);
        drops.min().unwrap_or(u64::MAX)
    }
}

/// Adds to what such a table says of a consumer and a segment.
pub(super) fn note(
    txn: &WriteTransaction,
    table: TableDefinition<'_, RefusedKey, &'static [u8]>,
    key: RefusedKey,
    items: Counts,
) -> Result<(), StoreError> {
    if items.total() == 0 {
        return Ok(());
    }
    let mut table = txn.open_table(table)?;
    let now = counts(Some(&table), key)? + items;
    table.insert(key, &now.to_bytes()[..])?;
    Ok(())
}

/// Adds to what was dropped before consumers had it.
pub(super) fn note_missed(
    txn: &WriteTransaction,
    state: &State,
    missed: &BTreeMap<u8, Counts>,
) -> Result<Vec<(String, Counts)>, StoreError> {
    let mut table = txn.open_table(MISSED)?;
    let mut out = Vec::new();
    for (name, id) in &state.consumers {
        let Some(items) = missed.get(id).filter(|items| items.total() > 0) else { continue };
        let before = table.get(name.as_str())?.and_then(|v| Counts::from_bytes(v.value()));
        let now = before.unwrap_or_default() + *items;
        table.insert(name.as_str(), &now.to_bytes()[..])?;
        out.push((name.clone(), now));
    }
    Ok(out)
}

/// The inverse for one of them.
fn note_had(
    txn: &WriteTransaction,
    state: &State,
    consumer: ConsumerId,
    items: Counts,
) -> Result<Vec<(String, Counts)>, StoreError> {
    let mut table = txn.open_table(MISSED)?;
    let mut out = Vec::new();
    for (name, _) in state.consumers.iter().filter(|(_, id)| **id == consumer.0) {
        let before = state.missed.get(name).copied().unwrap_or_default();
        let now = before.saturating_sub(items);
        table.insert(name.as_str(), &now.to_bytes()[..])?;
        out.push((name.clone(), now));
    }
    Ok(out)
}

/// What a consumer alone keeps on board.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Bytes of segments that wait for nobody else.
    pub bytes: u64,
    /// Items in them that it has not had, whole segments' worth for those that it is in the middle of.
    pub items: Counts,
    /// Bytes of the segments in which something of each signal is left, in the order of [`Signal::ALL`].
    pub by_signal: [u64; 3],
}

impl Custody<'_> {
    /// Notes that `consumer` begins to send a segment.
    pub fn begin(&mut self, consumer: ConsumerId, id: SegmentId) {
        self.0.notes.hands.of.push((consumer, Place::of(id)));
    }

    /// Notes that it is in the middle of none.
    pub fn leave(&mut self, consumer: ConsumerId) {
        let Hands { of, gone } = &mut self.0.notes.hands;
        of.retain(|(other, _)| *other != consumer);
        let before = gone.len();
        gone.retain(|gone| of.iter().any(|(_, place)| *place == Place::of(gone.id)));
        if gone.len() != before {
            // A contact tells drops when something was sealed.
            self.0.unasked.send_replace(());
        }
    }

    /// Notes what became of items of a segment that is gone: of those that were undecided these were taken, and these refused. Whether
    /// the rest still counts.
    pub(super) fn late(
        &mut self,
        consumer: ConsumerId,
        id: SegmentId,
        became: impl FnOnce(Counts) -> (Counts, Counts),
    ) -> Result<bool, WalError> {
        let all = &self.0.notes.hands.gone;
        let Some(at) = all.iter().position(|gone| Place::of(gone.id) == Place::of(id)) else {
            return Ok(false);
        };
        let mut gone = all[at].clone();
        let Some(of) = gone.by.iter_mut().find(|of| of.consumer == consumer) else { return Ok(false) };
        let (taken, refused) = became(of.undecided);
        of.had += taken;
        of.undecided = of.undecided.saturating_sub(taken + refused);
        let had = gone.had.max(of.had);
        // Another consumer may have had the same.
        let fresh = had.saturating_sub(gone.had);
        gone.had = had;
        let counted = self.0.write(|txn, state| {
            let mut tally = state.tally.clone();
            let counted = fresh.total() == 0
                || gone.drop.map_or(Ok(false), |drop| {
                    drops::take_back(txn, &mut tally, DropKey { epoch: gone.id.epoch, id: drop }, fresh)
                })?;
            tally.store(txn)?;
            let missed = note_had(txn, state, consumer, taken)?;
            Ok((counted, vec![Edit::Tally(tally), Edit::Missed(missed)]))
        })?;
        // They are forgotten when the log was opened again meanwhile.
        self.0.notes.hands.gone.get_mut(at).into_iter().for_each(|before| *before = gone.clone());
        Ok(counted)
    }

    /// What only `consumer` has still to pass. Reads every segment's header.
    pub fn held(&mut self, consumer: ConsumerId) -> Result<Held, WalError> {
        let takers = takers(&self.0.state().consumers, self.0.config());
        let signals = takers.iter().find(|(c, _)| *c == consumer).map_or(SignalSet::ALL, |(_, s)| *s);
        self.0.read(|txn, state| {
            let progress = read(txn)?;
            let mut reached = BTreeMap::new();
            for lane in state.lanes.keys() {
                reached.insert(*lane, progress.reached(consumer, *lane)?);
            }
            let mut out = Held::default();
            for entry in txn.open_table(SEGMENTS)?.iter()? {
                let record = SegmentRecord::from_bytes(entry?.1.value())?;
                if record.waiting != consumer.bit() {
                    continue;
                }
                let header = &record.header;
                out.bytes += header.payload_len;
                let reached = reached.get(&header.id.lane).copied().unwrap_or_default();
                for signal in header.items.signals().iter().filter(|signal| signals.contains(*signal)) {
                    if reached.done(header.id.sequence, signal) != u64::MAX {
                        out.by_signal[signal.slot()] += header.payload_len;
                        out.items += Counts::of(signal, header.items[signal]);
                    }
                }
            }
            Ok(out)
        })
    }

    /// What was dropped before a consumer had it, by its name.
    pub fn missed(&self) -> BTreeMap<String, Counts> {
        self.0.state().missed.clone()
    }
}
