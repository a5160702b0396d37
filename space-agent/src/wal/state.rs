//! What the write-ahead log keeps in memory: numbers, ranges and sums, never payloads. Everything here can be read again from
//! the tables, which is what happens after a failed write.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use perigee_proto::link::DropReason;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Header, Lane};
use perigee_shared::signal::Counts;
use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata};

use super::bases::Heard;
use super::group::GroupHeader;
use super::tables::{
    BASES, CHUNKS, CONSUMERS, COUNTERS, CURSORS, DROPS, EPOCHS, FIRST_FORMAT, FORMAT, JOURNAL, LANE_RULES,
    LANES, META, SEGMENTS, SHIPPED,
};
use super::{SegmentRecord, WalError, group};
use crate::lanes::Rules;

/// Names in `counters`.
pub(super) const ACCEPTED: &str = "accepted";
pub(super) const DELIVERED: &str = "delivered";

/// Names in `meta`; values are u64 LE.
pub(super) const META_FORMAT: &str = "format";
pub(super) const META_EPOCH: &str = "epoch";
pub(super) const META_START_COUNTER: &str = "start_counter";
pub(super) const META_STARTED: &str = "started_unix_nano";
pub(super) const META_NEXT_GROUP: &str = "next_group";
pub(super) const META_NEXT_DROP: &str = "next_drop";
/// Drops below it may have been reported: they no longer change.
pub(super) const META_REPORTED: &str = "drops_reported";

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
    pub(super) items: Counts,
    pub(super) raw: u64,
}

/// Where sequences are not in the order in which they were sealed by the clock, since it was set back.
#[derive(Debug, Clone, Default)]
pub(super) struct SetBack {
    /// Sequences that were sealed at an earlier time than the one before.
    pub(super) at: Vec<u64>,
    /// Sequences from here on were not looked at, and when the last one before was sealed.
    pub(super) next: u64,
    pub(super) last_sealed_unix_nano: u64,
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
    /// Where the clock was set back, as far as it was looked for.
    pub(super) set_back: SetBack,
    /// Payload bytes of its segments.
    pub(super) segment_stored: u64,
    /// Sequences that may have been on a wire: the ground may have committed them without our knowing. Kept in memory only;
    /// after a start everything on board may have been.
    pub(super) sent: RangeSet,
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

/// The whole of it.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) life: Life,
    pub(super) lanes: BTreeMap<Lane, LaneState>,
    pub(super) next_group: u64,
    pub(super) next_drop: u64,
    pub(super) drops_reported: u64,
    /// The last drop was of segments that were never on a wire: another of them may join it.
    pub(super) last_drop_unsent: bool,
    /// The rules of the lanes, by the number of the first group for which they hold.
    pub(super) rules: BTreeMap<u64, Arc<Rules>>,
    /// Groups from the first on that a lane waits for, oldest first.
    pub(super) unsealed: VecDeque<GroupMeta>,
    /// Groups before them, which are still in the table: the first number and how many bytes.
    pub(super) sealed_from: u64,
    pub(super) sealed_stored: u64,
    pub(super) unsealed_stored: u64,
    /// Bytes of all groups since the log was opened, deleted ones included.
    pub(super) journaled: u64,
    pub(super) segment_stored: u64,
    pub(super) segments: u64,
    /// Items in segments on board.
    pub(super) in_segments: Counts,
    pub(super) accepted: Counts,
    pub(super) delivered: Counts,
    pub(super) dropped: BTreeMap<i32, Counts>,
    pub(super) consumers: BTreeMap<String, u8>,
    pub(super) drops: u64,
    /// Committed segments that others lean on, and bytes of their payloads.
    pub(super) bases: BTreeMap<(u8, u64), Header>,
    pub(super) base_stored: u64,
    /// The codecs that the ground has last said it reads.
    pub(super) ground_reads: Option<Vec<u32>>,
    /// Which stations have which bases.
    pub(super) heard: Heard,
    /// Segments whose sending has begun on the connection that there is: lane and sequence.
    pub(super) sending: BTreeSet<(u8, u64)>,
}

impl State {
    pub(super) fn lane(&mut self, lane: Lane) -> &mut LaneState {
        self.lanes.entry(lane).or_insert_with(|| LaneState { next_sequence: 1, ..LaneState::default() })
    }

    /// Items in the journal that are not in a segment yet.
    pub(super) fn in_journal(&self) -> Counts {
        self.lanes.values().map(|l| l.unsealed_items).sum()
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

    /// Notes a base.
    pub(super) fn keep_base(&mut self, header: Header) {
        self.base_stored += header.payload_len;
        let before = self.bases.insert((header.id.lane.0, header.id.sequence), header);
        self.base_stored -= before.map_or(0, |h| h.payload_len);
    }

    /// Forgets a base.
    pub(super) fn forget_base(&mut self, key: (u8, u64)) {
        self.base_stored -= self.bases.remove(&key).map_or(0, |h| h.payload_len);
    }

    pub(super) fn count_drop(&mut self, reason: DropReason, items: Counts) {
        *self.dropped.entry(reason as i32).or_default() += items;
    }

    /// Reads everything from `db`; makes the tables and a first life when it is new.
    pub(super) fn load(db: &redb::Database, life: impl FnOnce() -> Life) -> Result<Self, WalError> {
        let mut state = Self::default();
        match read_format(db)? {
            Some(found) if found > FORMAT => return Err(WalError::Format { found, known: FORMAT }),
            Some(_) => {}
            None => create(db, life())?,
        }
        let txn = db.begin_read()?;
        state.read_numbers(&txn)?;
        state.read_lanes(&txn)?;
        state.read_rules(&txn)?;
        state.read_journal(&txn)?;
        state.read_bases(&txn)?;
        Ok(state)
    }

    fn read_bases(&mut self, txn: &redb::ReadTransaction) -> Result<(), WalError> {
        let table = match txn.open_table(BASES) {
            Ok(table) => table,
            // It is made with the first base.
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        for entry in table.iter()? {
            self.keep_base(Header::from_bytes(entry?.1.value())?);
        }
        Ok(())
    }

    fn read_numbers(&mut self, txn: &redb::ReadTransaction) -> Result<(), WalError> {
        let meta = txn.open_table(META)?;
        let number = |name: &'static str| -> Result<u64, WalError> {
            let value = meta.get(name)?.ok_or(WalError::Damaged("a number is missing in meta"))?;
            Ok(u64::from_le_bytes(value.value().try_into().map_err(|_| WalError::Damaged("meta"))?))
        };
        self.life = Life {
            epoch: number(META_EPOCH)?,
            start_counter: number(META_START_COUNTER)?,
            started_unix_nano: number(META_STARTED)?,
        };
        self.next_group = number(META_NEXT_GROUP)?;
        self.next_drop = number(META_NEXT_DROP)?;
        self.drops_reported = number(META_REPORTED)?;
        for entry in txn.open_table(COUNTERS)?.iter()? {
            let (name, value) = entry?;
            let counts = Counts::from_bytes(value.value()).ok_or(WalError::Damaged("counters"))?;
            match name.value() {
                ACCEPTED => self.accepted = counts,
                DELIVERED => self.delivered = counts,
                dropped => {
                    let reason = dropped.strip_prefix("dropped:").and_then(|n| n.parse().ok());
                    self.dropped.insert(reason.ok_or(WalError::Damaged("counters"))?, counts);
                }
            }
        }
        for entry in txn.open_table(CONSUMERS)?.iter()? {
            let (name, id) = entry?;
            self.consumers.insert(name.value().to_owned(), id.value());
        }
        self.drops = txn.open_table(DROPS)?.len()?;
        Ok(())
    }

    fn read_lanes(&mut self, txn: &redb::ReadTransaction) -> Result<(), WalError> {
        for entry in txn.open_table(LANES)?.iter()? {
            let (lane, numbers) = entry?;
            let (next_sequence, position) = numbers.value();
            *self.lane(Lane(lane.value())) = LaneState { next_sequence, position, ..LaneState::default() };
        }
        for entry in txn.open_table(SEGMENTS)?.iter()? {
            let (key, value) = entry?;
            let (lane, sequence) = key.value();
            let record = SegmentRecord::from_bytes(value.value())?;
            self.segments += 1;
            self.segment_stored += record.header.payload_len;
            self.in_segments += record.header.items;
            let lane = self.lane(Lane(lane));
            if sequence >= lane.next_sequence {
                return Err(WalError::Damaged("a segment is above its lane's high-water mark"));
            }
            lane.segment_stored += record.header.payload_len;
            lane.on_board.insert(sequence..sequence + 1);
            lane.sent.insert(sequence..sequence + 1);
        }
        Ok(())
    }

    fn read_rules(&mut self, txn: &redb::ReadTransaction) -> Result<(), WalError> {
        let table = match txn.open_table(LANE_RULES) {
            Ok(table) => table,
            // It is made with the first rules.
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        for entry in table.iter()? {
            let (from, rules) = entry?;
            let rules = Rules::from_bytes(rules.value()).ok_or(WalError::Damaged("lane rules"))?;
            // A lane that has sealed nothing yet has no numbers in the tables: it waits for everything.
            for lane in rules.lanes() {
                self.lane(lane);
            }
            self.rules.insert(from.value(), Arc::new(rules));
        }
        Ok(())
    }

    fn read_journal(&mut self, txn: &redb::ReadTransaction) -> Result<(), WalError> {
        let journal = txn.open_table(JOURNAL)?;
        let mut groups: Vec<(GroupMeta, GroupHeader)> = Vec::new();
        for entry in journal.iter()? {
            let (key, value) = entry?;
            let (number, piece) = key.value();
            let stored = value.value().len() as u64;
            match groups.last_mut() {
                Some((group, _)) if piece > 0 && group.number == number => group.stored += stored,
                // A piece without its first: deletion goes by whole groups, so this is none of ours.
                _ if piece > 0 => return Err(WalError::Damaged("a group without its beginning")),
                _ => {
                    groups.push((GroupMeta { number, stored }, GroupHeader::read(value.value())?));
                }
            }
        }
        if let Some((group, header)) = groups.last() {
            // Commits do not touch the counter tables: the last group knows better.
            self.next_group = self.next_group.max(group.number + 1);
            self.accepted = self.accepted.max(header.accepted);
        }
        let first = groups.first().map_or(self.next_group, |(group, _)| group.number);
        self.sealed_from = first;
        let waited_for = self.lanes.values().map(|l| l.position).min().unwrap_or(0);
        for (group, header) in groups {
            let shares = match self.rules_of(group.number) {
                None => all_bulk(&header),
                Some(_) if group.number < waited_for => Vec::new(),
                Some(rules) => group::shares(rules, &group::read(&journal, group.number)?, &header),
            };
            self.push_group(group, header.received, &shares);
        }
        self.settle();
        Ok(())
    }

    /// Takes in the group that follows the last; what lanes have passed already is left out.
    pub(super) fn push_group(&mut self, group: GroupMeta, received: u64, shares: &[GroupShare]) {
        let GroupMeta { number, stored } = group;
        for share in shares {
            let (before, items, raw) = (self.journaled, share.items, share.raw);
            let lane = self.lane(share.lane);
            if number >= lane.position {
                lane.push(Pending { number, before, received, items, raw });
            }
        }
        self.journaled += stored;
        self.unsealed_stored += stored;
        self.unsealed.push_back(group);
    }

    /// `lane` has passed everything below `position`.
    pub(super) fn pass(&mut self, lane: Lane, position: u64) {
        self.lane(lane).pass(position);
        self.settle();
    }

    /// The group `number` is in the table no more.
    pub(super) fn forget_group(&mut self, number: u64) {
        for lane in self.lanes.values_mut() {
            lane.forget(number);
        }
        if let Ok(at) = self.unsealed.binary_search_by_key(&number, |g| g.number)
            && let Some(group) = self.unsealed.remove(at)
        {
            self.unsealed_stored -= group.stored;
        }
        self.settle();
    }

    /// Moves the groups that no lane waits for any more to the sealed ones.
    fn settle(&mut self) {
        let waited_for = self.waited_for(Lane::BULK, 0);
        while let Some(group) = self.unsealed.pop_front_if(|g| g.number < waited_for) {
            self.unsealed_stored -= group.stored;
            self.sealed_stored += group.stored;
        }
    }
}

/// A group for which no rules hold.
pub(super) fn all_bulk(header: &GroupHeader) -> Vec<GroupShare> {
    vec![GroupShare { lane: Lane::BULK, items: header.items, raw: header.raw_len }]
}

fn read_format(db: &redb::Database) -> Result<Option<u64>, WalError> {
    let txn = db.begin_read()?;
    let meta = match txn.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => {
            // Only an empty database is new; one with other tables is not ours.
            if txn.list_tables()?.next().is_some() {
                return Err(WalError::Damaged("the file is not a write-ahead log"));
            }
            return Ok(None);
        }
        Err(e) => return Err(e.into()),
    };
    let value = meta.get(META_FORMAT)?.ok_or(WalError::Damaged("no format number"))?;
    Ok(Some(u64::from_le_bytes(value.value().try_into().map_err(|_| WalError::Damaged("format number"))?)))
}

fn create(db: &redb::Database, life: Life) -> Result<(), WalError> {
    let txn = db.begin_write()?;
    {
        let mut meta = txn.open_table(META)?;
        for (name, value) in [
            // The format is raised with the first thing in it that earlier software would misread.
            (META_FORMAT, FIRST_FORMAT),
            (META_EPOCH, life.epoch),
            (META_START_COUNTER, life.start_counter),
            (META_STARTED, life.started_unix_nano),
            (META_NEXT_GROUP, 1),
            (META_NEXT_DROP, 1),
            (META_REPORTED, 1),
        ] {
            meta.insert(name, &value.to_le_bytes()[..])?;
        }
        txn.open_table(LANES)?.insert(Lane::BULK.0, (1, 1))?;
        txn.open_table(JOURNAL)?;
        txn.open_table(SEGMENTS)?;
        txn.open_table(CHUNKS)?;
        txn.open_table(CONSUMERS)?;
        txn.open_table(CURSORS)?;
        txn.open_table(COUNTERS)?;
        txn.open_table(DROPS)?;
        txn.open_table(EPOCHS)?;
        txn.open_table(SHIPPED)?;
    }
    txn.commit()?;
    Ok(())
}
