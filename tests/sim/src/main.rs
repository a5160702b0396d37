//! `sim FILE`: simulates the scenario in FILE and prints a report.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use perigee_shared::telemetry::{Alarms, Level, LogsConfig, TelemetryConfig, init_logs};
use sim::{Options, Scenario, picture, run};

/// Simulates agents and grounds: weeks of passes in seconds. Ends with 1 when anything is lost or there twice.
#[derive(Parser)]
#[command(name = "sim", version)]
struct Arguments {
    /// The scenario (YAML; see tests/sim/scenarios)
    file: PathBuf,
    /// The seed, instead of the scenario's
    #[arg(long)]
    seed: Option<u64>,
    /// Draws goodput, backlog and delivery delay over time to this SVG file
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Shows when the first payload byte of each contact came to the ground, from AOS on
    #[arg(long)]
    first_bytes: bool,
    /// Writes every packet to this file as CSV
    #[arg(long, value_name = "FILE")]
    packets: Option<PathBuf>,
}

/// Millions of items a second come and go; the system's allocator would be a seventh of the time.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// As for wrong configurations of the programs.
const WRONG_SCENARIO: u8 = 64;

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut scenario = match Scenario::load(&arguments.file) {
        Ok(scenario) => scenario,
        Err(error) => {
            writeln!(std::io::stderr(), "sim: {error}")?;
            return Ok(ExitCode::from(WRONG_SCENARIO));
        }
    };
    // What the programs complain of, to stderr; RUST_LOG shows more.
    let logs = LogsConfig { level: Level::Error, ..LogsConfig::default() };
    init_logs(&TelemetryConfig { logs, ..TelemetryConfig::default() }, &Alarms::default());
    scenario.seed = arguments.seed.unwrap_or(scenario.seed);
    let options = Options { keep_packets: arguments.packets.is_some(), first_bytes: arguments.first_bytes };
    let report = run(scenario, options)?;
    if let Some(path) = &arguments.picture {
        picture::draw(path, &arguments.file.display().to_string(), &report.samples)?;
    }
    if let Some(path) = &arguments.packets {
        let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
        writeln!(out, "sent_ns,satellite,station,way,bytes,fate")?;
        for p in &report.kept {
            let sent = p.sent.as_nanos();
            writeln!(out, "{sent},{},{},{:?},{},{}", p.satellite, p.station, p.way, p.bytes, p.fate.name())?;
        }
        out.flush()?;
    }
    write!(std::io::stdout(), "{report}")?;
    Ok(if report.is_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
