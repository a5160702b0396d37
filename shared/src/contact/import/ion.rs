//! ION's contact plan: commands of `ionadmin`, one a line.
//!
//! ```text
//! @ 2026/11/23-19:00:00                   relative times count from here
//! a contact +0 +480 10 20 2500000         from node 10 to node 20, bytes per second
//! a range +0 +480 10 20 1                 one-way light time in seconds, for both ways
//! ```
//!
//! Other commands are passed over, and so are comments (`#`).

use super::hdtn::join;
use super::{Entry, Found, Reader, parse_time};
use crate::config::ConfigError;

/// One line's complaint.
type Wrong = String;

#[derive(Default)]
struct Lines {
    epoch: Option<u64>,
    /// Station, start, end, seconds.
    ranges: Vec<(String, u64, u64, f64)>,
    up: Vec<(String, u64, u64, Option<u64>)>,
    found: Found,
}

pub(super) fn read(text: &str, path: &str, reader: &Reader) -> Result<Found, ConfigError> {
    let mut lines = Lines { epoch: reader.epoch, ..Lines::default() };
    for (n, line) in text.lines().enumerate() {
        lines.line(n + 1, line, reader).map_err(|message| ConfigError::Parse {
            path: path.to_owned(),
            line: n as u64 + 1,
            message,
        })?;
    }
    let Lines { ranges, up, mut found, .. } = lines;
    for entry in &mut found.entries {
        let overlaps = |(station, start, end, _): &&(String, u64, u64, f64)| {
            *station == entry.station && *start < entry.end && entry.start < *end
        };
        entry.light_time_seconds = ranges.iter().find(overlaps).map(|(.., seconds)| *seconds);
    }
    join(&mut found, &up);
    Ok(found)
}

impl Lines {
    fn line(&mut self, number: usize, line: &str, reader: &Reader) -> Result<(), Wrong> {
        let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        match words.as_slice() {
            ["@", time, ..] => self.epoch = Some(self.time(time)?),
            ["a", kind @ ("contact" | "range"), start, end, from, to, value, ..] => {
                let (start, end) = (self.time(start)?, self.time(end)?);
                let value: f64 = value.parse().map_err(|_| format!("`{value}` is not a number"))?;
                if !(0.0..1e15).contains(&value) {
                    return Err(format!("`{value}` is out of bounds"));
                }
                let down = reader.is_us(from).then(|| reader.station(to)).flatten();
                let up = reader.is_us(to).then(|| reader.station(from)).flatten();
                let (Some(station), is_down) = (down.or(up), down.is_some()) else {
                    self.found.passed_over += usize::from(*kind == "contact");
                    return Ok(());
                };
                let station = station.to_owned();
                // ION's rates are bytes per second.
                let rate = Some((value * 8.0) as u64);
                match *kind {
                    "range" => self.ranges.push((station, start, end, value)),
                    _ if is_down => self.found.entries.push(Entry {
                        key: format!("line {number}"),
                        station,
                        start,
                        end,
                        rate_down: rate,
                        ..Entry::default()
                    }),
                    _ => self.up.push((station, start, end, rate)),
                }
            }
            ["a", kind @ ("contact" | "range"), ..] => {
                return Err(format!("`a {kind}` needs a start, an end, two nodes and a number"));
            }
            _ => {}
        }
        Ok(())
    }

    /// `+SECONDS`, or `yyyy/mm/dd-hh:mm:ss`.
    fn time(&self, text: &str) -> Result<u64, Wrong> {
        if let Some(relative) = text.strip_prefix('+') {
            let seconds: u64 = relative.parse().map_err(|_| format!("`{text}` is not a time"))?;
            let epoch = self.epoch.ok_or_else(|| {
                format!(
                    "`{text}` is a relative time; write `@ yyyy/mm/dd-hh:mm:ss` above, or set contacts.epoch"
                )
            })?;
            return seconds
                .checked_mul(1_000_000_000)
                .and_then(|n| epoch.checked_add(n))
                .ok_or_else(|| format!("`{text}` is out of bounds"));
        }
        let wrong = || format!("`{text}` is not a time; ION writes yyyy/mm/dd-hh:mm:ss or +SECONDS");
        let (date, time) = text.split_once('-').ok_or_else(wrong)?;
        parse_time(&format!("{}T{time}", date.replace('/', "-"))).map_err(|_| wrong())
    }
}
