//! Components of the Collector that Perigee does not have, and what to do about them.

use super::rules::Notes;
use crate::config::tree::Map;
use crate::config::unknown;

pub(super) const RECEIVERS: &str = "\
    active_directory_ds aerospike apache apachespark awscloudwatch awscontainerinsight awsecscontainermetrics awsfirehose \
    awss3 awsxray azureblob azureeventhub azuremonitor bigip carbon chrony ciscoos cloudflare cloudfoundry collectd \
    couchdb datadog docker_stats elasticsearch envoyals expvar faro filelog filestats flinkmetrics fluentforward github \
    gitlab googlecloudmonitoring googlecloudpubsub googlecloudspanner haproxy httpcheck iis influxdb jaeger jmx journald \
    k8s_cluster k8s_events k8sobjects kafka kafkametrics kubeletstats libhoney loki memcached mongodb mongodbatlas mqtt \
    mysql namedpipe netflow nginx nop nsxt ntp opencensus oracledb osquery otelarrow otlpjsonfile postgresql pprof \
    prometheus prometheus_remote_write prometheus_simple pulsar purefa purefb rabbitmq receiver_creator redis riak saphana \
    signalfx simpleprometheus skywalking snmp snowflake solace splunk_hec splunkenterprise sqlquery sqlserver sshcheck \
    statsd stef syslog systemd tcpcheck tcplog tlscheck udplog vcenter wavefront webhookevent windowseventlog \
    windowsperfcounters windowsservice yanggrpc zipkin zookeeper";

pub(super) const PROCESSORS: &str = "\
    attributes coralogix cumulativetodelta datadog deltatocumulative deltatorate dnslookup filter geoip groupbyattrs \
    groupbytrace interval isolationforest k8s_attributes k8sattributes logdedup lookup metricsgeneration metricstransform \
    probabilistic_sampler queuebatch redaction remotetap resource resource_detection resourcedetection routing schema \
    servicegraph span spanmetrics sumologic tail_sampling transform unroll";

pub(super) const EXPORTERS: &str = "\
    alertmanager alibabacloud_logservice awscloudwatchlogs awsemf awskinesis awss3 awsxray azureblob azuredataexplorer \
    azuremonitor bmchelix carbon cassandra clickhouse coralogix datadog dataset doris elasticsearch faro googlecloud \
    googlecloudpubsub googlemanagedprometheus honeycombmarker influxdb instana jaeger kafka loadbalancing logging \
    logicmonitor logzio loki mezmo nop opencensus opensearch otelarrow prometheus prometheusremotewrite pulsar rabbitmq \
    sapm sentry signalfx splunk_hec stef sumologic syslog tencentcloud_logservice tinybird zipkin";

pub(super) const EXTENSIONS: &str = "\
    ack asapclient avro_log_encoding aws_logs_encoding aws_proxy azureauth cfgarden_observer cgroupruntime db_storage \
    docker_observer ecs_observer ecs_task_observer googleclientauth headers_setter healthcheckv2 host_observer \
    http_forwarder jaeger_encoding jaegerremotesampling json_log_encoding k8s_leader_elector k8s_observer \
    kafkatopics_observer memory_ballast memory_limiter oauth2client oidc opamp otlp_encoding pprof redis_storage remotetap \
    sigv4auth solarwindsapmsettings sumologic text_encoding zipkin_encoding zpages";

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
    /// Kinds that only the Collector has, with blanks between them.
    pub(super) theirs: &'static str,
    /// Why one that is used cannot be left out.
    pub(super) loss: &'static str,
}

impl Section {
    /// Whether it is a kind that only the Collector has.
    pub(super) fn is_theirs(&self, kind: &str) -> bool {
        self.theirs.split(' ').any(|name| name == kind)
    }
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
        if !section.is_theirs(kind) {
            notes.wrong(entry.line, key, unknown(noun, kind, section.known));
            notes.gone(section.name, &name);
        } else if used(&name) {
            notes.wrong(entry.line, key, format!("the {noun} `{kind}` is not implemented: {}", section.loss));
            notes.gone(section.name, &name);
        } else {
            notes.ignored.push(key.clone());
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
