//! What the end-to-end tests share: both programs as real processes on free ports, clients that keep a ledger of what was
//! acknowledged, and a sink that says what arrived.
//!
//! A [`Scene`] is a temporary directory with certificates; [`Agent`] and [`Ground`] are processes in it. Their configurations
//! are JSON values, which are YAML too, so that a test changes what it is about and nothing else.

#![allow(clippy::unwrap_used, reason = "a test harness: what goes wrong ends the test")]

mod agent;
mod backend;
mod ground;
pub mod hostile;
pub mod hostile_station;
mod items;
mod plant;
mod process;
mod scene;
mod sender;
mod terminal;
mod wait;
pub mod wire;

pub use agent::Agent;
pub use backend::{Backend, Never};
pub use ground::{Ground, Sink};
pub use items::{Batch, ids_in, now_nano};
pub use plant::{PLANTS, is_planted, plant, planting};
pub use process::{Exit, Process};
pub use scene::{DOMAIN, Programs, SATELLITE, STATION, Scene, free_port};
pub use sender::{Grpc, Ledger, Load, Protocol, Sent};
pub use terminal::{Size, Terminal};
pub use wait::{DEADLINE, eventually, eventually_within, seed, within};
