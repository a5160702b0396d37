//! Reading a request body within the limiter's bounds.

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;

use perigee_shared::otlp::status::Status;
use tonic::Code;

use crate::limiter::Permit;

/// A client may be slow, but not for ever: it holds memory that others wait for.
pub(super) const READ_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

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

    /// Exactly `length` bytes, for which room has been taken; `None` when the body ends before.
    pub(super) async fn exactly(&mut self, length: usize) -> Result<Option<Bytes>, Status> {
        let mut first = self.next().await?;
        if first.len() >= length {
            self.rest = first.split_off(length);
            return Ok(Some(first));
        }
        let mut out = BytesMut::with_capacity(length);
        while !first.is_empty() {
            let take = first.len().min(length - out.len());
            out.extend_from_slice(&first[..take]);
            first.advance(take);
            if out.len() == length {
                self.rest = first;
                return Ok(Some(out.freeze()));
            }
            first = self.next().await?;
        }
        Ok(None)
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
        let announced = hint.map_or(0, |n| n as usize);
        permit.grow_to(announced)?;
        let mut out = Vec::with_capacity(announced);
        loop {
            let piece = self.next().await?;
            if piece.is_empty() {
                return Ok(Some(out.into()));
            }
            if out.len() + piece.len() > limit {
                return Ok(None);
            }
            if out.len() + piece.len() > out.capacity() {
                let room = (out.capacity() * 2).max(out.len() + piece.len()).min(limit);
                permit.grow_to(room)?;
                out.reserve_exact(room - out.len());
            }
            out.extend_from_slice(&piece);
        }
    }
}
