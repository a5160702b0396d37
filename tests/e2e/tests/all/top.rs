//! `space-agent top` and `ground-station top` in a terminal: what a person sees, and which keys do what.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use e2e::{Agent, Batch, Ground, Ledger, Load, SATELLITE, STATION, Scene, Sent, Terminal, eventually};
use perigee_shared::signal::Signal;
use serde_json::json;

use crate::PROGRAMS;

const USUAL: (u16, u16) = (80, 24);

/// The column of a table's row, counted from its label.
fn number(row: &str, column: usize) -> Result<u64, String> {
    let field = row.split_whitespace().nth(column).ok_or_else(|| format!("no column {column} in {row:?}"))?;
    field.parse().map_err(|_| format!("{field:?} in {row:?}"))
}

/// Waits until two seconds of the countdown behind `before` in the line `label` were shown.
async fn counts_down(terminal: &Terminal, label: &str, before: &str) {
    let mut seen = BTreeSet::new();
    eventually("the countdown moves", async || {
        let line = terminal.line(label)?;
        let left = line.split_once(before).and_then(|(_, rest)| rest.split_whitespace().next());
        let left = left.filter(|left| left.contains(':')).ok_or_else(|| line.clone())?;
        seen.insert(left.to_owned());
        if seen.len() > 1 { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

/// Leaves it by `q`, and looks at what it leaves behind.
async fn quits(mut terminal: Terminal) {
    assert!(terminal.is_full_screen() && terminal.hides_cursor());
    terminal.press(b"q");
    assert!(terminal.end().await.success());
    eventually("the terminal is as it was", async || {
        let is_left = !terminal.is_full_screen() && !terminal.hides_cursor();
        is_left.then_some(()).ok_or_else(|| terminal.lines().join("\n"))
    })
    .await;
    assert!(terminal.lines().iter().all(String::is_empty), "{:?}", terminal.lines());
}

/// An agent whose next contact begins in an hour, and a ground.
async fn scene(scene: &Scene) -> (Agent, Ground) {
    let mut ground = Ground::new(scene);
    ground.config["storage"]["keep"] = json!({"age": "1h", "bytes": "64MiB"});
    ground.start().await;
    let plan = scene.path().join("plan.yaml");
    let at =
        |after| humantime::format_rfc3339_millis(SystemTime::now() + Duration::from_secs(after)).to_string();
    let contact = json!({"station": STATION, "start": at(3600), "end": at(4200)});
    std::fs::write(&plan, json!({"contacts": [contact]}).to_string()).unwrap();
    let mut agent = Agent::new(scene, ground.link);
    agent.config["contacts"] = json!({"source": "plan", "file": plan});
    agent.start().await;
    (agent, ground)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_s_screen_follows_it_and_leaves_the_terminal_as_it_was() {
    let place = Scene::new(PROGRAMS);
    let (agent, _ground) = scene(&place).await;
    let args = ["top", "--config", agent.file.to_str().unwrap()];
    let terminal = Terminal::start(Path::new(PROGRAMS.agent), &args, USUAL);
    counts_down(&terminal, "next", "AOS in ").await;
    assert_eq!(terminal.line("contact"), Ok("none".to_owned()));
    assert_eq!(terminal.line("link"), Ok("down".to_owned()));
    let load = Load::start(&agent, 1, 10, 100, Duration::from_millis(50));
    eventually("rates and what waits are shown", async || {
        let spans = terminal.line("traces")?;
        let (rate, on_board) = (number(&spans, 0)?, number(&spans, 5)?);
        let waits = number(&terminal.line("bulk")?, 3)?;
        if rate > 0 && on_board > 0 && waits > 0 { Ok(()) } else { Err(spans) }
    })
    .await;
    drop(load.stop().await);
    let lines = terminal.lines();
    assert_eq!((lines.len(), lines[23].as_str()), (24, "q quits"), "{lines:?}");
    let head = "items      accepted/s delivered/s     accepted    delivered   dropped   on board";
    assert!(lines.iter().any(|line| line == head), "{lines:?}");
    agent.open_contact(STATION, json!({})).await;
    eventually("the contact is shown", async || {
        let (link, contact) = (terminal.line("link")?, terminal.line("contact")?);
        let is_shown = link.starts_with("up (svalbard)") && contact == "svalbard, until it is closed";
        is_shown.then_some(()).ok_or(link)
    })
    .await;
    // What does not fit is cut at the right and scrolled to.
    terminal.resize((40, 10));
    eventually("it fits a narrow window", async || {
        let lines = terminal.lines();
        let fits = lines.len() == 10
            && lines[9] == "q quits, the arrows scroll"
            && lines[0].starts_with("satellite");
        fits.then_some(()).ok_or_else(|| lines.join("\n"))
    })
    .await;
    terminal.press(b"\x1b[B");
    eventually("it scrolls", async || {
        let lines = terminal.lines();
        (lines[0].starts_with("time ") && lines[0].len() <= 40).then_some(()).ok_or_else(|| lines.join("\n"))
    })
    .await;
    quits(terminal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ground_s_screen_follows_it_and_says_when_nobody_answers() {
    let place = Scene::new(PROGRAMS);
    let (agent, mut ground) = scene(&place).await;
    let args = ["top", "--config", ground.file.to_str().unwrap()];
    let terminal = Terminal::start(Path::new(PROGRAMS.ground), &args, USUAL);
    let mut ledger = Ledger::default();
    agent.open_contact(STATION, json!({})).await;
    let mut sent = 0;
    eventually("rates are shown", async || {
        let batch = Batch::new(Signal::Traces, &format!("top{sent}"), 10, 100);
        agent.accept(&batch).await;
        ledger.note(&batch, &Sent::Acknowledged);
        sent += 1;
        let spans = terminal.line("spans")?;
        if number(&spans, 0)? > 0 && number(&spans, 2)? > 0 { Ok(()) } else { Err(spans) }
    })
    .await;
    assert!(terminal.line(SATELLITE).unwrap().starts_with("up "), "{:?}", terminal.lines());
    agent.close_contact().await;
    let batch = Batch::new(Signal::Traces, "behind", 10, 100);
    agent.accept(&batch).await;
    counts_down(&terminal, SATELLITE, "AOS in ").await;
    let lines = terminal.lines();
    assert_eq!((lines.len(), lines[23].as_str()), (24, "q quits"), "{lines:?}");
    eventually("all is exported", async || {
        let spool = terminal.line("spool")?;
        let is_empty = spool.ends_with("0 % of 256.0 MiB, 0 segments, 0 dead letters");
        if is_empty { Ok(()) } else { Err(spool) }
    })
    .await;
    let again = ground.command(&["replay", "--exporter", "file/traces", "--wait"]).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.out.lines().nth(1).unwrap().ends_with(" done"), "{again:?}");
    ground.process.kill().await;
    eventually("nobody answers", async || terminal.line("ground-station does not answer: ").map(drop)).await;
    assert!(terminal.line(SATELLITE).unwrap().starts_with("down "), "what was known stays");
    quits(terminal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_takes_long_says_so_in_a_line_that_it_takes_away() {
    let place = Scene::new(PROGRAMS);
    let (_agent, ground) = scene(&place).await;
    let (file, copy) = (ground.file.to_str().unwrap(), place.path().join("spool.copy"));
    let copy = copy.to_str().unwrap();
    let args = ["spool", "backup", copy, "--config", file];
    let mut terminal = Terminal::start(Path::new(PROGRAMS.ground), &args, (200, 5));
    assert!(terminal.end().await.success(), "{:?}", terminal.lines());
    eventually("its result alone is there", async || {
        let lines = terminal.lines();
        let is_alone = lines[0].contains(copy) && lines[1..].iter().all(String::is_empty);
        is_alone.then_some(()).ok_or_else(|| lines.join("\n"))
    })
    .await;
    let written = terminal.written();
    assert!(written.contains("\x1b[Kcopying the spool"), "{written:?}");
}
