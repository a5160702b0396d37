//! A configuration that is read again while the program runs, at SIGHUP.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Problem;

/// The settings of a file that is in force.
#[derive(Debug, Clone, Default)]
pub struct InForce(BTreeMap<String, String>);

/// What another file would change.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys that can change while the program runs.
    pub now: Vec<String>,
    /// Keys that need a restart.
    pub later: Vec<String>,
}

impl InForce {
    /// These settings, as a file's tree names them.
    pub fn new(settings: BTreeMap<String, String>) -> Self {
        Self(settings)
    }

    /// What `new` changes; `can` says of a key whether it can change now. What can is in force from here on, what cannot stays as it is
    /// until the restart, and is named again next time.
    pub fn take(&mut self, new: &Self, can: impl Fn(&str) -> bool) -> Changes {
        let keys: BTreeSet<&String> = self.0.keys().chain(new.0.keys()).collect();
        let differ = keys.into_iter().filter(|key| self.0.get(*key) != new.0.get(*key));
        let (now, later): (Vec<String>, Vec<String>) = differ.cloned().partition(|key| can(key));
        for key in &now {
            match new.0.get(key) {
                Some(value) => drop(self.0.insert(key.clone(), value.clone())),
                None => drop(self.0.remove(key)),
            }
        }
        Changes { now, later }
    }
}

impl Changes {
    /// Says what was done.
    pub fn log(&self) {
        if !self.now.is_empty() {
            tracing::info!(
                keys = self.now.join(", "),
                "the configuration was read again: these settings are in force"
            );
        }
        if !self.later.is_empty() {
            tracing::warn!(
                keys = self.later.join(", "),
                "these settings have changed in the file and need a restart; until then they are as they were"
            );
        }
        if self.now.is_empty() && self.later.is_empty() {
            tracing::info!("the configuration was read again: nothing has changed");
        }
    }
}

/// A configuration that knows how it is written.
pub trait Reread {
    /// Its settings.
    fn written(&self) -> &InForce;
    /// What its writer should know.
    fn warnings(&self) -> &[Problem];
}

/// Reads a configuration again at each SIGHUP. From here on that does not end the program.
#[derive(Debug)]
pub struct Rereading {
    hangups: Signal,
    path: PathBuf,
    in_force: InForce,
}

impl Rereading {
    /// Begins with what is in force of the file at `path`.
    pub fn new(path: &Path, in_force: InForce) -> io::Result<Self> {
        Ok(Self { hangups: signal(SignalKind::hangup())?, path: path.to_owned(), in_force })
    }

    /// The next configuration that changes something now, by what `can` says of a key, or that is in force as a whole, and what it
    /// changes. `load` reads and checks the file; one that is wrong changes nothing.
    pub async fn next<C: Reread>(
        &mut self,
        load: impl Fn() -> Result<C, String>,
        can: impl Fn(&str) -> bool,
    ) -> (C, Changes) {
        loop {
            if self.hangups.recv().await.is_none() {
                std::future::pending().await
            }
            match load() {
                Ok(config) => {
                    config.warnings().iter().for_each(|warning| warning.warn(&self.path));
                    let changes = self.in_force.take(config.written(), &can);
                    changes.log();
                    if !changes.now.is_empty() || changes.later.is_empty() {
                        return (config, changes);
                    }
                }
                Err(error) => {
                    tracing::error!(
                        error,
                        "the configuration was not read again; what was in force stays so"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::ConfigFile;

    fn settings(text: &str) -> InForce {
        InForce::new(ConfigFile::plain(text, "f").unwrap().tree.settings())
    }

    #[test]
    fn what_can_change_does_and_what_cannot_is_named_until_it_is_as_before() {
        let mut now = settings("a: {b: 1, c: [x, y]}\nd: {e.f: 1}\n");
        let can = |key: &str| key.starts_with("a.");
        let same = settings("d: {e.f: '1'}\na:\n  c: [x, y]\n  b: 1\n");
        assert_eq!(now.take(&same, can), Changes::default(), "another way to write it");
        let other = settings("a: {b: 2, c: [x], g: {}}\nd: {e.f: 2}\n");
        let keys = |keys: &[&str]| keys.iter().map(|k| (*k).to_owned()).collect::<Vec<_>>();
        let expected = Changes { now: keys(&["a.b", "a.c", "a.g"]), later: keys(&["d.e.f"]) };
        assert_eq!(now.take(&other, can), expected);
        assert_eq!(now.take(&other, can), Changes { now: Vec::new(), later: keys(&["d.e.f"]) });
        let back = settings("a: {b: 2, c: [x], g: {}}\nd: {e.f: 1}\n");
        assert_eq!(now.take(&back, can), Changes::default());
    }
}
