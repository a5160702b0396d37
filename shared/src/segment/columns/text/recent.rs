//! Codec 6: what came lately, step by step, and what came behind the same steps before: three guesses of what comes next.
//!
//! A step is a chain, a word or a value; of a place that has one chain, the chain is none. The first guess follows an earlier line
//! from where the last four steps were the same, and stays with it while values differ. The second is what came behind the last two,
//! the third what came at this place in the last line that began with the same value: one client's, or one thread's.

use super::history::{Guess, Guesses, NONE, Step, key};
use super::predict::{mix, table};

/// Steps that are kept.
const KEPT: usize = 1 << 16;

/// Places that are found again, a power of two.
const PLACES: usize = 1 << 16;

/// Places whose guesses are trusted apart, a power of two.
const TRUSTED: usize = 1 << 12;

/// Steps by which an earlier line is found, and by which what came behind them is.
const LONG: usize = 4;
const SHORT: usize = 2;

/// How many more steps of an earlier line may be wrong than right before it is followed no more.
const MISSES: u8 = 16;

const GUESSES: usize = 3;

/// How much a guess is trusted: by where it comes from, whether the last four at this place were right, and which others agree.
pub(super) const LEVELS: usize = 6 * 16 * 4;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Recent {
    values: Box<[u32; KEPT]>,
    kinds: Box<[Step; KEPT]>,
    /// Some bits of what a place is known by, and the step there. It may have been written anew since: a wrong guess costs little.
    places: Box<[[u16; 2]; PLACES]>,
    /// Whether the last guesses at a place were right.
    trust: Box<[[u8; GUESSES]; TRUSTED]>,
    /// The next step.
    next: u16,
    /// The step that each guess is.
    at: [Option<u16>; GUESSES],
    /// How often the first was right since it was last wrong, and how much more often it was wrong than right.
    run: u8,
    misses: u8,
    last: [u64; LONG],
    /// Where the step is that is guessed: what it is trusted by, and what the third guess is found by.
    here: usize,
    guesses: Guesses,
    line: Option<u64>,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            values: table(NONE),
            kinds: table(Step::Other),
            places: table([0; 2]),
            trust: table([0b0101; GUESSES]),
            next: 0,
            at: [None; GUESSES],
            run: 0,
            misses: 0,
            last: [0; LONG],
            here: 0,
            guesses: Guesses::NONE,
            line: None,
        }
    }
}

impl Recent {
    pub(super) const SIZE: usize = KEPT * 5 + PLACES * 4 + TRUSTED * GUESSES;

    fn find(&self, key: u64) -> Option<u16> {
        let [check, at] = self.places[(key >> 40) as usize % PLACES];
        (check == key as u16).then_some(at)
    }

    fn put(&mut self, key: u64) {
        self.places[(key >> 40) as usize % PLACES] = [key as u16, self.next];
    }

    /// What is expected of a step at a place in a line, of which `first` is a hash of the first value.
    #[inline(never)]
    pub(super) fn guess(&mut self, step: Step, place: u64, first: Option<u64>) -> &Guesses {
        self.guesses.clear();
        self.here = (place >> 40) as usize % TRUSTED;
        self.line = first.map(|first| mix(first, place));
        self.at[2] = self.line.and_then(|key| self.find(key));
        for (n, trust) in self.trust[self.here].into_iter().enumerate() {
            let Some(at) = self.at[n] else { continue };
            let (value, kind) = (self.values[usize::from(at)], self.kinds[usize::from(at)]);
            // Where the last eight were wrong none is asked.
            if kind != step || value == NONE || trust == 0 {
                continue;
            }
            if let Some(same) = self.guesses.add(Guess::new(value, n, self.run, trust)) {
                same.level |= n as u16;
            }
        }
        &self.guesses
    }

    /// Takes a step.
    #[inline(never)]
    pub(super) fn push(&mut self, step: Step, value: u32) {
        let mut follows = false;
        for n in 0..GUESSES {
            let Some(at) = self.at[n] else { continue };
            let (expected, kind) = (self.values[usize::from(at)], self.kinds[usize::from(at)]);
            let right = kind == step && expected == value && value != NONE;
            self.trust[self.here][n] = self.trust[self.here][n] << 1 | u8::from(right);
            if n > 0 {
                continue;
            }
            follows = right;
            if right {
                self.run = self.run.saturating_add(1);
                self.misses = self.misses.saturating_sub(1);
            } else {
                self.run = 0;
                self.misses += 1;
            }
            self.at[0] = (kind == step && self.misses < MISSES).then_some(at.wrapping_add(1));
        }
        let here = usize::from(self.next);
        (self.values[here], self.kinds[here]) = (value, step);
        if let Some(line) = self.line.take() {
            self.put(line);
        }
        self.next = self.next.wrapping_add(1);
        self.last.copy_within(1.., 0);
        self.last[LONG - 1] = mix(u64::from(value), step as u64);
        let [short, long] = [key(&self.last[LONG - SHORT..]), key(&self.last)];
        let found = self.find(long);
        self.at[1] = self.find(short);
        if !follows && (found.is_some() || self.at[0].is_none()) {
            self.at[0] = found;
            self.misses = 0;
        }
        self.put(long);
        self.put(short);
    }
}
