//! How long to wait before a request is sent again: the Collector's `retry_on_failure`.

use std::time::Duration;

use super::config::RetryConfig;
use crate::env::Env;

/// The waits between the attempts of one request. By default it never gives up.
#[derive(Debug, Clone)]
pub struct Backoff {
    config: RetryConfig,
    next: Duration,
    waited: Duration,
}

impl Backoff {
    /// Waits as `config` says.
    pub fn new(config: RetryConfig) -> Self {
        Self { config, next: config.initial_interval.0, waited: Duration::ZERO }
    }

    /// How long to wait now; `asked` is what the backend asked for, which is a lower bound up to `max_retry_after`. `None`: give up, which only
    /// happens with `max_elapsed_time` set, and then still deletes nothing.
    pub fn wait(&mut self, env: &Env, asked: Option<Duration>) -> Option<Duration> {
        let limit = self.config.max_elapsed_time.0;
        if !limit.is_zero() && self.waited >= limit {
            return None;
        }
        let asked = asked.unwrap_or_default().min(self.config.max_retry_after.0);
        let wait = env.jitter(self.next, self.config.randomization_factor).max(asked);
        self.next = self.next.mul_f64(self.config.multiplier).min(self.config.max_interval.0);
        self.waited += wait;
        Some(wait)
    }

    /// Starts again at the first interval: a request got through.
    pub fn reset(&mut self) {
        *self = Self::new(self.config);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Span;

    #[test]
    fn waits_grow_up_to_the_largest_and_never_end() {
        let env = Env::production();
        let config = RetryConfig { randomization_factor: 0.0, ..RetryConfig::default() };
        let mut backoff = Backoff::new(config);
        let waits: Vec<_> = (0..100).map_while(|_| backoff.wait(&env, None)).collect();
        assert_eq!(waits.len(), 100);
        assert_eq!(&waits[..2], [Duration::from_secs(5), Duration::from_millis(7500)]);
        assert_eq!(waits[99], Duration::from_secs(30));
        backoff.reset();
        assert_eq!(backoff.wait(&env, None), Some(Duration::from_secs(5)));
    }

    #[test]
    fn what_the_backend_asks_for_is_a_lower_bound() {
        let mut backoff = Backoff::new(RetryConfig::default());
        let wait = backoff.wait(&Env::production(), Some(Duration::from_secs(60)));
        assert_eq!(wait, Some(Duration::from_secs(60)));
    }

    #[test]
    fn what_the_backend_asks_for_has_a_cap() {
        let env = Env::production();
        let asked = |config| Backoff::new(config).wait(&env, Some(Duration::from_hours(24)));
        assert_eq!(asked(RetryConfig::default()), Some(Duration::from_mins(5)));
        let config = RetryConfig { max_retry_after: Span::secs(90), ..RetryConfig::default() };
        assert_eq!(asked(config), Some(Duration::from_secs(90)));
    }

    #[test]
    fn it_gives_up_only_when_it_was_told_to() {
        let config = RetryConfig { max_elapsed_time: Span::secs(1), ..RetryConfig::default() };
        let mut backoff = Backoff::new(config);
        assert!(backoff.wait(&Env::production(), None).is_some());
        assert!(backoff.wait(&Env::production(), None).is_none());
    }
}
