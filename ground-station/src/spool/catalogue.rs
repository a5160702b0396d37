//! The catalogue: what was ever committed here, segment by segment, long after its bytes have left the spool.
//!
//! A row is written in the transaction that commits its segment. Which backends have a segment is not in the row: it follows from
//! the exporters' cursors when somebody asks. Which pass brought it follows from the contacts that this station saw. Rows go when they
//! are older than `storage.catalogue.keep` or when there are more than `storage.catalogue.max_bytes` holds; they are in no
//! satellite's budget. Earlier software ignores the table; what it committed meanwhile is filled in as far as the spool and its bases still
//! say it.

use std::collections::{BTreeMap, BTreeSet};

use perigee_proto::link;
use perigee_shared::otlp::tree::{NAME, RESOURCES, branches};
use perigee_shared::segment::{Header, Lane, Request, SegmentId};
use perigee_shared::signal::{Counts, SignalSet, TimeRange};
use prost::Message;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableError};
use serde::Serialize;

use super::clocks::SET;
use super::error::SpoolError;
use super::file::{Txn, View};
use super::intake::Age;
use super::look::Part;
use super::standing;
use super::tables::*;
use super::views::{Items, names};

/// What a row takes in the file, about: key, record and its part of a page.
pub(super) const ROW: u64 = 192;

/// Rows that one commit deletes, at most: twice what it adds, so that a smaller bound is reached while commits go on.
const PRUNED: usize = 4;

/// Names of services that a row keeps, and the longest of them.
const SERVICES: usize = 16;
/// See [`SERVICES`].
const LONGEST: usize = 63;

/// Rows that are looked at in one step, at most.
pub(super) const LOOKED_AT: usize = 50_000;

/// Steps of one question, at most: a million rows, three times what the catalogue holds by default. What is behind them comes with
/// the next page.
pub(super) const STEPS: usize = 20;

/// Rows, of all satellites, that delays are worked out from.
pub(super) const DELAYS_OF: usize = 20_000;

/// How long rows stay, and what they may take together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Ns since the commit.
    pub nano: u64,
    /// Bytes of all rows.
    pub bytes: u64,
}

impl Keep {
    /// Nothing stays.
    pub const OFF: Self = Self { nano: 0, bytes: 0 };

    /// Whether anything stays.
    pub const fn is_on(self) -> bool {
        self.nano > 0 && self.bytes > 0
    }
}

impl Default for Keep {
    fn default() -> Self {
        Self { nano: 90 * 86_400 * 1_000_000_000, bytes: 64 << 20 }
    }
}

/// A segment that was committed.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CatalogueRecord {
    #[prost(uint32, tag = "1")]
    pub(super) satellite: u32,
    #[prost(message, optional, tag = "2")]
    segment: Option<link::SegmentId>,
    #[prost(message, optional, tag = "3")]
    items: Option<link::Counts>,
    #[prost(message, optional, tag = "4")]
    time: Option<link::TimeRange>,
    /// Payload bytes.
    #[prost(uint64, tag = "5")]
    bytes: u64,
    /// By the satellite's clock, ns since the Unix epoch.
    #[prost(fixed64, tag = "6")]
    sealed: u64,
    /// By this station's clock; 0: it was found afterwards in what the ledger kept.
    #[prost(fixed64, tag = "7")]
    pub(super) committed: u64,
    /// Its number in its satellite, which cursors name; 0: unknown.
    #[prost(uint64, tag = "8")]
    entry: u64,
    /// Values of `service.name` in it; empty: nobody has decoded it yet.
    #[prost(string, repeated, tag = "9")]
    services: Vec<String>,
    /// How old the oldest of its items was when it was committed, ms; none: the agent did not say, or earlier software wrote this.
    #[prost(uint64, optional, tag = "10")]
    age: Option<u64>,
}

impl CatalogueRecord {
    /// The entry that it was, if that is known.
    pub(super) fn entry(&self) -> Option<EntryKey> {
        let lane = self.segment.and_then(|id| SegmentId::try_from(id).ok())?.lane.0;
        (self.entry != 0).then_some(EntryKey { satellite: self.satellite, lane, entry: self.entry })
    }

    /// Reads a row, unless it is of another satellite than this one: most of them are, so that is seen without reading all of it.
    fn of_satellite(of: Option<u32>, mut bytes: &[u8]) -> Result<Option<Self>, SpoolError> {
        /// The key of `satellite`, which is encoded first.
        const FIRST: u8 = 1 << 3;
        let whole = bytes;
        if let (Some(of), Some((&FIRST, rest))) = (of, bytes.split_first()) {
            bytes = rest;
            if prost::encoding::decode_varint(&mut bytes).is_ok_and(|number| number != u64::from(of)) {
                return Ok(None);
            }
        }
        decode(whole).map(Some)
    }

    /// From when the oldest of its items was accepted on board to its commit, s; from its sealing, by two clocks, where nothing else is
    /// known.
    fn delay(&self) -> Option<f64> {
        let known = self.committed >= SET && self.sealed >= SET;
        let since_sealed = known.then(|| self.committed.saturating_sub(self.sealed) as f64 / 1e9);
        self.age.map(|age| age as f64 / 1e3).or(since_sealed)
    }

    /// Items in it.
    pub(super) fn items(&self) -> Counts {
        self.items.unwrap_or_default().into()
    }
}

/// Which segments are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of this satellite alone.
    pub satellite: Option<String>,
    /// With items from then on, ns since the Unix epoch.
    pub from: Option<u64>,
    /// With items until then.
    pub until: Option<u64>,
    /// With items of this service.
    pub service: Option<String>,
    /// Committed before the one with this number.
    pub after: Option<u64>,
}

/// A segment that was committed here.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct CatalogueView {
    /// Its number in the order of commits; the next page begins behind it.
    pub number: u64,
    /// Whose it is.
    pub satellite: String,
    /// The life of the satellite's log, in hex.
    pub epoch: String,
    /// Its lane.
    pub lane: u8,
    /// Its sequence in the lane.
    pub sequence: u64,
    /// Items in it.
    pub items: Items,
    /// Payload bytes.
    pub bytes: u64,
    /// The earliest timestamp in it, ns since the Unix epoch; 0: unknown.
    pub start_unix_nano: u64,
    /// The latest.
    pub end_unix_nano: u64,
    /// When it was sealed on board, by the satellite's clock.
    pub sealed_unix_nano: u64,
    /// When it was committed; 0: unknown, since it was found afterwards in what the ledger kept.
    pub committed_unix_nano: u64,
    /// From when the oldest of its items was accepted on board to its commit, if that is known; from its sealing, if only that is.
    pub delay_seconds: Option<f64>,
    /// Services in it; empty: not known yet.
    pub services: Vec<String>,
    /// When the pass began that brought it; none: that pass goes on, or this station's records of passes do not reach back.
    pub pass_unix_nano: Option<u64>,
    /// Exporters of its signals that are done with it.
    pub backends: Vec<String>,
    /// Exporters that still have to send it.
    pub waits_for: Vec<String>,
    /// Items that backends refused and that are dead letters, by exporter; [`UNDECODABLE`]: the segment does not decode.
    pub refused: BTreeMap<String, u64>,
}

/// Stands for the exporter where no one could be handed a segment.
pub const UNDECODABLE: &str = "does not decode";

/// How late data is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Delay {
    /// Half of the segments came sooner, s.
    pub median_seconds: f64,
    /// One in twenty came later, s.
    pub p95_seconds: f64,
    /// The latest, s.
    pub worst_seconds: f64,
    /// How many segments that is of.
    pub segments: u64,
}

/// Notes a segment that is committed with the number `payload` and has become the entry `entry` of its satellite.
pub(super) fn note(
    txn: &Txn<'_>,
    satellite: u32,
    header: &Header,
    (payload, entry): (u64, u64),
    age: Option<Age>,
) -> Result<(), SpoolError> {
    let Keep { nano, bytes } = txn.contents.settings.catalogue;
    if nano == 0 || bytes < ROW {
        return Ok(());
    }
    let mut table = txn.tables.open_table(CATALOGUE)?;
    let age = age.map(|age| age.now().as_millis() as u64);
    let row = CatalogueRecord { age, ..row(satellite, header, txn.now, entry) };
    table.insert(payload, row.encode_to_vec().as_slice())?;
    let (most, oldest) = (bytes / ROW, txn.now.saturating_sub(nano));
    for _ in 0..PRUNED {
        let too_many = table.len()? > most;
        let Some(first) = table.first()? else { break };
        let key = first.0.value();
        // A clock that was wrong for a while holds nothing back: what is behind it goes with it.
        let committed = decode::<CatalogueRecord>(first.1.value())?.committed;
        drop(first);
        if !too_many && committed >= oldest {
            break;
        }
        table.remove(key)?;
    }
    Ok(())
}

fn row(satellite: u32, header: &Header, committed: u64, entry: u64) -> CatalogueRecord {
    CatalogueRecord {
        satellite,
        segment: Some(header.id.into()),
        items: Some(header.items.into()),
        time: Some(header.time.into()),
        bytes: header.payload_len,
        sealed: header.sealed_unix_nano,
        committed,
        entry,
        services: Vec::new(),
        age: None,
    }
}

/// Keeps which services are in a segment, once it was decoded.
pub(super) fn name_services(txn: &Txn<'_>, payload: u64, services: &[String]) -> Result<(), SpoolError> {
    let mut table = txn.tables.open_table(CATALOGUE)?;
    let before = table.get(payload)?.map(|v| decode::<CatalogueRecord>(v.value())).transpose()?;
    if let Some(before) = before {
        let services = services.to_vec();
        table.insert(payload, CatalogueRecord { services, ..before }.encode_to_vec().as_slice())?;
    }
    Ok(())
}

/// The values of `service.name` in requests, as far as a row keeps them.
#[derive(Debug, Default)]
pub(super) struct Services(pub(super) BTreeSet<String>);

impl Services {
    /// Takes those of a request, which is known to be well formed.
    pub(super) fn look(&mut self, request: &Request) {
        for resource in branches(&request.body, RESOURCES).map_while(Result::ok) {
            for service in services_of(resource) {
                if self.0.len() < SERVICES {
                    self.0.insert(standing::clean(&String::from_utf8_lossy(service), LONGEST));
                }
            }
        }
    }
}

/// The values of `service.name` of what holds a resource.
pub(super) fn services_of(resource: &[u8]) -> impl Iterator<Item = &[u8]> {
    let named = branches(resource, NAME).map_while(Result::ok);
    let attributes = named.flat_map(|resource| branches(resource, 1)).map_while(Result::ok);
    attributes.filter_map(|attribute| {
        let text = |number| branches(attribute, number).map_while(Result::ok).next();
        let is_name = text(1) == Some(b"service.name");
        text(2).filter(|_| is_name).and_then(|value| branches(value, 1).map_while(Result::ok).next())
    })
}

/// Fills in what earlier software committed, as far as the spool and its bases say it. A catalogue that has rows is as it should be.
pub(super) fn rebuild(db: &Database) -> Result<(), SpoolError> {
    let read = db.begin_read()?;
    let begun = match read.open_table(CATALOGUE) {
        Err(TableError::TableDoesNotExist(_)) => false,
        table => table?.len()? > 0,
    };
    if begun {
        return Ok(());
    }
    let mut found = BTreeMap::new();
    for row in read.open_table(BASES)?.iter()? {
        let (key, value) = row?;
        let record = decode::<BaseRecord>(value.value())?;
        if let Some(header) = header(record.header) {
            found.insert(record.entry, self::row(key.value().satellite, &header, 0, 0));
        }
    }
    for row in read.open_table(ENTRIES)?.iter()? {
        let (key, value) = row?;
        let record = decode::<SegmentRecord>(value.value())?;
        let row = self::row(record.number, &record.header()?, record.committed, key.value().entry);
        found.insert(record.payload, row);
    }
    drop(read);
    if found.is_empty() {
        return Ok(());
    }
    let txn = db.begin_write()?;
    let mut table = txn.open_table(CATALOGUE)?;
    for (payload, row) in &found {
        table.insert(payload, row.encode_to_vec().as_slice())?;
    }
    drop(table);
    txn.commit()?;
    tracing::info!(segments = found.len(), "the catalogue was begun with what the spool and its bases say");
    Ok(())
}

/// The rows, if this file has the table.
fn rows(read: &ReadTransaction) -> Result<Option<redb::ReadOnlyTable<u64, &'static [u8]>>, SpoolError> {
    match read.open_table(CATALOGUE) {
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        table => Ok(Some(table?)),
    }
}

/// What was committed, the latest first, at most `limit`.
pub(super) fn list(
    view: &View<'_>,
    wanted: &Wanted,
    limit: usize,
) -> Result<Part<CatalogueView>, SpoolError> {
    let Some(table) = rows(view.tables)? else { return Ok(Part { rows: Vec::new(), next: None }) };
    let of = match &wanted.satellite {
        None => None,
        Some(id) => match names(view.tables)?.iter().find(|(_, name)| *name == id) {
            Some((number, _)) => Some(*number),
            None => return Ok(Part { rows: Vec::new(), next: None }),
        },
    };
    let rows = table.range(..wanted.after.unwrap_or(u64::MAX))?.rev().map(|row| {
        let (key, value) = row?;
        Ok((key.value(), CatalogueRecord::of_satellite(of, value.value())?))
    });
    list_of(view, wanted, limit, rows)
}

/// The same of rows that come latest first; what to ask for next is the number of the last that was looked at.
pub(super) fn list_of(
    view: &View<'_>,
    wanted: &Wanted,
    limit: usize,
    rows: impl Iterator<Item = Result<(u64, Option<CatalogueRecord>), SpoolError>>,
) -> Result<Part<CatalogueView>, SpoolError> {
    let mut out = Part { rows: Vec::new(), next: None };
    let names = names(view.tables)?;
    let mut shown = Shown::new(view)?;
    let mut last = wanted.after;
    for (looked_at, row) in rows.enumerate() {
        if out.rows.len() == limit || looked_at == LOOKED_AT {
            out.next = last.map(|last| last.to_string());
            break;
        }
        let (number, record) = row?;
        last = Some(number);
        let Some(record) = record else { continue };
        let Some(satellite) = names.get(&record.satellite) else { continue };
        if wanted.is(satellite, &record) {
            out.rows.extend(shown.view(number, satellite, record)?);
        }
    }
    Ok(out)
}

impl Wanted {
    /// Whether every segment is wanted, of one satellite or of all.
    pub(super) const fn is_all(&self) -> bool {
        self.from.is_none() && self.until.is_none() && self.service.is_none()
    }

    pub(super) fn is(&self, satellite: &str, record: &CatalogueRecord) -> bool {
        let time = TimeRange::from(record.time.unwrap_or_default());
        let known = !time.is_empty();
        self.satellite.as_ref().is_none_or(|wanted| wanted == satellite)
            && self.from.is_none_or(|from| known && time.end >= from)
            && self.until.is_none_or(|until| known && time.start <= until)
            && self.service.as_ref().is_none_or(|wanted| record.services.contains(wanted))
    }
}

/// Items in dead letters, by exporter, of each segment.
type Refused = BTreeMap<SequenceKey, BTreeMap<String, Counts>>;

/// Turns rows into what is shown; passes of a satellite are read once.
struct Shown<'v, 't> {
    view: &'v View<'t>,
    entries: redb::ReadOnlyTable<EntryKey, &'static [u8]>,
    cursors: redb::ReadOnlyTable<(&'static str, u32, u8), Cursor>,
    /// Items in dead letters, by segment and exporter; read once something is shown.
    refused: Option<Refused>,
    /// Begin and end of the passes of a satellite.
    passes: BTreeMap<u32, Vec<(u64, u64)>>,
}

impl<'v, 't> Shown<'v, 't> {
    fn new(view: &'v View<'t>) -> Result<Self, SpoolError> {
        let entries = view.tables.open_table(ENTRIES)?;
        let cursors = view.tables.open_table(CURSORS)?;
        Ok(Self { view, entries, cursors, refused: None, passes: BTreeMap::new() })
    }

    fn view(
        &mut self,
        number: u64,
        satellite: &str,
        record: CatalogueRecord,
    ) -> Result<Option<CatalogueView>, SpoolError> {
        let Some(id) = record.segment.and_then(|id| SegmentId::try_from(id).ok()) else { return Ok(None) };
        let items = Counts::from(record.items.unwrap_or_default());
        let time = TimeRange::from(record.time.unwrap_or_default());
        let (mut backends, waits_for) = self.exporters(&record, id.lane, items.signals())?;
        let refused = self.refused(SequenceKey::new(record.satellite, id))?;
        // One that refused all that it was to get has nothing of it.
        let routes = &self.view.contents.settings.routes;
        backends.retain(|name| {
            let Some(signals) = routes.get(name) else { return true };
            let all: u64 = signals.iter().map(|signal| items[signal]).sum();
            !refused.contains_key(UNDECODABLE)
                && refused.get(name).is_none_or(|refused| refused.total() < all)
        });
        let pass = self.pass(record.satellite, record.committed)?;
        Ok(Some(CatalogueView {
            number,
            satellite: satellite.to_owned(),
            epoch: format!("{:016x}", id.epoch),
            lane: id.lane.0,
            sequence: id.sequence,
            items: items.into(),
            bytes: record.bytes,
            start_unix_nano: if time.is_empty() { 0 } else { time.start },
            end_unix_nano: time.end,
            sealed_unix_nano: record.sealed,
            committed_unix_nano: record.committed,
            delay_seconds: record.delay(),
            services: record.services,
            pass_unix_nano: pass,
            backends,
            waits_for,
            refused: refused.into_iter().map(|(name, items)| (name, items.total())).collect(),
        }))
    }

    /// What is in dead letters of a segment.
    fn refused(&mut self, of: SequenceKey) -> Result<BTreeMap<String, Counts>, SpoolError> {
        if self.refused.is_none() {
            self.refused = Some(refused(self.view)?);
        }
        Ok(self.refused.as_ref().and_then(|all| all.get(&of)).cloned().unwrap_or_default())
    }

    /// Exporters that are done with a segment, and those that are not.
    fn exporters(
        &self,
        record: &CatalogueRecord,
        lane: Lane,
        signals: SignalSet,
    ) -> Result<(Vec<String>, Vec<String>), SpoolError> {
        let (mut done, mut left) = (Vec::new(), Vec::new());
        let key = EntryKey { satellite: record.satellite, lane: lane.0, entry: record.entry };
        let in_spool = record.entry != 0 && self.entries.get(key)?.is_some();
        for (name, of) in &self.view.contents.settings.routes {
            if !of.intersects(signals) || record.entry == 0 {
                continue;
            }
            let cursor = self.cursors.get((name.as_str(), record.satellite, lane.0))?.map(|c| c.value());
            if cursor.is_some_and(|cursor| cursor.entry > record.entry) {
                done.push(name.clone());
            } else if in_spool {
                left.push(name.clone());
            }
        }
        Ok((done, left))
    }

    /// When the pass began in which something was committed at this time.
    fn pass(&mut self, satellite: u32, committed: u64) -> Result<Option<u64>, SpoolError> {
        // The last of a pass is committed a little after it came.
        const AFTER: u64 = 5_000_000_000;
        if let std::collections::btree_map::Entry::Vacant(place) = self.passes.entry(satellite) {
            let mut spans = Vec::new();
            match self.view.tables.open_table(CONTACTS) {
                Err(TableError::TableDoesNotExist(_)) => {}
                table => {
                    let all = PassKey { satellite, start: 0 }..=PassKey { satellite, start: u64::MAX };
                    for row in table?.range(all)? {
                        let (key, value) = row?;
                        spans.push((key.value().start, decode::<ContactRecord>(value.value())?.lost));
                    }
                }
            }
            place.insert(spans);
        }
        let spans = &self.passes[&satellite];
        let at = spans.partition_point(|(start, _)| *start <= committed);
        let before = at.checked_sub(1).map(|at| spans[at]).filter(|(_, end)| committed <= end + AFTER);
        // The record of a pass is written after it, and where the disk was slow it begins a little late.
        let behind = || spans.get(at).copied().filter(|(start, _)| *start <= committed + AFTER);
        Ok(before.or_else(behind).map(|(start, _)| start))
    }
}

fn refused(view: &View<'_>) -> Result<Refused, SpoolError> {
    let mut all = Refused::new();
    for row in view.tables.open_table(LETTERS)?.iter()? {
        let letter = decode::<LetterRecord>(row?.1.value())?;
        let Some(id) = letter.header.and_then(|h| h.id).and_then(|id| SegmentId::try_from(id).ok()) else {
            continue;
        };
        let of = all.entry(SequenceKey::new(letter.number, id)).or_default();
        let by = if letter.exporter.is_empty() { UNDECODABLE.to_owned() } else { letter.exporter };
        *of.entry(by).or_default() += Counts::from(letter.items.unwrap_or_default());
    }
    Ok(all)
}

/// Segments of a satellite that were committed since `from`, the latest first.
pub(super) fn since(view: &View<'_>, satellite: u32, from: u64) -> Result<Vec<CatalogueRecord>, SpoolError> {
    let Some(table) = rows(view.tables)? else { return Ok(Vec::new()) };
    let mut of_satellite = Vec::new();
    for row in table.iter()?.rev().take(DELAYS_OF) {
        let record = decode::<CatalogueRecord>(row?.1.value())?;
        if record.committed != 0 && record.committed < from {
            break;
        }
        if record.satellite == satellite {
            of_satellite.push(record);
        }
    }
    Ok(of_satellite)
}

/// How late each of these segments came of which that is known, s.
fn each_delay(records: &[CatalogueRecord]) -> impl Iterator<Item = (&CatalogueRecord, f64)> {
    let known = records.iter().filter(|record| record.committed != 0);
    known.filter_map(|record| Some((record, record.delay()?)))
}

/// When each of these segments was committed, ns since the Unix epoch, and how late that was, s.
pub(super) fn delay_over_time(records: &[CatalogueRecord]) -> Vec<(u64, f64)> {
    each_delay(records).map(|(record, delay)| (record.committed, delay)).collect()
}

/// Delays of delivery of these segments, by signal.
pub(super) fn delays_of(records: &[CatalogueRecord]) -> BTreeMap<&'static str, Delay> {
    let mut found = BTreeMap::<&'static str, Vec<f64>>::new();
    for (record, delay) in each_delay(records) {
        for signal in Counts::from(record.items.unwrap_or_default()).signals().iter() {
            found.entry(signal.name()).or_default().push(delay);
        }
    }
    found.into_iter().map(|(signal, delays)| (signal, Delay::of(delays))).collect()
}

impl Delay {
    fn of(mut all: Vec<f64>) -> Self {
        all.sort_by(f64::total_cmp);
        let at = |part: usize| all.get((all.len() * part / 100).min(all.len().saturating_sub(1))).copied();
        Self {
            median_seconds: at(50).unwrap_or(0.0),
            p95_seconds: at(95).unwrap_or(0.0),
            worst_seconds: all.last().copied().unwrap_or(0.0),
            segments: all.len() as u64,
        }
    }
}
