//! Lifetimes and the floor of the clock in the log, over boots and settings of the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use perigee_shared::clock::ClockBounds;
use perigee_shared::env::Clock;
use perigee_shared::link::Slot;
use redb::ReadableTable;

use super::tests::{Bench, logs, request, seal};
use super::*;
use crate::lanes::Policy;

pub(super) const S: u64 = 1_000_000_000;
pub(super) const DAY: u64 = 86_400 * S;
/// What has passed for certain.
pub(super) const BUILT: u64 = 20_000 * DAY;

/// Both clocks of a machine, set by hand.
#[derive(Default)]
pub(super) struct Hands {
    wall: AtomicU64,
    boot: AtomicU64,
    nano: AtomicU64,
}

impl Clock for Hands {
    fn unix_nano(&self) -> u64 {
        self.wall.load(Ordering::Relaxed)
    }

    fn since_boot(&self) -> SinceBoot {
        SinceBoot { boot: self.boot.load(Ordering::Relaxed), nano: self.nano.load(Ordering::Relaxed) }
    }
}

impl Hands {
    pub(super) fn pass(&self, nano: u64) {
        self.wall.fetch_add(nano, Ordering::Relaxed);
        self.nano.fetch_add(nano, Ordering::Relaxed);
    }

    fn set(&self, wall: u64) {
        self.wall.store(wall, Ordering::Relaxed);
    }

    pub(super) fn reboot(&self, wall: u64) {
        self.boot.fetch_add(1, Ordering::Relaxed);
        self.nano.store(0, Ordering::Relaxed);
        self.set(wall);
    }
}

struct Board {
    bench: Bench,
    hands: Arc<Hands>,
}

impl Board {
    /// A log whose bulk lives for a day.
    fn new() -> Self {
        let mut bench = Bench::new();
        let policy = Policy { lifetime: Some(Duration::from_secs(86_400)), ..Policy::default() };
        bench.config.lanes.policies = [(Lane::BULK, policy)].into();
        Self { bench, hands: Arc::new(Hands::default()) }
    }

    fn open(&self) -> Wal {
        let mut env = self.bench.disk.env();
        env.clock = Arc::clone(&self.hands) as Arc<dyn Clock>;
        env.bounds = Arc::new(ClockBounds::new(BUILT));
        Wal::open(self.bench.config.clone(), env).unwrap()
    }
}

fn sealed(wal: &mut Wal, items: u64) {
    wal.journal().append(&[request(items, items, 100)]).unwrap();
    seal(wal).unwrap().unwrap();
}

fn dropped(wal: &mut Wal) -> Counts {
    wal.queues().expire().unwrap();
    wal.summary().dropped.iter().map(|(_, items)| *items).sum()
}

#[test]
fn what_was_sealed_in_1970_lives_its_day_after_the_clock_is_set_right() {
    let board = Board::new();
    let mut wal = board.open();
    sealed(&mut wal, 12_001);
    board.hands.pass(600 * S);
    board.hands.set(BUILT + 300 * DAY);
    assert_eq!(dropped(&mut wal), Counts::ZERO, "it is ten minutes old");
    assert_eq!(wal.queues().expire().unwrap(), Some(Duration::from_secs(86_400 - 600)));
    board.hands.set(BUILT + 9_000 * DAY);
    board.hands.pass(DAY - 601 * S);
    assert_eq!(dropped(&mut wal), Counts::ZERO);
    board.hands.pass(S);
    assert_eq!(dropped(&mut wal), logs(12_001));
}

#[test]
fn across_boots_age_counts_noted_time_and_trusted_clocks_and_an_untrusted_one_expires_nothing() {
    let board = Board::new();
    board.hands.reboot(BUILT + DAY);
    let mut wal = board.open();
    sealed(&mut wal, 1);
    board.hands.pass(DAY / 2);
    sealed(&mut wal, 2);
    drop(wal);

    board.hands.reboot(0);
    let mut wal = board.open();
    board.hands.pass(DAY / 2 - S);
    assert_eq!(dropped(&mut wal), Counts::ZERO);
    board.hands.pass(S);
    assert_eq!(dropped(&mut wal), logs(1), "two half days are known to have passed");
    sealed(&mut wal, 4);
    board.hands.set(BUILT + 4 * DAY);
    assert_eq!(dropped(&mut wal), logs(3), "the clock was trusted before and is again, days later");
    assert_eq!(wal.summary().in_segments, logs(4), "it was sealed in this boot");
}

#[test]
fn a_segment_says_how_long_ago_its_oldest_item_was_accepted_whatever_the_clock_shows() {
    let board = Board::new();
    let mut wal = board.open();
    let said = |wal: &mut Wal, header: &Header| match wal.recoding().begin_sending(Slot::FIRST, header) {
        Ok(Sending::Payload(_, _, age)) => age.as_nanos() as u64 / S,
        other => panic!("{other:?}"),
    };
    wal.journal().append(&[request(1, 1, 100)]).unwrap();
    board.hands.pass(3_000 * S);
    wal.journal().append(&[request(2, 1, 100)]).unwrap();
    board.hands.pass(600 * S);
    board.hands.set(BUILT + 9_000 * DAY);
    let header = seal(&mut wal).unwrap().unwrap();
    assert_eq!(said(&mut wal, &header), 3_600, "it waited in the journal");
    board.hands.pass(60 * S);
    let oldest = wal.env().unix_nano() - wal.passes().oldest().unwrap().unwrap();
    assert_eq!((said(&mut wal, &header), oldest / S), (3_660, 3_660));
    drop(wal);

    board.hands.reboot(0);
    let mut wal = board.open();
    board.hands.pass(40 * S);
    assert_eq!(said(&mut wal, &header), 3_640, "as far as the log has noted how long that boot lasted");
}

#[test]
fn segments_of_earlier_software_expire_by_the_wall_clock_that_sealed_them_if_that_is_trusted() {
    let board = Board::new();
    board.hands.reboot(BUILT + 10 * DAY);
    let mut wal = board.open();
    sealed(&mut wal, 1);
    sealed(&mut wal, 2);
    for (sequence, wall) in [(1, BUILT + 9 * DAY - S), (2, 7)] {
        wal.write(|txn, _| {
            let mut table = txn.open_table(tables::SEGMENTS)?;
            let place = tables::Place { lane: Lane::BULK.0, sequence };
            let mut record = SegmentRecord::from_bytes(table.get(place)?.unwrap().value())?;
            (record.header.sealed_unix_nano, record.sealed_at) = (wall, None);
            table.insert(place, record.to_bytes().as_slice())?;
            Ok(((), Vec::new()))
        })
        .unwrap();
    }
    assert_eq!(dropped(&mut wal), logs(1), "the other one was sealed in 1970");
    board.hands.pass(DAY);
    assert_eq!(dropped(&mut wal), logs(3), "it is in this log for a day");
}

#[test]
fn the_floor_of_the_clock_survives_restarts_and_the_loss_of_the_log() {
    let board = Board::new();
    let mut wal = board.open();
    assert_eq!(wal.summary().clock_floor, 0);
    wal.queues().raise_clock_floor(BUILT + DAY).unwrap();
    wal.queues().raise_clock_floor(BUILT).unwrap();
    drop(wal);
    let wal = board.open();
    assert_eq!(wal.summary().clock_floor, BUILT + DAY);
    drop(wal);
    board.bench.disk.driver().remove(&board.bench.file()).unwrap();
    assert_eq!(board.open().summary().clock_floor, BUILT + DAY);
}
