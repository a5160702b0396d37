//! The open connections of a listener: which of them have said nothing yet, and which one has been idle the longest.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Connections that a listener closed for a reason of its own.
#[derive(Debug, Clone, Default)]
pub struct Closed {
    /// No request head came in time.
    pub silent: Counter,
    /// It was the longest idle one when another needed its place.
    pub idle: Counter,
}

impl Closed {
    /// Adds both to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "perigee_connections_closed_silent",
            "Connections closed since no request came within header_timeout",
            self.silent.clone(),
        );
        registry.register(
            "perigee_connections_closed_idle",
            "Idle connections closed since max_connections was reached",
            self.idle.clone(),
        );
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// Requests that are being answered.
    requests: AtomicUsize,
    /// Exchanges of HTTP/2, from a request's head to the end of its answer.
    exchanges: AtomicUsize,
    /// When the last request was answered, or the connection was accepted.
    idle_since: Mutex<Instant>,
    /// Cancelled when the head of a request has come.
    pub(super) begun: CancellationToken,
    /// Cancelled when it has to go.
    pub(super) leave: CancellationToken,
    /// Who is at the other end, once that is known.
    pub(super) peer: OnceLock<Peer>,
}

/// Who is at the other end of a connection: an extension of each of its requests.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// Its address; none: a unix socket.
    pub address: Option<IpAddr>,
    /// The certificate that it has shown, which TLS has verified, DER.
    pub certificate: Option<Arc<[u8]>>,
    /// Ends the connection when it is cancelled, whatever is being sent.
    pub close: CancellationToken,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Mutex<BTreeMap<u64, Arc<Connection>>>,
    next: AtomicU64,
}

impl Connections {
    /// Notes a connection that was accepted, until the guard goes.
    pub(super) fn enter(self: &Arc<Self>) -> Entered {
        let connection = Arc::new(Connection {
            requests: AtomicUsize::new(0),
            exchanges: AtomicUsize::new(0),
            idle_since: Mutex::new(Instant::now()),
            begun: CancellationToken::new(),
            leave: CancellationToken::new(),
            peer: OnceLock::new(),
        });
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.open).insert(id, Arc::clone(&connection));
        Entered { id, connection, all: Arc::clone(self) }
    }

    /// Ends the connection that has been idle the longest. Whether there was one.
    pub(super) fn end_idle(&self) -> bool {
        let open = lock(&self.open);
        let idle =
            open.values().filter(|c| c.requests.load(Ordering::Acquire) == 0 && !c.leave.is_cancelled());
        let Some(longest) = idle.min_by_key(|c| *lock(&c.idle_since)) else { return false };
        longest.leave.cancel();
        true
    }
}

/// A connection in the list.
#[derive(Debug)]
pub(super) struct Entered {
    id: u64,
    pub(super) connection: Arc<Connection>,
    all: Arc<Connections>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        lock(&self.all.open).remove(&self.id);
    }
}

impl Connection {
    /// Notes a request whose head has come, until the guard goes.
    pub(super) fn begin(self: &Arc<Self>) -> Answering {
        self.requests.fetch_add(1, Ordering::Acquire);
        self.begun.cancel();
        Answering(Arc::clone(self))
    }

    /// Notes an exchange of HTTP/2, until the guard goes.
    pub(super) fn exchange(self: &Arc<Self>) -> Exchange {
        self.exchanges.fetch_add(1, Ordering::Acquire);
        Exchange(Arc::clone(self))
    }

    /// Whether one is under way.
    pub(super) fn has_exchanges(&self) -> bool {
        self.exchanges.load(Ordering::Acquire) > 0
    }
}

/// An exchange of HTTP/2.
pub(super) struct Exchange(Arc<Connection>);

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.exchanges.fetch_sub(1, Ordering::Release);
    }
}

/// A request that is being answered.
pub(super) struct Answering(Arc<Connection>);

impl Drop for Answering {
    fn drop(&mut self) {
        *lock(&self.0.idle_since) = Instant::now();
        self.0.requests.fetch_sub(1, Ordering::Release);
    }
}
