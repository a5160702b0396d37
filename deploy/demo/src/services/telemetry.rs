//! One service's OpenTelemetry SDK: providers of its own for traces, metrics and logs.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity};
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, MeterProvider as _, UpDownCounter};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{LogExporter, MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{self, BatchLogProcessor, SdkLogger, SdkLoggerProvider};
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{self, BatchSpanProcessor, SdkTracer, SdkTracerProvider};

use super::tally::{Counted, Tally};

/// What an SDK collects before it sends; its own 5 s would hide what a contact of seconds does.
const DELAY: Duration = Duration::from_millis(500);
/// Between two reports of all metrics.
const METRIC_INTERVAL: Duration = Duration::from_secs(2);

/// See the module.
pub(crate) struct Telemetry {
    traces: SdkTracerProvider,
    metrics: SdkMeterProvider,
    logs: SdkLoggerProvider,
    /// Makes spans.
    pub(crate) tracer: SdkTracer,
    logger: SdkLogger,
    meter: Meter,
    gauges: Mutex<BTreeMap<&'static str, Gauge<f64>>>,
    /// How long requests took, s.
    pub(crate) duration: Histogram<f64>,
    /// Requests at work.
    pub(crate) active: UpDownCounter<i64>,
    /// Requests that failed.
    pub(crate) failed: Counter<u64>,
}

impl Telemetry {
    /// Providers of the service `name` that send to `otlp` (HOST:PORT); must be called inside a tokio runtime.
    pub(crate) fn try_new(name: &'static str, otlp: &str, tally: &Tally) -> anyhow::Result<Self> {
        let url = format!("http://{otlp}");
        let resource = Resource::builder()
            .with_service_name(name)
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", format!("{name}-1")),
            ])
            .build();
        let spans = SpanExporter::builder().with_tonic().with_endpoint(&url).build()?;
        let spans = BatchSpanProcessor::builder(Counted::new(spans, tally, &resource))
            .with_batch_config(trace::BatchConfigBuilder::default().with_scheduled_delay(DELAY).build())
            .build();
        let traces =
            SdkTracerProvider::builder().with_resource(resource.clone()).with_span_processor(spans).build();
        let points = MetricExporter::builder().with_tonic().with_endpoint(&url).build()?;
        let reader = PeriodicReader::builder(Counted::new(points, tally, &resource));
        let metrics = SdkMeterProvider::builder()
            .with_resource(resource.clone())
            .with_reader(reader.with_interval(METRIC_INTERVAL).build())
            .build();
        let records = LogExporter::builder().with_tonic().with_endpoint(&url).build()?;
        let records = BatchLogProcessor::builder(Counted::new(records, tally, &resource))
            .with_batch_config(logs::BatchConfigBuilder::default().with_scheduled_delay(DELAY).build())
            .build();
        let logs =
            SdkLoggerProvider::builder().with_resource(resource.clone()).with_log_processor(records).build();
        let meter = metrics.meter("demo");
        Ok(Self {
            tracer: traces.tracer("demo"),
            logger: logs.logger("demo"),
            gauges: Mutex::default(),
            duration: meter.f64_histogram("http.server.request.duration").with_unit("s").build(),
            active: meter.i64_up_down_counter("http.server.active_requests").with_unit("{request}").build(),
            failed: meter.u64_counter("http.server.failed_requests").with_unit("{request}").build(),
            meter,
            traces,
            metrics,
            logs,
        })
    }

    /// A log record; it carries the span that is active.
    pub(crate) fn log(&self, severity: Severity, text: &'static str, attributes: Vec<KeyValue>) {
        let mut record = self.logger.create_log_record();
        record.set_timestamp(std::time::SystemTime::now());
        record.set_severity_number(severity);
        record.set_severity_text(severity.name());
        record.set_body(AnyValue::from(text));
        for KeyValue { key, value, .. } in attributes {
            record.add_attribute(key, any(value));
        }
        self.logger.emit(record);
    }

    /// A gauge's value.
    pub(crate) fn measure(&self, name: &'static str, value: f64) {
        let mut gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.entry(name).or_insert_with(|| self.meter.f64_gauge(name).build()).record(value, &[]);
    }

    /// Sends the log records that are held; blocks.
    pub(crate) fn flush_logs(&self) -> anyhow::Result<()> {
        Ok(self.logs.force_flush()?)
    }

    /// Sends what is held, then ends; blocks.
    pub(crate) fn shutdown(&self) {
        // What could not be sent is in the tally as failed.
        let _ = self.traces.shutdown();
        let _ = self.metrics.shutdown();
        let _ = self.logs.shutdown();
    }
}

fn any(value: opentelemetry::Value) -> AnyValue {
    match value {
        opentelemetry::Value::Bool(b) => b.into(),
        opentelemetry::Value::I64(n) => n.into(),
        opentelemetry::Value::F64(n) => n.into(),
        other => other.as_str().into_owned().into(),
    }
}
