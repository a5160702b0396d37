//! Probing: without a plan each station is tried in turn, for a moment and then not for a while. One that answers is a contact
//! for as long as it goes on answering.

use perigee_shared::contact::Contact;

use super::ContactsConfig;
use super::file::hints;
use crate::clock::Now;

/// See the module.
pub(super) struct Probe {
    interval: u64,
    duration: u64,
    /// Contacts with what is known of each station; their times are not used.
    stations: Vec<Contact>,
    next: usize,
    open: Option<Contact>,
    was_up: bool,
    /// While it is open: until when without an answer. Else: when the next one begins. Since boot: no clock that is set moves it.
    at: u64,
}

impl Probe {
    pub(super) fn new(config: &ContactsConfig, stations: Vec<String>) -> Self {
        let contact = |id: String| {
            let known = hints(config, &id);
            Contact {
                rate_down: known.rate_down,
                rate_up: known.rate_up,
                light_time_seconds: known.light_time_seconds,
                ..Contact::open(id, 0)
            }
        };
        Self {
            interval: config.probe.interval.0.as_nanos() as u64,
            duration: config.probe.duration.0.as_nanos() as u64,
            stations: stations.into_iter().map(contact).collect(),
            next: 0,
            open: None,
            was_up: false,
            at: 0,
        }
    }

    /// The contact that is open at `now`; `up` says whether its station answers.
    pub(super) fn step(&mut self, now: &Now, up: bool) -> Option<Contact> {
        let Now { since_boot: now, unix_nano, .. } = *now;
        if self.stations.is_empty() {
            return None;
        }
        if self.open.is_some() {
            if up || self.was_up {
                // A connection that breaks may come back.
                self.at = now + self.duration;
            }
            self.was_up = up;
            if !up && now >= self.at {
                self.open = None;
                self.at = now + self.interval;
            }
        } else if now >= self.at {
            let station = &self.stations[self.next % self.stations.len()];
            self.open = Some(Contact { start_unix_nano: unix_nano, ..station.clone() });
            self.next += 1;
            self.at = now + self.duration;
            self.was_up = false;
        }
        self.open.clone()
    }

    /// The station that is being tried, or answers.
    pub(super) fn station(&self) -> Option<&str> {
        self.open.as_ref().map(|contact| &*contact.station)
    }

    /// Nothing is tried now, since there is a contact otherwise.
    pub(super) fn stop(&mut self) {
        self.open = None;
        self.at = 0;
    }

    /// When [`Probe::step`] may say something else, since boot; `None` while a station answers.
    pub(super) fn wakes(&self) -> Option<u64> {
        (!self.was_up && !self.stations.is_empty()).then_some(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn at(since_boot: u64) -> Now {
        Now { plan: None, unix_nano: 7, since_boot }
    }

    #[test]
    fn stations_are_tried_in_turn_and_one_that_answers_is_kept() {
        let config = ContactsConfig::default();
        let (interval, duration) = (config.probe.interval.0.as_secs(), config.probe.duration.0.as_secs());
        let mut probe = Probe::new(&config, vec!["a".into(), "b".into()]);
        let station = |c: Option<Contact>| c.map(|c| c.station);
        let mut now = 100 * S;
        assert_eq!(station(probe.step(&at(now), false)).as_deref(), Some("a"));
        assert_eq!(probe.wakes(), Some(now + duration * S));
        now += duration * S;
        assert_eq!(probe.step(&at(now), false), None);
        assert_eq!(probe.wakes(), Some(now + interval * S));
        now += interval * S;
        assert_eq!(station(probe.step(&at(now), false)).as_deref(), Some("b"));
        assert_eq!(station(probe.step(&at(now + S), true)).as_deref(), Some("b"));
        assert_eq!(probe.wakes(), None, "it answers");
        now += 10 * duration * S;
        assert_eq!(station(probe.step(&at(now), true)).as_deref(), Some("b"));
        assert_eq!(station(probe.step(&at(now + 9 * S), false)).as_deref(), Some("b"), "it may come back");
        now += (9 + duration) * S;
        assert_eq!(probe.step(&at(now), false), None);
        probe.stop();
        assert_eq!(station(probe.step(&at(now), false)).as_deref(), Some("a"));
    }
}
