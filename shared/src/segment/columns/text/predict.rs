//! What comes next, by what came next before: cells that are found by a hash of what precedes.

use super::super::entropy::{Bit, Coder};

const EMPTY: u32 = u32::MAX;

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

    /// One of 24 states, 0 when nothing is known.
    const fn state(&self) -> usize {
        if self.values[0] == EMPTY {
            return 0;
        }
        let run = match self.run {
            0 => 0,
            1 => 1,
            2 => 2,
            3..=4 => 3,
            5..=12 => 4,
            13..=40 => 5,
            _ => 6,
        };
        let misses = match self.misses {
            0 => 0,
            1..=7 => 1,
            _ => 2,
        };
        1 + run * 3 + misses
    }

    fn learn(&mut self, value: u32) {
        if self.values[0] == value {
            self.run = self.run.saturating_add(1);
            return;
        }
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

/// Contexts that are kept, a power of two.
const CELLS: usize = 1 << 16;

/// Small decisions that are kept, a power of two.
const BITS: usize = 1 << 17;

pub(super) const fn mix(a: u64, b: u64) -> u64 {
    (a.rotate_left(23) ^ b).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31)
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Predictor {
    cells: Vec<Cell>,
    /// Whether the first of a pair of cells is right: by both states and whether the cells agree.
    first: Vec<Bit>,
    others: Vec<Bit>,
    bits: Vec<Bit>,
}

/// Cells of two contexts. They are a value's own only until others are looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair([usize; 2]);

/// How a value was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hit {
    /// It was the likeliest.
    First(u32),
    Other(u32),
    Missed,
}

impl Predictor {
    /// Makes room, when text is first taken apart.
    pub(super) fn open(&mut self) {
        if self.cells.is_empty() {
            self.cells = vec![Cell::NEW; CELLS];
            self.bits = vec![Bit::NEW; BITS];
            self.first = vec![Bit::NEW; 4 * 2 * STATES * STATES];
            self.others = vec![Bit::NEW; 4 * 8 * STATES];
        }
    }

    pub(super) const fn size(&self) -> usize {
        self.cells.len() * size_of::<Cell>() + self.bits.len() * size_of::<Bit>()
    }

    #[inline]
    fn find(&mut self, context: u64) -> usize {
        let at = (context >> 40) as usize % CELLS;
        let check = context as u16;
        if self.cells[at].check != check {
            self.cells[at] = Cell { check, ..Cell::NEW };
        }
        at
    }

    /// The cells of two contexts.
    #[inline]
    pub(super) fn pair(&mut self, contexts: [u64; 2]) -> Pair {
        Pair(contexts.map(|c| self.find(c)))
    }

    /// Whether many different ones followed the first of two contexts, so that what follows it tells little.
    #[inline]
    pub(super) fn is_variable(&self, pair: Pair) -> bool {
        self.cells[pair.0[0]].misses >= 6
    }

    /// A value that is likely after either of two contexts, the one that tells more first. `of` keeps kinds of values apart, it
    /// is below 4. A value that was missed is to be told to [`Predictor::learn`].
    #[inline]
    pub(super) fn code<C: Coder>(&mut self, coder: &mut C, of: usize, pair: Pair, value: u32) -> Hit {
        let [a, b] = pair.0;
        let (one, other) = (self.cells[a], self.cells[b]);
        let (one, other) =
            if other.state() > one.state() && other.run > one.run { (other, one) } else { (one, other) };
        let agree = usize::from(one.values[0] == other.values[0]);
        let mut found = Hit::Missed;
        if one.values[0] != EMPTY {
            let model = ((of * 2 + agree) * STATES + one.state()) * STATES + other.state();
            if coder.bit(&mut self.first[model], one.values[0] == value) {
                found = Hit::First(one.values[0]);
            }
        }
        if found == Hit::Missed {
            found = self.rest(coder, of, one, other, value);
        }
        if let Hit::First(value) | Hit::Other(value) = found {
            self.cells[a].learn(value);
            if a != b {
                self.cells[b].learn(value);
            }
        }
        found
    }

    #[inline(never)]
    fn rest<C: Coder>(&mut self, coder: &mut C, of: usize, one: Cell, other: Cell, value: u32) -> Hit {
        let mut tried = [EMPTY; 6];
        tried[0] = one.values[0];
        let candidates = [one.values[1], one.values[2], other.values[0], other.values[1], other.values[2]];
        for (n, candidate) in candidates.into_iter().enumerate() {
            if candidate == EMPTY || tried.contains(&candidate) {
                continue;
            }
            tried[n + 1] = candidate;
            let state = if n < 2 { one.state() } else { other.state() };
            let model = &mut self.others[(of * 8 + n) * STATES + state];
            if coder.bit(model, candidate == value) {
                return Hit::Other(candidate);
            }
        }
        Hit::Missed
    }

    /// Takes a value that was missed.
    pub(super) fn learn(&mut self, pair: Pair, value: u32) {
        let [a, b] = pair.0;
        self.cells[a].learn(value);
        if a != b {
            self.cells[b].learn(value);
        }
    }

    /// A small decision.
    #[inline]
    pub(super) fn bit<C: Coder>(&mut self, coder: &mut C, context: u64, bit: bool) -> bool {
        coder.bit(&mut self.bits[(context >> 40) as usize % BITS], bit)
    }

    /// A number of `levels` bits, each expected by those above it.
    pub(super) fn tree<C: Coder>(&mut self, coder: &mut C, context: u64, levels: u32, value: u64) -> u64 {
        let mut node = 1;
        for level in (0..levels).rev() {
            let bit = self.bit(coder, mix(context, node), value >> level & 1 == 1);
            node = node << 1 | u64::from(bit);
        }
        node ^ 1 << levels
    }

    /// A number: its length, then so many bits of it below the first, are expected; the rest is raw.
    pub(super) fn number<C: Coder>(&mut self, coder: &mut C, context: u64, expected: u32, value: u64) -> u64 {
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
