//! Satellites' clocks against this station's, from what each Hello says of them.
//!
//! A Hello was written half a round trip before it came, give or take as much: that is the error. An offset is by the wall clock; drift is by
//! the clock that nobody sets, over the time since the satellite was heard first in the same boot.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perigee_proto::link::{self, ground_message};
use perigee_shared::env::Env;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;

/// Less time between two Hellos says nothing of drift.
const LEAST: Duration = Duration::from_secs(60);

/// Of a satellite's own words so many characters are shown.
const SHOWN: usize = 200;

/// A satellite's clock, as it was heard last.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ClockView {
    /// When that was by this station's clock, ns since the Unix epoch.
    pub heard_unix_nano: u64,
    /// By how much its wall clock was ahead.
    pub offset_seconds: f64,
    /// Uncertainty of that offset.
    pub error_seconds: f64,
    /// By how much its clock gains, in parts per million, and by how much that may be wrong; `None` before there is enough to say.
    pub drift_ppm: Option<[f64; 2]>,
    /// Why its wall clock cannot be right, in its own words; empty: it is trusted.
    pub untrusted: String,
}

/// The clock that nobody sets, on both sides at one moment.
#[derive(Debug, Clone, Copy)]
struct Pair {
    satellite: u64,
    station: u64,
    error: Duration,
}

#[derive(Debug)]
struct Known {
    boot: u64,
    /// When it was heard first in this boot.
    first: Pair,
    view: ClockView,
}

impl Known {
    /// Takes in what a satellite has said of its clocks, `arrived` at this station's times since 1970 and since boot.
    fn hear(before: Option<Self>, clock: &link::Clock, arrived: (u64, u64), round_trip: Duration) -> Self {
        let (wall, since_boot) = arrived;
        let error = round_trip / 2;
        let offset = i128::from(clock.unix_nano) + error.as_nanos() as i128 - i128::from(wall);
        let now = Pair { satellite: clock.since_boot_nano, station: since_boot, error };
        let first = before.filter(|b| b.boot == clock.boot_id).map_or(now, |b| b.first);
        let view = ClockView {
            heard_unix_nano: wall,
            offset_seconds: offset as f64 / 1e9,
            error_seconds: error.as_secs_f64(),
            drift_ppm: drift(&first, &now),
            untrusted: clock.untrusted.chars().take(SHOWN).collect(),
        };
        Self { boot: clock.boot_id, first, view }
    }
}

/// By how much the satellite's clock gains between two moments, in parts per million, and by how much that may be wrong.
fn drift(first: &Pair, now: &Pair) -> Option<[f64; 2]> {
    let here = now.station.checked_sub(first.station).filter(|n| Duration::from_nanos(*n) >= LEAST)? as f64;
    let there = now.satellite.checked_sub(first.satellite)? as f64;
    let error = (now.error + first.error).as_nanos() as f64;
    Some([(there - here) / here * 1e6, error / here * 1e6])
}

/// What is known of satellites' clocks since the start. Clones know the same.
#[derive(Clone)]
pub struct Clocks {
    env: Env,
    known: Arc<Mutex<BTreeMap<Arc<str>, Known>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSatellite {
    satellite: String,
}

impl Clocks {
    /// Nothing was heard yet.
    pub(super) fn new(env: &Env) -> Self {
        Self { env: env.clone(), known: Arc::default() }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This station's clock, ns since the Unix epoch.
    pub(super) fn now(&self) -> u64 {
        self.env.unix_nano()
    }

    /// A Hello of `satellite` has come.
    pub(super) fn hear(&self, satellite: &Arc<str>, hello: &link::Hello, round_trip: Duration) {
        let Some(clock) = &hello.clock else { return };
        let arrived = (self.env.unix_nano(), self.env.since_boot().nano);
        let mut known = self.known();
        let before = known.remove(satellite);
        known.insert(Arc::clone(satellite), Known::hear(before, clock, arrived, round_trip));
    }

    /// Writes this station's clocks into a Resume that leaves now.
    pub(super) fn tell(&self, message: &mut link::GroundMessage) {
        let Some(ground_message::Body::Resume(resume)) = &mut message.body else { return };
        let (wall, since_boot) = (self.env.wall(), self.env.since_boot());
        resume.clock = Some(link::Clock {
            unix_nano: wall.unix_nano,
            boot_id: since_boot.boot,
            since_boot_nano: since_boot.nano,
            untrusted: wall.doubt.map(|doubt| doubt.to_string()).unwrap_or_default(),
        });
    }

    /// The clock of a satellite, if it has said what it is.
    pub fn of(&self, satellite: &str) -> Option<ClockView> {
        self.known().get(satellite).map(|known| known.view.clone())
    }

    /// Adds what is known to the metrics.
    pub fn register(&self, registry: &mut Registry) {
        type Value = fn(&ClockView) -> Option<f64>;
        let gauges: [(&str, &str, Value); 4] = [
            (
                "offset_seconds",
                "Offset of a satellite's wall clock from this station's, when it was last heard",
                |c| Some(c.offset_seconds),
            ),
            ("offset_error_seconds", "Uncertainty of that offset", |c| Some(c.error_seconds)),
            ("drift_ppm", "By how much a satellite's clock gains, in parts per million", |c| {
                c.drift_ppm.map(|[drift, _]| drift)
            }),
            ("untrusted", "1 while a satellite says that its wall clock cannot be right", |c| {
                Some(f64::from(u8::from(!c.untrusted.is_empty())))
            }),
        ];
        for (name, help, value) in gauges {
            let family = Family::<OfSatellite, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
            for (satellite, known) in self.known().iter() {
                if let Some(value) = value(&known.view) {
                    family.get_or_create(&OfSatellite { satellite: satellite.to_string() }).set(value);
                }
            }
            registry.register(format!("perigee_satellite_clock_{name}"), help, family);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn clock(unix_nano: u64, boot_id: u64, since_boot_nano: u64) -> link::Clock {
        link::Clock { unix_nano, boot_id, since_boot_nano, untrusted: String::new() }
    }

    #[test]
    fn the_offset_is_known_to_half_a_round_trip_and_drift_by_the_clock_that_nobody_sets() {
        let round_trip = Duration::from_millis(500);
        let first = Known::hear(None, &clock(990 * S, 1, 5 * S), (1_000 * S, 100 * S), round_trip);
        assert_eq!((first.view.offset_seconds, first.view.error_seconds), (-9.75, 0.25));
        assert_eq!(first.view.drift_ppm, None);
        // 10,000 s later it has gained half a second, and its wall clock was set meanwhile.
        let later = clock(50_000 * S, 1, 10_005 * S + S / 2);
        let later = Known::hear(Some(first), &later, (11_000 * S, 10_100 * S), round_trip);
        let [drift, error] = later.view.drift_ppm.unwrap();
        assert!((drift - 50.0).abs() < 1e-6 && (error - 50.0).abs() < 1e-6, "{drift} {error}");
        assert_eq!(later.view.offset_seconds, 39_000.25);
        let again = Known::hear(Some(later), &clock(0, 2, S), (12_000 * S, 11_100 * S), round_trip);
        assert_eq!(again.view.drift_ppm, None, "another boot");
    }
}
