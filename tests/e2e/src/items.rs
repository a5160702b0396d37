//! Telemetry whose items can be told apart.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use perigee_shared::signal::Signal;
use prost::Message;
use rand::RngCore;

const ID: &str = "item.id";

/// Now, in ns since the Unix epoch.
pub fn now_nano() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// One export request.
#[derive(Debug, Clone)]
pub struct Batch {
    /// What its items are.
    pub signal: Signal,
    /// The id of each item, in its attribute `item.id`.
    pub ids: Vec<String>,
    /// Random bytes in each item, which no codec makes smaller.
    pub padding: usize,
    /// The items' timestamp.
    pub time_unix_nano: u64,
    /// The severity of log records; INFO at first.
    pub severity: i32,
}

impl Batch {
    /// `count` items called `NAME-N`.
    pub fn new(signal: Signal, name: &str, count: usize, padding: usize) -> Self {
        let ids = (0..count).map(|n| format!("{name}-{n}")).collect();
        Self { signal, ids, padding, time_unix_nano: now_nano(), severity: 9 }
    }

    /// As protobuf.
    pub fn protobuf(&self) -> Bytes {
        match self.signal {
            Signal::Traces => self.traces().encode_to_vec().into(),
            Signal::Metrics => self.metrics().encode_to_vec().into(),
            Signal::Logs => self.logs().encode_to_vec().into(),
        }
    }

    /// As OTLP JSON.
    pub fn json(&self) -> Bytes {
        match self.signal {
            Signal::Traces => serde_json::to_vec(&self.traces()).unwrap().into(),
            Signal::Metrics => serde_json::to_vec(&self.metrics()).unwrap().into(),
            Signal::Logs => serde_json::to_vec(&self.logs()).unwrap().into(),
        }
    }

    fn attributes(&self, id: &str) -> Vec<KeyValue> {
        let mut out = vec![attribute(ID, Value::StringValue(id.to_owned()))];
        if self.padding > 0 {
            let mut bytes = vec![0; self.padding];
            rand::rng().fill_bytes(&mut bytes);
            out.push(attribute("padding", Value::BytesValue(bytes)));
        }
        out
    }

    fn traces(&self) -> ExportTraceServiceRequest {
        let mut random = [0; 24];
        let spans = self.ids.iter().map(|id| {
            rand::rng().fill_bytes(&mut random);
            Span {
                trace_id: random[..16].to_vec(),
                span_id: random[16..].to_vec(),
                name: "attitude.update".into(),
                start_time_unix_nano: self.time_unix_nano,
                end_time_unix_nano: self.time_unix_nano + 1_000,
                attributes: self.attributes(id),
                ..Span::default()
            }
        });
        let scope_spans =
            vec![ScopeSpans { scope: scope(), spans: spans.collect(), ..ScopeSpans::default() }];
        let of_resource = ResourceSpans { resource: resource(), scope_spans, ..ResourceSpans::default() };
        ExportTraceServiceRequest { resource_spans: vec![of_resource] }
    }

    fn logs(&self) -> ExportLogsServiceRequest {
        let records = self.ids.iter().map(|id| LogRecord {
            time_unix_nano: self.time_unix_nano,
            observed_time_unix_nano: self.time_unix_nano,
            severity_number: self.severity,
            attributes: self.attributes(id),
            ..LogRecord::default()
        });
        let scope_logs =
            vec![ScopeLogs { scope: scope(), log_records: records.collect(), ..ScopeLogs::default() }];
        let of_resource = ResourceLogs { resource: resource(), scope_logs, ..ResourceLogs::default() };
        ExportLogsServiceRequest { resource_logs: vec![of_resource] }
    }

    fn metrics(&self) -> ExportMetricsServiceRequest {
        let points = self.ids.iter().map(|id| NumberDataPoint {
            time_unix_nano: self.time_unix_nano,
            attributes: self.attributes(id),
            value: Some(number_data_point::Value::AsDouble(21.5)),
            ..NumberDataPoint::default()
        });
        let data = metric::Data::Gauge(Gauge { data_points: points.collect() });
        let metrics =
            vec![Metric { name: "battery.temperature".into(), data: Some(data), ..Metric::default() }];
        let scope_metrics = vec![ScopeMetrics { scope: scope(), metrics, ..ScopeMetrics::default() }];
        let of_resource =
            ResourceMetrics { resource: resource(), scope_metrics, ..ResourceMetrics::default() };
        ExportMetricsServiceRequest { resource_metrics: vec![of_resource] }
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn resource() -> Option<Resource> {
    let service = attribute("service.name", Value::StringValue("adcs".into()));
    Some(Resource { attributes: vec![service], ..Resource::default() })
}

fn scope() -> Option<InstrumentationScope> {
    Some(InstrumentationScope { name: "e2e".into(), ..InstrumentationScope::default() })
}

/// The item ids in lines of OTLP JSON, as the `file` exporter writes them.
pub fn ids_in(text: &str) -> impl Iterator<Item = &str> {
    const VALUE: &str = "\"stringValue\":\"";
    text.split("\"key\":\"item.id\"").skip(1).map(|rest| {
        let at = rest.find(VALUE).expect("an id is a string") + VALUE.len();
        rest[at..].split('"').next().expect("a string ends")
    })
}
