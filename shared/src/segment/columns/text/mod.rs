//! Text taken apart (codec 3): a line is tokens, each expected from those before it, and its values are expected by their place.
//!
//! ```text
//! text  = was it taken apart? one decision; then token by token to END, or else as in codec 2
//! token = one that followed the same tokens before, or the number of a known word, or 0, a length and the word's bytes
//! value = behind its kind's token: near the record's own time, the last one in its place, one of a few, an id that is known
//! ```
//!
//! Nobody keeps a list of templates: what a template would say stands in the cells of the [`predict`]or. A line's *skeleton* is
//! a hash of its tokens so far, in which kinds stand for values and one mark for every word at a place that has had many. So a
//! place in a template is a hash, what a template fixes costs a hundredth of a bit a token, and a million templates take no more
//! memory than ten.

mod ids;
mod predict;
mod time;
mod tokens;
mod values;
mod words;

use self::ids::{Ids, Own};
use self::predict::{Hit, Predictor, mix};
use self::tokens::{END, Kind, LONGEST_WORD, NEW, Splitter, Token, WORDS};
use self::values::Slots;
use self::words::Words;
use super::entropy::Coder;
use crate::segment::CodecError;

/// Longer texts are not taken apart.
const LONGEST: usize = 1 << 16;

/// Stands in a skeleton for a word where many have been.
const MARK: u64 = 1 << 33;

/// How much a dictionary whose text fits may spend on text that does not.
const CREDIT: u8 = 64;

/// Of texts that do not fit, one in so many is tried.
const TRY: u32 = 16;

/// The record that text is of.
#[derive(Debug, Clone, Copy, Default)]
struct Around {
    time: u64,
    kind: u64,
    own: Own,
}

/// Whether a dictionary's text fits; the encoder alone looks at it.
#[derive(Debug, Clone, Copy)]
struct Fit {
    credit: u8,
    count: u32,
}

/// What is known of text. See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Text {
    /// Whether this segment's text is taken apart at all.
    apart: bool,
    around: Around,
    limit: u64,
    predictor: Predictor,
    words: Words,
    slots: Slots,
    ids: Ids,
    fits: Vec<Fit>,
    tokens: Vec<Token>,
}

/// Where a line is.
#[derive(Debug, Clone, Copy)]
struct Line {
    /// A hash of the tokens so far, see the module.
    skeleton: u64,
    /// The last two tokens.
    last: [u32; 2],
    /// The last token, if it says something about what follows.
    key: u64,
    /// A hash of the last value.
    variable: u64,
}

impl Text {
    /// Begins a segment, which comes to at most `limit` bytes.
    pub(super) fn begin(&mut self, apart: bool, limit: u64) {
        self.apart = apart;
        self.limit = limit;
        self.around = Around::default();
        self.ids.begin();
    }

    /// Bytes that it takes.
    pub(super) fn size(&self) -> usize {
        self.predictor.size() + self.words.size() + self.slots.size() + self.ids.size()
    }

    /// The record that comes next: its time, its type, and the ids that it has.
    pub(super) fn record(&mut self, time: u64, kind: u64, trace: Option<[u64; 2]>, span: Option<u64>) {
        if self.apart {
            self.around = Around { time, kind, own: Own::new(trace, span) };
        }
    }

    /// A span of the segment, which text may name.
    pub(super) fn span(&mut self, span: [u64; 3]) {
        if self.apart {
            self.ids.span(span);
        }
    }

    /// Codes `text` of dictionary `column` and appends it to `out`; `false` when it is not taken apart, and nothing is appended.
    pub(super) fn code<C: Coder>(
        &mut self,
        coder: &mut C,
        column: usize,
        text: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<bool, CodecError> {
        if !self.apart {
            return Ok(false);
        }
        self.predictor.open();
        self.slots.open();
        let mut tokens = std::mem::take(&mut self.tokens);
        let fits = C::ENCODES && self.fits(column, text, &mut tokens);
        let fits = self.predictor.bit(coder, mix(1, column as u64), fits);
        let coded = if fits { self.line(coder, column, text, &tokens, out) } else { Ok(()) };
        self.tokens = tokens;
        coded.map(|()| fits)
    }

    /// Whether it is worth while to take a text apart; then its tokens are.
    fn fits(&mut self, column: usize, text: &[u8], tokens: &mut Vec<Token>) -> bool {
        if self.fits.len() <= column {
            self.fits.resize(column + 1, Fit { credit: CREDIT, count: 0 });
        }
        let fit = &mut self.fits[column];
        fit.count = fit.count.wrapping_add(1);
        if text.len() > LONGEST || (fit.credit == 0 && !fit.count.is_multiple_of(TRY)) {
            return false;
        }
        tokens.clear();
        tokens.extend(Splitter::new(text, self.around.time));
        let mut unknown = 0;
        for token in tokens.iter_mut().filter(|t| t.kind == NEW) {
            match self.words.find(&text[token.start as usize..token.end as usize]) {
                Some(word) => token.kind = word,
                None => unknown += token.end - token.start,
            }
        }
        let unknown = unknown as usize * 2;
        fit.credit =
            if unknown > text.len() { fit.credit.saturating_sub(1) } else { (fit.credit + 4).min(CREDIT) };
        fit.credit > 0 || unknown <= text.len()
    }

    fn line<C: Coder>(
        &mut self,
        coder: &mut C,
        column: usize,
        text: &[u8],
        tokens: &[Token],
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        let from = mix(mix(2, column as u64), self.around.kind);
        let mut line = Line { skeleton: from, last: [column as u32, END], key: 0, variable: 0 };
        for n in 0..=LONGEST {
            let token = tokens.get(n);
            let id = self.token(coder, column, &mut line, text, token, out)?;
            if id == END {
                return Ok(());
            }
            if id < WORDS {
                self.value(coder, &mut line, id, text, token, out)?;
            }
            if out.len() as u64 > self.limit {
                return Err(CodecError::TooLarge("a text"));
            }
        }
        Err(CodecError::TooLarge("the number of tokens in a text"))
    }

    fn token<C: Coder>(
        &mut self,
        coder: &mut C,
        column: usize,
        line: &mut Line,
        text: &[u8],
        token: Option<&Token>,
        out: &mut Vec<u8>,
    ) -> Result<u32, CodecError> {
        let mut id = token.map_or(END, |t| t.kind);
        let given = token.map_or(&[][..], |t| &text[t.start as usize..t.end as usize]);
        if C::ENCODES && id == NEW {
            // It may have become known earlier in this line.
            id = self.words.find(given).unwrap_or(NEW);
        }
        let [last, before] = line.last.map(u64::from);
        let pair = self.predictor.pair([mix(line.skeleton, 3), mix(mix(last, before), 4)]);
        let variable = self.predictor.is_variable(pair);
        let mut likely = false;
        let id = match self.predictor.code(coder, 0, pair, id) {
            Hit::First(id) => {
                likely = true;
                id
            }
            Hit::Other(id) => id,
            Hit::Missed => {
                let id = self.unexpected(coder, column, line, variable, id, given, out)?;
                if id == NEW {
                    line.last = [NEW, line.last[0]];
                    line.skeleton = mix(line.skeleton, MARK);
                    return Ok(NEW);
                }
                self.predictor.learn(pair, id);
                id
            }
        };
        if id >= WORDS {
            out.extend_from_slice(self.words.get(id).ok_or(CodecError::Damaged("a word that is not known"))?);
        }
        let masked = variable && id >= WORDS;
        line.skeleton = mix(line.skeleton, if masked { MARK } else { u64::from(id) });
        if id >= WORDS {
            line.key = if masked && !likely { MARK } else { u64::from(id) };
            if masked {
                line.variable = mix(9, u64::from(id));
            }
        }
        line.last = [id, line.last[0]];
        Ok(id)
    }

    /// A token that did not follow here before: a known one, or a word that is new. A new word that is not kept is appended.
    #[expect(clippy::too_many_arguments, reason = "a token, and where it stands")]
    fn unexpected<C: Coder>(
        &mut self,
        coder: &mut C,
        column: usize,
        line: &Line,
        variable: bool,
        id: u32,
        given: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<u32, CodecError> {
        let context = if variable { mix(line.skeleton, 5) } else { mix(column as u64, 6) };
        let choice = if id == NEW { 0 } else { u64::from(id) + 1 };
        let choice = self.predictor.number(coder, context, 16, choice);
        if choice > 0 {
            let known = u64::from(WORDS) + self.words.len() as u64;
            return if choice <= known { Ok(choice as u32 - 1) } else { Err(CodecError::Damaged("a token")) };
        }
        let length = self.predictor.number(coder, mix(7, column as u64), 6, given.len() as u64);
        if length == 0 || length > LONGEST_WORD as u64 {
            return Err(CodecError::TooLarge("a word"));
        }
        let start = out.len();
        coder.text(column, given, length, out)?;
        match self.words.push::<C>(&out[start..]) {
            Some(id) => {
                out.truncate(start);
                Ok(id)
            }
            None => Ok(NEW),
        }
    }

    fn value<C: Coder>(
        &mut self,
        coder: &mut C,
        line: &mut Line,
        id: u32,
        text: &[u8],
        token: Option<&Token>,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        const WRONG: CodecError = CodecError::Damaged("a value in text");
        let kind = Kind::from_number(id).ok_or(WRONG)?;
        let place = values::Place {
            slot: mix(mix(line.skeleton, line.key), u64::from(id)),
            variable: line.variable,
            time: self.around.time,
        };
        let given = token.map_or(0, |t| t.value);
        let (predictor, slots) = (&mut self.predictor, &mut self.slots);
        let value = match kind {
            Kind::Number => {
                let digits = token.map_or(0, |t| t.end - t.start);
                slots.number(coder, predictor, place, given as u64, digits, out).ok_or(WRONG)?
            }
            Kind::Epoch { digits } => {
                slots.epoch(coder, predictor, place, given as u64, digits as u32 - 10, out)
            }
            Kind::EpochFraction { digits } => {
                slots.epoch_fraction(coder, predictor, place, given as u64, digits, out)
            }
            Kind::Time(form) => {
                let offset = token.map_or(0, |t| t.offset);
                slots.time(coder, predictor, place, form, given as u64, offset, out).ok_or(WRONG)?
            }
            Kind::Address => slots.address(coder, predictor, place, given as u32, out),
            Kind::Hex { upper, digits } => {
                let own = self.around.own;
                let id = self.ids.code(coder, predictor, place, own, given, digits as u8);
                let id = id.ok_or(WRONG)?;
                tokens::put_hex(out, id, digits, upper);
                id as u64 ^ (id >> 64) as u64
            }
            Kind::Uuid { upper } => {
                let own = self.around.own;
                let id = self.ids.code(coder, predictor, place, own, given, 32);
                let id = id.ok_or(WRONG)?;
                tokens::put_uuid(out, id, upper);
                id as u64 ^ (id >> 64) as u64
            }
        };
        debug_assert!(
            !C::ENCODES || token.is_none_or(|t| out.ends_with(&text[t.start as usize..t.end as usize]))
        );
        if !matches!(kind, Kind::Time(_) | Kind::Epoch { .. } | Kind::EpochFraction { .. }) {
            line.variable = mix(10, value);
        }
        Ok(())
    }
}
