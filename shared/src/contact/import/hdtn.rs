//! HDTN's contact plan (`contactPlan.json`): nodes by number, times in seconds, one entry for each direction.

use serde_json::Value;

use super::{Entry, Found, Reader, missing, name};
use crate::config::Invalid;

pub(super) fn read(file: &Value, reader: &Reader) -> Result<Found, Invalid> {
    let list = file["contacts"].as_array();
    let list = list.ok_or_else(|| Invalid::new("contacts", "is missing or not a list"))?;
    let mut up = Vec::new();
    let mut found = Found::default();
    for (n, contact) in list.iter().enumerate() {
        let key = format!("contacts[{n}]");
        let node = |field: &str| name(&contact[field]).ok_or_else(|| missing(&key, field, "a node number"));
        let number =
            |field: &str| contact[field].as_f64().ok_or_else(|| missing(&key, field, "a number of seconds"));
        let (source, dest) = (node("source")?, node("dest")?);
        let start = reader.time(&format!("{key}.startTime"), number("startTime")?)?;
        let end = reader.time(&format!("{key}.endTime"), number("endTime")?)?;
        let rate = contact["rateBitsPerSec"].as_u64();
        if rate.is_none() && contact.get("rateBitsPerSec").is_some() {
            return Err(missing(&key, "rateBitsPerSec", "a number of bits per second"));
        }
        let light_time_seconds = contact["owlt"].as_f64().filter(|t| (0.0..1e6).contains(t));
        if let (true, Some(station)) = (reader.is_us(&source), reader.station(&dest)) {
            let (station, rate_down) = (station.to_owned(), rate);
            found.entries.push(Entry {
                key,
                station,
                start,
                end,
                rate_down,
                light_time_seconds,
                ..Entry::default()
            });
        } else if let (true, Some(station)) = (reader.is_us(&dest), reader.station(&source)) {
            up.push((station.to_owned(), start, end, rate));
        } else {
            found.passed_over += 1;
        }
    }
    join(&mut found, &up);
    Ok(found)
}

/// Gives each contact the rate of the way up that overlaps it.
pub(super) fn join(found: &mut Found, up: &[(String, u64, u64, Option<u64>)]) {
    for entry in &mut found.entries {
        let overlaps = |(station, start, end, _): &&(String, u64, u64, Option<u64>)| {
            *station == entry.station && *start < entry.end && entry.start < *end
        };
        entry.rate_up = up.iter().find(overlaps).and_then(|(.., rate)| *rate);
    }
    if found.entries.is_empty() {
        found.passed_over += up.len();
    }
}
