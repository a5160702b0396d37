//! Runs faults over seeds and draws up the rows.

use std::collections::BTreeMap;
use std::path::Path;

use crate::check::{Verdict, check};
use crate::faults::{self, Kind};
use crate::history::{History, Side};
use crate::row::Row;

/// The faults of the disk in memory, over seeds.
pub struct Campaign {
    directory: tempfile::TempDir,
    /// I/O operations by side and script.
    operations: BTreeMap<(Side, u64), u64>,
}

impl Campaign {
    /// Nothing has run yet.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self { directory: tempfile::tempdir()?, operations: BTreeMap::new() })
    }

    /// One run.
    pub fn fly(&mut self, name: &str, kind: Kind, side: Side, seed: u64) -> History {
        let Self { directory, operations } = self;
        let directory: &Path = directory.path();
        let mut known = |script| {
            let count = || faults::operations(side, script, directory);
            *operations.entry((side, script)).or_insert_with(count)
        };
        faults::fly(name, kind, side, seed, directory, &mut known)
    }

    /// A row of these seeds.
    pub fn row(&mut self, name: &str, kind: Kind, side: Side, seeds: impl Iterator<Item = u64>) -> Row {
        let mut row = Row::new(name, side);
        for seed in seeds {
            let verdict: Verdict = check(&self.fly(name, kind, side, seed));
            row.add(seed, &verdict);
        }
        row
    }
}

/// Whether `only` (`FAULT` or `FAULT/STORE`) means this row.
pub fn is_meant(only: Option<&str>, fault: &str, side: Side) -> bool {
    match only.map(|only| only.split_once('/').map_or((only, None), |(fault, store)| (fault, Some(store)))) {
        None => true,
        Some((name, store)) => name == fault && store.is_none_or(|store| store == side.name()),
    }
}
