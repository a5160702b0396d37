//! `wal.redb` of every format.

use formats::fixture::{assert_is, expected, path, unhex, unpack};
use formats::wal::{contradicts, read, waits};

/// A directory with the log in the file `name`, and the front of its journal if it has one.
fn unpacked(name: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    unpack(name, &directory.path().join("wal.redb")).unwrap();
    let front = name.replace(".redb", ".front");
    if path(&format!("{front}.zst")).exists() {
        unpack(&front, &directory.path().join("journal.front")).unwrap();
    }
    directory
}

/// The log as it was closed, and as it lay there while it was open.
fn assert_holds(name: &str) {
    for file in [format!("wal/{name}.redb"), format!("wal/{name}-open.redb")] {
        let log = read(unpacked(&file).path()).unwrap_or_else(|e| panic!("{file}: {e:#}"));
        assert_is(&format!("wal/{name}"), &log);
    }
}

/// The log `name` knows the hashes of what the ground has committed, and has forgotten those of an earlier life.
fn assert_knows_what_it_shipped(name: &str) {
    let shipped = expected(&format!("wal/{name}-shipped")).unwrap();
    for entry in shipped.as_array().unwrap() {
        let number = |field: &str| entry[field].as_u64().unwrap();
        let (lane, sequence) = (number("lane") as u8, number("sequence"));
        let asked = |hash: [u8; 32]| {
            let directory = unpacked(&format!("wal/{name}.redb"));
            contradicts(directory.path(), lane, sequence, hash).unwrap()
        };
        let hash: [u8; 32] = unhex(entry["hash"].as_str().unwrap()).unwrap().try_into().unwrap();
        let mut other = hash;
        other[0] ^= 1;
        assert!(!asked(hash), "{name}: {entry}");
        assert_eq!(asked(other), entry["known"].as_bool().unwrap(), "{name}: {entry}, another hash");
    }
}

#[test]
fn a_log_of_format_1_opens_with_all_that_it_held() {
    assert_holds("format-1");
    assert_knows_what_it_shipped("format-1");
}

#[test]
fn a_log_of_format_2_opens_and_splits_its_journal_by_the_rules_in_it() {
    assert_holds("format-2");
    assert_knows_what_it_shipped("format-2");
}

#[test]
fn a_log_of_format_3_opens_and_its_segments_decode_with_the_bases_in_it() {
    assert_holds("format-3");
    assert_knows_what_it_shipped("format-3");
}

#[test]
fn a_log_of_format_3_by_the_last_commit_that_wrote_it_opens_with_all_that_it_held() {
    assert_holds("format-3-last");
    assert_knows_what_it_shipped("format-3-last");
}

#[test]
fn a_log_of_format_4_opens_and_knows_what_ledgers_have_acknowledged() {
    assert_holds("format-4");
    assert_knows_what_it_shipped("format-4");
}

#[test]
fn a_log_with_boots_opens_and_knows_how_old_it_is_by_both_clocks() {
    assert_holds("format-4-boots");
    let waits = |boot, since_boot, wall| {
        let directory = unpacked("wal/format-4-boots.redb");
        waits(directory.path(), boot, since_boot, wall).unwrap()
    };
    const DAY: i64 = 86_400;
    // The first segment was sealed in boot 0xb001, a day after T0; the second in boot 0xb002, whose clock was not trusted.
    assert_eq!(waits(0xb002, 100, -1), 100, "the present boot, and ms of the first one");
    assert_eq!(waits(0xb003, 10, -1), 11, "a second of the boot between is noted");
    assert_eq!(waits(0xb003, 10, 10 * DAY), 9 * DAY as u64 - 1, "two trusted clocks");
}

#[test]
fn a_log_of_format_5_opens_with_what_its_front_holds() {
    assert_holds("format-5");
}
