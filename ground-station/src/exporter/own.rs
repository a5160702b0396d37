//! What the station says of itself: its metrics at an interval, its warnings and alarms soon, to every exporter of their signal.
//!
//! None of it is in the spool, which is the satellites'. Metrics that cannot be sent are not sent again, since the next ones count
//! on; records wait in memory, so many for each exporter.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use perigee_shared::env::Env;
use perigee_shared::export::{Client, Outcome};
use perigee_shared::signal::{Signal, SignalSet};
use perigee_shared::telemetry::{Captured, OwnConfig, Report};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use tokio_util::sync::CancellationToken;

use super::Exporter;
use crate::console::Console;

/// Records are sent together that come within this time.
const GATHER: Duration = Duration::from_secs(1);

/// Requests with records that wait for one backend, at most; the oldest goes first.
const WAITING: usize = 64;

/// How often those are tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// One exporter, and what waits for its backend.
struct Backend {
    client: Arc<Client>,
    signals: SignalSet,
    waiting: VecDeque<Bytes>,
}

impl Backend {
    async fn send(&self, signal: Signal, body: &Bytes) -> bool {
        !matches!(self.client.send(signal, body).await, Outcome::Retry { .. })
    }

    /// Sends what waits until it fails.
    async fn flush(&mut self) {
        while let Some(body) = self.waiting.front() {
            if !self.send(Signal::Logs, body).await {
                return;
            }
            self.waiting.pop_front();
        }
    }
}

/// See the module.
pub struct Own {
    report: Report,
    captured: Captured,
    config: OwnConfig,
    console: Console,
    env: Env,
    backends: Vec<Backend>,
}

impl Own {
    /// Sends what `captured` keeps and `console` measures to these exporters.
    pub fn new(
        (captured, config): (Captured, OwnConfig),
        station: &str,
        console: Console,
        env: &Env,
        exporters: &[Exporter],
    ) -> Self {
        let of = |e: &Exporter| Backend {
            client: e.delivery.client(),
            signals: e.plan.signals,
            waiting: VecDeque::new(),
        };
        let who = [("service.instance.id", station), ("ground.station.id", station)];
        let report = Report::new("ground-station", &who, env.unix_nano());
        Self {
            report,
            captured,
            config,
            console,
            env: env.clone(),
            backends: exporters.iter().map(of).collect(),
        }
    }

    /// Sends until `stop`.
    pub async fn run(&mut self, stop: CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.work() => {}
        }
    }

    async fn work(&mut self) {
        let every = self.config.interval.0;
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let again = self.backends.iter().any(|b| !b.waiting.is_empty());
            tokio::select! {
                biased;
                () = self.captured.some() => self.keep_records().await,
                _ = ticks.tick() => self.metrics().await,
                () = sleep(AGAIN), if again => {}
            }
            for backend in &mut self.backends {
                backend.flush().await;
            }
        }
    }

    async fn metrics(&self) {
        let request = self.report.metrics(&self.console.metrics_text().await, self.env.unix_nano());
        for backend in self.backends.iter().filter(|b| b.signals.contains(Signal::Metrics)) {
            backend.send(Signal::Metrics, &request).await;
        }
    }

    async fn keep_records(&mut self) {
        sleep(GATHER).await;
        let request = self.report.logs(self.captured.take().0);
        for backend in self.backends.iter_mut().filter(|b| b.signals.contains(Signal::Logs)) {
            if backend.waiting.len() >= WAITING {
                backend.waiting.pop_front();
            }
            backend.waiting.push_back(request.clone());
        }
    }
}
