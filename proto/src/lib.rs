//! Perigee's wire messages, generated from the `.proto` files beside this crate.
//!
//! The text that counts is in `perigee/link.proto`: each message says who sends it and what holds.

#![forbid(unsafe_code)]

/// The link between a satellite and a ground station, ALPN `perigee/1`.
#[allow(clippy::large_enum_variant, reason = "a Hello is large, and there is one for a contact")]
pub mod link {
    include!(concat!(env!("OUT_DIR"), "/perigee.link.v1.rs"));
}
