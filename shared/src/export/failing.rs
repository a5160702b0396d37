//! Why exporters do not get on, for those who ask.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Characters of a reason that are kept.
const SHOWN: usize = 300;

/// Why an exporter does not get on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Failing {
    /// Since when nothing was taken, ns since the Unix epoch.
    pub since_unix_nano: u64,
    /// When it was tried last.
    pub last_unix_nano: u64,
    /// What the backend or the way to it said then.
    pub reason: String,
    /// The backend refuses this exporter, not the data.
    pub misconfigured: bool,
}

/// Those that do not get on, by name.
#[derive(Debug, Default)]
pub struct AllFailing(Mutex<BTreeMap<Arc<str>, Failing>>);

impl AllFailing {
    /// A request of this exporter did not get through and is tried again.
    pub fn note(&self, exporter: &Arc<str>, now: u64, reason: &str, misconfigured: bool) {
        let reason = reason.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
        let mut all = self.all();
        let since_unix_nano = all.get(exporter).map_or(now, |failing| failing.since_unix_nano);
        let failing = Failing { since_unix_nano, last_unix_nano: now, reason, misconfigured };
        all.insert(Arc::clone(exporter), failing);
    }

    /// It gets on again.
    pub fn over(&self, exporter: &str) {
        self.all().remove(exporter);
    }

    /// Why it does not get on, if it does not.
    pub fn of(&self, exporter: &str) -> Option<Failing> {
        self.all().get(exporter).cloned()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Failing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
