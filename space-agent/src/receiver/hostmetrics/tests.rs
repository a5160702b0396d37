//! What is measured of the machine in `testdata`, to the digit.

use std::path::Path;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, NumberDataPoint, metric};

use super::*;

const NOW: u64 = 1_700_012_345_000_000_000;

fn config(scrapers: &str) -> HostMetricsConfig {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/receiver/hostmetrics/testdata");
    let text = format!(r#"{{"root_path": {root:?}, "scrapers": {scrapers}}}"#);
    serde_json::from_str(&text).unwrap()
}

fn state(scrapers: &str) -> State {
    let config = config(scrapers);
    let mut wrong = Vec::new();
    config.problems("receivers.hostmetrics", &mut wrong);
    assert!(wrong.is_empty(), "{wrong:?}");
    State::try_new(&config, "receivers.hostmetrics").unwrap()
}

fn attributes(all: &[KeyValue]) -> String {
    let one = |a: &KeyValue| match a.value.as_ref().and_then(|v| v.value.as_ref()) {
        Some(Any::StringValue(text)) => format!("{}={text}", a.key),
        Some(Any::IntValue(number)) => format!("{}={number}", a.key),
        other => panic!("{other:?}"),
    };
    all.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn point(p: &NumberDataPoint) -> String {
    assert_eq!(p.time_unix_nano, NOW);
    let value = match p.value.unwrap() {
        Value::AsInt(value) => format!("{value}"),
        Value::AsDouble(value) => format!("{value:?}"),
    };
    format!("{} = {value} since {}", attributes(&p.attributes), p.start_time_unix_nano)
}

/// Every point as a line: resource, metric, attributes, value, start.
fn lines(requests: &[Bytes]) -> Vec<String> {
    let mut out = Vec::new();
    for request in requests {
        let request = ExportMetricsServiceRequest::decode(request.clone()).unwrap();
        for resource in request.resource_metrics {
            let of = attributes(&resource.resource.unwrap().attributes);
            for m in resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
                let (shape, points) = match m.data.unwrap() {
                    metric::Data::Gauge(gauge) => ("gauge", gauge.data_points),
                    metric::Data::Sum(sum) => {
                        assert_eq!(sum.aggregation_temporality(), AggregationTemporality::Cumulative);
                        (if sum.is_monotonic { "counter" } else { "updown" }, sum.data_points)
                    }
                    other => panic!("{other:?}"),
                };
                let line = |p| format!("[{of}] {} {} {shape} {}", m.name, m.unit, point(p));
                out.extend(points.iter().map(line));
            }
        }
    }
    out
}

/// Everything that a scraper has, turned on.
fn everything(kind: &str) -> String {
    let of = |name: &&str| format!(r#""{name}": {{"enabled": true}}"#);
    let metrics: Vec<&str> = scrapers::Kind::named(kind).metrics().iter().map(|m| m.name).collect();
    let metrics: Vec<String> = metrics.iter().map(of).collect();
    let attributes: Vec<String> =
        scrapers::PROCESS_ATTRIBUTES.iter().map(|(name, _)| of(name)).filter(|_| kind == "process").collect();
    let more = format!(r#", "resource_attributes": {{{}}}"#, attributes.join(","));
    let more = if attributes.is_empty() { "" } else { &more };
    format!(r#"{{"metrics": {{{}}}{more}}}"#, metrics.join(","))
}

#[test]
fn every_metric_has_the_value_that_proc_and_sys_give() {
    let kinds = scrapers::Kind::NAMES.into_iter().filter(|kind| *kind != "filesystem");
    let all: Vec<String> = kinds.map(|kind| format!(r#""{kind}": {}"#, everything(kind))).collect();
    let mut state = state(&format!("{{{}}}", all.join(",")));
    let first = lines(&state.scrape(NOW)).join("\n");
    let expected = include_str!("testdata/expected.txt");
    let wrong: Vec<&str> = first.lines().filter(|line| !expected.lines().any(|e| e == *line)).collect();
    assert!(wrong.is_empty(), "not expected:\n{}", wrong.join("\n"));
    assert_eq!(first.lines().count(), expected.lines().count(), "something is missing:\n{first}");
    // Shares of CPU time need a scrape before.
    let second = lines(&state.scrape(NOW)).join("\n");
    let shares = |text: &str| text.lines().filter(|l| l.contains("utilization") && l.contains("cpu")).count();
    assert_eq!((shares(&first), shares(&second)), (0, 8 + 2 * 3));
}

#[test]
fn what_is_optional_is_off_unless_it_is_turned_on() {
    let names = |scrapers: &str| {
        let mut names: Vec<String> = lines(&state(scrapers).scrape(NOW))
            .iter()
            .map(|line| line.split("] ").nth(1).unwrap().split(' ').next().unwrap().to_owned())
            .collect();
        names.dedup();
        names
    };
    assert_eq!(names(r#"{"cpu": null}"#), ["system.cpu.logical.count", "system.cpu.time"]);
    let chosen = r#"{"memory": {"metrics": {"system.memory.limit": {"enabled": true}, "system.memory.usage": {"enabled": false}}}}"#;
    assert_eq!(names(chosen), ["system.memory.limit"]);
}

#[test]
fn points_that_differ_in_what_is_left_out_are_put_together() {
    let of = |time: &str| {
        let scrapers = format!(
            r#"{{"cpu": {{"metrics": {{"system.cpu.time": {time}, "system.cpu.logical.count": {{"enabled": false}}}}}}}}"#
        );
        let lines = lines(&state(&scrapers).scrape(NOW));
        let value =
            |line: &String| line.split("counter ").nth(1).unwrap().split(" since").next().unwrap().to_owned();
        lines.iter().map(value).collect::<Vec<_>>()
    };
    let each = of(r#"{"attributes": ["cpu", "state"]}"#);
    assert_eq!(each.len(), 3 * 8);
    assert!(each.contains(&"cpu=cpu3 state=wait = 5.0".to_owned()), "{each:?}");
    let longest = of(r#"{"attributes": ["cpu"], "aggregation_strategy": "max"}"#);
    assert_eq!(longest, ["cpu=cpu0 = 3007.0", "cpu=cpu1 = 3000.0", "cpu=cpu3 = 3000.0"]);
    assert_eq!(of(r#"{"attributes": [], "aggregation_strategy": "min"}"#), [" = 0.04"]);
    let mean = of(r#"{"attributes": ["state"], "aggregation_strategy": "avg"}"#);
    assert!(mean.contains(&"state=user = 100.33333333333333".to_owned()), "{mean:?}");
}

#[test]
fn file_systems_are_those_with_a_device_and_what_is_not_there_is_told_and_left_out() {
    let mut state = state(r#"{"filesystem": null}"#);
    let text = lines(&state.scrape(NOW));
    let [root, sys] = [("/dev/sda1", "rw", "/"), ("/dev/sda2", "ro", "/sys")].map(|(device, mode, point)| {
        format!("device={device} mode={mode} mountpoint={point} type=ext4 state=")
    });
    for (metric, states) in [
        ("system.filesystem.usage By", "used free reserved"),
        ("system.filesystem.inodes.usage {inodes}", "used free"),
    ] {
        for (mount, state) in [&root, &sys].into_iter().flat_map(|m| states.split(' ').map(move |s| (m, s))) {
            let start = format!("[] {metric} updown {mount}{state} = ");
            assert_eq!(text.iter().filter(|line| line.starts_with(&start)).count(), 1, "{start}\n{text:#?}");
        }
    }
    assert_eq!(text.len(), 10, "nothing else: {text:#?}");
    assert!(state.failing.contains("filesystem"), "/gone is not there");
}

#[test]
fn filters_choose_devices_interfaces_and_processes() {
    let of = |scrapers: &str| lines(&state(scrapers).scrape(NOW));
    let has = |lines: &[String], part: &str| lines.iter().any(|line| line.contains(part));
    let disks = of(
        r#"{"disk": {"include": {"match_type": "regexp", "devices": ["^sd"]}, "exclude": {"match_type": "strict", "devices": ["sda1"]}}}"#,
    );
    assert!(has(&disks, "device=sda ") && !has(&disks, "device=sda1") && !has(&disks, "mmcblk0"));
    let interfaces = of(r#"{"network": {"exclude": {"match_type": "strict", "interfaces": ["lo"]}}}"#);
    assert!(has(&interfaces, "device=can0:1 ") && !has(&interfaces, "device=lo "));
    let processes = of(r#"{"process": {"include": {"match_type": "strict", "names": ["init"]}}}"#);
    assert!(has(&processes, "process.pid=1") && !has(&processes, "process.pid=42"));
    // Process 42 began 12045 s before, process 1 12344 s before.
    let old = of(r#"{"process": {"scrape_process_delay": "12200s"}}"#);
    assert!(has(&old, "process.pid=1") && !has(&old, "process.pid=42"));
}

#[test]
fn trouble_of_processes_is_told_unless_it_is_muted() {
    let failing = |process: &str| {
        let mut state = state(&format!(r#"{{"process": {process}}}"#));
        state.scrape(NOW);
        state.failing.contains("process")
    };
    assert!(failing("null"), "nobody has the id of 42's owner");
    assert!(!failing(r#"{"mute_process_user_error": true}"#));
    assert!(!failing(r#"{"mute_process_all_errors": true}"#));
    assert!(!failing(r#"{"resource_attributes": {"process.owner": {"enabled": false}}}"#));
}

#[test]
fn a_clock_that_is_read_a_second_off_moves_no_start_and_one_that_was_set_does() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("proc")).unwrap();
    let mut host = Host::new(root.path());
    let mut boot = |seconds: u64| {
        let stat = format!("cpu  1 1 1 1\ncpu0 1 1 1 1 1 1 1 1\nbtime {seconds}\n");
        std::fs::write(root.path().join("proc/stat"), stat).unwrap();
        host.begin(NOW).unwrap();
        host.boot / 1_000_000_000
    };
    assert_eq!(
        [boot(1000), boot(1001), boot(999), boot(1_700_000_000), boot(1000)],
        [1000, 1000, 1000, 1_700_000_000, 1000]
    );
}

#[test]
fn a_table_of_any_length_is_read_whole() {
    let root = tempfile::tempdir().unwrap();
    let host = Host::new(root.path());
    for length in [0, 100, 3500, 3583, 3584, 3585, 4095, 4096, 4097, 8192, 20_000] {
        let text: String = "0123456789\n".chars().cycle().take(length).collect();
        std::fs::write(root.path().join("table"), &text).unwrap();
        assert_eq!(host.read_table("table").unwrap(), text);
    }
    assert!(host.read_table("none").unwrap_err().is_gone());
    // More sockets than fit in a page.
    let listeners: Vec<_> = (0..100).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let text = Host::new(Path::new("/")).read_table("proc/net/tcp").unwrap();
    for listener in listeners {
        let address = format!("0100007F:{:04X} ", listener.local_addr().unwrap().port());
        assert!(text.contains(&address), "{address} is not in {text}");
    }
}

#[test]
fn many_processes_are_several_requests_of_bounded_size() {
    let mut state = state(r#"{"process": {"mute_process_all_errors": true}}"#);
    let one = ExportMetricsServiceRequest::decode(state.scrape(NOW).remove(0)).unwrap().resource_metrics;
    let many: Vec<ResourceMetrics> = one.iter().cycle().take(2000).cloned().collect();
    let requests = requests(many);
    assert!(requests.len() > 1 && requests.iter().all(|r| r.len() <= REQUEST + 4096), "{}", requests.len());
    assert_eq!(lines(&requests).len(), 1000 * lines(&state.scrape(NOW)).len());
}
