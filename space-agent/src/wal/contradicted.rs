//! How often a ground may make this log begin a new epoch.
//!
//! A ground that knows a later state than the log has met a later one: the log was restored or has lost a commit. That happens once, and
//! is over with the new epoch, of which nobody knows anything. A station that lies can say it of every epoch, and each costs a write for
//! every segment on board and a row in every honest ledger. So the log rests after each, twice as long as before; a month without any
//! is forgotten.

use std::time::Duration;

use perigee_shared::env::{Env, SinceBoot};
use perigee_shared::store::StoreError;
use redb::{ReadableTable, WriteTransaction};

use super::state::State;
use super::tables::{META, number, set_numbers};

/// The first rest. The longest is 2^15 of it: 23 days.
const REST: Duration = Duration::from_secs(60);
const DOUBLED: u32 = 15;

/// After this time nothing is held against a ground any more.
const FORGOTTEN: Duration = Duration::from_secs(30 * 86_400);

const COUNT: &str = "contradicted";
const BOOT: &str = "contradicted_boot";
const NANO: &str = "contradicted_boot_nano";
const WALL: &str = "contradicted_unix_nano";

/// The new epochs that grounds have caused, as long as they count.
#[derive(Debug, Default)]
pub(super) struct Contradicted {
    count: u64,
    /// Since the last one, at least.
    age: Duration,
}

impl Contradicted {
    pub(super) fn read(
        meta: &impl ReadableTable<&'static str, &'static [u8]>,
        state: &State,
        env: &Env,
    ) -> Result<Self, StoreError> {
        let of = |name| Ok::<_, StoreError>(number(meta, name)?.unwrap_or(0));
        let at = SinceBoot { boot: of(BOOT)?, nano: of(NANO)? };
        let age = state.boots.ages(env).of(Some(at), env.bounds.judge(of(WALL)?).trusted());
        let count = of(COUNT)?;
        Ok(if age < FORGOTTEN { Self { count, age } } else { Self::default() })
    }

    /// Whether the next one is the first in a month. Those that follow have nothing new to report.
    pub(super) const fn is_first(&self) -> bool {
        self.count == 0
    }

    /// How long no further one is begun.
    pub(super) fn rest(&self) -> Duration {
        let Some(earlier) = self.count.checked_sub(1) else { return Duration::ZERO };
        (REST * (1 << earlier.min(DOUBLED.into()))).saturating_sub(self.age)
    }

    /// One more is begun.
    pub(super) fn note(txn: &WriteTransaction, state: &State, env: &Env) -> Result<(), StoreError> {
        let before = Self::read(&txn.open_table(META)?, state, env)?;
        let at = env.since_boot();
        let numbers = [(COUNT, before.count + 1), (BOOT, at.boot), (NANO, at.nano), (WALL, env.unix_nano())];
        set_numbers(txn, &numbers)
    }
}
