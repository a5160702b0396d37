//! A satellite's orbit from a file of OMMs or TLEs. What follows from it is in `perigee_shared::orbit`.

mod elements;
mod omm;
#[cfg(test)]
mod passes_tests;
mod tle;

use std::cmp::Reverse;
use std::path::Path;

use perigee_shared::files::read_lossy;
use perigee_shared::orbit::{NoPosition, Orbit};

use elements::{Found, Set};

/// The active satellites of the public catalogue in its longest form, XML, are 20 MB.
pub(crate) const MAX_FILE: u64 = 32 << 20;

/// Why an orbit cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OrbitError {
    /// A bug.
    #[error("the prediction has panicked")]
    Panicked,
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Neither OMMs nor TLEs.
    #[error("{path}: {message}")]
    Format {
        /// The file.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// The satellite is not in the file, or several are meant.
    #[error("{path}: {found}; set contacts.satellite to the catalogue number or the name of one of them")]
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
    /// There is no position for a time.
    #[error(transparent)]
    Propagate(#[from] NoPosition),
}

/// Reads the newest elements of `satellite` (a catalogue number or a name; may be left out when there is only one) from a file with
/// OMMs or TLEs.
pub fn read(path: &Path, satellite: Option<&str>) -> Result<Orbit, OrbitError> {
    let shown = path.display().to_string();
    let text =
        read_lossy(path, MAX_FILE).map_err(|source| OrbitError::Read { path: shown.clone(), source })?;
    parse(&text, satellite, &shown)
}

/// Reads them from a text; `path` is only for messages.
pub fn parse(text: &str, satellite: Option<&str>, path: &str) -> Result<Orbit, OrbitError> {
    let path = || path.to_owned();
    let found = elements::read(text).map_err(|message| OrbitError::Format { path: path(), message })?;
    if let Some(first) = found.wrong.first() {
        tracing::warn!(
            file = path(),
            entries = found.wrong.len(),
            first,
            "elements that cannot be read are skipped"
        );
    }
    let sets = choose(&found, satellite).map_err(|found| OrbitError::Satellite { path: path(), found })?;
    let mut why = String::new();
    for set in sets {
        match Orbit::new(set.elements, set.shown()) {
            Ok(orbit) => return Ok(orbit),
            Err(message) if why.is_empty() => why = message,
            Err(_) => {}
        }
    }
    Err(OrbitError::Elements { path: path(), message: why })
}

/// The sets of the satellite that is meant, the newest first, or what there is instead.
fn choose<'a>(found: &'a Found, satellite: Option<&str>) -> Result<Vec<&'a Set>, String> {
    let mut sets: Vec<&Set> =
        found.sets.iter().filter(|set| satellite.is_none_or(|wanted| set.is(wanted))).collect();
    let one = sets.first().is_some_and(|first| sets.iter().all(|set| set.same_object(first)));
    if one {
        sets.sort_by_key(|set| Reverse(set.elements.epoch));
        return Ok(sets);
    }
    let several = !sets.is_empty();
    let mut names: Vec<String> =
        if several { sets } else { found.sets.iter().collect() }.into_iter().map(Set::shown).collect();
    names.sort();
    names.dedup();
    let (count, more) = (names.len(), if names.len() > 10 { ", …" } else { "" });
    names.truncate(10);
    let wanted = satellite.map_or_else(String::new, |wanted| format!("no `{wanted}` among "));
    let wanted = if several { "it has " } else { &wanted };
    let mut message = format!("{wanted}{count} satellites ({}{more})", names.join(", "));
    if let Some(first) = found.wrong.first() {
        message = format!("{message}, and {} entries that cannot be read: {first}", found.wrong.len());
    }
    Err(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TLE: &str = "1 25544U 98067A   20194.88612269 -.00002218  00000-0 -31515-4 0  9992\n\
                       2 25544  51.6461 221.2784 0001413  89.1723 280.4612 15.49507896236008\n";

    #[test]
    fn an_orbit_is_read_from_tles_with_and_without_names_and_chosen_by_number_or_name() {
        assert_eq!(parse(TLE, None, "f").unwrap().name, "25544");
        let named = format!("ISS (ZARYA)\n{TLE}");
        let two = format!(
            "{named}OTHER\n{}",
            TLE.replace("25544", "25545").replace("9992", "9993").replace("8\n", "9\n")
        );
        assert_eq!(parse(&named, None, "f").unwrap().name, "ISS (ZARYA) (25544)");
        for chosen in ["25544", "ISS (ZARYA)"] {
            assert_eq!(parse(&two, Some(chosen), "f").unwrap().name, "ISS (ZARYA) (25544)");
        }
        for wrong in [None, Some("1")] {
            let error = parse(&two, wrong, "f").map(|o| o.name).unwrap_err().to_string();
            let part = if wrong.is_some() {
                "f: no `1` among 2 satellites (ISS"
            } else {
                "f: it has 2 satellites (ISS"
            };
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_is_no_orbit_is_named() {
        for (text, part) in [
            ("", "empty"),
            ("[{}]", "[0]: not an OMM: EPOCH"),
            ("{", "not an OMM"),
            ("1 25544U", "no elements"),
            (&TLE.replace("25544U", "25545U"), "not a TLE"),
            ("hello", "no elements"),
            ("a\nb\nc", "neither"),
        ] {
            let error = parse(text, None, "f").map(|o| o.name).unwrap_err().to_string();
            assert!(error.starts_with("f: ") && error.contains(part), "{error}");
        }
    }
}
