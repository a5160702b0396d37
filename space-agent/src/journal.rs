//! The way into the write-ahead log: requests that arrive during one commit share the next.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use perigee_shared::env::Owner;
use perigee_shared::otlp::status::Status;
use perigee_shared::segment::Lane;
use perigee_shared::store::StoreError;
use perigee_shared::telemetry::Repeats;
use perigee_shared::units::ByteSize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::config::Acknowledge;
use crate::lanes::Rules;
use crate::limiter::Permit;
use crate::telemetry::ReceiverCounters;
use crate::wal::{Accepted, Unsealed, Wal, WalError};

/// Requests that may wait for a commit. Their bytes are bounded by the limiter.
const QUEUE: usize = 4096;

/// With no interval set, a commit may wait so long for requests that are likely to come.
const MOMENT: Duration = Duration::from_millis(5);

/// A commit of so many bytes is not held for more.
const LARGE: usize = 1 << 20;

/// A commit takes no more than this, and no more than this part of the memory limit: until it is done its requests are there as they
/// came, as they are written, and as pages of the store.
const MAX_COMMIT: u64 = 8 << 20;
const PART_OF_MEMORY: u64 = 32;

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

/// How long a commit may be held.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Every commit is held so long for more requests; zero: only while those come that are likely to.
    pub interval: Duration,
    /// A request with an item of an urgent lane is not held.
    pub rules: Arc<Rules>,
    /// The memory limit.
    pub memory: ByteSize,
}

impl Pace {
    /// Bytes after which a commit is not given more.
    fn most(&self) -> usize {
        (self.memory.0 / PART_OF_MEMORY).clamp(LARGE as u64, MAX_COMMIT) as usize
    }

    /// Whether `request` may not be held though commits are.
    fn is_urgent(&self, request: &Accepted) -> bool {
        if self.interval.is_zero() || self.rules.is_empty() {
            return false;
        }
        let shares = self.rules.shares(request.signal, &request.body, request.walked.items);
        shares.iter().any(|share| share.lane < Lane::BULK && share.items > 0)
    }
}

/// A commit that is being collected.
struct Gathering {
    entries: Vec<Entry>,
    bytes: usize,
    urgent: bool,
}

impl Gathering {
    fn add(&mut self, entry: Entry, pace: &Pace) {
        self.bytes += entry.accepted.body.len();
        self.urgent |= pace.is_urgent(&entry.accepted);
        self.entries.push(entry);
    }
}

/// Hands requests to the committer.
#[derive(Clone)]
pub struct Journal {
    queue: mpsc::Sender<Entry>,
    acknowledge: Acknowledge,
}

impl Journal {
    /// A journal and what commits it.
    pub fn new(
        wal: Owner<Wal>,
        acknowledge: Acknowledge,
        pace: Pace,
        counters: Arc<ReceiverCounters>,
        progress: watch::Sender<Progress>,
    ) -> (Self, Committer) {
        let (queue, entries) = mpsc::channel(QUEUE);
        let committer =
            Committer { wal, entries, pace, progress, counters, expected: 1, group: Group::default() };
        (Self { queue, acknowledge }, committer)
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
        self.queue.send(Entry { accepted, permit, reply }).await.map_err(|_| unavailable())?;
        match answer {
            Some(answer) => answer.await.unwrap_or_else(|_| Err(unavailable())),
            None => Ok(()),
        }
    }
}

/// Commits what the journal is handed, group by group.
pub struct Committer {
    wal: Owner<Wal>,
    entries: mpsc::Receiver<Entry>,
    pace: Pace,
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

    /// Collects a commit: everything that comes while it is held.
    async fn gather(&mut self, first: Entry) -> Vec<Entry> {
        let held = !self.pace.interval.is_zero();
        let mut group = Gathering { entries: Vec::with_capacity(self.expected), bytes: 0, urgent: false };
        group.add(first, &self.pace);
        let mut over = pin!(tokio::time::sleep(if held { self.pace.interval } else { MOMENT }));
        // Tasks that are ready to run may have a request each.
        tokio::task::yield_now().await;
        loop {
            while group.bytes < self.pace.most()
                && let Ok(entry) = self.entries.try_recv()
            {
                group.add(entry, &self.pace);
            }
            if group.urgent || group.bytes >= LARGE || !held && group.entries.len() >= self.expected {
                break;
            }
            let entry = tokio::select! {
                biased;
                entry = self.entries.recv() => entry,
                () = &mut over => None,
            };
            let Some(entry) = entry else { break };
            group.add(entry, &self.pace);
        }
        group.entries
    }

    async fn commit(&mut self) {
        let Group { requests, waiting } = &self.group;
        // What was answered before it was safe is tried until it is: only the end of the process can lose it.
        let promised = waiting.iter().any(|(_, reply)| reply.is_none());
        let mut said = Repeats::default();
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
                    if let Some(times) = said.count(&error.to_string()) {
                        tracing::warn!(%error, times, requests = waiting.len(), "answered requests wait for the store");
                    }
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

#[cfg(test)]
mod tests {
    use perigee_shared::env::Placement;
    use perigee_shared::otlp::walk;
    use perigee_shared::signal::{Signal, SignalSet};
    use simdisk::Disk;
    use tokio::task::JoinSet;

    use super::*;
    use crate::config::LimiterConfig;
    use crate::lanes::{Lanes, LanesConfig};
    use crate::limiter::Limiter;
    use crate::wal::WalConfig;
    use crate::wal::config;

    const SECOND: Duration = Duration::from_secs(1);

    /// A record of this severity.
    fn request(severity_number: i32) -> Accepted {
        use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
        use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
        use prost::Message;
        let log_records = vec![LogRecord { severity_number, ..LogRecord::default() }];
        let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
        let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
        let body = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
        let walked = walk::walk(Signal::Logs, &body).unwrap();
        Accepted { signal: Signal::Logs, body: body.into(), walked }
    }

    /// A journal whose commits are held so long, with an urgent lane for errors; and the log's tasks.
    fn journal(
        interval: Duration,
        acknowledge: Acknowledge,
    ) -> (Journal, Arc<ReceiverCounters>, Arc<Limiter>, JoinSet<()>) {
        let lanes: LanesConfig =
            serde_json::from_str(r#"{"alarms": {"number": 1, "match": [{"severity": "error"}]}}"#).unwrap();
        let lanes: Lanes = lanes.lanes().unwrap();
        let rules = Arc::clone(&lanes.rules);
        let config = WalConfig { lanes, ..config("/log".as_ref(), &[("link", SignalSet::ALL)]) };
        let wal = Wal::open(config, Disk::new().env()).unwrap();
        let wal = Owner::new(Placement::Inline, "wal", wal).unwrap();
        let progress = watch::Sender::new(Progress { unsealed: Vec::new(), at: Instant::now() });
        let counters = Arc::default();
        let (journal, mut committer) = Journal::new(
            wal,
            acknowledge,
            Pace { interval, rules, memory: LimiterConfig::default().limit },
            Arc::clone(&counters),
            progress,
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { committer.run().await });
        (journal, counters, Limiter::new(LimiterConfig::default()), tasks)
    }

    #[tokio::test(start_paused = true)]
    async fn with_an_interval_there_is_one_commit_in_it_whoever_sends() {
        let (journal, counters, limiter, _tasks) = journal(SECOND, Acknowledge::Durable);
        let mut senders = JoinSet::new();
        for sender in 0..5u32 {
            let (journal, limiter) = (journal.clone(), Arc::clone(&limiter));
            senders.spawn(async move {
                tokio::time::sleep(sender * SECOND / 5).await;
                for _ in 0..20 {
                    let sent = Instant::now();
                    journal.append(request(9), limiter.admit().unwrap()).await.unwrap();
                    assert!(sent.elapsed() <= SECOND + SECOND / 100);
                }
            });
        }
        let began = Instant::now();
        senders.join_all().await;
        let (seconds, commits) = (began.elapsed().as_secs_f64(), counters.commits() as f64);
        assert!(commits <= seconds + 1.0, "{commits} commits in {seconds} s");
        assert!(commits >= 20.0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_urgent_is_committed_at_once_with_all_that_waits() {
        let (journal, counters, limiter, _tasks) = journal(60 * SECOND, Acknowledge::Received);
        for _ in 0..10 {
            journal.append(request(9), limiter.admit().unwrap()).await.unwrap();
        }
        tokio::time::sleep(SECOND).await;
        assert_eq!(counters.commits(), 0, "they wait for the interval");
        journal.append(request(17), limiter.admit().unwrap()).await.unwrap();
        tokio::time::sleep(SECOND / 100).await;
        assert_eq!(counters.commits(), 1);
        journal.append(request(9), limiter.admit().unwrap()).await.unwrap();
        tokio::time::sleep(59 * SECOND).await;
        assert_eq!(counters.commits(), 1);
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(counters.commits(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_interval_a_lone_sender_is_not_held() {
        let (journal, counters, limiter, _tasks) = journal(Duration::ZERO, Acknowledge::Durable);
        for _ in 0..50 {
            let sent = Instant::now();
            journal.append(request(9), limiter.admit().unwrap()).await.unwrap();
            assert!(sent.elapsed() < MOMENT);
        }
        assert_eq!(counters.commits(), 50);
    }
}
