//! The link: satellites connect, their segments go to the spool, and what is durable there is acknowledged.
//!
//! [`machine`] is the protocol; `connection` moves its bytes; `access` says who may connect; `registry` knows who does.

mod access;
mod bounds;
mod clock;
mod connection;
mod history;
pub mod machine;
mod passing;
mod registry;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use perigee_shared::env::Env;
use perigee_shared::link::revocation::Revocations;
use perigee_shared::link::tls::{self, TlsError};
use perigee_shared::link::transport;
use perigee_shared::supervise::Supervisor;
use quinn::{Endpoint, Incoming};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::access::{Access, Allowed};
use self::clock::Clocks;
use self::connection::Surroundings;
pub use self::history::{History, Point};
use self::machine::{Close, Settings};
pub use self::passing::ArrivalView;
use self::registry::{Registry, Underway};
use crate::config::{Config, Satellites};
use crate::memory::Stir;
use crate::spool::Store;
use crate::telemetry::Metrics;

/// How long the end waits for peers to hear of it.
const FAREWELL: Duration = Duration::from_secs(1);

/// How often the files of certificates and of the revocation list are looked at.
const CHECK: Duration = Duration::from_secs(1);

/// Why the link cannot work.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Certificates or keys.
    #[error("link: {0}")]
    Tls(#[from] TlsError),
    /// A UDP address.
    #[error("cannot listen on {address} (UDP) for the link: {why}")]
    Bind {
        /// The address.
        address: String,
        /// Why, and what to do.
        why: String,
    },
}

/// The link, bound.
pub struct Link {
    endpoints: Vec<Endpoint>,
    access: Access,
    server: quinn::ServerConfig,
    env: Env,
    config: Arc<Config>,
    satellites: watch::Sender<Arc<Satellites>>,
    around: Surroundings,
}

/// Changes who may connect while the link is up.
pub struct Reload {
    satellites: watch::Sender<Arc<Satellites>>,
    registry: Registry,
    metrics: Metrics,
}

impl Reload {
    /// From here on these may; links with others end.
    pub fn apply(&self, satellites: &Satellites) {
        self.metrics.expect(satellites.keys());
        self.satellites.send_replace(Arc::new(satellites.clone()));
        self.registry.close_unknown(|satellite| satellites.contains_key(satellite));
    }
}

/// Who is connected, for others to ask.
#[derive(Clone)]
pub struct Connected {
    registry: Registry,
    history: History,
    env: Env,
}

/// The open link of a satellite; of one that has two contacts at once, what comes over both.
#[derive(Debug, Clone, PartialEq, serde::Serialize, utoipa::ToSchema)]
pub struct LinkView {
    /// Contacts that are open at once.
    pub contacts: usize,
    /// When the satellite said Hello, in the first of them, ns since the Unix epoch.
    pub since_unix_nano: u64,
    /// LOS by the satellite's plan and clock, the last one, ns since the Unix epoch; none: it did not say, or the contact has no end.
    pub ends_unix_nano: Option<u64>,
    /// The round trip, as QUIC measures it, the shortest.
    pub round_trip_seconds: f64,
    /// Payload bytes that have come over it.
    pub received_bytes: u64,
    /// Segments that were committed.
    pub committed_segments: u64,
    /// Items in them.
    pub committed_items: u64,
    /// Segments that are arriving, in the order in which they began.
    pub arriving: Vec<ArrivalView>,
}

impl LinkView {
    /// A second contact that is open beside those that it has.
    fn with(mut self, other: Self) -> Self {
        self.contacts += other.contacts;
        self.since_unix_nano = self.since_unix_nano.min(other.since_unix_nano);
        self.ends_unix_nano = self.ends_unix_nano.zip(other.ends_unix_nano).map(|(a, b)| a.max(b));
        self.round_trip_seconds = self.round_trip_seconds.min(other.round_trip_seconds);
        self.received_bytes += other.received_bytes;
        self.committed_segments += other.committed_segments;
        self.committed_items += other.committed_items;
        self.arriving.extend(other.arriving);
        self
    }
}

impl Connected {
    /// Nobody connects to this process.
    pub fn nobody(env: &Env) -> Self {
        let (registry, history) = (Registry::default(), History::default());
        Self { registry, history, env: env.clone() }
    }

    /// Links whose satellite has said Hello.
    pub fn links(&self) -> BTreeMap<String, LinkView> {
        let now = self.env.unix_nano();
        let view = |(greeted, path): (Underway, quinn::PathStats)| {
            let came = greeted.passing.so_far();
            LinkView {
                contacts: 1,
                since_unix_nano: now.saturating_sub(greeted.at.elapsed().as_nanos() as u64),
                ends_unix_nano: (greeted.ends != 0).then_some(greeted.ends),
                round_trip_seconds: path.rtt.as_secs_f64(),
                received_bytes: came.received,
                committed_segments: came.segments,
                committed_items: came.items,
                arriving: came.arriving.into_values().collect(),
            }
        };
        let of_one = |(id, slots): (String, BTreeMap<_, _>)| {
            Some((id, slots.into_values().map(view).reduce(LinkView::with)?))
        };
        self.registry.links().into_iter().filter_map(of_one).collect()
    }

    /// Open connections.
    pub fn count(&self) -> usize {
        self.registry.len()
    }

    /// What satellites said over time.
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// Satellites with an open connection, and when the last datagram came, ns since the Unix epoch.
    pub fn satellites(&self) -> BTreeMap<String, u64> {
        let now = self.env.unix_nano();
        let ago = |time: Duration| now.saturating_sub(time.as_nanos() as u64);
        self.registry.connected().into_iter().map(|(id, time)| (id, ago(time))).collect()
    }
}

impl Link {
    /// Checks certificates and lists without binding anything.
    pub fn check(config: &Config, env: &Env) -> Result<(), LinkError> {
        let mut access = Access::try_new(config)?;
        let revocations = access.list()?;
        access.server(&revocations, env)?;
        Ok(())
    }

    /// Reads the certificates and binds the addresses; must be called inside a tokio runtime.
    pub fn try_new(
        config: Arc<Config>,
        env: &Env,
        store: Store,
        metrics: Metrics,
        (short, stir): (watch::Receiver<bool>, Stir),
    ) -> Result<Self, LinkError> {
        let mut access = Access::try_new(&config)?;
        let revocations = access.list()?;
        let server = access.server(&revocations, env)?;
        let now = env.unix_nano();
        if revocations.has_expired(now) {
            say_expired();
        }
        metrics.revocations_in_doubt(is_in_doubt(&revocations, now));
        let endpoints = config
            .link
            .listen
            .iter()
            .map(|address| bind(env, address, access.reset_secret(), server.clone()))
            .collect::<Result<_, _>>()?;
        let around = Surroundings {
            store,
            metrics,
            clocks: Clocks::new(env),
            history: History::default(),
            registry: Registry::new(config.memory.limit, config.link.receive_window.0),
            short,
            stir,
            revocations: Arc::new(watch::Sender::new(revocations)),
            shutdown: CancellationToken::new(),
        };
        let satellites = watch::Sender::new(Arc::new(config.link.satellites.clone()));
        Ok(Self { endpoints, access, server, env: env.clone(), config, satellites, around })
    }

    /// The addresses it is bound to, with the ports that were chosen where 0 was asked for.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.endpoints.iter().filter_map(|e| e.local_addr().ok()).collect()
    }

    /// Who is connected.
    pub fn connected(&self) -> Connected {
        Connected {
            registry: self.around.registry.clone(),
            history: self.around.history.clone(),
            env: self.env.clone(),
        }
    }

    /// Changes who may connect.
    pub fn reload(&self) -> Reload {
        let (registry, metrics) = (self.around.registry.clone(), self.around.metrics.clone());
        Reload { satellites: self.satellites.clone(), registry, metrics }
    }

    /// Has `tasks` serve until `shutdown`; then what arrived is handed over and every connection is closed.
    pub fn run(self, tasks: &Supervisor, shutdown: &CancellationToken) {
        let Self { endpoints, access, server, env, config, satellites, mut around } = self;
        around.shutdown = shutdown.clone();
        let connections = TaskTracker::new();
        let allowed = Arc::new(access.allowed());
        let handshakes = Arc::new(AtomicUsize::new(0));
        for endpoint in &endpoints {
            let accepting = Accepting {
                endpoint: endpoint.clone(),
                config: Arc::clone(&config),
                allowed: Arc::clone(&allowed),
                satellites: satellites.subscribe(),
                around: around.clone(),
                tasks: tasks.clone(),
                connections: connections.clone(),
                handshakes: Arc::clone(&handshakes),
            };
            let address = endpoint.local_addr().map_or_else(|e| e.to_string(), |a| a.to_string());
            tasks.keep(format!("link {address}"), accepting, |accepting| Box::pin(accepting.run()));
        }
        let watch = AccessWatch { access, endpoints, around, env, server, refused: false };
        tasks.keep("certificates", watch, |watch| Box::pin(watch.run()));
    }
}

fn say_expired() {
    tracing::error!(
        event.name = "perigee.link.revocation_list",
        "the revocation list has expired; make a new one with `pki revoke`, or check the clock"
    );
}

/// Whether the list in force has ended or not begun.
fn is_in_doubt(list: &Revocations, now: u64) -> bool {
    list.has_expired(now) || list.begins_later(now)
}

/// Reads certificates and the revocation list again when they change; then links that are open end where the list says so.
struct AccessWatch {
    access: Access,
    endpoints: Vec<Endpoint>,
    around: Surroundings,
    env: Env,
    /// What new connections meet. Its key for tokens stays: who was asked to show one (a Retry) comes back with it.
    server: quinn::ServerConfig,
    /// The list in the file cannot be used.
    refused: bool,
}

impl AccessWatch {
    async fn run(&mut self) {
        let mut check = tokio::time::interval(CHECK);
        loop {
            tokio::select! {
                biased;
                () = self.around.shutdown.cancelled() => return,
                _ = check.tick() => {}
            }
            if self.access.is_renewed() {
                self.renew();
            }
            if self.access.has_changed() {
                self.refused = !self.renew_list();
            }
            self.around.metrics.certificate_ends(self.access.end(self.env.unix_nano()));
            let doubt = is_in_doubt(&self.around.revocations.borrow(), self.env.unix_nano());
            self.around.metrics.revocations_in_doubt(self.refused || doubt);
        }
    }

    /// Takes the certificates in the files in the place of those in force.
    fn renew(&mut self) {
        let renewed = self.access.renew().and_then(|()| {
            let in_force = self.around.revocations.borrow().clone();
            self.serve(&in_force)
        });
        match renewed {
            Ok(()) => {
                tracing::info!("the link's certificates were read again; new connections use them");
                // Whoever may have signed the list is another one.
                self.refused = !self.renew_list();
            }
            Err(error) => tracing::error!(
                event.name = "perigee.link.certificate",
                %error,
                "the link's new certificates cannot be used; those in force stay"
            ),
        }
    }

    /// Has new connections meet the certificates of now and these revocations.
    fn serve(&mut self, revocations: &Revocations) -> Result<(), TlsError> {
        self.server.crypto = self.access.server(revocations, &self.env)?.crypto;
        for endpoint in &self.endpoints {
            endpoint.set_server_config(Some(self.server.clone()));
        }
        Ok(())
    }

    /// Takes the list in the file in the place of the one in force; whether it could be used.
    fn renew_list(&mut self) -> bool {
        let list = match self.access.list() {
            Ok(revocations) if revocations.has_expired(self.env.unix_nano()) => {
                // The one in force may be as old, but it is not made older.
                say_expired();
                return false;
            }
            list => list.and_then(|revocations| self.serve(&revocations).map(|()| revocations)),
        };
        match list {
            Ok(revocations) => {
                if self.access.watches_revocations() {
                    tracing::info!("the revocation list was read again");
                    revocations.warn_if_older(&self.around.revocations.borrow());
                }
                // In this order: a link that is not registered yet is looked at with the new list when it is.
                self.around.revocations.send_replace(revocations.clone());
                self.around.registry.close_revoked(|serial| revocations.contain(serial));
                true
            }
            Err(error) => {
                tracing::error!(
                    event.name = "perigee.link.revocation_list",
                    %error,
                    "the new revocation list cannot be used; the one in force stays"
                );
                false
            }
        }
    }
}

fn bind(
    env: &Env,
    address: &str,
    secret: [u8; 32],
    server: quinn::ServerConfig,
) -> Result<Endpoint, LinkError> {
    let fail = |e: std::io::Error| LinkError::Bind {
        address: address.to_owned(),
        why: match e.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("{e}; another program has it: end that one or change link.listen")
            }
            std::io::ErrorKind::PermissionDenied => {
                format!("{e}; run as a user that may, or change link.listen")
            }
            std::io::ErrorKind::AddrNotAvailable => format!("{e}; this machine does not have that address"),
            _ => e.to_string(),
        },
    };
    let local: SocketAddr = address.parse().map_err(|_| LinkError::Bind {
        address: address.to_owned(),
        why: "write IP:PORT, for example 0.0.0.0:4433".to_owned(),
    })?;
    env.network.endpoint(local, transport::lasting_endpoint(secret), Some(server)).map_err(fail)
}

/// In the place of a satellite whose name nobody knows; no name has a space.
const HANDSHAKES: &str = "failed handshakes";

/// In the place of a satellite that is refused: a namesake that is listed has lines of its own.
fn stranger(id: &str) -> Arc<str> {
    format!("refused {id}").into()
}

/// Takes the connections of one address.
struct Accepting {
    endpoint: Endpoint,
    config: Arc<Config>,
    allowed: Arc<Allowed>,
    satellites: watch::Receiver<Arc<Satellites>>,
    around: Surroundings,
    tasks: Supervisor,
    connections: TaskTracker,
    handshakes: Arc<AtomicUsize>,
}

impl Accepting {
    async fn run(&mut self) {
        let shutdown = self.around.shutdown.clone();
        loop {
            let incoming = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                incoming = self.endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { break };
            self.take(incoming);
        }
        self.connections.close();
        self.connections.wait().await;
        self.endpoint.close(connection::code(Close::Shutdown), b"the ground-station ends");
        // What is closed is told so. Packets that come later are answered by the next start, and a connection that its peer had
        // given up before its first packet came would last as long as nobody speaks.
        let _ = tokio::time::timeout(FAREWELL, self.endpoint.wait_idle()).await;
    }

    fn take(&self, incoming: Incoming) {
        // Those that nobody serves, or not any more, take memory until QUIC forgets them.
        let forgotten = self.endpoint.open_connections().saturating_sub(self.connections.len());
        let unfinished = self.handshakes.load(Ordering::Relaxed) + forgotten;
        if unfinished >= self.config.link.retry_above && incoming.may_retry() {
            // Costs the peer a round trip and us nothing.
            let _ = incoming.retry();
            return;
        }
        if unfinished >= 4 * self.config.link.max_connections {
            incoming.ignore();
            return;
        }
        let handshaking = Handshaking::new(&self.handshakes);
        let (config, allowed, around) = (
            Arc::clone(&self.config),
            (Arc::clone(&self.allowed), self.satellites.clone()),
            self.around.clone(),
        );
        self.connections.spawn(self.tasks.watched("link connection", async move {
            let remote = incoming.remote_address();
            let connection = tokio::select! {
                biased;
                // The end does not wait for strangers.
                () = around.shutdown.cancelled() => return,
                connection = handshake(incoming, config.link.handshake_timeout.0) => connection,
            };
            drop(handshaking);
            match connection {
                Ok(Some(connection)) => Box::pin(admit(connection, &config, &allowed, around)).await,
                Ok(None) => tracing::debug!(%remote, "the peer has given up an attempt to connect"),
                Err(error) => {
                    around.metrics.refused();
                    // Who is refused comes again each second, and strangers come from anywhere.
                    if let Some(left_out) = around.registry.may_say(&HANDSHAKES.into()) {
                        tracing::warn!(
                            %remote,
                            error,
                            left_out,
                            "a handshake failed; check the certificates, authorities and clocks of both sides"
                        );
                    }
                }
            }
        }));
    }
}

/// One of the handshakes under way.
struct Handshaking(Arc<AtomicUsize>);

impl Handshaking {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Handshaking {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection whose handshake is done; `None` when the peer has given it up, as satellites do with all attempts but the first
/// to succeed.
async fn handshake(incoming: Incoming, timeout: Duration) -> Result<Option<quinn::Connection>, String> {
    use quinn::ConnectionError::{ApplicationClosed, ConnectionClosed, Reset, TimedOut};
    const GIVEN_UP: quinn::TransportErrorCode = quinn::TransportErrorCode::APPLICATION_ERROR;
    let connecting = incoming.accept().map_err(|e| e.to_string())?;
    match tokio::time::timeout(timeout, connecting).await {
        Ok(Ok(connection)) => Ok(Some(connection)),
        Ok(Err(ApplicationClosed(_) | Reset | TimedOut)) => Ok(None),
        Ok(Err(ConnectionClosed(frame))) if frame.error_code == GIVEN_UP => Ok(None),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("not finished within {timeout:?}")),
    }
}

async fn admit(
    connection: quinn::Connection,
    config: &Config,
    (allowed, satellites): &(Arc<Allowed>, watch::Receiver<Arc<Satellites>>),
    around: Surroundings,
) {
    let remote = connection.remote_address();
    let identity = match tls::peer_identity(&connection) {
        Ok(identity) => identity,
        Err(error) => {
            tracing::warn!(%remote, %error, "a peer without an identity was refused");
            connection.close(connection::code(Close::Identity), error.to_string().as_bytes());
            return;
        }
    };
    let listed = allowed.judge(&identity, &satellites.borrow());
    let bounds = match listed {
        Ok(bounds) => bounds,
        Err(reason) => {
            around.metrics.refused();
            // It comes again each second.
            if let Some(left_out) = around.registry.may_say(&stranger(&identity.id)) {
                tracing::warn!(
                    %remote,
                    satellite = identity.id,
                    reason,
                    left_out,
                    "a peer was refused; add it to link.satellites if it is yours"
                );
            }
            connection.close(connection::code(Close::Identity), reason.as_bytes());
            return;
        }
    };
    if let Err(reason) = around.registry.make_room(&identity.id, config.link.max_connections) {
        if let Some(left_out) = around.registry.may_say(&identity.id.as_str().into()) {
            tracing::warn!(satellite = identity.id, reason, left_out, "a connection was refused");
        }
        connection.close(connection::code(Close::Busy), reason.as_bytes());
        return;
    }
    let satellite: Arc<str> = identity.id.into();
    let settings = Settings {
        satellite: Arc::clone(&satellite),
        station: config.link.station.clone(),
        // One half may be written while the other is collected: together they are what a crash can cost.
        sync_bytes: config.link.partial_sync_bytes.as_usize() / 2,
        sync_interval: config.link.partial_sync_interval.0,
        max_partial_bytes: bounds.max_partial_bytes.0,
    };
    let serial = access::peer_serial(&connection);
    let _registered = around.registry.add(Arc::clone(&satellite), serial.clone(), connection.clone());
    // The list may have changed during the handshake. From here on a new one ends what is registered.
    if around.revocations.borrow().contain(&serial) {
        tracing::warn!(%remote, %satellite, "a peer was refused: its certificate is revoked");
        connection.close(connection::code(Close::Revoked), b"the certificate is revoked");
        return;
    }
    connection::serve(connection, settings, around.clone()).await;
}
