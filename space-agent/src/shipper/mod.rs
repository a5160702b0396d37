//! The shipper: in a contact it connects to the station and ships what is on board; out of contact it does nothing.
//!
//! The session decides, this module moves bytes: it reads and writes the control stream, asks the log, and writes segments to
//! streams of their own.

mod connect;
mod drive;
mod session;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use perigee_shared::contact::Contact;
use perigee_shared::env::{Env, Owner};
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::SegmentId;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::telemetry::ShipCounters;
use crate::wal::{ConsumerId, Wal};

/// After a station has refused, or a session has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// How the link stands in fact, beside what the contacts plan.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LinkStatus {
    /// `down`, `connecting` or `up`.
    pub state: &'static str,
    /// The station of the contact.
    pub station: Option<String>,
    /// When that state began, ns since the Unix epoch.
    pub since_unix_nano: u64,
    /// Why the last connection ended or did not come up.
    pub last_error: Option<String>,
    /// Payload bytes sent in this contact.
    pub sent_bytes: u64,
    /// Segments that the ground has committed in this contact.
    pub committed_segments: u64,
}

/// What a shipper needs to know.
pub struct ShipperConfig {
    /// The id in our certificate.
    pub satellite: String,
    /// TLS.
    pub client: quinn::ClientConfig,
    /// Address of each station, by id.
    pub stations: BTreeMap<String, String>,
}

/// See the module.
pub struct Shipper {
    config: ShipperConfig,
    env: Env,
    wal: Owner<Wal>,
    consumer: ConsumerId,
    contact: watch::Receiver<Option<Contact>>,
    sealed: watch::Receiver<u64>,
    counters: Arc<ShipCounters>,
    status: watch::Sender<LinkStatus>,
    /// What was sent on earlier connections and not acknowledged, to tell what is sent again.
    sent: BTreeMap<SegmentId, RangeSet>,
    /// Segment bytes that may still be sent in this contact, over all its connections.
    budget: Option<u64>,
}

impl Shipper {
    /// A shipper for the consumer `consumer` of `wal`.
    #[expect(clippy::too_many_arguments, reason = "each is one end of a wire that agent.rs lays")]
    pub fn new(
        config: ShipperConfig,
        env: Env,
        wal: Owner<Wal>,
        consumer: ConsumerId,
        contact: watch::Receiver<Option<Contact>>,
        sealed: watch::Receiver<u64>,
        counters: Arc<ShipCounters>,
        status: watch::Sender<LinkStatus>,
    ) -> Self {
        Self {
            config,
            env,
            wal,
            consumer,
            contact,
            sealed,
            counters,
            status,
            sent: BTreeMap::new(),
            budget: None,
        }
    }

    fn set_state(&self, state: &'static str, station: Option<&str>) {
        let now = self.env.unix_nano();
        self.status.send_modify(|s| {
            if s.state == "down" && state != "down" {
                (s.sent_bytes, s.committed_segments) = (0, 0);
            }
            (s.state, s.station, s.since_unix_nano) = (state, station.map(str::to_owned), now);
        });
        self.counters.connected.set(i64::from(state == "up"));
    }

    /// Ships in every contact until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.set_state("down", None);
        loop {
            let contact = self.contact.borrow_and_update().clone();
            if let Some(contact) = contact {
                self.ship(&contact, &shutdown).await;
                self.set_state("down", None);
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                changed = self.contact.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Serves one contact: connects, again if the connection breaks, until it is over.
    async fn ship(&mut self, contact: &Contact, shutdown: &CancellationToken) {
        let station = contact.station.clone();
        let Some(address) = self.config.stations.get(&station).cloned() else {
            tracing::error!(station, "the contact names a station that link.stations does not have");
            return;
        };
        tracing::info!(contact = contact.name(), "contact begins");
        self.budget = contact.byte_budget;
        let mut over = std::pin::pin!(self.over(contact.clone(), shutdown.clone()));
        loop {
            self.set_state("connecting", Some(&station));
            let shape = contact.shape();
            let connected = tokio::select! {
                biased;
                () = &mut over => break,
                connected = connect::connect(&self.env, &self.config.client, &station, &address, &shape, &self.counters) => connected,
            };
            let error = match connected {
                Ok((endpoint, connection)) => {
                    self.counters.connections.inc();
                    self.set_state("up", Some(&station));
                    tracing::info!(station, "connected");
                    let ended = drive::drive(self, contact, &connection, over.as_mut()).await;
                    let stats = connection.stats();
                    self.counters.udp_sent_bytes.inc_by(stats.udp_tx.bytes);
                    self.counters.udp_received_bytes.inc_by(stats.udp_rx.bytes);
                    self.counters.lost_bytes.inc_by(stats.path.lost_bytes);
                    // Lets the close frame leave.
                    drop(tokio::time::timeout(shape.rtt(), endpoint.wait_idle()).await);
                    match ended {
                        Ok(drive::Ended::ContactOver) => break,
                        Ok(drive::Ended::Again) => None,
                        Err(error) => Some(error.to_string()),
                    }
                }
                Err(error) => Some(error.to_string()),
            };
            if let Some(error) = error {
                tracing::warn!(station, error, "the link is down; trying again while the contact lasts");
                self.status.send_modify(|s| s.last_error = Some(error));
                tokio::select! {
                    biased;
                    () = &mut over => break,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
        tracing::info!(contact = contact.name(), "contact is over");
    }

    /// Ends when `contact` is over: by its end, because another is in force, or at `shutdown`.
    fn over(&self, contact: Contact, shutdown: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        let mut contacts = self.contact.clone();
        async move {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                // An error means that the source of contacts is gone.
                _ = contacts.wait_for(|now| now.as_ref() != Some(&contact)) => {}
            }
        }
    }
}
