//! The way in: what satellites say, and their bytes; what several connections hand over shares a transaction.

use std::collections::BTreeMap;
use std::sync::Arc;

use perigee_proto::link;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::SegmentId;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::super::clocks::Greeting;
use super::super::error::SpoolError;
use super::super::file::Txn;
use super::super::intake::{self, Applied, Incoming};
use super::super::ledger::{self, Answer};
use super::super::passes::{self, Heard};
use super::super::tables::{PartialRecord, decode};
use super::super::upkeep::Group;
use super::Fleet;
use super::rows::{Cell, List, Of, Row};
use super::scratch::{Loaded, SatelliteRow};
use super::session::Need;
use super::sql::{self, Query};

/// Payload bytes that share a transaction, at most.
const GROUP_BYTES: usize = 16 << 20;

/// Transactions of hand-overs at once: while one waits for its disks, the next is worked out.
const AT_ONCE: usize = 2;

/// The way in: what the link hands over.
#[derive(Clone, Copy)]
pub(in super::super) struct Intake<'a>(pub(super) &'a Fleet);

impl Intake<'_> {
    pub(in super::super) async fn ledger(
        self,
        satellite: Arc<str>,
        greeting: Greeting,
    ) -> Result<Answer, SpoolError> {
        const NEEDED: &[Of] = &[
            Of::Epoch,
            Of::Committed,
            Of::Recent,
            Of::Groups,
            Of::Pass,
            Of::Gap,
            Of::Dropped,
            Of::Partial,
            Of::Base,
            Of::Entry,
            Of::Letter,
            Of::Kept,
        ];
        let hello = Arc::clone(&greeting.hello);
        let asked = self.one(&satellite, NEEDED, move |txn, row| ledger::hello(txn, &row.name, &greeting));
        tokio::select! {
            biased;
            answer = asked => answer,
            () = self.cut_off() => self.answer_aside(Arc::clone(&satellite), hello).await,
        }
    }

    pub(in super::super) async fn drops(
        self,
        satellite: Arc<str>,
        drops: Arc<link::EpochDrops>,
    ) -> Result<link::DropsAck, SpoolError> {
        const NEEDED: &[Of] = &[Of::Recent, Of::Gap, Of::Dropped];
        self.one(&satellite, NEEDED, move |txn, row| ledger::drops(txn, &row.name, &drops)).await
    }

    pub(in super::super) async fn heard(self, satellite: Arc<str>, heard: Heard) -> Result<(), SpoolError> {
        const NEEDED: &[Of] = &[Of::Pass, Of::Contact];
        let asked = self.one(&satellite, NEEDED, move |txn, row| passes::heard(txn, &row.name, &heard));
        self.0.or_cut_off(asked).await
    }

    pub(in super::super) async fn commit(self, batch: Vec<Incoming>) -> Result<Vec<Applied>, SpoolError> {
        let (reply, answer) = oneshot::channel();
        self.0.inner.groups.send(Group { batch, reply }).await.map_err(|_| SpoolError::Gone)?;
        answer.await.map_err(|_| SpoolError::Gone)
    }

    /// Commits what connections hand over until the store ends.
    pub(super) async fn take_in(self, queue: &mut mpsc::Receiver<Group>) {
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let first = tokio::select! {
                biased;
                first = queue.recv() => first,
                () = self.0.inner.closing.cancelled() => None,
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
            let fleet = self.0.clone();
            self.0.inner.running.spawn(async move {
                fleet.intake().commit_groups(groups).await;
                drop(permit);
            });
        }
    }

    async fn commit_groups(self, groups: Vec<Group>) {
        let batch: Arc<[Incoming]> = groups.iter().flat_map(|g| g.batch.iter().cloned()).collect();
        let applied = tokio::select! {
            biased;
            applied = self.apply_now(Arc::clone(&batch)) => applied,
            // An attempt that is under way goes on; what it commits is a duplicate later.
            () = self.cut_off() => self.hold_aside(batch).await,
        };
        match applied {
            Ok(applied) => answer(groups, applied),
            Err(error) if groups.len() == 1 => {
                // The caller sees that its answer never comes.
                tracing::error!(%error, "the shared ledger did not take a batch");
            }
            // One that cannot be taken must not take the others with it.
            Err(_) => {
                for group in groups {
                    let one = [group];
                    let batch = one[0].batch.as_slice().into();
                    match self.apply_now(batch).await {
                        Ok(applied) => answer(one, applied),
                        Err(error) => tracing::error!(%error, "the shared ledger did not take a batch"),
                    }
                }
            }
        }
    }

    /// Segments in one transaction.
    pub(super) async fn apply_now(self, batch: Arc<[Incoming]>) -> Result<Vec<Applied>, SpoolError> {
        let mut names: Vec<Arc<str>> = batch.iter().map(|i| Arc::clone(&i.satellite)).collect();
        names.sort_unstable();
        names.dedup();
        let (fleet, asked) = (self.0.clone(), Arc::clone(&batch));
        let need = move |_: &[u32]| need(&fleet, &asked);
        let of = Arc::clone(&batch);
        let applied = self
            .0
            .insist(&names, need, move |txn, row| {
                let mine = of.iter().enumerate().filter(|(_, i)| *i.satellite == *row.name);
                let (at, mine): (Vec<usize>, Vec<Incoming>) = mine.map(|(at, i)| (at, i.clone())).unzip();
                Ok(at.into_iter().zip(intake::apply(txn, &mine)?).collect::<Vec<_>>())
            })
            .await?;
        let all: BTreeMap<usize, Applied> = applied.into_iter().flatten().collect();
        if all.values().any(|a| *a == Applied::Duplicate) {
            // A transaction that seemed to fail may have made it an entry.
            self.0.wake();
        }
        Ok(all.into_values().collect())
    }

    /// Runs a rule over everything that a satellite has in these tables.
    async fn one<R: Send + 'static>(
        self,
        satellite: &Arc<str>,
        tables: &'static [Of],
        work: impl Fn(&mut Txn<'_>, &SatelliteRow) -> Result<R, SpoolError> + Send + Sync + 'static,
    ) -> Result<R, SpoolError> {
        let need = move |satellites: &[u32]| Need::all_of(tables, satellites);
        let out = self.0.insist(std::slice::from_ref(satellite), need, work).await?;
        out.into_iter().next().ok_or(SpoolError::Gone)
    }
}

fn answer(groups: impl IntoIterator<Item = Group>, applied: Vec<Applied>) {
    let mut applied = applied.into_iter();
    for group in groups {
        // A connection that is gone does not wait for its answer.
        let _ = group.reply.send(applied.by_ref().take(group.batch.len()).collect());
    }
}

/// What a commit looks at.
fn need(fleet: &Fleet, batch: &Arc<[Incoming]>) -> Need {
    let of = |incoming: &Incoming| fleet.number_of(&incoming.satellite).unwrap_or(0);
    let mut named: Vec<[i64; 4]> = batch.iter().map(|i| key(of(i), i.header.id)).collect();
    named.sort_unstable();
    named.dedup();
    let lists = || (0..4).map(|at| List::Numbers(named.iter().map(|k| k[at]).collect())).collect::<Vec<_>>();
    let of_satellites: Vec<i64> = named.iter().map(|k| k[0]).collect();
    let ask = |of, text| Query { of, text, lists: lists() };
    let mut queries = vec![
        Query::of_satellites(Of::Epoch, &of_satellites),
        ask(Of::Committed, sql::runs_around()),
        ask(Of::Recent, sql::remembered()),
        ask(Of::Dropped, sql::dropped_around()),
        Query::keys(Of::Partial, lists()),
    ];
    let leaning = batch.iter().filter(|i| i.header.base_sequence.is_some());
    let mut leaning: Vec<i64> = leaning.map(|i| of(i).into()).collect();
    leaning.dedup();
    if !leaning.is_empty() {
        queries.push(Query::of_satellites(Of::Base, &leaning));
    }
    let arriving: Vec<([i64; 4], u64, u64)> = batch
        .iter()
        .map(|i| {
            let bytes = i.pieces.iter().map(|piece| piece.bytes.len() as u64).sum();
            (key(of(i), i.header.id), bytes, i.header.payload_len)
        })
        .collect();
    let then = move |loaded: &Loaded| pieces(loaded, &arriving).into_iter().chain(gaps(loaded)).collect();
    Need { then: Some(Box::new(then)), ..Need::rows(queries) }
}

fn key(satellite: u32, id: SegmentId) -> [i64; 4] {
    [satellite.into(), id.epoch as i64, id.lane.0.into(), id.sequence as i64]
}

/// The gaps of dropped ranges: a commit overrides a drop. There are seldom any.
fn gaps(loaded: &Loaded) -> Option<Query> {
    let dropped = loaded.get(&Of::Dropped).filter(|rows| !rows.is_empty())?;
    let mut named: Vec<[u64; 3]> =
        dropped.iter().map(|(k, v)| [k[0].number(), k[1].number(), v[1].number()]).collect();
    named.sort_unstable();
    named.dedup();
    let list = |at: usize| List::Numbers(named.iter().map(|gap| gap[at] as i64).collect());
    Some(Query::keys(Of::Gap, (0..3).map(list).collect()))
}

/// What is held of segments that may be whole now.
fn pieces(loaded: &Loaded, arriving: &[([i64; 4], u64, u64)]) -> Vec<Query> {
    let Some(partials) = loaded.get(&Of::Partial).filter(|rows| !rows.is_empty()) else { return Vec::new() };
    let mut whole: Vec<[i64; 4]> = Vec::new();
    for (key, _, length) in arriving {
        let row: Row = key.iter().map(|n| Cell::Number(*n)).collect();
        let Some(record) = partials.get(&row).and_then(|v| decode::<PartialRecord>(v[0].bytes()).ok()) else {
            continue;
        };
        let fresh: u64 = arriving.iter().filter(|(of, ..)| of == key).map(|(_, bytes, _)| bytes).sum();
        if RangeSet::from_wire(&record.held).total() + fresh >= *length && !whole.contains(key) {
            whole.push(*key);
        }
    }
    if whole.is_empty() {
        return Vec::new();
    }
    let lists = (0..4).map(|at| List::Numbers(whole.iter().map(|k| k[at]).collect())).collect();
    vec![Query::keys(Of::PartialChunk, lists)]
}
