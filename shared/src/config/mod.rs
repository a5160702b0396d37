//! Configuration files: YAML in the Collector's shape, read strictly, every mistake reported at once.
//!
//! In the order in which a file passes: `tree` keeps lines, `env` replaces variables, [`collector`] turns what the Collector has
//! and Perigee has otherwise into Perigee's form, and `read` reads the result with serde. An unknown key is an error that names the
//! key, its line and the nearest known key. [`Components`] is the Collector's map of `kind/name` to the settings of that kind.

pub mod collector;
mod components;
mod env;
mod file;
mod read;
pub mod reload;
pub mod tree;
mod write;

use std::fmt;
use std::io;
use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, access};
use serde::de::DeserializeOwned;

pub use self::components::{Component, Components, settings_or_default};
pub use self::file::ConfigFile;
use crate::files;
use crate::units::ByteSize;

/// What is wrong with a configuration, with the place where it can be said.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The text is not what was expected at that line.
    #[error("{path}:{line}: {message}")]
    Parse {
        /// The file.
        path: String,
        /// From 1; 0 when it is not known.
        line: u64,
        /// What is wrong and, where it can be guessed, what was meant.
        message: String,
    },
    /// Every key is known, but together they make no sense.
    #[error("{path}: {key}: {message}")]
    Invalid {
        /// The file.
        path: String,
        /// The key, from the top, with dots.
        key: String,
        /// What is wrong and what to write instead.
        message: String,
    },
    /// Everything that is wrong with a file.
    #[error("{}", listed(path, problems))]
    Problems {
        /// The file.
        path: String,
        /// In the order of their lines.
        problems: Vec<Problem>,
        /// What its writer should know beside them.
        warnings: Vec<Problem>,
    },
}

impl ConfigError {
    /// Whether the file could not be read since its disk has failed.
    pub fn is_of_the_disk(&self) -> bool {
        matches!(self, Self::Read { source, .. } if files::is_of_the_disk(source))
    }

    /// The same as a list, for programs.
    pub fn problems(&self) -> Vec<Problem> {
        match self {
            Self::Read { source, .. } => vec![Problem::new(0, "", source.to_string())],
            Self::Parse { line, message, .. } => vec![Problem::new(*line, "", message)],
            Self::Invalid { key, message, .. } => vec![Problem::new(0, key, message)],
            Self::Problems { problems, .. } => problems.clone(),
        }
    }

    /// What the file's writer should know beside that.
    pub fn warnings(&self) -> &[Problem] {
        match self {
            Self::Problems { warnings, .. } => warnings,
            _ => &[],
        }
    }
}

/// Something to say of a line of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// From 1; 0 when it is not known.
    pub line: u64,
    /// The key, from the top, with dots; empty for the whole file.
    pub key: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl Problem {
    /// A complaint about `key` at `line`.
    // Called in many places, and never often: inlined it is kilobytes.
    #[inline(never)]
    pub fn new(line: u64, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { line, key: key.into(), message: message.into() }
    }

    /// A line about something in the file at `path` that its writer should know and that stops nothing.
    pub fn as_warning(&self, path: &str) -> String {
        match self.line {
            0 => format!("{path}: warning: {self}\n"),
            line => format!("{path}:{line}: warning: {}: {}\n", self.key, self.message),
        }
    }

    /// Has the log say so of the file at `path`.
    #[inline(never)]
    pub fn warn(&self, path: &Path) {
        let line = (self.line > 0).then_some(self.line);
        tracing::warn!(file = %path.display(), line, "{}: {}", self.key, self.message);
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}: ", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// One line for each problem of the file at `path`.
fn listed(path: &str, problems: &[Problem]) -> String {
    let line = |p: &Problem| if p.line > 0 { format!("{path}:{p}") } else { format!("{path}: {p}") };
    match problems {
        [one] => line(one),
        several => {
            let lines: Vec<String> = several.iter().map(|p| format!("\n  {}", line(p))).collect();
            format!("{path} has {} problems:{}", several.len(), lines.concat())
        }
    }
}

/// A setting that is readable but cannot be used: the key with dots from the top, and why. [`ConfigError::Invalid`] without
/// the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The key, from the top, with dots.
    pub key: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl Invalid {
    /// A complaint about `key`.
    #[inline(never)]
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into() }
    }
}

/// What was found where a configuration names files, directories and sockets.
#[derive(Debug, Default)]
pub struct Outside {
    /// What cannot be used.
    pub wrong: Vec<Invalid>,
    /// What is to be said, key and words, and stops nothing.
    pub odd: Vec<(String, String)>,
}

/// Makes a directory in `at` and removes it again: a file system such as /proc allows root to write, and makes nothing.
fn try_to_make_one(at: &Path) -> io::Result<()> {
    let trial = at.join(format!(".perigee-{}", std::process::id()));
    match std::fs::create_dir(&trial) {
        Ok(()) => std::fs::remove_dir(trial),
        // A full volume is no mistake in the configuration, and another check may be at it.
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::AlreadyExists) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Why a directory cannot be used, and whether its disk has failed.
struct Unusable {
    message: String,
    has_failed: bool,
}

/// Whether `path` can be a directory in which this user writes: one that is not there is made at the start.
fn look_at_directory(path: &Path) -> Result<(), Unusable> {
    for at in path.ancestors() {
        let at = if at.as_os_str().is_empty() { Path::new(".") } else { at };
        let shown = at.display();
        let unusable = |error: &io::Error, message: String| {
            let has_failed = files::is_of_the_disk(error);
            let message = if has_failed { format!("{shown}: {error}") } else { message };
            Err(Unusable { message, has_failed })
        };
        match std::fs::metadata(at) {
            Ok(meta) if !meta.is_dir() => {
                let message = format!("{shown} is a file; name a directory");
                return Err(Unusable { message, has_failed: false });
            }
            Ok(_) => {
                let is_there = at == path;
                let allowed = access(at, AccessFlags::W_OK | AccessFlags::X_OK).map_err(io::Error::from);
                let Err(error) = allowed.and_then(|()| if is_there { Ok(()) } else { try_to_make_one(at) })
                else {
                    return Ok(());
                };
                let made = if is_there { String::new() } else { format!("cannot make {}: ", path.display()) };
                let message = format!(
                    "{made}cannot write in {shown}: {error}; let this process's user write there, or name another directory"
                );
                return unusable(&error, message);
            }
            Err(error) if files::is_missing(&error) => {}
            Err(error) => {
                let message = format!("{shown}: {error}; let this process's user read and write there");
                return unusable(&error, message);
            }
        }
    }
    Ok(())
}

/// The same, as a mistake in the configuration.
#[inline(never)]
pub fn check_directory(key: &str, path: &Path) -> Result<(), Invalid> {
    look_at_directory(path).map_err(|unusable| Invalid::new(key, unusable.message))
}

/// Checks the directory of a store. That its disk has failed is no mistake, nor is one that is there, on a file system that takes no
/// writes from anybody: a file system that has failed is mounted so. `then` says what happens.
#[inline(never)]
pub fn check_store(key: &str, path: &Path, then: &str, found: &mut Outside) {
    let Err(Unusable { message, has_failed }) = look_at_directory(path) else { return };
    let is_read_only =
        || path.is_dir() && statvfs(path).is_ok_and(|v| v.flags().contains(FsFlags::ST_RDONLY));
    match has_failed || is_read_only() {
        true => found.odd.push((key.to_owned(), format!("{message}. {then}"))),
        false => found.wrong.push(Invalid::new(key, message)),
    }
}

/// What is to be said of a budget of `max_bytes` in the directory `path` that the whole volume has no room for.
#[inline(never)]
pub fn check_budget(key: &str, path: &Path, max_bytes: ByteSize) -> Option<(String, String)> {
    let volume = path.ancestors().find_map(|at| statvfs(at).ok())?;
    let size = ByteSize(volume.blocks().saturating_mul(volume.fragment_size()));
    (size.0 > 0 && max_bytes > size).then(|| {
        let words = format!(
            "is {max_bytes}, and the volume of {} has {size}: it is full before the budget; keep the budget below half of it",
            path.display()
        );
        (key.to_owned(), words)
    })
}

/// Whether a file can be written at `path`, in a directory that has to be there, or is on the way to `made`, which the program makes.
pub fn check_writable(key: &str, path: &Path, made: Option<&Path>) -> Result<(), Invalid> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if path.is_dir() {
        return Err(Invalid::new(key, format!("{} is a directory; name a file", path.display())));
    }
    if !directory.exists() && !made.is_some_and(|made| made.starts_with(directory)) {
        return Err(Invalid::new(
            key,
            format!(
                "the directory {} is not there; make it, or write create_directory: true",
                directory.display()
            ),
        ));
    }
    check_directory(key, directory)
}

/// Reads the configuration file at `path`; variables come from `env`.
pub fn load<T: DeserializeOwned>(
    path: &Path,
    env: impl Fn(&str) -> Option<String>,
) -> Result<T, ConfigError> {
    let shown = path.display().to_string();
    let text = files::read_text(path, files::CONFIGURATION)
        .map_err(|source| ConfigError::Read { path: shown.clone(), source })?;
    parse(&text, &shown, env)
}

/// Parses configuration `text` in Perigee's own form; `path` is only for messages.
pub fn parse<T: DeserializeOwned>(
    text: &str,
    path: &str,
    env: impl Fn(&str) -> Option<String>,
) -> Result<T, ConfigError> {
    let mut file = ConfigFile::parse(text, path, &env)?;
    let read = file.read(|_| Vec::new());
    file.finish(read)
}

/// Parses a long file of data, piece by piece: no tree of it is made, and the first mistake ends it.
pub fn stream<T: DeserializeOwned>(text: &str, path: &str) -> Result<T, ConfigError> {
    stream_with(text, path, serde_saphyr::DuplicateKeyPolicy::Error)
}

/// The same, where `T` says what a key means that is there twice.
pub fn stream_with_repeats<T: DeserializeOwned>(text: &str, path: &str) -> Result<T, ConfigError> {
    stream_with(text, path, serde_saphyr::DuplicateKeyPolicy::PassThrough)
}

fn stream_with<T: DeserializeOwned>(
    text: &str,
    path: &str,
    repeats: serde_saphyr::DuplicateKeyPolicy,
) -> Result<T, ConfigError> {
    // The parser's own bounds are for settings: 16,000 contacts with all their keys exceed them. Whoever reads the file bounds its length.
    let budget = serde_saphyr::budget! { max_nodes: text.len() + 1, max_events: 2 * text.len() + 16 };
    let options = serde_saphyr::options! { budget: budget, duplicate_keys: repeats };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(0, |l| l.line());
        let message = explain(error.without_snippet(), key_at(text, line));
        ConfigError::Parse { path: path.to_owned(), line, message }
    })
}

/// The key that stands in this line, from 1.
fn key_at(text: &str, line: u64) -> Option<&str> {
    let line = text.lines().nth(usize::try_from(line).ok()?.checked_sub(1)?)?;
    let key = line.trim().trim_start_matches("- ").split_once(':')?.0.trim();
    (!key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || "_/-".contains(c))).then_some(key)
}

fn explain(error: &serde_saphyr::Error, key: Option<&str>) -> String {
    match error {
        serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => unknown("key", field, expected),
        serde_saphyr::Error::SerdeUnknownVariant { variant, expected, .. } => {
            unknown("value", variant, expected)
        }
        serde_saphyr::Error::SerdeMissingField { field, .. } => format!("the key `{field}` is missing"),
        other => {
            let text = other.to_string();
            let text = text.lines().next().unwrap_or("unreadable");
            // The line is said before the message.
            let text = text.rsplit_once(" at line ").map_or(text, |(message, _)| message);
            key.map_or_else(|| text.to_owned(), |key| format!("{key}: {text}"))
        }
    }
}

/// "unknown key `x`" with the nearest of `known`.
pub fn unknown(what: &str, found: &str, known: &[&str]) -> String {
    unknown_among(what, found, known, &[])
}

/// The one of `known` that `found` was probably meant to be.
fn nearest<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|k| (strsim::damerau_levenshtein(found, k), k))
        .min()
        .filter(|(distance, k)| *distance <= k.len().max(found.len()) / 2)
        .map(|(_, k)| k)
}

/// The same; what was meant may also be one of `more`.
#[inline(never)]
fn unknown_among(what: &str, found: &str, known: &[&str], more: &[&str]) -> String {
    let more: Vec<&str> = more.iter().copied().filter(|name| !known.contains(name)).collect();
    let known = [known, &more].concat();
    let list = known.join(", ");
    match nearest(found, known.iter().copied()) {
        Some(k) => format!("unknown {what} `{found}`; did you mean `{k}`? (known: {list})"),
        None if known.is_empty() => format!("unknown {what} `{found}`; this section has none"),
        None => format!("unknown {what} `{found}` (known: {list})"),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde::de::MapAccess;

    use super::*;

    #[derive(Debug, Deserialize, Default)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        #[serde(default)]
        endpoint: String,
        #[serde(default)]
        timeout: Option<crate::units::Span>,
    }

    #[derive(Debug)]
    enum Exporter {
        Debug(Settings),
        Otlp(Settings),
    }

    impl Component for Exporter {
        const KINDS: &'static [&'static str] = &["debug", "otlp"];
        const NOUN: &'static str = "exporter";
        fn deserialize_kind<'de, A: MapAccess<'de>>(kind: &str, map: &mut A) -> Result<Self, A::Error> {
            let settings = settings_or_default(map)?;
            Ok(if kind == "debug" { Self::Debug(settings) } else { Self::Otlp(settings) })
        }
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        #[serde(default)]
        exporters: Components<Exporter>,
    }

    fn parse_test(text: &str) -> Result<Config, String> {
        parse(text, "c.yaml", |name| (name == "PORT").then(|| "4317".to_owned())).map_err(|e| e.to_string())
    }

    #[test]
    fn components_have_a_kind_and_a_name() {
        let config =
            parse_test("exporters:\n  debug:\n  otlp/jaeger:\n    endpoint: localhost:${env:PORT}\n")
                .unwrap();
        let Some(Exporter::Debug(debug)) = config.exporters.get("debug") else { panic!() };
        assert_eq!(debug.endpoint, "", "nothing behind it means the defaults");
        let Some(Exporter::Otlp(otlp)) = config.exporters.get("otlp/jaeger") else { panic!() };
        assert_eq!(otlp.endpoint, "localhost:4317");
        assert!(otlp.timeout.is_none());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
        let error = parse_test("exporters:\n  debug:\n  otlp:\n    endpiont: x\n").unwrap_err();
        assert!(
            error.contains("c.yaml:4") && error.contains("`endpiont`") && error.contains("`endpoint`"),
            "{error}"
        );
        let error = parse_test("exporters:\n  otpl/jaeger:\n    endpoint: x\n").unwrap_err();
        assert!(error.contains("c.yaml:2") && error.contains("did you mean `otlp`"), "{error}");
        let error = parse_test("exporter:\n").unwrap_err();
        assert!(error.contains("c.yaml:1") && error.contains("`exporters`"), "{error}");
    }

    #[test]
    fn a_wrong_value_is_named_with_its_line() {
        let error = parse_test("exporters:\n  otlp:\n    timeout: 5 parsecs\n").unwrap_err();
        assert!(
            error.starts_with("c.yaml:3: exporters.otlp.timeout: `5 parsecs` is not a duration"),
            "{error}"
        );
    }

    #[test]
    fn every_mistake_of_a_file_is_reported_at_once() {
        let error = parse_test(
            "exporters:\n  otlp:\n    timeout: 5 parsecs\n    endpiont: x\n  otpl:\n  debug: [1]\nexprters:\n",
        )
        .unwrap_err();
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines[0], "c.yaml has 5 problems:");
        for (line, start) in lines[1..].iter().zip([
            "  c.yaml:3: exporters.otlp.timeout: `5 parsecs` is not a duration",
            "  c.yaml:4: exporters.otlp: unknown key `endpiont`; did you mean `endpoint`?",
            "  c.yaml:5: exporters.otpl: unknown exporter `otpl`; did you mean `otlp`?",
            "  c.yaml:6: exporters.debug: a section is expected here, not a list",
            "  c.yaml:7: unknown key `exprters`; did you mean `exporters`?",
        ]) {
            assert!(line.starts_with(start), "{line}");
        }
    }

    #[test]
    fn nothing_is_the_default_and_an_unknown_key_stays_one() {
        let config = parse_test("exporters:\n  otlp:\n    endpoint:\n    timeout: null\n").unwrap();
        let Some(Exporter::Otlp(otlp)) = config.exporters.get("otlp") else { panic!() };
        assert!(otlp.endpoint.is_empty() && otlp.timeout.is_none());
        assert!(parse_test("exporters:\n").unwrap().exporters.0.is_empty());
        assert!(parse_test("exporters: {otlp: {time: }}").unwrap_err().contains("`timeout`"));
    }
}
