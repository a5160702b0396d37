//! Where the bytes of the segments in the spool go, column by column.

use std::collections::{BTreeMap, BTreeSet};

use perigee_shared::segment::{Cost, Header, inspect};
use perigee_shared::signal::{Counts, Signal};
use redb::ReadableTable;
use serde::Serialize;

use super::decode::{Fault, Snapshot};
use super::error::SpoolError;
use super::tables::*;
use super::views::{Items, names};

/// Segments that are looked at, the latest ones.
const MOST_SEGMENTS: usize = 1000;

/// Segments that are shown one by one, the latest ones.
const MOST_SHOWN: usize = 100;

/// Columns of one table; the smallest are shown together.
const MOST_COLUMNS: usize = 500;

/// The longest name of a column; attributes have their keys in it.
const NAME: usize = 120;

/// Where the bytes go, in all segments that were looked at.
#[derive(Debug, Clone, Serialize)]
pub struct ColumnsView {
    /// Segments that were looked at: still to be exported, or kept as bases.
    pub segments: u64,
    /// Segments that there are.
    pub of_segments: u64,
    /// What their payloads take.
    pub payload_bytes: u64,
    /// Items in them.
    pub items: Items,
    /// The largest first; together the payloads.
    pub columns: Vec<ColumnView>,
    /// Each segment for itself, if that was asked for.
    pub each: Vec<SegmentColumns>,
}

/// One segment.
#[derive(Debug, Clone, Serialize)]
pub struct SegmentColumns {
    /// Whose it is.
    pub satellite: String,
    /// Epoch, lane and sequence.
    pub segment: String,
    /// Its codec's number.
    pub codec: u32,
    /// The segment that it leans on.
    pub base_sequence: Option<u64>,
    /// Others may lean on it.
    pub is_base: bool,
    /// What its payload takes.
    pub payload_bytes: u64,
    /// Items in it.
    pub items: Items,
    /// The largest first; together the payload.
    pub columns: Vec<ColumnView>,
}

/// What a column takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ColumnView {
    /// Whose it is; none: of several.
    pub signal: Option<&'static str>,
    /// Its name.
    pub column: String,
    /// What it takes, with fractions of a byte.
    pub bytes: f64,
    /// Of the payload, from 0 to 1.
    pub share: f64,
    /// By items of its signal.
    pub bytes_per_item: Option<f64>,
}

/// Bytes by signal (none: of several) and column.
#[derive(Default)]
struct Sum {
    segments: u64,
    payload: u64,
    items: Counts,
    columns: BTreeMap<(Option<u8>, String), f64>,
}

impl Sum {
    fn add(&mut self, header: &Header, costs: Result<Vec<Cost>, String>) {
        self.segments += 1;
        self.payload += header.payload_len;
        self.items += header.items;
        let mut column = |signal: Option<Signal>, name: String, bytes: f64| {
            *self.columns.entry((signal.map(|s| s as u8), name)).or_default() += bytes;
        };
        match costs {
            Ok(costs) if !costs.is_empty() => {
                for cost in costs {
                    // That there is nothing of a signal costs a fraction of a byte too.
                    match header.items[cost.signal] {
                        0 => column(None, "structure".to_owned(), cost.bytes),
                        _ => column(Some(cost.signal), shown(&cost.column), cost.bytes),
                    }
                }
            }
            Ok(_) => {
                let name = format!("codec {}, which has no columns", header.codec);
                column(None, name, header.payload_len as f64);
            }
            Err(why) => column(None, why, header.payload_len as f64),
        }
    }

    fn columns(&self) -> Vec<ColumnView> {
        let view = |signal: Option<Signal>, column: String, bytes: f64| ColumnView {
            signal: signal.map(Signal::name),
            column,
            bytes,
            share: bytes / (self.payload as f64).max(1.0),
            bytes_per_item: signal
                .map(|s| self.items[s])
                .filter(|items| *items > 0)
                .map(|items| bytes / items as f64),
        };
        let mut out: Vec<ColumnView> = self
            .columns
            .iter()
            .map(|((signal, column), bytes)| {
                view(signal.and_then(Signal::from_number), column.clone(), *bytes)
            })
            .collect();
        out.sort_by(|a, b| b.bytes.total_cmp(&a.bytes));
        if out.len() > MOST_COLUMNS {
            let rest = out.split_off(MOST_COLUMNS - 1);
            let name = format!("{} smaller columns", rest.len());
            out.push(view(None, name, rest.iter().map(|c| c.bytes).sum()));
        }
        out
    }
}

/// A name as it may be put on a terminal: keys are a peer's text.
fn shown(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).take(NAME).collect()
}

/// A segment that is looked at.
struct Found {
    satellite: u32,
    header: Header,
    place: Place,
}

enum Place {
    /// To be exported; the number of its payload.
    Entry(u64),
    Base(SequenceKey),
}

impl Snapshot {
    /// Where the bytes of the latest segments go, together, and one by one when `each` is wanted. Takes some 50 ms for each MiB
    /// of OTLP.
    pub(super) fn columns(&self, each: bool) -> Result<ColumnsView, SpoolError> {
        let (found, of_segments) = self.latest(if each { MOST_SHOWN } else { MOST_SEGMENTS })?;
        let names = names(&self.read)?;
        let (mut sum, mut shown_each) = (Sum::default(), Vec::new());
        for found in found {
            let header = &found.header;
            let costs = match self.costs(&found) {
                Ok(costs) => Ok(costs),
                Err(Fault::Store(error)) => return Err(error.into()),
                Err(Fault::Undecodable(_)) => Err("does not decode".to_owned()),
                Err(Fault::Payload | Fault::Base(_)) => Err("damaged".to_owned()),
            };
            if each {
                let mut alone = Sum::default();
                alone.add(header, costs.clone());
                shown_each.push(SegmentColumns {
                    satellite: names.get(&found.satellite).cloned().unwrap_or_default(),
                    segment: header.id.to_string(),
                    codec: header.codec,
                    base_sequence: header.base_sequence,
                    is_base: header.is_base,
                    payload_bytes: header.payload_len,
                    items: header.items.into(),
                    columns: alone.columns(),
                });
            }
            sum.add(header, costs);
        }
        Ok(ColumnsView {
            segments: sum.segments,
            of_segments,
            payload_bytes: sum.payload,
            items: sum.items.into(),
            columns: sum.columns(),
            each: shown_each,
        })
    }

    fn costs(&self, found: &Found) -> Result<Vec<Cost>, Fault> {
        let payload = match found.place {
            Place::Entry(number) => self.payload(number, &found.header)?,
            Place::Base(key) => self.base(key, &found.header)?,
        };
        let base = self.base_of(found.satellite, &found.header)?;
        Ok(inspect(&found.header, &payload, base.as_deref())?)
    }

    /// The latest `most` segments that are to be exported or kept as bases, in the order of their commits, and how many there
    /// are.
    fn latest(&self, most: usize) -> Result<(Vec<Found>, u64), SpoolError> {
        let mut waiting = BTreeSet::new();
        let mut found = BTreeMap::new();
        for row in self.read.open_table(ENTRIES)?.iter()? {
            let record = decode::<SegmentRecord>(row?.1.value())?;
            if record.is_finished() {
                continue;
            }
            let (satellite, header) = (record.number, record.header()?);
            waiting.insert(SequenceKey::new(satellite, header.id));
            let place = Place::Entry(record.payload);
            found.insert((record.payload, 0), Found { satellite, header, place });
        }
        for row in self.read.open_table(BASES)?.iter()? {
            let (key, value) = row?;
            let (key, record) = (key.value(), decode::<BaseRecord>(value.value())?);
            let Some(header) = header(record.header) else { continue };
            if !waiting.contains(&key) {
                let (satellite, place) = (key.satellite, Place::Base(key));
                found.insert((record.entry, 1), Found { satellite, header, place });
            }
        }
        let all = found.len();
        Ok((found.into_values().skip(all.saturating_sub(most)).collect(), all as u64))
    }
}
