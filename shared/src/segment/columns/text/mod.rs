//! Text taken apart: a line is tokens, each expected from those before it, and its values are expected by their place.
//!
//! ```text
//! text  = was it taken apart? one decision; then chain, value, chain, value to END, or else as in codec 2
//! chain = one that came at this place before, or else token by token to the next value; codec 3 has none and takes each token so
//! token = one that followed the same tokens before, or the number of a known word, or 0, a length and the word's bytes
//! value = behind its kind's token: near the record's own time, the last one in its place, one of a few, an id that is known
//! ```
//!
//! Nobody keeps a list of templates: what a template would say stands in the [`chains`] and in the cells of the [`predict`]or. A
//! line's *skeleton* is a hash of its last six words and of what stands behind and between them, in codecs 3 and 4 of all its tokens
//! so far; kinds stand for values in it, and one mark for every word at a place that has had many. So a place in a template is a
//! hash, what a template fixes costs a hundredth of a bit a gap between values, and a million templates take no more memory than ten.
//! What follows a path of any shape is one place, not one for each shape. A line may also end as an earlier one that had the same
//! values ([`tails`]). From codec 6 on a chain, a word or a value is first guessed from what came lately ([`history`]), and a body that
//! is known from the two bodies before it; in codec 7 a place also takes over a chain of another place that a guess names,
//! and in codec 8 numbers of any size are guessed.

mod chains;
mod digits;
mod history;
mod ids;
mod lines;
mod meters;
mod predict;
mod recent;
mod steps;
mod tails;
mod time;
mod tokens;
mod values;
mod words;

use self::chains::{Chains, NEAR, State};
use self::history::{Guesses, History, Step};
use self::ids::{Ids, Own};
use self::lines::Ahead;
use self::predict::{Hit, Pair, Predictor, mix};
use self::tails::{Fork, Tails};
use self::tokens::{END, Kind, LONGEST_WORD, NEW, Splitter, Token, WORDS};
use self::values::Slots;
use self::words::Words;
use super::entropy::{Coder, Part};
use super::{LAYOUT, LAYOUT_TEXT};
use crate::segment::CodecError;

/// Longer texts are not taken apart by any encoder.
const LONGEST: usize = 1 << 16;

/// Nor by this one: what is as long is no line of a log, and zstd finds what recurs in it.
const LONGEST_TRIED: usize = 1 << 14;

/// A text that does not fit counts once for so many bytes.
const COUNTED: usize = 1 << 9;

/// Stands in a skeleton for a word where many have been.
const MARK: u64 = 1 << 33;

/// How much a dictionary whose text fits may spend on text that does not.
const CREDIT: u8 = 64;

/// Whether a text has so many tokens that it does not fit: taking it apart takes long, and gains little.
const fn is_dense(tokens: usize, bytes: usize) -> bool {
    tokens * 15 >= bytes * 7
}

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
    /// This segment's, which says whether its text is taken apart, and whether by chains.
    layout: u8,
    around: Around,
    limit: u64,
    ids: Ids,
    /// Made when text is first taken apart.
    known: Option<Box<Known>>,
}

/// What was learnt of text.
#[derive(Debug, Clone, Default)]
struct Known {
    predictor: Predictor,
    chains: Chains,
    tails: Tails,
    history: History,
    /// Of the line that is coded.
    forks: Vec<Fork>,
    words: Words,
    slots: Slots,
    fits: Vec<Fit>,
    tokens: Vec<Token>,
    /// The last two entries of the dictionary of bodies.
    entries: [u32; 2],
}

impl Text {
    /// Begins a segment, which comes to at most `limit` bytes.
    pub(super) fn begin(&mut self, layout: u8, limit: u64) {
        self.layout = layout;
        self.limit = limit;
        self.around = Around::default();
        self.ids.begin();
        if let Some(known) = &mut self.known {
            known.begin(layout);
        }
    }

    const fn is_apart(&self) -> bool {
        self.layout > LAYOUT
    }

    /// Bytes that it takes.
    pub(super) fn size(&self) -> usize {
        let known = |k: &Known| {
            k.predictor.size()
                + Tails::SIZE
                + k.history.size()
                + k.chains.size()
                + k.words.size()
                + Slots::SIZE
        };
        self.known.as_deref().map_or(0, known) + self.ids.size()
    }

    /// The record that comes next: its time, its type, and the ids that it has.
    pub(super) fn record(&mut self, time: u64, kind: u64, trace: Option<[u64; 2]>, span: Option<u64>) {
        if self.is_apart() {
            self.around = Around { time, kind, own: Own::new(trace, span) };
        }
    }

    /// Which entry of dictionary `column` comes, if it is likely after the last two; else it is to be told to
    /// [`Text::learn_entry`], with the cells where it was looked for.
    pub(super) fn entry<C: Coder>(
        &mut self,
        coder: &mut C,
        column: usize,
        entry: u64,
    ) -> Result<u64, Option<Pair>> {
        let known = self.known.as_mut().filter(|k| k.history.is_on).ok_or(None)?;
        let [last, before] = known.entries.map(u64::from);
        let place = mix(last, column as u64);
        let pair = known.predictor.pair([mix(mix(place, before), 60), mix(place, 61)]);
        let given = u32::try_from(entry).unwrap_or(u32::MAX);
        match known.predictor.code(coder, 3, pair, given, &Guesses::NONE) {
            Hit::First(entry) | Hit::Other(entry) => {
                known.entries = [entry, known.entries[0]];
                Ok(u64::from(entry))
            }
            Hit::Missed => Err(Some(pair)),
        }
    }

    /// Takes an entry that was not likely.
    pub(super) fn learn_entry(&mut self, pair: Option<Pair>, entry: u64) {
        let (Some(known), Some(pair)) = (&mut self.known, pair) else { return };
        let entry = u32::try_from(entry).unwrap_or(u32::MAX);
        known.predictor.learn(pair, entry);
        known.entries = [entry, known.entries[0]];
    }

    /// A span of the segment, which text may name.
    pub(super) fn span(&mut self, span: [u64; 3]) {
        if self.is_apart() {
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
        if !self.is_apart() {
            return Ok(false);
        }
        let Self { layout, around, limit, ids, known } = self;
        let known = known.get_or_insert_with(|| Known::new(*layout));
        let (by_chains, is_near) = (known.predictor.by_chains, known.predictor.is_near);
        let mut tokens = std::mem::take(&mut known.tokens);
        let skeleton = mix(mix(if is_near { 11 } else { 2 }, column as u64), around.kind);
        let ahead = Ahead::new(text, around.time);
        let fits = C::ENCODES
            && ((by_chains && known.goes_on(column, skeleton, ahead))
                || known.fits(column, text, around.time, &mut tokens));
        let fits = known.predictor.bit(coder, mix(1, column as u64), fits);
        let mut coded = Ok(());
        if fits {
            known.slots.begin();
            let state = State { skeleton, words: [column as u32; NEAR], last: [column as u32, END], key: 0 };
            let mut line = Line {
                column,
                around,
                known,
                ids,
                text,
                out,
                state,
                variable: 0,
                values: 0,
                first: None,
                count: 0,
                steps: 0,
                own: None,
                missed: false,
            };
            coded = if by_chains {
                line.by_chains(coder, ahead, *limit)
            } else {
                line.code(coder, &tokens, *limit)
            };
            let is_dense = C::ENCODES && is_dense(line.steps, text.len());
            if is_dense && let Some(fit) = known.fits.get_mut(column) {
                fit.credit = fit.credit.min(CREDIT - 1);
            }
        }
        if let Some(known) = &mut self.known {
            known.tokens = tokens;
        }
        coded.map(|()| fits)
    }
}

impl Known {
    fn new(layout: u8) -> Box<Self> {
        let mut known = Box::<Self>::default();
        known.begin(layout);
        known
    }

    /// A segment of this layout begins.
    fn begin(&mut self, layout: u8) {
        self.predictor.begin(layout);
        self.history.begin(layout);
        self.slots.keep_large(layout >= LAYOUT_TEXT);
        self.chains.adopts = self.history.has_steps();
    }

    /// Whether a text begins as others of a dictionary whose text fits; now and then that is not believed.
    fn goes_on(&mut self, column: usize, skeleton: u64, mut ahead: Ahead<'_>) -> bool {
        let Some(fit) = self.fits.get_mut(column).filter(|f| f.credit == CREDIT && ahead.is_short()) else {
            return false;
        };
        fit.count = fit.count.wrapping_add(1);
        !fit.count.is_multiple_of(TRY) && self.chains.any(skeleton, |chain, fixed| ahead.follow(chain, fixed))
    }

    /// Whether it is worth while to take a text apart; then its tokens are.
    fn fits(&mut self, column: usize, text: &[u8], time: u64, tokens: &mut Vec<Token>) -> bool {
        if self.fits.len() <= column {
            self.fits.resize(column + 1, Fit { credit: CREDIT, count: 0 });
        }
        let fit = &mut self.fits[column];
        fit.count = fit.count.wrapping_add(1);
        if text.len() > LONGEST_TRIED || (fit.credit == 0 && !fit.count.is_multiple_of(TRY)) {
            return false;
        }
        tokens.clear();
        tokens.extend(Splitter::new(text, time));
        let mut unknown = 0;
        for token in tokens.iter_mut().filter(|t| t.kind == NEW) {
            match self.words.find(&text[token.start as usize..token.end as usize]) {
                Some(word) => token.kind = word,
                None => unknown += token.end - token.start,
            }
        }
        let unfit = unknown as usize * 2 > text.len() || is_dense(tokens.len(), text.len());
        let spent = u8::try_from(1 + text.len() / COUNTED).unwrap_or(CREDIT);
        fit.credit = if unfit { fit.credit.saturating_sub(spent) } else { (fit.credit + 4).min(CREDIT) };
        fit.credit > 0 || !unfit
    }
}

/// A text, and where in it its coding is.
struct Line<'a> {
    column: usize,
    around: &'a Around,
    known: &'a mut Known,
    ids: &'a mut Ids,
    /// What is encoded.
    text: &'a [u8],
    out: &'a mut Vec<u8>,
    state: State,
    /// A hash of the last value.
    variable: u64,
    /// A hash of all values so far but times.
    values: u64,
    /// The first of them.
    first: Option<u64>,
    /// How many values that is, times included.
    count: u64,
    /// Values and single tokens so far.
    steps: usize,
    /// Where the line is, if the chain is one of another place.
    own: Option<u64>,
    /// Whether the last token was one that did not follow here before.
    missed: bool,
}

impl Line<'_> {
    fn code<C: Coder>(&mut self, coder: &mut C, tokens: &[Token], limit: u64) -> Result<(), CodecError> {
        if coder.accounts() {
            coder.part(self.column, Part::Before);
        }
        for n in 0..=LONGEST {
            let token = tokens.get(n);
            let start = self.out.len();
            let id = self.token(coder, token)?;
            if id == END {
                if coder.accounts() {
                    coder.part(self.column, Part::End);
                }
                return Ok(());
            }
            if id < WORDS {
                self.value(coder, id, token)?;
            }
            if coder.accounts() {
                self.account(coder, id, start);
            }
            if self.out.len() as u64 > limit {
                return Err(CodecError::TooLarge("a text"));
            }
        }
        Err(CodecError::TooLarge("the number of tokens in a text"))
    }

    /// Counts a token, of which `start` is the first byte.
    #[cold]
    fn account<C: Coder>(&self, coder: &mut C, id: u32, start: usize) {
        let part = match Kind::from_number(id) {
            Some(kind) => Part::Value(kind.name()),
            None if id == NEW || self.state.key == MARK => Part::Value("word"),
            None => Part::Fixed(&self.out[start..]),
        };
        coder.part(self.column, part);
    }

    #[inline(never)]
    fn token<C: Coder>(&mut self, coder: &mut C, token: Option<&Token>) -> Result<u32, CodecError> {
        let mut id = token.map_or(END, |t| t.kind);
        let given = token.map_or(&[][..], |t| &self.text[t.start as usize..t.end as usize]);
        if C::ENCODES && id == NEW {
            // It may have become known earlier in this line.
            id = self.known.words.find(given).unwrap_or(NEW);
        }
        let predictor = &mut self.known.predictor;
        let pair = predictor.pair(self.state.contexts());
        let variable = predictor.is_variable(pair);
        let mut likely = false;
        let (place, certain) = (self.state.skeleton, predictor.is_certain(pair));
        let guesses = self.known.history.guess(Step::Token, place, self.first, certain);
        let id = match predictor.code(coder, 0, pair, id, guesses) {
            Hit::First(id) => {
                likely = true;
                id
            }
            Hit::Other(id) => id,
            Hit::Missed => {
                self.missed = true;
                let id = self.unexpected(coder, variable, id, given)?;
                if id == NEW {
                    self.known.history.take(Step::Token, id, true);
                    self.state.last = [NEW, self.state.last[0]];
                    self.pass(NEW, MARK);
                    return Ok(NEW);
                }
                self.known.predictor.learn(pair, id);
                id
            }
        };
        self.known.history.take(Step::Token, id, self.known.predictor.is_surprised);
        let mut mark = u64::from(id);
        if id >= WORDS {
            const UNKNOWN: CodecError = CodecError::Damaged("a word that is not known");
            self.known.words.append(id, self.out).ok_or(UNKNOWN)?;
            self.state.key = if variable && !likely { MARK } else { mark };
            if variable {
                self.passed(mix(9, mark));
                mark = MARK;
            }
        }
        self.pass(id, mark);
        self.state.last = [id, self.state.last[0]];
        Ok(id)
    }

    /// Takes a token into the skeleton, as its `mark`.
    #[inline(always)]
    fn pass(&mut self, id: u32, mark: u64) {
        if self.known.predictor.is_near && (id == NEW || self.known.words.has_letters(id)) {
            self.state.pass_word(mark);
        } else {
            self.state.skeleton = mix(self.state.skeleton, mark);
        }
    }

    /// A token that did not follow here before: a known one, or a word that is new. A new word that is not kept is appended.
    #[inline(never)]
    fn unexpected<C: Coder>(
        &mut self,
        coder: &mut C,
        variable: bool,
        id: u32,
        given: &[u8],
    ) -> Result<u32, CodecError> {
        let (predictor, words, column) = (&mut self.known.predictor, &mut self.known.words, self.column);
        let context = if variable { mix(self.state.skeleton, 5) } else { mix(column as u64, 6) };
        let choice = if id == NEW { 0 } else { u64::from(id) + 1 };
        let choice = predictor.number(coder, context, 16, choice);
        if choice > 0 {
            let known = u64::from(WORDS) + words.len() as u64;
            return if choice <= known { Ok(choice as u32 - 1) } else { Err(CodecError::Damaged("a token")) };
        }
        let length = predictor.number(coder, mix(7, column as u64), 6, given.len() as u64);
        if length == 0 || length > LONGEST_WORD as u64 {
            return Err(CodecError::TooLarge("a word"));
        }
        let start = self.out.len();
        coder.text(column, given, length, self.out)?;
        match words.push::<C>(&self.out[start..]) {
            Some(id) => {
                self.out.truncate(start);
                Ok(id)
            }
            None => Ok(NEW),
        }
    }

    #[inline(never)]
    fn value<C: Coder>(&mut self, coder: &mut C, id: u32, token: Option<&Token>) -> Result<(), CodecError> {
        const WRONG: CodecError = CodecError::Damaged("a value in text");
        let kind = Kind::from_number(id).ok_or(WRONG)?;
        let slot = mix(mix(self.state.skeleton, self.state.key), u64::from(id));
        let place = values::Place {
            slot,
            own: self.own.map_or(slot, |own| mix(own, u64::from(id))),
            variable: self.variable,
            values: self.values,
            time: self.around.time,
            step: mix(self.state.skeleton, u64::from(id)),
            first: self.first,
            history: &mut self.known.history,
        };
        let (own, given) = (self.around.own, token.map_or(0, |t| t.value));
        let (predictor, slots, out) = (&mut self.known.predictor, &mut self.known.slots, &mut *self.out);
        let mut step = 0;
        let value = match kind {
            Kind::Number => {
                let digits = token.map_or(0, |t| t.end - t.start);
                let (value, name) =
                    slots.number(coder, predictor, place, given as u64, digits, out).ok_or(WRONG)?;
                step = name;
                value
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
            Kind::Address => {
                let value = slots.address(coder, predictor, place, given as u32, out);
                step = value as u32;
                value
            }
            Kind::Hex { upper, digits } => {
                let id =
                    self.ids.code(coder, predictor, slots, place, own, given, digits as u8).ok_or(WRONG)?;
                digits::put_hex(out, id, digits, upper);
                id as u64 ^ (id >> 64) as u64
            }
            Kind::Uuid { upper } => {
                let id = self.ids.code(coder, predictor, slots, place, own, given, 32).ok_or(WRONG)?;
                digits::put_uuid(out, id, upper);
                id as u64 ^ (id >> 64) as u64
            }
        };
        debug_assert!(
            !C::ENCODES || token.is_none_or(|t| out.ends_with(&self.text[t.start as usize..t.end as usize]))
        );
        self.count += 1;
        match kind {
            Kind::Time(_) | Kind::Epoch { .. } | Kind::EpochFraction { .. } => {
                if let Some(steps) = self.known.history.steps() {
                    steps.pass();
                }
                return Ok(());
            }
            Kind::Number | Kind::Address => {
                let surprising = self.known.predictor.is_surprised;
                self.known.history.take(Step::Value, step, surprising);
            }
            Kind::Hex { .. } | Kind::Uuid { .. } => {}
        }
        self.passed(mix(10, value));
        Ok(())
    }

    /// Takes in a value by its hash.
    fn passed(&mut self, value: u64) {
        self.variable = value;
        self.values = mix(self.values, value);
        self.first = self.first.or(Some(value));
    }
}
