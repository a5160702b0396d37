//! What is left in the file of a log: segments and commit groups whose checksums hold, and what the file says of them.
//!
//! Of segments it notes where they lie, and reads one at a time. Groups, which are few, it holds.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use perigee_shared::env::{Env, StoreFile};
use perigee_shared::otlp::items::visit;
use perigee_shared::otlp::walk::walk;
use perigee_shared::segment::{Base, Decoder, Hash, Header, Lane, hash, learn};
use perigee_shared::signal::Counts;
use perigee_shared::store::next_piece;
use perigee_shared::store::rescue::{Extent, Rescue, Spot};
use redb::{TableHandle, Value};

use super::gathered;
use super::group::{self, Accepted, Damaged};
use super::salvage::{Salvage, groups_from, rows, whole};
use super::tables::*;
use super::{SegmentRecord, WalError, seal};
use crate::lanes::Rules;

/// What look like pieces of payloads, where they lie and what tells them apart, and how many of one number are kept.
type Pieces = BTreeMap<PlacePiece, Vec<(Spot, [u8; 8])>>;
const MOST_ALIKE: usize = 4;

/// The requests of one lane; `None`: for which lane they are is not known.
type OfLane = (Option<Lane>, Vec<Accepted>);

/// Tables that an agent's log has and a spool has not.
const OF_A_LOG: [&str; 4] = ["journal", "lanes", "segments", "consumers"];

/// Groups so far below the first one that waits may lie in old pages.
const GROUPS_BEHIND: u64 = 1 << 20;

/// See the module.
pub(super) struct Left {
    /// What the file says was delivered; `None`: that is damaged.
    pub(super) certain: Option<Certain>,
    /// Oldest first, each of a lane and a sequence of its own.
    pub(super) segments: Vec<LeftSegment>,
    pub(super) groups: BTreeMap<u64, Vec<u8>>,
    /// Payloads that a ledger had acknowledged.
    pub(super) acknowledged: BTreeSet<Hash>,
    /// Whose log it is.
    pub(super) owner: Owner,
    /// Segments that it lists and whose payload is not whole.
    pub(super) missing: Vec<Header>,
    /// The pages that cannot be read, and their tables: see [`Rescue::damage`].
    pub(super) damage: Option<(u64, BTreeSet<String>)>,
    bases: BTreeMap<Place, (Header, Vec<Spot>)>,
    file: Box<dyn StoreFile>,
}

/// Whose log a file says that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// This satellite's.
    Satellite(String),
    /// It never had a link.
    Nobody,
    /// The name cannot be read.
    Unknown,
}

impl Owner {
    fn read(rescue: &Rescue<'_>) -> Self {
        let (extent, meta) = rows(rescue, META.name());
        match meta.get(META_SATELLITE.as_bytes()) {
            Some(id) => Self::Satellite(String::from_utf8_lossy(id).into_owned()),
            None if extent == Extent::Whole && !meta.is_empty() => Self::Nobody,
            None => Self::Unknown,
        }
    }
}

/// What a file says for certain.
pub(super) struct Certain {
    pub(super) epoch: u64,
    lanes: BTreeMap<u8, LaneNumbers>,
    /// By the first group for which they hold; `None`: they are damaged.
    rules: Option<BTreeMap<u64, Rules>>,
    /// The segments that were on board: every other had been delivered or dropped. `None`: the list is damaged.
    on_board: Option<BTreeSet<Place>>,
}

/// A segment in a file.
pub(super) struct LeftSegment {
    pub(super) header: Header,
    payload: Vec<Spot>,
    /// The file says that a consumer waited for it.
    pub(super) on_board: bool,
}

impl Left {
    /// Looks through the file at `path`, which nobody writes.
    pub(super) fn read(env: &Env, path: &Path) -> Result<Self, WalError> {
        let fault = |why: &str| WalError::Unsalvageable { path: path.to_owned(), why: why.to_owned() };
        if !env.store.exists(path) {
            return Err(fault("there is no such file"));
        }
        let file = env.store.open(path).map_err(|e| fault(&e.to_string()))?;
        const NOTHING: &str = "it is not an agent's log, or nothing of one is left in it";
        let open = || Rescue::open(&*file).ok_or_else(|| fault(NOTHING));
        let rescue = open()?;
        let (extent, tables) = rescue.tables();
        if (extent == Extent::Whole || !tables.is_empty()) && OF_A_LOG.iter().all(|t| !tables.contains(*t)) {
            return Err(fault(match tables.contains("satellites") {
                true => "it is a ground station's spool, not an agent's log",
                false => "it is not an agent's log",
            }));
        }
        let certain = Salvage::read(open()?, None);
        let first = certain.as_ref().and_then(|c| c.lanes.values().map(|l| l.position).min());
        let segments = segments(&rescue, certain.as_ref())?;
        let groups = groups_from(&rescue, first.map_or(0, |first| first.saturating_sub(GROUPS_BEHIND))).0;
        if tables.is_empty() && segments.is_empty() && groups.is_empty() {
            return Err(fault(NOTHING));
        }
        let (owner, damage) = (Owner::read(&rescue), rescue.damage());
        let missing = missing(&rescue, &segments);
        let (acknowledged, bases) = (acknowledged(&rescue), bases(&rescue));
        Ok(Self {
            segments,
            groups,
            acknowledged,
            owner,
            missing,
            damage,
            bases,
            certain: certain.map(|c| Certain {
                epoch: c.life.epoch,
                on_board: c.on_board(),
                lanes: c.lanes,
                rules: rules(&rescue),
            }),
            file,
        })
    }

    /// A payload, read again.
    fn payload(&self, header: &Header, spots: &[Spot]) -> Option<Vec<u8>> {
        let payload = Rescue::open(&*self.file)?.values(spots)?;
        (hash(&payload) == header.hash).then_some(payload)
    }

    /// The requests of a segment, if what it depends on is in the file.
    pub(super) fn decoded(&self, LeftSegment { header, payload, .. }: &LeftSegment) -> Option<Vec<Accepted>> {
        let mut chain = Vec::new();
        let mut next = header.base_sequence;
        while let Some(sequence) = next {
            let (base, payload) = self.bases.get(&Place { lane: header.id.lane.0, sequence })?;
            next = base.base_sequence.filter(|below| *below < sequence);
            chain.push((base, payload));
        }
        let mut base: Option<Base> = None;
        for (header, spots) in chain.into_iter().rev() {
            base = learn(header, &self.payload(header, spots)?, base).ok()?;
        }
        let (mut out, payload) = (Vec::new(), self.payload(header, payload)?);
        for request in Decoder::new(header, &payload, base.as_ref()).ok()? {
            let request = request.ok()?;
            let walked = walk(request.signal, &request.body).ok()?;
            out.push(Accepted { signal: request.signal, body: request.body, walked });
        }
        let items: Counts = out.iter().map(|r| Counts::of(r.signal, r.walked.items)).sum();
        (items == header.items).then_some(out)
    }

    /// The requests of a group, for each lane its part.
    pub(super) fn of_lanes(&self, number: u64, bytes: &[u8]) -> Result<Vec<OfLane>, Damaged> {
        let requests = group::requests(number, bytes)?;
        let Some(rules) = self.certain.as_ref().and_then(|c| c.rules.as_ref()) else {
            return Ok(vec![(None, requests)]);
        };
        let rules = rules.range(..=number).next_back().map(|(_, rules)| rules).filter(|r| !r.is_empty());
        let Some(rules) = rules else { return Ok(vec![(Some(Lane::BULK), requests)]) };
        let part = |lane: Lane| {
            let parts = requests.iter().filter_map(|r| seal::part(Some(rules), r.clone(), lane).transpose());
            Ok((Some(lane), parts.collect::<Result<_, Damaged>>()?))
        };
        group::shares_of(rules, &requests).iter().map(|share| part(share.lane)).collect()
    }

    /// Whether a segment had been delivered or dropped.
    pub(super) fn was_gone(&self, segment: &LeftSegment) -> bool {
        let list = self.certain.as_ref().and_then(|c| c.on_board.as_ref());
        list.is_some_and(|list| !list.contains(&Place::of(segment.header.id)))
    }

    /// Whether every segment that was on board is there: what else was sealed had been delivered or dropped.
    pub(super) fn is_whole(&self) -> bool {
        let list = self.certain.as_ref().and_then(|c| c.on_board.as_ref());
        list.is_some_and(|list| list.len() == self.segments.iter().filter(|s| s.on_board).count())
    }

    /// Whether the part of a group for `lane` was in no segment yet; `None`: the file does not say.
    pub(super) fn waits(&self, number: u64, lane: Option<Lane>) -> Option<bool> {
        let lanes = &self.certain.as_ref()?.lanes;
        let position = match lane {
            Some(lane) => lanes.get(&lane.0).map(|l| l.position),
            None => lanes.values().map(|l| l.position).max(),
        };
        Some(number >= position.unwrap_or(0))
    }
}

/// The items of groups that may be in segments too, and whether a segment has them. A segment has its items as they came, in
/// requests of another form.
#[derive(Default)]
pub(super) struct Content {
    asked: HashSet<u64>,
    seen: HashSet<u64>,
}

impl Content {
    /// Adds a request of a group.
    pub(super) fn ask(&mut self, request: &Accepted) {
        self.asked.extend(prints(request));
    }

    /// Notes which of them are in a segment.
    pub(super) fn note(&mut self, requests: &[Accepted]) {
        let prints = requests.iter().flat_map(prints);
        self.seen.extend(prints.filter(|print| self.asked.contains(print)));
    }

    /// Whether every item of a request is in segments.
    pub(super) fn has(&self, request: &Accepted) -> bool {
        prints(request).iter().all(|print| self.seen.contains(print))
    }
}

/// A number for each item of a request, or one for all of a request whose items cannot be told.
fn prints(request: &Accepted) -> Vec<u64> {
    let print = |data: u32, parts: &[&[u8]]| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[request.signal as u8]).update(&data.to_le_bytes());
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        u64::from_le_bytes(group::first_bytes(hasher.finalize()))
    };
    let mut out = Vec::new();
    let seen = visit(request.signal, &request.body, |item| {
        out.push(print(item.data, &[item.resource, item.scope, item.metric, item.body]));
    });
    match seen {
        Ok(()) if !out.is_empty() => out,
        _ => vec![print(u32::MAX, &[&request.body])],
    }
}

/// The segments in a file: of those of one lane and sequence the one on board, or the one with the most items.
fn segments(rescue: &Rescue<'_>, certain: Option<&Salvage<'_>>) -> Result<Vec<LeftSegment>, WalError> {
    let mut out = BTreeMap::new();
    for (header, payload) in certain.map_or(Ok(Vec::new()), Salvage::segments)? {
        out.insert(Place::of(header.id), LeftSegment { header, payload, on_board: true });
    }
    let there: BTreeSet<Place> = gathered(out.keys().copied());
    let mut others = found_anywhere(rescue, &there);
    others.sort_by_key(|(header, _)| header.items.total());
    for (header, payload) in others {
        out.insert(Place::of(header.id), LeftSegment { header, payload, on_board: false });
    }
    let mut out: Vec<_> = out.into_values().collect();
    out.sort_unstable_by_key(|of| (of.header.sealed_unix_nano, of.header.id.sequence, of.header.id.lane));
    Ok(out)
}

/// Segments that the file lists and that are not among those which were found.
fn missing(rescue: &Rescue<'_>, found: &[LeftSegment]) -> Vec<Header> {
    let found: BTreeSet<Place> = gathered(found.iter().map(|segment| Place::of(segment.header.id)));
    let mut out = Vec::new();
    rescue.table(SEGMENTS.name(), |_, value| {
        if let Ok(record) = SegmentRecord::from_bytes(value)
            && !found.contains(&Place::of(record.header.id))
        {
            out.push(record.header);
        }
    });
    out
}

/// Segments whose record and payload lie anywhere in the file, current or old, but for those that are `there`.
fn found_anywhere(rescue: &Rescue<'_>, there: &BTreeSet<Place>) -> Vec<(Header, Vec<Spot>)> {
    let mut headers: BTreeMap<Place, Vec<Header>> = BTreeMap::new();
    rescue.scan(9, |key, value| {
        if let (Some(key), Ok(record)) = (key.get(..9), SegmentRecord::from_bytes(value)) {
            let place = Place::from_bytes(key);
            let of = headers.entry(place).or_default();
            if Place::of(record.header.id) == place && of.iter().all(|h| h.hash != record.header.hash) {
                of.push(record.header);
            }
        }
    });
    headers.retain(|place, _| !there.contains(place));
    let mut pieces = Pieces::new();
    rescue.scan_spots(13, |key, value, spot| {
        if let Some(key) = key.get(..13).map(PlacePiece::from_bytes)
            && headers.contains_key(&Place { lane: key.lane, sequence: key.sequence })
        {
            let (known, print) = (pieces.entry(key).or_default(), group::first_bytes(blake3::hash(value)));
            if known.len() < MOST_ALIKE && !known.iter().any(|(_, other)| *other == print) {
                known.push((spot, print));
            }
        }
    });
    let of = |(place, headers): (Place, Vec<Header>)| {
        let whole = |h: Header| assembled(rescue, place, &h, &pieces).map(|payload| (h, payload));
        headers.into_iter().filter_map(whole).collect::<Vec<_>>()
    };
    headers.into_iter().flat_map(of).collect()
}

/// Where the payload of a header lies, in pieces as long as its own must be.
fn assembled(rescue: &Rescue<'_>, place: Place, header: &Header, pieces: &Pieces) -> Option<Vec<Spot>> {
    let like = |number: u32, left: u64| {
        let length = next_piece(left as usize);
        let alike = pieces.get(&place.piece(number)).into_iter().flatten().map(|(spot, _)| *spot);
        alike.filter(move |spot| spot.length == length)
    };
    like(0, header.payload_len).find_map(|first| {
        let (mut payload, mut left) = (vec![first], header.payload_len - first.length as u64);
        for number in 1.. {
            if left == 0 {
                break;
            }
            let next = like(number, left).next()?;
            left -= next.length as u64;
            payload.push(next);
        }
        (hash(&rescue.values(&payload)?) == header.hash).then_some(payload)
    })
}

/// The bases in the file, by lane and sequence, and where their payloads lie.
fn bases(rescue: &Rescue<'_>) -> BTreeMap<Place, (Header, Vec<Spot>)> {
    let mut out = BTreeMap::new();
    rescue.table(BASES.name(), |key, value| {
        if let (Some(key), Ok(header)) = (key.get(..9), SegmentRecord::header_from(value)) {
            out.insert(Place::from_bytes(key), (header, Vec::new()));
        }
    });
    rescue.table_spots(BASE_CHUNKS.name(), |key, _, spot| {
        if let Some(key) = key.get(..13).map(PlacePiece::from_bytes)
            && let Some((_, payload)) = out.get_mut(&Place { lane: key.lane, sequence: key.sequence })
        {
            payload.push(spot);
        }
    });
    out
}

/// Hashes of what ledgers had acknowledged.
fn acknowledged(rescue: &Rescue<'_>) -> BTreeSet<Hash> {
    let (_, rows) = rows(rescue, ACKNOWLEDGED.name());
    gathered(rows.values().filter_map(|value| Hash::try_from(value.get(..size_of::<Hash>())?).ok()))
}

fn rules(rescue: &Rescue<'_>) -> Option<BTreeMap<u64, Rules>> {
    let rows = whole(rescue, LANE_RULES.name())?;
    let rule = |(from, rules): (&Vec<u8>, &Vec<u8>)| {
        Some((u64::from_le_bytes(from.as_slice().try_into().ok()?), Rules::from_bytes(rules)?))
    };
    rows.iter().map(rule).collect()
}
