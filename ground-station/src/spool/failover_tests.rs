//! Three servers of which the primary is killed for good. Nobody here chooses a new one: the test does what Patroni would.

use ::fleet::Postgres;
use tokio::task::JoinSet;

use super::fleet_tests::{Database, commit, commit_in_the_end, segments};
use super::postgres::Replication;
use super::*;

/// How far a standby has got.
fn received(server: &Postgres) -> u64 {
    let bytes = server.sql("postgres", "select (pg_last_wal_receive_lsn() - '0/0'::pg_lsn)::int8");
    bytes.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_primary_is_gone_for_good_what_was_answered_is_on_the_next_one() {
    let Some(mut primary) = Postgres::start() else { return };
    let standbys = [("s1", primary.standby("s1")), ("s2", primary.standby("s2"))];
    primary.configure("synchronous_standby_names = 'ANY 1 (s1, s2)'");
    primary.reload();
    let mut database = Database::on(&primary);
    database.fleet.replication = Replication::Required;
    database.fleet.hosts.extend(standbys.iter().map(|(_, server)| server.host()));
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
    primary.signal("KILL");

    // One of the two has every commit that was answered: it is the one that is ahead.
    let [(_, first), (_, second)] = &standbys;
    let leads = if received(first) >= received(second) { 0 } else { 1 };
    let ((_, next), (name, other)) = (&standbys[leads], &standbys[1 - leads]);
    next.configure(&format!("synchronous_standby_names = 'ANY 1 ({name})'"));
    next.reload();
    next.promote();
    let port = next.port();
    let conninfo = format!("host=127.0.0.1 port={port} user=perigee application_name={name}");
    other.sql("postgres", &format!("alter system set primary_conninfo = '{conninfo}'"));
    other.sql("postgres", "alter system set primary_slot_name = ''");
    other.reload();

    while let Some(done) = senders.join_next().await {
        done.unwrap();
    }
    for (n, station) in stations.iter().enumerate() {
        let satellite = format!("sat-{n}");
        assert_eq!(segments(station, &satellite).await, 40);
        assert_eq!(commit(station, &satellite, 1).await, Applied::Duplicate);
    }
    assert!(stations[0].verify().await.unwrap().is_empty());
    for station in stations {
        station.close().await;
    }
}
