//! Where the rules of the spool work on shared rows: tables in memory that hold what one transaction needs.
//!
//! A transaction of PostgreSQL locks its satellites and reads the rows that the rule may look at. They are put into tables of
//! redb in memory, the rule runs there as it runs on a station's own file, and what differs afterwards is written back in the same
//! transaction of PostgreSQL. So both stores have one set of rules.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use perigee_proto::link;
use perigee_shared::signal::{Counts, Signal, SignalSet};
use perigee_shared::store::{Contents as _, StoreError};
use prost::Message;
use redb::backends::InMemoryBackend;
use redb::{Database, ReadableDatabase, ReadableTable, WriteTransaction};

use super::super::contents::{Contents, Delivered, Effect, Settings, make_tables};
use super::super::decode::{Decoded, Snapshot};
use super::super::error::SpoolError;
use super::super::file::{Txn, View};
use super::super::look::Glance;
use super::super::outlet;
use super::super::scrub::Scrubbed;
use super::super::tables::*;
use super::Fleet;
use super::rows::{LETTER_BITS, Of, PAYLOAD_BITS, Row, Rows, fill, take};

/// Databases that wait for the next transaction, at most.
const KEPT: usize = 4;

/// Above the number of every payload.
pub(super) const BEHIND_ALL: u64 = u64::MAX >> 1;

/// What is in the row of a satellite.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SatelliteRow {
    pub(super) number: u32,
    pub(super) name: String,
    pub(super) record: Vec<u8>,
    pub(super) tally: Tally,
    pub(super) next_payload: u64,
    pub(super) next_entry: u64,
    pub(super) next_letter: u64,
    pub(super) next_gap: u64,
}

/// What is counted of a satellite.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Tally {
    #[prost(message, repeated, tag = "1")]
    pub(super) counters: Vec<Counter>,
    /// What was committed of each lane since its satellite last said what waits.
    #[prost(message, repeated, tag = "2")]
    pub(super) delivered: Vec<DeliveredLane>,
    /// Bytes of segments, bases, partials and dead letters.
    #[prost(uint64, tag = "3")]
    pub(super) used: u64,
    /// Bytes of partials, with what they take beside their bytes.
    #[prost(uint64, tag = "4")]
    pub(super) partial: u64,
    /// Bytes of bases.
    #[prost(uint64, tag = "5")]
    pub(super) bases: u64,
}

/// A counter, as in [`CounterKey`].
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Counter {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(uint32, tag = "2")]
    signal: u32,
    #[prost(uint32, tag = "3")]
    reason: u32,
    #[prost(uint64, tag = "4")]
    n: u64,
}

/// What was delivered of a lane.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct DeliveredLane {
    #[prost(uint32, tag = "1")]
    lane: u32,
    #[prost(uint64, tag = "2")]
    bytes: u64,
    #[prost(message, optional, tag = "3")]
    items: Option<link::Counts>,
}

/// The rows that a transaction has read. A table that is not here was not read, and nothing of it may be looked at.
pub(super) type Loaded = BTreeMap<Of, Rows>;

/// What a transaction writes.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) satellites: Vec<SatelliteRow>,
    /// Rows that are new or other than before.
    pub(super) upserts: Vec<(Of, Vec<Row>)>,
    /// The first columns of keys of rows that go.
    pub(super) deletes: Vec<(Of, usize, Vec<Row>)>,
    /// Segments were committed: their lanes remember so many at most.
    pub(super) remembered: Vec<Row>,
    /// Segments that became entries; with `true` they have log records.
    pub(super) entered: Vec<(EntryKey, bool)>,
    /// How many bytes more are in use.
    pub(super) grown: i64,
    /// Satellites of which a segment has left.
    pub(super) left: Vec<u32>,
}

/// Makes working tables, and keeps some for the next time.
#[derive(Clone)]
pub(super) struct Scratch {
    /// Those of the configuration, with the exporters of all stations.
    settings: Arc<RwLock<Arc<Settings>>>,
    ledger: u64,
    decoded: Decoded,
    idle: Arc<Mutex<Vec<Database>>>,
}

/// Tables in memory.
pub(super) fn memory() -> Result<Database, SpoolError> {
    let backend = InMemoryBackend::new();
    let db = Database::builder().set_cache_size(8 << 20).create_with_backend(backend)?;
    let txn = db.begin_write()?;
    make_tables(&txn)?;
    txn.commit()?;
    Ok(db)
}

impl Scratch {
    pub(super) fn new(settings: Arc<Settings>, ledger: u64) -> Self {
        let decoded = Decoded::new(settings.decoded_bases, &settings.decoding);
        Self { settings: Arc::new(RwLock::new(settings)), ledger, decoded, idle: Arc::default() }
    }

    pub(super) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From the next transaction on these are the exporters.
    pub(super) fn set_routes(&self, routes: BTreeMap<String, SignalSet>) {
        let mut settings = self.settings.write().unwrap_or_else(PoisonError::into_inner);
        *settings = Arc::new(Settings { routes, ..Settings::clone(&settings) });
    }

    pub(super) const fn ledger(&self) -> u64 {
        self.ledger
    }

    pub(super) const fn decoded(&self) -> &Decoded {
        &self.decoded
    }

    fn contents(&self, satellites: &[SatelliteRow]) -> Contents {
        let mut contents = Contents::empty(&self.settings(), self.ledger);
        contents.decoded = self.decoded.clone();
        for satellite in satellites {
            let (number, tally) = (satellite.number, &satellite.tally);
            contents.usage.total += tally.used;
            contents.usage.by_satellite.insert(number, tally.used);
            contents.usage.partial.insert(number, tally.partial);
            contents.usage.bases.insert(number, tally.bases);
            for lane in &tally.delivered {
                let delivered =
                    Delivered { bytes: lane.bytes, items: Counts::from(lane.items.unwrap_or_default()) };
                contents.delivered.insert((number, lane.lane as u8), delivered);
            }
        }
        contents
    }

    /// Runs `work` for each of the satellites, one after the other, over the rows that were read of them; what it changes.
    pub(super) fn run<R>(
        &self,
        mut satellites: Vec<SatelliteRow>,
        loaded: Loaded,
        now: u64,
        mut work: impl FnMut(&mut Txn<'_>, &SatelliteRow) -> Result<R, SpoolError>,
    ) -> Result<(Vec<R>, Changes), SpoolError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let db = idle.map_or_else(memory, Ok)?;
        let mut contents = self.contents(&satellites);
        let tables = db.begin_write()?;
        for (of, rows) in &loaded {
            fill(&tables, *of, rows)?;
        }
        for satellite in &satellites {
            write_satellite(&tables, satellite)?;
        }
        let (mut out, mut effects) = (Vec::new(), Vec::new());
        for satellite in &mut satellites {
            set_numbers(&tables, satellite)?;
            let mut txn = Txn { tables: &tables, contents: &contents, now, effects: Vec::new() };
            out.push(work(&mut txn, satellite)?);
            // What everybody is done with goes at once.
            outlet::delete_finished(&mut txn)?;
            effects.append(&mut txn.effects);
            read_satellite(&tables, satellite)?;
        }
        let mut changes = Changes::default();
        for effect in &effects {
            match effect {
                Effect::Entered { entry, items, .. } => {
                    changes.entered.push((*entry, items[Signal::Logs] > 0))
                }
                Effect::Deleted(entry) => changes.left.push(entry.satellite),
                _ => {}
            }
        }
        contents.apply(effects);
        for satellite in &mut satellites {
            let before = satellite.tally.used as i64;
            count(&contents, satellite);
            changes.grown += satellite.tally.used as i64 - before;
        }
        changes.satellites = satellites;
        compare(&tables, loaded, &mut changes)?;
        tables.abort().map_err(StoreError::from)?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push(db);
        }
        Ok((out, changes))
    }

    /// Tables that hold these rows and are only read.
    pub(super) fn view(&self, satellites: Vec<SatelliteRow>, loaded: Loaded) -> Result<Shown, SpoolError> {
        let db = memory()?;
        let mut txn = db.begin_write()?;
        txn.set_durability(redb::Durability::None)?;
        for (of, rows) in loaded {
            fill(&txn, of, &rows)?;
        }
        for satellite in &satellites {
            write_satellite(&txn, satellite)?;
        }
        // Every number is before this one.
        txn.open_table(META)?.insert("next_entry", BEHIND_ALL)?;
        txn.commit()?;
        let read = db.begin_read()?;
        let mut contents = self.contents(&satellites);
        contents.measure_entries(&read)?;
        Ok(Shown { read, contents, db })
    }
}

/// Shared rows as they were at one moment.
pub(super) struct Shown {
    read: redb::ReadTransaction,
    contents: Contents,
    db: Database,
}

impl Shown {
    pub(super) fn look<R>(
        &self,
        work: impl FnOnce(&View<'_>) -> Result<R, SpoolError>,
    ) -> Result<R, SpoolError> {
        work(&View { tables: &self.read, contents: &self.contents })
    }

    /// To be asked as often as somebody likes.
    pub(super) fn glance(self, scrub: Scrubbed, fleet: Fleet) -> Glance {
        let snapshot = Snapshot { read: self.read, decoded: self.contents.decoded.clone(), held: None };
        Glance::over(snapshot, &self.contents, scrub, self.db, fleet)
    }

    /// The same for decoding; only while this is there.
    pub(super) fn snapshot(&self) -> Result<Snapshot, SpoolError> {
        Ok(Snapshot { read: self.db.begin_read()?, decoded: self.contents.decoded.clone(), held: None })
    }
}

fn write_satellite(tables: &WriteTransaction, satellite: &SatelliteRow) -> Result<(), SpoolError> {
    let record = if satellite.record.is_empty() {
        SatelliteRecord { number: satellite.number, ..SatelliteRecord::default() }.encode_to_vec()
    } else {
        satellite.record.clone()
    };
    tables.open_table(SATELLITES)?.insert(satellite.name.as_str(), record.as_slice())?;
    let mut counters = tables.open_table(COUNTERS)?;
    for Counter { kind, signal, reason, n } in &satellite.tally.counters {
        let (kind, signal, reason) = (*kind as u8, *signal as u8, *reason as u8);
        counters.insert(CounterKey { satellite: satellite.number, kind, signal, reason }, n)?;
    }
    Ok(())
}

/// Puts the numbers of a satellite where the rules take numbers from.
pub(super) fn set_numbers(tables: &WriteTransaction, satellite: &SatelliteRow) -> Result<(), SpoolError> {
    let number = u64::from(satellite.number);
    let mut meta = tables.open_table(META)?;
    meta.insert("next_entry", number << PAYLOAD_BITS | satellite.next_payload)?;
    meta.insert(format!("entry.{number}").as_str(), satellite.next_entry)?;
    meta.insert("next_letter", number << LETTER_BITS | satellite.next_letter)?;
    meta.insert("next_gap", satellite.next_gap)?;
    Ok(())
}

pub(super) fn read_satellite(
    tables: &WriteTransaction,
    satellite: &mut SatelliteRow,
) -> Result<(), SpoolError> {
    let number = u64::from(satellite.number);
    let meta = tables.open_table(META)?;
    let read = |name: &str| Ok::<_, SpoolError>(meta.get(name)?.map_or(1, |v| v.value()));
    satellite.next_payload = read("next_entry")? & ((1 << PAYLOAD_BITS) - 1);
    satellite.next_entry = read(&format!("entry.{number}"))?;
    satellite.next_letter = read("next_letter")? & ((1 << LETTER_BITS) - 1);
    satellite.next_gap = read("next_gap")?;
    if let Some(record) = tables.open_table(SATELLITES)?.get(satellite.name.as_str())? {
        satellite.record = record.value().to_vec();
    }
    let key = |kind, signal, reason| CounterKey { satellite: satellite.number, kind, signal, reason };
    satellite.tally.counters.clear();
    for row in tables.open_table(COUNTERS)?.range(key(0, 0, 0)..=key(u8::MAX, u8::MAX, u8::MAX))? {
        let (key, n) = row?;
        let (key, n) = (key.value(), n.value());
        let (kind, signal, reason) = (key.kind.into(), key.signal.into(), key.reason.into());
        satellite.tally.counters.push(Counter { kind, signal, reason, n });
    }
    Ok(())
}

/// Takes what the effects came to into the row of a satellite.
fn count(contents: &Contents, satellite: &mut SatelliteRow) {
    let number = satellite.number;
    let of = |map: &BTreeMap<u32, u64>| map.get(&number).copied().unwrap_or(0);
    satellite.tally.used = of(&contents.usage.by_satellite);
    satellite.tally.partial = of(&contents.usage.partial);
    satellite.tally.bases = of(&contents.usage.bases);
    let delivered = contents.delivered.range((number, 0)..=(number, u8::MAX));
    let shown = |((_, lane), d): (&(u32, u8), &Delivered)| DeliveredLane {
        lane: u32::from(*lane),
        bytes: d.bytes,
        items: Some(d.items.into()),
    };
    satellite.tally.delivered = delivered.map(shown).collect();
}

/// Finds what the rules have changed.
fn compare(tables: &WriteTransaction, mut loaded: Loaded, changes: &mut Changes) -> Result<(), SpoolError> {
    let kept = take(tables, Of::Kept)?;
    for of in Of::ALL {
        let mut before = loaded.remove(&of).unwrap_or_default();
        let mut upserts = Vec::new();
        let mut replaced = Vec::new();
        for (key, rest) in take(tables, of)? {
            match before.remove(&key) {
                Some(was) if was == rest => continue,
                Some(was) if of == Of::Partial && has_other_bytes(&was, &rest) => replaced.push(key.clone()),
                _ => {}
            }
            if of == Of::Recent {
                changes.remembered.push(key.clone());
            }
            let mut row = key;
            row.extend(rest);
            upserts.push(row);
        }
        if of.is_pieces() {
            // They go with the row that they belong to.
        } else {
            delete_pieces(of, &before, &kept, replaced, changes);
            // The lane's oldest go by themselves.
            if !matches!(of, Of::Recent | Of::Groups) && !before.is_empty() {
                let keys = of.columns().0.len();
                changes.deletes.push((of, keys, before.into_keys().collect()));
            }
        }
        if !upserts.is_empty() {
            changes.upserts.push((of, upserts));
        }
    }
    Ok(())
}

/// What is held of a segment is of another payload than it was.
fn has_other_bytes(was: &Row, is: &Row) -> bool {
    let hash = |row: &Row| {
        decode::<PartialRecord>(row[0].bytes()).ok().and_then(|r| r.header).map(|h| h.payload_hash)
    };
    hash(was) != hash(is)
}

/// Notes that the pieces of rows go that are gone. The payload of an entry that is kept from here on stays.
pub(super) fn delete_pieces(of: Of, gone: &Rows, kept: &Rows, replaced: Vec<Row>, changes: &mut Changes) {
    let keys = || gone.keys().cloned().collect::<Vec<Row>>();
    let mut add = |of: Of, columns: usize, rows: Vec<Row>| {
        if !rows.is_empty() {
            changes.deletes.push((of, columns, rows));
        }
    };
    match of {
        Of::Partial => add(Of::PartialChunk, 4, keys().into_iter().chain(replaced).collect()),
        Of::Base => add(Of::BaseChunk, 4, keys()),
        Of::Letter => add(Of::LetterChunk, 2, keys()),
        Of::Entry => {
            let payload = |(k, v): (&Row, &Row)| vec![k[0].clone(), v[0].clone()];
            let payloads: Vec<Row> = gone.iter().map(payload).collect();
            add(
                Of::SegmentChunk,
                2,
                payloads.iter().filter(|row| !kept.contains_key(*row)).cloned().collect(),
            );
            add(Of::EntryDead, 2, payloads);
        }
        Of::Kept => add(Of::SegmentChunk, 2, keys()),
        _ => {}
    }
}

/// What a number becomes in a query.
pub(super) fn numbers(satellites: impl IntoIterator<Item = u32>) -> Vec<i64> {
    satellites.into_iter().map(i64::from).collect()
}
