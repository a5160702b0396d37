//! Any message that `opentelemetry-proto` writes as JSON comes back the same.
//!
//! Where its JSON (feature `with-serde`, 0.33) is not OTLP's, such messages are not generated:
//! - NaN and infinities are `null`, except in quantiles: doubles are finite here, and the examples have the three names;
//! - an `AnyValue` without a value is written like one that is absent when it stands in an array: values are always set;
//! - `stringValueStrindex` is a name that OTLP gives to profiles only: not generated.

use opentelemetry_proto::tonic::common::v1::{EntityRef, InstrumentationScope};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
    Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar, metric,
    number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z.]{1,8}", any::<String>()]
}

fn id() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(Vec::new()), vec(any::<u8>(), 8), vec(any::<u8>(), 16)]
}

fn count() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), any::<u32>()]
}

fn double() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), Just(-0.0), Just(f64::MAX), Just(f64::MIN_POSITIVE), any::<f64>()]
        .prop_filter("with-serde writes others as null", |v| v.is_finite())
}

fn value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        text().prop_map(Value::StringValue),
        any::<bool>().prop_map(Value::BoolValue),
        any::<i64>().prop_map(Value::IntValue),
        double().prop_map(Value::DoubleValue),
        vec(any::<u8>(), 0..300).prop_map(Value::BytesValue),
    ]
    .prop_map(|value| AnyValue { value: Some(value) });
    leaf.prop_recursive(4, 12, 3, |inner| {
        let key_value = (text(), option::of(inner.clone())).prop_map(|(key, value)| KeyValue {
            key,
            value,
            key_strindex: 0,
        });
        prop_oneof![
            vec(inner, 0..3).prop_map(|values| Value::ArrayValue(ArrayValue { values })),
            vec(key_value, 0..3).prop_map(|values| Value::KvlistValue(KeyValueList { values })),
        ]
        .prop_map(|value| AnyValue { value: Some(value) })
    })
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let key_value = (text(), option::of(value()), prop_oneof![9 => Just(0), 1 => any::<i32>()])
        .prop_map(|(key, value, key_strindex)| KeyValue { key, value, key_strindex });
    vec(key_value, 0..3)
}

fn resource() -> impl Strategy<Value = Resource> {
    let entity = (text(), text(), vec(text(), 0..3), vec(text(), 0..3)).prop_map(
        |(schema_url, r#type, id_keys, description_keys)| EntityRef {
            schema_url,
            r#type,
            id_keys,
            description_keys,
        },
    );
    (attributes(), count(), vec(entity, 0..2)).prop_map(
        |(attributes, dropped_attributes_count, entity_refs)| Resource {
            attributes,
            dropped_attributes_count,
            entity_refs,
        },
    )
}

fn scope() -> impl Strategy<Value = InstrumentationScope> {
    (text(), text(), attributes(), count()).prop_map(
        |(name, version, attributes, dropped_attributes_count)| InstrumentationScope {
            name,
            version,
            attributes,
            dropped_attributes_count,
        },
    )
}

fn event() -> impl Strategy<Value = span::Event> {
    (any::<u64>(), text(), attributes(), count()).prop_map(
        |(time_unix_nano, name, attributes, dropped_attributes_count)| span::Event {
            time_unix_nano,
            name,
            attributes,
            dropped_attributes_count,
        },
    )
}

fn link() -> impl Strategy<Value = span::Link> {
    (id(), id(), text(), attributes(), count(), count()).prop_map(
        |(trace_id, span_id, trace_state, attributes, dropped_attributes_count, flags)| span::Link {
            trace_id,
            span_id,
            trace_state,
            attributes,
            dropped_attributes_count,
            flags,
        },
    )
}

prop_compose! {
    fn span()(
        (trace_id, span_id, parent_span_id) in (id(), id(), id()),
        (trace_state, name) in (text(), text()),
        (kind, flags) in (0..6i32, count()),
        (start_time_unix_nano, end_time_unix_nano) in any::<(u64, u64)>(),
        attributes in attributes(),
        events in vec(event(), 0..3),
        links in vec(link(), 0..3),
        (dropped_attributes_count, dropped_events_count, dropped_links_count) in (count(), count(), count()),
        status in option::of((text(), 0..3i32).prop_map(|(message, code)| Status { message, code })),
    ) -> Span {
        Span {
            trace_id, span_id, trace_state, parent_span_id, flags, name, kind, start_time_unix_nano,
            end_time_unix_nano, attributes, dropped_attributes_count, events, dropped_events_count, links,
            dropped_links_count, status,
        }
    }
}

prop_compose! {
    fn log_record()(
        (trace_id, span_id) in (id(), id()),
        (severity_text, event_name) in (text(), text()),
        severity_number in 0..25i32,
        (time_unix_nano, observed_time_unix_nano) in any::<(u64, u64)>(),
        body in option::of(value()),
        attributes in attributes(),
        (dropped_attributes_count, flags) in (count(), count()),
    ) -> LogRecord {
        LogRecord {
            time_unix_nano, observed_time_unix_nano, severity_number, severity_text, body, attributes,
            dropped_attributes_count, flags, trace_id, span_id, event_name,
        }
    }
}

fn exemplars() -> impl Strategy<Value = Vec<Exemplar>> {
    let number = prop_oneof![
        double().prop_map(exemplar::Value::AsDouble),
        any::<i64>().prop_map(exemplar::Value::AsInt),
    ];
    let exemplar = (attributes(), any::<u64>(), id(), id(), option::of(number)).prop_map(
        |(filtered_attributes, time_unix_nano, span_id, trace_id, value)| Exemplar {
            filtered_attributes,
            time_unix_nano,
            span_id,
            trace_id,
            value,
        },
    );
    vec(exemplar, 0..2)
}

fn number_points() -> impl Strategy<Value = Vec<NumberDataPoint>> {
    let number = prop_oneof![
        double().prop_map(number_data_point::Value::AsDouble),
        any::<i64>().prop_map(number_data_point::Value::AsInt),
    ];
    let point = (attributes(), any::<(u64, u64)>(), exemplars(), count(), option::of(number)).prop_map(
        |(attributes, (start_time_unix_nano, time_unix_nano), exemplars, flags, value)| NumberDataPoint {
            attributes,
            start_time_unix_nano,
            time_unix_nano,
            exemplars,
            flags,
            value,
        },
    );
    vec(point, 0..3)
}

prop_compose! {
    fn histogram_point()(
        attributes in attributes(),
        (start_time_unix_nano, time_unix_nano, count) in any::<(u64, u64, u64)>(),
        (sum, min, max) in (option::of(double()), option::of(double()), option::of(double())),
        bucket_counts in vec(any::<u64>(), 0..20),
        explicit_bounds in vec(double(), 0..20),
        exemplars in exemplars(),
        flags in count(),
    ) -> HistogramDataPoint {
        HistogramDataPoint {
            attributes, start_time_unix_nano, time_unix_nano, count, sum, bucket_counts, explicit_bounds, exemplars,
            flags, min, max,
        }
    }
}

fn buckets() -> impl Strategy<Value = Buckets> {
    (any::<i32>(), vec(any::<u64>(), 0..20))
        .prop_map(|(offset, bucket_counts)| Buckets { offset, bucket_counts })
}

prop_compose! {
    fn exponential_point()(
        attributes in attributes(),
        (start_time_unix_nano, time_unix_nano, count, zero_count) in any::<(u64, u64, u64, u64)>(),
        (sum, min, max) in (option::of(double()), option::of(double()), option::of(double())),
        (scale, zero_threshold) in (any::<i32>(), double()),
        (positive, negative) in (option::of(buckets()), option::of(buckets())),
        exemplars in exemplars(),
        flags in count(),
    ) -> ExponentialHistogramDataPoint {
        ExponentialHistogramDataPoint {
            attributes, start_time_unix_nano, time_unix_nano, count, sum, scale, zero_count, positive, negative,
            flags, exemplars, min, max, zero_threshold,
        }
    }
}

prop_compose! {
    fn summary_point()(
        attributes in attributes(),
        (start_time_unix_nano, time_unix_nano, count) in any::<(u64, u64, u64)>(),
        sum in double(),
        quantile_values in vec((double(), prop_oneof![double(), Just(f64::INFINITY)]), 0..4),
        flags in count(),
    ) -> SummaryDataPoint {
        let quantile_values =
            quantile_values.into_iter().map(|(quantile, value)| ValueAtQuantile { quantile, value }).collect();
        SummaryDataPoint { attributes, start_time_unix_nano, time_unix_nano, count, sum, quantile_values, flags }
    }
}

fn metric() -> impl Strategy<Value = Metric> {
    let data = prop_oneof![
        number_points().prop_map(|data_points| metric::Data::Gauge(Gauge { data_points })),
        (number_points(), 0..3i32, any::<bool>()).prop_map(
            |(data_points, aggregation_temporality, is_monotonic)| metric::Data::Sum(Sum {
                data_points,
                aggregation_temporality,
                is_monotonic
            })
        ),
        (vec(histogram_point(), 0..3), 0..3i32).prop_map(|(data_points, aggregation_temporality)| {
            metric::Data::Histogram(Histogram { data_points, aggregation_temporality })
        }),
        (vec(exponential_point(), 0..3), 0..3i32).prop_map(|(data_points, aggregation_temporality)| {
            metric::Data::ExponentialHistogram(ExponentialHistogram { data_points, aggregation_temporality })
        }),
        vec(summary_point(), 0..3).prop_map(|data_points| metric::Data::Summary(Summary { data_points })),
    ];
    (text(), text(), text(), attributes(), option::of(data)).prop_map(
        |(name, description, unit, metadata, data)| Metric { name, description, unit, metadata, data },
    )
}

fn comes_back<M>(signal: Signal, message: &M) -> Result<(), TestCaseError>
where
    M: Message + Default + PartialEq + fmt::Debug + serde::Serialize,
{
    let json = serde_json::to_vec(message).unwrap();
    let bytes = transcode(signal, &json, usize::MAX).unwrap();
    prop_assert_eq!(&M::decode(bytes.as_slice()).unwrap(), message);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn prop_traces_come_back(
        resource in option::of(resource()), scope in option::of(scope()), spans in vec(span(), 0..3), url in text(),
    ) {
        let scope_spans = vec![ScopeSpans { scope, spans, schema_url: url.clone() }, ScopeSpans::default()];
        let resource_spans = vec![ResourceSpans { resource, scope_spans, schema_url: url }];
        comes_back(Signal::Traces, &ExportTraceServiceRequest { resource_spans })?;
    }

    #[test]
    fn prop_metrics_come_back(
        resource in option::of(resource()), scope in option::of(scope()), metrics in vec(metric(), 0..3),
        url in text(),
    ) {
        let scope_metrics = vec![ScopeMetrics { scope, metrics, schema_url: url.clone() }];
        let resource_metrics = vec![ResourceMetrics { resource, scope_metrics, schema_url: url }];
        comes_back(Signal::Metrics, &ExportMetricsServiceRequest { resource_metrics })?;
    }

    #[test]
    fn prop_logs_come_back(
        resource in option::of(resource()), scope in option::of(scope()), log_records in vec(log_record(), 0..3),
        url in text(),
    ) {
        let scope_logs = vec![ScopeLogs { scope, log_records, schema_url: url.clone() }];
        let resource_logs = vec![ResourceLogs { resource, scope_logs, schema_url: url }];
        comes_back(Signal::Logs, &ExportLogsServiceRequest { resource_logs })?;
    }

    #[test]
    fn prop_any_text_is_read_or_refused(json in any::<String>(), bytes in vec(any::<u8>(), 0..100)) {
        for signal in Signal::ALL {
            drop(transcode(signal, json.as_bytes(), LIMIT));
            drop(transcode(signal, &bytes, LIMIT));
        }
    }

    #[test]
    fn prop_any_json_shape_is_read_or_refused(
        keys in vec(prop::sample::select(&KEYS[..]), 1..8),
        leaf in prop::sample::select(&["null", "0", "-1", "1.5", "\"\"", "\"ab\"", "[]", "{}", "true"][..]),
        arrays in any::<u8>(),
    ) {
        let mut json = leaf.to_owned();
        for (n, key) in keys.iter().enumerate() {
            json = format!("{{\"{key}\":{json}}}");
            if arrays >> n & 1 == 1 {
                json = format!("[{json},null,{json}]");
            }
        }
        for (signal, root) in
            [(Signal::Traces, "resourceSpans"), (Signal::Metrics, "resourceMetrics"), (Signal::Logs, "resourceLogs")]
        {
            let json = format!("{{\"{root}\":{json}}}");
            if let Ok(bytes) = transcode(signal, json.as_bytes(), LIMIT) {
                decodes(signal, &bytes);
            }
        }
    }
}

const KEYS: [&str; 14] = [
    "resource",
    "attributes",
    "value",
    "arrayValue",
    "values",
    "kvlistValue",
    "scopeSpans",
    "spans",
    "scopeLogs",
    "logRecords",
    "scopeMetrics",
    "metrics",
    "dataPoints",
    "unknown",
];
