//! Drops: what was accepted and will not be delivered, recorded in the transaction that deletes it, until each station has it.

use std::collections::{BTreeMap, BTreeSet};

use perigee_proto::link::{self, DropReason};
use perigee_shared::segment::{Header, Lane};
use perigee_shared::signal::{Counts, TimeRange};
use perigee_shared::store::StoreError;
use prost::Message;
use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::gathered;
use super::tables::{DROPS, DropKey, LEDGERS};
use super::tally::Tally;

/// Drops that are kept though every station has them.
const KEPT: u64 = 256;

/// The drop of a segment, of which these items are lost.
pub(super) fn of_segment(header: &Header, items: Counts, reason: DropReason, now: u64) -> link::Drop {
    let sequence = header.id.sequence;
    link::Drop {
        sequences: Some(link::Range { start: sequence, end: sequence + 1 }),
        ..of_unsealed(reason, header.id.lane, items, header.time, now)
    }
}

/// A drop of what was in no segment yet.
pub(super) fn of_unsealed(
    reason: DropReason,
    lane: Lane,
    items: Counts,
    time: TimeRange,
    now: u64,
) -> link::Drop {
    link::Drop {
        reason: reason as i32,
        lane: u32::from(lane.0),
        items: Some(items.into()),
        time: Some(time.into()),
        dropped_unix_nano: now,
        ..link::Drop::default()
    }
}

/// Records a drop and counts it, in the last record when that says the same and has not been reported. `sent`: it may be on the
/// ground all the same.
pub(super) fn record(
    txn: &WriteTransaction,
    tally: &mut Tally,
    epoch: u64,
    drop: link::Drop,
    sent: bool,
) -> Result<(), StoreError> {
    let reason = DropReason::try_from(drop.reason).unwrap_or_default();
    tally.drop(reason, drop.items.unwrap_or_default().into());
    let last = tally.next_drop - 1;
    let unsent_before = std::mem::replace(&mut tally.last_drop_unsent, !sent);
    if !sent && unsent_before && last >= tally.drops_reported && last > 0 {
        let key = DropKey { epoch, id: last };
        let found = txn.open_table(DROPS)?.get(key)?.map(|v| read(v.value())).transpose()?;
        if let Some((_, earlier)) = found
            && let Some(merged) = merge(&earlier, &drop)
        {
            return insert(txn, epoch, &merged, &[]);
        }
    }
    append(txn, tally, epoch, drop, &[])
}

/// Records a drop under the next id; `known`: stations that need not hear of it.
pub(super) fn append(
    txn: &WriteTransaction,
    tally: &mut Tally,
    epoch: u64,
    drop: link::Drop,
    known: &[String],
) -> Result<(), StoreError> {
    insert(txn, epoch, &link::Drop { id: tally.next_drop, ..drop }, known)?;
    tally.unsure |= drop.counts_unknown && known.is_empty();
    tally.next_drop += 1;
    tally.drops += 1;
    Ok(())
}

/// Takes items out of a drop: they were delivered after all. Not from one that a station may know of, which does not change any more.
pub(super) fn take_back(
    txn: &WriteTransaction,
    tally: &mut Tally,
    key: DropKey,
    items: Counts,
) -> Result<bool, StoreError> {
    let mut table = txn.open_table(DROPS)?;
    let found = table.get(key)?.map(|value| read(value.value())).transpose()?;
    let Some((known, drop)) = found.filter(|_| key.id >= tally.drops_reported) else { return Ok(false) };
    let before = Counts::from(drop.items.unwrap_or_default());
    let left = before.saturating_sub(items);
    tally.undo_untold_drop(drop.reason, before.saturating_sub(left));
    if left.total() == 0 {
        table.remove(key)?;
        tally.drops = tally.drops.saturating_sub(1);
        return Ok(true);
    }
    std::mem::drop(table);
    insert(txn, key.epoch, &link::Drop { items: Some(left.into()), ..drop }, &known)?;
    Ok(true)
}

/// Records that something is lost, and nobody knows how much.
pub(super) fn append_unknown(
    txn: &WriteTransaction,
    tally: &mut Tally,
    epoch: u64,
    now: u64,
) -> Result<(), StoreError> {
    let none = of_unsealed(DropReason::Corruption, Lane::BULK, Counts::ZERO, TimeRange::EMPTY, now);
    append(txn, tally, epoch, link::Drop { counts_unknown: true, ..none }, &[])
}

/// What a station's acknowledgement changes in the record of a drop.
pub(super) struct Heard {
    /// The stations that have it in their ledgers.
    pub(super) known: Vec<String>,
    pub(super) drop: link::Drop,
    /// The station has forgotten it.
    pub(super) again: bool,
    /// Items of it that count as delivered from now on.
    pub(super) delivered: Counts,
}

/// What changes when `station` acknowledges drops and says which items it had committed. It has no drop above `highest`.
pub(super) fn heard(
    txn: &ReadTransaction,
    station: &str,
    ack: &link::DropsAck,
    highest: Option<u64>,
) -> Result<Vec<Heard>, StoreError> {
    let table = txn.open_table(DROPS)?;
    let ids: BTreeSet<u64> = gathered(ack.ids.iter().copied());
    let had: BTreeMap<u64, Counts> =
        gathered(ack.overridden.iter().filter_map(|o| Some((o.id, o.items?.into()))));
    let first = ids.iter().chain(had.keys()).copied().chain(highest).min().unwrap_or(u64::MAX);
    let mut out = Vec::new();
    let key = |id| DropKey { epoch: ack.epoch, id };
    for row in table.range(key(first)..=key(u64::MAX))? {
        let (mut known, mut drop) = read(row?.1.value())?;
        let (stations, mut again) = (known.len(), false);
        if ids.contains(&drop.id) {
            if !known.iter().any(|k| k == station) {
                known.push(station.to_owned());
            }
        } else if highest.is_some_and(|highest| drop.id > highest) {
            known.retain(|k| k != station);
            again = stations != known.len();
        }
        let before = Counts::from(drop.overridden.unwrap_or_default());
        let items = Counts::from(drop.items.unwrap_or_default());
        let now = before.max(had.get(&drop.id).copied().unwrap_or_default());
        // Never more than the drop has.
        let now = items.saturating_sub(items.saturating_sub(now));
        let delivered = now.saturating_sub(before);
        if delivered.total() > 0 && now == items {
            // Others were told that it is lost.
            known.retain(|k| k == station);
        }
        if stations != known.len() || delivered.total() > 0 {
            drop.overridden = (now.total() > 0).then(|| now.into());
            out.push(Heard { known, drop, again, delivered });
        }
    }
    Ok(out)
}

/// Forgets drops that every one of `stations` has. The latest stay: a station may still commit what it holds of them, or lose its
/// ledger.
pub(super) fn forget(
    txn: &WriteTransaction,
    tally: &mut Tally,
    stations: &[String],
) -> Result<(), StoreError> {
    let mut table = txn.open_table(DROPS)?;
    let mut done = Vec::new();
    for row in table.iter()? {
        let (key, value) = row?;
        let (key, (known, _)) = (key.value(), read(value.value())?);
        if key.id + KEPT < tally.next_drop && stations.iter().all(|s| known.contains(s)) {
            done.push(key);
        }
    }
    for key in done {
        table.remove(key)?;
        tally.drops = tally.drops.saturating_sub(1);
    }
    Ok(())
}

/// Has every drop told to `station` again. What was dropped and has no record any more is in a new one for each reason.
pub(super) fn tell_again(
    txn: &WriteTransaction,
    tally: &mut Tally,
    epoch: u64,
    station: &str,
    now: u64,
) -> Result<(), StoreError> {
    let mut records = Vec::new();
    for row in txn.open_table(DROPS)?.iter()? {
        let (key, value) = row?;
        records.push((key.value().epoch, read(value.value())?));
    }
    let mut forgotten = tally.dropped.clone();
    for (epoch, (mut known, drop)) in records {
        let items = forgotten.entry(drop.reason).or_default();
        *items = items.saturating_sub(left(&drop));
        known.retain(|k| k != station);
        insert(txn, epoch, &drop, &known)?;
    }
    let mut others = Vec::new();
    for row in txn.open_table(LEDGERS)?.iter()? {
        let (_, name) = row?;
        if name.value() != station && !others.iter().any(|o| o == name.value()) {
            others.push(name.value().to_owned());
        }
    }
    for (reason, items) in forgotten.into_iter().filter(|(_, items)| items.total() > 0) {
        let reason = DropReason::try_from(reason).unwrap_or_default();
        let drop = of_unsealed(reason, Lane::BULK, items, TimeRange::EMPTY, now);
        append(txn, tally, epoch, drop, &others)?;
    }
    tally.last_drop_unsent = false;
    note_told(txn, tally)?;
    tally.store(txn)
}

/// Items of a drop that are still dropped.
pub(super) fn left(drop: &link::Drop) -> Counts {
    Counts::from(drop.items.unwrap_or_default()).saturating_sub(drop.overridden.unwrap_or_default().into())
}

/// The drops that no station has acknowledged.
#[derive(Debug, Default)]
pub(super) struct Untold {
    items: BTreeMap<i32, Counts>,
    /// One of them has an unknown number of items.
    pub(super) unsure: bool,
}

impl Untold {
    pub(super) fn read(drops: &impl ReadableTable<DropKey, &'static [u8]>) -> Result<Self, StoreError> {
        let mut untold = Self::default();
        for row in drops.iter()? {
            let (known, drop) = read(row?.1.value())?;
            if known.is_empty() {
                *untold.items.entry(drop.reason).or_default() += left(&drop);
                untold.unsure |= drop.counts_unknown;
            }
        }
        Ok(untold)
    }

    /// The rest of what was dropped: a station has heard of it.
    fn told(&self, tally: &Tally) -> BTreeMap<i32, Counts> {
        let mut told = tally.dropped.clone();
        for (reason, items) in &mut told {
            *items = items.saturating_sub(self.items.get(reason).copied().unwrap_or_default());
        }
        told.retain(|_, items| items.total() > 0);
        told
    }
}

/// Notes which drops a station has heard of.
pub(super) fn note_told(txn: &WriteTransaction, tally: &mut Tally) -> Result<(), StoreError> {
    let untold = Untold::read(&txn.open_table(DROPS)?)?;
    (tally.unsure, tally.told) = (untold.unsure, Some(untold.told(tally)));
    Ok(())
}

/// Records what was dropped, what no station has heard of, and what has no record since the table or a part of it is lost. One may have
/// heard of it since that was noted, so the counts are an upper bound.
pub(super) fn record_again(
    txn: &WriteTransaction,
    tally: &mut Tally,
    epoch: u64,
    now: u64,
) -> Result<(), StoreError> {
    let untold = Untold::read(&txn.open_table(DROPS)?)?;
    if tally.unsure && !untold.unsure {
        append_unknown(txn, tally, epoch, now)?;
    }
    let Some(before) = tally.told.clone() else { return Ok(()) };
    for (reason, items) in untold.told(tally) {
        let lost = items.saturating_sub(before.get(&reason).copied().unwrap_or_default());
        // Refusals by backends never had a record.
        if lost.total() == 0 || reason == DropReason::BackendRefused as i32 {
            continue;
        }
        let reason = DropReason::try_from(reason).unwrap_or_default();
        let drop = of_unsealed(reason, Lane::BULK, lost, TimeRange::EMPTY, now);
        append(txn, tally, epoch, link::Drop { counts_unknown: true, ..drop }, &[])?;
    }
    Ok(())
}

/// One record for both, if they have the same reason and lane and their sequences touch.
fn merge(a: &link::Drop, b: &link::Drop) -> Option<link::Drop> {
    let sequences = match (&a.sequences, &b.sequences) {
        (None, None) => None,
        (Some(a), Some(b)) if a.end == b.start => Some(link::Range { start: a.start, end: b.end }),
        _ => return None,
    };
    if a.reason != b.reason || a.lane != b.lane || a.counts_unknown != b.counts_unknown {
        return None;
    }
    let mut time = TimeRange::from(a.time.unwrap_or_default());
    time.merge(b.time.unwrap_or_default().into());
    let items = Counts::from(a.items.unwrap_or_default()) + b.items.unwrap_or_default().into();
    Some(link::Drop { sequences, time: Some(time.into()), items: Some(items.into()), ..*a })
}

/// Stores a drop with the stations that know of it.
pub(super) fn insert(
    txn: &WriteTransaction,
    epoch: u64,
    drop: &link::Drop,
    known: &[String],
) -> Result<(), StoreError> {
    let mut value = Vec::new();
    for station in known {
        value.push(station.len() as u8);
        value.extend_from_slice(station.as_bytes());
    }
    value.push(0);
    value.extend(drop.encode_to_vec());
    txn.open_table(DROPS)?.insert(DropKey { epoch, id: drop.id }, value.as_slice())?;
    Ok(())
}

/// The inverse of [`insert`].
pub(super) fn read(mut value: &[u8]) -> Result<(Vec<String>, link::Drop), StoreError> {
    let damaged = || StoreError::Damaged("a drop".to_owned());
    let mut known = Vec::new();
    loop {
        let (&length, rest) = value.split_first().ok_or_else(damaged)?;
        if length == 0 {
            return Ok((known, link::Drop::decode(rest).map_err(|_| damaged())?));
        }
        let (station, rest) = rest.split_at_checked(length as usize).ok_or_else(damaged)?;
        known.push(String::from_utf8_lossy(station).into_owned());
        value = rest;
    }
}
