//! What can go wrong with the spool.

use std::path::PathBuf;

/// Why the spool did not do something.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The disk or the file failed; the file must be opened again before anything else works.
    #[error("the spool's file failed: {0}")]
    Storage(String),
    /// The disk is full.
    #[error("the disk under the spool is full: free some space on that volume, or move storage.directory")]
    DiskFull,
    /// The file cannot be opened for a reason that somebody can mend.
    #[error("cannot open the spool {path}: {why}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// Written by later software.
    #[error("the spool {path} has format {found}, this software reads up to {known}: update it")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The latest that is known.
        known: u64,
    },
    /// A record is not what was written.
    #[error("the spool is damaged: {0}")]
    Damaged(&'static str),
    /// A segment does not decode, or what it leans on is not kept.
    #[error(transparent)]
    Undecodable(#[from] perigee_shared::segment::CodecError),
    /// The spool's thread has ended.
    #[error("the spool has been shut down")]
    Gone,
}

impl SpoolError {
    /// Whether opening the file again and trying later may help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Storage(_) | Self::DiskFull)
    }
}

fn storage(error: redb::Error) -> SpoolError {
    match error {
        redb::Error::Io(e) if e.kind() == std::io::ErrorKind::StorageFull => SpoolError::DiskFull,
        other => SpoolError::Storage(other.to_string()),
    }
}

macro_rules! from_redb {
    ($($kind:ident),*) => {
        $(impl From<redb::$kind> for SpoolError {
            fn from(error: redb::$kind) -> Self {
                storage(error.into())
            }
        })*
    };
}
from_redb!(StorageError, TableError, TransactionError, CommitError, DatabaseError);

impl From<perigee_shared::env::Gone> for SpoolError {
    fn from(_: perigee_shared::env::Gone) -> Self {
        Self::Gone
    }
}
