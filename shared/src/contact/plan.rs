//! A plan: contacts in the order of their start.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Contact, shown_time};

/// Contacts in the order of their start. Those of one station do not overlap.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    contacts: Vec<Contact>,
    warnings: Vec<String>,
}

/// A contact with the key under which a warning names it.
pub(super) type Keyed = (String, Contact);

/// Remarks for people: the first twenty, and how many more there are, so that a file that is wrong throughout fills no memory.
#[derive(Debug, Clone, Default)]
pub struct Notes {
    kept: Vec<String>,
    more: usize,
}

impl Notes {
    const KEPT: usize = 20;

    /// Adds a remark.
    pub fn push(&mut self, note: String) {
        if self.kept.len() < Self::KEPT {
            self.kept.push(note);
        } else {
            self.more += 1;
        }
    }

    /// The first remark.
    pub fn first(&self) -> Option<&str> {
        self.kept.first().map(String::as_str)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.kept.len() + self.more
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The remarks; the last one counts those that are left out.
    pub fn into_vec(mut self) -> Vec<String> {
        if self.more > 0 {
            self.kept.push(format!("and {} more like these", self.more));
        }
        self.kept
    }
}

/// Makes one contact of two with the same station. The rate is the lower one, which no antenna of the two is too slow for.
fn join(first: &mut Contact, second: &Contact) {
    let lower = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
    first.end_unix_nano = first.end_unix_nano.zip(second.end_unix_nano).map(|(a, b)| a.max(b));
    first.rate_down = lower(first.rate_down, second.rate_down);
    first.rate_up = lower(first.rate_up, second.rate_up);
    first.light_time_seconds = first.light_time_seconds.or(second.light_time_seconds);
    first.guard_seconds = first.guard_seconds.max(second.guard_seconds);
    first.byte_budget = first.byte_budget.max(second.byte_budget);
}

impl Plan {
    /// A plan of these contacts in the order of their start, each with its key. Contacts with one station that overlap become
    /// one: two antennas, or one entry for each destination behind the station.
    pub(super) fn new(contacts: impl ExactSizeIterator<Item = Keyed>, mut warnings: Notes) -> Self {
        let mut joined: Vec<Keyed> = Vec::with_capacity(contacts.len());
        // The latest contact with each station.
        let mut latest: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for (key, contact) in contacts {
            let start = contact.start_unix_nano;
            let lasts = |at: &usize| joined[*at].1.end_unix_nano.is_none_or(|end| end > start);
            for (station, at) in latest.iter().filter(|(_, at)| lasts(at)) {
                let (other_key, other) = &joined[*at];
                if *station == contact.station
                    && (other.start_unix_nano, other.end_unix_nano) == (start, contact.end_unix_nano)
                {
                    continue;
                }
                let end = other.end_unix_nano.map_or("it is closed".to_owned(), shown_time);
                let what = if *station == contact.station {
                    "with the same station; the two are one contact"
                } else {
                    "with another station; unless contacts.simultaneous is 2 the later one counts from its start"
                };
                warnings.push(format!(
                    "{key} begins at {} while {other_key} lasts until {end}, {what}",
                    shown_time(start)
                ));
            }
            match latest.get(&contact.station).copied().filter(lasts) {
                Some(at) => join(&mut joined[at].1, &contact),
                None => {
                    latest.insert(Arc::clone(&contact.station), joined.len());
                    joined.push((key, contact));
                }
            }
        }
        let mut contacts: Vec<Contact> = joined.into_iter().map(|(_, contact)| contact).collect();
        // The list takes over the room of the one with keys, which is larger.
        contacts.shrink_to_fit();
        Self { contacts, warnings: warnings.into_vec() }
    }

    /// A plan of contacts of which those with one station do not overlap, and what is odd about them.
    pub fn predicted(mut contacts: Vec<Contact>, warnings: Vec<String>) -> Self {
        contacts.sort_by_key(|c| c.start_unix_nano);
        Self { contacts, warnings }
    }

    /// The same plan, in which a contact that is open at `now` and in `earlier` begins as it did there: what is under way goes
    /// on when passes are predicted anew.
    pub fn continuing(mut self, earlier: &Self, now: u64) -> Self {
        for contact in self.contacts.iter_mut().filter(|c| c.contains(now)) {
            let same = |c: &&Contact| c.station == contact.station && c.contains(now);
            if let Some(open) = earlier.contacts.iter().find(same) {
                contact.start_unix_nano = open.start_unix_nano;
                contact.light_time_seconds = open.light_time_seconds;
                contact.sight.clone_from(&open.sight);
            }
        }
        self.contacts.sort_by_key(|c| c.start_unix_nano);
        self
    }

    /// What is odd about it.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The contacts that are open at `now`, the one that began last first.
    pub fn open(&self, now: u64) -> impl Iterator<Item = &Contact> {
        let begun = self.contacts.partition_point(|c| c.opens() <= now);
        self.contacts[..begun].iter().rev().filter(move |c| c.contains(now))
    }

    /// The first of them.
    pub fn current(&self, now: u64) -> Option<&Contact> {
        self.open(now).next()
    }

    /// The contacts that begin after `now`.
    pub fn upcoming(&self, now: u64) -> &[Contact] {
        &self.contacts[self.contacts.partition_point(|c| c.opens() <= now)..]
    }

    /// When [`Plan::open`] changes next after `now`.
    pub fn next_change(&self, now: u64) -> Option<u64> {
        let starts = self.upcoming(now).first().map(Contact::opens);
        let ends = self.contacts.iter().filter_map(Contact::closes).filter(|end| *end > now).min();
        starts.into_iter().chain(ends).min()
    }

    /// Whether every contact is past at `now`.
    pub fn has_run_out(&self, now: u64) -> bool {
        self.contacts.iter().all(|c| c.closes().is_some_and(|end| end <= now))
    }

    /// How many contacts it has.
    pub fn len(&self) -> usize {
        self.contacts.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.contacts.is_empty()
    }
}
