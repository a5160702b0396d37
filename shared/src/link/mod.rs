//! What both ends of the link share: how messages are framed, who the peer is, and quinn's knobs.

pub mod bounds;
pub mod ranges;
pub mod rate;
pub mod revocation;
pub mod tls;
pub mod transport;
mod verify;
pub mod wire;

/// The protocol's name in TLS. Another major version is another name.
pub const ALPN: &[u8] = b"perigee/1";

/// The protocol's minor version, for people: what it adds can be ignored.
pub const MINOR_VERSION: u32 = 0;
