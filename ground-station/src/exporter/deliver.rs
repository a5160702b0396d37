//! Getting one request to a backend: retried until it is taken, halved until what is refused is found.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use perigee_shared::env::Env;
use perigee_shared::export::{Backoff, Client, ExporterConfig, Outcome, halve};
use perigee_shared::signal::{Counts, Signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::rate::RateLimit;
use crate::spool::Letter;
use crate::telemetry::Metrics;

/// How long a request that is on its way may take when the program ends.
const GRACE: Duration = Duration::from_secs(5);

/// The program ends; nothing was decided.
pub(super) struct Stopped;

/// What came of a request.
#[derive(Default)]
pub(super) struct Delivered {
    /// What the backend refused for good.
    pub(super) letters: Vec<Letter>,
    /// Items that it took and rejected.
    pub(super) rejected: u64,
}

/// The last word of a backend on one request.
enum Verdict {
    Taken { rejected: u64 },
    Refused { reason: String },
}

/// Sends requests of one exporter.
pub(super) struct Delivery {
    name: Arc<str>,
    client: Client,
    backoff: Backoff,
    rate: RateLimit,
    env: Env,
    metrics: Metrics,
}

impl Delivery {
    pub(super) fn new(
        name: Arc<str>,
        client: Client,
        config: &ExporterConfig,
        env: &Env,
        metrics: Metrics,
    ) -> Self {
        Self {
            name,
            client,
            backoff: Backoff::new(config.retry()),
            rate: RateLimit::new(config.rate_limit()),
            env: env.clone(),
            metrics,
        }
    }

    /// Sends a request until all of it is decided.
    pub(super) async fn send(
        &mut self,
        signal: Signal,
        body: Bytes,
        items: u64,
        shutdown: &CancellationToken,
    ) -> Result<Delivered, Stopped> {
        let wait = self.rate.take(Instant::now(), items);
        sleep(wait, shutdown).await?;
        let mut out = Delivered::default();
        // Depth first, so that what waits here is never more than the request itself and its order is kept.
        let mut work = vec![(body, items)];
        while let Some((body, items)) = work.pop() {
            match self.decide(signal, &body, shutdown).await? {
                Verdict::Taken { rejected } => {
                    let rejected = rejected.min(items);
                    out.rejected += rejected;
                    self.metrics.sent(&self.name, signal, items, rejected);
                }
                Verdict::Refused { reason } => match halve(signal, &body) {
                    Some((first, second)) => {
                        let half = items.div_ceil(2);
                        work.push((second, items - half));
                        work.push((first, half));
                    }
                    None => {
                        self.metrics.send_failed(&self.name, signal, items);
                        out.letters.push(Letter { signal, body, items: Counts::of(signal, items), reason });
                    }
                },
            }
        }
        if let Some(first) = out.letters.first() {
            let (letters, reason) = (out.letters.len(), &first.reason);
            tracing::warn!(exporter = %self.name, %signal, letters, reason, "refused for good; kept in dead-letter");
        }
        Ok(out)
    }

    /// Sends a request as it is; why it was refused, if it was.
    pub(super) async fn once(
        &mut self,
        signal: Signal,
        body: &Bytes,
        items: u64,
        shutdown: &CancellationToken,
    ) -> Result<Option<String>, Stopped> {
        Ok(match self.decide(signal, body, shutdown).await? {
            Verdict::Taken { rejected } => {
                self.metrics.sent(&self.name, signal, items, rejected.min(items));
                None
            }
            Verdict::Refused { reason } => Some(reason),
        })
    }

    /// Tries until the backend decides. An answer about this exporter's settings decides nothing about the data.
    async fn decide(
        &mut self,
        signal: Signal,
        body: &Bytes,
        shutdown: &CancellationToken,
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
            let (after, reason) = match outcome {
                Outcome::Accepted { rejected, message } => {
                    self.backoff.reset();
                    if rejected > 0 {
                        tracing::warn!(exporter = %self.name, %signal, rejected, message, "items were rejected");
                    }
                    return Ok(Verdict::Taken { rejected });
                }
                Outcome::TooLarge => return Ok(Verdict::Refused { reason: "too large".to_owned() }),
                Outcome::Refused { reason, misconfigured: false } => return Ok(Verdict::Refused { reason }),
                Outcome::Refused { reason, misconfigured: true } => {
                    tracing::error!(
                        event.name = "perigee.exporter.misconfigured",
                        exporter = %self.name,
                        reason,
                        "the backend refuses this exporter, not the data: check its endpoint and credentials; \
                         the spool keeps everything"
                    );
                    (None, reason)
                }
                Outcome::Retry { after, reason } => (after, reason),
            };
            self.metrics.retried(&self.name);
            // With max_elapsed_time the series starts again: running out of retries never deletes anything.
            let wait = self.backoff.wait(&self.env, after).unwrap_or_else(|| {
                self.backoff.reset();
                Duration::from_secs(30)
            });
            tracing::warn!(exporter = %self.name, %signal, reason, ?wait, "not sent; trying again");
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
