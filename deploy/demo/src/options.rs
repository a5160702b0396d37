//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use perigee_shared::units::parse_duration;

/// Services on board, space-agent, ground-station and contacts of seconds, on this machine.
#[derive(Debug, Clone, Parser)]
#[command(name = "demo", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    /// End after the story; otherwise passes go on until Ctrl-C, and there is something to look at
    #[arg(long)]
    pub(crate) once: bool,
    /// How long a contact is, after the story
    #[arg(long, value_name = "DURATION", default_value = "6s", value_parser = parse_duration)]
    pub(crate) contact: Duration,
    /// How long it is to the next contact, after the story
    #[arg(long, value_name = "DURATION", default_value = "6s", value_parser = parse_duration)]
    pub(crate) gap: Duration,
    /// User requests a second, in all
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) requests: u32,
    /// Where spans go when it answers (OTLP/gRPC); else a file
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:4317")]
    pub(crate) jaeger: String,
    /// Where data points go when it answers; else a file
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090")]
    pub(crate) prometheus: String,
    /// How long both may take to answer, when they are starting too
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    pub(crate) wait: Duration,
    /// Where the agent's own metrics are; a free port by default
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) agent_metrics: Option<String>,
    /// Where the ground station's own metrics are; a free port by default
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) ground_metrics: Option<String>,
    /// Send traces and metrics to files, whatever answers
    #[arg(long)]
    pub(crate) files: bool,
    /// Where files are put; it must be empty or absent
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Keep the stores and certificates too, not only what was delivered and the programs' logs
    #[arg(long)]
    pub(crate) keep: bool,
    /// How long the end may wait for what is still on board
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub(crate) drain: Duration,
    /// What this process is when it is not the demo itself.
    #[command(subcommand)]
    pub(crate) part: Option<Part>,
}

/// The programs that the demo starts from its own executable.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Part {
    /// space-agent, until standard input ends.
    #[command(hide = true)]
    Agent {
        /// Its configuration.
        config: PathBuf,
    },
    /// ground-station, until standard input ends.
    #[command(hide = true)]
    Ground {
        /// Its configuration.
        config: PathBuf,
    },
}
