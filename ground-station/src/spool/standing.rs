//! How each satellite stands: what it last said of itself, less what was committed since.
//!
//! What a satellite says is kept within bounds, whatever it is: texts are cut and lose control characters, lanes are those that a
//! segment can name, each once.

use std::collections::BTreeMap;

use perigee_proto::link::{self, AgentState, Hello, LaneBacklog, Plan};
use perigee_shared::contact::report::shown_forecast;
use perigee_shared::link::bounds;
use perigee_shared::signal::Counts;
use redb::ReadableTable;
use serde::Serialize;
use serde_json::Value;

use super::clocks::{ClockView, Offset, Reading};
use super::contents::{Contents, Delivered};
use super::error::SpoolError;
use super::file::View;
use super::namesakes::{self, NamesakeView};
use super::passes::{self, Pass};
use super::tables::*;
use super::views::Items;

/// Characters of a name that are kept.
pub(crate) const NAME: usize = 63;

/// Characters of another text that are kept.
pub(crate) const TEXT: usize = 200;

/// Bytes or items that a lane can have, at most: sums of them do not overflow.
const MOST: u64 = 1 << 50;

/// How a satellite stands. What it has not said is null.
#[derive(Debug, Clone, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct StandingView {
    /// When the last of it came, ns since the Unix epoch; 0: never.
    pub last_heard_unix_nano: u64,
    /// The next contact behind the last one by its own plan.
    pub next_contact: Option<NextContact>,
    /// Where it takes contacts from.
    pub plan: Option<PlanView>,
    /// What waits on board, by lane: as of the last Hello or Goodbye, less what was committed since.
    pub backlog: Option<Vec<BacklogView>>,
    /// What it expected at its last Hello: whether its store will fill.
    #[schema(value_type = Option<Object>)]
    pub forecast: Option<Value>,
    /// Its agent as a process, as of the last Hello.
    pub agent: Option<AgentView>,
    /// Bytes of segments that are not whole, and what they take beside their bytes.
    pub partial_bytes: u64,
    /// The last pass, as in the list of passes.
    pub last_pass: Option<Pass>,
    /// Its clock, as of its last Hello.
    pub clock: Option<ClockView>,
    /// Other ground-stations with this one's name that have acknowledged something of it.
    pub namesakes: Vec<NamesakeView>,
}

/// A contact to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct NextContact {
    /// The station.
    pub station: String,
    /// AOS by the satellite's plan, ns since the Unix epoch by this station's clock: less by how much the clock is ahead that it plans
    /// by.
    pub start_unix_nano: u64,
}

/// Where a satellite takes contacts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct PlanView {
    /// `contacts.source`.
    pub source: String,
    /// The first 8 bytes of the BLAKE3 hash of the file that is in force, in hex.
    pub hash: Option<String>,
    /// Why the file that lies on board is not in force.
    pub error: Option<String>,
}

/// What waits in a lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct BacklogView {
    /// The lane's number.
    pub lane: u8,
    /// What the satellite calls it.
    pub name: String,
    /// Payload bytes of segments, and OTLP bytes of what is in none yet.
    pub bytes: u64,
    /// Items.
    pub items: Items,
    /// Since when the oldest waits, ns since the Unix epoch by this station's clock, where the satellite says what its own shows.
    pub since_unix_nano: Option<u64>,
}

/// An agent as a process.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct AgentView {
    /// The first 8 bytes of the BLAKE3 hash of its configuration, in hex.
    pub configuration: Option<String>,
    /// Resident memory.
    pub resident_bytes: Option<u64>,
    /// What its memory limiter allows.
    pub memory_limit_bytes: Option<u64>,
    /// CPU time since its start.
    pub cpu_seconds: Option<f64>,
    /// How long it has been running.
    pub running_seconds: Option<f64>,
    /// When its certificate ends, ns since the Unix epoch.
    pub certificate_end_unix_nano: Option<u64>,
}

/// `text` as it is kept.
pub(super) fn clean(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}

/// What a satellite says of its lanes, as it is kept.
pub(super) fn lanes(said: &[LaneBacklog]) -> Vec<LaneBacklog> {
    let mut lanes = BTreeMap::new();
    for lane in said.iter().filter(|lane| lane.lane <= u32::from(u8::MAX)) {
        let items = lane.items.map(|items| link::Counts {
            spans: items.spans.min(MOST),
            metric_points: items.metric_points.min(MOST),
            log_records: items.log_records.min(MOST),
        });
        let (name, bytes) = (clean(&lane.name, NAME), lane.bytes.min(MOST));
        lanes.insert(lane.lane, LaneBacklog { name, bytes, items, ..lane.clone() });
    }
    lanes.into_values().collect()
}

/// Turns the times of lanes into this station's, as of `now`.
pub(super) fn by_our_clock(lanes: &mut [LaneBacklog], offset: Offset, now: u64) {
    for lane in lanes {
        lane.since_unix_nano = offset.past(lane.since_unix_nano, now);
    }
}

/// Turns the times of what is planned into this station's. What the satellite plans by, which need not be its wall clock, is when it says
/// that it made its forecast.
pub(super) fn planned_by_our_clock(plan: Option<&mut Plan>, forecast: &mut link::Forecast, read: &Reading) {
    let offset = read.ahead(forecast.made_unix_nano);
    let next = plan.map(|plan| &mut plan.next_start_unix_nano);
    let link::Forecast { made_unix_nano, plan_until_unix_nano, full_unix_nano, empty_unix_nano, .. } =
        forecast;
    let times = [made_unix_nano, plan_until_unix_nano, full_unix_nano, empty_unix_nano];
    times.into_iter().chain(next).for_each(|time| *time = offset.here(*time));
}

/// What Hello says, as it is kept.
pub(super) fn said(hello: &Hello) -> (Vec<LaneBacklog>, Option<Plan>, Option<AgentState>) {
    let plan = hello.plan.as_ref().map(|plan| Plan {
        source: clean(&plan.source, NAME),
        error: clean(&plan.error, TEXT),
        next_station: clean(&plan.next_station, NAME),
        ..plan.clone()
    });
    (lanes(&hello.backlog), plan, hello.agent)
}

/// The orbit that Hello says, as it is kept. Whether it is one is seen by who draws it.
pub(super) fn orbit(said: &link::Orbit) -> link::Orbit {
    let site = |site: &link::Site| link::Site {
        station: clean(&site.station, NAME),
        mask: site.mask.iter().copied().take(bounds::MASK).collect(),
        ..*site
    };
    link::Orbit {
        name: clean(&said.name, NAME),
        // What is no number is never equal to itself, and a track would be computed anew for each look.
        sites: said.sites.iter().filter(|site| numbers(site)).take(bounds::SITES).map(site).collect(),
        ..*said
    }
}

fn numbers(site: &link::Site) -> bool {
    let place = [site.latitude, site.longitude, site.altitude].iter().all(|n| n.is_finite());
    place && site.mask.iter().all(|n| n.is_finite())
}

/// What is left of a lane. Items are exact; of bytes it is no more than the part of the items, since what was in no segment yet has
/// become smaller in one.
fn less(lane: &LaneBacklog, delivered: &Delivered) -> LaneBacklog {
    let before = Counts::from(lane.items.unwrap_or_default());
    let items = before.saturating_sub(delivered.items);
    let part = u128::from(lane.bytes) * u128::from(items.total()) / u128::from(before.total().max(1));
    let bytes = lane.bytes.saturating_sub(delivered.bytes).min(part as u64);
    if bytes == 0 || items.total() == 0 {
        return LaneBacklog { lane: lane.lane, name: lane.name.clone(), ..LaneBacklog::default() };
    }
    LaneBacklog { bytes, items: Some(items.into()), ..lane.clone() }
}

/// What is left of the lanes of a satellite.
pub(super) fn left(contents: &Contents, satellite: u32, said: &[LaneBacklog]) -> Vec<LaneBacklog> {
    let none = Delivered::default();
    let delivered = |lane: u32| contents.delivered.get(&(satellite, lane as u8)).unwrap_or(&none);
    said.iter().map(|lane| less(lane, delivered(lane.lane))).collect()
}

/// How every satellite stands that was ever heard.
pub(super) fn standings(view: &View<'_>) -> Result<BTreeMap<String, StandingView>, SpoolError> {
    let mut out = BTreeMap::new();
    for row in view.tables.open_table(SATELLITES)?.iter()? {
        let (id, value) = row?;
        let record = decode::<SatelliteRecord>(value.value())?;
        let last_pass = passes::latest(view, record.number)?;
        out.insert(id.value().to_owned(), standing(view, &record, last_pass));
    }
    Ok(out)
}

/// How one satellite stands.
pub(super) fn standing(view: &View<'_>, record: &SatelliteRecord, last_pass: Option<Pass>) -> StandingView {
    let known = |n: u64| (n != 0).then_some(n);
    let hex = |n: u64| known(n).map(|n| format!("{n:016x}"));
    let seconds = |nano: u64| known(nano).map(|nano| nano as f64 / 1e9);
    let plan = record.plan.as_ref();
    // An agent that says what waits says how long it runs.
    let says_backlog =
        record.agent.is_some_and(|agent| agent.running_nano != 0) || !record.backlog.is_empty();
    let lanes = left(view.contents, record.number, &record.backlog).into_iter().map(|lane| BacklogView {
        lane: lane.lane as u8,
        name: lane.name,
        bytes: lane.bytes,
        items: Counts::from(lane.items.unwrap_or_default()).into(),
        since_unix_nano: known(lane.since_unix_nano),
    });
    StandingView {
        last_heard_unix_nano: record.heard.max(record.last_contact),
        next_contact: plan.filter(|plan| plan.next_start_unix_nano != 0).map(|plan| NextContact {
            station: plan.next_station.clone(),
            start_unix_nano: plan.next_start_unix_nano,
        }),
        plan: plan.map(|plan| PlanView {
            source: plan.source.clone(),
            hash: hex(plan.hash),
            error: Some(plan.error.clone()).filter(|error| !error.is_empty()),
        }),
        backlog: says_backlog.then(|| lanes.collect()),
        forecast: record.forecast.as_ref().map(shown_forecast),
        agent: record.agent.as_ref().map(|agent| AgentView {
            configuration: hex(agent.configuration),
            resident_bytes: known(agent.resident_bytes),
            memory_limit_bytes: known(agent.memory_limit_bytes),
            cpu_seconds: seconds(agent.cpu_nano),
            running_seconds: seconds(agent.running_nano),
            certificate_end_unix_nano: known(agent.certificate_end_unix_nano),
        }),
        partial_bytes: view.contents.usage.partial.get(&record.number).copied().unwrap_or(0),
        last_pass,
        clock: record.clock.as_ref().map(ClockRecord::shown),
        namesakes: namesakes::shown(record),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_orbit_is_kept_within_its_bounds_and_a_place_that_is_none_is_not() {
        let site = |latitude: f64, mask: Vec<f32>| link::Site {
            station: format!("{}\n", "s".repeat(500)),
            latitude,
            mask,
            ..Default::default()
        };
        let mut sites = vec![site(f64::NAN, vec![]), site(1.0, vec![f32::INFINITY])];
        sites.extend((0..100).map(|n| site(f64::from(n), vec![1.0; 1_000])));
        let said = link::Orbit { name: "n\u{7}".repeat(500), sites, ..Default::default() };
        let kept = orbit(&said);
        assert_eq!((kept.sites.len(), kept.name.len(), kept.sites[0].latitude), (bounds::SITES, NAME, 0.0));
        assert!(kept.sites.iter().all(|site| site.mask.len() == bounds::MASK && site.station.len() == NAME));
        assert_eq!(kept, orbit(&kept));
    }
}
