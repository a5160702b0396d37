//! Sealing: what commit groups have for a lane goes into one segment, in one transaction with the lane's position. Groups that
//! every lane has passed leave the journal.

use std::sync::Arc;

use perigee_shared::otlp::walk::walk;
use perigee_shared::segment::{Base, Codec, CodecError, Encoded, Encoder, Header, Lane, SegmentId, hash};
use perigee_shared::signal::{Counts, TimeRange};
use redb::{ReadableDatabase, WriteTransaction};

use super::group::{self, Accepted};
use super::state::{ACCEPTED, META_NEXT_GROUP};
use super::tables::{CHUNKS, COUNTERS, JOURNAL, LANES, META, SEGMENTS, pieces};
use super::{SegmentRecord, Wal, WalError};
use crate::lanes::{Part, Rules};

/// Sealed groups are deleted when there are so many bytes or so many of them: deleting one alone would rewrite its neighbours.
const DELETE_BYTES: u64 = 4 << 20;
const DELETE_GROUPS: u64 = 256;

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
    /// When the oldest of it was committed, ns since the Unix epoch.
    pub oldest_unix_nano: u64,
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
        let requests = group::requests(&self.bytes)?.into_iter();
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
}

/// Groups whose part for one lane becomes a segment.
#[derive(Debug)]
pub struct Batch {
    lane: Lane,
    /// The first group that is not in it.
    position: u64,
    groups: Vec<Group>,
}

/// A segment that is ready to be stored.
#[derive(Debug)]
pub struct Sealed {
    lane: Lane,
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
    /// would hold back the journal for ever. CPU-heavy.
    pub fn seal(self, encoding: &Encoding, now: u64) -> Result<Sealed, SealError> {
        match self.encode(encoding, now) {
            Err(SealError::Codec(error)) if encoding.codec != Codec::ZstdRows => {
                tracing::error!(
                    event.name = "perigee.wal.codec",
                    %error,
                    codec = encoding.codec as u32,
                    "a segment could not be encoded; codec 1 takes its place"
                );
                self.encode(&Encoding { codec: Codec::ZstdRows, ..Encoding::default() }, now)
            }
            result => result,
        }
    }

    fn encode(&self, encoding: &Encoding, now: u64) -> Result<Sealed, SealError> {
        let Encoding { codec, base, to_lean_on } = encoding;
        let mut encoder = Encoder::new(*codec, base.as_ref().map(|b| &*b.1))?;
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
        };
        Ok(Sealed { lane: self.lane, position: self.position, header, payload, taught })
    }
}

/// The part of a request that belongs to `lane`.
fn part(rules: Option<&Rules>, request: Accepted, lane: Lane) -> Result<Option<Accepted>, group::Damaged> {
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
    /// A journal group does not decode: [`Wal::drop_group`].
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
}

impl Wal {
    /// What waits in the journal for a segment, lane by lane, most urgent first; a lane for which nothing waits is not in it.
    pub fn unsealed(&self) -> Vec<Unsealed> {
        let waiting = |(lane, state): (&Lane, &super::state::LaneState)| {
            state.pending.front().map(|first| Unsealed {
                lane: *lane,
                raw: state.unsealed_raw,
                items: state.unsealed_items.total(),
                held_back: self.state.held_back(state),
                oldest_unix_nano: first.received,
            })
        };
        self.state.lanes.iter().filter_map(waiting).collect()
    }

    /// Deletes groups that every lane has passed and that were left to be deleted together.
    pub(super) fn purge_sealed(&mut self) -> Result<(), WalError> {
        let position = self.state.waited_for(Lane::BULK, 0);
        let from = self.state.sealed_from;
        if from >= position || self.state.sealed_stored == 0 {
            return Ok(());
        }
        self.write(|txn| {
            txn.open_table(JOURNAL)?.retain_in((from, 0)..(position, 0), |_, _| false)?;
            Ok(())
        })?;
        self.state.sealed_stored = 0;
        self.state.sealed_from = position;
        Ok(())
    }

    /// The oldest groups that have something for `lane`, enough for one segment; fewer when `all` is set and there are not
    /// enough. They stay in the journal until [`Wal::commit_segment`].
    pub fn take_batch(
        &mut self,
        lane: Lane,
        limits: BatchLimits,
        all: bool,
    ) -> Result<Option<Batch>, WalError> {
        let (mut raw, mut items) = (0, 0);
        let mut numbers = Vec::new();
        for group in self.state.lanes.get(&lane).iter().flat_map(|l| &l.pending) {
            raw += group.raw;
            items += group.items.total();
            numbers.push(group.number);
            if raw >= limits.raw || items >= limits.items {
                break;
            }
        }
        let full = raw >= limits.raw || items >= limits.items;
        let Some(last) = numbers.last().filter(|_| all || full) else { return Ok(None) };
        let position = last + 1;
        let rules: Vec<_> = numbers.iter().map(|number| self.state.rules_of(*number).cloned()).collect();
        let txn = self.db()?.begin_read()?;
        let journal = txn.open_table(JOURNAL)?;
        let mut groups = Vec::with_capacity(numbers.len());
        for (number, rules) in numbers.into_iter().zip(rules) {
            groups.push(Group { number, rules, bytes: group::read(&journal, number)? });
        }
        Ok(Some(Batch { lane, position, groups }))
    }

    /// Stores a sealed segment in the place of what its groups have for its lane. Returns its header.
    pub fn commit_segment(&mut self, sealed: Sealed) -> Result<Header, WalError> {
        let Sealed { lane, position, mut header, payload, .. } = sealed;
        let lane_state = self.state.lane(lane);
        let sequence = lane_state.next_sequence;
        header.id = SegmentId { epoch: self.state.life.epoch, lane, sequence };
        let waiting = self.waiting_for(header.items.signals());
        let record = SegmentRecord { waiting, refused: Counts::ZERO, header };

        let from = self.state.sealed_from;
        let waited_for = self.state.waited_for(lane, position);
        let newly: u64 =
            self.state.unsealed.iter().take_while(|g| g.number < waited_for).map(|g| g.stored).sum();
        let passed = self.state.sealed_stored + newly;
        let full = self.state.stored() + record.header.payload_len >= self.config.max_bytes;
        let delete = passed > 0 && (full || passed >= DELETE_BYTES || waited_for - from >= DELETE_GROUPS);
        let (next_group, accepted) = (self.state.next_group, self.state.accepted);
        self.write(|txn| {
            insert_segment(txn, &record, &payload)?;
            txn.open_table(LANES)?.insert(lane.0, (sequence + 1, position))?;
            txn.open_table(COUNTERS)?.insert(ACCEPTED, &accepted.to_bytes()[..])?;
            txn.open_table(META)?.insert(META_NEXT_GROUP, &next_group.to_le_bytes()[..])?;
            if delete {
                txn.open_table(JOURNAL)?.retain_in((from, 0)..(waited_for, 0), |_, _| false)?;
            }
            Ok(())
        })?;

        let state = &mut self.state;
        state.pass(lane, position);
        if delete {
            state.sealed_stored = 0;
            state.sealed_from = waited_for;
        }
        state.segment_stored += record.header.payload_len;
        state.segments += 1;
        state.in_segments += record.header.items;
        let lane_state = state.lane(lane);
        lane_state.next_sequence = sequence + 1;
        lane_state.segment_stored += record.header.payload_len;
        lane_state.on_board.insert(sequence..sequence + 1);
        self.growth.add(record.header.payload_len, self.env.unix_nano());
        self.keep_quota(lane)?;
        if let Err(error) = self.write_mirror() {
            tracing::warn!(%error, "the mirror of the counters could not be written");
        }
        Ok(record.header)
    }
}

pub(super) fn insert_segment(
    txn: &WriteTransaction,
    record: &SegmentRecord,
    payload: &[u8],
) -> Result<(), WalError> {
    let SegmentId { lane, sequence, .. } = record.header.id;
    txn.open_table(SEGMENTS)?.insert((lane.0, sequence), record.to_bytes().as_slice())?;
    let mut chunks = txn.open_table(CHUNKS)?;
    for (piece, index) in pieces(payload).zip(0..) {
        chunks.insert((lane.0, sequence, index), piece)?;
    }
    Ok(())
}
