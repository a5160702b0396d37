//! How many segment bytes a contact may carry.

use perigee_shared::segment::Lane;

/// Segment bytes that may still be sent in a contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    /// At first.
    whole: u64,
    left: u64,
    /// Of what is left, bytes that are kept for lanes more urgent than bulk: what they have may only come.
    reserve: u64,
}

impl Budget {
    /// A tenth of it is kept.
    const KEPT: u64 = 10;

    pub(super) const fn new(bytes: u64) -> Self {
        Self { whole: bytes, left: bytes, reserve: bytes / Self::KEPT }
    }

    /// Bytes that were sent of it.
    pub(super) const fn spent(self) -> u64 {
        self.whole - self.left
    }

    /// The same when so many bytes have been sent.
    pub(super) const fn less(self, spent: u64) -> Self {
        let left = self.whole.saturating_sub(spent);
        Self { left, ..self }
    }

    /// The same, with nothing kept.
    pub(super) const fn without_reserve(self) -> Self {
        Self { reserve: 0, ..self }
    }

    /// So many bytes are sent.
    pub(super) const fn take(&mut self, bytes: u64) {
        self.left -= bytes;
    }

    /// So many were not sent after all.
    pub(super) const fn give_back(&mut self, bytes: u64) {
        self.left += bytes;
    }

    /// Nothing more of bulk is sent.
    pub(super) const fn is_spent(self) -> bool {
        self.left <= self.reserve
    }

    /// What `lane` may have.
    pub(super) const fn of(self, lane: Lane) -> u64 {
        if lane.0 < Lane::BULK.0 { self.left } else { self.left.saturating_sub(self.reserve) }
    }

    /// The last lane that may have something.
    pub(super) const fn last(self) -> Option<Lane> {
        match self {
            Self { left: 0, .. } => None,
            _ if self.is_spent() => Some(Lane(Lane::BULK.0 - 1)),
            _ => Some(Lane(u8::MAX)),
        }
    }
}
