//! Getting one request to a backend: retried until it is taken, halved until what is refused is found.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::rate::RateLimit;
use super::{Backoff, Client, ExporterConfig, Outcome, halve};
use crate::env::Env;
use crate::signal::Signal;

/// How long a request that is on its way may take when the program ends.
const GRACE: Duration = Duration::from_secs(5);

/// The program ends; nothing was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

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
    },
}

/// The last word of a backend on one request.
enum Verdict {
    Taken { rejected: u64 },
    Refused { reason: String },
}

/// Sends the requests of one exporter.
pub struct Delivery {
    client: Client,
    backoff: Backoff,
    rate: RateLimit,
    env: Env,
}

impl Delivery {
    /// Sends with `client` as `config` says.
    pub fn new(client: Client, config: &ExporterConfig, env: &Env) -> Self {
        Self {
            client,
            backoff: Backoff::new(config.retry()),
            rate: RateLimit::new(config.rate_limit()),
            env: env.clone(),
        }
    }

    /// Sends a request until all of it is decided.
    pub async fn send(
        &mut self,
        signal: Signal,
        body: Bytes,
        items: u64,
        shutdown: &CancellationToken,
        mut tell: impl FnMut(Event<'_>),
    ) -> Result<Delivered, Stopped> {
        let wait = self.rate.take(Instant::now(), items);
        sleep(wait, shutdown).await?;
        let mut out = Delivered::default();
        // Depth first, so that what waits here is never more than the request itself and its order is kept.
        let mut work = vec![(body, items)];
        while let Some((body, items)) = work.pop() {
            match self.decide(signal, &body, items, shutdown, &mut tell).await? {
                Verdict::Taken { rejected } => out.rejected += rejected,
                Verdict::Refused { reason } => match halve(signal, &body) {
                    Some((first, second)) => {
                        let half = items.div_ceil(2);
                        work.push((second, items - half));
                        work.push((first, half));
                    }
                    None => {
                        tell(Event::Refused { items });
                        out.refused.push(Refused { body, items, reason });
                    }
                },
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
        Ok(match self.decide(signal, body, items, shutdown, &mut tell).await? {
            Verdict::Taken { .. } => None,
            Verdict::Refused { reason } => Some(reason),
        })
    }

    /// Tries until the backend decides. An answer about this exporter's settings decides nothing about the data.
    async fn decide(
        &mut self,
        signal: Signal,
        body: &Bytes,
        items: u64,
        shutdown: &CancellationToken,
        tell: &mut impl FnMut(Event<'_>),
    ) -> Result<Verdict, Stopped> {
        loop {
            if shutdown.is_cancelled() {
                return Err(Stopped);
            }
            let mut sending = std::pin::pin!(self.client.send(signal, body));
            let outcome = tokio::select! {
                biased;
                outcome = &mut sending => outcome,
                // What is on its way may be taken at this moment: to leave it undecided would repeat it.
                () = shutdown.cancelled() => match tokio::time::timeout(GRACE, sending).await {
                    Ok(outcome) => outcome,
                    Err(_) => return Err(Stopped),
                },
            };
            let (after, reason, misconfigured) = match outcome {
                Outcome::Accepted { rejected, message } => {
                    self.backoff.reset();
                    let rejected = rejected.min(items);
                    tell(Event::Sent { items, rejected, message: &message });
                    return Ok(Verdict::Taken { rejected });
                }
                Outcome::TooLarge => return Ok(Verdict::Refused { reason: "too large".to_owned() }),
                Outcome::Refused { reason, misconfigured: false } => return Ok(Verdict::Refused { reason }),
                Outcome::Refused { reason, misconfigured: true } => (None, reason, true),
                Outcome::Retry { after, reason } => (after, reason, false),
            };
            // With max_elapsed_time the series starts again: running out of retries never deletes anything.
            let wait = self.backoff.wait(&self.env, after).unwrap_or_else(|| {
                self.backoff.reset();
                Duration::from_secs(30)
            });
            tell(Event::Retry { wait, reason: &reason, misconfigured });
            sleep(wait, shutdown).await?;
        }
    }
}

async fn sleep(wait: Duration, shutdown: &CancellationToken) -> Result<(), Stopped> {
    if wait.is_zero() {
        return Ok(());
    }
    tokio::select! {
        biased;
        () = shutdown.cancelled() => Err(Stopped),
        () = tokio::time::sleep(wait) => Ok(()),
    }
}
