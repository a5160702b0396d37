//! `service.telemetry`.

use super::Program;
use super::receivers::every_address;
use super::rules::{Act, Notes, Rules, Takes, apply, check, lower};
use crate::config::tree::{Map, Node, Value};

pub(super) const SERVICE: Rules = &[("extensions", Act::Silent)];

pub(super) const TELEMETRY: Rules = &[
    ("traces", Act::Instead("the program records no spans of its own")),
    (
        "resource",
        Act::Instead("scraped metrics carry no resource, and those that are sent carry the program's own"),
    ),
];

pub(super) const LOGS: Rules = &[
    ("encoding", Act::Silent),
    ("sampling", Act::Silent),
    ("development", Act::Silent),
    ("disable_caller", Act::Silent),
    ("disable_stacktrace", Act::Silent),
    ("error_output_paths", Act::Silent),
    ("disable_zap_resource", Act::Silent),
    ("output_paths", Act::Instead("logs go to standard error")),
    ("initial_fields", Act::Instead("log lines cannot have fields of your own")),
    ("processors", Act::Instead("logs go to standard error")),
];

pub(super) const METRICS: Rules = &[
    ("address", Act::Rename("endpoint")),
    ("level", Act::Silent),
    ("readers", Act::Silent),
    ("views", Act::Silent),
];

const LEVELS: Takes = Takes::Word(&["none", "basic", "normal", "detailed"]);

pub(super) fn translate(map: &mut Map, program: Program, notes: &mut Notes) {
    let Some(telemetry) = map.get_mut("service").and_then(Node::map_mut).and_then(|s| s.get_mut("telemetry"))
    else {
        return;
    };
    let Some(telemetry) = telemetry.map_mut() else { return };
    let key = "service.telemetry";
    apply(key, telemetry, TELEMETRY, notes);
    if let Some(logs) = telemetry.get_mut("logs").and_then(Node::map_mut) {
        logs_of(logs, notes);
    }
    let Some(mut entry) = telemetry.take("metrics") else { return };
    let Some(metrics) = entry.node.map_mut() else {
        telemetry.0.push(entry);
        return;
    };
    let level = metrics.take("level");
    if let Some(level) = &level {
        check("service.telemetry.metrics.level", level.line, &level.node, LEVELS, notes);
    }
    let none = level.is_some_and(|e| e.node.as_text().is_some_and(|t| t.eq_ignore_ascii_case("none")));
    let default = if program == Program::Agent { "8888" } else { "8889" };
    if let Some(readers) = metrics.take("readers") {
        read_by(&readers.node, readers.line, metrics, default, notes);
    }
    apply("service.telemetry.metrics", metrics, METRICS, notes);
    if none {
        if telemetry.get("otlp").is_none() {
            notes.warn(
                entry.line,
                "service.telemetry.metrics.level",
                "metrics are not served; as data they are still sent with the rest, which otlp: {enabled: false} in service.telemetry \
                 turns off, alarms included",
            );
        }
        return;
    }
    every_address(metrics.get_mut("endpoint"));
    if metrics.get("endpoint").is_none_or(Node::is_null) {
        metrics.set("endpoint", entry.line, Node::text(entry.line, format!("localhost:{default}")));
    }
    telemetry.0.push(entry);
}

fn logs_of(logs: &mut Map, notes: &mut Notes) {
    let encoding = logs.take("encoding");
    if let Some(entry) = encoding
        && logs.get("format").is_none()
        && let Some(text) = entry.node.as_text()
    {
        let format = if text == "console" { "text" } else { text };
        notes.rename("service.telemetry.logs", "format", "service.telemetry.logs.encoding".to_owned());
        logs.set("format", entry.line, Node::plain(entry.line, format));
    }
    apply("service.telemetry.logs", logs, LOGS, notes);
    lower(logs.get_mut("level"));
}

/// The address of the Prometheus reader.
fn read_by(readers: &Node, line: u64, metrics: &mut Map, default: &str, notes: &mut Notes) {
    let key = "service.telemetry.metrics.readers";
    for reader in readers.as_list().into_iter().flatten() {
        let Some(prometheus) = reader.at(&["pull", "exporter", "prometheus"]) else {
            let address = metrics.get("endpoint").and_then(Node::as_text);
            let address = address.map_or_else(|| format!("localhost:{default}"), str::to_owned);
            let message = format!(
                "only the pull reader of prometheus is implemented: metrics are scraped at http://{address}/metrics"
            );
            notes.warn(reader.line, key, message);
            continue;
        };
        let text = |name: &str| prometheus.at(&[name]).and_then(Node::as_text);
        let (host, port) = (prometheus.at(&["host"]), text("port").unwrap_or(default));
        let host = match host {
            Some(Node { value: Value::Scalar(scalar), .. }) if !scalar.is_null() => &*scalar.text,
            _ => "localhost",
        };
        let host = match host {
            "" => "0.0.0.0".to_owned(),
            host if host.contains(':') && !host.starts_with('[') => format!("[{host}]"),
            host => host.to_owned(),
        };
        if metrics.get("endpoint").is_none() {
            metrics.set("endpoint", line, Node::text(line, format!("{host}:{port}")));
            notes.rename("service.telemetry.metrics", "endpoint", key.to_owned());
            if let Some(without) = prometheus.at(&["without_type_suffix"]) {
                metrics.set("without_type_suffix", line, without.clone());
            }
        } else {
            notes.warn(reader.line, key, "metrics are served at one address");
        }
    }
}
