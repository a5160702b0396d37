//! What the log and a ground station tell each other of their state: Hello's view, and the answer in Resume.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use perigee_proto::link;
use perigee_shared::env::Env;
use perigee_shared::link::Slot;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Hash, Lane, SegmentId};
use perigee_shared::store::StoreError;
use prost::Message;
use redb::{ReadTransaction, ReadableTable, Table, WriteTransaction};

use super::acknowledged::{self, Top};
use super::contradicted::Contradicted;
use super::custody::{Delivery, Passing};
use super::drops::Heard;
use super::gathered;
use super::state::{Edit, Life, State};
use super::tables::*;
use super::tally::Tally;
use super::{ConsumerId, Notes, SegmentRecord, Wal, WalError, bases, common, drops, had};

/// Closed epochs that Hello goes on naming though they have no drops to report.
const CLOSED_EPOCHS: usize = 16;

/// Closed epochs that are remembered.
const REMEMBERED_EPOCHS: usize = 64;

/// While a ground acknowledges, the counters beside the log are written this often, in ns.
const MIRRORED_EVERY: u64 = 60_000_000_000;

/// A life of the log takes a second at least.
const MOST_LIVES: u64 = 1 << 40;

/// Sequences of a lane that a ground is asked about beside what is on board: those that come next, and in an epoch that was put back the
/// latest. What is in no segment may be in them.
pub(super) const COMPARED: u64 = 64;

/// Drops of one Hello; the rest follows in later contacts.
const DROPS_A_HELLO: usize = 2_000;

/// What a ground has committed of the current epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroundView {
    /// The id of its ledger; 0: it does not say.
    pub ledger: u64,
    /// The highest start counter that it knows of this satellite.
    pub start_counter: u64,
    /// The epoch that `lanes` is about.
    pub epoch: u64,
    /// Lane by lane.
    pub lanes: Vec<GroundLane>,
    /// What it has committed under the names of earlier epochs that this one continues.
    pub inherited: Vec<(Lane, RangeSet)>,
    /// What segments of these were made of, of which a part may be in the log under other names.
    pub before: Vec<GroundLane>,
}

impl GroundView {
    /// Takes in what the ground has committed of an epoch that `told` closed, if the current one has its sequences.
    pub fn inherit(&mut self, told: &link::Epoch, committed: &link::ResumeEpoch) {
        for lane in committed.lanes.iter().filter(|_| told.closed && told.continued) {
            let (Ok(number), Some(of)) =
                (u8::try_from(lane.lane), told.lanes.iter().find(|of| of.lane == lane.lane))
            else {
                continue;
            };
            let ranges = lane.committed.iter().filter_map(|range| range.sequences);
            let below = ranges.map(|r| r.start..r.end.min(of.next_sequence)).filter(|r| r.start < r.end);
            self.inherited.push((Lane(number), below.collect()));
            if let Some(GroundLane { lane, made_of, .. }) =
                GroundLane::of(lane).filter(|lane| !lane.made_of.is_empty())
            {
                self.before.push(GroundLane { made_of, ..GroundLane::new(lane) });
            }
        }
    }
}

/// What a ground has committed of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroundLane {
    /// The lane.
    pub lane: Lane,
    /// Sequences.
    pub committed: RangeSet,
    /// The payload hash of the last segment in each range.
    pub tops: Vec<(u64, Hash)>,
    /// What the segments that it was asked about were made of.
    pub made_of: Vec<(u64, link::Groups)>,
}

impl GroundLane {
    /// One of which nothing is known.
    pub fn new(lane: Lane) -> Self {
        Self { lane, committed: RangeSet::default(), tops: Vec::new(), made_of: Vec::new() }
    }

    /// What Resume says of a lane; `None`: no lane has this number.
    pub fn of(said: &link::ResumeLane) -> Option<Self> {
        let mut out = Self::new(Lane(u8::try_from(said.lane).ok()?));
        for range in &said.committed {
            let Some(link::Range { start, end }) = range.sequences else { continue };
            out.committed.insert(start..end);
            if let (Ok(hash), true) = (Hash::try_from(range.top_hash.as_slice()), start < end) {
                out.tops.push((end - 1, hash));
            }
            out.made_of.extend(range.made_of.map(|of| (start, of)));
        }
        Some(out)
    }
}

/// Drops since an [`Epochs::drops_recorded`].
#[derive(Debug, Clone, PartialEq)]
pub struct NewDrops {
    /// What [`Epochs::drops_recorded`] is now.
    pub recorded: u64,
    /// The epoch of the drops.
    pub epoch: u64,
    /// The drops.
    pub drops: Vec<link::Drop>,
}

/// What came of a Resume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reconciled {
    /// The ground has segments that were on board.
    Believed {
        /// Which, by lane. What it claims beside them was never sent to it, as far as is known, and is still to be sent.
        committed: BTreeMap<Lane, RangeSet>,
        /// How many were deleted.
        deleted: u64,
    },
    /// The ground knows a later state than this log, or another one: only that was deleted which it has for certain, and what is on board
    /// now belongs to a new epoch.
    NewEpoch,
    /// The same, but grounds have caused new epochs too often: none begins, and the ground is to be left alone for so long.
    Refused(Duration),
}

/// A new life of the log.
pub(super) fn new_life(env: &Env, start_counter: u64) -> Life {
    Life { epoch: env.random() | 1, start_counter, started_unix_nano: env.unix_nano() }
}

/// What the log and a ground tell each other.
pub struct Epochs<'a>(pub(super) &'a mut Wal);

impl Epochs<'_> {
    /// The epochs for a Hello to `station`, the current one last; to none: with everything.
    pub fn hello(&mut self, station: &str) -> Result<Vec<link::Epoch>, WalError> {
        self.close_reported_drops()?;
        self.0.bases().forget()?;
        let below = if station.is_empty() { u64::MAX } else { self.untold() };
        let mut told = self.0.read(|txn, state| Ok(hello(txn, state, station, below)?))?;
        if let Some(own) = told.last_mut() {
            own.in_memory = self.0.away.is_some();
        }
        Ok(told)
    }

    /// The id that the next drop of this epoch gets, or that of the first one that may still change.
    pub fn drops_recorded(&self) -> u64 {
        self.0.state().tally.next_drop.min(self.untold())
    }

    fn untold(&self) -> u64 {
        self.0.notes.hands.untold(self.0.state().life.epoch, self.0.env().since_boot().nano)
    }

    /// The drops of this epoch from id `from` on that `station` does not know.
    pub fn drops_since(&mut self, station: &str, from: u64) -> Result<NewDrops, WalError> {
        let (recorded, epoch) = (self.drops_recorded(), self.0.state().life.epoch);
        if recorded == from {
            return Ok(NewDrops { recorded, epoch, drops: Vec::new() });
        }
        let mut current = self.hello(station)?.pop().unwrap_or_default();
        current.drops.retain(|d| d.id >= from);
        Ok(NewDrops { recorded: self.drops_recorded(), epoch: current.epoch, drops: current.drops })
    }

    /// From now on the recorded drops do not change, since a station may know them.
    fn close_reported_drops(&mut self) -> Result<(), WalError> {
        self.0.ready()?;
        let below = self.drops_recorded();
        if self.0.state().tally.drops_reported >= below {
            return Ok(());
        }
        self.0.write(|txn, state| {
            let tally = Tally { drops_reported: below, ..state.tally.clone() };
            set_numbers(txn, &[(META_REPORTED, tally.drops_reported)])?;
            Ok(((), vec![Edit::Tally(tally)]))
        })
    }

    /// Takes in what the ground in `slot` has committed: deletes it here, or begins a new epoch when the two cannot both be right.
    pub fn reconcile(
        &mut self,
        consumer: ConsumerId,
        slot: Slot,
        view: &GroundView,
    ) -> Result<Reconciled, WalError> {
        self.0.ready()?;
        if view.epoch != self.0.state().life.epoch {
            return Ok(Reconciled::Believed { committed: BTreeMap::new(), deleted: 0 });
        }
        if self.0.read(|txn, state| Ok(contradicts(txn, state, view)?))? {
            let env = self.0.env().clone();
            let rest = self
                .0
                .read(|txn, state| Ok(Contradicted::read(&txn.open_table(META)?, state, &env)?.rest()))?;
            if !rest.is_zero() {
                return Ok(Reconciled::Refused(rest));
            }
            let proven = common::proven(self.0, &view.lanes)?;
            let station = self.0.notes.talks.of(slot).who().1;
            let later = Later { consumer, station, proven: proven.clone() };
            self.begin_if("the ground knows a later state of this log", Some(later))?;
            self.release(&proven);
            self.0.notes.answered = false;
            return Ok(Reconciled::NewEpoch);
        }
        let (_, station) = self.0.notes.talks.of(slot).who();
        self.meet(view.ledger, &station)?;
        let Notes { talks, sent, heard, .. } = &mut self.0.notes;
        if talks.have_another_than(view.ledger) {
            heard.differ();
        }
        let talk = talks.of_mut(slot);
        talk.ledger = view.ledger;
        sent.names(&mut talk.to, view.ledger);
        self.count_on(view.start_counter)?;
        self.0.bases().hear(slot, view);
        self.0.notes.answered = true;
        let again = common::proven(self.0, &view.before)?;
        let deleted = self.pass_proven(consumer, &again)?;
        let mut answer = Answer::default();
        for lane in &view.lanes {
            let Some(of) = self.0.state().lanes.get(&lane.lane) else { continue };
            let id = |sequence| SegmentId { epoch: view.epoch, lane: lane.lane, sequence };
            answer.ids.extend(of.on_board.iter().flatten().filter(|s| lane.committed.contains(*s)).map(id));
            answer.tops.extend(lane.tops.iter().map(|(s, hash)| (id(*s), *hash, None)));
            answer.committed.insert(lane.lane, lane.committed.clone());
        }
        for (lane, committed) in &view.inherited {
            let Some(of) = self.0.state().lanes.get(lane) else { continue };
            let id = |sequence| SegmentId { epoch: view.epoch, lane: *lane, sequence };
            let known = |s: &u64| answer.committed.get(lane).is_some_and(|c| c.contains(*s));
            let sequences = of.on_board.iter().flatten().filter(|s| committed.contains(*s) && !known(s));
            answer.inherited.extend(sequences.map(id));
        }
        answer.ids = self.believed(slot, answer.ids)?;
        answer.inherited = gathered(self.believed(slot, answer.inherited.into_iter().collect())?);
        let mut committed = BTreeMap::<Lane, RangeSet>::new();
        for SegmentId { lane, sequence, .. } in answer.ids.iter().chain(&answer.inherited).chain(&again) {
            committed.entry(*lane).or_default().insert(*sequence..sequence + 1);
        }
        let deleted = deleted + self.take_in(consumer, slot, answer)?;
        Ok(Reconciled::Believed { committed, deleted })
    }

    /// Passes segments that a ground has under other names. Returns how many were deleted.
    fn pass_proven(&mut self, consumer: ConsumerId, proven: &[SegmentId]) -> Result<u64, WalError> {
        if proven.is_empty() {
            return Ok(0);
        }
        let takers = had::takers(&self.0.state().consumers, self.0.config());
        let deleted = self.0.write(|txn, state| {
            let mut passing = Passing::new(txn, state, &takers);
            let kept = passing.proven(consumer, proven)?;
            let (deleted, mut edits) = passing.finish()?;
            edits.extend(kept);
            Ok((deleted, edits))
        })?;
        self.release(proven);
        Ok(deleted)
    }

    fn release(&mut self, passed: &[SegmentId]) {
        for id in passed {
            self.0.notes.sent.forget(*id);
            self.0.notes.talks.release(Place::of(*id));
        }
    }

    /// Those of the segments that the ledger can have: they were sent to it, or it acknowledged them earlier.
    fn believed(&mut self, slot: Slot, mut claimed: Vec<SegmentId>) -> Result<Vec<SegmentId>, WalError> {
        let talk = self.0.notes.talks.of(slot);
        let was_sent = |id: &&SegmentId| self.0.notes.sent.has(&talk.to, **id);
        let unsure: Vec<SegmentId> = claimed.iter().filter(|id| !was_sent(id)).copied().collect();
        let ledger = talk.ledger;
        if unsure.is_empty() {
            return Ok(claimed);
        }
        let unsure: BTreeSet<SegmentId> = self.0.read(|txn, _| {
            let acknowledged = if_made(txn, ACKNOWLEDGED)?;
            let mut unsure: BTreeSet<SegmentId> = gathered(unsure);
            for id in unsure.clone() {
                let SegmentId { epoch, lane, sequence } = id;
                let key = AckKey { ledger, epoch, lane: lane.0, sequence };
                if acknowledged.as_ref().map(|table| table.get(key)).transpose()?.flatten().is_some() {
                    unsure.remove(&id);
                }
            }
            Ok::<_, WalError>(unsure)
        })?;
        claimed.retain(|id| !unsure.contains(id));
        tracing::debug!(
            segments = unsure.len(),
            "the ground says that it has segments that were not sent to it since the start; they are sent"
        );
        Ok(claimed)
    }

    /// A station that has had another ledger may begin this one without what the other one knew: it is told every drop again, and
    /// in one more what was dropped and is recorded no longer.
    fn meet(&mut self, ledger: u64, station: &str) -> Result<(), WalError> {
        let is_new = |txn: &ReadTransaction, _: &State| -> Result<bool, WalError> {
            let Some(ledgers) = if_made(txn, LEDGERS)? else { return Ok(false) };
            let mut before = false;
            for row in ledgers.iter()? {
                before |= row?.1.value() == station;
            }
            Ok(before && ledgers.get(ledger)?.is_none())
        };
        if ledger == 0 || !self.0.read(is_new)? {
            return Ok(());
        }
        let now = self.0.env().unix_nano();
        self.0.write(|txn, state| {
            let mut tally = state.tally.clone();
            drops::tell_again(txn, &mut tally, state.life.epoch, station, now)?;
            txn.open_table(LEDGERS)?.insert(ledger, station)?;
            Ok(((), vec![Edit::Tally(tally)]))
        })
    }

    /// A log that was begun without knowing of an earlier one counts its lives on from those that the ground knows, if there can have
    /// been so many.
    fn count_on(&mut self, known: u64) -> Result<(), WalError> {
        let counted = self.0.state().life.start_counter;
        if known <= counted || known > MOST_LIVES { Ok(()) } else { self.count_from(known + 1) }
    }

    /// The life that is has this start counter.
    pub(super) fn count_from(&mut self, start_counter: u64) -> Result<(), WalError> {
        self.0.write(|txn, state| {
            let life = Life { start_counter, ..state.life };
            set_numbers(txn, &[(META_START_COUNTER, life.start_counter)])?;
            Ok(((), vec![Edit::Life(life)]))
        })
    }

    /// Notes that the ground in `slot` has just committed these segments, and passes them. Returns how many were deleted.
    pub fn committed(
        &mut self,
        consumer: ConsumerId,
        slot: Slot,
        ids: &[SegmentId],
    ) -> Result<u64, WalError> {
        self.0.ready()?;
        let epoch = self.0.state().life.epoch;
        let ids = self.believed(slot, ids.iter().filter(|id| id.epoch == epoch).copied().collect())?;
        let mut answer = Answer { ids, ..Answer::default() };
        for id in &answer.ids {
            answer.committed.entry(id.lane).or_default().insert(id.sequence..id.sequence + 1);
        }
        self.take_in(consumer, slot, answer)
    }

    /// One transaction for all that follows from a ground's answer.
    fn take_in(&mut self, consumer: ConsumerId, slot: Slot, mut answer: Answer) -> Result<u64, WalError> {
        let takers = had::takers(&self.0.state().consumers, self.0.config());
        let ledger = self.0.notes.talks.of(slot).who();
        let passed: Vec<SegmentId> = answer.ids.iter().chain(&answer.inherited).copied().collect();
        let nothing = answer.ids.is_empty() && answer.inherited.is_empty() && answer.tops.is_empty();
        if nothing && (self.0.state().tally.drops == 0 || answer.committed.is_empty()) {
            return Ok(0);
        }
        let (deleted, kept) = self.0.write(|txn, state| {
            answer.note_hashes(txn)?;
            let acknowledged = answer.remember(txn, &ledger)?;
            let kept = bases::keep(txn, answer.ids.iter().copied())?;
            let mut passing = Passing::new(txn, state, &takers);
            undo_drops(txn, state.life.epoch, &ledger.1, &answer.committed, &mut passing.tally)?;
            for id in answer.ids.iter().chain(&answer.inherited) {
                passing.one(consumer, &Delivery::whole(*id))?;
            }
            let (deleted, mut edits) = passing.finish()?;
            let places: Vec<Place> = kept.iter().map(|h| Place::of(h.id)).collect();
            edits.extend(kept.into_iter().map(Edit::BaseKept));
            edits.extend(acknowledged);
            Ok(((deleted, places), edits))
        })?;
        self.0.bases().heard(slot, &kept);
        self.release(&passed);
        self.0.mirror().keep(MIRRORED_EVERY);
        Ok(deleted)
    }

    /// Notes that `station` has these drops in its ledger, and what it had committed of them: that is delivered. `highest`: the highest
    /// id that it has of this epoch; what it had above it is returned, to be told again. Drops that every one of `stations` has are forgotten, but for
    /// the latest.
    pub fn drops_acknowledged(
        &mut self,
        station: &str,
        stations: &[String],
        ack: &link::DropsAck,
        highest: Option<u64>,
    ) -> Result<Vec<link::Drop>, WalError> {
        let changes = self.0.read(|txn, _| Ok::<_, WalError>(drops::heard(txn, station, ack, highest)?))?;
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        self.0.write(|txn, state| {
            let mut tally = state.tally.clone();
            for Heard { known, drop, delivered, .. } in &changes {
                drops::insert(txn, ack.epoch, drop, known)?;
                tally.undo_drop(drop.reason, *delivered);
            }
            drops::note_told(txn, &mut tally)?;
            drops::forget(txn, &mut tally, stations)?;
            tally.store(txn)?;
            Ok(((), vec![Edit::Tally(tally)]))
        })?;
        self.0.mirror().write();
        let again = changes.into_iter().filter(|heard| heard.again).map(|heard| heard.drop);
        Ok(again.take(DROPS_A_HELLO).collect())
    }

    /// Begins a new epoch: what is on board goes into it under the same sequences, and the old one is closed.
    pub fn begin(&mut self, why: &str) -> Result<(), WalError> {
        self.begin_if(why, None)
    }

    /// The same; `later`: a ground has caused it.
    fn begin_if(&mut self, why: &str, later: Option<Later>) -> Result<(), WalError> {
        let mut old = self.hello("")?.pop().unwrap_or_default();
        old.lanes.iter_mut().for_each(|lane| lane.compare.clear());
        old.contradicted = later.is_some();
        let life = new_life(self.0.env(), self.0.state().life.start_counter.saturating_add(1));
        tracing::error!(
            event.name = "perigee.wal.new_epoch",
            why,
            old = format!("{:016x}", old.epoch),
            new = format!("{:016x}", life.epoch),
            "a new epoch of the write-ahead log begins"
        );
        let env = self.0.env().clone();
        let takers = had::takers(&self.0.state().consumers, self.0.config());
        self.0.write(|txn, state| {
            let mut edits = Vec::new();
            if let Some(Later { consumer, station, proven }) = later {
                let mut passing = Passing::new(txn, state, &takers);
                tell_anew(txn, state.life.epoch, &station, &mut passing.tally)?;
                if Contradicted::read(&txn.open_table(META)?, state, &env)?.is_first() {
                    record_undone(txn, state.life.epoch, &mut passing.tally, env.unix_nano())?;
                }
                Contradicted::note(txn, state, &env)?;
                let kept = passing.proven(consumer, &proven)?;
                edits = passing.finish()?.1;
                edits.extend(kept);
            }
            begin_epoch(txn, life, old)?;
            edits.push(Edit::Life(life));
            Ok(((), edits))
        })
    }
}

/// A ground that has met a later state of this log.
struct Later {
    consumer: ConsumerId,
    station: String,
    /// Segments on board that it has for certain.
    proven: Vec<SegmentId>,
}

/// Drop ids that are passed over where a later state of the log may have given them: a station keeps the first drop of an id.
const IDS_SKIPPED: u64 = 1 << 20;

/// Records that something may be lost: what the later state of this log, which a ground has met, had accepted and not delivered.
fn record_undone(txn: &WriteTransaction, epoch: u64, tally: &mut Tally, now: u64) -> Result<(), StoreError> {
    tally.next_drop += IDS_SKIPPED;
    drops::append_unknown(txn, tally, epoch, now)
}

/// Gives new ids to the drops that `station` has not acknowledged: the later state has told it of others under these. Their sequences
/// are those of other segments there.
fn tell_anew(txn: &WriteTransaction, epoch: u64, station: &str, tally: &mut Tally) -> Result<(), StoreError> {
    let mut told = Vec::new();
    for row in txn.open_table(DROPS)?.range(drops_of(epoch))? {
        let (known, drop) = drops::read(row?.1.value())?;
        told.extend((!known.iter().any(|k| k == station)).then_some((known, drop)));
    }
    for (known, drop) in told {
        txn.open_table(DROPS)?.remove(DropKey { epoch, id: drop.id })?;
        let id = tally.next_drop.max(drop.id + IDS_SKIPPED);
        drops::insert(txn, epoch, &link::Drop { id, sequences: None, ..drop }, &known)?;
        tally.next_drop = id + 1;
    }
    Ok(())
}

/// Changes the life of the log in the tables.
pub(super) fn begin_epoch(txn: &WriteTransaction, life: Life, old: link::Epoch) -> Result<(), StoreError> {
    set_numbers(
        txn,
        &[
            (META_EPOCH, life.epoch),
            (META_START_COUNTER, life.start_counter),
            (META_STARTED, life.started_unix_nano),
        ],
    )?;
    let lanes = old.lanes.iter().map(|l| link::Lane { on_board: Vec::new(), ..l.clone() });
    let closed =
        link::Epoch { drops: Vec::new(), closed: true, in_memory: false, lanes: lanes.collect(), ..old };
    let mut epochs = txn.open_table(EPOCHS)?;
    epochs.insert(closed.epoch, closed.encode_to_vec().as_slice())?;
    forget_epochs(&mut epochs, &txn.open_table(DROPS)?)?;
    let mut segments = txn.open_table(SEGMENTS)?;
    let mut records = Vec::new();
    for entry in segments.iter()? {
        let (key, value) = entry?;
        records.push((key.value(), SegmentRecord::from_bytes(value.value())?));
    }
    for (key, mut record) in records {
        record.header.id.epoch = life.epoch;
        segments.insert(key, record.to_bytes().as_slice())?;
    }
    txn.open_table(SHIPPED)?.retain(|_, _| false)?;
    // What ledgers have of the epoch that ends may still be asked for.
    txn.open_table(ACKNOWLEDGED)?.retain(|key, _| key.epoch == closed.epoch)?;
    Ok(())
}

/// Forgets the oldest epochs, of which there is nothing to tell.
fn forget_epochs(
    epochs: &mut Table<'_, u64, &[u8]>,
    drops: &impl ReadableTable<DropKey, &'static [u8]>,
) -> Result<(), StoreError> {
    let mut silent = Vec::new();
    for entry in epochs.iter()? {
        let (epoch, message) = entry?;
        if drops.range(drops_of(epoch.value()))?.next().is_none() {
            silent.push((closed_epoch(message.value())?.start_counter, epoch.value()));
        }
    }
    silent.sort_unstable();
    silent.truncate(silent.len().saturating_sub(REMEMBERED_EPOCHS));
    for (_, epoch) in silent {
        epochs.remove(epoch)?;
    }
    Ok(())
}

/// The latest of the closed epochs that the current one continues, the latest first.
pub(super) fn continued(closed: &[link::Epoch]) -> Vec<u64> {
    let continued = closed.iter().rev().take_while(|epoch| epoch.continued).take(CLOSED_EPOCHS);
    continued.map(|epoch| epoch.epoch).collect()
}

/// The closed epochs, the latest last.
pub(super) fn closed_epochs(txn: &ReadTransaction) -> Result<Vec<link::Epoch>, StoreError> {
    let mut closed = Vec::new();
    for entry in txn.open_table(EPOCHS)?.iter()? {
        closed.push(closed_epoch(entry?.1.value())?);
    }
    closed.sort_unstable_by_key(|epoch| (epoch.start_counter, epoch.epoch));
    Ok(closed)
}

fn closed_epoch(message: &[u8]) -> Result<link::Epoch, StoreError> {
    link::Epoch::decode(message).map_err(|_| StoreError::Damaged("an earlier epoch".to_owned()))
}

/// `below`: from that drop of the current epoch on none is told.
fn hello(
    txn: &ReadTransaction,
    state: &State,
    station: &str,
    below: u64,
) -> Result<Vec<link::Epoch>, StoreError> {
    let drops_table = txn.open_table(DROPS)?;
    let acknowledged = acknowledged::told(txn)?;
    let mut left = DROPS_A_HELLO;
    let mut drops_told = |epoch: u64, below: u64| -> Result<Vec<link::Drop>, StoreError> {
        let mut out = Vec::new();
        for entry in drops_table.range(drops_of(epoch))? {
            let (known, drop) = drops::read(entry?.1.value())?;
            if left > 0 && drop.id < below && !known.iter().any(|k| k == station) {
                left -= 1;
                out.push(drop);
            }
        }
        Ok(out)
    };
    let mut out = closed_epochs(txn)?;
    for epoch in &mut out {
        for lane in &mut epoch.lanes {
            let known = acknowledged.get(&(epoch.epoch, lane.lane)).cloned().unwrap_or_default();
            lane.acknowledged = acknowledged::join(known, &lane.acknowledged);
        }
        epoch.drops = drops_told(epoch.epoch, u64::MAX)?;
    }
    // Every station must hear that an epoch is closed; the latest few are enough, since a life is long.
    let silent = out.len().saturating_sub(CLOSED_EPOCHS);
    let mut n = 0;
    out.retain(|e: &link::Epoch| {
        n += 1;
        n > silent || !e.drops.is_empty()
    });
    let life = state.life;
    let lanes = state.lanes.iter().map(|(lane, l)| {
        let acknowledged = acknowledged.get(&(life.epoch, u32::from(lane.0))).cloned().unwrap_or_default();
        let known =
            acknowledged.iter().flat_map(|a| &a.sequences).map(|r| r.start..r.end).collect::<RangeSet>();
        let mut compare: RangeSet = l.on_board.iter().flat_map(|range| known.missing(range)).collect();
        compare.insert(l.next_sequence..l.next_sequence.saturating_add(COMPARED));
        link::Lane {
            lane: u32::from(lane.0),
            on_board: l.on_board.to_wire(),
            next_sequence: l.next_sequence,
            oldest_base: bases::oldest(state, *lane),
            acknowledged,
            compare: compare.to_wire(),
        }
    });
    out.push(link::Epoch {
        epoch: life.epoch,
        start_counter: life.start_counter,
        started_unix_nano: life.started_unix_nano,
        lanes: lanes.collect(),
        drops: drops_told(life.epoch, below)?,
        ..link::Epoch::default()
    });
    Ok(out)
}

/// Whether the ground is at or above our next sequence, or has another payload under a sequence that we know.
fn contradicts(txn: &ReadTransaction, state: &State, view: &GroundView) -> Result<bool, StoreError> {
    let (segments, shipped) = (txn.open_table(SEGMENTS)?, txn.open_table(SHIPPED)?);
    for lane in &view.lanes {
        let next = state.lanes.get(&lane.lane).map_or(1, |l| l.next_sequence);
        if lane.committed.last().is_some_and(|last| last >= next) {
            return Ok(true);
        }
        for (sequence, hash) in &lane.tops {
            let key = Place { lane: lane.lane.0, sequence: *sequence };
            let mut known = shipped.get(key)?.map(|v| v.value().to_vec()).unwrap_or_default();
            if let Some(value) = segments.get(key)? {
                known.extend(SegmentRecord::from_bytes(value.value())?.header.hash);
            }
            if !known.is_empty() && known.chunks(hash.len()).all(|known| known != hash) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// What a ground has said it committed.
#[derive(Debug, Default)]
struct Answer {
    /// Segments that are, or were, on board.
    ids: Vec<SegmentId>,
    /// The same, of segments that it has under another name.
    inherited: BTreeSet<SegmentId>,
    /// Payload hashes as far as they are known, and the items of what is on board.
    tops: Vec<Top>,
    committed: BTreeMap<Lane, RangeSet>,
}

impl Answer {
    /// Looks up the hashes and items of the segments on board.
    fn note_hashes(&mut self, txn: &WriteTransaction) -> Result<(), StoreError> {
        let segments = txn.open_table(SEGMENTS)?;
        for id in &self.ids {
            if let Some(value) = segments.get(Place::of(*id))? {
                let header = SegmentRecord::from_bytes(value.value())?.header;
                self.tops.push((*id, header.hash, Some(header.items)));
            }
        }
        Ok(())
    }

    /// Keeps the hashes, of each lane and ledger the latest thousand.
    fn remember(
        &self,
        txn: &WriteTransaction,
        (ledger, station): &(u64, String),
    ) -> Result<Option<Edit>, StoreError> {
        let mut shipped = txn.open_table(SHIPPED)?;
        for (id, hash, _) in &self.tops {
            // A segment that was encoded again has had several.
            let place = Place::of(*id);
            let mut known = shipped.get(place)?.map(|v| v.value().to_vec()).unwrap_or_default();
            if !known.chunks(hash.len()).any(|known| known == hash) {
                known.extend_from_slice(hash);
                shipped.insert(place, known.as_slice())?;
            }
        }
        for (_, lane) in acknowledged::lanes(&self.tops) {
            let latest = shipped.range(lane_from(lane, 0))?.next_back().transpose()?;
            let keep = acknowledged::first_kept(latest.map(|(key, _)| key.value().sequence));
            let place = |sequence| Place { lane: lane.0, sequence };
            shipped.retain_in(place(0)..place(keep), |_, _| false)?;
        }
        acknowledged::note(txn, *ledger, station, &self.tops)
    }
}

/// A commit overrides a drop: what `station` has after all is counted as delivered. Others that know of the drop are told so.
fn undo_drops(
    txn: &WriteTransaction,
    epoch: u64,
    station: &str,
    committed: &BTreeMap<Lane, RangeSet>,
    tally: &mut Tally,
) -> Result<(), StoreError> {
    if tally.drops == 0 {
        return Ok(());
    }
    let mut table = txn.open_table(DROPS)?;
    let mut undone = Vec::new();
    for entry in table.range(drops_of(epoch))? {
        let (mut known, drop) = drops::read(entry?.1.value())?;
        let Some(sequences) = drop.sequences else { continue };
        let lane = committed.iter().find(|(lane, _)| u32::from(lane.0) == drop.lane);
        if lane.is_some_and(|(_, c)| c.missing(sequences.start..sequences.end).is_empty()) {
            known.retain(|k| k != station);
            undone.push((known, drop));
        }
    }
    let mut changed = Vec::new();
    for (known, drop) in undone {
        let left = drops::left(&drop);
        tally.undo_drop(drop.reason, left);
        if known.is_empty() || drop.counts_unknown {
            table.remove(DropKey { epoch, id: drop.id })?;
            tally.drops = tally.drops.saturating_sub(1);
        } else if left.total() > 0 {
            changed.push(link::Drop { overridden: drop.items, ..drop });
        }
    }
    drop(table);
    changed.iter().try_for_each(|drop| drops::insert(txn, epoch, drop, &[]))
}
