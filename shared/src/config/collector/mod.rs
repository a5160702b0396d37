//! The Collector's configuration, understood as it is.
//!
//! [`translate`] turns the tree of a file that the Collector takes into Perigee's own form, before serde reads it: names, defaults that
//! are the Collector's, instances, pipelines. What has no counterpart here is taken out with a warning that says what Perigee does
//! instead, or is an error where to ignore it would lose data or show it to somebody. A file in Perigee's own form stays as it is.

mod exporters;
mod extensions;
mod names;
mod pipelines;
mod processors;
mod receivers;
mod rules;
mod telemetry;

use std::path::PathBuf;

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
    // A Collector's file as it is: it cannot know what Perigee wants to be told.
    let foreign = program == Program::Agent && !OWN_SECTIONS.iter().any(|s| map.get(s).is_some());
    exporters::translate(map, program, &mut notes);
    let processors = pipelines::names(map, "processors");
    if program == Program::Agent {
        receivers::translate(map, &mut notes);
        processors::translate(map, &mut notes);
        connectors(map, &mut notes);
    }
    pipelines::translate(map, program, processors, &mut notes);
    let storages = extensions::translate(map, program, &mut notes);
    telemetry::translate(map, program, &mut notes);
    if foreign {
        receivers::open_to_others(map, &mut notes);
        receivers::bodies(map, &mut notes);
    }
    if program == Program::Agent {
        log_directory(map, storages, &mut notes);
    }
    file.renamed.append(&mut notes.renamed);
    file.problems.append(&mut notes.problems);
    file.warnings.append(&mut notes.warnings);
    file.warnings.sort_by_key(|w| w.line);
    for path in notes.removed {
        file.drop_wrong(&path);
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
    for connector in entry.node.as_map().into_iter().flat_map(|m| &m.0) {
        let key = format!("connectors.{}", connector.key);
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

/// Where the log lies when nothing says so: what a system's service manager gives, or the user's own directory.
fn default_directory() -> PathBuf {
    if let Some(given) = std::env::var_os("STATE_DIRECTORY") {
        return PathBuf::from(given).join("agent");
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let root = nix::unistd::geteuid().is_root();
    let user = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).or_else(home).filter(|_| !root);
    user.map_or_else(|| "/var/lib/perigee/agent".into(), |state| state.join("perigee/agent"))
}

/// The name of the log's file, which says whether a directory has one.
const LOG: &str = "wal.redb";

/// Settles where the log lies: in `storage`, in the directory of a `file_storage`, or in the default one. One that lies where this file,
/// or its service manager, says otherwise is not left behind.
fn log_directory(map: &mut Map, mut storages: Vec<extensions::Storage>, notes: &mut Notes) {
    const KEY: &str = "storage.directory";
    let said = map.get("storage").and_then(|s| s.at(&["directory"])).filter(|d| !d.is_null());
    let (is_said, said_at) = (said.is_some(), said.map_or(0, |directory| directory.line));
    let said = said.and_then(Node::as_text).map(PathBuf::from);
    let storage = storages.iter().position(|s| s.is_started && !is_said).map(|at| storages.remove(at));
    let (line, directory, key) = match &storage {
        Some(storage) => (storage.line, PathBuf::from(&storage.directory), storage.key.clone()),
        None => (said_at, said.unwrap_or_else(default_directory), KEY.to_owned()),
    };
    let mut others: Vec<PathBuf> = storages.into_iter().map(|s| s.directory.into()).collect();
    if !is_said {
        others.push(default_directory());
        // The example of Perigee's own form has its log there.
        others.extend(std::env::var_os("STATE_DIRECTORY").map(PathBuf::from));
    }
    let shown = directory.display();
    let other = others.iter().find(|other| **other != directory && other.join(LOG).exists());
    // A variable that is not replaced may become anything.
    if let Some(other) = other
        && !directory.join(LOG).exists()
        && !directory.to_string_lossy().contains("${")
    {
        let message = format!(
            "the log would begin anew in {shown}, and one lies in {}: move it there, or name its directory in \
             storage: {{directory: ...}}",
            other.display()
        );
        notes.wrong(line, key.clone(), message);
    }
    if is_said {
        return;
    }
    if let Some(name) = &storage
        && let Some(file) = collectors_file(&directory)
    {
        let message = format!(
            "{shown} holds a Collector's own files ({file}), which Perigee does not read: let that Collector send what they hold, \
             or write storage: {{directory: ...}} with another directory"
        );
        notes.wrong(name.line, key.clone(), message);
    }
    if storage.is_none() {
        let message = format!("is not set: accepted data is kept in {shown} until every exporter has it");
        notes.warn(0, key, message);
    }
    let at = line.max(1);
    let mut section = map.take("storage").map_or_else(|| Node::map(at), |entry| entry.node);
    if let Some(section) = section.map_mut() {
        section.set("directory", at, Node::text(at, directory.display().to_string()));
        if let Some(size) = storage.and_then(|s| s.max_size) {
            section.set("max_bytes", at, Node::text(at, size));
        }
    }
    map.set("storage", at, section);
}

/// A file of a Collector's `file_storage` in a directory.
fn collectors_file(directory: &std::path::Path) -> Option<String> {
    let names =
        std::fs::read_dir(directory).ok()?.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let mut theirs: Vec<String> = names
        .filter(|name| {
            ["exporter_", "receiver_", "processor_", "extension_", "connector_"]
                .iter()
                .any(|p| name.starts_with(p))
        })
        .collect();
    theirs.sort();
    theirs.into_iter().next()
}
