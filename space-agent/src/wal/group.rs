//! A commit group: the requests of one commit, or a part of them, compressed together.
//!
//! ```text
//! group   = version u8 (2) | checksum u64 | boot u64 | since boot u64 | summary | one zstd frame over record*
//! summary = raw length u64 | items 3 × u64 | accepted 3 × u64 | received u64
//! record  = signal u8 | items u64 | first time u64 | last time u64 | length u32 | length bytes of OTLP protobuf
//! ```
//!
//! All numbers are little-endian. `raw length` is the sum of the records' lengths; `items` are those of this group, `accepted`
//! those ever accepted, this group included, so that a commit need not touch a counter table. `received` is when the group was
//! formed, ns since the Unix epoch; `boot` and `since boot` say the same by the clock that nobody sets ([`SinceBoot`]).
//! `checksum` is the first 8 bytes of the BLAKE3 of the group's number and of everything that follows the checksum: a group whose
//! bytes changed, or that stands in another one's place, is not taken for what was accepted.
//!
//! Version 1 had neither checksum nor boot: version u8 (1) | summary | frame.

use std::io::{self, Cursor};

use bytes::Bytes;
use perigee_proto::link;
use perigee_shared::compress::{DecompressError, Encoding, decompress_capped};
use perigee_shared::env::{SinceBoot, StoreFile};
use perigee_shared::otlp::walk::Walked;
use perigee_shared::signal::{Counts, Signal, TimeRange};
use perigee_shared::store::rescue::Rescue;
use perigee_shared::store::{StoreError, join};
use redb::{ReadableTable, ReadableTableMetadata, TableHandle, Value};

use super::state::{GroupMeta, GroupShare, all_bulk};
use super::tables::{GroupPiece, JOURNAL, groups};
use crate::lanes::Rules;

/// Raw bytes after which a group ends. A segment is made of whole groups, so this is also how exactly it can be cut.
pub(super) const TARGET_RAW: usize = 1 << 20;

/// Level 1 compresses telemetry about as well as level 3 on groups of this size, at nearly twice the speed.
const LEVEL: i32 = 1;

/// The version that is written, and the first one.
const VERSION: u8 = 2;
const FIRST_VERSION: u8 = 1;

/// Where the checksum is, and where what it is over begins.
const CHECKSUM: usize = 1;
const CHECKED: usize = CHECKSUM + 8;
/// Boot and time since then.
const CLOCKS: usize = 8 + 8;
const SUMMARY: usize = 8 + 24 + 24 + 8;
/// What stands before the frame, at most.
const HEADER: usize = CHECKED + CLOCKS + SUMMARY;
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
    /// `None` in version 1.
    pub(super) since_boot: Option<SinceBoot>,
}

/// Bytes that are not a group.
#[derive(Debug, thiserror::Error)]
#[error("a journal group is damaged: {0}")]
pub struct Damaged(pub(super) &'static str);

/// Takes `N` bytes from the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Damaged> {
    let (head, rest) = bytes.split_first_chunk().ok_or(Damaged("too short"))?;
    *bytes = rest;
    Ok(*head)
}

fn take_number(bytes: &mut &[u8]) -> Result<u64, Damaged> {
    take(bytes).map(u64::from_le_bytes)
}

fn take_counts(bytes: &mut &[u8]) -> Result<Counts, Damaged> {
    Counts::from_bytes(&take::<24>(bytes)?).ok_or(Damaged("header"))
}

impl GroupHeader {
    /// The header of a group, and its frame; its checksum is not looked at.
    fn split(mut group: &[u8]) -> Result<(Self, &[u8]), Damaged> {
        let rest = &mut group;
        let since_boot = match take::<1>(rest)? {
            [VERSION] => {
                take::<8>(rest)?;
                Some(SinceBoot { boot: take_number(rest)?, nano: take_number(rest)? })
            }
            [FIRST_VERSION] => None,
            _ => return Err(Damaged("unknown version")),
        };
        let header = Self {
            raw_len: take_number(rest)?,
            items: take_counts(rest)?,
            accepted: take_counts(rest)?,
            received: take_number(rest)?,
            since_boot,
        };
        Ok((header, group))
    }

    /// The header of a group, by its first piece.
    pub(super) fn read(piece: &[u8]) -> Result<Self, Damaged> {
        Ok(Self::split(piece)?.0)
    }
}

fn checksum(number: u64, checked: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes()).update(checked);
    first_bytes(hasher.finalize())
}

/// What is kept of a hash as a checksum.
pub(super) fn first_bytes(hash: blake3::Hash) -> [u8; 8] {
    let mut out = [0; 8];
    out.copy_from_slice(&hash.as_bytes()[..8]);
    out
}

/// What something is made of that has this group alone; `None`: version 1, which has no checksum.
pub(super) fn alone(number: u64, group: &[u8]) -> Option<link::Groups> {
    let (version, rest) = group.split_first()?;
    let sum = rest.first_chunk().filter(|_| *version == VERSION)?;
    Some(link::Groups { first: number, end: number + 1, checksum: u64::from_le_bytes(*sum) })
}

/// Whether a group whose checksum can be verified may begin so.
pub(super) fn may_begin(piece: &[u8]) -> bool {
    piece.first() == Some(&VERSION)
}

/// Whether the group `number` has these bytes. Version 1 cannot tell.
pub(super) fn verify(number: u64, group: &[u8]) -> Result<(), Damaged> {
    if group.first() != Some(&VERSION) {
        return GroupHeader::read(group).map(drop);
    }
    let (head, checked) = group.split_at_checked(CHECKED).ok_or(Damaged("too short"))?;
    if head[CHECKSUM..] == checksum(number, checked) { Ok(()) } else { Err(Damaged("checksum")) }
}

/// Forms groups; keeps its buffer between them.
pub(super) struct GroupWriter {
    compressor: zstd::bulk::Compressor<'static>,
    records: Vec<u8>,
}

impl GroupWriter {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { compressor: zstd::bulk::Compressor::new(LEVEL)?, records: Vec::new() })
    }

    /// Forms the group `number` of `requests`; `accepted` is what had been accepted before them.
    pub(super) fn write(
        &mut self,
        number: u64,
        requests: &[Accepted],
        accepted: Counts,
        (received, since_boot): (u64, SinceBoot),
    ) -> io::Result<(GroupHeader, Vec<u8>)> {
        self.records.clear();
        let mut header =
            GroupHeader { raw_len: 0, items: Counts::ZERO, accepted, received, since_boot: Some(since_boot) };
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
        let mut group = Vec::with_capacity(HEADER + zstd::zstd_safe::compress_bound(self.records.len()));
        group.push(VERSION);
        group.extend_from_slice(&[0; 8]);
        group.extend_from_slice(&since_boot.boot.to_le_bytes());
        group.extend_from_slice(&since_boot.nano.to_le_bytes());
        group.extend_from_slice(&header.raw_len.to_le_bytes());
        group.extend_from_slice(&header.items.to_bytes());
        group.extend_from_slice(&header.accepted.to_bytes());
        group.extend_from_slice(&received.to_le_bytes());
        let mut behind = Cursor::new(group);
        behind.set_position(HEADER as u64);
        self.compressor.compress_to_buffer(&self.records[..], &mut behind)?;
        let mut group = behind.into_inner();
        let sum = checksum(number, &group[CHECKED..]);
        group[CHECKSUM..CHECKED].copy_from_slice(&sum);
        if self.records.capacity() > 2 * TARGET_RAW {
            self.records = Vec::new();
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
pub(super) fn shares(rules: &Rules, number: u64, group: &[u8], header: &GroupHeader) -> Vec<GroupShare> {
    match requests(number, group) {
        Ok(requests) => shares_of(rules, &requests),
        Err(_) => all_bulk(header),
    }
}

/// The groups of a journal, oldest first.
#[derive(Default)]
pub(super) struct Listed(pub(super) Vec<(GroupMeta, GroupHeader)>);

impl Listed {
    /// Those in a table, which is read.
    pub(super) fn of_table(
        journal: &impl ReadableTable<GroupPiece, &'static [u8]>,
    ) -> Result<Self, StoreError> {
        let mut out = Self::default();
        for entry in journal.iter()? {
            let (key, value) = entry?;
            out.take(key.value(), value.value(), value.value().len())?;
        }
        Ok(out)
    }

    /// The same by the file that the table is in, of which little is read; `None`: the table has to be read.
    pub(super) fn of_file(file: &dyn StoreFile, journal: &impl ReadableTableMetadata) -> Option<Self> {
        let mut out = Self::default();
        let (mut pieces, mut fit) = (0, true);
        Rescue::open(file)?.heads(JOURNAL.name(), HEADER, |key, head, length| {
            pieces += 1;
            let key = key.try_into().map(|key: &[u8; 10]| GroupPiece::from_bytes(key));
            fit &= key.is_ok_and(|key| out.take(key, head, length).is_ok());
        })?;
        (fit && pieces == journal.len().ok()?).then_some(out)
    }

    /// Takes the next piece by how it begins.
    fn take(&mut self, key: GroupPiece, head: &[u8], length: usize) -> Result<(), StoreError> {
        let (number, stored) = (key.group, length as u64);
        match self.0.last_mut() {
            Some((group, _)) if key.piece > 0 && group.number == number => group.stored += stored,
            // A piece without its first: deletion goes by whole groups, so this is none of ours.
            _ if key.piece > 0 => {
                return Err(StoreError::Damaged("a group without its beginning".to_owned()));
            }
            _ => {
                let header = GroupHeader::read(head).map_err(|e| StoreError::Damaged(e.to_string()))?;
                self.0.push((GroupMeta { number, stored }, header));
            }
        }
        Ok(())
    }
}

/// The bytes of the group `number`.
pub(super) fn read(
    journal: &impl ReadableTable<GroupPiece, &'static [u8]>,
    number: u64,
) -> Result<Vec<u8>, StoreError> {
    Ok(join(journal.range(groups(number, number + 1))?, 0)?)
}

/// The requests of the group `number`.
pub(super) fn requests(number: u64, group: &[u8]) -> Result<Vec<Accepted>, Damaged> {
    verify(number, group)?;
    let (header, frame) = GroupHeader::split(group)?;
    // Every record has at least one byte of its own, but an empty request is legal: bound their number by the frame.
    let limit = header.raw_len as usize + RECORD * (1 << 20);
    let records = decompress_capped(Encoding::Zstd, frame, limit).map_err(|e| match e {
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

    const CLOCKS_READ: (u64, SinceBoot) = (77, SinceBoot { boot: 5, nano: 6 });

    #[test]
    fn a_group_gives_its_requests_back() {
        let all: Vec<Accepted> = (0..20).map(accepted).collect();
        let mut writer = GroupWriter::new().unwrap();
        let (header, group) = writer.write(4, &all, Counts::of(Signal::Logs, 5), CLOCKS_READ).unwrap();
        assert_eq!(GroupHeader::read(&group).unwrap(), header);
        assert_eq!((header.received, header.since_boot), (77, Some(CLOCKS_READ.1)));
        assert_eq!(header.items.total(), (0..20).sum::<u64>());
        assert_eq!(header.accepted.total(), header.items.total() + 5);
        let back = requests(4, &group).unwrap();
        assert!(
            back.iter()
                .zip(&all)
                .all(|(a, b)| a.body == b.body && a.signal == b.signal && a.walked == b.walked)
        );
        assert_eq!(back.len(), all.len());
    }

    #[test]
    fn a_group_that_is_cut_or_changed_in_any_bit_or_stands_in_anothers_place_is_an_error() {
        let mut writer = GroupWriter::new().unwrap();
        let (_, group) = writer.write(4, &[accepted(3), accepted(9)], Counts::ZERO, CLOCKS_READ).unwrap();
        for cut in 0..group.len() {
            assert!(requests(4, &group[..cut]).is_err(), "{cut}");
        }
        // Without the bits that would make it a group of version 1, whose reader cannot tell.
        for bit in 8..group.len() * 8 {
            let mut flipped = group.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(requests(4, &flipped).is_err(), "bit {bit}");
        }
        assert!(requests(5, &group).is_err());
    }

    #[test]
    fn a_group_of_version_1_is_read() {
        let mut writer = GroupWriter::new().unwrap();
        let (header, group) = writer.write(4, &[accepted(3)], Counts::ZERO, CLOCKS_READ).unwrap();
        let first = [&[FIRST_VERSION], &group[CHECKED + CLOCKS..]].concat();
        assert_eq!(GroupHeader::read(&first).unwrap(), GroupHeader { since_boot: None, ..header });
        assert_eq!(requests(4, &first).unwrap()[0].body, accepted(3).body);
    }

    #[test]
    fn runs_keep_the_order_and_end_at_their_target() {
        let big = Accepted { body: Bytes::from(vec![0; TARGET_RAW * 2]), ..accepted(1) };
        let half = Accepted { body: Bytes::from(vec![0; TARGET_RAW / 2]), ..accepted(1) };
        let all = vec![half.clone(), half.clone(), half.clone(), big, half];
        assert_eq!(runs(&all).map(<[_]>::len).collect::<Vec<_>>(), [2, 1, 1, 1]);
    }
}
