//! What came lately, step by step, and five guesses of what comes next.
//!
//! A step is a word or a value, with the chain before it. The first guess follows an earlier line, from where the last steps were the
//! same: five of them, else two, else the last one if nothing told it. It stays with that line while values differ. Then comes what
//! came behind the last two steps; what came at this place in the last line that began with the same value; what nothing told in the
//! line before, which is often what both are about; and what came at this place behind a line that began as the last one did.

use super::history::{Guess, Guesses, NONE, Step, key};
use super::predict::{mix, table};

/// Steps that are kept, a power of two.
const KEPT: usize = 1 << KEPT_BITS;
const KEPT_BITS: u32 = 17;

/// Places that are found again, a power of two.
const PLACES: usize = 1 << 17;

/// Places whose guesses are trusted apart, a power of two.
const TRUSTED: usize = 1 << 12;

/// Steps by which an earlier line is found, and by which what came behind them is.
const LONG: usize = 5;
const SHORT: usize = 2;

/// How many more steps of an earlier line may be wrong than right before it is followed no more.
const MISSES: u8 = 16;

/// The guesses, and by what they are found.
const FOLLOWS: usize = 0;
const BEHIND: usize = 1;
const SAME_FIRST: usize = 2;
const CARRIED: usize = 3;
const SAME_BEFORE: usize = 4;
pub(super) const GUESSES: usize = 5;

/// How much a guess is trusted: by where it comes from, whether the last four at this place were right, and how many others agree.
pub(super) const LEVELS: usize = 8 * 16 * 4;

/// What nothing told that is kept of a line.
const MOST_CARRIED: usize = 4;

/// Steps by which a line is known in the next one, and that are guessed by it.
const BEGINNING: usize = 3;
const GUESSED: usize = 6;

pub(super) const NO_CHAIN: u16 = u16::MAX;

/// What finds nothing.
const NO_KEY: u64 = 0;

/// A step.
#[derive(Debug, Clone, Copy)]
struct Entry {
    value: u32,
    /// The chain before it.
    chain: u16,
    step: Step,
    /// Steps that the words of that chain are, if it was new: this one is the first of them.
    words: u8,
}

impl Entry {
    const NONE: Self = Self { value: NONE, chain: NO_CHAIN, step: Step::Other, words: 0 };
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Steps {
    /// As many as came, then those that came last.
    kept: Vec<Entry>,
    /// Some bits of what a place is known by, and the step there. It may have been written anew since: a wrong guess costs little.
    places: Box<[u32; PLACES]>,
    /// Whether the last guesses at a place were right.
    trust: Box<[[u8; GUESSES]; TRUSTED]>,
    /// The next step.
    next: u32,
    /// The step that each guess is.
    at: [Option<u32>; GUESSES],
    /// How often the first was right since it was last wrong, and how much more often it was wrong than right.
    run: u8,
    misses: u8,
    last: [u64; LONG],
    /// By what the next step is found later: as it was looked for before its chain, and behind it.
    keys: [[u64; GUESSES]; 2],
    chain: u16,
    /// Whether nothing told the last step, or the chain before the next one.
    surprised: bool,
    /// Whether no guess is asked for.
    certain: bool,
    /// What the next guesses are trusted by.
    here: usize,
    guesses: Guesses,
    line: Beginning,
    before: Beginning,
    /// Those of the line before that have come in this one.
    carried: usize,
}

/// How a line began.
#[derive(Debug, Clone, Copy, Default)]
struct Beginning {
    /// A hash of its first steps, without their values.
    hash: u64,
    /// How many steps it has.
    steps: usize,
    /// Steps that nothing told, or that came from those of the line before.
    untold: [u32; MOST_CARRIED],
    count: usize,
}

impl Default for Steps {
    fn default() -> Self {
        Self {
            kept: Vec::with_capacity(KEPT),
            places: table(0),
            trust: table([0b0101; GUESSES]),
            next: 0,
            at: [None; GUESSES],
            run: 0,
            misses: 0,
            last: [0; LONG],
            keys: [[NO_KEY; GUESSES]; 2],
            chain: NO_CHAIN,
            surprised: false,
            certain: false,
            here: 0,
            guesses: Guesses::NONE,
            line: Beginning::default(),
            before: Beginning::default(),
            carried: 0,
        }
    }
}

/// The step that is so many behind another.
const fn behind(at: u32, steps: u32) -> u32 {
    at.wrapping_add(steps) % KEPT as u32
}

impl Steps {
    pub(super) const SIZE: usize = KEPT * size_of::<Entry>() + PLACES * 4 + TRUSTED * GUESSES;

    #[inline(always)]
    fn find(&self, key: u64) -> Option<u32> {
        let place = self.places[(key >> 40) as usize % PLACES];
        let found = place != 0 && place >> KEPT_BITS == key as u32 >> KEPT_BITS;
        (found && key != NO_KEY).then_some(place % KEPT as u32)
    }

    #[inline(always)]
    fn entry(&self, at: u32) -> &Entry {
        self.kept.get(at as usize % KEPT).unwrap_or(&Entry::NONE)
    }

    /// A line begins.
    pub(super) fn begin_line(&mut self) {
        let hash = self.line.hash;
        if self.line.count > 0 {
            self.before = self.line;
        }
        self.before.hash = hash;
        self.line = Beginning::default();
        self.carried = 0;
    }

    /// A step begins.
    #[inline(always)]
    pub(super) const fn begin(&mut self) {
        self.keys = [[NO_KEY; GUESSES]; 2];
        self.chain = NO_CHAIN;
    }

    /// Finds what the guesses at a place are, `behind` its chain or before it.
    #[inline(always)]
    fn look(&mut self, behind: bool, place: u64, first: Option<u64>) {
        let [long, short, one] = [LONG, SHORT, 1].map(|steps| key(&self.last[LONG - steps..]));
        let same_first = first.map_or(NO_KEY, |first| mix(first, place));
        let begins = self.line.steps < GUESSED;
        let same_before = if begins { mix(mix(place, self.before.hash), 77) } else { NO_KEY };
        self.at[BEHIND] = self.find(short);
        self.at[SAME_FIRST] = self.find(same_first);
        self.at[SAME_BEFORE] = self.find(same_before);
        self.at[CARRIED] = self.before.untold[..self.before.count].get(self.carried).copied();
        if self.run == 0 {
            let found = self.find(long).or(self.at[BEHIND]);
            let found = found.or_else(|| if self.surprised { self.find(one) } else { None });
            if found.is_some() || self.at[FOLLOWS].is_none() {
                self.at[FOLLOWS] = found;
                self.misses = 0;
            }
        }
        // In the order of the guesses; for the one that is carried stands what the first guess finds by the last step alone.
        self.keys[usize::from(behind)] = [long, short, same_first, one, same_before];
    }

    /// The guesses at a place, of each step what `of` says.
    #[inline(always)]
    fn guesses(&mut self, place: u64, of: impl Fn(&Entry) -> Option<u32>) -> &Guesses {
        self.guesses.clear();
        self.here = (place >> 40) as usize % TRUSTED;
        for (n, trust) in self.trust[self.here].into_iter().enumerate() {
            let Some(value) = self.at[n].and_then(|at| of(self.entry(at))) else { continue };
            // Where the last eight were wrong none is asked.
            if value == NONE || trust == 0 {
                continue;
            }
            if let Some(same) = self.guesses.add(Guess::new(value, n, self.run, trust)) {
                same.level += u16::from(same.level & 3 < 3);
            }
        }
        &self.guesses
    }

    /// Which of the guesses are right, as `is` says.
    #[inline(always)]
    fn right(&self, is: impl Fn(&Entry) -> bool) -> [bool; GUESSES] {
        self.at.map(|at| at.is_some_and(|at| is(self.entry(at))))
    }

    /// Learns which of the guesses were `right`.
    #[inline(always)]
    fn learn(&mut self, right: [bool; GUESSES]) {
        for (n, trust) in self.trust[self.here].iter_mut().enumerate() {
            if self.at[n].is_some() {
                *trust = *trust << 1 | u8::from(right[n]);
            }
        }
        if right[FOLLOWS] {
            self.run = self.run.saturating_add(1);
            self.misses = self.misses.saturating_sub(1);
        } else if self.at[FOLLOWS].is_some() {
            self.run = 0;
            self.misses = self.misses.saturating_add(1);
        }
    }

    /// What is expected of a chain at a place.
    #[inline(never)]
    pub(super) fn guess_chain(&mut self, place: u64) -> &Guesses {
        self.look(false, place, None);
        self.guesses(place, |entry| Some(u32::from(entry.chain)).filter(|_| entry.chain != NO_CHAIN))
    }

    /// Takes a chain, which was guessed if the place `is_open`.
    #[inline(never)]
    pub(super) fn take_chain(&mut self, chain: u16, is_open: bool) {
        if is_open {
            let right = self.right(|entry| entry.chain == chain);
            self.surprised |= right == [false; GUESSES];
            self.learn(right);
        }
        if let Some(at) = self.at[FOLLOWS]
            && self.entry(at).chain == chain
        {
            self.at[FOLLOWS] = Some(behind(at, u32::from(self.entry(at).words)));
        }
        self.chain = chain;
        if is_open {
            self.remember(mix(u64::from(chain), 9));
        }
    }

    /// What is expected of a word or a value at a place; nothing is asked for if that is `certain` without.
    #[inline(never)]
    pub(super) fn guess(&mut self, step: Step, place: u64, first: Option<u64>, certain: bool) -> &Guesses {
        self.certain = certain;
        if certain {
            return &Guesses::NONE;
        }
        self.look(true, place, first);
        self.guesses(place, |entry| (entry.step == step).then_some(entry.value))
    }

    /// The step that comes next.
    pub(super) const fn next(&self) -> u32 {
        self.next
    }

    /// The words from `first` on are this chain from now on.
    pub(super) fn spelled(&mut self, first: u32, chain: u16) {
        let words = self.next.wrapping_sub(first) % KEPT as u32;
        if words == 0 {
            self.chain = chain;
        } else if let Ok(words) = u8::try_from(words)
            && let Some(entry) = self.kept.get_mut(first as usize % KEPT)
        {
            (entry.chain, entry.words) = (chain, words);
        }
    }

    fn remember(&mut self, step: u64) {
        self.last.copy_within(1.., 0);
        self.last[LONG - 1] = step;
    }

    /// Takes a step; `surprising` if nothing told it.
    #[inline(never)]
    pub(super) fn take(&mut self, step: Step, value: u32, surprising: bool) {
        let right = self.right(|entry| entry.step == step && entry.value == value && value != NONE);
        let (follows, carried) = (right[FOLLOWS], right[CARRIED]);
        let certain = std::mem::take(&mut self.certain);
        if !certain {
            if step != Step::Other {
                self.learn(right);
            }
            if !follows {
                self.run = 0;
            }
        }
        let line = &mut self.line;
        if (carried || surprising) && line.count < MOST_CARRIED {
            line.untold[line.count] = self.next;
            line.count += 1;
        }
        if self.misses >= MISSES {
            self.at[FOLLOWS] = None;
        }
        self.carried += usize::from(carried);
        if carried && !follows {
            self.at[FOLLOWS] = self.at[CARRIED];
            self.misses = 0;
            self.run = 1;
        }
        // Words of a new chain are no steps of a line in which the chain was known.
        let waits = |entry: &Entry| {
            step == Step::Token
                && self.chain == NO_CHAIN
                && entry.chain != NO_CHAIN
                && matches!(entry.step, Step::Value | Step::Id)
        };
        if let Some(at) = self.at[FOLLOWS]
            && (carried || !waits(self.entry(at)))
        {
            self.at[FOLLOWS] = Some(behind(at, 1));
        }
        self.put(step, value, certain);
        self.surprised = surprising;
        self.remember(mix(u64::from(value), step as u64));
    }

    /// Keeps a step that tells nothing about the next one: a time.
    pub(super) fn pass(&mut self) {
        if let Some(at) = self.at[FOLLOWS] {
            self.at[FOLLOWS] = Some(behind(at, 1));
        }
        self.put(Step::Other, NONE, false);
    }

    fn put(&mut self, step: Step, value: u32, certain: bool) {
        let entry = Entry { value, chain: self.chain, step, words: 0 };
        match self.kept.get_mut(self.next as usize % KEPT) {
            Some(kept) => *kept = entry,
            None => self.kept.push(entry),
        }
        if !certain {
            for key in self.keys.as_flattened() {
                if *key != NO_KEY {
                    self.places[(key >> 40) as usize % PLACES] =
                        *key as u32 >> KEPT_BITS << KEPT_BITS | self.next;
                }
            }
        }
        if self.line.steps < BEGINNING {
            let word = if step == Step::Token { value } else { 0 };
            self.line.hash = mix(mix(self.line.hash, u64::from(word)), u64::from(self.chain));
        }
        self.line.steps += 1;
        self.next = behind(self.next, 1);
        self.chain = NO_CHAIN;
    }
}
