//! Listeners: TCP or unix socket, TLS if wanted, HTTP/1.1 and HTTP/2 over either, with bounded connections and a graceful end.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::config::Invalid;

/// Where to listen: `HOST:PORT` or `unix:///PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A TCP address.
    Tcp(String),
    /// A unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// Parses `HOST:PORT` or `unix:///PATH`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(format!("`{text}` is not an absolute path; write unix:///run/perigee/NAME.sock"))
            };
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self::Tcp(text.to_owned()))
            }
            _ => Err(format!("`{text}` is not an address; write HOST:PORT or unix:///PATH")),
        }
    }

    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        let Self::Tcp(address) = self else { return true };
        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// An HTTP endpoint for operators, as configured.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// `HOST:PORT` or `unix:///PATH`.
    pub endpoint: String,
    /// That it is wanted where other machines reach it.
    #[serde(default)]
    pub insecure: bool,
}

impl HttpConfig {
    /// Checks the endpoint; `key` is the path of this section.
    pub fn validate(&self, key: &str) -> Result<(), Invalid> {
        validate_endpoint(&format!("{key}.endpoint"), &self.endpoint, self.insecure, "use 127.0.0.1")
    }
}

/// Checks an address to listen on: one that other machines reach must be `allowed`; `remedy` says what else there is.
pub fn validate_endpoint(key: &str, endpoint: &str, allowed: bool, remedy: &str) -> Result<(), Invalid> {
    let parsed = Endpoint::parse(endpoint).map_err(|message| Invalid::new(key, message))?;
    if !parsed.is_local() && !allowed {
        let message = format!(
            "{endpoint} can be reached from other machines; {remedy}, or write `insecure: true` beside it"
        );
        return Err(Invalid::new(key, message));
    }
    Ok(())
}

/// `extensions.control`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlConfig {
    /// The unix socket.
    pub socket: PathBuf,
}

/// Listens for SIGTERM and SIGINT from now on; the future ends with the first.
pub fn termination() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {endpoint} for {purpose}: {why}")]
pub struct BindError {
    endpoint: String,
    purpose: &'static str,
    why: String,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// A bound listener.
pub struct Listener {
    socket: Socket,
    tls: Option<tokio_rustls::TlsAcceptor>,
}

impl Listener {
    /// Binds `endpoint`; `purpose` is for the message when that fails. A unix socket that nobody listens on any more is
    /// replaced.
    pub async fn bind(
        endpoint: &Endpoint,
        purpose: &'static str,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Result<Self, BindError> {
        let socket = match endpoint {
            Endpoint::Tcp(address) => TcpListener::bind(address.as_str()).await.map(Socket::Tcp),
            Endpoint::Unix(path) => bind_unix(path).await.map(|l| Socket::Unix(l, path.clone())),
        };
        let socket = socket.map_err(|e| BindError {
            endpoint: endpoint.to_string(),
            purpose,
            why: match e.kind() {
                io::ErrorKind::AddrInUse => {
                    format!("{e}; another program has it: end that one or configure another address")
                }
                io::ErrorKind::PermissionDenied => {
                    format!("{e}; run as a user that may, or configure another address")
                }
                _ => e.to_string(),
            },
        })?;
        Ok(Self { socket, tls: tls.map(Into::into) })
    }

    /// The TCP address it is bound to, with the port that was chosen when 0 was asked for.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(l) => l.local_addr().ok(),
            Socket::Unix(..) => None,
        }
    }
}

async fn bind_unix(path: &PathBuf) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            if tokio::net::UnixStream::connect(path).await.is_ok() {
                return Err(e);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        other => other,
    }
}

/// Bounds of one listener. A connection may buffer `connection_window` bytes, or `http1_buffer` with HTTP/1.1, whatever the
/// handler does; so these times `max_connections` is memory.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// HTTP/2 flow-control window of a stream, bytes.
    pub stream_window: u32,
    /// HTTP/2 flow-control window of a connection, bytes.
    pub connection_window: u32,
    /// HTTP/2 streams of a connection at once.
    pub max_streams: u32,
    /// Read buffer of an HTTP/1.1 connection, bytes.
    pub http1_buffer: usize,
    /// For request headers, a TLS handshake, and an answer to a ping.
    pub timeout: Duration,
    /// For requests that have begun when the end is asked for.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 16,
            stream_window: 1 << 16,
            connection_window: 1 << 16,
            max_streams: 32,
            http1_buffer: 1 << 16,
            timeout: Duration::from_secs(10),
            drain: Duration::from_secs(5),
        }
    }
}

/// Serves `service` on `listener` until `shutdown`, then gives requests that have begun `limits.drain` to end.
pub async fn serve<S, B>(listener: Listener, limits: Limits, service: S, shutdown: CancellationToken)
where
    S: hyper::service::Service<
            hyper::Request<hyper::body::Incoming>,
            Response = hyper::Response<B>,
            Error = std::convert::Infallible,
        > + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let builder = Arc::new(builder(limits));
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(limits.max_connections));
    loop {
        let permit = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            permit = Arc::clone(&connections).acquire_owned() => permit,
        };
        let Ok(permit) = permit else { break };
        let stream = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            stream = accept(&listener.socket) => stream,
        };
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors, most likely: what is open must end first.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (builder, service, watcher, tls) =
            (Arc::clone(&builder), service.clone(), graceful.watcher(), listener.tls.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let stream: Box<dyn Io> = match tls {
                None => stream,
                Some(tls) => match tokio::time::timeout(limits.timeout, tls.accept(stream)).await {
                    Ok(Ok(stream)) => Box::new(stream),
                    Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
                    Err(_) => return tracing::debug!("TLS handshake took too long"),
                },
            };
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            if let Err(error) = watcher.watch(connection.into_owned()).await {
                tracing::debug!(error, "connection ended");
            }
        });
    }
    if let Socket::Unix(_, path) = &listener.socket {
        drop(std::fs::remove_file(path));
    }
    drop(listener);
    if tokio::time::timeout(limits.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests that had begun did not end in time");
    }
}

/// An axum router behind [`serve`]: hands it hyper's bodies.
#[derive(Clone)]
pub struct RouterService(pub axum::Router);

impl tower::Service<hyper::Request<hyper::body::Incoming>> for RouterService {
    type Response = axum::response::Response;
    type Error = std::convert::Infallible;
    type Future = <axum::Router as tower::Service<hyper::Request<hyper::body::Incoming>>>::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        tower::Service::<hyper::Request<hyper::body::Incoming>>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, request: hyper::Request<hyper::body::Incoming>) -> Self::Future {
        self.0.call(request)
    }
}

/// What a connection is made of.
trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

async fn accept(socket: &Socket) -> io::Result<Box<dyn Io>> {
    match socket {
        Socket::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream))
        }
        Socket::Unix(listener, _) => Ok(Box::new(listener.accept().await?.0)),
    }
}

fn builder(limits: Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.timeout)
        .max_buf_size(limits.http1_buffer)
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(16 << 10)
        .max_pending_accept_reset_streams(32)
        .keep_alive_interval(Duration::from_secs(60))
        .keep_alive_timeout(limits.timeout);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_addresses_or_absolute_paths() {
        assert_eq!(Endpoint::parse("unix:///run/a.sock"), Ok(Endpoint::Unix("/run/a.sock".into())));
        for wrong in ["", "4317", "host:", ":4317", "host:99999", "unix://relative"] {
            assert!(Endpoint::parse(wrong).is_err(), "{wrong}");
        }
        for (address, local) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("localhost:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
        ] {
            assert_eq!(Endpoint::parse(address).unwrap().is_local(), local, "{address}");
        }
    }

    #[tokio::test]
    async fn a_busy_port_says_what_to_do_and_a_dead_socket_is_replaced() {
        let first = Listener::bind(&Endpoint::Tcp("127.0.0.1:0".into()), "a test", None).await.unwrap();
        let address = first.local_addr().unwrap().to_string();
        let error = Listener::bind(&Endpoint::Tcp(address), "a test", None).await.err().unwrap().to_string();
        assert!(error.contains("another program has it"), "{error}");

        let dir = tempfile::tempdir().unwrap();
        let path = Endpoint::Unix(dir.path().join("s.sock"));
        let alive = Listener::bind(&path, "a test", None).await.unwrap();
        assert!(Listener::bind(&path, "a test", None).await.is_err(), "somebody listens there");
        drop(alive);
        assert!(Listener::bind(&path, "a test", None).await.is_ok(), "nobody does any more");
    }
}
