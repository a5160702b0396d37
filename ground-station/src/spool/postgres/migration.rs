//! `ground-station spool migrate`: brings a station's own file into the shared ledger.
//!
//! Of each satellite, the rows of the file are compared with those that the shared ledger has of it, and what differs is written. So
//! a run that was killed is simply repeated, and a run after another one costs what has changed meanwhile. Then both sides are read
//! again, payloads too, and must have the same counts and hashes. Until that is so for all satellites they stand in the table
//! `migration` as not done, and no station joins the ledger; a station that is there already keeps the migration from beginning.
//!
//! At the end the file gets another name, so that no station sends a second time what is in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use perigee_shared::env::Env;
use perigee_shared::store::{Contents as _, StoreError};
use serde::Serialize;
use tokio_postgres::Client;

use super::super::contents::{Contents, Settings};
use super::super::error::SpoolError;
use super::super::local::Local;
use super::super::views::names;
use super::super::{file, mirror};
use super::connect::Pooled;
use super::error::EngineError;
use super::rows::{Cell, Of, Row, Rows, lists};
use super::scratch::{Changes, Loaded, SatelliteRow, delete_pieces};
use super::session::{ask, note, satellite_of, write};
use super::source::{self, Moved, key_of_pieces, pieces_of, whole_tables};
use super::sql::{self, Query};
use super::{Fleet, FleetSettings};

/// Bytes of pieces that share a transaction, about.
const BATCH_BYTES: usize = 4 << 20;

/// Rows that share one.
const BATCH_ROWS: usize = 4096;

/// What is appended to the names of files that were migrated.
const MIGRATED: &str = "migrated";

/// What a migration is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Rows that the shared ledger does not have are written.
    Copy,
    /// Both sides are read and compared.
    Verify,
}

/// How far a migration is.
#[derive(Debug, Clone, Copy)]
pub struct Migrating<'a> {
    /// The satellite that it is at.
    pub satellite: &'a str,
    /// What it does with it.
    pub stage: Stage,
    /// Payload bytes that it has passed, of this satellite.
    pub bytes: u64,
    /// Payload bytes that there are.
    pub of_bytes: u64,
}

/// What a migration has done.
#[derive(Debug, Clone, Serialize)]
pub struct MigrationView {
    /// Everything is in the shared ledger, and stations may join it.
    pub finished: bool,
    /// Each satellite.
    pub satellites: Vec<MigratedView>,
    /// The files that are of no use any more.
    pub set_aside: Vec<PathBuf>,
}

/// A satellite that was migrated.
#[derive(Debug, Clone, Serialize)]
pub struct MigratedView {
    /// Its id.
    pub satellite: String,
    /// Segments that are still to be exported.
    pub segments: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Segments of which some bytes are held.
    pub partials: u64,
    /// Rows of all tables, on both sides.
    pub rows: u64,
    /// Rows that this run has written or deleted, without pieces of payloads.
    pub changed_rows: u64,
    /// The hash of all rows, on both sides.
    pub hash: String,
}

/// The rows of one table: how many, and the sum of their hashes, which does not depend on their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    rows: u64,
    hash: [u64; 4],
}

impl Sum {
    fn add(&mut self, key: &Row, rest: &Row) {
        let mut hasher = blake3::Hasher::new();
        for cell in key.iter().chain(rest) {
            let number;
            let (kind, bytes): (u8, &[u8]) = match cell {
                Cell::Number(n) => {
                    number = n.to_le_bytes();
                    (0, &number)
                }
                Cell::Text(text) => (1, text.as_bytes()),
                Cell::Bytes(bytes) => (2, bytes),
            };
            hasher.update(&[kind]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        }
        self.rows += 1;
        let hash = hasher.finalize();
        for (sum, part) in self.hash.iter_mut().zip(hash.as_bytes().chunks_exact(8)) {
            *sum = sum.wrapping_add(u64::from_le_bytes(part.try_into().unwrap_or_default()));
        }
    }
}

/// By table.
type Sums = BTreeMap<Of, Sum>;

fn add_all(sums: &mut Sums, of: Of, rows: &Rows) {
    let sum = sums.entry(of).or_default();
    rows.iter().for_each(|(key, rest)| sum.add(key, rest));
}

/// Where a file of this directory is once it was migrated.
fn aside(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.{MIGRATED}"))
}

/// The file of this directory that was migrated, if no other has taken its place.
pub(in super::super) fn migrated(env: &Env, directory: &Path) -> Option<PathBuf> {
    let done = aside(directory, Contents::FILE);
    (!env.store.exists(&directory.join(Contents::FILE)) && env.store.exists(&done)).then_some(done)
}

/// A file on its way into a ledger.
struct Migration {
    file: Local,
    fleet: Fleet,
    /// The id of the file's ledger.
    ledger: u64,
}

/// Brings the file of `from` into the shared ledger. With `ahead` it is left open: a later run writes what has changed since, and
/// ends it.
pub(in super::super) async fn migrate(
    env: &Env,
    from: Settings,
    fleet: FleetSettings,
    ahead: bool,
    mut tell: impl FnMut(Migrating<'_>),
) -> Result<MigrationView, SpoolError> {
    let directory = from.directory.clone();
    if let Some(done) = migrated(env, &directory) {
        let cause = format!("it was migrated before, and is {} since", done.display());
        let remedy = "start the stations; to bring it into another ledger, give it its name back";
        return Err(EngineError::NotMigrated { cause, remedy }.into());
    }
    let file = Local::open_existing(env, from.clone())?;
    let fleet = Box::pin(Fleet::look(env, from, fleet)).await?;
    let look = |spool: &mut file::Spool| Ok((spool.contents().ledger, spool.read(|v| names(v.tables))?));
    let (ledger, satellites) = file.keeper.ask(look).await?;
    let migration = Migration { file, fleet, ledger };
    let done = Box::pin(migration.run(satellites, ahead, &mut tell)).await;
    let Migration { file, fleet, .. } = migration;
    file.close().await;
    fleet.close().await;
    let mut view = done?;
    if view.finished {
        // Only what is wholly in the ledger gives its name away.
        for name in [Contents::FILE, mirror::FILE] {
            let path = directory.join(name);
            if env.store.exists(&path) {
                let aside = aside(&directory, name);
                env.store.rename(&path, &aside).map_err(|e| StoreError::Io(e.to_string()))?;
                view.set_aside.push(aside);
            }
        }
    }
    Ok(view)
}

impl Migration {
    async fn run(
        &self,
        satellites: BTreeMap<u32, String>,
        ahead: bool,
        tell: &mut impl FnMut(Migrating<'_>),
    ) -> Result<MigrationView, SpoolError> {
        let mut view = MigrationView { finished: !ahead, satellites: Vec::new(), set_aside: Vec::new() };
        let all: Vec<String> = satellites.values().cloned().collect();
        let Some(numbers) = self.begin(&all).await? else {
            view.finished = true;
            return Ok(view);
        };
        let mut moved = Vec::new();
        for (from, name) in &satellites {
            let Some(to) = numbers.get(name) else { continue };
            let of = Moved { from: *from, to: *to };
            let changed = Box::pin(self.copy(name, of, tell)).await?;
            moved.push((name, of, changed));
        }
        for (name, of, changed) in moved {
            let mut one = self.verify(name, of, tell).await?;
            one.changed_rows = changed;
            view.satellites.push(one);
        }
        if !ahead {
            self.finish().await?;
        }
        Ok(view)
    }

    /// Notes that these satellites are on their way; their numbers in the shared ledger. `None`: all of it is there.
    async fn begin(&self, names: &[String]) -> Result<Option<BTreeMap<String, u32>>, SpoolError> {
        let connection = self.fleet.connection().await?;
        let client = connection.client();
        let work = async {
            client.batch_execute("begin").await?;
            // Of two migrations that begin together the second one sees what the first one notes.
            client.query_one("select version from perigee_schema where version = 0 for update", &[]).await?;
            if self.is_done(client, names).await? {
                client.batch_execute("rollback").await?;
                return Ok(None);
            }
            nobody_is_there(client).await?;
            let (numbers, new) = self.enroll(client, names).await?;
            client.batch_execute("commit").await?;
            // Whoever joins from here on sees that a migration has begun.
            if let Err(error) = nobody_is_there(client).await {
                client.execute("delete from migration where sat = any($1::int8[])", &[&new]).await?;
                return Err(error);
            }
            Ok(Some(numbers))
        };
        let begun = self.fleet.watched(&connection, work).await.flatten();
        if begun.is_err() {
            drop(Pooled::take(connection));
        }
        begun
    }

    /// Whether a migration of this file has ended; an error when it must not begin.
    async fn is_done(&self, client: &Client, names: &[String]) -> Result<bool, SpoolError> {
        let source = self.ledger as i64;
        const DONE: &str =
            "select s.name from migration m join satellite s using (sat) where source = $1 and done = 1";
        let done = column(&client.query(DONE, &[&source]).await?)?;
        if !done.is_empty() {
            let Some(new) = names.iter().find(|name| !done.contains(name)) else { return Ok(true) };
            let cause = format!("it was migrated before, and has met {new} since");
            return Err(refused(cause, "let a station that uses this file alone export what is in it"));
        }
        const OTHER: &str = "select to_hex(source) from migration where done = 0 and source <> $1 limit 1";
        if let Some(other) = column(&client.query(OTHER, &[&source]).await?)?.pop() {
            let cause = format!("the migration of another file, with the ledger {other}, has begun");
            return Err(refused(cause, "finish that one first"));
        }
        const TAKEN: &str = "select s.name from satellite s where s.name = any($1::text[]) \
            and (s.next_payload > 1 or length(s.record) > 0 or length(s.tally) > 0) \
            and not exists(select from migration m where m.sat = s.sat and m.source = $2 and m.done = 0)";
        let taken = column(&client.query(TAKEN, &[&names, &source]).await?)?;
        if !taken.is_empty() {
            let cause = format!("the shared ledger has other data of {}", taken.join(", "));
            return Err(refused(
                cause,
                "let the file's own station export what is in it, or take an empty database",
            ));
        }
        Ok(false)
    }

    /// Gives satellites their numbers, and notes that they are on their way; the numbers, and which were not noted before.
    async fn enroll(
        &self,
        client: &Client,
        names: &[String],
    ) -> Result<(BTreeMap<String, u32>, Vec<i64>), SpoolError> {
        let source = self.ledger as i64;
        // An empty ledger goes on under the id that satellites know.
        const SAME: &str = "update ledger set id = $1 where not exists(select from satellite)";
        client.execute(SAME, &[&source]).await?;
        const MEET: &str =
            "insert into satellite (name) select * from unnest($1::text[]) on conflict (name) do nothing";
        client.execute(MEET, &[&names]).await?;
        const BEGIN: &str = "insert into migration (sat, source) select sat, $2 from satellite \
            where name = any($1::text[]) on conflict (sat) do nothing returning sat";
        let new = client.query(BEGIN, &[&names, &source]).await?;
        let new = new.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        const NUMBERS: &str = "select name, sat from satellite where name = any($1::text[])";
        let pair = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get::<_, i64>(1)? as u32));
        let numbers = client.query(NUMBERS, &[&names]).await?;
        Ok((numbers.iter().map(pair).collect::<Result<_, SpoolError>>()?, new))
    }

    /// What the file has of a satellite.
    async fn source(&self, name: &str, of: Moved) -> Result<(SatelliteRow, Loaded), SpoolError> {
        let name = name.to_owned();
        self.file.keeper.ask(move |spool| spool.read(|view| source::satellite(view, &name, of))).await
    }

    async fn pieces(&self, owner: Of, key: &Row, rest: &Row, of: Moved) -> Result<Rows, SpoolError> {
        let (key, rest) = (key.clone(), rest.clone());
        self.file
            .keeper
            .ask(move |spool| spool.read(|view| source::pieces(view, owner, (&key, &rest), of)))
            .await
    }

    /// What the shared ledger has of it, without the pieces.
    async fn target(&self, satellite: u32) -> Result<Loaded, SpoolError> {
        let connection = self.fleet.connection().await?;
        let mut loaded = Loaded::new();
        for of in whole_tables() {
            let query = Query::of_satellites(of, &[satellite.into()]);
            let rows = self.fleet.watched(&connection, ask(&connection, &query)).await??;
            note(of, &rows, &mut loaded)?;
        }
        Ok(loaded)
    }

    /// Writes in one transaction.
    async fn write(&self, mut changes: Changes) -> Result<(), SpoolError> {
        if changes.upserts.is_empty() && changes.deletes.is_empty() && changes.satellites.is_empty() {
            return Ok(());
        }
        let connection = self.fleet.connection().await?;
        let work = async {
            connection.client().batch_execute("begin").await?;
            write(&connection, &mut changes).await
        };
        let written = self.fleet.watched(&connection, work).await.flatten();
        if written.is_err() {
            drop(Pooled::take(connection));
        }
        written
    }

    /// Makes the shared ledger have of a satellite what the file has; how many rows that changed.
    async fn copy(
        &self,
        name: &str,
        of: Moved,
        tell: &mut impl FnMut(Migrating<'_>),
    ) -> Result<u64, SpoolError> {
        let (row, rows) = self.source(name, of).await?;
        let mut there = self.target(of.to).await?;
        let (mut changed, mut bytes) = (0, 0);
        let of_bytes = row.tally.used;
        let mut say = |bytes| tell(Migrating { satellite: name, stage: Stage::Copy, bytes, of_bytes });
        say(0);
        for (table, rows) in rows {
            let (new, gone) = differences(table, rows, there.remove(&table).unwrap_or_default());
            changed += (new.len() + gone.len()) as u64;
            let mut gone: Vec<(Row, Row)> = gone.into_iter().collect();
            while !gone.is_empty() {
                let part: Rows = gone.drain(..gone.len().min(BATCH_ROWS)).collect();
                let mut changes = Changes::default();
                delete_pieces(table, &part, &Rows::new(), Vec::new(), &mut changes);
                let keys = table.columns().0.len();
                changes.deletes.push((table, keys, part.into_keys().collect()));
                self.write(changes).await?;
            }
            let mut batch = Batch::default();
            for (key, (rest, with_pieces)) in new {
                let pieces = match pieces_of(table) {
                    Some(_) if with_pieces => self.pieces(table, &key, &rest, of).await?,
                    _ => Rows::new(),
                };
                bytes += batch.add(key, rest, pieces);
                if batch.is_full() {
                    self.write(batch.changes(table)).await?;
                    say(bytes);
                }
            }
            self.write(batch.changes(table)).await?;
            say(bytes);
        }
        let satellites = vec![row];
        self.write(Changes { satellites, ..Changes::default() }).await?;
        Ok(changed)
    }

    /// Reads both sides anew and compares them.
    async fn verify(
        &self,
        name: &str,
        of: Moved,
        tell: &mut impl FnMut(Migrating<'_>),
    ) -> Result<MigratedView, SpoolError> {
        let (row, rows) = self.source(name, of).await?;
        let (mut here, mut there) = (Sums::new(), Sums::new());
        self.target(of.to).await?.iter().for_each(|(of, rows)| add_all(&mut there, *of, rows));
        let (mut bytes, of_bytes) = (0, row.tally.used);
        for (table, rows) in &rows {
            add_all(&mut here, *table, rows);
            let Some(pieces) = pieces_of(*table) else { continue };
            let mut batch = Batch::default();
            for (at, (key, rest)) in rows.iter().enumerate() {
                let read = self.pieces(*table, key, rest, of).await?;
                bytes += batch.add(key_of_pieces(*table, key, rest), Row::new(), read);
                if batch.is_full() || at + 1 == rows.len() {
                    add_all(&mut here, pieces, &batch.pieces);
                    add_all(&mut there, pieces, &self.pieces_there(pieces, &batch).await?);
                    batch = Batch::default();
                    tell(Migrating { satellite: name, stage: Stage::Verify, bytes, of_bytes });
                }
            }
        }
        let connection = self.fleet.connection().await?;
        let client = connection.client();
        for pieces in Of::ALL.into_iter().filter_map(pieces_of) {
            // Some may belong to nothing.
            let count = format!("select count(*) from {} where sat = $1", pieces.name());
            let rows: i64 = client.query_one(&count, &[&i64::from(of.to)]).await?.try_get(0)?;
            here.entry(pieces).or_default();
            there.entry(pieces).or_default().rows = rows as u64;
        }
        let satellites =
            client.query(&format!("{} where sat = $1", sql::SATELLITES), &[&i64::from(of.to)]).await?;
        let different =
            here.iter().find(|(table, sum)| there.get(table) != Some(sum)).map(|(table, _)| table.name());
        let same_row = satellites.first().map(satellite_of).transpose()?.as_ref() == Some(&row);
        if let Some(table) = different.or((!same_row).then_some("satellite")) {
            let cause = format!("the table `{table}` has not the same of {name} on both sides");
            return Err(refused(cause, "run this again; no station may use either side meanwhile"));
        }
        let mut all = blake3::Hasher::new();
        for part in here.values().flat_map(|sum| sum.hash) {
            all.update(&part.to_le_bytes());
        }
        let count = |of| rows.get(&of).map_or(0, |rows| rows.len() as u64);
        Ok(MigratedView {
            satellite: name.to_owned(),
            // What everybody is done with is only still to be deleted.
            segments: rows.get(&Of::Entry).into_iter().flatten().filter(|(_, v)| v[1].number() != 0).count()
                as u64,
            dead_letters: count(Of::Letter),
            partials: count(Of::Partial),
            rows: here.values().map(|sum| sum.rows).sum(),
            changed_rows: 0,
            hash: all.finalize().to_hex()[..16].to_owned(),
        })
    }

    /// The pieces that the shared ledger has of these owners.
    async fn pieces_there(&self, pieces: Of, owners: &Batch) -> Result<Rows, SpoolError> {
        let keys: Vec<Row> = owners.rows.iter().map(|(key, _)| key.clone()).collect();
        let Some(columns) = keys.first().map(Vec::len) else { return Ok(Rows::new()) };
        let query = Query::keys(pieces, lists(pieces, columns, keys.into_iter()));
        let connection = self.fleet.connection().await?;
        let rows = self.fleet.watched(&connection, ask(&connection, &query)).await??;
        let mut loaded = Loaded::new();
        note(pieces, &rows, &mut loaded)?;
        Ok(loaded.remove(&pieces).unwrap_or_default())
    }

    async fn finish(&self) -> Result<(), SpoolError> {
        let connection = self.fleet.connection().await?;
        const FINISH: &str = "update migration set done = 1 where source = $1";
        let source: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&(self.ledger as i64)];
        self.fleet.watched(&connection, connection.client().execute(FINISH, &source)).await??;
        Ok(())
    }
}

/// An error while a station works with the ledger.
async fn nobody_is_there(client: &Client) -> Result<(), SpoolError> {
    const THERE: &str = "select distinct station from worker where until > clock_timestamp()";
    let there = column(&client.query(THERE, &[]).await?)?;
    if there.is_empty() {
        return Ok(());
    }
    let cause = format!("{} works with the shared ledger", there.join(", "));
    Err(refused(cause, "stop it, wait for `storage.lease`, and run this again"))
}

fn refused(cause: String, remedy: &'static str) -> SpoolError {
    EngineError::NotMigrated { cause, remedy }.into()
}

fn column(rows: &[tokio_postgres::Row]) -> Result<Vec<String>, SpoolError> {
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Rows to be written, each with whether its pieces are to be written too, and rows that go.
fn differences(of: Of, rows: Rows, mut there: Rows) -> (BTreeMap<Row, (Row, bool)>, Rows) {
    let mut new = BTreeMap::new();
    for (key, rest) in rows {
        match there.get(&key) {
            Some(was) if *was == rest => drop(there.remove(&key)),
            // What is under a payload's number never changes.
            Some(was) if of == Of::Entry && was[0] == rest[0] => {
                there.remove(&key);
                new.insert(key, (rest, false));
            }
            // What is there goes with its pieces before this is written.
            Some(_) if pieces_of(of).is_some() => drop(new.insert(key, (rest, true))),
            Some(_) => {
                there.remove(&key);
                new.insert(key, (rest, true));
            }
            None => drop(new.insert(key, (rest, true))),
        }
    }
    (new, there)
}

/// Rows of one table with their pieces.
#[derive(Default)]
struct Batch {
    rows: Vec<(Row, Row)>,
    pieces: Rows,
    bytes: usize,
}

impl Batch {
    /// Takes a row; the bytes of its pieces.
    fn add(&mut self, key: Row, rest: Row, pieces: Rows) -> u64 {
        let bytes: usize = pieces.values().map(|piece| piece[0].bytes().len()).sum();
        self.rows.push((key, rest));
        self.pieces.extend(pieces);
        self.bytes += bytes;
        bytes as u64
    }

    const fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.rows.len() >= BATCH_ROWS
    }

    /// What writes them; nothing is left in here.
    fn changes(&mut self, of: Of) -> Changes {
        let Self { rows, pieces, .. } = std::mem::take(self);
        let whole = |(mut key, rest): (Row, Row)| {
            key.extend(rest);
            key
        };
        let mut changes = Changes::default();
        if let Some(table) = pieces_of(of).filter(|_| !pieces.is_empty()) {
            changes.upserts.push((table, pieces.into_iter().map(whole).collect()));
        }
        if !rows.is_empty() {
            changes.upserts.push((of, rows.into_iter().map(whole).collect()));
        }
        changes
    }
}
