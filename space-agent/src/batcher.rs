//! The batcher: decides when what waits in the journal becomes a segment, and makes it one (`sizing.rs` says how large).
//!
//! Each lane is sealed by itself, the most urgent first; one that was just sealed lets another go before it, so that alarms without
//! end do not keep bulk in the journal. A full batch is always sealed. The rest is sealed when it is older than
//! `timeout` while somebody takes it (in contact, or a direct exporter), before a contact, when it has waited for a good part of
//! its lifetime, and when the lane holds back too much of the journal. For a thin contact only a few segments lie ready
//! (`sizing.rs`). While requests keep coming, sealing may lag behind by `defer_sealing` bytes, so that a burst has the processor
//! for itself; `sealing_cpu` makes bulk rest after each segment.

use std::time::Duration;

use perigee_shared::clock::sleep_until;
use perigee_shared::env::{Env, Owner};
use perigee_shared::segment::{Header, Lane};
use perigee_shared::supervise::expecting;
use perigee_shared::telemetry::Repeats;
use perigee_shared::units::ByteSize;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::BatchConfig;
use crate::journal::Progress;
use crate::lanes::Lanes;
use crate::leaning::{Leaning, LeaningError};
use crate::limiter::{Workspace, to_encode};
use crate::sizing::{Destinations, Sizing};
use crate::wal::{Encoding, SealError, Unsealed, Wal, WalError};

/// Without a request for so long, a burst is over.
const QUIET: Duration = Duration::from_millis(200);

/// What is not full waits in the journal for this part of its lane's lifetime at most, since a segment's lifetime begins when it
/// is sealed.
const OF_LIFETIME: u32 = 4;

/// What of the memory limit a codec may take: three eighths. Requests have a quarter of it, the log and the program the rest.
const PART_OF_MEMORY: (u64, u64) = (3, 8);

/// After a failure.
const RETRY: Duration = Duration::from_secs(1);

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// Seal a full batch of a lane, or everything that it has if `all`.
    Seal { lane: Lane, all: bool },
    /// Look again then, or when something changes.
    Wait(Option<Instant>),
}

/// Why a segment could not be made.
#[derive(Debug, thiserror::Error)]
enum BatchError {
    #[error(transparent)]
    Wal(#[from] WalError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Leaning(#[from] LeaningError),
    #[error(transparent)]
    Gone(#[from] perigee_shared::env::Gone),
}

/// See the module.
pub struct Batcher {
    config: BatchConfig,
    lanes: Lanes,
    env: Env,
    wal: Owner<Wal>,
    progress: watch::Receiver<Progress>,
    told: watch::Sender<Progress>,
    /// Whether somebody takes segments now, or soon will.
    wanted: watch::Receiver<bool>,
    /// Tells consumers that there is a new segment.
    sealed: watch::Sender<u64>,
    /// The lane that was sealed last.
    last: Option<Lane>,
    /// Until then bulk rests, so that sealing keeps to its share of the processor.
    rest: Instant,
    leaning: Leaning,
    sizing: Sizing,
    /// The next batch is encoded as rows, since a codec has failed.
    plain: bool,
    /// Bytes of memory that a codec may take, and whose they are.
    memory: Option<(usize, Workspace)>,
    /// Failures that the log has a line about.
    said: Repeats,
}

impl Batcher {
    /// A batcher that is told of commits by `told`, of contacts by `wanted`, and tells of segments by `sealed`.
    pub fn new(
        config: BatchConfig,
        lanes: Lanes,
        env: Env,
        wal: Owner<Wal>,
        told: watch::Sender<Progress>,
        wanted: watch::Receiver<bool>,
        sealed: watch::Sender<u64>,
    ) -> Self {
        let (progress, rest) = (told.subscribe(), Instant::now());
        let leaning = Leaning::default();
        Self {
            config,
            lanes,
            env,
            wal,
            progress,
            told,
            wanted,
            sealed,
            last: None,
            rest,
            leaning,
            sizing: Sizing::default(),
            plain: false,
            memory: None,
            said: Repeats::default(),
        }
    }

    /// Bounds what a codec may take in memory to its part of `limit`, which it shares with all that takes of `workspace`.
    #[must_use]
    pub fn within(mut self, limit: ByteSize, workspace: Workspace) -> Self {
        let part = usize::try_from(limit.0 / PART_OF_MEMORY.1 * PART_OF_MEMORY.0);
        self.memory = part.ok().map(|part| (part, workspace));
        self
    }

    /// With segments no larger than contacts allow.
    #[must_use]
    pub fn planned(mut self, destinations: Option<Destinations>) -> Self {
        self.sizing = Sizing::new(destinations, &self.config);
        self
    }

    /// Seals until `shutdown`. What then waits in the journal stays there, durable.
    pub async fn run(&mut self, shutdown: CancellationToken) {
        // After a panic it may be half of itself.
        self.leaning = Leaning::default();
        // The log is gone when the agent ends.
        let Ok(mut unasked) = self.wal.call(|wal| wal.unasked()).await else { return };
        loop {
            let progress = self.progress.borrow_and_update().clone();
            let wanted = *self.wanted.borrow_and_update();
            self.leaning.wanted(wanted);
            self.sizing.look().await;
            let decision = self.decide(&progress, wanted, Instant::now(), self.env.since_boot().nano);
            match decision {
                Decision::Seal { lane, all } => {
                    let waiting = progress.unsealed.iter().find(|waiting| waiting.lane == lane);
                    if let Err(error) = self.seal(lane, all, waiting.map_or(0, |w| w.raw)).await {
                        if let Some(times) = self.said.count(&error.to_string()) {
                            tracing::error!(%error, times, "a segment could not be sealed; trying again");
                        }
                        tokio::select! {
                            biased;
                            () = shutdown.cancelled() => return,
                            () = tokio::time::sleep(RETRY) => {}
                        }
                    }
                    if shutdown.is_cancelled() {
                        return;
                    }
                }
                Decision::Wait(until) => {
                    let leaves = progress.unsealed.iter().any(|waiting| self.leaves(waiting));
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return,
                        changed = self.progress.changed() => if changed.is_err() { return },
                        changed = unasked.changed() => match changed {
                            Ok(()) => {
                                self.count().await;
                                // There may be segments too that nobody has asked for.
                                self.sealed.send_modify(|n| *n += 1);
                            }
                            Err(_) => return,
                        },
                        changed = self.wanted.changed() => if changed.is_err() { return },
                        () = self.sizing.gone(), if leaves => self.count().await,
                        () = sleep_until(until) => {}
                    }
                }
            }
        }
    }

    /// Whether what waits is left in the journal for now.
    fn leaves(&self, waiting: &Unsealed) -> bool {
        self.sizing.leaves(waiting, &self.lanes.policy(waiting.lane), &self.config)
    }

    /// Looks at what waits, and how much lies ready.
    async fn count(&self) {
        let told = self.told.clone();
        // The log is gone when the agent ends.
        drop(self.wal.call(move |wal| told.send_modify(|p| p.unsealed = wal.segments().unsealed())).await);
    }

    fn decide(&self, progress: &Progress, wanted: bool, now: Instant, since_boot: u64) -> Decision {
        let mut next: Option<Instant> = None;
        let mut again = None;
        for waiting in &progress.unsealed {
            let mut decision = self.decide_lane(waiting, progress.at, wanted, now, since_boot);
            if waiting.lane >= Lane::BULK && now < self.rest && decision != Decision::Wait(None) {
                decision = Decision::Wait(Some(self.rest));
            }
            match decision {
                Decision::Seal { lane, .. } if self.last == Some(lane) => again = Some(decision),
                Decision::Seal { .. } => return decision,
                Decision::Wait(at) => next = [next, at].into_iter().flatten().min(),
            }
        }
        again.unwrap_or(Decision::Wait(next))
    }

    fn decide_lane(
        &self,
        waiting: &Unsealed,
        committed: Instant,
        wanted: bool,
        now: Instant,
        since_boot: u64,
    ) -> Decision {
        let lane = waiting.lane;
        let policy = self.lanes.policy(lane);
        let left_the_configuration = lane != Lane::BULK && !self.lanes.policies.contains_key(&lane);
        let leaves = self.leaves(waiting);
        let holds_back = waiting.held_back > self.config.max_hold_back.0.max(self.config.defer_sealing.0);
        if left_the_configuration || holds_back && !leaves {
            return Decision::Seal { lane, all: true };
        }
        if !leaves && waiting.is_full(self.sizing.limits(lane, &self.config)) {
            let quiet_at = committed + QUIET;
            if waiting.held_back >= self.config.defer_sealing.0 || now >= quiet_at {
                return Decision::Seal { lane, all: false };
            }
            return Decision::Wait(Some(quiet_at));
        }
        let timeout = (wanted && !leaves).then(|| policy.timeout.unwrap_or(self.config.timeout.0));
        let timeouts = [timeout, policy.lifetime.map(|lifetime| lifetime / OF_LIFETIME)];
        let Some(timeout) = timeouts.into_iter().flatten().min() else { return Decision::Wait(None) };
        let age = i128::from(since_boot) - i128::from(waiting.oldest_since_boot);
        let age = Duration::from_nanos(u64::try_from(age).unwrap_or(0));
        match timeout.checked_sub(age) {
            Some(left) if !left.is_zero() => Decision::Wait(Some(now + left)),
            _ => Decision::Seal { lane, all: true },
        }
    }

    /// Makes one segment of what waits in `lane`, `raw` bytes.
    async fn seal(&mut self, lane: Lane, all: bool, raw: u64) -> Result<Option<Header>, BatchError> {
        let limits = self.sizing.limits(lane, &self.config);
        let need = to_encode(raw.min(2 * limits.raw));
        let _turn = match &self.memory {
            Some((_, workspace)) => Some(workspace.take(need).await),
            None => None,
        };
        self.last = Some(lane);
        let batch = self.wal.call(move |wal| wal.segments().take_batch(lane, limits, all)).await??;
        let Some(batch) = batch else { return Ok(None) };
        let encoding = match std::mem::take(&mut self.plain) {
            false => self.leaning.encoding(&self.env, &self.wal, self.config.codec, lane).await?,
            true => Encoding::plain(),
        };
        let encoding = Encoding { memory: self.memory.as_ref().map(|(bytes, _)| *bytes), ..encoding };
        let (now, began) = (self.env.unix_nano(), Instant::now());
        let sealed = self.env.cpu(move || expecting(|| batch.seal(&encoding, now))).await;
        let sealed = sealed.unwrap_or(Err(SealError::Panicked));
        let mut sealed = match sealed {
            Err(SealError::Journal { group, source }) => {
                tracing::error!(
                    event.name = "perigee.wal.corruption",
                    error = %source,
                    group,
                    "a damaged part of the journal was dropped"
                );
                let told = self.told.clone();
                let dropped = self.wal.call(move |wal| {
                    let dropped = wal.journal().drop_group(group);
                    told.send_modify(|progress| progress.unsealed = wal.segments().unsealed());
                    dropped
                });
                dropped.await??;
                return Ok(None);
            }
            sealed => sealed.inspect_err(|_| self.plain = true)?,
        };
        let taught = sealed.take_taught();
        let busy = began.elapsed();
        self.rest = Instant::now() + busy.mul_f64(1.0 / self.config.sealing_cpu.0 - 1.0);
        let told = self.told.clone();
        let header = self
            .wal
            .call(move |wal| {
                let header = wal.segments().commit(sealed);
                told.send_modify(|progress| progress.unsealed = wal.segments().unsealed());
                header
            })
            .await?;
        // A ground that has it already had it sealed meanwhile.
        let header = match header {
            Err(WalError::Stale) => return Ok(None),
            header => header?,
        };
        tracing::debug!(
            segment = %header.id,
            items = header.items.total(),
            raw = header.raw_len,
            payload = header.payload_len,
            "sealed"
        );
        self.sizing.sealed(&header);
        self.leaning.sealed(&header, taught);
        self.sealed.send_modify(|n| *n += 1);
        Ok(Some(header))
    }
}

#[cfg(test)]
mod tests {
    use perigee_shared::env::Placement;
    use perigee_shared::otlp::walk::Walked;
    use perigee_shared::signal::{Signal, SignalSet, TimeRange};
    use perigee_shared::units::{ByteSize, Span};

    use super::*;
    use crate::lanes::{Percent, Policy};
    use crate::wal::{Accepted, WalConfig, Wanted, WhenFull};

    const URGENT: Lane = Lane(1);

    fn batcher(directory: &std::path::Path, config: BatchConfig) -> Batcher {
        let (wanted, sealed) = (watch::channel(false).1, watch::channel(0).0);
        told_of(directory, config, wanted, sealed)
    }

    fn told_of(
        directory: &std::path::Path,
        config: BatchConfig,
        wanted: watch::Receiver<bool>,
        sealed: watch::Sender<u64>,
    ) -> Batcher {
        let env = Env::production();
        let urgent = Policy {
            timeout: Some(Duration::ZERO),
            lifetime: Some(Duration::from_secs(40)),
            ..Policy::default()
        };
        let lanes = Lanes { policies: [(URGENT, urgent)].into(), ..Lanes::default() };
        let consumers = [("link".to_owned(), SignalSet::default().with(Signal::Logs))].into();
        let wal = WalConfig {
            directory: directory.to_owned(),
            satellite: None,
            volatile: crate::wal::Volatile::Refuse,
            volatile_bytes: 0,
            max_bytes: 1 << 20,
            when_full: WhenFull::Refuse,
            ballast: 0,
            consumers,
            lanes: lanes.clone(),
        };
        let wal = Wal::open(wal, env.clone()).unwrap();
        let wal = Owner::new(Placement::Inline, "wal", wal).unwrap();
        let (told, _) = watch::channel(Progress { unsealed: Vec::new(), at: Instant::now() });
        Batcher::new(config, lanes, env, wal, told, wanted, sealed)
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_from_another_file_is_sealed_though_nobody_sends() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("old")).unwrap();
        let old = batcher(&at("old"), BatchConfig::default()).wal;
        let walked = Walked { items: 3, time: TimeRange::EMPTY };
        let request = Accepted { signal: Signal::Logs, body: bytes::Bytes::new(), walked };
        old.call(move |wal| wal.journal().append(&[request])).await.unwrap().unwrap();
        old.into_inner().unwrap().close().unwrap();
        std::fs::create_dir(at("new")).unwrap();
        let (_in_contact, wanted) = watch::channel(true);
        let (sealed, mut segments) = watch::channel(0);
        let config = BatchConfig { timeout: Span::secs(0), ..BatchConfig::default() };
        let mut batcher = told_of(&at("new"), config, wanted, sealed);
        let (wal, stop) = (batcher.wal.clone(), CancellationToken::new());
        let task = tokio::spawn({
            let stop = stop.clone();
            async move { batcher.run(stop).await }
        });
        tokio::task::yield_now().await;
        let file = at("old").join("wal.redb");
        let offered =
            wal.call(move |wal| wal.journal().salvage(&file, Wanted::default())).await.unwrap().unwrap();
        assert_eq!(offered.appended.items, 3);
        let day = Duration::from_secs(86_400);
        tokio::time::timeout(day, segments.wait_for(|n| *n > 0)).await.expect("a segment in a day").unwrap();
        stop.cancel();
        task.await.unwrap();
    }

    const S: u64 = 1_000_000_000;

    fn waiting(lane: Lane, raw: u64, oldest: u64) -> Unsealed {
        let oldest_since_boot = oldest as i64;
        let (held_back, sealed, sealed_bytes) = (5, 0, 0);
        Unsealed {
            lane,
            raw,
            items: 1,
            held_back,
            sealed,
            sealed_bytes,
            oldest_unix_nano: 0,
            oldest_since_boot,
        }
    }

    fn progress(unsealed: Vec<Unsealed>, at: Instant) -> Progress {
        Progress { unsealed, at }
    }

    const BULK: Decision = Decision::Seal { lane: Lane::BULK, all: true };

    #[tokio::test(start_paused = true)]
    async fn what_is_not_full_waits_for_its_age_when_somebody_wants_it() {
        let dir = tempfile::tempdir().unwrap();
        let batcher = batcher(dir.path(), BatchConfig { timeout: Span::secs(2), ..BatchConfig::default() });
        let now = Instant::now();
        let some = progress(vec![waiting(Lane::BULK, 10, 10 * S)], now);
        let decide = |wanted, unix| batcher.decide(&some, wanted, now, unix);
        assert_eq!(decide(false, 100 * S), Decision::Wait(None));
        assert_eq!(decide(true, 11 * S), Decision::Wait(Some(now + Duration::from_secs(1))));
        assert_eq!(decide(true, 12 * S), BULK);
        assert_eq!(batcher.decide(&progress(Vec::new(), now), true, now, 100 * S), Decision::Wait(None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_batch_is_sealed_at_once_or_when_the_burst_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let full = progress(vec![waiting(Lane::BULK, 5 << 20, 1)], now);
        let part = Decision::Seal { lane: Lane::BULK, all: false };
        let eager = batcher(dir.path(), BatchConfig::default());
        assert_eq!(eager.decide(&full, false, now, 2), part);
        drop(eager);
        let lazy =
            batcher(dir.path(), BatchConfig { defer_sealing: ByteSize::mib(1), ..BatchConfig::default() });
        assert_eq!(lazy.decide(&full, false, now, 2), Decision::Wait(Some(now + QUIET)));
        assert_eq!(lazy.decide(&full, false, now + QUIET, 2), part);
    }

    #[tokio::test(start_paused = true)]
    async fn an_urgent_lane_goes_first_and_has_an_age_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let batcher = batcher(dir.path(), BatchConfig::default());
        let now = Instant::now();
        let both = progress(vec![waiting(URGENT, 10, 10 * S), waiting(Lane::BULK, 10, S)], now);
        let urgent = Decision::Seal { lane: URGENT, all: true };
        assert_eq!(batcher.decide(&both, true, now, 10 * S), urgent, "at once in contact");
        let at = Decision::Wait(Some(now + Duration::from_secs(10)));
        assert_eq!(batcher.decide(&both, false, now, 10 * S), at, "a quarter of its lifetime");
        assert_eq!(batcher.decide(&both, false, now, 20 * S), urgent);
        let gone = progress(vec![waiting(Lane(3), 10, 10 * S)], now);
        let all = Decision::Seal { lane: Lane(3), all: true };
        assert_eq!(batcher.decide(&gone, false, now, 10 * S), all, "a lane that is not configured any more");
    }

    #[tokio::test(start_paused = true)]
    async fn an_urgent_lane_that_is_always_due_does_not_keep_others_from_being_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let mut batcher = batcher(dir.path(), BatchConfig::default());
        let now = Instant::now();
        let both = progress(vec![waiting(URGENT, 10, S), waiting(Lane::BULK, 10, S)], now);
        let urgent = Decision::Seal { lane: URGENT, all: true };
        assert_eq!(batcher.decide(&both, true, now, 10 * S), urgent);
        batcher.last = Some(URGENT);
        assert_eq!(batcher.decide(&both, true, now, 10 * S), BULK);
        batcher.last = Some(Lane::BULK);
        assert_eq!(batcher.decide(&both, true, now, 10 * S), urgent);
        batcher.last = Some(URGENT);
        let alone = progress(vec![waiting(URGENT, 10, S)], now);
        assert_eq!(batcher.decide(&alone, true, now, 10 * S), urgent);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_that_holds_back_too_much_of_the_journal_is_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let batcher = batcher(dir.path(), BatchConfig::default());
        let now = Instant::now();
        let held = |held_back| progress(vec![Unsealed { held_back, ..waiting(URGENT, 10, 10 * S) }], now);
        assert_eq!(
            batcher.decide(&held(9 << 20), false, now, 10 * S),
            Decision::Seal { lane: URGENT, all: true }
        );
        assert!(matches!(batcher.decide(&held(8 << 20), false, now, 10 * S), Decision::Wait(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn bulk_rests_when_sealing_has_a_share_of_the_processor_and_urgent_lanes_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let config = BatchConfig { sealing_cpu: Percent(0.25), ..BatchConfig::default() };
        let mut batcher = batcher(dir.path(), config);
        let now = Instant::now();
        batcher.rest = now + Duration::from_secs(3);
        let bulk = waiting(Lane::BULK, 5 << 20, S);
        let only = progress(vec![bulk], now);
        assert_eq!(batcher.decide(&only, true, now, 10 * S), Decision::Wait(Some(batcher.rest)));
        assert_ne!(batcher.decide(&only, true, batcher.rest, 10 * S), Decision::Wait(Some(batcher.rest)));
        let both = progress(vec![waiting(URGENT, 1, S), bulk], now);
        assert_eq!(batcher.decide(&both, true, now, 10 * S), Decision::Seal { lane: URGENT, all: true });
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_waits_in_the_journal_while_segments_lie_ready_for_a_thin_contact() {
        let dir = tempfile::tempdir().unwrap();
        let mut batcher = batcher(dir.path(), BatchConfig::default());
        batcher.sizing = Sizing::thin();
        let now = Instant::now();
        let decide =
            |waiting: Unsealed, unix| batcher.decide(&progress(vec![waiting], now), true, now + QUIET, unix);
        let ready = Unsealed { sealed: 3, sealed_bytes: 1 << 20, ..waiting(Lane::BULK, 5 << 20, S) };
        assert_eq!(
            decide(ready, 100 * S),
            Decision::Wait(None),
            "neither since it is full nor since it is old"
        );
        let part = Decision::Seal { lane: Lane::BULK, all: false };
        assert_eq!(decide(Unsealed { sealed: 1, ..ready }, 2 * S), part);
        assert_eq!(decide(Unsealed { held_back: 301, ..ready }, 2 * S), part, "too much of the journal");
        let urgent = Unsealed { lane: URGENT, ..ready };
        let at = Decision::Wait(Some(now + QUIET + Duration::from_secs(1)));
        assert_eq!(decide(urgent, 10 * S), at, "a quarter of its lifetime");
        assert_eq!(decide(urgent, 11 * S), Decision::Seal { lane: URGENT, all: true });
    }
}
