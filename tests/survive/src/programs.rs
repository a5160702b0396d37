//! Both programs within another one: a binary that is started under their name is them.
//!
//! So the bench runs the code that it was built with, whatever lies beside it.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use e2e::Programs;
use perigee_shared::env::{Clock, Env, SinceBoot};

const AGENT: &str = "space-agent";
const GROUND: &str = "ground-station";

/// In the environment of a program: how many seconds its wall clock is ahead of this machine's.
pub(crate) const AHEAD: &str = "SURVIVE_CLOCK_AHEAD";

/// A wall clock that is wrong by so many seconds.
struct Wrong(Arc<dyn Clock>, i64);

impl Clock for Wrong {
    fn unix_nano(&self) -> u64 {
        self.0.unix_nano().saturating_add_signed(self.1 * Duration::from_secs(1).as_nanos() as i64)
    }

    fn since_boot(&self) -> SinceBoot {
        self.0.since_boot()
    }
}

/// This machine, with another wall clock if [`AHEAD`] says so.
fn machine() -> Env {
    let mut env = Env::production();
    if let Some(ahead) = std::env::var(AHEAD).ok().and_then(|ahead| ahead.parse().ok()) {
        env.clock = Arc::new(Wrong(env.clock, ahead));
    }
    env
}

/// `space-agent`, with the arguments of this process.
pub fn agent() -> ExitCode {
    let cli = space_agent::cli::Cli::parse();
    let (code, message) = match block_on(space_agent::cli::execute(cli, machine())) {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(failure)) => failure.parts(),
        Err(error) => (1, error.to_string()),
    };
    drop(writeln!(std::io::stderr(), "{AGENT}: {message}"));
    ExitCode::from(code)
}

/// `ground-station`, with the arguments of this process.
pub fn ground() -> ExitCode {
    // Every dependency uses ring; that one was installed before is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = ground_station::commands::Cli::parse();
    block_on(ground_station::commands::run(cli, machine())).unwrap_or(ExitCode::FAILURE)
}

fn block_on<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    Ok(runtime.block_on(Box::pin(work)))
}

/// Runs one of the programs if this process was started under its name.
pub fn run_by_name() -> Option<ExitCode> {
    let name = std::env::args_os().next()?;
    match Path::new(&name).file_name()?.to_str()? {
        AGENT => Some(agent()),
        GROUND => Some(ground()),
        _ => None,
    }
}

/// Links to this binary under the programs' names, in `directory`, which must outlive their use.
pub fn links(directory: &Path) -> anyhow::Result<Programs> {
    let this = std::env::current_exe()?;
    let link = |name: &str| -> anyhow::Result<&'static str> {
        let path = directory.join(name);
        std::os::unix::fs::symlink(&this, &path)?;
        // A few bytes once in a process.
        Ok(Box::leak(path.display().to_string().into_boxed_str()))
    };
    Ok(Programs { agent: link(AGENT)?, ground: link(GROUND)? })
}
