//! Dead letters: what no backend takes, kept until an operator has it sent again.

use std::sync::Arc;

use bytes::Bytes;
use perigee_shared::signal::{Counts, Signal};
use prost::Message;
use redb::{ReadableTable, WriteTransaction};
use serde::Serialize;

use super::counters::{Counters, Kind};
use super::error::SpoolError;
use super::intake::take_number;
use super::open::{Spool, decode};
use super::outlet::signal_of;
use super::tables::*;

/// A request that a backend refused for good.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Its signal.
    pub signal: Signal,
    /// The export request.
    pub body: Bytes,
    /// Items in it.
    pub items: Counts,
    /// Why, without payload.
    pub reason: String,
}

/// A letter as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LetterView {
    /// What to call it when it is replayed.
    pub id: u64,
    /// Whose it is.
    pub satellite: String,
    /// The segment it comes from.
    pub segment: String,
    /// Who refused it; none: the segment does not decode.
    pub exporter: Option<String>,
    /// The signal of a request.
    pub signal: Option<&'static str>,
    /// Items in it.
    pub items: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Why.
    pub reason: String,
    /// When, ns since the Unix epoch.
    pub unix_nano: u64,
    /// Whether it is to be sent again.
    pub replay: bool,
}

/// A letter that is to be sent again.
#[derive(Debug, Clone)]
pub struct Replay {
    /// Its id.
    pub id: u64,
    /// Whose it is.
    pub satellite: Arc<str>,
    /// The request.
    pub letter: Letter,
}

fn insert_record(txn: &WriteTransaction, record: &LetterRecord) -> Result<u64, SpoolError> {
    let id = take_number(txn, "next_letter")?;
    txn.open_table(LETTERS)?.insert(id, record.encode_to_vec().as_slice())?;
    Ok(id)
}

/// Keeps a request of `segment`; returns its bytes.
pub(super) fn insert(
    txn: &WriteTransaction,
    segment: &SegmentRecord,
    exporter: &str,
    letter: &Letter,
    now: u64,
) -> Result<u64, SpoolError> {
    let record = LetterRecord {
        satellite: segment.satellite.clone(),
        number: segment.number,
        header: segment.header.clone(),
        exporter: exporter.to_owned(),
        items: Some(letter.items.into()),
        signal: letter.signal as u32,
        reason: letter.reason.clone(),
        at: now,
        bytes: letter.body.len() as u64,
        replay: false,
    };
    let id = insert_record(txn, &record)?;
    let mut chunks = txn.open_table(LETTER_CHUNKS)?;
    for (n, chunk) in (0u32..).zip(letter.body.chunks(CHUNK)) {
        chunks.insert((id, n), chunk)?;
    }
    Ok(record.bytes)
}

/// Keeps the whole payload of the segment `entry`, which is still there.
pub(super) fn insert_segment(
    txn: &WriteTransaction,
    entry: u64,
    segment: &SegmentRecord,
    items: Counts,
    reason: &str,
    now: u64,
) -> Result<(), SpoolError> {
    let id = insert_record(
        txn,
        &LetterRecord {
            satellite: segment.satellite.clone(),
            number: segment.number,
            header: segment.header.clone(),
            exporter: String::new(),
            items: Some(items.into()),
            signal: 0,
            reason: reason.to_owned(),
            at: now,
            bytes: segment.header.as_ref().map_or(0, |h| h.payload_len),
            replay: false,
        },
    )?;
    let chunks = txn.open_table(SEGMENT_CHUNKS)?;
    let mut letters = txn.open_table(LETTER_CHUNKS)?;
    for row in chunks.range((entry, 0)..=(entry, u32::MAX))? {
        let (key, bytes) = row?;
        letters.insert((id, key.value().1), bytes.value())?;
    }
    Ok(())
}

fn delete(txn: &WriteTransaction, id: u64) -> Result<(), SpoolError> {
    txn.open_table(LETTERS)?.remove(id)?;
    txn.open_table(LETTER_CHUNKS)?.retain_in((id, 0)..=(id, u32::MAX), |_, _| false)?;
    Ok(())
}

impl Spool {
    /// Letters from `after` on, at most `limit`.
    pub fn letters(&self, after: u64, limit: usize) -> Result<Vec<LetterView>, SpoolError> {
        let read = self.read()?;
        let table = read.open_table(LETTERS)?;
        table
            .range(after.saturating_add(1)..)?
            .take(limit)
            .map(|row| {
                let (id, value) = row?;
                let record = decode::<LetterRecord>(value.value())?;
                Ok(LetterView {
                    id: id.value(),
                    satellite: record.satellite,
                    segment: header(record.header).map_or_else(String::new, |h| h.id.to_string()),
                    exporter: (!record.exporter.is_empty()).then_some(record.exporter),
                    signal: signal_of(record.signal).map(Signal::name),
                    items: Counts::from(record.items.unwrap_or_default()).total(),
                    bytes: record.bytes,
                    reason: record.reason,
                    unix_nano: record.at,
                    replay: record.replay,
                })
            })
            .collect()
    }

    /// Has letters sent again: those with these ids, or all. Segments that decode by now go back into the spool at once;
    /// requests are sent by their exporter. How many.
    pub fn replay(&mut self, ids: Option<&[u64]>) -> Result<u64, SpoolError> {
        let wanted: Vec<(u64, LetterRecord)> = {
            let read = self.read()?;
            let mut out = Vec::new();
            for row in read.open_table(LETTERS)?.iter()? {
                let (id, value) = row?;
                if ids.is_none_or(|ids| ids.contains(&id.value())) {
                    out.push((id.value(), decode::<LetterRecord>(value.value())?));
                }
            }
            out
        };
        let mut replayed = 0;
        for (id, record) in wanted {
            replayed += u64::from(if record.exporter.is_empty() {
                self.replay_segment(id, record)?
            } else {
                self.write(|txn| {
                    let marked = LetterRecord { replay: true, ..record };
                    txn.open_table(LETTERS)?.insert(id, marked.encode_to_vec().as_slice())?;
                    Ok(true)
                })?
            });
        }
        Ok(replayed)
    }

    fn replay_segment(&mut self, id: u64, record: LetterRecord) -> Result<bool, SpoolError> {
        let payload = self.letter_bytes(id)?;
        let Some(header) = header(record.header.clone()) else { return Ok(false) };
        match self.snapshot()?.requests(record.number, &header, &payload, true) {
            Err(SpoolError::Undecodable(_)) => return Ok(false),
            requests => drop(requests?),
        }
        let now = self.env.unix_nano();
        self.write(|txn| {
            let entry = take_number(txn, "next_entry")?;
            let items = Counts::from(record.items.unwrap_or_default());
            let whole = Counts::from(record.header.as_ref().and_then(|h| h.items).unwrap_or_default());
            // Signals that were exported before it was found not to decode stay settled.
            let settled = Signal::ALL.into_iter().filter(|s| whole[*s] > 0 && items[*s] == 0);
            let segment = SegmentRecord {
                satellite: record.satellite,
                header: record.header,
                committed: now,
                settled: settled.fold(0, |bits, s| bits | 1 << s as u8),
                number: record.number,
            };
            txn.open_table(SEGMENTS)?.insert(entry, segment.encode_to_vec().as_slice())?;
            let mut chunks = txn.open_table(SEGMENT_CHUNKS)?;
            for (n, chunk) in (0u32..).zip(payload.chunks(CHUNK)) {
                chunks.insert((entry, n), chunk)?;
            }
            Counters(txn.open_table(COUNTERS)?).sub(record.number, Kind::DeadLettered, 0, items)?;
            delete(txn, id)
        })?;
        Ok(true)
    }

    fn letter_bytes(&self, id: u64) -> Result<Vec<u8>, SpoolError> {
        let read = self.read()?;
        let mut out = Vec::new();
        for chunk in read.open_table(LETTER_CHUNKS)?.range((id, 0)..=(id, u32::MAX))? {
            out.extend_from_slice(chunk?.1.value());
        }
        Ok(out)
    }

    /// The next letter that `exporter` is to send again.
    pub fn next_replay(&self, exporter: &str) -> Result<Option<Replay>, SpoolError> {
        let read = self.read()?;
        for row in read.open_table(LETTERS)?.iter()? {
            let (id, value) = row?;
            let record = decode::<LetterRecord>(value.value())?;
            let Some(signal) = signal_of(record.signal) else { continue };
            if record.replay && record.exporter == exporter {
                let letter = Letter {
                    signal,
                    body: Bytes::from(self.letter_bytes(id.value())?),
                    items: Counts::from(record.items.unwrap_or_default()),
                    reason: record.reason,
                };
                return Ok(Some(Replay { id: id.value(), satellite: record.satellite.into(), letter }));
            }
        }
        Ok(None)
    }

    /// Notes that a letter was taken (`None`) or refused again, and why.
    pub fn replayed(&mut self, id: u64, refused: Option<&str>) -> Result<(), SpoolError> {
        let freed = self.write(|txn| {
            let found =
                txn.open_table(LETTERS)?.get(id)?.map(|v| decode::<LetterRecord>(v.value())).transpose()?;
            let Some(record) = found else { return Ok(None) };
            if let Some(reason) = refused {
                let record = LetterRecord { replay: false, reason: reason.to_owned(), ..record };
                txn.open_table(LETTERS)?.insert(id, record.encode_to_vec().as_slice())?;
                return Ok(None);
            }
            let items = Counts::from(record.items.unwrap_or_default());
            let mut counters = Counters(txn.open_table(COUNTERS)?);
            counters.sub(record.number, Kind::DeadLettered, 0, items)?;
            counters.add(record.number, Kind::Exported, 0, items)?;
            delete(txn, id)?;
            Ok(Some((record.number, record.bytes)))
        })?;
        if let Some((number, bytes)) = freed {
            self.usage.shrink(number, bytes);
        }
        Ok(())
    }
}
