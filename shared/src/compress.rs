//! The one place that decompresses: every decompressor here stops at a stated number of bytes.
//!
//! A body of a few kilobytes can unpack to gigabytes; so what comes out is bounded while it comes out, and the window that a
//! zstd frame may ask for is bounded too. The raw decompressors are disallowed everywhere else (`clippy.toml`).
#![expect(
    clippy::disallowed_methods,
    reason = "this is the capped decompressor that everything else must use"
)]

use std::io::{self, Read};

/// The largest window that a zstd frame may ask for, as a power of two: 8 MiB, which RFC 8878 asks every decoder to support.
pub(crate) const WINDOW_LOG_MAX: u32 = 23;

/// The encodings of a request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not compressed.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// `deflate` in HTTP, which is RFC 1950; some clients send RFC 1951 without the header, which is taken too.
    Deflate,
    /// Snappy, one block or its framing format: senders call both by this name.
    Snappy,
    /// The frame format of LZ4.
    Lz4,
}

impl Encoding {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Identity, Self::Gzip, Self::Zstd, Self::Deflate, Self::Snappy, Self::Lz4];

    /// The encoding with this name, in letters of either case, in `Content-Encoding` or `grpc-encoding`.
    pub fn from_name(name: &str) -> Option<Self> {
        const NAMES: [(&str, Encoding); 10] = [
            ("", Encoding::Identity),
            ("identity", Encoding::Identity),
            ("gzip", Encoding::Gzip),
            ("x-gzip", Encoding::Gzip),
            ("zstd", Encoding::Zstd),
            ("deflate", Encoding::Deflate),
            ("zlib", Encoding::Deflate),
            ("snappy", Encoding::Snappy),
            ("x-snappy-framed", Encoding::Snappy),
            ("lz4", Encoding::Lz4),
        ];
        let name = name.trim();
        NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, encoding)| *encoding)
    }
}

/// Why nothing came out.
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    /// More than the allowed number of bytes.
    #[error("decompressed body is larger than {limit} bytes")]
    TooLarge {
        /// The allowed number of bytes.
        limit: usize,
    },
    /// Not what the encoding says.
    #[error("body cannot be decompressed: {0}")]
    Corrupt(#[source] io::Error),
}

/// How snappy's framing format begins.
const SNAPPY_STREAM: &[u8] = b"\xff\x06\x00\x00sNaPpY";

/// A reader of what `source` unpacks to. It does not bound the bytes that come out: [`decompress`] does.
fn reader<'a>(encoding: Encoding, source: &'a [u8]) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match encoding {
        Encoding::Identity => Box::new(source),
        Encoding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(source)),
        Encoding::Deflate => {
            // RFC 1950: the low four bits are 8 and the two bytes are a multiple of 31.
            let zlib = source.len() >= 2
                && source[0] & 0x0f == 8
                && u16::from_be_bytes([source[0], source[1]]).is_multiple_of(31);
            if zlib {
                Box::new(flate2::read::ZlibDecoder::new(source))
            } else {
                Box::new(flate2::read::DeflateDecoder::new(source))
            }
        }
        Encoding::Zstd => Box::new(zstd_reader(source)?),
        Encoding::Snappy => Box::new(snap::read::FrameDecoder::new(source)),
        Encoding::Lz4 if !lz4_is_whole(source) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Encoding::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(source)),
    })
}

/// A reader of what a zstd stream unpacks to, with the window bounded.
pub fn zstd_reader<R: io::BufRead>(source: R) -> io::Result<zstd::stream::read::Decoder<'static, R>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(decoder)
}

/// Unpacks `source` into at most `limit` bytes. `grow` is asked before each growth of the buffer, with the number of bytes
/// it will hold, so that memory can be accounted for; its refusal ends the work.
pub fn decompress<E: From<DecompressError>>(
    encoding: Encoding,
    source: &[u8],
    limit: usize,
    mut grow: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vec<u8>, E> {
    let corrupt = |e| E::from(DecompressError::Corrupt(e));
    if encoding == Encoding::Snappy && !source.starts_with(SNAPPY_STREAM) {
        return snappy_block(source, limit, grow);
    }
    let told = if encoding == Encoding::Zstd { zstd_length(source) } else { None };
    let mut reader = reader(encoding, source).map_err(corrupt)?;
    let mut out = Vec::new();
    let mut filled = 0;
    loop {
        if filled == out.len() {
            // One byte above the limit shows that there is more.
            let likely = source.len().saturating_mul(4);
            let likely = told.map_or(likely, |told| likely.min(told.saturating_add(1)));
            let next = (out.len() * 2).max(likely).max(4096).min(limit + 1);
            if next <= out.len() {
                return Err(E::from(DecompressError::TooLarge { limit }));
            }
            grow(next)?;
            out.resize(next, 0);
        }
        match reader.read(&mut out[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(corrupt(e)),
        }
    }
    if filled > limit {
        return Err(E::from(DecompressError::TooLarge { limit }));
    }
    out.truncate(filled);
    Ok(out)
}

/// What a zstd frame says that it unpacks to.
fn zstd_length(source: &[u8]) -> Option<usize> {
    zstd::zstd_safe::get_frame_content_size(source).ok().flatten().and_then(|length| length.try_into().ok())
}

/// Whether the last frame has its end mark: the decoder takes a frame that was cut between two blocks for a whole one. The layout
/// is that of the LZ4 frame format 1.6: magic, flags, sizes, blocks with their lengths, a length of 0.
fn lz4_is_whole(source: &[u8]) -> bool {
    let word = |at: usize| Some(u32::from_le_bytes(*source.get(at..)?.first_chunk()?));
    let mut at = 0;
    while at < source.len() {
        let Some(magic) = word(at) else { return false };
        let skippable = magic & 0xffff_fff0 == 0x184d_2a50;
        if skippable {
            let Some(length) = word(at + 4) else { return false };
            at += 8 + length as usize;
            continue;
        }
        let Some(&flags) = source.get(at + 4) else { return false };
        let has = |bit: u8, bytes: usize| if flags & bit == 0 { 0 } else { bytes };
        at += 7 + has(0x08, 8) + has(0x01, 4);
        loop {
            match word(at) {
                None => return false,
                Some(0) => break,
                Some(length) => at += 4 + (length & 0x7fff_ffff) as usize + has(0x10, 4),
            }
        }
        at += 4 + has(0x04, 4);
    }
    at == source.len()
}

/// A block says at its head what it unpacks to.
fn snappy_block<E: From<DecompressError>>(
    source: &[u8],
    limit: usize,
    mut grow: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vec<u8>, E> {
    let corrupt = |e: snap::Error| E::from(DecompressError::Corrupt(e.into()));
    let length = snap::raw::decompress_len(source).map_err(corrupt)?;
    if length > limit {
        return Err(E::from(DecompressError::TooLarge { limit }));
    }
    grow(length)?;
    let mut out = vec![0; length];
    let written = snap::raw::Decoder::new().decompress(source, &mut out).map_err(corrupt)?;
    out.truncate(written);
    Ok(out)
}

/// [`decompress`] without accounting for memory.
pub fn decompress_capped(
    encoding: Encoding,
    source: &[u8],
    limit: usize,
) -> Result<Vec<u8>, DecompressError> {
    decompress(encoding, source, limit, |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn packed(encoding: Encoding, data: &[u8]) -> Vec<u8> {
        match encoding {
            Encoding::Identity => data.to_vec(),
            Encoding::Zstd => zstd::encode_all(data, 3).unwrap(),
            Encoding::Gzip => {
                let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                e.write_all(data).unwrap();
                e.finish().unwrap()
            }
            Encoding::Deflate => {
                let mut e = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
                e.write_all(data).unwrap();
                e.finish().unwrap()
            }
            Encoding::Snappy => snap::raw::Encoder::new().compress_vec(data).unwrap(),
            Encoding::Lz4 => {
                let mut e = lz4_flex::frame::FrameEncoder::new(Vec::new());
                e.write_all(data).unwrap();
                e.finish().unwrap()
            }
        }
    }

    #[test]
    fn what_says_its_length_takes_no_more_room() {
        let data: Vec<u8> =
            (0..100_000u32).flat_map(|n| blake3::hash(&n.to_le_bytes()).as_bytes()[..1].to_vec()).collect();
        let frame = zstd::bulk::compress(&data, 1).unwrap();
        assert_eq!(zstd_length(&frame), Some(data.len()));
        let mut room = Vec::new();
        let grow = |bytes| {
            room.push(bytes);
            Ok::<_, DecompressError>(())
        };
        assert_eq!(decompress(Encoding::Zstd, &frame, 1 << 20, grow).unwrap(), data);
        assert_eq!(room, [data.len() + 1]);
        // One that says too little, as another frame behind it does, is still unpacked as a whole.
        let two = [frame.clone(), frame].concat();
        assert_eq!(decompress_capped(Encoding::Zstd, &two, 1 << 20).unwrap().len(), 2 * data.len());
    }

    #[test]
    fn snappy_is_taken_as_a_block_and_as_a_stream() {
        let data = vec![7; 200_000];
        let mut stream = snap::write::FrameEncoder::new(Vec::new());
        stream.write_all(&data).unwrap();
        let stream = stream.into_inner().unwrap();
        assert_eq!(decompress_capped(Encoding::Snappy, &stream, data.len()).unwrap(), data);
        assert!(decompress_capped(Encoding::Snappy, &stream, data.len() - 1).is_err());
        assert!(decompress_capped(Encoding::Snappy, &stream[..stream.len() - 1], data.len()).is_err());
        for name in ["snappy", "Snappy", "x-snappy-framed"] {
            assert_eq!(Encoding::from_name(name), Some(Encoding::Snappy));
        }
    }

    #[test]
    fn what_fits_comes_back() {
        let data: Vec<u8> = (0..100_000u32).flat_map(|n| (n % 251).to_le_bytes()).collect();
        for encoding in Encoding::ALL {
            let out = decompress_capped(encoding, &packed(encoding, &data), data.len()).unwrap();
            assert!(out == data, "{encoding:?}");
            assert!(decompress_capped(encoding, &packed(encoding, &[]), 0).unwrap().is_empty());
        }
    }

    #[test]
    fn deflate_without_its_header_is_taken() {
        let mut e = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        e.write_all(b"raw deflate").unwrap();
        let out = decompress_capped(Encoding::Deflate, &e.finish().unwrap(), 100).unwrap();
        assert_eq!(out, b"raw deflate");
    }

    #[test]
    fn a_bomb_stops_at_the_limit_and_never_grows_beyond_it() {
        for encoding in Encoding::ALL {
            let bomb = packed(encoding, &vec![0; 8 << 20]);
            let mut most = 0;
            let result = decompress::<DecompressError>(encoding, &bomb, 1 << 20, |n| {
                most = most.max(n);
                Ok(())
            });
            assert!(matches!(result, Err(DecompressError::TooLarge { .. })), "{encoding:?}");
            assert!(most <= (1 << 20) + 1);
        }
    }

    #[test]
    fn a_cut_or_foreign_body_is_an_error() {
        for encoding in [Encoding::Gzip, Encoding::Zstd, Encoding::Deflate, Encoding::Snappy, Encoding::Lz4] {
            let whole = packed(encoding, &[7; 10_000]);
            for cut in [1, whole.len() / 2, whole.len() - 1] {
                assert!(decompress_capped(encoding, &whole[..cut], 1 << 20).is_err(), "{encoding:?} {cut}");
            }
            assert!(decompress_capped(encoding, b"\xff\xfeneither", 1 << 20).is_err());
        }
    }

    #[test]
    fn a_window_above_8_mib_is_refused() {
        let mut e = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        e.window_log(27).unwrap();
        e.write_all(&vec![1; 1 << 20]).unwrap();
        let frame = e.finish().unwrap();
        assert!(decompress_capped(Encoding::Zstd, &frame, 4 << 20).is_err());
    }
}
