//! `perigee-man DIRECTORY`: writes the shell completions and man pages of both programs there.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Write the shell completions and man pages of space-agent and ground-station
#[derive(Debug, Parser)]
struct Cli {
    /// The directory to write to
    directory: PathBuf,
}

fn main() -> ExitCode {
    let directory = Cli::parse().directory;
    match perigee_man::write(&directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("perigee-man: {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}
