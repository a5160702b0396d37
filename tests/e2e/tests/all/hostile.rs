//! One satellite of the list was taken over: it hurts only itself.

use std::time::Duration;

use e2e::hostile::{Attack, Peer, attack, epoch};
use e2e::{Ground, SATELLITE, Scene};
use ground_station::pki::Role;
use serde_json::json;

use crate::PROGRAMS;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_listed_satellite_sends_the_others_go_on() {
    let scene = Scene::new(PROGRAMS);
    // Each attack by a satellite of its own, since one that has used up its part is not heard any more.
    let names: Vec<String> = (0..Attack::ALL.len()).map(|n| format!("taken-over-{n}")).collect();
    names.iter().for_each(|name| scene.issue(Role::Satellite, name));
    let mut ground = Ground::new(&scene);
    for name in &names {
        ground.config["link"]["satellites"][name] = json!({});
    }
    ground.config["link"]["max_connections"] = json!(8);
    ground.start().await;
    let mut sequence = 0;
    for ((kind, what), name) in Attack::ALL.into_iter().zip(&names) {
        let attacking = async {
            for _ in 0..2 {
                // That the link is closed is what is to happen.
                let once =
                    tokio::time::timeout(Duration::from_secs(5), attack(&scene, name, ground.link, kind));
                if let Ok(ended) = once.await {
                    println!("{what}: {ended:?}");
                }
            }
        };
        let honest = async {
            let mut peer = Peer::connect(&scene, SATELLITE, ground.link).await.unwrap();
            peer.hello(vec![epoch(1)]).await.unwrap();
            let mut slowest = Duration::ZERO;
            for _ in 0..20 {
                sequence += 1;
                slowest = slowest.max(peer.commit(1, sequence).await.unwrap());
            }
            slowest
        };
        let ((), slowest) = tokio::join!(attacking, honest);
        println!("{what}: the slowest commit of the other took {slowest:?}");
        ground.process.must_run().unwrap();
    }
    let account = ground.accounting_of(SATELLITE).await;
    assert_eq!(account["committed"]["spans"], sequence * 10, "{account:#}");
    ground.process.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_satellite_has_two_links_at_most_whatever_slots_it_names() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let mut peers = Vec::new();
    for slot in [0, 1, 2, 7, u32::MAX] {
        let mut peer = Peer::connect(&scene, SATELLITE, ground.link).await.unwrap();
        peer.hello_in(slot, vec![epoch(1)]).await.unwrap();
        peers.push(peer);
    }
    // Each slot beyond the second takes the place of the one before it.
    for peer in &peers[1..4] {
        peer.closed().await;
    }
    let satellites = ground.ask("/api/v1/satellites").await.unwrap();
    assert_eq!(satellites[0]["link"]["contacts"], 2, "{satellites:#}");
    for (sequence, peer) in [1, 2].into_iter().zip([0, 4]) {
        peers[peer].commit(1, sequence).await.unwrap();
    }
    let account = ground.accounting_of(SATELLITE).await;
    assert_eq!(account["committed"]["spans"], 20, "{account:#}");
    ground.process.terminate().await;
}
