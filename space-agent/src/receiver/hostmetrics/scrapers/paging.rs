//! Swap space and paging.

use super::super::host::{Host, field};
use super::super::points::{Description, Points};
use super::{Outcome, Scraper};

pub(super) const METRICS: &[Description] = &[
    Description::counter("system.paging.faults", "{faults}", "The number of page faults.").by(&["type"]),
    Description::counter("system.paging.operations", "{operations}", "The number of paging operations.")
        .by(&["direction", "type"]),
    Description::up_down("system.paging.usage", "By", "Swap (unix) or pagefile (windows) usage.")
        .by(&["device", "state"]),
    Description::gauge("system.paging.utilization", "1", "Swap (unix) or pagefile (windows) utilization.")
        .by(&["device", "state"])
        .optional(),
];

/// The scraper `paging`.
#[derive(Debug)]
pub(super) struct Paging;

impl Scraper for Paging {
    fn scrape(&mut self, host: &Host, points: &mut Points, outcome: &mut Outcome) {
        if let Some(text) = outcome.tried(host.read("proc/swaps")) {
            usage(host, points, outcome, &text);
        }
        let Some(text) = outcome.tried(host.read("proc/vmstat")) else { return };
        let count = |key| field(&text, key).unwrap_or_default();
        // Events as the kernel counts them; the Collector multiplies each by 4096.
        for (direction, swapped, paged) in
            [("page_in", "pswpin", "pgpgin"), ("page_out", "pswpout", "pgpgout")]
        {
            for (kind, key) in [("major", swapped), ("minor", paged)] {
                let attributes = [("direction", direction), ("type", kind)];
                points.add("system.paging.operations", count(key), &attributes);
            }
        }
        let (all, major) = (count("pgfault"), count("pgmajfault"));
        points.add("system.paging.faults", major, &[("type", "major")]);
        points.add("system.paging.faults", all.saturating_sub(major), &[("type", "minor")]);
    }
}

fn usage(host: &Host, points: &mut Points, outcome: &mut Outcome, swaps: &str) {
    for line in swaps.lines().skip(1) {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let sizes = |at: usize| columns.get(at).and_then(|kib| kib.parse::<u64>().ok());
        let (Some(device), Some(total), Some(used)) = (columns.first(), sizes(2), sizes(3)) else {
            outcome.fail(host.form("proc/swaps"));
            continue;
        };
        for (state, kib) in [("used", used), ("free", total.saturating_sub(used))] {
            let attributes = [("device", *device), ("state", state)];
            points.add("system.paging.usage", kib * 1024, &attributes);
            points.add("system.paging.utilization", kib as f64 / total.max(1) as f64, &attributes);
        }
    }
}
