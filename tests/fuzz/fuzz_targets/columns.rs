//! The decoder of codec 2 on any bytes: it never panics, and never yields more than the header declares.
//!
//! An input is the declared raw length (u32, little-endian) and a payload. What it yields is encoded again and must come back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use perigee_shared::segment::{Codec, Decoder, Encoder, Header, Lane, SegmentId, hash};
use perigee_shared::signal::{Counts, TimeRange};

/// More would be tested for memory alone.
const MOST: u32 = 1 << 20;

fn header(payload: &[u8], raw_len: u64) -> Header {
    Header {
        id: SegmentId { epoch: 1, lane: Lane::BULK, sequence: 1 },
        codec: Codec::Columns as u32,
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
    let Ok(decoder) = Decoder::new(&header(payload, raw_len), payload, None) else { return };
    let Ok(requests) = decoder.collect::<Result<Vec<_>, _>>() else { return };
    let total: u64 = requests.iter().map(|r| r.body.len() as u64).sum();
    assert!(total <= raw_len);
    let mut encoder = Encoder::new(Codec::Columns, None).expect("an encoder");
    for request in &requests {
        encoder.push(request.signal, &request.body).expect("a request");
    }
    let again = encoder.finish().expect("a payload").payload;
    let back = Decoder::new(&header(&again, total), &again, None).expect("our own payload");
    let back: u64 = back.map(|r| r.expect("our own request").body.len() as u64).sum();
    assert!(back <= total);
});
