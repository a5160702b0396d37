//! Lanes: what is urgent overtakes what is not, and nothing is lost on the way.

use std::time::Duration;

use e2e::{Agent, Batch, Ground, Ledger, STATION, Scene, Sent, eventually};
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
