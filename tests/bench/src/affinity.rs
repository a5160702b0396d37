//! Which core a thread, and what it starts, runs on.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps this thread, and threads and processes that it starts later, on `core`; says so when that cannot be.
pub(crate) fn pin_this_thread(core: usize) {
    let mut set = CpuSet::new();
    let pinned = set.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    if let Err(e) = pinned {
        eprintln!("bench: cannot run on core {core} alone ({e}): figures are not comparable");
    }
}
