//! OTLP JSON to OTLP protobuf, as a stream.
//!
//! [`transcode`] reads the JSON text once and writes protobuf as it goes, led by the tables in `schema`: no tree of objects is
//! built, so memory is the text plus what comes out. Beyond the protobuf JSON mapping, OTLP says: keys are lowerCamelCase and
//! unknown ones are ignored (but another signal's, at the top of a request), trace and span ids are hex, enums are integers. A field of 64 bits is a string or a number, a
//! double is a number or one of `"NaN"`, `"Infinity"`, `"-Infinity"`, and `null` is a field that is not there.
//!
//! More lenient than the mapping, because a sender writes it: `null` in an array of messages is an empty message; an enum may be
//! written by its name; in a string a lone surrogate, or a byte that is not UTF-8, becomes U+FFFD.
//! A key that stands twice follows protobuf: scalars keep the last, messages merge, arrays are joined.

mod scalar;
mod schema;
#[cfg(test)]
mod tests;
mod write;

pub use write::{WriteError, write, write_to};

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use self::scalar::Scalar;
use self::schema::{Field, Kind, Message, Shape};
use super::protobuf::{put_tag, put_varint, varint_len};
use crate::signal::Signal;

/// Values inside one another, as OpenTelemetry limits them. Nothing else nests without end.
const MAX_DEPTH: usize = 64;

const LENGTH_DELIMITED: u8 = 2;

/// Why there is no protobuf. No variant holds text of the payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON, or not what OTLP has at that place.
    #[error("malformed OTLP JSON at line {line} column {column}: {message}")]
    Malformed {
        /// From 1.
        line: usize,
        /// From 1; 0 at the start of a line.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// The request would be longer than it may be.
    #[error("the request is larger than {limit} bytes as protobuf")]
    TooLarge {
        /// The most bytes that may come out.
        limit: usize,
    },
}

/// The export request of `signal` in `json` as protobuf, of at most `max_bytes`.
pub fn transcode(signal: Signal, json: &[u8], max_bytes: usize) -> Result<Vec<u8>, JsonError> {
    let mut out =
        Output { bytes: Vec::with_capacity((json.len() / 2).min(max_bytes)), max_bytes, full: false };
    let mut text = serde_json::Deserializer::from_slice(json);
    // What is known nests no deeper than its values may, and what is not known is passed over without recursion.
    text.disable_recursion_limit();
    let request = Body { out: &mut out, message: schema::request(signal), depth: 0 };
    let read = text.deserialize_any(request).and_then(|()| text.end());
    match read {
        _ if out.full => Err(JsonError::TooLarge { limit: max_bytes }),
        Ok(()) => Ok(out.bytes),
        Err(e) => Err(malformed(&e)),
    }
}

/// serde_json's own messages are fixed texts, and every message of a visitor here is one too.
fn malformed(error: &serde_json::Error) -> JsonError {
    let text = error.to_string();
    let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message).to_owned();
    JsonError::Malformed { line: error.line(), column: error.column(), message }
}

/// What has been written so far.
struct Output {
    bytes: Vec<u8>,
    max_bytes: usize,
    /// Set when `max_bytes` was reached: the error that serde carries cannot say it.
    full: bool,
}

impl Output {
    fn room<E: Error>(&mut self, more: usize) -> Result<(), E> {
        if self.max_bytes.saturating_sub(self.bytes.len()) < more {
            self.full = true;
            return Err(E::custom("too large"));
        }
        Ok(())
    }

    fn tag<E: Error>(&mut self, number: u32, wire_type: u8) -> Result<(), E> {
        self.room(2)?;
        put_tag(&mut self.bytes, number, wire_type);
        Ok(())
    }

    fn put<E: Error>(&mut self, bytes: &[u8]) -> Result<(), E> {
        self.room(bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn scalar<E: Error>(&mut self, scalar: Scalar) -> Result<(), E> {
        match scalar {
            Scalar::Varint(value) => {
                self.room(varint_len(value))?;
                put_varint(&mut self.bytes, value);
                Ok(())
            }
            Scalar::Fixed32(value) => self.put(&value.to_le_bytes()),
            Scalar::Fixed64(value) => self.put(&value.to_le_bytes()),
        }
    }

    /// Begins a length-delimited field of unknown length: one byte is kept for it.
    fn open<E: Error>(&mut self, number: u32) -> Result<usize, E> {
        self.tag(number, LENGTH_DELIMITED)?;
        self.put(&[0])?;
        Ok(self.bytes.len())
    }

    /// Ends the field whose content begins at `start`. A length of more than one byte moves the content.
    fn close<E: Error>(&mut self, start: usize) -> Result<(), E> {
        let end = self.bytes.len();
        let length = (end - start) as u64;
        let extra = varint_len(length) - 1;
        if extra > 0 {
            self.room(extra)?;
            self.bytes.resize(end + extra, 0);
            self.bytes.copy_within(start..end, start + extra);
        }
        let mut at = start - 1;
        let mut rest = length;
        while rest >= 0x80 {
            self.bytes[at] = rest as u8 | 0x80;
            rest >>= 7;
            at += 1;
        }
        self.bytes[at] = rest as u8;
        Ok(())
    }
}

/// Reads an object and writes the fields of `message`, without tag and length.
struct Body<'o> {
    out: &'o mut Output,
    message: &'static Message,
    depth: usize,
}

impl Body<'_> {
    fn read<'de, A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        if self.depth > MAX_DEPTH {
            return Err(A::Error::custom("values are nested too deeply"));
        }
        while let Some(field) = object.next_key_seed(Key(self.message))? {
            match field {
                Some(field) => {
                    object.next_value_seed(Value {
                        out: self.out,
                        field,
                        depth: self.depth,
                        at: At::Field,
                    })?;
                }
                None => {
                    object.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Body<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<(), A::Error> {
        self.read(object)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(A::Error::custom("an export request is an object"))
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Err(E::custom("an export request is an object"))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.visit_unit()
    }
}

/// Looks a key up; `None` is a key that the message does not have.
struct Key(&'static Message);

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Option<&'static Field>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Option<&'static Field>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bytes<E: Error>(self, key: &[u8]) -> Result<Self::Value, E> {
        let as_in_proto = key.contains(&b'_');
        let is = |field: &&Field| match as_in_proto {
            false => field.key.as_bytes() == key,
            true => in_proto(field.key).eq(key.iter().copied()),
        };
        let field = self.0.fields.iter().find(is);
        // Passed over, all of such a request would be lost without a word.
        if field.is_none()
            && let Some(other) = schema::signal_of(self.0, key)
        {
            let message =
                format_args!("the request holds {}; send it to {}", other.name(), other.http_path());
            return Err(E::custom(message));
        }
        Ok(field)
    }
}

/// The name of a field as it stands in the .proto file: no valid key of OTLP, but the Collector takes it and some clients send it.
fn in_proto(key: &str) -> impl Iterator<Item = u8> {
    key.bytes().flat_map(|byte| {
        byte.is_ascii_uppercase().then_some(b'_').into_iter().chain([byte.to_ascii_lowercase()])
    })
}

/// Where a value stands.
#[derive(Clone, Copy, PartialEq)]
enum At {
    /// After its key.
    Field,
    /// In the array of a repeated field, each element with a tag of its own.
    Element,
    /// In the array of a packed field: no tags.
    Packed,
}

/// Reads a value and writes it as `field`.
struct Value<'o> {
    out: &'o mut Output,
    field: &'static Field,
    /// Values around it.
    depth: usize,
    at: At,
}

impl Value<'_> {
    /// That something else should stand here.
    fn refuse<E: Error>(&self) -> E {
        E::custom(match (self.field.shape, self.at) {
            (Shape::Repeated, At::Field) => "expected an array",
            _ => self.field.kind.expected(),
        })
    }

    fn scalar<E: Error>(self, scalar: Option<Scalar>) -> Result<(), E> {
        let Some(scalar) = scalar else { return Err(self.refuse()) };
        match (self.at, self.field.shape) {
            (At::Packed, _) => self.out.scalar(scalar),
            (_, Shape::Repeated) => Err(self.refuse()),
            (_, Shape::Implicit) if scalar.is_default() => Ok(()),
            _ => {
                self.out.tag(self.field.number, scalar.wire_type())?;
                self.out.scalar(scalar)
            }
        }
    }

    fn bytes<E: Error>(self, bytes: &[u8]) -> Result<(), E> {
        match (self.at, self.field.shape) {
            (At::Field, Shape::Repeated) => Err(self.refuse()),
            (_, Shape::Implicit) if bytes.is_empty() => Ok(()),
            _ => {
                self.out.tag(self.field.number, LENGTH_DELIMITED)?;
                self.out.scalar(Scalar::Varint(bytes.len() as u64))?;
                self.out.put(bytes)
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let is_text = self.field.kind == Kind::String;
        if is_text && !(self.field.shape == Shape::Repeated && self.at == At::Field) {
            return deserializer.deserialize_option(self);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.field.kind.expected())
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.visit_unit()
    }

    /// Only of strings: as bytes, since a string of serde must be whole.
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_bytes(self)
    }

    fn visit_bytes<E: Error>(self, text: &[u8]) -> Result<(), E> {
        match std::str::from_utf8(text) {
            Ok(_) => self.bytes(text),
            Err(_) => self.bytes(scalar::whole(text).as_bytes()),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        match (self.at, self.field.kind) {
            (At::Field, _) => Ok(()),
            (At::Element, Kind::Message(_)) => self.bytes(&[]),
            _ => Err(E::custom("null cannot be an element here")),
        }
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        let scalar = (self.field.kind == Kind::Bool).then_some(Scalar::Varint(u64::from(value)));
        self.scalar(scalar)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        let scalar = self.field.kind.integer(i128::from(value));
        self.scalar(scalar)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        let scalar = self.field.kind.integer(i128::from(value));
        self.scalar(scalar)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        let scalar = self.field.kind.float(value);
        self.scalar(scalar)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        match self.field.kind {
            Kind::String => self.bytes(text.as_bytes()),
            Kind::Hex => match scalar::hex(text) {
                Some(bytes) => self.bytes(&bytes),
                None => Err(self.refuse()),
            },
            Kind::Base64 => match scalar::base64(text) {
                Some(bytes) => self.bytes(&bytes),
                None => Err(self.refuse()),
            },
            kind => self.scalar(kind.text(text)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        let Self { out, field, depth, at } = self;
        if field.shape != Shape::Repeated || at != At::Field {
            return Err(Self { out, field, depth, at }.refuse());
        }
        if !field.kind.is_packable() {
            while array.next_element_seed(Value { out, field, depth, at: At::Element })?.is_some() {}
            return Ok(());
        }
        let before = out.bytes.len();
        let start = out.open(field.number)?;
        while array.next_element_seed(Value { out, field, depth, at: At::Packed })?.is_some() {}
        if out.bytes.len() == start {
            out.bytes.truncate(before);
            return Ok(());
        }
        out.close(start)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<(), A::Error> {
        let (Kind::Message(message), false) =
            (self.field.kind, self.field.shape == Shape::Repeated && self.at == At::Field)
        else {
            return Err(self.refuse());
        };
        let start = self.out.open(self.field.number)?;
        let depth = self.depth + usize::from(*message == schema::ANY_VALUE);
        Body { out: self.out, message, depth }.read(object)?;
        self.out.close(start)
    }
}
