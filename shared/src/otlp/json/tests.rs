//! What comes out is compared, as messages, with what `opentelemetry-proto` reads from the same JSON or has written.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::metrics::v1::metric;
use prost::Message;
use serde::de::DeserializeOwned;

use super::*;
use crate::otlp::protobuf::{put_bytes, put_tag};
use crate::otlp::walk::walk;

mod messages;

const LIMIT: usize = 1 << 20;

fn read<M: Message + Default>(signal: Signal, json: &str) -> M {
    let bytes = transcode(signal, json.as_bytes(), LIMIT).unwrap();
    M::decode(bytes.as_slice()).unwrap()
}

fn refused(signal: Signal, json: &str) -> String {
    transcode(signal, json.as_bytes(), LIMIT).unwrap_err().to_string()
}

/// The value of the first attribute of the first resource.
fn value(json: &str) -> Option<Value> {
    let json =
        format!(r#"{{"resourceLogs":[{{"resource":{{"attributes":[{{"key":"k","value":{json}}}]}}}}]}}"#);
    let request: ExportLogsServiceRequest = read(Signal::Logs, &json);
    let resource = request.resource_logs[0].resource.clone().unwrap();
    resource.attributes[0].value.clone().and_then(|v| v.value)
}

/// A log record with these fields.
fn record(fields: &str) -> String {
    format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{{fields}}}]}}]}}]}}"#)
}

/// A gauge point with these fields.
fn point(fields: &str) -> String {
    format!(
        r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{{"gauge":{{"dataPoints":[{{{fields}}}]}}}}]}}]}}]}}"#
    )
}

fn agrees<M: Message + Default + DeserializeOwned + PartialEq + fmt::Debug>(signal: Signal, json: &str) {
    let expected: M = serde_json::from_str(json).unwrap();
    assert_ne!(expected, M::default());
    assert_eq!(read::<M>(signal, json), expected);
}

/// OTLP says that they are not valid; the Collector takes them, and to ignore them would lose the data without a word.
#[test]
fn keys_as_they_stand_in_the_proto_files_are_taken_too() {
    let of = |json: &str| transcode(Signal::Logs, json.as_bytes(), 1 << 20).unwrap();
    let camel = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"7","traceId":"0102030405060708090a0b0c0d0e0f10","body":{"kvlistValue":{"values":[{"key":"a_b","value":{"intValue":"3"}}]}}}]}]}]}"#;
    let snake = r#"{"resource_logs":[{"scope_logs":[{"log_records":[{"time_unix_nano":"7","trace_id":"0102030405060708090a0b0c0d0e0f10","body":{"kvlist_value":{"values":[{"key":"a_b","value":{"int_value":"3"}}]}}}]}]}]}"#;
    assert_eq!(of(snake), of(camel));
    assert!(of(r#"{"resource_Logs":[{"scope_logs":[]}],"_":1,"resource__logs":[]}"#).is_empty());
}

#[test]
fn the_examples_are_read_as_opentelemetry_proto_reads_them() {
    agrees::<ExportTraceServiceRequest>(Signal::Traces, include_str!("tests/traces.json"));
    agrees::<ExportMetricsServiceRequest>(Signal::Metrics, include_str!("tests/metrics.json"));
    agrees::<ExportLogsServiceRequest>(Signal::Logs, include_str!("tests/logs.json"));
}

#[test]
fn a_value_is_kept_even_when_it_is_the_default() {
    assert_eq!(value(r#"{"intValue":"0"}"#), Some(Value::IntValue(0)));
    assert_eq!(value(r#"{"intValue":0}"#), Some(Value::IntValue(0)));
    assert_eq!(value(r#"{"stringValue":""}"#), Some(Value::StringValue(String::new())));
    assert_eq!(value(r#"{"boolValue":false}"#), Some(Value::BoolValue(false)));
    assert_eq!(value(r#"{"doubleValue":0}"#), Some(Value::DoubleValue(0.0)));
    assert_eq!(value(r#"{"bytesValue":""}"#), Some(Value::BytesValue(Vec::new())));
    assert_eq!(value(r#"{"arrayValue":{}}"#), Some(Value::ArrayValue(ArrayValue::default())));
    assert_eq!(value(r#"{"kvlistValue":{"values":[]}}"#), Some(Value::KvlistValue(KeyValueList::default())));
    assert_eq!(value("{}"), None);
    assert_eq!(value(r#"{"intValue":null}"#), None);
    assert_eq!(value("null"), None);
}

#[test]
fn values_nest() {
    let number = |n| AnyValue { value: Some(Value::IntValue(n)) };
    let inner = KeyValue { key: "a".to_owned(), value: Some(number(-7)), key_strindex: 0 };
    let list = AnyValue { value: Some(Value::KvlistValue(KeyValueList { values: vec![inner] })) };
    let expected = ArrayValue { values: vec![number(1), AnyValue { value: None }, list] };
    assert_eq!(
        value(
            r#"{"arrayValue":{"values":[{"intValue":1},null,{"kvlistValue":{"values":[{"key":"a","value":{"intValue":"-7"}}]}}]}}"#
        ),
        Some(Value::ArrayValue(expected))
    );
}

#[test]
fn unknown_keys_are_ignored_whatever_they_hold() {
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let json =
        record(&format!(r#""x":{{"y":[1,{{"z":null}}]}},"deep":{deep},"severity_Number":9,"flags":1"#));
    let request: ExportLogsServiceRequest = read(Signal::Logs, &json);
    let record = &request.resource_logs[0].scope_logs[0].log_records[0];
    assert_eq!((record.severity_number, record.flags), (0, 1));
}

#[test]
fn a_request_of_another_signal_is_refused() {
    let logs = record(r#""flags":1"#);
    let error = refused(Signal::Traces, &logs);
    assert!(error.contains("the request holds logs; send it to /v1/logs"), "{error}");
    assert!(transcode(Signal::Logs, br#"{"resourceLogs":[{"resourceSpans":[]}]}"#, LIMIT).is_ok());
}

#[test]
fn ids_are_hex_of_either_case() {
    let json = record(r#""traceId":"5B8EFFF798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174""#);
    let request: ExportLogsServiceRequest = read(Signal::Logs, &json);
    let record = &request.resource_logs[0].scope_logs[0].log_records[0];
    assert_eq!(record.trace_id[..4], [0x5b, 0x8e, 0xff, 0xf7]);
    assert_eq!(record.span_id.len(), 8);
    for wrong in ["5b8", "zz", "5b8e fff7", "0x5b", "é0", "+1"] {
        let error = refused(Signal::Logs, &record_with_id(wrong));
        assert!(error.contains("hex digits"), "{error}");
        assert!(!error.contains(wrong), "{error}");
    }
}

fn record_with_id(id: &str) -> String {
    record(&format!(r#""traceId":"{id}""#))
}

#[test]
fn integers_of_64_bits_are_strings_or_numbers() {
    for (written, expected) in [
        ("18446744073709551615", u64::MAX),
        ("\"18446744073709551615\"", u64::MAX),
        ("1.7e18", 1_700_000_000_000_000_000),
        ("\"0\"", 0),
        ("null", 0),
    ] {
        let request: ExportMetricsServiceRequest =
            read(Signal::Metrics, &point(&format!(r#""timeUnixNano":{written},"asInt":"1""#)));
        let bytes = request.encode_to_vec();
        assert_eq!(bytes.windows(8).any(|w| w == expected.to_le_bytes()), expected != 0, "{written}");
    }
    for wrong in ["-1", "1.5", "18446744073709551616", "\"\"", "\"1 \"", "\"x\"", "true", "{}", "[]", "1e300"]
    {
        let error = refused(Signal::Metrics, &point(&format!(r#""timeUnixNano":{wrong}"#)));
        assert!(error.contains("2^64 - 1, as a string or a number"), "{wrong}: {error}");
    }
}

#[test]
fn doubles_are_numbers_or_the_three_names() {
    for (written, expected) in [
        ("1", 1.0),
        ("-2.5e3", -2500.0),
        ("\"1.25\"", 1.25),
        ("\"Infinity\"", f64::INFINITY),
        ("\"-Infinity\"", f64::NEG_INFINITY),
        ("5e-324", 5e-324),
        ("0.1", 0.1),
    ] {
        assert_eq!(value(&format!(r#"{{"doubleValue":{written}}}"#)), Some(Value::DoubleValue(expected)));
    }
    assert!(matches!(value(r#"{"doubleValue":"NaN"}"#), Some(Value::DoubleValue(v)) if v.is_nan()));
    for wrong in ["\"inf\"", "\"nan\"", "\"1e999\"", "\"\"", "false", "1e999"] {
        let error = refused(Signal::Metrics, &point(&format!(r#""asDouble":{wrong}"#)));
        assert!(error.contains("number"), "{wrong}: {error}");
    }
}

#[test]
fn an_enum_is_an_integer_or_a_name() {
    let severity = |written: &str| {
        let json = record(&format!(r#""severityNumber":{written}"#));
        let request: ExportLogsServiceRequest = read(Signal::Logs, &json);
        request.resource_logs[0].scope_logs[0].log_records[0].severity_number
    };
    for (written, number) in
        [("17", 17), ("\"SEVERITY_NUMBER_ERROR\"", 17), ("\"SEVERITY_NUMBER_TRACE2\"", 2)]
    {
        assert_eq!(severity(written), number, "{written}");
    }
    let spans = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"kind":"SPAN_KIND_SERVER","status":{"code":"STATUS_CODE_ERROR"}}]}]}]}"#;
    let request: ExportTraceServiceRequest = read(Signal::Traces, spans);
    let span = &request.resource_spans[0].scope_spans[0].spans[0];
    assert_eq!((span.kind, span.status.as_ref().unwrap().code), (2, 2));
    let sum = |name: &str| {
        format!(
            r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{{"sum":{{"aggregationTemporality":"{name}"}}}}]}}]}}]}}"#
        )
    };
    let request: ExportMetricsServiceRequest =
        read(Signal::Metrics, &sum("AGGREGATION_TEMPORALITY_CUMULATIVE"));
    let data = request.resource_metrics[0].scope_metrics[0].metrics[0].data.clone();
    assert!(matches!(data, Some(metric::Data::Sum(sum)) if sum.aggregation_temporality == 2));
    for wrong in ["\"ERROR\"", "\"severity_number_error\"", "\"17\"", "\"SPAN_KIND_SERVER\"", "true"] {
        let error = refused(Signal::Logs, &record(&format!(r#""severityNumber":{wrong}"#)));
        assert!(error.contains("expected the integer of an enum value, or its name"), "{wrong}: {error}");
    }
}

#[test]
fn text_that_is_not_whole_costs_the_character() {
    let text = |written: &[u8]| {
        let json = [
            br#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"severityText":""#,
            written,
            br#"","flags":7}]}]}]}"#,
        ]
        .concat();
        let bytes = transcode(Signal::Logs, &json, LIMIT).unwrap();
        let request = ExportLogsServiceRequest::decode(&bytes[..]).unwrap();
        let record = request.resource_logs[0].scope_logs[0].log_records[0].clone();
        assert_eq!(record.flags, 7, "the rest is read");
        record.severity_text
    };
    for (written, read) in [
        (&b"a\\ud83db"[..], "a\u{fffd}b"),
        (b"\\udc00\\ud800", "\u{fffd}\u{fffd}"),
        (b"\\ud83d\\ud83d\\ude00", "\u{fffd}\u{1f600}"),
        (b"\\ud83d\\n", "\u{fffd}\n"),
        (b"a\xffb\xfe", "a\u{fffd}b\u{fffd}"),
        (b"\xed\xa0\xbd!", "\u{fffd}!"),
        (b"\xe2\x82", "\u{fffd}"),
        ("\u{e000}\u{fffd}\u{1f600}".as_bytes(), "\u{e000}\u{fffd}\u{1f600}"),
    ] {
        assert_eq!(text(written), read, "{written:?}");
    }
    let key = b"{\"\\ud800\":1,\"\xff\":{\"x\":\"\\udfff\"},\"resourceLogs\":[]}";
    assert_eq!(transcode(Signal::Logs, key, LIMIT), Ok(Vec::new()), "of a key that nobody knows too");
}

#[test]
fn bytes_are_base64_of_either_alphabet() {
    for written in ["+/8=", "-_8=", "-_8", "+/8"] {
        let json = format!(r#"{{"bytesValue":"{written}"}}"#);
        assert_eq!(value(&json), Some(Value::BytesValue(vec![0xfb, 0xff])));
    }
    assert!(refused(Signal::Logs, &record(r#""body":{"bytesValue":"?"}"#)).contains("base64"));
}

#[test]
fn a_shape_that_does_not_fit_is_refused() {
    for (fields, says) in [
        (r#""attributes":{}"#, "expected an array"),
        (r#""attributes":[[]]"#, "expected an object"),
        (r#""attributes":[1]"#, "expected an object"),
        (r#""body":[]"#, "expected an object"),
        (r#""body":"secret""#, "expected an object"),
        (r#""severityText":5"#, "expected a string"),
        (r#""severityText":["a"]"#, "expected a string"),
        (r#""flags":4294967296"#, "2^32 - 1"),
        (r#""body":{"boolValue":"true"}"#, "true or false"),
        (r#""body":{"kvlistValue":{"values":{}}}"#, "expected an array"),
    ] {
        let error = refused(Signal::Logs, &record(fields));
        assert!(error.contains(says) && !error.contains("secret"), "{fields}: {error}");
    }
    let packed = |bounds: &str| {
        format!(
            r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{{"histogram":{{"dataPoints":[{{"explicitBounds":{bounds}}}]}}}}]}}]}}]}}"#
        )
    };
    for wrong in ["1", "[null]", "[[1]]", "[{}]", "[\"x\"]"] {
        assert!(transcode(Signal::Metrics, packed(wrong).as_bytes(), LIMIT).is_err(), "{wrong}");
    }
}

#[test]
fn what_is_not_a_request_is_refused_with_its_place() {
    for wrong in ["", "null", "[]", "1", "\"x\"", "true", "1.5", "{", "{}{}", "{\"resourceLogs\":[}", "\u{1}"]
    {
        assert!(transcode(Signal::Logs, wrong.as_bytes(), LIMIT).is_err(), "{wrong:?}");
    }
    assert_eq!(
        refused(Signal::Logs, "{\n  \"resourceLogs\": [ 5 ]\n}"),
        "malformed OTLP JSON at line 2 column 21: expected an object"
    );
    assert_eq!(transcode(Signal::Logs, b"{}", 0), Ok(Vec::new()));
}

#[test]
fn values_nest_as_deeply_as_opentelemetry_lets_them() {
    let arrays = |levels: usize| {
        let open = r#"{"arrayValue":{"values":["#.repeat(levels);
        record(&format!(r#""body":{open}{{}}{}"#, "]}}".repeat(levels)))
    };
    let lists = |levels: usize| {
        let open = r#"{"kvlistValue":{"values":[{"key":"k","value":"#.repeat(levels);
        record(&format!(r#""body":{open}{{}}{}"#, "}]}}".repeat(levels)))
    };
    for nested in [&arrays as &dyn Fn(usize) -> String, &lists] {
        let bytes = transcode(Signal::Logs, nested(63).as_bytes(), LIMIT).unwrap();
        assert_eq!(walk(Signal::Logs, &bytes).unwrap().items, 1);
        let error = refused(Signal::Logs, &nested(64));
        assert!(error.contains("nested too deeply"), "{error}");
        assert!(transcode(Signal::Logs, nested(100_000).as_bytes(), LIMIT).is_err());
    }
    for open in ["[", "{\"x\":", "[{\"y\":["] {
        let unclosed = format!("{{\"resourceLogs\":{}", open.repeat(300_000));
        assert!(transcode(Signal::Logs, unclosed.as_bytes(), LIMIT).is_err());
        let unknown = format!("{{\"nobody\":{}", open.repeat(300_000));
        assert!(transcode(Signal::Logs, unknown.as_bytes(), LIMIT).is_err());
    }
}

#[test]
fn what_comes_out_is_bounded() {
    let json = include_str!("tests/metrics.json").as_bytes();
    let whole = transcode(Signal::Metrics, json, LIMIT).unwrap();
    for limit in 0..whole.len() {
        assert_eq!(transcode(Signal::Metrics, json, limit), Err(JsonError::TooLarge { limit }));
    }
    assert!(transcode(Signal::Metrics, json, whole.len()).is_ok_and(|w| w == whole));
}

#[test]
fn every_truncation_and_every_changed_byte_is_read_or_refused() {
    for (signal, json) in [
        (Signal::Traces, include_bytes!("tests/traces.json").as_slice()),
        (Signal::Metrics, include_bytes!("tests/metrics.json")),
        (Signal::Logs, include_bytes!("tests/logs.json")),
    ] {
        let whole = json.trim_ascii_end();
        for cut in 0..whole.len() {
            assert!(transcode(signal, &whole[..cut], LIMIT).is_err());
        }
        for at in 0..whole.len() {
            for byte in [b'"', b'{', b'[', b'0', b'-', b'n', 0xff] {
                let mut changed = whole.to_vec();
                changed[at] = byte;
                if let Ok(bytes) = transcode(signal, &changed, LIMIT) {
                    decodes(signal, &bytes);
                }
            }
        }
    }
}

fn decodes(signal: Signal, bytes: &[u8]) {
    match signal {
        Signal::Traces => drop(ExportTraceServiceRequest::decode(bytes).unwrap()),
        Signal::Metrics => drop(ExportMetricsServiceRequest::decode(bytes).unwrap()),
        Signal::Logs => drop(ExportLogsServiceRequest::decode(bytes).unwrap()),
    }
}

/// Each field of `of` and of what is in it, in each wire type.
fn each_field(
    of: &'static schema::Message,
    depth: usize,
    around: &dyn Fn(&[u8]) -> Vec<u8>,
    test: &mut dyn FnMut(&[u8]),
) {
    for field in of.fields {
        for (wire_type, value) in [(0, &[5][..]), (1, &[255; 8]), (2, &[3, 0xff, 0x80, 0xff]), (5, &[1; 4])] {
            let mut bytes = Vec::new();
            put_tag(&mut bytes, field.number, wire_type);
            test(&around(&[&bytes, value].concat()));
        }
        if let schema::Kind::Message(inner) = field.kind
            && depth > 0
        {
            let inside = |content: &[u8]| {
                let mut bytes = Vec::new();
                put_bytes(&mut bytes, field.number, content);
                around(&bytes)
            };
            each_field(inner, depth - 1, &inside, test);
        }
    }
}

#[test]
fn whatever_the_walk_takes_can_be_written() {
    for signal in Signal::ALL {
        let (mut taken, mut refused) = (0, 0);
        each_field(schema::request(signal), 8, &<[u8]>::to_vec, &mut |body| {
            if walk(signal, body).is_err() {
                refused += 1;
                return;
            }
            taken += 1;
            let written = write(signal, body).unwrap_or_else(|error| panic!("{signal} {body:x?}: {error}"));
            let back =
                transcode(signal, &written, LIMIT).unwrap_or_else(|error| panic!("{body:x?}: {error}"));
            assert_eq!(walk(signal, &back).unwrap().items, walk(signal, body).unwrap().items);
        });
        assert!(taken > 100 && refused > 100, "{signal}: {taken} taken, {refused} refused");
    }
}
