//! Lines of codec 4: chain, value, chain, value, to the end. What no chain has comes token by token, and is a chain from then on.

use super::super::entropy::{Coder, Part};
use super::chains::{self, ANY, Chain, MORE};
use super::history::{Guesses, Step};
use super::predict::mix;
use super::tails::Fork;
use super::tokens::{END, LONGEST_WORD, NEW, Splitter, Token, WORDS, is_letter};
use super::{Known, LONGEST, LONGEST_TRIED, Line};
use crate::segment::CodecError;

/// How far the encoder is in a text, which it splits as it goes; the decoder has none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ahead<'a> {
    text: &'a [u8],
    time: u64,
    at: usize,
    /// The token there, once it has been looked at.
    token: Option<Token>,
}

impl<'a> Ahead<'a> {
    pub(super) const fn new(text: &'a [u8], time: u64) -> Self {
        Self { text, time, at: 0, token: None }
    }

    pub(super) const fn is_short(&self) -> bool {
        self.text.len() <= LONGEST_TRIED
    }

    fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    /// The token that comes next.
    fn peek(&mut self) -> Option<&Token> {
        if self.token.is_none() {
            self.token = Splitter::from(self.text, self.at, self.time).next();
        }
        self.token.as_ref()
    }

    /// Goes beyond it.
    fn pass(&mut self) {
        if let Some(token) = self.peek() {
            (self.at, self.token) = (token.end as usize, None);
        }
    }

    /// Goes beyond what a chain has, if that is what comes.
    pub(super) fn follow(&mut self, chain: &Chain, fixed: &[u8]) -> bool {
        let ahead = self.rest();
        // Most chains of a place differ in their first byte.
        if !fixed.is_empty() && ahead.first() != fixed.first() {
            return false;
        }
        let Some(rest) = ahead.strip_prefix(fixed) else { return false };
        let in_word =
            |a: &[u8], b: &[u8]| a.last().zip(b.first()).is_some_and(|(a, b)| is_letter(*a) && is_letter(*b));
        if in_word(fixed, rest) {
            return false;
        }
        if fixed.is_empty() {
            return chain.next >= MORE || chain.next == self.peek().map_or(END, |t| t.kind);
        }
        let (at, mut token) = (self.at + fixed.len(), None);
        if chain.next < MORE {
            token = Splitter::from(self.text, at, self.time).next();
            if chain.next != token.as_ref().map_or(END, |t| t.kind) {
                return false;
            }
        }
        (self.at, self.token) = (at, token);
        true
    }
}

impl Line<'_> {
    pub(super) fn by_chains<C: Coder>(
        &mut self,
        coder: &mut C,
        mut ahead: Ahead<'_>,
        limit: u64,
    ) -> Result<(), CodecError> {
        if coder.accounts() {
            coder.part(self.column, Part::Before);
        }
        let begin = self.out.len();
        self.known.forks.clear();
        if let Some(steps) = self.known.history.steps() {
            steps.begin_line();
        }
        for _ in 0..=LONGEST {
            self.steps += 1;
            self.begin_step();
            let mut next = self.chain(coder, &mut ahead, begin)?;
            let start = self.out.len();
            if next == ANY {
                next = self.token(coder, ahead.peek())?;
                self.begin_step();
            }
            if next == END {
                self.end_step();
                if coder.accounts() {
                    coder.part(self.column, Part::End);
                }
                self.keep(begin);
                return Ok(());
            }
            if next == MORE {
                self.end_step();
            } else {
                if next < WORDS {
                    self.value(coder, next, ahead.peek())?;
                }
                if coder.accounts() {
                    self.account(coder, next, start);
                }
                ahead.pass();
            }
            if self.out.len() as u64 > limit {
                return Err(CodecError::TooLarge("a text"));
            }
        }
        Err(CodecError::TooLarge("the number of tokens in a text"))
    }

    fn begin_step(&mut self) {
        if let Some(steps) = self.known.history.steps() {
            steps.begin();
        }
    }

    /// No word or value follows a chain.
    fn end_step(&mut self) {
        if let Some(steps) = self.known.history.steps() {
            steps.take(Step::Other, END, false);
        }
    }

    /// A chain; what follows it. The line begins at `begin`.
    #[inline(always)]
    fn chain<C: Coder>(
        &mut self,
        coder: &mut C,
        ahead: &mut Ahead<'_>,
        begin: usize,
    ) -> Result<u32, CodecError> {
        self.own = None;
        let start = self.out.len();
        let value = mix(self.variable, 7);
        let follow = |chain: &Chain, fixed: &[u8]| ahead.follow(chain, fixed);
        let Known { chains, history, .. } = &mut *self.known;
        let is_open = history.is_on && chains.is_open(self.state.skeleton);
        let guesses = if is_open { history.guess_chain(mix(self.state.skeleton, 8)) } else { &Guesses::NONE };
        let known = chains.code(coder, self.state.skeleton, value, guesses, follow, self.out);
        let known = known.and_then(|number| Some((number, chains.get(number)?)));
        let Some((number, chain)) = known else { return self.new_chain(coder, ahead) };
        history.take_chain(number, is_open);
        if chains.adopts && chain.is_adopted(self.state.skeleton) {
            self.own = Some(self.state.skeleton);
        }
        let next = chain.next;
        self.state = chain.state;
        if coder.accounts() && self.out.len() > start {
            coder.part(self.column, Part::Fixed(&self.out[start..]));
        }
        if next != END && self.repeats(coder, number, begin, ahead) {
            return Ok(END);
        }
        Ok(next)
    }

    /// Token by token to a value: one chain, or several that end where something else came before. What follows the last one.
    #[inline(never)]
    fn new_chain<C: Coder>(&mut self, coder: &mut C, ahead: &mut Ahead<'_>) -> Result<u32, CodecError> {
        let value = mix(self.variable, 7);
        let (mut joint, mut start) = (self.state.skeleton, self.out.len());
        let mut first = self.known.history.steps().map_or(0, |steps| steps.next());
        let next = loop {
            let (from, before) = (self.out.len(), self.state);
            let pair = self.known.predictor.pair(before.contexts());
            if self.known.predictor.is_variable(pair) {
                break ANY;
            }
            if from - start >= chains::LONGEST - LONGEST_WORD {
                break MORE;
            }
            self.steps += 1;
            let differs = self.known.predictor.is_known(pair);
            self.missed = false;
            let id = self.token(coder, ahead.peek())?;
            self.begin_step();
            if differs && self.missed && from > start && self.known.chains.is_crowded(joint) {
                let number = self.known.chains.learn(joint, value, &self.out[start..from], MORE, before);
                first = self.spelled(first, number);
                (joint, start) = (before.skeleton, from);
            }
            if id < WORDS {
                break id;
            }
            if coder.accounts() {
                self.account(coder, id, from);
            }
            ahead.pass();
            if id == NEW {
                return Ok(MORE);
            }
        };
        let number = self.known.chains.learn(joint, value, &self.out[start..], next, self.state);
        if next != ANY {
            self.spelled(first, number);
        }
        Ok(next)
    }

    /// The words from `first` on are this chain from now on. The next step.
    fn spelled(&mut self, first: u32, chain: u16) -> u32 {
        self.known.history.steps().map_or(0, |steps| {
            steps.spelled(first, chain);
            steps.next()
        })
    }

    /// Whether the line goes on behind a chain as the last one did that began with the same values.
    #[inline(always)]
    fn repeats<C: Coder>(&mut self, coder: &mut C, chain: u16, begin: usize, ahead: &Ahead<'_>) -> bool {
        let Known { chains, tails, forks, .. } = &mut *self.known;
        let Some(repeats) = chains.repeats(chain) else { return false };
        if !repeats.looks() {
            return false;
        }
        let key = mix(mix(self.values, self.count), self.column as u64);
        let tail = tails.find(key);
        forks.push(Fork { key, offset: self.out.len() - begin, chain, tail });
        let Some(tail) = tail.filter(|_| repeats.is_likely()) else { return false };
        let tail = tails.text(tail);
        if !coder.bit(&mut repeats.model, ahead.rest() == tail) {
            return false;
        }
        self.out.extend_from_slice(tail);
        if coder.accounts() {
            coder.part(self.column, Part::Value("as before"));
        }
        true
    }

    /// Keeps how the line went on.
    fn keep(&mut self, begin: usize) {
        let Known { chains, tails, forks, .. } = &mut *self.known;
        let line = &self.out[begin..];
        for fork in &*forks {
            if let Some((tail, repeats)) = fork.tail.zip(chains.repeats(fork.chain)) {
                repeats.learn(&line[fork.offset..] == tails.text(tail));
            }
        }
        tails.keep(line, forks);
    }
}
