//! What files of Collectors in use have in them.

use std::collections::BTreeMap;

use perigee_shared::config::ConfigFile;
use perigee_shared::export::config::{RetryConfig, Verbosity};
use perigee_shared::units::{ByteSize, Span};

use super::tests::read;
use super::*;

/// A file with this exporter, in `service.pipelines.traces` under its name, and with more sections.
fn with(name: &str, settings: &str, more: &str) -> String {
    format!(
        "receivers: {{otlp: {{protocols: {{grpc: , http: }}}}}}\nexporters: {{{name}: {settings}}}\n\
         service: {{pipelines: {{traces: {{receivers: otlp, exporters: [{name}]}}}}}}\n{more}\n"
    )
}

fn said(config: &Config, key: &str) -> Vec<String> {
    config.warnings.iter().filter(|w| w.key == key).map(|w| w.message.clone()).collect()
}

fn direct(config: &Config) -> DirectConfig {
    let found = config.exporters.iter().find_map(|(_, exporter)| match exporter {
        ExporterConfig::Direct(direct) => Some((**direct).clone()),
        ExporterConfig::Link => None,
    });
    found.unwrap()
}

#[test]
fn a_scheme_turns_tls_off_over_http_and_not_over_grpc() {
    for (kind, settings, tls, warned) in [
        ("otlp", "{endpoint: 'http://b:4317'}", true, true),
        ("otlp", "{endpoint: 'http://b:4317', tls: {ca_pem: x}}", true, true),
        ("otlp", "{endpoint: 'http://b:4317', tls: {insecure: true}}", false, false),
        ("otlp", "{endpoint: 'http://localhost:4317'}", false, false),
        ("otlphttp", "{endpoint: 'http://b:4318'}", false, false),
        ("otlphttp", "{endpoint: 'http://b:4318', tls: }", false, false),
        ("otlphttp", "{endpoint: 'http://b:4318', tls: {insecure: false, ca_file: ''}}", false, false),
        ("otlphttp", "{endpoint: 'http://b:4318', tls: {insecure_skip_verify: true}}", false, true),
    ] {
        let config = read(&with(kind, settings, "")).unwrap_or_else(|e| panic!("{settings}: {e}"));
        let (endpoint, client) = match direct(&config) {
            DirectConfig::Otlp(c) => (c.endpoint, c.tls),
            DirectConfig::OtlpHttp(c) => (c.endpoint, c.tls),
            other => panic!("{other:?}"),
        };
        let target = perigee_shared::export::endpoint::target(&endpoint, client.as_ref()).unwrap();
        assert_eq!(target.tls, tls, "{settings}");
        let keys = [format!("exporters.{kind}.endpoint"), format!("exporters.{kind}.tls")];
        assert_eq!(keys.iter().any(|k| !said(&config, k).is_empty()), warned, "{settings}");
    }
}

#[test]
fn credentials_do_not_go_over_plaintext_unsaid() {
    let auth = "extensions: {bearertokenauth: {token: t}}";
    let file = |kind: &str, rest: &str| {
        let settings = format!("{{endpoint: {rest}, auth: {{authenticator: bearertokenauth}}}}");
        read(&with(kind, &settings, auth).replace("{pipelines", "{extensions: [bearertokenauth], pipelines"))
    };
    let wrong = file("otlp", "'b:4317', tls: {insecure: true}").unwrap_err();
    assert!(wrong.contains("credentials would go over plaintext"), "{wrong}");
    assert!(file("otlp", "'b:4317'").is_ok());
    assert!(file("otlp", "'localhost:4317'").is_ok());
    let config = file("otlphttp", "'http://b:4318'").unwrap();
    assert_eq!(said(&config, "exporters.otlphttp.auth").len(), 1);
}

#[test]
fn the_largest_request_can_be_taken_as_json_too() {
    let config = read(&with("debug", "", "processors: {memory_limiter: {limit_mib: 400}}")).unwrap();
    let http = config.otlp_receivers().next().unwrap().1.protocols.http.as_ref().unwrap();
    let largest = http.max_request_bytes.unwrap();
    assert_eq!(largest, ByteSize::mib(20));
    assert!(config.processors.memory_limiter.max_in_flight >= ByteSize(2 * largest.0));
}

#[test]
fn a_processor_that_no_pipeline_uses_changes_nothing() {
    let processors = "processors: {memory_limiter: {check_interval: 1s, limit_mib: 8}, batch: {timeout: 3s}}";
    let file = with("debug", "", processors);
    let config = read(&file).unwrap();
    assert_eq!(config.processors.memory_limiter.limit, ByteSize::mib(64));
    assert_eq!(said(&config, "processors.memory_limiter").len(), 1);
    let used = file.replace("exporters: [debug]", "processors: memory_limiter, exporters: [debug]");
    let config = read(&used).unwrap();
    assert_eq!(config.processors.memory_limiter.limit, ByteSize::mib(8));
    assert_eq!(config.processors.batch.timeout, Span::secs(1));
}

#[test]
fn the_log_lies_where_the_queue_would() {
    let more = "extensions:\n  file_storage/in: {directory: /nowhere/a}\n  file_storage/out: {directory: /nowhere/b, max_size: 5}\n";
    let settings = "{endpoint: 'b:1', sending_queue: {storage: file_storage/out}}";
    let text = with("otlp", settings, more)
        .replace("{pipelines", "{extensions: [file_storage/in, file_storage/out], pipelines");
    let wrong = read(&text).unwrap_err();
    assert!(wrong.contains("extensions.file_storage/out.max_size: must be at least"), "{wrong}");
    let config = read(&text.replace(", max_size: 5", "")).unwrap();
    assert_eq!(config.storage.directory, std::path::Path::new("/nowhere/b"));
    assert!(said(&config, "extensions.file_storage/in")[0].ends_with("/nowhere/b"));
}

#[test]
fn logging_is_debug() {
    let config = read(&with("logging/x", "{loglevel: debug}", "")).unwrap();
    assert_eq!(config.service.pipelines.traces.as_ref().unwrap().exporters, ["debug/logging/x"]);
    assert!(matches!(direct(&config), DirectConfig::Debug(c) if c.verbosity == Verbosity::Detailed));
    assert!(said(&config, "exporters.logging/x")[0].contains("write debug"));
    let config = read(&with("debug", "{verbosity: Detailed}", "")).unwrap();
    assert!(matches!(direct(&config), DirectConfig::Debug(c) if c.verbosity == Verbosity::Detailed));
}

#[test]
fn one_word_is_a_list() {
    let text =
        with("debug", "", "").replace("exporters: [debug]", "processors: batch, exporters: 'debug, file/x'");
    let text = text.replace("{debug: }", "{debug: , file/x: {path: /tmp/x}}");
    let text = text.replace("http: }", "http: {cors: {allowed_origins: '*'}}}");
    let config = read(&text).unwrap();
    assert_eq!(config.service.pipelines.traces.as_ref().unwrap().exporters, ["debug", "file/x"]);
    let http = config.otlp_receivers().next().unwrap().1.protocols.http.as_ref().unwrap();
    assert_eq!(http.cors.as_ref().unwrap().allowed_origins, ["*"]);
}

#[test]
fn empty_text_is_no_value() {
    let config = read(&with(
        "otlp",
        "{endpoint: 'b:1', tls: {ca_file: '', cert_file: '', min_version: '', server_name_override: ''}}",
        "",
    ));
    let DirectConfig::Otlp(otlp) = direct(&config.unwrap()) else { panic!() };
    assert_eq!(otlp.tls, Some(perigee_shared::export::config::TlsConfig::default()));
    let text = with("debug", "", "").replace("http: }", "http: {tls: }}");
    assert!(
        read(&text)
            .unwrap()
            .otlp_receivers()
            .next()
            .unwrap()
            .1
            .protocols
            .http
            .as_ref()
            .unwrap()
            .tls
            .is_none()
    );
}

#[test]
fn a_port_alone_is_that_of_every_address() {
    let more = "extensions: {health_check: {endpoint: ':13133'}}";
    let telemetry = |at: &str| {
        let text = with("debug", "", more);
        text.replace(
            "{pipelines",
            &format!("{{extensions: [health_check], telemetry: {{metrics: {at}}}, pipelines"),
        )
    };
    let config = read(&telemetry("{address: ':8888'}")).unwrap();
    assert_eq!(config.extensions.health_check.as_ref().unwrap().endpoint, "0.0.0.0:13133");
    assert_eq!(config.service.telemetry.metrics.as_ref().unwrap().endpoint, "0.0.0.0:8888");
    for (host, expected) in [("''", "0.0.0.0:8888"), ("'::1'", "[::1]:8888"), ("'::'", "[::]:8888")] {
        let reader =
            format!("{{readers: [{{pull: {{exporter: {{prometheus: {{host: {host}, port: 8888}}}}}}}}]}}");
        let config = read(&telemetry(&reader)).unwrap();
        assert_eq!(config.service.telemetry.metrics.as_ref().unwrap().endpoint, expected);
    }
    let wrong = read(&with("debug", "", "").replace("grpc: ,", "grpc: {endpoint: '::1:4317'},")).unwrap_err();
    assert!(wrong.contains("grpc.endpoint"), "{wrong}");
}

#[test]
fn one_interval_bounds_the_other() {
    let retry = |settings: &str| {
        let settings = format!("{{endpoint: 'b:1', retry_on_failure: {settings}}}");
        let DirectConfig::Otlp(otlp) = direct(&read(&with("otlp", &settings, "")).unwrap()) else { panic!() };
        let RetryConfig { initial_interval, max_interval, .. } = otlp.retry_on_failure;
        [initial_interval, max_interval]
    };
    assert_eq!(retry("{initial_interval: 60s}"), [Span::secs(60), Span::secs(60)]);
    assert_eq!(retry("{max_interval: 4s}"), [Span::secs(4), Span::secs(4)]);
    assert_eq!(retry("{initial_interval: 1s}"), [Span::secs(1), Span::secs(30)]);
    let config = read(
        &with("debug", "", "processors: {batch: {timeout: 1ms}}")
            .replace("exporters: [", "processors: [batch], exporters: ["),
    );
    let config = config.unwrap();
    assert_eq!(config.processors.batch.timeout, Span::millis(10));
    assert_eq!(said(&config, "processors.batch.timeout").len(), 1);
}

#[test]
fn a_variable_that_is_not_set_matters_where_it_is_used() {
    let more = "connectors: {spanmetrics: {x: '${env:NOPE}'}}\n";
    let text = with("debug", "", more)
        .replace("{debug: }", "{debug: , datadog: {api: '${env:NOPE}'}}")
        .replace("{pipelines", "{telemetry: {resource: {a: '${env:NOPE}'}}, pipelines");
    read(&text).unwrap();
    let wrong = read(&text.replace("debug: ,", "debug: {verbosity: '${env:NOPE}'},")).unwrap_err();
    assert_eq!(wrong.matches("NOPE is not set").count(), 1, "{wrong}");
}

#[test]
fn what_a_connector_brings_is_one_mistake() {
    let text = "receivers: {otlp: {protocols: {grpc: }}}\nexporters: {debug: }\nconnectors: {forward: }\nservice: {pipelines: \
                {traces: {receivers: [otlp], exporters: [forward]}, traces/2: {receivers: [forward], exporters: [debug]}}}\n";
    let wrong = read(text).unwrap_err();
    assert!(
        wrong.contains("one pipeline cannot feed another") && !wrong.contains("would also go to `forward`"),
        "{wrong}"
    );
}

#[test]
fn a_small_limit_is_one_mistake() {
    let limit = |mib: u64| {
        let processors = format!("processors: {{memory_limiter: {{check_interval: 1s, limit_mib: {mib}}}}}");
        read(
            &with("debug", "", &processors)
                .replace("exporters: [", "processors: [memory_limiter], exporters: ["),
        )
    };
    let wrong = limit(2).unwrap_err();
    assert!(
        wrong.contains("limit_mib: is 2.0 MiB and must be at least 4MiB") && !wrong.contains("did you mean"),
        "{wrong}"
    );
    assert!(!wrong.contains("max_connections"), "{wrong}");
    let config = limit(4).unwrap();
    assert_eq!(
        config.otlp_receivers().next().unwrap().1.protocols.grpc.as_ref().unwrap().max_connections,
        32
    );
}

#[test]
fn an_address_from_a_variable_may_be_reached_by_others() {
    let text = with("'debug'", "", "").replace("grpc: ,", "grpc: {endpoint: '${env:POD}:4317'},");
    let text = text.replace("http: }", "http: {endpoint: 'localhost:${env:PORT}'}}");
    let text = text.replace("exporters: {'debug': }", "exporters: {'debug': , \"awsxray/a\\nfoo: 1\": }");
    let mut file = ConfigFile::plain(&text, "c.yaml").unwrap();
    perigee_shared::config::collector::translate(
        &mut file,
        perigee_shared::config::collector::Program::Agent,
    );
    let written = file.written();
    let env: BTreeMap<&str, &str> = [("POD", "10.0.0.5"), ("PORT", "4318")].into();
    let env = |name: &str| env.get(name).map(|v| (*v).to_owned());
    let config = ConfigFile::parse(&written, "p.yaml", &env).and_then(Config::read);
    let config = config.unwrap_or_else(|e| panic!("{e}\n{written}"));
    let protocols = &config.otlp_receivers().next().unwrap().1.protocols;
    assert!(protocols.grpc.as_ref().unwrap().insecure && !protocols.http.as_ref().unwrap().insecure);
}
