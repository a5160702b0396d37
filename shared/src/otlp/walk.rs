//! One structural walk over an OTLP export request: it proves that the bytes are well formed, counts the items and finds their
//! timestamps, and builds nothing.
//!
//! Field numbers and types are those of opentelemetry-proto 1.x. A known field must have its own wire type; an unknown one may
//! have any. Nesting is bounded by [`MAX_DEPTH`]. UTF-8 is not checked: the Collector does not either.

use super::groups;
use super::protobuf::{Field, Fields, Malformed, Value, varint};
use crate::signal::{Signal, TimeRange};

/// Values inside one another, as OpenTelemetry limits them. Nothing else nests without end.
pub const MAX_DEPTH: u32 = 64;

/// What a walk has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Walked {
    /// Spans, data points or log records.
    pub items: u64,
    /// Their timestamps.
    pub time: TimeRange,
}

/// Walks the export request `body` of `signal`.
pub fn walk(signal: Signal, body: &[u8]) -> Result<Walked, Malformed> {
    let mut walked = Walked::default();
    visit(request(signal), body, MAX_DEPTH, &mut walked)?;
    Ok(walked)
}

/// The export request `body` of `signal` without unknown groups, for which [`walk`] has refused it as [`Malformed::GROUP`].
pub fn without_groups(signal: Signal, body: &[u8]) -> Result<Vec<u8>, Malformed> {
    // A value is in a message, and that in a list.
    groups::without(Inner(request(signal)), body, 3 * MAX_DEPTH)
}

const fn request(signal: Signal) -> &'static Schema {
    match signal {
        Signal::Traces => &TRACES,
        Signal::Metrics => &METRICS,
        Signal::Logs => &LOGS,
    }
}

/// A message that is known.
#[derive(Clone, Copy)]
pub(super) struct Inner(&'static Schema);

impl Inner {
    fn rule(self, number: u64) -> Rule {
        usize::try_from(number).ok().and_then(|n| self.0.0.get(n).copied()).unwrap_or(Rule::Any)
    }

    /// Whether it has a field of this number.
    pub(super) fn is_known(self, number: u64) -> bool {
        !matches!(self.rule(number), Rule::Any)
    }

    /// The message in a field.
    pub(super) fn inner(self, number: u32) -> Option<Self> {
        match self.rule(number.into()) {
            Rule::Message(inner) | Rule::Item(inner) => Some(Self(inner)),
            _ => None,
        }
    }
}

/// What a field of a known message must be.
#[derive(Clone, Copy)]
enum Rule {
    /// Not a field that we know: anything.
    Any,
    Varint,
    Fixed32,
    Fixed64,
    /// A fixed64 with ns since the Unix epoch.
    Time,
    /// A string or bytes.
    Bytes,
    /// Bytes of this length, or none.
    Id(usize),
    /// Repeated fixed64 or double, packed or not.
    PackedFixed64,
    /// Repeated varints, packed or not.
    PackedVarint,
    Message(&'static Schema),
    /// A message that is counted.
    Item(&'static Schema),
}

/// The rules of a message by field number.
struct Schema([Rule; 17]);

const fn schema(fields: &[(usize, Rule)]) -> Schema {
    let mut rules = [Rule::Any; 17];
    let mut i = 0;
    while i < fields.len() {
        rules[fields[i].0] = fields[i].1;
        i += 1;
    }
    Schema(rules)
}

fn visit(schema: &'static Schema, message: &[u8], depth: u32, walked: &mut Walked) -> Result<(), Malformed> {
    let is_value = u32::from(std::ptr::eq(schema, &raw const ANY_VALUE));
    let deeper = depth.checked_sub(is_value).ok_or(Malformed("values are nested too deeply"))?;
    for field in Fields::new(message) {
        let Field { number, value, .. } = field?;
        let rule = schema.0.get(number as usize).copied().unwrap_or(Rule::Any);
        match (rule, value) {
            (Rule::Any, _)
            | (Rule::Varint, Value::Varint(_))
            | (Rule::Fixed32, Value::Fixed32(_))
            | (Rule::Fixed64 | Rule::PackedFixed64, Value::Fixed64(_))
            | (Rule::Bytes, Value::Bytes(_))
            | (Rule::PackedVarint, Value::Varint(_)) => {}
            (Rule::Time, Value::Fixed64(time)) => walked.time.add(time),
            // Most of a request are attributes.
            (Rule::Message(inner), Value::Bytes(bytes))
                if deeper > 0 && std::ptr::eq(inner, &raw const KEY_VALUE) && is_plain(bytes) => {}
            (Rule::Message(inner), Value::Bytes(bytes)) => visit(inner, bytes, deeper, walked)?,
            (Rule::Item(inner), Value::Bytes(bytes)) => {
                walked.items += 1;
                visit(inner, bytes, deeper, walked)?;
            }
            (Rule::Id(length), Value::Bytes(bytes)) if bytes.is_empty() || bytes.len() == length => {}
            (Rule::Id(_), Value::Bytes(_)) => return Err(Malformed("an id has the wrong length")),
            (Rule::PackedFixed64, Value::Bytes(bytes)) if bytes.len().is_multiple_of(8) => {}
            (Rule::PackedVarint, Value::Bytes(mut bytes)) => {
                while !bytes.is_empty() {
                    bytes = &bytes[varint(bytes)?.1..];
                }
            }
            _ => return Err(Malformed("a field has the wrong wire type")),
        }
    }
    Ok(())
}

/// Whether an attribute is a short key and a short text, boolean, double or integer, each as encoders write them: nothing else of it
/// needs to be looked at. False says nothing.
fn is_plain(attribute: &[u8]) -> bool {
    let [0x0a, length @ 0..0x80, rest @ ..] = attribute else { return false };
    let Some((_, [0x12, length @ 0..0x80, value @ ..])) = rest.split_at_checked(usize::from(*length)) else {
        return false;
    };
    value.len() == usize::from(*length)
        && match value {
            [0x0a, length @ 0..0x80, text @ ..] => text.len() == usize::from(*length),
            [0x10 | 0x18, 0..0x80] | [0x18, 0x80..=0xff, 0..0x80] | [0x21, _, _, _, _, _, _, _, _] => true,
            _ => false,
        }
}

use Rule::{Bytes, Fixed32, Fixed64, Id, Item, Message, PackedFixed64, PackedVarint, Time, Varint};

static TRACES: Schema = schema(&[(1, Message(&RESOURCE_SPANS))]);
static METRICS: Schema = schema(&[(1, Message(&RESOURCE_METRICS))]);
static LOGS: Schema = schema(&[(1, Message(&RESOURCE_LOGS))]);

static RESOURCE_SPANS: Schema = schema(&[(1, Message(&RESOURCE)), (2, Message(&SCOPE_SPANS)), (3, Bytes)]);
static SCOPE_SPANS: Schema = schema(&[(1, Message(&SCOPE)), (2, Item(&SPAN)), (3, Bytes)]);
static RESOURCE_METRICS: Schema =
    schema(&[(1, Message(&RESOURCE)), (2, Message(&SCOPE_METRICS)), (3, Bytes)]);
static SCOPE_METRICS: Schema = schema(&[(1, Message(&SCOPE)), (2, Message(&METRIC)), (3, Bytes)]);
static RESOURCE_LOGS: Schema = schema(&[(1, Message(&RESOURCE)), (2, Message(&SCOPE_LOGS)), (3, Bytes)]);
static SCOPE_LOGS: Schema = schema(&[(1, Message(&SCOPE)), (2, Item(&LOG_RECORD)), (3, Bytes)]);

static RESOURCE: Schema = schema(&[(1, Message(&KEY_VALUE)), (2, Varint), (3, Message(&ENTITY_REF))]);
static ENTITY_REF: Schema = schema(&[(1, Bytes), (2, Bytes), (3, Bytes), (4, Bytes)]);
static SCOPE: Schema = schema(&[(1, Bytes), (2, Bytes), (3, Message(&KEY_VALUE)), (4, Varint)]);
static KEY_VALUE: Schema = schema(&[(1, Bytes), (2, Message(&ANY_VALUE))]);
static ANY_VALUE: Schema = schema(&[
    (1, Bytes),
    (2, Varint),
    (3, Varint),
    (4, Fixed64),
    (5, Message(&ARRAY_VALUE)),
    (6, Message(&KEY_VALUE_LIST)),
    (7, Bytes),
]);
static ARRAY_VALUE: Schema = schema(&[(1, Message(&ANY_VALUE))]);
static KEY_VALUE_LIST: Schema = schema(&[(1, Message(&KEY_VALUE))]);

static SPAN: Schema = schema(&[
    (1, Id(16)),
    (2, Id(8)),
    (3, Bytes),
    (4, Id(8)),
    (5, Bytes),
    (6, Varint),
    (7, Time),
    (8, Time),
    (9, Message(&KEY_VALUE)),
    (10, Varint),
    (11, Message(&EVENT)),
    (12, Varint),
    (13, Message(&LINK)),
    (14, Varint),
    (15, Message(&STATUS)),
    (16, Fixed32),
]);
static EVENT: Schema = schema(&[(1, Fixed64), (2, Bytes), (3, Message(&KEY_VALUE)), (4, Varint)]);
static LINK: Schema =
    schema(&[(1, Id(16)), (2, Id(8)), (3, Bytes), (4, Message(&KEY_VALUE)), (5, Varint), (6, Fixed32)]);
static STATUS: Schema = schema(&[(2, Bytes), (3, Varint)]);

static METRIC: Schema = schema(&[
    (1, Bytes),
    (2, Bytes),
    (3, Bytes),
    (5, Message(&NUMBERS)),
    (7, Message(&NUMBERS)),
    (9, Message(&HISTOGRAM)),
    (10, Message(&EXPONENTIAL_HISTOGRAM)),
    (11, Message(&SUMMARY)),
    (12, Message(&KEY_VALUE)),
]);
// Gauge has only the first of these.
static NUMBERS: Schema = schema(&[(1, Item(&NUMBER_POINT)), (2, Varint), (3, Varint)]);
static HISTOGRAM: Schema = schema(&[(1, Item(&HISTOGRAM_POINT)), (2, Varint)]);
static EXPONENTIAL_HISTOGRAM: Schema = schema(&[(1, Item(&EXPONENTIAL_POINT)), (2, Varint)]);
static SUMMARY: Schema = schema(&[(1, Item(&SUMMARY_POINT))]);
static NUMBER_POINT: Schema = schema(&[
    (2, Fixed64),
    (3, Time),
    (4, Fixed64),
    (5, Message(&EXEMPLAR)),
    (6, Fixed64),
    (7, Message(&KEY_VALUE)),
    (8, Varint),
]);
static HISTOGRAM_POINT: Schema = schema(&[
    (2, Fixed64),
    (3, Time),
    (4, Fixed64),
    (5, Fixed64),
    (6, PackedFixed64),
    (7, PackedFixed64),
    (8, Message(&EXEMPLAR)),
    (9, Message(&KEY_VALUE)),
    (10, Varint),
    (11, Fixed64),
    (12, Fixed64),
]);
static EXPONENTIAL_POINT: Schema = schema(&[
    (1, Message(&KEY_VALUE)),
    (2, Fixed64),
    (3, Time),
    (4, Fixed64),
    (5, Fixed64),
    (6, Varint),
    (7, Fixed64),
    (8, Message(&BUCKETS)),
    (9, Message(&BUCKETS)),
    (10, Varint),
    (11, Message(&EXEMPLAR)),
    (12, Fixed64),
    (13, Fixed64),
    (14, Fixed64),
]);
static BUCKETS: Schema = schema(&[(1, Varint), (2, PackedVarint)]);
static SUMMARY_POINT: Schema = schema(&[
    (2, Fixed64),
    (3, Time),
    (4, Fixed64),
    (5, Fixed64),
    (6, Message(&QUANTILE)),
    (7, Message(&KEY_VALUE)),
    (8, Varint),
]);
static QUANTILE: Schema = schema(&[(1, Fixed64), (2, Fixed64)]);
static EXEMPLAR: Schema =
    schema(&[(2, Fixed64), (3, Fixed64), (4, Id(8)), (5, Id(16)), (6, Fixed64), (7, Message(&KEY_VALUE))]);

static LOG_RECORD: Schema = schema(&[
    (1, Time),
    (2, Varint),
    (3, Bytes),
    (5, Message(&ANY_VALUE)),
    (6, Message(&KEY_VALUE)),
    (7, Varint),
    (8, Fixed32),
    (9, Id(16)),
    (10, Id(8)),
    (11, Time),
    (12, Bytes),
]);

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value};
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use opentelemetry_proto::tonic::metrics::v1::{
        ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
        NumberDataPoint, ResourceMetrics, ScopeMetrics, Summary, SummaryDataPoint,
        exponential_histogram_data_point::Buckets, metric::Data,
    };
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span};
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn key_value(value: any_value::Value) -> KeyValue {
        KeyValue { key: "k".into(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
    }

    fn traces(spans: Vec<Span>) -> Vec<u8> {
        let scope_spans = vec![ScopeSpans { spans, ..Default::default() }];
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans { scope_spans, ..Default::default() }],
        }
        .encode_to_vec()
    }

    fn full_span(n: u64) -> Span {
        Span {
            trace_id: vec![1; 16],
            span_id: vec![2; 8],
            start_time_unix_nano: n,
            end_time_unix_nano: n + 5,
            attributes: vec![key_value(any_value::Value::DoubleValue(1.5))],
            events: vec![span::Event { time_unix_nano: 1, name: "e".into(), ..Default::default() }],
            links: vec![span::Link {
                trace_id: vec![3; 16],
                span_id: vec![4; 8],
                flags: 9,
                ..Default::default()
            }],
            status: Some(Status { message: "m".into(), code: 2 }),
            flags: 1,
            ..Default::default()
        }
    }

    #[test]
    fn spans_are_counted_with_their_times() {
        let walked = walk(Signal::Traces, &traces(vec![full_span(100), full_span(200)])).unwrap();
        assert_eq!(walked, Walked { items: 2, time: TimeRange { start: 100, end: 205 } });
        assert_eq!(walk(Signal::Traces, &[]), Ok(Walked::default()));
    }

    #[test]
    fn every_kind_of_point_is_counted() {
        let metric = |data| Metric { name: "m".into(), data: Some(data), ..Default::default() };
        let metrics = vec![
            metric(Data::Gauge(Gauge {
                data_points: vec![NumberDataPoint { time_unix_nano: 9, ..Default::default() }; 2],
            })),
            metric(Data::Histogram(Histogram {
                data_points: vec![HistogramDataPoint {
                    bucket_counts: vec![1, 2],
                    explicit_bounds: vec![0.5],
                    sum: Some(3.0),
                    ..Default::default()
                }],
                ..Default::default()
            })),
            metric(Data::ExponentialHistogram(ExponentialHistogram {
                data_points: vec![ExponentialHistogramDataPoint {
                    scale: -1,
                    positive: Some(Buckets { offset: -3, bucket_counts: vec![300, 1] }),
                    ..Default::default()
                }],
                ..Default::default()
            })),
            metric(Data::Summary(Summary { data_points: vec![SummaryDataPoint::default()] })),
        ];
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                scope_metrics: vec![ScopeMetrics { metrics, ..Default::default() }],
                ..Default::default()
            }],
        };
        assert_eq!(walk(Signal::Metrics, &request.encode_to_vec()).unwrap().items, 5);
    }

    fn nested_log(depth: usize) -> Vec<u8> {
        let mut value = AnyValue { value: Some(any_value::Value::IntValue(1)) };
        for _ in 0..depth {
            value =
                AnyValue { value: Some(any_value::Value::ArrayValue(ArrayValue { values: vec![value] })) };
        }
        let record = LogRecord { body: Some(value), observed_time_unix_nano: 3, ..Default::default() };
        let scope_logs = vec![ScopeLogs { log_records: vec![record], ..Default::default() }];
        ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..Default::default() }] }
            .encode_to_vec()
    }

    #[test]
    fn nesting_is_bounded() {
        assert_eq!(walk(Signal::Logs, &nested_log(63)).unwrap().items, 1);
        assert_eq!(walk(Signal::Logs, &nested_log(64)), Err(Malformed("values are nested too deeply")));
    }

    #[test]
    fn a_known_field_of_the_wrong_type_is_refused_and_an_unknown_one_is_not() {
        assert!(walk(Signal::Traces, &[0x08, 1]).is_err(), "resource_spans as a varint");
        assert!(walk(Signal::Traces, &[0xf8, 0x07, 1]).is_ok(), "field 127");
        let span = Span { trace_id: vec![1; 15], ..Default::default() };
        assert!(walk(Signal::Traces, &traces(vec![span])).is_err(), "15 bytes of trace id");
    }

    #[test]
    fn every_truncation_is_refused_or_shorter() {
        let body = traces(vec![full_span(1)]);
        for cut in 1..body.len() {
            assert!(walk(Signal::Traces, &body[..cut]).is_err(), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn prop_what_is_plain_is_right(
            key in ".{0,140}", text in ".{0,140}", number in any::<i64>(), small in 0i64..20_000, at in any::<prop::sample::Index>(),
            to in any::<u8>(),
        ) {
            use any_value::Value::{BoolValue, DoubleValue, IntValue, StringValue};
            for value in [StringValue(text.clone()), BoolValue(number > 0), IntValue(number), IntValue(small), DoubleValue(0.5)] {
                let is_short = match &value {
                    StringValue(text) => text.len() < 126,
                    IntValue(n) => (0..16_384).contains(n),
                    _ => true,
                };
                let mut attribute = KeyValue { key: key.clone(), ..key_value(value) }.encode_to_vec();
                prop_assert_eq!(is_plain(&attribute), is_short && (1..128).contains(&key.len()));
                let at = at.index(attribute.len());
                attribute[at] = to;
                let mut walked = Walked::default();
                let visited = visit(&KEY_VALUE, &attribute, 1, &mut walked);
                prop_assert!(!is_plain(&attribute) || visited.is_ok() && walked == Walked::default());
            }
        }

        #[test]
        fn prop_what_the_walk_takes_prost_takes_too(
            at in any::<prop::sample::Index>(), to in any::<u8>(), signal in 0usize..3,
        ) {
            let mut body = if signal == 2 { nested_log(3) } else { traces(vec![full_span(7), Span::default()]) };
            let at = at.index(body.len());
            body[at] = to;
            let (walked, decoded) = if signal == 2 {
                (walk(Signal::Logs, &body), ExportLogsServiceRequest::decode(&body[..]).map(|_| 0))
            } else {
                let count = |r: ExportTraceServiceRequest| r.resource_spans.iter().flat_map(|r| &r.scope_spans)
                    .map(|s| s.spans.len() as u64).sum::<u64>();
                (walk(Signal::Traces, &body), ExportTraceServiceRequest::decode(&body[..]).map(count))
            };
            // prost also checks UTF-8 and 32-bit varints; what only differs there is fine.
            if let (Ok(walked), Ok(items)) = (walked, decoded) && signal != 2 {
                prop_assert_eq!(walked.items, items);
            }
        }
    }
}
