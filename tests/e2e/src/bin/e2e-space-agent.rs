//! `space-agent` as a binary of this crate, so that its tests find it whatever else was built.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use space_agent::cli::{Cli, Failure, execute};

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let (code, message) = match Box::pin(execute(cli)).await {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Config(message)) => (64, message),
        Err(Failure::Store(message)) => (74, message),
        Err(Failure::Other(message)) => (1, message),
    };
    drop(writeln!(std::io::stderr(), "space-agent: {message}"));
    ExitCode::from(code)
}
