//! OTLP as bytes: requests are walked, cut and transcoded, never decoded into objects on the hot path.

mod groups;
pub mod items;
pub mod json;
pub mod protobuf;
pub mod status;
pub mod tree;
pub mod walk;
