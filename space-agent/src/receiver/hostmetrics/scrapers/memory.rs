//! Memory by state.

use super::super::host::{Host, field};
use super::super::points::{Description, Points};
use super::{Outcome, Scraper};

pub(super) const METRICS: &[Description] = &[
    Description::up_down(
        "system.linux.memory.available",
        "By",
        "An estimate of how much memory is available for starting new applications, without swapping. This is a more accurate alternative than system.memory.usage with state=free. (Linux only)",
    )
    .optional(),
    Description::up_down(
        "system.linux.memory.dirty",
        "By",
        "The amount of dirty memory according to `/proc/meminfo`.",
    )
    .optional(),
    Description::up_down("system.memory.limit", "By", "Total bytes of memory available.").optional(),
    Description::up_down(
        "system.memory.linux.hugepages.limit",
        "{page}",
        "Total number of hugepages available.",
    )
    .optional(),
    Description::up_down("system.memory.linux.hugepages.page_size", "By", "System hugepage size in bytes.")
        .optional(),
    Description::up_down("system.memory.linux.hugepages.reserved", "{page}", "Number of reserved hugepages.")
        .optional(),
    Description::up_down("system.memory.linux.hugepages.surplus", "{page}", "Number of surplus hugepages.")
        .optional(),
    Description::up_down(
        "system.memory.linux.hugepages.usage",
        "{page}",
        "Number of hugepages in use by state.",
    ).by(&["system.memory.linux.hugepages.state"])
    .optional(),
    Description::gauge(
        "system.memory.linux.hugepages.utilization",
        "1",
        "Percentage of hugepages in use by state.",
    ).by(&["system.memory.linux.hugepages.state"])
    .optional(),
    Description::up_down(
        "system.memory.linux.shared",
        "By",
        "Shared memory usage, including tmpfs filesystems and System V/POSIX shared memory. Only supported on Linux.",
    )
    .optional(),
    Description::gauge(
        "system.memory.page_size",
        "By",
        "A constant value for the system's configured page size.",
    )
    .optional(),
    Description::up_down("system.memory.usage", "By", "Bytes of memory in use.").by(&["state"]),
    Description::gauge("system.memory.utilization", "1", "Percentage of memory bytes in use.").by(&["state"]).optional(),
];

/// The scraper `memory`.
#[derive(Debug)]
pub(super) struct Memory;

impl Scraper for Memory {
    fn scrape(&mut self, host: &Host, points: &mut Points, outcome: &mut Outcome) {
        let Some(text) = outcome.tried(host.read("proc/meminfo")) else { return };
        let pages = |key: &str| field(&text, key).unwrap_or_default();
        let bytes = |key: &str| pages(key) * 1024;
        let total = bytes("MemTotal");
        if total == 0 {
            outcome.fail(host.form("proc/meminfo"));
            return;
        }
        let (free, buffers, reclaimable) = (bytes("MemFree"), bytes("Buffers"), bytes("SReclaimable"));
        let cached = bytes("Cached") + reclaimable;
        // Kernels before 3.14 do not estimate it.
        let available = field(&text, "MemAvailable").map_or(free + cached, |kib| kib * 1024);
        for (state, value) in [
            ("used", total.saturating_sub(available)),
            ("free", free),
            ("buffered", buffers),
            ("cached", cached),
            ("slab_reclaimable", reclaimable),
            ("slab_unreclaimable", bytes("SUnreclaim")),
        ] {
            points.add("system.memory.usage", value, &[("state", state)]);
            points.add("system.memory.utilization", value as f64 / total as f64, &[("state", state)]);
        }
        points.add("system.memory.limit", total, &[]);
        points.add("system.memory.page_size", host.page, &[]);
        points.add("system.linux.memory.available", available, &[]);
        points.add("system.linux.memory.dirty", bytes("Dirty"), &[]);
        points.add("system.memory.linux.shared", bytes("Shmem"), &[]);
        let (all, unused) = (pages("HugePages_Total"), pages("HugePages_Free"));
        points.add("system.memory.linux.hugepages.limit", all, &[]);
        points.add("system.memory.linux.hugepages.page_size", bytes("Hugepagesize"), &[]);
        points.add("system.memory.linux.hugepages.reserved", pages("HugePages_Rsvd"), &[]);
        points.add("system.memory.linux.hugepages.surplus", pages("HugePages_Surp"), &[]);
        for (state, value) in [("free", unused), ("used", all.saturating_sub(unused))] {
            let attributes = [("system.memory.linux.hugepages.state", state)];
            points.add("system.memory.linux.hugepages.usage", value, &attributes);
            if all > 0 {
                let share = value as f64 / all as f64;
                points.add("system.memory.linux.hugepages.utilization", share, &attributes);
            }
        }
    }
}
