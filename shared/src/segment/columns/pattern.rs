//! Text with numbers in it: log bodies, URLs and the like are few patterns with many numbers.
//!
//! Text is split into a pattern, in which [`HOLE`] stands for each run of digits, and the numbers. A pattern is sent once; a
//! number is expected near the last one in its hole, or near 0. Zeros before a number are counted apart.

use std::hash::Hasher;

use rustc_hash::FxHasher;

use super::entropy::{Coder, NumberId, Numbers};
use super::models::{Near, Recent};
use crate::segment::CodecError;

/// Stands for a number in a pattern. Text with this byte in it is its own pattern.
const HOLE: u8 = 0;

/// Numbers in a pattern; the rest of the digits are text.
const MOST_HOLES: usize = 16;

/// Digits of a number, so that it fits.
const MOST_DIGITS: usize = 18;

/// Patterns of a dictionary that are kept; text that has another one is sent whole.
const MOST_PATTERNS: usize = 256;

/// Numbers in all patterns; above that no new ones are kept. Each takes some 130 bytes.
const MOST_OF_ALL: usize = 1 << 16;

/// Instead of how many patterns back: the text as it is, a pattern that is not known.
const PLAIN: u64 = 0;
const NEW: u64 = 1;

/// What is sent of a piece of text.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Split {
    pattern: Vec<u8>,
    /// Zeros before each number, and the number.
    numbers: Vec<(u64, u64)>,
}

impl Split {
    pub(super) fn clear(&mut self) {
        self.pattern.clear();
        self.numbers.clear();
    }
}

fn split(text: &[u8], out: &mut Split) {
    if text.contains(&HOLE) {
        out.pattern.extend_from_slice(text);
        return;
    }
    let mut rest = text;
    while let Some(at) = rest.iter().position(u8::is_ascii_digit) {
        let (plain, run) = rest.split_at(at);
        out.pattern.extend_from_slice(plain);
        let digits = run.iter().take_while(|b| b.is_ascii_digit()).count();
        let (run, behind) = run.split_at(digits);
        rest = behind;
        // Digits beside letters are parts of names and of hexadecimal numbers.
        let beside = behind.first().is_some_and(u8::is_ascii_alphanumeric)
            || out.pattern.last().is_some_and(u8::is_ascii_alphabetic);
        if digits > MOST_DIGITS || beside || out.numbers.len() == MOST_HOLES {
            out.pattern.extend_from_slice(run);
            continue;
        }
        let zeros = run[..digits - 1].iter().take_while(|b| **b == b'0').count();
        let number = run[zeros..].iter().fold(0, |n, b| n * 10 + u64::from(b - b'0'));
        out.numbers.push((zeros as u64, number));
        out.pattern.push(HOLE);
    }
    out.pattern.extend_from_slice(rest);
}

/// Appends a number in decimal digits.
fn put_decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The numbers in a hole.
#[derive(Debug, Clone, Copy)]
struct Hole {
    zeros: Recent,
    number: Near,
    last: u64,
}

/// Where a pattern's text and its holes begin, and where they end, among those of all.
#[derive(Debug, Clone, Copy)]
struct Pattern {
    text: [u32; 2],
    holes: [u32; 2],
}

fn hash(text: &[u8]) -> u32 {
    let mut hasher = FxHasher::default();
    hasher.write(text);
    (hasher.finish() >> 32) as u32
}

impl Pattern {
    fn text<'a>(&self, all: &'a [u8]) -> &'a [u8] {
        &all[self.text[0] as usize..self.text[1] as usize]
    }
}

/// The patterns of one dictionary.
#[derive(Debug, Clone)]
pub(super) struct Patterns {
    known: Vec<Pattern>,
    /// Of their texts, so that others are passed quickly.
    hashes: Vec<u32>,
    texts: Vec<u8>,
    holes: Vec<Hole>,
    /// How often a known one was met.
    hits: usize,
    recent: Recent,
    which: NumberId,
    length: NumberId,
}

impl Patterns {
    pub(super) const fn new() -> Self {
        Self {
            known: Vec::new(),
            hashes: Vec::new(),
            texts: Vec::new(),
            holes: Vec::new(),
            hits: 0,
            recent: Recent::NEW,
            which: NumberId::NEW,
            length: NumberId::NEW,
        }
    }

    /// Bytes that they take.
    pub(super) const fn size(&self) -> usize {
        self.texts.len() + self.holes.len() * size_of::<Hole>() + self.known.len() * size_of::<Pattern>()
    }

    /// Codes `text` of dictionary `number` and appends it to `out`. `given` is empty.
    pub(super) fn code<C: Coder>(
        &mut self,
        coder: &mut C,
        numbers: &mut Numbers,
        number: usize,
        text: &[u8],
        given: &mut Split,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        let full = self.is_full() || numbers.holes >= MOST_OF_ALL;
        if C::ENCODES {
            split(text, given);
        }
        // Text with that byte in it would come back with numbers there, were it taken for a pattern that is known.
        let found = if C::ENCODES && !text.contains(&HOLE) { self.find(&given.pattern) } else { None };
        let plain = found.is_none() && (full || given.numbers.is_empty());
        let index = match self.recent.code(coder, found.map_or(u64::MAX, |n| n as u64)) {
            Some(index) => index,
            None => {
                let known = self.known.len() as u64;
                let choice = match found {
                    Some(n) => known - n as u64 + NEW,
                    None => {
                        if plain {
                            PLAIN
                        } else {
                            NEW
                        }
                    }
                };
                let index = match numbers.code(&mut self.which, coder, choice) {
                    PLAIN => {
                        let length = numbers.code(&mut self.length, coder, text.len() as u64);
                        return coder.text(number, text, length, out);
                    }
                    NEW if !full => self.learn(coder, numbers, number, &given.pattern)?,
                    known_before => {
                        let back = known_before.wrapping_sub(NEW);
                        let index = known.checked_sub(back).filter(|n| *n < known);
                        index.ok_or(CodecError::Damaged("a pattern that is not known"))?
                    }
                };
                self.recent.push(index);
                index
            }
        };
        self.hits += 1;
        let pattern = self.known[index as usize];
        let mut parts = pattern.text(&self.texts).split(|b| *b == HOLE);
        out.extend_from_slice(parts.next().unwrap_or_default());
        let holes = &mut self.holes[pattern.holes[0] as usize..pattern.holes[1] as usize];
        for (n, (hole, part)) in holes.iter_mut().zip(parts).enumerate() {
            let (zeros, value) = given.numbers.get(n).copied().unwrap_or_default();
            hole.code(coder, numbers, zeros, value, out);
            out.extend_from_slice(part);
        }
        Ok(())
    }

    /// Whether no more are kept: there are too many, or they do not come again.
    const fn is_full(&self) -> bool {
        let known = self.known.len();
        known >= MOST_PATTERNS || (known >= 8 && self.hits < known * 4)
    }

    fn find(&self, text: &[u8]) -> Option<usize> {
        let hash = hash(text);
        let mut alike = (0..self.known.len()).filter(|n| self.hashes[*n] == hash);
        alike.find(|n| self.known[*n].text(&self.texts) == text)
    }

    /// A pattern that was not there before.
    fn learn<C: Coder>(
        &mut self,
        coder: &mut C,
        numbers: &mut Numbers,
        number: usize,
        given: &[u8],
    ) -> Result<u64, CodecError> {
        let length = numbers.code(&mut self.length, coder, given.len() as u64);
        let mut text = Vec::new();
        coder.text(number, given, length, &mut text)?;
        let holes = text.iter().filter(|b| **b == HOLE).count();
        if holes > MOST_HOLES {
            return Err(CodecError::TooLarge("the number of numbers in a text"));
        }
        numbers.holes += holes;
        let hole = Hole { zeros: Recent::NEW, number: Near::new(), last: 0 };
        let from = [self.texts.len() as u32, self.holes.len() as u32];
        self.texts.extend_from_slice(&text);
        self.holes.resize(self.holes.len() + holes, hole);
        self.hashes.push(hash(&text));
        self.known.push(Pattern {
            text: [from[0], self.texts.len() as u32],
            holes: [from[1], self.holes.len() as u32],
        });
        Ok(self.known.len() as u64 - 1)
    }
}

impl Hole {
    fn code<C: Coder>(
        &mut self,
        coder: &mut C,
        numbers: &mut Numbers,
        zeros: u64,
        value: u64,
        out: &mut Vec<u8>,
    ) {
        let zeros = match self.zeros.code(coder, zeros) {
            Some(zeros) => zeros,
            None => {
                let zeros = coder.raw(zeros, 5);
                self.zeros.push(zeros);
                zeros
            }
        };
        let value = self.number.code(coder, numbers, value, &[0, self.last]);
        self.last = value;
        out.extend(std::iter::repeat_n(b'0', zeros as usize));
        put_decimal(out, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_split_at_its_numbers() {
        let of = |text: &str| {
            let mut out = Split::default();
            split(text.as_bytes(), &mut out);
            out
        };
        assert_eq!(of("id=251 qty=007").pattern, b"id=\0 qty=\0");
        assert_eq!(of("id=251 qty=007").numbers, [(0, 251), (2, 7)]);
        assert_eq!(of("000").numbers, [(2, 0)]);
        assert_eq!(of("no number, no cf99-a1").numbers, []);
        assert_eq!(of("a\0 1").numbers, [], "the byte that stands for a number is in it");
        assert_eq!(of(&"1".repeat(19)).numbers, [], "too long");
        assert_eq!(of(&"1 ".repeat(20)).numbers.len(), MOST_HOLES);
    }
}
