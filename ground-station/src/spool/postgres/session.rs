//! Transactions: lock the satellites, read what the rule needs, run it, write what differs, commit.
//!
//! It takes two round trips: one for `begin`, the locks and the rows, one for the writes and `commit`. A transaction is never left
//! by whoever waits for it: a commit that hangs may have happened, and one that is given up would be followed by more connections
//! that hang the same way. It is left only when its server process is known to be gone; then it is unknown and is repeated. What
//! was committed after all answers as a duplicate, from a transaction that writes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use prost::Message;
use tokio_postgres::Row as Answered;

use super::super::error::SpoolError;
use super::super::file::Txn;
use super::Fleet;
use super::connect::{Connection, Fate, Pooled};
use super::error::EngineError;
use super::rows::{Cell, List, Of, Row, lists};
use super::scratch::{Changes, Loaded, SatelliteRow, Tally, numbers};
use super::sql::{self, Ask, Query};

/// After this much silence it is checked whether the server process of a connection still runs.
pub(super) const QUIET: Duration = Duration::from_secs(5);

/// What is said then.
pub(super) const SLOW: &str = "a statement has waited for 5 s: a standby may be missing, or a lock is held";

/// Segments of each lane whose hash and counts are remembered, as in the ledger of one station.
const REMEMBERED: u64 = 1000;

/// How many sequences apart a lane forgets what it remembers no longer.
const FORGET_EVERY: u64 = 16;

/// Conflicts with other transactions until the caller waits longer.
const CONFLICTS: u32 = 20;

/// How long the engine is left alone while it does not answer, at most.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

type Pending<'a, R> = Pin<Box<dyn Future<Output = R> + Send + 'a>>;

/// Polls all of them, each from its first poll on in order: so their statements go out one behind the other without waiting for
/// answers in between.
async fn together<R>(mut all: Vec<Pending<'_, R>>) -> Vec<R> {
    let mut out: Vec<Option<R>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(move |cx| {
        let mut open = false;
        for (future, out) in all.iter_mut().zip(&mut out) {
            if out.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(answer) => *out = Some(answer),
                    Poll::Pending => open = true,
                }
            }
        }
        if open { Poll::Pending } else { Poll::Ready(out.iter_mut().filter_map(Option::take).collect()) }
    })
    .await
}

/// What a rule looks at.
pub(super) struct Need {
    pub(super) queries: Vec<Query>,
    /// What else, once those rows are there.
    pub(super) then: Option<Then>,
    /// The lease that must be held.
    pub(super) lease: Option<Lease>,
}

pub(super) type Then = Box<dyn Fn(&Loaded) -> Vec<Query> + Send + Sync>;

/// A lane that a worker exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) satellite: u32,
    pub(super) lane: u8,
    pub(super) exporter: Arc<str>,
    pub(super) owner: i64,
    pub(super) fence: i64,
}

impl Need {
    pub(super) fn rows(queries: Vec<Query>) -> Self {
        Self { queries, then: None, lease: None }
    }

    /// Every row of these tables that the satellites have.
    pub(super) fn all_of(tables: &[Of], satellites: &[u32]) -> Self {
        let satellites = numbers(satellites.iter().copied());
        let query = |of: &Of| match of {
            // The oldest says which bases are needed for what is kept.
            Of::Kept => Query { text: sql::OLDEST_KEPT, ..Query::of_satellites(*of, &satellites) },
            of => Query::of_satellites(*of, &satellites),
        };
        Self::rows(tables.iter().map(query).collect())
    }
}

/// Whether a worker still has a lane, which nobody takes before this transaction has ended. If its time ran out and nobody took the
/// lane, it was alone with it, and what it sent counts.
pub(super) const HOLDS: &str = "select true from place where sat = $1 and lane = $2 and exporter = $3 and owner = $4 and fence = $5 \
    for update";

pub(super) fn satellite_of(row: &Answered) -> Result<SatelliteRow, SpoolError> {
    let tally: Vec<u8> = row.try_get(3)?;
    let wrong = |_| SpoolError::damaged("the counts of a satellite cannot be read");
    Ok(SatelliteRow {
        number: u32::try_from(row.try_get::<_, i64>(0)?)
            .map_err(|_| SpoolError::damaged("a satellite's number is too large"))?,
        name: row.try_get(1)?,
        record: row.try_get(2)?,
        tally: Tally::decode(tally.as_slice()).map_err(wrong)?,
        next_payload: row.try_get::<_, i64>(4)? as u64,
        next_entry: row.try_get::<_, i64>(5)? as u64,
        next_letter: row.try_get::<_, i64>(6)? as u64,
        next_gap: row.try_get::<_, i64>(7)? as u64,
    })
}

/// Runs a query.
pub(super) async fn ask(connection: &Connection, query: &Query) -> Result<Vec<Answered>, SpoolError> {
    let statement = connection.prepare(query.text).await?;
    let parameters: Vec<_> = query.lists.iter().map(List::parameter).collect();
    Ok(connection.client().query(&statement, &parameters).await?)
}

/// Takes the answer to a query among the rows that were read.
pub(super) fn note(of: Of, rows: &[Answered], loaded: &mut Loaded) -> Result<(), SpoolError> {
    let table = loaded.entry(of).or_default();
    for row in rows {
        let (key, rest) = of.read(row)?;
        // A place where nothing was done yet is a lease alone, which no rule knows and none may take away.
        if of != Of::Place || rest[0].number() > 0 {
            table.insert(key, rest);
        }
    }
    Ok(())
}

impl Fleet {
    /// Runs `work` for each of these satellites in one transaction, in the order of their numbers. Waits until the engine has taken
    /// it, unless it fails for a reason that waiting does not mend.
    pub(super) async fn insist<R: Send + 'static>(
        &self,
        names: &[Arc<str>],
        need: impl Fn(&[u32]) -> Need + Send + Sync + 'static,
        work: impl Fn(&mut Txn<'_>, &SatelliteRow) -> Result<R, SpoolError> + Send + Sync + 'static,
    ) -> Result<Vec<R>, SpoolError> {
        let (need, work, names) = (Arc::new(need), Arc::new(work), names.to_vec());
        self.patiently(move |fleet| {
            let (need, work, names) = (Arc::clone(&need), Arc::clone(&work), names.clone());
            async move {
                let numbers = Attempt(&fleet).numbers_of(&names).await?;
                Attempt(&fleet).transact(&numbers, need(&numbers), work).await
            }
        })
        .await
    }

    /// The same for one satellite that has a number.
    pub(super) async fn insist_on<R: Send + 'static>(
        &self,
        satellite: u32,
        need: impl Fn(&[u32]) -> Need + Send + Sync + 'static,
        work: impl Fn(&mut Txn<'_>, &SatelliteRow) -> Result<R, SpoolError> + Send + Sync + 'static,
    ) -> Result<R, SpoolError> {
        let (need, work) = (Arc::new(need), Arc::new(work));
        let out = self
            .patiently(move |fleet| {
                let (need, work) = (Arc::clone(&need), Arc::clone(&work));
                async move { Attempt(&fleet).transact(&[satellite], need(&[satellite]), work).await }
            })
            .await?;
        out.into_iter().next().ok_or(SpoolError::Gone)
    }

    /// Does something with the engine until it succeeds or fails for a reason that waiting does not mend. Once begun, an attempt
    /// goes on whoever waits for it.
    pub(super) async fn patiently<R, F>(
        &self,
        attempt: impl Fn(Self) -> F + Send + Sync,
    ) -> Result<R, SpoolError>
    where
        R: Send + 'static,
        F: Future<Output = Result<R, SpoolError>> + Send + 'static,
    {
        let (mut wait, mut conflicts) = (Duration::from_millis(100), 0);
        loop {
            let refusals = self.watch().refusals();
            let running = self.inner.running.spawn(attempt(self.clone()));
            let error = match running.await {
                Ok(Ok(out)) => {
                    // What began before the engine was found unfit says nothing of how it is since.
                    if self.watch().refusals() == refusals {
                        self.watch().is_well();
                    }
                    return Ok(out);
                }
                Ok(Err(error)) => error,
                Err(panic) if panic.is_panic() => std::panic::resume_unwind(panic.into_panic()),
                Err(_) => return Err(SpoolError::Gone),
            };
            if !error.is_retryable() {
                return Err(error);
            }
            if matches!(error, SpoolError::Engine(EngineError::Conflict(_))) && conflicts < CONFLICTS {
                conflicts += 1;
                let pause = Duration::from_millis(5 * u64::from(conflicts));
                tokio::time::sleep(self.inner.env.jitter(pause, 0.9)).await;
                continue;
            }
            if self.inner.closing.is_cancelled() {
                return Err(SpoolError::Gone);
            }
            self.watch().is_failing(&error);
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// The rows of one query.
    pub(super) async fn rows(
        &self,
        query: impl Fn() -> Query + Send + Sync + 'static,
    ) -> Result<Vec<Answered>, SpoolError> {
        let query = Arc::new(query);
        self.patiently(move |fleet| {
            let query = Arc::clone(&query);
            async move {
                let connection = fleet.connection().await?;
                let query = query();
                fleet.watched(&connection, ask(&connection, &query)).await?
            }
        })
        .await
    }

    /// The rows of a statement without parameters.
    pub(super) async fn ask_for(&self, text: &'static str) -> Result<Vec<Answered>, SpoolError> {
        self.patiently(move |fleet| async move {
            let connection = fleet.connection().await?;
            let statement = connection.prepare(text).await?;
            Ok(fleet.watched(&connection, connection.client().query(&statement, &[])).await??)
        })
        .await
    }

    pub(super) async fn connection(&self) -> Result<Pooled, SpoolError> {
        Ok(self.inner.pool.get().await?)
    }

    /// Waits for `work` on a connection; an error when its server process is known to be gone before that.
    pub(super) async fn watched<R>(
        &self,
        connection: &Connection,
        work: impl Future<Output = R>,
    ) -> Result<R, SpoolError> {
        let gone = async {
            let Some(backend) = connection.backend() else { return std::future::pending().await };
            loop {
                tokio::time::sleep(QUIET).await;
                match self.inner.pool.fate(backend).await {
                    Fate::Gone => return,
                    Fate::Alive => self.watch().is_slow(SLOW),
                    Fate::Unknown => self.watch().is_slow("no server that leads answers"),
                }
            }
        };
        tokio::select! {
            biased;
            out = work => Ok(out),
            () = gone => Err(EngineError::Away("the server process of a connection has ended".to_owned()).into()),
        }
    }
}

/// One attempt at a transaction.
#[derive(Clone, Copy)]
struct Attempt<'a>(&'a Fleet);

impl Attempt<'_> {
    /// The numbers of satellites, ascending; those that have none get one.
    async fn numbers_of(self, names: &[Arc<str>]) -> Result<Vec<u32>, SpoolError> {
        let mut unknown: Vec<String> = names
            .iter()
            .filter(|name| self.0.number_of(name).is_none())
            .map(|name| name.to_string())
            .collect();
        if !unknown.is_empty() {
            // In one order, so that two stations that meet the same ones do not wait for each other.
            unknown.sort();
            unknown.dedup();
            let connection = self.0.connection().await?;
            const MEET: &str =
                "insert into satellite (name) select * from unnest($1::text[]) on conflict (name) do nothing";
            const NUMBERS: &str = "select name, sat from satellite where name = any($1::text[])";
            let client = connection.client();
            let work = async {
                client.execute(MEET, &[&unknown]).await?;
                client.query(NUMBERS, &[&unknown]).await
            };
            let rows = self.0.watched(&connection, work).await??;
            let mut known = self.0.known();
            for row in rows {
                let (name, number): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
                let number = u32::try_from(number)
                    .map_err(|_| SpoolError::damaged("a satellite's number is too large"))?;
                known.insert(name.into(), number);
            }
        }
        let mut numbers: Vec<u32> = names.iter().filter_map(|name| self.0.number_of(name)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }

    /// One attempt.
    async fn transact<R: Send + 'static>(
        self,
        satellites: &[u32],
        need: Need,
        work: Arc<impl Fn(&mut Txn<'_>, &SatelliteRow) -> Result<R, SpoolError> + Send + Sync + 'static>,
    ) -> Result<Vec<R>, SpoolError> {
        let connection = self.0.connection().await?;
        let done = self.0.watched(&connection, self.run(&connection, satellites, need, work)).await;
        match done {
            Ok(Ok((out, changes))) => {
                self.0.watch().after(&changes);
                Ok(out)
            }
            Ok(Err(error)) => {
                let undo = connection.client().batch_execute("rollback");
                if !matches!(self.0.watched(&connection, undo).await, Ok(Ok(()))) {
                    drop(Pooled::take(connection));
                }
                Err(error)
            }
            // The process has gone; another one is asked the next time.
            Err(error) => {
                drop(Pooled::take(connection));
                Err(error)
            }
        }
    }

    async fn run<R: Send + 'static>(
        self,
        connection: &Connection,
        satellites: &[u32],
        need: Need,
        work: Arc<impl Fn(&mut Txn<'_>, &SatelliteRow) -> Result<R, SpoolError> + Send + Sync + 'static>,
    ) -> Result<(Vec<R>, Changes), SpoolError> {
        let (rows, loaded) = self.read(connection, satellites, need).await?;
        let (scratch, now) = (self.0.inner.scratch.clone(), self.0.inner.env.unix_nano());
        let run = move || scratch.run(rows, loaded, now, |txn, satellite| work(txn, satellite));
        let (out, mut changes) = self.0.inner.env.cpu(run).await?;
        write(connection, &mut changes).await?;
        Ok((out, changes))
    }

    /// Begins, locks and reads.
    async fn read(
        self,
        connection: &Connection,
        satellites: &[u32],
        need: Need,
    ) -> Result<(Vec<SatelliteRow>, Loaded), SpoolError> {
        let locks = numbers(satellites.iter().copied());
        let lock = connection.prepare(sql::LOCK).await?;
        for query in &need.queries {
            connection.prepare(query.text).await?;
        }
        let holds = connection.prepare(HOLDS).await?;
        let client = connection.client();
        let begin =
            async { client.batch_execute("begin").await.map(|()| Vec::new()).map_err(SpoolError::from) };
        let locked = async { Ok(client.query(&lock, &[&locks]).await?) };
        let mut all: Vec<Pending<'_, Result<Vec<Answered>, SpoolError>>> =
            vec![Box::pin(begin), Box::pin(locked)];
        if let Some(lease) = &need.lease {
            all.push(Box::pin(async {
                let (satellite, lane) = (i64::from(lease.satellite), i64::from(lease.lane));
                let exporter: &str = &lease.exporter;
                Ok(client.query(&holds, &[&satellite, &lane, &exporter, &lease.owner, &lease.fence]).await?)
            }));
        }
        all.extend(need.queries.iter().map(|query| Box::pin(ask(connection, query)) as Pending<'_, _>));
        let mut answers = together(all).await.into_iter();
        let mut answer = || answers.next().unwrap_or(Err(SpoolError::Gone));
        answer()?;
        let mut rows = answer()?.iter().map(satellite_of).collect::<Result<Vec<_>, _>>()?;
        if rows.len() != satellites.len() {
            // Another database than before: numbers are looked up again.
            self.0.known().clear();
            return Err(EngineError::Conflict("the satellites have other numbers now".to_owned()).into());
        }
        rows.sort_by_key(|row| row.number);
        if let Some(Lease { satellite, lane, .. }) = need.lease {
            let held = answer()?.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(false);
            if !held {
                return Err(EngineError::TakenOver { satellite, lane }.into());
            }
        }
        let mut loaded = Loaded::new();
        for query in &need.queries {
            note(query.of, &answer()?, &mut loaded)?;
        }
        if let Some(then) = need.then {
            for query in then(&loaded) {
                let rows = ask(connection, &query).await?;
                note(query.of, &rows, &mut loaded)?;
            }
        }
        Ok((rows, loaded))
    }
}

/// Writes and commits.
pub(super) async fn write(connection: &Connection, changes: &mut Changes) -> Result<(), SpoolError> {
    // Deletes go first: a row may be written again under a key that goes.
    let mut work: Vec<(&'static str, Vec<List>)> = Vec::new();
    for (of, columns, rows) in std::mem::take(&mut changes.deletes) {
        work.push((sql::text(of, Ask::Delete(columns)), lists(of, columns, rows.into_iter())));
    }
    for (of, rows) in std::mem::take(&mut changes.upserts) {
        let columns = of.columns().0.len() + of.columns().1.len();
        work.push((sql::text(of, Ask::Upsert), lists(of, columns, rows.into_iter())));
    }
    let forgotten: Vec<Row> = changes.remembered.iter().filter_map(forgets).collect();
    if !forgotten.is_empty() {
        for text in sql::FORGET {
            work.push((text, lists(Of::Recent, 4, forgotten.iter().cloned())));
        }
    }
    work.push((sql::UNLOCK, satellites_as_lists(&changes.satellites)));
    let mut statements = Vec::new();
    for (text, _) in &work {
        statements.push(connection.prepare(text).await?);
    }
    let client = connection.client();
    let mut all: Vec<Pending<'_, Result<(), SpoolError>>> = Vec::new();
    for (statement, (_, lists)) in statements.iter().zip(&work) {
        all.push(Box::pin(async move {
            let parameters: Vec<_> = lists.iter().map(List::parameter).collect();
            client.execute(statement, &parameters).await?;
            Ok(())
        }));
    }
    // When a statement before it has failed, this undoes everything; the statement's error is what comes back.
    all.push(Box::pin(async { Ok(connection.commit().await?) }));
    together(all).await.into_iter().collect()
}

/// The last sequence of the lane that is not remembered any more, now and then.
fn forgets(remembered: &Row) -> Option<Row> {
    let sequence = remembered[3].number();
    if !sequence.is_multiple_of(FORGET_EVERY) {
        return None;
    }
    let last = sequence.checked_sub(REMEMBERED)?;
    Some(vec![remembered[0].clone(), remembered[1].clone(), remembered[2].clone(), Cell::of(last)])
}

fn satellites_as_lists(satellites: &[SatelliteRow]) -> Vec<List> {
    let numbers =
        |of: fn(&SatelliteRow) -> u64| List::Numbers(satellites.iter().map(|s| of(s) as i64).collect());
    vec![
        numbers(|s| s.number.into()),
        List::Bytes(satellites.iter().map(|s| s.record.clone()).collect()),
        List::Bytes(satellites.iter().map(|s| s.tally.encode_to_vec()).collect()),
        numbers(|s| s.next_payload),
        numbers(|s| s.next_entry),
        numbers(|s| s.next_letter),
        numbers(|s| s.next_gap),
        numbers(|s| s.tally.used),
    ]
}
