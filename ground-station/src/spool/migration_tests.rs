//! A station's own file is brought into the shared ledger: killed anywhere, repeated, refused.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use ::fleet::Postgres;
use bytes::Bytes;
use perigee_proto::link;
use perigee_shared::env::Env;
use perigee_shared::export::Limits;
use perigee_shared::segment::{Header, Lane, SegmentId};
use perigee_shared::signal::{Signal, SignalSet};
use tokio::sync::Notify;

use super::base_tests::{self, leaf, seal};
use super::fleet_tests::{Database, hand_in};
use super::postgres::MigrationView;
use super::tests::{EPOCH, done, dropped, heard, incoming, segment, settings, spans};
use super::*;

const SATELLITES: [&str; 3] = ["sat-2", "sat-1", "sat-3"];

const ROUTES: [(&str, SignalSet); 2] = [("a", SignalSet::ALL), ("b", SignalSet::ALL)];

/// Segments of each satellite: in the bulk lane, whole; one more is held in part.
const SEGMENTS: u64 = 9;

fn of(satellite: &str, incoming: Incoming) -> Incoming {
    Incoming { satellite: satellite.into(), ..incoming }
}

fn whole(satellite: &str, sequence: u64, lane: u8) -> Incoming {
    let (header, payload) = segment(sequence, spans(sequence), satellite.as_bytes()[4]);
    let id = SegmentId { lane: Lane(lane), ..header.id };
    let header = Arc::new(Header { id, ..(*header).clone() });
    let whole = 0..payload.len();
    of(satellite, incoming(&header, &payload, &[whole]))
}

/// Segments that later ones need, and one of those.
fn leaning() -> [Incoming; 2] {
    let first = seal(1, None);
    let second = leaf(2, Some(&first));
    [first, second].map(|sealed| base_tests::incoming(&sealed)).map(|incoming| {
        let id = SegmentId { lane: Lane(5), ..incoming.header.id };
        Incoming { header: Arc::new(Header { id, ..(*incoming.header).clone() }), ..incoming }
    })
}

/// A segment of which the first half is held, and its second half.
fn halves(satellite: &str) -> [Incoming; 2] {
    let (header, payload) = segment(SEGMENTS + 1, spans(50), 9);
    let half = payload.len() / 2;
    [0..half, half..payload.len()].map(|range| of(satellite, incoming(&header, &payload, &[range])))
}

fn hello() -> Arc<link::Hello> {
    let lane = link::Lane {
        lane: 8,
        on_board: vec![link::Range { start: 2, end: 20 }],
        next_sequence: 20,
        ..link::Lane::default()
    };
    let epoch = link::Epoch {
        epoch: EPOCH,
        start_counter: 3,
        lanes: vec![lane],
        drops: vec![dropped(1, 15..17, 60)],
        ..link::Epoch::default()
    };
    Arc::new(link::Hello { epochs: vec![epoch], software: "test".to_owned(), ..link::Hello::default() })
}

/// Fills a station's own file with some of everything.
async fn fill(store: &Store) {
    for satellite in SATELLITES {
        for sequence in 1..=SEGMENTS {
            assert_eq!(hand_in(store, vec![whole(satellite, sequence, 8)]).await.unwrap(), [Applied::New]);
        }
        assert_eq!(hand_in(store, vec![whole(satellite, 1, 1)]).await.unwrap(), [Applied::New]);
        store.intake().ledger(satellite.into(), hello()).await.unwrap();
        let [first, _] = halves(satellite);
        assert!(matches!(hand_in(store, vec![first]).await.unwrap()[0], Applied::Held(_)));
        store.intake().heard(satellite.into(), heard(SEGMENTS)).await.unwrap();
    }
    for leaning in leaning() {
        assert_eq!(hand_in(store, vec![leaning]).await.unwrap(), [Applied::New]);
    }
    // Both exporters have some segments, `a` has more, one refused something, and `a` is in the middle of one.
    for (exporter, segments) in [("b", 4), ("a", 9)] {
        for n in 0..segments {
            let work = next(store, exporter).await.unwrap();
            let letter = Letter {
                signal: Signal::Traces,
                body: Bytes::from_static(b"refused"),
                items: spans(1),
                reason: "no".to_owned(),
            };
            let letters = if n == segments - 2 { vec![letter] } else { Vec::new() };
            store.outlet().progress(exporter.into(), Progress { letters, ..done(work.place) }).await.unwrap();
        }
    }
    let work = next(store, "a").await.unwrap();
    store
        .outlet()
        .progress("a".into(), Progress { request: 1, ..Progress::at(work.place, 1) })
        .await
        .unwrap();
    store.outlet().sweep().await.unwrap();
}

async fn next(store: &Store, exporter: &str) -> Option<Work> {
    store.outlet().next(exporter.into(), SignalSet::ALL, 1).await.unwrap()
}

/// All that a store answers to people, without the ids and numbers that differ from store to store.
async fn told(store: &Store) -> serde_json::Value {
    let mut letters = serde_json::to_value(store.views().letters(0, 100).await.unwrap()).unwrap();
    letters.as_array_mut().unwrap().iter_mut().for_each(|letter| drop(letter["id"].take()));
    let mut gaps: Vec<String> = store
        .views()
        .gaps(100)
        .await
        .unwrap()
        .iter()
        .map(|gap| serde_json::to_string(gap).unwrap())
        .collect();
    gaps.sort();
    let mut passes: Vec<String> = store
        .views()
        .passes(100)
        .await
        .unwrap()
        .iter()
        .map(|pass| serde_json::to_string(pass).unwrap())
        .collect();
    passes.sort();
    let mut letters: Vec<String> = letters.as_array().unwrap().iter().map(ToString::to_string).collect();
    letters.sort();
    let overview = store.views().overview().await.unwrap();
    serde_json::json!({
        "ledger": overview.ledger,
        "used": overview.used_bytes,
        "segments": overview.segments,
        "bases": overview.bases,
        "satellites": store.views().satellites().await.unwrap(),
        "accounts": store.views().accounting().await.unwrap(),
        "gaps": gaps,
        "passes": passes,
        "letters": letters,
    })
}

/// What an exporter still gets: satellite, lane, sequence and first request of each segment.
async fn left(store: &Store, exporter: &str) -> Vec<(String, u8, u64, u64)> {
    let mut sent = Vec::new();
    while let Some(work) = next(store, exporter).await {
        sent.push((
            work.satellite.to_string(),
            work.header.id.lane.0,
            work.header.id.sequence,
            work.first.least(),
        ));
        store.outlet().progress(exporter.into(), done(work.place)).await.unwrap();
    }
    sent.sort();
    sent
}

struct Site {
    dir: tempfile::TempDir,
    database: Database,
}

impl Site {
    /// A shared ledger in which another satellite is known already, so that numbers differ.
    fn new(server: &Postgres) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), database: Database::on(server) }
    }

    fn file(&self) -> Settings {
        settings(&self.dir, &ROUTES)
    }

    fn store(&self) -> Store {
        Store::open(&Env::production(), self.file(), 0).unwrap()
    }

    async fn migrate(&self, ahead: bool) -> Result<MigrationView, SpoolError> {
        Store::migrate(&Env::production(), self.file(), self.database.fleet.clone(), ahead, |_| {}).await
    }

    async fn refusal(&self) -> String {
        self.migrate(false).await.unwrap_err().to_string()
    }

    /// Joins the shared ledger as a station with the same exporters.
    async fn join(&self) -> Result<Store, SpoolError> {
        self.join_in("beside").await
    }

    async fn join_in(&self, directory: &str) -> Result<Store, SpoolError> {
        let settings = Settings { directory: self.dir.path().join(directory), ..self.file() };
        Box::pin(Store::join(&Env::production(), settings, self.database.fleet.clone(), 0)).await
    }

    /// Begins a migration and kills it when it has told something for the `n`th time; whether it had ended before.
    async fn killed_after(&self, n: u32) -> bool {
        let (kill, told) = (Notify::new(), Cell::new(0));
        let tell = |_: postgres::Migrating<'_>| {
            told.set(told.get() + 1);
            if told.get() == n {
                kill.notify_one();
            }
        };
        let env = Env::production();
        let migrate = async {
            loop {
                match Store::migrate(&env, self.file(), self.database.fleet.clone(), false, tell).await {
                    // The thread of the one that was killed lets go of the file in its own time.
                    Err(SpoolError::Store(perigee_shared::store::StoreError::Locked(_))) => {
                        tokio::task::yield_now().await
                    }
                    done => return done.unwrap(),
                }
            }
        };
        tokio::select! {
            biased;
            () = kill.notified() => false,
            done = migrate => done.finished,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_is_killed_anywhere_goes_on_and_nothing_is_lost_or_sent_twice() {
    let Some(server) = ::fleet::shared() else { return };
    let site = Site::new(server);
    let store = site.store();
    fill(&store).await;
    let expected = told(&store).await;
    store.close().await;
    // What is left for the exporters is what a copy of the file says.
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(site.dir.path().join("spool.redb"), copy.path().join("spool.redb")).unwrap();
    let store = Store::open(&Env::production(), settings(&copy, &ROUTES), 0).unwrap();
    let to_send = [left(&store, "a").await, left(&store, "b").await];
    assert!(to_send[0].iter().any(|sent| sent.3 == 1), "one segment is half sent: {to_send:?}");
    store.close().await;

    let mut kills = 0;
    while !site.killed_after(kills + 1).await {
        kills += 1;
        let why = site.join().await.err().unwrap().to_string();
        assert!(why.contains("spool migrate"), "{why}");
    }
    assert!(kills > 42, "{kills}: each table of each satellite is one");
    assert!(!site.dir.path().join("spool.redb").exists(), "nobody sends it a second time");
    assert!(site.refusal().await.contains("it was migrated before"));

    let store = site.join().await.unwrap();
    assert_eq!(told(&store).await, expected);
    assert!(store.upkeep().verify().await.unwrap().is_empty());
    for satellite in SATELLITES {
        let again = vec![whole(satellite, SEGMENTS, 8), whole(satellite, 1, 8), whole(satellite, 1, 1)];
        assert_eq!(hand_in(&store, again).await.unwrap(), vec![Applied::Duplicate; 3], "{satellite}");
        let [_, second] = halves(satellite);
        assert_eq!(hand_in(&store, vec![second]).await.unwrap(), [Applied::New], "half of it was here");
    }
    let later = leaf(3, Some(&seal(1, None)));
    let later = base_tests::incoming(&later);
    let id = SegmentId { lane: Lane(5), ..later.header.id };
    let later = Incoming { header: Arc::new(Header { id, ..(*later.header).clone() }), ..later };
    assert_eq!(hand_in(&store, vec![later]).await.unwrap(), [Applied::New], "its base came along");
    let new: BTreeSet<(String, u8, u64, u64)> = SATELLITES
        .into_iter()
        .map(|satellite| (satellite.to_owned(), 8, SEGMENTS + 1, 0))
        .chain([("sat-1".to_owned(), 5, 3, 0)])
        .collect();
    for (exporter, before) in ["a", "b"].into_iter().zip(to_send) {
        let sent = left(&store, exporter).await;
        let (of_new, rest): (Vec<_>, Vec<_>) = sent.into_iter().partition(|sent| new.contains(sent));
        assert_eq!((of_new.len(), rest), (new.len(), before), "{exporter}");
    }
    assert_eq!(store.replays().replay(None).await.unwrap(), 2);
    for exporter in ["a", "b"] {
        let replays = store.replays().next_replays(exporter.into(), Limits::default()).await.unwrap();
        assert_eq!(replays.len(), 1, "{exporter}");
        assert_eq!(&replays[0].letter.body[..], b"refused");
        store.replays().replayed([replays[0].id].into(), None).await.unwrap();
    }
    for (satellite, account) in store.views().accounting().await.unwrap() {
        let (committed, exported) = (account.committed.spans, account.exported.spans);
        assert_eq!(committed, exported, "{satellite}: {account:?}");
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_goes_ahead_while_the_station_works_and_a_second_run_brings_what_has_changed() {
    let Some(server) = ::fleet::shared() else { return };
    let site = Site::new(server);
    let store = site.store();
    fill(&store).await;
    let copy = tempfile::tempdir().unwrap();
    store.upkeep().backup(copy.path().join("spool.redb")).await.unwrap();
    let ahead = settings(&copy, &ROUTES);
    let fleet = site.database.fleet.clone();
    let first = Store::migrate(&Env::production(), ahead, fleet, true, |_| {}).await.unwrap();
    assert!(!first.finished && copy.path().join("spool.redb").exists());
    assert!(site.join().await.err().unwrap().to_string().contains("is being migrated"));
    // Meanwhile segments come, are exported and deleted, and a satellite appears.
    for sequence in 11..=13 {
        assert_eq!(hand_in(&store, vec![whole("sat-1", sequence, 8)]).await.unwrap(), [Applied::New]);
    }
    assert_eq!(hand_in(&store, vec![whole("sat-9", 1, 8)]).await.unwrap(), [Applied::New]);
    let [_, second] = halves("sat-2");
    assert_eq!(hand_in(&store, vec![second]).await.unwrap(), [Applied::New]);
    for exporter in ["a", "b"] {
        for _ in 0..6 {
            let work = next(&store, exporter).await.unwrap();
            store.outlet().progress(exporter.into(), done(work.place)).await.unwrap();
        }
    }
    store.outlet().sweep().await.unwrap();
    let expected = told(&store).await;
    store.close().await;
    let second = site.migrate(false).await.unwrap();
    assert!(second.finished);
    let rows = |view: &MigrationView, of: fn(&postgres::MigratedView) -> u64| {
        view.satellites.iter().map(of).sum::<u64>()
    };
    let (written, all) = (rows(&second, |one| one.changed_rows), rows(&second, |one| one.rows));
    assert!(written > 0 && written < all, "{written} of {all} rows");
    let store = site.join().await.unwrap();
    assert_eq!(told(&store).await, expected);
    store.close().await;
    // The last step alone is missing: the file has its name still.
    std::fs::rename(site.dir.path().join("spool.redb.migrated"), site.dir.path().join("spool.redb")).unwrap();
    let again = site.migrate(false).await.unwrap();
    assert!(again.finished && again.satellites.is_empty());
    assert!(!site.dir.path().join("spool.redb").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_has_other_data_or_a_station_takes_no_file() {
    let Some(server) = ::fleet::shared() else { return };
    let site = Site::new(server);
    let store = site.store();
    fill(&store).await;
    let why = site.refusal().await;
    assert!(why.contains("another process has"), "{why}");
    store.close().await;
    // A station that works keeps the ledger to itself.
    let station = site.join().await.unwrap();
    let why = site.refusal().await;
    assert!(why.contains("svalbard works with the shared ledger"), "{why}");
    // Nothing of it remains: a second station joins.
    site.join_in("second").await.unwrap().close().await;
    station.close().await;
    // The migration of another file that has begun goes first.
    assert!(!site.killed_after(5).await);
    let other = Site { dir: tempfile::tempdir().unwrap(), database: Database::on(server) };
    let other = Site { database: Database { fleet: site.database.fleet.clone(), ..other.database }, ..other };
    let store = other.store();
    hand_in(&store, vec![whole("sat-7", 1, 8)]).await.unwrap();
    store.close().await;
    let why = other.refusal().await;
    assert!(why.contains("migration of another file") && why.contains("finish that one first"), "{why}");
    assert!(site.migrate(false).await.unwrap().finished);
    assert!(other.migrate(false).await.unwrap().finished, "files of other satellites may follow");
    // A satellite that the ledger knows from elsewhere.
    let third = Site { dir: tempfile::tempdir().unwrap(), database: Database::on(server) };
    let third = Site { database: Database { fleet: site.database.fleet.clone(), ..third.database }, ..third };
    let store = third.store();
    hand_in(&store, vec![whole("sat-7", 2, 8), whole("sat-8", 1, 8)]).await.unwrap();
    store.close().await;
    let why = third.refusal().await;
    assert!(why.contains("has other data of sat-7"), "{why}");
    assert!(third.dir.path().join("spool.redb").exists());
    // Its station goes back to a file of its own by mistake: a new one would know nothing of what was committed.
    let why = Store::open(&Env::production(), site.file(), 0).err().unwrap().to_string();
    assert!(why.contains("spool.redb.migrated") && why.contains("storage.kind: postgres"), "{why}");
    // The first file is used again, and meets another satellite.
    std::fs::rename(site.dir.path().join("spool.redb.migrated"), site.dir.path().join("spool.redb")).unwrap();
    let store = site.store();
    hand_in(&store, vec![whole("sat-8", 1, 8)]).await.unwrap();
    store.close().await;
    let why = site.refusal().await;
    assert!(why.contains("was migrated before") && why.contains("sat-8"), "{why}");
    let station = site.join().await.unwrap();
    assert_eq!(station.views().accounting().await.unwrap().len(), 4);
    station.close().await;
}
