//! The batcher: decides when what waits in the journal becomes a segment, and makes it one.
//!
//! A full batch is always sealed. The rest is sealed when it is older than `timeout` while somebody takes it (in contact, or a
//! direct exporter), before a contact, and when the journal holds back too much. While requests keep coming, sealing may lag
//! behind by `defer_sealing` bytes, so that a burst has the processor for itself.

use std::time::Duration;

use perigee_shared::env::{Env, Owner};
use perigee_shared::segment::Header;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::BatchConfig;
use crate::journal::Progress;
use crate::wal::{BatchLimits, SealError, Wal, WalError};

/// Without a request for so long, a burst is over.
const QUIET: Duration = Duration::from_millis(200);

/// After a failure.
const RETRY: Duration = Duration::from_secs(1);

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// Seal a full batch, or everything if `all`.
    Seal { all: bool },
    /// Look again then, or when something changes.
    Wait(Option<Instant>),
}

/// Why a segment could not be made.
#[derive(Debug, thiserror::Error)]
enum BatchError {
    #[error(transparent)]
    Wal(#[from] WalError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Gone(#[from] perigee_shared::env::Gone),
}

/// See the module.
pub struct Batcher {
    config: BatchConfig,
    env: Env,
    wal: Owner<Wal>,
    progress: watch::Receiver<Progress>,
    told: watch::Sender<Progress>,
    /// Whether somebody takes segments now, or soon will.
    wanted: watch::Receiver<bool>,
    /// Tells consumers that there is a new segment.
    sealed: watch::Sender<u64>,
}

impl Batcher {
    /// A batcher that is told of commits by `told`, of contacts by `wanted`, and tells of segments by `sealed`.
    pub fn new(
        config: BatchConfig,
        env: Env,
        wal: Owner<Wal>,
        told: watch::Sender<Progress>,
        wanted: watch::Receiver<bool>,
        sealed: watch::Sender<u64>,
    ) -> Self {
        Self { config, env, wal, progress: told.subscribe(), told, wanted, sealed }
    }

    const fn limits(&self) -> BatchLimits {
        BatchLimits { items: self.config.send_batch_size, raw: self.config.send_batch_bytes.0 }
    }

    /// Seals until `shutdown`. What then waits in the journal stays there, durable.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let progress = *self.progress.borrow_and_update();
            let wanted = *self.wanted.borrow_and_update();
            let decision = self.decide(progress, wanted, Instant::now(), self.env.unix_nano());
            match decision {
                Decision::Seal { all } => {
                    if let Err(error) = self.seal(all).await {
                        tracing::error!(%error, "a segment could not be sealed; trying again");
                        tokio::select! {
                            biased;
                            () = shutdown.cancelled() => return,
                            () = tokio::time::sleep(RETRY) => {}
                        }
                    }
                    if shutdown.is_cancelled() {
                        return;
                    }
                }
                Decision::Wait(until) => {
                    let timer = async {
                        match until {
                            Some(at) => tokio::time::sleep_until(at).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return,
                        changed = self.progress.changed() => if changed.is_err() { return },
                        changed = self.wanted.changed() => if changed.is_err() { return },
                        () = timer => {}
                    }
                }
            }
        }
    }

    fn decide(&self, progress: Progress, wanted: bool, now: Instant, unix_nano: u64) -> Decision {
        let unsealed = progress.unsealed;
        let Some(oldest) = unsealed.oldest_unix_nano else { return Decision::Wait(None) };
        if unsealed.stored > self.config.max_hold_back.0.max(self.config.defer_sealing.0) {
            return Decision::Seal { all: true };
        }
        if unsealed.is_full(self.limits()) {
            let quiet_at = progress.at + QUIET;
            if unsealed.stored >= self.config.defer_sealing.0 || now >= quiet_at {
                return Decision::Seal { all: false };
            }
            return Decision::Wait(Some(quiet_at));
        }
        if !wanted {
            return Decision::Wait(None);
        }
        let age = Duration::from_nanos(unix_nano.saturating_sub(oldest));
        match self.config.timeout.0.checked_sub(age) {
            Some(left) if !left.is_zero() => Decision::Wait(Some(now + left)),
            _ => Decision::Seal { all: true },
        }
    }

    /// Makes one segment.
    async fn seal(&mut self, all: bool) -> Result<Option<Header>, BatchError> {
        let limits = self.limits();
        let batch = self.wal.call(move |wal| wal.take_batch(limits, all)).await??;
        let Some(batch) = batch else { return Ok(None) };
        let now = self.env.unix_nano();
        let codec = self.config.codec;
        let sealed = self.env.cpu(move || batch.seal(codec, now)).await?;
        let told = self.told.clone();
        let header = self
            .wal
            .call(move |wal| {
                let header = wal.commit_segment(sealed);
                told.send_modify(|progress| progress.unsealed = wal.unsealed());
                header
            })
            .await??;
        tracing::debug!(
            segment = %header.id,
            items = header.items.total(),
            raw = header.raw_len,
            payload = header.payload_len,
            "sealed"
        );
        self.sealed.send_modify(|n| *n += 1);
        Ok(Some(header))
    }
}

#[cfg(test)]
mod tests {
    use perigee_shared::env::Placement;
    use perigee_shared::signal::{Signal, SignalSet};
    use perigee_shared::units::{ByteSize, Span};

    use super::*;
    use crate::wal::{Unsealed, WalConfig, WhenFull};

    fn batcher(directory: &std::path::Path, config: BatchConfig) -> Batcher {
        let env = Env::production();
        let consumers = [("link".to_owned(), SignalSet::default().with(Signal::Logs))].into();
        let directory = directory.to_owned();
        let wal =
            WalConfig { directory, max_bytes: 1 << 20, when_full: WhenFull::Refuse, ballast: 0, consumers };
        let (wal, _) = Wal::open(wal, env.clone()).unwrap();
        let wal = Owner::new(Placement::Inline, "wal", wal).unwrap();
        let (told, _) = watch::channel(Progress { unsealed: Unsealed::default(), at: Instant::now() });
        Batcher::new(config, env, wal, told, watch::channel(false).1, watch::channel(0).0)
    }

    const S: u64 = 1_000_000_000;

    #[tokio::test(start_paused = true)]
    async fn what_is_not_full_waits_for_its_age_when_somebody_wants_it() {
        let dir = tempfile::tempdir().unwrap();
        let batcher = batcher(dir.path(), BatchConfig { timeout: Span::secs(2), ..BatchConfig::default() });
        let now = Instant::now();
        let unsealed = Unsealed { raw: 10, items: 1, stored: 5, oldest_unix_nano: Some(10 * S) };
        let progress = Progress { unsealed, at: now };
        let decide = |wanted, unix| batcher.decide(progress, wanted, now, unix);
        assert_eq!(decide(false, 100 * S), Decision::Wait(None));
        assert_eq!(decide(true, 11 * S), Decision::Wait(Some(now + Duration::from_secs(1))));
        assert_eq!(decide(true, 12 * S), Decision::Seal { all: true });
        let empty = Progress { unsealed: Unsealed::default(), at: now };
        assert_eq!(batcher.decide(empty, true, now, 100 * S), Decision::Wait(None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_batch_is_sealed_at_once_or_when_the_burst_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let full = Unsealed { raw: 5 << 20, items: 1, stored: 1000, oldest_unix_nano: Some(1) };
        let now = Instant::now();
        let progress = Progress { unsealed: full, at: now };
        let eager = batcher(dir.path(), BatchConfig::default());
        assert_eq!(eager.decide(progress, false, now, 2), Decision::Seal { all: false });
        drop(eager);
        let lazy =
            batcher(dir.path(), BatchConfig { defer_sealing: ByteSize::mib(1), ..BatchConfig::default() });
        assert_eq!(lazy.decide(progress, false, now, 2), Decision::Wait(Some(now + QUIET)));
        assert_eq!(lazy.decide(progress, false, now + QUIET, 2), Decision::Seal { all: false });
    }
}
