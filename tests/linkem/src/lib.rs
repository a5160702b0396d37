//! A space link on a desk: a UDP proxy with a rate, delay, loss, reordering and outages.
//!
//! Clients send to the address that the link listens on. Each gets a socket of its own towards the server, as behind a NAT, so
//! that several agents may share a link; they share its rate too. A datagram passes, in this order, the queue (drop-tail), the
//! serialiser (link rate), chance (loss) and the way (delay). When the link goes down, what is under way is lost.
//!
//! [`config`] says what a link is like, the channel and the [`emulator`] decide what happens to each datagram without any
//! socket or clock, and [`Link`] moves the datagrams. The same seed gives the same fates to the same datagrams at the same times.

pub mod channel;
pub mod config;
pub mod emulator;
mod link;
mod stats;

pub use config::{Config, Direction, Path, Schedule};
pub use link::Link;
pub use stats::{Dropped, Stats, Traffic};
