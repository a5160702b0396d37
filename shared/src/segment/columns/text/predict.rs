//! What comes next, by what came next before: cells that are found by a hash of what precedes.

use super::super::entropy::{Bit, Coder};
use super::super::{LAYOUT_CHAINS, LAYOUT_NEAR, LAYOUT_RECENT, LAYOUT_STEPS, filled};
use super::history::{Guesses, LEVELS};
use super::meters::Meters;

const EMPTY: u32 = u32::MAX;

/// Where a small decision's model is.
#[inline(always)]
const fn place(context: u64) -> usize {
    (context >> 40) as usize % BITS
}

/// What followed one context: the last three different ones, and how reliable the first is.
#[derive(Debug, Clone, Copy)]
struct Cell {
    values: [u32; 3],
    check: u16,
    /// How often the first was right since it was last wrong.
    run: u8,
    /// How often none was right.
    misses: u8,
}

impl Cell {
    const NEW: Self = Self { values: [EMPTY; 3], check: 0, run: 0, misses: 0 };

    /// One of [`STATES`], 0 when nothing is known.
    #[inline(always)]
    fn state(&self) -> usize {
        if self.values[0] == EMPTY {
            return 0;
        }
        usize::from(RUNS[usize::from(self.run)] + MISSES[usize::from(self.misses)])
    }

    #[inline(always)]
    fn learn(&mut self, value: u32) {
        if self.values[0] == value {
            self.run = self.run.saturating_add(1);
        } else {
            self.replace(value);
        }
    }

    /// Puts another value before the first.
    #[inline(never)]
    fn replace(&mut self, value: u32) {
        if self.values[0] != EMPTY {
            self.run = 0;
        }
        if self.values[1] == value {
            self.values.swap(0, 1);
        } else {
            if self.values[2] != value && self.values[0] != EMPTY {
                self.misses = self.misses.saturating_add(1);
            }
            self.values = [value, self.values[0], self.values[1]];
        }
    }
}

const STATES: usize = 24;

/// What a run and misses add to a [`Cell::state`].
static RUNS: [u8; 256] = steps([1, 2, 3, 5, 13, 41], 1, 3);
static MISSES: [u8; 256] = steps([1, 8, 256, 256, 256, 256], 0, 1);

/// `first`, and `by` more from each of `bounds` on.
const fn steps(bounds: [usize; 6], first: u8, by: u8) -> [u8; 256] {
    let mut all = [first; 256];
    let mut bound = 0;
    while bound < bounds.len() {
        let mut n = bounds[bound];
        while n < all.len() {
            all[n] += by;
            n += 1;
        }
        bound += 1;
    }
    all
}

/// How often a cell's first value must have been right for it to be certain.
const CERTAIN: u8 = 16;

/// Misses behind which a place is variable, without chains and with them: a place has as many chains without a miss.
const VARIABLE: [u8; 2] = [6, 12];

/// Contexts that are kept, powers of two: those of what came behind tokens and places, and those of what came behind the same
/// values in any template. Most of the latter never come again, and would push the others out. The more is guessed, the fewer are
/// needed.
#[derive(Debug, Clone, Copy, Default)]
struct Room {
    own: u32,
    apart: u32,
}

impl Room {
    const fn of(layout: u8) -> Self {
        match layout {
            ..LAYOUT_NEAR => Self { own: 1 << 16, apart: 0 },
            LAYOUT_NEAR => Self { own: 1 << 16, apart: 1 << 16 },
            LAYOUT_RECENT => Self { own: 1 << 16, apart: 1 << 14 },
            LAYOUT_STEPS.. => Self { own: 1 << 15, apart: 1 << 13 },
        }
    }
}

/// Bits that are expected of a number at most that a meter measures.
const MEASURED: u32 = 6;

/// Small decisions that are kept, a power of two.
const BITS: usize = 1 << 17;

pub(super) const fn mix(a: u64, b: u64) -> u64 {
    (a.rotate_left(23) ^ b).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31)
}

/// A table on the heap.
#[inline(never)]
pub(super) fn table<T: Copy, const N: usize>(value: T) -> Box<[T; N]> {
    // A slice of N is an array of N.
    filled(value, N).into_boxed_slice().try_into().unwrap_or_else(|_| Box::new([value; N]))
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Predictor {
    /// Of contexts, and behind them those that are apart.
    cells: Vec<Cell>,
    bits: Box<[Bit; BITS]>,
    /// Whether the first of a pair of cells is right: by both states and whether the cells agree.
    first: Box<[[[Bit; STATES]; STATES]; 8]>,
    others: Box<[[Bit; STATES]; 32]>,
    /// Whether the segment is of codec 5 or later, where a place is known by what is near.
    pub(super) is_near: bool,
    room: Room,
    /// Whether it is of codec 4 or later: what follows is for those alone.
    pub(super) by_chains: bool,
    /// Whether it is any of the others.
    among: [[Bit; STATES]; 4],
    /// Whether a guess is right: by how much it is trusted, whether the cells' first says the same, and that one's state.
    guessed: Box<[[[[Bit; STATES / 4]; 2]; LEVELS]; 3]>,
    meters: Meters,
    /// Whether the last value was neither guessed nor the first of its cells.
    pub(super) is_surprised: bool,
}

impl Default for Predictor {
    fn default() -> Self {
        Self {
            cells: Vec::new(),
            bits: table(Bit::NEW),
            first: table([[Bit::NEW; STATES]; STATES]),
            others: table([Bit::NEW; STATES]),
            is_near: false,
            room: Room::default(),
            by_chains: false,
            among: [[Bit::NEW; STATES]; 4],
            guessed: table([[[Bit::NEW; STATES / 4]; 2]; LEVELS]),
            meters: Meters::default(),
            is_surprised: false,
        }
    }
}

/// Cells of two contexts. They are a value's own only until others are looked for.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Pair([u32; 2]);

/// How a value was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hit {
    /// It was the likeliest.
    First(u32),
    Other(u32),
    Missed,
}

impl Predictor {
    /// Bytes that it takes.
    pub(super) const fn size(&self) -> usize {
        self.cells.len() * size_of::<Cell>() + BITS * size_of::<Bit>() + Meters::SIZE
    }

    /// A segment of this layout begins.
    pub(super) fn begin(&mut self, layout: u8) {
        self.by_chains = layout >= LAYOUT_CHAINS;
        self.is_near = layout >= LAYOUT_NEAR;
        self.room = Room::of(layout);
        let cells = (self.room.own + self.room.apart) as usize;
        if self.cells.len() < cells {
            self.cells.reserve_exact(cells - self.cells.len());
            self.cells.resize(cells, Cell::NEW);
        }
    }

    /// The cell of a context.
    #[inline(always)]
    fn find(&mut self, context: u64) -> u32 {
        self.cell_at((context >> 40) as u32 & (self.room.own - 1), context)
    }

    /// The cell of a context that is apart.
    #[inline(always)]
    fn find_apart(&mut self, context: u64) -> u32 {
        self.cell_at(self.room.own + ((context >> 40) as u32 & (self.room.apart - 1)), context)
    }

    #[inline(always)]
    fn cell_at(&mut self, at: u32, context: u64) -> u32 {
        let cell = &mut self.cells[at as usize];
        let check = context as u16;
        if cell.check != check {
            *cell = Cell { check, ..Cell::NEW };
        }
        at
    }

    /// The cells of two contexts.
    #[inline(always)]
    pub(super) fn pair(&mut self, contexts: [u64; 2]) -> Pair {
        let [a, b] = contexts;
        Pair([self.find(a), self.find(b)])
    }

    /// The cells of a number: as of any value, from codec 5 on beside that of what came behind all these `values`.
    #[inline(always)]
    pub(super) fn pair_of_number(&mut self, [place, behind]: [u64; 2], values: u64) -> Pair {
        if !self.is_near {
            return self.pair_of_place([place, behind]);
        }
        Pair([self.find_apart(values), self.find(behind)])
    }

    /// The cells of a value's place in its template, and of that behind the value before it; from codec 4 on the latter alone.
    #[inline(always)]
    pub(super) fn pair_of_place(&mut self, [place, behind]: [u64; 2]) -> Pair {
        self.pair(if self.by_chains { [behind; 2] } else { [place, behind] })
    }

    /// Whether many different ones followed the first of two contexts, so that what follows it tells little.
    #[inline(always)]
    pub(super) fn is_variable(&self, pair: Pair) -> bool {
        self.cells[pair.0[0] as usize].misses >= VARIABLE[usize::from(self.by_chains)]
    }

    /// Whether both contexts say the same, and one of them was right for long.
    #[inline(always)]
    pub(super) fn is_certain(&self, pair: Pair) -> bool {
        let [a, b] = pair.0.map(|at| &self.cells[at as usize]);
        a.values[0] == b.values[0] && a.run.max(b.run) >= CERTAIN
    }

    /// Whether anything followed the first of two contexts.
    pub(super) fn is_known(&self, pair: Pair) -> bool {
        self.cells[pair.0[0] as usize].values[0] != EMPTY
    }

    /// A value that is likely after either of two contexts, the one that tells more first. `of` keeps kinds of values apart, it
    /// is below 4. A value that was missed is to be told to [`Predictor::learn`].
    // In five places, and small beside what it saves.
    #[inline(never)]
    pub(super) fn code<C: Coder>(
        &mut self,
        coder: &mut C,
        of: usize,
        pair: Pair,
        value: u32,
        guesses: &Guesses,
    ) -> Hit {
        let [a, b] = pair.0.map(|at| at as usize);
        let (one, other) = (&self.cells[a], &self.cells[b]);
        let states = [one.state(), other.state()];
        let swapped = states[1] > states[0] && other.run > one.run;
        let (one, other, states) =
            if swapped { (other, one, [states[1], states[0]]) } else { (one, other, states) };
        let likely = one.values[0];
        self.is_surprised = false;
        for guess in guesses.all() {
            let agrees = likely == guess.value;
            let models = &mut self.guessed[of % 3][usize::from(guess.level) % LEVELS];
            if coder.bit(&mut models[usize::from(agrees)][states[0] / 4], guess.value == value) {
                self.learn(pair, guess.value);
                return if agrees { Hit::First(likely) } else { Hit::Other(guess.value) };
            }
        }
        if likely != EMPTY && !guesses.contain(likely) {
            let agree = usize::from(likely == other.values[0]);
            let model = &mut self.first[(of * 2 + agree) & 7][states[0]][states[1]];
            if coder.bit(model, likely == value) {
                self.learn(pair, likely);
                return Hit::First(likely);
            }
        }
        let (one, other) = (*one, *other);
        self.is_surprised = true;
        if self.by_chains {
            let known = one.values[1..].contains(&value) || other.values.contains(&value);
            if !coder.bit(&mut self.among[of & 3][states[0]], known && value != EMPTY) {
                return Hit::Missed;
            }
        }
        match self.rest(coder, of, [one, other], states, value, guesses) {
            Some(value) => {
                self.learn(pair, value);
                Hit::Other(value)
            }
            None => Hit::Missed,
        }
    }

    /// One of the values but the likeliest.
    #[inline(never)]
    fn rest<C: Coder>(
        &mut self,
        coder: &mut C,
        of: usize,
        [one, other]: [Cell; 2],
        states: [usize; 2],
        value: u32,
        guesses: &Guesses,
    ) -> Option<u32> {
        let candidates = [one.values[1], one.values[2], other.values[0], other.values[1], other.values[2]];
        for (n, candidate) in candidates.into_iter().enumerate() {
            // A cell's own values differ.
            if candidate == EMPTY || (n >= 2 && one.values.contains(&candidate)) || guesses.contain(candidate)
            {
                continue;
            }
            let model = &mut self.others[(of * 8 + n) & 31][states[usize::from(n >= 2)]];
            if coder.bit(model, candidate == value) {
                return Some(candidate);
            }
        }
        None
    }

    /// Takes a value that was missed.
    #[inline(always)]
    pub(super) fn learn(&mut self, pair: Pair, value: u32) {
        let [a, b] = pair.0;
        self.cells[a as usize].learn(value);
        if a != b {
            self.cells[b as usize].learn(value);
        }
    }

    /// A small decision.
    #[inline]
    pub(super) fn bit<C: Coder>(&mut self, coder: &mut C, context: u64, bit: bool) -> bool {
        coder.bit(&mut self.bits[place(context)], bit)
    }

    /// A number of `levels` bits, each expected by those above it.
    #[inline]
    pub(super) fn tree<C: Coder>(&mut self, coder: &mut C, context: u64, levels: u32, value: u64) -> u64 {
        coder.path(&mut self.bits, levels, value, |node| place(mix(context, node))) ^ 1 << levels
    }

    /// A number: its length, then so many bits of it below the first, are expected; the rest is raw.
    pub(super) fn number<C: Coder>(&mut self, coder: &mut C, context: u64, expected: u32, value: u64) -> u64 {
        if self.by_chains && expected <= MEASURED {
            return self.meters.code(coder, context, value);
        }
        let length = u64::from(64 - value.leading_zeros());
        let length = (self.tree(coder, context, 7, length) as u32).min(64);
        if length < 2 {
            return u64::from(length);
        }
        let below = length - 1;
        let learnt = below.min(expected);
        let rest = below - learnt;
        let high = self.tree(
            coder,
            mix(context, u64::from(length) + 100),
            learnt,
            value >> rest & ((1 << learnt) - 1),
        );
        let high = 1 << learnt | high;
        high << rest | coder.raw(value, rest)
    }

    /// A number that may be negative.
    pub(super) fn signed<C: Coder>(&mut self, coder: &mut C, context: u64, expected: u32, value: u64) -> u64 {
        let negative = self.bit(coder, mix(context, 99), (value as i64) < 0);
        let flip = u64::from(negative).wrapping_neg();
        self.number(coder, mix(context, u64::from(negative)), expected, value ^ flip) ^ flip
    }
}
