//! Contacts: when a station is reachable, and what is known of the link then. A [`Plan`] is a list of them; it comes from a file
//! of our own or of others ([`import`]).

pub mod import;
mod plan;
pub mod report;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::link::transport::LinkShape;

pub use import::{Format, Reader, StationHints, parse_time};
pub use plan::{Notes, Plan};

/// An interval in which a station is reachable. Times are ns since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Contact {
    /// The station's id; the contacts of a long plan share it.
    pub station: Arc<str>,
    /// AOS: acquisition of signal.
    pub start_unix_nano: u64,
    /// LOS: loss of signal; `None` until somebody closes it.
    pub end_unix_nano: Option<u64>,
    /// From the satellite to the ground, bit/s.
    pub rate_down: Option<u64>,
    /// From the ground to the satellite, bit/s.
    pub rate_up: Option<u64>,
    /// One way, in seconds.
    pub light_time_seconds: Option<f64>,
    /// So long before the end nothing new is begun, in seconds.
    pub guard_seconds: f64,
    /// How wrong the satellite's clock may be, in seconds. The contact is kept open for so long on both sides, and what is sent
    /// in it is planned as if it were shorter by as much.
    pub clock_error_seconds: f64,
    /// Segment bytes that may be sent in it.
    pub byte_budget: Option<u64>,
    /// How the satellite is seen from the station, where that was predicted. Long plans are files that do not say it.
    #[serde(flatten)]
    pub sight: Option<Box<Sight>>,
}

/// How a satellite is seen from a station in a pass. Azimuths count from north over east.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sight {
    /// The largest elevation.
    pub max_elevation_degrees: f64,
    /// The azimuth at AOS.
    pub aos_azimuth_degrees: f64,
    /// The azimuth at LOS, where there is one.
    pub los_azimuth_degrees: Option<f64>,
}

impl Contact {
    /// A contact that begins now and has no end.
    pub fn open(station: impl Into<Arc<str>>, now: u64) -> Self {
        Self {
            station: station.into(),
            start_unix_nano: now,
            end_unix_nano: None,
            rate_down: None,
            rate_up: None,
            light_time_seconds: None,
            guard_seconds: 0.0,
            clock_error_seconds: 0.0,
            byte_budget: None,
            sight: None,
        }
    }

    fn clock_error(&self) -> u64 {
        (self.clock_error_seconds * 1e9) as u64
    }

    /// From when on the station is tried: AOS, earlier by the clock's error.
    pub fn opens(&self) -> u64 {
        self.start_unix_nano.saturating_sub(self.clock_error())
    }

    /// Until when it is tried: LOS, later by the clock's error; `None` until somebody closes it.
    pub fn closes(&self) -> Option<u64> {
        self.end_unix_nano.map(|end| end.saturating_add(self.clock_error()))
    }

    /// Whether it is open at `now`.
    pub fn contains(&self, now: u64) -> bool {
        self.opens() <= now && self.closes().is_none_or(|end| now < end)
    }

    /// Whether `now` is the same contact, planned anew: with the same station and not behind it.
    pub fn goes_on_as(&self, now: &Self) -> bool {
        let overlap = self.closes().is_none_or(|end| now.opens() < end)
            && now.closes().is_none_or(|end| self.opens() < end);
        self.station == now.station && overlap
    }

    /// How long it still is at `now`; `None` when it has no end.
    pub fn left(&self, now: u64) -> Option<Duration> {
        self.closes().map(|end| Duration::from_nanos(end.saturating_sub(now)))
    }

    /// By how much the clock's error narrows what is planned in it, at each end: a third of it at most, since it takes place
    /// whatever the clock says.
    fn narrowed_by(&self) -> u64 {
        let lasts = self.end_unix_nano.map_or(u64::MAX, |end| end.saturating_sub(self.start_unix_nano));
        self.clock_error().min(lasts / 3)
    }

    /// The earliest end that the clock's error allows.
    fn earliest_end(&self) -> Option<u64> {
        self.end_unix_nano.map(|end| end.saturating_sub(self.narrowed_by()))
    }

    /// From `now` to the guard time before `end`.
    fn until_guard(&self, now: u64, end: u64) -> Duration {
        let left = Duration::from_nanos(end.saturating_sub(now));
        left.saturating_sub(Duration::from_secs_f64(self.guard_seconds))
    }

    /// How long something new may still be begun: until the guard time before the earliest end that the clock allows. A station
    /// that answers behind that end shows that the clock is ahead, so then until the guard time before the latest one.
    pub fn usable(&self, now: u64) -> Option<Duration> {
        let end = self.earliest_end().filter(|end| now < *end).or(self.closes())?;
        Some(self.until_guard(now, end))
    }

    /// What [`Contact::volume`] leaves out at its start and at its end, and [`Contact::capacity`] does not, in ns: the clock's error at both, and before the end the guard
    /// time. `None` when it has no end.
    pub fn guards(&self) -> Option<(u64, u64)> {
        self.end_unix_nano?;
        let error = self.narrowed_by();
        Some((error, error.saturating_add((self.guard_seconds * 1e9) as u64)))
    }

    /// Bytes that it can carry from `now` on, or from its beginning: its rate times the usable time, and no more than its
    /// budget. `None` when its rate or its end is not known and it has no budget.
    pub fn volume(&self, now: u64) -> Option<u64> {
        let from = now.max(self.start_unix_nano.saturating_add(self.narrowed_by()));
        self.carried(self.earliest_end().map(|end| self.until_guard(from, end)))
    }

    /// The same from AOS to LOS, whatever the guard time and the clock's error: with this is compared what came of it.
    pub fn capacity(&self, now: u64) -> Option<u64> {
        let from = now.max(self.start_unix_nano);
        self.carried(self.end_unix_nano.map(|end| Duration::from_nanos(end.saturating_sub(from))))
    }

    fn carried(&self, time: Option<Duration>) -> Option<u64> {
        let carried = self.rate_down.zip(time);
        let carried = carried.map(|(rate, time)| (rate as f64 / 8.0 * time.as_secs_f64()) as u64);
        [carried, self.byte_budget].into_iter().flatten().min()
    }

    /// What is known of the link.
    pub fn shape(&self) -> LinkShape {
        LinkShape {
            rate_down: self.rate_down,
            rate_up: self.rate_up,
            light_time: self.light_time_seconds.map(Duration::from_secs_f64),
        }
    }

    /// For people and for Hello: the station and when it began.
    pub fn name(&self) -> String {
        format!("{}@{}", self.station, shown_time(self.start_unix_nano))
    }
}

/// A time in ns since the Unix epoch as people read it, to the second.
pub fn shown_time(unix_nano: u64) -> String {
    let time = std::time::UNIX_EPOCH + Duration::from_nanos(unix_nano);
    humantime::format_rfc3339_seconds(time).to_string()
}

/// A catalogue number as it is printed: digits, or in five places Alpha-5, where a letter stands for the first two of six digits
/// (<https://www.space-track.org/documentation#tle-alpha5>).
pub fn catalogue_number(text: &str) -> Option<u64> {
    const LETTERS: &str = "ABCDEFGHJKLMNPQRSTUVWXYZ";
    let digits =
        |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let text = text.trim();
    match text.chars().next().and_then(|first| LETTERS.find(first)) {
        Some(at) if text.len() == 5 => Some((at as u64 + 10) * 10_000 + digits(&text[1..])?),
        Some(_) => None,
        None => digits(text),
    }
}

/// A rate in bit/s, from 1 to 10^12: `20Mbit/s`, `64kbit/s`, `9600bit/s` or `20mbit`.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a rate; write for example 64kbit/s or 20Mbit/s");
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix("/s").unwrap_or(&lower);
    let at = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let number: f64 = lower[..at].parse().map_err(|_| wrong())?;
    let factor = match lower[at..].trim() {
        "bit" | "bps" => 1.0,
        "kbit" | "kbps" => 1e3,
        "mbit" | "mbps" => 1e6,
        "gbit" | "gbps" => 1e9,
        _ => return Err(wrong()),
    };
    let rate = (number * factor).round();
    check_rate(rate as u64).map_err(|why| format!("`{text}`: {why}"))?;
    Ok(rate as u64)
}

/// Whether a contact can have this rate, bit/s.
pub fn check_rate(rate: u64) -> Result<(), String> {
    const RATES: std::ops::RangeInclusive<u64> = 1..=1_000_000_000_000;
    if RATES.contains(&rate) { Ok(()) } else { Err("a rate is from 1 bit/s to 1 Tbit/s".to_owned()) }
}

/// A rate in bit/s, as [`parse_rate`] reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub u64);

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_rate(&String::deserialize(deserializer)?).map(Self).map_err(de::Error::custom)
    }
}

/// A time in ns since the Unix epoch, as [`parse_time`] reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub u64);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_time(&String::deserialize(deserializer)?).map(Self).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units() {
        assert_eq!(parse_rate("20Mbit/s"), Ok(20_000_000));
        assert_eq!(parse_rate("64 kbit"), Ok(64_000));
        assert_eq!(parse_rate("1.5Gbit"), Ok(1_500_000_000));
        for wrong in ["", "20", "mbit", "-1mbit", "20mb", "fast", "0Mbit/s", "99999gbit"] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn catalogue_numbers_are_read_as_printed() {
        for (text, number) in
            [("25544", 25_544), ("00010", 10), ("    5", 5), ("A0001", 100_001), ("Z9999", 339_999)]
        {
            assert_eq!(catalogue_number(text), Some(number), "{text}");
        }
        assert_eq!(catalogue_number("H0000"), Some(170_000), "I and O are left out");
        assert_eq!(catalogue_number("J0000"), Some(180_000));
        assert_eq!(catalogue_number("P0000"), Some(230_000));
        assert_eq!(catalogue_number("799501234"), Some(799_501_234), "nine digits");
        for wrong in ["", "I0001", "A001", "ISS", "-5", "1 2"] {
            assert_eq!(catalogue_number(wrong), None, "{wrong}");
        }
    }

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_wrong_clock_widens_the_contact_and_narrows_what_is_planned_in_it() {
        let contact = Contact {
            end_unix_nano: Some(200 * S),
            rate_down: Some(8_000_000),
            guard_seconds: 5.0,
            clock_error_seconds: 2.0,
            ..Contact::open("svalbard", 100 * S)
        };
        assert!(contact.contains(98 * S) && !contact.contains(98 * S - 1));
        assert!(contact.contains(202 * S - 1) && !contact.contains(202 * S));
        assert_eq!(contact.left(190 * S), Some(Duration::from_secs(12)));
        assert_eq!(contact.usable(190 * S), Some(Duration::from_secs(3)));
        assert_eq!(contact.volume(0), Some(91 * 1_000_000), "100 s without 5 s of guard and twice 2 s");
        assert_eq!(contact.capacity(0), Some(100_000_000), "all of it");
        assert_eq!((contact.capacity(192 * S), contact.capacity(300 * S)), (Some(8_000_000), Some(0)));
        assert_eq!(contact.guards(), Some((2 * S, 7 * S)));
        assert_eq!(Contact::open("svalbard", 0).guards(), None, "it has no end");
        assert_eq!(contact.volume(192 * S), Some(1_000_000));
        let budget = Contact { byte_budget: Some(1000), ..contact };
        assert_eq!((budget.volume(0), budget.capacity(0)), (Some(1000), Some(1000)));
        assert_eq!(Contact::open("svalbard", 0).volume(0), None);
        let error_above_half =
            Contact { byte_budget: None, guard_seconds: 0.0, clock_error_seconds: 60.0, ..budget };
        assert!(error_above_half.contains(40 * S) && error_above_half.contains(259 * S));
        let third = error_above_half.volume(0).expect("rate and end are known");
        assert!((33_000_000..34_000_000).contains(&third), "{third}");
        assert_eq!(error_above_half.usable(170 * S), Some(Duration::from_secs(90)), "it answers late");
    }
}
