//! What this station loses: damaged bytes, and a spool that is gone, empty, damaged, an older copy, or another one's.

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use perigee_proto::link::{self, DropReason};
use perigee_shared::env::Env;
use perigee_shared::export::Limits;
use perigee_shared::signal::{Counts, Signal, SignalSet};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use simdisk::Disk;

use super::decode::Fault;
use super::file::Spool;
use super::tables::{BASE_CHUNKS, ChunkKey, LETTER_CHUNKS, SEGMENT_CHUNKS, SequenceKey};
use super::tests::*;
use super::*;

pub(super) const FILE: &str = "/virtual/spool.redb";
pub(super) const MIRROR: &str = "/virtual/ledger.json";

pub(super) fn on(disk: &std::sync::Arc<Disk>) -> Spool {
    let routes = [("a".to_owned(), SignalSet::ALL)].into();
    let settings = Settings {
        directory: "/virtual".into(),
        max_bytes: 1 << 30,
        satellites: Vec::new(),
        ballast: 0,
        decoded_bases: 1 << 20,
        decoding: Default::default(),
        ledger_room: Default::default(),
        catalogue: Default::default(),
        keep: Keep::OFF,
        station: "svalbard".to_owned(),
        routes,
    };
    Spool::open(&disk.env(), settings).unwrap()
}

fn gaps(spool: &mut Spool) -> Vec<GapView> {
    spool.read(|view| views::gaps(view, 100)).unwrap()
}

pub(super) fn lost(spool: &mut Spool) -> Vec<GapView> {
    gaps(spool).into_iter().filter(|gap| gap.reason == "station_lost").collect()
}

/// `committed = exported + dead-lettered + lost + in the spool`, and what is in the spool is what its segments have.
pub(super) fn balance(spool: &mut Spool) -> AccountView {
    let account = account(spool);
    let sum =
        account.exported.spans + account.dead_lettered.spans + account.lost.spans + account.in_spool.spans;
    assert_eq!(account.committed.spans, sum, "{account:?}");
    let waiting: u64 = spool.contents().waiting.values().map(|w| w.items.total()).sum();
    assert_eq!(account.in_spool.spans, waiting, "{account:?}");
    account
}

fn overwrite(spool: &mut Spool, payload: u64) {
    let chunk = ChunkKey { of: payload, piece: 0 };
    let damage = |txn: &mut file::Txn<'_>| {
        txn.tables.open_table(SEGMENT_CHUNKS)?.insert(chunk, &b"other"[..])?;
        Ok(())
    };
    spool.write(damage).unwrap();
}

#[test]
fn progress_that_is_reported_again_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    commit(&mut spool, 1, spans(9));
    let letter = Letter {
        signal: Signal::Traces,
        body: Bytes::from_static(b"no"),
        items: spans(2),
        reason: "no".to_owned(),
    };
    let first = Progress {
        request: 1,
        letters: vec![letter.clone()],
        rejected: spans(1),
        ..Progress::at(place(1), 1)
    };
    let last = Progress { letters: vec![letter], rejected: spans(1), request: 2, ..done(place(1)) };
    for reported in [&first, &first, &last, &first, &last] {
        progress(&mut spool, "a", reported);
    }
    let account = balance(&mut spool);
    assert_eq!((letters(&mut spool).len(), account.rejected.spans), (2, 2));
    assert_eq!((account.exported.spans, account.dead_lettered.spans), (5, 4));
}

#[test]
fn a_segment_with_other_bytes_than_were_committed_is_not_exported_and_becomes_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    commit(&mut spool, 1, spans(5));
    commit(&mut spool, 2, spans(6));
    overwrite(&mut spool, 1);
    let found = spool.read(|view| outlet::next(view, "a", SignalSet::ALL, 1)).unwrap().unwrap();
    let place = found.place;
    assert!(matches!(spool.snapshot().unwrap().work(found), Err(Fault::Payload)));
    for _ in 0..2 {
        spool.write(|txn| outlet::lose(txn, place)).unwrap();
    }
    let account = balance(&mut spool);
    assert_eq!((account.lost.spans, account.in_spool.spans, account.dropped.spans), (5, 6, 0));
    let gap = lost(&mut spool).remove(0);
    assert_eq!((gap.sequences, gap.items.spans, gap.unknown), (Some((1, 1)), 5, false));
    assert!(gap.id > u64::MAX / 2, "no satellite gives such an id");
    assert_eq!(pass(&mut spool, "a", SignalSet::ALL), 1);
    assert_eq!(commit(&mut spool, 1, spans(5)), Applied::Duplicate, "it was committed");
    drop(spool);
    assert_eq!(balance(&mut open(&dir)).lost.spans, 5);
}

#[test]
fn what_was_exported_of_a_damaged_segment_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (traces, logs) = (SignalSet::default().with(Signal::Traces), SignalSet::default().with(Signal::Logs));
    let mut spool = open_with(&dir, &[("a", traces), ("b", logs)]);
    commit(&mut spool, 1, spans(3) + perigee_shared::signal::Counts::of(Signal::Logs, 4));
    progress(&mut spool, "a", &done(place(1)));
    spool.write(|txn| outlet::lose(txn, place(1))).unwrap();
    let account = account(&mut spool);
    assert_eq!((account.exported.spans, account.lost.spans, account.lost.log_records), (3, 0, 4));
}

/// How many items an exporter has of a segment in the middle of which it is, only its cut knows.
#[test]
fn a_gap_of_a_segment_that_was_exported_in_part_says_at_most() {
    let traces = SignalSet::default().with(Signal::Traces);
    let half = |entry| Progress { request: 2, items: 8, ..Progress::at(place(entry), 1) };
    let whole = |entry| done(place(entry));
    let two = [("a", SignalSet::ALL), ("b", traces)];
    // What exporters have, which of the two segments the gap has, and whether it says at most.
    type Case<'a> = (&'a [(&'a str, SignalSet)], Vec<(&'a str, Progress)>, (u64, u64), bool);
    let cases: [Case<'_>; 5] = [
        (&two[..1], vec![("a", half(1))], (1, 2), true),
        (&two[..1], vec![("a", whole(1)), ("a", half(2))], (2, 2), true),
        (&two[..1], vec![("a", whole(1))], (2, 2), false),
        (&two, vec![("a", half(1)), ("b", half(1))], (1, 2), true),
        (&two, vec![("a", half(1))], (1, 2), false),
    ];
    for (routes, passed, of, at_most) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open_with(&dir, routes);
        commit(&mut spool, 1, spans(20));
        commit(&mut spool, 2, spans(20));
        for (exporter, done) in &passed {
            progress(&mut spool, exporter, done);
        }
        spool.close().unwrap();
        std::fs::remove_file(dir.path().join("spool.redb")).unwrap();
        let mut spool = open_with(&dir, routes);
        let gaps: Vec<_> = lost(&mut spool).iter().map(|gap| (gap.sequences, gap.unknown)).collect();
        assert_eq!(gaps, [(Some(of), at_most)], "{routes:?}, {passed:?}");
        balance(&mut spool);
    }
}

#[test]
fn a_damaged_segment_that_was_exported_in_part_is_a_gap_of_at_most() {
    let disk = Disk::new();
    let mut spool = on(&disk);
    for sequence in 1..=3 {
        commit(&mut spool, sequence, spans(20));
    }
    progress(&mut spool, "a", &Progress { request: 2, items: 8, ..Progress::at(place(1), 1) });
    spool.close().unwrap();
    let backup = remember_backup(&disk);
    let mut spool = on(&disk);
    commit(&mut spool, 4, spans(20));
    spool.close().unwrap();
    disk.put(Path::new(FILE), backup);

    let mut spool = on(&disk);
    let shown = |spool: &mut Spool| {
        let mut gaps: Vec<_> = lost(spool).iter().map(|gap| (gap.sequences, gap.unknown)).collect();
        gaps.sort();
        gaps
    };
    assert_eq!(shown(&mut spool), [(Some((4, 4)), false)], "the backup has what was begun");
    for entry in [1, 2] {
        spool.write(|txn| outlet::lose(txn, place(entry))).unwrap();
    }
    assert_eq!(shown(&mut spool), [(Some((1, 1)), true), (Some((2, 2)), false), (Some((4, 4)), false)]);
    balance(&mut spool);
}

#[test]
fn a_damaged_dead_letter_is_not_sent_again_and_becomes_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    commit(&mut spool, 1, spans(5));
    commit(&mut spool, 2, spans(7));
    let letter = Letter {
        signal: Signal::Traces,
        body: Bytes::from_static(b"request"),
        items: spans(2),
        reason: "no".to_owned(),
    };
    progress(&mut spool, "a", &Progress { letters: vec![letter], ..done(place(1)) });
    spool.write(|txn| outlet::condemn(txn, place(2), "not by this software")).unwrap();
    for letter in [1, 2] {
        let chunk = ChunkKey { of: letter, piece: 0 };
        let damage = |txn: &mut file::Txn<'_>| {
            txn.tables.open_table(LETTER_CHUNKS)?.insert(chunk, &b"other"[..])?;
            Ok(())
        };
        spool.write(damage).unwrap();
    }
    assert_eq!(super::letters::replay(&mut spool, None).unwrap(), 1, "the request is looked at later");
    assert_eq!(balance(&mut spool).lost.spans, 7, "the segment");
    let damaged = match spool.read(|view| super::letters::next_replays(view, "a", Limits::default())).unwrap()
    {
        super::letters::Next::Damaged(id) => id,
        _ => panic!("the damage was not noticed"),
    };
    spool.write(|txn| super::letters::lose(txn, damaged)).unwrap();
    let account = balance(&mut spool);
    assert_eq!((account.lost.spans, account.dead_lettered.spans, account.exported.spans), (9, 0, 3));
    assert!(letters(&mut spool).is_empty() && lost(&mut spool).len() == 2);
}

fn remember_backup(disk: &Disk) -> Vec<u8> {
    disk.content(Path::new(FILE)).unwrap()
}

#[test]
fn a_spool_that_is_gone_empty_or_damaged_goes_on_from_its_mirror() {
    for (how, file) in [("gone", None), ("empty", Some(Vec::new())), ("nonsense", Some(vec![7; 50_000]))] {
        let disk = Disk::new();
        let mut spool = on(&disk);
        hello(&mut spool, 1..9, Vec::new());
        for sequence in 1..=4 {
            commit(&mut spool, sequence, spans(sequence));
        }
        commit(&mut spool, 6, spans(60));
        progress(&mut spool, "a", &done(place(1)));
        let ledger = spool.contents().ledger;
        spool.close().unwrap();
        match file {
            None => disk.delete(Path::new(FILE)),
            Some(content) => disk.put(Path::new(FILE), content),
        }

        let mut spool = on(&disk);
        let account = balance(&mut spool);
        assert_eq!(spool.contents().ledger, ledger, "{how}");
        assert_eq!(
            (account.committed.spans, account.exported.spans, account.lost.spans),
            (70, 1, 69),
            "{how}"
        );
        let gap = lost(&mut spool).remove(0);
        assert_eq!((gap.sequences, gap.items.spans, gap.unknown, gap.lane), (Some((2, 6)), 69, false, 8));
        // Nothing is committed twice in one ledger, and Resume says so.
        assert_eq!(commit(&mut spool, 3, spans(3)), Applied::Duplicate);
        let resume = hello(&mut spool, 7..9, Vec::new());
        assert_eq!(claimed(&resume), [(6, 7)], "the last one");
        assert_eq!(resume.lanes[0].committed[0].top_hash, segment(6, spans(60), 0).0.hash);
        // New segments are exported, though the exporter's place was beyond their entry numbers before the loss.
        assert_eq!(commit(&mut spool, 5, spans(5)), Applied::New);
        assert_eq!(pass(&mut spool, "a", SignalSet::ALL), 1, "{how}");
        spool.close().unwrap();
        let account = balance(&mut on(&disk));
        assert_eq!((account.exported.spans, account.lost.spans), (6, 69), "it is lost once");
        assert!(on(&disk).quarantined().is_none(), "{how}");
    }
}

fn claimed(resume: &link::ResumeEpoch) -> Vec<(u64, u64)> {
    resume.lanes[0].committed.iter().filter_map(|r| r.sequences).map(|r| (r.start, r.end)).collect()
}

#[test]
fn what_the_station_has_lost_and_the_satellite_still_has_comes_again() {
    let disk = Disk::new();
    let mut spool = on(&disk);
    hello(&mut spool, 1..9, Vec::new());
    for sequence in 1..=6 {
        commit(&mut spool, sequence, spans(sequence));
    }
    progress(&mut spool, "a", &done(place(1)));
    spool.close().unwrap();
    disk.delete(Path::new(FILE));
    let mut spool = on(&disk);
    assert_eq!(balance(&mut spool).lost.spans, 20);

    // 1 was exported; of the others the satellite still has 3, 4 and 6, whose acknowledgements it has not heard.
    let lane = |on_board: &[(u64, u64)]| link::Lane {
        lane: 8,
        on_board: on_board.iter().map(|(start, end)| link::Range { start: *start, end: *end }).collect(),
        next_sequence: 9,
        ..link::Lane::default()
    };
    let resumed = |spool: &mut Spool, epoch, on_board: &[(u64, u64)], old: Option<link::Epoch>| {
        let now = link::Epoch { epoch, lanes: vec![lane(on_board)], start_counter: 9, ..Default::default() };
        let hello = link::Hello { epochs: old.into_iter().chain([now]).collect(), ..Default::default() };
        spool.write(|txn| ledger::hello(txn, "sat-1", &hello.clone().into())).unwrap().epochs
    };
    let resume = resumed(&mut spool, EPOCH, &[(1, 2), (3, 5), (6, 7)], None).remove(0);
    assert_eq!(claimed(&resume), [(1, 3), (5, 6)]);
    assert!(resume.lanes[0].committed.iter().all(|range| range.top_hash.is_empty()), "nobody knows them");
    for sequence in [3, 4] {
        assert_eq!(commit(&mut spool, sequence, spans(sequence)), Applied::New);
        assert_eq!(commit(&mut spool, sequence, spans(sequence)), Applied::Duplicate);
    }
    for sequence in [1, 2, 5] {
        assert_eq!(commit(&mut spool, sequence, spans(sequence)), Applied::Duplicate);
    }
    let account = balance(&mut spool);
    assert_eq!((account.committed.spans, account.lost.spans, account.in_spool.spans), (21, 13, 7));
    assert_eq!(lost(&mut spool)[0].items.spans, 13);
    assert_eq!(pass(&mut spool, "a", SignalSet::ALL), 2);

    // 6 comes under the name of an epoch that continues this one.
    let old = link::Epoch { epoch: EPOCH, closed: true, continued: true, ..link::Epoch::default() };
    let old = link::Epoch { lanes: vec![lane(&[])], ..old };
    let resume = resumed(&mut spool, EPOCH + 1, &[(6, 7)], Some(old)).remove(1);
    assert_eq!(claimed(&resume), [(1, 6)], "not 6");
    let gap = lost(&mut spool).remove(0);
    assert_eq!((gap.items.spans, gap.unknown), (13, true), "at most: 6 may be among them");
    let (header, payload) = segment(6, spans(6), 0);
    let mut renamed = (*header).clone();
    renamed.id.epoch = EPOCH + 1;
    let whole = 0..payload.len();
    let again = incoming(&std::sync::Arc::new(renamed), &payload, std::slice::from_ref(&whole));
    assert_eq!(apply(&mut spool, &[again]), [Applied::New]);
    assert_eq!(balance(&mut spool).in_spool.spans, 6);
}

#[test]
fn a_damaged_segment_comes_again_if_nothing_of_it_was_exported() {
    let dir = tempfile::tempdir().unwrap();
    let (traces, logs) = (SignalSet::default().with(Signal::Traces), SignalSet::default().with(Signal::Logs));
    let mut spool = open_with(&dir, &[("a", traces), ("b", logs)]);
    let both = spans(3) + perigee_shared::signal::Counts::of(Signal::Logs, 4);
    commit(&mut spool, 1, both);
    commit(&mut spool, 2, both);
    progress(&mut spool, "a", &done(place(1)));
    for entry in [1, 2] {
        spool.write(|txn| outlet::lose(txn, place(entry))).unwrap();
    }
    let resume = hello(&mut spool, 1..3, Vec::new());
    assert_eq!(claimed(&resume), [(1, 2)]);
    assert_eq!(commit(&mut spool, 1, both), Applied::Duplicate, "a has its spans");
    assert_eq!(commit(&mut spool, 2, both), Applied::New);
    let account = account(&mut spool);
    assert_eq!((account.committed.spans, account.exported.spans, account.lost.spans), (6, 3, 0));
    assert_eq!((account.committed.log_records, account.lost.log_records), (8, 4));
}

#[test]
fn a_backup_that_is_put_back_is_noticed_and_the_difference_is_a_gap() {
    let disk = Disk::new();
    let mut spool = on(&disk);
    for sequence in 1..=3 {
        commit(&mut spool, sequence, spans(sequence));
    }
    spool.close().unwrap();
    let backup = remember_backup(&disk);
    let mut spool = on(&disk);
    commit(&mut spool, 4, spans(40));
    commit(&mut spool, 5, spans(50));
    for entry in 1..=4 {
        progress(&mut spool, "a", &done(place(entry)));
    }
    spool.close().unwrap();
    disk.put(Path::new(FILE), backup.clone());

    let mut spool = on(&disk);
    let account = balance(&mut spool);
    assert_eq!(account.committed.spans, 96);
    assert_eq!(account.lost.spans, 50, "{account:?}");
    assert_eq!(account.in_spool.spans, 0, "what had been passed is not exported again");
    assert_eq!(lost(&mut spool)[0].sequences, Some((5, 5)));
    assert_eq!(commit(&mut spool, 5, spans(50)), Applied::Duplicate);
    assert_eq!(commit(&mut spool, 6, spans(6)), Applied::New);
    assert_eq!(pass(&mut spool, "a", SignalSet::ALL), 1);
    spool.close().unwrap();

    // Only exports since then: nothing is lost, and nothing is exported again.
    let disk = Disk::new();
    disk.put(Path::new(FILE), backup);
    let mut spool = on(&disk);
    spool.close().unwrap();
    let backup = remember_backup(&disk);
    let mut spool2 = on(&disk);
    pass(&mut spool2, "a", SignalSet::ALL);
    spool2.close().unwrap();
    disk.put(Path::new(FILE), backup);
    spool = on(&disk);
    let account = balance(&mut spool);
    assert_eq!((account.exported.spans, account.lost.spans, account.in_spool.spans), (6, 0, 0));
}

#[test]
fn a_backup_that_only_lacks_requests_of_a_segment_does_not_export_them_again() {
    for had in [0, 1, 2] {
        let disk = Disk::new();
        let mut spool = on(&disk);
        commit(&mut spool, 1, spans(20));
        let at = |request| Progress { request, items: 2, ..Progress::at(place(1), 1) };
        (1..=had).for_each(|request| progress(&mut spool, "a", &at(request)));
        spool.close().unwrap();
        let backup = remember_backup(&disk);
        let mut spool = on(&disk);
        (had + 1..=3).for_each(|request| progress(&mut spool, "a", &at(request)));
        spool.close().unwrap();
        disk.put(Path::new(FILE), backup);

        let mut spool = on(&disk);
        let found = spool.read(|view| outlet::next(view, "a", SignalSet::ALL, 1)).unwrap().unwrap();
        assert_eq!(found.first.least(), 3, "{had}");
        let account = balance(&mut spool);
        assert_eq!((account.in_spool.spans, account.lost.spans), (20, 0));
    }
}

#[test]
fn another_ledgers_spool_is_put_aside_and_this_ledger_goes_on_from_its_mirror() {
    let disk = Disk::new();
    let mut spool = on(&disk);
    commit(&mut spool, 1, spans(1));
    let ledger = spool.contents().ledger;
    spool.close().unwrap();
    let elsewhere = Disk::new();
    // Environments of two disks are seeded alike.
    drop(elsewhere.env());
    let mut other = on(&elsewhere);
    commit(&mut other, 7, spans(9));
    other.close().unwrap();
    disk.put(Path::new(FILE), elsewhere.content(Path::new(FILE)).unwrap());
    let mut spool = on(&disk);
    assert_eq!(spool.contents().ledger, ledger);
    let account = balance(&mut spool);
    assert_eq!((account.committed.spans, account.lost.spans), (1, 1), "nothing of the other one");
    assert!(disk.files().iter().any(|file| file.to_string_lossy().contains("quarantined")));
}

fn acknowledged(ledger: u64, station: &str, sequences: Range<u64>) -> link::Acknowledged {
    link::Acknowledged {
        ledger,
        station: station.to_owned(),
        sequences: vec![link::Range { start: sequences.start, end: sequences.end }],
        top_hash: Vec::new(),
        items: None,
    }
}

/// The same by an agent that knows how many items that was.
pub(super) fn counted(ledger: u64, sequences: Range<u64>, items: u64) -> link::Acknowledged {
    let items = Some(Counts::of(Signal::Traces, items).into());
    link::Acknowledged { items, ..acknowledged(ledger, "svalbard", sequences) }
}

pub(super) fn told(spool: &mut Spool, acknowledged: Vec<link::Acknowledged>) -> SatelliteView {
    let lane = link::Lane { lane: 8, next_sequence: 30, acknowledged, ..link::Lane::default() };
    let epoch = link::Epoch { epoch: EPOCH, lanes: vec![lane], ..link::Epoch::default() };
    let hello = link::Hello { epochs: vec![epoch], ..link::Hello::default() };
    spool.write(|txn| ledger::hello(txn, "sat-1", &hello.clone().into())).unwrap();
    spool.read(views::satellites).unwrap().remove(0)
}

#[test]
fn what_a_satellite_was_told_is_committed_here_and_is_not_is_a_gap_and_never_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    let ours = spool.contents().ledger;
    commit(&mut spool, 3, spans(3));
    for _ in 0..2 {
        let said = vec![
            acknowledged(ours, "svalbard", 1..6),
            acknowledged(ours ^ 4, "svalbard", 10..12),
            acknowledged(ours ^ 4, "kiruna", 20..22),
        ];
        let view = told(&mut spool, said);
        let lane = &view.epochs[0].lanes[0];
        assert_eq!(lane.elsewhere, [(6, 9), (12, 29)], "another station's are elsewhere");
        let gaps = lost(&mut spool);
        let mut sequences: Vec<_> = gaps.iter().filter_map(|gap| gap.sequences).collect();
        sequences.sort_unstable();
        assert_eq!(sequences, [(1, 2), (4, 5), (10, 11)]);
        assert!(gaps.iter().all(|gap| gap.unknown && gap.items == Items::default()));
    }
    assert_eq!(balance(&mut spool).lost.spans, 0, "nobody knows how much it was");
    // It comes all the same: from a backup of the satellite, say.
    assert_eq!(commit(&mut spool, 4, spans(4)), Applied::New);
    assert_eq!(balance(&mut spool).committed.spans, 7);
}

#[test]
fn a_spool_that_forgot_shows_at_most_what_was_acknowledged_and_not_0() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    let ours = spool.contents().ledger;
    commit(&mut spool, 3, spans(3));
    for _ in 0..2 {
        told(&mut spool, vec![counted(ours, 1..6, 20), counted(ours ^ 4, 10..12, 7)]);
        let gaps = lost(&mut spool);
        let mut most: Vec<_> = gaps.iter().map(|gap| (gap.sequences, gap.items.spans, gap.unknown)).collect();
        most.sort_unstable();
        // Of 20 items it has 3; of which segment the others are nobody says.
        assert_eq!(most, [(Some((1, 2)), 17, true), (Some((4, 5)), 0, true), (Some((10, 11)), 7, true)]);
        let account = balance(&mut spool);
        assert_eq!((account.committed.spans, account.lost.spans), (27, 24), "it was committed once");
    }
    // It comes again, and one ledger turns out to be another station's.
    commit(&mut spool, 1, spans(4));
    assert_eq!(balance(&mut spool).lost.spans, 20);
    told(&mut spool, vec![counted(ours ^ 4, 10..13, 9)]);
    let account = balance(&mut spool);
    assert_eq!((account.committed.spans, account.lost.spans), (20, 13));
}

#[test]
fn an_agent_that_does_not_say_what_was_acknowledged_is_taken_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    let view = told(&mut spool, Vec::new());
    assert_eq!(view.epochs[0].lanes[0].elsewhere, [(1, 29)]);
    assert!(gaps(&mut spool).is_empty());
}

fn life(epoch: u64, start_counter: u64, on_board: Range<u64>) -> link::Epoch {
    let lane = link::Lane {
        lane: 8,
        on_board: vec![link::Range { start: on_board.start, end: on_board.end }],
        next_sequence: on_board.end,
        ..link::Lane::default()
    };
    link::Epoch { epoch, start_counter, lanes: vec![lane], ..link::Epoch::default() }
}

#[test]
fn a_log_that_begins_again_at_one_closes_the_one_that_it_does_not_know() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    let mut meet = |epoch| {
        let hello = link::Hello { epochs: vec![epoch], ..link::Hello::default() };
        spool.write(|txn| ledger::hello(txn, "sat-1", &hello.clone().into())).unwrap()
    };
    let answer = meet(life(70, 5, 1..4));
    assert_eq!(answer.start_counter, 5);
    let answer = meet(life(71, 1, 1..2));
    assert_eq!(answer.start_counter, 5, "the log goes on counting from there");
    assert_ne!(answer.ledger, 0);
    let gap = gaps(&mut spool).remove(0);
    assert_eq!((gap.reason.as_str(), gap.sequences, gap.unknown), ("corruption", Some((1, 3)), true));
    let epochs = spool.read(views::satellites).unwrap().remove(0).epochs;
    assert!(epochs.iter().find(|e| e.start_counter == 5).unwrap().closed);
}

#[test]
fn resume_names_what_was_committed_of_a_drop() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    for sequence in [1, 3, 9] {
        commit(&mut spool, sequence, spans(1));
    }
    let resume = hello(&mut spool, 20..21, vec![dropped(1, 2..5, 30)]);
    let ranges: Vec<u64> =
        resume.lanes[0].committed.iter().filter_map(|r| r.sequences).map(|r| r.start).collect();
    assert_eq!(ranges, [3, 9], "the one in the drop, and the last");
}

#[test]
fn reasons_have_names() {
    let of = |reason: DropReason| views::reason_name(reason as u8);
    assert_eq!(
        (of(DropReason::StationLost), views::reason_name(99)),
        ("station_lost".into(), "unknown".into())
    );
}

/// What lies in a file without damage, and what is left of it with a page zeroed, swapped, or with a bit flipped.
#[test]
fn one_damaged_page_costs_what_was_in_it_and_it_is_counted() {
    let (mut rescued, mut quarantined) = (0, 0);
    for seed in 0..60 {
        let disk = Disk::new();
        let mut spool = on(&disk);
        hello(&mut spool, 1..60, Vec::new());
        for sequence in 1..=40 {
            commit(&mut spool, sequence, spans(sequence));
        }
        for entry in 1..=10 {
            progress(&mut spool, "a", &done(place(entry)));
        }
        spool.close().unwrap();
        let mut rng = SmallRng::seed_from_u64(seed);
        disk.damage(Path::new(FILE), |content| {
            let pages = content.len() / 4096;
            let page = rng.random_range(1..pages) * 4096;
            match seed % 3 {
                0 => content[page..page + 4096].fill(0),
                1 => content[page + rng.random_range(0..4096)] ^= 1 << rng.random_range(0..8),
                _ => {
                    let other = rng.random_range(1..pages) * 4096;
                    let copy = content[other..other + 4096].to_vec();
                    content[page..page + 4096].copy_from_slice(&copy);
                }
            }
        });
        if seed % 2 == 0 {
            // Without the mirror too.
            disk.delete(Path::new(MIRROR));
        }
        let mut spool = on(&disk);
        quarantined += u64::from(spool.quarantined().is_some());
        let mut exported = 0;
        while let Some(found) = spool.read(|view| outlet::next(view, "a", SignalSet::ALL, 1)).unwrap() {
            let (place, sequence) = (found.place, found.header.id.sequence);
            match spool.snapshot().unwrap().work(found) {
                Ok(work) => {
                    assert_eq!(work.header.hash, segment(sequence, spans(sequence), 0).0.hash, "seed {seed}");
                    progress(&mut spool, "a", &done(place));
                    exported += 1;
                }
                Err(Fault::Payload) => spool.write(|txn| outlet::lose(txn, place)).unwrap(),
                Err(fault) => panic!("seed {seed}: {fault:?}"),
            }
        }
        rescued += exported;
        if seed % 2 == 1 {
            let account = balance(&mut spool);
            assert_eq!(account.committed.spans, 820, "seed {seed}: {account:?}");
            assert_eq!(account.exported.spans + account.lost.spans, 820, "seed {seed}: {account:?}");
        }
        for sequence in 1..=40 {
            let again = commit(&mut spool, sequence, spans(sequence));
            if seed % 2 == 1 {
                assert_eq!(again, Applied::Duplicate, "seed {seed}");
            }
        }
        spool.close().unwrap();
        assert!(on(&disk).quarantined().is_none(), "seed {seed}: it is whole now");
    }
    assert!(quarantined > 20, "{quarantined}");
    assert!(rescued > 30 * 60 * 3 / 4, "{rescued} segments were left");
}

#[test]
fn a_record_that_cannot_be_read_costs_itself_and_never_the_spool() {
    let disk = Disk::new();
    let mut spool = on(&disk);
    for sequence in 1..=5 {
        commit(&mut spool, sequence, spans(sequence));
    }
    let overwrite = |txn: &mut file::Txn<'_>| {
        txn.tables.open_table(tables::ENTRIES)?.insert(place(3).0, &[0xff; 9][..])?;
        Ok(())
    };
    spool.write(overwrite).unwrap();
    let next = |spool: &mut Spool| spool.read(|view| outlet::next(view, "a", SignalSet::ALL, 1));
    let mut exported = Vec::new();
    for _ in 0..40 {
        match next(&mut spool) {
            Ok(Some(found)) => {
                exported.push(found.header.id.sequence);
                progress(&mut spool, "a", &done(found.place));
            }
            Ok(None) => break,
            // The file is opened again, and then replaced.
            Err(SpoolError::Store(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(exported, [1, 2, 4, 5]);
    assert!(spool.quarantined().is_some());
    let account = balance(&mut spool);
    assert_eq!((account.exported.spans, account.lost.spans), (12, 3));
    spool.close().unwrap();
    assert!(on(&disk).quarantined().is_none());
}

#[test]
fn a_damaged_base_is_removed_and_the_satellite_is_asked_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    commit(&mut spool, 1, spans(1));
    let key = SequenceKey { satellite: 1, epoch: EPOCH, lane: 8, sequence: 1 };
    let header = segment(1, spans(1), 0).0;
    spool.write(|txn| bases::keep(txn, key, 1, &header)).unwrap();
    let damage = |txn: &mut file::Txn<'_>| {
        txn.tables.open_table(BASE_CHUNKS)?.insert(key.base_chunk(0), &b"other"[..])?;
        Ok(())
    };
    spool.write(damage).unwrap();
    let found = scrub::step(&spool.snapshot().unwrap(), None).unwrap();
    assert_eq!((found.checked, found.faults.len()), (2, 1));
    assert!(matches!(found.faults[0].1, Fault::Base(of) if of == key));
    let before = usage(&spool);
    spool.write(|txn| bases::discard(txn, key)).unwrap();
    assert_eq!(usage(&spool), before - header.payload_len);
    assert_eq!(spool.read(views::overview).unwrap().bases, 0);
}

#[test]
fn a_new_spool_gets_a_ledger_of_its_own() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ledger = |dir: &tempfile::TempDir| {
        let spool = Spool::open(&Env::production(), settings(dir, &[])).unwrap();
        spool.contents().ledger
    };
    assert_ne!(ledger(&one), ledger(&other));
    assert_eq!(ledger(&one), ledger(&one));
}

/// The satellite had it from another station, which had committed all of one when its acknowledgement was lost, and a part of the other.
#[test]
fn what_another_station_has_of_a_drop_is_no_loss() {
    let mut spool = on(&Disk::new());
    let corrupt = |id, sequences, of_other: u64| link::Drop {
        reason: DropReason::Corruption as i32,
        overridden: Some(spans(of_other).into()),
        ..dropped(id, sequences, 20)
    };
    hello(&mut spool, 4..4, vec![corrupt(1, 1..2, 0), corrupt(2, 2..4, 0)]);
    let lost = |spool: &mut Spool| {
        let (view, counts) =
            spool.read(|view| Ok((views::accounting(view)?, views::gap_counts(view)?))).unwrap();
        (view["sat-1"].dropped.spans, counts.into_values().sum::<u64>())
    };
    assert_eq!(lost(&mut spool), (40, 2));
    for _ in 0..2 {
        hello(&mut spool, 4..4, vec![corrupt(1, 1..2, 20), corrupt(2, 2..4, 7)]);
        assert_eq!(lost(&mut spool), (20, 1), "nobody knows which part");
    }
    hello(&mut spool, 5..5, vec![corrupt(3, 4..5, 20)]);
    assert_eq!(lost(&mut spool), (20, 1), "the satellite tells of the drop after the other station had it");
    commit(&mut spool, 1, spans(20));
    assert_eq!(lost(&mut spool), (20, 1), "and it is here as well");
}
