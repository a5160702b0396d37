//! What space-agent and ground-station must agree on.
//!
//! In the order in which data passes: a [`signal`] arrives as [`otlp`], is kept in a [`segment`], crosses the [`link`] and
//! leaves by [`export`]. Around them: [`config`] and [`units`], the [`env`](mod@env) that programs take from their machine,
//! [`clock`], [`compress`], [`files`], [`memory`], [`serve`] and [`telemetry`]; under the logs of both programs lies the [`store`].

pub mod clock;
pub mod compress;
pub mod config;
pub mod contact;
pub mod control;
pub mod env;
pub mod export;
pub mod files;
pub mod link;
pub mod memory;
pub mod orbit;
pub mod otlp;
pub mod segment;
pub mod serve;
pub mod signal;
pub mod store;
pub mod supervise;
pub mod telemetry;
pub mod units;
