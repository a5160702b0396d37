//! Sealing: commit groups leave the journal and one segment takes their place, in one transaction.

use perigee_shared::segment::{Codec, CodecError, Encoder, Header, Lane, SegmentId, hash};
use perigee_shared::signal::{Counts, TimeRange};
use redb::{ReadableDatabase, WriteTransaction};

use super::state::{ACCEPTED, META_NEXT_GROUP};
use super::tables::{CHUNKS, COUNTERS, JOURNAL, LANES, META, SEGMENTS, pieces};
use super::{SegmentRecord, Wal, WalError, group};

/// Sealed groups are deleted when there are so many bytes or so many of them: deleting one alone would rewrite its neighbours.
const DELETE_BYTES: u64 = 4 << 20;
const DELETE_GROUPS: u64 = 256;

/// When a segment is full.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Items.
    pub items: u64,
    /// Raw OTLP bytes.
    pub raw: u64,
}

/// What waits in the journal for a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unsealed {
    /// Raw OTLP bytes.
    pub raw: u64,
    /// Items.
    pub items: u64,
    /// Bytes in the store.
    pub stored: u64,
    /// When its oldest group was formed, ns since the Unix epoch; `None` when nothing waits.
    pub oldest_unix_nano: Option<u64>,
}

impl Unsealed {
    /// Whether it is enough for a segment.
    pub const fn is_full(&self, limits: BatchLimits) -> bool {
        self.raw >= limits.raw || self.items >= limits.items
    }
}

/// Groups that become a segment.
#[derive(Debug)]
pub struct Batch {
    lane: Lane,
    /// The first group that is not in it.
    position: u64,
    groups: Vec<Vec<u8>>,
}

/// A segment that is ready to be stored.
#[derive(Debug)]
pub struct Sealed {
    lane: Lane,
    position: u64,
    /// Its sequence and epoch are still open.
    header: Header,
    payload: Vec<u8>,
}

impl Batch {
    /// Encodes the groups with `codec`. CPU-heavy.
    pub fn seal(self, codec: Codec, now: u64) -> Result<Sealed, SealError> {
        let mut encoder = Encoder::new(codec, None)?;
        let (mut items, mut time, mut raw_len, mut requests) = (Counts::ZERO, TimeRange::EMPTY, 0, 0);
        for group in self.groups {
            for request in group::requests(&group)? {
                encoder.push(request.signal, &request.body)?;
                items += Counts::of(request.signal, request.walked.items);
                time.merge(request.walked.time);
                raw_len += request.body.len() as u64;
                requests += 1;
            }
        }
        let payload = encoder.finish()?.payload;
        let header = Header {
            id: SegmentId { epoch: 0, lane: self.lane, sequence: 0 },
            codec: codec as u32,
            payload_len: payload.len() as u64,
            raw_len,
            hash: hash(&payload),
            items,
            time,
            requests,
            sealed_unix_nano: now,
            base_sequence: None,
        };
        Ok(Sealed { lane: self.lane, position: self.position, header, payload })
    }
}

/// Why a batch could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A journal group does not decode.
    #[error(transparent)]
    Journal(#[from] group::Damaged),
    /// The encoder failed.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl Wal {
    /// What waits in the journal for a segment.
    pub fn unsealed(&self) -> Unsealed {
        Unsealed {
            raw: self.state.unsealed_raw,
            items: self.state.unsealed_items.total(),
            stored: self.state.unsealed_stored,
            oldest_unix_nano: self.state.unsealed.front().map(|g| g.header.received),
        }
    }

    /// Deletes groups that are in a segment already and were left to be deleted together.
    pub(super) fn purge_sealed(&mut self) -> Result<(), WalError> {
        let position = self.state.lanes.values().map(|l| l.position).min().unwrap_or(0);
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

    /// The oldest groups, enough for one segment; fewer when `all` is set and there are not enough. They stay in the journal
    /// until [`Wal::commit_segment`].
    pub fn take_batch(&mut self, limits: BatchLimits, all: bool) -> Result<Option<Batch>, WalError> {
        let (mut raw, mut items, mut count) = (0, 0, 0);
        for group in &self.state.unsealed {
            raw += group.header.raw_len;
            items += group.header.items.total();
            count += 1;
            if raw >= limits.raw || items >= limits.items {
                break;
            }
        }
        if count == 0 || !(all || raw >= limits.raw || items >= limits.items) {
            return Ok(None);
        }
        let numbers: Vec<u64> = self.state.unsealed.iter().take(count).map(|g| g.number).collect();
        let txn = self.db()?.begin_read()?;
        let journal = txn.open_table(JOURNAL)?;
        let mut groups = Vec::with_capacity(count);
        for number in &numbers {
            let mut group = Vec::new();
            for piece in journal.range((*number, 0)..=(*number, u16::MAX))? {
                group.extend_from_slice(piece?.1.value());
            }
            groups.push(group);
        }
        Ok(numbers.last().map(|last| Batch { lane: Lane::BULK, position: last + 1, groups }))
    }

    /// Stores a sealed segment in the place of its groups. Returns its header.
    pub fn commit_segment(&mut self, sealed: Sealed) -> Result<Header, WalError> {
        let Sealed { lane, position, mut header, payload } = sealed;
        let lane_state = self.state.lane(lane);
        let sequence = lane_state.next_sequence;
        header.id = SegmentId { epoch: self.state.life.epoch, lane, sequence };
        let waiting = self.waiting_for(header.items.signals());
        let record = SegmentRecord { waiting, refused: Counts::ZERO, header };

        let sealed_stored =
            self.state.unsealed.iter().take_while(|g| g.number < position).map(|g| g.stored).sum::<u64>();
        let passed = self.state.sealed_stored + sealed_stored;
        let full = self.state.stored() + record.header.payload_len >= self.config.max_bytes;
        let delete = full || passed >= DELETE_BYTES || position - self.state.sealed_from >= DELETE_GROUPS;
        let (from, next_group, accepted) =
            (self.state.sealed_from, self.state.next_group, self.state.accepted);
        self.write(|txn| {
            insert_segment(txn, &record, &payload)?;
            txn.open_table(LANES)?.insert(lane.0, (sequence + 1, position))?;
            txn.open_table(COUNTERS)?.insert(ACCEPTED, &accepted.to_bytes()[..])?;
            txn.open_table(META)?.insert(META_NEXT_GROUP, &next_group.to_le_bytes()[..])?;
            if delete {
                txn.open_table(JOURNAL)?.retain_in((from, 0)..(position, 0), |_, _| false)?;
            }
            Ok(())
        })?;

        let state = &mut self.state;
        state.pop_unsealed(position);
        state.sealed_stored = if delete { 0 } else { passed };
        state.sealed_from = if delete { position } else { from };
        state.segment_stored += record.header.payload_len;
        state.segments += 1;
        state.in_segments += record.header.items;
        let lane_state = state.lane(lane);
        lane_state.next_sequence = sequence + 1;
        lane_state.position = position;
        lane_state.on_board.insert(sequence..sequence + 1);
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
