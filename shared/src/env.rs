//! The environment seam: everything a program takes from the machine it runs on.
//!
//! Each program is built from its configuration and an [`Env`]. Production uses [`Env::production`]; the simulator hands in a
//! virtual clock, an in-memory store and inline execution, and runs the same code with a hundred agents in one process.
//! So there are no statics, and nothing here is reached except through an `Env`.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use prometheus_client::metrics::counter::Counter;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;

use crate::clock::{self, ClockBounds, Wall};
use crate::store::Files;
use crate::supervise::Plant;
use crate::telemetry::Alarms;

/// Wall time and the time since the machine started. Elapsed time comes from `tokio::time`, which the simulator pauses.
pub trait Clock: Send + Sync {
    /// Ns since the Unix epoch, as far as this machine knows.
    fn unix_nano(&self) -> u64;

    /// The time since this machine started. By default a machine that started at the epoch.
    fn since_boot(&self) -> SinceBoot {
        SinceBoot { boot: 0, nano: self.unix_nano() }
    }
}

/// A time that no clock setting changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SinceBoot {
    /// A random id of this start of the machine.
    pub boot: u64,
    /// Ns since then, time asleep included.
    pub nano: u64,
}

/// A file that a database lives in.
pub trait StoreFile: redb::StorageBackend {
    /// With `true`, reads come from the medium until this is called with `false`: what was written before is synced first, and
    /// pages that the system keeps in memory are passed over, since they may never have been written. With `false`, reads come
    /// from wherever is fastest. Says which way was found.
    fn read_medium(&self, medium: bool) -> io::Result<ReadFrom>;

    /// Reads what was synced, from the medium; other reads go on as they are.
    fn read_back(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Whether the file still has a name. One that was deleted under a running process is lost when the process ends.
    fn is_linked(&self) -> bool;

    /// Whether `path` leads to it, as far as that can be told: a file that was moved keeps a name, and another one may be where it was.
    fn is_at(&self, path: &Path) -> bool;
}

/// Where reads of a [`StoreFile`] come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFrom {
    /// The medium itself.
    Medium,
    /// Memory that was given up just before, as far as the system gives it up: the file system has no direct reads.
    EmptiedCache,
    /// Wherever is fastest.
    Cache,
}

/// Where databases live.
pub trait StoreDriver: Send + Sync {
    /// Opens the file at `path`; makes an empty one when there is none.
    fn open(&self, path: &Path) -> io::Result<Box<dyn StoreFile>>;
    /// Makes a directory and those above it.
    fn make_directory(&self, path: &Path) -> io::Result<()>;
    /// The files in a directory.
    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>>;
    /// Makes the file at `path` take `bytes` of the volume, synced; nothing of it remains when that fails.
    fn reserve(&self, path: &Path, bytes: u64) -> io::Result<()>;
    /// Whether there is something at `path`. What cannot be looked at may be there, so it counts as there.
    fn exists(&self, path: &Path) -> bool;
    /// Gives the file at `from` the name `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Length of the file at `path` and bytes allocated to it.
    fn size(&self, path: &Path) -> io::Result<(u64, u64)>;
    /// The whole content of a small file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Replaces a small file so that after a crash it has either the old content or the new.
    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()>;
    /// Deletes the file at `path`; that there is none is no error.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// How often it has had a disk make something durable; `None`: there is no disk.
    fn syncs(&self) -> Option<Counter> {
        None
    }
}

/// Where UDP goes.
pub trait Network: Send + Sync {
    /// A QUIC endpoint at `local`; it takes connections when there is a `server` configuration.
    fn endpoint(
        &self,
        local: SocketAddr,
        config: quinn::EndpointConfig,
        server: Option<quinn::ServerConfig>,
    ) -> io::Result<quinn::Endpoint>;
}

/// Where a piece of work runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// On a thread of its own.
    Thread,
    /// Where it is called, as the simulator needs it.
    Inline,
}

/// Where lines for people go; each text ends with a newline and may have several.
pub type Sink = Arc<dyn Fn(&str) + Send + Sync>;

/// Standard output. A reader that is gone is no reason to stop.
fn stdout_sink() -> Sink {
    use std::io::Write;
    Arc::new(|text| drop(io::stdout().lock().write_all(text.as_bytes())))
}

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Everything that is resident.
    pub resident: u64,
    /// Without pages of mapped files. Those are the program itself: how many of them are resident is the kernel's choice, and it takes
    /// them back when memory is short.
    pub used: u64,
}

/// Memory of this process, if it can be had.
pub type MemoryMeter = Arc<dyn Fn() -> Option<Memory> + Send + Sync>;

/// CPU time that this process has used, if it can be had.
pub type CpuMeter = Arc<dyn Fn() -> Option<Duration> + Send + Sync>;

/// What a program takes from the machine.
#[derive(Clone)]
pub struct Env {
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// What wall time is held against.
    pub bounds: Arc<ClockBounds>,
    /// Where databases live.
    pub store: Arc<dyn StoreDriver>,
    /// Where UDP goes.
    pub network: Arc<dyn Network>,
    /// Where stores and CPU-heavy work run.
    pub placement: Placement,
    /// Memory of this process.
    pub memory: MemoryMeter,
    /// CPU time used.
    pub cpu_time: CpuMeter,
    /// Where `debug` exporters write.
    pub output: Sink,
    /// Alarms that were raised.
    pub alarms: Alarms,
    /// Has tasks panic; for tests.
    pub plant: Option<Plant>,
    rng: Arc<Mutex<SmallRng>>,
}

impl Env {
    /// The real machine.
    pub fn production() -> Self {
        Self {
            clock: Arc::new(SystemClock::new()),
            bounds: Arc::new(ClockBounds::new(clock::built())),
            store: Arc::new(Files::default()),
            network: Arc::new(Udp),
            placement: Placement::Thread,
            memory: Arc::new(memory_of_this_process),
            cpu_time: Arc::new(|| clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).ok().map(Duration::from)),
            output: stdout_sink(),
            alarms: Alarms::default(),
            plant: None,
            rng: Arc::new(Mutex::new(SmallRng::from_os_rng())),
        }
    }

    /// A machine made of these parts; its randomness follows from `seed`, its output is standard output, its CPU time is not known, and
    /// its wall clock is trusted until [`Env::bounds`] says otherwise.
    pub fn new(
        clock: Arc<dyn Clock>,
        store: Arc<dyn StoreDriver>,
        network: Arc<dyn Network>,
        placement: Placement,
        memory: MemoryMeter,
        seed: u64,
    ) -> Self {
        Self {
            clock,
            bounds: Arc::new(ClockBounds::new(0)),
            store,
            network,
            placement,
            memory,
            cpu_time: Arc::new(|| None),
            output: stdout_sink(),
            alarms: Alarms::default(),
            plant: None,
            rng: Arc::new(Mutex::new(SmallRng::seed_from_u64(seed))),
        }
    }

    /// Ns since the Unix epoch.
    pub fn unix_nano(&self) -> u64 {
        self.clock.unix_nano()
    }

    /// The time since this machine started.
    pub fn since_boot(&self) -> SinceBoot {
        self.clock.since_boot()
    }

    /// What the wall clock says, and whether that can be right.
    pub fn wall(&self) -> Wall {
        self.bounds.judge(self.clock.unix_nano())
    }

    /// Ns since the Unix epoch by the wall clock if that is trusted; else the earliest time that it can be.
    pub fn trusted_or_earliest(&self) -> u64 {
        self.wall().trusted().unwrap_or_else(|| self.bounds.floor())
    }

    /// A random number, uniform over all `u64`.
    pub fn random(&self) -> u64 {
        self.rng.lock().unwrap_or_else(std::sync::PoisonError::into_inner).random()
    }

    /// `duration` times a random factor in `1 ± spread`.
    pub fn jitter(&self, duration: Duration, spread: f64) -> Duration {
        let unit = (self.random() >> 11) as f64 / (1u64 << 53) as f64;
        duration.mul_f64((1.0 + spread * (2.0 * unit - 1.0)).max(0.0))
    }

    /// Runs CPU-heavy `work` away from the tasks that serve connections.
    pub async fn cpu<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        match self.placement {
            Placement::Inline => work(),
            Placement::Thread => match tokio::task::spawn_blocking(work).await {
                Ok(out) => out,
                Err(e) => std::panic::resume_unwind(e.into_panic()),
            },
        }
    }
}

impl Env {
    /// Runs `work`, which hands one value after the other to its argument, away from the tasks that serve connections. It waits
    /// while nobody takes the values, and is told `false` when nobody will.
    pub fn stream<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn FnMut(T) -> bool) + Send + 'static,
    ) -> Values<T> {
        match self.placement {
            Placement::Inline => {
                let mut all = Vec::new();
                work(&mut |value| {
                    all.push(value);
                    true
                });
                let (queue, values) = tokio::sync::mpsc::channel(all.len().max(1));
                all.into_iter().for_each(|value| drop(queue.try_send(value)));
                Values { values, work: None }
            }
            Placement::Thread => {
                let (queue, values) = tokio::sync::mpsc::channel(1);
                let work = tokio::task::spawn_blocking(move || {
                    work(&mut |value| queue.blocking_send(value).is_ok())
                });
                Values { values, work: Some(work) }
            }
        }
    }
}

/// The values of [`Env::stream`].
pub struct Values<T> {
    values: tokio::sync::mpsc::Receiver<T>,
    work: Option<tokio::task::JoinHandle<()>>,
}

impl<T> Values<T> {
    /// The next value; `None` after the last. A panic of the work is one here: what came before it is not all.
    pub async fn recv(&mut self) -> Option<T> {
        let next = self.values.recv().await;
        if next.is_none()
            && let Some(work) = self.work.take()
            && let Err(error) = work.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
        next
    }
}

struct SystemClock {
    boot: u64,
}

impl SystemClock {
    fn new() -> Self {
        // Random at each start of the kernel, as text: 8-4-4-4-12 hexadecimal digits.
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(16).collect();
        Self { boot: u64::from_str_radix(&digits, 16).unwrap_or(0) }
    }
}

impl Clock for SystemClock {
    fn unix_nano(&self) -> u64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
    }

    fn since_boot(&self) -> SinceBoot {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
        SinceBoot { boot: self.boot, nano: now.as_nanos() as u64 }
    }
}

struct Udp;

impl Network for Udp {
    fn endpoint(
        &self,
        local: SocketAddr,
        config: quinn::EndpointConfig,
        server: Option<quinn::ServerConfig>,
    ) -> io::Result<quinn::Endpoint> {
        let socket = std::net::UdpSocket::bind(local)?;
        quinn::Endpoint::new(config, server, socket, Arc::new(quinn::TokioRuntime))
    }
}

fn memory_of_this_process() -> Option<Memory> {
    // In kB whatever the size of a page is, unlike `/proc/self/statm`.
    memory(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// Memory by the text of `/proc/PID/status`.
fn memory(status: &str) -> Option<Memory> {
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let resident = field("VmRSS")?;
    // Linux before 4.5 does not tell them apart.
    Some(Memory { resident, used: resident.saturating_sub(field("RssFile").unwrap_or(0)) })
}

/// The owner of a value has ended; nothing more can be asked of it.
#[derive(Debug, thiserror::Error)]
#[error("the store has been shut down")]
pub struct Gone;

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// A synchronous value (a store) that one place alone owns. Others ask for work on it, which runs in the order of asking:
/// in production on one named thread behind a bounded queue, in the simulator at once.
pub struct Owner<T> {
    inner: Arc<Inner<T>>,
}

enum Inner<T> {
    Thread { queue: tokio::sync::mpsc::Sender<Job<T>>, ended: Mutex<Option<mpsc::Receiver<T>>> },
    Inline(Mutex<Option<T>>),
}

impl<T> Clone for Owner<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<T: Send + 'static> Owner<T> {
    /// Gives `value` to an owner; `name` is the thread's, at most 15 bytes.
    pub fn new(placement: Placement, name: &str, value: T) -> io::Result<Self> {
        const QUEUE: usize = 256;
        if placement == Placement::Inline {
            return Ok(Self { inner: Arc::new(Inner::Inline(Mutex::new(Some(value)))) });
        }
        let (queue, mut jobs) = tokio::sync::mpsc::channel::<Job<T>>(QUEUE);
        let (end, ended) = mpsc::sync_channel(1);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let mut value = value;
            while let Some(job) = jobs.blocking_recv() {
                job(&mut value);
            }
            // Nobody may be waiting for it any more; then it is dropped here.
            drop(end.send(value));
        })?;
        Ok(Self { inner: Arc::new(Inner::Thread { queue, ended: Mutex::new(Some(ended)) }) })
    }

    /// Runs `work` on the value and hands back what it returns.
    pub async fn call<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, Gone> {
        match &*self.inner {
            Inner::Inline(value) => {
                let mut value = value.lock().map_err(|_| Gone)?;
                value.as_mut().map(work).ok_or(Gone)
            }
            Inner::Thread { queue, .. } => {
                let (reply, answer) = oneshot::channel();
                let job = Box::new(move |value: &mut T| drop(reply.send(work(value))));
                queue.send(job).await.map_err(|_| Gone)?;
                answer.await.map_err(|_| Gone)
            }
        }
    }

    /// Waits until the owner has ended though handles are left: work on the value has panicked.
    pub async fn ended(&self) {
        match &*self.inner {
            Inner::Inline(_) => std::future::pending().await,
            Inner::Thread { queue, .. } => queue.closed().await,
        }
    }

    /// Takes the value back once this is the only handle left; `None` while others live, or when it was taken before.
    pub fn into_inner(self) -> Option<T> {
        match Arc::into_inner(self.inner)? {
            Inner::Inline(value) => value.into_inner().ok()?,
            Inner::Thread { queue, ended } => {
                drop(queue);
                ended.into_inner().ok()??.recv().ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_owner_runs_work_in_order_and_gives_the_value_back() {
        for placement in [Placement::Thread, Placement::Inline] {
            let owner = Owner::new(placement, "test", Vec::new()).unwrap();
            let other = owner.clone();
            for n in 0..10 {
                owner.call(move |v| v.push(n)).await.unwrap();
            }
            assert_eq!(other.call(|v| v.len()).await.unwrap(), 10);
            assert!(owner.into_inner().is_none(), "another handle is alive");
            assert_eq!(other.into_inner().unwrap(), (0..10).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn an_owner_whose_work_panics_has_ended() {
        let owner = Owner::new(Placement::Thread, "test", 1).unwrap();
        assert!(owner.call(|_| panic!("planted")).await.is_err());
        owner.ended().await;
        assert!(owner.call(|n| *n).await.is_err());
    }

    #[test]
    fn memory_is_read_in_kilobytes_whatever_the_page_size_is_and_without_mapped_files() {
        let old = "Name:\tx\nVmHWM:\t  9 kB\nVmRSS:\t   12345 kB\n";
        assert_eq!(memory(old), Some(Memory { resident: 12_345 * 1024, used: 12_345 * 1024 }));
        let new = format!("{old}RssAnon:\t    2300 kB\nRssFile:\t   10000 kB\nRssShmem:\t      45 kB\n");
        assert_eq!(memory(&new), Some(Memory { resident: 12_345 * 1024, used: 2_345 * 1024 }));
        assert_eq!(memory("Name:\tx\n"), None);
        assert!(memory_of_this_process().is_some_and(|m| m.used > 1 << 16 && m.resident > m.used));
    }
}
