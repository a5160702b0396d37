//! Contacts: when a station is reachable, and what is known of the link then.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::config::Invalid;
use crate::link::transport::LinkShape;
use crate::units::{ByteSize, Span};

/// An interval in which a station is reachable. Times are ns since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Contact {
    /// The station's id.
    pub station: String,
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
    /// Segment bytes that may be sent in it.
    pub byte_budget: Option<u64>,
}

impl Contact {
    /// A contact that begins now and has no end.
    pub fn open(station: impl Into<String>, now: u64) -> Self {
        Self {
            station: station.into(),
            start_unix_nano: now,
            end_unix_nano: None,
            rate_down: None,
            rate_up: None,
            light_time_seconds: None,
            guard_seconds: 0.0,
            byte_budget: None,
        }
    }

    /// Whether it is open at `now`.
    pub fn contains(&self, now: u64) -> bool {
        self.start_unix_nano <= now && self.end_unix_nano.is_none_or(|end| now < end)
    }

    /// How long it still is at `now`; `None` when it has no end.
    pub fn left(&self, now: u64) -> Option<Duration> {
        self.end_unix_nano.map(|end| Duration::from_nanos(end.saturating_sub(now)))
    }

    /// How long something new may still be begun.
    pub fn usable(&self, now: u64) -> Option<Duration> {
        Some(self.left(now)?.saturating_sub(Duration::from_secs_f64(self.guard_seconds)))
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
        let start = std::time::UNIX_EPOCH + Duration::from_nanos(self.start_unix_nano);
        format!("{}@{}", self.station, humantime::format_rfc3339_seconds(start))
    }
}

/// A rate in bit/s: `20Mbit/s`, `64kbit/s`, `9600bit/s` or `20mbit`.
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
    Ok((number * factor).round() as u64)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate(u64);

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_rate(&String::deserialize(deserializer)?).map(Self).map_err(de::Error::custom)
    }
}

/// A time as RFC 3339, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Time(u64);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong =
            || de::Error::custom(format!("`{text}` is not a time; write for example 2026-11-23T19:00:00Z"));
        let time = humantime::parse_rfc3339_weak(&text).map_err(|_| wrong())?;
        let since = time.duration_since(std::time::UNIX_EPOCH).map_err(|_| wrong())?;
        Ok(Self(since.as_nanos() as u64))
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    station: String,
    start: Time,
    end: Time,
    rate_down: Option<Rate>,
    rate_up: Option<Rate>,
    light_time: Option<Span>,
    #[serde(default)]
    guard: Span,
    byte_budget: Option<ByteSize>,
}

/// A plan file as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanFile {
    contacts: Vec<Entry>,
}

/// Contacts in the order of their start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    contacts: Vec<Contact>,
}

impl Plan {
    /// Checks a plan file against the stations that are known.
    pub fn try_new(file: PlanFile, stations: &BTreeSet<String>) -> Result<Self, Invalid> {
        let mut contacts = Vec::with_capacity(file.contacts.len());
        for (n, entry) in file.contacts.into_iter().enumerate() {
            let key = |name: &str| format!("contacts[{n}].{name}");
            if !stations.contains(&entry.station) {
                let message = format!("link.stations has no `{}`", entry.station);
                return Err(Invalid::new(key("station"), message));
            }
            if entry.end.0 <= entry.start.0 {
                return Err(Invalid::new(key("end"), "must be after start"));
            }
            contacts.push(Contact {
                station: entry.station,
                start_unix_nano: entry.start.0,
                end_unix_nano: Some(entry.end.0),
                rate_down: entry.rate_down.map(|r| r.0),
                rate_up: entry.rate_up.map(|r| r.0),
                light_time_seconds: entry.light_time.map(|t| t.0.as_secs_f64()),
                guard_seconds: entry.guard.0.as_secs_f64(),
                byte_budget: entry.byte_budget.map(|b| b.0),
            });
        }
        contacts.sort_by_key(|c| c.start_unix_nano);
        Ok(Self { contacts })
    }

    /// The contact that is open at `now`; the one that began last when several are.
    pub fn current(&self, now: u64) -> Option<&Contact> {
        self.contacts.iter().rev().find(|c| c.contains(now))
    }

    /// The contacts that begin after `now`.
    pub fn upcoming(&self, now: u64) -> &[Contact] {
        &self.contacts[self.contacts.partition_point(|c| c.start_unix_nano <= now)..]
    }

    /// When [`Plan::current`] changes next after `now`.
    pub fn next_change(&self, now: u64) -> Option<u64> {
        let starts = self.upcoming(now).first().map(|c| c.start_unix_nano);
        let ends = self.contacts.iter().filter_map(|c| c.end_unix_nano).filter(|end| *end > now).min();
        starts.into_iter().chain(ends).min()
    }

    /// How many contacts it has.
    pub fn len(&self) -> usize {
        self.contacts.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.contacts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn plan(text: &str) -> Result<Plan, String> {
        let file: PlanFile = parse(text, "plan.yaml", |_| None).map_err(|e| e.to_string())?;
        let stations = BTreeSet::from(["svalbard".to_owned(), "beijing".to_owned()]);
        Plan::try_new(file, &stations).map_err(|e| format!("{}: {}", e.key, e.message))
    }

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_plan_says_what_is_open_and_what_comes_next() {
        let plan = plan(
            "contacts:\n\
             - {station: beijing, start: 1970-01-01T00:10:00Z, end: 1970-01-01T00:20:00Z, rate_down: 20Mbit/s, guard: 2s}\n\
             - {station: svalbard, start: 1970-01-01T00:01:00Z, end: 1970-01-01T00:02:00Z, light_time: 5ms}\n",
        )
        .unwrap();
        assert_eq!(plan.current(0), None);
        assert_eq!(plan.next_change(0), Some(60 * S));
        let contact = plan.current(60 * S).unwrap();
        assert_eq!(
            (contact.station.as_str(), contact.left(61 * S)),
            ("svalbard", Some(Duration::from_secs(59)))
        );
        assert_eq!(plan.next_change(60 * S), Some(120 * S));
        assert_eq!(plan.upcoming(60 * S)[0].rate_down, Some(20_000_000));
        assert_eq!(plan.upcoming(60 * S)[0].usable(1199 * S), Some(Duration::ZERO));
        assert_eq!(plan.next_change(1200 * S), None);
    }

    #[test]
    fn a_wrong_plan_is_named() {
        for (text, part) in [
            (
                "contacts:\n- {station: mars, start: 1970-01-01T00:00:00Z, end: 1970-01-01T00:00:01Z}\n",
                "mars",
            ),
            (
                "contacts:\n- {station: beijing, start: 1970-01-01T00:00:01Z, end: 1970-01-01T00:00:01Z}\n",
                "end",
            ),
            ("contacts:\n- {station: beijing, start: yesterday, end: 1970-01-01T00:00:01Z}\n", "yesterday"),
            ("contacts:\n- {station: beijing, strat: 1970-01-01T00:00:01Z}\n", "`start`"),
        ] {
            let error = plan(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn rates_have_units() {
        assert_eq!(parse_rate("20Mbit/s"), Ok(20_000_000));
        assert_eq!(parse_rate("64 kbit"), Ok(64_000));
        assert!(parse_rate("20").is_err() && parse_rate("fast").is_err());
    }
}
