//! Processor time of this thread: what others do on the machine does not count.

use nix::time::{ClockId, clock_gettime};

/// A reading of the thread's processor clock.
pub(crate) struct CpuTime(f64);

impl CpuTime {
    pub(crate) fn now() -> Self {
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
            .map_or(0.0, |t| t.tv_sec() as f64 + t.tv_nsec() as f64 / 1e9);
        Self(time)
    }

    /// Processor seconds since then.
    pub(crate) fn elapsed(&self) -> f64 {
        Self::now().0 - self.0
    }
}
