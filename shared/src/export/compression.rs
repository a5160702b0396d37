//! Whether a backend takes compressed requests.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::config::Compression;
use super::outcome::{About, Outcome};

const UNKNOWN: u8 = 0;
const TAKEN: u8 = 1;
const REFUSED: u8 = 2;

/// How often a backend that has taken compressed requests is asked again whether it still does, when it refuses one: another one may
/// have come in its place, and bad data must not cost each request twice.
const ASKED_EVERY: Duration = Duration::from_secs(10);

/// A backend refuses compressed requests when it has refused so many, one after the other, and taken the same without compression:
/// one may have failed for another reason. One is enough where the answer is about the request.
const SURE: u8 = 3;

/// Its name in a header.
pub(super) const fn name(compression: Compression) -> Option<&'static str> {
    match compression {
        Compression::Gzip => Some("gzip"),
        Compression::Zstd => Some("zstd"),
        Compression::None => None,
    }
}

/// Compresses what `put` writes, behind what is in `out`. It is never held as a whole in between.
pub(super) fn pack<E: From<io::Error>>(
    mut out: Vec<u8>,
    compression: Compression,
    put: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<Vec<u8>, E> {
    match compression {
        Compression::None => {
            put(&mut out)?;
            Ok(out)
        }
        Compression::Zstd => {
            let mut packed = zstd::stream::write::Encoder::new(out, 3)?;
            put(&mut packed)?;
            Ok(packed.finish()?)
        }
        Compression::Gzip => {
            let mut packed = flate2::write::GzEncoder::new(out, flate2::Compression::fast());
            put(&mut packed)?;
            Ok(packed.finish()?)
        }
    }
}

/// The compression that is configured, as far as the backend takes it.
pub(super) struct Negotiated {
    key: String,
    wanted: Compression,
    state: AtomicU8,
    /// Compressed requests that were refused and taken without compression, one after the other.
    refused: AtomicU8,
    /// When a refused request was last sent without compression.
    asked: Mutex<Option<Instant>>,
}

impl Negotiated {
    /// Nothing is known yet. `key` is the exporter's.
    pub(super) fn new(key: &str, wanted: Compression) -> Self {
        let (key, state, refused) = (key.to_owned(), AtomicU8::new(UNKNOWN), AtomicU8::new(0));
        Self { key, wanted, state, refused, asked: Mutex::default() }
    }

    /// What the next request is compressed with.
    pub(super) fn in_use(&self) -> Compression {
        if self.state.load(Ordering::Relaxed) == REFUSED { Compression::None } else { self.wanted }
    }

    fn may_ask(&self) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let may = asked.is_none_or(|at| at.elapsed() >= ASKED_EVERY);
        if may {
            *asked = Some(Instant::now());
        }
        may
    }

    /// Takes note of what came of a request that was compressed with `used`. A backend that refuses is sent the
    /// same without compression (`plain`): always before it has ever taken a compressed request, and rarely after that. What came of
    /// that, if it was taken.
    pub(super) async fn or_plain<F: Future<Output = Outcome>>(
        &self,
        used: Compression,
        outcome: &Outcome,
        plain: impl FnOnce() -> F,
    ) -> Option<Outcome> {
        let state = self.state.load(Ordering::Relaxed);
        if used == Compression::None || state == REFUSED {
            return None;
        }
        match outcome {
            Outcome::Accepted { .. } => {
                self.state.store(TAKEN, Ordering::Relaxed);
                self.refused.store(0, Ordering::Relaxed);
                None
            }
            Outcome::Refused { reason, about } => {
                let doubtful = self.refused.load(Ordering::Relaxed) > 0;
                if state == TAKEN && !doubtful && !self.may_ask() {
                    return None;
                }
                let plain = plain().await;
                if !matches!(plain, Outcome::Accepted { .. }) {
                    return None;
                }
                let is_sure = *about == About::Data
                    || ["HTTP 415", "Unimplemented"].iter().any(|says| reason.starts_with(says));
                if !is_sure && self.refused.fetch_add(1, Ordering::Relaxed) + 1 < SURE {
                    return Some(plain);
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
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn compression_is_given_up_once_and_only_when_it_was_the_reason() {
        let refused = Outcome::Refused { reason: "no".to_owned(), about: About::Perhaps };
        for sure in [
            ("HTTP 400", About::Data),
            ("HTTP 415", About::Settings),
            ("Unimplemented: zstd", About::Settings),
        ] {
            let at_once = Negotiated::new("exporters.x", Compression::Zstd);
            let refused = Outcome::Refused { reason: sure.0.to_owned(), about: sure.1 };
            at_once.or_plain(Compression::Zstd, &refused, async || Outcome::ACCEPTED).await;
            assert_eq!(at_once.in_use(), Compression::None, "{sure:?}");
        }
        let never = Negotiated::new("exporters.x", Compression::Zstd);
        assert_eq!(never.or_plain(Compression::Zstd, &refused, async || refused.clone()).await, None);
        assert_eq!(never.in_use(), Compression::Zstd, "both are refused");
        for times in 1..=SURE {
            assert_eq!(never.in_use(), Compression::Zstd, "it may have failed for another reason");
            let taken = never.or_plain(Compression::Zstd, &refused, async || Outcome::ACCEPTED).await;
            assert_eq!(taken, Some(Outcome::ACCEPTED), "{times}");
        }
        assert_eq!(never.in_use(), Compression::None);

        let works = Negotiated::new("exporters.x", Compression::Gzip);
        assert_eq!(
            works.or_plain(Compression::Gzip, &Outcome::ACCEPTED, async || refused.clone()).await,
            None
        );
        // Bad data is asked about once in a while, and a backend that came in its place is found out.
        for asked in [true, false] {
            let mut plain = false;
            works
                .or_plain(Compression::Gzip, &refused, async || {
                    plain = true;
                    refused.clone()
                })
                .await;
            assert_eq!((plain, works.in_use()), (asked, Compression::Gzip));
        }
        tokio::time::advance(ASKED_EVERY).await;
        for times in 1..SURE {
            let later = works.or_plain(Compression::Gzip, &refused, async || Outcome::ACCEPTED).await;
            assert_eq!((later, works.in_use()), (Some(Outcome::ACCEPTED), Compression::Gzip), "{times}");
        }
        works.or_plain(Compression::Gzip, &Outcome::ACCEPTED, async || refused.clone()).await;
        for in_use in [Compression::Gzip, Compression::Gzip, Compression::None] {
            tokio::time::advance(ASKED_EVERY).await;
            let later = works.or_plain(Compression::Gzip, &refused, async || Outcome::ACCEPTED).await;
            assert_eq!((later, works.in_use()), (Some(Outcome::ACCEPTED), in_use));
        }
    }
}
