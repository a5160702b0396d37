//! What the shipper says of the link in fact, for contacts that are tried and for who asks.

use serde::Serialize;

/// Whether the link is up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// No contact is open.
    #[default]
    Down,
    /// A contact is open and its station has not answered Hello yet, or refuses.
    Connecting,
    /// A station has answered Hello.
    Up,
}

/// How the link stands in fact, beside what the contacts plan.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LinkStatus {
    /// Whether it is up.
    pub state: LinkState,
    /// The station of the contact.
    pub station: Option<String>,
    /// When that state began, ns since the Unix epoch.
    pub since_unix_nano: u64,
    /// Why the last connection ended or did not come up.
    pub last_error: Option<String>,
    /// When that was, ns since the Unix epoch.
    pub last_error_unix_nano: Option<u64>,
    /// Payload bytes sent in this contact.
    pub sent_bytes: u64,
    /// Segments that the ground has committed in this contact.
    pub committed_segments: u64,
    /// Bytes of their payloads.
    pub committed_bytes: u64,
}
