//! `wal recode`: segments on board are encoded anew because an operator asks, so that they lean on nothing.

use perigee_shared::env::{Env, Gone, Owner};
use perigee_shared::segment::{Codec, CodecError, Lane, SegmentId};
use serde::{Deserialize, Serialize};

use crate::config::LINK;
use crate::lanes::Lanes;
use crate::limiter::Workspace;
use crate::wal::{Asked, Cannot, Recoder, Wal, WalError};

/// Which segments, and how.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recode {
    /// Each as `LANE/SEQUENCE` or `EPOCH/LANE/SEQUENCE`.
    pub segments: Vec<String>,
    /// All of this lane, by its name or number.
    pub lane: Option<String>,
    /// All on board.
    pub all: bool,
    /// `columns` or `zstd_rows`.
    pub codec: Codec,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Segments that were encoded anew.
    pub recoded: Vec<Recoding>,
    /// Segments that leant on nothing and had the codec already.
    pub unchanged: u64,
    /// Segments that stay as they are, and why.
    pub refused: Vec<Refused>,
}

/// A segment that was encoded anew.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recoding {
    /// Its epoch, lane and sequence.
    pub segment: String,
    /// Its codec before and now.
    pub codec: [u32; 2],
    /// What its payload took before and takes now.
    pub payload_bytes: [u64; 2],
}

/// A segment that stays as it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refused {
    /// Its epoch, lane and sequence.
    pub segment: String,
    /// Why.
    pub reason: String,
}

/// Why a request makes no sense or could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum RecodeError {
    /// Nothing is named, or not in one way.
    #[error("name segments, or a lane, or all of them")]
    Nothing,
    /// A segment's name is not one.
    #[error("`{0}` is not a segment; write LANE/SEQUENCE, as in `wal inspect`")]
    Name(String),
    /// There is no such lane.
    #[error("there is no lane `{0}`")]
    Lane(String),
    /// The log failed.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The log is gone.
    #[error(transparent)]
    Gone(#[from] Gone),
}

impl RecodeError {
    /// Whether the request was wrong.
    pub const fn is_request(&self) -> bool {
        matches!(self, Self::Nothing | Self::Name(_) | Self::Lane(_))
    }
}

/// A segment's name; without an epoch it is of `epoch`.
fn parse(name: &str, epoch: u64) -> Option<SegmentId> {
    let mut parts = name.rsplit('/');
    let sequence = parts.next()?.parse().ok()?;
    let lane = Lane(parts.next()?.parse().ok()?);
    let epoch = parts.next().map_or(Some(epoch), |e| u64::from_str_radix(e, 16).ok())?;
    parts.next().is_none().then_some(SegmentId { epoch, lane, sequence })
}

fn select(wal: &mut Wal, lanes: &Lanes, asked: &Recode) -> Result<Vec<SegmentId>, RecodeError> {
    let ways = usize::from(!asked.segments.is_empty()) + usize::from(asked.lane.is_some());
    if ways + usize::from(asked.all) != 1 {
        return Err(RecodeError::Nothing);
    }
    let epoch = wal.summary().life.epoch;
    if !asked.segments.is_empty() {
        let parsed =
            asked.segments.iter().map(|n| parse(n, epoch).ok_or_else(|| RecodeError::Name(n.clone())));
        return parsed.collect();
    }
    let mut wanted = wal.custody().lanes();
    if let Some(name) = &asked.lane {
        let known = lanes.policies.keys().copied().chain([Lane::BULK]).chain(wanted.iter().copied());
        let is_it = |lane: &Lane| lanes.name(*lane) == *name || lane.0.to_string() == *name;
        let lane = known.into_iter().find(is_it).ok_or_else(|| RecodeError::Lane(name.clone()))?;
        wanted.retain(|l| *l == lane);
    }
    Ok(wanted.into_iter().flat_map(|lane| wal.custody().ids_on_board(lane)).collect())
}

/// Encodes anew what is asked for, one segment after the other, each with its turn in what others share. What is committed or dropped
/// meanwhile is passed over.
pub async fn recode(
    env: &Env,
    wal: &Owner<Wal>,
    lanes: &Lanes,
    asked: Recode,
    memory: Option<&Workspace>,
) -> Result<Report, RecodeError> {
    let (codec, lanes, named) = (asked.codec, lanes.clone(), !asked.segments.is_empty());
    let ids = wal.call(move |wal| select(wal, &lanes, &asked)).await??;
    let mut report = Report::default();
    let mut recoder = Recoder::default();
    for id in ids {
        let refuse = |reason: String| Refused { segment: id.to_string(), reason };
        let recoding = match wal.call(move |wal| wal.recoding().asked(id, codec, LINK)).await?? {
            Asked::Can(recoding) => recoding,
            Asked::IsSo => {
                report.unchanged += 1;
                continue;
            }
            Asked::Cannot(Cannot::NotOnBoard) if !named => continue,
            Asked::Cannot(why) => {
                report.refused.push(refuse(why.to_string()));
                continue;
            }
        };
        let _turn = match memory {
            Some(memory) => Some(memory.take(recoding.need()).await),
            None => None,
        };
        let most = memory.map_or(usize::MAX, Workspace::alone);
        let run = move || {
            let result = recoder.run(*recoding, codec, most);
            (recoder, result)
        };
        let result: Result<_, CodecError>;
        (recoder, result) = env.cpu(run).await;
        let recoded = match result {
            Ok(recoded) => recoded,
            Err(error) => {
                report.refused.push(refuse(error.to_string()));
                continue;
            }
        };
        let [before, after] = recoded.change();
        match wal.call(move |wal| wal.recoding().replace_as_asked(recoded)).await?? {
            Ok(()) => report.recoded.push(Recoding {
                segment: id.to_string(),
                codec: [before.0, after.0],
                payload_bytes: [before.1, after.1],
            }),
            Err(Cannot::NotOnBoard) if !named => {}
            Err(why) => report.refused.push(refuse(why.to_string())),
        }
    }
    tracing::info!(
        recoded = report.recoded.len(),
        refused = report.refused.len(),
        codec = codec.name(),
        "segments were re-encoded at an operator's request"
    );
    Ok(report)
}
