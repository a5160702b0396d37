//! One configuration file on its way from text to settings, with everything that was found on the way.

use std::io::ErrorKind;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::read::{Fault, Reader, What};
use super::tree::{self, Node};
use super::{ConfigError, Invalid, Outside, Problem, collector, env, nearest, unknown};
use crate::files;
use crate::link::short_hash;

/// A file with more mistakes than this is no configuration.
const MOST_PROBLEMS: usize = 200;

/// Whether a key that was taken out stood for another of the same section.
fn mistyped(removed: &str, key: &str) -> bool {
    let split = |key: &str| {
        key.rsplit_once('.').map_or((String::new(), key.to_owned()), |(a, b)| (a.into(), b.into()))
    };
    let ((section, name), (other, meant)) = (split(removed), split(key));
    section == other && strsim::damerau_levenshtein(&name, &meant) <= meant.len() / 2
}

/// Whether a key stands in the section `outer`, or is that.
fn is_within(key: &str, outer: &str) -> bool {
    key.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// A file that is being read.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    /// For messages.
    pub path: String,
    /// The first 8 bytes of the BLAKE3 hash of a file that was opened; 0: the text came from elsewhere.
    pub hash: u64,
    /// What stands in it.
    pub tree: Node,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
    /// What it should know and what does not stop it.
    pub warnings: Vec<Problem>,
    /// Keys whose variables are not set, which matters where they are not ignored.
    pub unset: Vec<(String, Problem)>,
    /// Sections that are read and have no effect.
    pub idle: Vec<Vec<String>>,
    /// What was taken out since it is wrong: nothing that follows from its absence is reported.
    removed: Vec<String>,
    /// Keys that were translated, and what the file calls them.
    pub(super) renamed: Vec<(String, String)>,
}

impl ConfigFile {
    /// Reads the file at `path`; variables come from `env`.
    pub fn open(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let text = Self::text(path)?;
        Ok(Self { hash: short_hash(text.as_bytes()), ..Self::parse(&text, &shown, env)? })
    }

    /// The text of the configuration at `path`.
    pub fn text(path: &Path) -> Result<String, ConfigError> {
        files::read_text(path, files::CONFIGURATION).map_err(|mut source| {
            // Nobody has named it.
            if source.kind() == ErrorKind::NotFound && path.starts_with("/etc/perigee") {
                source =
                    std::io::Error::new(ErrorKind::NotFound, format!("{source}; -c FILE names another one"));
            }
            ConfigError::Read { path: path.display().to_string(), source }
        })
    }

    /// Reads YAML and replaces variables; `path` is only for messages.
    pub fn parse(text: &str, path: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut file = Self::plain(text, path)?;
        let mut wrong = Vec::new();
        env::expand(&mut file.tree, "", env, &mut wrong);
        for env::Wrong { key, line, message, is_unset } in wrong {
            // That the value is missing follows.
            file.removed.push(key.clone());
            let problem = Problem::new(line, "", message);
            if is_unset { file.unset.push((key, problem)) } else { file.problems.push(problem) }
        }
        Ok(file)
    }

    /// Reports the variables that are not set, each once, but for those in what is `ignored`.
    pub(super) fn note_unset(&mut self, ignored: &[String]) {
        for (key, problem) in std::mem::take(&mut self.unset) {
            let is_known = self.problems.iter().any(|p| p.message == problem.message);
            if !is_known && !ignored.iter().any(|outer| is_within(&key, outer)) {
                self.problems.push(problem);
            }
        }
    }

    /// Reads YAML and leaves variables as they are.
    pub fn plain(text: &str, path: &str) -> Result<Self, ConfigError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (tree, twice) = tree::parse_all(text).map_err(|(line, message)| ConfigError::Parse {
            path: path.to_owned(),
            line,
            message,
        })?;
        let problems = twice.into_iter().map(|(line, message)| Problem::new(line, "", message)).collect();
        if tree.is_null() {
            let message = "the file is empty".to_owned();
            return Err(ConfigError::Parse { path: path.to_owned(), line: 1, message });
        }
        Ok(Self {
            path: path.to_owned(),
            hash: 0,
            tree,
            problems,
            warnings: Vec::new(),
            unset: Vec::new(),
            idle: Vec::new(),
            removed: Vec::new(),
            renamed: Vec::new(),
        })
    }

    /// Adds a problem at the line where `key` stands, unless it only follows from another.
    pub fn complain(&mut self, invalid: Invalid) {
        let Invalid { key, message } = invalid;
        let follows = |removed: &String| {
            is_within(removed, &key) || is_within(&key, removed) || mistyped(removed, &key)
        };
        let shown = self.as_written(&key);
        if self.removed.iter().any(follows) || self.problems.iter().any(|p| p.key == shown) {
            return;
        }
        self.problems.push(Problem::new(self.tree.line_of(&key), shown, message));
    }

    /// What the file calls `key`.
    fn as_written(&self, key: &str) -> String {
        let renamed = self.renamed.iter().find(|(ours, _)| ours == key);
        renamed.map_or(key, |(_, theirs)| theirs).to_owned()
    }

    /// Notes what was found outside; what cannot be used, unless something within its key is wrong already.
    pub fn note_outside(&mut self, Outside { wrong, odd }: Outside) {
        for invalid in wrong {
            let within =
                |p: &Problem| p.key.strip_prefix(&invalid.key).is_some_and(|rest| rest.starts_with('.'));
            if !self.problems.iter().any(within) {
                self.complain(invalid);
            }
        }
        for (key, words) in odd {
            self.warn(key, words);
        }
    }

    /// Adds a warning at the line where `key` stands.
    pub fn warn(&mut self, key: impl Into<String>, message: impl Into<String>) {
        let key = key.into();
        self.warnings.push(Problem::new(self.tree.line_of(&key), key, message));
    }

    /// Takes out what is wrong at `path`, so that the rest can be read. Whether anything was there.
    pub fn drop_wrong(&mut self, path: &[String]) -> bool {
        self.removed.push(path.join("."));
        self.tree.remove(path)
    }

    /// Reads the tree; what is wrong is noted and taken out until the rest can be read, or nothing can. `more` are keys beside the known
    /// ones that may have been meant in the section at a path.
    pub fn read<T: DeserializeOwned>(&mut self, more: impl Fn(&[String]) -> Vec<&'static str>) -> Option<T> {
        loop {
            let fault = match T::deserialize(Reader(&self.tree)) {
                Ok(settings) => return Some(settings),
                Err(fault) => fault,
            };
            self.note(&fault, &more);
            if self.goes_on_as_meant(&fault) {
                continue;
            }
            let mut path = fault.path;
            if let What::Missing(field) = fault.what {
                let section = path.clone();
                path.push(field.to_owned());
                self.removed.push(path.join("."));
                // Nothing can stand for it: the section goes.
                path = section;
            }
            if path.is_empty() || self.problems.len() > MOST_PROBLEMS {
                return None;
            }
            if !self.drop_wrong(&path) {
                return None;
            }
        }
    }

    /// Gives a mistyped key of Perigee's own sections the name that it was meant to have, so that what must be there is there and the
    /// rest is read too. What the Collector has is translated by its names: it cannot be renamed later.
    fn goes_on_as_meant(&mut self, fault: &Fault) -> bool {
        let (What::Key(found, known), Some((_, section))) = (&fault.what, fault.path.split_last()) else {
            return false;
        };
        let own = section.first().is_some_and(|s| collector::OWN_SECTIONS.contains(&s.as_str()));
        let Some(meant) = nearest(found, known.iter().copied()).filter(|_| own) else { return false };
        self.problems.len() <= MOST_PROBLEMS && self.tree.rename(section, found, meant)
    }

    fn note(&mut self, fault: &Fault, more: &impl Fn(&[String]) -> Vec<&'static str>) {
        let section = || fault.path.split_last().map(|(_, section)| section).unwrap_or_default();
        let key = fault.path.join(".");
        let line = self.tree.line_of(&key);
        let problem = match &fault.what {
            What::Key(found, known) => {
                let more = more(section());
                let message = super::unknown_among("key", found, known, &more);
                Problem::new(line, section().join("."), message)
            }
            What::Word(..) | What::Other(_) if self.removed.contains(&key) => return,
            What::Word(found, known) => {
                Problem::new(line, self.as_written(&key), unknown("value", found, known))
            }
            What::Missing(field) => {
                let missing = if key.is_empty() { (*field).to_owned() } else { format!("{key}.{field}") };
                if self.removed.iter().any(|r| *r == missing || mistyped(r, &missing)) {
                    return;
                }
                Problem::new(line, key, format!("the key `{field}` is missing"))
            }
            What::Other(message) => Problem::new(line, self.as_written(&key), message.clone()),
        };
        self.problems.push(problem);
    }

    /// The tree as YAML, with every warning in a comment.
    pub fn written(&self) -> String {
        let mut tree = self.tree.clone();
        for path in &self.idle {
            tree.remove(path);
        }
        super::write::yaml(&tree, &self.warnings)
    }

    /// The settings, or every problem in the order of the lines.
    pub fn finish<T>(mut self, settings: Option<T>) -> Result<T, ConfigError> {
        self.note_unset(&[]);
        self.problems.sort_by_key(|p| p.line);
        self.problems.dedup();
        match settings {
            Some(settings) if self.problems.is_empty() => Ok(settings),
            _ => {
                let Self { path, problems, warnings, .. } = self;
                Err(ConfigError::Problems { path, problems, warnings })
            }
        }
    }
}
