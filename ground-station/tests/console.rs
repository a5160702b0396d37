//! The console and its API: what is shown, to whom, how soon, and what it costs.

#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use ground_station::console::ConsoleConfig;
use perigee_proto::link;
use serde_json::Value;
use support::{Running, Site, get, segment};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::Instant;

const READ: &str = "read-0123456789abcdef";
const ACT: &str = "act-0123456789abcdef0";

fn console(site: &Site, reading: bool) -> ConsoleConfig {
    std::fs::write(site.path("read"), format!("rita {READ}\n")).unwrap();
    std::fs::write(site.path("act"), format!("ann {ACT}\n")).unwrap();
    ConsoleConfig {
        endpoint: "127.0.0.1:0".to_owned(),
        tls: None,
        read_tokens_file: reading.then(|| site.path("read")),
        act_tokens_file: Some(site.path("act")),
        act_certificates: Vec::new(),
    }
}

async fn start(site: &Site, reading: bool) -> Running {
    let mut config = site.config("", &site.file_exporter());
    config.extensions.console = Some(console(site, reading));
    Running::start(config).await
}

/// One request; head and body of the answer.
async fn ask(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Where a `Link` header leads.
fn next(head: &str) -> Option<String> {
    let line = head.lines().find(|line| line.starts_with("link: "))?;
    Some(line.split(['<', '>']).nth(1)?.to_owned())
}

/// A stream of events.
struct Stream(BufReader<TcpStream>);

impl Stream {
    async fn open(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        Self(BufReader::new(stream))
    }

    /// The next event of this name.
    async fn next(&mut self, wanted: &str) -> Value {
        let mut name = String::new();
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).await.unwrap() > 0, "the stream has ended");
            if let Some(event) = line.strip_prefix("event: ") {
                event.trim().clone_into(&mut name);
            } else if let Some(data) = line.strip_prefix("data: ")
                && name == wanted
            {
                return serde_json::from_str(data).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_comes_by_itself_and_viewers_share_one_look_a_second() {
    const VIEWERS: usize = 10;
    let site = Site::new();
    let ground = start(&site, false).await;
    let address = ground.console.unwrap();
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..2).await;
    let mut viewers = Vec::new();
    for _ in 0..VIEWERS {
        viewers.push(Stream::open(address).await);
    }
    let mut first = viewers[0].next("look").await["number"].as_u64().unwrap();
    for sequence in 1..4 {
        let one = segment(sequence, 10);
        sat.send(&one).await;
        sat.committed(&[sequence]).await;
        // Within a second, says `board_tests.rs` in virtual time, and `bench console` on a quiet machine.
        while viewers[0].next("satellite").await["account"]["segments"] != sequence {}
    }
    // All of them hear of the same looks, and of at most one a second.
    let begun = Instant::now();
    let looks = async |stream: &mut Stream| {
        let mut seen = BTreeSet::new();
        while begun.elapsed() < Duration::from_secs(4) {
            seen.insert(stream.next("look").await["number"].as_u64().unwrap());
        }
        seen
    };
    let mut all = BTreeSet::new();
    for seen in futures_of(&mut viewers, looks).await {
        all.extend(seen);
    }
    first = first.max(*all.first().unwrap());
    let (last, seconds) = (*all.last().unwrap(), begun.elapsed().as_secs() + 3);
    assert!(last - first <= seconds, "{} looks in {seconds} s for {VIEWERS} viewers", last - first);
    drop(viewers);
    ground.stop().await;
}

/// The same of every stream at once.
async fn futures_of<R>(streams: &mut [Stream], each: impl AsyncFn(&mut Stream) -> R) -> Vec<R> {
    let mut out = Vec::new();
    let mut waiting: Vec<_> = streams.iter_mut().map(|stream| Box::pin(each(stream))).collect();
    std::future::poll_fn(|cx| {
        waiting.retain_mut(|future| match future.as_mut().poll(cx) {
            std::task::Poll::Ready(done) => {
                out.push(done);
                false
            }
            std::task::Poll::Pending => true,
        });
        if waiting.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    drop(waiting);
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_parts_the_latest_first_and_every_row_once() {
    let site = Site::new();
    let ground = start(&site, false).await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    let drop = |id: u64| link::Drop {
        id,
        reason: link::DropReason::Lifetime.into(),
        lane: 8,
        items: Some(link::Counts { spans: id, ..link::Counts::default() }),
        ..link::Drop::default()
    };
    let epoch = link::Epoch {
        epoch: support::EPOCH,
        lanes: vec![support::lane(1..1, 1)],
        drops: (1..=7).map(drop).collect(),
        ..link::Epoch::default()
    };
    sat.hello_epoch(epoch).await;
    // In 2020 and later: what is earlier was said by a clock that was wrong.
    const SINCE: u64 = 1_600_000_000_000_000_000;
    let pass = |n: u64| link::PassReport {
        station: "kourou".to_owned(),
        start_unix_nano: SINCE + n * 1_000,
        end_unix_nano: SINCE + n * 1_000 + 1,
        state: link::PassState::Cut.into(),
        ..link::PassReport::default()
    };
    for id in ["sat-1", "sat-2"] {
        let mut sat = site.satellite(id, ground.address).await;
        let passes = (1..=40).map(|n| pass(2 * n + u64::from(id == "sat-1"))).collect();
        let hello = link::Hello { satellite: id.to_owned(), passes, ..link::Hello::default() };
        sat.say(perigee_proto::link::agent_message::Body::Hello(hello)).await;
        sat.hear().await;
    }
    for (path, limit, rows) in [("passes", 3, 80), ("passes", 1000, 80), ("gaps", 3, 7)] {
        let (mut seen, mut address) = (Vec::new(), Some(format!("?limit={limit}")));
        while let Some(query) = address {
            let (head, body) = ask(ground.api, "GET", &format!("/api/v1/{path}{query}"), "", "").await;
            assert_eq!(status(&head), 200, "{body}");
            let part: Vec<Value> = serde_json::from_str(&body).unwrap();
            assert!(part.len() <= limit);
            seen.extend(part);
            address = next(&head);
        }
        // What this station saw of its own links comes first.
        assert!(seen.is_sorted_by_key(|row| row["station"] == "kourou"));
        seen.retain(|row| path == "gaps" || row["station"] == "kourou");
        assert_eq!(seen.len(), rows, "{path}");
        let distinct: BTreeSet<String> = seen.iter().map(Value::to_string).collect();
        assert_eq!(distinct.len(), rows, "{path}: each once");
        if path == "passes" {
            let starts: Vec<u64> = seen.iter().map(|p| p["start_unix_nano"].as_u64().unwrap()).collect();
            assert!(starts.is_sorted_by(|a, b| a >= b), "{starts:?}");
            assert_eq!(starts[0], SINCE + 81_000);
        }
    }
    let (_, body) = ask(ground.api, "GET", "/api/v1/passes?satellite=sat-2", "", "").await;
    let of_one: Vec<Value> = serde_json::from_str(&body).unwrap();
    assert_eq!(of_one.iter().filter(|row| row["station"] == "kourou").count(), 40);
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_is_a_problem_document() {
    let site = Site::new();
    let ground = start(&site, false).await;
    for address in [ground.api, ground.console.unwrap()] {
        for (method, path, expected) in [
            ("GET", "/api/v1/passes?after=x", 400),
            ("GET", "/api/v1/passes?limit=many", 400),
            ("GET", "/api/v1/gaps?after=1-2", 400),
            ("GET", "/api/v1/catalogue?from=yesterday", 400),
            ("GET", "/api/v1/nothing", 404),
            ("GET", "/api/v1/satellites/nobody/curves", 404),
            ("GET", "/api/v1/satellites/%ff/curves", 400),
            ("POST", "/api/v1/passes", 405),
        ] {
            let (head, body) = ask(address, method, path, "", "").await;
            assert_eq!(status(&head), expected, "{path}: {head}");
            assert!(head.contains("content-type: application/problem+json"), "{path}: {head}");
            let problem: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(problem["status"], expected);
            assert!(["type", "title", "detail"].iter().all(|key| problem[key].is_string()), "{problem}");
        }
    }
    let console = ground.console.unwrap();
    let (json, act) = ("content-type: application/json\r\n", "/api/v1/dead-letters/act");
    let (long, foreign) = ("x".repeat(65 << 10), "sec-fetch-site: cross-site\r\n");
    for (method, path, headers, body, expected) in [
        ("POST", act, "", "{}", 415),
        ("POST", act, json, "{", 400),
        ("POST", act, json, "{}", 422),
        ("POST", act, json, long.as_str(), 413),
        ("DELETE", "/api/v1/replays/abc", "", "", 400),
        ("GET", "/api/v1/spool", foreign, "", 403),
    ] {
        let (head, body) = ask(console, method, path, headers, body).await;
        assert_eq!(status(&head), expected, "{path}: {head}");
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{problem}");
    }
    let (head, body) = ask(console, "GET", "/?page=abc", "", "").await;
    assert_eq!(status(&head), 400);
    assert!(head.contains("content-type: text/html") && body.contains("invalid digit"), "{head}{body}");
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_knows_what_has_left_the_spool_and_who_has_it() {
    let site = Site::new();
    let ground = start(&site, false).await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..3).await;
    for sequence in [1, 2] {
        sat.send(&segment(sequence, 10 * sequence as usize)).await;
        sat.committed(&[sequence]).await;
    }
    ground.drained("sat-1").await;
    let store = ground.store.clone().unwrap();
    store.outlet().sweep().await.unwrap();
    assert_eq!(store.views().overview().await.unwrap().segments, 0, "both have left the spool");
    let rows = async |query: &str| {
        let (head, body) = ask(ground.api, "GET", &format!("/api/v1/catalogue{query}"), "", "").await;
        assert_eq!(status(&head), 200, "{body}");
        serde_json::from_str::<Vec<Value>>(&body).unwrap()
    };
    let all = rows("").await;
    assert_eq!(all.iter().map(|r| r["sequence"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 1]);
    assert_eq!((&all[0]["items"]["spans"], &all[0]["backends"]), (&20.into(), &serde_json::json!(["file"])));
    assert!(all[0]["committed_unix_nano"].as_u64().unwrap() > 0);
    // The items are from 1,000 to 2,000 ns.
    assert_eq!(rows("?satellite=sat-1&from=1500&until=1600").await.len(), 2);
    assert_eq!(rows("?from=2001").await.len(), 0);
    assert_eq!(rows("?satellite=sat-2").await.len(), 0);
    assert_eq!(rows("?limit=1&after=2").await[0]["sequence"], 1);
    // The pass is known once its link has ended.
    sat.connection.close(0_u32.into(), b"");
    while rows("").await[0]["pass_unix_nano"].is_null() {
        tokio::task::yield_now().await;
    }
    let (_, page) = ask(ground.console.unwrap(), "GET", "/catalogue?satellite=sat-1", "", "").await;
    assert!(page.contains("In file."), "{page}");
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_token_sees_and_changes_nothing() {
    let site = Site::new();
    let ground = start(&site, true).await;
    let address = ground.console.unwrap();
    for path in ["/", "/satellites/sat-1", "/data", "/audit", "/live"] {
        let (head, body) = ask(address, "GET", path, "", "").await;
        assert_eq!(status(&head), 303, "{path}");
        assert!(head.contains("location: /login?to=%2f"), "{head}");
        assert!(!body.contains("Perigee"), "{body}");
    }
    for path in ["/api/v1/satellites", "/api/v1/events", "/api/v1/catalogue"] {
        let (head, _) = ask(address, "GET", path, "", "").await;
        assert_eq!(status(&head), 401, "{path}");
        assert!(head.contains("www-authenticate: bearer"), "{head}");
        let (head, _) = ask(address, "GET", path, "authorization: Bearer nonsense-nonsense\r\n", "").await;
        assert_eq!(status(&head), 401, "{path}");
    }
    let bearer = format!("authorization: Bearer {READ}\r\n");
    let (head, _) = ask(address, "GET", "/api/v1/satellites", &bearer, "").await;
    assert_eq!(status(&head), 200);

    // A browser shows the token once and gets a cookie.
    let form = "content-type: application/x-www-form-urlencoded\r\nuser-agent: x\r\n";
    let own = format!("{form}origin: http://localhost\r\n");
    let sign_in = |token: &str, to: &str| format!("token={token}&to={to}");
    let (head, body) = ask(address, "POST", "/login", &own, &sign_in("wrong-wrong-wrong-wrong", "/")).await;
    assert_eq!(status(&head), 401);
    assert!(!head.contains("set-cookie") && body.contains("not a token that may read"));
    let (head, _) = ask(address, "POST", "/login", form, &sign_in(READ, "/")).await;
    assert_eq!(status(&head), 403, "it does not say where it comes from");
    let (head, _) = ask(address, "POST", "/login", &own, &sign_in(READ, "//evil.example")).await;
    assert!(head.contains("location: /\r\n"), "{head}");
    let (head, _) = ask(address, "POST", "/login", &own, &sign_in(READ, "/data")).await;
    assert!(status(&head) == 303 && head.contains("location: /data\r\n"), "{head}");
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    let cookie = cookie.split(';').next().unwrap();
    let with = |agent: &str| format!("cookie: {cookie}\r\nuser-agent: {agent}\r\n");
    assert_eq!(status(&ask(address, "GET", "/data", &with("x"), "").await.0), 200);
    assert_eq!(status(&ask(address, "GET", "/data", &with("y"), "").await.0), 303, "it was stolen");
    // It acts nowhere.
    let act = format!("{own}cookie: {cookie}\r\n");
    let (head, _) = ask(address, "POST", "/data/act", &act, "what=replay&all=all").await;
    assert_eq!(status(&head), 401);
    let (head, _) =
        ask(address, "POST", "/data/act", &act, &format!("what=replay&all=all&token={READ}")).await;
    assert_eq!(status(&head), 401, "who reads does not act");
    assert!(!site.path("spool/audit.jsonl").exists(), "nothing was done");
    let (head, _) =
        ask(address, "POST", "/data/act", &act, &format!("what=replay&all=all&token={ACT}")).await;
    assert_eq!(status(&head), 303, "{head}");
    let audit = std::fs::read_to_string(site.path("spool/audit.jsonl")).unwrap();
    assert_eq!(audit.lines().count(), 2, "{audit}");
    assert!(
        audit.contains("\"who\":\"ann\"") && audit.contains("done: 0") && !audit.contains(ACT),
        "{audit}"
    );
    let (head, _) = ask(address, "POST", "/logout", &format!("{own}cookie: {cookie}\r\n"), "").await;
    assert_eq!(status(&head), 303);
    assert_eq!(status(&ask(address, "GET", "/data", &with("x"), "").await.0), 303, "it was ended");
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_acts_with_its_token_and_says_exactly_of_what() {
    let site = Site::new();
    let ground = start(&site, false).await;
    let address = ground.console.unwrap();
    let json = format!("content-type: application/json\r\nauthorization: Bearer {ACT}\r\n");
    let act = async |headers: &str, body: &str| {
        let (head, body) = ask(address, "POST", "/api/v1/dead-letters/act", headers, body).await;
        (status(&head), body)
    };
    let (code, body) = act(&json, r#"{"what":"replay","id":7}"#).await;
    assert!(code == 404 && body.contains("no dead letter 7"), "{code} {body}");
    assert_eq!(act(&json, r#"{"what":"replay","all":true}"#).await.0, 200);
    for wrong in [
        r#"{"what":"replay"}"#,
        r#"{"what":"discard","all":true}"#,
        r#"{"what":"replay","id":7,"all":true}"#,
        r#"{"what":"replay","id":7,"exporter":"x"}"#,
    ] {
        assert_eq!(act(&json, wrong).await.0, 400, "{wrong}");
    }
    let cross = format!("{json}origin: https://evil.example\r\n");
    assert_eq!(act(&cross, r#"{"what":"replay","id":7}"#).await.0, 403);
    assert_eq!(act("content-type: application/json\r\n", r#"{"what":"replay","id":7}"#).await.0, 403);
    let (head, _) = ask(address, "POST", "/api/v1/dead-letters/act", &json, &"x".repeat(100_000)).await;
    assert_eq!(status(&head), 413);
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_a_range_needs_the_token_that_acts_and_is_in_the_audit() {
    let site = Site::new();
    let ground = start(&site, true).await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..2).await;
    sat.send(&segment(1, 5)).await;
    sat.committed(&[1]).await;
    ground.drained("sat-1").await;
    let address = ground.console.unwrap();
    let json = |token: &str| format!("content-type: application/json\r\nauthorization: Bearer {token}\r\n");
    let body = r#"{"exporter":"file","satellite":"sat-1","from":"1970-01-01T00:00:00Z"}"#;
    let begin = async |token: &str, body: &str| {
        let (head, body) = ask(address, "POST", "/api/v1/replays", &json(token), body).await;
        (status(&head), body)
    };
    assert_eq!(begin(READ, body).await.0, 401, "who reads does not act");
    assert!(!site.path("spool/audit.jsonl").exists(), "nothing was done");
    for wrong in [
        r#"{"exporter":"nobody"}"#,
        r#"{"exporter":"file","satellite":"sat-9"}"#,
        r#"{"exporter":"file","from":"soon"}"#,
        r#"{"exporter":"file","from":"7","until":"6"}"#,
    ] {
        assert_eq!(begin(ACT, wrong).await.0, 400, "{wrong}");
    }
    let (code, answer) = begin(ACT, body).await;
    assert_eq!(code, 200, "{answer}");
    let id = serde_json::from_str::<Value>(&answer).unwrap()["id"].as_u64().unwrap();
    let mut shown = Value::Null;
    while shown[0]["state"] != "done" {
        let (head, list) = ask(address, "GET", "/api/v1/replays", &json(READ), "").await;
        assert_eq!(status(&head), 200, "{list}");
        shown = serde_json::from_str(&list).unwrap();
    }
    assert_eq!((shown[0]["id"].as_u64(), shown[0]["satellite"].as_str()), (Some(id), Some("sat-1")));
    // By default nothing is kept: it is sent if it has not been deleted yet.
    let segments = |key: &str| shown[0][key].as_u64().unwrap();
    assert_eq!(segments("segments") + segments("missing_segments"), 1);
    let (head, _) = ask(address, "DELETE", &format!("/api/v1/replays/{id}"), &json(ACT), "").await;
    assert_eq!(status(&head), 400, "it has ended");
    let audit = std::fs::read_to_string(site.path("spool/audit.jsonl")).unwrap();
    assert!(
        audit.contains("\"what\":\"replay range\"") && audit.contains("sat-1 to file, from 1970"),
        "{audit}"
    );
    assert!(audit.contains("\"who\":\"ann\"") && audit.contains("cancel replay") && !audit.contains(ACT));
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_begun_and_ended_by_form_with_the_token_from_a_page_of_the_console_only() {
    let site = Site::new();
    let ground = start(&site, false).await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..2).await;
    sat.send(&segment(1, 5)).await;
    sat.committed(&[1]).await;
    ground.drained("sat-1").await;
    let address = ground.console.unwrap();
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    let own = format!("{form}origin: http://localhost\r\nsec-fetch-site: same-origin\r\n");
    let other = format!("{form}origin: https://evil.example\r\nsec-fetch-site: cross-site\r\n");
    let fields = |token: &str| {
        format!("exporter=file&satellite=&from=1970-01-01T00:00&until=2100-01-01T00:00&token={token}")
    };
    let post = async |path: &str, headers: &str, body: &str| {
        let (head, body) = ask(address, "POST", path, headers, body).await;
        (status(&head), head, body)
    };
    for (headers, token, expected) in [
        (&own, "", 401),
        (&own, "wrong-0123456789abcdef", 401),
        (&other, ACT, 403),
        (&form.to_owned(), ACT, 403),
    ] {
        for (path, body) in
            [("/catalogue/replay", fields(token)), ("/catalogue/replay/end", format!("id=1&token={token}"))]
        {
            assert_eq!(post(path, headers, &body).await.0, expected, "{path} {headers}");
        }
    }
    let list = async || {
        let (_, list) = ask(address, "GET", "/api/v1/replays", "", "").await;
        serde_json::from_str::<Value>(&list).unwrap()
    };
    assert_eq!(list().await, serde_json::json!([]), "nothing has begun");
    assert!(!site.path("spool/audit.jsonl").exists());
    let (code, head, body) = post("/catalogue/replay", &own, &fields(ACT)).await;
    assert_eq!(code, 303, "{body}");
    assert!(head.contains("location: /catalogue?done=begun-1#replays"), "{head}");
    while list().await[0]["state"] != "done" {}
    let (_, page) = ask(address, "GET", "/catalogue?done=begun-1", "", "").await;
    assert!(page.contains("Replay 1 has begun") && page.contains("name=\"exporter\""), "{page}");
    let (code, _, body) = post("/catalogue/replay/end", &own, &format!("id=1&token={ACT}")).await;
    assert!(code == 400 && body.contains("no replay 1 goes on"), "{code} {body}");
    let script = "id=%3Cscript%3E&token=x";
    assert_eq!(post("/catalogue/replay/end", &own, script).await.0, 400);
    let (_, page) =
        ask(address, "GET", "/catalogue?done=begun-%3Cscript%3E&from=%22%3E%3Cscript%3E", "", "").await;
    assert!(!page.contains("<script>"), "{page}");
    let audit = std::fs::read_to_string(site.path("spool/audit.jsonl")).unwrap();
    assert!(
        audit.contains("every satellite to file") && audit.contains("cancel replay") && !audit.contains(ACT),
        "{audit}"
    );
    ground.stop().await;
}

/// The orbit of a satellite over the poles as of now, and a station in the north.
fn orbit(station: &str) -> link::Orbit {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let site = link::Site {
        station: station.to_owned(),
        latitude: 78.2,
        longitude: 15.4,
        mask: vec![5.0],
        ..Default::default()
    };
    link::Orbit {
        name: "SAT <b>".to_owned(),
        epoch_unix_nano: now,
        mean_motion: 15.2,
        eccentricity: 0.001,
        inclination: 97.5,
        sites: vec![site],
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_track_of_the_next_pass_is_drawn_from_what_a_satellite_says_and_no_orbit_breaks_a_page() {
    let site = Site::new();
    let ground = start(&site, false).await;
    let address = ground.console.unwrap();
    let page = async |path: &str| {
        let (head, body) = ask(address, "GET", path, "", "").await;
        (status(&head), body)
    };
    let orbit = orbit("<script>alert(1)</script>");
    let broken = link::Orbit { mean_motion: f64::NAN, ..orbit.clone() };
    // A look is kept for a second.
    let until = async |path: &str, part: &str| loop {
        let (code, body) = page(path).await;
        if body.contains(part) {
            return (code, body);
        }
    };
    let drawn = "<svg class=\"sky\"";
    for (said, part, expected) in [
        (None, "not said from where", 404),
        (Some(orbit), drawn, 200),
        (Some(broken), "describe no orbit", 404),
    ] {
        let mut sat = site.satellite("sat-1", ground.address).await;
        let hello = link::Hello { satellite: "sat-1".to_owned(), orbit: said, ..link::Hello::default() };
        sat.say(link::agent_message::Body::Hello(hello)).await;
        sat.hear().await;
        for path in ["/satellites/sat-1", "/passes?satellite=sat-1"] {
            let (code, body) = until(path, part).await;
            assert_eq!((code, body.contains(drawn)), (200, expected == 200), "{path}");
            assert!(!body.contains("<script>alert") && !body.contains("SAT <b>"), "{path}");
        }
        let (code, track) = page("/api/v1/satellites/sat-1/track").await;
        assert_eq!(code, expected, "{track}");
        let track: Value = serde_json::from_str(&track).unwrap();
        let known = expected == 200;
        assert_eq!(track["points"].as_array().map(Vec::len), known.then_some(241));
        assert_eq!(track["detail"].as_str().is_some_and(|why| why.contains(part)), !known, "{track}");
    }
    let (_, never) = page("/api/v1/satellites/sat-9/track").await;
    assert!(never.contains("never heard"), "{never}");
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_has_the_policy_and_a_page_of_another_host_gets_nothing() {
    let site = Site::new();
    let ground = start(&site, false).await;
    let address = ground.console.unwrap();
    for path in ["/", "/passes", "/gaps", "/data", "/live", "/catalogue", "/audit", "/nothing", "/login"] {
        let (head, body) = ask(address, "GET", path, "", "").await;
        assert!(head.contains("content-security-policy: default-src 'self'"), "{path}: {head}");
        assert!(head.contains("x-content-type-options: nosniff"), "{path}");
        assert!(!body.contains("style=") && !body.contains("onclick") && !body.contains("<style"), "{path}");
        let own = body.matches("<script src=\"/assets/").count();
        assert_eq!(body.matches("<script").count(), own, "{path}: only those from the program");
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_certificate_of_the_operators_one_reads_and_acts_and_without_it_one_does_not_connect() {
    let site = Site::new();
    let mut config = site.config("", &site.file_exporter());
    let file = |name: &str| site.path(name);
    let mut console = console(&site, true);
    console.tls = Some(ground_station::console::ConsoleTls {
        cert_file: file("station-svalbard.crt"),
        key_file: file("station-svalbard.key"),
        client_ca_file: Some(file("satellite-ca.crt")),
    });
    console.act_certificates = vec!["spiffe://example.org/satellite/sat-1".to_owned()];
    console.act_tokens_file = None;
    config.extensions.console = Some(console);
    let ground = Running::start(config).await;
    let address = ground.console.unwrap();
    for (id, expected) in [("sat-1", Some(200)), ("sat-2", Some(401)), ("", None)] {
        let body = r#"{"what":"replay","all":true}"#;
        let request = format!(
            "POST /api/v1/dead-letters/act HTTP/1.1\r\nhost: localhost\r\norigin: https://localhost\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = over_tls(&site, address, id, &request).await;
        assert_eq!(answer.as_deref().map(status), expected, "{id}: {answer:?}");
        let request = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let answer = over_tls(&site, address, id, request).await;
        assert_eq!(answer.as_deref().map(status), expected.map(|_| 200), "{id}");
    }
    ground.stop().await;
}

/// One request over TLS with the certificate of this satellite; nothing when there is no connection.
async fn over_tls(site: &Site, address: SocketAddr, id: &str, request: &str) -> Option<String> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let roots = perigee_shared::link::tls::load_authorities(&site.path("station-ca.crt")).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.unwrap().with_root_certificates(roots);
    let config = if id.is_empty() {
        builder.with_no_client_auth()
    } else {
        let (certificate, key) = (format!("satellite-{id}.crt"), format!("satellite-{id}.key"));
        let chain = CertificateDer::pem_file_iter(site.path(&certificate)).unwrap();
        let key = PrivateKeyDer::from_pem_file(site.path(&key)).unwrap();
        builder.with_client_auth_cert(chain.collect::<Result<_, _>>().unwrap(), key).unwrap()
    };
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut stream = connector.connect("svalbard".try_into().unwrap(), stream).await.ok()?;
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    // The other side closes without a word.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).ok().filter(|answer| !answer.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_listener_is_as_it_was_without_a_console() {
    let site = Site::new();
    let ground = site.start().await;
    assert!(ground.console.is_none());
    let (head, body) = get(ground.api, "/api/v1/passes").await;
    assert_eq!((head.as_str(), body.as_str()), ("HTTP/1.1 200 OK", "[]"));
    let (head, _) = get(ground.api, "/").await;
    assert_eq!(head, "HTTP/1.1 404 Not Found");
    ground.stop().await;
}

/// What is wrong with `value` by `schema`, with the place.
fn wrong(document: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = document.pointer(name.strip_prefix('#')?);
        return schema.map_or(Some(format!("{name} is not there")), |s| wrong(document, s, value, at));
    }
    if let Some(all) = schema["allOf"].as_array() {
        return all.iter().find_map(|one| wrong(document, one, value, at));
    }
    if let Some(some) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
        let fits = some.iter().any(|one| wrong(document, one, value, at).is_none());
        return (!fits).then(|| format!("{at}: {value} is none of {some:?}"));
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is = |said: &Value| said == kind || (said == "number" && kind == "integer");
    let fits = match &schema["type"] {
        Value::Null => true,
        Value::Array(kinds) => kinds.iter().any(is),
        one => is(one),
    };
    if !fits {
        return Some(format!("{at}: {value} is not {}", schema["type"]));
    }
    match value {
        Value::Array(values) => values.iter().find_map(|v| wrong(document, &schema["items"], v, at)),
        Value::Object(values) => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let missing = required.into_iter().find(|name| !values.contains_key(*name));
            if let Some(missing) = missing {
                return Some(format!("{at}: {missing} is missing"));
            }
            values.iter().find_map(|(name, v)| {
                let own = schema["properties"].get(name).or(schema.get("additionalProperties"));
                own.and_then(|own| wrong(document, own, v, &format!("{at}.{name}")))
            })
        }
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openapi_document_names_every_address_and_answers_are_as_it_says() {
    let site = Site::new();
    let ground = start(&site, false).await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    let pass = link::PassReport {
        station: "svalbard".to_owned(),
        start_unix_nano: 5,
        end_unix_nano: 6,
        planned_bytes: 7,
        state: link::PassState::Cut.into(),
        ..link::PassReport::default()
    };
    let drop =
        link::Drop { id: 1, reason: link::DropReason::Lifetime.into(), lane: 8, ..link::Drop::default() };
    let lanes = vec![support::lane(1..2, 2)];
    let epoch = link::Epoch { epoch: support::EPOCH, lanes, drops: vec![drop], ..link::Epoch::default() };
    let waits = link::LaneBacklog { lane: 8, name: "bulk".to_owned(), bytes: 5, ..Default::default() };
    let hello = link::Hello {
        satellite: "sat-1".to_owned(),
        epochs: vec![epoch],
        passes: vec![pass],
        backlog: vec![waits],
        clock: Some(link::Clock {
            unix_nano: 5,
            boot_id: 6,
            since_boot_nano: 7,
            untrusted: "why".to_owned(),
        }),
        forecast: Some(link::Forecast { made_unix_nano: 1, ..Default::default() }),
        agent: Some(link::AgentState { running_nano: 5, ..Default::default() }),
        plan: Some(link::Plan { source: "plan".to_owned(), next_start_unix_nano: 9, ..Default::default() }),
        orbit: Some(orbit("svalbard")),
        ..link::Hello::default()
    };
    sat.say(link::agent_message::Body::Hello(hello)).await;
    sat.hear().await;
    sat.send(&segment(1, 5)).await;
    sat.committed(&[1]).await;
    for address in [ground.api, ground.console.unwrap()] {
        let (head, body) = ask(address, "GET", "/api/v1/openapi.json", "", "").await;
        assert_eq!(status(&head), 200, "{body}");
        let document: Value = serde_json::from_str(&body).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3."));
        let mut seen = 0;
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, described) in methods.as_object().unwrap() {
                assert!(described["responses"]["503"].is_object(), "{path}");
                if path.ends_with("/events") || method != "get" {
                    continue;
                }
                let (head, body) = ask(address, "GET", &path.replace("{id}", "sat-1"), "", "").await;
                assert_eq!(status(&head), 200, "{path}: {body}");
                let value: Value = serde_json::from_str(&body).unwrap();
                let schema = &described["responses"]["200"]["content"]["application/json"]["schema"];
                assert!(schema.is_object(), "{path}");
                assert_eq!(wrong(&document, schema, &value, path), None);
                // No dead letter is there: what one looks like is shown by the browser's tests.
                seen += usize::from(value != serde_json::json!([]));
                let nonsense = Value::Bool(true);
                assert!(wrong(&document, schema, &nonsense, path).is_some(), "the check can fail");
            }
        }
        assert_eq!(seen, 8, "something is in every list but those of dead letters and replays");
        let act = &document["paths"]["/api/v1/dead-letters/act"]["post"];
        assert_eq!(act.is_object(), address != ground.api, "it only reads");
    }
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_that_was_looked_at_does_not_keep_the_spool_open() {
    let site = Site::new();
    for _ in 0..2 {
        let ground = start(&site, false).await;
        let mut stream = Stream::open(ground.console.unwrap()).await;
        stream.next("look").await;
        for path in ["/", "/data", "/satellites/sat-1"] {
            ask(ground.console.unwrap(), "GET", path, "", "").await;
        }
        let began = Instant::now();
        ground.stop().await;
        assert!(began.elapsed() < Duration::from_secs(4), "the stream ends with the program");
        // Nobody else may have the file open for this.
        let config = site.config("", &site.file_exporter());
        let settings = ground_station::ground::settings(&config);
        let env = perigee_shared::env::Env::production();
        ground_station::spool::Store::open_existing(&env, settings).unwrap().close().await;
    }
}
