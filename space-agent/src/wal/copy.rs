//! `wal backup`: a consistent copy of the log, made from a snapshot while the log goes on.

use std::path::Path;

use perigee_shared::env::Env;
use perigee_shared::store::StoreError;
use perigee_shared::store::backup::backup;
use redb::ReadTransaction;

use super::tables::*;
use super::{Wal, WalError};

/// The log as it was at one moment.
pub struct Backup {
    snapshot: ReadTransaction,
    /// A copy has no front.
    format: u64,
}

/// The log's file as a whole.
pub struct LogFile<'a>(pub(super) &'a mut Wal);

impl LogFile<'_> {
    /// The log as it is now, for a copy.
    pub fn backup(&mut self) -> Result<Backup, WalError> {
        self.0.ready()?;
        self.0.journal().settle_front()?;
        let format = self.0.state().format.min(GROUPS_FORMAT);
        Ok(Backup { snapshot: self.0.log.snapshot()?, format })
    }

    /// Gives bytes back to the volume when that pays; call it while the link is down. Returns the file's bytes before and after.
    pub fn compact(&mut self, force: bool) -> Result<Option<(u64, u64)>, WalError> {
        self.0.ready()?;
        let stored = self.0.state().stored();
        Ok(self.0.log.compact(stored, force)?)
    }
}

impl Backup {
    /// Writes it to the new file `path`, which gets its name when it is whole.
    pub fn write(&self, env: &Env, path: &Path) -> Result<u64, StoreError> {
        backup(env, path, &self.snapshot, |copy| {
            copy.table(LANES)?;
            copy.table(JOURNAL)?;
            copy.table(SEGMENTS)?;
            copy.table(CHUNKS)?;
            copy.table(CONSUMERS)?;
            copy.table(CURSORS)?;
            copy.table(AHEAD)?;
            copy.table(COUNTERS)?;
            copy.table(DROPS)?;
            copy.table(EPOCHS)?;
            copy.table(SHIPPED)?;
            copy.table(LANE_RULES)?;
            copy.table(PASSES)?;
            copy.table(BASES)?;
            copy.table(BASE_CHUNKS)?;
            copy.table(ACKNOWLEDGED)?;
            copy.table(LEDGERS)?;
            copy.table(REFUSED)?;
            copy.table(TAKEN)?;
            copy.table(MISSED)?;
            copy.table(SALVAGED)?;
            copy.table(BOOTS)?;
            copy.table(META)?;
            copy.put(META, META_FORMAT, &self.format.to_le_bytes()[..])?;
            copy.put(META, META_COPY, &1u64.to_le_bytes()[..])
        })
    }
}
