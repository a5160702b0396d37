//! The demo as a user starts it, with everything going to files.

#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

use std::path::Path;
use std::process::Command;

/// Items in a file of OTLP JSON: how often `key` stands for a list's element.
fn items(path: &Path, list: &str) -> usize {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    lines.map(|line| count(&line, list)).sum()
}

/// The length of every array called `list`, at any depth.
fn count(value: &serde_json::Value, list: &str) -> usize {
    match value {
        serde_json::Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| match value.as_array() {
                Some(array) if key == list => array.len(),
                _ => count(value, list),
            })
            .sum(),
        serde_json::Value::Array(all) => all.iter().map(|v| count(v, list)).sum(),
        _ => 0,
    }
}

/// The row of `signal` in the last table: accepted, delivered, dropped, on board.
fn row(output: &str, signal: &str) -> Vec<usize> {
    let line = output.lines().rfind(|l| l.starts_with(&format!("{signal} ")) && !l.contains(" to "));
    line.unwrap().split_whitespace().skip(1).take(4).map(|n| n.parse().unwrap()).collect()
}

/// Trace ids of spans by service, in the file of traces.
fn traces_of(path: &Path, service: &str) -> std::collections::BTreeSet<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut out = std::collections::BTreeSet::new();
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        for resource in line["resourceSpans"].as_array().unwrap() {
            if !resource["resource"].to_string().contains(service) {
                continue;
            }
            let scopes = resource["scopeSpans"].as_array().unwrap();
            let spans = scopes.iter().flat_map(|s| s["spans"].as_array().unwrap());
            out.extend(spans.map(|s| s["traceId"].as_str().unwrap().to_owned()));
        }
    }
    out
}

#[test]
fn the_story_is_told_and_everything_is_accounted_for() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("run");
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--once", "--files", "--dir"])
        .arg(&dir)
        .output()
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{}\n{shown}\n{errors}", output.status);
    assert!(shown.contains("everything that was accepted is accounted for"), "{shown}");

    for told in [
        "The link breaks in mid-segment.",
        "The alarm is on the ground",
        "The broken segment is whole.",
        "log records wait on the ground's disk",
        "Its timestamp is the one that the service gave it",
    ] {
        assert!(shown.contains(told), "{told}\n{shown}");
    }
    assert!(
        shown.lines().all(|line| line.contains(dir.to_str().unwrap()) || line.chars().count() <= 80),
        "{shown}"
    );

    let logs = dir.canonicalize().unwrap().join("logs.jsonl");
    let records = items(&logs, "logRecords");
    assert!(records > 0);
    assert!(shown.contains(&format!("logs: {records} records in {}", logs.display())), "{records}\n{shown}");
    for (signal, list) in [("traces", "spans"), ("metrics", "dataPoints"), ("logs", "logRecords")] {
        let delivered = items(&dir.join(format!("{signal}.jsonl")), list);
        assert_eq!(row(&shown, signal), [delivered, delivered, 0, 0], "{signal}\n{shown}");
    }

    let traces = dir.join("traces.jsonl");
    let [a, b, back] = ["front-end-a", "front-end-b", "back-end"].map(|s| traces_of(&traces, s));
    assert!(
        !a.is_empty() && a.is_subset(&b) && a.is_subset(&back),
        "a request is one trace over three services"
    );
    assert!(!dir.join("agent").exists() && !dir.join("pki").exists(), "stores and keys are taken away");
}

#[test]
fn a_directory_that_holds_something_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("mine"), "x").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_demo")).arg("--dir").arg(dir.path()).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("is not empty"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn no_child_stays_when_the_demo_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--files", "--dir"])
        .arg(&run)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let answers = |name: &str| std::os::unix::net::UnixStream::connect(run.join(name)).is_ok();
    let until = |expected: bool| {
        for _ in 0..600 {
            if answers("agent.sock") == expected && answers("ground.sock") == expected {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        false
    };
    assert!(until(true), "both programs come up");
    demo.kill().unwrap();
    demo.wait().unwrap();
    assert!(until(false), "both programs end by themselves");
}
