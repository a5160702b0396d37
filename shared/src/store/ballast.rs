//! Bytes set aside on the volume, given back when it is full: on a really full disk even a delete needs free pages.

use std::path::PathBuf;

use crate::env::Env;

/// The bytes set aside.
pub struct Ballast {
    env: Env,
    path: PathBuf,
    bytes: u64,
}

impl Ballast {
    /// A ballast of `bytes` in the file at `path`; 0: none.
    pub const fn new(env: Env, path: PathBuf, bytes: u64) -> Self {
        Self { env, path, bytes }
    }

    /// Gives the bytes back to the volume.
    pub fn release(&self) {
        if self.bytes > 0 && self.env.store.exists(&self.path) && self.env.store.remove(&self.path).is_ok() {
            tracing::error!(
                event.name = "perigee.store.ballast",
                bytes = self.bytes,
                "the disk is full; the ballast file was deleted so that data can be deleted: free space on the volume"
            );
        }
    }

    /// Takes the bytes again where there is room for them.
    pub fn refill(&self) {
        let store = &self.env.store;
        if self.bytes == 0 || store.size(&self.path).is_ok_and(|(length, _)| length >= self.bytes) {
            return;
        }
        if let Err(error) = store.reserve(&self.path, self.bytes) {
            tracing::warn!(%error, "no room for the ballast; a full disk may stop deletes");
        }
    }
}
