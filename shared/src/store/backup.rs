//! Consistent copies of a store's file, made while the store goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Key, ReadTransaction, ReadableTable, TableDefinition, TableError, Value};

use super::open::{Backend, Guard};
use super::{StoreError, beside};
use crate::env::Env;

/// Bytes that share a transaction of the copy.
const PART: usize = 8 << 20;

/// A copy that is being made.
pub struct Copy<'a> {
    from: &'a ReadTransaction,
    to: redb::Database,
    path: &'a Path,
}

impl Copy<'_> {
    /// Copies a table; one that is not there is left out.
    pub fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'_, K, V>,
    ) -> Result<(), StoreError> {
        let from = match self.from.open_table(table) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            other => other?,
        };
        let mut rows = from.iter()?;
        let mut more = true;
        while more {
            more = false;
            let txn = self.to.begin_write().map_err(|e| self.failed(e))?;
            let mut to = txn.open_table(table).map_err(|e| self.failed(e))?;
            let mut bytes = 0;
            for row in rows.by_ref() {
                let (key, value) = row?;
                to.insert(key.value(), value.value()).map_err(|e| self.failed(e))?;
                bytes += V::as_bytes(&value.value()).as_ref().len();
                if bytes >= PART {
                    more = true;
                    break;
                }
            }
            drop(to);
            txn.commit().map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    /// What is wrong with the new file, which is no fault of the store.
    fn failed(&self, error: impl Into<redb::Error>) -> StoreError {
        not_written(self.path, error.into())
    }

    /// Puts one row into a table of the copy.
    pub fn put<'k, 'v, K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'_, K, V>,
        key: impl std::borrow::Borrow<K::SelfType<'k>>,
        value: impl std::borrow::Borrow<V::SelfType<'v>>,
    ) -> Result<(), StoreError> {
        let txn = self.to.begin_write().map_err(|e| self.failed(e))?;
        txn.open_table(table).map_err(|e| self.failed(e))?.insert(key, value).map_err(|e| self.failed(e))?;
        txn.commit().map_err(|e| self.failed(e))
    }
}

fn not_written(path: &Path, error: redb::Error) -> StoreError {
    let why = match StoreError::from(error) {
        StoreError::Full => "its volume is full".to_owned(),
        StoreError::Io(why) | StoreError::Damaged(why) => why,
        other => other.to_string(),
    };
    StoreError::File { path: path.to_owned(), why }
}

/// What a copy into `path` is called until it is whole.
pub fn unfinished(path: &Path) -> PathBuf {
    beside(path, ".new")
}

/// Makes the new file `path` with those tables of a snapshot that `tables` copies. The file gets its name when it is whole; one
/// that is there is not replaced. Returns its length.
pub fn backup(
    env: &Env,
    path: &Path,
    from: &ReadTransaction,
    tables: impl FnOnce(&mut Copy<'_>) -> Result<(), StoreError>,
) -> Result<u64, StoreError> {
    let failed = |why: String| StoreError::File { path: path.to_owned(), why };
    if env.store.exists(path) {
        return Err(StoreError::Exists(path.to_owned()));
    }
    let new = unfinished(path);
    env.store.remove(&new).map_err(|e| failed(e.to_string()))?;
    let file = env.store.open(&new).map_err(|e| failed(e.to_string()))?;
    let guard = Arc::new(Guard::new(file));
    let work = || {
        let opened = redb::Database::builder().create_with_backend(Backend(Arc::clone(&guard)));
        let to = opened.map_err(|e| not_written(path, e.into()))?;
        let mut copy = Copy { from, to, path };
        tables(&mut copy)?;
        copy.to.close().map_err(|e| not_written(path, e.into()))
    };
    super::guarded(work).inspect_err(|_| {
        guard.fail();
        drop(env.store.remove(&new));
    })?;
    env.store.rename(&new, path).map_err(|e| failed(e.to_string()))?;
    Ok(env.store.size(path).map_or(0, |(length, _)| length))
}
