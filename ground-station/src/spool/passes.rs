//! Passes: as this station saw them, and as satellites report them, in Goodbye and in later contacts.
//!
//! A report is keyed by the satellite's clock, the station's own record by the station's. Hello says when the satellite opened the
//! contact, which is the start of the report that will come of it: so the two are matched.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use perigee_proto::link::{Goodbye, PassReport};
use perigee_shared::contact::report::shown_pass;
use perigee_shared::signal::Counts;
use prost::Message;
use redb::{ReadableTable, TableError};
use serde::Serialize;
use serde_json::Value;

use super::contents::Effect;
use super::error::SpoolError;
use super::file::{Txn, View};
use super::tables::*;
use super::views::{Items, names};
use super::{ledger, standing};

/// Reports that are taken from one Hello.
const TAKEN: usize = 64;

/// Reports that are kept of each satellite, and as many records of our own: the latest ones.
pub(crate) const KEPT: usize = 500;

/// Records among which that of a contact is looked for: those of two contacts at once take turns.
const LATEST: usize = 4;

/// The longest id of a station.
const STATION: usize = 63;

/// How a link ended, as the station saw it. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Ending {
    /// The satellite said Goodbye.
    Goodbye = 1,
    /// Nothing more came.
    Lost = 2,
    /// This station closed it: the satellite may not connect, or broke the protocol.
    Closed = 3,
    /// This station ended.
    Shutdown = 4,
}

impl Ending {
    const ALL: [Self; 4] = [Self::Goodbye, Self::Lost, Self::Closed, Self::Shutdown];

    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Goodbye => "goodbye",
            Self::Lost => "lost",
            Self::Closed => "closed",
            Self::Shutdown => "shutdown",
        }
    }
}

/// What is to be added to the record of a contact: of a link that goes on or has ended, what came since the last time.
#[derive(Debug, Clone)]
pub struct Heard {
    /// When the satellite opened the contact, by its clock; 0: it did not say.
    pub opened: u64,
    /// Links that are new: 1 the first time.
    pub connections: u32,
    /// How long ago Hello came, or the last of what was added before.
    pub began: Duration,
    /// How long ago the last of it came.
    pub lost: Duration,
    /// Payload bytes that arrived.
    pub received: u64,
    /// Of these, bytes that were kept.
    pub held: u64,
    /// Segments that were committed.
    pub segments: u64,
    /// Items in them.
    pub items: Counts,
    /// Segments that another ledger has too, as Hello showed.
    pub handover_twice: u64,
    /// How it ended; none: it goes on.
    pub ended: Option<Ending>,
    /// What the satellite's Goodbye says of the contact, and of what waits.
    pub goodbye: Option<Goodbye>,
}

/// A pass of a satellite.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct PassView {
    /// The satellite.
    pub satellite: String,
    /// What came of it.
    #[serde(flatten)]
    pub pass: Pass,
}

/// What a satellite says of a pass. Times are by its clock, ns since the Unix epoch. What is not known is null; while it has not said
/// anything only the station is there.
#[derive(Debug, utoipa::ToSchema)]
#[expect(dead_code, reason = "only its schema is used: `shown_pass` makes the JSON, on board too")]
pub struct PassReportView {
    /// The station.
    station: String,
    /// When the satellite opened the contact.
    start_unix_nano: Option<u64>,
    /// When it was over.
    end_unix_nano: Option<u64>,
    /// `delivered_all`, `ended_by_plan`, `cut`, `unreachable`, `refused`, `nothing_to_send`, `budget_spent` or `closed`.
    state: Option<String>,
    /// AOS as it was planned; null: nobody had planned an end.
    planned_start_unix_nano: Option<u64>,
    /// LOS as it was planned.
    planned_end_unix_nano: Option<u64>,
    /// What is not counted on at the start: for the error of the satellite's clock.
    guard_start_seconds: Option<f64>,
    /// What is not counted on before the end: for that, and the guard time, in which nothing new is begun.
    guard_end_seconds: Option<f64>,
    /// Bytes that it could carry by plan from AOS to LOS; of earlier software, without what is not counted on.
    planned_bytes: Option<u64>,
    /// Bytes that the ground gained.
    held_bytes: Option<u64>,
    /// `held_bytes` over `planned_bytes`.
    efficiency: Option<f64>,
    /// Bytes of the segments that the ground committed.
    achieved_bytes: Option<u64>,
    /// Bytes that were sent.
    sent_bytes: Option<u64>,
    /// Segments that the ground committed.
    committed_segments: Option<u64>,
    /// From AOS, or from when it was opened where that was later, until the link was up.
    connect_seconds: Option<f64>,
    /// How long the link was up.
    connected_seconds: Option<f64>,
    /// `held_bytes` in that time.
    rate_bits_per_second: Option<f64>,
    /// The part of packets that were lost.
    loss: Option<f64>,
    /// The smallest round trip.
    round_trip_seconds: Option<f64>,
    /// What was left on board.
    backlog_bytes: Option<u64>,
    /// Since when the oldest of that waits.
    backlog_since_unix_nano: Option<u64>,
}

/// A contact as it was planned, in ns; times since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedTimes {
    /// AOS.
    pub start: u64,
    /// LOS.
    pub end: u64,
    /// What is not counted on after AOS.
    pub guard_start: u64,
    /// What is not counted on before LOS.
    pub guard_end: u64,
}

/// What came of a pass.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Pass {
    /// What the satellite says of it; only the station while it has not said anything.
    #[serde(flatten)]
    #[schema(value_type = PassReportView)]
    report: Value,
    /// What this station saw of it; none: it was over another station, or never came up.
    pub ground: Option<HeardView>,
    /// See [`Pass::start`].
    #[serde(skip)]
    start: u64,
    /// See [`Pass::reported`].
    #[serde(skip)]
    reported: Option<u64>,
}

impl Pass {
    /// One that nothing has to be committed for.
    #[cfg(test)]
    pub(crate) fn new(report: Value, ground: Option<HeardView>) -> Self {
        let said = report["start_unix_nano"].as_u64().unwrap_or(0);
        let start = ground.as_ref().map_or(said, |ground| ground.start_unix_nano);
        Self { report, ground, start, reported: None }
    }

    /// Bytes that the ground gained over those that the plan said it can carry.
    pub fn fill(&self) -> Option<f64> {
        self.report["efficiency"].as_f64()
    }

    /// Bytes that the ground gained, by the satellite's report or else by what this station saw.
    pub fn held_bytes(&self) -> Option<u64> {
        self.report["held_bytes"].as_u64().or(self.ground.as_ref().map(|ground| ground.held_bytes))
    }

    /// What the satellite says of it; only the station while it has not said anything.
    pub const fn report(&self) -> &Value {
        &self.report
    }

    /// How it was planned, where the satellite says that.
    pub fn planned(&self) -> Option<PlannedTimes> {
        let time = |name: &str| self.report[name].as_u64();
        let guard = |name: &str| (self.report[name].as_f64().unwrap_or(0.0) * 1e9) as u64;
        let (start, end) = (time("planned_start_unix_nano")?, time("planned_end_unix_nano")?);
        (start < end).then(|| PlannedTimes {
            start,
            end,
            guard_start: guard("guard_start_seconds"),
            guard_end: guard("guard_end_seconds"),
        })
    }

    /// When it began, ns since the Unix epoch: by this station's clock if it saw it, else by the satellite's; where that one was
    /// far off, when the satellite told of it.
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// Under which time the satellite's report is kept.
    pub(super) const fn reported(&self) -> Option<u64> {
        self.reported
    }
}

/// A pass as this station saw it.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct HeardView {
    /// When the satellite's first Hello came, ns since the Unix epoch.
    pub start_unix_nano: u64,
    /// When the last of it came.
    pub end_unix_nano: u64,
    /// How long links were up.
    pub connected_seconds: f64,
    /// How many links it took.
    pub connections: u32,
    /// Payload bytes that arrived.
    pub received_bytes: u64,
    /// Of these, bytes that were kept: of whole segments and of parts.
    pub held_bytes: u64,
    /// Segments that were committed.
    pub committed_segments: u64,
    /// Items in them.
    pub committed: Items,
    /// Segments, of any pass, that another station's ledger has too, as the satellite's Hello showed in this one.
    pub handover_twice: u64,
    /// How the last link ended; none: it goes on, or this program was killed while it did.
    pub ended: Option<Ending>,
}

const fn all(satellite: u32) -> std::ops::RangeInclusive<PassKey> {
    PassKey { satellite, start: 0 }..=PassKey { satellite, start: u64::MAX }
}

/// The satellite's clock may be ahead of this station's by so much, ns, and not from before the year 2020: else the pass was a minute
/// before it was told, so that it comes before the one in which it was.
const AHEAD: u64 = 3_600_000_000_000;
const SINCE: u64 = 1_577_836_800_000_000_000;
const MINUTE: u64 = 60_000_000_000;

/// Keeps what a satellite says of its passes.
pub(super) fn note(txn: &Txn<'_>, satellite: u32, reports: &[PassReport]) -> Result<(), SpoolError> {
    if reports.is_empty() {
        return Ok(());
    }
    let mut table = txn.tables.open_table(PASSES)?;
    let (now, far) = (
        PassKey { satellite, start: txn.now.saturating_sub(MINUTE) },
        PassKey { satellite, start: txn.now.saturating_add(AHEAD) },
    );
    // Of software that kept them by such times.
    let misplaced = table.range(far..=PassKey { satellite, start: u64::MAX })?.map(|row| Ok(row?.0.value()));
    for key in misplaced.collect::<Result<Vec<_>, SpoolError>>()? {
        let row = table.remove(key)?.map(|row| row.value().to_vec());
        let now = free(&table, now)?;
        row.map(|row| table.insert(now, row.as_slice()).map(drop)).transpose()?;
    }
    for report in &reports[reports.len().saturating_sub(TAKEN)..] {
        let station: String = report.station.chars().take(STATION).collect();
        let kept = PassReport { station, ..report.clone() };
        let key = PassKey { satellite, start: report.start_unix_nano };
        let key = match (SINCE..far.start).contains(&key.start) {
            true => key,
            false => match told(&table, satellite, &kept)? {
                Some(key) => key,
                None => free(&table, now)?,
            },
        };
        table.insert(key, kept.encode_to_vec().as_slice())?;
    }
    keep_latest(&mut table, satellite)
}

/// Where a report of this pass is already.
fn told(
    table: &impl ReadableTable<PassKey, &'static [u8]>,
    satellite: u32,
    report: &PassReport,
) -> Result<Option<PassKey>, SpoolError> {
    for row in table.range(all(satellite))? {
        let (key, value) = row?;
        let known = decode::<PassReport>(value.value())?;
        if (known.start_unix_nano, &known.station) == (report.start_unix_nano, &report.station) {
            return Ok(Some(key.value()));
        }
    }
    Ok(None)
}

/// The first key from `key` on that nothing has.
fn free(table: &impl ReadableTable<PassKey, &'static [u8]>, mut key: PassKey) -> Result<PassKey, SpoolError> {
    while table.get(key)?.is_some() {
        key.start += 1;
    }
    Ok(key)
}

fn keep_latest(
    table: &mut redb::Table<'_, PassKey, &'static [u8]>,
    satellite: u32,
) -> Result<(), SpoolError> {
    let keys: Vec<PassKey> =
        table.range(all(satellite))?.map(|row| row.map(|(key, _)| key.value())).collect::<Result<_, _>>()?;
    for key in &keys[..keys.len().saturating_sub(KEPT)] {
        table.remove(*key)?;
    }
    Ok(())
}

/// Keeps what was seen of a contact on a link. A contact has one record, however many links it took.
pub(super) fn heard(txn: &mut Txn<'_>, id: &str, heard: &Heard) -> Result<(), SpoolError> {
    let satellite = ledger::number(txn, id)?;
    if let Some(report) = heard.goodbye.as_ref().and_then(|goodbye| goodbye.pass.as_ref()) {
        note(txn, satellite, std::slice::from_ref(report))?;
    }
    stand(txn, satellite, id, heard)?;
    let ago = |time: Duration| txn.now.saturating_sub(time.as_nanos() as u64);
    let mut table = txn.tables.open_table(CONTACTS)?;
    let mut same = None;
    for row in table.range(all(satellite))?.rev().take(LATEST).take_while(|_| heard.opened != 0) {
        let (key, value) = row?;
        let record = decode::<ContactRecord>(value.value())?;
        if record.opened == heard.opened {
            same = Some((key.value(), record));
            break;
        }
    }
    let (key, before) = match same {
        Some(same) => same,
        None => {
            // Two contacts may begin at once.
            let key = free(&table, PassKey { satellite, start: ago(heard.began) })?;
            (key, ContactRecord::default())
        }
    };
    let items = Counts::from(before.items.unwrap_or_default()) + heard.items;
    let record = ContactRecord {
        station: txn.contents.settings.station.clone(),
        opened: heard.opened,
        lost: ago(heard.lost),
        connected: before.connected + heard.began.saturating_sub(heard.lost).as_nanos() as u64,
        connections: before.connections + heard.connections,
        received: before.received + heard.received,
        held: before.held + heard.held,
        segments: before.segments + heard.segments,
        items: Some(items.into()),
        ended: heard.ended.map_or(0, |ended| ended as u32),
        handover_twice: before.handover_twice + heard.handover_twice,
    };
    table.insert(key, record.encode_to_vec().as_slice())?;
    keep_latest(&mut table, satellite)
}

/// Keeps when a satellite was last heard, and what waits on board now.
fn stand(txn: &mut Txn<'_>, satellite: u32, id: &str, heard: &Heard) -> Result<(), SpoolError> {
    let mut table = txn.tables.open_table(SATELLITES)?;
    let before =
        table.get(id)?.map(|v| decode::<SatelliteRecord>(v.value())).transpose()?.unwrap_or_default();
    let mut told = heard.goodbye.as_ref().map(|goodbye| standing::lanes(&goodbye.backlog));
    if let (Some(lanes), Some(clock)) = (&mut told, &before.clock) {
        standing::by_our_clock(lanes, clock.ahead(), txn.now);
    }
    let backlog = told.filter(|lanes| !lanes.is_empty());
    let backlog = backlog.unwrap_or_else(|| standing::left(txn.contents, satellite, &before.backlog));
    let lost = txn.now.saturating_sub(heard.lost.as_nanos() as u64);
    let record = SatelliteRecord { heard: lost, backlog, ..before };
    table.insert(id, record.encode_to_vec().as_slice())?;
    txn.effects.push(Effect::Told { satellite });
    Ok(())
}

/// The latest passes of each satellite, at most `limit` of each, latest first.
pub(super) fn passes(view: &View<'_>, limit: usize) -> Result<Vec<PassView>, SpoolError> {
    let mut out = Vec::new();
    for (number, satellite) in names(view.tables)? {
        let of_one = of_satellite(view, number, limit)?.into_iter().take(limit);
        out.extend(of_one.map(|pass| PassView { satellite: satellite.clone(), pass }));
    }
    Ok(out)
}

/// What is kept of a pass: when it began, the satellite's report, with the time that it is kept under, and our record.
type KeptPass = (u64, Option<(u64, PassReport)>, Option<ContactRecord>);

/// The latest passes of a satellite, latest first, of so many reports and records.
fn known(view: &View<'_>, satellite: u32, limit: usize) -> Result<Vec<KeptPass>, SpoolError> {
    let mut reports = BTreeMap::<u64, Vec<(u64, PassReport)>>::new();
    for row in view.tables.open_table(PASSES)?.range(all(satellite))?.rev().take(limit) {
        let (key, value) = row?;
        let report = decode::<PassReport>(value.value())?;
        reports.entry(report.start_unix_nano).or_default().push((key.value().start, report));
    }
    let mut out = Vec::<KeptPass>::new();
    match view.tables.open_table(CONTACTS) {
        // No link has ended since this software runs.
        Err(TableError::TableDoesNotExist(_)) => {}
        table => {
            for row in table?.range(all(satellite))?.rev().take(limit) {
                let (key, value) = row?;
                out.push((key.value().start, None, Some(decode(value.value())?)));
            }
        }
    }
    // A satellite may know this station by the name of one of its antennas.
    for by_station in [true, false] {
        for (_, report, record) in out.iter_mut().filter(|(_, report, _)| report.is_none()) {
            let Some(record) = record else { continue };
            let Some(of) = reports.get_mut(&record.opened) else { continue };
            let is_it = |(_, r): &(u64, PassReport)| !by_station || r.station == record.station;
            if let Some(at) = of.iter().position(is_it).filter(|_| by_station || of.len() == 1) {
                *report = Some(of.remove(at));
            }
        }
    }
    out.extend(reports.into_values().flatten().map(|report| (report.0, Some(report), None)));
    out.sort_by_key(|(start, ..)| Reverse(*start));
    Ok(out)
}

fn pass((start, report, record): KeptPass) -> Pass {
    let station = || record.as_ref().map_or("", |record| &*record.station);
    let said = report.as_ref().map(|(_, report)| shown_pass(report));
    Pass {
        report: said.unwrap_or_else(|| serde_json::json!({ "station": station() })),
        ground: record.as_ref().map(|record| shown(start, record)),
        start,
        reported: report.map(|(at, _)| at),
    }
}

/// The latest passes of a satellite, latest first.
pub(super) fn of_satellite(view: &View<'_>, satellite: u32, limit: usize) -> Result<Vec<Pass>, SpoolError> {
    Ok(known(view, satellite, limit)?.into_iter().map(pass).collect())
}

/// The latest pass of a satellite that is over.
pub(super) fn latest(view: &View<'_>, satellite: u32) -> Result<Option<Pass>, SpoolError> {
    let is_over = |(_, report, record): &KeptPass| {
        report.is_some() || record.as_ref().is_none_or(|record| record.ended != 0)
    };
    Ok(known(view, satellite, LATEST)?.into_iter().find(is_over).map(pass))
}

fn shown(start: u64, r: &ContactRecord) -> HeardView {
    HeardView {
        start_unix_nano: start,
        end_unix_nano: r.lost,
        connected_seconds: r.connected as f64 / 1e9,
        connections: r.connections,
        received_bytes: r.received,
        held_bytes: r.held,
        committed_segments: r.segments,
        committed: Counts::from(r.items.unwrap_or_default()).into(),
        handover_twice: r.handover_twice,
        ended: Ending::ALL.into_iter().find(|e| *e as u32 == r.ended),
    }
}
