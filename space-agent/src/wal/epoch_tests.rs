//! Stations that contradict the log: one that is right once, and one that lies whenever it is asked.

use std::sync::Arc;
use std::time::Duration;

use perigee_proto::link;
use perigee_shared::clock::ClockBounds;
use perigee_shared::link::Slot;
use perigee_shared::segment::SegmentId;
use redb::ReadableTable;

use super::clock_tests::{BUILT, DAY, Hands, S};
use super::damage_tests::{deliverable, told};
use super::tests::{Bench, LINK, assert_adds_up, logs, request, seal, view};
use super::*;

/// Rows that an honest ground keeps of one satellite's epochs.
const EPOCHS_KEPT: usize = 1_024;

pub(super) fn open(bench: &Bench, hands: &Arc<Hands>) -> Wal {
    let mut env = bench.disk.env();
    env.clock = Arc::clone(hands) as Arc<dyn perigee_shared::env::Clock>;
    env.bounds = Arc::new(ClockBounds::new(BUILT));
    Wal::open(bench.config.clone(), env).unwrap()
}

fn sealed(wal: &mut Wal, n: u64) {
    wal.journal().append(&[request(n, 1, 100)]).unwrap();
    seal(wal).unwrap().unwrap();
}

/// A station claims segments that there cannot be.
fn lie(wal: &mut Wal) -> Reconciled {
    let lie = view(wal, 1..1_000, [7; 32]);
    wal.epochs().reconcile(LINK, Slot::FIRST, &lie).unwrap()
}

#[test]
fn a_station_that_lies_at_every_contact_for_a_year_begins_few_epochs_and_writes_nothing_otherwise() {
    let (bench, hands) = (Bench::new(), Arc::new(Hands::default()));
    hands.reboot(BUILT + DAY);
    let mut wal = open(&bench, &hands);
    (0..3).for_each(|n| sealed(&mut wal, n));
    let mut begun = Vec::new();
    // Contacts of eight minutes, in which it is asked every second, fifteen times a day; the machine is switched off between them.
    for day in 0..365 {
        for pass in 0..15 {
            hands.pass(DAY / 15 - 480 * S);
            if pass == 0 {
                drop(wal);
                hands.reboot(BUILT + DAY + (day + 1) * DAY);
                wal = open(&bench, &hands);
                // Ages count from boots that the log has noted.
                sealed(&mut wal, 10 + day);
            }
            for _ in 0..480 {
                hands.pass(S);
                let before = bench.disk.operations();
                match lie(&mut wal) {
                    Reconciled::NewEpoch => begun.push(day),
                    Reconciled::Refused(rest) => {
                        assert!(!rest.is_zero());
                        assert_eq!(bench.disk.operations(), before, "nothing is read or written");
                        // The station is left alone for the rest of the contact, or for so long.
                        hands.pass(rest.as_nanos().min(u128::from(480 * S)) as u64);
                        break;
                    }
                    believed => panic!("{believed:?}"),
                }
            }
        }
    }
    let in_a_month = begun.iter().filter(|day| **day < 30).count();
    assert!((8..=17).contains(&in_a_month), "{begun:?}");
    assert!(begun.len() * 5 < EPOCHS_KEPT, "in five years: {begun:?}");
    let epochs = wal.epochs().hello("svalbard").unwrap();
    assert_eq!(epochs.len(), 18, "the first, whose end is a gap; the latest, and the one that is");
    let rows = wal.read(|txn, _| Ok(txn.open_table(tables::EPOCHS)?.iter()?.count())).unwrap();
    assert!(rows <= 64, "{rows}");
    // An honest station is sent all there is, under the epoch that is.
    let left = wal.custody().waiting(LINK, Lane::BULK, 0, 1_000).unwrap();
    let epoch = wal.summary().life.epoch;
    assert_eq!((left.len(), left.iter().all(|header| header.id.epoch == epoch)), (368, true));
    wal.bases().greets(Slot::FIRST, "svalbard");
    let ids: Vec<SegmentId> = left.iter().map(|header| header.id).collect();
    ids.iter().for_each(|id| wal.custody().mark_sent(Slot::FIRST, *id));
    assert_eq!(wal.epochs().committed(LINK, Slot::FIRST, &ids).unwrap(), 368);
    assert_eq!(wal.summary().delivered, logs(368));
}

#[test]
fn what_is_not_told_yet_keeps_an_epoch_and_a_log_that_was_restored_is_believed_again_after_a_minute() {
    let (bench, hands) = (Bench::new(), Arc::new(Hands::default()));
    hands.reboot(BUILT + DAY);
    let mut wal = open(&bench, &hands);
    sealed(&mut wal, 1);
    let first = wal.summary().life.epoch;
    let header = wal.custody().waiting(LINK, Lane::BULK, 0, 1).unwrap().remove(0);
    wal.custody().drop_segments(vec![header], DropReason::QuotaOldest).unwrap();
    assert_eq!(lie(&mut wal), Reconciled::NewEpoch);
    assert_eq!(lie(&mut wal), Reconciled::Refused(Duration::from_secs(60)));
    hands.pass(59 * S);
    assert_eq!(lie(&mut wal), Reconciled::Refused(Duration::from_secs(1)));
    hands.pass(S);
    assert_eq!(lie(&mut wal), Reconciled::NewEpoch);
    (0..100).for_each(|_| wal.epochs().begin("a test").unwrap());
    let epochs = wal.epochs().hello("svalbard").unwrap();
    assert_eq!((epochs.len(), epochs[0].epoch, epochs[0].drops.len()), (18, first, 2));
    // A station that knows the drop is told nothing more of that epoch.
    let ids = epochs[0].drops.iter().map(|drop| drop.id).collect();
    let ack = perigee_proto::link::DropsAck { epoch: first, ids, ..Default::default() };
    wal.epochs().drops_acknowledged("svalbard", &["svalbard".to_owned()], &ack, None).unwrap();
    assert_eq!(wal.epochs().hello("svalbard").unwrap().len(), 17);
    hands.pass(30 * DAY);
    assert_eq!(lie(&mut wal), Reconciled::NewEpoch);
    assert_eq!(lie(&mut wal), Reconciled::Refused(Duration::from_secs(60)), "a month is long ago");
}

#[test]
fn a_station_cannot_count_the_lives_of_the_log_to_their_end() {
    let bench = Bench::new();
    let mut wal = bench.open();
    let counted = wal.summary().life.start_counter;
    for (said, counts) in [(u64::MAX, counted), (1 << 41, counted), (1_000, 1_001)] {
        let none = GroundView { start_counter: said, lanes: Vec::new(), ..view(&wal, 1..2, [0; 32]) };
        wal.epochs().reconcile(LINK, Slot::FIRST, &none).unwrap();
        assert_eq!(wal.summary().life.start_counter, counts);
    }
}

#[test]
fn a_ledger_is_told_what_it_has_acknowledged_when_the_log_that_knew_it_is_lost() {
    let bench = Bench::new();
    let mut wal = bench.open();
    wal.bases().greets(Slot::FIRST, "svalbard");
    let epoch = wal.summary().life.epoch;
    let view = GroundView { ledger: 77, epoch, ..GroundView::default() };
    wal.epochs().reconcile(LINK, Slot::FIRST, &view).unwrap();
    let mut backup = None;
    for n in 0..4 {
        wal.journal().append(&[request(n, 5, 100)]).unwrap();
        let header = seal(&mut wal).unwrap().unwrap();
        wal.custody().mark_sent(Slot::FIRST, header.id);
        wal.epochs().committed(LINK, Slot::FIRST, &[header.id]).unwrap();
        backup = backup.or_else(|| bench.disk.content(&bench.file()));
    }
    wal.close().unwrap();
    let counters = bench.file().with_file_name("counters.json");
    let mirror = bench.disk.content(&counters).unwrap();
    // It is gone, it is older, and it has this once more.
    for content in [None, backup, bench.disk.content(&bench.file())] {
        match &content {
            Some(content) => bench.disk.put(&bench.file(), content.clone()),
            None => bench.disk.delete(&bench.file()),
        }
        bench.disk.put(&counters, mirror.clone());
        let mut wal = bench.open();
        let told = wal.epochs().hello("svalbard").unwrap();
        let of = told.iter().find(|told| told.epoch == epoch).unwrap();
        let known: Vec<_> = of.lanes.iter().flat_map(|lane| &lane.acknowledged).collect();
        assert!(known.iter().all(|known| (known.ledger, &*known.station) == (77, "svalbard")));
        let sequences = known.iter().flat_map(|known| RangeSet::from_wire(&known.sequences).to_wire());
        let sequences = sequences.map(|range| range.start..range.end).collect::<RangeSet>();
        assert_eq!(sequences.to_wire(), [link::Range { start: 1, end: 5 }]);
    }
}

#[test]
fn a_log_in_memory_returns_when_what_it_has_sent_is_acknowledged_or_has_been_on_its_way_for_long() {
    for is_acknowledged in [true, false] {
        let mut bench = Bench::new();
        bench.disk.set_full(true);
        bench.config.volatile = Volatile::Accept;
        let hands = Arc::new(Hands::default());
        let mut wal = open(&bench, &hands);
        wal.journal().append(&[lane_tests::request(&[(1, 9), (2, 9)])]).unwrap();
        let header = seal(&mut wal).unwrap().unwrap();
        wal.custody().mark_sent(Slot::FIRST, header.id);
        bench.disk.set_full(false);
        let in_memory_after = |wal: &mut Wal, seconds| {
            hands.pass(seconds * S);
            wal.journal().append(&[]).unwrap();
            wal.summary().in_memory.now
        };
        assert!(in_memory_after(&mut wal, 30) && in_memory_after(&mut wal, 60), "it waits for the answer");
        if is_acknowledged {
            wal.epochs().committed(LINK, Slot::FIRST, &[header.id]).unwrap();
        }
        assert_eq!(in_memory_after(&mut wal, 0), !is_acknowledged);
        assert!(!in_memory_after(&mut wal, 60));
        assert_eq!(deliverable(&mut wal), if is_acknowledged { Counts::ZERO } else { logs(2) });
    }
}

#[test]
fn what_is_in_memory_and_cannot_be_read_there_is_told_as_lost() {
    let mut bench = Bench::new();
    bench.disk.set_full(true);
    bench.config.volatile = Volatile::Accept;
    let hands = Arc::new(Hands::default());
    let mut wal = open(&bench, &hands);
    // No requests at all, as far as a decoder sees.
    wal.journal().append(&[request(1, 5, 100)]).unwrap();
    seal(&mut wal).unwrap().unwrap();
    wal.journal().append(&[lane_tests::request(&[(1, 9)])]).unwrap();
    bench.disk.set_full(false);
    hands.pass(61 * S);
    wal.journal().append(&[]).unwrap();
    assert!(!wal.summary().in_memory.now);
    assert_eq!((told(&mut wal), deliverable(&mut wal)), ((logs(5), false), logs(1)));
    assert_adds_up(&wal);
}
