//! The shipper: in a contact it connects to the station and ships what is on board; out of contact it does nothing. Where two
//! contacts may be open at once there are two shippers, each with a slot of its own.
//!
//! The session decides, this module moves bytes: it reads and writes the control stream, asks the log, and writes segments to
//! streams of their own.

mod budget;
mod connect;
mod drive;
mod gained;
mod gate;
mod pass;
mod queues;
mod said;
mod session;
mod together;
mod trust;
mod waits;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use perigee_proto::link::{AgentState, Hello, LaneBacklog, PassReport, Plan};
use perigee_shared::contact::Contact;
use perigee_shared::env::{Env, Owner};
use perigee_shared::link::{Slot, tls};
use perigee_shared::segment::SegmentId;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::connect::{ConnectError, Up};
use self::drive::DriveError;
use self::pass::{Left, Pass};
use self::said::Said;
use self::together::Held;
pub use self::together::Together;
pub use self::trust::Trust;
use crate::clock::Clocks;
use crate::config::StationConfig;
use crate::contacts::{ContactControl, LinkState, Links, Planned};
use crate::forecast::{forecast, store};
use crate::lanes::Lanes;
use crate::limiter::Workspace;
use crate::telemetry::ShipCounters;
use crate::wal::{ConsumerId, Wal, WalError};

/// After a station has refused, or a session has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// What the log has when a station answers.
const CONNECTED: &str = "connected";

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

/// Where stations are, by id.
pub type Stations = Arc<BTreeMap<String, StationConfig>>;

/// What a shipper needs to know.
pub struct ShipperConfig {
    /// The id in our certificate.
    pub satellite: String,
    /// TLS.
    pub trust: Trust,
    /// The first 8 bytes of the BLAKE3 hash of the configuration's file that is in force as a whole; 0: there is none.
    pub configuration: Arc<AtomicU64>,
    /// What the memory limiter allows, bytes.
    pub memory_limit: u64,
}

/// See the module.
pub struct Shipper {
    config: ShipperConfig,
    slot: Slot,
    together: Together,
    stations: watch::Receiver<Stations>,
    lanes: Lanes,
    env: Env,
    clocks: Clocks,
    wal: Owner<Wal>,
    memory: Workspace,
    consumer: ConsumerId,
    contact: watch::Receiver<Option<Contact>>,
    sealed: watch::Receiver<u64>,
    /// Knows the plan, for the forecast.
    planner: ContactControl,
    counters: Arc<ShipCounters>,
    status: watch::Sender<Links>,
    /// What the log has about stations that are not reached.
    said: Said,
    started: Instant,
}

/// Where contacts come from, for Hello.
fn plan(planned: &Planned) -> Plan {
    let next = planned.upcoming.first().map(|pass| &pass.contact);
    Plan {
        source: planned.source.to_owned(),
        hash: planned.plan_hash.unwrap_or(0),
        error: planned.plan_error.clone().unwrap_or_default(),
        next_start_unix_nano: next.map_or(0, |contact| contact.start_unix_nano),
        next_station: next.map(|contact| contact.station.to_string()).unwrap_or_default(),
    }
}

impl Shipper {
    /// A shipper for the consumer `consumer` of `wal`, in `slot`.
    #[expect(clippy::too_many_arguments, reason = "each is one end of a wire that agent.rs lays")]
    pub fn new(
        config: ShipperConfig,
        (slot, together): (Slot, Together),
        stations: watch::Receiver<Stations>,
        lanes: Lanes,
        env: Env,
        clocks: Clocks,
        wal: Owner<Wal>,
        memory: Workspace,
        consumer: ConsumerId,
        contact: watch::Receiver<Option<Contact>>,
        sealed: watch::Receiver<u64>,
        planner: ContactControl,
        counters: Arc<ShipCounters>,
        status: watch::Sender<Links>,
    ) -> Self {
        Self {
            config,
            slot,
            together,
            stations,
            lanes,
            env,
            clocks,
            wal,
            memory,
            consumer,
            contact,
            sealed,
            planner,
            counters,
            status,
            said: Said::default(),
            started: Instant::now(),
        }
    }

    fn set_state(&self, state: LinkState, station: Option<&str>) {
        let now = self.env.unix_nano();
        self.status.send_modify(|links| {
            let s = links.of_mut(self.slot);
            if s.state == LinkState::Down && state != LinkState::Down {
                (s.sent_bytes, s.committed_segments, s.committed_bytes) = (0, 0, 0);
            }
            (s.state, s.station, s.since_unix_nano) = (state, station.map(str::to_owned), now);
        });
        self.counters.connected.set(i64::from(self.status.borrow().is_up()));
    }

    /// Ships in every contact until `shutdown`.
    pub async fn run(&mut self, shutdown: CancellationToken) {
        self.set_state(LinkState::Down, None);
        // The shipper before this one may have ended anyhow.
        self.end_sending(BTreeMap::new(), 0).await;
        loop {
            let contact = self.contact.borrow_and_update().clone();
            if let Some(contact) = contact {
                let mut pass = self.ship(&contact, &shutdown).await;
                self.together.end(std::mem::take(&mut pass.waits));
                self.set_state(LinkState::Down, None);
                // A station that was tried and did not answer was no pass.
                let was_a_pass = contact.end_unix_nano.is_some() || !pass.connected().is_zero();
                if was_a_pass && let Err(error) = self.record(&pass).await {
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

    /// What has become of `pass` so far.
    async fn report(&self, pass: &Pass) -> Result<PassReport, ReportError> {
        let left = self.wal.call(|wal| {
            let summary = wal.summary();
            Ok::<_, WalError>(Left {
                bytes: summary.segment_bytes + summary.unsealed_bytes,
                unsealed_bytes: summary.unsealed_bytes,
                since_unix_nano: wal.passes().oldest()?,
            })
        });
        let left = left.await??;
        Ok(pass.report(self.clocks.now().unix_nano, &left, self.status.borrow().of(self.slot)))
    }

    /// The connection is over: what was under way over it may go in another slot. `held`: what `ledger` holds of it.
    async fn end_sending(&self, held: BTreeMap<SegmentId, Held>, ledger: u64) {
        let slot = self.slot;
        drop(self.wal.call(move |wal| wal.recoding().end_sending(slot)).await);
        self.together.leave(ledger, held);
    }

    /// Keeps what became of `pass`.
    async fn record(&self, pass: &Pass) -> Result<(), ReportError> {
        let report = self.report(pass).await?;
        let kept = report.clone();
        self.wal.call(move |wal| wal.passes().record(&kept)).await??;
        tracing::info!(
            contact = pass.contact.name(),
            state = report.state().as_str_name().trim_start_matches("PASS_STATE_").to_lowercase(),
            planned = (report.planned_bytes > 0).then_some(report.planned_bytes),
            held = report.held_bytes,
            backlog = report.backlog_bytes,
            "pass report"
        );
        Ok(())
    }

    /// What waits on board, by lane.
    async fn backlog(&self) -> Result<Vec<LaneBacklog>, ReportError> {
        Ok(self.wal.call(|wal| wal.passes().backlog()).await??)
    }

    /// What Hello says beside the log: the latest passes, what waits, what is planned and expected, and how this process is.
    async fn outlook(&self) -> Result<Hello, ReportError> {
        let planned = self.planner.ahead().await.ok();
        let (passes, store) =
            self.wal.call(|wal| Ok::<_, WalError>((wal.passes().latest(REPORTS)?, store(wal)?))).await??;
        let plan = planned.as_ref().map(plan);
        let orbit = planned.as_ref().and_then(|planned| planned.orbit.clone());
        let forecast = planned.map(|planned| forecast(planned.now, store, &planned.ahead));
        let agent = AgentState {
            configuration: self.config.configuration.load(Ordering::Relaxed),
            resident_bytes: (self.env.memory)().map_or(0, |m| m.used),
            memory_limit_bytes: self.config.memory_limit,
            cpu_nano: (self.env.cpu_time)().map_or(0, |time| time.as_nanos() as u64),
            running_nano: self.started.elapsed().as_nanos() as u64,
            certificate_end_unix_nano: self.config.trust.end().unwrap_or(0),
        };
        let backlog = self.backlog().await?;
        Ok(Hello { passes, forecast, backlog, plan, agent: Some(agent), orbit, ..Hello::default() })
    }

    /// Serves one contact: connects, again if the connection breaks, until it is over.
    async fn ship(&mut self, contact: &Contact, shutdown: &CancellationToken) -> Pass {
        // Two that are opened at once are two passes.
        let began = self.clocks.now().unix_nano + u64::from(self.slot.to_wire());
        let mut pass = Pass::new(contact, began, self.together.begin());
        let station = &*contact.station;
        if !self.stations().contains_key(station) {
            tracing::error!(station, "the contact names a station that link.stations does not have");
            return pass;
        }
        tracing::info!(contact = contact.name(), "contact begins");
        if contact.end_unix_nano.is_some() {
            drop(self.wal.call(|wal| wal.recoding().contact_opens()).await);
        }
        self.said.forget(station, CONNECTED);
        let mut over = std::pin::pin!(self.over(contact.clone(), shutdown.clone()));
        loop {
            self.set_state(LinkState::Connecting, Some(station));
            if let Some(planned) = self.planned(&pass.contact) {
                pass.replan(&planned);
            }
            let Some(at) = self.stations().get(station).cloned() else { break };
            let (mut yields, mut rest) = (false, PAUSE);
            let error = match self.connect(&mut pass, &at, over.as_mut()).await {
                None => break,
                Some(Err(ConnectError::Moved)) => continue,
                Some(Ok(up)) => match self.serve(&mut pass, &up, over.as_mut()).await {
                    Ok(drive::Ended::ContactOver) => break,
                    Ok(drive::Ended::Again) => continue,
                    Err(error) => {
                        pass.is_refused = error.is_refusal();
                        (yields, rest) = (error.is_superseded(), error.rest().max(PAUSE));
                        error.to_string()
                    }
                },
                Some(Err(error)) => {
                    pass.is_refused = matches!(error, ConnectError::Refused(_));
                    error.to_string()
                }
            };
            self.complain(station, error);
            if yields {
                self.set_state(LinkState::Connecting, Some(station));
            }
            let pause = async {
                if yields {
                    self.only_one().await;
                }
                tokio::time::sleep(rest).await;
            };
            tokio::select! {
                biased;
                () = &mut over => break,
                () = pause => {}
            }
        }
        tracing::info!(contact = contact.name(), "contact is over");
        pass
    }

    /// A ground of earlier software serves one connection of a satellite, the newer one: waits until that one, in another slot, is
    /// over, since this one would end it.
    async fn only_one(&self) {
        let mut links = self.status.subscribe();
        // The sender is here, so it is not gone.
        drop(links.wait_for(|links| !links.is_up_beside(self.slot)).await);
    }

    /// Connects to the station of `pass`; `None` when the contact is over before that.
    async fn connect(
        &mut self,
        pass: &mut Pass,
        at: &StationConfig,
        mut over: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Option<Result<Up, ConnectError>> {
        let (station, shape) = (&pass.contact.station, pass.contact.shape());
        let client = self.config.trust.client(&self.counters).clone();
        let (env, counters) = (self.env.clone(), Arc::clone(&self.counters));
        let mut connecting = std::pin::pin!(connect::connect(
            &env,
            &client,
            at.server_name(station),
            &at.address,
            &shape,
            &counters
        ));
        let mut stations = self.stations.clone();
        let elsewhere = |stations: &Stations| stations.get(&**station) != Some(at);
        let mut moved = std::pin::pin!(stations.wait_for(elsewhere));
        tokio::select! {
            biased;
            () = &mut over => return None,
            connected = &mut connecting => return Some(connected),
            _ = &mut moved => return Some(Err(ConnectError::Moved)),
            () = tokio::time::sleep(connect::patience(&shape)) => {}
        }
        self.complain(station, connect::no_answer(&at.address, &shape));
        tokio::select! {
            biased;
            () = &mut over => None,
            connected = &mut connecting => Some(connected),
            _ = &mut moved => Some(Err(ConnectError::Moved)),
        }
    }

    /// Ships over a connection until it ends.
    async fn serve(
        &mut self,
        pass: &mut Pass,
        up: &Up,
        over: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<drive::Ended, DriveError> {
        self.counters.connections.inc();
        self.accepted(&up.connection).await;
        pass.up();
        let ended = drive::drive(self, pass, up, over).await;
        let stats = up.connection.stats();
        pass.measure(&stats.path);
        pass.down();
        self.counters.udp_sent_bytes.inc_by(stats.udp_tx.bytes);
        self.counters.udp_received_bytes.inc_by(stats.udp_rx.bytes);
        self.counters.lost_bytes.inc_by(stats.path.lost_bytes);
        // Lets the close frame leave, while the next station is called.
        let (endpoint, rtt) = (up.endpoint.clone(), pass.contact.shape().rtt());
        let leave = async move { drop(tokio::time::timeout(rtt, endpoint.wait_idle()).await) };
        if self.is_left_for_another(&pass.contact.station) {
            tokio::spawn(leave);
        } else {
            leave.await;
        }
        ended
    }

    /// The station has answered Hello. One that refuses the satellite lets it connect first.
    fn answered(&mut self, station: &str) {
        if self.status.borrow().of(self.slot).state == LinkState::Up {
            return;
        }
        self.set_state(LinkState::Up, Some(station));
        if self.said.may_say(station, CONNECTED) {
            tracing::info!(station, "{CONNECTED}");
        }
    }

    /// Notes why `station` is not reached, for `status` and, rarely, for the log.
    fn complain(&mut self, station: &str, error: String) {
        if self.said.may_say(station, &error) {
            tracing::warn!(station, error, "the link is down; trying again while the contact lasts");
        }
        let now = self.env.unix_nano();
        self.status.send_modify(|links| {
            let s = links.of_mut(self.slot);
            (s.last_error, s.last_error_unix_nano) = (Some(error), Some(now));
        });
    }

    /// A station was accepted: the time is not before the beginning of its certificate.
    async fn accepted(&self, connection: &quinn::Connection) {
        let Some(begins) = tls::peer_begins(connection).filter(|at| self.env.bounds.raise_floor(*at)) else {
            return;
        };
        let kept = self.wal.call(move |wal| wal.queues().raise_clock_floor(begins)).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, "what is certain of the time could not be kept");
        }
    }

    /// `contact` as it is planned now, if it is in force.
    fn planned(&self, contact: &Contact) -> Option<Contact> {
        self.contact.borrow().clone().filter(|now| contact.goes_on_as(now))
    }

    /// The ground-station that answers for `station`: what is known of a ledger is known of that.
    fn ground(&self, station: &str) -> String {
        self.stations().get(station).map_or(station, |at| at.server_name(station)).to_owned()
    }

    fn stations(&self) -> Stations {
        Arc::clone(&self.stations.borrow())
    }

    /// Whether a contact with another station is in force.
    fn is_left_for_another(&self, station: &str) -> bool {
        self.contact.borrow().as_ref().is_some_and(|contact| *contact.station != *station)
    }

    /// Ends when `contact` is over: by its end, because another is in force, or at `shutdown`. One that is planned anew goes on.
    fn over(&self, contact: Contact, shutdown: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        let (mut contacts, mut contact) = (self.contact.clone(), contact);
        let another = move |now: &Option<Contact>| match now {
            Some(now) if contact.goes_on_as(now) => {
                contact = now.clone();
                false
            }
            _ => true,
        };
        async move {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                // An error means that the source of contacts is gone.
                _ = contacts.wait_for(another) => {}
            }
        }
    }
}
