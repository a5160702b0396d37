//! Load averages.

use super::super::host::Host;
use super::super::points::{Description, Points};
use super::{Outcome, Scraper};

pub(super) const METRICS: &[Description] = &[
    Description::gauge("system.cpu.load_average.15m", "{thread}", "Average CPU Load over 15 minutes."),
    Description::gauge("system.cpu.load_average.1m", "{thread}", "Average CPU Load over 1 minute."),
    Description::gauge("system.cpu.load_average.5m", "{thread}", "Average CPU Load over 5 minutes."),
];

/// The scraper `load`.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) cpu_average: bool,
}

impl Scraper for Load {
    fn scrape(&mut self, host: &Host, points: &mut Points, outcome: &mut Outcome) {
        let Some(text) = outcome.tried(host.read("proc/loadavg")) else { return };
        let loads: Vec<f64> = text.split_ascii_whitespace().map_while(|load| load.parse().ok()).collect();
        let &[one, five, fifteen, ..] = loads.as_slice() else {
            outcome.fail(host.form("proc/loadavg"));
            return;
        };
        let divisor = if self.cpu_average { host.cpus.max(1) as f64 } else { 1.0 };
        points.add("system.cpu.load_average.1m", one / divisor, &[]);
        points.add("system.cpu.load_average.5m", five / divisor, &[]);
        points.add("system.cpu.load_average.15m", fifteen / divisor, &[]);
    }
}
