//! Perigee's own plan file: YAML, or JSON, which is YAML.

use serde::Deserialize;

use super::{Entry, Found, Reader};
use crate::config::{self, ConfigError};
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
struct File {
    contacts: Vec<Written>,
}

pub(super) fn read(text: &str, path: &str, reader: &Reader) -> Result<Found, ConfigError> {
    let file: File = config::parse(text, path, |_| None)?;
    let mut found = Found::default();
    for (n, written) in file.contacts.into_iter().enumerate() {
        let key = format!("contacts[{n}]");
        let Some(station) = reader.station(&written.station) else {
            return Err(ConfigError::Invalid {
                path: path.to_owned(),
                key: format!("{key}.station"),
                message: format!("link.stations has no `{}`", written.station),
            });
        };
        found.entries.push(Entry {
            key,
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
    Ok(found)
}
