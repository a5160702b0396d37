//! The header of a segment: parsed from the wire message once, then trusted.

use std::fmt;

use perigee_proto::link;

use crate::signal::{Counts, TimeRange};

/// The segment format that this software writes, and the latest that it reads.
pub const FORMAT: u32 = 1;

/// The largest payload, in bytes.
pub const MAX_PAYLOAD: u64 = 64 << 20;

/// The largest sum of raw request bytes in one segment.
pub const MAX_RAW: u64 = 64 << 20;

/// A BLAKE3 hash of a payload.
pub type Hash = [u8; 32];

/// The hash of `payload`.
pub fn hash(payload: &[u8]) -> Hash {
    *blake3::hash(payload).as_bytes()
}

/// A priority class. Smaller is more urgent. The numbers are persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(pub u8);

impl Lane {
    /// Where everything goes that no rule puts elsewhere.
    pub const BULK: Self = Self(8);
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What names a segment of one satellite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId {
    /// The life of the write-ahead log that numbered it.
    pub epoch: u64,
    /// Its priority class.
    pub lane: Lane,
    /// Its number in the lane, from 1.
    pub sequence: u64,
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}/{}/{}", self.epoch, self.lane, self.sequence)
    }
}

impl From<SegmentId> for link::SegmentId {
    fn from(id: SegmentId) -> Self {
        Self { epoch: id.epoch, lane: u32::from(id.lane.0), sequence: id.sequence }
    }
}

impl TryFrom<link::SegmentId> for SegmentId {
    type Error = HeaderError;

    fn try_from(id: link::SegmentId) -> Result<Self, HeaderError> {
        let lane = u8::try_from(id.lane).map_err(|_| HeaderError::Field("lane"))?;
        if id.sequence == 0 || id.sequence == u64::MAX {
            return Err(HeaderError::Field("sequence"));
        }
        Ok(Self { epoch: id.epoch, lane: Lane(lane), sequence: id.sequence })
    }
}

/// What is known of a segment without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Its name.
    pub id: SegmentId,
    /// A [`Codec`](super::Codec) number, perhaps one that this software does not know.
    pub codec: u32,
    /// Bytes of the payload.
    pub payload_len: u64,
    /// OTLP protobuf bytes before encoding.
    pub raw_len: u64,
    /// BLAKE3 of the payload.
    pub hash: Hash,
    /// Items, by signal.
    pub items: Counts,
    /// The timestamps of its items.
    pub time: TimeRange,
    /// OTLP export requests in it.
    pub requests: u64,
    /// When it was sealed, ns since the Unix epoch by the satellite's clock.
    pub sealed_unix_nano: u64,
    /// A segment of the same epoch and lane that must be there to decode this one.
    pub base_sequence: Option<u64>,
    /// Others may lean on this one.
    pub is_base: bool,
    /// Whether its items waited for a contact; an agent says so when it sends it.
    pub delivery: Option<Delivery>,
    /// The commit groups of the log that it was made of, if they are known.
    pub made_of: Option<link::Groups>,
}

/// Whether the items of a segment waited on board for a contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Some of them did.
    Stored,
    /// None did: all were accepted in the contact in which the segment was sent.
    Live,
}

impl Delivery {
    /// As the attribute [`Delivery::ATTRIBUTE`] says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Live => "live",
        }
    }

    /// The resource attribute that says it.
    pub const ATTRIBUTE: &'static str = "perigee.delivery";

    fn to_wire(of: Option<Self>) -> link::Delivery {
        match of {
            None => link::Delivery::Unspecified,
            Some(Self::Stored) => link::Delivery::Stored,
            Some(Self::Live) => link::Delivery::Live,
        }
    }

    /// `None`: it is not said, or with a word of later software.
    fn from_wire(number: i32) -> Option<Self> {
        match link::Delivery::try_from(number) {
            Ok(link::Delivery::Stored) => Some(Self::Stored),
            Ok(link::Delivery::Live) => Some(Self::Live),
            Ok(link::Delivery::Unspecified) | Err(_) => None,
        }
    }
}

/// Why a header was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HeaderError {
    /// Written by later software.
    #[error("segment format {0} is newer than this software reads ({FORMAT}); update it")]
    Format(u32),
    /// A field is missing or out of its bounds.
    #[error("segment header: {0} is missing or out of bounds")]
    Field(&'static str),
    /// Not a header at all.
    #[error("segment header cannot be read")]
    Unreadable,
}

impl TryFrom<link::SegmentHeader> for Header {
    type Error = HeaderError;

    fn try_from(h: link::SegmentHeader) -> Result<Self, HeaderError> {
        if h.format == 0 || h.format > FORMAT {
            return Err(HeaderError::Format(h.format));
        }
        if h.payload_len == 0 || h.payload_len > MAX_PAYLOAD {
            return Err(HeaderError::Field("payload_len"));
        }
        if h.raw_len > MAX_RAW {
            return Err(HeaderError::Field("raw_len"));
        }
        Ok(Self {
            id: h.id.ok_or(HeaderError::Field("id"))?.try_into()?,
            codec: h.codec,
            payload_len: h.payload_len,
            raw_len: h.raw_len,
            hash: h.payload_hash.as_slice().try_into().map_err(|_| HeaderError::Field("payload_hash"))?,
            items: h.items.unwrap_or_default().into(),
            time: h.time.unwrap_or_default().into(),
            requests: h.requests,
            sealed_unix_nano: h.sealed_unix_nano,
            base_sequence: h.base_sequence,
            is_base: h.base,
            delivery: Delivery::from_wire(h.delivery),
            made_of: h.made_of,
        })
    }
}

impl From<&Header> for link::SegmentHeader {
    fn from(h: &Header) -> Self {
        Self {
            format: FORMAT,
            codec: h.codec,
            id: Some(h.id.into()),
            payload_len: h.payload_len,
            raw_len: h.raw_len,
            payload_hash: h.hash.to_vec(),
            items: Some(h.items.into()),
            time: Some(h.time.into()),
            requests: h.requests,
            sealed_unix_nano: h.sealed_unix_nano,
            base_sequence: h.base_sequence,
            base: h.is_base,
            delivery: Delivery::to_wire(h.delivery).into(),
            made_of: h.made_of,
        }
    }
}

impl Header {
    /// The persisted form: the protobuf message `SegmentHeader`.
    pub fn to_bytes(&self) -> Vec<u8> {
        prost::Message::encode_to_vec(&link::SegmentHeader::from(self))
    }

    /// The inverse of [`Header::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, HeaderError> {
        let message: link::SegmentHeader =
            prost::Message::decode(bytes).map_err(|_| HeaderError::Unreadable)?;
        message.try_into()
    }

    /// One of nothing in particular.
    #[cfg(test)]
    pub(crate) fn of_test(codec: super::Codec, payload_len: u64, raw_len: u64, items: Counts) -> Self {
        Self {
            id: SegmentId { epoch: 7, lane: Lane::BULK, sequence: 3 },
            codec: codec as u32,
            payload_len,
            raw_len,
            hash: hash(b"payload"),
            items,
            time: TimeRange { start: 1, end: 2 },
            requests: 1,
            sealed_unix_nano: 5,
            base_sequence: None,
            is_base: false,
            delivery: None,
            made_of: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::Codec;
    use crate::signal::Signal;

    fn header() -> Header {
        Header::of_test(Codec::ZstdRows, 10, 100, Counts::of(Signal::Logs, 4))
    }

    #[test]
    fn a_header_survives_its_persisted_form() {
        assert_eq!(Header::from_bytes(&header().to_bytes()), Ok(header()));
    }

    #[test]
    fn a_header_says_how_its_items_came_or_nothing_of_it() {
        for (delivery, number) in [(None, 0), (Some(Delivery::Stored), 1), (Some(Delivery::Live), 2)] {
            let wire = link::SegmentHeader::from(&Header { delivery, ..header() });
            assert_eq!((wire.delivery, Header::try_from(wire).unwrap().delivery), (number, delivery));
        }
        let later = link::SegmentHeader { delivery: 3, ..(&header()).into() };
        assert_eq!(Header::try_from(later), Ok(header()), "a word of later software is none");
    }

    #[test]
    fn a_header_out_of_bounds_is_refused() {
        let wire = || link::SegmentHeader::from(&header());
        let refused = |h: link::SegmentHeader| Header::try_from(h).unwrap_err();
        assert_eq!(refused(link::SegmentHeader { format: 2, ..wire() }), HeaderError::Format(2));
        for (field, wrong) in [
            ("payload_len", link::SegmentHeader { payload_len: MAX_PAYLOAD + 1, ..wire() }),
            ("payload_len", link::SegmentHeader { payload_len: 0, ..wire() }),
            ("raw_len", link::SegmentHeader { raw_len: MAX_RAW + 1, ..wire() }),
            ("payload_hash", link::SegmentHeader { payload_hash: vec![0; 31], ..wire() }),
            ("id", link::SegmentHeader { id: None, ..wire() }),
        ] {
            assert_eq!(refused(wrong), HeaderError::Field(field));
        }
        assert_eq!(Header::from_bytes(&[0xff; 9]), Err(HeaderError::Unreadable));
    }
}
