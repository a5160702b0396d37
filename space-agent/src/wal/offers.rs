//! `wal salvage`: what is left in a file that was put aside.
//!
//! When a damaged log is put aside, everything that is known to be undelivered goes into the new one. What may have been delivered
//! already stays in the file, counted as lost. An operator who would rather have it twice than not at all can ask for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use perigee_shared::env::Env;
use perigee_shared::otlp::walk::walk;
use perigee_shared::segment::{Base, Decoder, Hash, Header, hash, learn};
use perigee_shared::signal::Counts;
use perigee_shared::store::StoreError;
use perigee_shared::store::rescue::Rescue;
use redb::{ReadableTable, TableHandle, Value};

use super::group::{self, Accepted};
use super::salvage::{Salvage, groups_from};
use super::tables::*;
use super::{Journal, SegmentRecord, Wal, WalError};

/// Requests that are appended together.
const TOGETHER: usize = 64;

/// What was taken out of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Offered {
    /// Requests that are in the log now.
    pub requests: u64,
    /// Their items.
    pub items: u64,
    /// Segments and groups whose checksum holds and that were left out: they are in this log, were acknowledged, or may have been
    /// delivered.
    pub left_out: u64,
    /// Segments that cannot be decoded here, since what they depend on is lost.
    pub undecodable: u64,
}

impl Journal<'_> {
    /// Takes requests out of the file at `path`, which nobody has open, and appends them as if they had just come. What this log took
    /// over when the file was put aside is left out; with `may_repeat` everything else is taken whose checksum holds, even where
    /// nobody can tell whether it was delivered.
    pub fn salvage(&mut self, path: &Path, may_repeat: bool) -> Result<Offered, WalError> {
        let (env, known) = (self.0.env().clone(), known(self.0)?);
        let requests = collect(&env, path, may_repeat, &known)?;
        let mut offered = requests.1;
        for part in requests.0.chunks(TOGETHER) {
            self.append(part)?;
            offered.requests += part.len() as u64;
            offered.items += part.iter().map(|r| r.walked.items).sum::<u64>();
        }
        Ok(offered)
    }
}

/// What this log has, had, or has taken over.
fn known(wal: &mut Wal) -> Result<Known, WalError> {
    wal.read(|txn, state| {
        let mut known = Known::default();
        known.epochs.insert(state.life.epoch);
        for row in txn.open_table(EPOCHS)?.iter()? {
            known.epochs.insert(row?.0.value());
        }
        let mut note = |bytes: &[u8]| {
            known.hashes.extend(bytes.chunks_exact(32).filter_map(|h| Hash::try_from(h).ok()));
        };
        for row in txn.open_table(SHIPPED)?.iter()? {
            note(row?.1.value());
        }
        if let Some(table) = if_made(txn, ACKNOWLEDGED)? {
            for row in table.iter()? {
                note(row?.1.value());
            }
        }
        for row in txn.open_table(SEGMENTS)?.iter()? {
            note(&SegmentRecord::from_bytes(row?.1.value())?.header.hash);
        }
        Ok(known)
    })
}

#[derive(Debug, Default)]
struct Known {
    /// Lives that this log has had.
    epochs: BTreeSet<u64>,
    /// Payloads that are on board or were acknowledged.
    hashes: BTreeSet<Hash>,
}

/// The requests in a file, oldest first.
fn collect(
    env: &Env,
    path: &Path,
    may_repeat: bool,
    known: &Known,
) -> Result<(Vec<Accepted>, Offered), WalError> {
    let fault = |why: String| StoreError::File { path: path.to_owned(), why };
    if !env.store.exists(path) {
        return Err(fault("there is no such file".to_owned()).into());
    }
    let file = env.store.open(path).map_err(|e| fault(e.to_string()))?;
    let rescue = || Rescue::open(&*file).ok_or_else(|| fault("nothing of its header can be read".to_owned()));
    let certain = Salvage::read(rescue()?, None);
    let rescue = rescue()?;
    let (mut requests, mut offered) = (Vec::new(), Offered::default());
    // What is certain of a life that this log continues went into it when the file was put aside.
    let taken = certain.as_ref().is_some_and(|c| known.epochs.contains(&c.life.epoch));
    let position = certain.as_ref().and_then(|c| c.lanes.values().map(|l| l.position).min());

    let mut segments: BTreeMap<Hash, (Header, Vec<u8>)> = BTreeMap::new();
    let mut sure = BTreeSet::new();
    if let Some(certain) = &certain {
        for (header, payload) in certain.segments()? {
            sure.insert(header.hash);
            segments.insert(header.hash, (header, payload));
        }
    }
    if may_repeat {
        for (header, payload) in found_anywhere(&rescue) {
            segments.entry(header.hash).or_insert((header, payload));
        }
    }
    let bases = bases(&rescue);
    let mut in_order: Vec<_> = segments.into_values().collect();
    in_order.sort_by_key(|(header, _)| (header.sealed_unix_nano, header.id.sequence));
    for (header, payload) in in_order {
        if known.hashes.contains(&header.hash) || taken && sure.contains(&header.hash) {
            offered.left_out += 1;
        } else if let Some(of_it) = decoded(&header, &payload, &bases) {
            requests.extend(of_it);
        } else {
            offered.undecodable += 1;
        }
    }
    for (number, bytes) in groups_from(&rescue, if may_repeat { 0 } else { position.unwrap_or(u64::MAX) }).0 {
        let in_segment = position.is_none_or(|p| number < p);
        match group::requests(number, &bytes) {
            Ok(_) if !in_segment && taken || in_segment && !may_repeat => offered.left_out += 1,
            Ok(of_it) => requests.extend(of_it),
            Err(_) => {}
        }
    }
    Ok((requests, offered))
}

/// Segments whose record and payload lie anywhere in the file, current or old.
fn found_anywhere(rescue: &Rescue<'_>) -> Vec<(Header, Vec<u8>)> {
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
    let mut pieces: BTreeMap<PlacePiece, Vec<u8>> = BTreeMap::new();
    rescue.scan(13, |key, value| {
        if let Some(key) = key.get(..13).map(PlacePiece::from_bytes)
            && headers.contains_key(&Place { lane: key.lane, sequence: key.sequence })
        {
            pieces.entry(key).or_insert_with(|| value.to_vec());
        }
    });
    let mut out = Vec::new();
    for (place, headers) in headers {
        let payload: Vec<u8> = pieces.range(place.pieces()).flat_map(|(_, p)| p.iter().copied()).collect();
        let sum = hash(&payload);
        out.extend(headers.into_iter().filter(|h| h.hash == sum).map(|h| (h, payload.clone())));
    }
    out
}

/// The bases in the file, by lane and sequence.
fn bases(rescue: &Rescue<'_>) -> BTreeMap<Place, (Header, Vec<u8>)> {
    let mut out = BTreeMap::new();
    rescue.table(BASES.name(), |key, value| {
        if let (Some(key), Ok(header)) = (key.get(..9), SegmentRecord::header_from(value)) {
            out.insert(Place::from_bytes(key), (header, Vec::new()));
        }
    });
    rescue.table(BASE_CHUNKS.name(), |key, value| {
        if let Some(key) = key.get(..13).map(PlacePiece::from_bytes)
            && let Some((_, payload)) = out.get_mut(&Place { lane: key.lane, sequence: key.sequence })
        {
            payload.extend_from_slice(value);
        }
    });
    out.retain(|_, (header, payload)| hash(payload) == header.hash);
    out
}

/// The requests of a segment, if what it depends on is in the file.
fn decoded(
    header: &Header,
    payload: &[u8],
    bases: &BTreeMap<Place, (Header, Vec<u8>)>,
) -> Option<Vec<Accepted>> {
    let mut chain = Vec::new();
    let mut next = header.base_sequence;
    while let Some(sequence) = next {
        let (base, payload) = bases.get(&Place { lane: header.id.lane.0, sequence })?;
        next = base.base_sequence.filter(|below| *below < sequence);
        chain.push((base, payload));
    }
    let mut base: Option<Base> = None;
    for (header, payload) in chain.into_iter().rev() {
        base = learn(header, payload, base).ok()?;
    }
    let mut out = Vec::new();
    for request in Decoder::new(header, payload, base.as_ref()).ok()? {
        let request = request.ok()?;
        let walked = walk(request.signal, &request.body).ok()?;
        out.push(Accepted { signal: request.signal, body: request.body, walked });
    }
    let items: Counts = out.iter().map(|r| Counts::of(r.signal, r.walked.items)).sum();
    (items == header.items).then_some(out)
}
