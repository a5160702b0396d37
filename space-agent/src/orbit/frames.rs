//! From where SGP4 puts a satellite to what a station sees of it.
//!
//! SGP4's positions are in TEME (true equator, mean equinox). Turned by Greenwich mean sidereal time they are fixed to the Earth.
//! Polar motion and UT1 − UTC are left out: together they move a pass by less than 0.2 s.

use std::f64::consts::TAU;

/// A position in km.
pub(super) type Vector = [f64; 3];

/// WGS 84: the equatorial radius in km, and the flattening.
const EQUATORIAL_RADIUS: f64 = 6378.137;
const FLATTENING: f64 = 1.0 / 298.257_223_563;

/// Noon of 2000-01-01, in seconds since the Unix epoch.
const J2000: f64 = 946_728_000.0;

/// km/s
const LIGHT: f64 = 299_792.458;

/// Greenwich mean sidereal time in radians (IAU 1982), `unix` in seconds.
fn sidereal_time(unix: f64) -> f64 {
    let centuries = (unix - J2000) / (86_400.0 * 36_525.0);
    let seconds =
        67_310.548_41 + (876_600.0 * 3600.0 + 8_640_184.812_866) * centuries + 0.093_104 * centuries.powi(2)
            - 6.2e-6 * centuries.powi(3);
    (seconds / 86_400.0 * TAU).rem_euclid(TAU)
}

/// A position in TEME at `unix` (seconds), fixed to the Earth.
pub(super) fn to_earth_fixed([x, y, z]: Vector, unix: f64) -> Vector {
    let (sin, cos) = sidereal_time(unix).sin_cos();
    [cos * x + sin * y, cos * y - sin * x, z]
}

/// A place on the Earth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    position: Vector,
    /// Straight up.
    zenith: Vector,
    east: Vector,
    north: Vector,
}

/// How a satellite is seen from a place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Look {
    /// Above the horizon, in degrees.
    pub(super) elevation: f64,
    /// From north over east, in degrees from 0 to 360.
    pub(super) azimuth: f64,
    /// In seconds.
    pub(super) light_time: f64,
}

fn dot(a: Vector, b: Vector) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

impl Place {
    /// Latitude and longitude in degrees (geodetic, north and east), altitude in m above the ellipsoid.
    pub(super) fn new(latitude: f64, longitude: f64, altitude: f64) -> Self {
        let (sin_lat, cos_lat) = latitude.to_radians().sin_cos();
        let (sin_lon, cos_lon) = longitude.to_radians().sin_cos();
        let zenith = [cos_lat * cos_lon, cos_lat * sin_lon, sin_lat];
        let squeezed = (1.0 - FLATTENING).powi(2);
        let radius = EQUATORIAL_RADIUS / (cos_lat * cos_lat + squeezed * sin_lat * sin_lat).sqrt();
        let altitude = altitude / 1000.0;
        let [x, y, z] = zenith;
        let position = [(radius + altitude) * x, (radius + altitude) * y, (radius * squeezed + altitude) * z];
        let (east, north) = ([-sin_lon, cos_lon, 0.0], [-sin_lat * cos_lon, -sin_lat * sin_lon, cos_lat]);
        Self { position, zenith, east, north }
    }

    /// How a position that is fixed to the Earth is seen.
    pub(super) fn look(&self, at: Vector) -> Look {
        let [a, b] = [at, self.position];
        let way = [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
        let distance = dot(way, way).sqrt();
        Look {
            elevation: (dot(way, self.zenith) / distance).asin().to_degrees(),
            azimuth: dot(way, self.east).atan2(dot(way, self.north)).to_degrees().rem_euclid(360.0),
            light_time: distance / LIGHT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidereal_time_is_that_of_the_almanac() {
        // Meeus, Astronomical Algorithms, example 12.a: 1987-04-10 0h UT, 13h 10m 46.3668s.
        let expected = (13.0 + 10.0 / 60.0 + 46.3668 / 3600.0) / 24.0 * TAU;
        assert!((sidereal_time(545_011_200.0) - expected).abs() < 1e-8);
    }

    #[test]
    fn what_is_straight_above_is_at_90_degrees_and_the_pole_has_its_radius() {
        let pole = Place::new(90.0, 0.0, 0.0);
        assert!((pole.position[2] - 6_356.752_314).abs() < 1e-5);
        let seen = pole.look([0.0, 0.0, 6_356.752_314 + 299.792_458]);
        assert!((seen.elevation - 90.0).abs() < 1e-6 && (seen.light_time - 1e-3).abs() < 1e-9);
        let equator = Place::new(0.0, 90.0, 1000.0);
        assert!((equator.position[1] - 6379.137).abs() < 1e-9);
        assert!(equator.look([0.0, -7000.0, 0.0]).elevation < -89.9);
        for (at, azimuth) in [
            ([0.0, 6379.0, 1000.0], 0.0),
            ([-1000.0, 6379.0, 0.0], 90.0),
            ([0.0, 6379.0, -1000.0], 180.0),
            ([1000.0, 6379.0, 0.0], 270.0),
        ] {
            assert!((equator.look(at).azimuth - azimuth).abs() < 0.01, "{at:?}: {:?}", equator.look(at));
        }
    }
}
