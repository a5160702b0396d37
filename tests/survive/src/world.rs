//! What both stores of a run share: a disk each, one clock that the run moves, random numbers, and the history.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use perigee_shared::env::{Clock, Env, SinceBoot};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use simdisk::Disk;

use crate::history::{Event, History, Side};

const MILLISECOND: u64 = 1_000_000;

/// Wall time that goes on a little at each look, and when it is told to.
#[derive(Debug)]
pub struct Time {
    wall: AtomicU64,
    since_boot: AtomicU64,
}

impl Time {
    /// Ms since the run began, or since a jump.
    pub fn ms(&self) -> u64 {
        self.wall.load(Ordering::Relaxed) / MILLISECOND
    }

    /// Goes on.
    pub fn advance(&self, ms: u64) {
        self.wall.fetch_add(ms * MILLISECOND, Ordering::Relaxed);
        self.since_boot.fetch_add(ms * MILLISECOND, Ordering::Relaxed);
    }

    /// The clock is set.
    pub fn jump(&self, ms: i64) {
        let change = ms.saturating_mul(MILLISECOND.cast_signed());
        let _ = self.wall.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
            Some(now.saturating_add_signed(change).max(1_000_000_000))
        });
    }
}

impl Clock for Time {
    fn unix_nano(&self) -> u64 {
        self.wall.fetch_add(10_000, Ordering::Relaxed)
    }

    fn since_boot(&self) -> SinceBoot {
        SinceBoot { boot: 1, nano: self.since_boot.fetch_add(10_000, Ordering::Relaxed) }
    }
}

/// See the module.
pub struct World {
    /// The agent's disk and the ground's.
    disks: [Arc<Disk>; 2],
    /// The clock of both.
    pub time: Arc<Time>,
    /// What the run leaves to chance.
    pub rng: SmallRng,
    /// What happens.
    pub history: History,
    directory: PathBuf,
    seed: u64,
    lives: AtomicU64,
}

impl World {
    /// A world for one run. `directory` is a real one, empty: the stores ask for one, and keep nothing in it.
    pub fn new(fault: &str, side: Side, seed: u64, directory: &Path) -> Self {
        Self {
            disks: [Disk::new(), Disk::new()],
            time: Arc::new(Time {
                wall: AtomicU64::new(1_700_000_000_000_000_000),
                since_boot: AtomicU64::new(MILLISECOND),
            }),
            rng: SmallRng::seed_from_u64(seed ^ 0x5eed),
            history: History::new(fault, side, seed),
            directory: directory.to_owned(),
            seed,
            lives: AtomicU64::new(0),
        }
    }

    /// The disk of a side.
    pub fn disk(&self, side: Side) -> &Arc<Disk> {
        &self.disks[side as usize]
    }

    /// The directory of a side's store.
    pub fn directory(&self, side: Side) -> PathBuf {
        self.directory.join(side.name())
    }

    /// The environment of a side's next life.
    pub fn env(&self, side: Side) -> Env {
        let life = self.lives.fetch_add(1, Ordering::Relaxed);
        let seed = self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ life;
        self.disk(side).env_with(Arc::clone(&self.time) as Arc<dyn Clock>, seed)
    }

    /// Notes an event.
    pub fn note(&mut self, event: Event) {
        self.history.note(event);
    }
}
