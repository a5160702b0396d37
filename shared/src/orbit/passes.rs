//! Finding passes: when a satellite is above a station's mask angle.

use std::time::Duration;

use crate::contact::{Contact, Plan, Sight};
use serde::Deserialize;

use super::{Look, NoPosition, Orbit, Place, Positions};

/// Elevations are looked at in steps of so many seconds. Between two steps a pass can hide only if it is shorter; one that grazes
/// the mask is found by its highest point.
const STEP: f64 = 30.0;

/// A pass that lasts so long beyond the time for which passes are predicted has no end as far as is known, in seconds.
const ENDLESS: f64 = 86_400.0;

/// Beginnings and ends are found to this many seconds.
const EXACT: f64 = 0.01;

/// The lowest usable elevation, in degrees: everywhere the same, or by azimuth.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Skyline {
    /// Everywhere.
    Level(f64),
    /// At these azimuths, and evenly from each to the next.
    Points(Vec<SkylinePoint>),
}

/// What stands in the way in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkylinePoint {
    /// From north over east, in degrees.
    pub azimuth: f64,
    /// The lowest usable elevation there, in degrees.
    pub elevation: f64,
}

impl Skyline {
    /// The lowest usable elevation at an azimuth.
    pub fn at(&self, azimuth: f64) -> f64 {
        let points = match self {
            Self::Level(elevation) => return *elevation,
            Self::Points(points) => points,
        };
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return 0.0 };
        let next = points.partition_point(|p| p.azimuth <= azimuth);
        // North lies between the last and the first.
        let (from, turn) = if next == 0 { (last, -360.0) } else { (&points[next - 1], 0.0) };
        let (to, further) = if next == points.len() { (first, 360.0) } else { (&points[next], 0.0) };
        let (a, b) = (from.azimuth + turn, to.azimuth + further);
        let part = if b > a { (azimuth - a) / (b - a) } else { 0.0 };
        from.elevation + part * (to.elevation - from.elevation)
    }

    /// What makes no sense in it.
    pub fn problem(&self) -> Option<&'static str> {
        let elevations: Vec<f64> = match self {
            Self::Level(elevation) => vec![*elevation],
            Self::Points(points) if points.is_empty() => return Some("is an empty list; write an elevation"),
            Self::Points(points) => points.iter().map(|p| p.elevation).collect(),
        };
        if !elevations.iter().all(|e| (-89.0..=89.0).contains(e)) {
            return Some("an elevation must be from -89 to 89 degrees");
        }
        let Self::Points(points) = self else { return None };
        if !points.iter().all(|p| (0.0..360.0).contains(&p.azimuth)) {
            return Some("an azimuth must be from 0 to 360 degrees");
        }
        let rises = points.windows(2).all(|two| two[0].azimuth < two[1].azimuth);
        (!rises).then_some("the azimuths must rise from one entry to the next")
    }
}

/// A station and how it is seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Mask {
    /// North, in degrees.
    pub latitude: f64,
    /// East, in degrees.
    pub longitude: f64,
    /// Above the ellipsoid, in m.
    pub altitude: f64,
    /// The lowest usable elevation.
    pub mask: Skyline,
    /// What else is known of a contact with it; its times are not used.
    pub contact: Contact,
}

/// Elevations of one satellite above one station.
struct View<'a> {
    positions: &'a Positions<'a>,
    place: Place,
    mask: &'a Skyline,
    /// A pass that lasts longer has no end as far as is known, in seconds.
    endless: f64,
}

impl View<'_> {
    /// Degrees above the mask.
    fn above(&self, unix: f64) -> Result<f64, NoPosition> {
        let look = self.look(unix)?;
        Ok(look.elevation - self.mask.at(look.azimuth))
    }

    fn look(&self, unix: f64) -> Result<Look, NoPosition> {
        Ok(self.place.look(self.positions.at(unix)?))
    }

    /// How the satellite is seen in a pass.
    fn sight(&self, start: f64, end: Option<f64>) -> Result<Sight, NoPosition> {
        let (aos, los) = (self.look(start)?, end.map(|end| self.look(end)).transpose()?);
        let mut highest = aos.elevation.max(los.map_or(f64::MIN, |los| los.elevation));
        // Of one without an end its first day.
        let until = end.unwrap_or(start + ENDLESS);
        let mut at = start;
        while at < until {
            highest = highest.max(self.look(at)?.elevation);
            at += STEP / 3.0;
        }
        let tenth = |degrees: f64| (degrees * 10.0).round() / 10.0;
        Ok(Sight {
            max_elevation_degrees: tenth(highest),
            aos_azimuth_degrees: tenth(aos.azimuth),
            los_azimuth_degrees: los.map(|los| tenth(los.azimuth)),
        })
    }

    /// When it crosses the mask, between a time on one side of it and a time on the other.
    fn crossing(&self, mut from: f64, mut to: f64) -> Result<f64, NoPosition> {
        let begins_above = self.above(from)? >= 0.0;
        while to - from > EXACT {
            let middle = (from + to) / 2.0;
            if (self.above(middle)? >= 0.0) == begins_above {
                from = middle;
            } else {
                to = middle;
            }
        }
        Ok((from + to) / 2.0)
    }

    /// The highest point between two times between which there is one.
    fn highest(&self, mut from: f64, mut to: f64) -> Result<f64, NoPosition> {
        while to - from > EXACT {
            let third = (to - from) / 3.0;
            let (a, b) = (from + third, to - third);
            if self.above(a)? < self.above(b)? {
                from = a;
            } else {
                to = b;
            }
        }
        Ok((from + to) / 2.0)
    }

    /// Every pass that begins between `from` and `to`, with its end if it has one; one that is on at `from` begins there.
    fn passes(&self, from: f64, to: f64) -> Result<Vec<(f64, Option<f64>)>, NoPosition> {
        let mut out = Vec::new();
        let (mut before, mut last) = (self.above(from - STEP)?, self.above(from)?);
        let mut begun = (last >= 0.0).then_some(from);
        let mut at = from;
        // A pass that has begun is followed to its end.
        while at < to || begun.is_some() {
            let next = self.above(at + STEP)?;
            match begun {
                Some(start) if next < 0.0 => {
                    out.push((start, Some(self.crossing(at, at + STEP)?)));
                    begun = None;
                }
                None if next >= 0.0 => begun = Some(self.crossing(at, at + STEP)?),
                // It turns back below the mask, as far as the steps show.
                None if last > before && last >= next && last > -5.0 => {
                    let top = self.highest(at - STEP, at + STEP)?;
                    if self.above(top)? >= 0.0 {
                        let start = self.crossing(at - STEP, top)?;
                        out.push((start, Some(self.crossing(top, at + STEP)?)));
                    }
                }
                _ => {}
            }
            (before, last) = (last, next);
            at += STEP;
            if let Some(start) = begun.filter(|start| at - start > self.endless) {
                out.push((start, None));
                break;
            }
        }
        Ok(out)
    }
}

impl Orbit {
    /// The passes above `stations` that begin between `from` and `to`, ns since the Unix epoch, and last at least `shortest`. A station
    /// that sees the satellite for longer than that and a day has one contact without an end.
    pub fn predict(
        &self,
        stations: &[Mask],
        (from, to): (u64, u64),
        shortest: Duration,
    ) -> Result<Plan, NoPosition> {
        let nano = |unix: f64| (unix * 1e9) as u64;
        let (from, to) = (from as f64 / 1e9, to as f64 / 1e9);
        let endless = to - from + ENDLESS;
        let positions = self.between(from - STEP, to + endless + 2.0 * STEP);
        let (mut contacts, mut warnings) = (Vec::new(), Vec::new());
        for station in stations {
            let place = Place::new(station.latitude, station.longitude, station.altitude);
            let view = View { positions: &positions, place, mask: &station.mask, endless };
            for (start, end) in view.passes(from, to)? {
                if end.is_some_and(|end| end - start < shortest.as_secs_f64()) {
                    continue;
                }
                let light_time = view.look(start)?.light_time;
                if end.is_none() {
                    warnings.push(format!(
                        "{} always sees {}: it is one contact without an end, as from `source: always`",
                        station.contact.station, self.name
                    ));
                }
                contacts.push(Contact {
                    start_unix_nano: nano(start),
                    end_unix_nano: end.map(nano),
                    light_time_seconds: station.contact.light_time_seconds.or(Some(light_time)),
                    sight: Some(Box::new(view.sight(start, end)?)),
                    ..station.contact.clone()
                });
            }
        }
        if contacts.is_empty() {
            warnings.push(format!("no station sees {} for as long as passes are predicted", self.name));
        }
        Ok(Plan::predicted(contacts, warnings))
    }
}
