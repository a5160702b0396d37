//! The scrub: segments and bases are read and verified one after the other, so that damage is found before they are needed.

use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::bases;
use super::decode::{Fault, Snapshot};
use super::error::SpoolError;
use super::store::Store;
use super::tables::*;

/// Bytes that are read at once.
const STEP: u64 = 1 << 20;

/// Segments that are read at once.
const MOST: u64 = 256;

/// How long after the start the first round begins.
const FIRST: Duration = Duration::from_secs(60);

/// How the scrub goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// From the beginning of a round to that of the next; zero: never.
    pub every: Duration,
    /// What is read a second, at most.
    pub bytes_per_second: u64,
}

/// A segment or a base; a round goes through the segments first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Entry(EntryKey),
    Base(SequenceKey),
}

/// What the scrub has done since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Scrubbed {
    /// Rounds that are done.
    pub rounds: u64,
    /// Segments and bases that were verified.
    pub segments: u64,
    /// What they took.
    pub bytes: u64,
    /// How many of them were damaged.
    pub damaged: u64,
}

/// What one step came to.
#[derive(Default)]
pub(super) struct Step {
    pub(super) segments: u64,
    pub(super) bytes: u64,
    pub(super) faults: Vec<(At, Fault)>,
    /// The last that was looked at; `None`: the round is done.
    pub(super) next: Option<At>,
}

impl Step {
    fn is_full(&self) -> bool {
        self.bytes >= STEP || self.segments >= MOST
    }

    fn note(&mut self, at: At, bytes: u64, found: Result<Vec<u8>, Fault>) -> Result<(), SpoolError> {
        self.segments += 1;
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
pub(super) fn step(snapshot: &Snapshot, at: Option<At>) -> Result<Step, SpoolError> {
    let mut step = Step::default();
    let entries = snapshot.read.open_table(ENTRIES)?;
    let from = match at {
        None => Some(EntryKey { satellite: 0, lane: 0, entry: 0 }),
        Some(At::Entry(last)) => Some(EntryKey { entry: last.entry.saturating_add(1), ..last }),
        Some(At::Base(_)) => None,
    };
    for row in from.map(|from| entries.range(from..)).transpose()?.into_iter().flatten() {
        let (key, value) = row?;
        let record = decode::<SegmentRecord>(value.value())?;
        let found = snapshot.payload(record.payload, &record.header()?);
        step.note(At::Entry(key.value()), record.bytes(), found)?;
        if step.is_full() {
            return Ok(step);
        }
    }
    let from = match at {
        Some(At::Base(last)) => last.at(last.sequence.saturating_add(1)),
        _ => SequenceKey { satellite: 0, epoch: 0, lane: 0, sequence: 0 },
    };
    for row in snapshot.read.open_table(BASES)?.range(from..)? {
        let (key, value) = row?;
        let header = bases::read_header(value.value())?;
        let found = snapshot.base(key.value(), &header);
        step.note(At::Base(key.value()), header.payload_len, found)?;
        if step.is_full() {
            return Ok(step);
        }
    }
    step.next = None;
    Ok(step)
}

/// Goes round until `shutdown`.
pub async fn run(store: Store, settings: Settings, shutdown: CancellationToken) {
    let Settings { every, bytes_per_second } = settings;
    if every.is_zero() || bytes_per_second == 0 {
        return;
    }
    let work = async {
        tokio::time::sleep(FIRST.min(every)).await;
        loop {
            let next = tokio::time::Instant::now() + every;
            let mut at = None;
            loop {
                match store.scrub(at).await {
                    Ok(None) => break,
                    Ok(Some((last, bytes))) => {
                        at = Some(last);
                        let seconds = bytes as f64 / bytes_per_second as f64;
                        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
                    }
                    Err(SpoolError::Gone) => return,
                    Err(error) => {
                        tracing::warn!(%error, "the scrub cannot read the spool; it begins again in a while");
                        break;
                    }
                }
            }
            tokio::time::sleep_until(next).await;
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}
