//! The asynchronous interface to the spool.
//!
//! What several connections hand in at once shares a transaction. While the disk fails nothing is given up: the same work is
//! tried again until it succeeds, and callers wait, so that links stop reading.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use perigee_proto::link;
use perigee_shared::env::{Env, Owner};
use perigee_shared::signal::SignalSet;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::error::SpoolError;
use super::intake::{Applied, Incoming};
use super::letters::Replay;
use super::open::{Settings, Spool};
use super::outlet::{Progress, Work};
use super::snapshot::Snapshot;

/// Calls of [`Store::commit`] that may wait.
const QUEUE: usize = 64;
/// How long the last transaction may take when the spool ends.
const CLOSE: Duration = Duration::from_secs(5);
/// Payload bytes that share a transaction, at most.
const GROUP_BYTES: usize = 16 << 20;

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
    /// How often partial segments were given up: links begin again, since what they were told is held is gone.
    pub relieved: u64,
}

impl Status {
    /// Whether a link of `satellite` may read.
    pub fn has_room(&self, satellite: &str) -> bool {
        !self.full && self.failing.is_none() && !self.full_satellites.contains(satellite)
    }
}

struct Group {
    batch: Vec<Incoming>,
    reply: oneshot::Sender<Vec<Applied>>,
}

/// How the program reaches the spool. Clones reach the same one.
#[derive(Clone)]
pub struct Store {
    owner: Owner<Spool>,
    groups: mpsc::Sender<Group>,
    status: Arc<watch::Sender<Status>>,
    bounds: Arc<Bounds>,
    committer: Arc<Mutex<Option<JoinHandle<()>>>>,
    env: Env,
}

struct Bounds {
    max_bytes: u64,
    /// Kept free for what links hold in memory when it gets full.
    reserve: u64,
    satellites: Vec<(String, u64)>,
}

impl Store {
    /// Opens the spool. `reserve` bytes are kept free for what is being received. Must be called inside a tokio runtime.
    pub fn open(env: &Env, settings: Settings, reserve: u64) -> Result<Self, SpoolError> {
        let bounds = Bounds {
            max_bytes: settings.max_bytes,
            reserve: reserve.min(settings.max_bytes / 4),
            satellites: settings.satellites.clone(),
        };
        let path = settings.directory.clone();
        let spool = Spool::open(env, settings)?;
        let owner = Owner::new(env.placement, "spool", spool)
            .map_err(|e| SpoolError::Open { path, why: e.to_string() })?;
        let (groups, queue) = mpsc::channel(QUEUE);
        let (status, bounds) = (Arc::new(watch::Sender::default()), Arc::new(bounds));
        let task =
            tokio::spawn(commit_groups(queue, owner.clone(), Arc::clone(&status), Arc::clone(&bounds)));
        Ok(Self {
            owner,
            groups,
            status,
            bounds,
            committer: Arc::new(Mutex::new(Some(task))),
            env: env.clone(),
        })
    }

    /// Commits what is whole and holds what is not; what comes back is durable.
    pub async fn commit(&self, batch: Vec<Incoming>) -> Result<Vec<Applied>, SpoolError> {
        let (reply, answer) = oneshot::channel();
        self.groups.send(Group { batch, reply }).await.map_err(|_| SpoolError::Gone)?;
        answer.await.map_err(|_| SpoolError::Gone)
    }

    /// Takes in a satellite's Hello and answers where it may resume.
    pub async fn ledger(
        &self,
        satellite: Arc<str>,
        hello: Arc<link::Hello>,
    ) -> Result<Vec<link::ResumeEpoch>, SpoolError> {
        self.insist(move |spool| spool.hello(&satellite, &hello)).await
    }

    /// Records drops.
    pub async fn drops(&self, satellite: Arc<str>, drops: Arc<link::EpochDrops>) -> Result<(), SpoolError> {
        self.insist(move |spool| spool.drops(&satellite, &drops)).await
    }

    /// The next segment for an exporter.
    pub async fn next(
        &self,
        exporter: Arc<str>,
        signals: SignalSet,
        fingerprint: u64,
    ) -> Result<Option<Work>, SpoolError> {
        self.insist(move |spool| spool.next(&exporter, signals, fingerprint)).await
    }

    /// Moves an exporter's cursor.
    pub async fn progress(&self, exporter: Arc<str>, progress: Progress) -> Result<(), SpoolError> {
        let progress = Arc::new(progress);
        self.insist(move |spool| spool.progress(&exporter, &progress)).await
    }

    /// Notes that an entry decodes.
    pub async fn mark_checked(&self, entry: u64) -> Result<(), SpoolError> {
        Ok(self.owner.call(move |spool| spool.mark_checked(entry)).await?)
    }

    /// Puts a segment that does not decode into dead-letter.
    pub async fn condemn(&self, entry: u64, reason: String) -> Result<(), SpoolError> {
        self.insist(move |spool| spool.condemn(entry, &reason)).await
    }

    /// Deletes what everybody is done with.
    pub async fn sweep(&self) -> Result<(), SpoolError> {
        self.insist(Spool::sweep).await
    }

    /// The next dead letter that an exporter is to send again.
    pub async fn next_replay(&self, exporter: Arc<str>) -> Result<Option<Replay>, SpoolError> {
        self.insist(move |spool| spool.next_replay(&exporter)).await
    }

    /// Notes what came of a dead letter that was sent again.
    pub async fn replayed(&self, id: u64, refused: Option<String>) -> Result<(), SpoolError> {
        self.insist(move |spool| spool.replayed(id, refused.as_deref())).await
    }

    /// Has dead letters sent again.
    pub async fn replay(&self, ids: Option<Vec<u64>>) -> Result<u64, SpoolError> {
        let replayed = self.insist(move |spool| spool.replay(ids.as_deref())).await?;
        self.status.send_modify(|status| status.version += 1);
        Ok(replayed)
    }

    /// Asks the spool something; an error is handed back at once.
    pub async fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Spool) -> Result<R, SpoolError> + Send + 'static,
    ) -> Result<R, SpoolError> {
        self.owner.call(question).await?
    }

    /// Has `work` look at the spool as it is now, away from the spool's thread: for what keeps a processor busy.
    pub async fn study<R: Send + 'static>(
        &self,
        work: impl FnOnce(Snapshot) -> Result<R, SpoolError> + Send + 'static,
    ) -> Result<R, SpoolError> {
        let snapshot = self.ask(|spool| spool.snapshot()).await?;
        self.env.cpu(move || work(snapshot)).await
    }

    /// What changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Ends the spool in order; what was handed in before is durable then. With other handles still held it is only let go,
    /// and closes when the last of them is.
    pub async fn close(self) {
        let Self { owner, groups, committer, env, .. } = self;
        drop(groups);
        let task = committer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = tokio::time::timeout(CLOSE, task).await;
        }
        let closed = env.cpu(move || owner.into_inner().map(Spool::close)).await;
        if let Some(Err(error)) = closed {
            tracing::warn!(%error, "the spool was not closed in order");
        }
    }

    async fn insist<R: Send + 'static>(
        &self,
        work: impl Fn(&mut Spool) -> Result<R, SpoolError> + Send + Sync + 'static,
    ) -> Result<R, SpoolError> {
        let out = insist(&self.owner, &self.status, Arc::new(work)).await?;
        refresh(&self.owner, &self.status, &self.bounds, false).await?;
        Ok(out)
    }
}

/// Runs `work` until it succeeds or fails for a reason that waiting does not mend.
async fn insist<R: Send + 'static>(
    owner: &Owner<Spool>,
    status: &watch::Sender<Status>,
    work: Arc<impl Fn(&mut Spool) -> Result<R, SpoolError> + Send + Sync + 'static>,
) -> Result<R, SpoolError> {
    let mut wait = Duration::from_millis(250);
    loop {
        let attempt = Arc::clone(&work);
        let result = owner
            .call(move |spool| {
                attempt(spool).inspect_err(|e| {
                    if e.is_retryable()
                        && let Err(again) = spool.recover(e)
                    {
                        tracing::warn!(error = %again, "the spool cannot be opened again yet");
                    }
                })
            })
            .await?;
        match result {
            Err(error) if error.is_retryable() => {
                tracing::error!(
                    event.name = "perigee.spool.failing",
                    %error,
                    "the spool cannot be written; links stop reading and nothing is dropped"
                );
                status.send_modify(|s| s.failing = Some(error.to_string()));
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(10));
            }
            other => {
                status.send_if_modified(|s| s.failing.take().is_some());
                return other;
            }
        }
    }
}

async fn refresh(
    owner: &Owner<Spool>,
    status: &watch::Sender<Status>,
    bounds: &Bounds,
    new: bool,
) -> Result<(), SpoolError> {
    let bounds_of: Vec<String> = bounds.satellites.iter().map(|(name, _)| name.clone()).collect();
    let limit = bounds.max_bytes - bounds.reserve;
    let (used, satellites, relieved) = owner
        .call(move |spool| {
            // A disk that fails is noticed by who needs it.
            let relieved = spool.relieve(limit).unwrap_or(false);
            let of: Vec<u64> = bounds_of.iter().map(|name| spool.bytes_of(name)).collect();
            (spool.usage().total, of, relieved)
        })
        .await?;
    status.send_if_modified(|status| {
        let before = status.clone();
        status.used = used;
        status.relieved += u64::from(relieved);
        // Once full it stays so until a little has gone, so that it does not flutter.
        status.full = used >= if before.full { limit - limit / 16 } else { limit };
        status.full_satellites = bounds
            .satellites
            .iter()
            .zip(satellites)
            .filter(|((_, limit), used)| used >= limit)
            .map(|((name, _), _)| name.clone())
            .collect();
        status.version += u64::from(new);
        if status.full && !before.full {
            tracing::error!(
                event.name = "perigee.spool.full",
                used,
                max = bounds.max_bytes,
                "the spool is full: links stop reading and nothing is dropped; see which exporter is behind"
            );
        }
        *status != before
    });
    Ok(())
}

async fn commit_groups(
    mut queue: mpsc::Receiver<Group>,
    owner: Owner<Spool>,
    status: Arc<watch::Sender<Status>>,
    bounds: Arc<Bounds>,
) {
    while let Some(first) = queue.recv().await {
        let size = |group: &Group| {
            group.batch.iter().flat_map(|i| i.pieces.iter()).map(|p| p.bytes.len()).sum::<usize>()
        };
        let mut bytes = size(&first);
        let mut groups = vec![first];
        while bytes < GROUP_BYTES
            && let Ok(next) = queue.try_recv()
        {
            bytes += size(&next);
            groups.push(next);
        }
        let mut new = false;
        match commit_all(&owner, &status, &groups).await {
            Ok(applied) => {
                new = applied.contains(&Applied::New);
                answer(groups, applied);
            }
            // One that cannot be taken must not take the others with it.
            Err(_) => {
                for group in groups {
                    let one = [group];
                    match commit_all(&owner, &status, &one).await {
                        Ok(applied) => {
                            new |= applied.contains(&Applied::New);
                            answer(one, applied);
                        }
                        // The caller sees that its answer never comes.
                        Err(error) => tracing::error!(%error, "the spool did not take a batch"),
                    }
                }
            }
        }
        if refresh(&owner, &status, &bounds, new).await.is_err() {
            break;
        }
    }
}

/// The groups' segments in one transaction.
async fn commit_all(
    owner: &Owner<Spool>,
    status: &watch::Sender<Status>,
    groups: &[Group],
) -> Result<Vec<Applied>, SpoolError> {
    let batch: Arc<[Incoming]> = groups.iter().flat_map(|g| g.batch.iter().cloned()).collect();
    insist(owner, status, Arc::new(move |spool: &mut Spool| spool.apply(&batch))).await
}

fn answer(groups: impl IntoIterator<Item = Group>, applied: Vec<Applied>) {
    let mut applied = applied.into_iter();
    for group in groups {
        // A connection that is gone does not wait for its answer.
        let _ = group.reply.send(applied.by_ref().take(group.batch.len()).collect());
    }
}
