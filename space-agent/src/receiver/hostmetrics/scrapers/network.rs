//! Interfaces and TCP connections.

use std::collections::HashSet;

use super::super::filter::Filter;
use super::super::host::{Host, numbers};
use super::super::points::{Description, Points};
use super::{Outcome, Scraper, sockets};

pub(super) const METRICS: &[Description] = &[
    Description::up_down("system.network.connections", "{connections}", "The number of connections.")
        .by(&["protocol", "state"]),
    Description::up_down(
        "system.network.conntrack.count",
        "{entries}",
        "The count of entries in conntrack table.",
    )
    .optional(),
    Description::up_down(
        "system.network.conntrack.max",
        "{entries}",
        "The limit for entries in the conntrack table.",
    )
    .optional(),
    Description::counter("system.network.dropped", "{packets}", "The number of packets dropped.")
        .by(&["device", "direction"]),
    Description::counter("system.network.errors", "{errors}", "The number of errors encountered.")
        .by(&["device", "direction"]),
    Description::counter("system.network.io", "By", "The number of bytes transmitted and received.")
        .by(&["device", "direction"]),
    Description::counter("system.network.packets", "{packets}", "The number of packets transferred.")
        .by(&["device", "direction"]),
];

/// States of TCP by the kernel's number, from 1. No connection on Linux is in `DELETE`, which the Collector reports too.
const STATES: [&str; 12] = [
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT_1",
    "FIN_WAIT_2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "DELETE",
];

/// The scraper `network`.
#[derive(Debug)]
pub(super) struct Network {
    interfaces: Filter,
    /// The kernel has refused to give its sockets to a program.
    refused: bool,
}

impl Scraper for Network {
    fn scrape(&mut self, host: &Host, points: &mut Points, outcome: &mut Outcome) {
        self.interfaces(host, points, outcome);
        if points.wants(&["system.network.connections"]) {
            self.connections(host, points, outcome);
        }
        for (name, file) in [
            ("system.network.conntrack.count", "proc/sys/net/netfilter/nf_conntrack_count"),
            ("system.network.conntrack.max", "proc/sys/net/netfilter/nf_conntrack_max"),
        ] {
            if points.wants(&[name])
                && let Some(entries) = outcome.tried(host.number(file))
            {
                points.add(name, entries, &[]);
            }
        }
    }
}

impl Network {
    pub(super) const fn new(interfaces: Filter) -> Self {
        Self { interfaces, refused: false }
    }

    /// Connections by state. Listeners that share an address count once, as in the Collector.
    fn connections(&mut self, host: &Host, points: &mut Points, outcome: &mut Outcome) {
        let mut counts = [0u64; STATES.len()];
        let mut add = |state: usize| {
            if let Some(count) = state.checked_sub(1).and_then(|at| counts.get_mut(at)) {
                *count += 1;
            }
        };
        match (host.is_own() && !self.refused).then(sockets::tcp) {
            Some(Ok(found)) => found.iter().for_each(|socket| add(socket.state())),
            failed => {
                // For good: a kernel without it would look for a module every time.
                self.refused |= failed.is_some();
                tables(host, outcome, add);
            }
        }
        for (state, count) in STATES.into_iter().zip(counts) {
            points.add("system.network.connections", count, &[("protocol", "tcp"), ("state", state)]);
        }
    }

    fn interfaces(&self, host: &Host, points: &mut Points, outcome: &mut Outcome) {
        let Some(text) = outcome.tried(host.read("proc/net/dev")) else { return };
        // Two lines of headings; an alias has a colon in its name.
        for line in text.lines().skip(2) {
            let split = line.rsplit_once(':').map(|(name, rest)| (name.trim(), rest));
            let counts = split.and_then(|(_, rest)| numbers::<12>(rest.split_ascii_whitespace()));
            let (Some((name, _)), Some(counts)) = (split, counts) else {
                outcome.fail(host.form("proc/net/dev"));
                continue;
            };
            if !self.interfaces.takes(name) {
                continue;
            }
            for (direction, at) in [("transmit", 8), ("receive", 0)] {
                let attributes = [("device", name), ("direction", direction)];
                points.add("system.network.io", counts[at], &attributes);
                points.add("system.network.packets", counts[at + 1], &attributes);
                points.add("system.network.errors", counts[at + 2], &attributes);
                points.add("system.network.dropped", counts[at + 3], &attributes);
            }
        }
    }
}

/// The states of TCP's sockets as the kernel writes them down.
fn tables(host: &Host, outcome: &mut Outcome, mut add: impl FnMut(usize)) {
    for file in ["proc/net/tcp", "proc/net/tcp6"] {
        let text = match host.read_table(file) {
            // A kernel without IPv6.
            Err(error) if error.is_gone() && file.ends_with('6') => continue,
            text => text,
        };
        let Some(text) = outcome.tried(text) else { continue };
        let mut seen = HashSet::new();
        for line in text.lines().skip(1) {
            let mut columns = line.split_ascii_whitespace().skip(1);
            let (Some(local), Some(remote), Some(state)) = (columns.next(), columns.next(), columns.next())
            else {
                continue;
            };
            if seen.insert((local, remote, state)) {
                add(usize::from_str_radix(state, 16).unwrap_or_default());
            }
        }
    }
}
