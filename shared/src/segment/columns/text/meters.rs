//! Numbers in two or three symbols: how long one is, its highest bits, and the rest as it is.

use super::super::entropy::{Coder, Symbols};
use super::predict::table;

/// Places that are told apart, a power of two. What meets by its hash shares a meter.
const METERS: usize = 1 << 10;

/// Bits of a number from which on its length is two symbols more.
const LONG: u32 = 15;

/// Bits below the first that are expected, at most.
const LEARNT: u32 = 4;

#[derive(Debug, Clone, Copy)]
struct Meter {
    length: Symbols,
    long: [Symbols; 2],
    high: [Symbols; 16],
}

impl Meter {
    const NEW: Self = Self { length: Symbols::NEW, long: [Symbols::NEW; 2], high: [Symbols::NEW; 16] };
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Meters(Box<[Meter; METERS]>);

impl Default for Meters {
    fn default() -> Self {
        Self(table(Meter::NEW))
    }
}

impl Meters {
    pub(super) const SIZE: usize = METERS * size_of::<Meter>();

    #[inline(never)]
    pub(super) fn code<C: Coder>(&mut self, coder: &mut C, context: u64, value: u64) -> u64 {
        let meter = &mut self.0[(context >> 44) as usize % METERS];
        let given = 64 - value.leading_zeros();
        let class = coder.symbol(&mut meter.length, given.min(LONG) as usize) & 15;
        let mut length = class as u32;
        if length == LONG {
            let over = given.wrapping_sub(LONG) as usize;
            let high = coder.symbol(&mut meter.long[0], over >> 2 & 15) as u32;
            let low = coder.symbol(&mut meter.long[1], over & 3) as u32;
            length = (LONG + high * 4 + low).min(64);
        }
        if length < 2 {
            return u64::from(length);
        }
        let learnt = (length - 1).min(LEARNT);
        let rest = length - 1 - learnt;
        let mask = (1 << learnt) - 1;
        let high = coder.symbol(&mut meter.high[class], (value >> rest & mask) as usize) as u64 & mask;
        (1 << learnt | high) << rest | coder.raw(value, rest)
    }
}
