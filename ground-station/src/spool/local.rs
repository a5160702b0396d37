//! The store of one station: a redb file that this process alone owns, on a thread of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perigee_proto::link;
use perigee_shared::env::{Env, Owner};
use perigee_shared::export::Limits;
use perigee_shared::segment::{Base, Header};
use perigee_shared::signal::{Signal, SignalSet};
use perigee_shared::store::scrub::Step;
use perigee_shared::store::{StoreError, backup, guarded};
use perigee_shared::supervise::Supervisor;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::alarms;
use super::clocks::Greeting;
use super::columns::ColumnsView;
use super::contents::Settings;
use super::decode::{Fault, Snapshot, Work};
use super::error::SpoolError;
use super::file::{Spool, Txn};
use super::intake::{Applied, Incoming};
use super::ledger::Answer;
use super::letters::{LetterView, Next, Replay};
use super::look::Records;
use super::outlet::{Place, Progress};
use super::passes::{Heard, PassView};
use super::replay::{self, Again, ReplayRecord, ReplayStep, ReplayView, ReplayWanted};
use super::scrub::{self, At, Round};
use super::standing::StandingView;
use super::tables::*;
use super::upkeep::{Bounds, Group, Keeper, Status};
use super::views::{AccountView, GapView, Gaps, SatelliteView, SpoolView};
use super::{bases, ledger, letters, outlet, passes, views};
use crate::memory::Turn;

/// Calls of [`Intake::commit`] that may wait.
const QUEUE: usize = 64;
/// How long the last transaction may take when the spool ends.
const CLOSE: Duration = Duration::from_secs(5);
/// How long it is at least from one writing of the mirror for drops that are told during contacts to the next.
const MIRROR_REST: Duration = Duration::from_secs(1);

/// The file behind [`Store`](super::Store). Clones reach the same one.
#[derive(Clone)]
pub(super) struct Local {
    pub(super) keeper: Keeper,
    groups: mpsc::Sender<Group>,
    tasks: Supervisor,
    scrub: Arc<Mutex<Round>>,
    /// Those that are looked at.
    snapshots: TaskTracker,
    pub(super) env: Env,
    settings: Arc<Settings>,
    /// What standings were made from last.
    read: Arc<Mutex<Records>>,
    /// When the mirror was last to be written for drops; who holds it has it written.
    mirrored: Arc<tokio::sync::Mutex<Option<Instant>>>,
}

impl Local {
    /// Opens the spool; makes one when there is none. `reserve` bytes are kept free for what is being received. Must be called
    /// inside a tokio runtime.
    pub(super) fn open(env: &Env, settings: Settings, reserve: u64) -> Result<Self, SpoolError> {
        let bounds = Bounds::of(&settings, reserve);
        let known = Arc::new(settings.clone());
        let (store, queue) = Self::over(env, Spool::open(env, settings)?, bounds, known)?;
        let state = (store.keeper.clone(), queue);
        store.tasks.keep("spool", state, |(keeper, queue)| Box::pin(keeper.run(queue)));
        Ok(store)
    }

    /// Opens a spool that is there and that nobody runs, to ask it something: takes nothing in and puts nothing aside. One of an
    /// earlier format is brought to this one.
    pub(super) fn open_existing(env: &Env, settings: Settings) -> Result<Self, SpoolError> {
        let bounds = Bounds { max_bytes: u64::MAX, reserve: 0, satellites: Vec::new() };
        let known = Arc::new(settings.clone());
        Ok(Self::over(env, Spool::open_existing(env, settings)?, bounds, known)?.0)
    }

    fn over(
        env: &Env,
        spool: Spool,
        bounds: Bounds,
        settings: Arc<Settings>,
    ) -> Result<(Self, mpsc::Receiver<Group>), SpoolError> {
        let snapshots = spool.snapshots();
        let owner = Owner::new(env.placement, "spool", spool).map_err(|e| StoreError::Io(e.to_string()))?;
        let status = Arc::new(watch::Sender::default());
        let keeper = Keeper { owner, status, bounds: Arc::new(bounds), said: Arc::default() };
        let (groups, queue) = mpsc::channel(QUEUE);
        let tasks = Supervisor::new(env);
        let (scrub, read, mirrored, env) = (Arc::default(), Arc::default(), Arc::default(), env.clone());
        Ok((Self { keeper, groups, tasks, scrub, snapshots, env, settings, read, mirrored }, queue))
    }

    pub(super) fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// What watches its task, and can watch others.
    pub(super) fn tasks(&self) -> &Supervisor {
        &self.tasks
    }

    /// What changes while it works.
    pub(super) fn status(&self) -> watch::Receiver<Status> {
        self.keeper.status.subscribe()
    }

    /// Memory for something that needs so much, if it was taken already or is free. If not, nothing is held any more.
    fn turn(&self, taken: &mut Option<Turn>, need: u64) -> Option<Turn> {
        taken.take().filter(|turn| turn.covers(need)).or_else(|| self.settings.decoding.try_take(need))
    }

    pub(super) fn round(&self) -> MutexGuard<'_, Round> {
        self.scrub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `work` look at the spool as it is now, away from the spool's thread: for what keeps a processor busy.
    async fn study<R: Send + 'static>(
        &self,
        work: impl FnOnce(Snapshot) -> Result<R, SpoolError> + Send + 'static,
    ) -> Result<R, SpoolError> {
        let snapshot = self.keeper.ask(Spool::snapshot).await?;
        match self.env.cpu(move || guarded(|| work(snapshot))).await {
            Err(error) => Err(self.keeper.noted(error).await),
            out => out,
        }
    }

    /// The same for work that decodes one segment after the other.
    async fn study_decoded<R: Send + 'static>(
        &self,
        work: impl FnOnce(Snapshot) -> Result<R, SpoolError> + Send + 'static,
    ) -> Result<R, SpoolError> {
        let need = self.study(|snapshot| snapshot.most()).await?;
        let _turn = self.settings.decoding.take(need).await;
        self.study(work).await
    }

    /// Has the mirror written if there are gaps that it does not have; those that wait at once share a write, also one that fails. Whether
    /// it has them all.
    async fn mirror_gaps(&self) -> Result<bool, SpoolError> {
        let since = Instant::now();
        let mut last = self.mirrored.lock().await;
        let all = self.keeper.ask(|spool| Ok(spool.gaps_are_mirrored())).await?;
        if all || last.is_some_and(|last| last > since) {
            return Ok(all);
        }
        if let Some(last) = *last {
            tokio::time::sleep_until(last + MIRROR_REST).await;
        }
        *last = Some(Instant::now());
        self.keeper.ask(|spool| Ok(spool.mirror_gaps())).await
    }

    pub(super) const fn intake(&self) -> Intake<'_> {
        Intake(self)
    }

    pub(super) const fn outlet(&self) -> Outlet<'_> {
        Outlet(self)
    }

    pub(super) const fn replays(&self) -> Replays<'_> {
        Replays(self)
    }

    pub(super) const fn views(&self) -> Views<'_> {
        Views(self)
    }

    pub(super) const fn upkeep(&self) -> Upkeep<'_> {
        Upkeep(self)
    }

    /// Ends the spool in order; what was handed in before is durable then. With other handles still held it is only let go,
    /// and closes when the last of them is.
    pub(super) async fn close(self) {
        let Self { keeper, groups, tasks, snapshots, env, .. } = self;
        drop(groups);
        snapshots.close();
        let ended = async {
            tasks.ended().await;
            // Who asked for one may have left before it was looked through.
            snapshots.wait().await;
        };
        let _ = tokio::time::timeout(CLOSE, ended).await;
        let closed = env.cpu(move || keeper.owner.into_inner().map(Spool::close)).await;
        if let Some(Err(error)) = closed {
            tracing::warn!(%error, "the spool was not closed in order");
        }
    }
}

/// The way in: what the link hands over.
#[derive(Clone, Copy)]
pub(super) struct Intake<'a>(&'a Local);

impl Intake<'_> {
    /// Commits what is whole and holds what is not; what comes back is durable. What several connections hand in at once shares
    /// a transaction.
    pub(super) async fn commit(self, batch: Vec<Incoming>) -> Result<Vec<Applied>, SpoolError> {
        let (reply, answer) = oneshot::channel();
        self.0.groups.send(Group { batch, reply }).await.map_err(|_| SpoolError::Gone)?;
        answer.await.map_err(|_| SpoolError::Gone)
    }

    /// Takes in a satellite's Hello and answers where it may resume.
    pub(super) async fn ledger(self, satellite: Arc<str>, greeting: Greeting) -> Result<Answer, SpoolError> {
        let work = move |spool: &mut Spool| {
            let answer = spool.write(|txn| ledger::hello(txn, &satellite, &greeting))?;
            // Drops that are acknowledged may be forgotten on board: if this file is lost too, only the mirror has them.
            Ok(if spool.mirror_gaps() { answer } else { answer.without_drops() })
        };
        self.0.keeper.insist(work).await
    }

    /// Records drops. Returns their acknowledgement, of none while the mirror cannot have them: the satellite tells them again in its
    /// next Hello.
    pub(super) async fn drops(
        self,
        satellite: Arc<str>,
        drops: Arc<link::EpochDrops>,
    ) -> Result<link::DropsAck, SpoolError> {
        let work = move |spool: &mut Spool| spool.write(|txn| ledger::drops(txn, &satellite, &drops));
        let mut ack = self.0.keeper.insist(work).await?;
        if !self.0.mirror_gaps().await? {
            ack.ids.clear();
        }
        Ok(ack)
    }

    /// Keeps what was seen of a contact on a link that has ended.
    pub(super) async fn heard(self, satellite: Arc<str>, heard: Heard) -> Result<(), SpoolError> {
        self.0.keeper.insist(move |spool| spool.write(|txn| passes::heard(txn, &satellite, &heard))).await
    }
}

/// The way out: what exporters are handed, and how far they are.
#[derive(Clone, Copy)]
pub(super) struct Outlet<'a>(&'a Local);

impl Outlet<'_> {
    /// The next segment with one of `signals` for an exporter whose cut has this fingerprint. One whose bytes are not what was
    /// committed becomes a gap, one that does not decode a dead letter; both are passed over.
    pub(super) async fn next(
        self,
        exporter: Arc<str>,
        signals: SignalSet,
        fingerprint: u64,
    ) -> Result<Option<Work>, SpoolError> {
        let mut turn = None;
        loop {
            let exporter = Arc::clone(&exporter);
            let find = move |spool: &mut Spool| {
                let found = spool.read(|view| outlet::next(view, &exporter, signals, fingerprint))?;
                let Some(found) = found else { return Ok(None) };
                let snapshot = spool.snapshot()?;
                Ok(Some((snapshot.need(found.place.0.satellite, &found.header)?, found, snapshot)))
            };
            let Some((need, found, snapshot)) = self.0.keeper.insist(find).await? else { return Ok(None) };
            let Some(turn_now) = self.0.turn(&mut turn, need) else {
                drop((found, snapshot));
                turn = Some(self.0.settings.decoding.take(need).await);
                continue;
            };
            let place = found.place;
            let fault = match self.0.env.cpu(move || guarded(|| snapshot.work(found))).await {
                Ok(work) => return Ok(Some(work.in_turn(turn_now))),
                Err(fault) => fault,
            };
            self.mend(At::Entry(place.0), fault).await?;
        }
    }

    /// Whether an exporter that is at `place` would be handed another segment now: a more urgent one, or one of a lane whose turn it
    /// is.
    pub(super) async fn goes_elsewhere(
        self,
        exporter: Arc<str>,
        signals: SignalSet,
        fingerprint: u64,
        place: Place,
    ) -> Result<bool, SpoolError> {
        let find =
            move |spool: &mut Spool| spool.read(|view| outlet::next(view, &exporter, signals, fingerprint));
        Ok(self.0.keeper.insist(find).await?.is_some_and(|found| found.place != place))
    }

    /// Takes out what was found damaged or not to decode.
    async fn mend(self, at: At, fault: Fault) -> Result<(), SpoolError> {
        match (fault, at) {
            (Fault::Payload, At::Entry(entry)) => {
                self.0.keeper.insist(move |spool| spool.write(|txn| outlet::lose(txn, Place(entry)))).await
            }
            (Fault::Base(key), _) | (Fault::Payload, At::Base(key)) => {
                self.0.keeper.insist(move |spool| spool.write(|txn| bases::discard(txn, key))).await
            }
            (Fault::Undecodable(error), At::Entry(entry)) => {
                let reason = error.to_string();
                tracing::error!(
                    event.name = "perigee.spool.undecodable",
                    reason,
                    "a committed segment cannot be decoded; it is kept as a dead letter"
                );
                self.condemn(Place(entry), reason).await
            }
            (Fault::Undecodable(_), At::Base(_)) => Ok(()),
            (Fault::Store(error), _) => Err(self.0.keeper.noted(error.into()).await),
        }
    }

    /// Leaves signals of a lane out of what an exporter is handed.
    pub(super) async fn put_aside(
        self,
        exporter: Arc<str>,
        place: Place,
        signals: SignalSet,
    ) -> Result<(), SpoolError> {
        let put = move |spool: &mut Spool| {
            outlet::put_aside(&spool.contents().searched, &exporter, place, signals);
            Ok(())
        };
        self.0.keeper.ask(put).await
    }

    /// Hands nothing but one lane to an exporter.
    pub(super) async fn only(self, exporter: Arc<str>, place: Place) -> Result<(), SpoolError> {
        let only = move |spool: &mut Spool| {
            outlet::only(&spool.contents().searched, &exporter, place);
            Ok(())
        };
        self.0.keeper.ask(only).await
    }

    /// Moves an exporter's cursor and keeps what its backend refused.
    pub(super) async fn progress(self, exporter: Arc<str>, progress: Progress) -> Result<(), SpoolError> {
        let work = move |spool: &mut Spool| {
            if outlet::is_due(spool) {
                outlet::sweep(spool)?;
            }
            spool.write(|txn| outlet::progress(txn, &exporter, &progress))
        };
        self.0.keeper.insist(work).await
    }

    /// Puts a segment that does not decode into dead-letter.
    pub(super) async fn condemn(self, place: Place, reason: String) -> Result<(), SpoolError> {
        self.0.keeper.insist(move |spool| spool.write(|txn| outlet::condemn(txn, place, &reason))).await
    }

    /// Deletes what everybody is done with.
    pub(super) async fn sweep(self) -> Result<(), SpoolError> {
        self.0.keeper.insist(outlet::sweep).await
    }
}

/// What is sent again: dead letters, and ranges of time.
#[derive(Clone, Copy)]
pub(super) struct Replays<'a>(&'a Local);

impl Replays<'_> {
    /// The next dead letters that an exporter is to send again: of one signal, as many as one request may have.
    pub(super) async fn next_replays(
        self,
        exporter: Arc<str>,
        limits: Limits,
    ) -> Result<Vec<Replay>, SpoolError> {
        let work = move |spool: &mut Spool| {
            loop {
                match spool.read(|view| letters::next_replays(view, &exporter, limits))? {
                    Next::Whole(replays) => return Ok(replays),
                    Next::Damaged(id) => spool.write(|txn| letters::lose(txn, id))?,
                }
            }
        };
        self.0.keeper.insist(work).await
    }

    /// Notes what came of dead letters that were sent again: taken (`None`), or refused and why.
    pub(super) async fn replayed(self, ids: Arc<[u64]>, refused: Option<String>) -> Result<(), SpoolError> {
        let note = move |txn: &mut Txn<'_>| {
            ids.iter().try_for_each(|id| letters::replayed(txn, *id, refused.as_deref()))
        };
        let work = move |spool: &mut Spool| spool.write(&note);
        self.0.keeper.insist(work).await
    }

    /// Has dead letters sent again: those with these ids, or all. How many.
    pub(super) async fn replay(self, ids: Option<Vec<u64>>) -> Result<u64, SpoolError> {
        let replayed = self.0.keeper.insist(move |spool| letters::replay(spool, ids.as_deref())).await?;
        self.0.keeper.wake();
        Ok(replayed)
    }

    /// Has what was committed of a range of time sent to one exporter again; its id.
    pub(super) async fn replay_range(
        self,
        wanted: ReplayWanted,
        signals: SignalSet,
    ) -> Result<u64, SpoolError> {
        let job = ReplayRecord::new(&wanted, self.0.env.unix_nano());
        let job = self.0.study(move |snapshot| replay::measure(&snapshot.read, job, signals)).await?;
        let id = self.0.keeper.insist(move |spool| spool.write(|txn| replay::begin(txn, &job))).await?;
        self.0.keeper.wake();
        Ok(id)
    }

    /// Replays of ranges, the latest first.
    pub(super) async fn ranges(self) -> Result<Vec<ReplayView>, SpoolError> {
        self.0.keeper.ask(|spool| spool.read(|view| replay::list(view.tables))).await
    }

    /// Ends a replay of a range; whether there was one that went on.
    pub(super) async fn cancel_range(self, id: u64) -> Result<bool, SpoolError> {
        self.0.keeper.insist(move |spool| spool.write(|txn| replay::cancel(txn, id))).await
    }

    /// The next segment that a replay of a range sends to this exporter.
    pub(super) async fn next_again(
        self,
        exporter: Arc<str>,
        signals: SignalSet,
        fingerprint: u64,
    ) -> Result<Option<Again>, SpoolError> {
        let mut turn = None;
        loop {
            let exporter = Arc::clone(&exporter);
            let find = move |spool: &mut Spool| {
                let open = spool.read(|view| replay::first_open(view.tables, &exporter))?;
                open.map(|open| Ok((open, spool.snapshot()?))).transpose()
            };
            let Some(((id, job), snapshot)) = self.0.keeper.insist(find).await? else { return Ok(None) };
            let look = move || {
                let mut sought = replay::seek_on(&snapshot.read, &job, signals, fingerprint)?;
                let found = sought.found.take();
                let need = found.as_ref().map(|found| snapshot.need(found.place.0.satellite, &found.header));
                Ok::<_, SpoolError>((sought, found, need.transpose()?, snapshot))
            };
            let (sought, found, need, snapshot) = match self.0.env.cpu(move || guarded(look)).await {
                Err(error) => return Err(self.0.keeper.noted(error).await),
                Ok(looked) => looked,
            };
            let mut turn_now = None;
            if let Some(need) = need {
                turn_now = self.0.turn(&mut turn, need);
                if turn_now.is_none() {
                    drop((found, snapshot));
                    turn = Some(self.0.settings.decoding.take(need).await);
                    continue;
                }
            }
            let payload = found.as_ref().map(|found| found.payload);
            let work = match found {
                Some(found) => Some(self.0.env.cpu(move || guarded(|| snapshot.work_again(found))).await),
                None => None,
            };
            match work {
                Some(Err(Fault::Store(error))) => return Err(self.0.keeper.noted(error.into()).await),
                work => {
                    let usable = work.and_then(Result::ok);
                    let unusable = payload.is_some() && usable.is_none();
                    if let Some(step) = ReplayStep::of(&sought, payload, unusable, fingerprint) {
                        self.again(id, 0, step).await?;
                    }
                    if let Some(work) = usable {
                        let work = match turn_now {
                            Some(turn) => work.in_turn(turn),
                            None => work,
                        };
                        return Ok(Some(Again { id, work }));
                    }
                }
            }
        }
    }

    /// Notes how far a replay of a range has come with segments of this satellite.
    pub(super) async fn again(self, id: u64, satellite: u32, step: ReplayStep) -> Result<(), SpoolError> {
        self.0.keeper.insist(move |spool| spool.write(|txn| replay::note(txn, id, satellite, &step))).await
    }

    /// Discards dead letters: their items become a gap of reason `operator`. How many there were.
    pub(super) async fn discard(self, ids: Vec<u64>) -> Result<u64, SpoolError> {
        self.0.keeper.insist(move |spool| letters::discard(spool, &ids)).await
    }
}

/// What people and tools are shown.
#[derive(Clone, Copy)]
pub(super) struct Views<'a>(pub(super) &'a Local);

impl Views<'_> {
    /// Every satellite that was ever heard.
    pub(super) async fn satellites(self) -> Result<Vec<SatelliteView>, SpoolError> {
        self.0.keeper.ask(|spool| spool.read(views::satellites)).await
    }

    /// How every satellite stands that was ever heard.
    pub(super) async fn standings(self) -> Result<BTreeMap<String, StandingView>, SpoolError> {
        let read = std::mem::take(&mut *self.0.read.lock().unwrap_or_else(PoisonError::into_inner));
        let (read, standings) = self.glance().await?.standings(read).await?;
        *self.0.read.lock().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(standings)
    }

    /// The spool as a whole.
    pub(super) async fn overview(self) -> Result<SpoolView, SpoolError> {
        let scrub = self.0.round().done;
        let work = move |spool: &mut Spool| {
            let (file_length_bytes, file_bytes) = spool.file_bytes();
            let aside = spool.quarantined().and_then(|q| q.moved_to.as_ref());
            let quarantined = aside.map(|path| path.display().to_string());
            let view = spool.read(views::overview)?;
            Ok(SpoolView { file_bytes, file_length_bytes, quarantined, scrub, ..view })
        };
        self.0.keeper.ask(work).await
    }

    /// The latest passes of each satellite, at most `limit` of each, latest first.
    pub(super) async fn passes(self, limit: usize) -> Result<Vec<PassView>, SpoolError> {
        self.0.keeper.ask(move |spool| spool.read(|view| passes::passes(view, limit))).await
    }

    /// What is missing for good, at most `limit` gaps.
    pub(super) async fn gaps(self, limit: usize) -> Result<Vec<GapView>, SpoolError> {
        self.0.keeper.ask(move |spool| spool.read(|view| views::gaps(view, limit))).await
    }

    /// How many gaps there are; all of them are read, so away from the spool's thread.
    pub(super) async fn gap_counts(self) -> Result<Gaps, SpoolError> {
        self.glance().await?.gap_counts().await
    }

    /// Where the items are, by satellite.
    pub(super) async fn accounting(self) -> Result<BTreeMap<String, AccountView>, SpoolError> {
        self.0.keeper.ask(|spool| spool.read(views::accounting)).await
    }

    /// Dead letters after the id `after`, at most `limit`.
    pub(super) async fn letters(self, after: u64, limit: usize) -> Result<Vec<LetterView>, SpoolError> {
        self.0.keeper.ask(move |spool| spool.read(|view| letters::list(view, after, limit))).await
    }

    /// Where the bytes of the latest segments go, together, and one by one when `each` is wanted.
    pub(super) async fn columns(self, each: bool) -> Result<ColumnsView, SpoolError> {
        self.0.study_decoded(move |snapshot| snapshot.columns(each)).await
    }

    /// Shows `each` every segment in the spool with its satellite and the base that it needs, in the order of commits.
    pub(super) async fn segments(
        self,
        each: impl FnMut(&str, &Header, &[u8], Option<&Base>) + Send + 'static,
    ) -> Result<(), SpoolError> {
        self.0.study_decoded(move |snapshot| snapshot.each_segment(each)).await
    }
}

/// What keeps the store in order: verifying, copying, scrubbing, making room.
#[derive(Clone, Copy)]
pub(super) struct Upkeep<'a>(&'a Local);

impl Upkeep<'_> {
    /// Gives up what can be decoded again.
    pub(super) async fn forget_decoded(self) {
        // A spool that is gone has none.
        drop(self.0.keeper.owner.call(|spool| spool.contents().decoded.give_up()).await);
    }

    #[cfg(test)]
    pub(super) async fn trim_kept(self) -> Result<(), SpoolError> {
        let limit = self.0.keeper.bounds.limit();
        self.0.keeper.insist(move |spool| super::archive::trim(spool, limit)).await
    }

    /// Checks every segment and every base; what is wrong, one line each.
    pub(super) async fn verify(self) -> Result<Vec<String>, SpoolError> {
        self.0.study_decoded(Snapshot::verify).await
    }

    /// Copies the spool as it is now into the new file `path`; returns the file's length.
    pub(super) async fn backup(self, path: PathBuf) -> Result<u64, SpoolError> {
        let env = self.0.env.clone();
        let copy = move |snapshot: Snapshot| {
            let tables = |copy: &mut backup::Copy<'_>| {
                macro_rules! each {
                    ($($table:ident)*) => { $(copy.table($table)?;)* };
                }
                every_table!(each);
                Ok(())
            };
            Ok(backup::backup(&env, &path, &snapshot.read, tables)?)
        };
        self.0.study(copy).await
    }

    /// Verifies the next segments and bases, some MiB of them; what is damaged is taken out. After the last it begins again.
    pub(super) async fn scrub(self) -> Result<Step, SpoolError> {
        let at = self.0.round().at;
        let found = self.0.study(move |snapshot| scrub::step(&snapshot, at)).await?;
        let damaged = found.faults.len() as u64;
        for (at, fault) in found.faults {
            self.0.outlet().mend(at, fault).await?;
        }
        let mut round = self.0.round();
        round.done.checked += found.checked;
        round.done.bytes += found.bytes;
        round.done.damaged += damaged;
        round.done.rounds += u64::from(found.next.is_none());
        round.at = found.next;
        Ok(Step { bytes: found.bytes, finished: found.next.is_none() })
    }

    /// Looks through the next segments that wait, and keeps the alarms in them. Whether more of them wait.
    pub(super) async fn read_alarms(self) -> Result<bool, SpoolError> {
        let take = |spool: &mut Spool| {
            let unread = spool.contents().unread.clone();
            let taken = unread.take(alarms::SEGMENTS);
            let snapshot = (!taken.is_empty()).then(|| spool.snapshot()).transpose()?;
            Ok(snapshot.map(|snapshot| (snapshot, taken, unread)))
        };
        let Some((snapshot, taken, unread)) = self.0.keeper.ask(take).await? else { return Ok(false) };
        let look = move || {
            let entries = snapshot.read.open_table(ENTRIES)?;
            let (mut found, mut left) = (alarms::Found::new(), alarms::BYTES);
            for entry in taken {
                if left == 0 {
                    unread.push(entry);
                    continue;
                }
                let Some(value) = entries.get(entry)? else { continue };
                let record = decode::<SegmentRecord>(value.value())?;
                let header = record.header()?;
                if record.open()[Signal::Logs] > 0 && header.raw_len <= alarms::LARGEST {
                    left = left.saturating_sub(header.raw_len);
                    if !alarms::read(&snapshot, entry.satellite, &record, &header, &mut found)? {
                        unread.push(entry);
                        left = 0;
                    }
                }
            }
            Ok((found, !unread.is_empty()))
        };
        let (found, more) = match self.0.env.cpu(move || guarded(look)).await {
            Err(error) => return Err(self.0.keeper.noted(error).await),
            Ok(found) => found,
        };
        if !found.is_empty() {
            let note = move |spool: &mut Spool| {
                spool.write(|txn| found.iter().try_for_each(|(of, found)| alarms::note(txn, *of, found)))
            };
            self.0.keeper.insist(note).await?;
        }
        Ok(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::tests::settings;

    #[tokio::test]
    async fn a_spool_is_closed_once_nobody_looks_through_it_any_more() {
        let (dir, env) = (tempfile::tempdir().unwrap(), Env::production());
        let spool = Local::open(&env, settings(&dir, &[]), 0).unwrap();
        let (began, begun) = oneshot::channel();
        let (end, ended) = std::sync::mpsc::sync_channel::<()>(1);
        let look = spool.study(move |_| {
            began.send(()).unwrap();
            ended.recv().unwrap();
            Ok(())
        });
        tokio::select! {
            biased;
            _ = look => panic!("it has not ended"),
            begun = begun => begun.unwrap(),
        }
        let closing = tokio::spawn(spool.close());
        assert!(matches!(
            Local::open_existing(&env, settings(&dir, &[])),
            Err(SpoolError::Store(StoreError::Locked(_)))
        ));
        end.send(()).unwrap();
        closing.await.unwrap();
        Local::open_existing(&env, settings(&dir, &[])).unwrap().close().await;
    }
}
