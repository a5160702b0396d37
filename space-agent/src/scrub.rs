//! Reads what lies in the log from time to time and has it compared with its checksums, so that damage is found while there is
//! still something beside it, and not in the contact that was to deliver it.

use perigee_shared::env::Owner;
use perigee_shared::store::scrub::{Step, rounds};
use tokio_util::sync::CancellationToken;

use crate::config::ScrubConfig;
use crate::telemetry::ScrubCounters;
use crate::wal::Wal;

/// A round reads so much at a time: few steps, so that an idle machine is seldom woken.
const STEP: u64 = 4 << 20;

/// Rounds of the scrub until `stop`.
pub async fn run(config: ScrubConfig, wal: Owner<Wal>, counters: ScrubCounters, stop: CancellationToken) {
    rounds(config.interval.0, config.rate.0, stop, || step(&wal, &counters)).await;
}

async fn step(wal: &Owner<Wal>, counters: &ScrubCounters) -> Option<Step> {
    match wal.call(|wal| wal.scrub().step(STEP)).await.ok()? {
        Ok(found) => {
            counters.checked.inc_by(found.checked);
            counters.damaged.inc_by(found.damaged);
            if found.damaged > 0 {
                tracing::error!(
                    event.name = "perigee.wal.scrub",
                    damaged = found.damaged,
                    "the scrub found damaged data; it was dropped and reported"
                );
            }
            Some(Step { bytes: found.bytes, finished: found.finished })
        }
        Err(error) => {
            tracing::debug!(%error, "the store failed; the scrub starts over with the next round");
            Some(Step { bytes: 0, finished: true })
        }
    }
}
