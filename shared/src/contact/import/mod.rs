//! Reading plans: Perigee's own file, and those of HDTN, ION, AWS Ground Station and SatNOGS.
//!
//! Others' files name stations and satellites in their own way; [`Reader`] knows what is meant. In them contacts of other
//! satellites and stations are passed over.

mod aws;
mod hdtn;
mod ion;
mod native;
mod satnogs;
mod time;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::plan::Keyed;
use super::{Contact, Plan};
use crate::config::{ConfigError, Invalid};

pub use time::parse_time;

/// How a plan file is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One of the others, by what is in the file.
    #[default]
    Auto,
    /// Perigee's own: YAML or JSON, `contacts: [{station, start, end, ...}]`.
    Native,
    /// HDTN's contact plan: JSON, `{"contacts": [{"source", "dest", "startTime", "endTime", "rateBitsPerSec", "owlt"}]}`.
    Hdtn,
    /// ION's administration commands: `a contact`, `a range` and `@`.
    Ion,
    /// The answer of AWS Ground Station's `ListContacts`: JSON, `{"contactList": [...]}`.
    Aws,
    /// Observations of the SatNOGS network's API: JSON, a list.
    Satnogs,
}

/// What is known of a station beside what a plan says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StationHints {
    /// What others' plans call it; they may also use its id.
    pub alias: Option<String>,
    /// From the satellite to the ground, bit/s.
    pub rate_down: Option<u64>,
    /// From the ground to the satellite, bit/s.
    pub rate_up: Option<u64>,
    /// One way, in seconds.
    pub light_time_seconds: Option<f64>,
    /// Guard time before the end, in seconds.
    pub guard_seconds: f64,
}

/// Reads plans.
#[derive(Debug, Clone, Default)]
pub struct Reader {
    /// How they are written.
    pub format: Format,
    /// Stations by id.
    pub stations: BTreeMap<String, StationHints>,
    /// What others' plans call this satellite; their contacts of every satellite are taken when absent.
    pub satellite: Option<String>,
    /// What relative times count from, ns since the Unix epoch.
    pub epoch: Option<u64>,
    /// How wrong the satellite's clock may be, in seconds.
    pub clock_error_seconds: f64,
}

/// A contact as a file says it.
#[derive(Debug, Default)]
struct Entry {
    key: String,
    station: String,
    start: u64,
    end: u64,
    rate_down: Option<u64>,
    rate_up: Option<u64>,
    light_time_seconds: Option<f64>,
    guard_seconds: Option<f64>,
    byte_budget: Option<u64>,
}

/// What was found in a file.
#[derive(Debug, Default)]
struct Found {
    entries: Vec<Entry>,
    /// Contacts of others.
    passed_over: usize,
}

impl Reader {
    /// Reads the plan in the file at `path`.
    pub fn read(&self, path: &Path) -> Result<Plan, ConfigError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: shown.clone(), source })?;
        self.parse(&text, &shown)
    }

    /// Reads the plan in `text`; `path` is only for messages.
    pub fn parse(&self, text: &str, path: &str) -> Result<Plan, ConfigError> {
        let invalid = |Invalid { key, message }| ConfigError::Invalid { path: path.to_owned(), key, message };
        let format = if self.format == Format::Auto { detect(text) } else { self.format };
        let found = match format {
            Format::Native | Format::Auto => native::read(text, path, self)?,
            Format::Ion => ion::read(text, path, self)?,
            Format::Hdtn => hdtn::read(&json(text, path)?, self).map_err(invalid)?,
            Format::Aws => aws::read(&json(text, path)?, self).map_err(invalid)?,
            Format::Satnogs => satnogs::read(&json(text, path)?, self).map_err(invalid)?,
        };
        self.plan(found).map_err(invalid)
    }

    fn plan(&self, found: Found) -> Result<Plan, Invalid> {
        if found.entries.is_empty() && found.passed_over > 0 {
            let message = format!(
                "none of {} is of this satellite with a station of link.stations; set contacts.satellite and the stations' alias to the names in the file",
                found.passed_over
            );
            return Err(Invalid::new("contacts", message));
        }
        let contacts = found.entries.into_iter().map(|entry| self.contact(entry)).collect();
        Plan::try_new(contacts, Vec::new())
    }

    fn contact(&self, entry: Entry) -> Keyed {
        let hints = self.stations.get(&entry.station).cloned().unwrap_or_default();
        let contact = Contact {
            end_unix_nano: Some(entry.end),
            rate_down: entry.rate_down.or(hints.rate_down),
            rate_up: entry.rate_up.or(hints.rate_up),
            light_time_seconds: entry.light_time_seconds.or(hints.light_time_seconds),
            guard_seconds: entry.guard_seconds.unwrap_or(hints.guard_seconds),
            clock_error_seconds: self.clock_error_seconds,
            byte_budget: entry.byte_budget,
            ..Contact::open(entry.station, entry.start)
        };
        (entry.key, contact)
    }

    /// The id of the station that others call `name`.
    fn station(&self, name: &str) -> Option<&str> {
        let alias = self.stations.iter().find(|(_, hints)| hints.alias.as_deref() == Some(name));
        alias.or_else(|| self.stations.get_key_value(name)).map(|(id, _)| id.as_str())
    }

    /// Whether others mean this satellite by `name`.
    fn is_us(&self, name: &str) -> bool {
        self.satellite.as_deref().is_none_or(|ours| ours == name)
    }

    /// A time in seconds: since the Unix epoch, or relative to [`Reader::epoch`].
    fn time(&self, key: &str, seconds: f64) -> Result<u64, Invalid> {
        // The first day of 1973: a relative time of three years makes no plan.
        const FIRST_UNIX: f64 = 1e8;
        let wrong = |message: &str| Invalid::new(key, message);
        if !(0.0..1e10).contains(&seconds) {
            return Err(wrong("is out of bounds"));
        }
        let nano = (seconds * 1e9) as u64;
        if seconds >= FIRST_UNIX {
            return Ok(nano);
        }
        let epoch = self
            .epoch
            .ok_or_else(|| wrong("is a relative time; set contacts.epoch to what it counts from"))?;
        Ok(epoch + nano)
    }
}

/// What the file looks like.
fn detect(text: &str) -> Format {
    let ion = |line: &str| {
        let mut words = line.split_whitespace();
        matches!((words.next(), words.next()), (Some("a"), Some("contact" | "range")))
    };
    if !text.trim_start().starts_with(['{', '[']) {
        return if text.lines().any(ion) { Format::Ion } else { Format::Native };
    }
    let Ok(value) = serde_json::from_str::<Value>(text) else { return Format::Native };
    let first = |list: &Value, key: &str| list.get(0).is_some_and(|c| c.get(key).is_some());
    if value.get("contactList").is_some() {
        Format::Aws
    } else if first(&value["contacts"], "startTime") {
        Format::Hdtn
    } else if first(satnogs::list(&value), "ground_station") {
        Format::Satnogs
    } else {
        Format::Native
    }
}

fn json(text: &str, path: &str) -> Result<Value, ConfigError> {
    serde_json::from_str(text).map_err(|e| ConfigError::Parse {
        path: path.to_owned(),
        line: e.line() as u64,
        message: format!("not JSON: {e}"),
    })
}

/// A name that may be written as a number.
fn name(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn missing(key: &str, field: &str, what: &str) -> Invalid {
    Invalid::new(format!("{key}.{field}"), format!("is missing or not {what}"))
}

#[cfg(test)]
mod tests;
