//! A plan that turns thinner: what was sealed for the wide one goes in pieces, and waits for what a pass finishes.

use std::time::Duration;

use e2e::{Agent, Batch, Ground, Ledger, STATION, Scene, Sent, eventually};
use linkem::{Config, Link, Path};
use perigee_shared::signal::Signal;
use serde_json::json;

use crate::{PROGRAMS, settle};

/// Passes of three seconds at this rate carry 96,000 bytes.
const RATE: u64 = 256_000;
const PASS: f64 = 3.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_for_a_wide_plan_goes_in_pieces_when_that_turns_thin_and_smaller_ones_do_not_wait_for_it() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.config["link"]["partial_sync_interval"] = json!("200ms");
    ground.start().await;
    let path = Path { rate: Some(RATE), delay: Duration::from_millis(20), ..Path::default() };
    let config = Config { forward: path.clone(), back: path, ..Config::perfect(ground.link) };
    let link = Link::start(config).await.unwrap();
    let mut agent = Agent::new(&scene, link.local_addr());
    agent.config["processors"]["batch"] = json!({"send_batch_bytes": "350KiB", "timeout": "200ms"});
    agent.start().await;
    let mut ledger = Ledger::default();
    let accept = async |agent: &Agent, ledger: &mut Ledger, name: &str, items: usize| {
        let batch = Batch::new(Signal::Logs, name, items, 2_000);
        agent.accept(&batch).await;
        ledger.note(&batch, &Sent::Acknowledged);
    };
    accept(&agent, &mut ledger, "large", 180).await;
    eventually("a segment is sealed", async || {
        let inspect = agent.inspect().await;
        let sealed = inspect["segments"].as_array().is_some_and(|segments| !segments.is_empty());
        sealed.then_some(()).ok_or_else(|| inspect.to_string())
    })
    .await;
    let large = agent.inspect().await["segments"][0]["payload_bytes"].as_u64().unwrap();
    assert!(large > 3 * 96_000, "{large}");

    let on_board = async |agent: &Agent| {
        let inspect = agent.inspect().await;
        let sequences =
            inspect["segments"].as_array().unwrap().iter().map(|s| s["sequence"].as_u64().unwrap());
        sequences.collect::<Vec<u64>>()
    };
    let pass = async |agent: &Agent| {
        agent.open_contact(STATION, json!({"rate_down": RATE, "seconds": PASS})).await;
        eventually("the pass is over", async || {
            let status = agent.ask(http::Method::GET, "/status", None).await?;
            let is_over = status["contact"].is_null() && status["link"]["state"] == "down";
            is_over.then_some(()).ok_or_else(|| status["link"].to_string())
        })
        .await;
    };
    let mut held = Vec::new();
    for n in 0..2 {
        // It is in the journal, and sealed when the pass has begun.
        accept(&agent, &mut ledger, &format!("small{n}-"), 4).await;
        pass(&agent).await;
        held.push(ground.held_bytes().await);
        assert_eq!(on_board(&agent).await, [1], "the small ones are there, the large one is not");
    }
    while !on_board(&agent).await.is_empty() {
        assert!(held.len() < 12, "{held:?} of {large}");
        pass(&agent).await;
        held.push(ground.held_bytes().await);
    }
    println!("{large} bytes, of which the ground held {held:?} after each pass");
    assert!(held.len() >= 3 && held.windows(2).all(|pair| pair[0] < pair[1] || pair[1] == 0), "{held:?}");
    let resent = agent.metric("perigee_link_resent_bytes_total").await;
    // What QUIC had and the ground had not at each LOS.
    assert!(resent <= held.len() as u64 * (64 << 10), "{resent}");
    assert_eq!(settle(&mut agent, &mut ground, &ledger).await, 0, "exactly once");
}
