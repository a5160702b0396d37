//! Values without fields: what JSON may write for them and how protobuf encodes them.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::schema::Kind;

/// A value as protobuf has it on the wire.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scalar {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 5.
    Fixed32(u32),
    /// Wire type 1.
    Fixed64(u64),
}

impl Scalar {
    pub(super) const fn wire_type(self) -> u8 {
        match self {
            Self::Varint(_) => 0,
            Self::Fixed64(_) => 1,
            Self::Fixed32(_) => 5,
        }
    }

    /// Whether a field without presence leaves it out. A double of -0.0 is not the default.
    pub(super) const fn is_default(self) -> bool {
        matches!(self, Self::Varint(0) | Self::Fixed32(0) | Self::Fixed64(0))
    }
}

impl Kind {
    /// What should have stood there.
    pub(super) const fn expected(self) -> &'static str {
        match self {
            Self::String => "expected a string",
            Self::Hex => "expected an id as a string of hex digits, two for each byte",
            Self::Base64 => "expected base64 in a string",
            Self::Bool => "expected true or false",
            Self::Enum(_) => "expected the integer of an enum value, or its name in the protobuf definition",
            Self::Uint32 | Self::Fixed32 => "expected an integer from 0 to 2^32 - 1",
            Self::Int32 | Self::Sint32 => "expected an integer of 32 bits",
            Self::Uint64 | Self::Fixed64 => "expected an integer from 0 to 2^64 - 1, as a string or a number",
            Self::Int64 | Self::Sfixed64 => "expected an integer of 64 bits, as a string or a number",
            Self::Double => "expected a number, \"NaN\", \"Infinity\" or \"-Infinity\"",
            Self::Message(_) => "expected an object",
        }
    }

    /// How protobuf encodes a value of it that is not packed.
    pub(super) const fn wire_type(self) -> u8 {
        match self {
            Self::Bool
            | Self::Enum(_)
            | Self::Int32
            | Self::Sint32
            | Self::Uint32
            | Self::Int64
            | Self::Uint64 => 0,
            Self::Fixed64 | Self::Sfixed64 | Self::Double => 1,
            Self::String | Self::Hex | Self::Base64 | Self::Message(_) => 2,
            Self::Fixed32 => 5,
        }
    }

    /// Whether proto3 writes the elements of a repeated field in one run.
    pub(super) const fn is_packable(self) -> bool {
        !matches!(self, Self::String | Self::Hex | Self::Base64 | Self::Message(_))
    }

    /// `value` as this kind; `None` when it is out of range or the kind is not a number.
    pub(super) fn integer(self, value: i128) -> Option<Scalar> {
        Some(match self {
            Self::Enum(_) | Self::Int32 => Scalar::Varint(i64::from(i32::try_from(value).ok()?) as u64),
            Self::Sint32 => {
                let value = i32::try_from(value).ok()?;
                Scalar::Varint(u64::from(((value << 1) ^ (value >> 31)) as u32))
            }
            Self::Int64 => Scalar::Varint(i64::try_from(value).ok()? as u64),
            Self::Sfixed64 => Scalar::Fixed64(i64::try_from(value).ok()? as u64),
            Self::Uint32 => Scalar::Varint(u64::from(u32::try_from(value).ok()?)),
            Self::Fixed32 => Scalar::Fixed32(u32::try_from(value).ok()?),
            Self::Uint64 => Scalar::Varint(u64::try_from(value).ok()?),
            Self::Fixed64 => Scalar::Fixed64(u64::try_from(value).ok()?),
            Self::Double => Scalar::Fixed64((value as f64).to_bits()),
            Self::String | Self::Hex | Self::Base64 | Self::Bool | Self::Message(_) => return None,
        })
    }

    /// `value` as this kind; integers may be written `1.0` or `1e9` as long as they are whole.
    pub(super) fn float(self, value: f64) -> Option<Scalar> {
        if self == Self::Double {
            return Some(Scalar::Fixed64(value.to_bits()));
        }
        // Above the range of i128 the cast gives its end, which no kind takes.
        (value.fract() == 0.0).then_some(value as i128).and_then(|v| self.integer(v))
    }

    /// A number in a string.
    pub(super) fn text(self, text: &str) -> Option<Scalar> {
        match self {
            Self::Double => double(text).map(|v| Scalar::Fixed64(v.to_bits())),
            Self::Enum(names) => names.number(text).and_then(|v| self.integer(i128::from(v))),
            _ => text.parse().ok().and_then(|v| self.integer(v)),
        }
    }
}

fn double(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        // Rust also reads `inf` and `nan`, and makes 1e999 infinite.
        _ if text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) => {
            text.parse().ok().filter(|v: &f64| v.is_finite())
        }
        _ => None,
    }
}

/// Text with U+FFFD in the place of what is not UTF-8. The parser writes a lone surrogate as if it were a code point: in three bytes,
/// as U+FFFD has.
pub(super) fn whole(text: &[u8]) -> String {
    const REPLACEMENT: [u8; 3] = [0xef, 0xbf, 0xbd];
    let mut text = text.to_vec();
    let mut at = 0;
    while let Some(next) = text.get_mut(at..at + 3) {
        if let [0xed, 0xa0..=0xbf, 0x80..=0xbf] = next {
            next.copy_from_slice(&REPLACEMENT);
            at += 2;
        }
        at += 1;
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The bytes of an id. Empty is no id.
pub(super) fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// Bytes in base64, of the standard or the URL alphabet, with or without padding, as the protobuf JSON mapping accepts it.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
    let engine = if text.contains(['-', '_']) { URL_SAFE } else { STANDARD };
    engine.decode(text).ok()
}
