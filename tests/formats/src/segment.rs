//! Segments as plain values.

use anyhow::Result;
use perigee_proto::link;
use perigee_shared::segment::{Base, Decoder, Header, Request};
use serde::Serialize;

use crate::fixture::hex;
use crate::items::Items;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeaderView {
    /// Epoch in hexadecimal digits, lane, sequence.
    pub id: String,
    /// The codec's number.
    pub codec: u32,
    /// Bytes of the payload.
    pub payload_len: u64,
    /// Bytes before encoding.
    pub raw_len: u64,
    /// BLAKE3 of the payload, in hexadecimal digits.
    pub hash: String,
    /// Items in it.
    pub items: Items,
    /// The earliest and the latest of their times.
    pub time: (u64, u64),
    /// Requests in it.
    pub requests: u64,
    /// When it was sealed.
    pub sealed_unix_nano: u64,
    /// The segment that it depends on.
    pub base_sequence: Option<u64>,
    /// Others may depend on it.
    pub is_base: bool,
}

impl From<&Header> for HeaderView {
    fn from(h: &Header) -> Self {
        let time = link::TimeRange::from(h.time);
        Self {
            id: h.id.to_string(),
            codec: h.codec,
            payload_len: h.payload_len,
            raw_len: h.raw_len,
            hash: hex(&h.hash),
            items: h.items.into(),
            time: (time.start_unix_nano, time.end_unix_nano),
            requests: h.requests,
            sealed_unix_nano: h.sealed_unix_nano,
            base_sequence: h.base_sequence,
            is_base: h.is_base,
        }
    }
}

/// The requests of a payload; `base` belongs to the segment that it depends on.
pub fn requests(header: &Header, payload: &[u8], base: Option<&Base>) -> Result<Vec<Request>> {
    let decoder = Decoder::new(header, payload, base)?;
    Ok(decoder.collect::<Result<_, _>>()?)
}
