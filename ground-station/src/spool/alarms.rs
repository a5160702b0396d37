//! Alarms that agents raised: a short list for each satellite, kept whatever else arrives.
//!
//! An alarm is a log record of the agent itself with an `event_name` and a severity of WARN or above. They are noted where a segment is
//! decoded for an exporter, in the transaction that moves its cursor. What waits for a backend is looked through as well, the most
//! urgent lanes first and some MiB a second, so that an operator sees alarms while no backend answers. What is noted twice is there
//! once. Earlier software ignores the table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use perigee_shared::otlp::tree::{LEAVES, RESOURCES, SCOPES, branches};
use perigee_shared::segment::{Header, Request};
use perigee_shared::signal::Signal;
use prost::Message;
use redb::{ReadableTable, TableError};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::catalogue::services_of;
use super::decode::{At, Fault, Snapshot};
use super::error::SpoolError;
use super::file::{Txn, View};
use super::standing::clean;
use super::store::Store;
use super::tables::*;
use super::tail::{AT_ONCE, value};

/// Alarms of a satellite that are kept.
const KEPT: usize = 20;

/// Characters of a name and of a text.
const NAME: usize = 64;
/// See [`NAME`].
const TEXT: usize = 240;

/// The least severity, that of WARN.
const LEAST: i32 = 13;

/// The agent's own `service.name`.
const AGENT: &[u8] = b"space-agent";

/// Waiting segments are looked through at most so often.
const EVERY: Duration = Duration::from_secs(1);

/// Segments of one turn, and bytes of OTLP after which it ends.
pub(super) const SEGMENTS: usize = 16;
/// See [`SEGMENTS`].
pub(super) const BYTES: u64 = 1 << 20;

/// A larger segment is looked through when an exporter has it decoded.
pub(super) const LARGEST: u64 = 4 << 20;

/// Segments that wait to be looked through, at most; the least urgent are forgotten.
const UNREAD: usize = 4096;

/// Alarms of a satellite.
#[derive(Clone, PartialEq, Message)]
pub(super) struct AlarmsRecord {
    /// In the order of [`AlarmRecord::order`], the latest last.
    #[prost(message, repeated, tag = "1")]
    pub(super) alarms: Vec<AlarmRecord>,
}

/// An alarm.
#[derive(Clone, PartialEq, Message)]
pub(super) struct AlarmRecord {
    /// By the satellite's clock, ns since the Unix epoch.
    #[prost(fixed64, tag = "1")]
    pub(super) time: u64,
    /// When its segment was committed, by this station's clock.
    #[prost(fixed64, tag = "2")]
    pub(super) committed: u64,
    #[prost(uint32, tag = "3")]
    pub(super) severity: u32,
    #[prost(string, tag = "4")]
    pub(super) name: String,
    #[prost(string, tag = "5")]
    pub(super) text: String,
}

/// An alarm that an agent raised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AlarmView {
    /// When, by the satellite's clock, ns since the Unix epoch.
    pub unix_nano: u64,
    /// When it came here, by this station's clock.
    pub committed_unix_nano: u64,
    /// The severity number of its log record.
    pub severity: u32,
    /// Its `event_name`.
    pub name: String,
    /// What it says.
    pub text: String,
}

impl AlarmRecord {
    fn of(record: LogRecord) -> Option<Self> {
        if record.event_name.is_empty() || record.severity_number < LEAST {
            return None;
        }
        let time =
            if record.time_unix_nano == 0 { record.observed_time_unix_nano } else { record.time_unix_nano };
        let mut text = value(record.body.as_ref());
        for attribute in record.attributes.iter().take(8).filter(|kv| kv.key != "event.name") {
            text.push_str(&format!(", {}: {}", attribute.key, value(attribute.value.as_ref())));
        }
        Some(Self {
            time,
            committed: 0,
            severity: record.severity_number.unsigned_abs(),
            name: clean(&record.event_name, NAME),
            text: clean(&text, TEXT),
        })
    }

    /// What came later is later, since a satellite's clock may be wrong.
    fn order(&self) -> (u64, u64, &str, &str) {
        (self.committed, self.time, &self.name, &self.text)
    }

    fn is(&self, other: &Self) -> bool {
        (self.time, &self.name, &self.text) == (other.time, &other.name, &other.text)
    }
}

/// Alarms in the requests of a segment, as they are kept.
#[derive(Debug, Clone, Default)]
pub(super) struct Alarms(Vec<AlarmRecord>);

impl Alarms {
    /// Takes those of a request; one that cannot be read has none.
    pub(super) fn look(&mut self, request: &Request) {
        if request.signal != Signal::Logs {
            return;
        }
        for resource in branches(&request.body, RESOURCES).map_while(Result::ok) {
            if !services_of(resource).any(|service| service == AGENT) {
                continue;
            }
            // One at a time, and none that is large.
            let scopes = branches(resource, SCOPES).map_while(Result::ok);
            let records = scopes.flat_map(|scope| branches(scope, LEAVES).map_while(Result::ok));
            for record in records.filter(|record| record.len() <= AT_ONCE) {
                self.0.extend(LogRecord::decode(record).ok().and_then(AlarmRecord::of));
                bound(&mut self.0);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same of a segment that was committed then.
    pub(super) fn committed(mut self, at: u64) -> Self {
        self.0.iter_mut().for_each(|alarm| alarm.committed = at);
        self
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

/// Leaves at most [`KEPT`]: the oldest goes whose name comes again later, or else the oldest.
fn bound(alarms: &mut Vec<AlarmRecord>) {
    while alarms.len() > KEPT {
        let again = |at: &usize| alarms[at + 1..].iter().any(|later| later.name == alarms[*at].name);
        let goes = (0..alarms.len()).find(again).unwrap_or(0);
        alarms.remove(goes);
    }
}

/// Keeps these alarms of a satellite beside those that it has.
pub(super) fn note(txn: &Txn<'_>, satellite: u32, found: &Alarms) -> Result<(), SpoolError> {
    if found.is_empty() {
        return Ok(());
    }
    let mut table = txn.tables.open_table(ALARMS)?;
    let before =
        table.get(satellite)?.map(|v| decode::<AlarmsRecord>(v.value())).transpose()?.unwrap_or_default();
    let mut all = before.alarms.clone();
    for alarm in &found.0 {
        if !all.iter().any(|known| known.is(alarm)) {
            all.push(alarm.clone());
        }
    }
    all.sort_by(|a, b| a.order().cmp(&b.order()));
    bound(&mut all);
    if all != before.alarms {
        table.insert(satellite, AlarmsRecord { alarms: all }.encode_to_vec().as_slice())?;
    }
    Ok(())
}

/// The alarms of every satellite, the latest first.
pub(super) fn all(view: &View<'_>) -> Result<BTreeMap<u32, Vec<AlarmView>>, SpoolError> {
    let table = match view.tables.open_table(ALARMS) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
        table => table?,
    };
    let shown = |alarm: AlarmRecord| AlarmView {
        unix_nano: alarm.time,
        committed_unix_nano: alarm.committed,
        severity: alarm.severity,
        name: alarm.name,
        text: alarm.text,
    };
    let rows = table.iter()?.map(|row| {
        let (satellite, value) = row?;
        let record = decode::<AlarmsRecord>(value.value())?;
        Ok((satellite.value(), record.alarms.into_iter().rev().map(shown).collect()))
    });
    rows.collect()
}

/// Committed segments with log records that were not looked through yet, by lane. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Unread(Arc<Mutex<BTreeSet<(u8, u32, u64)>>>);

impl Unread {
    pub(super) fn push(&self, entry: EntryKey) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert((entry.lane, entry.satellite, entry.entry));
        if all.len() > UNREAD {
            all.pop_last();
        }
    }

    /// Takes the most urgent ones.
    pub(super) fn take(&self, most: usize) -> Vec<EntryKey> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = std::iter::from_fn(|| all.pop_first()).take(most);
        taken.map(|(lane, satellite, entry)| EntryKey { satellite, lane, entry }).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// What was found in waiting segments, by satellite.
pub(super) type Found = BTreeMap<u32, Alarms>;

/// Looks through a segment that waits; `false`: there is no memory for it now. What is wrong with it is for its exporter and the scrub
/// to say.
pub(super) fn read(
    snapshot: &Snapshot,
    satellite: u32,
    record: &SegmentRecord,
    header: &Header,
    found: &mut Found,
) -> Result<bool, SpoolError> {
    let mut alarms = Alarms::default();
    let at = At::Payload(record.payload);
    match snapshot.glimpse(satellite, header, at, |request| alarms.look(request)) {
        Err(Fault::Store(error)) => return Err(error.into()),
        Ok(false) => return Ok(false),
        Err(_) | Ok(true) => {}
    }
    if !alarms.is_empty() {
        found.entry(satellite).or_default().extend(alarms.committed(record.committed));
    }
    Ok(true)
}

/// Looks through what is committed and waits, until `stop`.
pub async fn run(store: Store, stop: CancellationToken) {
    let mut status = store.status();
    loop {
        status.borrow_and_update();
        let more = match store.upkeep().read_alarms().await {
            Ok(more) => more,
            Err(SpoolError::Gone) => return,
            Err(error) => {
                tracing::warn!(%error, "waiting segments cannot be looked through for alarms");
                false
            }
        };
        let again = async {
            if more || status.changed().await.is_ok() {
                // Most of what is committed has been exported by then.
                tokio::time::sleep(EVERY).await;
                return;
            }
            std::future::pending().await
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = again => {}
        }
    }
}
