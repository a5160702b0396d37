//! `debug`: shows what passes.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use prost::{DecodeError, Message};

use super::config::{DebugConfig, Verbosity};
use super::outcome::Outcome;
use super::split::items;
use crate::signal::Signal;

/// Where lines go; each text ends with a newline and may have several.
pub type Sink = Arc<dyn Fn(&str) + Send + Sync>;

/// Standard output. A reader that is gone is no reason to stop.
pub fn stdout_sink() -> Sink {
    Arc::new(|text| drop(std::io::stdout().lock().write_all(text.as_bytes())))
}

/// A `debug` exporter.
pub struct Debug {
    verbosity: Verbosity,
    sink: Sink,
}

impl Debug {
    pub(super) fn new(config: &DebugConfig, sink: Sink) -> Self {
        Self { verbosity: config.verbosity, sink }
    }

    pub(super) fn send(&self, signal: Signal, body: &Bytes) -> Outcome {
        let Ok(items) = items(signal, body) else {
            return Outcome::unreadable();
        };
        let mut text = format!("{signal}: {items} {}, {} bytes\n", signal.items_name(), body.len());
        let described = match self.verbosity {
            Verbosity::Basic => Ok(()),
            Verbosity::Normal => normal(signal, body, &mut text),
            Verbosity::Detailed => detailed(signal, body, &mut text),
        };
        if described.is_err() {
            return Outcome::unreadable();
        }
        (self.sink)(&text);
        Outcome::ACCEPTED
    }
}

/// One line per item.
fn normal(signal: Signal, body: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let mut line = |text: std::fmt::Arguments<'_>| {
        // Writing to a String does not fail.
        let _ = writeln!(out, "  {text}");
    };
    match signal {
        Signal::Traces => {
            let request = ExportTraceServiceRequest::decode(body)?;
            let scopes = request.resource_spans.iter().flat_map(|r| &r.scope_spans);
            for span in scopes.flat_map(|s| &s.spans) {
                let id = |bytes: &[u8]| bytes.iter().fold(String::new(), |s, b| s + &format!("{b:02x}"));
                line(format_args!("{} {} {}", span.name, id(&span.trace_id), id(&span.span_id)));
            }
        }
        Signal::Logs => {
            let request = ExportLogsServiceRequest::decode(body)?;
            let scopes = request.resource_logs.iter().flat_map(|r| &r.scope_logs);
            for log in scopes.flat_map(|s| &s.log_records) {
                let body = log.body.as_ref().and_then(|b| b.value.as_ref());
                line(format_args!("{} {} {body:?}", log.time_unix_nano, log.severity_text));
            }
        }
        Signal::Metrics => {
            let request = ExportMetricsServiceRequest::decode(body)?;
            let scopes = request.resource_metrics.iter().flat_map(|r| &r.scope_metrics);
            for metric in scopes.flat_map(|s| &s.metrics) {
                let mut points = |times: &mut dyn Iterator<Item = u64>| {
                    times.for_each(|time| line(format_args!("{} at {time}", metric.name)));
                };
                match &metric.data {
                    Some(Data::Gauge(d)) => points(&mut d.data_points.iter().map(|p| p.time_unix_nano)),
                    Some(Data::Sum(d)) => points(&mut d.data_points.iter().map(|p| p.time_unix_nano)),
                    Some(Data::Histogram(d)) => points(&mut d.data_points.iter().map(|p| p.time_unix_nano)),
                    Some(Data::ExponentialHistogram(d)) => {
                        points(&mut d.data_points.iter().map(|p| p.time_unix_nano));
                    }
                    Some(Data::Summary(d)) => points(&mut d.data_points.iter().map(|p| p.time_unix_nano)),
                    None => {}
                }
            }
        }
    }
    Ok(())
}

/// Everything.
fn detailed(signal: Signal, body: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let _ = match signal {
        Signal::Traces => writeln!(out, "{:#?}", ExportTraceServiceRequest::decode(body)?),
        Signal::Metrics => writeln!(out, "{:#?}", ExportMetricsServiceRequest::decode(body)?),
        Signal::Logs => writeln!(out, "{:#?}", ExportLogsServiceRequest::decode(body)?),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::export::cut::tests::request;

    fn written(verbosity: Verbosity, signal: Signal, body: &Bytes) -> String {
        let text = Arc::new(Mutex::new(String::new()));
        let other = Arc::clone(&text);
        let sink: Sink = Arc::new(move |line| other.lock().unwrap().push_str(line));
        assert_eq!(
            Debug::new(&DebugConfig { verbosity, ..DebugConfig::default() }, sink).send(signal, body),
            Outcome::ACCEPTED
        );
        Arc::into_inner(text).unwrap().into_inner().unwrap()
    }

    #[test]
    fn each_verbosity_says_more() {
        for signal in Signal::ALL {
            let body = request(signal, &[2, 1]);
            let basic = written(Verbosity::Basic, signal, &body);
            assert!(basic.contains(&format!("3 {}", signal.items_name())) && basic.lines().count() == 1);
            assert_eq!(written(Verbosity::Normal, signal, &body).lines().count(), 4);
            assert!(written(Verbosity::Detailed, signal, &body).contains("service-1"));
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let config = DebugConfig { verbosity: Verbosity::Detailed, ..DebugConfig::default() };
        let out = Debug::new(&config, Arc::new(|_| ())).send(Signal::Logs, &Bytes::from_static(b"\x0a\xff"));
        assert!(matches!(out, Outcome::Refused { .. }));
    }
}
