//! The connections that are open now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::Connection;
use tokio_util::sync::CancellationToken;

use super::connection::code;
use super::machine::Close;

/// How long an older connection may take to hand over what it holds.
const HAND_OVER: Duration = Duration::from_secs(5);

struct Entry {
    satellite: Arc<str>,
    /// Of its certificate, big-endian.
    serial: Vec<u8>,
    connection: Connection,
    ended: CancellationToken,
}

/// Connections by the order in which they came.
#[derive(Clone, Default)]
pub(super) struct Registry(Arc<Mutex<(u64, BTreeMap<u64, Entry>)>>);

/// Takes a connection out of the registry when it ends.
pub(super) struct Registered {
    registry: Registry,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(entry) = self.registry.lock().1.remove(&self.number) {
            entry.ended.cancel();
        }
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Entry>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, satellite: Arc<str>, serial: Vec<u8>, connection: Connection) -> Registered {
        let mut inner = self.lock();
        inner.0 += 1;
        let number = inner.0;
        let entry = Entry { satellite, serial, connection, ended: CancellationToken::new() };
        inner.1.insert(number, entry);
        Registered { registry: self.clone(), number }
    }

    /// Closes the connections of `satellite` that came before the one with this `stable_id`, and waits until what they
    /// hold is in the spool.
    pub(super) async fn supersede(&self, satellite: &str, stable_id: usize) {
        let older: Vec<CancellationToken> = {
            let inner = self.lock();
            let own = inner.1.iter().find(|(_, e)| e.connection.stable_id() == stable_id).map(|(n, _)| *n);
            inner
                .1
                .iter()
                .filter(|(number, e)| own.is_some_and(|own| **number < own) && *e.satellite == *satellite)
                .map(|(_, e)| {
                    e.connection.close(code(Close::Superseded), b"a newer connection of this satellite");
                    e.ended.clone()
                })
                .collect()
        };
        for ended in older {
            // One that hangs must not keep the new contact waiting.
            let _ = tokio::time::timeout(HAND_OVER, ended.cancelled()).await;
        }
    }

    /// Closes the connections whose certificates are revoked.
    pub(super) fn close_revoked(&self, is_revoked: impl Fn(&[u8]) -> bool) {
        for entry in self.lock().1.values().filter(|e| is_revoked(&e.serial)) {
            tracing::warn!(satellite = %entry.satellite, "its certificate was revoked; the link is closed");
            entry.connection.close(code(Close::Revoked), b"the satellite's certificate was revoked");
        }
    }

    /// Satellites with an open connection.
    pub(super) fn connected(&self) -> BTreeSet<String> {
        self.lock().1.values().map(|e| e.satellite.to_string()).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().1.len()
    }
}
