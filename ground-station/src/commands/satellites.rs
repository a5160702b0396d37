//! `ground-station satellites`: how each satellite stands, at a glance.

use std::process::ExitCode;

use perigee_shared::contact::shown_time;
use perigee_shared::env::Env;
use perigee_shared::units::{ByteSize, shown_span as span};
use perigee_top::text::cut;
use serde_json::Value;

use super::spool::{Query, fetch};
use super::{say, say_json};
use crate::config::Config;
use crate::spool::{NamesakeView, SatelliteView, shown_offset};

/// A certificate that ends sooner is named, ns.
const SOON: u64 = 30 * 24 * 3600 * 1_000_000_000;

/// A clock that is off by more is named, s.
const CLOCK_OFF: f64 = 1.0;

pub(super) async fn run(query: Query) -> anyhow::Result<ExitCode> {
    let config = Config::load(&query.file.config)?;
    let asked = fetch(&config, "/api/v1/satellites", None, async |store| {
        let listed = config.link.satellites.keys().cloned();
        Ok(SatelliteView::with_expected(store.views().satellites().await?, listed))
    });
    let all = asked.await?;
    if query.json {
        say_json(&all)?;
    } else {
        say(&text(&all, Env::production().unix_nano()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The same for people, as of `now`.
fn text(all: &Value, now: u64) -> String {
    let all: Vec<&Value> = all.as_array().into_iter().flatten().collect();
    let mut out =
        row(["satellite", "link", "heard", "next contact", "waits", "oldest", "partial", "last pass"]);
    for satellite in &all {
        out.push_str(&overview(satellite, now));
    }
    let lanes: String = all.iter().map(|satellite| lanes(satellite, now)).collect();
    if !lanes.is_empty() {
        out.push_str(&format!(
            "\n{}{lanes}",
            lane_row(["satellite", "lane", "name", "waits", "items", "oldest"])
        ));
    }
    out.push_str(&all.iter().map(|satellite| notes(satellite, now)).collect::<String>());
    out
}

/// A row of the overview.
fn row([a, b, c, d, e, f, g, h]: [&str; 8]) -> String {
    let line = format!(
        "{:<14} {b:<4} {:<10} {:<19} {e:>10} {f:>8} {g:>10}  {}",
        cut(a, 14),
        cut(c, 10),
        cut(d, 19),
        cut(h, 17)
    );
    format!("{}\n", line.trim_end())
}

fn lane_row([a, b, c, d, e, f]: [&str; 6]) -> String {
    format!("{:<14} {b:>4} {:<20} {d:>10} {e:>12} {f:>8}\n", cut(a, 14), cut(c, 20))
}

fn overview(satellite: &Value, now: u64) -> String {
    let heard = match satellite["last_heard_unix_nano"].as_u64() {
        None | Some(0) => "never".to_owned(),
        Some(at) => format!("{} ago", span(now.saturating_sub(at))),
    };
    let next = &satellite["next_contact"];
    let next = match (satellite["linked_at"][0].as_str(), next["start_unix_nano"].as_u64()) {
        (Some(station), _) => format!("now at {station}"),
        (None, None) => "unknown".to_owned(),
        (None, Some(at)) => {
            let station = next["station"].as_str().unwrap_or("");
            let when =
                if at < now { format!("{} ago", span(now - at)) } else { format!("in {}", span(at - now)) };
            format!("{when} {station}")
        }
    };
    let waiting = satellite["backlog"].as_array();
    let waits = waiting.map(|lanes| lanes.iter().filter_map(|lane| lane["bytes"].as_u64()).sum());
    let waits = waits.map_or_else(|| "unknown".to_owned(), |bytes: u64| ByteSize(bytes).to_string());
    let since = waiting.into_iter().flatten().filter_map(|lane| lane["since_unix_nano"].as_u64()).min();
    let oldest = since.map_or_else(|| "-".to_owned(), |since| span(now.saturating_sub(since)));
    let partial = ByteSize(satellite["partial_bytes"].as_u64().unwrap_or(0)).to_string();
    let link = if satellite["connected"] == true { "up" } else { "down" };
    let name = satellite["satellite"].as_str().unwrap_or("");
    row([name, link, &heard, &next, &waits, &oldest, &partial, &last_pass(&satellite["last_pass"])])
}

/// How the last pass ended; what this station saw while the satellite has not said more.
fn last_pass(pass: &Value) -> String {
    let ended = pass["state"].as_str().or(pass["ground"]["ended"].as_str());
    let Some(ended) = ended else { return if pass.is_null() { "-" } else { "unknown" }.to_owned() };
    let fill = pass["efficiency"].as_f64().filter(|fill| *fill >= 0.005);
    let fill = fill.map_or_else(String::new, |fill| format!(" {:.0}%", fill * 100.0));
    format!("{}{fill}", ended.replace('_', " "))
}

fn lanes(satellite: &Value, now: u64) -> String {
    let mut out = String::new();
    for lane in satellite["backlog"].as_array().into_iter().flatten() {
        let bytes = lane["bytes"].as_u64().unwrap_or(0);
        if bytes == 0 {
            continue;
        }
        let items: u64 =
            lane["items"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
        let since = lane["since_unix_nano"].as_u64();
        out.push_str(&lane_row([
            satellite["satellite"].as_str().unwrap_or(""),
            &lane["lane"].to_string(),
            lane["name"].as_str().unwrap_or(""),
            &ByteSize(bytes).to_string(),
            &items.to_string(),
            &since.map_or_else(|| "-".to_owned(), |since| span(now.saturating_sub(since))),
        ]));
    }
    out
}

/// What somebody should do something about.
fn notes(satellite: &Value, now: u64) -> String {
    let name = satellite["satellite"].as_str().unwrap_or("");
    let mut out = String::new();
    if let Some(error) = satellite["plan"]["error"].as_str() {
        out.push_str(&format!("{name}: the plan file on board cannot be used: {error}\n"));
    }
    if let Some(tight) = satellite["ledger_tight"].as_str() {
        out.push_str(&format!("{name}: {tight}; ledger_room in its configuration gives it more\n"));
    }
    if let Some(full) = satellite["forecast"]["full_unix_nano"].as_u64() {
        let when = span(full.saturating_sub(now));
        out.push_str(&format!("{name}: forecast: its store is full in about {when} if its plan holds\n"));
    }
    let end = satellite["agent"]["certificate_end_unix_nano"].as_u64();
    if let Some(end) = end.filter(|end| *end < now.saturating_add(SOON)) {
        out.push_str(&format!("{name}: its certificate ends at {}; issue a new one\n", shown_time(end)));
    }
    for other in satellite["namesakes"].as_array().into_iter().flatten() {
        let heard = other["heard_unix_nano"].as_u64().unwrap_or(0);
        if NamesakeView::is_recent(heard, now) {
            let (ledger, ago) = (other["ledger"].as_str().unwrap_or(""), span(now.saturating_sub(heard)));
            out.push_str(&format!(
                "{name}: another ground-station has this one's name and the ledger {ledger} of its own, heard of {ago} ago; give one of \
                 the two another link.station\n"
            ));
        }
    }
    let clock = &satellite["clock"];
    if let (Some(offset), Some(error)) = (clock["offset_seconds"].as_f64(), clock["error_seconds"].as_f64()) {
        let untrusted = clock["untrusted"].as_str().filter(|why| !why.is_empty());
        if untrusted.is_some() || offset.abs() > error + CLOCK_OFF {
            let why =
                untrusted.map_or_else(String::new, |why| format!(" and is not trusted on board: {why}"));
            let drift = clock["drift_ppm"][0].as_f64();
            let drift = drift.map_or_else(String::new, |ppm| format!(", {ppm:+.1} ppm"));
            let off = shown_offset(offset, error);
            out.push_str(&format!("{name}: its clock is off by {off}{drift}{why}\n"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn the_table_fits_and_what_is_unknown_is_not_nothing() {
        let now = 1_000_000 * S;
        let lane = json!({
            "lane": 2, "name": "alarms-of-the-payload-computer", "bytes": 1_300_000_000u64,
            "items": {"spans": 0, "metric_points": 0, "log_records": 123_456_789},
            "since_unix_nano": now - 86_400 * S,
        });
        let all = json!([
            {
                "satellite": "a-satellite-with-a-long-name", "connected": true,
                "last_heard_unix_nano": now - 3 * S,
                "next_contact": {"station": "svalbard", "start_unix_nano": now + 2_520 * S},
                "backlog": [lane, {"lane": 8, "name": "bulk", "bytes": 0, "since_unix_nano": null}],
                "partial_bytes": 1_048_577, "plan": {"error": null},
                "agent": {"certificate_end_unix_nano": now + 86_400 * S},
                "forecast": {"full_unix_nano": null},
                "last_pass": {"state": "ended_by_plan", "efficiency": 0.871, "ground": null},
                "clock": {"offset_seconds": -3.25, "error_seconds": 0.02, "drift_ppm": [-1.5, 0.2], "untrusted": ""},
            },
            {
                "satellite": "there", "connected": true, "linked_at": ["kiruna"],
                "last_heard_unix_nano": now - 60 * S, "next_contact": {"station": "inuvik", "start_unix_nano": now + 9_000 * S},
                "backlog": [], "partial_bytes": 0, "last_pass": null,
            },
            {
                "satellite": "old", "connected": false, "last_heard_unix_nano": now - 400 * S,
                "next_contact": null, "backlog": null, "partial_bytes": 0, "plan": null, "agent": null,
                "forecast": null, "last_pass": {"ground": {"ended": "lost"}},
                "ledger_tight": "its ledger has 130000 of 131072 drops",
            },
        ]);
        let mut all = all.as_array().unwrap().clone();
        let never = SatelliteView::with_expected(Vec::new(), ["new".to_owned()].into_iter());
        all.extend(never.into_iter().map(|never| serde_json::to_value(never).unwrap()));
        let text = text(&all.into(), now);
        assert_eq!(
            text,
            "satellite      link heard      next contact             waits   oldest    partial  last pass\n\
             a-satellite-w… up   3 s ago    in 42 min svalbard    1.21 GiB   24.0 h    1.0 MiB  ended by plan 87%\n\
             there          up   60 s ago   now at kiruna              0 B        -        0 B  -\n\
             old            down 7 min ago  unknown                unknown        -        0 B  lost\n\
             new            down never      unknown                unknown        -        0 B  -\n\
             \n\
             satellite      lane name                      waits        items   oldest\n\
             a-satellite-w…    2 alarms-of-the-paylo…   1.21 GiB    123456789   24.0 h\n\
             a-satellite-with-a-long-name: its certificate ends at 1970-01-13T13:46:40Z; issue a new one\n\
             a-satellite-with-a-long-name: its clock is off by -3.250 s \u{b1} 0.020, -1.5 ppm\n\
             old: its ledger has 130000 of 131072 drops; ledger_room in its configuration gives it more\n"
        );
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}
