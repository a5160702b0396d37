//! Segments: sealed, compressed runs of items; the unit that is shipped, resumed and acknowledged.
//!
//! A segment is a [`Header`] and a payload. The header says how the payload is encoded (its codec number), how long it is and
//! which BLAKE3 hash it has. Every codec turns a sequence of OTLP export requests, each with its signal, into a payload and
//! back: [`Encoder`] and [`Decoder`] choose it by the number.

pub mod columns;
mod header;
mod rows;

pub use header::{FORMAT, Hash, Header, HeaderError, Lane, MAX_PAYLOAD, MAX_RAW, SegmentId, hash};

use bytes::Bytes;

use crate::signal::Signal;

/// How a payload is encoded. The numbers are persisted and travel on the link; they are never renumbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Codec {
    /// zstd level 3 over framed requests, see [`rows`](self). Always allowed.
    ZstdRows = 1,
}

impl Codec {
    /// Every codec that this software can read and write.
    pub const ALL: [Self; 1] = [Self::ZstdRows];

    /// The codec with this number, if this software knows it.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|c| *c as u32 == number)
    }
}

/// An OTLP export request as it is kept in a segment: raw protobuf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What kind of export request `body` is.
    pub signal: Signal,
    /// The protobuf message.
    pub body: Bytes,
}

/// Why a payload could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The payload is not what its codec writes.
    #[error("payload is damaged: {0}")]
    Damaged(&'static str),
    /// zstd failed.
    #[error("zstd: {0}")]
    Zstd(#[from] std::io::Error),
    /// The header names a codec that this software does not know.
    #[error("codec {0} is not known to this software")]
    UnknownCodec(u32),
    /// A declared or actual size is above its bound.
    #[error("{0} is above its bound")]
    TooLarge(&'static str),
}

/// Turns requests into a payload.
pub enum Encoder {
    /// Codec 1.
    ZstdRows(rows::Encoder),
}

impl Encoder {
    /// An encoder of `codec`.
    pub fn new(codec: Codec) -> Result<Self, CodecError> {
        match codec {
            Codec::ZstdRows => rows::Encoder::new().map(Self::ZstdRows),
        }
    }

    /// Adds a request.
    pub fn push(&mut self, signal: Signal, body: &[u8]) -> Result<(), CodecError> {
        match self {
            Self::ZstdRows(e) => e.push(signal, body),
        }
    }

    /// The payload.
    pub fn finish(self) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::ZstdRows(e) => e.finish(),
        }
    }
}

/// Turns a payload back into requests, one after the other.
pub enum Decoder<'a> {
    /// Codec 1.
    ZstdRows(rows::Decoder<'a>),
}

impl<'a> Decoder<'a> {
    /// A decoder of `payload` as `header` describes it.
    pub fn new(header: &Header, payload: &'a [u8]) -> Result<Self, CodecError> {
        match Codec::from_number(header.codec).ok_or(CodecError::UnknownCodec(header.codec))? {
            Codec::ZstdRows => rows::Decoder::new(payload, header.raw_len).map(Self::ZstdRows),
        }
    }
}

impl Iterator for Decoder<'_> {
    type Item = Result<Request, CodecError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::ZstdRows(d) => d.next(),
        }
    }
}
