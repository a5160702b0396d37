//! The three signals of OpenTelemetry and what is counted by them.

use std::fmt;
use std::ops::{Add, AddAssign, Index, IndexMut};

use perigee_proto::link;

/// A kind of telemetry. The numbers are persisted and never renumbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Signal {
    /// Spans.
    Traces = 1,
    /// Metric data points.
    Metrics = 2,
    /// Log records.
    Logs = 3,
}

impl Signal {
    /// Every signal, in the order of its numbers.
    pub const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    /// The signal with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Traces),
            2 => Some(Self::Metrics),
            3 => Some(Self::Logs),
            _ => None,
        }
    }

    /// The pipeline name: `traces`, `metrics` or `logs`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }

    /// What one item is called in the Collector's metric names: `spans`, `metric_points` or `log_records`.
    pub const fn items_name(self) -> &'static str {
        match self {
            Self::Traces => "spans",
            Self::Metrics => "metric_points",
            Self::Logs => "log_records",
        }
    }

    /// The path of OTLP/HTTP: `/v1/traces`, `/v1/metrics` or `/v1/logs`.
    pub const fn http_path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Metrics => "/v1/metrics",
            Self::Logs => "/v1/logs",
        }
    }

    /// The path of the OTLP/gRPC export method.
    pub const fn grpc_path(self) -> &'static str {
        match self {
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        }
    }

    /// Its place in [`Signal::ALL`].
    pub const fn slot(self) -> usize {
        self as usize - 1
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct SignalSet(u8);

impl SignalSet {
    /// All three.
    pub const ALL: Self = Self(0b111);

    /// This set with `signal` in it.
    #[must_use]
    pub const fn with(self, signal: Signal) -> Self {
        Self(self.0 | 1 << signal.slot())
    }

    /// Those that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether `signal` is in it.
    pub const fn contains(self, signal: Signal) -> bool {
        self.0 & (1 << signal.slot()) != 0
    }

    /// Whether both have a signal in common.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is none in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in it.
    pub fn iter(self) -> impl Iterator<Item = Signal> {
        Signal::ALL.into_iter().filter(move |s| self.contains(*s))
    }
}

/// A number of items for each signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts([u64; 3]);

impl Counts {
    /// No items.
    pub const ZERO: Self = Self([0; 3]);

    /// `items` of one signal.
    pub const fn of(signal: Signal, items: u64) -> Self {
        let mut counts = [0; 3];
        counts[signal.slot()] = items;
        Self(counts)
    }

    /// Items of all signals together.
    pub const fn total(self) -> u64 {
        self.0[0].saturating_add(self.0[1]).saturating_add(self.0[2])
    }

    /// The signals of which there is at least one item.
    pub fn signals(self) -> SignalSet {
        Signal::ALL.into_iter().filter(|s| self[*s] > 0).fold(SignalSet::default(), SignalSet::with)
    }

    /// Signal by signal `self − other`, never below zero.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        let mut out = self;
        for (a, b) in out.0.iter_mut().zip(other.0) {
            *a = a.saturating_sub(b);
        }
        out
    }

    /// Signal by signal the larger.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        let mut out = self;
        for (a, b) in out.0.iter_mut().zip(other.0) {
            *a = (*a).max(b);
        }
        out
    }

    /// Signal by signal the smaller.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        let mut out = self;
        for (a, b) in out.0.iter_mut().zip(other.0) {
            *a = (*a).min(b);
        }
        out
    }

    /// The items of `signals` alone.
    #[must_use]
    pub fn only(self, signals: SignalSet) -> Self {
        signals.iter().map(|s| Self::of(s, self[s])).sum()
    }

    /// The persisted form: three little-endian u64 in the order of [`Signal::ALL`].
    pub fn to_bytes(self) -> [u8; 24] {
        let mut out = [0; 24];
        for (chunk, n) in out.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&n.to_le_bytes());
        }
        out
    }

    /// The inverse of [`Counts::to_bytes`]; `None` when the length is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != 24 {
            return None;
        }
        let mut out = [0; 3];
        for (n, chunk) in out.iter_mut().zip(bytes.chunks_exact(8)) {
            *n = u64::from_le_bytes(chunk.try_into().ok()?);
        }
        Some(Self(out))
    }
}

impl Index<Signal> for Counts {
    type Output = u64;
    fn index(&self, signal: Signal) -> &u64 {
        &self.0[signal.slot()]
    }
}

impl IndexMut<Signal> for Counts {
    fn index_mut(&mut self, signal: Signal) -> &mut u64 {
        &mut self.0[signal.slot()]
    }
}

impl Add for Counts {
    type Output = Self;
    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            // A peer may say any number.
            *a = a.saturating_add(b);
        }
    }
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl From<Counts> for link::Counts {
    fn from(c: Counts) -> Self {
        Self { spans: c.0[0], metric_points: c.0[1], log_records: c.0[2] }
    }
}

impl From<link::Counts> for Counts {
    fn from(c: link::Counts) -> Self {
        Self([c.spans, c.metric_points, c.log_records])
    }
}

/// From the earliest to the latest timestamp of some items, both included, in ns since the Unix epoch.
/// Empty until the first timestamp is added; a timestamp of 0 means "unknown" in OTLP and is not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeRange {
    /// The earliest, `u64::MAX` when empty.
    pub start: u64,
    /// The latest, 0 when empty.
    pub end: u64,
}

impl TimeRange {
    /// No timestamp yet.
    pub const EMPTY: Self = Self { start: u64::MAX, end: 0 };

    /// Widens the range so that `unix_nano` is in it.
    #[inline]
    pub fn add(&mut self, unix_nano: u64) {
        if unix_nano != 0 {
            self.start = self.start.min(unix_nano);
            self.end = self.end.max(unix_nano);
        }
    }

    /// Widens the range so that all of `other` is in it.
    pub fn merge(&mut self, other: Self) {
        self.start = self.start.min(other.start);
        self.end = self.end.max(other.end);
    }

    /// Whether no timestamp was added.
    pub const fn is_empty(self) -> bool {
        self.end == 0
    }
}

impl Default for TimeRange {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl From<TimeRange> for link::TimeRange {
    fn from(t: TimeRange) -> Self {
        if t.is_empty() {
            return Self::default();
        }
        Self { start_unix_nano: t.start, end_unix_nano: t.end }
    }
}

impl From<link::TimeRange> for TimeRange {
    fn from(t: link::TimeRange) -> Self {
        if t.end_unix_nano == 0 {
            return Self::EMPTY;
        }
        Self { start: t.start_unix_nano, end: t.end_unix_nano }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_survive_their_persisted_form() {
        let counts = Counts::of(Signal::Traces, 3) + Counts::of(Signal::Logs, 9);
        assert_eq!(Counts::from_bytes(&counts.to_bytes()), Some(counts));
        assert_eq!(Counts::from_bytes(&[0; 23]), None);
        assert_eq!(Counts::from(link::Counts::from(counts)), counts);
        assert!(counts.signals().contains(Signal::Logs) && !counts.signals().contains(Signal::Metrics));
    }

    #[test]
    fn an_unknown_timestamp_does_not_widen_a_range() {
        let mut range = TimeRange::EMPTY;
        range.add(0);
        assert!(range.is_empty());
        range.add(7);
        range.add(5);
        assert_eq!(range, TimeRange { start: 5, end: 7 });
        assert_eq!(TimeRange::from(link::TimeRange::from(range)), range);
    }
}
