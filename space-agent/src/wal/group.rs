//! A commit group: the requests of one commit, or a part of them, compressed together.
//!
//! ```text
//! group  = version u8 (1) | raw length u64 | items 3 × u64 | accepted 3 × u64 | received u64 | one zstd frame over record*
//! record = signal u8 | items u64 | first time u64 | last time u64 | length u32 | length bytes of OTLP protobuf
//! ```
//!
//! All numbers are little-endian. `raw length` is the sum of the records' lengths; `items` are those of this group, `accepted`
//! those ever accepted, this group included, so that a commit need not touch a counter table. `received` is when the group was
//! formed, ns since the Unix epoch.

use std::io;

use bytes::Bytes;
use perigee_shared::compress::{DecompressError, Encoding, decompress_capped};
use perigee_shared::otlp::walk::Walked;
use perigee_shared::signal::{Counts, Signal, TimeRange};
use redb::ReadableTable;

use super::WalError;
use super::state::{GroupShare, all_bulk};
use crate::lanes::Rules;

/// Raw bytes after which a group ends. A segment is made of whole groups, so this is also how exactly it can be cut.
pub(super) const TARGET_RAW: usize = 1 << 20;

/// Level 1 compresses telemetry about as well as level 3 on groups of this size, at nearly twice the speed.
const LEVEL: i32 = 1;

const VERSION: u8 = 1;
const HEADER: usize = 1 + 8 + 24 + 24 + 8;
const RECORD: usize = 1 + 8 + 8 + 8 + 4;

/// An accepted request on its way into the journal.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// What kind of request it is.
    pub signal: Signal,
    /// OTLP protobuf.
    pub body: Bytes,
    /// What the walk has found in it.
    pub walked: Walked,
}

/// What a group's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupHeader {
    pub(super) raw_len: u64,
    pub(super) items: Counts,
    pub(super) accepted: Counts,
    pub(super) received: u64,
}

/// Bytes that are not a group.
#[derive(Debug, thiserror::Error)]
#[error("a journal group is damaged: {0}")]
pub struct Damaged(pub(super) &'static str);

impl GroupHeader {
    pub(super) fn read(group: &[u8]) -> Result<Self, Damaged> {
        let header = group.get(..HEADER).ok_or(Damaged("too short"))?;
        if header[0] != VERSION {
            return Err(Damaged("unknown version"));
        }
        let number =
            |at: usize| header[at..at + 8].try_into().map(u64::from_le_bytes).map_err(|_| Damaged("header"));
        let counts = |at: usize| Counts::from_bytes(&header[at..at + 24]).ok_or(Damaged("header"));
        Ok(Self { raw_len: number(1)?, items: counts(9)?, accepted: counts(33)?, received: number(57)? })
    }
}

/// Forms groups; keeps its buffers between them.
pub(super) struct GroupWriter {
    compressor: zstd::bulk::Compressor<'static>,
    records: Vec<u8>,
    frame: Vec<u8>,
}

impl GroupWriter {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { compressor: zstd::bulk::Compressor::new(LEVEL)?, records: Vec::new(), frame: Vec::new() })
    }

    /// Forms a group of `requests`; `accepted` is what had been accepted before them.
    pub(super) fn write(
        &mut self,
        requests: &[Accepted],
        accepted: Counts,
        received: u64,
    ) -> io::Result<(GroupHeader, Vec<u8>)> {
        self.records.clear();
        let mut header = GroupHeader { raw_len: 0, items: Counts::ZERO, accepted, received };
        for request in requests {
            header.raw_len += request.body.len() as u64;
            header.items += Counts::of(request.signal, request.walked.items);
            self.records.push(request.signal as u8);
            self.records.extend_from_slice(&request.walked.items.to_le_bytes());
            self.records.extend_from_slice(&request.walked.time.start.to_le_bytes());
            self.records.extend_from_slice(&request.walked.time.end.to_le_bytes());
            self.records.extend_from_slice(&(request.body.len() as u32).to_le_bytes());
            self.records.extend_from_slice(&request.body);
        }
        header.accepted += header.items;
        self.frame.clear();
        self.frame.reserve(zstd::zstd_safe::compress_bound(self.records.len()));
        self.compressor.compress_to_buffer(&self.records[..], &mut self.frame)?;
        let mut group = Vec::with_capacity(HEADER + self.frame.len());
        group.push(VERSION);
        group.extend_from_slice(&header.raw_len.to_le_bytes());
        group.extend_from_slice(&header.items.to_bytes());
        group.extend_from_slice(&header.accepted.to_bytes());
        group.extend_from_slice(&received.to_le_bytes());
        group.extend_from_slice(&self.frame);
        if self.records.capacity() > 2 * TARGET_RAW {
            (self.records, self.frame) = (Vec::new(), Vec::new());
        }
        Ok((header, group))
    }
}

/// Cuts the requests of one commit into runs of about [`TARGET_RAW`] bytes each.
pub(super) fn runs(mut requests: &[Accepted]) -> impl Iterator<Item = &[Accepted]> {
    std::iter::from_fn(move || {
        if requests.is_empty() {
            return None;
        }
        let mut raw = 0;
        let mut end = 0;
        while end < requests.len() && (end == 0 || raw + requests[end].body.len() <= TARGET_RAW) {
            raw += requests[end].body.len();
            end += 1;
        }
        let (run, rest) = requests.split_at(end);
        requests = rest;
        Some(run)
    })
}

/// What `requests` have for each lane.
pub(super) fn shares_of(rules: &Rules, requests: &[Accepted]) -> Vec<GroupShare> {
    let mut out: Vec<GroupShare> = Vec::new();
    for request in requests {
        for share in rules.shares(request.signal, &request.body, request.walked.items) {
            let items = Counts::of(request.signal, share.items);
            match out.iter_mut().find(|s| s.lane == share.lane) {
                Some(sum) => {
                    sum.items += items;
                    sum.raw += share.raw;
                }
                None => out.push(GroupShare { lane: share.lane, items, raw: share.raw }),
            }
        }
    }
    out
}

/// What a stored group has for each lane. One that cannot be read is bulk, where sealing will say what is wrong with it.
pub(super) fn shares(rules: &Rules, group: &[u8], header: &GroupHeader) -> Vec<GroupShare> {
    match requests(group) {
        Ok(requests) => shares_of(rules, &requests),
        Err(_) => all_bulk(header),
    }
}

/// The bytes of the group `number`.
pub(super) fn read(
    journal: &impl ReadableTable<(u64, u16), &'static [u8]>,
    number: u64,
) -> Result<Vec<u8>, WalError> {
    let mut group = Vec::new();
    for piece in journal.range((number, 0)..=(number, u16::MAX))? {
        group.extend_from_slice(piece?.1.value());
    }
    Ok(group)
}

/// The requests of a group.
pub(super) fn requests(group: &[u8]) -> Result<Vec<Accepted>, Damaged> {
    let header = GroupHeader::read(group)?;
    // Every record has at least one byte of its own, but an empty request is legal: bound their number by the frame.
    let limit = header.raw_len as usize + RECORD * (1 << 20);
    let records = decompress_capped(Encoding::Zstd, &group[HEADER..], limit).map_err(|e| match e {
        DecompressError::TooLarge { .. } => Damaged("larger than its header says"),
        DecompressError::Corrupt(_) => Damaged("zstd"),
    })?;
    let records = Bytes::from(records);
    let mut out = Vec::new();
    let mut at = 0;
    while at < records.len() {
        let head = records.get(at..at + RECORD).ok_or(Damaged("ends inside a record"))?;
        let number =
            |i: usize| head[i..i + 8].try_into().map(u64::from_le_bytes).map_err(|_| Damaged("record"));
        let length = u32::from_le_bytes(head[25..29].try_into().map_err(|_| Damaged("record"))?) as usize;
        at += RECORD;
        if records.len() - at < length {
            return Err(Damaged("ends inside a record"));
        }
        out.push(Accepted {
            signal: Signal::from_number(head[0]).ok_or(Damaged("unknown signal"))?,
            body: records.slice(at..at + length),
            walked: Walked { items: number(1)?, time: TimeRange { start: number(9)?, end: number(17)? } },
        });
        at += length;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(n: usize) -> Accepted {
        Accepted {
            signal: Signal::ALL[n % 3],
            body: Bytes::from(vec![n as u8; n * 100]),
            walked: Walked { items: n as u64, time: TimeRange { start: 1, end: n as u64 } },
        }
    }

    #[test]
    fn a_group_gives_its_requests_back() {
        let all: Vec<Accepted> = (0..20).map(accepted).collect();
        let mut writer = GroupWriter::new().unwrap();
        let (header, group) = writer.write(&all, Counts::of(Signal::Logs, 5), 77).unwrap();
        assert_eq!(GroupHeader::read(&group).unwrap(), header);
        assert_eq!(header.items.total(), (0..20).sum::<u64>());
        assert_eq!(header.accepted.total(), header.items.total() + 5);
        let back = requests(&group).unwrap();
        assert!(
            back.iter()
                .zip(&all)
                .all(|(a, b)| a.body == b.body && a.signal == b.signal && a.walked == b.walked)
        );
        assert_eq!(back.len(), all.len());
    }

    #[test]
    fn a_damaged_group_is_an_error_and_never_a_panic() {
        let mut writer = GroupWriter::new().unwrap();
        let (_, group) = writer.write(&[accepted(3), accepted(9)], Counts::ZERO, 0).unwrap();
        for cut in 0..group.len() {
            assert!(requests(&group[..cut]).is_err(), "{cut}");
        }
        for at in 0..group.len() {
            let mut flipped = group.clone();
            flipped[at] ^= 0x10;
            drop(requests(&flipped));
        }
    }

    #[test]
    fn runs_keep_the_order_and_end_at_their_target() {
        let big = Accepted { body: Bytes::from(vec![0; TARGET_RAW * 2]), ..accepted(1) };
        let half = Accepted { body: Bytes::from(vec![0; TARGET_RAW / 2]), ..accepted(1) };
        let all = vec![half.clone(), half.clone(), half.clone(), big, half];
        assert_eq!(runs(&all).map(<[_]>::len).collect::<Vec<_>>(), [2, 1, 1, 1]);
    }
}
