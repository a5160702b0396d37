//! The journal: the way into the log. What is appended is durable, one commit for all of it.

use perigee_proto::link::DropReason;
use perigee_shared::segment::Lane;
use perigee_shared::signal::{Counts, TimeRange};

use super::common::next_number;
use super::group::{Accepted, TARGET_RAW};
use super::salvaged::{self, Identity};
use super::state::{self, Edit, GroupMeta};
use super::tables::*;
use super::{Wal, WalError, WhenFull, begin, drops, group, salvage};

/// The way in: commit groups.
pub struct Journal<'a>(pub(super) &'a mut Wal);

impl Journal<'_> {
    /// Makes `requests` durable: one commit, synced when this returns. What is refused is not there after the log has been opened
    /// again, unless the power failed in between.
    pub fn append(&mut self, requests: &[Accepted]) -> Result<(), WalError> {
        self.0.ready()?;
        let budget = self.0.config().max_bytes;
        self.0.was_full = self.is_full();
        if self.0.state().stored() >= budget {
            self.purge()?;
        }
        if self.0.state().stored() >= budget {
            match self.0.config().when_full {
                WhenFull::Refuse => return Err(self.refuse(budget)),
                WhenFull::DropNewest => return self.drop_newest(requests),
                WhenFull::DropOldest => self.0.custody().drop_oldest()?,
            }
        }
        self.commit(requests, &[])
    }

    /// Makes `requests` durable that came from another file, and notes there what they are, in one commit. Nothing is dropped for them,
    /// and a part of the budget stays for requests that come.
    pub(super) fn append_salvaged(
        &mut self,
        requests: &[Accepted],
        identities: &[Identity],
    ) -> Result<(), WalError> {
        self.0.ready()?;
        let budget = self.0.config().max_bytes;
        // This commit may go that far beyond.
        let kept_free = (budget / 16 + TARGET_RAW as u64).min(budget / 4);
        if self.0.state().stored() >= budget - kept_free {
            self.purge()?;
        }
        if self.0.state().stored() >= budget - kept_free {
            return Err(WalError::Full { budget });
        }
        self.commit(requests, identities)?;
        self.0.unasked.send_replace(());
        Ok(())
    }

    fn commit(&mut self, requests: &[Accepted], identities: &[Identity]) -> Result<(), WalError> {
        let (epoch, from) = (self.0.state().life.epoch, self.0.state().next_group);
        let result = self.append_groups(requests, identities);
        if result.is_err() && self.0.failing().is_some() {
            // They may be on the disk all the same.
            begin::note_refused(self.0.env(), self.0.config(), epoch, from);
        }
        result
    }

    /// Whether requests are refused because the byte budget is used up, or were until a moment ago.
    pub fn is_full(&self) -> bool {
        let budget = self.0.config().max_bytes;
        self.0.was_full && self.0.state().stored() >= budget - budget / 16
    }

    fn refuse(&mut self, budget: u64) -> WalError {
        if !self.is_full() {
            tracing::error!(
                event.name = "perigee.wal.full",
                max_bytes = budget,
                "the store is full: requests are refused until a contact or an exporter has taken something; nothing is lost"
            );
        }
        self.0.was_full = true;
        WalError::Full { budget }
    }

    fn append_groups(&mut self, requests: &[Accepted], identities: &[Identity]) -> Result<(), WalError> {
        let Wal { log, writer, .. } = &mut *self.0;
        let (env, state) = (log.env(), log.contents());
        let clocks = (env.unix_nano(), env.since_boot());
        let mut tally = state.tally.clone();
        let rules = state.rules_of(next_number(state)).cloned();
        let mut groups = Vec::new();
        for (run, number) in group::runs(requests).zip(next_number(state)..) {
            let (header, group) = writer.write(number, run, tally.accepted, clocks)?;
            tally.accepted = header.accepted;
            let shares = match &rules {
                None => state::all_bulk(&header),
                Some(rules) => group::shares_of(rules, run),
            };
            groups.push((number, group, shares));
        }
        // The front has room for groups alone.
        let bytes = groups.iter().map(|(_, group, _)| group.len()).sum();
        let small = identities.is_empty() && self.is_small(bytes);
        // A log of that format has a front.
        let format = if small && self.open_front() { FRONT_FORMAT } else { GROUPS_FORMAT };
        let raise = self.0.state().format < format;
        let appended: Vec<Edit> = std::iter::once(Edit::Tally(tally))
            .chain(groups.iter_mut().map(|(number, group, shares)| Edit::Group {
                group: GroupMeta { number: *number, stored: group.len() as u64 },
                received: (clocks.0, Some(clocks.1)),
                shares: std::mem::take(shares),
            }))
            .collect();
        if small
            && !raise
            && self.append_to_front(groups.iter().map(|(number, group, _)| (*number, &group[..])))
        {
            let front = groups.into_iter().map(|(number, group, _)| (number, group.into())).collect();
            self.0.log.apply(appended.into_iter().chain([Edit::Fronted(front)]).collect());
            return Ok(());
        }
        self.0.write_to_open(0, |txn, _| {
            for (number, group, _) in &groups {
                salvage::insert_group(txn, *number, group)?;
            }
            if let Some((number, ..)) = groups.first().filter(|_| !identities.is_empty()) {
                salvaged::remember(txn, *number, identities.iter().copied())?;
            }
            if raise {
                raise_format(txn, format)?;
            }
            Ok(((), appended.into_iter().chain([Edit::Raised(format)]).collect()))
        })
    }

    /// Takes requests and drops them at once, counted.
    fn drop_newest(&mut self, requests: &[Accepted]) -> Result<(), WalError> {
        let mut items = Counts::ZERO;
        let mut time = TimeRange::EMPTY;
        for request in requests {
            items += Counts::of(request.signal, request.walked.items);
            time.merge(request.walked.time);
        }
        let drop =
            drops::of_unsealed(DropReason::QuotaNewest, Lane::BULK, items, time, self.0.env().unix_nano());
        self.0.write(|txn, state| {
            let mut tally = state.tally.clone();
            tally.accepted += items;
            drops::record(txn, &mut tally, state.life.epoch, drop, false)?;
            tally.store(txn)?;
            Ok(((), vec![Edit::Tally(tally)]))
        })
    }

    /// Deletes groups that every lane has passed and that were left to be deleted together.
    pub(super) fn purge(&mut self) -> Result<(), WalError> {
        let state = self.0.state();
        let (from, position) = (state.sealed_from, state.waited_for(Lane::BULK, 0));
        if from >= position || state.sealed_stored == 0 {
            return Ok(());
        }
        self.0.write(|txn, _| {
            txn.open_table(JOURNAL)?.retain_in(groups(from, position), |_, _| false)?;
            Ok(((), vec![Edit::Purged(position)]))
        })
    }

    /// Drops a commit group that does not decode: what lanes have not sealed of it is counted and reported. When its items were
    /// recorded is not known any more; the time of its commit is said instead.
    pub fn drop_group(&mut self, number: u64) -> Result<(), WalError> {
        let now = self.0.env().unix_nano();
        self.0.write(|txn, state| {
            txn.open_table(JOURNAL)?.retain_in(groups(number, number + 1), |_, _| false)?;
            set_numbers(txn, &[(META_NEXT_GROUP, state.next_group)])?;
            let mut tally = state.tally.clone();
            for (lane, of) in &state.lanes {
                let Some(group) = of.pending_at(number) else { continue };
                let time = TimeRange { start: group.received, end: group.received };
                let drop = drops::of_unsealed(DropReason::Corruption, *lane, group.items, time, now);
                drops::record(txn, &mut tally, state.life.epoch, drop, false)?;
            }
            tally.store(txn)?;
            Ok(((), vec![Edit::Tally(tally), Edit::GroupLost(number)]))
        })
    }
}
