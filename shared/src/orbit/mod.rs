//! Orbits: SGP4 from mean elements, what lies below a satellite, and when a station sees it. The agent predicts its contacts with it, the
//! ground draws the track of the next one.

mod frames;
mod passes;

use std::f64::consts::PI;
use std::time::Duration;

use sgp4::{MinutesSinceEpoch, ResonanceState};

pub use self::frames::{Look, Place, Vector, below};
pub use self::passes::{Mask, Skyline, SkylinePoint};

/// The mean elements of a satellite at one time, for SGP4.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Elements {
    /// ns since the Unix epoch.
    pub epoch: u64,
    /// Revolutions a day.
    pub mean_motion: f64,
    /// From 0 to 1.
    pub eccentricity: f64,
    /// The inclination, the right ascension of the ascending node, the argument of perigee and the mean anomaly, in degrees.
    pub angles: [f64; 4],
    /// B*, in 1 / Earth radii.
    pub drag: f64,
}

impl Elements {
    /// The same, if they can be those of a satellite of the Earth.
    pub fn checked(self) -> Result<Self, String> {
        if !(0.0..1.0).contains(&self.eccentricity) {
            return Err(format!("the eccentricity is {}, not from 0 to 1", self.eccentricity));
        }
        // Below 17.5 the orbit is above the ground.
        if !(1e-3..17.5).contains(&self.mean_motion) {
            return Err(format!("{} revolutions a day are no orbit around the Earth", self.mean_motion));
        }
        if !self.angles.iter().chain([&self.drag]).all(|n| n.is_finite()) {
            return Err("an angle or B* is not a number".to_owned());
        }
        Ok(self)
    }

    fn constants(&self) -> Result<sgp4::Constants, String> {
        /// Noon of 2000-01-01, in seconds since the Unix epoch, and the seconds of a Julian year.
        const J2000: f64 = 946_728_000.0;
        const YEAR: f64 = 86_400.0 * 365.25;
        let [inclination, node, perigee, anomaly] = self.angles.map(f64::to_radians);
        let motion = self.mean_motion * PI / 720.0;
        let orbit = sgp4::Orbit::from_kozai_elements(
            &sgp4::WGS84,
            inclination,
            node,
            self.eccentricity,
            perigee,
            anomaly,
            motion,
        );
        let orbit = orbit.map_err(|e| e.to_string())?;
        let years = (self.epoch as f64 / 1e9 - J2000) / YEAR;
        let time = sgp4::iau_epoch_to_sidereal_time;
        sgp4::Constants::new(sgp4::WGS84, time, years, self.drag, orbit).map_err(|e| e.to_string())
    }
}

/// SGP4 has no position, for example since the satellite has decayed.
#[derive(Debug, thiserror::Error)]
#[error(
    "SGP4 has no position for the satellite {minutes:.0} minutes after its elements: {message}; get new elements"
)]
pub struct NoPosition {
    /// Minutes since the elements' epoch.
    pub minutes: f64,
    /// Why.
    pub message: String,
}

/// The orbit of one satellite.
pub struct Orbit {
    constants: sgp4::Constants,
    /// From where it is known.
    pub elements: Elements,
    /// The satellite's name or its catalogue number.
    pub name: String,
}

impl Orbit {
    /// The orbit of the satellite `name` by these elements.
    pub fn new(elements: Elements, name: String) -> Result<Self, String> {
        let elements = elements.checked()?;
        Ok(Self { constants: elements.constants()?, elements, name })
    }

    /// How far `now` is from the elements' epoch.
    pub fn age(&self, now: u64) -> Duration {
        Duration::from_nanos(now.abs_diff(self.elements.epoch))
    }

    fn minutes(&self, unix: f64) -> f64 {
        (unix - self.elements.epoch as f64 / 1e9) / 60.0
    }

    /// Positions between two times (seconds).
    pub fn between(&self, from: f64, to: f64) -> Positions<'_> {
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
pub struct Positions<'a> {
    orbit: &'a Orbit,
    start: Option<ResonanceState>,
}

impl Positions<'_> {
    /// Where the satellite is at `unix` (seconds), in km, fixed to the Earth.
    pub fn at(&self, unix: f64) -> Result<Vector, NoPosition> {
        let minutes = self.orbit.minutes(unix);
        // The integrator goes away from the epoch only.
        let ahead =
            |s: &ResonanceState| s.t() == 0.0 || (s.t() * minutes > 0.0 && s.t().abs() <= minutes.abs());
        let mut state = self.start.filter(ahead).or_else(|| self.orbit.constants.initial_state());
        let prediction = self
            .orbit
            .constants
            .propagate_from_state(MinutesSinceEpoch(minutes), state.as_mut(), false)
            .map_err(|e| NoPosition { minutes, message: e.to_string() })?;
        Ok(frames::to_earth_fixed(prediction.position, unix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The orbit that two lines describe.
    fn orbit(tle: &str) -> Orbit {
        let (first, second) = tle.split_once('\n').unwrap();
        let e = sgp4::Elements::from_tle(None, first.as_bytes(), second.as_bytes()).unwrap();
        let elements = Elements {
            epoch: e.datetime.and_utc().timestamp_nanos_opt().unwrap() as u64,
            mean_motion: e.mean_motion,
            eccentricity: e.eccentricity,
            angles: [e.inclination, e.right_ascension, e.argument_of_perigee, e.mean_anomaly],
            drag: e.drag_term,
        };
        Orbit::new(elements, e.norad_id.to_string()).unwrap()
    }

    #[test]
    fn slow_orbits_take_few_steps_of_their_integrator_however_old_their_elements_are() {
        const YEAR: f64 = 365.25 * 86_400.0;
        let molniya = "1 08195U 75081A   06176.33215444  .00000099  00000-0  11873-3 0   813\n\
                       2 08195  64.1586 279.0717 6877146 264.7651  20.2257  2.00491383225656";
        let geostationary = "1 28626U 05008A   06176.46683397 -.00000205  00000-0  10000-3 0  2190\n\
                             2 28626   0.0019 286.9433 0000335  13.7918  55.6504  1.00270176  4891";
        let mut known = 0;
        for tle in [molniya, geostationary] {
            let orbit = orbit(tle);
            let epoch = orbit.elements.epoch as f64 / 1e9;
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

    #[test]
    fn what_is_no_orbit_is_refused() {
        let iss = Elements {
            epoch: 1_594_502_161_002_016_000,
            mean_motion: 15.495_078_96,
            eccentricity: 0.000_141_3,
            angles: [51.6461, 221.2784, 89.1723, 280.4612],
            drag: -0.31515e-4,
        };
        assert!(Orbit::new(iss, String::new()).is_ok());
        for wrong in [
            Elements { eccentricity: 1.0, ..iss },
            Elements { eccentricity: f64::NAN, ..iss },
            Elements { mean_motion: 0.0, ..iss },
            Elements { mean_motion: f64::INFINITY, ..iss },
            Elements { angles: [f64::NAN, 0.0, 0.0, 0.0], ..iss },
            Elements { drag: f64::NEG_INFINITY, ..iss },
        ] {
            assert!(Orbit::new(wrong, String::new()).is_err(), "{wrong:?}");
        }
    }
}
