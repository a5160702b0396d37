//! How many processes there are.

use std::collections::BTreeMap;

use super::super::host::{Host, field};
use super::super::points::{Description, Points};
use super::{Outcome, Scraper};

pub(super) const METRICS: &[Description] = &[
    Description::up_down("system.processes.count", "{processes}", "Total number of processes in each state.")
        .by(&["status"]),
    Description::counter(
        "system.processes.created",
        "{processes}",
        "Total number of created processes. Supported on Linux and OpenBSD.",
    ),
];

/// The scraper `processes`.
#[derive(Debug)]
pub(super) struct Processes;

impl Scraper for Processes {
    fn scrape(&mut self, host: &Host, points: &mut Points, outcome: &mut Outcome) {
        let count = |key| field(&host.stat, key);
        if let Some(created) = count("processes") {
            points.add("system.processes.created", created, &[]);
        }
        if !points.wants(&["system.processes.count"]) {
            return;
        }
        let Some(ids) = outcome.tried(host.processes()) else { return };
        let mut states: BTreeMap<&str, u64> = BTreeMap::new();
        for id in &ids {
            // One that has ended meanwhile is not counted.
            if let Ok(stat) = host.read(format!("proc/{id}/stat")) {
                *states.entry(state(&stat)).or_default() += 1;
            }
        }
        // Of these two the kernel has the number of one moment.
        for (name, key) in [("blocked", "procs_blocked"), ("running", "procs_running")] {
            states.insert(name, count(key).unwrap_or_default());
        }
        let known: u64 = states.values().sum();
        if ids.len() as u64 > known {
            states.insert("unknown", ids.len() as u64 - known);
        }
        for (state, count) in states {
            points.add("system.processes.count", count, &[("status", state)]);
        }
    }
}

/// The state in `/proc/PID/stat`, which stands behind the name; a name may have parentheses.
fn state(stat: &str) -> &'static str {
    match stat.rsplit_once(") ").map_or("", |(_, rest)| rest).chars().next() {
        Some('D') => "blocked",
        Some('I') => "idle",
        Some('R') => "running",
        Some('S') => "sleeping",
        Some('T' | 't') => "stopped",
        Some('W') => "paging",
        Some('Z') => "zombies",
        _ => "unknown",
    }
}
