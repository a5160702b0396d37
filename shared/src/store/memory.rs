//! Files in memory, for a store that has lost its disk and goes on without one.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use crate::env::{ReadFrom, StoreDriver, StoreFile};

type Bytes = Arc<Mutex<Vec<u8>>>;

/// Files that are gone when the process ends.
#[derive(Debug, Default)]
pub struct Memory(Mutex<BTreeMap<PathBuf, Bytes>>);

#[derive(Debug)]
struct MemoryFile(Bytes);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    fn get(&self, path: &Path) -> io::Result<Bytes> {
        lock(&self.0).get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl StoreFile for MemoryFile {
    fn read_medium(&self, medium: bool) -> io::Result<ReadFrom> {
        Ok(if medium { ReadFrom::Medium } else { ReadFrom::Cache })
    }

    fn read_back(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read(offset, out)
    }

    fn is_linked(&self) -> bool {
        true
    }

    fn is_at(&self, _: &Path) -> bool {
        true
    }
}

impl StorageBackend for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.0).len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = lock(&self.0);
        let found = bytes.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        lock(&self.0).resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = lock(&self.0);
        let place = bytes.get_mut(offset as usize..offset as usize + data.len());
        place.ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        Ok(())
    }
}

impl StoreDriver for Memory {
    fn open(&self, path: &Path) -> io::Result<Box<dyn StoreFile>> {
        Ok(Box::new(MemoryFile(Arc::clone(lock(&self.0).entry(path.to_owned()).or_default()))))
    }

    fn make_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(lock(&self.0).keys().filter(|path| path.parent() == Some(directory)).cloned().collect())
    }

    fn reserve(&self, _: &Path, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        lock(&self.0).contains_key(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = lock(&self.0);
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn size(&self, path: &Path) -> io::Result<(u64, u64)> {
        let length = lock(&*self.get(path)?).len() as u64;
        Ok((length, length))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(lock(&*self.get(path)?).clone())
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        lock(&self.0).insert(path.to_owned(), Arc::new(Mutex::new(content.to_vec())));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        lock(&self.0).remove(path);
        Ok(())
    }
}
