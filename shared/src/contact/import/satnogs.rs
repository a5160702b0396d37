//! SatNOGS: observations and jobs of the network's API, a list or a page of one (`results`).

use std::sync::Arc;

use serde_json::Value;

use super::{Entry, Found, Reader, missing, name, parse_time};
use crate::config::Invalid;

/// The list of observations in an answer.
pub(super) fn list(file: &Value) -> &Value {
    if file.is_array() { file } else { &file["results"] }
}

pub(super) fn read(file: &Value, reader: &Reader) -> Result<Found, Invalid> {
    let list = list(file).as_array();
    let list =
        list.ok_or_else(|| Invalid::new("results", "is missing; the file is no list of observations"))?;
    let mut found = Found::default();
    for (n, observation) in list.iter().enumerate() {
        let read = one(observation, format!("[{n}]"), reader, &mut found);
        found.unless(read);
    }
    Ok(found)
}

fn one(observation: &Value, key: String, reader: &Reader, found: &mut Found) -> Result<(), Invalid> {
    let station = name(&observation["ground_station"])
        .ok_or_else(|| missing(&key, "ground_station", "the number of a station"))?;
    let us = reader.satellite.is_none() || satellites(observation).iter().any(|s| reader.is_us(s));
    let Some(station) = reader.station(&station).filter(|_| us) else {
        found.of_others(key);
        return Ok(());
    };
    let time = |field: &str| {
        let text = observation[field].as_str().ok_or_else(|| missing(&key, field, "a time"))?;
        parse_time(text).map_err(|message| Invalid::new(format!("{key}.{field}"), message))
    };
    let entry = Entry {
        station: Arc::clone(station),
        start: time("start")?,
        end: time("end")?,
        key,
        ..Entry::default()
    };
    found.entries.push(entry);
    Ok(())
}

/// What an observation calls its satellite. In a job the catalogue number is in the first line of the elements alone.
fn satellites(observation: &Value) -> Vec<String> {
    let fields = ["norad", "norad_cat_id", "sat_id"].map(|field| name(&observation[field]));
    let tle = |line: &str| observation[line].as_str();
    let number = tle("tle1").and_then(|line| line.get(2..7)).map(|number| number.trim().to_owned());
    let title = tle("tle0").map(|line| line.strip_prefix("0 ").unwrap_or(line).trim().to_owned());
    fields.into_iter().chain([number, title]).flatten().collect()
}
