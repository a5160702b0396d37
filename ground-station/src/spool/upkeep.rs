//! What goes on behind the interface: work that is tried until the disk takes it, transactions that several connections share, how
//! full the spool is, and the mirror.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use perigee_shared::env::Owner;
use perigee_shared::store::StoreError;
use perigee_shared::telemetry::Repeats;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use super::archive;
use super::bases;
use super::contents::Settings;
use super::error::SpoolError;
use super::file::Spool;
use super::intake::{self, Applied, Incoming};
use super::views::names;

/// Payload bytes that share a transaction, at most.
const GROUP_BYTES: usize = 16 << 20;

/// How long a disk that fails is left alone, at most.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// How often the mirror is written while something changes.
const MIRROR_EVERY: Duration = Duration::from_secs(5);

/// What changes while the spool works.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Grows when there is something new to export.
    pub version: u64,
    /// Bytes in use.
    pub used: u64,
    /// There is no room: links stop reading.
    pub full: bool,
    /// Satellites that have used up their own part.
    pub full_satellites: BTreeSet<String>,
    /// Why the disk cannot be written, while it cannot.
    pub failing: Option<String>,
    /// Why the spool will never work again in this process, if so.
    pub gone: Option<String>,
    /// How its file was taken from its place, while it is not there: what is committed goes there all the same.
    pub moved: Option<String>,
    /// How often partial segments were given up: links begin again, since what they were told is held is gone.
    pub relieved: u64,
    /// How often a damaged file was replaced since the start.
    replaced: u64,
    /// Commits of all stations that share the ledger.
    pub(super) commits: u64,
    /// The shared ledger does not answer, and this station holds on its own disk what arrives: nothing is committed, and links go
    /// on reading.
    pub aside: bool,
}

impl Status {
    /// Whether a link of `satellite` may read.
    pub fn has_room(&self, satellite: &str) -> bool {
        let takes = self.failing.is_none() || self.aside;
        !self.full && takes && !self.full_satellites.contains(satellite)
    }
}

/// Hand-overs of one connection, and where the answer goes.
pub(super) struct Group {
    pub(super) batch: Vec<Incoming>,
    pub(super) reply: oneshot::Sender<Vec<Applied>>,
}

/// How much the spool may hold.
pub(super) struct Bounds {
    pub(super) max_bytes: u64,
    /// Kept free for what links hold in memory when it gets full.
    pub(super) reserve: u64,
    pub(super) satellites: Vec<(String, u64)>,
}

/// How full the spool is.
#[derive(Default)]
pub(super) struct Level {
    pub(super) used: u64,
    pub(super) full_satellites: BTreeSet<String>,
    pub(super) relieved: bool,
    pub(super) replaced: u64,
}

/// A slow exporter keeps a spool near full: each time is counted as an alarm, and the log has a line a minute.
pub(super) fn say_full(said: &Mutex<Repeats>, which: &str, used: u64, max: u64) {
    match said.lock().unwrap_or_else(PoisonError::into_inner).count("full") {
        Some(times) => tracing::error!(
            event.name = "perigee.spool.full",
            used,
            max,
            times,
            "{which} is full: links stop reading and nothing is dropped; see which exporter is behind"
        ),
        None => tracing::debug!(event.name = "perigee.spool.full", used, max, "{which} is full again"),
    }
}

impl Bounds {
    /// Those of these settings; `reserve` bytes are for links, as far as that leaves room.
    pub(super) fn of(settings: &Settings, reserve: u64) -> Self {
        let Settings { max_bytes, satellites, .. } = settings;
        Self { max_bytes: *max_bytes, reserve: reserve.min(max_bytes / 4), satellites: satellites.clone() }
    }

    pub(super) fn limit(&self) -> u64 {
        self.max_bytes - self.reserve
    }

    /// From how many bytes on the spool is full: once it `is`, it stays so until a little has gone, so that it does not flutter.
    pub(super) fn full_at(&self, is: bool) -> u64 {
        let limit = self.limit();
        if is { limit - limit / 16 } else { limit }
    }

    /// How full it is; partial segments are given up where they alone make a spool full, or keep one so that `is`. A disk that fails is
    /// noticed by who needs it.
    pub(super) fn measure(&self, spool: &mut Spool, is: bool) -> Level {
        let relieved = intake::relieve(spool, self.full_at(is)).unwrap_or(false);
        let names = if self.satellites.is_empty() { None } else { spool.read(|v| names(v.tables)).ok() };
        let usage = &spool.contents().usage;
        let used = |id: &String| {
            let number = names.as_ref()?.iter().find(|(_, name)| *name == id)?.0;
            usage.by_satellite.get(number).copied()
        };
        let full = self.satellites.iter().filter(|(id, most)| used(id).unwrap_or(0) >= *most);
        let full_satellites = full.map(|(id, _)| id.clone()).collect();
        Level { used: usage.total, full_satellites, relieved, replaced: spool.replaced() }
    }
}

/// The spool with what is said of it. Clones reach the same one.
#[derive(Clone)]
pub(super) struct Keeper {
    pub(super) owner: Owner<Spool>,
    pub(super) status: Arc<watch::Sender<Status>>,
    pub(super) bounds: Arc<Bounds>,
    /// When the log had a line about a disk that fails, or a spool that is full.
    pub(super) said: Arc<Mutex<Repeats>>,
}

impl Keeper {
    /// Asks the spool something; an error is handed back at once.
    pub(super) async fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Spool) -> Result<R, SpoolError> + Send + 'static,
    ) -> Result<R, SpoolError> {
        let out = self.owner.call(question).await.map_err(SpoolError::from).flatten();
        self.end_if_gone(&out);
        out
    }

    /// Runs `work` until it succeeds or fails for a reason that waiting does not mend.
    pub(super) async fn insist<R: Send + 'static>(
        &self,
        work: impl Fn(&mut Spool) -> Result<R, SpoolError> + Send + Sync + 'static,
    ) -> Result<R, SpoolError> {
        let work = Arc::new(work);
        let mut wait = Duration::from_millis(250);
        loop {
            let (attempt, bounds) = (Arc::clone(&work), Arc::clone(&self.bounds));
            let is_full = self.status.borrow().full;
            let result = self.ask(move |spool| Ok((attempt(spool)?, bounds.measure(spool, is_full)))).await;
            match result {
                Err(error) if error.is_retryable() => {
                    self.say_failing(&error);
                    self.status.send_modify(|s| s.failing = Some(error.to_string()));
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                other => {
                    self.status.send_if_modified(|s| s.failing.take().is_some());
                    let (out, level) = other?;
                    self.note(level);
                    return Ok(out);
                }
            }
        }
    }

    /// Each attempt is counted as an alarm, of whoever it is, and the log has a line a minute.
    fn say_failing(&self, error: &SpoolError) {
        let times = self.said.lock().unwrap_or_else(PoisonError::into_inner).count("failing");
        match times {
            Some(times) => tracing::error!(
                event.name = "perigee.spool.failing",
                %error,
                times,
                "the spool cannot be written; links stop reading and nothing is dropped"
            ),
            None => {
                tracing::debug!(event.name = "perigee.spool.failing", %error, "the spool still cannot be written");
            }
        }
    }

    /// Has the spool take note of an error that was met beside it.
    pub(super) async fn noted(&self, error: SpoolError) -> SpoolError {
        let note = |spool: &mut Spool| {
            spool.note(&error);
            error
        };
        self.owner.call(note).await.unwrap_or(SpoolError::Gone)
    }

    /// There is something new to export.
    pub(super) fn wake(&self) {
        self.status.send_modify(|status| status.version += 1);
    }

    fn end_if_gone<R>(&self, result: &Result<R, SpoolError>) {
        let why = match result {
            Err(SpoolError::Gone) => "the spool's thread has ended".to_owned(),
            Err(SpoolError::Store(error @ StoreError::GivenUp(_))) => error.to_string(),
            _ => return,
        };
        self.status.send_if_modified(|status| {
            let first = status.gone.is_none();
            status.gone.get_or_insert(why);
            first
        });
    }

    fn note_moved(&self, moved: Option<String>) {
        let has_changed = self.status.send_if_modified(|status| {
            let has_changed = status.moved != moved;
            status.moved.clone_from(&moved);
            has_changed
        });
        match moved {
            Some(how) if has_changed => {
                tracing::error!(
                    how,
                    "the spool's file is not in its place: stop the station, move it back, start it"
                );
            }
            None if has_changed => tracing::info!("the spool's file is in its place again"),
            _ => {}
        }
    }

    pub(super) fn note(&self, level: Level) {
        self.status.send_if_modified(|status| {
            let before = status.clone();
            status.used = level.used;
            status.relieved += u64::from(level.relieved) + level.replaced.saturating_sub(status.replaced);
            status.replaced = level.replaced;
            status.full = level.used >= self.bounds.full_at(before.full);
            status.full_satellites = level.full_satellites;
            if status.full && !before.full {
                say_full(&self.said, "the spool", level.used, self.bounds.max_bytes);
            }
            *status != before
        });
    }

    /// Commits what connections hand over, and writes the mirror, until nobody can hand over any more or the spool has ended.
    pub(super) async fn run(&self, queue: &mut mpsc::Receiver<Group>) {
        let mut mirror = tokio::time::interval(MIRROR_EVERY);
        mirror.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let first = tokio::select! {
                biased;
                first = queue.recv() => first,
                () = self.owner.ended() => {
                    self.end_if_gone::<()>(&Err(SpoolError::Gone));
                    return;
                }
                _ = mirror.tick() => {
                    let limit = self.bounds.limit();
                    let tick = move |spool: &mut Spool| {
                        spool.mirror(false);
                        match spool.given_up() {
                            Some(why) => Err(StoreError::GivenUp(why.to_owned()).into()),
                            None => archive::trim(spool, limit).map(|_| spool.taken_away()),
                        }
                    };
                    // That it is gone is in the status.
                    if let Ok(moved) = self.ask(tick).await {
                        self.note_moved(moved);
                    }
                    continue;
                }
            };
            let Some(first) = first else { return };
            let mut bytes = first.bytes();
            let mut groups = vec![first];
            while bytes < GROUP_BYTES
                && let Ok(next) = queue.try_recv()
            {
                bytes += next.bytes();
                groups.push(next);
            }
            self.commit(groups).await;
        }
    }

    async fn commit(&self, groups: Vec<Group>) {
        match self.apply(&groups).await {
            Ok(applied) => self.answer(groups, applied),
            // One that cannot be taken must not take the others with it.
            Err(_) => {
                for group in groups {
                    let one = [group];
                    match self.apply(&one).await {
                        Ok(applied) => self.answer(one, applied),
                        // The caller sees that its answer never comes.
                        Err(error) => tracing::error!(%error, "the spool could not store a batch"),
                    }
                }
            }
        }
    }

    /// The groups' segments in one transaction.
    async fn apply(&self, groups: &[Group]) -> Result<Vec<Applied>, SpoolError> {
        let batch: Arc<[Incoming]> = groups.iter().flat_map(|g| g.batch.iter().cloned()).collect();
        let limit = self.bounds.limit();
        self.insist(move |spool| {
            if archive::is_above(spool, limit) {
                archive::trim(spool, limit)?;
            }
            bases::trim(spool)?;
            spool.write(|txn| intake::apply(txn, &batch))
        })
        .await
    }

    fn answer(&self, groups: impl IntoIterator<Item = Group>, applied: Vec<Applied>) {
        // A transaction that has failed may be there all the same: then what is new answers as a duplicate.
        if applied.iter().any(|a| matches!(a, Applied::New | Applied::Duplicate)) {
            self.wake();
        }
        let mut applied = applied.into_iter();
        for group in groups {
            // A connection that is gone does not wait for its answer.
            let _ = group.reply.send(applied.by_ref().take(group.batch.len()).collect());
        }
    }
}

impl Group {
    pub(super) fn bytes(&self) -> usize {
        self.batch.iter().flat_map(|i| i.pieces.iter()).map(|p| p.bytes.len()).sum()
    }
}
