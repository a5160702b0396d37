//! Segments: sealed, compressed runs of items; the unit that is shipped, resumed and acknowledged.
//!
//! A segment is a [`Header`] and a payload. The header says how the payload is encoded (its codec number), how long it is and
//! which BLAKE3 hash it has. Every codec turns OTLP export requests, each with its signal, into a payload and back: [`Encoder`]
//! and [`Decoder`] choose it by the number.

mod columns;
mod header;
mod rows;

pub use columns::{Base, Cost, Payload, inspect};
pub use header::{Delivery, FORMAT, Hash, Header, HeaderError, Lane, MAX_PAYLOAD, MAX_RAW, SegmentId, hash};

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;

use crate::signal::Signal;
use crate::supervise::expecting;

/// How a payload is encoded. The numbers are persisted and travel on the link; they are never renumbered.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Codec {
    /// zstd level 3 over framed requests, see [`rows`](self). Always allowed. The requests come back as they were.
    ZstdRows = 1,
    /// Items taken apart, see [`columns`](self). The same items come back, those of one resource and scope together. A segment
    /// may lean on another one.
    Columns = 2,
    /// Codec 2 with text taken apart too, token by token, for grounds that do not read a later one.
    ColumnsTokens = 3,
    /// The same by chains, each place known by all of the line before it, for grounds that do not read a later one.
    ColumnsChains = 4,
    /// Codec 4 with each place known by what is near it, for grounds that do not read a later one.
    ColumnsNear = 5,
    /// Codec 5 with guesses from earlier lines, for grounds that do not read a later one.
    ColumnsRecent = 6,
    /// Codec 6 with other guesses and more of them, for grounds that do not read a later one.
    ColumnsSteps = 7,
    /// Codec 2 with text taken apart too, and expected from earlier lines, see `columns/text`.
    #[default]
    ColumnsText = 8,
}

impl Codec {
    /// Every codec that this software can read and write.
    pub const ALL: [Self; 8] = [
        Self::ZstdRows,
        Self::Columns,
        Self::ColumnsTokens,
        Self::ColumnsChains,
        Self::ColumnsNear,
        Self::ColumnsRecent,
        Self::ColumnsSteps,
        Self::ColumnsText,
    ];

    /// The codec with this number, if this software knows it.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|c| *c as u32 == number)
    }

    /// Whether segments of this codec may depend on others, and teach others something.
    pub const fn has_bases(self) -> bool {
        self.layout().is_some()
    }

    /// The first byte of a payload, of codecs that take items apart.
    const fn layout(self) -> Option<u8> {
        match self {
            Self::ZstdRows => None,
            Self::Columns => Some(columns::LAYOUT),
            Self::ColumnsTokens => Some(columns::LAYOUT_TOKENS),
            Self::ColumnsChains => Some(columns::LAYOUT_CHAINS),
            Self::ColumnsNear => Some(columns::LAYOUT_NEAR),
            Self::ColumnsRecent => Some(columns::LAYOUT_RECENT),
            Self::ColumnsSteps => Some(columns::LAYOUT_STEPS),
            Self::ColumnsText => Some(columns::LAYOUT_TEXT),
        }
    }

    /// Its name in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ZstdRows => "zstd_rows",
            Self::Columns => "columns",
            Self::ColumnsTokens => "columns_tokens",
            Self::ColumnsChains => "columns_chains",
            Self::ColumnsNear => "columns_near",
            Self::ColumnsRecent => "columns_recent",
            Self::ColumnsSteps => "columns_steps",
            Self::ColumnsText => "columns_text",
        }
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
    /// It leans on a segment that is not there.
    #[error("depends on segment {0} of its lane, which is not here")]
    MissingBase(u64),
    /// Decoding it takes more memory than there is for that.
    #[error("it takes more memory to decode than memory.limit leaves for it")]
    TakesMemory,
    /// A declared or actual size is above its bound.
    #[error("{0} is above its bound")]
    TooLarge(&'static str),
}

/// Turns requests into a payload.
pub enum Encoder {
    /// Codec 1.
    ZstdRows(rows::Encoder),
    /// Any later one.
    Columns(Box<columns::Encoder>),
}

/// What an encoder came to.
pub struct Encoded {
    /// The payload.
    pub payload: Vec<u8>,
    /// What other segments may lean on, if the codec knows such a thing.
    pub base: Option<Base>,
}

impl Encoder {
    /// An encoder of `codec` for a segment that leans on `base`, or on nothing. Codec 1 cannot lean.
    pub fn new(codec: Codec, base: Option<&Base>) -> Result<Self, CodecError> {
        match codec.layout() {
            None => rows::Encoder::new().map(Self::ZstdRows),
            Some(layout) => Ok(Self::Columns(Box::new(columns::Encoder::of(layout, base)))),
        }
    }

    /// The same with about so many bytes of memory at most, besides the base: a request that needs more is
    /// [`CodecError::TooLarge`], and the encoder is of no use then. Codec 1 always takes little.
    #[must_use]
    pub fn bounded(mut self, bytes: usize) -> Self {
        if let Self::Columns(e) = &mut self {
            e.bound(bytes);
        }
        self
    }

    /// Adds a request, which [`walk`](crate::otlp::walk::walk) has found to be well formed.
    pub fn push(&mut self, signal: Signal, body: &[u8]) -> Result<(), CodecError> {
        match self {
            Self::ZstdRows(e) => e.push(signal, body),
            Self::Columns(e) => e.push(signal, body),
        }
    }

    /// The payload.
    pub fn finish(self) -> Result<Encoded, CodecError> {
        match self {
            Self::ZstdRows(e) => Ok(Encoded { payload: e.finish()?, base: None }),
            Self::Columns(e) => {
                let (payload, base) = e.finish()?;
                Ok(Encoded { payload, base: Some(base) })
            }
        }
    }
}

/// What segments may lean on that lean on the one that `header` describes, if its codec knows such a thing; that one leans on
/// `below`, if it leans on one. Cheaper than a [`Decoder`], since no requests are built.
pub fn learn(header: &Header, payload: &[u8], below: Option<Base>) -> Result<Option<Base>, CodecError> {
    learn_from(header, payload, below, usize::MAX)
}

/// The same of a payload that is read while it is decoded, with about so many bytes of `memory` at most.
pub fn learn_from(
    header: &Header,
    payload: &(impl Payload + ?Sized),
    below: Option<Base>,
    memory: usize,
) -> Result<Option<Base>, CodecError> {
    let base = match header.base_sequence {
        Some(sequence) => Some(below.ok_or(CodecError::MissingBase(sequence))?),
        None => None,
    };
    let codec = Codec::from_number(header.codec).ok_or(CodecError::UnknownCodec(header.codec))?;
    match codec.layout() {
        None => Ok(None),
        Some(layout) => guarded(|| columns::learn(layout, base, payload, header.raw_len, memory)).map(Some),
    }
}

/// Turns a payload back into requests, one after the other.
pub struct Decoder<'a>(Reading<'a>);

enum Reading<'a> {
    ZstdRows(rows::Decoder<'a>),
    Columns(Box<columns::Unpacked>, columns::Cursor),
}

impl<'a> Decoder<'a> {
    /// A decoder of `payload` as `header` describes it. `base` is of the segment that it leans on, if it leans on one.
    pub fn new(header: &Header, payload: &'a [u8], base: Option<&Base>) -> Result<Self, CodecError> {
        let reading = match unpack(header, payload, base, true, usize::MAX)? {
            Some(unpacked) => Reading::Columns(Box::new(unpacked), columns::Cursor::default()),
            None => Reading::ZstdRows(rows::Decoder::new(payload, header.raw_len)?),
        };
        Ok(Self(reading))
    }

    /// What other segments may lean on, if the codec knows such a thing.
    pub fn into_base(self) -> Option<Base> {
        match self.0 {
            Reading::ZstdRows(_) => None,
            Reading::Columns(unpacked, _) => Some(Base::clone(unpacked.base())),
        }
    }
}

impl Iterator for Decoder<'_> {
    type Item = Result<Request, CodecError>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Reading::ZstdRows(rows) => rows.next(),
            Reading::Columns(unpacked, at) => next(unpacked, at, usize::MAX),
        }
    }
}

/// A payload that was decoded as far as its codec does that at once: less than its requests take, which can be had again and again.
pub struct Unpacked(Stored);

enum Stored {
    ZstdRows(Vec<u8>, u64),
    Columns(Box<columns::Unpacked>),
}

/// Requests of a segment.
pub type Requests<'a> = Box<dyn Iterator<Item = Result<Request, CodecError>> + Send + 'a>;

impl Unpacked {
    /// Decodes `payload` as `header` describes it. `base` is of the segment that it leans on, if it leans on one. What it takes apart
    /// takes about `memory` bytes at most, a copy of the base included.
    pub fn new(
        header: &Header,
        payload: &(impl Payload + ?Sized),
        base: Option<&Base>,
        memory: usize,
    ) -> Result<Self, CodecError> {
        match unpack(header, payload, base, header.is_base, memory)? {
            Some(unpacked) => Ok(Self(Stored::Columns(Box::new(unpacked)))),
            None if header.payload_len + header.raw_len > memory as u64 => Err(CodecError::TakesMemory),
            None => {
                let mut bytes = Vec::with_capacity(header.payload_len as usize);
                payload.open().take(MAX_PAYLOAD).read_to_end(&mut bytes)?;
                Ok(Self(Stored::ZstdRows(bytes, header.raw_len)))
            }
        }
    }

    /// Its requests in order. Codecs that take items apart put one request of a signal together, or several of at least `piece`
    /// bytes: what they are depends on nothing else.
    pub fn requests(&self, piece: usize) -> Result<Requests<'_>, CodecError> {
        match &self.0 {
            Stored::ZstdRows(payload, raw_len) => {
                Ok(Box::new(Decoder(Reading::ZstdRows(rows::Decoder::new(payload, *raw_len)?))))
            }
            Stored::Columns(unpacked) => {
                let mut at = columns::Cursor::default();
                Ok(Box::new(std::iter::from_fn(move || next(unpacked, &mut at, piece))))
            }
        }
    }

    /// What other segments may lean on, if the header says that they may and the codec knows such a thing.
    pub fn base(&self) -> Option<&Arc<Base>> {
        match &self.0 {
            Stored::ZstdRows(..) => None,
            Stored::Columns(unpacked) => Some(unpacked.base()),
        }
    }

    /// Bytes that it takes in memory, roughly, with the largest request that it may have.
    pub fn size(&self) -> usize {
        match &self.0 {
            Stored::ZstdRows(payload, raw_len) => payload.len() + *raw_len as usize,
            Stored::Columns(unpacked) => unpacked.size(),
        }
    }
}

/// A payload, decoded; `None` when its codec hands requests out one by one.
fn unpack(
    header: &Header,
    payload: &(impl Payload + ?Sized),
    base: Option<&Base>,
    teaches: bool,
    memory: usize,
) -> Result<Option<columns::Unpacked>, CodecError> {
    let base = match header.base_sequence {
        Some(sequence) => Some(base.ok_or(CodecError::MissingBase(sequence))?),
        None => None,
    };
    let codec = Codec::from_number(header.codec).ok_or(CodecError::UnknownCodec(header.codec))?;
    let Some(layout) = codec.layout() else { return Ok(None) };
    guarded(|| columns::Unpacked::new(layout, base, payload, header.raw_len, teaches, memory)).map(Some)
}

fn next(
    unpacked: &columns::Unpacked,
    at: &mut columns::Cursor,
    piece: usize,
) -> Option<Result<Request, CodecError>> {
    guarded(|| unpacked.next(at, piece).transpose()).transpose()
}

/// Whatever a payload holds, it is this segment alone that does not decode.
fn guarded<R>(decode: impl FnOnce() -> Result<R, CodecError>) -> Result<R, CodecError> {
    expecting(decode).unwrap_or(Err(CodecError::Damaged("the decoder has panicked on it")))
}
