//! What can be taken out of a damaged log: every group and segment whose checksum holds and that is known to be undelivered.
//!
//! Lane positions, consumers and the list of segments say what was delivered. They are taken from pages whose checksums hold;
//! where one of them is damaged, what depends on it stays in the file that is put aside and is counted as lost. Groups are found
//! wherever they are in the file: a group's number is in its checksum, and numbers are never given twice.

use std::collections::{BTreeMap, BTreeSet};

use perigee_proto::link::{self, DropReason};
use perigee_shared::segment::{Header, Lane, hash};
use perigee_shared::signal::{Counts, TimeRange};
use perigee_shared::store::rescue::{Extent, Rescue, Spot};
use perigee_shared::store::{StoreError, pieces};
use redb::{TableHandle, Value, WriteTransaction};

use super::begin::NUMBERS_SKIPPED;
use super::front::Groups;
use super::gathered;
use super::group::{self, GroupHeader};
use super::mirror::Mirror;
use super::salvaged::Identity;
use super::state::Life;
use super::tables::*;
use super::tally::{Tally, told_from};
use super::{SegmentRecord, drops, salvaged};

/// Bytes of what may be groups that are held while a whole file is looked through. A lane holds back 8 MiB.
const MOST_SCANNED: usize = 32 << 20;

/// Groups after the first that a lane waits for.
const MOST_AHEAD: u64 = 1 << 24;

/// Runs of lost segments that are recorded one by one.
const MOST_RUNS: usize = 64;

/// Bases, and the sequence of the one that each needs.
type Bases = BTreeMap<Place, Option<u64>>;

/// The entries of a table, as stored.
pub(super) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// A damaged log.
pub(super) struct Salvage<'a> {
    pub(super) rescue: Rescue<'a>,
    pub(super) life: Life,
    pub(super) satellite: Option<String>,
    /// Earlier epochs that it names.
    pub(super) earlier: BTreeSet<u64>,
    /// Lane → next sequence and position.
    pub(super) lanes: BTreeMap<u8, LaneNumbers>,
    /// The counts at the last commit that touched them.
    pub(super) tally: Tally,
    /// They are those of the mirror: what was delivered since may be counted as lost.
    pub(super) counts_are_old: bool,
    /// The number that the next group was to get, as far as that was noted.
    pub(super) next_group: u64,
    /// The segments that were on board, as far as that can be read, and whether that is all of them.
    on_board: BTreeMap<Place, SegmentRecord>,
    all_on_board: bool,
    /// Records of drops are missing.
    pub(super) lost_drops: bool,
}

/// A payload, and where its pieces lie.
#[derive(Default)]
struct Payload {
    bytes: Vec<u8>,
    spots: Vec<Spot>,
}

/// What was taken over into a new log.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) items: Counts,
    pub(super) segments: u64,
    pub(super) groups: u64,
    /// Segments that were on board and could not be taken, and their items.
    lost: BTreeMap<Place, Counts>,
    /// Sequences, the end not in them, of lanes whose list of segments is damaged: any of them may have been on board.
    unlisted: BTreeMap<u8, (u64, u64)>,
    /// Groups that were in the journal and could not be taken.
    pub(super) lost_groups: u64,
    /// The highest number of a group, and the highest count of accepted items, that was seen.
    pub(super) last_group: u64,
    pub(super) accepted: Counts,
}

/// The numbers in `meta`.
struct Meta {
    life: Life,
    satellite: Option<String>,
    next_drop: u64,
    drops_reported: u64,
    told: Option<BTreeMap<i32, Counts>>,
    next_group: u64,
}

impl Meta {
    fn read(meta: &Rows) -> Option<Self> {
        let number =
            |name: &str| Some(u64::from_le_bytes(meta.get(name.as_bytes())?.as_slice().try_into().ok()?));
        Some(Self {
            life: Life {
                epoch: number(META_EPOCH)?,
                start_counter: number(META_START_COUNTER)?,
                started_unix_nano: number(META_STARTED)?,
            },
            satellite: meta.get(META_SATELLITE.as_bytes()).map(|v| String::from_utf8_lossy(v).into_owned()),
            next_drop: number(META_NEXT_DROP)?,
            drops_reported: number(META_REPORTED)?,
            told: meta.get(META_TOLD.as_bytes()).map(|bytes| told_from(bytes)),
            next_group: number(META_NEXT_GROUP)?,
        })
    }

    /// The mirror is as old as the last seal.
    fn of_mirror(mirror: &Mirror) -> Self {
        let next_drop = mirror.tally().next_drop + NUMBERS_SKIPPED;
        Self {
            life: mirror.life(),
            satellite: mirror.satellite.clone(),
            next_drop,
            drops_reported: next_drop,
            told: mirror.tally().told,
            next_group: 0,
        }
    }
}

impl<'a> Salvage<'a> {
    /// What the file says of itself; `None` when it does not say what was delivered. Its own numbers and counts may come from the
    /// mirror beside it.
    pub(super) fn read(rescue: Rescue<'a>, mirror: Option<&Mirror>) -> Option<Self> {
        let lanes: BTreeMap<_, LaneNumbers> = whole(&rescue, LANES.name())?
            .iter()
            .map(|(lane, numbers)| Some((*lane.first()?, LaneNumbers::from_bytes(numbers.get(..16)?))))
            .collect::<Option<_>>()?;
        let (_, epochs) = rows(&rescue, EPOCHS.name());
        let epoch = |key: &Vec<u8>| Some(u64::from_le_bytes(key.get(..8)?.try_into().ok()?));
        let earlier: BTreeSet<u64> = gathered(epochs.keys().filter_map(epoch));
        // Bits of segments mean nothing without them.
        whole(&rescue, CONSUMERS.name())?;
        whole(&rescue, CURSORS.name())?;
        whole(&rescue, AHEAD.name())?;
        let meta = match whole(&rescue, META.name()) {
            Some(meta) => Meta::read(&meta)?,
            // An epoch that has ended is not the one whose lanes these are.
            None => mirror.map(Meta::of_mirror).filter(|m| !earlier.contains(&m.life.epoch))?,
        };
        let counters = whole(&rescue, COUNTERS.name());
        let counts_are_old = counters.is_none();
        let mut tally = Tally::default();
        match counters {
            Some(counters) => {
                for (name, value) in counters {
                    tally.set(std::str::from_utf8(&name).ok()?, Counts::from_bytes(&value)?)?;
                }
            }
            None => tally = mirror?.tally(),
        }
        (tally.next_drop, tally.drops_reported) = (meta.next_drop, meta.drops_reported);
        tally.told = meta.told;
        let Meta { life, satellite, .. } = meta;
        // Lanes take no group below their position.
        let next_group = lanes.values().map(|l| l.position).fold(meta.next_group, u64::max);
        let mut on_board = BTreeMap::new();
        let extent = rescue.table(SEGMENTS.name(), |key, value| {
            if let (Some(key), Ok(record)) = (key.get(..9), SegmentRecord::from_bytes(value)) {
                on_board.insert(Place::from_bytes(key), record);
            }
        });
        let all_on_board = extent == Extent::Whole;
        let lost_drops = whole(&rescue, DROPS.name()).is_none();
        Some(Self {
            rescue,
            life,
            satellite,
            earlier,
            lanes,
            tally,
            counts_are_old,
            next_group,
            on_board,
            all_on_board,
            lost_drops,
        })
    }

    /// Takes everything over that is known to be whole and undelivered, and was not refused: groups from number `refused` on were.
    /// `front` has groups too.
    pub(super) fn take(
        &self,
        db: &redb::Database,
        front: &Groups,
        refused: Option<u64>,
    ) -> Result<Taken, StoreError> {
        let mut taken = Taken { accepted: self.tally.accepted, ..Taken::default() };
        let txn = db.begin_write()?;
        self.copy_small(&txn)?;
        if let Some(refused) = refused {
            salvaged::forget(&txn, refused)?;
        }
        txn.commit()?;
        let bases = self.take_bases(db)?;
        self.take_segments(db, &bases, &mut taken)?;
        self.take_groups(db, front, refused.unwrap_or(u64::MAX), &mut taken)?;
        Ok(taken)
    }

    /// Tables that are few and small. Of one that is damaged, what is left is taken: each row stands for itself.
    fn copy_small(&self, txn: &WriteTransaction) -> Result<(), StoreError> {
        macro_rules! copy {
            ($($table:expr, $key:ty, $value:ty;)*) => {$({
                let mut table = txn.open_table($table)?;
                for (key, value) in rows(&self.rescue, $table.name()).1 {
                    table.insert(<$key as Value>::from_bytes(&key), <$value as Value>::from_bytes(&value))?;
                }
            })*};
        }
        copy! {
            CONSUMERS, &str, u8;
            CURSORS, CursorKey, Cursor;
            AHEAD, AheadKey, Cursor;
            LANES, u8, LaneNumbers;
            DROPS, DropKey, &[u8];
            EPOCHS, u64, &[u8];
            LANE_RULES, u64, &[u8];
            PASSES, u64, &[u8];
            ACKNOWLEDGED, AckKey, &[u8];
            LEDGERS, u64, &str;
            REFUSED, RefusedKey, &[u8];
            TAKEN, RefusedKey, &[u8];
            MISSED, &str, &[u8];
            SALVAGED, SalvagedKey, &[u8];
        }
        Ok(())
    }

    /// The segments that were on board, if all of them are known.
    pub(super) fn on_board(&self) -> Option<BTreeSet<Place>> {
        self.all_on_board.then(|| gathered(self.on_board.keys().copied()))
    }

    /// Segments that the file says are on board, whole ones alone, and where their payloads lie.
    pub(super) fn segments(&self) -> Result<Vec<(Header, Vec<Spot>)>, StoreError> {
        let wanted = gathered(self.on_board.iter().map(|(place, record)| (*place, record.header.clone())));
        let mut out = Vec::new();
        self.payloads(CHUNKS.name(), &wanted, |_, header, payload| {
            out.push((header.clone(), payload.spots));
            Ok(())
        })?;
        Ok(out)
    }

    /// The payloads in a table of pieces, each when all of its pieces and its hash are right.
    fn payloads(
        &self,
        table: &str,
        wanted: &BTreeMap<Place, Header>,
        mut each: impl FnMut(Place, &Header, Payload) -> Result<(), StoreError>,
    ) -> Result<BTreeSet<Place>, StoreError> {
        let mut found = BTreeSet::new();
        let (mut current, mut last): (Option<Place>, Payload) = (None, Payload::default());
        let mut result = Ok(());
        let mut end = |place: Option<Place>, last: &mut Payload| {
            let payload = std::mem::take(last);
            if let Some(place) = place
                && let Some(header) = wanted.get(&place)
                && result.is_ok()
                && hash(&payload.bytes) == header.hash
            {
                found.insert(place);
                result = each(place, header, payload);
            }
        };
        self.rescue.table_spots(table, |key, value, spot| {
            let Some(key) = key.get(..13).map(PlacePiece::from_bytes) else { return };
            let place = Place { lane: key.lane, sequence: key.sequence };
            if current != Some(place) {
                end(current.replace(place), &mut last);
            }
            last.bytes.extend_from_slice(value);
            last.spots.push(spot);
        });
        end(current, &mut last);
        result.map(|()| found)
    }

    /// Returns the bases that are whole, and which other one each needs.
    fn take_bases(&self, db: &redb::Database) -> Result<Bases, StoreError> {
        let mut wanted = BTreeMap::new();
        for (key, value) in rows(&self.rescue, BASES.name()).1 {
            if let (Some(key), Ok(header)) = (key.get(..9), SegmentRecord::header_from(&value)) {
                wanted.insert(Place::from_bytes(key), header);
            }
        }
        let found = self.payloads(BASE_CHUNKS.name(), &wanted, |place, header, payload| {
            let txn = db.begin_write()?;
            txn.open_table(BASES)?.insert(place, header.to_bytes().as_slice())?;
            let mut chunks = txn.open_table(BASE_CHUNKS)?;
            for (piece, index) in pieces(&payload.bytes).zip(0..) {
                chunks.insert(place.piece(index), piece)?;
            }
            drop(chunks);
            Ok(txn.commit()?)
        })?;
        Ok(wanted
            .into_iter()
            .filter(|(place, _)| found.contains(place))
            .map(|(place, header)| (place, header.base_sequence))
            .collect())
    }

    fn take_segments(&self, db: &redb::Database, bases: &Bases, taken: &mut Taken) -> Result<(), StoreError> {
        // In the epoch that begins no ground has a base, so a segment must be encoded again, which takes all that it depends on.
        let mut wanted = BTreeMap::new();
        for (place, record) in &self.on_board {
            let mut next = record.header.base_sequence;
            let mut steps = 0..=bases.len();
            while let (Some(sequence), Some(_)) = (next, steps.next()) {
                match bases.get(&Place { sequence, ..*place }) {
                    Some(base) => next = *base,
                    None => break,
                }
            }
            if next.is_none() {
                wanted.insert(*place, record.header.clone());
            }
        }
        let found = self.payloads(CHUNKS.name(), &wanted, |place, header, payload| {
            let Some(record) = self.on_board.get(&place) else { return Ok(()) };
            let txn = db.begin_write()?;
            super::seal::insert_segment(&txn, record, &payload.bytes)?;
            salvaged::remember(&txn, self.next_group, [Identity::segment(&header.hash)])?;
            taken.items += header.items;
            taken.segments += 1;
            Ok(txn.commit()?)
        })?;
        let lost = self.on_board.iter().filter(|(place, _)| !found.contains(place));
        taken.lost.extend(lost.map(|(place, record)| (*place, record.header.items)));
        if !self.all_on_board {
            let sealed = self.lanes.iter().filter(|(_, numbers)| numbers.next_sequence > 1);
            taken.unlisted.extend(sealed.map(|(lane, numbers)| (*lane, (1, numbers.next_sequence))));
        }
        Ok(())
    }

    /// Groups that a lane still waits for, wherever they are in the file.
    fn take_groups(
        &self,
        db: &redb::Database,
        front: &Groups,
        refused: u64,
        taken: &mut Taken,
    ) -> Result<(), StoreError> {
        let from = self.lanes.values().map(|l| l.position).min().unwrap_or(1);
        let (mut groups, complete) = groups_from(&self.rescue, from);
        groups.extend(front.range(from..).map(|(number, group)| (*number, group.to_vec())));
        for (number, bytes) in groups {
            taken.last_group = taken.last_group.max(number);
            if number >= refused {
                continue;
            }
            let whole = group::requests(number, &bytes).and_then(|_| GroupHeader::read(&bytes));
            let Ok(header) = whole else {
                taken.lost_groups += 1;
                continue;
            };
            let txn = db.begin_write()?;
            insert_group(&txn, number, &bytes)?;
            salvaged::remember(&txn, number, [Identity::group(number, &bytes).of_lane(None)])?;
            txn.commit()?;
            taken.groups += 1;
            taken.accepted = taken.accepted.max(header.accepted);
        }
        if !complete {
            // Nobody knows how many were there.
            taken.lost_groups = taken.lost_groups.max(1);
        }
        Ok(())
    }
}

/// Puts a group into the journal.
pub(super) fn insert_group(txn: &WriteTransaction, number: u64, bytes: &[u8]) -> Result<(), StoreError> {
    let mut journal = txn.open_table(JOURNAL)?;
    for (piece, index) in pieces(bytes).zip(0..) {
        journal.insert(GroupPiece { group: number, piece: index }, piece)?;
    }
    Ok(())
}

/// The groups from number `from` on, in the journal and, when that is damaged, wherever else they lie in the file; and whether the
/// journal was whole.
pub(super) fn groups_from(rescue: &Rescue<'_>, from: u64) -> (BTreeMap<u64, Vec<u8>>, bool) {
    let mut pieces: BTreeMap<GroupPiece, Vec<u8>> = BTreeMap::new();
    let extent = rescue.table(JOURNAL.name(), |key, value| {
        if let Some(key) = key.get(..10).map(GroupPiece::from_bytes).filter(|k| k.group >= from) {
            pieces.insert(key, value.to_vec());
        }
    });
    let numbers: BTreeSet<u64> = gathered(pieces.keys().map(|p| p.group));
    let mut out: BTreeMap<u64, Vec<u8>> = gathered(numbers.into_iter().map(|n| (n, joined(&pieces, n))));
    if extent != Extent::Whole {
        for (number, bytes) in scan_groups(rescue, from) {
            let known = out.entry(number).or_default();
            if group::verify(number, known).is_err() {
                *known = bytes;
            }
        }
    }
    (out, extent == Extent::Whole)
}

/// Groups from number `from` on that lie anywhere in the file and whose checksum holds.
fn scan_groups(rescue: &Rescue<'_>, from: u64) -> BTreeMap<u64, Vec<u8>> {
    let mut pieces: BTreeMap<GroupPiece, Vec<Vec<u8>>> = BTreeMap::new();
    let mut held = 0;
    rescue.scan(10, |key, value| {
        let Some(key) = key.get(..10).map(GroupPiece::from_bytes) else { return };
        let may_be =
            key.group >= from && key.group - from < MOST_AHEAD && (key.piece > 0 || group::may_begin(value));
        if may_be && held + value.len() <= MOST_SCANNED {
            let known = pieces.entry(key).or_default();
            if !known.iter().any(|k| k == value) {
                held += value.len();
                known.push(value.to_vec());
            }
        }
    });
    let mut out = BTreeMap::new();
    for (key, firsts) in pieces.iter().filter(|(key, _)| key.piece == 0) {
        for first in firsts {
            let mut bytes = first.clone();
            let rest = (1..u16::MAX).map_while(|piece| pieces.get(&GroupPiece { piece, ..*key })?.first());
            for next in std::iter::once(&Vec::new()).chain(rest) {
                bytes.extend_from_slice(next);
                if group::verify(key.group, &bytes).is_ok() {
                    out.insert(key.group, bytes);
                    break;
                }
            }
        }
    }
    out
}

impl Taken {
    /// Drops of the segments that could not be taken: one for each run of sequences, or for each lane when there are many.
    pub(super) fn lost_segments(&self, now: u64) -> Vec<link::Drop> {
        let none = |lane: u8| {
            drops::of_unsealed(DropReason::Corruption, Lane(lane), Counts::ZERO, TimeRange::EMPTY, now)
        };
        let mut out: Vec<link::Drop> = Vec::new();
        let runs = |out: &mut Vec<link::Drop>, joins: &dyn Fn(u64, u64) -> bool| {
            for (Place { lane, sequence }, items) in &self.lost {
                let last = out.last_mut().filter(|last| last.lane == u32::from(*lane));
                let last = last.and_then(|drop| Some((drop.sequences.as_mut()?, &mut drop.items)));
                match last {
                    Some((range, sum)) if joins(range.end, *sequence) => {
                        range.end = sequence + 1;
                        *sum = Some((Counts::from(sum.unwrap_or_default()) + *items).into());
                    }
                    _ => out.push(link::Drop {
                        sequences: Some(link::Range { start: *sequence, end: sequence + 1 }),
                        items: Some((*items).into()),
                        ..none(*lane)
                    }),
                }
            }
        };
        runs(&mut out, &|end, next| end == next);
        if out.len() > MOST_RUNS {
            out.clear();
            runs(&mut out, &|_, _| true);
            out.iter_mut().for_each(|drop| drop.counts_unknown = true);
        }
        out.extend(self.unlisted.iter().map(|(lane, (start, end))| link::Drop {
            sequences: Some(link::Range { start: *start, end: *end }),
            counts_unknown: true,
            ..none(*lane)
        }));
        out
    }
}

fn joined(pieces: &BTreeMap<GroupPiece, Vec<u8>>, group: u64) -> Vec<u8> {
    pieces.range(groups(group, group + 1)).flat_map(|(_, bytes)| bytes.iter().copied()).collect()
}

pub(super) fn rows(rescue: &Rescue<'_>, table: &str) -> (Extent, Rows) {
    let mut out = Rows::new();
    let extent = rescue.table(table, |key, value| {
        out.insert(key.to_vec(), value.to_vec());
    });
    (extent, out)
}

/// All rows of a table, or nothing.
pub(super) fn whole(rescue: &Rescue<'_>, table: &str) -> Option<Rows> {
    let (extent, rows) = rows(rescue, table);
    (extent == Extent::Whole).then_some(rows)
}
