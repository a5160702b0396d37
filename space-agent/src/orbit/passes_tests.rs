use std::time::Duration;

use perigee_shared::contact::Contact;
use perigee_shared::orbit::{Mask, Skyline};
use serde::Deserialize;

use super::parse;

/// What tests/orbit/passes.py writes.
#[derive(Deserialize)]
struct Fixture {
    elements: serde_json::Value,
    from: f64,
    to: f64,
    stations: Vec<Station>,
}

#[derive(Deserialize)]
struct Station {
    latitude: f64,
    longitude: f64,
    altitude: f64,
    mask: f64,
    passes: Vec<(f64, f64)>,
}

#[test]
fn passes_of_a_week_are_those_of_skyfield_to_five_seconds() {
    let fixtures: Vec<Fixture> =
        serde_json::from_str(include_str!("../../../tests/orbit/passes.json")).unwrap();
    let mut checked = 0;
    let mut worst: f64 = 0.0;
    for fixture in fixtures {
        let orbit = parse(&fixture.elements.to_string(), None, "fixture").unwrap();
        for station in fixture.stations {
            let mask = Mask {
                latitude: station.latitude,
                longitude: station.longitude,
                altitude: station.altitude,
                mask: Skyline::Level(station.mask),
                contact: Contact::open("svalbard", 0),
            };
            let nano = |unix: f64| (unix * 1e9) as u64;
            let plan =
                orbit.predict(&[mask], (nano(fixture.from), nano(fixture.to)), Duration::ZERO).unwrap();
            // One that is under way at the beginning is no pass of the fixture.
            let found: Vec<_> =
                plan.upcoming(0).iter().filter(|c| c.start_unix_nano > nano(fixture.from)).collect();
            assert_eq!(found.len(), station.passes.len(), "{} {}", orbit.name, station.latitude);
            for (contact, (start, end)) in found.iter().zip(&station.passes) {
                let off = |nano: u64, unix: f64| (nano as f64 / 1e9 - unix).abs();
                worst = worst
                    .max(off(contact.start_unix_nano, *start))
                    .max(off(contact.end_unix_nano.unwrap(), *end));
                let light_time = contact.light_time_seconds.unwrap();
                assert!((0.001..0.2).contains(&light_time), "{light_time}");
                checked += 1;
            }
        }
    }
    println!("{checked} passes, at most {worst:.3} s apart");
    assert!(checked > 100 && worst < 5.0, "{checked} passes, {worst} s");
}

#[test]
fn a_satellite_that_has_decayed_is_an_error_that_asks_for_new_elements() {
    let tle = "1 25544U 98067A   20194.88612269  .10000000  00000-0  99999-1 0  9992\n\
               2 25544  51.6461 221.2784 0001413  89.1723 280.4612 16.45000000236008\n";
    let Ok(orbit) = parse(tle, None, "f") else { return };
    let mask = Mask {
        latitude: 78.0,
        longitude: 15.0,
        altitude: 0.0,
        mask: Skyline::Level(5.0),
        contact: Contact::open("a", 0),
    };
    let year = 365 * 86_400 * 1_000_000_000;
    let error = orbit
        .predict(&[mask], (orbit.elements.epoch + year, orbit.elements.epoch + year + 1), Duration::ZERO)
        .unwrap_err();
    assert!(error.to_string().contains("get new elements"), "{error}");
}
