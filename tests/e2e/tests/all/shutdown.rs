//! SIGTERM: what was acknowledged stays, the end comes soon, and so does the next start.

use std::time::Duration;

use e2e::{Agent, Ground, Load, Process, STATION, Scene, eventually};
use serde_json::json;
use tokio::time::Instant;

use crate::{PROGRAMS, settle};

/// The longest that an end under load, or a start, may take here.
const SOON: Duration = Duration::from_secs(8);

async fn end(process: &mut Process) {
    let begun = Instant::now();
    let status = process.terminate().await;
    assert_eq!(status.code(), Some(0), "{}", process.log());
    assert!(begun.elapsed() < SOON, "it took {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_in_the_middle_of_everything_loses_nothing() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    let mut agent = Agent::new(&scene, ground.link);
    agent.config["processors"]["batch"] = json!({"send_batch_size": 50, "timeout": "50ms"});
    ground.start().await;
    agent.start().await;
    agent.open_contact(STATION, json!({})).await;
    let load = Load::start(&agent, 3, 10, 300, Duration::from_millis(5));
    for round in 0..6 {
        let before = load.acknowledged();
        eventually("the clients get through", async || {
            let now = load.acknowledged();
            if now > before + 100 { Ok(()) } else { Err(now.to_string()) }
        })
        .await;
        let begun = if round % 2 == 0 {
            end(&mut agent.process).await;
            let begun = Instant::now();
            agent.start().await;
            begun
        } else {
            end(&mut ground.process).await;
            let begun = Instant::now();
            ground.start().await;
            begun
        };
        assert!(begun.elapsed() < SOON, "the start took {:?}", begun.elapsed());
        agent.open_contact(STATION, json!({})).await;
    }
    let ledger = load.stop().await;
    let again = settle(&mut agent, &mut ground, &ledger).await;
    assert_eq!(again, 0, "an orderly end leaves no request undecided");
    end(&mut agent.process).await;
    end(&mut ground.process).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigint_ends_too_and_a_second_start_finds_nothing_to_repair() {
    let scene = Scene::new(PROGRAMS);
    let mut agent = Agent::new(&scene, ([127, 0, 0, 1], 9).into());
    for _ in 0..2 {
        agent.start().await;
        agent.process.signal(nix::sys::signal::Signal::SIGINT);
        assert_eq!(agent.process.wait().await.code(), Some(0));
    }
    let repaired = |agent: &Agent| agent.process.log().contains("did not close the file");
    assert!(!repaired(&agent), "{}", agent.process.log());
    agent.start().await;
    agent.process.kill().await;
    agent.start().await;
    assert!(repaired(&agent), "a start after kill -9 says so: {}", agent.process.log());
}
