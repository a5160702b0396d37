//! A panic in any task of either program: it is counted, health says so, the task starts again, and nothing is lost.

use std::path::Path;

use bytes::Bytes;
use e2e::wire::{Target, http1};
use e2e::{
    Agent, Batch, Ground, Ledger, Process, STATION, Scene, Sent, eventually, free_port, is_planted, plant,
};
use http::Method;
use perigee_shared::signal::Signal;
use serde_json::json;

use crate::{PROGRAMS, settle};

/// Tasks and how often each has panicked, by the text of the metrics.
fn panics(metrics: &str) -> Vec<(String, u64)> {
    let of_task = |line: &str| {
        let (task, n) = line.strip_prefix("perigee_task_panics_total{task=\"")?.split_once("\"} ")?;
        Some((task.to_owned(), n.parse().ok()?))
    };
    metrics.lines().filter_map(of_task).collect()
}

/// What a program tells of itself.
struct Told {
    metrics: u16,
    health: u16,
}

impl Told {
    async fn panics(&self) -> Vec<(String, u64)> {
        panics(&self.get(self.metrics, "/metrics").await.unwrap_or_default().1)
    }

    async fn get(&self, port: u16, path: &str) -> Result<(u16, String), String> {
        let answer = http1(&Target::tcp(port), Method::GET, path, &[], Bytes::new()).await?;
        Ok((answer.status.as_u16(), String::from_utf8_lossy(&answer.body).into_owned()))
    }

    /// Has each task panic once. It runs again, and health tells of it.
    async fn shake(&self, process: &mut Process, plants: &Path, mut work: impl AsyncFnMut(&str)) -> usize {
        let tasks = self.panics().await;
        for (task, before) in &tasks {
            plant(plants, task);
            eventually(&format!("the task {task} has panicked and runs again"), async || {
                process.must_run()?;
                if is_planted(plants, task) {
                    // Connections are tasks: this one may be the one that goes.
                    drop(self.get(self.health, "/").await);
                    return Err("it has not panicked yet".to_owned());
                }
                let health = self.get(self.health, "/").await;
                let now = self.panics().await;
                let counted = now.iter().any(|(name, n)| name == task && *n == before + 1);
                match (counted, health) {
                    // It runs again, and health tells of it for ten minutes.
                    (true, Ok((200, body))) if body.contains(task.as_str()) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
            work(task).await;
        }
        tasks.len()
    }
}

async fn send(agent: &Agent, ledger: &mut Ledger, name: &str) {
    for signal in Signal::ALL {
        let batch = Batch::new(signal, &format!("{name}-{}", signal.name()), 3, 20);
        // A connection that is gone is what a client makes anew.
        let sent = eventually("the agent takes a request", async || match agent.send(&batch).await {
            Sent::Acknowledged => Ok(Sent::Acknowledged),
            other => Err(format!("{other:?}")),
        });
        ledger.note(&batch, &sent.await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_panics_is_seen_and_starts_again() {
    let scene = Scene::new(PROGRAMS);
    let (in_space, on_ground) = (scene.path().join("plants-agent"), scene.path().join("plants-ground"));
    for directory in [&in_space, &on_ground] {
        std::fs::create_dir(directory).unwrap();
    }
    let (agent_health, ground_health, api) = (free_port(), free_port(), free_port());
    let local = |port: u16| json!({"endpoint": format!("127.0.0.1:{port}")});

    let mut ground = Ground::new(&scene);
    ground.config["extensions"]["health_check"] = local(ground_health);
    ground.config["extensions"]["api"] = local(api);
    ground.config["link"]["satellite_crl_file"] = json!(scene.certificate("satellite-ca.crl"));
    ground.process.plants = Some(on_ground.clone());
    ground.start().await;

    let mut agent = Agent::new(&scene, ground.link).always();
    agent.config["extensions"]["health_check"] = local(agent_health);
    agent.config["exporters"]["debug"] = json!({});
    for signal in Signal::ALL {
        agent.config["service"]["pipelines"][signal.name()]["exporters"] = json!(["link", "debug"]);
    }
    agent.config["lanes"] =
        json!({"brief": {"number": 2, "match": [{"severity": "fatal"}], "lifetime": "1h"}});
    agent.config["processors"]["batch"] = json!({"timeout": "50ms"});
    agent.process.plants = Some(in_space.clone());
    agent.start().await;

    let mut ledger = Ledger::default();
    let (here, there) = (agent.metrics, ground.metrics_port);
    send(&agent, &mut ledger, "before").await;
    let told = Told { metrics: there, health: ground_health };
    let on_ground = told.shake(&mut ground.process, &on_ground, async |task| {
        send(&agent, &mut ledger, &task.replace([' ', '/', ':', '.'], "-")).await;
    });
    assert!(on_ground.await >= 10, "tasks of the ground");
    let told = Told { metrics: here, health: agent_health };
    let mut batches = Vec::new();
    let in_space =
        told.shake(&mut agent.process, &in_space, async |task| batches.push(task.to_owned())).await;
    assert!(in_space >= 13, "tasks of the agent: {in_space}");
    send(&agent, &mut ledger, "after").await;
    agent.ask(Method::GET, "/status", None).await.unwrap();
    assert!(ground.ask("/api/v1/passes").await.is_ok(), "{STATION} answers");
    settle(&mut agent, &mut ground, &ledger).await;
}
