//! The pace of a scrub: what lies in a store is read and verified now and then, no faster than it may, so that damage is found
//! before it is needed.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// How long after the start the first round begins, at most: a program that is started once a day is scrubbed too.
const FIRST: Duration = Duration::from_secs(600);

/// What one step has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    /// Bytes that were read.
    pub bytes: u64,
    /// The round is done.
    pub finished: bool,
}

/// Goes round until `stop`, or until `step` answers `None` because the store has ended: a round begins every `interval` (zero:
/// never) and reads at most `rate` bytes a second.
pub async fn rounds<F: Future<Output = Option<Step>>>(
    interval: Duration,
    rate: u64,
    stop: CancellationToken,
    mut step: impl FnMut() -> F,
) {
    if interval.is_zero() || rate == 0 {
        return;
    }
    let work = async {
        let mut next = Instant::now() + interval.min(FIRST);
        loop {
            sleep_until(next).await;
            loop {
                let Some(Step { bytes, finished }) = step().await else { return };
                if finished {
                    break;
                }
                sleep(Duration::from_secs_f64(bytes as f64 / rate as f64)).await;
            }
            next += interval;
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = work => {}
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_round_keeps_its_pace_and_the_next_begins_an_interval_later() {
        let began = Instant::now();
        let (day, times) = (Duration::from_secs(86_400), Cell::new(Vec::new()));
        rounds(day, 1000, CancellationToken::new(), || {
            let mut all = times.take();
            all.push(began.elapsed());
            let number = all.len();
            times.set(all);
            // Three steps a round, two rounds.
            async move { (number <= 6).then_some(Step { bytes: 5000, finished: number % 3 == 0 }) }
        })
        .await;
        let seconds: Vec<u64> = times.take().iter().map(Duration::as_secs).collect();
        assert_eq!(seconds, [600, 605, 610, 87_000, 87_005, 87_010, 173_400]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_interval_is_no_scrub() {
        rounds(Duration::ZERO, 1, CancellationToken::new(), || async { panic!("a step") }).await;
    }
}
