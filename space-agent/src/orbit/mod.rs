//! Contacts predicted from an orbit: SGP4 from an OMM or a TLE, and stations with their mask angles.

mod frames;
mod passes;

use std::path::Path;
use std::time::Duration;

use perigee_shared::units::ByteSize;
use sgp4::Elements;

pub use passes::Mask;

/// An elements file holds a few satellites, not the whole catalogue.
const MAX_FILE: u64 = 1 << 20;

/// Why an orbit cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OrbitError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Neither an OMM in JSON nor a TLE.
    #[error("{path}: {message}")]
    Format {
        /// The file.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// The satellite is not in the file, or the file has several.
    #[error("{path} has {found}; set contacts.satellite to the catalogue number or the name of one of them")]
    Satellite {
        /// The file.
        path: String,
        /// Which satellites are in it.
        found: String,
    },
    /// The elements describe no orbit.
    #[error("{path}: the elements describe no orbit: {message}")]
    Elements {
        /// The file.
        path: String,
        /// Why.
        message: String,
    },
    /// SGP4 has no position, for example since the satellite has decayed.
    #[error(
        "SGP4 has no position for the satellite {minutes:.0} minutes after its elements: {message}; get new elements"
    )]
    Propagate {
        /// Minutes since the elements' epoch.
        minutes: f64,
        /// Why.
        message: String,
    },
}

/// The orbit of one satellite.
pub struct Orbit {
    constants: sgp4::Constants,
    /// Of the elements, ns since the Unix epoch.
    pub epoch: u64,
    /// The satellite's name or its catalogue number.
    pub name: String,
}

impl Orbit {
    /// Reads the elements of `satellite` (a catalogue number or a name; may be left out when there is only one) from a file
    /// with OMMs in JSON or with TLEs.
    pub fn read(path: &Path, satellite: Option<&str>) -> Result<Self, OrbitError> {
        let shown = path.display().to_string();
        let read = || {
            let length = std::fs::metadata(path)?.len();
            if length > MAX_FILE {
                let message = format!("it has {}, more than {}", ByteSize(length), ByteSize(MAX_FILE));
                return Err(std::io::Error::other(message));
            }
            std::fs::read_to_string(path)
        };
        let text = read().map_err(|source| OrbitError::Read { path: shown.clone(), source })?;
        Self::parse(&text, satellite, &shown)
    }

    fn parse(text: &str, satellite: Option<&str>, path: &str) -> Result<Self, OrbitError> {
        let path = || path.to_owned();
        let all = elements(text).map_err(|message| OrbitError::Format { path: path(), message })?;
        if all.is_empty() {
            return Err(OrbitError::Format { path: path(), message: "there are no elements in it".into() });
        }
        let is_it = |e: &&Elements| {
            satellite.is_none_or(|s| e.norad_id.to_string() == s || e.object_name.as_deref() == Some(s))
        };
        let mut chosen = all.iter().filter(is_it);
        let (Some(elements), None) = (chosen.next(), chosen.next()) else {
            let names: Vec<String> = all.iter().take(10).map(name).collect();
            let found = format!("{} satellites ({})", all.len(), names.join(", "));
            return Err(OrbitError::Satellite { path: path(), found });
        };
        let constants = sgp4::Constants::from_elements(elements)
            .map_err(|e| OrbitError::Elements { path: path(), message: e.to_string() })?;
        let epoch = elements.datetime.and_utc().timestamp_nanos_opt().and_then(|n| u64::try_from(n).ok());
        let epoch = epoch.ok_or_else(|| OrbitError::Elements {
            path: path(),
            message: "the epoch is out of bounds".into(),
        })?;
        Ok(Self { constants, epoch, name: name(elements) })
    }

    /// How far `now` is from the elements' epoch.
    pub fn age(&self, now: u64) -> Duration {
        Duration::from_nanos(now.abs_diff(self.epoch))
    }

    /// Where the satellite is at `unix` (seconds), in km, fixed to the Earth.
    fn position(&self, unix: f64) -> Result<frames::Vector, OrbitError> {
        let minutes = (unix - self.epoch as f64 / 1e9) / 60.0;
        let prediction = self
            .constants
            .propagate(sgp4::MinutesSinceEpoch(minutes))
            .map_err(|e| OrbitError::Propagate { minutes, message: e.to_string() })?;
        Ok(frames::to_earth_fixed(prediction.position, unix))
    }
}

fn name(elements: &Elements) -> String {
    match &elements.object_name {
        Some(name) => format!("{name} ({})", elements.norad_id),
        None => elements.norad_id.to_string(),
    }
}

fn elements(text: &str) -> Result<Vec<Elements>, String> {
    match text.trim_start().chars().next() {
        Some('[') => serde_json::from_str(text).map_err(|e| format!("not OMMs in JSON: {e}")),
        Some('{') => {
            serde_json::from_str(text).map(|one| vec![one]).map_err(|e| format!("not an OMM in JSON: {e}"))
        }
        Some('1') => sgp4::parse_2les(text.trim_end()).map_err(|e| format!("not TLEs: {e}")),
        Some(_) => {
            sgp4::parse_3les(text.trim_end()).map_err(|e| format!("neither OMMs in JSON nor TLEs: {e}"))
        }
        None => Err("it is empty".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TLE: &str = "1 25544U 98067A   20194.88612269 -.00002218  00000-0 -31515-4 0  9992\n\
                       2 25544  51.6461 221.2784 0001413  89.1723 280.4612 15.49507896236008\n";

    #[test]
    fn an_orbit_is_read_from_tles_with_and_without_names_and_chosen_by_number_or_name() {
        assert_eq!(Orbit::parse(TLE, None, "f").unwrap().name, "25544");
        let named = format!("ISS (ZARYA)\n{TLE}");
        let two = format!(
            "{named}OTHER\n{}",
            TLE.replace("25544", "25545").replace("9992", "9993").replace("8\n", "9\n")
        );
        assert_eq!(Orbit::parse(&named, None, "f").unwrap().name, "ISS (ZARYA) (25544)");
        for chosen in ["25544", "ISS (ZARYA)"] {
            assert_eq!(Orbit::parse(&two, Some(chosen), "f").unwrap().name, "ISS (ZARYA) (25544)");
        }
        for wrong in [None, Some("1")] {
            let error = Orbit::parse(&two, wrong, "f").map(|o| o.name).unwrap_err().to_string();
            assert!(error.contains("f has 2 satellites (ISS"), "{error}");
        }
    }

    #[test]
    fn what_is_no_orbit_is_named() {
        for (text, part) in [
            ("", "empty"),
            ("[{}]", "not OMMs"),
            ("{", "not an OMM"),
            ("1 25544U", "no elements"),
            (&TLE.replace("25544U", "25545U"), "not TLEs"),
            ("hello", "no elements"),
            ("a\nb\nc", "neither"),
        ] {
            let error = Orbit::parse(text, None, "f").map(|o| o.name).unwrap_err().to_string();
            assert!(error.starts_with("f: ") && error.contains(part), "{error}");
        }
    }
}
