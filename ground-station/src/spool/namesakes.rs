//! Other ledgers under this station's name.
//!
//! A satellite says which ledgers have acknowledged what, and the name of each one's station. A ledger that is not this one and has
//! this station's name is that of a spool that was lost here, or that of another ground-station which was given the same name. One Hello
//! does not tell which. Two do: a ledger that has acknowledged more in the later one was in use after this ledger had the earlier
//! one, so another station has it, and what it acknowledged is not lost.

use std::collections::{BTreeMap, BTreeSet};

use perigee_proto::link;
use perigee_shared::link::ranges::RangeSet;
use prost::Message;
use redb::ReadableTable;
use serde::Serialize;

use super::error::SpoolError;
use super::file::{Txn, View};
use super::gaps;
use super::tables::*;

/// Ledgers of a satellite that are remembered, at most.
const MOST: usize = 16;

/// Lives of a satellite's log that are compared: the latest, which every Hello names.
const LIVES: usize = 4;

/// Another ground-station with this one's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct NamesakeView {
    /// The id of its ledger, in hex.
    pub ledger: String,
    /// When the satellite said last that it has acknowledged more than before, ns since the Unix epoch.
    pub heard_unix_nano: u64,
}

impl NamesakeView {
    /// Whether people are told at `now` of one that was heard of at `heard`, ns since the Unix epoch: for a week.
    pub fn is_recent(heard: u64, now: u64) -> bool {
        const WEEK: u64 = 7 * 86_400 * 1_000_000_000;
        heard.saturating_add(WEEK) > now
    }
}

/// Those of a satellite that are known to be other stations'.
pub(super) fn shown(record: &SatelliteRecord) -> Vec<NamesakeView> {
    let in_use = record.namesakes.iter().filter(|known| known.is_in_use());
    in_use.map(|n| NamesakeView { ledger: format!("{:016x}", n.ledger), heard_unix_nano: n.heard }).collect()
}

impl NamesakeRecord {
    /// Whether another station is known to have it.
    pub(super) const fn is_in_use(&self) -> bool {
        self.heard != 0
    }

    /// Whether it has acknowledged more than is remembered.
    fn has_grown(&self, now: &[MarkRecord]) -> bool {
        now.iter().any(|mark| {
            let before = self.marks.iter().find(|b| (b.epoch, b.lane) == (mark.epoch, mark.lane));
            before.is_none_or(|before| (before.last, before.count) < (mark.last, mark.count))
        })
    }
}

/// Takes in what a Hello says of other ledgers under this station's name, and withdraws the gaps of those that turn out to be other
/// stations'. Returns the ledgers that are.
pub(super) fn note(
    txn: &Txn<'_>,
    (id, satellite): (&str, u32),
    hello: &link::Hello,
) -> Result<BTreeSet<u64>, SpoolError> {
    let mut named = marks(txn, hello);
    let Some(mut record) = record(txn, id)? else { return Ok(BTreeSet::new()) };
    if named.is_empty() && record.namesakes.is_empty() {
        return Ok(BTreeSet::new());
    }
    let mut after = Vec::new();
    for mut known in std::mem::take(&mut record.namesakes) {
        let Some(marks) = named.remove(&known.ledger) else { continue };
        if known.has_grown(&marks) {
            let is_new = !known.is_in_use();
            known.heard = txn.now;
            if is_new {
                found(txn, (id, satellite), known.ledger)?;
            }
        }
        after.push(NamesakeRecord { marks, ..known });
    }
    let fresh = named.into_iter().map(|(ledger, marks)| NamesakeRecord { ledger, marks, heard: 0 });
    after.extend(fresh);
    after.truncate(MOST);
    let in_use = after.iter().filter(|known| known.is_in_use()).map(|known| known.ledger).collect();
    record.namesakes = after;
    txn.tables.open_table(SATELLITES)?.insert(id, record.encode_to_vec().as_slice())?;
    Ok(in_use)
}

/// The ledgers of a satellite that are known to be other stations'.
pub(super) fn in_use(view: &View<'_>, id: &str) -> Result<Vec<u64>, SpoolError> {
    let Some(row) = view.tables.open_table(SATELLITES)?.get(id)? else { return Ok(Vec::new()) };
    let known = decode::<SatelliteRecord>(row.value())?.namesakes;
    Ok(known.iter().filter(|known| known.is_in_use()).map(|known| known.ledger).collect())
}

fn record(txn: &Txn<'_>, id: &str) -> Result<Option<SatelliteRecord>, SpoolError> {
    txn.tables.open_table(SATELLITES)?.get(id)?.map(|v| decode(v.value())).transpose()
}

/// How much each other ledger under this station's name has acknowledged.
fn marks(txn: &Txn<'_>, hello: &link::Hello) -> BTreeMap<u64, Vec<MarkRecord>> {
    let (ours, station) = (txn.contents.ledger, &txn.contents.settings.station);
    let mut all = BTreeMap::<u64, BTreeMap<(u64, u32), RangeSet>>::new();
    for epoch in hello.epochs.iter().rev().take(LIVES) {
        for lane in &epoch.lanes {
            for of in &lane.acknowledged {
                if of.ledger != ours && of.ledger != 0 && of.station == *station {
                    let sequences = all.entry(of.ledger).or_default();
                    let sequences = sequences.entry((epoch.epoch, lane.lane)).or_default();
                    RangeSet::from_wire(&of.sequences).iter().for_each(|range| sequences.insert(range));
                }
            }
        }
    }
    let mark = |((epoch, lane), sequences): ((u64, u32), RangeSet)| MarkRecord {
        epoch,
        lane,
        last: sequences.last().unwrap_or(0),
        count: sequences.total(),
    };
    all.into_iter().map(|(ledger, of)| (ledger, of.into_iter().map(mark).collect())).collect()
}

/// A ledger under this station's name is another station's.
fn found(txn: &Txn<'_>, (id, satellite): (&str, u32), ledger: u64) -> Result<(), SpoolError> {
    let withdrawn = gaps::withdraw(txn, satellite, ledger)?;
    tracing::error!(
        event.name = "perigee.ledger.name_shared",
        satellite = id,
        station = txn.contents.settings.station,
        ledger = format!("{ledger:016x}"),
        gaps_withdrawn = withdrawn,
        "another ground-station has the name of this one and a ledger of its own: what it acknowledges is not lost; give one of the two \
         another link.station and a certificate with that name"
    );
    Ok(())
}
