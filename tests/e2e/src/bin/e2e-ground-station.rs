//! `ground-station` as a binary of this crate, so that its tests find it whatever else was built.

use std::process::ExitCode;

use clap::Parser;
use ground_station::commands::{self, Cli};

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    // Every dependency uses ring; that one was installed before is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Box::pin(commands::run(cli, e2e::planting())).await
}
