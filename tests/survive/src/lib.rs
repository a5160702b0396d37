//! Disks and files as they go wrong, for both stores.
//!
//! Every run writes a [`history`]: what was accepted, refused, committed, exported and dropped, what the harness itself
//! destroyed, and what happened to whom. One checker ([`check()`]) judges histories and knows nothing else.
//!
//! Runs with a disk in memory ([`faults`], [`campaign`]) drive the two stores directly, each through one adapter ([`board`],
//! [`station`]); what happens in a run is in [`flight`]. Runs with real processes and real file systems are in [`process`].

pub mod history;

pub mod telemetry;

pub mod check;

pub mod row;

pub mod world;

pub mod subject;

pub mod board;

pub mod station;

pub mod flight;

pub mod damage;

pub mod faults;

pub mod campaign;

pub mod process;

pub mod programs;

pub use campaign::Campaign;
pub use check::{Verdict, check};
pub use history::{Event, History, Side};
pub use row::Row;
