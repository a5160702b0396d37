//! Replays of ranges: segments that were exported before go to this exporter once more, when nothing new waits or in one turn of ten.

use std::time::Duration;

use perigee_shared::export::cut::Plan;
use perigee_shared::export::deliver::{Leave, Sent, Trouble};
use perigee_shared::export::{Cut, Cuts};
use perigee_shared::signal::Counts;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::aside::At;
use super::{Exporter, Left, Request};
use crate::spool::{Again, Place, ReplayStep};

/// New segments that go before one of a replay.
pub(super) const NEW_FIRST: u32 = 9;

/// Waits that a request of a replay has before it is left to the next turn.
const WAITS: u32 = 3;

/// When this exporter sends something of a replay.
#[derive(Default)]
pub(super) struct Turn {
    /// New segments since the last one.
    since: u32,
    /// Not before: the backend has not decided about the last request.
    not_before: Option<Instant>,
    /// That request, of the replay with this number.
    undecided: Option<(u64, At, Trouble)>,
}

impl Turn {
    /// Whether a replay goes before what is new.
    pub(super) fn is_due(&self) -> bool {
        self.since >= NEW_FIRST && self.may()
    }

    /// Whether a replay may go now.
    pub(super) fn may(&self) -> bool {
        self.not_before.is_none_or(|at| at <= Instant::now())
    }

    /// Something new was sent.
    pub(super) fn sent_new(&mut self) {
        self.since = self.since.saturating_add(1);
    }

    /// When a request that was left undecided is sent again.
    pub(super) const fn again_at(&self) -> Option<Instant> {
        self.not_before
    }
}

impl Exporter {
    /// Sends something of a replay, if there is one. Whether there was.
    pub(super) async fn again(&mut self, shutdown: &CancellationToken) -> Result<bool, Left> {
        let (fingerprint, signals) = (self.fingerprint(), self.plan.signals);
        self.turn = Turn { undecided: self.turn.undecided.take(), ..Turn::default() };
        match self.store.replays().next_again(self.name(), signals, fingerprint).await? {
            None => {
                self.turn.undecided = None;
                Ok(false)
            }
            Some(again) => Box::pin(self.send_again(again, fingerprint, shutdown)).await.map(|()| true),
        }
    }

    /// Sends requests of a segment until its end, or until there is something new.
    async fn send_again(
        &mut self,
        Again { id, work }: Again,
        fingerprint: u64,
        shutdown: &CancellationToken,
    ) -> Result<(), Left> {
        let (place, first, payload) = (work.place, work.first, work.number);
        let plan = Plan { attributes: self.added.to(&work), ..self.plan.clone() };
        let end = ReplayStep { next: payload + 1, fingerprint, ..ReplayStep::default() };
        let unusable = ReplayStep { unusable: true, ..end.clone() };
        let Ok(requests) = work.requests() else { return self.note(id, place, unusable).await };
        let mut cuts = (0u64..).zip(Cuts::new(requests, plan)).peekable();
        while let Some((number, cut)) = cuts.next() {
            let Ok(cut) = cut else { return self.note(id, place, unusable).await };
            // What cannot be read was made a dead letter when it was exported.
            let Cut::Request { signal, body, items } = cut else { continue };
            if number < first.of(signal) {
                continue;
            }
            let request = Request { at: At { place, number, signal }, body, items };
            let Some(refused) = self.send_one(id, request, shutdown).await? else { return Ok(()) };
            let (taken, refused) = (items.saturating_sub(refused), refused.min(items));
            let is_last = cuts.peek().is_none();
            let step = ReplayStep {
                next: payload + u64::from(is_last),
                request: if is_last { 0 } else { number + 1 },
                segment: is_last,
                items: Counts::of(signal, taken),
                refused: Counts::of(signal, refused),
                ..end.clone()
            };
            self.note(id, place, step).await?;
            if is_last {
                return Ok(());
            }
            if work.is_over() || self.goes_elsewhere(fingerprint, Place::NOWHERE).await? {
                return Ok(());
            }
        }
        self.note(id, place, ReplayStep { segment: true, ..end }).await
    }

    /// Sends one request; how many of its items were refused, or nothing when the backend does not decide.
    async fn send_one(
        &mut self,
        id: u64,
        Request { at, body, items }: Request,
        shutdown: &CancellationToken,
    ) -> Result<Option<u64>, Left> {
        let never = CancellationToken::new();
        let before = self.turn.undecided.take().filter(|(of, was, _)| (*of, *was) == (id, at));
        let (waits, trouble) = before.map_or((WAITS, None), |(_, _, trouble)| (0, Some(trouble)));
        let leave = Leave { early: &never, waits, trouble };
        match self.delivery.send(at.signal, body, items, shutdown, leave).await? {
            Sent::Done(delivered) => {
                let letters = delivered.letters.iter().map(|letter| letter.items.total());
                Ok(Some(letters.sum::<u64>() + delivered.rejected))
            }
            Sent::Left(_) => Ok(None),
            Sent::Undecided(wait, trouble) => {
                self.turn.undecided = Some((id, at, trouble));
                self.turn.not_before = Some(Instant::now() + wait.max(Duration::from_millis(100)));
                Ok(None)
            }
        }
    }

    async fn note(&self, id: u64, place: Place, step: ReplayStep) -> Result<(), Left> {
        Ok(self.store.replays().again(self.name(), id, place, step).await?)
    }
}
