//! An OTLP backend, gRPC and HTTP on one port, that can be ended and started again.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use perigee_shared::compress::{Encoding, decompress_capped};
use perigee_shared::signal::Signal;
use prost::Message;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::items::ids_in;
use crate::scene::free_port;

/// Items of a request that [`Never::SilentInPart`] does not call too large.
const SMALL: usize = 5;

const LARGEST: usize = 64 << 20;

/// What has arrived, request by request.
type Requests = Arc<Mutex<Vec<Vec<String>>>>;

/// What requests said of who sends.
type Authorizations = Arc<Mutex<BTreeSet<String>>>;

/// What it does not decide about over HTTP: requests with an item whose id begins so.
type Undecided = Arc<Mutex<Option<(&'static str, Never)>>>;

/// How a backend does not decide about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Never {
    /// 503.
    Unavailable,
    /// 429, and it asks for so many seconds.
    RetryAfter(u32),
    /// It does not answer.
    Silent,
    /// The request as a whole is too large for it, and it does not answer to the half with the first item.
    SilentInPart,
}

/// See the module.
pub struct Backend {
    /// Its port, whether it runs or not.
    pub port: u16,
    requests: Requests,
    authorizations: Authorizations,
    undecided: Undecided,
    running: Option<DropGuard>,
}

impl Backend {
    /// One that does not run yet.
    pub fn new() -> Self {
        Self {
            port: free_port(),
            requests: Requests::default(),
            authorizations: Authorizations::default(),
            undecided: Undecided::default(),
            running: None,
        }
    }

    /// Its address as an endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Starts it.
    pub async fn start(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let stop = CancellationToken::new();
        let requests = Arc::clone(&self.requests);
        let authorizations = Arc::clone(&self.authorizations);
        let undecided = Arc::clone(&self.undecided);
        let token = stop.clone();
        tokio::spawn(async move {
            while let Some(Ok((stream, _))) = token.run_until_cancelled(listener.accept()).await {
                let (requests, token) = (Arc::clone(&requests), token.clone());
                let (authorizations, undecided) = (Arc::clone(&authorizations), Arc::clone(&undecided));
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                        let said = request.headers().get("authorization").and_then(|v| v.to_str().ok());
                        authorizations.lock().unwrap().extend(said.map(str::to_owned));
                        answer(Arc::clone(&requests), *undecided.lock().unwrap(), request)
                    });
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let connection = server.serve_connection(TokioIo::new(stream), service);
                    // A connection that breaks is the client's concern.
                    let _ = token.run_until_cancelled(connection).await;
                });
            }
        });
        self.running = Some(stop.drop_guard());
    }

    /// Ends it; connections break.
    pub fn stop(&mut self) {
        self.running = None;
    }

    /// Does not decide, over HTTP, about requests with an item whose id begins with this.
    pub fn never(&self, id: Option<&'static str>) {
        self.never_as(id, Never::Unavailable);
    }

    /// The same in this way.
    pub fn never_as(&self, id: Option<&'static str>, how: Never) {
        *self.undecided.lock().unwrap() = id.map(|id| (id, how));
    }

    /// What requests have said of who sends.
    pub fn authorizations(&self) -> BTreeSet<String> {
        self.authorizations.lock().unwrap().clone()
    }

    /// The ids of everything that has arrived, in its order.
    pub fn ids(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().flatten().cloned().collect()
    }
}

impl Default for Backend {
    fn default() -> Self {
        Self::new()
    }
}

type Reply = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>>;

async fn answer(
    requests: Requests,
    undecided: Option<(&'static str, Never)>,
    request: Request<Incoming>,
) -> Result<Reply, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let path = parts.uri.path();
    let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).map(Encoding::from_name);
    if let Some(signal) = Signal::ALL.into_iter().find(|s| s.grpc_path() == path) {
        let encoding = if body[0] == 1 { header("grpc-encoding").flatten() } else { None };
        let ids = ids_of(signal, encoding, &body.slice(5..));
        requests.lock().unwrap().push(ids);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let body = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async { Some(Ok(trailers)) });
        let reply = Response::builder().header("content-type", "application/grpc");
        return Ok(reply.body(body.boxed_unsync()).unwrap());
    }
    let Some(signal) = Signal::ALL.into_iter().find(|s| s.http_path() == path) else {
        let reply = Response::builder().status(StatusCode::NOT_FOUND);
        return Ok(reply.body(Full::default().boxed_unsync()).unwrap());
    };
    let encoding = header("content-encoding").flatten();
    let ids: Vec<String> = if parts.headers.get("content-type").is_some_and(|v| v == "application/json") {
        ids_in(std::str::from_utf8(&unpacked(encoding, &body)).unwrap()).map(str::to_owned).collect()
    } else {
        ids_of(signal, encoding, &body)
    };
    if let Some((begin, how)) = undecided
        && ids.iter().any(|id| id.starts_with(begin))
    {
        let reply = match how {
            Never::Unavailable => Some(Response::builder().status(StatusCode::SERVICE_UNAVAILABLE)),
            Never::RetryAfter(seconds) => {
                Some(Response::builder().status(StatusCode::TOO_MANY_REQUESTS).header("retry-after", seconds))
            }
            Never::Silent => None,
            Never::SilentInPart if ids.len() > SMALL => {
                Some(Response::builder().status(StatusCode::PAYLOAD_TOO_LARGE))
            }
            Never::SilentInPart => None,
        };
        let Some(reply) = reply else { std::future::pending().await };
        return Ok(reply.body(Full::default().boxed_unsync()).unwrap());
    }
    requests.lock().unwrap().push(ids);
    let reply = Response::builder().header("content-type", "application/x-protobuf");
    Ok(reply.body(Full::default().boxed_unsync()).unwrap())
}

fn unpacked(encoding: Option<Encoding>, body: &Bytes) -> Bytes {
    match encoding {
        Some(encoding) if encoding != Encoding::Identity => {
            decompress_capped(encoding, body, LARGEST).unwrap().into()
        }
        _ => body.clone(),
    }
}

fn ids_of(signal: Signal, encoding: Option<Encoding>, body: &Bytes) -> Vec<String> {
    let unpacked = unpacked(encoding, body);
    let json = match signal {
        Signal::Traces => serde_json::to_string(&ExportTraceServiceRequest::decode(unpacked).unwrap()),
        Signal::Metrics => serde_json::to_string(&ExportMetricsServiceRequest::decode(unpacked).unwrap()),
        Signal::Logs => serde_json::to_string(&ExportLogsServiceRequest::decode(unpacked).unwrap()),
    };
    ids_in(&json.unwrap()).map(str::to_owned).collect()
}
