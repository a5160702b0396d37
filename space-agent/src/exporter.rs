//! Direct exporters: consumers of the log that send to a backend without a ground station.
//!
//! Each has a durable cursor (segment, request) of its own and passes a segment when the backend has all of it, or has refused
//! it for good. One that is down holds back nobody but itself.

use std::sync::Arc;
use std::time::Duration;

use perigee_shared::env::{Env, Owner};
use perigee_shared::export::deliver::{Delivered, Progress, deliver};
use perigee_shared::export::{Backoff, Client, Cut, Cuts, ExporterConfig, Plan};
use perigee_shared::segment::{CodecError, Decoder, Header, Lane, Request};
use perigee_shared::signal::{Counts, Signal, SignalSet};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::telemetry::{ExporterLabel, ShipCounters};
use crate::wal::{ConsumerId, Delivery, Wal, WalError};

/// After the log has failed.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error(transparent)]
    Wal(#[from] WalError),
    #[error(transparent)]
    Gone(#[from] perigee_shared::env::Gone),
}

/// See the module.
pub struct Exporter {
    name: String,
    client: Client,
    backoff: Backoff,
    plan: Plan,
    env: Env,
    wal: Owner<Wal>,
    consumer: ConsumerId,
    sealed: watch::Receiver<u64>,
    counters: Arc<ShipCounters>,
}

impl Exporter {
    /// The exporter called `name`, which gets `signals`.
    #[expect(clippy::too_many_arguments, reason = "each is one end of a wire that agent.rs lays")]
    pub fn new(
        name: String,
        client: Client,
        config: &ExporterConfig,
        signals: SignalSet,
        env: Env,
        wal: Owner<Wal>,
        consumer: ConsumerId,
        sealed: watch::Receiver<u64>,
        counters: Arc<ShipCounters>,
    ) -> Self {
        let plan = Plan { signals, limits: config.limits(), ..Plan::default() };
        Self {
            name,
            client,
            backoff: Backoff::new(config.retry()),
            plan,
            env,
            wal,
            consumer,
            sealed,
            counters,
        }
    }

    /// Exports until `shutdown`, also in the middle of a segment: the cursor says where to go on.
    pub async fn run(mut self, shutdown: CancellationToken) {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = self.export_all() => {}
        }
    }

    async fn export_all(&mut self) {
        loop {
            self.sealed.mark_unchanged();
            match self.next().await {
                Ok(Some((lane, header))) => {
                    if let Err(error) = self.export(lane, &header).await {
                        tracing::error!(exporter = self.name, %error, "export is held up; trying again");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                Ok(None) => {
                    if self.sealed.changed().await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(exporter = self.name, %error, "the log cannot be read; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// The next segment that this exporter has not passed, most urgent lane first.
    async fn next(&self) -> Result<Option<(Lane, Header)>, ExportError> {
        let consumer = self.consumer;
        let next = self.wal.call(move |wal| {
            for lane in wal.lanes() {
                if let Some(header) = wal.waiting(consumer, lane, 0, 1)?.pop() {
                    return Ok::<_, WalError>(Some((lane, header)));
                }
            }
            Ok(None)
        });
        Ok(next.await??)
    }

    async fn export(&mut self, lane: Lane, header: &Header) -> Result<(), ExportError> {
        let (consumer, id) = (self.consumer, header.id);
        let (payload, cursor) = self
            .wal
            .call(move |wal| {
                Ok::<_, WalError>((wal.payload(lane, id.sequence)?, wal.cursor(consumer, lane)?))
            })
            .await??;
        let Some(payload) = payload else { return Ok(()) };
        let done = if cursor.0 == id.sequence { cursor.1 } else { 0 };
        let mut refused = Counts::ZERO;
        let mut number = 0;
        // An iterator over a zstd stream cannot be held while a request is sent elsewhere: it is cheap to hold it here.
        let decoder = Decoder::new(header, &payload);
        let requests: Box<dyn Iterator<Item = Result<Request, CodecError>> + Send> = match decoder {
            Ok(decoder) => Box::new(decoder),
            Err(error) => Box::new(std::iter::once(Err(error))),
        };
        let mut cuts = Cuts::new(requests, self.plan.clone());
        while let Some(cut) = cuts.next() {
            number += 1;
            let (signal, outcome) = match cut {
                Ok(_) if number <= done => continue,
                Ok(Cut::Request { signal, body, items }) => (signal, self.send(signal, body, items).await),
                Ok(Cut::Undecodable { .. }) => continue,
                Err(error) => {
                    tracing::error!(exporter = self.name, segment = %id, %error, "a segment cannot be decoded");
                    break;
                }
            };
            refused +=
                Counts::of(signal, outcome.rejected + outcome.refused.iter().map(|r| r.items).sum::<u64>());
            if let Some(first) = outcome.refused.first() {
                tracing::error!(
                    exporter = self.name,
                    reason = first.reason,
                    "the backend refuses items for good"
                );
            }
            self.wal.call(move |wal| wal.set_cursor(consumer, lane, (id.sequence, number))).await??;
        }
        self.wal.call(move |wal| wal.pass(consumer, &[Delivery { id, refused }])).await??;
        Ok(())
    }

    async fn send(&mut self, signal: Signal, body: bytes::Bytes, items: u64) -> Delivered {
        let label = ExporterLabel { exporter: self.name.clone(), signal: signal.name() };
        let (counters, name) = (&self.counters, &self.name);
        let tell = |progress: Progress<'_>| match progress {
            Progress::Sent(items) => {
                counters.exported.get_or_create(&label).inc_by(items);
            }
            Progress::Retry(wait, reason) => {
                counters.export_failures.get_or_create(&label).inc();
                tracing::warn!(
                    exporter = name,
                    reason,
                    wait_ms = wait.as_millis() as u64,
                    "export failed; trying again"
                );
            }
        };
        deliver(&self.client, signal, body, items, &mut self.backoff, &self.env, tell).await
    }
}
