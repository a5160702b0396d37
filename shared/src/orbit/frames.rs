//! From where SGP4 puts a satellite to what a station sees of it.
//!
//! SGP4's positions are in TEME (true equator, mean equinox). Turned by Greenwich mean sidereal time they are fixed to the Earth.
//! Polar motion and UT1 − UTC are left out: together they move a pass by less than 0.2 s.

use std::f64::consts::TAU;

/// A position in km.
pub type Vector = [f64; 3];

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

/// What lies straight below a position that is fixed to the Earth: geodetic latitude and longitude in degrees, north and east, and the
/// height above the ellipsoid in km.
pub fn below([x, y, z]: Vector) -> [f64; 3] {
    let e2 = FLATTENING * (2.0 - FLATTENING);
    let across = x.hypot(y);
    let (mut latitude, mut normal) = (z.atan2(across * (1.0 - e2)), EQUATORIAL_RADIUS);
    // Each round brings three digits more.
    for _ in 0..5 {
        normal = EQUATORIAL_RADIUS / (1.0 - e2 * latitude.sin().powi(2)).sqrt();
        latitude = (z + e2 * normal * latitude.sin()).atan2(across);
    }
    // Of both forms of the height this one holds at the poles too.
    let (sin, cos) = latitude.sin_cos();
    let height = across * cos + z * sin - normal * (1.0 - e2 * sin * sin);
    [latitude.to_degrees(), y.atan2(x).to_degrees(), height]
}

/// A place on the Earth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    position: Vector,
    /// Straight up.
    zenith: Vector,
    east: Vector,
    north: Vector,
}

/// How a satellite is seen from a place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Look {
    /// Above the horizon, in degrees.
    pub elevation: f64,
    /// From north over east, in degrees from 0 to 360.
    pub azimuth: f64,
    /// In seconds.
    pub light_time: f64,
}

fn dot(a: Vector, b: Vector) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

impl Place {
    /// Latitude and longitude in degrees (geodetic, north and east), altitude in m above the ellipsoid.
    pub fn new(latitude: f64, longitude: f64, altitude: f64) -> Self {
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
    pub fn look(&self, at: Vector) -> Look {
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
    fn what_is_below_a_place_in_the_sky_is_the_place() {
        for (latitude, longitude, height) in [
            (78.2, 15.4, 520.0),
            (-33.9, -70.7, 35_786.0),
            (0.0, 180.0, 400.0),
            (-90.0, 0.0, 800.0),
            (89.999, -1.0, 1.0),
        ] {
            let [north, east, above] = below(Place::new(latitude, longitude, height * 1000.0).position);
            assert!((north - latitude).abs() < 1e-8 && (above - height).abs() < 1e-6, "{north} {above}");
            assert!(latitude == -90.0 || (east - longitude).abs() < 1e-8, "{east}");
        }
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
