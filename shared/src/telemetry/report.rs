//! What a program says of itself, as OTLP requests.

use std::collections::BTreeMap;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

/// Makes requests of what one program says of itself.
#[derive(Debug, Clone)]
pub struct Report {
    resource: Resource,
    scope: InstrumentationScope,
    start: u64,
}

/// A family of metrics while its samples are read.
struct Family<'a> {
    name: &'a str,
    kind: &'a str,
    metric: Metric,
    numbers: Vec<NumberDataPoint>,
    histograms: Vec<HistogramDataPoint>,
    /// Which histogram has these labels.
    by_labels: BTreeMap<Vec<(&'a str, String)>, usize>,
}

/// A line of the text: what is measured, and how much.
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: &'a str,
}

impl Report {
    /// Of the program `service`, whose counters began at `start`; `more` attributes say which one it is.
    pub fn new(service: &str, more: &[(&str, &str)], start: u64) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        let attributes = [("service.name", service), ("service.version", version)];
        let attributes = attributes.iter().chain(more).map(|(key, value)| text(key, value)).collect();
        let scope = InstrumentationScope {
            name: service.to_owned(),
            version: version.to_owned(),
            ..InstrumentationScope::default()
        };
        Self { resource: Resource { attributes, ..Resource::default() }, scope, start }
    }

    /// A request with these records.
    pub fn logs(&self, log_records: Vec<LogRecord>) -> Bytes {
        let scope_logs =
            vec![ScopeLogs { scope: Some(self.scope.clone()), log_records, ..ScopeLogs::default() }];
        let resource = Some(self.resource.clone());
        let resource_logs = vec![ResourceLogs { resource, scope_logs, ..ResourceLogs::default() }];
        ExportLogsServiceRequest { resource_logs }.encode_to_vec().into()
    }

    /// A request with what the OpenMetrics text says at `now`. Who it is is said by the resource, so `*_info` is left out.
    pub fn metrics(&self, openmetrics: &str, now: u64) -> Bytes {
        let (mut metrics, mut family) = (Vec::new(), None::<Family<'_>>);
        for line in openmetrics.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (what, name, rest) = (words.next(), words.next(), words.next().unwrap_or_default());
                let Some(name) = name else { continue };
                if family.as_ref().is_none_or(|f| f.name != name) {
                    metrics.extend(family.take().and_then(Family::metric));
                    family = Some(Family::new(name));
                }
                let Some(family) = &mut family else { continue };
                match what {
                    Some("HELP") => family.metric.description = rest.trim_end_matches('.').to_owned(),
                    Some("TYPE") => family.kind = rest,
                    Some("UNIT") => family.metric.unit = unit(rest).to_owned(),
                    _ => {}
                }
            } else if let (Some(family), Some(sample)) = (&mut family, sample(line)) {
                family.add(sample, self.start, now);
            }
        }
        metrics.extend(family.and_then(Family::metric));
        let scope = Some(self.scope.clone());
        let scope_metrics = vec![ScopeMetrics { scope, metrics, ..ScopeMetrics::default() }];
        let resource = Some(self.resource.clone());
        let resource_metrics =
            vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }];
        ExportMetricsServiceRequest { resource_metrics }.encode_to_vec().into()
    }
}

impl<'a> Family<'a> {
    fn new(name: &'a str) -> Self {
        let metric = Metric { name: name.to_owned(), ..Metric::default() };
        let (numbers, histograms, by_labels) = Default::default();
        Self { name, kind: "", metric, numbers, histograms, by_labels }
    }

    fn add(&mut self, sample: Sample<'a>, start: u64, now: u64) {
        match (self.kind, sample.name.strip_prefix(self.name)) {
            ("counter", Some("_total")) => {
                let point = number(&sample, start, now);
                self.numbers.push(point);
            }
            ("gauge", Some("")) => {
                let point = number(&sample, 0, now);
                self.numbers.push(point);
            }
            ("histogram", Some(part @ ("_bucket" | "_sum" | "_count"))) => {
                self.histogram(part, sample, start, now);
            }
            _ => {}
        }
    }

    /// Adds a bucket, the sum or the count of a histogram. Buckets come in order and count what the ones before do.
    fn histogram(&mut self, part: &str, mut sample: Sample<'a>, start: u64, now: u64) {
        let bound =
            sample.labels.iter().position(|(key, _)| *key == "le").map(|at| sample.labels.remove(at).1);
        let at = *self.by_labels.entry(sample.labels).or_insert_with_key(|labels| {
            self.histograms.push(HistogramDataPoint {
                attributes: attributes(labels),
                start_time_unix_nano: start,
                time_unix_nano: now,
                ..HistogramDataPoint::default()
            });
            self.histograms.len() - 1
        });
        let point = &mut self.histograms[at];
        let value: f64 = sample.value.parse().unwrap_or_default();
        match part {
            "_sum" => point.sum = Some(value),
            "_count" => point.count = value as u64,
            _ => {
                let before: u64 = point.bucket_counts.iter().sum();
                point.bucket_counts.push((value as u64).saturating_sub(before));
                point
                    .explicit_bounds
                    .extend(bound.and_then(|b| b.parse().ok()).filter(|b: &f64| b.is_finite()));
            }
        }
    }

    fn metric(self) -> Option<Metric> {
        const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;
        let data = match self.kind {
            "counter" if !self.numbers.is_empty() => Data::Sum(Sum {
                data_points: self.numbers,
                aggregation_temporality: CUMULATIVE,
                is_monotonic: true,
            }),
            "gauge" if !self.numbers.is_empty() => Data::Gauge(Gauge { data_points: self.numbers }),
            "histogram" if !self.histograms.is_empty() => Data::Histogram(Histogram {
                data_points: self.histograms,
                aggregation_temporality: CUMULATIVE,
            }),
            _ => return None,
        };
        Some(Metric { data: Some(data), ..self.metric })
    }
}

fn number(sample: &Sample<'_>, start: u64, now: u64) -> NumberDataPoint {
    let value = match sample.value.parse() {
        Ok(whole) => Number::AsInt(whole),
        Err(_) => Number::AsDouble(sample.value.parse().unwrap_or_default()),
    };
    NumberDataPoint {
        attributes: attributes(&sample.labels),
        start_time_unix_nano: start,
        time_unix_nano: now,
        value: Some(value),
        ..NumberDataPoint::default()
    }
}

fn attributes(labels: &[(&str, String)]) -> Vec<KeyValue> {
    labels.iter().map(|(key, value)| text(key, value)).collect()
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

/// `name{key="value",...} value`, as `metrics_text` writes it.
fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (key, after) = rest.trim_start_matches(',').split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.push((key, value));
            rest = after;
        }
        rest = &rest[1..];
    }
    let value = rest.split_ascii_whitespace().next()?;
    Some(Sample { name, labels, value })
}

/// The text up to the closing quotation mark, and what comes behind it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((out, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
    None
}

/// OpenTelemetry's name of a unit.
fn unit(name: &str) -> &str {
    match name {
        "seconds" => "s",
        "bytes" => "By",
        "ratios" => "1",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::EncodeLabelSet;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family;
    use prometheus_client::metrics::gauge;
    use prometheus_client::metrics::histogram;
    use prometheus_client::registry::{Registry, Unit};

    use super::super::{metrics_text, register_identity};
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
    struct Label {
        of: String,
    }

    fn numbers(metric: &Metric) -> Vec<(String, Number)> {
        let points = match metric.data.as_ref().unwrap() {
            Data::Sum(sum) => {
                assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
                assert!(sum.data_points.iter().all(|p| p.start_time_unix_nano == 5));
                &sum.data_points
            }
            Data::Gauge(gauge) => &gauge.data_points,
            other => panic!("{other:?}"),
        };
        assert!(points.iter().all(|p| p.time_unix_nano == 9));
        let of = |p: &NumberDataPoint| match p.attributes.first().and_then(|a| a.value.clone()?.value) {
            Some(Value::StringValue(of)) => of,
            _ => String::new(),
        };
        let mut all: Vec<_> = points.iter().map(|p| (of(p), p.value.unwrap())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    #[test]
    fn every_metric_of_the_text_is_in_the_request() {
        let mut registry = Registry::default();
        register_identity(&mut registry, "a-program", Some("a-1"));
        let sent = family::Family::<Label, Counter>::default();
        registry.register("sent", "What was sent", sent.clone());
        let hostile = "a \"b\"\\ {c},d=\"\n".to_owned();
        sent.get_or_create(&Label { of: hostile.clone() }).inc_by(7);
        sent.get_or_create(&Label { of: "x".into() }).inc();
        let (level, ratio): (gauge::Gauge, gauge::Gauge<f64, std::sync::atomic::AtomicU64>) =
            Default::default();
        registry.register_with_unit("level", "How full", Unit::Bytes, level.clone());
        registry.register("ratio", "A part", ratio.clone());
        level.set(-3);
        ratio.set(0.25);
        let delay = histogram::Histogram::new([1.0, 10.0]);
        registry.register_with_unit("delay", "How long", Unit::Seconds, delay.clone());
        [0.5, 2.0, 3.0, 100.0].into_iter().for_each(|v| delay.observe(v));

        let report = Report::new("a-program", &[("satellite.id", "sat-1")], 5);
        let request = report.metrics(&metrics_text(&registry), 9);
        let request = ExportMetricsServiceRequest::decode(request).unwrap();
        let resource = &request.resource_metrics[0];
        let attributes = &resource.resource.as_ref().unwrap().attributes;
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            *attributes,
            [
                text("service.name", "a-program"),
                text("service.version", version),
                text("satellite.id", "sat-1")
            ]
        );
        let metrics = &resource.scope_metrics[0].metrics;
        let names: Vec<_> = metrics.iter().map(|m| (&*m.name, &*m.unit, &*m.description)).collect();
        let expected = [
            ("sent", "", "What was sent"),
            ("level_bytes", "By", "How full"),
            ("ratio", "", "A part"),
            ("delay_seconds", "s", "How long"),
        ];
        assert_eq!(names, expected);
        assert_eq!(numbers(&metrics[0]), [(hostile, Number::AsInt(7)), ("x".into(), Number::AsInt(1))]);
        assert_eq!(numbers(&metrics[1]), [(String::new(), Number::AsInt(-3))]);
        assert_eq!(numbers(&metrics[2]), [(String::new(), Number::AsDouble(0.25))]);
        let Some(Data::Histogram(delays)) = &metrics[3].data else { panic!() };
        let point = &delays.data_points[0];
        assert_eq!((point.count, point.sum), (4, Some(105.5)));
        assert_eq!(
            (&point.bucket_counts[..], &point.explicit_bounds[..]),
            (&[1, 2, 1][..], &[1.0, 10.0][..])
        );
    }
}
