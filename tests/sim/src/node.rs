//! Agents and grounds: unchanged product code in an environment of the simulation's own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ground_station::ground::{Ended, Ground};
use ground_station::spool::Store;
use ground_station::telemetry::Metrics;
use perigee_shared::clock::ClockBounds;
use perigee_shared::env::{Clock, Env, Owner, Placement};
use perigee_shared::units::Span;
use simdisk::Disk;
use space_agent::agent::Agent;
use space_agent::receiver::Intake;
use space_agent::telemetry::ShipCounters;
use space_agent::wal::Wal;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::NodeClock;
use crate::history::History;
use crate::items::Generator;
use crate::network::{Ether, Node};
use crate::plan::Pass;
use crate::scenario::{Ledger, Scenario, Setting, Telemetry};

/// What happened, for everybody to write into.
pub(crate) type Shared = Arc<Mutex<History>>;

/// Runs `change` on the history.
pub(crate) fn note<R>(history: &Shared, change: impl FnOnce(&mut History) -> R) -> R {
    change(&mut history.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Virtual time: what clocks show, and how long it has been.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Time {
    /// When the simulation began.
    pub(crate) began: Instant,
    /// What the clocks showed then, since the Unix epoch.
    pub(crate) shown: Duration,
}

impl Time {
    /// Since the start.
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// The right time, ns since the Unix epoch.
    pub(crate) fn unix_nano(&self) -> u64 {
        (self.shown + self.now()).as_nanos() as u64
    }
}

/// What every node is made of.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) scenario: Arc<Scenario>,
    pub(crate) directory: PathBuf,
    pub(crate) ether: Ether,
    pub(crate) time: Time,
    pub(crate) history: Shared,
}

/// So long before the start of a scenario the programs were built.
const BUILT_BEFORE: Duration = Duration::from_secs(30 * 86_400);

const fn number(node: Node) -> u64 {
    match node {
        Node::Satellite(n) => (n as u64) << 1,
        Node::Station(n) => (n as u64) << 1 | 1,
    }
}

impl World {
    fn env(&self, disk: &Arc<Disk>, node: Node, life: u64, clock: &Arc<NodeClock>) -> Env {
        let number = number(node);
        let seed = self.scenario.seed.wrapping_add((life << 32 | number).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (clock, network, memory) = (Arc::clone(clock), self.ether.of(node), Arc::new(|| None));
        let mut env = Env::new(clock, disk.driver(), network, Placement::Inline, memory, seed);
        let built = self.time.shown.saturating_sub(BUILT_BEFORE);
        env.bounds = Arc::new(ClockBounds::new(built.as_nanos() as u64));
        env
    }
}

/// What a satellite has sent, over all its lives.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Shipped {
    /// Segment bytes handed to QUIC.
    pub(crate) sent: u64,
    /// Of those, bytes that had been handed to it on an earlier connection.
    pub(crate) resent: u64,
    /// Bytes of packets that QUIC took to be lost.
    pub(crate) lost: u64,
    /// Connections that came up.
    pub(crate) connections: u64,
}

impl Shipped {
    fn add(&mut self, counters: &ShipCounters) {
        self.sent += counters.sent_bytes.get();
        self.resent += counters.resent_bytes.get();
        self.lost += counters.lost_bytes.get();
        self.connections += counters.connections.get();
    }
}

/// A satellite: its agent and its payloads.
pub(crate) struct Satellite {
    world: World,
    number: u16,
    disk: Arc<Disk>,
    clock: Arc<NodeClock>,
    passes: Arc<[Pass]>,
    generator: Arc<Mutex<Generator>>,
    life: u64,
    running: Option<Flying>,
    shipped: Shipped,
}

struct Flying {
    wal: Owner<Wal>,
    counters: Arc<ShipCounters>,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

/// Writes the plan file of a satellite. Its time is that of the simulation, so that each one is another.
fn write_plan(world: &World, satellite: u16, plan: &str) -> anyhow::Result<()> {
    let path = world.directory.join(format!("{}.plan.yaml", Scenario::satellite_id(satellite)));
    std::fs::write(&path, plan)?;
    let now = std::time::UNIX_EPOCH + world.time.shown + world.time.now();
    Ok(std::fs::File::options().write(true).open(path)?.set_modified(now)?)
}

impl Satellite {
    /// There is a new plan.
    pub(crate) fn replan(&self, plan: &str) -> anyhow::Result<()> {
        write_plan(&self.world, self.number, plan)
    }

    pub(crate) fn new(world: World, number: u16, passes: Arc<[Pass]>) -> anyhow::Result<Self> {
        let plan = crate::plan::file(&world.scenario, &passes, number);
        write_plan(&world, number, &plan)?;
        let generator = Generator::new(number, world.scenario.telemetry.shape(), world.scenario.seed);
        let passes: Vec<Pass> = passes.iter().filter(|p| p.satellite == number).copied().collect();
        Ok(Self {
            number,
            disk: Disk::new(),
            clock: NodeClock::new(world.time, self::number(Node::Satellite(number))),
            passes: passes.into(),
            generator: Arc::new(Mutex::new(generator)),
            life: 0,
            running: None,
            shipped: Shipped::default(),
            world,
        })
    }

    /// The agent's configuration.
    pub(crate) fn config(&self) -> anyhow::Result<space_agent::config::Config> {
        let (scenario, directory) = (&self.world.scenario, self.world.directory.display());
        let id = Scenario::satellite_id(self.number);
        let stations: String = (0u16..)
            .zip(&scenario.stations)
            .map(|(n, id)| format!("    {id}: {{address: \"{}\"}}\n", Node::Station(n).address()))
            .collect();
        let lifetime = |of: Span| format!("lanes: {{bulk: {{lifetime: {}s}}}}\n", of.0.as_secs());
        let lanes = scenario.agent.lifetime.map(lifetime).unwrap_or_default();
        // Nobody looks at memory here, and a limiter that wakes ten times a second would be most of the work.
        let text = format!(
            "receivers: {{otlp: {{protocols: {{grpc: {{endpoint: 127.0.0.1:4317}}}}}}}}\n\
             processors: {{memory_limiter: {{check_interval: 1h}}, batch: {{codec: {}}}}}\n\
             exporters: {{link: {{}}}}\n\
             storage: {{directory: {directory}/{id}, max_bytes: {}B, when_full: {}, ballast: 0B}}\n\
             link:\n  certificate_file: {directory}/{id}.crt\n  private_key_file: {directory}/{id}.key\n  \
             station_ca_file: {directory}/station-ca.crt\n  stations:\n{stations}\
             contacts: {{source: plan, file: {directory}/{id}.plan.yaml, probe: {{interval: {}s, duration: {}s}}, \
             simultaneous: {}}}\n{lanes}\
             service:\n  pipelines:\n    traces: {{receivers: [otlp], exporters: [link]}}\n    \
             metrics: {{receivers: [otlp], exporters: [link]}}\n    logs: {{receivers: [otlp], exporters: [link]}}\n",
            scenario.agent.codec.name(),
            scenario.agent.max_bytes.0,
            scenario.agent.when_full.name(),
            scenario.agent.probe_interval.0.as_secs(),
            scenario.agent.probe_duration.0.as_secs(),
            scenario.agent.simultaneous,
        );
        let config: space_agent::config::Config = perigee_shared::config::parse(&text, &id, |_| None)?;
        config.validate().map_err(|e| anyhow::anyhow!("{id}: {}: {}", e.key, e.message))?;
        Ok(config)
    }

    /// The environment of the agent's next life.
    pub(crate) fn env(&self) -> Env {
        self.world.env(&self.disk, Node::Satellite(self.number), self.life, &self.clock)
    }

    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        self.life += 1;
        let agent = Agent::without_listeners(self.config()?, self.env())?;
        let (wal, counters) = (agent.wal(), agent.ship_counters());
        let stop = CancellationToken::new();
        let payloads = Payloads {
            satellite: self.number,
            telemetry: self.world.scenario.telemetry,
            time: self.world.time,
            history: Arc::clone(&self.world.history),
            generator: Arc::clone(&self.generator),
            passes: Arc::clone(&self.passes),
            wal: wal.clone(),
            stop: stop.clone(),
        };
        let task = tokio::spawn(async move {
            agent.run(|intake| Box::pin(payloads.send(intake))).await.map_err(anyhow::Error::from)
        });
        self.running = Some(Flying { wal, counters, stop, task });
        Ok(())
    }

    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(Flying { wal, counters, stop, task }) = self.running.take() else { return Ok(()) };
        drop(wal);
        stop.cancel();
        let ended = task.await?;
        self.shipped.add(&counters);
        ended
    }

    /// The power goes. What is left of the old agent runs on without a disk or a network until it notices.
    pub(crate) fn crash(&mut self, torn: Option<u64>) {
        self.world.ether.silence(Node::Satellite(self.number));
        self.disk = self.disk.lose_power(torn);
        if let Some(Flying { counters, stop, .. }) = self.running.take() {
            stop.cancel();
            self.shipped.add(&counters);
        }
    }

    /// The power is back.
    pub(crate) fn boot(&mut self, wall: Option<Duration>) {
        self.clock = self.clock.rebooted(wall);
    }

    /// Its wall clock is set.
    pub(crate) fn set_clock(&self, setting: &Setting) {
        self.clock.set(setting);
    }

    /// Whether its wall clock is right to a minute.
    pub(crate) fn knows_time(&self) -> bool {
        self.clock.unix_nano().abs_diff(self.world.time.unix_nano()) < 60_000_000_000
    }

    /// Bytes on board.
    pub(crate) async fn backlog(&self) -> u64 {
        match &self.running {
            Some(flying) => flying.wal.call(|wal| wal.summary().stored_bytes).await.unwrap_or(0),
            None => 0,
        }
    }

    pub(crate) fn shipped(&self) -> Shipped {
        let mut all = self.shipped;
        if let Some(flying) = &self.running {
            all.add(&flying.counters);
        }
        all
    }
}

/// What sends telemetry to an agent.
struct Payloads {
    satellite: u16,
    telemetry: Telemetry,
    time: Time,
    history: Shared,
    generator: Arc<Mutex<Generator>>,
    passes: Arc<[Pass]>,
    wal: Owner<Wal>,
    stop: CancellationToken,
}

/// How often a backlog that is kept up is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// How long before AOS a backlog is made.
const AHEAD: Duration = Duration::from_secs(30);

/// Bytes of a request that keeps a backlog up.
const LARGE: usize = 1 << 20;

impl Payloads {
    async fn send(self, intake: Arc<Intake>) {
        match self.telemetry.backlog {
            Some(bytes) => self.keep(&intake, bytes.0).await,
            None => self.regularly(&intake).await,
        }
    }

    /// Waits; whether to go on.
    async fn wait(&self, until: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep_until(self.time.began + until) => true,
        }
    }

    async fn request(&self, intake: &Intake, bytes: usize) -> bool {
        let made = {
            let mut generator = self.generator.lock().unwrap_or_else(PoisonError::into_inner);
            generator.make(bytes, self.time.unix_nano())
        };
        let size = made.body.len();
        while !self.stop.is_cancelled() {
            let result = intake.accept(made.signal, made.body.clone()).await;
            if result.is_ok() {
                let now = self.time.now();
                note(&self.history, |h| h.accepted(self.satellite, made.first, made.count, size, now));
                return true;
            }
            note(&self.history, |h| h.origins[usize::from(self.satellite)].refused += 1);
            if !self.wait(self.time.now() + Duration::from_secs(5)).await {
                break;
            }
        }
        false
    }

    /// A request every so often.
    async fn regularly(&self, intake: &Intake) {
        let every = self.telemetry.every.0;
        let bytes = (self.telemetry.raw_per_day.0 as f64 * every.as_secs_f64() / 86_400.0) as usize;
        if bytes == 0 {
            self.stop.cancelled().await;
            return;
        }
        // Satellites do not all send at once.
        let offset = every.mul_f64(f64::from(self.satellite % 97) / 97.0);
        let mut next = self.time.now() + offset;
        while self.wait(next).await {
            self.request(intake, bytes).await;
            next += every;
        }
    }

    /// So many bytes on board from a little before each contact to its end.
    async fn keep(&self, intake: &Intake, bytes: u64) {
        for pass in self.passes.iter() {
            if pass.los < self.time.now() {
                continue;
            }
            if !self.wait(pass.start.saturating_sub(AHEAD)).await {
                return;
            }
            while self.time.now() < pass.los {
                let stored = |wal: &mut Wal| wal.summary().stored_bytes;
                while self.wal.call(stored).await.is_ok_and(|n| n < bytes) && !self.stop.is_cancelled() {
                    self.request(intake, LARGE).await;
                }
                if !self.wait(self.time.now() + LOOK).await {
                    return;
                }
            }
        }
        self.stop.cancelled().await;
    }
}

/// A ground-station with the stations that it serves.
pub(crate) struct Station {
    world: World,
    /// The numbers of its stations; the first is its own.
    numbers: Vec<u16>,
    /// Its ledger's number.
    ledger: usize,
    disk: Arc<Disk>,
    clock: Arc<NodeClock>,
    life: u64,
    running: Option<Serving>,
}

struct Serving {
    store: Store,
    metrics: Metrics,
    /// What it exports counts.
    alive: Arc<AtomicBool>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Ended>>,
}

impl Station {
    /// The grounds of a scenario.
    pub(crate) fn all(world: &World) -> Vec<Self> {
        let numbers: Vec<u16> = (0u16..).zip(&world.scenario.stations).map(|(n, _)| n).collect();
        let groups: Vec<Vec<u16>> = match world.scenario.ledger {
            Ledger::Shared => vec![numbers],
            Ledger::Own => numbers.into_iter().map(|n| vec![n]).collect(),
        };
        let new = |(ledger, numbers): (usize, Vec<u16>)| Self {
            world: world.clone(),
            clock: NodeClock::new(world.time, number(Node::Station(numbers[0]))),
            numbers,
            ledger,
            disk: Disk::new(),
            life: 0,
            running: None,
        };
        groups.into_iter().enumerate().map(new).collect()
    }

    /// The ids of the stations that it serves.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.numbers.iter().map(|n| self.world.scenario.stations[usize::from(*n)].as_str()).collect()
    }

    /// Whether it serves the station with this number.
    pub(crate) fn serves(&self, number: u16) -> bool {
        self.numbers.contains(&number)
    }

    fn node(&self) -> Node {
        Node::Station(self.numbers[0])
    }

    /// The ground's configuration.
    pub(crate) fn config(&self) -> anyhow::Result<ground_station::config::Config> {
        let (scenario, directory) = (&self.world.scenario, self.world.directory.display());
        let id = self.names()[0].to_owned();
        let listen: Vec<String> =
            self.numbers.iter().map(|n| format!("\"{}\"", Node::Station(*n).address())).collect();
        let satellites: String =
            (0..scenario.satellites).map(|n| format!("{}: {{}}, ", Scenario::satellite_id(n))).collect();
        let connections = 2 * usize::from(scenario.satellites) + 16;
        let text = format!(
            "link:\n  station: {id}\n  listen: [{}]\n  certificate_file: {directory}/{id}.crt\n  \
             private_key_file: {directory}/{id}.key\n  satellite_ca_file: {directory}/satellite-ca.crt\n  \
             max_connections: {connections}\n  retry_above: {connections}\n  satellites: {{{satellites}}}\n\
             exporters: {{debug: {{verbosity: normal, rate_limit: {}}}}}\n\
             storage: {{directory: {directory}/{id}, ballast: 0B, max_bytes: 64GiB, decoded_bases: 2GiB}}\n\
             memory: {{limit: 8GiB}}\nresource_attributes: false\n\
             service:\n  pipelines:\n    traces: {{exporters: [debug]}}\n    metrics: {{exporters: [debug]}}\n    \
             logs: {{exporters: [debug]}}\n",
            listen.join(", "),
            scenario.ground.export_rate,
        );
        let config: ground_station::config::Config = perigee_shared::config::parse(&text, &id, |_| None)?;
        config.validate().map_err(|e| anyhow::anyhow!("{id}: {}: {}", e.key, e.message))?;
        Ok(config)
    }

    /// The environment of the ground's next life.
    pub(crate) fn env(&self) -> Env {
        self.world.env(&self.disk, self.node(), self.life, &self.clock)
    }

    pub(crate) async fn start(&mut self) -> anyhow::Result<()> {
        self.life += 1;
        let alive = Arc::new(AtomicBool::new(true));
        let mut env = self.env();
        let (history, ledger, time) = (Arc::clone(&self.world.history), self.ledger, self.world.time);
        let counts = Arc::clone(&alive);
        env.output = Arc::new(move |text| {
            if counts.load(Ordering::Relaxed) {
                note(&history, |h| h.exported(ledger, text, time.now()));
            }
        });
        let ground = Box::pin(Ground::build(self.config()?, &env, None)).await?;
        let (store, metrics) = (ground.store(), ground.metrics());
        let stop = CancellationToken::new();
        let task = tokio::spawn(ground.run(stop.clone()));
        self.running = Some(Serving { store, metrics, alive, stop, task });
        Ok(())
    }

    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(Serving { store, stop, task, .. }) = self.running.take() else { return Ok(()) };
        drop(store);
        stop.cancel();
        task.await??;
        Ok(())
    }

    /// The power goes.
    pub(crate) fn crash(&mut self, torn: Option<u64>) {
        for number in &self.numbers {
            self.world.ether.silence(Node::Station(*number));
        }
        self.disk = self.disk.lose_power(torn);
        note(&self.world.history, |h| h.crashed(self.ledger));
        if let Some(Serving { alive, stop, .. }) = self.running.take() {
            alive.store(false, Ordering::Relaxed);
            stop.cancel();
        }
    }

    /// The power is back.
    pub(crate) fn boot(&mut self, wall: Option<Duration>) {
        self.clock = self.clock.rebooted(wall);
    }

    /// Its wall clock is set.
    pub(crate) fn set_clock(&self, setting: &Setting) {
        self.clock.set(setting);
    }

    /// Its spool, while it works.
    pub(crate) fn store(&self) -> Option<Store> {
        self.running.as_ref().map(|r| r.store.clone())
    }

    /// Payload bytes that came from a satellite in this life.
    pub(crate) fn received_from(&self, satellite: u16) -> u64 {
        let id = Scenario::satellite_id(satellite);
        self.running.as_ref().map_or(0, |r| r.metrics.received_from(&id))
    }
}

/// Makes every certificate that a scenario needs.
pub(crate) fn certificates(
    directory: &Path,
    scenario: &Scenario,
    stations: &[Station],
) -> anyhow::Result<()> {
    let mut certificates = crate::certificates::Certificates::new(directory, scenario.start.0)?;
    for number in 0..scenario.satellites {
        certificates.satellite(&Scenario::satellite_id(number))?;
    }
    for station in stations {
        certificates.ground(&station.names())?;
    }
    Ok(())
}
