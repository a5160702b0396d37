//! Direct exporters: consumers of the log that send to a backend without a ground station.
//!
//! Each has a durable cursor (segment, request) of its own and passes a segment when the backend has all of it, or has refused
//! it for good. One that is down holds back nobody but itself. A request that the backend leaves undecided is put aside after some
//! waits and tried again from time to time, and so is one that waits or is on its way for more than two seconds: it holds back its
//! signal of its lane, and the rest goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use perigee_shared::clock::sleep_until;
use perigee_shared::env::{Env, Owner};
use perigee_shared::export::deliver::{Delivered, Event, Leave, Sent, Stopped, Trouble};
use perigee_shared::export::{Attributes, Client, Cut, Cuts, Delivery as Sender, ExporterConfig, Plan};
use perigee_shared::segment::{CodecError, Decoder, Header, Lane, Request, SegmentId};
use perigee_shared::signal::{Counts, Signal, SignalSet};
use perigee_shared::telemetry::Repeats;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::limiter::{Workspace, for_base, to_decode};
use crate::telemetry::{ExporterLabel, ShipCounters};
use crate::wal::{ConsumerId, Delivery, Wal, WalError};

/// Waits that a request has before another one has its turn, while they are short.
const WAITS: u32 = 3;

/// How often it is looked at, while something is put aside, what that keeps on board.
const LOOK_AFTER: Duration = Duration::from_secs(10);

/// After the log has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// How often what a backend has answered is written down once more while the log fails.
const SETTLE: u32 = 60;

#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error(transparent)]
    Wal(#[from] WalError),
    #[error(transparent)]
    Gone(#[from] perigee_shared::env::Gone),
    #[error("the agent is shutting down")]
    Stopped,
}

impl From<Stopped> for ExportError {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

/// A request that was put aside.
struct Waiting {
    /// Its segment, and its number there.
    at: (SegmentId, u64),
    /// When it has its turn.
    until: Instant,
    trouble: Trouble,
}

/// A segment of which something is to be sent.
struct Found {
    header: Header,
    /// The signals of its lane that are aside.
    aside: SignalSet,
    /// The lane's cursor is at an earlier one.
    behind: bool,
}

/// See the module.
pub struct Exporter {
    name: String,
    sender: Sender,
    plan: Plan,
    env: Env,
    wal: Owner<Wal>,
    consumer: ConsumerId,
    sealed: watch::Receiver<u64>,
    counters: Arc<ShipCounters>,
    memory: Workspace,
    /// By lane, and by the signals that were put aside there: nothing below waits for this exporter, so that what others have still to
    /// pass is not looked at again.
    passed: BTreeMap<(Lane, SignalSet), u64>,
    /// Where the first request was not decided.
    aside: BTreeMap<(Lane, Signal), Waiting>,
    /// A request was decided since one was put aside.
    answered: bool,
    /// When it was looked at last what that keeps on board.
    looked: Option<Instant>,
    /// Failures that the log has a line about.
    said: Repeats,
}

impl Exporter {
    /// The exporter called `name`, which gets `signals`, with `attributes` in every resource.
    #[expect(clippy::too_many_arguments, reason = "each is one end of a wire that agent.rs lays")]
    pub fn new(
        name: String,
        client: Client,
        config: &ExporterConfig,
        (signals, attributes): (SignalSet, Attributes),
        env: Env,
        wal: Owner<Wal>,
        consumer: ConsumerId,
        sealed: watch::Receiver<u64>,
        counters: Arc<ShipCounters>,
        memory: Workspace,
    ) -> Self {
        let plan = Plan { signals, limits: config.limits(), attributes };
        let sender = Sender::new(client, config, &env);
        let (passed, aside) = (BTreeMap::new(), BTreeMap::new());
        Self {
            name,
            sender,
            plan,
            env,
            wal,
            consumer,
            sealed,
            counters,
            memory,
            passed,
            aside,
            answered: true,
            looked: None,
            said: Repeats::default(),
        }
    }

    /// Exports until `shutdown`, also in the middle of a segment: the cursor says where to go on.
    pub async fn run(&mut self, shutdown: CancellationToken) {
        self.export_all(&shutdown).await;
        if shutdown.is_cancelled() {
            self.hear_out(&shutdown).await;
        }
    }

    /// Waits a moment for the answers to what is on its way: they decide what is sent again after the next start.
    async fn hear_out(&mut self, shutdown: &CancellationToken) {
        let open = self.aside.iter().filter(|(_, waiting)| waiting.trouble.is_on_its_way());
        let open: Vec<(Lane, Signal)> = open.map(|(at, _)| *at).collect();
        for (lane, signal) in open {
            let now = Instant::now();
            for (at, waiting) in &mut self.aside {
                waiting.until = if *at == (lane, signal) { now } else { now + Duration::from_secs(3600) };
            }
            let Ok(Some(found)) = self.next(Some(lane)).await else { continue };
            // It ends at the first request that is not on its way.
            if let Err(ExportError::Wal(_) | ExportError::Gone(_)) = self.export(found, shutdown).await {
                return;
            }
        }
    }

    async fn export_all(&mut self, shutdown: &CancellationToken) {
        loop {
            self.sealed.mark_unchanged();
            let next = self.next(None).await;
            let failed = match next {
                Ok(Some(found)) => match Box::pin(self.export(found, shutdown)).await {
                    Ok(()) => {
                        self.look().await;
                        continue;
                    }
                    Err(ExportError::Stopped) => return,
                    Err(error) => Some(error),
                },
                Ok(None) => None,
                Err(error) => Some(error),
            };
            let held_up = failed.is_some();
            let due = self.aside.values().map(|waiting| waiting.until).min();
            self.look().await;
            if let Some(error) = failed {
                self.say(&error);
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(PAUSE), if held_up => {}
                () = sleep_until(due), if !held_up => {}
                changed = self.sealed.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Tells from time to time what waits for this exporter alone, while it has put something aside.
    async fn look(&mut self) {
        let is_due = self.looked.is_none_or(|at| at.elapsed() >= LOOK_AFTER);
        if self.aside.is_empty() || !is_due {
            return;
        }
        self.looked = Some(Instant::now());
        let consumer = self.consumer;
        let look =
            move |wal: &mut Wal| wal.custody().held(consumer).map(|held| (held, wal.summary().max_bytes));
        if let Ok(Ok((held, max_bytes))) = self.wal.call(look).await {
            self.counters.undecided.hold(&ExporterLabel::new(&self.name), held, max_bytes);
        }
    }

    /// The next segment of which something is to be sent, most urgent lane first, or in this lane.
    async fn next(&mut self, only: Option<Lane>) -> Result<Option<Found>, ExportError> {
        let (consumer, mut passed) = (self.consumer, std::mem::take(&mut self.passed));
        let (now, signals) = (Instant::now(), self.plan.signals);
        let mut aside: BTreeMap<Lane, SignalSet> = BTreeMap::new();
        for ((lane, signal), _) in self.aside.iter().filter(|(_, waiting)| waiting.until > now) {
            let of_lane = aside.entry(*lane).or_default();
            *of_lane = of_lane.with(*signal);
        }
        let next = self.wal.call(move |wal| {
            wal.custody().leave(consumer);
            for lane in wal.custody().lanes().into_iter().filter(|lane| only.is_none_or(|only| only == *lane))
            {
                let aside = aside.get(&lane).copied().unwrap_or_default();
                let others = (!aside.is_empty()).then(|| signals.without(aside));
                if others.is_some_and(SignalSet::is_empty) {
                    continue;
                }
                let mut first = |aside: SignalSet, others| {
                    let from = passed.entry((lane, aside)).or_default();
                    let (found, next) = wal.custody().first_waiting(consumer, lane, *from, others)?;
                    *from = next;
                    Ok::<_, WalError>(found)
                };
                let Some(header) = first(aside, others)? else { continue };
                let behind =
                    others.is_some() && first(SignalSet::default(), None)?.is_some_and(|h| h.id != header.id);
                return Ok::<_, WalError>((passed, Some(Found { header, aside, behind })));
            }
            Ok((passed, None))
        });
        let (passed, found) = next.await??;
        self.passed = passed;
        if found.is_none() {
            // What a lane waited for that might go on is not on board any more.
            let gone: Vec<_> = self
                .aside
                .iter()
                .filter(|(_, w)| w.until <= now && only.is_none())
                .map(|(at, _)| *at)
                .collect();
            for at in gone {
                self.aside.remove(&at);
                self.counters.undecided.take(&ExporterLabel::new(&self.name), at);
            }
        }
        Ok(found)
    }

    /// Bytes of memory that decoding a segment, cutting it and sending it may take.
    fn need(&self, header: &Header) -> u64 {
        // One is joined, one waits, one is sent.
        let requests = 3 * header.raw_len.min(self.plan.limits.bytes as u64);
        // It is put together as one request of each signal before it is cut.
        to_decode(header) + for_base(header) + header.raw_len + requests
    }

    /// Sends what is left of a segment, apart from the signals that are aside.
    async fn export(&mut self, found: Found, shutdown: &CancellationToken) -> Result<(), ExportError> {
        let Found { header, aside, behind } = found;
        let (consumer, id, asked, all) = (self.consumer, header.id, header.clone(), header.items);
        let (lane, leans_on) = (id.lane, header.base_sequence);
        let turn = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Err(ExportError::Stopped),
            turn = self.memory.take(self.need(&header)) => Arc::new(turn),
        };
        let (payload, reached, chain) = self
            .wal
            .call(move |wal| {
                let payload = wal.custody().payload(&asked)?;
                let chain = match wal.bases().chain(lane, leans_on) {
                    // Decoding says so then.
                    Err(WalError::MissingBase(_)) => crate::wal::Chain::default(),
                    chain => chain?,
                };
                wal.custody().begin(consumer, id);
                Ok::<_, WalError>((payload, wal.custody().reached(consumer, lane)?, chain))
            })
            .await??;
        let Some(payload) = payload else { return Ok(()) };
        // `held`: something before is aside, so that the lane's cursor stays; `left`: something in this segment.
        let (mut seen, mut number, mut held, mut left) = (Counts::ZERO, 0, behind, false);
        let (header, plan, held_until_decoded) = (header.clone(), self.plan.clone(), Arc::clone(&turn));
        let mut cuts = self.env.stream(move |each| {
            let _turn = held_until_decoded;
            let requests: Box<dyn Iterator<Item = Result<Request, CodecError>>> =
                match chain.decode().and_then(|base| Decoder::new(&header, &payload, base.as_ref())) {
                    Ok(decoder) => Box::new(decoder),
                    Err(error) => Box::new(std::iter::once(Err(error))),
                };
            // Nobody waits any more when the exporter ends.
            let _ = Cuts::new(requests, plan).all(each);
        });
        let (mut next, mut of_last) = (None, Counts::ZERO);
        loop {
            let cut = match next.take() {
                Some(cut) => cut,
                None => match cuts.recv().await {
                    Some(cut) => cut,
                    None => break,
                },
            };
            let (signal, body, items) = match cut {
                Ok(Cut::Request { signal, body, items }) => (signal, body, items),
                // Numbered like the rest; its items are what is missing in the end.
                Ok(Cut::Undecodable { .. }) => {
                    number += 1;
                    continue;
                }
                Err(error) => {
                    tracing::error!(exporter = self.name, segment = %id, %error, "a segment cannot be decoded");
                    break;
                }
            };
            number += 1;
            seen += Counts::of(signal, items);
            if number <= reached.done(id.sequence, signal) {
                continue;
            }
            if aside.contains(signal) {
                (held, left) = (true, true);
                continue;
            }
            let Some(outcome) = self.send((id, number), signal, body, items, shutdown).await? else {
                return Ok(());
            };
            if let Some(first) = outcome.refused.first() {
                let reason = &first.reason;
                tracing::error!(exporter = self.name, reason, "the backend refuses items for good");
            }
            let refused = outcome.rejected + outcome.refused_items();
            next = cuts.recv().await;
            if next.is_none() && !held {
                // One commit for it and for the end of the segment.
                of_last = Counts::of(signal, refused);
                break;
            }
            let became = (Counts::of(signal, items.saturating_sub(refused)), Counts::of(signal, refused));
            let ahead = held.then_some(signal);
            let wanted = self
                .settle(shutdown, move |wal| wal.custody().advance(consumer, id, ahead, number, became))
                .await?;
            // What is put aside has its turn, too, and so has who waits for memory. What is left of a segment that was
            // dropped counts as lost once a station has heard of that.
            if !wanted || turn.is_over() || self.aside.values().any(|waiting| waiting.until <= Instant::now())
            {
                return Ok(());
            }
        }
        if left {
            let others = self.plan.signals.without(aside);
            return self
                .settle(shutdown, move |wal| wal.custody().pass_ahead(consumer, id, others).map(drop))
                .await;
        }
        let refused = all.only(self.plan.signals).saturating_sub(seen) + of_last;
        let pass = move |wal: &mut Wal| {
            wal.custody().pass(consumer, &[Delivery { id, refused }])?;
            // The lane's cursor is at an earlier segment when this one has nothing of what is aside.
            if reached.is_apart() && !held { wal.custody().join(consumer, id) } else { Ok(()) }
        };
        self.settle(shutdown, pass).await
    }

    /// Writes down what the backend has answered, again and again while the store fails: what is not written down is sent once more.
    async fn settle<T: Send + 'static>(
        &mut self,
        shutdown: &CancellationToken,
        write: impl Fn(&mut Wal) -> Result<T, WalError> + Clone + Send + 'static,
    ) -> Result<T, ExportError> {
        for _ in 0..SETTLE {
            match self.wal.call(write.clone()).await? {
                Err(WalError::Store(error)) => self.say(&error),
                done => return Ok(done?),
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
        Ok(self.wal.call(write).await??)
    }

    /// Says from time to time that the log fails.
    fn say(&mut self, error: &dyn std::error::Error) {
        if let Some(times) = self.said.count(&error.to_string()) {
            tracing::error!(exporter = self.name, %error, times, "the log fails now; export waits and tries again");
        }
    }

    /// Sends a request; `None` when it was not decided and is aside for a while.
    async fn send(
        &mut self,
        at: (SegmentId, u64),
        signal: Signal,
        body: bytes::Bytes,
        items: u64,
        shutdown: &CancellationToken,
    ) -> Result<Option<Delivered>, Stopped> {
        let lane = at.0.lane;
        // What there is of another request in this place is of one that is not there any more.
        let before = self.aside.remove(&(lane, signal)).filter(|waiting| waiting.at == at);
        let trouble = before.map(|waiting| waiting.trouble);
        let again = trouble.is_some();
        // While everything fails, each is tried once in its turn.
        let waits = if again || !self.aside.is_empty() { 0 } else { WAITS };
        let label = ExporterLabel::new(&self.name);
        let (mut said, mut refuses) = (None, false);
        let (counters, name, env) = (&self.counters, &self.name, &self.env);
        let tell = |event: Event<'_>| {
            event.log(name, signal, "log");
            match event {
                Event::Sent { items, rejected, .. } => {
                    counters.sent(&label, signal, items, rejected);
                    counters.succeeded(&label, env.unix_nano());
                }
                Event::Refused { items } => counters.send_failed(&label, signal, items),
                Event::Retry { reason, misconfigured, .. } => {
                    (said, refuses) = (Some(reason.to_owned()), misconfigured);
                    counters.retried(&label, env.unix_nano(), reason, misconfigured);
                }
                Event::Kept { .. } | Event::Back { .. } => {}
            }
        };
        let early = CancellationToken::new();
        let leave = Leave { early: &early, waits, trouble };
        match self.sender.send_or_leave(signal, body, items, shutdown, leave, tell).await? {
            Sent::Done(delivered) => {
                self.answered = true;
                self.counters.undecided.take(&label, (lane, signal));
                if self.aside.is_empty() {
                    self.counters.gets_on(&label);
                }
                Ok(Some(delivered))
            }
            // Nobody cancels `early`.
            Sent::Left(_) => Ok(None),
            Sent::Undecided(wait, trouble) => {
                // When nothing goes, or the backend refuses this exporter, that was said.
                if !again && std::mem::take(&mut self.answered) && !refuses {
                    tracing::warn!(
                        exporter = self.name,
                        %signal,
                        lane = lane.0,
                        "the backend neither accepts nor refuses a request; the agent tries it again and sends the others meanwhile"
                    );
                }
                self.counters.undecided.put(&label, (lane, signal), self.env.unix_nano(), said.as_deref());
                let until = Instant::now() + wait;
                self.aside.insert((lane, signal), Waiting { at, until, trouble });
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use perigee_shared::env::Placement;
    use perigee_shared::otlp::walk;
    use simdisk::{Disk, Fault, Operation, Trouble};

    use super::*;
    use crate::config::LimiterConfig;
    use crate::limiter::Limiter;
    use crate::wal::{Accepted, config, seal};

    /// A log record, and a span: a resource, a scope and one item with no fields.
    fn request(signal: Signal) -> Accepted {
        let body = bytes::Bytes::from_static(&[10, 4, 18, 2, 18, 0]);
        Accepted { signal, walked: walk::walk(signal, &body).unwrap(), body }
    }

    /// The store fails once the backend has the first request, and again once it has the last.
    #[tokio::test(start_paused = true)]
    async fn what_the_backend_has_is_not_sent_again_because_the_store_fails() {
        let (disk, sent) = (Disk::new(), Arc::new(AtomicU32::new(0)));
        let fault =
            |operation| Fault { operation, trouble: Trouble::InputOutput, after: 0, times: 8, seed: 1 };
        let output = {
            let (disk, sent) = (Arc::clone(&disk), Arc::clone(&sent));
            Arc::new(move |_: &str| {
                sent.fetch_add(1, Ordering::Relaxed);
                disk.arm(fault(Operation::Sync));
                disk.arm(fault(Operation::Write));
            })
        };
        let mut env = disk.env();
        env.output = output;
        let config = config("/log".as_ref(), &[("out", SignalSet::ALL)]);
        let mut wal = Wal::open(config, env.clone()).unwrap();
        wal.journal().append(&[request(Signal::Logs), request(Signal::Traces)]).unwrap();
        seal(&mut wal).unwrap().unwrap();
        let consumer = wal.custody().consumer("out").unwrap();
        let wal = Owner::new(Placement::Inline, "wal", wal).unwrap();

        let backend: ExporterConfig = ExporterConfig::Debug(Default::default());
        let client = Client::try_new("exporters.debug", &backend, &env).unwrap();
        let (_sealed, segments) = watch::channel(1);
        let memory = Workspace::new(&Limiter::new(LimiterConfig::default()));
        let mut exporter = Exporter::new(
            "out".to_owned(),
            client,
            &backend,
            (SignalSet::ALL, Attributes::default()),
            env,
            wal.clone(),
            consumer,
            segments,
            Arc::default(),
            memory,
        );
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let stop = stop.clone();
            async move { exporter.run(stop).await }
        });
        let delivered = async {
            loop {
                let summary = wal.call(|wal| wal.summary()).await.unwrap();
                if summary.delivered == summary.accepted {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), delivered).await.expect("delivered in a minute");
        stop.cancel();
        task.await.unwrap();
        assert!(disk.fired() > 0, "the store failed");
        assert_eq!(sent.load(Ordering::Relaxed), 2, "each request once");
    }
}
