//! Connections: a bounded pool, and what is verified of a server before the first statement of each and after each commit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use deadpool::managed::{self, Metrics, PoolError, RecycleError, RecycleResult, Timeouts};
use perigee_shared::supervise::Supervisor;
use tokio_postgres::{Client, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::EngineError;
use super::schema;
use super::settings::{FleetSettings, Replication};

/// The oldest PostgreSQL that the tests run on.
const OLDEST: i64 = 150_000;

/// How long one server may take to take a connection and answer what is verified. One that hangs may take the connection all the
/// same, since the kernel does; another may lead by then.
const CONNECT: Duration = Duration::from_secs(3);

/// What every session sets. A lock that is not to be had is an error after this time, so that no queue of transactions builds up
/// behind one that hangs; a session that was left in a transaction is ended by the server.
const SESSION: &str = "set lock_timeout = '5s'; set idle_in_transaction_session_timeout = '60s'; \
                       set default_transaction_isolation = 'read committed'";

/// Which process of which server a connection has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Backend {
    pid: i32,
    /// When that process and its server began: a process number comes again.
    began: String,
    server: String,
}

/// A connection that was verified.
pub(super) struct Connection {
    client: Client,
    statements: Mutex<HashMap<&'static str, Statement>>,
    replication: Replication,
    /// None: the engine does not tell.
    backend: Option<Backend>,
    doubted: Arc<AtomicBool>,
}

impl Connection {
    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn backend(&self) -> Option<&Backend> {
        self.backend.as_ref()
    }

    /// `commit`, and whether that commit is where it must be: a server that reads other settings lets go at once what waits for a
    /// standby. Both go out together. A commit that is not trusted is unknown, as one whose answer did not come.
    pub(super) async fn commit(&self) -> Result<(), EngineError> {
        if self.replication == Replication::Engine {
            return Ok(self.client.batch_execute("commit").await?);
        }
        let settings = self.prepare(SETTINGS).await?;
        let (done, row) =
            tokio::join!(self.client.batch_execute("commit"), self.client.query_one(&settings, &[]));
        done?;
        self.believe(judge(&row?, self.replication))
    }

    /// Whether the server may still be used: its settings are read again whenever it likes. Until it is known that it may, nothing is
    /// asked of it over any connection.
    pub(super) async fn check(&self) -> Result<(), EngineError> {
        if self.replication == Replication::Engine {
            return Ok(());
        }
        let settings = self.prepare(SETTINGS).await?;
        self.believe(judge(&self.client.query_one(&settings, &[]).await?, self.replication))
    }

    fn believe(&self, judged: Result<(), EngineError>) -> Result<(), EngineError> {
        self.doubted.store(judged.is_err(), Ordering::Relaxed);
        judged
    }

    /// The prepared statement of this text.
    pub(super) async fn prepare(&self, text: &'static str) -> Result<Statement, tokio_postgres::Error> {
        let known = || self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(statement) = known().get(text) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(text).await?;
        known().insert(text, statement.clone());
        Ok(statement)
    }
}

/// Makes connections.
pub(super) struct Connector {
    /// Host by host.
    configs: Vec<tokio_postgres::Config>,
    tls: MakeRustlsConnect,
    settings: FleetSettings,
    tasks: Supervisor,
    /// The settings of the server that leads do not allow to use it.
    doubted: Arc<AtomicBool>,
    /// The ledger that this station is in.
    joined: OnceLock<u64>,
}

/// A connection from the pool.
pub(super) type Pooled = managed::Object<Connector>;

impl managed::Manager for Connector {
    type Type = Connection;
    type Error = EngineError;

    /// To the first host that leads. Of those that do not, the one that was refused for what it is tells most.
    async fn create(&self) -> Result<Connection, EngineError> {
        let mut why = None::<EngineError>;
        for config in &self.configs {
            let error = match tokio::time::timeout(CONNECT, self.connect(config)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error,
                Err(_) => {
                    let shown = CONNECT.as_secs();
                    EngineError::Away(format!(
                        "a server of {} took no connection in {shown} s",
                        self.settings.shown()
                    ))
                }
            };
            if why.as_ref().is_none_or(|before| matches!(before, EngineError::Away(_))) {
                why = Some(error);
            }
        }
        Err(why.unwrap_or_else(|| EngineError::Away("there are no hosts".to_owned())))
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<EngineError> {
        if connection.client.is_closed() {
            return Err(RecycleError::message("the server has closed it"));
        }
        Ok(())
    }
}

impl Connector {
    async fn connect(&self, config: &tokio_postgres::Config) -> Result<Connection, EngineError> {
        let mut config = config.clone();
        // The file may have another one by now; one that cannot be read is no reason to give up what was in it.
        if let Ok(Some(password)) = self.settings.read_password("storage") {
            config.password(password);
        }
        let (client, connection) = config.connect(self.tls.clone()).await.map_err(|error| {
            let error = EngineError::from(error);
            match error {
                EngineError::Away(why) if why.contains("does not allow writes") => {
                    EngineError::Away(format!(
                        "no server of {} takes writes: all are standbys, or default_transaction_read_only is on \
                         for the server, the database or this role; promote one, or set that off",
                        self.settings.shown()
                    ))
                }
                EngineError::Away(why) => EngineError::Away(format!("{why} ({})", self.settings.shown())),
                other => other,
            }
        })?;
        tokio::spawn(self.tasks.watched("PostgreSQL connection", async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to PostgreSQL has ended");
            }
        }));
        verify(&client, self.settings.replication).await?;
        if let Some(joined) = self.joined.get() {
            schema::verify(&client, *joined).await?;
        }
        client.batch_execute(SESSION).await?;
        let replication = self.settings.replication;
        let backend = match replication {
            Replication::Engine => None,
            _ => Some(backend(&client).await?),
        };
        let (statements, doubted) = (Mutex::default(), Arc::clone(&self.doubted));
        Ok(Connection { client, statements, replication, backend, doubted })
    }
}

/// What is verified of a server.
const SETTINGS: &str = "select current_setting('server_version_num')::int8, current_setting('server_version'), \
                        pg_is_in_recovery() or current_setting('transaction_read_only')::bool, \
                        current_setting('fsync')::bool, current_setting('full_page_writes')::bool, \
                        current_setting('synchronous_commit'), current_setting('synchronous_standby_names'), \
                        current_setting('server_encoding')";

/// Takes a server only if what it acknowledges is durable where that was asked for.
async fn verify(client: &Client, replication: Replication) -> Result<(), EngineError> {
    if replication == Replication::Engine {
        return Ok(());
    }
    judge(&client.query_one(SETTINGS, &[]).await?, replication)
}

fn judge(row: &Row, replication: Replication) -> Result<(), EngineError> {
    let (version, shown): (i64, String) = (row.try_get(0)?, row.try_get(1)?);
    if version < OLDEST {
        return Err(EngineError::refused(format!("it is version {shown}"), "version 15 or later is needed"));
    }
    if row.try_get::<_, bool>(2)? {
        return Err(EngineError::Away(
            "the server is a standby or in read-only mode; one of storage.hosts must take writes".to_owned(),
        ));
    }
    for (at, name) in [(3, "fsync"), (4, "full_page_writes")] {
        if !row.try_get::<_, bool>(at)? {
            let cause = format!("{name} is off, so that a power cut loses what was committed");
            return Err(EngineError::refused(cause, format!("set {name} = on and restart it")));
        }
    }
    let encoding: String = row.try_get(7)?;
    if encoding != "UTF8" {
        let cause =
            format!("the database has the encoding {encoding}, which not every name can be written in");
        return Err(EngineError::refused(cause, "create it with encoding UTF8 (template template0)"));
    }
    let commit: String = row.try_get(5)?;
    if !["on", "remote_apply"].contains(&commit.as_str()) {
        let cause =
            format!("synchronous_commit is {commit} for this role, so that a commit is answered early");
        return Err(EngineError::refused(cause, "set it to on, for the server, the database and the role"));
    }
    let standbys: String = row.try_get(6)?;
    if replication == Replication::Required && standbys.trim().is_empty() {
        return Err(EngineError::refused(
            "synchronous_standby_names is empty, so that one disk alone has what was committed",
            "set it to ANY 1 (...) with at least two standbys, or write storage.replication: none to live with one server",
        ));
    }
    Ok(())
}

async fn backend(client: &Client) -> Result<Backend, EngineError> {
    const WHO: &str = "select pid, backend_start::text, pg_postmaster_start_time()::text \
                       from pg_stat_activity where pid = pg_backend_pid()";
    let row = client.query_one(WHO, &[]).await?;
    Ok(Backend { pid: row.try_get(0)?, began: row.try_get(1)?, server: row.try_get(2)? })
}

/// What is known of the process behind a connection that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It works on: what it was asked may still come.
    Alive,
    /// It has ended, or its server does not lead any more. What it was asked is unknown and may be asked again.
    Gone,
    /// Nobody could say.
    Unknown,
}

/// Connections.
#[derive(Clone)]
pub(super) struct Pool {
    pool: managed::Pool<Connector>,
}

impl Pool {
    pub(super) fn new(
        settings: &FleetSettings,
        configs: Vec<tokio_postgres::Config>,
        tls: MakeRustlsConnect,
        tasks: Supervisor,
    ) -> Self {
        let (doubted, joined) = (Arc::default(), OnceLock::new());
        let connector = Connector { configs, tls, settings: settings.clone(), tasks, doubted, joined };
        // A wait for a connection is a wait for the transaction before it, whose end nobody hurries.
        let timeouts = Timeouts { wait: None, create: None, recycle: None };
        let pool = managed::Pool::builder(connector)
            .max_size(settings.connections)
            .timeouts(timeouts)
            .build()
            .unwrap_or_else(|_| unreachable!("there are no time limits that need a runtime"));
        Self { pool }
    }

    pub(super) async fn get(&self) -> Result<Pooled, EngineError> {
        let connection = self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error,
            other => EngineError::Away(other.to_string()),
        })?;
        if self.pool.manager().doubted.load(Ordering::Relaxed) {
            connection.check().await?;
        }
        Ok(connection)
    }

    /// From now on a database with another ledger is refused.
    pub(super) fn has_joined(&self, ledger: u64) {
        let _ = self.pool.manager().joined.set(ledger);
    }

    /// Asks a server that leads what has become of a process. The connection is beside the pool, whose own may all hang.
    pub(super) async fn fate(&self, backend: &Backend) -> Fate {
        let ask = async {
            let connector = self.pool.manager();
            let connection = managed::Manager::create(connector).await.ok()?;
            const ALIVE: &str = "select pg_postmaster_start_time()::text, exists(select from pg_stat_activity \
                                 where pid = $1 and backend_start::text = $2)";
            let row = connection.client.query_one(ALIVE, &[&backend.pid, &backend.began]).await.ok()?;
            let (server, alive): (String, bool) = (row.try_get(0).ok()?, row.try_get(1).ok()?);
            Some(if server == backend.server && alive { Fate::Alive } else { Fate::Gone })
        };
        let patience = CONNECT * (1 + self.pool.manager().configs.len() as u32);
        tokio::time::timeout(patience, ask).await.ok().flatten().unwrap_or(Fate::Unknown)
    }

    pub(super) fn close(&self) {
        self.pool.close();
    }
}
