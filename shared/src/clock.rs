//! Whether a wall clock can be right.
//!
//! A satellite may start in 1970, or with any other date, until something sets its clock. [`ClockBounds`] holds what is certain
//! whatever the clock says: the time is not before the program was built, nor before the beginning of a station certificate that
//! was accepted, and while our own certificate is of use it is not behind that one's end. The wall clock itself never moves these
//! bounds, so a jump to a wrong date leaves no trace.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::contact::shown_time;

/// When the program was built, ns since the Unix epoch; see `build.rs`.
pub fn built() -> u64 {
    env!("PERIGEE_BUILT").parse::<u64>().map_or(0, |seconds| seconds.saturating_mul(1_000_000_000))
}

/// Ends then; without a time, never.
pub async fn sleep_until(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// What a wall clock is held against. Times are ns since the Unix epoch.
#[derive(Debug)]
pub struct ClockBounds {
    floor: AtomicU64,
    end: AtomicU64,
}

/// Why a wall clock cannot be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// It is before a time that has passed for certain.
    TooEarly {
        /// What it says.
        says: u64,
        /// That time.
        floor: u64,
    },
    /// It is behind the end of our own certificate.
    TooLate {
        /// What it says.
        says: u64,
        /// That end.
        end: u64,
    },
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooEarly { says, floor } => write!(
                f,
                "the clock says {}, but it must be later than {}, when this program was built or a station's certificate began",
                shown_time(*says),
                shown_time(*floor)
            ),
            Self::TooLate { says, end } => write!(
                f,
                "the clock says {}, but our own certificate ends at {}: is the clock wrong, or a new certificate due?",
                shown_time(*says),
                shown_time(*end)
            ),
        }
    }
}

impl ClockBounds {
    /// The time is not before `floor`.
    pub const fn new(floor: u64) -> Self {
        Self { floor: AtomicU64::new(floor), end: AtomicU64::new(u64::MAX) }
    }

    /// The time is not before this, for certain.
    pub fn floor(&self) -> u64 {
        self.floor.load(Ordering::Relaxed)
    }

    /// A clock that is behind this is wrong.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// The time is not before `at` either; whether that is news.
    pub fn raise_floor(&self, at: u64) -> bool {
        self.floor.fetch_max(at, Ordering::Relaxed) < at
    }

    /// Our own certificate ends at `at`.
    pub fn set_end(&self, at: u64) {
        self.end.store(at, Ordering::Relaxed);
    }

    /// Whether a clock that says `says` can be right.
    pub fn judge(&self, says: u64) -> Wall {
        let (floor, end) = (self.floor(), self.end());
        let doubt = if says < floor {
            Some(Doubt::TooEarly { says, floor })
        } else if says > end {
            Some(Doubt::TooLate { says, end })
        } else {
            None
        };
        Wall { unix_nano: says, doubt }
    }
}

/// What the wall clock says, and why that cannot be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wall {
    /// Ns since the Unix epoch.
    pub unix_nano: u64,
    /// `None`: it is trusted.
    pub doubt: Option<Doubt>,
}

impl Wall {
    /// The time, if the clock is trusted.
    pub fn trusted(&self) -> Option<u64> {
        self.doubt.is_none().then_some(self.unix_nano)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_trusted_from_the_floor_to_the_end_of_our_certificate() {
        let bounds = ClockBounds::new(100);
        assert_eq!(bounds.judge(u64::MAX).doubt, None, "without a certificate there is no end");
        bounds.set_end(200);
        assert_eq!(bounds.judge(99).doubt, Some(Doubt::TooEarly { says: 99, floor: 100 }));
        assert_eq!([100, 200].map(|says| bounds.judge(says).trusted()), [Some(100), Some(200)]);
        assert_eq!(bounds.judge(201).doubt, Some(Doubt::TooLate { says: 201, end: 200 }));
        assert!(bounds.raise_floor(150) && !bounds.raise_floor(120));
        assert_eq!(bounds.floor(), 150);
    }

    #[test]
    fn the_build_has_a_date_and_a_doubt_names_the_clock_and_both_dates() {
        assert!(built() > 1_700_000_000_000_000_000, "{}", built());
        let bounds = ClockBounds::new(1_767_225_600_000_000_000);
        let text = bounds.judge(0).doubt.expect("1970 is before 2026").to_string();
        for part in ["clock", "1970-01-01T00:00:00Z", "2026-01-01T00:00:00Z"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
