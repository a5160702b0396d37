//! Sending for one exporter of the ground: what was refused becomes dead letters, and everything is counted.

use std::sync::Arc;

use bytes::Bytes;
use perigee_shared::env::Env;
use perigee_shared::export::deliver::{self, Event, Leave, Sent, Stopped};
use perigee_shared::export::{Client, ExporterConfig};
use perigee_shared::signal::{Counts, Signal};
use tokio_util::sync::CancellationToken;

use crate::spool::Letter;
use crate::telemetry::Metrics;

/// What came of a request that is decided.
#[derive(Default)]
pub(super) struct Delivered {
    /// What the backend refused for good.
    pub(super) letters: Vec<Letter>,
    /// Items that it took and rejected.
    pub(super) rejected: u64,
}

/// Sends requests of one exporter.
pub(super) struct Delivery {
    name: Arc<str>,
    delivery: deliver::Delivery,
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
        Self { name, delivery: deliver::Delivery::new(client, config, env), metrics }
    }

    /// Says how many requests are put aside.
    pub(super) fn aside(&self, requests: usize) {
        self.metrics.aside(&self.name, requests);
    }

    /// Whether the backend refuses this exporter, not the data.
    pub(super) fn is_misconfigured(&self) -> bool {
        self.metrics.failing(&self.name).is_some_and(|failing| failing.misconfigured)
    }

    /// What sends.
    pub(super) fn client(&self) -> Arc<Client> {
        self.delivery.client()
    }

    /// Sends a request until all of it is decided or it is left.
    pub(super) async fn send(
        &mut self,
        signal: Signal,
        body: Bytes,
        items: u64,
        shutdown: &CancellationToken,
        leave: Leave<'_>,
    ) -> Result<Sent<Delivered>, Stopped> {
        let (name, metrics) = (&self.name, &self.metrics);
        let tell = |event: Event<'_>| note(name, metrics, signal, event);
        let sent = self.delivery.send_or_leave(signal, body, items, shutdown, leave, tell).await?;
        let sent = match sent {
            Sent::Done(sent) => sent,
            Sent::Left(trouble) => return Ok(Sent::Left(trouble)),
            Sent::Undecided(wait, trouble) => return Ok(Sent::Undecided(wait, trouble)),
        };
        if let Some(first) = sent.refused.first() {
            let (letters, reason) = (sent.refused.len(), &first.reason);
            tracing::warn!(exporter = %name, %signal, letters, reason, "the backend refused items for good; they are kept as dead letters");
        }
        let letter = |r: deliver::Refused| Letter {
            signal,
            body: r.body,
            items: Counts::of(signal, r.items),
            reason: r.reason,
        };
        let letters = sent.refused.into_iter().map(letter).collect();
        Ok(Sent::Done(Delivered { rejected: sent.rejected, letters }))
    }

    /// Sends a request as it is; why it was refused, if it was.
    pub(super) async fn once(
        &mut self,
        signal: Signal,
        body: &Bytes,
        items: u64,
        shutdown: &CancellationToken,
    ) -> Result<Option<String>, Stopped> {
        let (name, metrics) = (&self.name, &self.metrics);
        self.delivery.once(signal, body, items, shutdown, |event| note(name, metrics, signal, event)).await
    }
}

fn note(name: &Arc<str>, metrics: &Metrics, signal: Signal, event: Event<'_>) {
    match event {
        Event::Sent { items, rejected, .. } => metrics.sent(name, signal, items, rejected),
        Event::Refused { items } => metrics.send_failed(name, signal, items),
        Event::Retry { reason, misconfigured, .. } => {
            metrics.troubled(name, reason, misconfigured);
            metrics.retried(name);
        }
        Event::Kept { .. } | Event::Back { .. } => {}
    }
    event.log(name, signal, "spool");
}
