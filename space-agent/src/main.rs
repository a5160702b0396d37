//! The program `space-agent`.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use perigee_shared::env::Env;
use space_agent::cli::{Cli, Failure, execute};

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
    match runtime.block_on(Box::pin(execute(cli, Env::production()))).map_err(Failure::parts) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, message)) => fail(code, &message),
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    // Nothing can be said when stderr is gone.
    drop(writeln!(std::io::stderr(), "space-agent: {message}"));
    ExitCode::from(code)
}
