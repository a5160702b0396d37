//! OTLP protobuf to OTLP JSON, led by the same tables as the way back.
//!
//! Fields with their default value are left out. 64-bit integers are strings, ids are hex, other bytes base64, enums integers, and
//! doubles that JSON has no number for are `"NaN"`, `"Infinity"` and `"-Infinity"`. In a string a byte that is not UTF-8 becomes
//! U+FFFD. Fields that OTLP does not have are left out, and so are those of another wire type: they are others' by the same number.

use std::io::{self, BufWriter, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::schema::{self, Field, Kind, Message, Shape};
use crate::otlp::protobuf::{self, Fields, Malformed, Value, varint};
use crate::signal::Signal;

const WRONG: Malformed = Malformed("a field has the wrong wire type");

/// Bytes that are written together.
const PIECE: usize = 16 << 10;

/// Why not all was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The request cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It has nowhere to go.
    #[error(transparent)]
    Io(#[from] io::Error),
}

type Out<'a> = BufWriter<&'a mut dyn Write>;

/// The export request `body` of `signal`, which a walk has found well formed, in one line of JSON without its end.
pub fn write(signal: Signal, body: &[u8]) -> Result<Vec<u8>, WriteError> {
    let mut out = Vec::with_capacity(body.len() * 3);
    write_to(signal, body, &mut out)?;
    Ok(out)
}

/// [`write()`] as a stream: text takes up to six times as many bytes as the request, and none of it is held.
pub fn write_to(signal: Signal, body: &[u8], out: &mut dyn Write) -> Result<(), WriteError> {
    let mut out = BufWriter::with_capacity(PIECE, out);
    message(schema::request(signal), body, &mut out)?;
    Ok(out.flush()?)
}

/// Fields are looked for in `bytes` as often as there are names: a list of them may take more than the message.
fn message(of: &Message, bytes: &[u8], out: &mut Out<'_>) -> Result<(), WriteError> {
    let is_member = |found: &protobuf::Field<'_>| {
        of.fields
            .iter()
            .any(|f| f.number == found.number && f.shape == Shape::Member && is_of(f, found.value))
    };
    let (mut there, mut at) = (0u64, 0);
    // Another member of the `oneof` takes the place of what was there before.
    let (mut member, mut members) = (0, bytes);
    for field in Fields::new(bytes) {
        let field = field?;
        there |= 1u64.checked_shl(field.number).unwrap_or(0);
        if field.number != member && is_member(&field) {
            (member, members) = (field.number, &bytes[at..]);
        }
        at += field.raw.len();
    }
    out.write_all(b"{")?;
    let mut is_first = true;
    for field in of.fields.iter().filter(|f| there & 1u64.checked_shl(f.number).unwrap_or(0) != 0) {
        let from = if field.shape == Shape::Member { members } else { bytes };
        let found = Fields::new(from).filter_map(Result::ok).filter(|f| f.number == field.number);
        let mut values = found.map(|f| f.value).filter(|value| is_of(field, *value));
        let (count, last) = values.clone().fold((0, None), |(count, _), value| (count + 1, Some(value)));
        let Some(last) = last.filter(|last| !is_default(field, *last)) else { continue };
        if !std::mem::take(&mut is_first) {
            out.write_all(b",")?;
        }
        write!(out, "\"{}\":", field.key)?;
        match field.shape {
            Shape::Repeated => array(field.kind, &mut values, out)?,
            // A message that stands twice is both together.
            _ if count > 1 && matches!(field.kind, Kind::Message(_)) => {
                let parts: Vec<_> = values.filter_map(Value::bytes).collect();
                value(field.kind, Value::Bytes(&parts.concat()), out)?;
            }
            _ => value(field.kind, last, out)?,
        }
    }
    Ok(out.write_all(b"}")?)
}

/// Whether a field's values are of this wire type.
fn is_of(field: &Field, found: Value<'_>) -> bool {
    let may_be_packed = field.shape == Shape::Repeated && field.kind.is_packable();
    found.wire_type() == field.kind.wire_type() || may_be_packed && found.bytes().is_some()
}

/// Whether this is the value that a field without presence has when it is not there.
fn is_default(field: &Field, last: Value<'_>) -> bool {
    let nothing = match last {
        Value::Varint(n) | Value::Fixed64(n) => n == 0,
        Value::Fixed32(n) => n == 0,
        Value::Bytes(bytes) => bytes.is_empty(),
    };
    field.shape == Shape::Implicit && nothing
}

/// The elements of a repeated field, which may be packed.
fn array<'a>(
    kind: Kind,
    values: &mut dyn Iterator<Item = Value<'a>>,
    out: &mut Out<'_>,
) -> Result<(), WriteError> {
    out.write_all(b"[")?;
    let mut is_first = true;
    let mut element = |found: Value<'_>| -> Result<(), WriteError> {
        if !std::mem::take(&mut is_first) {
            out.write_all(b",")?;
        }
        value(kind, found, out)
    };
    for found in values {
        match found {
            Value::Bytes(mut packed) if kind.is_packable() => {
                while !packed.is_empty() {
                    let (next, length) = unpack(kind, packed)?;
                    element(next)?;
                    packed = &packed[length..];
                }
            }
            found => element(found)?,
        }
    }
    Ok(out.write_all(b"]")?)
}

/// The first element of a packed field and its length.
fn unpack(kind: Kind, packed: &[u8]) -> Result<(Value<'static>, usize), Malformed> {
    const CUT: Malformed = Malformed("a packed field ends in an element");
    Ok(match kind {
        Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => {
            let bytes = packed.first_chunk().ok_or(CUT)?;
            (Value::Fixed64(u64::from_le_bytes(*bytes)), 8)
        }
        Kind::Fixed32 => (Value::Fixed32(u32::from_le_bytes(*packed.first_chunk().ok_or(CUT)?)), 4),
        _ => {
            let (value, length) = varint(packed)?;
            (Value::Varint(value), length)
        }
    })
}

fn value(kind: Kind, found: Value<'_>, out: &mut Out<'_>) -> Result<(), WriteError> {
    match (kind, found) {
        (Kind::Message(inner), Value::Bytes(bytes)) => return message(inner, bytes, out),
        (Kind::String, Value::Bytes(bytes)) => return Ok(quoted(bytes, out)?),
        (Kind::Hex, Value::Bytes(bytes)) => {
            out.write_all(b"\"")?;
            for byte in bytes {
                write!(out, "{byte:02x}")?;
            }
            out.write_all(b"\"")
        }
        (Kind::Base64, Value::Bytes(bytes)) => {
            out.write_all(b"\"")?;
            // Three bytes are four digits.
            for piece in bytes.chunks(3 << 10) {
                out.write_all(STANDARD.encode(piece).as_bytes())?;
            }
            out.write_all(b"\"")
        }
        (Kind::Bool, Value::Varint(n)) => write!(out, "{}", n != 0),
        (Kind::Enum(_) | Kind::Int32, Value::Varint(n)) => write!(out, "{}", n as i32),
        (Kind::Sint32, Value::Varint(n)) => {
            let n = n as u32;
            write!(out, "{}", (n >> 1) as i32 ^ -((n & 1) as i32))
        }
        (Kind::Uint32, Value::Varint(n)) => write!(out, "{}", n as u32),
        (Kind::Fixed32, Value::Fixed32(n)) => write!(out, "{n}"),
        (Kind::Int64, Value::Varint(n)) | (Kind::Sfixed64, Value::Fixed64(n)) => {
            write!(out, "\"{}\"", n as i64)
        }
        (Kind::Uint64, Value::Varint(n)) | (Kind::Fixed64, Value::Fixed64(n)) => write!(out, "\"{n}\""),
        (Kind::Double, Value::Fixed64(bits)) => out.write_all(double(f64::from_bits(bits)).as_bytes()),
        _ => return Err(WRONG.into()),
    }?;
    Ok(())
}

/// A string, with U+FFFD for what is not UTF-8.
fn quoted(bytes: &[u8], out: &mut Out<'_>) -> io::Result<()> {
    out.write_all(b"\"")?;
    for chunk in bytes.utf8_chunks() {
        let mut rest = chunk.valid().as_bytes();
        while let Some(at) = rest.iter().position(|b| matches!(b, b'"' | b'\\' | ..0x20)) {
            out.write_all(&rest[..at])?;
            match rest[at] {
                b'\n' => out.write_all(b"\\n"),
                b'\r' => out.write_all(b"\\r"),
                b'\t' => out.write_all(b"\\t"),
                0x08 => out.write_all(b"\\b"),
                0x0c => out.write_all(b"\\f"),
                control @ ..0x20 => {
                    let digit = |n: u8| b"0123456789abcdef"[usize::from(n & 0xf)];
                    out.write_all(&[b'\\', b'u', b'0', b'0', digit(control >> 4), digit(control)])
                }
                other => out.write_all(&[b'\\', other]),
            }?;
            rest = &rest[at + 1..];
        }
        out.write_all(rest)?;
        if !chunk.invalid().is_empty() {
            out.write_all("\u{fffd}".as_bytes())?;
        }
    }
    out.write_all(b"\"")
}

fn double(value: f64) -> String {
    match serde_json::Number::from_f64(value) {
        Some(number) => number.to_string(),
        None if value.is_nan() => "\"NaN\"".to_owned(),
        None if value > 0.0 => "\"Infinity\"".to_owned(),
        None => "\"-Infinity\"".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use proptest::strategy::Strategy as _;
    use prost::Message as _;

    use super::super::transcode;
    use super::*;

    const LIMIT: usize = 1 << 20;

    /// What was written reads back as the same message.
    fn round_trip(signal: Signal, body: &[u8]) -> Vec<u8> {
        let json = write(signal, body).unwrap();
        assert!(serde_json::from_slice::<serde_json::Value>(&json).is_ok());
        transcode(signal, &json, LIMIT).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&json)))
    }

    #[test]
    fn what_is_read_from_json_is_written_as_the_same() {
        for (signal, json) in [
            (Signal::Traces, &include_bytes!("tests/traces.json")[..]),
            (Signal::Metrics, include_bytes!("tests/metrics.json")),
            (Signal::Logs, include_bytes!("tests/logs.json")),
        ] {
            let body = transcode(signal, json, LIMIT).unwrap();
            let back = round_trip(signal, &body);
            match signal {
                Signal::Traces => assert_eq!(
                    ExportTraceServiceRequest::decode(&back[..]).unwrap(),
                    ExportTraceServiceRequest::decode(&body[..]).unwrap()
                ),
                Signal::Metrics => assert_eq!(
                    ExportMetricsServiceRequest::decode(&back[..]).unwrap(),
                    ExportMetricsServiceRequest::decode(&body[..]).unwrap()
                ),
                Signal::Logs => assert_eq!(
                    ExportLogsServiceRequest::decode(&back[..]).unwrap(),
                    ExportLogsServiceRequest::decode(&body[..]).unwrap()
                ),
            }
        }
    }

    #[test]
    fn of_several_members_of_a_oneof_the_last_is_written_as_protobuf_reads_it() {
        use opentelemetry_proto::tonic::common::v1::any_value::Value;
        use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
        use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};

        use crate::otlp::protobuf::put_bytes;
        let value = |value| AnyValue { value: Some(value) }.encode_to_vec();
        let list = |n| {
            value(Value::ArrayValue(ArrayValue {
                values: vec![AnyValue { value: Some(Value::IntValue(n)) }],
            }))
        };
        let text = || value(Value::StringValue("a".into()));
        for parts in [
            vec![text(), value(Value::IntValue(7))],
            vec![value(Value::IntValue(7)), text()],
            vec![list(1), list(2)],
            vec![list(1), text(), list(2)],
            vec![value(Value::BoolValue(false)), value(Value::DoubleValue(0.0))],
        ] {
            let mut attribute = KeyValue { key: "k".into(), ..KeyValue::default() }.encode_to_vec();
            put_bytes(&mut attribute, 2, &parts.concat());
            let mut record = LogRecord::default().encode_to_vec();
            put_bytes(&mut record, 6, &attribute);
            let mut scope = ScopeLogs::default().encode_to_vec();
            put_bytes(&mut scope, 2, &record);
            let mut resource = ResourceLogs::default().encode_to_vec();
            put_bytes(&mut resource, 2, &scope);
            let mut body = Vec::new();
            put_bytes(&mut body, 1, &resource);
            assert_eq!(
                ExportLogsServiceRequest::decode(&round_trip(Signal::Logs, &body)[..]).unwrap(),
                ExportLogsServiceRequest::decode(&body[..]).unwrap()
            );
        }
    }

    #[test]
    fn doubles_without_a_number_in_json_have_their_names_everywhere() {
        let json = br#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[
            {"gauge":{"dataPoints":[{"asDouble":"NaN"},{"asDouble":"Infinity"},{"asDouble":-0.0}]}},
            {"histogram":{"dataPoints":[{"sum":"-Infinity","explicitBounds":[1,"Infinity"]}]}},
            {"summary":{"dataPoints":[{"quantileValues":[{"quantile":"NaN","value":"Infinity"}]}]}}]}]}]}"#;
        let body = transcode(Signal::Metrics, json, LIMIT).unwrap();
        assert_eq!(round_trip(Signal::Metrics, &body), body);
        let text = String::from_utf8(write(Signal::Metrics, &body).unwrap()).unwrap();
        assert!(text.contains(r#""explicitBounds":[1.0,"Infinity"]"#) && text.contains("-0.0"), "{text}");
    }

    proptest::proptest! {
        #[test]
        fn prop_text_is_written_as_serde_json_writes_it(parts in proptest::collection::vec(
            proptest::prop_oneof!["[\\x00-\\x22\\\\a-c\u{80}-\u{fff}\u{1f600}]{0,5}".prop_map(String::into_bytes), proptest::collection::vec(proptest::prelude::any::<u8>(), 0..4)],
            0..8,
        )) {
            use proptest::prelude::*;
            let text = parts.concat();
            let (mut written, expected) = (Vec::new(), serde_json::Value::from(String::from_utf8_lossy(&text)));
            let mut out: Out<'_> = BufWriter::new(&mut written);
            quoted(&text, &mut out).unwrap();
            drop(out);
            prop_assert_eq!(String::from_utf8(written).unwrap(), expected.to_string());
        }
    }

    #[test]
    fn text_that_is_not_utf_8_and_values_64_deep_are_written() {
        use crate::otlp::protobuf::put_bytes;
        let wrap = |inner: &[u8], numbers: &[u32]| {
            numbers.iter().fold(inner.to_vec(), |inner, number| {
                let mut out = Vec::new();
                put_bytes(&mut out, *number, &inner);
                out
            })
        };
        // A log record's severity text, and its body of nested lists.
        let mut record = Vec::new();
        put_bytes(&mut record, 3, b"a\xffb");
        let mut value = Vec::new();
        for _ in 0..63 {
            value = wrap(&value, &[2, 1, 6]);
        }
        put_bytes(&mut record, 5, &value);
        let body = wrap(&record, &[2, 2, 1]);
        assert_eq!(crate::otlp::walk::walk(Signal::Logs, &body).unwrap().items, 1);
        let text = String::from_utf8(write(Signal::Logs, &body).unwrap()).unwrap();
        assert!(text.contains("\"severityText\":\"a\u{fffd}b\""), "{text}");
        assert_eq!(text.matches("kvlistValue").count(), 63);
        assert!(transcode(Signal::Logs, text.as_bytes(), LIMIT).is_ok());
    }
}
