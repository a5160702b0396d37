//! Two contacts at once.

use std::path::Path;
use std::time::{Duration, SystemTime};

use e2e::hostile::{Peer, epoch};
use e2e::{Agent, Batch, Ground, Ledger, SATELLITE, STATION, Scene, Sent, eventually};
use ground_station::pki::Role;
use perigee_shared::signal::{Counts, Signal};
use serde_json::{Value, json};

use crate::PROGRAMS;

const OTHER: &str = "beijing";

/// A satellite that has two contacts at once, and two stations with ledgers of their own.
struct Setting {
    agent: Agent,
    grounds: [Ground; 2],
    ledger: Ledger,
    scene: Scene,
    sent: usize,
}

impl Setting {
    async fn new() -> Self {
        let scene = Scene::new(PROGRAMS);
        scene.issue(Role::Station, OTHER);
        let mut grounds = [Ground::new(&scene), Ground::named(&scene, OTHER)];
        for ground in &mut grounds {
            ground.start().await;
        }
        let mut agent = Agent::new(&scene, grounds[0].link);
        agent.config["link"]["stations"][OTHER] = json!({"address": grounds[1].link.to_string()});
        let plan = scene.path().join("plan.yaml");
        agent.config["contacts"] =
            json!({"source": "plan", "simultaneous": 2, "file": plan, "fallback": "none"});
        write(&plan, &[STATION]);
        agent.start().await;
        Self { agent, grounds, ledger: Ledger::default(), scene, sent: 0 }
    }

    /// Contacts with these stations are open, and with no others.
    fn plan(&self, stations: &[&str]) {
        write(&self.scene.path().join("plan.yaml"), stations);
    }

    /// Hands telemetry over and waits until it is on the ground.
    async fn deliver(&mut self, requests: usize) {
        for _ in 0..requests {
            self.sent += 1;
            let batch = Batch::new(Signal::ALL[self.sent % 3], &format!("s{}", self.sent), 10, 400);
            self.agent.accept(&batch).await;
            self.ledger.note(&batch, &Sent::Acknowledged);
        }
        self.agent.drained().await;
    }

    /// Waits until the links stand as `is` says of their states by station; returns the status.
    async fn until(&self, what: &str, is: impl Fn(&dyn Fn(&str) -> Option<Value>) -> bool) -> Value {
        eventually(what, async || {
            let status = self.agent.ask(http::Method::GET, "/status", None).await?;
            let links = status["links"].as_array().cloned().unwrap_or_default();
            let of = |station: &str| links.iter().find(|link| link["station"] == station).cloned();
            if is(&of) { Ok(status) } else { Err(status["links"].to_string()) }
        })
        .await
    }
}

fn write(file: &Path, stations: &[&str]) {
    let time = |at: SystemTime| humantime::format_rfc3339_millis(at).to_string();
    let (from, to) =
        (SystemTime::now() - Duration::from_secs(10), SystemTime::now() + Duration::from_secs(3600));
    let entry =
        |station| json!({"station": station, "start": time(from), "end": time(to), "rate_down": "20Mbit/s"});
    let contacts: Vec<Value> = stations.iter().map(entry).collect();
    let new = file.with_extension("new");
    std::fs::write(&new, json!({"contacts": contacts}).to_string()).unwrap();
    std::fs::rename(new, file).unwrap();
}

fn is_up(link: Option<Value>) -> bool {
    link.is_some_and(|link| link["state"] == "up")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_contact_opens_before_the_first_closes_and_nothing_comes_twice() {
    let mut s = Setting::new().await;
    s.until("the first station answers", |of| is_up(of(STATION))).await;
    s.deliver(6).await;
    s.plan(&[STATION, OTHER]);
    let status = s.until("both answer", |of| is_up(of(STATION)) && is_up(of(OTHER))).await;
    let open: Vec<&Value> = status["contacts"].as_array().unwrap().iter().map(|c| &c["station"]).collect();
    assert_eq!(open.len(), 2, "{status:#}");
    assert_eq!(status["link"]["state"], "up");
    s.deliver(12).await;
    let text = s.agent.command(&["status"]).await.out;
    assert!(text.contains(STATION) && text.contains(OTHER), "{text}");

    let since = |status: &Value| {
        let links = status["links"].as_array().unwrap();
        links.iter().find(|link| link["station"] == OTHER).unwrap()["since_unix_nano"].clone()
    };
    s.plan(&[OTHER]);
    let after = s.until("the first one is left", |of| of(STATION).is_none() && is_up(of(OTHER))).await;
    assert_eq!(since(&after), since(&status), "the other link was up all the time");
    assert_eq!(after["link"]["station"], OTHER, "where one is shown it is the one that is up");
    s.deliver(6).await;
    assert_eq!(s.agent.metric("perigee_link_connections_total").await, 2);
    assert_eq!(s.agent.metric("perigee_link_resent_bytes_total").await, 0);

    let mut committed = Counts::default();
    for ground in &mut s.grounds {
        committed += ground.exported(Counts::default()).await;
        assert!(ground.gaps().await.is_empty());
    }
    assert_eq!(committed, s.ledger.items, "each segment went to one station");
    let mut arrived = s.grounds[0].sink.ids();
    s.grounds[1].sink.ids().into_iter().for_each(|(id, n)| *arrived.entry(id).or_default() += n);
    assert_eq!(arrived.len(), s.ledger.acknowledged.len());
    assert!(arrived.values().all(|n| *n == 1), "no item arrives twice");
    s.plan(&[]);
    eventually("each station has its pass", async || {
        let report = s.agent.ask(http::Method::GET, "/contact/report", None).await?;
        let passes = report["passes"].as_array().cloned().unwrap_or_default();
        let mut of: Vec<&str> = passes.iter().filter_map(|pass| pass["station"].as_str()).collect();
        of.sort_unstable();
        (of == [OTHER, STATION]).then_some(()).ok_or_else(|| report.to_string())
    })
    .await;
}

/// A ground of earlier software has one link of a satellite, the newer one, whatever slots there are. Another program with the satellite's
/// certificate has the same effect on one of two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_whose_place_was_taken_waits_until_the_other_one_is_over() {
    let mut s = Setting::new().await;
    s.until("the first station answers", |of| is_up(of(STATION))).await;
    s.plan(&[STATION, OTHER]);
    s.until("both answer", |of| is_up(of(STATION)) && is_up(of(OTHER))).await;
    let mut peer = Peer::connect(&s.scene, SATELLITE, s.grounds[0].link).await.unwrap();
    peer.hello(vec![epoch(1)]).await.unwrap();
    let taken = |link: Option<Value>| {
        let link = link.unwrap_or_default();
        link["state"] == "connecting" && link["last_error"].as_str().is_some_and(|e| e.contains("newer"))
    };
    s.until("its place is taken", |of| taken(of(STATION)) && is_up(of(OTHER))).await;
    // It would try again every second.
    for _ in 0..20 {
        s.deliver(3).await;
    }
    assert_eq!(s.agent.metric("perigee_link_connections_total").await, 2);
    s.plan(&[STATION]);
    s.until("it goes on alone", |of| is_up(of(STATION)) && of(OTHER).is_none()).await;
    assert_eq!(s.agent.metric("perigee_link_connections_total").await, 3);
    peer.closed().await;
}
