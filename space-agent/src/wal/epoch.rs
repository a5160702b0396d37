//! What the log and a ground station tell each other of their state: Hello's view, and the answer in Resume.

use std::collections::BTreeSet;

use perigee_proto::link::{self, DropReason};
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Hash, Lane, SegmentId};
use perigee_shared::signal::Counts;
use prost::Message;
use redb::{ReadableDatabase, ReadableTable};

use super::custody::{Delivery, read_drop};
use super::open::new_life;
use super::state::{DELIVERED, META_EPOCH, META_REPORTED, META_START_COUNTER, META_STARTED};
use super::tables::{COUNTERS, DROPS, EPOCHS, META, SEGMENTS, SHIPPED};
use super::{ConsumerId, SegmentRecord, Wal, WalError, custody};

/// How many (sequence, hash) pairs of committed segments are kept of each lane, to notice a log that is older than the ground's
/// knowledge: those of its latest so many sequences.
const SHIPPED_PAIRS: u64 = 1_000;

/// Closed epochs that Hello goes on naming though they have no drops to report.
const CLOSED_EPOCHS: usize = 16;

/// Drops of one Hello; the rest follows in later contacts.
const DROPS_A_HELLO: usize = 2_000;

/// What a ground has committed of the current epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroundView {
    /// The epoch that `lanes` is about.
    pub epoch: u64,
    /// Lane by lane.
    pub lanes: Vec<GroundLane>,
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
}

/// Drops since a [`Wal::drops_recorded`].
#[derive(Debug, Clone, PartialEq)]
pub struct NewDrops {
    /// What [`Wal::drops_recorded`] is now.
    pub recorded: u64,
    /// The epoch of the drops.
    pub epoch: u64,
    /// The drops.
    pub drops: Vec<link::Drop>,
}

/// What came of a Resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconciled {
    /// So many segments were deleted since the ground has them.
    Deleted(u64),
    /// The ground knows a later state than this log: nothing was deleted, and what is on board now belongs to a new epoch.
    NewEpoch,
}

impl Wal {
    /// The epochs for a Hello to `station`, the current one last.
    pub fn epochs(&mut self, station: &str) -> Result<Vec<link::Epoch>, WalError> {
        self.close_reported_drops()?;
        self.forget_bases()?;
        let txn = self.db()?.begin_read()?;
        let drops_table = txn.open_table(DROPS)?;
        let mut left = DROPS_A_HELLO;
        let mut drops_of = |epoch: u64| -> Result<Vec<link::Drop>, WalError> {
            let mut out = Vec::new();
            for entry in drops_table.range((epoch, 0)..=(epoch, u64::MAX))? {
                let (known, drop) = read_drop(entry?.1.value())?;
                if left > 0 && !known.iter().any(|k| k == station) {
                    left -= 1;
                    out.push(drop);
                }
            }
            Ok(out)
        };
        let mut out = Vec::new();
        for entry in txn.open_table(EPOCHS)?.iter()? {
            let message = link::Epoch::decode(entry?.1.value()).map_err(|_| WalError::Damaged("an epoch"))?;
            out.push(link::Epoch { drops: drops_of(message.epoch)?, ..message });
        }
        out.sort_by_key(|e| e.start_counter);
        let life = self.state.life;
        // Every station must hear that an epoch is closed; the latest few are enough, since a life is long.
        let silent = out.len().saturating_sub(CLOSED_EPOCHS);
        let mut n = 0;
        out.retain(|e: &link::Epoch| {
            n += 1;
            n > silent || !e.drops.is_empty()
        });
        let lanes = self.state.lanes.iter().map(|(lane, l)| link::Lane {
            lane: u32::from(lane.0),
            on_board: l.on_board.to_wire(),
            next_sequence: l.next_sequence,
            oldest_base: self.oldest_base(*lane),
        });
        out.push(link::Epoch {
            epoch: life.epoch,
            start_counter: life.start_counter,
            started_unix_nano: life.started_unix_nano,
            lanes: lanes.collect(),
            drops: drops_of(life.epoch)?,
            closed: false,
        });
        Ok(out)
    }

    /// The id that the next drop of this epoch gets.
    pub const fn drops_recorded(&self) -> u64 {
        self.state.next_drop
    }

    /// The drops of this epoch from id `from` on that `station` does not know.
    pub fn drops_since(&mut self, station: &str, from: u64) -> Result<NewDrops, WalError> {
        if self.state.next_drop == from {
            return Ok(NewDrops { recorded: from, epoch: self.state.life.epoch, drops: Vec::new() });
        }
        let mut current = self.epochs(station)?.pop().ok_or(WalError::Damaged("no epoch"))?;
        current.drops.retain(|d| d.id >= from);
        Ok(NewDrops { recorded: self.state.next_drop, epoch: current.epoch, drops: current.drops })
    }

    /// From now on the drops that there are do not change, since a station may know them.
    fn close_reported_drops(&mut self) -> Result<(), WalError> {
        let next = self.state.next_drop;
        if self.state.drops_reported < next {
            self.write(|txn| {
                txn.open_table(META)?.insert(META_REPORTED, &next.to_le_bytes()[..])?;
                Ok(())
            })?;
            self.state.drops_reported = next;
        }
        Ok(())
    }

    /// Takes in what the ground has committed: deletes it here, or begins a new epoch when the two cannot both be right.
    pub fn reconcile(&mut self, consumer: ConsumerId, view: &GroundView) -> Result<Reconciled, WalError> {
        if view.epoch != self.state.life.epoch {
            return Ok(Reconciled::Deleted(0));
        }
        if self.contradicts(view)? {
            self.begin_epoch()?;
            return Ok(Reconciled::NewEpoch);
        }
        self.hear_of_bases(view);
        let mut deliveries = Vec::new();
        for lane in &view.lanes {
            let on_board = &self.state.lane(lane.lane).on_board;
            let id = |sequence| SegmentId { epoch: view.epoch, lane: lane.lane, sequence };
            let both = on_board.iter().flatten().filter(|s| lane.committed.contains(*s));
            deliveries.extend(both.map(|s| Delivery { id: id(s), refused: Counts::ZERO }));
        }
        self.remember(view)?;
        self.keep_bases(deliveries.iter().map(|d: &Delivery| d.id))?;
        self.undo_drops(view)?;
        Ok(Reconciled::Deleted(self.pass(consumer, &deliveries)?))
    }

    /// Whether the ground is at or above our next sequence, or has another payload under a sequence that we know.
    fn contradicts(&mut self, view: &GroundView) -> Result<bool, WalError> {
        for lane in &view.lanes {
            let next = self.state.lane(lane.lane).next_sequence;
            if lane.committed.last().is_some_and(|last| last >= next) {
                return Ok(true);
            }
            let txn = self.db()?.begin_read()?;
            let (segments, shipped) = (txn.open_table(SEGMENTS)?, txn.open_table(SHIPPED)?);
            for (sequence, hash) in &lane.tops {
                let key = (lane.lane.0, *sequence);
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

    /// Keeps the hashes of committed segments, the latest thousand of each lane.
    fn remember(&mut self, view: &GroundView) -> Result<(), WalError> {
        let tops: Vec<_> =
            view.lanes.iter().flat_map(|l| l.tops.iter().map(|(s, h)| ((l.lane.0, *s), *h))).collect();
        if tops.is_empty() {
            return Ok(());
        }
        let lanes: BTreeSet<u8> = tops.iter().map(|((lane, _), _)| *lane).collect();
        self.write(|txn| {
            let mut shipped = txn.open_table(SHIPPED)?;
            for (key, hash) in &tops {
                // A segment that was encoded anew has had several.
                let mut known = shipped.get(*key)?.map(|v| v.value().to_vec()).unwrap_or_default();
                if !known.chunks(hash.len()).any(|known| known == hash) {
                    known.extend_from_slice(hash);
                    shipped.insert(*key, known.as_slice())?;
                }
            }
            for lane in &lanes {
                let latest = shipped.range((*lane, 0)..=(*lane, u64::MAX))?.next_back().transpose()?;
                let keep = latest.map_or(0, |(key, _)| key.value().1.saturating_sub(SHIPPED_PAIRS - 1));
                shipped.retain_in((*lane, 0)..(*lane, keep), |_, _| false)?;
            }
            Ok(())
        })
    }

    /// Notes the hashes of segments that the ground has just committed, and passes them.
    pub fn committed(&mut self, consumer: ConsumerId, ids: &[SegmentId]) -> Result<u64, WalError> {
        let epoch = self.state.life.epoch;
        let ids: Vec<_> = ids.iter().filter(|id| id.epoch == epoch).copied().collect();
        let mut view = GroundView { epoch, lanes: Vec::new() };
        let txn = self.db()?.begin_read()?;
        let segments = txn.open_table(SEGMENTS)?;
        for id in &ids {
            if let Some(value) = segments.get((id.lane.0, id.sequence))? {
                let hash = SegmentRecord::from_bytes(value.value())?.header.hash;
                let committed = RangeSet::default();
                view.lanes.push(GroundLane { lane: id.lane, committed, tops: vec![(id.sequence, hash)] });
            }
        }
        drop((segments, txn));
        self.remember(&view)?;
        self.keep_bases(ids.iter().copied())?;
        let deliveries: Vec<_> = ids.into_iter().map(|id| Delivery { id, refused: Counts::ZERO }).collect();
        self.pass(consumer, &deliveries)
    }

    /// A commit overrides a drop: what the ground has after all is counted as delivered.
    fn undo_drops(&mut self, view: &GroundView) -> Result<(), WalError> {
        let txn = self.db()?.begin_read()?;
        let mut undone = Vec::new();
        for entry in txn.open_table(DROPS)?.range((view.epoch, 0)..=(view.epoch, u64::MAX))? {
            let (_, drop) = read_drop(entry?.1.value())?;
            let Some(sequences) = drop.sequences else { continue };
            let lane = view.lanes.iter().find(|l| u32::from(l.lane.0) == drop.lane);
            if lane.is_some_and(|l| l.committed.missing(sequences.start..sequences.end).is_empty()) {
                undone.push(drop);
            }
        }
        drop(txn);
        if undone.is_empty() {
            return Ok(());
        }
        let mut delivered = self.state.delivered;
        let mut dropped = self.state.dropped.clone();
        for drop in &undone {
            let items = Counts::from(drop.items.unwrap_or_default());
            delivered += items;
            let counted = dropped.entry(drop.reason).or_default();
            *counted = counted.saturating_sub(items);
        }
        self.write(|txn| {
            let mut table = txn.open_table(DROPS)?;
            for drop in &undone {
                table.remove((view.epoch, drop.id))?;
            }
            let mut counters = txn.open_table(COUNTERS)?;
            counters.insert(DELIVERED, &delivered.to_bytes()[..])?;
            for (reason, items) in &dropped {
                counters.insert(format!("dropped:{reason}").as_str(), &items.to_bytes()[..])?;
            }
            Ok(())
        })?;
        self.state.delivered = delivered;
        self.state.dropped = dropped;
        self.state.drops = self.state.drops.saturating_sub(undone.len() as u64);
        Ok(())
    }

    /// Notes that `station` has these drops of `epoch` in its ledger. A drop that every one of `stations` has is forgotten.
    pub fn drops_acknowledged(
        &mut self,
        station: &str,
        stations: &[String],
        epoch: u64,
        ids: &[u64],
    ) -> Result<(), WalError> {
        if ids.is_empty() {
            return Ok(());
        }
        let forgotten = self.write(|txn| {
            let mut forgotten = 0;
            for id in ids {
                let found =
                    txn.open_table(DROPS)?.get((epoch, *id))?.map(|v| read_drop(v.value())).transpose()?;
                let Some((mut known, drop)) = found else { continue };
                if !known.iter().any(|k| k == station) {
                    known.push(station.to_owned());
                }
                if stations.iter().all(|s| known.contains(s)) {
                    txn.open_table(DROPS)?.remove((epoch, *id))?;
                    forgotten += 1;
                } else {
                    custody::insert_drop(txn, epoch, &drop, &known)?;
                }
            }
            Ok(forgotten)
        })?;
        self.state.drops = self.state.drops.saturating_sub(forgotten);
        Ok(())
    }

    /// Begins a new epoch: what is on board goes into it under the same sequences, and the old one is closed.
    pub fn begin_epoch(&mut self) -> Result<(), WalError> {
        let old = self.epochs("")?.pop().ok_or(WalError::Damaged("no epoch"))?;
        let life = new_life(&self.env, self.state.life.start_counter + 1);
        self.write(|txn| {
            let mut meta = txn.open_table(META)?;
            for (name, value) in [
                (META_EPOCH, life.epoch),
                (META_START_COUNTER, life.start_counter),
                (META_STARTED, life.started_unix_nano),
            ] {
                meta.insert(name, &value.to_le_bytes()[..])?;
            }
            let lanes = old.lanes.iter().map(|l| link::Lane { on_board: Vec::new(), ..l.clone() });
            let closed = link::Epoch { drops: Vec::new(), closed: true, lanes: lanes.collect(), ..old };
            txn.open_table(EPOCHS)?.insert(closed.epoch, closed.encode_to_vec().as_slice())?;
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
            Ok(())
        })?;
        tracing::error!(
            old = format!("{:016x}", self.state.life.epoch),
            new = format!("{:016x}", life.epoch),
            "the ground knows a later state of this log: a new epoch begins"
        );
        self.state.life = life;
        Ok(())
    }

    /// Checks every segment; returns how many there were and how many were damaged.
    pub fn verify(&mut self) -> Result<(u64, u64), WalError> {
        let (mut checked, mut damaged) = (0, 0);
        for (lane, sequences) in self.on_board() {
            for sequence in sequences.iter().flatten() {
                checked += 1;
                damaged += u64::from(!self.verify_segment(lane, sequence)?);
            }
        }
        Ok((checked, damaged))
    }

    fn on_board(&self) -> Vec<(Lane, RangeSet)> {
        self.state.lanes.iter().map(|(lane, l)| (*lane, l.on_board.clone())).collect()
    }

    /// Checks the payload of a segment against its hash; a damaged one is dropped with the reason `corruption`. Whether it is whole.
    pub fn verify_segment(&mut self, lane: Lane, sequence: u64) -> Result<bool, WalError> {
        let txn = self.db()?.begin_read()?;
        let record = txn
            .open_table(SEGMENTS)?
            .get((lane.0, sequence))?
            .map(|v| SegmentRecord::from_bytes(v.value()))
            .transpose()?;
        drop(txn);
        let Some(record) = record else { return Ok(true) };
        let payload = self.payload(lane, sequence)?.unwrap_or_default();
        if perigee_shared::segment::hash(&payload) == record.header.hash {
            return Ok(true);
        }
        self.drop_segments(vec![record.header], DropReason::Corruption)?;
        Ok(false)
    }
}
