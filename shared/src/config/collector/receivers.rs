//! `receivers`.

use super::exporters::without_empty;
use super::names::{self, RECEIVERS, Section, used_in_pipelines};
use super::pipelines::words_to_list;
use super::rules::{Act, Notes, Rules, Takes, apply, check};
use crate::config::tree::{Map, Node};
use crate::export::endpoint::is_loopback;
use crate::serve::Endpoint;

pub(super) const GRPC: Rules = &[
    ("max_recv_msg_size_mib", Act::Mib("max_request_bytes")),
    ("max_concurrent_streams", Act::Silent),
    ("read_buffer_size", Act::Silent),
    ("write_buffer_size", Act::Silent),
    (
        "keepalive",
        Act::Instead(
            "a silent connection is pinged every 60 s, and the longest idle one makes room for a new one",
        ),
    ),
    ("include_metadata", Act::Instead("Perigee reads only the data of a request, not its metadata")),
    ("auth", Act::Wrong("anybody could send; use tls with client_ca_file")),
    ("middlewares", Act::Wrong("what a middleware refuses would be accepted")),
];

/// `keepalive` of gRPC.
const KEEPALIVE: Takes = Takes::Section(&[
    (
        "server_parameters",
        Takes::Section(&[
            ("max_connection_idle", Takes::Duration),
            ("max_connection_age", Takes::Duration),
            ("max_connection_age_grace", Takes::Duration),
            ("time", Takes::Duration),
            ("timeout", Takes::Duration),
        ]),
    ),
    (
        "enforcement_policy",
        Takes::Section(&[("min_time", Takes::Duration), ("permit_without_stream", Takes::Bool)]),
    ),
]);

pub(super) const HTTP: Rules = &[
    ("max_request_body_size", Act::Rename("max_request_bytes")),
    ("read_header_timeout", Act::Rename("header_timeout")),
    ("read_timeout", Act::Silent),
    ("write_timeout", Act::Silent),
    ("keep_alives_enabled", Act::Silent),
    ("keepalive", Act::Silent),
    ("compression_algorithms", Act::Silent),
    ("include_metadata", Act::Instead("Perigee reads only the data of a request, not its metadata")),
    ("response_headers", Act::Instead("answers cannot have headers of your own")),
    ("auth", Act::Wrong("anybody could send; use tls with client_ca_file")),
    ("middlewares", Act::Wrong("what a middleware refuses would be accepted")),
    ("traces_url_path", Act::Wrong("the path is /v1/traces")),
    ("metrics_url_path", Act::Wrong("the path is /v1/metrics")),
    ("logs_url_path", Act::Wrong("the path is /v1/logs")),
];

/// What the Collector has here for clients, and does not use.
const NO_AUTHORITY: &str =
    "it has no effect on a listener, in the Collector neither; client_ca_file asks clients for a certificate";

const TLS: Rules = &[
    ("min_version", Act::Wrong("clients with TLS 1.2 would be served too; remove it if that is intended")),
    ("max_version", Act::Silent),
    ("cipher_suites", Act::Instead("the cipher suites are those of rustls, all of which are strong")),
    ("include_insecure_cipher_suites", Act::Instead("weak cipher suites are never used")),
    ("curve_preferences", Act::Instead("the curves are those of rustls")),
    // They are read again when they change.
    ("reload_interval", Act::Silent),
    ("client_ca_file_reload", Act::Silent),
    ("cert_pem", Act::Wrong("write it to a file and name that in cert_file")),
    (
        "key_pem",
        Act::Wrong("write it to a file that only this process's user can read, and name that in key_file"),
    ),
    ("client_ca_pem", Act::Wrong("write it to a file and name that in client_ca_file")),
    ("ca_file", Act::Instead(NO_AUTHORITY)),
    ("ca_pem", Act::Instead(NO_AUTHORITY)),
    ("include_system_ca_certs_pool", Act::Instead(NO_AUTHORITY)),
    ("tpm", Act::Wrong("a key in a TPM cannot be used; name a file")),
];

pub(super) const HOST: Rules = &[
    ("timeout", Act::Instead("a scrape is never cut short, and the next one waits for it")),
    ("metadata_collection_interval", Act::Silent),
];

/// Keys among the metrics of a scraper.
const METRICS: Rules = &[
    ("process.handles", Act::Instead("only Windows has handles")),
    ("process.windows.handle.count", Act::Instead("only Windows has handles")),
];

const SECTION: Section = Section {
    name: "receivers",
    noun: "receiver",
    known: &["otlp", "hostmetrics", "host_metrics"],
    theirs: RECEIVERS,
    loss: "its data would be lost; let a Collector that has it send OTLP here, or remove it",
};

/// Keys of `cors` that have several values.
const CORS_LISTS: [&str; 3] = ["allowed_origins", "allowed_headers", "exposed_headers"];

/// Paths whose default is their own: a value of the default is nothing to refuse.
const PATHS: [(&str, &str); 3] =
    [("traces_url_path", "/v1/traces"), ("metrics_url_path", "/v1/metrics"), ("logs_url_path", "/v1/logs")];

pub(super) fn translate(map: &mut Map, notes: &mut Notes) {
    let used = used_in_pipelines(map, "receivers");
    names::check(map, &SECTION, |name| used.iter().any(|u| u == name), notes);
    let Some(receivers) = map.get_mut("receivers").and_then(Node::map_mut) else { return };
    for entry in &mut receivers.0 {
        if names::kind(&entry.key) != "otlp" {
            host_metrics(&format!("receivers.{}", entry.key), entry.node.map_mut(), notes);
            continue;
        }
        let key = format!("receivers.{}.protocols", entry.key);
        let Some(protocols) =
            entry.node.map_mut().and_then(|m| m.get_mut("protocols")).and_then(Node::map_mut)
        else {
            continue;
        };
        for (name, rules, endpoint) in [("grpc", GRPC, "localhost:4317"), ("http", HTTP, "localhost:4318")] {
            let Some(entry) = protocols.0.iter_mut().find(|e| e.key == name) else { continue };
            let (key, line) = (format!("{key}.{name}"), entry.line);
            let Some(listener) = entry.node.map_mut() else { continue };
            listener.0.retain(|e| !PATHS.iter().any(|(k, v)| e.key == *k && e.node.as_text() == Some(*v)));
            if let Some(entry) = listener.0.iter().find(|e| e.key == "keepalive" && name == "grpc") {
                check(&format!("{key}.keepalive"), entry.line, &entry.node, KEEPALIVE, notes);
            }
            apply(&key, listener, rules, notes);
            if let Some(cors) = listener.get_mut("cors").and_then(Node::map_mut) {
                for entry in cors.0.iter_mut().filter(|e| CORS_LISTS.contains(&&*e.key)) {
                    words_to_list(&mut entry.node);
                }
            }
            listener.0.retain(|e| e.key != "tls" || !e.node.is_null());
            if let Some(tls) = listener.get_mut("tls").and_then(Node::map_mut) {
                without_empty(tls);
                // rustls implements nothing below TLS 1.2.
                tls.0.retain(|e| e.key != "min_version" || e.node.as_text() == Some("1.3"));
                for name in ["cert", "key"] {
                    // That the file is missing follows.
                    if tls.get(&format!("{name}_pem")).is_some_and(|pem| !pem.is_null()) {
                        notes.follows(&format!("{key}.tls.{name}_file"));
                    }
                }
                apply(&format!("{key}.tls"), tls, TLS, notes);
            }
            address(&key, line, listener, endpoint, notes);
        }
    }
}

/// What only the Collector's `hostmetrics` has.
fn host_metrics(key: &str, section: Option<&mut Map>, notes: &mut Notes) {
    let Some(section) = section else { return };
    apply(key, section, HOST, notes);
    let Some(scrapers) = section.get_mut("scrapers").and_then(Node::map_mut) else { return };
    if let Some(nfs) = scrapers.take("nfs") {
        let message = "NFS is not measured; let a Collector do it, or remove it";
        notes.wrong(nfs.line, format!("{key}.scrapers.nfs"), message);
    }
    for scraper in &mut scrapers.0 {
        let key = format!("{key}.scrapers.{}.metrics", scraper.key);
        if let Some(metrics) =
            scraper.node.map_mut().and_then(|m| m.get_mut("metrics")).and_then(Node::map_mut)
        {
            apply(&key, metrics, METRICS, notes);
        }
    }
}

/// The Collector's default of the largest body over HTTP, MiB, and a limit of memory that leaves room for it.
const LARGEST_BODY: u64 = 20;
const ROOM_FOR_IT: u64 = 64;

/// A Collector's file relies on its defaults: what that takes is not to be refused for good. `processors` are in Perigee's form.
pub(super) fn bodies(map: &mut Map, notes: &mut Notes) {
    let limit =
        map.get("processors").and_then(|p| p.at(&["memory_limiter", "limit"])).and_then(Node::as_text);
    let limit = limit.and_then(|text| text.strip_suffix("MiB")?.parse::<u64>().ok());
    let has_room = limit.is_none_or(|mib| mib >= ROOM_FOR_IT);
    for entry in map.get_mut("receivers").and_then(Node::map_mut).into_iter().flat_map(|m| &mut m.0) {
        let key = format!("receivers.{}.protocols.http", entry.key);
        let Some(receiver) = entry.node.map_mut().filter(|m| m.get("max_request_bytes").is_none()) else {
            continue;
        };
        let http = receiver.get_mut("protocols").and_then(Node::map_mut);
        let Some(http) = http.and_then(|m| m.0.iter_mut().find(|e| e.key == "http")) else { continue };
        let line = http.line;
        let Some(listener) = http.node.map_mut().filter(|m| m.get("max_request_bytes").is_none()) else {
            continue;
        };
        if has_room {
            listener.set("max_request_bytes", line, Node::text(line, format!("{LARGEST_BODY}MiB")));
        } else {
            let message = format!(
                "requests above 4 MiB are refused for good, where the Collector takes {LARGEST_BODY} MiB: the memory limit is too low \
                 for those; write max_request_body_size"
            );
            notes.warn(line, key, message);
        }
    }
}

/// The address as Perigee writes it.
fn address(key: &str, line: u64, listener: &mut Map, default: &str, notes: &mut Notes) {
    let transport = listener.take("transport");
    if listener.get("endpoint").is_none_or(Node::is_null) {
        listener.set("endpoint", line, Node::text(line, default));
    }
    let Some(endpoint) = listener.get_mut("endpoint") else { return };
    let Some(text) = endpoint.as_text().map(str::to_owned) else { return };
    match transport.as_ref().and_then(|t| t.node.as_text().map(|kind| (t.line, kind))) {
        Some((_, "unix")) if text.starts_with('/') => {
            *endpoint = Node::text(endpoint.line, format!("unix://{text}"))
        }
        None | Some((_, "tcp" | "tcp4" | "tcp6" | "unix")) => {}
        Some((line, other)) => {
            notes.wrong(
                line,
                format!("{key}.transport"),
                format!("`{other}` is not implemented; tcp and unix are"),
            );
        }
    }
    every_address(Some(endpoint));
}

/// A port alone is that of every address.
pub(super) fn every_address(endpoint: Option<&mut Node>) {
    if let Some(endpoint) = endpoint
        && let Some(port) = endpoint.as_text().and_then(|text| text.strip_prefix(':'))
        // What has more colons is an IPv6 address without brackets.
        && !port.contains(':')
    {
        *endpoint = Node::text(endpoint.line, format!("0.0.0.0:{port}"));
    }
}

/// A Collector's file may listen to other machines without a word about it, which is said at each start.
pub(super) fn open_to_others(map: &mut Map, notes: &mut Notes) {
    let mut open = |key: String, section: Option<&mut Map>| {
        let Some(section) = section else { return };
        let Some(endpoint) = section.0.iter().find(|e| e.key == "endpoint") else { return };
        let (line, text) = (endpoint.line, endpoint.node.as_text().unwrap_or_default().to_owned());
        // What is no endpoint is an error anyway.
        let local = match text.split_once("${") {
            // A variable may become any host, but behind a colon a port alone.
            Some((before, _)) => before.strip_suffix(':').is_some_and(is_loopback),
            None => Endpoint::parse(&text).map_or(true, |e| e.is_local()),
        };
        if local || text.contains("://") || section.get("tls").is_some() || section.get("insecure").is_some()
        {
            return;
        }
        section.set("insecure", line, Node::plain(line, "true"));
        let message = format!(
            "other machines can reach {text}, without TLS; write localhost, or tls, or Perigee's key insecure: true beside it, which \
             says that this is right"
        );
        notes.warn(line, format!("{key}.endpoint"), message);
    };
    for entry in map.get_mut("receivers").and_then(Node::map_mut).into_iter().flat_map(|m| &mut m.0) {
        let key = format!("receivers.{}.protocols", entry.key);
        let protocols = entry.node.map_mut().and_then(|m| m.get_mut("protocols")).and_then(Node::map_mut);
        for listener in protocols.into_iter().flat_map(|m| &mut m.0) {
            open(format!("{key}.{}", listener.key), listener.node.map_mut());
        }
    }
    for entry in map.get_mut("extensions").and_then(Node::map_mut).into_iter().flat_map(|m| &mut m.0) {
        if names::kind(&entry.key) == "health_check" {
            open(format!("extensions.{}", entry.key), entry.node.map_mut());
        }
    }
    let telemetry = map.get_mut("service").and_then(Node::map_mut).and_then(|m| m.get_mut("telemetry"));
    let metrics = telemetry.and_then(Node::map_mut).and_then(|m| m.get_mut("metrics"));
    open("service.telemetry.metrics".to_owned(), metrics.and_then(Node::map_mut));
}
