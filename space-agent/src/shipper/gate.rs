//! Who may hand bytes to QUIC: the most urgent lane that has any, and what is not late within it.
//!
//! QUIC sends its most urgent stream first, but what it takes of all streams together is bounded by its send window. A bulk
//! segment keeps that full, and a stream that comes later is let in only as the window drains, in no order. So a writer waits
//! before each piece while a more urgent one is at work.

use std::collections::BTreeMap;

use perigee_shared::segment::Lane;
use tokio::sync::watch;

/// A lane, and whether what is written goes behind the rest of it.
type Rank = (Lane, bool);

/// Writers at work.
type Writers = BTreeMap<Rank, usize>;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Gate(watch::Sender<Writers>);

/// A writer at work.
#[derive(Debug)]
pub(super) struct Turn {
    rank: Rank,
    gate: watch::Sender<Writers>,
    writers: watch::Receiver<Writers>,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Writers::new()))
    }

    /// A writer of `lane` begins, behind the rest of it if `late`; it ends when it is dropped.
    pub(super) fn enter(&self, lane: Lane, late: bool) -> Turn {
        let rank = (lane, late);
        self.0.send_modify(|writers| *writers.entry(rank).or_default() += 1);
        Turn { rank, gate: self.0.clone(), writers: self.0.subscribe() }
    }
}

impl Turn {
    /// Ends when nothing more urgent is at work.
    pub(super) async fn wait(&mut self) {
        let rank = self.rank;
        let ours = |writers: &Writers| writers.keys().next().is_none_or(|most_urgent| *most_urgent >= rank);
        // The sender is here, so it is not gone.
        drop(self.writers.wait_for(ours).await);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.gate.send_modify(|writers| {
            if let Some(n) = writers.get_mut(&self.rank) {
                *n -= 1;
                if *n == 0 {
                    writers.remove(&self.rank);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_writer_waits_while_a_more_urgent_one_is_at_work() {
        let gate = Gate::new();
        let soon = Duration::from_millis(1);
        let mut bulk = gate.enter(Lane::BULK, false);
        let mut second = gate.enter(Lane::BULK, false);
        bulk.wait().await;
        let mut alarm = gate.enter(Lane(1), true);
        alarm.wait().await;
        assert!(tokio::time::timeout(soon, bulk.wait()).await.is_err());
        assert!(tokio::time::timeout(soon, second.wait()).await.is_err());
        drop(alarm);
        let mut late = gate.enter(Lane::BULK, true);
        bulk.wait().await;
        second.wait().await;
        assert!(tokio::time::timeout(soon, late.wait()).await.is_err());
        drop((bulk, second));
        late.wait().await;
    }
}
