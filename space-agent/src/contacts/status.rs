//! What the shipper says of the link in fact, for contacts that are tried and for who asks.

use perigee_shared::link::Slot;
use serde::Serialize;

/// Whether the link is up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// No contact is open.
    #[default]
    Down,
    /// A contact is open and its station has not answered Hello yet, or refuses.
    Connecting,
    /// A station has answered Hello.
    Up,
}

/// How the link stands in fact, beside what the contacts plan.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LinkStatus {
    /// Whether it is up.
    pub state: LinkState,
    /// The station of the contact.
    pub station: Option<String>,
    /// When that state began, ns since the Unix epoch.
    pub since_unix_nano: u64,
    /// Why the last connection ended or did not come up.
    pub last_error: Option<String>,
    /// When that was, ns since the Unix epoch.
    pub last_error_unix_nano: Option<u64>,
    /// Payload bytes sent in this contact.
    pub sent_bytes: u64,
    /// Segments that the ground has committed in this contact.
    pub committed_segments: u64,
    /// Bytes of their payloads.
    pub committed_bytes: u64,
}

/// How the link stands, slot by slot.
#[derive(Debug, Clone, PartialEq)]
pub struct Links(Vec<LinkStatus>);

impl Links {
    /// So many slots, in none of which a contact is open.
    pub fn new(slots: usize) -> Self {
        Self(vec![LinkStatus::default(); slots.max(1)])
    }

    /// All of them.
    pub fn all(&self) -> &[LinkStatus] {
        &self.0
    }

    /// One of them.
    pub fn of(&self, slot: Slot) -> &LinkStatus {
        &self.0[slot.index()]
    }

    /// The same, to change it.
    pub fn of_mut(&mut self, slot: Slot) -> &mut LinkStatus {
        &mut self.0[slot.index()]
    }

    /// Whether a station has answered in any.
    pub fn is_up(&self) -> bool {
        self.0.iter().any(|link| link.state == LinkState::Up)
    }

    /// Whether this station has.
    pub fn is_up_with(&self, station: &str) -> bool {
        self.0.iter().any(|link| link.state == LinkState::Up && link.station.as_deref() == Some(station))
    }

    /// Whether one has in another slot.
    pub fn is_up_beside(&self, slot: Slot) -> bool {
        self.0.iter().enumerate().any(|(n, link)| n != slot.index() && link.state == LinkState::Up)
    }

    /// The one to show where only one is: the first that is up, else the first in which a contact is open, else the last one that
    /// was.
    pub fn shown(&self) -> &LinkStatus {
        let of = |state: LinkState| self.0.iter().find(|link| link.state == state);
        let last = || self.0.iter().rev().max_by_key(|link| link.since_unix_nano);
        of(LinkState::Up).or_else(|| of(LinkState::Connecting)).or_else(last).unwrap_or(&self.0[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_that_is_shown_is_the_one_that_is_up() {
        let slots: Vec<Slot> = Slot::first(2).collect();
        let mut links = Links::new(2);
        let set = |links: &mut Links, slot: Slot, state, since_unix_nano| {
            let station = (state != LinkState::Down).then(|| format!("station {}", slot.index()));
            *links.of_mut(slot) = LinkStatus { state, station, since_unix_nano, ..LinkStatus::default() };
        };
        assert!(links.shown() == links.of(slots[0]) && !links.is_up());
        set(&mut links, slots[0], LinkState::Connecting, 5);
        set(&mut links, slots[1], LinkState::Up, 6);
        assert_eq!(links.shown(), links.of(slots[1]));
        assert!(links.is_up_with("station 1") && !links.is_up_with("station 0"));
        assert!(links.is_up_beside(slots[0]) && !links.is_up_beside(slots[1]));
        set(&mut links, slots[0], LinkState::Up, 7);
        assert_eq!(links.shown(), links.of(slots[0]));
        set(&mut links, slots[0], LinkState::Down, 8);
        set(&mut links, slots[1], LinkState::Down, 9);
        assert_eq!(links.shown(), links.of(slots[1]), "the last one that was");
    }
}
