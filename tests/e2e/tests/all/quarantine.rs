//! A log that cannot be opened: it is moved aside, a new epoch begins, and the ground learns what is missing.

use std::path::PathBuf;

use e2e::wire::{Target, http1};
use e2e::{Agent, Batch, Ground, Ledger, SATELLITE, STATION, Scene, Sent, eventually, free_port};
use http::{Method, StatusCode};
use perigee_shared::signal::{Counts, Signal};
use serde_json::{Value, json};

use crate::{PROGRAMS, items};

struct Setting {
    agent: Agent,
    ground: Ground,
    before: Ledger,
    lost: Ledger,
    _scene: Scene,
}

fn batch(name: &str, n: usize) -> Batch {
    Batch::new(Signal::ALL[n % 3], &format!("{name}{n}"), 10, 500)
}

/// An agent that has delivered 90 items and has 120 on board, and is stopped.
async fn setting() -> Setting {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let mut agent = Agent::new(&scene, ground.link);
    agent.config["processors"]["batch"] = json!({"send_batch_size": 30});
    agent.start().await;
    let (mut before, mut lost) = (Ledger::default(), Ledger::default());
    for n in 0..9 {
        agent.accept(&batch("before", n)).await;
        before.note(&batch("before", n), &Sent::Acknowledged);
    }
    agent.open_contact(STATION, json!({})).await;
    agent.drained().await;
    agent.close_contact().await;
    for n in 0..12 {
        agent.accept(&batch("lost", n)).await;
        lost.note(&batch("lost", n), &Sent::Acknowledged);
    }
    eventually("all of it is in segments", async || {
        let wal = agent.status().await["wal"].clone();
        (wal["segments"] == 4).then_some(()).ok_or_else(|| wal.to_string())
    })
    .await;
    agent.process.kill().await;
    Setting { agent, ground, before, lost, _scene: scene }
}

fn quarantined(agent: &Agent) -> Vec<PathBuf> {
    let files = std::fs::read_dir(agent.wal_directory()).unwrap().map(|e| e.unwrap().path());
    files.filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with("wal.redb.")).collect()
}

/// The new epoch works, the old one is closed on the ground; returns the gaps of reason corruption.
async fn goes_on_with_a_new_epoch(s: &mut Setting) -> Vec<Value> {
    s.agent.start().await;
    assert_eq!(quarantined(&s.agent).len(), 1, "the file is kept");
    s.agent.open_contact(STATION, json!({})).await;
    let mut after = Ledger::default();
    for n in 0..6 {
        s.agent.accept(&batch("after", n)).await;
        after.note(&batch("after", n), &Sent::Acknowledged);
    }
    s.agent.drained().await;
    let delivered = s.before.items + after.items;
    assert_eq!(s.ground.exported(delivered).await, delivered);
    let arrived = s.ground.sink.ids();
    for id in s.before.acknowledged.iter().chain(&after.acknowledged) {
        assert_eq!(arrived.get(id), Some(&1), "{id}");
    }
    assert!(s.lost.acknowledged.iter().all(|id| !arrived.contains_key(id)));
    let gaps = eventually("the old epoch is closed", async || {
        let all = s.ground.ask("/api/v1/satellites").await?;
        let epochs = all[0]["epochs"].as_array().unwrap().clone();
        let closed = epochs.len() == 2 && epochs[0]["closed"] == true && epochs[1]["closed"] == false;
        if closed { Ok(s.ground.gaps().await) } else { Err(format!("{all:#}")) }
    })
    .await;
    assert!(!gaps.is_empty() && gaps.iter().all(|g| g["reason"] == "corruption"), "{gaps:#?}");
    gaps
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_moved_aside_and_its_epoch_is_closed_with_what_the_mirror_knows() {
    let mut s = setting().await;
    std::fs::write(s.agent.wal_directory().join("wal.redb"), vec![0x5a; 8192]).unwrap();
    let gaps = goes_on_with_a_new_epoch(&mut s).await;
    let sum: Counts = gaps.iter().map(|g| items(&g["items"])).sum();
    assert_eq!(sum, s.lost.items, "the mirror was written at the last seal: {gaps:#?}");
    assert!(gaps.iter().any(|g| g["unknown"] == true), "more may have been accepted since: {gaps:#?}");
    let named = gaps.iter().filter(|g| g["sequences"].is_array());
    assert!(named.clone().count() == 1 && named.into_iter().all(|g| g["unknown"] == false), "{gaps:#?}");
    let account = s.agent.account().await;
    assert_eq!(account.dropped, s.lost.items, "the counts survive the epoch: {account:?}");
    let ground = s.ground.accounting_of(SATELLITE).await;
    assert_eq!(items(&ground["dropped"]), s.lost.items);
    assert_eq!(account.accepted, items(&ground["exported"]) + items(&ground["dropped"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_without_its_mirror_is_reported_as_unknown_never_as_nothing() {
    let mut s = setting().await;
    std::fs::write(s.agent.wal_directory().join("wal.redb"), b"not a database").unwrap();
    std::fs::remove_file(s.agent.wal_directory().join("counters.json")).unwrap();
    let gaps = goes_on_with_a_new_epoch(&mut s).await;
    assert!(gaps.iter().any(|g| g["unknown"] == true), "{gaps:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_a_later_format_or_no_permission_is_refused_and_not_touched() {
    let mut s = setting().await;
    let path = s.agent.wal_directory().join("wal.redb");
    // A directory in its place cannot be opened, whoever asks; it is no damage.
    let aside = path.with_extension("aside");
    std::fs::rename(&path, &aside).unwrap();
    std::fs::create_dir(&path).unwrap();
    let exit = s.agent.command(&["run"]).await;
    assert!(exit.code == Some(1) && exit.err.contains("storage.directory"), "{exit:?}");
    assert!(path.is_dir() && quarantined(&s.agent).is_empty());
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    s.agent.start().await;
    assert_eq!(s.agent.account().await.on_board, s.lost.items);
}

/// A store that is moved or deleted under a running agent: health says so at once, status says what can be done, and that is true.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_gone_is_said_with_what_can_be_done() {
    let scene = Scene::new(PROGRAMS);
    let mut agent = Agent::new(&scene, ([127, 0, 0, 1], 9).into());
    let port = free_port();
    agent.config["extensions"]["health_check"] = json!({"endpoint": format!("127.0.0.1:{port}")});
    agent.start().await;
    let health = async || {
        let answer = http1(&Target::tcp(port), Method::GET, "/", &[], bytes::Bytes::new()).await.unwrap();
        (answer.status, String::from_utf8(answer.body.to_vec()).unwrap())
    };
    let mut all = Ledger::default();
    let mut send = async |agent: &Agent, n| {
        let sent = agent.send(&batch("item", n)).await;
        all.note(&batch("item", n), &sent);
        (sent, all.items)
    };
    assert_eq!(send(&agent, 0).await.0, Sent::Acknowledged);
    assert_eq!(health().await.0, StatusCode::OK);

    let path = agent.wal_directory().join("wal.redb");
    let aside = path.with_extension("aside");
    std::fs::rename(&path, &aside).unwrap();
    assert_eq!(health().await.0, StatusCode::SERVICE_UNAVAILABLE);
    let status = agent.command(&["status"]).await.out;
    assert!(status.contains("was moved") && status.contains("move the file back"), "{status}");
    assert_eq!(send(&agent, 1).await.0, Sent::Acknowledged);
    assert!(agent.process.terminate().await.success());
    std::fs::rename(&aside, &path).unwrap();
    agent.start().await;
    let (sent, items) = send(&agent, 2).await;
    assert_eq!((sent, health().await.0), (Sent::Acknowledged, StatusCode::OK));
    assert_eq!(agent.account().await.on_board, items, "nothing is lost");

    std::fs::remove_dir_all(agent.wal_directory()).unwrap();
    let (code, said) = health().await;
    assert!(code == StatusCode::SERVICE_UNAVAILABLE && said.contains("was deleted"), "{said}");
    for n in 3..5 {
        assert_ne!(send(&agent, n).await.0, Sent::Acknowledged, "before and after the log was closed");
        let status = agent.command(&["status"]).await.out;
        let advice = format!("until {} is there", agent.wal_directory().display());
        assert!(status.contains("was deleted") && status.contains(&advice), "{status}");
        assert!(!status.contains("backup"), "{status}");
        assert_eq!(health().await.0, StatusCode::SERVICE_UNAVAILABLE);
    }
    std::fs::create_dir(agent.wal_directory()).unwrap();
    eventually("the agent goes on by itself", async || match agent.send(&batch("after", 0)).await {
        Sent::Acknowledged => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(health().await.0, StatusCode::OK);
    assert!(!agent.command(&["status"]).await.out.contains("THE STORE"));
}
