//! Each process, as a resource of its own.

use std::collections::HashMap;
use std::path::Path;

use nix::unistd::{Uid, User};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use perigee_shared::units::Span;

use super::super::config::ProcessConfig;
use super::super::filter::Filter;
use super::super::host::{Host, ScrapeError, field, line, numbers};
use super::super::points::{Description, Points, attribute, text};
use super::{Outcome, Scraper};

pub(super) const METRICS: &[Description] = &[
    Description::counter(
        "process.context_switches",
        "{count}",
        "Number of times the process has been context switched.",
    ).by(&["type"])
    .optional(),
    Description::counter("process.cpu.time", "s", "Total CPU seconds broken down by different states.").by(&["state"]),
    Description::gauge(
        "process.cpu.utilization",
        "1",
        "Percentage of total CPU time used by the process since last scrape, expressed as a value between 0 and 1. On the first scrape, no data point is emitted for this metric.",
    ).by(&["state"])
    .optional(),
    Description::counter("process.disk.io", "By", "Disk bytes transferred.").by(&["direction"]),
    Description::counter(
        "process.disk.operations",
        "{operations}",
        "Number of disk operations performed by the process.",
    ).by(&["direction"])
    .optional(),
    Description::up_down("process.memory.usage", "By", "The amount of physical memory in use."),
    Description::gauge(
        "process.memory.utilization",
        "1",
        "Percentage of total physical memory that is used by the process.",
    )
    .optional(),
    Description::up_down("process.memory.virtual", "By", "The amount of committed virtual memory."),
    Description::up_down(
        "process.open_file_descriptors",
        "{count}",
        "Number of file descriptors in use by the process.",
    )
    .optional(),
    Description::counter("process.paging.faults", "{faults}", "Number of page faults the process has made.").by(&["type"])
        .optional(),
    Description::up_down(
        "process.signals_pending",
        "{signals}",
        "Number of pending signals for the process.",
    )
    .optional(),
    Description::up_down("process.threads", "{threads}", "Process threads count.").optional(),
    Description::gauge("process.uptime", "s", "The time the process has been running.").optional(),
];

/// Attributes of a process, and whether a resource has them by default.
pub(in super::super) const ATTRIBUTES: &[(&str, bool)] = &[
    ("process.cgroup", false),
    ("process.command", true),
    ("process.command_line", true),
    ("process.executable.name", true),
    ("process.executable.path", true),
    ("process.linux.cgroup", false),
    ("process.owner", true),
    ("process.parent_pid", true),
    ("process.pid", true),
];

/// The conventions of the Collector's scraper of processes.
pub(super) const SCHEMA: &str = "https://opentelemetry.io/schemas/1.43.0";

/// The kernel cuts longer names, so one of this length may go on.
const NAME_LENGTH: usize = 15;

/// The scraper `process`.
#[derive(Debug)]
pub(super) struct Process {
    names: Filter,
    config: ProcessConfig,
    /// User, system and waiting time of the last scrape, and when that was, by id.
    last: HashMap<u32, ([f64; 3], u64)>,
    /// Names of accounts, since looking one up may go through the network.
    users: HashMap<u32, Option<String>>,
}

impl Process {
    pub(super) fn new(names: Filter, config: &ProcessConfig) -> Self {
        Self { names, config: config.clone(), last: HashMap::new(), users: HashMap::new() }
    }
}

/// `/proc/PID/stat`.
struct Stat {
    name: String,
    parent: u64,
    minor_faults: u64,
    major_faults: u64,
    /// User, system and waiting time, seconds.
    times: [f64; 3],
    threads: u64,
    /// When it began, ns since the Unix epoch.
    began: u64,
}

impl Stat {
    fn read(host: &Host, id: u32) -> Result<Self, ScrapeError> {
        let path = format!("proc/{id}/stat");
        let text = host.read(&path)?;
        let parse = || {
            let (start, rest) = text.rsplit_once(')')?;
            let columns: Vec<&str> = rest.split_ascii_whitespace().collect();
            // Columns as proc(5) numbers them, where the state is the third.
            let at = |column: usize| columns.get(column - 3)?.parse::<u64>().ok();
            let seconds = |column| at(column).map(|ticks| ticks as f64 / host.ticks);
            Some(Self {
                name: start.split_once('(')?.1.to_owned(),
                parent: at(4)?,
                minor_faults: at(10)?,
                major_faults: at(12)?,
                times: [seconds(14)?, seconds(15)?, seconds(42).unwrap_or_default()],
                threads: at(20)?,
                began: host.boot + (at(22)? as f64 / host.ticks * 1e3) as u64 * 1_000_000,
            })
        };
        parse().ok_or_else(|| host.form(&path))
    }
}

impl Scraper for Process {
    fn scrape(&mut self, host: &Host, points: &mut Points, outcome: &mut Outcome) {
        let Some(ids) = outcome.tried(host.processes()) else { return };
        self.last.retain(|id, _| ids.contains(id));
        for id in ids {
            if let Err(error) = self.one(host, points, outcome, id) {
                self.note(outcome, self.config.mute_process_name_error, error);
            }
        }
    }
}

impl Process {
    /// Something of a process could not be read, which is told unless it is muted or the process has ended meanwhile.
    fn note(&self, outcome: &mut Outcome, muted: bool, error: ScrapeError) {
        if !muted && !self.config.mute_process_all_errors && !error.is_gone() {
            outcome.fail(error);
        }
    }

    fn one(
        &mut self,
        host: &Host,
        points: &mut Points,
        outcome: &mut Outcome,
        id: u32,
    ) -> Result<(), ScrapeError> {
        let mut stat = Stat::read(host, id)?;
        let command = host.read(format!("proc/{id}/cmdline"))?;
        let arguments: Vec<&str> = command.trim_end_matches('\0').split('\0').collect();
        if stat.name.len() >= NAME_LENGTH
            && let Some(whole) = Path::new(arguments[0]).file_name().and_then(|name| name.to_str())
            && whole.starts_with(&stat.name)
        {
            stat.name = whole.to_owned();
        }
        let age = Span(std::time::Duration::from_nanos(host.now.saturating_sub(stat.began)));
        if !self.names.takes(&stat.name) || age < self.config.scrape_process_delay {
            return Ok(());
        }
        points.start = stat.began;
        points.add("process.threads", stat.threads, &[]);
        points.add("process.paging.faults", stat.major_faults, &[("type", "major")]);
        points.add("process.paging.faults", stat.minor_faults, &[("type", "minor")]);
        points.add("process.uptime", host.now.saturating_sub(stat.began) as f64 / 1e9, &[]);
        self.times(host, points, id, &stat.times);
        self.memory(host, points, outcome, id);
        self.disk(host, points, outcome, id);
        self.status(host, points, outcome, id);
        let resource = self.resource(host, outcome, id, &stat, &arguments);
        outcome.metrics.extend(points.take(resource));
        Ok(())
    }

    fn times(&mut self, host: &Host, points: &mut Points, id: u32, now: &[f64; 3]) {
        const STATES: [&str; 3] = ["user", "system", "wait"];
        for (seconds, state) in now.iter().zip(STATES) {
            points.add("process.cpu.time", *seconds, &[("state", state)]);
        }
        if !points.wants(&["process.cpu.utilization"]) {
            return;
        }
        let Some((before, then)) = self.last.insert(id, (*now, host.now)) else { return };
        let elapsed = host.now.saturating_sub(then) as f64 / 1e9 * host.cpus.max(1) as f64;
        for ((now, before), state) in now.iter().zip(before).zip(STATES) {
            let share = if elapsed > 0.0 { (now - before) / elapsed } else { 0.0 };
            points.add("process.cpu.utilization", share, &[("state", state)]);
        }
    }

    fn memory(&self, host: &Host, points: &mut Points, outcome: &mut Outcome, id: u32) {
        let path = format!("proc/{id}/statm");
        let pages = host
            .read(&path)
            .and_then(|text| numbers::<2>(text.split_ascii_whitespace()).ok_or_else(|| host.form(&path)));
        match pages {
            Ok([mapped, resident]) => {
                points.add("process.memory.usage", resident * host.page, &[]);
                points.add("process.memory.virtual", mapped * host.page, &[]);
                if points.wants(&["process.memory.utilization"])
                    && let Some(info) = outcome.tried(host.read("proc/meminfo"))
                {
                    let total = field(&info, "MemTotal").unwrap_or_default().max(1) * 1024;
                    // Of a hundred, whatever the unit says: the Collector's dashboards divide.
                    let percent = 100.0 * (resident * host.page) as f64 / total as f64;
                    points.add("process.memory.utilization", percent, &[]);
                }
            }
            Err(error) => self.note(outcome, false, error),
        }
    }

    fn disk(&self, host: &Host, points: &mut Points, outcome: &mut Outcome, id: u32) {
        if !points.wants(&["process.disk.io", "process.disk.operations"]) {
            return;
        }
        match host.read(format!("proc/{id}/io")) {
            Ok(text) => {
                for (direction, bytes, calls) in [("read", "rchar", "syscr"), ("write", "wchar", "syscw")] {
                    let count = |key| field(&text, key).unwrap_or_default();
                    points.add("process.disk.io", count(bytes), &[("direction", direction)]);
                    points.add("process.disk.operations", count(calls), &[("direction", direction)]);
                }
            }
            Err(error) => self.note(outcome, self.config.mute_process_io_error, error),
        }
    }

    /// What takes more files than one.
    fn status(&self, host: &Host, points: &mut Points, outcome: &mut Outcome, id: u32) {
        if points.wants(&["process.context_switches"]) {
            let tasks = host.list(format!("proc/{id}/task")).unwrap_or_default();
            let of = |task: &String| host.read(format!("proc/{id}/task/{task}/status")).ok();
            let tasks: Vec<String> = tasks.iter().filter_map(of).collect();
            for (kind, key) in
                [("involuntary", "nonvoluntary_ctxt_switches"), ("voluntary", "voluntary_ctxt_switches")]
            {
                let count: u64 = tasks.iter().filter_map(|task| field(task, key)).sum();
                points.add("process.context_switches", count, &[("type", kind)]);
            }
        }
        if points.wants(&["process.signals_pending"])
            && let Ok(status) = host.read(format!("proc/{id}/status"))
        {
            let mask = line(&status, "ShdPnd").and_then(|mask| u64::from_str_radix(mask, 16).ok());
            points.add("process.signals_pending", u64::from(mask.unwrap_or_default().count_ones()), &[]);
        }
        if points.wants(&["process.open_file_descriptors"]) {
            match host.list(format!("proc/{id}/fd")) {
                Ok(open) => points.add("process.open_file_descriptors", open.len() as u64, &[]),
                Err(error) => self.note(outcome, false, error),
            }
        }
    }

    fn resource(
        &mut self,
        host: &Host,
        outcome: &mut Outcome,
        id: u32,
        stat: &Stat,
        arguments: &[&str],
    ) -> Vec<KeyValue> {
        let mut out = Vec::new();
        for (name, _) in ATTRIBUTES {
            if !self.config.has_attribute(name) {
                continue;
            }
            out.push(match *name {
                "process.pid" => attribute(name, Any::IntValue(id.into())),
                "process.parent_pid" => {
                    attribute(name, Any::IntValue(stat.parent.try_into().unwrap_or_default()))
                }
                "process.executable.name" => text(name, stat.name.as_str()),
                "process.command" => text(name, arguments[0]),
                "process.command_line" => text(name, arguments.join(" ")),
                "process.owner" => match self.owner(host, id) {
                    Ok(owner) => text(name, owner),
                    Err(error) => {
                        self.note(outcome, self.config.mute_process_user_error, error);
                        continue;
                    }
                },
                "process.executable.path" => {
                    let path = host.root.join(format!("proc/{id}/exe"));
                    let target =
                        std::fs::read_link(&path).map_err(|source| ScrapeError::Read { path, source });
                    let target = target.unwrap_or_else(|error| {
                        self.note(outcome, self.config.mute_process_exe_error, error);
                        Default::default()
                    });
                    text(name, target.to_string_lossy())
                }
                _ => {
                    let cgroup = host.read(format!("proc/{id}/cgroup")).unwrap_or_else(|error| {
                        self.note(outcome, self.config.mute_process_cgroup_error, error);
                        String::new()
                    });
                    text(name, cgroup.trim_end_matches('\n'))
                }
            });
        }
        out
    }

    /// The name of the account that a process runs under.
    fn owner(&mut self, host: &Host, id: u32) -> Result<String, ScrapeError> {
        let path = format!("proc/{id}/status");
        let status = host.read(&path)?;
        let uid = field(&status, "Uid").and_then(|uid| u32::try_from(uid).ok());
        let uid = uid.ok_or_else(|| host.form(&path))?;
        let look_up = || User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
        self.users.entry(uid).or_insert_with(look_up).clone().ok_or(ScrapeError::User(uid))
    }
}
