//! A cheap OTLP client: bodies are encoded beforehand, and answers are looked at only as far as success goes.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Request, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
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
    /// OTLP/HTTP with JSON.
    #[value(skip)]
    Json,
}

impl Transport {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
            Self::Json => "json",
        }
    }

    /// `request` as it goes on the wire, not compressed.
    pub(crate) fn frame(self, request: &Bytes) -> Bytes {
        match self {
            Self::Http | Self::Json => request.clone(),
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
    /// Of requests over HTTP.
    content_type: &'static str,
}

enum Sender {
    Grpc(Box<Http2>),
    Http(http1::SendRequest<Payload>),
}

impl Connection {
    pub(crate) async fn open(transport: Transport, signal: Signal, to: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let authority = to.to_string();
        let sender = match transport {
            Transport::Grpc => Sender::Grpc(Box::new(Http2::open(stream, &authority, signal).await?)),
            Transport::Http | Transport::Json => {
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                Sender::Http(sender)
            }
        };
        let content_type =
            if transport == Transport::Json { "application/json" } else { "application/x-protobuf" };
        Ok(Self { signal, authority, sender, content_type })
    }

    /// Sends `body`, framed for the transport; an error when the connection broke.
    pub(crate) async fn export(&mut self, body: Payload) -> anyhow::Result<Answer> {
        match &mut self.sender {
            Sender::Grpc(http2) => Ok(http2.export(body).await?),
            Sender::Http(sender) => {
                let request = Request::post(self.signal.http_path())
                    .header("host", &self.authority)
                    .header("content-type", self.content_type);
                sender.ready().await?;
                let mut response = sender.send_request(build(request, body)).await?;
                let status = response.status();
                while response.frame().await.transpose()?.is_some() {}
                Ok(if status == StatusCode::OK { Answer::Accepted } else { Answer::Refused })
            }
        }
    }
}

/// HTTP/2 without a task of its own, so that a sender costs as little as it can: whoever waits for an answer moves the connection.
struct Http2 {
    sender: h2::client::SendRequest<Bytes>,
    connection: h2::client::Connection<TcpStream>,
    request: Request<()>,
}

impl Http2 {
    async fn open(stream: TcpStream, authority: &str, signal: Signal) -> anyhow::Result<Self> {
        let (sender, connection) = h2::client::handshake(stream).await?;
        let request = Request::post(format!("http://{authority}{}", signal.grpc_path()))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        Ok(Self { sender, connection, request })
    }

    async fn export(&mut self, body: Payload) -> Result<Answer, h2::Error> {
        let mut exchange = pin!(exchange(self.sender.clone(), self.request.clone(), body));
        let mut connection = Pin::new(&mut self.connection);
        poll_fn(|cx| {
            if let Poll::Ready(answer) = exchange.as_mut().poll(cx) {
                return Poll::Ready(answer);
            }
            if let Poll::Ready(closed) = connection.as_mut().poll(cx) {
                return Poll::Ready(closed.and(Err(h2::Reason::NO_ERROR.into())));
            }
            // The answer may be in what the connection has just read.
            exchange.as_mut().poll(cx)
        })
        .await
    }
}

async fn exchange(
    sender: h2::client::SendRequest<Bytes>,
    request: Request<()>,
    mut body: Payload,
) -> Result<Answer, h2::Error> {
    let (response, mut stream) = sender.ready().await?.send_request(request, false)?;
    while let Some(Ok(frame)) = body.frame().await {
        stream.send_data(frame.into_data().unwrap_or_default(), body.is_end_stream())?;
    }
    // gRPC's status is in the trailers, or in the headers when there is nothing else.
    let mut response = response.await?;
    let status = |headers: &http::HeaderMap| headers.get("grpc-status").map(|s| s == "0");
    let mut success = status(response.headers());
    let body = response.body_mut();
    while let Some(data) = body.data().await.transpose()? {
        body.flow_control().release_capacity(data.len())?;
    }
    if let Some(trailers) = body.trailers().await? {
        success = status(&trailers);
    }
    Ok(if success == Some(true) { Answer::Accepted } else { Answer::Refused })
}

fn build(request: http::request::Builder, body: Payload) -> Request<Payload> {
    request.body(body).expect("the parts are fixed and valid")
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
