//! Wrong configurations and surroundings: exit code 64, the key, its line, the nearest known key; and errors that say what to do.

use std::net::{TcpListener, UdpSocket};

use e2e::{Agent, Batch, Exit, Ground, Process, SATELLITE, STATION, Scene, eventually};
use ground_station::pki::{Pki, Role};
use nix::sys::signal::Signal as Unix;
use perigee_shared::env::{Clock, Env};
use perigee_shared::signal::Signal;
use serde_json::{Value, json};

use crate::PROGRAMS;

/// The line of `key` in a configuration as it is written for the programs.
fn line_of(config: &Value, key: &str) -> usize {
    let text = format!("{config:#}");
    1 + text.lines().position(|l| l.trim_start().starts_with(&format!("\"{key}\""))).unwrap()
}

fn says(exit: &Exit, code: i32, parts: &[&str]) {
    assert_eq!(exit.code, Some(code), "{exit:?}");
    for part in parts {
        assert!(exit.err.contains(part), "`{part}` is not in: {}", exit.err);
    }
    assert!(!exit.err.contains("panicked"), "{}", exit.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_is_named_with_its_line_and_the_nearest_one() {
    let scene = Scene::new(PROGRAMS);
    let mut agent = Agent::new(&scene, ([127, 0, 0, 1], 9).into());
    agent.config["storage"]["when_ful"] = json!("refuse");
    let at = format!("agent.yaml:{}", line_of(&agent.config, "when_ful"));
    for command in ["run", "validate", "status"] {
        says(&agent.command(&[command]).await, 64, &[&at, "when_ful", "when_full"]);
    }
    let mut ground = Ground::new(&scene);
    ground.config["link"]["partial_sync_byte"] = json!("2MiB");
    let at = format!("svalbard.yaml:{}", line_of(&ground.config, "partial_sync_byte"));
    for command in ["run", "validate", "satellites"] {
        says(&ground.command(&[command]).await, 64, &[&at, "partial_sync_byte", "partial_sync_bytes"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_value_is_named_with_its_key() {
    let scene = Scene::new(PROGRAMS);
    let station = |config: &mut Value| config["contacts"] = json!({"source": "always", "station": "beijing"});
    type Case = (fn(&mut Value), &'static [&'static str]);
    let cases: [Case; 8] = [
        (|c| c["storage"]["max_bytes"] = json!("many"), &["agent.yaml:", "many", "write for example"]),
        (|c| c["storage"]["when_full"] = json!("drop"), &["agent.yaml:", "`drop`", "drop_oldest"]),
        (
            |c| c["service"]["pipelines"]["logs"]["exporters"] = json!(["lnk"]),
            &["service.pipelines.logs.exporters", "link"],
        ),
        (|c| c["service"]["pipelines"] = json!({}), &["agent.yaml:", "service.pipelines", "has no pipeline"]),
        (
            |c| c["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"] = json!("0.0.0.0:4317"),
            &["grpc.endpoint", "insecure"],
        ),
        (|c| c["receivers"]["otlp"]["protocols"] = json!({}), &["receivers.otlp.protocols"]),
        (|c| c["exporters"]["oltp"] = json!({"endpoint": "x"}), &["oltp", "otlp"]),
        (station, &["contacts.station", "beijing"]),
    ];
    for (change, parts) in cases {
        let mut agent = Agent::new(&scene, ([127, 0, 0, 1], 9).into());
        change(&mut agent.config);
        says(&agent.command(&["validate"]).await, 64, parts);
        says(&agent.command(&["run"]).await, 64, parts);
        assert!(!agent.wal_directory().exists(), "checked before anything is opened");
    }
    let agent = Agent::new(&scene, ([127, 0, 0, 1], 9).into());
    assert_eq!(agent.command(&["validate"]).await.code, Some(0));
    assert_eq!(Ground::new(&scene).command(&["validate"]).await.code, Some(0));
    let nowhere = agent.process.run(&["run", "--config", "/nowhere/agent.yaml"]).await;
    says(&nowhere, 64, &["/nowhere/agent.yaml"]);
    says(&agent.process.run(&["run", "--confg", "x"]).await, 2, &["--config"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_busy_is_named() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    let udp = UdpSocket::bind(ground.link).unwrap();
    says(&ground.command(&["run"]).await, 1, &[&ground.link.to_string(), "link.listen", "another program"]);
    drop(udp);
    let mut agent = Agent::new(&scene, ground.link);
    let tcp = TcpListener::bind(("127.0.0.1", agent.http)).unwrap();
    says(&agent.command(&["run"]).await, 1, &[&agent.http.to_string(), "OTLP/HTTP", "another program"]);
    drop(tcp);

    // A second one of the same kind finds its directory taken, whichever address it has.
    ground.start().await;
    agent.start().await;
    let mut second = Agent::new(&scene, ground.link);
    second.config["extensions"] = json!({});
    says(&second.command(&["run"]).await, 1, &["storage.directory", "another process"]);
    let mut second = Ground::new(&scene);
    second.config["extensions"] = json!({});
    says(&second.command(&["run"]).await, 1, &["another process"]);
    agent.status().await;
    ground.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_cannot_be_used_are_named() {
    let scene = Scene::new(PROGRAMS);
    let mut agent = Agent::new(&scene, ([127, 0, 0, 1], 9).into());
    agent.config["link"]["certificate_file"] = json!("/nowhere/sat.crt");
    for command in ["run", "validate"] {
        let exit = agent.command(&[command]).await;
        assert!(exit.code != Some(0) && exit.err.contains("/nowhere/sat.crt"), "{exit:?}");
    }
    // A key of another certificate.
    agent.config["link"]["certificate_file"] = json!(scene.certificate("satellite-sat-1.crt"));
    agent.config["link"]["private_key_file"] = json!(scene.certificate("station-svalbard.key"));
    let exit = agent.command(&["run"]).await;
    assert!(exit.code != Some(0) && exit.err.contains("key"), "{exit:?}");
    // A station's certificate on board.
    agent.config["link"]["certificate_file"] = json!(scene.certificate("station-svalbard.crt"));
    let exit = agent.command(&["run"]).await;
    assert!(exit.code != Some(0) && exit.err.contains("satellite"), "{exit:?}");
    let mut ground = Ground::new(&scene);
    std::fs::write(scene.path().join("empty.crt"), "").unwrap();
    ground.config["link"]["satellite_ca_file"] = json!(scene.path().join("empty.crt"));
    let exit = ground.command(&["run"]).await;
    assert!(exit.code != Some(0) && exit.err.contains("empty.crt"), "{exit:?}");
    assert!(!agent.wal_directory().exists(), "certificates are read before anything is opened");
}

/// A mistake, made in a configuration that is right.
type Change = Box<dyn Fn(&mut Value)>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistake_in_a_file_that_is_named_has_one_exit_code_in_run_and_validate() {
    let scene = Scene::new(PROGRAMS);
    let empty = scene.path().join("empty.pem").to_str().unwrap().to_owned();
    std::fs::write(&empty, "").unwrap();
    let (cert, other) = (scene.certificate("satellite-sat-1.crt"), scene.certificate("station-svalbard.key"));
    let tls = |cert: &str, key: &str| json!({"cert_file": cert, "key_file": key});
    let listener = |tls: Value| -> Change {
        Box::new(move |c| c["receivers"]["otlp"]["protocols"]["http"]["tls"] = tls.clone())
    };
    let exporter = |settings: Value| -> Change {
        Box::new(move |c| {
            c["exporters"]["otlp_grpc"] = settings.clone();
            c["service"]["pipelines"]["logs"]["exporters"] = json!(["link", "otlp_grpc"]);
        })
    };
    let secure = |tls: Value| exporter(json!({"endpoint": "backend:4317", "tls": tls}));
    let cases: Vec<(Change, &[&str])> = vec![
        (listener(tls("/nowhere.crt", &other)), &["certificate", "/nowhere.crt"]),
        (listener(tls(&empty, &other)), &["certificate", "empty.pem", "is it the right file"]),
        (listener(tls(&cert, &other)), &["station-svalbard.key", "it is the key of another certificate"]),
        (secure(json!({"ca_file": "/nowhere.pem"})), &["exporters.otlp_grpc.tls.ca_file", "/nowhere.pem"]),
        (secure(json!({"ca_file": empty})), &["exporters.otlp_grpc.tls.ca_file", "no certificate in it"]),
        (secure(json!({"ca_pem": "x"})), &["exporters.otlp_grpc.tls.ca_pem", "no certificate in it"]),
        (secure(json!({"ca_pem": "x", "ca_file": empty})), &["ca_file", "keep one of both"]),
        (secure(json!({"cert_file": cert})), &["exporters.otlp_grpc.tls.key_file", "needs its key_file"]),
        (
            exporter(json!({"endpoint": "http://b:4317", "headers": {"a b": "c"}})),
            &["headers.a b", "header name"],
        ),
    ];
    for (change, parts) in cases {
        let mut agent = Agent::new(&scene, ([127, 0, 0, 1], 9).into());
        change(&mut agent.config);
        for command in ["validate", "run"] {
            says(&agent.command(&[command]).await, 64, parts);
        }
        assert!(!agent.wal_directory().exists(), "checked before anything is opened");
    }
    for (text, parts) in [
        ("", &["agent.yaml:1", "the file is empty"][..]),
        ("# nothing\n", &["the file is empty"]),
        ("a: [\n", &["agent.yaml:"]),
        ("just text\n", &["agent.yaml:1", "a section is expected here, not `just text`"]),
        ("- a\n- b\n", &["a section is expected here, not a list"]),
    ] {
        let file = scene.path().join("agent.yaml");
        std::fs::write(&file, text).unwrap();
        let agent = Agent::new(&scene, ([127, 0, 0, 1], 9).into());
        for command in ["validate", "run"] {
            says(&agent.process.run(&[command, "--config", file.to_str().unwrap()]).await, 64, parts);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_not_valid_now_is_named_with_its_date_and_the_clock() {
    let scene = Scene::new(PROGRAMS);
    let mut env = Env::production();
    let (start, production) = (env.unix_nano(), env.clone());
    // Issued by a clock of forty days ago, for thirty.
    env.clock = std::sync::Arc::new(Past(production, 40 * 86_400_000_000_000));
    assert!(env.unix_nano() < start);
    let old = scene.path().join("old");
    let mut pki = Pki::init(&old, "example.com", false, &env).unwrap();
    pki.issue(Role::Satellite, "sat-1", 30).unwrap();
    pki.issue(Role::Station, STATION, 30).unwrap();
    let mut agent = Agent::new(&scene, ([127, 0, 0, 1], 9).into());
    let mut ground = Ground::new(&scene);
    for (config, name) in [(&mut agent.config, "satellite-sat-1"), (&mut ground.config, "station-svalbard")] {
        config["link"]["certificate_file"] = json!(old.join(format!("{name}.crt")));
        config["link"]["private_key_file"] = json!(old.join(format!("{name}.key")));
        let (certificate, key) = (old.join(format!("{name}.crt")), old.join(format!("{name}.key")));
        let tls = json!({"cert_file": certificate, "key_file": key});
        config["exporters"]["otlp_http/old"] = json!({"endpoint": "https://localhost:1", "tls": tls});
        let exporters = config["service"]["pipelines"]["logs"]["exporters"].as_array_mut().unwrap();
        exporters.push(json!("otlp_http/old"));
    }
    for exit in [agent.command(&["validate"]).await, ground.command(&["validate"]).await] {
        assert_eq!(exit.code, Some(0), "a clock may be wrong: {exit:?}");
        for part in [
            "warning: link.certificate_file",
            "warning: exporters.otlp_http/old.tls.cert_file",
            ".crt ended at 20",
            "the clock of this machine says 20",
        ] {
            assert!(exit.out.contains(part), "{part}: {exit:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_satellite_than_the_logs_and_swapped_authorities_are_said() {
    let scene = Scene::new(PROGRAMS);
    scene.issue(Role::Satellite, "sat-2");
    let mut agent = Agent::new(&scene, ([127, 0, 0, 1], 9).into());
    agent.start().await;
    agent.accept(&Batch::new(Signal::Logs, "a", 10, 100)).await;
    assert!(agent.process.terminate().await.success());
    let right = agent.command(&["validate"]).await;
    assert!(right.code == Some(0) && !right.out.contains("warning: link."), "{right:?}");
    let link = &mut agent.config["link"];
    link["certificate_file"] = json!(scene.certificate("satellite-sat-2.crt"));
    link["private_key_file"] = json!(scene.certificate("satellite-sat-2.key"));
    link["station_ca_file"] = json!(scene.certificate("satellite-ca.crt"));
    let exit = agent.command(&["validate"]).await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    for part in [
        "warning: link.certificate_file: the certificate is of sat-2, and counters.json in",
        "is of sat-1",
        "warning: link.station_ca_file",
        "were the authorities of satellites and stations swapped?",
    ] {
        assert!(exit.out.contains(part), "{part}: {exit:?}");
    }
}

/// A clock that is behind.
struct Past(Env, u64);

impl Clock for Past {
    fn unix_nano(&self) -> u64 {
        self.0.unix_nano() - self.1
    }
}

/// The agent's last error and the ground's log, once both have noticed.
async fn refused(agent: &mut Agent, ground: &Ground, said: &str) -> String {
    agent.start().await;
    agent.open_contact(STATION, json!({})).await;
    let error = eventually("the agent says why", async || {
        let status = agent.status().await;
        status["link"]["last_error"].as_str().map(str::to_owned).ok_or_else(|| status["link"].to_string())
    })
    .await;
    eventually("the ground says why", async || {
        let log = ground.process.log();
        if log.contains(said) { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(agent.process.terminate().await.success());
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_satellite_that_may_not_connect_is_told_so_on_both_sides() {
    let scene = Scene::new(PROGRAMS);
    scene.issue(Role::Satellite, "sat-2");
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let mut agent = Agent::new(&scene, ground.link);
    let own = |agent: &mut Agent, pki: &std::path::Path, name: &str| {
        agent.config["link"]["certificate_file"] = json!(pki.join(format!("{name}.crt")));
        agent.config["link"]["private_key_file"] = json!(pki.join(format!("{name}.key")));
    };
    own(&mut agent, &scene.pki(), "satellite-sat-2");
    let error = refused(&mut agent, &ground, "add it to link.satellites").await;
    assert!(error.contains("sat-2 is not in this station's link.satellites"), "{error}");
    assert!(ground.process.log().contains("sat-2"));

    // Certificates of other authorities.
    let other = scene.path().join("other");
    let mut pki = Pki::init(&other, "example.com", false, &Env::production()).unwrap();
    pki.issue(Role::Satellite, "sat-1", 30).unwrap();
    own(&mut agent, &other, "satellite-sat-1");
    let error = refused(&mut agent, &ground, "a handshake failed").await;
    assert!(error.contains("station svalbard refuses this satellite"), "{error}");
    own(&mut agent, &scene.pki(), "satellite-sat-1");
    agent.config["link"]["station_ca_file"] = json!(other.join("station-ca.crt"));
    let error = refused(&mut agent, &ground, "a handshake failed").await;
    assert!(error.contains("this satellite refuses station svalbard"), "{error}");
    let heard = ground.ask("/api/v1/satellites").await.unwrap();
    let times: Vec<_> =
        heard.as_array().unwrap().iter().map(|of| of["last_heard_unix_nano"].as_u64()).collect();
    assert_eq!(times, [Some(0)], "the one that is listed was never heard: {heard}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_a_file_is_named_by_validate() {
    let scene = Scene::new(PROGRAMS);
    let file = scene.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    let mut ground = Ground::new(&scene);
    let mut agent = Agent::new(&scene, ground.link);
    for config in [&mut ground.config, &mut agent.config] {
        config["storage"]["directory"] = json!(file);
    }
    std::fs::write(&ground.file, ground.config.to_string()).unwrap();
    std::fs::write(&agent.file, agent.config.to_string()).unwrap();
    for (process, file) in [(&ground.process, &ground.file), (&agent.process, &agent.file)] {
        let exit = process.run(&["validate", "--config", file.to_str().unwrap()]).await;
        says(&exit, 64, &["storage.directory", "a-file is a file; name a directory"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_takes_what_can_change_into_force_names_the_rest_and_refuses_what_is_wrong() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.config["link"]["satellites"] = json!({"sat-2": {}});
    ground.start().await;
    let mut agent = Agent::new(&scene, ground.link).always();
    agent.config["link"]["stations"] = json!({STATION: {"address": "127.0.0.1:1"}});
    agent.start().await;
    agent.accept(&Batch::new(Signal::Logs, "a", 10, 100)).await;

    let says = async |process: &Process, words: &str| {
        eventually(words, async || {
            let log = process.log();
            log.contains(words).then_some(()).ok_or(log)
        })
        .await;
    };
    std::fs::write(&ground.file, "link: {satellites: {sat-1: {}").unwrap();
    std::fs::write(&agent.file, "contacts: {source: nowhere}").unwrap();
    for process in [&ground.process, &agent.process] {
        process.signal(Unix::SIGHUP);
        says(process, "what was in force stays so").await;
    }
    ground.config["link"]["satellites"] = json!({SATELLITE: {}});
    ground.config["storage"]["max_bytes"] = json!("128MiB");
    std::fs::write(&ground.file, ground.config.to_string()).unwrap();
    ground.process.signal(Unix::SIGHUP);
    says(&ground.process, "storage.max_bytes").await;
    agent.config["link"]["stations"] = json!({STATION: {"address": ground.link.to_string()}});
    agent.config["service"]["telemetry"]["logs"] = json!({"level": "debug"});
    agent.config["processors"]["memory_limiter"]["limit"] = json!("128MiB");
    std::fs::write(&agent.file, agent.config.to_string()).unwrap();
    agent.process.signal(Unix::SIGHUP);
    says(&agent.process, "processors.memory_limiter.limit").await;
    says(&agent.process, " DEBUG ").await;
    agent.drained().await;
    ground.config["link"]["satellites"] = json!({});
    std::fs::write(&ground.file, ground.config.to_string()).unwrap();
    ground.process.signal(Unix::SIGHUP);
    says(&ground.process, "not in link.satellites any more; the link is closed").await;
    assert!(agent.process.terminate().await.success() && ground.process.terminate().await.success());
}
