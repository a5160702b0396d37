//! The agent without a ground-station: direct exporters, fed from the same log.

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::{Agent, Backend, Batch, Ground, Ledger, Load, Never, STATION, Scene, Sent, eventually};
use perigee_shared::signal::{Counts, Signal};
use serde_json::{Value, json};

use crate::{PROGRAMS, settle};

const NOBODY: ([u8; 4], u16) = ([127, 0, 0, 1], 9);

fn quick(endpoint: &str) -> Value {
    json!({"endpoint": endpoint, "retry_on_failure": {"initial_interval": "50ms", "max_interval": "200ms"}})
}

async fn fill(agent: &Agent, ledger: &mut Ledger, name: &str, requests: usize) {
    for n in 0..requests {
        let batch = Batch::new(Signal::ALL[n % 3], &format!("{name}{n}"), 10, 20);
        let sent = agent.send(&batch).await;
        assert_eq!(sent, Sent::Acknowledged);
        ledger.note(&batch, &sent);
    }
}

/// A backend that never decides about what has `word` in it, and an agent, not started, that exports to it and seals at once.
async fn undecided(scene: &Scene, word: &'static str) -> (Backend, Agent) {
    let mut backend = Backend::new();
    backend.never(Some(word));
    backend.start().await;
    let mut agent =
        Agent::new(scene, NOBODY.into()).exporting(json!({"otlphttp": quick(&backend.endpoint())}));
    agent.config["processors"]["batch"] = json!({"timeout": "50ms"});
    (backend, agent)
}

fn missing(ledger: &Ledger, backend: &Backend) -> Result<(), String> {
    let arrived: BTreeSet<String> = backend.ids().into_iter().collect();
    let missing: Vec<_> = ledger.acknowledged.difference(&arrived).collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("{} of {}", missing.len(), ledger.acknowledged.len()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_comes_late_gets_everything_over_both_protocols_also_after_a_crash() {
    let scene = Scene::new(PROGRAMS);
    let (mut grpc, mut http) = (Backend::new(), Backend::new());
    let mut agent = Agent::new(&scene, NOBODY.into()).exporting(json!({
        "otlp": quick(&grpc.endpoint()),
        "otlphttp": quick(&http.endpoint()),
        "debug": {"verbosity": "detailed"},
        "file": {"path": scene.path().join("direct.jsonl")},
    }));
    agent.config["processors"]["batch"] = json!({"timeout": "50ms"});
    agent.start().await;
    let mut ledger = Ledger::default();
    fill(&agent, &mut ledger, "a", 30).await;
    agent.process.kill().await;
    agent.start().await;
    fill(&agent, &mut ledger, "b", 30).await;
    grpc.start().await;
    eventually("gRPC has everything", async || missing(&ledger, &grpc)).await;
    assert!(missing(&ledger, &http).is_err(), "one that is down holds back no other");
    assert_eq!(agent.account().await.delivered.total(), 0, "nothing is deleted before all have passed it");
    http.start().await;
    eventually("HTTP has everything", async || missing(&ledger, &http)).await;
    agent.drained().await;
    let account = agent.account().await;
    assert_eq!((account.accepted, account.delivered), (ledger.items, ledger.items));
    let file = std::fs::read_to_string(scene.path().join("direct.jsonl")).unwrap();
    assert!(e2e::ids_in(&file).count() >= ledger.acknowledged.len());
    assert!(agent.process.log().contains("a0-0"), "debug shows items");
}

/// Bulk that a backend never decides about holds no alarm back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_never_decided_holds_back_its_lane_alone() {
    let scene = Scene::new(PROGRAMS);
    let (backend, mut agent) = undecided(&scene, "bulk").await;
    agent.config["lanes"] =
        json!({"alarms": {"number": 1, "match": [{"severity": "error"}], "timeout": "0s"}});
    agent.start().await;
    let mut ledger = Ledger::default();
    fill(&agent, &mut ledger, "bulk", 6).await;
    eventually("it is sent again", async || {
        let retries = agent.metric("perigee_exporter_retries_total").await;
        if retries > 5 { Ok(()) } else { Err(retries.to_string()) }
    })
    .await;
    for n in 0..3 {
        let alarm = Batch { severity: 17, ..Batch::new(Signal::Logs, &format!("alarm{n}"), 2, 20) };
        let sent = agent.send(&alarm).await;
        ledger.note(&alarm, &sent);
        eventually("the alarm has arrived", async || {
            let arrived: BTreeSet<String> = backend.ids().into_iter().collect();
            if alarm.ids.iter().all(|id| arrived.contains(id)) { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;
    }
    backend.never(None);
    agent.drained().await;
    assert_eq!(missing(&ledger, &backend), Ok(()));
    assert_eq!(backend.ids().len(), ledger.acknowledged.len(), "each once");
}

/// A backend that never decides about metrics gets traces and logs of the same lane, each once also over a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_that_is_never_decided_holds_back_no_other() {
    let scene = Scene::new(PROGRAMS);
    let (backend, mut agent) = undecided(&scene, "points").await;
    agent.start().await;
    let mut ledger = Ledger::default();
    for round in 0..3 {
        let mut others = BTreeSet::new();
        for (signal, name) in
            [(Signal::Metrics, "points"), (Signal::Traces, "spans"), (Signal::Logs, "lines")]
        {
            let batch = Batch::new(signal, &format!("{name}{round}"), 10, 20);
            let sent = agent.send(&batch).await;
            assert_eq!(sent, Sent::Acknowledged);
            ledger.note(&batch, &sent);
            if signal != Signal::Metrics {
                others.extend(batch.ids);
            }
        }
        eventually("traces and logs have arrived", async || {
            let arrived: BTreeSet<String> = backend.ids().into_iter().collect();
            let missing = others.difference(&arrived).count();
            if missing == 0 { Ok(()) } else { Err(missing.to_string()) }
        })
        .await;
        assert!(!backend.ids().iter().any(|id| id.contains("points")));
        let status = agent.status().await;
        let failing = &status["exporters"]["otlphttp"]["failing"];
        assert!(failing["reason"].is_string(), "{status}");
        if round == 1 {
            agent.process.kill().await;
            agent.start().await;
        }
    }
    backend.never(None);
    agent.drained().await;
    assert_eq!(missing(&ledger, &backend), Ok(()));
    assert_eq!(backend.ids().len(), ledger.acknowledged.len(), "each once");
    let failing = agent.status().await["exporters"]["otlphttp"]["failing"].clone();
    assert_eq!(failing, Value::Null);
}

/// However a backend does not decide about metrics, and for however long: traces and logs of the lane are there at once, also after a
/// restart, and the agent says of which signal and which address what it keeps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wait_for_one_signal_is_a_wait_for_the_others() {
    for how in [Never::RetryAfter(3600), Never::Unavailable, Never::Silent, Never::SilentInPart] {
        let scene = Scene::new(PROGRAMS);
        let mut backend = Backend::new();
        backend.never_as(Some("points"), how);
        backend.start().await;
        // No wait is over before the test is.
        let waits = json!({"initial_interval": "1h", "max_interval": "1h", "max_retry_after": "1h"});
        let exporter = json!({"endpoint": backend.endpoint(), "timeout": "1h", "retry_on_failure": waits});
        let mut agent = Agent::new(&scene, NOBODY.into()).exporting(json!({"otlphttp": exporter}));
        agent.config["processors"]["batch"] = json!({"timeout": "50ms"});
        agent.start().await;
        let (mut ledger, mut others) = (Ledger::default(), Counts::ZERO);
        for round in 0..3 {
            let mut wanted = BTreeSet::new();
            for (signal, name) in
                [(Signal::Metrics, "points"), (Signal::Traces, "spans"), (Signal::Logs, "lines")]
            {
                let batch = Batch::new(signal, &format!("{name}{round}"), 10, 20);
                let sent = agent.send(&batch).await;
                ledger.note(&batch, &sent);
                if signal != Signal::Metrics {
                    others += Counts::of(signal, 10);
                    wanted.extend(batch.ids);
                }
            }
            eventually(&format!("{how:?}: traces and logs have arrived"), async || {
                let arrived: BTreeSet<String> = backend.ids().into_iter().collect();
                let missing = wanted.difference(&arrived).count();
                if missing == 0 { Ok(()) } else { Err(missing.to_string()) }
            })
            .await;
            // What is not counted when it is killed comes again.
            eventually("what all have is delivered", async || {
                let account = agent.account().await;
                if account.delivered == others { Ok(()) } else { Err(format!("{account:?}")) }
            })
            .await;
            if round == 1 {
                agent.process.kill().await;
                agent.start().await;
            }
        }
        let status = agent.status().await;
        let undecided = &status["exporters"]["otlphttp"]["undecided"];
        assert_eq!(undecided["requests"][0]["signal"], "metrics", "{status}");
        if let Never::RetryAfter(_) | Never::Unavailable = how {
            let reason = undecided["requests"][0]["reason"].as_str().unwrap();
            assert!(reason.contains(&format!("(metrics to {}/v1/metrics)", backend.endpoint())), "{reason}");
        }
        let shown = agent.command(&["status"]).await.out;
        assert!(shown.contains("is tried again since") && shown.contains("metrics"), "{shown}");
        assert!(agent.process.terminate().await.success());
        // A new start tries everything again.
        backend.never(None);
        agent.start().await;
        agent.drained().await;
        assert_eq!(missing(&ledger, &backend), Ok(()), "{how:?}");
        assert_eq!(backend.ids().len(), ledger.acknowledged.len(), "{how:?}: each once");
    }
}

/// A store that one signal of one exporter fills says so before it is full, and `drop_oldest` drops nothing that was delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_one_signal_fills_names_it_and_drops_only_what_nobody_has() {
    let scene = Scene::new(PROGRAMS);
    let (backend, mut agent) = undecided(&scene, "points").await;
    agent.config["storage"]["max_bytes"] = json!("1MiB");
    agent.config["storage"]["when_full"] = json!("drop_oldest");
    agent.start().await;
    let (mut others, mut round) = (Counts::ZERO, 0);
    let mut alarmed = false;
    while agent.account().await.dropped.total() == 0 {
        for (signal, name) in [(Signal::Metrics, "points"), (Signal::Logs, "lines")] {
            let batch = Batch::new(signal, &format!("{name}{round}"), 20, 2000);
            assert_eq!(agent.send(&batch).await, Sent::Acknowledged);
            if signal != Signal::Metrics {
                others += Counts::of(signal, 20);
            }
        }
        eventually("the log records have arrived", async || {
            let lines = backend.ids().iter().filter(|id| id.starts_with("lines")).count() as u64;
            if lines == others.total() { Ok(()) } else { Err(format!("{lines} of {}", others.total())) }
        })
        .await;
        let wal = &agent.status().await["wal"];
        if !alarmed && wal["segment_bytes"].as_u64() > Some(700_000) {
            eventually("the alarm is raised", async || {
                let log = agent.process.log();
                if log.contains("perigee.exporter.holds_store") { Ok(()) } else { Err(log) }
            })
            .await;
            alarmed = true;
        }
        round += 1;
    }
    eventually("what all have is delivered", async || {
        let account = agent.account().await;
        if account.delivered == others { Ok(()) } else { Err(format!("{account:?}")) }
    })
    .await;
    let account = agent.account().await;
    assert_eq!(account.dropped[Signal::Logs], 0, "{account:?}");
    assert!(alarmed, "before anything is dropped");
    let said = agent.process.log();
    let said = said.lines().find(|line| line.contains("perigee.exporter.holds_store")).unwrap();
    let place = format!("metrics to {}/v1/metrics", backend.endpoint());
    assert!(said.contains("otlphttp") && said.contains(&place), "{said}");
    let status = agent.status().await;
    let held = &status["exporters"]["otlphttp"]["undecided"];
    assert!(held["percent"].as_u64() >= Some(50) && held["held_bytes"].as_u64() > Some(500_000), "{status}");
    assert_eq!(status["missed"]["otlphttp"]["metrics"], account.dropped[Signal::Metrics], "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exporter_killed_on_its_way_goes_on_where_it_was() {
    let scene = Scene::new(PROGRAMS);
    let mut backend = Backend::new();
    let mut agent = Agent::new(&scene, NOBODY.into()).exporting(json!({"otlp": quick(&backend.endpoint())}));
    agent.config["processors"]["batch"] = json!({"timeout": "50ms", "send_batch_size": 50});
    agent.start().await;
    let load = Load::start(&agent, 3, 10, 100, Duration::from_millis(10));
    let (mut kills, mut outages) = (0, 0);
    for round in 1..=10 {
        let before = load.acknowledged();
        eventually("the clients got through", async || {
            let now = load.acknowledged();
            if now >= before + 100 { Ok(()) } else { Err(now.to_string()) }
        })
        .await;
        match round % 3 {
            0 => {
                backend.stop();
                outages += 1;
            }
            1 => backend.start().await,
            _ => {
                agent.process.kill().await;
                agent.start().await;
                kills += 1;
            }
        }
    }
    let ledger = load.stop().await;
    agent.drained().await;
    missing(&ledger, &backend).unwrap();
    let ids = backend.ids();
    let again = ids.len() - ids.iter().collect::<BTreeSet<_>>().len();
    println!("{again} of {} items came again after {kills} kills and {outages} outages", ids.len());
    assert!(again <= (kills + outages) * 3 * 60, "only undecided requests are repeated: {again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_taken_out_holds_its_segments_until_it_is_released() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let nowhere = Backend::new();
    let mut agent = Agent::new(&scene, ground.link)
        .exporting(json!({"link": {}, "otlp/bench": quick(&nowhere.endpoint())}));
    agent.config["processors"]["batch"] = json!({"timeout": "50ms"});
    agent.start().await;
    let mut ledger = Ledger::default();
    fill(&agent, &mut ledger, "a", 6).await;
    agent.open_contact(STATION, json!({})).await;
    ground.exported(ledger.items).await;
    let wal = agent.account().await;
    assert_eq!((wal.delivered.total(), wal.on_board), (0, ledger.items), "the bench has not had them");
    let refused = agent.command(&["wal", "release", "otlp/bench"]).await;
    assert!(refused.code == Some(1) && refused.err.contains("configuration"), "{refused:?}");
    assert!(agent.process.terminate().await.success());

    agent = agent.exporting(json!({"link": {}}));
    let validate = agent.command(&["validate"]).await;
    assert!(validate.code == Some(0), "{validate:?}");
    println!("validate says: {} {}", validate.out, validate.err);
    agent.start().await;
    let status = agent.command(&["status"]).await;
    assert!(status.out.contains("wal release otlp/bench"), "{status:?}");
    assert_eq!(agent.account().await.on_board, ledger.items);
    let released = agent.command(&["wal", "release", "otlp/bench"]).await;
    assert_eq!(released.code, Some(0), "{released:?}");
    agent.drained().await;
    assert_eq!(settle(&mut agent, &mut ground, &ledger).await, 0);
    let status = agent.command(&["status"]).await;
    assert!(!status.out.contains("otlp/bench"), "{status:?}");
}
