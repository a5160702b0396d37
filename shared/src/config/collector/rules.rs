//! What becomes of a key that the Collector has.

use crate::config::Problem;
use crate::config::tree::{Map, Node, Value};

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

/// What is to be said of a file.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    /// Paths that are wrong and go.
    pub(super) removed: Vec<Vec<String>>,
}

impl Notes {
    pub(super) fn warn(&mut self, line: u64, key: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(Problem::new(line, key, message));
    }

    pub(super) fn wrong(&mut self, line: u64, key: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem::new(line, key, message));
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
        Value::Map(map) => map.0.is_empty(),
    }
}

/// Does with the keys of the section `key` what `rules` say.
pub(super) fn apply(key: &str, map: &mut Map, rules: Rules, notes: &mut Notes) {
    for (name, act) in rules {
        let Some(entry) = map.take(name) else { continue };
        let key = format!("{key}.{name}");
        let off = is_off(&entry.node);
        match act {
            Act::Silent => {}
            Act::Instead(_) | Act::Wrong(_) if off => {}
            Act::Instead(instead) => notes.warn(entry.line, key, format!("is not implemented: {instead}")),
            Act::Wrong(why) => notes.wrong(entry.line, key, format!("is not implemented: {why}")),
            Act::Rename(_) | Act::Mib(_) if entry.node.is_null() => {}
            Act::Rename(to) | Act::Mib(to) if map.get(to).is_some() => {
                notes.wrong(entry.line, key, format!("`{to}` is set too; keep one of them"));
            }
            Act::Rename(to) => map.set(to, entry.line, entry.node),
            Act::Mib(_) if off => {}
            Act::Mib(to) => match entry.node.as_text() {
                Some(number) if number.starts_with("${") || number.parse::<u64>().is_ok() => {
                    map.set(to, entry.line, Node::text(entry.line, format!("{number}MiB")));
                }
                _ => notes.wrong(entry.line, key, "must be a whole number of MiB"),
            },
        }
    }
}
