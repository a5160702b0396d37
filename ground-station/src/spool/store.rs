//! The asynchronous interface to the spool: all that the link, the exporters, the API and the commands know of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use perigee_proto::link;
use perigee_shared::env::Env;
use perigee_shared::export::Limits;
use perigee_shared::segment::{Base, Header};
use perigee_shared::signal::SignalSet;
use perigee_shared::store::scrub::Step;
use perigee_shared::supervise::Supervisor;
use tokio::sync::watch;

use super::clocks::Greeting;
use super::columns::ColumnsView;
use super::contents::Settings;
use super::decode::Work;
use super::error::SpoolError;
use super::intake::{Applied, Incoming};
use super::ledger::Answer;
use super::letters::{LetterView, Replay};
use super::local::Local;
use super::look::Glance;
use super::outlet::{Place, Progress};
use super::passes::{Heard, PassView};
use super::postgres::{EngineError, Fleet, FleetSettings, Migrating, MigrationView, migrate, migrated};
use super::replay::{Again, ReplayStep, ReplayView, ReplayWanted};
use super::standing::StandingView;
use super::upkeep::Status;
use super::views::{AccountView, GapView, Gaps, SatelliteView, SpoolView};
use crate::memory::Budget;

/// How the program reaches its store. Clones reach the same one.
///
/// Behind it is a redb file that this process alone owns, or PostgreSQL, which any number of stations share. Both keep these
/// promises:
///
/// - **Ledger.** [`Intake::commit`] answers [`Applied::New`] once for each segment and ledger, whoever asks. What it answers is
///   durable. [`Intake::put_payload`] is the call before it: it may make bytes durable that no ledger names yet.
///   [`Intake::ledger`] and [`Intake::drops`] are durable when they return.
/// - **Outlet.** [`Outlet::next`] hands out segments, urgent lanes first and of each lane in the order of commits, verified and
///   decoded. [`Outlet::progress`] moves a cursor and keeps dead letters, both or none; the same progress may be reported again.
/// - **Patience.** While the store fails, the calls that change something wait, and the status says so. Nothing is given up, and
///   links stop reading. An error that comes back is one that waiting does not mend.
/// - **Views** answer from one moment. What takes long runs beside the commits.
#[derive(Clone)]
pub struct Store(Engine, watch::Sender<u64>);

#[derive(Clone)]
enum Engine {
    File(Box<Local>),
    Shared(Fleet),
}

/// Bytes that the store has taken, for [`Intake::commit`] to name. They share the transaction of the commit; what is dropped
/// without one is forgotten.
#[derive(Debug)]
pub struct Taken(Incoming);

/// Asks the one that is there.
macro_rules! ask {
    ($store:expr, $role:ident.$method:ident($($argument:expr),*)) => {
        match &$store.0 {
            Engine::File(file) => file.$role().$method($($argument),*).await,
            Engine::Shared(fleet) => fleet.$role().$method($($argument),*).await,
        }
    };
}

/// The same of what changes passes, gaps or dead letters, which [`Store::lists`] tells.
macro_rules! change {
    ($store:expr, $role:ident.$method:ident($($argument:expr),*)) => {{
        let done = ask!($store, $role.$method($($argument),*));
        $store.1.send_modify(|changes| *changes += 1);
        done
    }};
}

impl Store {
    fn of(engine: Engine) -> Self {
        Self(engine, watch::Sender::new(0))
    }

    /// Opens the spool's file; makes one when there is none. `reserve` bytes are kept free for what is being received. Must be
    /// called inside a tokio runtime.
    pub fn open(env: &Env, settings: Settings, reserve: u64) -> Result<Self, SpoolError> {
        if let Some(file) = migrated(env, &settings.directory) {
            return Err(EngineError::HasMoved(file.display().to_string()).into());
        }
        Ok(Self::of(Engine::File(Box::new(Local::open(env, settings, reserve)?))))
    }

    /// Opens a file that is there and that nobody runs, to ask it something: takes nothing in and puts nothing aside. One of an
    /// earlier format is brought to this one.
    pub fn open_existing(env: &Env, settings: Settings) -> Result<Self, SpoolError> {
        Ok(Self::of(Engine::File(Box::new(Local::open_existing(env, settings)?))))
    }

    /// Joins the stations that share the ledger in PostgreSQL; waits until the database answers.
    pub async fn join(
        env: &Env,
        settings: Settings,
        fleet: FleetSettings,
        reserve: u64,
    ) -> Result<Self, SpoolError> {
        Ok(Self::of(Engine::Shared(Box::pin(Fleet::join(env, settings, fleet, reserve)).await?)))
    }

    /// Reaches the shared ledger to ask it something: nothing runs beside the questions.
    pub async fn look(env: &Env, settings: Settings, fleet: FleetSettings) -> Result<Self, SpoolError> {
        Ok(Self::of(Engine::Shared(Box::pin(Fleet::look(env, settings, fleet)).await?)))
    }

    /// Brings the file of `from`, which nobody runs, into the shared ledger, and says how far that is. With `ahead` it is not
    /// ended: no station joins the ledger before a run without `ahead` has written what has changed since.
    pub async fn migrate(
        env: &Env,
        from: Settings,
        fleet: FleetSettings,
        ahead: bool,
        tell: impl FnMut(Migrating<'_>),
    ) -> Result<MigrationView, SpoolError> {
        Box::pin(migrate(env, from, fleet, ahead, tell)).await
    }

    #[cfg(test)]
    pub(super) fn local(&self) -> &Local {
        match &self.0 {
            Engine::File(local) => local,
            Engine::Shared(_) => panic!("this store is shared"),
        }
    }

    fn settings(&self) -> Arc<Settings> {
        match &self.0 {
            Engine::File(file) => Arc::clone(file.settings()),
            Engine::Shared(fleet) => fleet.settings(),
        }
    }

    /// What watches its tasks, and can watch others.
    pub fn tasks(&self) -> &Supervisor {
        match &self.0 {
            Engine::File(file) => file.tasks(),
            Engine::Shared(fleet) => fleet.tasks(),
        }
    }

    /// What changes while it works.
    pub fn status(&self) -> watch::Receiver<Status> {
        match &self.0 {
            Engine::File(file) => file.status(),
            Engine::Shared(fleet) => fleet.status(),
        }
    }

    /// Changes whenever this station has changed passes, gaps or dead letters.
    pub fn lists(&self) -> watch::Receiver<u64> {
        self.1.subscribe()
    }

    /// The memory that whoever decodes segments shares.
    pub fn decoding(&self) -> Budget {
        match &self.0 {
            Engine::File(file) => file.settings().decoding.clone(),
            Engine::Shared(fleet) => fleet.settings().decoding.clone(),
        }
    }

    /// Has the other stations of a shared ledger told which satellites have an open link here, as `open` says.
    pub fn tell_links(&self, open: impl Fn() -> Vec<String> + Send + Sync + 'static) {
        if let Engine::Shared(fleet) = &self.0 {
            fleet.tell_links(open);
        }
    }

    /// The way in: what the link hands over.
    pub const fn intake(&self) -> Intake<'_> {
        Intake(self)
    }

    /// The way out: what exporters are handed, and how far they are.
    pub const fn outlet(&self) -> Outlet<'_> {
        Outlet(self)
    }

    /// What is sent again: dead letters, and ranges of time.
    pub const fn replays(&self) -> Replays<'_> {
        Replays(self)
    }

    /// What people and tools are shown.
    pub const fn views(&self) -> Views<'_> {
        Views(self)
    }

    /// What keeps the store in order: verifying, copying, scrubbing, making room.
    pub const fn upkeep(&self) -> Upkeep<'_> {
        Upkeep(self)
    }

    /// Ends the store in order; what was handed in before is durable then. With other handles still held it is only let go, and
    /// closes when the last of them is.
    pub async fn close(self) {
        match self.0 {
            Engine::File(file) => file.close().await,
            Engine::Shared(fleet) => fleet.close().await,
        }
    }
}

/// The way in: what the link hands over.
#[derive(Clone, Copy)]
pub struct Intake<'a>(&'a Store);

impl Intake<'_> {
    /// Takes bytes of a segment, for a commit to name.
    pub async fn put_payload(self, incoming: Incoming) -> Result<Taken, SpoolError> {
        Ok(Taken(incoming))
    }

    /// Commits what is whole and holds what is not; what comes back is durable. What several connections hand in at once shares
    /// a transaction.
    pub async fn commit(self, batch: Vec<Taken>) -> Result<Vec<Applied>, SpoolError> {
        let batch: Vec<Incoming> = batch.into_iter().map(|taken| taken.0).collect();
        ask!(self.0, intake.commit(batch))
    }

    /// Takes in a satellite's Hello and answers where it may resume.
    pub async fn ledger(self, satellite: Arc<str>, hello: impl Into<Greeting>) -> Result<Answer, SpoolError> {
        let greeting = hello.into();
        change!(self.0, intake.ledger(satellite, greeting))
    }

    /// Records drops. Returns their acknowledgement.
    pub async fn drops(
        self,
        satellite: Arc<str>,
        drops: Arc<link::EpochDrops>,
    ) -> Result<link::DropsAck, SpoolError> {
        change!(self.0, intake.drops(satellite, drops))
    }

    /// Keeps what was seen of a contact on a link that has ended.
    pub async fn heard(self, satellite: Arc<str>, heard: Heard) -> Result<(), SpoolError> {
        change!(self.0, intake.heard(satellite, heard))
    }
}

/// The way out: what exporters are handed, and how far they are.
#[derive(Clone, Copy)]
pub struct Outlet<'a>(&'a Store);

impl Outlet<'_> {
    /// The next segment with one of `signals` for an exporter whose cut has this fingerprint. One whose bytes are not what was
    /// committed becomes a gap, one that does not decode a dead letter; both are passed over.
    pub async fn next(
        self,
        exporter: Arc<str>,
        signals: SignalSet,
        fingerprint: u64,
    ) -> Result<Option<Work>, SpoolError> {
        ask!(self.0, outlet.next(exporter, signals, fingerprint))
    }

    /// Whether an exporter that is at `place` would be handed another segment now: a more urgent one, or one of a lane whose turn it
    /// is.
    pub async fn goes_elsewhere(
        self,
        exporter: Arc<str>,
        signals: SignalSet,
        fingerprint: u64,
        place: Place,
    ) -> Result<bool, SpoolError> {
        ask!(self.0, outlet.goes_elsewhere(exporter, signals, fingerprint, place))
    }

    /// Leaves these signals out of what an exporter is handed of the lane of `place`, in place of those before. It may forget that.
    pub async fn put_aside(
        self,
        exporter: Arc<str>,
        place: Place,
        signals: SignalSet,
    ) -> Result<(), SpoolError> {
        ask!(self.0, outlet.put_aside(exporter, place, signals))
    }

    /// Hands nothing but the lane of `place` to an exporter from now on: it ends.
    pub async fn only(self, exporter: Arc<str>, place: Place) -> Result<(), SpoolError> {
        ask!(self.0, outlet.only(exporter, place))
    }

    /// Moves an exporter's cursor and keeps what its backend refused.
    pub async fn progress(self, exporter: Arc<str>, progress: Progress) -> Result<(), SpoolError> {
        if progress.letters.is_empty() {
            return ask!(self.0, outlet.progress(exporter, progress));
        }
        change!(self.0, outlet.progress(exporter, progress))
    }

    /// Puts a segment that does not decode into dead-letter.
    pub async fn condemn(self, place: Place, reason: String) -> Result<(), SpoolError> {
        tracing::error!(
            event.name = "perigee.spool.undecodable",
            reason,
            "a committed segment does not decode; it is kept in dead-letter"
        );
        change!(self.0, outlet.condemn(place, reason))
    }

    /// Deletes what everybody is done with.
    pub async fn sweep(self) -> Result<(), SpoolError> {
        ask!(self.0, outlet.sweep())
    }
}

/// What is sent again: dead letters, and ranges of time.
#[derive(Clone, Copy)]
pub struct Replays<'a>(&'a Store);

impl Replays<'_> {
    /// The next dead letters that an exporter is to send again: of one signal, as many as one request may have.
    pub async fn next_replays(self, exporter: Arc<str>, limits: Limits) -> Result<Vec<Replay>, SpoolError> {
        ask!(self.0, replays.next_replays(exporter, limits))
    }

    /// Notes what came of dead letters that were sent again: taken (`None`), or refused and why.
    pub async fn replayed(self, ids: Arc<[u64]>, refused: Option<String>) -> Result<(), SpoolError> {
        change!(self.0, replays.replayed(ids, refused))
    }

    /// Has dead letters sent again: those with these ids, or all. How many.
    pub async fn replay(self, ids: Option<Vec<u64>>) -> Result<u64, SpoolError> {
        change!(self.0, replays.replay(ids))
    }

    /// Has what was committed of a range of time sent to one of the exporters again: what is kept, and what this exporter has passed of
    /// the spool. Its id; [`SpoolError::Unknown`] when there is no such exporter or satellite.
    pub async fn replay_range(self, wanted: ReplayWanted) -> Result<u64, SpoolError> {
        let Some(signals) = self.0.settings().routes.get(&wanted.exporter).copied() else {
            let settings = self.0.settings();
            let exporters: Vec<&str> = settings.routes.keys().map(String::as_str).collect();
            let why = format!(
                "no pipeline has the exporter `{}`; there are {}",
                wanted.exporter,
                exporters.join(", ")
            );
            return Err(SpoolError::Unknown(why));
        };
        if let Some(satellite) = &wanted.satellite
            && !self.0.views().standings().await?.contains_key(satellite)
        {
            return Err(SpoolError::Unknown(format!("the satellite `{satellite}` was never heard here")));
        }
        ask!(self.0, replays.replay_range(wanted, signals))
    }

    /// Replays of ranges, the latest first.
    pub async fn ranges(self) -> Result<Vec<ReplayView>, SpoolError> {
        ask!(self.0, replays.ranges())
    }

    /// Ends a replay of a range; whether there was one that went on.
    pub async fn cancel_range(self, id: u64) -> Result<bool, SpoolError> {
        ask!(self.0, replays.cancel_range(id))
    }

    /// The next segment that a replay of a range sends to this exporter.
    pub async fn next_again(
        self,
        exporter: Arc<str>,
        signals: SignalSet,
        fingerprint: u64,
    ) -> Result<Option<Again>, SpoolError> {
        ask!(self.0, replays.next_again(exporter, signals, fingerprint))
    }

    /// Notes how far a replay of a range has come, with a segment from this place. No cursor moves.
    pub async fn again(
        self,
        exporter: Arc<str>,
        id: u64,
        place: Place,
        step: ReplayStep,
    ) -> Result<(), SpoolError> {
        let satellite = place.lane().0;
        match &self.0.0 {
            Engine::File(file) => file.replays().again(id, satellite, step).await,
            Engine::Shared(fleet) => fleet.replays().again(exporter, id, satellite, step).await,
        }
    }

    /// Discards dead letters: their items become a gap of reason `operator`. How many there were.
    pub async fn discard(self, ids: Vec<u64>) -> Result<u64, SpoolError> {
        change!(self.0, replays.discard(ids))
    }
}

/// What people and tools are shown.
#[derive(Clone, Copy)]
pub struct Views<'a>(&'a Store);

impl Views<'_> {
    /// Every satellite that was ever heard.
    pub async fn satellites(self) -> Result<Vec<SatelliteView>, SpoolError> {
        ask!(self.0, views.satellites())
    }

    /// The other stations of a shared ledger that have an open link, by satellite.
    pub async fn linked_elsewhere(self) -> Result<BTreeMap<String, Vec<String>>, SpoolError> {
        match &self.0.0 {
            Engine::File(_) => Ok(BTreeMap::new()),
            Engine::Shared(fleet) => fleet.views().linked_elsewhere().await,
        }
    }

    /// How every satellite stands that was ever heard.
    pub async fn standings(self) -> Result<BTreeMap<String, StandingView>, SpoolError> {
        ask!(self.0, views.standings())
    }

    /// The spool as a whole.
    pub async fn overview(self) -> Result<SpoolView, SpoolError> {
        ask!(self.0, views.overview())
    }

    /// The latest passes of each satellite, at most `limit` of each, latest first.
    pub async fn passes(self, limit: usize) -> Result<Vec<PassView>, SpoolError> {
        ask!(self.0, views.passes(limit))
    }

    /// What is missing for good, at most `limit` gaps.
    pub async fn gaps(self, limit: usize) -> Result<Vec<GapView>, SpoolError> {
        ask!(self.0, views.gaps(limit))
    }

    /// How many gaps there are, by satellite and reason.
    pub async fn gap_counts(self) -> Result<Gaps, SpoolError> {
        ask!(self.0, views.gap_counts())
    }

    /// Where the items are, by satellite.
    pub async fn accounting(self) -> Result<BTreeMap<String, AccountView>, SpoolError> {
        ask!(self.0, views.accounting())
    }

    /// Dead letters after the id `after`, at most `limit`.
    pub async fn letters(self, after: u64, limit: usize) -> Result<Vec<LetterView>, SpoolError> {
        ask!(self.0, views.letters(after, limit))
    }

    /// What the store knows now, to be asked as often as somebody likes.
    pub async fn glance(self) -> Result<Glance, SpoolError> {
        ask!(self.0, views.glance())
    }

    /// Where the bytes of the latest segments go, together, and one by one when `each` is wanted.
    pub async fn columns(self, each: bool) -> Result<ColumnsView, SpoolError> {
        ask!(self.0, views.columns(each))
    }

    /// Shows `each` every segment in the spool with its satellite and the base that it needs, in the order of commits.
    pub async fn segments(
        self,
        each: impl FnMut(&str, &Header, &[u8], Option<&Base>) + Send + 'static,
    ) -> Result<(), SpoolError> {
        ask!(self.0, views.segments(each))
    }
}

/// What keeps the store in order: verifying, copying, scrubbing, making room.
#[derive(Clone, Copy)]
pub struct Upkeep<'a>(&'a Store);

impl Upkeep<'_> {
    /// Gives up what is kept above its bounds, as is done from time to time.
    #[cfg(test)]
    pub(super) async fn trim_kept(self) -> Result<(), SpoolError> {
        ask!(self.0, upkeep.trim_kept())
    }

    /// Gives up what can be decoded again, since memory is short.
    pub async fn forget_decoded(self) {
        match &self.0.0 {
            Engine::File(file) => file.upkeep().forget_decoded().await,
            Engine::Shared(fleet) => fleet.upkeep().forget_decoded(),
        }
    }

    /// Checks every segment and every base; what is wrong, one line each.
    pub async fn verify(self) -> Result<Vec<String>, SpoolError> {
        ask!(self.0, upkeep.verify())
    }

    /// Copies the spool as it is now into the new file `path`; returns the file's length.
    pub async fn backup(self, path: PathBuf) -> Result<u64, SpoolError> {
        ask!(self.0, upkeep.backup(path))
    }

    /// Verifies the next segments and bases, some MiB of them; what is damaged is taken out. After the last it begins again.
    pub async fn scrub(self) -> Result<Step, SpoolError> {
        ask!(self.0, upkeep.scrub())
    }

    /// Looks through the next segments that wait for exporters, and keeps the alarms in them. Whether more of them wait.
    pub(super) async fn read_alarms(self) -> Result<bool, SpoolError> {
        ask!(self.0, upkeep.read_alarms())
    }
}
