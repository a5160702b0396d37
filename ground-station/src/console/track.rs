//! The ground track of a satellite's next pass, from the orbit that its agent says: what lies below it, and how each moment is seen from
//! the station.
//!
//! What a satellite says is hostile until it is checked: elements and stations are looked at before anything is computed, the search is
//! bounded in time and stations, and it runs away from every thread that serves, one at a time.

use std::time::Duration;

use perigee_proto::link;
use perigee_shared::contact::Contact;
use perigee_shared::orbit::{
    Elements, Look, Mask, NoPosition, Orbit, Place, Positions, Skyline, SkylinePoint, below,
};
use serde::Serialize;

use crate::spool::PlanView;

const S: u64 = 1_000_000_000;

/// A pass that is on is found from its beginning.
const BEFORE: u64 = 3_600 * S;

/// Passes are looked for so far ahead.
const AHEAD: u64 = 2 * 86_400 * S;

/// Elements that are farther away say nothing of where the satellite is.
const OLDEST: Duration = Duration::from_secs(60 * 86_400);

/// Of a pass without an end so much is drawn, s.
const LONGEST: f64 = 86_400.0;

/// The track goes on before and after the pass for so long, s.
const AROUND: f64 = 600.0;

/// Points of a track, and looks from the station during a pass.
const POINTS: usize = 240;

/// Directions in which the edge of a station's sky is drawn.
const EDGE: usize = 72;

/// The Earth as a ball, km: good enough for the edge of what a station sees.
const EARTH: f64 = 6_371.0;

/// A moment of a pass as the station sees it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, utoipa::ToSchema)]
pub(super) struct Moment {
    /// ns since the Unix epoch.
    pub(super) unix_nano: u64,
    /// From north over east, degrees.
    pub(super) azimuth: f64,
    /// Above the horizon, degrees.
    pub(super) elevation: f64,
}

/// A station, and where the satellite must be above for it to be seen there over the mask.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(super) struct Footprint {
    /// The satellite's name for it.
    pub(super) station: String,
    /// East, degrees.
    pub(super) longitude: f64,
    /// North, degrees.
    pub(super) latitude: f64,
    /// Longitude and latitude all around, degrees.
    pub(super) edge: Vec<[f64; 2]>,
}

/// The track of a pass.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(super) struct Track {
    /// The satellite as its elements call it.
    pub(super) name: String,
    /// The elements' epoch, ns since the Unix epoch.
    pub(super) epoch_unix_nano: u64,
    /// The station of the pass, by the satellite's name for it.
    pub(super) station: String,
    /// When it rises above the mask.
    pub(super) rise: Moment,
    /// When it is highest.
    pub(super) culmination: Moment,
    /// When it sets; absent: the station always sees it.
    pub(super) set: Option<Moment>,
    /// What lies below, from before to after the pass: longitude, latitude, and s since the Unix epoch.
    pub(super) points: Vec<[f64; 3]>,
    /// The stations, that of the pass first.
    pub(super) stations: Vec<Footprint>,
    /// Azimuth and elevation during the pass.
    #[serde(skip)]
    pub(super) sky: Vec<[f64; 2]>,
    /// The lowest usable elevation of the station by azimuth, evenly from north over east.
    #[serde(skip)]
    pub(super) mask: Vec<f64>,
}

impl Track {
    /// Until when this is the next pass.
    pub(super) fn until(&self) -> u64 {
        self.set.map_or(self.rise.unix_nano + (LONGEST as u64) * S, |set| set.unix_nano)
    }
}

/// The track of the first pass that is not over at `now`, or why there is none.
pub(super) fn of(said: &link::Orbit, now: u64) -> Result<Track, String> {
    let (orbit, sites) = read(said)?;
    let age = orbit.age(now);
    if age > OLDEST {
        let days = age.as_secs() / 86_400;
        return Err(format!("its elements are {days} days away from now, which says nothing of where it is"));
    }
    let shortest = Duration::from_nanos(said.minimum_pass_nano);
    let span = (now.saturating_sub(BEFORE), now.saturating_add(AHEAD));
    let plan = orbit.predict(&sites, span, shortest).map_err(|e| e.to_string())?;
    let next = plan.upcoming(0).iter().find(|pass| pass.end_unix_nano.is_none_or(|end| end > now));
    let next = next.ok_or_else(|| {
        format!("none of the {} stations that it knows sees it in the next two days", sites.len())
    })?;
    let at = sites.iter().position(|site| site.contact.station == next.station).unwrap_or(0);
    draw(&orbit, &sites, at, next).map_err(|e| e.to_string())
}

/// Why there is no track of a satellite that says no orbit.
pub(super) fn untold(plan: Option<&PlanView>) -> String {
    let source = plan.map(|plan| plan.source.as_str()).filter(|source| !source.is_empty());
    match source {
        Some("orbit") => {
            "its agent does not say its orbit: it has read no elements yet, or is of an earlier version"
                .to_owned()
        }
        Some(source) => format!(
            "its contacts come from `{source}`; an agent says its orbit with `contacts.source: orbit`"
        ),
        None => "it has not said from where its contacts come".to_owned(),
    }
}

/// Why there is none after a bug.
pub(super) fn panicked() -> String {
    "the computation failed on its elements; see them on board".to_owned()
}

/// What a satellite says, as far as it can be an orbit of the Earth and places on it.
fn read(said: &link::Orbit) -> Result<(Orbit, Vec<Mask>), String> {
    let elements = Elements {
        epoch: said.epoch_unix_nano,
        mean_motion: said.mean_motion,
        eccentricity: said.eccentricity,
        angles: [said.inclination, said.ascending_node, said.perigee, said.anomaly],
        drag: said.drag,
    };
    let turns = elements.angles.iter().all(|angle| angle.abs() <= 720.0) && elements.drag.abs() <= 1e3;
    if !turns {
        return Err("its elements describe no orbit: an angle or B* is beyond every bound".to_owned());
    }
    let orbit = Orbit::new(elements, said.name.clone())
        .map_err(|why| format!("its elements describe no orbit: {why}"))?;
    let sites: Vec<Mask> = said.sites.iter().filter_map(site).collect();
    if sites.is_empty() {
        return Err("it says of no station where that is".to_owned());
    }
    Ok((orbit, sites))
}

fn site(said: &link::Site) -> Option<Mask> {
    let elevation = |e: f32| f64::from(e);
    let mask = match &said.mask[..] {
        [] => Skyline::Level(0.0),
        [everywhere] => Skyline::Level(elevation(*everywhere)),
        many => {
            let apart = 360.0 / many.len() as f64;
            let point =
                |(n, e): (usize, &f32)| SkylinePoint { azimuth: n as f64 * apart, elevation: elevation(*e) };
            Skyline::Points(many.iter().enumerate().map(point).collect())
        }
    };
    let sound = (-90.0..=90.0).contains(&said.latitude)
        && (-360.0..=360.0).contains(&said.longitude)
        && (-10_000.0..=100_000.0).contains(&said.altitude)
        && mask.problem().is_none();
    sound.then(|| Mask {
        latitude: said.latitude,
        longitude: said.longitude,
        altitude: said.altitude,
        mask,
        contact: Contact::open(said.station.clone(), 0),
    })
}

fn draw(orbit: &Orbit, sites: &[Mask], at: usize, pass: &Contact) -> Result<Track, NoPosition> {
    let site = &sites[at];
    let rise = pass.start_unix_nano as f64 / 1e9;
    let end = pass.end_unix_nano.map_or(rise + LONGEST, |end| end as f64 / 1e9).min(rise + LONGEST);
    let (from, to) = (rise - AROUND, end + AROUND);
    let positions = orbit.between(from, to);
    let place = Place::new(site.latitude, site.longitude, site.altitude);
    let looks: Vec<(f64, Look)> = evenly(rise, end)
        .map(|unix| Ok((unix, place.look(positions.at(unix)?))))
        .collect::<Result<_, NoPosition>>()?;
    let highest = highest(&positions, &place, &looks)?;
    let moment = |(unix, look): (f64, Look)| Moment {
        unix_nano: (unix * 1e9) as u64,
        azimuth: rounded(look.azimuth),
        elevation: rounded(look.elevation),
    };
    let look = |unix: f64| Ok::<_, NoPosition>((unix, place.look(positions.at(unix)?)));
    let mut points = Vec::new();
    for unix in evenly(from, to) {
        let [latitude, longitude, _] = below(positions.at(unix)?);
        points.push([rounded(longitude), rounded(latitude), unix.round()]);
    }
    let height = below(positions.at(highest.0)?)[2];
    let mut stations: Vec<Footprint> = sites.iter().map(|site| footprint(site, height)).collect();
    stations[..=at].rotate_right(1);
    Ok(Track {
        name: orbit.name.clone(),
        epoch_unix_nano: orbit.elements.epoch,
        station: site.contact.station.to_string(),
        rise: moment(look(rise)?),
        culmination: moment(highest),
        set: pass.end_unix_nano.map(|_| look(end)).transpose()?.map(moment),
        points,
        stations,
        sky: looks.iter().map(|(_, look)| [look.azimuth, look.elevation]).collect(),
        mask: (0..EDGE).map(|n| site.mask.at(azimuth(n))).collect(),
    })
}

/// As many times as are drawn, from the first to the last.
fn evenly(from: f64, to: f64) -> impl Iterator<Item = f64> {
    (0..=POINTS).map(move |n| from + (to - from) * n as f64 / POINTS as f64)
}

/// The highest of what was looked at, found to a tenth of the distance between two looks and better.
fn highest(
    positions: &Positions<'_>,
    place: &Place,
    looks: &[(f64, Look)],
) -> Result<(f64, Look), NoPosition> {
    let by_elevation = |a: &(f64, Look), b: &(f64, Look)| a.1.elevation.total_cmp(&b.1.elevation);
    let top = (0..looks.len()).max_by(|a, b| by_elevation(&looks[*a], &looks[*b])).unwrap_or(0);
    let (mut from, mut to) = (looks[top.saturating_sub(1)].0, looks[(top + 1).min(looks.len() - 1)].0);
    let look = |unix: f64| Ok((unix, place.look(positions.at(unix)?)));
    for _ in 0..20 {
        let third = (to - from) / 3.0;
        let (a, b) = (look(from + third)?, look(to - third)?);
        if by_elevation(&a, &b).is_lt() {
            from = a.0;
        } else {
            to = b.0;
        }
    }
    let found = look((from + to) / 2.0)?;
    Ok(if by_elevation(&found, &looks[top]).is_lt() { looks[top] } else { found })
}

/// The n-th direction of an edge.
fn azimuth(n: usize) -> f64 {
    n as f64 * 360.0 / EDGE as f64
}

/// Where a satellite at that height, km, must be above to stand on the mask.
fn footprint(site: &Mask, height: f64) -> Footprint {
    let (sin_lat, cos_lat) = site.latitude.to_radians().sin_cos();
    let edge = (0..EDGE).map(|n| {
        let elevation = site.mask.at(azimuth(n)).to_radians();
        let ratio = (EARTH * elevation.cos() / (EARTH + height.max(1.0))).clamp(-1.0, 1.0);
        let away = (ratio.acos() - elevation).max(0.0);
        let ((sin, cos), (sin_az, cos_az)) = (away.sin_cos(), azimuth(n).to_radians().sin_cos());
        let latitude = (sin_lat * cos + cos_lat * sin * cos_az).clamp(-1.0, 1.0).asin();
        let east = (sin_az * sin * cos_lat).atan2(cos - sin_lat * latitude.sin()).to_degrees();
        [rounded(within(site.longitude + east)), rounded(latitude.to_degrees())]
    });
    Footprint {
        station: site.contact.station.to_string(),
        longitude: rounded(within(site.longitude)),
        latitude: site.latitude,
        edge: edge.collect(),
    }
}

/// A longitude from -180 to 180.
fn within(longitude: f64) -> f64 {
    (longitude + 180.0).rem_euclid(360.0) - 180.0
}

/// To a thousandth: 100 m on the ground.
fn rounded(n: f64) -> f64 {
    (n * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests;
