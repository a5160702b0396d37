//! Reading a request body within the limiter's bounds.

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;

use perigee_shared::otlp::status::Status;
use tonic::Code;

use crate::limiter::Permit;

/// A client may be slow, but not for ever: it holds memory that others wait for.
pub(crate) const READ_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// What a body takes at first, if it is to be so large; then twice as much each time. Most are copied once.
const FIRST_ROOM: usize = 512 << 10;

/// The body of an HTTP request, piece by piece.
pub(super) struct Pieces<B> {
    body: B,
    rest: Bytes,
}

impl<B: http_body::Body<Data = Bytes> + Unpin> Pieces<B> {
    pub(super) fn new(body: B) -> Self {
        Self { body, rest: Bytes::new() }
    }

    /// The next bytes; empty at the end.
    async fn next(&mut self) -> Result<Bytes, Status> {
        if !self.rest.is_empty() {
            return Ok(std::mem::take(&mut self.rest));
        }
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|_| Status::refuse(Code::Cancelled, "the request was broken off"))?;
            if let Ok(data) = frame.into_data()
                && !data.is_empty()
            {
                return Ok(data);
            }
        }
        Ok(Bytes::new())
    }

    /// The next bytes of a body that holds room; a refusal when another one needs that.
    async fn next_of(&mut self, permit: &Permit) -> Result<Bytes, Status> {
        tokio::select! {
            biased;
            refused = permit.refused() => Err(refused),
            next = self.next() => next,
        }
    }

    /// Exactly `length` bytes, which take room as they come; `None` when the body ends before.
    pub(super) async fn exactly(
        &mut self,
        length: usize,
        permit: &mut Permit,
    ) -> Result<Option<Bytes>, Status> {
        let mut piece = self.next_of(permit).await?;
        if piece.len() >= length {
            permit.grow_to(length)?;
            self.rest = piece.split_off(length);
            return Ok(Some(piece));
        }
        let mut out = Vec::new();
        while !piece.is_empty() {
            let take = piece.len().min(length - out.len());
            make_room(&mut out, take, length, permit).await?;
            out.extend_from_slice(&piece[..take]);
            piece.advance(take);
            if out.len() == length {
                permit.is_read();
                self.rest = piece;
                return Ok(Some(out.into()));
            }
            piece = self.next_of(permit).await?;
        }
        Ok(None)
    }

    /// Whether more is there already; a body whose end is only late is not waited for, since it would hold room meanwhile.
    pub(super) async fn has_more(&mut self) -> Result<bool, Status> {
        tokio::select! {
            biased;
            next = self.next() => Ok(!next?.is_empty()),
            () = std::future::ready(()) => Ok(false),
        }
    }

    /// Reads and forgets up to `limit` bytes: a client of HTTP/1.1 that is still sending would not read the answer.
    pub(super) async fn discard(&mut self, limit: usize) {
        let mut left = limit;
        while left > 0 {
            match self.next().await {
                Ok(piece) if !piece.is_empty() => left = left.saturating_sub(piece.len()),
                _ => return,
            }
        }
    }

    /// Everything up to the end; `None` when that is more than `limit`. `hint` is what the client has announced.
    pub(super) async fn all(
        &mut self,
        limit: usize,
        hint: Option<u64>,
        permit: &mut Permit,
    ) -> Result<Option<Bytes>, Status> {
        if hint.is_some_and(|n| n > limit as u64) {
            return Ok(None);
        }
        let most = hint.map_or(limit, |n| n as usize);
        let mut out = Vec::new();
        loop {
            let piece = self.next_of(permit).await?;
            if piece.is_empty() {
                permit.is_read();
                return Ok(Some(out.into()));
            }
            if out.len() + piece.len() > limit {
                return Ok(None);
            }
            make_room(&mut out, piece.len(), most, permit).await?;
            out.extend_from_slice(&piece);
        }
    }
}

/// Makes room for `more` bytes in `out`, which is to have about `most` in the end.
async fn make_room(out: &mut Vec<u8>, more: usize, most: usize, permit: &mut Permit) -> Result<(), Status> {
    let needed = out.len() + more;
    if needed > out.capacity() {
        let room = (out.capacity() * 2).max(FIRST_ROOM).min(most).max(needed);
        permit.grow_while_reading(room).await?;
        out.reserve_exact(room - out.len());
    }
    Ok(())
}
