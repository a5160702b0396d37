//! A disk in memory for the stores of both programs: it can be full, lose its power after a number of writes, and come back with
//! only what was synced, or with some of the rest as well, torn where it likes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perigee_shared::env::{Clock, Env, Network, Placement, ReadFrom, StoreDriver, StoreFile};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use redb::StorageBackend;

/// What a disk does in units of: a torn write ends at a multiple of it.
const SECTOR: usize = 512;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default, Clone)]
struct Image {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// Writes since the last sync, in order.
    pending: Vec<(usize, Vec<u8>)>,
}

/// Files in memory.
#[derive(Debug, Default)]
pub struct Disk {
    files: Mutex<BTreeMap<PathBuf, Arc<Mutex<Image>>>>,
    full: AtomicBool,
    /// Operations until the power goes; 0 stands for never, so it counts down to 1.
    power: AtomicU64,
    operations: AtomicU64,
    /// Environments so far: each has other random numbers.
    environments: AtomicU64,
}

impl Disk {
    /// An empty disk.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// From now on every write says that the disk is full, or no longer does.
    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    /// The power goes after so many further writes and syncs.
    pub fn power_off_after(&self, operations: u64) {
        self.power.store(operations + 1, Ordering::Relaxed);
    }

    /// Writes and syncs so far.
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    fn check(&self) -> io::Result<()> {
        self.operations.fetch_add(1, Ordering::Relaxed);
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let left = self.power.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n > 1).then(|| n - 1));
        match left {
            Err(1) => Err(io::Error::other("the power is gone")),
            _ => Ok(()),
        }
    }

    /// After a power cut: what was not synced is lost.
    pub fn restart(&self) {
        self.come_back(|_| None);
    }

    /// After a power cut: of what was not synced some writes have happened, in any combination, and some of these only in part.
    pub fn restart_torn(&self, seed: u64) {
        let mut rng = SmallRng::seed_from_u64(seed);
        self.come_back(|len| match rng.random_range(0..4) {
            0 => None,
            1 => Some(rng.random_range(0..=len / SECTOR) * SECTOR),
            _ => Some(len),
        });
    }

    fn come_back(&self, mut survives: impl FnMut(usize) -> Option<usize>) {
        for image in lock(&self.files).values() {
            let mut image = lock(image);
            let mut content = std::mem::take(&mut image.synced);
            for (offset, data) in std::mem::take(&mut image.pending) {
                if let Some(len) = survives(data.len()) {
                    let data = &data[..len.min(data.len())];
                    if content.len() < offset + data.len() {
                        content.resize(offset + data.len(), 0);
                    }
                    content[offset..offset + data.len()].copy_from_slice(data);
                }
            }
            image.synced.clone_from(&content);
            image.now = content;
        }
        self.power.store(0, Ordering::Relaxed);
    }

    /// Changes the content of a file, as a damaged disk would.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(image) = lock(&self.files).get(path) {
            let mut image = lock(image);
            change(&mut image.now);
            image.synced = image.now.clone();
            image.pending.clear();
        }
    }

    /// The power goes now and for good: every further write fails. What comes back is the disk as it is found after that: with
    /// what was synced, and when there is a `seed` with some of the rest as well, torn where it likes.
    pub fn lose_power(&self, seed: Option<u64>) -> Arc<Self> {
        self.power.store(1, Ordering::Relaxed);
        let files = lock(&self.files)
            .iter()
            .map(|(path, image)| (path.clone(), Arc::new(Mutex::new(lock(image).clone()))))
            .collect();
        let found = Arc::new(Self { files: Mutex::new(files), ..Self::default() });
        match seed {
            Some(seed) => found.restart_torn(seed),
            None => found.restart(),
        }
        found
    }

    /// Where databases live, with this disk.
    pub fn driver(self: &Arc<Self>) -> Arc<dyn StoreDriver> {
        Arc::new(Driver(Arc::clone(self)))
    }

    /// The names of all files.
    pub fn files(&self) -> Vec<PathBuf> {
        lock(&self.files).keys().cloned().collect()
    }

    /// An environment with this disk, inline execution, a clock that goes on by a second at each look, and no network.
    pub fn env(self: &Arc<Self>) -> Env {
        let driver = self.driver();
        let seed = self.environments.fetch_add(1, Ordering::Relaxed);
        Env::new(
            Arc::new(Ticking(AtomicU64::new(1))),
            driver,
            Arc::new(NoNetwork),
            Placement::Inline,
            Arc::new(|| None),
            seed,
        )
    }
}

#[derive(Debug)]
struct Backend {
    disk: Arc<Disk>,
    image: Arc<Mutex<Image>>,
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.image).now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let image = lock(&self.image);
        let from = image.now.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.check()?;
        let mut image = lock(&self.image);
        image.now.resize(len as usize, 0);
        if (len as usize) < image.synced.len() {
            // What is beyond the end cannot come back.
            image.synced.truncate(len as usize);
            image.pending.retain_mut(|(offset, data)| {
                data.truncate((len as usize).saturating_sub(*offset));
                !data.is_empty()
            });
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.check()?;
        let mut image = lock(&self.image);
        let image = &mut *image;
        image.synced.resize(image.now.len(), 0);
        for (offset, data) in image.pending.drain(..) {
            image.synced[offset..offset + data.len()].copy_from_slice(&data);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.check()?;
        let mut image = lock(&self.image);
        let offset = offset as usize;
        image.now[offset..offset + data.len()].copy_from_slice(data);
        image.pending.push((offset, data.to_vec()));
        Ok(())
    }
}

impl StoreFile for Backend {
    fn read_medium(&self, medium: bool) -> io::Result<ReadFrom> {
        if !medium {
            return Ok(ReadFrom::Cache);
        }
        self.sync_data()?;
        Ok(ReadFrom::Medium)
    }

    fn is_linked(&self) -> bool {
        lock(&self.disk.files).values().any(|image| Arc::ptr_eq(image, &self.image))
    }
}

struct Driver(Arc<Disk>);

impl Driver {
    fn image(&self, path: &Path) -> io::Result<Arc<Mutex<Image>>> {
        lock(&self.0.files).get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl StoreDriver for Driver {
    fn open(&self, path: &Path) -> io::Result<Box<dyn StoreFile>> {
        let image = Arc::clone(lock(&self.0.files).entry(path.to_owned()).or_default());
        Ok(Box::new(Backend { disk: Arc::clone(&self.0), image }))
    }

    fn make_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(lock(&self.0.files).keys().filter(|path| path.parent() == Some(directory)).cloned().collect())
    }

    fn reserve(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.replace(path, &vec![0xa5; bytes as usize])
    }

    fn exists(&self, path: &Path) -> bool {
        lock(&self.0.files).contains_key(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = lock(&self.0.files);
        let image = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), image);
        Ok(())
    }

    fn size(&self, path: &Path) -> io::Result<(u64, u64)> {
        let length = lock(&*self.image(path)?).now.len() as u64;
        Ok((length, length))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(lock(&*self.image(path)?).now.clone())
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.0.check()?;
        let image = Image { now: content.to_vec(), synced: content.to_vec(), pending: Vec::new() };
        lock(&self.0.files).insert(path.to_owned(), Arc::new(Mutex::new(image)));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        lock(&self.0.files).remove(path);
        Ok(())
    }
}

struct NoNetwork;

impl Network for NoNetwork {
    fn endpoint(
        &self,
        _: std::net::SocketAddr,
        _: quinn::EndpointConfig,
        _: Option<quinn::ServerConfig>,
    ) -> io::Result<quinn::Endpoint> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

struct Ticking(AtomicU64);

impl Clock for Ticking {
    fn unix_nano(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) * 1_000_000_000
    }
}
