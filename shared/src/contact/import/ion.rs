//! ION's contact plan: commands of `ionadmin`, one a line.
//!
//! ```text
//! @ 2026/11/23-19:00:00                   relative times count from here
//! a contact +0 +480 10 20 2500000         from node 10 to node 20, bytes per second
//! a range +0 +480 10 20 1                 one-way light time in seconds
//! c contact +0 10 20 1250000              another rate for the contact that begins then
//! d contact +0 10 20                      there is no such contact; `*` for +0 is all of them
//! a contact -1 -1 10 10 0                 a registration: node 10 belongs to the region
//! a contact 0 0 10 20 0                   hypothetical: nobody knows when
//! ```
//!
//! Registrations, hypothetical contacts and contacts of a node with itself plan nothing. `ionadmin`'s other commands, other programs'
//! sections of a start script (`## begin bpadmin`) and comments (`#`) are passed over; what is no command of it is a warning.

use std::sync::Arc;

use super::{Entry, Found, MOST_RATE, Reader, Said, Way, parse_time};
use crate::config::Invalid;

/// One line's complaint.
type Wrong = String;

/// What ION takes -1 for as an end, ns since the Unix epoch: the last second that 31 bits count.
const LATEST: u64 = 2_147_483_647_000_000_000;

struct Lines<'a> {
    reader: &'a Reader,
    epoch: Option<u64>,
    /// In another program's section.
    elsewhere: bool,
    found: Found,
    up: Vec<Said<Option<u64>>>,
    /// In seconds, as said for the way down and for the way up.
    ranges: [Vec<Said<f64>>; 2],
}

pub(super) fn read(text: &str, reader: &Reader) -> Found {
    let (found, up) = (Found::default(), Vec::new());
    let mut lines =
        Lines { reader, epoch: reader.epoch, elsewhere: false, found, up, ranges: Default::default() };
    for (n, line) in text.lines().enumerate() {
        let key = format!("line {}", n + 1);
        if let Err(message) = lines.line(&key, line) {
            lines.found.unusable(Invalid::new(key, message));
        }
    }
    let Lines { ranges: [mut down, mut back], up, mut found, .. } = lines;
    // A range that is said for one way alone holds for both.
    found.say(&mut back, |entry, seconds| entry.light_time_seconds = Some(*seconds));
    found.say(&mut down, |entry, seconds| entry.light_time_seconds = Some(*seconds));
    found.say_rates_up(up);
    found
}

impl Lines<'_> {
    fn line(&mut self, key: &str, line: &str) -> Result<(), Wrong> {
        if let Some(section) = line.trim_start().strip_prefix("##") {
            let mut words = section.split_whitespace();
            match (words.next(), words.next()) {
                (Some("begin"), Some(program)) => self.elsewhere = program != "ionadmin",
                (Some("end"), _) => self.elsewhere = false,
                _ => {}
            }
        }
        let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        match words.as_slice() {
            ["@", time, ..] => self.epoch = Some(self.time(time)?),
            // A node that reaches itself reaches no station.
            ["a", "contact" | "range", _, _, from, to, ..]
            | ["c" | "d", "contact" | "range", _, from, to, ..]
                if from == to =>
            {
                self.found.ours |= self.reader.is_us(from) && self.reader.station(to).is_some();
            }
            ["a", "contact", "-1", ..] => {}
            ["a", "contact", "0", _, from, to, ..] | ["a", "contact", _, "0", from, to, ..] => {
                self.found.ours |= self.reader.way(from, to).is_some();
            }
            ["a", "contact", start, end, from, to, value, ..] => {
                self.add_contact(key, [start, end, from, to, value])?
            }
            ["a", "range", start, end, from, to, value, ..] => {
                self.add_range([start, end, from, to, value])?
            }
            ["a", kind @ ("contact" | "range"), ..] => {
                return Err(format!("`a {kind}` needs a start, an end, two nodes and a number"));
            }
            ["c", "contact", start, from, to, value, ..] => self.change_contact(start, from, to, value)?,
            ["d", kind @ ("contact" | "range"), start, from, to, ..] => self.delete(kind, start, from, to)?,
            // They plan nothing.
            []
            | ["1" | "e" | "h" | "?" | "i" | "l" | "m" | "q" | "r" | "s" | "v" | "w" | "x" | "^" | "!", ..] =>
                {}
            _ if self.elsewhere => {}
            [first, ..] => {
                let second = words.get(1).copied().unwrap_or_default();
                let message = format!("`{} {second}` is no command of ionadmin", first.trim());
                self.found.unusable.push(format!("{key}: {message}; skipped"));
            }
        }
        Ok(())
    }

    fn add_contact(&mut self, key: &str, [start, end, from, to, value]: [&str; 5]) -> Result<(), Wrong> {
        let Some((station, way)) = self.reader.way(from, to) else {
            self.found.of_others(key.to_owned());
            return Ok(());
        };
        let start = self.time(start)?;
        let end = if end == "-1" { LATEST } else { self.time(end)? };
        let (rate, station) = (Some(rate(value)?), Arc::clone(station));
        if way == Way::Up {
            self.up.push(Said { station, start, end, value: rate });
            return Ok(());
        }
        // A plan whose contacts were over when it was loaded has been read.
        self.found.ours = true;
        self.found.entries.push(Entry {
            key: key.to_owned(),
            station,
            start,
            end,
            rate_down: rate,
            ..Entry::default()
        });
        Ok(())
    }

    fn add_range(&mut self, [start, end, from, to, value]: [&str; 5]) -> Result<(), Wrong> {
        let Some((station, way)) = self.reader.way(from, to) else { return Ok(()) };
        let (start, end) = (self.time(start)?, self.time(end)?);
        let value = number(value)?;
        self.ranges[way as usize].push(Said { station: Arc::clone(station), start, end, value });
        Ok(())
    }

    fn change_contact(&mut self, start: &str, from: &str, to: &str, value: &str) -> Result<(), Wrong> {
        let Some((station, way)) = self.reader.way(from, to) else { return Ok(()) };
        let (start, value) = (self.time(start)?, Some(rate(value)?));
        match way {
            Way::Down => {
                let entries = self.found.entries.iter_mut();
                entries
                    .filter(|e| &e.station == station && e.start == start)
                    .for_each(|e| e.rate_down = value);
            }
            Way::Up => {
                let said = self.up.iter_mut();
                said.filter(|s| &s.station == station && s.start == start).for_each(|s| s.value = value);
            }
        }
        Ok(())
    }

    fn delete(&mut self, kind: &str, start: &str, from: &str, to: &str) -> Result<(), Wrong> {
        // Of a registration and a hypothetical contact, of which there is nothing to delete.
        if matches!(start, "-1" | "0") {
            return Ok(());
        }
        let Some((station, way)) = self.reader.way(from, to) else { return Ok(()) };
        let at = if start == "*" { None } else { Some(self.time(start)?) };
        let stays = |other: &Arc<str>, start: u64| other != station || at.is_some_and(|at| at != start);
        self.found.ours = true;
        match (kind, way) {
            ("range", way) => self.ranges[way as usize].retain(|s| stays(&s.station, s.start)),
            (_, Way::Down) => self.found.entries.retain(|e| stays(&e.station, e.start)),
            (_, Way::Up) => self.up.retain(|s| stays(&s.station, s.start)),
        }
        Ok(())
    }

    /// `+SECONDS`, or `yyyy/mm/dd-hh:mm:ss`.
    fn time(&self, text: &str) -> Result<u64, Wrong> {
        let wrong = || format!("`{text}` is not a time; ION writes yyyy/mm/dd-hh:mm:ss or +SECONDS");
        if let Some(relative) = text.strip_prefix('+') {
            let seconds: u64 = relative.parse().map_err(|_| wrong())?;
            let epoch = self.epoch.ok_or_else(|| {
                format!(
                    "`{text}` is a relative time; write `@ yyyy/mm/dd-hh:mm:ss` above, or set contacts.epoch"
                )
            })?;
            // A contact may last as long as one likes.
            return Ok(epoch.saturating_add(seconds.saturating_mul(1_000_000_000)));
        }
        let (date, time) = text.split_once('-').ok_or_else(wrong)?;
        let padded = |text: &str, by: char, with: &str| -> String {
            text.split(by).map(|part| format!("{part:0>2}")).collect::<Vec<_>>().join(with)
        };
        parse_time(&format!("{}T{}", padded(date, '/', "-"), padded(time, ':', ":"))).map_err(|_| wrong())
    }
}

fn number(text: &str) -> Result<f64, Wrong> {
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    (0.0..1e15).contains(&value).then_some(value).ok_or_else(|| format!("`{text}` is out of bounds"))
}

/// ION's rates are bytes per second.
fn rate(text: &str) -> Result<u64, Wrong> {
    match (number(text)? * 8.0) as u64 {
        0 => Err("the rate of a contact must be above 0".to_owned()),
        rate => Ok(rate.min(MOST_RATE)),
    }
}
