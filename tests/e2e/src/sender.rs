//! Clients that remember what was acknowledged.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use perigee_shared::signal::{Counts, Signal};
use prost::Message;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::items::Batch;
use crate::wire::{Target, http1};

/// How long a client waits for its answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How a request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP with protobuf.
    Protobuf,
    /// OTLP/HTTP with JSON.
    Json,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// The agent has answered with success.
    Acknowledged,
    /// The agent has refused it; nothing of it may arrive.
    Refused(String),
    /// No answer: it may have been taken.
    Undecided(String),
}

/// A client of OTLP/gRPC, as a program with an OpenTelemetry SDK has.
#[derive(Clone)]
pub struct Grpc {
    channel: Channel,
    compression: Option<CompressionEncoding>,
}

impl Grpc {
    /// Connects when the first request is sent, and again after each failure.
    pub fn new(port: u16) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
        Self { channel: endpoint.connect_timeout(TIMEOUT).timeout(TIMEOUT).connect_lazy(), compression: None }
    }

    /// The same with compressed requests.
    #[must_use]
    pub fn compressed(mut self, encoding: CompressionEncoding) -> Self {
        self.compression = Some(encoding);
        self
    }

    /// Sends a request.
    pub async fn send(&self, batch: &Batch) -> Result<(), tonic::Status> {
        let body = batch.protobuf();
        match batch.signal {
            Signal::Traces => {
                self.export::<ExportTraceServiceRequest, ExportTraceServiceResponse>(batch.signal, &body)
                    .await
            }
            Signal::Metrics => {
                self.export::<ExportMetricsServiceRequest, ExportMetricsServiceResponse>(batch.signal, &body)
                    .await
            }
            Signal::Logs => {
                self.export::<ExportLogsServiceRequest, ExportLogsServiceResponse>(batch.signal, &body).await
            }
        }
    }

    async fn export<Q, A>(&self, signal: Signal, body: &[u8]) -> Result<(), tonic::Status>
    where
        Q: Message + Default + 'static,
        A: Message + Default + PartialEq + std::fmt::Debug + 'static,
    {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        if let Some(encoding) = self.compression {
            client = client.send_compressed(encoding);
        }
        client.ready().await.map_err(|e| tonic::Status::unknown(e.to_string()))?;
        let request = tonic::Request::new(Q::decode(body).unwrap());
        let path = PathAndQuery::from_static(signal.grpc_path());
        let response = client.unary(request, path, ProstCodec::<Q, A>::default()).await?;
        assert_eq!(response.into_inner(), A::default(), "full success leaves partial_success unset");
        Ok(())
    }
}

/// Sends `batch` to the agent with these ports.
pub(crate) async fn send(protocol: Protocol, grpc: &Grpc, http: u16, batch: &Batch) -> Sent {
    let (content_type, body) = match protocol {
        Protocol::Grpc => {
            return match grpc.send(batch).await {
                Ok(()) => Sent::Acknowledged,
                // Only the agent writes details; what has none may come from the connection.
                Err(s) if !s.details().is_empty() => Sent::Refused(s.to_string()),
                Err(s) => Sent::Undecided(s.to_string()),
            };
        }
        Protocol::Protobuf => ("application/x-protobuf", batch.protobuf()),
        Protocol::Json => ("application/json", batch.json()),
    };
    let headers = [("content-type", content_type)];
    match http1(&Target::Tcp(http), Method::POST, batch.signal.http_path(), &headers, body).await {
        Ok(answer) if answer.status == StatusCode::OK => Sent::Acknowledged,
        Ok(answer) => Sent::Refused(answer.status.to_string()),
        Err(error) => Sent::Undecided(error),
    }
}

/// What was sent and what was said.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Ids in requests that were answered with success.
    pub acknowledged: BTreeSet<String>,
    /// Ids in requests without an answer.
    pub undecided: BTreeSet<String>,
    /// Ids in requests that were refused.
    pub refused: BTreeSet<String>,
    /// Items acknowledged.
    pub items: Counts,
    /// Items undecided.
    pub undecided_items: Counts,
}

impl Ledger {
    /// Writes down what came of `batch`.
    pub fn note(&mut self, batch: &Batch, sent: &Sent) {
        let ids = batch.ids.iter().cloned();
        match sent {
            Sent::Acknowledged => {
                self.acknowledged.extend(ids);
                self.items[batch.signal] += batch.ids.len() as u64;
            }
            Sent::Refused(_) => self.refused.extend(ids),
            Sent::Undecided(_) => {
                self.undecided.extend(ids);
                self.undecided_items[batch.signal] += batch.ids.len() as u64;
            }
        }
    }
}

/// Clients that send without end, each one request after the other, over gRPC and HTTP, all signals in turn.
pub struct Load {
    tasks: JoinSet<()>,
    stop: CancellationToken,
    ledger: Arc<Mutex<Ledger>>,
}

impl Load {
    /// Starts `clients`, each with a request of `count` items every `pace` at most.
    pub fn start(agent: &crate::Agent, clients: usize, count: usize, padding: usize, pace: Duration) -> Self {
        let (stop, ledger) = (CancellationToken::new(), Arc::new(Mutex::new(Ledger::default())));
        let (grpc, http) = (agent.grpc, agent.http);
        let mut tasks = JoinSet::new();
        for client in 0..clients {
            let (stop, ledger) = (stop.clone(), Arc::clone(&ledger));
            let protocol = [Protocol::Grpc, Protocol::Protobuf, Protocol::Json][client % 3];
            tasks.spawn(async move {
                let grpc = Grpc::new(grpc);
                let mut turns = tokio::time::interval(pace);
                turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                for n in 0.. {
                    if stop.run_until_cancelled(turns.tick()).await.is_none() {
                        return;
                    }
                    let signal = Signal::ALL[n % 3];
                    let batch = Batch::new(signal, &format!("c{client}-{n}"), count, padding);
                    let sent = send(protocol, &grpc, http, &batch).await;
                    ledger.lock().unwrap().note(&batch, &sent);
                }
            });
        }
        Self { tasks, stop, ledger }
    }

    /// What was acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.ledger.lock().unwrap().items.total()
    }

    /// Lets the requests that are under way end; everything that was sent.
    pub async fn stop(mut self) -> Ledger {
        self.stop.cancel();
        while let Some(done) = self.tasks.join_next().await {
            done.unwrap();
        }
        self.ledger.lock().unwrap().clone()
    }
}

impl crate::Agent {
    /// Sends `batch` over OTLP/gRPC, uncompressed.
    pub async fn send(&self, batch: &Batch) -> Sent {
        send(Protocol::Grpc, &Grpc::new(self.grpc), self.http, batch).await
    }

    /// Sends `batch`, which must be acknowledged.
    pub async fn accept(&self, batch: &Batch) {
        assert_eq!(self.send(batch).await, Sent::Acknowledged);
    }
}
