//! `wal salvage` at a running agent.

use e2e::{Agent, Batch, Ground, Ledger, STATION, Scene, Sent};
use perigee_shared::signal::Signal;
use serde_json::json;

use crate::PROGRAMS;

const NOTHING: &str = "nothing was appended\n";

/// Nobody sends anything else: what is appended has to wake who seals and who sends. And it comes once, however often it is asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_salvaged_in_a_contact_arrives_by_itself_and_once() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let mut agent = Agent::new(&scene, ground.link);
    agent.start().await;
    let mut all = Ledger::default();
    for n in 0..12 {
        let batch = Batch::new(Signal::ALL[n % 3], &format!("old{n}"), 10, 500);
        agent.accept(&batch).await;
        all.note(&batch, &Sent::Acknowledged);
    }
    assert!(agent.process.terminate().await.success());
    let old = agent.wal_directory().with_file_name("old.redb");
    std::fs::rename(agent.wal_directory().join("wal.redb"), &old).unwrap();
    std::fs::remove_dir_all(agent.wal_directory()).unwrap();
    agent.start().await;
    agent.open_contact(STATION, json!({})).await;
    let file = old.to_str().unwrap();
    let once = agent.command(&["wal", "salvage", file]).await;
    assert_eq!((once.code, once.out.as_str()), (Some(0), "appended: 12 groups with 120 items\n"));
    agent.drained().await;
    let again = agent.command(&["wal", "salvage", file]).await;
    assert!(again.code == Some(0) && again.out.starts_with(NOTHING), "{again:?}");
    assert!(again.out.contains("left out: 12 groups with 120 items that this log has or had"), "{again:?}");
    let may_repeat = agent.command(&["wal", "salvage", file, "--may-repeat"]).await;
    assert!(may_repeat.out.starts_with(NOTHING), "{may_repeat:?}");
    assert!(agent.process.terminate().await.success());
    let offline = agent.command(&["wal", "salvage", file]).await;
    assert!(offline.code == Some(0) && offline.out.starts_with(NOTHING), "{offline:?}");
    agent.start().await;
    agent.open_contact(STATION, json!({})).await;
    agent.drained().await;
    ground.exported(all.items).await;
    let arrived = ground.sink.ids();
    assert!(all.acknowledged.iter().all(|id| arrived.get(id) == Some(&1)), "{arrived:?}");
    assert_eq!(agent.account().await.accepted, all.items);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_is_not_salvaged_and_a_backup_replaces_no_file() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let mut agent = Agent::new(&scene, ground.link);
    agent.start().await;
    let copy = agent.wal_directory().with_file_name("spool-copy.redb");
    let file = copy.to_str().unwrap();
    assert_eq!(ground.command(&["spool", "backup", file]).await.code, Some(0));
    let refused = agent.command(&["wal", "salvage", file]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("it is a ground station's spool, not an agent's log"), "{refused:?}");
    let before = std::fs::read(&copy).unwrap();
    for exists in
        [agent.command(&["wal", "backup", file]).await, ground.command(&["spool", "backup", file]).await]
    {
        assert_eq!(exists.code, Some(1));
        assert!(exists.err.contains("exists already, and a backup replaces no file"), "{exists:?}");
        assert!(!exists.err.contains("its owner"), "{exists:?}");
    }
    assert_eq!(std::fs::read(&copy).unwrap(), before);
}
