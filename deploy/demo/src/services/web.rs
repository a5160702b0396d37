//! HTTP between the services, as instrumentation sees it: spans with W3C traceparent, durations, failures.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::logs::Severity;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{FutureExt, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tokio::time::Instant;

use super::Service;

/// An answer is read up to this size.
const MAX_ANSWER: usize = 64 << 10;

/// An HTTP client.
#[derive(Clone)]
pub(crate) struct Client(legacy::Client<HttpConnector, Full<Bytes>>);

impl Client {
    /// A client with connections of its own.
    pub(crate) fn new() -> Self {
        Self(legacy::Client::builder(TokioExecutor::new()).build_http())
    }

    /// The status that an empty request is answered with.
    pub(crate) async fn send(&self, method: Method, url: &str) -> anyhow::Result<StatusCode> {
        let request = http::Request::builder()
            .method(method)
            .uri(url)
            .header(http::header::CONTENT_TYPE, "application/x-protobuf")
            .body(Full::default())?;
        Ok(self.0.request(request).await?.status())
    }

    /// The answer to a GET.
    pub(crate) async fn get(&self, url: &str, headers: HeaderMap) -> anyhow::Result<(StatusCode, String)> {
        let mut request = http::Request::get(url).body(Full::default())?;
        *request.headers_mut() = headers;
        let response = self.0.request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|e| anyhow::anyhow!("the answer broke off: {e}"))?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

struct Headers<H>(H);

impl Injector for Headers<&mut HeaderMap> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(key), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(key, value);
        }
    }
}

impl Extractor for Headers<&HeaderMap> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

/// Asks another service, as a span of the active trace.
pub(super) async fn ask(service: &Service, url: &str) -> Result<String, StatusCode> {
    let tracer = &service.telemetry.tracer;
    let attributes = [KeyValue::new("http.request.method", "GET"), KeyValue::new("url.full", url.to_owned())];
    let span =
        tracer.span_builder("GET").with_kind(SpanKind::Client).with_attributes(attributes).start(tracer);
    let cx = Context::current_with_span(span);
    let mut headers = HeaderMap::new();
    TraceContextPropagator::new().inject_context(&cx, &mut Headers(&mut headers));
    let answer = service.client.get(url, headers).with_context(cx.clone()).await;
    let result = match answer {
        Ok((status, body)) => {
            cx.span().set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
            if status.is_success() { Ok(body) } else { Err(status) }
        }
        Err(_) => Err(StatusCode::BAD_GATEWAY),
    };
    if let Err(status) = result {
        cx.span().set_status(Status::error(status.to_string()));
    }
    cx.span().end();
    result
}

/// A span, a duration and, for a failure, a log record for each request that a service is asked.
pub(super) async fn watch(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let telemetry = &service.telemetry;
    let route = request.extensions().get::<MatchedPath>().map_or("unknown", MatchedPath::as_str).to_owned();
    let attributes = [
        KeyValue::new("http.request.method", request.method().to_string()),
        KeyValue::new("http.route", route.clone()),
        KeyValue::new("url.path", request.uri().path().to_owned()),
    ];
    let parent = TraceContextPropagator::new().extract(&Headers(request.headers()));
    let span = telemetry
        .tracer
        .span_builder(format!("{} {route}", request.method()))
        .with_kind(SpanKind::Server)
        .with_attributes(attributes)
        .start_with_context(&telemetry.tracer, &parent);
    let cx = parent.with_span(span);
    let of_route = [KeyValue::new("http.route", route)];
    telemetry.active.add(1, &of_route);
    let began = Instant::now();
    let response = next.run(request).with_context(cx.clone()).await;
    telemetry.active.add(-1, &of_route);
    let status = response.status();
    let [route] = of_route;
    let answered = [route, KeyValue::new("http.response.status_code", i64::from(status.as_u16()))];
    telemetry.duration.record(began.elapsed().as_secs_f64(), &answered);
    if status.is_server_error() {
        telemetry.failed.add(1, &answered[..1]);
        cx.span().set_status(Status::error(status.to_string()));
        let _active = cx.clone().attach();
        telemetry.log(Severity::Warn, "request failed", answered.to_vec());
    }
    cx.span().set_attributes(answered);
    cx.span().end();
    response
}
