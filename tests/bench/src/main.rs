//! Benchmarks: `cargo run --release -p bench -- ingest | memory | opening | wear | bytes | link | thin | fleet | survive | hostile | console`.
//!
//! `ingest`, `memory`, `opening` and `wear` start space-agent (and, to compare, an OpenTelemetry Collector) as a child process on one core and send
//! from another; `fleet` compares the ground's stores, of which it starts PostgreSQL itself; `survive` breaks disks and files under both stores and both programs; `bytes` compares codecs in this process, and
//! `link` simulates contacts, the same on every machine. Results go to stdout as a table or as JSON, everything else to stderr.

mod affinity;
mod bytes_per_item;
mod client;
mod console;
mod corpus;
mod cpu;
mod fleet;
mod hostile;
mod hostile_ground;
mod hostile_memory;
mod hostile_station;
mod ingest;
mod link;
mod load;
mod memory;
mod opening;
mod peak;
mod process;
mod recut;
mod report;
mod sample;
mod scrape;
mod sink;
mod stream;
mod survive;
mod system;
mod text;
mod thin;
mod wear;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use perigee_shared::units::{ByteSize, parse_duration};

/// Benchmarks of Perigee.
#[derive(Parser)]
#[command(name = "bench", version)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
    /// Print {"bench": NAME, "rows": [...]} instead of a table
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Bench {
    /// How much telemetry is made durable, at what cost in CPU, memory and disk
    Ingest(ingest::Options),
    /// Resident memory: idle, at a steady rate, and when offered far too much
    Memory(memory::Options),
    /// How long a start takes after kill -9 with much on board, and a plain read of the same file
    Opening(opening::Options),
    /// What a trickle of telemetry makes a disk write out of contact, and how often the processor wakes
    Wear(wear::Options),
    /// Goodput of simulated contacts, and what is sent again
    Link(link::Options),
    /// Bytes per item of segments, alone and leaning on earlier ones, against gzip, zstd and rows; speed and memory
    Bytes(bytes_per_item::Options),
    /// What a satellite or a station that was taken over costs the other side, and the honest one beside it
    Hostile(hostile::Options),
    /// What a link of some kbit/s brings, pass by pass: real processes and an emulated link
    Thin(thin::Options),
    /// What the console's pages and viewers cost with many satellites and passes in the store
    Console(console::Options),
    /// What the ledger commits and exports a second: a file of one station, PostgreSQL alone, and with standbys
    Fleet(fleet::Options),
    /// What both stores survive: faults of disks, files and processes, judged by one checker
    Survive(survive::Options),
    /// What encoding the segment on stdin holds in memory; `bytes` runs it as a process of its own
    #[command(hide = true)]
    Peak { codec: u32 },
}

/// What every bench with a child process takes.
#[derive(Args, Debug, Clone)]
struct Setup {
    /// The agent [default: space-agent beside this program]
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    /// The core of the agent
    #[arg(long, default_value_t = 0, value_name = "N")]
    agent_core: usize,
    /// The core of the senders
    #[arg(long, default_value_t = 1, value_name = "N")]
    sender_core: usize,
    /// Where databases go while they are measured: a directory on a real disk [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A directory of corpus files, of which payload-traces is sent [default: ../shared/corpus, else generated spans]
    #[arg(long, value_name = "DIR")]
    corpus: Option<PathBuf>,
    /// Senders, each with a connection of its own and one request outstanding
    #[arg(long, default_value_t = 16)]
    senders: usize,
    /// How long each measurement takes
    #[arg(long, default_value = "15s", value_parser = parse_duration)]
    time: Duration,
    /// The agent's storage.commit_interval
    #[arg(long, default_value = "0ms", value_parser = parse_duration)]
    commit_interval: Duration,
    /// The agent's storage.max_bytes
    #[arg(long, default_value = "64GiB")]
    max_bytes: ByteSize,
}

/// That of both programs, which this is too (`survive::programs`): memory is measured of them.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> anyhow::Result<ExitCode> {
    if let Some(code) = ::survive::programs::run_by_name() {
        return Ok(code);
    }
    let arguments = Arguments::parse();
    let mut good = true;
    let (name, rows) = match &arguments.bench {
        Bench::Ingest(options) => ("ingest", on_core(&options.setup, ingest::run(options))?),
        Bench::Memory(options) => ("memory", on_core(&options.setup, memory::run(options))?),
        Bench::Opening(options) => ("opening", on_core(&options.setup, opening::run(options))?),
        Bench::Wear(options) => ("wear", on_core(&options.setup, wear::run(options))?),
        Bench::Bytes(options) => ("bytes", bytes_per_item::run(options)?),
        Bench::Link(options) => ("link", link::run(options)?),
        Bench::Hostile(options) => ("hostile", hostile::run(options)?),
        Bench::Thin(options) => ("thin", thin::run(options)?),
        Bench::Console(options) => ("console", console::run(options)?),
        Bench::Fleet(options) => {
            let (rows, exports) = fleet::run(options)?;
            if !arguments.json {
                report::print("fleet", &rows, false)?;
                report::print("fleet", &exports, false)?;
                return Ok(ExitCode::SUCCESS);
            }
            ("fleet", rows.into_iter().chain(exports).collect())
        }
        Bench::Survive(options) => {
            let (rows, all_good) = survive::run(options)?;
            good = all_good;
            ("survive", rows)
        }
        Bench::Peak { codec } => return peak::run(*codec).map(|()| ExitCode::SUCCESS),
    };
    report::print(name, &rows, arguments.json)?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs `bench` on the senders' core.
fn on_core<T>(setup: &Setup, bench: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    affinity::pin_this_thread(setup.sender_core);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(bench)
}
