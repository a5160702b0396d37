//! The way into the write-ahead log: requests that arrive during one commit share the next.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use perigee_shared::env::Owner;
use perigee_shared::otlp::status::Status;
use perigee_shared::store::StoreError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::config::Acknowledge;
use crate::limiter::Permit;
use crate::telemetry::ReceiverCounters;
use crate::wal::{Accepted, Unsealed, Wal, WalError};

/// Requests that may wait for a commit. Their bytes are bounded by the limiter.
const QUEUE: usize = 4096;

/// A commit of so many bytes is not held for more.
const LARGE: usize = 1 << 20;

/// A commit takes no more than this, so that memory for it is bounded.
const MAX_COMMIT: usize = 8 << 20;

/// What clients are told to wait when the store cannot take more.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// How long answered requests wait before the store is tried again.
const PROMISED_RETRY: Duration = Duration::from_secs(1);

struct Entry {
    accepted: Accepted,
    /// Holds the request's bytes until it is in the log.
    permit: Permit,
    reply: Option<Reply>,
}

/// What the journal says after each commit.
#[derive(Debug, Clone)]
pub struct Progress {
    /// What waits for a segment, lane by lane, most urgent first.
    pub unsealed: Vec<Unsealed>,
    /// When the last request was committed.
    pub at: Instant,
}

/// Hands requests to the committer.
#[derive(Clone)]
pub struct Journal {
    queue: mpsc::Sender<Entry>,
    acknowledge: Acknowledge,
    counters: Arc<ReceiverCounters>,
}

impl Journal {
    /// A journal and what commits it.
    pub fn new(
        wal: Owner<Wal>,
        acknowledge: Acknowledge,
        commit_interval: Duration,
        counters: Arc<ReceiverCounters>,
        progress: watch::Sender<Progress>,
    ) -> (Self, Committer) {
        let (queue, entries) = mpsc::channel(QUEUE);
        let committer = Committer {
            wal,
            entries,
            commit_interval,
            progress,
            counters: Arc::clone(&counters),
            expected: 1,
            group: Group::default(),
        };
        (Self { queue, acknowledge, counters }, committer)
    }

    /// Takes a request; returns when the client may be told that it is safe.
    pub async fn append(&self, accepted: Accepted, permit: Permit) -> Result<(), Status> {
        const GONE: &str = "the agent is shutting down";
        let unavailable = || Status::unavailable(GONE, RETRY_AFTER);
        let (reply, answer) = match self.acknowledge {
            Acknowledge::Durable => {
                let (reply, answer) = oneshot::channel();
                (Some(reply), Some(answer))
            }
            Acknowledge::Received => (None, None),
        };
        let (signal, items) = (accepted.signal, accepted.walked.items);
        self.queue.send(Entry { accepted, permit, reply }).await.map_err(|_| unavailable())?;
        let result = match answer {
            Some(answer) => answer.await.unwrap_or_else(|_| Err(unavailable())),
            None => Ok(()),
        };
        match &result {
            Ok(()) => self.counters.accepted(signal, items),
            Err(_) => self.counters.refused(signal, items),
        }
        result
    }
}

/// Commits what the journal is handed, group by group.
pub struct Committer {
    wal: Owner<Wal>,
    entries: mpsc::Receiver<Entry>,
    commit_interval: Duration,
    progress: watch::Sender<Progress>,
    counters: Arc<ReceiverCounters>,
    /// Requests that are likely to come at once: those that are answered now, whose senders come again, and those that arrived
    /// meanwhile. Counting only the former would let two halves take turns, each with a commit of its own.
    expected: usize,
    /// What is being committed.
    group: Group,
}

/// Who is told that a request is safe.
type Reply = oneshot::Sender<Result<(), Status>>;

/// Requests that share a commit.
#[derive(Default)]
struct Group {
    requests: Arc<Vec<Accepted>>,
    waiting: Vec<(Permit, Option<Reply>)>,
}

impl Committer {
    /// Commits until every handle is gone and the rest is committed. After a panic, first the group that was undecided.
    pub async fn run(&mut self) {
        loop {
            if !self.group.waiting.is_empty() {
                self.commit().await;
            }
            let Some(first) = self.entries.recv().await else { return };
            let (mut requests, mut waiting) = (Vec::new(), Vec::new());
            for entry in self.gather(first).await {
                requests.push(entry.accepted);
                waiting.push((entry.permit, entry.reply));
            }
            self.group = Group { requests: Arc::new(requests), waiting };
        }
    }

    /// Whether nobody can send any more: the agent is shutting down.
    fn ending(&self) -> bool {
        self.entries.is_closed() && self.entries.is_empty()
    }

    /// Collects a commit: everything that is there, and for up to `commit_interval` what is expected to come.
    async fn gather(&mut self, first: Entry) -> Vec<Entry> {
        let mut bytes = first.accepted.body.len();
        let mut group = Vec::with_capacity(self.expected);
        group.push(first);
        let mut held = pin!(tokio::time::sleep(self.commit_interval));
        // Tasks that are ready to run may have a request each.
        tokio::task::yield_now().await;
        loop {
            while bytes < MAX_COMMIT
                && let Ok(entry) = self.entries.try_recv()
            {
                bytes += entry.accepted.body.len();
                group.push(entry);
            }
            if group.len() >= self.expected || bytes >= LARGE || self.commit_interval.is_zero() {
                break;
            }
            let entry = tokio::select! {
                biased;
                entry = self.entries.recv() => entry,
                () = &mut held => None,
            };
            let Some(entry) = entry else { break };
            bytes += entry.accepted.body.len();
            group.push(entry);
        }
        group
    }

    async fn commit(&mut self) {
        let Group { requests, waiting } = &self.group;
        // What was answered before it was safe is tried until it is: only the end of the process can lose it.
        let promised = waiting.iter().any(|(_, reply)| reply.is_none());
        let result = loop {
            let (requests, progress) = (Arc::clone(requests), self.progress.clone());
            let committed = self.wal.call(move |wal| {
                let result = wal.journal().append(&requests);
                // Told by the store itself, so that what is told last is what holds.
                progress.send_replace(Progress { unsealed: wal.segments().unsealed(), at: Instant::now() });
                result
            });
            match committed.await {
                Ok(Err(error)) if promised && !self.ending() => {
                    tracing::warn!(%error, requests = waiting.len(), "answered requests wait for the store");
                    tokio::time::sleep(PROMISED_RETRY).await;
                }
                Ok(result) => break result,
                Err(gone) => break Err(StoreError::GivenUp(gone.to_string()).into()),
            }
        };
        let waiting = std::mem::take(&mut self.group).waiting;
        if promised && let Err(error) = &result {
            tracing::error!(%error, requests = waiting.len(), "requests that were answered are lost: the agent ends");
        }
        self.expected = waiting.len() + self.entries.len();
        self.counters.commit(waiting.len());
        if let Err(error) = &result {
            tracing::debug!(%error, requests = waiting.len(), "requests were refused");
        }
        for (permit, reply) in waiting {
            drop(permit);
            if let Some(reply) = reply {
                let answer = match &result {
                    Ok(()) => Ok(()),
                    Err(WalError::Full { .. }) => {
                        Err(Status::unavailable("the store is full; nothing was lost", RETRY_AFTER))
                    }
                    Err(_) => Err(Status::unavailable("the store cannot be written now", RETRY_AFTER)),
                };
                // A client that has gone away needs no answer.
                drop(reply.send(answer));
            }
        }
    }
}
