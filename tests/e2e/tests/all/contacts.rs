//! Contacts: by plan, cut again and again, with a program that stands still, and with a log from before.

use std::collections::BTreeSet;
use std::path::Path as FilePath;
use std::time::{Duration, SystemTime};

use e2e::{Agent, Batch, Ground, Ledger, Load, SATELLITE, STATION, Scene, Sent, eventually, seed};
use linkem::{Config, Direction, Link, Path};
use nix::sys::signal::Signal as Unix;
use perigee_shared::signal::{Counts, Signal};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::{PROGRAMS, items, settle};

async fn accept(agent: &Agent, ledger: &mut Ledger, name: &str, requests: usize) {
    for n in 0..requests {
        let batch = Batch::new(Signal::ALL[n % 3], &format!("{name}{n}"), 10, 100);
        agent.accept(&batch).await;
        ledger.note(&batch, &Sent::Acknowledged);
    }
}

fn write_plan(file: &FilePath, from: SystemTime, seconds: u64) {
    let time = |at: SystemTime| humantime::format_rfc3339_millis(at).to_string();
    let entry = json!({
        "station": STATION, "start": time(from), "end": time(from + Duration::from_secs(seconds)),
        "rate_down": "20Mbit/s", "light_time": "2ms",
    });
    let new = file.with_extension("new");
    std::fs::write(&new, json!({"contacts": [entry]}).to_string()).unwrap();
    std::fs::rename(new, file).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_is_followed_and_read_again_when_it_changes() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let file = scene.path().join("plan.yaml");
    let far = SystemTime::now() + Duration::from_secs(3600);
    write_plan(&file, far, 60);
    let mut agent = Agent::new(&scene, ground.link);
    agent.config["contacts"] = json!({"source": "plan", "file": file});
    agent.start().await;
    let mut ledger = Ledger::default();
    accept(&agent, &mut ledger, "a", 6).await;
    let status = agent.status().await;
    assert_eq!((&status["contact"], &status["next_contact"]["station"]), (&Value::Null, &json!(STATION)));
    assert_eq!(agent.account().await.on_board, ledger.items);
    write_plan(&file, SystemTime::now() + Duration::from_secs(2), 30);
    agent.drained().await;
    assert_eq!(settle(&mut agent, &mut ground, &ledger).await, 0);
    // A plan that is wrong leaves the last one in force, and says so.
    std::fs::write(&file, "contacts: [{station: nowhere}]").unwrap();
    eventually("the error is shown", async || {
        let list = agent.ask(http::Method::GET, "/contact/list", None).await?;
        list["plan_error"].as_str().map(drop).ok_or_else(|| list.to_string())
    })
    .await;
    assert_eq!(agent.status().await["link"]["state"], "up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contact_that_is_planned_anew_keeps_its_connection_and_is_one_pass() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let file = scene.path().join("plan.yaml");
    let begin = SystemTime::now() - Duration::from_secs(10);
    write_plan(&file, begin, 3600);
    let mut agent = Agent::new(&scene, ground.link);
    agent.config["contacts"] = json!({"source": "plan", "file": file});
    agent.start().await;
    let mut ledger = Ledger::default();
    accept(&agent, &mut ledger, "first", 3).await;
    agent.drained().await;
    for n in 1..=8 {
        // Another beginning, another end, and the same entry twice, as a scheduler writes it.
        let (earlier, lasts) = (Duration::from_secs(n), 3600 + 60 * n);
        write_plan(&file, begin - earlier, lasts);
        let end = (begin - earlier + Duration::from_secs(lasts)).duration_since(SystemTime::UNIX_EPOCH);
        let end = end.unwrap().as_millis();
        eventually("the new plan is in force", async || {
            let list = agent.ask(http::Method::GET, "/contact/list", None).await?;
            let shown = list["current"]["end_unix_nano"].as_u64().unwrap_or(0) / 1_000_000;
            (u128::from(shown) == end).then_some(()).ok_or_else(|| format!("{end}: {list}"))
        })
        .await;
        accept(&agent, &mut ledger, &format!("n{n}-"), 3).await;
        agent.drained().await;
    }
    assert_eq!(agent.metric("perigee_link_connections_total").await, 1, "the link stayed up");
    let report = agent.ask(http::Method::GET, "/contact/report", None).await.unwrap();
    assert_eq!(report["passes"], json!([]), "and it is still the same pass: {report}");
    write_plan(&file, begin + Duration::from_secs(36_000), 3000);
    eventually("the pass is over with its plan", async || {
        let report = agent.ask(http::Method::GET, "/contact/report", None).await?;
        let passes = report["passes"].as_array().map_or(0, Vec::len);
        (passes == 1).then_some(()).ok_or_else(|| report.to_string())
    })
    .await;
    write_plan(&file, begin, 3600);
    assert_eq!(settle(&mut agent, &mut ground, &ledger).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_plan_is_listed_whole_and_each_contact_once() {
    const OTHER: &str = "beijing";
    let scene = Scene::new(PROGRAMS);
    let ground = Ground::new(&scene);
    let file = scene.path().join("plan.yaml");
    let now = SystemTime::now();
    let contact = |station: &str, number: u64| {
        let at = |seconds: u64| {
            let time = now + Duration::from_secs(86_400 + number * 7_200 + seconds);
            humantime::format_rfc3339_seconds(time).to_string()
        };
        json!({"station": station, "start": at(0), "end": at(480)})
    };
    // One, then two at a time: a page ends between two that begin together.
    let pairs = (1..1_200).flat_map(|n| [contact(STATION, n), contact(OTHER, n)]);
    let plan: Vec<Value> = std::iter::once(contact(STATION, 0)).chain(pairs).collect();
    std::fs::write(&file, json!({ "contacts": plan }).to_string()).unwrap();
    let mut agent = Agent::new(&scene, ground.link);
    agent.config["link"]["stations"][OTHER] = agent.config["link"]["stations"][STATION].clone();
    agent.config["contacts"] = json!({"source": "plan", "file": file});
    agent.start().await;
    let listed = async |arguments: &[&str]| {
        let command = agent.command(&[&["contact", "list", "--json"], arguments].concat()).await;
        let list: Value = serde_json::from_str(&command.out).unwrap();
        let of = |pass: &Value| (pass["start_unix_nano"].as_u64().unwrap(), pass["station"].to_string());
        (list["upcoming"].as_array().unwrap().iter().map(of).collect::<Vec<_>>(), list["more"].clone())
    };
    let (all, more) = listed(&["--until", "9000d"]).await;
    assert_eq!((all.len(), more), (plan.len(), json!(0)));
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), plan.len());
    let (some, more) = listed(&["--limit", "1500"]).await;
    assert_eq!((some.as_slice(), more), (&all[..1_500], json!(plan.len() - 1_500)));
    let (tomorrow, more) = listed(&["--until", "25h"]).await;
    assert_eq!((tomorrow.as_slice(), more), (&all[..1], json!(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_has_run_out_is_followed_by_trying_until_a_station_answers() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    let file = scene.path().join("plan.yaml");
    write_plan(&file, SystemTime::now() - Duration::from_secs(60), 30);
    let mut agent = Agent::new(&scene, ground.link);
    agent.config["contacts"] =
        json!({"source": "plan", "file": file, "probe": {"interval": "1s", "duration": "3s"}});
    agent.start().await;
    let mut ledger = Ledger::default();
    accept(&agent, &mut ledger, "a", 6).await;
    let list = agent.ask(http::Method::GET, "/contact/list", None).await.unwrap();
    assert_eq!((&list["probing"], list["plan_warnings"].as_array().unwrap().len()), (&json!(true), 1));
    eventually("a station was tried", async || {
        let status = agent.status().await;
        (status["link"]["state"] == "connecting").then_some(()).ok_or_else(|| status["link"].to_string())
    })
    .await;
    ground.start().await;
    assert_eq!(settle(&mut agent, &mut ground, &ledger).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_are_predicted_from_an_orbit_and_new_elements_are_taken_while_it_runs() {
    let scene = Scene::new(PROGRAMS);
    let file = scene.path().join("elements.json");
    let fixtures: Value = serde_json::from_str(include_str!("../../../orbit/passes.json")).unwrap();
    let write = |age: Duration| {
        let mut elements = fixtures[0]["elements"].clone();
        let epoch = humantime::format_rfc3339_seconds(SystemTime::now() - age).to_string();
        elements["EPOCH"] = epoch.trim_end_matches('Z').into();
        std::fs::write(&file, json!([elements]).to_string()).unwrap();
    };
    write(Duration::from_secs(20 * 86_400));
    let ground = Ground::new(&scene);
    let mut agent = Agent::new(&scene, ground.link);
    agent.config["contacts"] = json!({
        "source": "orbit", "file": file, "satellite": "SUNSYNCHRONOUS", "rate_down": "20Mbit/s", "guard": "5s",
        "stations": {STATION: {"latitude": 78.23, "longitude": 15.4, "altitude": 458.0, "mask": 10.0}},
    });
    agent.start().await;
    let list = async || agent.ask(http::Method::GET, "/contact/list", None).await;
    let old = list().await.unwrap();
    assert!(old["plan_warnings"][0].as_str().unwrap().contains("20.0 days"), "{old}");
    let passes = old["upcoming"].as_array().unwrap();
    assert!(passes.len() > 60, "{}", passes.len());
    let volumes: Vec<u64> = passes.iter().map(|p| p["volume_bytes"].as_u64().unwrap()).collect();
    assert!(volumes.iter().all(|v| (100_000..2_000_000_000).contains(v)), "{volumes:?}");
    write(Duration::from_secs(86_400));
    eventually("the new elements are in force", async || {
        let list = list().await?;
        (list["plan_warnings"] == json!([])).then_some(()).ok_or_else(|| list["plan_warnings"].to_string())
    })
    .await;
    let text = agent.command(&["contact", "list"]).await;
    assert!(text.code == Some(0) && text.out.lines().count() > 60, "{}", text.out);
    std::fs::write(&file, "{}").unwrap();
    eventually("the error is shown", async || {
        let list = list().await?;
        list["plan_error"].as_str().map(drop).ok_or_else(|| list.to_string())
    })
    .await;
    assert!(
        list().await.unwrap()["upcoming"].as_array().unwrap().len() > 60,
        "the last good one stays in force"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contacts_that_are_cut_at_random_deliver_everything_exactly_once() {
    let mut random = SmallRng::seed_from_u64(seed("cuts"));
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.config["link"]["partial_sync_bytes"] = json!("64KiB");
    ground.start().await;
    let path = Path { rate: Some(20_000_000), delay: Duration::from_millis(5), ..Path::default() };
    let config = Config { forward: path.clone(), back: path, ..Config::perfect(ground.link) };
    let link = Link::start(config).await.unwrap();
    let mut agent = Agent::new(&scene, link.local_addr());
    agent.config["processors"]["batch"] = json!({"send_batch_bytes": "256KiB", "timeout": "100ms"});
    agent.start().await;
    let load = Load::start(&agent, 3, 10, 3_000, Duration::from_millis(50));
    for _ in 0..8 {
        let direction = Direction::BOTH[random.random_range(0..2)];
        let bytes = match direction {
            Direction::Forward => random.random_range(0..600_000),
            Direction::Return => random.random_range(0..8_000),
        };
        link.cut_after_bytes(direction, bytes);
        agent.open_contact(STATION, json!({})).await;
        link.wait_down().await;
        agent.close_contact().await;
        link.restore();
    }
    let ledger = load.stop().await;
    agent.open_contact(STATION, json!({})).await;
    assert_eq!(settle(&mut agent, &mut ground, &ledger).await, 0, "exactly once");
    let account = ground.accounting_of(SATELLITE).await;
    println!("{} segments, {} came again whole", account["segments"], account["duplicates"]);
}

/// A direct exporter beside the link waits for no contact, so that what it sends is always live.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_say_whether_they_have_waited_for_their_contact() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.config["delivery_attribute"] = json!(true);
    ground.start().await;
    let mut agent = Agent::new(&scene, ground.link);
    let direct = scene.path().join("direct.jsonl");
    agent.config["delivery_attribute"] = json!(true);
    agent.config["exporters"]["file"] = json!({"path": direct});
    agent.config["service"]["pipelines"]["traces"]["exporters"] = json!(["link", "file"]);
    agent.config["processors"]["batch"] = json!({"timeout": "50ms"});
    agent.start().await;
    let mut ledger = Ledger::default();
    accept(&agent, &mut ledger, "before", 6).await;
    agent.open_contact(STATION, json!({})).await;
    agent.drained().await;
    accept(&agent, &mut ledger, "during", 6).await;
    agent.drained().await;
    agent.close_contact().await;
    accept(&agent, &mut ledger, "after", 6).await;
    agent.open_contact(STATION, json!({})).await;
    assert_eq!(settle(&mut agent, &mut ground, &ledger).await, 0);
    let said = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let resource =
            ["resourceSpans", "resourceMetrics", "resourceLogs"].map(|key| &line[key][0]["resource"]);
        let resource = resource.into_iter().find(|resource| resource.is_object()).unwrap();
        let mut attributes = resource["attributes"].as_array().unwrap().iter();
        let of = attributes.find(|attribute| attribute["key"] == "perigee.delivery").unwrap();
        of["value"]["stringValue"].as_str().unwrap().to_owned()
    };
    for signal in Signal::ALL {
        let text = std::fs::read_to_string(ground.sink.file(signal)).unwrap();
        let mut seen = 0;
        for line in text.lines() {
            for id in e2e::ids_in(line) {
                let expected = if id.starts_with("during") { "live" } else { "stored" };
                assert_eq!(said(line), expected, "{id}");
                seen += 1;
            }
        }
        assert_eq!(seen, ledger.items[signal]);
    }
    let text = std::fs::read_to_string(direct).unwrap();
    assert!(text.lines().count() >= 3 && text.lines().all(|line| said(line) == "live"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_stands_still_goes_on_where_it_was() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let mut agent = Agent::new(&scene, ground.link).always();
    agent.config["processors"]["batch"] = json!({"send_batch_size": 50, "timeout": "50ms"});
    agent.start().await;
    let load = Load::start(&agent, 3, 10, 300, Duration::from_millis(20));
    for process in [&agent.process, &ground.process] {
        process.signal(Unix::SIGSTOP);
        // So long is the pause, longer than any round trip and shorter than any timeout.
        tokio::time::sleep(Duration::from_secs(2)).await;
        process.signal(Unix::SIGCONT);
        let before = load.acknowledged();
        eventually("the clients get through", async || {
            let now = load.acknowledged();
            if now > before + 200 { Ok(()) } else { Err(now.to_string()) }
        })
        .await;
    }
    let ledger = load.stop().await;
    assert_eq!(settle(&mut agent, &mut ground, &ledger).await, 0);
    assert_eq!(ledger.undecided.len(), 0);
}

fn copy(from: &FilePath, to: &FilePath) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_from_before_begins_a_new_epoch_and_loses_nothing_that_is_new() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let mut agent = Agent::new(&scene, ground.link);
    agent.config["processors"]["batch"] = json!({"send_batch_size": 30});
    let contact = async |agent: &mut Agent| {
        agent.open_contact(STATION, json!({})).await;
        agent.drained().await;
        agent.close_contact().await;
    };
    let mut ledger = Ledger::default();
    agent.start().await;
    accept(&agent, &mut ledger, "a", 6).await;
    contact(&mut agent).await;
    // On board when the copy is made, and delivered before that is put back.
    accept(&agent, &mut ledger, "on board", 6).await;
    eventually("it is in segments", async || {
        let log = agent.inspect().await;
        (log["summary"]["unsealed_bytes"] == 0).then_some(()).ok_or_else(|| log.to_string())
    })
    .await;
    assert!(agent.process.terminate().await.success());
    let (directory, saved) = (agent.wal_directory().clone(), scene.path().join("saved"));
    copy(&directory, &saved);
    agent.start().await;
    let epoch = agent.status().await["wal"]["epoch"].clone();
    accept(&agent, &mut ledger, "b", 6).await;
    contact(&mut agent).await;
    assert!(agent.process.terminate().await.success());

    copy(&saved, &directory);
    agent.start().await;
    accept(&agent, &mut ledger, "c", 6).await;
    contact(&mut agent).await;
    assert_ne!(agent.status().await["wal"]["epoch"], epoch, "a new epoch");
    ground.exported(ledger.items).await;
    let arrived = ground.sink.ids();
    assert!(ledger.acknowledged.iter().all(|id| arrived.get(id) == Some(&1)), "{arrived:?}");
    let account = ground.accounting_of(SATELLITE).await;
    assert_eq!((items(&account["committed"]), items(&account["dropped"])), (ledger.items, Counts::default()));
    assert!(agent.process.log().contains("ERROR"), "it is an alarm");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_that_is_not_utf8_never_takes_anything_else_with_it() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let mut agent = Agent::new(&scene, ground.link).always();
    agent.config["processors"]["batch"] = json!({"timeout": "50ms"});
    agent.start().await;
    // A log record whose body is the string ff.
    let wrong = b"\x0a\x09\x12\x07\x12\x05\x2a\x03\x0a\x01\xff";
    let headers = [("content-type", "application/x-protobuf")];
    let target = e2e::wire::Target::tcp(agent.http);
    let body = bytes::Bytes::from_static(wrong);
    let answer = e2e::wire::http1(&target, http::Method::POST, "/v1/logs", &headers, body).await.unwrap();
    let mut ledger = Ledger::default();
    accept(&agent, &mut ledger, "after", 3).await;
    agent.drained().await;
    let account = agent.account().await;
    ground.exported(account.delivered).await;
    let arrived = ground.sink.ids();
    assert!(ledger.acknowledged.iter().all(|id| arrived.contains_key(id)));
    // It is taken, as the Collector takes it, and what was accepted can be written.
    assert_eq!(answer.status, http::StatusCode::OK);
    let account = ground.accounting_of(SATELLITE).await;
    assert_eq!(items(&account["dead_lettered"])[Signal::Logs], 0, "{account:#}");
    let written = std::fs::read_to_string(ground.sink.file(Signal::Logs)).unwrap();
    assert!(written.contains("\"stringValue\":\"\u{fffd}\""), "{written}");
}

/// Elements of a geostationary satellite at this longitude, as of now.
fn geostationary(longitude: f64) -> Value {
    let now = SystemTime::now();
    let days = now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64() / 86_400.0 - 10_957.5;
    // Greenwich's sidereal time in degrees, from noon of 2000-01-01 on (The Astronomical Almanac, section B).
    let greenwich = 280.460_618 + 360.985_647_366 * days;
    let epoch = humantime::format_rfc3339_millis(now).to_string();
    json!({
        "OBJECT_NAME": "GEO", "OBJECT_ID": "2020-001A", "EPOCH": epoch.trim_end_matches('Z'), "MEAN_MOTION": 1.0027,
        "ECCENTRICITY": 0.0002, "INCLINATION": 0.05, "RA_OF_ASC_NODE": (greenwich + longitude).rem_euclid(360.0),
        "ARG_OF_PERICENTER": 0, "MEAN_ANOMALY": 0, "EPHEMERIS_TYPE": 0, "CLASSIFICATION_TYPE": "U",
        "NORAD_CAT_ID": 11_111, "ELEMENT_SET_NO": 999, "REV_AT_EPOCH": 1, "BSTAR": 0, "MEAN_MOTION_DOT": 0,
        "MEAN_MOTION_DDOT": 0,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_is_read_again_costs_no_contact_but_that_with_a_station_that_is_gone() {
    let scene = Scene::new(PROGRAMS);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let file = scene.path().join("elements.json");
    std::fs::write(&file, json!([geostationary(15.0)]).to_string()).unwrap();
    let mut agent = Agent::new(&scene, ground.link);
    let other = json!({"address": "127.0.0.1:9"});
    agent.config["link"]["stations"]["beijing"] = other.clone();
    agent.config["contacts"] = json!({
        "source": "orbit", "file": file,
        "stations": {STATION: {"latitude": 20.0, "longitude": 15.4, "rate_down": "20Mbit/s"}},
    });
    agent.start().await;
    let link_is = async |agent: &Agent, state: &str| {
        eventually("the link is so", async || {
            let link = &agent.status().await["link"];
            (link["state"] == state).then_some(()).ok_or_else(|| format!("not {state}: {link}"))
        })
        .await;
    };
    link_is(&agent, "up").await;
    let hash = async || {
        let satellites = ground.ask("/api/v1/satellites").await.unwrap();
        satellites[0]["agent"]["configuration"].as_str().unwrap().to_owned()
    };
    let first = hash().await;
    let reload = async |agent: &Agent, config: &Value, times: usize| {
        std::fs::write(&agent.file, config.to_string()).unwrap();
        agent.process.signal(Unix::SIGHUP);
        eventually("it was read again", async || {
            let log = agent.process.log();
            let read = log.matches("the configuration was read again").count();
            (read >= times).then_some(()).ok_or(log)
        })
        .await;
    };
    agent.config["service"]["telemetry"]["logs"] = json!({"level": "debug"});
    reload(&agent, &agent.config, 1).await;
    let mut ledger = Ledger::default();
    accept(&agent, &mut ledger, "a", 6).await;
    agent.drained().await;
    assert_eq!(agent.metric("perigee_link_connections_total").await, 1, "the link stayed up");
    let report = async |agent: &Agent| agent.ask(http::Method::GET, "/contact/report", None).await.unwrap();
    assert_eq!(report(&agent).await["passes"], json!([]), "it is the same pass");

    // Without an orbit it is over, and with a station that is gone what was opened by hand.
    agent.config["contacts"] = json!({"source": "manual"});
    reload(&agent, &agent.config, 2).await;
    link_is(&agent, "down").await;
    agent.open_contact(STATION, json!({})).await;
    link_is(&agent, "up").await;
    assert_ne!(hash().await, first, "Hello says what is in force");
    agent.config["link"]["stations"] = json!({"beijing": other});
    reload(&agent, &agent.config, 3).await;
    link_is(&agent, "down").await;
    assert_eq!(agent.status().await["contact"], Value::Null);
    eventually("both passes are reported", async || {
        let report = report(&agent).await;
        (report["passes"].as_array().map(Vec::len) == Some(2)).then_some(()).ok_or_else(|| report.to_string())
    })
    .await;
    assert_eq!(agent.metric("perigee_link_connections_total").await, 2);
}
