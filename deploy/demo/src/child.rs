//! The agent and the ground station as processes of this program.
//!
//! A child has a process group of its own, so that Ctrl-C in a terminal reaches the demo alone, which then lets the child finish.
//! It ends when its standard input does: whatever becomes of the demo, even SIGKILL, no child stays behind.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use http::Method;
use nix::sys::signal::{Signal, raise};
use perigee_shared::control::{ControlError, request};
use perigee_shared::env::Env;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::report::say_error;

/// How long a start may take: opening a store and binding.
const START: Duration = Duration::from_secs(30);
/// How long an end may take: both programs drain for at most 10 s, twice for the agent.
const END: Duration = Duration::from_secs(25);
/// Between two looks at something that is expected soon.
pub(crate) const POLL: Duration = Duration::from_millis(100);

/// A program that runs.
pub(crate) struct Program {
    name: &'static str,
    child: Child,
    log: PathBuf,
    socket: PathBuf,
}

impl Program {
    /// Starts this executable as `name` with the configuration `NAME.yaml` in `dir`, and waits until it answers on its control socket.
    pub(crate) async fn start(name: &'static str, dir: &Path) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(std::env::current_exe()?)
            .arg(name)
            .arg(dir.join(format!("{name}.yaml")))
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let mut program = Self { name, child, log, socket: dir.join(format!("{name}.sock")) };
        let health = if name == "agent" { "/status" } else { "/api/v1/spool" };
        let deadline = Instant::now() + START;
        loop {
            program.still_runs()?;
            match program.ask(Method::GET, health, None).await {
                Ok(_) => return Ok(program),
                Err(error) if Instant::now() > deadline => {
                    return Err(error).with_context(|| format!("{name} does not answer"));
                }
                Err(_) => sleep(POLL).await,
            }
        }
    }

    /// An error with the end of its log when the program has ended.
    pub(crate) fn still_runs(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(5)..].join("\n  ");
        bail!("{} has ended ({status}); its log, {}, ends with:\n  {tail}", self.name, self.log.display())
    }

    /// Asks it over its control socket.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ControlError> {
        request(&self.socket, method, path, body).await
    }

    /// Lets it finish; whether it ended well and in time.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        match timeout(END, self.child.wait()).await {
            Ok(status) => {
                let status = status?;
                if !status.success() {
                    bail!("{} ended with {status}; see {}", self.name, self.log.display());
                }
                Ok(())
            }
            Err(_) => {
                self.child.kill().await?;
                bail!("{} did not end in {END:?} and was killed; see {}", self.name, self.log.display())
            }
        }
    }
}

/// Ends this process as SIGTERM does once standard input has ended.
fn end_with_standard_input() {
    std::thread::spawn(|| {
        let mut byte = [0];
        while !matches!(std::io::stdin().read(&mut byte), Ok(0) | Err(_)) {}
        // Raising a signal in this process does not fail.
        let _ = raise(Signal::SIGTERM);
    });
}

/// This process as space-agent.
pub(crate) async fn agent(config: PathBuf) -> ExitCode {
    use space_agent::cli::{Cli, execute};
    end_with_standard_input();
    let cli =
        Cli::parse_from(["space-agent".into(), "run".into(), "--config".into(), config.into_os_string()]);
    match Box::pin(execute(cli, Env::production())).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (_, message) = failure.parts();
            say_error(&format!("space-agent: {message}\n"));
            ExitCode::FAILURE
        }
    }
}

/// This process as ground-station.
pub(crate) async fn ground(config: PathBuf) -> ExitCode {
    use ground_station::commands::{Cli, run};
    // That one was installed before is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    end_with_standard_input();
    let cli =
        Cli::parse_from(["ground-station".into(), "run".into(), "--config".into(), config.into_os_string()]);
    Box::pin(run(cli, Env::production())).await
}
