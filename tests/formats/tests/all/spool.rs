//! `spool.redb` of every format.

use formats::fixture::{assert_is, expected, unhex, unpack};
use formats::spool::{come_again, complete, id, read};
use ground_station::spool::Applied;
use perigee_shared::segment::Header;
use serde_json::Value;

/// A directory with the spool `file`.
fn unpacked(file: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    unpack(file, &directory.path().join("spool.redb")).unwrap();
    directory
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap()
}

/// The spool as it was closed, and as it lay there while it was open.
fn assert_holds(name: &str) {
    for file in files(name) {
        let contents = read(unpacked(&file).path()).unwrap_or_else(|e| panic!("{file}: {e:#}"));
        assert_is(&format!("spool/{name}"), &contents);
    }
}

fn files(name: &str) -> [String; 2] {
    [format!("spool/{name}.redb"), format!("spool/{name}-open.redb")]
}

/// Format 1 kept the place of the exporter `tsdb` as 5, the number of a segment that had left the spool. Format 2 has no such
/// place: it shows the next segment that is there.
fn assert_holds_what_format_1_held(name: &str) {
    for file in files(name) {
        let contents = read(unpacked(&file).path()).unwrap_or_else(|e| panic!("{file}: {e:#}"));
        let mut contents = serde_json::to_value(&contents).unwrap();
        let place = &mut contents["cursors"]["tsdb"][0];
        assert_eq!(*place, 6);
        *place = 5.into();
        assert_is(&format!("spool/{name}"), &contents);
    }
}

/// What the spool `name` has committed, exported or not, comes once.
fn assert_takes_nothing_twice(name: &str) {
    let directory = unpacked(&format!("spool/{name}.redb"));
    for segment in expected(&format!("spool/{name}-ledger")).unwrap()["committed"].as_array().unwrap() {
        let (lane, sequence) = (segment["lane"].as_u64().unwrap(), segment["sequence"].as_u64().unwrap());
        let epoch = u64::from_str_radix(text(segment, "epoch"), 16).unwrap();
        let hash = unhex(text(segment, "hash")).unwrap().try_into().unwrap();
        let id = id(epoch, lane as u8, sequence);
        let answers = come_again(directory.path(), text(segment, "satellite"), id, hash).unwrap();
        assert_eq!(answers, [Applied::Duplicate, Applied::Conflict], "{name}: {segment}");
    }
}

/// The bytes that the spool `name` holds of a segment are right: with the rest it has its hash and decodes.
fn assert_completes_what_it_holds(name: &str) {
    let directory = unpacked(&format!("spool/{name}.redb"));
    let partial = &expected(&format!("spool/{name}-ledger")).unwrap()["partial"];
    let header = Header::from_bytes(&unhex(text(partial, "header")).unwrap()).unwrap();
    let missing: Vec<(u64, Vec<u8>)> = partial["missing"]
        .as_array()
        .unwrap()
        .iter()
        .map(|piece| (piece["offset"].as_u64().unwrap(), unhex(text(piece, "bytes")).unwrap()))
        .collect();
    let (applied, content) =
        complete(directory.path(), text(partial, "satellite"), &header, &missing).unwrap();
    assert_eq!(applied, Applied::New);
    assert_eq!(serde_json::to_value(content).unwrap(), partial["content"]);
}

fn assert_all(name: &str) {
    assert_holds_what_format_1_held(name);
    assert_takes_nothing_twice(name);
    assert_completes_what_it_holds(name);
}

#[test]
fn a_spool_of_format_1_opens_with_all_that_it_held() {
    assert_all("format-1");
}

#[test]
fn a_spool_of_before_bases_and_passes_opens_with_all_that_it_held() {
    assert_all("format-1-first");
}

#[test]
fn a_spool_of_format_2_opens_with_all_that_it_held() {
    assert_holds("format-2");
    assert_takes_nothing_twice("format-2");
    assert_completes_what_it_holds("format-2");
}
