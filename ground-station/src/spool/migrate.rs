//! From format 1 to format 2, in one transaction, when a file is opened for the first time by software that knows format 2:
//! entries get their number in their satellite, cursors their lanes, and the ledger its id. Payloads stay where they are.
//!
//! ```text
//! format 1   segments: payload number → SegmentRecord         cursors: exporter → payload number, request, cut
//! format 2   entries: satellite, lane, entry → SegmentRecord  lane_cursors: exporter, satellite, lane → entry, request, cut
//! ```

use std::collections::BTreeMap;

use perigee_shared::env::Env;
use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::contents::{Settings, make_tables};
use super::error::SpoolError;
use super::mirror;
use super::tables::*;

pub(super) const SEGMENTS_1: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("segments");
pub(super) const CURSORS_1: TableDefinition<'_, &str, Cursor> = TableDefinition::new("cursors");

/// Brings a file of format 1 to format 2; leaves one of format 2 as it is.
pub(super) fn to_format_2(db: &Database, env: &Env, settings: &Settings) -> Result<(), SpoolError> {
    let read = db.begin_read()?;
    let format = read.open_table(META)?.get("format")?.map(|v| v.value());
    // What was read of a damaged file may be without the number, but has no table of format 1 if it was none.
    let earlier = format.map_or_else(|| read.open_table(SEGMENTS_1).is_ok(), |format| format < FORMAT);
    if !earlier {
        return Ok(());
    }
    let txn = db.begin_write()?;
    make_tables(&txn)?;
    let lanes = move_entries(&txn)?;
    move_cursors(&txn, &lanes)?;
    let mut meta = txn.open_table(META)?;
    // An older copy of the spool that was put back keeps the ledger id of the mirror beside it.
    meta.insert("ledger", mirror::ledger(env, settings).unwrap_or_else(|| env.random() | 1))?;
    meta.insert("format", FORMAT)?;
    drop(meta);
    txn.commit()?;
    tracing::info!("the spool was converted to format 2; earlier software refuses it from now on");
    Ok(())
}

/// By satellite and lane: payload number and entry number of each entry, in order.
type Lanes = BTreeMap<(u32, u8), Vec<(u64, u64)>>;

fn move_entries(txn: &WriteTransaction) -> Result<Lanes, SpoolError> {
    let (mut lanes, mut next) = (Lanes::new(), BTreeMap::<u32, u64>::new());
    let old = txn.open_table(SEGMENTS_1)?;
    let mut entries = txn.open_table(ENTRIES)?;
    for row in old.iter()? {
        let (payload, value) = row?;
        let mut record = decode::<SegmentRecord>(value.value())?;
        record.payload = payload.value();
        let (satellite, lane) = (record.number, record.header()?.id.lane.0);
        let number = next.entry(satellite).or_insert(1);
        let entry = *number;
        *number += 1;
        entries.insert(EntryKey { satellite, lane, entry }, record.encode_to_vec().as_slice())?;
        lanes.entry((satellite, lane)).or_default().push((record.payload, entry));
    }
    drop(old);
    txn.delete_table(SEGMENTS_1)?;
    let mut meta = txn.open_table(META)?;
    for (satellite, next) in next {
        meta.insert(format!("entry.{satellite}").as_str(), next)?;
    }
    Ok(lanes)
}

/// An exporter is in each lane behind the last segment that was before its one place, and in the middle of the one at it.
fn move_cursors(txn: &WriteTransaction, lanes: &Lanes) -> Result<(), SpoolError> {
    let mut places = Vec::new();
    for row in txn.open_table(CURSORS_1)?.iter()? {
        let (exporter, cursor) = row?;
        places.push((exporter.value().to_owned(), cursor.value()));
    }
    txn.delete_table(CURSORS_1)?;
    let mut cursors = txn.open_table(CURSORS)?;
    for (exporter, old) in &places {
        for ((satellite, lane), entries) in lanes {
            let before = entries.iter().rev().find(|(payload, _)| *payload < old.entry);
            let cursor = match entries.iter().find(|(payload, _)| *payload == old.entry) {
                Some((_, entry)) => Cursor { entry: *entry, ..*old },
                None => match before {
                    Some((_, entry)) => Cursor { entry: entry + 1, request: 0, cut: old.cut },
                    None => continue,
                },
            };
            cursors.insert((exporter.as_str(), *satellite, *lane), cursor)?;
        }
    }
    Ok(())
}
