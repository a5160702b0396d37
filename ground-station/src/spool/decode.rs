//! Verifying and decoding what the spool holds, for work that keeps a processor busy: it reads the spool as it was at one moment,
//! beside whatever the spool does meanwhile. What is deleted meanwhile is given back to the file only when that is over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perigee_shared::segment::{Base, CodecError, Header, Request, Requests, Unpacked, hash, learn_from};
use perigee_shared::store::{StoreError, join};
use redb::{ReadTransaction, ReadableTable};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::alarms::Alarms;
use super::bases;
use super::catalogue::Services;
use super::error::SpoolError;
use super::outlet::{First, Found, Place};
use super::stream::{Source, Table};
use super::tables::*;
use crate::memory::{Budget, SERIES, Turn, to_decode};

/// Bases that are kept decoded whatever they take: the one that segments need now.
const DECODED: usize = 1;

/// Bytes of requests that are kept for people to look at.
const SEEN: usize = 4 << 20;

/// Payloads that they are of, at most.
const SEEN_PAYLOADS: usize = 256;

/// Payloads whose services and alarms are known and not in the store yet, at most.
const NAMED: usize = 256;

/// Bytes of a request that is put together from a large segment: what its items are put into, and what cursors count.
pub(super) const PIECE: usize = 960 << 10;

/// Tells cursors that count what is made of these pieces from those of earlier versions, which had one request of each signal. Another
/// size of a piece needs another number.
pub const PIECES: u64 = 0x7069_6563_6573_0001;

/// A base takes no more: an agent's takes a quarter.
const LARGEST_BASE: usize = 32 << 20;

/// What a segment may teach: most where each item is of a time series of its own.
fn taught(header: &Header) -> u64 {
    header.raw_len.max(header.items.total().saturating_mul(SERIES)).min(LARGEST_BASE as u64)
}

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

struct KnownBase {
    key: SequenceKey,
    base: Arc<Base>,
    /// What it takes.
    bytes: usize,
}

#[derive(Default)]
struct Latest {
    /// The latest first.
    bases: VecDeque<KnownBase>,
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
    budget: Budget,
}

impl Decoded {
    pub(super) fn new(bytes: u64, budget: &Budget) -> Self {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        Self { latest: Arc::default(), bytes, budget: budget.clone() }
    }

    /// The memory that is shared by whoever decodes.
    pub(super) const fn budget(&self) -> &Budget {
        &self.budget
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

    /// What a base takes that is kept decoded.
    fn size_of(&self, key: SequenceKey) -> Option<usize> {
        self.latest().bases.iter().find(|known| known.key == key).map(|known| known.bytes)
    }

    /// Gives up bases, the oldest first, until there is room for one of so many bytes.
    fn make_room(&self, bytes: u64) {
        let bases = &mut self.latest().bases;
        let mut all = usize::try_from(bytes).unwrap_or(usize::MAX);
        let fits = |known: &&KnownBase| {
            all = all.saturating_add(known.bytes);
            all <= self.bytes
        };
        let most = bases.iter().take_while(fits).count();
        bases.truncate(most);
    }

    fn remember(&self, key: SequenceKey, base: &Arc<Base>) {
        let bytes = base.size();
        let bases = &mut self.latest().bases;
        bases.retain(|known| known.key != key);
        bases.push_front(KnownBase { key, base: Arc::clone(base), bytes });
        let mut all = 0;
        let fits = |known: &&KnownBase| {
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
    unpacked: Unpacked,
    turn: Option<Turn>,
}

impl Work {
    /// The same, which has its turn as long as it lives, and gives back what it does not need any more.
    pub(super) fn in_turn(self, mut turn: Turn) -> Self {
        let own = self.unpacked.base().filter(|_| self.header.is_base);
        turn.keep((self.unpacked.size() + own.map_or(0, |base| base.size()) + 4 * PIECE) as u64);
        Self { turn: Some(turn), ..self }
    }

    /// The requests in the segment, in order.
    pub fn requests(&self) -> Result<Requests<'_>, CodecError> {
        self.unpacked.requests(PIECE)
    }

    /// Waits until somebody else needs the memory that this takes.
    pub async fn wanted(&self) {
        match &self.turn {
            Some(turn) => turn.wanted().await,
            None => std::future::pending().await,
        }
    }

    /// Whether somebody else has waited long enough for the memory that this takes.
    pub fn is_over(&self) -> bool {
        self.turn.as_ref().is_some_and(Turn::is_over)
    }
}

/// Where a payload is.
#[derive(Clone, Copy)]
pub(super) enum At<'a> {
    /// A segment's, by its number.
    Payload(u64),
    /// A kept base's.
    Base(SequenceKey),
    /// In memory.
    Bytes(&'a [u8]),
}

/// Shows `each` the requests of a payload.
fn show(unpacked: &Unpacked, mut each: impl FnMut(&Request)) -> Result<(), CodecError> {
    unpacked.requests(PIECE)?.try_for_each(|request| request.map(|request| each(&request)))
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
        let unpacked = self.unpack(place.0.satellite, &header, At::Payload(number))?;
        let satellite = Arc::from(satellite);
        if !checked {
            let mut look = Look::default();
            show(&unpacked, |request| look.at(request))?;
            self.decoded.note(number, &satellite, header.id.lane.0, look);
            self.decoded.latest().checked.insert(number);
            if let Some((first, _)) = self.read.open_table(SEGMENT_CHUNKS)?.iter()?.next().transpose()? {
                self.decoded.forget_before(first.value().of);
            }
        }
        let header = Arc::new(header);
        Ok(Work { place, satellite, station, header, number, first, unpacked, turn: None })
    }

    /// Bytes that decoding a segment of this satellite may take.
    pub(super) fn need(&self, satellite: u32, header: &Header) -> Result<u64, SpoolError> {
        let chain = match bases::chain(&self.read.open_table(BASES)?, satellite, header) {
            // It does not decode, and that is soon found out.
            Err(SpoolError::Undecodable(_)) => return Ok(to_decode(header)),
            chain => chain?,
        };
        let (mut need, mut of_base) = (to_decode(header), 0u64);
        for (key, header) in &chain {
            if let Some(size) = self.decoded.size_of(*key) {
                of_base += size as u64;
                break;
            }
            of_base += taught(header);
            need = need.max(to_decode(header));
        }
        if header.is_base {
            need += taught(header);
        }
        // The segment begins with a copy.
        Ok(need + 2 * of_base.min(LARGEST_BASE as u64))
    }

    /// Bytes that a segment may take once it is decoded, whatever its header says: well more than what it should need, and no more than
    /// the memory limit leaves.
    fn bound(&self, header: &Header, base: Option<&Base>) -> usize {
        let should = usize::try_from(to_decode(header)).unwrap_or(usize::MAX);
        let of_base = base.map_or(0, Base::size);
        should.saturating_mul(3).saturating_add(of_base).min(self.decoded.budget().alone())
    }

    /// What of this satellite's spool needs most to be decoded.
    pub(super) fn most(&self) -> Result<u64, SpoolError> {
        let mut most = 0;
        for row in self.read.open_table(ENTRIES)?.iter()? {
            let record = decode::<SegmentRecord>(row?.1.value())?;
            if !record.is_finished() {
                most = most.max(self.need(record.number, &record.header()?)?);
            }
        }
        for row in self.read.open_table(BASES)?.iter()? {
            let (key, value) = row?;
            most = most.max(self.need(key.value().satellite, &bases::read_header(value.value())?)?);
        }
        Ok(most)
    }

    /// Verifies and decodes a segment of this satellite.
    pub(super) fn unpack(&self, satellite: u32, header: &Header, at: At<'_>) -> Result<Unpacked, Fault> {
        let base = self.base_of(satellite, header)?;
        if header.is_base {
            self.decoded.make_room(taught(header));
        }
        let memory = self.bound(header, base.as_deref());
        let unpack = |source: &Source<'_>| Unpacked::new(header, source, base.as_deref(), memory);
        let unpacked = self.verified(header, at, unpack)?;
        if header.is_base
            && let Some(own) = unpacked.base()
            && own.size() <= LARGEST_BASE
        {
            self.decoded.remember(SequenceKey::new(satellite, header.id), own);
        }
        Ok(unpacked)
    }

    /// What `decode` makes of a payload, once that was found to have its hash.
    fn verified<R>(
        &self,
        header: &Header,
        at: At<'_>,
        decode: impl FnOnce(&Source<'_>) -> Result<R, CodecError>,
    ) -> Result<R, Fault> {
        let source = Source::new(match at {
            At::Payload(number) => Table::Segments(self.read.open_table(SEGMENT_CHUNKS)?, number),
            At::Base(key) => Table::Bases(self.read.open_table(BASE_CHUNKS)?, key),
            At::Bytes(bytes) => Table::Memory(bytes),
        });
        if !source.is_whole(header)? {
            return Err(if let At::Base(key) = at { Fault::Base(key) } else { Fault::Payload });
        }
        let decoded = decode(&source);
        source.result()?;
        Ok(decoded?)
    }

    /// That a payload is there and has its hash.
    pub(super) fn check(&self, header: &Header, at: At<'_>) -> Result<(), Fault> {
        self.verified(header, at, |_| Ok(()))
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
                self.decoded.make_room(taught(header));
                let memory = self.bound(header, known.as_ref()).min(LARGEST_BASE);
                let learn = |source: &Source<'_>| learn_from(header, source, known.take(), memory);
                let next = self.verified(header, At::Base(*key), learn)?;
                let next = next.ok_or(CodecError::MissingBase(header.id.sequence))?;
                if next.size() > LARGEST_BASE {
                    return Err(CodecError::TooLarge("a base").into());
                }
                known = Some(next);
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

    /// Shows `each` the requests of a segment; whether there was memory for that. Looking never waits: what an exporter decodes is seen
    /// all the same.
    pub(super) fn glimpse(
        &self,
        satellite: u32,
        header: &Header,
        at: At<'_>,
        each: impl FnMut(&Request),
    ) -> Result<bool, Fault> {
        let Some(_turn) = self.decoded.budget().try_take(self.need(satellite, header)?) else {
            return Ok(false);
        };
        show(&self.unpack(satellite, header, at)?, each)?;
        Ok(true)
    }

    /// That a segment has its hash and all of it decodes.
    pub(super) fn look_through(&self, satellite: u32, header: &Header, at: At<'_>) -> Result<(), Fault> {
        Ok(show(&self.unpack(satellite, header, at)?, |_| ())?)
    }

    /// Checks every segment and every base: its pieces, its hash, and that it decodes. What is wrong, one line each.
    pub(super) fn verify(self) -> Result<Vec<String>, SpoolError> {
        // What is known from before says nothing about what is on disk.
        let fresh = Self { decoded: Decoded::new(self.decoded.bytes as u64, &self.decoded.budget), ..self };
        let mut wrong = Vec::new();
        for row in fresh.read.open_table(ENTRIES)?.iter()? {
            let record = decode::<SegmentRecord>(row?.1.value())?;
            if record.is_finished() {
                continue;
            }
            let header = record.header()?;
            let found = fresh.look_through(record.number, &header, At::Payload(record.payload));
            wrong.extend(said(found)?.map(|why| format!("{}: segment {}: {why}", record.payload, header.id)));
        }
        for row in fresh.read.open_table(BASES)?.iter()? {
            let (key, value) = row?;
            let (key, record) = (key.value(), decode::<BaseRecord>(value.value())?);
            let header = bases::read_header(value.value())?;
            let found = fresh.look_through(key.satellite, &header, At::Base(key));
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
