//! The memory limiter: what is taken in is bounded, and a refusal always says when to come back.
//!
//! Two things are bounded. Request bodies are admitted before they are buffered and hold their place until they are in the
//! journal ([`Permit`]). And resident memory is looked at every `check_interval`: above the soft limit, or while it grows too
//! fast, one request at a time is taken; above the hard limit, requests that are being read are refused as well.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use perigee_shared::env::Env;
use perigee_shared::otlp::status::Status;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::LimiterConfig;

/// What clients are told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How memory stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Pressure {
    /// Everything is taken.
    None = 0,
    /// One request at a time is taken.
    Soft = 1,
    /// Everything is refused.
    Hard = 2,
}

/// See the module.
pub struct Limiter {
    config: LimiterConfig,
    pressure: AtomicU8,
    in_flight: AtomicU64,
    /// Requests refused for want of memory.
    refused: AtomicU64,
    /// A request was let in since memory was looked at.
    active: AtomicBool,
    /// Wakes what looks at memory when the first request comes after a rest.
    wake: Notify,
}

impl Limiter {
    /// A limiter without pressure.
    pub fn new(config: LimiterConfig) -> Arc<Self> {
        Arc::new(Self {
            config,
            pressure: AtomicU8::new(0),
            in_flight: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            active: AtomicBool::new(false),
            wake: Notify::new(),
        })
    }

    /// How memory stands.
    pub fn pressure(&self) -> Pressure {
        match self.pressure.load(Ordering::Relaxed) {
            0 => Pressure::None,
            1 => Pressure::Soft,
            _ => Pressure::Hard,
        }
    }

    /// Bytes of request bodies that are held now.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Requests refused so far.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Lets a request in whose size is not known yet.
    pub fn admit(self: &Arc<Self>) -> Result<Permit, Status> {
        // With nothing in flight it is not requests that fill the memory: one at a time then still goes through, so that a
        // process that has merely grown never refuses for ever.
        let refused = match self.pressure() {
            Pressure::None => false,
            Pressure::Soft => self.in_flight() > 0,
            Pressure::Hard => true,
        };
        if !self.active.load(Ordering::Relaxed) && !self.active.swap(true, Ordering::Relaxed) {
            self.wake.notify_one();
        }
        if refused {
            return Err(self.refuse("memory is above its soft limit"));
        }
        Ok(Permit { limiter: Arc::clone(self), bytes: 0 })
    }

    fn refuse(&self, why: &str) -> Status {
        self.refused.fetch_add(1, Ordering::Relaxed);
        Status::unavailable(why, RETRY_AFTER)
    }

    /// Whether no request has come since memory was last looked at, and none is held.
    fn rests(&self) -> bool {
        !self.active.swap(false, Ordering::Relaxed)
            && self.in_flight() == 0
            && self.pressure() == Pressure::None
    }

    /// Looks at resident memory until `shutdown`, and sleeps while there is nobody to refuse.
    pub async fn run(&self, env: Env, shutdown: CancellationToken) {
        let mut before = None;
        loop {
            let rest = async {
                if self.rests() {
                    self.wake.notified().await;
                    true
                } else {
                    tokio::time::sleep(self.config.check_interval.0).await;
                    false
                }
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                rested = rest => if rested {
                    // Growth over a rest is no growth in a second.
                    before = None;
                }
            }
            let Some(resident) = (env.memory)() else { continue };
            let now = self.judge(resident, before);
            before = Some(resident);
            let was = self.pressure.swap(now as u8, Ordering::Relaxed);
            if was != now as u8 {
                let resident = perigee_shared::units::ByteSize(resident);
                match now {
                    Pressure::None => tracing::info!(%resident, "memory is below its soft limit again"),
                    _ => {
                        tracing::warn!(%resident, pressure = ?now, "requests are refused until memory is back")
                    }
                }
            }
        }
    }

    fn judge(&self, resident: u64, before: Option<u64>) -> Pressure {
        let limit = self.config.limit.0;
        let growth = self.config.max_growth_per_second.0;
        let soft = limit - self.config.spike_limit.0;
        let seconds = self.config.check_interval.0.as_secs_f64();
        let grows = before.is_some_and(|b| resident.saturating_sub(b) as f64 > growth as f64 * seconds);
        if resident >= limit {
            Pressure::Hard
        } else if resident >= soft || (growth > 0 && grows) {
            Pressure::Soft
        } else {
            Pressure::None
        }
    }
}

/// A request that was let in, with the bytes it holds.
pub struct Permit {
    limiter: Arc<Limiter>,
    bytes: u64,
}

impl Permit {
    /// Takes room for `bytes` in all before they are buffered.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Status> {
        let more = (bytes as u64).saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        if self.limiter.pressure() == Pressure::Hard {
            return Err(self.limiter.refuse("memory is above its limit"));
        }
        let max = self.limiter.config.max_in_flight.0;
        let before = self.limiter.in_flight.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
        if before + more > max {
            return Err(self.limiter.refuse("too many requests are in flight"));
        }
        Ok(())
    }

    /// Gives back what is above `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes as u64);
        self.limiter.in_flight.fetch_sub(less, Ordering::Relaxed);
        self.bytes -= less;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.in_flight.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use perigee_shared::units::{ByteSize, Span};

    use super::*;

    fn limiter(growth: u64) -> Arc<Limiter> {
        Limiter::new(LimiterConfig {
            check_interval: Span::millis(500),
            limit: ByteSize(1000),
            spike_limit: ByteSize(200),
            max_growth_per_second: ByteSize(growth),
            max_in_flight: ByteSize(100),
        })
    }

    #[test]
    fn bytes_in_flight_are_bounded_and_given_back() {
        let limiter = limiter(0);
        let mut first = limiter.admit().unwrap();
        first.grow_to(60).unwrap();
        let mut second = limiter.admit().unwrap();
        let status = second.grow_to(41).unwrap_err();
        assert!(status.retry_after.is_some(), "every refusal has a hint");
        drop(second);
        assert_eq!(limiter.in_flight(), 60);
        first.shrink_to(10);
        assert!(limiter.admit().unwrap().grow_to(90).is_ok());
        drop(first);
        assert_eq!((limiter.in_flight(), limiter.refused()), (0, 1));
    }

    #[test]
    fn pressure_follows_the_limits_and_the_growth() {
        let plain = limiter(0);
        assert_eq!(plain.judge(799, None), Pressure::None);
        assert_eq!(plain.judge(800, None), Pressure::Soft);
        assert_eq!(plain.judge(1000, None), Pressure::Hard);
        let growing = limiter(100);
        assert_eq!(growing.judge(150, Some(100)), Pressure::None);
        assert_eq!(growing.judge(151, Some(100)), Pressure::Soft);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_not_looked_at_while_nothing_comes() {
        let limiter = limiter(0);
        let (looks, shutdown) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        let counter = Arc::clone(&looks);
        let mut env = Env::production();
        env.memory = Arc::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
            Some(1)
        });
        let (running, stop) = (Arc::clone(&limiter), shutdown.clone());
        let run = tokio::spawn(async move { running.run(env, stop).await });
        let pass = || tokio::time::sleep(Duration::from_secs(60));
        pass().await;
        assert_eq!(looks.load(Ordering::Relaxed), 0);
        let permit = limiter.admit();
        pass().await;
        let few = looks.load(Ordering::Relaxed);
        assert!((1..5).contains(&few), "{few}");
        permit.unwrap().grow_to(10).unwrap();
        let mut held = limiter.admit().unwrap();
        held.grow_to(10).unwrap();
        pass().await;
        assert!(looks.load(Ordering::Relaxed) > 100, "a request is held");
        shutdown.cancel();
        run.await.unwrap();
    }

    #[test]
    fn above_the_hard_limit_requests_that_are_being_read_are_refused() {
        let limiter = limiter(0);
        let mut permit = limiter.admit().unwrap();
        limiter.pressure.store(Pressure::Hard as u8, Ordering::Relaxed);
        assert!(permit.grow_to(1).is_err());
        assert!(limiter.admit().is_err());
    }
}
