//! A plan: contacts in the order of their start.

use std::time::Duration;

use super::{Contact, shown_time};
use crate::config::Invalid;

/// A contact that is longer is taken for one without an end.
const LONGEST: Duration = Duration::from_secs(31 * 24 * 3600);

/// Contacts in the order of their start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    contacts: Vec<Contact>,
    warnings: Vec<String>,
}

/// A contact with the key under which an error names it.
pub(super) type Keyed = (String, Contact);

impl Plan {
    /// A plan of these contacts, each with its key. Contacts that end before they begin, have no end, or overlap another one of
    /// the same station are refused.
    pub(super) fn try_new(mut contacts: Vec<Keyed>, mut warnings: Vec<String>) -> Result<Self, Invalid> {
        contacts.sort_by_key(|(_, c)| c.start_unix_nano);
        let mut before: Vec<&Keyed> = Vec::new();
        for keyed in &contacts {
            let (key, contact) = keyed;
            let (start, end) = (contact.start_unix_nano, contact.end_unix_nano.unwrap_or(u64::MAX));
            if end <= start {
                let message = format!("must be after its start, {}", shown_time(start));
                return Err(Invalid::new(format!("{key}.end"), message));
            }
            if Duration::from_nanos(end - start) > LONGEST {
                let message = "is more than 31 days after its start; a station that can always be reached is `source: always`";
                return Err(Invalid::new(format!("{key}.end"), message));
            }
            before.retain(|(_, other)| other.end_unix_nano.is_some_and(|end| end > start));
            for (other_key, other) in &before {
                let message = format!(
                    "begins at {} while {other_key} lasts until {}",
                    shown_time(start),
                    shown_time(other.end_unix_nano.unwrap_or_default())
                );
                if other.station == contact.station {
                    let message = format!("{message}, with the same station; join the two");
                    return Err(Invalid::new(format!("{key}.start"), message));
                }
                warnings.push(format!("{key} {message}; the later one counts from its beginning on"));
            }
            before.push(keyed);
        }
        Ok(Self { contacts: contacts.into_iter().map(|(_, contact)| contact).collect(), warnings })
    }

    /// A plan of contacts that are known to be in order.
    pub fn predicted(mut contacts: Vec<Contact>) -> Self {
        contacts.sort_by_key(|c| c.start_unix_nano);
        Self { contacts, warnings: Vec::new() }
    }

    /// What is odd about it.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The contact that is open at `now`; the one that began last when several are.
    pub fn current(&self, now: u64) -> Option<&Contact> {
        self.contacts.iter().rev().find(|c| c.contains(now))
    }

    /// The contacts that begin after `now`.
    pub fn upcoming(&self, now: u64) -> &[Contact] {
        &self.contacts[self.contacts.partition_point(|c| c.opens() <= now)..]
    }

    /// When [`Plan::current`] changes next after `now`.
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
