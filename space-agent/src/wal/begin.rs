//! How a log begins: as a first one, in the place of one that is missing or damaged, or where it was.

use std::collections::{BTreeMap, BTreeSet};

use perigee_proto::link::{self, DropReason};
use perigee_shared::env::{Env, StoreFile};
use perigee_shared::segment::Lane;
use perigee_shared::signal::{Counts, TimeRange};
use perigee_shared::store::rescue::{Extent, Rescue};
use perigee_shared::store::{self, Before, Contents, StoreError};
use prost::Message;
use redb::{ReadableDatabase, ReadableTable, TableHandle, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::epochs::{begin_epoch, new_life};
use super::gathered;
use super::group::GroupHeader;
use super::mirror::{self, Age, Mirror};
use super::salvage::{self, Salvage, Taken};
use super::salvaged::{self, Identity};
use super::state::{Life, State};
use super::tables::*;
use super::tally::Tally;
use super::{WalConfig, drops, front, group, restored};

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
    let found = match before {
        Before::Damaged { file, .. } => {
            Rescue::open(file).and_then(|rescue| Salvage::read(rescue, mirror.as_ref()))
        }
        Before::Nothing => None,
    };
    if let Some(found) = &found
        && belongs_here(found, config, mirror.as_ref())
    {
        return take_over(db, env, config, found, mirror.as_ref());
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
    let life = new_life(env, start_counter);
    set_life(&txn, life)?;
    set_satellite(&txn, config)?;
    let mut tally = mirror.as_ref().map_or_else(Tally::default, Mirror::tally);
    let mut kept = Kept { first: 1, next: 1, items: Counts::ZERO };
    if let Some(mirror) = &mirror {
        kept = take_front_alone(&txn, env, config, mirror, &mut tally)?;
        close_life(&txn, mirror, kept.items, &mut tally, now)?;
        // What their files had is forgotten with the log.
        salvaged::lose(&txn, &mirror.lives_but(&[]))?;
        salvaged::lose(&txn, &[mirror.life().epoch])?;
    }
    set_numbers(&txn, &[(META_NEXT_GROUP, kept.next), (META_REPORTED, 1)])?;
    txn.open_table(LANES)?.insert(Lane::BULK.0, LaneNumbers { next_sequence: 1, position: kept.first })?;
    tally.next_drop = 1;
    if mirror.is_none() && there_was_one(env, config, before) {
        report_unknown(&txn, life.epoch, now, &mut tally)?;
        if found.is_none() {
            // It may have been any.
            salvaged::lose(&txn, &[salvaged::ANY])?;
        }
    }
    drops::note_told(&txn, &mut tally)?;
    tally.store(&txn)?;
    set_clock_floor(&txn, mirror.as_ref())?;
    set_numbers(&txn, &[(META_FORMAT, FIRST_FORMAT)])?;
    txn.commit()?;
    Ok(())
}

/// Whether there was a log before, though nothing that can be read says so.
fn there_was_one(env: &Env, config: &WalConfig, before: Before<'_>) -> bool {
    matches!(before, Before::Damaged { .. })
        || mirror::is_damaged(env, config)
        || front::read(env, config, 0).is_ok_and(|front| front.is_used())
}

/// Reports that something may be lost of a log of which nobody knows anything: not even its epoch, so that it stands in the new one.
fn report_unknown(txn: &WriteTransaction, epoch: u64, now: u64, tally: &mut Tally) -> Result<(), StoreError> {
    tracing::error!(
        event.name = "perigee.wal.lost",
        "there was a write-ahead log before, and neither it nor counters.json beside it can be read: that something may be lost is \
         reported, with an unknown number of items"
    );
    drops::append_unknown(txn, tally, epoch, now)
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
    let next = gathered(found.lanes.iter().map(|(lane, numbers)| (*lane, numbers.next_sequence)));
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
    let front = front::read(env, config, found.life.epoch)?.groups;
    let taken = found.take(db, &front, refused)?;
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

    let state = State::load(&db.begin_read()?, None, config)?;
    tally.drops = state.tally.drops;
    let missing = tally.missing(state.in_segments + state.in_journal());
    let txn = db.begin_write()?;
    if found.lost_drops {
        tally.unsure |= mirror.is_some_and(Mirror::is_unsure);
        drops::record_again(&txn, &mut tally, found.life.epoch, env.unix_nano())?;
    }
    let unknown = taken.lost_groups > 0 || found.counts_are_old;
    record_lost(&txn, found.life.epoch, &taken, (missing, unknown), &mut tally, env.unix_nano())?;
    let counter = found.life.start_counter.max(mirror.map_or(0, |m| m.start_counter)) + 1;
    let mut next = gathered(found.lanes.iter().map(|(lane, numbers)| (*lane, numbers.next_sequence)));
    let mirror_of_it = mirror.filter(|m| m.life().epoch == found.life.epoch);
    if let Some(mirror) = mirror_of_it {
        give_up_undone(&txn, mirror, &state, &mut tally, &mut next, env.unix_nano())?;
    }
    tally.store(&txn)?;
    let mut closed = link::Epoch { continued: true, ..epoch(found.life, &next) };
    if let Some(mirror) = mirror_of_it {
        closed = mirror.acknowledged_in(closed);
    }
    begin_epoch(&txn, new_life(env, counter), closed)?;
    lose_lives(&txn, mirror, &state, found.life)?;
    set_clock_floor(&txn, mirror)?;
    set_numbers(&txn, &[(META_FORMAT, GROUPS_FORMAT)])?;
    txn.commit()?;
    tracing::error!(
        event.name = "perigee.wal.salvaged",
        segments = taken.segments,
        groups = taken.groups,
        lost_items = missing.total(),
        lost_groups = taken.lost_groups,
        "a damaged write-ahead log was replaced by a new one with its readable data; a new epoch begins"
    );
    Ok(())
}

/// What the mirror's log knew of other lives and the log of `state` and `life` does not is lost.
pub(super) fn lose_lives(
    txn: &WriteTransaction,
    mirror: Option<&Mirror>,
    state: &State,
    life: Life,
) -> Result<(), StoreError> {
    let known: Vec<u64> = state.lives.iter().copied().chain([life.epoch]).collect();
    mirror.map_or(Ok(()), |mirror| salvaged::lose(txn, &mirror.lives_but(&known)))
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
        drop.counts_unknown |= unknown;
        drops::append(txn, tally, epoch, drop, &[])?;
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
pub(super) fn set_clock_floor(txn: &WriteTransaction, mirror: Option<&Mirror>) -> Result<(), StoreError> {
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

/// Groups that are all that is left of a log.
struct Kept {
    first: u64,
    next: u64,
    items: Counts,
}

/// Takes what the front has of a log that is gone: groups that no lane had sealed, as far as `mirror` beside it knows.
fn take_front_alone(
    txn: &WriteTransaction,
    env: &Env,
    config: &WalConfig,
    mirror: &Mirror,
    tally: &mut Tally,
) -> Result<Kept, StoreError> {
    let epoch = mirror.life().epoch;
    let refused = read_refused(env, config).filter(|r| r.epoch == epoch).map_or(u64::MAX, |r| r.from);
    let first = mirror.last_position().unwrap_or(1);
    let mut kept = Kept { first, next: first, items: Counts::ZERO };
    for (number, bytes) in front::read(env, config, epoch)?.groups.range(first..refused.max(first)) {
        salvage::insert_group(txn, *number, bytes)?;
        salvaged::remember(txn, *number, [Identity::group(*number, bytes).of_lane(None)])?;
        let header = header(bytes)?;
        tally.accepted = tally.accepted.max(header.accepted);
        kept = Kept { next: number + 1, items: kept.items + header.items, ..kept };
    }
    Ok(kept)
}

fn header(group: &[u8]) -> Result<GroupHeader, StoreError> {
    GroupHeader::read(group).map_err(|e| StoreError::Damaged(e.to_string()))
}

/// Closes the life that the mirror is of: what was on board then is dropped, but for items that were `kept`.
fn close_life(
    txn: &WriteTransaction,
    mirror: &Mirror,
    kept: Counts,
    tally: &mut Tally,
    now: u64,
) -> Result<(), StoreError> {
    let closed = mirror.closed_epoch();
    txn.open_table(EPOCHS)?.insert(closed.epoch, closed.encode_to_vec().as_slice())?;
    // What is gone is what the mirror does not count as delivered or dropped.
    let missing = tally.missing(kept);
    // A station may have drops that were recorded since. What a mirror of earlier software comes to is pinned.
    if tally.told.is_some() {
        tally.next_drop += NUMBERS_SKIPPED;
    }
    drops::record_again(txn, tally, closed.epoch, now)?;
    record_closing(txn, mirror, None, missing, tally, now)
}

/// Records what is lost of the life that the mirror is of: what was on board then and is not in `left`.
pub(super) fn record_closing(
    txn: &WriteTransaction,
    mirror: &Mirror,
    left: Option<&State>,
    missing: Counts,
    tally: &mut Tally,
    now: u64,
) -> Result<(), StoreError> {
    for drop in mirror.closing_drops(left, missing, tally.next_drop, now) {
        drops::append(txn, tally, mirror.life().epoch, drop, &[])?;
    }
    tally.drop(DropReason::Corruption, missing);
    Ok(())
}

/// What can be had of a latest commit that is not whole.
#[derive(Debug, Default)]
pub(super) struct Torn {
    /// Groups whose checksums hold.
    groups: BTreeMap<u64, Vec<u8>>,
    /// That is all of the journal as it was then.
    complete: bool,
    /// What came from other files, and the group that it became.
    salvaged: Vec<(u64, Identity)>,
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
    let latest = rescue.latest_alone();
    let (mut groups, mut complete) = salvage::groups_from(&latest, position);
    groups.retain(|number, bytes| {
        let whole = group::verify(*number, bytes).is_ok();
        complete &= whole;
        whole
    });
    let mut salvaged = Vec::new();
    let mut row = |key: &[u8], value: &[u8]| {
        salvaged.extend(salvaged::row(key, value).filter(|(group, _)| groups.contains_key(group)));
    };
    // What is no row names nothing that any file has.
    if latest.table(SALVAGED.name(), &mut row) != Extent::Whole {
        latest.scan(SALVAGED_KEY, row);
    }
    Torn { groups, complete, salvaged }
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
    let same_life = mirror.as_ref().filter(|m| m.goes_on_from(found.life.epoch));
    let restored = same_life.filter(|m| restored::is_earlier(m, age, &found));
    if age == Age::Older && restored.is_none() {
        return Err(StoreError::Damaged(
            "it is older than counters.json beside it, or another log".to_owned(),
        ));
    }
    let mut tally = Tally::load(&db.begin_read()?)?;
    let epoch = restored.map_or(found.life.epoch, |m| m.life().epoch);
    let mut front = match front::read(env, config, epoch) {
        Err(_) if before.is_some() => front::Found::default(),
        read => read?,
    };
    front.note_another(&found.earlier);
    front.incomplete &= found.has_front;
    // What this process had accepted it still knows.
    let ours = before.filter(|state| state.life.epoch == found.life.epoch);
    front.groups.extend(ours.iter().flat_map(|state| state.front.clone()));
    let txn = db.begin_write()?;
    let mut changed = false;
    let mut salvaged = Vec::new();
    if let Some(torn) = torn {
        salvaged = torn.salvaged;
        front.groups.extend(torn.groups.into_iter().map(|(number, group)| (number, group.into())));
        if !torn.complete && !found.is_all_of(ours, &front.groups) {
            found.report_torn(&txn, &mut tally, env.unix_nano())?;
        }
        changed = true;
    }
    let refused = found.refused_from(env, config, before);
    drop(front.groups.split_off(&refused.unwrap_or(u64::MAX)));
    front.torn.retain(|number| *number < refused.unwrap_or(u64::MAX));
    let (has_changed, is_behind) = match restored {
        Some(_) => (found.insert(&txn, &front, tally.accepted)?.next > found.next_group, false),
        None => found.take_in(&txn, &front, same_life, &mut tally, env.unix_nano())?,
    };
    changed |= has_changed;
    for (group, identity) in salvaged.into_iter().filter(|(group, _)| *group >= found.first_new()) {
        salvaged::remember(&txn, group, [identity])?;
    }
    if let Some(refused) = refused {
        found.take_out_refused(&txn, refused)?;
        changed = true;
    }
    if found.satellite.is_none() && config.satellite.is_some() {
        set_satellite(&txn, config)?;
        changed = true;
    }
    if found.is_copy {
        txn.open_table(META)?.remove(META_COPY)?;
        changed = true;
    }
    if is_behind && age == Age::Current {
        restored::begin_anew(&txn, env, &found, same_life, &found.next)?;
    }
    if changed {
        txn.commit()?;
    } else {
        txn.abort()?;
    }
    if let Some(mirror) = restored {
        restored::put_right(db, env, config, &found, mirror)?;
    } else if age == Age::OneSealBehind {
        pass_undone(db, env, config, &found, mirror.as_ref())?;
    }
    if front.incomplete {
        front::replace(env, config);
    }
    forget_refused(env, config)
}

/// Begins a new epoch behind a seal that the disk has undone. What was taken into the journal is there, so that it counts.
fn pass_undone(
    db: &redb::Database,
    env: &Env,
    config: &WalConfig,
    found: &Found,
    mirror: Option<&Mirror>,
) -> Result<(), StoreError> {
    tracing::error!(
        event.name = "perigee.wal.taken_back",
        "the disk lost a commit that it had reported as safe; a new epoch begins"
    );
    let mut next = found.next.clone();
    let state = State::load(&db.begin_read()?, None, config)?;
    let mut tally = state.tally.clone();
    let txn = db.begin_write()?;
    if let Some(mirror) = mirror {
        give_up_undone(&txn, mirror, &state, &mut tally, &mut next, env.unix_nano())?;
        tally.store(&txn)?;
    }
    restored::begin_anew(&txn, env, found, mirror, &next)?;
    Ok(txn.commit()?)
}

/// A segment that was sealed and is gone may have been delivered, so what it was made of is not sealed again: it is dropped under the
/// segment's name, which a ground that has it overrides.
fn give_up_undone(
    txn: &WriteTransaction,
    mirror: &Mirror,
    state: &State,
    tally: &mut Tally,
    next: &mut BTreeMap<u8, u64>,
    now: u64,
) -> Result<(), StoreError> {
    let undone = mirror.undone(next);
    if !undone.is_empty() {
        tally.next_drop = tally.next_drop.max(mirror.tally().next_drop) + NUMBERS_SKIPPED;
    }
    for (lane, sequence, position) in undone {
        let waiting = state.lanes.get(&Lane(lane)).map(|l| l.pending.iter());
        let gone = waiting.into_iter().flatten().filter(|group| group.number < position);
        let items: Counts = gone.map(|group| group.items).sum();
        let drop = link::Drop {
            sequences: Some(link::Range { start: sequence - 1, end: sequence }),
            ..drops::of_unsealed(DropReason::Corruption, Lane(lane), items, TimeRange::EMPTY, now)
        };
        drops::append(txn, tally, state.life.epoch, drop, &[])?;
        tally.drop(DropReason::Corruption, items);
        txn.open_table(LANES)?.insert(lane, LaneNumbers { next_sequence: sequence, position })?;
        next.insert(lane, sequence);
        // A lane takes no group below its position.
        let given = number(&txn.open_table(META)?, META_NEXT_GROUP)?.unwrap_or(0);
        set_numbers(txn, &[(META_NEXT_GROUP, given.max(position))])?;
    }
    Ok(())
}

/// What was put into the journal.
struct Inserted {
    /// The number that came first, and the one that comes next.
    first: u64,
    next: u64,
    /// Items ever accepted, up to there.
    accepted: Counts,
    /// Items of groups that are missing in between.
    lost: Counts,
}

/// What tells a log from another one.
pub(super) struct Found {
    pub(super) life: Life,
    satellite: Option<String>,
    /// The next sequence of each lane.
    pub(super) next: BTreeMap<u8, u64>,
    /// Earlier epochs that it names.
    earlier: BTreeSet<u64>,
    /// The latest group, 0: none; and the number from which on none was given, as far as that was noted.
    last_group: u64,
    next_group: u64,
    /// Small commits went into a front.
    has_front: bool,
    /// It is a backup that was put in the log's place.
    pub(super) is_copy: bool,
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
        let has_front = number(META_FORMAT)? >= FRONT_FORMAT;
        let is_copy = meta.get(META_COPY)?.is_some();
        Ok(Self { life, satellite, next, earlier, last_group, next_group, has_front, is_copy })
    }

    /// Whether this, with these groups of the front, is all that `ours` had been told was safe: then the commit that is not whole was
    /// refused.
    fn is_all_of(&self, ours: Option<&State>, front: &front::Groups) -> bool {
        let last = front.keys().next_back().map_or(0, |last| last + 1);
        ours.is_some_and(|state| {
            state.next_group <= self.first_new().max(last)
                && state
                    .lanes
                    .iter()
                    .all(|(lane, of)| self.next.get(&lane.0).copied().unwrap_or(1) >= of.next_sequence)
        })
    }

    /// Reports a latest commit that cannot be read whole. What it had may have been called safe: nobody can tell a power cut, which
    /// loses nothing, from damage.
    fn report_torn(&self, txn: &WriteTransaction, tally: &mut Tally, now: u64) -> Result<(), StoreError> {
        tracing::error!(
            event.name = "perigee.wal.torn",
            "the latest commit is not whole and the one before took its place; after a power cut in mid-commit nothing is lost by \
             that, after damage to the medium something may be: it is reported as unknown"
        );
        self.record_gone(txn, (Counts::ZERO, true), tally, now)
    }

    /// Records what is gone of groups, of lanes that nobody knows; `unknown`: there may be more.
    fn record_gone(
        &self,
        txn: &WriteTransaction,
        (items, unknown): (Counts, bool),
        tally: &mut Tally,
        now: u64,
    ) -> Result<(), StoreError> {
        let drop = drops::of_unsealed(DropReason::Corruption, Lane::BULK, items, TimeRange::EMPTY, now);
        let drop = link::Drop { counts_unknown: unknown, ..drop };
        drops::append(txn, tally, self.life.epoch, drop, &[])?;
        tally.drop(DropReason::Corruption, items);
        tally.store(txn)
    }

    /// Puts groups into the journal that are in the front alone, or in a commit that is not whole. `accepted`: what the counters say.
    fn insert(
        &self,
        txn: &WriteTransaction,
        front: &front::Found,
        mut accepted: Counts,
    ) -> Result<Inserted, StoreError> {
        let mut next = self.first_new();
        // Numbers behind the last group may have been passed over.
        let last = GroupPiece { group: self.last_group, piece: 0 };
        if let Some(piece) = txn.open_table(JOURNAL)?.get(last)? {
            accepted = accepted.max(header(piece.value())?.accepted);
        }
        let first = next;
        let mut lost = Counts::ZERO;
        for (number, bytes) in front.groups.range(first..) {
            let header = header(bytes)?;
            if *number > next {
                lost += header.accepted.saturating_sub(header.items).saturating_sub(accepted);
            }
            salvage::insert_group(txn, *number, bytes)?;
            (next, accepted) = (number + 1, header.accepted);
        }
        if next > first {
            set_numbers(txn, &[(META_NEXT_GROUP, next)])?;
            raise_format(txn, GROUPS_FORMAT)?;
        }
        Ok(Inserted { first, next, accepted, lost })
    }

    /// Takes in what the front has, and reports what is missing: between its groups, and of what the mirror says was accepted.
    /// Whether anything changed, and whether the log was found to be an earlier state of itself.
    fn take_in(
        &self,
        txn: &WriteTransaction,
        front: &front::Found,
        mirror: Option<&Mirror>,
        tally: &mut Tally,
        now: u64,
    ) -> Result<(bool, bool), StoreError> {
        let Inserted { first, mut next, accepted, lost } = self.insert(txn, front, tally.accepted)?;
        let said = mirror.map_or(Counts::ZERO, |m| m.tally().accepted);
        let behind = said.saturating_sub(accepted);
        // Nothing was accepted after that, so that the front has nothing that is not known.
        let exact = mirror.is_some_and(Mirror::is_last_word) && accepted.saturating_sub(said).total() == 0;
        let torn = front.torn.iter().copied().filter(|number| *number >= next).max();
        let unknown = !exact && (torn.is_some() || front.incomplete || behind.total() > 0 || self.is_copy);
        let lost = lost + behind;
        if lost.total() > 0 || unknown {
            if behind.total() > 0 || self.is_copy {
                tracing::error!(
                    event.name = "perigee.wal.behind",
                    lost_items = lost.total(),
                    is_backup = self.is_copy,
                    "the log is a backup that was put back, or has less than counters.json beside it says was accepted: what was accepted \
                     since is reported as lost"
                );
            } else {
                tracing::error!(
                    event.name = "perigee.wal.front_damaged",
                    lost_items = lost.total(),
                    "the front of the journal is not whole: what it has lost is reported; after a power cut in mid-commit nothing is \
                     lost, after damage to the medium something may be"
                );
            }
            tally.accepted = accepted.max(said);
            self.record_gone(txn, (lost, unknown), tally, now)?;
        }
        // Its number is not given again, or it would be reported at each start.
        if let Some(number) = torn {
            next = next.max(number + 1);
            set_numbers(txn, &[(META_NEXT_GROUP, next)])?;
            raise_format(txn, GROUPS_FORMAT)?;
        }
        // What is gone may be in a file that somebody has moved away.
        let is_behind = lost.total() > 0 || self.is_copy && unknown;
        Ok((next > first || is_behind || unknown || front.incomplete, is_behind))
    }

    /// The number of the first group that the tables do not have.
    fn first_new(&self) -> u64 {
        self.next_group.max(self.last_group + 1)
    }

    /// The first group that was refused when the store failed, if any was.
    fn refused_from(&self, env: &Env, config: &WalConfig, before: Option<&State>) -> Option<u64> {
        let from = match before {
            Some(state) => (state.life.epoch == self.life.epoch).then_some(state.next_group),
            None => read_refused(env, config).filter(|r| r.epoch == self.life.epoch).map(|r| r.from),
        };
        // An older note may be back, after a power cut or from a backup: what it is about was taken out long ago.
        let is_done = |from: u64| self.next_group >= from.saturating_add(NUMBERS_SKIPPED);
        from.filter(|from| *from != u64::MAX && !is_done(*from))
    }

    /// Takes groups out that were refused.
    fn take_out_refused(&self, txn: &WriteTransaction, from: u64) -> Result<(), StoreError> {
        salvaged::forget(txn, from)?;
        let mut refused = 0u64;
        txn.open_table(JOURNAL)?.retain_in(groups(from, u64::MAX), |_, _| {
            refused += 1;
            false
        })?;
        if refused > 0 {
            tracing::warn!(pieces = refused, "refused requests were found on the disk and removed");
        }
        // Their numbers are not given again: what is left of them in the file is not to be taken for what comes.
        let next = self.last_group.max(from) + NUMBERS_SKIPPED;
        let given = number(&txn.open_table(META)?, META_NEXT_GROUP)?.unwrap_or(0);
        set_numbers(txn, &[(META_NEXT_GROUP, next.max(given))])
    }
}

/// An epoch as it is closed.
pub(super) fn epoch(life: Life, next: &BTreeMap<u8, u64>) -> link::Epoch {
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
    store::mirror::read(env, &refused_path(config))
}

/// Notes beside the log that what is appended from here on was refused, for a process that is killed before the log is open again. The
/// disk that has just failed may fail again: what it does not make durable still holds until a power cut.
pub(super) fn note_refused(env: &Env, config: &WalConfig, epoch: u64, from: u64) {
    let (path, note) = (refused_path(config), Refused { epoch, from });
    if let Err(error) = store::mirror::write_at_least_for_now(env, &path, &note) {
        tracing::debug!(%error, "the note of refused requests could not be written");
    }
}

/// The note holds no more. It is replaced and not deleted: a deletion may come undone in a power cut, and what is appended from
/// now on would be taken out.
fn forget_refused(env: &Env, config: &WalConfig) -> Result<(), StoreError> {
    let path = refused_path(config);
    // One that a power cut has left half written goes, too.
    if !env.store.exists(&path) || read_refused(env, config).is_some_and(|r| r.from == u64::MAX) {
        return Ok(());
    }
    store::mirror::write(env, &path, &Refused { epoch: 0, from: u64::MAX })
        .map_err(|e| StoreError::Io(e.to_string()))
}
