//! The counters once more, in a small checksummed file beside the log: what is still known when the log cannot be opened.
//!
//! ```text
//! file = BLAKE3 of the rest (64 hex digits) | newline | JSON
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;

use perigee_proto::link::{self, DropReason};
use perigee_shared::env::Env;
use perigee_shared::segment::Lane;
use perigee_shared::signal::Counts;
use serde::{Deserialize, Serialize};

use super::{Wal, WalConfig, WalError};

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
    lanes: Vec<MirrorLane>,
}

impl Mirror {
    pub(super) fn accepted(&self) -> Counts {
        counts(self.accepted)
    }

    pub(super) fn delivered(&self) -> Counts {
        counts(self.delivered)
    }

    pub(super) fn dropped(&self) -> BTreeMap<i32, Counts> {
        self.dropped.iter().map(|(reason, items)| (*reason, counts(*items))).collect()
    }

    /// What was on board, a drop for each lane. The counts are those of all lanes together, in the last one; more may have been
    /// accepted since, so they are a lower bound.
    pub(super) fn closing_drops(&self, now: u64) -> Vec<link::Drop> {
        let drop = |lane: u8, sequences: Option<(u64, u64)>| link::Drop {
            id: 0,
            reason: DropReason::Corruption as i32,
            lane: u32::from(lane),
            sequences: sequences.map(|(first, last)| link::Range { start: first, end: last + 1 }),
            items: Some(link::Counts::default()),
            counts_unknown: true,
            time: None,
            dropped_unix_nano: now,
        };
        let on_board = self.lanes.iter().filter(|(.., on_board)| on_board.is_some());
        let mut drops: Vec<_> = on_board.map(|(lane, _, on_board)| drop(*lane, *on_board)).collect();
        if drops.is_empty() {
            drops.push(drop(Lane::BULK.0, None));
        }
        for (drop, id) in drops.iter_mut().zip(self.next_drop..) {
            drop.id = id;
        }
        if let Some(last) = drops.last_mut() {
            last.items = Some(counts(self.on_board).into());
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
                    on_board: Vec::new(),
                    next_sequence: *next,
                    oldest_base: None,
                })
                .collect(),
            drops: Vec::new(),
            closed: true,
        }
    }
}

fn path(config: &WalConfig) -> PathBuf {
    config.directory.join("counters.json")
}

/// The mirror, if there is one whose checksum is right.
pub(super) fn read(config: &WalConfig, env: &Env) -> Option<Mirror> {
    let content = env.store.read(&path(config)).ok()?;
    let (checksum, json) = content.split_at_checked(65)?;
    let expected = blake3::hash(json).to_hex();
    if checksum[..64] != *expected.as_bytes() {
        tracing::error!("the mirror of the counters is damaged; what was on board is not known");
        return None;
    }
    serde_json::from_slice(json).ok()
}

impl Wal {
    /// Writes the mirror as of now.
    pub(super) fn write_mirror(&self) -> Result<(), WalError> {
        let state = &self.state;
        let mirror = Mirror {
            epoch: state.life.epoch,
            start_counter: state.life.start_counter,
            started_unix_nano: state.life.started_unix_nano,
            accepted: three(state.accepted),
            delivered: three(state.delivered),
            dropped: state.dropped.iter().map(|(reason, items)| (*reason, three(*items))).collect(),
            on_board: three(state.in_segments + state.in_journal()),
            next_drop: state.next_drop,
            lanes: state
                .lanes
                .iter()
                .map(|(lane, l)| (lane.0, l.next_sequence, l.on_board.first().zip(l.on_board.last())))
                .collect(),
        };
        let json = serde_json::to_vec(&mirror).map_err(std::io::Error::from)?;
        let mut content = blake3::hash(&json).to_hex().as_bytes().to_vec();
        content.push(b'\n');
        content.extend(json);
        self.env.store.replace(&path(&self.config), &content)?;
        Ok(())
    }
}
