//! The way out: each exporter has a durable cursor of its own; what all of a signal's exporters have passed is exported.

use std::sync::Arc;

use perigee_proto::link;
use perigee_shared::segment::{Base, Header};
use perigee_shared::signal::{Counts, Signal, SignalSet};
use prost::Message;
use redb::{ReadableTable, WriteTransaction};

use super::counters::{Counters, Kind};
use super::error::SpoolError;
use super::letters::{self, Letter};
use super::open::{Spool, decode};
use super::tables::*;

/// Settled entries that are deleted together, at most.
const SWEEP: usize = 64;

/// A segment for an exporter.
#[derive(Debug, Clone)]
pub struct Work {
    /// Its place in the order of commits.
    pub entry: u64,
    /// Whose it is.
    pub satellite: Arc<str>,
    /// The satellite's number in this spool.
    pub number: u32,
    /// What it says of itself.
    pub header: Arc<Header>,
    /// The encoded bytes.
    pub payload: Arc<[u8]>,
    /// The first request that is not done.
    pub request: u64,
    /// Whether it was decoded once since the start.
    pub checked: bool,
}

/// What an exporter has done.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// The segment.
    pub entry: u64,
    /// The first request of it that is not done.
    pub request: u64,
    /// The fingerprint of the cut that numbers the requests.
    pub fingerprint: u64,
    /// All of it is done.
    pub finished: bool,
    /// What the backend refused for good.
    pub letters: Vec<Letter>,
    /// Items that the backend took and rejected.
    pub rejected: Counts,
}

impl Spool {
    /// The next segment with one of `signals` for `exporter`, whose requests are numbered by `fingerprint`.
    pub fn next(
        &mut self,
        exporter: &str,
        signals: SignalSet,
        fingerprint: u64,
    ) -> Result<Option<Work>, SpoolError> {
        let read = self.read()?;
        let (from, request, cut) =
            read.open_table(CURSORS)?.get(exporter)?.map_or((0, 0, fingerprint), |v| v.value());
        let mut at = self.searched.get(exporter).copied().unwrap_or(0).max(from);
        for row in read.open_table(SEGMENTS)?.range(at..)? {
            let (entry, value) = row?;
            let entry = entry.value();
            // Entries only come at the end, so what was looked at once need not be again.
            at = entry + 1;
            let record = decode::<SegmentRecord>(value.value())?;
            let header = header(record.header).ok_or(SpoolError::Damaged("a header cannot be read"))?;
            let open = header.items.signals().iter().filter(|s| record.settled & 1 << *s as u8 == 0);
            if !open.into_iter().any(|s| signals.contains(s)) {
                continue;
            }
            let payload = payload(&read.open_table(SEGMENT_CHUNKS)?, entry, &header)?;
            // Under another cut the number means nothing: the segment is sent from its beginning.
            let request = if entry == from && cut == fingerprint { request } else { 0 };
            self.searched.insert(exporter.to_owned(), entry);
            return Ok(Some(Work {
                entry,
                satellite: record.satellite.into(),
                number: record.number,
                header: Arc::new(header),
                payload: payload.into(),
                request,
                checked: self.checked.contains(&entry),
            }));
        }
        self.searched.insert(exporter.to_owned(), at);
        Ok(None)
    }

    /// Shows `each` every segment in the spool with its satellite and what it leans on, in the order of commits.
    pub fn each_segment(
        &self,
        mut each: impl FnMut(&str, &Header, &[u8], Option<&Base>),
    ) -> Result<(), SpoolError> {
        let snapshot = self.snapshot()?;
        let chunks = snapshot.read.open_table(SEGMENT_CHUNKS)?;
        for row in snapshot.read.open_table(SEGMENTS)?.iter()? {
            let (entry, value) = row?;
            let record = decode::<SegmentRecord>(value.value())?;
            let header = header(record.header).ok_or(SpoolError::Damaged("a header cannot be read"))?;
            let payload = payload(&chunks, entry.value(), &header)?;
            let base = snapshot.base_of(record.number, &header)?;
            each(&record.satellite, &header, &payload, base.as_deref());
        }
        Ok(())
    }

    /// Notes that `entry` decodes.
    pub fn mark_checked(&mut self, entry: u64) {
        self.checked.insert(entry);
    }

    /// Moves the cursor of `exporter` and keeps what its backend refused, in one synced transaction.
    pub fn progress(&mut self, exporter: &str, progress: &Progress) -> Result<(), SpoolError> {
        // First, since what fails is tried again, and the rest must not be done twice.
        if self.finished.len() >= SWEEP {
            self.sweep()?;
        }
        let now = self.env.unix_nano();
        let entry = progress.entry;
        let (added, settled) = self.write(|txn| {
            let mut added = Vec::new();
            let Some(record) = segment(txn, entry)? else { return Ok((added, None)) };
            let mut dead = Counts::ZERO;
            for letter in &progress.letters {
                dead += letter.items;
                added.push((record.number, letters::insert(txn, &record, exporter, letter, now)?));
            }
            if dead.total() > 0 {
                let mut table = txn.open_table(ENTRY_DEAD)?;
                let before = table.get((entry, exporter))?.and_then(|v| Counts::from_bytes(v.value()));
                table.insert((entry, exporter), &(before.unwrap_or_default() + dead).to_bytes())?;
            }
            Counters(txn.open_table(COUNTERS)?).add(record.number, Kind::Rejected, 0, progress.rejected)?;
            let place = if progress.finished { (entry + 1, 0) } else { (entry, progress.request) };
            txn.open_table(CURSORS)?.insert(exporter, (place.0, place.1, progress.fingerprint))?;
            let settled = if progress.finished { self.settle(txn, entry, record)? } else { None };
            Ok((added, settled))
        })?;
        for (number, bytes) in added {
            self.usage.grow(number, bytes);
        }
        if let Some(number) = settled {
            self.checked.remove(&entry);
            self.finished.insert(entry, number);
        }
        Ok(())
    }

    /// Counts the signals of an entry that every exporter has passed; the satellite's number when that are all.
    fn settle(
        &self,
        txn: &WriteTransaction,
        entry: u64,
        mut record: SegmentRecord,
    ) -> Result<Option<u32>, SpoolError> {
        let items = Counts::from(record.header.as_ref().and_then(|h| h.items).unwrap_or_default());
        let before = record.settled;
        {
            let cursors = txn.open_table(CURSORS)?;
            let dead = txn.open_table(ENTRY_DEAD)?;
            let mut counters = Counters(txn.open_table(COUNTERS)?);
            for signal in items.signals().iter().filter(|s| before & 1 << *s as u8 == 0) {
                let mut passed = true;
                let mut refused = 0;
                for exporter in self.exporters_of(signal) {
                    passed &= cursors.get(exporter)?.is_some_and(|v| v.value().0 > entry);
                    let of = dead.get((entry, exporter))?.and_then(|v| Counts::from_bytes(v.value()));
                    // Of several exporters that refused, nobody knows whether it was the same items.
                    refused = refused.max(of.map_or(0, |counts| counts[signal]));
                }
                if passed {
                    record.settled |= 1 << signal as u8;
                    let refused = refused.min(items[signal]);
                    let number = record.number;
                    counters.add(number, Kind::DeadLettered, 0, Counts::of(signal, refused))?;
                    counters.add(number, Kind::Exported, 0, Counts::of(signal, items[signal] - refused))?;
                }
            }
        }
        if record.settled != before {
            txn.open_table(SEGMENTS)?.insert(entry, record.encode_to_vec().as_slice())?;
        }
        let done = items.signals().iter().all(|s| record.settled & 1 << s as u8 != 0);
        Ok(done.then_some(record.number))
    }

    /// Settles what the exporters of this configuration have passed: one may have been taken out of it.
    pub(super) fn settle_all(&mut self) -> Result<(), SpoolError> {
        if self.settings.routes.is_empty() {
            return Ok(());
        }
        let entries: Vec<u64> = {
            let read = self.read()?;
            let table = read.open_table(SEGMENTS)?;
            let rows = table.iter()?;
            rows.map(|row| row.map(|(k, _)| k.value())).collect::<Result<_, _>>()?
        };
        for part in entries.chunks(SWEEP) {
            let finished = self.write(|txn| {
                let mut finished = Vec::new();
                for entry in part {
                    if let Some(record) = segment(txn, *entry)?
                        && let Some(number) = self.settle(txn, *entry, record)?
                    {
                        finished.push((*entry, number));
                    }
                }
                Ok(finished)
            })?;
            self.finished.extend(finished);
        }
        self.sweep()
    }

    /// Deletes settled entries, many at a time; one alone would rewrite its neighbours.
    pub fn sweep(&mut self) -> Result<(), SpoolError> {
        let any = !self.finished.is_empty();
        while !self.finished.is_empty() {
            let part: Vec<(u64, u32)> =
                self.finished.iter().take(SWEEP).map(|(entry, number)| (*entry, *number)).collect();
            let freed = self.write(|txn| {
                part.iter()
                    .map(|(entry, number)| Ok((*number, delete_segment(txn, *entry)?)))
                    .collect::<Result<Vec<_>, SpoolError>>()
            })?;
            for (number, bytes) in freed {
                self.usage.shrink(number, bytes);
            }
            for (entry, _) in part {
                self.finished.remove(&entry);
            }
        }
        if any { self.sweep_bases() } else { Ok(()) }
    }

    /// Puts a whole segment that does not decode into dead-letter.
    pub fn condemn(&mut self, entry: u64, reason: &str) -> Result<(), SpoolError> {
        let now = self.env.unix_nano();
        let changed = self.write(|txn| {
            let Some(record) = segment(txn, entry)? else { return Ok(None) };
            let header = record.header.clone().unwrap_or_default();
            let items = Counts::from(header.items.unwrap_or_default());
            let open = SignalSet::ALL.iter().filter(|s| record.settled & 1 << *s as u8 == 0);
            let left: Counts = open.map(|s| Counts::of(s, items[s])).sum();
            Counters(txn.open_table(COUNTERS)?).add(record.number, Kind::DeadLettered, 0, left)?;
            letters::insert_segment(txn, entry, &record, left, reason, now)?;
            delete_segment(txn, entry)?;
            Ok(Some(record.number))
        })?;
        // Its bytes stay in use, as a letter's.
        if changed.is_some() {
            self.checked.remove(&entry);
        }
        Ok(())
    }

    /// The number that the next committed segment will have.
    pub fn next_entry(&self) -> Result<u64, SpoolError> {
        Ok(self.read()?.open_table(META)?.get("next_entry")?.map_or(1, |v| v.value()))
    }
}

/// The payload of an entry.
pub(super) fn payload(
    chunks: &impl ReadableTable<(u64, u32), &'static [u8]>,
    entry: u64,
    header: &Header,
) -> Result<Vec<u8>, SpoolError> {
    let mut payload = Vec::with_capacity(header.payload_len as usize);
    for chunk in chunks.range((entry, 0)..=(entry, u32::MAX))? {
        payload.extend_from_slice(chunk?.1.value());
    }
    Ok(payload)
}

fn segment(txn: &WriteTransaction, entry: u64) -> Result<Option<SegmentRecord>, SpoolError> {
    txn.open_table(SEGMENTS)?.get(entry)?.map(|v| decode(v.value())).transpose()
}

/// Deletes an entry; returns the bytes of its payload.
fn delete_segment(txn: &WriteTransaction, entry: u64) -> Result<u64, SpoolError> {
    let mut segments = txn.open_table(SEGMENTS)?;
    let Some(record) = segments.remove(entry)?.map(|v| decode::<SegmentRecord>(v.value())).transpose()?
    else {
        return Ok(0);
    };
    txn.open_table(SEGMENT_CHUNKS)?.retain_in((entry, 0)..=(entry, u32::MAX), |_, _| false)?;
    txn.open_table(ENTRY_DEAD)?.retain_in((entry, "")..(entry + 1, ""), |_, _| false)?;
    Ok(record.header.map_or(0, |h: link::SegmentHeader| h.payload_len))
}

/// The one signal of a request's items.
pub(super) fn signal_of(number: u32) -> Option<Signal> {
    u8::try_from(number).ok().and_then(Signal::from_number)
}
