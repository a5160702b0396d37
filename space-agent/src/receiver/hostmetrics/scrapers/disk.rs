//! What disks read and write.

use super::super::filter::Filter;
use super::super::host::{Host, numbers};
use super::super::points::{Description, Points};
use super::{Outcome, Scraper};

pub(super) const METRICS: &[Description] = &[
    Description::counter("system.disk.io", "By", "Disk bytes transferred.").by(&["device", "direction"]),
    Description::counter(
        "system.disk.io_time",
        "s",
        "Time disk spent activated. On Windows, this is calculated as the inverse of disk idle time.",
    )
    .by(&["device"]),
    Description::counter(
        "system.disk.merged",
        "{operations}",
        "The number of disk reads/writes merged into single physical disk access operations.",
    )
    .by(&["device", "direction"]),
    Description::counter("system.disk.operation_time", "s", "Time spent in disk operations.")
        .by(&["device", "direction"]),
    Description::counter("system.disk.operations", "{operations}", "Disk operations count.")
        .by(&["device", "direction"]),
    Description::up_down(
        "system.disk.pending_operations",
        "{operations}",
        "The queue size of pending I/O operations.",
    )
    .by(&["device"]),
    Description::counter(
        "system.disk.weighted_io_time",
        "s",
        "Time disk spent activated multiplied by the queue length.",
    )
    .by(&["device"]),
];

/// Bytes of a sector in `/proc/diskstats`, whatever the disk has.
const SECTOR: u64 = 512;

/// The scraper `disk`.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) devices: Filter,
}

impl Scraper for Disk {
    fn scrape(&mut self, host: &Host, points: &mut Points, outcome: &mut Outcome) {
        let Some(text) = outcome.tried(host.read("proc/diskstats")) else { return };
        for line in text.lines() {
            let mut columns = line.split_ascii_whitespace();
            let Some(device) = columns.nth(2) else { continue };
            let Some(counts) = numbers::<11>(columns) else {
                outcome.fail(host.form("proc/diskstats"));
                continue;
            };
            // A device that never did anything: the kernel makes loop and RAM devices in advance.
            if counts != [0; 11] && self.devices.takes(device) {
                record(points, device, &counts);
            }
        }
    }
}

fn record(points: &mut Points, device: &str, counts: &[u64; 11]) {
    let [
        reads,
        reads_merged,
        sectors_read,
        read_ms,
        writes,
        writes_merged,
        sectors_written,
        write_ms,
        pending,
        ms,
        weighted_ms,
    ] = *counts;
    let seconds = |ms: u64| ms as f64 / 1000.0;
    for (direction, operations, merged, sectors, ms) in [
        ("read", reads, reads_merged, sectors_read, read_ms),
        ("write", writes, writes_merged, sectors_written, write_ms),
    ] {
        let attributes = [("device", device), ("direction", direction)];
        points.add("system.disk.io", sectors * SECTOR, &attributes);
        points.add("system.disk.operations", operations, &attributes);
        points.add("system.disk.operation_time", seconds(ms), &attributes);
        points.add("system.disk.merged", merged, &attributes);
    }
    points.add("system.disk.io_time", seconds(ms), &[("device", device)]);
    points.add("system.disk.pending_operations", pending, &[("device", device)]);
    points.add("system.disk.weighted_io_time", seconds(weighted_ms), &[("device", device)]);
}
