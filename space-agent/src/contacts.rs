//! When a station is reachable, as far as is planned: always, by a plan file, or as flight software says over the control socket.
//!
//! A contact that was opened by hand goes before the plan until it is closed or over.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use perigee_shared::config::{self, ConfigError, Invalid};
use perigee_shared::contact::{Contact, Plan, PlanFile};
use perigee_shared::env::Env;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::config::{ContactSource, ContactsConfig};

/// How often the plan file is looked at.
const PLAN_POLL: Duration = Duration::from_secs(1);

/// The wall clock may be set: never sleep longer.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// What is planned.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Planned {
    /// The contact that is open.
    pub current: Option<Contact>,
    /// The next ones, at most a hundred.
    pub upcoming: Vec<Contact>,
    /// Why the plan file on disk is not in force.
    pub plan_error: Option<String>,
}

enum Command {
    Open(Box<Contact>),
    Close(oneshot::Sender<bool>),
    List(oneshot::Sender<Planned>),
}

/// Opens, closes and lists contacts.
#[derive(Clone)]
pub struct ContactControl(mpsc::Sender<Command>);

/// The agent is shutting down.
#[derive(Debug, thiserror::Error)]
#[error("the agent is shutting down")]
pub struct Ending;

impl ContactControl {
    /// Opens a contact now; one that was opened before is over.
    pub async fn open(&self, contact: Contact) -> Result<(), Ending> {
        self.0.send(Command::Open(Box::new(contact))).await.map_err(|_| Ending)
    }

    /// Closes the contact that was opened by hand; whether there was one.
    pub async fn close(&self) -> Result<bool, Ending> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Command::Close(reply)).await.map_err(|_| Ending)?;
        answer.await.map_err(|_| Ending)
    }

    /// What is planned.
    pub async fn list(&self) -> Result<Planned, Ending> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Command::List(reply)).await.map_err(|_| Ending)?;
        answer.await.map_err(|_| Ending)
    }
}

/// See the module.
pub struct Contacts {
    env: Env,
    commands: mpsc::Receiver<Command>,
    current: watch::Sender<Option<Contact>>,
    wanted: watch::Sender<bool>,
    /// Something takes segments at any time.
    always_wanted: bool,
    /// What waits is sealed this long before a contact.
    lead: Duration,
    by_hand: Option<Contact>,
    always: Option<Contact>,
    plan: Option<PlanSource>,
}

impl Contacts {
    /// Contacts as `config` says, for `stations`. `current` is told of each change; `wanted` is true while segments are wanted.
    pub fn try_new(
        config: &ContactsConfig,
        stations: BTreeSet<String>,
        env: Env,
        lead: Duration,
        always_wanted: bool,
        current: watch::Sender<Option<Contact>>,
        wanted: watch::Sender<bool>,
    ) -> Result<(Self, ContactControl), ConfigError> {
        let (control, commands) = mpsc::channel(16);
        let always = match (config.source, &config.station) {
            (ContactSource::Always, Some(station)) => Some(Contact::open(station, env.unix_nano())),
            _ => None,
        };
        let plan = match (config.source, &config.file) {
            (ContactSource::Plan, Some(file)) => Some(PlanSource::try_new(file.clone(), stations)?),
            _ => None,
        };
        let always_wanted = always_wanted || always.is_some();
        let contacts =
            Self { env, commands, current, wanted, always_wanted, lead, by_hand: None, always, plan };
        Ok((contacts, ContactControl(control)))
    }

    fn planned_now(&mut self, now: u64) -> Option<Contact> {
        self.by_hand = self.by_hand.take().filter(|c| c.contains(now));
        let plan = self.plan.as_ref().and_then(|p| p.plan.current(now));
        self.by_hand.as_ref().or(plan).or(self.always.as_ref()).cloned()
    }

    /// Tells the others what holds at `now`; returns how long that is at least.
    fn tell(&mut self, now: u64) -> Duration {
        let contact = self.planned_now(now);
        let next_start =
            self.plan.as_ref().and_then(|p| p.plan.upcoming(now).first()).map(|c| c.start_unix_nano);
        let soon = next_start.map(|start| Duration::from_nanos(start - now));
        let wanted = self.always_wanted || contact.is_some() || soon.is_some_and(|s| s <= self.lead);
        let ends = contact.as_ref().and_then(|c| c.left(now));
        self.current.send_if_modified(|current| {
            let changed = *current != contact;
            *current = contact;
            changed
        });
        self.wanted.send_if_modified(|w| std::mem::replace(w, wanted) != wanted);
        let plan = self.plan.as_ref();
        let change = plan.and_then(|p| p.plan.next_change(now)).map(|at| Duration::from_nanos(at - now));
        let lead = soon.and_then(|s| s.checked_sub(self.lead)).filter(|d| !d.is_zero());
        let longest = if plan.is_some() { PLAN_POLL } else { LONGEST_SLEEP };
        [ends, change, lead].into_iter().flatten().min().map_or(longest, |d| d.min(longest))
    }

    /// Follows the clock, the plan file and the control socket until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            if let Some(plan) = &mut self.plan {
                plan.reload();
            }
            let holds = self.tell(self.env.unix_nano()).max(Duration::from_millis(1));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                () = tokio::time::sleep(holds) => {}
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Open(contact) => self.by_hand = Some(*contact),
            Command::Close(reply) => {
                let was_open = self.by_hand.take().is_some();
                self.tell(self.env.unix_nano());
                // Whoever asked may have gone away.
                let _ = reply.send(was_open);
            }
            Command::List(reply) => {
                let now = self.env.unix_nano();
                let current = self.planned_now(now);
                let upcoming = self.plan.as_ref().map_or(&[][..], |p| p.plan.upcoming(now));
                let upcoming = upcoming.iter().take(100).cloned().collect();
                let plan_error = self.plan.as_ref().and_then(|p| p.error.clone());
                drop(reply.send(Planned { current, upcoming, plan_error }));
            }
        }
    }
}

/// The plan file, read again when it changes. One that cannot be read leaves the last good plan in force.
struct PlanSource {
    file: PathBuf,
    stations: BTreeSet<String>,
    plan: Plan,
    modified: Option<SystemTime>,
    error: Option<String>,
}

impl PlanSource {
    fn try_new(file: PathBuf, stations: BTreeSet<String>) -> Result<Self, ConfigError> {
        let modified = modified(&file);
        let plan = read(&file, &stations)?;
        tracing::info!(contacts = plan.len(), file = %file.display(), "contact plan read");
        Ok(Self { file, stations, plan, modified, error: None })
    }

    fn reload(&mut self) {
        let modified = modified(&self.file);
        if modified == self.modified {
            return;
        }
        self.modified = modified;
        match read(&self.file, &self.stations) {
            Ok(plan) => {
                tracing::info!(contacts = plan.len(), "contact plan read again");
                self.plan = plan;
                self.error = None;
            }
            Err(error) => {
                tracing::error!(%error, "the contact plan cannot be used; the last good one stays in force");
                self.error = Some(error.to_string());
            }
        }
    }
}

fn modified(file: &std::path::Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|m| m.modified()).ok()
}

fn read(file: &std::path::Path, stations: &BTreeSet<String>) -> Result<Plan, ConfigError> {
    let plan: PlanFile = config::load(file, |_| None)?;
    Plan::try_new(plan, stations).map_err(|Invalid { key, message }| ConfigError::Invalid {
        path: file.display().to_string(),
        key,
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contacts(
        config: &ContactsConfig,
    ) -> (Contacts, watch::Receiver<Option<Contact>>, watch::Receiver<bool>) {
        let (current, now) = watch::channel(None);
        let (wanted, want) = watch::channel(false);
        let stations = BTreeSet::from(["svalbard".to_owned()]);
        let lead = Duration::from_secs(5);
        let (contacts, _) =
            Contacts::try_new(config, stations, Env::production(), lead, false, current, wanted).unwrap();
        (contacts, now, want)
    }

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_plan_opens_and_closes_and_wants_segments_a_little_before() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("plan.yaml");
        let text =
            "contacts: [{station: svalbard, start: 1970-01-01T00:01:40Z, end: 1970-01-01T00:02:00Z}]\n";
        std::fs::write(&file, text).unwrap();
        let config = ContactsConfig { source: ContactSource::Plan, station: None, file: Some(file.clone()) };
        let (mut contacts, now, want) = contacts(&config);
        contacts.tell(90 * S);
        assert!(now.borrow().is_none() && !*want.borrow());
        contacts.tell(95 * S);
        assert!(now.borrow().is_none() && *want.borrow());
        contacts.tell(100 * S);
        assert!(now.borrow().is_some());
        contacts.tell(120 * S);
        assert!(now.borrow().is_none() && !*want.borrow());

        std::fs::write(&file, "contacts: [{station: nowhere}]\n").unwrap();
        let source = contacts.plan.as_mut().unwrap();
        source.modified = None;
        source.reload();
        assert!(source.error.is_some() && source.plan.len() == 1, "the last good plan stays");
    }

    #[test]
    fn a_contact_by_hand_goes_first_and_ends_by_itself() {
        let (mut contacts, now, _) = contacts(&ContactsConfig {
            source: ContactSource::Always,
            station: Some("svalbard".into()),
            file: None,
        });
        contacts.tell(u64::MAX);
        assert_eq!(now.borrow().as_ref().unwrap().end_unix_nano, None);
        let by_hand = Contact { end_unix_nano: Some(20 * S), ..Contact::open("svalbard", 10 * S) };
        contacts.obey(Command::Open(Box::new(by_hand.clone())));
        contacts.tell(15 * S);
        assert_eq!(*now.borrow(), Some(by_hand));
        contacts.tell(20 * S);
        assert_eq!(now.borrow().as_ref().unwrap().end_unix_nano, None);
    }
}
