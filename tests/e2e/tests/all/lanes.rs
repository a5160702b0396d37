//! Lanes: what is urgent overtakes what is not, and nothing is lost on the way.

use std::time::Duration;

use e2e::{Agent, Batch, Ground, Grpc, Ledger, STATION, Scene, Sent, eventually};
use linkem::{Config, Link, Path};
use perigee_shared::signal::Signal;
use serde_json::json;
use tokio::time::Instant;

use crate::{PROGRAMS, settle};

const ERROR: i32 = 17;

fn with_alarms(agent: &mut Agent) {
    agent.config["lanes"] = json!({
        "alarms": {"number": 1, "match": [{"severity": "error"}], "order": "newest_first", "timeout": "0s"},
        "bulk": {"share": "20%"},
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_raised_in_contact_is_on_the_ground_within_two_seconds_while_bulk_is_flowing() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let path = Path { rate: Some(1_000_000), delay: Duration::from_millis(20), ..Path::default() };
    let config = Config { forward: path.clone(), back: path, ..Config::perfect(ground.link) };
    let link = Link::start(config).await.unwrap();
    let mut agent = Agent::new(&scene, link.local_addr());
    with_alarms(&mut agent);
    agent.start().await;
    for n in 0..6 {
        agent.accept(&Batch::new(Signal::Logs, &format!("bulk{n}"), 50, 10_000)).await;
    }
    agent.open_contact(STATION, json!({"rate_down": 1_000_000})).await;
    eventually("bulk is flowing", async || {
        let held = ground.held_bytes().await;
        if held > 100_000 { Ok(()) } else { Err(held.to_string()) }
    })
    .await;
    let mut slowest = Duration::ZERO;
    for n in 0..3 {
        let alarm = Batch { severity: ERROR, ..Batch::new(Signal::Logs, &format!("alarm{n}"), 2, 100) };
        let raised = Instant::now();
        agent.accept(&alarm).await;
        eventually("the alarm is on the ground", async || {
            let arrived = ground.sink.ids();
            if alarm.ids.iter().all(|id| arrived.contains_key(id)) { Ok(()) } else { Err("not yet".into()) }
        })
        .await;
        slowest = slowest.max(raised.elapsed());
    }
    println!("the slowest of three alarms took {slowest:?}");
    assert!(slowest < Duration::from_millis(2_020), "{slowest:?}");
    assert!(agent.account().await.on_board[Signal::Logs] > 100, "bulk is still flowing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_split_into_lanes_arrive_whole_through_restarts_and_other_rules() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let mut agent = Agent::new(&scene, ground.link);
    let mut ledger = Ledger::default();
    for round in 0..3 {
        match round {
            0 => with_alarms(&mut agent),
            1 => {
                agent.config["lanes"]["notes"] =
                    json!({"number": 9, "match": [{"metric": "battery.*"}, {"signal": "traces"}]})
            }
            _ => agent.config["lanes"] = json!({}),
        }
        agent.start().await;
        for n in 0..9 {
            let name = format!("r{round}-{n}");
            let batch = Batch { severity: [9, ERROR][n % 2], ..Batch::new(Signal::ALL[n % 3], &name, 7, 50) };
            agent.accept(&batch).await;
            ledger.note(&batch, &Sent::Acknowledged);
        }
        assert_eq!(agent.account().await.on_board, ledger.items);
        if round < 2 {
            agent.process.kill().await;
        }
    }
    agent.open_contact(STATION, json!({})).await;
    assert_eq!(settle(&mut agent, &mut ground, &ledger).await, 0);
    let lanes: Vec<u64> = ground.lanes().await.iter().map(|l| l["lane"].as_u64().unwrap()).collect();
    assert!([1, 8, 9].iter().all(|lane| lanes.contains(lane)), "{lanes:?}");
}

/// Alarms without end, more than the link takes, until it is told to stop.
fn flood(grpc: u16) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let client = Grpc::new(grpc);
        for n in 0.. {
            let alarms =
                Batch { severity: ERROR, ..Batch::new(Signal::Logs, &format!("flood{n}"), 10, 10_000) };
            // It ends with the agent.
            if client.send(&alarms).await.is_err() {
                return;
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_keeps_its_share_while_alarms_fill_the_link() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let path = Path { rate: Some(4_000_000), delay: Duration::from_millis(5), ..Path::default() };
    let config = Config { forward: path.clone(), back: path, ..Config::perfect(ground.link) };
    let link = Link::start(config).await.unwrap();
    let mut agent = Agent::new(&scene, link.local_addr());
    with_alarms(&mut agent);
    agent.config["lanes"]["bulk"]["share"] = json!("40%");
    agent.config["lanes"]["alarms"]["quota"] = json!("32MiB");
    agent.config["processors"]["batch"] = json!({"send_batch_bytes": "128KiB"});
    agent.start().await;
    let flood = flood(agent.grpc);
    let alarms_wait = async || {
        let status = agent.ask(http::Method::GET, "/status", None).await?;
        let alarms = status["lanes"].as_array().and_then(|l| l.iter().find(|l| l["name"] == "alarms"));
        let bytes = alarms.and_then(|l| l["segment_bytes"].as_u64()).unwrap_or(0);
        if bytes > 4 << 20 { Ok(()) } else { Err(status["lanes"].to_string()) }
    };
    eventually("more alarms wait than fit in ten seconds", alarms_wait).await;
    agent.open_contact(STATION, json!({"rate_down": 4_000_000})).await;
    let bulk = Batch::new(Signal::Logs, "bulk", 50, 10_000);
    agent.accept(&bulk).await;
    eventually("bulk has arrived", async || {
        let arrived = ground.sink.ids();
        let missing = bulk.ids.iter().filter(|id| !arrived.contains_key(*id)).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} are missing of {}", arrived.len())) }
    })
    .await;
    alarms_wait().await.expect("alarms still fill the link");
    flood.abort();
}
