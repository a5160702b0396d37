//! AWS Ground Station: the answer of `ListContacts`, as `aws groundstation list-contacts` prints it.

use std::sync::Arc;

use serde_json::Value;

use super::{Entry, Found, Reader, missing, parse_time};
use crate::config::Invalid;

/// Contacts that will happen or are happening. `AVAILABLE` ones are not booked, the others are over or will not be.
const BOOKED: [&str; 4] = ["SCHEDULED", "PREPASS", "PASS", "SCHEDULING"];

pub(super) fn read(file: &Value, reader: &Reader) -> Result<Found, Invalid> {
    let list = file["contactList"].as_array();
    let list = list.ok_or_else(|| Invalid::new("contactList", "is missing or not a list"))?;
    let mut found = Found::default();
    for (n, contact) in list.iter().enumerate() {
        let key = format!("contactList[{n}]");
        let read = one(contact, key, reader, &mut found);
        found.unless(read);
    }
    Ok(found)
}

fn one(contact: &Value, key: String, reader: &Reader, found: &mut Found) -> Result<(), Invalid> {
    let text = |field: &str| contact[field].as_str().ok_or_else(|| missing(&key, field, "text"));
    // An ARN ends in the satellite's id.
    let arn = contact["satelliteArn"].as_str().unwrap_or_default();
    let us = reader.is_us(arn) || arn.rsplit('/').next().is_some_and(|id| reader.is_us(id));
    let Some(station) = reader.station(text("groundStation")?).filter(|_| us) else {
        found.of_others(key);
        return Ok(());
    };
    // A list in which everything is cancelled or over says that nothing is booked.
    found.ours = true;
    if BOOKED.contains(&text("contactStatus")?) {
        let entry = Entry {
            station: Arc::clone(station),
            start: time(&contact["startTime"], &format!("{key}.startTime"))?,
            end: time(&contact["endTime"], &format!("{key}.endTime"))?,
            key,
            ..Entry::default()
        };
        found.entries.push(entry);
    }
    Ok(())
}

/// Text, or seconds since the Unix epoch.
fn time(value: &Value, key: &str) -> Result<u64, Invalid> {
    match value {
        Value::String(text) => parse_time(text).map_err(|message| Invalid::new(key, message)),
        other => match other.as_f64().filter(|s| (0.0..1e10).contains(s)) {
            Some(seconds) => Ok((seconds * 1e9) as u64),
            None => Err(Invalid::new(key, "is missing or not a time")),
        },
    }
}
