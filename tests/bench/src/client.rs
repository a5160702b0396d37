//! A cheap OTLP client: bodies are encoded beforehand, and answers are looked at only as far as success goes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Request, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use perigee_shared::signal::Signal;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// How OTLP is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Transport {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP with protobuf.
    Http,
}

impl Transport {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
        }
    }

    /// `request` as it goes on the wire, not compressed.
    pub(crate) fn frame(self, request: &Bytes) -> Bytes {
        match self {
            Self::Http => request.clone(),
            Self::Grpc => {
                let mut framed = BytesMut::with_capacity(request.len() + 5);
                framed.put_u8(0);
                framed.put_u32(request.len() as u32);
                framed.put_slice(request);
                framed.freeze()
            }
        }
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Accepted,
    /// An answer other than success.
    Refused,
}

/// A connection with at most one request outstanding.
pub(crate) struct Connection {
    signal: Signal,
    authority: String,
    sender: Sender,
}

enum Sender {
    Grpc(http2::SendRequest<Payload>),
    Http(http1::SendRequest<Payload>),
}

impl Connection {
    pub(crate) async fn open(transport: Transport, signal: Signal, to: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let stream = TokioIo::new(stream);
        let sender = match transport {
            Transport::Grpc => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                tokio::spawn(connection);
                Sender::Grpc(sender)
            }
            Transport::Http => {
                let (sender, connection) = http1::handshake(stream).await?;
                tokio::spawn(connection);
                Sender::Http(sender)
            }
        };
        Ok(Self { signal, authority: to.to_string(), sender })
    }

    /// Sends `body`, framed for the transport; an error when the connection broke.
    pub(crate) async fn export(&mut self, body: Payload) -> hyper::Result<Answer> {
        match &mut self.sender {
            Sender::Grpc(sender) => {
                let request = Request::post(format!("http://{}{}", self.authority, self.signal.grpc_path()))
                    .header("content-type", "application/grpc")
                    .header("te", "trailers");
                sender.ready().await?;
                grpc_answer(sender.send_request(build(request, body)).await?).await
            }
            Sender::Http(sender) => {
                let request = Request::post(self.signal.http_path())
                    .header("host", &self.authority)
                    .header("content-type", "application/x-protobuf");
                sender.ready().await?;
                let mut response = sender.send_request(build(request, body)).await?;
                let status = response.status();
                while response.frame().await.transpose()?.is_some() {}
                Ok(if status == StatusCode::OK { Answer::Accepted } else { Answer::Refused })
            }
        }
    }
}

fn build(request: http::request::Builder, body: Payload) -> Request<Payload> {
    request.body(body).expect("the parts are fixed and valid")
}

/// gRPC's status is in the trailers, or in the headers when there is nothing else.
async fn grpc_answer(mut response: http::Response<Incoming>) -> hyper::Result<Answer> {
    let status = |headers: &http::HeaderMap| headers.get("grpc-status").map(|s| s == "0");
    let mut success = status(response.headers());
    while let Some(frame) = response.frame().await.transpose()? {
        if let Some(trailers) = frame.trailers_ref() {
            success = status(trailers);
        }
    }
    Ok(if success == Some(true) { Answer::Accepted } else { Answer::Refused })
}

/// A body: at once, or in pieces with a pause before each.
pub(crate) struct Payload {
    rest: Bytes,
    pace: Option<Pace>,
}

struct Pace {
    piece: usize,
    pause: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl Payload {
    /// All of `body` at once.
    pub(crate) const fn whole(body: Bytes) -> Self {
        Self { rest: body, pace: None }
    }

    /// `body` in pieces of `piece` bytes, after a `pause` each.
    pub(crate) fn slow(body: Bytes, piece: usize, pause: Duration) -> Self {
        Self { rest: body, pace: Some(Pace { piece, pause, sleep: Box::pin(sleep(pause)) }) }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if this.rest.is_empty() {
            return Poll::Ready(None);
        }
        let piece = match &mut this.pace {
            None => this.rest.len(),
            Some(pace) => {
                ready!(pace.sleep.as_mut().poll(cx));
                pace.sleep = Box::pin(sleep(pace.pause));
                pace.piece.min(this.rest.len())
            }
        };
        Poll::Ready(Some(Ok(Frame::data(this.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
