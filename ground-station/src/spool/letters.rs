//! Dead letters: what no backend takes, kept until an operator has it sent again.

use std::sync::Arc;

use bytes::Bytes;
use perigee_proto::link::DropReason;
use perigee_shared::compress::{Encoding, decompress_capped};
use perigee_shared::export::Limits;
use perigee_shared::segment::{Header, hash};
use perigee_shared::signal::{Counts, Signal};
use perigee_shared::store::{LARGEST_PIECE, join};
use prost::Message;
use redb::ReadableTable;
use serde::Serialize;

use super::contents::Kept;
use super::counters::{Counters, Kind};
use super::decode::{At, Fault};
use super::error::SpoolError;
use super::file::{Spool, Txn, View};
use super::gaps::{self, Lost};
use super::intake::{enter, take_number};
use super::tables::*;

/// A body from this size on is packed.
const LARGE: usize = 1 << 20;

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
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

/// The next letters that an exporter is to send again, as they are found.
pub(super) enum Next {
    /// Of one signal, enough for one request; none: there is none.
    Whole(Vec<Replay>),
    /// Its bytes are not what was kept.
    Damaged(u64),
}

fn signal_of(number: u32) -> Option<Signal> {
    u8::try_from(number).ok().and_then(Signal::from_number)
}

fn keep(txn: &mut Txn<'_>, record: &LetterRecord) -> Result<u64, SpoolError> {
    let id = take_number(txn.tables, "next_letter")?;
    txn.tables.open_table(LETTERS)?.insert(id, record.encode_to_vec().as_slice())?;
    txn.bytes(record.number, Kept::Letter, 0, record.bytes);
    Ok(id)
}

/// Keeps a request of `segment`.
pub(super) fn insert(
    txn: &mut Txn<'_>,
    segment: &SegmentRecord,
    exporter: &str,
    letter: &Letter,
) -> Result<(), SpoolError> {
    let packed = packed(&letter.body);
    let stored = packed.as_deref().unwrap_or(&letter.body);
    let record = LetterRecord {
        satellite: segment.satellite.clone(),
        number: segment.number,
        header: segment.header.clone(),
        exporter: exporter.to_owned(),
        items: Some(letter.items.into()),
        signal: letter.signal as u32,
        reason: letter.reason.clone(),
        at: txn.now,
        bytes: stored.len() as u64,
        replay: false,
        hash: hash(&letter.body).to_vec(),
        unpacked: packed.as_ref().map_or(0, |_| letter.body.len() as u64),
    };
    let of = keep(txn, &record)?;
    let mut chunks = txn.tables.open_table(LETTER_CHUNKS)?;
    for (piece, bytes) in (0..).zip(stored.chunks(LARGEST_PIECE)) {
        chunks.insert(ChunkKey { of, piece }, bytes)?;
    }
    Ok(())
}

/// A large body as a zstd frame, if that takes a quarter: a segment of kilobytes may have unpacked to it, and must not fill the spool.
fn packed(body: &[u8]) -> Option<Vec<u8>> {
    if body.len() < LARGE {
        return None;
    }
    let mut packed = Vec::with_capacity(body.len() / 4);
    zstd::bulk::Compressor::new(1).ok()?.compress_to_buffer(body, &mut packed).ok()?;
    Some(packed)
}

/// Keeps the whole payload of a segment, which is still there.
pub(super) fn insert_segment(
    txn: &mut Txn<'_>,
    segment: &SegmentRecord,
    items: Counts,
    reason: &str,
) -> Result<(), SpoolError> {
    let record = LetterRecord {
        satellite: segment.satellite.clone(),
        number: segment.number,
        header: segment.header.clone(),
        items: Some(items.into()),
        reason: reason.to_owned(),
        at: txn.now,
        bytes: segment.bytes(),
        ..LetterRecord::default()
    };
    let of = keep(txn, &record)?;
    let chunks = txn.tables.open_table(SEGMENT_CHUNKS)?;
    let mut letters = txn.tables.open_table(LETTER_CHUNKS)?;
    for row in chunks.range(ChunkKey::all(segment.payload))? {
        let (key, bytes) = row?;
        letters.insert(ChunkKey { of, ..key.value() }, bytes.value())?;
    }
    Ok(())
}

fn delete(txn: &mut Txn<'_>, id: u64, record: &LetterRecord) -> Result<(), SpoolError> {
    txn.tables.open_table(LETTERS)?.remove(id)?;
    txn.tables.open_table(LETTER_CHUNKS)?.retain_in(ChunkKey::all(id), |_, _| false)?;
    txn.bytes(record.number, Kept::Letter, record.bytes, 0);
    Ok(())
}

fn record(txn: &Txn<'_>, id: u64) -> Result<Option<LetterRecord>, SpoolError> {
    txn.tables.open_table(LETTERS)?.get(id)?.map(|v| decode(v.value())).transpose()
}

pub(super) fn bytes(view: &View<'_>, id: u64, record: &LetterRecord) -> Result<Vec<u8>, SpoolError> {
    let chunks = view.tables.open_table(LETTER_CHUNKS)?;
    let stored = join(chunks.range(ChunkKey::all(id))?, record.bytes as usize)?;
    if record.unpacked == 0 {
        return Ok(stored);
    }
    // What does not unpack has not the hash of the letter.
    Ok(decompress_capped(Encoding::Zstd, &stored, record.unpacked as usize).unwrap_or_default())
}

/// Letters after the id `after`, at most `limit`.
pub(super) fn list(view: &View<'_>, after: u64, limit: usize) -> Result<Vec<LetterView>, SpoolError> {
    let table = view.tables.open_table(LETTERS)?;
    let rows = table.range(after.saturating_add(1)..)?.take(limit);
    rows.map(|row| row.map_err(SpoolError::from).and_then(|(id, value)| shown(id.value(), value.value())))
        .collect()
}

/// Letters below the id `before`, the latest first, at most `limit`.
pub(super) fn list_back(view: &View<'_>, before: u64, limit: usize) -> Result<Vec<LetterView>, SpoolError> {
    let table = view.tables.open_table(LETTERS)?;
    let rows = table.range(..before)?.rev().take(limit);
    rows.map(|row| row.map_err(SpoolError::from).and_then(|(id, value)| shown(id.value(), value.value())))
        .collect()
}

pub(super) fn shown(id: u64, value: &[u8]) -> Result<LetterView, SpoolError> {
    let record = decode::<LetterRecord>(value)?;
    let bytes = record.length();
    Ok(LetterView {
        id,
        satellite: record.satellite,
        segment: header(record.header).map_or_else(String::new, |h| h.id.to_string()),
        exporter: (!record.exporter.is_empty()).then_some(record.exporter),
        signal: signal_of(record.signal).map(Signal::name),
        items: Counts::from(record.items.unwrap_or_default()).total(),
        bytes,
        reason: record.reason,
        unix_nano: record.at,
        replay: record.replay,
    })
}

/// Deletes letters that an operator gives up; their items become a gap. How many there were.
pub(super) fn discard(spool: &mut Spool, ids: &[u64]) -> Result<u64, SpoolError> {
    spool.write(|txn| {
        let mut discarded = 0;
        for id in ids {
            discarded += u64::from(give_up(txn, *id)?);
        }
        Ok(discarded)
    })
}

/// The same for one of them; whether it was there.
pub(super) fn give_up(txn: &mut Txn<'_>, id: u64) -> Result<bool, SpoolError> {
    let Some(letter) = record(txn, id)? else { return Ok(false) };
    let items = Counts::from(letter.items.unwrap_or_default());
    Counters::of(txn.tables, letter.number)?.sub(Kind::DeadLettered, 0, items)?;
    if let Some(header) = header(letter.header.clone()) {
        let lost = Lost::segment(letter.number, &header, items);
        gaps::lose_for(txn.tables, txn.now, lost, DropReason::Operator)?;
    }
    delete(txn, id, &letter)?;
    Ok(true)
}

/// Has letters sent again: those with these ids, or all. Segments that decode by now go back into the spool at once; requests are
/// sent by their exporter. How many.
pub(super) fn replay(spool: &mut Spool, ids: Option<&[u64]>) -> Result<u64, SpoolError> {
    let wanted = spool.read(|view| {
        let mut wanted = Vec::new();
        for row in view.tables.open_table(LETTERS)?.iter()? {
            let (id, value) = row?;
            if ids.is_none_or(|ids| ids.contains(&id.value())) {
                wanted.push((id.value(), decode::<LetterRecord>(value.value())?));
            }
        }
        Ok(wanted)
    })?;
    let mut replayed = 0;
    for (id, record) in wanted {
        replayed += u64::from(if record.exporter.is_empty() {
            replay_segment(spool, id, record)?
        } else {
            spool.write(|txn| mark(txn, id))?
        });
    }
    Ok(replayed)
}

fn replay_segment(spool: &mut Spool, id: u64, letter: LetterRecord) -> Result<bool, SpoolError> {
    let Some(header) = header(letter.header.clone()) else { return Ok(false) };
    let bytes = spool.read(|view| bytes(view, id, &letter))?;
    match spool.snapshot()?.look_through(letter.number, &header, At::Bytes(&bytes)) {
        Ok(_) => {}
        Err(Fault::Payload) => {
            spool.write(|txn| lose(txn, id))?;
            return Ok(false);
        }
        Err(Fault::Base(_) | Fault::Undecodable(_)) => return Ok(false),
        Err(Fault::Store(error)) => {
            spool.note(&error);
            return Err(error.into());
        }
    }
    spool.write(|txn| back_into_spool(txn, id, &letter, &header, &bytes)).map(|()| true)
}

/// Makes the segment in a letter an entry again: it decodes by now.
pub(super) fn back_into_spool(
    txn: &mut Txn<'_>,
    id: u64,
    letter: &LetterRecord,
    header: &Header,
    bytes: &[u8],
) -> Result<(), SpoolError> {
    if record(txn, id)?.is_none() {
        return Ok(());
    }
    let items = Counts::from(letter.items.unwrap_or_default());
    // Signals that were exported before it was found not to decode stay settled.
    let settled = header.items.signals().iter().filter(|s| items[*s] == 0);
    let settled = settled.fold(0, |bits, s| bits | 1 << s as u8);
    let payload = take_number(txn.tables, "next_entry")?;
    let mut chunks = txn.tables.open_table(SEGMENT_CHUNKS)?;
    for (piece, bytes) in (0..).zip(bytes.chunks(LARGEST_PIECE)) {
        chunks.insert(ChunkKey { of: payload, piece }, bytes)?;
    }
    drop(chunks);
    let segment = SegmentRecord {
        satellite: letter.satellite.clone(),
        header: letter.header.clone(),
        committed: txn.now,
        settled,
        number: letter.number,
        payload,
        station: txn.contents.settings.station.clone(),
    };
    enter(txn, header.id, &segment)?;
    Counters::of(txn.tables, letter.number)?.sub(Kind::DeadLettered, 0, items)?;
    delete(txn, id, letter)
}

/// Has the request in a letter sent again by its exporter.
pub(super) fn mark(txn: &Txn<'_>, id: u64) -> Result<bool, SpoolError> {
    let Some(letter) = record(txn, id)? else { return Ok(false) };
    let marked = LetterRecord { replay: true, ..letter }.encode_to_vec();
    txn.tables.open_table(LETTERS)?.insert(id, marked.as_slice())?;
    Ok(true)
}

/// The next letters that `exporter` is to send again.
pub(super) fn next_replays(view: &View<'_>, exporter: &str, limits: Limits) -> Result<Next, SpoolError> {
    let (mut found, mut total, mut length) = (Vec::<Replay>::new(), 0, 0);
    for row in view.tables.open_table(LETTERS)?.iter()? {
        let (id, value) = row?;
        let record = decode::<LetterRecord>(value.value())?;
        let Some(signal) = signal_of(record.signal) else { continue };
        let other = found.first().is_some_and(|first| first.letter.signal != signal);
        if !record.replay || record.exporter != exporter || other {
            continue;
        }
        let items = Counts::from(record.items.unwrap_or_default());
        (total, length) = (total + items.total(), length + record.length() as usize);
        if !found.is_empty() && (total > limits.items || length > limits.bytes) {
            break;
        }
        let id = id.value();
        let body = bytes(view, id, &record)?;
        // Letters of format 1 have no hash.
        if !record.hash.is_empty() && hash(&body) != *record.hash {
            return Ok(Next::Damaged(id));
        }
        let letter = Letter { signal, body: Bytes::from(body), items, reason: record.reason };
        found.push(Replay { id, satellite: record.satellite.into(), letter });
    }
    Ok(Next::Whole(found))
}

/// Notes that a letter was taken (`None`) or refused again, and why.
pub(super) fn replayed(txn: &mut Txn<'_>, id: u64, refused: Option<&str>) -> Result<(), SpoolError> {
    let Some(letter) = record(txn, id)? else { return Ok(()) };
    if let Some(reason) = refused {
        let letter = LetterRecord { replay: false, reason: reason.to_owned(), ..letter };
        txn.tables.open_table(LETTERS)?.insert(id, letter.encode_to_vec().as_slice())?;
        return Ok(());
    }
    let items = Counts::from(letter.items.unwrap_or_default());
    let mut counters = Counters::of(txn.tables, letter.number)?;
    counters.sub(Kind::DeadLettered, 0, items)?;
    counters.add(Kind::Exported, 0, items)?;
    drop(counters);
    delete(txn, id, &letter)
}

/// Removes a letter whose bytes are not what was kept; its items become a gap.
pub(super) fn lose(txn: &mut Txn<'_>, id: u64) -> Result<(), SpoolError> {
    let Some(letter) = record(txn, id)? else { return Ok(()) };
    tracing::error!(
        event.name = "perigee.spool.lost",
        satellite = letter.satellite,
        letter = id,
        "a dead letter is damaged on this disk; it is removed, and its items are a gap"
    );
    let items = Counts::from(letter.items.unwrap_or_default());
    Counters::of(txn.tables, letter.number)?.sub(Kind::DeadLettered, 0, items)?;
    if let Some(header) = header(letter.header.clone()) {
        gaps::lose(txn.tables, txn.now, Lost::segment(letter.number, &header, items))?;
    }
    delete(txn, id, &letter)
}
