//! CPU time by CPU and state.

use super::super::host::{Host, cpu_lines, line, numbers};
use super::super::points::{Description, Points};
use super::{Outcome, Scraper};

pub(super) const METRICS: &[Description] = &[
    Description::gauge("system.cpu.frequency", "Hz", "Current frequency of the CPU core in Hz.").by(&["cpu"]).optional(),
    Description::up_down("system.cpu.logical.count", "{cpu}", "Number of available logical CPUs."),
    Description::up_down("system.cpu.physical.count", "{cpu}", "Number of available physical CPUs.")
        .optional(),
    Description::counter("system.cpu.time", "s", "Total seconds each logical CPU spent on each mode.").by(&["cpu", "state"]).opt_in("cpu"),
    Description::gauge(
        "system.cpu.utilization",
        "1",
        "Difference in system.cpu.time since the last measurement per logical CPU, divided by the elapsed time (value in interval [0,1]).",
    ).by(&["cpu", "state"]).opt_in("cpu")
    .optional(),
];

/// The columns of `/proc/stat`. Guests are in `user` and `nice` already.
const STATES: [&str; 8] = ["user", "nice", "system", "idle", "wait", "interrupt", "softirq", "steal"];

/// Ticks by state.
type Times = [u64; STATES.len()];

/// The scraper `cpu`.
#[derive(Debug, Default)]
pub(super) struct Cpu {
    /// Of the last scrape.
    last: Vec<(String, Times)>,
}

impl Scraper for Cpu {
    fn scrape(&mut self, host: &Host, points: &mut Points, outcome: &mut Outcome) {
        points.add("system.cpu.logical.count", host.cpus as u64, &[]);
        let mut times = Vec::with_capacity(host.cpus);
        for (name, columns) in cpu_lines(&host.stat) {
            let Some(now) = numbers(columns.split_ascii_whitespace()) else {
                outcome.fail(host.form("proc/stat"));
                continue;
            };
            let before = self.last.iter().find(|(n, _)| n == name).map(|(_, before)| before);
            record(host, points, name, &now, before);
            times.push((name.to_owned(), now));
        }
        self.last = times;
        if points.wants(&["system.cpu.frequency"])
            && let Some(text) = outcome.tried(host.read("proc/cpuinfo"))
        {
            for cpu in text.split("\n\n") {
                let Some(number) = line_of(cpu, "processor") else { continue };
                let Some(mhz) = line_of(cpu, "cpu MHz").and_then(|mhz| mhz.parse::<f64>().ok()) else {
                    continue;
                };
                points.add("system.cpu.frequency", mhz * 1e6, &[("cpu", &format!("cpu{number}"))]);
            }
        }
        if points.wants(&["system.cpu.physical.count"])
            && let Some(cores) = cores(host)
        {
            points.add("system.cpu.physical.count", cores, &[]);
        }
    }
}

fn record(host: &Host, points: &mut Points, cpu: &str, now: &Times, before: Option<&Times>) {
    for (ticks, state) in now.iter().zip(STATES) {
        points.add("system.cpu.time", *ticks as f64 / host.ticks, &[("cpu", cpu), ("state", state)]);
    }
    let Some(before) = before else { return };
    let elapsed = now.iter().sum::<u64>().saturating_sub(before.iter().sum());
    for ((now, before), state) in now.iter().zip(before).zip(STATES) {
        let share = if elapsed == 0 { 0.0 } else { now.saturating_sub(*before) as f64 / elapsed as f64 };
        points.add("system.cpu.utilization", share, &[("cpu", cpu), ("state", state)]);
    }
}

/// What stands behind `key` and a colon in `/proc/cpuinfo`.
fn line_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    line(text, key).map(|value| value.trim_start_matches([':', ' ', '\t']))
}

/// Cores, each of which may be several logical CPUs; nothing where the kernel does not say.
fn cores(host: &Host) -> Option<u64> {
    let cpus = host.list("sys/devices/system/cpu").ok()?;
    let is_cpu = |name: &&String| name.strip_prefix("cpu").is_some_and(|n| n.parse::<u32>().is_ok());
    let mut groups: Vec<String> = cpus
        .iter()
        .filter(is_cpu)
        .filter_map(|cpu| {
            let of = |file: &str| host.read(format!("sys/devices/system/cpu/{cpu}/topology/{file}"));
            of("core_cpus_list").or_else(|_| of("thread_siblings_list")).ok()
        })
        .collect();
    groups.sort();
    groups.dedup();
    (!groups.is_empty()).then_some(groups.len() as u64)
}
