//! The packet log: what was sent when, in which direction, and what became of it; and whether that is what the link allows.
//!
//! The check knows the link's rules from the scenario and nothing of how the network decides: it works out again, from the
//! sizes and the times of sending alone, when each packet leaves the serialiser.

use std::collections::BTreeMap;
use std::time::Duration;

use linkem::Path;
use linkem::config::Queue;

/// Violations that are kept for the report.
const KEPT: usize = 20;

/// A contact as the network has it: from AOS until LOS, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// AOS.
    pub start: Duration,
    /// LOS.
    pub end: Duration,
}

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Way {
    /// From the satellite to the ground.
    Down = 0,
    /// From the ground to the satellite.
    Up = 1,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is there at that time; `held` when later ones may overtake it.
    Arrives {
        /// When it is there.
        at: Duration,
        /// Later ones may overtake it.
        held: bool,
    },
    /// It is lost by itself.
    Loss,
    /// It is lost in a burst.
    Burst,
    /// The queue has no room.
    Queue,
    /// The link is down.
    Down,
    /// It is under way at LOS.
    Los,
}

impl Fate {
    const NAMES: [&'static str; 6] = ["arrives", "loss", "burst", "queue", "down", "los"];

    const fn number(self) -> usize {
        match self {
            Self::Arrives { .. } => 0,
            Self::Loss => 1,
            Self::Burst => 2,
            Self::Queue => 3,
            Self::Down => 4,
            Self::Los => 5,
        }
    }

    /// For people.
    pub const fn name(self) -> &'static str {
        Self::NAMES[self.number()]
    }
}

/// A packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// When it was sent, since the start.
    pub sent: Duration,
    /// The satellite's number.
    pub satellite: u16,
    /// The station's number.
    pub station: u16,
    /// Which way.
    pub way: Way,
    /// UDP payload bytes.
    pub bytes: u32,
    /// What became of it.
    pub fate: Fate,
}

impl Entry {
    fn to_bytes(self) -> [u8; 26] {
        let mut out = [0; 26];
        let (at, held) = match self.fate {
            Fate::Arrives { at, held } => (at, held),
            _ => (Duration::ZERO, false),
        };
        out[..8].copy_from_slice(&(self.sent.as_nanos() as u64).to_le_bytes());
        out[8..10].copy_from_slice(&self.satellite.to_le_bytes());
        out[10..12].copy_from_slice(&self.station.to_le_bytes());
        out[12..16].copy_from_slice(&self.bytes.to_le_bytes());
        out[16] = self.way as u8;
        out[17] = self.fate.number() as u8 | u8::from(held) << 7;
        out[18..].copy_from_slice(&(at.as_nanos() as u64).to_le_bytes());
        out
    }
}

/// Packets and bytes of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets by what became of them.
    pub packets: [u64; 6],
    /// Bytes that were sent while the link was up.
    pub sent_bytes: u64,
    /// Bytes that arrived.
    pub arrived_bytes: u64,
}

impl Traffic {
    /// Packets by what became of them, with its name.
    pub fn fates(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Fate::NAMES.into_iter().zip(self.packets)
    }
}

/// What a link allows in one direction.
#[derive(Debug, Clone)]
struct Rules {
    path: Path,
    windows: Vec<Window>,
    /// The window of the packet before, and when it had left the serialiser.
    before: Option<(Window, Duration)>,
}

impl Rules {
    /// What is wrong with this packet, if anything.
    fn judge(&mut self, entry: &Entry) -> Result<(), String> {
        let at = self.windows.partition_point(|w| w.start <= entry.sent);
        let window = at.checked_sub(1).map(|n| self.windows[n]).filter(|w| entry.sent < w.end);
        let Some(window) = window else {
            return if entry.fate == Fate::Down {
                Ok(())
            } else {
                Err("sent over a link that is down".into())
            };
        };
        let free = self.before.filter(|(w, _)| *w == window).map_or(entry.sent, |(_, left)| left);
        let Some(rate) = self.path.rate else { return Ok(()) };
        let bits = 8.0 * f64::from(entry.bytes);
        let waiting = free.saturating_sub(entry.sent).as_secs_f64() * rate as f64;
        let queue = 8.0 * self.path.queue.bytes(rate, self.path.delay) as f64;
        // A bit for what is rounded.
        let full = waiting > 1.0 && waiting + bits > queue + 8.0;
        match entry.fate {
            Fate::Down => return Err("refused although the link is up".into()),
            Fate::Queue if waiting + bits < queue - 8.0 => {
                return Err("refused although the queue has room".into());
            }
            Fate::Queue => return Ok(()),
            _ if full => return Err("taken although the queue is full".into()),
            _ => {}
        }
        let left = free.max(entry.sent) + Duration::from_secs_f64(bits / rate as f64);
        self.before = Some((window, left));
        let due = left + self.path.delay;
        match entry.fate {
            Fate::Arrives { at, .. } if at > window.end => Err("arrived after the end of the contact".into()),
            Fate::Arrives { at, held: false } if at.abs_diff(due) > Duration::from_micros(1) => {
                Err(format!("arrived at {at:?}, {due:?} is what rate and delay allow"))
            }
            Fate::Arrives { at, held: true } if at < due => Err("came before its time".into()),
            Fate::Los if due + self.longest_hold() < window.end => {
                Err("lost although its contact went on".into())
            }
            _ => Ok(()),
        }
    }

    fn longest_hold(&self) -> Duration {
        self.path.reorder.map_or(Duration::ZERO, |r| r.by)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Log {
    hash: blake3::Hasher,
    entries: u64,
    traffic: [Traffic; 2],
    rules: BTreeMap<(u16, u16, Way), Rules>,
    violations: Vec<String>,
    violated: u64,
    kept: Option<Vec<Entry>>,
}

impl Log {
    /// An empty log; it keeps every entry if `keep`.
    pub fn new(keep: bool) -> Self {
        Self {
            hash: blake3::Hasher::new(),
            entries: 0,
            traffic: Default::default(),
            rules: BTreeMap::new(),
            violations: Vec::new(),
            violated: 0,
            kept: keep.then(Vec::new),
        }
    }

    /// Tells what the link between these two allows.
    pub fn rule(&mut self, satellite: u16, station: u16, way: Way, path: Path, windows: Vec<Window>) {
        debug_assert!(matches!(path.queue, Queue::Bdp(_) | Queue::Bytes(_)));
        self.rules.insert((satellite, station, way), Rules { path, windows, before: None });
    }

    /// Takes a packet in.
    pub fn push(&mut self, entry: Entry) {
        self.entries += 1;
        self.hash.update(&entry.to_bytes());
        let traffic = &mut self.traffic[entry.way as usize];
        traffic.packets[entry.fate.number()] += 1;
        match entry.fate {
            Fate::Down => {}
            Fate::Arrives { .. } => {
                traffic.sent_bytes += u64::from(entry.bytes);
                traffic.arrived_bytes += u64::from(entry.bytes);
            }
            _ => traffic.sent_bytes += u64::from(entry.bytes),
        }
        let verdict = match self.rules.get_mut(&(entry.satellite, entry.station, entry.way)) {
            Some(rules) => rules.judge(&entry),
            None => Err("there is no such link".into()),
        };
        if let Err(what) = verdict {
            self.violated += 1;
            if self.violations.len() < KEPT {
                self.violations.push(format!("{what}: {entry:?}"));
            }
        }
        if let Some(kept) = &mut self.kept {
            kept.push(entry);
        }
    }

    /// How many packets there were.
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// A hash over every packet: time, size, direction and fate.
    pub fn hash(&self) -> blake3::Hash {
        self.hash.finalize()
    }

    /// One direction of all links together.
    pub const fn traffic(&self, way: Way) -> Traffic {
        self.traffic[way as usize]
    }

    /// How many packets broke a rule, and the first of them.
    pub fn violations(&self) -> (u64, &[String]) {
        (self.violated, &self.violations)
    }

    /// Every packet, if they were kept.
    pub fn kept(&self) -> &[Entry] {
        self.kept.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn log() -> Log {
        let mut log = Log::new(false);
        let path = Path {
            rate: Some(8_000_000),
            overhead: 0,
            delay: 20 * MS,
            queue: Queue::Bytes(2_000),
            ..Path::default()
        };
        let window = Window { start: 1000 * MS, end: 2000 * MS };
        log.rule(0, 0, Way::Down, path, vec![window]);
        log
    }

    fn judged(entries: &[(u32, Fate)]) -> Vec<String> {
        let mut log = log();
        for (sent, fate) in entries {
            let sent = MS * *sent;
            log.push(Entry { sent, satellite: 0, station: 0, way: Way::Down, bytes: 1000, fate: *fate });
        }
        log.violations.clone()
    }

    const fn arrives(at: u32) -> Fate {
        Fate::Arrives { at: Duration::from_millis(at as u64), held: false }
    }

    #[test]
    fn what_the_link_allows_is_right() {
        let right = [
            (10, Fate::Down),
            (1000, arrives(1021)),
            (1000, arrives(1022)),
            (1000, Fate::Queue),
            (1001, Fate::Loss),
            (1001, Fate::Queue),
            (1985, Fate::Los),
            (2000, Fate::Down),
        ];
        assert_eq!(judged(&right), Vec::<String>::new());
    }

    #[test]
    fn what_the_link_does_not_allow_is_found() {
        for (entries, what) in [
            (&[(10, arrives(31))][..], "down"),
            (&[(1000, Fate::Down)], "up"),
            (&[(1000, arrives(1020))], "allow"),
            (&[(1000, arrives(1021)), (1000, arrives(1021))], "allow"),
            (&[(1000, Fate::Queue)], "has room"),
            (&[(1000, arrives(1021)), (1000, arrives(1022)), (1000, arrives(1023))], "full"),
            (&[(1990, arrives(2011))], "after the end"),
            (&[(1500, Fate::Los)], "went on"),
        ] {
            let found = judged(entries);
            assert!(found.len() == 1 && found[0].contains(what), "{what}: {found:?}");
        }
    }
}
