//! What the log has about stations that are not reached: each reason once, then rarely, however often it is met.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// The same is said again after this time.
const AGAIN: Duration = Duration::from_secs(3600);

/// Reasons of one station that are remembered: the one that was said first goes.
const REASONS: usize = 8;

/// When which reason was said of each station. Numbers in it are left out: a time or a count makes no other reason.
#[derive(Debug, Default)]
pub(super) struct Said(BTreeMap<String, Vec<(String, Instant)>>);

impl Said {
    /// Whether the log may have a line that says `text` about `station`.
    pub(super) fn may_say(&mut self, station: &str, text: &str) -> bool {
        let now = Instant::now();
        let reason: String = text.chars().filter(|c| !c.is_ascii_digit()).collect();
        let said = self.0.entry(station.to_owned()).or_default();
        said.retain(|(_, at)| now.duration_since(*at) < AGAIN);
        if said.iter().any(|(other, _)| *other == reason) {
            return false;
        }
        if said.len() == REASONS {
            said.remove(0);
        }
        said.push((reason, now));
        true
    }

    /// What was said of `station` is new again.
    pub(super) fn forget(&mut self, station: &str, text: &str) {
        if let Some(said) = self.0.get_mut(station) {
            said.retain(|(other, _)| other != text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_reason_is_said_once_an_hour_and_another_at_once() {
        let mut said = Said::default();
        let mut told = Vec::new();
        for second in 0..7300 {
            if said.may_say("svalbard", "no answer") {
                told.push(second);
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(told, [0, 3600, 7200]);
        assert!(said.may_say("kourou", "no answer"));
        for second in 0..100 {
            // Two ways to say one thing, and the time in one of them.
            assert_eq!(said.may_say("svalbard", "refused: aborted by peer"), second == 0);
            assert_eq!(said.may_say("svalbard", &format!("refused: it is 12:00:{second} here")), second == 0);
        }
        said.forget("svalbard", "refused: aborted by peer");
        assert!(said.may_say("svalbard", "refused: aborted by peer"));
    }
}
