//! Agents and grounds in one virtual time over a simulated network: weeks of passes in seconds.
//!
//! Both are unchanged product code in environments of the simulation's own: a clock that stands still while anything has work
//! to do and shows what the scenario sets it to, disks in memory, and a [`network`] whose links have contacts, rates, delays, losses and queues. In the order in which
//! things happen: a [`scenario`] says what is simulated, the [`plan`] when contacts are, [`items`] makes telemetry in which every
//! item has an id, [`run`](mod@run) goes through time, [`history`] notes what went in and came out, the packet [`log`] is checked against
//! the link's rules, the [`account`] says where every item is, and the [`report`] and the [`picture`] show it.

pub mod scenario;

pub mod plan;

pub mod items;

pub mod log;

mod plain;

pub mod network;

mod certificates;

mod clock;

pub mod history;

mod node;

pub mod account;

pub mod picture;

pub mod report;

pub mod run;

pub use report::Report;
pub use run::{Options, run};
pub use scenario::Scenario;
