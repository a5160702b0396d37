//! What the plan means for the store: will it fill before the plan empties it?

use perigee_proto::link::Forecast;

use crate::contacts::Ahead;
use crate::wal::{Wal, WalError};

/// How the store stands.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Store {
    /// Bytes in it.
    pub stored: u64,
    /// Of them, those that wait for nobody: what later segments depend on, and journal that is in segments already.
    pub kept: u64,
    /// Its budget.
    pub max: u64,
    /// Bytes that come a second, if that is known.
    pub growth: Option<f64>,
    /// Since when the oldest of it waits.
    pub oldest: Option<u64>,
}

/// How the store of `wal` stands.
pub fn store(wal: &mut Wal) -> Result<Store, WalError> {
    let summary = wal.summary();
    Ok(Store {
        stored: summary.stored_bytes,
        kept: summary.sealed_bytes + summary.base_bytes,
        max: summary.max_bytes,
        growth: wal.passes().growth(),
        oldest: wal.passes().oldest()?,
    })
}

/// Follows the store through the planned passes, in the order of their start. What comes is taken to come evenly, and each pass to
/// carry its volume at its end.
pub fn forecast(now: u64, store: Store, passes: &[Ahead]) -> Forecast {
    let rate = store.growth.unwrap_or(0.0);
    let mut out = Forecast {
        made_unix_nano: now,
        stored_bytes: store.stored,
        max_bytes: store.max,
        growth_bytes_per_second: rate,
        backlog_since_unix_nano: store.oldest.unwrap_or(0),
        ..Forecast::default()
    };
    let room = |bytes: u64| bytes.saturating_sub(store.kept) as f64;
    let (mut level, mut at, max) = (room(store.stored), now, room(store.max));
    for &Ahead { end, volume } in passes {
        out.planned_bytes += volume;
        out.plan_until_unix_nano = out.plan_until_unix_nano.max(end);
        let seconds = end.saturating_sub(at) as f64 / 1e9;
        let before = level;
        level += rate * seconds;
        if level >= max && out.full_unix_nano == 0 {
            let until_full = ((max - before).max(0.0) / rate * 1e9) as u64;
            out.full_unix_nano = at + until_full;
        }
        // What does not fit is refused or dropped.
        level = (level.min(max) - volume as f64).max(0.0);
        at = at.max(end);
        if level == 0.0 && out.empty_unix_nano == 0 {
            out.empty_unix_nano = end;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn pass(end: u64, volume: u64) -> Ahead {
        Ahead { end: end * S, volume }
    }

    fn filled(stored: u64, growth: f64) -> Store {
        Store { stored, kept: 0, max: 1000, growth: Some(growth), oldest: Some(7) }
    }

    #[test]
    fn a_plan_that_carries_more_than_comes_empties_the_store() {
        let passes = [pass(20, 300), pass(100, 300), pass(200, 900)];
        let f = forecast(0, filled(500, 1.0), &passes);
        assert_eq!((f.full_unix_nano, f.empty_unix_nano), (0, 100 * S), "500 + 20 - 300 + 80 - 300");
        assert_eq!((f.planned_bytes, f.plan_until_unix_nano), (1500, 200 * S));
        assert_eq!((f.stored_bytes, f.backlog_since_unix_nano), (500, 7));
    }

    #[test]
    fn a_store_that_fills_between_passes_says_when() {
        let passes = [pass(20, 100), pass(200, 100)];
        let f = forecast(0, filled(500, 5.0), &passes);
        assert_eq!((f.full_unix_nano, f.empty_unix_nano), (120 * S, 0), "500 at 20 s, 5 a second");
    }

    #[test]
    fn what_is_kept_waits_for_no_pass_and_takes_room() {
        let passes = [pass(20, 100), pass(200, 100)];
        let f = forecast(0, Store { kept: 300, ..filled(800, 5.0) }, &passes);
        assert_eq!(f.full_unix_nano, 60 * S, "500 of 700 at 20 s, 5 a second");
        let f = forecast(0, Store { kept: 500, growth: None, ..filled(500, 0.0) }, &passes);
        assert_eq!((f.full_unix_nano, f.empty_unix_nano), (0, 20 * S));
    }

    #[test]
    fn without_a_plan_or_a_growth_nothing_is_promised() {
        let f = forecast(5, filled(500, 5.0), &[]);
        assert_eq!((f.full_unix_nano, f.empty_unix_nano, f.planned_bytes), (0, 0, 0));
        let f = forecast(5, Store { growth: None, ..filled(500, 0.0) }, &[]);
        assert_eq!((f.full_unix_nano, f.growth_bytes_per_second), (0, 0.0));
    }
}
