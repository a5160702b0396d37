//! A store that is full, on board and on the ground: what is dropped is counted, with its reason and its time, and shown.

use std::collections::BTreeMap;

use e2e::{Agent, Batch, Ground, Ledger, SATELLITE, STATION, Scene, Sent, eventually, now_nano};
use perigee_shared::signal::{Counts, Signal};
use serde_json::{Value, json};

use crate::{PROGRAMS, items, settle};

/// Logs a second apart, each request 32 KiB that no codec makes smaller.
fn requests(count: u64) -> Vec<Batch> {
    let start = now_nano() - count * 1_000_000_000;
    let request = |n| Batch {
        time_unix_nano: start + n * 1_000_000_000,
        ..Batch::new(Signal::Logs, &format!("f{n}"), 4, 8_000)
    };
    (0..count).map(request).collect()
}

struct Full {
    agent: Agent,
    ground: Ground,
    ledger: Ledger,
    times: BTreeMap<String, u64>,
    _scene: Scene,
}

/// An agent with a budget of 1 MiB that was sent 4 MiB, without contact.
async fn overfill(when_full: &str) -> Full {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let mut agent = Agent::new(&scene, ground.link);
    agent.config["storage"]["max_bytes"] = json!("1MiB");
    agent.config["storage"]["when_full"] = json!(when_full);
    agent.config["processors"]["batch"] = json!({"send_batch_bytes": "64KiB"});
    agent.start().await;
    let (mut ledger, mut times) = (Ledger::default(), BTreeMap::new());
    for batch in requests(128) {
        let sent = agent.send(&batch).await;
        assert!(!matches!(sent, Sent::Undecided(_)), "{sent:?}");
        ledger.note(&batch, &sent);
        times.extend(batch.ids.iter().map(|id| (id.clone(), batch.time_unix_nano)));
    }
    Full { agent, ground, ledger, times, _scene: scene }
}

/// What is missing is on the ground as gaps of `reason`, item by item and second by second.
async fn drops_are_shown(mut f: Full, reason: &str) {
    let before = f.agent.account().await;
    assert_eq!(before.accepted, f.ledger.items, "with this policy everything is taken");
    assert!(before.dropped[Signal::Logs] > 200, "{before:?}");
    f.agent.process.kill().await;
    f.agent.start().await;
    assert_eq!(f.agent.account().await, before, "a crash changes no count");
    f.agent.open_contact(STATION, json!({})).await;
    settle(&mut f.agent, &mut f.ground, &f.ledger).await;

    let account = f.ground.accounting_of(SATELLITE).await;
    let dropped = items(&account["dropped_by_reason"][reason]);
    assert_eq!(dropped, f.agent.account().await.dropped, "{account:#}");
    assert_eq!(account["dropped_by_reason"].as_object().unwrap().len(), 1, "{account:#}");
    let gaps = f.ground.gaps().await;
    let sum: Counts = gaps.iter().map(|g| items(&g["items"])).sum();
    assert_eq!(sum, dropped, "{gaps:#?}");
    let range = |g: &Value| (g["start_unix_nano"].as_u64().unwrap(), g["end_unix_nano"].as_u64().unwrap());
    for gap in &gaps {
        assert!(gap["reason"] == reason && gap["unknown"] == false, "{gap:#}");
        let (start, end) = range(gap);
        assert!(start > 0 && start <= end, "{gap:#}");
    }
    let arrived = f.ground.sink.ids();
    for (id, time) in f.times.iter().filter(|(id, _)| !arrived.contains_key(*id)) {
        let covered = gaps.iter().any(|g| (range(g).0..=range(g).1).contains(time));
        assert!(covered, "{id} is missing and in no gap's time range: {gaps:#?}");
    }
    let lanes = f.ground.lanes().await;
    assert!(lanes.iter().all(|l| l["elsewhere"] == json!([])), "a drop is not elsewhere: {lanes:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_oldest_keeps_the_newest_and_shows_the_rest_as_gaps() {
    let f = overfill("drop_oldest").await;
    drops_are_shown(f, "quota_oldest").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_newest_keeps_the_oldest_and_shows_the_rest_as_gaps() {
    let f = overfill("drop_newest").await;
    drops_are_shown(f, "quota_newest").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refuse_refuses_for_now_and_drops_nothing() {
    let mut f = overfill("refuse").await;
    assert!(f.ledger.refused.len() > 200 && !f.ledger.acknowledged.is_empty());
    let account = f.agent.account().await;
    assert_eq!((account.accepted, account.dropped), (f.ledger.items, Counts::default()));
    f.agent.open_contact(STATION, json!({})).await;
    f.agent.drained().await;
    let batch = Batch::new(Signal::Traces, "after", 3, 0);
    f.agent.accept(&batch).await;
    f.ledger.note(&batch, &Sent::Acknowledged);
    settle(&mut f.agent, &mut f.ground, &f.ledger).await;
    assert!(f.ground.gaps().await.is_empty());
}

/// A ground whose spool is full, since its backend is down, and an agent with more on board.
async fn full_ground(scene: &Scene, when_full: &str) -> (Agent, Ground, Ledger) {
    let mut ground = Ground::new(scene);
    ground.config["storage"]["max_bytes"] = json!("1MiB");
    ground.config["link"]["max_connections"] = json!(1);
    ground.config["link"]["partial_sync_bytes"] = json!("64KiB");
    ground.config["link"]["receive_window"] = json!("64KiB");
    let retry = json!({"initial_interval": "1s", "max_interval": "1s"});
    ground.config["exporters"]["otlp"] = json!({"endpoint": "http://127.0.0.1:9", "retry_on_failure": retry});
    ground.config["service"]["pipelines"]["logs"]["exporters"] = json!(["otlp", "file/logs"]);
    ground.start().await;
    let mut agent = Agent::new(scene, ground.link);
    agent.config["processors"]["batch"] = json!({"send_batch_bytes": "64KiB"});
    agent.config["storage"]["max_bytes"] = json!("7MiB");
    agent.config["storage"]["when_full"] = json!(when_full);
    agent.start().await;
    let mut ledger = Ledger::default();
    for batch in requests(200) {
        agent.accept(&batch).await;
        ledger.note(&batch, &Sent::Acknowledged);
    }
    agent.open_contact(STATION, json!({})).await;
    let metric = |text: &str| text.lines().any(|l| l.starts_with("perigee_spool_full") && l.ends_with(" 1"));
    eventually("the spool is full", async || {
        let text = ground.metrics().await;
        if metric(&text) { Ok(()) } else { Err(text) }
    })
    .await;
    (agent, ground, ledger)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_holds_the_link_and_drops_nothing() {
    let scene = Scene::new(PROGRAMS);
    let (mut agent, mut ground, ledger) = full_ground(&scene, "refuse").await;
    let spool = ground.ask("/api/v1/spool").await.unwrap();
    assert!(spool["used_bytes"].as_u64() <= spool["max_bytes"].as_u64(), "{spool:#}");
    // Though nothing is read, a contact ends when it is to end, and so does the program.
    agent.close_contact().await;
    agent.open_contact(STATION, json!({})).await;
    let begun = tokio::time::Instant::now();
    assert!(agent.process.terminate().await.success());
    assert!(begun.elapsed().as_secs() < 8, "it took {:?} to end", begun.elapsed());
    agent.start().await;
    agent.open_contact(STATION, json!({})).await;

    assert!(ground.process.terminate().await.success());
    ground.config["service"]["pipelines"]["logs"]["exporters"] = json!(["file/logs"]);
    ground.start().await;
    agent.open_contact(STATION, json!({})).await;
    settle(&mut agent, &mut ground, &ledger).await;
    assert!(ground.gaps().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contact_with_a_full_ground_ends_also_while_the_agent_reports_drops() {
    let scene = Scene::new(PROGRAMS);
    let (mut agent, mut ground, mut ledger) = full_ground(&scene, "drop_oldest").await;
    let mut n = 0;
    while agent.account().await.dropped == Counts::default() {
        let batch = Batch::new(Signal::Logs, &format!("more{n}"), 4, 8_000);
        agent.accept(&batch).await;
        ledger.note(&batch, &Sent::Acknowledged);
        n += 1;
    }
    agent.close_contact().await;
    agent.open_contact(STATION, json!({})).await;
    assert!(agent.process.terminate().await.success());
    agent.start().await;
    assert!(ground.process.terminate().await.success());
    ground.config["service"]["pipelines"]["logs"]["exporters"] = json!(["file/logs"]);
    ground.start().await;
    agent.open_contact(STATION, json!({})).await;
    settle(&mut agent, &mut ground, &ledger).await;
    let gaps: Counts = ground.gaps().await.iter().map(|g| items(&g["items"])).sum();
    assert_eq!(gaps, agent.account().await.dropped);
}
