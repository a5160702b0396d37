//! A station was taken over: what is on board goes to an honest one all the same.

use e2e::hostile_station::{Lie, Station};
use e2e::{Agent, Batch, Ground, Ledger, STATION, Scene, Sent, eventually};
use ground_station::pki::Role;
use perigee_shared::signal::Signal;
use serde_json::json;

use crate::{PROGRAMS, settle};

const MALLORY: &str = "mallory";

/// Bytes that a process has written to files, the log's among them, and that it has in memory for itself.
fn usage(process: u32) -> (u64, u64) {
    let of = |file: &str, name: &str| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{process}/{file}")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    (of("io", "wchar:"), of("status", "RssAnon:") << 10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_station_says_an_honest_one_gets_everything() {
    for (lie, what) in Lie::ALL {
        let scene = Scene::new(PROGRAMS);
        scene.issue(Role::Station, MALLORY);
        let mut station = Station::start(&scene, MALLORY, lie);
        let mut ground = Ground::new(&scene);
        ground.start().await;
        let mut agent = Agent::new(&scene, ground.link);
        agent.config["processors"]["batch"] = json!({"send_batch_size": 30, "codec": "columns"});
        agent.config["link"]["stations"][MALLORY] = json!({"address": station.address.to_string()});
        agent.start().await;
        let process = agent.process.id().unwrap();
        let mut ledger = Ledger::default();
        let mut sealed = 0;
        for n in 0..30 {
            let batch = Batch::new(Signal::ALL[n % 3], &format!("a{n}"), 10, 100);
            agent.accept(&batch).await;
            ledger.note(&batch, &Sent::Acknowledged);
        }
        eventually("segments are sealed", async || {
            sealed = agent.metric("perigee_wal_segments").await;
            if sealed >= 8 { Ok(()) } else { Err(sealed.to_string()) }
        })
        .await;
        let epoch = agent.status().await["wal"]["epoch"].clone();

        agent.open_contact(MALLORY, json!({})).await;
        let (greeted, sent) = match lie {
            // Once it is believed, and then it is left alone.
            Lie::Contradicts => (2, 0),
            Lie::HasEverything | Lie::Silent => (1, 0),
            Lie::Endless => (1, 7_000),
        };
        drop(station.seen.wait_for(|seen| seen.greeted >= greeted && seen.sent >= sent).await.unwrap());
        let (written, _) = usage(process);
        match lie {
            Lie::Contradicts => {
                eventually("the station is left alone", async || {
                    let link = agent.status().await["link"].clone();
                    let said = link["last_error"].as_str().unwrap_or_default().contains("contradicts");
                    said.then_some(()).ok_or_else(|| link.to_string())
                })
                .await;
                assert!(agent.process.log().contains("perigee.link.contradiction"), "it is an alarm");
                assert_eq!(station.seen.borrow().epochs, 2, "one more");
            }
            Lie::Endless => drop(station.seen.wait_for(|seen| seen.sent >= 35_000).await.unwrap()),
            Lie::HasEverything | Lie::Silent => {}
        }
        let (after, resident) = usage(process);
        println!(
            "{what}: {:?}, {} bytes written, {resident} in memory",
            *station.seen.borrow(),
            after - written
        );
        assert!(after - written < 1 << 20, "{what}: {} bytes were written", after - written);
        assert!(resident < 64 << 20, "{what}: {resident} bytes of memory");
        agent.close_contact().await;
        assert_eq!(agent.status().await["wal"]["epoch"] == epoch, lie != Lie::Contradicts);
        // What it claims to have is still to be sent, but for what it was sent and may have.
        if lie != Lie::HasEverything {
            assert_eq!(agent.account().await.on_board, ledger.items, "{what}");
        }

        let batch = Batch::new(Signal::Logs, "afterwards", 10, 100);
        agent.accept(&batch).await;
        ledger.note(&batch, &Sent::Acknowledged);
        agent.open_contact(STATION, json!({})).await;
        if lie == Lie::HasEverything {
            agent.drained().await;
            continue;
        }
        assert_eq!(settle(&mut agent, &mut ground, &ledger).await, 0, "{what}");
    }
}
