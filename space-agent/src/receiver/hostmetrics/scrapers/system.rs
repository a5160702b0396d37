//! How long the machine runs.

use super::super::host::Host;
use super::super::points::{Description, Points};
use super::{Outcome, Scraper};

pub(super) const METRICS: &[Description] =
    &[Description::gauge("system.uptime", "s", "The time the system has been running")];

/// The scraper `system`.
#[derive(Debug)]
pub(super) struct System;

impl Scraper for System {
    fn scrape(&mut self, host: &Host, points: &mut Points, outcome: &mut Outcome) {
        let Some(text) = outcome.tried(host.read("proc/uptime")) else { return };
        match text.split_ascii_whitespace().next().and_then(|seconds| seconds.parse::<f64>().ok()) {
            Some(seconds) => points.add("system.uptime", seconds, &[]),
            None => outcome.fail(host.form("proc/uptime")),
        }
    }
}
