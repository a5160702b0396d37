//! What arrives over a link while it is up, for those who watch. Nothing is decided by it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perigee_shared::segment::SegmentId;
use serde::Serialize;

use super::machine::{Haul, StreamId};

/// A segment that is arriving.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ArrivalView {
    /// Its lane.
    pub lane: u8,
    /// Its sequence in the lane.
    pub sequence: u64,
    /// Bytes that have come, in earlier contacts too.
    pub held_bytes: u64,
    /// Bytes of its payload.
    pub payload_bytes: u64,
}

/// What came over one link so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Came {
    pub(super) received: u64,
    pub(super) segments: u64,
    pub(super) items: u64,
    pub(super) arriving: BTreeMap<StreamId, ArrivalView>,
}

/// The same while it changes. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Passing(Arc<Mutex<Came>>);

impl Passing {
    fn came(&self) -> MutexGuard<'_, Came> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream of a segment began, of which `missing` bytes are to come.
    pub(super) fn opened(&self, stream: StreamId, id: SegmentId, payload: u64, missing: u64) {
        let arrival = ArrivalView {
            lane: id.lane.0,
            sequence: id.sequence,
            held_bytes: payload.saturating_sub(missing),
            payload_bytes: payload,
        };
        self.came().arriving.insert(stream, arrival);
    }

    /// Bytes of a stream came.
    pub(super) fn data(&self, stream: StreamId, bytes: u64) {
        let mut came = self.came();
        came.received += bytes;
        if let Some(arrival) = came.arriving.get_mut(&stream) {
            arrival.held_bytes = (arrival.held_bytes + bytes).min(arrival.payload_bytes);
        }
    }

    /// A stream has ended.
    pub(super) fn ended(&self, stream: StreamId) {
        self.came().arriving.remove(&stream);
    }

    /// So much was committed.
    pub(super) fn hauled(&self, haul: &Haul) {
        let mut came = self.came();
        (came.segments, came.items) = (haul.segments, haul.items.total());
    }

    /// What came so far.
    pub(super) fn so_far(&self) -> Came {
        self.came().clone()
    }
}

#[cfg(test)]
mod tests {
    use perigee_shared::segment::Lane;

    use super::*;

    #[test]
    fn a_segment_that_is_resumed_goes_on_where_it_was_and_is_gone_at_its_end() {
        let passing = Passing::default();
        let id = SegmentId { epoch: 1, lane: Lane::BULK, sequence: 7 };
        passing.opened(3, id, 100, 60);
        let held = || passing.so_far().arriving.get(&3).map(|arrival| arrival.held_bytes);
        assert_eq!(held(), Some(40));
        passing.data(3, 25);
        passing.data(9, 5);
        assert_eq!((held(), passing.so_far().received), (Some(65), 30));
        passing.data(3, 1_000);
        assert_eq!(held(), Some(100), "never more than there is");
        passing.ended(3);
        assert_eq!(held(), None);
    }
}
