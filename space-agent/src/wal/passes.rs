//! Reports of passes, and how fast the store grows: what a forecast is made from.

use std::collections::BTreeMap;

use perigee_proto::link::{LaneBacklog, PassReport};
use perigee_shared::segment::Lane;
use perigee_shared::store::StoreError;
use prost::Message;
use redb::{ReadableTable, ReadableTableMetadata};

use super::gathered;
use super::tables::*;
use super::{SegmentRecord, Wal, WalError};

/// Reports that are kept.
const KEPT: u64 = 64;

/// Growth is measured over this time and the one before, in ns.
const WINDOW: u64 = 12 * 3600 * 1_000_000_000;

/// Less says nothing, in ns.
const LEAST: u64 = 60 * 1_000_000_000;

/// How much is sealed in what time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Growth {
    since: u64,
    bytes: u64,
    /// Bytes and ns of the window before.
    before: (u64, u64),
}

impl Growth {
    pub(super) fn new(now: u64) -> Self {
        Self { since: now, ..Self::default() }
    }

    pub(super) fn add(&mut self, bytes: u64, now: u64) {
        self.bytes += bytes;
        match now.checked_sub(self.since) {
            Some(age) if age < WINDOW => {}
            Some(age) if age < 2 * WINDOW => {
                *self = Self { since: now, bytes: 0, before: (self.bytes, age) };
            }
            // Nothing came for long.
            _ => *self = Self::new(now),
        }
    }

    /// Bytes a second; `None` before there is enough to say.
    fn rate(&self, now: u64) -> Option<f64> {
        let time = self.before.1 + now.saturating_sub(self.since);
        (time >= LEAST).then(|| (self.before.0 + self.bytes) as f64 / (time as f64 / 1e9))
    }
}

/// Reports of passes, and growth.
pub struct Passes<'a>(pub(super) &'a mut Wal);

impl Passes<'_> {
    /// Bytes that are sealed a second, as measured since the log was opened, or over the last half day; `None` before there is
    /// enough to say.
    pub fn growth(&self) -> Option<f64> {
        self.0.growth.rate(self.0.env().since_boot().nano)
    }

    /// Since when the oldest of what is on board waits, ns since the Unix epoch by the clock as it is now: when it was accepted. No earlier
    /// than is certain.
    pub fn oldest(&mut self) -> Result<Option<u64>, WalError> {
        let since = self.backlog()?.into_iter().map(|lane| lane.since_unix_nano);
        Ok(since.filter(|since| *since != 0).min())
    }

    /// What is on board, by lane; lanes without anything are among them. Where a direct exporter is behind the link, what waits
    /// for that one alone counts too.
    pub fn backlog(&mut self) -> Result<Vec<LaneBacklog>, WalError> {
        let (names, env) = (self.0.config().lanes.clone(), self.0.env().clone());
        let now = i128::from(env.since_boot().nano);
        let waited = |since_boot: i64| u64::try_from(now - i128::from(since_boot)).unwrap_or(0);
        let unsealed: BTreeMap<Lane, u64> =
            gathered(self.0.segments().unsealed().iter().map(|u| (u.lane, waited(u.oldest_since_boot))));
        self.0.read(|txn, state| {
            let ages = state.boots.ages(&env);
            let segments = txn.open_table(SEGMENTS)?;
            let mut out = Vec::new();
            for (lane, of) in &state.lanes {
                let mut waits = unsealed.get(lane).copied();
                if let Some(sequence) = of.on_board.first()
                    && let Some(value) = segments.get(Place { lane: lane.0, sequence })?
                {
                    let age = SegmentRecord::from_bytes(value.value())?.oldest(&ages, &env);
                    waits = waits.max(Some(age.as_nanos() as u64));
                }
                out.push(LaneBacklog {
                    lane: u32::from(lane.0),
                    name: names.name(*lane),
                    bytes: of.segment_stored + of.unsealed_raw,
                    items: Some((of.segment_items + of.unsealed_items).into()),
                    since_unix_nano: waits.map_or(0, |age| env.unix_nano().saturating_sub(age).max(1)),
                });
            }
            Ok(out)
        })
    }

    /// Keeps the report of a pass; of many only those that were kept last are, whatever the clock said meanwhile.
    pub fn record(&mut self, report: &PassReport) -> Result<(), WalError> {
        self.0.write(|txn, _| {
            let mut passes = txn.open_table(PASSES)?;
            let last = passes.last()?.map_or(0, |(key, _)| key.value());
            // In the order in which they were kept: a clock that was set back began before it.
            let key = report.start_unix_nano.max(last.saturating_add(1));
            passes.insert(key, report.encode_to_vec().as_slice())?;
            while passes.len()? > KEPT {
                passes.pop_first()?;
            }
            Ok(((), Vec::new()))
        })
    }

    /// The latest `most` reports, oldest first.
    pub fn latest(&mut self, most: usize) -> Result<Vec<PassReport>, WalError> {
        self.0.read(|txn, _| {
            let Some(passes) = if_made(txn, PASSES)? else { return Ok(Vec::new()) };
            let mut out = Vec::new();
            for entry in passes.iter()?.rev().take(most) {
                let report = PassReport::decode(entry?.1.value());
                out.push(report.map_err(|_| StoreError::Damaged("a pass".to_owned()))?);
            }
            out.reverse();
            Ok(out)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Bench;
    use super::*;

    #[test]
    fn the_latest_reports_are_kept_and_survive_a_restart() {
        let bench = Bench::new();
        let mut wal = bench.open();
        assert!(wal.passes().latest(9).unwrap().is_empty());
        for n in 1..=70 {
            wal.passes().record(&PassReport { start_unix_nano: n, ..PassReport::default() }).unwrap();
        }
        drop(wal);
        let mut wal = bench.open();
        let starts = |reports: Vec<PassReport>| reports.iter().map(|r| r.start_unix_nano).collect::<Vec<_>>();
        assert_eq!(starts(wal.passes().latest(2).unwrap()), [69, 70]);
        assert_eq!(starts(wal.passes().latest(100).unwrap()), (7..=70).collect::<Vec<_>>());
    }

    #[test]
    fn a_clock_that_was_wrong_costs_no_later_report() {
        let bench = Bench::new();
        let mut wal = bench.open();
        const YEAR: u64 = 31_557_600_000_000_000;
        let times = [(76 * YEAR, 70), (5, 3), (57 * YEAR, 3)];
        for (start, n) in times {
            for n in 0..n {
                let report = PassReport { start_unix_nano: start + n, ..PassReport::default() };
                wal.passes().record(&report).unwrap();
            }
        }
        let latest = wal.passes().latest(7).unwrap().into_iter().map(|report| report.start_unix_nano);
        let ahead = 76 * YEAR + 69;
        let now = 57 * YEAR;
        assert_eq!(latest.collect::<Vec<_>>(), [ahead, 5, 6, 7, now, now + 1, now + 2]);
        assert_eq!(wal.passes().latest(100).unwrap().len() as u64, KEPT);
    }

    #[test]
    fn growth_is_what_was_sealed_in_the_last_windows() {
        const S: u64 = 1_000_000_000;
        let mut growth = Growth::new(0);
        growth.add(500, 10 * S);
        assert_eq!(growth.rate(59 * S), None);
        assert_eq!(growth.rate(100 * S), Some(5.0));
        for hour in 1..=30 {
            growth.add(3600 * 100, hour * 3600 * S);
        }
        let rate = growth.rate(30 * 3600 * S).unwrap();
        assert!((90.0..110.0).contains(&rate), "{rate}");
        growth.add(1, 5 * S);
        assert_eq!(growth.rate(5 * S), None, "the clock was set back");
    }
}
