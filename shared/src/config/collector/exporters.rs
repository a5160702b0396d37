//! `exporters`.

use super::Program;
use super::names::{self, EXPORTERS, Section, kind, used_in_pipelines};
use super::rules::{Act, Notes, Rules, Takes, apply, check, is_off, lower};
use crate::config::tree::{Entry, Map, Node, Value};
use crate::export::config::RetryConfig;
use crate::export::endpoint::is_loopback;
use crate::units::parse_duration;

const COMMON: Rules = &[
    ("compression_params", Act::Silent),
    ("read_buffer_size", Act::Silent),
    ("write_buffer_size", Act::Silent),
    ("batcher", Act::Instead("requests are cut by max_request_items and max_request_bytes")),
    (
        "middlewares",
        Act::Wrong("what a middleware adds or hides would be missing; remove it if that is intended"),
    ),
];

const GRPC: Rules = &[
    ("wait_for_ready", Act::Silent),
    ("balancer_name", Act::Silent),
    ("authority", Act::Instead("the endpoint's host is the authority")),
    ("user_agent", Act::Instead("the user agent is Perigee's own")),
];

const HTTP: Rules = &[
    ("max_idle_conns", Act::Silent),
    ("max_idle_conns_per_host", Act::Silent),
    ("max_conns_per_host", Act::Silent),
    ("idle_conn_timeout", Act::Silent),
    ("disable_keep_alives", Act::Silent),
    ("http2_read_idle_timeout", Act::Silent),
    ("http2_ping_timeout", Act::Silent),
    ("force_attempt_http2", Act::Silent),
    ("keepalive", Act::Silent),
    ("profiles_endpoint", Act::Silent),
    ("cookies", Act::Instead("no cookies are kept")),
    ("proxy_url", Act::Wrong("requests would go past the proxy")),
];

const DEBUG: Rules = &[
    ("sampling_initial", Act::Instead("every request is shown")),
    // The same.
    ("sampling_thereafter", Act::Silent),
    ("use_internal_logger", Act::Silent),
    ("output_paths", Act::Instead("it writes to standard output")),
];

const FILE: Rules = &[
    ("append", Act::Silent),
    ("flush_interval", Act::Silent),
    (
        "directory_permissions",
        Act::Instead("a directory that it makes is open to its user and group alone (0750)"),
    ),
    ("compression", Act::Instead("lines are written as they are")),
    ("encoding", Act::Wrong("lines are OTLP JSON; remove it if that is intended")),
    ("group_by", Act::Wrong("everything would be written to one file; remove it if that is intended")),
];

const ROTATION: Rules = &[
    ("max_megabytes", Act::Mib("max_bytes")),
    ("max_days", Act::Instead("max_backups bounds how many files are kept")),
    ("localtime", Act::Silent),
];

/// What is looked at by itself.
pub(super) const QUEUED: Rules = &[("sending_queue", Act::Silent), ("retry_on_failure", Act::Silent)];

const SIZER: Takes = Takes::Word(&["requests", "items", "bytes"]);

/// `sending_queue`.
const QUEUE: Takes = Takes::Section(&[
    ("enabled", Takes::Bool),
    ("num_consumers", Takes::Whole),
    ("wait_for_result", Takes::Bool),
    ("block_on_overflow", Takes::Bool),
    ("blocking", Takes::Bool),
    ("sizer", SIZER),
    ("queue_size", Takes::Whole),
    ("storage", Takes::Text),
    (
        "batch",
        Takes::Section(&[
            ("flush_timeout", Takes::Duration),
            ("min_size", Takes::Whole),
            ("max_size", Takes::Whole),
            ("sizer", SIZER),
            ("partition", Takes::Any),
        ]),
    ),
]);

pub(super) const TLS: Rules = &[
    ("server_name_override", Act::Rename("server_name")),
    ("max_version", Act::Silent),
    ("cipher_suites", Act::Instead("the cipher suites are those of rustls, all of which are strong")),
    ("include_insecure_cipher_suites", Act::Instead("weak cipher suites are never used")),
    ("curve_preferences", Act::Instead("the curves are those of rustls")),
    ("reload_interval", Act::Instead("certificates are read at the start; restart to read new ones")),
    ("tpm", Act::Wrong("a key in a TPM cannot be used; name a file")),
];

/// The rules for a kind.
pub(super) fn rules(kind: &str) -> &'static [Rules] {
    match kind {
        "otlp" | "otlp_grpc" => &[COMMON, GRPC],
        "otlphttp" | "otlp_http" => &[COMMON, HTTP],
        "debug" => &[DEBUG],
        "file" => &[FILE],
        _ => &[],
    }
}

const AGENT: Section = Section {
    name: "exporters",
    noun: "exporter",
    known: &["link", "debug", "otlp_grpc", "otlp_http", "otlp", "otlphttp", "file"],
    theirs: EXPORTERS,
    loss: "its data would be lost; send OTLP to a Collector that has it, or remove it",
};

const GROUND: Section =
    Section { known: &["debug", "otlp_grpc", "otlp_http", "otlp", "otlphttp", "file"], ..AGENT };

/// `foreign`: the file is a Collector's as it is. The names of what queues are stored in.
pub(super) fn translate(map: &mut Map, program: Program, foreign: bool, notes: &mut Notes) -> Vec<String> {
    logging(map, notes);
    let mut stored_in = Vec::new();
    let used = used_in_pipelines(map, "exporters");
    let section = if program == Program::Agent { &AGENT } else { &GROUND };
    names::check(map, section, |name| used.iter().any(|u| u == name), notes);
    let stores: Vec<String> = map
        .get("extensions")
        .and_then(Node::as_map)
        .into_iter()
        .flat_map(|m| m.0.iter().map(|e| e.key.clone()))
        .collect();
    let largest = batch_max_size(map, notes);
    let Some(exporters) = map.get_mut("exporters").and_then(Node::map_mut) else { return stored_in };
    for entry in &mut exporters.0 {
        let key = format!("exporters.{}", entry.key);
        let kind = kind(&entry.key).to_owned();
        if kind == "link" || !(entry.node.is_null() || entry.node.as_map().is_some()) {
            continue;
        }
        let was_null = entry.node.is_null();
        let Some(settings) = entry.node.map_mut() else { continue };
        let storage = queue(&key, settings, &stores, notes).filter(|_| used.contains(&entry.key));
        stored_in.extend(storage);
        retries(&key, settings, notes);
        for rules in rules(&kind) {
            apply(&key, settings, rules, notes);
        }
        match kind.as_str() {
            "debug" => debug(settings),
            "file" => file(&key, settings, notes),
            _ => {
                otlp(&key, settings, largest.clone(), notes);
                if matches!(&*kind, "otlp" | "otlp_grpc") {
                    grpc_scheme(&key, settings, foreign, notes);
                    without_scheme(&key, settings, foreign, notes);
                } else {
                    plain_http(&key, settings, foreign, notes);
                }
                credentials(&key, &kind, settings, notes);
            }
        }
        if was_null && settings.0.is_empty() {
            entry.node = Node::null(entry.line);
        }
    }
    stored_in
}

/// `logging` is what `debug` was called.
fn logging(map: &mut Map, notes: &mut Notes) {
    let exporters = map.get_mut("exporters").and_then(Node::map_mut);
    let mut renamed = Vec::new();
    for entry in exporters.into_iter().flat_map(|m| &mut m.0).filter(|e| kind(&e.key) == "logging") {
        let message = "is called `debug` now, and the Collector has no `logging` any more; write debug";
        notes.warn(entry.line, format!("exporters.{}", entry.key), message);
        let new = entry.key.replacen("logging", "debug/logging", 1);
        renamed.push((std::mem::replace(&mut entry.key, new.clone()), new));
        let Some(settings) = entry.node.map_mut() else { continue };
        if let Some(level) = settings.take("loglevel")
            && settings.get("verbosity").is_none()
        {
            let verbosity = match level.node.as_text().map(str::to_lowercase).as_deref() {
                Some("debug") => "detailed",
                Some("info") => "normal",
                _ => "basic",
            };
            settings.set("verbosity", level.line, Node::plain(level.line, verbosity));
        }
    }
    if !renamed.is_empty() {
        super::pipelines::rename(map, "exporters", &renamed);
    }
}

fn debug(settings: &mut Map) {
    drop(settings.take("retry_on_failure"));
    lower(settings.get_mut("verbosity"));
}

/// `send_batch_max_size` of the batch processors that a pipeline uses: items in a request at most.
fn batch_max_size(map: &Map, notes: &mut Notes) -> Option<(u64, String)> {
    let used = used_in_pipelines(map, "processors");
    let batches = map.get("processors").and_then(Node::as_map).into_iter().flat_map(|m| &m.0);
    let entry = batches
        .filter(|e| kind(&e.key) == "batch" && used.contains(&e.key))
        .find(|e| e.node.at(&["send_batch_max_size"]).is_some())?;
    let node = entry.node.at(&["send_batch_max_size"])?;
    let key = format!("processors.{}.send_batch_max_size", entry.key);
    let size =
        |name: &str| entry.node.at(&[name]).and_then(Node::as_text).and_then(|t| t.parse::<u64>().ok());
    match size("send_batch_max_size") {
        None if node.as_text().is_some_and(|t| t.starts_with("${")) => {}
        None => {
            notes.wrong(node.line, key, "must be a whole number of items");
            return None;
        }
        Some(0) => return None,
        Some(most) if most < size("send_batch_size").unwrap_or(0) => {
            notes.wrong(node.line, key, "must not be below send_batch_size");
            return None;
        }
        Some(_) => {}
    }
    Some((node.line, node.as_text()?.to_owned()))
}

/// The name of the extension that the queue would be stored in.
fn queue(key: &str, settings: &mut Map, stores: &[String], notes: &mut Notes) -> Option<String> {
    let entry = settings.take("sending_queue")?;
    check(&format!("{key}.sending_queue"), entry.line, &entry.node, QUEUE, notes);
    let queue = entry.node.as_map()?;
    let storage = queue.get("storage").and_then(|n| n.as_text());
    if let Some(storage) = storage
        && !stores.iter().any(|s| s == storage)
    {
        let known: Vec<&str> = stores.iter().map(String::as_str).collect();
        let message = crate::config::unknown("extension", storage, &known);
        notes.wrong(entry.line, format!("{key}.sending_queue.storage"), message);
    }
    let plain = queue.0.iter().all(|e| match e.key.as_str() {
        "storage" => true,
        "enabled" => e.node.is_true(),
        _ => is_off(&e.node),
    });
    if !plain {
        let message = "has no counterpart: every exporter sends from the log on disk, one request at a time; storage.max_bytes bounds the \
                       log, and nothing is dropped for want of room in a queue";
        notes.warn(entry.line, format!("{key}.sending_queue"), message);
    }
    storage.map(str::to_owned)
}

fn retries(key: &str, settings: &mut Map, notes: &mut Notes) {
    let Some(retry) = settings.get_mut("retry_on_failure").and_then(Node::map_mut) else { return };
    if let Some(entry) = retry.take("enabled")
        && entry.node.as_text().is_some_and(|t| t == "false")
    {
        let message = "is ignored: a request without an answer is sent again until it has one, and never dropped for that";
        notes.warn(entry.line, format!("{key}.retry_on_failure.enabled"), message);
    }
    intervals(retry);
    let limit = retry.0.iter().find(|e| e.key == "max_elapsed_time");
    if let Some(entry) = limit.filter(|e| !e.node.as_text().is_none_or(|t| t.starts_with('0'))) {
        let message = "the waits begin anew after that time: a request without an answer is sent again until it has one";
        notes.warn(entry.line, format!("{key}.retry_on_failure.max_elapsed_time"), message);
    }
}

/// One interval that is written alone bounds the other, whose default stands beyond it.
fn intervals(retry: &mut Map) {
    const NAMES: [&str; 2] = ["initial_interval", "max_interval"];
    let defaults = RetryConfig::default();
    let (written, other) = match NAMES.map(|name| retry.get(name).is_some()) {
        [true, false] => (NAMES[0], NAMES[1]),
        [false, true] => (NAMES[1], NAMES[0]),
        _ => return,
    };
    let Some(node) = retry.get(written).cloned() else { return };
    let Some(interval) = node.as_text().and_then(|text| parse_duration(text).ok()) else { return };
    let is_beyond = match other {
        "max_interval" => interval > defaults.max_interval.0,
        _ => interval < defaults.initial_interval.0,
    };
    if is_beyond {
        retry.set(other, node.line, node);
    }
}

fn file(key: &str, settings: &mut Map, notes: &mut Notes) {
    drop(settings.take("retry_on_failure"));
    let Some(mut entry) = settings.take("rotation") else { return };
    let Some(rotation) = entry.node.map_mut() else { return };
    if rotation.get("max_megabytes").is_none() {
        // The Collector's default.
        rotation.set("max_megabytes", entry.line, Node::plain(entry.line, "100"));
    }
    apply(&format!("{key}.rotation"), rotation, ROTATION, notes);
    for name in ["max_bytes", "max_backups"] {
        if let Some(moved) = rotation.take(name)
            && settings.get(name).is_none()
        {
            settings.set(name, moved.line, moved.node);
        }
    }
    if !rotation.0.is_empty() {
        settings.set("rotation", entry.line, entry.node);
    }
}

fn otlp(key: &str, settings: &mut Map, largest: Option<(u64, String)>, notes: &mut Notes) {
    if let Some(entry) = settings.0.iter_mut().find(|e| e.key == "compression")
        && let Some(name) = entry.node.as_text()
        && !["gzip", "zstd", "none"].contains(&name)
        && ["snappy", "zlib", "deflate", "lz4", "x-snappy-framed"].contains(&name)
    {
        let message = format!(
            "`{name}` is not implemented: requests are compressed with gzip, which every OTLP server takes"
        );
        notes.warn(entry.line, format!("{key}.compression"), message);
        entry.node = Node::plain(entry.line, "gzip");
    }
    headers(settings);
    if let Some(old) = settings.take("insecure") {
        notes.wrong(old.line, format!("{key}.insecure"), "stands below tls: write tls: {insecure: true}");
    }
    let tls = settings.get_mut("tls").and_then(Node::map_mut);
    if let Some(tls) = tls {
        client_tls(&format!("{key}.tls"), tls, notes);
    }
    if let Some((line, most)) = largest
        && settings.get("max_request_items").is_none()
    {
        settings.set("max_request_items", line, Node::plain(line, most));
    }
}

/// Over gRPC a scheme turns no TLS off in the Collector: only `tls.insecure` does.
#[inline(never)]
fn grpc_scheme(key: &str, settings: &mut Map, foreign: bool, notes: &mut Notes) {
    let (is_off, has_tls) = (is_insecure(settings), settings.get("tls").is_some_and(|tls| !tls.is_null()));
    let Some(endpoint) = settings.0.iter_mut().find(|e| e.key == "endpoint") else { return };
    let Some(address) = endpoint.node.as_text().and_then(|t| t.strip_prefix("http://")) else { return };
    if !foreign || is_off || (!has_tls && is_loopback(address)) {
        return;
    }
    let message = format!(
        "Perigee uses TLS for {address}, as the Collector does whatever the scheme is; write https://, or tls: {{insecure: true}} for \
         plaintext"
    );
    notes.warn(endpoint.line, format!("{key}.endpoint"), message);
    endpoint.node = Node::text(endpoint.node.line, format!("https://{address}"));
}

/// Over HTTP the scheme decides in the Collector, whatever stands in `tls`.
#[inline(never)]
fn plain_http(key: &str, settings: &mut Map, foreign: bool, notes: &mut Notes) {
    let urls = ["endpoint", "traces_endpoint", "metrics_endpoint", "logs_endpoint"];
    let mut urls = urls.iter().filter_map(|name| settings.get(name)?.as_text()).peekable();
    if urls.peek().is_none() || !urls.all(|url| url.starts_with("http://")) {
        return;
    }
    let Some(tls) = settings.0.iter().find(|e| e.key == "tls") else { return };
    let is_empty =
        tls.node.is_null() || tls.node.as_map().is_some_and(|m| m.0.iter().all(|e| is_off(&e.node)));
    if is_empty || foreign {
        let insecure = tls.node.at(&["insecure"]).is_some_and(Node::is_true);
        if !is_empty && !insecure {
            let message = "has no effect beside http://, which is plaintext, as in the Collector; write https:// for TLS";
            notes.warn(tls.line, format!("{key}.tls"), message);
        }
        settings.take("tls");
    }
}

/// Whether these settings turn TLS off.
fn is_insecure(settings: &Map) -> bool {
    let tls = settings.get("tls").and_then(Node::as_map);
    let has_authority = |tls: &Map| ["ca_file", "ca_pem"].iter().any(|name| tls.get(name).is_some());
    tls.is_some_and(|tls| tls.get("insecure").is_some_and(Node::is_true) && !has_authority(tls))
}

/// Complains of credentials that anybody in between could read: over gRPC the Collector does not start with them.
#[inline(never)]
fn credentials(key: &str, kind: &str, settings: &Map, notes: &mut Notes) {
    let Some(auth) = settings.0.iter().find(|e| e.key == "auth" && !e.node.is_null()) else { return };
    let Some(text) = settings.get("endpoint").and_then(Node::as_text) else { return };
    let address = match text.split_once("://") {
        Some(("http", address)) => address,
        None if is_insecure(settings) => text,
        _ => return,
    };
    if is_loopback(address) || address.contains("${") {
        return;
    }
    let key = format!("{key}.auth");
    if matches!(kind, "otlp" | "otlp_grpc") {
        let message = "credentials would go over plaintext, where anybody in between can read them; the Collector refuses that too: \
                       use TLS, or take auth out";
        notes.wrong(auth.line, key, message);
    } else {
        notes.warn(
            auth.line,
            key,
            "credentials go over plaintext, where anybody in between can read them; write https://",
        );
    }
}

/// What an endpoint without a scheme means, where that is not what the file's writer may think.
#[inline(never)]
fn without_scheme(key: &str, settings: &Map, foreign: bool, notes: &mut Notes) {
    let Some(endpoint) = settings.0.iter().find(|e| e.key == "endpoint") else { return };
    let has_tls = settings.get("tls").and_then(Node::as_map).is_some();
    // One without a host is refused.
    let is_plain = |t: &&str| !t.contains("://") && !t.starts_with(':') && !has_tls;
    let Some(text) = endpoint.node.as_text().filter(is_plain) else { return };
    if foreign && !is_loopback(text) {
        // As in the Collector.
        return;
    }
    let message = if is_loopback(text) {
        format!(
            "{text} is this machine, so Perigee uses no TLS, while the Collector does; write http://{text} or https://{text}"
        )
    } else {
        format!(
            "Perigee uses TLS for {text}, as the Collector does; write https://{text}, or http://{text} for plaintext"
        )
    };
    notes.warn(endpoint.line, format!("{key}.endpoint"), message);
}

/// Headers may be a list of names and values, and nothing is an empty value.
fn headers(settings: &mut Map) {
    let Some(node) = settings.get_mut("headers") else { return };
    if let Value::List(list) = &node.value {
        let pair = |n: &Node| {
            let name = n.at(&["name"])?.as_text()?.to_owned();
            Some(Entry { key: name, line: n.line, node: n.at(&["value"])?.clone() })
        };
        let Some(pairs) = list.iter().map(pair).collect() else { return };
        node.value = Value::Map(Map(pairs));
    }
    for entry in node.map_mut().into_iter().flat_map(|map| &mut map.0).filter(|e| e.node.is_null()) {
        entry.node = Node::text(entry.line, "");
    }
}

fn client_tls(key: &str, tls: &mut Map, notes: &mut Notes) {
    without_empty(tls);
    let is_off = tls.get("insecure").is_some_and(Node::is_true);
    apply(key, tls, TLS, notes);
    for entry in &mut tls.0 {
        let key = format!("{key}.{}", entry.key);
        if entry.key == "min_version" && matches!(entry.node.as_text(), Some("1.0" | "1.1")) {
            notes.warn(entry.line, key, "is not implemented: TLS 1.2 is the earliest version");
            entry.node = Node::text(entry.line, "1.2");
        } else if entry.key == "insecure_skip_verify" && entry.node.is_true() && !is_off {
            let message = "anybody in between can read and change what is sent, credentials included; name the server's authority in ca_file";
            notes.warn(entry.line, key, message);
        }
    }
}

/// Takes out text that is empty, which is no value in the Collector.
pub(super) fn without_empty(map: &mut Map) {
    map.0.retain(|e| !matches!(&e.node.value, Value::Scalar(s) if s.text.is_empty()));
}
