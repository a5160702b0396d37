//! What people and tools are shown of the spool.

use std::collections::BTreeMap;
use std::ops::Range;

use perigee_proto::link::DropReason;
use perigee_shared::contact::report::shown_forecast;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::Lane;
use perigee_shared::signal::{Counts, Signal, TimeRange};
use redb::{ReadableTable, ReadableTableMetadata};
use serde::Serialize;

use super::counters::Kind;
use super::error::SpoolError;
use super::ledger::committed_ranges;
use super::open::{Spool, decode};
use super::tables::*;

/// First and last sequence of a range, both included.
type Sequences = (u64, u64);

fn shown(range: &Range<u64>) -> Sequences {
    (range.start, range.end - 1)
}

/// Items by signal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Items {
    /// Spans.
    pub spans: u64,
    /// Metric data points.
    pub metric_points: u64,
    /// Log records.
    pub log_records: u64,
}

impl From<Counts> for Items {
    fn from(c: Counts) -> Self {
        Self { spans: c[Signal::Traces], metric_points: c[Signal::Metrics], log_records: c[Signal::Logs] }
    }
}

/// A satellite and its lanes.
#[derive(Debug, Clone, Serialize)]
pub struct SatelliteView {
    /// Its id.
    pub satellite: String,
    /// What it runs.
    pub software: String,
    /// When it was last heard, ns since the Unix epoch; 0: never.
    pub last_contact_unix_nano: u64,
    /// The contact as it called it.
    pub contact: String,
    /// The station over which it was heard.
    pub station: String,
    /// How often it was heard.
    pub contacts: u64,
    /// Whether a link is open now.
    pub connected: bool,
    /// Bytes of it in the spool.
    pub spool_bytes: u64,
    /// What it expected when it was last heard: whether its store will fill.
    pub forecast: Option<serde_json::Value>,
    /// Lives of its log, in the order of their counters.
    pub epochs: Vec<EpochView>,
}

/// One life of a satellite's log.
#[derive(Debug, Clone, Serialize)]
pub struct EpochView {
    /// Its random id, in hex.
    pub epoch: String,
    /// Counts the lives.
    pub start_counter: u64,
    /// When it began by the satellite's clock, ns since the Unix epoch.
    pub started_unix_nano: u64,
    /// Nothing more will come of it.
    pub closed: bool,
    /// Its lanes.
    pub lanes: Vec<LaneView>,
}

/// One lane.
#[derive(Debug, Clone, Serialize)]
pub struct LaneView {
    /// Its number.
    pub lane: u8,
    /// The sequence that its next segment will have, as last said.
    pub next_sequence: u64,
    /// Sequences that are committed, both ends included.
    pub committed: Vec<Sequences>,
    /// On board when last heard, and not committed since.
    pub on_board: Vec<Sequences>,
    /// How many those are.
    pub backlog_segments: u64,
    /// Neither on board nor committed here nor dropped: delivered to another station.
    pub elsewhere: Vec<Sequences>,
    /// Segments of which some bytes are held.
    pub partials: Vec<PartialView>,
}

/// A segment that is not whole.
#[derive(Debug, Clone, Serialize)]
pub struct PartialView {
    /// Its sequence.
    pub sequence: u64,
    /// Bytes that are held.
    pub held_bytes: u64,
    /// Bytes of its payload.
    pub payload_bytes: u64,
    /// First and last byte of each held range.
    pub held: Vec<(u64, u64)>,
}

/// Items that were dropped on board.
#[derive(Debug, Clone, Serialize)]
pub struct GapView {
    /// Whose they were.
    pub satellite: String,
    /// The life of its log, in hex.
    pub epoch: String,
    /// The lane.
    pub lane: u32,
    /// The drop's id in the epoch.
    pub id: u64,
    /// Why.
    pub reason: String,
    /// Sequences, both ends included; none: they had none yet.
    pub sequences: Option<Sequences>,
    /// Items of it that are missing.
    pub items: Items,
    /// The counts are a lower bound.
    pub unknown: bool,
    /// The earliest timestamp among them, ns since the Unix epoch; 0: unknown.
    pub start_unix_nano: u64,
    /// The latest.
    pub end_unix_nano: u64,
    /// When they were dropped by the satellite's clock.
    pub dropped_unix_nano: u64,
}

/// Where the items of a satellite are. `committed = exported + dead_lettered + in_spool`; `rejected` are among the exported.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AccountView {
    /// Of segments in the ledger.
    pub committed: Items,
    /// Every exporter of their pipeline is done with them.
    pub exported: Items,
    /// No backend takes them.
    pub dead_lettered: Items,
    /// Still to be exported.
    pub in_spool: Items,
    /// Taken by a backend and then refused.
    pub rejected: Items,
    /// Dropped on board, all reasons together.
    pub dropped: Items,
    /// Dropped on board, by reason.
    pub dropped_by_reason: BTreeMap<String, Items>,
    /// Segments committed.
    pub segments: u64,
    /// Segments that came again after they had been committed.
    pub duplicates: u64,
    /// Segments whose payload did not have its hash.
    pub hash_mismatches: u64,
    /// Payload bytes committed.
    pub bytes: u64,
}

/// The spool as a whole.
#[derive(Debug, Clone, Serialize)]
pub struct SpoolView {
    /// Segments, bases, partials and dead letters.
    pub used_bytes: u64,
    /// What they may take.
    pub max_bytes: u64,
    /// Of the file.
    pub file_bytes: u64,
    /// Of the file on disk.
    pub allocated_bytes: u64,
    /// Segments that are still to be exported.
    pub segments: u64,
    /// Segments that are kept since others may lean on them.
    pub bases: u64,
    /// What those take.
    pub base_bytes: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Where a damaged file was put when this one began.
    pub quarantined: Option<String>,
    /// Each exporter's place.
    pub exporters: Vec<ExporterView>,
}

/// An exporter's place in the spool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExporterView {
    /// Its name.
    pub name: String,
    /// Its signals.
    pub signals: Vec<&'static str>,
    /// The segment it is at.
    pub entry: u64,
    /// The request in it.
    pub request: u64,
    /// Segments before it, among them those of other signals.
    pub backlog_segments: u64,
}

impl Spool {
    /// Every satellite that was ever heard.
    pub fn satellites(&self) -> Result<Vec<SatelliteView>, SpoolError> {
        let read = self.read()?;
        let epochs = read.open_table(EPOCHS)?;
        let mut out = Vec::new();
        for row in read.open_table(SATELLITES)?.iter()? {
            let (id, value) = row?;
            let record = decode::<SatelliteRecord>(value.value())?;
            let mut lives = Vec::new();
            for row in epochs.range((record.number, 0)..=(record.number, u64::MAX))? {
                let (key, value) = row?;
                let epoch = key.value().1;
                lives.push(self.epoch_view(&read, record.number, epoch, decode(value.value())?)?);
            }
            lives.sort_by_key(|e| e.start_counter);
            out.push(SatelliteView {
                forecast: record.forecast.as_ref().map(shown_forecast),
                satellite: id.value().to_owned(),
                software: record.software,
                last_contact_unix_nano: record.last_contact,
                contact: record.contact,
                station: record.station,
                contacts: record.contacts,
                connected: false,
                spool_bytes: self.usage.by_satellite.get(&record.number).copied().unwrap_or(0),
                epochs: lives,
            });
        }
        Ok(out)
    }

    fn epoch_view(
        &self,
        read: &redb::ReadTransaction,
        number: u32,
        epoch: u64,
        record: EpochRecord,
    ) -> Result<EpochView, SpoolError> {
        let committed = read.open_table(COMMITTED)?;
        let dropped = read.open_table(DROPPED)?;
        let partials = read.open_table(PARTIALS)?;
        let mut lanes = Vec::new();
        for said in record.lanes {
            let Ok(lane) = u8::try_from(said.lane) else { continue };
            let keys = lane_keys(number, epoch, Lane(lane));
            let here: RangeSet = committed_ranges(&committed, number, epoch, Lane(lane))?
                .into_iter()
                .map(|(r, _)| r)
                .collect();
            let next = said.next_sequence.max(here.last().map_or(1, |last| last + 1));
            let mut on_board = RangeSet::from_wire(&said.on_board);
            here.iter().for_each(|r| on_board.remove(r));
            let mut known = here.clone();
            on_board.iter().for_each(|r| known.insert(r));
            for row in dropped.range(keys.clone())? {
                let (key, value) = row?;
                known.insert(key.value().3..value.value().0);
            }
            let mut held = Vec::new();
            for row in partials.range(keys)? {
                let (key, value) = row?;
                let record = decode::<PartialRecord>(value.value())?;
                let ranges = RangeSet::from_wire(&record.held);
                held.push(PartialView {
                    sequence: key.value().3,
                    held_bytes: ranges.total(),
                    payload_bytes: record.header.map_or(0, |h| h.payload_len),
                    held: ranges.iter().map(|r| shown(&r)).collect(),
                });
            }
            lanes.push(LaneView {
                lane,
                next_sequence: next,
                committed: here.iter().map(|r| shown(&r)).collect(),
                on_board: on_board.iter().map(|r| shown(&r)).collect(),
                backlog_segments: on_board.total(),
                elsewhere: known.missing(1..next.max(1)).iter().map(shown).collect(),
                partials: held,
            });
        }
        Ok(EpochView {
            epoch: format!("{epoch:016x}"),
            start_counter: record.start_counter,
            started_unix_nano: record.started,
            closed: record.closed,
            lanes,
        })
    }

    /// What is missing for good, at most `limit` gaps.
    pub fn gaps(&self, limit: usize) -> Result<Vec<GapView>, SpoolError> {
        let read = self.read()?;
        let names = names(&read)?;
        let mut out = Vec::new();
        for row in read.open_table(DROPS)?.iter()?.take(limit) {
            let (key, value) = row?;
            let (number, epoch, id) = key.value();
            let record = decode::<DropRecord>(value.value())?;
            let Some(drop) = record.drop else { continue };
            let items = Counts::from(drop.items.unwrap_or_default())
                .saturating_sub(record.overridden.unwrap_or_default().into());
            let time = TimeRange::from(drop.time.unwrap_or_default());
            out.push(GapView {
                satellite: names.get(&number).cloned().unwrap_or_default(),
                epoch: format!("{epoch:016x}"),
                lane: drop.lane,
                id,
                reason: reason_name(u8::try_from(drop.reason).unwrap_or(0)),
                sequences: drop.sequences.filter(|r| r.start < r.end).map(|r| shown(&(r.start..r.end))),
                items: items.into(),
                unknown: drop.counts_unknown,
                start_unix_nano: if time.is_empty() { 0 } else { time.start },
                end_unix_nano: time.end,
                dropped_unix_nano: drop.dropped_unix_nano,
            });
        }
        Ok(out)
    }

    /// Where the items are, by satellite.
    pub fn accounting(&self) -> Result<BTreeMap<String, AccountView>, SpoolError> {
        let read = self.read()?;
        let names = names(&read)?;
        let mut out: BTreeMap<String, AccountView> =
            names.values().map(|name| (name.clone(), AccountView::default())).collect();
        for row in read.open_table(COUNTERS)?.iter()? {
            let (key, value) = row?;
            let ((number, kind, signal, reason), n) = (key.value(), value.value());
            let Some(account) = names.get(&number).and_then(|name| out.get_mut(name)) else { continue };
            let Some(kind) = Kind::ALL.into_iter().find(|k| *k as u8 == kind) else { continue };
            let items = Signal::from_number(signal);
            match kind {
                Kind::Committed => account.committed.add(items, n),
                Kind::Exported => account.exported.add(items, n),
                Kind::DeadLettered => account.dead_lettered.add(items, n),
                Kind::Rejected => account.rejected.add(items, n),
                Kind::Dropped => {
                    account.dropped.add(items, n);
                    account.dropped_by_reason.entry(reason_name(reason)).or_default().add(items, n);
                }
                Kind::Segments => account.segments = n,
                Kind::Duplicates => account.duplicates = n,
                Kind::HashMismatches => account.hash_mismatches = n,
                Kind::Bytes => account.bytes = n,
            }
        }
        for account in out.values_mut() {
            account.in_spool = account.committed.less(account.exported).less(account.dead_lettered);
        }
        Ok(out)
    }

    /// The spool as a whole.
    pub fn overview(&self) -> Result<SpoolView, SpoolError> {
        let read = self.read()?;
        let segments = read.open_table(SEGMENTS)?;
        let cursors = read.open_table(CURSORS)?;
        let mut exporters = Vec::new();
        for (name, signals) in &self.settings.routes {
            let (entry, request, _) = cursors.get(name.as_str())?.map_or((1, 0, 0), |v| v.value());
            exporters.push(ExporterView {
                name: name.clone(),
                signals: signals.iter().map(Signal::name).collect(),
                entry,
                request,
                backlog_segments: segments.range(entry..)?.count() as u64,
            });
        }
        let path = self.settings.directory.join("spool.redb");
        let (file_bytes, allocated_bytes) = self.env.store.size(&path).unwrap_or((0, 0));
        let live = segments.iter()?.count().saturating_sub(self.finished.len());
        Ok(SpoolView {
            used_bytes: self.usage.total,
            max_bytes: self.settings.max_bytes,
            file_bytes,
            allocated_bytes,
            segments: live as u64,
            bases: read.open_table(BASES)?.len()?,
            base_bytes: self.usage.bases.values().sum(),
            dead_letters: read.open_table(LETTERS)?.iter()?.count() as u64,
            quarantined: self.quarantined().map(|p| p.display().to_string()),
            exporters,
        })
    }
}

impl Items {
    fn slot(&mut self, signal: Signal) -> &mut u64 {
        match signal {
            Signal::Traces => &mut self.spans,
            Signal::Metrics => &mut self.metric_points,
            Signal::Logs => &mut self.log_records,
        }
    }

    fn add(&mut self, signal: Option<Signal>, n: u64) {
        if let Some(signal) = signal {
            *self.slot(signal) += n;
        }
    }

    /// The number of one signal.
    pub fn of(mut self, signal: Signal) -> u64 {
        *self.slot(signal)
    }

    fn less(self, other: Self) -> Self {
        Self {
            spans: self.spans.saturating_sub(other.spans),
            metric_points: self.metric_points.saturating_sub(other.metric_points),
            log_records: self.log_records.saturating_sub(other.log_records),
        }
    }
}

/// `quota_oldest`, `lifetime`, ...; `unknown` for a reason that this software does not know.
fn reason_name(number: u8) -> String {
    match DropReason::try_from(i32::from(number)) {
        Ok(DropReason::Unspecified) | Err(_) => "unknown".to_owned(),
        Ok(reason) => reason.as_str_name().trim_start_matches("DROP_REASON_").to_lowercase(),
    }
}

/// Satellites by their numbers.
pub(super) fn names(read: &redb::ReadTransaction) -> Result<BTreeMap<u32, String>, SpoolError> {
    let mut out = BTreeMap::new();
    for row in read.open_table(SATELLITES)?.iter()? {
        let (id, value) = row?;
        out.insert(decode::<SatelliteRecord>(value.value())?.number, id.value().to_owned());
    }
    Ok(out)
}
