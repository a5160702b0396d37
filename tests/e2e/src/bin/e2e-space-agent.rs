//! `space-agent` as a binary of this crate, so that its tests find it whatever else was built.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use space_agent::cli::{Cli, Failure, execute};

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let (code, message) = match Box::pin(execute(cli, e2e::planting())).await.map_err(Failure::parts) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(failed) => failed,
    };
    drop(writeln!(std::io::stderr(), "space-agent: {message}"));
    ExitCode::from(code)
}
