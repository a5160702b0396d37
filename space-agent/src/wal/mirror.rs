//! The counters once more, in a small checksummed file beside the log (`counters.json`, see [`perigee_shared::store::mirror`]):
//! what is still known when the log is missing, cannot be read, or is older than it was.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use perigee_proto::link::{self, DropReason};
use perigee_shared::env::Env;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::Lane;
use perigee_shared::signal::Counts;
use perigee_shared::store::mirror;
use serde::{Deserialize, Serialize};

use super::acknowledged::{self, Mirrored};
use super::gathered;
use super::state::{LaneState, Life, State};
use super::tally::Tally;
use super::{Wal, WalConfig};

/// Epochs of other lives that are noted.
const MOST_LIVES: usize = 64;

/// Ranges of a lane that are noted; of more the last one has the rest.
const MOST_RANGES: usize = 64;

/// That the file cannot be written is said again after this time, in ns.
const SAID_AGAIN: u64 = 600_000_000_000;

type Three = [u64; 3];

/// A lane, its segments on board as ranges (the end not in them), and the items in them.
type Held = (u8, Vec<(u64, u64)>, Three);

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

/// What the file holds: the state when it was written.
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
    /// What is on board in segments. Earlier software did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held: Option<Vec<Held>>,
    /// Nothing was accepted or delivered after this was written.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    last_word: bool,
    /// Something else is missing of which nobody knows how much, and no station has heard of that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unsure: bool,
    /// Earlier epochs whose sequences go on in this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    continues: Vec<u64>,
    /// What ledgers have acknowledged of the epoch lately.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    acknowledged: Vec<Mirrored>,
    /// Epochs of other lives of which the log knew something, the latest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lives: Vec<u64>,
}

impl Mirror {
    /// What there is to write of `state`.
    fn of(config: &WalConfig, state: &State, last_word: bool) -> Self {
        let Tally { accepted, delivered, dropped, next_drop, told, .. } = &state.tally;
        let on_board = |(lane, l): (&Lane, &LaneState)| {
            (lane.0, l.next_sequence, l.on_board.first().zip(l.on_board.last()))
        };
        let with_segments = state.lanes.iter().filter(|(_, l)| !l.on_board.is_empty());
        Self {
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
            held: Some(with_segments.map(|(lane, l)| held(*lane, l)).collect()),
            last_word,
            unsure: state.tally.unsure,
            continues: state.continues.clone(),
            acknowledged: acknowledged::mirrored(&state.acknowledged),
            lives: latest(&state.lives),
        }
    }

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
            unsure: self.unsure,
            ..Tally::default()
        }
    }

    /// Lives of which its log knew something, and one that knows those in `known` does not.
    pub(super) fn lives_but(&self, known: &[u64]) -> Vec<u64> {
        self.lives.iter().copied().filter(|life| !known.contains(life)).collect()
    }

    pub(super) const fn is_unsure(&self) -> bool {
        self.unsure
    }

    /// How a log with this life and these next sequences stands to the one that this was written of. `names` says whether the log
    /// names an epoch as an earlier one of its own.
    pub(super) fn compare(&self, life: Life, next: &BTreeMap<u8, u64>, names: impl Fn(u64) -> bool) -> Age {
        if self.epoch != life.epoch {
            // A later life of the same log names the one that it has ended.
            return if names(self.epoch) && !self.goes_on_from(life.epoch) {
                Age::Current
            } else {
                Age::Older
            };
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

    /// Whether it says which segments were on board.
    pub(super) const fn is_detailed(&self) -> bool {
        self.held.is_some()
    }

    /// Whether its life has the sequences of that epoch.
    pub(super) fn goes_on_from(&self, epoch: u64) -> bool {
        self.epoch == epoch || self.continues.contains(&epoch)
    }

    /// Whether nothing was accepted or delivered after it was written.
    pub(super) const fn is_last_word(&self) -> bool {
        self.last_word
    }

    /// The segments of a lane that were on board.
    pub(super) fn held(&self, lane: u8) -> RangeSet {
        let ranges =
            self.held.iter().flatten().filter(|(l, ..)| *l == lane).flat_map(|(_, ranges, _)| ranges);
        ranges.map(|(start, end)| *start..*end).collect()
    }

    /// Whether every segment of a lane with these sequences was on board.
    pub(super) fn has_all(&self, lane: u8, sequences: Range<u64>) -> bool {
        self.held(lane).missing(sequences).is_empty()
    }

    /// What was on board and is not in `left`, as drops with ids from `first` on; their items are `missing` together.
    pub(super) fn closing_drops(
        &self,
        left: Option<&State>,
        missing: Counts,
        first: u64,
        now: u64,
    ) -> Vec<link::Drop> {
        let mut drops = match &self.held {
            Some(held) => self.drops_of(held, left, missing),
            None => self.drops_by_lane(missing),
        };
        for (drop, id) in drops.iter_mut().zip(first..) {
            (drop.id, drop.dropped_unix_nano) = (id, now);
        }
        drops
    }

    /// Segments by their names, which a ground that has them overrides, and what was in none. More may have been accepted since.
    fn drops_of(&self, held: &[Held], left: Option<&State>, missing: Counts) -> Vec<link::Drop> {
        let (mut rest, mut drops) = (missing, Vec::new());
        for (lane, ranges, items) in held {
            let there = left.and_then(|state| state.lanes.get(&Lane(*lane)));
            let mut gone: RangeSet = ranges.iter().map(|(start, end)| *start..*end).collect();
            for range in there.iter().flat_map(|l| l.on_board.iter()) {
                gone.remove(range);
            }
            let items =
                counts(*items).saturating_sub(there.map_or(Counts::ZERO, |l| l.segment_items)).min(rest);
            let (Some(start), Some(last)) = (gone.first(), gone.last()) else { continue };
            rest = rest.saturating_sub(items);
            let range = Some(link::Range { start, end: last + 1 });
            // Between several ranges lies what is not gone.
            drops.push(closing(*lane, range, items, gone.ranges() > 1 || ranges.len() >= MOST_RANGES));
        }
        if rest.total() > 0 || !self.last_word {
            drops.push(closing(Lane::BULK.0, None, rest, !self.last_word));
        }
        drops
    }

    /// The same by software that did not say how many items were in segments: all of them are in the last one.
    fn drops_by_lane(&self, missing: Counts) -> Vec<link::Drop> {
        let range = |(first, last): (u64, u64)| link::Range { start: first, end: last + 1 };
        let lanes = self.lanes.iter().filter_map(|(lane, _, on_board)| Some((*lane, (*on_board)?)));
        let mut drops: Vec<_> =
            lanes.map(|(lane, on_board)| closing(lane, Some(range(on_board)), Counts::ZERO, true)).collect();
        if drops.is_empty() {
            drops.push(closing(Lane::BULK.0, None, Counts::ZERO, true));
        }
        if let Some(last) = drops.last_mut() {
            last.items = Some(missing.into());
        }
        drops
    }

    /// The epoch as Hello reports it from now on.
    pub(super) fn closed_epoch(&self) -> link::Epoch {
        let closed = link::Epoch {
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
            closed: true,
            ..link::Epoch::default()
        };
        self.acknowledged_in(closed)
    }

    /// The same with what ledgers have acknowledged of it, as far as a log does not say that itself.
    pub(super) fn acknowledged_in(&self, mut closed: link::Epoch) -> link::Epoch {
        self.acknowledged.iter().for_each(|of| acknowledged::tell(of, &mut closed));
        closed
    }
}

/// The latest of these epochs, each once.
fn latest(lives: &[u64]) -> Vec<u64> {
    let mut out: Vec<u64> = Vec::new();
    for life in lives.iter().rev() {
        if out.len() < MOST_LIVES && !out.contains(life) {
            out.push(*life);
        }
    }
    out.reverse();
    out
}

fn path(config: &WalConfig) -> PathBuf {
    config.directory.join("counters.json")
}

/// What is lost of a lane with a log; `unknown`: the number is not exact.
fn closing(lane: u8, sequences: Option<link::Range>, items: Counts, unknown: bool) -> link::Drop {
    link::Drop {
        reason: DropReason::Corruption as i32,
        lane: u32::from(lane),
        sequences,
        items: Some(items.into()),
        counts_unknown: unknown,
        ..link::Drop::default()
    }
}

fn held(lane: Lane, of: &LaneState) -> Held {
    let mut ranges: Vec<(u64, u64)> = of.on_board.iter().map(|range| (range.start, range.end)).collect();
    if let (true, Some((_, end))) = (ranges.len() > MOST_RANGES, ranges.last().copied()) {
        ranges.truncate(MOST_RANGES);
        ranges.iter_mut().last().into_iter().for_each(|last| last.1 = end);
    }
    (lane.0, ranges, three(of.segment_items))
}

/// The mirror of this satellite's log, if there is one whose checksum is right.
pub(super) fn read(env: &Env, config: &WalConfig) -> Option<Mirror> {
    let found: Mirror = mirror::read(env, &path(config))?;
    match (&found.satellite, &config.satellite) {
        (Some(theirs), Some(ours)) if theirs != ours => {
            tracing::error!(
                path = %path(config).display(),
                satellite = theirs,
                "counters.json beside the log is of another satellite; it is not used"
            );
            None
        }
        _ => Some(found),
    }
}

/// The satellite whose log lies in the directory of `config`, as the file beside it says: a running agent may have the log open.
pub fn owner(config: &WalConfig, env: &Env) -> Option<String> {
    read(env, config)?.satellite
}

/// Whether there is one beside the log that cannot be read.
pub(super) fn is_damaged(env: &Env, config: &WalConfig) -> bool {
    let path = path(config);
    env.store.exists(&path) && mirror::read::<Mirror>(env, &path).is_none()
}

/// Counts by reason, in the other form.
fn by_reason<A: Copy, B>(items: &BTreeMap<i32, A>, other: impl Fn(A) -> B) -> BTreeMap<i32, B> {
    gathered(items.iter().map(|(reason, items)| (*reason, other(*items))))
}

/// Writes the mirror of a log whose file is gone, for the last time.
pub(super) fn write_last(env: &Env, config: &WalConfig, state: &State) {
    if let Err(error) = mirror::write(env, &path(config), &Mirror::of(config, state, true)) {
        tracing::warn!(%error, "counters.json could not be written for a log that was deleted");
    }
}

/// What was written last, and when; since when it cannot be written is said.
#[derive(Debug, Default)]
pub(super) struct Written {
    last: Option<Mirror>,
    at: u64,
    said: Option<u64>,
}

/// The counters beside the log.
pub struct Mirroring<'a>(pub(super) &'a mut Wal);

impl Mirroring<'_> {
    /// Writes them. A log does without them where that fails.
    pub(super) fn write(&mut self) {
        self.put(Mirror::of(self.0.config(), self.0.state(), false));
    }

    /// The same before the log is closed.
    pub(super) fn write_last(&mut self) {
        self.put(Mirror::of(self.0.config(), self.0.state(), true));
    }

    /// The same if they have changed since; `rest`: and if that was at least so long ago, in ns.
    pub fn keep(&mut self, rest: u64) {
        let age = self.0.env().since_boot().nano.saturating_sub(self.0.mirrored.at);
        if age < rest {
            return;
        }
        let now = Mirror::of(self.0.config(), self.0.state(), false);
        if self.0.mirrored.last.as_ref() != Some(&now) {
            self.put(now);
        }
    }

    fn put(&mut self, now: Mirror) {
        let written = mirror::write(self.0.env(), &path(self.0.config()), &now);
        let at = self.0.env().since_boot().nano;
        self.note(written.map(|()| now), at);
    }

    pub(super) fn note(&mut self, written: io::Result<Mirror>, at: u64) {
        let before = std::mem::take(&mut self.0.mirrored);
        self.0.mirrored = match written {
            Ok(now) => {
                if before.said.is_some() {
                    tracing::info!("counters.json beside the log can be written again");
                }
                Written { last: Some(now), at, said: None }
            }
            Err(error) => {
                let again = before.said.is_none_or(|said| at.saturating_sub(said) >= SAID_AGAIN);
                if again {
                    tracing::warn!(
                        %error,
                        "counters.json beside the log could not be written: if the log is lost too, what it held since is not known"
                    );
                }
                Written { said: if again { Some(at) } else { before.said }, ..before }
            }
        };
    }
}
