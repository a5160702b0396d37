//! Components of the Collector that Perigee does not have, and what to do about them.

use super::rules::Notes;
use crate::config::tree::Map;
use crate::config::unknown;

pub(super) const RECEIVERS: &[&str] = &[
    "awscontainerinsight",
    "carbon",
    "collectd",
    "docker_stats",
    "filelog",
    "fluentforward",
    "httpcheck",
    "influxdb",
    "jaeger",
    "journald",
    "k8s_cluster",
    "k8s_events",
    "k8sobjects",
    "kafka",
    "kafkametrics",
    "kubeletstats",
    "loki",
    "mongodb",
    "mqtt",
    "mysql",
    "namedpipe",
    "nginx",
    "nop",
    "opencensus",
    "otelarrow",
    "otlpjsonfile",
    "postgresql",
    "prometheus",
    "prometheus_simple",
    "rabbitmq",
    "receiver_creator",
    "redis",
    "snmp",
    "splunk_hec",
    "sqlquery",
    "statsd",
    "syslog",
    "systemd",
    "tcplog",
    "udplog",
    "webhookevent",
    "zipkin",
];

pub(super) const PROCESSORS: &[&str] = &[
    "attributes",
    "cumulativetodelta",
    "deltatocumulative",
    "deltatorate",
    "filter",
    "geoip",
    "groupbyattrs",
    "groupbytrace",
    "interval",
    "k8sattributes",
    "logdedup",
    "metricsgeneration",
    "metricstransform",
    "probabilistic_sampler",
    "queuebatch",
    "redaction",
    "remotetap",
    "resource",
    "resourcedetection",
    "routing",
    "schema",
    "span",
    "spanmetrics",
    "sumologic",
    "tail_sampling",
    "transform",
    "unroll",
];

pub(super) const EXPORTERS: &[&str] = &[
    "alertmanager",
    "awss3",
    "awsxray",
    "azuremonitor",
    "clickhouse",
    "datadog",
    "elasticsearch",
    "googlecloud",
    "influxdb",
    "jaeger",
    "kafka",
    "loadbalancing",
    "logging",
    "loki",
    "nop",
    "opensearch",
    "otelarrow",
    "prometheus",
    "prometheusremotewrite",
    "pulsar",
    "rabbitmq",
    "sentry",
    "signalfx",
    "splunk_hec",
    "syslog",
    "zipkin",
];

pub(super) const EXTENSIONS: &[&str] = &[
    "ack",
    "asapclient",
    "cgroupruntime",
    "db_storage",
    "docker_observer",
    "ecs_observer",
    "headers_setter",
    "healthcheckv2",
    "host_observer",
    "http_forwarder",
    "jaegerremotesampling",
    "k8s_leader_elector",
    "k8s_observer",
    "memory_ballast",
    "memory_limiter",
    "oauth2client",
    "oidc",
    "opamp",
    "pprof",
    "redis_storage",
    "remotetap",
    "sigv4auth",
    "sumologic",
    "zpages",
];

/// The kind of a component from its name.
pub(super) fn kind(name: &str) -> &str {
    name.split_once('/').map_or(name, |(kind, _)| kind)
}

/// One section of components.
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) noun: &'static str,
    /// Kinds that Perigee has.
    pub(super) known: &'static [&'static str],
    /// Kinds that only the Collector has.
    pub(super) theirs: &'static [&'static str],
    /// Why one that is used cannot be left out.
    pub(super) loss: &'static str,
}

/// Takes out components of kinds that Perigee does not have: an error if `used`, or if nobody has them.
pub(super) fn check(map: &mut Map, section: &Section, used: impl Fn(&str) -> bool, notes: &mut Notes) {
    let Some(components) = map.get_mut(section.name).and_then(|s| s.map_mut()) else { return };
    let names: Vec<String> = components.0.iter().map(|e| e.key.clone()).collect();
    for name in names {
        let kind = kind(&name);
        if section.known.contains(&kind) {
            continue;
        }
        let Some(entry) = components.take(&name) else { continue };
        let (key, noun) = (format!("{}.{name}", section.name), section.noun);
        if !section.theirs.contains(&kind) {
            notes.wrong(entry.line, key, unknown(noun, kind, section.known));
            notes.gone(section.name, &name);
        } else if used(&name) {
            notes.wrong(entry.line, key, format!("the {noun} `{kind}` is not implemented: {}", section.loss));
            notes.gone(section.name, &name);
        } else {
            notes.warn(
                entry.line,
                key,
                format!("the {noun} `{kind}` is not implemented; nothing uses it here"),
            );
        }
    }
}

/// The names that a list of every pipeline has: `part` is receivers, processors or exporters.
pub(super) fn used_in_pipelines(map: &Map, part: &str) -> Vec<String> {
    let pipelines = map.get("service").and_then(|s| s.at(&["pipelines"])).and_then(|p| p.as_map());
    let lists = pipelines.into_iter().flat_map(|p| &p.0).filter_map(|e| e.node.at(&[part])?.as_list());
    lists.flatten().filter_map(|n| n.as_text().map(str::to_owned)).collect()
}
