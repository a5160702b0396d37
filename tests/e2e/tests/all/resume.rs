//! Contract 5: an interrupted transfer costs at most what was in flight.

use std::time::Duration;

use e2e::{Agent, Batch, Ground, Ledger, Scene, Sent, eventually};
use linkem::{Config, Direction, Link, Path};
use perigee_shared::signal::Signal;
use serde_json::json;

use crate::{PROGRAMS, settle};

const RATE: u64 = 40_000_000;
const DELAY: Duration = Duration::from_millis(20);
/// The agent sizes its send window by the rate that the contact is said to have: four congestion windows of a quarter more than
/// 0.1 s of it, and what acknowledgements add.
const SEND_WINDOW: u64 = RATE / 8 / 10 * 52 / 10;
const DATAGRAM: u64 = 1_452;
/// A handshake with both certificates, Hello and Resume, and the control stream's share.
const HANDSHAKE: u64 = 24 << 10;

fn slow() -> Path {
    Path { rate: Some(RATE), delay: DELAY, ..Path::default() }
}

/// An agent with one segment of about six MiB on board, a ground, and a slow link between them.
struct Setting {
    agent: Agent,
    ground: Ground,
    link: Link,
    ledger: Ledger,
    payload: u64,
    _scene: Scene,
}

impl Setting {
    async fn new(sync_bytes: &str, sync_interval: &str) -> Self {
        let scene = Scene::new(PROGRAMS);
        let mut ground = Ground::new(&scene);
        ground.config["link"]["partial_sync_bytes"] = json!(sync_bytes);
        ground.config["link"]["partial_sync_interval"] = json!(sync_interval);
        ground.start().await;
        let config = Config { forward: slow(), back: slow(), ..Config::perfect(ground.link) };
        let link = Link::start(config).await.unwrap();
        let mut agent = Agent::new(&scene, link.local_addr());
        agent.config["processors"]["batch"] = json!({"send_batch_bytes": "6MiB", "max_hold_back": "32MiB"});
        agent.start().await;
        let mut ledger = Ledger::default();
        for n in 0..8 {
            let batch = Batch::new(Signal::ALL[n % 3], &format!("r{n}"), 100, 8_000);
            agent.accept(&batch).await;
            ledger.note(&batch, &Sent::Acknowledged);
        }
        let payload = eventually("a segment is sealed", async || {
            let inspect = agent.inspect().await;
            let segments = inspect["segments"].as_array().unwrap();
            segments.first().map(|s| s["payload_bytes"].as_u64().unwrap()).ok_or(inspect.to_string())
        })
        .await;
        assert!(payload > 6_000_000, "{payload}");
        Self { agent, ground, link, ledger, payload, _scene: scene }
    }

    async fn open(&self) {
        self.agent.open_contact(e2e::STATION, json!({"rate_down": RATE})).await;
    }

    /// A contact in which everything is shipped; returns the bytes of the segment that were sent in it.
    async fn finish(&mut self) -> u64 {
        let before = self.agent.metric("perigee_link_sent_bytes_total").await;
        self.open().await;
        self.agent.drained().await;
        self.agent.metric("perigee_link_sent_bytes_total").await - before
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contact_cut_in_mid_segment_resumes_above_zero_and_repeats_only_what_was_in_flight() {
    let mut s = Setting::new("256KiB", "200ms").await;
    s.link.cut_after_bytes(Direction::Forward, 3 << 20);
    s.open().await;
    s.link.wait_down().await;
    let cut = s.link.stats().forward;
    s.agent.close_contact().await;
    // What has arrived is more than what is held by QUIC's own bytes and the handshake.
    let least = cut.delivered_bytes * 95 / 100 - HANDSHAKE;
    let held = eventually("what has arrived is held", async || {
        let held = s.ground.held_bytes().await;
        if held >= least { Ok(held) } else { Err(format!("{held} of {}", cut.delivered_bytes)) }
    })
    .await;
    assert!(held < s.payload, "the cut was in mid-segment");
    let first_sent = s.agent.metric("perigee_link_sent_bytes_total").await;

    s.link.restore();
    let before = s.link.stats().forward;
    let sent = s.finish().await;
    let after = s.link.stats().forward;
    // What the queue has dropped is sent again in any case.
    let on_the_wire = after.bytes - before.bytes - (after.dropped.queue - before.dropped.queue) * DATAGRAM;
    assert_eq!(sent, s.payload - held, "only what the ground does not hold is sent");
    assert!(on_the_wire < sent * 105 / 100 + HANDSHAKE, "{on_the_wire} bytes for {sent}");

    let resent = s.agent.metric("perigee_link_resent_bytes_total").await;
    assert_eq!(resent, first_sent - held, "what was sent again is what was sent before and is not held");
    assert!(
        resent <= SEND_WINDOW + (32 << 10),
        "{resent} bytes again, more than QUIC may have unacknowledged"
    );
    // On the wire, what is repeated was in the link at the cut, or its acknowledgement was.
    let lost = (cut.dropped.in_flight + cut.dropped.queue) * DATAGRAM;
    let repeated = (cut.bytes + on_the_wire).saturating_sub(s.payload * 105 / 100 + 2 * HANDSHAKE);
    assert!(repeated <= lost, "{repeated} bytes were on the wire again, {lost} were lost");
    println!("held {held}, resent {resent}, lost in flight {lost}, on the wire again {repeated}");

    let again = settle(&mut s.agent, &mut s.ground, &s.ledger).await;
    assert_eq!(again, 0, "exactly once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ground_killed_in_mid_segment_costs_one_sync_interval_and_what_was_in_flight() {
    const SYNC: u64 = 512 << 10;
    let mut s = Setting::new("512KiB", "1s").await;
    s.open().await;
    let delivered = eventually("three MiB have arrived", async || {
        let delivered = s.link.stats().forward.delivered_bytes;
        if delivered > 3 << 20 { Ok(delivered) } else { Err(delivered.to_string()) }
    })
    .await;
    s.ground.process.kill().await;
    s.agent.close_contact().await;
    s.ground.start().await;
    let held = s.ground.held_bytes().await;
    assert!(held > 0 && held < s.payload, "{held}");
    let lost = delivered.saturating_sub(held);
    println!("arrived {delivered}, held {held}");
    assert!(lost <= SYNC + HANDSHAKE + delivered / 20, "{lost} bytes that had arrived are not held");

    let sent = s.finish().await;
    assert_eq!(sent, s.payload - held, "only what the ground does not hold is sent");
    let again = settle(&mut s.agent, &mut s.ground, &s.ledger).await;
    assert_eq!(again, 0, "exactly once");
}
