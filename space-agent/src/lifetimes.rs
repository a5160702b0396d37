//! Lifetimes: drops the segments of a lane when they are older than the lane allows, wherever the contact is. How old they are for certain
//! is the log's matter: no setting of a clock ends a lifetime early.
//!
//! It sleeps until the next lifetime ends, and a little longer, so that what ends together goes together.

use std::time::Duration;

use perigee_shared::env::Owner;
use perigee_shared::telemetry::Repeats;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::lanes::Lanes;
use crate::wal::Wal;

/// A segment goes at most this part of the shortest lifetime late.
const LATE: u32 = 64;

/// The clock may become trusted, and a store may have failed: never sleep longer.
const LONGEST: Duration = Duration::from_secs(600);

/// Drops what is over until `shutdown`; ends at once when no lane has a lifetime.
pub async fn run(
    lanes: Lanes,
    wal: Owner<Wal>,
    mut sealed: watch::Receiver<u64>,
    shutdown: CancellationToken,
) {
    let Some(shortest) = lanes.policies.values().filter_map(|p| p.lifetime).min() else { return };
    let mut said = Repeats::default();
    loop {
        sealed.mark_unchanged();
        let next = match wal.call(|wal| wal.queues().expire()).await {
            Ok(Ok(next)) => next,
            Ok(Err(error)) => {
                if let Some(times) = said.count(&error.to_string()) {
                    tracing::error!(%error, times, "segments whose lifetime is over could not be dropped; trying again");
                }
                Some(Duration::ZERO)
            }
            Err(_) => return,
        };
        let wait = next
            .map_or(LONGEST, |left| (left + (shortest / LATE).max(Duration::from_millis(10))).min(LONGEST));
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            // Without a segment that has a lifetime there is nothing to wait for but the next one.
            changed = sealed.changed(), if next.is_none() => if changed.is_err() { return },
            () = tokio::time::sleep(wait), if next.is_some() => {}
        }
    }
}
