//! `bench hostile`, the rows of the agent: one of its stations was taken over; what that costs those who send to it, its memory, and an
//! honest station.

use std::time::Duration;

use anyhow::Context;
use e2e::hostile_station::{Lie, Station};
use e2e::{Agent, Batch, Ground, STATION, Scene};
use ground_station::pki::Role;
use perigee_shared::signal::Signal;
use serde_json::json;
use tokio::time::Instant;

use crate::hostile::{Seen, row};
use crate::peak::{forget, resident};
use crate::report::Row;

const MALLORY: &str = "mallory";

/// A row for each kind of lie.
pub(crate) async fn run(scene: &Scene, time: Duration) -> anyhow::Result<Vec<Row>> {
    scene.issue(Role::Station, MALLORY);
    let mut ground = Ground::new(scene);
    ground.start().await;
    let mut rows = Vec::new();
    for (lie, what) in Lie::ALL {
        let station = Station::start(scene, MALLORY, lie);
        let mut agent = Agent::new(scene, ground.link);
        agent.config["processors"]["batch"] = json!({"send_batch_size": 30});
        agent.config["link"]["stations"][MALLORY] = json!({"address": station.address.to_string()});
        agent.start().await;
        let id = agent.process.id().context("the agent runs")?.to_string();
        let alone = sends(&agent, time / 2).await;
        forget(&id)?;
        let before = resident(&id, "VmRSS:")?;
        agent.open_contact(MALLORY, json!({})).await;
        let under = sends(&agent, time).await;
        let peak = resident(&id, "VmHWM:")?;
        agent.close_contact().await;
        let began = Instant::now();
        agent.open_contact(STATION, json!({})).await;
        agent.drained().await;
        rows.push(row(&format!("a station: {what}"), &under, &alone, (before, peak), began.elapsed()));
        agent.process.terminate().await;
    }
    ground.process.terminate().await;
    Ok(rows)
}

/// Sends one small request after the other for `time`, each of which is synced before it is answered.
async fn sends(agent: &Agent, time: Duration) -> Seen {
    let (began, mut all) = (Instant::now(), Vec::new());
    while all.is_empty() || began.elapsed() < time {
        let batch = Batch::new(Signal::ALL[all.len() % 3], &format!("a{}", all.len()), 10, 100);
        let sent = Instant::now();
        agent.accept(&batch).await;
        all.push(sent.elapsed());
    }
    Seen::of(all)
}
