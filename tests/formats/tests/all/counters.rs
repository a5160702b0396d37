//! `counters.json`, the mirror of the log's counters.

use formats::fixture::{assert_is, path};
use formats::wal::read_damaged;

#[test]
fn a_mirror_says_what_was_lost_with_a_log_that_cannot_be_opened() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("wal.redb"), [0x5a; 5000]).unwrap();
    std::fs::copy(path("counters/counters.json"), directory.path().join("counters.json")).unwrap();
    assert_is("counters/expected", &read_damaged(directory.path()).unwrap());
}
