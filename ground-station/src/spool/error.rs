//! What can go wrong with the spool.

use perigee_shared::segment::CodecError;
use perigee_shared::store::{Failure, StoreError};

use super::postgres::EngineError;

/// Why the spool did not do something.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The file or the disk under it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A segment does not decode, or the spool does not have the base that it needs.
    #[error(transparent)]
    Undecodable(#[from] CodecError),
    /// A satellite has more in the ledger than one may have.
    #[error("{0}")]
    Budget(String),
    /// There is no exporter or satellite of this name.
    #[error("{0}")]
    Unknown(String),
    /// The engine that stations share.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The spool's thread has ended.
    #[error("the spool has been shut down")]
    Gone,
}

impl SpoolError {
    /// Whether trying the same later may help.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            Self::Engine(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// A record that cannot be read: the file is verified before the spool goes on.
    pub(super) fn damaged(what: &str) -> Self {
        Self::Store(StoreError::Damaged(what.to_owned()))
    }
}

impl Failure for SpoolError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            Self::Undecodable(_) | Self::Budget(_) | Self::Unknown(_) | Self::Engine(_) | Self::Gone => None,
        }
    }
}

perigee_shared::from_redb!(SpoolError);

impl From<tokio_postgres::Error> for SpoolError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Engine(error.into())
    }
}

impl From<perigee_shared::env::Gone> for SpoolError {
    fn from(_: perigee_shared::env::Gone) -> Self {
        Self::Gone
    }
}
