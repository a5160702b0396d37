//! OTLP/gRPC.
//!
//! tonic would buffer a message before anybody could say how much room there is, so the five bytes before a gRPC message are
//! read here: they announce its length, and room for it is taken before the rest is read.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use hyper::body::Incoming;
use perigee_shared::compress::Encoding;
use perigee_shared::otlp::status::Status;
use perigee_shared::signal::Signal;
use tonic::Code;

use super::Intake;
use super::body::Pieces;
use super::health;
use super::http::forget;
use super::reflection::{self, Answers};

/// A gRPC answer: at most one data frame, then trailers; or a stream of answers.
#[derive(Default)]
pub(super) struct Reply {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
    /// The answers of reflection, which come instead.
    answers: Option<Answers>,
}

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(answers) = &mut self.answers {
            return answers.poll_frame(context).map(|frame| frame.map(Ok));
        }
        let data = self.data.take().map(Frame::data);
        let frame = data.or_else(|| self.trailers.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none() && self.answers.is_none()
    }
}

/// What a request may be compressed with.
const ACCEPTED: HeaderValue = HeaderValue::from_static("identity, gzip, zstd, deflate, snappy");

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// The service behind a listener.
pub(super) fn service(
    intake: Arc<Intake>,
) -> impl hyper::service::Service<Request<Incoming>, Response = Response<Reply>, Error = Infallible, Future: Send>
+ Clone {
    hyper::service::service_fn(move |request| {
        let intake = Arc::clone(&intake);
        async move {
            if reflection::is_at(request.uri().path()) && is_grpc(&request) {
                return Ok(reflected(request));
            }
            let answer = match request.uri().path() == health::PATH && is_grpc(&request) {
                true => {
                    health::check(request.into_body()).await.map(|()| health::SERVING).map_err(Answer::from)
                }
                // An empty ExportServiceResponse: no partial_success.
                false => export(&intake, request).await.map(|()| Bytes::from_static(&[0; 5])),
            };
            let mut response = match answer {
                Ok(message) => success(message),
                Err(Answer::Status(status)) => failure(&status),
                Err(Answer::NotGrpc(kind)) => not_grpc(kind.as_ref()),
            };
            response.headers_mut().insert("grpc-accept-encoding", ACCEPTED);
            Ok(response)
        }
    })
}

enum Answer {
    Status(Status),
    /// Not a gRPC request at all, and of which content type it is.
    NotGrpc(Option<HeaderValue>),
}

impl From<Status> for Answer {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

fn success(message: Bytes) -> Response<Reply> {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let mut response = Response::new(Reply { data: Some(message), trailers: Some(trailers), answers: None });
    response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    response
}

fn reflected(request: Request<Incoming>) -> Response<Reply> {
    let answers = Answers::new(request.into_body());
    let mut response = Response::new(Reply { answers: Some(answers), ..Reply::default() });
    response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    response
}

fn failure(status: &Status) -> Response<Reply> {
    status.to_tonic().into_http()
}

/// In the words of who asks, as far as they are known: OTLP over HTTP, or a browser.
fn not_grpc(kind: Option<&HeaderValue>) -> Response<Reply> {
    const MESSAGE: &str = "this port takes OTLP over gRPC (HTTP/2); send OTLP over HTTP to the port of protocols.http, 4318 by default, \
                           or set the client's protocol to grpc";
    let status = Status::refuse(Code::InvalidArgument, MESSAGE);
    let kind = kind.map_or(&b""[..], HeaderValue::as_bytes);
    let (kind, body) = if kind.starts_with(b"application/x-protobuf") {
        ("application/x-protobuf", status.to_protobuf())
    } else if kind.starts_with(b"application/json") {
        ("application/json", status.to_json())
    } else {
        ("text/plain; charset=utf-8", Bytes::from_static(MESSAGE.as_bytes()))
    };
    let mut response = Response::new(Reply { data: Some(body), ..Reply::default() });
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn is_grpc(request: &Request<Incoming>) -> bool {
    let named = request.headers().get(header::CONTENT_TYPE).is_some_and(|v| {
        v.as_bytes().starts_with(b"application/grpc") && !v.as_bytes().starts_with(b"application/grpc-web")
    });
    // HTTP/1.1 would lose the trailers, and with them the status.
    named && request.method() == http::Method::POST && request.version() == http::Version::HTTP_2
}

async fn export(intake: &Intake, request: Request<Incoming>) -> Result<(), Answer> {
    if !is_grpc(&request) {
        let kind = request.headers().get(header::CONTENT_TYPE).cloned();
        forget(&mut Pieces::new(request.into_body())).await;
        return Err(Answer::NotGrpc(kind));
    }
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let Some(signal) = Signal::ALL.into_iter().find(|s| s.grpc_path() == path) else {
        return Err(Status::refuse(
            Code::Unimplemented,
            "no such service or method; OTLP's Export is served",
        )
        .into());
    };
    intake.has_pipeline(signal)?;
    let encoding =
        match parts.headers.get("grpc-encoding").map(|v| v.to_str().ok().and_then(Encoding::from_name)) {
            None => Encoding::Identity,
            Some(Some(encoding)) => encoding,
            Some(None) => {
                let message = "grpc-encoding is not known; gzip, zstd, snappy, deflate, lz4 and identity are";
                return Err(Status::refuse(Code::Unimplemented, message).into());
            }
        };
    let read = intake.in_time(message(intake, Pieces::new(body), encoding)).await;
    let (message, permit) = read.inspect_err(|_| intake.counters.unread(signal))?;
    Ok(intake.take(signal, message, permit).await?)
}

/// Reads the one message of a unary request.
async fn message(
    intake: &Intake,
    mut pieces: Pieces<Incoming>,
    encoding: Encoding,
) -> Result<(Bytes, crate::limiter::Permit), Status> {
    const CUT: &str = "the request ends inside its message";
    let mut permit = intake.limiter.admit()?;
    let Some(prefix) = pieces.exactly(5, &mut permit).await? else {
        return Err(Status::refuse(Code::Internal, CUT));
    };
    // Who says no more than this holds nothing.
    permit.shrink_to(0);
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    let encoding = match prefix[0] {
        0 => Encoding::Identity,
        1 if encoding != Encoding::Identity => encoding,
        _ => return Err(Status::refuse(Code::Internal, "a compressed message without grpc-encoding")),
    };
    if length > intake.max_request {
        return Err(intake.too_large());
    }
    let body = if length == 0 {
        Bytes::new()
    } else {
        pieces.exactly(length, &mut permit).await?.ok_or_else(|| Status::refuse(Code::Internal, CUT))?
    };
    if pieces.has_more().await? {
        let message = "a second message in a request: Export takes one; nothing of it was taken";
        return Err(Status::refuse(Code::Unimplemented, message));
    }
    let body = intake.unpack(encoding, body, &mut permit)?;
    Ok((body, permit))
}
