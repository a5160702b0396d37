//! Text as tokens: words with what separates them from the next one, and values of a few kinds.
//!
//! Tokens stand for the same bytes again, whatever the text is: what is not a value of a kind in its own writing is a word.

use super::time::{self, FORMS, Form};

/// Numbers of tokens. They are persisted. Below [`WORDS`] are the kinds of values; the rest are words in the order in which
/// they came.
pub(super) const END: u32 = 0;
pub(super) const NUMBER: u32 = 1;
pub(super) const UUID: u32 = 2;
/// Seconds since 1970; then milliseconds, microseconds, nanoseconds.
pub(super) const EPOCH: u32 = 4;
/// Seconds since 1970 with one decimal place; then with up to nine.
pub(super) const EPOCH_FRACTION: u32 = 8;
/// Hexadecimal digits, the shortest run first; then likewise in capital letters.
pub(super) const HEX: u32 = 17;
pub(super) const ADDRESS: u32 = 75;
pub(super) const TIME: u32 = 80;
pub(super) const WORDS: u32 = 512;
/// A word that is not known.
pub(super) const NEW: u32 = u32::MAX;

const SHORTEST_HEX: usize = 4;
const LONGEST_HEX: usize = 32;
const HEXES: u32 = (LONGEST_HEX - SHORTEST_HEX + 1) as u32;

/// Bytes of a word.
pub(super) const LONGEST_WORD: usize = 64;

/// Digits of a number, so that it fits.
pub(super) const MOST_DIGITS: usize = 19;

/// A time is only taken for one if it is that near to the record's own.
const NEAR_SECONDS: u64 = 40 * 86_400;

/// A piece of text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    pub(super) kind: u32,
    pub(super) start: u32,
    pub(super) end: u32,
    /// Of a time, minutes east of Greenwich.
    pub(super) offset: i32,
    pub(super) value: u128,
}

/// What a kind below [`WORDS`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Number,
    Uuid { upper: bool },
    Epoch { digits: usize },
    EpochFraction { digits: u32 },
    Hex { upper: bool, digits: usize },
    Address,
    Time(Form),
}

impl Kind {
    pub(super) fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            NUMBER => Self::Number,
            2..=3 => Self::Uuid { upper: number == 3 },
            4..=7 => Self::Epoch { digits: number as usize * 3 - 2 },
            8..=16 => Self::EpochFraction { digits: number - EPOCH_FRACTION + 1 },
            17..=74 => {
                let (upper, digits) = ((number - HEX) / HEXES == 1, (number - HEX) % HEXES);
                Self::Hex { upper, digits: digits as usize + SHORTEST_HEX }
            }
            ADDRESS => Self::Address,
            TIME..WORDS if number - TIME < FORMS => Self::Time(Form::from_number(number - TIME)),
            _ => return None,
        })
    }

    /// Its name for people.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Uuid { .. } => "uuid",
            Self::Epoch { .. } | Self::EpochFraction { .. } | Self::Time(_) => "time",
            Self::Hex { .. } => "hex",
            Self::Address => "ipv4",
        }
    }
}

/// Letters and digits that are looked at together: no more than the longest token, since of a long run each is looked at so.
const LONGEST_RUN: usize = LONGEST_WORD;

/// Splits text into tokens; `time` is the record's own, in ns, or 0.
pub(super) struct Splitter<'a> {
    text: &'a [u8],
    at: usize,
    time: u64,
}

/// What a byte is: a digit, an ASCII letter, another letter; a separator is none.
const DIGIT: u8 = 1;
const ASCII: u8 = 2;
const OTHER: u8 = 4;

static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < classes.len() {
        classes[byte] = match byte as u8 {
            b'0'..=b'9' => DIGIT,
            b'a'..=b'z' | b'A'..=b'Z' => ASCII,
            b'_' | 0x80.. => OTHER,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

#[inline(always)]
fn class(byte: u8) -> u8 {
    CLASSES[usize::from(byte)]
}

pub(super) fn is_letter(byte: u8) -> bool {
    class(byte) & (ASCII | OTHER) > 0
}

impl<'a> Splitter<'a> {
    pub(super) const fn new(text: &'a [u8], time: u64) -> Self {
        Self::from(text, 0, time)
    }

    /// The tokens from `at` on.
    pub(super) const fn from(text: &'a [u8], at: usize, time: u64) -> Self {
        Self { text, at, time }
    }

    fn take(&mut self, kind: u32, length: usize, value: u128) -> Token {
        let start = self.at as u32;
        self.at += length;
        Token { kind, start, end: self.at as u32, offset: 0, value }
    }

    fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    /// A word of `length` bytes and, when nothing of it follows, what separates it from the next.
    #[inline(never)]
    fn word(&mut self, length: usize) -> Token {
        let rest = self.rest();
        let between = rest[length..].iter().take(LONGEST_WORD - length).take_while(|b| class(**b) == 0);
        let end = length + between.count();
        self.take(NEW, end, 0)
    }

    fn time(&mut self) -> Option<Token> {
        let rest = self.rest();
        let likely = match rest[0] {
            b'0'..=b'9' => {
                matches!(rest.get(2), Some(b':' | b'/')) || matches!(rest.get(4), Some(b'-' | b'/'))
            }
            _ => rest.get(3) == Some(&b' ') && rest.get(6) == Some(&b' '),
        };
        let found = if likely { time::find(rest)? } else { return None };
        let token = self.take(TIME + found.form.number(), found.length, u128::from(found.value));
        Some(Token { offset: found.offset, ..token })
    }

    fn uuid(&mut self) -> Option<Token> {
        let text = self.rest().first_chunk::<36>()?;
        if [8, 13, 18, 23].iter().any(|n| text[*n] != b'-') {
            return None;
        }
        let mut digits = [0; 32];
        for (to, from) in digits.iter_mut().zip(text.iter().filter(|b| **b != b'-')) {
            *to = *from;
        }
        let (value, upper) = hex(&digits)?;
        (text.iter().filter(|b| **b == b'-').count() == 4)
            .then(|| self.take(UUID + u32::from(upper), 36, value))
    }

    #[inline(never)]
    fn digits(&mut self, length: usize) -> Token {
        let rest = self.rest();
        let length = length.min(MOST_DIGITS);
        let value = time::decimal(&rest[..length]).unwrap_or(0);
        let near = |seconds: u64| self.time > 0 && seconds.abs_diff(self.time / 1_000_000_000) < NEAR_SECONDS;
        if matches!(length, 10 | 13 | 16 | 19)
            && rest[0] != b'0'
            && near(value / 10u64.pow(length as u32 - 10))
        {
            if length == 10 && rest.get(10) == Some(&b'.') {
                let digits = rest[11..].iter().take(10).take_while(|b| b.is_ascii_digit()).count();
                if (1..=9).contains(&digits) {
                    let part = time::decimal(&rest[11..11 + digits]).unwrap_or(0);
                    let value = value * 10u64.pow(digits as u32) + part;
                    let kind = EPOCH_FRACTION + digits as u32 - 1;
                    return self.take(kind, 11 + digits, u128::from(value));
                }
            }
            return self.take(EPOCH + (length as u32 - 10) / 3, length, u128::from(value));
        }
        self.take(NUMBER, length, u128::from(value))
    }

    fn address(&mut self) -> Option<Token> {
        let rest = self.rest();
        let (mut value, mut at) = (0u32, 0);
        for n in 0..4 {
            if n > 0 {
                if rest.get(at) != Some(&b'.') {
                    return None;
                }
                at += 1;
            }
            let digits = rest[at..].iter().take(4).take_while(|b| b.is_ascii_digit()).count();
            let part = &rest[at..at + digits];
            if digits == 0 || digits > 3 || (digits > 1 && part[0] == b'0') {
                return None;
            }
            value = value << 8 | u32::from(u8::try_from(time::decimal(part)?).ok()?);
            at += digits;
        }
        if matches!(rest.get(at), Some(b) if b.is_ascii_digit()) {
            return None;
        }
        Some(self.take(ADDRESS, at, u128::from(value)))
    }

    /// A run of letters and digits that begins here.
    fn alphanumeric(&mut self) -> Token {
        let rest = self.rest();
        let before = self.at.checked_sub(1).map_or(b' ', |n| self.text[n]);
        let fresh = !before.is_ascii_alphanumeric();
        if fresh && let Some(token) = self.time() {
            return token;
        }
        let (mut length, mut digits, mut turns) = (0, 0, 0);
        let mut last = class(rest[0]);
        for byte in rest.iter().take(LONGEST_RUN) {
            let class = class(*byte);
            if class & (DIGIT | ASCII) == 0 {
                break;
            }
            digits += usize::from(class & DIGIT);
            turns += usize::from(class != last);
            last = class;
            length += 1;
        }
        if fresh
            && length == 8
            && let Some(token) = self.uuid()
        {
            return token;
        }
        if digits == length {
            if fresh
                && rest.get(length) == Some(&b'.')
                && length <= 3
                && let Some(token) = self.address()
            {
                return token;
            }
            return self.digits(length);
        }
        if digits > 0
            && length >= SHORTEST_HEX
            && let Some((value, upper)) = hex(&rest[..length.min(LONGEST_HEX)])
        {
            let digits = length.min(LONGEST_HEX);
            let kind = HEX + u32::from(upper) * HEXES + (digits - SHORTEST_HEX) as u32;
            return self.take(kind, digits, value);
        }
        if turns >= 3 && (8..LONGEST_WORD).contains(&length) {
            return self.word(length);
        }
        if rest[0].is_ascii_digit() {
            let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
            return self.digits(digits);
        }
        self.letters(if digits == 0 { length } else { 0 })
    }

    /// A word whose first `known` bytes are letters.
    fn letters(&mut self, known: usize) -> Token {
        let known = known.min(LONGEST_WORD);
        let rest = &self.rest()[known..];
        let letters = rest.iter().take(LONGEST_WORD - known).take_while(|b| is_letter(**b)).count();
        self.word(known + letters)
    }
}

impl Iterator for Splitter<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let first = *self.text.get(self.at)?;
        Some(match class(first) {
            DIGIT | ASCII => self.alphanumeric(),
            OTHER => self.letters(0),
            _ => self.word(0),
        })
    }
}

/// The number that hexadecimal digits of one case are. At most 32; whether they have capital letters, `None` if of both cases.
fn hex(digits: &[u8]) -> Option<(u128, bool)> {
    let (mut value, mut upper, mut lower) = (0, false, false);
    for digit in digits {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => {
                lower = true;
                digit - b'a' + 10
            }
            b'A'..=b'F' => {
                upper = true;
                digit - b'A' + 10
            }
            _ => return None,
        };
        value = value << 4 | u128::from(nibble);
    }
    (!(upper && lower)).then_some((value, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<&'static str> {
        let name = |t: Token| if t.kind == NEW { "word" } else { Kind::from_number(t.kind).unwrap().name() };
        Splitter::new(text.as_bytes(), 1_795_674_323_000_000_000).map(name).collect()
    }

    #[test]
    fn tokens_cover_the_text() {
        for text in [
            "",
            "a",
            "9",
            "::",
            "x1y2z3w4 é\u{0} 0x1F",
            "12345678901234567890123",
            "cafe0123cafe0123cafe0123cafe0123cafe01",
        ] {
            let mut at = 0;
            for token in Splitter::new(text.as_bytes(), 0) {
                assert_eq!(token.start, at, "{text}");
                assert!(token.end > at, "{text}");
                at = token.end;
            }
            assert_eq!(at as usize, text.len());
        }
    }

    #[test]
    fn kinds_are_told_by_their_writing() {
        assert_eq!(kinds("took 35ms"), ["word", "number", "word"]);
        assert_eq!(kinds("4bf92f3577b34da6a3ce929d0e0e4736"), ["hex"]);
        assert_eq!(kinds("123e4567-e89b-12d3-a456-426614174000"), ["uuid"]);
        assert_eq!(kinds("10.0.0.1:80"), ["ipv4", "word", "number"]);
        assert_eq!(kinds("1795674323 1795674323.25 1795674323000"), ["time", "word", "time", "word", "time"]);
        assert_eq!(kinds("2026-11-26T06:25:23Z"), ["time"]);
        assert_eq!(kinds("2026-02-30")[0], "number");
    }
}
