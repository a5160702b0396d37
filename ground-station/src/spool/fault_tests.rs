//! The spool on a disk that fails.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use perigee_proto::link;
use perigee_shared::segment::{Codec, Encoder, Header, Lane, SegmentId, hash};
use perigee_shared::signal::{Counts, Signal, SignalSet, TimeRange};
use perigee_shared::store::StoreError;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use simdisk::{Disk, Fault, Operation, Trouble};

use super::file::Spool;
use super::*;

fn settings() -> Settings {
    Settings {
        directory: "/virtual".into(),
        max_bytes: 1 << 30,
        satellites: Vec::new(),
        ballast: 1 << 20,
        decoded_bases: 64 << 20,
        decoding: Default::default(),
        ledger_room: Default::default(),
        catalogue: Default::default(),
        keep: Keep::OFF,
        station: "svalbard".to_owned(),
        routes: [("a".to_owned(), SignalSet::ALL)].into(),
    }
}

fn incoming(sequence: u64) -> Incoming {
    let mut encoder = Encoder::new(Codec::ZstdRows, None).unwrap();
    let body: Vec<u8> = (0..5000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    encoder.push(Signal::Logs, &body).unwrap();
    let payload = encoder.finish().unwrap().payload;
    let header = Header {
        id: SegmentId { epoch: 1, lane: Lane::BULK, sequence },
        codec: 1,
        payload_len: payload.len() as u64,
        raw_len: body.len() as u64,
        hash: hash(&payload),
        items: Counts::of(Signal::Logs, 1),
        time: TimeRange::EMPTY,
        requests: 1,
        sealed_unix_nano: 0,
        base_sequence: None,
        is_base: false,
        delivery: None,
        made_of: None,
    };
    Incoming {
        satellite: "sat-1".into(),
        header: Arc::new(header),
        pieces: [Piece { offset: 0, bytes: payload }].into(),
        max_partial_bytes: 1 << 20,
        age: None,
    }
}

async fn commit(store: &Store, incoming: Incoming) -> Vec<Applied> {
    let taken = store.intake().put_payload(incoming).await.unwrap();
    store.intake().commit(vec![taken]).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_keeps_callers_waiting_and_nothing_is_lost_when_there_is_room_again() {
    let disk = Disk::new();
    let store = Store::open(&disk.env(), settings(), 0).unwrap();
    assert_eq!(commit(&store, incoming(1)).await, [Applied::New]);
    disk.set_full(true);
    let mut status = store.status();
    let other = store.clone();
    let waiting = tokio::spawn(async move { commit(&other, incoming(2)).await });
    status.wait_for(|s| s.failing.is_some()).await.unwrap();
    assert!(!status.borrow().has_room("sat-1"));
    assert!(status.borrow().failing.as_ref().unwrap().contains("free some space"));
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert!(!waiting.is_finished());
    assert!(!disk.env().store.exists(Path::new("/virtual/ballast")), "the ballast is given back");

    disk.set_full(false);
    assert_eq!(waiting.await.unwrap(), [Applied::New]);
    status.wait_for(|s| s.failing.is_none()).await.unwrap();
    let account = store.views().accounting().await.unwrap().remove("sat-1").unwrap();
    assert_eq!(account.committed.log_records, 2);
}

/// Counts events that have a text: those that the log has a line about, and all.
#[derive(Clone)]
struct Said(&'static str, Arc<[AtomicUsize; 2]>);

impl Said {
    fn counts(&self) -> [usize; 2] {
        [0, 1].map(|of| self.1[of].load(Ordering::Relaxed))
    }
}

impl tracing::Subscriber for Said {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = String::new();
        event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            text.push_str(&format!("{field}={value:?} "));
        });
        if text.contains(self.0) {
            let line = *event.metadata().level() <= tracing::Level::INFO;
            self.1[0].fetch_add(usize::from(line), Ordering::Relaxed);
            self.1[1].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_stays_full_has_a_line_a_minute_and_every_attempt_is_counted() {
    let said = Said("perigee.spool.failing", Arc::default());
    let _logs = tracing::subscriber::set_default(said.clone());
    let disk = Disk::new();
    let store = Store::open(&disk.env(), settings(), 0).unwrap();
    disk.set_full(true);
    let other = store.clone();
    let waiting = tokio::spawn(async move { commit(&other, incoming(1)).await });
    tokio::time::sleep(std::time::Duration::from_secs(150)).await;
    disk.set_full(false);
    assert_eq!(waiting.await.unwrap(), [Applied::New]);
    let [lines, events] = said.counts();
    assert!((1..=3).contains(&lines), "{lines} lines of {events}");
    assert!(events >= 50, "{events}");
}

#[tokio::test(start_paused = true)]
async fn a_spool_that_is_full_again_and_again_has_a_line_a_minute_and_every_time_is_counted() {
    let said = Said("perigee.spool.full", Arc::default());
    let _logs = tracing::subscriber::set_default(said.clone());
    let store = local::Local::open(&Disk::new().env(), settings(), 0).unwrap();
    for _ in 0..30 {
        for used in [1 << 30, 0] {
            store.keeper.note(upkeep::Level { used, ..upkeep::Level::default() });
        }
        tokio::time::advance(std::time::Duration::from_secs(3)).await;
    }
    assert_eq!(said.counts(), [2, 30]);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_cannot_be_written_has_a_line_a_minute() {
    let said = Said("mirror was not written", Arc::default());
    let _logs = tracing::subscriber::set_default(said.clone());
    let disk = Disk::new();
    let mut spool = Spool::open(&disk.env(), settings()).unwrap();
    disk.set_full(true);
    for _ in 0..30 {
        spool.mirror(true);
        tokio::time::advance(std::time::Duration::from_secs(5)).await;
    }
    assert_eq!(said.counts(), [3, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_opens_and_fails_again_has_one_line_and_every_failure_is_counted() {
    let said = Said("perigee.store.failed", Arc::default());
    let _logs = tracing::subscriber::set_default(said.clone());
    let disk = Disk::new();
    let store = Store::open(&disk.env(), settings(), 0).unwrap();
    for sequence in 1..=20 {
        let trouble = Trouble::InputOutput;
        disk.arm(Fault { operation: Operation::Sync, trouble, after: 0, times: 1, seed: sequence });
        commit(&store, incoming(sequence)).await;
        assert_eq!(disk.heal(), 1);
    }
    assert_eq!(said.counts(), [1, 20]);
}

#[test]
fn what_was_reported_survives_a_power_cut_at_every_write() {
    for cut in 0..400 {
        let disk = Disk::new();
        let mut reported = 0;
        let work = |reported: &mut u64| -> Result<(), SpoolError> {
            let mut spool = Spool::open(&disk.env(), settings())?;
            disk.power_off_after(cut);
            for sequence in 1..8 {
                let batch = [incoming(sequence)];
                if spool.write(|txn| intake::apply(txn, &batch))? == [Applied::New] {
                    *reported = sequence;
                }
                if sequence % 3 == 0
                    && let Some(found) = spool.read(|view| outlet::next(view, "a", SignalSet::ALL, 1))?
                {
                    let done = Progress { finished: true, ..Progress::at(found.place, 1) };
                    spool.write(|txn| outlet::progress(txn, "a", &done))?;
                }
            }
            spool.close()
        };
        let finished = work(&mut reported).is_ok();
        disk.restart_torn(cut);
        let mut spool = Spool::open(&disk.env(), settings()).unwrap();
        assert!(spool.quarantined().is_none(), "cut at {cut}");
        let segments = spool.read(views::accounting).unwrap().remove("sat-1").unwrap_or_default();
        assert!(segments.segments >= reported, "cut at {cut}: {} of {reported}", segments.segments);
        assert_eq!(segments.committed.log_records, segments.segments, "cut at {cut}");
        assert!(spool.snapshot().unwrap().verify().unwrap().is_empty());
        if finished {
            assert_eq!(reported, 7);
        }
    }
}

/// The bytes of the payload with this number are others now.
async fn damage(disk: &Arc<Disk>, store: Store, payload: u64) -> Store {
    store.close().await;
    let mut spool = Spool::open(&disk.env(), settings()).unwrap();
    let chunk = tables::ChunkKey { of: payload, piece: 0 };
    let overwrite = |txn: &mut file::Txn<'_>| {
        txn.tables.open_table(tables::SEGMENT_CHUNKS)?.insert(chunk, &b"other"[..])?;
        Ok(())
    };
    spool.write(overwrite).unwrap();
    spool.close().unwrap();
    Store::open(&disk.env(), settings(), 0).unwrap()
}

#[tokio::test(start_paused = true)]
async fn exporters_pass_over_what_is_damaged_and_get_the_rest() {
    let disk = Disk::new();
    let store = Store::open(&disk.env(), settings(), 0).unwrap();
    for sequence in 1..=3 {
        commit(&store, incoming(sequence)).await;
    }
    let store = damage(&disk, store, 2).await;
    let mut sequences = Vec::new();
    while let Some(work) = store.outlet().next("a".into(), SignalSet::ALL, 1).await.unwrap() {
        sequences.push(work.header.id.sequence);
        assert_eq!(work.requests().unwrap().count(), 1);
        let done = Progress { finished: true, ..Progress::at(work.place, 1) };
        store.outlet().progress("a".into(), done).await.unwrap();
    }
    assert_eq!(sequences, [1, 3]);
    let account = store.views().accounting().await.unwrap().remove("sat-1").unwrap();
    assert_eq!((account.exported.log_records, account.lost.log_records), (2, 1));
    let counted = store.views().gap_counts().await.unwrap();
    assert_eq!(counted, [(("sat-1".to_owned(), "station_lost".to_owned()), 1)].into());
}

#[tokio::test(start_paused = true)]
async fn the_scrub_finds_damage_before_it_is_needed() {
    let disk = Disk::new();
    let store = Store::open(&disk.env(), settings(), 0).unwrap();
    for sequence in 1..=5 {
        commit(&store, incoming(sequence)).await;
    }
    let store = damage(&disk, store, 4).await;
    assert!(store.upkeep().scrub().await.unwrap().finished);
    let view = store.views().overview().await.unwrap();
    assert_eq!((view.scrub.checked, view.scrub.damaged, view.scrub.rounds), (5, 1, 1));
    assert_eq!(view.segments, 4);
    assert!(store.upkeep().scrub().await.unwrap().finished);
    assert_eq!(store.views().overview().await.unwrap().scrub.damaged, 1, "it was removed");
    assert!(store.upkeep().verify().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_backup_is_whole_and_is_made_while_the_spool_works() {
    let disk = Disk::new();
    let store = Store::open(&disk.env(), settings(), 0).unwrap();
    commit(&store, incoming(1)).await;
    let bytes = store.upkeep().backup("/backup/spool.redb".into()).await.unwrap();
    assert!(bytes > 0);
    commit(&store, incoming(2)).await;
    let again = store.upkeep().backup("/backup/spool.redb".into()).await.unwrap_err().to_string();
    assert!(again.contains("already"), "{again}");
    let ledger = store.views().overview().await.unwrap().ledger;
    store.close().await;
    let copy = Settings { directory: "/backup".into(), ..settings() };
    let copy = Store::open_existing(&disk.env(), copy).unwrap();
    assert_eq!(copy.views().overview().await.unwrap().ledger, ledger);
    assert_eq!(copy.views().accounting().await.unwrap()["sat-1"].segments, 1);
    assert!(copy.upkeep().verify().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_finds_no_room_leaves_the_spool_as_it_is() {
    let disk = Disk::new();
    let store = Store::open(&disk.env(), settings(), 1 << 20).unwrap();
    commit(&store, incoming(1)).await;
    let fault =
        Fault { operation: Operation::Write, trouble: Trouble::NoSpace, after: 3, times: u64::MAX, seed: 0 };
    disk.arm(fault);
    let error = store.upkeep().backup("/backup/spool.redb".into()).await.unwrap_err().to_string();
    assert!(error.contains("/backup/spool.redb: its volume is full"), "{error}");
    assert!(disk.heal() > 0);
    assert!(!disk.files().iter().any(|file| file.starts_with("/backup")), "nothing is left of it");
    assert!(disk.files().iter().any(|file| file.ends_with("ballast")));
    assert_eq!(commit(&store, incoming(2)).await, [Applied::New], "it was never closed");
    store.upkeep().backup("/backup/spool.redb".into()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_file_that_something_else_cuts_or_overwrites_is_not_called_whole() {
    for cut in [false, true] {
        let disk = Disk::new();
        let store = Store::open(&disk.env(), settings(), 0).unwrap();
        for sequence in 1..=3 {
            commit(&store, incoming(sequence)).await;
        }
        assert!(store.upkeep().verify().await.unwrap().is_empty());
        // The mirror is written.
        tokio::time::sleep(std::time::Duration::from_secs(10)).await;
        disk.damage(
            Path::new("/virtual/spool.redb"),
            |file| if cut { file.truncate(50_000) } else { file.fill(0) },
        );
        let error = store.upkeep().verify().await.unwrap_err().to_string();
        assert!(error.contains("cut or overwritten"), "{error}");
        tokio::time::sleep(std::time::Duration::from_secs(10)).await;
        assert_eq!(commit(&store, incoming(4)).await, [Applied::New]);
        let account = store.views().accounting().await.unwrap().remove("sat-1").unwrap();
        assert_eq!((account.committed.log_records, account.lost.log_records), (4, 3));
        assert!(store.upkeep().verify().await.unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_moved_is_said_to_be_until_it_is_back() {
    let disk = Disk::new();
    let store = Store::open(&disk.env(), settings(), 0).unwrap();
    let (mut status, driver) = (store.status(), disk.env().store);
    let [place, aside] = ["/virtual/spool.redb", "/virtual/aside"].map(Path::new);
    driver.rename(place, aside).unwrap();
    disk.put(place, disk.content(aside).unwrap());
    assert_eq!(commit(&store, incoming(1)).await, [Applied::New], "it is still written");
    status.wait_for(|status| status.moved.as_deref() == Some("/virtual/spool.redb was moved")).await.unwrap();
    driver.rename(aside, place).unwrap();
    status.wait_for(|status| status.moved.is_none()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_deleted_under_the_process_is_replaced_and_in_the_end_given_up() {
    let disk = Disk::new();
    let store = Store::open(&disk.env(), settings(), 0).unwrap();
    commit(&store, incoming(1)).await;
    // The mirror is written.
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    let ledger = store.views().overview().await.unwrap().ledger;
    for round in 2..4 {
        disk.delete(Path::new("/virtual/spool.redb"));
        assert_eq!(commit(&store, incoming(round)).await, [Applied::New]);
        tokio::time::sleep(std::time::Duration::from_secs(10)).await;
        assert_eq!(store.views().overview().await.unwrap().ledger, ledger);
        let account = store.views().accounting().await.unwrap().remove("sat-1").unwrap();
        assert_eq!((account.committed.log_records, account.lost.log_records), (round, round - 1));
        assert_eq!(commit(&store, incoming(1)).await, [Applied::Duplicate], "once in a ledger");
        assert_eq!(store.status().borrow().gone, None);
    }
    disk.delete(Path::new("/virtual/spool.redb"));
    let taken = store.intake().put_payload(incoming(9)).await.unwrap();
    assert!(store.intake().commit(vec![taken]).await.is_err());
    let gone = store.status().borrow().gone.clone().unwrap();
    assert!(gone.contains("damaged"), "{gone}");
}

#[tokio::test]
async fn a_spool_whose_thread_has_ended_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { directory: dir.path().to_owned(), ..settings() };
    let store = Store::open(&perigee_shared::env::Env::production(), settings, 0).unwrap();
    let mut status = store.status();
    drop(store.local().keeper.owner.call(|_| panic!("planted")).await);
    let gone = status.wait_for(|s| s.gone.is_some()).await.unwrap().gone.clone();
    assert_eq!(gone.unwrap(), "the spool's thread has ended");
    assert!(matches!(store.views().accounting().await, Err(SpoolError::Gone)));
}

/// Commits segments while the disk has `trouble` now and then, and cuts the power; what was answered is there afterwards.
fn survive(seed: u64, trouble: Trouble) -> u64 {
    let mut rng = SmallRng::seed_from_u64(seed);
    let disk = Disk::new();
    let mut spool = Spool::open(&disk.env(), settings()).unwrap();
    let (mut answered, mut sequence) = (Vec::new(), 0);
    let operation = match trouble {
        Trouble::WriteBack | Trouble::Lie => Operation::Sync,
        Trouble::NoSpace if rng.random() => Operation::Grow,
        Trouble::InputOutput if rng.random() => Operation::Sync,
        _ => Operation::Write,
    };
    let mut fired = 0;
    for _ in 0..3 {
        disk.arm(Fault {
            operation,
            trouble,
            after: rng.random_range(0..40),
            times: rng.random_range(1..4),
            seed,
        });
        for _ in 0..12 {
            sequence += 1;
            let batch = [incoming(sequence)];
            if spool.write(|txn| intake::apply(txn, &batch)).is_ok() {
                answered.push(sequence);
            }
            if let Ok(Some(found)) = spool.read(|view| outlet::next(view, "a", SignalSet::ALL, 1)) {
                let done = Progress { finished: true, ..Progress::at(found.place, 1) };
                drop(spool.write(|txn| outlet::progress(txn, "a", &done)));
            }
        }
        fired += disk.heal();
    }
    let counted = spool.read(views::accounting).unwrap_or_default().remove("sat-1").unwrap_or_default();
    disk.kill();
    if rng.random() {
        disk.restart_torn(seed);
    } else {
        disk.restart();
    }
    let mut spool = Spool::open(&disk.env(), settings()).unwrap();
    assert!(spool.quarantined().is_none(), "seed {seed}, {trouble:?}");
    let account = spool.read(views::accounting).unwrap().remove("sat-1").unwrap_or_default();
    let sum = account.exported.log_records + account.lost.log_records + account.in_spool.log_records;
    assert_eq!(account.committed.log_records, sum, "seed {seed}, {trouble:?}: {account:?}");
    assert_eq!(account.lost.log_records, 0, "seed {seed}, {trouble:?}: {account:?}");
    assert!(account.exported.log_records >= counted.exported.log_records, "seed {seed}, {trouble:?}");
    for sequence in answered {
        let batch = [incoming(sequence)];
        let again = spool.write(|txn| intake::apply(txn, &batch)).unwrap();
        assert_eq!(again, [Applied::Duplicate], "seed {seed}, {trouble:?}: {sequence}");
    }
    assert!(spool.snapshot().unwrap().verify().unwrap().is_empty());
    fired
}

#[test]
fn what_was_answered_survives_a_disk_that_fails_and_a_power_cut() {
    for trouble in [Trouble::WriteBack, Trouble::InputOutput, Trouble::Short, Trouble::NoSpace] {
        let fired: u64 = (0..25).map(|seed| survive(seed, trouble)).sum();
        assert!(fired > 25, "{trouble:?} happened {fired} times");
    }
}

#[test]
fn what_a_lying_disk_loses_is_a_gap_once_the_satellite_says_what_it_was_told() {
    let (mut lost, mut quarantined) = (0, 0);
    for seed in 0..40 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let disk = Disk::new();
        let mut spool = Spool::open(&disk.env(), settings()).unwrap();
        spool.mirror(true);
        let ledger = spool.contents().ledger;
        for sequence in 1..10 {
            let batch = [incoming(sequence)];
            spool.write(|txn| intake::apply(txn, &batch)).unwrap();
            if sequence == 5 {
                let (operation, trouble) = (Operation::Sync, Trouble::Lie);
                disk.arm(Fault { operation, trouble, after: rng.random_range(0..3), times: 99, seed });
            }
        }
        disk.kill();
        disk.heal();
        disk.restart_torn(seed);
        let mut spool = Spool::open(&disk.env(), settings()).unwrap();
        quarantined += u64::from(spool.quarantined().is_some());
        assert_eq!(spool.contents().ledger, ledger, "seed {seed}");
        let acknowledged = link::Acknowledged {
            ledger,
            sequences: vec![link::Range { start: 1, end: 10 }],
            ..link::Acknowledged::default()
        };
        let lane = link::Lane {
            lane: 8,
            next_sequence: 10,
            acknowledged: vec![acknowledged],
            ..link::Lane::default()
        };
        let epoch = link::Epoch { epoch: 1, lanes: vec![lane], ..link::Epoch::default() };
        let hello = link::Hello { epochs: vec![epoch], ..link::Hello::default() };
        spool.write(|txn| ledger::hello(txn, "sat-1", &hello.clone().into())).unwrap();
        let gaps = spool.read(|view| views::gaps(view, 100)).unwrap();
        for sequence in 1..10 {
            let is_gap = gaps.iter().filter_map(|g| g.sequences).any(|(a, z)| (a..=z).contains(&sequence));
            let batch = [incoming(sequence)];
            let again = spool.write(|txn| intake::apply(txn, &batch)).unwrap();
            match again[0] {
                Applied::Duplicate => {}
                Applied::New => assert!(is_gap, "seed {seed}: {sequence} is lost and nobody knows"),
                ref other => panic!("seed {seed}: {other:?}"),
            }
            lost += u64::from(is_gap);
        }
    }
    assert!(lost > 40, "{lost} segments were lost");
    assert!(quarantined < 40, "{quarantined}");
}

/// The bytes of a segment that an exporter is handed, by its sequence.
fn exported(spool: &mut Spool) -> Vec<u64> {
    let mut out = Vec::new();
    while let Some(found) = spool.read(|view| outlet::next(view, "a", SignalSet::ALL, 1)).unwrap() {
        let (place, sequence) = (found.place, found.header.id.sequence);
        match spool.snapshot().unwrap().work(found) {
            Ok(work) => {
                assert_eq!(work.requests().unwrap().map(|r| r.unwrap().body.len()).sum::<usize>(), 5000);
                out.push(sequence);
                let done = Progress { finished: true, ..Progress::at(place, 1) };
                spool.write(|txn| outlet::progress(txn, "a", &done)).unwrap();
            }
            Err(decode::Fault::Payload) => spool.write(|txn| outlet::lose(txn, place)).unwrap(),
            Err(fault) => panic!("{fault:?}"),
        }
    }
    out
}

#[test]
fn a_bit_that_is_flipped_in_the_newest_commits_under_a_running_spool_loses_nothing_without_a_counted_gap() {
    let file = Path::new("/virtual").join("spool.redb");
    let (mut rolled_back, mut counted) = (0, 0);
    for seed in 0..120 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let disk = Disk::new();
        let mut spool = Spool::open(&disk.env(), settings()).unwrap();
        let ledger = spool.contents().ledger;
        let commit = |spool: &mut Spool, sequence| {
            let batch = [incoming(sequence)];
            spool.write(|txn| intake::apply(txn, &batch))
        };
        for sequence in 1..=6 {
            commit(&mut spool, sequence).unwrap();
        }
        spool.mirror(true);
        let before = disk.content(&file).unwrap();
        commit(&mut spool, 7).unwrap();
        let after = disk.content(&file).unwrap();
        let changed = |at: &usize| before.get(*at) != after.get(*at) && after[*at] != 0;
        let changed: Vec<usize> = (4096..after.len()).filter(changed).collect();
        let at = changed[rng.random_range(0..changed.len())];
        disk.damage(&file, |content| content[at] ^= 1 << rng.random_range(0..8));
        // The process goes on, and reads what it does not have in memory any more.
        spool.note(&StoreError::Io("as after an error of the disk".to_owned()));
        let mut next = 8;
        for _ in 0..12 {
            if commit(&mut spool, next).is_ok() {
                next += 1;
            }
        }
        assert!(next > 9, "seed {seed}: it works again");
        let is_whole = spool.quarantined().is_none();
        let gaps = spool.read(|view| views::gaps(view, 100)).unwrap();
        if is_whole && let [gap] = &gaps[..] {
            rolled_back += 1;
            assert_eq!(
                (gap.sequences, gap.items.log_records, gap.unknown),
                (Some((7, 7)), 1, false),
                "seed {seed}"
            );
        }
        counted += gaps.len();
        // The satellite says what it was told, and still has the last one.
        let told = link::Acknowledged {
            ledger,
            sequences: vec![link::Range { start: 1, end: next }],
            ..link::Acknowledged::default()
        };
        let lane = link::Lane {
            lane: 8,
            next_sequence: next,
            acknowledged: vec![told],
            on_board: vec![link::Range { start: 7, end: 8 }],
            ..link::Lane::default()
        };
        let epoch = link::Epoch { epoch: 1, lanes: vec![lane], ..link::Epoch::default() };
        let hello = link::Hello { epochs: vec![epoch], ..link::Hello::default() };
        spool.write(|txn| ledger::hello(txn, "sat-1", &hello.clone().into())).unwrap();
        let have = exported(&mut spool);
        let gaps = spool.read(|view| views::gaps(view, 100)).unwrap();
        for sequence in (1..next).filter(|sequence| !have.contains(sequence)) {
            let is_gap = gaps.iter().filter_map(|g| g.sequences).any(|(a, z)| (a..=z).contains(&sequence));
            assert!(is_gap, "seed {seed}: {sequence} is lost and nobody knows");
        }
        if !have.contains(&7) {
            // It comes again, and the gap is none any more.
            assert_eq!(commit(&mut spool, 7).unwrap(), [Applied::New], "seed {seed}");
            assert_eq!(exported(&mut spool), [7], "seed {seed}");
        }
        let account = spool.read(views::accounting).unwrap().remove("sat-1").unwrap();
        let sum = account.exported.log_records + account.lost.log_records + account.in_spool.log_records;
        assert_eq!(account.committed.log_records, sum, "seed {seed}: {account:?}");
        if is_whole {
            assert_eq!(account.lost.log_records, 0, "seed {seed}: {account:?}");
        }
    }
    assert!(rolled_back > 20 && counted > 20, "{rolled_back} were rolled back, {counted} gaps");
}
