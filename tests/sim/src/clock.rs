//! The clocks of a node: right, until the scenario sets them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perigee_shared::env::{Clock, SinceBoot};

use crate::node::Time;
use crate::scenario::Setting;

/// What a wall clock shows: `shown` ns since the Unix epoch at `since`, and from there on as fast as it runs.
#[derive(Debug, Clone, Copy)]
struct Hands {
    since: Duration,
    shown: i128,
    rate: f64,
}

impl Hands {
    fn at(&self, now: Duration) -> i128 {
        let passed = now.saturating_sub(self.since).as_nanos() as i128;
        let moved = if self.rate == 1.0 { passed } else { (passed as f64 * self.rate) as i128 };
        self.shown + moved
    }
}

/// The clocks of a node in one boot.
pub(crate) struct NodeClock {
    time: Time,
    boot: u64,
    booted: Duration,
    hands: Mutex<Hands>,
}

impl NodeClock {
    /// Right clocks of a node that starts with the simulation. `number` is in the ids of its boots.
    pub(crate) fn new(time: Time, number: u64) -> Arc<Self> {
        let hands = Hands { since: Duration::ZERO, shown: time.shown.as_nanos() as i128, rate: 1.0 };
        Arc::new(Self { time, boot: (number + 1) << 32, booted: Duration::ZERO, hands: Mutex::new(hands) })
    }

    fn hands(&self) -> MutexGuard<'_, Hands> {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The clocks of the node's next boot, which begins now: the wall clock has gone on, or shows `wall`.
    pub(crate) fn rebooted(&self, wall: Option<Duration>) -> Arc<Self> {
        let hands = Mutex::new(*self.hands());
        let next = Self { time: self.time, boot: self.boot + 1, booted: self.time.now(), hands };
        if let Some(wall) = wall {
            next.set(&Setting::To(wall));
        }
        Arc::new(next)
    }

    /// Sets the wall clock.
    pub(crate) fn set(&self, setting: &Setting) {
        let now = self.time.now();
        let right = (self.time.shown + now).as_nanos() as i128;
        let mut hands = self.hands();
        let (shown, rate) = match *setting {
            Setting::To(wall) => (wall.as_nanos() as i128, 1.0),
            Setting::Ahead(by) => (right + by.as_nanos() as i128, 1.0),
            Setting::Behind(by) => (right - by.as_nanos() as i128, 1.0),
            Setting::Rate(rate) => (hands.at(now), rate),
        };
        *hands = Hands { since: now, shown, rate };
    }
}

impl Clock for NodeClock {
    fn unix_nano(&self) -> u64 {
        u64::try_from(self.hands().at(self.time.now())).unwrap_or(0)
    }

    fn since_boot(&self) -> SinceBoot {
        SinceBoot { boot: self.boot, nano: self.time.now().saturating_sub(self.booted).as_nanos() as u64 }
    }
}
