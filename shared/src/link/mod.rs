//! What both ends of the link share: how messages are framed, who the peer is, and quinn's knobs.

pub mod bounds;
pub mod files;
pub mod ranges;
pub mod rate;
pub mod revocation;
mod slot;
pub mod tls;
pub mod transport;
mod verify;
pub mod wire;

use perigee_proto::link::DropReason;
pub use slot::Slot;

/// The protocol's name in TLS. Another major version is another name.
pub const ALPN: &[u8] = b"perigee/1";

/// The protocol's minor version, for people: what it adds can be ignored.
pub const MINOR_VERSION: u32 = 0;

/// A drop reason's name, as in metrics: `quota_oldest`, `lifetime`, ...
pub fn reason_name(reason: DropReason) -> String {
    reason.as_str_name().trim_start_matches("DROP_REASON_").to_lowercase()
}

/// The first 8 bytes of the BLAKE3 hash of a file, by which Hello tells one configuration or plan from another.
pub fn short_hash(content: &[u8]) -> u64 {
    let hash = blake3::hash(content);
    u64::from_be_bytes(std::array::from_fn(|i| hash.as_bytes()[i]))
}

/// Why the ground closes a connection. The numbers are QUIC's application error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Close {
    /// Everything was said.
    Done = 0,
    /// The peer broke the protocol.
    Protocol = 1,
    /// The satellite is not on the list, or not who its message says.
    Identity = 2,
    /// A newer connection of the same satellite.
    Superseded = 3,
    /// Its certificate was revoked.
    Revoked = 4,
    /// Too many connections.
    Busy = 5,
    /// The ground-station ends.
    Shutdown = 6,
    /// Partial segments were given up: the satellite is to ask anew what is held.
    Again = 7,
}

impl Close {
    /// Whether a connection that was closed so was refused: the next one would be too.
    pub fn is_refusal(code: quinn::VarInt) -> bool {
        [Self::Protocol, Self::Identity, Self::Revoked, Self::Busy]
            .into_iter()
            .any(|c| code == (c as u32).into())
    }
}
