//! Verifying and decoding what the spool holds, for work that keeps a processor busy: it reads the spool as it was at one moment,
//! beside whatever the spool does meanwhile. What is deleted meanwhile is given back to the file only when that is over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perigee_shared::segment::{Base, CodecError, Decoder, Header, Request, hash, learn};
use perigee_shared::store::{StoreError, join};
use redb::{ReadTransaction, ReadableTable};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::alarms::Alarms;
use super::bases;
use super::catalogue::Services;
use super::error::SpoolError;
use super::outlet::{First, Found, Place};
use super::tables::*;
use crate::memory::Turn;

/// Bases that are kept decoded whatever they take: the one that segments need now, and the next one.
const DECODED: usize = 2;

/// Bytes of requests that are kept for people to look at.
const SEEN: usize = 4 << 20;

/// Payloads that they are of, at most.
const SEEN_PAYLOADS: usize = 256;

/// Payloads whose services and alarms are known and not in the store yet, at most.
const NAMED: usize = 256;

/// Why bytes cannot be used.
#[derive(Debug)]
pub(super) enum Fault {
    /// They are not those that were committed.
    Payload,
    /// The same of a base that they need.
    Base(SequenceKey),
    /// They do not decode, or the spool does not have the base that they need.
    Undecodable(CodecError),
    /// The file.
    Store(StoreError),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<CodecError> for Fault {
    fn from(error: CodecError) -> Self {
        Self::Undecodable(error)
    }
}

impl From<SpoolError> for Fault {
    fn from(error: SpoolError) -> Self {
        match error {
            SpoolError::Store(error) => Self::Store(error),
            SpoolError::Undecodable(error) => Self::Undecodable(error),
            SpoolError::Budget(_) | SpoolError::Unknown(_) | SpoolError::Engine(_) | SpoolError::Gone => {
                Self::Store(StoreError::GivenUp(error.to_string()))
            }
        }
    }
}

perigee_shared::from_redb!(Fault: TableError, StorageError);

struct Known {
    key: SequenceKey,
    base: Arc<Base>,
    /// What it takes.
    bytes: usize,
}

#[derive(Default)]
struct Latest {
    /// The latest first.
    bases: VecDeque<Known>,
    /// Payloads that were found to decode.
    checked: BTreeSet<u64>,
    /// Services and alarms in payloads that were decoded, until the store has them.
    learnt: BTreeMap<u64, (Vec<String>, Alarms)>,
    /// The latest payloads that were decoded for an exporter, the latest last, and the bytes of their requests.
    seen: (VecDeque<Seen>, usize),
}

/// What was in a payload that was decoded for an exporter, for people to look at.
#[derive(Clone)]
pub(super) struct Seen {
    /// The number of the payload.
    pub(super) number: u64,
    pub(super) satellite: Arc<str>,
    pub(super) lane: u8,
    /// Its last requests.
    pub(super) requests: Arc<[Request]>,
    bytes: usize,
}

/// The last requests of a payload, and which services and alarms are in all of them.
#[derive(Default)]
struct Look {
    services: Services,
    alarms: Alarms,
    requests: VecDeque<Request>,
    bytes: usize,
}

impl Look {
    fn at(&mut self, request: &Request) {
        self.services.look(request);
        self.alarms.look(request);
        self.bytes += request.body.len();
        self.requests.push_back(request.clone());
        while self.bytes > SEEN
            && let Some(first) = self.requests.pop_front()
        {
            self.bytes -= first.body.len();
        }
    }
}

/// What was decoded lately, so that a run of segments that need one base decodes it once. A spool's exporters share it.
#[derive(Clone)]
pub(super) struct Decoded {
    latest: Arc<Mutex<Latest>>,
    /// What the bases may take.
    bytes: usize,
}

impl Decoded {
    pub(super) fn new(bytes: u64) -> Self {
        Self { latest: Arc::default(), bytes: usize::try_from(bytes).unwrap_or(usize::MAX) }
    }

    /// Gives up the bases and what people might look at.
    pub(super) fn give_up(&self) {
        let mut latest = self.latest();
        latest.bases.clear();
        latest.seen = Default::default();
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A base, which is then the latest.
    fn get(&self, key: SequenceKey) -> Option<Arc<Base>> {
        let bases = &mut self.latest().bases;
        let at = bases.iter().position(|known| known.key == key)?;
        let found = bases.remove(at)?;
        let base = Arc::clone(&found.base);
        bases.push_front(found);
        Some(base)
    }

    /// Whether a base is kept decoded.
    pub(super) fn knows(&self, key: SequenceKey) -> bool {
        self.latest().bases.iter().any(|known| known.key == key)
    }

    fn remember(&self, key: SequenceKey, base: &Arc<Base>) {
        let bytes = base.size();
        let bases = &mut self.latest().bases;
        bases.retain(|known| known.key != key);
        bases.push_front(Known { key, base: Arc::clone(base), bytes });
        let mut all = 0;
        let fits = |known: &&Known| {
            all += known.bytes;
            all <= self.bytes
        };
        let most = bases.iter().take_while(fits).count();
        bases.truncate(most.max(DECODED));
    }

    /// Forgets which payloads decode that are before this one: they have left the spool.
    fn forget_before(&self, payload: u64) {
        let checked = &mut self.latest().checked;
        *checked = checked.split_off(&payload);
    }

    /// Forgets that a payload decodes: no exporter is handed it any more.
    pub(super) fn forget(&self, payload: u64) {
        self.latest().checked.remove(&payload);
    }

    /// Notes what is in a payload.
    fn note(&self, number: u64, satellite: &Arc<str>, lane: u8, look: Look) {
        let mut latest = self.latest();
        let Look { services, alarms, requests, bytes } = look;
        let (seen, all) = &mut latest.seen;
        let requests: Arc<[Request]> = requests.into_iter().collect();
        seen.push_back(Seen { number, satellite: Arc::clone(satellite), lane, requests, bytes });
        *all += bytes;
        while (*all > SEEN || seen.len() > SEEN_PAYLOADS)
            && let Some(first) = seen.pop_front()
        {
            *all -= first.bytes;
        }
        let known = &mut latest.learnt;
        known.insert(number, (services.0.into_iter().collect(), alarms));
        // What no exporter finishes is forgotten: the oldest first.
        while known.len() > NAMED {
            known.pop_first();
        }
    }

    /// What was decoded for exporters lately, of payloads with a number above `after`.
    pub(super) fn seen(&self, after: u64) -> Vec<Seen> {
        self.latest().seen.0.iter().filter(|seen| seen.number > after).cloned().collect()
    }

    /// Which services and alarms are in a payload, for the store to keep.
    pub(super) fn take_learnt(&self, payload: u64) -> Option<(Vec<String>, Alarms)> {
        self.latest().learnt.remove(&payload)
    }
}

/// A segment for an exporter, verified and decoded.
pub struct Work {
    /// What to call it.
    pub place: Place,
    /// Whose it is.
    pub satellite: Arc<str>,
    /// The station that committed it; empty: it is not known.
    pub station: String,
    /// What it says of itself.
    pub header: Arc<Header>,
    /// Its number in the order of commits.
    pub number: u64,
    /// The first request of each signal that is to be sent.
    pub first: First,
    /// The encoded bytes, unless they were decoded at once.
    payload: Arc<[u8]>,
    decoded: Option<Vec<Request>>,
    #[expect(dead_code, reason = "another large one has its turn when it is dropped")]
    turn: Option<Turn>,
}

/// The requests of a segment.
pub type Requests<'a> = Box<dyn Iterator<Item = Result<Request, CodecError>> + Send + 'a>;

impl Work {
    /// The same, which has its turn as long as it lives.
    pub(super) fn in_turn(self, turn: Turn) -> Self {
        Self { turn: Some(turn), ..self }
    }

    /// The requests in the segment, in order.
    pub fn requests(&mut self) -> Result<Requests<'_>, CodecError> {
        match self.decoded.take() {
            Some(all) => Ok(Box::new(all.into_iter().map(Ok))),
            None => Decoder::new(&self.header, &self.payload, None).map(|rows| Box::new(rows) as _),
        }
    }
}

/// The spool as it was when it was asked for.
pub(super) struct Snapshot {
    pub(super) read: ReadTransaction,
    pub(super) decoded: Decoded,
    /// The spool's file stays open until it is dropped.
    #[expect(dead_code, reason = "it is there to be dropped")]
    pub(super) held: Option<TaskTrackerToken>,
}

impl Snapshot {
    /// Reads, verifies and decodes a segment for an exporter.
    pub(super) fn work(&self, found: Found) -> Result<Work, Fault> {
        let checked = self.decoded.latest().checked.contains(&found.payload);
        self.read(found, checked)
    }

    /// The same of a segment that was exported before: nothing is learnt from it.
    pub(super) fn work_again(&self, found: Found) -> Result<Work, Fault> {
        self.read(found, true)
    }

    fn read(&self, found: Found, checked: bool) -> Result<Work, Fault> {
        let Found { place, satellite, station, header, payload: number, first } = found;
        let bytes = self.payload(number, &header)?;
        let (satellite, mut look) = (Arc::from(satellite), Look::default());
        let see = |request: &Request| {
            if !checked {
                look.at(request);
            }
        };
        let decoded = self.decode(place.0.satellite, &header, &bytes, checked, see)?;
        if !checked {
            self.decoded.note(number, &satellite, header.id.lane.0, look);
            self.decoded.latest().checked.insert(number);
            if let Some((first, _)) = self.read.open_table(SEGMENT_CHUNKS)?.iter()?.next().transpose()? {
                self.decoded.forget_before(first.value().of);
            }
        }
        let payload = if decoded.is_some() { Arc::default() } else { bytes.into() };
        let header = Arc::new(header);
        Ok(Work { place, satellite, station, header, number, first, payload, decoded, turn: None })
    }

    /// The requests of a segment of this satellite, or nothing when its codec hands them out one by one; those are looked through.
    pub(super) fn requests(
        &self,
        satellite: u32,
        header: &Header,
        payload: &[u8],
    ) -> Result<Option<Vec<Request>>, Fault> {
        match hash(payload) == header.hash {
            true => self.decode(satellite, header, payload, false, |_| ()),
            false => Err(Fault::Payload),
        }
    }

    /// The same of a payload that has its hash; one by one they are looked through unless `checked`. What is looked through, `each` is shown.
    fn decode(
        &self,
        satellite: u32,
        header: &Header,
        payload: &[u8],
        checked: bool,
        mut each: impl FnMut(&Request),
    ) -> Result<Option<Vec<Request>>, Fault> {
        let base = self.base_of(satellite, header)?;
        match Decoder::new(header, payload, base.as_deref())? {
            Decoder::Columns(requests, own) => {
                if header.is_base {
                    self.decoded.remember(SequenceKey::new(satellite, header.id), &Arc::from(own));
                }
                let requests: Vec<Request> = requests.collect();
                requests.iter().for_each(each);
                Ok(Some(requests))
            }
            mut rows => {
                if !checked {
                    rows.try_for_each(|request| request.map(|request| each(&request)))?;
                }
                Ok(None)
            }
        }
    }

    /// The base that a segment of this satellite needs, if it needs one.
    pub(super) fn base_of(&self, satellite: u32, header: &Header) -> Result<Option<Arc<Base>>, Fault> {
        if header.base_sequence.is_none() {
            return Ok(None);
        }
        let chain = bases::chain(&self.read.open_table(BASES)?, satellite, header)?;
        let found = chain.iter().enumerate().find_map(|(at, (key, _))| Some((at, self.decoded.get(*key)?)));
        let (unknown, mut base) = found.map_or((chain.len(), None), |(at, base)| (at, Some(base)));
        if unknown > 0 {
            let mut known = base.as_deref().cloned();
            for (key, header) in chain[..unknown].iter().rev() {
                let next = learn(header, &self.base(*key, header)?, known)?;
                known = Some(next.ok_or(CodecError::MissingBase(header.id.sequence))?);
            }
            base = known.map(Arc::new);
        }
        if let (Some((key, _)), Some(base)) = (chain.first(), &base) {
            self.decoded.remember(*key, base);
        }
        Ok(base)
    }

    /// A payload, verified.
    pub(super) fn payload(&self, number: u64, header: &Header) -> Result<Vec<u8>, Fault> {
        let chunks = self.read.open_table(SEGMENT_CHUNKS)?;
        let payload = join(chunks.range(ChunkKey::all(number))?, header.payload_len as usize)?;
        if hash(&payload) == header.hash { Ok(payload) } else { Err(Fault::Payload) }
    }

    /// The payload of a kept base, verified.
    pub(super) fn base(&self, key: SequenceKey, header: &Header) -> Result<Vec<u8>, Fault> {
        let chunks = self.read.open_table(BASE_CHUNKS)?;
        let payload = join(chunks.range(key.base())?, header.payload_len as usize)?;
        if hash(&payload) == header.hash { Ok(payload) } else { Err(Fault::Base(key)) }
    }

    /// Shows `each` every segment in the spool with its satellite and the base that it needs, in the order of commits.
    pub(super) fn each_segment(
        self,
        mut each: impl FnMut(&str, &Header, &[u8], Option<&Base>),
    ) -> Result<(), SpoolError> {
        let mut all = Vec::new();
        for row in self.read.open_table(ENTRIES)?.iter()? {
            let (key, value) = row?;
            let record = decode::<SegmentRecord>(value.value())?;
            all.extend((!record.is_finished()).then_some((record.payload, key.value())));
        }
        all.sort_unstable();
        let entries = self.read.open_table(ENTRIES)?;
        for (number, key) in all {
            let Some(value) = entries.get(key)? else { continue };
            let record = decode::<SegmentRecord>(value.value())?;
            let header = record.header()?;
            let found = self.payload(number, &header);
            match found.and_then(|payload| Ok((payload, self.base_of(record.number, &header)?))) {
                Ok((payload, base)) => each(&record.satellite, &header, &payload, base.as_deref()),
                other => drop(said(other)?),
            }
        }
        Ok(())
    }

    /// Checks every segment and every base: its pieces, its hash, and that it decodes. What is wrong, one line each.
    pub(super) fn verify(self) -> Result<Vec<String>, SpoolError> {
        // What is known from before says nothing about what is on disk.
        let fresh = Self { decoded: Decoded::new(self.decoded.bytes as u64), ..self };
        let mut wrong = Vec::new();
        for row in fresh.read.open_table(ENTRIES)?.iter()? {
            let record = decode::<SegmentRecord>(row?.1.value())?;
            if record.is_finished() {
                continue;
            }
            let header = record.header()?;
            let bytes = fresh.payload(record.payload, &header);
            let found = bytes.and_then(|bytes| fresh.decode(record.number, &header, &bytes, false, |_| ()));
            wrong.extend(said(found)?.map(|why| format!("{}: segment {}: {why}", record.payload, header.id)));
        }
        for row in fresh.read.open_table(BASES)?.iter()? {
            let (key, value) = row?;
            let (key, record) = (key.value(), decode::<BaseRecord>(value.value())?);
            let header = bases::read_header(value.value())?;
            let bytes = fresh.base(key, &header);
            let found = bytes.and_then(|bytes| fresh.decode(key.satellite, &header, &bytes, false, |_| ()));
            wrong.extend(said(found)?.map(|why| format!("{}: base {}: {why}", record.entry, header.id)));
        }
        Ok(wrong)
    }
}

/// What is wrong, if anything is.
fn said<T>(found: Result<T, Fault>) -> Result<Option<String>, SpoolError> {
    match found {
        Ok(_) => Ok(None),
        Err(Fault::Payload) => Ok(Some("the payload does not match its hash".to_owned())),
        Err(Fault::Base(key)) => {
            Ok(Some(format!("the payload of base {} does not match its hash", key.sequence)))
        }
        Err(Fault::Undecodable(why)) => Ok(Some(why.to_string())),
        Err(Fault::Store(error)) => Err(error.into()),
    }
}
