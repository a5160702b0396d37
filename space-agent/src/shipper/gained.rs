//! What the ground gains in a contact, by what it says: bytes of whole segments, and of parts of others.
//!
//! A segment that was begun on one connection may be acknowledged on the next, by its range in Resume, so this goes from one
//! connection of a contact to the next.

use std::collections::BTreeMap;

use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Header, Lane, SegmentId};

/// A segment that was begun in this contact and is not whole on the ground.
#[derive(Debug)]
struct Part {
    /// Bytes of it that the ground holds and that are counted, or that it held before this contact.
    held: u64,
    /// Bytes of its payload.
    whole: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gained {
    parts: BTreeMap<SegmentId, Part>,
    bytes: u64,
}

impl Gained {
    /// Bytes that the ground holds now and did not hold when the contact began.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A segment's transfer starts; the ground holds so many bytes of it.
    pub(super) fn begin(&mut self, header: &Header, held: u64) {
        self.holds(header.id, held);
        let part = self.parts.entry(header.id).or_insert(Part { held, whole: 0 });
        part.whole = header.payload_len;
    }

    /// The ground says that it holds so many bytes of a segment.
    pub(super) fn holds(&mut self, id: SegmentId, held: u64) {
        if let Some(part) = self.parts.get_mut(&id) {
            self.bytes += held.saturating_sub(part.held);
            part.held = part.held.max(held);
        }
    }

    /// The ground has committed a segment.
    pub(super) fn committed(&mut self, id: SegmentId) {
        if let Some(part) = self.parts.remove(&id) {
            self.bytes += part.whole.saturating_sub(part.held);
        }
    }

    /// The ground says which sequences of a lane it has committed.
    pub(super) fn committed_in(&mut self, epoch: u64, lane: Lane, sequences: &RangeSet) {
        let is_among =
            |id: &&SegmentId| id.epoch == epoch && id.lane == lane && sequences.contains(id.sequence);
        let among: Vec<SegmentId> = self.parts.keys().filter(is_among).copied().collect();
        among.into_iter().for_each(|id| self.committed(id));
    }
}
