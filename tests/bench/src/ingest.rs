//! `bench ingest`: how much is made durable, at what cost.
//!
//! `burst`: as fast as it is answered with sealing put off; CPU is that of the burst, bytes on disk are counted until the
//! backlog is sealed. `sustained`: the highest rate at which sealing keeps up, with its CPU.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use perigee_shared::units::ByteSize;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::Setup;
use crate::client::Transport;
use crate::corpus::Corpus;
use crate::load::{Load, Tally, drive};
use crate::process::Usage;
use crate::report::Row;
use crate::system::{AgentSettings, Running, start_agent, start_collector};

/// Sealing put off for longer than any burst.
const PUT_OFF: ByteSize = ByteSize(64 << 30);

/// After the start, until idle memory is looked at.
const SETTLE: Duration = Duration::from_secs(1);

const SAMPLE: Duration = Duration::from_millis(250);

/// `bench ingest`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) setup: Setup,
    /// How OTLP is carried
    #[arg(long, value_delimiter = ',', default_value = "grpc,http")]
    transport: Vec<Transport>,
    /// Items in a request
    #[arg(long, value_delimiter = ',', default_value = "10,1000")]
    items: Vec<usize>,
    /// What is measured
    #[arg(long, value_delimiter = ',', default_value = "burst,sustained")]
    mode: Vec<Mode>,
    /// An OpenTelemetry Collector to measure in the same way (burst only)
    #[arg(long, value_name = "PATH")]
    collector: Option<PathBuf>,
    /// Its configuration, which reads `OTLP_GRPC`, `OTLP_HTTP`, `EXPORT_TO` and `QUEUE_DIR` from the environment [default:
    /// ../collector/collector.yaml from its directory, as tests/backends.sh builds it]
    #[arg(long, value_name = "PATH")]
    collector_config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Burst,
    Sustained,
}

/// A row for each transport, number of items, system and mode.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let setup = &options.setup;
    let corpus = Corpus::spans(setup.corpus.as_deref())?;
    let mut rows = Vec::new();
    for items in &options.items {
        let requests = corpus.recut(*items)?;
        for transport in &options.transport {
            let load = Load::new(*transport, corpus.signal, *items, &requests);
            if options.mode.contains(&Mode::Burst) {
                let settings = AgentSettings { defer_sealing: Some(PUT_OFF), ..AgentSettings::default() };
                let running = start_agent(setup, settings).await?;
                rows.push(measure(setup, running, &load, None, setup.time).await?.row("perigee", "burst"));
                if let Some(program) = &options.collector {
                    let running = start_collector(setup, program, &options.collector_config(program)).await?;
                    rows.push(
                        measure(setup, running, &load, None, setup.time).await?.row("collector", "burst"),
                    );
                }
            }
            if options.mode.contains(&Mode::Sustained) {
                rows.push(sustained(setup, &load).await?.row("perigee", "sustained"));
            }
        }
    }
    Ok(rows)
}

impl Options {
    fn collector_config(&self, program: &std::path::Path) -> PathBuf {
        self.collector_config
            .clone()
            .unwrap_or_else(|| program.with_file_name("..").join("collector").join("collector.yaml"))
    }
}

/// Raises and lowers the offered rate until it is the highest at which sealing keeps up.
async fn sustained(setup: &Setup, load: &Load) -> anyhow::Result<Measured> {
    const STEPS: usize = 5;
    const STEP_BACK: f64 = 0.96;
    let settings = AgentSettings { defer_sealing: Some(ByteSize(0)), ..AgentSettings::default() };
    let trial = async |rate: Option<f64>, time: Duration| {
        let measured = measure(setup, start_agent(setup, settings).await?, load, rate, time).await?;
        eprintln!(
            "bench: sustained {} items/s: sealing {}",
            (measured.items_per_s()) as u64,
            if measured.keeps_up(rate) { "keeps up" } else { "falls behind" }
        );
        anyhow::Ok(measured)
    };
    let unpaced = trial(None, setup.time).await?;
    if unpaced.keeps_up(None) {
        return Ok(unpaced);
    }
    let (mut low, mut high) = (0.0, unpaced.tally.rate());
    for _ in 0..STEPS {
        let rate = f64::midpoint(low, high);
        let keeps_up = trial(Some(rate), setup.time.mul_f64(0.6)).await?.keeps_up(Some(rate));
        (low, high) = if keeps_up { (rate, high) } else { (low, rate) };
    }
    let mut rate = if low > 0.0 { low } else { high / 2.0 };
    loop {
        let measured = trial(Some(rate), setup.time).await?;
        if measured.keeps_up(Some(rate)) {
            return Ok(measured);
        }
        rate *= STEP_BACK;
    }
}

/// A measurement that is over.
pub(crate) struct Measured {
    load: Load,
    pub(crate) tally: Tally,
    idle: Usage,
    before: Usage,
    after: Usage,
    sealed: Usage,
    /// Resident bytes over the run.
    pub(crate) resident: Vec<u64>,
    /// Bytes that were not sealed yet, over the run.
    backlog: Vec<u64>,
}

/// Drives `load` into `running`, which has just been started, and ends it.
pub(crate) async fn measure(
    setup: &Setup,
    mut running: Running,
    load: &Load,
    rate: Option<f64>,
    time: Duration,
) -> anyhow::Result<Measured> {
    sleep(SETTLE).await;
    let idle = running.process.usage()?;
    let endpoint = running.endpoint(load.transport);
    let before = running.process.usage()?;
    let (mut resident, mut backlog) = (Vec::new(), Vec::new());
    let drive = drive(load, endpoint, setup.senders, rate, time);
    let watch = async {
        let mut ticks = interval(SAMPLE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            running.check()?;
            resident.push(running.process.usage()?.rss);
            if running.has_backlog() {
                backlog.push(running.unsealed().await?);
            }
        }
    };
    let tally: anyhow::Result<Tally> = tokio::select! {
        biased;
        tally = drive => tally,
        ended = watch => ended,
    };
    let tally = tally?;
    let after = running.process.usage()?;
    running.wait_sealed().await?;
    let sealed = running.process.usage()?;
    if running.has_backlog() {
        let counted = running.metric("otelcol_receiver_accepted_spans_total").await? as u64;
        let answered = tally.accepted * load.items as u64;
        // Those in whose answer the time ended are counted there and not here.
        if counted < answered {
            eprintln!("bench: the agent has answered {answered} items with success and counts {counted}");
        }
    }
    running.stop().await?;
    Ok(Measured { load: load.clone(), tally, idle, before, after, sealed, resident, backlog })
}

impl Measured {
    pub(crate) fn items_per_s(&self) -> f64 {
        self.tally.rate() * self.load.items as f64
    }

    /// CPU seconds for a million accepted items, from the first request to the last answer.
    pub(crate) fn cpu_s_per_million(&self) -> f64 {
        let items = (self.tally.accepted * self.load.items as u64) as f64;
        (self.after.cpu_s - self.before.cpu_s) / items.max(1.0) * 1e6
    }

    /// Resident bytes, on average over the second half of the run.
    pub(crate) fn resident_mean(&self) -> f64 {
        let half = &self.resident[self.resident.len() / 2..];
        half.iter().sum::<u64>() as f64 / half.len().max(1) as f64
    }

    /// The most that was resident.
    pub(crate) const fn peak(&self) -> u64 {
        self.sealed.peak
    }

    pub(crate) const fn idle(&self) -> u64 {
        self.idle.rss
    }

    /// Whether the offered rate was taken and the backlog did not grow: its peaks in the second half of the run are no higher
    /// than in the first, up to what is held back anyway. The first moments, in which it fills, are not looked at.
    fn keeps_up(&self, rate: Option<f64>) -> bool {
        const HELD_BACK: u64 = 8 << 20;
        let samples = &self.backlog[self.backlog.len() / 5..];
        let (first, second) = samples.split_at(samples.len() / 2);
        let peak = |half: &[u64]| half.iter().copied().max().unwrap_or(0);
        let taken = rate.is_none_or(|rate| self.tally.rate() >= 0.98 * rate);
        taken && peak(second) <= peak(first) + HELD_BACK
    }

    fn row(mut self, system: &str, mode: &str) -> Row {
        let (p50, p99) = (self.tally.percentile_ms(0.5), self.tally.percentile_ms(0.99));
        let written = (self.sealed.written - self.before.written) as f64;
        let items = self.load.items as u64;
        let round = |ms: Option<f64>| ms.map(|ms| (ms * 100.0).round() / 100.0);
        let row = Row::default()
            .with("transport", self.load.transport.name())
            .with("items_per_request", items)
            .with("system", system)
            .with("mode", mode)
            .with_rounded("items_per_s", self.items_per_s(), 0)
            .with_rounded("cpu_s_per_million", self.cpu_s_per_million(), 3)
            .with_rounded("rss_idle_mib", mib(self.idle()), 1)
            .with_rounded("rss_mib", mib(self.peak()), 1)
            .with_rounded("disk_bytes_per_byte", written / self.tally.bytes.max(1) as f64, 3)
            .with("p50_ms", round(p50))
            .with("p99_ms", round(p99))
            .with("accepted", self.tally.accepted * items)
            .with("refused", (self.tally.refused + self.tally.broken) * items);
        eprintln!("bench: {}", serde_json::to_string(&row).unwrap_or_default());
        row
    }
}

/// `bytes` in MiB.
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
