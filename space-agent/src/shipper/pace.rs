//! How fast bytes are handed to QUIC, where the contact says what its link carries.
//!
//! The congestion controller bounds what is under way by rate and round trip. Where that is next to nothing, as on a bench or in a test
//! on one machine, the few packets that are always allowed carry many times the rate. So what goes into the streams is bounded too.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use perigee_shared::link::rate::Known;
use tokio::time::Instant;

/// What may go in at once, as time on the link: so much waits in QUIC for whatever holds up this program.
const AHEAD: Duration = Duration::from_millis(250);

/// What goes in as one piece: at most so much, and as time on the link; what is more urgent and comes later waits for no more.
const PIECE: u64 = 32 << 10;
const PIECE_TIME: f64 = 0.1;

/// Below this pieces would be mostly headers.
const LEAST: u64 = 1 << 10;

/// See the module. Writers of one connection share it.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    /// `None`: nobody knows what the link carries, and QUIC finds out.
    known: Option<Known>,
    /// When what was handed over until now has gone.
    gone: Arc<Mutex<Instant>>,
}

impl Pace {
    pub(super) fn new(known: Option<Known>) -> Self {
        Self { known, gone: Arc::new(Mutex::new(Instant::now())) }
    }

    /// How long a piece of the `left` bytes may be handed over now, or when to ask again: who is more urgent by then goes first.
    pub(super) fn take(&self, left: u64) -> Result<u64, Instant> {
        let Some(known) = &self.known else { return Ok(left.min(PIECE)) };
        let bytes_a_second = (known.get().rate as f64 / 8.0).max(1.0);
        let (now, mut gone) = (Instant::now(), self.gone.lock().unwrap_or_else(PoisonError::into_inner));
        if *gone > now + AHEAD {
            return Err(*gone - AHEAD);
        }
        let piece = left.min(PIECE).min(((bytes_a_second * PIECE_TIME) as u64).max(LEAST));
        *gone = (*gone).max(now) + Duration::from_secs_f64(piece as f64 / bytes_a_second);
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use perigee_shared::link::rate::RateConfig;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_goes_in_than_the_contact_carries() {
        for rate in [9_600, 300_000, 20_000_000] {
            let config = RateConfig { rate, rtt: Duration::ZERO, ack_delay: Duration::ZERO };
            let known = Known::new(config);
            let pace = Pace::new(Some(known.clone()));
            let sent_in = async |seconds| {
                let (end, mut sent) = (Instant::now() + Duration::from_secs(seconds), 0);
                while Instant::now() < end {
                    match pace.take(u64::MAX) {
                        Ok(piece) => sent += piece,
                        Err(again) => tokio::time::sleep_until(again).await,
                    }
                }
                sent as f64 * 8.0 / rate as f64
            };
            let first = sent_in(10).await;
            assert!((10.0..11.5).contains(&first), "{rate}: {first} s of bytes in 10 s");
            // What was not used is not saved up.
            tokio::time::advance(Duration::from_secs(60)).await;
            let later = sent_in(10).await;
            assert!((10.0..11.5).contains(&later), "{rate}: {later}");
            known.set(RateConfig { rate: rate / 2, ..config });
            let slower = sent_in(10).await;
            assert!((4.5..6.0).contains(&slower), "{rate}: {slower}");
        }
    }
}
