//! What commands print for people.

use std::fmt::Write as _;

use perigee_shared::contact::shown_time;
use perigee_shared::units::ByteSize;
use serde_json::Value;

/// How to let go of what an exporter holds that has left the configuration.
pub(crate) fn release_hint(name: &str) -> String {
    format!(
        "{name} is in no pipeline any more and may still hold segments; `space-agent wal release {name}` lets go of them\n"
    )
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

fn size(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), |bytes| ByteSize(bytes).to_string())
}

fn time(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), shown_time)
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
        let _ = writeln!(out, "{}: stays as it is: {}", text(&one["segment"]), text(&one["reason"]));
    }
    let _ = writeln!(
        out,
        "{} encoded anew, {} as wanted already, {} not possible",
        all("recoded").len(),
        report["unchanged"],
        all("refused").len()
    );
    out
}

/// The planned contacts for people.
pub(crate) fn contacts_text(planned: &Value) -> String {
    let mut out =
        format!("{:<6}{:<16}{:<22}{:>9}{:>14}{:>14}\n", "", "station", "AOS", "minutes", "Mbit/s", "volume");
    let current = [&planned["current"]].into_iter().filter(|c| c.is_object()).map(|c| ("now", c));
    let upcoming = planned["upcoming"].as_array().into_iter().flatten().map(|c| ("", c));
    let mut any = false;
    for (when, contact) in current.chain(upcoming) {
        any = true;
        let minutes = contact["end_unix_nano"].as_u64().zip(contact["start_unix_nano"].as_u64());
        let minutes =
            minutes.map_or("open".to_owned(), |(end, start)| format!("{:.1}", (end - start) as f64 / 6e10));
        let rate =
            contact["rate_down"].as_u64().map_or("-".to_owned(), |rate| format!("{:.3}", rate as f64 / 1e6));
        let _ = writeln!(
            out,
            "{when:<6}{:<16}{:<22}{minutes:>9}{rate:>14}{:>14}",
            text(&contact["station"]),
            time(&contact["start_unix_nano"]),
            size(&contact["volume_bytes"]),
        );
    }
    if !any {
        out.push_str("nothing is planned\n");
    }
    if planned["probing"] == true {
        let why = planned["clock_doubt"].as_str().unwrap_or("there is no plan (any more)");
        let _ = writeln!(out, "{why}: stations are tried now and then");
    } else if let Some(doubt) = planned["clock_doubt"].as_str() {
        let _ =
            writeln!(out, "{doubt}: the plan cannot be followed, and `fallback: none` tries nothing else");
    }
    if let Some(error) = planned["plan_error"].as_str() {
        let _ = writeln!(out, "the file on disk is not in force: {error}");
    }
    for warning in planned["plan_warnings"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "warning: {}", text(warning));
    }
    out
}

/// Passes and the forecast for people.
pub(crate) fn report_text(report: &Value) -> String {
    let mut out = format!(
        "{:<16}{:<22}{:>12}{:>12}{:>6}{:>12}\n",
        "station", "began", "planned", "achieved", "%", "left"
    );
    for pass in report["passes"].as_array().into_iter().flatten() {
        let percent = pass["efficiency"].as_f64().map_or("-".to_owned(), |e| format!("{:.0}", e * 100.0));
        let _ = writeln!(
            out,
            "{:<16}{:<22}{:>12}{:>12}{percent:>6}{:>12}",
            text(&pass["station"]),
            time(&pass["start_unix_nano"]),
            size(&pass["planned_bytes"]),
            size(&pass["achieved_bytes"]),
            size(&pass["backlog_bytes"]),
        );
    }
    let f = &report["forecast"];
    let growth = ByteSize(f["growth_bytes_per_second"].as_f64().unwrap_or(0.0) as u64);
    let _ = writeln!(
        out,
        "\nstored {} of {}, {growth} more a second; the plan carries {} until {}",
        size(&f["stored_bytes"]),
        size(&f["max_bytes"]),
        size(&f["planned_bytes"]),
        time(&f["plan_until_unix_nano"]),
    );
    let _ = writeln!(
        out,
        "the oldest waits since {}; everything is delivered: {}; the store is full: {}",
        time(&f["backlog_since_unix_nano"]),
        time(&f["empty_unix_nano"]),
        time(&f["full_unix_nano"]),
    );
    out
}

/// The status for people.
pub(crate) fn status_text(status: &Value) -> String {
    let mut out = String::new();
    let wal = &status["wal"];
    let _ = writeln!(out, "satellite  {}   epoch {}", text(&status["satellite"]), text(&wal["epoch"]));
    let link = &status["link"];
    let _ = write!(out, "link       in fact {}", text(&link["state"]));
    if let Some(station) = link["station"].as_str() {
        let _ = write!(out, " ({station})");
    }
    if let Some(error) = link["last_error"].as_str() {
        let _ = write!(out, ", last error: {error}");
    }
    let _ = writeln!(out);
    let clock = &status["clock"];
    if let Some(doubt) = clock["doubt"].as_str() {
        let _ = writeln!(
            out,
            "clock      NOT TRUSTED: {doubt}; it expires nothing, certificates are checked against what is certain, plans go by: {}",
            text(&clock["plans_by"])
        );
    }
    let ground = &clock["ground"];
    if let (Some(offset), Some(error)) = (ground["offset_seconds"].as_f64(), ground["error_seconds"].as_f64())
    {
        let _ = writeln!(
            out,
            "clock      {:.3} s {} the one of {}, give or take {error:.3} s, {:.0} min ago",
            offset.abs(),
            if offset < 0.0 { "behind" } else { "ahead of" },
            text(&ground["station"]),
            ground["age_seconds"].as_f64().unwrap_or(0.0) / 60.0
        );
    }
    let contact = |v: &Value| v["station"].as_str().map_or("none".to_owned(), str::to_owned);
    let _ = writeln!(
        out,
        "contact    by plan {}, next: {}",
        contact(&status["contact"]),
        contact(&status["next_contact"])
    );
    let _ = writeln!(
        out,
        "stored     {} of {} in {} segments ({}) and the journal ({} unsealed)",
        size(&wal["stored_bytes"]),
        size(&wal["max_bytes"]),
        wal["segments"],
        size(&wal["segment_bytes"]),
        size(&wal["unsealed_bytes"]),
    );
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
    for name in status["abandoned_consumers"].as_array().into_iter().flatten() {
        out.push('\n');
        out.push_str(&release_hint(&text(name)));
    }
    out
}
