//! What both stores survive: a row for each fault on each store.
//!
//! Rows are run in rounds, so that a run that is cut short by `--minutes` has seen each fault.

use std::time::Duration;

use ::survive::campaign::is_meant;
use ::survive::{Campaign, Side, check, faults, process, programs};
use clap::Args;
use tokio::time::Instant;

use crate::report::Row;

/// Seeds of a row in one round: those of a disk in memory take seconds, where one run with real processes takes half a minute.
const ROUND: u64 = 500;
/// A run with real processes stands for so many with a disk in memory.
const REAL: u64 = 200;
/// Runs with real processes in a row, at most.
const MOST_REAL: u64 = 10;

/// See the module.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Crash and power-loss seeds for each store; other faults get a share of it (the long mode: 2000 and more)
    #[arg(long, default_value_t = 40, value_name = "N")]
    seeds: u64,
    /// Only this row
    #[arg(long, value_name = "FAULT[/STORE]")]
    only: Option<String>,
    /// Only this seed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Begin no round after so many minutes
    #[arg(long, value_name = "M")]
    minutes: Option<u64>,
    /// Write the histories of broken runs into this directory
    #[arg(long, value_name = "DIR")]
    histories: Option<std::path::PathBuf>,
}

enum What {
    Memory(faults::Kind),
    Real(process::Fault),
}

struct Job {
    what: What,
    side: Side,
    row: ::survive::Row,
    /// Seeds that are still to be run.
    seeds: std::ops::Range<u64>,
}

/// Runs all of it. The rows, and whether every one is good.
pub(crate) fn run(options: &Options) -> anyhow::Result<(Vec<Row>, bool)> {
    let began = Instant::now();
    let directory = tempfile::tempdir()?;
    let programs = programs::links(directory.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut campaign = Campaign::new()?;
    let mut jobs = jobs(options);
    let deadline = options.minutes.map(|m| began + Duration::from_secs(60 * m));
    while jobs.iter().any(|job| !job.seeds.is_empty()) {
        for job in &mut jobs {
            if deadline.is_some_and(|end| Instant::now() >= end) {
                job.seeds = 0..0;
            }
            let round = if matches!(job.what, What::Real(_)) { 1 } else { ROUND };
            for seed in job.seeds.by_ref().take(round as usize) {
                let history = match job.what {
                    What::Memory(kind) => campaign.fly(&job.row.fault, kind, job.side, seed),
                    What::Real(fault) => {
                        let run = process::run(programs, &job.row.fault, fault, job.side, seed);
                        match runtime.block_on(run) {
                            Ok(history) => history,
                            Err(error) => {
                                job.row.failed(seed, &format!("{error:#}"));
                                continue;
                            }
                        }
                    }
                };
                let verdict = check(&history);
                job.row.add(seed, &verdict);
                if !verdict.is_good() {
                    eprintln!("{} on the {}, seed {seed}: {verdict:?}", job.row.fault, job.row.store);
                    eprintln!("    {}", job.row.repeat(seed));
                    if let Some(directory) = &options.histories {
                        std::fs::create_dir_all(directory)?;
                        let name = format!("{}-{}-{seed}.jsonl", job.row.fault, job.row.store);
                        let file = std::fs::File::create(directory.join(name))?;
                        history.write(std::io::BufWriter::new(file))?;
                    }
                }
            }
        }
    }
    let good = !jobs.is_empty() && jobs.iter().all(|job| job.row.is_good());
    Ok((jobs.into_iter().map(|job| shown(&job.row)).collect(), good))
}

fn jobs(options: &Options) -> Vec<Job> {
    let memory = faults::ALL.into_iter().map(|(name, kind)| (name, What::Memory(kind), kind.share()));
    let real = process::all().map(|(name, fault)| (name, What::Real(fault), 0));
    let mut jobs = Vec::new();
    for (name, what, share) in memory.chain(real) {
        for side in [Side::Agent, Side::Ground] {
            if !is_meant(options.only.as_deref(), name, side) {
                continue;
            }
            let what = match &what {
                What::Memory(kind) => What::Memory(*kind),
                What::Real(fault) => What::Real(*fault),
            };
            let count = match what {
                What::Memory(_) => (options.seeds * share / 100).max(1),
                What::Real(_) => (options.seeds / REAL).clamp(1, MOST_REAL),
            };
            if matches!(what, What::Real(fault) if !fault.meets(side)) {
                continue;
            }
            let mut row = ::survive::Row::new(name, side);
            let mut seeds = options.seed.map_or(0..count, |seed| seed..seed + 1);
            if let What::Real(fault) = &what
                && let Some(why) = fault.is_impossible()
            {
                eprintln!("{name} on the {} is skipped: {why}", side.name());
                row.skipped = Some(why);
                seeds = 0..0;
            }
            jobs.push(Job { what, side, row, seeds });
        }
    }
    jobs
}

fn shown(row: &::survive::Row) -> Row {
    let seeds: Vec<String> = row.bad_seeds.iter().map(ToString::to_string).collect();
    Row::default()
        .with("fault", row.fault.as_str())
        .with("store", row.store)
        .with("runs", row.runs)
        .with("fired", row.fired)
        .with("acknowledged", row.acknowledged)
        .with("lost", row.lost)
        .with("altered", row.altered)
        .with("twice", row.twice)
        .with("uncounted", row.uncounted)
        .with("refused_delivered", row.refused_delivered)
        .with("stuck", row.stuck)
        .with("crash_loops", row.crash_loops)
        .with("panics", row.panics)
        .with("recovery_ms_max", row.recovery_ms_max)
        .with("false_alarms", row.false_alarms)
        .with("refused_then_cut", row.refused_then_cut)
        .with("given_up", row.given_up)
        .with("void", row.void)
        .with("note", row.skipped.as_ref().map_or_else(|| seeds.join(","), |why| format!("skipped: {why}")))
}
