//! When a station is reachable, as far as is planned: always, by a plan or an orbit, now and then, or as flight software says
//! over the control socket.
//!
//! A contact that was opened by hand goes before the plan until it is closed or over. A plan that has run out falls back to
//! probing, and so does any while the time is not known ([`crate::clock`]), so that a satellite never goes silent.

mod config;
mod file;
mod probe;
mod status;
mod watch;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use perigee_shared::config::ConfigError;
use perigee_shared::contact::Contact;
use perigee_shared::env::{Env, Placement};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch as channel};
use tokio_util::sync::CancellationToken;

pub use config::{ContactSource, ContactStation, ContactsConfig, Fallback, OrbitConfig, ProbeConfig};
pub use status::{LinkState, LinkStatus, Links};

use crate::clock::{Clocks, Now};
use file::{FileSource, Predicted};
use probe::Probe;
use watch::FileWatch;

/// The wall clock may be set: never sleep longer while a time is waited for.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// A contact with what it can carry.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pass {
    /// The contact.
    #[serde(flatten)]
    pub contact: Contact,
    /// Bytes that it can still carry, as far as its rate and end are known.
    pub volume_bytes: Option<u64>,
}

impl Pass {
    fn new(contact: &Contact, now: u64) -> Self {
        Self { contact: contact.clone(), volume_bytes: contact.volume(now) }
    }
}

/// A contact of which it is known when it ends and what it can carry, for forecasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    /// LOS, ns since the Unix epoch.
    pub end: u64,
    /// Bytes.
    pub volume: u64,
}

/// Which contacts are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Asked {
    /// Those that begin before this, ns since the Unix epoch.
    pub until: u64,
    /// Those that begin then or later, ns since the Unix epoch, without the first so many of them: for the next page.
    pub from: u64,
    /// See `from`.
    pub skip: usize,
    /// At most so many.
    pub limit: usize,
}

impl Default for Asked {
    fn default() -> Self {
        Self { until: u64::MAX, from: 0, skip: 0, limit: 100 }
    }
}

/// What is planned.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Planned {
    /// The contact that is open; the first of them, where there are two.
    pub current: Option<Pass>,
    /// All contacts that are open.
    pub open: Vec<Pass>,
    /// The next ones, of those that were asked for.
    pub upcoming: Vec<Pass>,
    /// How many of those that were asked for are not among them.
    pub more: usize,
    /// What all of the plan carries, the open contacts first, where that was asked for.
    #[serde(skip)]
    pub ahead: Vec<Ahead>,
    /// What the first of the open contacts comes from: `hand`, `plan`, `always` or `probe`.
    pub current_by: Option<&'static str>,
    /// `contacts.source`.
    pub source: &'static str,
    /// The first 8 bytes of the BLAKE3 hash of the file that is in force.
    #[serde(skip)]
    pub plan_hash: Option<u64>,
    /// From where passes are predicted, where all of the plan was asked for.
    #[serde(skip)]
    pub orbit: Option<perigee_proto::link::Orbit>,
    /// There is no plan any more: stations are tried now and then.
    pub probing: bool,
    /// Why the plan in force cannot be followed: the time is not known.
    pub clock_doubt: Option<String>,
    /// The time that this is as of, ns since the Unix epoch.
    #[serde(skip)]
    pub now: u64,
    /// Why the plan file on disk is not in force.
    pub plan_error: Option<String>,
    /// What is odd about the plan that is in force.
    pub plan_warnings: Vec<String>,
}

/// Reads the file that `config` names as of `now`, with these stations: what is odd about it, or why it cannot be used.
pub fn look(config: &ContactsConfig, stations: &[String], now: u64) -> Result<Vec<String>, ConfigError> {
    let Some(mut file) = FileSource::new(config, stations) else { return Ok(Vec::new()) };
    file.read(now)?;
    Ok(file.warnings(now))
}

enum Command {
    Open(Box<Contact>),
    Close(oneshot::Sender<bool>),
    Configure(Box<ContactsConfig>, Vec<String>),
    List(Asked, Extent, oneshot::Sender<Planned>),
}

/// Whether what all of the plan carries is wanted too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Listed,
    All,
}

/// Opens, closes and lists contacts.
#[derive(Clone)]
pub struct ContactControl(mpsc::Sender<Command>);

/// The agent is shutting down.
#[derive(Debug, thiserror::Error)]
#[error("the agent is shutting down")]
pub struct Ending;

impl ContactControl {
    /// Opens a contact now. One that was opened before is over, unless there may be two at once.
    pub async fn open(&self, contact: Contact) -> Result<(), Ending> {
        self.0.send(Command::Open(Box::new(contact))).await.map_err(|_| Ending)
    }

    /// Closes what was opened by hand; whether there was any.
    pub async fn close(&self) -> Result<bool, Ending> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Command::Close(reply)).await.map_err(|_| Ending)?;
        answer.await.map_err(|_| Ending)
    }

    /// Goes by another configuration, with these stations. A contact with one of them that was opened by hand stays.
    pub async fn configure(&self, config: ContactsConfig, stations: Vec<String>) -> Result<(), Ending> {
        self.0.send(Command::Configure(Box::new(config), stations)).await.map_err(|_| Ending)
    }

    /// What is planned, of the next contacts those that are asked for.
    pub async fn list(&self, asked: Asked) -> Result<Planned, Ending> {
        self.ask(asked, Extent::Listed).await
    }

    /// What is planned next.
    pub async fn next(&self) -> Result<Planned, Ending> {
        self.ask(Asked { limit: 1, ..Asked::default() }, Extent::Listed).await
    }

    /// What is planned next, and what all of the plan carries.
    pub async fn ahead(&self) -> Result<Planned, Ending> {
        self.ask(Asked { limit: 1, ..Asked::default() }, Extent::All).await
    }

    async fn ask(&self, asked: Asked, extent: Extent) -> Result<Planned, Ending> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Command::List(asked, extent, reply)).await.map_err(|_| Ending)?;
        answer.await.map_err(|_| Ending)
    }
}

/// Those whom contacts concern.
pub struct Told {
    /// The contact that is open in each slot.
    pub current: Vec<channel::Sender<Option<Contact>>>,
    /// Whether segments are wanted, now or soon.
    pub wanted: channel::Sender<bool>,
}

/// See the module.
pub struct Contacts {
    env: Env,
    clocks: Clocks,
    commands: mpsc::Receiver<Command>,
    told: Told,
    /// The link in fact: a probe that has found its station goes on.
    link: channel::Receiver<Links>,
    /// Something beside the link takes segments at any time.
    direct: bool,
    /// What waits is sealed this long before a contact.
    lead: Duration,
    /// Those that were opened by hand, the last one first; with the time since boot at which each is over.
    by_hand: Vec<(Contact, Option<u64>)>,
    always: Option<Contact>,
    file: Option<FileSource>,
    /// `None`: nothing is tried that is not planned.
    probe: Option<Probe>,
    /// Who asked before the first passes were predicted.
    asked: Vec<(Asked, Extent, oneshot::Sender<Planned>)>,
    source: ContactSource,
    /// Those of the configuration.
    stations: Vec<String>,
}

/// A prediction under way.
type Prediction = Pin<Box<dyn Future<Output = Predicted> + Send>>;

impl Contacts {
    /// Contacts as `config` says, with these stations. A plan or an orbit that cannot be used keeps no agent from starting:
    /// it is reported, and stations are tried as after a plan's end. Passes are predicted once [`Contacts::run`] runs.
    pub fn new(
        config: &ContactsConfig,
        stations: &[String],
        clocks: Clocks,
        lead: Duration,
        direct: bool,
        told: Told,
        link: channel::Receiver<Links>,
    ) -> (Self, ContactControl) {
        let (control, commands) = mpsc::channel(16);
        let mut contacts = Self {
            env: clocks.env().clone(),
            clocks,
            commands,
            told,
            link,
            direct,
            lead,
            by_hand: Vec::new(),
            always: None,
            file: None,
            probe: None,
            asked: Vec::new(),
            source: config.source,
            stations: Vec::new(),
        };
        contacts.configure(config, stations);
        (contacts, ContactControl(control))
    }

    fn configure(&mut self, config: &ContactsConfig, stations: &[String]) {
        let now = self.clocks.now().unix_nano;
        self.source = config.source;
        self.stations = stations.to_vec();
        self.always = match (config.source, &config.station) {
            (ContactSource::Always, Some(station)) => Some(Contact::open(station.as_str(), now)),
            _ => None,
        };
        let before = std::mem::replace(&mut self.file, FileSource::new(config, stations));
        if let Some(file) = &mut self.file {
            if let Some(before) = before {
                // Until there are others, and a contact that goes on is the same one.
                file.plan = before.plan;
            }
            file.reload(now);
        }
        let probes = match config.source {
            ContactSource::Probe => true,
            ContactSource::Plan | ContactSource::Orbit => config.fallback == Fallback::Probe,
            ContactSource::Always | ContactSource::Manual => false,
        };
        self.probe = probes.then(|| Probe::new(config, stations.to_vec()));
    }

    /// Whether the time is known and there is a plan, and contacts in it that are not over, or there will be in a moment.
    fn is_planned(&self, now: &Now) -> bool {
        let runs = |f: &FileSource| now.plan.is_some_and(|now| f.is_awaited() || !f.plan.has_run_out(now));
        self.file.as_ref().is_some_and(runs)
    }

    /// Whether the first passes are still to come.
    fn is_awaited(&self) -> bool {
        self.clocks.now().plan.is_some() && self.file.as_ref().is_some_and(FileSource::is_awaited)
    }

    /// Begins the prediction that is due; it runs away from the tasks that serve connections.
    fn begin(&mut self) -> Option<Prediction> {
        let work = self.file.as_mut()?.work(self.clocks.now().plan?)?;
        let env = self.env.clone();
        Some(Box::pin(async move { env.cpu(move || work.run()).await }))
    }

    fn take(&mut self, predicted: Predicted) {
        if let Some(file) = &mut self.file {
            file.take(predicted);
        }
        self.answer();
    }

    /// Tells those who have waited for the first passes.
    fn answer(&mut self) {
        for (asked, extent, reply) in std::mem::take(&mut self.asked) {
            // Whoever asked may have gone away.
            let _ = reply.send(self.planned(asked, extent));
        }
    }

    /// The contacts that are open, the best first: one that was opened by hand, then those of the plan, the one that began last first.
    fn open_now(&mut self, now: &Now) -> Vec<Contact> {
        // What was opened by hand, or planned, before the configuration was read again may be with a station that is gone.
        let is_known = |contact: &Contact| self.stations.iter().any(|id| **id == *contact.station);
        self.by_hand.retain(|(c, ends)| is_known(c) && ends.is_none_or(|end| now.since_boot < end));
        let planned = self.is_planned(now);
        let up = self
            .probe
            .as_ref()
            .and_then(Probe::station)
            .is_some_and(|station| self.link.borrow().is_up_with(station));
        let plan = self.file.as_ref().zip(now.plan).map(|(f, now)| f.plan.open(now));
        let mut plan = plan.into_iter().flatten().filter(|contact| is_known(contact)).peekable();
        let probed = match &mut self.probe {
            // A station that answers is not left because the time is known now.
            Some(probe) if self.by_hand.is_empty() && (!planned || plan.peek().is_none() && up) => {
                probe.step(now, up)
            }
            Some(probe) => {
                probe.stop();
                None
            }
            None => None,
        };
        let by_hand = self.by_hand.iter().map(|(contact, _)| contact);
        let mut out: Vec<Contact> = Vec::new();
        for contact in by_hand.chain(plan).chain(&self.always).chain(&probed) {
            if out.len() == self.told.current.len() {
                break;
            }
            // A station has one contact at a time.
            if out.iter().all(|open| open.station != contact.station) {
                out.push(contact.clone());
            }
        }
        out
    }

    /// What is open in each slot when these contacts are. One that goes on keeps its slot, and a new one takes none that another
    /// has just left, if it can.
    fn slots(&self, open: Vec<Contact>) -> Vec<Option<Contact>> {
        let before: Vec<Option<Arc<str>>> =
            self.told.current.iter().map(|c| c.borrow().as_ref().map(|c| c.station.clone())).collect();
        let mut slots: Vec<Option<Contact>> = vec![None; before.len()];
        let mut fresh = Vec::new();
        for contact in open {
            match before.iter().position(|station| station.as_ref() == Some(&contact.station)) {
                Some(slot) => slots[slot] = Some(contact),
                None => fresh.push(contact),
            }
        }
        for contact in fresh {
            let free = |slot: &usize| slots[*slot].is_none();
            let unused = |slot: &usize| free(slot) && before[*slot].is_none();
            let all = 0..before.len();
            if let Some(slot) = all.clone().find(unused).or_else(|| all.clone().find(free)) {
                slots[slot] = Some(contact);
            }
        }
        slots
    }

    /// Tells the others what holds at `now`; returns how long that is at least. `None`: until something happens.
    fn tell(&mut self, now: &Now) -> Option<Duration> {
        let open = self.open_now(now);
        let at = now.plan.unwrap_or(now.unix_nano);
        // With an unknown time there are no starts and ends; it may become known at any time.
        let plan = self.file.as_ref().filter(|_| now.plan.is_some()).map(|f| &f.plan);
        let next_start = plan.and_then(|p| p.upcoming(at).first()).map(Contact::opens);
        let soon = next_start.map(|start| Duration::from_nanos(start - at));
        let wanted =
            self.direct || self.always.is_some() || !open.is_empty() || soon.is_some_and(|s| s <= self.lead);
        let since_boot = |end: u64| Duration::from_nanos(end.saturating_sub(now.since_boot));
        let by_hand = self.by_hand.iter().filter_map(|(_, ends)| *ends).min().map(since_boot);
        for (slot, contact) in self.told.current.iter().zip(self.slots(open)) {
            slot.send_if_modified(|current| {
                let changed = *current != contact;
                *current = contact;
                changed
            });
        }
        self.told.wanted.send_if_modified(|w| std::mem::replace(w, wanted) != wanted);
        let from_now = |time: u64| Duration::from_nanos(time.saturating_sub(at));
        let change = plan.and_then(|p| p.next_change(at)).map(from_now);
        let lead = soon.and_then(|s| s.checked_sub(self.lead)).filter(|d| !d.is_zero());
        let refresh = self.file.as_ref().and_then(FileSource::refresh_at).map(from_now);
        let probe =
            self.probe.as_ref().filter(|_| !self.is_planned(now)).and_then(Probe::wakes).map(since_boot);
        let unknown = (self.file.is_some() && now.plan.is_none()).then_some(LONGEST_SLEEP);
        let even = self.clocks.even_from().map(since_boot);
        [by_hand, change, lead, refresh, probe, unknown, even]
            .into_iter()
            .flatten()
            .min()
            .map(|d| d.min(LONGEST_SLEEP))
    }

    /// Follows the clock, the plan file and the control socket until `shutdown`.
    pub async fn run(&mut self, shutdown: CancellationToken) {
        let real = self.env.placement == Placement::Thread;
        let watch = |file: &Option<FileSource>| file.as_ref().map(|f| FileWatch::new(f.path(), real));
        let mut files = watch(&self.file);
        let mut prediction = None;
        loop {
            if let Some(file) = &mut self.file {
                file.refresh(self.clocks.now().unix_nano);
            }
            if prediction.is_none() {
                prediction = self.begin();
            }
            let holds = self.tell(&self.clocks.now()).map(|d| d.max(Duration::from_millis(1)));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                command = self.commands.recv() => match command {
                    Some(command) => if self.obey(command) {
                        (files, prediction) = (watch(&self.file), None);
                    },
                    None => return,
                },
                predicted = finished(&mut prediction) => {
                    prediction = None;
                    self.take(predicted);
                }
                // An error means that nobody ships.
                _ = self.link.changed(), if self.probe.is_some() && self.link.has_changed().is_ok() => {}
                told = changed(&mut files) => {
                    // Without word from the kernel its time decides, at the head of this loop.
                    if let Some(file) = self.file.as_mut().filter(|_| told) {
                        file.reload(self.clocks.now().unix_nano);
                    }
                }
                () = sleep(holds) => {}
            }
        }
    }

    /// Whether it has another file to go by now.
    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Configure(config, stations) => {
                self.configure(&config, &stations);
                self.answer();
                return true;
            }
            Command::Open(contact) => {
                let now = self.clocks.now();
                let ends = contact.left(now.unix_nano).map(|left| now.since_boot + left.as_nanos() as u64);
                self.by_hand.retain(|(open, _)| open.station != contact.station);
                self.by_hand.insert(0, (*contact, ends));
                self.by_hand.truncate(self.told.current.len());
            }
            Command::Close(reply) => {
                let was_open = !std::mem::take(&mut self.by_hand).is_empty();
                self.tell(&self.clocks.now());
                // Whoever asked may have gone away.
                let _ = reply.send(was_open);
            }
            Command::List(asked, extent, reply) if self.is_awaited() => {
                self.asked.push((asked, extent, reply));
            }
            Command::List(asked, extent, reply) => drop(reply.send(self.planned(asked, extent))),
        }
        false
    }

    fn planned(&mut self, asked: Asked, extent: Extent) -> Planned {
        let at = self.clocks.now();
        let now = at.unix_nano;
        let open: Vec<Pass> = self.open_now(&at).iter().map(|c| Pass::new(c, now)).collect();
        let of_plan =
            self.file.as_ref().zip(at.plan).is_some_and(|(f, now)| f.plan.open(now).next().is_some());
        let current_by = open.first().map(|_| match () {
            () if !self.by_hand.is_empty() => "hand",
            () if of_plan => "plan",
            () if self.always.is_some() => "always",
            () => "probe",
        });
        let plan = self.file.as_ref().filter(|_| at.plan.is_some());
        let upcoming = plan.map_or(&[][..], |f| f.plan.upcoming(now));
        let warnings = plan.map(|f| f.warnings(now)).unwrap_or_default();
        let ahead = open.iter().map(|pass| &pass.contact).chain(upcoming).filter(|_| extent == Extent::All);
        let ahead =
            ahead.filter_map(|c| Some(Ahead { end: c.end_unix_nano?, volume: c.volume(now)? })).collect();
        let begins_before = |time: u64| upcoming.partition_point(|c| c.start_unix_nano < time);
        let asked_for = upcoming.get(begins_before(asked.from)..begins_before(asked.until));
        let asked_for = asked_for.and_then(|from| from.get(asked.skip..)).unwrap_or_default();
        Planned {
            current: open.first().cloned(),
            open,
            current_by,
            upcoming: asked_for.iter().take(asked.limit).map(|c| Pass::new(c, now)).collect(),
            more: asked_for.len().saturating_sub(asked.limit),
            ahead,
            source: self.source.name(),
            plan_hash: self.file.as_ref().and_then(|f| f.hash),
            orbit: self.file.as_ref().filter(|_| extent == Extent::All).and_then(FileSource::told),
            probing: self.probe.is_some() && !self.is_planned(&at),
            clock_doubt: self.file.as_ref().and_then(|_| self.clocks.unknown()),
            now,
            plan_error: self.file.as_ref().and_then(|f| f.error.clone()),
            plan_warnings: warnings,
        }
    }
}

async fn finished(prediction: &mut Option<Prediction>) -> Predicted {
    match prediction {
        Some(prediction) => prediction.await,
        None => std::future::pending().await,
    }
}

async fn changed(files: &mut Option<FileWatch>) -> bool {
    match files {
        Some(files) => files.changed().await,
        None => std::future::pending().await,
    }
}

async fn sleep(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
