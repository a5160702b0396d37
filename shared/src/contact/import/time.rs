//! Times as plans write them.

use std::time::UNIX_EPOCH;

/// ns since the Unix epoch of `2026-11-23T19:00:00Z`, with or without fractions, a zone (UTC when absent) and the `T`.
pub fn parse_time(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a time; write for example 2026-11-23T19:00:00Z");
    let text = text.trim();
    let (local, offset) = zone(text).ok_or_else(wrong)?;
    let time = humantime::parse_rfc3339_weak(local).map_err(|_| wrong())?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| wrong())?;
    let nano = i64::try_from(since.as_nanos()).map_err(|_| wrong())?;
    u64::try_from(nano - offset * 1_000_000_000).map_err(|_| wrong())
}

/// The time without its zone, and the zone in seconds east of UTC.
fn zone(text: &str) -> Option<(&str, i64)> {
    let Some(at) = text.rfind(['+', '-']).filter(|at| *at >= 16) else { return Some((text, 0)) };
    let (local, zone) = text.split_at(at);
    let digits: String = zone[1..].chars().filter(|c| *c != ':').collect();
    if digits.len() != 4 {
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
            "1960-01-01T00:00:00Z",
            "2026-11-23T12:00:00+é0:0",
        ] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
