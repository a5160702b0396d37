//! Pass reports, as satellites tell them in later contacts.

use perigee_proto::link::PassReport;
use perigee_shared::contact::report::shown_pass;
use prost::Message;
use redb::ReadableTable;
use serde::Serialize;
use serde_json::Value;

use super::error::SpoolError;
use super::file::{Txn, View};
use super::tables::*;
use super::views::names;

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

const fn all(satellite: u32) -> std::ops::RangeInclusive<PassKey> {
    PassKey { satellite, start: 0 }..=PassKey { satellite, start: u64::MAX }
}

/// Keeps what a Hello says of earlier passes.
pub(super) fn note(txn: &Txn<'_>, satellite: u32, reports: &[PassReport]) -> Result<(), SpoolError> {
    if reports.is_empty() {
        return Ok(());
    }
    let mut table = txn.tables.open_table(PASSES)?;
    for report in reports.iter().rev().take(TAKEN) {
        let station = report.station.chars().take(STATION).collect();
        let kept = PassReport { station, ..report.clone() };
        let key = PassKey { satellite, start: report.start_unix_nano };
        table.insert(key, kept.encode_to_vec().as_slice())?;
    }
    let keys: Vec<PassKey> =
        table.range(all(satellite))?.map(|row| row.map(|(key, _)| key.value())).collect::<Result<_, _>>()?;
    for key in &keys[..keys.len().saturating_sub(KEPT)] {
        table.remove(*key)?;
    }
    Ok(())
}

/// The latest passes of each satellite, at most `limit` of each, latest first.
pub(super) fn passes(view: &View<'_>, limit: usize) -> Result<Vec<PassView>, SpoolError> {
    let table = view.tables.open_table(PASSES)?;
    let mut out = Vec::new();
    for (number, satellite) in names(view.tables)? {
        for row in table.range(all(number))?.rev().take(limit) {
            let report = shown_pass(&decode::<PassReport>(row?.1.value())?);
            out.push(PassView { satellite: satellite.clone(), report });
        }
    }
    Ok(out)
}
