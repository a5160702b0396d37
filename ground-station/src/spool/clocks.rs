//! Satellites' clocks against this station's, from what each Hello says of them.
//!
//! A Hello was written half a round trip before it came, give or take as much: that is the error. An offset is by the wall clock; drift is by
//! the clock that nobody sets, over the time since the satellite was heard first in the same boot of both machines.

use std::sync::Arc;
use std::time::Duration;

use perigee_proto::link;
use perigee_shared::env::SinceBoot;
use serde::Serialize;

use super::standing::{TEXT, clean};
use super::tables::ClockRecord;

/// Less time between two Hellos says nothing of drift.
const LEAST: Duration = Duration::from_secs(60);

/// A clock that is off by less is right, ns.
const RIGHT: u64 = 1_000_000_000;

/// A clock before 2020 was not set, ns since the Unix epoch.
pub(super) const SET: u64 = 1_577_836_800_000_000_000;

/// A satellite's clock, as it was heard last.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ClockView {
    /// When that was by this station's clock, ns since the Unix epoch.
    pub heard_unix_nano: u64,
    /// By how much its wall clock was ahead.
    pub offset_seconds: f64,
    /// Uncertainty of that offset.
    pub error_seconds: f64,
    /// By how much its clock gains, in parts per million, and by how much that may be wrong; `None` before there is enough to say.
    pub drift_ppm: Option<[f64; 2]>,
    /// Why its wall clock cannot be right, in its own words; empty: it is trusted.
    pub untrusted: String,
}

/// A Hello, and what this station's clocks were when it came.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// The Hello.
    pub hello: Arc<link::Hello>,
    /// `None`: nobody has looked, and its clock is not compared.
    pub read: Option<Reading>,
}

impl From<Arc<link::Hello>> for Greeting {
    fn from(hello: Arc<link::Hello>) -> Self {
        Self { hello, read: None }
    }
}

impl From<link::Hello> for Greeting {
    fn from(hello: link::Hello) -> Self {
        Arc::new(hello).into()
    }
}

impl Greeting {
    /// What it says of the satellite's clock, with this station's.
    pub(super) fn clocks(&self) -> Option<(&link::Clock, &Reading)> {
        self.hello.clock.as_ref().zip(self.read.as_ref())
    }
}

/// This station's clocks when a Hello came.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Ns since the Unix epoch.
    pub wall: u64,
    /// The clock that nobody sets.
    pub since_boot: SinceBoot,
    /// How long the way there and back takes.
    pub round_trip: Duration,
}

impl Reading {
    /// By how much the clock was ahead that a Hello said.
    pub fn offset(&self, clock: &link::Clock) -> Offset {
        self.ahead(clock.unix_nano)
    }

    /// The same of a clock that showed this when the Hello was written.
    pub(super) fn ahead(&self, unix_nano: u64) -> Offset {
        let on_its_way = self.round_trip.as_nanos() as i128 / 2;
        let ahead = i128::from(unix_nano) + on_its_way - i128::from(self.wall);
        Offset(i64::try_from(ahead).unwrap_or(if ahead < 0 { i64::MIN } else { i64::MAX }))
    }
}

/// By how much a satellite's wall clock is ahead of this station's, ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offset(i64);

impl Offset {
    /// In seconds.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// A time in the past, not later than `now`, by this station's clock; 0 stays 0: there is none.
    pub(super) fn past(self, satellites: u64, now: u64) -> u64 {
        let here = i128::from(satellites) - i128::from(self.0);
        if satellites == 0 { 0 } else { here.clamp(1, i128::from(now.max(1))) as u64 }
    }

    /// A time by this station's clock; 0 stays 0: there is none. Of a clock that is right to a second it stays as it was said.
    pub(super) fn here(self, satellites: u64) -> u64 {
        let here = i128::from(satellites) - i128::from(self.0);
        let stays = satellites == 0 || self.0.unsigned_abs() <= RIGHT;
        if stays { satellites } else { here.clamp(1, i128::from(u64::MAX)) as u64 }
    }

    /// How long ago a time was by the satellite's clock, `now` being this station's time. `None`: that clock was set meanwhile.
    pub fn age(self, satellites: u64, now: u64) -> Option<Duration> {
        let there = u64::try_from(i128::from(now) + i128::from(self.0)).ok()?;
        let same = (satellites < SET) == (there < SET);
        there.checked_sub(satellites).filter(|_| same && satellites != 0).map(Duration::from_nanos)
    }
}

/// What is known of a satellite's clock after a Hello.
pub(super) fn heard(before: Option<ClockRecord>, clock: &link::Clock, read: &Reading) -> ClockRecord {
    let Reading { wall, since_boot, round_trip } = *read;
    let error = (round_trip / 2).as_nanos() as u64;
    let same_boots = |b: &ClockRecord| (b.boot, b.station_boot) == (clock.boot_id, since_boot.boot);
    let (first, station_first, first_error) = match before.filter(same_boots) {
        Some(before) => (before.first, before.station_first, before.first_error),
        None => (clock.since_boot_nano, since_boot.nano, error),
    };
    let mut record = ClockRecord {
        heard: wall,
        offset: read.offset(clock).0,
        error,
        untrusted: clean(&clock.untrusted, TEXT),
        boot: clock.boot_id,
        station_boot: since_boot.boot,
        first,
        station_first,
        first_error,
        drift: None,
        drift_error: None,
    };
    let here = since_boot.nano.checked_sub(station_first).filter(|n| Duration::from_nanos(*n) >= LEAST);
    if let Some((here, there)) = here.zip(clock.since_boot_nano.checked_sub(first)) {
        let (here, there) = (here as f64, there as f64);
        record.drift = Some((there - here) / here * 1e6);
        record.drift_error = Some((error + first_error) as f64 / here * 1e6);
    }
    record
}

impl ClockRecord {
    /// By how much it was ahead.
    pub(super) const fn ahead(&self) -> Offset {
        Offset(self.offset)
    }

    /// The same for people.
    pub(super) fn shown(&self) -> ClockView {
        ClockView {
            heard_unix_nano: self.heard,
            offset_seconds: self.ahead().seconds(),
            error_seconds: self.error as f64 / 1e9,
            drift_ppm: self.drift.zip(self.drift_error).map(|(drift, error)| [drift, error]),
            untrusted: self.untrusted.clone(),
        }
    }
}

/// By how much a clock is ahead, for people.
pub fn shown_offset(seconds: f64, error: f64) -> String {
    let (sign, whole) = (if seconds < 0.0 { '-' } else { '+' }, seconds.abs().round() as u64);
    match (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60, whole % 60) {
        (0, 0, ..=1, _) => format!("{seconds:+.3} s \u{b1} {error:.3}"),
        (0, 0, minutes, seconds) => format!("{sign}{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{sign}{hours} h {minutes} min"),
        (days, hours, ..) => format!("{sign}{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn clock(unix_nano: u64, boot_id: u64, since_boot_nano: u64) -> link::Clock {
        link::Clock { unix_nano, boot_id, since_boot_nano, untrusted: String::new() }
    }

    fn read(wall: u64, boot: u64, nano: u64) -> Reading {
        Reading { wall, since_boot: SinceBoot { boot, nano }, round_trip: Duration::from_millis(500) }
    }

    #[test]
    fn the_offset_is_known_to_half_a_round_trip_and_drift_by_the_clock_that_nobody_sets() {
        let first = heard(None, &clock(990 * S, 1, 5 * S), &read(1_000 * S, 7, 100 * S));
        let view = first.shown();
        assert_eq!((view.offset_seconds, view.error_seconds, view.drift_ppm), (-9.75, 0.25, None));
        // 10,000 s later it has gained half a second, and its wall clock was set meanwhile.
        let later = clock(50_000 * S, 1, 10_005 * S + S / 2);
        let later = heard(Some(first), &later, &read(11_000 * S, 7, 10_100 * S));
        let [drift, error] = later.shown().drift_ppm.unwrap();
        assert!((drift - 50.0).abs() < 1e-6 && (error - 50.0).abs() < 1e-6, "{drift} {error}");
        assert_eq!(later.shown().offset_seconds, 39_000.25);
        for (satellite, station) in [(2, 7), (1, 8)] {
            let again =
                heard(Some(later.clone()), &clock(0, satellite, S), &read(12_000 * S, station, 11_100 * S));
            assert_eq!(again.shown().drift_ppm, None, "another boot");
        }
    }

    #[test]
    fn an_offset_is_told_in_units_that_a_person_reads() {
        for (seconds, text) in [
            (-3.25, "-3.250 s \u{b1} 0.020"),
            (119.4, "+119.400 s \u{b1} 0.020"),
            (-725.2, "-12 min 5 s"),
            (7_500.0, "+2 h 5 min"),
            (602_500_889.999, "+6973 d 9 h"),
        ] {
            assert_eq!(shown_offset(seconds, 0.02), text);
        }
    }

    #[test]
    fn times_of_a_clock_that_is_years_off_are_told_by_this_stations() {
        let now = SET + 1_000_000 * S;
        let offset = |there: u64| {
            let read = Reading { round_trip: Duration::ZERO, ..read(now, 1, 1) };
            read.offset(&clock(there, 1, 1))
        };
        for there in [100_000 * S, now + 20 * 31_557_600 * S] {
            let offset = offset(there);
            assert_eq!(offset.past(there - 30 * S, now), now - 30 * S);
            assert_eq!(offset.age(there - 30 * S, now + 5 * S), Some(Duration::from_secs(35)));
            assert_eq!((offset.past(there + S, now), offset.past(0, now)), (now, 0));
        }
        // A clock that began in 1970 and was set right since, and one that was set back.
        assert_eq!(offset(now).age(30 * S, now), None);
        assert_eq!(offset(now).age(now + S, now), None);
        assert_eq!(offset(now).age(0, now), None, "nobody said when");
        let (early, right) = (offset(now - 60 * S), offset(now + S));
        assert_eq!([early.here(now), early.here(0), right.here(now)], [now + 60 * S, 0, now]);
    }
}
