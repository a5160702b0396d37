//! What a link is like, and how people write it.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use perigee_shared::units::{ByteSize, parse_duration};

/// Bytes that IPv4 and UDP add to each datagram on the wire: the overhead of a path unless it says otherwise.
pub const OVERHEAD: u64 = 28;

/// A way through the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the clients (satellites) to the server (ground).
    Forward,
    /// From the server to the clients.
    Return,
}

impl Direction {
    /// Both, in the order in which they are reported.
    pub const BOTH: [Self; 2] = [Self::Forward, Self::Return];
}

/// A link.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients send to; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the server is.
    pub to: SocketAddr,
    /// From the clients to the server.
    pub forward: Path,
    /// From the server to the clients.
    pub back: Path,
    /// When the link is up.
    pub schedule: Schedule,
    /// Of all chance.
    pub seed: u64,
}

impl Config {
    /// A perfect link to `to`, on a free port of the loopback.
    pub fn perfect(to: SocketAddr) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            to,
            forward: Path::default(),
            back: Path::default(),
            schedule: Schedule::default(),
            seed: 0,
        }
    }
}

/// One direction of a link. The default is perfect.
#[derive(Debug, Clone)]
pub struct Path {
    /// Bits per second, overhead included; without one, datagrams take no time.
    pub rate: Option<u64>,
    /// Bytes that each datagram takes beside its payload.
    pub overhead: u64,
    /// The time on the way.
    pub delay: Duration,
    /// What may wait for the serialiser.
    pub queue: Queue,
    /// The chance that a datagram is lost by itself.
    pub loss: f64,
    /// Losses that come together.
    pub burst: Option<Burst>,
    /// Datagrams that are overtaken.
    pub reorder: Option<Reorder>,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            rate: None,
            overhead: OVERHEAD,
            delay: Duration::ZERO,
            queue: Queue::default(),
            loss: 0.0,
            burst: None,
            reorder: None,
        }
    }
}

/// The length of the queue before the serialiser.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Queue {
    /// So many bandwidth-delay products (rate × two delays), and at least [`Queue::LEAST`].
    Bdp(f64),
    /// So many bytes.
    Bytes(u64),
}

impl Queue {
    /// The shortest queue that a number of bandwidth-delay products makes: without delay, ten datagrams.
    pub const LEAST: u64 = 15_000;

    /// In bytes, for a path of `rate` bits per second.
    pub fn bytes(self, rate: u64, delay: Duration) -> u64 {
        match self {
            Self::Bytes(n) => n,
            Self::Bdp(n) => ((n * rate as f64 / 8.0 * 2.0 * delay.as_secs_f64()) as u64).max(Self::LEAST),
        }
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self::Bdp(1.0)
    }
}

impl FromStr for Queue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(number) = text.strip_suffix("bdp") else {
            return text.parse().map(|ByteSize(n)| Self::Bytes(n));
        };
        match number.trim().parse() {
            Ok(n) if n > 0.0 && n < 1e6 => Ok(Self::Bdp(n)),
            _ => Err(format!("`{text}` is not a queue; write for example 1bdp or 64KiB")),
        }
    }
}

/// Losses that come together: every datagram of a burst is lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Burst {
    /// The chance that a burst begins with this datagram.
    pub chance: f64,
    /// Datagrams in a burst, on average.
    pub length: f64,
}

impl FromStr for Burst {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a burst; write CHANCE:DATAGRAMS, for example 0.1%:20");
        let (chance, length) = text.split_once(':').ok_or_else(wrong)?;
        let length = length.parse().ok().filter(|n| (1.0..=1e9).contains(n)).ok_or_else(wrong)?;
        Ok(Self { chance: parse_chance(chance)?, length })
    }
}

/// Datagrams that are held, so that later ones overtake them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reorder {
    /// The chance that a datagram is held.
    pub chance: f64,
    /// For how long.
    pub by: Duration,
}

impl FromStr for Reorder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a reordering; write CHANCE:TIME, for example 1%:5ms");
        let (chance, by) = text.split_once(':').ok_or_else(wrong)?;
        Ok(Self { chance: parse_chance(chance)?, by: parse_duration(by)? })
    }
}

/// Reads `1%` or `0.01`.
pub fn parse_chance(text: &str) -> Result<f64, String> {
    let (number, factor) = match text.strip_suffix('%') {
        Some(number) => (number, 0.01),
        None => (text, 1.0),
    };
    let chance = number.trim().parse::<f64>().map(|n| n * factor);
    chance
        .ok()
        .filter(|c| (0.0..=1.0).contains(c))
        .ok_or_else(|| format!("`{text}` is not a chance; write for example 1% or 0.01"))
}

/// When a link is up: from the start or not, and then the times at which that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pub(crate) up_at_start: bool,
    /// In ascending order, since the start.
    pub(crate) changes: Vec<Duration>,
}

impl Default for Schedule {
    /// Always up.
    fn default() -> Self {
        Self { up_at_start: true, changes: Vec::new() }
    }
}

impl Schedule {
    /// Up in these intervals only; they are in order and do not overlap.
    pub fn windows(windows: &[(Duration, Duration)]) -> Result<Self, String> {
        Ok(Self { up_at_start: false, changes: changes(windows)? })
    }

    /// Down in these intervals only; they are in order and do not overlap.
    pub fn outages(outages: &[(Duration, Duration)]) -> Result<Self, String> {
        Ok(Self { up_at_start: true, changes: changes(outages)? })
    }

    /// Reads a list of outages: a `FROM..TO` on each line, in times since the start; `#` begins a comment.
    pub fn parse_outages(text: &str) -> Result<Self, String> {
        let mut outages = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                outages.push(parse_interval(line).map_err(|e| format!("line {}: {e}", number + 1))?);
            }
        }
        Self::outages(&outages)
    }
}

/// Reads `FROM..TO`, for example `10s..8m`.
pub fn parse_interval(text: &str) -> Result<(Duration, Duration), String> {
    let (from, to) = text
        .split_once("..")
        .ok_or_else(|| format!("`{text}` is not an interval; write for example 10s..18s"))?;
    Ok((parse_duration(from)?, parse_duration(to)?))
}

fn changes(intervals: &[(Duration, Duration)]) -> Result<Vec<Duration>, String> {
    let changes: Vec<_> = intervals.iter().flat_map(|(from, to)| [*from, *to]).collect();
    match changes.windows(2).position(|pair| pair[0] >= pair[1]) {
        Some(at) => Err(format!("{:?} does not come before {:?}", changes[at], changes[at + 1])),
        None => Ok(changes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_written_as_people_write_it() {
        assert_eq!(parse_chance("1%"), Ok(0.01));
        assert_eq!("1bdp".parse(), Ok(Queue::Bdp(1.0)));
        assert_eq!("64KiB".parse(), Ok(Queue::Bytes(65_536)));
        assert_eq!("0.1%:20".parse(), Ok(Burst { chance: 0.001, length: 20.0 }));
        assert_eq!("1%:5ms".parse(), Ok(Reorder { chance: 0.01, by: Duration::from_millis(5) }));
        for wrong in ["", "101%", "-1%", "x", "NaN"] {
            assert!(parse_chance(wrong).is_err(), "{wrong}");
        }
        assert!("0bdp".parse::<Queue>().is_err() && "1%".parse::<Burst>().is_err());
        assert!("1%:0.5".parse::<Burst>().is_err() && "1%:5".parse::<Reorder>().is_err());
    }

    #[test]
    fn outages_are_in_order() {
        let s = Duration::from_secs;
        let schedule = Schedule::parse_outages("# LOS\n10s..12s\n\n1m..2m # long\n").unwrap();
        assert_eq!(schedule, Schedule { up_at_start: true, changes: vec![s(10), s(12), s(60), s(120)] });
        for wrong in ["12s..10s", "1s..3s\n2s..4s", "1s..1s"] {
            assert!(Schedule::parse_outages(wrong).is_err(), "{wrong}");
        }
        assert!(Schedule::parse_outages("1s..2s\nnever").unwrap_err().starts_with("line 2"));
    }

    #[test]
    fn a_queue_in_bandwidth_delay_products_has_a_least_length() {
        assert_eq!(Queue::Bdp(1.0).bytes(20_000_000, Duration::from_millis(20)), 100_000);
        assert_eq!(Queue::Bdp(1.0).bytes(20_000_000, Duration::ZERO), Queue::LEAST);
        assert_eq!(Queue::Bytes(10).bytes(20_000_000, Duration::ZERO), 10);
    }
}
