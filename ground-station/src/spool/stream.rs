//! A payload, read piece by piece from the table that has it.

use std::cell::RefCell;
use std::io::{self, BufRead, Read};

use perigee_shared::segment::{Header, Payload};
use redb::{AccessGuard, Range, ReadOnlyTable, StorageError};

use super::tables::*;

/// Where a payload is.
pub(super) enum Table<'a> {
    /// Among those of segments, by its number.
    Segments(ReadOnlyTable<ChunkKey, &'static [u8]>, u64),
    /// Among those of bases.
    Bases(ReadOnlyTable<BaseChunk, &'static [u8]>, SequenceKey),
    /// In memory.
    Memory(&'a [u8]),
}

/// See the module.
pub(super) struct Source<'a> {
    table: Table<'a>,
    /// Why the table cannot be read, once that was found.
    failed: RefCell<Option<StorageError>>,
}

impl<'a> Source<'a> {
    pub(super) const fn new(table: Table<'a>) -> Self {
        Self { table, failed: RefCell::new(None) }
    }

    /// Whether its bytes are those that `header` describes.
    pub(super) fn is_whole(&self, header: &Header) -> Result<bool, StorageError> {
        let (mut reader, mut hasher, mut all) = (self.open(), blake3::Hasher::new(), 0);
        while let Ok(piece) = reader.fill_buf()
            && !piece.is_empty()
        {
            let length = piece.len();
            hasher.update(piece);
            all += length as u64;
            reader.consume(length);
        }
        drop(reader);
        self.result()?;
        Ok(all == header.payload_len && *hasher.finalize().as_bytes() == header.hash)
    }

    /// Whether it could be read.
    pub(super) fn result(&self) -> Result<(), StorageError> {
        self.failed.take().map_or(Ok(()), Err)
    }
}

impl Payload for Source<'_> {
    fn open(&self) -> Box<dyn BufRead + '_> {
        fn of<'s, K: redb::Key + 'static>(
            rows: Result<Range<'s, K, &'static [u8]>, StorageError>,
            failed: &'s RefCell<Option<StorageError>>,
        ) -> Box<dyn BufRead + 's> {
            let rows = rows.map_err(|error| failed.replace(Some(error))).ok();
            Box::new(Stream { rows, piece: None, at: 0, failed })
        }
        match &self.table {
            Table::Segments(table, number) => of(table.range(ChunkKey::all(*number)), &self.failed),
            Table::Bases(table, key) => of(table.range(key.base()), &self.failed),
            Table::Memory(bytes) => Box::new(*bytes),
        }
    }
}

/// One reading of it.
struct Stream<'s, K: redb::Key + 'static> {
    rows: Option<Range<'s, K, &'static [u8]>>,
    piece: Option<AccessGuard<'s, &'static [u8]>>,
    /// Bytes of the piece that were read.
    at: usize,
    failed: &'s RefCell<Option<StorageError>>,
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
        while self.piece.as_ref().is_none_or(|piece| self.at == piece.value().len()) {
            match self.rows.as_mut().and_then(Iterator::next) {
                None => return Ok(&[]),
                Some(Ok((_, value))) => (self.piece, self.at) = (Some(value), 0),
                Some(Err(error)) => {
                    self.failed.replace(Some(error));
                    return Err(io::Error::other("the table cannot be read"));
                }
            }
        }
        Ok(self.piece.as_ref().map_or(&[], |piece| &piece.value()[self.at..]))
    }

    fn consume(&mut self, length: usize) {
        self.at += length;
    }
}
