//! `space-agent top`: the status as a screen.

use perigee_shared::contact::shown_time;
use perigee_shared::units::shown_span;
use perigee_top::Seen;
use perigee_top::ratatui::style::Stylize;
use perigee_top::ratatui::text::{Line, Span};
use perigee_top::text::{bar, byte_rate, countdown, cut, head, labelled, rate, size};
use serde_json::Value;

use crate::people::{self, count, text, time};

const SIGNALS: [&str; 3] = ["traces", "metrics", "logs"];

/// What the control socket's `/status` says.
pub(crate) fn view(seen: &Seen) -> Vec<Line<'static>> {
    let status = seen.now();
    let mut lines = vec![
        labelled(
            "satellite",
            [format!("{}  space-agent {}", text(&status["satellite"]), text(&status["version"])).into()],
        ),
        labelled("time", [format!("{}{}", time(&status["unix_nano"]), doubt(status)).into()]),
    ];
    lines.extend(link(seen));
    lines.extend(contacts(status));
    lines.push(memory(&status["memory"]));
    lines.push(stored(status));
    if let Some(path) = status["store_missing"].as_str() {
        lines.push(labelled(
            "",
            [format!("THE STORE IS GONE: {path} is not in its place; see `status`").red().bold()],
        ));
    }
    if status["store_full"] == true {
        lines.push(labelled("", ["THE STORE IS FULL: requests are refused".red().bold()]));
    }
    lines.push(Line::default());
    lines.extend(items(seen));
    lines.push(Line::default());
    lines.extend(lanes(status));
    lines.extend(exporters(seen));
    lines
}

fn doubt(status: &Value) -> String {
    status["clock"]["doubt"].as_str().map_or_else(String::new, |why| format!("  NOT TRUSTED: {why}"))
}

fn link(seen: &Seen) -> Vec<Line<'static>> {
    let links = people::links(seen.now()).len();
    // Of one link the state that is shown where only one is, of two each by its number.
    let of = |n: usize| {
        let link =
            move |status: &Value| if links > 1 { status["links"][n].clone() } else { status["link"].clone() };
        one_link(seen, link)
    };
    (0..links).flat_map(of).collect()
}

fn one_link(seen: &Seen, of: impl Fn(&Value) -> Value) -> Vec<Line<'static>> {
    let link = &of(seen.now());
    let state = text(&link["state"]);
    let state = match state.as_str() {
        "up" => state.green(),
        "connecting" => state.yellow(),
        _ => Span::from(state),
    };
    let station = link["station"].as_str().map_or_else(String::new, |station| format!(" ({station})"));
    let speed = byte_rate(seen.rate(|v| count(&of(v)["sent_bytes"])));
    let sent = format!("  {speed}, {} in this contact", size(&link["sent_bytes"]));
    let rest = if station.is_empty() { String::new() } else { sent };
    let mut lines = vec![labelled("link", [state, station.into(), rest.into()])];
    if let Some(error) = link["last_error"].as_str() {
        let at = time(&link["last_error_unix_nano"]);
        lines.push(labelled("", [format!("last error at {at}: {error}").yellow()]));
    }
    lines
}

fn contacts(status: &Value) -> Vec<Line<'static>> {
    let now = count(&status["unix_nano"]);
    let next = &status["next_contact"];
    let open = people::open_contacts(status);
    let shown = |contact: &&Value| match (text(&contact["station"]), contact["end_unix_nano"].as_u64()) {
        (station, Some(end)) => format!("{station}, LOS in {}", countdown(end.saturating_sub(now))),
        (station, None) => format!("{station}, until it is closed"),
    };
    let open = match &open[..] {
        [] => "none".to_owned(),
        open => open.iter().map(shown).collect::<Vec<_>>().join("; "),
    };
    let coming = match (next["station"].as_str(), next["start_unix_nano"].as_u64()) {
        (Some(station), Some(start)) => {
            format!("{station}, AOS in {} at {}", countdown(start.saturating_sub(now)), shown_time(start))
        }
        _ => "nothing is planned".to_owned(),
    };
    let mut lines = vec![labelled("contact", [open.into()]), labelled("next", [coming.into()])];
    if let Some(error) = status["plan_error"].as_str() {
        lines.push(labelled("", [format!("the plan file cannot be used: {error}").red()]));
    }
    lines
}

fn memory(memory: &Value) -> Line<'static> {
    let limiter = match memory["pressure"].as_u64() {
        Some(0) => "takes everything".green(),
        Some(1) => "takes one request at a time".yellow().bold(),
        _ => "refuses every request".red().bold(),
    };
    let used = format!(
        "{} used, {} in flight; limiter ",
        size(&memory["used_bytes"]),
        size(&memory["in_flight_bytes"])
    );
    labelled("memory", [used.into(), limiter])
}

fn stored(status: &Value) -> Line<'static> {
    let wal = &status["wal"];
    let waits = match (status["waits_since_unix_nano"].as_u64(), status["unix_nano"].as_u64()) {
        (Some(since), Some(now)) => {
            format!("; the oldest waits for {}", shown_span(now.saturating_sub(since)))
        }
        _ => String::new(),
    };
    let of = format!(" of {}{waits}", size(&wal["max_bytes"]));
    labelled("stored", [bar(count(&wal["stored_bytes"]), count(&wal["max_bytes"])), of.into()])
}

fn items(seen: &Seen) -> Vec<Line<'static>> {
    let row =
        |[a, b, c, d, e, f, g]: [String; 7]| format!("{a:<10}{b:>11}{c:>12}{d:>13}{e:>13}{f:>10}{g:>11}");
    let names = ["items", "accepted/s", "delivered/s", "accepted", "delivered", "dropped", "on board"];
    let mut lines = vec![head(row(names.map(str::to_owned)))];
    let wal = &seen.now()["wal"];
    for signal in SIGNALS {
        let of = |key: &'static str| rate(seen.rate(|v| count(&v["wal"][key][signal])));
        let dropped: u64 =
            wal["dropped"].as_object().into_iter().flatten().map(|(_, d)| count(&d[signal])).sum();
        let line = Line::from(row([
            signal.to_owned(),
            of("accepted"),
            of("delivered"),
            count(&wal["accepted"][signal]).to_string(),
            count(&wal["delivered"][signal]).to_string(),
            dropped.to_string(),
            count(&wal["on_board"][signal]).to_string(),
        ]));
        lines.push(if dropped > 0 { line.yellow() } else { line });
    }
    lines
}

fn lanes(status: &Value) -> Vec<Line<'static>> {
    let mut lines = vec![head(format!("{:<20}{:>10}{:>12}{:>12}", "lane", "segments", "bytes", "unsealed"))];
    for lane in status["lanes"].as_array().into_iter().flatten() {
        let unsealed: u64 = SIGNALS.iter().map(|s| count(&lane["in_journal"][s])).sum();
        lines.push(Line::from(format!(
            "{:<20}{:>10}{:>12}{unsealed:>12}",
            cut(&text(&lane["name"]), 19),
            count(&lane["segments"]),
            size(&lane["segment_bytes"]),
        )));
    }
    lines
}

fn exporters(seen: &Seen) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for (name, counts) in seen.now()["exporters"].as_object().into_iter().flatten() {
        if lines.is_empty() {
            lines.push(Line::default());
            let names = ("exporter", "sent/s", "sent", "refused", "retries");
            lines.push(head(format!(
                "{:<30}{:>10}{:>12}{:>10}{:>10}",
                names.0, names.1, names.2, names.3, names.4
            )));
        }
        let sent = rate(seen.rate(|v| count(&v["exporters"][name]["sent"])));
        lines.push(Line::from(format!(
            "{:<30}{sent:>10}{:>12}{:>10}{:>10}",
            cut(name, 29),
            count(&counts["sent"]),
            count(&counts["refused"]),
            count(&counts["retries"]),
        )));
        if let Some(reason) = counts["failing"]["reason"].as_str() {
            lines.push(Line::from(format!("  not sent: {}", cut(reason, 66)).red()));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use perigee_top::draw;
    use perigee_top::ratatui::Terminal;
    use perigee_top::ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    /// As the control socket answers.
    fn status(accepted: u64) -> Value {
        json!({
            "satellite": "sat-1", "version": "0.1.0", "unix_nano": 1_764_165_600_000_000_000u64,
            "link": {"state": "up", "station": "svalbard", "sent_bytes": accepted * 100, "last_error": null},
            "clock": {"doubt": null},
            "contact": {"station": "svalbard", "end_unix_nano": 1_764_165_600_000_000_000u64 + 472_000_000_000},
            "next_contact": {"station": "kiruna", "start_unix_nano": 1_764_165_600_000_000_000u64 + 5_650_000_000_000},
            "plan_error": null,
            "waits_since_unix_nano": 1_764_165_600_000_000_000u64 - 600_000_000_000,
            "memory": {"used_bytes": 44_040_192, "in_flight_bytes": 2048, "pressure": 1},
            "wal": {
                "stored_bytes": 26_214_400, "max_bytes": 104_857_600,
                "accepted": {"traces": accepted, "metrics": 7, "logs": 0},
                "delivered": {"traces": 100, "metrics": 7, "logs": 0},
                "on_board": {"traces": 20, "metrics": 0, "logs": 0},
                "dropped": {"quota": {"traces": 3, "metrics": 0, "logs": 0}},
            },
            "lanes": [
                {"name": "alarms", "segments": 0, "segment_bytes": 0, "in_journal": {"logs": 4}},
                {"name": "bulk", "segments": 12, "segment_bytes": 1_258_291, "in_journal": {"traces": 20}},
            ],
            "exporters": {"otlp_grpc/bench": {"sent": accepted, "refused": 2, "retries": 5}},
        })
    }

    fn drawn(width: u16, height: u16) -> String {
        let mut seen = Seen::default();
        seen.answer(status(123), Duration::ZERO);
        seen.answer(status(323), Duration::from_secs(2));
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| _ = draw(frame, "space-agent", &seen, view, 0)).unwrap();
        let shown = terminal.backend().to_string();
        shown.lines().map(|line| line.trim_matches('"').trim_end()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_status_fits_80_by_24_with_rates_and_countdowns() {
        let expected = "\
satellite sat-1  space-agent 0.1.0
time      2025-11-26T14:00:00Z
link      up (svalbard)  9.8 KiB/s, 31.5 KiB in this contact
contact   svalbard, LOS in 7:52
next      kiruna, AOS in 1:34:10 at 2025-11-26T15:34:10Z
memory    42.0 MiB used, 2.0 KiB in flight; limiter takes one request at a time
stored    █████░░░░░░░░░░░░░░░  25 % of 100.0 MiB; the oldest waits for 10 min

items      accepted/s delivered/s     accepted    delivered   dropped   on board
traces            100           0          323          100         3         20
metrics             0           0            7            7         0          0
logs                0           0            0            0         0          0

lane                  segments       bytes    unsealed
alarms                       0         0 B           4
bulk                        12     1.2 MiB          20

exporter                          sent/s        sent   refused   retries
otlp_grpc/bench                      100         323         2         5




q quits";
        assert_eq!(drawn(80, 24), expected);
    }

    #[test]
    fn a_narrow_screen_keeps_the_beginning_of_each_line() {
        let shown = drawn(40, 12);
        assert!(shown.contains("contact   svalbard, LOS in 7:52"), "{shown}");
        assert!(shown.contains("q quits, the arrows scroll"), "{shown}");
    }
}
