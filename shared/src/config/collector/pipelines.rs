//! `service.pipelines`: those of one signal become one, when that sends the same data to the same places.

use std::collections::{BTreeMap, BTreeSet};

use super::Program;
use super::names::kind;
use super::rules::Notes;
use crate::config::tree::{Entry, Map, Node, Value};
use crate::config::{Problem, unknown};
use crate::signal::Signal;

/// One pipeline of the file.
struct Pipeline {
    name: String,
    receivers: BTreeSet<String>,
    exporters: Vec<String>,
}

/// The names of the components in a section.
pub(super) fn names(map: &Map, section: &str) -> Vec<String> {
    let section = map.get(section).and_then(Node::as_map);
    section.into_iter().flat_map(|m| m.0.iter().map(|e| e.key.clone())).collect()
}

/// The lists of all pipelines, `part` by `part`.
fn lists(map: &mut Map) -> impl Iterator<Item = (&'static str, &mut Node)> {
    const PARTS: [&str; 3] = ["receivers", "processors", "exporters"];
    let pipelines = map.get_mut("service").and_then(Node::map_mut).and_then(|s| s.get_mut("pipelines"));
    let pipelines = pipelines.and_then(Node::map_mut).into_iter().flat_map(|p| &mut p.0);
    let parts = pipelines.filter(|e| e.node.as_map().is_some()).filter_map(|e| e.node.map_mut());
    parts.flat_map(|p| &mut p.0).filter_map(|entry| {
        let part = PARTS.into_iter().find(|part| *part == entry.key)?;
        Some((part, &mut entry.node))
    })
}

/// One name, or several with commas, is a list for the Collector.
pub(super) fn words_to_lists(map: &mut Map) {
    lists(map).for_each(|(_, node)| words_to_list(node));
}

/// The same of any list.
pub(super) fn words_to_list(node: &mut Node) {
    // A variable that is not replaced may become a list.
    if let Some(text) = node.as_text().filter(|text| !text.contains("${")) {
        let words = text.split(',').map(|word| Node::text(node.line, word.trim())).collect();
        node.value = Value::List(words);
    }
}

/// Gives components of `section` other names wherever a pipeline names them.
pub(super) fn rename(map: &mut Map, section: &str, renamed: &[(String, String)]) {
    for (_, node) in lists(map).filter(|(part, _)| *part == section) {
        let Value::List(list) = &mut node.value else { continue };
        for node in list {
            if let Some((_, new)) = renamed.iter().find(|(old, _)| node.as_text() == Some(old)) {
                *node = Node::text(node.line, new.clone());
            }
        }
    }
}

/// `processors` are the names that the file had, before they became one of each kind.
pub(super) fn translate(map: &mut Map, program: Program, mut processors: Vec<String>, notes: &mut Notes) {
    for always in ["memory_limiter", "batch"] {
        if !processors.iter().any(|p| p == always) {
            processors.push(always.to_owned());
        }
    }
    let mut known = BTreeMap::new();
    // A section whose name is mistyped is one mistake.
    let sections: &[&'static str] =
        if program == Program::Agent { &["receivers", "exporters"] } else { &["exporters"] };
    for section in sections.iter().filter(|s| map.get(s).is_some()) {
        known.insert(*section, names(map, section));
    }
    if program == Program::Agent {
        known.insert("processors", processors);
    }
    let Some(pipelines) = map
        .get_mut("service")
        .and_then(Node::map_mut)
        .and_then(|s| s.get_mut("pipelines"))
        .and_then(Node::map_mut)
    else {
        return;
    };
    let mut by_signal: BTreeMap<&'static str, Vec<(Pipeline, Entry)>> = BTreeMap::new();
    for entry in std::mem::take(&mut pipelines.0) {
        let key = format!("service.pipelines.{}", entry.key);
        let signals = Signal::ALL.map(Signal::name);
        let Some(signal) = signals.into_iter().find(|s| *s == kind(&entry.key)) else {
            let message = match kind(&entry.key) {
                "profiles" => {
                    "profiles are not implemented: their data would be lost; remove the pipeline".to_owned()
                }
                other => unknown("pipeline", other, &signals),
            };
            notes.wrong(entry.line, key, message);
            continue;
        };
        if !(entry.node.is_null() || entry.node.as_map().is_some()) {
            pipelines.0.push(entry);
            continue;
        }
        references(&key, &entry, &known, notes);
        let list = |part: &str| -> Vec<String> {
            let list = entry.node.at(&[part]).and_then(Node::as_list).into_iter().flatten();
            list.filter_map(|n| n.as_text().map(str::to_owned)).collect()
        };
        let receivers = list("receivers").into_iter().collect();
        let pipeline = Pipeline { name: entry.key.clone(), receivers, exporters: list("exporters") };
        by_signal.entry(signal).or_default().push((pipeline, entry));
    }
    for (signal, mut all) in by_signal {
        let joined = if all.len() == 1 && all[0].0.name == signal {
            all.swap_remove(0).1
        } else {
            join(signal, &all, notes)
        };
        pipelines.0.push(own(joined, program));
    }
}

/// Complains of names that nothing has, each at its own line.
fn references(key: &str, entry: &Entry, known: &BTreeMap<&'static str, Vec<String>>, notes: &mut Notes) {
    for (part, names) in known {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let noun = part.trim_end_matches('s');
        let list = entry.node.at(&[part]);
        if *part != "processors"
            && list.is_none_or(|l| l.is_null() || l.as_list().is_some_and(<[Node]>::is_empty))
        {
            let line = entry
                .node
                .as_map()
                .and_then(|m| m.0.iter().find(|e| e.key == *part))
                .map_or(entry.line, |e| e.line);
            notes.wrong(line, format!("{key}.{part}"), format!("is empty; name at least one of the {part}"));
        }
        for node in list.and_then(Node::as_list).into_iter().flatten() {
            let Some(name) = node.as_text() else { continue };
            // Also what is mistyped in its section and right here: that is one mistake.
            let alike = |other: &str| strsim::damerau_levenshtein(other, name) <= name.len() / 2;
            let gone = |path: &Vec<String>| path[0] == *part && alike(&path[1]);
            if names.contains(&name) || name.starts_with("${") || notes.removed.iter().any(gone) {
                continue;
            }
            notes.problems.push(Problem::new(
                node.line,
                format!("{key}.{part}"),
                unknown(noun, name, &names),
            ));
        }
    }
}

/// One pipeline that does what all of them do.
fn join(signal: &str, all: &[(Pipeline, Entry)], notes: &mut Notes) -> Entry {
    let first = &all[0].1;
    let mut receivers = Vec::new();
    let mut exporters: Vec<String> = Vec::new();
    for (pipeline, _) in all {
        receivers.extend(pipeline.receivers.iter().cloned());
        exporters.extend(pipeline.exporters.iter().cloned());
    }
    receivers.sort();
    receivers.dedup();
    // What is not there was reported already.
    let is_there = |part: &str, name: &String| !notes.removed.iter().any(|r| r[0] == part && r[1] == *name);
    receivers.retain(|name| is_there("receivers", name));
    exporters.retain(|name| is_there("exporters", name));
    let mut seen = BTreeSet::new();
    exporters.retain(|e| seen.insert(e.clone()));
    for exporter in &exporters {
        let mine: Vec<&Pipeline> =
            all.iter().map(|(p, _)| p).filter(|p| p.exporters.contains(exporter)).collect();
        let from: BTreeSet<&String> = mine.iter().flat_map(|p| &p.receivers).collect();
        let line =
            all.iter().find(|(p, _)| p.exporters.contains(exporter)).map_or(first.line, |(_, e)| e.line);
        let key = format!("service.pipelines.{}", mine[0].name);
        if let Some(other) = receivers.iter().find(|r| !from.contains(r)) {
            let message = format!(
                "Perigee has one way for all {signal}: what comes in at `{other}` would also go to `{exporter}`, which the Collector does \
                 not send it to; give these pipelines the same receivers, or run an agent for each"
            );
            notes.wrong(line, key, message);
        } else if mine.iter().map(|p| p.receivers.len()).sum::<usize>() > from.len() {
            let message = format!(
                "`{exporter}` is in several pipelines of {signal}: the Collector would send it everything twice, Perigee sends it once"
            );
            notes.warn(line, key, message);
        }
    }
    let list = |names: Vec<String>| Node {
        line: first.line,
        value: Value::List(names.into_iter().map(|n| Node::text(first.line, n)).collect()),
    };
    let mut map = Map::default();
    map.set("receivers", first.line, list(receivers));
    map.set("exporters", first.line, list(exporters));
    Entry {
        key: signal.to_owned(),
        line: first.line,
        node: Node { line: first.line, value: Value::Map(map) },
    }
}

/// Without what is always there, and without empty lists, of which is spoken already.
fn own(mut entry: Entry, program: Program) -> Entry {
    if let (Program::Agent, Some(map)) = (program, entry.node.map_mut()) {
        map.take("processors");
    }
    entry
}
