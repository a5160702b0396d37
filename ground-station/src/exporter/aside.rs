//! Requests that a backend leaves undecided, put aside so that what it would take goes on.
//!
//! A request that was tried a few times waits here, alone, and is tried again from time to time, for ever. Meanwhile everything
//! else of its exporter is sent: other satellites, other lanes, and of its own lane the other signals. When the backend as a whole
//! does not answer, the others fail as well; they are tried no faster than one request would be.

use std::collections::BTreeMap;
use std::time::Duration;

use perigee_shared::env::Env;
use perigee_shared::export::deliver::Trouble;
use perigee_shared::export::{Backoff, ExporterConfig};
use perigee_shared::signal::{Signal, SignalSet};
use tokio::time::Instant;

use crate::spool::Place;

/// Waits that a request has before it is put aside.
const WAITS: u32 = 3;

/// A lane of a satellite.
type Lane = (u32, u8);

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    pub(super) place: Place,
    /// Its number in the segment.
    pub(super) number: u64,
    pub(super) signal: Signal,
}

impl At {
    const fn key(self) -> (Lane, Signal) {
        (self.place.lane(), self.signal)
    }
}

/// What is known of a request that was put aside.
struct Waiting {
    at: At,
    trouble: Trouble,
    /// When it is sent again; `None`: now, once its turn comes.
    until: Option<Instant>,
}

/// What one exporter has put aside: of each signal of a lane at most one request, since those behind it wait for it.
pub(super) struct Aside {
    waiting: BTreeMap<(Lane, Signal), Waiting>,
    /// How long nothing at all is sent while everything fails.
    pace: Backoff,
    /// A request was decided since one was put aside.
    answered: bool,
    /// The last request was put aside: something else has the next turn.
    others_first: bool,
}

impl Aside {
    pub(super) fn new(config: &ExporterConfig) -> Self {
        let pace = Backoff::new(config.retry());
        Self { waiting: BTreeMap::new(), pace, answered: true, others_first: false }
    }

    /// How often a request may wait now before it is put aside, and the trouble that it had, if it was put aside before.
    pub(super) fn turn(&mut self, at: At) -> (u32, Option<Trouble>) {
        // What there is of another request in this place is of one that is not there any more.
        let before = self.waiting.remove(&at.key()).filter(|w| w.at == at).map(|w| w.trouble);
        let first = before.is_none() && self.answered;
        (if first { WAITS } else { 0 }, before)
    }

    /// A request was decided.
    pub(super) fn answered(&mut self) {
        self.answered = true;
        self.others_first = false;
        self.pace.reset();
    }

    /// Puts a request aside for so long. Returns how long nothing else is to be sent either: the request before it came back
    /// undecided as well.
    pub(super) fn put(&mut self, env: &Env, at: At, trouble: Trouble, wait: Duration) -> Duration {
        let until = Some(Instant::now() + wait);
        self.waiting.insert(at.key(), Waiting { at, trouble, until });
        self.others_first = true;
        if std::mem::take(&mut self.answered) {
            return Duration::ZERO;
        }
        self.pace.wait(env, None).unwrap_or(wait)
    }

    /// A request was left for another one before it was sent again.
    pub(super) fn keep(&mut self, at: At, trouble: Trouble) {
        self.waiting.insert(at.key(), Waiting { at, trouble, until: None });
    }

    /// How many are put aside.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The signals of this lane of which one waits.
    pub(super) fn signals_of(&self, place: Place) -> SignalSet {
        let of_lane =
            self.waiting.values().filter(|w| w.at.place.lane() == place.lane() && w.until.is_some());
        of_lane.fold(SignalSet::default(), |all, w| all.with(w.at.signal))
    }

    /// Those that are on their way.
    pub(super) fn open(&self) -> Vec<At> {
        self.waiting.values().filter(|w| w.trouble.is_on_its_way()).map(|w| w.at).collect()
    }

    /// Takes this one back in.
    pub(super) fn take(&mut self, at: At) {
        self.waiting.entry(at.key()).and_modify(|waiting| waiting.until = None);
    }

    /// When the first of them is to be sent again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.values().filter_map(|w| w.until).min()
    }

    /// Takes the request back in whose time came first, unless something else has the next turn.
    pub(super) fn take_back(&mut self, now: Instant) -> Option<Place> {
        if self.others_first {
            return None;
        }
        let due = self.waiting.values_mut().filter(|w| w.until.is_some_and(|until| until <= now));
        let first = due.min_by_key(|w| w.until)?;
        first.until = None;
        Some(first.at.place)
    }

    /// There is nothing else to be sent. When the next request is to be taken back in. One that was taken back in and not handed out
    /// is not there any more.
    pub(super) fn alone(&mut self) -> Option<Instant> {
        self.others_first = false;
        self.waiting.retain(|_, w| w.until.is_some());
        self.due()
    }
}
