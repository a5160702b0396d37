//! The connections that are open now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perigee_shared::link::Slot;
use perigee_shared::units::ByteSize;
use quinn::{Connection, VarInt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bounds;
use super::connection::code;
use super::machine::Close;
use super::passing::Passing;
use crate::memory;

/// How long an older connection may take to hand over what it holds.
const HAND_OVER: Duration = Duration::from_secs(5);

/// What the earlier of two connections is told.
const SUPERSEDED: &[u8] =
    b"a newer connection of this satellite; if this repeats, two agents have its certificate";

struct Entry {
    satellite: Arc<str>,
    /// Of its certificate, big-endian.
    serial: Vec<u8>,
    connection: Connection,
    /// When it came, until it has said Hello.
    silent_since: Option<Instant>,
    greeted: Option<Underway>,
    /// Datagrams that had come when it was last looked, and since when there were so many.
    heard: (u64, Instant),
    /// A newer one of the satellite takes its place.
    superseded: bool,
    ended: CancellationToken,
}

/// What is known of a link since its Hello.
#[derive(Debug, Clone)]
pub(super) struct Underway {
    /// When that came.
    pub(super) at: Instant,
    /// Which of the satellite's contacts that are open at once it is of.
    pub(super) slot: Slot,
    /// When the contact ends by the satellite's clock; 0: it did not say.
    pub(super) ends: u64,
    /// What comes over it.
    pub(super) passing: Passing,
}

/// Connections by the order in which they came.
#[derive(Clone, Default)]
pub(super) struct Registry(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    last: u64,
    open: BTreeMap<u64, Entry>,
    /// The memory limit, of which connections share a part, and the most that each gets.
    windows: (ByteSize, u64),
    /// When each satellite may have more work done. Only those that are listed come so far.
    turns: BTreeMap<Arc<str>, Instant>,
    /// When the log last had a line about each, and how many were left out since.
    said: BTreeMap<Arc<str>, (Instant, u64)>,
}

impl Inner {
    /// Shares the windows among the connections that are open now.
    fn share(&self) {
        let (limit, most) = self.windows;
        let window = memory::window(limit, self.open.len(), most);
        for entry in self.open.values() {
            entry.connection.set_receive_window(VarInt::from_u64(window).unwrap_or(VarInt::MAX));
        }
    }

    /// Closes the first of these connections that has been silent for `least`. Whether there is one.
    fn end_silent(&mut self, least: Duration, of: impl Fn(&Entry) -> bool) -> bool {
        let silent = |e: &Entry| e.silent_since.is_some_and(|since| since.elapsed() >= least);
        let Some((number, _)) = self.open.iter().find(|(_, e)| of(e) && silent(e)) else { return false };
        let number = *number;
        if let Some(entry) = self.open.remove(&number) {
            entry.connection.close(code(Close::Busy), b"no Hello, and others wait for the place");
            entry.ended.cancel();
        }
        true
    }
}

/// Takes a connection out of the registry when it ends.
pub(super) struct Registered {
    registry: Registry,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut inner = self.registry.lock();
        if let Some(entry) = inner.open.remove(&self.number) {
            entry.ended.cancel();
            inner.share();
        }
    }
}

impl Registry {
    /// Of connections that share the memory limit, and may have `most` bytes unread each.
    pub(super) fn new(limit: ByteSize, most: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner { windows: (limit, most), ..Inner::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, satellite: Arc<str>, serial: Vec<u8>, connection: Connection) -> Registered {
        let mut inner = self.lock();
        inner.last += 1;
        let number = inner.last;
        let silent_since = Some(Instant::now());
        let (superseded, ended, heard) = (false, CancellationToken::new(), (0, Instant::now()));
        let greeted = None;
        let entry = Entry { satellite, serial, connection, silent_since, greeted, heard, superseded, ended };
        inner.open.insert(number, entry);
        inner.share();
        Registered { registry: self.clone(), number }
    }

    /// Makes room for a connection of `satellite` where `most` are open at once. One that is silent goes; why there is none
    /// otherwise.
    pub(super) fn make_room(&self, satellite: &str, most: usize) -> Result<(), &'static str> {
        let mut inner = self.lock();
        let own = inner.open.values().filter(|e| *e.satellite == *satellite).count();
        if own >= bounds::CONNECTIONS && !inner.end_silent(Duration::ZERO, |e| *e.satellite == *satellite) {
            return Err("this satellite has as many connections as one may have");
        }
        if inner.open.len() >= most && !inner.end_silent(bounds::SILENT, |_| true) {
            return Err("the ground-station has link.max_connections open");
        }
        Ok(())
    }

    /// A connection has said Hello.
    pub(super) fn has_begun(&self, stable_id: usize, underway: Underway) {
        let mut inner = self.lock();
        if let Some(entry) = inner.open.values_mut().find(|e| e.connection.stable_id() == stable_id) {
            entry.silent_since = None;
            entry.greeted = Some(underway);
        }
    }

    /// Satellites whose links have begun, the links by their slots, and the path of each as QUIC measures it.
    pub(super) fn links(&self) -> BTreeMap<String, BTreeMap<Slot, (Underway, quinn::PathStats)>> {
        let inner = self.lock();
        let mut out: BTreeMap<String, BTreeMap<Slot, _>> = BTreeMap::new();
        for entry in inner.open.values() {
            if let Some(underway) = entry.greeted.clone() {
                let of = out.entry(entry.satellite.to_string()).or_default();
                of.insert(underway.slot, (underway, entry.connection.stats().path));
            }
        }
        out
    }

    /// Whether the log may have another line about this satellite, and how many were left out.
    pub(super) fn may_say(&self, satellite: &Arc<str>) -> Option<u64> {
        let (now, mut inner) = (Instant::now(), self.lock());
        match inner.said.get_mut(satellite) {
            Some((last, left_out)) if now.duration_since(*last) < bounds::SAID_EVERY => {
                *left_out += 1;
                None
            }
            before => {
                let left_out = before.map_or(0, |b| b.1);
                inner.said.insert(Arc::clone(satellite), (now, 0));
                Some(left_out)
            }
        }
    }

    /// When work of a satellite may be begun; the next one may be `pause` later.
    pub(super) fn turn(&self, satellite: &Arc<str>, pause: Duration) -> Instant {
        let now = Instant::now();
        let mut inner = self.lock();
        let turn = inner.turns.get(satellite).map_or(now, |turn| now.max(*turn));
        if pause.is_zero() && turn == now {
            inner.turns.remove(satellite);
        } else {
            inner.turns.insert(Arc::clone(satellite), (turn + pause).min(now + bounds::LONGEST_PAUSE));
        }
        turn
    }

    /// The connection with this `stable_id` has named its `slot`: of the connections of `satellite` in it the one that came last stays.
    /// Closes the others, and waits until what they hold is in the spool. One that has not said Hello yet may be of another slot.
    pub(super) async fn supersede(&self, satellite: &str, slot: Slot, stable_id: usize) {
        let others: Vec<CancellationToken> = {
            let mut inner = self.lock();
            let is_of =
                |e: &Entry| *e.satellite == *satellite && e.greeted.as_ref().is_some_and(|g| g.slot == slot);
            let last = inner.open.iter().rev().find(|(_, e)| is_of(e)).map(|(number, _)| *number);
            inner
                .open
                .iter_mut()
                .filter(|(number, e)| Some(**number) != last && is_of(e))
                .filter_map(|(_, e)| {
                    e.superseded = true;
                    e.connection.close(code(Close::Superseded), SUPERSEDED);
                    // Nobody waits for oneself.
                    (e.connection.stable_id() != stable_id).then(|| e.ended.clone())
                })
                .collect()
        };
        for ended in others {
            // One that hangs must not keep the new contact waiting.
            let _ = tokio::time::timeout(HAND_OVER, ended.cancelled()).await;
        }
    }

    /// Whether a connection was closed because a newer one took its place: the satellite had lost it.
    pub(super) fn is_superseded(&self, stable_id: usize) -> bool {
        self.lock().open.values().any(|e| e.superseded && e.connection.stable_id() == stable_id)
    }

    /// Closes the connections whose certificates are revoked.
    pub(super) fn close_revoked(&self, is_revoked: impl Fn(&[u8]) -> bool) {
        for entry in self.lock().open.values().filter(|e| is_revoked(&e.serial)) {
            tracing::warn!(satellite = %entry.satellite, "its certificate was revoked; the link is closed");
            entry.connection.close(code(Close::Revoked), b"the satellite's certificate was revoked");
        }
    }

    /// Closes the connections of satellites that may not connect any more.
    pub(super) fn close_unknown(&self, is_known: impl Fn(&str) -> bool) {
        for entry in self.lock().open.values().filter(|e| !is_known(&e.satellite)) {
            tracing::warn!(satellite = %entry.satellite, "it is not in link.satellites any more; the link is closed");
            entry.connection.close(code(Close::Identity), b"not in link.satellites any more");
        }
    }

    /// Satellites with an open connection, and how long ago the last datagram came, as far as this was looked at.
    pub(super) fn connected(&self) -> BTreeMap<String, Duration> {
        let mut out = BTreeMap::new();
        for entry in self.lock().open.values_mut() {
            let datagrams = entry.connection.stats().udp_rx.datagrams;
            if datagrams > entry.heard.0 {
                entry.heard = (datagrams, Instant::now());
            }
            let heard = entry.heard.1.elapsed();
            out.entry(entry.satellite.to_string())
                .and_modify(|latest: &mut Duration| *latest = heard.min(*latest))
                .or_insert(heard);
        }
        out
    }

    pub(super) fn len(&self) -> usize {
        self.lock().open.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::stranger;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stranger_that_comes_each_second_is_named_at_once_and_then_rarely() {
        let registry = Registry::default();
        let mut said = Vec::new();
        for second in 0..25 {
            if let Some(left_out) = registry.may_say(&stranger("sat-2")) {
                said.push((second, left_out));
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(said, [(0, 0), (10, 9), (20, 9)]);
        assert_eq!(registry.may_say(&stranger("sat-3")), Some(0), "another stranger is named at once");
        assert_eq!(registry.may_say(&"sat-2".into()), Some(0), "and so is a namesake that is listed");
    }
}
