//! How large a segment may be: no more than some seconds of the contact that is expected when it is sealed. A thin link would
//! carry nothing else before it is through, and a pass that ends in the middle of it brings nothing that can be used. A contact that
//! is nearly over does not carry what is sealed now: the next one will.
//!
//! Such small segments cost more bytes than large ones, unless they lean on what the ground has. So a few of them lie ready for a
//! thin contact, and what else waits stays in the journal: it is sealed when one of those has gone, on a base that is newer.

use std::collections::BTreeMap;
use std::time::Duration;

use perigee_shared::contact::Contact;
use perigee_shared::segment::{Header, Lane};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::config::BatchConfig;
use crate::contacts::{ContactControl, Links, Planned};
use crate::lanes::{Order, Policy};
use crate::wal::{BatchLimits, Unsealed};

/// What a segment may take of a contact: so much of its time, and such a part of its bytes.
const TIME: Duration = Duration::from_secs(2);
const PART: u64 = 10;

/// Below it a segment's own costs count.
const LEAST_RAW: u64 = 32 << 10;

/// So many segments of a lane lie ready for each contact that may be open.
const READY: u64 = 3;

/// Journal bytes that may wait for a thin contact: so many times `max_hold_back`, and a part of the store.
const HOLD_BACK: u64 = 4;
const OF_STORE: u64 = 8;

/// Raw bytes for each byte of a segment, before one was sealed.
const RATIO: f64 = 6.0;

/// What the last segment counts in the ratio.
const LATEST: f64 = 0.3;

/// The plan is asked so often, and not waited for longer: the first passes may still be predicted.
const ASK_EVERY: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_millis(50);

/// What segments are sealed for.
#[derive(Clone)]
pub struct Destinations {
    /// The contacts that are expected.
    pub contacts: ContactControl,
    /// Changes when the ground has committed something.
    pub link: watch::Receiver<Links>,
    /// Contacts that may be open at once.
    pub slots: usize,
    /// Somebody beside the link takes segments.
    pub direct: bool,
    /// `storage.max_bytes`.
    pub store: u64,
}

/// What the next contact allows, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Allowed {
    /// Of a segment.
    segment: u64,
    /// What is on its way at once.
    under_way: u64,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Sizing {
    destinations: Option<(ContactControl, watch::Receiver<Links>)>,
    slots: u64,
    /// Journal bytes that may wait for a thin contact.
    may_wait: u64,
    /// When the plan is asked again.
    ask: Option<Instant>,
    /// `None`: the rate of the next contact is not known.
    allowed: Option<Allowed>,
    /// Raw bytes for each byte of a segment, lane by lane.
    ratios: BTreeMap<Lane, f64>,
}

impl Sizing {
    /// For these; without them, segments are as large as configured.
    pub(crate) fn new(destinations: Option<Destinations>, config: &BatchConfig) -> Self {
        let Some(Destinations { contacts, link, slots, direct, store }) = destinations else {
            return Self::default();
        };
        let may_wait = if direct { 0 } else { (config.max_hold_back.0 * HOLD_BACK).min(store / OF_STORE) };
        Self { destinations: Some((contacts, link)), slots: slots as u64, may_wait, ..Self::default() }
    }

    /// Asks what contact comes next, if that was not just asked.
    pub(crate) async fn look(&mut self) {
        let Some((contacts, _)) = &self.destinations else { return };
        let now = Instant::now();
        if self.ask.is_some_and(|ask| now < ask) {
            return;
        }
        self.ask = Some(now + ASK_EVERY);
        if let Ok(Ok(planned)) = timeout(PATIENCE, contacts.next()).await {
            self.allowed = allowed(&planned);
            self.ask = Some(now + ask_in(&planned));
        }
    }

    /// Ends when the ground may have committed something; never without a link.
    pub(crate) async fn gone(&mut self) {
        if let Some((_, link)) = &mut self.destinations
            && link.changed().await.is_ok()
        {
            return;
        }
        // Without a link, or when the agent ends.
        std::future::pending().await
    }

    /// Whether what waits is better left in the journal: enough of its lane lies ready for a thin contact. Not where what comes last
    /// goes first, nor where the lane has a quota, which counts segments.
    pub(crate) fn leaves(&self, waiting: &Unsealed, policy: &Policy, config: &BatchConfig) -> bool {
        let Some(allowed) = self.allowed else { return false };
        let is_thin = self.limits(waiting.lane, config).raw < config.send_batch_bytes.0;
        is_thin
            && policy.order != Order::NewestFirst
            && policy.quota.is_none()
            && waiting.sealed >= READY * self.slots
            && waiting.sealed_bytes >= (allowed.segment * READY + allowed.under_way) * self.slots
            && waiting.held_back <= self.may_wait
    }

    /// What seals a segment of `lane`.
    pub(crate) fn limits(&self, lane: Lane, config: &BatchConfig) -> BatchLimits {
        let ratio = self.ratios.get(&lane).copied().unwrap_or(RATIO);
        let raw = self.allowed.map_or(u64::MAX, |allowed| (allowed.segment as f64 * ratio) as u64);
        let most = config.send_batch_bytes.0;
        BatchLimits { items: config.send_batch_size, raw: raw.max(LEAST_RAW.min(most)).min(most) }
    }

    /// Takes note of what a segment came to.
    pub(crate) fn sealed(&mut self, header: &Header) {
        let now = header.raw_len as f64 / header.payload_len.max(1) as f64;
        let ratio = self.ratios.entry(header.id.lane).or_insert(now);
        *ratio += LATEST * (now - *ratio);
    }
}

/// What the contact allows that is open, or the next one: that, too, if the open one carries no whole segment any more.
fn allowed(planned: &Planned) -> Option<Allowed> {
    let mut passes = planned.open.iter().chain(&planned.upcoming);
    let first = passes.next()?;
    let allowed = of_contact(&first.contact);
    let is_over = allowed.zip(first.volume_bytes).is_some_and(|(allowed, left)| left < allowed.segment);
    match passes.next() {
        Some(next) if is_over => of_contact(&next.contact),
        _ => allowed,
    }
}

fn of_contact(contact: &Contact) -> Option<Allowed> {
    let rate = contact.rate_down? as f64 / 8.0;
    // One that is nearly over allows no less than it did.
    let whole = contact.volume(contact.start_unix_nano).unwrap_or(u64::MAX);
    Some(Allowed {
        segment: ((rate * TIME.as_secs_f64()) as u64).min(whole / PART),
        under_way: (rate * contact.shape().rtt().as_secs_f64()) as u64,
    })
}

/// How long what a plan allows holds, at most: the contact that is open may end before.
fn ask_in(planned: &Planned) -> Duration {
    let left = planned.open.first().and_then(|pass| pass.contact.left(planned.now));
    left.map_or(ASK_EVERY, |left| left.saturating_sub(TIME).min(ASK_EVERY))
}

#[cfg(test)]
mod tests {
    use perigee_shared::segment::{Codec, SegmentId, hash};
    use perigee_shared::signal::{Counts, TimeRange};
    use perigee_shared::units::ByteSize;

    use super::*;
    use crate::contacts::Pass;

    const S: u64 = 1_000_000_000;

    impl Sizing {
        /// For contacts of 30 s at 64 kbit/s, with 300 bytes of the journal that may wait for them.
        pub(crate) fn thin() -> Self {
            let allowed = allowed(&planned(Some(64_000), 30));
            Self { allowed, slots: 1, may_wait: 300, ..Self::default() }
        }
    }

    fn planned(rate_down: Option<u64>, seconds: u64) -> Planned {
        let contact =
            Contact { rate_down, end_unix_nano: Some((100 + seconds) * S), ..Contact::open("a", 100 * S) };
        let pass = Pass { volume_bytes: contact.volume(0), contact };
        Planned { upcoming: vec![pass], ..Planned::default() }
    }

    fn sealed(lane: Lane, raw_len: u64, payload_len: u64) -> Header {
        Header {
            codec: Codec::Columns as u32,
            id: SegmentId { epoch: 1, lane, sequence: 1 },
            payload_len,
            raw_len,
            hash: hash(b""),
            items: Counts::ZERO,
            time: TimeRange::EMPTY,
            requests: 1,
            sealed_unix_nano: 1,
            base_sequence: None,
            is_base: false,
            delivery: None,
            made_of: None,
        }
    }

    #[test]
    fn a_segment_is_some_seconds_of_a_thin_contact_and_as_configured_for_others() {
        let config = BatchConfig::default();
        let of = |planned: &Planned| Sizing { allowed: allowed(planned), ..Sizing::default() };
        let mut thin = of(&planned(Some(64_000), 30));
        // 2 s are 16,000 bytes.
        assert_eq!(thin.limits(Lane::BULK, &config).raw, 96_000);
        for _ in 0..20 {
            thin.sealed(&sealed(Lane::BULK, 320_000, 16_000));
        }
        let raw = thin.limits(Lane::BULK, &config).raw;
        assert!((319_000..=320_000).contains(&raw), "{raw}: by what segments came to");
        assert_eq!(thin.limits(Lane(1), &config).raw, 96_000, "each lane by itself");
        // A tenth of the contact.
        assert_eq!(of(&planned(Some(64_000), 10)).limits(Lane::BULK, &config).raw, 48_000);
        assert_eq!(of(&planned(Some(64), 10)).limits(Lane::BULK, &config).raw, LEAST_RAW);
        for wide in [planned(Some(20_000_000), 400), planned(None, 400)] {
            assert_eq!(of(&wide).limits(Lane::BULK, &config).raw, 4 << 20);
        }
        let small = BatchConfig { send_batch_bytes: ByteSize(5_000), ..config };
        assert_eq!(of(&planned(Some(64), 10)).limits(Lane::BULK, &small).raw, 5_000);
    }

    #[test]
    fn what_a_wide_contact_carries_no_more_is_sealed_for_the_thin_one_behind_it() {
        let thin = planned(Some(64_000), 30);
        // A wide contact of 400 s until 500 s.
        let wide = planned(Some(20_000_000), 400).upcoming.remove(0).contact;
        let at = |seconds: u64, upcoming: &[Pass]| {
            let pass = Pass { volume_bytes: wide.volume(seconds * S), contact: wide.clone() };
            let (open, upcoming) = (vec![pass], upcoming.to_vec());
            Planned { open, upcoming, now: seconds * S, ..Planned::default() }
        };
        let before = at(497, &thin.upcoming);
        assert_eq!(allowed(&before).unwrap().segment, 5_000_000);
        assert_eq!(ask_in(&before), Duration::from_secs(1), "it holds for no longer");
        assert_eq!(allowed(&at(499, &thin.upcoming)), allowed(&thin), "its last second");
        assert_eq!(allowed(&at(499, &[])), allowed(&at(200, &[])), "the next one may be like it");
        assert_eq!((ask_in(&at(200, &[])), ask_in(&thin)), (ASK_EVERY, ASK_EVERY));
    }

    #[test]
    fn what_waits_is_left_while_three_segments_lie_ready_for_a_thin_contact() {
        let (config, policy) = (BatchConfig::default(), Policy::default());
        let waiting = |sealed_bytes| Unsealed {
            lane: Lane::BULK,
            raw: 1 << 20,
            items: 1,
            held_back: 300,
            sealed: 3,
            sealed_bytes,
            oldest_unix_nano: 0,
            oldest_since_boot: 0,
        };
        // Three of 16,000 bytes, and 100 ms of the link.
        let (few, enough) = (waiting(48_799), waiting(48_800));
        let thin = Sizing::thin();
        assert!(!thin.leaves(&few, &policy, &config) && thin.leaves(&enough, &policy, &config));
        let large = Unsealed { sealed: 2, sealed_bytes: 1 << 20, ..enough };
        assert!(!thin.leaves(&large, &policy, &config), "requests are not cut: they may be large");
        let two = Sizing { slots: 2, ..Sizing::thin() };
        assert!(!two.leaves(&Unsealed { sealed_bytes: 1 << 20, ..enough }, &policy, &config));
        assert!(two.leaves(&Unsealed { sealed: 6, sealed_bytes: 1 << 20, ..enough }, &policy, &config));
        let newest = Policy { order: Order::NewestFirst, ..policy };
        let quota = Policy { quota: Some(1 << 30), ..policy };
        assert!(!thin.leaves(&enough, &newest, &config) && !thin.leaves(&enough, &quota, &config));
        let much = Unsealed { held_back: 301, ..enough };
        assert!(!thin.leaves(&much, &policy, &config));
        let small = BatchConfig { send_batch_bytes: ByteSize(5_000), ..config };
        assert!(!thin.leaves(&enough, &policy, &small), "they are as large as configured");
        for wide in [planned(Some(20_000_000), 400), planned(None, 400)] {
            let wide = Sizing { allowed: allowed(&wide), ..Sizing::thin() };
            assert!(!wide.leaves(&waiting(u64::MAX), &policy, &config));
        }
        assert!(!Sizing { may_wait: 0, ..Sizing::thin() }.leaves(&enough, &policy, &config), "exporters");
    }
}
