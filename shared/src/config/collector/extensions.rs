//! `extensions`, and which of them `service.extensions` starts.

use super::Program;
use super::names::{self, EXTENSIONS, Section, kind};
use super::receivers::every_address;
use super::rules::{Act, Notes, Rules, apply};
use crate::config::tree::{Map, Node};
use crate::config::{Problem, unknown};

pub(super) const HEALTH: Rules = &[
    ("path", Act::Silent),
    ("response_body", Act::Silent),
    ("check_collector_pipeline", Act::Silent),
    ("include_metadata", Act::Silent),
    ("transport", Act::Silent),
    ("cors", Act::Silent),
    ("read_timeout", Act::Silent),
    ("read_header_timeout", Act::Silent),
    ("write_timeout", Act::Silent),
    ("idle_timeout", Act::Silent),
    ("keep_alives_enabled", Act::Silent),
    ("compression_algorithms", Act::Silent),
    ("max_request_body_size", Act::Silent),
    ("response_headers", Act::Silent),
    ("tls", Act::Wrong("health would be served without TLS; remove it if that is intended")),
    ("auth", Act::Wrong("anybody could ask; remove it if that is intended")),
];

const STORAGE: Rules = &[
    ("create_directory", Act::Silent),
    ("directory_permissions", Act::Silent),
    ("timeout", Act::Silent),
    ("fsync", Act::Silent),
    (
        "compaction",
        Act::Instead("the log gives space back by itself; `space-agent wal compact` does so at once"),
    ),
    ("recreate", Act::Silent),
];

const BASIC: Rules =
    &[("htpasswd", Act::Wrong("listeners do not ask for passwords; use tls with client_ca_file"))];
const BEARER: Rules =
    &[("tokens", Act::Wrong("listeners do not ask for tokens; use tls with client_ca_file"))];

const AGENT: Section = Section {
    name: "extensions",
    noun: "extension",
    known: &["health_check", "control", "bearertokenauth", "basicauth", "file_storage"],
    theirs: EXTENSIONS,
    loss: "what relies on it would not work; take it out of service.extensions if it is not needed",
};

const GROUND: Section = Section {
    known: &["health_check", "api", "console", "control", "bearertokenauth", "basicauth"],
    ..AGENT
};

/// Extensions whose absence costs no data.
const HARMLESS: [&str; 6] = ["pprof", "zpages", "memory_ballast", "memory_limiter", "cgroupruntime", "opamp"];

/// Where a `file_storage` would keep a log.
pub(super) struct Storage {
    /// `service.extensions` has it.
    pub(super) is_started: bool,
    pub(super) line: u64,
    pub(super) key: String,
    pub(super) directory: String,
    pub(super) max_size: Option<String>,
}

/// Takes out every `file_storage` and returns them; the first that starts is the log's, or the first that one of the queues is
/// `stored_in`.
pub(super) fn translate(
    map: &mut Map,
    program: Program,
    stored_in: &[String],
    notes: &mut Notes,
) -> Vec<Storage> {
    let idle = select(map, program, notes);
    let mut storages: Vec<Storage> = Vec::new();
    let Some(extensions) = map.get_mut("extensions").and_then(Node::map_mut) else { return idle };
    let mut names: Vec<String> = extensions.0.iter().map(|e| e.key.clone()).collect();
    names.sort_by_key(|name| !stored_in.contains(name));
    for name in names {
        let key = format!("extensions.{name}");
        if kind(&name) == "file_storage" {
            let Some(entry) = extensions.take(&name) else { continue };
            if let Some(first) = storages.first() {
                notes.warn(entry.line, &*key, format!("the log is in one directory, {}", first.directory));
            }
            storages.extend(file_storage(&key, entry.line, entry.node, notes));
            continue;
        }
        let Some(entry) = extensions.0.iter_mut().find(|e| e.key == name) else { continue };
        let line = entry.line;
        let Some(settings) = entry.node.map_mut() else { continue };
        match kind(&name) {
            "health_check" => {
                apply(&key, settings, HEALTH, notes);
                every_address(settings.get_mut("endpoint"));
                let default = if program == Program::Agent { "localhost:13133" } else { "localhost:13134" };
                if settings.get("endpoint").is_none_or(Node::is_null) {
                    settings.set("endpoint", line, Node::text(line, default));
                }
            }
            "basicauth" => {
                let of_server = settings.get("htpasswd").is_some();
                if of_server && settings.get("client_auth").is_none() {
                    // That it is missing follows.
                    notes.removed.push(vec!["extensions".to_owned(), name.clone(), "client_auth".to_owned()]);
                }
                apply(&key, settings, BASIC, notes);
            }
            "bearertokenauth" => apply(&key, settings, BEARER, notes),
            _ => {}
        }
    }
    storages.extend(idle);
    storages
}

/// Leaves the extensions that start and that Perigee has; returns every `file_storage` that does not start.
#[inline(never)]
fn select(map: &mut Map, program: Program, notes: &mut Notes) -> Vec<Storage> {
    let mut storages = Vec::new();
    let listed = map.get_mut("service").and_then(Node::map_mut).and_then(|s| s.take("extensions"));
    let listed: Option<Vec<(u64, String)>> = listed
        .as_ref()
        .and_then(|e| e.node.as_list())
        .map(|list| list.iter().filter_map(|n| Some((n.line, n.as_text()?.to_owned()))).collect());
    let starts = |name: &str| listed.as_ref().is_none_or(|l| l.iter().any(|(_, n)| n == name));
    if let Some(extensions) = map.get("extensions").and_then(Node::as_map) {
        for entry in extensions.0.iter().filter(|e| HARMLESS.contains(&kind(&e.key))) {
            let message = format!(
                "the extension `{}` is not implemented; nothing is lost without it",
                kind(&entry.key)
            );
            notes.ignored.push(format!("extensions.{}", entry.key));
            notes.warn(entry.line, format!("extensions.{}", entry.key), message);
        }
    }
    let section = if program == Program::Agent { &AGENT } else { &GROUND };
    let is_known = |kind: &str| section.known.contains(&kind) || section.is_theirs(kind);
    let defined: Vec<String> = map
        .get("extensions")
        .and_then(Node::as_map)
        .into_iter()
        .flat_map(|m| m.0.iter().map(|e| e.key.clone()))
        .collect();
    for (line, name) in listed.iter().flatten().filter(|(_, n)| !defined.contains(n)) {
        let known = defined.iter().map(String::as_str).filter(|name| is_known(kind(name)));
        let known: Vec<&str> = known.collect();
        notes.problems.push(Problem::new(*line, "service.extensions", unknown("extension", name, &known)));
    }
    if let Some(extensions) = map.get_mut("extensions").and_then(Node::map_mut) {
        extensions.0.retain(|e| !HARMLESS.contains(&kind(&e.key)));
    }
    names::check(map, section, starts, notes);
    let Some(extensions) = map.get_mut("extensions").and_then(Node::map_mut) else { return storages };
    let own = ["control", "api"];
    for one in ["health_check", "control", "api", "console"] {
        let mut named =
            extensions.0.iter().filter(|e| kind(&e.key) == one && (starts(&e.key) || own.contains(&one)));
        if let (Some(first), Some(second)) = (named.next(), named.next()) {
            let message =
                format!("Perigee has one {one}, and `{}` is there already; keep one of them", first.key);
            notes.wrong(second.line, format!("extensions.{}", second.key), message);
        }
    }
    let mut idle = Vec::new();
    for name in defined.iter().filter(|n| !starts(n) && !own.contains(&kind(n))) {
        if let Some(entry) = extensions.take(name) {
            let message = "is not in service.extensions and is not started, as in the Collector";
            notes.ignored.push(format!("extensions.{name}"));
            notes.warn(entry.line, format!("extensions.{name}"), message);
            idle.push(name);
            if kind(name) == "file_storage" && program == Program::Agent {
                let unread = &mut Notes::default();
                let storage = file_storage("", entry.line, entry.node, unread);
                storages.extend(storage.map(|storage| Storage { is_started: false, ..storage }));
            }
        }
    }
    // An exporter that needs one of them is told what is missing.
    let used = names::used_in_pipelines(map, "exporters");
    let exporters = map.get("exporters").and_then(Node::as_map).into_iter().flat_map(|m| &m.0);
    for exporter in exporters.filter(|e| used.contains(&e.key)) {
        let Some(auth) = exporter.node.at(&["auth", "authenticator"]) else { continue };
        if let Some(name) = auth.as_text().filter(|name| idle.iter().any(|idle| *idle == name)) {
            let message = format!("`{name}` is in extensions but not in service.extensions; add it there");
            notes.wrong(auth.line, format!("exporters.{}.auth.authenticator", exporter.key), message);
        }
    }
    storages
}

/// The directory is the log's.
#[inline(never)]
fn file_storage(key: &str, line: u64, mut node: Node, notes: &mut Notes) -> Option<Storage> {
    let settings = node.map_mut()?;
    apply(key, settings, STORAGE, notes);
    let max_size =
        settings.take("max_size").and_then(|e| e.node.as_text().map(str::to_owned)).filter(|t| t != "0");
    let directory = settings.take("directory").and_then(|e| e.node.as_text().map(str::to_owned));
    for other in &settings.0 {
        let known =
            ["directory", "max_size", "create_directory", "fsync", "timeout", "compaction", "recreate"];
        notes.wrong(other.line, key, unknown("key", &other.key, &known));
    }
    let directory = directory.unwrap_or_else(|| "/var/lib/otelcol/file_storage".to_owned());
    Some(Storage { is_started: true, line, key: format!("{key}.directory"), directory, max_size })
}
