//! Pass reports and forecasts, on board and on the ground.

use e2e::{Agent, Batch, Ground, SATELLITE, STATION, Scene, eventually};
use perigee_shared::signal::Signal;
use serde_json::{Value, json};

use crate::PROGRAMS;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_is_reported_on_board_and_on_the_ground_when_it_ends() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let mut agent = Agent::new(&scene, ground.link);
    agent.start().await;
    let ends = agent.metric("perigee_link_certificate_expiry_timestamp_seconds").await;
    assert!(ends > e2e::now_nano() / 1_000_000_000, "it is known before the first contact: {ends}");
    agent.accept(&Batch::new(Signal::Logs, "a", 10, 1_000)).await;
    let pass = json!({"rate_down": 8_000_000, "seconds": 3600.0});
    agent.open_contact(STATION, pass.clone()).await;
    agent.drained().await;
    agent.ask(http::Method::POST, "/contact/close", None).await.unwrap();
    let status = agent.status().await;
    assert_eq!(status["link"]["state"], "down", "it is answered when the link is: {status}");
    agent.accept(&Batch::new(Signal::Logs, "b", 10, 1_000)).await;

    let report = || agent.ask(http::Method::GET, "/contact/report", None);
    eventually("the pass is reported", async || {
        let report = report().await?;
        (report["passes"].as_array().map(Vec::len) == Some(1)).then_some(()).ok_or_else(|| report.to_string())
    })
    .await;
    let on_board = report().await.unwrap();
    let first = &on_board["passes"][0];
    assert_eq!((&first["station"], &first["committed_segments"]), (&json!(STATION), &json!(1)));
    let achieved = first["achieved_bytes"].as_u64().unwrap();
    assert!((10_000..20_000).contains(&achieved), "ten items of a kilobyte that does not shrink: {first}");
    assert_eq!((&first["held_bytes"], &first["state"]), (&json!(achieved), &json!("delivered_all")));
    assert_eq!(first["efficiency"], achieved as f64 / first["planned_bytes"].as_f64().unwrap());
    assert!(first["connect_seconds"].as_f64().unwrap() > 0.0 && first["loss"].is_number(), "{first}");
    let planned = first["planned_bytes"].as_f64().unwrap();
    assert!((planned / 3.6e9 - 1.0).abs() < 0.01, "an hour of a megabyte a second: {first}");
    let time = |name: &str| first[name].as_u64().unwrap();
    assert!(time("planned_start_unix_nano") <= time("start_unix_nano"), "{first}");
    assert_eq!(time("planned_end_unix_nano") - time("planned_start_unix_nano"), 3_600_000_000_000, "{first}");
    assert!(on_board["forecast"]["backlog_since_unix_nano"].is_u64(), "b waits: {on_board}");

    let told = eventually("the ground knows the pass", async || {
        let passes = ground.ask("/api/v1/passes").await?;
        passes[0]["ground"].is_object().then(|| passes[0].clone()).ok_or_else(|| passes.to_string())
    })
    .await;
    for key in
        ["start_unix_nano", "state", "planned_start_unix_nano", "planned_end_unix_nano", "guard_end_seconds"]
    {
        assert_eq!(told[key], first[key], "{key}");
    }
    assert_eq!(
        (&told["ground"]["held_bytes"], &told["ground"]["ended"]),
        (&json!(achieved), &json!("goodbye"))
    );
    agent.open_contact(STATION, pass).await;
    agent.drained().await;
    let passes = ground.ask("/api/v1/passes").await.unwrap();
    assert_eq!((&passes[0]["satellite"], &passes[0]["held_bytes"]), (&json!(SATELLITE), &json!(achieved)));
    assert_eq!(passes[0]["backlog_bytes"], first["backlog_bytes"], "Hello says it again");
    let satellites = ground.ask("/api/v1/satellites").await.unwrap();
    let forecast = &satellites[0]["forecast"];
    assert!(
        forecast["stored_bytes"].as_u64().unwrap() > 0
            && forecast["planned_bytes"].as_u64().unwrap() > 3_000_000_000,
        "{forecast}"
    );
    assert_eq!(forecast["full_unix_nano"], Value::Null);
    let (plan, process) = (&satellites[0]["plan"], &satellites[0]["agent"]);
    assert_eq!((&plan["source"], &plan["error"]), (&json!("manual"), &Value::Null), "{plan}");
    assert!(process["configuration"].is_string() && process["cpu_seconds"].is_f64(), "{process}");
    assert!(process["resident_bytes"].as_u64().unwrap() > 1 << 20, "{process}");
    let waits = &satellites[0]["backlog"][0];
    assert_eq!((&waits["name"], &waits["bytes"]), (&json!("bulk"), &json!(0)), "b was committed: {waits}");
    let table = ground.command(&["satellites"]).await.out;
    assert!(
        table.lines().nth(1).is_some_and(|row| row.contains("up") && row.contains("delivered all")),
        "{table}"
    );

    for args in [["contact", "report"], ["contact", "list"]] {
        let text = agent.command(&args).await;
        assert!(text.code == Some(0) && text.out.contains(STATION), "{}{}", text.out, text.err);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_station_that_does_not_answer_is_a_state_an_error_and_one_line() {
    let scene = Scene::new(PROGRAMS);
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    let mut agent = Agent::new(&scene, address);
    agent.start().await;
    let said = format!("no answer from {address} (UDP) for 5 s");
    for n in 1..=2 {
        agent.open_contact(STATION, json!({"rate_down": 8_000_000, "seconds": 6.0})).await;
        eventually("the pass is reported", async || {
            let report = agent.ask(http::Method::GET, "/contact/report", None).await?;
            let states: Vec<_> =
                report["passes"].as_array().into_iter().flatten().map(|p| &p["state"]).collect();
            (states == vec![&json!("unreachable"); n]).then_some(()).ok_or_else(|| report.to_string())
        })
        .await;
    }
    let status = agent.status().await;
    assert!(status["link"]["last_error"].as_str().unwrap().starts_with(&said), "{status}");
    let text = agent.command(&["status"]).await.out;
    assert!(text.contains(&said), "{text}");
    let log = agent.process.log();
    assert_eq!(log.matches(&said).count(), 1, "once, not in each contact: {log}");
}
