//! The Collector's configuration, understood as it is.
//!
//! [`translate`] turns the tree of a file that the Collector takes into Perigee's own form, before serde reads it: names, defaults that
//! are the Collector's, instances, pipelines. What has no counterpart here is taken out with a warning that says what Perigee does
//! instead, or is an error where to ignore it would lose data or show it to somebody. A file in Perigee's own form stays as it is.

pub mod directory;
mod exporters;
mod extensions;
mod names;
mod pipelines;
mod processors;
mod receivers;
mod rules;
mod telemetry;

use std::path::Path;

use self::rules::{Notes, Rules};
use super::tree::{Map, Node};
use super::{ConfigFile, Invalid};

/// Whose configuration it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `space-agent`
    Agent,
    /// `ground-station`
    Ground,
}

/// Sections that no Collector has.
pub(super) const OWN_SECTIONS: [&str; 4] = ["storage", "link", "lanes", "contacts"];

/// Turns what the Collector has into Perigee's own form; what is to be said of it is noted in `file`.
pub fn translate(file: &mut ConfigFile, program: Program) {
    let Some(map) = file.tree.map_mut() else { return };
    let mut notes = Notes::default();
    pipelines::words_to_lists(map);
    other_programs(map, program, &mut notes);
    // A Collector's file as it is: it cannot know what Perigee wants to be told.
    let foreign = program == Program::Agent && !OWN_SECTIONS.iter().any(|s| map.get(s).is_some());
    let stored_in = exporters::translate(map, program, foreign, &mut notes);
    let processors = pipelines::names(map, "processors");
    if program == Program::Agent {
        receivers::translate(map, &mut notes);
        processors::translate(map, foreign, &mut notes);
        connectors(map, &mut notes);
    }
    pipelines::translate(map, program, processors, &mut notes);
    let storages = extensions::translate(map, program, &stored_in, &mut notes);
    telemetry::translate(map, program, &mut notes);
    if foreign {
        receivers::open_to_others(map, &mut notes);
        receivers::bodies(map, &mut notes);
    }
    if program == Program::Agent {
        directory::settle(map, storages, directory::Known::here(Path::new(&file.path)), &mut notes);
    }
    file.note_unset(&notes.ignored);
    file.idle.append(&mut notes.idle);
    file.renamed.append(&mut notes.renamed);
    file.problems.append(&mut notes.problems);
    file.warnings.append(&mut notes.warnings);
    file.warnings.sort_by_key(|w| w.line);
    for path in notes.removed {
        file.drop_wrong(&path);
    }
}

/// Complains of a file that is the other program's, by the section that only that one has and must have.
fn other_programs(map: &mut Map, program: Program, notes: &mut Notes) {
    let (own, theirs, message) = match program {
        Program::Agent => (
            "receivers",
            "station",
            "this is a configuration of ground-station, and space-agent reads its own",
        ),
        Program::Ground => (
            "station",
            "receivers",
            "this is a configuration of space-agent, and ground-station reads its own",
        ),
    };
    if map.get(own).is_none()
        && let Some(entry) = map.take(theirs)
    {
        notes.wrong(entry.line, theirs, message);
    }
}

/// Whether this is a Collector's file; otherwise what it is.
pub fn is_foreign(tree: &Node) -> Result<(), Invalid> {
    if let Some(own) = ["link", "lanes", "contacts"].iter().find(|section| tree.at(&[**section]).is_some()) {
        let message = "no Collector has such a section: the file is in Perigee's own form already; check it with `validate -c`";
        return Err(Invalid::new(*own, message));
    }
    const THEIRS: [&str; 5] = ["receivers", "processors", "exporters", "extensions", "service"];
    if THEIRS.iter().all(|section| tree.at(&[*section]).is_none()) {
        let message =
            "this is no Collector's configuration: it has neither receivers nor exporters nor service";
        return Err(Invalid::new("", message));
    }
    Ok(())
}

/// The Collector's keys in the section at a path that may stand there, and that a mistyped key may have meant.
pub fn keys(program: Program, section: &[String]) -> Vec<&'static str> {
    let parts: Vec<&str> = section.iter().map(|s| s.split('/').next().unwrap_or(s)).collect();
    let rules: &[Rules] = match parts.as_slice() {
        ["exporters", kind] => exporters::rules(kind),
        ["exporters", _, "tls"] => &[exporters::TLS],
        ["receivers", "hostmetrics" | "host_metrics"] => &[receivers::HOST],
        ["receivers", _, "protocols", "grpc"] => &[receivers::GRPC],
        ["receivers", _, "protocols", "http"] => &[receivers::HTTP],
        ["processors", "memory_limiter"] => &[processors::LIMITER],
        ["processors", "batch"] => &[processors::BATCH],
        ["extensions", "health_check"] => &[extensions::HEALTH],
        ["service"] => &[telemetry::SERVICE],
        ["service", "telemetry"] => &[telemetry::TELEMETRY],
        ["service", "telemetry", "logs"] => &[telemetry::LOGS],
        ["service", "telemetry", "metrics"] => &[telemetry::METRICS],
        [] if program == Program::Agent => &[&[("connectors", rules::Act::Silent)]],
        _ => &[],
    };
    let queued: &[Rules] =
        if parts.len() == 2 && parts[0] == "exporters" { &[exporters::QUEUED] } else { &[] };
    let all = rules.iter().chain(queued).flat_map(|rules| rules.iter());
    all.filter(|(_, act)| !matches!(act, rules::Act::Wrong(_))).map(|(key, _)| *key).collect()
}

fn connectors(map: &mut Map, notes: &mut Notes) {
    let Some(entry) = map.take("connectors") else { return };
    let used =
        [names::used_in_pipelines(map, "receivers"), names::used_in_pipelines(map, "exporters")].concat();
    for connector in entry.node.as_map().into_iter().flat_map(|m| &m.0) {
        let key = format!("connectors.{}", connector.key);
        if !used.contains(&connector.key) {
            notes.ignored.push(key.clone());
            notes.warn(connector.line, key, "connectors are not implemented; no pipeline uses it");
            continue;
        }
        // So does every pipeline that names it.
        notes.gone("receivers", &connector.key);
        notes.gone("exporters", &connector.key);
        notes.wrong(
            connector.line,
            key,
            "connectors are not implemented: one pipeline cannot feed another here",
        );
    }
}
