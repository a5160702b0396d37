//! The counters once more, in a small checksummed file beside the log (`counters.json`, see [`perigee_shared::store::mirror`]):
//! what is still known when the log is missing or cannot be read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use perigee_proto::link::{self, DropReason};
use perigee_shared::env::Env;
use perigee_shared::segment::Lane;
use perigee_shared::signal::Counts;
use perigee_shared::store::mirror;
use serde::{Deserialize, Serialize};

use super::WalConfig;
use super::state::{Life, State};
use super::tally::Tally;

type Three = [u64; 3];

/// A lane, its next sequence, and the sequences on board from the first to the last.
type MirrorLane = (u8, u64, Option<(u64, u64)>);

fn three(counts: Counts) -> Three {
    let wire = link::Counts::from(counts);
    [wire.spans, wire.metric_points, wire.log_records]
}

fn counts([spans, metric_points, log_records]: Three) -> Counts {
    link::Counts { spans, metric_points, log_records }.into()
}

/// How a log stands to what lies beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// It is as late, or later.
    Current,
    /// The last seal is undone: a disk took back a commit that it had called safe. Nothing but numbers is lost.
    OneSealBehind,
    /// A backup, or an earlier life.
    Older,
}

/// What the file holds: the state at the last seal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mirror {
    epoch: u64,
    pub(super) start_counter: u64,
    started_unix_nano: u64,
    accepted: Three,
    delivered: Three,
    dropped: BTreeMap<i32, Three>,
    on_board: Three,
    next_drop: u64,
    /// Of `dropped`, what a station has heard of. Earlier software did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    told: Option<BTreeMap<i32, Three>>,
    lanes: Vec<MirrorLane>,
    /// Lane and journal position: what groups below it have for the lane is in a segment.
    #[serde(default)]
    positions: Vec<(u8, u64)>,
    /// The time is not before this, for certain.
    #[serde(default)]
    pub(super) clock_floor: u64,
    /// The satellite whose log it is. Software before format 4 did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) satellite: Option<String>,
}

impl Mirror {
    pub(super) const fn life(&self) -> Life {
        Life {
            epoch: self.epoch,
            start_counter: self.start_counter,
            started_unix_nano: self.started_unix_nano,
        }
    }

    pub(super) fn tally(&self) -> Tally {
        Tally {
            accepted: counts(self.accepted),
            delivered: counts(self.delivered),
            dropped: by_reason(&self.dropped, counts),
            next_drop: self.next_drop,
            told: self.told.as_ref().map(|told| by_reason(told, counts)),
            ..Tally::default()
        }
    }

    /// How a log with this life and these next sequences stands to the one that this was written of. `names` says whether the log
    /// names an epoch as an earlier one of its own.
    pub(super) fn compare(&self, life: Life, next: &BTreeMap<u8, u64>, names: impl Fn(u64) -> bool) -> Age {
        if self.epoch != life.epoch {
            // A later life of the same log names the one that it has ended.
            return if names(self.epoch) { Age::Current } else { Age::Older };
        }
        let behind =
            |(lane, sequence, _): &MirrorLane| sequence.saturating_sub(next.get(lane).copied().unwrap_or(1));
        match self.lanes.iter().map(behind).max() {
            None | Some(0) => Age::Current,
            Some(1) => Age::OneSealBehind,
            Some(_) => Age::Older,
        }
    }

    /// What groups below it have for any lane was in a segment, as far as is known.
    pub(super) fn last_position(&self) -> Option<u64> {
        self.positions.iter().map(|(_, position)| *position).max()
    }

    /// The lanes whose last seal a log with these next sequences lacks: lane, next sequence and position after it. A mirror by
    /// software that noted no positions has none.
    pub(super) fn undone(&self, next: &BTreeMap<u8, u64>) -> Vec<(u8, u64, u64)> {
        let position = |lane: u8| self.positions.iter().find(|(l, _)| *l == lane).map(|(_, at)| *at);
        let behind =
            self.lanes.iter().filter(|(l, sequence, _)| next.get(l).copied().unwrap_or(1) < *sequence);
        behind.filter_map(|(lane, sequence, _)| Some((*lane, *sequence, position(*lane)?))).collect()
    }

    /// What was on board, a drop for each lane, with ids from `first` on. The counts are those of all lanes together, in the last one: what is `missing`. More
    /// may have been accepted since, so they are a lower bound.
    pub(super) fn closing_drops(&self, missing: Counts, first: u64, now: u64) -> Vec<link::Drop> {
        let drop = |lane: u8, sequences: Option<(u64, u64)>| link::Drop {
            id: 0,
            reason: DropReason::Corruption as i32,
            lane: u32::from(lane),
            sequences: sequences.map(|(first, last)| link::Range { start: first, end: last + 1 }),
            items: Some(link::Counts::default()),
            counts_unknown: true,
            time: None,
            dropped_unix_nano: now,
            overridden: None,
        };
        let on_board = self.lanes.iter().filter(|(.., on_board)| on_board.is_some());
        let mut drops: Vec<_> = on_board.map(|(lane, _, on_board)| drop(*lane, *on_board)).collect();
        if drops.is_empty() {
            drops.push(drop(Lane::BULK.0, None));
        }
        for (drop, id) in drops.iter_mut().zip(first..) {
            drop.id = id;
        }
        if let Some(last) = drops.last_mut() {
            last.items = Some(missing.into());
        }
        drops
    }

    /// The epoch as Hello reports it from now on.
    pub(super) fn closed_epoch(&self) -> link::Epoch {
        link::Epoch {
            epoch: self.epoch,
            start_counter: self.start_counter,
            started_unix_nano: self.started_unix_nano,
            lanes: self
                .lanes
                .iter()
                .map(|(lane, next, _)| link::Lane {
                    lane: u32::from(*lane),
                    next_sequence: *next,
                    ..link::Lane::default()
                })
                .collect(),
            drops: Vec::new(),
            closed: true,
            continued: false,
        }
    }
}

fn path(config: &WalConfig) -> PathBuf {
    config.directory.join("counters.json")
}

/// The mirror of this satellite's log, if there is one whose checksum is right.
pub(super) fn read(env: &Env, config: &WalConfig) -> Option<Mirror> {
    let found: Mirror = mirror::read(env, &path(config))?;
    let ours = found.satellite.is_none() || config.satellite.is_none() || found.satellite == config.satellite;
    ours.then_some(found)
}

/// Counts by reason, in the other form.
fn by_reason<A: Copy, B>(items: &BTreeMap<i32, A>, other: impl Fn(A) -> B) -> BTreeMap<i32, B> {
    items.iter().map(|(reason, items)| (*reason, other(*items))).collect()
}

/// Writes the mirror of `state`. A log does without one that cannot be written.
pub(super) fn write(env: &Env, config: &WalConfig, state: &State) {
    let Tally { accepted, delivered, dropped, next_drop, told, .. } = &state.tally;
    let on_board = |(lane, l): (&Lane, &super::state::LaneState)| {
        (lane.0, l.next_sequence, l.on_board.first().zip(l.on_board.last()))
    };
    let now = Mirror {
        epoch: state.life.epoch,
        start_counter: state.life.start_counter,
        started_unix_nano: state.life.started_unix_nano,
        accepted: three(*accepted),
        delivered: three(*delivered),
        dropped: by_reason(dropped, three),
        on_board: three(state.in_segments + state.in_journal()),
        next_drop: *next_drop,
        told: told.as_ref().map(|told| by_reason(told, three)),
        lanes: state.lanes.iter().map(on_board).collect(),
        positions: state.lanes.iter().map(|(lane, l)| (lane.0, l.position)).collect(),
        clock_floor: state.clock_floor,
        satellite: config.satellite.clone(),
    };
    if let Err(error) = mirror::write(env, &path(config), &now) {
        tracing::warn!(%error, "the mirror of the counters could not be written");
    }
}
