//! Getting one request to a backend: retried until it is taken, halved until what is refused is found.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::outcome::About;
use super::rate::RateLimit;
use super::split::{by_temporality, items};
use super::{Backoff, Client, ExporterConfig, Outcome, halve, without_empty};
use crate::env::Env;
use crate::signal::Signal;

/// How often a part of a request is kept and sent again whose pieces are all refused, and perhaps for the backend's own reasons.
const KEPT_PARTS: u32 = 3;

/// When one request has been sent again for this long, that is reported, and once more each time it has gone on for as long.
const KEPT: Duration = Duration::from_secs(600);

/// Another reason why nothing is sent is told at most this often.
const SAID: Duration = Duration::from_secs(60);

/// How long a request that is on its way may take when the program ends.
const GRACE: Duration = Duration::from_secs(5);

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
    /// It was tried often enough for now. Nothing of it is decided; it is to be sent again after so long, with this trouble.
    Undecided(Duration, Trouble),
}

/// When a request is left of which nothing is decided.
#[derive(Debug)]
pub struct Leave<'a> {
    /// Once this is cancelled.
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
    /// Until it is cancelled, or so many waits are over.
    leave: Option<(&'a CancellationToken, u32)>,
}

impl Until<'_> {
    /// The same for what may not be left: a part of the request may be decided.
    const fn end(self) -> Self {
        Self { leave: None, ..self }
    }

    async fn sleep(self, wait: Duration) -> Result<(), Halt> {
        if wait.is_zero() {
            return Ok(());
        }
        let left = async {
            match self.leave {
                Some((early, _)) => early.cancelled().await,
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
            Self::Retry { wait, reason, misconfigured, news: true } => {
                if *misconfigured {
                    tracing::error!(
                        event.name = "perigee.exporter.misconfigured",
                        exporter,
                        %signal,
                        reason,
                        "the backend refuses this exporter, not the data: check its endpoint and credentials; the {store} keeps everything"
                    );
                }
                tracing::warn!(
                    exporter,
                    %signal,
                    reason,
                    ?wait,
                    "not sent; trying again until the backend answers, and this is not said each time"
                );
            }
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

/// How long it has gone wrong, and how long the next wait is.
#[derive(Debug, Clone)]
pub struct Trouble {
    backoff: Backoff,
    /// Since when nothing was decided, and when that was told last.
    failing: Option<(Instant, Instant)>,
    /// Why, as it was said last, and when.
    said: Option<(Instant, String)>,
}

impl Trouble {
    /// None, with the same waits.
    fn none(&self) -> Self {
        let mut backoff = self.backoff.clone();
        backoff.reset();
        Self { backoff, failing: None, said: None }
    }
}

/// Sends the requests of one exporter.
pub struct Delivery {
    client: Arc<Client>,
    rate: RateLimit,
    env: Env,
    trouble: Trouble,
    /// Waits of the request that is being sent.
    waits: u32,
}

impl Delivery {
    /// Sends with `client` as `config` says.
    pub fn new(client: Client, config: &ExporterConfig, env: &Env) -> Self {
        Self {
            client: Arc::new(client),
            rate: RateLimit::new(config.rate_limit()),
            env: env.clone(),
            trouble: Trouble { backoff: Backoff::new(config.retry()), failing: None, said: None },
            waits: 0,
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

    /// The same; but while it waits, for its rate or for a backend that does not answer, it is left as `leave` says, as long as
    /// nothing of it is decided.
    pub async fn send_or_leave(
        &mut self,
        signal: Signal,
        body: Bytes,
        items: u64,
        shutdown: &CancellationToken,
        leave: Leave<'_>,
        tell: impl FnMut(Event<'_>),
    ) -> Result<Sent, Stopped> {
        let until = Until { shutdown, leave: Some((leave.early, leave.waits)) };
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
        self.waits = 0;
        let body = without_empty(signal, &body).unwrap_or(body);
        let wait = self.rate.take(Instant::now(), items);
        until.sleep(wait).await?;
        let mut out = Delivered::default();
        // Depth first, so that what waits here is never more than the request itself and its order is kept.
        let mut work = vec![Part { body, items, refused: None, kept: None }];
        while let Some(mut part) = work.pop() {
            let whole = if part.kept.is_none() { until } else { until.end() };
            let (reason, certain) = match part.refused.take() {
                Some(refused) => refused,
                None => match self.decide(signal, &part.body, part.items, whole, &mut tell).await? {
                    Verdict::Taken { rejected } => {
                        out.rejected += rejected;
                        continue;
                    }
                    Verdict::Refused { reason, certain } => (reason, certain),
                },
            };
            let pieces = part.cut(signal, if certain { 1 } else { 2 });
            let count = pieces.len();
            if count == 0 && (certain || part.kept.is_some()) {
                tell(Event::Refused { items: part.items });
                out.refused.push(Refused { body: part.body, items: part.items, reason });
                continue;
            }
            if certain {
                work.extend(pieces.into_iter().rev());
                continue;
            }
            let mut refused = Vec::new();
            for piece in pieces {
                match self.decide(signal, &piece.body, piece.items, until.end(), &mut tell).await? {
                    Verdict::Taken { rejected } => out.rejected += rejected,
                    Verdict::Refused { reason, certain } => {
                        refused.push(Part { refused: Some((reason, certain)), ..piece });
                    }
                }
            }
            let same = |p: &Part| p.refused.as_ref().is_some_and(|(r, certain)| *r == reason && !certain);
            if refused.len() == count && refused.iter().all(same) && part.may_be_kept() {
                self.pause(None, &reason, false, whole, &mut tell).await?;
                work.push(part);
            } else {
                work.extend(refused.into_iter().rev());
            }
        }
        Ok(out)
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
        match self.decide(signal, body, items, until, &mut tell).await {
            Ok(Verdict::Taken { .. }) => Ok(None),
            Ok(Verdict::Refused { reason, .. }) => Ok(Some(reason)),
            Err(_) => Err(Stopped),
        }
    }

    /// Tries until the backend decides. An answer about this exporter's settings decides nothing about the data.
    async fn decide(
        &mut self,
        signal: Signal,
        body: &Bytes,
        items: u64,
        until: Until<'_>,
        tell: &mut impl FnMut(Event<'_>),
    ) -> Result<Verdict, Halt> {
        loop {
            if until.shutdown.is_cancelled() {
                return Err(Halt::Stopped);
            }
            let outcome = {
                let mut sending = std::pin::pin!(self.client.send(signal, body));
                tokio::select! {
                    biased;
                    outcome = &mut sending => outcome,
                    // What is on its way may be taken at this moment: to leave it undecided would repeat it.
                    () = until.shutdown.cancelled() => match tokio::time::timeout(GRACE, sending).await {
                        Ok(outcome) => outcome,
                        Err(_) => return Err(Halt::Stopped),
                    },
                }
            };
            let (after, reason, misconfigured) = match outcome {
                Outcome::Accepted { rejected, message } => {
                    self.trouble.backoff.reset();
                    self.trouble.said = None;
                    if let Some((since, _)) = self.trouble.failing.take() {
                        tell(Event::Back { after: since.elapsed() });
                    }
                    let rejected = rejected.min(items);
                    tell(Event::Sent { items, rejected, message: &message });
                    return Ok(Verdict::Taken { rejected });
                }
                Outcome::TooLarge { reason } => return Ok(Verdict::Refused { reason, certain: true }),
                Outcome::Refused { reason, about: About::Settings } => (None, reason, true),
                Outcome::Refused { reason, about } => {
                    return Ok(Verdict::Refused { reason, certain: about == About::Data });
                }
                Outcome::Retry { after, reason } => (after, reason, false),
            };
            self.pause(after, &reason, misconfigured, until, tell).await?;
        }
    }

    /// Waits before the same is sent again.
    async fn pause(
        &mut self,
        after: Option<Duration>,
        reason: &str,
        misconfigured: bool,
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
        if until.leave.is_some_and(|(_, waits)| self.waits >= waits) {
            return Err(Halt::Undecided(wait));
        }
        self.waits += 1;
        until.sleep(wait).await
    }
}

/// A part of a request that is not decided.
struct Part {
    body: Bytes,
    items: u64,
    /// Why the backend has refused it, and whether that is certainly about the data.
    refused: Option<(String, bool)>,
    /// How often it was kept since all of it was refused alike; `None`: it is the whole request.
    kept: Option<u32>,
}

impl Part {
    /// Halves, or halves of halves, as far as it can be cut.
    fn cut(&self, signal: Signal, times: usize) -> Vec<Self> {
        let piece = |(body, items)| Self { body, items, refused: None, kept: Some(0) };
        // A backend may refuse all for the temporality of some, whatever is beside them.
        if let Some(parts) = by_temporality(signal, &self.body) {
            return parts
                .map(|body| (items(signal, &body).unwrap_or(0), body))
                .map(|(n, body)| piece((body, n)))
                .into();
        }
        let mut out = vec![(self.body.clone(), self.items)];
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
        out.into_iter().map(piece).collect()
    }

    /// Whether it may be kept and sent again, though all its pieces are refused. The whole request may be for ever: perhaps the
    /// backend fails. Of a part whose neighbours were taken the data is more likely wrong.
    fn may_be_kept(&mut self) -> bool {
        match &mut self.kept {
            None => true,
            Some(times) => {
                *times += 1;
                *times <= KEPT_PARTS
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use http_body_util::BodyExt;
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use prost::Message;

    use super::super::{Compression, OtlpHttpConfig, RetryConfig};
    use super::*;
    use crate::serve::{Closed, Endpoint, Limits, Listener, keep};
    use crate::units::Span;

    /// A request of log records with these numbers as their times.
    fn request(times: std::ops::Range<u64>) -> Bytes {
        let record = |time_unix_nano| LogRecord { time_unix_nano, ..Default::default() };
        let scope_logs = vec![ScopeLogs { log_records: times.map(record).collect(), ..Default::default() }];
        let resource_logs = vec![ResourceLogs { scope_logs, ..Default::default() }];
        ExportLogsServiceRequest { resource_logs }.encode_to_vec().into()
    }

    fn times(body: &[u8]) -> Vec<u64> {
        let request = ExportLogsServiceRequest::decode(body).unwrap();
        let scopes = request.resource_logs.into_iter().flat_map(|r| r.scope_logs);
        scopes.flat_map(|s| s.log_records).map(|r| r.time_unix_nano).collect()
    }

    /// What a backend has seen and taken.
    #[derive(Default)]
    struct Seen {
        requests: AtomicUsize,
        taken: Mutex<Vec<u64>>,
    }

    /// Sends `count` records to a backend that answers with `code` what this says, and takes the rest.
    async fn deliver(
        count: u64,
        code: u16,
        refuses: impl Fn(usize, &[u64]) -> bool + Clone + Send + Sync + 'static,
    ) -> (Delivered, Arc<Seen>, usize) {
        let seen = Arc::new(Seen::default());
        let backend = Arc::clone(&seen);
        let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let (seen, refuses) = (Arc::clone(&backend), refuses.clone());
            async move {
                let number = seen.requests.fetch_add(1, Ordering::Relaxed);
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let times = times(&body);
                let code = if refuses(number, &times) { code } else { 200 };
                if code == 200 {
                    seen.taken.lock().unwrap().extend(times);
                }
                let answer = http::Response::builder().status(code).header("content-type", "text/plain");
                Ok::<_, Infallible>(answer.body("not these".to_owned()).unwrap())
            }
        });
        let listener = Listener::bind(&Endpoint::Tcp("127.0.0.1:0".into()), "a test", None).await.unwrap();
        let mut config = OtlpHttpConfig::new(format!("http://{}", listener.local_addr().unwrap()));
        config.compression = Compression::None;
        config.retry_on_failure = RetryConfig { initial_interval: Span::millis(1), ..RetryConfig::default() };
        config.retry_on_failure.max_interval = Span::millis(1);
        let stop = CancellationToken::new();
        let tasks = crate::supervise::Supervisor::new(&Env::production());
        keep(&tasks, "test", listener, (Limits::default(), Closed::default()), service, stop.clone());
        let (env, config) = (Env::production(), ExporterConfig::OtlpHttp(config));
        let client = Client::try_new("exporters.otlphttp", &config, &env).unwrap();
        let mut retries = 0;
        let tell = |event: Event<'_>| retries += usize::from(matches!(event, Event::Retry { .. }));
        let mut delivery = Delivery::new(client, &config, &env);
        let delivered = delivery.send(Signal::Logs, request(0..count), count, &stop, tell).await.unwrap();
        stop.cancel();
        (delivered, seen, retries)
    }

    #[tokio::test]
    async fn a_bad_item_is_found_with_few_requests_and_its_neighbours_get_through() {
        for code in [400, 413, 422, 500] {
            for bad in [0, 77, 199] {
                let (delivered, seen, _) = deliver(200, code, move |_, times| times.contains(&bad)).await;
                let refused: Vec<u64> = delivered.refused.iter().flat_map(|r| times(&r.body)).collect();
                assert_eq!(refused, [bad], "{code}");
                assert!(delivered.refused[0].reason.contains("not these"), "the backend's own words");
                let taken = seen.taken.lock().unwrap().len();
                assert_eq!(taken, 199, "{code}");
                // 4 × log2 200.
                let requests = seen.requests.load(Ordering::Relaxed);
                assert!(requests <= 30, "{code}: {requests} requests");
            }
        }
    }

    #[tokio::test]
    async fn what_fails_whole_with_500_is_kept_and_sent_again() {
        for count in [1, 2, 100] {
            let (delivered, seen, retries) = deliver(count, 500, |number, _| number < 12).await;
            assert_eq!(delivered.refused, [], "{count}");
            let mut taken = seen.taken.lock().unwrap().clone();
            // It may have come back between two pieces.
            taken.sort_unstable();
            assert_eq!(taken, (0..count).collect::<Vec<_>>(), "once each");
            assert!(retries > 0);
        }
    }

    #[tokio::test]
    async fn what_is_about_the_way_is_never_cut() {
        for code in [301, 402, 406, 407, 408, 411, 415, 421, 425, 426, 451, 501, 505, 507, 508, 511, 520, 530]
        {
            let (delivered, seen, retries) = deliver(50, code, |number, _| number < 5).await;
            assert_eq!((delivered.refused.len(), retries), (0, 5), "{code}");
            assert_eq!(seen.requests.load(Ordering::Relaxed), 6, "{code}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_kept_is_told_every_ten_minutes_and_its_reason_once() {
        let (env, config) = (Env::production(), OtlpHttpConfig::new("http://127.0.0.1:1".to_owned()));
        let config = ExporterConfig::OtlpHttp(config);
        let client = Client::try_new("exporters.otlphttp", &config, &env).unwrap();
        let mut delivery = Delivery::new(client, &config, &env);
        let (began, stop) = (Instant::now(), CancellationToken::new());
        let (mut told, mut said) = (Vec::new(), Vec::new());
        while began.elapsed() < Duration::from_secs(1900) {
            let mut tell = |event: Event<'_>| {
                if let Event::Kept { time, reason } = event {
                    assert_eq!(reason, "closed");
                    told.push(time.as_secs() / 60);
                }
                said.extend(matches!(event, Event::Retry { news: true, .. }).then(|| began.elapsed()));
            };
            let until = Until { shutdown: &stop, leave: None };
            assert!(delivery.pause(None, "closed", false, until, &mut tell).await.is_ok());
        }
        assert_eq!(said, [Duration::ZERO], "the reason is said once");
        for (reason, news) in [("closed", 0), ("busy", 1), ("closed", 0), ("busy", 0)] {
            let mut count = 0;
            let mut tell =
                |event: Event<'_>| count += usize::from(matches!(event, Event::Retry { news: true, .. }));
            let until = Until { shutdown: &stop, leave: None };
            assert!(delivery.pause(None, reason, false, until, &mut tell).await.is_ok());
            assert_eq!(count, news, "{reason}");
        }
        // A wait is up to 45 s.
        assert!(matches!(told[..], [10, 20..=21, 30..=32]), "{told:?}");
    }
}
