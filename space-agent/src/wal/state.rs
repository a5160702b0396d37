//! What the write-ahead log keeps in memory of its tables: numbers, ranges and sums, never payloads. It is read when the log is
//! opened and changed by [`Edit`]s alone, which a transaction hands back and which are applied when it is committed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use perigee_shared::env::{Env, SinceBoot, StoreFile};
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Header, Lane};
use perigee_shared::signal::Counts;
use perigee_shared::store::{Before, Contents, StoreError};
use redb::{ReadTransaction, ReadableTable};

use super::boots::{Boot, Boots};
use super::front::Groups;
use super::group::{GroupHeader, Listed};
use super::tables::*;
use super::tally::Tally;
use super::{SegmentRecord, WalConfig, acknowledged, begin, epochs, group, had, mirror, salvaged};
use crate::lanes::Rules;

/// A life of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Life {
    /// A random id.
    pub epoch: u64,
    /// Larger is later.
    pub start_counter: u64,
    /// When it began, ns since the Unix epoch by the satellite's clock.
    pub started_unix_nano: u64,
}

/// A commit group that a lane still waits for.
#[derive(Debug, Clone, Copy)]
pub(super) struct GroupMeta {
    pub(super) number: u64,
    pub(super) stored: u64,
}

/// When a group was formed, by both clocks.
pub(super) type Received = (u64, Option<SinceBoot>);

/// What a commit group has for one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupShare {
    pub(super) lane: Lane,
    pub(super) items: Counts,
    pub(super) raw: u64,
}

/// A commit group that has something for a lane that is not in a segment yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pending {
    pub(super) number: u64,
    /// What [`State::journaled`] was before it.
    before: u64,
    pub(super) received: u64,
    /// `None` where a group of version 1 does not say.
    pub(super) since_boot: Option<SinceBoot>,
    pub(super) items: Counts,
    pub(super) raw: u64,
}

/// A lane's numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct LaneState {
    /// The sequence that the next segment gets.
    pub(super) next_sequence: u64,
    /// What groups below it have for this lane is in a segment.
    pub(super) position: u64,
    /// The groups from there on that have something for it, oldest first, and what they have together.
    pub(super) pending: VecDeque<Pending>,
    pub(super) unsealed_raw: u64,
    pub(super) unsealed_items: Counts,
    pub(super) on_board: RangeSet,
    /// Payload bytes of its segments, and the items in them.
    pub(super) segment_stored: u64,
    pub(super) segment_items: Counts,
}

impl LaneState {
    fn push(&mut self, pending: Pending) {
        self.unsealed_raw += pending.raw;
        self.unsealed_items += pending.items;
        self.pending.push_back(pending);
    }

    /// The group `number`, if it waits for it.
    pub(super) fn pending_at(&self, number: u64) -> Option<&Pending> {
        self.pending.binary_search_by_key(&number, |g| g.number).ok().map(|at| &self.pending[at])
    }

    /// Takes out the group `number`.
    fn forget(&mut self, number: u64) {
        if let Ok(at) = self.pending.binary_search_by_key(&number, |g| g.number)
            && let Some(group) = self.pending.remove(at)
        {
            self.unsealed_raw -= group.raw;
            self.unsealed_items = self.unsealed_items.saturating_sub(group.items);
        }
    }

    /// Takes out the groups below `position`: they are in a segment.
    fn pass(&mut self, position: u64) {
        while let Some(group) = self.pending.pop_front_if(|g| g.number < position) {
            self.unsealed_raw -= group.raw;
            self.unsealed_items = self.unsealed_items.saturating_sub(group.items);
        }
        self.position = position;
    }

    /// The first group at or above `position` that it waits for.
    fn first_pending(&self, position: u64) -> Option<u64> {
        self.pending.iter().map(|g| g.number).find(|n| *n >= position)
    }
}

/// A change to the state, made by a transaction.
#[derive(Debug)]
pub(super) enum Edit {
    /// Counts and numbers of drops.
    Tally(Tally),
    /// A group was appended.
    Group { group: GroupMeta, received: Received, shares: Vec<GroupShare> },
    /// The groups that were appended last are in the front alone.
    Fronted(Groups),
    /// The tables have what was in the front, from this group on; those below are no longer waited for.
    FrontSettled(u64),
    /// Software before this format cannot open the file any more.
    Raised(u64),
    /// A group was deleted though a lane waited for it.
    GroupLost(u64),
    /// The groups below were deleted.
    Purged(u64),
    /// A segment took the place of what groups below `position` have for its lane.
    Sealed { position: u64, header: Header },
    /// Items of a segment on board that every consumer of their signal has had.
    Delivered(Place, Counts),
    /// Items that were dropped before consumers had them, in all.
    Missed(Vec<(String, Counts)>),
    /// A file of this life is salvaged.
    Named(u64),
    /// A segment was deleted.
    Removed(Header),
    /// A segment was encoded again.
    Replaced { lane: Lane, before: u64, after: u64 },
    /// A committed segment is kept for others that depend on it.
    BaseKept(Header),
    /// Such a segment was deleted.
    BaseForgotten(Place),
    /// The consumers and their ids.
    Consumers(BTreeMap<String, u8>),
    /// Rules, each by the group from which it holds; rules that ended before `current` are removed.
    Rules { from: u64, current: u64, rules: Arc<Rules> },
    /// A new life.
    Life(Life),
    /// A row of `boots`, by its number.
    Boot((u64, Boot)),
    /// A ledger has acknowledged segments of this epoch.
    Acknowledged { ledger: u64, station: String, segments: Vec<(Lane, u64)> },
    /// The time is not before this.
    ClockFloor(u64),
    /// The codecs that the ground reads, by their numbers.
    GroundReads(Vec<u8>),
}

/// The whole of it.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) format: u64,
    pub(super) life: Life,
    pub(super) lanes: BTreeMap<Lane, LaneState>,
    pub(super) next_group: u64,
    /// Nothing was committed since the log was opened.
    pub(super) is_fresh: bool,
    pub(super) tally: Tally,
    /// The rules of the lanes, by the number of the first group for which they hold.
    pub(super) rules: BTreeMap<u64, Arc<Rules>>,
    /// Groups from the first on that a lane waits for, oldest first.
    pub(super) unsealed: VecDeque<GroupMeta>,
    /// Groups before them, which are still in the table: the first number and how many bytes.
    pub(super) sealed_from: u64,
    pub(super) sealed_stored: u64,
    /// Groups that are in the front and not in the table yet.
    pub(super) front: Groups,
    pub(super) unsealed_stored: u64,
    /// Bytes of all groups since the log was opened, deleted ones included.
    pub(super) journaled: u64,
    pub(super) segment_stored: u64,
    pub(super) segments: u64,
    /// Items in segments on board.
    pub(super) in_segments: Counts,
    /// Of these, items that every consumer of their signal has had: by segment, and together.
    pub(super) delivered: BTreeMap<Place, Counts>,
    pub(super) delivered_on_board: Counts,
    /// Items that were dropped before a consumer had them, by its name.
    pub(super) missed: BTreeMap<String, Counts>,
    pub(super) consumers: BTreeMap<String, u8>,
    /// Committed segments that others depend on, and bytes of their payloads.
    pub(super) bases: BTreeMap<Place, Header>,
    pub(super) base_stored: u64,
    /// What ledgers have acknowledged of this epoch lately.
    pub(super) acknowledged: acknowledged::Ledgers,
    /// Stations had ledgers of their own when the log was opened: several have acknowledged segments of this epoch.
    pub(super) own_ledgers: bool,
    pub(super) boots: Boots,
    pub(super) clock_floor: u64,
    /// The codecs that the ground has last said it reads, if one ever has.
    pub(super) ground_reads: Option<Vec<u8>>,
    /// Earlier epochs whose sequences go on in this one, the latest first.
    pub(super) continues: Vec<u64>,
    /// Epochs of other lives that a log which takes the place of this one must know: earlier ones, those that were lost, and those of
    /// files that were salvaged.
    pub(super) lives: Vec<u64>,
}

impl Contents for State {
    type Settings = WalConfig;
    type Change = Vec<Edit>;
    type Torn = begin::Torn;

    const NAME: &'static str = "write-ahead log";
    const FILE: &'static str = "wal.redb";
    const FORMAT: u64 = FRONT_FORMAT;
    /// The log is written once and read once, so a larger one would not help.
    const PAGE_CACHE: usize = 2 << 20;

    fn format(read: &ReadTransaction) -> Result<Option<u64>, StoreError> {
        let Some(meta) = if_made(read, META)? else { return Ok(None) };
        number(&meta, META_FORMAT)
    }

    fn create(
        db: &redb::Database,
        env: &Env,
        config: &WalConfig,
        before: Before<'_>,
    ) -> Result<(), StoreError> {
        begin::create(db, env, config, before)
    }

    fn torn(file: &dyn StoreFile) -> begin::Torn {
        begin::torn(file)
    }

    fn settle(
        db: &redb::Database,
        env: &Env,
        config: &WalConfig,
        before: Option<&Self>,
        torn: Option<begin::Torn>,
    ) -> Result<(), StoreError> {
        begin::settle(db, env, config, before, torn)
    }

    fn load(
        read: &ReadTransaction,
        file: Option<&dyn StoreFile>,
        config: &WalConfig,
    ) -> Result<Self, StoreError> {
        let mut state = Self::default();
        state.read_numbers(read)?;
        state.boots = Boots::load(read)?;
        state.read_lanes(read)?;
        state.read_segments(read, config)?;
        state.read_rules(read)?;
        state.read_journal(read, file)?;
        state.read_bases(read)?;
        state.acknowledged = acknowledged::load(read, state.life.epoch)?;
        // A station that has got a new ledger is one station.
        let mut stations = state.acknowledged.values().map(|of| &of.station);
        let first = stations.next();
        state.own_ledgers = stations.any(|station| Some(station) != first);
        let closed = epochs::closed_epochs(read)?;
        state.continues = epochs::continued(&closed);
        state.lives = closed.iter().map(|epoch| epoch.epoch).chain(salvaged::named(read)?).collect();
        state.is_fresh = true;
        Ok(state)
    }

    fn outlive(&self, env: &Env, config: &WalConfig, _: &ReadTransaction) {
        mirror::write_last(env, config, self);
    }

    fn remember(&self, env: &Env, config: &WalConfig) {
        mirror::write_last(env, config, self);
    }

    fn apply(&mut self, edits: Vec<Edit>) {
        for edit in edits {
            self.edit(edit);
        }
    }
}

impl State {
    pub(super) fn lane(&mut self, lane: Lane) -> &mut LaneState {
        self.lanes.entry(lane).or_insert_with(|| LaneState { next_sequence: 1, ..LaneState::default() })
    }

    /// Items in the journal that are not in a segment yet.
    pub(super) fn in_journal(&self) -> Counts {
        self.lanes.values().map(|l| l.unsealed_items).sum()
    }

    /// The bytes of the group `number`.
    pub(super) fn group(
        &self,
        journal: &impl ReadableTable<GroupPiece, &'static [u8]>,
        number: u64,
    ) -> Result<Vec<u8>, StoreError> {
        match self.front.get(&number) {
            Some(group) => Ok(group.to_vec()),
            None => group::read(journal, number),
        }
    }

    /// The rules that hold for the group `number`; `None`: everything is bulk.
    pub(super) fn rules_of(&self, number: u64) -> Option<&Arc<Rules>> {
        self.rules.range(..=number).next_back().map(|(_, rules)| rules).filter(|rules| !rules.is_empty())
    }

    /// The first group that a lane waits for, once `lane` has passed everything below `position`.
    pub(super) fn waited_for(&self, lane: Lane, position: u64) -> u64 {
        let first =
            |(l, state): (&Lane, &LaneState)| state.first_pending(if *l == lane { position } else { 0 });
        self.lanes.iter().filter_map(first).min().unwrap_or(self.next_group)
    }

    /// Journal bytes that `lane` holds back: from the first group that it waits for to the end.
    pub(super) fn held_back(&self, lane: &LaneState) -> u64 {
        lane.pending.front().map_or(0, |first| self.journaled - first.before)
    }

    /// Bytes in the store that count against its budget.
    pub(super) const fn stored(&self) -> u64 {
        self.sealed_stored + self.unsealed_stored + self.segment_stored + self.base_stored
    }

    fn edit(&mut self, edit: Edit) {
        match edit {
            Edit::Tally(tally) => self.tally = tally,
            Edit::Group { group, received, shares } => {
                (self.next_group, self.is_fresh) = (group.number + 1, false);
                self.push_group(group, received, &shares);
            }
            Edit::Fronted(groups) => self.front.extend(groups),
            Edit::FrontSettled(from) => drop(self.front.split_off(&from)),
            Edit::Raised(format) => self.format = self.format.max(format),
            Edit::GroupLost(number) => self.forget_group(number),
            Edit::Purged(below) => (self.sealed_stored, self.sealed_from) = (0, below),
            Edit::Sealed { position, header } => {
                let lane = header.id.lane;
                self.lane(lane).next_sequence = header.id.sequence + 1;
                self.lane(lane).pass(position);
                self.settle_groups();
                self.add(&header);
            }
            Edit::Delivered(place, items) => self.deliver(place, items),
            Edit::Missed(missed) => self.missed.extend(missed),
            Edit::Named(life) => self.lives.push(life),
            Edit::Removed(header) => self.remove(&header),
            Edit::Replaced { lane, before, after } => {
                self.segment_stored = (self.segment_stored + after).saturating_sub(before);
                let lane = self.lane(lane);
                lane.segment_stored = (lane.segment_stored + after).saturating_sub(before);
            }
            Edit::BaseKept(header) => self.keep_base(header),
            Edit::BaseForgotten(place) => {
                self.base_stored -= self.bases.remove(&place).map_or(0, |h| h.payload_len);
            }
            Edit::Consumers(consumers) => self.consumers = consumers,
            Edit::Rules { from, current, rules } => {
                self.rules = self.rules.split_off(&current);
                for lane in rules.lanes() {
                    self.lane(lane);
                }
                self.rules.insert(from, rules);
            }
            Edit::Life(life) => {
                // One that begins while the log is open goes on with nothing that a mirror needs.
                if life.epoch != self.life.epoch {
                    self.continues.clear();
                    self.acknowledged.clear();
                    self.lives.push(self.life.epoch);
                }
                self.life = life;
            }
            Edit::Boot(row) => self.boots.note(row),
            Edit::Acknowledged { ledger, station, segments } => {
                let of = self.acknowledged.entry(ledger).or_default();
                of.station = station;
                of.add(segments);
            }
            Edit::ClockFloor(floor) => self.clock_floor = floor,
            Edit::GroundReads(codecs) => self.ground_reads = Some(codecs),
        }
    }

    fn add(&mut self, header: &Header) {
        self.segments += 1;
        self.segment_stored += header.payload_len;
        self.in_segments += header.items;
        let lane = self.lane(header.id.lane);
        lane.segment_stored += header.payload_len;
        lane.segment_items += header.items;
        lane.on_board.insert(header.id.sequence..header.id.sequence + 1);
    }

    /// So many items of a segment on board have been delivered.
    fn deliver(&mut self, place: Place, items: Counts) {
        let before = self.delivered.insert(place, items).unwrap_or_default();
        self.delivered_on_board = self.delivered_on_board.saturating_sub(before) + items;
        if items.total() == 0 {
            self.delivered.remove(&place);
        }
    }

    fn remove(&mut self, header: &Header) {
        self.deliver(Place::of(header.id), Counts::ZERO);
        self.segments -= 1;
        self.segment_stored -= header.payload_len;
        self.in_segments = self.in_segments.saturating_sub(header.items);
        let lane = self.lane(header.id.lane);
        lane.segment_stored = lane.segment_stored.saturating_sub(header.payload_len);
        lane.segment_items = lane.segment_items.saturating_sub(header.items);
        lane.on_board.remove(header.id.sequence..header.id.sequence + 1);
    }

    fn keep_base(&mut self, header: Header) {
        self.base_stored += header.payload_len;
        let before = self.bases.insert(Place::of(header.id), header);
        self.base_stored -= before.map_or(0, |h| h.payload_len);
    }

    fn read_bases(&mut self, txn: &ReadTransaction) -> Result<(), StoreError> {
        let Some(table) = if_made(txn, BASES)? else { return Ok(()) };
        for entry in table.iter()? {
            self.keep_base(SegmentRecord::header_from(entry?.1.value())?);
        }
        Ok(())
    }

    fn read_numbers(&mut self, txn: &ReadTransaction) -> Result<(), StoreError> {
        let meta = txn.open_table(META)?;
        let number = |name: &'static str| {
            number(&meta, name)?.ok_or_else(|| StoreError::Damaged(format!("{name} is missing in meta")))
        };
        // A log that is being made has none yet.
        self.format = super::tables::number(&meta, META_FORMAT)?.unwrap_or(0);
        self.life = Life {
            epoch: number(META_EPOCH)?,
            start_counter: number(META_START_COUNTER)?,
            started_unix_nano: number(META_STARTED)?,
        };
        self.next_group = number(META_NEXT_GROUP)?;
        self.clock_floor = super::tables::number(&meta, META_CLOCK_FLOOR)?.unwrap_or(0);
        self.ground_reads = meta.get(META_GROUND_READS)?.map(|codecs| codecs.value().to_vec());
        self.tally = Tally::load(txn)?;
        for entry in txn.open_table(CONSUMERS)?.iter()? {
            let (name, id) = entry?;
            self.consumers.insert(name.value().to_owned(), id.value());
        }
        Ok(())
    }

    fn read_lanes(&mut self, txn: &ReadTransaction) -> Result<(), StoreError> {
        for entry in txn.open_table(LANES)?.iter()? {
            let (lane, numbers) = entry?;
            let LaneNumbers { next_sequence, position } = numbers.value();
            *self.lane(Lane(lane.value())) = LaneState { next_sequence, position, ..LaneState::default() };
        }
        Ok(())
    }

    fn read_segments(&mut self, txn: &ReadTransaction, config: &WalConfig) -> Result<(), StoreError> {
        let (takers, progress) = (had::takers(&self.consumers, config), had::read(txn)?);
        for entry in txn.open_table(SEGMENTS)?.iter()? {
            let record = SegmentRecord::from_bytes(entry?.1.value())?;
            let header = &record.header;
            if header.id.sequence >= self.lane(header.id.lane).next_sequence {
                return Err(StoreError::Damaged("a segment is above its lane's high-water mark".to_owned()));
            }
            self.add(header);
            self.deliver(Place::of(header.id), progress.delivered(&record, &takers)?);
        }
        if let Some(table) = if_made(txn, MISSED)? {
            for entry in table.iter()? {
                let (name, items) = entry?;
                let items = Counts::from_bytes(items.value()).unwrap_or_default();
                self.missed.insert(name.value().to_owned(), items);
            }
        }
        Ok(())
    }

    fn read_rules(&mut self, txn: &ReadTransaction) -> Result<(), StoreError> {
        let Some(table) = if_made(txn, LANE_RULES)? else { return Ok(()) };
        for entry in table.iter()? {
            let (from, rules) = entry?;
            let rules = Rules::from_bytes(rules.value());
            let rules = rules.ok_or_else(|| StoreError::Damaged("the rules of the lanes".to_owned()))?;
            // A lane that has sealed nothing yet has no numbers in the tables: it waits for everything.
            for lane in rules.lanes() {
                self.lane(lane);
            }
            self.rules.insert(from.value(), Arc::new(rules));
        }
        Ok(())
    }

    fn read_journal(
        &mut self,
        txn: &ReadTransaction,
        file: Option<&dyn StoreFile>,
    ) -> Result<(), StoreError> {
        let journal = txn.open_table(JOURNAL)?;
        let listed = file.and_then(|file| Listed::of_file(file, &journal));
        let Listed(groups) = listed.map_or_else(|| Listed::of_table(&journal), Ok)?;
        if let Some((group, header)) = groups.last() {
            // Commits do not touch the counter tables: the last group knows better.
            self.next_group = self.next_group.max(group.number + 1);
            self.tally.accepted = self.tally.accepted.max(header.accepted);
        }
        let first = groups.first().map_or(self.next_group, |(group, _)| group.number);
        self.sealed_from = first;
        let waited_for = self.lanes.values().map(|l| l.position).min().unwrap_or(0);
        for (group, header) in groups {
            let shares = match self.rules_of(group.number) {
                None => all_bulk(&header),
                Some(_) if group.number < waited_for => Vec::new(),
                Some(rules) => {
                    group::shares(rules, group.number, &group::read(&journal, group.number)?, &header)
                }
            };
            if let Some(at) = header.since_boot {
                self.boots.lasted(at);
            }
            self.push_group(group, (header.received, header.since_boot), &shares);
        }
        self.settle_groups();
        Ok(())
    }

    /// Takes in the group that follows the last; what lanes have passed already is left out.
    fn push_group(&mut self, group: GroupMeta, (received, since_boot): Received, shares: &[GroupShare]) {
        let GroupMeta { number, stored } = group;
        for share in shares {
            let (before, items, raw) = (self.journaled, share.items, share.raw);
            let lane = self.lane(share.lane);
            if number >= lane.position {
                lane.push(Pending { number, before, received, since_boot, items, raw });
            }
        }
        self.journaled += stored;
        self.unsealed_stored += stored;
        self.unsealed.push_back(group);
    }

    /// The group `number` is in the table no more.
    fn forget_group(&mut self, number: u64) {
        for lane in self.lanes.values_mut() {
            lane.forget(number);
        }
        if let Ok(at) = self.unsealed.binary_search_by_key(&number, |g| g.number)
            && let Some(group) = self.unsealed.remove(at)
        {
            self.unsealed_stored -= group.stored;
        }
        self.settle_groups();
    }

    /// Moves the groups that no lane waits for any more to the sealed ones.
    fn settle_groups(&mut self) {
        let waited_for = self.waited_for(Lane::BULK, 0);
        while let Some(group) = self.unsealed.pop_front_if(|g| g.number < waited_for) {
            self.unsealed_stored -= group.stored;
            // One that never left the front has nothing to delete.
            if self.front.remove(&group.number).is_none() {
                self.sealed_stored += group.stored;
            }
        }
    }
}

/// A group for which no rules hold.
pub(super) fn all_bulk(header: &GroupHeader) -> Vec<GroupShare> {
    vec![GroupShare { lane: Lane::BULK, items: header.items, raw: header.raw_len }]
}
