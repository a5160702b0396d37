//! Numbers as digits, by tables.

/// Powers of ten.
pub(super) const TENS: [u64; 20] = {
    let mut all = [1; 20];
    let mut n = 1;
    while n < all.len() {
        all[n] = all[n - 1] * 10;
        n += 1;
    }
    all
};

/// `00` to `99`.
static PAIRS: [[u8; 2]; 100] = {
    let mut all = [[0; 2]; 100];
    let mut n = 0;
    while n < all.len() {
        all[n] = [b'0' + (n / 10) as u8, b'0' + (n % 10) as u8];
        n += 1;
    }
    all
};

/// Appends the two digits of a number below 100.
#[inline(always)]
pub(super) fn put_pair(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&PAIRS[value as usize % 100]);
}

/// Appends a number in decimal digits, at least `width` of them (at most 20).
#[inline]
pub(super) fn put_decimal(out: &mut Vec<u8>, value: u64, width: usize) {
    if value < 10 && width <= 1 {
        return out.push(b'0' + value as u8);
    }
    if value < 100 && width == 2 {
        return put_pair(out, value);
    }
    let mut digits = [b'0'; 20];
    let (mut at, mut rest) = (digits.len(), value);
    while rest >= 10 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[(rest % 100) as usize]);
        rest /= 100;
    }
    if rest > 0 {
        at -= 1;
        digits[at] = b'0' + rest as u8;
    }
    let at = if value > 0 && digits[at] == b'0' { at + 1 } else { at };
    out.extend_from_slice(&digits[at.min(digits.len() - width.clamp(1, 20))..]);
}

/// The eight hexadecimal digits of a number.
#[inline(always)]
fn hex(value: u32, upper: bool) -> [u8; 8] {
    // Each digit moves to a byte of its own.
    let spread = u64::from(value);
    let spread = (spread | spread << 16) & 0x0000_ffff_0000_ffff;
    let spread = (spread | spread << 8) & 0x00ff_00ff_00ff_00ff;
    let spread = (spread | spread << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = (spread + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    let ahead = u64::from(if upper { b'A' - b'9' - 1 } else { b'a' - b'9' - 1 });
    (spread + 0x3030_3030_3030_3030 + letters * ahead).to_be_bytes()
}

/// Appends the lowest `digits` hexadecimal digits (at most 32).
pub(super) fn put_hex(out: &mut Vec<u8>, value: u128, digits: usize, upper: bool) {
    let mut all = [0; 32];
    for (n, to) in all.chunks_exact_mut(8).enumerate() {
        to.copy_from_slice(&hex((value >> (96 - 32 * n)) as u32, upper));
    }
    out.extend_from_slice(&all[32 - digits.min(32)..]);
}

/// Appends a UUID.
pub(super) fn put_uuid(out: &mut Vec<u8>, value: u128, upper: bool) {
    let mut rest = 32;
    for digits in [8, 4, 4, 4, 12] {
        rest -= digits;
        put_hex(out, value >> (4 * rest), digits, upper);
        if rest > 0 {
            out.push(b'-');
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn prop_numbers_are_written_as_the_standard_library_writes_them(
            value in any::<u128>(), bits in 0u32..128, width in 0usize..=20, digits in 1usize..=32,
        ) {
            let value = value >> bits;
            let (mut out, small) = (Vec::new(), value as u64);
            put_decimal(&mut out, small, width);
            prop_assert_eq!(String::from_utf8(out).unwrap(), format!("{small:0width$}"));
            let (mut lower, mut upper) = (Vec::new(), Vec::new());
            put_hex(&mut lower, value, digits, false);
            put_hex(&mut upper, value, digits, true);
            prop_assert_eq!(String::from_utf8(lower).unwrap(), format!("{value:032x}")[32 - digits..].to_owned());
            prop_assert_eq!(String::from_utf8(upper).unwrap(), format!("{value:032X}")[32 - digits..].to_owned());
        }
    }
}
