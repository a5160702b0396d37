//! The agent's side of the link protocol: what one connection has said and what it says next. No socket, no clock, no database.
//!
//! Hello goes first. Segments that were never on a wire are sent at once; the others wait for Resume, which says what the
//! ground holds of them. Which segment is next is [`Queues`]' matter.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use perigee_proto::link::{
    AgentMessage, Drop, DropsAck, EpochDrops, Goodbye, GroundMessage, Hello, RejectReason, Resume,
    agent_message, ground_message,
};
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Codec, Hash, Header, Lane, SegmentId};

use super::gained::Gained;
use super::queues::Queues;
use super::together::Held;
use crate::lanes::Lanes;
use crate::wal::{GroundLane, GroundView, Reconciled, ToShip};

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
    /// The ground holds these parts of segments that were on their way in another slot.
    Left(BTreeMap<SegmentId, Held>),
    /// A segment was checked after a mismatch: whether it is whole.
    Verified { id: SegmentId, whole: bool },
    /// A segment was encoded anew, or could not be.
    Recoded { id: SegmentId, done: bool },
    /// The contact has another budget.
    Budget(Option<Budget>),
    /// Nothing more is to be begun; this is the last word.
    End(Box<Goodbye>),
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
    /// Ask the log for the next segments of a lane that are not among those `taken`, then [`Event::Fetched`].
    Fetch { lane: Lane, taken: RangeSet },
    /// Send these bytes of a segment, before everything if `first`, then [`Event::Written`] or [`Event::Failed`].
    Write { header: Header, ranges: Vec<Range<u64>>, first: bool },
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
    /// The ground sends nothing more.
    Finished,
}

/// Segment bytes that may still be sent in a contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    /// At first.
    whole: u64,
    left: u64,
    /// Of what is left, bytes that are kept for lanes more urgent than bulk: what they have may only come.
    reserve: u64,
}

impl Budget {
    /// A tenth of it is kept.
    const KEPT: u64 = 10;

    pub(super) const fn new(bytes: u64) -> Self {
        Self { whole: bytes, left: bytes, reserve: bytes / Self::KEPT }
    }

    /// Bytes that were sent of it.
    pub(super) const fn spent(self) -> u64 {
        self.whole - self.left
    }

    /// The same when so many bytes have been sent.
    pub(super) const fn less(self, spent: u64) -> Self {
        let left = self.whole.saturating_sub(spent);
        Self { left, ..self }
    }

    /// Nothing more of bulk is sent.
    pub(super) const fn is_spent(self) -> bool {
        self.left <= self.reserve
    }

    /// What `lane` may have.
    const fn of(self, lane: Lane) -> u64 {
        if lane.0 < Lane::BULK.0 { self.left } else { self.left.saturating_sub(self.reserve) }
    }

    /// The last lane that may have something.
    const fn last(self) -> Option<Lane> {
        match self {
            Self { left: 0, .. } => None,
            _ if self.is_spent() => Some(Lane(Lane::BULK.0 - 1)),
            _ => Some(Lane(u8::MAX)),
        }
    }
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
    gained: Gained,
}

impl Session {
    pub(super) fn new(hello: Hello, budget: Option<Budget>, gained: Gained, lanes: &Lanes) -> Self {
        let on_board = hello.epochs.last().into_iter().flat_map(|e| &e.lanes);
        let on_board = on_board.filter_map(|l| u8::try_from(l.lane).ok()).map(Lane);
        let queues = Queues::new(on_board, lanes);
        let mut session = Self {
            hello,
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
            gained,
        };
        session.set_budget(budget);
        session
    }

    /// So much may be sent from now on.
    fn set_budget(&mut self, budget: Option<Budget>) {
        self.budget = budget.map(|b| Budget { reserve: if self.has_urgent { b.reserve } else { 0 }, ..b });
    }

    /// Whether everything that was sent is acknowledged and there is nothing left to send.
    pub(super) fn is_idle(&self) -> bool {
        let nothing_left = self.ending || self.queues.are_empty();
        !self.queues.are_writing() && self.unacknowledged.is_empty() && nothing_left
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
    pub(super) fn into_gained(self) -> (Gained, BTreeMap<SegmentId, Held>) {
        (self.gained, self.partials)
    }

    pub(super) fn on_event(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Connected => actions.push(send(agent_message::Body::Hello(self.hello.clone()))),
            Event::Message(message) => self.on_message(message, &mut actions),
            Event::Reconciled(Reconciled::NewEpoch) => actions.push(Action::Restart),
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
            Event::Left(held) => self.partials.extend(held),
            Event::Verified { id, whole } => self.on_verified(id, whole),
            Event::Recoded { id, done: true } => self.queues.again(id),
            Event::Recoded { id, done: false } => {
                tracing::error!(segment = %id, "a segment cannot be re-encoded; it stays on board");
            }
            Event::Budget(budget) => self.set_budget(budget),
            Event::End(goodbye) => {
                if !self.ending {
                    self.ending = true;
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
            budget.left += bytes;
        }
    }

    fn on_message(&mut self, message: GroundMessage, actions: &mut Vec<Action>) {
        match message.body {
            Some(ground_message::Body::Resume(resume)) => self.on_resume(resume, actions),
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
                let Ok(number) = u8::try_from(lane.lane) else { continue };
                let number = Lane(number);
                let mut ground =
                    GroundLane { lane: number, committed: RangeSet::default(), tops: Vec::new() };
                for range in lane.committed {
                    let Some(sequences) = range.sequences else { continue };
                    ground.committed.insert(sequences.start..sequences.end);
                    if let (Ok(hash), true) =
                        (Hash::try_from(range.top_hash.as_slice()), sequences.end > sequences.start)
                    {
                        ground.tops.push((sequences.end - 1, hash));
                    }
                }
                for partial in lane.partials {
                    let id = SegmentId { epoch: current, lane: number, sequence: partial.sequence };
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
        self.unacknowledged.remove(&id);
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
        let ToShip { mut headers, looked, more, elsewhere } = found;
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
        while let Some(last) = self.budget.map_or(Some(Lane(u8::MAX)), Budget::last)
            && let Some((header, first)) = self.queues.next(last)
        {
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
                budget.left -= before - may;
            }
            let bytes = ranges.iter().map(|r| r.end - r.start).sum();
            self.queues.begin(header.clone(), bytes, first);
            actions.push(Action::Write { header, ranges, first });
        }
        let wanted = self.queues.wanted().into_iter();
        actions.extend(wanted.map(|(lane, taken)| Action::Fetch { lane, taken }));
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
mod tests {
    use perigee_proto::link::{self, Ack, CommittedRange, Epoch, Partial, Reject, ResumeEpoch, ResumeLane};
    use perigee_shared::segment::hash;
    use perigee_shared::signal::{Counts, TimeRange};

    use super::*;

    const EPOCH: u64 = 9;
    const WHOLE: &[Range<u64>] = &[Range { start: 0, end: 1000 }];

    fn header(sequence: u64) -> Header {
        Header {
            id: SegmentId { epoch: EPOCH, lane: Lane::BULK, sequence },
            codec: 1,
            payload_len: 1000,
            raw_len: 1,
            hash: hash(&sequence.to_le_bytes()),
            items: Counts::ZERO,
            time: TimeRange::EMPTY,
            requests: 1,
            sealed_unix_nano: 0,
            base_sequence: None,
            is_base: false,
        }
    }

    #[test]
    fn of_a_new_budget_what_was_sent_is_taken_off() {
        let mut session = session();
        session.on_event(Event::Budget(Some(Budget::new(1500))));
        session.on_event(Event::Connected);
        let actions =
            session.on_event(fetched(vec![(header(0), true), (header(1), true), (header(2), true)]));
        let bytes = |actions: &[Action]| -> u64 {
            written(actions).iter().flat_map(|(_, ranges)| ranges).map(|r| r.end - r.start).sum()
        };
        assert_eq!(bytes(&actions), 1500);
        let spent = session.standing().budget.map(Budget::spent);
        assert_eq!(spent, Some(1500));
        let mut more = session.on_event(Event::Budget(Some(Budget::new(2000).less(1500))));
        more.extend(session.on_event(Event::Written(header(0).id)));
        more.extend(session.on_event(Event::Written(header(1).id)));
        assert_eq!(bytes(&more), 500, "{more:?}");
        assert_eq!(Budget::new(1000).less(1500).spent(), 1000, "a smaller one is spent");
    }

    fn session() -> Session {
        let epochs = vec![Epoch { epoch: EPOCH, ..Epoch::default() }];
        Session::new(Hello { epochs, ..Hello::default() }, None, Gained::default(), &Lanes::default())
    }

    fn fetched(headers: Vec<(Header, bool)>) -> Event {
        let looked = headers.iter().map(|(h, _)| h.id.sequence..h.id.sequence + 1).collect();
        Event::Fetched { lane: Lane::BULK, found: ToShip { headers, looked, more: false, elsewhere: false } }
    }

    fn written(actions: &[Action]) -> Vec<(u64, Vec<Range<u64>>)> {
        let write = |a: &Action| match a {
            Action::Write { header, ranges, .. } => Some((header.id.sequence, ranges.clone())),
            _ => None,
        };
        actions.iter().filter_map(write).collect()
    }

    fn resume(committed: Range<u64>, partial: Option<(u64, Hash, Range<u64>)>) -> Event {
        let lane = ResumeLane {
            lane: u32::from(Lane::BULK.0),
            committed: vec![CommittedRange {
                sequences: Some(link::Range { start: committed.start, end: committed.end }),
                top_hash: hash(&(committed.end - 1).to_le_bytes()).to_vec(),
            }],
            partials: partial
                .into_iter()
                .map(|(sequence, hash, held)| Partial {
                    sequence,
                    payload_hash: hash.to_vec(),
                    held: vec![link::Range { start: held.start, end: held.end }],
                })
                .collect(),
        };
        let epochs = vec![ResumeEpoch {
            epoch: EPOCH,
            lanes: vec![lane],
            drops_acknowledged: vec![3],
            ..ResumeEpoch::default()
        }];
        let body = ground_message::Body::Resume(Resume { epochs, ..Resume::default() });
        Event::Message(GroundMessage { body: Some(body) })
    }

    fn committed(sequence: u64) -> Event {
        let ack = Ack { committed: vec![header(sequence).id.into()], ..Ack::default() };
        Event::Message(GroundMessage { body: Some(ground_message::Body::Ack(ack)) })
    }

    fn believed(committed: Range<u64>) -> Event {
        let committed = [(Lane::BULK, std::iter::once(committed).collect())].into();
        Event::Reconciled(Reconciled::Believed { committed, deleted: 0 })
    }

    #[test]
    fn a_segment_that_the_ground_only_claims_to_have_is_sent() {
        let mut s = session();
        s.on_event(Event::Connected);
        s.on_event(fetched(vec![(header(1), false), (header(2), false)]));
        s.on_event(resume(1..3, None));
        let actions = s.on_event(believed(2..3));
        assert_eq!(written(&actions), [(1, WHOLE.to_vec())]);
    }

    #[test]
    fn a_segment_that_was_never_on_a_wire_does_not_wait_for_resume() {
        let mut s = session();
        assert!(matches!(s.on_event(Event::Connected)[..], [Action::Send(_), Action::Fetch { .. }]));
        let headers = vec![(header(1), false), (header(2), true)];
        let actions = s.on_event(fetched(headers));
        assert_eq!(written(&actions), [(2, WHOLE.to_vec())]);
        let actions = s.on_event(resume(0..1, None));
        assert!(actions.contains(&Action::DropsKnown {
            ack: DropsAck { epoch: EPOCH, ids: vec![3], overridden: vec![] },
            highest: None
        }));
        let actions = s.on_event(believed(0..0));
        assert_eq!(written(&actions), [(1, WHOLE.to_vec())]);
    }

    #[test]
    fn a_partial_is_resumed_where_the_ground_stopped_and_only_if_it_is_the_same() {
        for (held_hash, expected) in [(header(2).hash, 400..1000), (hash(b"other"), 0..1000)] {
            let mut s = session();
            s.on_event(Event::Connected);
            s.on_event(fetched(vec![(header(1), false), (header(2), false)]));
            s.on_event(resume(1..2, Some((2, held_hash, 0..400))));
            let actions = s.on_event(believed(1..2));
            assert_eq!(written(&actions), [(2, vec![expected])], "segment 1 is committed and not sent again");
        }
    }

    #[test]
    fn two_segments_are_written_at_a_time_and_an_ack_passes_them() {
        let mut s = session();
        s.on_event(Event::Connected);
        let headers = (1..=4).map(|n| (header(n), true)).collect();
        let actions = s.on_event(fetched(headers));
        assert_eq!(written(&actions).len(), 2);
        assert_eq!(written(&s.on_event(Event::Written(header(1).id))), [(3, WHOLE.to_vec())]);
        assert!(!s.is_idle());
        assert!(
            s.on_event(committed(1)).contains(&Action::Committed { ids: vec![header(1).id], bytes: 1000 })
        );
        let actions = s.on_event(Event::End(Box::default()));
        assert!(matches!(actions[..], [Action::Send(_)]));
        assert!(written(&s.on_event(Event::Written(header(2).id))).is_empty(), "nothing new after the end");
        s.on_event(Event::Written(header(3).id));
        s.on_event(committed(2));
        s.on_event(committed(3));
        assert!(s.is_idle());
    }

    #[test]
    fn a_mismatch_is_verified_and_sent_once_more() {
        let mut s = session();
        s.on_event(Event::Connected);
        s.on_event(fetched(vec![(header(1), true)]));
        s.on_event(Event::Written(header(1).id));
        let reject = Reject { segment: Some(header(1).id.into()), reason: RejectReason::HashMismatch as i32 };
        let reject = || Event::Message(GroundMessage { body: Some(ground_message::Body::Reject(reject)) });
        assert!(s.on_event(reject()).contains(&Action::Verify(header(1).id)));
        let actions = s.on_event(Event::Verified { id: header(1).id, whole: true });
        assert_eq!(actions, [Action::Fetch { lane: Lane::BULK, taken: RangeSet::default() }]);
        let actions = s.on_event(fetched(vec![(header(1), false)]));
        assert!(written(&actions).is_empty(), "it was on a wire, so it waits for Resume");
    }

    #[test]
    fn a_segment_that_was_encoded_anew_after_it_was_fetched_is_fetched_once_more() {
        let mut s = session();
        s.on_event(Event::Connected);
        assert_eq!(written(&s.on_event(fetched(vec![(header(1), true)]))), [(1, WHOLE.to_vec())]);
        let actions = s.on_event(Event::Changed(header(1).id));
        assert_eq!(actions, [Action::Fetch { lane: Lane::BULK, taken: RangeSet::default() }]);
        let anew = Header { payload_len: 700, hash: hash(b"anew"), ..header(1) };
        assert_eq!(
            written(&s.on_event(fetched(vec![(anew, true)]))),
            [(1, vec![Range { start: 0, end: 700 }])]
        );
    }

    #[test]
    fn what_is_under_way_in_another_slot_is_not_sent_and_goes_on_where_the_ledger_has_it() {
        let mut s = Session::new(
            Hello { epochs: vec![Epoch { epoch: EPOCH, ..Epoch::default() }], ..Hello::default() },
            Some(Budget::new(1500)),
            Gained::default(),
            &Lanes::default(),
        );
        s.on_event(Event::Connected);
        s.on_event(fetched((1..=3).map(|n| (header(n), true)).collect()));
        let spent = |s: &Session| s.standing().budget.map(Budget::spent);
        assert_eq!(spent(&s), Some(1500));
        // No byte of segments 1 and 2 was sent: the whole of segment 3 fits into the budget.
        let actions = s.on_event(Event::Elsewhere(header(2).id));
        assert_eq!(written(&actions), [(3, vec![Range { start: 0, end: 500 }])]);
        s.on_event(Event::Elsewhere(header(1).id));
        assert!(s.standing().is_elsewhere && spent(&s) == Some(500));
        s.on_event(Event::Written(header(3).id));
        assert!(
            !s.on_event(committed(3)).iter().any(|a| matches!(a, Action::Fetch { .. })),
            "nothing is free"
        );
        // The other connection has ended: its ledger has a part of 1.
        s.on_event(Event::Left([(header(1).id, (header(1).hash, std::iter::once(0..300).collect()))].into()));
        let actions = s.on_event(Event::Sealed);
        let taken = std::iter::once(3..4).collect();
        assert_eq!(actions, [Action::Fetch { lane: Lane::BULK, taken }], "1 and 2 are asked for again");
        let actions = s.on_event(fetched(vec![(header(1), true), (header(2), true)]));
        let rest = |start, end| vec![Range { start, end }];
        assert_eq!(written(&actions), [(1, rest(300, 1000)), (2, rest(0, 300))]);
        assert!(!s.standing().is_elsewhere);
    }

    #[test]
    fn parts_of_segments_that_nobody_sent_take_no_memory() {
        let mut s = session();
        s.on_event(Event::Connected);
        s.on_event(fetched(vec![(header(1), true)]));
        (1..100).for_each(|n| drop(s.on_event(holds(n, 0..500))));
        assert_eq!(s.into_gained().1.into_keys().collect::<Vec<_>>(), [header(1).id]);
    }

    #[test]
    fn a_ground_without_room_is_sent_nothing_more() {
        let mut s = session();
        s.on_event(Event::Connected);
        s.on_event(fetched((1..=3).map(|n| (header(n), true)).collect()));
        let reject = Reject { segment: Some(header(1).id.into()), reason: RejectReason::Quota as i32 };
        s.on_event(Event::Message(GroundMessage { body: Some(ground_message::Body::Reject(reject)) }));
        assert!(written(&s.on_event(Event::Written(header(2).id))).is_empty());
    }

    #[test]
    fn a_byte_budget_ends_what_is_begun() {
        let mut s =
            Session::new(Hello::default(), Some(Budget::new(1500)), Gained::default(), &Lanes::default());
        s.on_event(Event::Connected);
        let headers = (1..=4).map(|n| (header(n), true)).collect();
        let begun = written(&s.on_event(fetched(headers)));
        assert_eq!(begun.len(), 2);
        assert_eq!((begun[0].1.as_slice(), begun[1].1.first()), (WHOLE, Some(&(0..500))));
        assert!(written(&s.on_event(Event::Written(header(1).id))).is_empty());
    }

    #[test]
    fn a_part_of_the_budget_is_kept_for_what_is_urgent() {
        let alarms = br#"[[1, {"severity": "error"}]]"#;
        let rules = crate::lanes::Rules::from_bytes(alarms).expect("rules").into();
        let policies = [(Lane(1), crate::lanes::Policy::default())].into();
        let lanes = Lanes { rules, policies, ..Lanes::default() };
        let mut s = Session::new(Hello::default(), Some(Budget::new(2000)), Gained::default(), &lanes);
        s.on_event(Event::Connected);
        let begun = written(&s.on_event(fetched((1..=4).map(|n| (header(n), true)).collect())));
        // Of 2,000 bytes bulk may have 1,800.
        assert_eq!((begun.len(), begun[1].1.first()), (2, Some(&(0..800))));
        s.on_event(Event::Written(header(1).id));
        assert!(written(&s.on_event(Event::Written(header(2).id))).is_empty());
        assert!(s.standing().budget.is_some_and(Budget::is_spent));
        let mut alarm = header(1);
        alarm.id.lane = Lane(1);
        let headers = vec![(alarm.clone(), true)];
        let found = ToShip { headers, looked: RangeSet::default(), more: false, elsewhere: false };
        let begun = written(&s.on_event(Event::Fetched { lane: Lane(1), found }));
        assert_eq!((begun[0].0, begun[0].1.first()), (alarm.id.sequence, Some(&(0..200))));
    }

    fn holds(sequence: u64, held: Range<u64>) -> Event {
        let partial = Partial {
            sequence,
            payload_hash: header(sequence).hash.to_vec(),
            held: vec![link::Range { start: held.start, end: held.end }],
        };
        let partial =
            link::PartialAck { epoch: EPOCH, lane: u32::from(Lane::BULK.0), partial: Some(partial) };
        let ack = Ack { partials: vec![partial], ..Ack::default() };
        Event::Message(GroundMessage { body: Some(ground_message::Body::Ack(ack)) })
    }

    #[test]
    fn what_the_ground_has_gained_counts_once_over_the_connections_of_a_contact() {
        let mut s = session();
        s.on_event(Event::Connected);
        s.on_event(fetched(vec![(header(1), false), (header(2), false), (header(3), true)]));
        assert!(!s.standing().is_drained);
        // Of segment 2 it held 400 bytes before this contact.
        s.on_event(resume(0..1, Some((2, header(2).hash, 0..400))));
        s.on_event(believed(0..0));
        s.on_event(committed(1));
        s.on_event(holds(2, 0..700));
        s.on_event(holds(2, 0..700));
        assert_eq!(s.standing().held, 1000 + 300);

        // The connection is lost. What it has kept besides, Resume says.
        let epochs = vec![Epoch { epoch: EPOCH, ..Epoch::default() }];
        let hello = Hello { epochs, ..Hello::default() };
        let mut s = Session::new(hello, None, s.into_gained().0, &Lanes::default());
        s.on_event(Event::Connected);
        s.on_event(resume(1..2, Some((2, header(2).hash, 0..900))));
        assert_eq!(s.standing().held, 1000 + 500);
        s.on_event(fetched(vec![(header(2), false)]));
        s.on_event(believed(0..0));
        s.on_event(Event::Written(header(2).id));
        s.on_event(committed(2));
        s.on_event(resume(3..4, None));
        s.on_event(believed(3..4));
        assert_eq!(s.standing().held, 2000 + 600, "3 was committed and never acknowledged");
        assert!(s.standing().is_drained);
    }
}
