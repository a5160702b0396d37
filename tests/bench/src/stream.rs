//! Corpus files as an agent would see them: requests in the order of their times, cut into segments.

use std::collections::BTreeMap;

use bytes::Bytes;
use perigee_shared::otlp::walk::walk;
use perigee_shared::signal::{Counts, Signal};

use crate::corpus::Corpus;

/// An export request.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) signal: Signal,
    pub(crate) body: Bytes,
    /// Its latest time, in ns since the Unix epoch.
    pub(crate) time: u64,
}

/// Requests of one or several signals.
pub(crate) struct Stream {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) items: Counts,
}

impl Stream {
    /// The requests of `corpora`: of one in its order, of several merged by the latest time in each. A request that is a whole
    /// corpus is cut into those of 512 items.
    pub(crate) fn of(corpora: &[&Corpus]) -> anyhow::Result<Self> {
        let (mut pieces, mut items) = (Vec::new(), Counts::ZERO);
        for corpus in corpora {
            let bodies = match corpus.requests.len() {
                1 => corpus.recut_all(512)?,
                _ => corpus.requests.iter().map(|r| Bytes::copy_from_slice(r)).collect(),
            };
            for body in bodies {
                let walked = walk(corpus.signal, &body)?;
                items += Counts::of(corpus.signal, walked.items);
                pieces.push(Piece { signal: corpus.signal, body, time: walked.time.end });
            }
        }
        if corpora.len() > 1 {
            pieces.sort_by_key(|p| p.time);
        }
        Ok(Self { pieces, items })
    }

    /// Segments: each ends with the request that brings it to `raw` bytes of all signals together.
    pub(crate) fn segments(&self, raw: usize) -> Vec<&[Piece]> {
        let mut segments = Vec::new();
        let (mut from, mut size) = (0, 0);
        for (n, piece) in self.pieces.iter().enumerate() {
            size += piece.body.len();
            if size >= raw {
                segments.push(&self.pieces[from..=n]);
                (from, size) = (n + 1, 0);
            }
        }
        if from < self.pieces.len() {
            segments.push(&self.pieces[from..]);
        }
        segments
    }
}

/// The files that share a name before the first dash, where there are several.
pub(crate) fn captures(files: &[Corpus]) -> Vec<(&str, Vec<&Corpus>)> {
    let mut captures: BTreeMap<&str, Vec<&Corpus>> = BTreeMap::new();
    for file in files {
        captures.entry(file.name.split('-').next().unwrap_or_default()).or_default().push(file);
    }
    captures.into_iter().filter(|(_, files)| files.len() > 1).collect()
}
