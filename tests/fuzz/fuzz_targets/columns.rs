//! The decoder of codecs 2 and 3 on any bytes: it never panics, and never yields more than the header declares.
//!
//! An input is the declared raw length (u32, little-endian) and a payload. What it yields is encoded again and must come back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use perigee_shared::segment::{Codec, Decoder, Encoder, Header, Lane, Request, SegmentId, hash};
use perigee_shared::signal::{Counts, TimeRange};

/// More would be tested for memory alone.
const MOST: u32 = 1 << 20;

fn header(codec: Codec, payload: &[u8], raw_len: u64) -> Header {
    Header {
        id: SegmentId { epoch: 1, lane: Lane::BULK, sequence: 1 },
        codec: codec as u32,
        payload_len: payload.len() as u64,
        raw_len,
        hash: hash(payload),
        items: Counts::ZERO,
        time: TimeRange::EMPTY,
        requests: 0,
        sealed_unix_nano: 0,
        base_sequence: None,
        is_base: false,
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((length, payload)) = input.split_first_chunk() else { return };
    let raw_len = u64::from(u32::from_le_bytes(*length) % MOST);
    // A payload's first byte is its layout.
    let codec = if payload.first() == Some(&2) { Codec::ColumnsText } else { Codec::Columns };
    let Ok(decoder) = Decoder::new(&header(codec, payload, raw_len), payload, None) else { return };
    let Ok(requests) = decoder.collect::<Result<Vec<_>, _>>() else { return };
    let total: u64 = requests.iter().map(|r| r.body.len() as u64).sum();
    assert!(total <= raw_len);
    for codec in [Codec::Columns, Codec::ColumnsText] {
        again(codec, &requests, total);
    }
});

/// What was decoded is encoded and decoded once more.
fn again(codec: Codec, requests: &[Request], total: u64) {
    let mut encoder = Encoder::new(codec, None).expect("an encoder");
    for request in requests {
        encoder.push(request.signal, &request.body).expect("a request");
    }
    let again = encoder.finish().expect("a payload").payload;
    let back = Decoder::new(&header(codec, &again, total), &again, None).expect("our own payload");
    let back: u64 = back.map(|r| r.expect("our own request").body.len() as u64).sum();
    assert!(back <= total);
}
