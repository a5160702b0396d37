//! How often the log has a line about a failure that goes on: at once, then once a minute with how often it came.

use std::time::Duration;

use tokio::time::Instant;

/// The same is said again after this time.
const AGAIN: Duration = Duration::from_secs(60);

/// Failures that are told apart: the one that was said first goes.
const MOST: usize = 8;

/// The failures that the log had a line about lately.
#[derive(Debug, Default)]
pub struct Repeats(Vec<Said>);

#[derive(Debug)]
struct Said {
    what: String,
    at: Instant,
    /// How often it came since then.
    passed_over: u64,
}

impl Repeats {
    /// Counts one more failure. `Some`: the log may have a line about it now, and this is how often it came since the last one.
    /// Digits in `what` are left out: a number makes no other failure.
    #[inline(never)]
    pub fn count(&mut self, what: &str) -> Option<u64> {
        let now = Instant::now();
        let what: String = what.chars().filter(|c| !c.is_ascii_digit()).collect();
        if let Some(said) = self.0.iter_mut().find(|said| said.what == what) {
            said.passed_over += 1;
            if now.saturating_duration_since(said.at) < AGAIN {
                return None;
            }
            said.at = now;
            return Some(std::mem::take(&mut said.passed_over));
        }
        if self.0.len() == MOST {
            self.0.remove(0);
        }
        self.0.push(Said { what, at: now, passed_over: 0 });
        Some(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_goes_on_is_said_at_once_and_then_once_a_minute_with_its_count() {
        let mut repeats = Repeats::default();
        let mut said = Vec::new();
        for half in 0..300 {
            if let Some(times) = repeats.count(&format!("page {half} cannot be written")) {
                said.push((half / 2, times));
            }
            tokio::time::advance(Duration::from_millis(500)).await;
        }
        assert_eq!(said, [(0, 1), (60, 120), (120, 120)]);
        assert_eq!(repeats.count("the disk is full"), Some(1), "another failure does not wait");
        assert_eq!(repeats.count("the disk is full"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn few_failures_are_remembered() {
        let mut repeats = Repeats::default();
        for letter in "abcdefghijklmnop".chars() {
            assert_eq!(repeats.count(&letter.to_string()), Some(1));
        }
        assert_eq!(repeats.0.len(), MOST);
    }
}
