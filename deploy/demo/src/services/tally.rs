//! What the services sent and what they were told about it, by signal.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::logs::tonic::group_logs_by_resource_and_scope;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, LogExporter};
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use perigee_shared::signal::Signal;
use prost::Message;

/// Items and bytes of requests.
#[derive(Default)]
struct Sum {
    items: AtomicU64,
    bytes: AtomicU64,
}

/// Counts of one signal.
#[derive(Default)]
struct OfSignal {
    acknowledged: Sum,
    failed: Sum,
}

/// Counts of all services. Clones count together.
#[derive(Clone, Default)]
pub(crate) struct Tally(Arc<[OfSignal; 3]>);

impl Tally {
    fn of(&self, signal: Signal) -> &OfSignal {
        &self.0[signal as usize - 1]
    }

    fn add(&self, signal: Signal, items: u64, bytes: usize, result: &OTelSdkResult) {
        let counts = self.of(signal);
        let sum = if result.is_ok() { &counts.acknowledged } else { &counts.failed };
        sum.items.fetch_add(items, Relaxed);
        sum.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Items that were answered with success.
    pub(crate) fn acknowledged(&self, signal: Signal) -> u64 {
        self.of(signal).acknowledged.items.load(Relaxed)
    }

    /// Bytes of the requests that were answered with success: protobuf, not compressed.
    pub(crate) fn raw_bytes(&self, signal: Signal) -> u64 {
        self.of(signal).acknowledged.bytes.load(Relaxed)
    }

    /// Items that were refused, or whose answer was lost.
    pub(crate) fn failed(&self, signal: Signal) -> u64 {
        self.of(signal).failed.items.load(Relaxed)
    }
}

/// An SDK exporter whose requests are counted.
pub(crate) struct Counted<E> {
    inner: E,
    tally: Tally,
    resource: ResourceAttributesWithSchema,
}

impl<E> Counted<E> {
    /// Counts what `inner` sends for `resource` in `tally`.
    pub(crate) fn new(inner: E, tally: &Tally, resource: &Resource) -> Self {
        Self { inner, tally: tally.clone(), resource: resource.into() }
    }
}

impl<E> fmt::Debug for Counted<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counted")
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let items = batch.len() as u64;
        let resource_spans = group_spans_by_resource_and_scope(batch.clone(), &self.resource);
        let bytes = ExportTraceServiceRequest { resource_spans }.encoded_len();
        let result = self.inner.export(batch).await;
        self.tally.add(Signal::Traces, items, bytes, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E: LogExporter> LogExporter for Counted<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let items = batch.iter().count() as u64;
        let resource_logs = group_logs_by_resource_and_scope(&batch, &self.resource);
        let bytes = ExportLogsServiceRequest { resource_logs }.encoded_len();
        let result = self.inner.export(batch).await;
        self.tally.add(Signal::Logs, items, bytes, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Counted<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let request = ExportMetricsServiceRequest::from(metrics);
        let (items, bytes) = (points(&request), request.encoded_len());
        let result = self.inner.export(metrics).await;
        self.tally.add(Signal::Metrics, items, bytes, &result);
        result
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.inner.temporality()
    }
}

/// Data points of a request.
fn points(request: &ExportMetricsServiceRequest) -> u64 {
    let scopes = request.resource_metrics.iter().flat_map(|r| &r.scope_metrics);
    let points = scopes.flat_map(|s| &s.metrics).filter_map(|m| m.data.as_ref()).map(|data| match data {
        Data::Gauge(d) => d.data_points.len(),
        Data::Sum(d) => d.data_points.len(),
        Data::Histogram(d) => d.data_points.len(),
        Data::ExponentialHistogram(d) => d.data_points.len(),
        Data::Summary(d) => d.data_points.len(),
    });
    points.sum::<usize>() as u64
}
