//! Lines of codec 4: chain, value, chain, value, to the end. What no chain has comes token by token, and is a chain from then on.

use super::super::entropy::{Coder, Part};
use super::chains::{self, ANY, MORE};
use super::predict::mix;
use super::tails::Fork;
use super::tokens::{END, LONGEST_WORD, NEW, Token, WORDS};
use super::{Known, LONGEST, Line};
use crate::segment::CodecError;

impl Line<'_> {
    pub(super) fn by_chains<C: Coder>(
        &mut self,
        coder: &mut C,
        tokens: &[Token],
        limit: u64,
    ) -> Result<(), CodecError> {
        if coder.accounts() {
            coder.part(self.column, Part::Before);
        }
        let (begin, mut at) = (self.out.len(), 0);
        self.known.forks.clear();
        for _ in 0..=LONGEST {
            let mut next = self.chain(coder, tokens, begin, &mut at)?;
            let start = self.out.len();
            if next == ANY {
                next = self.token(coder, tokens.get(at))?;
            }
            if next == END {
                if coder.accounts() {
                    coder.part(self.column, Part::End);
                }
                self.keep(begin);
                return Ok(());
            }
            if next != MORE {
                if next < WORDS {
                    self.value(coder, next, tokens.get(at))?;
                }
                if coder.accounts() {
                    self.account(coder, next, start);
                }
                at += 1;
            }
            if self.out.len() as u64 > limit {
                return Err(CodecError::TooLarge("a text"));
            }
        }
        Err(CodecError::TooLarge("the number of tokens in a text"))
    }

    /// A chain; what follows it, which is token `at`. The line begins at `begin`.
    #[inline(always)]
    fn chain<C: Coder>(
        &mut self,
        coder: &mut C,
        tokens: &[Token],
        begin: usize,
        at: &mut usize,
    ) -> Result<u32, CodecError> {
        let (first, text) = (*at, self.text);
        let place = |n: usize| tokens.get(n).map_or(text.len(), |t| t.start as usize);
        let fits = |chain: &chains::Chain, fixed: &[u8]| {
            let end = first + usize::from(chain.tokens);
            let kind = tokens.get(end).map_or(END, |t| t.kind);
            text[place(first)..].starts_with(fixed)
                && place(end) == place(first) + fixed.len()
                && (chain.next >= MORE || chain.next == kind)
        };
        let start = self.out.len();
        let value = mix(self.variable, 7);
        let known = self.known.chains.code(coder, self.state.skeleton, value, fits, self.out);
        let Some((number, chain)) = known else { return self.new_chain(coder, tokens, at) };
        *at += usize::from(chain.tokens);
        self.state = chain.state;
        if coder.accounts() && self.out.len() > start {
            coder.part(self.column, Part::Fixed(&self.out[start..]));
        }
        if chain.next != END && self.repeats(coder, number, begin, tokens.get(*at)) {
            return Ok(END);
        }
        Ok(chain.next)
    }

    /// Token by token to a value: one chain, or several that end where something else came before. What follows the last one.
    #[inline(never)]
    fn new_chain<C: Coder>(
        &mut self,
        coder: &mut C,
        tokens: &[Token],
        at: &mut usize,
    ) -> Result<u32, CodecError> {
        let value = mix(self.variable, 7);
        let (mut joint, mut start, mut count) = (self.state.skeleton, self.out.len(), 0);
        let next = loop {
            let (from, before) = (self.out.len(), self.state);
            let pair = self.known.predictor.pair(before.contexts());
            if self.known.predictor.is_variable(pair) {
                break ANY;
            }
            if from - start >= chains::LONGEST - LONGEST_WORD {
                break MORE;
            }
            let differs = self.known.predictor.is_known(pair);
            self.missed = false;
            let id = self.token(coder, tokens.get(*at))?;
            if differs && self.missed && count > 0 && self.known.chains.is_crowded(joint) {
                self.known.chains.learn(joint, value, (&self.out[start..from], count), MORE, before);
                (joint, start, count) = (before.skeleton, from, 0);
            }
            if id < WORDS {
                break id;
            }
            if coder.accounts() {
                self.account(coder, id, from);
            }
            *at += 1;
            count += 1;
            if id == NEW {
                return Ok(MORE);
            }
        };
        self.known.chains.learn(joint, value, (&self.out[start..], count), next, self.state);
        Ok(next)
    }

    /// Whether the line goes on behind a chain as the last one did that began with the same values.
    #[inline(always)]
    fn repeats<C: Coder>(&mut self, coder: &mut C, chain: u16, begin: usize, next: Option<&Token>) -> bool {
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
        let rest = next.map_or(&[][..], |t| &self.text[t.start as usize..]);
        if !coder.bit(&mut repeats.model, rest == tail) {
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
