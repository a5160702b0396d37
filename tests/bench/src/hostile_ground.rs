//! `bench memory --hostile`, the rows of the ground-station: three satellites send segments of up to 16 MiB of what takes many times its own
//! size, at once, while it exports to a file and to a backend, and while pages of the console are looked at. They have as much memory as
//! it has: what those send that have more may become a dead letter.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use e2e::{Agent, Ground, SATELLITE, STATION, Scene, free_port};
use ground_station::pki::Role;
use perigee_shared::signal::Signal;
use perigee_shared::units::ByteSize;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{Answer, Connection, Payload};
use crate::hostile_memory::{CASES, Case, Group};
use crate::ingest::mib;
use crate::peak::resident;
use crate::report::Row;
use crate::scrape;
use crate::sink::Sink;

/// Requests that each satellite has on board: one segment, or as many as its memory makes of them.
const REQUESTS: u64 = 4;

/// What is not exported by then is a figure of the row.
const PATIENCE: Duration = Duration::from_secs(300);

/// A row for each kind of contents.
pub(crate) async fn run(limit: ByteSize, sink: &Sink) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for case in CASES {
        let row = Box::pin(row(limit, sink.at, case)).await?;
        eprintln!("bench: {}", serde_json::to_string(&row).unwrap_or_default());
        rows.push(row);
    }
    Ok(rows)
}

async fn row(limit: ByteSize, sink: SocketAddr, case: &Case) -> anyhow::Result<Row> {
    let directory = tempfile::tempdir()?;
    let scene = Scene::new(::survive::programs::links(directory.path())?);
    let mut ground = Ground::new(&scene);
    let console: SocketAddr = format!("127.0.0.1:{}", free_port()).parse()?;
    ground.config["memory"] = json!({"limit": limit.0});
    ground.config["storage"]["max_bytes"] = json!("2GiB");
    ground.config["extensions"]["console"] = json!({"endpoint": console.to_string()});
    ground.config["exporters"]["otlphttp/sink"] = json!({"endpoint": format!("http://{sink}")});
    for signal in Signal::ALL {
        let to = json!([format!("file/{}", signal.name()), "otlphttp/sink"]);
        ground.config["service"]["pipelines"][signal.name()]["exporters"] = to;
    }
    let names = [SATELLITE, "sat-2", "sat-3"];
    for name in &names[1..] {
        scene.issue(Role::Satellite, name);
        ground.config["link"]["satellites"][*name] = json!({});
    }
    ground.start().await;
    let mut agents = Vec::new();
    for name in names {
        let mut agent = Agent::named(&scene, name, name, ground.link);
        agent.config["processors"]["memory_limiter"] = json!({"limit": limit.0});
        agent.config["processors"]["batch"] = json!({"send_batch_bytes": "32MiB"});
        agent.start().await;
        load(&agent, case).await?;
        agents.push(agent);
    }
    let id = ground.process.id().context("the ground-station runs")?;
    let group = Group::around(id, limit.0 + limit.0 / 4);
    let began = Instant::now();
    for agent in &agents {
        agent.open_contact(STATION, json!({})).await;
    }
    let mut viewers = JoinSet::new();
    for page in ["/", "/data", "/live", "/satellites/sat-1", "/gaps", "/passes", "/api/v1/events"] {
        viewers.spawn(view(console, page));
    }
    let (mut peak, mut left) = (0, Some(u64::MAX));
    let metrics = SocketAddr::from(([127, 0, 0, 1], ground.metrics_port));
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let mut asked = Instant::now();
    while left != Some(0) {
        ticks.tick().await;
        // The control group has killed it, or it has ended by itself: the row says which.
        let Ok(now) = resident(&id.to_string(), "RssAnon:") else { break };
        peak = peak.max(now);
        if began.elapsed() > PATIENCE {
            break;
        }
        if asked.elapsed() > Duration::from_millis(500) {
            asked = Instant::now();
            left = undelivered(&agents, metrics).await;
        }
    }
    let took = began.elapsed();
    viewers.shutdown().await;
    let killed = group.as_ref().and_then(Group::killed);
    for agent in &mut agents {
        agent.process.terminate().await;
    }
    if ground.process.has_ended().is_none() {
        ground.process.terminate().await;
    }
    Ok(Row::default()
        .with("case", case.name)
        .with("exporter", "ground")
        .with("senders", names.len())
        .with("request_mib", 4)
        .with_rounded("peak_mib", mib(peak), 1)
        .with_rounded("limit_mib", mib(limit.0), 1)
        .with_rounded("peak_of_limit", peak as f64 / limit.0 as f64, 3)
        .with("group_killed", killed)
        .with_rounded("recovery_s", took.as_secs_f64(), 3)
        .with("accepted_requests", REQUESTS * names.len() as u64)
        .with("refused_requests", 0)
        .with("broken_connections", 0)
        .with("undelivered_items", left))
}

async fn load(agent: &Agent, case: &Case) -> anyhow::Result<()> {
    let to = SocketAddr::from(([127, 0, 0, 1], agent.http));
    let mut connection = Connection::open(case.transport, case.signal, to).await?;
    for n in 0..REQUESTS {
        let body = case.transport.frame(&Bytes::from((case.make)(n)));
        let answer = connection.export(Payload::whole(body)).await?;
        ensure!(matches!(answer, Answer::Accepted), "{}: request {n} was refused", case.name);
    }
    Ok(())
}

/// Items that are on board or that an exporter of the ground does not have; `None` while it does not answer.
async fn undelivered(agents: &[Agent], metrics: SocketAddr) -> Option<u64> {
    let mut left = 0;
    for agent in agents {
        left += agent.metric("perigee_wal_unsealed_items").await + agent.metric("perigee_wal_segments").await;
    }
    let text = scrape::get(metrics, "/metrics").await.ok()?;
    let spool = scrape::sum(&text, "perigee_spool_segments").ok()?;
    Some(left + spool as u64)
}

/// Looks at a page again and again, more often than people do.
async fn view(console: SocketAddr, page: &'static str) -> anyhow::Result<()> {
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    loop {
        looks.tick().await;
        let mut stream = TcpStream::connect(console).await?;
        let head = format!("GET {page} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
    }
}
