//! The spool on a disk that fails. The disk here is memory that can be told to be full, or to lose what was not synced.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use perigee_shared::env::{Clock, Env, Network, Placement, StoreDriver};
use perigee_shared::segment::{Codec, Encoder, Header, Lane, SegmentId, hash};
use perigee_shared::signal::{Counts, Signal, SignalSet, TimeRange};

use super::*;

#[derive(Debug, Default, Clone)]
struct Image {
    now: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Debug, Default)]
struct Disk {
    files: Mutex<BTreeMap<PathBuf, Arc<Mutex<Image>>>>,
    full: AtomicBool,
    /// Writes until the power goes; `u64::MAX`: it stays.
    power: AtomicU64,
}

impl Disk {
    fn check(&self) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        match self.power.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| match n {
            0 => None,
            u64::MAX => Some(u64::MAX),
            n => Some(n - 1),
        }) {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::other("the power is gone")),
        }
    }

    /// After a power cut: what was not synced is lost.
    fn restart(&self) {
        for image in self.files.lock().unwrap().values() {
            let mut image = image.lock().unwrap();
            image.now = image.synced.clone();
        }
        self.power.store(u64::MAX, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Backend {
    disk: Arc<Disk>,
    image: Arc<Mutex<Image>>,
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.image.lock().unwrap().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let image = self.image.lock().unwrap();
        let from = image.now.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.check()?;
        self.image.lock().unwrap().now.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.check()?;
        let mut image = self.image.lock().unwrap();
        image.synced = image.now.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.check()?;
        let mut image = self.image.lock().unwrap();
        image.now[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        Ok(())
    }
}

struct Driver(Arc<Disk>);

impl StoreDriver for Driver {
    fn open(&self, path: &Path, cache: usize) -> Result<redb::Database, redb::DatabaseError> {
        let image = Arc::clone(self.0.files.lock().unwrap().entry(path.to_owned()).or_default());
        let backend = Backend { disk: Arc::clone(&self.0), image };
        redb::Database::builder().set_cache_size(cache).create_with_backend(backend)
    }

    fn exists(&self, path: &Path) -> bool {
        self.0.files.lock().unwrap().contains_key(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.0.files.lock().unwrap();
        let image = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), image);
        Ok(())
    }

    fn size(&self, path: &Path) -> io::Result<(u64, u64)> {
        let files = self.0.files.lock().unwrap();
        let length = files.get(path).ok_or(io::ErrorKind::NotFound)?.lock().unwrap().now.len() as u64;
        Ok((length, length))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let files = self.0.files.lock().unwrap();
        Ok(files.get(path).ok_or(io::ErrorKind::NotFound)?.lock().unwrap().now.clone())
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let image = Image { now: content.to_vec(), synced: content.to_vec() };
        self.0.files.lock().unwrap().insert(path.to_owned(), Arc::new(Mutex::new(image)));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.files.lock().unwrap().remove(path);
        Ok(())
    }
}

struct NoNetwork;

impl Network for NoNetwork {
    fn endpoint(
        &self,
        _: std::net::SocketAddr,
        _: Option<quinn::ServerConfig>,
    ) -> io::Result<quinn::Endpoint> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

struct Fixed;

impl Clock for Fixed {
    fn unix_nano(&self) -> u64 {
        1_000_000_000
    }
}

fn env(disk: &Arc<Disk>) -> Env {
    let driver = Arc::new(Driver(Arc::clone(disk)));
    Env::new(Arc::new(Fixed), driver, Arc::new(NoNetwork), Placement::Inline, Arc::new(|| None), 1)
}

fn disk() -> Arc<Disk> {
    Arc::new(Disk { power: AtomicU64::new(u64::MAX), ..Disk::default() })
}

fn settings() -> Settings {
    Settings {
        directory: "/virtual".into(),
        max_bytes: 1 << 30,
        ballast: 1 << 20,
        station: "svalbard".to_owned(),
        routes: [("a".to_owned(), SignalSet::ALL)].into(),
    }
}

fn incoming(sequence: u64) -> Incoming {
    let mut encoder = Encoder::new(Codec::ZstdRows).unwrap();
    let body: Vec<u8> = (0..5000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    encoder.push(Signal::Logs, &body).unwrap();
    let payload = encoder.finish().unwrap();
    let header = Header {
        id: SegmentId { epoch: 1, lane: Lane::BULK, sequence },
        codec: 1,
        payload_len: payload.len() as u64,
        raw_len: body.len() as u64,
        hash: hash(&payload),
        items: Counts::of(Signal::Logs, 1),
        time: TimeRange::EMPTY,
        requests: 1,
        sealed_unix_nano: 0,
        base_sequence: None,
    };
    Incoming {
        satellite: "sat-1".into(),
        header: Arc::new(header),
        pieces: [Piece { offset: 0, bytes: payload }].into(),
        max_partial_bytes: 1 << 20,
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_keeps_callers_waiting_and_nothing_is_lost_when_there_is_room_again() {
    let disk = disk();
    let store = Store::open(&env(&disk), settings(), 0, Vec::new()).unwrap();
    assert_eq!(store.commit(vec![incoming(1)]).await.unwrap(), [Applied::New]);
    disk.full.store(true, Ordering::Relaxed);
    let mut status = store.status();
    let other = store.clone();
    let waiting = tokio::spawn(async move { other.commit(vec![incoming(2)]).await.unwrap() });
    status.wait_for(|s| s.failing.is_some()).await.unwrap();
    assert!(!status.borrow().has_room("sat-1"));
    assert!(status.borrow().failing.as_ref().unwrap().contains("free some space"));
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert!(!waiting.is_finished());
    assert!(!Driver(Arc::clone(&disk)).exists(Path::new("/virtual/ballast")), "the ballast is given back");

    disk.full.store(false, Ordering::Relaxed);
    assert_eq!(waiting.await.unwrap(), [Applied::New]);
    status.wait_for(|s| s.failing.is_none()).await.unwrap();
    let account = store.ask(|spool| spool.accounting()).await.unwrap().remove("sat-1").unwrap();
    assert_eq!(account.committed.log_records, 2);
}

#[test]
fn what_was_reported_survives_a_power_cut_at_every_write() {
    for cut in 0..400 {
        let disk = disk();
        let mut reported = 0;
        let work = |reported: &mut u64| -> Result<(), SpoolError> {
            let mut spool = Spool::open(&env(&disk), settings())?;
            disk.power.store(cut, Ordering::Relaxed);
            for sequence in 1..8 {
                if spool.apply(&[incoming(sequence)])? == [Applied::New] {
                    *reported = sequence;
                }
                if sequence % 3 == 0
                    && let Some(work) = spool.next("a", SignalSet::ALL, 1)?
                {
                    let done =
                        Progress { entry: work.entry, fingerprint: 1, finished: true, ..Progress::default() };
                    spool.progress("a", &done)?;
                }
            }
            spool.close()
        };
        let finished = work(&mut reported).is_ok();
        disk.restart();
        let spool = Spool::open(&env(&disk), settings()).unwrap();
        assert!(spool.quarantined().is_none(), "cut at {cut}");
        let segments = spool.accounting().unwrap().remove("sat-1").unwrap_or_default();
        assert!(segments.segments >= reported, "cut at {cut}: {} of {reported}", segments.segments);
        assert_eq!(segments.committed.log_records, segments.segments, "cut at {cut}");
        assert!(spool.verify().unwrap().is_empty());
        if finished {
            assert_eq!(reported, 7);
        }
    }
}
