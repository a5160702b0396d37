//! Running a scenario: everything in one current-thread runtime whose clock stands still while anything has work to do.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use perigee_shared::config::Invalid;
use perigee_shared::units::Span;
use tokio::time::Instant;

use crate::account::{self, Account};
use crate::history::{Delays, History};
use crate::log::{Log, Way};
use crate::network::{Ether, Node};
use crate::node::{Satellite, Station, Time, World, certificates, note};
use crate::picture::Sample;
use crate::plan::{Pass, new_file, passes, windows};
use crate::report::{Filled, Reached, Report, Told};
use crate::scenario::{Fault, FaultKind, Ledger, Scenario};

/// Samples of a picture.
const SAMPLES: u32 = 600;

/// After the last event grounds notice that their links are gone, and exporters finish.
const SETTLE: Duration = Duration::from_secs(60);

/// At the beginning and the end of a pass there is no new plan: one that is seconds off would end it.
const CALM: Duration = Duration::from_secs(10);

/// What is wanted beside the report.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Every packet.
    pub keep_packets: bool,
    /// When the first payload byte of each contact came.
    pub first_bytes: bool,
}

/// Simulates `scenario`. The same scenario gives the same report.
pub fn run(scenario: Scenario, options: Options) -> anyhow::Result<Report> {
    scenario.validate().map_err(|Invalid { key, message }| anyhow::anyhow!("{key}: {message}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(Box::pin(simulate(scenario, options)))
}

/// When there is a new plan in a pass.
fn replanned(pass: &Pass, every: Option<Span>) -> Vec<Duration> {
    let Some(Span(every)) = every else { return vec![(pass.start + pass.los) / 2] };
    let times = std::iter::successors(Some(pass.start + CALM), |at| Some(*at + every));
    times.take_while(|at| *at + CALM < pass.los).collect()
}

/// What happens at a time.
enum Event {
    Sample,
    /// A pass begins.
    Pass,
    /// The pass with this number begins or is over, for who counts those without a connection.
    Aos(usize),
    Los(usize),
    /// There is a new plan, in the pass with this number; how many came before.
    Plan(usize, usize),
    Down(usize),
    Up(usize),
    Clock(usize),
}

struct Simulation {
    world: World,
    passes: Arc<[Pass]>,
    satellites: Vec<Satellite>,
    stations: Vec<Station>,
    samples: Vec<Sample>,
    /// How often the satellite of each pass had been heard when it began.
    heard_before: Vec<u64>,
    missed: Vec<usize>,
    /// What the grounds held at the beginning of each pass, where one satellite keeps a backlog.
    held_before: Vec<u64>,
}

async fn simulate(scenario: Scenario, options: Options) -> anyhow::Result<Report> {
    let directory = tempfile::tempdir()?;
    let mut simulation = Simulation::new(scenario, options, directory.path()).await?;
    let first_bytes = match options.first_bytes {
        true => Some(simulation.watch_first_bytes().await?),
        false => None,
    };
    simulation.play().await?;
    let mut report = simulation.end().await?;
    report.first_bytes = first_bytes.unwrap_or_default();
    Ok(report)
}

impl Simulation {
    async fn new(scenario: Scenario, options: Options, directory: &std::path::Path) -> anyhow::Result<Self> {
        let passes: Arc<[Pass]> = passes(&scenario).into();
        let ether = Ether::new(scenario.seed, Log::new(options.keep_packets));
        for satellite in 0..scenario.satellites {
            for (station, _) in (0u16..).zip(&scenario.stations) {
                let paths = [scenario.link.down.path(), scenario.link.up.path()];
                ether.connect(satellite, station, paths, windows(&passes, satellite, station));
            }
        }
        let time = Time { began: Instant::now(), shown: scenario.start.0 };
        let mut world = World {
            directory: directory.to_owned(),
            ether,
            time,
            history: Arc::new(Mutex::new(History::default())),
            scenario: Arc::new(scenario),
        };
        let ledgers = Station::all(&world).len();
        let count = usize::from(world.scenario.satellites);
        world.history = Arc::new(Mutex::new(History::new(count, ledgers)));
        let mut stations = Station::all(&world);
        certificates(directory, &world.scenario, &stations)?;
        for station in &mut stations {
            station.start().await?;
        }
        let mut satellites = Vec::with_capacity(count);
        for number in 0..world.scenario.satellites {
            let mut satellite = Satellite::new(world.clone(), number, Arc::clone(&passes))?;
            satellite.start()?;
            satellites.push(satellite);
        }
        let heard_before = vec![0; passes.len()];
        let (samples, missed, held_before) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { world, passes, satellites, stations, samples, heard_before, missed, held_before })
    }

    /// Goes through time until the end of the scenario.
    async fn play(&mut self) -> anyhow::Result<()> {
        let duration = self.world.scenario.duration.0;
        let mut events: Vec<(Duration, Event)> =
            (0..=SAMPLES).map(|n| (duration * n / SAMPLES, Event::Sample)).collect();
        if self.is_filled() {
            events.extend(self.passes.iter().map(|pass| (pass.start, Event::Pass)));
        }
        for (n, pass) in self.passes.iter().enumerate().filter(|(_, pass)| !self.is_disturbed(pass)) {
            events.push((pass.start, Event::Aos(n)));
            events.push((pass.los, Event::Los(n)));
        }
        if self.world.scenario.link.replanned {
            let every = self.world.scenario.link.replanned_every;
            let of = |(n, pass): (usize, &Pass)| replanned(pass, every).into_iter().map(move |at| (at, n));
            let times = self.passes.iter().enumerate().flat_map(of);
            events.extend(times.enumerate().map(|(before, (at, n))| (at, Event::Plan(n, before))));
        }
        for (n, set) in self.world.scenario.clocks.iter().enumerate() {
            events.push((set.at.0, Event::Clock(n)));
        }
        for (n, fault) in self.world.scenario.faults.iter().enumerate() {
            events.push((fault.at.0, Event::Down(n)));
            events.push((fault.at.0 + fault.down.0, Event::Up(n)));
        }
        events.sort_by_key(|(at, _)| *at);
        for (at, event) in events {
            tokio::time::sleep_until(self.world.time.began + at).await;
            match event {
                Event::Sample => self.sample().await?,
                Event::Pass => {
                    let held = self.held().await?;
                    self.held_before.push(held);
                }
                Event::Aos(n) => self.heard_before[n] = self.heard(n).await?,
                Event::Los(n) => {
                    if self.heard(n).await? == self.heard_before[n] && !self.tries_another(n) {
                        self.missed.push(n);
                    }
                }
                Event::Plan(n, before) => {
                    let plan = new_file(&self.world.scenario, &self.passes, n, before);
                    self.satellites[usize::from(self.passes[n].satellite)].replan(&plan)?;
                }
                Event::Clock(n) => self.set_clock(n),
                Event::Down(n) => self.fail(n).await?,
                Event::Up(n) => self.recover(n).await?,
            }
        }
        Ok(())
    }

    /// Whether a node of the pass is gone for a part of it.
    fn is_disturbed(&self, pass: &Pass) -> bool {
        self.world.scenario.faults.iter().any(|fault| {
            let (satellite, ground) = self.node(&fault.node);
            let concerns = satellite == Some(usize::from(pass.satellite))
                || ground.is_some_and(|g| self.stations[g].serves(pass.station));
            concerns && fault.at.0 < pass.los && fault.at.0 + fault.down.0 > pass.start
        })
    }

    /// How often the station of a pass has heard its satellite. Where stations share a ledger, connections of the satellite.
    async fn heard(&self, pass: usize) -> anyhow::Result<u64> {
        let Pass { satellite, station, .. } = self.passes[pass];
        if self.world.scenario.ledger == Ledger::Shared {
            return Ok(self.satellites[usize::from(satellite)].shipped().connections);
        }
        let store = self.stations.iter().find(|s| s.serves(station)).and_then(Station::store);
        let Some(store) = store else { return Ok(0) };
        let id = Scenario::satellite_id(satellite);
        let all = store.views().satellites().await?;
        Ok(all.iter().find(|view| view.satellite == id).map_or(0, |view| view.contacts))
    }

    /// Whether, at the end of a pass, its satellite does not know the time, and the pass was over before each station could be tried again
    /// after an earlier one: trying ends with the station that has answered.
    fn tries_another(&self, pass: usize) -> bool {
        let of = self.passes[pass];
        let agent = &self.world.scenario.agent;
        let turn =
            (agent.probe_interval.0 + agent.probe_duration.0) * self.world.scenario.stations.len() as u32;
        let earlier = |p: &Pass| p.satellite == of.satellite && p.start < of.start && p.los > of.start;
        !self.satellites[usize::from(of.satellite)].knows_time()
            && self.passes.iter().any(|p| earlier(p) && p.los + turn > of.los)
    }

    fn set_clock(&self, n: usize) {
        let set = &self.world.scenario.clocks[n];
        match self.node(&set.node) {
            (Some(s), _) => self.satellites[s].set_clock(&set.to),
            (_, Some(g)) => self.stations[g].set_clock(&set.to),
            _ => {}
        }
    }

    /// Whether one satellite has more to send than each of its passes carries.
    fn is_filled(&self) -> bool {
        self.world.scenario.satellites == 1 && self.world.scenario.telemetry.backlog.is_some()
    }

    /// How full each pass was, when the grounds hold `held` at the end.
    fn filled(&self, held: u64) -> Vec<Filled> {
        let after = self.held_before.iter().skip(1).copied().chain([held]);
        let rate = self.world.scenario.link.down.rate as f64;
        let filled = |((before, after), pass): ((&u64, u64), &Pass)| {
            let lasted = pass.los - pass.start;
            let share = after.saturating_sub(*before) as f64 * 8.0 / (rate * lasted.as_secs_f64());
            Filled { lasted, share }
        };
        self.held_before.iter().zip(after).zip(self.passes.iter()).map(filled).collect()
    }

    /// The satellite or the ground with this name.
    fn node(&self, name: &str) -> (Option<usize>, Option<usize>) {
        match self.world.scenario.node(name) {
            Some(Node::Satellite(number)) => (Some(usize::from(number)), None),
            Some(Node::Station(number)) => (None, self.stations.iter().position(|s| s.serves(number))),
            None => (None, None),
        }
    }

    async fn fail(&mut self, n: usize) -> anyhow::Result<()> {
        let Fault { kind, node, .. } = self.world.scenario.faults[n].clone();
        let torn = (kind == FaultKind::Torn).then_some(self.world.scenario.seed ^ n as u64);
        match (self.node(&node), kind) {
            ((Some(s), _), FaultKind::Restart) => self.satellites[s].stop().await?,
            ((Some(s), _), _) => self.satellites[s].crash(torn),
            ((_, Some(g)), FaultKind::Restart) => self.stations[g].stop().await?,
            ((_, Some(g)), _) => self.stations[g].crash(torn),
            _ => {}
        }
        Ok(())
    }

    async fn recover(&mut self, n: usize) -> anyhow::Result<()> {
        let Fault { kind, node, clock, .. } = self.world.scenario.faults[n].clone();
        let (had_no_power, wall) = (kind != FaultKind::Restart, clock.map(|time| time.0));
        match self.node(&node) {
            (Some(s), _) => {
                if had_no_power {
                    self.satellites[s].boot(wall);
                }
                self.satellites[s].start()?;
            }
            (_, Some(g)) => {
                if had_no_power {
                    self.stations[g].boot(wall);
                }
                Box::pin(self.stations[g].start()).await?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn sample(&mut self) -> anyhow::Result<()> {
        let mut backlog = 0;
        for satellite in &self.satellites {
            backlog += satellite.backlog().await;
        }
        let Delays { items, sum, longest } = note(&self.world.history, |h| std::mem::take(&mut h.delays));
        let delay = (items > 0).then(|| (sum / items as f64, longest));
        let delivered = self.held().await?;
        self.samples.push(Sample { at: self.world.time.now(), delivered, backlog, delay });
        Ok(())
    }

    /// Distinct segment bytes that the grounds hold or held, whole or in part.
    async fn held(&self) -> anyhow::Result<u64> {
        let mut held = 0;
        for station in &self.stations {
            let Some(store) = station.store() else { continue };
            held += store.views().accounting().await?.values().map(|a| a.bytes).sum::<u64>();
            let satellites = store.views().satellites().await?;
            let lanes = satellites.iter().flat_map(|s| &s.epochs).flat_map(|e| &e.lanes);
            held += lanes.flat_map(|l| &l.partials).map(|p| p.held_bytes).sum::<u64>();
        }
        Ok(held)
    }

    /// When the first payload byte of each contact came to the ground, from AOS on.
    async fn watch_first_bytes(&mut self) -> anyhow::Result<Vec<Option<Duration>>> {
        let mut out = Vec::new();
        for pass in self.passes.clone().iter() {
            tokio::time::sleep_until(self.world.time.began + pass.start).await;
            let Some(station) = self.stations.iter().find(|s| s.serves(pass.station)) else { continue };
            let before = station.received_from(pass.satellite);
            let mut first = None;
            while self.world.time.now() < pass.los {
                if station.received_from(pass.satellite) > before {
                    first = Some(self.world.time.now() - pass.start);
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            out.push(first);
        }
        Ok(out)
    }

    /// See [`Report::losses`].
    async fn losses(&self) -> anyhow::Result<u64> {
        let mut losses = 0;
        for store in self.stations.iter().filter_map(Station::store) {
            let gaps = store.views().gap_counts().await?;
            let of = |reason: &String| ["corruption", "station_lost"].contains(&reason.as_str());
            losses += gaps.iter().filter(|((_, reason), _)| of(reason)).map(|(_, count)| count).sum::<u64>();
        }
        Ok(losses)
    }

    /// See [`Report::told`].
    async fn told(&self) -> anyhow::Result<Vec<Told>> {
        let mut out = Vec::new();
        for store in self.stations.iter().filter_map(Station::store) {
            for pass in store.views().passes(500).await?.into_iter().map(|view| view.pass) {
                let state = pass.report()["state"].as_str().map(str::to_owned);
                out.extend(pass.ground.map(|ground| Told { state, connected: ground.connected_seconds }));
            }
        }
        Ok(out)
    }

    /// Stops everything in order and looks at what is where.
    async fn end(mut self) -> anyhow::Result<Report> {
        tokio::time::sleep(SETTLE).await;
        let held = self.held().await?;
        let (told, losses) = (self.told().await?, self.losses().await?);
        for satellite in &mut self.satellites {
            satellite.stop().await?;
        }
        for station in &mut self.stations {
            station.stop().await?;
        }
        let count = self.satellites.len();
        let board =
            self.satellites.iter().map(|s| account::on_board(s, count)).collect::<Result<Vec<_>, _>>()?;
        let mut spools = Vec::new();
        for station in &self.stations {
            spools.push(account::in_spool(station, count).await?);
        }
        let account: Account = note(&self.world.history, |h| account::account(h, &board, &spools));
        let mut report = Report {
            account,
            held_bytes: held,
            filled: self.filled(held),
            samples: self.samples,
            simulated: self.world.time.now(),
            passes: self.passes.len(),
            told,
            losses,
            missed: self.missed,
            contact_time: self.passes.iter().map(|p| p.los - p.start).sum(),
            spool_hash: spools.iter().map(|s| s.hash().to_hex().to_string()).collect(),
            ..Report::default()
        };
        for satellite in &self.satellites {
            let shipped = satellite.shipped();
            report.sent_bytes += shipped.sent;
            report.resent_bytes += shipped.resent;
            report.lost_bytes += shipped.lost;
            report.connections += shipped.connections;
        }
        note(&self.world.history, |h| {
            report.raw_bytes = h.origins.iter().map(|o| o.raw_bytes).sum();
            report.refused = h.origins.iter().map(|o| o.refused).sum();
            report.unknown = h.outputs.iter().map(|o| o.unknown).sum();
            report.reached =
                h.outputs.iter().map(|o| Reached(o.exported.iter().map(|i| i.len()).sum())).collect();
        });
        self.world.ether.log(|log| {
            report.packets = log.entries();
            report.packet_hash = log.hash().to_hex().to_string();
            report.down = log.traffic(Way::Down);
            report.up = log.traffic(Way::Up);
            report.violated = log.violations().0;
            report.violations = log.violations().1.to_vec();
            report.kept = log.kept().to_vec();
        });
        Ok(report)
    }
}
