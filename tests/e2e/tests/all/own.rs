//! What both programs say of themselves arrives like everything else.

use e2e::{Agent, Ground, Scene, eventually};
use perigee_shared::signal::Signal;
use serde_json::{Value, json};

use crate::PROGRAMS;

/// The text at `key` among OTLP/JSON attributes.
fn attribute<'a>(of: &'a Value, key: &str) -> Option<&'a str> {
    of["attributes"].as_array()?.iter().find(|a| a["key"] == key)?["value"]["stringValue"].as_str()
}

/// What is at the ground's backend of one signal, by `service.name`: log records or metrics.
fn arrived(ground: &Ground, signal: Signal, service: &str) -> Vec<Value> {
    let (resources, scopes, items) = match signal {
        Signal::Logs => ("resourceLogs", "scopeLogs", "logRecords"),
        _ => ("resourceMetrics", "scopeMetrics", "metrics"),
    };
    let text = std::fs::read_to_string(ground.sink.file(signal)).unwrap_or_default();
    let requests = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let each = |of: &Value, key: &str| of[key].as_array().cloned().unwrap_or_default();
    requests
        .flat_map(|request| each(&request, resources))
        .filter(|resource| attribute(&resource["resource"], "service.name") == Some(service))
        .flat_map(|resource| each(&resource, scopes))
        .flat_map(|scope| each(&scope, items))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_on_board_and_the_metrics_of_both_reach_the_backends() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    let own = json!({"enabled": true, "interval": "1s"});
    ground.config["service"]["telemetry"]["otlp"] = own.clone();
    ground.start().await;
    let mut agent = Agent::new(&scene, ground.link).always();
    agent.config["service"]["telemetry"]["otlp"] = own;
    agent.config["lanes"] = json!({"safe": {"number": 2, "match": [{"scope": "fdir"}]}});
    // A log that cannot be opened is put aside, which is an alarm.
    std::fs::create_dir_all(agent.wal_directory()).unwrap();
    std::fs::write(agent.wal_directory().join("wal.redb"), vec![7; 1 << 16]).unwrap();
    agent.start().await;

    let alarm = eventually("the alarm is at the backend", async || {
        let records = arrived(&ground, Signal::Logs, "space-agent");
        let alarm = records.iter().find(|r| r["eventName"] == "perigee.store.quarantined");
        alarm.cloned().ok_or_else(|| format!("{records:?}"))
    })
    .await;
    assert_eq!((&alarm["severityNumber"], &alarm["severityText"]), (&json!(17), &json!("ERROR")));
    assert_eq!(attribute(&alarm, "event.name"), Some("perigee.store.quarantined"));
    let lanes = ground.lanes().await;
    assert!(lanes.iter().any(|l| l["lane"] == 2), "it came in the most urgent lane: {lanes:?}");

    for (service, name) in [
        ("space-agent", "perigee_wal_max_bytes"),
        ("ground-station", "perigee_spool_used_bytes"),
        ("space-agent", "otelcol_receiver_accepted_spans"),
        ("ground-station", "otelcol_exporter_sent_log_records"),
    ] {
        eventually(&format!("{name} of {service}"), async || {
            let metrics = arrived(&ground, Signal::Metrics, service);
            let names: Vec<_> = metrics.iter().map(|m| m["name"].as_str().unwrap_or_default()).collect();
            names.contains(&name).then_some(()).ok_or_else(|| format!("{names:?}"))
        })
        .await;
    }
    assert!(agent.process.terminate().await.success() && ground.process.terminate().await.success());
    for log in [agent.process.log(), ground.process.log()] {
        assert!(!log.contains("in time"), "every task ends when it is told to: {log}");
    }
}
