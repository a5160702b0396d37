//! The ledger: what was committed, per satellite, epoch and lane, and what a satellite says of itself at the start of a contact.

use std::collections::BTreeMap;
use std::ops::Range;

use perigee_proto::link;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Hash, Header, Lane};
use perigee_shared::signal::Counts;
use prost::Message;
use redb::{ReadableTable, Table, WriteTransaction};

use super::clocks::Greeting;
use super::contents::Effect;
use super::error::SpoolError;
use super::file::{Txn, View};
use super::tables::*;
use super::{bases, clocks, gaps, handover, intake, namesakes, passes, standing};

/// Committed segments of each lane whose hash and counts are kept. The satellite keeps as many.
pub(super) const RECENT_KEPT: u64 = 1000;

/// Bytes of the lists in one Resume; a message is at most 1 MiB. What is left out costs bytes, not items.
const MAX_LISTS: usize = 900 << 10;

/// Rows of a satellite in the ledger, by table: epochs, drops, runs of committed sequences, segments that are remembered.
pub(crate) const EPOCHS_KEPT: usize = 1024;
/// See [`EPOCHS_KEPT`].
pub(crate) const DROPS_KEPT: usize = 131_072;
/// See [`EPOCHS_KEPT`].
pub(crate) const RUNS_KEPT: usize = 131_072;
/// See [`EPOCHS_KEPT`].
pub(crate) const RECENT_KEPT_IN_ALL: usize = 262_144;

/// What the ledger answers to a Hello.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// The id of the ledger.
    pub ledger: u64,
    /// The highest start counter of the satellite's log that the ledger knows.
    pub start_counter: u64,
    /// Where the satellite may resume.
    pub epochs: Vec<link::ResumeEpoch>,
    /// Segments that another ledger has too, as this Hello shows.
    pub handover_twice: u64,
    /// Epochs that ended, as this Hello shows, because a ground had other segments under their names.
    pub contradicted: Vec<u64>,
}

impl Answer {
    /// Acknowledges no drops: the satellite keeps them and tells them again.
    pub(super) fn without_drops(mut self) -> Self {
        self.epochs.iter_mut().for_each(|epoch| epoch.drops_acknowledged.clear());
        self
    }
}

/// Whether a sequence is committed.
pub(super) fn is_committed(
    table: &impl ReadableTable<SequenceKey, Run>,
    key: SequenceKey,
) -> Result<bool, SpoolError> {
    let before = table.range(key.at(0)..=key)?.next_back().transpose()?;
    Ok(before.is_some_and(|(_, run)| run.value().end > key.sequence))
}

/// Adds one sequence; true when it was not in it.
pub(super) fn insert(
    table: &mut Table<'_, SequenceKey, Run>,
    key: SequenceKey,
    top: Hash,
) -> Result<bool, SpoolError> {
    let sequence = key.sequence;
    let before = table.range(key.at(0)..=key)?.next_back().transpose()?;
    let before = before.map(|(k, v)| (k.value().sequence, v.value().end));
    let start = match before {
        Some((_, end)) if end > sequence => return Ok(false),
        Some((start, end)) if end == sequence => start,
        _ => sequence,
    };
    let joined = table.remove(key.at(sequence + 1))?.map(|joined| joined.value());
    table.insert(key.at(start), joined.unwrap_or(Run { end: sequence + 1, top }))?;
    Ok(true)
}

/// The hash of a segment at the end of a range, where it is not known.
const UNKNOWN: Hash = [0; 32];

/// Takes sequences of a lane out again, and forgets their hashes.
pub(super) fn remove(txn: &Txn<'_>, lane: SequenceKey, sequences: &RangeSet) -> Result<(), SpoolError> {
    let mut table = txn.tables.open_table(COMMITTED)?;
    for (run, top) in committed_ranges(&table, lane.satellite, lane.epoch, Lane(lane.lane))? {
        let left = sequences.missing(run.clone());
        if left == [run.clone()] {
            continue;
        }
        table.remove(lane.at(run.start))?;
        for Range { start, end } in left {
            let top = if end == run.end { top } else { UNKNOWN };
            table.insert(lane.at(start), Run { end, top })?;
        }
    }
    let mut recent = txn.tables.open_table(RECENT)?;
    for range in sequences.iter() {
        let known = recent.range(lane.at(range.start)..lane.at(range.end))?;
        let known = known.map(|row| Ok(row?.0.value())).collect::<Result<Vec<_>, SpoolError>>()?;
        for key in known {
            recent.insert(key, &[0; 56])?;
        }
    }
    Ok(())
}

/// Hash and counts of a segment that was committed lately.
pub(super) fn recent(
    table: &impl ReadableTable<SequenceKey, &'static [u8; 56]>,
    key: SequenceKey,
) -> Result<Option<(Hash, Counts)>, SpoolError> {
    Ok(table.get(key)?.and_then(|v| split_recent(v.value())))
}

pub(super) fn split_recent(value: &[u8; 56]) -> Option<(Hash, Counts)> {
    let (hash, counts) = value.split_first_chunk::<32>()?;
    Some((*hash, Counts::from_bytes(counts)?))
}

/// Remembers a committed segment and forgets the oldest.
pub(super) fn remember(txn: &WriteTransaction, key: SequenceKey, header: &Header) -> Result<(), SpoolError> {
    let mut value = [0; 56];
    value[..32].copy_from_slice(&header.hash);
    value[32..].copy_from_slice(&header.items.to_bytes());
    let (mut table, mut groups) = (txn.open_table(RECENT)?, txn.open_table(GROUPS)?);
    table.insert(key, &value)?;
    if let Some(of) = &header.made_of {
        groups.insert(key, of.encode_to_vec().as_slice())?;
    }
    if let Some(old) = key.sequence.checked_sub(RECENT_KEPT) {
        // Sequences come nearly in order, so that there is seldom more than one.
        table.retain_in(key.at(0)..=key.at(old), |_, _| false)?;
        groups.retain_in(key.at(0)..=key.at(old), |_, _| false)?;
    }
    Ok(())
}

/// Whether the same payload was committed lately under the same lane and sequence of another epoch of the satellite.
pub(super) fn has_in_another_epoch(
    txn: &WriteTransaction,
    key: SequenceKey,
    payload: &Hash,
) -> Result<bool, SpoolError> {
    let (epochs, table) = (txn.open_table(EPOCHS)?, txn.open_table(RECENT)?);
    let of = |epoch| EpochKey { satellite: key.satellite, epoch };
    for row in epochs.range(of(0)..=of(u64::MAX))? {
        let epoch = row?.0.value().epoch;
        if epoch != key.epoch
            && recent(&table, SequenceKey { epoch, ..key })?.is_some_and(|(hash, _)| hash == *payload)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Committed ranges of a lane with the hash of each one's last segment.
pub(super) fn committed_ranges(
    table: &impl ReadableTable<SequenceKey, Run>,
    satellite: u32,
    epoch: u64,
    lane: Lane,
) -> Result<Vec<(Range<u64>, Hash)>, SpoolError> {
    let mut out = Vec::new();
    for row in table.range(SequenceKey::lane(satellite, epoch, lane))? {
        let (key, run) = row?;
        out.push((key.value().sequence..run.value().end, run.value().top));
    }
    Ok(out)
}

/// Takes in what a satellite says at the start of a contact and answers where it may resume; drops in it are in the ledger when
/// this is committed, and bases that nobody needs any more are gone.
pub(super) fn hello(txn: &mut Txn<'_>, id: &str, greeting: &Greeting) -> Result<Answer, SpoolError> {
    let (satellite, hello) = (meet(txn, id, greeting)?, &*greeting.hello);
    stay_within_budget(txn, satellite, id, hello.epochs.len())?;
    passes::note(txn, satellite, &hello.passes)?;
    let (mut epochs, mut handover_twice, mut contradicted) = (Vec::new(), 0, Vec::new());
    let mut room = Room(MAX_LISTS);
    let on_board = on_board(hello);
    let others = namesakes::note(txn, (id, satellite), hello)?;
    // The agent's own epoch is the last one.
    for epoch in hello.epochs.iter().rev() {
        let noted = note_epoch(txn, satellite, epoch)?;
        handover_twice += noted.twice;
        contradicted.extend(noted.contradicted.then_some(epoch.epoch));
        forget_partials(txn, satellite, epoch)?;
        // Before what it tells now: of what this station forgot, the satellite tells no more by itself.
        let highest = gaps::highest(txn, EpochKey { satellite, epoch: epoch.epoch })?;
        let drops = gaps::insert(txn, satellite, epoch.epoch, &epoch.drops)?;
        gaps::lose_acknowledged(txn, (id, satellite), epoch, &others)?;
        let renamed = hello.epochs.last().is_some_and(|own| own.epoch != epoch.epoch);
        gaps::take_again(txn, satellite, epoch.epoch, &on_board, renamed)?;
        epochs.push(resume_epoch(txn, satellite, epoch, (drops, highest), &mut room)?);
    }
    if !hello.epochs.last().is_some_and(|epoch| epoch.in_memory) {
        gaps::close_forgotten(txn, (id, satellite), &hello.epochs)?;
    }
    bases::forget_passed(txn, satellite)?;
    let start_counter = highest_counter(txn, satellite)?;
    Ok(Answer { ledger: txn.contents.ledger, start_counter, epochs, handover_twice, contradicted })
}

/// What a satellite has on board now, by lane.
fn on_board(hello: &link::Hello) -> BTreeMap<u8, RangeSet> {
    let lanes = hello.epochs.last().map(|epoch| epoch.lanes.as_slice()).unwrap_or_default();
    let of = |lane: &link::Lane| Some((u8::try_from(lane.lane).ok()?, RangeSet::from_wire(&lane.on_board)));
    lanes.iter().filter_map(of).collect()
}

/// Answers a Hello without the ledger: nothing is known to be committed, and what is held here is said.
pub(super) fn hello_without_ledger(
    txn: &Txn<'_>,
    id: &str,
    hello: &link::Hello,
    ledger: u64,
) -> Result<Answer, SpoolError> {
    let satellite = number(txn, id)?;
    let mut room = Room(MAX_LISTS);
    let mut epochs = Vec::new();
    for epoch in hello.epochs.iter().rev() {
        let drops = link::DropsAck { epoch: epoch.epoch, ..link::DropsAck::default() };
        let highest = gaps::highest(txn, EpochKey { satellite, epoch: epoch.epoch })?;
        epochs.push(resume_epoch(txn, satellite, epoch, (drops, highest), &mut room)?);
    }
    Ok(Answer { ledger, epochs, ..Answer::default() })
}

/// Records drops that were made during a contact. Returns their acknowledgement.
pub(super) fn drops(
    txn: &mut Txn<'_>,
    id: &str,
    drops: &link::EpochDrops,
) -> Result<link::DropsAck, SpoolError> {
    let satellite = number(txn, id)?;
    gaps::insert(txn, satellite, drops.epoch, &drops.drops)
}

fn meet(txn: &mut Txn<'_>, id: &str, greeting: &Greeting) -> Result<u32, SpoolError> {
    let (number, hello) = (number(txn, id)?, &*greeting.hello);
    let mut table = txn.tables.open_table(SATELLITES)?;
    let before = table.get(id)?.map(|v| decode::<SatelliteRecord>(v.value())).transpose()?;
    let (mut backlog, mut plan, agent) = standing::said(hello);
    let (before, mut forecast) = (before.unwrap_or_default(), hello.forecast);
    let mut clock = before.clock;
    if let Some((said, read)) = greeting.clocks() {
        let offset = read.offset(said);
        standing::by_our_clock(&mut backlog, offset, txn.now);
        forecast.iter_mut().for_each(|forecast| {
            forecast.backlog_since_unix_nano = offset.past(forecast.backlog_since_unix_nano, txn.now);
        });
        clock = Some(clocks::heard(clock, said, read));
    }
    if let (Some(read), Some(forecast)) = (&greeting.read, &mut forecast) {
        standing::planned_by_our_clock(plan.as_mut(), forecast, read);
    }
    let record = SatelliteRecord {
        number,
        software: hello.software.chars().take(200).collect(),
        last_contact: txn.now,
        contact: hello.contact.chars().take(200).collect(),
        station: txn.contents.settings.station.clone(),
        contacts: before.contacts + 1,
        forecast,
        heard: before.heard,
        backlog,
        plan,
        agent,
        orbit: hello.orbit.as_ref().map(standing::orbit),
        namesakes: before.namesakes,
        clock,
    };
    table.insert(id, record.encode_to_vec().as_slice())?;
    txn.effects.push(Effect::Told { satellite: number });
    Ok(number)
}

/// What is new in what a satellite says of an epoch.
struct Noted {
    /// Its segments that another ledger has too.
    twice: u64,
    /// That it ended because a ground had other segments under its names.
    contradicted: bool,
}

/// Keeps what is said of an epoch.
fn note_epoch(txn: &Txn<'_>, satellite: u32, epoch: &link::Epoch) -> Result<Noted, SpoolError> {
    let (twice, fresh) = handover::note(txn, satellite, epoch)?;
    // What was acknowledged is in the ledger itself.
    let lanes = epoch.lanes.iter().map(|l| link::Lane { acknowledged: Vec::new(), ..l.clone() });
    let key = EpochKey { satellite, epoch: epoch.epoch };
    let mut epochs = txn.tables.open_table(EPOCHS)?;
    let before = epochs.get(key)?.map(|v| decode::<EpochRecord>(v.value())).transpose()?;
    let was_open = before.as_ref().is_some_and(|before| !before.closed);
    let record = EpochRecord {
        start_counter: epoch.start_counter,
        started: epoch.started_unix_nano,
        closed: epoch.closed,
        lanes: lanes.collect(),
        next_entry: txn.tables.open_table(META)?.get("next_entry")?.map_or(1, |v| v.value()),
        twice,
        remembered: before.map(|before| before.remembered).unwrap_or_default(),
    };
    epochs.insert(key, record.encode_to_vec().as_slice())?;
    Ok(Noted { twice: fresh, contradicted: was_open && epoch.closed && epoch.contradicted })
}

fn highest_counter(txn: &Txn<'_>, satellite: u32) -> Result<u64, SpoolError> {
    let mut highest = 0;
    for row in txn.tables.open_table(EPOCHS)?.range(EpochKey::all(satellite))? {
        highest = highest.max(decode::<EpochRecord>(row?.1.value())?.start_counter);
    }
    Ok(highest)
}

/// The number of a satellite; a new one when it has none.
pub(super) fn number(txn: &Txn<'_>, id: &str) -> Result<u32, SpoolError> {
    if let Some(known) = txn.tables.open_table(SATELLITES)?.get(id)? {
        return Ok(decode::<SatelliteRecord>(known.value())?.number);
    }
    let next = intake::take_number(txn.tables, "next_satellite")?;
    let number = u32::try_from(next).map_err(|_| SpoolError::damaged("satellite numbers ran out"))?;
    let record = SatelliteRecord { number, ..SatelliteRecord::default() };
    txn.tables.open_table(SATELLITES)?.insert(id, record.encode_to_vec().as_slice())?;
    Ok(number)
}

/// Deletes partials of segments that are not on board any more.
fn forget_partials(txn: &mut Txn<'_>, satellite: u32, epoch: &link::Epoch) -> Result<(), SpoolError> {
    let mut stale = Vec::new();
    let on_board: BTreeMap<u32, (RangeSet, u64)> =
        epoch.lanes.iter().map(|l| (l.lane, (RangeSet::from_wire(&l.on_board), l.next_sequence))).collect();
    let first = SequenceKey { satellite, epoch: epoch.epoch, lane: 0, sequence: 0 };
    let last = SequenceKey { lane: u8::MAX, sequence: u64::MAX, ..first };
    for row in txn.tables.open_table(PARTIALS)?.range(first..=last)? {
        let key = row?.0.value();
        // It may have been sealed after this Hello was written.
        let is_there = on_board
            .get(&u32::from(key.lane))
            .is_some_and(|(ranges, next)| key.sequence >= *next || ranges.contains(key.sequence));
        if !is_there {
            stale.push(key);
        }
    }
    stale.into_iter().try_for_each(|key| intake::delete_partial(txn, key).map(drop))
}

/// The longest varint.
const ID: usize = 10;
/// An override with its id and counts, at most.
const OVERRIDE: usize = 56;

/// Bytes that a Resume still has for its lists.
struct Room(usize);

impl Room {
    /// Takes what this message takes in a list, if it is there.
    fn take(&mut self, message: &impl Message) -> bool {
        // With its tag and its length.
        let Some(left) = self.0.checked_sub(message.encoded_len() + 6) else { return false };
        self.0 = left;
        true
    }
}

/// What the ledger has of a satellite, and how much of that it may have at most.
struct Fill([(&'static str, usize, usize); 4]);

macro_rules! fill {
    ($tables:expr, $satellite:expr, $settings:expr, $id:expr) => {{
        let (tables, satellite) = ($tables, $satellite);
        let rows = SequenceKey { satellite, epoch: 0, lane: 0, sequence: 0 };
        let rows = rows..=SequenceKey { satellite, epoch: u64::MAX, lane: u8::MAX, sequence: u64::MAX };
        let drop = |epoch, id| DropKey { satellite, epoch, id };
        let (of_epochs, of_drops) = (EpochKey::all(satellite), drop(0, 0)..=drop(u64::MAX, u64::MAX));
        let room = $settings.ledger_room.get($id).copied().unwrap_or(1) as usize;
        Fill([
            ("epochs", tables.open_table(EPOCHS)?.range(of_epochs)?.count(), room * EPOCHS_KEPT),
            ("drops", tables.open_table(DROPS)?.range(of_drops)?.count(), room * DROPS_KEPT),
            (
                "runs of segments",
                tables.open_table(COMMITTED)?.range(rows.clone())?.count(),
                room * RUNS_KEPT,
            ),
            (
                "remembered segments",
                tables.open_table(RECENT)?.range(rows)?.count(),
                room * RECENT_KEPT_IN_ALL,
            ),
        ])
    }};
}

/// What the ledger of a satellite has nearly as much of as it may have.
pub(super) fn tight(view: &View<'_>, satellite: u32, id: &str) -> Result<Option<String>, SpoolError> {
    let Fill(all) = fill!(view.tables, satellite, view.contents.settings, id);
    let near = |(what, found, most): &(&str, usize, usize)| {
        (*found > most / 8 * 7).then(|| format!("its ledger has {found} of {most} {what}"))
    };
    Ok(all.iter().find_map(near))
}

/// That the ledger of a satellite is not larger than one may be, with `epochs` that it names. No honest one comes near.
fn stay_within_budget(txn: &Txn<'_>, satellite: u32, id: &str, epochs: usize) -> Result<(), SpoolError> {
    let Fill(mut all) = fill!(txn.tables, satellite, txn.contents.settings, id);
    all[0].1 += epochs;
    for (what, found, most) in all {
        if found > most {
            return Err(SpoolError::Budget(format!(
                "its ledger has {found} {what}; at most {most} are kept of one satellite, unless ledger_room gives it more"
            )));
        }
    }
    Ok(())
}

fn resume_epoch(
    txn: &Txn<'_>,
    satellite: u32,
    epoch: &link::Epoch,
    (drops, highest): (link::DropsAck, u64),
    room: &mut Room,
) -> Result<link::ResumeEpoch, SpoolError> {
    let committed = txn.tables.open_table(COMMITTED)?;
    let partials = txn.tables.open_table(PARTIALS)?;
    let mut lanes = Vec::new();
    for lane in &epoch.lanes {
        let Ok(number) = u8::try_from(lane.lane).map(Lane) else { continue };
        let wanted = of_interest(epoch, lane);
        let all = committed_ranges(&committed, satellite, epoch.epoch, number)?;
        let proofs = proofs(txn, (satellite, epoch.epoch, number), lane)?;
        let last = all.len().saturating_sub(1);
        // The last range shows the satellite whether its log is an older one. What an epoch held that another one continues is on
        // board under that one's name.
        let told = all.into_iter().enumerate().filter(|(i, (range, _))| {
            *i == last || epoch.continued || wanted.missing(range.clone()) != [range.clone()]
        });
        let committed: Vec<_> = told
            .map(|(_, (range, hash))| told_range(range, hash, None))
            .chain(proofs)
            .take_while(|range| room.take(range))
            .collect();
        let mut held = Vec::new();
        for row in partials.range(SequenceKey::lane(satellite, epoch.epoch, number))? {
            let (key, value) = row?;
            let record = decode::<PartialRecord>(value.value())?;
            let partial = link::Partial {
                sequence: key.value().sequence,
                payload_hash: record.header.map(|h| h.payload_hash).unwrap_or_default(),
                held: record.held,
            };
            if !room.take(&partial) {
                break;
            }
            held.push(partial);
        }
        let told = link::ResumeLane { lane: lane.lane, committed, partials: held };
        if !room.take(&link::ResumeLane { lane: lane.lane, ..Default::default() }) {
            break;
        }
        lanes.push(told);
    }
    let key = EpochKey { satellite, epoch: epoch.epoch };
    let mut overridden = gaps::latest(txn, key, drops.overridden)?;
    let mut ids = drops.ids;
    overridden.truncate(room.0 / OVERRIDE);
    room.0 -= overridden.len() * OVERRIDE;
    ids.truncate(room.0 / ID);
    room.0 -= ids.len() * ID;
    Ok(link::ResumeEpoch {
        epoch: epoch.epoch,
        lanes,
        drops_acknowledged: ids,
        overridden,
        highest_drop: Some(highest),
    })
}

fn told_range(sequences: Range<u64>, top: Hash, made_of: Option<link::Groups>) -> link::CommittedRange {
    let top_hash = if top == UNKNOWN { Vec::new() } else { top.to_vec() };
    let sequences = link::Range { start: sequences.start, end: sequences.end };
    link::CommittedRange { sequences: Some(sequences), top_hash, made_of }
}

/// What the ledger has of the segments that a satellite asks about, one by one. It takes none for committed that has another hash: its
/// log may be an earlier one that has given names again. By what a segment was made of it knows what it need not send.
fn proofs(
    txn: &Txn<'_>,
    (satellite, epoch, lane): (u32, u64, Lane),
    said: &link::Lane,
) -> Result<Vec<link::CommittedRange>, SpoolError> {
    let (recent, groups) = (txn.tables.open_table(RECENT)?, txn.tables.open_table(GROUPS)?);
    let of = SequenceKey { satellite, epoch, lane: lane.0, sequence: 0 };
    let mut out = Vec::new();
    for range in RangeSet::from_wire(&said.compare).iter() {
        for row in recent.range(of.at(range.start)..of.at(range.end))? {
            let (key, value) = row?;
            let key = key.value();
            let Some((hash, _)) = split_recent(value.value()).filter(|(hash, _)| *hash != UNKNOWN) else {
                continue;
            };
            let made_of = groups.get(key)?.and_then(|v| link::Groups::decode(v.value()).ok());
            out.push(told_range(key.sequence..key.sequence + 1, hash, made_of));
        }
    }
    Ok(out)
}

/// Sequences of a lane that are of interest to the satellite: what is on board, and what it has dropped, since a commit overrides
/// a drop.
fn of_interest(epoch: &link::Epoch, lane: &link::Lane) -> RangeSet {
    let mut wanted = RangeSet::from_wire(&lane.on_board);
    let dropped = epoch.drops.iter().filter(|d| d.lane == lane.lane).filter_map(|d| d.sequences);
    dropped.for_each(|r| wanted.insert(r.start..r.end));
    wanted
}
