//! Contacts: as the plan says, and as they are.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::log::Window;
use crate::scenario::{Link, Passes, Scenario};

/// How far a new plan is off, at most.
const OFF: Duration = Duration::from_secs(5);

/// A contact; times since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// The satellite's number.
    pub satellite: u16,
    /// The station's number.
    pub station: u16,
    /// AOS.
    pub start: Duration,
    /// LOS as the plan has it.
    pub end: Duration,
    /// LOS as it is.
    pub los: Duration,
}

/// Every contact of a scenario, in the order of satellites and times.
pub fn passes(scenario: &Scenario) -> Vec<Pass> {
    let station = |id: &String| scenario.stations.iter().position(|s| s == id).unwrap_or(0) as u16;
    if let Some(by_chance) = &scenario.passes {
        return (0..scenario.satellites).flat_map(|s| of_satellite(scenario, by_chance, s)).collect();
    }
    let mut all: Vec<Pass> = scenario
        .contacts
        .iter()
        .map(|c| Pass {
            satellite: c.satellite,
            station: station(&c.station),
            start: c.start.0,
            end: c.end.0,
            los: c.cut.unwrap_or(c.end).0,
        })
        .collect();
    all.sort_by_key(|p| (p.satellite, p.start));
    all
}

/// A pass in each of equal parts of the time, at any place in it, and one of another station that overlaps it where that is wanted.
fn of_satellite(scenario: &Scenario, passes: &Passes, satellite: u16) -> Vec<Pass> {
    let seed = scenario.seed ^ (u64::from(satellite) + 1).wrapping_mul(0xd134_2543_de82_ef95);
    let mut rng = SmallRng::seed_from_u64(seed);
    let slot = Duration::from_secs_f64(86_400.0 / passes.per_day);
    let mut out = Vec::new();
    // The last slot is there only if it is whole, but for what is rounded.
    let slots = (scenario.duration.0.as_secs_f64() / 86_400.0 * passes.per_day + 1e-6) as u32;
    for begins in (0..slots).map(|n| slot * n) {
        let length = passes.shortest.0 + (passes.longest.0 - passes.shortest.0).mul_f64(rng.random());
        let span = if passes.handover > 0.0 { length + passes.longest.0 } else { length };
        let start = begins + (slot - span - Duration::from_secs(60)).mul_f64(rng.random());
        let (luck, part): (f64, f64) = (rng.random(), rng.random());
        let station = rng.random_range(0..scenario.stations.len()) as u16;
        let lasts = if luck < passes.cut { length.mul_f64(part) } else { length };
        // Whole milliseconds, as plans have them.
        let whole = |d: Duration| Duration::from_millis(d.as_millis() as u64);
        let start = whole(start);
        out.push(Pass {
            satellite,
            station,
            start,
            end: start + whole(length),
            los: start + whole(lasts).max(Duration::from_millis(1)),
        });
        if passes.handover > 0.0 && rng.random::<f64>() < passes.handover {
            let start = start + whole(length.mul_f64(rng.random_range(0.5..0.9)));
            let length = passes.shortest.0 + (passes.longest.0 - passes.shortest.0).mul_f64(rng.random());
            let end = start + whole(length);
            let others = scenario.stations.len() as u16;
            let station = (station + rng.random_range(1..others)) % others;
            out.push(Pass { satellite, station, start, end, los: end });
        }
    }
    out
}

/// When the link between these two is up.
pub fn windows(passes: &[Pass], satellite: u16, station: u16) -> Vec<Window> {
    passes
        .iter()
        .filter(|p| p.satellite == satellite && p.station == station)
        .map(|p| Window { start: p.start, end: p.los })
        .collect()
}

/// The plan file of a satellite.
pub fn file(scenario: &Scenario, passes: &[Pass], satellite: u16) -> String {
    listed(scenario, passes.iter().filter(|p| p.satellite == satellite))
}

/// The plan file that comes in the pass with this number, after so many others: it has none that was over before, and each of its passes is
/// up to five seconds off.
pub fn new_file(scenario: &Scenario, passes: &[Pass], number: usize, before: usize) -> String {
    let off = |(at, pass): (usize, &Pass)| {
        // None, too late, too early, and again; another one in the next plan.
        let moved = |time: Duration| match (at + before) % 3 {
            0 => time,
            1 => time + OFF,
            _ => time.saturating_sub(OFF),
        };
        Pass { start: moved(pass.start), end: moved(pass.end), ..*pass }
    };
    let Pass { satellite, start, .. } = passes[number];
    let later = passes.iter().enumerate().filter(|(_, p)| p.satellite == satellite && p.end > start);
    let of_satellite: Vec<Pass> = later.map(off).collect();
    listed(scenario, of_satellite.iter())
}

fn listed<'p>(scenario: &Scenario, passes: impl Iterator<Item = &'p Pass>) -> String {
    let mut out = String::from("contacts:\n");
    let mut any = false;
    for pass in passes {
        any = true;
        let time = |at: Duration| humantime::format_rfc3339_millis(UNIX_EPOCH + scenario.start.0 + at);
        let _ = writeln!(
            out,
            "- {{station: {}, start: {}, end: {}{}}}",
            scenario.stations[usize::from(pass.station)],
            time(pass.start),
            time(pass.end),
            about(&scenario.link)
        );
    }
    if any { out } else { "contacts: []\n".to_owned() }
}

fn about(link: &Link) -> String {
    let mut out = String::new();
    if link.planned {
        let (down, up) = (link.down.rate, link.up.rate);
        let light = link.down.delay.0.as_secs_f64();
        let _ = write!(out, ", rate_down: {down}bit/s, rate_up: {up}bit/s, light_time: {light}s");
    }
    let _ = write!(out, ", guard: {}s", link.guard.0.as_secs_f64());
    if let Some(budget) = link.byte_budget {
        let _ = write!(out, ", byte_budget: {}B", budget.0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_days(stations: &str, handover: &str) -> Scenario {
        let text = format!(
            "
duration: 48h
stations: {stations}
telemetry: {{raw_per_day: 1MB}}
link: {{down: {{rate: 1Mbit/s, delay: 5ms}}, up: {{rate: 1Mbit/s, delay: 5ms}}}}
passes: {{per_day: 14, shortest: 5m, longest: 9m, handover: {handover}}}
"
        );
        perigee_shared::config::parse(&text, "test.yaml", |_| None).expect("it is right")
    }

    #[test]
    fn a_new_plan_has_no_earlier_pass_and_is_some_seconds_off() {
        let scenario = two_days("[svalbard]", "0%");
        let passes = passes(&scenario);
        let (whole, new, next) = (
            file(&scenario, &passes, 0),
            new_file(&scenario, &passes, 3, 3),
            new_file(&scenario, &passes, 4, 4),
        );
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lines(&new).len(), lines(&whole).len() - 3);
        assert_eq!(lines(&new)[1], lines(&whole)[4], "the pass that is under way is as it was");
        assert_eq!(lines(&new).iter().zip(&lines(&whole)[3..]).filter(|(new, was)| new == was).count(), 9);
        assert!(lines(&next)[1] != lines(&new)[2], "the next plan has it at another time");
    }

    #[test]
    fn a_day_has_as_many_passes_as_it_says_and_they_do_not_overlap() {
        let scenario = two_days("[svalbard, beijing]", "0%");
        let passes = passes(&scenario);
        assert_eq!(passes.len(), 28);
        assert!(passes.windows(2).all(|p| p[0].end < p[1].start));
        assert!(passes.iter().all(|p| p.end <= scenario.duration.0));
    }

    #[test]
    fn a_handover_overlaps_the_pass_before_it_at_another_station_and_no_other() {
        let scenario = two_days("[svalbard, beijing, kourou]", "100%");
        let passes = passes(&scenario);
        assert_eq!(passes.len(), 56);
        for pair in passes.chunks(2) {
            assert!(pair[0].start < pair[1].start && pair[1].start < pair[0].end);
            assert_ne!(pair[0].station, pair[1].station);
        }
        let last = |pair: &[Pass]| pair[0].end.max(pair[1].end);
        let mut pairs = passes.chunks(2).zip(passes.chunks(2).skip(1));
        assert!(pairs.all(|(pair, next)| last(pair) < next[0].start));
        let new = new_file(&scenario, &passes, 3, 3);
        assert_eq!(new.lines().count(), 1 + 56 - 2, "the one that it overlaps is under way");
    }
}
