//! Decoding a payload: what it says is read from a stream, each piece of text leaves memory as soon as its dictionary has it, and
//! requests are put together one after the other when somebody wants them.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::sync::Arc;

use bytes::Bytes;

use super::build::{Builder, Built, Cursor as Place, Nothing, Rows};
use super::costs::Account;
use super::entropy::{Bit, BitReader, Coder, Part, RangeDecoder, Symbols};
use super::forest::Forest;
use super::points::Metrics;
use super::schema::Message;
use super::shape::Shapes;
use super::state::{MOST_DICTIONARIES, State};
use super::traces::Given;
use super::{BUDGET, Base, filled};
use crate::compress::{WINDOW_LOG_MAX, zstd_reader};
use crate::segment::{CodecError, MAX_PAYLOAD, Request};

/// Bytes of text that leave memory together.
const PIECE: usize = 256 << 10;

const SHORT: CodecError = CodecError::Damaged("ends early");

fn short(error: io::Error) -> CodecError {
    if error.kind() == io::ErrorKind::UnexpectedEof { SHORT } else { CodecError::Zstd(error) }
}

/// Reads a varint of at most ten bytes.
fn number(source: &mut impl Read) -> Result<u64, CodecError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        source.read_exact(&mut byte).map_err(short)?;
        let bits = u64::from(byte[0] & 0x7f);
        if shift == 63 && bits > 1 {
            return Err(SHORT);
        }
        value |= bits << shift;
        if byte[0] < 0x80 {
            return Ok(value);
        }
    }
    Err(SHORT)
}

fn bytes(source: &mut impl Read, length: u64, most: u64) -> Result<Vec<u8>, CodecError> {
    if length > most {
        return Err(SHORT);
    }
    let mut out = filled(0, length as usize);
    source.read_exact(&mut out).map_err(short)?;
    Ok(out)
}

/// A payload that can be read again.
pub trait Payload {
    /// A reader from its first byte on.
    fn open(&self) -> Box<dyn BufRead + '_>;
}

impl Payload for [u8] {
    fn open(&self) -> Box<dyn BufRead + '_> {
        Box::new(self)
    }
}

/// A text column with so many bytes is unpacked as it is used, from a reader of its own, and never held.
const LARGE: usize = 4 << 20;

/// What its reader takes at most: the window.
const WINDOW: usize = 1 << WINDOW_LOG_MAX;

/// What is left of a text column.
#[derive(Default)]
struct Column<'a> {
    /// What is held of it.
    pieces: VecDeque<Vec<u8>>,
    /// What unpacks it, if it is large.
    reader: Option<Box<dyn Read + 'a>>,
    /// Bytes of the first piece that were taken.
    taken: usize,
    left: usize,
}

impl Column<'_> {
    fn read(source: &mut impl Read, length: usize) -> Result<Self, CodecError> {
        let mut column = Self { left: length, ..Self::default() };
        let mut rest = length;
        while rest > 0 {
            let mut piece = filled(0, rest.min(PIECE));
            source.read_exact(&mut piece)?;
            rest -= piece.len();
            if length < LARGE {
                column.pieces.push_back(piece);
            }
        }
        Ok(column)
    }

    /// Moves so many bytes to the end of `out`; there are as many.
    fn take(&mut self, mut length: usize, out: &mut Vec<u8>) -> Result<(), CodecError> {
        self.left -= length;
        if let Some(reader) = &mut self.reader {
            let before = out.len();
            out.resize(before + length, 0);
            reader.read_exact(&mut out[before..])?;
            if self.left == 0 {
                self.reader = None;
            }
            return Ok(());
        }
        while length > 0
            && let Some(first) = self.pieces.front()
        {
            let taken = length.min(first.len() - self.taken);
            out.extend_from_slice(&first[self.taken..self.taken + taken]);
            self.taken += taken;
            length -= taken;
            if self.taken == first.len() {
                self.pieces.pop_front();
                self.taken = 0;
            }
        }
        Ok(())
    }
}

/// A payload as it is stored.
pub(super) struct Parts<'a> {
    layout: u8,
    range: Vec<u8>,
    bits: Vec<u8>,
    columns: Vec<Column<'a>>,
    /// Bytes that stand before the text.
    pub(super) before: u64,
}

/// Counts what is read.
struct Counted<R> {
    from: R,
    bytes: u64,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(out)?;
        self.bytes += length as u64;
        Ok(length)
    }
}

fn skip(source: &mut impl Read, bytes: u64) -> Result<(), CodecError> {
    match io::copy(&mut source.take(bytes), &mut io::sink())? == bytes {
        true => Ok(()),
        false => Err(SHORT),
    }
}

impl<'a> Parts<'a> {
    /// Reads a payload of this layout whose items have `raw_len` bytes, with at most `memory` bytes.
    pub(super) fn read(
        layout: u8,
        payload: &'a (impl Payload + ?Sized),
        raw_len: u64,
        memory: usize,
    ) -> Result<Self, CodecError> {
        let mut source = Counted { from: payload.open(), bytes: 0 };
        let mut first = [0];
        source.read_exact(&mut first).map_err(short)?;
        if first[0] != layout {
            return Err(CodecError::Damaged("unknown layout"));
        }
        let (range, bits, used) = (number(&mut source)?, number(&mut source)?, number(&mut source)?);
        // Behind the dictionaries stands what is left whole.
        if used > MOST_DICTIONARIES as u64 + 1 {
            return Err(CodecError::TooLarge("the number of text columns"));
        }
        let limit = raw_len * 2 + 4096;
        let (mut lengths, mut total) = (Vec::new(), 0u64);
        for _ in 0..used {
            let length = number(&mut source)?;
            total = total.checked_add(length).filter(|t| *t <= limit).ok_or(CodecError::TooLarge("text"))?;
            lengths.push(length as usize);
        }
        let held: usize = lengths.iter().map(|length| if *length < LARGE { *length } else { WINDOW }).sum();
        if (range.saturating_add(bits) as usize).saturating_add(held) > memory {
            return Err(CodecError::TakesMemory);
        }
        let (range, bits) = (bytes(&mut source, range, MAX_PAYLOAD)?, bytes(&mut source, bits, MAX_PAYLOAD)?);
        let before = source.bytes;
        let mut columns = Vec::with_capacity(lengths.len());
        if total == 0 {
            columns.resize_with(lengths.len(), Column::default);
        } else {
            let mut start = 0;
            let mut text = zstd_reader(source.from)?;
            for length in lengths {
                let mut column = Column::read(&mut text, length)?;
                if length >= LARGE {
                    let mut again = payload.open();
                    skip(&mut again, before)?;
                    let mut again = zstd_reader(again)?;
                    skip(&mut again, start)?;
                    column.reader = Some(Box::new(again));
                }
                start += length as u64;
                columns.push(column);
            }
            if text.read(&mut [0])? > 0 {
                return Err(CodecError::TooLarge("text"));
            }
        }
        Ok(Self { layout, range, bits, columns, before })
    }

    /// What reads it and counts what that takes.
    pub(super) fn reader<A: Account>(&mut self, costs: A) -> Reader<'_, 'a, A> {
        Reader {
            layout: self.layout,
            range: RangeDecoder::new(&self.range),
            bits: BitReader::new(&self.bits),
            columns: std::mem::take(&mut self.columns),
            costs,
        }
    }
}

/// A payload that is being read.
pub(super) struct Reader<'r, 'a, A> {
    pub(super) layout: u8,
    range: RangeDecoder<'r>,
    bits: BitReader<'r>,
    columns: Vec<Column<'a>>,
    pub(super) costs: A,
}

impl<A: Account> Reader<'_, '_, A> {
    fn position(&self) -> f64 {
        self.range.position() + self.bits.position() as f64
    }

    /// Bytes of each text column that are left.
    pub(super) fn lengths(&self) -> Vec<usize> {
        self.columns.iter().map(|column| column.left).collect()
    }

    /// Whether all was there that was read, and nothing else.
    fn check(&self) -> Result<(), CodecError> {
        if self.range.overrun() || self.bits.overrun() || self.columns.iter().any(|c| c.left > 0) {
            return Err(CodecError::Damaged("not as long as what is in it"));
        }
        Ok(())
    }
}

impl<A: Account> Coder for Reader<'_, '_, A> {
    const ENCODES: bool = false;

    #[inline(always)]
    fn bit(&mut self, model: &mut Bit, _: bool) -> bool {
        self.range.decode(model)
    }

    #[inline(always)]
    fn tree<const N: usize>(&mut self, models: &mut [Bit; N], levels: u32, _: u64) -> usize {
        self.range.tree(models, levels)
    }

    #[inline(always)]
    fn path<const N: usize>(
        &mut self,
        models: &mut [Bit; N],
        levels: u32,
        _: u64,
        place: impl Fn(u64) -> usize,
    ) -> u64 {
        self.range.path(models, levels, place)
    }

    #[inline(always)]
    fn symbol(&mut self, model: &mut Symbols, _: usize) -> usize {
        self.range.symbol(model)
    }

    #[inline]
    fn raw(&mut self, _: u64, bits: u32) -> u64 {
        self.bits.take(bits)
    }

    fn text(&mut self, column: usize, _: &[u8], length: u64, out: &mut Vec<u8>) -> Result<(), CodecError> {
        match self.columns.get_mut(column).filter(|column| length <= column.left as u64) {
            Some(column) => column.take(length as usize, out),
            None if length == 0 => Ok(()),
            None => Err(CodecError::Damaged("text ends early")),
        }
    }

    fn text_left(&self, column: usize) -> usize {
        self.columns.get(column).map_or(0, |column| column.left)
    }

    #[inline]
    fn entry(&mut self, _: usize, index: u64, _: u64) -> u64 {
        index
    }

    fn content(&mut self, _: usize, _: &mut Vec<u8>) {}

    fn find_span(&mut self, _: &[[u64; 3]], _: [u64; 3]) -> Option<u64> {
        None
    }

    #[inline(always)]
    fn accounts(&self) -> bool {
        A::COUNTS
    }

    #[inline(always)]
    fn account(&mut self, message: Message, field: u8) -> f64 {
        if A::COUNTS { self.costs.add(message, field, self.position()) } else { 0.0 }
    }

    #[inline(always)]
    fn part(&mut self, column: usize, part: Part<'_>) {
        if A::COUNTS {
            self.costs.part(column, part, self.position());
        }
    }

    #[inline(always)]
    fn transfer(&mut self, bits: f64, from: (Message, u8), to: (Message, u8)) {
        self.costs.transfer(bits, from, to);
    }
}

/// A payload that was decoded: its rows, and what stands behind their values.
pub(in super::super) struct Unpacked {
    base: Arc<Base>,
    built: Built,
    /// Requests that were not taken apart.
    pub(super) whole: Vec<Request>,
}

/// Which request of a payload comes next.
#[derive(Debug, Default)]
pub(in super::super) struct Cursor {
    place: Place,
    whole: usize,
    failed: bool,
}

impl Unpacked {
    /// Decodes a payload that leans on `base`, or on nothing, and whose items have `raw_len` bytes. `teaches`: others may lean on it;
    /// else nothing is kept that only those need. It takes about `memory` bytes at most, a copy of the base included.
    pub(in super::super) fn new(
        layout: u8,
        base: Option<&Base>,
        payload: &(impl Payload + ?Sized),
        raw_len: u64,
        teaches: bool,
        memory: usize,
    ) -> Result<Self, CodecError> {
        let mut parts = Parts::read(layout, payload, raw_len, memory)?;
        let mut reader = parts.reader(());
        let mut state = base.map_or_else(State::new, |b| b.state.clone());
        let mut builder = Builder::new(raw_len);
        walk(&mut reader, &mut state, (raw_len, memory), &mut builder)?;
        let mut whole = Vec::new();
        state.whole(&mut reader, &[], &mut whole)?;
        reader.check()?;
        let length = whole.iter().map(|r| r.body.len() as u64).sum::<u64>();
        let left = raw_len.checked_sub(length).ok_or(CodecError::Damaged("longer than its header says"))?;
        if !teaches {
            state.forget_models();
        }
        Ok(Self { built: builder.finish(&state, left), base: Arc::new(Base::new(state)), whole })
    }

    /// The next request: one of a signal, or, once it has so many bytes, a part of that.
    pub(in super::super) fn next(
        &self,
        at: &mut Cursor,
        piece: usize,
    ) -> Option<Result<Request, CodecError>> {
        if at.failed {
            return None;
        }
        if let Some(built) = self.built.next(&self.base.state, &mut at.place, piece) {
            at.failed = built.is_err();
            return Some(built.map(|(signal, body)| Request { signal, body: Bytes::from(body) }));
        }
        let whole = self.whole.get(at.whole)?;
        at.whole += 1;
        Some(Ok(whole.clone()))
    }

    /// What others may lean on.
    pub(in super::super) const fn base(&self) -> &Arc<Base> {
        &self.base
    }

    /// Bytes that it takes in memory, roughly, without what it shares with others as a base.
    pub(in super::super) fn size(&self) -> usize {
        self.base.state.rendered_size()
            + self.built.size()
            + self.whole.iter().map(|r| r.body.len()).sum::<usize>()
    }
}

/// What others may lean on that lean on a payload, which itself leans on `base` or on nothing. Nothing is built of what is in it.
pub(in super::super) fn learn(
    layout: u8,
    base: Option<Base>,
    payload: &(impl Payload + ?Sized),
    raw_len: u64,
    memory: usize,
) -> Result<Base, CodecError> {
    let mut parts = Parts::read(layout, payload, raw_len, memory)?;
    let mut reader = parts.reader(());
    let mut state = base.map_or_else(State::new, |b| b.state);
    pass(&mut reader, &mut state, (raw_len, memory))?;
    Ok(Base::new(state))
}

/// Reads all of a payload and builds nothing. Returns the requests that were not taken apart.
pub(super) fn pass<A: Account>(
    reader: &mut Reader<'_, '_, A>,
    state: &mut State,
    bounds: (u64, usize),
) -> Result<Vec<Request>, CodecError> {
    walk(reader, state, bounds, &mut Nothing)?;
    let mut whole = Vec::new();
    state.whole(reader, &[], &mut whole)?;
    reader.check()?;
    Ok(whole)
}

/// All but what was left whole, within bounds of raw length and memory.
fn walk<A: Account>(
    reader: &mut Reader<'_, '_, A>,
    state: &mut State,
    (raw_len, memory): (u64, usize),
    rows: &mut dyn Rows,
) -> Result<(), CodecError> {
    state.begin(raw_len * BUDGET + (1 << 16), memory, reader.layout);
    state.definitions(reader, &[], &Shapes::default(), &[])?;
    reader.account(Message::Span, 0);
    let forest = Forest::default();
    state.traces(reader, &Given { tape: &[], forest: &forest }, rows)?;
    state.metrics(reader, &[], &Metrics::default(), rows)
}
