//! The tables of the write-ahead log. Names, key types and value layouts are persisted: they must be kept stable.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `meta` | name | u64 LE, but `satellite`: its id |
//! | `journal` | group, piece | a piece of a commit group, see [`super::group`] |
//! | `lanes` | lane | next sequence, journal position: what groups below it have for the lane is in a segment |
//! | `segments` | lane, sequence | waiting consumers u64 LE, refused items 3 × u64 LE, protobuf `SegmentHeader` |
//! | `segment_chunks` | lane, sequence, piece | a piece of the payload |
//! | `consumers` | name | id u8 |
//! | `cursors` | consumer id, lane | sequence, request |
//! | `counters` | name | three u64 LE: spans, metric points, log records |
//! | `drops` | epoch, id | stations that know it (names, each behind its length u8; 0 ends), protobuf `Drop` |
//! | `epochs` | epoch | protobuf `Epoch` of an earlier life that still has something to say |
//! | `lane_rules` | first group | JSON, see [`crate::lanes`]; made with the first rules, format 2 |
//! | `bases` | lane, sequence | protobuf `SegmentHeader` of a committed segment that others depend on; made with the first, format 3 |
//! | `base_chunks` | lane, sequence, piece | a piece of its payload |
//! | `passes` | when it began | protobuf `PassReport`; made with the first pass |
//! | `shipped` | lane, sequence | payload hashes of a segment of this epoch that a ground has committed |
//! | `acknowledged` | ledger, epoch, lane, sequence | payload hash of a segment that this ledger has committed; made with the first |
//! | `ledgers` | ledger | the station that answered for it last; made with the first |
//! | `boots` | number | a start of the machine, see [`super::boots`]; made with the first |
//! | `cursors_ahead` | consumer id, lane, signal | a cursor of one signal ahead of the lane's, see [`super::reached`]; made with the first |
//! | `taken` | lane, sequence, consumer id | items that the consumer's backend has of a segment that it has not passed: the same; made with the first |
//! | `missed` | consumer's name | items that were dropped before it had them: the same; made with the first |
//! | `refused` | lane, sequence, consumer id | items that the consumer's backend has refused for good: three u64 LE |
//! | `salvaged` | group, number | what came from another file, see [`super::salvaged`]; made with the first |
//!
//! Formats: 1 has one lane; 2 splits groups by rules; 3 has segments that depend on others; 4 has groups of version 2; 5 has a
//! front, see [`super::front`]. A file's number rises when the first such thing is written. `acknowledged`, `ledgers`, `refused`, `boots`,
//! `cursors_ahead`, `taken`, `missed`, `salvaged` and `clock_floor_unix_nano` and `drops_told` in `meta` may be ignored, so they raise nothing.

use super::boots::Boot;
use perigee_shared::segment::{Lane, SegmentId};
use perigee_shared::store::StoreError;
use perigee_shared::stored_as_tuple;
use redb::{ReadTransaction, ReadableTable, TableDefinition, TableError, WriteTransaction};

stored_as_tuple! {
    /// A piece of a commit group.
    pub(super) struct GroupPiece { pub(super) group: u64, pub(super) piece: u16 }
}
stored_as_tuple! {
    /// Where a lane is.
    pub(super) struct LaneNumbers { pub(super) next_sequence: u64, pub(super) position: u64 }
}
stored_as_tuple! {
    /// A segment or a base.
    pub(super) struct Place { pub(super) lane: u8, pub(super) sequence: u64 }
}
stored_as_tuple! {
    /// A piece of a payload.
    pub(super) struct PlacePiece { pub(super) lane: u8, pub(super) sequence: u64, pub(super) piece: u32 }
}
stored_as_tuple! {
    /// A consumer's cursor in a lane.
    pub(super) struct CursorKey { pub(super) consumer: u8, pub(super) lane: u8 }
}
stored_as_tuple! {
    /// A consumer's cursor for one signal of a lane.
    pub(super) struct AheadKey { pub(super) consumer: u8, pub(super) lane: u8, pub(super) signal: u8 }
}
stored_as_tuple! {
    /// The segment that a consumer is at, and its requests that are done.
    pub(super) struct Cursor { pub(super) sequence: u64, pub(super) requests: u64 }
}
stored_as_tuple! {
    /// A drop.
    pub(super) struct DropKey { pub(super) epoch: u64, pub(super) id: u64 }
}
stored_as_tuple! {
    /// A segment that a ledger has acknowledged.
    pub(super) struct AckKey { pub(super) ledger: u64, pub(super) epoch: u64, pub(super) lane: u8, pub(super) sequence: u64 }
}
stored_as_tuple! {
    /// A consumer and a segment.
    pub(super) struct RefusedKey { pub(super) lane: u8, pub(super) sequence: u64, pub(super) consumer: u8 }
}
stored_as_tuple! {
    /// What came from another file: the group that it became, and a number.
    pub(super) struct SalvagedKey { pub(super) group: u64, pub(super) number: u32 }
}

pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const JOURNAL: TableDefinition<'_, GroupPiece, &[u8]> = TableDefinition::new("journal");
pub(super) const LANES: TableDefinition<'_, u8, LaneNumbers> = TableDefinition::new("lanes");
pub(super) const SEGMENTS: TableDefinition<'_, Place, &[u8]> = TableDefinition::new("segments");
pub(super) const CHUNKS: TableDefinition<'_, PlacePiece, &[u8]> = TableDefinition::new("segment_chunks");
pub(super) const CONSUMERS: TableDefinition<'_, &str, u8> = TableDefinition::new("consumers");
pub(super) const CURSORS: TableDefinition<'_, CursorKey, Cursor> = TableDefinition::new("cursors");
pub(super) const AHEAD: TableDefinition<'_, AheadKey, Cursor> = TableDefinition::new("cursors_ahead");
pub(super) const COUNTERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("counters");
pub(super) const DROPS: TableDefinition<'_, DropKey, &[u8]> = TableDefinition::new("drops");
pub(super) const EPOCHS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("epochs");
pub(super) const SHIPPED: TableDefinition<'_, Place, &[u8]> = TableDefinition::new("shipped");
pub(super) const LANE_RULES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("lane_rules");
pub(super) const PASSES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("passes");
pub(super) const BASES: TableDefinition<'_, Place, &[u8]> = TableDefinition::new("bases");
pub(super) const BASE_CHUNKS: TableDefinition<'_, PlacePiece, &[u8]> = TableDefinition::new("base_chunks");
pub(super) const ACKNOWLEDGED: TableDefinition<'_, AckKey, &[u8]> = TableDefinition::new("acknowledged");
pub(super) const LEDGERS: TableDefinition<'_, u64, &str> = TableDefinition::new("ledgers");
pub(super) const BOOTS: TableDefinition<'_, u64, Boot> = TableDefinition::new("boots");
pub(super) const TAKEN: TableDefinition<'_, RefusedKey, &[u8]> = TableDefinition::new("taken");
pub(super) const MISSED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("missed");
pub(super) const REFUSED: TableDefinition<'_, RefusedKey, &[u8]> = TableDefinition::new("refused");
pub(super) const SALVAGED: TableDefinition<'_, SalvagedKey, &[u8]> = TableDefinition::new("salvaged");

/// Bytes of a [`SalvagedKey`].
pub(super) const SALVAGED_KEY: usize = 12;

/// The formats with which things came; see above.
pub(super) const FIRST_FORMAT: u64 = 1;
pub(super) const RULES_FORMAT: u64 = 2;
pub(super) const BASES_FORMAT: u64 = 3;
pub(super) const GROUPS_FORMAT: u64 = 4;
pub(super) const FRONT_FORMAT: u64 = 5;

/// Names in `counters`.
pub(super) const ACCEPTED: &str = "accepted";
pub(super) const DELIVERED: &str = "delivered";

/// Names in `meta`.
pub(super) const META_FORMAT: &str = "format";
pub(super) const META_EPOCH: &str = "epoch";
pub(super) const META_START_COUNTER: &str = "start_counter";
pub(super) const META_STARTED: &str = "started_unix_nano";
pub(super) const META_NEXT_GROUP: &str = "next_group";
pub(super) const META_NEXT_DROP: &str = "next_drop";
/// Drops below it may have been reported: they no longer change.
pub(super) const META_REPORTED: &str = "drops_reported";
/// The time is not before this, for certain: the latest beginning of a station certificate that was accepted.
pub(super) const META_CLOCK_FLOOR: &str = "clock_floor_unix_nano";
/// What was dropped and a station has heard of, by reason: see [`super::tally::Tally::told`].
pub(super) const META_TOLD: &str = "drops_told";
/// The id of the satellite whose log it is, from format 4 on.
pub(super) const META_SATELLITE: &str = "satellite";
/// The codecs that the ground has last said it reads, a byte each. Earlier software passes over it.
pub(super) const META_GROUND_READS: &str = "ground_reads";
/// The file is a backup that was not opened since.
pub(super) const META_COPY: &str = "copy";

impl Place {
    /// Where a segment is.
    pub(super) const fn of(id: SegmentId) -> Self {
        Self { lane: id.lane.0, sequence: id.sequence }
    }

    /// The pieces of its payload.
    pub(super) const fn pieces(self) -> std::ops::RangeInclusive<PlacePiece> {
        let Self { lane, sequence } = self;
        PlacePiece { lane, sequence, piece: 0 }..=PlacePiece { lane, sequence, piece: u32::MAX }
    }

    /// One piece.
    pub(super) const fn piece(self, piece: u32) -> PlacePiece {
        PlacePiece { lane: self.lane, sequence: self.sequence, piece }
    }
}

/// The segments of a lane from `sequence` on.
pub(super) const fn lane_from(lane: Lane, sequence: u64) -> std::ops::RangeInclusive<Place> {
    Place { lane: lane.0, sequence }..=Place { lane: lane.0, sequence: u64::MAX }
}

/// The pieces of the groups from `from` to before `end`.
pub(super) const fn groups(from: u64, end: u64) -> std::ops::Range<GroupPiece> {
    GroupPiece { group: from, piece: 0 }..GroupPiece { group: end, piece: 0 }
}

/// The drops of an epoch.
pub(super) const fn drops_of(epoch: u64) -> std::ops::RangeInclusive<DropKey> {
    DropKey { epoch, id: 0 }..=DropKey { epoch, id: u64::MAX }
}

/// A number in `meta`.
pub(super) fn number(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<Option<u64>, StoreError> {
    let Some(value) = meta.get(name)? else { return Ok(None) };
    let bytes = value.value().try_into().map_err(|_| StoreError::Damaged(format!("{name} in meta")))?;
    Ok(Some(u64::from_le_bytes(bytes)))
}

/// Writes numbers into `meta`.
pub(super) fn set_numbers(txn: &WriteTransaction, numbers: &[(&str, u64)]) -> Result<(), StoreError> {
    let mut meta = txn.open_table(META)?;
    for (name, value) in numbers {
        meta.insert(*name, &value.to_le_bytes()[..])?;
    }
    Ok(())
}

/// Raises the format number to `least`.
pub(super) fn raise_format(txn: &WriteTransaction, least: u64) -> Result<(), StoreError> {
    let found = number(&txn.open_table(META)?, META_FORMAT)?.unwrap_or(FIRST_FORMAT);
    if found < least { set_numbers(txn, &[(META_FORMAT, least)]) } else { Ok(()) }
}

/// A table that is made with the first thing in it.
pub(super) fn if_made<K: redb::Key + 'static, V: redb::Value + 'static>(
    txn: &ReadTransaction,
    table: TableDefinition<'_, K, V>,
) -> Result<Option<redb::ReadOnlyTable<K, V>>, StoreError> {
    match txn.open_table(table) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(e) => Err(e.into()),
    }
}
