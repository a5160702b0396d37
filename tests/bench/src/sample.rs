//! Spans of three services as their SDKs would send them, generated: the same ones every time.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use perigee_shared::signal::Signal;
use prost::Message;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::corpus::Corpus;

const SERVICES: [&str; 3] = ["telecommand", "imager", "store"];
const ROUTES: [&str; 6] = ["/capture", "/downlink/{id}", "/status", "/frames/{id}", "/schedule", "/health"];
const TRACES: usize = 10_000;
const SPANS_PER_REQUEST: usize = 512;
const START: u64 = 1_750_000_000_000_000_000;

/// 60,000 spans in requests of at most 512, each of one service.
pub(crate) fn spans() -> Corpus {
    let mut rng = SmallRng::seed_from_u64(3);
    let mut waiting: [Vec<Span>; 3] = Default::default();
    let mut requests = Vec::new();
    for n in 0..TRACES {
        for (service, span) in trace(&mut rng, START + n as u64 * 2_000_000) {
            waiting[service].push(span);
            if waiting[service].len() == SPANS_PER_REQUEST {
                requests.push(request(service, std::mem::take(&mut waiting[service])));
            }
        }
    }
    requests.extend(waiting.into_iter().enumerate().map(|(service, spans)| request(service, spans)));
    Corpus { name: "generated-traces".to_owned(), signal: Signal::Traces, requests }
}

/// One user request: a server and a client span in two services, a server and an internal one in the last.
fn trace(rng: &mut SmallRng, at: u64) -> Vec<(usize, Span)> {
    let trace_id = rng.random::<[u8; 16]>().to_vec();
    let route = ROUTES[rng.random_range(0..ROUTES.len())];
    let status = if rng.random_ratio(1, 50) { 500 } else { 200 };
    let (mut parent, mut start, mut length) = (Vec::new(), at, rng.random_range(3_000_000..80_000_000));
    let mut spans = Vec::new();
    for (service, name) in SERVICES.iter().enumerate() {
        for inner in [false, true] {
            let span_id = rng.random::<[u8; 8]>().to_vec();
            let (kind, attributes) = match (inner, service) {
                (false, _) => (2, server_attributes(rng, route, status, name)),
                (true, 2) => {
                    (1, vec![text("db.system.name", "redb"), number("db.rows", rng.random_range(0..40))])
                }
                (true, _) => (3, client_attributes(route, status, SERVICES[service + 1])),
            };
            let span = Span {
                trace_id: trace_id.clone(),
                span_id: span_id.clone(),
                parent_span_id: std::mem::replace(&mut parent, span_id),
                flags: 0x101,
                name: if kind == 1 { "lookup".to_owned() } else { format!("GET {route}") },
                kind,
                start_time_unix_nano: start,
                end_time_unix_nano: start + length,
                attributes,
                status: Some(Status { code: if status == 500 { 2 } else { 0 }, ..Status::default() }),
                ..Span::default()
            };
            spans.push((service, span));
            let inside = rng.random_range(20_000..length / 4);
            start += inside;
            length -= 2 * inside;
        }
    }
    spans
}

fn server_attributes(rng: &mut SmallRng, route: &str, status: i64, name: &str) -> Vec<KeyValue> {
    vec![
        text("http.request.method", "GET"),
        text("http.route", route),
        text("url.path", &route.replace("{id}", &rng.random_range(0..5000).to_string())),
        text("url.scheme", "http"),
        text("server.address", name),
        number("client.port", rng.random_range(32_768..61_000)),
        number("http.response.status_code", status),
    ]
}

fn client_attributes(route: &str, status: i64, to: &str) -> Vec<KeyValue> {
    vec![
        text("http.request.method", "GET"),
        text("url.full", &format!("http://{to}:8080{route}")),
        number("http.response.status_code", status),
    ]
}

fn request(service: usize, spans: Vec<Span>) -> Vec<u8> {
    let name = SERVICES[service];
    let resource = Resource {
        attributes: vec![
            text("service.name", name),
            text("service.version", "1.4.2"),
            text("service.instance.id", &format!("{name}-0")),
            text("host.name", "obc-1"),
            text("telemetry.sdk.language", "rust"),
            text("telemetry.sdk.name", "opentelemetry"),
            text("telemetry.sdk.version", "0.33.0"),
        ],
        ..Resource::default()
    };
    let scope =
        InstrumentationScope { name: "http".to_owned(), version: "0.33".to_owned(), ..Default::default() };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, schema_url: String::new() }];
    let resource_spans =
        vec![ResourceSpans { resource: Some(resource), scope_spans, schema_url: String::new() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), key_strindex: 0 }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_the_same_every_time() {
        let sample = spans();
        assert_eq!(sample.requests, spans().requests);
        let bytes: usize = sample.requests.iter().map(Vec::len).sum();
        assert!((150..350).contains(&(bytes / (TRACES * 6))), "{bytes}");
    }
}
