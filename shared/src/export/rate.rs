//! A bound on items a second, so that a playback does not overload a backend.

use std::time::Duration;

use tokio::time::Instant;

/// Lets so many items a second pass, after a burst of one second's worth.
pub(super) struct RateLimit {
    per_second: Option<u64>,
    /// When everything that passed so far is paid for.
    paid: Option<Instant>,
}

impl RateLimit {
    pub(super) fn new(per_second: Option<u64>) -> Self {
        Self { per_second, paid: None }
    }

    /// How long `items` must wait before they may be sent at `now`; they count as sent.
    pub(super) fn take(&mut self, now: Instant, items: u64) -> Duration {
        let Some(rate) = self.per_second else { return Duration::ZERO };
        let burst = Duration::from_secs(1);
        let paid = self.paid.unwrap_or(now).max(now);
        self.paid = Some(paid + Duration::from_secs_f64(items as f64 / rate as f64));
        (paid - now).saturating_sub(burst)
    }

    /// The last `items` were not sent after all.
    pub(super) fn give_back(&mut self, items: u64) {
        if let (Some(rate), Some(paid)) = (self.per_second, &mut self.paid)
            && let Some(before) = paid.checked_sub(Duration::from_secs_f64(items as f64 / rate as f64))
        {
            *paid = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn over_a_while_the_rate_holds() {
        let begun = Instant::now();
        let mut limit = RateLimit::new(Some(1000));
        for _ in 0..100 {
            let wait = limit.take(Instant::now(), 250);
            tokio::time::sleep(wait).await;
        }
        let took = begun.elapsed().as_secs_f64();
        assert!((23.0..26.0).contains(&took), "25,000 items at 1,000 a second took {took} s");
        assert_eq!(RateLimit::new(None).take(begun, u64::MAX), Duration::ZERO);
    }
}
