//! The scrub: what lies in the log is read from time to time and compared with its checksums, a little at a time. What is damaged
//! is dropped and counted, while what is beside it can still be delivered.

use perigee_shared::segment::SegmentId;

use super::tables::*;
use super::{SegmentRecord, Wal, WalError, group};

/// Where the scrub goes on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    group: u64,
    segment: Option<super::tables::Place>,
}

/// What a part of the scrub has found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Groups and segments that were compared.
    pub checked: u64,
    /// Those of them that were damaged and are dropped now.
    pub damaged: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// All of the log has been looked at.
    pub finished: bool,
}

/// What lies in the log, compared with its checksums.
pub struct Scrub<'a>(pub(super) &'a mut Wal);

impl Scrub<'_> {
    /// Compares what follows what was compared last, until about `bytes` were read or the log has come to its end.
    pub fn step(&mut self, bytes: u64) -> Result<Scrubbed, WalError> {
        let mut out = Scrubbed::default();
        self.0.log.check_file()?;
        while out.bytes < bytes {
            let next = self.next_group()?;
            if let Some((number, whole, length)) = next {
                self.0.scrub.group = number + 1;
                out.bytes += length;
                out.checked += 1;
                if !whole {
                    out.damaged += 1;
                    self.0.journal().drop_group(number)?;
                }
                continue;
            }
            let Some((id, length)) = self.next_segment()? else {
                self.0.scrub = Place::default();
                out.finished = true;
                break;
            };
            self.0.scrub.segment = Some(super::tables::Place::of(id));
            out.bytes += length;
            out.checked += 1;
            out.damaged += u64::from(!self.0.custody().verify(id)?);
        }
        Ok(out)
    }

    /// Compares all of it.
    pub fn all(&mut self) -> Result<(u64, u64), WalError> {
        self.0.scrub = Place::default();
        let all = self.step(u64::MAX)?;
        Ok((all.checked, all.damaged))
    }

    /// The next group that a lane waits for: its number, whether its checksum holds, and its length.
    fn next_group(&mut self) -> Result<Option<(u64, bool, u64)>, WalError> {
        let from = self.0.scrub.group;
        self.0.read(|txn, state| {
            let at = state.unsealed.partition_point(|g| g.number < from);
            let Some(number) = state.unsealed.get(at).map(|g| g.number) else { return Ok(None) };
            let bytes = state.group(&txn.open_table(JOURNAL)?, number)?;
            Ok(Some((number, group::requests(number, &bytes).is_ok(), bytes.len() as u64)))
        })
    }

    /// The next segment on board and the length of its payload.
    fn next_segment(&mut self) -> Result<Option<(SegmentId, u64)>, WalError> {
        let after = self.0.scrub.segment;
        self.0.read(|txn, _| {
            let segments = txn.open_table(SEGMENTS)?;
            let mut rows = match after {
                None => segments.range(super::tables::Place { lane: 0, sequence: 0 }..)?,
                Some(after) => {
                    segments.range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded))?
                }
            };
            let Some(row) = rows.next().transpose()? else { return Ok(None) };
            let header = SegmentRecord::from_bytes(row.1.value())?.header;
            Ok(Some((header.id, header.payload_len)))
        })
    }
}
