//! The ground-station program.

use std::process::ExitCode;

use clap::Parser;
use ground_station::commands::{self, Cli};
use perigee_shared::env::Env;

/// It gives pages back once they are free, so that memory in use can be held against its limit.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    // Every dependency uses ring; that one was installed before is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Box::pin(commands::run(cli, Env::production())).await
}
