//! Counts that survive restarts, written in the transaction that changes what they count.

use perigee_shared::signal::{Counts, Signal};
use redb::{ReadableTable, Table, WriteTransaction};

use super::error::SpoolError;
use super::tables::{COUNTERS, CounterKey};

/// What is counted. The numbers are persisted and never renumbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Items of committed segments.
    Committed = 1,
    /// Items that every exporter of their pipeline is done with, and that are not in dead-letter.
    Exported = 2,
    /// Items in dead-letter.
    DeadLettered = 3,
    /// Items that a backend took and then refused (`partial_success`); they are among the exported.
    Rejected = 4,
    /// Items that the satellite dropped, by reason.
    Dropped = 5,
    /// Segments that were committed.
    Segments = 6,
    /// Segments that came again after they had been committed.
    Duplicates = 7,
    /// Segments whose payload did not have its hash.
    HashMismatches = 8,
    /// Payload bytes that were committed.
    Bytes = 9,
    /// Items that were committed and that the station has lost.
    Lost = 10,
    /// Items that were sent again by the replay of a range.
    Replayed = 11,
    /// Segments that another ledger has acknowledged as well.
    HandoverTwice = 12,
}

impl Kind {
    /// Every kind, in the order of its numbers.
    pub const ALL: [Self; 12] = [
        Self::Committed,
        Self::Exported,
        Self::DeadLettered,
        Self::Rejected,
        Self::Dropped,
        Self::Segments,
        Self::Duplicates,
        Self::HashMismatches,
        Self::Bytes,
        Self::Lost,
        Self::Replayed,
        Self::HandoverTwice,
    ];
}

/// The counters of a satellite in a transaction.
pub(super) struct Counters<'t> {
    table: Table<'t, CounterKey, u64>,
    satellite: u32,
}

impl<'t> Counters<'t> {
    pub(super) fn of(tables: &'t WriteTransaction, satellite: u32) -> Result<Self, SpoolError> {
        Ok(Self { table: tables.open_table(COUNTERS)?, satellite })
    }

    /// Changes one number.
    pub(super) fn change(
        &mut self,
        kind: u8,
        signal: u8,
        reason: u8,
        to: impl FnOnce(u64) -> u64,
    ) -> Result<(), SpoolError> {
        let key = CounterKey { satellite: self.satellite, kind, signal, reason };
        let now = self.table.get(key)?.map_or(0, |v| v.value());
        self.table.insert(key, to(now))?;
        Ok(())
    }

    /// Counts `n` more of something that has no signal.
    pub(super) fn one(&mut self, kind: Kind, n: u64) -> Result<(), SpoolError> {
        self.change(kind as u8, 0, 0, |now| now.saturating_add(n))
    }

    /// Adds items.
    pub(super) fn add(&mut self, kind: Kind, reason: u8, items: Counts) -> Result<(), SpoolError> {
        for signal in items.signals().iter() {
            self.change(kind as u8, signal as u8, reason, |n| n.saturating_add(items[signal]))?;
        }
        Ok(())
    }

    /// Takes items back.
    pub(super) fn sub(&mut self, kind: Kind, reason: u8, items: Counts) -> Result<(), SpoolError> {
        for signal in items.signals().iter() {
            self.change(kind as u8, signal as u8, reason, |n| n.saturating_sub(items[signal]))?;
        }
        Ok(())
    }

    /// Items of one kind, whatever the reason.
    pub(super) fn items(&self, kind: Kind) -> Result<Counts, SpoolError> {
        let key = |signal, reason| CounterKey { satellite: self.satellite, kind: kind as u8, signal, reason };
        let mut out = Counts::ZERO;
        for row in self.table.range(key(0, 0)..=key(u8::MAX, u8::MAX))? {
            let (key, n) = row?;
            if let Some(signal) = Signal::from_number(key.value().signal) {
                out += Counts::of(signal, n.value());
            }
        }
        Ok(out)
    }
}
