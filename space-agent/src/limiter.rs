//! The memory limiter: what is taken in is bounded, and a refusal always says when to come back.
//!
//! Two things are bounded. Request bodies take room as their bytes come, and hold it until they are in the journal ([`Permit`]): what
//! is announced and not sent holds none. When a body that comes cannot get its next room, the one that comes slowest is refused. And
//! the memory that the process uses, without the pages of its own program file, is looked at every `check_interval`: above the soft
//! limit, or while it grows too fast, one request at a time is taken; above the hard limit, requests that are being read are refused too.
//! From one look to the next no more is taken than was free at the first. When a request was refused meanwhile, so are bodies of which
//! nothing has come for a second.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perigee_shared::env::{Env, Memory};
pub use perigee_shared::memory::to_decode;
use perigee_shared::memory::{Budget, Stir, Turn};
use perigee_shared::otlp::status::Status;
use perigee_shared::segment::Header;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::config::LimiterConfig;

/// What encodes or decodes waits so long, at most, until requests have given memory back.
const PATIENCE: Duration = Duration::from_secs(1);

/// What clients are told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A body that began less than this ago is not yet slow, and one that went on less than this ago is not stuck.
const LEAST: Duration = Duration::from_secs(1);

/// How memory stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Pressure {
    /// Everything is taken.
    None = 0,
    /// One request at a time is taken.
    Soft = 1,
    /// Everything is refused.
    Hard = 2,
}

/// See the module.
pub struct Limiter {
    config: LimiterConfig,
    pressure: AtomicU8,
    in_flight: AtomicU64,
    /// Bytes below the limit when memory was looked at, without what was taken since, and with what was given back.
    free: AtomicI64,
    /// Requests refused for want of memory.
    refused: AtomicU64,
    /// A request was let in since memory was looked at.
    active: AtomicBool,
    /// Wakes what looks at memory when the first request comes after a rest.
    wake: Notify,
    /// Bodies that are being read and are not whole with their first piece.
    reading: Mutex<BTreeMap<u64, Reading>>,
    next_reading: AtomicU64,
    /// Tells those who wait that room was given back.
    given_back: Notify,
}

/// A body that is being read.
struct Reading {
    began: Instant,
    /// When its latest piece came.
    came: Instant,
    bytes: u64,
    refused: CancellationToken,
}

impl Reading {
    /// Bytes a second since it began. Of those that began a moment ago the one that has come the furthest is the fastest, so that of
    /// many at once some come to their end.
    fn speed(&self, now: Instant) -> f64 {
        self.bytes as f64 / now.duration_since(self.began).max(LEAST).as_secs_f64()
    }
}

impl Limiter {
    /// A limiter without pressure.
    pub fn new(config: LimiterConfig) -> Arc<Self> {
        Arc::new(Self {
            config,
            pressure: AtomicU8::new(0),
            in_flight: AtomicU64::new(0),
            free: AtomicI64::new(signed(config.limit.0)),
            refused: AtomicU64::new(0),
            active: AtomicBool::new(false),
            wake: Notify::new(),
            reading: Mutex::default(),
            next_reading: AtomicU64::new(0),
            given_back: Notify::new(),
        })
    }

    /// How memory stands.
    pub fn pressure(&self) -> Pressure {
        match self.pressure.load(Ordering::Relaxed) {
            0 => Pressure::None,
            1 => Pressure::Soft,
            _ => Pressure::Hard,
        }
    }

    /// Bytes of request bodies that are held now.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Requests refused so far.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Lets a request in whose size is not known yet.
    pub fn admit(self: &Arc<Self>) -> Result<Permit, Status> {
        // With nothing in flight it is not requests that fill the memory: one at a time then still goes through, so that a
        // process that has merely grown never refuses for ever.
        let refused = match self.pressure() {
            Pressure::None => false,
            Pressure::Soft => self.in_flight() > 0,
            Pressure::Hard => true,
        };
        if !self.active.load(Ordering::Relaxed) && !self.active.swap(true, Ordering::Relaxed) {
            self.wake.notify_one();
        }
        if refused {
            return Err(self.refuse("memory is above its soft limit"));
        }
        Ok(Permit { limiter: Arc::clone(self), bytes: 0, reading: None })
    }

    fn reading(&self) -> MutexGuard<'_, BTreeMap<u64, Reading>> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes room for `more` bytes beside the `own` that the request holds; whether there was. One that is alone may have it though
    /// memory is short: what was used may be given back only slowly.
    fn take(&self, more: u64, own: u64) -> bool {
        let max = self.config.max_in_flight.0;
        let is_free = self.take_free(more);
        let taken = |held: u64| held.checked_add(more).filter(|all| *all <= max && (is_free || held == own));
        let is_taken = self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok();
        if is_free != is_taken {
            self.free.fetch_add(if is_free { signed(more) } else { -signed(more) }, Ordering::Relaxed);
        }
        is_taken
    }

    /// Takes so much of what was free when memory was looked at; whether there was.
    fn take_free(&self, bytes: u64) -> bool {
        let taken = |free: i64| (free >= signed(bytes)).then(|| free - signed(bytes));
        self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.in_flight.fetch_sub(bytes, Ordering::Relaxed);
        self.free.fetch_add(signed(bytes), Ordering::Relaxed);
        self.given_back.notify_waiters();
    }

    /// Refuses the body that comes slowest so that another gets room: one that is whole, or the body `id`; `false` when that is the
    /// slowest itself.
    fn make_room(&self, id: Option<u64>, now: Instant) -> bool {
        let reading = self.reading();
        if reading.values().any(|r| r.refused.is_cancelled()) {
            // Room is about to be given back.
            return true;
        }
        let slowest = reading.iter().min_by(|(_, a), (_, b)| a.speed(now).total_cmp(&b.speed(now)));
        let Some((_, slowest)) = slowest.filter(|(of, _)| Some(**of) != id) else { return false };
        slowest.refused.cancel();
        true
    }

    /// Refuses the bodies that do not come on: others are refused for the memory that they hold.
    fn make_way(&self, now: Instant) {
        for stuck in self.reading().values().filter(|r| now.duration_since(r.came) >= LEAST) {
            stuck.refused.cancel();
        }
    }

    fn refuse(&self, why: &str) -> Status {
        self.refused.fetch_add(1, Ordering::Relaxed);
        Status::unavailable(why, RETRY_AFTER)
    }

    /// Whether no request has come since memory was last looked at, and none is held.
    fn rests(&self) -> bool {
        !self.active.swap(false, Ordering::Relaxed)
            && self.in_flight() == 0
            && self.pressure() == Pressure::None
    }

    /// Looks at the memory in use until `shutdown`, and sleeps while there is nobody to refuse.
    pub async fn run(&self, env: Env, shutdown: CancellationToken) {
        let mut before = None;
        let mut refused_before = self.refused();
        loop {
            let rest = async {
                if self.rests() {
                    self.wake.notified().await;
                    true
                } else {
                    tokio::time::sleep(self.config.check_interval.0).await;
                    false
                }
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                rested = rest => if rested {
                    // Growth over a rest is no growth in a second.
                    before = None;
                }
            }
            let Some(Memory { used, .. }) = (env.memory)() else { continue };
            let now = self.judge(used, before);
            before = Some(used);
            self.free.store(signed(self.config.limit.0) - signed(used), Ordering::Relaxed);
            self.given_back.notify_waiters();
            let was = self.pressure.swap(now as u8, Ordering::Relaxed);
            let refused = std::mem::replace(&mut refused_before, self.refused());
            if self.refused() > refused {
                self.make_way(Instant::now());
            }
            if was != now as u8 {
                let used = perigee_shared::units::ByteSize(used);
                match now {
                    Pressure::None => tracing::info!(%used, "memory is below its soft limit again"),
                    _ => {
                        tracing::warn!(%used, pressure = ?now, "requests are refused until memory is free again")
                    }
                }
            }
        }
    }

    /// Waits a while for requests to give memory back when there is less than `bytes`.
    async fn settled(&self, bytes: u64) {
        let until = Instant::now() + PATIENCE;
        while self.in_flight() > 0
            && Instant::now() < until
            && (self.pressure() > Pressure::None || !self.take_free(bytes))
        {
            tokio::time::sleep(self.config.check_interval.0).await;
        }
    }

    fn judge(&self, used: u64, before: Option<u64>) -> Pressure {
        let limit = self.config.limit.0;
        let growth = self.config.max_growth_per_second.0;
        let soft = limit - self.config.spike_limit.0;
        let seconds = self.config.check_interval.0.as_secs_f64();
        let grows = before.is_some_and(|b| used.saturating_sub(b) as f64 > growth as f64 * seconds);
        if used >= limit {
            Pressure::Hard
        } else if used >= soft || (growth > 0 && grows) {
            Pressure::Soft
        } else {
            Pressure::None
        }
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Bytes that encoding `raw` bytes of requests takes.
pub const fn to_encode(raw: u64) -> u64 {
    const LEAST: u64 = 2 << 20;
    const FOR_EACH: u64 = 4;
    LEAST + FOR_EACH * raw
}

/// Bytes that what a segment leans on takes while the segment is decoded: what a base has taught, and its index.
pub const fn for_base(header: &Header) -> u64 {
    if header.base_sequence.is_some() { 12 << 20 } else { 0 }
}

/// The memory of what encodes and decodes segments.
#[derive(Clone)]
pub struct Workspace {
    budget: Budget,
    limiter: Arc<Limiter>,
}

impl Workspace {
    /// A part of what `limiter` allows.
    pub fn new(limiter: &Arc<Limiter>) -> Self {
        let budget = Budget::new(limiter.config.limit, Stir::default());
        Self { budget, limiter: Arc::clone(limiter) }
    }

    /// Bytes that whoever encodes or decodes may hold at most, even alone.
    pub fn alone(&self) -> usize {
        self.budget.alone()
    }

    /// So many bytes, once they are free. Whoever waits here must not have a turn.
    pub async fn take(&self, bytes: u64) -> Turn {
        let turn = self.budget.take(bytes).await;
        self.limiter.settled(bytes).await;
        turn
    }
}

/// A request that was let in, with the bytes it holds.
pub struct Permit {
    limiter: Arc<Limiter>,
    bytes: u64,
    /// Its number among the bodies that are being read, and what says that it is refused.
    reading: Option<(u64, CancellationToken)>,
}

const CROWDED: &str = "too many requests are in flight";

/// A refusal for good: waiting would not help.
const NEVER: &str = "the request is held beside what it is read from, which is more than memory_limiter.max_in_flight; send smaller batches";

impl Permit {
    /// [`Permit::grow_to`] for a body that comes piece by piece: it waits for room as long as others come slower.
    pub async fn grow_while_reading(&mut self, bytes: usize) -> Result<(), Status> {
        let bytes = bytes as u64;
        if self.limiter.pressure() == Pressure::Hard {
            return Err(self.limiter.refuse("memory is above its limit"));
        }
        let now = Instant::now();
        let (id, refused) = self
            .reading
            .get_or_insert_with(|| {
                (self.limiter.next_reading.fetch_add(1, Ordering::Relaxed), CancellationToken::new())
            })
            .clone();
        {
            let mut reading = self.limiter.reading();
            let began = Reading { began: now, came: now, bytes: 0, refused: refused.clone() };
            let body = reading.entry(id).or_insert(began);
            (body.came, body.bytes) = (now, bytes);
        }
        tokio::select! {
            biased;
            () = refused.cancelled() => Err(self.limiter.refuse(CROWDED)),
            grown = self.grow(bytes, Some(id)) => grown,
        }
    }

    /// [`Permit::grow_to`] for a body that is whole: bodies that still come make room.
    pub async fn grow_whole(&mut self, bytes: usize) -> Result<(), Status> {
        self.grow(bytes as u64, None).await
    }

    async fn grow(&mut self, bytes: u64, reading: Option<u64>) -> Result<(), Status> {
        let limiter = Arc::clone(&self.limiter);
        let more = bytes.saturating_sub(self.bytes);
        self.can_have(bytes)?;
        loop {
            let mut given_back = pin!(limiter.given_back.notified());
            given_back.as_mut().enable();
            if limiter.take(more, self.bytes) {
                self.bytes += more;
                return Ok(());
            }
            if !limiter.make_room(reading, Instant::now()) {
                return Err(limiter.refuse(CROWDED));
            }
            given_back.await;
        }
    }

    /// Comes back with a refusal when another body needs the room of this one, which comes slower.
    pub async fn refused(&self) -> Status {
        match &self.reading {
            Some((_, refused)) => refused.cancelled().await,
            None => std::future::pending().await,
        }
        self.limiter.refuse(CROWDED)
    }

    /// The body is whole.
    pub fn is_read(&mut self) {
        if let Some((id, _)) = self.reading.take() {
            self.limiter.reading().remove(&id);
        }
    }

    /// Takes room for `bytes` in all before they are buffered.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Status> {
        let more = (bytes as u64).saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        if self.limiter.pressure() == Pressure::Hard {
            return Err(self.limiter.refuse("memory is above its limit"));
        }
        self.can_have(bytes as u64)?;
        if !self.limiter.take(more, self.bytes) {
            return Err(self.limiter.refuse(CROWDED));
        }
        self.bytes += more;
        Ok(())
    }

    fn can_have(&self, bytes: u64) -> Result<(), Status> {
        if bytes <= self.limiter.config.max_in_flight.0 {
            return Ok(());
        }
        self.limiter.refused.fetch_add(1, Ordering::Relaxed);
        Err(Status::refuse(Code::ResourceExhausted, NEVER))
    }

    /// Gives back what is above `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes as u64);
        self.limiter.give_back(less);
        self.bytes -= less;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.is_read();
        self.limiter.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use perigee_shared::units::{ByteSize, Span};

    use super::*;

    fn limiter(growth: u64) -> Arc<Limiter> {
        Limiter::new(LimiterConfig {
            check_interval: Span::millis(500),
            limit: ByteSize(1000),
            spike_limit: ByteSize(200),
            max_growth_per_second: ByteSize(growth),
            max_in_flight: ByteSize(100),
        })
    }

    #[test]
    fn what_can_never_fit_is_refused_for_good() {
        let limiter = limiter(0);
        let mut permit = limiter.admit().unwrap();
        let refused = permit.grow_to(101).unwrap_err();
        assert_eq!((refused.code, refused.retry_after), (Code::ResourceExhausted, None));
        permit.grow_to(100).unwrap();
        let mut other = limiter.admit().unwrap();
        assert!(other.grow_to(1).unwrap_err().retry_after.is_some(), "it fits later");
        assert_eq!(limiter.refused(), 2);
    }

    #[test]
    fn bytes_in_flight_are_bounded_and_given_back() {
        let limiter = limiter(0);
        let mut first = limiter.admit().unwrap();
        first.grow_to(60).unwrap();
        let mut second = limiter.admit().unwrap();
        let status = second.grow_to(41).unwrap_err();
        assert!(status.retry_after.is_some(), "every refusal has a hint");
        drop(second);
        assert_eq!(limiter.in_flight(), 60);
        first.shrink_to(10);
        assert!(limiter.admit().unwrap().grow_to(90).is_ok());
        drop(first);
        assert_eq!((limiter.in_flight(), limiter.refused()), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_body_that_comes_slowest_makes_room_for_the_others() {
        let limiter = limiter(0);
        let mut slow = limiter.admit().unwrap();
        slow.grow_while_reading(50).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let mut other = limiter.admit().unwrap();
        other.grow_while_reading(40).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        // 50 bytes in 6 s, 40 in 1 s, and now 60 at once.
        let mut fast = limiter.admit().unwrap();
        let slow = tokio::spawn(async move {
            let status = slow.refused().await;
            assert!(status.retry_after.is_some());
        });
        fast.grow_while_reading(60).await.unwrap();
        slow.await.unwrap();
        assert_eq!(limiter.in_flight(), 100);
        // It is the slowest itself now: nobody makes room for it.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(other.grow_while_reading(45).await.is_err());
        drop(other);
        // One that is whole is nobody's to refuse.
        fast.is_read();
        let mut last = limiter.admit().unwrap();
        assert!(last.grow_while_reading(41).await.is_err());
        drop((fast, last));
        assert_eq!((limiter.in_flight(), limiter.reading().len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_bodies_at_once_the_one_that_has_come_the_furthest_goes_on() {
        let limiter = limiter(0);
        let [mut far, mut near, mut late] = [0; 3].map(|_| limiter.admit().unwrap());
        far.grow_while_reading(60).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        near.grow_while_reading(40).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(late.grow_while_reading(30).await.is_err(), "it has come the least far");
        drop(late);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let near = tokio::spawn(async move { near.refused().await });
        let mut late = limiter.admit().unwrap();
        late.grow_while_reading(30).await.unwrap();
        assert!(near.await.is_ok(), "40 bytes in 3 s are slower than 30 in one");
    }

    #[test]
    fn no_more_is_taken_than_was_free_when_memory_was_looked_at() {
        let limiter = limiter(0);
        limiter.free.store(30, Ordering::Relaxed);
        let [mut first, mut second] = [0; 2].map(|_| limiter.admit().unwrap());
        first.grow_to(20).unwrap();
        assert!(second.grow_to(11).is_err());
        second.grow_to(10).unwrap();
        drop(second);
        first.grow_to(50).expect("it is alone");
        assert_eq!(limiter.free.load(Ordering::Relaxed), -20);
        assert!(limiter.admit().unwrap().grow_to(1).is_err());
        drop(first);
        assert!(limiter.admit().unwrap().grow_to(30).is_ok());
    }

    #[test]
    fn pressure_follows_the_limits_and_the_growth() {
        let plain = limiter(0);
        assert_eq!(plain.judge(799, None), Pressure::None);
        assert_eq!(plain.judge(800, None), Pressure::Soft);
        assert_eq!(plain.judge(1000, None), Pressure::Hard);
        let growing = limiter(100);
        assert_eq!(growing.judge(150, Some(100)), Pressure::None);
        assert_eq!(growing.judge(151, Some(100)), Pressure::Soft);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_not_looked_at_while_nothing_comes() {
        let limiter = limiter(0);
        let (looks, shutdown) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        let counter = Arc::clone(&looks);
        let mut env = Env::production();
        env.memory = Arc::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
            Some(Memory { resident: 1, used: 1 })
        });
        let (running, stop) = (Arc::clone(&limiter), shutdown.clone());
        let run = tokio::spawn(async move { running.run(env, stop).await });
        let pass = || tokio::time::sleep(Duration::from_secs(60));
        pass().await;
        assert_eq!(looks.load(Ordering::Relaxed), 0);
        let permit = limiter.admit();
        pass().await;
        let few = looks.load(Ordering::Relaxed);
        assert!((1..5).contains(&few), "{few}");
        permit.unwrap().grow_to(10).unwrap();
        let mut held = limiter.admit().unwrap();
        held.grow_to(10).unwrap();
        pass().await;
        assert!(looks.load(Ordering::Relaxed) > 100, "a request is held");
        shutdown.cancel();
        run.await.unwrap();
    }

    /// What looks at `used` bytes of memory until it is dropped.
    fn looking(limiter: &Arc<Limiter>, used: u64) -> tokio_util::task::AbortOnDropHandle<()> {
        let mut env = Env::production();
        env.memory = Arc::new(move || Some(Memory { resident: used, used }));
        let limiter = Arc::clone(limiter);
        let run = async move { limiter.run(env, CancellationToken::new()).await };
        tokio_util::task::AbortOnDropHandle::new(tokio::spawn(run))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_on_holds_no_memory_for_which_others_are_refused() {
        let limiter = limiter(0);
        let _looking = looking(&limiter, 900);
        let mut stuck = limiter.admit().unwrap();
        stuck.grow_while_reading(10).await.unwrap();
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(limiter.pressure(), Pressure::Soft);
        let refused = tokio::time::timeout(Duration::ZERO, stuck.refused()).await;
        assert!(refused.is_err(), "nobody else has come");
        assert!(limiter.admit().is_err());
        assert!(stuck.refused().await.retry_after.is_some());
        drop(stuck);
        assert!(limiter.admit().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_encodes_waits_a_while_for_requests_when_memory_is_short() {
        let limiter = limiter(0);
        let workspace = Workspace::new(&limiter);
        let mut permit = limiter.admit().unwrap();
        permit.grow_to(50).unwrap();
        let began = Instant::now();
        let waited = async |bytes| {
            let began = Instant::now();
            drop(workspace.take(bytes).await);
            began.elapsed()
        };
        assert_eq!(waited(10).await, Duration::ZERO);
        limiter.pressure.store(Pressure::Soft as u8, Ordering::Relaxed);
        assert_eq!(waited(10).await, PATIENCE, "a request holds its memory");
        let gives_back = async {
            tokio::time::sleep(Duration::from_millis(600)).await;
            drop(permit);
        };
        let (waited, ()) = tokio::join!(waited(10), gives_back);
        assert_eq!((waited, began.elapsed()), (PATIENCE, 2 * PATIENCE), "it is looked at each half second");
        assert_eq!(limiter.in_flight(), 0);
    }

    #[test]
    fn above_the_hard_limit_requests_that_are_being_read_are_refused() {
        let limiter = limiter(0);
        let mut permit = limiter.admit().unwrap();
        limiter.pressure.store(Pressure::Hard as u8, Ordering::Relaxed);
        assert!(permit.grow_to(1).is_err());
        assert!(limiter.admit().is_err());
    }
}
