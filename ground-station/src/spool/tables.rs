//! The tables of the spool's redb file and what their values mean.
//!
//! Satellites have a number of four bytes in keys; `satellites` gives it. Records are protobuf messages, so that fields can be
//! added; their tags are never reused. Payloads are kept in pieces of at most [`CHUNK`] bytes, which redb stores in pages
//! without waste (facts/redb.md).

use perigee_proto::link;
use perigee_shared::segment::{Header, Lane, SegmentId};
use redb::TableDefinition;

/// The largest piece of a payload: 256 KiB less 1 KiB.
pub(super) const CHUNK: usize = (256 << 10) - (1 << 10);

/// The format of the file. Earlier ones are opened, later ones refused.
pub(super) const FORMAT: u64 = 1;

/// Satellite, epoch, lane, sequence.
pub(super) type SequenceKey = (u32, u64, u8, u64);

/// `format`, `next_entry`, `next_letter`, `next_satellite`.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Id → [`SatelliteRecord`].
pub(super) const SATELLITES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("satellites");
/// Satellite, epoch → [`EpochRecord`].
pub(super) const EPOCHS: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("epochs");
/// The ledger: the first sequence of a range → its end and the payload hash of its last segment.
pub(super) const COMMITTED: TableDefinition<'_, SequenceKey, (u64, [u8; 32])> =
    TableDefinition::new("committed");
/// The latest committed segments of each lane → payload hash, then item counts.
pub(super) const RECENT: TableDefinition<'_, SequenceKey, &[u8; 56]> = TableDefinition::new("recent");
/// Satellite, when the pass began by its clock → protobuf `PassReport`. Made with the first.
pub(super) const PASSES: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("passes");
/// Satellite, epoch, drop id → [`DropRecord`].
pub(super) const DROPS: TableDefinition<'_, (u32, u64, u64), &[u8]> = TableDefinition::new("drops");
/// The first sequence of a dropped range → its end and the drop's id.
pub(super) const DROPPED: TableDefinition<'_, SequenceKey, (u64, u64)> = TableDefinition::new("dropped");
/// Segments that are not whole → [`PartialRecord`].
pub(super) const PARTIALS: TableDefinition<'_, SequenceKey, &[u8]> = TableDefinition::new("partials");
/// A partial and an offset in its payload → the bytes from there.
pub(super) const PARTIAL_CHUNKS: TableDefinition<'_, (u32, u64, u8, u64, u64), &[u8]> =
    TableDefinition::new("partial_chunks");
/// Committed segments in the order of their commits → [`SegmentRecord`].
pub(super) const SEGMENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("segments");
/// Entry, number of the piece → bytes.
pub(super) const SEGMENT_CHUNKS: TableDefinition<'_, (u64, u32), &[u8]> =
    TableDefinition::new("segment_chunks");
/// Segments that others may lean on → [`BaseRecord`]. Files of before have no such table, nor the next one.
pub(super) const BASES: TableDefinition<'_, SequenceKey, &[u8]> = TableDefinition::new("bases");
/// A base and the number of a piece → bytes.
pub(super) const BASE_CHUNKS: TableDefinition<'_, (u32, u64, u8, u64, u32), &[u8]> =
    TableDefinition::new("base_chunks");
/// Exporter → entry, request, fingerprint of the cut: everything before them is done.
pub(super) const CURSORS: TableDefinition<'_, &str, (u64, u64, u64)> = TableDefinition::new("cursors");
/// Entry, exporter → items of it that went to dead-letter there.
pub(super) const ENTRY_DEAD: TableDefinition<'_, (u64, &str), &[u8; 24]> = TableDefinition::new("entry_dead");
/// Dead letters → [`LetterRecord`].
pub(super) const LETTERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("dead_letter");
/// Letter, number of the piece → bytes.
pub(super) const LETTER_CHUNKS: TableDefinition<'_, (u64, u32), &[u8]> =
    TableDefinition::new("dead_letter_chunks");
/// Satellite, [`Kind`](super::counters::Kind), signal, drop reason (0: none) → count.
pub(super) const COUNTERS: TableDefinition<'_, (u32, u8, u8, u8), u64> = TableDefinition::new("counters");

/// What is known of a satellite.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SatelliteRecord {
    /// In keys.
    #[prost(uint32, tag = "1")]
    pub(super) number: u32,
    #[prost(string, tag = "2")]
    pub(super) software: String,
    /// When it was last heard, ns since the Unix epoch.
    #[prost(uint64, tag = "3")]
    pub(super) last_contact: u64,
    /// The contact as it called it.
    #[prost(string, tag = "4")]
    pub(super) contact: String,
    /// The station over which it was heard.
    #[prost(string, tag = "5")]
    pub(super) station: String,
    #[prost(uint64, tag = "6")]
    pub(super) contacts: u64,
    /// What it expected then.
    #[prost(message, optional, tag = "7")]
    pub(super) forecast: Option<link::Forecast>,
}

/// What the satellite last said of one life of its log.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EpochRecord {
    #[prost(uint64, tag = "1")]
    pub(super) start_counter: u64,
    #[prost(uint64, tag = "2")]
    pub(super) started: u64,
    #[prost(bool, tag = "3")]
    pub(super) closed: bool,
    #[prost(message, repeated, tag = "4")]
    pub(super) lanes: Vec<link::Lane>,
}

/// A drop, as the satellite reported it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DropRecord {
    #[prost(message, optional, tag = "1")]
    pub(super) drop: Option<link::Drop>,
    /// Items of it that were committed all the same.
    #[prost(message, optional, tag = "2")]
    pub(super) overridden: Option<link::Counts>,
    /// When it was recorded, ns since the Unix epoch.
    #[prost(uint64, tag = "3")]
    pub(super) recorded: u64,
}

/// A segment of which some bytes are held.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PartialRecord {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<link::SegmentHeader>,
    #[prost(message, repeated, tag = "2")]
    pub(super) held: Vec<link::Range>,
}

/// A committed segment that is still to be exported.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SegmentRecord {
    #[prost(string, tag = "1")]
    pub(super) satellite: String,
    #[prost(message, optional, tag = "2")]
    pub(super) header: Option<link::SegmentHeader>,
    /// When it was committed, ns since the Unix epoch.
    #[prost(uint64, tag = "3")]
    pub(super) committed: u64,
    /// Signals that every exporter is done with: bit n is the signal with number n.
    #[prost(uint32, tag = "4")]
    pub(super) settled: u32,
    #[prost(uint32, tag = "5")]
    pub(super) number: u32,
}

/// A segment that others may lean on.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BaseRecord {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<link::SegmentHeader>,
    /// The entry that it was committed as: smaller is earlier.
    #[prost(uint64, tag = "2")]
    pub(super) entry: u64,
}

/// Something that no backend takes.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LetterRecord {
    #[prost(string, tag = "1")]
    pub(super) satellite: String,
    #[prost(uint32, tag = "2")]
    pub(super) number: u32,
    /// The segment it comes from; with `exporter` empty the letter is its whole payload.
    #[prost(message, optional, tag = "3")]
    pub(super) header: Option<link::SegmentHeader>,
    /// Who refused it; empty: it does not decode.
    #[prost(string, tag = "4")]
    pub(super) exporter: String,
    #[prost(message, optional, tag = "5")]
    pub(super) items: Option<link::Counts>,
    /// The signal of a request.
    #[prost(uint32, tag = "6")]
    pub(super) signal: u32,
    #[prost(string, tag = "7")]
    pub(super) reason: String,
    /// ns since the Unix epoch.
    #[prost(uint64, tag = "8")]
    pub(super) at: u64,
    #[prost(uint64, tag = "9")]
    pub(super) bytes: u64,
    /// An operator wants it sent again.
    #[prost(bool, tag = "10")]
    pub(super) replay: bool,
}

/// The key of a segment of the satellite `number`.
pub(super) fn key(number: u32, id: SegmentId) -> SequenceKey {
    (number, id.epoch, id.lane.0, id.sequence)
}

/// Every sequence of a lane.
pub(super) fn lane_keys(number: u32, epoch: u64, lane: Lane) -> std::ops::RangeInclusive<SequenceKey> {
    (number, epoch, lane.0, 0)..=(number, epoch, lane.0, u64::MAX)
}

/// The header in a record, which was valid when it was written.
pub(super) fn header(wire: Option<link::SegmentHeader>) -> Option<Header> {
    wire?.try_into().ok()
}
