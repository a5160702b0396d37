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
        Self { position, zenith }
    }

    /// The elevation in degrees of a position that is fixed to the Earth, and the light time from there in seconds.
    pub(super) fn look(&self, at: Vector) -> (f64, f64) {
        let [a, b] = [at, self.position];
        let way = [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
        let distance = dot(way, way).sqrt();
        ((dot(way, self.zenith) / distance).asin().to_degrees(), distance / LIGHT)
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
        let (elevation, light_time) = pole.look([0.0, 0.0, 6_356.752_314 + 299.792_458]);
        assert!((elevation - 90.0).abs() < 1e-6 && (light_time - 1e-3).abs() < 1e-9);
        let equator = Place::new(0.0, 90.0, 1000.0);
        assert!((equator.position[1] - 6379.137).abs() < 1e-9);
        assert!(equator.look([0.0, -7000.0, 0.0]).0 < -89.9);
    }
}
