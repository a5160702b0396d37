//! What the counters beside the log say when it is gone, or older than they are.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use perigee_proto::link;
use perigee_shared::link::Slot;
use perigee_shared::signal::Counts;
use perigee_shared::store::StoreError;

use super::damage_tests::{deliverable, told};
use super::tests::{Bench, LINK, assert_adds_up, logs, request, seal, view};
use super::*;

fn beside(bench: &Bench, name: &str) -> PathBuf {
    bench.file().with_file_name(name)
}

/// Requests of five items each.
fn append(wal: &mut Wal, numbers: std::ops::Range<u64>) {
    for n in numbers {
        wal.journal().append(&[request(n, 5, 1_000)]).unwrap();
    }
}

/// A backup of the log as it is now, as a file's content.
fn copied(bench: &Bench, wal: &mut Wal) -> Vec<u8> {
    let path = beside(bench, "copy");
    wal.file().backup().unwrap().write(&bench.disk.env(), &path).unwrap();
    let content = bench.disk.content(&path).unwrap();
    bench.disk.delete(&path);
    content
}

/// Puts a backup back, and nothing of the front beside it.
fn put_back(bench: &Bench, content: Vec<u8>) {
    bench.disk.put(&bench.file(), content);
    bench.disk.delete(&beside(bench, "journal.front"));
}

/// The ground acknowledges these segments.
fn deliver(wal: &mut Wal, headers: &[Header]) {
    for header in headers {
        wal.custody().mark_sent(Slot::FIRST, header.id);
        wal.epochs().committed(LINK, Slot::FIRST, &[header.id]).unwrap();
    }
}

/// The same of what waits to be sealed.
fn deliver_next(wal: &mut Wal) {
    let header = seal(wal).unwrap().unwrap();
    deliver(wal, &[header]);
}

fn drops(wal: &mut Wal) -> Vec<link::Drop> {
    wal.epochs().hello("a").unwrap().into_iter().flat_map(|epoch| epoch.drops).collect()
}

#[test]
fn what_nobody_knows_of_an_earlier_life_is_told_though_the_log_is_lost_again_after_an_orderly_stop() {
    let bench = Bench::new();
    let mut wal = bench.open();
    append(&mut wal, 0..3);
    drop(wal);
    for times in 1..4 {
        bench.disk.delete(&bench.file());
        bench.disk.delete(&beside(&bench, "journal.front"));
        let mut wal = bench.open();
        assert_eq!(told(&mut wal).1, times < 3, "a station heard of it the second time");
        append(&mut wal, 3..4);
        deliver_next(&mut wal);
        if times == 2 {
            let of = |epoch: link::Epoch| link::DropsAck {
                epoch: epoch.epoch,
                ids: epoch.drops.iter().map(|drop| drop.id).collect(),
                ..Default::default()
            };
            for ack in wal.epochs().hello("a").unwrap().into_iter().map(of) {
                wal.epochs().drops_acknowledged("a", &["a".to_owned()], &ack, None).unwrap();
            }
        }
        wal.close().unwrap();
    }
}

/// Counts the lines of the log that contain a text.
struct Lines(&'static str, Arc<AtomicUsize>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut said = String::new();
        event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            said.push_str(&format!("{field}={value:?} "));
        });
        if said.contains(self.0) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// Runs `work`; how many lines of the log contain `text` meanwhile.
pub(super) fn lines(text: &'static str, work: impl FnOnce()) -> usize {
    let count = Arc::new(AtomicUsize::new(0));
    tracing::subscriber::with_default(Lines(text, Arc::clone(&count)), work);
    count.load(Ordering::Relaxed)
}

#[test]
fn a_backup_that_is_put_back_tells_what_was_accepted_since() {
    for in_order in [true, false] {
        let bench = Bench::new();
        let mut wal = bench.open();
        append(&mut wal, 0..10);
        let copy = copied(&bench, &mut wal);
        append(&mut wal, 10..13);
        match in_order {
            true => wal.close().unwrap(),
            false => {
                wal.mirror().keep(0);
                drop(wal);
                bench.disk.kill();
            }
        }
        put_back(&bench, copy);
        for _ in 0..2 {
            let mut wal = bench.open();
            assert_eq!(told(&mut wal), (logs(15), !in_order), "told once, and exactly after a stop in order");
            assert_eq!((wal.summary().accepted, wal.summary().in_journal), (logs(65), logs(50)));
            assert_adds_up(&wal);
        }
        assert_eq!(deliverable(&mut bench.open()), logs(50));
    }
}

#[test]
fn a_backup_that_is_put_back_before_the_counters_were_written_is_noticed_all_the_same() {
    for counters in [true, false] {
        let bench = Bench::new();
        let mut wal = bench.open();
        append(&mut wal, 0..10);
        let copy = copied(&bench, &mut wal);
        append(&mut wal, 10..13);
        drop(wal);
        bench.disk.kill();
        put_back(&bench, copy);
        if !counters {
            bench.disk.delete(&beside(&bench, "counters.json"));
        }
        assert_eq!(told(&mut bench.open()), (Counts::ZERO, true), "nobody knows how much it is");
        assert_eq!(drops(&mut bench.open()).len(), 1, "told once");
    }
}

#[test]
fn a_backup_beside_the_front_of_the_log_has_the_latest_requests_from_there() {
    let bench = Bench::new();
    let mut wal = bench.open();
    append(&mut wal, 0..10);
    let copy = copied(&bench, &mut wal);
    append(&mut wal, 10..13);
    drop(wal);
    bench.disk.kill();
    bench.disk.put(&bench.file(), copy);
    let mut wal = bench.open();
    assert_eq!((told(&mut wal).0, deliverable(&mut wal)), (Counts::ZERO, logs(65)));
    assert_adds_up(&wal);
}

#[test]
fn a_backup_from_before_a_seal_is_told_from_a_seal_that_the_disk_took_back() {
    for backup in [true, false] {
        let bench = Bench::new();
        let mut wal = bench.open();
        append(&mut wal, 0..10);
        let copy = copied(&bench, &mut wal);
        let earlier = bench.disk.content(&bench.file()).unwrap();
        seal(&mut wal).unwrap();
        drop(wal);
        bench.disk.kill();
        put_back(&bench, if backup { copy } else { earlier });
        let mut wal = bench.open();
        assert_eq!(wal.summary().accepted, logs(50));
        match backup {
            true => assert_eq!((told(&mut wal).0, deliverable(&mut wal)), (Counts::ZERO, logs(50))),
            // It may have been delivered: a ground that has it says so.
            false => assert_eq!((told(&mut wal).0, deliverable(&mut wal)), (logs(50), Counts::ZERO)),
        }
        assert_adds_up(&wal);
    }
}

#[test]
fn a_backup_from_before_seals_keeps_what_was_never_delivered() {
    let bench = Bench::new();
    let mut wal = bench.open();
    append(&mut wal, 0..4);
    let first = seal(&mut wal).unwrap().unwrap();
    append(&mut wal, 4..8);
    seal(&mut wal).unwrap();
    append(&mut wal, 8..12);
    let copy = copied(&bench, &mut wal);
    seal(&mut wal).unwrap();
    append(&mut wal, 12..14);
    seal(&mut wal).unwrap();
    deliver(&mut wal, &[first]);
    append(&mut wal, 14..17);
    let epoch = wal.summary().life.epoch;
    wal.close().unwrap();
    put_back(&bench, copy);
    // No file is put aside.
    let mut wal = bench.open();
    let summary = wal.summary();
    assert_ne!(summary.life.epoch, epoch);
    assert_eq!((summary.accepted, summary.delivered), (logs(85), logs(20)));
    assert_eq!(told(&mut wal), (logs(25), false), "two requests in the last segment, and three in none");
    assert_eq!((wal.summary().in_segments, wal.summary().in_journal), (logs(20), logs(20)));
    assert_adds_up(&wal);
    append(&mut wal, 20..21);
    assert_eq!(seal(&mut wal).unwrap().unwrap().id.sequence, 5, "no sequence is given twice");
    drop(wal);
    let mut wal = bench.open();
    assert_eq!((told(&mut wal).0, deliverable(&mut wal)), (logs(25), logs(45)), "once");
    assert_adds_up(&wal);
}

#[test]
fn a_backup_that_is_put_back_twice_keeps_what_was_never_delivered() {
    let bench = Bench::new();
    let mut wal = bench.open();
    append(&mut wal, 0..4);
    let first = seal(&mut wal).unwrap().unwrap();
    append(&mut wal, 4..8);
    seal(&mut wal).unwrap();
    let copy = copied(&bench, &mut wal);
    append(&mut wal, 8..12);
    seal(&mut wal).unwrap();
    deliver(&mut wal, &[first]);
    wal.close().unwrap();
    put_back(&bench, copy.clone());
    let mut wal = bench.open();
    assert_eq!(told(&mut wal), (logs(20), false));
    append(&mut wal, 12..15);
    wal.close().unwrap();
    put_back(&bench, copy);
    let mut wal = bench.open();
    let closed = wal.epochs().hello("a").unwrap();
    assert_eq!(
        closed.iter().map(|e| (e.closed, e.continued)).collect::<Vec<_>>(),
        [(true, true), (true, true), (false, false)]
    );
    assert_eq!((wal.summary().accepted, wal.summary().delivered), (logs(75), logs(20)));
    assert_eq!(
        told(&mut wal).0,
        logs(35),
        "the first gap again, since no station has heard of it, and what came after it"
    );
    assert_eq!(deliverable(&mut wal), logs(20));
    assert_adds_up(&wal);
}

#[test]
fn a_backup_from_before_deliveries_repeats_nothing_and_tells_the_rest() {
    let bench = Bench::new();
    let mut wal = bench.open();
    append(&mut wal, 0..10);
    let copy = copied(&bench, &mut wal);
    append(&mut wal, 10..11);
    deliver_next(&mut wal);
    append(&mut wal, 11..14);
    let before = wal.summary();
    wal.close().unwrap();
    put_back(&bench, copy);
    let mut wal = bench.open();
    assert_eq!((wal.summary().accepted, wal.summary().delivered), (before.accepted, logs(55)));
    assert_eq!((told(&mut wal), deliverable(&mut wal)), ((logs(15), false), Counts::ZERO));
    assert_adds_up(&wal);
}

#[test]
fn a_log_that_is_gone_after_a_contact_leaves_no_gap_of_what_was_delivered() {
    let bench = Bench::new();
    let mut wal = bench.open();
    append(&mut wal, 0..4);
    deliver_next(&mut wal);
    // The contact closes.
    wal.mirror().keep(0);
    drop(wal);
    bench.disk.kill();
    bench.disk.delete(&bench.file());
    bench.disk.delete(&beside(&bench, "journal.front"));
    let mut wal = bench.open();
    assert_eq!((wal.summary().accepted, wal.summary().delivered), (logs(20), logs(20)));
    assert_eq!(told(&mut wal), (Counts::ZERO, true), "more may have been accepted since");
    assert!(drops(&mut wal).iter().all(|drop| drop.sequences.is_none()), "no segment is named");
    assert_adds_up(&wal);
}

#[test]
fn what_a_ground_has_of_a_log_that_is_gone_is_delivered() {
    let bench = Bench::new();
    let mut wal = bench.open();
    for n in 0..3 {
        append(&mut wal, 4 * n..4 * n + 4);
        seal(&mut wal).unwrap();
    }
    let epoch = wal.summary().life.epoch;
    // Killed in the contact: the ground has two of three, and nothing beside the log says so.
    drop(wal);
    bench.disk.kill();
    bench.disk.delete(&bench.file());
    let mut wal = bench.open();
    let named = drops(&mut wal).into_iter().find(|drop| drop.sequences.is_some()).unwrap();
    assert_eq!(named.sequences, Some(link::Range { start: 1, end: 4 }));
    assert_eq!(
        (named.items, named.counts_unknown),
        (Some(logs(60).into()), false),
        "a ground takes off what it has"
    );
    let overridden = vec![link::DropOverride { id: named.id, items: Some(logs(40).into()) }];
    let ack = link::DropsAck { epoch, ids: vec![named.id], overridden };
    wal.epochs().drops_acknowledged("a", &["a".to_owned()], &ack, None).unwrap();
    let summary = wal.summary();
    assert_eq!((summary.delivered, summary.dropped), (logs(40), vec![(DropReason::Corruption, logs(20))]));
    assert_adds_up(&wal);
}

#[test]
fn a_log_that_is_gone_after_a_stop_in_order_and_had_nothing_left_is_no_gap() {
    let bench = Bench::new();
    let mut wal = bench.open();
    append(&mut wal, 0..4);
    deliver_next(&mut wal);
    wal.close().unwrap();
    bench.disk.delete(&bench.file());
    let mut wal = bench.open();
    assert_eq!((told(&mut wal), drops(&mut wal).len()), ((Counts::ZERO, false), 0));
    assert_eq!(wal.summary().life.start_counter, 2);
}

#[test]
fn a_running_log_whose_directory_is_emptied_goes_on_counting() {
    let bench = Bench::new();
    let mut wal = bench.open();
    append(&mut wal, 0..20);
    deliver_next(&mut wal);
    append(&mut wal, 20..32);
    let before = wal.summary();
    let alarms = lines("perigee.wal.lost", || {
        for file in ["wal.redb", "counters.json", "journal.front"] {
            bench.disk.delete(&beside(&bench, file));
        }
        let refused = wal.journal().append(&[request(40, 5, 100)]);
        assert!(matches!(refused, Err(WalError::Store(StoreError::Damaged(_)))), "{refused:?}");
        bench.disk.delete(&beside(&bench, "counters.json"));
        append(&mut wal, 41..42);
    });
    assert_eq!(alarms, 1);
    let after = wal.summary();
    assert_eq!(after.life.start_counter, before.life.start_counter + 1);
    assert_eq!((after.accepted, after.delivered, after.in_journal), (logs(165), logs(100), logs(5)));
    assert_eq!(told(&mut wal), (logs(60), false));
    assert_adds_up(&wal);
}

#[test]
fn a_front_that_is_gone_old_or_of_another_log_is_told_with_what_the_counters_know() {
    for kind in ["gone", "old", "another"] {
        let other = Bench::new();
        // Of another number, so that it has another epoch.
        drop(other.disk.env());
        let mut wal = other.open();
        append(&mut wal, 0..9);
        drop(wal);
        let bench = Bench::new();
        let mut wal = bench.open();
        append(&mut wal, 0..2);
        seal(&mut wal).unwrap();
        append(&mut wal, 2..5);
        let front = beside(&bench, "journal.front");
        let old = bench.disk.content(&front).unwrap();
        wal.journal().settle_front().unwrap();
        append(&mut wal, 5..8);
        wal.mirror().keep(0);
        append(&mut wal, 8..9);
        drop(wal);
        bench.disk.kill();
        match kind {
            "gone" => bench.disk.delete(&front),
            "old" => bench.disk.put(&front, old),
            _ => bench.disk.put(&front, other.disk.content(&beside(&other, "journal.front")).unwrap()),
        }
        for start in 0..2 {
            let mut opened = None;
            let said = lines("another log's", || opened = Some(bench.open()));
            let mut wal = opened.unwrap();
            assert_eq!(told(&mut wal), (logs(15), true), "{kind}");
            assert_eq!((wal.summary().in_journal, drops(&mut wal).len()), (logs(15), 1), "{kind}");
            assert_eq!(said, usize::from(kind == "another" && start == 0), "{kind}");
            assert_adds_up(&wal);
        }
    }
}

#[test]
fn a_front_that_is_gone_after_a_stop_in_order_is_no_gap() {
    let bench = Bench::new();
    let mut wal = bench.open();
    append(&mut wal, 0..5);
    wal.close().unwrap();
    bench.disk.delete(&beside(&bench, "journal.front"));
    let mut wal = bench.open();
    assert_eq!((drops(&mut wal).len(), deliverable(&mut wal)), (0, logs(25)));
}

#[test]
fn counters_are_written_when_something_has_changed_and_else_never() {
    let bench = Bench::new();
    let mut wal = bench.open();
    let counters = || bench.disk.content(&beside(&bench, "counters.json"));
    append(&mut wal, 0..3);
    let (before, operations) = (counters(), bench.disk.operations());
    wal.mirror().keep(0);
    assert_ne!(counters(), before);
    assert!(bench.disk.operations() - operations < 6 && counters().unwrap().len() < 4_096);
    let operations = bench.disk.operations();
    (0..10).for_each(|_| wal.mirror().keep(0));
    append(&mut wal, 3..4);
    wal.mirror().keep(u64::MAX);
    // The commit itself.
    assert_eq!(bench.disk.operations() - operations, 2);
}

#[test]
fn counters_that_cannot_be_written_are_said_once_and_that_they_can_be_again() {
    let bench = Bench::new();
    let mut wal = bench.open();
    let failed = lines("could not be written", || {
        for n in 0..20 {
            wal.mirror().note(Err(std::io::Error::other("no inode")), n * 1_000_000_000);
        }
    });
    assert_eq!(failed, 1);
    let later = lines("could not be written", || {
        wal.mirror().note(Err(std::io::Error::other("no inode")), 700_000_000_000);
    });
    assert_eq!(later, 1, "after ten minutes again");
    assert_eq!(lines("can be written again", || (0..3).for_each(|_| wal.mirror().write())), 1);
}

#[test]
fn counters_of_another_satellite_are_said_and_not_used() {
    let bench = Bench::new();
    let mut wal = bench.open();
    append(&mut wal, 0..3);
    wal.close().unwrap();
    let other = Bench::new();
    let config = WalConfig { satellite: Some("other".to_owned()), ..other.config.clone() };
    Wal::open(config, other.disk.env()).unwrap().close().unwrap();
    bench
        .disk
        .put(&beside(&bench, "counters.json"), other.disk.content(&beside(&other, "counters.json")).unwrap());
    let said = lines("of another satellite", || {
        let mut wal = bench.open();
        assert_eq!((drops(&mut wal).len(), wal.summary().in_journal), (0, logs(15)));
    });
    assert_eq!(said, 1);
    assert_eq!(lines("of another satellite", || drop(bench.open())), 0, "ours took its place");
}

#[test]
fn a_ground_that_knows_more_than_a_restored_log_is_believed() {
    let bench = Bench::new();
    let mut wal = bench.open();
    append(&mut wal, 0..4);
    seal(&mut wal).unwrap();
    let copy = copied(&bench, &mut wal);
    append(&mut wal, 4..8);
    seal(&mut wal).unwrap();
    append(&mut wal, 8..12);
    seal(&mut wal).unwrap();
    // The ground has the first segment, and its acknowledgement was lost.
    let told_epoch = wal.epochs().hello("a").unwrap().pop().unwrap();
    wal.close().unwrap();
    put_back(&bench, copy);
    let mut wal = bench.open();
    let closed = wal.epochs().hello("a").unwrap().into_iter().find(|e| e.epoch == told_epoch.epoch).unwrap();
    assert!(closed.continued);
    let mut seen = view(&wal, 1..2, [0; 32]);
    seen.lanes.clear();
    let range = perigee_proto::link::CommittedRange {
        sequences: Some(link::Range { start: 1, end: 2 }),
        ..Default::default()
    };
    let lane =
        link::ResumeLane { lane: u32::from(Lane::BULK.0), committed: vec![range], ..Default::default() };
    seen.inherit(
        &closed,
        &link::ResumeEpoch { epoch: closed.epoch, lanes: vec![lane], ..Default::default() },
    );
    let header = wal.custody().waiting(LINK, Lane::BULK, 0, 1).unwrap().remove(0);
    wal.custody().mark_sent(Slot::FIRST, header.id);
    wal.epochs().reconcile(LINK, Slot::FIRST, &seen).unwrap();
    assert_eq!((wal.summary().delivered, told(&mut wal).0), (logs(20), logs(40)));
    assert_adds_up(&wal);
}

/// Nobody else has met the log: what lies there is all that tells of it.
#[test]
fn a_log_that_nothing_readable_tells_of_is_a_gap_of_unknown_size() {
    let zeros = |bench: &Bench, name: &str| {
        bench.disk.damage(&bench.file().with_file_name(name), |content| content.fill(0));
    };
    let delete = |bench: &Bench, name: &str| bench.disk.delete(&bench.file().with_file_name(name));
    type Harm<'a> = &'a dyn Fn(&Bench, &str);
    let harms: [(Harm<'_>, Harm<'_>, Harm<'_>); 4] = [
        (&delete, &zeros, &delete),
        (&delete, &delete, &|_, _| ()),
        (&zeros, &zeros, &delete),
        (&zeros, &delete, &delete),
    ];
    for (n, (log, counters, front)) in harms.into_iter().enumerate() {
        let bench = Bench::new();
        let mut wal = bench.open();
        (0..3).for_each(|n| wal.journal().append(&[request(n, 5, 100)]).unwrap());
        drop(wal);
        log(&bench, "wal.redb");
        counters(&bench, "counters.json");
        front(&bench, "journal.front");
        let mut wal = bench.try_open().unwrap();
        assert_eq!(told(&mut wal), (Counts::ZERO, true), "{n}");
        assert_adds_up(&wal);
        drop(wal);
        assert_eq!(told(&mut bench.try_open().unwrap()), (Counts::ZERO, true), "{n}: once");
    }
    let bench = Bench::new();
    bench.disk.put(&bench.file(), Vec::new());
    assert_eq!(told(&mut bench.open()), (Counts::ZERO, false), "a first start that was killed");
}
