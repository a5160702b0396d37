//! `ground-station spool migrate`: from a station's own file into the ledger that stations share.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use perigee_shared::env::Env;
use perigee_shared::store::StoreError;
use perigee_shared::units::ByteSize;
use perigee_top::Told;
use tokio::time::Instant;

use super::spool::Query;
use super::{say, say_json};
use crate::config::Config;
use crate::ground::settings;
use crate::spool::postgres::{EngineError, MigratedView, Migrating, MigrationView, Stage};
use crate::spool::{SpoolError, Store};

/// How often it is said how far it is.
const SAY: Duration = Duration::from_secs(1);

/// What can be migrated from.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum From {
    /// A file of one station.
    Redb,
}

/// What can be migrated to.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum To {
    /// The ledger that stations share.
    Postgres,
}

/// What to migrate.
#[derive(Debug, Args)]
pub(super) struct Migration {
    /// What keeps the spool now.
    #[arg(long, value_enum)]
    from: From,
    /// What is to keep it. The configuration is the one that the station has afterwards.
    #[arg(long, value_enum)]
    to: To,
    /// The directory of the spool's file, if it is not `storage.directory`.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Leave it open: a later run without this writes what has changed since, and ends it. For a copy that `spool backup` made
    /// while its station works on.
    #[arg(long)]
    ahead: bool,
}

pub(super) async fn run(query: Query, what: Migration) -> anyhow::Result<ExitCode> {
    let (From::Redb, To::Postgres) = (what.from, what.to);
    let config = Config::load(&query.file.config)?;
    let fleet = config.storage.fleet().context(
        "storage.kind is redb: --config names the configuration with which the station goes on, which has kind: postgres",
    )?;
    let mut from = settings(&config);
    from.directory = what.directory.unwrap_or(from.directory);
    let mut said = Said::begin();
    let migrated = Store::migrate(&Env::production(), from, fleet, what.ahead, |at| said.tell(&at)).await;
    drop(said);
    let view = match migrated {
        Err(error @ SpoolError::Engine(EngineError::NotMigrated { .. })) => return Err(error.into()),
        Err(error @ SpoolError::Store(StoreError::Damaged(_))) => {
            return Err(anyhow::Error::from(error).context(
                "the spool's file has to be whole: run the station once with kind: redb, which moves what is whole into a new file, and \
                 then this command again",
            ));
        }
        migrated => migrated.context("what was written stays; the same command goes on from there")?,
    };
    if query.json {
        say_json(&view)?;
    } else {
        say(&text(&view));
    }
    Ok(ExitCode::SUCCESS)
}

/// How far it is: a line in place on a terminal, else lines.
struct Said {
    told: Told,
    /// What was said last.
    last: Option<(String, Stage, u64, Instant)>,
}

impl Said {
    fn begin() -> Self {
        Self { told: Told::begin("opening both"), last: None }
    }

    /// Says it, now and then.
    fn tell(&mut self, at: &Migrating<'_>) {
        let does = if at.stage == Stage::Copy { "copied" } else { "verified" };
        let text = format!("{}: {does} {} of {}", at.satellite, ByteSize(at.bytes), ByteSize(at.of_bytes));
        if self.told.tell(text.clone()) {
            return;
        }
        let is_new = |(satellite, stage, bytes, when): &(String, Stage, u64, Instant)| {
            let moved = *bytes != at.bytes && (when.elapsed() >= SAY || at.bytes >= at.of_bytes);
            *satellite != at.satellite || *stage != at.stage || moved
        };
        if !self.last.as_ref().is_none_or(is_new) {
            return;
        }
        eprintln!("{text}");
        self.last = Some((at.satellite.to_owned(), at.stage, at.bytes, Instant::now()));
    }
}

/// The result for people.
fn text(view: &MigrationView) -> String {
    let mut out = String::new();
    for satellite in &view.satellites {
        let MigratedView { satellite, segments, dead_letters, partials, rows, changed_rows, hash } =
            satellite;
        out.push_str(&format!(
            "{satellite}: {segments} segments to export, {dead_letters} dead letters, {partials} partial segments; \
             {rows} rows with hash {hash} on both sides, {changed_rows} of them written now\n"
        ));
    }
    match (view.finished, view.satellites.is_empty()) {
        (true, true) => out.push_str("the spool was migrated before, or nothing was ever in it\n"),
        (true, false) => out.push_str("the spool is in the shared ledger; stations may be started\n"),
        (false, _) => out.push_str("copied ahead; run this without --ahead on the stopped station's spool\n"),
    }
    for path in &view.set_aside {
        out.push_str(&format!("{} is not needed any more\n", path.display()));
    }
    out
}
