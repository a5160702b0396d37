//! Requests of an exact number of items from requests of any size: items keep their order, resource, scope and metric.

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogram, Gauge, Histogram, Metric, ResourceMetrics, ScopeMetrics, Sum, Summary,
};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use perigee_shared::signal::Signal;
use prost::Message;

/// Cuts `requests` of `signal` anew, `size` items in each; a rest of fewer items is left out unless `rest` is set.
pub(crate) fn recut(
    signal: Signal,
    requests: &[Vec<u8>],
    size: usize,
    rest: bool,
) -> anyhow::Result<Vec<Bytes>> {
    match signal {
        Signal::Traces => recut_as::<ExportTraceServiceRequest>(requests, size, rest),
        Signal::Metrics => recut_as::<ExportMetricsServiceRequest>(requests, size, rest),
        Signal::Logs => recut_as::<ExportLogsServiceRequest>(requests, size, rest),
    }
}

fn recut_as<R: Request>(requests: &[Vec<u8>], size: usize, rest: bool) -> anyhow::Result<Vec<Bytes>> {
    let mut out = Vec::new();
    let (mut next, mut items) = (R::default(), 0);
    for request in requests {
        R::decode(request.as_slice())?.each(&mut |single, shared| {
            next.join(single, if items == 0 { 0 } else { shared });
            items += 1;
            if items == size {
                out.push(Bytes::from(std::mem::take(&mut next).encode_to_vec()));
                items = 0;
            }
        });
    }
    if rest && items > 0 {
        out.push(Bytes::from(next.encode_to_vec()));
    }
    Ok(out)
}

/// An export request that falls apart into single items and is put together from them.
trait Request: Message + Default {
    /// Hands over each item as a request of its own, with the number of containers (resource, scope, metric) that it has in
    /// common with the item before.
    fn each(self, take: &mut impl FnMut(Self, usize));

    /// Adds a single item that has `shared` containers in common with the last one here.
    fn join(&mut self, single: Self, shared: usize);
}

/// Adds what `single` has to the last of `out`, or all of it when nothing is `shared`.
fn append<T>(out: &mut Vec<T>, mut single: Vec<T>, shared: usize, inside: impl FnOnce(&mut T, T, usize)) {
    match (out.last_mut(), shared) {
        (Some(last), 1..) => {
            if let Some(single) = single.pop() {
                inside(last, single, shared - 1);
            }
        }
        _ => out.append(&mut single),
    }
}

impl Request for ExportTraceServiceRequest {
    fn each(self, take: &mut impl FnMut(Self, usize)) {
        for mut resource in self.resource_spans {
            let mut shared = 0;
            for mut scope in std::mem::take(&mut resource.scope_spans) {
                for span in std::mem::take(&mut scope.spans) {
                    let scope_spans = vec![ScopeSpans { spans: vec![span], ..scope.clone() }];
                    let resource_spans = vec![ResourceSpans { scope_spans, ..resource.clone() }];
                    take(Self { resource_spans }, shared);
                    shared = 2;
                }
                shared = shared.min(1);
            }
        }
    }

    fn join(&mut self, single: Self, shared: usize) {
        append(&mut self.resource_spans, single.resource_spans, shared, |out, single, shared| {
            append(&mut out.scope_spans, single.scope_spans, shared, |out, mut single, _| {
                out.spans.append(&mut single.spans);
            });
        });
    }
}

impl Request for ExportLogsServiceRequest {
    fn each(self, take: &mut impl FnMut(Self, usize)) {
        for mut resource in self.resource_logs {
            let mut shared = 0;
            for mut scope in std::mem::take(&mut resource.scope_logs) {
                for record in std::mem::take(&mut scope.log_records) {
                    let scope_logs = vec![ScopeLogs { log_records: vec![record], ..scope.clone() }];
                    let resource_logs = vec![ResourceLogs { scope_logs, ..resource.clone() }];
                    take(Self { resource_logs }, shared);
                    shared = 2;
                }
                shared = shared.min(1);
            }
        }
    }

    fn join(&mut self, single: Self, shared: usize) {
        append(&mut self.resource_logs, single.resource_logs, shared, |out, single, shared| {
            append(&mut out.scope_logs, single.scope_logs, shared, |out, mut single, _| {
                out.log_records.append(&mut single.log_records);
            });
        });
    }
}

impl Request for ExportMetricsServiceRequest {
    fn each(self, take: &mut impl FnMut(Self, usize)) {
        for mut resource in self.resource_metrics {
            let mut shared = 0;
            for mut scope in std::mem::take(&mut resource.scope_metrics) {
                for mut metric in std::mem::take(&mut scope.metrics) {
                    for data in metric.data.take().map(points).unwrap_or_default() {
                        let metrics = vec![Metric { data: Some(data), ..metric.clone() }];
                        let scope_metrics = vec![ScopeMetrics { metrics, ..scope.clone() }];
                        let resource_metrics = vec![ResourceMetrics { scope_metrics, ..resource.clone() }];
                        take(Self { resource_metrics }, shared);
                        shared = 3;
                    }
                    shared = shared.min(2);
                }
                shared = shared.min(1);
            }
        }
    }

    fn join(&mut self, single: Self, shared: usize) {
        append(&mut self.resource_metrics, single.resource_metrics, shared, |out, single, shared| {
            append(&mut out.scope_metrics, single.scope_metrics, shared, |out, single, shared| {
                append(&mut out.metrics, single.metrics, shared, |out, single, _| {
                    if let (Some(out), Some(single)) = (&mut out.data, single.data) {
                        add_point(out, single);
                    }
                });
            });
        });
    }
}

/// Each data point as data of its own.
fn points(data: Data) -> Vec<Data> {
    match data {
        Data::Gauge(Gauge { data_points }) => {
            data_points.into_iter().map(|p| Data::Gauge(Gauge { data_points: vec![p] })).collect()
        }
        Data::Sum(mut sum) => {
            let all = std::mem::take(&mut sum.data_points);
            all.into_iter().map(|p| Data::Sum(Sum { data_points: vec![p], ..sum })).collect()
        }
        Data::Histogram(Histogram { data_points, aggregation_temporality }) => data_points
            .into_iter()
            .map(|p| Data::Histogram(Histogram { data_points: vec![p], aggregation_temporality }))
            .collect(),
        Data::ExponentialHistogram(ExponentialHistogram { data_points, aggregation_temporality }) => {
            data_points
                .into_iter()
                .map(|p| ExponentialHistogram { data_points: vec![p], aggregation_temporality })
                .map(Data::ExponentialHistogram)
                .collect()
        }
        Data::Summary(Summary { data_points }) => {
            data_points.into_iter().map(|p| Data::Summary(Summary { data_points: vec![p] })).collect()
        }
    }
}

/// Adds the point of `single`, which is of the same kind.
fn add_point(out: &mut Data, single: Data) {
    match (out, single) {
        (Data::Gauge(out), Data::Gauge(single)) => out.data_points.extend(single.data_points),
        (Data::Sum(out), Data::Sum(single)) => out.data_points.extend(single.data_points),
        (Data::Histogram(out), Data::Histogram(single)) => out.data_points.extend(single.data_points),
        (Data::ExponentialHistogram(out), Data::ExponentialHistogram(single)) => {
            out.data_points.extend(single.data_points);
        }
        (Data::Summary(out), Data::Summary(single)) => out.data_points.extend(single.data_points),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::metrics::v1::NumberDataPoint;
    use perigee_shared::otlp::walk::walk;

    use super::*;
    use crate::sample;

    #[test]
    fn spans_are_cut_to_the_number_and_none_is_changed() {
        let requests = sample::spans().requests;
        let names = |request: &[u8]| -> Vec<_> {
            let request = ExportTraceServiceRequest::decode(request).unwrap();
            let resources = request.resource_spans.into_iter();
            resources
                .flat_map(|r| r.scope_spans.into_iter().map(move |s| (r.resource.clone(), s)))
                .flat_map(|(r, s)| s.spans.into_iter().map(move |span| (r.clone(), s.scope.clone(), span)))
                .collect()
        };
        let before: Vec<_> = requests.iter().flat_map(|r| names(r)).collect();
        for size in [1, 10, 1000] {
            let cut = recut(Signal::Traces, &requests, size, false).unwrap();
            assert!(cut.iter().all(|r| walk(Signal::Traces, r).unwrap().items == size as u64));
            let after: Vec<_> = cut.iter().flat_map(|r| names(r)).collect();
            assert_eq!(after.len(), before.len() / size * size);
            assert!(before.starts_with(&after));
        }
    }

    #[test]
    fn points_of_one_metric_stay_together_and_a_whole_request_comes_back() {
        let point = |n| NumberDataPoint { time_unix_nano: n, ..NumberDataPoint::default() };
        let metric = |name: &str, from| Metric {
            name: name.to_owned(),
            data: Some(Data::Sum(Sum {
                data_points: (from..from + 5).map(point).collect(),
                ..Sum::default()
            })),
            ..Metric::default()
        };
        let scope = |from| ScopeMetrics {
            metrics: vec![metric("a", from), metric("b", from)],
            schema_url: "s".to_owned(),
            ..ScopeMetrics::default()
        };
        let resource =
            ResourceMetrics { scope_metrics: vec![scope(0), scope(5)], ..ResourceMetrics::default() };
        let whole = ExportMetricsServiceRequest { resource_metrics: vec![resource.clone(), resource] };
        let bytes = [whole.encode_to_vec()];
        let cut = recut(Signal::Metrics, &bytes, 40, false).unwrap();
        assert_eq!(ExportMetricsServiceRequest::decode(cut[0].clone()).unwrap(), whole);
        let cut = recut(Signal::Metrics, &bytes, 4, false).unwrap();
        assert_eq!(cut.len(), 10);
        assert!(cut.iter().all(|r| walk(Signal::Metrics, r).unwrap().items == 4));
    }
}
