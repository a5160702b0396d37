//! The spool as it was at one moment, for work that keeps a processor busy: it is read beside whatever the spool does meanwhile.
//!
//! What is deleted meanwhile is given back to the file only when the snapshot is gone.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perigee_shared::segment::{Base, CodecError, Decoder, Header, Request, hash, learn};
use redb::{ReadTransaction, ReadableTable};

use super::bases;
use super::error::SpoolError;
use super::open::{Spool, decode};
use super::outlet;
use super::tables::*;

/// Bases that are kept decoded whatever they take: the one that segments lean on, and the next one.
const DECODED: usize = 2;

struct Kept {
    key: SequenceKey,
    base: Arc<Base>,
    /// What it takes.
    bytes: usize,
}

/// Bases that were decoded lately, so that a run of segments that lean on one decodes it once. A spool's exporters share them.
#[derive(Clone)]
pub(super) struct Decoded {
    /// The latest first.
    latest: Arc<Mutex<VecDeque<Kept>>>,
    /// What they may take.
    bytes: usize,
}

impl Decoded {
    pub(super) fn new(bytes: u64) -> Self {
        Self { latest: Arc::default(), bytes: usize::try_from(bytes).unwrap_or(usize::MAX) }
    }

    fn latest(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A base, which is then the latest.
    fn get(&self, key: SequenceKey) -> Option<Arc<Base>> {
        let mut latest = self.latest();
        let at = latest.iter().position(|kept| kept.key == key)?;
        let found = latest.remove(at)?;
        let base = Arc::clone(&found.base);
        latest.push_front(found);
        Some(base)
    }

    fn remember(&self, key: SequenceKey, base: &Arc<Base>) {
        let bytes = base.size();
        let mut latest = self.latest();
        latest.retain(|kept| kept.key != key);
        latest.push_front(Kept { key, base: Arc::clone(base), bytes });
        let mut all = 0;
        let fits = |kept: &&Kept| {
            all += kept.bytes;
            all <= self.bytes
        };
        let most = latest.iter().take_while(fits).count();
        latest.truncate(most.max(DECODED));
    }
}

/// The spool as it was when it was asked for.
pub struct Snapshot {
    pub(super) read: ReadTransaction,
    decoded: Decoded,
}

impl Spool {
    /// The spool as it is now.
    pub fn snapshot(&self) -> Result<Snapshot, SpoolError> {
        Ok(Snapshot { read: self.read()?, decoded: self.decoded.clone() })
    }
}

impl Snapshot {
    /// What the segment leans on, if it leans on anything. `number` is its satellite's.
    ///
    /// # Errors
    ///
    /// [`SpoolError::Undecodable`] when that is not kept, leans on more than is followed, or does not decode.
    pub fn base_of(&self, number: u32, header: &Header) -> Result<Option<Arc<Base>>, SpoolError> {
        if header.base_sequence.is_none() {
            return Ok(None);
        }
        let chain = bases::chain(&self.read.open_table(BASES)?, number, header)?;
        let found = chain.iter().enumerate().find_map(|(at, (key, _))| Some((at, self.decoded.get(*key)?)));
        let (unknown, mut base) = found.map_or((chain.len(), None), |(at, base)| (at, Some(base)));
        if unknown > 0 {
            let mut known = base.as_deref().cloned();
            for (key, header) in chain[..unknown].iter().rev() {
                let next = learn(header, &self.base_payload(*key, header)?, known)?;
                known = Some(next.ok_or(CodecError::MissingBase(header.id.sequence))?);
            }
            base = known.map(Arc::new);
        }
        if let (Some((key, _)), Some(base)) = (chain.first(), &base) {
            self.decoded.remember(*key, base);
        }
        Ok(base)
    }

    /// The requests of a segment, or nothing when its codec hands them out one by one; those are looked through unless
    /// `checked`. `number` is its satellite's.
    ///
    /// # Errors
    ///
    /// [`SpoolError::Undecodable`] when it does not decode, or what it leans on is not kept.
    pub fn requests(
        &self,
        number: u32,
        header: &Header,
        payload: &[u8],
        checked: bool,
    ) -> Result<Option<Vec<Request>>, SpoolError> {
        let base = self.base_of(number, header)?;
        match Decoder::new(header, payload, base.as_deref())? {
            Decoder::Columns(requests, own) => {
                if header.is_base {
                    self.decoded.remember(key(number, header.id), &Arc::from(own));
                }
                Ok(Some(requests.collect()))
            }
            mut rows => {
                if !checked {
                    rows.try_for_each(|request| request.map(drop))?;
                }
                Ok(None)
            }
        }
    }

    /// Checks every segment and every base: its pieces, its hash, and that it decodes. What is wrong, by entry.
    pub fn verify(mut self) -> Result<Vec<(u64, String)>, SpoolError> {
        // What is known from before says nothing about what is on disk.
        self.decoded.latest = Arc::default();
        let mut wrong = Vec::new();
        let chunks = self.read.open_table(SEGMENT_CHUNKS)?;
        for row in self.read.open_table(SEGMENTS)?.iter()? {
            let (entry, value) = row?;
            let (entry, record) = (entry.value(), decode::<SegmentRecord>(value.value())?);
            let Some(header) = header(record.header) else {
                wrong.push((entry, "its header cannot be read".to_owned()));
                continue;
            };
            let payload = outlet::payload(&chunks, entry, &header)?;
            if let Some(why) = self.fault(record.number, &header, &payload)? {
                wrong.push((entry, format!("segment {}: {why}", header.id)));
            }
        }
        for row in self.read.open_table(BASES)?.iter()? {
            let (key, value) = row?;
            let (key, record) = (key.value(), decode::<BaseRecord>(value.value())?);
            let Some(header) = header(record.header) else {
                wrong.push((record.entry, "the header of a base cannot be read".to_owned()));
                continue;
            };
            let payload = self.base_payload(key, &header)?;
            if let Some(why) = self.fault(key.0, &header, &payload)? {
                wrong.push((record.entry, format!("base {}: {why}", header.id)));
            }
        }
        Ok(wrong)
    }

    fn fault(&self, number: u32, header: &Header, payload: &[u8]) -> Result<Option<String>, SpoolError> {
        if hash(payload) != header.hash {
            return Ok(Some("the payload does not have its hash".to_owned()));
        }
        match self.requests(number, header, payload, false) {
            Ok(_) => Ok(None),
            Err(SpoolError::Undecodable(why)) => Ok(Some(why.to_string())),
            Err(other) => Err(other),
        }
    }

    /// The payload of a kept base.
    pub(super) fn base_payload(&self, key: SequenceKey, header: &Header) -> Result<Vec<u8>, SpoolError> {
        let mut payload = Vec::with_capacity(header.payload_len as usize);
        let pieces = (key.0, key.1, key.2, key.3, 0)..=(key.0, key.1, key.2, key.3, u32::MAX);
        for chunk in self.read.open_table(BASE_CHUNKS)?.range(pieces)? {
            payload.extend_from_slice(chunk?.1.value());
        }
        Ok(payload)
    }
}
