//! Spools that are lost and come back, and what the mirror knows of the gaps in between.

use std::path::Path;
use std::time::Duration;

use perigee_proto::link;
use perigee_shared::env::Env;
use perigee_shared::signal::SignalSet;
use simdisk::Disk;

use super::file::Spool;
use super::loss_tests::*;
use super::tests::*;
use super::*;

fn exported(spool: &mut Spool) -> Vec<u64> {
    let mut out = Vec::new();
    while let Some(found) = spool.read(|view| outlet::next(view, "a", SignalSet::ALL, 1)).unwrap() {
        out.push(found.header.id.sequence);
        progress(spool, "a", &done(found.place));
    }
    out
}

/// The station ran without its spool, whose waiting segments were then no more than a gap, and another one took its entry numbers:
/// where that one's exporter was, the spool that came back was taken to be exported, and the gap was too small by as much.
#[test]
fn a_spool_that_comes_back_exports_what_waited_in_it_and_the_gap_is_withdrawn() {
    for between in [0, 1, 4] {
        let disk = Disk::new();
        let mut spool = on(&disk);
        for sequence in 1..=5 {
            commit(&mut spool, sequence, spans(10));
        }
        progress(&mut spool, "a", &done(place(1)));
        progress(&mut spool, "a", &done(place(2)));
        spool.close().unwrap();
        let away = disk.content(Path::new(FILE)).unwrap();
        disk.delete(Path::new(FILE));

        let mut spool = on(&disk);
        assert_eq!(balance(&mut spool).lost.spans, 30);
        for sequence in 6..6 + between {
            commit(&mut spool, sequence, spans(7));
        }
        assert_eq!(exported(&mut spool).len() as u64, between);
        // One that waits when the spool is put back is a gap in its turn.
        if between > 0 {
            commit(&mut spool, 20, spans(3));
        }
        spool.close().unwrap();
        disk.put(Path::new(FILE), away);

        let waits = if between > 0 { 3 } else { 0 };
        let mut spool = on(&disk);
        let account = balance(&mut spool);
        assert_eq!((account.in_spool.spans, account.lost.spans), (30, waits), "{between}: {account:?}");
        assert_eq!(account.exported.spans, 20 + 7 * between);
        let gaps: Vec<_> = lost(&mut spool).iter().map(|gap| (gap.sequences, gap.unknown)).collect();
        assert_eq!(gaps, if between > 0 { vec![(Some((20, 20)), false)] } else { Vec::new() });
        commit(&mut spool, 30, spans(1));
        assert_eq!(exported(&mut spool), [3, 4, 5, 30], "{between}");
        spool.close().unwrap();
        let account = balance(&mut on(&disk));
        assert_eq!((account.exported.spans, account.lost.spans), (51 + 7 * between, waits));
    }
}

#[test]
fn what_came_again_while_the_spool_was_away_is_not_exported_again() {
    let disk = Disk::new();
    let mut spool = on(&disk);
    hello(&mut spool, 1..9, Vec::new());
    for sequence in 1..=5 {
        commit(&mut spool, sequence, spans(10));
    }
    progress(&mut spool, "a", &done(place(1)));
    spool.close().unwrap();
    let away = disk.content(Path::new(FILE)).unwrap();
    disk.delete(Path::new(FILE));

    let mut spool = on(&disk);
    for _ in 0..2 {
        // It does not hear that 3 has arrived.
        hello(&mut spool, 3..4, Vec::new());
        commit(&mut spool, 3, spans(10));
    }
    assert_eq!(exported(&mut spool), [3], "once");
    spool.close().unwrap();
    disk.put(Path::new(FILE), away);
    let mut spool = on(&disk);
    let account = balance(&mut spool);
    assert_eq!((account.exported.spans, account.lost.spans), (20, 0), "{account:?}");
    assert_eq!(exported(&mut spool), [2, 4, 5]);
    assert_eq!(balance(&mut spool).committed.spans, 50);
}

/// The whole of what a lane's agent remembered was taken for the gap, with the segments that the mirror knew.
#[test]
fn a_mirror_that_is_older_than_its_spool_bounds_the_gap_by_what_it_does_not_know() {
    let disk = Disk::new();
    let mut spool = on(&disk);
    hello(&mut spool, 1..9, Vec::new());
    for sequence in 1..=200 {
        commit(&mut spool, sequence, spans(1));
    }
    let ledger = spool.contents().ledger;
    exported(&mut spool);
    spool.close().unwrap();
    let mirror = disk.content(Path::new(MIRROR)).unwrap();
    let mut spool = on(&disk);
    for sequence in 201..=204 {
        commit(&mut spool, sequence, spans(50));
    }
    drop(spool);
    // The one that was killed had not written the mirror yet; and its successor is lost before the next contact.
    disk.put(Path::new(MIRROR), mirror);
    for _ in 0..2 {
        disk.delete(Path::new(FILE));
        on(&disk).close().unwrap();
    }
    disk.delete(Path::new(FILE));
    let mut spool = on(&disk);
    told(&mut spool, vec![counted(ledger, 1..205, 400)]);
    let gaps: Vec<_> = lost(&mut spool).iter().map(|g| (g.sequences, g.items.spans, g.unknown)).collect();
    assert_eq!(gaps, [(Some((201, 204)), 200, true)]);
    let account = balance(&mut spool);
    assert_eq!((account.committed.spans, account.exported.spans), (400, 200));
    spool.close().unwrap();

    // It stays a bound, with its segments, when the spool is lost again.
    disk.delete(Path::new(FILE));
    let mut spool = on(&disk);
    let gaps: Vec<_> = lost(&mut spool).iter().map(|g| (g.sequences, g.items.spans, g.unknown)).collect();
    assert_eq!(gaps, [(Some((201, 204)), 200, true)]);
    assert_eq!(balance(&mut spool).committed.spans, 400);
    told(&mut spool, vec![counted(ledger, 1..205, 400)]);
    assert_eq!(lost(&mut spool).len(), 1, "it is known");
}

/// Both files were lost, and the spool was found; or another station's ledger.json was copied here.
#[test]
fn a_spool_that_was_set_aside_beside_another_ledgers_mirror_comes_back_without_that_mirror() {
    let (disk, elsewhere) = (Disk::new(), Disk::new());
    // Environments of two disks are seeded alike.
    drop(elsewhere.env());
    let mut spool = on(&disk);
    for sequence in 1..=3 {
        commit(&mut spool, sequence, spans(10));
    }
    progress(&mut spool, "a", &done(place(1)));
    let ledger = spool.contents().ledger;
    spool.close().unwrap();
    on(&elsewhere).close().unwrap();
    disk.put(Path::new(MIRROR), elsewhere.content(Path::new(MIRROR)).unwrap());

    let spool = on(&disk);
    assert_ne!(spool.contents().ledger, ledger);
    let set_aside = spool.quarantined().unwrap();
    assert!(set_aside.why.contains("move ledger.json and spool.redb away"), "{}", set_aside.why);
    let aside = set_aside.moved_to.clone().unwrap();
    assert!(spool.contents().waiting.is_empty());
    spool.close().unwrap();

    // What the line says.
    disk.delete(Path::new(MIRROR));
    disk.put(Path::new(FILE), disk.content(&aside).unwrap());
    let mut spool = on(&disk);
    assert_eq!((spool.contents().ledger, spool.quarantined().is_none()), (ledger, true));
    let account = balance(&mut spool);
    assert_eq!((account.exported.spans, account.in_spool.spans, account.lost.spans), (10, 20, 0));
    assert_eq!(exported(&mut spool), [2, 3]);
}

async fn greet(store: &Store, epochs: Vec<link::Epoch>) -> Vec<u64> {
    let hello = link::Hello { epochs, ..link::Hello::default() };
    let mut answer = store.intake().ledger("sat-1".into(), hello).await.unwrap();
    answer.epochs.swap_remove(0).drops_acknowledged
}

fn with_drops(drops: Vec<link::Drop>) -> link::Epoch {
    link::Epoch { epoch: EPOCH, drops, ..link::Epoch::default() }
}

/// A satellite forgets what a lost log had once it is acknowledged, and `ledger.json` had it only seconds later.
#[tokio::test]
async fn what_is_acknowledged_of_drops_outlives_the_spool_however_soon_it_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (file, mirror) = (dir.path().join("spool.redb"), dir.path().join("ledger.json"));
    let env = Env::production();
    let store = Store::open(&env, settings(&dir, &[]), 0).unwrap();
    // The mirror was written as it began, and is again in five seconds.
    let written = async {
        while !mirror.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), written).await.unwrap();
    let mut acknowledged = greet(&store, vec![with_drops(vec![dropped(1, 1..3, 4)])]).await;
    let mut at_once = vec![std::fs::read(&mirror).unwrap()];
    for id in [2, 3] {
        let drops = vec![dropped(id, 3 * id..3 * id + 3, 4)];
        let drops = link::EpochDrops { epoch: EPOCH, drops };
        acknowledged.extend(store.intake().drops("sat-1".into(), drops.into()).await.unwrap().ids);
        at_once.push(std::fs::read(&mirror).unwrap());
    }
    assert_eq!(acknowledged, [1, 2, 3]);
    // What is known already costs nothing.
    std::fs::remove_file(&mirror).unwrap();
    assert_eq!(greet(&store, vec![with_drops(vec![dropped(1, 1..3, 4)])]).await, [1]);
    assert!(!mirror.exists());
    store.close().await;

    for (content, gaps) in at_once.into_iter().zip(1..) {
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&mirror, content).unwrap();
        let mut spool = open(&dir);
        let account = account(&mut spool);
        let shown = spool.read(|view| views::gaps(view, 100)).unwrap();
        assert_eq!((shown.len(), account.dropped.spans), (gaps, 4 * gaps as u64));
        assert!(shown.iter().all(|gap| gap.items.spans == 4 && !gap.unknown));
    }
}

/// The satellite has the only other copy then.
#[tokio::test]
async fn drops_are_not_acknowledged_while_the_mirror_cannot_have_them() {
    let dir = tempfile::tempdir().unwrap();
    let mirror = dir.path().join("ledger.json");
    let store = Store::open(&Env::production(), settings(&dir, &[]), 0).unwrap();
    std::fs::remove_file(&mirror).unwrap();
    std::fs::create_dir(&mirror).unwrap();
    let told = || vec![with_drops(vec![dropped(1, 1..3, 4)])];
    for _ in 0..2 {
        assert!(greet(&store, told()).await.is_empty());
    }
    let drops = link::EpochDrops { epoch: EPOCH, drops: vec![dropped(2, 4..5, 4)] };
    assert!(store.intake().drops("sat-1".into(), drops.into()).await.unwrap().ids.is_empty());
    let account = store.views().accounting().await.unwrap().remove("sat-1").unwrap();
    assert_eq!(account.dropped.spans, 8, "they are shown all the same, once");

    std::fs::remove_dir(&mirror).unwrap();
    assert_eq!(greet(&store, told()).await, [1]);
    assert!(mirror.exists());
}
