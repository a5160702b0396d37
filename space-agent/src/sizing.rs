//! How large a segment may be: no more than some seconds of the contact that is expected when it is sealed. A thin link would
//! carry nothing else before it is through, and a pass that ends in the middle of it brings nothing that can be used.

use std::collections::BTreeMap;
use std::time::Duration;

use perigee_shared::segment::{Header, Lane};
use tokio::time::{Instant, timeout};

use crate::config::BatchConfig;
use crate::contacts::{ContactControl, Planned};
use crate::wal::BatchLimits;

/// What a segment may take of a contact: so much of its time, and such a part of its bytes.
const TIME: Duration = Duration::from_secs(2);
const PART: u64 = 10;

/// Below it a segment's own costs count.
const LEAST_RAW: u64 = 32 << 10;

/// Raw bytes for each byte of a segment, before one was sealed.
const RATIO: f64 = 6.0;

/// What the last segment counts in the ratio.
const LATEST: f64 = 0.3;

/// The plan is asked so often, and not waited for longer: the first passes may still be predicted.
const ASK_EVERY: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Default)]
pub(crate) struct Sizing {
    planner: Option<ContactControl>,
    asked: Option<Instant>,
    /// Bytes of a segment that the next contact allows; `None`: its rate is not known.
    bytes: Option<u64>,
    /// Raw bytes for each byte of a segment, lane by lane.
    ratios: BTreeMap<Lane, f64>,
}

impl Sizing {
    /// With contacts as `planner` knows them; without one, segments are as large as configured.
    pub(crate) fn new(planner: Option<ContactControl>) -> Self {
        Self { planner, ..Self::default() }
    }

    /// Asks what contact comes next, if that was not just asked.
    pub(crate) async fn look(&mut self) {
        let Some(planner) = &self.planner else { return };
        if self.asked.is_some_and(|asked| asked.elapsed() < ASK_EVERY) {
            return;
        }
        self.asked = Some(Instant::now());
        if let Ok(Ok(planned)) = timeout(PATIENCE, planner.next()).await {
            self.bytes = allowed(&planned);
        }
    }

    /// What seals a segment of `lane`.
    pub(crate) fn limits(&self, lane: Lane, config: &BatchConfig) -> BatchLimits {
        let ratio = self.ratios.get(&lane).copied().unwrap_or(RATIO);
        let raw = self.bytes.map_or(u64::MAX, |bytes| (bytes as f64 * ratio) as u64);
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

/// Bytes of a segment that the contact that is open, or the next one, allows.
fn allowed(planned: &Planned) -> Option<u64> {
    let next = planned.current.iter().chain(&planned.upcoming).next()?;
    let by_time = next.contact.rate_down? as f64 / 8.0 * TIME.as_secs_f64();
    // A contact that is nearly over says nothing about the next one.
    let whole = next.contact.volume(next.contact.start_unix_nano).unwrap_or(u64::MAX);
    Some((by_time as u64).min(whole / PART))
}

#[cfg(test)]
mod tests {
    use perigee_shared::contact::Contact;
    use perigee_shared::segment::{Codec, SegmentId, hash};
    use perigee_shared::signal::{Counts, TimeRange};
    use perigee_shared::units::ByteSize;

    use super::*;
    use crate::contacts::Pass;

    const S: u64 = 1_000_000_000;

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
        }
    }

    #[test]
    fn a_segment_is_some_seconds_of_a_thin_contact_and_as_configured_for_others() {
        let config = BatchConfig::default();
        let of = |planned: &Planned| Sizing { bytes: allowed(planned), ..Sizing::default() };
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
}
