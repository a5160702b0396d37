//! Segments that are encoded anew on board, under their names: for a ground that has not what they lean on or does not read
//! their codec, and when an operator asks.
//!
//! Neither contradicts what a station may have: the hashes of what was sealed before stay known ([`Recoding::replace`]). What a ground
//! holds of an unfinished transfer is of no use any more and is sent again.

use std::time::Duration;

use bytes::Bytes;
use perigee_shared::link::Slot;
use perigee_shared::segment::{
    Base, Codec, CodecError, Decoder, Delivery, Encoder, Header, Lane, SegmentId, hash,
};
use perigee_shared::store::StoreError;
use redb::ReadableTable;

use super::bases::Chain;
use super::state::Edit;
use super::tables::*;
use super::{SegmentRecord, Wal, WalError, seal};
use crate::limiter::{for_base, to_decode, to_encode};

/// A segment that is to be encoded anew, with what it leans on.
#[derive(Debug)]
pub struct Recodable {
    header: Header,
    payload: Bytes,
    chain: Chain,
}

/// Encodes segments anew, and remembers what the last one leant on: others that lean on it often follow.
#[derive(Debug, Default)]
pub struct Recoder {
    last: Option<(Lane, u64, Base)>,
}

impl Recoder {
    /// Encodes it with `codec` without a base, in about `memory` bytes: its new header and payload. CPU-heavy.
    pub fn run(&mut self, recoding: Recodable, codec: Codec, memory: usize) -> Result<Recoded, CodecError> {
        let base = recoding.header.base_sequence.map(|sequence| (recoding.header.id.lane, sequence));
        if self.last.as_ref().map(|l| (l.0, l.1)) != base {
            let decoded = recoding.chain.decode()?;
            self.last = base.zip(decoded).map(|((lane, sequence), base)| (lane, sequence, base));
        }
        recoding.encode(self.last.as_ref().map(|l| &l.2), codec, memory)
    }
}

impl Recodable {
    /// Bytes of memory that decoding and encoding it may take.
    pub fn need(&self) -> u64 {
        to_decode(&self.header) + for_base(&self.header) + to_encode(self.header.raw_len)
    }

    fn encode(self, base: Option<&Base>, codec: Codec, memory: usize) -> Result<Recoded, CodecError> {
        let mut encoder = Encoder::new(codec, None)?.bounded(memory);
        let (mut raw_len, mut requests) = (0, 0);
        for request in Decoder::new(&self.header, &self.payload, base)? {
            let request = request?;
            encoder.push(request.signal, &request.body)?;
            raw_len += request.body.len() as u64;
            requests += 1;
        }
        let payload = encoder.finish()?.payload;
        let header = Header {
            codec: codec as u32,
            payload_len: payload.len() as u64,
            raw_len,
            hash: hash(&payload),
            requests,
            base_sequence: None,
            is_base: false,
            ..self.header.clone()
        };
        Ok(Recoded { before: self.header, header, payload })
    }
}

/// A segment that was encoded anew.
#[derive(Debug)]
pub struct Recoded {
    before: Header,
    header: Header,
    payload: Vec<u8>,
}

impl Recoded {
    /// Codec and payload bytes, as they were and as they are now.
    pub const fn change(&self) -> [(u32, u64); 2] {
        [(self.before.codec, self.before.payload_len), (self.header.codec, self.header.payload_len)]
    }
}

/// Why a segment is not encoded anew on request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cannot {
    /// It was committed or dropped, or never was.
    #[error("it is not on board")]
    NotOnBoard,
    /// Its bytes are on their way as they are.
    #[error("it is being sent; try again when the contact is over")]
    BeingSent,
    /// Cursors count requests, and it may have others afterwards.
    #[error("the exporter {0} still needs it and counts its requests")]
    Waits(String),
    /// What it would take is more than there is room for.
    #[error("storage.max_bytes leaves too little room")]
    NoRoom,
}

/// What becomes of a request to encode a segment anew.
#[derive(Debug)]
pub enum Asked {
    /// It can be done.
    Can(Box<Recodable>),
    /// It leans on nothing and has that codec already.
    IsSo,
    /// It cannot be done.
    Cannot(Cannot),
}

/// A payload that is about to be sent.
#[derive(Debug)]
pub enum Sending {
    /// It goes, and says whether it has waited for a contact, and how long ago its oldest item was accepted.
    Payload(Bytes, Delivery, Duration),
    /// It was committed or dropped.
    Gone,
    /// It was encoded anew since its header was read.
    Changed,
    /// It is on its way in another slot.
    Elsewhere,
    /// What it depends on is in another ledger.
    Unreadable,
}

/// Segments that are encoded again.
pub struct Recoding<'a>(pub(super) &'a mut Wal);

impl Recoding<'_> {
    /// A segment with what it depends on, to be encoded again; `None` when it is not on board.
    pub fn prepare(&mut self, id: SegmentId) -> Result<Option<Recodable>, WalError> {
        let Some(record) = self.0.custody().record(id)? else { return Ok(None) };
        let header = record.header;
        let Some(payload) = self.0.custody().payload(&header)? else { return Ok(None) };
        let chain = match self.0.bases().chain(id.lane, header.base_sequence) {
            // It stays as it is, for a ground that has the base.
            Err(WalError::MissingBase(_)) => return Ok(None),
            chain => chain?,
        };
        Ok(Some(Recodable { header, payload, chain }))
    }

    /// Whether the segment can be encoded again with `codec` because somebody asks for it, and not the ground in its contact.
    /// `link` is the consumer that counts no requests.
    pub fn asked(&mut self, id: SegmentId, codec: Codec, link: &str) -> Result<Asked, WalError> {
        let Some(record) = self.0.custody().record(id)? else { return Ok(Asked::Cannot(Cannot::NotOnBoard)) };
        if record.header.codec == codec as u32 && record.header.base_sequence.is_none() {
            return Ok(Asked::IsSo);
        }
        if self.0.notes.talks.are_about(Place::of(id)) {
            return Ok(Asked::Cannot(Cannot::BeingSent));
        }
        let mut others = self.0.state().consumers.iter().filter(|(name, _)| *name != link);
        if let Some((name, _)) = others.find(|(_, id)| record.waiting & (1 << **id) != 0) {
            return Ok(Asked::Cannot(Cannot::Waits(name.clone())));
        }
        Ok(self.prepare(id)?.map_or(Asked::Cannot(Cannot::NotOnBoard), |r| Asked::Can(Box::new(r))))
    }

    /// [`Recoding::replace`] for [`Recoding::asked`], when it still can be done.
    pub fn replace_as_asked(&mut self, recoded: Recoded) -> Result<Result<(), Cannot>, WalError> {
        if self.0.notes.talks.are_about(Place::of(recoded.header.id)) {
            return Ok(Err(Cannot::BeingSent));
        }
        let more = recoded.header.payload_len.saturating_sub(recoded.before.payload_len);
        if more > 0 && self.0.state().stored() + more > self.0.config().max_bytes {
            return Ok(Err(Cannot::NoRoom));
        }
        Ok(if self.replace(recoded)? { Ok(()) } else { Err(Cannot::NotOnBoard) })
    }

    /// Notes that a contact is opened: what is accepted from now on does not wait for it.
    pub fn contact_opens(&mut self) {
        let now = self.0.env().since_boot();
        self.0.notes.talks.open(now);
    }

    /// The payload of a segment that is about to be on a wire in `slot`, if it still is the one that `header` is of.
    pub fn begin_sending(&mut self, slot: Slot, header: &Header) -> Result<Sending, WalError> {
        if self.0.notes.talks.are_about_elsewhere(slot, Place::of(header.id)) {
            return Ok(Sending::Elsewhere);
        }
        let record = match self.0.custody().record(header.id)? {
            None => return Ok(Sending::Gone),
            Some(now) if now.header.hash != header.hash => return Ok(Sending::Changed),
            Some(now) => now,
        };
        if self.0.bases().are_elsewhere(slot, header) {
            return Ok(Sending::Unreadable);
        }
        let env = self.0.env();
        let age = record.oldest(&self.0.state().boots.ages(env), env);
        let payload = self.0.custody().payload(header)?;
        self.0.custody().mark_sent(slot, header.id);
        self.0.notes.talks.claim(slot, Place::of(header.id));
        let delivery = self.0.notes.talks.delivery(header.id);
        Ok(payload.map_or(Sending::Gone, |payload| Sending::Payload(payload, delivery, age)))
    }

    /// Notes that `slot` sends nothing more of a segment.
    pub fn give_up_sending(&mut self, slot: Slot, id: SegmentId) {
        if !self.0.notes.talks.are_about_elsewhere(slot, Place::of(id)) {
            self.0.notes.talks.release(Place::of(id));
        }
    }

    /// Notes that the connection of `slot` is over: nothing is being sent in it any more.
    pub fn end_sending(&mut self, slot: Slot) {
        self.0.notes.talks.end(slot);
    }

    /// Puts what was encoded again in the place of what it was made of. Whether that was still there.
    pub fn replace(&mut self, recoded: Recoded) -> Result<bool, WalError> {
        let Recoded { before, header, payload } = recoded;
        let place = Place::of(header.id);
        if self.0.custody().record(before.id)?.is_none_or(|now| now.header.hash != before.hash) {
            return Ok(false);
        }
        self.0.write(|txn, _| {
            let found = txn.open_table(SEGMENTS)?.get(place)?.map(|v| SegmentRecord::from_bytes(v.value()));
            let record =
                found.transpose()?.ok_or_else(|| StoreError::Damaged("a segment is gone".to_owned()))?;
            txn.open_table(CHUNKS)?.retain_in(place.pieces(), |_, _| false)?;
            seal::insert_segment(txn, &SegmentRecord { header: header.clone(), ..record }, &payload)?;
            // A station may have committed it as it was, another as it is: that is no contradiction.
            let mut shipped = txn.open_table(SHIPPED)?;
            let known = shipped.get(place)?.map(|v| v.value().to_vec()).unwrap_or_default();
            shipped.insert(place, [&known[..], &before.hash, &header.hash].concat().as_slice())?;
            let (before, after) = (before.payload_len, header.payload_len);
            Ok((true, vec![Edit::Replaced { lane: header.id.lane, before, after }]))
        })
    }
}
