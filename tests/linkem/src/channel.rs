//! One direction: what happens to a datagram that is given to it.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::config::Path;

/// What happens to a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is there at that time; `held` when later ones may overtake it.
    Arrives {
        /// When it is there.
        at: Duration,
        /// Later ones may overtake it.
        held: bool,
    },
    /// It is lost by itself.
    Loss,
    /// It is lost in a burst.
    Burst,
    /// The queue has no room for it.
    Queue,
}

/// A direction, with its own luck.
pub struct Channel {
    path: Path,
    rng: SmallRng,
    /// When everything given so far has left the serialiser.
    free_at: Duration,
    in_burst: bool,
}

impl Channel {
    /// A channel that nothing was given to yet.
    pub fn new(path: Path, seed: u64) -> Self {
        Self { path, rng: SmallRng::seed_from_u64(seed), free_at: Duration::ZERO, in_burst: false }
    }

    /// Gives it a datagram of `length` bytes.
    pub fn send(&mut self, now: Duration, length: usize) -> Fate {
        // The same number of draws for each datagram, so that one setting does not change the luck of another.
        let (burst, loss, hold) =
            (self.rng.random::<f64>(), self.rng.random::<f64>(), self.rng.random::<f64>());
        if let Some(rate) = self.path.rate {
            let bits = 8.0 * (length as u64 + self.path.overhead) as f64;
            let waiting = self.free_at.saturating_sub(now).as_secs_f64() * rate as f64;
            let room = 8.0 * self.path.queue.bytes(rate, self.path.delay) as f64;
            if waiting > 0.0 && waiting + bits > room {
                return Fate::Queue;
            }
            self.free_at = self.free_at.max(now) + Duration::from_secs_f64(bits / rate as f64);
        } else {
            self.free_at = now;
        }
        if let Some(setting) = self.path.burst {
            let chance = if self.in_burst { 1.0 - 1.0 / setting.length } else { setting.chance };
            self.in_burst = burst < chance;
            if self.in_burst {
                return Fate::Burst;
            }
        }
        if loss < self.path.loss {
            return Fate::Loss;
        }
        let held = self.path.reorder.filter(|r| hold < r.chance);
        let extra = held.map_or(Duration::ZERO, |r| r.by);
        Fate::Arrives { at: self.free_at + self.path.delay + extra, held: held.is_some() }
    }

    /// Forgets what waits in the queue.
    pub fn clear(&mut self, now: Duration) {
        self.free_at = self.free_at.min(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Burst, Queue, Reorder};

    const MS: Duration = Duration::from_millis(1);

    fn fates(path: &Path, seed: u64, count: usize) -> Vec<Fate> {
        let mut channel = Channel::new(path.clone(), seed);
        (0..count).map(|n| channel.send(MS * n as u32, 972)).collect()
    }

    #[test]
    fn datagrams_leave_one_after_the_other_at_the_rate() {
        let path =
            Path { rate: Some(8_000_000), delay: 20 * MS, queue: Queue::Bytes(1 << 20), ..Path::default() };
        let mut channel = Channel::new(path, 1);
        for n in 1..=5 {
            assert_eq!(
                channel.send(Duration::ZERO, 972),
                Fate::Arrives { at: MS * n + 20 * MS, held: false }
            );
        }
        assert_eq!(channel.send(100 * MS, 972), Fate::Arrives { at: 121 * MS, held: false });
    }

    #[test]
    fn a_full_queue_drops_the_newest_and_an_empty_one_takes_anything() {
        let path = Path { rate: Some(8_000_000), queue: Queue::Bytes(2_500), ..Path::default() };
        let mut channel = Channel::new(path, 1);
        let fates: Vec<_> = (0..4).map(|_| channel.send(Duration::ZERO, 972)).collect();
        assert!(matches!(fates[..], [Fate::Arrives { .. }, Fate::Arrives { .. }, Fate::Queue, Fate::Queue]));
        assert!(matches!(channel.send(10 * MS, 9_000), Fate::Arrives { .. }));
    }

    #[test]
    fn the_same_seed_gives_the_same_fates() {
        let path = Path {
            loss: 0.1,
            burst: Some(Burst { chance: 0.01, length: 5.0 }),
            reorder: Some(Reorder { chance: 0.1, by: MS }),
            ..Path::default()
        };
        assert_eq!(fates(&path, 7, 1000), fates(&path, 7, 1000));
        assert_ne!(fates(&path, 7, 1000), fates(&path, 8, 1000));
    }

    #[test]
    fn losses_are_as_frequent_as_set() {
        let path = Path { loss: 0.05, ..Path::default() };
        let lost = fates(&path, 3, 100_000).iter().filter(|f| **f == Fate::Loss).count();
        assert!((4_700..5_300).contains(&lost), "{lost}");
    }

    #[test]
    fn bursts_are_as_long_as_set() {
        let path = Path { burst: Some(Burst { chance: 0.001, length: 20.0 }), ..Path::default() };
        let fates = fates(&path, 5, 1_000_000);
        let lost = fates.iter().filter(|f| **f == Fate::Burst).count();
        let begun = fates.windows(2).filter(|f| f[0] != Fate::Burst && f[1] == Fate::Burst).count();
        let length = lost as f64 / begun as f64;
        assert!((17.0..23.0).contains(&length), "{length}");
    }
}
