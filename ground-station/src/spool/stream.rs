//! A payload, read piece by piece from the table that has it, and verified once it was read.

use std::io::{self, BufRead, Read};

use perigee_shared::segment::{CodecError, Header};
use redb::{AccessGuard, Range, StorageError};

use super::decode::Fault;

/// Where bytes come from.
enum Piece<'a> {
    Table(AccessGuard<'a, &'static [u8]>),
    Memory(&'a [u8]),
}

impl Piece<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Table(guard) => guard.value(),
            Self::Memory(bytes) => bytes,
        }
    }
}

/// See the module.
pub(super) struct Stream<'a, K: redb::Key + 'static> {
    rows: Option<Range<'a, K, &'static [u8]>>,
    piece: Option<Piece<'a>>,
    /// Bytes of the piece that were read, and of all pieces.
    at: usize,
    all: u64,
    hasher: blake3::Hasher,
    failed: Option<StorageError>,
}

impl<'a> Stream<'a, u64> {
    /// Of a payload that is in memory.
    pub(super) fn over(bytes: &'a [u8]) -> Self {
        Self { piece: Some(Piece::Memory(bytes)), ..Self::empty() }
    }
}

impl<'a, K: redb::Key + 'static> Stream<'a, K> {
    /// Of pieces in their order.
    pub(super) fn new(rows: Range<'a, K, &'static [u8]>) -> Self {
        Self { rows: Some(rows), ..Self::empty() }
    }

    fn empty() -> Self {
        Self { rows: None, piece: None, at: 0, all: 0, hasher: blake3::Hasher::new(), failed: None }
    }

    /// Has `decode` read it, and answers with what came of that if these are the bytes that `header` describes; `wrong` if not.
    pub(super) fn check<R>(
        mut self,
        header: &Header,
        wrong: Fault,
        decode: impl FnOnce(&mut dyn BufRead) -> Result<R, CodecError>,
    ) -> Result<R, Fault> {
        let out = decode(&mut self);
        // What was not read has a part in the hash.
        while self.failed.is_none()
            && let Ok(rest) = self.fill_buf()
            && !rest.is_empty()
        {
            let length = rest.len();
            self.consume(length);
        }
        if let Some(error) = self.failed {
            return Err(error.into());
        }
        match self.all == header.payload_len && *self.hasher.finalize().as_bytes() == header.hash {
            true => Ok(out?),
            false => Err(wrong),
        }
    }
}

impl<K: redb::Key + 'static> Read for Stream<'_, K> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(out)?;
        self.consume(length);
        Ok(length)
    }
}

impl<K: redb::Key + 'static> BufRead for Stream<'_, K> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.piece.as_ref().is_none_or(|piece| self.at == piece.bytes().len()) {
            let Some(row) = self.rows.as_mut().and_then(Iterator::next) else { return Ok(&[]) };
            match row {
                Ok((_, value)) => (self.piece, self.at) = (Some(Piece::Table(value)), 0),
                Err(error) => {
                    self.failed = Some(error);
                    return Err(io::Error::other("the table cannot be read"));
                }
            }
        }
        Ok(self.piece.as_ref().map_or(&[], |piece| &piece.bytes()[self.at..]))
    }

    fn consume(&mut self, length: usize) {
        let Some(piece) = &self.piece else { return };
        self.hasher.update(&piece.bytes()[self.at..self.at + length]);
        self.at += length;
        self.all += length as u64;
    }
}
