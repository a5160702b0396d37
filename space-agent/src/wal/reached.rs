//! How far a direct exporter is in a lane.
//!
//! It has one cursor for each lane. While that stays at a request that the backend does not decide about, the other signals of the
//! lane have cursors ahead of it; once the request is decided, the lane's cursor goes on past what is done already. Software that does
//! not know them sends what lies between once more.

use perigee_shared::segment::{Header, Lane, SegmentId};
use perigee_shared::signal::{Signal, SignalSet};
use redb::ReadableTable;

use super::custody::read_record;
use super::state::Edit;
use super::tables::*;
use super::{ConsumerId, Custody, SegmentRecord, WalError, had};

/// See the module. Each is a segment, and how many of its requests are done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reached {
    /// That of the lane.
    pub lane: (u64, u64),
    pub(super) ahead: [Option<(u64, u64)>; 3],
}

impl Reached {
    /// How many requests of a segment have been decided, as far as they are of this signal.
    pub fn done(&self, sequence: u64, signal: Signal) -> u64 {
        let of_lane = if self.lane.0 == sequence { self.lane.1 } else { 0 };
        let ahead = match self.ahead[signal.slot()] {
            Some((at, _)) if at > sequence => u64::MAX,
            Some((at, requests)) if at == sequence => requests,
            _ => 0,
        };
        of_lane.max(ahead)
    }

    /// Whether a signal is ahead of its lane.
    pub fn is_apart(&self) -> bool {
        self.ahead.iter().any(Option::is_some)
    }
}

impl Custody<'_> {
    /// Where `consumer` is in `lane`.
    pub fn reached(&mut self, consumer: ConsumerId, lane: Lane) -> Result<Reached, WalError> {
        self.0.read(|txn, _| Ok(had::read(txn)?.reached(consumer, lane)?))
    }

    /// The first segment of `lane` from `sequence` on that `consumer` has not passed, and from where on to look the next time: what
    /// was passed stays so. While some signals are put aside, the first of which something of the others is not done.
    pub fn first_waiting(
        &mut self,
        consumer: ConsumerId,
        lane: Lane,
        sequence: u64,
        others: Option<SignalSet>,
    ) -> Result<(Option<Header>, u64), WalError> {
        let others =
            others.map(|others| Ok::<_, WalError>((others, self.reached(consumer, lane)?))).transpose()?;
        let end = self.0.state().lanes.get(&lane).map_or(0, |l| l.next_sequence);
        let found = self.0.read(|txn, _| {
            for entry in txn.open_table(SEGMENTS)?.range(lane_from(lane, sequence))? {
                let SegmentRecord { header, waiting, .. } = SegmentRecord::from_bytes(entry?.1.value())?;
                let wanted = others.is_none_or(|(others, reached)| {
                    let is_left = |signal| reached.done(header.id.sequence, signal) != u64::MAX;
                    header.items.signals().iter().any(|signal| others.contains(signal) && is_left(signal))
                });
                if waiting & consumer.bit() != 0 && wanted {
                    return Ok(Some(header));
                }
            }
            Ok(None)
        })?;
        let next = found.as_ref().map_or(end, |header| header.id.sequence);
        Ok((found, next))
    }

    /// Notes that nothing of these signals is left in a segment, nor in those before it, while the lane's cursor stays.
    pub fn pass_ahead(
        &mut self,
        consumer: ConsumerId,
        id: SegmentId,
        signals: SignalSet,
    ) -> Result<(), WalError> {
        let takers = had::takers(&self.0.state().consumers, self.0.config());
        self.0.write(|txn, _| {
            let mut table = txn.open_table(AHEAD)?;
            for signal in signals.iter() {
                let key = CursorKey { consumer: consumer.0, lane: id.lane.0 }.of(signal);
                // It may be further: another signal was decided in a segment that this one has long passed.
                let at = table.get(key)?.map(|c| c.value().sequence);
                if at.is_none_or(|at| at <= id.sequence) {
                    table.insert(key, Cursor { sequence: id.sequence + 1, requests: 0 })?;
                }
            }
            drop(table);
            let Some(record) = read_record(txn, id)? else { return Ok(((), Vec::new())) };
            let delivered = had::written(txn)?.delivered(&record, &takers)?;
            Ok(((), vec![Edit::Delivered(Place::of(id), delivered)]))
        })
    }

    /// Forgets cursors that the lane's has reached: it has passed the segment `id`.
    pub fn join(&mut self, consumer: ConsumerId, id: SegmentId) -> Result<(), WalError> {
        self.0.write(|txn, _| {
            let mut table = txn.open_table(AHEAD)?;
            for signal in Signal::ALL {
                let key = CursorKey { consumer: consumer.0, lane: id.lane.0 }.of(signal);
                let at = table.get(key)?.map(|c| c.value());
                let next = Cursor { sequence: id.sequence + 1, requests: 0 };
                if at.is_some_and(|at| at.sequence <= id.sequence || at == next) {
                    table.remove(key)?;
                }
            }
            Ok(((), Vec::new()))
        })
    }
}

impl CursorKey {
    /// That of one signal.
    pub(super) const fn of(self, signal: Signal) -> AheadKey {
        AheadKey { consumer: self.consumer, lane: self.lane, signal: signal as u8 }
    }
}

#[cfg(test)]
mod tests {
    use perigee_shared::signal::Counts;

    use super::*;
    use crate::wal::tests::{Bench, config, request, seal};

    #[test]
    fn a_signal_ahead_of_its_lane_is_done_up_to_there_and_no_further() {
        let mut bench = Bench::new();
        bench.config = config(bench.directory.path(), &[("a", SignalSet::ALL)]);
        let mut wal = bench.open();
        let mut ids = Vec::new();
        for n in 1..=3 {
            wal.journal().append(&[request(n, 5, 100)]).unwrap();
            ids.push(seal(&mut wal).unwrap().unwrap().id);
        }
        let a = wal.custody().consumer("a").unwrap();
        let [logs, others] = [Signal::Logs, Signal::Metrics].map(|signal| SignalSet::default().with(signal));
        // Metrics are put aside in the first segment; logs go on, into the second.
        wal.custody().advance(a, ids[0], None, 1, (Counts::ZERO, Counts::ZERO)).unwrap();
        wal.custody().pass_ahead(a, ids[0], logs).unwrap();
        wal.custody().advance(a, ids[1], Some(Signal::Logs), 4, (Counts::ZERO, Counts::ZERO)).unwrap();
        drop(wal);
        let mut wal = bench.open();
        let reached = wal.custody().reached(a, Lane::BULK).unwrap();
        let done = |n: usize, signal| reached.done(ids[n].sequence, signal);
        assert_eq!([done(0, Signal::Logs), done(0, Signal::Metrics)], [u64::MAX, 1]);
        assert_eq!([done(1, Signal::Logs), done(1, Signal::Metrics), done(2, Signal::Logs)], [4, 0, 0]);
        let first = |wal: &mut crate::wal::Wal, others| {
            wal.custody().first_waiting(a, Lane::BULK, 0, others).unwrap().0.map(|header| header.id)
        };
        assert_eq!(first(&mut wal, None), Some(ids[0]));
        assert_eq!(first(&mut wal, Some(logs)), Some(ids[1]));
        assert_eq!(first(&mut wal, Some(others)), None, "there are none");
        // Another signal passes the first segment: logs stay where they are.
        wal.custody().pass_ahead(a, ids[0], logs).unwrap();
        assert_eq!(wal.custody().reached(a, Lane::BULK).unwrap().done(ids[1].sequence, Signal::Logs), 4);
        // The lane reaches the second segment: what logs have done in it stays.
        wal.custody().pass(a, &[crate::wal::Delivery::whole(ids[0])]).unwrap();
        wal.custody().join(a, ids[0]).unwrap();
        assert_eq!(wal.custody().reached(a, Lane::BULK).unwrap().done(ids[1].sequence, Signal::Logs), 4);
        wal.custody().pass(a, &[crate::wal::Delivery::whole(ids[1])]).unwrap();
        wal.custody().join(a, ids[1]).unwrap();
        assert!(!wal.custody().reached(a, Lane::BULK).unwrap().is_apart());
    }
}
