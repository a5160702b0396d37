//! Both programs within another one: a binary that is started under their name is them.
//!
//! So the bench runs the code that it was built with, whatever lies beside it.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use e2e::Programs;
use perigee_shared::env::Env;

const AGENT: &str = "space-agent";
const GROUND: &str = "ground-station";

/// `space-agent`, with the arguments of this process.
pub fn agent() -> ExitCode {
    let cli = space_agent::cli::Cli::parse();
    let (code, message) = match block_on(space_agent::cli::execute(cli, Env::production())) {
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
    block_on(ground_station::commands::run(cli, Env::production())).unwrap_or(ExitCode::FAILURE)
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
