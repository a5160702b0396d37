//! What the agent says of itself: its metrics at an interval, its warnings and alarms soon.
//!
//! They go in like any request and have a quota of their own, so that they never take more of the log than [`QUOTA`] of it a day.
//! What does not fit waits: metrics for their next turn, records until there is room. Of records without room the newest are counted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use perigee_shared::signal::{Signal, SignalSet};
use perigee_shared::telemetry::{Captured, OwnConfig, Report};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use tokio_util::sync::CancellationToken;

use super::Intake;
use crate::control::Control;
use crate::telemetry::{OwnCounters, Source};

/// The part of `storage.max_bytes` that a day's records and metrics may take.
const QUOTA: f64 = 0.001;

/// The part of the day's quota that may be used at once; the rest comes evenly over the day.
const AT_ONCE: f64 = 0.25;

/// The part of what may be used at once that metrics leave for alarms.
const FOR_ALARMS: f64 = 0.5;

/// Records are sent together that come within this time.
const GATHER: Duration = Duration::from_secs(1);

/// After a refusal.
const AGAIN: Duration = Duration::from_secs(30);

const DAY: f64 = 86_400.0;

/// Bytes that may still be used.
struct Quota {
    left: f64,
    at_once: f64,
    per_second: f64,
    at: Instant,
}

impl Quota {
    fn new(max_bytes: u64) -> Self {
        let day = max_bytes as f64 * QUOTA;
        let at_once = day * AT_ONCE;
        Self { left: at_once, at_once, per_second: (day - at_once) / DAY, at: Instant::now() }
    }

    /// Takes `bytes`, if so many and `reserve` of what may be used at once are there.
    fn take(&mut self, bytes: usize, reserve: f64) -> bool {
        let now = Instant::now();
        let more = now.duration_since(self.at).as_secs_f64() * self.per_second;
        (self.left, self.at) = ((self.left + more).min(self.at_once), now);
        let enough = self.left - bytes as f64 >= reserve * self.at_once;
        if enough {
            self.left -= bytes as f64;
        }
        enough
    }
}

/// See the module.
pub struct Own {
    report: Report,
    captured: Captured,
    config: OwnConfig,
    intake: Arc<Intake>,
    control: Arc<Control>,
    counters: OwnCounters,
    quota: Quota,
    /// The metrics that were sent last.
    last: Bytes,
    /// Whether the metrics that are due have been put off already.
    put_off: bool,
}

impl Own {
    /// Sends what `captured` keeps and `control` measures to `intake`; of `signals` alone, since others have no pipeline.
    pub fn new(
        (captured, config): (Captured, OwnConfig),
        (intake, signals): (&Intake, SignalSet),
        control: Arc<Control>,
        counters: OwnCounters,
        max_bytes: u64,
    ) -> Self {
        let source = Source { receiver: "service.telemetry.otlp".into(), transport: "" };
        let intake = intake.narrowed(source, intake.max_request, signals, intake.stop.clone());
        let instance: Vec<_> = control.satellite.iter().map(|id| ("service.instance.id", &**id)).collect();
        let report = Report::new("space-agent", &instance, control.env.unix_nano());
        let (quota, last, put_off) = (Quota::new(max_bytes), Bytes::new(), false);
        Self { report, captured, config, intake, control, counters, quota, last, put_off }
    }

    /// Sends until `stop`.
    pub async fn run(&mut self, stop: CancellationToken) {
        let every = self.config.interval.0;
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let has = |signal| self.intake.signals.contains(signal);
        let (metrics, logs) = (has(Signal::Metrics), has(Signal::Logs));
        loop {
            let due = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick(), if metrics => Signal::Metrics,
                () = self.captured.some(), if logs => Signal::Logs,
            };
            let done = async {
                match due {
                    Signal::Metrics => self.metrics().await,
                    _ => self.logs().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = done => {}
            }
        }
    }

    async fn metrics(&mut self) {
        let now = self.control.env.unix_nano();
        let request = self.report.metrics(&self.control.metrics_text().await, now);
        // Counters count on: the next ones say what these would have said.
        if !self.quota.take(cost(&self.last, &request), FOR_ALARMS) {
            self.counters.put_off.inc();
            if !std::mem::replace(&mut self.put_off, true) {
                tracing::info!(
                    "own metrics are sent more rarely than service.telemetry.otlp.interval: their part of storage.max_bytes is used up"
                );
            }
            return;
        }
        self.last = request.clone();
        if let Err(status) = self.intake.accept(Signal::Metrics, request).await {
            self.counters.put_off.inc();
            tracing::debug!(error = %status.message, "own metrics were refused");
        }
    }

    async fn logs(&mut self) {
        sleep(GATHER).await;
        let (records, lost) = self.captured.take();
        self.counters.lost.inc_by(lost);
        let request = self.report.logs(records.clone());
        let taken = self.quota.take(cost(&[], &request), 0.0)
            && self.intake.accept(Signal::Logs, request).await.is_ok();
        if !taken {
            self.captured.put_back(records, 0);
            sleep(AGAIN).await;
        }
    }
}

/// What a request takes in the log at most once it is sealed behind `last`: what zstd, which knows less of OTLP, makes of it.
fn cost(last: &[u8], request: &[u8]) -> usize {
    let packed = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).map_or(bytes.len(), |packed| packed.len());
    packed(&[last, request].concat()).saturating_sub(packed(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_day_takes_no_more_than_its_part_and_leaves_room_for_alarms() {
        let mut quota = Quota::new(1 << 30);
        let (mut metrics, mut taken) = (0, 0);
        for minute in 0..24 * 60 {
            while quota.take(1000, FOR_ALARMS) {
                metrics += 1000;
            }
            if minute % 10 == 0 {
                assert!(quota.take(5000, 0.0), "an alarm has room");
                taken += 5000;
            }
            sleep(Duration::from_secs(60)).await;
        }
        let day = (f64::from(1 << 30) * QUOTA) as usize;
        assert!(metrics + taken <= day, "{metrics} + {taken} of {day}");
        assert!(metrics > 0 && metrics + taken > day * 8 / 10, "{metrics} + {taken} of {day}");
    }

    #[test]
    fn metrics_that_have_not_changed_cost_little() {
        let text: Vec<u8> =
            (0..20_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let request = &text[..12_000];
        assert!(cost(&[], request) > 11_000);
        assert!(cost(request, request) < 200, "{}", cost(request, request));
    }
}
