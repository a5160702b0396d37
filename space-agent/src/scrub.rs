//! Reads what lies in the log from time to time and has it compared with its checksums, so that damage is found while there is
//! still something beside it, and not in the contact that was to deliver it.

use std::time::Duration;

use perigee_shared::env::Owner;
use tokio_util::sync::CancellationToken;

use crate::config::ScrubConfig;
use crate::telemetry::ScrubCounters;
use crate::wal::Wal;

/// A round reads so much at a time: few steps, so that an idle machine is seldom woken.
const STEP: u64 = 4 << 20;

/// Rounds of the scrub until `stop`.
pub async fn run(config: ScrubConfig, wal: Owner<Wal>, counters: ScrubCounters, stop: CancellationToken) {
    if config.interval.0.is_zero() || config.rate.0 == 0 {
        return;
    }
    let between_steps = Duration::from_secs_f64(STEP as f64 / config.rate.0 as f64);
    let mut next = tokio::time::Instant::now() + config.interval.0;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(next) => {}
        }
        let began = next;
        loop {
            let step = match wal.call(|wal| wal.scrub(STEP)).await {
                Ok(Ok(step)) => step,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the scrub waits for the store");
                    crate::wal::Scrubbed::default()
                }
                Err(_) => return,
            };
            counters.checked.inc_by(step.checked);
            counters.damaged.inc_by(step.damaged);
            if step.damaged > 0 {
                tracing::error!(
                    event.name = "perigee.wal.scrub",
                    damaged = step.damaged,
                    "the scrub found damage; what was damaged is dropped and reported"
                );
            }
            if step.finished {
                break;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(between_steps) => {}
            }
        }
        next = began + config.interval.0;
    }
}
