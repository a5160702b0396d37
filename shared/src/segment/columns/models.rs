//! How a value is expected, from those before it: each model codes a value in either direction and learns from it.

use std::ops::{Index, IndexMut};

use super::entropy::{Bit, Coder, NumberId, Numbers};

/// One of the values that were last here, or another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recent {
    values: [u64; 4],
    used: u8,
    hits: [Bit; 4],
}

impl Default for Recent {
    fn default() -> Self {
        Self::NEW
    }
}

impl Recent {
    pub(super) const NEW: Self = Self { values: [0; 4], used: 0, hits: [Bit::NEW; 4] };

    /// The value, or `None` for one that was not among the last four; it is to be told to [`Recent::push`].
    #[inline]
    pub(super) fn code<C: Coder>(&mut self, coder: &mut C, value: u64) -> Option<u64> {
        if self.used > 0 && coder.bit(&mut self.hits[0], self.values[0] == value) {
            return Some(self.values[0]);
        }
        self.code_older(coder, value)
    }

    /// One of the values before the last one, which this is not.
    #[inline(never)]
    fn code_older<C: Coder>(&mut self, coder: &mut C, value: u64) -> Option<u64> {
        for n in 1..usize::from(self.used) {
            if coder.bit(&mut self.hits[n], self.values[n] == value) {
                let [a, b, c, d] = self.values;
                self.values = match n {
                    1 => [b, a, c, d],
                    2 => [c, a, b, d],
                    _ => [d, a, b, c],
                };
                return Some(self.values[0]);
            }
        }
        None
    }

    /// Puts a value before the others.
    #[inline]
    pub(super) fn push(&mut self, value: u64) {
        self.values.copy_within(0..3, 1);
        self.values[0] = value;
        self.used = (self.used + 1).min(4);
    }

    /// The value that was here last; 0 when there was none.
    pub(super) const fn last(&self) -> u64 {
        self.values[0]
    }
}

/// What numbers may be whole multiples of. Clocks tick in these: 256 is a double's last digit in ns of our days.
const UNITS: [u64; 5] = [1, 256, 1_000, 1_000_000, 1_000_000_000];

fn unit_of(value: u64) -> u64 {
    if value.is_multiple_of(1_000) {
        return if value.is_multiple_of(1_000_000_000) {
            4
        } else if value.is_multiple_of(1_000_000) {
            3
        } else {
            2
        };
    }
    u64::from(value.is_multiple_of(256))
}

#[inline]
const fn in_unit(value: u64, unit: u64) -> u64 {
    // A division by a constant is several times faster than by a variable.
    match unit {
        0 => value,
        1 => value / 256,
        2 => value / 1_000,
        3 => value / 1_000_000,
        _ => value / 1_000_000_000,
    }
}

/// A number near one of a few others: which of them is nearest is learnt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Near {
    /// How far off each was lately, in bits times 32.
    cost: [u32; 4],
    errors: [NumberId; 4],
    exact: [Bit; 8],
    /// Whether each of the last three was as expected.
    history: u8,
    unit: u64,
    same_unit: Bit,
}

impl Near {
    pub(super) const fn new() -> Self {
        Self {
            cost: [0; 4],
            errors: [NumberId::NEW; 4],
            exact: [Bit::NEW; 8],
            history: 0,
            unit: 0,
            same_unit: Bit::NEW,
        }
    }

    /// A time.
    #[inline(never)]
    pub(super) fn code_time<C: Coder>(
        &mut self,
        coder: &mut C,
        numbers: &mut Numbers,
        value: u64,
        near: &[u64],
    ) -> u64 {
        let unit = if C::ENCODES { unit_of(value) } else { 0 };
        if !coder.bit(&mut self.same_unit, unit == self.unit) {
            self.unit = coder.raw(unit, 3).min(UNITS.len() as u64 - 1);
        }
        let unit = self.unit;
        let mut scaled = [0; 4];
        for (to, from) in scaled.iter_mut().zip(near) {
            *to = in_unit(*from, unit);
        }
        let near = &scaled[..near.len()];
        self.code(coder, numbers, in_unit(value, unit), near).wrapping_mul(UNITS[unit as usize])
    }

    /// Any number.
    #[inline(never)]
    pub(super) fn code<C: Coder>(
        &mut self,
        coder: &mut C,
        numbers: &mut Numbers,
        value: u64,
        near: &[u64],
    ) -> u64 {
        let mut best = 0;
        for n in 1..near.len() {
            if self.cost[n] < self.cost[best] {
                best = n;
            }
        }
        let exact = &mut self.exact[usize::from(self.history & 7)];
        let hit = coder.bit(exact, value == near[best]);
        self.history = self.history << 1 | u8::from(hit);
        let value = if hit {
            near[best]
        } else {
            let error = value.wrapping_sub(near[best]);
            near[best].wrapping_add(numbers.code_signed(&mut self.errors[best], coder, error))
        };
        if near.len() > 1 {
            for (cost, near) in self.cost.iter_mut().zip(near) {
                let off = value.wrapping_sub(*near) as i64;
                let bits = 64 - off.unsigned_abs().leading_zeros();
                *cost = *cost - *cost / 8 + bits * 4;
            }
        }
        value
    }
}

/// How a double is written: as a whole number times a power of ten or of two, or as its bits.
const RAW: u64 = 31;

/// Decimal places that are tried, and binary ones above these.
const DECIMALS: u64 = 11;
const BINARIES: u64 = 16;

static TENS: [f64; DECIMALS as usize + 1] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11];

/// The whole numbers that a double holds without a gap.
const WHOLE: f64 = 9_007_199_254_740_992.0;

/// `value` as a whole number in `scale`, if nothing is lost.
fn whole(value: f64, scale: u64) -> Option<i64> {
    let scaled = if scale <= DECIMALS {
        (value * TENS[scale as usize]).round()
    } else {
        value * f64::from(1u32 << (scale - DECIMALS))
    };
    if scaled.is_nan() || scaled.abs() >= WHOLE || scaled.fract() != 0.0 {
        return None;
    }
    let whole = scaled as i64;
    (fractional(whole, scale).to_bits() == value.to_bits()).then_some(whole)
}

fn fractional(whole: i64, scale: u64) -> f64 {
    if scale <= DECIMALS {
        // Both are exact, and so is the division's rounding: the double nearest to the decimal number.
        whole as f64 / TENS[scale as usize]
    } else {
        whole as f64 / f64::from(1u32 << (scale - DECIMALS).min(BINARIES))
    }
}

/// The nearest whole number in `scale`.
fn rounded(value: f64, scale: u64) -> i64 {
    if scale <= DECIMALS {
        (value * TENS[scale as usize]).round() as i64
    } else {
        (value * f64::from(1u32 << (scale - DECIMALS).min(BINARIES))).round() as i64
    }
}

/// Doubles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doubles {
    scale: u64,
    same_scale: [Bit; 2],
    was_same: bool,
    scales: NumberId,
    near: Near,
    bits: Near,
}

impl Doubles {
    pub(super) fn new() -> Self {
        Self {
            scale: 0,
            same_scale: [Bit::NEW; 2],
            was_same: true,
            scales: NumberId::NEW,
            near: Near::new(),
            bits: Near::new(),
        }
    }

    /// The scale in which `value` is shortest. The one of the last value goes first.
    fn scale_of(&self, value: f64) -> u64 {
        if self.scale != RAW && whole(value, self.scale).is_some() {
            return self.scale;
        }
        let decimal = (0..=DECIMALS).find_map(|s| Some((whole(value, s)?.unsigned_abs(), s)));
        let binary =
            (DECIMALS + 1..=DECIMALS + BINARIES).find_map(|s| Some((whole(value, s)?.unsigned_abs(), s)));
        decimal.into_iter().chain(binary).min().map_or(RAW, |(_, scale)| scale)
    }

    /// A double's bits, expected near the doubles `near`, which are bits too.
    #[inline(never)]
    pub(super) fn code<C: Coder>(
        &mut self,
        coder: &mut C,
        numbers: &mut Numbers,
        value: u64,
        near: &[u64],
    ) -> u64 {
        let double = f64::from_bits(value);
        let scale = if C::ENCODES { self.scale_of(double) } else { 0 };
        let model = &mut self.same_scale[usize::from(self.was_same)];
        self.was_same = coder.bit(model, scale == self.scale);
        if !self.was_same {
            self.scale = numbers.code(&mut self.scales, coder, scale).min(RAW);
        }
        let scale = self.scale;
        if scale > DECIMALS + BINARIES {
            self.scale = RAW;
            return self.bits.code(coder, numbers, value, near);
        }
        let mut scaled = [0; 4];
        for (to, from) in scaled.iter_mut().zip(near) {
            *to = rounded(f64::from_bits(*from), scale) as u64;
        }
        let given = if C::ENCODES { rounded(double, scale) as u64 } else { 0 };
        let whole = self.near.code(coder, numbers, given, &scaled[..near.len()]);
        fractional(whole as i64, scale).to_bits()
    }
}

/// A place in a shape, with what it has learnt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) recent: Recent,
    pub(super) number: NumberId,
    /// Models that few places need, by their numbers in [`Slots`].
    near: u32,
    doubles: u32,
}

impl Slot {
    const NEW: Self = Self { recent: Recent::NEW, number: NumberId::NEW, near: NONE, doubles: NONE };

    /// A number like the last ones here.
    pub(super) fn code<C: Coder>(&mut self, coder: &mut C, numbers: &mut Numbers, value: u64) -> u64 {
        if let Some(value) = self.recent.code(coder, value) {
            return value;
        }
        let last = self.recent.last();
        let delta = numbers.code_signed(&mut self.number, coder, value.wrapping_sub(last));
        let value = last.wrapping_add(delta);
        self.recent.push(value);
        value
    }
}

/// A model that a slot does not have.
const NONE: u32 = u32::MAX;

/// There are never more slots, some 3 MiB: then they are shared. A power of two.
const MOST_SLOTS: usize = 1 << 15;

/// Every slot; above [`MOST_SLOTS`] several numbers mean the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Slots {
    all: Vec<Slot>,
    nears: Vec<Near>,
    doubles: Vec<Doubles>,
    given: u32,
}

impl Slots {
    /// The first of `by` new ones.
    pub(super) fn grow(&mut self, by: usize) -> u32 {
        let first = self.given;
        self.given = self.given.wrapping_add(by as u32) % (1 << 30);
        let length = (first as usize + by).clamp(self.all.len(), MOST_SLOTS);
        self.all.resize(length, Slot::NEW);
        first
    }

    /// A slot's model of numbers near others.
    pub(super) fn near(&mut self, number: usize) -> &mut Near {
        let near = &mut self.all[number % MOST_SLOTS].near;
        if *near == NONE {
            *near = self.nears.len() as u32;
            self.nears.push(Near::new());
        }
        &mut self.nears[*near as usize]
    }

    /// A slot's model of doubles.
    pub(super) fn doubles(&mut self, number: usize) -> &mut Doubles {
        let doubles = &mut self.all[number % MOST_SLOTS].doubles;
        if *doubles == NONE {
            *doubles = self.doubles.len() as u32;
            self.doubles.push(Doubles::new());
        }
        &mut self.doubles[*doubles as usize]
    }

    /// Bytes that they take.
    pub(super) const fn size(&self) -> usize {
        self.all.len() * size_of::<Slot>()
            + self.nears.len() * size_of::<Near>()
            + self.doubles.len() * size_of::<Doubles>()
    }
}

impl Index<usize> for Slots {
    type Output = Slot;

    #[inline]
    fn index(&self, number: usize) -> &Slot {
        &self.all[number % MOST_SLOTS]
    }
}

impl IndexMut<usize> for Slots {
    #[inline]
    fn index_mut(&mut self, number: usize) -> &mut Slot {
        &mut self.all[number % MOST_SLOTS]
    }
}
