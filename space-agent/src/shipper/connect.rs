//! Coming up: a connection to a station as soon as there is one.
//!
//! One attempt that begins too early would double its own retry time again and again. So attempts overlap: a new one begins
//! every round trip, the first to finish wins, and the others are dropped. When nobody answers they become rarer.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use perigee_shared::env::Env;
use perigee_shared::link::rate::Known;
use perigee_shared::link::transport::{self, LinkShape};
use perigee_shared::supervise::joined;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::telemetry::ShipCounters;

/// Attempts under way at once. The oldest, which waits longest before it tries again, makes room for the next.
const OVERLAP: usize = 8;

/// The least time until it is said that a station does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("the address {0} cannot be resolved: {1}")]
    Resolve(String, std::io::Error),
    #[error("no UDP socket: {0}")]
    Socket(#[from] std::io::Error),
    #[error("{0}")]
    Connect(#[from] quinn::ConnectError),
    /// The station is somewhere else now.
    #[error("the configuration says that the station is somewhere else now")]
    Moved,
    /// One side has refused the other, and it will again.
    #[error("{0}")]
    Refused(String),
}

/// A connection that has come up.
pub(super) struct Up {
    pub(super) endpoint: quinn::Endpoint,
    pub(super) connection: quinn::Connection,
    /// What it was told of the link's rate, if that is known.
    pub(super) known: Option<Known>,
}

/// Which side has ended a connection with `station`, and why.
pub(super) fn refusal(station: &str, error: &quinn::ConnectionError) -> String {
    use quinn::ConnectionError::{ApplicationClosed, ConnectionClosed, TransportError};
    // What rustls writes before a verifier's own words.
    let plain = |why: String| why.replace("unexpected error: ", "");
    match error {
        TransportError(error) => {
            format!(
                "this satellite refuses station {station} (check link.station_ca_file, the name that link.stations gives it, its certificate and both clocks): {}",
                plain(error.to_string())
            )
        }
        ConnectionClosed(why) if why.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED => {
            format!(
                "station {station} takes no connection now: it is shutting down, or has as many as it may"
            )
        }
        ConnectionClosed(why) => {
            format!(
                "station {station} refuses this satellite (check link.certificate_file, the station's link.satellite_ca_file and both clocks): {}",
                plain(why.to_string())
            )
        }
        ApplicationClosed(why) => format!("station {station} has closed the connection: {why}"),
        other => format!("station {station}: {other}"),
    }
}

/// How long a station may take to answer before it is said that it does not.
pub(super) fn patience(shape: &LinkShape) -> Duration {
    PATIENCE.max(shape.rtt() * 4)
}

/// What is said then.
pub(super) fn no_answer(address: &str, shape: &LinkShape) -> String {
    let waited = patience(shape).as_secs();
    format!(
        "no answer from {address} (UDP) for {waited} s; does the station listen there, and is the port open?"
    )
}

/// Connects to `station` at `address`. Tries until it succeeds, is refused, or the caller gives up.
pub(super) async fn connect(
    env: &Env,
    config: &quinn::ClientConfig,
    station: &str,
    address: &str,
    shape: &LinkShape,
    counters: &Arc<ShipCounters>,
) -> Result<Up, ConnectError> {
    let peer = resolve(address).await?;
    let local: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let endpoint = env.network.endpoint(SocketAddr::new(local, 0), quinn::EndpointConfig::default(), None)?;
    let mut config = config.clone();
    let (transport, known) = transport::agent(shape);
    config.transport_config(transport);
    let mut attempts: JoinSet<Result<quinn::Connection, quinn::ConnectionError>> = JoinSet::new();
    let mut handles = VecDeque::new();
    let (mut next, mut count) = (Instant::now(), 0);
    loop {
        tokio::select! {
            biased;
            Some(done) = attempts.join_next() => match joined(done) {
                Some(Ok(connection)) => return Ok(Up { endpoint, connection, known }),
                Some(Err(error)) => {
                    counters.failed_attempts.inc();
                    tracing::debug!(station, %error, "no connection yet");
                    if is_final(&error) {
                        return Err(ConnectError::Refused(refusal(station, &error)));
                    }
                }
                None => {}
            },
            () = tokio::time::sleep_until(next) => {
                if handles.len() == OVERLAP && let Some(oldest) = handles.pop_front() {
                    tokio::task::AbortHandle::abort(&oldest);
                }
                handles.push_back(attempts.spawn(endpoint.connect_with(config.clone(), peer, station)?.into_future()));
                next = Instant::now() + transport::attempt_pause(shape, count);
                count += 1;
            }
        }
    }
}

async fn resolve(address: &str) -> Result<SocketAddr, ConnectError> {
    if let Ok(parsed) = address.parse() {
        return Ok(parsed);
    }
    let failed = |e| ConnectError::Resolve(address.to_owned(), e);
    let mut found = tokio::net::lookup_host(address).await.map_err(failed)?;
    found.next().ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))
}

/// Whether trying again at once would only be refused again.
fn is_final(error: &quinn::ConnectionError) -> bool {
    use quinn::ConnectionError::{ApplicationClosed, ConnectionClosed, TransportError, VersionMismatch};
    matches!(error, ApplicationClosed(_) | ConnectionClosed(_) | TransportError(_) | VersionMismatch)
}
