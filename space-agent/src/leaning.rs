//! What segments lean on: the latest base that the ground has, decoded once and kept.
//!
//! The first segment of a lane that is sealed after a contact has begun is marked: others may lean on it once the ground has
//! committed it. Until then they lean on the one before. A marked segment leans too; when too many stand on one another, the next
//! one leans on nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use perigee_shared::env::{Env, Gone, Owner};
use perigee_shared::segment::{Base, Codec, Header, Lane};

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

    /// Notes a sealed segment.
    pub(crate) fn sealed(&mut self, header: &Header) {
        let since = self.since.entry(header.id.lane).or_default();
        *since += 1;
        if header.is_base {
            *since = 0;
            self.marked.insert(header.id.lane);
        }
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
        let (codec, current) =
            wal.call(move |wal| (wal.codec_for_ground(codec), wal.current_base(lane))).await?;
        if codec != Codec::Columns {
            return Ok(Encoding { codec, ..Encoding::default() });
        }
        let to_lean_on = self.is_due(lane);
        let Some(sequence) = current else {
            self.known.remove(&lane);
            return Ok(Encoding { codec, base: None, to_lean_on });
        };
        if self.known.get(&lane).is_none_or(|k| k.sequence != sequence) {
            let known = decode(env, wal, lane, sequence).await?;
            self.known.insert(lane, known);
        }
        let known = self.known.get(&lane).filter(|k| !to_lean_on || k.height < LONGEST_CHAIN);
        let base = known.and_then(|k| Some((k.sequence, Arc::clone(k.base.as_ref()?))));
        Ok(Encoding { codec, base, to_lean_on })
    }
}

async fn decode(env: &Env, wal: &Owner<Wal>, lane: Lane, sequence: u64) -> Result<Known, LeaningError> {
    let chain = wal.call(move |wal| wal.chain(lane, Some(sequence))).await??;
    let height = chain.len();
    let base = match env.cpu(move || chain.decode()).await {
        Ok(base) => base.map(Arc::new),
        Err(error) => {
            tracing::error!(%lane, sequence, %error, "a base cannot be decoded; nothing leans on it");
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
