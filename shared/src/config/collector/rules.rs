//! What becomes of a key that the Collector has.

use crate::config::read::Reader;
use crate::config::tree::{Map, Node, Value, boolean};
use crate::config::{Problem, unknown};
use crate::units::parse_duration;

/// What becomes of a key.
#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    /// It changes nothing that anybody could see.
    Silent,
    /// It has no counterpart; this is what Perigee does instead.
    Instead(&'static str),
    /// To ignore it would lose data, or show it to somebody.
    Wrong(&'static str),
    /// Perigee calls it so.
    Rename(&'static str),
    /// Perigee calls it so, and writes the unit.
    Mib(&'static str),
}

/// Keys of a section and what becomes of them.
pub(super) type Rules = &'static [(&'static str, Act)];

/// What stands at a key that is taken out: it is checked all the same, since a mistake there is a mistake in the Collector too.
#[derive(Debug, Clone, Copy)]
pub(super) enum Takes {
    Any,
    Bool,
    Whole,
    Duration,
    Text,
    Word(&'static [&'static str]),
    Section(&'static [(&'static str, Takes)]),
}

/// Complains of what `takes` does not allow at `key`.
pub(super) fn check(key: &str, line: u64, node: &Node, takes: Takes, notes: &mut Notes) {
    let text = node.as_text();
    // Variables that are not replaced may become anything.
    if node.is_null() || text.is_some_and(|text| text.contains("${")) {
        return;
    }
    let wrong = match (takes, text) {
        (Takes::Section(shape), _) => match node.as_map() {
            Some(map) => return check_keys(key, map, shape, notes),
            None => Some(Reader(node).no_section()),
        },
        (Takes::Any, _) => None,
        (_, None) => Some("a single value is expected here".to_owned()),
        (Takes::Text, _) => None,
        (Takes::Bool, Some(text)) => {
            boolean(text).is_none().then(|| format!("`{text}` is neither true nor false"))
        }
        (Takes::Whole, Some(text)) => {
            text.parse::<u64>().is_err().then(|| format!("`{text}` is not a whole number"))
        }
        (Takes::Duration, Some(text)) => parse_duration(text).err(),
        (Takes::Word(words), Some(text)) => {
            let is_known = words.iter().any(|word| word.eq_ignore_ascii_case(text));
            (!is_known).then(|| unknown("value", text, words))
        }
    };
    if let Some(message) = wrong {
        notes.wrong(line, key, message);
    }
}

fn check_keys(key: &str, map: &Map, shape: &[(&'static str, Takes)], notes: &mut Notes) {
    for entry in &map.0 {
        match shape.iter().find(|(name, _)| *name == entry.key) {
            Some((name, takes)) => check(&format!("{key}.{name}"), entry.line, &entry.node, *takes, notes),
            None => {
                let known: Vec<&str> = shape.iter().map(|(name, _)| *name).collect();
                notes.wrong(entry.line, key, unknown("key", &entry.key, &known));
            }
        }
    }
}

/// What is to be said of a file.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    /// Sections that are read and have no effect.
    pub(super) idle: Vec<Vec<String>>,
    /// Keys that nothing comes of.
    pub(super) ignored: Vec<String>,
    /// Paths that are wrong and go.
    pub(super) removed: Vec<Vec<String>>,
    /// Keys as Perigee calls them, and as the file does.
    pub(super) renamed: Vec<(String, String)>,
}

impl Notes {
    // Called in many places, and never often.
    #[inline(never)]
    pub(super) fn warn(&mut self, line: u64, key: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(Problem::new(line, key, message));
    }

    // Called in many places, and never often.
    #[inline(never)]
    pub(super) fn wrong(&mut self, line: u64, key: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem::new(line, key, message));
    }

    /// Messages about `section.to` call it `key`.
    pub(super) fn rename(&mut self, section: &str, to: &str, key: String) {
        self.renamed.push((format!("{section}.{to}"), key));
    }

    /// What stands at `key`, or is missing there, is no mistake of its own.
    #[inline(never)]
    pub(super) fn follows(&mut self, key: &str) {
        self.removed.push(key.split('.').map(str::to_owned).collect());
    }

    /// What stands at `section.name` is wrong and goes.
    pub(super) fn gone(&mut self, section: &str, name: &str) {
        self.removed.push(vec![section.to_owned(), name.to_owned()]);
    }
}

/// Whether a value turns nothing on.
pub(super) fn is_off(node: &Node) -> bool {
    match &node.value {
        Value::Scalar(s) => s.is_null() || matches!(s.text.as_str(), "false" | "False" | "0" | "0s" | ""),
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.0.is_empty() || map.get("enabled").is_some_and(is_off),
    }
}

/// What the Collector reads in letters of either case.
pub(super) fn lower(word: Option<&mut Node>) {
    if let Some(node) = word
        && let Some(text) = node.as_text().map(str::to_lowercase)
    {
        *node = Node::plain(node.line, text);
    }
}

/// Does with the keys of `section` what `rules` say.
pub(super) fn apply(section: &str, map: &mut Map, rules: Rules, notes: &mut Notes) {
    for (name, act) in rules {
        let Some(entry) = map.take(name) else { continue };
        let key = format!("{section}.{name}");
        let off = is_off(&entry.node);
        if matches!(act, Act::Silent | Act::Instead(_)) {
            notes.ignored.push(key.clone());
        }
        match act {
            Act::Silent => {}
            Act::Instead(_) | Act::Wrong(_) if off => {}
            Act::Instead(instead) => notes.warn(entry.line, key, format!("is not implemented: {instead}")),
            Act::Wrong(why) => notes.wrong(entry.line, key, format!("is not implemented: {why}")),
            Act::Rename(_) | Act::Mib(_) if entry.node.is_null() => {}
            Act::Rename(to) | Act::Mib(to) if map.get(to).is_some() => {
                notes.wrong(entry.line, key, format!("`{to}` is set too; keep one of them"));
            }
            Act::Rename(to) => {
                notes.rename(section, to, key);
                map.set(to, entry.line, entry.node);
            }
            Act::Mib(_) if off => {}
            Act::Mib(to) => match entry.node.as_text() {
                Some(number) if number.starts_with("${") || number.parse::<u64>().is_ok() => {
                    notes.rename(section, to, key);
                    map.set(to, entry.line, Node::text(entry.line, format!("{number}MiB")));
                }
                _ => notes.wrong(entry.line, key, "must be a whole number of MiB"),
            },
        }
    }
}
