//! Sealing: what commit groups have for a lane goes into one segment, in one transaction with the lane's position. Groups that
//! every lane has passed leave the journal.

use std::sync::Arc;

use perigee_proto::link;
use perigee_shared::otlp::walk::walk;
use perigee_shared::segment::{Base, Codec, CodecError, Encoded, Encoder, Header, Lane, SegmentId, hash};
use perigee_shared::signal::{Counts, TimeRange};
use perigee_shared::store::{StoreError, pieces};
use redb::WriteTransaction;

use super::common::follows;
use super::group::{self, Accepted};
use super::state::{Edit, Pending};
use super::tables::*;
use super::{SegmentRecord, Wal, WalError, boots};
use crate::lanes::{Part, Rules};

/// Sealed groups are deleted when there are so many bytes or so many of them: deleting one alone would rewrite its neighbours.
const DELETE_BYTES: u64 = 4 << 20;
const DELETE_GROUPS: u64 = 256;

/// What was committed before and after a start lies in segments of its own, so that a ground knows the earlier part of it again when the
/// log turns out to be an earlier state of itself. Behind more starts than these, since segments would be many and small, it does not.
const STARTS_APART: usize = 16;

/// Raw bytes below which nothing is learnt from a segment that others should know.
const LEAST_BASE: u64 = 4 << 10;

/// Bytes that what a base has taught may take in memory.
const LARGEST_BASE: usize = 8 << 20;

/// When a segment is full.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Items.
    pub items: u64,
    /// Raw OTLP bytes.
    pub raw: u64,
}

/// What waits in the journal for a segment of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsealed {
    /// The lane.
    pub lane: Lane,
    /// Raw OTLP bytes.
    pub raw: u64,
    /// Items.
    pub items: u64,
    /// Bytes of the journal that cannot be given back before it is sealed; other lanes' among them.
    pub held_back: u64,
    /// Segments of the lane on board.
    pub sealed: u64,
    /// Bytes of their payloads.
    pub sealed_bytes: u64,
    /// When the oldest of it was committed, ns since the Unix epoch.
    pub oldest_unix_nano: u64,
    /// The same as a time since this start of the machine, in ns: before it when negative, and no earlier than is certain.
    pub oldest_since_boot: i64,
}

impl Unsealed {
    /// Whether it is enough for a segment.
    pub const fn is_full(&self, limits: BatchLimits) -> bool {
        self.raw >= limits.raw || self.items >= limits.items
    }
}

/// A commit group.
#[derive(Debug)]
struct Group {
    number: u64,
    /// The rules that hold for it; without them all of it is for the batch's lane.
    rules: Option<Arc<Rules>>,
    bytes: Vec<u8>,
}

impl Group {
    /// What it has for `lane`.
    fn requests(&self, lane: Lane) -> Result<Vec<Accepted>, group::Damaged> {
        let requests = group::requests(self.number, &self.bytes)?.into_iter();
        requests.filter_map(|request| part(self.rules.as_deref(), request, lane).transpose()).collect()
    }
}

/// How a segment is encoded.
#[derive(Debug, Clone, Default)]
pub struct Encoding {
    /// The codec.
    pub codec: Codec,
    /// The segment that it leans on.
    pub base: Option<(u64, Arc<Base>)>,
    /// Others are to lean on it, if it is worth it.
    pub to_lean_on: bool,
    /// Bytes of memory that the codec may take; `None`: whatever it needs.
    pub memory: Option<usize>,
}

impl Encoding {
    /// Codec 1, which takes everything, and little memory.
    pub fn plain() -> Self {
        Self { codec: Codec::ZstdRows, ..Self::default() }
    }
}

/// Groups whose part for one lane becomes a segment.
#[derive(Debug)]
pub struct Batch {
    lane: Lane,
    /// The first group that is not in it.
    position: u64,
    groups: Vec<Group>,
    /// The log was not opened between them.
    is_together: bool,
}

/// A segment that is ready to be stored.
#[derive(Debug)]
pub struct Sealed {
    lane: Lane,
    /// The first group that is in it, and the first behind it.
    first: u64,
    position: u64,
    /// Its sequence and epoch are still open.
    header: Header,
    payload: Vec<u8>,
    /// What those may lean on that lean on it, if others are to.
    taught: Option<Base>,
}

impl Sealed {
    /// What it has taught, if others are to lean on it.
    pub fn take_taught(&mut self) -> Option<Base> {
        self.taught.take()
    }
}

impl Batch {
    /// Encodes the groups' part for the lane. What another codec does not take, codec 1 does: a segment that cannot be sealed
    /// would hold back the journal for ever. Of groups that take too much memory together, as many as do not are in the segment; of
    /// one that takes too much alone, codec 1 takes little. CPU-heavy.
    pub fn seal(mut self, encoding: &Encoding, now: u64) -> Result<Sealed, SealError> {
        let mut fit = 0;
        let mut result = self.encode(encoding, now, &mut fit);
        if let Err(SealError::Codec(CodecError::TooLarge(_))) = result
            && encoding.codec != Codec::ZstdRows
        {
            self.keep(fit.max(1));
            result = match fit {
                0 => self.encode(&Encoding::plain(), now, &mut fit),
                _ => self.encode(encoding, now, &mut fit),
            };
        }
        match result {
            Err(SealError::Codec(error)) if encoding.codec != Codec::ZstdRows => {
                tracing::error!(
                    event.name = "perigee.wal.codec",
                    %error,
                    codec = encoding.codec as u32,
                    "a segment could not be encoded; codec 1 was used instead"
                );
                self.encode(&Encoding::plain(), now, &mut fit)
            }
            result => result,
        }
    }

    /// Leaves all but the first `groups` for later.
    fn keep(&mut self, groups: usize) {
        if let Some(next) = self.groups.get(groups) {
            self.position = next.number;
            self.groups.truncate(groups);
        }
    }

    /// What a segment of all of it is made of.
    fn made_of(&self) -> Option<link::Groups> {
        let (first, last) = self.groups.first().zip(self.groups.last()).filter(|_| self.is_together)?;
        Some(link::Groups { end: last.number + 1, ..group::alone(first.number, &first.bytes)? })
    }

    /// Encodes them; `fit` counts those that were taken in whole.
    fn encode(&self, encoding: &Encoding, now: u64, fit: &mut usize) -> Result<Sealed, SealError> {
        let Encoding { codec, base, to_lean_on, memory } = encoding;
        let encoder = Encoder::new(*codec, base.as_ref().map(|b| &*b.1))?;
        let mut encoder = encoder.bounded(memory.unwrap_or(usize::MAX));
        *fit = 0;
        let (mut items, mut time, mut raw_len, mut requests) = (Counts::ZERO, TimeRange::EMPTY, 0, 0);
        for group in &self.groups {
            let requests_of_it = group
                .requests(self.lane)
                .map_err(|source| SealError::Journal { group: group.number, source })?;
            for request in requests_of_it {
                encoder.push(request.signal, &request.body)?;
                items += Counts::of(request.signal, request.walked.items);
                time.merge(request.walked.time);
                raw_len += request.body.len() as u64;
                requests += 1;
            }
            *fit += 1;
        }
        let Encoded { payload, base: next } = encoder.finish()?;
        let is_worth_it = *to_lean_on && raw_len >= LEAST_BASE;
        let taught = next.filter(|b| is_worth_it && b.size() <= LARGEST_BASE);
        let header = Header {
            id: SegmentId { epoch: 0, lane: self.lane, sequence: 0 },
            codec: *codec as u32,
            payload_len: payload.len() as u64,
            raw_len,
            hash: hash(&payload),
            items,
            time,
            requests,
            sealed_unix_nano: now,
            base_sequence: base.as_ref().map(|b| b.0),
            is_base: taught.is_some(),
            delivery: None,
            made_of: self.made_of(),
        };
        let first = self.groups.first().map_or(self.position, |group| group.number);
        Ok(Sealed { lane: self.lane, first, position: self.position, header, payload, taught })
    }
}

/// The part of a request that belongs to `lane`.
pub(super) fn part(
    rules: Option<&Rules>,
    request: Accepted,
    lane: Lane,
) -> Result<Option<Accepted>, group::Damaged> {
    let Some(rules) = rules else { return Ok(Some(request)) };
    match rules.part(request.signal, &request.body, request.walked.items, lane) {
        Part::Whole => Ok(Some(request)),
        Part::Nothing => Ok(None),
        Part::Some(body) => {
            let walked = walk(request.signal, &body).map_err(|_| group::Damaged("a request"))?;
            Ok(Some(Accepted { body: body.into(), walked, ..request }))
        }
    }
}

/// Why a batch could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A journal group does not decode: [`super::Journal::drop_group`].
    #[error("{source} (group {group})")]
    Journal {
        /// Its number.
        group: u64,
        /// What is wrong with it.
        source: group::Damaged,
    },
    /// The encoder failed.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// So did this program: a bug.
    #[error("the codec has panicked")]
    Panicked,
}

/// From groups to segments.
pub struct Segments<'a>(pub(super) &'a mut Wal);

impl Segments<'_> {
    /// What waits in the journal for a segment, lane by lane, most urgent first; a lane for which nothing waits is not in it.
    pub fn unsealed(&self) -> Vec<Unsealed> {
        let (state, env) = (self.0.state(), self.0.env());
        let ages = state.boots.ages(env);
        let waiting = |(lane, of): (&Lane, &super::state::LaneState)| {
            of.pending.front().map(|first| Unsealed {
                lane: *lane,
                raw: of.unsealed_raw,
                items: of.unsealed_items.total(),
                held_back: state.held_back(of),
                sealed: of.on_board.total(),
                sealed_bytes: of.segment_stored,
                oldest_unix_nano: first.received,
                oldest_since_boot: ages
                    .on_present_clock(ages.of(first.since_boot, env.bounds.judge(first.received).trusted())),
            })
        };
        state.lanes.iter().filter_map(waiting).collect()
    }

    /// The oldest groups that have something for `lane`, enough for one segment; fewer when `all` is set and there are not
    /// enough. They stay in the journal until [`Segments::commit`].
    pub fn take_batch(
        &mut self,
        lane: Lane,
        limits: BatchLimits,
        all: bool,
    ) -> Result<Option<Batch>, WalError> {
        self.take_batch_below(lane, limits, all, u64::MAX)
    }

    /// The same, of the groups below `end`.
    pub(super) fn take_batch_below(
        &mut self,
        lane: Lane,
        limits: BatchLimits,
        all: bool,
        end: u64,
    ) -> Result<Option<Batch>, WalError> {
        self.0.read(|txn, state| {
            let (mut raw, mut items) = (0, 0);
            let mut numbers = Vec::new();
            let mut is_cut = false;
            let pending = || state.lanes.get(&lane).into_iter().flat_map(|l| &l.pending);
            let is_apart =
                |(before, group): &(&Pending, &Pending)| !follows(state, before.number, group.number);
            let starts = || pending().zip(pending().skip(1)).filter(is_apart).count();
            let mut is_together = true;
            for group in pending().take_while(|group| group.number < end) {
                if numbers.last().is_some_and(|before| !follows(state, *before, group.number)) {
                    if is_together && starts() <= STARTS_APART {
                        is_cut = true;
                        break;
                    }
                    is_together = false;
                }
                // A large request is not added to what is there: memory is what an encoder has little of.
                if !numbers.is_empty() && raw + group.raw > limits.raw.saturating_add(limits.raw / 2) {
                    is_cut = true;
                    break;
                }
                raw += group.raw;
                items += group.items.total();
                numbers.push(group.number);
                if raw >= limits.raw || items >= limits.items {
                    break;
                }
            }
            let full = is_cut || raw >= limits.raw || items >= limits.items;
            let Some(last) = numbers.last().filter(|_| all || full) else { return Ok(None) };
            let position = last + 1;
            let journal = txn.open_table(JOURNAL)?;
            let mut groups = Vec::with_capacity(numbers.len());
            for number in numbers {
                let (rules, bytes) = (state.rules_of(number).cloned(), state.group(&journal, number)?);
                groups.push(Group { number, rules, bytes });
            }
            Ok(Some(Batch { lane, position, groups, is_together }))
        })
    }

    /// Stores a sealed segment in the place of what its groups have for its lane. Returns its header; an error if they went elsewhere
    /// since they were taken.
    pub fn commit(&mut self, sealed: Sealed) -> Result<Header, WalError> {
        let Sealed { lane, first: from, position, mut header, payload, .. } = sealed;
        self.0.ready()?;
        let waiting = self.0.custody().waiting_for(header.items.signals());
        let budget = self.0.config().max_bytes;
        let env = self.0.env().clone();
        let sealed_at = env.since_boot();
        let passed = self.0.state().waited_for(lane, position);
        let state = self.0.state();
        let first = state.lanes.get(&lane).and_then(|l| l.pending.front());
        let first = first.filter(|first| first.number == from).ok_or(WalError::Stale)?;
        let oldest = first.since_boot;
        let waited = state.boots.ages(&env).of(oldest, env.bounds.judge(first.received).trusted());
        let header = self.0.write_passing(passed, |txn, state| {
            let sequence = state.lanes.get(&lane).map_or(1, |l| l.next_sequence);
            header.id = SegmentId { epoch: state.life.epoch, lane, sequence };
            insert_segment(
                txn,
                &SegmentRecord {
                    waiting,
                    takers: Some(waiting),
                    refused: Counts::ZERO,
                    sealed_at: Some(sealed_at),
                    waited,
                    header: header.clone(),
                },
                &payload,
            )?;
            txn.open_table(LANES)?.insert(lane.0, LaneNumbers { next_sequence: sequence + 1, position })?;
            txn.open_table(COUNTERS)?.insert(ACCEPTED, &state.tally.accepted.to_bytes()[..])?;
            set_numbers(txn, &[(META_NEXT_GROUP, state.next_group)])?;
            let mut edits = vec![Edit::Sealed { position, header: header.clone() }];
            if let Some(boot) = state.boots.due(&env, boots::MINUTE) {
                state.boots.store(txn, boot)?;
                edits.push(Edit::Boot(boot));
            }
            let (from, waited_for) = (state.sealed_from, state.waited_for(lane, position));
            let newly: u64 =
                state.unsealed.iter().take_while(|g| g.number < waited_for).map(|g| g.stored).sum();
            let passed = state.sealed_stored + newly;
            let full = state.stored() + header.payload_len >= budget;
            if passed > 0 && (full || passed >= DELETE_BYTES || waited_for - from >= DELETE_GROUPS) {
                txn.open_table(JOURNAL)?.retain_in(groups(from, waited_for), |_, _| false)?;
                edits.push(Edit::Purged(waited_for));
            }
            Ok((header, edits))
        })?;
        let sequence = header.id.sequence;
        self.0.notes.unsent.entry(lane).or_default().insert(sequence..sequence + 1);
        self.0.notes.talks.sealed(lane, sequence, oldest);
        self.0.growth.add(header.payload_len, sealed_at.nano);
        self.0.queues().keep_quota(lane)?;
        self.0.mirror().write();
        Ok(header)
    }
}

/// Stores a segment; what was there of its payload is gone before.
pub(super) fn insert_segment(
    txn: &WriteTransaction,
    record: &SegmentRecord,
    payload: &[u8],
) -> Result<(), StoreError> {
    let place = Place::of(record.header.id);
    txn.open_table(SEGMENTS)?.insert(place, record.to_bytes().as_slice())?;
    let mut chunks = txn.open_table(CHUNKS)?;
    for (piece, index) in pieces(payload).zip(0..) {
        chunks.insert(place.piece(index), piece)?;
    }
    Ok(())
}
