//! What lies between tonic and the backend: answers that are no gRPC, and those that tonic cannot take.
//!
//! A proxy answers in HTTP, with a page as the body, which tonic would read as a message. Its status means what gRPC's
//! `http-grpc-status-mapping` says, except that nothing in it is about the data: what that mapping calls INTERNAL or UNKNOWN is
//! UNAVAILABLE here. tonic 0.14 panics on a `grpc-status-details-bin` that is not base64, so such a field is taken out.

use std::pin::Pin;
use std::task::{Context, Poll};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::Service;

use super::outcome::short;

const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";
const DETAILS: &str = "grpc-status-details-bin";

type Boxed = Box<dyn std::error::Error + Send + Sync>;

/// A channel whose answers are gRPC.
#[derive(Clone)]
pub(super) struct Checked(pub(super) Channel);

impl Service<Request<tonic::body::Body>> for Checked {
    type Response = Response<Answer>;
    type Error = Boxed;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Boxed>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Boxed>> {
        Service::poll_ready(&mut self.0, context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let answer = Service::call(&mut self.0, request);
        Box::pin(async move {
            let (mut parts, body) = answer.await?.into_parts();
            check(parts.status, &parts.headers)?;
            mend(&mut parts.headers);
            let decided = parts.headers.contains_key(STATUS);
            Ok(Response::from_parts(parts, Answer { body, decided }))
        })
    }
}

/// That the head of an answer is gRPC's.
fn check(code: StatusCode, headers: &HeaderMap) -> Result<(), Status> {
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], |v| v.as_bytes());
    let is_grpc = kind.starts_with(b"application/grpc") && !kind.starts_with(b"application/grpc-web");
    if code == StatusCode::OK && is_grpc {
        return Ok(());
    }
    let means = match code.as_u16() {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        _ => Code::Unavailable,
    };
    let kind = short(&String::from_utf8_lossy(kind));
    Err(Status::new(
        means,
        format!("the answer is HTTP {code} ({kind}) and not gRPC: is a proxy in the way?"),
    ))
}

/// Takes out details that tonic cannot read.
fn mend(headers: &mut HeaderMap) {
    let readable = |value: &HeaderValue| {
        let bytes = value.as_bytes();
        STANDARD_NO_PAD.decode(bytes).is_ok() || STANDARD.decode(bytes).is_ok()
    };
    if !headers.get_all(DETAILS).iter().all(readable) {
        headers.remove(DETAILS);
    }
}

/// The body of an answer, which ends with a status.
pub(super) struct Answer {
    body: tonic::body::Body,
    decided: bool,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut trailers = match std::task::ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => match frame.into_trailers() {
                Ok(trailers) => trailers,
                Err(data) => return Poll::Ready(Some(Ok(data))),
            },
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None if self.decided => return Poll::Ready(None),
            None => HeaderMap::new(),
        };
        mend(&mut trailers);
        if !self.decided && !trailers.contains_key(STATUS) {
            // Nobody can tell what became of the request.
            trailers.insert(STATUS, HeaderValue::from_static("14"));
            trailers.insert(MESSAGE, HeaderValue::from_static("the answer ends without a grpc-status"));
        }
        self.decided = true;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.decided && self.body.is_end_stream()
    }
}
