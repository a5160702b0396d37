//! What `wal` commands print for people.

use std::fmt::Write as _;

use perigee_shared::contact::shown_time;
use perigee_shared::units::ByteSize;
use serde_json::{Value, json};

use crate::people::{count, size};

/// Names in one line.
const MOST_NAMES: usize = 32;

fn items(counts: &Value) -> u64 {
    counts.as_object().into_iter().flatten().map(|(_, n)| count(n)).sum()
}

/// A line for each segment.
pub(crate) fn inspected(log: &Value) -> String {
    let summary = &log["summary"];
    let segments = log["segments"].as_array().map_or(&[][..], Vec::as_slice);
    let mut out = format!(
        "{} segments ({}) and {} unsealed, of at most {}; {} items on board\n",
        summary["segments"],
        size(&summary["segment_bytes"]),
        size(&summary["unsealed_bytes"]),
        size(&summary["max_bytes"]),
        items(&summary["on_board"]),
    );
    if segments.is_empty() {
        return out;
    }
    // Writing to a String does not fail.
    let _ = writeln!(
        out,
        "\n{:<13}{:>8}{:>11}{:>11}  {:<22}{:<6}waits for",
        "lane/sequence", "items", "OTLP", "sealed", "sealed at", "sent"
    );
    for segment in segments {
        let waiting = segment["waiting_for"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let _ = writeln!(
            out,
            "{:<13}{:>8}{:>11}{:>11}  {:<22}{:<6}{}",
            format!("{}/{}", segment["lane"], segment["sequence"]),
            items(&segment["items"]),
            size(&segment["raw_bytes"]),
            size(&segment["payload_bytes"]),
            shown_time(count(&segment["sealed_unix_nano"])),
            if segment["sent"] == true { "yes" } else { "no" },
            waiting.collect::<Vec<_>>().join(", "),
        );
    }
    let more = count(&summary["segments"]).saturating_sub(segments.len() as u64);
    if more > 0 {
        let _ = writeln!(out, "and {more} more: --most N shows them");
    }
    out
}

/// What a check of all segments has found.
pub(crate) fn verified(answer: &Value) -> String {
    match count(&answer["damaged"]) {
        0 => format!(
            "{} segments were read, delivered ones that others depend on among them: all are whole\n",
            answer["segments"]
        ),
        damaged => format!(
            "{} segments were read: {damaged} were damaged; they are dropped, counted and reported to the ground\n",
            answer["segments"]
        ),
    }
}

/// What became of the file.
pub(crate) fn compacted(answer: &Value) -> String {
    match (answer["bytes_before"].as_u64(), answer["bytes_after"].as_u64()) {
        (Some(before), Some(after)) => {
            format!("the file had {}, now {}\n", ByteSize(before), ByteSize(after))
        }
        _ => "there was nothing to give back\n".to_owned(),
    }
}

/// What waited for an exporter that is gone.
pub(crate) fn released(answer: &Value) -> String {
    format!("{} segments waited for nobody else and were deleted\n", answer["deleted_segments"])
}

/// Where the copy is.
pub(crate) fn copied(answer: &Value) -> String {
    format!("the log was copied into {}\n", answer["file"].as_str().unwrap_or("-"))
}

/// What was taken out of a file.
pub(crate) fn salvaged(answer: &Value) -> String {
    let mut out = match amount(&answer["appended"]) {
        Some(appended) => format!("appended: {appended}\n"),
        None => "nothing was appended\n".to_owned(),
    };
    for (key, why) in [
        ("already", "that this log has or had, or that were delivered or dropped before"),
        ("in_segments", "that segments of the same file contain"),
        ("may_repeat", "that may have been delivered already; --may-repeat appends them too"),
        ("undecodable", "that cannot be decoded: damaged, or what they depend on is lost"),
    ] {
        if let Some(amount) = amount(&answer[key]) {
            // Writing to a String does not fail.
            let _ = writeln!(out, "left out: {amount} {why}");
        }
    }
    if let Some(segments) = answer["damage"]["segments"].as_array().filter(|all| !all.is_empty()) {
        let lost = json!({"segments": segments.len(), "items": answer["damage"]["items"]});
        let lost = amount(&lost).unwrap_or_default();
        let _ = writeln!(out, "left out: {lost} whose data is damaged: {}", names(segments));
    }
    out
}

/// The first of some names.
fn names(all: &[Value]) -> String {
    let shown: Vec<&str> = all.iter().filter_map(Value::as_str).take(MOST_NAMES).collect();
    let more = match all.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more (--json names all)"),
    };
    shown.join(", ") + &more
}

/// Why a file was not salvaged to its end, if it was not.
pub(crate) fn unsalvaged(answer: &Value) -> Option<String> {
    let mut out = Vec::new();
    if let Some(budget) = answer["full"].as_u64() {
        out.push(format!(
            "{} found no room: the rest of the log's {} (storage.max_bytes) stays free for requests; the same command goes on from \
             there once a contact or an exporter has taken something",
            amount(&answer["no_room"]).unwrap_or_default(),
            ByteSize(budget)
        ));
    }
    let damage = &answer["damage"];
    if damage.is_object() {
        let pages = match (damage["pages"].as_u64(), damage["tables"].as_array()) {
            (None, _) => "its list of tables cannot be read".to_owned(),
            (Some(0), _) => "not all of its segments are whole".to_owned(),
            (Some(n), Some(tables)) if !tables.is_empty() => {
                format!("{n} of its pages cannot be read (of {})", names(tables))
            }
            (Some(n), _) => format!("{n} of the pages that list its tables cannot be read"),
        };
        out.push(format!(
            "the file is damaged: {pages}; what else was in its damaged parts is in no count above"
        ));
    } else if let Some(amount) = amount(&answer["undecodable"]) {
        out.push(format!("{amount} cannot be decoded"));
    }
    (!out.is_empty()).then(|| out.join("; "))
}

/// Segments and groups with their items; `None`: nothing.
fn amount(of: &Value) -> Option<String> {
    let some = |key: &str, name: &str| match count(&of[key]) {
        0 => None,
        1 => Some(format!("1 {name}")),
        n => Some(format!("{n} {name}s")),
    };
    let units: Vec<String> =
        [some("segments", "segment"), some("groups", "group")].into_iter().flatten().collect();
    match (units.join(" and "), some("items", "item")) {
        (units, Some(items)) if !units.is_empty() => Some(format!("{units} with {items}")),
        (units, None) if !units.is_empty() => Some(units),
        (_, items) => items,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_segment_is_a_line_and_what_is_not_shown_is_counted() {
        let log = json!({
            "summary": {
                "segments": 3, "segment_bytes": 4096, "unsealed_bytes": 10, "max_bytes": 1 << 20,
                "on_board": {"traces": 5, "metrics": 2, "logs": 1},
            },
            "segments": [{
                "lane": 8, "sequence": 41, "items": {"traces": 5, "logs": 1}, "raw_bytes": 9000, "payload_bytes": 2048,
                "sealed_unix_nano": 1_764_165_600_000_000_000_u64, "sent": true, "waiting_for": ["link", "otlp/bench"],
            }],
        });
        assert_eq!(
            inspected(&log),
            "3 segments (4.0 KiB) and 10 B unsealed, of at most 1.0 MiB; 8 items on board\n\
             \n\
             lane/sequence   items       OTLP     sealed  sealed at             sent  waits for\n\
             8/41                6    8.8 KiB    2.0 KiB  2025-11-26T14:00:00Z  yes   link, otlp/bench\n\
             and 2 more: --most N shows them\n"
        );
    }

    #[test]
    fn what_was_damaged_or_left_out_is_said() {
        assert!(verified(&json!({"segments": 9, "damaged": 0})).contains("all are whole"));
        assert!(verified(&json!({"segments": 9, "damaged": 2})).contains("2 were damaged"));
        assert!(compacted(&json!({"bytes_before": null})).contains("nothing to give back"));
    }

    #[test]
    fn what_a_salvage_leaves_out_is_said_with_the_reason() {
        let none = json!({"segments": 0, "groups": 0, "items": 0});
        let mut offered = json!({
            "appended": none, "already": none, "undecodable": none, "no_room": none, "full": null,
            "may_repeat": {"segments": 0, "groups": 139, "items": 1390},
        });
        assert_eq!(
            salvaged(&offered),
            "nothing was appended\n\
             left out: 139 groups with 1390 items that may have been delivered already; --may-repeat appends them too\n"
        );
        assert_eq!(unsalvaged(&offered), None);
        offered["appended"] = json!({"segments": 1, "groups": 20, "items": 900});
        offered["may_repeat"] = none;
        offered["undecodable"] = json!({"segments": 1, "groups": 0, "items": 5});
        offered["full"] = json!(5 << 20);
        offered["no_room"] = json!({"segments": 0, "groups": 1, "items": 1});
        assert_eq!(
            salvaged(&offered),
            "appended: 1 segment and 20 groups with 900 items\n\
             left out: 1 segment with 5 items that cannot be decoded: damaged, or what they depend on is lost\n"
        );
        assert_eq!(
            unsalvaged(&offered).unwrap(),
            "1 group with 1 item found no room: the rest of the log's 5.0 MiB (storage.max_bytes) stays free for requests; the same \
             command goes on from there once a contact or an exporter has taken something; 1 segment with 5 items cannot be decoded"
        );
    }

    #[test]
    fn a_salvage_of_a_damaged_file_names_what_is_lost_and_fails() {
        let none = json!({"segments": 0, "groups": 0, "items": 0});
        let mut offered = json!({
            "appended": {"segments": 12, "groups": 0, "items": 2400}, "already": none, "may_repeat": none,
            "in_segments": {"segments": 0, "groups": 6, "items": 60}, "undecodable": none, "no_room": none, "full": null,
            "damage": {"pages": 10, "tables": ["journal", "segment_chunks"], "segments": ["8/5", "8/6"], "items": 400},
        });
        assert_eq!(
            salvaged(&offered),
            "appended: 12 segments with 2400 items\n\
             left out: 6 groups with 60 items that segments of the same file contain\n\
             left out: 2 segments with 400 items whose data is damaged: 8/5, 8/6\n"
        );
        assert_eq!(
            unsalvaged(&offered).unwrap(),
            "the file is damaged: 10 of its pages cannot be read (of journal, segment_chunks); what else was in its damaged \
             parts is in no count above"
        );
        offered["damage"] = json!({"pages": null, "tables": [], "segments": [], "items": 0});
        assert!(unsalvaged(&offered).unwrap().contains("its list of tables cannot be read"));
    }
}
