//! `ground-station spool catalogue`: what was committed here, also what has left the spool.

use std::process::ExitCode;

use anyhow::anyhow;
use clap::Args;
use perigee_shared::contact::shown_time;
use perigee_shared::units::ByteSize;
use serde_json::Value;

use super::spool::{Query, fetch};
use super::{say, say_json};
use crate::config::Config;
use crate::console::CatalogueQuery;
use crate::spool::UNDECODABLE;

/// What of it is wanted.
#[derive(Debug, Args)]
pub(super) struct Wanted {
    /// Only of this satellite.
    #[arg(long, value_name = "ID")]
    satellite: Option<String>,
    /// Only with items from then on, as in 2026-11-26T14:00:00Z.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only with items until then.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only with items of this service.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Behind this number, which ends the table of the call before.
    #[arg(long, value_name = "NUMBER")]
    after: Option<u64>,
    /// At most so many segments.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

pub(super) async fn run(query: Query, wanted: Wanted) -> anyhow::Result<ExitCode> {
    let config = Config::load(&query.file.config)?;
    let Wanted { satellite, from, until, service, after, limit } = wanted;
    let after = after.map(|after| after.to_string());
    let asked = CatalogueQuery { satellite, from, until, service, after: after.clone(), limit: Some(limit) };
    let read = asked.wanted().map_err(|why| anyhow!("{why}"))?;
    let path = format!("/api/v1/catalogue{}", asked.address(after.as_deref()));
    let rows = fetch(&config, &path, None, async |store| {
        Ok(store.views().glance().await?.catalogue(read, limit.max(1)).await?.rows)
    })
    .await?;
    if query.json {
        say_json(&rows)?;
    } else {
        say(&text(&rows));
    }
    Ok(ExitCode::SUCCESS)
}

/// The same for people.
fn text(rows: &Value) -> String {
    let head =
        ["number", "committed", "satellite", "lane/sequence", "items", "bytes", "items from", "backends"];
    let mut out = line(head.map(str::to_owned));
    for row in rows.as_array().into_iter().flatten() {
        let number = |key: &str| row[key].as_u64().unwrap_or(0);
        let time = |key: &str| if number(key) == 0 { "unknown".to_owned() } else { shown_time(number(key)) };
        let names = |key: &str| {
            let names: Vec<&str> =
                row[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            names.join(", ")
        };
        let items: u64 = row["items"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
        let waits = names("waits_for");
        let waits = if waits.is_empty() { String::new() } else { format!(" (waits for {waits})") };
        let refused: Vec<String> = row["refused"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(exporter, items)| match exporter.as_str() {
                UNDECODABLE => UNDECODABLE.to_owned(),
                exporter => format!("{exporter} refused {items}"),
            })
            .collect();
        let refused = if refused.is_empty() { String::new() } else { format!(" ({})", refused.join(", ")) };
        out.push_str(&line([
            number("number").to_string(),
            time("committed_unix_nano"),
            row["satellite"].as_str().unwrap_or("").to_owned(),
            format!("{}/{}", row["lane"], row["sequence"]),
            items.to_string(),
            ByteSize(number("bytes")).to_string(),
            time("start_unix_nano"),
            format!("{}{waits}{refused}", names("backends")),
        ]));
    }
    out
}

fn line([a, b, c, d, e, f, g, h]: [String; 8]) -> String {
    let line = format!("{a:>8} {b:<20} {c:<14} {d:<13} {e:>8} {f:>10} {g:<20} {h}");
    format!("{}\n", line.trim_end())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_segment_is_a_line_and_what_is_unknown_is_said() {
        let rows = json!([{
            "number": 7, "committed_unix_nano": 0, "satellite": "sat-2", "lane": 8, "sequence": 41,
            "items": {"spans": 1, "metric_points": 2, "log_records": 0}, "bytes": 2048,
            "start_unix_nano": 1_764_165_600_000_000_000_u64, "backends": ["a"], "waits_for": ["b", "c"],
            "refused": {"a": 2},
        }]);
        assert_eq!(
            text(&rows).lines().nth(1).unwrap(),
            "       7 unknown              sat-2          8/41                 3    2.0 KiB 2025-11-26T14:00:00Z a (waits for b, c) (a refused 2)"
        );
    }
}
