//! Stations that share a ledger in PostgreSQL. On a machine without it these tests pass over themselves and say so.

use std::collections::BTreeMap;
use std::time::Duration;

use e2e::{Agent, Ground, Load, SATELLITE, STATION, Scene, eventually};
use fleet::Postgres;
use perigee_shared::signal::Counts;
use serde_json::json;

use crate::stations::in_turn;
use crate::{PROGRAMS, items, settle};

/// Puts a station's ledger into a database.
fn share(ground: &mut Ground, server: &Postgres, database: &str) {
    let storage = ground.config["storage"].as_object_mut().unwrap();
    storage.insert("kind".to_owned(), json!("postgres"));
    storage.insert("hosts".to_owned(), json!([server.host()]));
    storage.insert("database".to_owned(), json!(database));
    storage.insert("user".to_owned(), json!(server.user()));
    storage.insert("replication".to_owned(), json!("none"));
    storage.insert("lease".to_owned(), json!("2s"));
}

/// How often each item arrived, at all stations' backends together.
fn arrived(grounds: &[Ground]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (id, n) in grounds.iter().flat_map(|ground| ground.sink.ids()) {
        *all.entry(id).or_default() += n;
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_station_on_postgresql_is_killed_and_its_server_too_and_items_arrive_once() {
    let Some(mut server) = Postgres::start() else { return };
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    share(&mut ground, &server, &server.database());
    ground.start().await;
    let mut agent = Agent::new(&scene, ground.link).always();
    agent.config["processors"]["batch"] = json!({"send_batch_bytes": "64KiB", "timeout": "100ms"});
    agent.start().await;
    let load = Load::start(&agent, 3, 20, 400, Duration::from_millis(30));
    for round in 1..=4u64 {
        eventually("more items", async || {
            let n = load.acknowledged();
            if n > round * 400 { Ok(()) } else { Err(n.to_string()) }
        })
        .await;
        if round % 2 == 0 {
            server.signal("KILL");
            server.begin();
        } else {
            ground.process.kill().await;
            ground.start().await;
        }
    }
    let ledger = load.stop().await;
    let again = settle(&mut agent, &mut ground, &ledger).await;
    // A kill leaves at most the request of each exporter undecided.
    assert!(again <= 4 * 3 * 8192, "{again} items twice");
    let account = ground.accounting_of(SATELLITE).await;
    assert_eq!(account["lost"], json!({"spans": 0, "metric_points": 0, "log_records": 0}), "{account:#}");
    let metrics = ground.metrics().await;
    assert!(metrics.contains("perigee_spool_failing 0"), "{metrics}");
    let exit = ground.command(&["spool", "verify"]).await;
    assert_eq!(exit.code, Some(0), "{}", exit.err);
    let exit = ground.command(&["spool", "backup", "/tmp/copy.redb"]).await;
    assert!(exit.code != Some(0) && exit.err.contains("pg_dump"), "{}", exit.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stations_with_one_ledger_see_what_the_other_has_and_commit_nothing_twice() {
    let Some(server) = Postgres::start() else { return };
    let database = server.database();
    let scene = Scene::new(PROGRAMS);
    let set_up = |ground: &mut Ground| share(ground, &server, &database);
    let after = async |pass: usize, grounds: &mut [Ground; 2]| {
        if pass == 3 {
            // The first station ends in the middle; the other one exports what it had.
            grounds[0].process.kill().await;
            grounds[0].start().await;
        }
    };
    let (mut grounds, _agent, ledger) = in_turn(&scene, set_up, after).await;
    let [first, second] = &mut grounds;
    assert_eq!(first.exported(ledger.items).await, ledger.items, "either station tells of everything");
    assert_eq!(second.exported(ledger.items).await, ledger.items);
    for ground in &grounds {
        assert!(ground.gaps().await.is_empty());
        let account = ground.accounting_of(SATELLITE).await;
        assert_eq!((items(&account["dropped"]), &account["duplicates"]), (Counts::default(), &json!(0)));
        for lane in ground.lanes().await {
            assert_eq!(lane["elsewhere"], json!([]), "one ledger has everything: {lane:#}");
        }
        let passes = ground.ask("/api/v1/passes").await.unwrap();
        let of = |station: &str| {
            passes.as_array().unwrap().iter().filter(|pass| pass["station"] == station).count()
        };
        assert_eq!((of(STATION), of("beijing")), (3, 3), "passes of all stations: {passes:#}");
    }
    let arrived = arrived(&grounds);
    let lost: Vec<_> = ledger.acknowledged.iter().filter(|id| !arrived.contains_key(*id)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert_eq!(arrived.len(), ledger.acknowledged.len());
}
