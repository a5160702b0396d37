//! Receivers: OTLP over gRPC and HTTP, each over TCP or a unix socket, and the metrics of the machine.
//!
//! All end in one intake: a body is admitted by the limiter before it is buffered, unpacked within its bound, walked once,
//! and handed to the journal as raw bytes.

mod body;
mod cors;
mod grpc;
mod health;
mod hostmetrics;
mod http;
mod own;
mod reflection;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use perigee_shared::compress::{DecompressError, Encoding, decompress};
use perigee_shared::config::Invalid;
use perigee_shared::env::Env;
use perigee_shared::otlp::protobuf::Malformed;
use perigee_shared::otlp::status::Status;
use perigee_shared::otlp::walk::{walk, without_groups};
use perigee_shared::serve::{self, BindError, Certificates, Endpoint, Limits, Listener};
use perigee_shared::signal::{Signal, SignalSet};
use perigee_shared::supervise::Supervisor;
use tokio_util::sync::CancellationToken;
use tonic::Code;

pub(crate) use self::body::READ_TIMEOUT;
use self::hostmetrics::HostMetrics;
pub use self::hostmetrics::{HostMetricsConfig, ScraperConfig};
pub use self::own::Own;
use crate::config::{Config, CorsConfig, ListenerConfig, MIN_WINDOW, ReceiverConfig};
use crate::journal::Journal;
use crate::limiter::{Limiter, Permit};
use crate::telemetry::{ReceiverCounters, Source};
use crate::wal::Accepted;

/// How long a client may go on sending when the agent is told to stop.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What both receivers do with a request.
pub struct Intake {
    limiter: Arc<Limiter>,
    journal: Journal,
    counters: Arc<ReceiverCounters>,
    max_request: usize,
    /// Where what serves it runs.
    tasks: Supervisor,
    /// What comes in here; the rest has no pipeline.
    signals: SignalSet,
    /// Where it comes from.
    source: Source,
    /// The agent is told to stop.
    stop: CancellationToken,
}

impl Intake {
    /// An intake that lets requests of up to `max_request` bytes through to `journal`.
    pub fn new(
        limiter: Arc<Limiter>,
        journal: Journal,
        counters: Arc<ReceiverCounters>,
        max_request: usize,
        tasks: Supervisor,
    ) -> Self {
        let signals = Signal::ALL.into_iter().fold(SignalSet::default(), SignalSet::with);
        let source = Source { receiver: "".into(), transport: "" };
        Self {
            limiter,
            journal,
            counters,
            max_request,
            signals,
            source,
            tasks,
            stop: CancellationToken::new(),
        }
    }

    /// The same for what comes from one source.
    fn narrowed(
        &self,
        source: Source,
        max_request: usize,
        signals: SignalSet,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let (limiter, counters) = (Arc::clone(&self.limiter), Arc::clone(&self.counters));
        let (journal, tasks) = (self.journal.clone(), self.tasks.clone());
        counters.begin(&source, signals);
        Arc::new(Self { limiter, journal, counters, max_request, signals, source, tasks, stop })
    }

    /// What a client sends, in the time that it has; that is short once the agent is told to stop.
    async fn in_time<T>(&self, reading: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let ends = async {
            self.stop.cancelled().await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::select! {
            biased;
            read = tokio::time::timeout(READ_TIMEOUT, reading) => read.unwrap_or_else(|_| {
                Err(Status::refuse(Code::DeadlineExceeded, "the request came too slowly"))
            }),
            () = ends => Err(Status::unavailable("the agent is shutting down", LAST_WORDS)),
        }
    }

    /// Whether anything takes what comes in of this signal.
    fn has_pipeline(&self, signal: Signal) -> Result<(), Status> {
        if self.signals.contains(signal) {
            return Ok(());
        }
        let message = format!("no pipeline accepts {signal}; add one to service.pipelines");
        Err(Status::refuse(Code::Unimplemented, message))
    }

    fn too_large(&self) -> Status {
        let message = format!("the request is larger than {} bytes; send smaller batches", self.max_request);
        Status::refuse(Code::ResourceExhausted, message)
    }

    /// Unpacks `body` within the limits.
    fn unpack(&self, encoding: Encoding, body: Bytes, permit: &mut Permit) -> Result<Bytes, Status> {
        if encoding == Encoding::Identity {
            return Ok(body);
        }
        let packed = body.len();
        let out = decompress(encoding, &body, self.max_request, |room| {
            permit.grow_to(packed + room).map_err(Unpack::Status)
        });
        match out {
            Ok(out) => {
                let mut out = out;
                out.shrink_to_fit();
                drop(body);
                permit.shrink_to(out.len());
                Ok(out.into())
            }
            Err(Unpack::Status(status)) => Err(status),
            Err(Unpack::Error(DecompressError::TooLarge { .. })) => Err(self.too_large()),
            Err(Unpack::Error(e @ DecompressError::Corrupt(_))) => {
                Err(Status::refuse(Code::InvalidArgument, e.to_string()))
            }
        }
    }

    /// Takes an export request that is in memory already, as receivers do with what they have read.
    pub async fn accept(&self, signal: Signal, body: Bytes) -> Result<(), Status> {
        let admitted =
            self.limiter.admit().and_then(|mut permit| permit.grow_to(body.len()).map(|()| permit));
        let permit = admitted.inspect_err(|_| self.counters.unread(signal))?;
        self.take(signal, body, permit).await
    }

    /// Takes an export request as protobuf; success means that it is as safe as `acknowledge` says.
    async fn take(&self, signal: Signal, mut body: Bytes, permit: Permit) -> Result<(), Status> {
        let mut walked = walk(signal, &body);
        if walked == Err(Malformed::GROUP)
            && let Ok(plain) = without_groups(signal, &body)
        {
            body = plain.into();
            walked = walk(signal, &body);
        }
        let walked = walked.map_err(|e| {
            self.counters.malformed(signal);
            Status::refuse(Code::InvalidArgument, e.to_string())
        })?;
        if body.is_empty() || walked.items == 0 {
            return Ok(());
        }
        let items = walked.items;
        let result = self.journal.append(Accepted { signal, body, walked }, permit).await;
        match &result {
            Ok(()) => self.counters.accepted(&self.source, signal, items),
            Err(_) => self.counters.refused(&self.source, signal, items),
        }
        result
    }
}

enum Unpack {
    Error(DecompressError),
    Status(Status),
}

impl From<DecompressError> for Unpack {
    fn from(e: DecompressError) -> Self {
        Self::Error(e)
    }
}

/// Listeners that are bound and not served yet, and what measures the machine.
pub struct Receivers {
    bound: Vec<Bound>,
    hosts: Vec<HostMetrics>,
}

/// One of them.
struct Bound {
    receiver: Arc<str>,
    protocol: Protocol,
    /// Its address, for people.
    place: String,
    listener: Listener,
    limits: Limits,
    max_request: usize,
    signals: SignalSet,
    cors: Option<Arc<CorsConfig>>,
}

#[derive(Clone, Copy)]
enum Protocol {
    Grpc,
    Http,
}

/// A receiver could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    /// The address.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] perigee_shared::link::tls::TlsError),
    /// A setting cannot be used, which validation should have found.
    #[error("{}: {}", .0.key, .0.message)]
    Setting(Invalid),
    /// The address cannot be read, which validation should have found.
    #[error("{0}")]
    Endpoint(String),
}

impl Receivers {
    /// Binds what `config` asks for: receivers that no pipeline uses are not, as in the Collector.
    pub async fn bind(config: &Config, env: &Env) -> Result<Self, ReceiverError> {
        let (mut bound, mut hosts) = (Vec::new(), Vec::new());
        for (name, receiver) in config.receivers.iter() {
            let signals = config.signals_from(name);
            if signals.is_empty() {
                continue;
            }
            let receiver = match receiver {
                ReceiverConfig::Otlp(receiver) => receiver,
                ReceiverConfig::HostMetrics(host) => {
                    let host = HostMetrics::try_new(name, host, Arc::clone(&env.clock));
                    hosts.push(host.map_err(ReceiverError::Setting)?);
                    continue;
                }
            };
            let protocols = &receiver.protocols;
            for (protocol, settings, purpose) in [
                (Protocol::Grpc, protocols.grpc.as_ref(), "OTLP/gRPC"),
                (Protocol::Http, protocols.http.as_ref(), "OTLP/HTTP"),
            ] {
                let Some(settings) = settings else { continue };
                let (listener, limits) =
                    bind(&section(name, protocol), settings, purpose, (config, env)).await?;
                let address = listener.local_addr();
                let place = address.map_or_else(|| settings.endpoint.clone(), |address| address.to_string());
                let max_request = settings.max_request_bytes.unwrap_or(receiver.max_request_bytes).as_usize();
                let cors = settings.cors.clone().map(Arc::new);
                bound.push(Bound {
                    receiver: name.into(),
                    protocol,
                    place,
                    listener,
                    limits,
                    max_request,
                    signals,
                    cors,
                });
            }
        }
        Ok(Self { bound, hosts })
    }

    /// Reads the files that listeners name, without binding anything.
    pub fn check(config: &Config, env: &Env) -> Result<(), ReceiverError> {
        for (_, receiver) in config.otlp_receivers().filter(|(name, _)| !config.signals_from(name).is_empty())
        {
            for listener in [&receiver.protocols.grpc, &receiver.protocols.http].into_iter().flatten() {
                if let Some(tls) = &listener.tls {
                    let clock = Arc::clone(&env.clock);
                    Certificates::load("receivers", tls.files(), clock)?;
                }
            }
        }
        Ok(())
    }

    /// Serves until `shutdown`, then lets the requests that have begun end.
    pub async fn run(self, intake: Arc<Intake>, shutdown: CancellationToken) {
        let tasks = &intake.tasks;
        for Bound { receiver, protocol, place, listener, limits, max_request, signals, cors } in self.bound {
            let transport = match protocol {
                Protocol::Grpc => "grpc",
                Protocol::Http => "http",
            };
            let source = Source { receiver, transport };
            let (intake, stop) =
                (intake.narrowed(source, max_request, signals, shutdown.clone()), shutdown.clone());
            let bounds = (limits, intake.counters.closed().clone());
            tracing::info!(address = %place, "taking OTLP over {transport}");
            match protocol {
                Protocol::Grpc => {
                    let service = grpc::service(intake);
                    serve::keep(tasks, &format!("otlp/grpc {place}"), listener, bounds, service, stop);
                }
                Protocol::Http => {
                    let service = http::service(intake, cors);
                    serve::keep(tasks, &format!("otlp/http {place}"), listener, bounds, service, stop);
                }
            }
        }
        for host in self.hosts {
            let source = Source { receiver: host.name().into(), transport: "" };
            let metrics = SignalSet::default().with(Signal::Metrics);
            let host = host.into(intake.narrowed(source, intake.max_request, metrics, shutdown.clone()));
            let task = format!("receiver {}", host.name());
            tasks.keep_until(task, host, &shutdown, |host, stop| Box::pin(host.run(stop)));
        }
        tasks.ended().await;
    }
}

/// Where a listener's certificates are configured.
fn section(receiver: &str, protocol: Protocol) -> String {
    let protocol = match protocol {
        Protocol::Grpc => "grpc",
        Protocol::Http => "http",
    };
    format!("receivers.{receiver}.protocols.{protocol}.tls")
}

async fn bind(
    section: &str,
    listener: &ListenerConfig,
    purpose: &'static str,
    (config, env): (&Config, &Env),
) -> Result<(Listener, Limits), ReceiverError> {
    let clock = Arc::clone(&env.clock);
    let tls = listener.tls.as_ref().map(|tls| Certificates::load(section, tls.files(), clock)).transpose()?;
    let endpoint = Endpoint::parse(&listener.endpoint).map_err(ReceiverError::Endpoint)?;
    Ok((Listener::bind(&endpoint, purpose, tls).await?, limits(listener, config)))
}

/// Windows large enough for speed, small enough that all connections of a listener stay within an eighth of the memory limit.
fn limits(listener: &ListenerConfig, config: &Config) -> Limits {
    let share = config.processors.memory_limiter.limit.0 / 8 / listener.max_connections as u64;
    let window = share.clamp(MIN_WINDOW, 1 << 20) as u32;
    Limits {
        max_connections: listener.max_connections,
        stream_window: window,
        connection_window: window,
        max_streams: 100,
        // Beside what is read next there is the piece that was read last.
        http1_buffer: (window as usize / 2).min(256 << 10),
        header_timeout: listener.header_timeout.0,
        idle_timeout: listener.idle_timeout.0,
        ..Limits::default()
    }
}
