//! What commands print for people.

use std::fmt::Write as _;

use perigee_shared::contact::shown_time;
use perigee_shared::units::ByteSize;
use serde::Deserialize;
use serde_json::Value;

use crate::clock::Source;
use crate::contacts::{Pass, Planned};

/// How to let go of what an exporter holds that has left the configuration.
pub(crate) fn release_hint(name: &str) -> String {
    format!(
        "{name} is no longer in a pipeline, but segments may still wait for it; `space-agent wal release {name}` deletes those\n"
    )
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

pub(crate) fn size(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), |bytes| ByteSize(bytes).to_string())
}

pub(crate) fn time(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), shown_time)
}

/// A count; what is missing is none.
pub(crate) fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// What was encoded anew, for people.
pub(crate) fn recode_text(report: &Value) -> String {
    let mut out = String::new();
    let all = |name: &str| report[name].as_array().cloned().unwrap_or_default();
    for one in all("recoded") {
        let (before, now) = (&one["payload_bytes"][0], &one["payload_bytes"][1]);
        let _ = writeln!(out, "{}: {} before, {} now", text(&one["segment"]), size(before), size(now));
    }
    for one in all("refused") {
        let _ = writeln!(out, "{}: not re-encoded: {}", text(&one["segment"]), text(&one["reason"]));
    }
    let _ = writeln!(
        out,
        "{} re-encoded, {} already as wanted, {} not possible",
        all("recoded").len(),
        report["unchanged"],
        all("refused").len()
    );
    out
}

/// The planned contacts as the agent shows them.
pub(crate) fn table_text(answer: &Value) -> String {
    answer["table"].as_str().unwrap_or_default().to_owned()
}

/// The planned contacts for people. There may be many thousand: nothing of a row is made that is not shown.
pub(crate) fn contacts_text(planned: &Planned) -> String {
    const ROW: usize = 92;
    let mut out = String::with_capacity(ROW * (planned.open.len() + planned.upcoming.len() + 2));
    let _ = writeln!(
        out,
        "{:<6}{:<16}{:<22}{:>9}{:>12}{:>12}{:>5}{:>9}",
        "", "station", "AOS", "minutes", "Mbit/s", "volume", "max", "azimuth"
    );
    planned.open.iter().for_each(|pass| row(&mut out, "now", pass));
    planned.upcoming.iter().for_each(|pass| row(&mut out, "", pass));
    if planned.open.is_empty() && planned.upcoming.is_empty() {
        out.push_str("nothing is planned\n");
    }
    if planned.more > 0 {
        let _ = writeln!(out, "and {} more: --limit N or --until TIME shows them", planned.more);
    }
    if planned.probing {
        let why = planned.clock_doubt.as_deref().unwrap_or("no plan is in force");
        let _ = writeln!(out, "{why}: the agent tries its stations in turn");
    } else if let Some(doubt) = &planned.clock_doubt {
        let _ = writeln!(
            out,
            "{doubt}: the agent cannot follow the plan, and `fallback: none` forbids trying stations"
        );
    }
    if let Some(error) = &planned.plan_error {
        let _ = writeln!(out, "the plan file cannot be used: {error}");
    }
    for warning in &planned.plan_warnings {
        let _ = writeln!(out, "warning: {warning}");
    }
    out
}

/// A contact as a line.
fn row(out: &mut String, when: &str, pass: &Pass) {
    let contact = &pass.contact;
    let (station, start) = (&contact.station, shown_time(contact.start_unix_nano));
    let _ = write!(out, "{when:<6}{station:<16}{start:<22}");
    let lasts = contact.end_unix_nano.map(|end| end.saturating_sub(contact.start_unix_nano));
    let _ = match lasts {
        Some(lasts) => write!(out, "{:>9.1}", lasts as f64 / 6e10),
        None => write!(out, "{:>9}", "open"),
    };
    let _ = match contact.rate_down {
        Some(rate) => write!(out, "{:>12.3}", rate as f64 / 1e6),
        None => write!(out, "{:>12}", "-"),
    };
    let volume = pass.volume_bytes.map_or_else(|| "-".to_owned(), |bytes| ByteSize(bytes).to_string());
    let _ = write!(out, "{volume:>12}");
    let _ = match &contact.sight {
        Some(sight) => {
            let (aos, los) = (sight.aos_azimuth_degrees, sight.los_azimuth_degrees);
            let los = los.map_or_else(|| "-".to_owned(), |degrees| format!("{degrees:.0}"));
            writeln!(out, "{:>5.1}{:>9}", sight.max_elevation_degrees, format!("{aos:.0}-{los}"))
        }
        None => writeln!(out, "{:>5}{:>9}", "-", "-"),
    };
}

/// A time in ns as people say it: its two largest units.
fn span(nano: u64) -> String {
    let seconds = nano / 1_000_000_000;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

/// Seconds as people say them: to the millisecond where they are few.
fn seconds(seconds: f64) -> String {
    if seconds < 120.0 { format!("{seconds:.3} s") } else { span((seconds * 1e9) as u64) }
}

/// How far a time is from now.
fn away(at: u64, now: u64) -> String {
    if at >= now { format!("in {}", span(at - now)) } else { format!("{} ago", span(now - at)) }
}

/// What became of a contact that was opened or closed.
pub(crate) fn opened_text(answer: &Value) -> String {
    let opened = &answer["opened"];
    match (opened["station"].as_str(), opened["end_unix_nano"].as_u64()) {
        (Some(station), Some(end)) => format!("a contact with {station} is open until {}\n", shown_time(end)),
        (Some(station), None) => format!("a contact with {station} is open until it is closed\n"),
        _ if answer["closed"] == true => "the contact that was opened by hand is closed\n".to_owned(),
        _ => "no contact was opened by hand\n".to_owned(),
    }
}

/// A number with one digit behind the point, and its unit.
fn number(value: &Value, factor: f64, unit: &str) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |n| format!("{:.1}{unit}", n * factor))
}

/// Passes and the forecast for people.
pub(crate) fn report_text(report: &Value) -> String {
    let mut out = format!(
        "{:<14} {:<20}{:<16}{:>6}{:>11}{:>5}{:>11}{:>6}{:>7}{:>8}\n",
        "station", "began", "ended", "up in", "held", "%", "left", "loss", "rtt", "kbit/s"
    );
    for pass in report["passes"].as_array().into_iter().flatten() {
        let percent = pass["efficiency"].as_f64().map_or("-".to_owned(), |e| format!("{:.0}", e * 100.0));
        let rate = pass["rate_bits_per_second"].as_f64();
        let _ = writeln!(
            out,
            "{:<14} {:<20}{:<16}{:>6}{:>11}{percent:>5}{:>11}{:>6}{:>7}{:>8}",
            text(&pass["station"]),
            time(&pass["start_unix_nano"]).get(..19).unwrap_or("-").replace('T', " "),
            text(&pass["state"]).replace('_', " "),
            number(&pass["connect_seconds"], 1.0, "s"),
            size(&pass["held_bytes"]),
            size(&pass["backlog_bytes"]),
            number(&pass["loss"], 100.0, "%"),
            pass["round_trip_seconds"].as_f64().map_or("-".to_owned(), |s| format!("{:.0}ms", s * 1000.0)),
            rate.map_or("-".to_owned(), |r| format!("{:.0}", r / 1000.0)),
        );
    }
    if report["passes"].as_array().is_none_or(Vec::is_empty) {
        out.push_str("no pass has ended yet\n");
    } else {
        out.push_str("held: bytes that the ground gained in the pass; %: part of what the pass could carry by its plan\n");
    }
    out.push('\n');
    out.push_str(&forecast_text(&report["forecast"]));
    out
}

/// What is expected, as of when it was made.
fn forecast_text(f: &Value) -> String {
    let made = f["made_unix_nano"].as_u64().unwrap_or(0);
    let away = |value: &Value| {
        value.as_u64().map(|at| {
            let minutes = at.saturating_sub(made) as f64 / 6e10;
            if minutes < 120.0 {
                format!("in about {minutes:.0} min")
            } else {
                format!("in about {:.0} h", minutes / 60.0)
            }
        })
    };
    let waits = match f["backlog_since_unix_nano"].as_u64() {
        Some(since) => format!("; the oldest waits since {}", shown_time(since)),
        None => String::new(),
    };
    let mut out = format!("stored now {} of {}{waits}\n", size(&f["stored_bytes"]), size(&f["max_bytes"]));
    let Some(until) = f["plan_until_unix_nano"].as_u64() else {
        out.push_str("forecast   none: no contact with a rate and an end is planned\n");
        return out;
    };
    let growth = match f["growth_bytes_per_second"].as_f64() {
        Some(growth) => format!("{} a second keep coming", ByteSize(growth as u64)),
        None => "no new data comes (its rate is not known yet)".to_owned(),
    };
    let _ = writeln!(
        out,
        "forecast   if the plan holds ({} until {}) and {growth}:",
        size(&f["planned_bytes"]),
        shown_time(until)
    );
    let waits = !f["backlog_since_unix_nano"].is_null() || f["growth_bytes_per_second"].as_f64() > Some(0.0);
    let empty = match away(&f["empty_unix_nano"]).filter(|_| waits) {
        Some(empty) => format!("everything delivered {empty}"),
        None if waits => "everything delivered not before the plan ends".to_owned(),
        None => "nothing waits".to_owned(),
    };
    let full = away(&f["full_unix_nano"]).unwrap_or("not before the plan ends".to_owned());
    let _ = writeln!(out, "           {empty}; store full {full}");
    out
}

/// The link, or those of two contacts that may be open at once.
pub(crate) fn links(status: &Value) -> Vec<&Value> {
    match status["links"].as_array() {
        Some(links) if links.len() > 1 => links.iter().collect(),
        // An agent without a link has none.
        _ => Some(&status["link"]).into_iter().filter(|link| link.is_object()).collect(),
    }
}

/// The contacts that are open.
pub(crate) fn open_contacts(status: &Value) -> Vec<&Value> {
    let first = || std::iter::once(&status["contact"]).filter(|contact| contact["station"].is_string());
    status["contacts"].as_array().map_or_else(|| first().collect(), |open| open.iter().collect())
}

/// What an exporter's backend does not decide about, and what that keeps on board.
fn undecided_text(out: &mut String, undecided: &Value) {
    for request in undecided["requests"].as_array().into_iter().flatten() {
        let _ = writeln!(
            out,
            "           a request of {}, lane {}, is tried again since {}: {}",
            text(&request["signal"]),
            request["lane"],
            time(&request["since_unix_nano"]),
            text(&request["reason"])
        );
    }
    if count(&undecided["held_bytes"]) > 0 {
        let (held, percent) = (size(&undecided["held_bytes"]), count(&undecided["percent"]));
        let _ = writeln!(
            out,
            "           {held} wait on board for this exporter alone, {percent} % of max_bytes"
        );
    }
}

/// What becomes of a store whose file is gone, and what to do.
fn store_gone_text(out: &mut String, path: &str, is_moved: bool) {
    let directory = path.rsplit_once('/').map_or(".", |(directory, _)| directory);
    let _ = if is_moved {
        writeln!(
            out,
            "           THE STORE IS GONE: {path} was moved while the agent runs. The agent goes on in the moved file, and\n           \
             its next start would not find it: stop the agent, move the file back, and start the agent"
        )
    } else {
        writeln!(
            out,
            "           THE STORE IS GONE: {path} was deleted while the agent runs. What it held is lost with the next write\n           \
             and becomes a gap on the ground. Requests are refused until {directory} is there and writable; then the agent\n           \
             begins a new log by itself, without a restart"
        )
    };
}

/// What was dropped before a consumer had it, though another one may have it.
fn missed_text(out: &mut String, missed: &Value) {
    let items: u64 = missed.as_object().map_or(0, |m| m.values().map(count).sum());
    if items > 0 {
        let _ = writeln!(out, "           {items} items were dropped before it had them");
    }
}

/// The status for people.
pub(crate) fn status_text(status: &Value) -> String {
    let mut out = String::new();
    let wal = &status["wal"];
    let _ = writeln!(out, "satellite  {}   epoch {}", text(&status["satellite"]), text(&wal["epoch"]));
    for link in links(status) {
        let _ = write!(out, "link       {}", text(&link["state"]));
        if let Some(station) = link["station"].as_str() {
            let _ = write!(out, " ({station})");
        }
        let _ = writeln!(out);
        if let Some(error) = link["last_error"].as_str() {
            let _ =
                writeln!(out, "           last error at {}: {error}", time(&link["last_error_unix_nano"]));
        }
    }
    let clock = &status["clock"];
    if let Some(doubt) = clock["doubt"].as_str() {
        let _ = writeln!(
            out,
            "clock      NOT TRUSTED: {doubt}; no data expires by it, certificates are checked against the earliest time that it can be, \
             and contacts go by {}",
            Source::deserialize(&clock["plans_by"]).unwrap_or(Source::Unknown).words()
        );
    }
    let ground = &clock["ground"];
    if let (Some(offset), Some(error)) = (ground["offset_seconds"].as_f64(), ground["error_seconds"].as_f64())
    {
        let _ = writeln!(
            out,
            "clock      {} {} the one of {}, give or take {}, asked {} ago",
            seconds(offset.abs()),
            if offset < 0.0 { "behind" } else { "ahead of" },
            text(&ground["station"]),
            seconds(error),
            seconds(ground["age_seconds"].as_f64().unwrap_or(0.0)),
        );
    }
    let now = status["unix_nano"].as_u64();
    let (contacts, next) = (open_contacts(status), &status["next_contact"]);
    for (n, contact) in contacts.iter().enumerate() {
        let ends = contact["end_unix_nano"].as_u64().zip(now).map_or_else(
            || "until it is closed".to_owned(),
            |(end, now)| format!("until {}, {}", shown_time(end), away(end, now)),
        );
        let by = match status["contact_by"].as_str() {
            _ if n > 0 => "beside it",
            Some("hand") => "opened by hand",
            Some("plan") => "by the plan",
            Some("probe") => "a probe: no plan says when a station can be reached",
            _ => "always",
        };
        let _ = writeln!(out, "contact    {} {ends} ({by})", text(&contact["station"]));
    }
    let has_link = !links(status).is_empty();
    if contacts.is_empty() && has_link {
        let _ = writeln!(out, "contact    none");
    }
    if let (Some(station), Some(start), Some(now)) =
        (next["station"].as_str(), next["start_unix_nano"].as_u64(), now)
    {
        let _ = writeln!(out, "           next: {station} at {}, {}", shown_time(start), away(start, now));
    } else if !next.is_null() || contacts.is_empty() && has_link {
        let _ = writeln!(out, "           next: nothing is planned");
    }
    if let Some(error) = status["plan_error"].as_str() {
        let _ = writeln!(out, "           the plan file cannot be used: {error}");
    }
    let _ = writeln!(
        out,
        "stored     {} of {}: {} in {} segments, {} in the journal and in no segment yet",
        size(&wal["stored_bytes"]),
        size(&wal["max_bytes"]),
        size(&wal["segment_bytes"]),
        wal["segments"],
        size(&wal["unsealed_bytes"]),
    );
    for (bytes, what) in [
        (
            &wal["sealed_bytes"],
            "in the journal that segments have taken over; it is deleted with what follows",
        ),
        (&wal["base_bytes"], "in delivered segments that later ones depend on"),
    ] {
        if count(bytes) > 0 {
            let _ = writeln!(out, "           {} {what}", size(bytes));
        }
    }
    if let Some(path) = status["store_missing"].as_str() {
        store_gone_text(&mut out, path, status["store_moved"] == true);
    }
    if status["store_full"] == true {
        out.push_str(
            "           THE STORE IS FULL, requests are refused: open a contact, or see below which exporter is behind\n",
        );
    }
    if let Some(why) = status["store_failing"].as_str() {
        let _ = writeln!(out, "           THE STORE CANNOT BE WRITTEN, requests are refused: {why}");
    }
    if let (Some(since), Some(now)) = (status["waits_since_unix_nano"].as_u64(), now) {
        let _ = writeln!(out, "           the oldest of it waits for {}", span(now.saturating_sub(since)));
    }
    let _ =
        writeln!(out, "\n{:<10}{:>14}{:>14}{:>14}{:>14}", "", "accepted", "delivered", "dropped", "on board");
    for signal in ["traces", "metrics", "logs"] {
        let n = |v: &Value| v[signal].as_u64().unwrap_or(0);
        let dropped: u64 = wal["dropped"].as_object().map_or(0, |d| d.values().map(n).sum());
        let _ = writeln!(
            out,
            "{signal:<10}{:>14}{:>14}{dropped:>14}{:>14}",
            n(&wal["accepted"]),
            n(&wal["delivered"]),
            n(&wal["on_board"])
        );
    }
    let lanes = status["lanes"].as_array().into_iter().flatten();
    for lane in lanes.filter(|l| l["segments"] != 0 || l["name"] != "bulk") {
        let _ = write!(
            out,
            "\nlane {:<10}{:>6} segments {:>12}",
            text(&lane["name"]),
            lane["segments"],
            size(&lane["segment_bytes"])
        );
    }
    let _ = writeln!(out);
    for (name, done) in status["exporters"].as_object().into_iter().flatten() {
        let (sent, refused) = (count(&done["sent"]), count(&done["refused"]));
        let _ =
            writeln!(out, "exporter {name}: {sent} items sent, {refused} refused for good since the start");
        let failing = &done["failing"];
        undecided_text(&mut out, &done["undecided"]);
        missed_text(&mut out, &status["missed"][name]);
        if let Some(reason) = failing["reason"].as_str()
            && done["undecided"].is_null()
        {
            let (since, last) = (time(&failing["since_unix_nano"]), time(&failing["last_unix_nano"]));
            let _ = writeln!(
                out,
                "           something cannot be sent since {since}; tried again at {last}: {reason}"
            );
        }
    }
    if status["missed"]["link"].is_object() {
        let _ = writeln!(out, "link:");
        missed_text(&mut out, &status["missed"]["link"]);
    }
    for name in status["abandoned_consumers"].as_array().into_iter().flatten() {
        out.push('\n');
        out.push_str(&release_hint(&text(name)));
    }
    out
}
