//! Files of elements as CelesTrak, Space-Track and SatNOGS write them: TLEs with and without names, and OMMs (CCSDS 502.0-B) in
//! JSON, CSV, XML and KVN.
//!
//! What cannot be read of a file costs itself alone: it is left out, and said.

use std::borrow::Cow;
use std::collections::BTreeMap;

use perigee_shared::contact::{Notes, catalogue_number, parse_time};
use perigee_shared::orbit::Elements;

use super::{omm, tle};

/// Why elements cannot be used.
pub(super) type Wrong = String;

/// The mean elements of one satellite at one time, and whose they are.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Set {
    /// The catalogue number; `None` for an object that has none yet.
    pub(super) number: Option<u64>,
    pub(super) name: Option<String>,
    pub(super) elements: Elements,
}

/// The fields of an OMM by their keywords.
pub(super) type Fields = BTreeMap<String, String>;

/// What was found in a file.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) sets: Vec<Set>,
    /// What could not be read, and where.
    pub(super) wrong: Notes,
}

impl Found {
    pub(super) fn add(&mut self, place: &str, set: Result<Set, Wrong>) {
        match set {
            Ok(set) => self.sets.push(set),
            Err(wrong) => self.wrong.push(format!("{place}: {wrong}")),
        }
    }
}

/// Reads the elements in `text`; the format is found out.
pub(super) fn read(text: &str) -> Result<Found, Wrong> {
    // Lines may end in CR alone, and tabs stand for blanks.
    let ends_in_cr = text.split('\r').skip(1).any(|rest| !rest.starts_with('\n'));
    let text = match ends_in_cr || text.contains('\t') {
        true => Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n").replace('\t', " ")),
        false => Cow::Borrowed(text),
    };
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let mut found = Found::default();
    let title = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    match (text.chars().next(), title) {
        (None, _) => return Err("it is empty".into()),
        (Some('[' | '{'), _) => omm::json(text, &mut found)?,
        (Some('<'), _) => omm::xml(text, &mut found),
        (_, Some(line)) if line.starts_with("CCSDS_OMM_VERS") => omm::kvn(text, &mut found),
        (_, Some(line)) if line.contains(',') && line.to_ascii_uppercase().contains("EPOCH") => {
            omm::csv(text, &mut found);
        }
        _ => tle::read(text, &mut found),
    }
    match (found.sets.is_empty(), found.wrong.first()) {
        (false, _) => Ok(found),
        (true, Some(wrong)) => Err(wrong.to_owned()),
        (true, None) => Err("there are no elements in it, neither OMMs nor TLEs".into()),
    }
}

/// A field that says something.
fn said<'a>(fields: &'a Fields, key: &str) -> Option<&'a str> {
    fields.get(key).map(|value| value.trim()).filter(|value| !value.is_empty())
}

fn number(fields: &Fields, key: &str) -> Result<f64, Wrong> {
    let text = said(fields, key).ok_or_else(|| format!("{key} is missing"))?;
    // KVN may say the unit.
    let digits = text.split_once('[').map_or(text, |(digits, _)| digits.trim());
    let number: Option<f64> = digits.parse().ok().filter(|n: &f64| n.is_finite());
    number.ok_or_else(|| format!("{key} is `{text}`, not a number"))
}

impl Set {
    /// The elements of an OMM. What SGP4 does without may be absent.
    pub(super) fn from_omm(fields: &Fields) -> Result<Self, Wrong> {
        let theory = said(fields, "MEAN_ELEMENT_THEORY").unwrap_or("SGP4");
        let kind = said(fields, "EPHEMERIS_TYPE").unwrap_or("0");
        if !theory.contains("SGP") || theory.contains("XP") || kind == "4" {
            return Err(format!("the elements are for {theory}, ephemeris type {kind}, not for SGP4"));
        }
        let epoch = said(fields, "EPOCH").ok_or("EPOCH is missing")?;
        let number_or_none = said(fields, "NORAD_CAT_ID").map(|text| {
            catalogue_number(text).ok_or_else(|| format!("NORAD_CAT_ID is `{text}`, not a catalogue number"))
        });
        Ok(Self {
            number: number_or_none.transpose()?.filter(|number| *number != 0),
            name: said(fields, "OBJECT_NAME").map(str::to_owned),
            elements: Elements {
                epoch: parse_time(epoch).map_err(|why| format!("EPOCH: {why}"))?,
                mean_motion: number(fields, "MEAN_MOTION")?,
                eccentricity: number(fields, "ECCENTRICITY")?,
                angles: [
                    number(fields, "INCLINATION")?,
                    number(fields, "RA_OF_ASC_NODE")?,
                    number(fields, "ARG_OF_PERICENTER")?,
                    number(fields, "MEAN_ANOMALY")?,
                ],
                // Without it there is no drag: the passes drift by seconds a day.
                drag: said(fields, "BSTAR").map_or(Ok(0.0), |_| number(fields, "BSTAR"))?,
            }
            .checked()?,
        })
    }

    /// The elements of a TLE, with the name that stands above it.
    pub(super) fn from_tle(elements: &sgp4::Elements, name: Option<&str>) -> Result<Self, Wrong> {
        let e = elements;
        let epoch = e.datetime.and_utc().timestamp_nanos_opt();
        Ok(Self {
            number: Some(e.norad_id),
            name: name.map(str::to_owned),
            elements: Elements {
                epoch: epoch.and_then(|nano| u64::try_from(nano).ok()).ok_or("the epoch is before 1970")?,
                mean_motion: e.mean_motion,
                eccentricity: e.eccentricity,
                angles: [e.inclination, e.right_ascension, e.argument_of_perigee, e.mean_anomaly],
                drag: e.drag_term,
            }
            .checked()?,
        })
    }

    /// The name and the number for people.
    pub(super) fn shown(&self) -> String {
        match (&self.name, self.number) {
            (Some(name), Some(number)) => format!("{name} ({number})"),
            (Some(name), None) => name.clone(),
            (None, Some(number)) => number.to_string(),
            (None, None) => "an object without a name".to_owned(),
        }
    }

    /// Whether `wanted` is its number, as a number or as printed, or its name.
    pub(super) fn is(&self, wanted: &str) -> bool {
        let wanted = wanted.trim();
        let name = wanted.strip_prefix("0 ").unwrap_or(wanted).trim();
        (self.number.is_some() && self.number == catalogue_number(wanted))
            || self.name.as_deref() == Some(name)
    }

    /// Whether both are of one object.
    pub(super) fn same_object(&self, other: &Self) -> bool {
        self.number == other.number && (self.number.is_some() || self.name == other.name)
    }
}

#[cfg(test)]
mod tests;
