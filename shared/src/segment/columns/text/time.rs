//! Times in text: each form is a number in a unit of its own, and comes back with the same digits.

use super::digits::{TENS, put_decimal, put_pair};

/// How a time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `2026-11-26T06:25:23.123Z`: the separators, the fraction and the zone vary.
    Iso { slashes: bool, space: bool, fraction: Fraction, zone: Zone },
    /// `Nov 26 06:25:23`.
    Syslog,
    /// `06:25:23.123`.
    Clock(Fraction),
    /// `26/Nov/2026:06:25:23`.
    Clf,
}

/// How parts of a second are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fraction {
    /// At most nine; 0 when there is no separator either.
    pub(super) digits: u8,
    pub(super) comma: bool,
}

/// What stands behind a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zone {
    None,
    Utc,
    /// `+01:00`
    Colon,
    /// `+0100`
    Plain,
}

const FRACTIONS: u32 = 19;
const ISO: u32 = 4 * FRACTIONS * 4;

/// How many forms there are.
pub(super) const FORMS: u32 = ISO + 2 + FRACTIONS;

impl Fraction {
    const fn number(self) -> u32 {
        if self.digits == 0 { 0 } else { self.digits as u32 * 2 - self.comma as u32 }
    }

    const fn from_number(number: u32) -> Self {
        Self { digits: number.div_ceil(2) as u8, comma: number % 2 == 1 }
    }

    pub(super) const fn unit(self) -> u64 {
        TENS[self.digits as usize]
    }
}

impl Form {
    /// Its number, below [`FORMS`]. The numbers are persisted.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Iso { slashes, space, fraction, zone } => {
                let zone = match zone {
                    Zone::None => 0,
                    Zone::Utc => 1,
                    Zone::Colon => 2,
                    Zone::Plain => 3,
                };
                (u32::from(slashes) * 2 + u32::from(space)) * FRACTIONS * 4 + fraction.number() * 4 + zone
            }
            Self::Syslog => ISO,
            Self::Clf => ISO + 1,
            Self::Clock(fraction) => ISO + 2 + fraction.number(),
        }
    }

    /// The inverse of [`Form::number`].
    pub(super) const fn from_number(number: u32) -> Self {
        if number >= ISO + 2 {
            return Self::Clock(Fraction::from_number(number - ISO - 2));
        }
        if number >= ISO {
            return if number == ISO { Self::Syslog } else { Self::Clf };
        }
        let zone = match number % 4 {
            0 => Zone::None,
            1 => Zone::Utc,
            2 => Zone::Colon,
            _ => Zone::Plain,
        };
        let (fraction, rest) = (number / 4 % FRACTIONS, number / 4 / FRACTIONS);
        let fraction = Fraction::from_number(fraction);
        Self::Iso { slashes: rest / 2 == 1, space: rest % 2 == 1, fraction, zone }
    }

    /// Whether an offset from UTC is written.
    pub(super) const fn has_offset(self) -> bool {
        matches!(self, Self::Iso { zone: Zone::Colon | Zone::Plain, .. })
    }

    /// How many of its unit are a second.
    pub(super) const fn unit(self) -> u64 {
        match self {
            Self::Iso { fraction, .. } | Self::Clock(fraction) => fraction.unit(),
            Self::Syslog | Self::Clf => 1,
        }
    }

    /// What this form shows of `nanos` since 1970, `offset` minutes east of Greenwich.
    pub(super) fn of_nanos(self, nanos: u64, offset: i32) -> u64 {
        let shifted = (nanos as i64).saturating_add(i64::from(offset) * 60_000_000_000).max(0) as u64;
        match self {
            Self::Iso { .. } | Self::Clf => shifted / (1_000_000_000 / self.unit()),
            Self::Clock(_) => shifted % 86_400_000_000_000 / (1_000_000_000 / self.unit()),
            Self::Syslog => {
                let seconds = shifted / 1_000_000_000;
                let (_, month, day) = civil(seconds / 86_400);
                (month * 32 + day) * 86_400 + seconds % 86_400
            }
        }
    }
}

/// Days since 1970 of a date, by counting years that begin in March (H. Hinnant, "chrono-compatible low-level date algorithms").
const fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month and day of so many days since 1970.
const fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year + if month <= 2 { 1 } else { 0 };
    (year, month, of_year - (153 * from_march + 2) / 5 + 1)
}

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

fn month(text: &[u8]) -> Option<u64> {
    MONTHS.iter().position(|m| text == *m).map(|n| n as u64 + 1)
}

/// The number that `digits` are, if they are all digits.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |n, b| {
        if b.is_ascii_digit() { n.checked_mul(10)?.checked_add(u64::from(b - b'0')) } else { None }
    })
}

/// `06:25:23`, as seconds of a day.
fn clock(text: &[u8]) -> Option<u64> {
    let text = text.first_chunk::<8>()?;
    if text[2] != b':' || text[5] != b':' {
        return None;
    }
    let (h, m, s) = (decimal(&text[..2])?, decimal(&text[3..5])?, decimal(&text[6..])?);
    (h < 24 && m < 60 && s < 60).then_some(h * 3600 + m * 60 + s)
}

fn put_clock(out: &mut Vec<u8>, of_day: u64) {
    put_pair(out, of_day / 3600);
    out.push(b':');
    put_pair(out, of_day / 60 % 60);
    out.push(b':');
    put_pair(out, of_day % 60);
}

/// The fraction that `text` begins with, and its digits' value.
fn fraction(text: &[u8]) -> (Fraction, u64) {
    let none = (Fraction { digits: 0, comma: false }, 0);
    let Some((separator @ (b'.' | b','), rest)) = text.split_first() else { return none };
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 || digits > 9 {
        return none;
    }
    (Fraction { digits: digits as u8, comma: *separator == b',' }, decimal(&rest[..digits]).unwrap_or(0))
}

/// A time that was found in text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) form: Form,
    /// In the form's unit.
    pub(super) value: u64,
    /// Minutes east of Greenwich that are written behind it.
    pub(super) offset: i32,
    pub(super) length: usize,
}

/// The time that `text` begins with.
pub(super) fn find(text: &[u8]) -> Option<Found> {
    let found = match text.first()? {
        b'A'..=b'S' => syslog(text),
        b'0'..=b'9' => match text.get(2)? {
            b':' => {
                let of_day = clock(text)?;
                let (fraction, part) = fraction(&text[8..]);
                let length = 8 + fraction.digits as usize + usize::from(fraction.digits > 0);
                let value = of_day * fraction.unit() + part;
                Some(Found { form: Form::Clock(fraction), value, offset: 0, length })
            }
            b'/' => clf(text),
            _ => iso(text),
        },
        _ => None,
    }?;
    // Digits that follow would be read as part of it.
    (!text.get(found.length).is_some_and(u8::is_ascii_digit)).then_some(found)
}

fn iso(text: &[u8]) -> Option<Found> {
    let separator = *text.get(4)?;
    if !matches!(separator, b'-' | b'/') || text.get(7) != Some(&separator) || text.len() < 19 {
        return None;
    }
    let (year, month, day) = (decimal(&text[..4])?, decimal(&text[5..7])?, decimal(&text[8..10])?);
    let space = match text[10] {
        b'T' => false,
        b' ' => true,
        _ => return None,
    };
    let of_day = clock(&text[11..])?;
    if !(1970..2200).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let days = days(year, month, day);
    if civil(days) != (year, month, day) {
        return None;
    }
    let (fraction, part) = fraction(&text[19..]);
    let mut length = 19 + fraction.digits as usize + usize::from(fraction.digits > 0);
    let (zone, offset, more) = zone(&text[length..]);
    length += more;
    let form = Form::Iso { slashes: separator == b'/', space, fraction, zone };
    let value = (days * 86_400 + of_day) * fraction.unit() + part;
    Some(Found { form, value, offset, length })
}

/// The zone that `text` begins with, its offset and its length.
fn zone(text: &[u8]) -> (Zone, i32, usize) {
    let none = (Zone::None, 0, 0);
    match text.first() {
        Some(b'Z') => (Zone::Utc, 0, 1),
        Some(sign @ (b'+' | b'-')) => {
            let colon = text.get(3) == Some(&b':');
            let minutes = if colon { text.get(4..6) } else { text.get(3..5) };
            let hours = text.get(1..3).and_then(decimal);
            let (Some(hours), Some(minutes)) = (hours, minutes.and_then(decimal)) else { return none };
            let offset = (hours * 60 + minutes) as i32;
            if hours > 14 || minutes > 59 || (*sign == b'-' && offset == 0) {
                return none;
            }
            let offset = if *sign == b'-' { -offset } else { offset };
            if colon { (Zone::Colon, offset, 6) } else { (Zone::Plain, offset, 5) }
        }
        _ => none,
    }
}

fn syslog(text: &[u8]) -> Option<Found> {
    let text = text.first_chunk::<15>()?;
    let month = month(&text[..3])?;
    let day = if text[4] == b' ' { decimal(&text[5..6])? } else { decimal(&text[4..6])? };
    if text[3] != b' ' || text[6] != b' ' || day == 0 || day > 31 || text[4] == b'0' {
        return None;
    }
    let value = (month * 32 + day) * 86_400 + clock(&text[7..])?;
    Some(Found { form: Form::Syslog, value, offset: 0, length: 15 })
}

fn clf(text: &[u8]) -> Option<Found> {
    let text = text.first_chunk::<20>()?;
    let (day, month, year) = (decimal(&text[..2])?, month(&text[3..6])?, decimal(&text[7..11])?);
    if text[2] != b'/' || text[6] != b'/' || text[11] != b':' || !(1970..2200).contains(&year) {
        return None;
    }
    if day == 0 || civil(days(year, month, day)) != (year, month, day) {
        return None;
    }
    let value = days(year, month, day) * 86_400 + clock(&text[12..])?;
    Some(Found { form: Form::Clf, value, offset: 0, length: 20 })
}

/// Writes a time. `None` for a value that no time has.
pub(super) fn render(form: Form, value: u64, offset: i32, out: &mut Vec<u8>) -> Option<()> {
    let (seconds, part) = (value / form.unit(), value % form.unit());
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    if days > 84_006 || offset.unsigned_abs() > 14 * 60 + 59 {
        return None;
    }
    match form {
        Form::Iso { slashes, space, fraction, zone } => {
            let (year, month, day) = civil(days);
            let separator = if slashes { b'/' } else { b'-' };
            put_decimal(out, year, 4);
            out.push(separator);
            put_pair(out, month);
            out.push(separator);
            put_pair(out, day);
            out.push(if space { b' ' } else { b'T' });
            put_clock(out, of_day);
            put_fraction(out, fraction, part);
            put_zone(out, zone, offset);
        }
        Form::Clock(fraction) => {
            if days > 0 {
                return None;
            }
            put_clock(out, of_day);
            put_fraction(out, fraction, part);
        }
        Form::Syslog => {
            out.extend_from_slice(*MONTHS.get((days / 32).checked_sub(1)? as usize)?);
            out.push(b' ');
            let day = days % 32;
            if day < 10 {
                out.push(b' ');
            }
            put_decimal(out, day, 1);
            out.push(b' ');
            put_clock(out, of_day);
        }
        Form::Clf => {
            let (year, month, day) = civil(days);
            put_pair(out, day);
            out.push(b'/');
            out.extend_from_slice(*MONTHS.get(month as usize - 1)?);
            out.push(b'/');
            put_decimal(out, year, 4);
            out.push(b':');
            put_clock(out, of_day);
        }
    }
    Some(())
}

fn put_fraction(out: &mut Vec<u8>, fraction: Fraction, part: u64) {
    if fraction.digits > 0 {
        out.push(if fraction.comma { b',' } else { b'.' });
        put_decimal(out, part, usize::from(fraction.digits));
    }
}

fn put_zone(out: &mut Vec<u8>, zone: Zone, offset: i32) {
    match zone {
        Zone::None => {}
        Zone::Utc => out.push(b'Z'),
        Zone::Colon | Zone::Plain => {
            out.push(if offset < 0 { b'-' } else { b'+' });
            put_pair(out, u64::from(offset.unsigned_abs()) / 60);
            if zone == Zone::Colon {
                out.push(b':');
            }
            put_pair(out, u64::from(offset.unsigned_abs()) % 60);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_as_they_were_written() {
        for text in [
            "2026-11-26T06:25:23.123456789Z",
            "2026-11-26 06:25:23,007",
            "2026/11/26 06:25:23",
            "1970-01-01T00:00:00+01:30",
            "2024-02-29T23:59:59.5-0800",
            "2199-12-31T23:59:59.000000001+14:00",
            "Nov 26 06:25:23",
            "Jan  1 00:00:00",
            "26/Nov/2026:06:25:23",
            "06:25:23.250",
            "23:59:59",
        ] {
            let found = find(text.as_bytes()).unwrap_or_else(|| panic!("{text}"));
            let mut out = Vec::new();
            render(found.form, found.value, found.offset, &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), text);
            assert_eq!(Form::from_number(found.form.number()), found.form);
        }
    }

    #[test]
    fn what_no_calendar_has_is_no_time() {
        for text in ["2026-02-30T00:00:00Z", "2026-13-01T00:00:00", "24:00:00", "06:60:00", "Nov 00 06:25:23"]
        {
            assert!(find(text.as_bytes()).is_none(), "{text}");
        }
        for number in 0..FORMS {
            assert_eq!(Form::from_number(number).number(), number);
            render(Form::from_number(number), u64::MAX, i32::MIN, &mut Vec::new());
        }
    }

    #[test]
    fn a_form_shows_the_records_own_time() {
        let nanos = 1_795_674_323_123_456_789;
        for text in ["2026-11-26T06:25:23.123Z", "Nov 26 06:25:23", "06:25:23,123456", "26/Nov/2026:06:25:23"]
        {
            let found = find(text.as_bytes()).unwrap();
            assert_eq!(found.form.of_nanos(nanos, 0), found.value, "{text}");
        }
    }
}
