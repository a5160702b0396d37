//! The open connections of a listener: which of them have said nothing yet, and which one has been idle the longest.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::service::Service;
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
    /// When the last one was answered, or the connection was accepted.
    idle_since: Mutex<Instant>,
    /// Cancelled when the head of a request has come.
    pub(super) begun: CancellationToken,
    /// Cancelled when it has to go.
    pub(super) leave: CancellationToken,
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
            idle_since: Mutex::new(Instant::now()),
            begun: CancellationToken::new(),
            leave: CancellationToken::new(),
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

/// A request that is being answered.
struct Answering(Arc<Connection>);

impl Drop for Answering {
    fn drop(&mut self) {
        *lock(&self.0.idle_since) = Instant::now();
        self.0.requests.fetch_sub(1, Ordering::Release);
    }
}

/// A service that notes its requests in its connection.
#[derive(Clone)]
pub(super) struct Noted<S>(pub(super) S, pub(super) Arc<Connection>);

impl<S, R> Service<R> for Noted<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn call(&self, request: R) -> Self::Future {
        self.1.requests.fetch_add(1, Ordering::Acquire);
        self.1.begun.cancel();
        let (answering, answer) = (Answering(Arc::clone(&self.1)), self.0.call(request));
        Box::pin(async move {
            let answer = answer.await;
            drop(answering);
            answer
        })
    }
}
