//! Values in text, each expected by its place.

use super::super::entropy::Coder;
use super::digits::{TENS, put_decimal};
use super::history::{History, Step};
use super::predict::{Hit, Predictor, mix, table};
use super::time::{self, Form};
use super::tokens::MOST_DIGITS;

/// Places that are told apart, a power of two.
const SLOTS: usize = 1 << 12;

/// What a place has seen.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    check: u16,
    /// Digits that numbers here have at least.
    width: u8,
    /// Whether each of the last three was as expected.
    history: u8,
    /// How many numbers before it in its line the same one stood last, 0: none was the same yet.
    back: u8,
    offset: i32,
    last: u64,
    step: u64,
    /// The last one, less what the record's time says.
    shift: u64,
    /// How far off each expectation was lately, in bits times 32.
    cost: [u32; 4],
}

/// Where a value stands.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// A hash of the place in its template.
    pub(super) slot: u64,
    /// By what the last value there is found: two places of which one took over the other's chain have two.
    pub(super) own: u64,
    /// A hash of the last value in the line.
    pub(super) variable: u64,
    /// A hash of all values before it but times.
    pub(super) values: u64,
    /// The record's time.
    pub(super) time: u64,
    /// A hash of the place and the value's kind, and of the line's first value: by these it is guessed.
    pub(super) step: u64,
    pub(super) first: Option<u64>,
    pub(super) history: &'a mut History,
}

/// Numbers of a line that are compared with one behind them.
const EARLIER: usize = 8;

/// Numbers from here on are known by where they are kept, so that they too fit into cells and steps.
const LARGE: u64 = 0xffff_0000;

/// How many are kept.
const KEPT: usize = 1 << 7;

/// Large numbers, the latest; from codec 8 on.
#[derive(Debug, Clone, Default)]
struct Large {
    is_on: bool,
    kept: Vec<u64>,
    newest: usize,
}

impl Large {
    /// What stands for a number in cells and steps; [`u32::MAX`] if nothing does.
    #[inline(always)]
    fn name(&self, value: u64) -> u32 {
        if value < LARGE { value as u32 } else { self.name_of_large(value) }
    }

    #[inline(never)]
    fn name_of_large(&self, value: u64) -> u32 {
        if !self.is_on {
            return u32::try_from(value).unwrap_or(u32::MAX);
        }
        let at = self.kept.iter().position(|kept| *kept == value);
        at.map_or(u32::MAX, |at| LARGE as u32 + at as u32)
    }

    /// The number for which that stands.
    #[inline(always)]
    fn named(&self, name: u32) -> u64 {
        let at = u64::from(name).checked_sub(LARGE).filter(|_| self.is_on);
        at.and_then(|at| self.kept.get(at as usize)).copied().unwrap_or(u64::from(name))
    }

    /// How long ago a number was kept of which this is the name.
    fn back(&self, name: u32) -> u64 {
        (self.newest as u64 + KEPT as u64 + LARGE).wrapping_sub(u64::from(name)) % KEPT as u64
    }

    /// The name of the one that was kept so long ago; its inverse.
    fn name_back(&self, back: u64) -> u32 {
        (LARGE + (self.newest as u64 + KEPT as u64).wrapping_sub(back) % KEPT as u64) as u32
    }

    /// The name of a number, which is kept from now on if it is large.
    #[inline(never)]
    fn keep(&mut self, value: u64) -> u32 {
        let name = self.name(value);
        if name != u32::MAX || !self.is_on {
            return name;
        }
        self.newest = if self.kept.is_empty() { 0 } else { (self.newest + 1) % KEPT };
        match self.kept.get_mut(self.newest) {
            Some(oldest) => *oldest = value,
            None => self.kept.push(value),
        }
        LARGE as u32 + self.newest as u32
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    all: Box<[Slot; SLOTS]>,
    /// The last numbers of the line, the latest first.
    earlier: [u64; EARLIER],
    large: Large,
}

impl Default for Slots {
    fn default() -> Self {
        Self { all: table(Slot::default()), earlier: [0; EARLIER], large: Large::default() }
    }
}

/// How near hexadecimal digits are to the last ones at their place, if that is worth while.
const NEAR_HEX: u64 = 256;

/// Bits below the first that are expected of a number.
const LEARNT: u32 = 6;

const fn digits_of(value: u64) -> u32 {
    if value == 0 { 1 } else { value.ilog10() + 1 }
}

impl Slots {
    pub(super) const SIZE: usize = SLOTS * size_of::<Slot>() + KEPT * size_of::<u64>();

    /// A segment begins; in one of codec 8 large numbers are kept.
    pub(super) const fn keep_large(&mut self, keep: bool) {
        self.large.is_on = keep;
    }

    /// A line begins.
    pub(super) const fn begin(&mut self) {
        self.earlier = [0; EARLIER];
    }

    fn slot(&mut self, place: u64) -> &mut Slot {
        let slot = &mut self.all[(place >> 44) as usize % SLOTS];
        let check = place as u16;
        if slot.check != check {
            *slot = Slot { check, ..Slot::default() };
        }
        slot
    }

    /// A number near one of a few, at a place and with its models.
    fn near<C: Coder>(
        &mut self,
        coder: &mut C,
        predictor: &mut Predictor,
        [place, models]: [u64; 2],
        value: u64,
        near: &[u64],
    ) -> u64 {
        let slot = self.slot(place);
        let mut best = 0;
        for n in 1..near.len() {
            if slot.cost[n] < slot.cost[best] {
                best = n;
            }
        }
        let context = mix(models, 20 + best as u64);
        let exact = mix(context, u64::from(slot.history & 7));
        let hit = predictor.bit(coder, exact, value == near[best]);
        slot.history = slot.history << 1 | u8::from(hit);
        let value = if hit {
            near[best]
        } else {
            let off = value.wrapping_sub(near[best]);
            near[best].wrapping_add(predictor.signed(coder, context, LEARNT, off))
        };
        for (cost, near) in slot.cost.iter_mut().zip(near) {
            let off = value.wrapping_sub(*near) as i64;
            let bits = 64 - off.unsigned_abs().leading_zeros();
            *cost = *cost - *cost / 8 + bits * 4;
        }
        value
    }

    /// Takes a number, or hexadecimal digits, at a place.
    pub(super) fn saw(&mut self, place: u64, value: u64) {
        let slot = self.slot(place);
        slot.step = value.wrapping_sub(slot.last);
        slot.last = value;
    }

    /// So many hexadecimal digits near the last ones at a place; `None` if they are not.
    pub(super) fn near_hex<C: Coder>(
        &mut self,
        coder: &mut C,
        predictor: &mut Predictor,
        [place, models]: [u64; 2],
        value: u64,
        digits: u8,
    ) -> Option<u64> {
        let slot = *self.slot(place);
        let near = [slot.last, slot.last.wrapping_add(slot.step)];
        let is_near = value == near[1] || value.abs_diff(slot.last) < NEAR_HEX;
        if !predictor.bit(coder, mix(models, 17), is_near) {
            return None;
        }
        let value = self.near(coder, predictor, [place, models], value, &near);
        Some(value & ((1 << (digits * 4)) - 1))
    }

    /// A decimal number of so many digits, and what stands for it in steps; `None` if it would have more than a number has.
    pub(super) fn number<C: Coder>(
        &mut self,
        coder: &mut C,
        predictor: &mut Predictor,
        place: Place<'_>,
        value: u64,
        digits: u32,
        out: &mut Vec<u8>,
    ) -> Option<(u64, u32)> {
        let behind = mix(mix(place.slot, place.variable), 31);
        let pair = predictor.pair_of_number([mix(place.slot, 30), behind], mix(place.values, 30));
        let certain = predictor.is_certain(pair);
        let guesses = place.history.guess(Step::Value, place.step, place.first, certain);
        let given = if C::ENCODES { self.large.name(value) } else { u32::MAX };
        let (value, name) = match predictor.code(coder, 2, pair, given, guesses) {
            Hit::First(name) | Hit::Other(name) => (self.large.named(name), name),
            Hit::Missed => {
                let slot = *self.slot(place.own);
                let is_kept = u64::from(given) >= LARGE && given != u32::MAX;
                let value = if self.large.is_on
                    && slot.last >= LARGE
                    && predictor.bit(coder, mix(place.slot, 34), is_kept)
                {
                    let back = predictor.number(coder, mix(place.slot, 35), 3, self.large.back(given));
                    self.large.named(self.large.name_back(back))
                } else {
                    let same = self.earlier[usize::from(slot.back).saturating_sub(1) % EARLIER];
                    let near = [0, slot.last, slot.last.wrapping_add(slot.step), same];
                    let near = &near[..if predictor.is_near { 4 } else { 3 }];
                    self.near(coder, predictor, [place.own, place.slot], value, near)
                };
                if let Some(n) = self.earlier.iter().position(|earlier| *earlier == value) {
                    self.slot(place.own).back = n as u8 + 1;
                }
                let name = self.large.keep(value);
                if name != u32::MAX {
                    predictor.learn(pair, name);
                }
                (value, name)
            }
        };
        self.earlier.copy_within(..EARLIER - 1, 1);
        self.earlier[0] = value;
        self.saw(place.own, value);
        let slot = self.slot(place.own);
        let natural = digits_of(value);
        let expected = natural.max(u32::from(slot.width));
        let mut written = expected;
        if !predictor.bit(coder, mix(place.slot, 32), digits == expected) {
            let zeros = digits.wrapping_sub(natural);
            written = natural + predictor.tree(coder, mix(place.slot, 33), 5, u64::from(zeros)) as u32;
            slot.width = if written > natural { written as u8 } else { 0 };
        }
        if written as usize > MOST_DIGITS.max(natural as usize) {
            return None;
        }
        put_decimal(out, value, (written as usize).min(MOST_DIGITS));
        Some((value, name))
    }

    /// A time in units of which `own` says how many the record's time is.
    fn moment<C: Coder>(
        &mut self,
        coder: &mut C,
        predictor: &mut Predictor,
        place: Place<'_>,
        value: u64,
        own: u64,
    ) -> u64 {
        let slot = *self.slot(place.own);
        let near = [own, slot.last, own.wrapping_add(slot.shift)];
        let value = self.near(coder, predictor, [place.own, place.slot], value, &near);
        let slot = self.slot(place.own);
        slot.last = value;
        slot.shift = value.wrapping_sub(own);
        value
    }

    /// Seconds since 1970, as a whole number with `places` more digits.
    pub(super) fn epoch<C: Coder>(
        &mut self,
        coder: &mut C,
        predictor: &mut Predictor,
        place: Place<'_>,
        value: u64,
        places: u32,
        out: &mut Vec<u8>,
    ) -> u64 {
        let own = place.time / TENS[9 - places.min(9) as usize];
        let value = self.moment(coder, predictor, place, value, own);
        put_decimal(out, value, 1);
        value
    }

    /// Seconds since 1970 with `digits` decimal places.
    pub(super) fn epoch_fraction<C: Coder>(
        &mut self,
        coder: &mut C,
        predictor: &mut Predictor,
        place: Place<'_>,
        value: u64,
        digits: u32,
        out: &mut Vec<u8>,
    ) -> u64 {
        let own = place.time / TENS[9 - digits.min(9) as usize];
        let value = self.moment(coder, predictor, place, value, own);
        let unit = TENS[digits as usize];
        put_decimal(out, value / unit, 1);
        out.push(b'.');
        put_decimal(out, value % unit, digits as usize);
        value
    }

    /// A time of day or of a calendar.
    #[expect(clippy::too_many_arguments, reason = "a value, and where it stands")]
    pub(super) fn time<C: Coder>(
        &mut self,
        coder: &mut C,
        predictor: &mut Predictor,
        place: Place<'_>,
        form: Form,
        value: u64,
        offset: i32,
        out: &mut Vec<u8>,
    ) -> Option<u64> {
        let mut offset = offset;
        if form.has_offset() {
            let last = self.slot(place.slot).offset;
            if predictor.bit(coder, mix(place.slot, 40), offset == last) {
                offset = last;
            } else {
                offset = coder.raw((offset + (1 << 11)) as u64, 12) as i32 - (1 << 11);
                self.slot(place.slot).offset = offset;
            }
        }
        let own = form.of_nanos(place.time, offset);
        let value = self.moment(coder, predictor, place, value, own);
        time::render(form, value, offset, out)?;
        Some(value)
    }

    /// An IPv4 address.
    pub(super) fn address<C: Coder>(
        &mut self,
        coder: &mut C,
        predictor: &mut Predictor,
        place: Place<'_>,
        value: u32,
        out: &mut Vec<u8>,
    ) -> u64 {
        let pair = predictor.pair_of_place([mix(place.slot, 50), mix(mix(place.slot, place.variable), 51)]);
        let certain = predictor.is_certain(pair);
        let guesses = place.history.guess(Step::Value, place.step, place.first, certain);
        let value = match predictor.code(coder, 2, pair, value, guesses) {
            Hit::First(value) | Hit::Other(value) => value,
            Hit::Missed => {
                let mut found = 0;
                let mut context = mix(place.slot, 52);
                for byte in value.to_be_bytes() {
                    let byte = predictor.tree(coder, context, 8, u64::from(byte));
                    context = mix(context, byte);
                    found = found << 8 | byte as u32;
                }
                predictor.learn(pair, found);
                found
            }
        };
        for (n, byte) in value.to_be_bytes().into_iter().enumerate() {
            if n > 0 {
                out.push(b'.');
            }
            put_decimal(out, u64::from(byte), 1);
        }
        u64::from(value)
    }
}
