//! The link without its sockets: datagrams go in, and come out when their time has come. Times are those since the start.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use crate::channel::{Channel, Fate};
use crate::config::{Config, Direction};
use crate::stats::Stats;

/// Bytes that may be under way at once; more is dropped as if the queue were full.
pub const MAX_IN_FLIGHT: usize = 256 << 20;

/// A datagram of the client `C`.
#[derive(Debug, PartialEq, Eq)]
pub struct Packet<C> {
    /// Which way it goes.
    pub direction: Direction,
    /// Whose it is.
    pub client: C,
    /// The payload.
    pub bytes: Vec<u8>,
}

struct Flight<C> {
    due: Duration,
    number: u64,
    packet: Packet<C>,
}

impl<C> Flight<C> {
    const fn key(&self) -> (Duration, u64) {
        (self.due, self.number)
    }
}

impl<C> PartialEq for Flight<C> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<C> Eq for Flight<C> {}

impl<C> PartialOrd for Flight<C> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<C> Ord for Flight<C> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// Both directions of a link and everything that is under way.
pub struct Emulator<C> {
    forward: Channel,
    back: Channel,
    flights: BinaryHeap<Reverse<Flight<C>>>,
    bytes_in_flight: usize,
    next_number: u64,
    /// Times at which `scheduled` changes, all of them to come.
    changes: VecDeque<Duration>,
    scheduled: bool,
    cut: bool,
    /// Delivered bytes at which the link is cut, by direction.
    cut_at: [Option<u64>; 2],
    stats: Stats,
}

impl<C> Emulator<C> {
    /// A link that has just started.
    pub fn new(config: &Config) -> Self {
        let mut emulator = Self {
            forward: Channel::new(config.forward.clone(), config.seed),
            back: Channel::new(config.back.clone(), config.seed ^ 0x9e37_79b9_7f4a_7c15),
            flights: BinaryHeap::new(),
            bytes_in_flight: 0,
            next_number: 0,
            changes: config.schedule.changes.iter().copied().collect(),
            scheduled: config.schedule.up_at_start,
            cut: false,
            cut_at: [None; 2],
            stats: Stats::default(),
        };
        emulator.stats.up = emulator.scheduled;
        // An interval that begins with the start.
        emulator.advance(Duration::ZERO);
        emulator
    }

    /// Takes a datagram.
    pub fn offer(&mut self, now: Duration, packet: Packet<C>) {
        self.advance(now);
        let length = packet.bytes.len();
        let up = self.stats.up;
        let traffic = self.stats.traffic_mut(packet.direction);
        traffic.packets += 1;
        traffic.bytes += length as u64;
        if !up {
            traffic.dropped.down += 1;
            return;
        }
        if self.bytes_in_flight + length > MAX_IN_FLIGHT {
            traffic.dropped.queue += 1;
            return;
        }
        let channel = match packet.direction {
            Direction::Forward => &mut self.forward,
            Direction::Return => &mut self.back,
        };
        match channel.send(now, length) {
            Fate::Arrives { at, held } => {
                traffic.reordered += u64::from(held);
                self.bytes_in_flight += length;
                self.flights.push(Reverse(Flight { due: at, number: self.next_number, packet }));
                self.next_number += 1;
            }
            Fate::Loss => traffic.dropped.loss += 1,
            Fate::Burst => traffic.dropped.burst += 1,
            Fate::Queue => traffic.dropped.queue += 1,
        }
    }

    /// The next datagram that has arrived by `now`.
    pub fn poll(&mut self, now: Duration) -> Option<Packet<C>> {
        self.advance(now);
        if self.flights.peek().is_none_or(|Reverse(flight)| flight.due > now) {
            return None;
        }
        let Reverse(flight) = self.flights.pop()?;
        let packet = flight.packet;
        self.bytes_in_flight -= packet.bytes.len();
        let traffic = self.stats.traffic_mut(packet.direction);
        traffic.delivered_packets += 1;
        traffic.delivered_bytes += packet.bytes.len() as u64;
        let delivered = traffic.delivered_bytes;
        let cut_at = &mut self.cut_at[packet.direction as usize];
        if cut_at.is_some_and(|at| delivered >= at) {
            *cut_at = None;
            self.cut = true;
            self.refresh(flight.due);
        }
        Some(packet)
    }

    /// When something will happen, if nothing else comes before.
    pub fn next(&self) -> Option<Duration> {
        let arrival = self.flights.peek().map(|Reverse(flight)| flight.due);
        arrival.into_iter().chain(self.changes.front().copied()).min()
    }

    /// Cuts the link, whatever the schedule says; what is under way is lost.
    pub fn cut(&mut self, now: Duration) {
        self.advance(now);
        self.cut = true;
        self.refresh(now);
    }

    /// Ends a cut, and forgets one that is to come; whether the link is then up is for the schedule to say.
    pub fn restore(&mut self, now: Duration) {
        self.advance(now);
        self.cut = false;
        self.cut_at = [None; 2];
        self.refresh(now);
    }

    /// Cuts the link once `bytes` more have been delivered in `direction`.
    pub fn cut_after(&mut self, direction: Direction, bytes: u64) {
        let delivered = self.stats.traffic(direction).delivered_bytes;
        self.cut_at[direction as usize] = Some(delivered + bytes);
    }

    /// Whether the link is up.
    pub const fn is_up(&self) -> bool {
        self.stats.up
    }

    /// Notes that another client has come.
    pub const fn client_came(&mut self) {
        self.stats.clients += 1;
    }

    /// What has happened so far.
    pub fn stats(&mut self, now: Duration) -> Stats {
        self.advance(now);
        self.stats.elapsed_ms = now.as_millis() as u64;
        self.stats.clone()
    }

    /// Follows the schedule to `now`.
    fn advance(&mut self, now: Duration) {
        while let Some(at) = self.changes.front().copied().filter(|at| *at <= now) {
            self.changes.pop_front();
            self.scheduled = !self.scheduled;
            self.refresh(at);
        }
    }

    /// Brings the link up or down as schedule and cut have it at that time.
    fn refresh(&mut self, at: Duration) {
        let up = self.scheduled && !self.cut;
        if self.stats.up && !up {
            self.stats.outages += 1;
            self.forward.clear(at);
            self.back.clear(at);
            let (stats, bytes_in_flight) = (&mut self.stats, &mut self.bytes_in_flight);
            self.flights.retain(|Reverse(flight)| {
                let arrived = flight.due <= at;
                if !arrived {
                    *bytes_in_flight -= flight.packet.bytes.len();
                    stats.traffic_mut(flight.packet.direction).dropped.in_flight += 1;
                }
                arrived
            });
        }
        self.stats.up = up;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Path, Schedule};

    const MS: Duration = Duration::from_millis(1);

    fn config() -> Config {
        let path = Path { delay: 10 * MS, ..Path::default() };
        Config {
            forward: path.clone(),
            back: path,
            ..Config::perfect(std::net::SocketAddr::from(([127, 0, 0, 1], 9)))
        }
    }

    fn packet(direction: Direction, first: u8) -> Packet<u8> {
        Packet { direction, client: 0, bytes: vec![first; 100] }
    }

    fn arrived(emulator: &mut Emulator<u8>, now: Duration) -> Vec<u8> {
        std::iter::from_fn(|| emulator.poll(now)).map(|p| p.bytes[0]).collect()
    }

    #[test]
    fn datagrams_come_out_in_time_and_in_order() {
        let mut link = Emulator::new(&config());
        link.offer(MS, packet(Direction::Forward, 1));
        link.offer(2 * MS, packet(Direction::Return, 2));
        assert_eq!(link.next(), Some(11 * MS));
        assert!(arrived(&mut link, 10 * MS).is_empty());
        assert_eq!(arrived(&mut link, 12 * MS), [1, 2]);
        assert_eq!(link.next(), None);
    }

    #[test]
    fn what_is_under_way_when_the_link_is_cut_is_lost() {
        let mut link = Emulator::new(&config());
        link.offer(MS, packet(Direction::Forward, 1));
        link.offer(5 * MS, packet(Direction::Forward, 2));
        link.cut(12 * MS);
        link.offer(13 * MS, packet(Direction::Forward, 3));
        link.restore(14 * MS);
        link.offer(14 * MS, packet(Direction::Forward, 4));
        assert_eq!(arrived(&mut link, 30 * MS), [1, 4]);
        let stats = link.stats(30 * MS);
        assert_eq!((stats.forward.dropped.in_flight, stats.forward.dropped.down, stats.outages), (1, 1, 1));
        assert_eq!(stats.forward.packets, stats.forward.delivered_packets + stats.forward.dropped.total());
    }

    #[test]
    fn a_schedule_is_followed_even_when_nobody_looks() {
        let schedule = Schedule::windows(&[(Duration::ZERO, 20 * MS), (40 * MS, 60 * MS)]).unwrap();
        let mut link = Emulator::new(&Config { schedule, ..config() });
        link.offer(5 * MS, packet(Direction::Forward, 1));
        link.offer(15 * MS, packet(Direction::Forward, 2));
        link.offer(45 * MS, packet(Direction::Forward, 3));
        assert_eq!(arrived(&mut link, 59 * MS), [1, 3]);
        link.cut(59 * MS);
        link.restore(100 * MS);
        assert!(!link.is_up(), "a restored link is still under its schedule");
    }

    #[test]
    fn a_cut_after_bytes_counts_what_was_delivered_one_way() {
        let mut link = Emulator::new(&config());
        link.cut_after(Direction::Forward, 250);
        for n in 0..10 {
            link.offer(MS * n, packet(Direction::Return, 99));
            link.offer(MS * n, packet(Direction::Forward, n as u8));
        }
        let forward: Vec<_> = arrived(&mut link, 50 * MS).into_iter().filter(|n| *n != 99).collect();
        assert_eq!(forward, [0, 1, 2]);
        assert!(!link.is_up());
    }
}
