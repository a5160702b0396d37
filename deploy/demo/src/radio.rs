//! The radio link: a UDP proxy with the rate and the delay of one, which breaks when it is told to.

use std::net::SocketAddr;
use std::time::Duration;

use linkem::{Config, Link, Path};

/// bit/s from the satellite, datagrams' headers included.
const DOWN: u64 = 512_000;
/// bit/s to the satellite.
const UP: u64 = 256_000;
/// What the contacts say: a little less, so that the queue before the radio stays short.
pub(crate) const RATE_DOWN: u64 = 480_000;
/// Light and electronics.
const DELAY: Duration = Duration::from_millis(20);

/// The link to the ground station that listens on `to`.
pub(crate) async fn start(to: SocketAddr) -> std::io::Result<Link> {
    let path = |rate| Path { rate: Some(rate), delay: DELAY, ..Path::default() };
    Link::start(Config { forward: path(DOWN), back: path(UP), ..Config::perfect(to) }).await
}
