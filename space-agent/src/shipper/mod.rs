//! The shipper: in a contact it connects to the station and ships what is on board; out of contact it does nothing.
//!
//! The session decides, this module moves bytes: it reads and writes the control stream, asks the log, and writes segments to
//! streams of their own.

mod connect;
mod drive;
mod gate;
mod queues;
mod session;
mod trust;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use perigee_proto::link::{Forecast, PassReport};
use perigee_shared::contact::Contact;
use perigee_shared::env::{Env, Owner};
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::link::tls;
use perigee_shared::segment::SegmentId;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::trust::Trust;
use crate::clock::Clocks;
use crate::contacts::{ContactControl, LinkState, LinkStatus};
use crate::forecast::{forecast, store};
use crate::lanes::Lanes;
use crate::telemetry::ShipCounters;
use crate::wal::{ConsumerId, Wal, WalError};

/// After a station has refused, or a session has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Reports of passes that a Hello brings.
const REPORTS: usize = 16;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    #[error(transparent)]
    Wal(#[from] WalError),
    #[error(transparent)]
    Gone(#[from] perigee_shared::env::Gone),
}

/// What a shipper needs to know.
pub struct ShipperConfig {
    /// The id in our certificate.
    pub satellite: String,
    /// TLS.
    pub trust: Trust,
    /// Address of each station, by id.
    pub stations: BTreeMap<String, String>,
}

/// See the module.
pub struct Shipper {
    config: ShipperConfig,
    lanes: Lanes,
    env: Env,
    clocks: Clocks,
    wal: Owner<Wal>,
    consumer: ConsumerId,
    contact: watch::Receiver<Option<Contact>>,
    sealed: watch::Receiver<u64>,
    /// Knows the plan, for the forecast.
    planner: ContactControl,
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
        lanes: Lanes,
        env: Env,
        clocks: Clocks,
        wal: Owner<Wal>,
        consumer: ConsumerId,
        contact: watch::Receiver<Option<Contact>>,
        sealed: watch::Receiver<u64>,
        planner: ContactControl,
        counters: Arc<ShipCounters>,
        status: watch::Sender<LinkStatus>,
    ) -> Self {
        Self {
            config,
            lanes,
            env,
            clocks,
            wal,
            consumer,
            contact,
            sealed,
            planner,
            counters,
            status,
            sent: BTreeMap::new(),
            budget: None,
        }
    }

    fn set_state(&self, state: LinkState, station: Option<&str>) {
        let now = self.env.unix_nano();
        self.status.send_modify(|s| {
            if s.state == LinkState::Down && state != LinkState::Down {
                (s.sent_bytes, s.committed_segments, s.committed_bytes) = (0, 0, 0);
            }
            (s.state, s.station, s.since_unix_nano) = (state, station.map(str::to_owned), now);
        });
        self.counters.connected.set(i64::from(state == LinkState::Up));
    }

    /// Ships in every contact until `shutdown`.
    pub async fn run(&mut self, shutdown: CancellationToken) {
        self.set_state(LinkState::Down, None);
        loop {
            let contact = self.contact.borrow_and_update().clone();
            if let Some(contact) = contact {
                let (began, connected) = (self.clocks.now().unix_nano, self.ship(&contact, &shutdown).await);
                self.set_state(LinkState::Down, None);
                // A station that was tried and did not answer was no pass.
                let was_a_pass = contact.end_unix_nano.is_some() || !connected.is_zero();
                if was_a_pass && let Err(error) = self.report(&contact, began, connected).await {
                    tracing::warn!(%error, "the report of the pass could not be kept");
                }
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                changed = self.contact.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Keeps what became of `contact`.
    async fn report(&self, contact: &Contact, began: u64, connected: Duration) -> Result<(), ReportError> {
        let status = self.status.borrow().clone();
        let (station, end) = (contact.station.clone(), self.clocks.now().unix_nano);
        let planned = contact.volume(began).unwrap_or(0);
        let kept = self.wal.call(move |wal| {
            let summary = wal.summary();
            let report = PassReport {
                station,
                start_unix_nano: began,
                end_unix_nano: end,
                planned_bytes: planned,
                achieved_bytes: status.committed_bytes,
                sent_bytes: status.sent_bytes,
                committed_segments: status.committed_segments,
                connected_nano: connected.as_nanos() as u64,
                backlog_bytes: summary.segment_bytes + summary.unsealed_bytes,
                backlog_since_unix_nano: wal.passes().oldest()?.unwrap_or(0),
                ..PassReport::default()
            };
            wal.passes().record(&report)?;
            Ok::<_, WalError>(report)
        });
        let report = kept.await??;
        tracing::info!(
            contact = contact.name(),
            planned = report.planned_bytes,
            achieved = report.achieved_bytes,
            backlog = report.backlog_bytes,
            "pass report"
        );
        Ok(())
    }

    /// The latest reports, and what is expected now.
    async fn outlook(&self) -> Result<(Vec<PassReport>, Option<Forecast>), ReportError> {
        let planned = self.planner.list().await.ok();
        let (passes, store) =
            self.wal.call(|wal| Ok::<_, WalError>((wal.passes().latest(REPORTS)?, store(wal)?))).await??;
        let forecast = planned.map(|planned| {
            let all: Vec<_> = planned.current.into_iter().chain(planned.upcoming).collect();
            forecast(planned.now, store, &all)
        });
        Ok((passes, forecast))
    }

    /// Serves one contact: connects, again if the connection breaks, until it is over. Returns how long it was connected.
    async fn ship(&mut self, contact: &Contact, shutdown: &CancellationToken) -> Duration {
        let mut connected_for = Duration::ZERO;
        let station = contact.station.clone();
        let Some(address) = self.config.stations.get(&station).cloned() else {
            tracing::error!(station, "the contact names a station that link.stations does not have");
            return connected_for;
        };
        tracing::info!(contact = contact.name(), "contact begins");
        self.budget = contact.byte_budget;
        let mut over = std::pin::pin!(self.over(contact.clone(), shutdown.clone()));
        loop {
            self.set_state(LinkState::Connecting, Some(&station));
            let (shape, client) = (contact.shape(), self.config.trust.client(&self.counters).clone());
            let connected = tokio::select! {
                biased;
                () = &mut over => break,
                connected = connect::connect(&self.env, &client, &station, &address, &shape, &self.counters) => connected,
            };
            let error = match connected {
                Ok((endpoint, connection)) => {
                    self.counters.connections.inc();
                    self.set_state(LinkState::Up, Some(&station));
                    tracing::info!(station, "connected");
                    self.accepted(&connection).await;
                    let up = Instant::now();
                    let ended = drive::drive(self, contact, &connection, over.as_mut()).await;
                    connected_for += up.elapsed();
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
        connected_for
    }

    /// A station was accepted: the time is not before the beginning of its certificate.
    async fn accepted(&self, connection: &quinn::Connection) {
        let Some(begins) = tls::peer_begins(connection).filter(|at| self.env.bounds.raise_floor(*at)) else {
            return;
        };
        let kept = self.wal.call(move |wal| wal.raise_clock_floor(begins)).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, "what is certain of the time could not be kept");
        }
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
