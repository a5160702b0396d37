//! How full file systems are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use super::super::filter::Filter;
use super::super::host::{Host, ScrapeError};
use super::super::points::{Description, Points};
use super::{Outcome, Scraper};

pub(super) const METRICS: &[Description] = &[
    Description::up_down("system.filesystem.inodes.usage", "{inodes}", "FileSystem inodes used.").by(&[
        "device",
        "mode",
        "mountpoint",
        "type",
        "state",
    ]),
    Description::up_down("system.filesystem.usage", "By", "Filesystem bytes used.").by(&[
        "device",
        "mode",
        "mountpoint",
        "type",
        "state",
    ]),
    Description::gauge("system.filesystem.utilization", "1", "Fraction of filesystem bytes used.")
        .by(&["device", "mode", "mountpoint", "type"])
        .optional(),
];

/// The scraper `filesystem`.
#[derive(Debug)]
pub(super) struct Filesystem {
    /// Of devices, types and mount points.
    pub(super) filters: [Filter; 3],
    /// Whether those without a device are measured too.
    pub(super) with_virtual: bool,
}

/// A line of `mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    device: String,
    kind: String,
    point: String,
    mode: &'static str,
}

impl Scraper for Filesystem {
    fn scrape(&mut self, host: &Host, points: &mut Points, outcome: &mut Outcome) {
        // What process 1 sees is what the machine has; in a container it cannot always be read.
        let text = host.read("proc/1/mountinfo").or_else(|_| host.read("proc/self/mountinfo"));
        let Some(text) = outcome.tried(text) else { return };
        let Some(kinds) = outcome.tried(host.read("proc/filesystems")) else { return };
        let mut seen = Vec::new();
        for mount in mounts(&text, |kind| self.with_virtual || has_device(&kinds, kind), self.with_virtual) {
            let [devices, types, mount_points] = &self.filters;
            let taken =
                devices.takes(&mount.device) && types.takes(&mount.kind) && mount_points.takes(&mount.point);
            if taken && !seen.contains(&mount) {
                outcome.tried(measure(host, points, &mount));
                seen.push(mount);
            }
        }
    }
}

/// Whether a kind of file system lies on a device, by `/proc/filesystems`; `zfs` does, though it says otherwise.
fn has_device(kinds: &str, kind: &str) -> bool {
    kind == "zfs" || kinds.lines().any(|line| !line.starts_with("nodev") && line.trim() == kind)
}

/// The mounts of these kinds in `mountinfo`, whose columns proc(5) lists. A directory that is mounted a second time is the same file
/// system and is left out, unless virtual ones are measured too.
fn mounts(text: &str, is_wanted: impl Fn(&str) -> bool, with_binds: bool) -> Vec<Mount> {
    let mut devices = BTreeMap::new();
    let mut out = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let left: Vec<&str> = left.split_ascii_whitespace().collect();
        let right: Vec<&str> = right.split_ascii_whitespace().collect();
        let (&[_, _, number, root, point, options, ..], &[kind, source, ref more @ ..]) =
            (left.as_slice(), right.as_slice())
        else {
            continue;
        };
        if !is_wanted(kind) {
            continue;
        }
        let own = if source.starts_with('/') || root == "/" { source } else { root };
        // A device that is mounted again has the name that it had first.
        let device = *devices.entry(number).or_insert(own);
        let of_super = more.first().copied().unwrap_or_default();
        let is_subvolume = of_super.split(',').any(|o| o.strip_prefix("subvol=") == Some(root));
        if source.starts_with('/') && root != "/" && !is_subvolume && !with_binds {
            continue;
        }
        let has = |options: &str, option: &str| options.split(',').any(|o| o == option);
        let mode = match () {
            () if has(options, "ro") || has(of_super, "ro") => "ro",
            () if has(options, "rw") => "rw",
            () => "unknown",
        };
        out.push(Mount { device: device.to_owned(), kind: kind.to_owned(), point: unescaped(point), mode });
    }
    out
}

/// The kernel writes spaces and the like in a path as `\040`.
fn unescaped(path: &str) -> String {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).filter(|_| *first == b'\\').and_then(|d| std::str::from_utf8(d).ok());
        let (byte, skip) = match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => (byte, 4),
            None => (*first, 1),
        };
        out.push(byte);
        rest = &rest[skip..];
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Where this process finds a mount point of the machine.
fn path(root: &Path, point: &str) -> PathBuf {
    if Path::new(point).starts_with(root) { point.into() } else { root.join(point.trim_start_matches('/')) }
}

fn measure(host: &Host, points: &mut Points, mount: &Mount) -> Result<(), ScrapeError> {
    let path = path(&host.root, &mount.point);
    let found = statvfs(&path).map_err(|e| ScrapeError::Read { path, source: e.into() })?;
    let attributes = [
        ("device", mount.device.as_str()),
        ("mode", mount.mode),
        ("mountpoint", mount.point.as_str()),
        ("type", mount.kind.as_str()),
    ];
    let mut add = |name: &str, value: u64, state: &'static str| {
        let [a, b, c, d] = attributes;
        points.add(name, value, &[a, b, c, d, ("state", state)]);
    };
    let bytes = |blocks: u64| blocks * found.fragment_size();
    let used = found.blocks().saturating_sub(found.blocks_free());
    let (free, reserved) =
        (found.blocks_available(), found.blocks_free().saturating_sub(found.blocks_available()));
    add("system.filesystem.usage", bytes(used), "used");
    add("system.filesystem.usage", bytes(free), "free");
    add("system.filesystem.usage", bytes(reserved), "reserved");
    add("system.filesystem.inodes.usage", found.files().saturating_sub(found.files_free()), "used");
    add("system.filesystem.inodes.usage", found.files_free(), "free");
    if used + free > 0 {
        points.add("system.filesystem.utilization", used as f64 / (used + free) as f64, &attributes);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_those_of_devices_each_once_and_with_their_real_name() {
        let text = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:5 / /proc rw - proc proc rw
24 22 8:1 /srv /mnt/again rw - ext4 /dev/sda1 rw
25 22 8:2 / /with\\040space ro,noatime - ext4 /dev/sda2 rw
26 22 0:40 /@home /home rw - btrfs /dev/sdb rw,subvol=/@home
27 22 8:1 / /second rw - ext4 /dev/root ro
28 22 0:50 / /run rw - tmpfs tmpfs rw
";
        let kinds = "nodev\tproc\nnodev\ttmpfs\n\text4\n\tbtrfs\n";
        let found = |with_virtual: bool| -> Vec<(String, String, &str)> {
            let all = mounts(text, |kind| with_virtual || has_device(kinds, kind), with_virtual);
            all.into_iter().map(|m| (m.point, m.device, m.mode)).collect()
        };
        let of = |point: &str, device: &str, mode| (point.to_owned(), device.to_owned(), mode);
        let real = [
            of("/", "/dev/sda1", "rw"),
            of("/with space", "/dev/sda2", "ro"),
            of("/home", "/dev/sdb", "rw"),
            of("/second", "/dev/sda1", "ro"),
        ];
        assert_eq!(found(false), real);
        assert_eq!(found(true).len(), 7);
        assert!(found(true).contains(&of("/run", "tmpfs", "rw")));
    }

    #[test]
    fn a_mount_point_is_looked_for_below_the_root_once() {
        let at = |root: &str, point| path(Path::new(root), point).display().to_string();
        assert_eq!(at("/", "/boot"), "/boot");
        assert_eq!(at("/hostfs", "/boot"), "/hostfs/boot");
        assert_eq!(at("/hostfs", "/hostfs/boot"), "/hostfs/boot");
        assert_eq!(at("/hostfs", "/hostfs2"), "/hostfs/hostfs2");
    }
}
