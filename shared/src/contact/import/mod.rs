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
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::plan::{Keyed, Notes};
use super::{Contact, Plan, catalogue_number, shown_time};
use crate::config::{ConfigError, Invalid};
use crate::files::read_lossy;

pub use time::parse_time;

/// A plan is read as a whole: a hundred thousand contacts, and no more memory than a satellite has.
const MAX_FILE: u64 = 16 << 20;

/// bit/s. Plans write higher rates for what has no limit.
const MOST_RATE: u64 = 1_000_000_000_000;

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
    pub stations: BTreeMap<Arc<str>, StationHints>,
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
    station: Arc<str>,
    start: u64,
    end: u64,
    rate_down: Option<u64>,
    rate_up: Option<u64>,
    light_time_seconds: Option<f64>,
    guard_seconds: Option<f64>,
    byte_budget: Option<u64>,
}

/// From the satellite to a station, or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Down,
    Up,
}

/// What a file says of the link with a station for some time, beside its contacts.
struct Said<T> {
    station: Arc<str>,
    start: u64,
    end: u64,
    value: T,
}

/// What was found in a file.
#[derive(Debug, Default)]
struct Found {
    entries: Vec<Entry>,
    /// Whether the file names this satellite with one of its stations, if only to cancel a contact.
    ours: bool,
    /// How many are of others, and the first of them.
    others: usize,
    first_other: Option<String>,
    /// Entries that cannot be used, and why.
    unusable: Notes,
    first_unusable: Option<Invalid>,
}

impl Found {
    fn of_others(&mut self, key: String) {
        self.others += 1;
        self.first_other.get_or_insert(key);
    }

    fn unusable(&mut self, wrong: Invalid) {
        self.unusable.push(format!("{}: {}; skipped", wrong.key, wrong.message));
        self.first_unusable.get_or_insert(wrong);
    }

    fn unless(&mut self, read: Result<(), Invalid>) {
        if let Err(wrong) = read {
            self.unusable(wrong);
        }
    }

    /// Tells each contact the rate of the way up. A plan of ways up alone is of no use.
    fn say_rates_up(&mut self, mut up: Vec<Said<Option<u64>>>) {
        if self.entries.is_empty() {
            self.others += up.len();
        }
        self.say(&mut up, |entry, rate| entry.rate_up = *rate);
    }

    /// Tells each contact what is said for the time that it begins or, if nothing is, first in it.
    fn say<T>(&mut self, said: &mut [Said<T>], tell: impl Fn(&mut Entry, &T)) {
        self.entries.sort_by(|a, b| (&a.station, a.start).cmp(&(&b.station, b.start)));
        said.sort_by(|a, b| (&a.station, a.start).cmp(&(&b.station, b.start)));
        let mut next = 0;
        for entry in &mut self.entries {
            let over = |s: &Said<T>| (&s.station, s.end) <= (&entry.station, entry.start);
            while said.get(next).is_some_and(over) {
                next += 1;
            }
            if let Some(s) = said.get(next).filter(|s| s.station == entry.station && s.start < entry.end) {
                tell(entry, &s.value);
            }
        }
    }
}

impl Reader {
    /// Reads the plan in the file at `path`.
    pub fn read(&self, path: &Path) -> Result<Plan, ConfigError> {
        let shown = path.display().to_string();
        let text =
            read_lossy(path, MAX_FILE).map_err(|source| ConfigError::Read { path: shown.clone(), source })?;
        self.parse(&text, &shown)
    }

    /// Reads the plan in `text`; `path` is only for messages.
    ///
    /// An entry that is not of this satellite and its stations, or that cannot be used, is passed over with a warning. The plan
    /// is refused when nothing of it can be read.
    pub fn parse(&self, text: &str, path: &str) -> Result<Plan, ConfigError> {
        // The empty list ends a plan, in every format.
        if text.split_whitespace().flat_map(str::chars).eq("[]".chars()) {
            return Ok(Plan::default());
        }
        let invalid = |Invalid { key, message }| ConfigError::Invalid { path: path.to_owned(), key, message };
        let format = if self.format == Format::Auto { detect(text) } else { self.format };
        let found = match format {
            Format::Native | Format::Auto => native::read(text, path, self)?,
            Format::Ion => ion::read(text, self),
            Format::Hdtn => hdtn::read(&json(text, path)?, self).map_err(invalid)?,
            Format::Aws => aws::read(&json(text, path)?, self).map_err(invalid)?,
            Format::Satnogs => satnogs::read(&json(text, path)?, self).map_err(invalid)?,
        };
        self.plan(found).map_err(invalid)
    }

    fn plan(&self, mut found: Found) -> Result<Plan, Invalid> {
        let mut entries = std::mem::take(&mut found.entries);
        for Entry { key, start, .. } in entries.extract_if(.., |entry| entry.start >= entry.end) {
            let message = format!("must be after its start, {}", shown_time(start));
            found.unusable(Invalid::new(format!("{key}.end"), message));
        }
        if entries.is_empty() && !found.ours {
            match found.first_unusable {
                Some(first) => return Err(first),
                None if found.others > 0 => {
                    let message = format!(
                        "none of {} is of this satellite with a station of link.stations; set contacts.satellite and the stations' alias to the names in the file",
                        found.others
                    );
                    return Err(Invalid::new("contacts", message));
                }
                None => {}
            }
        }
        let mut warnings = found.unusable;
        if let Some(first) = found.first_other {
            warnings.push(format!(
                "{} of other satellites or stations skipped, the first at {first}",
                found.others
            ));
        }
        entries.sort_by_key(|entry| entry.start);
        Ok(Plan::new(entries.into_iter().map(|entry| self.contact(entry)), warnings))
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
    fn station(&self, name: &str) -> Option<&Arc<str>> {
        let alias = self.stations.iter().find(|(_, hints)| hints.alias.as_deref() == Some(name));
        alias.or_else(|| self.stations.get_key_value(name)).map(|(id, _)| id)
    }

    /// Whether others mean this satellite by `name`. Catalogue numbers may be written differently: 10 and 00010.
    fn is_us(&self, name: &str) -> bool {
        let same = |ours: &str| catalogue_number(ours).is_some_and(|n| catalogue_number(name) == Some(n));
        self.satellite.as_deref().is_none_or(|ours| ours == name || same(ours))
    }

    /// The station with which a contact from one node to another is, and which way; `None` when it is not ours.
    fn way(&self, from: &str, to: &str) -> Option<(&Arc<str>, Way)> {
        let down = self.is_us(from).then(|| self.station(to)).flatten();
        let up = self.is_us(to).then(|| self.station(from)).flatten();
        match (down, up) {
            (Some(station), None) => Some((station, Way::Down)),
            (None, Some(station)) => Some((station, Way::Up)),
            // Between two stations.
            _ => None,
        }
    }

    /// The start and the end of a contact, both in seconds since the Unix epoch or both relative to [`Reader::epoch`].
    fn times(&self, key: &str, start: f64, end: f64) -> Result<(u64, u64), Invalid> {
        // The first day of 1973: what begins three years after its epoch makes no plan.
        const FIRST_UNIX: f64 = 1e8;
        let wrong = |message: &str| Invalid::new(key, message);
        if !(0.0..1e10).contains(&start) {
            return Err(wrong("is out of bounds"));
        }
        let relative = || {
            self.epoch.ok_or_else(|| wrong("is a relative time; set contacts.epoch to what it counts from"))
        };
        let base = if start < FIRST_UNIX { relative()? } else { 0 };
        let time = |seconds: f64| base.saturating_add((seconds * 1e9) as u64);
        Ok((time(start), time(end)))
    }
}

/// What the file looks like.
fn detect(text: &str) -> Format {
    let ion = |line: &str| {
        let mut words = line.split_whitespace();
        matches!((words.next(), words.next()), (Some("a" | "c" | "d"), Some("contact" | "range")))
    };
    if !text.trim_start().starts_with(['{', '[']) {
        return if text.lines().any(ion) { Format::Ion } else { Format::Native };
    }
    let Ok(value) = serde_json::from_str::<Value>(text) else { return Format::Native };
    let any =
        |list: &Value, key: &str| list.as_array().is_some_and(|l| l.iter().any(|c| c.get(key).is_some()));
    if value.get("contactList").is_some() {
        Format::Aws
    } else if any(&value["contacts"], "startTime") {
        Format::Hdtn
    } else if value["results"].is_array() || any(&value, "ground_station") {
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
