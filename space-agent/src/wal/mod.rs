//! The write-ahead log: what makes an accepted request durable, and where segments stay until they are delivered.
//!
//! [`Wal`] is a synchronous struct that alone owns its database. What can be done with it is grouped by noun, in the order in which
//! data passes: requests go into the [`Journal`] group by group; the batcher takes groups from it and puts a sealed segment in
//! their place ([`Segments`]); consumers read segments and pass them ([`Custody`]), the link in the order of its [`Queues`]; a
//! segment that all have passed is deleted. [`Bases`] are what segments depend on, [`Recoding`] undoes that, and [`Epochs`] is
//! what the log and a ground tell each other.
//!
//! The file, its failures and its transactions are the store kit's ([`perigee_shared::store`]): a transaction hands back
//! edits, which change the state in memory when it is committed.

mod acknowledged;
#[cfg(test)]
mod base_tests;
mod bases;
mod begin;
mod boots;
#[cfg(test)]
mod clock_tests;
mod common;
#[cfg(test)]
mod common_tests;
mod contradicted;
mod copy;
mod custody;
#[cfg(test)]
mod damage_tests;
mod drops;
#[cfg(test)]
mod epoch_tests;
mod epochs;
mod front;
#[cfg(test)]
mod front_tests;
mod group;
mod had;
#[cfg(test)]
mod had_tests;
mod journal;
#[cfg(test)]
mod lane_tests;
mod lanes;
mod left;
mod mirror;
#[cfg(test)]
mod mirror_tests;
mod offers;
mod passes;
mod reached;
#[cfg(test)]
mod read_only_tests;
mod recode;
mod restored;
mod salvage;
#[cfg(test)]
mod salvage_tests;
mod salvaged;
mod scrub;
mod seal;
mod sent;
mod state;
mod tables;
mod talks;
mod tally;
#[cfg(test)]
mod tests;
mod volatile;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use perigee_proto::link::DropReason;
use perigee_shared::env::{Env, SinceBoot};
use perigee_shared::from_redb;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Header, HeaderError, Lane};
use perigee_shared::signal::{Counts, SignalSet};
use perigee_shared::store::{Database, Failure, Quarantine, StoreError};
use prost::Message;
use redb::{ReadTransaction, WriteTransaction};
use tokio::sync::watch;

pub use bases::{Bases, Chain, LONGEST_CHAIN};
pub use copy::{Backup, LogFile};
pub use custody::{ConsumerId, Custody, Delivery};
pub use epochs::{Epochs, GroundLane, GroundView, NewDrops, Reconciled};
pub use group::Accepted;
pub use had::Held;
pub use journal::Journal;
pub use lanes::{LaneSummary, Queues, Smaller, ToShip};
pub use mirror::{Mirroring, owner};
pub use offers::{Amount, Damage, Offered, Wanted};
pub use passes::Passes;
pub use reached::Reached;
pub use recode::{Asked, Cannot, Recodable, Recoded, Recoder, Recoding, Sending};
pub use scrub::{Scrub, Scrubbed};
pub use seal::{Batch, BatchLimits, Encoding, SealError, Sealed, Segments, Unsealed};
pub use state::Life;
#[cfg(test)]
pub(crate) use tests::{config, seal};
pub use volatile::{InMemory, Volatile};

use crate::lanes::Lanes;
use boots::Ages;
use group::GroupWriter;
use state::{Edit, State};

/// Why the log could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The byte budget is used up and the policy is to refuse.
    #[error("the write-ahead log has used its {budget} bytes")]
    Full {
        /// The budget.
        budget: u64,
    },
    /// The store.
    #[error("the write-ahead log: {0}")]
    Store(#[from] StoreError),
    /// A base that a segment depends on was lost to damage.
    #[error("segment {0} of its lane, which another one depends on, is missing")]
    MissingBase(u64),
    /// What a segment was made of is in another one, or gone.
    #[error("what the segment was made of is in another one already")]
    Stale,
    /// Every number of a consumer is taken.
    #[error("too many consumers; release those that are gone with `wal release NAME`")]
    Consumers,
    /// A file from which nothing can be salvaged.
    #[error("cannot salvage {}: {why}", .path.display())]
    Unsalvageable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A compressor could not be made.
    #[error("{0}")]
    Compressor(#[from] std::io::Error),
}

from_redb!(WalError);

impl Failure for WalError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

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
    /// The id of the satellite whose log it is, if it has one: a log of another one is put aside.
    pub satellite: Option<String>,
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
    /// What happens when the store is gone for good.
    pub volatile: Volatile,
    /// Bytes that the journal and the segments may have together while they are in memory.
    pub volatile_bytes: u64,
}

/// A segment's header and who has still to pass it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRecord {
    /// One bit for each consumer's id.
    pub waiting: u64,
    /// What `waiting` was when it was sealed. Earlier software did not say.
    pub takers: Option<u64>,
    /// Items that a direct exporter's backend has refused for good, as software before format 4 noted them.
    pub refused: Counts,
    /// When it was sealed, by the clock that nobody sets. Earlier software did not say.
    pub sealed_at: Option<SinceBoot>,
    /// How long the oldest of its items had waited then, at least. Earlier software did not say.
    pub waited: Duration,
    /// The header.
    pub header: Header,
}

impl SegmentRecord {
    fn from_bytes(bytes: &[u8]) -> Result<Self, StoreError> {
        let short = || StoreError::Damaged("a segment's record".to_owned());
        let (waiting, rest) = bytes.split_first_chunk().ok_or_else(short)?;
        let (refused, header) = rest.split_at_checked(24).ok_or_else(short)?;
        let times = SealedAt::decode(header).map_err(|_| short())?;
        Ok(Self {
            waiting: u64::from_le_bytes(*waiting),
            takers: times.takers,
            refused: Counts::from_bytes(refused).ok_or_else(short)?,
            sealed_at: times.boot.zip(times.nano).map(|(boot, nano)| SinceBoot { boot, nano }),
            waited: Duration::from_millis(times.waited),
            header: Self::header_from(header)?,
        })
    }

    /// A header in a table.
    fn header_from(bytes: &[u8]) -> Result<Header, StoreError> {
        Header::from_bytes(bytes).map_err(|e| {
            StoreError::Damaged(match e {
                HeaderError::Format(_) => "a segment of a later format".to_owned(),
                other => format!("a segment's header: {other}"),
            })
        })
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.waiting.to_le_bytes().to_vec();
        out.extend(self.refused.to_bytes());
        out.extend(self.header.to_bytes());
        let (boot, nano) = (self.sealed_at.map(|at| at.boot), self.sealed_at.map(|at| at.nano));
        let waited = self.waited.as_millis() as u64;
        out.extend(SealedAt { boot, nano, takers: self.takers, waited }.encode_to_vec());
        out
    }

    /// How long ago the oldest of its items was accepted, at least.
    fn oldest(&self, ages: &Ages, env: &Env) -> Duration {
        self.age(ages, env).saturating_add(self.waited)
    }

    /// How long ago it was sealed, at least.
    fn age(&self, ages: &Ages, env: &Env) -> Duration {
        ages.of(self.sealed_at, env.bounds.judge(self.header.sealed_unix_nano).trusted())
    }
}

/// Fields of the protobuf message in a [`SegmentRecord`] that are not of the link's `SegmentHeader`: they never leave the satellite,
/// and earlier software passes over them.
#[derive(Clone, PartialEq, prost::Message)]
struct SealedAt {
    #[prost(fixed64, optional, tag = "100")]
    boot: Option<u64>,
    #[prost(fixed64, optional, tag = "101")]
    nano: Option<u64>,
    #[prost(fixed64, optional, tag = "102")]
    takers: Option<u64>,
    /// In ms.
    #[prost(uint64, tag = "103")]
    waited: u64,
}

/// What is on board and what has become of the rest. `accepted = delivered + dropped + in_segments + in_journal`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The current life.
    pub life: Life,
    /// Items ever accepted.
    pub accepted: Counts,
    /// Items that every consumer of their signal has had.
    pub delivered: Counts,
    /// Items dropped, by reason.
    pub dropped: Vec<(DropReason, Counts)>,
    /// Items in sealed segments that a consumer waits for.
    pub in_segments: Counts,
    /// Items in the journal that are not in a segment yet.
    pub in_journal: Counts,
    /// Sealed segments.
    pub segments: u64,
    /// Bytes of their payloads.
    pub segment_bytes: u64,
    /// Bytes of the journal that are not in a segment yet.
    pub unsealed_bytes: u64,
    /// Bytes of the journal that are, and are deleted together with later ones.
    pub sealed_bytes: u64,
    /// Bytes of delivered segments that later ones depend on.
    pub base_bytes: u64,
    /// Lane by lane, most urgent first.
    pub lanes: Vec<LaneSummary>,
    /// Bytes that count against the budget.
    pub stored_bytes: u64,
    /// The budget.
    pub max_bytes: u64,
    /// Length of the file, and bytes that it takes on the volume.
    pub file_bytes: (u64, u64),
    /// What was accepted without a store.
    pub in_memory: InMemory,
    /// It cannot be written.
    pub failing: bool,
    /// The time is not before this, for certain, as far as the log knows.
    pub clock_floor: u64,
}

/// What is known of this opening of the log alone, and not needed after a failure.
#[derive(Debug, Default)]
struct Notes {
    /// Segments that were sealed since and never on a wire. Whatever else is on board may be on the ground.
    unsent: BTreeMap<Lane, RangeSet>,
    /// Which stations have which bases.
    heard: bases::Heard,
    /// With whom the link talks, and what is under way.
    talks: talks::Talks,
    /// What was sent to whom.
    sent: sent::Sent,
    /// A ground has answered, and knows no later state of this log.
    answered: bool,
    /// What direct exporters are in the middle of.
    hands: had::Hands,
}

/// The write-ahead log.
pub struct Wal {
    log: Database<State>,
    notes: Notes,
    /// The opening that the notes are of.
    opening: u64,
    writer: GroupWriter,
    front: front::Access,
    mirrored: mirror::Written,
    growth: passes::Growth,
    scrub: scrub::Place,
    /// Why the log is given up, for who waits for it.
    given_up: watch::Sender<Option<String>>,
    /// The journal has changed though nobody has handed it a request.
    unasked: watch::Sender<()>,
    /// The store that is gone, while the log is in memory; what was accepted there earlier; and since when the store fails.
    away: Option<volatile::Away>,
    in_memory: InMemory,
    failing_since: Option<u64>,
    /// A request was refused because the byte budget was used up, and there was no room to speak of since.
    was_full: bool,
}

impl Wal {
    /// Opens the log in `config.directory`, or begins one; see [`Wal::take_quarantine`].
    pub fn open(config: WalConfig, env: Env) -> Result<Self, WalError> {
        let (directory, ballast) = (config.directory.clone(), config.ballast);
        let log = match Database::open(env.clone(), &directory, config.clone(), ballast) {
            Err(error @ (StoreError::Io(_) | StoreError::Full | StoreError::File { .. }))
                if config.volatile == Volatile::Accept =>
            {
                return volatile::open(config, &env, &error);
            }
            log => log?,
        };
        let mut wal = Self::with(log)?;
        wal.custody().register_consumers()?;
        wal.queues().register_rules()?;
        if let Err(error) = wal.queues().note_boot(boots::AT_ONCE) {
            tracing::warn!(%error, "this start of the machine could not be noted; the next segment does");
        }
        // A log that was never sealed anything in leaves a trace beside it too.
        wal.mirror().write();
        Ok(wal)
    }

    /// Opens a log that is there and whole, for a look at it: makes nothing and moves nothing aside.
    pub fn open_existing(config: WalConfig, env: Env) -> Result<Self, WalError> {
        let directory = config.directory.clone();
        Self::with(Database::open_existing(env, &directory, config)?)
    }

    fn with(log: Database<State>) -> Result<Self, WalError> {
        let growth = passes::Growth::new(log.env().since_boot().nano);
        let (opening, writer) = (log.openings(), GroupWriter::new()?);
        let (scrub, given_up, unasked) =
            (scrub::Place::default(), watch::Sender::new(None), watch::Sender::new(()));
        Ok(Self {
            log,
            notes: Notes::default(),
            opening,
            writer,
            front: front::Access::default(),
            mirrored: mirror::Written::default(),
            growth,
            scrub,
            given_up,
            unasked,
            away: None,
            in_memory: InMemory::default(),
            failing_since: None,
            was_full: false,
        })
    }

    /// The way in: commit groups.
    pub const fn journal(&mut self) -> Journal<'_> {
        Journal(self)
    }

    /// From groups to segments.
    pub const fn segments(&mut self) -> Segments<'_> {
        Segments(self)
    }

    /// Who has still to pass what.
    pub const fn custody(&mut self) -> Custody<'_> {
        Custody(self)
    }

    /// Lane by lane: order, quotas, lifetimes.
    pub const fn queues(&mut self) -> Queues<'_> {
        Queues(self)
    }

    /// What segments depend on.
    pub const fn bases(&mut self) -> Bases<'_> {
        Bases(self)
    }

    /// Segments that are encoded again.
    pub const fn recoding(&mut self) -> Recoding<'_> {
        Recoding(self)
    }

    /// What the log and a ground tell each other.
    pub const fn epochs(&mut self) -> Epochs<'_> {
        Epochs(self)
    }

    /// What lies in the log, compared with its checksums.
    pub const fn scrub(&mut self) -> Scrub<'_> {
        Scrub(self)
    }

    /// Reports of passes, and growth.
    pub const fn passes(&mut self) -> Passes<'_> {
        Passes(self)
    }

    /// The counters beside the log.
    pub const fn mirror(&mut self) -> Mirroring<'_> {
        Mirroring(self)
    }

    /// The log's file as a whole.
    pub const fn file(&mut self) -> LogFile<'_> {
        LogFile(self)
    }

    const fn state(&self) -> &State {
        self.log.contents()
    }

    const fn config(&self) -> &WalConfig {
        self.log.settings()
    }

    const fn env(&self) -> &Env {
        self.log.env()
    }

    /// Opens the log again if it failed, and forgets what was noted of the opening before.
    fn ready(&mut self) -> Result<(), WalError> {
        volatile::try_to_return(self)?;
        if let Err(error) = self.log.ensure_open() {
            return volatile::survive(self, error);
        }
        self.failing_since = None;
        if self.opening != self.log.openings() {
            let notes = std::mem::take(&mut self.notes);
            if notes.sent.is_of(self.state().life.epoch) {
                // Connections go on over it.
                (self.notes.talks, self.notes.sent) = (notes.talks, notes.sent);
            }
            self.opening = self.log.openings();
            self.front = front::Access::default();
            self.custody().register_consumers()?;
            self.queues().register_rules()?;
            self.mirror().write();
            self.unasked.send_replace(());
        }
        Ok(())
    }

    /// One transaction; what it changes in memory is changed when it is committed.
    fn write<R>(
        &mut self,
        work: impl FnOnce(&WriteTransaction, &State) -> Result<(R, Vec<Edit>), WalError>,
    ) -> Result<R, WalError> {
        self.write_passing(0, work)
    }

    /// [`Wal::write`] by which no lane waits any more for groups below `position`: they need not be in the table.
    fn write_passing<R>(
        &mut self,
        position: u64,
        work: impl FnOnce(&WriteTransaction, &State) -> Result<(R, Vec<Edit>), WalError>,
    ) -> Result<R, WalError> {
        self.ready()?;
        self.write_to_open(position, work)
    }

    /// The same for what was worked out from the state as it is now: the log that is open stays so, though a store may be back.
    fn write_to_open<R>(
        &mut self,
        position: u64,
        work: impl FnOnce(&WriteTransaction, &State) -> Result<(R, Vec<Edit>), WalError>,
    ) -> Result<R, WalError> {
        self.log.write(|txn, state| {
            for (number, group) in state.front.range(position..) {
                salvage::insert_group(txn, *number, group)?;
            }
            let (out, mut change) = work(txn, state)?;
            change.insert(0, Edit::FrontSettled(position));
            Ok(perigee_shared::store::Done { out, change })
        })
    }

    fn read<R>(
        &mut self,
        work: impl FnOnce(&ReadTransaction, &State) -> Result<R, WalError>,
    ) -> Result<R, WalError> {
        self.ready()?;
        self.log.read(work)
    }

    /// What is on board and what has become of the rest.
    pub fn summary(&self) -> Summary {
        let state = self.state();
        let reason =
            |(reason, items): (&i32, &Counts)| (DropReason::try_from(*reason).unwrap_or_default(), *items);
        Summary {
            life: state.life,
            accepted: state.tally.accepted,
            delivered: state.tally.delivered + state.delivered_on_board,
            dropped: state.tally.dropped.iter().map(reason).collect(),
            in_segments: state.in_segments.saturating_sub(state.delivered_on_board),
            in_journal: state.in_journal(),
            segments: state.segments,
            segment_bytes: state.segment_stored,
            unsealed_bytes: state.unsealed_stored,
            sealed_bytes: state.sealed_stored,
            base_bytes: state.base_stored,
            lanes: lanes::summaries(state),
            stored_bytes: state.stored(),
            max_bytes: self.config().max_bytes,
            file_bytes: self.log.file_bytes(),
            in_memory: volatile::accepted(self),
            failing: self.trouble().is_some(),
            clock_floor: state.clock_floor,
        }
    }

    /// The log's file when it is no longer in its place, and whether it was moved: a moved one is still written, whatever is in its
    /// place now.
    pub fn missing(&self) -> Option<(PathBuf, bool)> {
        let is_gone = self.away.is_none() && self.log.is_elsewhere();
        is_gone.then(|| (self.log.path().to_owned(), self.log.is_there()))
    }

    /// Why the log cannot be written, as far as is known; `None` while it can.
    pub fn failing(&self) -> Option<&str> {
        self.log.failing()
    }

    /// The same, and a file that is no longer there: nothing was written since, so that nothing has failed yet.
    pub fn trouble(&self) -> Option<String> {
        let gone = || self.log.taken_away().filter(|_| self.away.is_none());
        self.failing().map(str::to_owned).or_else(gone)
    }

    /// Says why once the log will never be written again in this process.
    pub fn given_up(&self) -> watch::Receiver<Option<String>> {
        self.given_up.subscribe()
    }

    /// Changes when something is in the journal that nobody has handed to it now: from another file, from memory, or after the log was
    /// opened again.
    pub fn unasked(&self) -> watch::Receiver<()> {
        self.unasked.subscribe()
    }

    /// The next file that was put aside since this was last asked.
    pub fn take_quarantine(&mut self) -> Option<Quarantine> {
        self.log.take_quarantine()
    }

    /// Closes the file in order, so that the next start need not repair it.
    pub fn close(mut self) -> Result<(), WalError> {
        volatile::end(&mut self)?;
        self.journal().settle_front()?;
        self.mirror().write_last();
        Ok(self.log.close()?)
    }
}

/// Collects a map or a set one by one: `collect` sorts first, and each type that is sorted takes seven kilobytes of the program.
fn gathered<T, C: Default + Extend<T>>(items: impl IntoIterator<Item = T>) -> C {
    let mut out = C::default();
    out.extend(items);
    out
}
