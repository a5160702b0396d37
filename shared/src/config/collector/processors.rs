//! `processors`: any number of limiters and batchers become the one of each that Perigee has.

use std::time::Duration;

use super::names::{self, PROCESSORS, Section, kind, used_in_pipelines};
use super::rules::{Act, Notes, Rules, apply, is_off};
use crate::config::tree::{Map, Node};
use crate::units::parse_duration;

pub(super) const LIMITER: Rules = &[
    ("limit_mib", Act::Mib("limit")),
    ("spike_limit_mib", Act::Mib("spike_limit")),
    ("min_gc_interval_when_soft_limited", Act::Silent),
    ("min_gc_interval_when_hard_limited", Act::Silent),
    ("max_gc_interval_when_soft_limited", Act::Silent),
    ("max_gc_interval_when_hard_limited", Act::Silent),
];

pub(super) const BATCH: Rules = &[
    // Exporters have it as max_request_items.
    ("send_batch_max_size", Act::Silent),
    ("metadata_keys", Act::Instead("requests of all senders are batched together")),
    ("metadata_cardinality_limit", Act::Silent),
];

const SECTION: Section = Section {
    name: "processors",
    noun: "processor",
    known: &["memory_limiter", "batch"],
    theirs: PROCESSORS,
    loss: "what it would drop, hide or change would be sent as it is; let a Collector do it before or behind, or take it out of the \
           pipelines",
};

/// `foreign`: the file is a Collector's as it is.
pub(super) fn translate(map: &mut Map, foreign: bool, notes: &mut Notes) {
    let used = used_in_pipelines(map, "processors");
    names::check(map, &SECTION, |name| used.iter().any(|u| u == name), notes);
    let Some(processors) = map.get_mut("processors").and_then(Node::map_mut) else { return };
    for (name, rules) in [("memory_limiter", LIMITER), ("batch", BATCH)] {
        let of_kind = |n: &&String| kind(n) == name && processors.get(n).is_some();
        let first = used.iter().find(of_kind).cloned();
        let is_idle = foreign && first.is_none();
        let first = first.or_else(|| processors.0.iter().map(|e| &e.key).find(|k| kind(k) == name).cloned());
        let Some(first) = first else { continue };
        if is_idle {
            // As in the Collector, which reads it all the same.
            let line = processors.0.iter().find(|e| e.key == first).map_or(0, |e| e.line);
            let message = format!("no pipeline uses it, so Perigee's own settings of its {name} hold");
            notes.warn(line, format!("processors.{first}"), message);
            notes.idle.push(vec!["processors".to_owned(), name.to_owned()]);
        }
        let others: Vec<String> =
            processors.0.iter().map(|e| e.key.clone()).filter(|k| kind(k) == name && *k != first).collect();
        for other in others {
            let Some(entry) = processors.take(&other) else { continue };
            let message = format!("Perigee has one {name} for everything, with the settings of `{first}`");
            notes.warn(entry.line, format!("processors.{other}"), message);
        }
        let Some(mut entry) = processors.take(&first) else { continue };
        if let Some(settings) = entry.node.map_mut() {
            let key = format!("processors.{first}");
            let before = notes.renamed.len();
            let in_mib = settings.get("limit_mib").is_some_and(|limit| !is_off(limit));
            apply(&key, settings, rules, notes);
            notes.renamed[before..].iter_mut().for_each(|(ours, _)| *ours = ours.replacen(&first, name, 1));
            if name == "batch" {
                batch(&key, settings, notes)
            } else {
                limiter(&key, settings, in_mib, notes)
            }
        }
        processors.set(name, entry.line, entry.node);
    }
}

/// The Collector's spike limit is a fifth of its limit, and its percentages count for nothing beside a limit `in_mib`.
fn limiter(key: &str, settings: &mut Map, in_mib: bool, notes: &mut Notes) {
    for name in ["limit_percentage", "spike_limit_percentage"] {
        let Some(entry) = settings.take(name).filter(|e| !in_mib && !is_off(&e.node)) else { continue };
        match entry.node.as_text().and_then(|text| text.parse::<u64>().ok()) {
            Some(percent) if percent > 100 => {
                notes.wrong(entry.line, format!("{key}.{name}"), "must be from 1 to 100");
            }
            _ => settings.0.push(entry),
        }
    }
    let given = |name: &str| settings.get(name).is_some();
    if given("limit_percentage") && given("spike_limit_percentage") {
        let ours = |name: &str| format!("processors.memory_limiter.{name}");
        notes.renamed.push((ours("spike_limit"), format!("{key}.spike_limit_percentage")));
    }
    if given("spike_limit") || given("spike_limit_percentage") {
        return;
    }
    let text = |name: &str| {
        settings.0.iter().find(|e| e.key == name).and_then(|e| Some((e.line, e.node.as_text()?)))
    };
    if let Some((line, limit)) = text("limit")
        && let Some(mib) = limit.strip_suffix("MiB").and_then(|n| n.parse::<u64>().ok())
    {
        settings.set("spike_limit", line, Node::text(line, format!("{}KiB", mib * 1024 / 5)));
    } else if let Some((line, percent)) = text("limit_percentage")
        && let Ok(percent) = percent.parse::<u64>()
    {
        settings.set("spike_limit_percentage", line, Node::plain(line, (percent / 5).to_string()));
    }
}

/// 0 is no waiting in the Collector, and as many items as come.
fn batch(key: &str, settings: &mut Map, notes: &mut Notes) {
    const LEAST: &str = "10ms";
    let length = |node: &Node| node.as_text().and_then(|t| parse_duration(t).ok());
    if let Some(timeout) = settings.get_mut("timeout")
        && (is_off(timeout) || length(timeout).is_some_and(|t| t < Duration::from_millis(10)))
        && !timeout.is_null()
    {
        if !is_off(timeout) {
            notes.warn(timeout.line, format!("{key}.timeout"), format!("is {LEAST} here, the shortest one"));
        }
        *timeout = Node::text(timeout.line, LEAST);
    }
    if settings.get("send_batch_size").is_some_and(is_off) {
        settings.take("send_batch_size");
    }
}
