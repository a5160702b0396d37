//! Configuration files: YAML in the Collector's shape, read strictly.
//!
//! [`load`] reads a file, replaces `${env:NAME}` and `${env:NAME:-default}` (`$$` is a dollar sign), and parses it. An unknown
//! key is an error that names the key, its line and the nearest known key. [`Components`] is the Collector's map of
//! `kind/name` to the settings of that kind.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::units::ByteSize;

/// What is wrong with a configuration, with the place where it can be said.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read configuration {path}: {source}")]
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
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into() }
    }
}

/// Reads the configuration file at `path`; variables come from `env`.
pub fn load<T: DeserializeOwned>(
    path: &Path,
    env: impl Fn(&str) -> Option<String>,
) -> Result<T, ConfigError> {
    let shown = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: shown.clone(), source })?;
    parse(&text, &shown, env)
}

/// Reads the text file at `path`, of at most `most` bytes, without its byte order mark. What is not UTF-8 becomes U+FFFD.
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("it has more than {}", ByteSize(most))));
    }
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned())
}

/// Parses configuration `text`; `path` is only for messages.
pub fn parse<T: DeserializeOwned>(
    text: &str,
    path: &str,
    env: impl Fn(&str) -> Option<String>,
) -> Result<T, ConfigError> {
    let text = interpolate(text, &env).map_err(|(line, message)| ConfigError::Parse {
        path: path.to_owned(),
        line,
        message,
    })?;
    serde_saphyr::from_str(&text).map_err(|error| {
        let line = error.location().map_or(0, |l| l.line());
        let message = explain(error.without_snippet(), key_at(&text, line));
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
fn unknown(what: &str, found: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(found, k), *k))
        .min()
        .filter(|(distance, k)| *distance <= k.len().max(found.len()) / 2);
    match nearest {
        Some((_, k)) => {
            format!("unknown {what} `{found}`; did you mean `{k}`? (known: {})", known.join(", "))
        }
        None if known.is_empty() => format!("unknown {what} `{found}`; nothing may stand here"),
        None => format!("unknown {what} `{found}` (known: {})", known.join(", ")),
    }
}

/// Replaces `${env:NAME}` and `${env:NAME:-default}`; the error is the line and the message.
fn interpolate(text: &str, env: &impl Fn(&str) -> Option<String>) -> Result<String, (u64, String)> {
    let mut out = String::with_capacity(text.len());
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let fail = |message: String| (number as u64 + 1, message);
        let (mut rest, comment) = line.split_at(comment_at(line));
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some(after) = rest.strip_prefix("{env:") {
                let end = after.find('}').ok_or_else(|| fail("`${env:` without its `}`".to_owned()))?;
                let (name, default) = match after[..end].split_once(":-") {
                    Some((name, default)) => (name, Some(default)),
                    None => (&after[..end], None),
                };
                let value = env(name)
                    .filter(|v| !v.is_empty())
                    .or_else(|| default.map(str::to_owned))
                    .ok_or_else(|| {
                        fail(format!(
                            "the environment variable {name} is not set; set it or write ${{env:{name}:-default}}"
                        ))
                    })?;
                if value.contains(['\n', '\r']) {
                    return Err(fail(format!("the environment variable {name} has more than one line")));
                }
                out.push_str(&value);
                rest = &after[end + 1..];
            } else {
                out.push('$');
            }
        }
        out.push_str(rest);
        out.push_str(comment);
    }
    Ok(out)
}

/// Where the comment of a line begins, or its end: at a `#` that is outside quotes and behind a space.
fn comment_at(line: &str) -> usize {
    let mut quote = None;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') if before.is_whitespace() => return at,
            (None, '"' | '\'') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            _ => {}
        }
        before = c;
    }
    line.len()
}

/// One kind of component (a receiver, an exporter, ...) and its settings.
pub trait Component: Sized {
    /// The kinds that exist, as they are written before the `/`.
    const KINDS: &'static [&'static str];

    /// Reads the settings of `kind`, which is one of [`Component::KINDS`].
    fn deserialize_kind<'de, A: MapAccess<'de>>(kind: &str, map: &mut A) -> Result<Self, A::Error>;
}

/// The Collector's map of `kind` or `kind/name` to settings, in the order of the keys.
#[derive(Debug, Clone)]
pub struct Components<T>(pub BTreeMap<String, T>);

impl<T> Default for Components<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Components<T> {
    /// The settings of the component with this full name.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.0.get(name)
    }

    /// Names and settings, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(name, settings)| (name.as_str(), settings))
    }

    /// That no component is called `name`, with the nearest one that is.
    pub fn unknown(&self, key: impl Into<String>, name: &str) -> Invalid {
        let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
        Invalid::new(key, unknown("component", name, &known))
    }
}

impl<'de, T: Component> Deserialize<'de> for Components<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor<T>(PhantomData<T>);

        impl<'de, T: Component> Visitor<'de> for MapVisitor<T> {
            type Value = Components<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a map whose keys are one of {} (or KIND/NAME)", T::KINDS.join(", "))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Components::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut out = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let kind = name.split_once('/').map_or(name.as_str(), |(kind, _)| kind);
                    if !T::KINDS.contains(&kind) {
                        return Err(A::Error::unknown_field(kind, T::KINDS));
                    }
                    let settings = T::deserialize_kind(kind, &mut map)?;
                    if out.insert(name.clone(), settings).is_some() {
                        return Err(A::Error::custom(format!("`{name}` stands here twice")));
                    }
                }
                Ok(Components(out))
            }
        }

        deserializer.deserialize_map(MapVisitor(PhantomData))
    }
}

/// Reads settings that may be left empty (`debug:` with nothing behind it), which then have their defaults.
pub fn settings_or_default<'de, T, A>(map: &mut A) -> Result<T, A::Error>
where
    T: Deserialize<'de> + Default,
    A: MapAccess<'de>,
{
    Ok(map.next_value::<Option<T>>()?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
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
        assert!(error.starts_with("c.yaml:3: timeout: `5 parsecs` is not a duration"), "{error}");
    }

    #[test]
    fn variables_come_from_the_environment_or_their_default() {
        let out = |text| interpolate(text, &|name: &str| (name == "A").then(|| "1".to_owned()));
        assert_eq!(out("a: ${env:A} ${env:B:-2} $$x $y").as_deref(), Ok("a: 1 2 $x $y"));
        for text in [" # ${env:B}\n", "a: 'x # y' # ${env:B}"] {
            assert_eq!(out(text).as_deref(), Ok(text), "a comment may speak of them");
        }
        assert_eq!(out("a: '# ${env:A}'").as_deref(), Ok("a: '# 1'"));
        let (line, message) = out("\nb: ${env:B}").unwrap_err();
        assert!(line == 2 && message.contains('B'));
    }
}
