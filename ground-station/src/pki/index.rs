//! `pki.json`: what was issued from the authorities beside it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A client of the link.
    Satellite,
    /// A server of the link.
    Station,
}

impl Role {
    pub(super) const ALL: [Self; 2] = [Self::Satellite, Self::Station];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Satellite => "satellite",
            Self::Station => "station",
        })
    }
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// Its serial number, in hex.
    pub serial: String,
    /// What it is for.
    pub role: Role,
    /// Whose it is.
    pub id: String,
    /// When it ends, s since the Unix epoch.
    pub not_after_unix: u64,
    /// When it was revoked.
    pub revoked_unix: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Index {
    pub(super) domain: String,
    pub(super) issued: Vec<Issued>,
}
