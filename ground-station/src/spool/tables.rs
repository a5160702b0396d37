//! The tables of the spool's redb file, and what their keys and values mean. Format 2.
//!
//! A satellite has a number of four bytes in keys; `satellites` gives it. Records are protobuf messages, so that fields can be
//! added; their tags are never reused. Payloads are kept in pieces of at most 255 KiB, which redb
//! stores in pages without waste.
//!
//! Committed segments are numbered twice. A **payload number** counts the commits of the whole spool and gives the order of
//! export; pieces, bases and refused counts are keyed by it. An **entry number** counts the segments of one satellite; a cursor
//! is an entry number, for each exporter, satellite and lane. Format 1 had only payload numbers, and one cursor for each
//! exporter; see [`migrate`](super::migrate).

use perigee_proto::link;
use perigee_shared::segment::{Header, Lane, SegmentId};
use perigee_shared::signal::{Counts, Signal};
use perigee_shared::stored_as_tuple;
use redb::TableDefinition;

use super::contents::Kept;
use super::error::SpoolError;

/// The format of the file. Earlier ones are opened, later ones refused.
pub(super) const FORMAT: u64 = 2;

stored_as_tuple! {
    /// A segment of a satellite.
    pub(super) struct SequenceKey {
        pub(super) satellite: u32,
        pub(super) epoch: u64,
        pub(super) lane: u8,
        pub(super) sequence: u64,
    }
}

stored_as_tuple! {
    /// Committed sequences: the first is in the key.
    pub(super) struct Run {
        /// The first that is not among them.
        pub(super) end: u64,
        /// The payload hash of the last of them.
        pub(super) top: [u8; 32],
    }
}

stored_as_tuple! {
    /// A life of a satellite's log.
    pub(super) struct EpochKey {
        pub(super) satellite: u32,
        pub(super) epoch: u64,
    }
}

stored_as_tuple! {
    /// A pass of a satellite: by the satellite's clock in [`PASSES`], by the ground's in [`CONTACTS`].
    pub(super) struct PassKey {
        pub(super) satellite: u32,
        pub(super) start: u64,
    }
}

stored_as_tuple! {
    /// A drop of a satellite.
    pub(super) struct DropKey {
        pub(super) satellite: u32,
        pub(super) epoch: u64,
        pub(super) id: u64,
    }
}

stored_as_tuple! {
    /// Dropped sequences: the first is in the key.
    pub(super) struct DroppedRun {
        /// The first that is not among them.
        pub(super) end: u64,
        /// The id of the drop.
        pub(super) id: u64,
    }
}

stored_as_tuple! {
    /// Bytes of a segment that is not whole.
    pub(super) struct PartialChunk {
        pub(super) satellite: u32,
        pub(super) epoch: u64,
        pub(super) lane: u8,
        pub(super) sequence: u64,
        /// Where they begin in the payload.
        pub(super) offset: u64,
    }
}

stored_as_tuple! {
    /// A committed segment that is still to be exported.
    pub(super) struct EntryKey {
        pub(super) satellite: u32,
        pub(super) lane: u8,
        pub(super) entry: u64,
    }
}

stored_as_tuple! {
    /// A piece of a payload or of a dead letter.
    pub(super) struct ChunkKey {
        /// The payload number, or the letter's id.
        pub(super) of: u64,
        pub(super) piece: u32,
    }
}

stored_as_tuple! {
    /// A piece of a base.
    pub(super) struct BaseChunk {
        pub(super) satellite: u32,
        pub(super) epoch: u64,
        pub(super) lane: u8,
        pub(super) sequence: u64,
        pub(super) piece: u32,
    }
}

stored_as_tuple! {
    /// An exporter's place in a lane of a satellite: everything before it is done.
    pub(super) struct Cursor {
        pub(super) entry: u64,
        /// The first request of that entry that is not done.
        pub(super) request: u64,
        /// The fingerprint of the cut that numbers the requests.
        pub(super) cut: u64,
    }
}

stored_as_tuple! {
    /// Something that is counted.
    pub(super) struct CounterKey {
        pub(super) satellite: u32,
        /// A [`Kind`](super::counters::Kind).
        pub(super) kind: u8,
        /// 0: segments or bytes, which have none.
        pub(super) signal: u8,
        /// A drop reason; 0: none.
        pub(super) reason: u8,
    }
}

/// `format`; `ledger`, the id; `next_entry`, the next payload number; `entry.N`, the next entry number of satellite N;
/// `next_letter`; `next_satellite`; `next_gap`; `next_replay`.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Id → [`SatelliteRecord`].
pub(super) const SATELLITES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("satellites");
/// → [`EpochRecord`].
pub(super) const EPOCHS: TableDefinition<'_, EpochKey, &[u8]> = TableDefinition::new("epochs");
/// The ledger: the first sequence of a run → the run.
pub(super) const COMMITTED: TableDefinition<'_, SequenceKey, Run> = TableDefinition::new("committed");
/// The latest committed segments of each lane → payload hash, then item counts.
pub(super) const RECENT: TableDefinition<'_, SequenceKey, &[u8; 56]> = TableDefinition::new("recent");
/// → protobuf `PassReport`.
pub(super) const PASSES: TableDefinition<'_, PassKey, &[u8]> = TableDefinition::new("passes");
/// → [`ContactRecord`].
pub(super) const CONTACTS: TableDefinition<'_, PassKey, &[u8]> = TableDefinition::new("contacts");
/// → [`DropRecord`].
pub(super) const DROPS: TableDefinition<'_, DropKey, &[u8]> = TableDefinition::new("drops");
/// The first sequence of a dropped range → the range.
pub(super) const DROPPED: TableDefinition<'_, SequenceKey, DroppedRun> = TableDefinition::new("dropped");
/// Segments that are not whole → [`PartialRecord`].
pub(super) const PARTIALS: TableDefinition<'_, SequenceKey, &[u8]> = TableDefinition::new("partials");
/// → the bytes.
pub(super) const PARTIAL_CHUNKS: TableDefinition<'_, PartialChunk, &[u8]> =
    TableDefinition::new("partial_chunks");
/// Committed segments that are still to be exported → [`SegmentRecord`].
pub(super) const ENTRIES: TableDefinition<'_, EntryKey, &[u8]> = TableDefinition::new("entries");
/// → bytes of the payload.
pub(super) const SEGMENT_CHUNKS: TableDefinition<'_, ChunkKey, &[u8]> =
    TableDefinition::new("segment_chunks");
/// Segments that later ones may need → [`BaseRecord`].
pub(super) const BASES: TableDefinition<'_, SequenceKey, &[u8]> = TableDefinition::new("bases");
/// → bytes of the base.
pub(super) const BASE_CHUNKS: TableDefinition<'_, BaseChunk, &[u8]> = TableDefinition::new("base_chunks");
/// Exporter, satellite, lane → the exporter's place there.
pub(super) const CURSORS: TableDefinition<'_, (&str, u32, u8), Cursor> = TableDefinition::new("lane_cursors");
/// Payload number, exporter → items of it that went to dead-letter there.
pub(super) const ENTRY_DEAD: TableDefinition<'_, (u64, &str), &[u8; 24]> = TableDefinition::new("entry_dead");
/// Dead letters → [`LetterRecord`].
pub(super) const LETTERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("dead_letter");
/// → bytes of the letter.
pub(super) const LETTER_CHUNKS: TableDefinition<'_, ChunkKey, &[u8]> =
    TableDefinition::new("dead_letter_chunks");
/// → how many.
pub(super) const COUNTERS: TableDefinition<'_, CounterKey, u64> = TableDefinition::new("counters");

/// Payload number → [`CatalogueRecord`](super::catalogue::CatalogueRecord). Earlier software ignores it.
pub(super) const CATALOGUE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("catalogue");
/// Payload number of a segment that is kept after its export → [`SegmentRecord`]. Earlier software ignores it.
pub(super) const KEPT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("kept");
/// Replays → [`ReplayRecord`](super::replay::ReplayRecord). Earlier software ignores it.
pub(super) const REPLAYS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("replays");
/// What a remembered segment was made of → protobuf `Groups`. Earlier software ignores it.
pub(super) const GROUPS: TableDefinition<'_, SequenceKey, &[u8]> = TableDefinition::new("segment_groups");
/// Satellite → [`AlarmsRecord`](super::alarms::AlarmsRecord). Earlier software ignores it.
pub(super) const ALARMS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("alarms");

/// Does the same with every table; `$each` is a macro that takes one.
macro_rules! every_table {
    ($each:ident) => {
        $each!(
            META SATELLITES EPOCHS COMMITTED RECENT GROUPS PASSES CONTACTS DROPS DROPPED PARTIALS PARTIAL_CHUNKS ENTRIES
            SEGMENT_CHUNKS BASES BASE_CHUNKS CURSORS ENTRY_DEAD LETTERS LETTER_CHUNKS COUNTERS CATALOGUE
            KEPT REPLAYS ALARMS
        )
    };
}
pub(super) use every_table;

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
    /// When the last of it came, ns since the Unix epoch, as of the end of its last link.
    #[prost(uint64, tag = "8")]
    pub(super) heard: u64,
    /// What waited on board, as of its last Hello or the end of its last link.
    #[prost(message, repeated, tag = "9")]
    pub(super) backlog: Vec<link::LaneBacklog>,
    #[prost(message, optional, tag = "10")]
    pub(super) plan: Option<link::Plan>,
    /// Its certificate's end is that of the certificate which it has shown.
    #[prost(message, optional, tag = "11")]
    pub(super) agent: Option<link::AgentState>,
    /// From where it predicts its contacts.
    #[prost(message, optional, tag = "12")]
    pub(super) orbit: Option<link::Orbit>,
    /// Other ledgers that have acknowledged something of it under this station's name.
    #[prost(message, repeated, tag = "13")]
    pub(super) namesakes: Vec<NamesakeRecord>,
    /// Its clock, as of its last Hello.
    #[prost(message, optional, tag = "14")]
    pub(super) clock: Option<ClockRecord>,
}

/// A ledger that is not this one and has this station's name.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NamesakeRecord {
    #[prost(fixed64, tag = "1")]
    pub(super) ledger: u64,
    /// What it had acknowledged, as of the last Hello.
    #[prost(message, repeated, tag = "2")]
    pub(super) marks: Vec<MarkRecord>,
    /// When a Hello said last that it had acknowledged more, ns since the Unix epoch; 0: none ever did.
    #[prost(fixed64, tag = "3")]
    pub(super) heard: u64,
}

/// How much of a lane a ledger has acknowledged.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MarkRecord {
    #[prost(fixed64, tag = "1")]
    pub(super) epoch: u64,
    #[prost(uint32, tag = "2")]
    pub(super) lane: u32,
    /// The last sequence.
    #[prost(uint64, tag = "3")]
    pub(super) last: u64,
    /// How many of the latest the satellite names.
    #[prost(uint64, tag = "4")]
    pub(super) count: u64,
}

/// A satellite's clock against this station's, as of a Hello.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ClockRecord {
    /// When that was, ns since the Unix epoch by this station's clock.
    #[prost(fixed64, tag = "1")]
    pub(super) heard: u64,
    /// By how much the satellite's wall clock was ahead, ns.
    #[prost(sint64, tag = "2")]
    pub(super) offset: i64,
    /// By how much that may be wrong, ns.
    #[prost(uint64, tag = "3")]
    pub(super) error: u64,
    /// Why it cannot be right, in the satellite's words.
    #[prost(string, tag = "4")]
    pub(super) untrusted: String,
    /// The boots of the satellite's machine and of the station's.
    #[prost(fixed64, tag = "5")]
    pub(super) boot: u64,
    #[prost(fixed64, tag = "6")]
    pub(super) station_boot: u64,
    /// When it was heard first in both: the time since each boot, and by how much those may be apart, ns.
    #[prost(uint64, tag = "7")]
    pub(super) first: u64,
    #[prost(uint64, tag = "8")]
    pub(super) station_first: u64,
    #[prost(uint64, tag = "9")]
    pub(super) first_error: u64,
    /// By how much the clock gains, in parts per million, and by how much that may be wrong.
    #[prost(double, optional, tag = "10")]
    pub(super) drift: Option<f64>,
    #[prost(double, optional, tag = "11")]
    pub(super) drift_error: Option<f64>,
}

/// A pass as this station saw it: a contact of the satellite, over all its connections.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ContactRecord {
    #[prost(string, tag = "1")]
    pub(super) station: String,
    /// When the satellite opened it, by its clock: the start of its report; 0: it did not say.
    #[prost(uint64, tag = "2")]
    pub(super) opened: u64,
    /// LOS: when the last of it arrived, ns since the Unix epoch.
    #[prost(uint64, tag = "3")]
    pub(super) lost: u64,
    /// How long links were up, ns.
    #[prost(uint64, tag = "4")]
    pub(super) connected: u64,
    #[prost(uint32, tag = "5")]
    pub(super) connections: u32,
    /// Payload bytes that arrived.
    #[prost(uint64, tag = "6")]
    pub(super) received: u64,
    /// Of these, bytes that were kept.
    #[prost(uint64, tag = "7")]
    pub(super) held: u64,
    /// Segments that were committed.
    #[prost(uint64, tag = "8")]
    pub(super) segments: u64,
    #[prost(message, optional, tag = "9")]
    pub(super) items: Option<link::Counts>,
    /// An [`Ending`](super::passes::Ending).
    #[prost(uint32, tag = "10")]
    pub(super) ended: u32,
    /// Segments that another ledger has too, as its Hello showed.
    #[prost(uint64, tag = "11")]
    pub(super) handover_twice: u64,
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
    /// The payload number that the next segment had then: bases from there on are later than what was said.
    #[prost(uint64, tag = "5")]
    pub(super) next_entry: u64,
    /// What was counted as committed by another ledger too.
    #[prost(message, repeated, tag = "6")]
    pub(super) twice: Vec<TwiceRecord>,
    /// What a lost file of this ledger remembered of the lanes. Earlier software ignores it.
    #[prost(message, repeated, tag = "7")]
    pub(super) remembered: Vec<RememberedRecord>,
}

/// Committed segments of a lane, and how many items they had together.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RememberedRecord {
    #[prost(uint32, tag = "1")]
    pub(super) lane: u32,
    #[prost(uint64, tag = "2")]
    pub(super) first: u64,
    /// The first that is not among them.
    #[prost(uint64, tag = "3")]
    pub(super) end: u64,
    #[prost(message, optional, tag = "4")]
    pub(super) items: Option<link::Counts>,
}

/// Segments of a lane that are in two ledgers.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TwiceRecord {
    #[prost(uint32, tag = "1")]
    pub(super) lane: u32,
    #[prost(message, repeated, tag = "2")]
    pub(super) sequences: Vec<link::Range>,
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
    /// Of what this station has lost: the ledger that had acknowledged it, if that is not this one.
    #[prost(fixed64, tag = "4")]
    pub(super) ledger: u64,
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
    /// The number of the payload.
    #[prost(uint64, tag = "6")]
    pub(super) payload: u64,
    /// The station that committed it; empty in what earlier software wrote.
    #[prost(string, tag = "7")]
    pub(super) station: String,
}

/// A segment that later ones may need to be decoded.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BaseRecord {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<link::SegmentHeader>,
    /// The payload number that it was committed with: smaller is earlier.
    #[prost(uint64, tag = "2")]
    pub(super) entry: u64,
    /// The payload number of the latest kept segment that depends on it; 0: none.
    #[prost(uint64, tag = "3")]
    pub(super) kept_for: u64,
    /// Only kept segments need it: it counts as kept.
    #[prost(bool, tag = "4")]
    pub(super) only_kept: bool,
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
    /// What is stored of it.
    #[prost(uint64, tag = "9")]
    pub(super) bytes: u64,
    /// An operator wants it sent again.
    #[prost(bool, tag = "10")]
    pub(super) replay: bool,
    /// BLAKE3 of the bytes of a request; format 1 had none. A whole segment has its hash in the header.
    #[prost(bytes = "vec", tag = "11")]
    pub(super) hash: Vec<u8>,
    /// What is stored is a zstd frame of a request of so many bytes; 0: it is stored as it is. Earlier software takes such a letter
    /// for damaged, by its hash.
    #[prost(uint64, tag = "12")]
    pub(super) unpacked: u64,
}

impl LetterRecord {
    /// Bytes of the letter.
    pub(super) const fn length(&self) -> u64 {
        if self.unpacked > 0 { self.unpacked } else { self.bytes }
    }
}

impl SequenceKey {
    /// The key of a segment of the satellite with this number.
    pub(super) const fn new(satellite: u32, id: SegmentId) -> Self {
        Self { satellite, epoch: id.epoch, lane: id.lane.0, sequence: id.sequence }
    }

    /// Every sequence of a lane.
    pub(super) const fn lane(satellite: u32, epoch: u64, lane: Lane) -> std::ops::RangeInclusive<Self> {
        let first = Self { satellite, epoch, lane: lane.0, sequence: 0 };
        first..=first.at(u64::MAX)
    }

    /// Every sequence of these satellites.
    pub(super) const fn satellites(first: u32, last: u32) -> std::ops::RangeInclusive<Self> {
        let from = Self { satellite: first, epoch: 0, lane: 0, sequence: 0 };
        from..=Self { satellite: last, epoch: u64::MAX, lane: u8::MAX, sequence: u64::MAX }
    }

    /// Another sequence of the same lane.
    pub(super) const fn at(self, sequence: u64) -> Self {
        Self { sequence, ..self }
    }

    /// The bytes of the partial segment.
    pub(super) const fn partial(self) -> std::ops::RangeInclusive<PartialChunk> {
        self.partial_at(0)..=self.partial_at(u64::MAX)
    }

    pub(super) const fn partial_at(self, offset: u64) -> PartialChunk {
        let Self { satellite, epoch, lane, sequence } = self;
        PartialChunk { satellite, epoch, lane, sequence, offset }
    }

    /// The pieces of the base.
    pub(super) const fn base(self) -> std::ops::RangeInclusive<BaseChunk> {
        self.base_chunk(0)..=self.base_chunk(u32::MAX)
    }

    pub(super) const fn base_chunk(self, piece: u32) -> BaseChunk {
        let Self { satellite, epoch, lane, sequence } = self;
        BaseChunk { satellite, epoch, lane, sequence, piece }
    }
}

impl EpochKey {
    /// Every epoch of a satellite.
    pub(super) const fn all(satellite: u32) -> std::ops::RangeInclusive<Self> {
        Self { satellite, epoch: 0 }..=Self { satellite, epoch: u64::MAX }
    }
}

impl EntryKey {
    /// The entries of the same satellite and lane from this one on.
    pub(super) const fn and_later(self) -> std::ops::RangeInclusive<Self> {
        self..=Self { entry: u64::MAX, ..self }
    }
}

impl ChunkKey {
    /// Every piece of a payload or letter.
    pub(super) const fn all(of: u64) -> std::ops::RangeInclusive<Self> {
        Self { of, piece: 0 }..=Self { of, piece: u32::MAX }
    }
}

impl SegmentRecord {
    /// The header, which was valid when it was written.
    pub(super) fn header(&self) -> Result<Header, SpoolError> {
        header(self.header.clone()).ok_or_else(|| SpoolError::damaged("a segment's header cannot be read"))
    }

    /// Items that some exporter still has to pass.
    pub(super) fn open(&self) -> Counts {
        let items = Counts::from(self.header.as_ref().and_then(|h| h.items).unwrap_or_default());
        let open = Signal::ALL.into_iter().filter(|s| self.settled & 1 << *s as u8 == 0);
        open.map(|s| Counts::of(s, items[s])).sum()
    }

    /// Whether everybody is done with it: it is only still to be deleted.
    pub(super) fn is_finished(&self) -> bool {
        self.open().total() == 0
    }

    /// What the payload takes.
    pub(super) fn bytes(&self) -> u64 {
        self.header.as_ref().map_or(0, |h| h.payload_len)
    }
}

impl BaseRecord {
    /// What its bytes count as.
    pub(super) const fn counts_as(&self) -> Kept {
        if self.only_kept { Kept::Archive } else { Kept::Base }
    }
}

/// A record, read back.
pub(super) fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, SpoolError> {
    M::decode(bytes).map_err(|_| SpoolError::damaged("a record cannot be read"))
}

/// The header in a record, which was valid when it was written.
pub(super) fn header(wire: Option<link::SegmentHeader>) -> Option<Header> {
    wire?.try_into().ok()
}
