//! The program put together: the only place that knows more than its neighbours.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn;
use hyper_util::service::TowerToHyperService;
use perigee_shared::config::Invalid;
use perigee_shared::env::Env;
use perigee_shared::serve::{self, BindError, Certificates, Endpoint, Listener};
use perigee_shared::telemetry::Captured;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ScrubConfig};
use crate::console::{Beside, Console, ConsoleConfig, in_its_kind};
use crate::exporter::{Added, Exporter, Own};
use crate::link::{Connected, Link, LinkError, Reload};
use crate::memory::{Budget, Meter, Stir};
use crate::spool::{Settings, SpoolError, Status, Store, alarms, scrub};
use crate::telemetry::Metrics;

/// How long the end may take.
const DRAIN: Duration = Duration::from_secs(10);

/// Why the program cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting that can be read but not used.
    #[error("{}: {}", .0.key, .0.message)]
    Config(Invalid),
    /// The link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// A TCP address or a unix socket.
    #[error(transparent)]
    Bind(#[from] BindError),
}

impl StartError {
    /// Whether the configuration, or a file that it names, is wrong: `validate` says the same.
    pub const fn is_configuration(&self) -> bool {
        matches!(self, Self::Config(_) | Self::Link(LinkError::Tls(_)))
    }
}

impl From<Invalid> for StartError {
    fn from(invalid: Invalid) -> Self {
        Self::Config(invalid)
    }
}

/// A listener and what it serves.
struct Served {
    name: &'static str,
    listener: Listener,
    router: Router,
}

/// What a process does of a ground-station's work. Processes that share a ledger may divide it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Part {
    /// Takes segments from satellites.
    Link,
    /// Sends to backends, and looks through what is stored.
    Export,
    /// Answers questions about the ledger.
    Api,
}

impl Part {
    /// All of it.
    pub const ALL: [Self; 3] = [Self::Link, Self::Export, Self::Api];
}

/// The program, with everything bound.
pub struct Ground {
    store: Store,
    /// None: satellites connect to other processes.
    link: Option<Link>,
    exporters: Vec<Exporter>,
    served: Vec<Served>,
    console: Console,
    metrics: Metrics,
    /// None: another process looks through what is stored.
    scrub: Option<ScrubConfig>,
    own: Option<Own>,
    memory: (Meter, Env),
}

/// Why the program ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The spool will never work again in this process.
    #[error("the spool can no longer be used: {0}; check the disk, then start again")]
    SpoolGone(String),
    /// A task panicked too often.
    #[error("the task {0} panicked six times in ten minutes; acknowledged data is safe")]
    Task(Arc<str>),
}

impl Ground {
    /// Opens the spool and binds every address; must be called inside a tokio runtime. What `own` keeps is exported with the rest.
    pub async fn build(config: Config, env: &Env, own: Option<Captured>) -> Result<Self, StartError> {
        Self::build_parts(config, env, &Part::ALL, own).await
    }

    /// The same for a process that does only these parts of the work; others that share its ledger do the rest.
    pub async fn build_parts(
        config: Config,
        env: &Env,
        parts: &[Part],
        own: Option<Captured>,
    ) -> Result<Self, StartError> {
        config.validate()?;
        let does = |part: Part| parts.contains(&part);
        if config.storage.fleet().is_none() && !Part::ALL.into_iter().all(does) {
            let message =
                "a part of the work needs kind: postgres: a file serves one process, which does all of it";
            return Err(Invalid::new("storage.kind", message).into());
        }
        let config = Arc::new(config);
        // Certificates are read before the spool is touched.
        if does(Part::Link) {
            Link::check(&config, env)?;
        }
        let store = open_store(&config, env).await?;
        let metrics = Metrics::new(&config.link.station, env, store.tasks().clone());
        metrics.expect(config.link.satellites.keys());
        let mut exporters = Vec::new();
        let routes = if does(Part::Export) { config.service.pipelines.routes() } else { Default::default() };
        for (name, signals) in routes {
            let Some(settings) = config.exporters.get(&name) else { continue };
            metrics.begin(&name.as_str().into(), signals);
            let added = Added {
                station: config.resource_attributes.then(|| config.link.station.clone()),
                segment: config.segment_attribute,
                delivery: config.delivery_attribute,
            };
            let (store, metrics) = (store.clone(), metrics.clone());
            exporters.push(Exporter::try_new(&name, settings, signals, added, env, store, metrics)?);
        }
        let stir = store.decoding().stirs();
        let memory = Meter::new(config.memory.limit, stir.clone());
        let link = match does(Part::Link) {
            true => Some(Link::try_new(
                Arc::clone(&config),
                env,
                store.clone(),
                metrics.clone(),
                (memory.short(), stir),
            )?),
            false => None,
        };
        let connected = link.as_ref().map_or_else(|| Connected::nobody(env), Link::connected);
        let open = connected.clone();
        store.tell_links(move || open.satellites().into_keys().collect());
        let beside = Beside {
            metrics: metrics.clone(),
            connected,
            directory: config.storage.directory.clone(),
            station: config.link.station.clone(),
        };
        let console = Console::new(store.clone(), env, beside);
        let served = bind(&config, &console, does(Part::Api), env).await?;
        let (scrub, says) = (config.storage.scrub, config.service.telemetry.otlp);
        let scrub = does(Part::Export).then_some(scrub);
        let own =
            own.map(|own| Own::new((own, says), &config.link.station, console.clone(), env, &exporters));
        Ok(Self {
            store,
            link,
            exporters,
            served,
            console,
            metrics,
            scrub,
            own,
            memory: (memory, env.clone()),
        })
    }

    /// The addresses that the link is bound to.
    pub fn link_addresses(&self) -> Vec<SocketAddr> {
        self.link.as_ref().map(Link::addresses).unwrap_or_default()
    }

    /// Changes what can change of the link while it runs, if there is one.
    pub fn reload(&self) -> Option<Reload> {
        self.link.as_ref().map(Link::reload)
    }

    /// The TCP address of `api`, `health_check` or `metrics`.
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.served.iter().find(|s| s.name == name)?.listener.local_addr()
    }

    /// What it counts.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// The spool.
    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// Works until `shutdown`; then the link hands over what arrived, requests end, and the spool is closed.
    ///
    /// # Errors
    ///
    /// When it has ended by itself.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Ended> {
        let Self { store, link, exporters, served, console, scrub, metrics, own, memory } = self;
        let stop = shutdown.child_token();
        for address in link.iter().flat_map(Link::addresses) {
            tracing::info!(%address, "listening for satellites (UDP)");
        }
        let (work, watching) = (store.tasks().group(), store.tasks().group());
        // The console outlives the link, so that what happens at the end can be seen.
        let late = CancellationToken::new();
        for Served { name, listener, router } in served {
            if let Some(address) = listener.local_addr() {
                tracing::info!(%address, "listening: {name}");
            }
            let service = TowerToHyperService::new(router);
            let (limits, closed) = (limits_of(name), metrics.closed().clone());
            serve::keep(&watching, name, listener, (limits, closed), service, late.clone());
        }
        let board = console.clone();
        watching.keep_until("console", board, &late, |board, _| Box::pin(board.run()));
        for exporter in exporters {
            let name = format!("exporter {}", exporter.name());
            work.keep_until(name, exporter, &stop, |exporter, stop| Box::pin(exporter.run(stop)));
        }
        let looked_at = (memory, store.clone());
        work.keep_until("memory", looked_at, &stop, |((meter, env), store), stop| {
            Box::pin(meter.run(env.clone(), store.clone(), stop))
        });
        if let Some(own) = own {
            work.keep_until("own telemetry", own, &stop, |own, stop| Box::pin(own.run(stop)));
        }
        if let Some(link) = link {
            link.run(&work, &stop);
        }
        work.keep_until("alarms", store.clone(), &stop, |store, stop| {
            Box::pin(alarms::run(store.clone(), stop))
        });
        if let Some(scrub) = scrub {
            work.keep_until("scrub", store.clone(), &stop, move |store, stop| {
                Box::pin(scrub::run(store.clone(), scrub.interval.0, scrub.rate.0, stop))
            });
        }
        let mut status = store.status();
        let gone = tokio::select! {
            biased;
            () = shutdown.cancelled() => None,
            why = gone(&mut status) => Some(Ended::SpoolGone(why)),
            task = work.given_up() => Some(Ended::Task(task)),
        };
        if let Some(error) = &gone {
            tracing::error!(event.name = "perigee.ground.ended", %error, "the program exits");
        }
        stop.cancel();
        tracing::info!("ending");
        let drained = tokio::time::timeout(DRAIN, async {
            work.ended().await;
            console.end();
            late.cancel();
            watching.ended().await;
        });
        if drained.await.is_err() {
            tracing::warn!("not every task ended in time; satellites send again what was not acknowledged");
        }
        // Nothing may hold the spool when it is closed.
        drop((status, console));
        store.close().await;
        gone.map_or(Ok(()), Err)
    }
}

/// Waits until the spool is gone; why.
async fn gone(status: &mut watch::Receiver<Status>) -> String {
    let found = status.wait_for(|status| status.gone.is_some()).await.ok().and_then(|s| s.gone.clone());
    match found {
        Some(why) => why,
        // Nobody tells any more.
        None => std::future::pending().await,
    }
}

/// The store as the configuration has it; nothing else may have a file open, while the ledger in PostgreSQL is shared.
pub async fn open_store(config: &Config, env: &Env) -> Result<Store, SpoolError> {
    let link = &config.link;
    // What every connection may hold, twice over since the spool may hold what it writes.
    let reserve = link.max_connections as u64 * (2 * link.partial_sync_bytes.0 + link.receive_window.0);
    match config.storage.fleet() {
        Some(fleet) => Box::pin(Store::join(env, settings(config), fleet, reserve)).await,
        None => Store::open(env, settings(config), reserve),
    }
}

/// The same to ask it something while nothing runs.
pub async fn look_at_store(config: &Config, env: &Env) -> Result<Store, SpoolError> {
    match config.storage.fleet() {
        Some(fleet) => Box::pin(Store::look(env, settings(config), fleet)).await,
        None => Store::open_existing(env, settings(config)),
    }
}

/// What the spool needs of the configuration.
pub fn settings(config: &Config) -> Settings {
    Settings {
        directory: config.storage.directory.clone(),
        max_bytes: config.storage.max_bytes.0,
        satellites: config
            .link
            .satellites
            .iter()
            .map(|(id, bounds)| (id.clone(), bounds.unwrap_or_default().max_spool_bytes.0))
            .filter(|(_, bytes)| *bytes > 0)
            .collect(),
        ledger_room: config
            .link
            .satellites
            .iter()
            .map(|(id, bounds)| (id.clone(), bounds.unwrap_or_default().ledger_room))
            .filter(|(_, room)| *room > 1)
            .collect(),
        ballast: config.storage.ballast.0,
        decoded_bases: config.storage.decoded_bases.0.min(config.memory.limit.0 / 4),
        decoding: Budget::new(config.memory.limit, Stir::default()),
        catalogue: config.storage.catalogue.keep(),
        keep: config.storage.keep.keep(),
        station: config.link.station.clone(),
        routes: config.service.pipelines.routes(),
    }
}

/// The console's certificates, read.
fn console_tls(config: &ConsoleConfig, env: &Env) -> Result<Option<Certificates>, Invalid> {
    let Some(files) = &config.tls else { return Ok(None) };
    const SECTION: &str = "extensions.console.tls";
    let loaded = Certificates::load(SECTION, files.files(), Arc::clone(&env.clock));
    loaded.map(Some).map_err(|error| Invalid::new(SECTION, error.to_string()))
}

/// Browsers hold several connections each.
fn limits_of(name: &str) -> serve::Limits {
    let limits = serve::Limits::default();
    if name == "console" { serve::Limits { max_connections: 128, ..limits } } else { limits }
}

async fn bind(config: &Config, console: &Console, api: bool, env: &Env) -> Result<Vec<Served>, StartError> {
    let mut out = Vec::new();
    let (extensions, telemetry) = (&config.extensions, &config.service.telemetry);
    let metrics = console.metrics(telemetry.without_type_suffix());
    for (name, purpose, endpoint, router) in [
        ("health_check", "extensions.health_check", &extensions.health_check, console.health()),
        ("api", "extensions.api", &extensions.api, console.api()),
        ("metrics", "service.telemetry.metrics", &telemetry.metrics_endpoint(), metrics),
    ] {
        let Some(endpoint) = endpoint.as_ref().filter(|_| api || name != "api") else { continue };
        let endpoint = Endpoint::parse(&endpoint.endpoint)
            .map_err(|message| Invalid::new(format!("{purpose}.endpoint"), message))?;
        let listener = Listener::bind(&endpoint, purpose, None).await?;
        out.push(Served { name, listener, router: serve::keep_out(router, &endpoint) });
    }
    if let Some(console_config) = &extensions.console {
        let endpoint = Endpoint::parse(&console_config.endpoint)
            .map_err(|message| Invalid::new("extensions.console.endpoint", message))?;
        let tls = console_tls(console_config, env)?;
        let router = console.pages(console_config)?;
        if let Some(tls) = &tls {
            console.has_certificate("the console's certificate", tls.end());
        }
        let listener = Listener::bind(&endpoint, "extensions.console", tls).await?;
        out.push(Served { name: "console", listener, router: serve::keep_out_but_links(router, &endpoint) });
    }
    if let Some(control) = &extensions.control {
        let endpoint = Endpoint::Unix(control.socket.clone());
        let listener = Listener::bind(&endpoint, "extensions.control", None).await?;
        out.push(Served { name: "control", listener, router: console.control() });
    }
    for served in &mut out {
        served.router = std::mem::take(&mut served.router).layer(from_fn(in_its_kind));
    }
    Ok(out)
}
