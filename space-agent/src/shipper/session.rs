//! The agent's side of the link protocol: what one connection has said and what it says next. No socket, no clock, no database.
//!
//! Hello goes first. Segments that were never on a wire are sent at once; the others wait for Resume, which says what the
//! ground holds of them. Which segment is next is [`Queues`]' matter.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use perigee_proto::link::{
    AgentMessage, Drop, DropsAck, EpochDrops, Goodbye, GroundMessage, Hello, RejectReason, Resume,
    agent_message, ground_message,
};
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Codec, Hash, Header, Lane, SegmentId};

use super::budget::Budget;
use super::gained::Gained;
use super::queues::{Next, Queues, Rest};
use super::together::Held;
use super::waits::Waits;
use crate::lanes::Lanes;
use crate::wal::{GroundLane, GroundView, Reconciled, Smaller, ToShip};

/// What has happened.
#[derive(Debug)]
pub(super) enum Event {
    /// The control stream is open.
    Connected,
    /// The ground has sent a message.
    Message(GroundMessage),
    /// The log has taken in Resume; `new_epoch` when it could not follow it.
    Reconciled(Reconciled),
    /// The answer to [`Action::Fetch`].
    Fetched { lane: Lane, found: ToShip },
    /// There are new segments in the log, or some are not on their way in another slot any more.
    Sealed,
    /// There are new drops in the log.
    Dropped { epoch: u64, drops: Vec<Drop> },
    /// All of a segment has been handed to QUIC.
    Written(SegmentId),
    /// A segment's stream has failed; the connection may live on.
    Failed(SegmentId),
    /// A segment was encoded anew after it was fetched, so that nothing of it was sent.
    Changed(SegmentId),
    /// A segment is on its way in another slot, so that nothing of it was sent.
    Elsewhere(SegmentId),
    /// A segment depends on what is in another ledger, so that nothing of it was sent.
    Unreadable(SegmentId),
    /// The ground holds these parts of segments that were on their way in another slot.
    Left(BTreeMap<SegmentId, Held>),
    /// A segment was checked after a mismatch: whether it is whole.
    Verified { id: SegmentId, whole: bool },
    /// A segment was encoded anew, or could not be.
    Recoded { id: SegmentId, done: bool },
    /// The contact has another budget.
    Budget(Option<Budget>),
    /// Nothing more is to be begun; this is the last word, if it was not said before.
    End(Option<Box<Goodbye>>),
}

/// What to do.
#[allow(clippy::large_enum_variant, reason = "a message is sent and forgotten; few are in memory at once")]
#[derive(Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "an action is carried out at once, and a few wait at most")]
pub(super) enum Action {
    /// Send a message on the control stream.
    Send(AgentMessage),
    /// Compare what the ground has with the log, then [`Event::Reconciled`].
    Reconcile(GroundView),
    /// Ask the log for the next segments of a lane that are not among those `taken`, or for the next of those that are smaller, then
    /// [`Event::Fetched`].
    Fetch { lane: Lane, taken: RangeSet, smaller: Option<Smaller> },
    /// Send these bytes of a segment, before everything if `first`, behind what its lane begins later if `late`, then
    /// [`Event::Written`] or [`Event::Failed`].
    Write { header: Header, ranges: Vec<Range<u64>>, first: bool, late: bool },
    /// The ground has these for good: so many bytes of payload of those that were sent on this connection.
    Committed { ids: Vec<SegmentId>, bytes: u64 },
    /// The ground has these drops in its ledger.
    DropsKnown { ack: DropsAck, highest: Option<u64> },
    /// Check the log's own copy, then [`Event::Verified`].
    Verify(SegmentId),
    /// Encode a segment anew with this codec, so that it leans on nothing, then [`Event::Recoded`].
    Recode { id: SegmentId, codec: Codec },
    /// The codecs that the ground reads.
    GroundReads(Vec<u32>),
    /// This segment is not sent any more in this contact: it may go in another slot.
    GiveUp(SegmentId),
    /// Begin again with another connection.
    Restart,
    /// End the connection, and make none for so long.
    LeaveAlone(Duration),
    /// The ground sends nothing more.
    Finished,
}

/// How far the sessions of a contact have come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Segment bytes that may still be sent; `None`: any number.
    pub(super) budget: Option<Budget>,
    /// Bytes that the ground has gained.
    pub(super) held: u64,
    /// Every segment of the log is on the ground.
    pub(super) is_drained: bool,
    /// Some are on their way in another slot, as far as is known.
    pub(super) is_elsewhere: bool,
    /// The ground has no room.
    pub(super) is_refused: bool,
    /// The last session has said Goodbye.
    pub(super) is_over: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    hello: Hello,
    /// Resume has come.
    answered: bool,
    /// It was taken in.
    resumed: bool,
    ending: bool,
    queues: Queues,
    /// Written and not yet acknowledged.
    unacknowledged: BTreeMap<SegmentId, Header>,
    partials: BTreeMap<SegmentId, Held>,
    ledger: u64,
    /// The ground has no room: nothing more is sent in this contact.
    refused: bool,
    resent_once: BTreeSet<SegmentId>,
    recoded: BTreeSet<SegmentId>,
    has_urgent: bool,
    budget: Option<Budget>,
    /// Bytes that the rest of the pass carries beyond those that were begun and are not late; `None`: that is not known.
    room: Option<u64>,
    gained: Gained,
    waits: Waits,
}

impl Session {
    pub(super) fn new(hello: Hello, budget: Option<Budget>, gained: Gained, lanes: &Lanes) -> Self {
        let on_board = hello.epochs.last().into_iter().flat_map(|e| &e.lanes);
        let on_board = on_board.filter_map(|l| u8::try_from(l.lane).ok()).map(Lane);
        let queues = Queues::new(on_board, lanes);
        let mut session = Self {
            hello,
            answered: false,
            resumed: false,
            ending: false,
            queues,
            unacknowledged: BTreeMap::new(),
            partials: BTreeMap::new(),
            ledger: 0,
            refused: false,
            resent_once: BTreeSet::new(),
            recoded: BTreeSet::new(),
            // Nobody needs a reserve where everything is bulk.
            has_urgent: lanes.rules.lanes().any(|lane| lane < Lane::BULK),
            budget: None,
            room: None,
            gained,
            waits: Waits::default(),
        };
        session.set_budget(budget);
        session
    }

    /// The same, with what waits in this pass.
    pub(super) fn waiting(self, waits: Waits) -> Self {
        Self { waits, ..self }
    }

    /// The rest of the pass carries so many bytes beyond those that were begun and are not late.
    pub(super) const fn set_room(&mut self, room: Option<u64>) {
        self.room = room;
    }

    /// So much may be sent from now on.
    fn set_budget(&mut self, budget: Option<Budget>) {
        self.budget = budget.map(|b| if self.has_urgent { b } else { b.without_reserve() });
    }

    /// Whether everything that was sent is acknowledged and there is nothing left to send.
    pub(super) fn is_idle(&self) -> bool {
        let nothing_left = self.ending || self.queues.are_empty();
        !self.queues.are_writing() && self.unacknowledged.is_empty() && nothing_left
    }

    /// Whether QUIC has all that was begun, and nothing can be begun as far as is known.
    pub(super) fn is_written(&self) -> bool {
        self.resumed && !self.queues.are_writing() && !self.queues.are_fetching()
    }

    /// Whether the ground has all of that too.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_written() && self.unacknowledged.is_empty()
    }

    /// How far this session has come.
    pub(super) fn standing(&self) -> Standing {
        Standing {
            budget: self.budget,
            held: self.gained.bytes(),
            is_drained: self.queues.are_drained() && self.unacknowledged.is_empty(),
            is_elsewhere: self.queues.are_elsewhere(),
            is_refused: self.refused,
            is_over: self.ending,
        }
    }

    /// The ledger that the ground has named; 0: it has not, or never does.
    pub(super) const fn ledger(&self) -> u64 {
        self.ledger
    }

    /// What the next session of the contact goes on with, and what the ground holds of segments in part.
    pub(super) fn into_gained(self) -> (Gained, Waits, BTreeMap<SegmentId, Held>) {
        (self.gained, self.waits, self.partials)
    }

    pub(super) fn on_event(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Connected => actions.push(send(agent_message::Body::Hello(self.hello.clone()))),
            Event::Message(message) => self.on_message(message, &mut actions),
            Event::Reconciled(Reconciled::NewEpoch) => actions.push(Action::Restart),
            Event::Reconciled(Reconciled::Refused(rest)) => actions.push(Action::LeaveAlone(rest)),
            Event::Reconciled(Reconciled::Believed { committed, .. }) => {
                for (lane, committed) in committed {
                    self.queues.forget(lane, &committed);
                    self.gained.committed_in(self.epoch(), lane, &committed);
                    self.unacknowledged.retain(|id, _| id.lane != lane || !committed.contains(id.sequence));
                }
                self.resumed = true;
                self.queues.release();
            }
            Event::Fetched { lane, found } => self.on_fetched(lane, found),
            Event::Sealed => self.queues.look_again(),
            Event::Dropped { epoch, drops } => {
                actions.push(send(agent_message::Body::Drops(EpochDrops { epoch, drops })));
            }
            Event::Written(id) => {
                if let Some(header) = self.queues.written(id) {
                    self.unacknowledged.insert(id, header);
                }
            }
            Event::Failed(id) => {
                self.queues.failed(id);
                actions.push(Action::GiveUp(id));
            }
            Event::Changed(id) => {
                self.unspend(id);
                self.queues.again(id);
            }
            Event::Elsewhere(id) => {
                self.unspend(id);
                self.queues.elsewhere(id);
            }
            Event::Unreadable(id) => {
                self.unspend(id);
                self.partials.remove(&id);
                actions.push(Action::Recode { id, codec: Codec::Columns });
            }
            Event::Left(held) => self.partials.extend(held),
            Event::Verified { id, whole } => self.on_verified(id, whole),
            Event::Recoded { id, done: true } => self.queues.again(id),
            Event::Recoded { id, done: false } => {
                tracing::error!(segment = %id, "a segment cannot be re-encoded; it stays on board");
            }
            Event::Budget(budget) => self.set_budget(budget),
            Event::End(goodbye) => {
                if !std::mem::replace(&mut self.ending, true)
                    && let Some(goodbye) = goodbye
                {
                    actions.push(send(agent_message::Body::Goodbye(*goodbye)));
                }
            }
        }
        self.advance(&mut actions);
        actions
    }

    /// Nothing of a segment was sent after all.
    fn unspend(&mut self, id: SegmentId) {
        let bytes = self.queues.failed(id);
        if let Some(budget) = &mut self.budget {
            budget.give_back(bytes);
        }
    }

    fn on_message(&mut self, message: GroundMessage, actions: &mut Vec<Action>) {
        match message.body {
            // One answers Hello. A ground that goes on would have the log look, and write, without end.
            Some(ground_message::Body::Resume(resume)) if !self.answered => self.on_resume(resume, actions),
            Some(ground_message::Body::Resume(_)) => {}
            Some(ground_message::Body::Ack(ack)) => {
                let ids: Vec<SegmentId> =
                    ack.committed.into_iter().filter_map(|id| id.try_into().ok()).collect();
                let mut bytes = 0;
                for id in &ids {
                    let writing = self.queues.acknowledged(*id);
                    let sent = self.unacknowledged.remove(id).or(writing);
                    bytes += sent.map_or(0, |header| header.payload_len);
                    self.partials.remove(id);
                    self.gained.committed(*id);
                }
                for held in ack.partials {
                    let Some(partial) = held.partial else { continue };
                    let Ok(lane) = u8::try_from(held.lane) else { continue };
                    let id = SegmentId { epoch: held.epoch, lane: Lane(lane), sequence: partial.sequence };
                    let held = RangeSet::from_wire(&partial.held);
                    self.gained.holds(id, held.total());
                    // Of others it is not asked.
                    let is_under_way = self.unacknowledged.contains_key(&id) || self.queues.is_writing(id);
                    if let Ok(hash) = Hash::try_from(partial.payload_hash.as_slice())
                        && is_under_way
                    {
                        self.partials.insert(id, (hash, held));
                    }
                }
                if !ids.is_empty() {
                    actions.push(Action::Committed { ids, bytes });
                }
                for drops in ack.drops {
                    actions.push(Action::DropsKnown { ack: drops, highest: None });
                }
            }
            Some(ground_message::Body::Reject(reject)) => {
                let reason = reject.reason();
                if let Some(id) = reject.segment.and_then(|id| SegmentId::try_from(id).ok()) {
                    self.on_reject(id, reason, actions);
                }
            }
            Some(ground_message::Body::Goodbye(_)) => actions.push(Action::Finished),
            None => {}
        }
    }

    /// The agent's own epoch.
    fn epoch(&self) -> u64 {
        self.hello.epochs.last().map_or(0, |e| e.epoch)
    }

    fn on_resume(&mut self, resume: Resume, actions: &mut Vec<Action>) {
        let current = self.epoch();
        self.answered = true;
        if !resume.codecs.is_empty() {
            actions.push(Action::GroundReads(resume.codecs));
        }
        let (ledger, start_counter) = (resume.ledger, resume.start_counter);
        self.ledger = ledger;
        let mut view = GroundView { ledger, start_counter, epoch: current, ..GroundView::default() };
        for epoch in resume.epochs {
            if let Some(told) = self.hello.epochs.iter().find(|told| told.epoch == epoch.epoch) {
                view.inherit(told, &epoch);
            }
            let ack =
                DropsAck { epoch: epoch.epoch, ids: epoch.drops_acknowledged, overridden: epoch.overridden };
            if !ack.ids.is_empty() || !ack.overridden.is_empty() || epoch.highest_drop.is_some() {
                actions.push(Action::DropsKnown { ack, highest: epoch.highest_drop });
            }
            if epoch.epoch != current {
                continue;
            }
            for lane in epoch.lanes {
                let Some(ground) = GroundLane::of(&lane) else { continue };
                for partial in lane.partials {
                    let id = SegmentId { epoch: current, lane: ground.lane, sequence: partial.sequence };
                    if let Ok(hash) = Hash::try_from(partial.payload_hash.as_slice()) {
                        let held = RangeSet::from_wire(&partial.held);
                        self.gained.holds(id, held.total());
                        self.partials.insert(id, (hash, held));
                    }
                }
                view.lanes.push(ground);
            }
        }
        actions.push(Action::Reconcile(view));
    }

    fn on_reject(&mut self, id: SegmentId, reason: RejectReason, actions: &mut Vec<Action>) {
        // Of others nothing is noted, or read, or encoded.
        let is_writing = self.queues.is_writing(id);
        if self.unacknowledged.remove(&id).is_none() && !is_writing {
            return;
        }
        self.queues.failed(id);
        self.partials.remove(&id);
        match reason {
            RejectReason::HashMismatch => actions.push(Action::Verify(id)),
            RejectReason::Quota => {
                self.refused = true;
                actions.push(Action::GiveUp(id));
            }
            RejectReason::MissingBase if self.recoded.insert(id) => {
                actions.push(Action::Recode { id, codec: Codec::Columns });
            }
            // Every ground reads codec 1.
            RejectReason::UnknownCodec if self.recoded.insert(id) => {
                actions.push(Action::Recode { id, codec: Codec::ZstdRows });
            }
            RejectReason::UnknownCodec | RejectReason::MissingBase | RejectReason::Unspecified => {
                tracing::error!(segment = %id, reason = reason.as_str_name(), "the ground refuses a segment; it stays on board");
                actions.push(Action::GiveUp(id));
            }
        }
    }

    fn on_verified(&mut self, id: SegmentId, whole: bool) {
        // A segment that is whole here is sent once more; what arrives damaged twice waits for the next contact.
        if whole && self.resent_once.insert(id) {
            self.queues.again(id);
        }
    }

    fn on_fetched(&mut self, lane: Lane, found: ToShip) {
        let ToShip { mut headers, looked, more, elsewhere, .. } = found;
        headers.retain(|(h, _)| !self.unacknowledged.contains_key(&h.id));
        self.queues.fetched(lane, &looked, more, elsewhere);
        for (header, fresh) in headers {
            self.queues.put(header, fresh || self.resumed);
        }
    }

    /// Begins what can be begun.
    fn advance(&mut self, actions: &mut Vec<Action>) {
        if self.ending || self.refused {
            return;
        }
        while let Some(last) = self.budget.map_or(Some(Lane(u8::MAX)), Budget::last) {
            let (room, budget) = (self.room, self.budget);
            let mut rest = Rest { room, budget, held: &self.partials, waits: &mut self.waits };
            let Some(Next { header, first, late }) = self.queues.next(last, &mut rest) else { break };
            let held = self.partials.get(&header.id).filter(|(hash, _)| *hash == header.hash);
            let held = held.map_or_else(RangeSet::default, |(_, held)| held.clone());
            self.gained.begin(&header, held.total());
            let mut ranges = held.missing(0..header.payload_len);
            if ranges.is_empty() {
                // Held whole and not committed: the last byte once more makes the ground look again.
                ranges.push(header.payload_len - 1..header.payload_len);
            }
            if let Some(budget) = &mut self.budget {
                // A part of a segment is worth sending: the next contact goes on behind it.
                let mut may = budget.of(header.id.lane);
                let before = may;
                spend(&mut may, &mut ranges);
                budget.take(before - may);
            }
            let bytes: u64 = ranges.iter().map(|r| r.end - r.start).sum();
            if !late {
                self.room = self.room.map(|room| room.saturating_sub(bytes));
            }
            self.queues.begin(header.clone(), bytes, first);
            actions.push(Action::Write { header, ranges, first, late });
        }
        for (lane, taken, within) in self.queues.wanted() {
            let smaller = within.map(|bytes| Smaller { bytes, parts: self.parts(lane) });
            actions.push(Action::Fetch { lane, taken, smaller });
        }
    }

    /// The sequences of a lane of which the ground holds a part.
    fn parts(&self, lane: Lane) -> RangeSet {
        let of_lane = self.partials.keys().filter(|id| id.lane == lane);
        of_lane.map(|id| id.sequence..id.sequence + 1).collect()
    }
}

/// Cuts `ranges` to what is left of `budget`.
fn spend(budget: &mut u64, ranges: &mut Vec<Range<u64>>) {
    ranges.retain_mut(|range| {
        range.end = range.end.min(range.start + *budget);
        *budget -= range.end - range.start;
        !range.is_empty()
    });
}

fn send(body: agent_message::Body) -> Action {
    Action::Send(AgentMessage { body: Some(body) })
}

#[cfg(test)]
mod tests;
