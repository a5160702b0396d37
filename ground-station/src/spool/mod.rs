//! The spool: committed segments that are still to be exported, and the ledger of everything that was ever committed.
//!
//! [`Store`] is the asynchronous interface that everything else uses, by role: [`Intake`], [`Outlet`], [`Replays`], [`Views`] and
//! [`Upkeep`]. Behind it stands the file of one station (`local.rs`), or PostgreSQL, which several stations share ([`postgres`]),
//! with the same roles; the rules below are the same functions for both.
//! `Spool` owns the redb file, opened, verified and replaced by [`perigee_shared::store`]. The modules are named for what they
//! know: each is functions over the spool's transactions. A transaction that changes the tables says what changes in memory
//! (`Effect`), and that happens when it is committed.
//!
//! What holds:
//! - What a commit reports as new or held is synced.
//! - A sequence is in the ledger at most once; a drop and a commit of one sequence count once, as the commit.
//! - A segment leaves when every exporter of each of its signals has passed it, into dead-letter, or as a gap because its bytes are
//!   damaged; never otherwise.
//! - What is kept after that, for replays, is in none of the counts below.
//! - Bytes are used only when they have the hash that was committed.
//! - A segment that later ones may need is kept as a base in the transaction that commits it, and stays while the satellite
//!   may need it or something here depends on it.
//! - `committed = exported + dead-lettered + lost + in the spool`, in every committed transaction.

mod error;
mod tables;

mod contents;
mod counters;
mod file;
mod migrate;
mod mirror;
mod own_gaps;
mod remembered;
mod rescue;

pub mod alarms;
mod archive;
mod bases;
mod catalogue;
mod clocks;
mod gaps;
mod handover;
mod intake;
pub(crate) mod ledger;
mod namesakes;
mod passes;

mod decode;
mod letters;
mod outlet;
mod replay;
pub mod scrub;
mod turns;

mod columns;
mod look;
mod news;
mod standing;
mod tail;
mod views;

mod local;
pub mod postgres;
mod store;
mod stream;
mod torn;
mod upkeep;

#[cfg(test)]
mod base_tests;
#[cfg(test)]
#[macro_use]
mod both_tests;
#[cfg(test)]
mod ahead_tests;
#[cfg(test)]
mod alarms_tests;
#[cfg(test)]
mod archive_tests;
#[cfg(test)]
mod budget_tests;
#[cfg(test)]
mod catalogue_tests;
#[cfg(test)]
mod cut_off_tests;
#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod failover_tests;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod fleet_tests;
#[cfg(test)]
mod format_tests;
#[cfg(test)]
mod loss_tests;
#[cfg(test)]
mod migration_tests;
#[cfg(test)]
mod namesakes_tests;
#[cfg(test)]
mod passes_tests;
#[cfg(test)]
mod returned_tests;
#[cfg(test)]
mod tests;

pub use alarms::AlarmView;
pub use catalogue::{CatalogueView, Delay, Keep, UNDECODABLE, Wanted};
pub use clocks::{ClockView, Greeting, Offset, Reading, shown_offset};
pub use columns::{ColumnView, ColumnsView, SegmentColumns};
pub use contents::Settings;
pub use counters::Kind;
pub use decode::{PIECES, Work};
pub use error::SpoolError;
pub use intake::{Age, Applied, Incoming, Piece};
pub use ledger::Answer;
pub use letters::{Letter, LetterView, Replay};
pub use look::{
    AwayView, Digest, ExporterDigest, Glance, Part, PartialDigest, Portrait, Records, SatelliteDigest,
};
pub use namesakes::NamesakeView;
pub use news::{KnownLists, News};
pub use outlet::{Place, Progress};
#[cfg(test)]
pub(crate) use passes::KEPT as KEPT_PASSES;
pub use passes::{Ending, Heard, HeardView, Pass, PassReportView, PassView, PlannedTimes};
pub use replay::{Again, ReplayStep, ReplayView, ReplayWanted};
pub use standing::{AgentView, BacklogView, NextContact, PlanView, StandingView};
#[cfg(test)]
pub(crate) use standing::{NAME as LONGEST_NAME, TEXT as LONGEST_TEXT};
pub use store::{Intake, Outlet, Replays, Store, Taken, Upkeep, Views};
pub use tail::{ItemView, Tail};
pub use upkeep::Status;
pub use views::{
    AccountView, EpochView, ExporterView, GapView, Gaps, Items, LaneView, PartialView, SatelliteView,
    SpoolView,
};
