//! `ground-station spool`: asked of the running process, or of the file when nothing runs.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use perigee_shared::contact::shown_time;
use perigee_shared::control::{self, ControlError};
use perigee_shared::env::Env;
use perigee_shared::store::backup::unfinished;
use perigee_shared::units::{ByteSize, shown_span};
use perigee_top::Shown;
use serde_json::Value;

use super::{ConfigFile, catalogue, migrate, say, say_json};
use crate::config::Config;
use crate::console::{BackupAnswer, BackupRequest, ReplayAnswer, ReplayRequest, VerifyAnswer};
use crate::ground::look_at_store;
use crate::spool::{SpoolError, Store};

/// Rows of a list that are read, at most.
const LISTED: usize = 10_000;

/// Of those, rows that are said to people.
const SAID: usize = 1_000;

/// What to ask of.
#[derive(Debug, Args)]
pub(super) struct Query {
    #[command(flatten)]
    pub(super) file: ConfigFile,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show its fill level, the place of each exporter, item counts, gaps and dead letters.
    Inspect {
        #[command(flatten)]
        query: Query,
        /// Show instead where the bytes of its segments go, column by column.
        #[arg(long)]
        columns: bool,
        /// Show them for each segment too.
        #[arg(long, requires = "columns")]
        each: bool,
    },
    /// Check every segment in it; exit code 1 when one is damaged.
    Verify(Query),
    /// Write a consistent copy of the spool to a new file, also while the ground-station runs.
    Backup {
        #[command(flatten)]
        query: Query,
        /// The file to write; it must not exist.
        #[arg(value_name = "FILE")]
        path: PathBuf,
    },
    /// Show what was committed, the latest first: when, by which pass it came, and which backend has it.
    Catalogue {
        #[command(flatten)]
        query: Query,
        #[command(flatten)]
        wanted: catalogue::Wanted,
    },
    /// Bring the spool of a station's own file into the ledger that stations share, while neither is used. It can be repeated at
    /// any time.
    Migrate {
        #[command(flatten)]
        query: Query,
        #[command(flatten)]
        what: migrate::Migration,
    },
    /// Send dead letters again.
    #[command(group = clap::ArgGroup::new("which").required(true).args(["id", "all"]))]
    Replay {
        #[command(flatten)]
        query: Query,
        /// Only dead letters with these numbers, as `spool inspect` shows them.
        #[arg(long, value_name = "ID")]
        id: Vec<u64>,
        /// All dead letters.
        #[arg(long)]
        all: bool,
    },
}

/// Reads `path` from the running process, or asks the file when nothing runs.
pub(super) async fn fetch<R: serde::Serialize>(
    config: &Config,
    path: &str,
    body: Option<Value>,
    otherwise: impl AsyncFnOnce(Store) -> Result<R, SpoolError>,
) -> anyhow::Result<Value> {
    if let Some(control) = &config.extensions.control {
        let method = if body.is_some() { http::Method::POST } else { http::Method::GET };
        match control::request(&control.socket, method, path, body.as_ref()).await {
            Err(ControlError::NotRunning { source, .. }) if source.kind() != ErrorKind::PermissionDenied => {}
            other => return other.map_err(|error| anyhow::anyhow!("{}", error.told("ground-station"))),
        }
    }
    let store = look_at_store(config, &Env::production())
        .await
        .context("nothing answers on the control socket, so the store itself was asked")?;
    let answer = otherwise(store.clone()).await?;
    store.close().await;
    Ok(serde_json::to_value(answer)?)
}

pub(super) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Inspect { query, columns: true, each } => Box::pin(columns(query, each)).await,
        Command::Inspect { query, .. } => Box::pin(inspect(query)).await,
        Command::Catalogue { query, wanted } => Box::pin(catalogue::run(query, wanted)).await,
        Command::Migrate { query, what } => Box::pin(migrate::run(query, what)).await,
        Command::Verify(query) => Box::pin(verify(query)).await,
        Command::Backup { query, path } => Box::pin(backup(query, path)).await,
        Command::Replay { query, id, all } => {
            let config = Config::load(&query.file.config)?;
            let named = id.len() as u64;
            let request = ReplayRequest { ids: (!all).then_some(id) };
            let body = serde_json::to_value(&request)?;
            let answer = fetch(&config, "/api/v1/replay", Some(body), async |store| {
                Ok(ReplayAnswer { replayed: store.replays().replay(request.ids).await? })
            })
            .await?;
            if query.json {
                say_json(&answer)?;
            } else {
                say(&format!("dead letters that will be sent again: {}\n", answer["replayed"]));
            }
            let missing = named.saturating_sub(answer["replayed"].as_u64().unwrap_or(0));
            if missing == 0 {
                return Ok(ExitCode::SUCCESS);
            }
            anyhow::bail!(
                "{missing} of these dead letters are not there; `spool inspect` lists those that are"
            )
        }
    }
}

/// What is said meanwhile, and how many bytes were written.
fn waits(what: &str, since: Duration, bytes: Option<u64>) -> String {
    let bytes = bytes.map_or_else(String::new, |bytes| format!(", {} so far", ByteSize(bytes)));
    format!("{what}: {}{bytes}", shown_span(since.as_nanos() as u64))
}

async fn backup(query: Query, path: PathBuf) -> anyhow::Result<ExitCode> {
    let config = Config::load(&query.file.config)?;
    // The running process may have another working directory.
    let path = std::path::absolute(path)?;
    let body = serde_json::to_value(BackupRequest { path: path.clone() })?;
    let (copied, copy) = (path.clone(), unfinished(&path));
    let shown = Shown::begin(move |since| {
        let bytes = std::fs::metadata(&copy).map_or(0, |file| file.len());
        waits("copying the spool; the ground-station goes on meanwhile", since, Some(bytes))
    });
    let answer = fetch(&config, "/api/v1/backup", Some(body), async |store| {
        Ok(BackupAnswer { bytes: store.upkeep().backup(copied).await? })
    })
    .await;
    drop(shown);
    let answer = answer?;
    if query.json {
        say_json(&answer)?;
    } else {
        let bytes = ByteSize(answer["bytes"].as_u64().unwrap_or(0));
        say(&format!("the spool was copied into {} ({bytes})\n", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

async fn verify(query: Query) -> anyhow::Result<ExitCode> {
    let config = Config::load(&query.file.config)?;
    let shown = Shown::begin(|since| waits("reading and checking every segment", since, None));
    let answer = fetch(&config, "/api/v1/verify", None, async |store| {
        Ok(VerifyAnswer { wrong: store.upkeep().verify().await? })
    })
    .await;
    drop(shown);
    let answer = answer?;
    let wrong = answer["wrong"].as_array().cloned().unwrap_or_default();
    if query.json {
        say_json(&answer)?;
    } else if wrong.is_empty() {
        say("every segment in the spool is whole and decodes\n");
    } else {
        wrong.iter().filter_map(Value::as_str).for_each(|line| say(&format!("{line}\n")));
    }
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn inspect(query: Query) -> anyhow::Result<ExitCode> {
    let config = Config::load(&query.file.config)?;
    let spool = fetch(&config, "/api/v1/spool", None, async |s| s.views().overview().await).await?;
    let accounts = fetch(&config, "/api/v1/accounting", None, async |s| s.views().accounting().await).await?;
    let path = |list: &str| format!("/api/v1/{list}?limit={LISTED}");
    let gaps = fetch(&config, &path("gaps"), None, async |s| s.views().gaps(LISTED).await).await?;
    let letters =
        fetch(&config, &path("dead-letters"), None, async |s| s.views().letters(0, LISTED).await).await?;
    if query.json {
        say_json(&serde_json::json!({
            "spool": spool, "accounting": accounts, "gaps": gaps, "dead_letters": letters,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let bytes = |key: &str| ByteSize(spool[key].as_u64().unwrap_or(0)).to_string();
    say(&format!(
        "{} of {} used, file {} (length {}), {} segments, {} dead letters\n",
        bytes("used_bytes"),
        bytes("max_bytes"),
        bytes("file_bytes"),
        bytes("file_length_bytes"),
        spool["segments"],
        spool["dead_letters"]
    ));
    for exporter in spool["exporters"].as_array().into_iter().flatten() {
        let name = exporter["name"].as_str().unwrap_or("");
        say(&format!(
            "exporter {name}: {2} segments behind (next: entry {0}, request {1})\n",
            exporter["entry"], exporter["request"], exporter["backlog_segments"]
        ));
    }
    for (satellite, account) in accounts.as_object().into_iter().flatten() {
        for state in ["committed", "exported", "in_spool", "dead_lettered", "lost", "dropped"] {
            say(&format!("{satellite} {state}: {}\n", items(&account[state])));
        }
        say(&format!(
            "{satellite} segments: {} committed, {} received again, {} also committed by another station\n",
            account["segments"], account["duplicates"], account["handover_twice"]
        ));
    }
    let (gaps, left) = shown(&gaps);
    gaps.iter().for_each(|gap| say(&gap_line(gap)));
    say(&and_more(left, "gaps", "gaps"));
    let (letters, left) = shown(&letters);
    for letter in letters {
        say(&format!(
            "dead letter {}: {} items for {} from {}: {}\n",
            letter["id"],
            letter["items"],
            letter["exporter"].as_str().unwrap_or("nobody"),
            letter["satellite"].as_str().unwrap_or(""),
            letter["reason"].as_str().unwrap_or("")
        ));
    }
    say(&and_more(left, "dead letters", "dead-letters"));
    Ok(ExitCode::SUCCESS)
}

/// The rows of a list that are said one by one, and how many more were read.
fn shown(list: &Value) -> (&[Value], usize) {
    let all = list.as_array().map_or(&[][..], Vec::as_slice);
    let (shown, left) = all.split_at(all.len().min(SAID));
    (shown, left.len())
}

/// That there are more than were said; nothing, if there are none.
fn and_more(left: usize, what: &str, list: &str) -> String {
    match left {
        0 => String::new(),
        _ => {
            let least = if left + SAID >= LISTED { "at least " } else { "" };
            format!("and {least}{left} more {what}; --json has {LISTED} of them, /api/v1/{list} all\n")
        }
    }
}

/// A gap in a line; a number that nobody knows is not 0.
fn gap_line(gap: &Value) -> String {
    let text = |key: &str| gap[key].as_str().unwrap_or("");
    let number = |key: &str| gap[key].as_u64().unwrap_or(0);
    let unknown = gap["unknown"].as_bool() == Some(true);
    let none = gap["items"].as_object().is_none_or(|of| of.values().all(|n| n.as_u64() == Some(0)));
    let missing = match (unknown, none) {
        (true, true) => "an unknown number of items".to_owned(),
        (true, false) if text("reason") == "station_lost" => format!("at most {}", items(&gap["items"])),
        (true, false) => format!("not known exactly: {}", items(&gap["items"])),
        (false, _) => items(&gap["items"]),
    };
    let mut line = format!(
        "gap of {}, epoch {}, lane {}: {}, {missing}",
        text("satellite"),
        text("epoch"),
        gap["lane"],
        text("reason")
    );
    if let [first, last] = gap["sequences"].as_array().map_or(&[][..], Vec::as_slice) {
        line.push_str(&format!("; segments {first} to {last}"));
    }
    if number("start_unix_nano") != 0 {
        let (start, end) = (shown_time(number("start_unix_nano")), shown_time(number("end_unix_nano")));
        line.push_str(&format!("; data from {start} to {end}"));
    }
    line.push_str(&format!("; known since {}\n", shown_time(number("recorded_unix_nano"))));
    line
}

async fn columns(query: Query, each: bool) -> anyhow::Result<ExitCode> {
    let config = Config::load(&query.file.config)?;
    let path = format!("/api/v1/columns?each={each}");
    let view = fetch(&config, &path, None, async |s| s.views().columns(each).await).await?;
    if query.json {
        say_json(&view)?;
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!(
        "{} of {} segments, {} bytes; {}\n",
        view["segments"],
        view["of_segments"],
        view["payload_bytes"],
        items(&view["items"])
    ));
    say_columns(&view["columns"]);
    for segment in view["each"].as_array().into_iter().flatten() {
        let base = match segment["base_sequence"].as_u64() {
            Some(base) => format!(", needs {base}"),
            None => String::new(),
        };
        say(&format!(
            "\n{} {}: codec {}{base}{}, {} bytes; {}\n",
            segment["satellite"].as_str().unwrap_or(""),
            segment["segment"].as_str().unwrap_or(""),
            segment["codec"],
            if segment["is_base"].as_bool() == Some(true) { ", a base" } else { "" },
            segment["payload_bytes"],
            items(&segment["items"])
        ));
        say_columns(&segment["columns"]);
    }
    Ok(ExitCode::SUCCESS)
}

fn items(n: &Value) -> String {
    format!("{} spans, {} points, {} logs", n["spans"], n["metric_points"], n["log_records"])
}

fn say_columns(columns: &Value) {
    let (a, b, c, d, e) = ("signal", "column", "bytes", "share", "bytes/item");
    say(&format!("{a:<8}  {b:<40}  {c:>10}  {d:>6}  {e:>10}\n"));
    for column in columns.as_array().into_iter().flatten() {
        let number = |key: &str| column[key].as_f64().unwrap_or(0.0);
        let per_item = column["bytes_per_item"].as_f64().map_or_else(String::new, |n| format!("{n:.2}"));
        say(&format!(
            "{:<8}  {:<40}  {:>10.0}  {:>5.1}%  {per_item:>10}\n",
            column["signal"].as_str().unwrap_or(""),
            column["column"].as_str().unwrap_or(""),
            number("bytes"),
            100.0 * number("share")
        ));
    }
}
