//! The ledger and the spool in PostgreSQL, which any number of stations share.
//!
//! A transaction locks the rows of its satellites, reads what the rule needs into working tables, runs the same rule as the store
//! of one station (`scratch.rs`), and writes what differs (`session.rs`). What is answered is committed, and the servers were
//! verified to commit on two disks (`connect.rs`). Nothing is numbered over satellites, so no cursor can pass a commit that ends
//! later; the lock of a satellite orders what it has.
//!
//! - `settings.rs`, `connect.rs`, `schema.rs`: which servers, what is verified of them, the tables.
//! - `rows.rs`, `sql.rs`: rows there and here, and the statements.
//! - `batch.rs`: what the link hands in; what several connections hand in shares a transaction.
//! - `exporters.rs`, `export.rs`: which exporters there are at all stations; leases, cursors and what an exporter is handed.
//! - `letters.rs`, `catalogue.rs`, `replay.rs`, `views.rs`, `study.rs`: dead letters, what was ever committed, what is kept and sent
//!   again, what is shown, and what is verified.
//! - `links.rs`: at which station a satellite has its link.
//! - `aside.rs`: what a station does while the engine does not answer.
//! - `source.rs`, `migration.rs`: how a station's own file comes here.
//! - `watch.rs`: how full it is, whether it answers, and this worker's life.

mod connect;
mod error;
mod rows;
mod schema;
mod scratch;
mod settings;
mod sql;

mod aside;
mod batch;
mod catalogue;
mod export;
mod exporters;
mod letters;
mod links;
mod migration;
mod replay;
mod session;
mod source;
mod study;
mod views;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use perigee_shared::config::Invalid;
use perigee_shared::env::Env;
use perigee_shared::signal::SignalSet;
use perigee_shared::store::Contents as _;
use perigee_shared::supervise::Supervisor;
use perigee_shared::telemetry::Repeats;
use tokio::sync::{mpsc, watch as channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::aside::Aside;
use self::batch::Intake;
use self::connect::Pool;
pub use self::error::EngineError;
use self::export::{Outlet, Search};
pub use self::migration::{MigratedView, Migrating, MigrationView, Stage};
pub(super) use self::migration::{migrate, migrated};
use self::replay::Replays;
use self::rows::Of;
use self::scratch::Scratch;
pub use self::settings::{FleetSettings, Replication};
use self::study::{Round, Upkeep};
use self::views::{Last, Views};
use self::watch::{Life, Watch};
use super::alarms::Unread;
use super::contents::{Contents, Settings};
use super::error::SpoolError;
use super::upkeep::{Bounds, Group, Status};

/// Hand-overs that may wait.
const QUEUE: usize = 64;

/// How long the last transactions may take when the store ends.
const CLOSE: Duration = Duration::from_secs(5);

/// How often a start tries again while the servers do not answer.
const KNOCK: Duration = Duration::from_secs(1);

/// How often a start says again why it waits.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// How a station reaches the shared ledger. Clones reach the same one.
#[derive(Clone)]
pub(super) struct Fleet {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    pool: Pool,
    scratch: Scratch,
    /// The exporters of the configuration.
    routes: BTreeMap<String, SignalSet>,
    bounds: Bounds,
    /// After so long without a word a worker is replaced.
    lease: Duration,
    /// This process among the workers.
    owner: i64,
    life: Mutex<Life>,
    /// Satellites with an open link here, where there are links.
    open_links: OnceLock<Box<dyn Fn() -> Vec<String> + Send + Sync>>,
    status: channel::Sender<Status>,
    /// How often the engine was found unfit.
    refusals: AtomicU64,
    known: Mutex<HashMap<Arc<str>, u32>>,
    groups: mpsc::Sender<Group>,
    tasks: Supervisor,
    /// Attempts, which end whoever waits for them.
    running: TaskTracker,
    closing: CancellationToken,
    /// By exporter.
    searches: Mutex<BTreeMap<Arc<str>, Search>>,
    /// Satellites of which segments have left: bases may have become free.
    freed: Mutex<BTreeSet<u32>>,
    scrub: Mutex<Round>,
    /// Where bytes are held while the engine does not answer.
    aside: Mutex<Option<Aside>>,
    /// What this station committed, to be looked through for alarms.
    unread: Unread,
    /// What was shown last, for while it does not.
    shown: Mutex<Last>,
    /// When the log had a line about a spool that is full.
    said: Mutex<Repeats>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fleet {
    /// Joins the stations of a ledger: waits until a server answers, verifies it and brings its schema up to date. An error says why
    /// it must not be used.
    pub(super) async fn join(
        env: &Env,
        settings: Settings,
        fleet: FleetSettings,
        reserve: u64,
    ) -> Result<Self, SpoolError> {
        let own = settings.directory.join(Contents::FILE);
        if env.store.exists(&own) {
            let cause = format!("a spool of this station's own lies beside it, {}", own.display());
            return Err(EngineError::refused(
                cause,
                "bring it in with `ground-station spool migrate`, or move it away",
            )
            .into());
        }
        let (fleet, queue) = Self::reach(env, settings, fleet, reserve, true).await?;
        fleet.watch().beat().await?;
        fleet.watch().check_migration().await?;
        fleet.outlet().tell_exporters().await?;
        fleet.outlet().settle_all().await?;
        fleet.watch().look_around().await?;
        let state = (fleet.clone(), queue);
        fleet.inner.tasks.keep("fleet", state, |(fleet, queue)| Box::pin(fleet.intake().take_in(queue)));
        fleet.inner.tasks.keep("fleet watch", fleet.clone(), |fleet| Box::pin(fleet.watch().run()));
        Ok(fleet)
    }

    /// Reaches the ledger to ask it something; a server that does not answer is an error.
    pub(super) async fn look(
        env: &Env,
        settings: Settings,
        fleet: FleetSettings,
    ) -> Result<Self, SpoolError> {
        let (fleet, _) = Self::reach(env, settings, fleet, 0, false).await?;
        fleet.outlet().hear_of_exporters().await?;
        Ok(fleet)
    }

    async fn reach(
        env: &Env,
        settings: Settings,
        fleet: FleetSettings,
        reserve: u64,
        patient: bool,
    ) -> Result<(Self, mpsc::Receiver<Group>), SpoolError> {
        let refused = |invalid: Invalid| {
            EngineError::refused(format!("{}: {}", invalid.key, invalid.message), "correct the configuration")
        };
        let (config, tls) = fleet.client("storage", &settings.station).map_err(refused)?;
        let tasks = Supervisor::new(env);
        let pool = Pool::new(&fleet, config, tls, tasks.clone());
        let mut said = Said::default();
        let ledger = loop {
            match first_contact(&pool, env, &mut said).await {
                Ok(ledger) => break ledger,
                Err(error @ EngineError::Away(_)) if patient => {
                    said.say(error.to_string());
                    tokio::time::sleep(KNOCK).await;
                }
                Err(error) => return Err(error.into()),
            }
        };
        pool.has_joined(ledger);
        // Who only asks takes nothing in.
        let aside = if patient { Some(Aside::open(env, &settings)?) } else { None };
        let bounds = Bounds::of(&settings, reserve);
        let (groups, queue) = mpsc::channel(QUEUE);
        let inner = Inner {
            env: env.clone(),
            pool,
            routes: settings.routes.clone(),
            scratch: Scratch::new(Arc::new(settings), ledger),
            bounds,
            lease: fleet.lease,
            owner: (env.random() >> 1) as i64,
            life: Mutex::default(),
            open_links: OnceLock::new(),
            status: channel::Sender::default(),
            known: Mutex::default(),
            groups,
            tasks,
            running: TaskTracker::new(),
            closing: CancellationToken::new(),
            refusals: AtomicU64::new(0),
            searches: Mutex::default(),
            freed: Mutex::default(),
            scrub: Mutex::default(),
            aside: Mutex::new(aside),
            unread: Unread::default(),
            shown: Mutex::default(),
            said: Mutex::default(),
        };
        Ok((Self { inner: Arc::new(inner) }, queue))
    }

    pub(super) fn env(&self) -> &Env {
        &self.inner.env
    }

    pub(super) fn tasks(&self) -> &Supervisor {
        &self.inner.tasks
    }

    pub(super) fn status(&self) -> channel::Receiver<Status> {
        self.inner.status.subscribe()
    }

    /// Those of the configuration, with the exporters of all stations.
    pub(super) fn settings(&self) -> Arc<Settings> {
        self.inner.scratch.settings()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, u32>> {
        locked(&self.inner.known)
    }

    fn number_of(&self, name: &str) -> Option<u32> {
        self.known().get(name).copied()
    }

    /// There is something new to export.
    fn wake(&self) {
        self.inner.status.send_modify(|status| status.version += 1);
    }

    /// Waits for what is worth nothing later: an error once the engine is gone for now.
    async fn or_cut_off<R>(
        &self,
        asked: impl Future<Output = Result<R, SpoolError>>,
    ) -> Result<R, SpoolError> {
        tokio::select! {
            biased;
            answer = asked => answer,
            () = self.intake().cut_off() => {
                let why = self.inner.status.borrow().failing.clone();
                Err(EngineError::CutOff(why.unwrap_or_default()).into())
            }
        }
    }

    pub(super) const fn intake(&self) -> Intake<'_> {
        Intake(self)
    }

    pub(super) const fn outlet(&self) -> Outlet<'_> {
        Outlet(self)
    }

    pub(super) const fn replays(&self) -> Replays<'_> {
        Replays(self)
    }

    pub(super) const fn views(&self) -> Views<'_> {
        Views(self)
    }

    pub(super) const fn upkeep(&self) -> Upkeep<'_> {
        Upkeep(self)
    }

    const fn watch(&self) -> Watch<'_> {
        Watch(self)
    }

    pub(super) async fn close(self) {
        self.inner.closing.cancel();
        self.inner.running.close();
        let end = async {
            self.inner.tasks.ended().await;
            self.inner.running.wait().await;
            self.watch().leave().await
        };
        let _ = tokio::time::timeout(CLOSE, end).await;
        self.inner.pool.close();
        // Nobody else has it any more: the file is free when this returns.
        let aside = locked(&self.inner.aside).take();
        if let Some(aside) = aside {
            aside.close().await;
        }
    }
}

/// What decides whether a base may go.
const BASES_NEEDED: &[Of] = &[Of::Epoch, Of::Base, Of::Entry, Of::Letter, Of::Kept];

/// Brings the schema up to date; the ledger's id. Says it when that takes long: nothing else of this station can be seen yet.
async fn first_contact(pool: &Pool, env: &Env, said: &mut Said) -> Result<u64, EngineError> {
    let mut work = Box::pin(async {
        let connection = pool.get().await?;
        schema::prepare(&connection, env.random() | 1).await
    });
    if let Ok(done) = tokio::time::timeout(session::QUIET, &mut work).await {
        return done;
    }
    said.say(session::SLOW.to_owned());
    work.await
}

/// Why a start waits, as the log says it, and since when.
#[derive(Default)]
struct Said(Option<(String, Instant)>);

impl Said {
    fn say(&mut self, why: String) {
        if self.0.as_ref().is_none_or(|(before, at)| *before != why || at.elapsed() >= SAY_AGAIN) {
            tracing::error!(
                event.name = "perigee.fleet.away",
                why,
                "this station waits for the shared ledger"
            );
            self.0 = Some((why, Instant::now()));
        }
    }
}
