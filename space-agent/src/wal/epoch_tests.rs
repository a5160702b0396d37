//! Stations that contradict the log: one that is right once, and one that lies whenever it is asked.

use std::sync::Arc;
use std::time::Duration;

use perigee_shared::clock::ClockBounds;
use perigee_shared::link::Slot;
use perigee_shared::segment::SegmentId;
use redb::ReadableTable;

use super::clock_tests::{BUILT, DAY, Hands, S};
use super::tests::{Bench, LINK, logs, request, seal, view};
use super::*;

/// Rows that an honest ground keeps of one satellite's epochs.
const EPOCHS_KEPT: usize = 1_024;

fn open(bench: &Bench, hands: &Arc<Hands>) -> Wal {
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
