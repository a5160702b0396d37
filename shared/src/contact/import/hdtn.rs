//! HDTN's contact plan (`contactPlan.json`): nodes by number, times in seconds, one entry for each direction. HDTN itself takes
//! any number as text too, and a rate of 0 as no limit.

use std::sync::Arc;

use serde_json::Value;

use super::{Entry, Found, MOST_RATE, Reader, Said, Way, missing, name};
use crate::config::Invalid;

pub(super) fn read(file: &Value, reader: &Reader) -> Result<Found, Invalid> {
    let list = file["contacts"].as_array();
    let list = list.ok_or_else(|| Invalid::new("contacts", "is missing or not a list"))?;
    let mut up = Vec::new();
    let mut found = Found::default();
    for (n, contact) in list.iter().enumerate() {
        let read = one(contact, format!("contacts[{n}]"), reader, &mut found, &mut up);
        found.unless(read);
    }
    found.say_rates_up(up);
    Ok(found)
}

fn number(value: &Value) -> Option<f64> {
    let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
    number.filter(|n| n.is_finite())
}

fn one(
    contact: &Value,
    key: String,
    reader: &Reader,
    found: &mut Found,
    up: &mut Vec<Said<Option<u64>>>,
) -> Result<(), Invalid> {
    let node = |field: &str| name(&contact[field]).ok_or_else(|| missing(&key, field, "a node number"));
    let (source, dest) = (node("source")?, node("dest")?);
    if source == dest {
        // A node that reaches itself reaches no station.
        found.ours |= reader.is_us(&source) && reader.station(&dest).is_some();
        return Ok(());
    }
    let Some((station, way)) = reader.way(&source, &dest) else {
        found.of_others(key);
        return Ok(());
    };
    let seconds =
        |field: &str| number(&contact[field]).ok_or_else(|| missing(&key, field, "a number of seconds"));
    let (start, end) =
        reader.times(&format!("{key}.startTime"), seconds("startTime")?, seconds("endTime")?)?;
    let rate = rate(contact, &key)?;
    let station = Arc::clone(station);
    match way {
        Way::Up => up.push(Said { station, start, end, value: rate }),
        Way::Down => found.entries.push(Entry {
            key,
            station,
            start,
            end,
            rate_down: rate,
            light_time_seconds: number(&contact["owlt"]).filter(|t| (0.0..1e6).contains(t)),
            ..Entry::default()
        }),
    }
    Ok(())
}

/// bit/s; `None` when there is no limit. Earlier versions write `rate`, in Mbit/s.
fn rate(contact: &Value, key: &str) -> Result<Option<u64>, Invalid> {
    let known =
        [("rateBitsPerSec", 1.0), ("rate", 1e6)].into_iter().find(|(field, _)| !contact[*field].is_null());
    let Some((field, factor)) = known else { return Ok(None) };
    let rate = number(&contact[field]).filter(|rate| *rate >= 0.0);
    let rate = rate.ok_or_else(|| missing(key, field, "a rate"))?;
    Ok(Some((rate * factor) as u64).filter(|rate| *rate > 0).map(|rate| rate.min(MOST_RATE)))
}
