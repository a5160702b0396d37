//! The command line: `run`, `validate`, and what asks a running agent over its control socket.

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use http::Method;
use perigee_shared::config::collector::{self, Program};
use perigee_shared::config::reload::Rereading;
use perigee_shared::config::{ConfigError, ConfigFile, Problem};
use perigee_shared::contact::parse_rate;
use perigee_shared::control::{ControlError, request};
use perigee_shared::env::{Env, Owner, Placement};
use perigee_shared::segment::Codec;
use perigee_shared::serve::termination;
use perigee_shared::service::{Manager, Told};
use perigee_shared::store::GIVEN_UP;
use perigee_shared::supervise;
use perigee_shared::telemetry::Logs;
use perigee_shared::units::{ByteSize, parse_duration};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::agent::{self, Agent, Reload};
use crate::config::{Config, Extent};
use crate::control::{Backup, OpenContact, Release, Salvage, inspect};
use crate::people::{opened_text, recode_text, release_hint, report_text, status_text, table_text};
use crate::recode::{Recode, recode};
use crate::wal::Wanted;
use crate::{top, wal_text};

/// Receives OTLP on board, keeps it durable, and ships it to a ground-station when a contact opens.
#[derive(Debug, Parser)]
#[command(name = "space-agent", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The configuration file.
#[derive(Debug, Args)]
pub struct ConfigArg {
    /// Configuration file (YAML)
    #[arg(long, short, value_name = "FILE", global = true, default_value = "/etc/perigee/agent.yaml")]
    pub config: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent until SIGTERM or SIGINT
    Run(ConfigArg),
    /// Check the configuration and every file it names, without binding anything
    Validate {
        /// The file.
        #[command(flatten)]
        config: ConfigArg,
        /// Print the configuration of a Collector in Perigee's own form, with a comment for each difference
        #[arg(long, value_name = "FILE", conflicts_with = "json")]
        from_collector: Option<PathBuf>,
    },
    /// Show what is on board, the link and the next contact
    Status(ConfigArg),
    /// Show the status as a screen that follows it: rates, limiter, backlog, contacts, exporters
    Top(ConfigArg),
    /// List, open and close contacts
    Contact {
        /// The file.
        #[command(flatten)]
        config: ConfigArg,
        /// What to do.
        #[command(subcommand)]
        command: ContactCommand,
    },
    /// Inspect the write-ahead log, of a running agent or of a file that no program has open
    Wal {
        /// The file.
        #[command(flatten)]
        config: ConfigArg,
        /// What to do.
        #[command(subcommand)]
        command: WalCommand,
    },
}

/// `contact ...`
#[derive(Debug, Subcommand)]
pub enum ContactCommand {
    /// Show the open contact and the next ones
    List {
        /// Those that begin before this: a time such as 2026-12-01T12:00:00Z, or 3d from now
        #[arg(long, value_name = "TIME", value_parser = parse_until)]
        until: Option<u64>,
        /// At most so many [default: 100, with --until all]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Open a contact now; it goes before the plan until it is closed or its time is over
    ///
    /// One that was opened before ends, unless contacts.simultaneous allows two.
    Open {
        /// The station, as in link.stations
        station: String,
        /// How long, for example 8m; without this until it is closed
        #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
        duration: Option<std::time::Duration>,
        /// Rate from the satellite to the ground, for example 20Mbit/s
        #[arg(long, value_name = "RATE", value_parser = parse_rate)]
        rate_down: Option<u64>,
        /// Rate from the ground to the satellite
        #[arg(long, value_name = "RATE", value_parser = parse_rate)]
        rate_up: Option<u64>,
        /// Send at most this many bytes of segments, for example 100MB
        #[arg(long, value_name = "SIZE")]
        byte_budget: Option<ByteSize>,
    },
    /// Close what was opened by hand
    Close,
    /// Show how the latest passes ended, and a forecast of the store
    Report,
}

/// `wal ...`
#[derive(Debug, Subcommand)]
pub enum WalCommand {
    /// Show the segments on board and which consumers they wait for
    Inspect {
        /// Show at most this many segments
        #[arg(long, default_value_t = 100)]
        most: usize,
    },
    /// Check every segment against its hash; a damaged one is dropped, counted and reported
    Verify,
    /// Give unused bytes of the file back to the volume
    Compact,
    /// Delete data that waits only for an exporter which has left the configuration
    Release {
        /// The exporter's name
        consumer: String,
    },
    /// Write a consistent copy of the log to a new file, also while the agent runs
    Backup {
        /// The file to write; it must not exist
        file: PathBuf,
    },
    /// Append the data of a file that was set aside, as if it had just arrived
    Salvage {
        /// The file, for example wal.redb.quarantined-1
        file: PathBuf,
        /// Include data that may have been delivered already: it may arrive twice, but is appended once
        #[arg(long)]
        may_repeat: bool,
        /// Append the data of another satellite's log: it is delivered in this one's name
        #[arg(long)]
        other_satellite: bool,
    },
    /// Re-encode segments so that they depend on no other
    Recode {
        /// Segments, each as LANE/SEQUENCE (see `wal inspect`)
        #[arg(value_name = "SEGMENT", required_unless_present_any = ["lane", "all"], conflicts_with_all = ["lane", "all"])]
        segments: Vec<String>,
        /// All segments of this lane
        #[arg(long, value_name = "NAME", conflicts_with = "all")]
        lane: Option<String>,
        /// All segments on board
        #[arg(long)]
        all: bool,
        /// The codec: columns, columns_text or zstd_rows
        #[arg(long, default_value = "columns", value_parser = parse_codec)]
        codec: Codec,
    },
}

impl WalCommand {
    /// What to say to somebody who waits: the running agent answers when it is done.
    const fn patience(&self) -> Option<&'static str> {
        match self {
            Self::Verify => Some("reading and checking every segment; this takes as long as the disk needs"),
            Self::Backup { .. } => Some("copying the log; the agent goes on meanwhile"),
            Self::Salvage { .. } => Some("reading the file; requests wait meanwhile"),
            Self::Compact => Some("moving data within the file; requests wait meanwhile"),
            _ => None,
        }
    }
}

fn parse_codec(name: &str) -> Result<Codec, String> {
    Codec::ALL
        .into_iter()
        .find(|c| c.name() == name)
        .ok_or_else(|| "columns, columns_text or zstd_rows".to_owned())
}

/// Why a command has failed.
#[derive(Debug)]
pub enum Failure {
    /// The configuration is wrong: exit code 64.
    Config(String),
    /// The disk has failed for good: exit code 74.
    Store(String),
    /// A task of the agent panicked too often: exit code 70, as EX_SOFTWARE.
    Task(String),
    /// Anything else: exit code 1.
    Other(String),
}

impl Failure {
    /// The exit code and what to say.
    pub fn parts(self) -> (u8, String) {
        match self {
            Self::Config(message) => (64, message),
            Self::Store(message) => (GIVEN_UP, message),
            Self::Task(message) => (supervise::EXIT_CODE, message),
            Self::Other(message) => (1, message),
        }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(e: E) -> Self {
        Self::Other(e.to_string())
    }
}

fn wrong(error: ConfigError) -> Failure {
    match error.is_of_the_disk() {
        true => Failure::Store(error.to_string()),
        false => Failure::Config(error.to_string()),
    }
}

fn load(path: &Path) -> Result<Config, Failure> {
    Config::load(path).map_err(wrong)
}

/// Reads the configuration again at each SIGHUP.
async fn reload((path, rereading, reload, logs): &mut (PathBuf, Rereading, Reload, Logs)) {
    let load = || {
        // What it finds is for another agent: this one keeps its bounds.
        Config::open(path, &Env::production(), Extent::All).map_err(|e| e.to_string())
    };
    loop {
        let (config, changes) = rereading.next(load, Reload::can).await;
        reload.apply(&config, &changes, logs).await;
    }
}

/// Carries out `cli` on the machine `env`; SIGTERM and SIGINT end a running agent.
pub async fn execute(cli: Cli, env: Env) -> Result<(), Failure> {
    match cli.command {
        Command::Run(arg) => {
            let (shutdown, termination) = (CancellationToken::new(), termination()?);
            let config = Config::open(&arg.config, &env, Extent::Start).map_err(wrong)?;
            let logs = perigee_shared::telemetry::init_logs(&config.service.telemetry, &env.alarms);
            supervise::log_panics();
            config.warnings.iter().for_each(|warning| warning.warn(&arg.config));
            let rereading = Rereading::new(&arg.config, config.written.clone())?;
            let found = (!config.names_directory).then(|| config.storage.directory.clone());
            let (agent, receivers) =
                Box::pin(Agent::build(config, env, logs.own.clone())).await.map_err(|e| match e {
                    e if e.is_configuration() => Failure::Config(e.to_string()),
                    e if e.is_of_the_disk() => Failure::Store(e.to_string()),
                    other => Failure::Other(other.to_string()),
                })?;
            if let Some(directory) = found {
                collector::directory::remember(&arg.config, &directory);
            }
            // The agent does not wait for them.
            let signals = agent.tasks().group();
            let manager = Manager::of_this_process();
            manager.attend(&signals, termination, shutdown.clone());
            let reloading = (arg.config, rereading, agent.reload(), logs);
            signals.keep("configuration", reloading, |reloading| Box::pin(reload(reloading)));
            let serve = |intake| {
                manager.tell(Told::Ready);
                receivers.run(intake, shutdown)
            };
            Box::pin(agent.run(serve)).await.map_err(|e| match e {
                agent::AgentError::StoreLost(_) => Failure::Store(e.to_string()),
                agent::AgentError::Task(_) => Failure::Task(e.to_string()),
                other => Failure::Other(other.to_string()),
            })
        }
        Command::Validate { from_collector: Some(file), .. } => print(&from_collector(&file)?),
        Command::Validate { config: arg, .. } => validate(&arg).await,
        Command::Status(arg) => {
            let answer = ask(&load(&arg.config)?, Method::GET, "/status", None).await?;
            print(&if arg.json { pretty(&answer) } else { status_text(&answer) })
        }
        Command::Top(arg) => {
            let config = Arc::new(load(&arg.config)?);
            let status = move || {
                let config = Arc::clone(&config);
                async move {
                    ask(&config, Method::GET, "/status", None).await.map_err(|failure| failure.parts().1)
                }
            };
            perigee_top::run("space-agent", "space-agent status", status, top::view)
                .await
                .map_err(Failure::Other)
        }
        Command::Contact { config: arg, command } => {
            let text = match command {
                ContactCommand::List { .. } => table_text,
                ContactCommand::Report => report_text,
                ContactCommand::Open { .. } | ContactCommand::Close => opened_text,
            };
            let answer = contact(&load(&arg.config)?, command, arg.json).await?;
            print(&if arg.json { pretty(&answer) } else { text(&answer) })
        }
        Command::Wal { config: arg, command } => {
            let text = match command {
                WalCommand::Inspect { .. } => wal_text::inspected,
                WalCommand::Verify => wal_text::verified,
                WalCommand::Compact => wal_text::compacted,
                WalCommand::Release { .. } => wal_text::released,
                WalCommand::Backup { .. } => wal_text::copied,
                WalCommand::Salvage { .. } => wal_text::salvaged,
                WalCommand::Recode { .. } => recode_text,
            };
            if let Some(patience) = command.patience().filter(|_| std::io::stderr().is_terminal()) {
                eprintln!("{patience}");
            }
            let answer = wal(&load(&arg.config)?, command).await?;
            print(&if arg.json { pretty(&answer) } else { text(&answer) })?;
            if let Some(unsalvaged) = wal_text::unsalvaged(&answer) {
                return Err(Failure::Other(unsalvaged));
            }
            match answer["refused"].as_array().map_or(0, Vec::len) {
                0 => Ok(()),
                refused => Err(Failure::Other(format!(
                    "{refused} segments were not re-encoded; the reasons are above"
                ))),
            }
        }
    }
}

/// Says everything that is wrong with the configuration, and what its writer should know.
async fn validate(arg: &ConfigArg) -> Result<(), Failure> {
    let shown = arg.config.display().to_string();
    let said = |errors: &[Problem], warnings: &[Problem], abandoned: &[String]| {
        pretty(&json!({
            "file": shown, "valid": errors.is_empty(), "errors": errors, "warnings": warnings,
            "abandoned_consumers": abandoned,
        }))
    };
    let config = match Config::open(&arg.config, &Env::production(), Extent::All) {
        Ok(config) => config,
        Err(error) => {
            let warnings = error.warnings();
            if arg.json {
                print(&said(&error.problems(), warnings, &[]))?;
                return Err(Failure::Config(format!("{shown} cannot be used; the JSON says why")));
            }
            print(&warnings.iter().map(|w| w.as_warning(&shown)).collect::<String>())?;
            return Err(wrong(error));
        }
    };
    let abandoned = abandoned(&config).await;
    if arg.json {
        return print(&said(&[], &config.warnings, &abandoned));
    }
    let mut text: String = config.warnings.iter().map(|w| w.as_warning(&shown)).collect();
    text.push_str(&format!("{shown}: the configuration is valid\n"));
    abandoned.iter().for_each(|name| text.push_str(&release_hint(name)));
    print(&text)
}

/// A Collector's configuration in Perigee's own form. Variables stay variables.
fn from_collector(path: &Path) -> Result<String, Failure> {
    let shown = path.display().to_string();
    let text = ConfigFile::text(path).map_err(wrong)?;
    let mut file = ConfigFile::plain(&text, &shown).map_err(wrong)?;
    if let Err(invalid) = collector::is_foreign(&file.tree) {
        file.complain(invalid);
        return file.finish(None).map_err(wrong);
    }
    let whole = ConfigFile::parse(&text, &shown, &|name| std::env::var(name).ok()).map_err(wrong)?;
    // Variables may be set where the agent is to run, and not here.
    if whole.unset.is_empty() {
        Config::read(whole).map_err(wrong)?;
    } else if !whole.problems.is_empty() {
        return whole.finish(None).map_err(wrong);
    }
    collector::translate(&mut file, Program::Agent);
    let written = file.written();
    file.finish(Some(written)).map_err(wrong)
}

/// Consumers that the log knows, of a running agent or of the file, and this configuration does not.
async fn abandoned(config: &Config) -> Vec<String> {
    let running = match &config.extensions.control {
        Some(control) => request(&control.socket, Method::GET, "/status", None).await.ok(),
        None => None,
    };
    let known = match running {
        Some(status) => serde_json::from_value(status["consumers"].clone()).unwrap_or_default(),
        // A log that is not there, or that cannot be opened, says nothing here.
        None => agent::open_existing_wal(config, &Env::production())
            .map(|mut w| w.custody().known())
            .unwrap_or_default(),
    };
    let wanted = config.consumers();
    known.into_iter().filter(|name: &String| !wanted.contains_key(name)).collect()
}

fn print(text: &str) -> Result<(), Failure> {
    // A reader that has gone away is no failure.
    drop(std::io::stdout().lock().write_all(text.as_bytes()));
    Ok(())
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// What is said to somebody whose configuration, a Collector's perhaps, has no control socket.
const NO_CONTROL: &str = "extensions.control is missing, and this command asks a running agent over its socket. Add these lines to the \
configuration, and `control` to service.extensions if it has that, then start the agent again:

extensions:
  control: {socket: /run/perigee/agent.sock}
";

async fn ask(config: &Config, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
    let Some(control) = &config.extensions.control else {
        return Err(Failure::Config(NO_CONTROL.into()));
    };
    request(&control.socket, method, path, body).await.map_err(|e| Failure::Other(e.told("space-agent")))
}

/// A time, or how long from now, in ns since the Unix epoch.
fn parse_until(text: &str) -> Result<u64, String> {
    match parse_duration(text) {
        Ok(time) => Ok(Env::production().unix_nano().saturating_add(time.as_nanos() as u64)),
        Err(_) => perigee_shared::contact::parse_time(text),
    }
}

/// Contacts that are asked for at once: the agent holds the text of no more.
const PAGE: usize = 1_000;

/// What is planned, as JSON.
async fn contact_list(config: &Config, until: u64, limit: usize) -> Result<Value, Failure> {
    let page = async |from: String, left: usize| {
        let path = format!("/contact/list?until={until}&limit={}{from}", left.min(PAGE));
        ask(config, Method::GET, &path, None).await
    };
    let mut all = page(String::new(), limit).await?;
    let mut upcoming = all["upcoming"].as_array_mut().map(std::mem::take).unwrap_or_default();
    while all["more"].as_u64().is_some_and(|more| more > 0) && upcoming.len() < limit {
        let start = |pass: &Value| pass["start_unix_nano"].as_u64();
        let Some(last) = upcoming.last().and_then(start) else { break };
        let skip = upcoming.iter().rev().take_while(|pass| start(pass) == Some(last)).count();
        let mut next = page(format!("&from={last}&skip={skip}"), limit - upcoming.len()).await?;
        all["more"] = next["more"].take();
        match next["upcoming"].as_array_mut() {
            Some(passes) if !passes.is_empty() => upcoming.append(passes),
            _ => break,
        }
    }
    all["upcoming"] = upcoming.into();
    Ok(all)
}

async fn contact(config: &Config, command: ContactCommand, json: bool) -> Result<Value, Failure> {
    match command {
        ContactCommand::List { until, limit } => {
            let limit = limit.unwrap_or(if until.is_some() {
                usize::MAX
            } else {
                crate::contacts::Asked::default().limit
            });
            let until = until.unwrap_or(u64::MAX);
            if json {
                return contact_list(config, until, limit).await;
            }
            ask(config, Method::GET, &format!("/contact/table?until={until}&limit={limit}"), None).await
        }
        ContactCommand::Report => ask(config, Method::GET, "/contact/report", None).await,
        ContactCommand::Close => ask(config, Method::POST, "/contact/close", None).await,
        ContactCommand::Open { station, duration, rate_down, rate_up, byte_budget } => {
            let open = OpenContact {
                station,
                seconds: duration.map(|d| d.as_secs_f64()),
                rate_down,
                rate_up,
                byte_budget: byte_budget.map(|b| b.0),
            };
            ask(config, Method::POST, "/contact/open", Some(&serde_json::to_value(open)?)).await
        }
    }
}

/// A running agent may have another working directory.
fn absolute(file: &Path) -> Result<PathBuf, Failure> {
    Ok(std::path::absolute(file)?)
}

/// Asks the running agent; opens the file when none runs.
async fn wal(config: &Config, command: WalCommand) -> Result<Value, Failure> {
    let (method, path, body) = match &command {
        WalCommand::Inspect { most } => (Method::GET, format!("/wal/inspect?most={most}"), None),
        WalCommand::Verify => (Method::POST, "/wal/verify".into(), None),
        WalCommand::Compact => (Method::POST, "/wal/compact".into(), None),
        WalCommand::Backup { file } => (
            Method::POST,
            "/wal/backup".into(),
            Some(serde_json::to_value(Backup { file: absolute(file)? })?),
        ),
        WalCommand::Salvage { file, may_repeat, other_satellite } => {
            let (may_repeat, other_satellite) = (*may_repeat, *other_satellite);
            let asked = Salvage { file: absolute(file)?, may_repeat, other_satellite };
            (Method::POST, "/wal/salvage".into(), Some(serde_json::to_value(asked)?))
        }
        WalCommand::Release { consumer } => (
            Method::POST,
            "/wal/release".into(),
            Some(serde_json::to_value(Release { consumer: consumer.clone() })?),
        ),
        WalCommand::Recode { segments, lane, all, codec } => {
            let (segments, lane) = (segments.clone(), lane.clone());
            let asked = Recode { segments, lane, all: *all, codec: *codec };
            (Method::POST, "/wal/recode".into(), Some(serde_json::to_value(asked)?))
        }
    };
    if let Some(control) = &config.extensions.control {
        match request(&control.socket, method, &path, body.as_ref()).await {
            Err(ControlError::NotRunning { source, .. }) if source.kind() != ErrorKind::PermissionDenied => {}
            Err(error) => return Err(Failure::Other(error.told("space-agent"))),
            Ok(answer) => return Ok(answer),
        }
    }
    let mut wal = match command {
        WalCommand::Salvage { .. } => agent::open_own_wal(config, &Env::production())?,
        _ => agent::open_existing_wal(config, &Env::production())?,
    };
    let answer = match command {
        WalCommand::Inspect { most } => inspect(&mut wal, most)?,
        WalCommand::Verify => {
            let (checked, damaged) = wal.scrub().all()?;
            json!({"segments": checked, "damaged": damaged})
        }
        WalCommand::Compact => {
            let sizes = wal.file().compact(true)?;
            json!({"bytes_before": sizes.map(|s| s.0), "bytes_after": sizes.map(|s| s.1)})
        }
        WalCommand::Backup { file } => {
            wal.file().backup()?.write(&Env::production(), &file)?;
            json!({"file": file})
        }
        WalCommand::Salvage { file, may_repeat, other_satellite } => {
            serde_json::to_value(wal.journal().salvage(&file, Wanted { may_repeat, other_satellite })?)?
        }
        WalCommand::Release { consumer } => {
            if !wal.custody().abandoned().contains(&consumer) {
                return Err(Failure::Other(format!(
                    "no data waits for {consumer}, or it is still in the configuration: remove it there first"
                )));
            }
            json!({"deleted_segments": wal.custody().release(&consumer)?})
        }
        WalCommand::Recode { segments, lane, all, codec } => {
            let lanes =
                config.lanes.lanes().map_err(|e| Failure::Config(format!("{}: {}", e.key, e.message)))?;
            let owner = Owner::new(Placement::Inline, "wal", wal)?;
            let asked = Recode { segments, lane, all, codec };
            let report = recode(&Env::production(), &owner, &lanes, asked, None).await?;
            if let Some(wal) = owner.into_inner() {
                wal.close()?;
            }
            return Ok(serde_json::to_value(report)?);
        }
    };
    wal.close()?;
    Ok(answer)
}

#[cfg(test)]
mod mistakes;
