//! The ground's side of the link protocol as a plain state machine: no socket, no clock, no database.
//!
//! It is told what happened ([`Event`]) and answers with what is to be done ([`Action`]). It holds the bytes that arrived until
//! they are handed to the spool, and only acknowledges what the spool has said is durable. One hand-over is under way at a
//! time; what becomes whole meanwhile is handed over together.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use perigee_proto::link::{self, GoodbyeReason, RejectReason, agent_message, ground_message};
pub use perigee_shared::link::Close;
use perigee_shared::link::MINOR_VERSION;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Codec, Hash, Header, HeaderError, SegmentId};
use perigee_shared::signal::Counts;
use prost::Message;
use tokio::time::Instant;

use super::bounds;
use crate::spool::{Age, Answer, Applied, Incoming, Piece};

/// What one connection is held to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who the certificate says is at the other end.
    pub satellite: Arc<str>,
    /// This station.
    pub station: String,
    /// Bytes after which partials are synced.
    pub sync_bytes: usize,
    /// Time after which partials are synced.
    pub sync_interval: Duration,
    /// What this satellite's partials may take.
    pub max_partial_bytes: u64,
}

/// Held ranges of one partial that are said; leaving some out only costs the satellite their bytes, and a message is bounded.
const MAX_HELD: usize = 2048;

/// What comes after so many bytes of an Ack goes into the next one; a message is at most 1 MiB.
const LARGE_ACK: usize = 256 << 10;

/// What a piece costs beside its bytes, so that many tiny ones are bounded too.
const PIECE: usize = 64;

fn cost(pieces: &[Piece]) -> usize {
    pieces.iter().map(|p| p.bytes.len() + PIECE).sum()
}

/// Names a stream of one connection.
pub type StreamId = u64;

/// What happened.
#[allow(clippy::large_enum_variant, reason = "an event is taken in and forgotten; few are in memory at once")]
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "an event is handed over at once, and a few wait at most")]
pub enum Event {
    /// A message on the control stream.
    Control(link::AgentMessage),
    /// The ledger's answer to [`Action::Ledger`].
    Ledger(Answer),
    /// A segment's stream began.
    Opened(StreamId, link::SegmentOpen),
    /// Bytes of a segment's stream; the offset counts from behind [`link::SegmentOpen`].
    Data(StreamId, u64, Bytes),
    /// A segment's stream ended, whole or not.
    Ended(StreamId),
    /// The spool's answer to [`Action::Commit`].
    Applied(Vec<Applied>),
    /// The drops of one [`Action::Drops`], so many, are in the ledger.
    DropsRecorded(link::DropsAck, usize),
    /// [`Machine::deadline`] has come.
    Tick,
    /// The program ends.
    Shutdown,
    /// Nothing more will arrive.
    Lost,
}

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    /// Tell the ledger and bring back its answer.
    Ledger(Arc<link::Hello>),
    /// Send on the control stream.
    Send(link::GroundMessage),
    /// Read no more of a stream.
    Stop(StreamId),
    /// Hand to the spool and bring back its answer.
    Commit(Vec<Incoming>),
    /// Hand to the ledger and bring back the answer.
    Drops(Arc<link::EpochDrops>),
    /// Another segment is in the ledger under this name.
    Conflict(SegmentId),
    /// This epoch ended because the ledger has other segments under its names.
    Contradicted(u64),
    /// Close the connection.
    Close(Close, String),
}

/// A segment that is arriving.
struct Inflight {
    header: Arc<Header>,
    /// Where the stream's bytes belong in the payload.
    ranges: Vec<Range<u64>>,
    pending: Vec<Piece>,
    /// Something is to be handed over, if only that nothing is missing.
    dirty: bool,
    ended: bool,
    age: Option<Age>,
}

/// What has come over a connection.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Haul {
    /// Payload bytes that arrived.
    pub received: u64,
    /// Of these, bytes that the spool has taken and keeps.
    pub held: u64,
    /// Segments that were committed.
    pub segments: u64,
    /// Items in them.
    pub items: Counts,
    /// Segments, of any contact, that another ledger has too, as Hello showed.
    pub handover_twice: u64,
    /// The satellite's last word.
    pub goodbye: Option<link::Goodbye>,
}

#[derive(PartialEq, Eq)]
enum Phase {
    Begun,
    /// Hello is with the ledger.
    Asked,
    Resumed,
    /// The agent has said Goodbye; the answer waits for what is under way.
    Leaving(GoodbyeReason),
    /// Goodbye was sent.
    Left,
    Closed,
}

/// One connection's protocol.
pub struct Machine {
    settings: Settings,
    phase: Phase,
    streams: BTreeMap<StreamId, Inflight>,
    buffered: usize,
    /// When the oldest byte that is not handed over arrived.
    waiting_since: Option<Instant>,
    committing: Option<Committing>,
    /// Drops that are with the ledger.
    drops_waiting: usize,
    /// Drops that were told beside Hello.
    drops_told: usize,
    /// Ranges of the streams that are open.
    open_ranges: usize,
    /// Segments that were committed, now or before.
    committed: u64,
    haul: Haul,
}

/// What is with the spool.
struct Committing {
    /// In the order of the answers.
    streams: Vec<HandedOver>,
    bytes: usize,
}

/// What is with the spool of one segment.
struct HandedOver {
    stream: StreamId,
    header: Arc<Header>,
    /// Payload bytes.
    bytes: u64,
}

impl Machine {
    /// A connection that has just begun.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            phase: Phase::Begun,
            streams: BTreeMap::new(),
            buffered: 0,
            waiting_since: None,
            committing: None,
            drops_waiting: 0,
            drops_told: 0,
            open_ranges: 0,
            committed: 0,
            haul: Haul::default(),
        }
    }

    /// What has come so far.
    pub const fn haul(&self) -> &Haul {
        &self.haul
    }

    /// The segment of a stream that is open: its name, the bytes of its payload, and those that the stream brings.
    pub fn arriving(&self, stream: StreamId) -> Option<(SegmentId, u64, u64)> {
        let inflight = self.streams.get(&stream)?;
        let missing = inflight.ranges.iter().map(|range| range.end - range.start).sum();
        Some((inflight.header.id, inflight.header.payload_len, missing))
    }

    /// Whether segment streams may be read: the ledger has answered, and the buffer has room.
    pub fn wants_data(&self) -> bool {
        matches!(self.phase, Phase::Resumed | Phase::Leaving(_) | Phase::Left)
            && self.held() < 2 * self.settings.sync_bytes
    }

    /// Bytes that have come and that the spool does not have yet.
    pub fn held(&self) -> usize {
        self.buffered + self.committing.as_ref().map_or(0, |c| c.bytes)
    }

    /// Whether the agent has said Hello, or will not be listened to any more.
    pub fn has_begun(&self) -> bool {
        self.phase != Phase::Begun
    }

    /// When [`Event::Tick`] is wanted.
    pub fn deadline(&self) -> Option<Instant> {
        self.waiting_since
            .filter(|_| self.committing.is_none())
            .map(|since| since + self.settings.sync_interval)
    }

    /// Whether everything that arrived has been handed over and answered.
    pub fn is_idle(&self) -> bool {
        self.committing.is_none() && self.streams.values().all(|s| !s.dirty)
    }

    /// Takes an event in; the actions are to be done in their order.
    pub fn on_event(&mut self, now: Instant, event: Event) -> Vec<Action> {
        if self.phase == Phase::Closed {
            // Bytes that were on their way still count, nothing else does.
            return match event {
                Event::Applied(applied) => self.applied(now, applied),
                Event::Lost => self.hand_over(now, true),
                _ => Vec::new(),
            };
        }
        match event {
            Event::Control(message) => self.control(message.body),
            Event::Ledger(answer) => self.resume(answer),
            Event::Opened(stream, open) => self.opened(now, stream, open),
            Event::Data(stream, offset, bytes) => self.data(now, stream, offset, &bytes),
            Event::Ended(stream) => {
                if let Some(inflight) = self.streams.get_mut(&stream) {
                    inflight.ended = true;
                }
                self.hand_over(now, false)
            }
            Event::Applied(applied) => self.applied(now, applied),
            Event::DropsRecorded(ack, told) => {
                self.drops_waiting = self.drops_waiting.saturating_sub(told);
                vec![send(ground_message::Body::Ack(link::Ack { drops: vec![ack], ..link::Ack::default() }))]
            }
            Event::Tick => self.hand_over(now, false),
            Event::Lost => self.hand_over(now, true),
            Event::Shutdown => {
                let mut actions = self.hand_over(now, true);
                if self.phase != Phase::Left {
                    actions.push(goodbye(GoodbyeReason::Shutdown));
                    self.phase = Phase::Left;
                }
                actions
            }
        }
    }

    fn refuse(&mut self, close: Close, reason: impl Into<String>) -> Vec<Action> {
        self.phase = Phase::Closed;
        vec![Action::Close(close, reason.into())]
    }

    fn control(&mut self, body: Option<agent_message::Body>) -> Vec<Action> {
        match (body, &self.phase) {
            (Some(agent_message::Body::Hello(hello)), Phase::Begun) => {
                if hello.satellite != *self.settings.satellite {
                    let reason = format!(
                        "this satellite's certificate says {}, its configuration something else",
                        self.settings.satellite
                    );
                    return self.refuse(Close::Identity, reason);
                }
                if let Err(reason) = bounds::hello(&hello) {
                    return self.refuse(Close::Protocol, reason);
                }
                self.phase = Phase::Asked;
                vec![Action::Ledger(Arc::new(hello))]
            }
            (Some(agent_message::Body::Drops(drops)), Phase::Resumed | Phase::Leaving(_) | Phase::Left) => {
                self.drops_waiting += drops.drops.len();
                self.drops_told += drops.drops.len();
                let waiting = bounds::most("drops that wait", self.drops_waiting, bounds::DROPS_WAITING);
                let all = bounds::most("drops in one contact", self.drops_told, bounds::DROPS_A_CONTACT);
                if let Err(reason) = waiting.and(all) {
                    return self.refuse(Close::Protocol, reason);
                }
                vec![Action::Drops(Arc::new(drops))]
            }
            (Some(agent_message::Body::Goodbye(goodbye)), Phase::Resumed) => {
                self.phase = Phase::Leaving(goodbye.reason());
                self.haul.goodbye = Some(goodbye);
                self.leave()
            }
            (Some(agent_message::Body::Goodbye(goodbye)), Phase::Leaving(_) | Phase::Left) => {
                // Something came after the one that was answered: the last one counts.
                if let Some(last) = &mut self.haul.goodbye {
                    *last = goodbye;
                }
                Vec::new()
            }
            // A message of a later minor version.
            (None, _) => Vec::new(),
            (Some(agent_message::Body::Goodbye(_)), _) => Vec::new(),
            (Some(_), _) => self.refuse(Close::Protocol, "a message came out of its turn"),
        }
    }

    fn resume(&mut self, answer: Answer) -> Vec<Action> {
        // The station may have said Goodbye meanwhile.
        if self.phase != Phase::Asked {
            return Vec::new();
        }
        self.phase = Phase::Resumed;
        self.haul.handover_twice = answer.handover_twice;
        let resume = link::Resume {
            software: concat!("ground-station ", env!("CARGO_PKG_VERSION")).to_owned(),
            station: self.settings.station.clone(),
            minor_version: MINOR_VERSION,
            codecs: Codec::ALL.iter().map(|c| *c as u32).collect(),
            epochs: answer.epochs,
            ledger: answer.ledger,
            start_counter: answer.start_counter,
            clock: None,
        };
        let mut actions: Vec<_> = answer.contradicted.into_iter().map(Action::Contradicted).collect();
        actions.push(send(ground_message::Body::Resume(resume)));
        actions
    }

    fn opened(&mut self, now: Instant, stream: StreamId, open: link::SegmentOpen) -> Vec<Action> {
        let id = open.header.as_ref().and_then(|h| h.id);
        let header = match open.header.map(Header::try_from) {
            Some(Ok(header)) => header,
            // Sealed by later software: the satellite can seal it again with a codec of Resume.
            Some(Err(HeaderError::Format(_))) => {
                return vec![reject(id, RejectReason::UnknownCodec), Action::Stop(stream)];
            }
            Some(Err(e)) => return self.refuse(Close::Protocol, e.to_string()),
            None => return self.refuse(Close::Protocol, "a segment has no header"),
        };
        if Codec::from_number(header.codec).is_none() {
            return vec![reject(id, RejectReason::UnknownCodec), Action::Stop(stream)];
        }
        self.open_ranges += open.ranges.len();
        if let Err(reason) = bounds::most("ranges of open segments", self.open_ranges, bounds::OPEN_RANGES) {
            return self.refuse(Close::Protocol, reason);
        }
        let mut ranges = Vec::with_capacity(open.ranges.len());
        let mut end = 0;
        for range in open.ranges {
            let in_order = ranges.is_empty() || range.start > end;
            if range.start >= range.end || !in_order || range.end > header.payload_len {
                return self
                    .refuse(Close::Protocol, "a segment's ranges are out of order or beyond its payload");
            }
            end = range.end;
            ranges.push(range.start..range.end);
        }
        let header = Arc::new(header);
        let age = open.age_milli.map(|age| Age::new(Duration::from_millis(age), now));
        let inflight = Inflight { header, ranges, pending: Vec::new(), dirty: true, ended: false, age };
        if self.streams.insert(stream, inflight).is_some() {
            return self.refuse(Close::Protocol, "a stream began twice");
        }
        Vec::new()
    }

    fn data(&mut self, now: Instant, stream: StreamId, offset: u64, bytes: &[u8]) -> Vec<Action> {
        // A stream that was rejected may still have bytes on their way.
        let Some(inflight) = self.streams.get_mut(&stream) else { return Vec::new() };
        let Some(parts) = place(&inflight.ranges, offset, bytes.len() as u64) else {
            return self.refuse(Close::Protocol, "a segment's stream is longer than its ranges");
        };
        let mut rest = bytes;
        let mut fresh = 0;
        for part in parts {
            let (now, later) = rest.split_at((part.end - part.start) as usize);
            rest = later;
            match inflight.pending.last_mut() {
                Some(last) if last.offset + last.bytes.len() as u64 == part.start => {
                    last.bytes.extend_from_slice(now);
                }
                _ => {
                    inflight.pending.push(Piece { offset: part.start, bytes: now.to_vec() });
                    fresh += PIECE;
                }
            }
        }
        inflight.dirty = true;
        self.haul.received += bytes.len() as u64;
        self.buffered += bytes.len() + fresh;
        self.waiting_since.get_or_insert(now);
        if self.buffered >= self.settings.sync_bytes { self.hand_over(now, false) } else { Vec::new() }
    }

    /// Hands over what is due: streams that ended, and everything when the buffer is full, old or `all` is wanted.
    fn hand_over(&mut self, now: Instant, all: bool) -> Vec<Action> {
        if self.committing.is_some() {
            return Vec::new();
        }
        let late = self.waiting_since.is_some_and(|since| now >= since + self.settings.sync_interval);
        let everything = all || late || self.buffered >= self.settings.sync_bytes;
        let (mut batch, mut streams, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (stream, inflight) in &mut self.streams {
            let due = inflight.ended || (everything && !inflight.pending.is_empty());
            if !inflight.dirty || !due {
                continue;
            }
            inflight.dirty = false;
            let pieces: Arc<[Piece]> = std::mem::take(&mut inflight.pending).into();
            bytes += cost(&pieces);
            streams.push(HandedOver {
                stream: *stream,
                header: Arc::clone(&inflight.header),
                bytes: pieces.iter().map(|p| p.bytes.len() as u64).sum(),
            });
            batch.push(Incoming {
                satellite: Arc::clone(&self.settings.satellite),
                header: Arc::clone(&inflight.header),
                pieces,
                max_partial_bytes: self.settings.max_partial_bytes,
                age: inflight.age,
            });
        }
        let open_ranges = &mut self.open_ranges;
        self.streams.retain(|_, s| {
            let stays = !s.ended || s.dirty;
            *open_ranges -= if stays { 0 } else { s.ranges.len() };
            stays
        });
        self.buffered -= bytes;
        if self.buffered == 0 {
            self.waiting_since = None;
        }
        if batch.is_empty() {
            return self.leave();
        }
        self.committing = Some(Committing { streams, bytes });
        vec![Action::Commit(batch)]
    }

    fn applied(&mut self, now: Instant, applied: Vec<Applied>) -> Vec<Action> {
        let Committing { streams, .. } =
            self.committing.take().expect("the spool answers what it was handed");
        assert!(applied.len() == streams.len(), "an answer for each segment");
        let mut ack = link::Ack::default();
        let (mut acks, mut actions) = (Vec::new(), Vec::new());
        for (HandedOver { stream, header, bytes }, applied) in streams.into_iter().zip(applied) {
            let id = header.id;
            if ack.encoded_len() > LARGE_ACK {
                acks.push(std::mem::take(&mut ack));
            }
            if applied == Applied::New {
                self.haul.segments += 1;
                self.haul.items += header.items;
            }
            if matches!(applied, Applied::New | Applied::Held(_)) {
                self.haul.held += bytes;
            }
            match applied {
                Applied::New | Applied::Duplicate => {
                    ack.committed.push(id.into());
                    self.committed += 1;
                    // More of it may be on its way, for which nobody waits.
                    actions.extend(self.drop_stream(stream));
                }
                Applied::Held(held) => ack.partials.push(partial_ack(id, header.hash, &held)),
                Applied::Rejected(reason) => {
                    actions.push(reject(Some(id.into()), reason));
                    actions.extend(self.drop_stream(stream));
                }
                Applied::Conflict => {
                    actions.push(Action::Conflict(id));
                    actions.extend(self.drop_stream(stream));
                }
            }
        }
        acks.extend(Some(ack).filter(|ack| *ack != link::Ack::default()));
        actions.splice(0..0, acks.into_iter().map(|ack| send(ground_message::Body::Ack(ack))));
        actions.extend(self.hand_over(now, false));
        if self.committed >= bounds::SEGMENTS_A_CONTACT && self.phase != Phase::Closed {
            actions.extend(self.refuse(Close::Again, "the ledger must be read again; connect again"));
        }
        actions
    }

    fn drop_stream(&mut self, stream: StreamId) -> Option<Action> {
        let inflight = self.streams.remove(&stream)?;
        self.buffered -= cost(&inflight.pending);
        self.open_ranges -= inflight.ranges.len();
        (!inflight.ended).then_some(Action::Stop(stream))
    }

    /// Answers Goodbye once nothing is under way.
    fn leave(&mut self) -> Vec<Action> {
        match self.phase {
            Phase::Leaving(reason) if self.streams.is_empty() && self.committing.is_none() => {
                self.phase = Phase::Left;
                vec![goodbye(reason)]
            }
            _ => Vec::new(),
        }
    }
}

/// Where `length` bytes at `offset` of a stream belong in the payload; `None` when they are beyond its ranges.
fn place(ranges: &[Range<u64>], offset: u64, length: u64) -> Option<Vec<Range<u64>>> {
    let (mut skip, mut left) = (offset, length);
    let mut out = Vec::new();
    for range in ranges {
        let size = range.end - range.start;
        if skip >= size {
            skip -= size;
            continue;
        }
        let take = (size - skip).min(left);
        if take == 0 {
            break;
        }
        out.push(range.start + skip..range.start + skip + take);
        skip = 0;
        left -= take;
    }
    (left == 0).then_some(out)
}

fn send(body: ground_message::Body) -> Action {
    Action::Send(link::GroundMessage { body: Some(body) })
}

fn goodbye(reason: GoodbyeReason) -> Action {
    send(ground_message::Body::Goodbye(link::Goodbye { reason: reason as i32, ..link::Goodbye::default() }))
}

fn reject(segment: Option<link::SegmentId>, reason: RejectReason) -> Action {
    send(ground_message::Body::Reject(link::Reject { segment, reason: reason as i32 }))
}

fn partial_ack(id: SegmentId, hash: Hash, held: &RangeSet) -> link::PartialAck {
    link::PartialAck {
        epoch: id.epoch,
        lane: u32::from(id.lane.0),
        partial: Some(link::Partial {
            sequence: id.sequence,
            payload_hash: hash.to_vec(),
            held: held.to_wire().into_iter().take(MAX_HELD).collect(),
        }),
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
