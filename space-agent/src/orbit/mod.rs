//! Contacts predicted from an orbit: SGP4 from OMMs or TLEs, and stations with their mask angles.

mod elements;
mod frames;
mod omm;
mod passes;
mod tle;

use std::cmp::Reverse;
use std::path::Path;
use std::time::Duration;

use perigee_shared::files::read_lossy;
use sgp4::{MinutesSinceEpoch, ResonanceState};

use elements::{Found, Set};

pub use passes::{Mask, Skyline};

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
    /// Reads the newest elements of `satellite` (a catalogue number or a name; may be left out when there is only one) from a
    /// file with OMMs or TLEs.
    pub fn read(path: &Path, satellite: Option<&str>) -> Result<Self, OrbitError> {
        let shown = path.display().to_string();
        let text =
            read_lossy(path, MAX_FILE).map_err(|source| OrbitError::Read { path: shown.clone(), source })?;
        Self::parse(&text, satellite, &shown)
    }

    /// Reads them from a text; `path` is only for messages.
    pub fn parse(text: &str, satellite: Option<&str>, path: &str) -> Result<Self, OrbitError> {
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
        let sets =
            choose(&found, satellite).map_err(|found| OrbitError::Satellite { path: path(), found })?;
        let mut why = String::new();
        for set in sets {
            match set.constants() {
                Ok(constants) => return Ok(Self { constants, epoch: set.epoch, name: set.shown() }),
                Err(message) if why.is_empty() => why = message,
                Err(_) => {}
            }
        }
        Err(OrbitError::Elements { path: path(), message: why })
    }

    /// How far `now` is from the elements' epoch.
    pub fn age(&self, now: u64) -> Duration {
        Duration::from_nanos(now.abs_diff(self.epoch))
    }

    fn minutes(&self, unix: f64) -> f64 {
        (unix - self.epoch as f64 / 1e9) / 60.0
    }

    /// Positions between two times (seconds).
    fn between(&self, from: f64, to: f64) -> Positions<'_> {
        let mut start = self.constants.initial_state();
        let (from, to) = (self.minutes(from), self.minutes(to));
        let nearest = if from > 0.0 { from } else { to.min(0.0) };
        if nearest != 0.0 {
            // An error comes again when the position is asked for.
            let _ = self.constants.propagate_from_state(MinutesSinceEpoch(nearest), start.as_mut(), false);
        }
        Positions { orbit: self, start }
    }
}

/// Positions of a satellite around one time.
///
/// For orbits of 12 h and 24 h SGP4 integrates from the epoch in steps of 12 h. The steps up to that time are taken once.
struct Positions<'a> {
    orbit: &'a Orbit,
    start: Option<ResonanceState>,
}

impl Positions<'_> {
    /// Where the satellite is at `unix` (seconds), in km, fixed to the Earth.
    fn at(&self, unix: f64) -> Result<frames::Vector, OrbitError> {
        let minutes = self.orbit.minutes(unix);
        // The integrator goes away from the epoch only.
        let ahead =
            |s: &ResonanceState| s.t() == 0.0 || (s.t() * minutes > 0.0 && s.t().abs() <= minutes.abs());
        let mut state = self.start.filter(ahead).or_else(|| self.orbit.constants.initial_state());
        let prediction = self
            .orbit
            .constants
            .propagate_from_state(MinutesSinceEpoch(minutes), state.as_mut(), false)
            .map_err(|e| OrbitError::Propagate { minutes, message: e.to_string() })?;
        Ok(frames::to_earth_fixed(prediction.position, unix))
    }
}

/// The sets of the satellite that is meant, the newest first, or what there is instead.
fn choose<'a>(found: &'a Found, satellite: Option<&str>) -> Result<Vec<&'a Set>, String> {
    let mut sets: Vec<&Set> =
        found.sets.iter().filter(|set| satellite.is_none_or(|wanted| set.is(wanted))).collect();
    let one = sets.first().is_some_and(|first| sets.iter().all(|set| set.same_object(first)));
    if one {
        sets.sort_by_key(|set| Reverse(set.epoch));
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
            let error = Orbit::parse(text, None, "f").map(|o| o.name).unwrap_err().to_string();
            assert!(error.starts_with("f: ") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn slow_orbits_take_few_steps_of_their_integrator_however_old_their_elements_are() {
        const YEAR: f64 = 365.25 * 86_400.0;
        let molniya = "1 08195U 75081A   06176.33215444  .00000099  00000-0  11873-3 0   813\n\
                       2 08195  64.1586 279.0717 6877146 264.7651  20.2257  2.00491383225656\n";
        let geostationary = "1 28626U 05008A   06176.46683397 -.00000205  00000-0  10000-3 0  2190\n\
                             2 28626   0.0019 286.9433 0000335  13.7918  55.6504  1.00270176  4891\n";
        let mut known = 0;
        for tle in [molniya, geostationary] {
            let orbit = Orbit::parse(tle, None, "f").unwrap();
            let epoch = orbit.epoch as f64 / 1e9;
            for years in [-36.0, -1.0, -0.01, 0.0, 0.01, 1.0, 20.0] {
                let (from, to) = (epoch + years * YEAR, epoch + years * YEAR + 15.0 * 86_400.0);
                let positions = orbit.between(from, to);
                let nearest = if years < 0.0 { to.min(epoch) } else { from };
                let start = positions.start.unwrap().t();
                assert!((start - orbit.minutes(nearest)).abs() <= 1440.0, "{years}: {start}");
                for at in [from, from + 1e4, epoch, to, to + 1e5, from - 1e5] {
                    // SGP4 has no position for Molniya orbits of some ages.
                    let direct = orbit.constants.propagate(MinutesSinceEpoch(orbit.minutes(at))).ok();
                    let expected = direct.map(|d| frames::to_earth_fixed(d.position, at));
                    assert_eq!(positions.at(at).ok(), expected, "{years} {at}");
                    known += usize::from(expected.is_some());
                }
            }
        }
        assert!(known > 60, "{known}");
    }
}
