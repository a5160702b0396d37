//! The archive: segments that stay after every exporter is done with them, for `replay.rs` to send again.
//!
//! A finished entry becomes a row of `kept`, by its payload number; its payload stays where it is. What is kept is in no budget that
//! refuses anything: it may take what `storage.keep` says and what `storage.max_bytes` leaves, and the oldest go first. A kept segment
//! also goes with its row in the catalogue, by which a replay finds it.
//!
//! Bases stay while a kept segment depends on them. A base that nothing else needs counts as kept (`bases.rs`).

use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableError};

use super::bases;
use super::catalogue::Keep;
use super::contents::{Effect, Kept};
use super::error::SpoolError;
use super::file::{Spool, Txn, View};
use super::tables::*;

/// Kept segments that one transaction gives up, at most.
const SWEEP: usize = 64;

/// Makes the tables in a file of earlier software.
pub(super) fn begin(db: &Database) -> Result<(), SpoolError> {
    match db.begin_read()?.open_table(ALARMS) {
        Err(TableError::TableDoesNotExist(_)) => {}
        table => return Ok(table.map(drop)?),
    }
    let txn = db.begin_write()?;
    txn.open_table(KEPT)?;
    txn.open_table(REPLAYS)?;
    txn.open_table(ALARMS)?;
    Ok(txn.commit()?)
}

/// Keeps a segment that every exporter has passed. Whether it is kept; then its payload stays.
pub(super) fn keep(txn: &mut Txn<'_>, record: &SegmentRecord) -> Result<bool, SpoolError> {
    let header = record.header()?;
    if !txn.contents.settings.keep.is_on() || header.items.total() == 0 {
        return Ok(false);
    }
    txn.tables.open_table(KEPT)?.insert(record.payload, record.encode_to_vec().as_slice())?;
    txn.bytes(record.number, Kept::Archive, 0, record.bytes());
    txn.contents.decoded.forget(record.payload);
    bases::need_for_kept(txn, record.number, &header, record.payload)?;
    Ok(true)
}

/// Gives a kept segment up.
pub(super) fn give_up(txn: &mut Txn<'_>, payload: u64) -> Result<(), SpoolError> {
    let removed = txn.tables.open_table(KEPT)?.remove(payload)?.map(|v| decode::<SegmentRecord>(v.value()));
    let Some(record) = removed.transpose()? else { return Ok(()) };
    txn.tables.open_table(SEGMENT_CHUNKS)?.retain_in(ChunkKey::all(payload), |_, _| false)?;
    txn.bytes(record.number, Kept::Archive, record.bytes(), 0);
    txn.effects.push(Effect::BasesHeld(true));
    Ok(())
}

/// Whether what is kept has to make room; `limit` is what it may take together with everything else.
pub(super) fn is_above(spool: &Spool, limit: u64) -> bool {
    let contents = spool.contents();
    let kept = contents.usage.kept();
    kept > 0 && (kept > contents.settings.keep.bytes || kept + contents.usage.total > limit)
}

/// Gives up what is kept for longer than is wanted, or is above its bounds; the oldest first.
pub(super) fn trim(spool: &mut Spool, limit: u64) -> Result<(), SpoolError> {
    let oldest = spool.now().saturating_sub(spool.contents().settings.keep.nano);
    loop {
        let some = spool.read(|view| to_give_up(view, oldest, limit))?;
        if some.is_empty() {
            return Ok(());
        }
        spool.write(|txn| some.iter().try_for_each(|payload| give_up(txn, *payload)))?;
        bases::sweep(spool)?;
    }
}

/// Some of the oldest payloads that have to go.
fn to_give_up(view: &View<'_>, oldest: u64, limit: u64) -> Result<Vec<u64>, SpoolError> {
    let Keep { bytes, .. } = view.contents.settings.keep;
    let kept = view.tables.open_table(KEPT)?;
    if kept.is_empty()? {
        return Ok(Vec::new());
    }
    let known = view.tables.open_table(CATALOGUE)?.first()?.map(|(payload, _)| payload.value());
    let (mut left, mut out) = (view.contents.usage.kept(), Vec::new());
    for row in kept.iter()?.take(SWEEP) {
        let (payload, value) = row?;
        let (payload, record) = (payload.value(), decode::<SegmentRecord>(value.value())?);
        let is_known = known.is_some_and(|known| known <= payload);
        let fits = left <= bytes && left + view.contents.usage.total <= limit;
        if record.committed >= oldest && is_known && fits {
            break;
        }
        left = left.saturating_sub(record.bytes());
        out.push(payload);
    }
    Ok(out)
}
