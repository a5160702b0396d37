//! What was accepted and what became of it, in numbers that survive restarts.

use std::collections::BTreeMap;

use perigee_proto::link::DropReason;
use perigee_shared::signal::Counts;
use perigee_shared::store::StoreError;
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, WriteTransaction};

use super::drops::Untold;
use super::gathered;
use super::tables::*;

/// The counts and the numbers of drops. A transaction changes a copy, stores it, and hands it to the state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) accepted: Counts,
    pub(super) delivered: Counts,
    /// By [`DropReason`].
    pub(super) dropped: BTreeMap<i32, Counts>,
    /// The id that the next drop gets.
    pub(super) next_drop: u64,
    /// Drops below it may have been reported: they no longer change.
    pub(super) drops_reported: u64,
    /// Of what was dropped, what a station had acknowledged at the last acknowledgement, as far as there was one. Earlier software noted
    /// nothing: `None`.
    pub(super) told: Option<BTreeMap<i32, Counts>>,
    /// A drop is recorded that has an unknown number of items, and no station has acknowledged it.
    pub(super) unsure: bool,
    /// Drops that are recorded.
    pub(super) drops: u64,
    /// The last drop was of segments that were never on a wire: another of them may join it.
    pub(super) last_drop_unsent: bool,
}

impl Tally {
    /// Counts items as dropped.
    pub(super) fn drop(&mut self, reason: DropReason, items: Counts) {
        *self.dropped.entry(reason as i32).or_default() += items;
    }

    /// Counts items that were dropped as delivered after all.
    pub(super) fn undo_drop(&mut self, reason: i32, items: Counts) {
        let undone = self.undo_untold_drop(reason, items);
        if let Some(told) = self.told.as_mut().and_then(|told| told.get_mut(&reason)) {
            *told = told.saturating_sub(undone);
        }
    }

    /// The same of a drop that no station has heard of. Returns how many those were.
    pub(super) fn undo_untold_drop(&mut self, reason: i32, items: Counts) -> Counts {
        let counted = self.dropped.entry(reason).or_default();
        let left = counted.saturating_sub(items);
        let undone = counted.saturating_sub(left);
        self.delivered += undone;
        *counted = left;
        undone
    }

    pub(super) fn load(txn: &ReadTransaction) -> Result<Self, StoreError> {
        let damaged = |what: &str| StoreError::Damaged(what.to_owned());
        let meta = txn.open_table(META)?;
        let number = |name| number(&meta, name)?.ok_or_else(|| damaged("a number is missing in meta"));
        let mut tally = Self {
            next_drop: number(META_NEXT_DROP)?,
            drops_reported: number(META_REPORTED)?,
            told: meta.get(META_TOLD)?.map(|v| told_from(v.value())),
            unsure: Untold::read(&txn.open_table(DROPS)?)?.unsure,
            drops: txn.open_table(DROPS)?.len()?,
            ..Self::default()
        };
        for entry in txn.open_table(COUNTERS)?.iter()? {
            let (name, value) = entry?;
            let counts = Counts::from_bytes(value.value()).ok_or_else(|| damaged("a counter"))?;
            tally.set(name.value(), counts).ok_or_else(|| damaged("a counter's name"))?;
        }
        Ok(tally)
    }

    /// Takes in a row of `counters`; `None` when it is none of ours.
    pub(super) fn set(&mut self, name: &str, counts: Counts) -> Option<()> {
        match name {
            ACCEPTED => self.accepted = counts,
            DELIVERED => self.delivered = counts,
            dropped => {
                let reason = dropped.strip_prefix("dropped:")?.parse().ok()?;
                self.dropped.insert(reason, counts);
            }
        }
        Some(())
    }

    /// Items whose fate is unknown: taken, and neither on board (`on_board`), delivered nor dropped.
    pub(super) fn missing(&self, on_board: Counts) -> Counts {
        let dropped: Counts = self.dropped.values().copied().sum();
        self.accepted.saturating_sub(self.delivered).saturating_sub(dropped).saturating_sub(on_board)
    }

    pub(super) fn store(&self, txn: &WriteTransaction) -> Result<(), StoreError> {
        let mut counters = txn.open_table(COUNTERS)?;
        counters.insert(ACCEPTED, &self.accepted.to_bytes()[..])?;
        counters.insert(DELIVERED, &self.delivered.to_bytes()[..])?;
        for (reason, items) in &self.dropped {
            counters.insert(format!("dropped:{reason}").as_str(), &items.to_bytes()[..])?;
        }
        drop(counters);
        if let Some(told) = &self.told {
            let bytes: Vec<u8> = told.iter().flat_map(told_to).collect();
            let mut meta = txn.open_table(META)?;
            if meta.get(META_TOLD)?.is_none_or(|v| v.value() != bytes) {
                meta.insert(META_TOLD, bytes.as_slice())?;
            }
        }
        let found = number(&txn.open_table(META)?, META_NEXT_DROP)?;
        if found == Some(self.next_drop) {
            Ok(())
        } else {
            set_numbers(txn, &[(META_NEXT_DROP, self.next_drop)])
        }
    }
}

/// A reason and its items.
fn told_to((reason, items): (&i32, &Counts)) -> Vec<u8> {
    [&reason.to_le_bytes()[..], &items.to_bytes()[..]].concat()
}

/// The inverse, for all reasons.
pub(super) fn told_from(bytes: &[u8]) -> BTreeMap<i32, Counts> {
    let one = |row: &[u8]| {
        let (reason, items) = row.split_first_chunk()?;
        Some((i32::from_le_bytes(*reason), Counts::from_bytes(items)?))
    };
    gathered(bytes.chunks(28).filter_map(one))
}
