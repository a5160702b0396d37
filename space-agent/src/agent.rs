//! The agent as a whole: built from a configuration and an environment, run until it is told to stop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use hyper_util::service::TowerToHyperService;
use perigee_shared::config::reload::Changes;
use perigee_shared::config::{ConfigError, Invalid};
use perigee_shared::contact::Contact;
use perigee_shared::env::{Env, Owner};
use perigee_shared::export::{Attributes, Client, ExporterConfig as DirectConfig};
use perigee_shared::link::Slot;
use perigee_shared::link::tls::TlsError;
use perigee_shared::segment::Delivery;
use perigee_shared::serve::{self, BindError, Closed, Endpoint, HttpConfig, Limits, Listener, RouterService};
use perigee_shared::signal::{Signal, SignalSet};
use perigee_shared::store::StoreError;
use perigee_shared::supervise::Supervisor;
use perigee_shared::telemetry::{Captured, LOG_LEVEL, Logs};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::batcher::Batcher;
use crate::clock::Clocks;
use crate::config::{Config, ExporterConfig, LINK, LinkConfig};
use crate::contacts::{ContactControl, Contacts, Links, Told};
use crate::control::{Control, bare_metrics_router, control_router, health_router, metrics_router};
use crate::exporter::Exporter;
use crate::journal::{Journal, Pace, Progress};
use crate::lanes::Lanes;
use crate::lifetimes;
use crate::limiter::{Limiter, Workspace};
use crate::mirroring;
use crate::receiver::{Intake, Own, ReceiverError, Receivers};
use crate::scrub;
use crate::shipper::{Shipper, ShipperConfig, Stations, Together, Trust};
use crate::sizing::Destinations;
use crate::telemetry::{Metrics, ShipCounters};
use crate::wal::{self, Wal, WalConfig, WalError};

/// How long requests that have begun may take once the agent is told to stop.
pub const DRAIN: Duration = Duration::from_secs(10);

/// How often the log is looked at while the link is down: does compaction pay?
const COMPACT_CHECK: Duration = Duration::from_secs(600);

/// Why an agent cannot be built or run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The write-ahead log.
    #[error("storage.directory {directory}: {source}")]
    Wal {
        /// Where it is.
        directory: String,
        /// Why.
        source: WalError,
    },
    /// A setting cannot be used.
    #[error("{}: {}", .0.key, .0.message)]
    Setting(Invalid),
    /// The contact plan cannot be read.
    #[error(transparent)]
    Plan(#[from] ConfigError),
    /// The link's certificates.
    #[error("link: {0}")]
    Link(#[from] TlsError),
    /// A receiver.
    #[error(transparent)]
    Receiver(#[from] ReceiverError),
    /// Another listener.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The log is lost while the agent runs.
    #[error(
        "the write-ahead log can no longer be used: {0}; the agent exits, since it could not keep what it accepts"
    )]
    StoreLost(String),
    /// A task panicked too often.
    #[error("the task {0} panicked six times in ten minutes; the agent exits, and accepted data is safe")]
    Task(Arc<str>),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl AgentError {
    /// Whether the disk under the log has failed.
    pub const fn is_of_the_disk(&self) -> bool {
        matches!(self, Self::Wal { source: WalError::Store(error), .. } if error.is_of_the_disk())
    }

    /// Whether the configuration, or a file that it names, is wrong: `validate` says the same.
    pub const fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::Setting(_) | Self::Plan(_) | Self::Link(_) | Self::Receiver(ReceiverError::Tls(_))
        )
    }
}

/// Certificates and clients: what needs files and can be wrong before anything is opened or bound.
struct Outside {
    /// By slot.
    link: Vec<ShipperConfig>,
    /// The hash of the configuration's file.
    hash: Arc<AtomicU64>,
    direct: BTreeMap<String, (Client, DirectConfig, SignalSet)>,
    /// What direct exporters add to every resource.
    attributes: Attributes,
}

impl Outside {
    fn try_new(config: &Config, env: &Env) -> Result<Self, AgentError> {
        // Nothing that a direct exporter sends has waited for a contact.
        let live = (Delivery::ATTRIBUTE, Delivery::Live.name());
        let attributes = if config.delivery_attribute { vec![live] } else { Vec::new() };
        let attributes = Attributes::new(&attributes);
        let hash = Arc::new(AtomicU64::new(config.hash));
        let mut outside = Self { link: Vec::new(), hash, direct: BTreeMap::new(), attributes };
        for (name, signals) in config.consumers() {
            match config.exporters.get(&name) {
                Some(ExporterConfig::Link) => {
                    if let Some(link) = &config.link {
                        let shippers = Slot::first(config.contacts.simultaneous);
                        let shipper = |_| link_config(config, link, &outside.hash, env);
                        outside.link = shippers.map(shipper).collect::<Result<_, _>>()?;
                    }
                }
                Some(ExporterConfig::Direct(direct)) => {
                    let client = Client::try_new(&format!("exporters.{name}"), direct, env);
                    let client = client.map_err(AgentError::Setting)?;
                    outside.direct.insert(name, (client, DirectConfig::clone(direct), signals));
                }
                None => {}
            }
        }
        Ok(outside)
    }
}

fn link_config(
    config: &Config,
    link: &LinkConfig,
    hash: &Arc<AtomicU64>,
    env: &Env,
) -> Result<ShipperConfig, AgentError> {
    let (trust, satellite) = Trust::try_new(link, env)?;
    Ok(ShipperConfig {
        satellite,
        trust,
        configuration: Arc::clone(hash),
        memory_limit: config.processors.memory_limiter.limit.0,
    })
}

fn stations_of(config: &Config) -> Stations {
    Arc::new(config.link.as_ref().map(|link| link.stations.clone()).unwrap_or_default())
}

fn is_in(key: &str, section: &str) -> bool {
    key.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Changes what can change while an agent runs.
pub struct Reload {
    contacts: ContactControl,
    stations: watch::Sender<Stations>,
    hash: Arc<AtomicU64>,
}

impl Reload {
    /// Whether a setting can.
    pub fn can(key: &str) -> bool {
        let is_fixed = ["contacts.time_from_ground", "contacts.simultaneous"].contains(&key);
        key == LOG_LEVEL || is_in(key, "link.stations") || is_in(key, "contacts") && !is_fixed
    }

    /// Takes those settings of `config` into force, of which these have changed. A station that is not there any more is left.
    pub async fn apply(&self, config: &Config, changes: &Changes, logs: &Logs) {
        if changes.later.is_empty() {
            self.hash.store(config.hash, Ordering::Relaxed);
        }
        logs.set_level(config.service.telemetry.logs.level);
        let stations = stations_of(config);
        let before = self.stations.send_replace(Arc::clone(&stations));
        // What nobody changed costs no contact.
        if stations.keys().ne(before.keys()) || changes.now.iter().any(|key| is_in(key, "contacts")) {
            let names = stations.keys().cloned().collect();
            // The agent may be ending.
            let _ = self.contacts.configure(config.contacts.clone(), names).await;
        }
    }
}

/// Whether somebody beside the link takes segments.
fn takes_directly(config: &Config) -> bool {
    config.consumers().keys().any(|name| name != LINK)
}

fn contacts(
    config: &Config,
    clocks: &Clocks,
    told: Told,
    link: watch::Receiver<Links>,
) -> (Contacts, ContactControl) {
    let direct = takes_directly(config);
    let lead = config.processors.batch.seal_before_contact.0;
    let stations: Vec<String> = config.link.iter().flat_map(|l| l.stations.keys().cloned()).collect();
    Contacts::new(&config.contacts, &stations, clocks.clone(), lead, direct, told, link)
}

fn wal_config(config: &Config, satellite: Option<String>) -> Result<WalConfig, AgentError> {
    Ok(WalConfig {
        directory: config.storage.directory.clone(),
        satellite,
        max_bytes: config.storage.max_bytes.0,
        when_full: config.storage.when_full,
        ballast: config.storage.ballast.0,
        consumers: config.consumers(),
        lanes: config.lanes.lanes().map_err(AgentError::Setting)?,
        volatile: config.storage.volatile,
        // What the limiter has to leave for requests and sealing.
        volatile_bytes: config.processors.memory_limiter.limit.0 / 4,
    })
}

/// The satellite whose log lies in `storage.directory`, if that is known.
pub fn owner_of_log(config: &Config, env: &Env) -> Option<String> {
    wal::owner(&wal_config(config, None).ok()?, env)
}

/// Opens the log of `config` by itself, for commands while no agent runs.
pub fn open_existing_wal(config: &Config, env: &Env) -> Result<Wal, AgentError> {
    open_existing(config, env, None)
}

/// The same for data that is to be delivered in the satellite's name, which the certificate says where the log does not.
pub fn open_own_wal(config: &Config, env: &Env) -> Result<Wal, AgentError> {
    let ours = config.link.as_ref().and_then(|link| Trust::try_new(link, env).ok());
    open_existing(config, env, ours.map(|(_, satellite)| satellite))
}

fn open_existing(config: &Config, env: &Env, satellite: Option<String>) -> Result<Wal, AgentError> {
    Wal::open_existing(wal_config(config, satellite)?, env.clone()).map_err(|source| AgentError::Wal {
        directory: config.storage.directory.display().to_string(),
        source,
    })
}

fn open_wal(config: &Config, env: &Env, satellite: Option<String>) -> Result<Wal, AgentError> {
    Wal::open(wal_config(config, satellite)?, env.clone()).map_err(|source| AgentError::Wal {
        directory: config.storage.directory.display().to_string(),
        source,
    })
}

/// A bound listener for operators and what it serves.
type Operator = (&'static str, Endpoint, Listener, fn(Arc<Control>) -> Router);

/// An agent that is built and not running yet.
pub struct Agent {
    config: Config,
    env: Env,
    clocks: Clocks,
    outside: Outside,
    wal: Owner<Wal>,
    metrics: Metrics,
    tasks: Supervisor,
    operators: Vec<Operator>,
    stations: watch::Sender<Stations>,
    /// What the agent has to say of itself, if it does.
    own: Option<Captured>,
    contacts: (Contacts, ContactControl),
    /// By slot.
    current: Vec<watch::Receiver<Option<Contact>>>,
    wanted: watch::Receiver<bool>,
    link: (watch::Sender<Links>, watch::Receiver<Links>),
}

impl Agent {
    /// Checks what the configuration names, opens the log and binds every listener. What `own` keeps is sent with the rest.
    pub async fn build(
        config: Config,
        env: Env,
        own: Option<Captured>,
    ) -> Result<(Self, Receivers), AgentError> {
        Receivers::check(&config, &env)?;
        let mut agent = Self::without_listeners(config, env)?;
        let receivers = Receivers::bind(&agent.config, &agent.env).await?;
        agent.operators = operators(&agent.config).await?;
        agent.own = own;
        Ok((agent, receivers))
    }

    /// An agent that binds nothing, whatever its configuration says: requests come to its intake alone.
    pub fn without_listeners(config: Config, env: Env) -> Result<Self, AgentError> {
        let outside = Outside::try_new(&config, &env)?;
        let stations = watch::Sender::new(stations_of(&config));
        let slots = Slot::first(config.contacts.simultaneous);
        let (current_senders, current): (Vec<_>, Vec<_>) = slots.map(|_| watch::channel(None)).unzip();
        let (wanted_sender, wanted) = watch::channel(false);
        let link = watch::channel(Links::new(current.len()));
        let told = Told { current: current_senders, wanted: wanted_sender };
        let satellite = outside.link.first().map(|link| link.satellite.clone());
        let wal = open_wal(&config, &env, satellite.clone())?;
        env.bounds.raise_floor(wal.summary().clock_floor);
        let wal = Owner::new(env.placement, "wal", wal)?;
        let tasks = Supervisor::new(&env);
        let metrics = Metrics::watching(satellite.as_deref(), &tasks, &env, &config.consumers());
        let clocks = Clocks::new(&env, config.contacts.time_from_ground, metrics.clock());
        let contacts = contacts(&config, &clocks, told, link.1.clone());
        let ends = outside.link.iter().filter_map(|link| link.trust.end()).min();
        metrics.ship().certificate_end(ends);
        Ok(Self {
            config,
            env,
            clocks,
            outside,
            wal,
            metrics,
            tasks,
            operators: Vec::new(),
            stations,
            own: None,
            contacts,
            current,
            wanted,
            link,
        })
    }

    /// The log.
    pub fn wal(&self) -> Owner<Wal> {
        self.wal.clone()
    }

    /// What watches its tasks.
    pub const fn tasks(&self) -> &Supervisor {
        &self.tasks
    }

    /// Changes what can change while it runs.
    pub fn reload(&self) -> Reload {
        let hash = Arc::clone(&self.outside.hash);
        Reload { contacts: self.contacts.1.clone(), stations: self.stations.clone(), hash }
    }

    /// What the shipper counts.
    pub fn ship_counters(&self) -> Arc<ShipCounters> {
        self.metrics.ship()
    }

    /// Runs while `serve_intake` feeds the intake, then drains: requests that have begun are answered and committed before the rest
    /// stops.
    pub async fn run<F>(self, serve_intake: impl FnOnce(Arc<Intake>) -> F) -> Result<(), AgentError>
    where
        F: Future<Output = ()>,
    {
        let Self {
            config,
            env,
            clocks,
            outside,
            wal,
            metrics,
            tasks: back,
            operators,
            stations,
            own,
            contacts,
            current,
            wanted,
            link,
        } = self;
        let limiter = Limiter::new(config.processors.memory_limiter);
        let memory = Workspace::new(&limiter);
        let front = back.group();
        let stop = CancellationToken::new();

        let unsealed = wal.call(|wal| wal.segments().unsealed()).await.unwrap_or_default();
        let (told, _) = watch::channel(Progress { unsealed, at: Instant::now() });
        let (sealed_sender, sealed) = watch::channel(0u64);
        let (link_sender, link) = link;
        let (batch, lanes) = (config.processors.batch, config.lanes.lanes().map_err(AgentError::Setting)?);
        let destinations = config.link.is_some().then(|| Destinations {
            contacts: contacts.1.clone(),
            link: link.clone(),
            slots: current.len(),
            direct: takes_directly(&config),
            store: config.storage.max_bytes.0,
        });
        let batcher =
            Batcher::new(batch, lanes.clone(), env.clone(), wal.clone(), told.clone(), wanted, sealed_sender)
                .planned(destinations)
                .within(config.processors.memory_limiter.limit, memory.clone());
        back.keep_until("batcher", batcher, &stop, |batcher, stop| Box::pin(batcher.run(stop)));
        back.keep_until(
            "lifetimes",
            (lanes.clone(), wal.clone(), sealed.clone()),
            &stop,
            |(lanes, wal, sealed), stop| {
                Box::pin(lifetimes::run(lanes.clone(), wal.clone(), sealed.clone(), stop))
            },
        );
        let kept = (wal.clone(), told.subscribe());
        back.keep_until("counters beside the log", kept, &stop, |(wal, told), stop| {
            Box::pin(mirroring::run(wal.clone(), told.clone(), stop))
        });
        back.keep_until(
            "memory limiter",
            (Arc::clone(&limiter), env.clone()),
            &stop,
            |(limiter, env), stop| Box::pin(limiter.run(env.clone(), stop)),
        );
        back.keep_until("compaction", (wal.clone(), link.clone()), &stop, |(wal, link), stop| {
            Box::pin(compact(wal.clone(), link.clone(), stop))
        });
        let scrubbed = (config.storage.scrub, wal.clone(), metrics.scrub());
        back.keep_until("scrub", scrubbed, &stop, |(config, wal, counters), stop| {
            Box::pin(scrub::run(*config, wal.clone(), counters.clone(), stop))
        });
        let (contact_source, contact_control) = contacts;
        back.keep_until("contacts", contact_source, &stop, |contacts, stop| Box::pin(contacts.run(stop)));

        let satellite = outside.link.first().map(|link| link.satellite.clone());
        let wires = (stations.subscribe(), current, contact_control.clone(), clocks.clone(), link_sender);
        spawn_consumers(outside, &env, &wal, wires, &sealed, &metrics, (&lanes, &memory), &back, &stop).await;

        let (journal, committer) = Journal::new(
            wal.clone(),
            config.acknowledge(),
            Pace {
                interval: config.storage.commit_interval.0,
                rules: Arc::clone(&lanes.rules),
                memory: config.processors.memory_limiter.limit,
            },
            metrics.receiver(),
            told,
        );
        front.keep("journal", committer, |committer| Box::pin(committer.run()));
        let largest = config.otlp_receivers().map(|(_, r)| r.max_request_bytes.as_usize()).max();
        let max_request = largest.unwrap_or_default();
        let intake = Arc::new(Intake::new(
            Arc::clone(&limiter),
            journal,
            metrics.receiver(),
            max_request,
            back.group(),
        ));
        let closed = metrics.receiver().closed().clone();
        let control = Arc::new(Control {
            env: env.clone(),
            clocks,
            wal: wal.clone(),
            contacts: satellite.is_some().then_some(contact_control.clone()),
            stations: stations.subscribe(),
            link,
            sealed,
            limiter,
            lanes,
            memory,
            metrics,
            satellite,
            tasks: back.clone(),
        });
        spawn_operators(operators, &control, &closed, &back, &stop);
        // It hands requests to the journal, which ends when nobody can any more.
        let (mouth, quiet) = (back.group(), CancellationToken::new());
        if let Some(own) = own {
            let (says, counters) = ((own, config.service.telemetry.otlp), control.metrics.own());
            let signals = Signal::ALL.into_iter().filter(|s| config.service.pipelines.get(*s).is_some());
            let signals = signals.fold(SignalSet::default(), SignalSet::with);
            let into = (&*intake, signals);
            let own = Own::new(says, into, Arc::clone(&control), counters, config.storage.max_bytes.0);
            mouth.keep_until("own telemetry", own, &quiet, |own, quiet| Box::pin(own.run(quiet)));
        }
        // It has the log, which is closed in the end.
        drop(control);
        tracing::info!("space-agent is ready");
        let lost = tokio::select! {
            biased;
            why = store_lost(&wal) => Some(AgentError::StoreLost(why)),
            task = back.given_up() => Some(AgentError::Task(task)),
            () = serve_intake(intake) => None,
        };

        tracing::info!("stopping: what was accepted is being committed");
        for (tasks, token) in [(mouth, Some(&quiet)), (front, None), (back, Some(&stop))] {
            if let Some(token) = token {
                token.cancel();
            }
            if tokio::time::timeout(DRAIN, tasks.ended()).await.is_err() {
                tracing::warn!("some tasks did not end in time");
            }
        }
        drop(contact_control);
        if let Some(lost) = lost {
            return Err(lost);
        }
        if let Some(wal) = wal.into_inner() {
            let directory = config.storage.directory.display().to_string();
            wal.close().map_err(|source| match source {
                WalError::Store(StoreError::GivenUp(why)) => AgentError::StoreLost(why),
                source => AgentError::Wal { directory, source },
            })?;
        }
        Ok(())
    }
}

/// Waits until the log can never be used again, and says why.
async fn store_lost(wal: &Owner<Wal>) -> String {
    let Ok(mut given_up) = wal.call(|wal| wal.given_up()).await else {
        return "its thread has ended".to_owned();
    };
    tokio::select! {
        biased;
        () = wal.ended() => "its thread has ended".to_owned(),
        why = given_up.wait_for(Option::is_some) => {
            why.ok().and_then(|why| why.clone()).unwrap_or_else(|| "its thread has ended".to_owned())
        }
    }
}

/// Binds the endpoints for operators.
async fn operators(config: &Config) -> Result<Vec<Operator>, AgentError> {
    let mut out: Vec<Operator> = Vec::new();
    let http = |c: &Option<HttpConfig>| c.as_ref().and_then(|c| Endpoint::parse(&c.endpoint).ok());
    if let Some(endpoint) = http(&config.service.telemetry.metrics_endpoint()) {
        let listener = Listener::bind(&endpoint, "metrics", None).await?;
        let bare = config.service.telemetry.without_type_suffix();
        out.push(("metrics", endpoint, listener, if bare { bare_metrics_router } else { metrics_router }));
    }
    if let Some(endpoint) = http(&config.extensions.health_check) {
        let listener = Listener::bind(&endpoint, "the health check", None).await?;
        out.push(("health_check", endpoint, listener, health_router));
    }
    if let Some(control) = &config.extensions.control {
        let endpoint = Endpoint::Unix(control.socket.clone());
        let listener = Listener::bind(&endpoint, "the control socket", None).await?;
        out.push(("control", endpoint, listener, control_router));
    }
    Ok(out)
}

/// Starts the endpoints for operators.
fn spawn_operators(
    operators: Vec<Operator>,
    control: &Arc<Control>,
    closed: &Closed,
    tasks: &Supervisor,
    stop: &CancellationToken,
) {
    for (name, endpoint, listener, router) in operators {
        let router = serve::keep_out(router(Arc::clone(control)), &endpoint);
        let service = TowerToHyperService::new(RouterService(router));
        serve::keep(tasks, name, listener, (Limits::default(), closed.clone()), service, stop.clone());
    }
}

/// Where stations are, the contacts in force by slot, the plan, the time, and where the link says how it stands.
type LinkWires = (
    watch::Receiver<Stations>,
    Vec<watch::Receiver<Option<Contact>>>,
    ContactControl,
    Clocks,
    watch::Sender<Links>,
);

/// Starts the shippers and the direct exporters.
#[expect(clippy::too_many_arguments, reason = "each is one end of a wire that Agent::run lays")]
async fn spawn_consumers(
    outside: Outside,
    env: &Env,
    wal: &Owner<Wal>,
    (stations, current, planner, clocks, link): LinkWires,
    sealed: &watch::Receiver<u64>,
    metrics: &Metrics,
    (lanes, memory): (&Lanes, &Workspace),
    tasks: &Supervisor,
    stop: &CancellationToken,
) {
    let consumer =
        |name: String| async move { wal.call(move |wal| wal.custody().consumer(&name)).await.ok().flatten() };
    let together = Together::default();
    let slots = Slot::first(outside.link.len()).zip(outside.link).zip(current);
    for ((slot, config), current) in slots {
        let Some(id) = consumer(LINK.to_owned()).await else { break };
        let task = if slot == Slot::FIRST { "link" } else { "second link" };
        let shipper = Shipper::new(
            config,
            (slot, together.clone()),
            stations.clone(),
            lanes.clone(),
            env.clone(),
            clocks.clone(),
            wal.clone(),
            memory.clone(),
            id,
            current,
            sealed.clone(),
            planner.clone(),
            metrics.ship(),
            link.clone(),
        );
        tasks.keep_until(task, shipper, stop, |shipper, stop| Box::pin(shipper.run(stop)));
    }
    for (name, (client, direct, signals)) in outside.direct {
        let Some(id) = consumer(name.clone()).await else { continue };
        let task = format!("exporter {name}");
        let exporter = Exporter::new(
            name,
            client,
            &direct,
            (signals, outside.attributes.clone()),
            env.clone(),
            wal.clone(),
            id,
            sealed.clone(),
            metrics.ship(),
            memory.clone(),
        );
        tasks.keep_until(task, exporter, stop, |exporter, stop| Box::pin(exporter.run(stop)));
    }
}

/// Gives bytes back to the volume while the link is down, when that pays.
async fn compact(wal: Owner<Wal>, mut link: watch::Receiver<Links>, stop: CancellationToken) {
    loop {
        if !link.borrow_and_update().is_up() {
            match wal.call(|wal| wal.file().compact(false)).await {
                Ok(Ok(Some((before, after)))) => tracing::info!(before, after, "the log was compacted"),
                Ok(Ok(None)) => {}
                Ok(Err(error)) => tracing::error!(%error, "the log could not be compacted"),
                Err(_) => return,
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = link.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(COMPACT_CHECK) => {}
        }
    }
}
