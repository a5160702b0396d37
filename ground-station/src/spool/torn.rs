//! A latest commit that is not whole: the file is opened at the one before it.
//!
//! A power cut leaves such a commit, and then nobody was told of it. Damage to a commit that was answered looks the same. If this process
//! made it, what it committed is still in memory: segments that the file has forgotten become a gap with their counts. Otherwise they show
//! when their satellite comes by, since it says what was acknowledged.

use std::sync::Arc;

use perigee_shared::env::Env;
use perigee_shared::segment::Lane;
use perigee_shared::signal::TimeRange;
use redb::ReadableDatabase;

use super::contents::{Contents, Settings};
use super::counters::{Counters, Kind};
use super::error::SpoolError;
use super::gaps::{self, Lost};
use super::ledger::committed_ranges;
use super::tables::*;

/// Says so, and counts what `before`, which was in memory, had of segments that the file does not have any more.
pub(super) fn settle(
    db: &redb::Database,
    env: &Env,
    settings: &Arc<Settings>,
    before: Option<&Contents>,
) -> Result<(), SpoolError> {
    let Some(before) = before else {
        tracing::warn!(
            "the spool's latest commit is not whole, and the one before it was taken: a power cut leaves it so; if it was damaged, what \
             satellites were told in it becomes a gap at their next contact"
        );
        return Ok(());
    };
    tracing::error!(
        event.name = "perigee.spool.restored",
        "the spool's latest commit is damaged, and the one before it was taken; what was committed in it and not exported becomes a gap, and \
         satellites that still have it send it again"
    );
    let mut now = Contents::empty(settings, before.ledger);
    now.measure_entries(&db.begin_read()?)?;
    let txn = db.begin_write()?;
    for ((satellite, epoch, lane), had) in &before.waiting {
        let (satellite, epoch, lane) = (*satellite, *epoch, *lane);
        let mut missing = had.sequences.clone();
        for (range, _) in committed_ranges(&txn.open_table(COMMITTED)?, satellite, epoch, Lane(lane))? {
            missing.remove(range);
        }
        let Some((first, last)) = missing.first().zip(missing.last()) else { continue };
        let here = now.waiting.remove(&(satellite, epoch, lane)).unwrap_or_default();
        let mut others = had.sequences.clone();
        missing.iter().for_each(|range| others.remove(range));
        // Otherwise that commit has exported something too, which is still to be exported now.
        let exact = here.sequences == others;
        let items = had.items.saturating_sub(here.items);
        Counters::of(&txn, satellite)?.add(Kind::Committed, 0, items)?;
        let lost = Lost {
            satellite,
            epoch,
            lane,
            sequences: Some(first..last + 1),
            items: Some(items),
            exact,
            time: TimeRange::EMPTY,
            again: missing,
        };
        gaps::lose(&txn, env.unix_nano(), lost)?;
    }
    txn.commit()?;
    Ok(())
}
