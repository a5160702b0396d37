//! quinn's knobs, all in one place. The values come from measurements on simulated and emulated links (docs/figures.md, "The link").

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::{CryptoError, HmacKey};
use quinn::{AckFrequencyConfig, EndpointConfig, IdleTimeout, TransportConfig, VarInt};
use quinn_proto::{ConnectionIdGenerator, HashedConnectionIdGenerator};

use super::rate::{Known, RateConfig};

/// UDP payload of a packet where the link is known: an MTU of 1,500 less IPv6, UDP and a little for tunnels.
pub const MTU: u16 = 1452;

/// Segment streams that the agent may have open at once. One counts from its first byte until its end has been read and the
/// agent has heard of that, so that many small segments in one round trip need many.
pub const MAX_SEGMENT_STREAMS: u32 = 128;

/// What the agent may have written and not had acknowledged: at most, since it is memory on board, and at least, two pieces that
/// are handed to QUIC at once. More than the link holds is only sent again after LOS.
const MAX_SEND_WINDOW: u64 = 32 << 20;
const MIN_SEND_WINDOW: u64 = 64 << 10;

/// Packets after which an acknowledgement is sent where the return has room for any number.
const ACK_EVERY: f64 = 10.0;

/// UDP payload of an acknowledgement, with what else travels with some of them.
const ACK_BYTES: f64 = 50.0;

/// Acknowledgements take this share of the return at most, while the window allows it.
const ACK_SHARE: f64 = 0.5;

/// Packets that may be unacknowledged are so many times those after which an acknowledgement is sent, at least: below that the
/// sender stands still between acknowledgements.
const ACKS_IN_WINDOW: f64 = 8.0;

/// Attempts to connect after which the next are half as frequent.
const OVERLAPPING_ATTEMPTS: u32 = 16;

/// Attempts are never rarer than this because of those that failed.
const RARE_ATTEMPTS: Duration = Duration::from_secs(2);

/// What a handshake takes of the return: the ground's certificate and its proof.
const HANDSHAKE_BYTES: f64 = 1_700.0;

/// UDP payload of the packet that begins a handshake (RFC 9000, section 14.1).
const FIRST_PACKET: f64 = 1_200.0;

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

    /// So many bytes on the return take this long.
    fn on_return(&self, bytes: f64) -> Duration {
        time_of(bytes, self.rate_up)
    }

    /// The packet that begins a handshake takes this long on its way to the ground.
    fn first_packet(&self) -> Duration {
        time_of(FIRST_PACKET, self.rate_down)
    }

    /// Packets after which the ground acknowledges, when the rate is known.
    fn ack_threshold(&self) -> Option<u32> {
        let rate = self.rate_down? as f64;
        let packets = rate / 8.0 / f64::from(MTU);
        let in_window = packets * self.rtt().as_secs_f64() * 1.25;
        let affordable = self.rate_up.map_or(ACK_EVERY, |up| {
            let acks = (up as f64 / 8.0 * ACK_SHARE / ACK_BYTES).max(1.0);
            (packets / acks).max(ACK_EVERY)
        });
        Some(affordable.min(in_window / ACKS_IN_WINDOW).max(1.0) as u32)
    }

    /// The congestion controller's view, when the rate is known.
    fn rate(&self) -> Option<RateConfig> {
        let rate = self.rate_down.filter(|rate| *rate > 0)?;
        let held_back = f64::from(self.ack_threshold()?) * f64::from(MTU) * 8.0 / rate as f64;
        let ack_delay = Duration::from_secs_f64(held_back) + self.on_return(ACK_BYTES);
        Some(RateConfig { rate, rtt: self.rtt(), ack_delay })
    }
}

fn time_of(bytes: f64, rate: Option<u64>) -> Duration {
    let seconds = rate.filter(|rate| *rate > 0).map_or(0.0, |rate| bytes * 8.0 / rate as f64);
    Duration::from_secs_f64(seconds)
}

/// Between two attempts to connect around AOS: one round trip with a handshake on the return, at least 80 ms. An attempt that is
/// lost must not be waited for, since QUIC doubles its own retry each time. On a thin link more of them would fill it.
fn attempt_interval(shape: &LinkShape) -> Duration {
    let round_trip = shape.rtt().mul_f64(0.9) + shape.first_packet() + shape.on_return(HANDSHAKE_BYTES);
    round_trip.max(Duration::from_millis(80))
}

/// How long to wait before attempt number `n`, from 0. Where none of the first ones has succeeded, the station is not there
/// though the plan says so: then they become rare, so that a pass that does not happen costs little.
pub fn attempt_pause(shape: &LinkShape, n: u32) -> Duration {
    let interval = attempt_interval(shape);
    let rare = interval * 2u32.pow((n / OVERLAPPING_ATTEMPTS).min(8));
    rare.min(interval.max(RARE_ATTEMPTS))
}

/// When nothing comes for so long, the signal is lost. Both sides keep a link alive that has nothing to say, three times in it.
pub fn idle_timeout(rtt: Duration) -> Duration {
    (rtt * 2 + Duration::from_secs(3)).min(Duration::from_secs(30))
}

fn common(rtt: Duration, idle: Duration) -> TransportConfig {
    let mut config = TransportConfig::default();
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

/// The agent's side. Where the contact names a rate, the window follows from it and nothing is searched for; else Cubic and MTU
/// discovery find out.
/// Through what comes with it a contact whose rate changes says so while the connection is up.
pub fn agent(shape: &LinkShape) -> (Arc<TransportConfig>, Option<Known>) {
    // QUIC sends again what begins a handshake after three times what it expects of the round trip.
    let mut config = common(shape.rtt() + shape.first_packet(), idle_timeout(shape.rtt()));
    let (mut window, mut known) = (2 << 20, None);
    if let (Some(rate), Some(threshold)) = (shape.rate(), shape.ack_threshold()) {
        window = send_window(&rate);
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(VarInt::from_u32(threshold));
        config
            .congestion_controller_factory(Arc::new(known.insert(Known::new(rate)).clone()))
            .initial_mtu(MTU)
            .mtu_discovery_config(None)
            .ack_frequency_config(Some(acks));
    }
    config
        .send_window(window)
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .receive_window(VarInt::from_u32(1 << 20))
        .stream_receive_window(VarInt::from_u32(1 << 20));
    (Arc::new(config), known)
}

/// QUIC keeps what lies above a packet that was lost until that one has been acknowledged, a round trip later for each time that
/// it was lost: with less the pipe would run dry.
fn send_window(rate: &RateConfig) -> u64 {
    (rate.window(rate.rtt) * 4).clamp(MIN_SEND_WINDOW, MAX_SEND_WINDOW)
}

/// The contact of a connection that is up has another shape now.
pub fn reshape(connection: &quinn::Connection, known: &Known, shape: &LinkShape) {
    if let Some(rate) = shape.rate() {
        known.set(rate);
        connection.set_send_window(send_window(&rate));
    }
}

/// The ground's side: `buffer` bounds the bytes that one connection may have sent and the ground not yet taken. The ground does
/// not know the contact before the handshake, so the window is for the longest link that it serves.
pub fn ground(buffer: u64) -> Arc<TransportConfig> {
    let mut config = common(LinkShape::default().rtt(), Duration::from_secs(30));
    let window = VarInt::from_u64(buffer).unwrap_or(VarInt::MAX);
    config
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_SEGMENT_STREAMS))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .receive_window(window)
        .stream_receive_window(window)
        .send_window(1 << 20);
    Arc::new(config)
}

/// Signs the tokens by which a ground that was killed and started again makes satellites give up their old connections.
struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // blake3 compares hashes in constant time.
        let signature = <[u8; blake3::OUT_LEN]>::try_from(signature).map_err(|_| CryptoError)?;
        (blake3::keyed_hash(&self.0, data) == blake3::Hash::from(signature)).then_some(()).ok_or(CryptoError)
    }
}

/// An endpoint that is the same one after a restart: it knows the connection ids that it gave out before, and answers packets of
/// connections that it no longer has with a stateless reset. `secret` must stay the same and be known to nobody else.
pub fn lasting_endpoint(secret: [u8; 32]) -> EndpointConfig {
    let ids = blake3::derive_key("perigee 2026 QUIC connection ids", &secret);
    let ids = u64::from_le_bytes(std::array::from_fn(|n| ids[n]));
    let mut config = EndpointConfig::new(Arc::new(ResetKey(secret)));
    config.cid_generator(move || -> Box<dyn ConnectionIdGenerator> {
        Box::new(HashedConnectionIdGenerator::from_key(ids))
    });
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(rate_down: u64, rate_up: u64, one_way_ms: u64) -> LinkShape {
        let light_time = Some(Duration::from_millis(one_way_ms));
        LinkShape { rate_down: Some(rate_down), rate_up: Some(rate_up), light_time }
    }

    #[test]
    fn a_lost_signal_is_noticed_in_three_seconds_and_two_round_trips() {
        let of = |one_way_ms| idle_timeout(shape(2_000_000, 64_000, one_way_ms).rtt());
        let rtt = |one_way_ms| shape(2_000_000, 64_000, one_way_ms).rtt();
        for one_way_ms in [5, 20, 300, 1300] {
            assert_eq!(of(one_way_ms), Duration::from_secs(3) + 2 * rtt(one_way_ms));
        }
        assert!(of(5) < Duration::from_millis(3_500));
    }

    #[test]
    fn acknowledgements_are_rare_on_a_thin_return_and_at_least_eight_in_a_window() {
        let wide = shape(20_000_000, 1_000_000, 20);
        assert_eq!(wide.ack_threshold(), Some(10));
        let thin = shape(20_000_000, 64_000, 20);
        let threshold = thin.ack_threshold().unwrap();
        assert!((14..=18).contains(&threshold), "{threshold}");
        let rate = thin.rate().unwrap();
        assert!(u64::from(threshold) * 8 * u64::from(MTU) <= rate.window(rate.rtt));
        assert_eq!(shape(64_000, 64_000, 20).ack_threshold(), Some(1));
        assert_eq!(LinkShape::default().ack_threshold(), None);
    }

    #[test]
    fn attempts_wait_for_a_handshake_on_a_thin_return() {
        assert_eq!(attempt_interval(&LinkShape::default()), Duration::from_millis(90));
        assert!(attempt_interval(&shape(20_000_000, 64_000, 2)) > Duration::from_millis(230));
        assert!(attempt_interval(&shape(20_000_000, 1_000_000, 1300)) > Duration::from_millis(2300));
    }

    #[test]
    fn attempts_become_rare_when_nobody_answers() {
        let leo = shape(20_000_000, 1_000_000, 2);
        assert_eq!(attempt_pause(&leo, 15), attempt_interval(&leo));
        assert_eq!(attempt_pause(&leo, 16), attempt_interval(&leo) * 2);
        assert_eq!(attempt_pause(&leo, u32::MAX), RARE_ATTEMPTS);
        let moon = shape(20_000_000, 1_000_000, 1300);
        assert_eq!(attempt_pause(&moon, u32::MAX), attempt_interval(&moon));
    }

    #[test]
    fn a_reset_token_is_the_same_for_the_same_secret_only() {
        let sign = |secret| {
            let mut out = [0; 32];
            ResetKey([secret; 32]).sign(b"connection", &mut out);
            out
        };
        assert_eq!(sign(1), sign(1));
        assert_ne!(sign(1), sign(2));
        assert!(ResetKey([1; 32]).verify(b"connection", &sign(1)).is_ok());
        assert!(ResetKey([1; 32]).verify(b"connection", &sign(2)).is_err());
        assert!(ResetKey([1; 32]).verify(b"connection", &[0; 4]).is_err());
    }
}
