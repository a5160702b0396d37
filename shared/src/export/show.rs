//! Telemetry for people, as the Collector's `debug` shows it: one fact a line, ids in hexadecimal, times as dates.

use std::fmt::{Arguments, Display, Write as _};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::{DecodeError, Message};

use crate::signal::Signal;

/// Everything in the request `body` of `signal`.
pub(super) fn everything(signal: Signal, body: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let mut page = Page { out };
    match signal {
        Signal::Traces => {
            for (n, all) in ExportTraceServiceRequest::decode(body)?.resource_spans.iter().enumerate() {
                page.resource("ResourceSpans", n, all.resource.as_ref(), &all.schema_url);
                for (n, scope) in all.scope_spans.iter().enumerate() {
                    page.scope("ScopeSpans", n, scope.scope.as_ref());
                    scope.spans.iter().enumerate().for_each(|(n, span)| page.span(n, span));
                }
            }
        }
        Signal::Metrics => {
            for (n, all) in ExportMetricsServiceRequest::decode(body)?.resource_metrics.iter().enumerate() {
                page.resource("ResourceMetrics", n, all.resource.as_ref(), &all.schema_url);
                for (n, scope) in all.scope_metrics.iter().enumerate() {
                    page.scope("ScopeMetrics", n, scope.scope.as_ref());
                    scope.metrics.iter().enumerate().for_each(|(n, metric)| page.metric(n, metric));
                }
            }
        }
        Signal::Logs => {
            for (n, all) in ExportLogsServiceRequest::decode(body)?.resource_logs.iter().enumerate() {
                page.resource("ResourceLogs", n, all.resource.as_ref(), &all.schema_url);
                for (n, scope) in all.scope_logs.iter().enumerate() {
                    page.scope("ScopeLogs", n, scope.scope.as_ref());
                    scope.log_records.iter().enumerate().for_each(|(n, record)| page.record(n, record));
                }
            }
        }
    }
    Ok(())
}

/// A value in one line, with its kind.
pub(super) fn value(value: Option<&AnyValue>) -> String {
    let Some(value) = value.and_then(|v| v.value.as_ref()) else { return "Empty()".to_owned() };
    let several = |values: &mut dyn Iterator<Item = String>| values.collect::<Vec<_>>().join(", ");
    match value {
        // A line stays one.
        Value::StringValue(text) if text.contains(char::is_control) => {
            format!("Str({})", text.escape_debug())
        }
        Value::StringValue(text) => format!("Str({text})"),
        Value::BoolValue(b) => format!("Bool({b})"),
        Value::IntValue(n) => format!("Int({n})"),
        Value::DoubleValue(n) => format!("Double({n})"),
        Value::BytesValue(bytes) => format!("Bytes({})", hex(bytes)),
        Value::ArrayValue(list) => {
            format!("Slice([{}])", several(&mut list.values.iter().map(|v| self::value(Some(v)))))
        }
        Value::KvlistValue(map) => {
            let pair = |kv: &KeyValue| format!("{}: {}", kv.key, self::value(kv.value.as_ref()));
            format!("Map({{{}}})", several(&mut map.values.iter().map(pair)))
        }
        // Indices of a dictionary that OTLP's requests do not have.
        other => format!("{other:?}"),
    }
}

/// Bytes as hexadecimal digits.
#[inline(never)]
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a String does not fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Ns since 1970 as a date.
pub(super) fn date(unix_nano: u64) -> impl Display {
    humantime::format_rfc3339_nanos(std::time::UNIX_EPOCH + Duration::from_nanos(unix_nano))
}

struct Page<'a> {
    out: &'a mut String,
}

impl Page<'_> {
    // Called from a hundred places: inlined, they were 25 KB.
    #[inline(never)]
    fn line(&mut self, text: Arguments<'_>) {
        let _ = writeln!(self.out, "{text}");
    }

    /// `    name           : value`
    #[inline(never)]
    fn fact(&mut self, name: &str, value: &dyn Display) {
        self.line(format_args!("    {name:<15}: {value}"));
    }

    #[inline(never)]
    fn attributes(&mut self, title: &str, attributes: &[KeyValue]) {
        if !attributes.is_empty() {
            self.line(format_args!("{title}:"));
        }
        for attribute in attributes {
            self.line(format_args!("     -> {}: {}", attribute.key, value(attribute.value.as_ref())));
        }
    }

    fn resource(&mut self, name: &str, number: usize, resource: Option<&Resource>, schema: &str) {
        self.line(format_args!("{name} #{number}"));
        if !schema.is_empty() {
            self.line(format_args!("Resource SchemaURL: {schema}"));
        }
        self.attributes("Resource attributes", resource.map_or(&[], |r| &r.attributes));
    }

    fn scope(&mut self, name: &str, number: usize, scope: Option<&InstrumentationScope>) {
        self.line(format_args!("{name} #{number}"));
        if let Some(scope) = scope {
            let text = format!("InstrumentationScope {} {}", scope.name, scope.version);
            self.line(format_args!("{}", text.trim_end()));
            self.attributes("InstrumentationScope attributes", &scope.attributes);
        }
    }

    fn span(&mut self, number: usize, span: &Span) {
        self.line(format_args!("Span #{number}"));
        self.fact("Trace ID", &hex(&span.trace_id));
        self.fact("Parent ID", &hex(&span.parent_span_id));
        self.fact("ID", &hex(&span.span_id));
        self.fact("Name", &span.name);
        self.fact("Kind", &span.kind().as_str_name().trim_start_matches("SPAN_KIND_").to_lowercase());
        self.fact("Start time", &date(span.start_time_unix_nano));
        self.fact("End time", &date(span.end_time_unix_nano));
        let status = span.status.clone().unwrap_or_default();
        self.fact(
            "Status code",
            &status.code().as_str_name().trim_start_matches("STATUS_CODE_").to_lowercase(),
        );
        self.fact("Status message", &status.message);
        self.attributes("Attributes", &span.attributes);
        for (number, event) in span.events.iter().enumerate() {
            self.line(format_args!("SpanEvent #{number}"));
            self.line(format_args!("     -> Name: {}", event.name));
            self.line(format_args!("     -> Timestamp: {}", date(event.time_unix_nano)));
            self.attributes("     -> Attributes", &event.attributes);
        }
        for (number, link) in span.links.iter().enumerate() {
            self.line(format_args!("SpanLink #{number}"));
            self.line(format_args!("     -> Trace ID: {}", hex(&link.trace_id)));
            self.line(format_args!("     -> ID: {}", hex(&link.span_id)));
            self.attributes("     -> Attributes", &link.attributes);
        }
    }

    fn record(&mut self, number: usize, record: &LogRecord) {
        self.line(format_args!("LogRecord #{number}"));
        self.line(format_args!("ObservedTimestamp: {}", date(record.observed_time_unix_nano)));
        self.line(format_args!("Timestamp: {}", date(record.time_unix_nano)));
        self.line(format_args!("SeverityText: {}", record.severity_text));
        self.line(format_args!("SeverityNumber: {}", record.severity_number));
        if !record.event_name.is_empty() {
            self.line(format_args!("EventName: {}", record.event_name));
        }
        self.line(format_args!("Body: {}", value(record.body.as_ref())));
        self.attributes("Attributes", &record.attributes);
        self.line(format_args!("Trace ID: {}", hex(&record.trace_id)));
        self.line(format_args!("Span ID: {}", hex(&record.span_id)));
        self.line(format_args!("Flags: {}", record.flags));
    }

    fn metric(&mut self, number: usize, metric: &Metric) {
        self.line(format_args!("Metric #{number}"));
        self.line(format_args!("Descriptor:"));
        self.line(format_args!("     -> Name: {}", metric.name));
        self.line(format_args!("     -> Description: {}", metric.description));
        self.line(format_args!("     -> Unit: {}", metric.unit));
        match &metric.data {
            None => self.line(format_args!("     -> DataType: Empty")),
            Some(Data::Gauge(gauge)) => {
                self.line(format_args!("     -> DataType: Gauge"));
                gauge.data_points.iter().enumerate().for_each(|(n, p)| self.number(n, p));
            }
            Some(Data::Sum(sum)) => {
                self.line(format_args!("     -> DataType: Sum"));
                self.line(format_args!("     -> IsMonotonic: {}", sum.is_monotonic));
                self.line(format_args!(
                    "     -> AggregationTemporality: {}",
                    sum.aggregation_temporality().as_str_name()
                ));
                sum.data_points.iter().enumerate().for_each(|(n, p)| self.number(n, p));
            }
            Some(Data::Histogram(histogram)) => {
                self.line(format_args!("     -> DataType: Histogram"));
                for (n, p) in histogram.data_points.iter().enumerate() {
                    self.point(n, &p.attributes, p.start_time_unix_nano, p.time_unix_nano);
                    self.counted(p.count, p.sum, p.min, p.max);
                    self.line(format_args!("ExplicitBounds: {:?}", p.explicit_bounds));
                    self.line(format_args!("BucketCounts: {:?}", p.bucket_counts));
                }
            }
            Some(Data::ExponentialHistogram(histogram)) => {
                self.line(format_args!("     -> DataType: ExponentialHistogram"));
                for (n, p) in histogram.data_points.iter().enumerate() {
                    self.point(n, &p.attributes, p.start_time_unix_nano, p.time_unix_nano);
                    self.counted(p.count, p.sum, p.min, p.max);
                    self.line(format_args!("Scale: {}, ZeroCount: {}", p.scale, p.zero_count));
                    for (name, buckets) in [("Positive", &p.positive), ("Negative", &p.negative)] {
                        if let Some(b) = buckets {
                            self.line(format_args!(
                                "{name}: offset {}, counts {:?}",
                                b.offset, b.bucket_counts
                            ));
                        }
                    }
                }
            }
            Some(Data::Summary(summary)) => {
                self.line(format_args!("     -> DataType: Summary"));
                for (n, p) in summary.data_points.iter().enumerate() {
                    self.point(n, &p.attributes, p.start_time_unix_nano, p.time_unix_nano);
                    self.line(format_args!("Count: {}", p.count));
                    self.line(format_args!("Sum: {}", p.sum));
                    for q in &p.quantile_values {
                        self.line(format_args!("Quantile {}: {}", q.quantile, q.value));
                    }
                }
            }
        }
    }

    #[inline(never)]
    fn point(&mut self, number: usize, attributes: &[KeyValue], start: u64, time: u64) {
        self.line(format_args!("DataPoints #{number}"));
        self.attributes("Data point attributes", attributes);
        self.line(format_args!("StartTimestamp: {}", date(start)));
        self.line(format_args!("Timestamp: {}", date(time)));
    }

    #[inline(never)]
    fn number(&mut self, number: usize, point: &NumberDataPoint) {
        self.point(number, &point.attributes, point.start_time_unix_nano, point.time_unix_nano);
        match point.value {
            Some(number_data_point::Value::AsDouble(n)) => self.line(format_args!("Value: {n}")),
            Some(number_data_point::Value::AsInt(n)) => self.line(format_args!("Value: {n}")),
            None => self.line(format_args!("Value: none")),
        }
    }

    #[inline(never)]
    fn counted(&mut self, count: u64, sum: Option<f64>, min: Option<f64>, max: Option<f64>) {
        self.line(format_args!("Count: {count}"));
        for (name, number) in [("Sum", sum), ("Min", min), ("Max", max)] {
            if let Some(number) = number {
                self.line(format_args!("{name}: {number}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_read_line_by_line() {
        use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
        let attribute = KeyValue {
            key: "http.route".into(),
            value: Some(AnyValue { value: Some(Value::StringValue("/cart".into())) }),
            ..KeyValue::default()
        };
        let span = Span {
            trace_id: vec![0xab; 16],
            span_id: vec![1; 8],
            name: "GET /cart".into(),
            kind: 2,
            start_time_unix_nano: 1_700_000_000_000_000_001,
            attributes: vec![attribute.clone()],
            ..Span::default()
        };
        let resource = Resource { attributes: vec![attribute], ..Resource::default() };
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(resource),
                scope_spans: vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }],
                ..ResourceSpans::default()
            }],
        };
        let mut out = String::new();
        everything(Signal::Traces, &request.encode_to_vec(), &mut out).unwrap();
        for line in [
            "ResourceSpans #0",
            "Resource attributes:",
            "     -> http.route: Str(/cart)",
            "Span #0",
            "    Trace ID       : abababababababababababababababab",
            "    ID             : 0101010101010101",
            "    Kind           : server",
            "    Start time     : 2023-11-14T22:13:20.000000001Z",
            "    Status code    : unset",
        ] {
            assert!(out.lines().any(|l| l == line), "`{line}` is not in:\n{out}");
        }
        assert!(out.lines().count() < 20, "{out}");
        let lines = AnyValue { value: Some(Value::StringValue("a\nb".into())) };
        assert_eq!(value(Some(&lines)), "Str(a\\nb)");
    }
}
