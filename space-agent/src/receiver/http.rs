//! OTLP/HTTP: protobuf and JSON.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::post;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::service::TowerToHyperService;
use perigee_shared::compress::Encoding;
use perigee_shared::otlp::json;
use perigee_shared::otlp::status::Status;
use perigee_shared::serve::RouterService;
use perigee_shared::signal::Signal;
use tonic::Code;

use super::body::Pieces;
use super::{Intake, cors};
use crate::config::CorsConfig;
use crate::limiter::Permit;

/// How long the rest of a refused request is read.
const DISCARD_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// How much of it.
const DISCARD_BYTES: usize = 64 << 20;

/// How a request is written, and so its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Protobuf,
    Json,
}

impl Format {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        let media = value.split(';').next().unwrap_or_default().trim();
        if media.eq_ignore_ascii_case("application/x-protobuf") {
            Some(Self::Protobuf)
        } else if media.eq_ignore_ascii_case("application/json") {
            Some(Self::Json)
        } else {
            None
        }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        }
    }

    /// The answer without a word, which is full success: `partial_success` is unset.
    fn success(self) -> Response<Body> {
        let body = match self {
            Self::Protobuf => Bytes::new(),
            Self::Json => Bytes::from_static(b"{}"),
        };
        ([(header::CONTENT_TYPE, self.content_type())], body).into_response()
    }

    fn failure(self, code: StatusCode, status: &Status) -> Response<Body> {
        let body = match self {
            Self::Protobuf => status.to_protobuf(),
            Self::Json => status.to_json(),
        };
        let mut response = (code, [(header::CONTENT_TYPE, self.content_type())], body).into_response();
        if let Some(delay) = status.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, (delay.as_secs().max(1)).into());
        }
        response
    }
}

/// The HTTP status of a refusal.
fn status_code(status: &Status) -> StatusCode {
    match status.code {
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::ResourceExhausted => StatusCode::PAYLOAD_TOO_LARGE,
        Code::DeadlineExceeded => StatusCode::REQUEST_TIMEOUT,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// The service behind a listener.
pub(super) fn service(
    intake: Arc<Intake>,
    origins: Option<Arc<CorsConfig>>,
) -> impl hyper::service::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send>
+ Clone {
    let mut router = Router::new();
    for signal in Signal::ALL {
        let handler = move |State(intake): State<Arc<Intake>>, request: Request<Body>| async move {
            export(&intake, signal, request).await
        };
        router = router.route(signal.http_path(), post(handler).fallback(wrong_method));
    }
    let mut router = router.fallback(not_found).with_state(intake);
    if let Some(config) = origins {
        router = router.layer(from_fn_with_state(config, cors::cors));
    }
    TowerToHyperService::new(RouterService(router))
}

/// Reads the rest of a refused request, so that a client that is still writing gets to the answer.
pub(super) async fn forget<B: http_body::Body<Data = Bytes> + Unpin>(pieces: &mut Pieces<B>) {
    // A client that is too slow even now learns nothing.
    drop(tokio::time::timeout(DISCARD_TIMEOUT, pieces.discard(DISCARD_BYTES)).await);
}

/// What is said to a client of OTLP over gRPC, which reads the status in the head.
fn grpc_elsewhere(headers: &HeaderMap) -> Option<Response<Body>> {
    let kind = headers.get(header::CONTENT_TYPE)?.as_bytes();
    const MESSAGE: &str = "this port takes OTLP over HTTP; send OTLP over gRPC to the port of protocols.grpc, 4317 by default, or \
                           set the client's protocol to http/protobuf";
    kind.starts_with(b"application/grpc")
        .then(|| Status::refuse(Code::Unimplemented, MESSAGE).to_tonic().into_http())
}

async fn wrong_method(headers: HeaderMap, body: Body) -> Response<Body> {
    forget(&mut Pieces::new(body)).await;
    let status = Status::refuse(Code::Unimplemented, "OTLP is sent with POST");
    let format = Format::of(&headers).unwrap_or(Format::Json);
    let mut response = format.failure(StatusCode::METHOD_NOT_ALLOWED, &status);
    response.headers_mut().insert(header::ALLOW, http::HeaderValue::from_static("POST"));
    response
}

async fn not_found(headers: HeaderMap, body: Body) -> Response<Body> {
    forget(&mut Pieces::new(body)).await;
    if let Some(answer) = grpc_elsewhere(&headers) {
        return answer;
    }
    let status = Status::refuse(Code::NotFound, "OTLP is at /v1/traces, /v1/metrics and /v1/logs");
    Format::of(&headers).unwrap_or(Format::Json).failure(StatusCode::NOT_FOUND, &status)
}

async fn export(intake: &Intake, signal: Signal, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut pieces = Pieces::new(body);
    let Some(format) = Format::of(&parts.headers) else {
        forget(&mut pieces).await;
        if let Some(answer) = grpc_elsewhere(&parts.headers) {
            return answer;
        }
        let message = "the content type is not known; application/x-protobuf and application/json are";
        let status = Status::refuse(Code::InvalidArgument, message);
        return Format::Json.failure(StatusCode::UNSUPPORTED_MEDIA_TYPE, &status);
    };
    if let Err(status) = intake.has_pipeline(signal) {
        forget(&mut pieces).await;
        return format.failure(StatusCode::NOT_FOUND, &status);
    }
    let read = intake.in_time(read(intake, signal, &parts.headers, &mut pieces, format)).await;
    let taken = match read {
        Ok((body, permit)) => intake.take(signal, body, permit).await,
        Err(status) => {
            intake.counters.unread(signal);
            if !intake.stop.is_cancelled() {
                forget(&mut pieces).await;
            }
            Err(status)
        }
    };
    match taken {
        Ok(()) => format.success(),
        Err(status) => format.failure(status_code(&status), &status),
    }
}

/// Reads the request as protobuf.
async fn read(
    intake: &Intake,
    signal: Signal,
    headers: &HeaderMap,
    pieces: &mut Pieces<Body>,
    format: Format,
) -> Result<(Bytes, Permit), Status> {
    let encoding = match headers.get(header::CONTENT_ENCODING) {
        None => Encoding::Identity,
        Some(value) => value.to_str().ok().and_then(Encoding::from_name).ok_or_else(|| {
            let message = "Content-Encoding is not known; gzip, zstd, snappy, deflate, lz4 and identity are";
            Status::refuse(Code::InvalidArgument, message)
        })?,
    };
    let mut permit = intake.limiter.admit()?;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    let body =
        pieces.all(intake.max_request, announced, &mut permit).await?.ok_or_else(|| intake.too_large())?;
    let body = intake.unpack(encoding, body, &mut permit)?;
    if format == Format::Protobuf {
        return Ok((body, permit));
    }
    // Protobuf is smaller than the JSON it is made from, but for doubles without digits: both are held for a moment.
    permit.grow_whole(body.len() * 2).await?;
    let out = json::transcode(signal, &body, intake.max_request)
        .map_err(|e| Status::refuse(Code::InvalidArgument, e.to_string()))?;
    drop(body);
    permit.shrink_to(out.len());
    Ok((out.into(), permit))
}
