//! What satellites said of themselves over time, since this program began: a point for each Hello and Goodbye, so that curves can be
//! drawn without a database of metrics.
//!
//! A satellite takes 12 KiB at most: [`KEPT`] points of 24 bytes. Points are at least [`APART`] seconds from each other, so a link that
//! comes and goes without end does not push an hour out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perigee_proto::link::{Hello, LaneBacklog};

/// Points of a satellite; the oldest goes.
const KEPT: usize = 512;

/// A point that comes sooner is joined to the one before, s.
const APART: u32 = 10;

/// What a satellite said at one time. What it did not say is not a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// When it came by this station's clock, s since the Unix epoch.
    pub at: u32,
    /// Bytes that wait on board.
    pub backlog: f32,
    /// Bytes of its store.
    pub store: f32,
    /// Resident memory of the agent, bytes.
    pub memory: f32,
    /// CPU of the agent since the point before, per cent of a core.
    pub cpu: f32,
    /// By how much its clock was ahead of this station's, s.
    pub clock: f32,
}

const NOTHING: Point =
    Point { at: 0, backlog: f32::NAN, store: f32::NAN, memory: f32::NAN, cpu: f32::NAN, clock: f32::NAN };

impl Point {
    /// This one, and of what it does not say what `before` said.
    fn over(self, before: Self) -> Self {
        let or = |value: f32, before: f32| if value.is_nan() { before } else { value };
        Self {
            at: self.at,
            backlog: or(self.backlog, before.backlog),
            store: or(self.store, before.store),
            memory: or(self.memory, before.memory),
            cpu: or(self.cpu, before.cpu),
            clock: or(self.clock, before.clock),
        }
    }
}

#[derive(Default)]
struct Ring {
    points: VecDeque<Point>,
    /// CPU time and running time that the agent said last, ns.
    cpu: Option<(u64, u64)>,
}

impl Ring {
    fn push(&mut self, point: Point) {
        let last = self.points.len().wrapping_sub(1);
        let close = |before: &Point| point.at.saturating_sub(before.at) <= APART;
        // What was said last is always there; the one before it stays where it is.
        if last.checked_sub(1).and_then(|before| self.points.get(before)).is_some_and(close) {
            self.points[last] = point.over(self.points[last]);
            return;
        }
        if self.points.len() == KEPT {
            self.points.pop_front();
        }
        self.points.push_back(point);
    }

    /// CPU since the agent said so last; since its start if it has started again.
    fn cpu(&mut self, now: Option<(u64, u64)>) -> f32 {
        let before = std::mem::replace(&mut self.cpu, now);
        let Some((cpu, running)) = now else { return f32::NAN };
        let (since_cpu, since) = before.filter(|(_, ran)| *ran < running).unwrap_or_default();
        (cpu.saturating_sub(since_cpu) as f64 / (running - since).max(1) as f64 * 100.0) as f32
    }
}

/// Points by satellite. Clones share them.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<BTreeMap<Arc<str>, Ring>>>);

impl History {
    fn rings(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Ring>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A Hello of `satellite` came at `now`, ns since the Unix epoch; its clock was ahead by `clock` seconds.
    pub(super) fn hello(&self, satellite: &Arc<str>, hello: &Hello, now: u64, clock: Option<f64>) {
        let number = |n: u64| if n == 0 { f32::NAN } else { n as f32 };
        let agent = hello.agent.unwrap_or_default();
        let says = hello.agent.is_some() || !hello.backlog.is_empty();
        let mut rings = self.rings();
        let ring = rings.entry(Arc::clone(satellite)).or_default();
        let cpu = ring.cpu((agent.running_nano != 0).then_some((agent.cpu_nano, agent.running_nano)));
        ring.push(Point {
            at: seconds(now),
            backlog: if says { sum(&hello.backlog) } else { f32::NAN },
            store: hello.forecast.as_ref().map_or(f32::NAN, |forecast| forecast.stored_bytes as f32),
            memory: number(agent.resident_bytes),
            cpu,
            clock: clock.map_or(f32::NAN, |clock| clock as f32),
        });
    }

    /// A Goodbye said what is left.
    pub(super) fn goodbye(&self, satellite: &Arc<str>, left: &[LaneBacklog], now: u64) {
        if let Some(ring) = self.rings().get_mut(satellite).filter(|_| !left.is_empty()) {
            ring.push(Point { at: seconds(now), backlog: sum(left), ..NOTHING });
        }
    }

    /// The points of a satellite, the oldest first.
    pub fn of(&self, satellite: &str) -> Vec<Point> {
        self.rings().get(satellite).map(|ring| ring.points.iter().copied().collect()).unwrap_or_default()
    }
}

fn seconds(nano: u64) -> u32 {
    u32::try_from(nano / 1_000_000_000).unwrap_or(u32::MAX)
}

fn sum(lanes: &[LaneBacklog]) -> f32 {
    lanes.iter().map(|lane| lane.bytes as f32).sum()
}

#[cfg(test)]
mod tests {
    use perigee_proto::link::AgentState;

    use super::*;

    const S: u64 = 1_000_000_000;

    fn hello(bytes: u64, cpu: u64, running: u64) -> Hello {
        Hello {
            backlog: vec![LaneBacklog { lane: 8, bytes, ..LaneBacklog::default() }],
            agent: Some(AgentState { cpu_nano: cpu, running_nano: running, ..AgentState::default() }),
            ..Hello::default()
        }
    }

    #[test]
    fn a_point_has_what_was_said_and_cpu_is_of_the_time_since_the_point_before() {
        let (history, id) = (History::default(), Arc::from("sat-1"));
        history.hello(&id, &hello(5_000, 10 * S, 100 * S), 1_000 * S, Some(-0.5));
        history.goodbye(&id, &hello(40, 0, 0).backlog, 1_100 * S);
        history.hello(&id, &hello(7_000, 60 * S, 200 * S), 1_200 * S, None);
        history.hello(&id, &hello(7_000, S, 50 * S), 1_300 * S, None);
        let points = history.of("sat-1");
        assert_eq!(points.iter().map(|p| p.at).collect::<Vec<_>>(), [1_000, 1_100, 1_200, 1_300]);
        assert_eq!(points.iter().map(|p| p.backlog).collect::<Vec<_>>(), [5_000.0, 40.0, 7_000.0, 7_000.0]);
        assert_eq!((points[0].cpu, points[2].cpu), (10.0, 50.0));
        assert_eq!(points[3].cpu, 2.0, "the agent has started again");
        assert_eq!(points[0].clock, -0.5);
        assert!(points[1].memory.is_nan() && points[2].clock.is_nan() && points[0].store.is_nan());
        assert_eq!(history.of("sat-2"), []);
    }

    #[test]
    fn a_link_that_comes_and_goes_keeps_an_hour_and_the_newest_and_all_is_bounded() {
        let (history, id) = (History::default(), Arc::from("sat-1"));
        for n in 0..100_000u64 {
            history.hello(&id, &hello(n, 0, 0), n * S, None);
        }
        let points = history.of("sat-1");
        assert_eq!(points.len(), KEPT);
        assert_eq!(points[KEPT - 1].backlog, 99_999.0, "the newest is there");
        assert!(points[KEPT - 1].at - points[0].at > (KEPT as u32 - 2) * APART);
        assert!(KEPT * size_of::<Point>() <= 12 << 10, "as the documentation says");
    }

    #[test]
    fn a_goodbye_soon_after_a_hello_takes_nothing_of_it_away() {
        let (history, id) = (History::default(), Arc::from("sat-1"));
        history.hello(&id, &hello(1, 0, 0), 100 * S, None);
        history.hello(&id, &hello(2, S, 10 * S), 105 * S, Some(0.5));
        history.goodbye(&id, &hello(3, 0, 0).backlog, 108 * S);
        let points = history.of("sat-1");
        assert_eq!(points.len(), 2);
        assert_eq!((points[1].at, points[1].backlog, points[1].clock, points[1].cpu), (108, 3.0, 0.5, 10.0));
    }
}
