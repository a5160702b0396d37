//! Perigee's wire messages, generated from the `.proto` files beside this crate.
//!
//! The text that counts is in `perigee/link.proto`: each message says who sends it and what holds.

#![forbid(unsafe_code)]

/// The link between a satellite and a ground station, ALPN `perigee/1`.
#[allow(clippy::large_enum_variant, reason = "a message is read and used up; few are in memory at once")]
pub mod link {
    include!(concat!(env!("OUT_DIR"), "/perigee.link.v1.rs"));
}

/// OTLP's services and messages as a `google.protobuf.FileDescriptorSet` without comments, each file after those that it needs: for
/// gRPC reflection. The files are OpenTelemetry's, under `opentelemetry`.
pub const OTLP: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/otlp.binpb"));
