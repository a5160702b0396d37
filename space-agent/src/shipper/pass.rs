//! One contact from AOS to LOS: what is measured while it lasts, and the report of it.

use std::time::Duration;

use perigee_proto::link::{PassReport, PassState};
use perigee_shared::contact::{Contact, shown_time};
use tokio::time::Instant;

use super::budget::Budget;
use super::gained::Gained;
use super::session::Standing;
use super::waits::Waits;
use crate::contacts::LinkStatus;

/// The report of a contact in which everything is sent leaves two round trips before its end, within these bounds.
const LEAST_FAREWELL: Duration = Duration::from_millis(200);
const MOST_FAREWELL: Duration = Duration::from_secs(3);

/// What is left on board.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    /// Bytes in segments and in the journal.
    pub(super) bytes: u64,
    /// Those of them that are in no segment yet.
    pub(super) unsealed_bytes: u64,
    /// Since when the oldest of it waits.
    pub(super) since_unix_nano: Option<u64>,
}

/// Packets, as QUIC counts them.
#[derive(Debug, Clone, Copy, Default)]
struct Packets {
    sent: u64,
    lost: u64,
}

/// A contact in force.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) contact: Contact,
    /// When it was opened, by the satellite's clock: with the station it names the pass.
    pub(super) began: u64,
    opened: Instant,
    /// Bytes that it can carry from AOS, or from then on, until LOS.
    planned_bytes: u64,
    /// How far its sessions have come.
    pub(super) standing: Standing,
    /// Goes from one session to the next.
    pub(super) gained: Gained,
    pub(super) waits: Waits,
    /// From then until the link was up first.
    connect: Option<Duration>,
    up_since: Option<Instant>,
    /// On earlier connections.
    connected: Duration,
    packets: Packets,
    /// On the connection that is open.
    now: Packets,
    round_trip: Option<Duration>,
    /// It is about to end by plan.
    pub(super) is_ending: bool,
    /// The last connection ended, or did not come up, because one side refused the other.
    pub(super) is_refused: bool,
}

impl Pass {
    /// A contact that is opened at `began`.
    pub(super) fn new(contact: &Contact, began: u64, waits: Waits) -> Self {
        Self {
            contact: contact.clone(),
            began,
            opened: Instant::now(),
            planned_bytes: contact.capacity(began).unwrap_or(0),
            standing: Standing { budget: contact.byte_budget.map(Budget::new), ..Standing::default() },
            gained: Gained::default(),
            waits,
            connect: None,
            up_since: None,
            connected: Duration::ZERO,
            packets: Packets::default(),
            now: Packets::default(),
            round_trip: None,
            is_ending: false,
            is_refused: false,
        }
    }

    /// It is planned anew: with another end, rate or budget. It keeps its name; what it was to carry is what that now says, and of
    /// a new budget what is sent already is taken off.
    pub(super) fn replan(&mut self, contact: &Contact) {
        if self.contact == *contact {
            return;
        }
        if self.contact.byte_budget != contact.byte_budget {
            let spent = self.standing.budget.map_or(self.standing.held, Budget::spent);
            self.standing.budget = contact.byte_budget.map(|bytes| Budget::new(bytes).less(spent));
        }
        let start_unix_nano = self.contact.start_unix_nano;
        self.contact = Contact { start_unix_nano, ..contact.clone() };
        self.planned_bytes = self.contact.capacity(self.began).unwrap_or(0);
        self.is_ending = false;
        tracing::info!(contact = self.contact.name(), end = ?contact.end_unix_nano.map(shown_time), "the contact is planned anew");
    }

    /// The link is up.
    pub(super) fn up(&mut self) {
        self.connect.get_or_insert(self.opened.elapsed());
        self.up_since = Some(Instant::now());
        self.is_refused = false;
    }

    /// What QUIC has measured on the connection that is open.
    pub(super) fn measure(&mut self, path: &quinn::PathStats) {
        self.now = Packets { sent: path.sent_packets, lost: path.lost_packets };
        self.round_trip = Some(self.round_trip.map_or(path.min_rtt, |before| before.min(path.min_rtt)));
    }

    /// The connection is closed.
    pub(super) fn down(&mut self) {
        let Packets { sent, lost } = std::mem::take(&mut self.now);
        self.packets.sent += sent;
        self.packets.lost += lost;
        self.connected = self.connected();
        self.up_since = None;
    }

    /// How long something new may still be begun. What leaves later than one light time before the end does not arrive.
    pub(super) fn usable(&self, now: u64) -> Option<Duration> {
        let light = self.contact.shape().light_time.unwrap_or_default();
        self.contact.usable(now).map(|left| left.saturating_sub(light))
    }

    /// How long until the report leaves if nothing more is to be sent: it is to arrive before LOS.
    pub(super) fn farewell(&self, now: u64, round_trip: Duration) -> Option<Duration> {
        let before = (round_trip * 2).clamp(LEAST_FAREWELL, MOST_FAREWELL);
        let guard = Duration::from_secs_f64(self.contact.guard_seconds);
        self.usable(now).map(|left| left.saturating_sub(before.saturating_sub(guard)))
    }

    /// How long the link was up in fact.
    pub(super) fn connected(&self) -> Duration {
        self.connected + self.up_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// How it ends. `is_cut`: the link was lost and did not come back; `by_plan`: its time is over.
    fn state(&self, left: &Left, sent_bytes: u64, is_cut: bool, by_plan: bool) -> PassState {
        if self.is_refused {
            return PassState::Refused;
        }
        if self.connect.is_none() {
            return PassState::Unreachable;
        }
        // What goes in another slot may be on the ground meanwhile.
        let waits_elsewhere = self.standing.is_elsewhere && left.bytes > 0;
        if self.standing.is_drained && !waits_elsewhere && left.unsealed_bytes == 0 {
            let nothing = sent_bytes == 0 && self.standing.held == 0;
            return if nothing { PassState::NothingToSend } else { PassState::DeliveredAll };
        }
        if self.standing.is_refused {
            PassState::Refused
        } else if is_cut {
            PassState::Cut
        } else if self.standing.budget.is_some_and(Budget::is_spent) {
            PassState::BudgetSpent
        } else if by_plan {
            PassState::EndedByPlan
        } else {
            PassState::Closed
        }
    }

    /// The report as of `now`, by the satellite's clock: when the contact is over, or when nothing more is begun in it.
    pub(super) fn report(&self, now: u64, left: &Left, status: &LinkStatus) -> PassReport {
        let is_up = self.up_since.is_some();
        let by_plan = self.is_ending || self.usable(now).is_some_and(|usable| usable.is_zero());
        let nano = |time: Duration| time.as_nanos() as u64;
        let (guard_start_nano, guard_end_nano) = self.contact.guards().unwrap_or_default();
        let planned_end_unix_nano = self.contact.end_unix_nano.unwrap_or(0);
        PassReport {
            station: self.contact.station.to_string(),
            start_unix_nano: self.began,
            end_unix_nano: now,
            planned_bytes: self.planned_bytes,
            achieved_bytes: status.committed_bytes,
            sent_bytes: status.sent_bytes,
            committed_segments: status.committed_segments,
            connected_nano: nano(self.connected()),
            backlog_bytes: left.bytes,
            backlog_since_unix_nano: left.since_unix_nano.unwrap_or(0),
            state: self.state(left, status.sent_bytes, !is_up && !self.standing.is_over, by_plan).into(),
            connect_nano: self.connect.map_or(0, nano),
            held_bytes: self.standing.held,
            sent_packets: self.packets.sent + self.now.sent,
            lost_packets: self.packets.lost + self.now.lost,
            round_trip_nano: self.round_trip.map_or(0, nano),
            planned_start_unix_nano: if planned_end_unix_nano == 0 {
                0
            } else {
                self.contact.start_unix_nano
            },
            planned_end_unix_nano,
            guard_start_nano,
            guard_end_nano,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    /// A contact of 100 s that the link was up in, and nothing has come of yet.
    fn pass() -> Pass {
        let start = 1_800_000_000 * S;
        let contact = Contact {
            end_unix_nano: Some(start + 100 * S),
            rate_down: Some(8000),
            ..Contact::open("svalbard", start)
        };
        let mut pass = Pass::new(&contact, start, Waits::default());
        pass.up();
        pass.down();
        pass
    }

    fn ended(pass: &Pass, bytes: u64, sent: u64, seconds: u64) -> PassState {
        let left = Left { bytes, unsealed_bytes: bytes, since_unix_nano: None };
        let status = LinkStatus { sent_bytes: sent, ..LinkStatus::default() };
        pass.report(pass.contact.start_unix_nano + seconds * S, &left, &status).state()
    }

    #[tokio::test]
    async fn a_pass_says_how_it_ended() {
        let mut p = pass();
        assert_eq!(ended(&p, 5, 9, 50), PassState::Cut);
        p.standing.is_drained = true;
        assert_eq!(ended(&p, 0, 9, 50), PassState::DeliveredAll, "whatever became of the link then");
        assert_eq!(ended(&p, 0, 0, 50), PassState::NothingToSend);
        assert_eq!(ended(&p, 5, 0, 50), PassState::Cut, "the journal has something");
        p.standing.is_over = true;
        assert_eq!(ended(&p, 5, 9, 50), PassState::Closed);
        assert_eq!(ended(&p, 5, 9, 101), PassState::EndedByPlan);
        p.standing.budget = Some(Budget::new(0));
        assert_eq!(ended(&p, 5, 9, 101), PassState::BudgetSpent);
        p.standing.is_refused = true;
        assert_eq!(ended(&p, 5, 9, 101), PassState::Refused, "no room");
        p.standing.is_drained = false;
        p.is_refused = true;
        assert_eq!(ended(&p, 0, 9, 101), PassState::Refused);
        p.up();
        assert!(!p.is_refused, "the next connection came up");
        let never = Pass::new(&p.contact, p.began, Waits::default());
        assert_eq!(ended(&never, 0, 0, 101), PassState::Unreachable);
    }

    #[tokio::test]
    async fn a_report_says_how_the_contact_was_planned() {
        let mut p = pass();
        let start = p.contact.start_unix_nano;
        let left = Left { bytes: 0, unsealed_bytes: 0, since_unix_nano: None };
        let told = |p: &Pass| {
            let r = p.report(0, &left, &LinkStatus::default());
            let planned = (r.planned_start_unix_nano, r.planned_end_unix_nano);
            (planned, (r.guard_start_nano, r.guard_end_nano))
        };
        assert_eq!(told(&p), ((start, start + 100 * S), (0, 0)));
        let end_unix_nano = Some(start + 200 * S);
        let anew =
            Contact { end_unix_nano, guard_seconds: 5.0, clock_error_seconds: 2.0, ..p.contact.clone() };
        p.replan(&anew);
        assert_eq!(told(&p), ((start, start + 200 * S), (2 * S, 7 * S)), "as it was planned last");
        let probe = Contact { guard_seconds: 5.0, ..Contact::open("svalbard", start) };
        assert_eq!(
            told(&Pass::new(&probe, start, Waits::default())),
            ((0, 0), (0, 0)),
            "nobody planned its end"
        );
    }

    #[tokio::test]
    async fn what_another_slot_has_under_way_is_not_delivered_yet() {
        let mut p = pass();
        (p.standing.is_drained, p.standing.is_elsewhere, p.standing.is_over) = (true, true, true);
        let ended = |p: &Pass, bytes| {
            let left = Left { bytes, unsealed_bytes: 0, since_unix_nano: None };
            let status = LinkStatus { sent_bytes: 9, ..LinkStatus::default() };
            p.report(p.contact.start_unix_nano + 50 * S, &left, &status).state()
        };
        assert_eq!((ended(&p, 5), ended(&p, 0)), (PassState::Closed, PassState::DeliveredAll));
    }

    #[tokio::test]
    async fn the_report_leaves_two_round_trips_before_los_or_with_the_guard_time() {
        let ms = Duration::from_millis;
        let planned = |guard_seconds: f64, light: Option<f64>, round_trip: Duration| {
            let contact = Contact { guard_seconds, light_time_seconds: light, ..pass().contact };
            let start = contact.start_unix_nano;
            let pass = Pass::new(&contact, start, Waits::default());
            let at = pass.farewell(start, round_trip);
            assert!(at <= pass.usable(start));
            at
        };
        assert_eq!(planned(0.0, None, ms(40)), Some(ms(99_800)));
        assert_eq!(planned(0.0, Some(0.3), ms(600)), Some(ms(98_500)), "its light time before that");
        assert_eq!(planned(0.0, None, ms(9_000)), Some(ms(97_000)));
        assert_eq!(planned(0.15, None, ms(40)), Some(ms(99_800)));
        assert_eq!(planned(5.0, None, ms(40)), Some(ms(95_000)), "as nothing is begun after that");
        let endless = Pass::new(&Contact::open("svalbard", 0), 0, Waits::default());
        assert_eq!(endless.farewell(0, ms(40)), None);
        let mut p = pass();
        assert_eq!(ended(&p, 5, 9, 99), PassState::Cut);
        (p.standing.is_over, p.is_ending) = (true, true);
        assert_eq!(ended(&p, 5, 9, 99), PassState::EndedByPlan, "nobody closed it");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_planned_and_the_time_to_connect_count_from_aos() {
        let end_unix_nano = Some(pass().began + 10 * S);
        let contact =
            Contact { clock_error_seconds: 3.0, guard_seconds: 2.0, end_unix_nano, ..pass().contact };
        let opened = |before: u64, after: u64| {
            let contact = contact.clone();
            async move {
                let mut p = Pass::new(&contact, contact.start_unix_nano - before * S, Waits::default());
                tokio::time::advance(Duration::from_secs(after)).await;
                p.up();
                let left = Left { bytes: 0, unsealed_bytes: 0, since_unix_nano: None };
                let report = p.report(0, &left, &LinkStatus::default());
                let shown = perigee_shared::contact::report::shown_pass(&report);
                (report.planned_bytes, shown["connect_seconds"].as_f64())
            }
        };
        // Ten seconds of a kilobyte, whatever the clock's error.
        assert_eq!(opened(3, 5).await, (10_000, Some(2.0)));
        assert_eq!(opened(3, 1).await, (10_000, Some(0.0)), "the clock is behind");
        assert_eq!(opened(0, 1).await, (10_000, Some(1.0)));
        let late = Pass::new(&contact, contact.start_unix_nano + 4 * S, Waits::default());
        assert_eq!(late.planned_bytes, 6_000);
    }

    #[tokio::test(start_paused = true)]
    async fn planned_and_held_are_the_same_thing_and_connections_add_up() {
        let mut p = Pass::new(&pass().contact, pass().began, Waits::default());
        tokio::time::advance(Duration::from_secs(3)).await;
        for _ in 0..2 {
            p.up();
            tokio::time::advance(Duration::from_secs(10)).await;
            p.down();
        }
        p.standing.held = 50_000;
        let left = Left { bytes: 1, unsealed_bytes: 0, since_unix_nano: Some(7) };
        let report = p.report(0, &left, &LinkStatus::default());
        assert_eq!((report.connect_nano, report.connected_nano), (3 * S, 20 * S));
        assert!((99_000..=100_000).contains(&report.planned_bytes), "{report:?}");
        let shown = perigee_shared::contact::report::shown_pass(&report);
        assert!((shown["efficiency"].as_f64().unwrap() - 0.5).abs() < 0.01, "{shown}");
        assert_eq!((&shown["rate_bits_per_second"], &shown["state"]), (&20_000.0.into(), &"cut".into()));
        let old = PassReport { state: 0, planned_bytes: 5, achieved_bytes: 10, ..report };
        let shown = perigee_shared::contact::report::shown_pass(&old);
        assert!(
            shown["efficiency"].is_null() && shown["held_bytes"].is_null(),
            "unknown, never 204 %: {shown}"
        );
    }
}
