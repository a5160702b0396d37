//! `wal recode`: what leans on a segment that the ground has is made to lean on nothing, on board, by a running agent and without.

use e2e::{Agent, Batch, Ground, Ledger, STATION, Scene, Sent, eventually};
use perigee_shared::signal::Signal;
use serde_json::{Value, json};

use crate::{PROGRAMS, settle};

async fn accept(agent: &Agent, ledger: &mut Ledger, name: &str, requests: usize) {
    for n in 0..requests {
        let batch = Batch::new(Signal::ALL[n % 3], &format!("{name}{n}"), 40, 100);
        agent.accept(&batch).await;
        ledger.note(&batch, &Sent::Acknowledged);
    }
}

/// Segments on board, as `wal inspect` shows them, once there are some that lean on another.
async fn leaning(agent: &Agent) -> Vec<Value> {
    eventually("segments lean on another", async || {
        let wal = agent.ask(http::Method::GET, "/wal/inspect", None).await?;
        let segments = wal["segments"].as_array().cloned().unwrap_or_default();
        let leans = |s: &Value| s["base_sequence"].is_u64();
        if !segments.is_empty() && segments.iter().all(leans) { Ok(segments) } else { Err(wal.to_string()) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_that_lean_on_another_are_encoded_anew_on_request_and_arrive() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let mut agent = Agent::new(&scene, ground.link);
    agent.config["processors"]["batch"] = json!({"timeout": "50ms", "send_batch_bytes": "16KiB"});
    agent.start().await;
    let mut ledger = Ledger::default();
    agent.open_contact(STATION, json!({})).await;
    accept(&agent, &mut ledger, "a", 12).await;
    agent.drained().await;
    agent.close_contact().await;

    accept(&agent, &mut ledger, "b", 12).await;
    let segments = leaning(&agent).await;
    let one = format!("{}/{}", segments[0]["lane"], segments[0]["sequence"]);
    let done = agent.command(&["wal", "recode", &one]).await;
    assert!(done.code == Some(0) && done.out.contains("1 re-encoded"), "{done:?}");
    let again = agent.command(&["wal", "recode", &one, "--json"]).await;
    let report: Value = serde_json::from_str(&again.out).unwrap();
    assert_eq!((&report["unchanged"], &report["refused"]), (&json!(1), &json!([])), "{again:?}");
    let all = agent.command(&["wal", "recode", "--lane", "bulk"]).await;
    assert_eq!(all.code, Some(0), "{all:?}");
    for (arguments, why) in [
        (&["8/9999"][..], "not on board"),
        (&["8-1"], "LANE/SEQUENCE"),
        (&["--lane", "nowhere"], "no lane"),
        (&["--all", "--codec", "zip"], "zstd_rows"),
        (&[], "SEGMENT"),
    ] {
        let refused = agent.command(&[&["wal", "recode"], arguments].concat()).await;
        let said = format!("{}{}", refused.out, refused.err);
        assert!(refused.code != Some(0) && said.contains(why), "{refused:?}");
    }

    assert!(agent.process.terminate().await.success());
    let rows = agent.command(&["wal", "recode", "--all", "--codec", "zstd_rows"]).await;
    assert!(rows.code == Some(0) && !rows.out.contains("0 re-encoded"), "{rows:?}");
    agent.start().await;
    let wal = agent.ask(http::Method::GET, "/wal/inspect", None).await.unwrap();
    for segment in wal["segments"].as_array().unwrap() {
        assert_eq!((&segment["codec"], &segment["base_sequence"]), (&json!(1), &Value::Null), "{segment}");
    }
    agent.open_contact(STATION, json!({})).await;
    agent.drained().await;
    assert_eq!(settle(&mut agent, &mut ground, &ledger).await, 0);
}
