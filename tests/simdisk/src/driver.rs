//! The disk as the programs see it: files for databases, small files, and an environment around them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use perigee_shared::env::{Clock, Env, Network, Placement, ReadFrom, StoreDriver, StoreFile};
use rand::Rng;
use redb::StorageBackend;

use crate::faults::{Operation, Trouble};
use crate::image::Image;
use crate::{Disk, lock};

/// An open file. After [`Disk::kill`] every call on it fails: the process that had it is gone.
#[derive(Debug)]
pub struct File {
    disk: Arc<Disk>,
    image: Arc<Mutex<Image>>,
    life: u64,
    medium: AtomicBool,
}

impl File {
    pub(crate) fn new(disk: Arc<Disk>, image: Arc<Mutex<Image>>, life: u64, medium: bool) -> Self {
        Self { disk, image, life, medium: AtomicBool::new(medium) }
    }

    /// An error when the process that opened this file is gone.
    fn alive(&self) -> io::Result<()> {
        if self.life == self.disk.life() { Ok(()) } else { Err(io::Error::other("the process is gone")) }
    }
}

impl StoreFile for File {
    fn read_medium(&self, medium: bool) -> io::Result<ReadFrom> {
        if medium {
            self.sync_data()?;
        }
        self.medium.store(medium, Ordering::Relaxed);
        Ok(if medium { ReadFrom::Medium } else { ReadFrom::Cache })
    }

    fn read_back(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.alive()?;
        lock(&self.image).read(offset, out, true)
    }

    fn is_linked(&self) -> bool {
        lock(&self.disk.files).values().any(|image| Arc::ptr_eq(image, &self.image))
    }

    fn is_at(&self, path: &Path) -> bool {
        lock(&self.disk.files).get(path).is_some_and(|image| Arc::ptr_eq(image, &self.image))
    }
}

impl StorageBackend for File {
    fn len(&self) -> io::Result<u64> {
        self.alive()?;
        Ok(lock(&self.image).len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.alive()?;
        match self.disk.meets(Operation::Read) {
            Some(trouble) => Err(trouble.error()),
            None => lock(&self.image).read(offset, out, self.medium.load(Ordering::Relaxed)),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.alive()?;
        self.disk.check()?;
        let mut image = lock(&self.image);
        if len as usize > image.len()
            && let Some(trouble) = self.disk.meets(Operation::Grow)
        {
            return Err(trouble.error());
        }
        image.set_len(len as usize);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.alive()?;
        self.disk.check()?;
        let mut image = lock(&self.image);
        match self.disk.meets(Operation::Sync) {
            None => image.sync(),
            Some(Trouble::Lie) => {}
            Some(Trouble::Unsaid) => self.disk.chance(|rng| image.lose_first_writes(|| rng.random_bool(0.4))),
            Some(trouble) => {
                if trouble == Trouble::WriteBack {
                    self.disk.chance(|rng| image.lose_write_back(|| rng.random_bool(0.4)));
                }
                return Err(trouble.error());
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.alive()?;
        self.disk.check()?;
        let trouble = self.disk.meets(Operation::Write);
        let mut image = lock(&self.image);
        match trouble {
            None => image.write(offset, data),
            Some(trouble) => {
                if trouble == Trouble::Short {
                    image.write(offset, &data[..data.len() / 2]);
                }
                return Err(trouble.error());
            }
        }
        Ok(())
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
        Ok(Box::new(File::new(Arc::clone(&self.0), image, self.0.life(), false)))
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
        let length = lock(&*self.image(path)?).len() as u64;
        Ok((length, length))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(lock(&*self.image(path)?).content().to_vec())
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.0.check()?;
        let mut name = path.to_owned();
        let unsynced = self.0.unsynced.load(Ordering::Relaxed);
        if unsynced {
            name.as_mut_os_string().push(".new");
        }
        lock(&self.0.files).insert(name, Arc::new(Mutex::new(Image::new(content.to_vec()))));
        if unsynced { Err(io::Error::other("the disk does not sync")) } else { Ok(()) }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        lock(&self.0.files).remove(path);
        Ok(())
    }
}

impl Disk {
    /// Where databases live, with this disk.
    pub fn driver(self: &Arc<Self>) -> Arc<dyn StoreDriver> {
        Arc::new(Driver(Arc::clone(self)))
    }

    /// An environment with this disk, inline execution, a clock that goes on by a second at each look, and no network.
    pub fn env(self: &Arc<Self>) -> Env {
        let seed = self.environments.fetch_add(1, Ordering::Relaxed);
        self.env_with(Arc::new(Ticking(AtomicU64::new(1))), seed)
    }

    /// The same with another clock, and random numbers of this seed.
    pub fn env_with(self: &Arc<Self>, clock: Arc<dyn Clock>, seed: u64) -> Env {
        Env::new(clock, self.driver(), Arc::new(NoNetwork), Placement::Inline, Arc::new(|| None), seed)
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
