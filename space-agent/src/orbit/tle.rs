//! TLEs: two lines a set, with or without a line for the name above them.

use super::elements::{Found, Set, Wrong};
use perigee_shared::contact::catalogue_number;

/// A line without its checksum.
const LENGTH: usize = 68;

/// Reads the sets in `text`. Blank lines and comments (`#`) are passed over; a line that is neither the first nor the second of a
/// set is the name of what follows.
pub(super) fn read(text: &str, found: &mut Found) {
    let mut name: Option<&str> = None;
    let mut first: Option<&str> = None;
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        let place = format!("line {}", n + 1);
        if line.is_empty() || line.starts_with('#') {
        } else if is_line(line, '1') && first.is_none() {
            first = Some(line);
        } else if is_line(line, '2') {
            let (first, name) = (first.take(), name.take());
            let first = first.ok_or_else(|| "not a TLE: there is no first line above it".to_owned());
            found.add(&place, first.and_then(|first| one(first, line, name)));
        } else {
            if first.take().is_some() {
                found.add(&place, Err("not a TLE: the second line is missing above it".into()));
            }
            let title = line.strip_prefix("0 ").unwrap_or(line).trim();
            // The first of two first lines is broken off; the second one counts.
            if is_line(line, '1') {
                first = Some(line);
            } else {
                name = Some(title);
            }
        }
    }
    if first.is_some() {
        found.add("the end", Err("not a TLE: the second line is missing".into()));
    }
}

/// Whether it is the first or the second line of a set, and no name that begins with the same digit. The first one holds what
/// is needed up to B*, the second one up to the mean motion.
fn is_line(line: &str, number: char) -> bool {
    if line.len() < if number == '1' { 61 } else { 63 } {
        return false;
    }
    let rest = line.strip_prefix(number).and_then(|rest| rest.strip_prefix(' '));
    rest.and_then(|rest| rest.get(..5)).is_some_and(|number| catalogue_number(number).is_some())
}

fn one(first: &str, second: &str, name: Option<&str>) -> Result<Set, Wrong> {
    // Element set number, ephemeris type and classification; revolutions at epoch.
    let first = filled(first, &[(7, 8, "U"), (62, 63, "0"), (64, 68, "   0")])?;
    let second = filled(second, &[(63, 68, "    0")])?;
    let elements = sgp4::Elements::from_tle(None, &first, &second).map_err(|e| format!("not a TLE: {e}"))?;
    Set::from_tle(&elements, name)
}

/// A line with what may be blank in it filled in, and its checksum if that is absent.
fn filled(line: &str, blanks: &[(usize, usize, &str)]) -> Result<Vec<u8>, Wrong> {
    if !line.is_ascii() {
        return Err("not a TLE: a letter that no TLE has".into());
    }
    let mut line = line.as_bytes().to_vec();
    if line.len() < LENGTH {
        line.resize(LENGTH, b' ');
    }
    for (from, to, with) in blanks {
        if line[*from..*to].iter().all(|byte| *byte == b' ') {
            line[*from..*to].copy_from_slice(with.as_bytes());
        }
    }
    if line.len() == LENGTH {
        let value = |byte: &u8| match byte {
            b'0'..=b'9' => u32::from(byte - b'0'),
            b'-' => 1,
            _ => 0,
        };
        line.push(b'0' + (line.iter().map(value).sum::<u32>() % 10) as u8);
    }
    // The parser takes this for granted.
    if !line[LENGTH].is_ascii_digit() {
        return Err("not a TLE: its checksum is not a digit".into());
    }
    Ok(line)
}
