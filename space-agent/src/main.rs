//! The program `space-agent`.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use space_agent::cli::{Cli, Failure, execute};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Gives freed memory back to the system, which glibc's does not: the memory limiter would go on refusing.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Requests are light and the log has a thread of its own: more workers would only hand tasks to each other.
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get().min(2));
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return fail(1, &format!("cannot start: {error}")),
        };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Config(message)) => fail(64, &message),
        Err(Failure::Other(message)) => fail(1, &message),
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let shutdown = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            biased;
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        token.cancel();
    });
    Box::pin(execute(cli, shutdown)).await
}

fn fail(code: u8, message: &str) -> ExitCode {
    // Nothing can be said when stderr is gone.
    drop(writeln!(std::io::stderr(), "space-agent: {message}"));
    ExitCode::from(code)
}
