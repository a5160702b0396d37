//! What a Collector's file becomes, and what every mistake is told.

use perigee_shared::config::ConfigFile;
use perigee_shared::export::Compression;
use perigee_shared::signal::Signal;
use perigee_shared::units::{ByteSize, Span};

use perigee_shared::config::collector;

use super::*;

const MINIMAL: &str = include_str!("../../../deploy/config/collector/minimal.yaml");
pub(super) const LARGER: &str = include_str!("../../../deploy/config/collector/larger.yaml");

pub(super) fn read(text: &str) -> Result<Config, String> {
    let env = |name: &str| (name == "STORAGE").then(|| "/nowhere/storage".to_owned());
    ConfigFile::parse(text, "c.yaml", &env).and_then(Config::read).map_err(|e| e.to_string())
}

fn otlp(config: &Config) -> &OtlpReceiver {
    config.otlp_receivers().find(|(name, _)| *name == "otlp").unwrap().1
}

fn direct<'a>(config: &'a Config, name: &str) -> &'a DirectConfig {
    match config.exporters.get(name) {
        Some(ExporterConfig::Direct(direct)) => direct,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn a_minimal_file_of_a_collector_is_understood() {
    let config = read(MINIMAL).unwrap();
    let otlp = otlp(&config);
    assert_eq!(otlp.protocols.grpc.as_ref().unwrap().endpoint, "localhost:4317");
    assert!(config.service.pipelines.logs.is_none());
    assert!(!config.signals_from("otlp").contains(Signal::Logs));
    let warnings: Vec<&str> = config.warnings.iter().map(|w| w.key.as_str()).collect();
    assert_eq!(warnings, ["storage.directory"], "it is said where the log lies");
}

#[test]
fn a_larger_file_of_a_collector_is_understood() {
    let config = read(LARGER).unwrap();
    let grpc = otlp(&config).protocols.grpc.as_ref().unwrap();
    assert_eq!(grpc.max_request_bytes, Some(ByteSize::mib(8)));
    let limiter = config.processors.memory_limiter;
    assert_eq!((limiter.limit, limiter.spike_limit), (ByteSize::mib(512), ByteSize::mib(128)));
    assert_eq!(config.processors.batch.timeout, Span::millis(200));
    let DirectConfig::Otlp(otlp) = direct(&config, "otlp_grpc") else { panic!() };
    assert_eq!((otlp.compression, otlp.max_request_items), (Compression::Gzip, 2048));
    assert!(otlp.authorization.is_some() && otlp.headers.0.contains_key("x-scope-orgid"));
    assert_eq!(otlp.retry_on_failure.initial_interval, Span::secs(1));
    let DirectConfig::OtlpHttp(http) = direct(&config, "otlp_http/second") else { panic!() };
    assert!(http.authorization.is_some() && http.traces_endpoint.is_some());
    assert_eq!(config.storage.directory, std::path::Path::new("/nowhere/storage"));
    assert_eq!(config.service.telemetry.metrics.as_ref().unwrap().endpoint, "localhost:8888");
    let traces = config.service.pipelines.traces.as_ref().unwrap();
    assert_eq!(traces.exporters, ["otlp_grpc", "debug", "otlp_http/second"]);
    let keys: Vec<&str> = config.warnings.iter().map(|w| w.key.as_str()).collect();
    for expected in [
        "receivers.otlp.protocols.grpc.keepalive",
        "receivers.otlp/2.protocols.http.include_metadata",
        "processors.batch/2",
        "exporters.otlp_grpc.compression",
        "exporters.otlp_grpc.sending_queue",
        "exporters.debug.sampling_initial",
        "extensions.pprof",
        "service.pipelines.traces",
    ] {
        assert!(keys.contains(&expected), "{expected} is not in {keys:?}");
    }
    assert_eq!(keys.len(), 8, "nothing else is said: {keys:?}");
    assert!(config.warnings.iter().all(|w| w.line > 0));
}

/// A file that is right, with one part in another's place.
fn with(from: &str, to: &str) -> String {
    assert!(MINIMAL.contains(from), "{from}");
    MINIMAL.replacen(from, to, 1)
}

/// What stands in the minimal file, what stands there instead, and what is said of it in one line.
const MISTAKES: &[(&str, &str, &[&str])] = &[
    ("receivers:\n", "recievers:\n", &["c.yaml:2: unknown key `recievers`; did you mean `receivers`?"]),
    (
        "  otlp:\n    protocols",
        "  oltp:\n    protocols",
        &["receivers.oltp: unknown receiver `oltp`; did you mean `otlp`?"],
    ),
    (
        "      grpc:\n",
        "      gprc:\n",
        &["c.yaml:5: receivers.otlp.protocols: unknown key `gprc`; did you mean `grpc`?"],
    ),
    (
        "localhost:${env:OTLP_GRPC_PORT:-4317}",
        "4317",
        &["c.yaml:6: receivers.otlp.protocols.grpc.endpoint: `4317` is not an address"],
    ),
    (
        "localhost:${env:OTLP_GRPC_PORT:-4317}",
        "http://localhost:4317",
        &["grpc.endpoint: `http://localhost:4317` is not an address; write HOST:PORT"],
    ),
    (
        "localhost:${env:OTLP_GRPC_PORT:-4317}",
        "${env:NOT_SET}",
        &["c.yaml:6: the environment variable NOT_SET is not set"],
    ),
    ("localhost:${env:OTLP_GRPC_PORT:-4317}", "${file:/x}", &["`${file:...}` is not implemented"]),
    (
        "  batch:\n",
        "  batch: {timeout: 5}\n",
        &["processors.batch.timeout: `5` is not a duration; write for example 200ms"],
    ),
    ("  batch:\n", "  batch: {tiemout: 5s}\n", &["unknown key `tiemout`; did you mean `timeout`?"]),
    ("  batch:\n", "  batch: {q: 5s}\n", &["(known: ", "send_batch_max_size"]),
    ("  batch:\n", "  batch: {send_batch_size: many}\n", &["send_batch_size: `many` is not a whole number"]),
    (
        "  batch:\n",
        "  batch: {send_batch_size: 10, send_batch_max_size: 5}\n",
        &["send_batch_max_size: must not be below send_batch_size"],
    ),
    ("  batch:\n", "\tbatch:\n", &["c.yaml:11: a tab stands where YAML wants spaces"]),
    (
        "  batch:\n",
        "  batch: {send_batch_bytes: 1KiB}\n",
        &["processors.batch.send_batch_bytes: must be from 16KiB to 32MiB: a segment is sealed in memory"],
    ),
    ("  batch:\n", "  batch: [1]\n", &["processors.batch: a section is expected here, not a list"]),
    (
        "  batch:\n",
        "  memory_limiter: {limit: 512}\n",
        &["memory_limiter.limit: is 512 B and must be at least 4MiB; did you mean 512MiB?"],
    ),
    ("  batch:\n", "  memory_limiter: {limit_mib: 512MiB}\n", &["limit_mib: must be a whole number of MiB"]),
    ("  batch:\n", "  memory_limiter: {limit_mib: 512, limit: 1GiB}\n", &["limit_mib: `limit` is set too"]),
    (
        "  batch:\n",
        "  memory_limiter: {limit_mib: 50, spike_limit_mib: 60}\n",
        &["processors.memory_limiter.spike_limit_mib: must be below limit"],
    ),
    (
        "  batch:\n",
        "  memory_limiter: {limit_mb: 512}\n",
        &["unknown key `limit_mb`; did you mean `limit_mib`?"],
    ),
    ("  batch:\n", "  btach:\n", &["processors.btach: unknown processor `btach`; did you mean `batch`?"]),
    (
        "processors: [batch]",
        "processors: [bacth]",
        &["c.yaml:24: service.pipelines.traces.processors: unknown processor `bacth`; did you mean `batch`?"],
    ),
    (
        "receivers: [otlp]",
        "receivers: [otpl]",
        &["service.pipelines.traces.receivers: unknown receiver `otpl`; did you mean `otlp`?"],
    ),
    ("receivers: [otlp]", "receivers: []", &["service.pipelines.traces.receivers: is empty"]),
    (
        "exporters: [otlp, debug]",
        "exporters: [otlp, debgu]",
        &["c.yaml:25: service.pipelines.traces.exporters: unknown exporter `debgu`; did you mean `debug`?"],
    ),
    (
        "exporters: [otlp, debug]",
        "exporters: []",
        &["c.yaml:25: service.pipelines.traces.exporters: is empty"],
    ),
    ("exporters: [otlp, debug]", "exporters: {otlp: }", &["a list is expected here"]),
    (
        "    traces:\n",
        "    trace:\n",
        &["service.pipelines.trace: unknown pipeline `trace`; did you mean `traces`?"],
    ),
    ("    traces:\n", "    profiles:\n", &["service.pipelines.profiles: profiles are not implemented"]),
    (
        "  otlp:\n    endpoint",
        "  oltp:\n    endpoint",
        &["exporters.oltp: unknown exporter `oltp`; did you mean"],
    ),
    (
        "  debug:\n",
        "  debug:\n  otlp_grcp: {endpoint: \"x:1\"}\n",
        &["unknown exporter `otlp_grcp`; did you mean `otlp_grpc`?"],
    ),
    ("  otlp:\n    endpoint", "  otlp:\n    endpiont", &["unknown key `endpiont`; did you mean `endpoint`?"]),
    (
        "${env:BACKEND:-localhost:14317}",
        "",
        &["exporters.otlp.endpoint: is missing; name the backend's address"],
    ),
    (
        "${env:BACKEND:-localhost:14317}",
        "localhost",
        &["exporters.otlp.endpoint: has no port; the usual one is 4317"],
    ),
    (
        "${env:BACKEND:-localhost:14317}",
        "ftp://x:1",
        &["exporters.otlp.endpoint: `ftp://` is not implemented"],
    ),
    (
        "      insecure: true",
        "      insecure: maybe",
        &["exporters.otlp.tls.insecure: `maybe` is neither true nor false"],
    ),
    ("      insecure: true", "      insecur: true", &["unknown key `insecur`; did you mean `insecure`?"]),
    (
        "      insecure: true",
        "      insecure: true\n    compression: brotli",
        &["exporters.otlp.compression: unknown value `brotli`"],
    ),
    (
        "      insecure: true",
        "      insecure: true\n    timeout: 5 parsecs",
        &["exporters.otlp.timeout: `5 parsecs` is not a duration"],
    ),
    (
        "      insecure: true",
        "      insecure: true\n    sending_queu: {}",
        &["unknown key `sending_queu`; did you mean `sending_queue`?"],
    ),
    (
        "      insecure: true",
        "      insecure: true\n    sending_queue: {storage: file_storage}",
        &["exporters.otlp.sending_queue.storage: unknown extension `file_storage`"],
    ),
    (
        "      insecure: true",
        "      insecure: true\n    auth: {authenticator: bearertokenauth}",
        &["exporters.otlp.auth.authenticator: `bearertokenauth` is not an authenticator"],
    ),
    (
        "      insecure: true",
        "      insecure: true\n    retry_on_failure: {max_intervall: 3s}",
        &["exporters.otlp.retry_on_failure: unknown key `max_intervall`; did you mean `max_interval`?"],
    ),
    ("  debug:\n", "  debug: {verbosity: loud}\n", &["exporters.debug.verbosity: unknown value `loud`"]),
    ("  debug:\n", "  debug: {verbosity: detailed, verbosity: basic}\n", &["`verbosity` is set twice"]),
    (
        "service:\n",
        "extensions:\n  helth_check:\nservice:\n",
        &["extensions.helth_check: unknown extension `helth_check`; did you mean `health_check`?"],
    ),
    (
        "service:\n",
        "service:\n  extensions: [health_check]\n",
        &["service.extensions: unknown extension `health_check`"],
    ),
    (
        "service:\n",
        "service:\n  telemetry: {logs: {level: loud}}\n",
        &["service.telemetry.logs.level: unknown value `loud`"],
    ),
    (
        "service:\n",
        "service:\n  telemetry: {metrics: {endpoint: nowhere}}\n",
        &["service.telemetry.metrics.endpoint: `nowhere` is not an address"],
    ),
    (
        "service:\n",
        "extensions: {health_check: {endpoint: \"127.0.0.1:4318\"}}\nservice:\n",
        &[
            "c.yaml:20: extensions.health_check.endpoint: receivers.otlp.protocols.http listens at localhost:4318 already",
        ],
    ),
    ("service:\n", "storage: {max_bytes: 10KiB}\nservice:\n", &["storage.max_bytes: must be at least 1MiB"]),
    (
        "service:\n",
        "storage: {directory: /x, when_full: drop}\nservice:\n",
        &["storage.when_full: unknown value `drop`"],
    ),
    (
        "      insecure: true",
        "      insecure: true\n    sending_queue: {queuesize: 5}",
        &["exporters.otlp.sending_queue: unknown key `queuesize`; did you mean `queue_size`?"],
    ),
    (
        "      insecure: true",
        "      insecure: true\n    sending_queue: {queue_size: -1}",
        &["exporters.otlp.sending_queue.queue_size: `-1` is not a whole number"],
    ),
    (
        "      insecure: true",
        "      insecure: true\n    sending_queue: {num_consumers: many}",
        &["sending_queue.num_consumers: `many` is not a whole number"],
    ),
    (
        "      insecure: true",
        "      insecure: true\n    sending_queue: {batch: {min_sze: 5}}",
        &["exporters.otlp.sending_queue.batch: unknown key `min_sze`; did you mean `min_size`?"],
    ),
    (
        "      insecure: true",
        "      insecure: true\n    sending_queue: {batch: {flush_timeout: 5}}",
        &["sending_queue.batch.flush_timeout: `5` is not a duration"],
    ),
    (
        "      insecure: true",
        "      insecure: true\n    sending_queue: {sizer: bits}",
        &["sending_queue.sizer: unknown value `bits`; did you mean `bytes`?"],
    ),
    (
        "      insecure: true",
        "      insecure: true\n    sending_queue: [1]",
        &["c.yaml:19: exporters.otlp.sending_queue: a section is expected here, not a list"],
    ),
    (
        "      insecure: true",
        "      insecure: true\n    sending_queue: yes",
        &["exporters.otlp.sending_queue: a section is expected here, not `yes`"],
    ),
    (
        "      grpc:\n",
        "      grpc:\n        keepalive: {server_params: {}}\n",
        &[
            "c.yaml:6: receivers.otlp.protocols.grpc.keepalive: unknown key `server_params`; did you mean `server_parameters`?",
        ],
    ),
    (
        "      grpc:\n",
        "      grpc:\n        keepalive: {enforcement_policy: {min_time: soon}}\n",
        &["keepalive.enforcement_policy.min_time: `soon` is not a duration"],
    ),
    (
        "service:\n",
        "service:\n  telemetry: {metrics: {level: noraml}}\n",
        &["service.telemetry.metrics.level: unknown value `noraml`; did you mean `normal`?"],
    ),
    (
        "service:\n",
        "service:\n  telemetry: {metrics: {address: nowhere}}\n",
        &["service.telemetry.metrics.address: `nowhere` is not an address"],
    ),
    (
        "service:\n",
        "service:\n  telemetry: {logs: {encoding: xml}}\n",
        &["service.telemetry.logs.encoding: unknown value `xml`"],
    ),
    (
        "      grpc:\n",
        "      grpc:\n        max_recv_msg_size_mib: 64\n",
        &["receivers.otlp.protocols.grpc.max_recv_msg_size_mib: must be from 1KiB to 32MiB"],
    ),
    (
        "  batch:\n",
        "  memory_limiter/x: {limit_mib: 50, spike_limit_mib: 60}\n  batch:\n",
        &["processors.memory_limiter/x.spike_limit_mib: must be below limit"],
    ),
    (
        "  batch:\n",
        "  memory_limiter: {limit_percentage: 120}\n",
        &["processors.memory_limiter.limit_percentage: must be from 1 to 100"],
    ),
    (
        "      insecure: true",
        "      insecure: \"yes\"",
        &["exporters.otlp.tls.insecure: `yes` is neither true nor false"],
    ),
    (
        "      insecure: true",
        "      insecure: on",
        &["exporters.otlp.tls.insecure: `on` is neither true nor false"],
    ),
    (
        "${env:BACKEND:-localhost:14317}",
        ":4317",
        &[
            "exporters.otlp.endpoint: has no host; for this machine, which the Collector means by that, write localhost:PORT",
        ],
    ),
    (
        "${env:BACKEND:-localhost:14317}",
        "h:99999",
        &["exporters.otlp.endpoint: has a port that is no number from 1 to 65535"],
    ),
    (
        "${env:BACKEND:-localhost:14317}",
        "h:port",
        &["exporters.otlp.endpoint: has a port that is no number from 1 to 65535"],
    ),
    (
        "${env:BACKEND:-localhost:14317}",
        "${env:NOT_SET}",
        &["c.yaml:16: the environment variable NOT_SET is not set"],
    ),
    (
        "      insecure: true",
        "      insecure: true\n    headers: {x: \"${file:/x}\", y: \"${env:NOT_SET:-}\"}",
        &["c.yaml:19: `${file:...}` is not implemented"],
    ),
    (
        "      insecure: true",
        "      insecure: true\n    headers:\n      x: ${env:NOT_SET}\n      y: ${env:NOT_SET}",
        &["c.yaml:20: the environment variable NOT_SET is not set; set it or write ${env:NOT_SET:-default}"],
    ),
    (
        "  batch:\n",
        "  batch: {timeout: \"${env:NOT_SET}\"}\n",
        &["c.yaml:11: the environment variable NOT_SET is not set"],
    ),
    (
        "service:\n",
        "extensions:\n  basicauth: {htpasswd: {inline: x}}\nservice:\n",
        &["extensions.basicauth.htpasswd: is not implemented: listeners do not ask for passwords"],
    ),
    (
        "      http:\n",
        "      http:\n        tls: {cert_pem: x, key_file: /x.key}\n",
        &[
            "c.yaml:8: receivers.otlp.protocols.http.tls.cert_pem: is not implemented: write it to a file and name that in cert_file",
        ],
    ),
    (
        "      http:\n",
        "      http:\n        tls: {cert_file: /x.crt, key_pem: x}\n",
        &[
            "protocols.http.tls.key_pem: is not implemented: write it to a file that only this process's user can read",
        ],
    ),
    (
        "      grpc:\n",
        "      grpc:\n        tls: {cert_file: /x.crt, key_file: /x.key, client_ca_pem: x}\n",
        &[
            "protocols.grpc.tls.client_ca_pem: is not implemented: write it to a file and name that in client_ca_file",
        ],
    ),
    ("    traces:\n      receivers: [otlp]", "    traces:\n      receivers: [otlp", &["c.yaml:"]),
];

#[test]
fn every_mistake_is_named_with_its_line_and_what_was_meant() {
    let mut wrong = Vec::new();
    for (from, to, parts) in MISTAKES {
        match read(&with(from, to)) {
            Ok(_) => wrong.push(format!("{to}: is taken")),
            Err(error) if error.lines().count() != 1 => {
                wrong.push(format!("{to}: more than one problem: {error}"));
            }
            Err(error) => wrong.extend(
                parts
                    .iter()
                    .filter(|p| !error.contains(**p))
                    .map(|p| format!("{to}: `{p}` is not in: {error}")),
            ),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What stands under `receivers.hostmetrics`, and what is said of it in one line.
const HOST_MISTAKES: &[(&str, &str)] = &[
    ("", "c.yaml:3: receivers.hostmetrics.scrapers: is empty; name at least one of cpu, memory"),
    ("scraper: {cpu: }", "receivers.hostmetrics: unknown key `scraper`; did you mean `scrapers`?"),
    ("scrapers: {cpus: }", "scrapers.cpus: unknown scraper `cpus`; did you mean `cpu`?"),
    ("scrapers: {nfs: , cpu: }", "c.yaml:4: receivers.hostmetrics.scrapers.nfs: NFS is not measured"),
    ("scrapers: {cpu/2: }", "a scraper has no name of its own"),
    (
        "scrapers: {cpu: {metrics: {system.cpu.tim: {enabled: true}}}}",
        "c.yaml:4: receivers.hostmetrics.scrapers.cpu.metrics: unknown metric `system.cpu.tim`; did you mean `system.cpu.time`?",
    ),
    (
        "scrapers: {cpu: {metrics: {system.cpu.time: {enable: true}}}}",
        "unknown key `enable`; did you mean `enabled`?",
    ),
    (
        "scrapers: {cpu: {metrics: {system.cpu.time: {attributes: [stat]}}}}",
        "system.cpu.time: unknown attribute `stat`; did you mean `state`?",
    ),
    ("scrapers: {cpu: {cpu_average: true}}", "unknown key `cpu_average`"),
    ("scrapers: {disk: {include: {devices: [sda]}}}", "the key `match_type` is missing"),
    ("scrapers: {disk: {include: {devices: [sda], match_type: glob}}}", "unknown value `glob`"),
    (
        "scrapers: {disk: {include: {devices: [], interfaces: [sda], match_type: strict}}}",
        "unknown key `interfaces`",
    ),
    (
        "scrapers: {network: {exclude: {interfaces: ['('], match_type: regexp}}}",
        "c.yaml:4: receivers.hostmetrics.scrapers.network.exclude.interfaces: `(` is not a regular expression",
    ),
    (
        "scrapers: {process: {resource_attributes: {process.own: {enabled: false}}}}",
        "unknown resource attribute `process.own`; did you mean `process.owner`?",
    ),
    ("collection_interval: 1ms\n    scrapers: {cpu: }", "collection_interval: must be at least 100ms"),
    ("root_path: hostfs\n    scrapers: {cpu: }", "root_path: must be an absolute path"),
];

#[test]
fn mistakes_about_the_metrics_of_the_host_are_named_too() {
    let mut wrong = Vec::new();
    for (section, expected) in HOST_MISTAKES {
        let text =
            MINIMAL.replacen("receivers:\n", &format!("receivers:\n  hostmetrics:\n    {section}\n"), 1);
        match read(&text) {
            Ok(_) => wrong.push(format!("{section}: is taken")),
            Err(error) if !error.contains(expected) || error.lines().count() != 1 => {
                wrong.push(format!("{section}: `{expected}` is not all of: {error}"));
            }
            Err(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_metrics_of_the_host_have_the_collectors_keys() {
    let section = "receivers:
  host_metrics/slow:
    collection_interval: 30s
    initial_delay: 2s
    timeout: 10s
    metadata_collection_interval: 5m
    root_path: /
    scrapers:
      cpu: {metrics: {system.cpu.utilization: {enabled: true, attributes: [state], aggregation_strategy: sum}}}
      load: {cpu_average: true}
      filesystem:
        include_virtual_filesystems: true
        exclude_mount_points: {mount_points: [/dev/*], match_type: regexp, regexp: {cacheenabled: true}}
      process: {mute_process_exe_error: true, metrics: {process.handles: {enabled: true}}}
";
    let text = MINIMAL.replacen("receivers:\n", section, 1);
    let config = read(&text).unwrap();
    assert!(matches!(config.receivers.get("host_metrics/slow"), Some(ReceiverConfig::HostMetrics(_))));
    let keys: Vec<&str> = config.warnings.iter().map(|w| w.key.as_str()).collect();
    let scrapers = "receivers.host_metrics/slow.scrapers";
    for expected in [
        "receivers.host_metrics/slow.timeout".to_owned(),
        format!("{scrapers}.process.metrics.process.handles"),
    ] {
        assert!(keys.contains(&expected.as_str()), "{expected} is not in {keys:?}");
    }
    let error = read(&text.replacen("receivers: [otlp]", "receivers: [host_metrics/slow]", 1)).unwrap_err();
    assert!(
        error.contains("`host_metrics/slow` produces only metrics; remove it from the pipeline of traces"),
        "{error}"
    );
}

#[test]
fn what_would_lose_or_show_data_is_an_error_only_where_it_is_used() {
    let used = |section: &str, name: &str, list: &str, with_it: &str| {
        let text = MINIMAL.replacen(&format!("{section}:\n"), &format!("{section}:\n  {name}:\n"), 1);
        let unused = read(&text).unwrap();
        assert!(unused.warnings.iter().any(|w| w.key == format!("{section}.{name}")), "{name}");
        read(&text.replacen(list, with_it, 1)).unwrap_err()
    };
    let unused = read(&format!("connectors: {{forward: }}\n{MINIMAL}")).unwrap();
    assert!(unused.warnings.iter().any(|w| w.key == "connectors.forward"), "{:?}", unused.warnings);
    let error = used("processors", "redaction", "processors: [batch]", "processors: [redaction, batch]");
    assert!(error.contains("processors.redaction: the processor `redaction` is not implemented"), "{error}");
    let error = used("receivers", "filelog", "receivers: [otlp]", "receivers: [otlp, filelog]");
    assert!(error.contains("its data would be lost"), "{error}");
    let error = used("exporters", "kafka", "[otlp, debug]", "[otlp, kafka]");
    assert!(error.contains("its data would be lost"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    let error = read(&with("      http:\n", "      http:\n        auth: {authenticator: x}\n")).unwrap_err();
    assert!(error.contains("anybody could send"), "{error}");
    let tls = |version: &str| {
        let tls =
            format!("      http:\n        tls: {{cert_file: a, key_file: b, min_version: \"{version}\"}}\n");
        read(&with("      http:\n", &tls))
    };
    assert!(
        tls("1.2").is_ok() && tls("1.3").unwrap_err().contains("clients with TLS 1.2 would be served too")
    );
}

#[test]
fn pipelines_of_one_signal_are_joined_when_nobody_gets_more_by_it() {
    let two = |second: &str| {
        let receiver = "receivers:\n  otlp/2: {protocols: {grpc: {endpoint: \"localhost:5317\"}}}\n";
        let pipeline = format!("  pipelines:\n    traces/2: {second}\n");
        read(&MINIMAL.replacen("receivers:\n", receiver, 1).replacen("  pipelines:\n", &pipeline, 1))
    };
    let same = two("{receivers: [otlp], exporters: [debug]}").unwrap();
    let warning = same.warnings.iter().find(|w| w.key.starts_with("service.pipelines")).unwrap();
    assert!(warning.message.contains("`debug` is in several pipelines of traces"), "{warning}");
    let leak = two("{receivers: [otlp/2], exporters: [debug]}").unwrap_err();
    assert!(leak.contains("what comes in at `otlp/2` would also go to `otlp`"), "{leak}");
    let apart = two("{receivers: [otlp/2], exporters: [otlp, debug]}").unwrap();
    assert_eq!(apart.service.pipelines.traces.unwrap().receivers, ["otlp", "otlp/2"]);
}

#[test]
fn an_endpoint_without_a_scheme_is_never_plaintext_to_another_machine() {
    let plain = |endpoint: &str| {
        with("    tls:\n      insecure: true\n", "").replace("${env:BACKEND:-localhost:14317}", endpoint)
    };
    let at = |endpoint: &str| {
        let config = read(&format!("{}storage: {{directory: /x}}\n", plain(endpoint))).unwrap();
        config.warnings.iter().find(|w| w.key == "exporters.otlp.endpoint").map(|w| w.message.clone())
    };
    assert!(at("collector:4317").unwrap().contains("uses TLS for collector:4317"));
    assert!(at("localhost:4317").unwrap().contains("uses no TLS"));
    assert_eq!(at("http://collector:4317"), None);
    let theirs = read(&plain("collector:4317")).unwrap();
    assert_eq!(theirs.warnings.len(), 1, "a Collector's file means the same: {:?}", theirs.warnings);
}

#[test]
fn a_file_of_a_collector_may_listen_to_others_and_perigees_own_must_say_so() {
    let open = MINIMAL.replace("localhost:$", "0.0.0.0:$");
    let config = read(&open).unwrap();
    let warned = config.warnings.iter().filter(|w| w.message.contains("other machines can reach")).count();
    assert_eq!(warned, 2);
    let own = read(&format!("{open}storage: {{directory: /x}}\n")).unwrap_err();
    assert!(own.contains("insecure: true") && own.starts_with("c.yaml has 2 problems"), "{own}");
}

#[test]
fn all_problems_of_a_file_are_told_at_once() {
    let text = with("  batch:\n", "  batch: {timeout: never}\n").replace("insecure: true", "insecur: true");
    let error = read(&text.replace("[otlp, debug]", "[otpl]").replace("verbosity", "x")).unwrap_err();
    let starts = ["c.yaml has 3 problems:", "  c.yaml:11:", "  c.yaml:18:", "  c.yaml:25:"];
    for (line, start) in error.lines().zip(starts) {
        assert!(line.starts_with(start), "{error}");
    }
    assert_eq!(error.lines().count(), 4);
}

#[test]
fn the_own_form_of_a_collectors_file_means_the_same_and_says_nothing_more() {
    for text in [MINIMAL, LARGER] {
        let mut file = ConfigFile::plain(text, "c.yaml").unwrap();
        collector::translate(&mut file, collector::Program::Agent);
        let written = file.written();
        let config = read(&written).unwrap_or_else(|e| panic!("{e}\n{written}"));
        assert!(config.warnings.is_empty(), "{:?}\n{written}", config.warnings);
        assert!(written.contains("# storage.directory: ") || text == LARGER, "{written}");
    }
}

#[test]
fn a_body_over_http_may_be_as_large_as_the_collector_takes_it() {
    let largest = |config: &Config| otlp(config).protocols.http.as_ref().unwrap().max_request_bytes;
    let config = read(MINIMAL).unwrap();
    assert_eq!(largest(&config), Some(ByteSize::mib(20)));
    assert_eq!(otlp(&config).protocols.grpc.as_ref().unwrap().max_request_bytes, None, "4 MiB in both");
    let limiter = "  batch:\n  memory_limiter: {limit_mib: 32, check_interval: 1s}\n";
    let small = read(&with("  batch:\n", limiter).replace("[batch]", "[memory_limiter, batch]")).unwrap();
    assert_eq!(largest(&small), None);
    let warned = small.warnings.iter().find(|w| w.key == "receivers.otlp.protocols.http").unwrap();
    assert!(warned.message.contains("write max_request_body_size"), "{warned}");
    let own = read(&format!("{MINIMAL}storage: {{directory: /x}}\n")).unwrap();
    assert_eq!(largest(&own), None, "Perigee's own form has its own default");
}

#[test]
fn a_batch_processor_that_no_pipeline_uses_cuts_nothing() {
    let most = |pipelines: &str| {
        let batch = "  batch:\n  batch/small: {send_batch_max_size: 10, send_batch_size: 5}\n";
        let config = read(&with("  batch:\n", batch).replace("[batch]", pipelines)).unwrap();
        let DirectConfig::Otlp(otlp) = direct(&config, "otlp") else { panic!() };
        otlp.max_request_items
    };
    assert_eq!((most("[batch/small]"), most("[batch]")), (10, 8192));
}

#[test]
fn a_second_health_check_is_an_error_and_not_left_out() {
    let two = "extensions: {health_check/one: {endpoint: \"localhost:1\"}, health_check/two: {endpoint: \"localhost:2\"}}\n";
    let error = read(&format!("{two}{MINIMAL}")).unwrap_err();
    assert!(error.contains("extensions.health_check/two: Perigee has one health_check"), "{error}");
    let wrong = "extensions: {health_chek: {}}\n";
    let listed = MINIMAL.replacen("service:\n", "service:\n  extensions: [health_check]\n", 1);
    let error = read(&format!("{wrong}{listed}")).unwrap_err();
    assert!(
        error.contains("did you mean `health_check`") && !error.contains("mean `health_chek`"),
        "{error}"
    );
}

#[test]
fn keys_that_the_collector_has_lately_are_known() {
    let http = "      http:\n        keepalive: {enabled: true}\n        tls: {cert_file: a, key_file: b, \
                include_insecure_cipher_suites: true, reload_interval: 1h, ca_file: c}\n";
    let config = read(&with("      http:\n", http)).unwrap();
    let said: Vec<&str> =
        config.warnings.iter().map(|w| w.key.as_str()).filter(|key| key.contains("http")).collect();
    let tls = |name: &str| format!("receivers.otlp.protocols.http.tls.{name}");
    assert_eq!(said, [tls("include_insecure_cipher_suites"), tls("ca_file")]);
    let exporter =
        "exporters:\n  otlp_http/x: {endpoint: \"http://localhost:1\", keepalive: {idle_conn_timeout: 5s}}\n";
    let text = with("exporters:\n", exporter);
    assert!(read(&text).is_ok(), "{:?}", read(&text));
}

#[test]
fn a_file_of_ground_station_is_called_that() {
    let error = read("\nstation: svalbard\nlink: {endpoint: \"0.0.0.0:4433\"}\n").unwrap_err();
    assert!(error.contains("c.yaml:2: station: this is a configuration of ground-station"), "{error}");
}

#[test]
fn what_only_follows_from_a_mistake_is_not_reported() {
    let connected = with("exporters: [otlp, debug]", "exporters: [otlp, spanmetrics]");
    let connected = connected
        .replace("    metrics:\n      receivers: [otlp]", "    metrics:\n      receivers: [spanmetrics]");
    let error = read(&format!("connectors: {{spanmetrics: }}\n{connected}")).unwrap_err();
    assert!(error.starts_with("c.yaml:1: connectors.spanmetrics:") && error.lines().count() == 1, "{error}");
}

#[test]
fn an_authenticator_that_is_not_started_is_named_where_it_is_needed() {
    let text =
        with("      insecure: true", "      insecure: true\n    auth: {authenticator: bearertokenauth}");
    let extensions =
        "extensions: {bearertokenauth: {token: x}, health_check: }\nservice:\n  extensions: [health_check]\n";
    let error = read(&text.replacen("service:\n", extensions, 1)).unwrap_err();
    let expected = "exporters.otlp.auth.authenticator: `bearertokenauth` is in extensions but not in service.extensions; add it there";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn what_the_collector_takes_is_taken() {
    for (from, to) in [
        ("  debug:\n", "  debug:\n  file: {path: /x/y, group_by: {enabled: false}}\n"),
        (
            "      insecure: true",
            "      insecure: true\n    headers:\n      x-tenant: ${env:TENANT:-}\n      y:",
        ),
        (
            "      insecure: true",
            "      insecure: true\n    sending_queue: {enabled: true, num_consumers: 10, queue_size: 1000, sizer: items, \
             block_on_overflow: true, wait_for_result: false, batch: {flush_timeout: 200ms, min_size: 1, max_size: 0}}",
        ),
        (
            "      grpc:\n",
            "      grpc:\n        keepalive: {server_parameters: {max_connection_age: 1h, time: 2h}, enforcement_policy: {min_time: 5m}}\n",
        ),
        ("service:\n", "service:\n  telemetry: {metrics: {level: Detailed}}\n"),
        (
            "  debug:\n",
            "  debug:\n  otlp/spare: {endpoint: \"x:4317\", auth: {authenticator: oauth2client}}\n",
        ),
    ] {
        read(&with(from, to)).unwrap_or_else(|error| panic!("{to}: {error}"));
    }
    let limiter =
        "  batch:\n  memory_limiter: {limit_mib: 100, limit_percentage: 50, spike_limit_percentage: 99}\n";
    let limiter = read(&with("  batch:\n", limiter).replace("[batch]", "[memory_limiter, batch]"));
    let limiter = limiter.unwrap().processors.memory_limiter;
    assert_eq!((limiter.limit, limiter.spike_limit), (ByteSize::mib(100), ByteSize::mib(20)), "MiB win");
}

#[test]
fn a_file_that_is_wrong_in_many_ways_is_told_of_all_of_them_and_warned() {
    let text = with("  debug:\n", "  debug: {verbosity: basic, verbosity: basic}\n").replacen(
        "      insecure: true",
        "      insecure: true\n    retry_on_failure: {multiplier: 0, randomization_factor: 2}\n    timeout: 0\n    timeout: 1s",
        1,
    );
    let error = ConfigFile::parse(&text, "c.yaml", &|_| None).and_then(Config::read).unwrap_err();
    let keys: Vec<(u64, String)> = error.problems().into_iter().map(|p| (p.line, p.key)).collect();
    let retry = |name: &str| (19, format!("exporters.otlp.retry_on_failure.{name}"));
    let expected = [
        (14, String::new()),
        retry("multiplier"),
        retry("randomization_factor"),
        (20, "exporters.otlp.timeout".to_owned()),
        (21, String::new()),
    ];
    assert_eq!(keys, expected);
    assert_eq!(error.warnings().iter().map(|w| w.key.as_str()).collect::<Vec<_>>(), ["storage.directory"]);
}

/// Step 4 of the README's "Five minutes".
#[test]
fn a_collectors_file_goes_through_a_ground_station_as_the_readme_says() {
    let own = include_str!("../../../deploy/config/agent.yaml");
    let link = &own[own.find("\nlink:").unwrap()..own.find("\ndelivery_attribute:").unwrap()];
    let text = LARGER.replacen("exporters:\n", "exporters:\n  link:\n", 1);
    let lines = text.lines().map(|line| match line.trim_start().starts_with("exporters: [") {
        true => "      exporters: [link]\n".to_owned(),
        false => format!("{line}\n"),
    });
    let config = read(&format!("{}{link}\n", lines.collect::<String>())).unwrap();
    assert_eq!(config.consumers().keys().collect::<Vec<_>>(), [LINK]);
    assert_eq!(config.link.unwrap().stations.len(), 1);
}
