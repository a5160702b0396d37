//! Codec 2: items taken apart, each value expected from its place, and what is left coded in fractions of a bit.
//!
//! ```text
//! requests ─▶ shred ─▶ rows: shape + values ─▶ forest, points ─▶ traces, points, rows ─▶ entropy ─▶ payload
//! requests ◀─ build ◀─ rows: shape + values ◀──────────────────────── models ◀────────── entropy ◀─ payload
//!
//! payload = layout u8 = 1, 2 for codec 3, 3 for codec 4
//!         | length of the arithmetic code, length of the raw bits, number of text columns n    varints
//!         | n × length of a text column                                                        varints
//!         | arithmetic code | raw bits | one zstd frame over the text columns (none when there is no text)
//! ```
//!
//! Numbers of the arithmetic code, the raw bits and the text are read side by side, in this order:
//!
//! 1. *Definitions* that are new: dictionaries (message, form, field, type, key), shapes (a message's fields in their order),
//!    contexts (signal, resource, scope, metric).
//! 2. *Traces*, by their start: id; then span by span, a parent before its children. One decision a step says whether the open
//!    span has another child, so a span's trace and parent ids cost next to nothing; a parent that is not here is an id without
//!    a row. Of a span: id (raw), type (context, shape, name), start near the parent's start or the sibling's end, end near the
//!    start or the parent's end, the other fields; then its logs, whose ids are the span's. Behind all traces: spans and logs
//!    that have no ids.
//! 3. *Points*, context by context and series by series: how many, their times near those of the series before, values near the
//!    ones before (or on the line through the last two), doubles as decimal or binary fractions where that is exact. An exemplar
//!    refers to a span of the segment where it can.
//! 4. *Requests left whole*: what is not built as OTLP libraries build it.
//!
//! A dictionary's entry is sent when it is first used: as text, split into its pattern and its numbers, or as a number. After
//! that it is one of the last four at its place, or an index. Attributes that are not in the order of their dictionaries have
//! the rank of their permutation before them.
//!
//! A segment that leans on another begins with the dictionaries, shapes, series and models that the other one ended with. Every
//! model is bounded ([`state`], [`entropy`]), and a decoder takes from a budget for whatever it makes.
//!
//! Codecs 3 to 5 are the same, but take the text of logs apart too, see [`text`].
//!
//! Against what is usual: no column is compressed for itself, and there are no trials. One adaptive model for each place learns
//! what a trial would find out, costs nothing when a segment is small, and goes on learning in the segments that lean on it.

mod build;
mod costs;
mod dictionary;
mod entropy;
mod forest;
#[cfg(test)]
mod generate;
mod models;
mod order;
mod pattern;
mod points;
mod positions;
mod rows;
mod schema;
mod series;
mod shape;
mod shred;
mod state;
#[cfg(test)]
mod tests;
mod text;
#[cfg(test)]
mod text_tests;
mod traces;
mod unpack;
mod vocabulary;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use hashbrown::HashTable;

pub use self::costs::{Cost, inspect};
pub use self::unpack::Payload;
pub(super) use self::unpack::{Cursor, Unpacked, learn};

use self::build::Nothing;
use self::entropy::{Bit, BitWriter, Coder, Part, RangeEncoder, Symbols};
use self::positions::Positions;
use self::schema::Message;
use self::shred::Shredder;
use self::state::{Context, N, State};
use self::traces::Given;
use self::vocabulary::Vocabulary;
use super::{CodecError, Request};
use crate::otlp::protobuf::put_varint;
use crate::signal::Signal;
use rustc_hash::FxHashMap;

/// The layout of codec 2, the first byte of a payload; and those of codecs 3 to 8, which are the same but for text.
pub(super) const LAYOUT: u8 = 1;
pub(super) const LAYOUT_TOKENS: u8 = 2;
pub(super) const LAYOUT_CHAINS: u8 = 3;
pub(super) const LAYOUT_NEAR: u8 = 4;
pub(super) const LAYOUT_RECENT: u8 = 5;
pub(super) const LAYOUT_STEPS: u8 = 6;
pub(super) const LAYOUT_TEXT: u8 = 7;

/// What a decoder may spend for each byte of the raw length; what we write takes less than half of it.
const BUDGET: u64 = 16;

/// zstd's level for text.
const LEVEL: i32 = 9;

/// zstd for text: with tables that are small beside the text, since the agent has little memory.
fn text_compressor() -> std::io::Result<zstd::bulk::Compressor<'static>> {
    use zstd::zstd_safe::CParameter::{ChainLog, HashLog, WindowLog};
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    for parameter in [WindowLog(20), HashLog(17), ChainLog(17)] {
        compressor.set_parameter(parameter)?;
    }
    Ok(compressor)
}

/// So many values. `vec![0; length]` would ask for pages of zeros, for which jemalloc gives back those that it has: each of them then
/// costs a page fault, which took a third of the time of decoding text.
fn filled<T: Copy>(value: T, length: usize) -> Vec<T> {
    let mut all = Vec::with_capacity(length);
    all.resize(length, value);
    all
}

/// What a segment ended with, for others that lean on it.
#[derive(Debug, Clone)]
pub struct Base {
    state: State,
    /// Where an encoder finds what is in it, made when the first one leans on it.
    places: OnceLock<Places>,
}

impl Base {
    const fn new(state: State) -> Self {
        Self { state, places: OnceLock::new() }
    }

    /// Bytes that it takes in memory, roughly.
    pub fn size(&self) -> usize {
        self.state.size()
    }
}

/// Where things are in a state, by what they are.
#[derive(Debug, Clone)]
struct Places {
    entries: Arc<vocabulary::Known>,
    contexts: Arc<FxHashMap<Context, u32>>,
    series: Arc<HashTable<u32>>,
}

impl Places {
    fn of(state: &State) -> Self {
        Self {
            entries: Arc::new(vocabulary::Known::new(&state.dictionaries)),
            contexts: Arc::new(state.contexts.iter().copied().zip(0..).collect()),
            series: Arc::new(points::places(&state.series)),
        }
    }
}

/// Writes a payload of codec 2, or of a later one.
#[derive(Debug)]
pub struct Encoder {
    layout: u8,
    state: State,
    places: Places,
    shredder: Shredder,
}

impl Encoder {
    /// An encoder of a segment that leans on `base`, or on nothing.
    pub fn new(base: Option<&Base>) -> Self {
        Self::of(LAYOUT, base)
    }

    /// The same for the codec with this layout.
    pub(super) fn of(layout: u8, base: Option<&Base>) -> Self {
        let mut state = base.map_or_else(State::new, |b| b.state.clone());
        state.begin(u64::MAX, usize::MAX, layout);
        let places = base
            .map_or_else(|| Places::of(&state), |b| b.places.get_or_init(|| Places::of(&b.state)).clone());
        let entries = Arc::clone(&places.entries);
        Self { shredder: Shredder::new(&state, entries, Arc::clone(&places.contexts)), places, state, layout }
    }

    /// It takes about so many bytes of memory at most, besides its base.
    pub const fn bound(&mut self, bytes: usize) {
        self.shredder.bound(bytes);
    }

    /// Adds a request.
    pub fn push(&mut self, signal: Signal, body: &[u8]) -> Result<(), CodecError> {
        self.shredder.push(signal, body);
        if self.shredder.is_full { Err(CodecError::TooLarge("what an encoder holds")) } else { Ok(()) }
    }

    /// The payload, and what others may lean on.
    pub fn finish(self) -> Result<(Vec<u8>, Base), CodecError> {
        // What was planned is gone before there is a payload.
        let (writer, state) = self.write()?;
        Ok((writer.finish()?, Base::new(state)))
    }

    fn write(self) -> Result<(Writer, State), CodecError> {
        let Self { mut state, places, shredder, layout } = self;
        let Shredder { vocabulary, shapes, contexts, rows, tape, whole, .. } = shredder;
        let [spans, points, logs] = rows;
        let forest = forest::plan(&shapes, &tape, &spans, &logs);
        let metrics =
            points::plan(&state.series, &places.series, contexts.len(), &shapes, &vocabulary, &tape, &points);
        let kinds = vocabulary.kinds.clone();
        let mut writer = Writer::new(layout, vocabulary);
        state.definitions(&mut writer, &kinds, &shapes, &contexts)?;
        let given = Given { tape: &tape, forest: &forest };
        state.traces(&mut writer, &given, &mut Nothing)?;
        state.metrics(&mut writer, &tape, &metrics, &mut Nothing)?;
        state.whole(&mut writer, &whole, &mut Vec::new())?;
        Ok((writer, state))
    }
}

impl State {
    /// Requests that are not taken apart.
    fn whole<C: Coder>(
        &mut self,
        coder: &mut C,
        given: &[(Signal, Vec<u8>)],
        out: &mut Vec<Request>,
    ) -> Result<(), CodecError> {
        let count = self.number(coder, N::Whole, given.len() as u64);
        for n in 0..count as usize {
            self.spend(1)?;
            let (signal, body) = given.get(n).map_or((0, &[][..]), |(s, b)| (*s as u64, &b[..]));
            let signal = coder.raw(signal, 2);
            let length = self.number(coder, N::Whole, body.len() as u64);
            self.spend(length)?;
            let mut text = Vec::new();
            coder.text(self.dictionaries.len(), body, length, &mut text)?;
            let signal = Signal::from_number(signal as u8).ok_or(CodecError::Damaged("unknown signal"))?;
            out.push(Request { signal, body: Bytes::from(text) });
        }
        Ok(())
    }
}

struct Writer {
    layout: u8,
    range: RangeEncoder,
    bits: BitWriter,
    /// Text of each dictionary, and behind them of requests that are left whole.
    text: Vec<Vec<u8>>,
    vocabulary: Vocabulary,
    /// The entry that was last found to be unknown.
    pending: u64,
    /// The spans that may be referred to, and how many of all are among them.
    spans: (Positions, usize),
}

impl Writer {
    fn new(layout: u8, vocabulary: Vocabulary) -> Self {
        Self {
            layout,
            range: RangeEncoder::new(),
            bits: BitWriter::default(),
            text: vec![Vec::new(); vocabulary.kinds.len() + 1],
            vocabulary,
            pending: 0,
            spans: Default::default(),
        }
    }

    fn finish(self) -> Result<Vec<u8>, CodecError> {
        let Self { layout, range, bits, text, vocabulary, .. } = self;
        drop(vocabulary);
        let (range, bits) = (range.finish(), bits.finish());
        let mut out = vec![layout];
        put_varint(&mut out, range.len() as u64);
        put_varint(&mut out, bits.len() as u64);
        let used = text.iter().rposition(|t| !t.is_empty()).map_or(0, |n| n + 1);
        put_varint(&mut out, used as u64);
        for text in &text[..used] {
            put_varint(&mut out, text.len() as u64);
        }
        out.extend_from_slice(&range);
        out.extend_from_slice(&bits);
        let text = text.concat();
        if !text.is_empty() {
            out.extend(text_compressor()?.compress(&text)?);
        }
        Ok(out)
    }
}

impl Coder for Writer {
    const ENCODES: bool = true;

    #[inline(always)]
    fn bit(&mut self, model: &mut Bit, bit: bool) -> bool {
        self.range.encode(model, bit);
        bit
    }

    #[inline(always)]
    fn tree<const N: usize>(&mut self, models: &mut [Bit; N], levels: u32, value: u64) -> usize {
        self.range.tree(models, levels, value)
    }

    #[inline(always)]
    fn path<const N: usize>(
        &mut self,
        models: &mut [Bit; N],
        levels: u32,
        value: u64,
        place: impl Fn(u64) -> usize,
    ) -> u64 {
        self.range.path(models, levels, value, place)
    }

    #[inline(always)]
    fn symbol(&mut self, model: &mut Symbols, symbol: usize) -> usize {
        self.range.symbol(model, symbol);
        symbol
    }

    #[inline]
    fn raw(&mut self, value: u64, bits: u32) -> u64 {
        self.bits.put(value, bits);
        value
    }

    fn text(&mut self, column: usize, value: &[u8], _: u64, out: &mut Vec<u8>) -> Result<(), CodecError> {
        self.text[column].extend_from_slice(value);
        out.extend_from_slice(value);
        Ok(())
    }

    fn text_left(&self, column: usize) -> usize {
        self.vocabulary.left(column)
    }

    #[inline]
    fn entry(&mut self, column: usize, index: u64, known: u64) -> u64 {
        let coded = self.vocabulary.coded(column, index, known);
        if coded == known {
            self.pending = index;
        }
        coded
    }

    fn content(&mut self, column: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(self.vocabulary.content(column, self.pending));
    }

    fn find_span(&mut self, all: &[[u64; 3]], span: [u64; 3]) -> Option<u64> {
        // Of several spans with one id any will do.
        let (numbers, known) = &mut self.spans;
        (*known..all.len()).for_each(|n| numbers.insert(n as u32, |n| all[n as usize]));
        *known = all.len();
        numbers.find(&span, |n| all[n as usize]).map(u64::from)
    }

    #[inline(always)]
    fn accounts(&self) -> bool {
        false
    }

    #[inline(always)]
    fn account(&mut self, _: Message, _: u8) -> f64 {
        0.0
    }

    #[inline(always)]
    fn part(&mut self, _: usize, _: Part<'_>) {}

    #[inline(always)]
    fn transfer(&mut self, _: f64, _: (Message, u8), _: (Message, u8)) {}
}
