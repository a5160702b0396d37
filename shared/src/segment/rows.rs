//! Codec 1: zstd level 3 over framed requests.
//!
//! ```text
//! payload = one zstd frame over record*
//! record  = signal u8 | length u32 LE | length bytes of OTLP protobuf
//! ```
//!
//! `signal` is [`Signal`]'s number. The record lengths, without the five bytes before each, add up to the header's `raw_len`.

use std::io::{self, Read, Write};

use bytes::Bytes;

use super::{CodecError, Request};
use crate::compress;
use crate::signal::Signal;

const LEVEL: i32 = 3;

/// Writes a payload of codec 1.
pub struct Encoder(zstd::stream::write::Encoder<'static, Vec<u8>>);

impl Encoder {
    pub(super) fn new() -> Result<Self, CodecError> {
        Ok(Self(zstd::stream::write::Encoder::new(Vec::new(), LEVEL)?))
    }

    pub(super) fn push(&mut self, signal: Signal, body: &[u8]) -> Result<(), CodecError> {
        let length = u32::try_from(body.len()).map_err(|_| CodecError::TooLarge("request"))?;
        self.0.write_all(&[signal as u8])?;
        self.0.write_all(&length.to_le_bytes())?;
        self.0.write_all(body)?;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Vec<u8>, CodecError> {
        Ok(self.0.finish()?)
    }
}

/// Reads a payload of codec 1.
pub(super) struct Decoder<'a> {
    reader: zstd::stream::read::Decoder<'static, &'a [u8]>,
    /// Raw bytes that may still come.
    left: u64,
    done: bool,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(payload: &'a [u8], raw_len: u64) -> Result<Self, CodecError> {
        Ok(Self { reader: compress::zstd_reader(payload)?, left: raw_len, done: false })
    }

    pub(super) fn next(&mut self) -> Option<Result<Request, CodecError>> {
        if self.done {
            return None;
        }
        let next = self.read().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }

    fn read(&mut self) -> Result<Option<Request>, CodecError> {
        let mut signal = [0];
        if self.reader.read(&mut signal)? == 0 {
            return if self.left == 0 { Ok(None) } else { Err(CodecError::Damaged("ends early")) };
        }
        let signal = Signal::from_number(signal[0]).ok_or(CodecError::Damaged("unknown signal"))?;
        let mut length = [0; 4];
        self.fill(&mut length)?;
        let length = u32::from_le_bytes(length);
        self.left = self
            .left
            .checked_sub(u64::from(length))
            .ok_or(CodecError::Damaged("longer than its header says"))?;
        let mut body = vec![0; length as usize];
        self.fill(&mut body)?;
        Ok(Some(Request { signal, body: Bytes::from(body) }))
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), CodecError> {
        self.reader.read_exact(out).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => CodecError::Damaged("ends inside a record"),
            _ => CodecError::Zstd(e),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(requests: &[(Signal, Vec<u8>)]) -> Vec<u8> {
        let mut encoder = Encoder::new().unwrap();
        for (signal, body) in requests {
            encoder.push(*signal, body).unwrap();
        }
        encoder.finish().unwrap()
    }

    fn decode(payload: &[u8], raw_len: u64) -> Result<Vec<Request>, CodecError> {
        let mut decoder = Decoder::new(payload, raw_len)?;
        std::iter::from_fn(|| decoder.next()).collect()
    }

    fn raw_len(requests: &[(Signal, Vec<u8>)]) -> u64 {
        requests.iter().map(|(_, b)| b.len() as u64).sum()
    }

    fn requests() -> impl Strategy<Value = Vec<(Signal, Vec<u8>)>> {
        let signal = prop::sample::select(&Signal::ALL[..]);
        prop::collection::vec((signal, prop::collection::vec(any::<u8>(), 0..200)), 0..20)
    }

    proptest! {
        #[test]
        fn prop_requests_come_back(requests in requests()) {
            let out = decode(&encode(&requests), raw_len(&requests)).unwrap();
            let out: Vec<_> = out.into_iter().map(|r| (r.signal, r.body.to_vec())).collect();
            prop_assert_eq!(out, requests);
        }

        #[test]
        fn prop_a_flipped_bit_never_panics_and_never_yields_more_than_declared(
            requests in requests(), at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let mut payload = encode(&requests);
            let at = at.index(payload.len());
            payload[at] ^= 1 << bit;
            if let Ok(out) = decode(&payload, raw_len(&requests)) {
                prop_assert!(out.iter().map(|r| r.body.len() as u64).sum::<u64>() <= raw_len(&requests));
            }
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let requests = vec![(Signal::Traces, vec![1; 300]), (Signal::Logs, (0..=255).collect())];
        let payload = encode(&requests);
        for cut in 0..payload.len() {
            assert!(decode(&payload[..cut], raw_len(&requests)).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_length_above_the_declared_total_is_refused_before_memory_is_taken() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), LEVEL).unwrap();
        encoder.write_all(&[1, 0xff, 0xff, 0xff, 0xff]).unwrap();
        let payload = encoder.finish().unwrap();
        assert!(matches!(decode(&payload, 1000), Err(CodecError::Damaged(_))));
    }
}
