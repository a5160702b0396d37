//! Times as plans write them.

use std::time::UNIX_EPOCH;

/// ns since the Unix epoch of `2026-11-23T19:00:00Z`, with or without fractions, a zone (UTC when absent) and the `T`; also by
/// the day of the year, `2026-327T19:00:00Z`.
pub fn parse_time(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a time; write for example 2026-11-23T19:00:00Z");
    let text = text.trim();
    let (local, offset) = zone(text).ok_or_else(wrong)?;
    let (first, days) = by_day_of_year(local).unwrap_or_else(|| (local.to_owned(), 0));
    let time = humantime::parse_rfc3339_weak(&first).map_err(|_| wrong())?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| wrong())?;
    let seconds = i64::try_from(since.as_secs()).map_err(|_| wrong())? + days * 86_400 - offset;
    let nano = u64::try_from(seconds).ok().and_then(|s| s.checked_mul(1_000_000_000)).ok_or_else(wrong)?;
    nano.checked_add(since.subsec_nanos().into()).ok_or_else(wrong)
}

/// Of `2026-327T19:00:00` the same time on the first of January, and how many days later it is.
fn by_day_of_year(local: &str) -> Option<(String, i64)> {
    let (date, time) = local.split_once(['T', ' '])?;
    let (year, day) = date.split_once('-').filter(|(_, day)| day.len() == 3)?;
    let number: i64 = year.parse().ok()?;
    let leap = number % 4 == 0 && (number % 100 != 0 || number % 400 == 0);
    let day: i64 = day.parse().ok().filter(|day| (1..=365 + i64::from(leap)).contains(day))?;
    Some((format!("{year}-01-01T{time}"), day - 1))
}

/// The time without its zone, and the zone in seconds east of UTC.
fn zone(text: &str) -> Option<(&str, i64)> {
    let Some(at) = text.rfind(['+', '-']).filter(|at| *at >= 16) else { return Some((text, 0)) };
    let (local, zone) = text.split_at(at);
    let digits: String = zone[1..].chars().filter(|c| *c != ':').collect();
    if digits.len() != 4 || !digits.is_ascii() {
        return None;
    }
    let (hours, minutes): (i64, i64) = (digits[..2].parse().ok()?, digits[2..].parse().ok()?);
    let seconds = hours * 3600 + minutes * 60;
    Some((local, if zone.starts_with('-') { -seconds } else { seconds }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_may_have_a_zone() {
        let noon = parse_time("2026-11-23T12:00:00Z").unwrap();
        for same in [
            "2026-11-23T12:00:00",
            "2026-11-23 12:00:00",
            "2026-11-23T12:00:00+00:00",
            "2026-327T12:00:00.000Z",
            "2026-327 12:00:00",
            "2026-327T14:30:00+02:30",
            "2026-11-23T14:30:00.000+02:30",
            "2026-11-23T07:00:00-0500",
        ] {
            assert_eq!(parse_time(same), Ok(noon), "{same}");
        }
        for wrong in [
            "",
            "noon",
            "2026-11-23",
            "2026-11-23T12:00:00+1",
            "2026-366T12:00:00",
            "2026-000T12:00:00",
            "1960-01-01T00:00:00Z",
            "2026-11-23T12:00:00+é0:0",
            "2026-11-23T12:00:00-0é0",
        ] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
