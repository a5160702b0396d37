//! Three servers of which the primary is killed for good. Nobody here chooses a new one: the test does what Patroni would.

use ::fleet::Cluster;
use tokio::task::JoinSet;

use super::fleet_tests::{Database, commit, commit_in_the_end, segments};
use super::postgres::Replication;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_primary_is_gone_for_good_what_was_answered_is_on_the_next_one() {
    let Some(mut cluster) = Cluster::start() else { return };
    let mut database = Database::on(cluster.primary());
    database.fleet.replication = Replication::Required;
    database.fleet.hosts = cluster.hosts();
    let stations = [database.station("svalbard").await, database.station("kiruna").await];
    let mut senders = JoinSet::new();
    for (n, station) in stations.iter().cloned().enumerate() {
        senders.spawn(async move {
            for sequence in 1..=40 {
                let applied = commit_in_the_end(&station, &format!("sat-{n}"), sequence).await;
                assert!(matches!(applied, Applied::New | Applied::Duplicate), "{applied:?}");
            }
        });
    }
    while segments(&stations[0], "sat-0").await < 5 {}
    cluster.fail_over();
    while let Some(done) = senders.join_next().await {
        done.unwrap();
    }
    for (n, station) in stations.iter().enumerate() {
        let satellite = format!("sat-{n}");
        assert_eq!(segments(station, &satellite).await, 40);
        assert_eq!(commit(station, &satellite, 1).await, Applied::Duplicate);
    }
    assert!(stations[0].upkeep().verify().await.unwrap().is_empty());
    for station in stations {
        station.close().await;
    }
}

/// A server that hangs still takes connections: the kernel does, and nobody answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_keeps_nobody_from_the_one_that_leads() {
    let Some(mut database) = Database::new() else { return };
    let hangs = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    database.fleet.hosts.insert(0, hangs.local_addr().unwrap().to_string());
    let station = database.station("svalbard").await;
    assert_eq!(commit(&station, "sat-1", 1).await, Applied::New);
    station.close().await;
}
