//! What came before in lines of text, and what of it is expected next: in codec 6 [`Recent`] tells, from codec 7 on [`Steps`].

use super::super::{LAYOUT_RECENT, LAYOUT_STEPS};
use super::predict::mix;
use super::recent::{self, Recent};
use super::steps::{self, Steps};

/// What a step was. The numbers are part of hashes, so they are persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    Token,
    /// In codec 6; later a chain belongs to the step behind it.
    Chain,
    Value,
    /// One that is never guessed.
    Other,
    /// Where hexadecimal digits are kept.
    Id,
}

/// What no step is, so it is no guess.
pub(super) const NONE: u32 = u32::MAX;

const MOST_GUESSES: usize = steps::GUESSES;

/// How much a guess may be trusted.
pub(super) const LEVELS: usize = if steps::LEVELS > recent::LEVELS { steps::LEVELS } else { recent::LEVELS };

#[derive(Debug, Clone, Copy)]
pub(super) struct Guess {
    pub(super) value: u32,
    pub(super) level: u16,
}

impl Guess {
    /// What the guess at `n` says, the first of which was right so often since it was last wrong: trusted by where it comes from, and
    /// whether the last four at its place were right.
    #[inline(always)]
    pub(super) const fn new(value: u32, n: usize, run: u8, trust: u8) -> Self {
        let from = match (n, run) {
            (0, 0) => 0,
            (0, 1..4) => 1,
            (0, 4..16) => 2,
            (0, _) => 3,
            (n, _) => 3 + n as u16,
        };
        Self { value, level: (from << 4 | (trust & 15) as u16) << 2 }
    }
}

/// What is behind these steps is found by.
pub(super) fn key(last: &[u64]) -> u64 {
    last.iter().fold(last.len() as u64, |all, step| mix(all, *step))
}

/// What is expected of a step, the most reliable first; no two are the same.
#[derive(Debug, Clone)]
pub(super) struct Guesses {
    all: [Guess; MOST_GUESSES],
    count: usize,
}

impl Guesses {
    pub(super) const NONE: Self = Self { all: [Guess { value: NONE, level: 0 }; MOST_GUESSES], count: 0 };

    #[inline(always)]
    pub(super) fn all(&self) -> &[Guess] {
        &self.all[..self.count.min(MOST_GUESSES)]
    }

    pub(super) const fn clear(&mut self) {
        self.count = 0;
    }

    /// Adds one, unless the same was guessed already: that one is handed out.
    #[inline(always)]
    pub(super) fn add(&mut self, guess: Guess) -> Option<&mut Guess> {
        let count = self.count.min(MOST_GUESSES - 1);
        if let Some(n) = self.all[..count].iter().position(|g| g.value == guess.value) {
            return Some(&mut self.all[n]);
        }
        self.all[count] = guess;
        self.count = count + 1;
        None
    }

    /// Whether `value` is one of them.
    #[inline(always)]
    pub(super) fn contain(&self, value: u32) -> bool {
        self.all().iter().any(|g| g.value == value)
    }
}

#[derive(Debug, Clone, Default)]
enum Kept {
    #[default]
    Nothing,
    Recent(Box<Recent>),
    Steps(Box<Steps>),
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    /// Whether the segment is of codec 6 or later; else there are no guesses.
    pub(super) is_on: bool,
    kept: Kept,
}

impl History {
    /// A segment of this layout begins.
    pub(super) fn begin(&mut self, layout: u8) {
        self.is_on = layout >= LAYOUT_RECENT;
        match (layout, &self.kept) {
            (LAYOUT_RECENT, Kept::Nothing | Kept::Steps(_)) => self.kept = Kept::Recent(Box::default()),
            (LAYOUT_STEPS.., Kept::Nothing | Kept::Recent(_)) => self.kept = Kept::Steps(Box::default()),
            _ => {}
        }
    }

    /// Bytes that it takes.
    pub(super) const fn size(&self) -> usize {
        match self.kept {
            Kept::Nothing => 0,
            Kept::Recent(_) => Recent::SIZE,
            Kept::Steps(_) => Steps::SIZE,
        }
    }

    #[inline(always)]
    fn recent(&mut self) -> Option<&mut Recent> {
        match &mut self.kept {
            Kept::Recent(recent) if self.is_on => Some(recent),
            _ => None,
        }
    }

    /// What codec 7 has.
    #[inline(always)]
    pub(super) fn steps(&mut self) -> Option<&mut Steps> {
        match &mut self.kept {
            Kept::Steps(steps) if self.is_on => Some(steps),
            _ => None,
        }
    }

    /// Whether it is that of codec 7.
    pub(super) const fn has_steps(&self) -> bool {
        self.is_on && matches!(self.kept, Kept::Steps(_))
    }

    /// What is expected of a chain at a place.
    #[inline(always)]
    pub(super) fn guess_chain(&mut self, place: u64) -> &Guesses {
        match &mut self.kept {
            Kept::Recent(recent) => recent.guess(Step::Chain, place, None),
            Kept::Steps(steps) => steps.guess_chain(place),
            Kept::Nothing => &Guesses::NONE,
        }
    }

    /// Takes a chain, which was one of several if the place `is_open`.
    #[inline(always)]
    pub(super) fn take_chain(&mut self, chain: u16, is_open: bool) {
        if let Some(steps) = self.steps() {
            steps.take_chain(chain, is_open);
        } else if let Some(recent) = self.recent().filter(|_| is_open) {
            recent.push(Step::Chain, u32::from(chain));
        }
    }

    /// What is expected of a step at a place in a line, of which `first` is a hash of the first value. Where the cells are `certain`
    /// codec 7 asks for no guess.
    #[inline(always)]
    pub(super) fn guess(&mut self, step: Step, place: u64, first: Option<u64>, certain: bool) -> &Guesses {
        match &mut self.kept {
            _ if !self.is_on => &Guesses::NONE,
            Kept::Steps(steps) => steps.guess(step, place, first, certain),
            Kept::Recent(recent) => recent.guess(step, place, first),
            Kept::Nothing => &Guesses::NONE,
        }
    }

    /// Takes a step; `surprising` if nothing told it.
    #[inline(always)]
    pub(super) fn take(&mut self, step: Step, value: u32, surprising: bool) {
        if let Some(steps) = self.steps() {
            steps.take(step, value, surprising);
        } else if let Some(recent) = self.recent() {
            recent.push(step, value);
        }
    }
}
