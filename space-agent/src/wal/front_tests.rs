//! The front of the journal on disks that cut, damage and refuse.

use std::path::PathBuf;

use perigee_shared::signal::Counts;
use simdisk::{Fault, Operation, Trouble};

use super::damage_tests::{deliverable, told};
use super::tests::{Bench, assert_adds_up, logs, request, seal};
use super::*;

const PAGE: usize = 4096;

/// A log whose format is that of the front already, and nothing in it.
fn begun() -> (Bench, Wal) {
    let bench = Bench::new();
    let mut wal = bench.open();
    wal.journal().append(&[request(0, 1, 10)]).unwrap();
    seal(&mut wal).unwrap();
    (bench, wal)
}

fn file(bench: &Bench) -> PathBuf {
    bench.file().with_file_name("journal.front")
}

/// Commits of five items each; each takes one page of the front.
fn append(wal: &mut Wal, numbers: std::ops::Range<u64>) {
    for n in numbers {
        wal.journal().append(&[request(n, 5, 1_000)]).unwrap();
    }
}

/// Where the group that was appended as the `n`th since the front was made is.
fn damage(bench: &Bench, n: usize, from: usize) {
    bench.disk.damage(&file(bench), |content| content[n * PAGE + from..(n + 1) * PAGE].fill(7));
}

#[test]
fn a_small_commit_is_one_write_and_leaves_the_tables_alone() {
    let (bench, mut wal) = begun();
    append(&mut wal, 1..3);
    let (before, operations) = (bench.disk.content(&bench.file()), bench.disk.operations());
    append(&mut wal, 3..13);
    // Each is written and synced.
    assert_eq!(bench.disk.operations() - operations, 20);
    assert!(bench.disk.content(&bench.file()) == before, "nothing of it is in the tables");
    assert_eq!(wal.summary().in_journal, logs(60));
    wal.journal().settle_front().unwrap();
    assert!(wal.state().front.is_empty());
    drop(wal);
    assert_eq!(bench.open().summary().in_journal, logs(60));
}

#[test]
fn the_front_goes_round_for_ever_and_every_commit_survives() {
    let (bench, mut wal) = begun();
    let mut sealed = Counts::ZERO;
    for round in 0..40u64 {
        append(&mut wal, round * 20..round * 20 + 20);
        if round % 7 == 3 {
            sealed += seal(&mut wal).unwrap().unwrap().items;
        }
        if round % 5 == 4 {
            drop(wal);
            bench.disk.restart();
            wal = bench.open();
        }
        assert_adds_up(&wal);
        assert_eq!(wal.summary().in_journal + sealed, logs(100 * (round + 1)), "round {round}");
    }
    assert_eq!(told(&mut wal), (Counts::ZERO, false));
    assert_eq!(deliverable(&mut wal), logs(4_001));
}

#[test]
fn a_group_that_the_front_has_lost_is_told_with_its_count_and_the_rest_is_taken() {
    for lost in [0, 4, 8] {
        let (bench, mut wal) = begun();
        append(&mut wal, 1..11);
        drop(wal);
        damage(&bench, lost, 0);
        let mut wal = bench.open();
        assert_eq!(wal.summary().in_journal, logs(45));
        assert_eq!(told(&mut wal), (logs(5), false), "group {lost}");
        assert_adds_up(&wal);
        append(&mut wal, 20..22);
        drop(wal);
        let mut wal = bench.open();
        assert_eq!((wal.summary().in_journal, told(&mut wal).0), (logs(55), logs(5)), "told once");
    }
}

#[test]
fn a_last_group_that_is_not_whole_is_told_once_as_unknown() {
    let (bench, mut wal) = begun();
    append(&mut wal, 1..4);
    drop(wal);
    damage(&bench, 2, 200);
    for start in 0..3 {
        let mut wal = bench.open();
        assert_eq!(wal.summary().in_journal, logs(10 + 5 * start));
        let drops = wal.epochs().hello("a").unwrap().into_iter().flat_map(|e| e.drops).count();
        assert_eq!((drops, told(&mut wal)), (1, (Counts::ZERO, true)), "start {start}");
        append(&mut wal, 50 + start..51 + start);
        assert_adds_up(&wal);
    }
}

#[test]
fn latest_pages_that_were_overwritten_are_told_once_as_unknown() {
    for (lost, from, to) in [(1, 0, PAGE), (3, 0, PAGE), (1, 26, 27)] {
        let (bench, mut wal) = begun();
        append(&mut wal, 1..6);
        drop(wal);
        bench.disk.damage(&file(&bench), |content| {
            for page in content.chunks_mut(PAGE).take(5).rev().take(lost) {
                page[from..to].iter_mut().for_each(|byte| *byte = if to == PAGE { 0 } else { !*byte });
            }
        });
        for start in 0..3 {
            let mut wal = bench.open();
            assert_eq!(wal.summary().in_journal, logs(25 - 5 * lost as u64 + 5 * start));
            let drops = wal.epochs().hello("a").unwrap().into_iter().flat_map(|e| e.drops).count();
            assert_eq!((drops, told(&mut wal)), (1, (Counts::ZERO, true)), "{lost}, start {start}");
            append(&mut wal, 50 + start..51 + start);
            assert_adds_up(&wal);
        }
    }
}

/// Whether something of five commits is told as unknown once the front's file was changed, and what is on board then.
fn told_after(change: impl FnOnce(&mut Vec<u8>)) -> (bool, Counts) {
    let (bench, mut wal) = begun();
    append(&mut wal, 1..5);
    // Of three pages.
    wal.journal().append(&[request(5, 5, 9_000)]).unwrap();
    drop(wal);
    bench.disk.damage(&file(&bench), change);
    let mut wal = bench.open();
    (told(&mut wal).1, wal.summary().in_journal)
}

#[test]
fn a_frame_whose_mark_is_damaged_is_taken() {
    for at in 0..8 {
        assert_eq!(told_after(|content| content[4 * PAGE + at] ^= 1), (false, logs(25)));
    }
}

#[test]
fn a_latest_frame_that_is_undone_in_part_or_that_another_has_replaced_is_told_as_unknown() {
    let new = 0xa5;
    assert_eq!(told_after(|content| content[4 * PAGE..5 * PAGE].fill(new)), (true, logs(20)));
    assert_eq!(told_after(|content| content[4 * PAGE..][..512].fill(new)), (true, logs(20)));
    assert_eq!(told_after(|content| content.copy_within(2 * PAGE..3 * PAGE, 4 * PAGE)), (true, logs(20)));
    assert_eq!(told_after(|_| ()), (false, logs(25)));
}

#[test]
fn a_front_that_is_gone_or_cut_is_told_once_as_unknown() {
    for left in [None, Some(0), Some(2 * PAGE + 100)] {
        let (bench, mut wal) = begun();
        append(&mut wal, 1..4);
        drop(wal);
        match left {
            None => bench.disk.delete(&file(&bench)),
            Some(left) => bench.disk.damage(&file(&bench), |content| content.truncate(left)),
        }
        for start in 0..3 {
            let mut wal = bench.open();
            let there = if left == Some(2 * PAGE + 100) { 10 } else { 0 };
            assert_eq!(wal.summary().in_journal, logs(there + 5 * start));
            let drops = wal.epochs().hello("a").unwrap().into_iter().flat_map(|e| e.drops).count();
            assert_eq!((drops, told(&mut wal)), (1, (Counts::ZERO, true)), "start {start}");
            append(&mut wal, 50 + start..51 + start);
            assert_adds_up(&wal);
        }
    }
}

#[test]
fn a_log_that_is_damaged_or_gone_gets_its_front_back() {
    for gone in [false, true] {
        let (bench, mut wal) = begun();
        append(&mut wal, 1..6);
        wal.journal().settle_front().unwrap();
        append(&mut wal, 6..11);
        let epoch = wal.summary().life.epoch;
        drop(wal);
        match gone {
            true => bench.disk.delete(&bench.file()),
            // The pages that the header names.
            false => bench.disk.damage(&bench.file(), |content| {
                for page in content[PAGE..].chunks_mut(PAGE).filter(|p| p[0] == 1 || p[0] == 2).take(2) {
                    page[8..40].fill(9);
                }
            }),
        }
        let mut wal = bench.try_open().unwrap();
        assert_ne!(wal.summary().life.epoch, epoch, "it begins anew");
        // What went into the tables last is still in the front as well.
        assert_eq!(wal.summary().in_journal, logs(50), "gone: {gone}");
        assert_adds_up(&wal);
        append(&mut wal, 20..21);
        drop(wal);
        assert_eq!(bench.open().summary().in_journal, logs(55), "nothing comes twice");
    }
}

#[test]
fn a_front_that_cannot_be_written_refuses_nothing() {
    for operation in [Operation::Write, Operation::Sync] {
        for trouble in [Trouble::InputOutput, Trouble::NoSpace, Trouble::WriteBack] {
            let (bench, mut wal) = begun();
            append(&mut wal, 1..4);
            bench.disk.arm(Fault { operation, trouble, after: 0, times: 1, seed: 3 });
            append(&mut wal, 4..8);
            assert_eq!(bench.disk.heal(), 1);
            drop(wal);
            bench.disk.kill();
            bench.disk.restart();
            let mut wal = bench.open();
            assert_eq!(deliverable(&mut wal), logs(36), "{operation:?} {trouble:?}");
            assert_eq!(told(&mut wal), (Counts::ZERO, false));
        }
    }
}

#[test]
fn what_was_refused_stays_out_though_the_front_has_it() {
    let (bench, mut wal) = begun();
    append(&mut wal, 1..4);
    // The sync of the front fails, and every one after it.
    bench.disk.arm(Fault {
        operation: Operation::Sync,
        trouble: Trouble::InputOutput,
        after: 0,
        times: 100,
        seed: 3,
    });
    assert!(wal.journal().append(&[request(9, 5, 1_000)]).is_err());
    bench.disk.heal();
    drop(wal);
    drop(bench.open());
    let mut wal = bench.open();
    assert_eq!((deliverable(&mut wal), told(&mut wal)), (logs(16), (Counts::ZERO, false)));
    append(&mut wal, 10..12);
    drop(wal);
    let mut wal = bench.open();
    assert_eq!(deliverable(&mut wal), logs(26));
    assert_adds_up(&wal);
}

#[test]
fn what_was_refused_stays_out_after_a_kill_while_no_sync_succeeds() {
    for left_before in [false, true] {
        let (bench, mut wal) = begun();
        append(&mut wal, 1..4);
        if left_before {
            // A note of an earlier time says that nothing was refused.
            let note = bench.file().with_file_name("refused.json");
            let none = serde_json::json!({ "epoch": 0, "from": u64::MAX });
            perigee_shared::store::mirror::write(&bench.disk.env(), &note, &none).unwrap();
        }
        let (operation, trouble) = (Operation::Sync, Trouble::InputOutput);
        bench.disk.arm(Fault { operation, trouble, after: 0, times: 1_000, seed: 3 });
        bench.disk.set_unsynced(true);
        for n in 9..12 {
            assert!(wal.journal().append(&[request(n, 5, 1_000)]).is_err());
        }
        bench.disk.kill();
        drop(wal);
        bench.disk.heal();
        bench.disk.set_unsynced(false);
        let mut wal = bench.open();
        assert_eq!((deliverable(&mut wal), told(&mut wal)), (logs(16), (Counts::ZERO, false)));
        // The note takes out nothing that is accepted later, not even when it comes back.
        append(&mut wal, 20..22);
        bench.disk.kill();
        drop(wal);
        let mut wal = bench.open();
        assert_eq!(deliverable(&mut wal), logs(26));
        append(&mut wal, 22..24);
        let epoch = wal.summary().life.epoch;
        drop(wal);
        for from in 4..8 {
            let note = bench.file().with_file_name("refused.json");
            let old = serde_json::json!({ "epoch": epoch, "from": from });
            perigee_shared::store::mirror::write(&bench.disk.env(), &note, &old).unwrap();
            let mut wal = bench.open();
            assert_eq!((deliverable(&mut wal), told(&mut wal)), (logs(36), (Counts::ZERO, false)), "{from}");
            assert_adds_up(&wal);
        }
    }
}

#[test]
fn frames_of_another_epoch_are_not_taken() {
    let (bench, mut wal) = begun();
    append(&mut wal, 1..6);
    wal.epochs().begin("a test").unwrap();
    append(&mut wal, 6..8);
    drop(wal);
    let mut wal = bench.open();
    assert_eq!((wal.summary().in_journal, told(&mut wal)), (logs(35), (Counts::ZERO, false)));
}
