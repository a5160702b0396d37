//! `ground-station top`: satellites, spool and exporters as a screen.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{anyhow, bail};
use perigee_shared::contact::shown_time;
use perigee_shared::control::request;
use perigee_shared::env::Env;
use perigee_shared::units::shown_span;
use perigee_top::Seen;
use perigee_top::ratatui::style::Stylize;
use perigee_top::ratatui::text::{Line, Span};
use perigee_top::text::{bar, byte_rate, countdown, cut, head, labelled, rate, size};
use serde_json::{Value, json};

use super::ConfigFile;
use crate::config::Config;

const SIGNALS: [&str; 3] = ["spans", "metric_points", "log_records"];

pub(super) async fn run(file: ConfigFile) -> anyhow::Result<ExitCode> {
    let config = Config::load(&file.config)?;
    let Some(control) = config.extensions.control else {
        bail!(
            "extensions.control is missing, and this command asks a running ground-station over its socket: write \
             `control: {{socket: /run/perigee/ground.sock}}` under extensions and start it again"
        );
    };
    let look = move || look(control.socket.clone());
    perigee_top::run("ground-station", "ground-station satellites", look, view)
        .await
        .map_err(|e| anyhow!(e))?;
    Ok(ExitCode::SUCCESS)
}

/// What the running process says, and the time.
async fn look(socket: PathBuf) -> Result<Value, String> {
    Ok(json!({
        "satellites": ask(&socket, "/api/v1/satellites").await?,
        "spool": ask(&socket, "/api/v1/spool").await?,
        "accounting": ask(&socket, "/api/v1/accounting").await?,
        "unix_nano": Env::production().unix_nano(),
    }))
}

async fn ask(socket: &Path, path: &str) -> Result<Value, String> {
    request(socket, http::Method::GET, path, None).await.map_err(|e| e.told("ground-station"))
}

/// The answers of [`look`] as lines.
fn view(seen: &Seen) -> Vec<Line<'static>> {
    let now = seen.now();
    let spool = &now["spool"];
    let rest = format!(" of {}, {} segments", size(&spool["max_bytes"]), number(&spool["segments"]));
    let letters = number(&spool["dead_letters"]);
    let dead = format!(", {letters} dead letters");
    let dead = if letters > 0 { dead.red() } else { Span::from(dead) };
    let mut lines = vec![
        labelled("time", [shown_time(number(&now["unix_nano"])).into()]),
        labelled(
            "spool",
            [bar(number(&spool["used_bytes"]), number(&spool["max_bytes"])), rest.into(), dead],
        ),
        Line::default(),
    ];
    lines.extend(satellites(seen));
    lines.push(Line::default());
    lines.extend(lanes(now));
    lines.extend(items(seen));
    lines.push(Line::default());
    lines.extend(exporters(spool));
    lines
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn satellites(seen: &Seen) -> Vec<Line<'static>> {
    let row = |[a, b, c, d, e, f]: [&str; 6]| format!("{a:<16}{b:<6}{c:<25}{d:>11}{e:>11}{f:>11}");
    let mut lines = vec![head(row(["satellite", "link", "contact", "on board", "partial", "comes"]))];
    let now = number(&seen.now()["unix_nano"]);
    for satellite in rows(&seen.now()["satellites"]) {
        let name = satellite["satellite"].as_str().unwrap_or("");
        let up = satellite["connected"] == true;
        let waits: Option<u64> =
            satellite["backlog"].as_array().map(|l| l.iter().map(|l| number(&l["bytes"])).sum());
        let waits = waits.map_or_else(|| "unknown".to_owned(), |bytes| size(&bytes.into()));
        let comes = byte_rate(seen.rate(|v| number(&v["accounting"][name]["bytes"])));
        let text = row([
            &cut(name, 15),
            if up { "up" } else { "down" },
            &cut(&contact(satellite, now), 24),
            &waits,
            &size(&satellite["partial_bytes"]),
            &comes,
        ]);
        lines.push(if up { Line::from(text).green() } else { Line::from(text) });
    }
    lines
}

/// How long the contact lasts, or when the next one begins by the satellite's plan.
fn contact(satellite: &Value, now: u64) -> String {
    if let Some(station) = satellite["linked_at"][0].as_str() {
        return format!("now at {station}");
    }
    if satellite["connected"] == true {
        return match satellite["link"]["ends_unix_nano"].as_u64() {
            Some(end) => format!("LOS in {}", countdown(end.saturating_sub(now))),
            None => "has no planned end".to_owned(),
        };
    }
    let next = &satellite["next_contact"];
    match next["start_unix_nano"].as_u64() {
        None => "next unknown".to_owned(),
        Some(at) => {
            let station = next["station"].as_str().unwrap_or("");
            match at.checked_sub(now) {
                Some(left) => format!("AOS in {} {station}", countdown(left)),
                None => format!("was due {} ago {station}", shown_span(now - at)),
            }
        }
    }
}

/// What waits on board, by lane, as far as satellites have said.
fn lanes(now: &Value) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for satellite in rows(&now["satellites"]) {
        for lane in rows(&satellite["backlog"]).filter(|lane| number(&lane["bytes"]) > 0) {
            if lines.is_empty() {
                let names = ("satellite", "lane", "on board", "items");
                lines.push(head(format!("{:<16}{:<31}{:>11}{:>11}", names.0, names.1, names.2, names.3)));
            }
            let items: u64 = SIGNALS.iter().map(|signal| number(&lane["items"][signal])).sum();
            lines.push(Line::from(format!(
                "{:<16}{:<31}{:>11}{items:>11}",
                cut(satellite["satellite"].as_str().unwrap_or(""), 15),
                cut(lane["name"].as_str().unwrap_or(""), 30),
                size(&lane["bytes"]),
            )));
        }
    }
    if !lines.is_empty() {
        lines.push(Line::default());
    }
    lines
}

fn items(seen: &Seen) -> Vec<Line<'static>> {
    let row = |[a, b, c, d, e, f]: [&str; 6]| format!("{a:<16}{b:>12}{c:>12}{d:>13}{e:>13}{f:>14}");
    let mut lines =
        vec![head(row(["items", "received/s", "exported/s", "received", "exported", "dead letters"]))];
    for signal in SIGNALS {
        let all = |value: &Value, key: &str| -> u64 {
            value["accounting"].as_object().into_iter().flatten().map(|(_, a)| number(&a[key][signal])).sum()
        };
        lines.push(Line::from(row([
            &signal.replace('_', " "),
            &rate(seen.rate(|v| all(v, "committed"))),
            &rate(seen.rate(|v| all(v, "exported"))),
            &all(seen.now(), "committed").to_string(),
            &all(seen.now(), "exported").to_string(),
            &all(seen.now(), "dead_lettered").to_string(),
        ])));
    }
    lines
}

fn exporters(spool: &Value) -> Vec<Line<'static>> {
    let mut lines = vec![head(format!("{:<40}{:>20}", "exporter", "segments behind"))];
    for exporter in rows(&spool["exporters"]) {
        let behind = number(&exporter["backlog_segments"]);
        let line =
            Line::from(format!("{:<40}{behind:>20}", cut(exporter["name"].as_str().unwrap_or(""), 39)));
        lines.push(if behind > 0 { line.yellow() } else { line });
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use perigee_top::draw;
    use perigee_top::ratatui::Terminal;
    use perigee_top::ratatui::backend::TestBackend;

    use super::*;

    const NOW: u64 = 1_764_165_600_000_000_000;
    const S: u64 = 1_000_000_000;

    fn answer(bytes: u64, spans: u64) -> Value {
        let account = |spans: u64| json!({"spans": spans, "metric_points": 0, "log_records": 0});
        json!({
            "unix_nano": NOW,
            "spool": {
                "used_bytes": 512 << 20, "max_bytes": 1024 << 20, "segments": 41, "dead_letters": 1,
                "exporters": [{"name": "otlp_grpc/jaeger", "backlog_segments": 41}],
            },
            "satellites": [
                {
                    "satellite": "a-satellite-with-a-long-name", "connected": true, "partial_bytes": 1024,
                    "link": {"ends_unix_nano": NOW + 472 * S},
                    "backlog": [{"name": "bulk", "bytes": 2048, "items": account(7)}, {"name": "alarms", "bytes": 0}],
                },
                {
                    "satellite": "sat-2", "connected": false, "partial_bytes": 0, "backlog": null,
                    "next_contact": {"station": "kiruna", "start_unix_nano": NOW + 5_650 * S},
                },
                {
                    "satellite": "sat-3", "connected": false, "partial_bytes": 0, "backlog": [],
                    "next_contact": {"station": "kiruna", "start_unix_nano": NOW - 300 * S},
                },
            ],
            "accounting": {
                "a-satellite-with-a-long-name": {
                    "bytes": bytes, "committed": account(spans), "exported": account(5), "dead_lettered": account(1),
                },
            },
        })
    }

    #[test]
    fn the_screen_fits_80_columns_with_rates_and_countdowns() {
        let mut seen = Seen::default();
        seen.answer(answer(0, 0), Duration::ZERO);
        seen.answer(answer(4096, 300), Duration::from_secs(2));
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| _ = draw(frame, "ground-station", &seen, view, 0)).unwrap();
        let shown = terminal.backend().to_string();
        let shown: Vec<_> = shown.lines().map(|line| line.trim_matches('"').trim_end()).collect();
        let expected = "\
time      2025-11-26T14:00:00Z
spool     ██████████░░░░░░░░░░  50 % of 1.00 GiB, 41 segments, 1 dead letters

satellite       link  contact                     on board    partial      comes
a-satellite-wi… up    LOS in 7:52                  2.0 KiB    1.0 KiB  2.0 KiB/s
sat-2           down  AOS in 1:34:10 kiruna        unknown        0 B      0 B/s
sat-3           down  was due 5 min ago kiruna         0 B        0 B      0 B/s

satellite       lane                              on board      items
a-satellite-wi… bulk                               2.0 KiB          7

items             received/s  exported/s     received     exported  dead letters
spans                    150           0          300            5             1
metric points              0           0            0            0             0
log records                0           0            0            0             0

exporter                                     segments behind
otlp_grpc/jaeger                                          41";
        assert_eq!(shown[..18].join("\n"), expected);
        assert_eq!(shown[23], "q quits");
    }
}
