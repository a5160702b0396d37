//! One satellite and one station as processes, kept running as a service manager would, with everything noted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use e2e::{Agent, Ground, Programs, SATELLITE, Scene, within};
use fleet::Cluster;
use ground_station::pki::Role;
use http::Method;
use linkem::{Config, Link};
use perigee_shared::signal::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::load::{Load, Shared, noted, send};
use super::volume::Volume;
use crate::history::{Account, Event, Gap, History, Side, Three};
use crate::telemetry::{Source, items_of_json};

/// Something must be taken, committed and exported again so soon after the fault has ended.
const RECOVERY: Duration = Duration::from_secs(40);
/// So long may it take until everything has left the agent and the spool.
const DRAIN: Duration = Duration::from_secs(180);
/// So many ends one after the other, on a disk that works, are a crash loop.
const CRASH_LOOP: u32 = 5;
/// As a service manager waits between an end and the next start.
const RESTART: Duration = Duration::from_millis(200);

/// What is counted of one process.
#[derive(Default)]
struct Watched {
    /// Ends by itself since it last worked.
    ends: u32,
    loops: bool,
    /// The next start follows a power cut.
    power_cut: bool,
    /// It must not be started again when it ends.
    down: bool,
    /// Panics whose outcome is not known yet.
    panics: Vec<String>,
    /// Files that were moved aside and are known.
    quarantined: Vec<PathBuf>,
    /// Everything that it has written.
    log: String,
}

/// A ledger that two stations share.
pub struct SharedLedger {
    /// Its servers.
    pub cluster: Cluster,
    /// The station that exports beside the one under test.
    pub other: Ground,
    /// How often that one has ended by itself.
    ends: u32,
}

/// See the module.
pub struct Rig {
    /// The agent.
    pub agent: Agent,
    /// The ground.
    pub ground: Ground,
    /// Between them.
    pub link: Link,
    /// What happens.
    pub history: Shared,
    /// A file system that can fail, under the store of the side under test.
    pub volume: Option<Volume>,
    /// Where the ledger is, if it is shared: the servers, and a second station that exports beside the first.
    pub shared: Option<SharedLedger>,
    side: Side,
    source: Arc<Mutex<Source>>,
    watched: [Watched; 2],
    /// Bytes of each sink's file that were read.
    read: BTreeMap<PathBuf, usize>,
    judged: bool,
    exporters: Value,
    /// Last, since everything else is in it.
    scene: Scene,
}

impl Rig {
    /// Nothing has started. `volume`: MiB of the tmpfs and of the image under the store of `side`.
    pub async fn new(
        programs: Programs,
        fault: &str,
        side: Side,
        seed: u64,
        volume: Option<(u64, u64)>,
    ) -> anyhow::Result<Self> {
        let scene = Scene::new(programs);
        let mut ground = Ground::new(&scene);
        let link = Link::start(Config::perfect(ground.link)).await?;
        let mut agent = Agent::new(&scene, link.local_addr()).always();
        let volume = volume.map(|(below, size)| Volume::new(scene.path(), below, size)).transpose()?;
        agent.config["processors"]["batch"] = json!({"send_batch_bytes": "256KiB", "timeout": "300ms"});
        ground.config["resource_attributes"] = json!(false);
        let exporters = ground.config["exporters"].clone();
        if let Some(volume) = &volume {
            let config = if side == Side::Agent { &mut agent.config } else { &mut ground.config };
            config["storage"]["directory"] = json!(volume.path().join("store"));
        }
        Ok(Self {
            agent,
            ground,
            link,
            history: Arc::new(Mutex::new(History::new(fault, side, seed))),
            volume,
            shared: None,
            side,
            source: Arc::new(Mutex::new(Source::new(seed, 400))),
            watched: Default::default(),
            read: BTreeMap::new(),
            judged: false,
            exporters,
            scene,
        })
    }

    /// Puts the ledger into these servers, which another station shares: it takes no segments, and exports into files of its own.
    pub fn share(&mut self, cluster: Cluster) {
        self.scene.issue(Role::Station, "beijing");
        // With two lanes of metrics each station has one to export.
        let odd = [1, 3, 5, 7, 9].map(|digit| json!({"metric": format!("*{digit}")}));
        self.agent.config["lanes"] = json!({"odd": {"number": 7, "match": odd}});
        let mut other = Ground::named(&self.scene, "beijing");
        other.config["resource_attributes"] = json!(false);
        let mut shared = SharedLedger { cluster, other, ends: 0 };
        let database = shared.cluster.primary().database();
        for config in [&mut self.ground.config, &mut shared.other.config] {
            let storage = config["storage"].as_object_mut();
            let of_storage = json!({
                "kind": "postgres", "hosts": shared.cluster.hosts(), "database": database, "user": "perigee", "lease": "2s",
                "tls": {"insecure": true},
            });
            if let (Some(storage), Value::Object(more)) = (storage, of_storage) {
                storage.extend(more);
            }
        }
        self.shared = Some(shared);
    }

    /// Notes an event.
    pub fn note(&self, event: Event) {
        noted(&self.history).note(event);
    }

    /// The directory of a side's store.
    pub fn store(&self, side: Side) -> PathBuf {
        let config = if side == Side::Agent { &self.agent.config } else { &self.ground.config };
        PathBuf::from(config["storage"]["directory"].as_str().unwrap_or_default())
    }

    /// The file of the store under test.
    pub fn file(&self) -> PathBuf {
        self.store(self.side).join(if self.side == Side::Agent { "wal.redb" } else { "spool.redb" })
    }

    /// The ground's exporters find nobody, or write their files.
    pub fn set_backend(&mut self, there: bool) {
        let down = json!({"otlp": {"endpoint": "http://127.0.0.1:9"}});
        for signal in Signal::ALL {
            let name = if there { format!("file/{signal}") } else { "otlp".to_owned() };
            self.ground.config["service"]["pipelines"][signal.name()]["exporters"] = json!([name]);
        }
        self.ground.config["exporters"] = if there { self.exporters.clone() } else { down };
    }

    /// Starts a side without waiting.
    pub fn start(&mut self, side: Side) {
        let watched = &mut self.watched[side as usize];
        watched.down = false;
        let power_cut = std::mem::take(&mut watched.power_cut);
        if side == Side::Ground {
            self.read_sinks();
        }
        self.note(Event::Restart { side, power_cut });
        match side {
            Side::Agent => self.agent.start_only(),
            Side::Ground => self.ground.start_only(),
        }
    }

    /// Starts the other station again if it has ended: what it sent last may be sent once more.
    pub fn start_other(&mut self) {
        self.read_sinks();
        let Some(shared) = &mut self.shared else { return };
        if shared.other.process.has_ended().is_some() || !shared.other.process.is_started() {
            shared.other.start_only();
            self.note(Event::Restart { side: Side::Ground, power_cut: false });
        }
    }

    /// Starts all with another station that exports, under load: this one only takes segments until that one has lanes.
    pub async fn start_beside_another(&mut self) -> anyhow::Result<Load> {
        self.ground.process.more_args = vec!["--role", "link,api"];
        self.start_all().await?;
        self.meet().await?;
        let load = self.load(2, 4_000);
        let has = within(RECOVERY, async || self.other_has_exported().then_some(()).ok_or_else(String::new));
        has.await.map_err(|_| anyhow::anyhow!("the other station exports nothing"))?;
        self.kill(Side::Ground).await;
        self.ground.process.more_args.clear();
        self.start(Side::Ground);
        self.answers(Side::Ground, RECOVERY).await.map_err(anyhow::Error::msg)?;
        Ok(load)
    }

    fn other_has_exported(&mut self) -> bool {
        self.read_sinks();
        let Some(shared) = &self.shared else { return false };
        Signal::ALL
            .iter()
            .any(|signal| self.read.get(&shared.other.sink.file(*signal)).is_some_and(|n| *n > 0))
    }

    /// Starts all and waits until they answer.
    pub async fn start_all(&mut self) -> anyhow::Result<()> {
        self.start_other();
        if let Some(shared) = &mut self.shared {
            shared.other.ready().await;
        }
        self.start(Side::Ground);
        self.start(Side::Agent);
        for side in [Side::Ground, Side::Agent] {
            self.answers(side, RECOVERY).await.map_err(anyhow::Error::msg).context("the first start")?;
        }
        Ok(())
    }

    /// Waits until the two have said Hello and Resume.
    pub async fn meet(&mut self) -> anyhow::Result<()> {
        let agent = &self.agent;
        let up = within(RECOVERY, async || {
            let status = agent.ask(Method::GET, "/status", None).await?;
            let state = &status["link"]["state"];
            if state == "up" { Ok(()) } else { Err(format!("the link is {state}")) }
        });
        up.await.map_err(anyhow::Error::msg)
    }

    /// Waits until a side answers; it is started again meanwhile if it ends.
    pub async fn answers(&mut self, side: Side, bound: Duration) -> Result<(), String> {
        let end = Instant::now() + bound;
        loop {
            self.tend().await;
            if self.watched[side as usize].loops {
                return Err("it ends at each start".to_owned());
            }
            let answer = match side {
                Side::Agent => self.agent.ask(Method::GET, "/status", None).await,
                Side::Ground => self.ground.ask("/api/v1/accounting").await,
            };
            match answer {
                Ok(_) => {
                    self.watched[side as usize].ends = 0;
                    self.note(Event::Reopened { side });
                    return Ok(());
                }
                Err(why) if Instant::now() > end => return Err(why),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Starts what has ended by itself, and notes what it said.
    pub async fn tend(&mut self) {
        for side in [Side::Agent, Side::Ground] {
            self.read_log(side);
            let process =
                if side == Side::Agent { &mut self.agent.process } else { &mut self.ground.process };
            let Some(status) = process.has_ended() else { continue };
            self.read_log(side);
            let watched = &mut self.watched[side as usize];
            for why in std::mem::take(&mut watched.panics) {
                let handled = status.code().is_some();
                noted(&self.history).note(Event::Panic { side, why, handled });
            }
            if self.judged {
                watched.ends += 1;
            }
            if watched.ends >= CRASH_LOOP {
                watched.loops = true;
                let last = watched.log.lines().last().unwrap_or_default().to_owned();
                self.note(Event::CrashLoop { side, why: format!("{status}: {last}") });
            } else if !watched.down {
                tokio::time::sleep(RESTART).await;
                self.start(side);
            }
        }
        let Some(shared) = &mut self.shared else { return };
        let Some(status) = shared.other.process.has_ended() else { return };
        shared.ends += 1;
        if shared.ends == CRASH_LOOP {
            let log = shared.other.process.log();
            let why = format!("the other station: {status}: {}", log.lines().last().unwrap_or_default());
            self.note(Event::CrashLoop { side: Side::Ground, why });
        }
        tokio::time::sleep(RESTART).await;
        self.start_other();
    }

    fn read_log(&mut self, side: Side) {
        let process = if side == Side::Agent { &self.agent.process } else { &self.ground.process };
        let log = process.take_log();
        let directory = self.store(side);
        let watched = &mut self.watched[side as usize];
        let mut lines = log.lines();
        while let Some(line) = lines.next() {
            if line.contains("panicked at") {
                watched.panics.push(format!("{line} {}", lines.next().unwrap_or_default()));
            }
        }
        watched.log.push_str(&log);
        for path in quarantined(&directory) {
            if watched.quarantined.contains(&path) {
                continue;
            }
            let name = format!("quarantined: {}", path.display());
            watched.quarantined.push(path);
            let alarm = Event::Alarm { side, name, items: [0; 3], unknown: false };
            noted(&self.history).note(alarm);
            for why in std::mem::take(&mut watched.panics) {
                noted(&self.history).note(Event::Panic { side, why, handled: true });
            }
        }
    }

    /// Whether a side has written this.
    pub fn said(&mut self, side: Side, text: &[&str]) -> bool {
        self.read_log(side);
        text.iter().any(|text| self.watched[side as usize].log.contains(text))
    }

    /// Clients that send without end to the agent.
    pub fn load(&self, clients: usize, bytes: usize) -> Load {
        Load::start(self.agent.http, clients, bytes, &self.source, &self.history)
    }

    /// Sends one request; whether it was accepted.
    pub async fn send(&self, bytes: usize) -> bool {
        let request = self.source.lock().unwrap_or_else(PoisonError::into_inner).make(bytes);
        send(self.agent.http, request, &self.history).await
    }

    /// Another machine's, whose items are its own.
    pub fn of_another_satellite(&mut self) {
        self.source = Arc::new(Mutex::new(Source::of_satellite(2, 99, 400)));
    }

    /// kill -9.
    pub async fn kill(&mut self, side: Side) {
        self.watched[side as usize].down = true;
        match side {
            Side::Agent => self.agent.process.kill().await,
            Side::Ground => self.ground.process.kill().await,
        }
    }

    /// kill -9, unmount, mount: what was not written to the medium is gone. The side is down after it.
    pub async fn cut_power(&mut self) -> anyhow::Result<()> {
        let side = self.side;
        self.kill(side).await;
        self.watched[side as usize].power_cut = true;
        if let Some(volume) = &mut self.volume {
            volume.unmount().await?;
            volume.mount()?;
        }
        Ok(())
    }

    /// Ids that were accepted and have not come out: what may be in the stores now.
    pub fn inside(&mut self) -> Vec<u64> {
        self.read_sinks();
        let history = noted(&self.history);
        let mut inside = std::collections::BTreeSet::new();
        for event in &history.events {
            match event {
                Event::Accepted { items, .. } => inside.extend(items.iter().map(|(id, _)| *id)),
                Event::Exported { items, .. } => {
                    for (id, _) in items {
                        inside.remove(id);
                    }
                }
                _ => {}
            }
        }
        inside.into_iter().collect()
    }

    /// Notes what has come out since this was called last.
    pub fn read_sinks(&mut self) {
        let sinks = [Some(&self.ground.sink), self.shared.as_ref().map(|shared| &shared.other.sink)];
        let files = sinks
            .into_iter()
            .flatten()
            .flat_map(|sink| Signal::ALL.map(|signal| (signal, sink.file(signal))));
        for (signal, file) in files {
            let text = std::fs::read(&file).unwrap_or_default();
            let from = self.read.entry(file).or_default();
            let new = text.get(*from..).unwrap_or_default();
            // A line that is being written is read when it is whole.
            let Some(end) = new.iter().rposition(|b| *b == b'\n') else { continue };
            let items = items_of_json(signal, &String::from_utf8_lossy(&new[..=end]));
            *from += end + 1;
            noted(&self.history).note(Event::Exported { items, noted: true });
        }
    }

    /// The fault is over: everything works again, and everything that is there must come out.
    pub async fn settle(&mut self, what: &str, fired: bool) -> anyhow::Result<()> {
        self.note(Event::Fault { what: what.to_owned(), fired });
        self.judged = true;
        let began = Instant::now();
        self.set_backend(true);
        self.link.restore();
        self.start_other();
        for side in [Side::Ground, Side::Agent] {
            let process = if side == Side::Agent { &self.agent.process } else { &self.ground.process };
            if !process.is_started() {
                self.start(side);
            }
        }
        if let Err(why) = self.recovers().await {
            self.stuck(why);
        } else {
            let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.note(Event::Recovered { side: self.side, ms });
        }
        if let Err(why) = self.drains().await {
            self.stuck(format!("not everything came out: {why}"));
        }
        self.take_stock().await;
        self.close().await
    }

    fn stuck(&self, why: String) {
        if !self.watched.iter().any(|w| w.loops) {
            self.note(Event::Stuck { side: self.side, why });
        }
    }

    async fn recovers(&mut self) -> Result<(), String> {
        for side in [Side::Ground, Side::Agent] {
            self.answers(side, RECOVERY).await.map_err(|why| format!("{}: {why}", side.name()))?;
        }
        let end = Instant::now() + RECOVERY;
        while !self.send(2_000).await {
            self.tend().await;
            if Instant::now() > end {
                return Err("no request is accepted".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Waits until nothing is on board and nothing in the spool.
    async fn drains(&mut self) -> Result<(), String> {
        let end = Instant::now() + DRAIN;
        loop {
            self.tend().await;
            let left = self.left().await;
            match left {
                Ok(None) => return Ok(()),
                Ok(Some(why)) | Err(why) if Instant::now() > end => return Err(why),
                _ if self.watched.iter().any(|w| w.loops) => {
                    return Err("one of them ends at each start".into());
                }
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn left(&self) -> Result<Option<String>, String> {
        let status = self.agent.ask(Method::GET, "/status", None).await?;
        let on_board = three(&status["wal"]["on_board"]);
        let accounting = self.ground.ask("/api/v1/accounting").await?;
        let in_spool = three(&accounting[SATELLITE]["in_spool"]);
        // The ground must have heard what was dropped.
        let left = on_board != [0; 3] || in_spool != [0; 3] || status["link"]["state"] == "down";
        Ok(left.then(|| {
            format!("on board {on_board:?}, in the spool {in_spool:?}, link {}", status["link"]["state"])
        }))
    }

    async fn take_stock(&mut self) {
        // Drops travel with the next Hello; the ground shows them once the connection that told them is up.
        self.link.cut();
        self.link.restore();
        let bound = Duration::from_secs(10);
        let (agent, ground) = (&self.agent, &self.ground);
        let agree = within(bound, async || {
            let there = account_of_agent(&agent.ask(Method::GET, "/status", None).await?);
            let here = account_of_ground(&ground.ask("/api/v1/accounting").await?);
            let known = there.dropped.iter().all(|dropped| here.dropped.contains(dropped));
            known.then_some(()).ok_or_else(|| "the ground does not know of a drop".to_owned())
        });
        // That it does not is judged by the checker.
        let _ = agree.await;
        if let Ok(status) = self.agent.ask(Method::GET, "/status", None).await {
            self.note(Event::Account { side: Side::Agent, account: account_of_agent(&status) });
        }
        if let Ok(accounting) = self.ground.ask("/api/v1/accounting").await {
            self.note(Event::Account { side: Side::Ground, account: account_of_ground(&accounting) });
        }
        if let Ok(Value::Array(gaps)) = self.ground.ask("/api/v1/gaps?limit=10000").await {
            for gap in gaps {
                let reason = gap["reason"].as_str().unwrap_or_default().to_owned();
                let (items, unknown) = (three(&gap["items"]), gap["unknown"] == true);
                self.note(Event::Gap(Gap { reason, items, unknown }));
            }
        }
        self.read_sinks();
    }

    /// Ends both and takes the file system away.
    async fn close(&mut self) -> anyhow::Result<()> {
        for side in [Side::Agent, Side::Ground] {
            self.read_log(side);
            // It went on working, so the panic ended nothing that it needed.
            for why in std::mem::take(&mut self.watched[side as usize].panics) {
                let works = !noted(&self.history).events.iter().any(|e| matches!(e, Event::Stuck { .. }));
                self.note(Event::Panic { side, why, handled: works });
            }
            self.kill(side).await;
            self.read_log(side);
        }
        if let Some(shared) = &mut self.shared {
            shared.other.process.kill().await;
            let panics = shared.other.process.take_log().matches("panicked at").count();
            for _ in 0..panics {
                let why = "the other station".to_owned();
                self.note(Event::Panic { side: Side::Ground, why, handled: false });
            }
        }
        self.note(Event::End);
        if let Some(mut volume) = self.volume.take() {
            volume.unmount().await?;
        }
        Ok(())
    }
}

impl Drop for Rig {
    /// What the processes have written was judged here.
    fn drop(&mut self) {
        self.agent.process.take_log();
        self.ground.process.take_log();
        if let Some(shared) = &self.shared {
            shared.other.process.take_log();
        }
    }
}

/// Files beside a store that were moved aside.
fn quarantined(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|e| e.path()).filter(|p| p.to_string_lossy().contains(".redb.quarantine")).collect()
}

/// Counts as either side writes them.
fn three(value: &Value) -> Three {
    Signal::ALL.map(|s| value[s.name()].as_u64().or_else(|| value[s.items_name()].as_u64()).unwrap_or(0))
}

fn by_reason(value: &Value) -> Vec<(String, Three)> {
    let reasons = value.as_object().into_iter().flatten();
    let mut out: Vec<_> = reasons.map(|(reason, items)| (reason.clone(), three(items))).collect();
    out.retain(|(_, items)| *items != [0; 3]);
    out
}

fn account_of_agent(status: &Value) -> Account {
    let wal = &status["wal"];
    Account {
        taken: three(&wal["accepted"]),
        delivered: three(&wal["delivered"]),
        dead: [0; 3],
        held: three(&wal["on_board"]),
        dropped: by_reason(&wal["dropped"]),
    }
}

fn account_of_ground(accounting: &Value) -> Account {
    let of = &accounting[SATELLITE];
    let mut dropped = by_reason(&of["dropped_by_reason"]);
    dropped.push(("station_lost".to_owned(), three(&of["lost"])));
    Account {
        taken: three(&of["committed"]),
        delivered: three(&of["exported"]),
        dead: three(&of["dead_lettered"]),
        held: three(&of["in_spool"]),
        dropped,
    }
}
