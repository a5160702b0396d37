//! Listeners: TCP or unix socket, TLS if wanted, HTTP/1.1 and HTTP/2 over either, with bounded connections and a graceful end.
//!
//! Nobody holds a place by saying nothing: a connection whose first request head does not come in time is closed, and when every
//! place is taken the connection that has been idle the longest goes.

mod browsers;
mod certificates;
mod connections;
mod half_closed;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

pub use self::browsers::{keep_out, keep_out_but_links};
pub use self::certificates::{CertificateEnd, CertificateFiles, Certificates};
pub use self::connections::{Closed, Peer};
use self::connections::{Connection, Connections};
use self::half_closed::{Exchanges, HalfClosed};
use crate::config::{Invalid, check_directory};
use crate::supervise::{Supervisor, Work};

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
            Some((host, _)) if host.contains(':') && !host.contains("//") && !host.starts_with('[') => {
                Err(format!("`{text}` has an IPv6 address without brackets; write [ADDRESS]:PORT"))
            }
            Some((host, port)) if !host.is_empty() && !host.contains("//") && port.parse::<u16>().is_ok() => {
                Ok(Self::Tcp(text.to_owned()))
            }
            _ => Err(format!("`{text}` is not an address; write HOST:PORT or unix:///PATH")),
        }
    }

    /// Whether whoever listens here leaves no room for `other`.
    fn overlaps(&self, other: &Self) -> bool {
        let (Self::Tcp(one), Self::Tcp(two)) = (self, other) else { return self == other };
        let split = |address: &str| {
            let (host, port) = address.rsplit_once(':')?;
            let host = if host == "localhost" { "127.0.0.1" } else { host };
            Some((host.to_owned(), port.parse::<u16>().ok().filter(|port| *port > 0)?))
        };
        let Some(((one, port), (two, same))) = split(one).zip(split(two)) else { return false };
        let is_any = |host: &str| matches!(host, "0.0.0.0" | "[::]");
        port == same && (one == two || is_any(&one) || is_any(&two))
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
    tls: Option<Certificates>,
}

impl Listener {
    /// Binds `endpoint`; `purpose` is for the message when that fails. A unix socket that nobody listens on any more is
    /// replaced.
    pub async fn bind(
        endpoint: &Endpoint,
        purpose: &'static str,
        tls: Option<Certificates>,
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
        Ok(Self { socket, tls })
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
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let directory = path.parent().ok_or(e)?;
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(crate::store::DIRECTORY_MODE)
                .create(directory)?;
            UnixListener::bind(path)
        }
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            // What is no socket is somebody's file.
            let is_socket = std::fs::metadata(path)?.file_type().is_socket();
            if !is_socket || tokio::net::UnixStream::connect(path).await.is_ok() {
                return Err(e);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        other => other,
    }
}

/// Listeners of one program that could not be bound beside each other: the section of each, and its endpoint.
pub fn check_apart(listeners: &[(String, &str)]) -> Vec<Invalid> {
    let mut wrong = Vec::new();
    for (n, (section, text)) in listeners.iter().enumerate() {
        let Ok(endpoint) = Endpoint::parse(text) else { continue };
        let takes =
            |(_, earlier): &&(String, &str)| Endpoint::parse(earlier).is_ok_and(|e| e.overlaps(&endpoint));
        if let Some((other, address)) = listeners[..n].iter().find(takes) {
            let message = format!("{other} listens at {address} already; configure another port");
            wrong.push(Invalid::new(format!("{section}.endpoint"), message));
        }
    }
    wrong
}

/// Why there could be no unix socket at an endpoint, if it is one.
pub fn check_endpoint(key: &str, endpoint: &str) -> Option<Invalid> {
    match Endpoint::parse(endpoint) {
        Ok(Endpoint::Unix(path)) => check_socket(key, &path).err(),
        _ => None,
    }
}

/// Whether a unix socket can be made at `path`, which `key` says.
pub fn check_socket(key: &str, path: &Path) -> Result<(), Invalid> {
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            Err(Invalid::new(key, format!("{shown} is there and is no socket; name another path")))
        }
        _ => check_directory(key, path.parent().unwrap_or(path)),
    }
}

/// See [`Limits::header_timeout`].
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// See [`Limits::idle_timeout`]. Longer than the intervals at which clients export.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Header fields of an HTTP/1.1 request. Their bytes are bounded by the read buffer.
pub(crate) const MOST_HEADERS: usize = 4096;

/// Bytes of the header fields of an HTTP/2 request.
pub(crate) const MOST_HEADER_BYTES: u32 = 64 << 10;

/// How often a listener says that it runs out of places.
const SAID_EVERY: Duration = Duration::from_secs(60);

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
    /// From accepting a connection to its first complete request head, a TLS handshake included; for an answer to a ping; after
    /// the end was asked for; and for answers to a client of HTTP/2 that has closed its direction.
    pub header_timeout: Duration,
    /// Between requests of an HTTP/1.1 connection, to the next complete request head.
    pub idle_timeout: Duration,
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
            header_timeout: HEADER_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            drain: Duration::from_secs(5),
        }
    }
}

/// Keeps a task that serves `service` on `listener` until `shutdown`, then gives requests that have begun `limits.drain` to end.
pub fn keep<S, B>(
    tasks: &Supervisor,
    name: &str,
    listener: Listener,
    (limits, closed): (Limits, Closed),
    service: S,
    shutdown: CancellationToken,
) where
    S: hyper::service::Service<
            hyper::Request<hyper::body::Incoming>,
            Response = hyper::Response<B>,
            Error = std::convert::Infallible,
            Future: Send,
        > + Clone
        + Send
        + Sync
        + 'static,
    B: http_body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let talk = move |stream: Box<dyn Io>, connection: Arc<Connection>, watcher: Watcher| -> Work<'static> {
        let service = service.clone();
        let stream = HalfClosed::new(stream, Arc::clone(&connection), limits.header_timeout);
        let builder = builder(limits, Exchanges(Arc::clone(&connection)));
        let service = hyper::service::service_fn(move |mut request: hyper::Request<_>| {
            request.extensions_mut().insert(connection.peer.get().cloned().unwrap_or_default());
            let (answering, answer) = (connection.begin(), service.call(request));
            async move {
                let answer = answer.await;
                drop(answering);
                answer
            }
        });
        Box::pin(async move {
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            if let Err(error) = watcher.watch(connection.into_owned()).await {
                tracing::debug!(error, "connection ended");
            }
        })
    };
    let server = Server {
        listener: Some(listener),
        graceful: Some(GracefulShutdown::new()),
        talk: Arc::new(talk),
        limits,
        places: Places::new(limits.max_connections, closed.clone()),
        closed,
        tasks: tasks.clone(),
        shutdown,
    };
    tasks.keep(format!("listener {name}"), server, |server| Box::pin(server.run()));
}

/// Speaks HTTP over a connection until it ends.
type Talk = Arc<dyn Fn(Box<dyn Io>, Arc<Connection>, Watcher) -> Work<'static> + Send + Sync>;

/// A listener at work.
struct Server {
    /// Both are taken when the end begins.
    listener: Option<Listener>,
    graceful: Option<GracefulShutdown>,
    talk: Talk,
    limits: Limits,
    closed: Closed,
    places: Places,
    tasks: Supervisor,
    shutdown: CancellationToken,
}

impl Server {
    async fn run(&mut self) {
        while let Some(listener) = &self.listener {
            let next = async {
                let stream = accept(&listener.socket).await;
                (stream, self.places.take().await)
            };
            let (stream, permit) = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => break,
                next = next => next,
            };
            match stream {
                Ok((stream, address)) => self.begin(stream, address, permit),
                Err(error) => {
                    // Out of descriptors, most likely: what is open must end first.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        if let Some(Socket::Unix(_, path)) = self.listener.take().map(|l| l.socket) {
            drop(std::fs::remove_file(path));
        }
        if let Some(graceful) = self.graceful.take()
            && tokio::time::timeout(self.limits.drain, graceful.shutdown()).await.is_err()
        {
            tracing::warn!("requests that had begun did not end in time");
        }
    }

    /// Serves a connection in a task of its own.
    fn begin(&mut self, stream: Box<dyn Io>, address: Option<IpAddr>, permit: Option<OwnedSemaphorePermit>) {
        let (Some(listener), Some(graceful)) = (&mut self.listener, &self.graceful) else { return };
        let tls = listener.tls.as_mut().map(Certificates::acceptor);
        let entered = self.places.connections.enter();
        let connection = Arc::clone(&entered.connection);
        let (talk, watcher) = (Arc::clone(&self.talk), graceful.watcher());
        let (stop, silent, header_timeout) =
            (self.shutdown.clone(), self.closed.silent.clone(), self.limits.header_timeout);
        tokio::spawn(self.tasks.watched("connection", async move {
            let _place = (permit, entered);
            let served = async {
                let mut peer = Peer { address, certificate: None, close: connection.leave.clone() };
                let stream: Box<dyn Io> = match tls {
                    None => stream,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => {
                            let shown = stream.get_ref().1.peer_certificates();
                            peer.certificate = shown.and_then(<[_]>::first).map(|c| Arc::from(c.as_ref()));
                            Box::new(stream)
                        }
                        Err(error) => return tracing::debug!(%error, "TLS handshake failed"),
                    },
                };
                let _ = connection.peer.set(peer);
                talk(stream, Arc::clone(&connection), watcher).await;
            };
            let says_nothing = async {
                tokio::select! {
                    () = connection.begun.cancelled() => std::future::pending().await,
                    () = tokio::time::sleep(header_timeout) => drop(silent.inc()),
                    // Nobody waits for a stranger's first word.
                    () = stop.cancelled() => {}
                }
            };
            tokio::select! {
                biased;
                () = served => {}
                () = connection.leave.cancelled() => {}
                () = says_nothing => tracing::debug!("no request came in time"),
            }
        }));
    }
}

/// Places for connections.
struct Places {
    free: Arc<Semaphore>,
    connections: Arc<Connections>,
    closed: Closed,
    said: Option<tokio::time::Instant>,
}

impl Places {
    fn new(most: usize, closed: Closed) -> Self {
        Self { free: Arc::new(Semaphore::new(most)), connections: Arc::default(), closed, said: None }
    }

    /// A place, for which the connection that has been idle the longest goes when there is none.
    async fn take(&mut self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Some(permit);
        }
        let idle = self.connections.end_idle();
        if idle {
            self.closed.idle.inc();
        }
        if self.said.is_none_or(|said| said.elapsed() > SAID_EVERY) {
            self.said = Some(tokio::time::Instant::now());
            let then = if idle { "the longest idle one is closed" } else { "none is idle, new ones wait" };
            tracing::error!(
                event.name = "perigee.listener.full",
                "max_connections is reached: {then}; raise it, or end clients that hold connections they do not use"
            );
        }
        Arc::clone(&self.free).acquire_owned().await.ok()
    }
}

/// An axum router behind [`keep`]: hands it hyper's bodies.
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

async fn accept(socket: &Socket) -> io::Result<(Box<dyn Io>, Option<IpAddr>)> {
    match socket {
        Socket::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream), Some(address.ip())))
        }
        Socket::Unix(listener, _) => Ok((Box::new(listener.accept().await?.0), None)),
    }
}

fn builder(limits: Limits, exchanges: Exchanges) -> auto::Builder<Exchanges> {
    let mut builder = auto::Builder::new(exchanges);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout)
        .half_close(true)
        .max_headers(MOST_HEADERS)
        .max_buf_size(limits.http1_buffer)
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(MOST_HEADER_BYTES)
        .max_pending_accept_reset_streams(32)
        .keep_alive_interval(Duration::from_secs(60))
        .keep_alive_timeout(limits.header_timeout);
    builder
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

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

    /// Serves "ok" to everybody, who asks for `/slow` after a moment.
    async fn served(limits: Limits) -> (SocketAddr, Closed, CancellationToken) {
        let listener = Listener::bind(&Endpoint::Tcp("127.0.0.1:0".into()), "a test", None).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (closed, stop) = (Closed::default(), CancellationToken::new());
        let service = hyper::service::service_fn(async |request: hyper::Request<hyper::body::Incoming>| {
            if request.uri().path() == "/slow" {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok::<_, std::convert::Infallible>(hyper::Response::new("ok".to_owned()))
        });
        let tasks = Supervisor::new(&crate::env::Env::production());
        keep(&tasks, "test", listener, (limits, closed.clone()), service, stop.clone());
        (address, closed, stop)
    }

    /// One request over an open connection; the answer, or nothing when the connection is gone.
    async fn ask(stream: &mut TcpStream, head: &str) -> String {
        if stream.write_all(head.as_bytes()).await.is_err() {
            return String::new();
        }
        let mut out = Vec::new();
        while !out.ends_with(b"\r\n\r\nok") && stream.read_buf(&mut out).await.is_ok_and(|n| n > 0) {}
        String::from_utf8(out).unwrap()
    }

    const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    #[tokio::test]
    async fn who_says_nothing_is_closed_and_who_has_asked_is_not() {
        let header_timeout = Duration::from_millis(300);
        let (address, closed, _) = served(Limits { header_timeout, ..Limits::default() }).await;
        let mut asked = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut asked, GET).await.starts_with("HTTP/1.1 200"));
        for word in ["", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nhost: x\r\n"] {
            let mut silent = TcpStream::connect(address).await.unwrap();
            silent.write_all(word.as_bytes()).await.unwrap();
            let mut rest = Vec::new();
            drop(silent.read_to_end(&mut rest).await);
        }
        assert_eq!(closed.silent.get(), 3);
        assert!(ask(&mut asked, GET).await.starts_with("HTTP/1.1 200"), "it may be idle for longer");
    }

    #[tokio::test]
    async fn the_longest_idle_connection_makes_room_for_a_new_one() {
        let (address, closed, _) = served(Limits { max_connections: 2, ..Limits::default() }).await;
        let mut open = Vec::new();
        for _ in 0..4 {
            let mut next = TcpStream::connect(address).await.unwrap();
            assert!(ask(&mut next, GET).await.starts_with("HTTP/1.1 200"));
            open.push(next);
        }
        assert_eq!(closed.idle.get(), 2);
        for (n, stream) in open.iter_mut().enumerate() {
            assert_eq!(ask(stream, GET).await.is_empty(), n < 2, "connection {n}");
        }
    }

    #[tokio::test]
    async fn a_client_that_closes_its_half_is_answered() {
        let (address, ..) = served(Limits::default()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");

        // HTTP/2: settings and three requests (RFC 9113; the fields are of RFC 7541's static table), all in one packet.
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut asked = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        for id in [1, 3, 5] {
            asked.extend_from_slice(&[0, 0, 12, 1, 5, 0, 0, 0, id]);
            asked.extend_from_slice(b"\x82\x86\x44\x05/slow\x41\x01x");
        }
        stream.write_all(&asked).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        for id in [1, 3, 5] {
            let data = [&[0, 0, 2, 0, 1, 0, 0, 0, id][..], b"ok"].concat();
            assert!(answer.windows(data.len()).any(|w| w == data), "stream {id}: {answer:?}");
        }
    }

    #[tokio::test]
    async fn headers_are_bounded_by_bytes() {
        let (address, ..) = served(Limits::default()).await;
        let head = |fields: usize| {
            let fields: String = (0..fields).map(|n| format!("x-{n:04}: {n:04}\r\n")).collect();
            format!("GET / HTTP/1.1\r\nhost: x\r\n{fields}\r\n")
        };
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut stream, &head(4_000)).await.starts_with("HTTP/1.1 200"));
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(!ask(&mut stream, &head(5_000)).await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn the_end_does_not_wait_for_strangers() {
        let (address, _, stop) = served(Limits::default()).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut asked = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut asked, GET).await.starts_with("HTTP/1.1 200"), "both were accepted");
        stop.cancel();
        assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0);
        assert_eq!(asked.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }

    #[test]
    fn listeners_of_one_program_that_take_each_others_place_are_named() {
        for (one, two, together) in [
            ("127.0.0.1:4317", "127.0.0.1:4317", false),
            ("localhost:4317", "127.0.0.1:4317", false),
            ("0.0.0.0:4317", "localhost:4317", false),
            ("[::1]:4317", "[::]:4317", false),
            ("unix:///run/a.sock", "unix:///run/a.sock", false),
            ("127.0.0.1:4317", "127.0.0.1:4318", true),
            ("127.0.0.1:4317", "192.0.2.1:4317", true),
            ("127.0.0.1:0", "127.0.0.1:0", true),
            ("unix:///run/a.sock", "unix:///run/b.sock", true),
            ("nowhere", "nowhere", true),
        ] {
            let wrong = check_apart(&[("a".to_owned(), one), ("b".to_owned(), two)]);
            assert_eq!(wrong.is_empty(), together, "{one} {two}");
            assert!(wrong.iter().all(|w| w.key == "b.endpoint" && w.message.starts_with("a listens at")));
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
