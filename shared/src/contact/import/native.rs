//! Perigee's own plan file: YAML, or JSON, which is YAML; the list may stand alone.

use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

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
    match list::<Written>(text, path, config::stream, config::stream) {
        Ok(contacts) => {
            found.entries.reserve_exact(contacts.len());
            for (n, written) in contacts.into_iter().enumerate() {
                found.contact(n, written, reader);
            }
        }
        Err(error) => {
            // One entry may be wrong alone. When none is right, the error of the whole names the line.
            let repeats = config::stream_with_repeats;
            let contacts =
                list::<Loose>(text, path, repeats, config::stream_with_repeats).map_err(|_| error)?;
            for (n, contact) in contacts.into_iter().enumerate() {
                let written = contact.0.and_then(|fields| {
                    serde_json::from_value(as_text(fields)).map_err(|error| error.to_string())
                });
                match written {
                    Ok(written) => found.contact(n, written, reader),
                    Err(message) => found.unusable(Invalid::new(key(n), message)),
                }
            }
        }
    }
    Ok(found)
}

/// The fields of an entry, or why they are none.
struct Loose(Result<Map<String, Value>, String>);

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Loosely)
    }
}

struct Loosely;

impl<'de> Visitor<'de> for Loosely {
    type Value = Loose;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an entry")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Loose, A::Error> {
        let (mut fields, mut twice) = (Map::new(), None);
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            if fields.contains_key(&key) {
                twice = Some(format!("the key `{key}` is there twice"));
            }
            fields.insert(key, value);
        }
        Ok(Loose(twice.map_or(Ok(fields), Err)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Loose, A::Error> {
        while list.next_element::<serde::de::IgnoredAny>()?.is_some() {}
        Ok(Loose::none())
    }

    fn visit_str<E>(self, _: &str) -> Result<Loose, E> {
        Ok(Loose::none())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Loose, E> {
        Ok(Loose::none())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Loose, E> {
        Ok(Loose::none())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Loose, E> {
        Ok(Loose::none())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Loose, E> {
        Ok(Loose::none())
    }

    fn visit_unit<E>(self) -> Result<Loose, E> {
        Ok(Loose::none())
    }
}

impl Loose {
    fn none() -> Self {
        Self(Err("it is no contact with station, start and end".to_owned()))
    }
}

/// How a file is read.
type Stream<T> = fn(&str, &str) -> Result<T, ConfigError>;

fn list<T: DeserializeOwned>(
    text: &str,
    path: &str,
    stream: Stream<Vec<T>>,
    stream_file: Stream<File<T>>,
) -> Result<Vec<T>, ConfigError> {
    let begins = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with(['#', '%']) && *line != "---");
    if begins.is_some_and(|line| line.starts_with('[') || line.starts_with("- ") || line == "-") {
        return stream(text, path);
    }
    stream_file(text, path).map(|file| file.contacts)
}

fn key(n: usize) -> String {
    format!("contacts[{n}]")
}

/// An entry with its numbers as text, as every field is read.
fn as_text(mut fields: Map<String, Value>) -> Value {
    for value in fields.values_mut() {
        if let Value::Number(number) = value {
            *value = Value::String(number.to_string());
        }
    }
    Value::Object(fields)
}

impl Found {
    fn contact(&mut self, n: usize, written: Written, reader: &Reader) {
        let Some(station) = reader.station(&written.station) else {
            let message = format!("link.stations has no `{}`", written.station);
            return self.unusable(Invalid::new(format!("{}.station", key(n)), message));
        };
        self.entries.push(Entry {
            key: key(n),
            station: Arc::clone(station),
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
