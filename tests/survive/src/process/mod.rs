//! Real processes on real file systems.
//!
//! [`Rig`](rig::Rig) is one satellite and one station with their files; [`volume`] is a file system that fails; [`runs`] are the
//! faults, [`shared`] those of a ledger in PostgreSQL. A process that ends is started again, as a service manager does it.

pub mod load;

pub mod shared;

pub mod rig;

pub mod runs;

pub mod volume;

pub use runs::{Fault, all, run};
