//! Memory that several share.
//!
//! What decodes or encodes segments takes what it needs of a [`Budget`] before it begins.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::segment::{Codec, Header};
use crate::signal::Signal;
use crate::units::ByteSize;

/// Tells that something takes memory now, so that it is looked at.
#[derive(Debug, Clone, Default)]
pub struct Stir(Arc<Notify>);

impl Stir {
    /// Something does.
    pub fn stir(&self) {
        self.0.notify_one();
    }

    /// Waits until something does.
    pub async fn stirred(&self) {
        self.0.notified().await;
    }
}

/// Bytes of the models of a time series (measured). Each point may be of one of its own, and they are kept until the last is read.
pub const SERIES: u64 = 280;

/// Bytes that decoding a segment may take, beside the bases that it needs, until its requests are all sent.
pub fn to_decode(header: &Header) -> u64 {
    // Buffers for pieces of requests, for zstd, and the models of codec 2.
    const ALWAYS: u64 = 2 << 20;
    // What is noted of each item: where it stands, its time, and of a span its ids. The shortest item has two bytes.
    const ITEM: u64 = 40;
    let Header { raw_len, payload_len, .. } = *header;
    let of_items = |count: u64, each| count.min(raw_len / 2) * each;
    let items = of_items(header.items.total(), ITEM) + of_items(header.items[Signal::Metrics], SERIES);
    ALWAYS
        + match Codec::from_number(header.codec) {
            Some(codec) if codec.has_bases() => raw_len + raw_len / 4 + payload_len.min(raw_len / 4) + items,
            // One by one, but one may be all there is.
            _ => payload_len + raw_len,
        }
}

/// What tables take, beside what is in them, when they grow.
const GROWTH: u64 = 8 << 20;

/// Bytes of a unit of the budget.
const UNIT: u64 = 64 << 10;

/// The memory that whoever decodes or encodes segments shares: exporters, sealing, replays, pages, checks. Each takes what it needs before it begins and
/// waits if that is not free; one that needs more than all there is has all of it, alone, and [so much](Self::alone) at most. Who waits holds nothing. Of those that need
/// much the first goes first; those that need little have a part of their own, so that large ones never keep them waiting.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    large: Part,
    small: Part,
    alone: u64,
    stir: Stir,
}

/// A part of the budget.
#[derive(Debug)]
struct Part {
    free: Arc<Semaphore>,
    units: u32,
    /// How many wait for room in it.
    waiting: watch::Sender<usize>,
}

impl Part {
    fn new(bytes: u64) -> Self {
        let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).clamp(1, Semaphore::MAX_PERMITS as u32);
        Self { free: Arc::new(Semaphore::new(units as usize)), units, waiting: watch::Sender::new(0) }
    }

    fn units_of(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.units)
    }
}

impl Default for Budget {
    /// That of the default limit.
    fn default() -> Self {
        Self::new(ByteSize::mib(256), Stir::default())
    }
}

/// A place in the queue, until it is dropped.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    fn new(queue: &'a watch::Sender<usize>) -> Self {
        queue.send_modify(|waiting| *waiting += 1);
        Self(queue)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

impl Budget {
    /// A part of `limit`; `stir` is told when something is taken of it.
    pub fn new(limit: ByteSize, stir: Stir) -> Self {
        let all = limit.0 / 8 * 3;
        let alone = all.saturating_sub(GROWTH).max(GROWTH);
        Self(Arc::new(Inner { large: Part::new(all / 4 * 3), small: Part::new(all / 4), alone, stir }))
    }

    /// Bytes that whoever decodes may hold at most, even alone.
    pub fn alone(&self) -> usize {
        usize::try_from(self.0.alone).unwrap_or(usize::MAX)
    }

    /// What is told when something is taken of it.
    pub fn stirs(&self) -> Stir {
        self.0.stir.clone()
    }

    /// Where so much is taken from: half of the part for little is the most that one may need there.
    fn part(&self, bytes: u64) -> &Part {
        let Inner { large, small, .. } = &*self.0;
        if bytes <= u64::from(small.units) * UNIT / 2 { small } else { large }
    }

    /// So many bytes, if they are free and nobody waits for them.
    pub fn try_take(&self, bytes: u64) -> Option<Turn> {
        let part = self.part(bytes);
        let permit = Arc::clone(&part.free).try_acquire_many_owned(part.units_of(bytes)).ok()?;
        Some(self.turn(bytes, permit))
    }

    /// So many bytes, once they are free. Whoever waits here must not have a turn.
    pub async fn take(&self, bytes: u64) -> Turn {
        if let Some(turn) = self.try_take(bytes) {
            return turn;
        }
        let part = self.part(bytes);
        let _waiting = Waiting::new(&part.waiting);
        let permit = Arc::clone(&part.free).acquire_many_owned(part.units_of(bytes)).await;
        self.turn(bytes, permit.expect("it is never closed"))
    }

    fn turn(&self, bytes: u64, permit: OwnedSemaphorePermit) -> Turn {
        self.0.stir.stir();
        Turn { budget: self.clone(), needs: bytes, permit, since: Instant::now() }
    }
}

/// What somebody has of the budget, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    budget: Budget,
    /// What it was taken for.
    needs: u64,
    permit: OwnedSemaphorePermit,
    since: Instant,
}

impl Turn {
    /// After so long one that others wait for is to end.
    const LONG: Duration = Duration::from_secs(2);

    /// Whether it is enough for so much.
    pub fn covers(&self, bytes: u64) -> bool {
        bytes <= self.needs && std::ptr::eq(self.part(), self.budget.part(bytes))
    }

    fn part(&self) -> &Part {
        self.budget.part(self.needs)
    }

    /// Gives back what is above so many bytes.
    pub fn keep(&mut self, bytes: u64) {
        let part = self.part();
        let more = self.permit.num_permits().saturating_sub(part.units_of(bytes) as usize);
        drop(self.permit.split(more));
    }

    /// Waits until somebody else waits for what this has.
    pub async fn wanted(&self) {
        let mut waiting = self.part().waiting.subscribe();
        // The sender lives as long as this does.
        let _ = waiting.wait_for(|waiting| *waiting > 0).await;
    }

    /// Whether somebody waits for what this has, and has done so for long enough.
    pub fn is_over(&self) -> bool {
        self.since.elapsed() >= Self::LONG && *self.part().waiting.borrow() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(mib: u64) -> Budget {
        // Three eighths: a quarter of that for what needs little.
        Budget::new(ByteSize::mib(mib * 8 / 3), Stir::default())
    }

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn what_is_taken_together_is_never_more_than_the_budget() {
        let budget = budget(24);
        let first = budget.try_take(10 * MIB).unwrap();
        assert!(budget.try_take(9 * MIB).is_none(), "18 MiB are for what needs much");
        let second = budget.try_take(8 * MIB).unwrap();
        drop(first);
        assert!(budget.try_take(100 * MIB).is_none(), "what needs more than there is is alone");
        drop(second);
        let alone = budget.try_take(100 * MIB).unwrap();
        assert!(budget.try_take(4 * MIB).is_none());
        let small: Vec<Turn> = (0..2).map(|_| budget.try_take(3 * MIB).unwrap()).collect();
        assert!(budget.try_take(MIB).is_none(), "6 MiB are for what needs little");
        drop((alone, small));
    }

    #[tokio::test]
    async fn who_waits_comes_in_order_and_little_is_never_behind_much() {
        let budget = budget(24);
        let mut first = budget.try_take(12 * MIB).unwrap();
        let mut large = Box::pin(budget.take(100 * MIB));
        let mut second = Box::pin(budget.take(5 * MIB));
        assert!(futures_are_pending(&mut large, &mut second).await);
        assert!(budget.try_take(4 * MIB).is_none(), "6 MiB are free, and others came before");
        assert!(budget.try_take(2 * MIB).is_some());
        first.wanted().await;
        first.keep(MIB);
        assert!(futures_are_pending(&mut large, &mut second).await);
        drop(first);
        let large = large.await;
        assert!(!large.covers(MIB), "that is taken from the other part");
        assert!(large.covers(90 * MIB));
        drop(large);
        assert!(second.await.covers(5 * MIB));
    }

    async fn futures_are_pending(
        one: &mut (impl Future<Output = Turn> + Unpin),
        other: &mut (impl Future<Output = Turn> + Unpin),
    ) -> bool {
        tokio::select! {
            biased;
            _ = one => false,
            _ = other => false,
            () = std::future::ready(()) => true,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_is_over_when_others_wait_and_it_was_long() {
        let budget = budget(24);
        let turn = budget.try_take(18 * MIB).unwrap();
        tokio::time::advance(2 * Turn::LONG).await;
        assert!(!turn.is_over(), "nobody waits");
        {
            let mut other = Box::pin(budget.take(18 * MIB));
            tokio::select! {
                biased;
                _ = &mut other => panic!("there is no room"),
                () = std::future::ready(()) => {}
            }
            assert!(turn.is_over());
        }
        assert!(!turn.is_over(), "who waited has gone");
    }

    #[test]
    fn a_segment_needs_what_its_codec_makes_of_it() {
        use crate::signal::Counts;
        let header = |codec: Codec, payload_len, raw_len, items| {
            Header::of_test(codec, payload_len, raw_len, Counts::of(Signal::Logs, items))
        };
        let mib = |header: Header| to_decode(&header) >> 20;
        assert_eq!(mib(header(Codec::ZstdRows, 8 * MIB, 16 * MIB, 400)), 26);
        assert_eq!(mib(header(Codec::Columns, 8 * MIB, 16 * MIB, 400)), 26);
        assert_eq!(mib(header(Codec::Columns, MIB, 16 * MIB, MIB)), 63);
        assert_eq!(mib(header(Codec::Columns, MIB, 16 * MIB, u64::MAX)), 343, "an item has two bytes");
    }
}
