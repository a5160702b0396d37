//! The entropy coder: adaptive binary arithmetic coding, raw bits for what is random, and text that zstd compresses.
//!
//! A model and its inverse are one function over [`Coder`]: the encoder is given a value and hands it back, the decoder is
//! given anything and hands back what was encoded. So the two directions cannot differ.
//!
//! What has few cases is a symbol, which takes one step where its bits would take four.
//!
//! The arithmetic coder is a carry-propagating range coder (G. N. N. Martin, 1979) with 64-bit state. A probability moves
//! towards what was seen by 1/(n + 1.5), n being how often it was asked, up to a limit (as in M. Mahoney's lpaq).

use super::dictionary::Scratch;
use super::schema::Message;
use super::text::Text;
use crate::segment::CodecError;

/// The probability that a bit is 1, learnt from the bits before it: 22 bits of probability, 10 bits of count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bit(u32);

/// Bits after which a probability moves no slower.
const LIMIT: u32 = 255;

/// `RATES[n]` is 2^16 / (n + 1.5).
static RATES: [u32; LIMIT as usize + 1] = {
    let mut rates = [0; LIMIT as usize + 1];
    let mut n = 0;
    while n < rates.len() {
        rates[n] = (65_536 * 2 / (2 * n + 3)) as u32;
        n += 1;
    }
    rates
};

impl Bit {
    pub(super) const NEW: Self = Self(1 << 31);

    /// In 1/65,536, never certain.
    #[inline(always)]
    pub(super) const fn probability(self) -> u64 {
        let p = self.0 >> 16;
        let p = if p < 24 { 24 } else { p };
        (if p > 65_512 { 65_512 } else { p }) as u64
    }

    #[inline(always)]
    fn learn(&mut self, bit: bool) {
        let (p, n) = (self.0 >> 10, self.0 & 1023);
        let rate = RATES[n as usize & LIMIT as usize];
        let target = if bit { (1 << 22) - 1 } else { 0 };
        let step = ((i64::from(target) - i64::from(p)) * i64::from(rate)) >> 16;
        // Neither part runs into the other.
        self.0 = self.0.wrapping_add((step as u32) << 10).wrapping_add(u32::from(n < LIMIT));
    }
}

/// How likely each of 16 symbols is: what lies below each, without what each has at least. In the place of the first, below which
/// nothing lies, stands how often it was asked. All move towards the symbol that came (F. Giesen, "Mixing discrete probability
/// distributions", 2015).
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbols([i16; 16]);

impl Symbols {
    /// What each has at least, in 1/32,768, and what lies below all of them without that.
    const LEAST: u64 = 8;
    const WHOLE: i16 = ((1 << 15) - 16 * Self::LEAST) as i16;

    pub(super) const NEW: Self = {
        let mut below = [0; 16];
        let mut n = 1;
        while n < 16 {
            below[n] = Self::WHOLE / 16 * n as i16;
            n += 1;
        }
        Self(below)
    };

    /// Where a symbol begins and where it ends, in 1/32,768.
    #[inline(always)]
    fn bounds(&self, symbol: usize) -> [u64; 2] {
        let below = |n: usize| match n {
            0 => 0,
            16 => 1 << 15,
            n => self.0[n & 15] as u64 + n as u64 * Self::LEAST,
        };
        [below(symbol), below(symbol + 1)]
    }

    /// How likely a symbol is, in 1/65,536.
    pub(super) fn probability(&self, symbol: usize) -> u64 {
        let [from, to] = self.bounds(symbol & 15);
        (to - from) * 2
    }

    /// The symbol in which `at` lies.
    #[inline(always)]
    fn find(&self, at: i16) -> usize {
        let mut symbol = 0;
        for n in 1..16 {
            symbol += i16::from(self.0[n] + n as i16 * Self::LEAST as i16 <= at);
        }
        symbol as usize
    }

    #[inline(always)]
    fn learn(&mut self, symbol: usize) {
        let count = self.0[0];
        let rate = match count {
            0 => 1,
            1..3 => 2,
            3..7 => 3,
            7..16 => 4,
            _ => 5,
        };
        for n in 1..16 {
            let target = if n > symbol { Self::WHOLE } else { 0 };
            self.0[n] += (target - self.0[n]) >> rate;
        }
        self.0[0] = (count + 1).min(16);
    }
}

/// A part of a text that is taken apart.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part<'a> {
    /// What lies before the text.
    Before,
    /// A word that its template has.
    Fixed(&'a [u8]),
    /// A value of a kind.
    Value(&'static str),
    End,
}

/// Codes values in one direction.
pub(super) trait Coder {
    /// Whether values go in; else they come out.
    const ENCODES: bool;

    /// A bit with a learnt probability.
    fn bit(&mut self, model: &mut Bit, bit: bool) -> bool;

    /// The lowest `levels` bits of a value, the highest first, behind a 1. What leads to a bit is the number of its model.
    fn tree<const N: usize>(&mut self, models: &mut [Bit; N], levels: u32, value: u64) -> usize;

    /// The same with models that are found anywhere: `place` says where, by what leads to a bit.
    fn path<const N: usize>(
        &mut self,
        models: &mut [Bit; N],
        levels: u32,
        value: u64,
        place: impl Fn(u64) -> usize,
    ) -> u64;

    /// One of 16 symbols.
    fn symbol(&mut self, model: &mut Symbols, symbol: usize) -> usize;

    /// The lowest `bits` bits of a value, each as likely 0 as 1. At most 64.
    fn raw(&mut self, value: u64, bits: u32) -> u64;

    /// Text of column `column`, of `length` bytes, appended to `out`.
    fn text(&mut self, column: usize, value: &[u8], length: u64, out: &mut Vec<u8>)
    -> Result<(), CodecError>;

    /// Bytes of text column `column` that are still to come out, as far as that is known.
    fn text_left(&self, _: usize) -> usize {
        0
    }

    /// The index by which the decoder will know entry `index` of dictionary `column`, which has `known` entries there.
    fn entry(&mut self, column: usize, index: u64, known: u64) -> u64;

    /// The content of the entry of dictionary `column` that [`Coder::entry`] has last found to be unknown.
    fn content(&mut self, column: usize, out: &mut Vec<u8>);

    /// The number of a span, its trace (two halves) and id, among those of this segment so far.
    fn find_span(&mut self, all: &[[u64; 3]], span: [u64; 3]) -> Option<u64>;

    /// Whether [`Coder::account`] counts at all.
    fn accounts(&self) -> bool;

    /// Counts what was coded since the last call towards a field of a message; how many bits that was.
    fn account(&mut self, message: Message, field: u8) -> f64;

    /// Counts what was coded since the last call towards a part of a text of dictionary `column`.
    fn part(&mut self, column: usize, part: Part<'_>);

    /// Counts bits towards another field after all.
    fn transfer(&mut self, bits: f64, from: (Message, u8), to: (Message, u8));
}

/// A number: how many bits it has is learnt, so are the highest three below the first; the rest are raw.
#[derive(Debug, Clone, Copy)]
struct Number {
    /// Where the models of the highest bits stand, by length: those of eight lengths together, [`NO_HIGH`] while none is used.
    high: [u16; 8],
    negative: Bit,
    length: [Bit; 64],
}

/// The models of the highest bits of numbers of eight lengths.
type High = [[Bit; 8]; 8];

const NO_HIGH: u16 = u16::MAX;

impl Number {
    const NEW: Self = Self { high: [NO_HIGH; 8], negative: Bit::NEW, length: [Bit::NEW; 64] };

    // Used in so many places that it would make a fifth of the codec's code.
    #[inline(never)]
    fn code<C: Coder>(&mut self, all_high: &mut Vec<High>, coder: &mut C, value: u64) -> u64 {
        // 63 and 64 bits share a leaf.
        let length = 64 - value.leading_zeros();
        let leaf = length.min(63);
        let mut length = coder.tree(&mut self.length, 6, u64::from(leaf)) as u32 & 63;
        if length == 63 {
            length += coder.raw(value >> 63, 1) as u32;
        }
        if length < 2 {
            return u64::from(length);
        }
        let below = length - 1;
        let learnt = below.min(3);
        let rest = below - learnt;
        let place = length as usize & 63;
        let high = &mut self.high[place >> 3];
        if *high == NO_HIGH {
            *high = all_high.len() as u16;
            all_high.push([[Bit::NEW; 8]; 8]);
        }
        let high = &mut all_high[usize::from(*high)][place & 7];
        // What comes begins with the number's own highest bit.
        let highest = coder.tree(high, learnt, value >> rest) as u64;
        highest << rest | coder.raw(value, rest)
    }
}

/// Every model of numbers. There are never more than [`Numbers::MOST`], some 9 MiB: then they are shared.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers {
    all: Vec<Number>,
    high: Vec<High>,
    given: u32,
    /// Numbers in patterns of text, which have a model each.
    pub(super) holes: usize,
    /// For the dictionaries, which are given the numbers wherever they code.
    pub(super) scratch: Scratch,
    /// Likewise, what is known of text.
    pub(super) text: Text,
}

/// A model of numbers that is made when it is first used.
#[derive(Debug, Clone, Copy)]
pub(super) struct NumberId(u32);

impl NumberId {
    pub(super) const NEW: Self = Self(u32::MAX);
}

impl Numbers {
    /// Eight times as many are less than [`NO_HIGH`].
    const MOST: u32 = 4096;

    #[inline]
    fn get(&mut self, id: &mut NumberId) -> (&mut Number, &mut Vec<High>) {
        if id.0 == u32::MAX {
            id.0 = self.given % Self::MOST;
            self.given = self.given.wrapping_add(1);
            if self.all.len() == id.0 as usize {
                self.all.push(Number::NEW);
            }
        }
        (&mut self.all[id.0 as usize], &mut self.high)
    }

    /// A number.
    #[inline]
    pub(super) fn code<C: Coder>(&mut self, id: &mut NumberId, coder: &mut C, value: u64) -> u64 {
        let (number, high) = self.get(id);
        number.code(high, coder, value)
    }

    /// A signed number: its sign, then how far it is from 0 or from -1.
    #[inline]
    pub(super) fn code_signed<C: Coder>(&mut self, id: &mut NumberId, coder: &mut C, value: u64) -> u64 {
        let (number, high) = self.get(id);
        let negative = coder.bit(&mut number.negative, (value as i64) < 0);
        let flip = u64::from(negative).wrapping_neg();
        number.code(high, coder, value ^ flip) ^ flip
    }

    /// Bytes that they take.
    pub(super) const fn size(&self) -> usize {
        self.all.len() * size_of::<Number>() + self.high.len() * size_of::<High>()
    }
}

/// What the arithmetic coder and the raw bits came to.
#[derive(Debug, Default)]
pub(super) struct BitWriter {
    out: Vec<u8>,
    held: u64,
    count: u32,
}

impl BitWriter {
    #[inline]
    pub(super) fn put(&mut self, value: u64, bits: u32) {
        if bits == 0 {
            return;
        }
        let value = if bits == 64 { value } else { value & ((1 << bits) - 1) };
        self.held |= value << self.count;
        let free = 64 - self.count;
        if bits < free {
            self.count += bits;
            return;
        }
        self.out.extend_from_slice(&self.held.to_le_bytes());
        self.held = if free == 64 { 0 } else { value >> free };
        self.count = bits - free;
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let bytes = self.count.div_ceil(8) as usize;
        self.out.extend_from_slice(&self.held.to_le_bytes()[..bytes]);
        self.out
    }
}

/// Reads what [`BitWriter`] wrote; zeros beyond the end, which [`BitReader::overrun`] tells.
#[derive(Debug)]
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    /// In bits.
    at: u64,
}

impl<'a> BitReader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    #[inline]
    pub(super) fn take(&mut self, bits: u32) -> u64 {
        if bits == 0 {
            return 0;
        }
        let (byte, shift) = ((self.at >> 3) as usize, (self.at & 7) as u32);
        self.at += u64::from(bits);
        let word = |from: usize| {
            if let Some(eight) = self.bytes.get(from..from + 8) {
                return u64::from_le_bytes(eight.try_into().unwrap_or_default());
            }
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(self.bytes.get(from..).unwrap_or_default()) {
                *to = *from;
            }
            u64::from_le_bytes(word)
        };
        let mut value = word(byte) >> shift;
        if shift + bits > 64 {
            value |= word(byte + 8) << (64 - shift);
        }
        if bits == 64 { value } else { value & ((1 << bits) - 1) }
    }

    pub(super) const fn overrun(&self) -> bool {
        self.at > self.bytes.len() as u64 * 8
    }

    /// Bits that were read.
    pub(super) const fn position(&self) -> u64 {
        self.at
    }
}

/// The arithmetic coder, towards bytes.
#[derive(Debug)]
pub(super) struct RangeEncoder {
    interval: Interval,
    out: Vec<u8>,
}

/// Where the value will lie, as far as that is not in the bytes yet.
#[derive(Debug, Clone, Copy)]
struct Interval {
    low: u64,
    range: u64,
}

impl Interval {
    #[inline(always)]
    fn encode(&mut self, out: &mut Vec<u8>, model: &mut Bit, bit: bool) {
        let bound = (self.range >> 16) * model.probability();
        model.learn(bit);
        if bit {
            self.narrow(out, 0, bound);
        } else {
            self.narrow(out, bound, self.range - bound);
        }
    }

    /// Goes on with a part of the interval: where it begins, and how much it is.
    #[inline(always)]
    fn narrow(&mut self, out: &mut Vec<u8>, from: u64, range: u64) {
        let (low, is_carried) = self.low.overflowing_add(from);
        (self.low, self.range) = (low, range);
        if is_carried {
            carry(out);
        }
        if self.range < 1 << 32 {
            out.extend_from_slice(&((self.low >> 32) as u32).to_be_bytes());
            self.low <<= 32;
            self.range <<= 32;
        }
    }

    #[inline(always)]
    fn encode_symbol(&mut self, out: &mut Vec<u8>, model: &mut Symbols, symbol: usize) {
        let [from, to] = model.bounds(symbol & 15);
        model.learn(symbol & 15);
        let part = self.range >> 15;
        self.narrow(out, part * from, part * (to - from));
    }
}

/// Adds 1 to the number that the bytes are.
#[cold]
fn carry(out: &mut [u8]) {
    for byte in out.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return;
        }
    }
}

impl RangeEncoder {
    pub(super) const fn new() -> Self {
        Self { interval: Interval { low: 0, range: u64::MAX }, out: Vec::new() }
    }

    #[inline(always)]
    pub(super) fn encode(&mut self, model: &mut Bit, bit: bool) {
        self.interval.encode(&mut self.out, model, bit);
    }

    /// As [`Coder::symbol`].
    #[inline(never)]
    pub(super) fn symbol(&mut self, model: &mut Symbols, symbol: usize) {
        self.interval.encode_symbol(&mut self.out, model, symbol);
    }

    /// As [`Coder::tree`].
    #[inline(always)]
    pub(super) fn tree<const N: usize>(&mut self, models: &mut [Bit; N], levels: u32, value: u64) -> usize {
        // A copy stays in registers.
        let mut interval = self.interval;
        let mut node = 1;
        for level in (0..levels).rev() {
            let bit = value >> level & 1;
            interval.encode(&mut self.out, &mut models[node % N], bit == 1);
            node = node << 1 | bit as usize;
        }
        self.interval = interval;
        node
    }

    /// As [`Coder::path`].
    #[inline(always)]
    pub(super) fn path<const N: usize>(
        &mut self,
        models: &mut [Bit; N],
        levels: u32,
        value: u64,
        place: impl Fn(u64) -> usize,
    ) -> u64 {
        // A copy stays in registers.
        let mut interval = self.interval;
        let mut node = 1;
        for level in (0..levels).rev() {
            let bit = value >> level & 1;
            interval.encode(&mut self.out, &mut models[place(node) % N], bit == 1);
            node = node << 1 | bit;
        }
        self.interval = interval;
        node
    }

    /// As few bytes as tell the decoder which interval it was; beyond the end it reads zeros.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let Interval { low, range } = self.interval;
        for bytes in 1..=8u32 {
            let below = u64::MAX.checked_shr(8 * bytes).unwrap_or(0);
            let (value, is_carried) = low.overflowing_add(below);
            let value = value & !below;
            if value.wrapping_sub(low) < range {
                if is_carried {
                    carry(&mut self.out);
                }
                self.out.extend_from_slice(&value.to_be_bytes()[..bytes as usize]);
                break;
            }
        }
        while self.out.last() == Some(&0) {
            self.out.pop();
        }
        self.out
    }
}

/// The arithmetic coder, from bytes. Beyond the end it reads zeros, which [`RangeDecoder::overrun`] tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct RangeDecoder<'a> {
    /// How far into the interval the value lies.
    code: u64,
    range: u64,
    rest: &'a [u8],
    length: usize,
    /// Zeros that were read.
    beyond: usize,
}

/// What is left of the bytes, and zeros.
#[cold]
fn last_word(rest: &[u8]) -> u32 {
    let mut word = [0; 4];
    word[..rest.len()].copy_from_slice(rest);
    u32::from_be_bytes(word)
}

impl<'a> RangeDecoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let mut decoder = Self { code: 0, range: u64::MAX, rest: bytes, length: bytes.len(), beyond: 0 };
        decoder.code = u64::from(decoder.word()) << 32;
        decoder.code |= u64::from(decoder.word());
        decoder
    }

    #[inline(always)]
    fn word(&mut self) -> u32 {
        if let Some((word, rest)) = self.rest.split_first_chunk() {
            self.rest = rest;
            return u32::from_be_bytes(*word);
        }
        let word = last_word(self.rest);
        self.beyond += 4 - self.rest.len();
        self.rest = &[];
        word
    }

    #[inline(always)]
    pub(super) fn decode(&mut self, model: &mut Bit) -> bool {
        let bound = (self.range >> 16) * model.probability();
        let bit = self.code < bound;
        if bit {
            self.range = bound;
        } else {
            self.code -= bound;
            self.range -= bound;
        }
        model.learn(bit);
        self.refill();
        bit
    }

    #[inline(always)]
    fn refill(&mut self) {
        if self.range < 1 << 32 {
            self.code = self.code << 32 | u64::from(self.word());
            self.range <<= 32;
        }
    }

    /// As [`Coder::symbol`].
    #[inline(never)]
    pub(super) fn symbol(&mut self, model: &mut Symbols) -> usize {
        let part = self.range >> 15;
        let symbol = model.find((self.code / part).min((1 << 15) - 1) as i16);
        let [from, to] = model.bounds(symbol);
        model.learn(symbol);
        self.code -= part * from;
        self.range = part * (to - from);
        self.refill();
        symbol
    }

    /// As [`Coder::tree`].
    #[inline(always)]
    pub(super) fn tree<const N: usize>(&mut self, models: &mut [Bit; N], levels: u32) -> usize {
        // A copy stays in registers.
        let mut decoder = *self;
        let mut node = 1;
        for _ in 0..levels {
            node = node << 1 | usize::from(decoder.decode(&mut models[node % N]));
        }
        *self = decoder;
        node
    }

    /// As [`Coder::path`].
    #[inline(always)]
    pub(super) fn path<const N: usize>(
        &mut self,
        models: &mut [Bit; N],
        levels: u32,
        place: impl Fn(u64) -> usize,
    ) -> u64 {
        // A copy stays in registers.
        let mut decoder = *self;
        let mut node = 1;
        for _ in 0..levels {
            node = node << 1 | u64::from(decoder.decode(&mut models[place(node) % N]));
        }
        *self = decoder;
        node
    }

    /// Bits that what was decoded so far takes.
    pub(super) fn position(&self) -> f64 {
        (self.length - self.rest.len() + self.beyond) as f64 * 8.0 - (self.range as f64).log2()
    }

    /// Whether more was read than any encoder would have left out.
    pub(super) const fn overrun(&self) -> bool {
        self.beyond > 4096
    }
}
