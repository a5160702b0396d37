//! What this log has from other files: `wal salvage` appends none of it again.
//!
//! A row of `salvaged` is an [`Identity`], 16 bytes, written in the transaction that appended what it names; its key begins with the
//! group that this became, so that a commit that is taken out takes its rows along. Rows of group 0 name lives that were lost, of this
//! log or of one whose file was salvaged into it. Those of 8 bytes are epochs: lives that will be lost with this log, since nobody
//! knows then what of their files it had.

use std::collections::BTreeSet;

use perigee_shared::segment::{Hash, Lane};
use perigee_shared::store::StoreError;
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, Table, TableHandle, WriteTransaction};

use super::tables::*;

/// Rows that are kept, the latest. A lane holds back 8 MiB of the journal, which is about 40,000 groups of one small request.
const MOST: u64 = 1 << 17;

/// Stands for a life that nobody knows.
pub(super) const ANY: u64 = 0;

/// The lane of a group that is not split.
const UNSPLIT: u32 = u32::MAX;

/// What tells a part of a file from every other: the first bytes of a BLAKE3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity([u8; 16]);

impl Identity {
    fn of(kind: u8, number: u64, bytes: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut out = [0; 16];
        hasher.update(&[kind]).update(&number.to_le_bytes()).update(bytes);
        hasher.finalize_xof().fill(&mut out);
        Self(out)
    }

    /// A life of the log.
    pub(super) fn life(epoch: u64) -> Self {
        Self::of(b'e', epoch, &[])
    }

    /// A commit group.
    pub(super) fn group(number: u64, bytes: &[u8]) -> Self {
        Self::of(b'g', number, bytes)
    }

    /// A segment.
    pub(super) fn segment(hash: &Hash) -> Self {
        Self::of(b's', 0, hash)
    }

    /// A part of it, by its number.
    pub(super) fn part(self, number: u32) -> Self {
        Self::of(b'p', u64::from(number), &self.0)
    }

    /// What a group has for one lane; `None`: all of it.
    pub(super) fn of_lane(self, lane: Option<Lane>) -> Self {
        self.part(lane.map_or(UNSPLIT, |lane| u32::from(lane.0)))
    }
}

/// Notes what became the group `group`. The oldest rows make way.
pub(super) fn remember(
    txn: &WriteTransaction,
    group: u64,
    identities: impl IntoIterator<Item = Identity>,
) -> Result<(), StoreError> {
    remember_rows(txn, group, &mut identities.into_iter().map(|identity| identity.0.to_vec()))
}

fn remember_rows(
    txn: &WriteTransaction,
    group: u64,
    rows: &mut dyn Iterator<Item = Vec<u8>>,
) -> Result<(), StoreError> {
    let mut table = txn.open_table(SALVAGED)?;
    let last = table.range(of_group(group))?.next_back().transpose()?;
    let first = last.map_or(0, |(key, _)| key.value().number + 1);
    for (row, number) in rows.zip(first..) {
        table.insert(SalvagedKey { group, number }, row.as_slice())?;
    }
    trim(&mut table, MOST)
}

/// The rows of a group.
const fn of_group(group: u64) -> std::ops::RangeInclusive<SalvagedKey> {
    SalvagedKey { group, number: 0 }..=SalvagedKey { group, number: u32::MAX }
}

/// Notes the epochs of lives of whose files nobody can tell what was delivered.
pub(super) fn lose(txn: &WriteTransaction, epochs: &[u64]) -> Result<(), StoreError> {
    name(txn, epochs)?;
    remember(txn, 0, epochs.iter().map(|epoch| Identity::life(*epoch)))
}

/// Notes the epochs of lives that [`lose`] is to have when this log is lost.
pub(super) fn name(txn: &WriteTransaction, epochs: &[u64]) -> Result<(), StoreError> {
    remember_rows(txn, 0, &mut epochs.iter().map(|epoch| epoch.to_le_bytes().to_vec()))
}

/// Those epochs.
pub(super) fn named(txn: &ReadTransaction) -> Result<Vec<u64>, StoreError> {
    let mut out = Vec::new();
    if let Some(table) = if_made(txn, SALVAGED)? {
        for row in table.range(of_group(0))? {
            out.extend(row?.1.value().try_into().map(u64::from_le_bytes));
        }
    }
    Ok(out)
}

/// Takes out the oldest rows above `most`.
pub(super) fn trim(table: &mut Table<'_, SalvagedKey, &[u8]>, most: u64) -> Result<(), StoreError> {
    let excess = table.len()?.saturating_sub(most);
    let groups = SalvagedKey { group: 1, number: 0 }..;
    let oldest: Vec<_> = table
        .range(groups)?
        .take(excess as usize)
        .map(|row| row.map(|(key, _)| key.value()))
        .collect::<Result<_, _>>()?;
    for key in oldest {
        table.remove(key)?;
    }
    Ok(())
}

/// Forgets what became a group from number `from` on: those groups are taken out.
pub(super) fn forget(txn: &WriteTransaction, from: u64) -> Result<(), StoreError> {
    if txn.list_tables()?.any(|table| table.name() == SALVAGED.name()) {
        txn.open_table(SALVAGED)?.retain_in(SalvagedKey { group: from, number: 0 }.., |_, _| false)?;
    }
    Ok(())
}

/// Everything that is noted.
pub(super) fn known(txn: &ReadTransaction) -> Result<BTreeSet<Identity>, StoreError> {
    let mut out = BTreeSet::new();
    if let Some(table) = if_made(txn, SALVAGED)? {
        for row in table.iter()? {
            out.extend(row?.1.value().try_into().map(Identity));
        }
    }
    Ok(out)
}

/// A row as it lies in a file.
pub(super) fn row(key: &[u8], value: &[u8]) -> Option<(u64, Identity)> {
    let key = key.get(..SALVAGED_KEY).map(<SalvagedKey as redb::Value>::from_bytes)?;
    Some((key.group, Identity(value.try_into().ok()?)))
}
