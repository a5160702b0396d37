//! SIGTERM: what was acknowledged stays, the end comes soon, and so does the next start.

use std::time::Duration;

use e2e::{Agent, Ground, Load, Process, STATION, Scene, eventually};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixDatagram};
use tokio::time::Instant;

use crate::{PROGRAMS, settle};

/// The longest that an end under load, or a start, may take here.
const SOON: Duration = Duration::from_secs(8);

async fn end(process: &mut Process) {
    let begun = Instant::now();
    let status = process.terminate().await;
    assert_eq!(status.code(), Some(0), "{}", process.log());
    assert!(begun.elapsed() < SOON, "it took {:?}", begun.elapsed());
}

/// Waits until the service manager at `socket` has been told `words`; `WATCHDOG=1` comes at any time.
async fn hears(socket: &UnixDatagram, words: &str) {
    let mut bytes = [0; 64];
    let told = async {
        loop {
            let length = socket.recv(&mut bytes).await.unwrap();
            match std::str::from_utf8(&bytes[..length]).unwrap() {
                told if told == words => return,
                other => assert_eq!(other, "WATCHDOG=1"),
            }
        }
    };
    tokio::time::timeout(SOON, told).await.unwrap_or_else(|_| panic!("{words} is not said"));
}

/// As systemd has it with `Type=notify` and a watchdog.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_manager_is_told_that_programs_are_ready_alive_and_stopping() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    let mut agent = Agent::new(&scene, ground.link);
    let manager = |name: &str, process: &mut Process| {
        let path = scene.path().join(name);
        process.set("NOTIFY_SOCKET", &path.display().to_string());
        process.set("WATCHDOG_USEC", "100000");
        UnixDatagram::bind(path).unwrap()
    };
    let of_ground = manager("ground.notify", &mut ground.process);
    let of_agent = manager("agent.notify", &mut agent.process);
    ground.start().await;
    agent.start().await;
    for (socket, process) in [(&of_ground, &mut ground.process), (&of_agent, &mut agent.process)] {
        hears(socket, "READY=1").await;
        hears(socket, "WATCHDOG=1").await;
        end(process).await;
        hears(socket, "STOPPING=1").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_in_the_middle_of_everything_loses_nothing() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    let mut agent = Agent::new(&scene, ground.link);
    agent.config["processors"]["batch"] = json!({"send_batch_size": 50, "timeout": "50ms"});
    ground.start().await;
    agent.start().await;
    agent.open_contact(STATION, json!({})).await;
    let load = Load::start(&agent, 3, 10, 300, Duration::from_millis(5));
    for round in 0..6 {
        let before = load.acknowledged();
        eventually("the clients get through", async || {
            let now = load.acknowledged();
            if now > before + 100 { Ok(()) } else { Err(now.to_string()) }
        })
        .await;
        let begun = if round % 2 == 0 {
            end(&mut agent.process).await;
            let begun = Instant::now();
            agent.start().await;
            begun
        } else {
            end(&mut ground.process).await;
            let begun = Instant::now();
            ground.start().await;
            begun
        };
        assert!(begun.elapsed() < SOON, "the start took {:?}", begun.elapsed());
        agent.open_contact(STATION, json!({})).await;
    }
    let ledger = load.stop().await;
    let again = settle(&mut agent, &mut ground, &ledger).await;
    assert_eq!(again, 0, "an orderly end leaves no request undecided");
    end(&mut agent.process).await;
    end(&mut ground.process).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigint_ends_too_and_a_second_start_finds_nothing_to_repair() {
    let scene = Scene::new(PROGRAMS);
    let mut agent = Agent::new(&scene, ([127, 0, 0, 1], 9).into());
    for _ in 0..2 {
        agent.start().await;
        agent.process.signal(nix::sys::signal::Signal::SIGINT);
        assert_eq!(agent.process.wait().await.code(), Some(0));
    }
    let repaired = |agent: &Agent| agent.process.log().contains("did not close the file");
    assert!(!repaired(&agent), "{}", agent.process.log());
    agent.start().await;
    agent.process.kill().await;
    agent.start().await;
    assert!(repaired(&agent), "a start after kill -9 says so: {}", agent.process.log());
}

/// Senders that have begun a request and do not go on, in its head or in its body, do not hold the end; one that does is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_that_are_slow_do_not_hold_the_end() {
    let scene = Scene::new(PROGRAMS);
    let mut agent = Agent::new(&scene, ([127, 0, 0, 1], 9).into());
    agent.start().await;
    let head = "POST /v1/logs HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-protobuf\r\n";
    let mut slow = Vec::new();
    for begun in [
        format!("{head}content-length: 1000000\r\n\r\n\x0a"),
        // A request that is answered, and half of the next head.
        format!("{head}content-length: 0\r\n\r\n{head}"),
        head.to_owned(),
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", agent.http)).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let mut answer = [0; 12];
    slow[1].read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    agent.process.signal(nix::sys::signal::Signal::SIGTERM);
    // The body that does not come is refused retryably.
    slow[0].read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503");
    let begun = Instant::now();
    assert_eq!(agent.process.wait().await.code(), Some(0), "{}", agent.process.log());
    assert!(begun.elapsed() < SOON, "it took {:?}", begun.elapsed());
    assert!(!agent.process.log().contains("did not end in time"), "{}", agent.process.log());
}
