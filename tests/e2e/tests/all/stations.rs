//! Several stations, and links that are bad.

use std::sync::Arc;
use std::time::Duration;

use e2e::{Agent, Batch, Ground, Ledger, Load, SATELLITE, STATION, Scene, Sent, eventually};
use ground_station::pki::{Pki, Role};
use linkem::config::Reorder;
use linkem::{Config, Link, Path};
use perigee_shared::env::{Clock, Env};
use perigee_shared::signal::{Counts, Signal};
use serde_json::json;

use crate::{PROGRAMS, items, settle};

/// A satellite that hands everything over in six contacts with two stations in turn. `set_up` is called for each station before it
/// starts, `after` with the number of each pass that is over.
pub(crate) async fn in_turn(
    scene: &Scene,
    set_up: impl Fn(&mut Ground),
    after: impl AsyncFn(usize, &mut [Ground; 2]),
) -> ([Ground; 2], Agent, Ledger) {
    scene.issue(Role::Station, "beijing");
    let mut grounds = [Ground::new(scene), Ground::named(scene, "beijing")];
    for ground in &mut grounds {
        set_up(ground);
        ground.start().await;
    }
    let mut agent = Agent::new(scene, grounds[0].link);
    agent.config["link"]["stations"]["beijing"] = json!({"address": grounds[1].link.to_string()});
    agent.config["processors"]["batch"] = json!({"send_batch_size": 20});
    agent.start().await;
    let mut ledger = Ledger::default();
    for pass in 0..6 {
        for n in 0..8 {
            let batch = Batch::new(Signal::ALL[n % 3], &format!("p{pass}-{n}"), 10, 400);
            agent.accept(&batch).await;
            ledger.note(&batch, &Sent::Acknowledged);
        }
        agent.open_contact([STATION, "beijing"][pass % 2], json!({})).await;
        agent.drained().await;
        agent.close_contact().await;
        after(pass, &mut grounds).await;
    }
    let here = agent.account().await;
    assert_eq!((here.accepted, here.delivered), (ledger.items, ledger.items));
    (grounds, agent, ledger)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stations_in_turn_share_the_segments_and_miss_nothing() {
    let scene = Scene::new(PROGRAMS);
    let (mut grounds, agent, ledger) = in_turn(&scene, |_| (), async |_, _| ()).await;
    let here = agent.account().await;
    // What leans on a segment that the other station has was encoded anew for this one.
    assert!(agent.process.log().contains("re-encoded"), "{}", agent.process.log());
    let mut committed = Counts::default();
    for ground in &mut grounds {
        committed += ground.exported(Counts::default()).await;
        assert!(ground.gaps().await.is_empty(), "what the other station has is no gap");
        let account = ground.accounting_of(SATELLITE).await;
        assert_eq!(items(&account["dropped"]), Counts::default());
        let lanes = ground.lanes().await;
        let elsewhere = lanes.iter().any(|l| !l["elsewhere"].as_array().unwrap().is_empty());
        assert!(elsewhere, "what the other station has is known to be there: {lanes:#?}");
    }
    assert_eq!(committed, here.accepted, "each segment went to one station");
    let (mut arrived, other) = (grounds[0].sink.ids(), grounds[1].sink.ids());
    assert!(arrived.len() > 100 && other.len() > 100, "{} and {}", arrived.len(), other.len());
    other.into_iter().for_each(|(id, n)| *arrived.entry(id).or_default() += n);
    assert_eq!(arrived.len(), ledger.acknowledged.len());
    assert!(arrived.values().all(|n| *n == 1), "no item arrives twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_and_reordering_and_a_thin_return_lose_nothing() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let path = |rate| Path {
        rate: Some(rate),
        delay: Duration::from_millis(20),
        loss: 0.01,
        reorder: Some(Reorder { chance: 0.02, by: Duration::from_millis(5) }),
        ..Path::default()
    };
    let config = Config {
        forward: path(20_000_000),
        back: path(64_000),
        seed: e2e::seed("loss"),
        ..Config::perfect(ground.link)
    };
    let link = Link::start(config).await.unwrap();
    let mut agent = Agent::new(&scene, link.local_addr()).always();
    agent.config["processors"]["batch"] = json!({"send_batch_bytes": "256KiB", "timeout": "100ms"});
    agent.start().await;
    let load = Load::start(&agent, 3, 50, 1_000, Duration::from_millis(50));
    eventually("three thousand items", async || {
        let n = load.acknowledged();
        if n > 3_000 { Ok(()) } else { Err(n.to_string()) }
    })
    .await;
    let ledger = load.stop().await;
    assert_eq!(settle(&mut agent, &mut ground, &ledger).await, 0, "exactly once");
    let stats = link.stats();
    println!("{stats}");
    assert!(stats.forward.dropped.loss > 0 && stats.forward.reordered > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_station_gets_nothing_and_a_list_that_cannot_be_used_ends_no_contact() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let list = scene.path().join("stations.crl");
    let mut agent = Agent::new(&scene, ground.link).always();
    agent.config["link"]["station_crl_file"] = json!(list);
    agent.start().await;
    agent.accept(&Batch::new(Signal::Logs, "without-a-list", 10, 20)).await;
    agent.drained().await;
    assert_eq!(agent.metric("perigee_link_revocation_list_unusable").await, 1, "there is no file");
    agent.process.terminate().await;

    Pki::open(&scene.pki(), &Env::production()).unwrap().revoke(Role::Station, STATION).unwrap();
    std::fs::copy(scene.certificate("station-ca.crl"), &list).unwrap();
    agent.start().await;
    let before = ground.accounting_of(SATELLITE).await["committed"]["log_records"].clone();
    agent.accept(&Batch::new(Signal::Logs, "revoked", 10, 20)).await;
    eventually("the station is refused", async || {
        match agent.metric("perigee_link_failed_attempts_total").await {
            0 | 1 => Err("not tried twice yet".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    assert_eq!(agent.metric("perigee_link_revocation_list_unusable").await, 0);
    assert_eq!(ground.accounting_of(SATELLITE).await["committed"]["log_records"], before);

    // What cannot be used does not take the place of what could.
    std::fs::write(&list, "nobody is revoked").unwrap();
    eventually("the list is found unusable", async || {
        match agent.metric("perigee_link_revocation_list_unusable").await {
            1 => Ok(()),
            n => Err(n.to_string()),
        }
    })
    .await;
    assert_eq!(ground.accounting_of(SATELLITE).await["committed"]["log_records"], before);
    agent.process.terminate().await;

    // One that has expired is used at the start all the same, which `validate` names and an alarm says.
    let mut past = Env::production();
    past.clock = Arc::new(LongAgo);
    let mut pki = Pki::open(&scene.pki(), &past).unwrap();
    pki.issue(Role::Station, "another", 1).unwrap();
    // The new list has both.
    pki.revoke(Role::Station, "another").unwrap();
    std::fs::copy(scene.certificate("station-ca.crl"), &list).unwrap();
    let exit = agent.command(&["validate"]).await;
    assert_eq!(exit.code, Some(0));
    let said = exit.out + &exit.err;
    assert!(said.contains("stations.crl ended at 2011-09-"), "{said}");
    agent.start().await;
    eventually("the station is refused", async || {
        match agent.metric("perigee_link_failed_attempts_total").await {
            0 | 1 => Err("not tried twice yet".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    assert_eq!(agent.metric("perigee_link_revocation_list_unusable").await, 1);
    assert_eq!(ground.accounting_of(SATELLITE).await["committed"]["log_records"], before);
    assert!(agent.process.take_log().contains("station_crl_file has expired"));
}

/// A clock in 2001.
struct LongAgo;

impl Clock for LongAgo {
    fn unix_nano(&self) -> u64 {
        1_000_000_000_000_000_000
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_are_renewed_are_used_without_a_restart_and_antennas_share_a_ledger() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let mut agent = Agent::new(&scene, ground.link);
    let address = ground.link.to_string();
    agent.config["link"]["stations"] = json!({
        "dish-1": {"address": address, "server_name": STATION},
        "dish-2": {"address": address},
    });
    agent.start().await;
    let mut ledger = Ledger::default();
    let mut send = async |agent: &Agent, name: &str| {
        let batch = Batch::new(Signal::Logs, name, 10, 100);
        agent.accept(&batch).await;
        ledger.note(&batch, &Sent::Acknowledged);
    };
    send(&agent, "a").await;
    agent.open_contact("dish-1", json!({})).await;
    agent.drained().await;
    agent.close_contact().await;

    send(&agent, "b").await;
    agent.open_contact("dish-2", json!({})).await;
    eventually("the certificate does not have that name", async || {
        let status = agent.status().await;
        let error = status["link"]["last_error"].as_str().unwrap_or_default().to_owned();
        error.contains("dish-2").then_some(()).ok_or(error)
    })
    .await;
    let files =
        ["station-svalbard.crt", "station-svalbard.key", "satellite-sat-1.crt", "satellite-sat-1.key"];
    for file in files {
        std::fs::rename(scene.certificate(file), scene.certificate(&format!("{file}.old"))).unwrap();
    }
    let pki = Pki::open(&scene.pki(), &Env::production()).unwrap();
    let mut pki = pki.also_named(vec!["dish-2".to_owned()]).unwrap();
    pki.issue(Role::Station, STATION, 7).unwrap();
    pki.issue(Role::Satellite, SATELLITE, 7).unwrap();
    agent.drained().await;
    for text in [ground.metrics().await, agent_metrics(&agent).await] {
        let line = text.lines().find(|l| l.starts_with("perigee_link_certificate_expiry_timestamp_seconds "));
        let end: u64 = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        let left = end - e2e::now_nano() / 1_000_000_000;
        assert!((6 * 86_400..8 * 86_400).contains(&left), "the new certificate ends in {left} s");
    }
    assert_eq!(settle(&mut agent, &mut ground, &ledger).await, 0);
}

async fn agent_metrics(agent: &Agent) -> String {
    e2e::wire::get(&e2e::wire::Target::tcp(agent.metrics), "/metrics").await
}
