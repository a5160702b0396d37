//! What only a shared ledger has: several stations, workers that die, servers that are refused, end, or do not answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::fleet::Postgres;
use perigee_proto::link;
use perigee_shared::env::Env;
use perigee_shared::export::Limits;
use perigee_shared::signal::{Signal, SignalSet};
use tokio::task::{JoinHandle, JoinSet};

use super::postgres::{EngineError, FleetSettings, Replication};
use super::tests::{EPOCH, done, incoming, segment, settings, spans};
use super::*;

/// A database of a server, and stations on it.
pub(super) struct Database {
    pub(super) fleet: FleetSettings,
    pub(super) dir: tempfile::TempDir,
}

impl Database {
    fn of(host: String, database: String) -> Self {
        let fleet = FleetSettings {
            hosts: vec![host],
            database,
            user: "perigee".to_owned(),
            password: None,
            password_file: None,
            tls: None,
            replication: Replication::None,
            connections: 4,
            lease: Duration::from_secs(2),
        };
        Self { fleet, dir: tempfile::tempdir().unwrap() }
    }

    /// On the server that the tests share; `None`: there is no PostgreSQL.
    pub(super) fn new() -> Option<Self> {
        ::fleet::shared_database().map(|(host, database)| Self::of(host, database))
    }

    pub(super) fn on(server: &Postgres) -> Self {
        Self::of(server.host(), server.database())
    }

    async fn join(&self, station: &str) -> Result<Store, SpoolError> {
        self.join_with(station, &[("a", SignalSet::ALL)]).await
    }

    async fn join_with(&self, station: &str, routes: &[(&str, SignalSet)]) -> Result<Store, SpoolError> {
        let settings = Settings {
            station: station.to_owned(),
            directory: self.dir.path().join(station),
            ..settings(&self.dir, routes)
        };
        Store::join(&Env::production(), settings, self.fleet.clone(), 0).await
    }

    pub(super) async fn station(&self, name: &str) -> Store {
        self.join(name).await.unwrap()
    }

    /// Why a server is not used.
    pub(super) async fn refusal(&self) -> String {
        match self.join("svalbard").await.err() {
            Some(SpoolError::Engine(error @ EngineError::Refused { .. })) => error.to_string(),
            other => panic!("it was not refused: {other:?}"),
        }
    }
}

pub(super) fn of_satellite(satellite: &str, sequence: u64) -> Incoming {
    let (header, payload) = segment(sequence, spans(1), 0);
    let whole = 0..payload.len();
    Incoming { satellite: satellite.into(), ..incoming(&header, &payload, &[whole]) }
}

pub(super) async fn hand_in(store: &Store, batch: Vec<Incoming>) -> Result<Vec<Applied>, SpoolError> {
    let mut taken = Vec::new();
    for incoming in batch {
        taken.push(store.intake().put_payload(incoming).await?);
    }
    store.intake().commit(taken).await
}

pub(super) async fn commit(store: &Store, satellite: &str, sequence: u64) -> Applied {
    hand_in(store, vec![of_satellite(satellite, sequence)]).await.unwrap().remove(0)
}

/// Hands a segment in until it is committed, as a satellite does: a station that is cut off only holds it.
pub(super) async fn commit_in_the_end(store: &Store, satellite: &str, sequence: u64) -> Applied {
    loop {
        match commit(store, satellite, sequence).await {
            Applied::Held(_) => drop(store.status().wait_for(|status| !status.aside).await.unwrap()),
            applied => return applied,
        }
    }
}

/// The same beside the test.
fn in_the_end(store: &Store, satellite: &'static str, sequence: u64) -> JoinHandle<Applied> {
    let store = store.clone();
    tokio::spawn(async move { commit_in_the_end(&store, satellite, sequence).await })
}

/// Waits until health says `part` of why the station does not work.
pub(super) async fn fails(store: &Store, part: &str) -> String {
    let mut status = store.status();
    let says = |why: &String| why.contains(part);
    let status = status.wait_for(|status| status.failing.as_ref().is_some_and(says)).await.unwrap();
    status.failing.clone().unwrap()
}

pub(super) async fn next(store: &Store) -> Option<Work> {
    store.outlet().next("a".into(), SignalSet::ALL, 1).await.unwrap()
}

/// Everything committed once: as many segments as there are, each counted once.
pub(super) async fn segments(store: &Store, satellite: &str) -> u64 {
    let account = store.views().accounting().await.unwrap().remove(satellite).unwrap_or_default();
    assert_eq!(account.committed.spans, account.segments);
    account.segments
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stations_that_race_for_the_same_segments_commit_each_once() {
    let Some(database) = Database::new() else { return };
    let stations = [database.station("svalbard").await, database.station("kiruna").await];
    let mut racing = JoinSet::new();
    for sequence in 1..=40 {
        for (n, station) in stations.iter().enumerate() {
            let (station, satellite) = (station.clone(), format!("sat-{}", sequence % 3));
            racing.spawn(async move { (sequence, n, commit(&station, &satellite, sequence).await) });
        }
    }
    let mut new = BTreeMap::<u64, u32>::new();
    while let Some(done) = racing.join_next().await {
        let (sequence, _, applied) = done.unwrap();
        assert!(matches!(applied, Applied::New | Applied::Duplicate), "{applied:?}");
        *new.entry(sequence).or_default() += u32::from(applied == Applied::New);
    }
    assert!(new.values().all(|n| *n == 1), "{new:?}");
    let mut total = 0;
    for satellite in ["sat-0", "sat-1", "sat-2"] {
        total += segments(&stations[1], satellite).await;
    }
    assert_eq!(total, 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_one_station_began_another_one_ends() {
    let Some(database) = Database::new() else { return };
    let (first, second) = (database.station("svalbard").await, database.station("kiruna").await);
    let (header, payload) = segment(1, spans(5), 0);
    let half = payload.len() / 2;
    let part = |range| incoming(&header, &payload, &[range]);
    assert!(matches!(hand_in(&first, vec![part(0..half)]).await.unwrap()[0], Applied::Held(_)));
    let lane = link::Lane {
        lane: 8,
        on_board: vec![link::Range { start: 1, end: 2 }],
        next_sequence: 2,
        ..link::Lane::default()
    };
    let epoch = link::Epoch { epoch: EPOCH, lanes: vec![lane], ..link::Epoch::default() };
    let hello = Arc::new(link::Hello { epochs: vec![epoch], ..link::Hello::default() });
    let resume = second.intake().ledger("sat-1".into(), hello.clone()).await.unwrap();
    let held = &resume.epochs[0].lanes[0].partials[0].held;
    assert_eq!(held.as_slice(), &[link::Range { start: 0, end: half as u64 }]);
    assert_eq!(hand_in(&second, vec![part(half..payload.len())]).await.unwrap(), [Applied::New]);
    let again = first.intake().ledger("sat-1".into(), hello).await.unwrap();
    assert_eq!(again.ledger, resume.ledger, "one ledger");
    assert_eq!(again.epochs[0].lanes[0].committed.len(), 1);
    assert_eq!(commit(&first, "sat-1", 1).await, Applied::Duplicate);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_share_an_exporter_and_none_sends_what_another_sends() {
    let Some(database) = Database::new() else { return };
    let stations = [database.station("svalbard").await, database.station("kiruna").await];
    for satellite in 0..6 {
        for sequence in 1..=5 {
            assert_eq!(commit(&stations[0], &format!("sat-{satellite}"), sequence).await, Applied::New);
        }
    }
    let mut workers = JoinSet::new();
    for station in stations.clone() {
        workers.spawn(async move {
            let mut sent = Vec::new();
            while let Some(work) = next(&station).await {
                sent.push((work.satellite.to_string(), work.header.id.sequence));
                station.outlet().progress("a".into(), done(work.place)).await.unwrap();
            }
            sent
        });
    }
    let mut sent: Vec<_> = workers.join_all().await.into_iter().flatten().collect();
    for satellite in 0..6 {
        let of = format!("sat-{satellite}");
        let order: Vec<u64> = sent.iter().filter(|(s, _)| *s == of).map(|(_, n)| *n).collect();
        assert_eq!(order, [1, 2, 3, 4, 5], "{of}");
    }
    sent.sort();
    sent.dedup();
    assert_eq!(sent.len(), 30);
    assert_eq!(stations[0].views().overview().await.unwrap().segments, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_exporter_does_takes_no_lease_from_another() {
    let Some(database) = Database::new() else { return };
    let stations = [database.station("svalbard").await, database.station("kiruna").await];
    commit(&stations[0], "sat-1", 1).await;
    let of = |store: &Store, exporter: &str| {
        let (store, exporter) = (store.clone(), exporter.into());
        async move { store.outlet().next(exporter, SignalSet::ALL, 1).await.unwrap() }
    };
    let waits = of(&stations[0], "b").await.unwrap();
    let work = of(&stations[0], "a").await.unwrap();
    stations[0].outlet().progress("a".into(), done(work.place)).await.unwrap();
    commit(&stations[0], "sat-1", 2).await;
    assert!(of(&stations[1], "b").await.is_none(), "the first station still has it");
    stations[0].outlet().progress("b".into(), done(waits.place)).await.unwrap();
}

/// Sends all that waits for an exporter at this station; the sequences.
async fn sends_all(store: &Store, exporter: &str) -> Vec<u64> {
    let mut sent = Vec::new();
    while let Some(work) = store.outlet().next(exporter.into(), SignalSet::ALL, 1).await.unwrap() {
        sent.push(work.header.id.sequence);
        store.outlet().progress(exporter.into(), done(work.place)).await.unwrap();
    }
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leaves_before_the_exporters_of_all_stations_have_it() {
    let Some(server) = ::fleet::shared() else { return };
    let database = Database::on(server);
    let both = [("a", SignalSet::ALL), ("b", SignalSet::ALL)];
    let one = database.join_with("svalbard", &both).await.unwrap();
    assert_eq!(commit(&one, "sat-1", 1).await, Applied::New);
    one.close().await;
    let other = database.station("kiruna").await;
    assert_eq!(commit(&other, "sat-1", 2).await, Applied::New);
    assert_eq!(sends_all(&other, "a").await, [1, 2]);
    let one = database.join_with("svalbard", &both).await.unwrap();
    assert!(sends_all(&one, "a").await.is_empty());
    assert_eq!(sends_all(&one, "b").await, [1, 2]);
    assert_eq!(other.views().accounting().await.unwrap()["sat-1"].exported.spans, 2);

    // One that begins while the other station runs is heard of there, and one that is given up waits for nothing.
    one.close().await;
    let one = database.join_with("svalbard", &[("c", SignalSet::ALL)]).await.unwrap();
    let mut status = other.status();
    while other.views().overview().await.unwrap().exporters.iter().all(|exporter| exporter.name != "c") {
        drop(tokio::time::timeout(Duration::from_millis(100), status.changed()).await);
    }
    assert_eq!(commit(&other, "sat-1", 3).await, Applied::New);
    assert_eq!(sends_all(&other, "a").await, [3]);
    assert_eq!(other.views().accounting().await.unwrap()["sat-1"].in_spool.spans, 1);
    one.close().await;
    server.sql(&database.fleet.database, "delete from exporter where name <> 'a'");
    other.status().wait_for(|status| status.used == 0).await.unwrap();
    assert_eq!(other.views().accounting().await.unwrap()["sat-1"].exported.spans, 3);
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_that_one_station_is_to_send_again_wake_the_others() {
    let Some(database) = Database::new() else { return };
    let [exports, asks] = [database.station("svalbard").await, database.station("kiruna").await];
    commit(&exports, "sat-1", 1).await;
    let work = next(&exports).await.unwrap();
    let letter =
        Letter { signal: Signal::Traces, body: vec![3; 9].into(), items: spans(1), reason: "no".to_owned() };
    exports
        .outlet()
        .progress("a".into(), Progress { letters: vec![letter], ..done(work.place) })
        .await
        .unwrap();
    let mut status = exports.status();
    let none = exports.replays().next_replays("a".into(), Limits::default()).await.unwrap();
    assert!(none.is_empty());
    status.mark_unchanged();
    assert_eq!(asks.replays().replay(None).await.unwrap(), 1);
    // As an exporter that idles does.
    while exports.replays().next_replays("a".into(), Limits::default()).await.unwrap().is_empty() {
        let woken = tokio::time::timeout(Duration::from_secs(20), status.changed()).await;
        woken.expect("nobody wakes the exporter").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_is_replaced_within_the_lease_and_moves_nothing_when_it_wakes() {
    let Some(database) = Database::new() else { return };
    let dying = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let settings = settings(&database.dir, &[("a", SignalSet::ALL)]);
    let fleet = database.fleet.clone();
    let slow = dying
        .spawn(async move { Store::join(&Env::production(), settings, fleet, 0).await })
        .await
        .unwrap()
        .unwrap();
    let other = database.station("kiruna").await;
    commit(&other, "sat-1", 1).await;
    let mut status = slow.status();
    let held = loop {
        if let Some(work) = next(&slow).await {
            break work;
        }
        status.changed().await.unwrap();
    };
    assert!(next(&other).await.is_none(), "another worker has that lane");
    // Its tasks end: nobody says any more that it lives.
    let begun = tokio::time::Instant::now();
    dying.shutdown_background();
    let mut status = other.status();
    let taken = loop {
        match next(&other).await {
            Some(work) => break work,
            None => drop(tokio::time::timeout(Duration::from_millis(100), status.changed()).await),
        }
    };
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!(taken.header.id, held.header.id);
    other
        .outlet()
        .progress("a".into(), Progress { request: 1, ..Progress::at(taken.place, 1) })
        .await
        .unwrap();
    // The first worker wakes and has finished the segment, it thinks.
    let late =
        tokio::time::timeout(Duration::from_secs(10), slow.outlet().progress("a".into(), done(held.place)))
            .await;
    assert!(!matches!(late, Ok(Ok(()))), "it moved a cursor that is not its own");
    let account = other.views().accounting().await.unwrap().remove("sat-1").unwrap();
    assert_eq!((account.exported.spans, account.in_spool.spans), (0, 1));
    other.outlet().progress("a".into(), done(taken.place)).await.unwrap();
    assert_eq!(other.views().accounting().await.unwrap()["sat-1"].exported.spans, 1);
}

/// While no server answered, nobody could say that this worker lives: what it takes up again counts as sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_time_ran_out_lives_again_before_it_sends() {
    let Some(server) = Postgres::start() else { return };
    let mut database = Database::on(&server);
    database.fleet.lease = Duration::from_secs(3600);
    let store = database.station("svalbard").await;
    commit(&store, "sat-1", 1).await;
    server.sql(&database.fleet.database, "update worker set until = clock_timestamp() - interval '1 minute'");
    let work = next(&store).await.unwrap();
    store.outlet().progress("a".into(), done(work.place)).await.unwrap();
    assert_eq!(store.views().accounting().await.unwrap()["sat-1"].exported.spans, 1);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_batch_that_the_engine_refuses_takes_no_other_with_it() {
    let Some(database) = Database::new() else { return };
    let store = database.station("svalbard").await;
    // A text with this character is none for PostgreSQL.
    let mut batches = JoinSet::new();
    for satellite in ["sat-1", "poi\0son", "sat-2"] {
        let store = store.clone();
        batches
            .spawn(async move { (satellite, hand_in(&store, vec![of_satellite(satellite, 1)]).await.ok()) });
    }
    for (satellite, applied) in batches.join_all().await {
        let expected = if satellite.contains('\0') { None } else { Some(vec![Applied::New]) };
        assert_eq!(applied, expected, "{satellite:?}");
    }
    assert_eq!(commit(&store, "sat-1", 2).await, Applied::New);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_again_and_again_loses_nothing_and_doubles_nothing() {
    let Some(mut server) = Postgres::start() else { return };
    let database = Database::on(&server);
    let stations = [database.station("svalbard").await, database.station("kiruna").await];
    let mut senders = JoinSet::new();
    for (n, station) in stations.iter().cloned().enumerate() {
        senders.spawn(async move {
            let mut answered = Vec::new();
            for sequence in 1..=60 {
                // Both stations have the odd ones.
                if sequence % 2 == 1 || (sequence / 2) % 2 == n as u64 {
                    answered.push((sequence, commit_in_the_end(&station, "sat-1", sequence).await));
                }
            }
            answered
        });
    }
    for _ in 0..3 {
        tokio::time::timeout(Duration::from_millis(400), async {
            while segments(&stations[0], "sat-1").await < 60 {}
        })
        .await
        .ok();
        server.signal("KILL");
        server.begin();
    }
    let answered: Vec<_> = senders.join_all().await.into_iter().flatten().collect();
    assert!(answered.iter().all(|(_, a)| matches!(a, Applied::New | Applied::Duplicate)));
    assert_eq!(segments(&stations[1], "sat-1").await, 60);
    for sequence in 1..=60 {
        assert_eq!(commit(&stations[0], "sat-1", sequence).await, Applied::Duplicate);
    }
    assert!(stations[0].upkeep().verify().await.unwrap().is_empty());
    for station in stations {
        station.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_waits_for_its_standby_is_not_answered_and_not_given_up() {
    let Some(server) = Postgres::start() else { return };
    let mut standby = server.standby("s1");
    server.configure("synchronous_standby_names = 'ANY 1 (s1, s2)'");
    server.reload();
    let mut database = Database::on(&server);
    database.fleet.replication = Replication::Required;
    let store = database.station("svalbard").await;
    assert_eq!(commit(&store, "sat-1", 1).await, Applied::New);
    standby.stop();
    let mut status = store.status();
    let waiting = in_the_end(&store, "sat-1", 2);
    fails(&store, "").await;
    assert!(!waiting.is_finished(), "one disk alone has it");
    standby.begin();
    let applied = waiting.await.unwrap();
    assert!(matches!(applied, Applied::New | Applied::Duplicate), "{applied:?}");
    status.wait_for(|status| status.failing.is_none()).await.unwrap();
    assert_eq!(segments(&store, "sat-1").await, 2);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_settings_change_is_not_believed_any_more() {
    let Some(server) = Postgres::start() else { return };
    let _standby = server.standby("s1");
    let names = "synchronous_standby_names = 'ANY 1 (s1)'";
    server.configure(names);
    server.reload();
    let mut database = Database::on(&server);
    database.fleet.replication = Replication::Required;
    let store = database.station("svalbard").await;
    assert_eq!(commit(&store, "sat-1", 1).await, Applied::New);
    let mut status = store.status();
    for (sequence, setting, reset) in [
        (2, "synchronous_standby_names = ''", names),
        (3, "synchronous_commit = local", "synchronous_commit = on"),
        (4, "fsync = off", "fsync = on"),
    ] {
        server.configure(setting);
        server.reload();
        let waiting = in_the_end(&store, "sat-1", sequence);
        fails(&store, setting.split(' ').next().unwrap()).await;
        // Whoever asks for something else meanwhile does not make it look well.
        let others = async {
            loop {
                let _ = (store.views().overview().await, store.views().linked_elsewhere().await);
                tokio::task::yield_now().await;
            }
        };
        let changed = status.wait_for(|status| status.failing.is_none());
        tokio::select! {
            () = others => {}
            changed = tokio::time::timeout(Duration::from_secs(2), changed) => assert!(changed.is_err(), "{setting}"),
        }
        assert!(!waiting.is_finished(), "{setting}");
        server.configure(reset);
        server.reload();
        let applied = waiting.await.unwrap();
        assert!(matches!(applied, Applied::New | Applied::Duplicate), "{setting}: {applied:?}");
        status.wait_for(|status| status.failing.is_none()).await.unwrap();
    }
    assert_eq!(segments(&store, "sat-1").await, 4);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_would_lose_what_it_acknowledges_is_refused() {
    let Some(server) = Postgres::start() else { return };
    let mut database = Database::on(&server);
    database.fleet.replication = Replication::Required;
    let why = database.refusal().await;
    assert!(why.contains("synchronous_standby_names") && why.contains("replication: none"), "{why}");
    database.fleet.replication = Replication::None;
    for (setting, reset) in
        [("fsync = off", "fsync = on"), ("full_page_writes = off", "full_page_writes = on")]
    {
        server.configure(setting);
        server.reload();
        let why = database.refusal().await;
        assert!(why.contains(setting.split(' ').next().unwrap()), "{why}");
        server.configure(reset);
        server.reload();
    }
    let name = &database.fleet.database;
    server.sql("postgres", &format!("alter database {name} set synchronous_commit = off"));
    let why = database.refusal().await;
    assert!(why.contains("synchronous_commit is off"), "{why}");
    server.sql("postgres", &format!("alter database {name} reset synchronous_commit"));
    database.station("svalbard").await.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_later_or_other_software_is_refused_and_not_touched() {
    let Some(server) = ::fleet::shared() else { return };
    let database = Database::on(server);
    database.station("svalbard").await.close().await;
    let name = &database.fleet.database;
    // A later version that still serves this software is not refused.
    server.sql(name, "insert into perigee_schema values (10, 1, 'x', 'later')");
    database.station("svalbard").await.close().await;
    server.sql(name, "update perigee_schema set readable_from = 10 where version = 10");
    let why = database.refusal().await;
    assert!(why.contains("schema is version 10") && why.contains("update this ground-station"), "{why}");
    server.sql(name, "delete from perigee_schema where version = 10; update perigee_schema set hash = 'x' where version = 1");
    let why = database.refusal().await;
    assert!(why.contains("step 1 of its schema"), "{why}");
    let missing = Database::of(server.host(), "nowhere".to_owned());
    let why = missing.refusal().await;
    assert!(why.contains("storage.database"), "{why}");
    let mut stranger = Database::on(server);
    stranger.fleet.user = "stranger".to_owned();
    let why = stranger.refusal().await;
    assert!(why.contains("storage.user"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stations_that_begin_together_make_one_ledger() {
    let Some(database) = Database::new() else { return };
    let database = Arc::new(database);
    let mut joining = JoinSet::new();
    for n in 0..4 {
        let database = Arc::clone(&database);
        joining.spawn(async move { database.station(&format!("station-{n}")).await });
    }
    let stations = joining.join_all().await;
    let mut ledgers = Vec::new();
    for station in &stations {
        ledgers.push(station.views().overview().await.unwrap().ledger);
    }
    ledgers.dedup();
    assert_eq!(ledgers.len(), 1);
    assert_eq!(
        stations[0]
            .upkeep()
            .backup("/tmp/x".into())
            .await
            .unwrap_err()
            .to_string()
            .matches("pg_dump")
            .count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_rows_of_the_catalogue_go_when_there_are_too_many_or_their_time_is_over() {
    let Some(database) = Database::new() else { return };
    let store = database.station("svalbard").await;
    for sequence in 1..=10 {
        commit(&store, "sat-1", sequence).await;
    }
    store.close().await;
    let left = async |keep: Keep, until: usize| {
        let settings = Settings { catalogue: keep, ..settings(&database.dir, &[("a", SignalSet::ALL)]) };
        let store =
            Box::pin(Store::join(&Env::production(), settings, database.fleet.clone(), 0)).await.unwrap();
        let sequences = loop {
            let rows =
                store.views().glance().await.unwrap().catalogue(Wanted::default(), 100).await.unwrap().rows;
            if rows.len() <= until {
                break rows.iter().map(|row| row.sequence).collect::<Vec<_>>();
            }
        };
        store.close().await;
        sequences
    };
    assert_eq!(left(Keep { bytes: 3 * 192, ..Keep::default() }, 3).await, [10, 9, 8]);
    assert!(left(Keep { nano: 1, ..Keep::default() }, 0).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_in_read_only_mode_is_waited_for_and_said() {
    let Some(server) = ::fleet::shared() else { return };
    let database = Database::on(server);
    let store = database.station("svalbard").await;
    commit(&store, "sat-1", 1).await;
    let name = &database.fleet.database;
    server.sql("postgres", &format!("alter database {name} set default_transaction_read_only = on"));
    server.disconnect(name);
    let waiting = in_the_end(&store, "sat-1", 2);
    assert!(fails(&store, "takes writes").await.contains("default_transaction_read_only"));
    server.sql("postgres", &format!("alter database {name} reset default_transaction_read_only"));
    assert!(matches!(waiting.await.unwrap(), Applied::New | Applied::Duplicate));
    store.close().await;
}

/// Somebody whose transaction has done `what`.
async fn holds(server: &Postgres, database: &Database, what: &str) -> tokio_postgres::Client {
    let (port, user, name) = (server.port(), server.user(), &database.fleet.database);
    let at = format!("host=127.0.0.1 port={port} user={user} dbname={name}");
    let (holder, connection) = tokio_postgres::connect(&at, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    holder.batch_execute(&format!("begin; {what}")).await.unwrap();
    holder
}

/// Its server may lead no more, and another worker have its lanes: what it has not sent yet it does not send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_could_not_say_that_it_lives_sends_nothing_before_it_has_its_lane_anew() {
    let Some(server) = ::fleet::shared() else { return };
    let database = Database::on(server);
    let store = database.station("svalbard").await;
    for sequence in 1..=2 {
        commit(&store, "sat-1", sequence).await;
    }
    let first = next(&store).await.unwrap();
    store.outlet().progress("a".into(), done(first.place)).await.unwrap();
    // All can be read, and only what says that it lives waits.
    let holder = holds(server, &database, "lock table worker in exclusive mode").await;
    fails(&store, "holds a lock").await;
    let silent = tokio::time::timeout(database.fleet.lease, next(&store)).await;
    assert!(silent.is_err(), "it does not know whether the lane is its own");
    holder.batch_execute("rollback").await.unwrap();
    assert_eq!(next(&store).await.unwrap().header.id.sequence, 2);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_somebody_holds_are_waited_for_and_said() {
    let Some(server) = ::fleet::shared() else { return };
    let database = Database::on(server);
    let store = database.station("svalbard").await;
    commit(&store, "sat-1", 1).await;
    let holder = holds(server, &database, "lock table committed in access exclusive mode").await;
    let mut status = store.status();
    let waiting = in_the_end(&store, "sat-1", 2);
    fails(&store, "holds a lock").await;
    holder.batch_execute("rollback").await.unwrap();
    assert!(matches!(waiting.await.unwrap(), Applied::New | Applied::Duplicate));
    status.wait_for(|s| s.failing.is_none()).await.unwrap();
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_station_knows_where_a_satellite_has_its_link() {
    let Some(database) = Database::new() else { return };
    let [svalbard, kiruna] = [database.station("svalbard").await, database.station("kiruna").await];
    commit(&svalbard, "sat-1", 1).await;
    let open = Arc::new(std::sync::Mutex::new(vec!["sat-1".to_owned(), "never-heard".to_owned()]));
    let links = Arc::clone(&open);
    svalbard.tell_links(move || links.lock().unwrap().clone());
    let seen = async |store: &Store, expected: &[(&str, &str)]| {
        let expected: BTreeMap<_, _> = expected
            .iter()
            .map(|(satellite, at)| ((*satellite).to_owned(), vec![(*at).to_owned()]))
            .collect();
        let is_seen = async {
            while store.views().linked_elsewhere().await.unwrap() != expected {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), is_seen).await.unwrap();
    };
    seen(&kiruna, &[("sat-1", "svalbard")]).await;
    assert_eq!(
        svalbard.views().linked_elsewhere().await.unwrap(),
        BTreeMap::new(),
        "its own links it knows better"
    );
    open.lock().unwrap().clear();
    seen(&kiruna, &[]).await;
    // A station that ends has no links, whatever it said last.
    open.lock().unwrap().push("sat-1".to_owned());
    seen(&kiruna, &[("sat-1", "svalbard")]).await;
    svalbard.close().await;
    seen(&kiruna, &[]).await;
    kiruna.close().await;
}
