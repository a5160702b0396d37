//! `contacts`: when a station is reachable.

use std::collections::BTreeMap;
use std::path::PathBuf;

use perigee_shared::config::Invalid;
use perigee_shared::contact::{Format, Rate, Time};
use perigee_shared::link::Slot;
use perigee_shared::units::Span;
use serde::Deserialize;

use crate::clock::TimeFromGround;
use perigee_shared::orbit::Skyline;

/// `contacts`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContactsConfig {
    /// Who says when a station is reachable.
    pub source: ContactSource,
    /// Contacts that are open at once, each with another station.
    pub simultaneous: usize,
    /// The station, for `always`.
    pub station: Option<String>,
    /// The plan, for `plan`; the elements, for `orbit`.
    pub file: Option<PathBuf>,
    /// How the plan is written.
    pub format: Format,
    /// What the plan calls this satellite, or its catalogue number or name in the file of elements.
    pub satellite: Option<String>,
    /// What relative times in a plan count from.
    pub epoch: Option<Time>,
    /// How wrong the satellite's clock may be.
    pub clock_error: Span,
    /// So long before the end of a contact nothing new is begun.
    pub guard: Span,
    /// From the satellite to the ground, where nothing else is said.
    pub rate_down: Option<Rate>,
    /// From the ground to the satellite, where nothing else is said.
    pub rate_up: Option<Rate>,
    /// What is known of stations, by id.
    pub stations: BTreeMap<String, ContactStation>,
    /// What happens when a plan has run out.
    pub fallback: Fallback,
    /// How stations are tried without a plan.
    pub probe: ProbeConfig,
    /// How passes are predicted.
    pub orbit: OrbitConfig,
    /// Elements that are so far from now are reported.
    pub stale_after: Span,
    /// What the time of a station is used for.
    pub time_from_ground: TimeFromGround,
}

impl Default for ContactsConfig {
    fn default() -> Self {
        Self {
            source: ContactSource::default(),
            simultaneous: 1,
            station: None,
            file: None,
            format: Format::Auto,
            satellite: None,
            epoch: None,
            clock_error: Span::default(),
            guard: Span::default(),
            rate_down: None,
            rate_up: None,
            stations: BTreeMap::new(),
            fallback: Fallback::default(),
            probe: ProbeConfig::default(),
            orbit: OrbitConfig::default(),
            stale_after: Span::secs(14 * 86_400),
            time_from_ground: TimeFromGround::default(),
        }
    }
}

/// What is known of a station for contacts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContactStation {
    /// What others' plans call it.
    pub alias: Option<String>,
    /// North, in degrees.
    pub latitude: Option<f64>,
    /// East, in degrees.
    pub longitude: Option<f64>,
    /// Above the ellipsoid, in m.
    pub altitude: f64,
    /// The lowest usable elevation, in degrees: a number, or a list by azimuth.
    pub mask: Skyline,
    /// From the satellite to the ground.
    pub rate_down: Option<Rate>,
    /// From the ground to the satellite.
    pub rate_up: Option<Rate>,
    /// One way.
    pub light_time: Option<Span>,
    /// Its own guard time.
    pub guard: Option<Span>,
}

impl Default for ContactStation {
    fn default() -> Self {
        Self {
            alias: None,
            latitude: None,
            longitude: None,
            altitude: 0.0,
            mask: Skyline::Level(10.0),
            rate_down: None,
            rate_up: None,
            light_time: None,
            guard: None,
        }
    }
}

/// `contacts.orbit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OrbitConfig {
    /// Passes are predicted for so long, and again when half of it is over.
    pub horizon: Span,
    /// A shorter pass is none.
    pub minimum_pass: Span,
}

impl Default for OrbitConfig {
    fn default() -> Self {
        Self { horizon: Span::secs(7 * 86_400), minimum_pass: Span::default() }
    }
}

/// What happens when a plan has run out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// Stations are tried now and then.
    #[default]
    Probe,
    /// Nothing, until there is another plan.
    None,
}

/// How stations are tried without a plan.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProbeConfig {
    /// From the end of one attempt to the next, which is with the next station.
    pub interval: Span,
    /// How long a station has to answer.
    pub duration: Span,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self { interval: Span::secs(600), duration: Span::secs(30) }
    }
}

/// Who says when a station is reachable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContactSource {
    /// It always is.
    Always,
    /// A plan in a file.
    Plan,
    /// The satellite's orbit, from a file of elements.
    Orbit,
    /// Nobody: stations are tried now and then.
    Probe,
    /// Flight software, over the control socket.
    #[default]
    Manual,
}

impl ContactSource {
    /// As in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Plan => "plan",
            Self::Orbit => "orbit",
            Self::Probe => "probe",
            Self::Manual => "manual",
        }
    }
}

impl ContactsConfig {
    /// What makes no sense, with the stations that are `known`.
    pub fn problems(&self, known: impl Fn(&str) -> bool) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        for (id, station) in &self.stations {
            let key = format!("contacts.stations.{id}");
            if !known(id) {
                wrong.push(Invalid::new(&key, format!("link.stations has no `{id}`")));
            }
            self.look_at_station(&key, id, station, &mut wrong);
        }
        let days = Span::secs(86_400)..=Span::secs(60 * 86_400);
        let is_short = self.probe.interval < Span::secs(1) || self.probe.duration < Span::secs(1);
        for (is_right, key, message) in [
            ((1..=Slot::COUNT).contains(&self.simultaneous), "simultaneous", "must be 1 or 2"),
            (days.contains(&self.orbit.horizon), "orbit.horizon", "must be from 1d to 60d"),
            (!is_short, "probe", "interval and duration must be at least 1s"),
        ] {
            if !is_right {
                wrong.push(Invalid::new(format!("contacts.{key}"), message));
            }
        }
        let missing = |key: &str, message: &str| Some(Invalid::new(key, message));
        wrong.extend(match self.source {
            ContactSource::Always => match &self.station {
                None => missing("contacts.station", "is missing; source `always` needs a station"),
                Some(id) if !known(id) => {
                    missing("contacts.station", &format!("link.stations has no `{id}`"))
                }
                Some(_) => None,
            },
            ContactSource::Plan if self.file.is_none() => {
                missing("contacts.file", "is missing; source `plan` needs a file")
            }
            ContactSource::Orbit if self.file.is_none() => {
                missing("contacts.file", "is missing; source `orbit` needs a file with OMMs or TLEs")
            }
            _ => None,
        });
        if self.source == ContactSource::Orbit && self.stations.is_empty() {
            let message = "is empty; source `orbit` needs latitude and longitude of at least one station";
            wrong.extend(missing("contacts.stations", message));
        }
        wrong
    }

    fn look_at_station(&self, key: &str, id: &String, station: &ContactStation, wrong: &mut Vec<Invalid>) {
        for (part, value, most) in [
            ("latitude", station.latitude.unwrap_or(0.0), 90.0),
            ("longitude", station.longitude.unwrap_or(0.0), 180.0),
            ("altitude", station.altitude, 10_000.0),
        ] {
            if !(-most..=most).contains(&value) {
                wrong.push(Invalid::new(format!("{key}.{part}"), format!("must be from -{most} to {most}")));
            }
        }
        let is_same = |(other, of): &(&String, &ContactStation)| {
            *other != id
                && station.alias.is_some()
                && (of.alias == station.alias || Some(*other) == station.alias.as_ref())
        };
        if let Some((other, _)) = self.stations.iter().find(is_same) {
            let message =
                format!("is a name of `{other}` too; each needs its own, or a plan means one of them alone");
            wrong.push(Invalid::new(format!("{key}.alias"), message));
        }
        wrong.extend(station.mask.problem().map(|problem| Invalid::new(format!("{key}.mask"), problem)));
        if self.source == ContactSource::Orbit && (station.latitude.is_none() || station.longitude.is_none())
        {
            let message = "needs latitude and longitude, in degrees, for source `orbit`";
            wrong.push(Invalid::new(key, message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let config: ContactsConfig = match perigee_shared::config::parse(text, "agent.yaml", |_| None) {
            Ok(config) => config,
            Err(error) => return vec![error.to_string()],
        };
        let wrong = config.problems(|id| ["svalbard", "kiruna"].contains(&id));
        wrong.iter().map(|e| format!("{}: {}", e.key, e.message)).collect()
    }

    #[test]
    fn contacts_that_make_no_sense_are_named() {
        for text in [
            "{source: manual, simultaneous: 2}",
            "{source: probe, probe: {interval: 1h}, time_from_ground: use}",
            "{source: plan, file: plan.json, format: hdtn, satellite: '10', epoch: 2026-11-23T00:00:00Z}",
            "{source: orbit, file: sat.tle, stations: {svalbard: {latitude: 78, longitude: 15.5, mask: 5}}}",
            "{source: orbit, file: f, orbit: {horizon: 60d, minimum_pass: 2m}, stations: {svalbard: {latitude: 78, longitude: 15.5, \
             mask: [{azimuth: 0, elevation: 5}, {azimuth: 120.5, elevation: 20}]}}}",
            "{source: always, station: svalbard, clock_error: 2s, guard: 1s, rate_down: 20Mbit/s}",
        ] {
            assert_eq!(problems(text), Vec::<String>::new(), "{text}");
        }
        for (text, part) in [
            ("{source: plan}", "contacts.file"),
            ("{source: orbit}", "contacts.file"),
            ("{source: orbit, file: sat.tle}", "contacts.stations: is empty"),
            (
                "{source: orbit, file: f, stations: {svalbard: {latitude: 1}}}",
                "contacts.stations.svalbard: needs",
            ),
            ("{source: always}", "contacts.station"),
            ("{source: always, station: mars}", "mars"),
            ("{stations: {mars: {alias: '1'}}}", "contacts.stations.mars"),
            (
                "{stations: {kiruna: {alias: '20'}, svalbard: {alias: '20'}}}",
                "contacts.stations.kiruna.alias: is a name of `svalbard`",
            ),
            (
                "{stations: {kiruna: {}, svalbard: {alias: kiruna}}}",
                "contacts.stations.svalbard.alias: is a name of `kiruna`",
            ),
            ("{stations: {svalbard: {latitude: 91}}}", "contacts.stations.svalbard.latitude"),
            ("{stations: {svalbard: {mask: 95}}}", "contacts.stations.svalbard.mask: an elevation"),
            ("{stations: {svalbard: {mask: []}}}", "contacts.stations.svalbard.mask: is an empty list"),
            (
                "{stations: {svalbard: {mask: [{azimuth: 9, elevation: 1}, {azimuth: 9, elevation: 2}]}}}",
                "must rise",
            ),
            ("{orbit: {horizon: 61d}}", "contacts.orbit.horizon: must be from 1d to 60d"),
            ("{simultaneous: 0}", "contacts.simultaneous: must be 1 or 2"),
            ("{simultaneous: 3}", "contacts.simultaneous: must be 1 or 2"),
            ("{probe: {interval: 0s}}", "contacts.probe"),
            ("{source: orbits}", "`orbit`"),
            ("{format: ionrc}", "`ion`"),
            ("{epoch: today}", "today"),
            ("{time_from_ground: always}", "off, measure, use"),
        ] {
            let found = problems(text);
            assert!(found.iter().any(|e| e.contains(part)), "{text}: {found:?}");
        }
        let several = "{source: orbit, simultaneous: 3, probe: {interval: 0s}, stations: {mars: {latitude: 91, altitude: -1e9}}}";
        let found = problems(several);
        let keys: Vec<&str> = found.iter().filter_map(|e| e.split(": ").next()).collect();
        let mars = "contacts.stations.mars";
        assert_eq!(
            keys,
            [
                mars,
                &format!("{mars}.latitude"),
                &format!("{mars}.altitude"),
                mars,
                "contacts.simultaneous",
                "contacts.probe",
                "contacts.file"
            ]
        );
    }
}
