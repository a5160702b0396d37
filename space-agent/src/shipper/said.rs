//! What the log has about stations that are not reached: each reason once, then rarely, however often it is met.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// The same is said again after this time.
const AGAIN: Duration = Duration::from_secs(3600);

/// The last line about each station.
#[derive(Debug, Default)]
pub(super) struct Said(BTreeMap<String, (String, Instant)>);

impl Said {
    /// Whether the log may have a line that says `text` about `station`.
    pub(super) fn may_say(&mut self, station: &str, text: &str) -> bool {
        let now = Instant::now();
        if self.0.get(station).is_some_and(|(last, at)| last == text && now.duration_since(*at) < AGAIN) {
            return false;
        }
        self.0.insert(station.to_owned(), (text.to_owned(), now));
        true
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
        assert!(said.may_say("svalbard", "refused") && said.may_say("svalbard", "no answer"));
    }
}
