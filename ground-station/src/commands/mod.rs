//! The command line.

mod catalogue;
mod migrate;
mod pki;
mod replay;
mod satellites;
mod spool;
mod top;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use perigee_shared::config::reload::Rereading;
use perigee_shared::config::{ConfigError, Problem};
use perigee_shared::env::Env;
use perigee_shared::serve::termination;
use perigee_shared::service::{Manager, Told};
use perigee_shared::store::GIVEN_UP;
use perigee_shared::supervise;
use perigee_shared::telemetry::{LOG_LEVEL, Logs, init_logs};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::ground::{Ended, Ground, Part, StartError};
use crate::link::Reload;
use crate::spool::SpoolError;

/// The exit code of a wrong configuration: `EX_USAGE` of sysexits.h.
const WRONG_CONFIGURATION: u8 = 64;

/// Takes segments from satellites over QUIC, commits them and re-exports OTLP.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Receive and export until SIGTERM or SIGINT.
    Run(Work),
    /// Check the configuration and the files that it names; exit code 64 when something is wrong.
    Validate(ConfigFile),
    /// Create authorities and certificates, and revoke them.
    #[command(subcommand)]
    Pki(pki::Command),
    /// Show how each satellite stands: link, next contact, what waits on board, last pass.
    Satellites(spool::Query),
    /// Show satellites, spool and exporters as a screen that follows them, with rates and countdowns.
    Top(ConfigFile),
    /// Send what was committed in a range of time to one exporter again.
    Replay {
        #[command(flatten)]
        query: spool::Query,
        #[command(flatten)]
        what: replay::What,
    },
    /// Inspect the spool, verify, copy or migrate it, and send dead letters again.
    #[command(subcommand)]
    Spool(spool::Command),
}

/// What to run.
#[derive(Debug, Args)]
struct Work {
    #[command(flatten)]
    file: ConfigFile,
    /// Do only these parts of the work; other processes that share the ledger do the rest.
    #[arg(long, value_name = "PARTS", value_delimiter = ',', default_values_t = Part::ALL, value_enum)]
    role: Vec<Part>,
}

/// Where the configuration is.
#[derive(Debug, Args)]
pub(crate) struct ConfigFile {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/perigee/ground.yaml")]
    pub(crate) config: PathBuf,
}

/// Does what the command line says on the machine `env`; errors are on stderr.
pub async fn run(cli: Cli, env: Env) -> ExitCode {
    let result = match cli.command {
        Command::Run(what) => Box::pin(work(what, &env)).await,
        Command::Validate(file) => validate(file),
        Command::Pki(command) => pki::run(command),
        Command::Satellites(query) => Box::pin(satellites::run(query)).await,
        Command::Top(file) => top::run(file).await,
        Command::Replay { query, what } => Box::pin(replay::run(query, what)).await,
        Command::Spool(command) => Box::pin(spool::run(command)).await,
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ground-station: {}", said(&error));
            let unread = error.downcast_ref().is_some_and(ConfigError::is_of_the_disk);
            let wrong = !unread && error.is::<ConfigError>()
                || error.downcast_ref().is_some_and(StartError::is_configuration);
            let failed = |e: &StartError| match e {
                StartError::Spool(SpoolError::Store(store)) => store.is_of_the_disk(),
                StartError::Spool(spool) => spool.is_retryable(),
                _ => false,
            };
            let ended = error.downcast_ref();
            let disk = unread
                || matches!(ended, Some(Ended::SpoolGone(_)))
                || error.downcast_ref().is_some_and(failed);
            ExitCode::from(if wrong {
                WRONG_CONFIGURATION
            } else if disk {
                GIVEN_UP
            } else if matches!(ended, Some(Ended::Task(_))) {
                supervise::EXIT_CODE
            } else {
                1
            })
        }
    }
}

/// An error and its causes, each once: some errors' own words have those of their cause.
fn said(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut text, cause| {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            let colon = if text.is_empty() { "" } else { ": " };
            text.push_str(&format!("{colon}{cause}"));
        }
        text
    })
}

async fn work(Work { file, role }: Work, env: &Env) -> anyhow::Result<ExitCode> {
    let config = Config::open(&file.config, env, &role)?;
    let logs = init_logs(&config.service.telemetry, &env.alarms);
    supervise::log_panics();
    config.warnings.iter().for_each(|warning| warning.warn(&file.config));
    let rereading =
        Rereading::new(&file.config, config.written.clone()).context("cannot listen for SIGHUP")?;
    let ground = Ground::build_parts(config, env, &role, logs.own.clone()).await?;
    let shutdown = CancellationToken::new();
    let termination = termination().context("cannot listen for SIGTERM and SIGINT")?;
    // The ground-station does not wait for them.
    let signals = ground.store().tasks().group();
    let manager = Manager::of_this_process();
    manager.attend(&signals, termination, shutdown.clone());
    let reloading = (file.config, rereading, ground.reload(), logs);
    signals.keep("configuration", reloading, |reloading| Box::pin(reload(reloading)));
    // All listeners are bound.
    manager.tell(Told::Ready);
    Box::pin(ground.run(shutdown)).await?;
    Ok(ExitCode::SUCCESS)
}

/// Reads the configuration again at each SIGHUP.
async fn reload((path, rereading, link, logs): &mut (PathBuf, Rereading, Option<Reload>, Logs)) {
    // What a satellite may keep in the spool is the spool's.
    let of_spool = |key: &str| key.ends_with(".max_spool_bytes") || key.ends_with(".ledger_room");
    let can = |key: &str| key == LOG_LEVEL || key.starts_with("link.satellites") && !of_spool(key);
    loop {
        let (config, _) = rereading.next(|| Config::load(path).map_err(|e| e.to_string()), can).await;
        logs.set_level(config.service.telemetry.logs.level);
        if let Some(link) = &link {
            link.apply(&config.link.satellites);
        }
    }
}

fn validate(file: ConfigFile) -> anyhow::Result<ExitCode> {
    let shown = file.config.display().to_string();
    let warn = |warnings: &[Problem]| warnings.iter().for_each(|w| say(&w.as_warning(&shown)));
    let config = Config::open(&file.config, &Env::production(), &Part::ALL)
        .inspect_err(|error| warn(error.warnings()))?;
    warn(&config.warnings);
    say(&format!("{shown}: the configuration is valid\n"));
    Ok(ExitCode::SUCCESS)
}

/// Writes to standard output; a reader that is gone is no error.
fn say(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn say_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    say(&format!("{}\n", serde_json::to_string_pretty(value)?));
    Ok(())
}
