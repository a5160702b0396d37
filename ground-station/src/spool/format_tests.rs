//! Files of format 1, and what becomes of them. Files that format 1 has written are in `tests/formats`; these are made by turning
//! back what this software writes.

use std::collections::BTreeMap;
use std::path::Path;

use perigee_shared::env::Env;
use perigee_shared::signal::{Counts, Signal, SignalSet};
use prost::Message;
use redb::{ReadableTable, ReadableTableMetadata};

use super::file::Spool;
use super::migrate::{CURSORS_1, SEGMENTS_1};
use super::tables::*;
use super::tests::{account, commit, done, open_with, pass, progress, settings};
use super::*;

/// Turns a file back into what format 1 had. The cursors are those of the first lane that an exporter has.
pub(super) fn back_to_format_1(path: &Path) {
    let db = redb::Database::open(path).unwrap();
    let txn = db.begin_write().unwrap();
    let mut numbers = BTreeMap::new();
    for row in txn.open_table(ENTRIES).unwrap().iter().unwrap() {
        let (key, value) = row.unwrap();
        let mut record: SegmentRecord = decode(value.value()).unwrap();
        let number = std::mem::take(&mut record.payload);
        numbers.insert(key.value(), number);
        txn.open_table(SEGMENTS_1).unwrap().insert(number, record.encode_to_vec().as_slice()).unwrap();
    }
    txn.open_table(SEGMENTS_1).unwrap();
    let mut meta = txn.open_table(META).unwrap();
    let next = meta.get("next_entry").unwrap().map_or(1, |v| v.value());
    for row in txn.open_table(CURSORS).unwrap().iter().unwrap() {
        let (key, cursor) = row.unwrap();
        let (exporter, satellite, lane) = key.value();
        let at = EntryKey { satellite, lane, entry: cursor.value().entry };
        let entry = numbers.get(&at).copied().unwrap_or(next);
        let cursor = Cursor { entry, ..cursor.value() };
        txn.open_table(CURSORS_1).unwrap().insert(exporter, cursor).unwrap();
    }
    txn.open_table(CURSORS_1).unwrap();
    meta.insert("format", 1).unwrap();
    meta.retain(|name, _| !name.starts_with("entry.") && name != "ledger").unwrap();
    drop(meta);
    assert!(txn.delete_table(ENTRIES).unwrap() && txn.delete_table(CURSORS).unwrap());
    txn.commit().unwrap();
}

#[test]
fn a_spool_of_format_1_goes_on_where_every_exporter_was() {
    let dir = tempfile::tempdir().unwrap();
    let routes = [("a", SignalSet::ALL), ("b", SignalSet::ALL), ("c", SignalSet::ALL)];
    let spans = |n| Counts::of(Signal::Traces, n);
    let mut spool = open_with(&dir, &routes);
    for sequence in 1..=4 {
        commit(&mut spool, sequence, spans(sequence));
    }
    pass(&mut spool, "a", SignalSet::ALL);
    let place = |entry| Place(EntryKey { satellite: 1, lane: 8, entry });
    progress(&mut spool, "b", &done(place(1)));
    progress(&mut spool, "b", &Progress { request: 5, ..Progress::at(place(2), 1) });
    spool.close().unwrap();
    back_to_format_1(&dir.path().join("spool.redb"));

    let mut spool = open_with(&dir, &routes);
    let next = |spool: &mut Spool, exporter: &str| {
        let found = spool.read(|view| outlet::next(view, exporter, SignalSet::ALL, 1)).unwrap();
        found.map(|found| (found.payload, found.first.least()))
    };
    assert_eq!(next(&mut spool, "a"), None);
    assert_eq!(next(&mut spool, "b"), Some((2, 5)), "in the middle of a segment");
    assert_eq!(next(&mut spool, "c"), Some((1, 0)), "it had not begun");
    assert_eq!(pass(&mut spool, "b", SignalSet::ALL), 3);
    assert_eq!(pass(&mut spool, "c", SignalSet::ALL), 4);
    assert_eq!((account(&mut spool).exported.spans, account(&mut spool).in_spool.spans), (10, 0));
    assert_eq!(commit(&mut spool, 4, spans(4)), Applied::Duplicate);
    assert_eq!(commit(&mut spool, 5, spans(5)), Applied::New);
    assert_eq!(next(&mut spool, "a"), Some((5, 0)));
    let ledger = spool.contents().ledger;
    assert_ne!(ledger, 0);
    drop(spool);
    let spool = open_with(&dir, &routes);
    assert_eq!(spool.contents().ledger, ledger, "the ledger's id is kept");
}

#[test]
fn format_2_leaves_nothing_of_format_1_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open_with(&dir, &[("a", SignalSet::ALL)]);
    commit(&mut spool, 1, Counts::of(Signal::Logs, 1));
    spool.close().unwrap();
    back_to_format_1(&dir.path().join("spool.redb"));
    drop(Spool::open(&Env::production(), settings(&dir, &[("a", SignalSet::ALL)])).unwrap());
    let db = redb::Database::open(dir.path().join("spool.redb")).unwrap();
    let read = redb::ReadableDatabase::begin_read(&db).unwrap();
    assert!(read.open_table(SEGMENTS_1).is_err() && read.open_table(CURSORS_1).is_err());
    assert_eq!(read.open_table(ENTRIES).unwrap().len().unwrap(), 1);
}
