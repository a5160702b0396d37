//! The memory limit.
//!
//! Connections share half of it for what they have sent and nobody has read ([`window`]). Of segments that take much memory one at a
//! time is decoded ([`Large`]). And the memory that the process uses is looked at: near the limit, decoded bases are given up and
//! links are read piece by piece, so that satellites wait and nothing is lost.

use std::sync::Arc;
use std::time::Duration;

use perigee_shared::env::Env;
use perigee_shared::segment::Header;
use perigee_shared::units::ByteSize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::spool::Store;

/// How often memory is looked at.
const CHECK: Duration = Duration::from_millis(50);

/// A segment with more bytes than this, encoded and not, is large.
const LARGE: u64 = 16 << 20;

/// What each of `connections` may have sent that was not read yet, of at most `most`.
pub fn window(limit: ByteSize, connections: usize, most: u64) -> u64 {
    most.min(limit.0 / 2 / connections.max(1) as u64).max(64 << 10)
}

/// Looks at memory and tells whether it is short.
#[derive(Debug)]
pub struct Meter {
    limit: ByteSize,
    short: watch::Sender<bool>,
}

impl Meter {
    /// Memory is not short yet.
    pub fn new(limit: ByteSize) -> Self {
        Self { limit, short: watch::Sender::new(false) }
    }

    /// Whether memory is short now, and when that changes.
    pub fn short(&self) -> watch::Receiver<bool> {
        self.short.subscribe()
    }

    /// Whether it is with so much in use. It is not any more once a good part is free.
    fn judge(&self, used: u64) -> bool {
        let (part, of) = if *self.short.borrow() { (3, 4) } else { (7, 8) };
        used >= self.limit.0 / of * part
    }

    /// Looks until `shutdown`.
    pub async fn run(&mut self, env: Env, store: Store, shutdown: CancellationToken) {
        // Where there is no meter there is nothing to look at.
        while let Some(memory) = (env.memory)() {
            let short = self.judge(memory.used);
            if self.short.send_if_modified(|was| std::mem::replace(was, short) != short) {
                let used = ByteSize(memory.used);
                if short {
                    tracing::warn!(%used, limit = %self.limit, "memory is short: satellites are read slowly until it is free again");
                } else {
                    tracing::info!(%used, "memory is free again");
                }
            }
            if short {
                store.forget_decoded().await;
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(CHECK) => {}
            }
        }
    }
}

/// Has large segments decoded one at a time.
#[derive(Debug, Clone)]
pub struct Large(Arc<Semaphore>);

/// Held as long as a segment is decoded.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "it is there to be dropped")] Option<OwnedSemaphorePermit>);

impl Default for Large {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Large {
    /// The turn of a segment, unless it is large and another one is decoded now.
    pub fn turn(&self, header: &Header) -> Option<Turn> {
        self.turn_of(header.raw_len.saturating_add(header.payload_len))
    }

    fn turn_of(&self, bytes: u64) -> Option<Turn> {
        if bytes <= LARGE {
            return Some(Turn(None));
        }
        Arc::clone(&self.0).try_acquire_owned().ok().map(|permit| Turn(Some(permit)))
    }

    /// Waits until no large segment is decoded.
    pub async fn free(&self) {
        // It is never closed.
        drop(self.0.acquire().await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_short_near_its_limit_and_until_a_quarter_is_free() {
        let meter = Meter::new(ByteSize(800));
        assert!(!meter.judge(699));
        assert!(meter.judge(700));
        meter.short.send_replace(true);
        assert!(meter.judge(600));
        assert!(!meter.judge(599));
    }

    #[test]
    fn connections_share_half_of_the_limit() {
        let limit = ByteSize::mib(256);
        assert_eq!(
            [1, 8, 16, 1 << 20].map(|n| window(limit, n, 16 << 20) >> 10),
            [16 << 10, 16 << 10, 8 << 10, 64]
        );
    }

    #[tokio::test]
    async fn large_segments_take_turns_and_small_ones_need_none() {
        let large = Large::default();
        let turn = large.turn_of(LARGE + 1).unwrap();
        assert!(large.turn_of(LARGE + 1).is_none());
        assert!(large.turn_of(LARGE).is_some());
        drop(turn);
        large.free().await;
        assert!(large.turn_of(LARGE + 1).is_some());
    }
}
