//! SatNOGS: observations of the network's API, a list or a page of one (`results`).

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
        let key = format!("[{n}]");
        let time = |field: &str| {
            let text = observation[field].as_str().ok_or_else(|| missing(&key, field, "a time"))?;
            parse_time(text).map_err(|message| Invalid::new(format!("{key}.{field}"), message))
        };
        let station = name(&observation["ground_station"])
            .ok_or_else(|| missing(&key, "ground_station", "the number of a station"))?;
        let satellite = ["norad", "norad_cat_id"].into_iter().find_map(|field| name(&observation[field]));
        let us = reader.satellite.is_none() || satellite.is_some_and(|s| reader.is_us(&s));
        match reader.station(&station).filter(|_| us) {
            Some(station) => found.entries.push(Entry {
                station: station.to_owned(),
                start: time("start")?,
                end: time("end")?,
                key,
                ..Entry::default()
            }),
            None => found.passed_over += 1,
        }
    }
    Ok(found)
}
