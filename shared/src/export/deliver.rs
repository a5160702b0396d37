//! Getting one request to a backend: retried until it is taken, halved until what is refused is found.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::outcome::About;
use super::rate::RateLimit;
use super::split::{by_temporality, items};
use super::{Backoff, Client, ExporterConfig, Outcome, halve, without_empty};
use crate::env::Env;
use crate::signal::Signal;

/// How often a part of a request is sent again at most before it is held to be at fault, which is perhaps the backend.
const AGAIN: u32 = 8;

/// How often its pieces are, one by one.
const AGAIN_IN_PIECES: u32 = 2;

/// When one request has been sent again for this long, that is reported, and once more each time it has gone on for as long.
const KEPT: Duration = Duration::from_secs(600);

/// Another reason why nothing is sent is told at most this often.
const SAID: Duration = Duration::from_secs(60);

/// How long a request that is on its way may take when the program ends.
const GRACE: Duration = Duration::from_secs(5);

/// Requests that may be on their way or decided in part while others are sent.
const OPEN: usize = 4;

/// How long a request that may be left holds others back, on its way or waiting.
const PATIENCE: Duration = Duration::from_secs(2);

/// The program ends; nothing was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

/// What came of sending a request that may be left.
#[derive(Debug)]
pub enum Sent<D = Delivered> {
    /// All of it is decided.
    Done(D),
    /// Somebody else goes first; it is as if it had not been sent now. The trouble that it had before.
    Left(Option<Trouble>),
    /// It would hold others back. It is to be sent again after so long, with this trouble.
    Undecided(Duration, Trouble),
}

/// When a request is left: at the latest before a wait that would make others wait for more than two seconds.
#[derive(Debug)]
pub struct Leave<'a> {
    /// Once this is cancelled, while nothing of it is decided.
    pub early: &'a CancellationToken,
    /// After so many waits.
    pub waits: u32,
    /// The trouble that it had when it was sent before.
    pub trouble: Option<Trouble>,
}

/// Why nothing more is sent of a request.
enum Halt {
    Stopped,
    /// Something else goes first; of this request nothing is decided.
    Left,
    /// It has had its waits.
    Undecided(Duration),
}

/// When a wait ends early: the program ends, or somebody else is to go first.
#[derive(Clone, Copy)]
struct Until<'a> {
    shutdown: &'a CancellationToken,
    leave: Option<Leaving<'a>>,
}

#[derive(Clone, Copy)]
struct Leaving<'a> {
    /// `None`: a part of the request may be decided.
    early: Option<&'a CancellationToken>,
    waits: u32,
}

impl Until<'_> {
    /// The same for what is not the whole request.
    fn of_part(self) -> Self {
        Self { leave: self.leave.map(|leave| Leaving { early: None, ..leave }), ..self }
    }

    async fn sleep(self, wait: Duration) -> Result<(), Halt> {
        if wait.is_zero() {
            return Ok(());
        }
        let left = async {
            match self.leave.and_then(|leave| leave.early) {
                Some(early) => early.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Err(Halt::Stopped),
            () = left => Err(Halt::Left),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }
}

/// Part of a request that a backend has refused for good, as small as it could be cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The request.
    pub body: Bytes,
    /// Items in it.
    pub items: u64,
    /// What the backend said, without payload.
    pub reason: String,
}

/// What came of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivered {
    /// What the backend refused for good.
    pub refused: Vec<Refused>,
    /// Items that it took and rejected (`partial_success`).
    pub rejected: u64,
}

impl Delivered {
    /// Items that were refused for good.
    pub fn refused_items(&self) -> u64 {
        self.refused.iter().map(|r| r.items).sum()
    }
}

/// Told while it goes on, for counters and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The backend has taken so many items.
    Sent {
        /// Items in the request.
        items: u64,
        /// Of these, rejected for good.
        rejected: u64,
        /// What it said of them.
        message: &'a str,
    },
    /// It has refused these for good.
    Refused {
        /// Items.
        items: u64,
    },
    /// The same is sent again after a wait.
    Retry {
        /// How long.
        wait: Duration,
        /// Why.
        reason: &'a str,
        /// The answer is about this exporter's settings, not about the data.
        misconfigured: bool,
        /// It is the first time, or for another reason than was said a minute ago or more.
        news: bool,
    },
    /// The same request is sent again for so long: something has to be done about its backend.
    Kept {
        /// How long.
        time: Duration,
        /// What the backend said last.
        reason: &'a str,
    },
    /// The backend answers again.
    Back {
        /// How long it did not.
        after: Duration,
    },
}

impl Event<'_> {
    /// Says how it goes with the backend of `exporter`; `store` is what keeps everything meanwhile.
    pub fn log(&self, exporter: &str, signal: Signal, store: &str) {
        match self {
            Self::Retry { wait, reason, misconfigured: true, news: true } => tracing::error!(
                event.name = "perigee.exporter.misconfigured",
                exporter,
                %signal,
                reason,
                ?wait,
                "the backend refuses this exporter, not the data: check its endpoint and credentials; the {store} keeps everything, and \
                 it is tried again, which is not said each time"
            ),
            Self::Retry { wait, reason, misconfigured: false, news: true } => tracing::warn!(
                exporter,
                %signal,
                reason,
                ?wait,
                "not sent; trying again until the backend answers, and this is not said each time"
            ),
            Self::Retry { wait, reason, .. } => {
                tracing::debug!(exporter, %signal, reason, ?wait, "not sent; trying again");
            }
            Self::Kept { time, reason } => tracing::error!(
                event.name = "perigee.exporter.kept",
                exporter,
                %signal,
                reason,
                minutes = time.as_secs() / 60,
                "a request could not be sent for ten minutes: check its backend; the {store} keeps everything"
            ),
            Self::Back { after } => {
                tracing::info!(exporter, %signal, ?after, "the backend answers again");
            }
            Self::Sent { rejected: rejected @ 1.., message, .. } => {
                tracing::warn!(exporter, %signal, rejected, message, "items were rejected");
            }
            Self::Sent { .. } | Self::Refused { .. } => {}
        }
    }
}

/// The last word of a backend on one request.
enum Verdict {
    Taken {
        rejected: u64,
    },
    /// `certain`: it is about the data.
    Refused {
        reason: String,
        certain: bool,
    },
}

/// How long it has gone wrong, how long the next wait is, and what is done of the request.
#[derive(Debug)]
pub struct Trouble {
    backoff: Backoff,
    /// Since when nothing was decided, and when that was told last.
    failing: Option<(Instant, Instant)>,
    /// Why, as it was said last, and when.
    said: Option<(Instant, String)>,
    /// The request, when a part of it is decided or on its way.
    open: Option<Open>,
}

impl Trouble {
    /// None, with the same waits.
    fn none(&self) -> Self {
        let mut backoff = self.backoff.clone();
        backoff.reset();
        Self { backoff, failing: None, said: None, open: None }
    }

    /// Whether the request is on its way: when the program ends, the answer decides.
    pub fn is_on_its_way(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.sending.is_some())
    }
}

/// A request that is not decided, or not all of it.
#[derive(Debug, Default)]
struct Open {
    /// Depth first, so that what waits here is never more than the request itself. Its order is kept but for what may fail for the
    /// backend's own reasons, which goes to the end.
    work: Vec<Work>,
    /// How often a part is sent again before it is held to be at fault.
    again: u32,
    done: Delivered,
    /// What is on its way of the part on top.
    sending: Option<Sending>,
    /// Held while it is left like this.
    room: Option<OwnedSemaphorePermit>,
}

/// A request on its way, and since when.
#[derive(Debug)]
struct Sending {
    answer: AbortOnDropHandle<Outcome>,
    since: Instant,
}

#[derive(Debug)]
enum Work {
    Part(Part),
    Pieces(Pieces),
}

/// The pieces of a part, of which the backend has not said that its data is at fault.
#[derive(Debug)]
struct Pieces {
    of: Part,
    reason: String,
    count: usize,
    /// The last one is next.
    left: Vec<Part>,
    refused: Vec<Part>,
}

/// Sends the requests of one exporter.
pub struct Delivery {
    client: Arc<Client>,
    rate: RateLimit,
    env: Env,
    trouble: Trouble,
    /// Requests and parts that the backend has taken.
    taken: u64,
    /// Since when the request is being sent, and its waits since.
    turn: (Instant, u32),
    /// For requests that are left when a part of them is decided or on its way.
    room: Arc<Semaphore>,
    /// When the program was told to end.
    ending: Option<Instant>,
}

impl Delivery {
    /// Sends with `client` as `config` says.
    pub fn new(client: Client, config: &ExporterConfig, env: &Env) -> Self {
        Self {
            client: Arc::new(client),
            rate: RateLimit::new(config.rate_limit()),
            env: env.clone(),
            trouble: Trouble { backoff: Backoff::new(config.retry()), failing: None, said: None, open: None },
            taken: 0,
            turn: (Instant::now(), 0),
            room: Arc::new(Semaphore::new(OPEN)),
            ending: None,
        }
    }

    /// What sends, for what is not counted and not tried again here.
    pub fn client(&self) -> Arc<Client> {
        Arc::clone(&self.client)
    }

    /// Sends a request until all of it is decided.
    pub async fn send(
        &mut self,
        signal: Signal,
        body: Bytes,
        items: u64,
        shutdown: &CancellationToken,
        tell: impl FnMut(Event<'_>),
    ) -> Result<Delivered, Stopped> {
        let until = Until { shutdown, leave: None };
        self.work(signal, body, items, until, tell).await.map_err(|_| Stopped)
    }

    /// The same; but while it waits, for its rate or for a backend that does not answer, it is left as `leave` says; some requests also
    /// while they are on their way or decided in part. Whoever sends must hand in the same request with its trouble, and do so once
    /// more when the program ends: see [`Trouble::is_on_its_way`].
    pub async fn send_or_leave(
        &mut self,
        signal: Signal,
        body: Bytes,
        items: u64,
        shutdown: &CancellationToken,
        leave: Leave<'_>,
        tell: impl FnMut(Event<'_>),
    ) -> Result<Sent, Stopped> {
        let leaving = Leaving { early: Some(leave.early), waits: leave.waits };
        let until = Until { shutdown, leave: Some(leaving) };
        // One that had trouble before has it for itself: the next request begins without.
        let usual = leave.trouble.map(|trouble| std::mem::replace(&mut self.trouble, trouble));
        let worked = self.work(signal, body, items, until, tell).await;
        if let Err(Halt::Undecided(wait)) = worked {
            self.rate.give_back(items);
            let usual = usual.unwrap_or_else(|| self.trouble.none());
            return Ok(Sent::Undecided(wait, std::mem::replace(&mut self.trouble, usual)));
        }
        let own = usual.map(|usual| std::mem::replace(&mut self.trouble, usual));
        match worked {
            Ok(delivered) => Ok(Sent::Done(delivered)),
            Err(Halt::Left) => {
                self.rate.give_back(items);
                Ok(Sent::Left(own))
            }
            Err(_) => Err(Stopped),
        }
    }

    async fn work(
        &mut self,
        signal: Signal,
        body: Bytes,
        items: u64,
        until: Until<'_>,
        mut tell: impl FnMut(Event<'_>),
    ) -> Result<Delivered, Halt> {
        if items == 0 {
            return Ok(Delivered::default());
        }
        let wait = self.rate.take(Instant::now(), items);
        until.sleep(wait).await?;
        self.turn = (Instant::now(), 0);
        let mut open = self.trouble.open.take().unwrap_or_else(|| {
            let body = without_empty(signal, &body).unwrap_or(body);
            Open::new(Part { body, items, refused: None, failed: None })
        });
        open.room = None;
        match self.go_on(signal, &mut open, until, &mut tell).await {
            Ok(()) => Ok(open.done),
            Err(halt) => {
                if matches!(halt, Halt::Undecided(_)) && open.room.is_some() {
                    self.trouble.open = Some(open);
                }
                Err(halt)
            }
        }
    }

    /// Sends what is not decided of a request. What is left undecided stays in `open`.
    async fn go_on(
        &mut self,
        signal: Signal,
        open: &mut Open,
        until: Until<'_>,
        tell: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Halt> {
        while let Some(next) = open.work.pop() {
            let mut pieces = match next {
                Work::Pieces(pieces) => pieces,
                Work::Part(part) => match self.part(signal, part, open, until, tell).await? {
                    Some(pieces) => pieces,
                    None => continue,
                },
            };
            while let Some(piece) = pieces.left.pop() {
                match self.decide(signal, &piece, open, until, tell).await {
                    Ok(Verdict::Taken { rejected }) => open.done.rejected += rejected,
                    Ok(Verdict::Refused { reason, certain }) => {
                        let piece = Part { refused: Some((reason, certain)), ..piece };
                        pieces.refused.push(piece.failed_at(self.taken));
                    }
                    Err(halt) => {
                        pieces.left.push(piece);
                        open.work.push(Work::Pieces(pieces));
                        return Err(halt);
                    }
                }
            }
            let Pieces { of: mut part, reason, count, mut refused, .. } = pieces;
            let perhaps = |p: &Part| p.refused.as_ref().is_some_and(|(_, certain)| !certain);
            if refused.len() == count
                && refused.iter().all(perhaps)
                && !self.is_at_fault(&mut part, false, open)
            {
                self.keep(part, &reason, open, until, tell).await?;
                continue;
            }
            match refused.as_mut_slice() {
                // What is wrong with the part can only be in this.
                [Part { failed: Some(failed), .. }] if count > 1 => failed.taken = 0,
                // They have failed as often as the part, and are not tried so often again.
                all if part.failed.is_some_and(|failed| failed.times > open.again) => {
                    let times = open.again.saturating_sub(AGAIN_IN_PIECES);
                    all.iter_mut().filter_map(|p| p.failed.as_mut()).for_each(|failed| failed.times = times);
                }
                _ => {}
            }
            open.work.extend(refused.into_iter().rev().map(Work::Part));
        }
        Ok(())
    }

    /// Sends a part, unless it was refused before. Its pieces, when they are to be tried before it is judged.
    async fn part(
        &mut self,
        signal: Signal,
        mut part: Part,
        open: &mut Open,
        until: Until<'_>,
        tell: &mut impl FnMut(Event<'_>),
    ) -> Result<Option<Pieces>, Halt> {
        let (reason, certain) = match part.refused.take() {
            Some(refused) => refused,
            None => match self.decide(signal, &part, open, until, tell).await {
                Ok(Verdict::Taken { rejected }) => {
                    open.done.rejected += rejected;
                    return Ok(None);
                }
                Ok(Verdict::Refused { reason, certain }) => {
                    part = part.failed_at(self.taken);
                    (reason, certain)
                }
                Err(halt) => {
                    open.work.push(Work::Part(part));
                    return Err(halt);
                }
            },
        };
        let mut left = part.cut(signal, if certain { 1 } else { 2 });
        let count = left.len();
        left.reverse();
        if count == 0 {
            if certain || self.is_at_fault(&mut part, true, open) {
                tell(Event::Refused { items: part.items });
                open.done.refused.push(Refused { body: part.body, items: part.items, reason });
            } else {
                self.keep(part, &reason, open, until, tell).await?;
            }
            return Ok(None);
        }
        if certain {
            open.work.extend(left.into_iter().map(Work::Part));
            return Ok(None);
        }
        Ok(Some(Pieces { of: part, reason, count, left, refused: Vec::new() }))
    }

    /// Whether a part that has failed again, with all its pieces, is at fault: the smallest is given up, another one cut. It is when it
    /// has failed so often; one that can be cut already when the backend has taken something meanwhile. A whole request never is:
    /// perhaps the backend fails.
    fn is_at_fault(&self, part: &mut Part, is_smallest: bool, open: &Open) -> bool {
        let Some(failed) = &mut part.failed else { return false };
        failed.times += 1;
        failed.times > open.again || !is_smallest && failed.taken < self.taken
    }

    /// Sends a part again: at once if the backend has taken something since it failed, and otherwise after a wait and all else.
    async fn keep(
        &mut self,
        part: Part,
        reason: &str,
        open: &mut Open,
        until: Until<'_>,
        tell: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Halt> {
        if part.failed.is_some_and(|failed| failed.taken < self.taken) {
            open.work.push(Work::Part(part));
            return Ok(());
        }
        let whole = part.is_whole();
        open.work.insert(0, Work::Part(part));
        self.pause(None, reason, false, (open, whole), until, tell).await
    }

    /// Sends a request as it is; why it was refused, if it was.
    pub async fn once(
        &mut self,
        signal: Signal,
        body: &Bytes,
        items: u64,
        shutdown: &CancellationToken,
        mut tell: impl FnMut(Event<'_>),
    ) -> Result<Option<String>, Stopped> {
        let until = Until { shutdown, leave: None };
        let part = Part { body: body.clone(), items, refused: None, failed: None };
        match self.decide(signal, &part, &mut Open::default(), until, &mut tell).await {
            Ok(Verdict::Taken { .. }) => Ok(None),
            Ok(Verdict::Refused { reason, .. }) => Ok(Some(reason)),
            Err(_) => Err(Stopped),
        }
    }

    /// Tries until the backend decides. An answer about this exporter's settings decides nothing about the data.
    async fn decide(
        &mut self,
        signal: Signal,
        part: &Part,
        open: &mut Open,
        until: Until<'_>,
        tell: &mut impl FnMut(Event<'_>),
    ) -> Result<Verdict, Halt> {
        let whole = part.is_whole();
        loop {
            let outcome = self.outcome(signal, &part.body, open, until).await?;
            let (after, reason, misconfigured) = match outcome {
                Outcome::Accepted { rejected, message } => {
                    self.taken += 1;
                    self.trouble.backoff.reset();
                    self.trouble.said = None;
                    if let Some((since, _)) = self.trouble.failing.take() {
                        tell(Event::Back { after: since.elapsed() });
                    }
                    let (items, rejected) = (part.items, rejected.min(part.items));
                    tell(Event::Sent { items, rejected, message: &message });
                    return Ok(Verdict::Taken { rejected });
                }
                Outcome::TooLarge { reason, proxy: true } if part.items < 2 => (None, reason, true),
                Outcome::TooLarge { reason, .. } => return Ok(Verdict::Refused { reason, certain: true }),
                Outcome::Refused { reason, about: About::Settings } => (None, reason, true),
                Outcome::Refused { reason, about } => {
                    return Ok(Verdict::Refused { reason, certain: about == About::Data });
                }
                Outcome::Retry { after, reason } => (after, reason, false),
            };
            self.pause(after, &reason, misconfigured, (open, whole), until, tell).await?;
        }
    }

    /// The answer of the backend. What takes long may be left on its way.
    async fn outcome(
        &mut self,
        signal: Signal,
        body: &Bytes,
        open: &mut Open,
        until: Until<'_>,
    ) -> Result<Outcome, Halt> {
        let (mut sending, mut patience) = match open.sending.take() {
            Some(sending) => (sending, Duration::ZERO),
            None if until.shutdown.is_cancelled() => return Err(Halt::Stopped),
            None => (self.start(signal, body), PATIENCE),
        };
        let mut may_leave = until.leave.is_some();
        loop {
            tokio::select! {
                biased;
                answer = &mut sending.answer => return Ok(answered(answer)),
                // What is on its way may be taken at this moment: to leave it undecided would repeat it.
                () = until.shutdown.cancelled() => {
                    let ending = *self.ending.get_or_insert_with(Instant::now);
                    return match tokio::time::timeout_at(ending + GRACE, sending.answer).await {
                        Ok(answer) => Ok(answered(answer)),
                        Err(_) => Err(Halt::Stopped),
                    };
                }
                () = tokio::time::sleep(patience), if may_leave => {
                    if self.take_room(open) {
                        let wait = (sending.since.elapsed() / 2).max(PATIENCE / 2);
                        open.sending = Some(sending);
                        return Err(Halt::Undecided(wait));
                    }
                    (may_leave, patience) = (false, Duration::ZERO);
                }
            }
        }
    }

    /// Puts a request on its way.
    fn start(&self, signal: Signal, body: &Bytes) -> Sending {
        let (client, body) = (Arc::clone(&self.client), body.clone());
        let answer = AbortOnDropHandle::new(tokio::spawn(async move { client.send(signal, &body).await }));
        Sending { answer, since: Instant::now() }
    }

    /// Whether a request may be left as it is now.
    fn take_room(&self, open: &mut Open) -> bool {
        if open.room.is_none() {
            open.room = Arc::clone(&self.room).try_acquire_owned().ok();
        }
        open.room.is_some()
    }

    /// Waits before the same is sent again. `whole`: nothing of the request is decided.
    async fn pause(
        &mut self,
        after: Option<Duration>,
        reason: &str,
        misconfigured: bool,
        (open, whole): (&mut Open, bool),
        until: Until<'_>,
        tell: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Halt> {
        // With max_elapsed_time the series starts again: running out of retries never deletes anything.
        let wait = self.trouble.backoff.wait(&self.env, after).unwrap_or_else(|| {
            self.trouble.backoff.reset();
            Duration::from_secs(30)
        });
        let now = Instant::now();
        let news = match &self.trouble.said {
            Some((at, said)) => said != reason && now.duration_since(*at) >= SAID,
            None => true,
        };
        if news {
            self.trouble.said = Some((now, reason.to_owned()));
        }
        tell(Event::Retry { wait, reason, misconfigured, news });
        let (since, told) = self.trouble.failing.get_or_insert((now, now));
        if now.duration_since(*told) >= KEPT {
            *told = now;
            tell(Event::Kept { time: now.duration_since(*since), reason });
        }
        let (since, waits) = self.turn;
        let is_long = |leave: Leaving<'_>| waits >= leave.waits || since.elapsed() + wait > PATIENCE;
        if until.leave.is_some_and(is_long) && (whole || self.take_room(open)) {
            return Err(Halt::Undecided(wait));
        }
        self.turn.1 += 1;
        if whole { until.sleep(wait).await } else { until.of_part().sleep(wait).await }
    }
}

/// An answer; a panic goes on where the answer was waited for.
fn answered(answer: Result<Outcome, tokio::task::JoinError>) -> Outcome {
    match answer.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(outcome) => outcome,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(error)) => Outcome::retry(error.to_string()),
    }
}

impl Open {
    fn new(part: Part) -> Self {
        // A bad item of N is found with some 2 log2 N requests and may take twice as many.
        let again = (2 * part.items.max(1).ilog2()).saturating_sub(2).clamp(1, AGAIN);
        Self { work: vec![Work::Part(part)], again, ..Self::default() }
    }
}

/// A part of a request that is not decided.
#[derive(Debug)]
struct Part {
    body: Bytes,
    items: u64,
    /// Why the backend has refused it, and whether that is certainly about the data.
    refused: Option<(String, bool)>,
    /// How it has failed by itself; `None`: it is the whole request.
    failed: Option<Failed>,
}

/// How a part has failed, perhaps for the backend's own reasons.
#[derive(Debug, Clone, Copy)]
struct Failed {
    times: u32,
    /// What the backend had taken when it failed first: what it takes afterwards shows that it works.
    taken: u64,
}

impl Part {
    const fn is_whole(&self) -> bool {
        self.failed.is_none()
    }

    /// The same after it has failed, when the backend had taken so much.
    fn failed_at(mut self, taken: u64) -> Self {
        self.failed.iter_mut().for_each(|failed| failed.taken = failed.taken.min(taken));
        self
    }

    /// Halves, or halves of halves, as far as it can be cut.
    fn cut(&self, signal: Signal, times: usize) -> Vec<Self> {
        // A backend may refuse all for the temporality of some, whatever is beside them.
        let (mut out, times) = match by_temporality(signal, &self.body) {
            Some(parts) => {
                let counted = |body: Bytes| {
                    let n = items(signal, &body).unwrap_or(0);
                    (body, n)
                };
                (parts.map(counted).to_vec(), times - 1)
            }
            None => (vec![(self.body.clone(), self.items)], times),
        };
        for _ in 0..times {
            let cut = |(body, items): (Bytes, u64)| match halve(signal, &body) {
                Some((first, second)) => {
                    let half = items.div_ceil(2);
                    vec![(first, half), (second, items - half)]
                }
                None => vec![(body, items)],
            };
            out = out.into_iter().flat_map(cut).collect();
        }
        if out.len() == 1 {
            return Vec::new();
        }
        let failed = Some(Failed { times: 0, taken: u64::MAX });
        out.into_iter().map(|(body, items)| Self { body, items, refused: None, failed }).collect()
    }
}

#[cfg(test)]
mod tests;
