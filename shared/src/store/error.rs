//! What can go wrong with a store.

use std::path::PathBuf;

/// The exit code when the disk under a store cannot be used: `EX_IOERR` of sysexits.h.
pub const GIVEN_UP: u8 = 74;

/// Why a store did not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing failed. The file is opened again, from the medium, before the next call.
    #[error("the disk failed: {0}")]
    Io(String),
    /// The volume has no room left.
    #[error("the disk is full: free some space on that volume, or move storage.directory")]
    Full,
    /// What is there is not what was written.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// It failed a moment ago and is left alone until it is tried again.
    #[error("it failed and is being opened again: {0}")]
    Closed(String),
    /// It cannot be used any more in this process.
    #[error("it was given up: {0}")]
    GivenUp(String),
    /// Another process has it.
    #[error("another process has {} open; stop it, use its control socket, or set another storage.directory", .0.display())]
    Locked(PathBuf),
    /// Written by later software.
    #[error("{} has format {found}, this software knows {known}: update it; nothing in the file was changed", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What the file says.
        found: u64,
        /// The latest that this software knows.
        known: u64,
    },
    /// A new file was to be written, and there is one.
    #[error("{} exists already, and a backup replaces no file: move it away, or name another one", .0.display())]
    Exists(PathBuf),
    /// A file or directory cannot be used, for a reason that somebody can mend.
    #[error("cannot use {}: {why}; check the directory, its owner and the space on the volume", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl StoreError {
    /// Whether it is worth trying the same again later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Full | Self::Damaged(_) | Self::Closed(_))
    }

    /// Whether the disk, or what lies on it, has failed: a start that ends so ends with [`GIVEN_UP`].
    pub const fn is_of_the_disk(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Damaged(_) | Self::Closed(_) | Self::GivenUp(_))
    }

    /// Whether the file must be closed and opened again from the medium.
    pub(super) const fn is_failure(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Full | Self::Damaged(_))
    }
}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        redb::Error::Io(error).into()
    }
}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        use std::io::ErrorKind::{InvalidData, StorageFull, UnexpectedEof};
        match error {
            redb::Error::Io(e) if e.kind() == StorageFull => Self::Full,
            // redb reports a foreign or cut file as invalid data.
            redb::Error::Io(e) if matches!(e.kind(), InvalidData | UnexpectedEof) => {
                Self::Damaged(e.to_string())
            }
            redb::Error::Corrupted(_)
            | redb::Error::UpgradeRequired(_)
            | redb::Error::RepairAborted
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableDoesNotExist(_) => Self::Damaged(error.to_string()),
            other => Self::Io(other.to_string()),
        }
    }
}

/// Makes an error type with a `From<StoreError>` take redb's errors, so that `?` works on both in a transaction.
#[macro_export]
macro_rules! from_redb {
    ($type:ty) => {
        $crate::from_redb!($type: TransactionError, TableError, StorageError, CommitError, SetDurabilityError,
            CompactionError, DatabaseError);
    };
    ($type:ty: $($error:ident),*) => {$(
        impl From<redb::$error> for $type {
            fn from(error: redb::$error) -> Self {
                <$type>::from($crate::store::StoreError::from(redb::Error::from(error)))
            }
        }
    )*};
}
from_redb!(StoreError);
