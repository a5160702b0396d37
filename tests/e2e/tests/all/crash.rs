//! kill -9 of either side at random moments: nothing that was acknowledged is lost, nothing is committed twice.

use std::time::Duration;

use e2e::{Agent, Ground, Load, STATION, Scene, seed};
use linkem::{Config, Link, Path};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::{PROGRAMS, settle};

const ROUNDS: u32 = 50;

/// Items that one undecided export request may repeat: those of a segment.
const SEGMENT_ITEMS: u64 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_either_side_at_random_moments_loses_and_repeats_nothing() {
    let mut random = SmallRng::seed_from_u64(seed("kill -9"));
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.config["link"]["partial_sync_bytes"] = json!("64KiB");
    // Slow enough that there is always something on its way.
    let path = Path { rate: Some(16_000_000), delay: Duration::from_millis(10), ..Path::default() };
    let config = Config { forward: path.clone(), back: path, ..Config::perfect(ground.link) };
    let link = Link::start(config).await.unwrap();
    let mut agent = Agent::new(&scene, link.local_addr());
    // Many segments: a crash finds one being sealed and one being sent.
    agent.config["processors"]["batch"] =
        json!({"send_batch_size": SEGMENT_ITEMS / 2, "timeout": "50ms", "max_hold_back": "256KiB"});
    ground.start().await;
    agent.start().await;
    agent.open_contact(STATION, json!({})).await;
    let load = Load::start(&agent, 3, 10, 2_000, Duration::from_millis(40));
    let (mut agents, mut grounds) = (0, 0);
    for round in 1..=ROUNDS {
        // Not a wait for anything: the moment is random, and now and then it lies within a start.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..700))).await;
        let (kill_agent, kill_ground) = match random.random_range(0..5) {
            0 | 1 => (true, false),
            2 | 3 => (false, true),
            _ => (true, true),
        };
        if kill_ground {
            ground.process.kill().await;
            ground.start_only();
            grounds += 1;
        }
        if kill_agent {
            agent.process.kill().await;
            agent.start_only();
            agents += 1;
        }
        if random.random_bool(0.8) {
            ground.ready().await;
            agent.ready().await;
            agent.open_contact(STATION, json!({})).await;
        }
        if round % 10 == 0 {
            println!("round {round}: {} items acknowledged", load.acknowledged());
        }
    }
    ground.ready().await;
    agent.ready().await;
    agent.open_contact(STATION, json!({})).await;
    let ledger = load.stop().await;
    println!(
        "{agents} agents and {grounds} grounds were killed; {} items acknowledged",
        ledger.items.total()
    );
    assert!(ledger.items.total() > 1_000, "the clients got through");
    let again = settle(&mut agent, &mut ground, &ledger).await;
    println!("{again} items at the sink a second time");
    assert!(again <= grounds * 3 * SEGMENT_ITEMS, "{again} items at the sink again after {grounds} crashes");
}
