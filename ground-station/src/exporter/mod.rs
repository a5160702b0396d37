//! Exporters: each sends what its signals' segments hold to one backend, from a durable place of its own.
//!
//! One that is down holds nobody back: it waits and tries again, for ever. What a backend refuses is halved until the single
//! items that it means are found; only those go to dead-letter, in the transaction that moves the place on.
//!
//! A segment is left between two requests, and while one of it waits, when something more urgent was committed: the place in it is
//! kept, since each lane has one. What a backend does not decide at all holds back only its own signal of its own lane (`aside.rs`).

mod again;
mod aside;
mod deliver;
mod own;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use perigee_shared::clock::sleep_until;
use perigee_shared::config::Invalid;
use perigee_shared::env::Env;
use perigee_shared::export::cut::Plan;
use perigee_shared::export::deliver::{Leave, Sent, Stopped};
use perigee_shared::export::{Attributes, Client, Cut, Cuts, ExporterConfig};
use perigee_shared::segment::{Delivery as SegmentDelivery, SegmentId};
use perigee_shared::signal::{Counts, SignalSet};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::aside::{Aside, At};
use self::deliver::{Delivered, Delivery};
pub use self::own::Own;
use crate::spool::{Letter, Place, Progress, Replay, SpoolError, Status, Store, Work};
use crate::telemetry::Metrics;

/// How long settled segments may wait to be deleted together.
const SWEEP_AFTER: Duration = Duration::from_secs(1);

/// While a request is being sent, something more urgent is looked for, at most this often.
const LOOK_AFTER: Duration = Duration::from_millis(100);

/// One exporter.
pub struct Exporter {
    name: Arc<str>,
    plan: Plan,
    added: Added,
    delivery: Delivery,
    aside: Aside,
    turn: again::Turn,
    env: Env,
    store: Store,
}

/// What is added to every resource.
#[derive(Debug, Clone, Default)]
pub struct Added {
    /// The satellite's id, and the station's that took a segment in; this one where that is not known.
    pub station: Option<String>,
    /// Which segment it came in.
    pub segment: bool,
    /// Whether it waited on board for a contact, if the agent has said so.
    pub delivery: bool,
}

impl Added {
    fn to(&self, work: &Work) -> Attributes {
        let SegmentId { epoch, lane, sequence } = work.header.id;
        let segment = self.segment.then(|| format!("{epoch:016x}/{}/{sequence}", lane.0));
        let mut all = Vec::new();
        if let Some(station) = &self.station {
            // With a shared ledger another station may have taken it in.
            let station = if work.station.is_empty() { station } else { &work.station };
            all.extend([("satellite.id", &*work.satellite), ("ground.station.id", station)]);
        }
        all.extend(segment.as_deref().map(|segment| ("perigee.segment", segment)));
        let delivery = work.header.delivery.filter(|_| self.delivery);
        all.extend(delivery.map(|delivery| (SegmentDelivery::ATTRIBUTE, delivery.name())));
        Attributes::new(&all)
    }
}

/// A request of a segment.
struct Request {
    at: At,
    body: Bytes,
    items: u64,
}

/// What came of a request.
enum Outcome {
    Delivered(Delivered),
    /// It was left for another one; nothing is to be sent for so long.
    Left(Duration),
}

/// Why a segment was left before its end.
enum Left {
    Shutdown,
    Spool(SpoolError),
}

impl From<SpoolError> for Left {
    fn from(error: SpoolError) -> Self {
        Self::Spool(error)
    }
}

impl From<Stopped> for Left {
    fn from(Stopped: Stopped) -> Self {
        Self::Shutdown
    }
}

impl Exporter {
    /// An exporter called `name` of these signals; must be called inside a tokio runtime.
    pub fn try_new(
        name: &str,
        config: &ExporterConfig,
        signals: SignalSet,
        added: Added,
        env: &Env,
        store: Store,
        metrics: Metrics,
    ) -> Result<Self, Invalid> {
        let client = Client::try_new(&format!("exporters.{name}"), config, env)?;
        let name: Arc<str> = name.into();
        Ok(Self {
            plan: Plan { signals, limits: config.limits(), attributes: Attributes::default() },
            added,
            delivery: Delivery::new(Arc::clone(&name), client, config, env, metrics),
            aside: Aside::new(config),
            turn: again::Turn::default(),
            env: env.clone(),
            name,
            store,
        })
    }

    /// Says how requests are numbered: by the plan, out of the pieces in which the spool hands out large segments.
    fn fingerprint(&self) -> u64 {
        self.plan.fingerprint() ^ crate::spool::PIECES
    }

    /// What it is called.
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// Exports until `shutdown`.
    pub async fn run(&mut self, shutdown: CancellationToken) {
        self.export_all(&shutdown).await;
        if shutdown.is_cancelled() {
            self.hear_out(&shutdown).await;
        }
    }

    /// Waits a moment for the answers to what is on its way: they decide what is sent again after the next start.
    async fn hear_out(&mut self, shutdown: &CancellationToken) {
        for at in self.aside.open() {
            self.aside.take(at);
            let heard = async {
                self.tell_aside(at.place).await?;
                self.store.outlet().only(Arc::clone(&self.name), at.place).await?;
                self.send_next(shutdown).await
            };
            // It ends at the first request that is not on its way.
            if let Err(Left::Spool(_)) = heard.await {
                return;
            }
        }
    }

    async fn export_all(&mut self, shutdown: &CancellationToken) {
        let mut status = self.store.status();
        loop {
            status.borrow_and_update();
            match self.step(shutdown).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(Left::Shutdown | Left::Spool(SpoolError::Gone)) => return,
                Err(Left::Spool(error)) => {
                    tracing::error!(exporter = %self.name, %error, "the spool cannot be read");
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(Duration::from_secs(1)) => continue,
                    }
                }
            }
            // Nothing to do: what was settled is deleted once it has been quiet for a moment.
            let due = self.aside.alone().into_iter().chain(self.turn.again_at()).min();
            self.delivery.aside(self.aside.len());
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                changed = status.changed() => if changed.is_err() { return },
                () = sleep_until(due) => {}
                () = tokio::time::sleep(SWEEP_AFTER) => {
                    if self.store.outlet().sweep().await.is_err() {
                        return;
                    }
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return,
                        changed = status.changed() => if changed.is_err() { return },
                        () = sleep_until(due) => {}
                    }
                }
            }
        }
    }

    /// Sends a dead letter that was asked for, or the next segment. Whether there was any.
    async fn step(&mut self, shutdown: &CancellationToken) -> Result<bool, Left> {
        let replays = self.store.replays().next_replays(Arc::clone(&self.name), self.plan.limits).await?;
        if !replays.is_empty() {
            return self.replay(&replays, shutdown).await.map(|()| true);
        }
        if self.turn.is_due() && self.again(shutdown).await? {
            return Ok(true);
        }
        if let Some(place) = self.aside.take_back(Instant::now()) {
            self.tell_aside(place).await?;
        }
        if self.send_next(shutdown).await? {
            return Ok(true);
        }
        if self.turn.may() { self.again(shutdown).await } else { Ok(false) }
    }

    /// Sends the next segment that was not exported yet. Whether there was any.
    async fn send_next(&mut self, shutdown: &CancellationToken) -> Result<bool, Left> {
        let fingerprint = self.fingerprint();
        // What is committed from here on is looked at while a request is being sent.
        let status = self.store.status();
        let next = self.store.outlet().next(Arc::clone(&self.name), self.plan.signals, fingerprint).await?;
        let Some(work) = next else { return Ok(false) };
        self.turn.sent_new();
        let pause = Box::pin(self.segment(work, fingerprint, status, shutdown)).await?;
        // Nothing of the segment is in memory any more.
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Err(Left::Shutdown),
            () = tokio::time::sleep(pause) => Ok(true),
        }
    }

    /// Sends dead letters of one signal in one request, and in halves as long as that is refused.
    async fn replay(&mut self, replays: &[Replay], shutdown: &CancellationToken) -> Result<(), Left> {
        let mut work = vec![replays];
        while let Some(some) = work.pop() {
            let [first, ..] = some else { continue };
            // Requests one behind the other are one request.
            let body: Vec<&[u8]> = some.iter().map(|r| &r.letter.body[..]).collect();
            let items = some.iter().map(|r| r.letter.items.total()).sum();
            let refused =
                self.delivery.once(first.letter.signal, &body.concat().into(), items, shutdown).await?;
            if refused.is_some() && some.len() > 1 {
                let (left, right) = some.split_at(some.len() / 2);
                work.extend([right, left]);
            } else {
                self.store.replays().replayed(some.iter().map(|r| r.id).collect(), refused).await?;
            }
        }
        Ok(())
    }

    /// Sends a segment until its end, or until something else goes first. How long nothing else is to be sent.
    async fn segment(
        &mut self,
        work: Work,
        fingerprint: u64,
        mut status: watch::Receiver<Status>,
        shutdown: &CancellationToken,
    ) -> Result<Duration, Left> {
        const GO_ON: Duration = Duration::ZERO;
        let (place, first) = (work.place, work.first);
        let plan = Plan { attributes: self.added.to(&work), ..self.plan.clone() };
        let requests = match work.requests() {
            Ok(requests) => requests,
            Err(error) => {
                self.store.outlet().condemn(place, error.to_string()).await?;
                return Ok(GO_ON);
            }
        };
        let begin = || Progress { signals: first.signals(), ..Progress::at(place, fingerprint) };
        let mut progress = begin();
        let mut cuts = (0u64..).zip(Cuts::new(requests, plan)).peekable();
        while let Some((number, cut)) = cuts.next() {
            let cut = match cut {
                Ok(cut) => cut,
                Err(error) => {
                    self.store.outlet().condemn(place, error.to_string()).await?;
                    return Ok(GO_ON);
                }
            };
            let (Cut::Request { signal, .. } | Cut::Undecodable { signal, .. }) = cut;
            if number < first.of(signal) {
                continue;
            }
            progress.request = number + 1;
            progress.finished = cuts.peek().is_none();
            match cut {
                Cut::Request { signal, body, items } => {
                    let request = Request { at: At { place, number, signal }, body, items };
                    let sent = self.send(request, &work, fingerprint, &mut status, shutdown).await?;
                    let delivered = match sent {
                        Outcome::Delivered(delivered) => delivered,
                        Outcome::Left(pause) => return Ok(pause),
                    };
                    progress.items = items;
                    progress.letters = delivered.letters;
                    progress.rejected = Counts::of(signal, delivered.rejected);
                }
                Cut::Undecodable { signal, body } => {
                    let reason = "the request cannot be read".to_owned();
                    progress.letters = vec![Letter { signal, body, items: Counts::ZERO, reason }];
                    progress.rejected = Counts::ZERO;
                    progress.items = 0;
                }
            }
            self.store.outlet().progress(Arc::clone(&self.name), progress.clone()).await?;
            // What is put aside has its turn, too.
            let is_due = self.aside.due().is_some_and(|due| due <= Instant::now());
            let leaves = is_due || work.is_over();
            if !progress.finished && (leaves || self.goes_elsewhere(fingerprint, place).await?) {
                return Ok(GO_ON);
            }
        }
        if !progress.finished {
            // Nothing was left of it for this exporter.
            let none = Progress { finished: true, ..begin() };
            self.store.outlet().progress(Arc::clone(&self.name), none).await?;
        }
        Ok(GO_ON)
    }

    async fn goes_elsewhere(&self, fingerprint: u64, place: Place) -> Result<bool, SpoolError> {
        self.store
            .outlet()
            .goes_elsewhere(Arc::clone(&self.name), self.plan.signals, fingerprint, place)
            .await
    }

    /// Has the store leave out what is put aside of this lane.
    async fn tell_aside(&self, place: Place) -> Result<(), SpoolError> {
        self.store.outlet().put_aside(Arc::clone(&self.name), place, self.aside.signals_of(place)).await
    }

    /// Sends a request of this segment.
    async fn send(
        &mut self,
        Request { at, body, items }: Request,
        work: &Work,
        fingerprint: u64,
        status: &mut watch::Receiver<Status>,
        shutdown: &CancellationToken,
    ) -> Result<Outcome, Left> {
        let (store, name, signals) = (self.store.clone(), Arc::clone(&self.name), self.plan.signals);
        let early = CancellationToken::new();
        let watch = async {
            while status.changed().await.is_ok() {
                let elsewhere =
                    store.outlet().goes_elsewhere(Arc::clone(&name), signals, fingerprint, at.place);
                // A spool that cannot be read is noticed once the request is decided.
                if elsewhere.await.unwrap_or(false) {
                    early.cancel();
                }
                tokio::time::sleep(LOOK_AFTER).await;
            }
            std::future::pending::<Infallible>().await
        };
        // A request that waits must not keep others from memory.
        let crowded = async {
            work.wanted().await;
            early.cancel();
            std::future::pending::<Infallible>().await
        };
        let (waits, trouble) = self.aside.turn(at);
        let again = trouble.is_some();
        let leave = Leave { early: &early, waits, trouble };
        let sent = tokio::select! {
            biased;
            sent = self.delivery.send(at.signal, body, items, shutdown, leave) => sent?,
            never = watch => match never {},
            never = crowded => match never {},
        };
        let (wait, trouble) = match sent {
            Sent::Done(delivered) => {
                self.aside.answered();
                if again {
                    self.delivery.aside(self.aside.len());
                }
                return Ok(Outcome::Delivered(delivered));
            }
            Sent::Left(trouble) => {
                if let Some(trouble) = trouble {
                    self.aside.keep(at, trouble);
                }
                return Ok(Outcome::Left(Duration::ZERO));
            }
            Sent::Undecided(wait, trouble) => (wait, trouble),
        };
        let pause = self.aside.put(&self.env, at, trouble, wait);
        self.delivery.aside(self.aside.len());
        self.tell_aside(at.place).await?;
        // Of a backend that refuses this exporter more was said already.
        if !again && !self.delivery.is_misconfigured() {
            tracing::warn!(
                exporter = %self.name,
                satellite = &*work.satellite,
                signal = %at.signal,
                lane = at.place.lane().1,
                "a request is put aside that the backend does not decide about; it is tried again, and the rest goes on"
            );
        }
        Ok(Outcome::Left(pause))
    }
}
