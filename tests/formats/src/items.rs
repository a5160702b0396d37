//! Telemetry as plain values: requests by their hash, items by their number.
//!
//! The fixtures number their items over all signals. Item n has the time [`T0`] + n ms, so that a test can say which items a
//! store holds, whichever codec and lane they went through.

use std::collections::BTreeMap;

use anyhow::Result;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use perigee_proto::link;
use perigee_shared::otlp::walk::walk;
use perigee_shared::segment::Request;
use perigee_shared::signal::{Counts, Signal};
use prost::Message as _;
use serde::Serialize;

/// The time of item 0, ns since the Unix epoch.
pub const T0: u64 = 1_700_000_000_000_000_000;

/// Numbers of items by signal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Items {
    /// Spans.
    pub spans: u64,
    /// Metric data points.
    pub metric_points: u64,
    /// Log records.
    pub log_records: u64,
}

impl From<Counts> for Items {
    fn from(counts: Counts) -> Self {
        let link::Counts { spans, metric_points, log_records } = counts.into();
        Self { spans, metric_points, log_records }
    }
}

impl From<link::Counts> for Items {
    fn from(counts: link::Counts) -> Self {
        Counts::from(counts).into()
    }
}

/// An export request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RequestDigest {
    /// Its signal.
    pub signal: &'static str,
    /// Items in it.
    pub items: u64,
    /// Of its bytes, in hexadecimal digits.
    pub blake3: String,
}

/// A request as [`RequestDigest`] has it.
pub fn digest(signal: Signal, body: &[u8]) -> RequestDigest {
    // A request that is not OTLP has no items; codecs carry it all the same.
    let items = walk(signal, body).map_or(0, |walked| walked.items);
    RequestDigest { signal: signal.name(), items, blake3: blake3::hash(body).to_hex().to_string() }
}

/// Requests and the numbers of their items.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Content {
    /// The requests in their order.
    pub requests: Vec<RequestDigest>,
    /// The items by signal: first and last number of each run, both included.
    pub items: BTreeMap<&'static str, Vec<(u64, u64)>>,
}

impl Content {
    /// What `requests` hold.
    pub fn of(requests: &[Request]) -> Result<Self> {
        let mut numbers: BTreeMap<&'static str, Vec<u64>> = BTreeMap::new();
        for request in requests {
            let times = times(request)?;
            let of = times.into_iter().map(|time| time.saturating_sub(T0) / 1_000_000);
            numbers.entry(request.signal.name()).or_default().extend(of);
        }
        Ok(Self {
            requests: requests.iter().map(|r| digest(r.signal, &r.body)).collect(),
            items: numbers.into_iter().map(|(signal, numbers)| (signal, runs(numbers))).collect(),
        })
    }
}

fn runs(mut numbers: Vec<u64>) -> Vec<(u64, u64)> {
    numbers.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for n in numbers {
        match out.last_mut() {
            Some((_, last)) if *last + 1 == n => *last = n,
            _ => out.push((n, n)),
        }
    }
    out
}

/// The time of each item.
fn times(request: &Request) -> Result<Vec<u64>> {
    let body = request.body.clone();
    Ok(match request.signal {
        Signal::Traces => {
            let scopes = ExportTraceServiceRequest::decode(body)?.resource_spans;
            let spans = scopes.into_iter().flat_map(|r| r.scope_spans).flat_map(|s| s.spans);
            spans.map(|s| s.start_time_unix_nano).collect()
        }
        Signal::Logs => {
            let scopes = ExportLogsServiceRequest::decode(body)?.resource_logs;
            let records = scopes.into_iter().flat_map(|r| r.scope_logs).flat_map(|s| s.log_records);
            records.map(|r| r.time_unix_nano).collect()
        }
        Signal::Metrics => {
            let scopes = ExportMetricsServiceRequest::decode(body)?.resource_metrics;
            let metrics = scopes.into_iter().flat_map(|r| r.scope_metrics).flat_map(|s| s.metrics);
            metrics.filter_map(|m| m.data).flat_map(point_times).collect()
        }
    })
}

fn point_times(data: Data) -> Vec<u64> {
    match data {
        Data::Gauge(d) => d.data_points.iter().map(|p| p.time_unix_nano).collect(),
        Data::Sum(d) => d.data_points.iter().map(|p| p.time_unix_nano).collect(),
        Data::Histogram(d) => d.data_points.iter().map(|p| p.time_unix_nano).collect(),
        Data::ExponentialHistogram(d) => d.data_points.iter().map(|p| p.time_unix_nano).collect(),
        Data::Summary(d) => d.data_points.iter().map(|p| p.time_unix_nano).collect(),
    }
}
