//! `processors`: the memory limiter and the batch processor, which are always there.

use perigee_shared::segment::Codec;
use perigee_shared::units::{ByteSize, Span};
use serde::Deserialize;

use crate::lanes::Percent;

/// `processors`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Processors {
    /// The memory limiter.
    pub memory_limiter: LimiterConfig,
    /// The batch processor.
    pub batch: BatchConfig,
}

/// `processors.memory_limiter`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(from = "LimiterFile")]
pub struct LimiterConfig {
    /// How often memory is looked at.
    pub check_interval: Span,
    /// Above it everything is refused.
    pub limit: ByteSize,
    /// Above `limit − spike_limit` new requests are refused.
    pub spike_limit: ByteSize,
    /// New requests are refused while memory grows faster than this a second; 0: off.
    pub max_growth_per_second: ByteSize,
    /// Request bodies held at once.
    pub max_in_flight: ByteSize,
}

impl Default for LimiterConfig {
    fn default() -> Self {
        LimiterFile::default().into()
    }
}

const LIMIT: ByteSize = ByteSize::mib(64);
const SPIKE: ByteSize = ByteSize::mib(16);
const IN_FLIGHT: ByteSize = ByteSize::mib(16);

/// As it is written: what is not follows from the rest.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimiterFile {
    check_interval: Span,
    limit: Option<ByteSize>,
    /// Of the memory of this machine or container, when there is no `limit`.
    limit_percentage: Option<u8>,
    spike_limit: Option<ByteSize>,
    spike_limit_percentage: Option<u8>,
    max_growth_per_second: ByteSize,
    max_in_flight: Option<ByteSize>,
}

impl Default for LimiterFile {
    fn default() -> Self {
        Self {
            check_interval: Span::millis(20),
            limit: None,
            limit_percentage: None,
            spike_limit: None,
            spike_limit_percentage: None,
            max_growth_per_second: ByteSize(0),
            max_in_flight: None,
        }
    }
}

impl From<LimiterFile> for LimiterConfig {
    fn from(file: LimiterFile) -> Self {
        let part = |percent: u8| ByteSize(total_memory() / 100 * u64::from(percent));
        let limit = file.limit.or_else(|| file.limit_percentage.map(part)).unwrap_or(LIMIT);
        let spike_limit = file.spike_limit.or_else(|| file.spike_limit_percentage.map(part));
        // A fifth is the Collector's.
        let fifth = ByteSize(limit.0 / 5);
        let spike_limit = spike_limit.unwrap_or(if SPIKE < limit { SPIKE } else { fifth });
        Self {
            check_interval: file.check_interval,
            limit,
            spike_limit,
            max_growth_per_second: file.max_growth_per_second,
            max_in_flight: file.max_in_flight.unwrap_or(IN_FLIGHT.min(ByteSize(limit.0 / 2))),
        }
    }
}

/// Bytes of memory that this process may have: its control group's, or the machine's.
fn total_memory() -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let group = read("/proc/self/cgroup").unwrap_or_default();
    let path =
        group.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("/").trim_end_matches('/').to_owned();
    let bounds = [
        format!("/sys/fs/cgroup{path}/memory.max"),
        "/sys/fs/cgroup/memory.max".to_owned(),
        "/sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned(),
    ];
    let machine = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
        line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib << 10)
    });
    let bounds = bounds.iter().filter_map(|path| read(path)?.trim().parse().ok());
    bounds.chain(machine).min().unwrap_or(LIMIT.0)
}

/// `processors.batch`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchConfig {
    /// Items that seal a segment.
    pub send_batch_size: u64,
    /// Raw OTLP bytes that seal a segment.
    pub send_batch_bytes: ByteSize,
    /// The age that seals a segment, in contact or with a direct exporter.
    pub timeout: Span,
    /// Journal bytes that may wait out of contact before they are sealed.
    pub max_hold_back: ByteSize,
    /// What waits is sealed this long before AOS.
    pub seal_before_contact: Span,
    /// Sealing may lag behind a burst by this many journal bytes.
    pub defer_sealing: ByteSize,
    /// The part of one processor core that sealing bulk may have.
    pub sealing_cpu: Percent,
    /// How segments are encoded.
    pub codec: Codec,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            send_batch_size: 65_536,
            send_batch_bytes: ByteSize::mib(4),
            timeout: Span::secs(1),
            max_hold_back: ByteSize::mib(8),
            seal_before_contact: Span::secs(5),
            defer_sealing: ByteSize(0),
            sealing_cpu: Percent(1.0),
            codec: Codec::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> LimiterConfig {
        perigee_shared::config::parse(text, "agent.yaml", |_| None).unwrap()
    }

    #[test]
    fn limits_follow_from_what_is_written() {
        let small = read("limit: 10MiB");
        assert_eq!((small.spike_limit, small.max_in_flight), (ByteSize::mib(2), ByteSize::mib(5)));
        let total = total_memory();
        assert!(total > 16 << 20, "{total}");
        let part = read("{limit_percentage: 50, spike_limit_percentage: 10}");
        assert_eq!((part.limit.0, part.spike_limit.0), (total / 100 * 50, total / 100 * 10));
        assert_eq!(read("{limit_percentage: 50, limit: 20MiB}").limit, ByteSize::mib(20));
    }
}
