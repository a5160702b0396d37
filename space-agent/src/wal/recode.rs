//! Segments that are encoded anew on board, under their names: for a ground that has not what they lean on or does not read
//! their codec, and when an operator asks.
//!
//! Neither contradicts what a station may have: the hashes of what was sealed before stay known ([`Wal::replace`]). What a ground
//! holds of an unfinished transfer is of no use any more and is sent again.

use bytes::Bytes;
use perigee_shared::segment::{Base, Codec, CodecError, Decoder, Encoder, Header, Lane, SegmentId, hash};
use redb::{ReadableDatabase, ReadableTable};

use super::bases::Chain;
use super::tables::{CHUNKS, SEGMENTS, SHIPPED};
use super::{SegmentRecord, Wal, WalError, seal};

/// A segment that is to be encoded anew, with what it leans on.
#[derive(Debug)]
pub struct Recoding {
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
    /// Encodes it with `codec` so that it leans on nothing: its new header and payload. CPU-heavy.
    pub fn run(&mut self, recoding: Recoding, codec: Codec) -> Result<Recoded, CodecError> {
        let base = recoding.header.base_sequence.map(|sequence| (recoding.header.id.lane, sequence));
        if self.last.as_ref().map(|l| (l.0, l.1)) != base {
            let decoded = recoding.chain.decode()?;
            self.last = base.zip(decoded).map(|((lane, sequence), base)| (lane, sequence, base));
        }
        recoding.encode(self.last.as_ref().map(|l| &l.2), codec)
    }
}

impl Recoding {
    fn encode(self, base: Option<&Base>, codec: Codec) -> Result<Recoded, CodecError> {
        let mut encoder = Encoder::new(codec, None)?;
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
    #[error("the exporter {0} has still to pass it and counts its requests")]
    Waits(String),
    /// What it would take is more than there is room for.
    #[error("storage.max_bytes leaves no room for what it would take")]
    NoRoom,
}

/// What becomes of a request to encode a segment anew.
#[derive(Debug)]
pub enum Asked {
    /// It can be done.
    Can(Box<Recoding>),
    /// It leans on nothing and has that codec already.
    IsSo,
    /// It cannot be done.
    Cannot(Cannot),
}

/// A payload that is about to be sent.
#[derive(Debug)]
pub enum Sending {
    /// It goes.
    Payload(Bytes),
    /// It was committed or dropped.
    Gone,
    /// It was encoded anew since its header was read.
    Changed,
}

impl Wal {
    /// A segment with what it leans on, to be encoded anew; `None` when it is not on board.
    pub fn to_recode(&mut self, id: SegmentId) -> Result<Option<Recoding>, WalError> {
        let Some(header) = self.header(id)? else { return Ok(None) };
        let Some(payload) = self.payload(id.lane, id.sequence)? else { return Ok(None) };
        let chain = self.chain(id.lane, header.base_sequence)?;
        Ok(Some(Recoding { header, payload, chain }))
    }

    /// Whether the segment can be encoded anew with `codec` because somebody asks for it, and not the ground in its contact.
    /// `link` is the consumer that counts no requests.
    pub fn asked_to_recode(&mut self, id: SegmentId, codec: Codec, link: &str) -> Result<Asked, WalError> {
        let Some(record) = self.record(id)? else { return Ok(Asked::Cannot(Cannot::NotOnBoard)) };
        if record.header.codec == codec as u32 && record.header.base_sequence.is_none() {
            return Ok(Asked::IsSo);
        }
        if self.state.sending.contains(&(id.lane.0, id.sequence)) {
            return Ok(Asked::Cannot(Cannot::BeingSent));
        }
        let mut others = self.state.consumers.iter().filter(|(name, _)| *name != link);
        if let Some((name, _)) = others.find(|(_, id)| record.waiting & (1 << **id) != 0) {
            return Ok(Asked::Cannot(Cannot::Waits(name.clone())));
        }
        Ok(self.to_recode(id)?.map_or(Asked::Cannot(Cannot::NotOnBoard), |r| Asked::Can(Box::new(r))))
    }

    /// [`Wal::replace`] for [`Wal::asked_to_recode`], when it still can be done.
    pub fn replace_as_asked(&mut self, recoded: Recoded) -> Result<Result<(), Cannot>, WalError> {
        let SegmentId { lane, sequence, .. } = recoded.header.id;
        if self.state.sending.contains(&(lane.0, sequence)) {
            return Ok(Err(Cannot::BeingSent));
        }
        let more = recoded.header.payload_len.saturating_sub(recoded.before.payload_len);
        if more > 0 && self.state.stored() + more > self.config.max_bytes {
            return Ok(Err(Cannot::NoRoom));
        }
        Ok(if self.replace(recoded)? { Ok(()) } else { Err(Cannot::NotOnBoard) })
    }

    /// The payload of a segment that is about to be on a wire, if it still is the one that `header` is of.
    pub fn begin_sending(&mut self, header: &Header) -> Result<Sending, WalError> {
        let SegmentId { lane, sequence, .. } = header.id;
        match self.header(header.id)? {
            None => return Ok(Sending::Gone),
            Some(now) if now.hash != header.hash => return Ok(Sending::Changed),
            Some(_) => {}
        }
        self.mark_sent(lane, sequence);
        self.state.sending.insert((lane.0, sequence));
        Ok(self.payload(lane, sequence)?.map_or(Sending::Gone, Sending::Payload))
    }

    /// Notes that nothing is being sent any more.
    pub fn end_sending(&mut self) {
        self.state.sending.clear();
    }

    fn record(&mut self, id: SegmentId) -> Result<Option<SegmentRecord>, WalError> {
        let txn = self.db()?.begin_read()?;
        let found = txn.open_table(SEGMENTS)?.get((id.lane.0, id.sequence))?;
        let record = found.map(|value| SegmentRecord::from_bytes(value.value())).transpose()?;
        Ok(record.filter(|r| r.header.id == id))
    }

    fn header(&mut self, id: SegmentId) -> Result<Option<Header>, WalError> {
        Ok(self.record(id)?.map(|record| record.header))
    }

    /// Puts what was encoded anew in the place of what it was made of. Whether that was still there.
    pub fn replace(&mut self, recoded: Recoded) -> Result<bool, WalError> {
        let Recoded { before, header, payload } = recoded;
        let key = (header.id.lane.0, header.id.sequence);
        if self.header(before.id)?.is_none_or(|now| now.hash != before.hash) {
            return Ok(false);
        }
        self.write(|txn| {
            let found = txn.open_table(SEGMENTS)?.get(key)?.map(|v| SegmentRecord::from_bytes(v.value()));
            let record = found.transpose()?.ok_or(WalError::Damaged("a segment is gone"))?;
            txn.open_table(CHUNKS)?.retain_in((key.0, key.1, 0)..=(key.0, key.1, u32::MAX), |_, _| false)?;
            seal::insert_segment(txn, &SegmentRecord { header: header.clone(), ..record }, &payload)?;
            // A station may have committed it as it was, another as it is: that is no contradiction.
            let mut shipped = txn.open_table(SHIPPED)?;
            let known = shipped.get(key)?.map(|v| v.value().to_vec()).unwrap_or_default();
            shipped.insert(key, [&known[..], &before.hash, &header.hash].concat().as_slice())?;
            Ok(())
        })?;
        let (old, new) = (before.payload_len, header.payload_len);
        self.state.segment_stored = (self.state.segment_stored + new).saturating_sub(old);
        let lane = self.state.lane(header.id.lane);
        lane.segment_stored = (lane.segment_stored + new).saturating_sub(old);
        Ok(true)
    }
}
