//! Counts that survive restarts, written in the transaction that changes what they count.

use perigee_shared::signal::{Counts, Signal};
use redb::{ReadableTable, Table};

use super::error::SpoolError;

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
}

impl Kind {
    /// Every kind, in the order of its numbers.
    pub const ALL: [Self; 9] = [
        Self::Committed,
        Self::Exported,
        Self::DeadLettered,
        Self::Rejected,
        Self::Dropped,
        Self::Segments,
        Self::Duplicates,
        Self::HashMismatches,
        Self::Bytes,
    ];
}

/// The table of counters in a transaction.
pub(super) struct Counters<'t>(pub(super) Table<'t, (u32, u8, u8, u8), u64>);

impl Counters<'_> {
    fn change(&mut self, key: (u32, u8, u8, u8), by: impl Fn(u64) -> u64) -> Result<(), SpoolError> {
        let now = self.0.get(key)?.map_or(0, |v| v.value());
        self.0.insert(key, by(now))?;
        Ok(())
    }

    /// Counts one more of something that has no signal.
    pub(super) fn one(&mut self, satellite: u32, kind: Kind, n: u64) -> Result<(), SpoolError> {
        self.change((satellite, kind as u8, 0, 0), |now| now.saturating_add(n))
    }

    /// Adds items.
    pub(super) fn add(
        &mut self,
        satellite: u32,
        kind: Kind,
        reason: u8,
        items: Counts,
    ) -> Result<(), SpoolError> {
        for signal in Signal::ALL.into_iter().filter(|s| items[*s] > 0) {
            self.change((satellite, kind as u8, signal as u8, reason), |n| n.saturating_add(items[signal]))?;
        }
        Ok(())
    }

    /// Takes items back.
    pub(super) fn sub(
        &mut self,
        satellite: u32,
        kind: Kind,
        reason: u8,
        items: Counts,
    ) -> Result<(), SpoolError> {
        for signal in Signal::ALL.into_iter().filter(|s| items[*s] > 0) {
            self.change((satellite, kind as u8, signal as u8, reason), |n| n.saturating_sub(items[signal]))?;
        }
        Ok(())
    }
}
