//! The spool: committed segments that are still to be exported, and the ledger of everything that was ever committed.
//!
//! [`Spool`] is a synchronous struct that alone owns its redb file; [`Store`] is the asynchronous interface that everything
//! else uses, so that another store can stand behind it.
//!
//! What holds:
//! - What [`Spool::apply`] reports as new or held is synced.
//! - A sequence is in the ledger at most once; a drop and a commit of one sequence count once, as the commit.
//! - A segment leaves when every exporter of each of its signals has passed it, or into dead-letter, never otherwise.
//! - A segment that others may lean on is kept as a base in the transaction that commits it, and stays while the satellite
//!   may need it or something here leans on it.
//! - `committed = exported + dead-lettered + in the spool`, in every committed transaction.

#[cfg(test)]
mod base_tests;
mod bases;
mod columns;
mod counters;
mod error;
#[cfg(test)]
mod fault_tests;
mod intake;
mod ledger;
mod letters;
mod open;
mod outlet;
mod passes;
mod snapshot;
mod store;
mod tables;
#[cfg(test)]
mod tests;
mod views;

pub use columns::{ColumnView, ColumnsView, SegmentColumns};
pub use counters::Kind;
pub use error::SpoolError;
pub use intake::{Applied, Incoming, Piece};
pub use letters::{Letter, LetterView, Replay};
pub use open::{Settings, Spool, Usage};
pub use outlet::{Progress, Work};
pub use passes::PassView;
pub use snapshot::Snapshot;
pub use store::{Status, Store};
pub use views::{
    AccountView, EpochView, ExporterView, GapView, Items, LaneView, PartialView, SatelliteView, SpoolView,
};
