//! The tables of the write-ahead log. Names, key types and value layouts are persisted: they must be kept stable.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `meta` | name | see [`super::state`] |
//! | `journal` | (group, piece) | a piece of a commit group, see [`super::group`] |
//! | `lanes` | lane | next sequence u64 LE, journal position u64 LE: what groups below it have for the lane is in a segment |
//! | `segments` | (lane, sequence) | waiting consumers u64 LE, refused items 3 × u64 LE, protobuf `SegmentHeader` |
//! | `segment_chunks` | (lane, sequence, piece) | a piece of the payload |
//! | `consumers` | name | id u8 |
//! | `cursors` | (consumer id, lane) | sequence u64 LE, request u64 LE |
//! | `counters` | name | three u64 LE: spans, metric points, log records |
//! | `drops` | (epoch, id) | stations that know it (names, each behind its length u8; 0 ends), protobuf `Drop` |
//! | `epochs` | epoch | protobuf `Epoch` of an earlier life that still has something to say |
//! | `lane_rules` | first group | JSON, see [`crate::lanes`]; made with the first rules, format 2 |
//! | `bases` | (lane, sequence) | protobuf `SegmentHeader` of a committed segment that others lean on; made with the first, format 3 |
//! | `base_chunks` | (lane, sequence, piece) | a piece of its payload |
//! | `passes` | when it began | protobuf `PassReport`; made with the first pass |
//! | `shipped` | (lane, sequence) | payload hash of a segment that the ground has committed |

use redb::TableDefinition;

pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const JOURNAL: TableDefinition<'_, (u64, u16), &[u8]> = TableDefinition::new("journal");
pub(super) const LANES: TableDefinition<'_, u8, (u64, u64)> = TableDefinition::new("lanes");
pub(super) const SEGMENTS: TableDefinition<'_, (u8, u64), &[u8]> = TableDefinition::new("segments");
pub(super) const CHUNKS: TableDefinition<'_, (u8, u64, u32), &[u8]> = TableDefinition::new("segment_chunks");
pub(super) const CONSUMERS: TableDefinition<'_, &str, u8> = TableDefinition::new("consumers");
pub(super) const CURSORS: TableDefinition<'_, (u8, u8), (u64, u64)> = TableDefinition::new("cursors");
pub(super) const COUNTERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("counters");
pub(super) const DROPS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("drops");
pub(super) const EPOCHS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("epochs");
pub(super) const SHIPPED: TableDefinition<'_, (u8, u64), &[u8]> = TableDefinition::new("shipped");

pub(super) const LANE_RULES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("lane_rules");

pub(super) const PASSES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("passes");

pub(super) const BASES: TableDefinition<'_, (u8, u64), &[u8]> = TableDefinition::new("bases");
pub(super) const BASE_CHUNKS: TableDefinition<'_, (u8, u64, u32), &[u8]> =
    TableDefinition::new("base_chunks");

/// The format of these tables. Software opens every earlier one and refuses a later one. 1: one lane takes all groups. 2: groups
/// are split by `lane_rules`. 3: segments may lean on `bases`.
pub(super) const FORMAT: u64 = 3;

/// The format of a log that has lane rules and no bases.
pub(super) const RULES_FORMAT: u64 = 2;

/// The format of a log that has never had lane rules.
pub(super) const FIRST_FORMAT: u64 = 1;

/// Cuts `value` into pieces that fill redb's pages, which are powers of two: a piece of 2^k − 1 KiB leaves room for the page's
/// own data, while one byte too many would double the page (measured: 65,000 bytes cost 1.4 times their size, 65,536 bytes 2.4).
pub(super) fn pieces(mut value: &[u8]) -> impl Iterator<Item = &[u8]> {
    const SIZES: [usize; 6] = [261_120, 130_048, 64_512, 31_744, 15_360, 7_168];
    std::iter::from_fn(move || {
        if value.is_empty() {
            return None;
        }
        let size = SIZES.into_iter().find(|s| *s <= value.len()).unwrap_or(value.len());
        let (piece, rest) = value.split_at(size);
        value = rest;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_add_up_and_leave_room_in_their_page() {
        for len in [0, 1, 7_167, 7_168, 65_536, 150_000, 1 << 20] {
            let value: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let all: Vec<&[u8]> = pieces(&value).collect();
            assert_eq!(all.concat(), value);
            for piece in all.into_iter().filter(|p| p.len() >= 7_168) {
                assert!(piece.len().next_power_of_two() - piece.len() >= 1000, "{}", piece.len());
            }
        }
    }
}
