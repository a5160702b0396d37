//! Whether a backend takes compressed requests.

use std::sync::atomic::{AtomicU8, Ordering};

use super::config::Compression;
use super::outcome::Outcome;

const UNKNOWN: u8 = 0;
const TAKEN: u8 = 1;
const REFUSED: u8 = 2;

/// The compression that is configured, as far as the backend takes it.
pub(super) struct Negotiated {
    key: String,
    wanted: Compression,
    state: AtomicU8,
}

impl Negotiated {
    /// Nothing is known yet. `key` is the exporter's.
    pub(super) fn new(key: &str, wanted: Compression) -> Self {
        Self { key: key.to_owned(), wanted, state: AtomicU8::new(UNKNOWN) }
    }

    /// What the next request is compressed with.
    pub(super) fn in_use(&self) -> Compression {
        if self.state.load(Ordering::Relaxed) == REFUSED { Compression::None } else { self.wanted }
    }

    /// Takes note of what came of a request that was compressed with `used`. A backend that refuses before it has ever taken a
    /// compressed request is sent the same without compression (`plain`). What came of that, if it was taken.
    pub(super) async fn or_plain<F: Future<Output = Outcome>>(
        &self,
        used: Compression,
        outcome: &Outcome,
        plain: impl FnOnce() -> F,
    ) -> Option<Outcome> {
        if used == Compression::None || self.state.load(Ordering::Relaxed) != UNKNOWN {
            return None;
        }
        match outcome {
            Outcome::Accepted { .. } => {
                self.state.store(TAKEN, Ordering::Relaxed);
                None
            }
            Outcome::Refused { reason, .. } => {
                let plain = plain().await;
                if !matches!(plain, Outcome::Accepted { .. }) {
                    return None;
                }
                self.state.store(REFUSED, Ordering::Relaxed);
                tracing::warn!(
                    exporter = self.key,
                    reason,
                    "the backend refuses {:?} and takes the same without compression, which is used from now on; write \
                     `compression: none`, or mend the backend",
                    self.wanted
                );
                Some(plain)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::outcome::About;
    use super::*;

    #[tokio::test]
    async fn compression_is_given_up_once_and_only_when_it_was_the_reason() {
        let refused = Outcome::Refused { reason: "no".to_owned(), about: About::Data };
        let never = Negotiated::new("exporters.x", Compression::Zstd);
        assert_eq!(never.or_plain(Compression::Zstd, &refused, async || refused.clone()).await, None);
        assert_eq!(never.in_use(), Compression::Zstd, "both are refused");
        let taken = never.or_plain(Compression::Zstd, &refused, async || Outcome::ACCEPTED).await;
        assert_eq!((taken, never.in_use()), (Some(Outcome::ACCEPTED), Compression::None));

        let works = Negotiated::new("exporters.x", Compression::Gzip);
        assert_eq!(
            works.or_plain(Compression::Gzip, &Outcome::ACCEPTED, async || refused.clone()).await,
            None
        );
        let later = works.or_plain(Compression::Gzip, &refused, async || Outcome::ACCEPTED).await;
        assert_eq!((later, works.in_use()), (None, Compression::Gzip), "it took compressed requests before");
    }
}
