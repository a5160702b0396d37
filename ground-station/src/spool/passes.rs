//! Pass reports, as satellites tell them in later contacts.

use perigee_proto::link::PassReport;
use perigee_shared::contact::report::shown_pass;
use prost::Message;
use redb::{ReadableTable, WriteTransaction};
use serde::Serialize;
use serde_json::Value;

use super::error::SpoolError;
use super::open::{Spool, decode};
use super::tables::*;

/// Reports that are taken from one Hello.
const TAKEN: usize = 64;

/// Reports that are kept of each satellite, the latest ones.
const KEPT: usize = 500;

/// The longest id of a station.
const STATION: usize = 63;

/// A pass of a satellite.
#[derive(Debug, Clone, Serialize)]
pub struct PassView {
    /// The satellite.
    pub satellite: String,
    /// What it said of it.
    #[serde(flatten)]
    pub report: Value,
}

/// Keeps what a Hello says of earlier passes.
pub(super) fn note(txn: &WriteTransaction, number: u32, reports: &[PassReport]) -> Result<(), SpoolError> {
    if reports.is_empty() {
        return Ok(());
    }
    let mut table = txn.open_table(PASSES)?;
    for report in reports.iter().rev().take(TAKEN) {
        let station = report.station.chars().take(STATION).collect();
        let kept = PassReport { station, ..report.clone() };
        table.insert((number, report.start_unix_nano), kept.encode_to_vec().as_slice())?;
    }
    let keys: Vec<u64> = table
        .range((number, 0)..=(number, u64::MAX))?
        .map(|row| row.map(|(key, _)| key.value().1))
        .collect::<Result<_, _>>()?;
    for start in &keys[..keys.len().saturating_sub(KEPT)] {
        table.remove((number, *start))?;
    }
    Ok(())
}

impl Spool {
    /// The latest passes of each satellite, at most `limit` of each, latest first.
    pub fn passes(&self, limit: usize) -> Result<Vec<PassView>, SpoolError> {
        let read = self.read()?;
        let passes = match read.open_table(PASSES) {
            Ok(passes) => passes,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        };
        let mut out = Vec::new();
        for row in read.open_table(SATELLITES)?.iter()? {
            let (id, value) = row?;
            let number = decode::<SatelliteRecord>(value.value())?.number;
            for row in passes.range((number, 0)..=(number, u64::MAX))?.rev().take(limit) {
                let report = decode::<PassReport>(row?.1.value())?;
                out.push(PassView { satellite: id.value().to_owned(), report: shown_pass(&report) });
            }
        }
        Ok(out)
    }
}
