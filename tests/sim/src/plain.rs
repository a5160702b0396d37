//! QUIC without the one part of a handshake whose size is random: the transport parameter that exists to be ignored.
//!
//! quinn takes it from unseeded randomness. The client's goes unseen, since its first packet is padded; the ground's would make
//! the size of its answer another one in each run.

use std::sync::Arc;

use quinn::ConnectionId;
use quinn::crypto::{Keys, ServerConfig, Session, UnsupportedVersion};
use quinn_proto::Side;
use quinn_proto::transport_parameters::TransportParameters;

/// A server whose transport parameters are the same in each run.
pub(crate) struct Plain(pub(crate) Arc<dyn ServerConfig>);

impl ServerConfig for Plain {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.0.initial_keys(version, dst_cid)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.0.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, params: &TransportParameters) -> Box<dyn Session> {
        let inner: Arc<dyn ServerConfig> = Arc::clone(&self.0);
        inner.start_session(version, &without_grease(params))
    }
}

/// What is unknown is not read, and what was read is written in the order of the numbers.
fn without_grease(params: &TransportParameters) -> TransportParameters {
    let mut bytes = Vec::new();
    params.write(&mut bytes);
    TransportParameters::read(Side::Client, &mut bytes.as_slice()).unwrap_or(*params)
}
