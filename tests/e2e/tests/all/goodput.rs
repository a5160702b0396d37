//! A contact with a rate, over an emulated link and with real processes: what `bench link` says of a low orbit, on this machine.

use std::net::SocketAddr;
use std::time::Duration;

use e2e::{Agent, Batch, Ground, SATELLITE, STATION, Scene, eventually, free_port};
use linkem::{Config, Link, Path, Schedule};
use perigee_shared::signal::Signal;
use serde_json::json;

use crate::PROGRAMS;

const RATE: u64 = 20_000_000;
const DELAY: Duration = Duration::from_millis(20);
const CONTACT: Duration = Duration::from_secs(15);

/// Raw bytes that do not fit in the contact, whatever they compress to.
const BATCHES: usize = 90;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contact_of_a_known_rate_is_filled_though_packets_are_lost() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let path = |rate, loss| Path { rate: Some(rate), overhead: 0, delay: DELAY, loss, ..Path::default() };
    let config = Config {
        listen: SocketAddr::from(([127, 0, 0, 1], free_port())),
        forward: path(RATE, 0.001),
        back: path(1_000_000, 0.001),
        schedule: Schedule::windows(&[(Duration::ZERO, CONTACT)]).unwrap(),
        seed: e2e::seed("goodput"),
        ..Config::perfect(ground.link)
    };
    let mut agent = Agent::new(&scene, config.listen);
    agent.start().await;
    for n in 0..BATCHES {
        agent.accept(&Batch::new(Signal::ALL[n % 3], &format!("g{n}"), 100, 8_000)).await;
    }
    // AOS, and LOS when the link's schedule says so.
    let link = Link::start(config).await.unwrap();
    let contact = json!({"rate_down": RATE, "rate_up": 1_000_000, "seconds": CONTACT.as_secs_f64()});
    agent.open_contact(STATION, contact).await;
    link.wait_down().await;
    let report = eventually("the pass is reported", async || {
        let report = agent.ask(http::Method::GET, "/contact/report", None).await?;
        report["passes"].get(0).cloned().ok_or_else(|| report.to_string())
    })
    .await;
    assert!((0.0..=1.0).contains(&report["efficiency"].as_f64().unwrap()), "{report}");
    println!("the pass report: {report}");
    let left = agent.account().await.on_board;
    assert!(left.total() > 0, "there was more than the contact carries");
    let committed = ground.accounting_of(SATELLITE).await["bytes"].as_u64().unwrap();
    let arrived = link.stats().forward.delivered_bytes;
    let held = eventually("what has arrived is held", async || {
        let held = committed.max(ground.accounting_of(SATELLITE).await["bytes"].as_u64().unwrap_or(0))
            + ground.held_bytes().await;
        if held >= arrived * 93 / 100 { Ok(held) } else { Err(format!("{held} of {arrived}")) }
    })
    .await;
    let goodput = held as f64 * 8.0 / (RATE as f64 * CONTACT.as_secs_f64());
    println!("LEO 20 Mbit/s, 40 ms, 0.1 % loss, real processes: {:.1} % of the link rate", goodput * 100.0);
    assert!(goodput > 0.85, "{goodput}");
}
