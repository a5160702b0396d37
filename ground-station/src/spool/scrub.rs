//! The scrub: segments and bases are read and verified one after the other, so that damage is found before they are needed.

use std::time::Duration;

use perigee_shared::store::scrub;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::bases;
use super::decode::{self, Fault, Snapshot};
use super::error::SpoolError;
use super::store::Store;
use super::tables::*;

/// Bytes that are read at once.
const STEP: u64 = 4 << 20;

/// Segments that are read at once.
const MOST: u64 = 256;

/// A segment or a base; a round goes through the segments first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Entry(EntryKey),
    Base(SequenceKey),
}

/// What the scrub has done since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Scrubbed {
    /// Rounds that are done.
    pub rounds: u64,
    /// Segments and bases that were verified.
    pub checked: u64,
    /// What they took.
    pub bytes: u64,
    /// How many of them were damaged.
    pub damaged: u64,
}

/// The scrub under way: what it has done, and the last segment or base that it has looked at.
#[derive(Default)]
pub(super) struct Round {
    pub(super) done: Scrubbed,
    pub(super) at: Option<At>,
}

/// What one step came to.
#[derive(Default)]
pub(super) struct Found {
    pub(super) checked: u64,
    pub(super) bytes: u64,
    pub(super) faults: Vec<(At, Fault)>,
    /// The last that was looked at; `None`: the round is done.
    pub(super) next: Option<At>,
}

impl Found {
    fn is_full(&self) -> bool {
        self.bytes >= STEP || self.checked >= MOST
    }

    fn note(&mut self, at: At, bytes: u64, found: Result<(), Fault>) -> Result<(), SpoolError> {
        self.checked += 1;
        self.bytes += bytes;
        self.next = Some(at);
        match found {
            Ok(_) => {}
            Err(Fault::Store(error)) => return Err(error.into()),
            Err(fault) => self.faults.push((at, fault)),
        }
        Ok(())
    }
}

/// Verifies what comes after `at`.
pub(super) fn step(snapshot: &Snapshot, at: Option<At>) -> Result<Found, SpoolError> {
    let mut found = Found::default();
    let entries = snapshot.read.open_table(ENTRIES)?;
    let from = match at {
        None => Some(EntryKey { satellite: 0, lane: 0, entry: 0 }),
        Some(At::Entry(last)) => Some(EntryKey { entry: last.entry.saturating_add(1), ..last }),
        Some(At::Base(_)) => None,
    };
    for row in from.map(|from| entries.range(from..)).transpose()?.into_iter().flatten() {
        let (key, value) = row?;
        let record = decode::<SegmentRecord>(value.value())?;
        if record.is_finished() {
            continue;
        }
        let bytes = snapshot.check(&record.header()?, decode::At::Payload(record.payload));
        found.note(At::Entry(key.value()), record.bytes(), bytes)?;
        if found.is_full() {
            return Ok(found);
        }
    }
    let from = match at {
        Some(At::Base(last)) => last.at(last.sequence.saturating_add(1)),
        _ => SequenceKey { satellite: 0, epoch: 0, lane: 0, sequence: 0 },
    };
    for row in snapshot.read.open_table(BASES)?.range(from..)? {
        let (key, value) = row?;
        let header = bases::read_header(value.value())?;
        let bytes = snapshot.check(&header, decode::At::Base(key.value()));
        found.note(At::Base(key.value()), header.payload_len, bytes)?;
        if found.is_full() {
            return Ok(found);
        }
    }
    found.next = None;
    Ok(found)
}

/// Goes round until `stop`: a round begins every `interval` and reads at most `rate` bytes a second.
pub async fn run(store: Store, interval: Duration, rate: u64, stop: CancellationToken) {
    let step = || async {
        match store.upkeep().scrub().await {
            Ok(step) => Some(step),
            Err(SpoolError::Gone) => None,
            Err(error) => {
                tracing::warn!(%error, "the scrub cannot read the spool; it starts over with the next round");
                Some(scrub::Step { bytes: 0, finished: true })
            }
        }
    };
    scrub::rounds(interval, rate, stop, step).await;
}
