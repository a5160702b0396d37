//! Databases as files of the operating system, and how the medium under them is read.
//!
//! After a failed write-back Linux keeps the pages in memory and marks them clean: they read as written, the next sync succeeds,
//! and the medium does not have them. So a database is opened from the medium: what is still to be written is synced, then reads
//! go past the page cache (`O_DIRECT`). A file system without direct reads has its cache dropped before each read instead, which
//! the system does as far as it likes.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use prometheus_client::metrics::counter::Counter;
use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use super::direct::{Ahead, Direct};
use crate::env::{ReadFrom, StoreDriver, StoreFile};
use crate::files;

/// Files are for their owner and may be read by the group; so are directories.
pub(crate) const FILE_MODE: u32 = 0o640;
pub(crate) const DIRECTORY_MODE: u32 = 0o750;

/// The largest of the small files beside a store; `ledger.json` of a hundred satellites may have megabytes.
const LARGEST_SMALL: u64 = 256 << 20;

/// Databases as files.
#[derive(Default)]
pub struct Files {
    /// Syncs of files and directories.
    syncs: Counter,
}

impl Files {
    /// Makes what was written to a file durable.
    fn sync(&self, file: &File) -> io::Result<()> {
        self.syncs.inc();
        file.sync_data()
    }
}

impl StoreDriver for Files {
    fn open(&self, path: &Path) -> io::Result<Box<dyn StoreFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path)?;
        let backend = FileBackend::new(file.try_clone()?).map_err(io::Error::other)?;
        let (medium, back) = (Mutex::new(Reads::Fast), Mutex::new(None));
        let syncs = self.syncs.clone();
        Ok(Box::new(DiskFile { path: path.to_owned(), file, backend, medium, back, syncs }))
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        match std::fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path) {
            // It says so too when it cannot look at a directory that is there.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && std::fs::metadata(path)?.is_dir() => Ok(()),
            made => made,
        }
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let mut out = std::fs::read_dir(directory)?
            .map(|entry| entry.map(|e| e.path()))
            .collect::<io::Result<Vec<_>>>()?;
        out.sort();
        Ok(out)
    }

    fn reserve(&self, path: &Path, bytes: u64) -> io::Result<()> {
        use std::io::Write;
        let write = || {
            let mut file = create(path)?;
            // Not zeros: a file system must not find a hole in it.
            let block = vec![0xa5; 1 << 16];
            let mut left = bytes;
            while left > 0 {
                let n = left.min(block.len() as u64);
                file.write_all(&block[..n as usize])?;
                left -= n;
            }
            self.sync(&file)
        };
        write().inspect_err(|_| drop(self.remove(path)))
    }

    fn exists(&self, path: &Path) -> bool {
        // What cannot be looked at may be there.
        std::fs::metadata(path).map_or_else(|e| !files::is_missing(&e), |_| true)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)?;
        self.syncs.inc();
        sync_parent(to)
    }

    fn size(&self, path: &Path) -> io::Result<(u64, u64)> {
        let meta = std::fs::metadata(path)?;
        Ok((meta.len(), meta.blocks() * 512))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        files::read(path, LARGEST_SMALL)
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        use std::io::Write;
        let mut temporary = PathBuf::from(path);
        temporary.as_mut_os_string().push(".new");
        let mut file = create(&temporary)?;
        file.write_all(content)?;
        self.sync(&file)?;
        self.rename(&temporary, path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn syncs(&self) -> Option<Counter> {
        Some(self.syncs.clone())
    }
}

fn create(path: &Path) -> io::Result<File> {
    // A pipe in its place is an error, and is not waited for.
    let flags = OFlag::O_NONBLOCK.bits();
    OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).custom_flags(flags).open(path)
}

/// Makes a rename, or a new file, survive a power cut.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// Where the bytes of a read come from.
#[derive(Debug)]
enum Reads {
    /// The page cache.
    Fast,
    /// The medium.
    Direct(Direct),
    /// The medium, most of it in its order.
    Ahead(Ahead),
    /// The page cache, emptied before each read.
    Emptied,
}

/// A database's file.
#[derive(Debug)]
struct DiskFile {
    path: PathBuf,
    /// The same open file as the backend's.
    file: File,
    /// redb's own, which knows its locks.
    backend: FileBackend,
    medium: Mutex<Reads>,
    /// For reading back, once that was wanted.
    back: Mutex<Option<Reads>>,
    syncs: Counter,
}

impl DiskFile {
    fn medium(&self) -> MutexGuard<'_, Reads> {
        self.medium.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Empties the cache of these bytes, all when `length` is 0.
    fn empty_cache(&self, offset: u64, length: usize) -> io::Result<()> {
        let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        posix_fadvise(&self.file, offset as i64, length as i64, advice).map_err(io::Error::from)
    }

    fn past_the_cache(&self, reads: impl FnOnce(Direct) -> Reads) -> Reads {
        Direct::open(&self.path, &self.file).map_or(Reads::Emptied, reads)
    }

    fn read_from(&self, reads: &mut Reads, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match reads {
            Reads::Fast => {}
            Reads::Direct(direct) => return direct.read(offset, out),
            Reads::Ahead(ahead) => return ahead.read(offset, out),
            Reads::Emptied => self.empty_cache(offset, out.len())?,
        }
        self.backend.read(offset, out)
    }

    /// Has `change` change the file; nothing that was read ahead of it is used after it.
    fn change(&self, change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut reads = self.medium();
        if let Reads::Ahead(ahead) = &mut *reads {
            ahead.forget();
            return change();
        }
        drop(reads);
        change()
    }
}

impl StoreFile for DiskFile {
    fn read_medium(&self, medium: bool) -> io::Result<ReadFrom> {
        let mut reads = self.medium();
        if !medium {
            *reads = Reads::Fast;
            return Ok(ReadFrom::Cache);
        }
        // Also tells of a write-back that failed before, once.
        self.syncs.inc();
        self.file.sync_data()?;
        self.empty_cache(0, 0)?;
        let cached = self.file.try_clone()?;
        *reads = self.past_the_cache(|direct| Reads::Ahead(Ahead::new(direct, cached)));
        Ok(if matches!(*reads, Reads::Emptied) { ReadFrom::EmptiedCache } else { ReadFrom::Medium })
    }

    fn read_back(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut back = self.back.lock().unwrap_or_else(PoisonError::into_inner);
        self.read_from(back.get_or_insert_with(|| self.past_the_cache(Reads::Direct)), offset, out)
    }

    fn is_linked(&self) -> bool {
        self.file.metadata().map_or(true, |meta| meta.nlink() > 0)
    }

    fn is_at(&self, path: &Path) -> bool {
        let same = |a: std::fs::Metadata, b: std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        let is_same = self.file.metadata().and_then(|open| Ok(same(open, std::fs::metadata(path)?)));
        is_same.unwrap_or_else(|e| !files::is_missing(&e))
    }
}

impl StorageBackend for DiskFile {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut reads = self.medium();
        if matches!(*reads, Reads::Fast) {
            drop(reads);
            return self.backend.read(offset, out);
        }
        self.read_from(&mut reads, offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|| self.backend.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.syncs.inc();
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(|| self.backend.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_has_the_new_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("small");
        Files::default().replace(&path, b"one").unwrap();
        Files::default().replace(&path, b"two").unwrap();
        assert_eq!(Files::default().read(&path).unwrap(), b"two");
        Files::default().remove(&path).unwrap();
        Files::default().remove(&path).unwrap();
        assert!(!Files::default().exists(&path));
    }

    #[test]
    fn a_pipe_in_the_place_of_a_small_file_is_an_error_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("small");
        for name in ["small", "small.new"] {
            nix::unistd::mkfifo(&dir.path().join(name), nix::sys::stat::Mode::S_IRUSR).unwrap();
        }
        assert!(Files::default().read(&path).unwrap_err().to_string().contains("a pipe"));
        assert!(Files::default().replace(&path, b"one").is_err());
        assert!(Files::default().reserve(&path, 1).is_err());
        Files::default().reserve(&path, 1).unwrap();
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_called_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("loop");
        std::os::unix::fs::symlink("loop", &path).unwrap();
        assert!(Files::default().exists(&path));
        assert!(!files::is_missing(&Files::default().size(&path).unwrap_err()));
        let file = Files::default().open(&dir.path().join("file")).unwrap();
        assert!(file.is_at(&path) && !file.is_at(&dir.path().join("none")));
    }

    #[test]
    fn the_medium_gives_back_what_was_written_at_any_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = Files::default().open(&dir.path().join("file")).unwrap();
        let content: Vec<u8> = (0..20_000u32).map(|n| (n * 7) as u8).collect();
        file.set_len(content.len() as u64).unwrap();
        file.write(0, &content).unwrap();
        assert_ne!(file.read_medium(true).unwrap(), ReadFrom::Cache);
        for (at, length) in [(0, 20_000), (1, 1), (4095, 2), (4096, 4096), (8191, 8193), (19_999, 1)] {
            let mut out = vec![0; length];
            file.read(at, &mut out).unwrap();
            assert_eq!(out, content[at as usize..at as usize + length], "{length} bytes at {at}");
        }
        assert!(file.read(19_999, &mut [0; 2]).is_err(), "beyond the end");
        file.write(5_000, b"new").unwrap();
        let mut out = [0; 3];
        file.read(5_000, &mut out).unwrap();
        assert_eq!(&out, b"new", "what is written meanwhile is read");
        assert_eq!(file.read_medium(false).unwrap(), ReadFrom::Cache);
    }

    #[test]
    fn files_and_directories_are_not_for_everybody_and_a_deleted_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        Files::default().make_directory(&inner).unwrap();
        let path = inner.join("file");
        let file = Files::default().open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o027, 0);
        assert_eq!(std::fs::metadata(&inner).unwrap().mode() & 0o027, 0);
        assert!(file.is_linked() && file.is_at(&path));
        let aside = path.with_file_name("aside");
        std::fs::rename(&path, &aside).unwrap();
        std::fs::copy(&aside, &path).unwrap();
        assert!(file.is_linked() && file.is_at(&aside) && !file.is_at(&path), "another one is in its place");
        std::fs::rename(&aside, &path).unwrap();
        assert!(file.is_at(&path));
        Files::default().remove(&path).unwrap();
        assert!(!file.is_linked());
    }

    #[test]
    fn each_sync_of_a_file_or_a_directory_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::default();
        let syncs = || files.syncs().unwrap().get();
        let file = files.open(&dir.path().join("file")).unwrap();
        file.write(0, b"one").unwrap();
        assert_eq!(syncs(), 0);
        file.sync_data().unwrap();
        assert_eq!(syncs(), 1);
        files.replace(&dir.path().join("small"), b"two").unwrap();
        assert_eq!(syncs(), 3, "the new file, and its name");
    }

    #[test]
    fn reserved_bytes_are_taken_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ballast");
        Files::default().reserve(&path, 100_000).unwrap();
        assert!(Files::default().size(&path).unwrap().1 >= 100_000);
    }
}
