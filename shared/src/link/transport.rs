//! quinn's knobs, all in one place. The values come from measurements on emulated links (README, "The link").

use std::sync::Arc;
use std::time::Duration;

use quinn::{IdleTimeout, TransportConfig, VarInt};

/// What is known of a link before it is up.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LinkShape {
    /// From the satellite to the ground, bit/s.
    pub rate_down: Option<u64>,
    /// From the ground to the satellite, bit/s.
    pub rate_up: Option<u64>,
    /// One way.
    pub light_time: Option<Duration>,
}

impl LinkShape {
    /// The round trip to expect; a low orbit when nothing is known.
    pub fn rtt(&self) -> Duration {
        self.light_time.map_or(Duration::from_millis(100), |one_way| one_way * 2 + Duration::from_millis(20))
    }

    /// Bytes in flight when the link is full.
    fn bdp(&self) -> Option<u64> {
        let bytes = self.rate_down? as f64 / 8.0 * self.rtt().as_secs_f64();
        Some(bytes as u64)
    }
}

/// Segment streams that the agent may have open at once.
pub const MAX_SEGMENT_STREAMS: u32 = 16;

/// Between two attempts to connect around AOS: one round trip, at least 80 ms. An attempt that is lost must not be waited for,
/// since QUIC doubles its own retry each time.
pub fn attempt_interval(shape: &LinkShape) -> Duration {
    shape.rtt().mul_f64(0.9).max(Duration::from_millis(80))
}

fn idle_timeout(rtt: Duration) -> Duration {
    (rtt * 6 + Duration::from_secs(8)).min(Duration::from_secs(30))
}

fn common(rtt: Duration) -> TransportConfig {
    let mut config = TransportConfig::default();
    let idle = idle_timeout(rtt);
    config
        .max_idle_timeout(Some(
            IdleTimeout::try_from(idle).unwrap_or_else(|_| VarInt::from_u32(30_000).into()),
        ))
        .keep_alive_interval(Some(idle / 3))
        .initial_rtt(rtt)
        // Every segment has a priority of its own, so that nothing is sent at equal shares: parallel segments would all end as
        // partials at LOS. Without fairness a stream that has begun would keep what is more urgent waiting until it is empty.
        .send_fairness(true)
        .datagram_receive_buffer_size(None);
    config
}

/// The agent's side.
pub fn agent(shape: &LinkShape) -> Arc<TransportConfig> {
    let mut config = common(shape.rtt());
    // Twice what the link holds, so that the pipe stays full while acknowledgements travel; bounded by memory on board.
    let window = shape.bdp().map_or(2 << 20, |bdp| (bdp * 2).clamp(1 << 20, 16 << 20));
    config
        .send_window(window)
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .receive_window(VarInt::from_u32(1 << 20))
        .stream_receive_window(VarInt::from_u32(1 << 20));
    Arc::new(config)
}

/// The ground's side: `buffer` bounds the bytes that one connection may have sent and the ground not yet taken.
pub fn ground(buffer: u64) -> Arc<TransportConfig> {
    let mut config = common(LinkShape::default().rtt());
    let window = VarInt::from_u64(buffer).unwrap_or(VarInt::MAX);
    config
        .max_idle_timeout(Some(
            IdleTimeout::try_from(Duration::from_secs(30)).unwrap_or_else(|_| VarInt::MAX.into()),
        ))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_SEGMENT_STREAMS))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .receive_window(window)
        .stream_receive_window(window)
        .send_window(1 << 20);
    Arc::new(config)
}
