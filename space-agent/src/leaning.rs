//! What segments lean on: the latest base that the ground has, as the encoder left it, or decoded once and kept.
//!
//! The first segment of a lane that is sealed after a contact has begun is marked: others may lean on it once the ground has
//! committed it. Until then they lean on the one before. A marked segment leans too; when too many stand on one another, the next
//! one leans on nothing.
//!
//! A base that the station that was heard last does not have is not leaned on. Where stations are known to have ledgers of their own,
//! only segments that are sealed during a contact lean, on a base which that contact's station has. Those that it does not get are encoded
//! anew for the next station.
//!
//! What the latest marked segment has taught is kept until the ground has it, so that it is not decoded for that. Of another one
//! that becomes current (another lane's, or after a start) no more is decoded than is not known of what it leans on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use perigee_shared::env::{Env, Gone, Owner};
use perigee_shared::segment::{Base, Codec, Header, Lane, SegmentId};

use crate::wal::{Encoding, LONGEST_CHAIN, Wal, WalError};

/// In a contact without end another segment is marked after so many.
const MARK_AFTER: u64 = 256;

/// A base as it is needed to lean on.
#[derive(Debug, Clone)]
struct Known {
    sequence: u64,
    /// How many stand on one another, it included.
    height: usize,
    /// `None` when it could not be decoded: then nothing leans on it.
    base: Option<Arc<Base>>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Leaning {
    known: BTreeMap<Lane, Known>,
    /// What the segment that was marked last has taught, which the ground may not have yet.
    next: Option<(Lane, Known)>,
    wanted: bool,
    /// Lanes with a marked segment since the last contact has begun.
    marked: BTreeSet<Lane>,
    /// Segments since the last marked one.
    since: BTreeMap<Lane, u64>,
}

impl Leaning {
    /// Notes whether somebody takes segments now.
    pub(crate) fn wanted(&mut self, wanted: bool) {
        if wanted && !self.wanted {
            self.marked.clear();
        }
        self.wanted = wanted;
    }

    /// Notes a sealed segment and, of a marked one, what it has taught.
    pub(crate) fn sealed(&mut self, header: &Header, taught: Option<Base>) {
        let SegmentId { lane, sequence, .. } = header.id;
        let since = self.since.entry(lane).or_default();
        *since += 1;
        if !header.is_base {
            return;
        }
        *since = 0;
        self.marked.insert(lane);
        let below = match header.base_sequence {
            Some(below) => self.known.get(&lane).filter(|k| k.sequence == below).map(|k| k.height),
            None => Some(0),
        };
        self.next = taught
            .zip(below)
            .map(|(base, below)| (lane, Known { sequence, height: below + 1, base: Some(Arc::new(base)) }));
    }

    fn is_due(&self, lane: Lane) -> bool {
        !self.marked.contains(&lane) || self.since.get(&lane).is_some_and(|n| *n >= MARK_AFTER)
    }

    /// How the next segment of `lane` is encoded when `codec` is wanted.
    pub(crate) async fn encoding(
        &mut self,
        env: &Env,
        wal: &Owner<Wal>,
        codec: Codec,
        lane: Lane,
    ) -> Result<Encoding, LeaningError> {
        let (codec, current) = wal
            .call(move |wal| (wal.bases().codec_for_ground(codec), wal.bases().to_depend_on(lane)))
            .await?;
        if !codec.has_bases() {
            return Ok(Encoding { codec, ..Encoding::default() });
        }
        let to_lean_on = self.is_due(lane);
        let Some(sequence) = current else {
            self.known.remove(&lane);
            return Ok(Encoding { codec, to_lean_on, ..Encoding::default() });
        };
        if self.known.get(&lane).is_none_or(|k| k.sequence != sequence) {
            let known = match self.next.take_if(|(l, k)| *l == lane && k.sequence == sequence) {
                Some((_, known)) => known,
                None => decode(env, wal, lane, sequence, self.known.remove(&lane)).await?,
            };
            self.known.insert(lane, known);
        }
        let known = self.known.get(&lane).filter(|k| !to_lean_on || k.height < LONGEST_CHAIN);
        let base = known.and_then(|k| Some((k.sequence, Arc::clone(k.base.as_ref()?))));
        Ok(Encoding { codec, base, to_lean_on, ..Encoding::default() })
    }
}

/// What the base `sequence` has taught. `before` is one that it may lean on.
async fn decode(
    env: &Env,
    wal: &Owner<Wal>,
    lane: Lane,
    sequence: u64,
    before: Option<Known>,
) -> Result<Known, LeaningError> {
    let before = before.and_then(|k| Some((k.sequence, k.height, k.base?)));
    let down_to = before.as_ref().map(|b| b.0);
    let (chain, is_on) =
        wal.call(move |wal| wal.bases().chain_down_to(lane, Some(sequence), down_to)).await??;
    let before = before.filter(|_| is_on);
    let height = chain.len() + before.as_ref().map_or(0, |b| b.1);
    let base = match env.cpu(move || chain.decode_on(before.as_ref().map(|b| &*b.2))).await {
        Ok(base) => base.map(Arc::new),
        Err(error) => {
            tracing::error!(%lane, sequence, %error, "a base cannot be decoded; no segment will depend on it");
            None
        }
    };
    Ok(Known { sequence, height, base })
}

/// Why it is not known what to lean on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaningError {
    #[error(transparent)]
    Wal(#[from] WalError),
    #[error(transparent)]
    Gone(#[from] Gone),
}
