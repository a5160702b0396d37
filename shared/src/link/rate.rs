//! A congestion controller for a link whose rate is known: the contact says how many bits a second the radio carries.
//!
//! ```text
//! window = rate × (shortest round trip + what acknowledgements add) × HEADROOM × scale
//! ```
//!
//! What is lost on such a link is noise and not a queue that overflows, so a loss changes nothing. Only when more than
//! [`SUSTAINED`] of the bytes are lost for two periods in turn is the rate taken to be lower than the contact says: `scale`
//! falls, and rises again once the loss is over. quinn sends at 1.25 × window / round trip until the window is full and follows
//! the acknowledgements from there on, so that what may wait in the queue before the radio is never more than the window less
//! what the link itself holds: a quarter of it, and what acknowledgements add.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

/// The window over what the link holds: for packets that are lost and not yet known to be, and for timers of 1 ms.
const HEADROOM: f64 = 1.25;

/// The share of bytes lost above which the rate is taken to be lower than was said.
pub const SUSTAINED: f64 = 0.05;

/// Below this share of bytes lost the rate is tried again.
const QUIET: f64 = 0.02;

/// What `scale` is multiplied by after two periods with sustained loss, and what it grows by in a quiet one.
const BACK_OFF: f64 = 0.85;
const RECOVER: f64 = 0.02;

/// `scale` never falls below this.
const LEAST_SCALE: f64 = 0.05;

/// Loss is judged over at least so many packets, two round trips and this time.
const JUDGED_PACKETS: u64 = 64;
const JUDGED_TIME: Duration = Duration::from_millis(200);

/// Packets that the window always has room for: as many as the link carries in [`LEAST_TIME`], within these bounds. What has left
/// cannot be overtaken, so that on a thin link more of them would keep an alarm waiting.
const LEAST_PACKETS: std::ops::RangeInclusive<f64> = 4.0..=10.0;
const LEAST_TIME: Duration = Duration::from_millis(250);

/// What is known of the link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateConfig {
    /// Bit/s.
    pub rate: u64,
    /// The round trip to expect until it has been measured.
    pub rtt: Duration,
    /// What acknowledgements add to it: how long they are held back, and their own time on a thin return.
    pub ack_delay: Duration,
}

impl RateConfig {
    /// The window for this round trip, in bytes.
    pub fn window(&self, rtt: Duration) -> u64 {
        (self.rate as f64 / 8.0 * (rtt + self.ack_delay).as_secs_f64() * HEADROOM) as u64
    }
}

/// What is known of the link of one connection, which may change while it is up.
#[derive(Debug, Clone)]
pub struct Known(Arc<Mutex<RateConfig>>);

impl Known {
    /// At first this.
    pub(super) fn new(config: RateConfig) -> Self {
        Self(Arc::new(Mutex::new(config)))
    }

    /// What holds now.
    fn get(&self) -> RateConfig {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From the next acknowledgement on this holds.
    pub(super) fn set(&self, config: RateConfig) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }
}

impl ControllerFactory for Known {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Rate::new(Self::clone(&self), now, current_mtu))
    }
}

/// See the module.
#[derive(Debug, Clone)]
struct Rate {
    known: Known,
    config: RateConfig,
    mtu: u64,
    /// The shortest time from a packet to its acknowledgement.
    shortest: Option<Duration>,
    /// Bytes acknowledged, until a first window of them is.
    first_acked: u64,
    scale: f64,
    window: u64,
    period: Period,
    /// The period before had sustained loss.
    lossy: bool,
}

#[derive(Debug, Clone)]
struct Period {
    began: Instant,
    acked: u64,
    lost: u64,
}

impl Rate {
    fn new(known: Known, now: Instant, mtu: u16) -> Self {
        let mut rate = Self {
            config: known.get(),
            known,
            mtu: mtu.into(),
            shortest: None,
            first_acked: 0,
            scale: 1.0,
            window: 0,
            period: Period { began: now, acked: 0, lost: 0 },
            lossy: false,
        };
        rate.refresh();
        rate
    }

    /// The round trip that the window is made for. What the handshake shows is longer than the link's where the return is thin,
    /// so that it counts only once a first window of data has been acknowledged.
    fn rtt(&self) -> Duration {
        match self.shortest {
            Some(shortest) if self.first_acked >= self.config.window(self.config.rtt) => shortest,
            Some(shortest) => shortest.min(self.config.rtt),
            None => self.config.rtt,
        }
    }

    fn refresh(&mut self) {
        let window = self.config.window(self.rtt()) as f64 * self.scale;
        let packets = self.config.rate as f64 / 8.0 * LEAST_TIME.as_secs_f64() / self.mtu as f64;
        let least = packets.clamp(*LEAST_PACKETS.start(), *LEAST_PACKETS.end()) * self.mtu as f64;
        self.window = window.max(least) as u64;
    }

    fn judge(&mut self, now: Instant) {
        let Period { began, acked, lost } = self.period;
        let long_enough = now.saturating_duration_since(began) >= (self.rtt() * 2).max(JUDGED_TIME);
        if !long_enough || acked + lost < JUDGED_PACKETS * self.mtu {
            return;
        }
        let share = lost as f64 / (acked + lost) as f64;
        let lossy = share > SUSTAINED;
        if lossy && self.lossy {
            self.scale = (self.scale * BACK_OFF).max(LEAST_SCALE);
        } else if share < QUIET {
            self.scale = (self.scale + RECOVER).min(1.0);
        }
        self.lossy = lossy;
        self.period = Period { began: now, acked: 0, lost: 0 };
    }
}

impl Controller for Rate {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _: bool, _: &RttEstimator) {
        let took = now.saturating_duration_since(sent);
        self.shortest = Some(self.shortest.map_or(took, |shortest| shortest.min(took)));
        self.first_acked = self.first_acked.saturating_add(bytes);
        self.period.acked += bytes;
    }

    fn on_end_acks(&mut self, now: Instant, _: u64, _: bool, _: Option<u64>) {
        let config = self.known.get();
        if config != self.config {
            (self.config, self.scale) = (config, 1.0);
        }
        self.judge(now);
        self.refresh();
    }

    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, lost_bytes: u64) {
        self.period.lost += lost_bytes;
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
        self.refresh();
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.window
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn config() -> RateConfig {
        RateConfig { rate: 20_000_000, rtt: 60 * MS, ack_delay: Duration::ZERO }
    }

    /// A period of two round trips in which this share of the bytes is lost.
    fn period(rate: &mut Rate, now: &mut Instant, share: f64) {
        *now += 1000 * MS;
        let bytes = 1_000_000.0;
        rate.period.acked += (bytes * (1.0 - share)) as u64;
        rate.on_congestion_event(*now, *now, false, (bytes * share) as u64);
        rate.on_end_acks(*now, 0, false, None);
    }

    #[test]
    fn a_rate_that_is_planned_anew_holds_from_the_next_acknowledgement_on() {
        let (now, known) = (tokio::time::Instant::now().into_std(), Known::new(config()));
        let mut rate = Rate::new(known.clone(), now, 1452);
        let before = rate.window();
        known.set(RateConfig { rate: 2_000_000, ..config() });
        assert_eq!(rate.window(), before);
        rate.on_end_acks(now, 0, false, None);
        assert_eq!(rate.window(), before / 10);
    }

    #[test]
    fn the_window_is_a_quarter_more_than_the_link_holds() {
        let now = tokio::time::Instant::now().into_std();
        let mut rate = Rate::new(Known::new(config()), now, 1452);
        assert_eq!(rate.window(), 187_500);
        rate.shortest = Some(40 * MS);
        rate.first_acked = 1 << 20;
        rate.refresh();
        assert_eq!(rate.window(), 125_000);
    }

    #[test]
    fn a_long_handshake_does_not_widen_the_window() {
        let now = tokio::time::Instant::now().into_std();
        let mut rate = Rate::new(Known::new(config()), now, 1452);
        rate.shortest = Some(200 * MS);
        rate.refresh();
        assert_eq!(rate.window(), 187_500, "the return was busy with certificates");
        rate.first_acked = 1 << 20;
        rate.refresh();
        assert_eq!(rate.window(), 625_000, "it is like that");
    }

    #[test]
    fn only_sustained_loss_makes_it_slower_and_it_comes_back() {
        let mut now = tokio::time::Instant::now().into_std();
        let mut rate = Rate::new(Known::new(config()), now, 1452);
        for _ in 0..100 {
            period(&mut rate, &mut now, 0.03);
        }
        period(&mut rate, &mut now, 0.5);
        period(&mut rate, &mut now, 0.01);
        assert_eq!(rate.scale, 1.0, "a burst is not sustained");
        for _ in 0..10 {
            period(&mut rate, &mut now, 0.1);
        }
        assert!(rate.scale < 0.3 && rate.window() < 60_000, "{}", rate.scale);
        for _ in 0..100 {
            period(&mut rate, &mut now, 0.6);
        }
        assert!(rate.scale >= LEAST_SCALE && rate.window() >= 14_520);
        for _ in 0..100 {
            period(&mut rate, &mut now, 0.0);
        }
        assert_eq!(rate.scale, 1.0);
    }
}
