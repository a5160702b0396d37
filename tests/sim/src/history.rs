//! What really happened to every item: which were accepted, and which came out at which ledger's backend, and when.

use std::collections::BTreeSet;
use std::time::Duration;

use perigee_shared::signal::Signal;

use crate::items;

/// A set of item numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Items(Vec<u64>);

impl Items {
    /// Adds `n`; whether it was in it before.
    pub fn insert(&mut self, n: u64) -> bool {
        let (word, bit) = ((n / 64) as usize, 1 << (n % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let was = self.0[word] & bit != 0;
        self.0[word] |= bit;
        was
    }

    /// Whether `n` is in it.
    pub fn contains(&self, n: u64) -> bool {
        self.0.get((n / 64) as usize).is_some_and(|word| word & 1 << (n % 64) != 0)
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().zip(0u64..).flat_map(|(word, n)| {
            let word = *word;
            (0..64).filter(move |bit| word & 1 << bit != 0).map(move |bit| n * 64 + bit)
        })
    }
}

/// The items of one satellite.
#[derive(Debug, Default)]
pub struct Origin {
    /// Those that the agent has accepted.
    pub accepted: Items,
    /// Requests that it has refused, to be sent again.
    pub refused: u64,
    /// Bytes of OTLP accepted.
    pub raw_bytes: u64,
    /// First item and time of each accepted request, in order.
    requests: Vec<(u64, Duration)>,
}

impl Origin {
    fn accepted_at(&self, item: u64) -> Option<Duration> {
        let at = self.requests.partition_point(|(first, _)| *first <= item);
        at.checked_sub(1).map(|n| self.requests[n].1)
    }
}

/// What came out at the backend of one ledger.
#[derive(Debug, Default)]
pub struct Output {
    /// Items by satellite.
    pub exported: Vec<Items>,
    /// Items that came a second time without any crash that would explain it.
    pub twice: u64,
    /// Items of requests that a crash had left undecided and that came again.
    pub repeated: u64,
    /// Lines that name no item.
    pub unknown: u64,
    last: BTreeSet<u64>,
    undecided: BTreeSet<u64>,
}

/// Delays of what has been delivered since they were last taken.
#[derive(Debug, Clone, Copy, Default)]
pub struct Delays {
    /// How many.
    pub items: u64,
    /// Their sum in seconds.
    pub sum: f64,
    /// The longest in seconds.
    pub longest: f64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct History {
    /// By satellite.
    pub origins: Vec<Origin>,
    /// By ledger.
    pub outputs: Vec<Output>,
    /// Since the last sample.
    pub delays: Delays,
}

impl History {
    /// Nothing has happened yet.
    pub fn new(satellites: usize, ledgers: usize) -> Self {
        let output = || Output { exported: vec![Items::default(); satellites], ..Output::default() };
        Self {
            origins: (0..satellites).map(|_| Origin::default()).collect(),
            outputs: (0..ledgers).map(|_| output()).collect(),
            delays: Delays::default(),
        }
    }

    /// An agent has accepted these items.
    pub fn accepted(&mut self, satellite: u16, first: u64, count: u64, bytes: usize, now: Duration) {
        let origin = &mut self.origins[usize::from(satellite)];
        for n in first..first + count {
            origin.accepted.insert(n);
        }
        origin.raw_bytes += bytes as u64;
        origin.requests.push((first, now));
    }

    /// The power of a ground has gone: what it sent last may come again.
    pub fn crashed(&mut self, ledger: usize) {
        let output = &mut self.outputs[ledger];
        output.undecided = std::mem::take(&mut output.last);
    }

    /// A `debug` exporter has written this for a request.
    pub fn exported(&mut self, ledger: usize, text: &str, now: Duration) {
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        let signal = Signal::ALL.into_iter().find(|s| first.starts_with(s.name()));
        let Some(signal) = signal else {
            self.outputs[ledger].unknown += 1;
            return;
        };
        let output = &mut self.outputs[ledger];
        let undecided = std::mem::take(&mut output.undecided);
        output.last.clear();
        for line in lines {
            let Some(id) = items::id_of_line(signal, line) else {
                output.unknown += 1;
                continue;
            };
            let (satellite, item) = items::parts(id);
            let Some(origin) = self.origins.get(usize::from(satellite)) else {
                output.unknown += 1;
                continue;
            };
            output.last.insert(id);
            if output.exported[usize::from(satellite)].insert(item) {
                if undecided.contains(&id) {
                    output.repeated += 1;
                } else {
                    output.twice += 1;
                }
                continue;
            }
            if let Some(then) = origin.accepted_at(item) {
                let delay = now.saturating_sub(then).as_secs_f64();
                self.delays.items += 1;
                self.delays.sum += delay;
                self.delays.longest = self.delays.longest.max(delay);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(ids: &[u64]) -> String {
        let lines: String =
            ids.iter().map(|n| format!("  1 INFO Some(StringValue(\"orbit #{n}\"))\n")).collect();
        format!("logs: {} log_records, 9 bytes\n{lines}", ids.len())
    }

    #[test]
    fn an_item_that_comes_twice_is_noticed_unless_a_crash_explains_it() {
        let mut history = History::new(1, 2);
        history.accepted(0, 0, 4, 100, Duration::from_secs(1));
        history.exported(0, &text(&[0, 1]), Duration::from_secs(5));
        assert_eq!((history.delays.items, history.delays.longest), (2, 4.0));
        history.crashed(0);
        history.exported(0, &text(&[0, 1]), Duration::from_secs(6));
        history.exported(1, &text(&[2, 3]), Duration::from_secs(6));
        assert_eq!((history.outputs[0].repeated, history.outputs[0].twice), (2, 0));
        history.exported(0, &text(&[1, 2]), Duration::from_secs(7));
        assert_eq!((history.outputs[0].repeated, history.outputs[0].twice), (2, 1));
        assert_eq!(history.outputs[0].exported[0].iter().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(history.outputs[1].exported[0].len(), 2);
    }

    #[test]
    fn a_set_of_items_is_a_set() {
        let mut items = Items::default();
        assert!(items.is_empty() && !items.contains(100));
        assert!(!items.insert(100) && items.insert(100) && !items.insert(3));
        assert_eq!(items.iter().collect::<Vec<_>>(), [3, 100]);
        assert_eq!(items.len(), 2);
    }
}
