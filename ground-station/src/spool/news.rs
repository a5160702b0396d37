//! What of the lists is new or other than before: passes, gaps and dead letters. Rows are compared as they are stored, by a hash, and
//! only those that differ are read.

use std::collections::{BTreeMap, BTreeSet};

use perigee_shared::segment::hash;
use redb::TableError;

use super::decode::Snapshot;
use super::error::SpoolError;
use super::file::View;
use super::letters::{self, LetterView};
use super::look::{self, Glance};
use super::passes::{self, PassView};
use super::tables::*;
use super::views::{self, GapView, names};

/// Passes of each satellite that are compared, the latest: as it reported them, and as this station saw them.
const PASSES_OF: usize = 16;

/// Gaps of each satellite that are compared: those that became known last in its lives.
const GAPS_OF: usize = 32;

/// Dead letters that are compared, the latest.
const LETTERS_OF: usize = 1_000;

/// A row of a satellite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Reported(u64),
    Heard(u64),
    Gap(u64, u64),
}

/// What was known at one moment.
#[derive(Debug, Default)]
pub struct KnownLists {
    /// By satellite, each row with the beginning of its hash.
    satellites: BTreeMap<String, BTreeMap<Key, u64>>,
    letters: BTreeMap<u64, u64>,
    begun: bool,
}

/// What is new since then, the latest first of each satellite.
#[derive(Debug, Default)]
pub struct News {
    /// Passes that are new, or of which more is known.
    pub passes: Vec<PassView>,
    /// Gaps that are new, or smaller.
    pub gaps: Vec<GapView>,
    /// Dead letters that are new or to be sent again.
    pub letters: Vec<LetterView>,
    /// Those that are none any more: sent again, or discarded.
    pub letters_gone: Vec<u64>,
}

impl Glance {
    /// What is new since `known`, of these satellites, and what is known now. At first nothing is new, and all satellites are looked
    /// at.
    pub async fn news(
        &self,
        known: KnownLists,
        changed: BTreeSet<String>,
    ) -> Result<(KnownLists, News), SpoolError> {
        self.look(move |view, _: &Snapshot| news(view, known, &changed)).await
    }
}

fn news(
    view: &View<'_>,
    mut known: KnownLists,
    changed: &BTreeSet<String>,
) -> Result<(KnownLists, News), SpoolError> {
    let mut out = News::default();
    let wanted = match known.begun {
        true => numbers(view, changed)?,
        false => names(view.tables)?,
    };
    for (number, name) in &wanted {
        let now = rows(view, *number)?;
        let before = known.satellites.insert(name.clone(), now).unwrap_or_default();
        let now = &known.satellites[name];
        let fresh: BTreeSet<Key> =
            now.iter().filter(|(key, hash)| before.get(key) != Some(hash)).map(|(key, _)| *key).collect();
        if known.begun && !fresh.is_empty() {
            read(view, (*number, name), &fresh, &mut out)?;
        }
    }
    let table = view.tables.open_table(LETTERS)?;
    let mut letters = BTreeMap::new();
    for row in table.range::<u64>(..)?.rev().take(LETTERS_OF) {
        let (id, value) = row?;
        let (id, mark) = (id.value(), mark(value.value()));
        if known.begun && known.letters.get(&id) != Some(&mark) {
            out.letters.push(letters::shown(id, value.value())?);
        }
        letters.insert(id, mark);
    }
    // Older ones may be there and not be looked at.
    let least = letters.keys().next().copied().filter(|_| letters.len() == LETTERS_OF).unwrap_or(0);
    out.letters_gone =
        known.letters.range(least..).map(|(id, _)| *id).filter(|id| !letters.contains_key(id)).collect();
    (known.letters, known.begun) = (letters, true);
    Ok((known, out))
}

/// These satellites by number.
fn numbers(view: &View<'_>, ids: &BTreeSet<String>) -> Result<BTreeMap<u32, String>, SpoolError> {
    let numbers = ids.iter().map(|id| Ok(look::number(view, id)?.map(|number| (number, id.clone()))));
    numbers.filter_map(Result::transpose).collect()
}

fn mark(bytes: &[u8]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = hash(bytes);
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// The latest rows of a satellite.
fn rows(view: &View<'_>, satellite: u32) -> Result<BTreeMap<Key, u64>, SpoolError> {
    let mut out = BTreeMap::new();
    let of_passes = PassKey { satellite, start: 0 }..=PassKey { satellite, start: u64::MAX };
    for row in view.tables.open_table(PASSES)?.range(of_passes.clone())?.rev().take(PASSES_OF) {
        let (key, value) = row?;
        out.insert(Key::Reported(key.value().start), mark(value.value()));
    }
    match view.tables.open_table(CONTACTS) {
        // No link has ended since this software runs.
        Err(TableError::TableDoesNotExist(_)) => {}
        table => {
            for row in table?.range(of_passes)?.rev().take(PASSES_OF) {
                let (key, value) = row?;
                out.insert(Key::Heard(key.value().start), mark(value.value()));
            }
        }
    }
    let first = DropKey { satellite, epoch: 0, id: 0 };
    let of_gaps = first..=DropKey { satellite, epoch: u64::MAX, id: u64::MAX };
    for row in view.tables.open_table(DROPS)?.range(of_gaps)?.rev().take(GAPS_OF) {
        let (key, value) = row?;
        out.insert(Key::Gap(key.value().epoch, key.value().id), mark(value.value()));
    }
    Ok(out)
}

/// Reads these rows of a satellite.
fn read(
    view: &View<'_>,
    (satellite, name): (u32, &String),
    fresh: &BTreeSet<Key>,
    out: &mut News,
) -> Result<(), SpoolError> {
    if fresh.iter().any(|key| !matches!(key, Key::Gap(..))) {
        let is_fresh = |pass: &passes::Pass| {
            pass.reported().is_some_and(|at| fresh.contains(&Key::Reported(at)))
                || pass.ground.as_ref().is_some_and(|g| fresh.contains(&Key::Heard(g.start_unix_nano)))
        };
        let all = passes::of_satellite(view, satellite, PASSES_OF)?.into_iter().filter(is_fresh);
        out.passes.extend(all.map(|pass| PassView { satellite: name.clone(), pass }));
    }
    let table = view.tables.open_table(DROPS)?;
    let names = BTreeMap::from([(satellite, name.clone())]);
    for key in fresh {
        let Key::Gap(epoch, id) = *key else { continue };
        let key = DropKey { satellite, epoch, id };
        let Some(record) = table.get(key)?.map(|v| decode::<DropRecord>(v.value())).transpose()? else {
            continue;
        };
        out.gaps.extend(views::gap_view(&names, key, record));
    }
    out.gaps.sort_by_key(|gap| std::cmp::Reverse(gap.recorded_unix_nano));
    Ok(())
}
