//! What the agent knows of the time.
//!
//! The wall clock counts while it is trusted ([`perigee_shared::clock`]) and runs evenly. When it is not, the time that it said last
//! goes on by the clock that nobody sets, for as long as that is precise enough for contacts. A station tells its own time when a
//! connection begins; with `contacts.time_from_ground: use` plans go by that where the wall clock is off. Timestamps of items are
//! never touched.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perigee_proto::link;
use perigee_shared::clock::Wall;
use perigee_shared::contact::shown_time;
use perigee_shared::env::{Env, SinceBoot};
use serde::{Deserialize, Serialize};

use crate::telemetry::ClockGauges;

const S: u64 = 1_000_000_000;

/// A wall clock that moves by more against the other one was set.
const SET: u64 = S;

/// How far a clock has moved against the other one is seen from so long ago, however often it is looked at.
const SPAN: u64 = 60 * S;

/// A clock that is set twice in this time does not run evenly, until it was not set for as long.
const UNEVEN: u64 = 600 * S;

/// If the two times fit together, as those of GPS do, it runs evenly again when it was not set for so long.
const STEADY: u64 = 10 * S;

/// A clock that nobody sets is wrong by at most one part in so many. Oscillators without an oven are within 100 ppm.
const DRIFT: u64 = 10_000;

/// Contacts go by a time that may be so wrong: then stations are tried instead.
const LARGEST_ERROR: u64 = 60 * S;

/// What the time of a station is used for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeFromGround {
    /// Nothing.
    Off,
    /// It is compared with our own and shown.
    #[default]
    Measure,
    /// Plans go by it, too, where the wall clock is off.
    Use,
}

/// A time that goes on by the clock that nobody sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reference {
    since_boot: u64,
    unix_nano: u64,
    error: u64,
}

impl Reference {
    const fn now(&self, since_boot: u64) -> u64 {
        self.unix_nano.saturating_add(since_boot.saturating_sub(self.since_boot))
    }

    const fn error(&self, since_boot: u64) -> u64 {
        self.error.saturating_add(since_boot.saturating_sub(self.since_boot) / DRIFT)
    }

    fn is_precise(&self, since_boot: u64) -> bool {
        self.error(since_boot) <= LARGEST_ERROR
    }
}

/// The time as contacts go by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For plans, ns since the Unix epoch; `None`: it is not known.
    pub plan: Option<u64>,
    /// The same, or what the wall clock said first and what has passed since: for what only needs the time to go on evenly.
    pub unix_nano: u64,
    /// Since the machine was started, ns.
    pub since_boot: u64,
}

/// Where the time of plans comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The wall clock.
    Wall,
    /// What the wall clock said while it was trusted.
    Held,
    /// A station.
    Ground,
    /// It is not known.
    Unknown,
}

impl Source {
    /// For people.
    #[inline(never)]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Wall => "the wall clock",
            Self::Held => "what the wall clock said while it was trusted",
            Self::Ground => "the time of a station",
            Self::Unknown => {
                "no time: instead of a plan or an orbit, stations are tried in turn (unless contacts.fallback is none)"
            }
        }
    }
}

/// What a station has said of the time.
#[derive(Debug, Clone, PartialEq)]
struct Ground {
    station: String,
    reference: Reference,
    is_trusted: bool,
}

impl Ground {
    /// By how much the wall clock is ahead of it now, and by how much that may be wrong, in seconds.
    fn offset(&self, wall: u64, since_boot: u64) -> (f64, f64) {
        let offset = i128::from(wall) - i128::from(self.reference.now(since_boot));
        (offset as f64 / 1e9, self.reference.error(since_boot) as f64 / 1e9)
    }
}

/// The wall clock against the other one.
#[derive(Debug, Clone, Copy)]
struct Seen {
    since_boot: u64,
    offset: i128,
}

/// Notices that the wall clock is set.
#[derive(Debug, Clone, Copy, Default)]
struct Settings {
    /// Some time ago.
    seen: Option<Seen>,
    /// When it was set the last two times.
    set: [Option<Seen>; 2],
}

impl Settings {
    /// Whether it was set since it was looked at last.
    fn see(&mut self, wall: u64, since_boot: u64) -> bool {
        let now = Seen { since_boot, offset: i128::from(wall) - i128::from(since_boot) };
        let was_set = self.seen.is_some_and(|seen| now.offset.abs_diff(seen.offset) > SET.into());
        if was_set {
            self.set = [self.set[1], Some(now)];
        }
        if was_set || self.seen.is_none_or(|seen| since_boot.saturating_sub(seen.since_boot) >= SPAN) {
            self.seen = Some(now);
        }
        was_set
    }

    /// Whether the last two times that it was set to fit together.
    fn fit(&self) -> bool {
        matches!(self.set, [Some(first), Some(last)] if last.offset.abs_diff(first.offset) <= LARGEST_ERROR.into())
    }

    /// From when on it runs evenly, if it is not set again; `None`: it does.
    fn even_from(&self, since_boot: u64) -> Option<u64> {
        let [Some(first), Some(last)] = self.set else { return None };
        let even = last.since_boot + if self.fit() { STEADY } else { UNEVEN };
        let is_uneven = last.since_boot.saturating_sub(first.since_boot) < UNEVEN && since_boot < even;
        is_uneven.then_some(even)
    }
}

#[derive(Debug)]
struct Known {
    started: Reference,
    /// The latest trusted time, and the one to go back to when the clock does not run evenly: that before it was set.
    held: Option<Reference>,
    before_set: Option<Reference>,
    settings: Settings,
    /// At the last look it did not run evenly.
    was_uneven: bool,
    ground: Option<Ground>,
    /// The log has a line about the doubt.
    said: bool,
}

/// What one look at the clocks has shown.
struct Look {
    now: Now,
    source: Source,
    doubt: Option<String>,
}

impl Known {
    fn new(wall: u64, since_boot: u64) -> Self {
        let started = Reference { since_boot, unix_nano: wall, error: u64::MAX };
        Self {
            started,
            held: None,
            before_set: None,
            settings: Settings::default(),
            was_uneven: false,
            ground: None,
            said: false,
        }
    }

    fn look(&mut self, mode: TimeFromGround, wall: &Wall, since_boot: u64) -> Look {
        let was_set = self.settings.see(wall.unix_nano, since_boot);
        let is_uneven = self.settings.even_from(since_boot).is_some();
        let was_uneven = std::mem::replace(&mut self.was_uneven, is_uneven);
        if is_uneven && !was_uneven {
            // Where none was trusted before, contacts go on by the first of two that fit.
            self.held = self.before_set.or(self.held.filter(|_| self.settings.fit()));
        } else if was_set && !is_uneven {
            self.before_set = self.held;
        }
        let trusted = wall.trusted().filter(|_| !is_uneven);
        if let Some(unix_nano) = trusted {
            self.held = Some(Reference { since_boot, unix_nano, error: 0 });
            if was_uneven {
                // Two settings vouch for it, or a long time.
                self.before_set = self.held;
            }
        }
        let (plan, source) = self.plan(mode, trusted, since_boot);
        let doubt = wall.doubt.map(|doubt| doubt.to_string()).or_else(|| {
            is_uneven.then(|| {
                let says = shown_time(wall.unix_nano);
                format!("the clock does not run evenly, it was set twice in 10 min: it says {says} now")
            })
        });
        let unix_nano = plan.unwrap_or_else(|| self.started.now(since_boot));
        Look { now: Now { plan, unix_nano, since_boot }, source, doubt }
    }

    fn plan(&self, mode: TimeFromGround, wall: Option<u64>, since_boot: u64) -> (Option<u64>, Source) {
        let used = self.ground.as_ref().filter(|g| mode == TimeFromGround::Use && g.is_trusted);
        let ground = used.map(|g| g.reference).filter(|r| r.is_precise(since_boot));
        let is_off = |wall: u64, ground: &Reference| {
            wall.abs_diff(ground.now(since_boot)) > ground.error(since_boot).saturating_add(SET)
        };
        match (wall, ground) {
            (Some(wall), Some(ground)) if is_off(wall, &ground) => {
                (Some(ground.now(since_boot)), Source::Ground)
            }
            (Some(wall), _) => (Some(wall), Source::Wall),
            (None, Some(ground)) => (Some(ground.now(since_boot)), Source::Ground),
            (None, None) => match self.held.filter(|held| held.is_precise(since_boot)) {
                Some(held) => (Some(held.now(since_boot)), Source::Held),
                None => (None, Source::Unknown),
            },
        }
    }
}

/// The time, for status.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClockStatus {
    /// What the wall clock says, ns since the Unix epoch.
    pub unix_nano: u64,
    /// Why that cannot be right; `None`: it is trusted.
    pub doubt: Option<String>,
    /// The time is not before this, for certain.
    pub floor_unix_nano: u64,
    /// Where the time of plans comes from.
    pub plans_by: Source,
    /// The wall clock against a station's.
    pub ground: Option<GroundStatus>,
}

/// The wall clock against a station's, whose time has gone on since it was heard last.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroundStatus {
    /// The station.
    pub station: String,
    /// By how much the wall clock is ahead.
    pub offset_seconds: f64,
    /// By how much that may be wrong: half the time from Hello to the answer, and what clocks drift since.
    pub error_seconds: f64,
    /// How long ago that was.
    pub age_seconds: f64,
}

/// See the module. Clones know the same.
#[derive(Clone)]
pub struct Clocks {
    env: Env,
    mode: TimeFromGround,
    gauges: ClockGauges,
    known: Arc<Mutex<Known>>,
}

impl Clocks {
    /// Nothing is known but what the clocks of `env` show.
    pub fn new(env: &Env, mode: TimeFromGround, gauges: ClockGauges) -> Self {
        let known = Known::new(env.unix_nano(), env.since_boot().nano);
        Self { env: env.clone(), mode, gauges, known: Arc::new(Mutex::new(known)) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) -> Look {
        let (wall, since_boot) = (self.env.wall(), self.env.since_boot().nano);
        let mut known = self.known();
        let look = known.look(self.mode, &wall, since_boot);
        self.gauges.untrusted.set(i64::from(look.doubt.is_some()));
        if let Some(ground) = &known.ground {
            let (offset, error) = ground.offset(wall.unix_nano, since_boot);
            self.gauges.offset.set(offset);
            self.gauges.error.set(error);
        }
        match (&look.doubt, known.said) {
            (Some(doubt), false) => tracing::error!(
                event.name = "perigee.clock.untrusted",
                doubt,
                contacts_by = look.source.words(),
                "the wall clock cannot be right: no data expires by it, and certificates are checked against the earliest time that it can be"
            ),
            (None, true) => {
                tracing::warn!(event.name = "perigee.clock.trusted", "the wall clock is trusted again")
            }
            _ => {}
        }
        known.said = look.doubt.is_some();
        look
    }

    /// The machine whose clocks these are.
    pub const fn env(&self) -> &Env {
        &self.env
    }

    /// The time as contacts go by it.
    pub fn now(&self) -> Now {
        self.look().now
    }

    /// When the wall clock runs evenly again, since boot, if it does not and is not set once more.
    pub fn even_from(&self) -> Option<u64> {
        let since_boot = self.env.since_boot().nano;
        self.known().settings.even_from(since_boot)
    }

    /// Why plans cannot be followed: the time is not known.
    pub fn unknown(&self) -> Option<String> {
        let Look { now, doubt, .. } = self.look();
        doubt.filter(|_| now.plan.is_none())
    }

    /// Both clocks for Hello.
    pub fn told(&self) -> link::Clock {
        let doubt = self.look().doubt;
        let SinceBoot { boot, nano } = self.env.since_boot();
        link::Clock {
            unix_nano: self.env.unix_nano(),
            boot_id: boot,
            since_boot_nano: nano,
            untrusted: doubt.unwrap_or_default(),
        }
    }

    /// Takes in what `station` says of the time in its answer to a Hello that was written at `asked`. Its clock was read in between,
    /// so that half of this time is the error.
    pub fn heard(&self, station: &str, ground: &link::Clock, asked: SinceBoot) {
        let now = self.env.since_boot();
        if self.mode == TimeFromGround::Off || now.boot != asked.boot {
            return;
        }
        let half = now.nano.saturating_sub(asked.nano) / 2;
        let unix_nano = ground.unix_nano.saturating_add(half);
        self.known().ground = Some(Ground {
            station: station.to_owned(),
            reference: Reference { since_boot: now.nano, unix_nano, error: half },
            is_trusted: ground.untrusted.is_empty(),
        });
        self.look();
    }

    /// For status.
    pub fn status(&self) -> ClockStatus {
        let Look { now, source, doubt } = self.look();
        let unix_nano = self.env.unix_nano();
        let ground = self.known().ground.clone().map(|ground| {
            let (offset_seconds, error_seconds) = ground.offset(unix_nano, now.since_boot);
            let age_seconds = now.since_boot.saturating_sub(ground.reference.since_boot) as f64 / 1e9;
            GroundStatus { station: ground.station, offset_seconds, error_seconds, age_seconds }
        });
        ClockStatus { unix_nano, doubt, floor_unix_nano: self.env.bounds.floor(), plans_by: source, ground }
    }
}

#[cfg(test)]
mod tests {
    use perigee_shared::clock::ClockBounds;

    use super::*;

    const DAY: u64 = 86_400 * S;
    /// The bounds are a thousand days from here on.
    const FLOOR: u64 = 20_000 * DAY;

    fn wall(unix_nano: u64) -> Wall {
        let bounds = ClockBounds::new(FLOOR);
        bounds.set_end(FLOOR + 1_000 * DAY);
        bounds.judge(unix_nano)
    }

    /// What plans go by after a look.
    fn plan(known: &mut Known, mode: TimeFromGround, at: u64, since_boot: u64) -> (Option<u64>, Source) {
        let look = known.look(mode, &wall(at), since_boot);
        assert_eq!(look.doubt.is_none(), look.source == Source::Wall || mode == TimeFromGround::Use);
        (look.now.plan, look.source)
    }

    #[test]
    fn a_cold_boot_in_1970_has_no_time_for_plans_until_the_clock_is_set() {
        let mut known = Known::new(0, 0);
        let mode = TimeFromGround::Measure;
        assert_eq!(plan(&mut known, mode, 30 * S, 30 * S), (None, Source::Unknown));
        assert_eq!(known.look(mode, &wall(40 * S), 40 * S).now.unix_nano, 40 * S, "it goes on evenly");
        let right = FLOOR + 5 * DAY;
        assert_eq!(plan(&mut known, mode, right, 60 * S), (Some(right), Source::Wall));
    }

    #[test]
    fn a_jump_to_a_date_that_cannot_be_leaves_plans_with_the_time_that_was_for_about_a_week() {
        let mut known = Known::new(FLOOR, 0);
        let mode = TimeFromGround::Measure;
        plan(&mut known, mode, FLOOR + DAY, DAY);
        for jumped in [0, FLOOR + 7_300 * DAY] {
            assert_eq!(plan(&mut known, mode, jumped + DAY, 2 * DAY), (Some(FLOOR + 2 * DAY), Source::Held));
        }
        assert_eq!(plan(&mut known, mode, 0, 7 * DAY).1, Source::Held);
        assert_eq!(plan(&mut known, mode, 0, 9 * DAY), (None, Source::Unknown));
    }

    #[test]
    fn a_clock_that_runs_backwards_is_left_at_the_second_look_and_taken_again_when_it_runs_evenly() {
        let mut known = Known::new(FLOOR, 0);
        let mode = TimeFromGround::Measure;
        let start = FLOOR + 10 * DAY;
        plan(&mut known, mode, start, 10 * DAY);
        let mut at = |minutes: u64, says: u64| plan(&mut known, mode, says, 10 * DAY + minutes * 60 * S);
        assert_eq!(at(1, start - 60 * S), (Some(start - 60 * S), Source::Wall), "it may have been set right");
        for minute in 2..1_440 {
            let right = start + minute * 60 * S;
            assert_eq!(at(minute, start - minute * 60 * S), (Some(right), Source::Held), "minute {minute}");
        }
        let set_right = start + 1_440 * 60 * S;
        assert_eq!(at(1_440, set_right).1, Source::Held);
        assert_eq!(at(1_451, set_right + 660 * S), (Some(set_right + 660 * S), Source::Wall));
    }

    #[test]
    fn a_clock_that_is_set_twice_to_the_same_time_is_trusted_ten_seconds_later() {
        let mut known = Known::new(0, 0);
        let mode = TimeFromGround::Measure;
        let right = FLOOR + 5 * DAY;
        // A receiver that does not know of leap seconds yet is 18 s ahead.
        assert_eq!(plan(&mut known, mode, 10 * S, 10 * S), (None, Source::Unknown));
        for (at, ahead, expected, goes_by) in [
            (20, 18, Source::Wall, 18),
            (25, 0, Source::Held, 18),
            (34, 0, Source::Held, 18),
            (35, 0, Source::Wall, 0),
            (100, 0, Source::Wall, 0),
        ] {
            let by = plan(&mut known, mode, right + (at + ahead) * S, at * S);
            assert_eq!(by, (Some(right + (at + goes_by) * S), expected), "at {at} s");
        }
        // What two settings vouch for is held when the clock jumps.
        let jumped = |at: u64| right + DAY + at * S;
        assert_eq!(plan(&mut known, mode, jumped(110), 110 * S), (Some(right + 110 * S), Source::Held));
        assert_eq!(plan(&mut known, mode, jumped(700), 700 * S), (Some(right + 700 * S), Source::Held));
        assert_eq!(plan(&mut known, mode, jumped(710), 710 * S), (Some(jumped(710)), Source::Wall));
    }

    #[test]
    fn a_clock_that_jumps_there_and_back_is_not_trusted_until_it_stays() {
        let mut known = Known::new(FLOOR, 0);
        let mode = TimeFromGround::Measure;
        let right = |at: u64| FLOOR + DAY + at * S;
        plan(&mut known, mode, right(0), 0);
        assert_eq!(
            plan(&mut known, mode, right(30) + DAY, 30 * S).1,
            Source::Wall,
            "it may have been set right"
        );
        for at in (60..3_600).step_by(30) {
            let ahead = if at / 30 % 2 == 0 { 0 } else { DAY };
            assert_eq!(
                plan(&mut known, mode, right(at) + ahead, at * S),
                (Some(right(at)), Source::Held),
                "{at}"
            );
        }
        assert_eq!(plan(&mut known, mode, right(4_169) + DAY, 4_169 * S), (Some(right(4_169)), Source::Held));
        assert_eq!(plan(&mut known, mode, right(4_170) + DAY, 4_170 * S).1, Source::Wall);
    }

    #[test]
    fn a_clock_that_runs_backwards_is_noticed_however_often_it_is_looked_at() {
        for pause in [S / 10, S / 2, 7 * S, 20 * S] {
            let mut known = Known::new(FLOOR, 0);
            let start = FLOOR + 10 * DAY;
            let mode = TimeFromGround::Measure;
            plan(&mut known, mode, start, 0);
            let mut wrong = 0;
            for at in (1..2_000).map(|n| n * pause) {
                let (time, _) = plan(&mut known, mode, start - at, at);
                let error = time.map_or(0, |time| (start + at).abs_diff(time));
                wrong += u64::from(error > 3 * pause.max(SET));
            }
            assert_eq!(wrong, 0, "looked at every {pause} ns");
        }
    }

    #[test]
    fn the_time_of_a_station_is_used_only_where_that_is_asked_for_and_the_clock_is_off() {
        let heard = |known: &mut Known, unix_nano: u64, is_trusted: bool| {
            let reference = Reference { since_boot: 10 * S, unix_nano, error: S / 10 };
            known.ground = Some(Ground { station: "svalbard".into(), reference, is_trusted });
        };
        let right = FLOOR + DAY;
        for (mode, says, trusted, expected) in [
            (TimeFromGround::Measure, 0, true, Source::Unknown),
            (TimeFromGround::Use, 0, true, Source::Ground),
            (TimeFromGround::Use, right, true, Source::Wall),
            (TimeFromGround::Use, right + 100 * DAY, true, Source::Ground),
            (TimeFromGround::Use, right + 100 * DAY, false, Source::Wall),
        ] {
            let mut known = Known::new(says, 10 * S);
            heard(&mut known, right, trusted);
            let look = known.look(mode, &wall(says + S), 11 * S);
            assert_eq!(look.source, expected, "{mode:?} {says}");
            if expected == Source::Ground {
                assert_eq!(look.now.plan, Some(right + S));
            }
        }
    }

    #[test]
    fn a_clock_that_was_set_since_is_compared_as_it_is_now() {
        let reference = Reference { since_boot: 5 * S, unix_nano: 1_000 * S, error: S / 10 };
        let ground = Ground { station: "svalbard".into(), reference, is_trusted: true };
        assert_eq!(ground.offset(900 * S, 5 * S), (-100.0, 0.1));
        let (offset, error) = ground.offset(1_010 * S, 15 * S);
        assert!(offset == 0.0 && error > 0.1, "{offset} {error}");
    }
}
