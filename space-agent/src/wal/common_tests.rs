//! A log that was put back with everything beside it, and a ground that has met its later state.

use perigee_proto::link::{self, DropReason, Groups};
use perigee_shared::link::Slot;
use perigee_shared::segment::{Header, Lane};
use perigee_shared::signal::{Counts, SignalSet};

use super::common::Walk;
use super::damage_tests::deliverable;
use super::tests::{ALL, Bench, LINK, assert_adds_up, contradict, logs, request, seal};
use super::*;

/// What a ground that has these segments says to a log that is an earlier one.
fn view(wal: &Wal, has: &[Header]) -> GroundView {
    let mut lane = GroundLane::new(Lane::BULK);
    for header in has {
        let sequence = header.id.sequence;
        lane.committed.insert(sequence..sequence + 1);
        lane.tops.push((sequence, header.hash));
        lane.made_of.extend(header.made_of.map(|of| (sequence, of)));
    }
    GroundView { epoch: wal.summary().life.epoch, lanes: vec![lane], ..GroundView::default() }
}

fn append(wal: &mut Wal, numbers: std::ops::Range<u64>) {
    numbers.for_each(|n| wal.journal().append(&[request(n, 5, 100)]).unwrap());
}

/// Seals all that waits, `groups` at a time.
fn seal_each(wal: &mut Wal, groups: u64) -> Vec<Header> {
    let limits = BatchLimits { items: groups * 5, ..ALL };
    let mut sealed = Vec::new();
    while let Some(batch) = wal.segments().take_batch(Lane::BULK, limits, true).unwrap() {
        sealed.push(wal.segments().commit(batch.seal(&Encoding::plain(), 7).unwrap()).unwrap());
    }
    sealed
}

/// Six groups are put back; what came behind them in the later state was delivered with them, in segments of `groups` each, of which
/// the ground has those that `has` says. `before`: what the earlier state does before it meets that ground. Returns what it does not
/// believe to be there, of 30 items and the 10 that came new.
fn left(groups: u64, has: impl Fn(u64) -> bool, before: impl FnOnce(&Bench, Wal) -> Wal) -> Counts {
    let mut bench = Bench::new();
    let mut wal = bench.open();
    append(&mut wal, 0..1);
    seal(&mut wal).unwrap();
    append(&mut wal, 1..7);
    let earlier = simdisk::Disk::new();
    for file in bench.disk.files() {
        earlier.put(&file, bench.disk.content(&file).unwrap());
    }
    append(&mut wal, 7..9);
    let later: Vec<Header> = seal_each(&mut wal, groups);
    drop(wal);
    bench.disk = earlier;
    let mut wal = bench.open();
    append(&mut wal, 20..22);
    let mut wal = before(&bench, wal);
    let has: Vec<Header> = later.into_iter().filter(|header| has(header.id.sequence)).collect();
    let view = view(&wal, &has);
    contradict(&mut wal, &view);
    assert_adds_up(&wal);
    assert_eq!(wal.summary().accepted, logs(45));
    let left = deliverable(&mut wal);
    drop(wal);
    assert_eq!(deliverable(&mut bench.open()), left);
    // The first segment is not known to the ground.
    left.saturating_sub(logs(5))
}

#[test]
fn groups_that_a_later_state_delivered_are_not_sent_again() {
    let stays = |_: &Bench, wal| wal;
    assert_eq!(left(100, |_| true, stays), logs(10), "all of it in one segment with what came later");
    assert_eq!(left(3, |_| true, stays), logs(10), "in three");
    assert_eq!(left(3, |sequence| sequence < 4, stays), logs(10));
    assert_eq!(left(3, |sequence| sequence < 3, stays), logs(25), "one has not arrived");
    assert_eq!(left(2, |sequence| sequence != 3, stays), logs(20), "nor one in the middle");
    assert_eq!(left(2, |sequence| sequence > 2, stays), logs(20), "nor the first");
}

#[test]
fn what_was_sealed_again_before_the_contact_is_known_by_what_it_was_made_of() {
    // Two more starts, and everything in segments: the six groups in one, or in several, and with what came new.
    let restarts = |bench: &Bench, wal| {
        drop(wal);
        drop(bench.open());
        bench.open()
    };
    let sealed = |groups| {
        move |bench: &Bench, wal| {
            let mut wal = restarts(bench, wal);
            seal_each(&mut wal, groups);
            wal
        }
    };
    assert_eq!(left(100, |_| true, restarts), logs(10));
    assert_eq!(left(100, |_| true, sealed(6)), logs(10));
    assert_eq!(left(4, |_| true, sealed(3)), logs(10));
    assert_eq!(left(100, |_| true, sealed(100)), logs(10), "nothing new is in a segment with them");
    assert_eq!(left(5, |_| true, sealed(4)), logs(10));
}

#[test]
fn another_group_under_a_number_proves_nothing() {
    let bench = Bench::new();
    let mut wal = bench.open();
    append(&mut wal, 0..4);
    let of = |sequence, checksum| Header {
        made_of: Some(Groups { first: 2, end: 6, checksum }),
        id: perigee_shared::segment::SegmentId { epoch: 0, lane: Lane::BULK, sequence },
        ..seal_header()
    };
    let view = view(&wal, &[of(1, 7)]);
    contradict(&mut wal, &view);
    assert_eq!((deliverable(&mut wal), wal.summary().delivered), (logs(20), Counts::ZERO));
}

/// A header of nothing in particular.
fn seal_header() -> Header {
    let bench = Bench::new();
    let mut wal = bench.open();
    append(&mut wal, 0..1);
    seal(&mut wal).unwrap().unwrap()
}

#[test]
fn the_walk_ends_where_the_ground_has_nothing() {
    let groups = |first, end| Groups { first, end, checksum: first * 100 };
    let made_of = vec![(7, groups(10, 14)), (8, groups(15, 20)), (9, groups(20, 22)), (11, groups(30, 40))];
    let lane = GroundLane { made_of, ..GroundLane::new(Lane::BULK) };
    let reach = |own: &[link::Groups]| {
        let mut walk = Walk::of(&lane);
        own.iter().map(|own| walk.reach(own)).collect::<Vec<_>>()
    };
    assert_eq!(reach(&[groups(10, 14)]), [14]);
    assert_eq!(reach(&[groups(15, 25)]), [22], "over two segments");
    assert_eq!(reach(&[groups(15, 16), groups(16, 19), groups(19, 25)]), [16, 19, 22], "in pieces");
    assert_eq!(reach(&[groups(15, 16), groups(17, 19)]), [16, 17], "the log was opened between them");
    assert_eq!(reach(&[groups(10, 14), groups(14, 45)]), [14, 22], "the tenth is missing");
    assert_eq!(reach(&[groups(30, 45)]), [40]);
    assert_eq!(reach(&[groups(11, 14)]), [11], "not known from its beginning");
    assert_eq!(reach(&[Groups { checksum: 1, ..groups(10, 14) }]), [10], "another one");
}

#[test]
fn a_segment_ends_at_a_start_unless_there_were_many() {
    for (starts, segments) in [(3, 3), (17, 17), (18, 1)] {
        let bench = Bench::new();
        for n in 0..starts {
            append(&mut bench.open(), n..n + 1);
        }
        let sealed = seal_each(&mut bench.open(), 100);
        assert_eq!(sealed.len(), segments, "{starts} starts");
        assert_eq!(sealed[0].made_of.is_some(), segments > 1, "it is known again where it is of one start");
    }
    // One that is cut before a large request is of as many starts.
    let bench = Bench::new();
    for n in 0..18 {
        append(&mut bench.open(), n..n + 1);
    }
    let mut wal = bench.open();
    wal.journal().append(&[request(18, 5, 100_000)]).unwrap();
    let limits = BatchLimits { raw: 10_000, ..ALL };
    let batch = wal.segments().take_batch(Lane::BULK, limits, true).unwrap().unwrap();
    let sealed = wal.segments().commit(batch.seal(&Encoding::plain(), 7).unwrap()).unwrap();
    assert_eq!((sealed.items, sealed.made_of), (logs(90), None));
}

#[test]
fn a_drop_of_an_earlier_state_is_told_under_an_id_that_the_later_one_has_not_given() {
    let bench = Bench::new();
    let mut wal = bench.open();
    append(&mut wal, 0..2);
    wal.bases().greets(Slot::FIRST, "svalbard");
    let dropped = seal_each(&mut wal, 1);
    wal.custody().drop_segments(dropped[..1].to_vec(), DropReason::QuotaOldest).unwrap();
    let told = |wal: &mut Wal, station: &str| -> Vec<link::Drop> {
        wal.epochs().hello(station).unwrap().into_iter().flat_map(|epoch| epoch.drops).collect()
    };
    let id = told(&mut wal, "svalbard")[0].id;
    let ack = link::DropsAck { epoch: dropped[0].id.epoch, ids: vec![id], overridden: Vec::new() };
    wal.epochs().drops_acknowledged("svalbard", &["svalbard".to_owned()], &ack, Some(id)).unwrap();
    wal.custody().drop_segments(dropped[1..].to_vec(), DropReason::Lifetime).unwrap();
    let before = told(&mut wal, "svalbard");
    assert_eq!(
        before.iter().map(|drop| (drop.id, drop.reason())).collect::<Vec<_>>(),
        [(id + 1, DropReason::Lifetime)]
    );
    let view = super::tests::view(&wal, 1..10, [9; 32]);
    contradict(&mut wal, &view);
    let mut after = told(&mut wal, "svalbard");
    after.sort_by_key(|drop| drop.reason);
    let [lifetime, unknown] = &after[..] else { panic!("{after:?}") };
    assert!(lifetime.id > 1_000 && lifetime.sequences.is_none() && lifetime.items == before[0].items);
    assert!(unknown.id > lifetime.id && unknown.counts_unknown);
    assert_adds_up(&wal);
}

/// Both states have sent segments under the same names: the ground took the later state's third, and then this one's fourth.
#[test]
fn what_a_ground_took_behind_a_conflict_does_not_hide_it() {
    let bench = Bench::new();
    let mut wal = bench.open();
    append(&mut wal, 0..4);
    let own = seal_each(&mut wal, 1);
    let asked = wal.epochs().hello("a").unwrap().pop().unwrap().lanes.remove(0).compare;
    assert_eq!(
        asked,
        [link::Range { start: 1, end: 5 + 64 }],
        "what nobody has acknowledged, and what comes next"
    );
    own.iter().for_each(|header| wal.custody().mark_sent(Slot::FIRST, header.id));
    let mut view = super::tests::view(&wal, 1..5, own[3].hash);
    view.lanes[0].tops.extend([(1, own[0].hash), (2, own[1].hash), (3, [9; 32])]);
    contradict(&mut wal, &view);
    let left = wal.custody().waiting(LINK, Lane::BULK, 0, 9).unwrap();
    assert_eq!(left.iter().map(|header| header.hash).collect::<Vec<_>>(), [own[2].hash]);
    assert_eq!(wal.summary().delivered, logs(15));
    assert_adds_up(&wal);
}

/// The link had everything, and a second consumer nothing, so that it was all on board still when a backup was put back.
#[test]
fn what_is_sealed_again_after_a_backup_was_put_back_is_not_sent_to_a_ground_that_has_it() {
    let mut bench = Bench::new();
    bench.config.consumers.insert("direct".to_owned(), SignalSet::ALL);
    let mut wal = bench.open();
    let link = wal.custody().consumer("link").unwrap();
    append(&mut wal, 0..3);
    let first = seal_each(&mut wal, 100);
    let copy = bench.file().with_file_name("copy");
    wal.file().backup().unwrap().write(&bench.disk.env(), &copy).unwrap();
    append(&mut wal, 3..5);
    let later = [first, seal_each(&mut wal, 100)].concat();
    for header in &later {
        wal.custody().pass(link, &[Delivery::whole(header.id)]).unwrap();
    }
    drop(wal);
    bench.disk.put(&bench.file(), bench.disk.content(&copy).unwrap());

    let mut wal = bench.open();
    append(&mut wal, 20..21);
    assert_eq!(seal_each(&mut wal, 100).iter().map(|header| header.items).sum::<Counts>(), logs(15));
    let epochs = wal.epochs().hello("a").unwrap();
    let told = &epochs[epochs.len() - 2];
    assert_eq!(told.lanes[0].compare, [link::Range { start: 2, end: 3 }], "what was sealed since");
    let committed = later.iter().map(|header| link::CommittedRange {
        sequences: Some(link::Range { start: header.id.sequence, end: header.id.sequence + 1 }),
        made_of: header.made_of,
        ..link::CommittedRange::default()
    });
    let lane = link::ResumeLane { lane: 8, committed: committed.collect(), ..link::ResumeLane::default() };
    let resume = link::ResumeEpoch { epoch: told.epoch, lanes: vec![lane], ..link::ResumeEpoch::default() };
    let mut view = GroundView { epoch: wal.summary().life.epoch, ..GroundView::default() };
    view.inherit(told, &resume);
    let reconciled = wal.epochs().reconcile(link, Slot::FIRST, &view).unwrap();
    assert!(matches!(reconciled, Reconciled::Believed { .. }), "{reconciled:?}");
    let waiting = wal.custody().waiting(link, Lane::BULK, 0, 9).unwrap();
    assert_eq!(waiting.iter().map(|header| header.items).sum::<Counts>(), logs(5), "what came new");
    assert_eq!(deliverable(&mut wal), logs(30), "the second consumer has it all to come");
    assert_adds_up(&wal);
}

#[test]
fn a_segment_whose_groups_went_elsewhere_while_it_was_encoded_is_not_stored() {
    let bench = Bench::new();
    let mut wal = bench.open();
    append(&mut wal, 0..3);
    let batch = wal.segments().take_batch(Lane::BULK, ALL, true).unwrap().unwrap();
    let slow = batch.seal(&Encoding::plain(), 7).unwrap();
    seal_each(&mut wal, 100);
    assert!(matches!(wal.segments().commit(slow), Err(WalError::Stale)));
    append(&mut wal, 3..4);
    let batch = wal.segments().take_batch(Lane::BULK, ALL, true).unwrap().unwrap();
    assert_eq!(wal.segments().commit(batch.seal(&Encoding::plain(), 7).unwrap()).unwrap().items, logs(5));
    assert_adds_up(&wal);
}
