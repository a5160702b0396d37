//! The faults of the disk in memory, each a way to fly: work, trouble, more work, and then everything must come out.

use std::path::Path;

use rand::Rng;
use simdisk::{Fault, Operation, Trouble};

use crate::damage::{Backup, Damage, Replaced};
use crate::flight::Flight;
use crate::history::{Event, History, Side};

/// Steps before the trouble, and after it.
const WORK: u32 = 25;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The power goes at an I/O operation. `again`: once more while the store recovers.
    PowerLoss {
        /// A second time.
        again: bool,
    },
    /// kill -9 at an I/O operation, twice in a row.
    Kill,
    /// The first start ends at an I/O operation, by kill -9 or with the power.
    FirstStart,
    /// Operations fail.
    Failing(Operation, Trouble),
    /// Write-back fails. `restarts`: killed and started again without a power cut before there is one.
    WriteBack {
        /// The process is killed in between.
        restarts: bool,
    },
    /// Syncs lie, then the power goes.
    Lying,
    /// The disk is full for a while.
    Full,
    /// The file is damaged. `running`: while the store has it open.
    Damaged(Damage, bool),
    /// The file is another one. `running`: while the store has it open.
    Replaced(Replaced, bool),
    /// The clock is set forward and back.
    ClockJump,
}

/// Every fault with its name.
pub const ALL: [(&str, Kind); 37] = [
    ("power_loss", Kind::PowerLoss { again: false }),
    ("power_loss_twice", Kind::PowerLoss { again: true }),
    ("kill_9", Kind::Kill),
    ("first_start_killed", Kind::FirstStart),
    ("failed_sync", Kind::Failing(Operation::Sync, Trouble::InputOutput)),
    ("lying_sync", Kind::Lying),
    ("unsaid_loss", Kind::Failing(Operation::Sync, Trouble::Unsaid)),
    ("write_back", Kind::WriteBack { restarts: false }),
    ("write_back_restart", Kind::WriteBack { restarts: true }),
    ("eio_write", Kind::Failing(Operation::Write, Trouble::InputOutput)),
    ("eio_read", Kind::Failing(Operation::Read, Trouble::InputOutput)),
    ("short_write", Kind::Failing(Operation::Write, Trouble::Short)),
    ("enospc_write", Kind::Failing(Operation::Write, Trouble::NoSpace)),
    ("enospc_growth", Kind::Failing(Operation::Grow, Trouble::NoSpace)),
    ("disk_full", Kind::Full),
    ("bit_flip", Kind::Damaged(Damage::BitFlip, false)),
    ("bit_flip_running", Kind::Damaged(Damage::BitFlip, true)),
    ("zero_page", Kind::Damaged(Damage::ZeroPage, false)),
    ("zero_page_running", Kind::Damaged(Damage::ZeroPage, true)),
    ("swapped_pages", Kind::Damaged(Damage::SwappedPages, false)),
    ("swapped_pages_running", Kind::Damaged(Damage::SwappedPages, true)),
    ("torn_page", Kind::Damaged(Damage::TornPage, false)),
    ("torn_page_running", Kind::Damaged(Damage::TornPage, true)),
    ("cut_file", Kind::Damaged(Damage::Cut, false)),
    ("cut_file_running", Kind::Damaged(Damage::Cut, true)),
    ("grown_file", Kind::Damaged(Damage::Grown, false)),
    ("grown_file_running", Kind::Damaged(Damage::Grown, true)),
    ("missing_file", Kind::Replaced(Replaced::Missing, false)),
    ("missing_file_running", Kind::Replaced(Replaced::Missing, true)),
    ("missing_directory", Kind::Replaced(Replaced::AllMissing, false)),
    ("empty_file", Kind::Replaced(Replaced::Empty, false)),
    ("older_file", Kind::Replaced(Replaced::Older, false)),
    ("older_file_running", Kind::Replaced(Replaced::Older, true)),
    ("older_directory", Kind::Replaced(Replaced::AllOlder, false)),
    ("foreign_file", Kind::Replaced(Replaced::Foreign, false)),
    ("foreign_file_running", Kind::Replaced(Replaced::Foreign, true)),
    ("clock_jump", Kind::ClockJump),
];

impl Kind {
    /// Whether its seeds go through the I/O operations of a few scripts, one after the other.
    pub const fn goes_through_operations(self) -> bool {
        matches!(self, Self::PowerLoss { .. } | Self::Kill)
    }

    /// How many of the runs of the long mode it gets, in per cent of the seeds asked for.
    pub const fn share(self) -> u64 {
        match self {
            Self::PowerLoss { .. } => 100,
            Self::Kill | Self::WriteBack { .. } | Self::Failing(..) => 25,
            _ => 10,
        }
    }
}

/// Scripts whose operations the crashes go through.
const SCRIPTS: u64 = 4;

/// Flies with the fault once. `operations`: how many I/O operations a script makes on the disk of the side, if it is known.
pub fn fly(
    name: &str,
    kind: Kind,
    side: Side,
    seed: u64,
    directory: &Path,
    operations: &mut impl FnMut(u64) -> u64,
) -> History {
    let script = if kind.goes_through_operations() { seed % SCRIPTS } else { seed };
    let mut flight = Flight::new(name, side, seed, script, directory);
    let fired = match kind {
        Kind::PowerLoss { .. } | Kind::Kill => {
            // Evenly over the operations, whatever the number of seeds.
            let part = ((seed / SCRIPTS) as f64 * 0.618_033_988_749_895).fract();
            let cut = (operations(script) as f64 * part) as u64;
            crash(&mut flight, kind, cut)
        }
        Kind::FirstStart => first_start(&mut flight, seed),
        Kind::Failing(operation, trouble) => failing(&mut flight, operation, trouble),
        Kind::WriteBack { restarts } => write_back(&mut flight, restarts),
        Kind::Lying => lying(&mut flight),
        Kind::Full => full(&mut flight),
        Kind::Damaged(damage, running) => damaged(&mut flight, damage, running),
        Kind::Replaced(with, running) => replaced(&mut flight, with, running, directory),
        Kind::ClockJump => clock_jump(&mut flight),
    };
    flight.settle(name, fired);
    flight.world.history
}

/// The I/O operations that a script makes without a fault.
pub fn operations(side: Side, script: u64, directory: &Path) -> u64 {
    let mut flight = Flight::new("", side, script, script, directory);
    flight.work(2 * WORK);
    flight.world.disk(side).operations()
}

fn crash(flight: &mut Flight, kind: Kind, cut: u64) -> bool {
    flight.world.disk(flight.side).power_off_after(cut);
    flight.work(2 * WORK);
    let mut fired = flight.is_off();
    let mut again = 1 + u32::from(kind != Kind::PowerLoss { again: false });
    while flight.is_off() {
        if kind == Kind::Kill {
            flight.kill();
            flight.world.disk(flight.side).power_stays();
        } else {
            let torn = flight.chance.random::<u64>();
            flight.cut_power((torn % 5 > 0).then_some(torn));
        }
        again -= 1;
        fired = true;
        if again > 0 {
            let next = flight.chance.random_range(0..40);
            flight.world.disk(flight.side).power_off_after(next);
            flight.start();
            flight.work(6);
            if !flight.is_off() {
                flight.world.disk(flight.side).power_stays();
                flight.kill();
            }
        }
    }
    fired
}

fn first_start(flight: &mut Flight, seed: u64) -> bool {
    let cut = flight.chance.random_range(0..30);
    flight.world.disk(flight.side).power_off_after(cut);
    flight.start();
    let fired = flight.is_off();
    flight.kill();
    if seed.is_multiple_of(2) {
        flight.world.disk(flight.side).power_stays();
    } else {
        flight.cut_power(Some(seed));
    }
    flight.judged = true;
    flight.work(6);
    fired
}

fn failing(flight: &mut Flight, operation: Operation, trouble: Trouble) -> bool {
    // A file grows most, and has most pages that were never written, when it is new.
    if operation != Operation::Grow && trouble != Trouble::Unsaid {
        flight.work(WORK);
    }
    let after = match operation {
        Operation::Write => flight.chance.random_range(0..80),
        Operation::Sync => flight.chance.random_range(0..20),
        Operation::Grow => flight.chance.random_range(0..4),
        Operation::Read => flight.chance.random_range(0..10),
    };
    let times = flight.chance.random_range(1..6);
    if operation == Operation::Read {
        // What the store has cached it does not read.
        flight.stop();
    }
    let seed = flight.chance.random();
    flight.world.disk(flight.side).arm(Fault { operation, trouble, after, times, seed });
    flight.work(WORK);
    let fired = flight.world.disk(flight.side).heal() > 0;
    flight.work(5);
    if flight.chance.random_range(0..2) == 0 {
        flight.cut_power(None);
    }
    fired
}

fn write_back(flight: &mut Flight, restarts: bool) -> bool {
    flight.work(WORK);
    let mut fired = false;
    for _ in 0..flight.chance.random_range(1..4) {
        let (after, seed) = (flight.chance.random_range(0..4), flight.chance.random());
        let fault = Fault { operation: Operation::Sync, trouble: Trouble::WriteBack, after, times: 1, seed };
        flight.world.disk(flight.side).arm(fault);
        flight.work(8);
        fired |= flight.world.disk(flight.side).heal() > 0;
        // Long enough for the store to be opened again.
        flight.world.time.advance(1_100);
        flight.work(8);
    }
    if restarts {
        flight.kill();
        flight.work(10);
    }
    flight.cut_power(None);
    fired
}

fn lying(flight: &mut Flight) -> bool {
    flight.work(WORK);
    flight.have_some();
    let fault = Fault {
        operation: Operation::Sync,
        trouble: Trouble::Lie,
        after: 0,
        times: u64::MAX,
        seed: flight.chance.random(),
    };
    flight.world.disk(flight.side).arm(fault);
    flight.work(WORK);
    flight.accept();
    flight.seal();
    flight.contact(3);
    let fired = flight.world.disk(flight.side).fired() > 0;
    flight.destroy();
    if flight.side == Side::Agent {
        // Of these nothing but the file that lied ever knew.
        let items = flight.since_seal.iter().copied().collect();
        flight.world.note(Event::Destroyed { items, untold: true });
    }
    let torn = flight.chance.random();
    flight.cut_power(Some(torn));
    flight.world.disk(flight.side).heal();
    fired
}

fn full(flight: &mut Flight) -> bool {
    flight.work(WORK);
    let before = flight.world.disk(flight.side).operations();
    flight.world.disk(flight.side).set_full(true);
    flight.work(WORK);
    let fired = flight.world.disk(flight.side).operations() > before;
    flight.world.disk(flight.side).heal();
    flight.work(5);
    if flight.chance.random_range(0..2) == 0 {
        flight.cut_power(None);
    }
    fired
}

fn damaged(flight: &mut Flight, damage: Damage, running: bool) -> bool {
    flight.work(WORK);
    flight.have_lots();
    if !running {
        flight.stop();
    }
    flight.destroy();
    let fired = flight.damage(damage);
    if running {
        flight.work(WORK);
        // What came meanwhile may depend on what is damaged.
        flight.destroy();
        flight.kill();
    }
    flight.judged = true;
    flight.work(5);
    fired
}

fn replaced(flight: &mut Flight, with: Replaced, running: bool, directory: &Path) -> bool {
    flight.work(WORK);
    flight.have_some();
    let backup = match with {
        Replaced::Older | Replaced::AllOlder => {
            flight.stop();
            let backup = flight.backup();
            flight.work(WORK);
            backup
        }
        Replaced::Foreign => {
            let (seed, script) = (flight.chance.random(), flight.chance.random());
            let mut other = Flight::new("", flight.side, seed, script, directory).of_another_satellite();
            // Their clocks and numbers differ as those of two machines do.
            other.world.time.advance(86_400_000);
            other.have_some();
            other.stop();
            other.backup()
        }
        _ => Backup::new(),
    };
    flight.have_some();
    if !running {
        flight.stop();
    }
    flight.destroy();
    let fired = flight.replace(with, backup);
    if running {
        flight.work(WORK);
        // What was accepted meanwhile is in the file that has no name any more.
        flight.kill();
    }
    flight.judged = true;
    flight.work(5);
    fired
}

fn clock_jump(flight: &mut Flight) -> bool {
    flight.work(WORK);
    for _ in 0..4 {
        let hours: i64 = flight.chance.random_range(-200_000..200_000);
        flight.world.time.jump(hours * 3_600_000);
        flight.work(8);
    }
    // The last jump leaves the clock somewhere; a pause is a pause by any clock.
    if flight.chance.random_range(0..2) == 0 {
        flight.cut_power(None);
    }
    true
}
