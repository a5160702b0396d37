//! How a log begins: as a first one, in the place of one that is missing or damaged, or where it was.

use std::collections::{BTreeMap, BTreeSet};

use perigee_proto::link::{self, DropReason};
use perigee_shared::env::{Env, StoreFile};
use perigee_shared::segment::Lane;
use perigee_shared::signal::{Counts, TimeRange};
use perigee_shared::store::rescue::Rescue;
use perigee_shared::store::{self, Before, Contents, StoreError};
use prost::Message;
use redb::{ReadableDatabase, ReadableTable, TableHandle, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::epochs::{begin_epoch, new_life};
use super::mirror::{self, Age, Mirror};
use super::salvage::{self, Salvage, Taken};
use super::state::{Life, State};
use super::tables::*;
use super::tally::Tally;
use super::{WalConfig, drops, group};

/// Numbers of groups, or of drops, that are passed over where the last one is not known: more than one commit has.
pub(super) const NUMBERS_SKIPPED: u64 = 64;

/// Makes the tables in an empty file. What lies beside it tells whether there was a log before: its life is closed then, with the
/// counts that are known. Of a damaged one everything is taken that is whole and known to be undelivered.
pub(super) fn create(
    db: &redb::Database,
    env: &Env,
    config: &WalConfig,
    before: Before<'_>,
) -> Result<(), StoreError> {
    let mirror = mirror::read(env, config);
    if let Before::Damaged { file, .. } = before
        && let Some(found) = Rescue::open(file).and_then(|rescue| Salvage::read(rescue, mirror.as_ref()))
        && belongs_here(&found, config, mirror.as_ref())
    {
        return take_over(db, env, config, &found, mirror.as_ref());
    }
    let now = env.unix_nano();
    let start_counter = match (&mirror, before) {
        (Some(mirror), _) => mirror.start_counter + 1,
        (None, Before::Nothing) => 1,
        // Nothing tells how many lives there were; the time is above any count of them, if it is not that of a cold boot.
        (None, Before::Damaged { .. }) => env.trusted_or_earliest() / 1_000_000_000,
    };
    if mirror.is_some() && matches!(before, Before::Nothing) {
        tracing::error!(
            event.name = "perigee.wal.lost",
            directory = %config.directory.display(),
            "the write-ahead log is missing or empty, and counters.json beside it says that there was one: what was on board is \
             reported as lost, and a new epoch begins"
        );
    }
    let txn = db.begin_write()?;
    make_tables(&txn)?;
    set_life(&txn, new_life(env, start_counter))?;
    set_numbers(&txn, &[(META_NEXT_GROUP, 1), (META_REPORTED, 1)])?;
    set_satellite(&txn, config)?;
    txn.open_table(LANES)?.insert(Lane::BULK.0, LaneNumbers { next_sequence: 1, position: 1 })?;
    let mut tally = mirror.as_ref().map_or_else(Tally::default, Mirror::tally);
    if let Some(mirror) = &mirror {
        close_life(&txn, mirror, &mut tally, now)?;
    }
    tally.next_drop = 1;
    tally.store(&txn)?;
    set_clock_floor(&txn, mirror.as_ref())?;
    set_numbers(&txn, &[(META_FORMAT, FIRST_FORMAT)])?;
    txn.commit()?;
    Ok(())
}

fn set_life(txn: &WriteTransaction, life: Life) -> Result<(), StoreError> {
    set_numbers(
        txn,
        &[
            (META_EPOCH, life.epoch),
            (META_START_COUNTER, life.start_counter),
            (META_STARTED, life.started_unix_nano),
        ],
    )
}

/// Whether a damaged log is this satellite's, and as late as what lies beside it.
fn belongs_here(found: &Salvage<'_>, config: &WalConfig, mirror: Option<&Mirror>) -> bool {
    let foreign = matches!((&found.satellite, &config.satellite), (Some(a), Some(b)) if a != b);
    let next = found.lanes.iter().map(|(lane, numbers)| (*lane, numbers.next_sequence)).collect();
    !foreign
        && mirror.is_none_or(|m| {
            m.compare(found.life, &next, |epoch| found.earlier.contains(&epoch)) != Age::Older
        })
}

/// Makes a log of what can be had of a damaged one. It begins a new epoch, and the old one is closed with what was lost.
fn take_over(
    db: &redb::Database,
    env: &Env,
    config: &WalConfig,
    found: &Salvage<'_>,
    mirror: Option<&Mirror>,
) -> Result<(), StoreError> {
    let txn = db.begin_write()?;
    make_tables(&txn)?;
    txn.commit()?;
    let refused = read_refused(env, config).filter(|r| r.epoch == found.life.epoch).map(|r| r.from);
    let taken = found.take(db, refused)?;
    let txn = db.begin_write()?;
    set_life(&txn, found.life)?;
    set_satellite(&txn, config)?;
    let next_group = taken.last_group.max(found.next_group) + 1;
    set_numbers(&txn, &[(META_NEXT_GROUP, next_group), (META_REPORTED, found.tally.drops_reported)])?;
    let mut tally = found.tally.clone();
    tally.accepted =
        tally.accepted.max(taken.accepted).max(mirror.map_or(Counts::ZERO, |m| m.tally().accepted));
    tally.store(&txn)?;
    txn.commit()?;

    let state = State::load(&db.begin_read()?, config)?;
    tally.drops = state.tally.drops;
    let missing = tally.missing(state.in_segments + state.in_journal());
    let txn = db.begin_write()?;
    let unknown = taken.lost_groups > 0 || found.counts_are_old;
    record_lost(&txn, found.life.epoch, &taken, (missing, unknown), &mut tally, env.unix_nano())?;
    tally.store(&txn)?;
    let counter = found.life.start_counter.max(mirror.map_or(0, |m| m.start_counter)) + 1;
    let next = found.lanes.iter().map(|(lane, numbers)| (*lane, numbers.next_sequence)).collect();
    let closed = link::Epoch { continued: true, ..epoch(found.life, &next) };
    begin_epoch(&txn, new_life(env, counter), closed)?;
    set_clock_floor(&txn, mirror)?;
    set_numbers(&txn, &[(META_FORMAT, GROUPS_FORMAT)])?;
    txn.commit()?;
    tracing::error!(
        event.name = "perigee.wal.salvaged",
        segments = taken.segments,
        groups = taken.groups,
        lost_items = missing.total(),
        lost_groups = taken.lost_groups,
        "a damaged write-ahead log was replaced by one with what could be read of it; a new epoch begins"
    );
    Ok(())
}

/// Records what was on board and could not be taken, in the epoch that ends; `unknown`: the number is not exact.
fn record_lost(
    txn: &WriteTransaction,
    epoch: u64,
    taken: &Taken,
    (missing, unknown): (Counts, bool),
    tally: &mut Tally,
    now: u64,
) -> Result<(), StoreError> {
    let mut left = missing;
    let mut lost = taken.lost_segments(now);
    for drop in &mut lost {
        let items = Counts::from(drop.items.unwrap_or_default());
        let rest = left.saturating_sub(items);
        drop.items = Some(left.saturating_sub(rest).into());
        left = rest;
    }
    // Of which lane these were is not known.
    if left.total() > 0 || (unknown && lost.is_empty()) {
        lost.push(drops::of_unsealed(DropReason::Corruption, Lane::BULK, left, TimeRange::EMPTY, now));
    }
    for mut drop in lost {
        drop.id = tally.next_drop;
        drop.counts_unknown |= unknown;
        drops::insert(txn, epoch, &drop, &[])?;
        (tally.next_drop, tally.drops) = (tally.next_drop + 1, tally.drops + 1);
    }
    tally.drop(DropReason::Corruption, missing);
    Ok(())
}

fn make_tables(txn: &WriteTransaction) -> Result<(), StoreError> {
    txn.open_table(META)?;
    txn.open_table(LANES)?;
    txn.open_table(JOURNAL)?;
    txn.open_table(SEGMENTS)?;
    txn.open_table(CHUNKS)?;
    txn.open_table(CONSUMERS)?;
    txn.open_table(CURSORS)?;
    txn.open_table(COUNTERS)?;
    txn.open_table(DROPS)?;
    txn.open_table(EPOCHS)?;
    txn.open_table(SHIPPED)?;
    Ok(())
}

/// What was certain of the time outlives a log.
fn set_clock_floor(txn: &WriteTransaction, mirror: Option<&Mirror>) -> Result<(), StoreError> {
    match mirror.map(|m| m.clock_floor).filter(|floor| *floor > 0) {
        Some(floor) => set_numbers(txn, &[(META_CLOCK_FLOOR, floor)]),
        None => Ok(()),
    }
}

fn set_satellite(txn: &WriteTransaction, config: &WalConfig) -> Result<(), StoreError> {
    if let Some(satellite) = &config.satellite {
        txn.open_table(META)?.insert(META_SATELLITE, satellite.as_bytes())?;
    }
    Ok(())
}

/// Closes the life that the mirror is of: what was on board then is dropped.
fn close_life(
    txn: &WriteTransaction,
    mirror: &Mirror,
    tally: &mut Tally,
    now: u64,
) -> Result<(), StoreError> {
    let closed = mirror.closed_epoch();
    txn.open_table(EPOCHS)?.insert(closed.epoch, closed.encode_to_vec().as_slice())?;
    let lost = mirror.closing_drops(now);
    // The mirror is as old as the last seal: what is gone is what it does not count as delivered or dropped.
    tally.drop(DropReason::Corruption, tally.missing(Counts::ZERO));
    for drop in &lost {
        drops::insert(txn, closed.epoch, drop, &[])?;
        tally.drops += 1;
    }
    Ok(())
}

/// What can be had of a latest commit that is not whole.
#[derive(Debug, Default)]
pub(super) struct Torn {
    /// Groups whose checksums hold.
    groups: BTreeMap<u64, Vec<u8>>,
    /// That is all of the journal as it was then.
    complete: bool,
}

/// Looks for groups in a latest commit that is not whole.
pub(super) fn torn(file: &dyn StoreFile) -> Torn {
    let Some(rescue) = Rescue::open(file) else { return Torn::default() };
    let mut position = u64::MAX;
    rescue.table(LANES.name(), |_, numbers| {
        if let Some(numbers) = numbers.get(..16).map(<LaneNumbers as redb::Value>::from_bytes) {
            position = position.min(numbers.position);
        }
    });
    if position == u64::MAX {
        return Torn::default();
    }
    let (mut groups, mut complete) = salvage::groups_from(&rescue.latest_alone(), position);
    groups.retain(|number, bytes| {
        let whole = group::verify(*number, bytes).is_ok();
        complete &= whole;
        whole
    });
    Torn { groups, complete }
}

/// Checks whose log it is and how old, takes out what was refused, and takes in what was torn.
pub(super) fn settle(
    db: &redb::Database,
    env: &Env,
    config: &WalConfig,
    before: Option<&State>,
    torn: Option<Torn>,
) -> Result<(), StoreError> {
    let found = Found::read(db)?;
    if let (Some(found), Some(ours)) = (&found.satellite, &config.satellite)
        && found != ours
    {
        return Err(StoreError::Damaged(format!("it is the log of satellite {found}, and this is {ours}")));
    }
    let mirror = mirror::read(env, config);
    let age = mirror
        .as_ref()
        .map_or(Age::Current, |m| m.compare(found.life, &found.next, |epoch| found.earlier.contains(&epoch)));
    if age == Age::Older {
        return Err(StoreError::Damaged(
            "it is older than counters.json beside it, or another log".to_owned(),
        ));
    }
    let tally = Tally::load(&db.begin_read()?)?;
    let txn = db.begin_write()?;
    let mut changed = match torn {
        Some(torn) => found.take_in_torn(&txn, torn, tally, env.unix_nano())?,
        None => false,
    };
    changed |= found.take_out_refused(&txn, env, config, before)?;
    if found.satellite.is_none() && config.satellite.is_some() {
        set_satellite(&txn, config)?;
        changed = true;
    }
    if age == Age::OneSealBehind {
        tracing::error!(
            event.name = "perigee.wal.taken_back",
            "the disk took a commit back that it had called safe; a new epoch begins"
        );
        let counter = found.life.start_counter.max(mirror.as_ref().map_or(0, |m| m.start_counter)) + 1;
        let mut next = found.next.clone();
        if let Some(mirror) = &mirror {
            let state = State::load(&db.begin_read()?, config)?;
            give_up_undone(&txn, mirror, &state, &mut next, env.unix_nano())?;
        }
        let closed = link::Epoch { continued: true, ..epoch(found.life, &next) };
        begin_epoch(&txn, new_life(env, counter), closed)?;
        changed = true;
    }
    if changed {
        txn.commit()?;
    } else {
        txn.abort()?;
    }
    forget_refused(env, config)
}

/// A segment that was sealed and is gone may have been delivered, so what it was made of is not sealed again: it is dropped under the
/// segment's name, which a ground that has it overrides.
fn give_up_undone(
    txn: &WriteTransaction,
    mirror: &Mirror,
    state: &State,
    next: &mut BTreeMap<u8, u64>,
    now: u64,
) -> Result<(), StoreError> {
    let mut tally = state.tally.clone();
    tally.next_drop = tally.next_drop.max(mirror.tally().next_drop) + NUMBERS_SKIPPED;
    for (lane, sequence, position) in mirror.undone(next) {
        let waiting = state.lanes.get(&Lane(lane)).map(|l| l.pending.iter());
        let gone = waiting.into_iter().flatten().filter(|group| group.number < position);
        let items: Counts = gone.map(|group| group.items).sum();
        let drop = link::Drop {
            id: tally.next_drop,
            sequences: Some(link::Range { start: sequence - 1, end: sequence }),
            ..drops::of_unsealed(DropReason::Corruption, Lane(lane), items, TimeRange::EMPTY, now)
        };
        drops::insert(txn, state.life.epoch, &drop, &[])?;
        tally.drop(DropReason::Corruption, items);
        (tally.next_drop, tally.drops) = (tally.next_drop + 1, tally.drops + 1);
        txn.open_table(LANES)?.insert(lane, LaneNumbers { next_sequence: sequence, position })?;
        next.insert(lane, sequence);
    }
    tally.store(txn)
}

/// What tells a log from another one.
struct Found {
    life: Life,
    satellite: Option<String>,
    /// The next sequence of each lane.
    next: BTreeMap<u8, u64>,
    /// Earlier epochs that it names.
    earlier: BTreeSet<u64>,
    /// The latest group, 0: none; and the number from which on none was given, as far as that was noted.
    last_group: u64,
    next_group: u64,
}

impl Found {
    fn read(db: &redb::Database) -> Result<Self, StoreError> {
        let txn = db.begin_read()?;
        let meta = txn.open_table(META)?;
        let number = |name| {
            number(&meta, name)?.ok_or_else(|| StoreError::Damaged(format!("{name} is missing in meta")))
        };
        let life = Life {
            epoch: number(META_EPOCH)?,
            start_counter: number(META_START_COUNTER)?,
            started_unix_nano: number(META_STARTED)?,
        };
        let satellite = meta.get(META_SATELLITE)?.map(|v| String::from_utf8_lossy(v.value()).into_owned());
        let mut next = BTreeMap::new();
        for row in txn.open_table(LANES)?.iter()? {
            let (lane, numbers) = row?;
            next.insert(lane.value(), numbers.value().next_sequence);
        }
        let last_group = txn.open_table(JOURNAL)?.last()?.map_or(0, |(key, _)| key.value().group);
        let next_group = number(META_NEXT_GROUP)?;
        let mut earlier = BTreeSet::new();
        for row in txn.open_table(EPOCHS)?.iter()? {
            earlier.insert(row?.0.value());
        }
        Ok(Self { life, satellite, next, earlier, last_group, next_group })
    }

    /// Puts groups back that a latest commit had; whether there were any. They may have been called safe. Where the commit cannot be
    /// read, nobody can tell a power cut, which loses nothing, from damage: then more may be gone than is known.
    fn take_in_torn(
        &self,
        txn: &WriteTransaction,
        torn: Torn,
        mut tally: Tally,
        now: u64,
    ) -> Result<bool, StoreError> {
        let new = |number: &u64| *number > self.last_group && *number >= self.next_group;
        for (number, bytes) in torn.groups.iter().filter(|(number, _)| new(number)) {
            salvage::insert_group(txn, *number, bytes)?;
            raise_format(txn, GROUPS_FORMAT)?;
        }
        if torn.complete {
            return Ok(true);
        }
        tracing::error!(
            event.name = "perigee.wal.torn",
            "the latest commit is not whole and the one before took its place; after a power cut in mid-commit nothing is lost by \
             that, after damage to the medium something may be: it is reported as unknown"
        );
        let drop =
            drops::of_unsealed(DropReason::Corruption, Lane::BULK, Counts::ZERO, TimeRange::EMPTY, now);
        drops::insert(
            txn,
            self.life.epoch,
            &link::Drop { id: tally.next_drop, counts_unknown: true, ..drop },
            &[],
        )?;
        tally.next_drop += 1;
        tally.store(txn)?;
        Ok(true)
    }

    /// Takes out what was refused before the store failed; whether anything was changed.
    fn take_out_refused(
        &self,
        txn: &WriteTransaction,
        env: &Env,
        config: &WalConfig,
        before: Option<&State>,
    ) -> Result<bool, StoreError> {
        let from = match before {
            Some(state) => (state.life.epoch == self.life.epoch).then_some(state.next_group),
            None => read_refused(env, config).filter(|r| r.epoch == self.life.epoch).map(|r| r.from),
        };
        let Some(from) = from.filter(|from| *from != u64::MAX) else { return Ok(false) };
        let mut refused = 0u64;
        txn.open_table(JOURNAL)?.retain_in(groups(from, u64::MAX), |_, _| {
            refused += 1;
            false
        })?;
        if refused > 0 {
            tracing::warn!(
                pieces = refused,
                "requests that were refused were on the disk; they were taken out"
            );
        }
        // Their numbers are not given again: what is left of them in the file is not to be taken for what comes.
        let next = self.last_group.max(from) + NUMBERS_SKIPPED;
        set_numbers(txn, &[(META_NEXT_GROUP, next.max(self.next_group))])?;
        Ok(true)
    }
}

/// An epoch as it is closed.
fn epoch(life: Life, next: &BTreeMap<u8, u64>) -> link::Epoch {
    let lane = |(lane, next): (&u8, &u64)| link::Lane {
        lane: u32::from(*lane),
        next_sequence: *next,
        ..link::Lane::default()
    };
    link::Epoch {
        epoch: life.epoch,
        start_counter: life.start_counter,
        started_unix_nano: life.started_unix_nano,
        lanes: next.iter().map(lane).collect(),
        ..link::Epoch::default()
    }
}

/// Groups of an epoch from this number on were refused, though they may be on the disk.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Refused {
    epoch: u64,
    from: u64,
}

fn refused_path(config: &WalConfig) -> std::path::PathBuf {
    config.directory.join("refused.json")
}

fn read_refused(env: &Env, config: &WalConfig) -> Option<Refused> {
    let path = refused_path(config);
    env.store.exists(&path).then(|| store::mirror::read(env, &path)).flatten()
}

/// Notes beside the log that what is appended from here on was refused, for a process that is killed before the log is open again.
pub(super) fn note_refused(env: &Env, config: &WalConfig, epoch: u64, from: u64) {
    if let Err(error) = store::mirror::write(env, &refused_path(config), &Refused { epoch, from }) {
        tracing::debug!(%error, "what was refused could not be noted beside the log");
    }
}

/// The note holds no more. It is replaced and not deleted: a deletion may come undone in a power cut, and what is appended from
/// now on would be taken out.
fn forget_refused(env: &Env, config: &WalConfig) -> Result<(), StoreError> {
    if read_refused(env, config).is_none_or(|r| r.from == u64::MAX) {
        return Ok(());
    }
    store::mirror::write(env, &refused_path(config), &Refused { epoch: 0, from: u64::MAX })
        .map_err(|e| StoreError::Io(e.to_string()))
}
