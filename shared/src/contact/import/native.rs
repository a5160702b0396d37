//! Perigee's own plan file: YAML, or JSON, which is YAML; the list may stand alone.

use serde::Deserialize;
use serde_json::Value;

use super::{Entry, Found, Reader};
use crate::config::{self, ConfigError, Invalid};
use crate::contact::{Rate, Time};
use crate::units::{ByteSize, Span};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    station: String,
    start: Time,
    end: Time,
    rate_down: Option<Rate>,
    rate_up: Option<Rate>,
    light_time: Option<Span>,
    guard: Option<Span>,
    byte_budget: Option<ByteSize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File<T> {
    contacts: Vec<T>,
}

pub(super) fn read(text: &str, path: &str, reader: &Reader) -> Result<Found, ConfigError> {
    let mut found = Found::default();
    match list::<Written>(text, path) {
        Ok(contacts) => {
            for (n, written) in contacts.into_iter().enumerate() {
                found.contact(n, written, reader);
            }
        }
        Err(error) => {
            // One entry may be wrong alone. When none is right, the error of the whole names the line.
            let contacts = list::<Value>(text, path).map_err(|_| error)?;
            for (n, contact) in contacts.into_iter().enumerate() {
                match serde_json::from_value(as_text(contact)) {
                    Ok(written) => found.contact(n, written, reader),
                    Err(error) => found.unusable(Invalid::new(key(n), error.to_string())),
                }
            }
        }
    }
    Ok(found)
}

fn list<T: serde::de::DeserializeOwned>(text: &str, path: &str) -> Result<Vec<T>, ConfigError> {
    let begins = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with(['#', '%']) && *line != "---");
    if begins.is_some_and(|line| line.starts_with('[') || line.starts_with("- ") || line == "-") {
        return config::stream(text, path);
    }
    config::stream::<File<T>>(text, path).map(|file| file.contacts)
}

fn key(n: usize) -> String {
    format!("contacts[{n}]")
}

/// An entry with its numbers as text, as every field is read.
fn as_text(mut contact: Value) -> Value {
    for value in contact.as_object_mut().into_iter().flat_map(|fields| fields.values_mut()) {
        if let Value::Number(number) = value {
            *value = Value::String(number.to_string());
        }
    }
    contact
}

impl Found {
    fn contact(&mut self, n: usize, written: Written, reader: &Reader) {
        let Some(station) = reader.station(&written.station) else {
            let message = format!("link.stations has no `{}`", written.station);
            return self.unusable(Invalid::new(format!("{}.station", key(n)), message));
        };
        self.entries.push(Entry {
            key: key(n),
            station: station.to_owned(),
            start: written.start.0,
            end: written.end.0,
            rate_down: written.rate_down.map(|r| r.0),
            rate_up: written.rate_up.map(|r| r.0),
            light_time_seconds: written.light_time.map(|t| t.0.as_secs_f64()),
            guard_seconds: written.guard.map(|g| g.0.as_secs_f64()),
            byte_budget: written.byte_budget.map(|b| b.0),
        });
    }
}
