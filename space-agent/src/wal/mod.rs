//! The write-ahead log: what makes an accepted request durable, and where segments stay until they are delivered.
//!
//! [`Wal`] is a synchronous struct that alone owns its database. Requests go into the journal group by group
//! ([`Wal::append`]); the batcher takes groups from it ([`Wal::take_batch`]) and puts a sealed segment in their place
//! ([`Wal::commit_segment`]); consumers read segments and pass them ([`Wal::pass`]); a segment that all have passed is deleted.
//!
//! A write is one transaction. It changes the tables first and the state in memory only when the commit has succeeded. After an
//! error the database is closed and opened again, since redb refuses every write after a failed one, and the state is read anew.

#[cfg(test)]
mod base_tests;
mod bases;
mod custody;
mod epoch;
mod group;
#[cfg(test)]
mod lane_tests;
mod lanes;
mod mirror;
mod open;
mod passes;
mod recode;
mod seal;
mod state;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use perigee_proto::link::DropReason;
use perigee_shared::env::Env;
use perigee_shared::segment::{Header, HeaderError};
use perigee_shared::signal::{Counts, SignalSet};

pub use bases::{Chain, LONGEST_CHAIN};
pub use custody::{ConsumerId, Delivery};
pub use epoch::{GroundLane, GroundView, NewDrops, Reconciled};
pub use group::Accepted;
pub use lanes::{LaneSummary, ToShip};
pub use open::{Ballast, Quarantine};
pub use recode::{Asked, Cannot, Recoded, Recoder, Recoding, Sending};
pub use seal::{Batch, BatchLimits, Encoding, SealError, Sealed, Unsealed};
pub use state::Life;

use crate::lanes::Lanes;
use group::GroupWriter;
use state::State;

/// Why the log could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The byte budget is used up and the policy is to refuse.
    #[error("the write-ahead log has used its {budget} bytes")]
    Full {
        /// The budget.
        budget: u64,
    },
    /// The store failed. It is opened again before the next call.
    #[error("the store failed: {0}")]
    Storage(#[from] redb::Error),
    /// The store failed before and could not be opened again yet.
    #[error("the store is closed after a failure")]
    Closed,
    /// The tables hold something that we never write.
    #[error("the write-ahead log is damaged: {0}")]
    Damaged(&'static str),
    /// Written by later software.
    #[error(
        "the write-ahead log has format {found}, this software knows {known}: update it; nothing in the file was changed"
    )]
    Format {
        /// What the file says.
        found: u64,
        /// The latest that this software knows.
        known: u64,
    },
    /// Another process has it.
    #[error("another process has the write-ahead log open; end it or configure another storage.directory")]
    Locked,
    /// A file beside the database failed.
    #[error("{0}")]
    File(#[from] std::io::Error),
}

macro_rules! from_redb {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for WalError {
            fn from(e: redb::$error) -> Self {
                Self::Storage(e.into())
            }
        }
    )*};
}
from_redb!(TransactionError, TableError, StorageError, CommitError, SetDurabilityError, CompactionError);

impl From<redb::DatabaseError> for WalError {
    fn from(e: redb::DatabaseError) -> Self {
        match e {
            redb::DatabaseError::DatabaseAlreadyOpen => Self::Locked,
            other => Self::Storage(other.into()),
        }
    }
}

impl From<group::Damaged> for WalError {
    fn from(e: group::Damaged) -> Self {
        Self::Damaged(e.0)
    }
}

impl From<HeaderError> for WalError {
    fn from(e: HeaderError) -> Self {
        match e {
            HeaderError::Format(_) => Self::Damaged("a segment of a later format"),
            _ => Self::Damaged("a segment's header"),
        }
    }
}

/// How long a store that has failed is left alone, in ns.
const REOPEN_AFTER: u64 = 1_000_000_000;

/// What happens when the byte budget is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// New requests are refused, retryably.
    #[default]
    Refuse,
    /// The oldest segments are dropped.
    DropOldest,
    /// New requests are taken and dropped.
    DropNewest,
}

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct WalConfig {
    /// Its directory; `wal.redb` and the files beside it are in there.
    pub directory: PathBuf,
    /// Bytes that the journal and the segments may have together.
    pub max_bytes: u64,
    /// What happens above that.
    pub when_full: WhenFull,
    /// Bytes that are given back when the disk is full, so that deletes get through.
    pub ballast: u64,
    /// Consumers with the signals that their pipelines use.
    pub consumers: BTreeMap<String, SignalSet>,
    /// What goes into which lane, and how each is kept.
    pub lanes: Lanes,
}

/// A segment's header and who has still to pass it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRecord {
    /// One bit for each consumer's id.
    pub waiting: u64,
    /// Items that a direct exporter's backend has refused for good.
    pub refused: Counts,
    /// The header.
    pub header: Header,
}

impl SegmentRecord {
    fn from_bytes(bytes: &[u8]) -> Result<Self, WalError> {
        const SHORT: WalError = WalError::Damaged("a segment's record");
        let (waiting, rest) = bytes.split_first_chunk().ok_or(SHORT)?;
        let (refused, header) = rest.split_at_checked(24).ok_or(SHORT)?;
        Ok(Self {
            waiting: u64::from_le_bytes(*waiting),
            refused: Counts::from_bytes(refused).ok_or(SHORT)?,
            header: Header::from_bytes(header)?,
        })
    }

    /// Counts items as refused for good. Several exporters may refuse the same ones, so never more than there are.
    fn refuse(&mut self, items: Counts) {
        self.refused = (self.refused + items).min(self.header.items);
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.waiting.to_le_bytes().to_vec();
        out.extend(self.refused.to_bytes());
        out.extend(self.header.to_bytes());
        out
    }
}

/// What is on board and what has become of the rest. `accepted = delivered + dropped + in_segments + in_journal`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The current life.
    pub life: Life,
    /// Items ever accepted.
    pub accepted: Counts,
    /// Items of segments that every consumer has passed.
    pub delivered: Counts,
    /// Items dropped, by reason.
    pub dropped: Vec<(DropReason, Counts)>,
    /// Items in sealed segments.
    pub in_segments: Counts,
    /// Items in the journal that are not in a segment yet.
    pub in_journal: Counts,
    /// Sealed segments.
    pub segments: u64,
    /// Bytes of their payloads.
    pub segment_bytes: u64,
    /// Bytes of the journal that are not in a segment yet.
    pub unsealed_bytes: u64,
    /// Lane by lane, most urgent first.
    pub lanes: Vec<LaneSummary>,
    /// Bytes that count against the budget.
    pub stored_bytes: u64,
    /// The budget.
    pub max_bytes: u64,
    /// Length of the file, and bytes allocated to it.
    pub file_bytes: (u64, u64),
}

/// The write-ahead log.
pub struct Wal {
    config: WalConfig,
    env: Env,
    /// `None` after a failure, until it has been opened again.
    db: Option<redb::Database>,
    /// Until then it is not opened again: a disk that fails would be asked for every request.
    closed_until: u64,
    state: State,
    writer: GroupWriter,
    ballast: Ballast,
    growth: passes::Growth,
}

impl Wal {
    /// The database, opened again if it failed before.
    fn db(&mut self) -> Result<&redb::Database, WalError> {
        if self.db.is_none() {
            if self.env.unix_nano() < self.closed_until {
                return Err(WalError::Closed);
            }
            self.closed_until = self.env.unix_nano() + REOPEN_AFTER;
            self.reopen()?;
        }
        self.db.as_ref().ok_or(WalError::Closed)
    }

    /// Runs one transaction. When it fails the database is closed, since redb would refuse every further write.
    fn write<R>(
        &mut self,
        work: impl FnOnce(&redb::WriteTransaction) -> Result<R, WalError>,
    ) -> Result<R, WalError> {
        let db = self.db()?;
        let result = (|| {
            let txn = db.begin_write()?;
            let out = work(&txn)?;
            txn.commit()?;
            Ok(out)
        })();
        if let Err(WalError::Storage(error)) = &result {
            tracing::error!(%error, "the write-ahead log failed; it is opened again");
            self.db = None;
            self.closed_until = self.env.unix_nano() + REOPEN_AFTER;
            if open::is_disk_full(error) {
                self.ballast.release();
            }
        }
        result
    }

    /// Makes `requests` durable: one commit, synced when this returns.
    pub fn append(&mut self, requests: &[Accepted]) -> Result<(), WalError> {
        self.db()?;
        if self.state.stored() >= self.config.max_bytes {
            self.purge_sealed()?;
        }
        if self.state.stored() >= self.config.max_bytes {
            match self.config.when_full {
                WhenFull::Refuse => return Err(WalError::Full { budget: self.config.max_bytes }),
                WhenFull::DropNewest => return self.drop_newest(requests),
                WhenFull::DropOldest => self.drop_oldest()?,
            }
        }
        let received = self.env.unix_nano();
        let mut accepted = self.state.accepted;
        let first = self.state.next_group;
        let rules = self.state.rules_of(first).cloned();
        let mut groups = Vec::new();
        for run in group::runs(requests) {
            let (header, group) = self.writer.write(run, accepted, received)?;
            accepted = header.accepted;
            let shares = match &rules {
                None => state::all_bulk(&header),
                Some(rules) => group::shares_of(rules, run),
            };
            groups.push((shares, group));
        }
        self.write(|txn| {
            let mut journal = txn.open_table(tables::JOURNAL)?;
            for ((_, group), number) in groups.iter().zip(first..) {
                for (piece, index) in tables::pieces(group).zip(0..) {
                    journal.insert((number, index), piece)?;
                }
            }
            Ok(())
        })?;
        for ((shares, group), number) in groups.into_iter().zip(first..) {
            let stored = group.len() as u64;
            self.state.next_group = number + 1;
            self.state.push_group(state::GroupMeta { number, stored }, received, &shares);
        }
        self.state.accepted = accepted;
        Ok(())
    }

    /// What is on board and what has become of the rest.
    pub fn summary(&self) -> Summary {
        let state = &self.state;
        Summary {
            life: state.life,
            accepted: state.accepted,
            delivered: state.delivered,
            dropped: state
                .dropped
                .iter()
                .map(|(reason, items)| (DropReason::try_from(*reason).unwrap_or_default(), *items))
                .collect(),
            in_segments: state.in_segments,
            in_journal: state.in_journal(),
            segments: state.segments,
            segment_bytes: state.segment_stored,
            unsealed_bytes: state.unsealed_stored,
            lanes: self.lane_summaries(),
            stored_bytes: state.stored(),
            max_bytes: self.config.max_bytes,
            file_bytes: self.env.store.size(&self.path()).unwrap_or_default(),
        }
    }

    /// Whether the store can be written, as far as is known.
    pub const fn is_open(&self) -> bool {
        self.db.is_some()
    }
}
