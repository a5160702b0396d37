//! The memory limit.
//!
//! Connections share a quarter of it for what they have sent and nobody has read ([`window`]). What decodes segments shares three eighths
//! ([`Budget`]). And the memory that the process uses is looked at while there is something to do: near the limit, decoded bases are
//! given up and links are read piece by piece, so that satellites wait and nothing is lost.

use std::time::Duration;

use perigee_shared::env::Env;
pub use perigee_shared::memory::{Budget, SERIES, Stir, Turn, to_decode};
use perigee_shared::units::ByteSize;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::spool::Store;

/// How often memory is looked at while something is received or decoded, and for how long after that.
const CHECK: Duration = Duration::from_millis(50);
const LOOKS_AFTERWARDS: u32 = 40;

/// How often it is looked at otherwise.
const IDLE_CHECK: Duration = Duration::from_secs(10);

/// How often the log says that memory is short.
const SAID_EVERY: Duration = Duration::from_secs(30);

/// What each of `connections` may have sent that was not read yet, of at most `most`.
pub fn window(limit: ByteSize, connections: usize, most: u64) -> u64 {
    most.min(limit.0 / 4 / connections.max(1) as u64).max(64 << 10)
}

/// Looks at memory and tells whether it is short.
#[derive(Debug)]
pub struct Meter {
    limit: ByteSize,
    short: watch::Sender<bool>,
    stir: Stir,
    said: Option<Instant>,
}

impl Meter {
    /// Memory is not short yet; `stir` tells when it is used.
    pub fn new(limit: ByteSize, stir: Stir) -> Self {
        Self { limit, short: watch::Sender::new(false), stir, said: None }
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

    fn say(&mut self, used: ByteSize) {
        let is_due = self.said.is_none_or(|said| said.elapsed() >= SAID_EVERY);
        if *self.short.borrow() && is_due {
            self.said = Some(Instant::now());
            tracing::warn!(%used, limit = %self.limit, "memory is short: satellites are read slowly until it is free again");
        }
    }

    /// Looks until `shutdown`.
    pub async fn run(&mut self, env: Env, store: Store, shutdown: CancellationToken) {
        let mut looks = 0u32;
        // Where there is no meter there is nothing to look at.
        while let Some(memory) = (env.memory)() {
            let short = self.judge(memory.used);
            if self.short.send_if_modified(|was| std::mem::replace(was, short) != short) {
                self.say(ByteSize(memory.used));
            }
            if short {
                store.upkeep().forget_decoded().await;
            }
            let wait = if short || looks > 0 { 2 * CHECK } else { IDLE_CHECK };
            let stirred = async {
                self.stir.stirred().await;
                // Not more often than this, whatever happens.
                tokio::time::sleep(CHECK).await;
            };
            looks = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = stirred => LOOKS_AFTERWARDS,
                () = tokio::time::sleep(wait) => looks.saturating_sub(1),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_short_near_its_limit_and_until_a_quarter_is_free() {
        let meter = Meter::new(ByteSize(800), Stir::default());
        assert!(!meter.judge(699));
        assert!(meter.judge(700));
        meter.short.send_replace(true);
        assert!(meter.judge(600));
        assert!(!meter.judge(599));
    }

    #[test]
    fn connections_share_a_quarter_of_the_limit() {
        let limit = ByteSize::mib(256);
        assert_eq!(
            [1, 8, 16, 1 << 20].map(|n| window(limit, n, 16 << 20) >> 10),
            [16 << 10, 8 << 10, 4 << 10, 64]
        );
    }
}
