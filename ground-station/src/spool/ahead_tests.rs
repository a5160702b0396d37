//! What a log is told that is an earlier one than the ledger has met, by both engines.

use std::ops::Range;
use std::sync::Arc;

use perigee_proto::link::{self, Groups};
use perigee_shared::segment::Header;

use super::both_tests::{Site, Subject};
use super::ledger::RECENT_KEPT;
use super::tests::{EPOCH, incoming, segment, spans};

fn made_of(sequence: u64) -> Groups {
    Groups { first: sequence * 10, end: sequence * 10 + 9, checksum: sequence }
}

fn commit(spool: &Subject<'_>, sequence: u64) {
    let (header, payload) = segment(sequence, spans(1), 0);
    let header = Arc::new(Header { made_of: Some(made_of(sequence)), ..(*header).clone() });
    let whole = 0..payload.len();
    spool.apply(&[incoming(&header, &payload, &[whole])]);
}

/// What a log is told that has these on board, and asks about `compare`.
fn hello(spool: &Subject<'_>, on_board: Range<u64>, compare: Range<u64>) -> link::ResumeEpoch {
    let wire = |range: Range<u64>| vec![link::Range { start: range.start, end: range.end }];
    let (next_sequence, on_board, compare) = (on_board.end, wire(on_board), wire(compare));
    let lane = link::Lane { lane: 8, on_board, next_sequence, compare, ..link::Lane::default() };
    let epoch = link::Epoch { epoch: EPOCH, lanes: vec![lane], ..link::Epoch::default() };
    spool.hello_with(vec![epoch]).epochs.remove(0)
}

/// First and last sequence, and whether hash and groups are told and are the last one's.
fn told(resume: link::ResumeEpoch) -> Vec<(u64, u64, bool, bool)> {
    let row = |range: &link::CommittedRange| {
        let sequences = range.sequences.unwrap();
        let last = sequences.end - 1;
        let top = segment(last, spans(1), 0).0.hash;
        (sequences.start, last, range.top_hash == top, range.made_of == Some(made_of(last)))
    };
    resume.lanes[0].committed.iter().map(row).collect()
}

/// Two states of one log have told of drops with the same id.
fn check_drops(site: Option<Site>) {
    let Some(site) = site else { return };
    let spool = site.open();
    let drop = |id, n| link::Drop { id, items: Some(spans(n).into()), ..link::Drop::default() };
    let acknowledged = |drops| {
        let epoch = link::Epoch { epoch: EPOCH, drops, ..link::Epoch::default() };
        spool.hello_with(vec![epoch]).epochs.remove(0).drops_acknowledged
    };
    assert_eq!(acknowledged(vec![drop(1, 5), drop(2, 6)]), [1, 2]);
    let overridden = link::Drop { overridden: Some(spans(2).into()), ..drop(1, 5) };
    assert_eq!(acknowledged(vec![overridden, drop(2, 7), drop(3, 8)]), [1, 3], "another one is not known");
    assert_eq!(acknowledged(vec![drop(9, 7)]), [9]);
}

/// A ledger that knows an epoch says once that a ground has contradicted it.
fn check_contradicted(site: Option<Site>) {
    let Some(site) = site else { return };
    let spool = site.open();
    let open = link::Epoch { epoch: EPOCH, ..link::Epoch::default() };
    let ended = link::Epoch { closed: true, contradicted: true, ..open.clone() };
    let elsewhere = link::Epoch { epoch: EPOCH + 1, ..ended.clone() };
    let told = |epochs| spool.hello_with(epochs).contradicted;
    assert!(told(vec![open.clone()]).is_empty());
    assert_eq!(told(vec![elsewhere.clone(), ended.clone()]), [EPOCH], "the other is of another ledger");
    assert!(told(vec![elsewhere, ended.clone()]).is_empty(), "it is known");
    // The other machine under this identity goes on.
    assert!(told(vec![open]).is_empty());
    assert_eq!(told(vec![ended]), [EPOCH]);
}

fn check(site: Option<Site>) {
    let Some(site) = site else { return };
    let spool = site.open();
    for sequence in [1, 2, 3, 4, 6] {
        commit(&spool, sequence);
    }
    let ranges = [(1, 4, true, false), (6, 6, true, false)];
    assert_eq!(told(hello(&spool, 2..4, 7..70)), ranges);
    // What it has on board, and what it would seal next.
    let one_by_one = [2, 3, 4, 6].map(|n| (n, n, true, true));
    assert_eq!(told(hello(&spool, 2..4, 2..68)), [&ranges[..], &one_by_one].concat());
}

#[test]
fn an_earlier_log_is_answered_by_redb() {
    check(Site::redb());
    check_drops(Site::redb());
    check_contradicted(Site::redb());
}

#[test]
fn an_earlier_log_is_answered_by_postgres() {
    check(Site::postgres());
    check_drops(Site::postgres());
    check_contradicted(Site::postgres());
}

#[test]
fn what_segments_were_made_of_is_forgotten_with_their_hashes() {
    let site = Site::redb().unwrap();
    let spool = site.open();
    (1..=RECENT_KEPT + 2).for_each(|sequence| commit(&spool, sequence));
    let ranges = told(hello(&spool, 1..4, 1..68));
    let told: Vec<u64> = ranges[1..].iter().map(|(first, ..)| *first).collect();
    assert_eq!(told, (3..4 + 64).collect::<Vec<_>>(), "the first two, and what lies far ahead, is not told");
}
