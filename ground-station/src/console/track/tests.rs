use proptest::prelude::*;

use super::*;

/// 2026-11-24T20:56:32Z
const EPOCH: u64 = 1_795_553_792_000_000_000;

/// A satellite in an orbit over the poles, 510 km high, and two stations.
fn said() -> link::Orbit {
    let site = |station: &str, latitude, longitude, mask: &[f32]| link::Site {
        station: station.to_owned(),
        latitude,
        longitude,
        altitude: 400.0,
        mask: mask.to_vec(),
    };
    link::Orbit {
        name: "SAT (100001)".to_owned(),
        epoch_unix_nano: EPOCH,
        mean_motion: 15.2,
        eccentricity: 0.001,
        inclination: 97.5,
        ascending_node: 42.0,
        perigee: 80.0,
        anomaly: 280.0,
        drag: 0.0002,
        sites: vec![site("punta-arenas", -53.0, -70.8, &[10.0; 72]), site("svalbard", 78.23, 15.4, &[5.0])],
        minimum_pass_nano: 0,
    }
}

#[test]
fn a_pass_rises_over_the_mask_culminates_and_sets_and_its_track_passes_by_the_station() {
    let said = said();
    let track = of(&said, EPOCH).unwrap();
    let set = track.set.unwrap();
    assert!(set.unix_nano > EPOCH && track.rise.unix_nano < set.unix_nano);
    assert!((60..1_200).contains(&((set.unix_nano - track.rise.unix_nano) / S)), "a low orbit: {track:?}");
    let mask = if track.station == "svalbard" { 5.0 } else { 10.0 };
    for edge in [track.rise, set] {
        assert!((edge.elevation - mask).abs() < 0.05, "{edge:?} of {}", track.station);
    }
    assert!(track.sky.iter().all(|[_, elevation]| *elevation <= track.culmination.elevation + 1e-3));
    assert!((track.rise.unix_nano..set.unix_nano).contains(&track.culmination.unix_nano));
    assert_eq!((track.points.len(), track.stations.len()), (POINTS + 1, 2));
    assert_eq!(track.stations[0].station, track.station);
    // At the rise it is above the edge of what the station sees.
    let [longitude, latitude, _] =
        *track.points.iter().min_by_key(|p| (p[2] as u64).abs_diff(track.rise.unix_nano / S)).unwrap();
    let near = track.stations[0].edge.iter().map(|edge| apart(*edge, [longitude, latitude]));
    assert!(near.fold(f64::MAX, f64::min) < 1.5, "{longitude} {latitude}");
}

/// Degrees between two places.
fn apart([a_lon, a_lat]: [f64; 2], [b_lon, b_lat]: [f64; 2]) -> f64 {
    let [a_lon, a_lat, b_lon, b_lat] = [a_lon, a_lat, b_lon, b_lat].map(f64::to_radians);
    (a_lat.sin() * b_lat.sin() + a_lat.cos() * b_lat.cos() * (a_lon - b_lon).cos()).acos().to_degrees()
}

#[test]
fn the_next_pass_is_the_same_until_it_is_over() {
    let said = said();
    let track = of(&said, EPOCH).unwrap();
    assert_eq!(of(&said, track.until() - S).unwrap().rise.unix_nano / S, track.rise.unix_nano / S);
    assert!(of(&said, track.until() + S).unwrap().rise.unix_nano > track.rise.unix_nano + S);
}

#[test]
fn a_satellite_that_a_station_always_sees_has_a_track_without_an_end() {
    let mut said = said();
    said = link::Orbit {
        mean_motion: 1.0027,
        inclination: 0.05,
        ascending_node: 31.9,
        perigee: 0.0,
        anomaly: 0.0,
        ..said
    };
    said.sites = (-180..180)
        .step_by(30)
        .map(|longitude| link::Site {
            station: format!("at {longitude}"),
            longitude: f64::from(longitude),
            mask: vec![5.0],
            ..Default::default()
        })
        .collect();
    let track = of(&said, EPOCH).unwrap();
    assert!(track.set.is_none() && track.points.len() == POINTS + 1);
    let span = track.points.iter().map(|p| apart([p[0], p[1]], [track.points[0][0], track.points[0][1]]));
    assert!(span.fold(0.0, f64::max) < 2.0, "it stays where it is");
}

#[test]
fn what_is_no_orbit_has_no_track_and_says_why() {
    let with = |change: fn(&mut link::Orbit)| {
        let mut orbit = said();
        change(&mut orbit);
        of(&orbit, EPOCH).unwrap_err()
    };
    for (why, error) in [
        ("no orbit", with(|o| o.mean_motion = f64::NAN)),
        ("no orbit", with(|o| o.mean_motion = 1e300)),
        ("no orbit", with(|o| o.eccentricity = -1.0)),
        ("no orbit", with(|o| o.inclination = f64::INFINITY)),
        ("no orbit", with(|o| o.anomaly = 1e18)),
        ("no orbit", with(|o| o.drag = 1e9)),
        ("days away", with(|o| o.epoch_unix_nano = 0)),
        ("days away", with(|o| o.epoch_unix_nano = u64::MAX)),
        ("of no station", with(|o| o.sites.clear())),
        ("of no station", with(|o| o.sites.iter_mut().for_each(|s| s.latitude = f64::NAN))),
        ("of no station", with(|o| o.sites.iter_mut().for_each(|s| s.mask = vec![f32::NAN]))),
        ("none of the 2 stations", with(|o| o.sites.iter_mut().for_each(|s| s.mask = vec![89.0]))),
        ("none of the 2 stations", with(|o| o.minimum_pass_nano = u64::MAX)),
    ] {
        assert!(error.contains(why), "{why}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever a satellite says, there is a track within its bounds or a reason.
    #[test]
    fn prop_no_orbit_panics_and_every_track_is_finite(
        mean_motion in prop_oneof![0.5f64..17.4, any::<f64>()],
        eccentricity in prop_oneof![0.0f64..0.9, any::<f64>()],
        angles in prop::array::uniform4(prop_oneof![-360.0f64..360.0, any::<f64>()]),
        drag in prop_oneof![-1.0f64..1.0, any::<f64>()],
        away in -5_000_000i64..5_000_000,
        place in (prop_oneof![-90.0f64..=90.0, any::<f64>()], prop_oneof![-180.0f64..180.0, any::<f64>()]),
        mask in prop::collection::vec(prop_oneof![0.0f32..20.0, any::<f32>()], 0..72),
    ) {
        let [inclination, ascending_node, perigee, anomaly] = angles;
        let site = link::Site { latitude: place.0, longitude: place.1, mask, ..Default::default() };
        let epoch_unix_nano = EPOCH.saturating_add_signed(away * S as i64);
        let orbit = link::Orbit {
            epoch_unix_nano, mean_motion, eccentricity, inclination, ascending_node, perigee, anomaly, drag,
            sites: vec![site], ..Default::default()
        };
        match of(&orbit, EPOCH) {
            Ok(track) => {
                prop_assert!(track.points.len() == POINTS + 1);
                prop_assert!(track.points.iter().flatten().all(|n| n.is_finite()));
                prop_assert!(track.stations.iter().flat_map(|s| s.edge.iter().flatten()).all(|n| n.is_finite()));
            }
            Err(why) => prop_assert!(!why.is_empty()),
        }
    }
}
