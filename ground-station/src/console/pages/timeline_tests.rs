//! The timeline of passes.

use serde_json::json;

use super::*;
use crate::spool::{HeardView, Items, Pass};

const S: u64 = 1_000_000_000;

fn pass(start: u64, end: u64, heard: Option<(u64, u64)>, state: &str, efficiency: f64) -> Pass {
    let report = json!({
        "start_unix_nano": start * S, "end_unix_nano": end * S, "state": state, "efficiency": efficiency,
    });
    let ground = heard.map(|(from, to)| HeardView {
        start_unix_nano: from * S,
        end_unix_nano: to * S,
        connected_seconds: 1.0,
        connections: 1,
        received_bytes: 0,
        held_bytes: 0,
        committed_segments: 0,
        committed: Items::default(),
        handover_twice: 0,
        ended: None,
    });
    Pass::new(report, ground)
}

/// The attributes of each `rect`, in order: class, x, width and height.
fn rects(svg: &str) -> Vec<(String, f64, f64, f64)> {
    let one = |rect: &str| {
        let of = |name: &str| {
            rect.split(&format!("{name}=\"")).nth(1).unwrap().split('"').next().unwrap().to_owned()
        };
        let number = |name: &str| of(name).parse().unwrap();
        (of("class"), number(" x"), number(" width"), number(" height"))
    };
    svg.split("<rect").skip(1).map(one).collect()
}

#[test]
fn a_pass_is_outlined_where_the_satellite_had_it_and_filled_where_the_link_was() {
    let passes = [
        pass(900, 1_000, Some((900, 1_000)), "ended_by_plan", 1.0),
        pass(400, 500, None, "unreachable", 0.0),
        pass(0, 100, Some((50, 90)), "cut", 0.5),
    ];
    assert_eq!(
        rects(&drawn(&passes).into_string()),
        [
            ("plan".to_owned(), 900.0, 100.0, 56.0),
            ("fact".to_owned(), 900.0, 100.0, 56.0),
            ("plan".to_owned(), 400.0, 100.0, 56.0),
            ("plan".to_owned(), 0.0, 100.0, 56.0),
            ("cutoff".to_owned(), 50.0, 40.0, 28.0),
        ]
    );
}

#[test]
fn a_pass_of_which_nothing_was_said_is_where_the_station_saw_it() {
    let mut unsaid = pass(0, 0, Some((500, 1_000)), "", 0.0);
    unsaid = Pass::new(json!({"station": "svalbard"}), unsaid.ground);
    let shown = rects(&drawn(&[pass(0, 100, None, "unreachable", 0.0), unsaid]).into_string());
    assert_eq!(
        shown[1..],
        [("plan".to_owned(), 500.0, 500.0, 56.0), ("fact".to_owned(), 500.0, 500.0, 56.0)]
    );
    assert!(drawn(&[]).into_string().contains("<svg"), "none at all");
}

#[test]
fn a_pass_whose_plan_is_known_is_outlined_where_it_was_planned_with_its_guards_and_what_it_gained() {
    let planned = |pass: Pass, from: u64, to: u64, guards: (f64, f64), held: u64| {
        let mut report = pass.report().clone();
        report["planned_start_unix_nano"] = json!(from * S);
        report["planned_end_unix_nano"] = json!(to * S);
        report["guard_start_seconds"] = json!(guards.0);
        report["guard_end_seconds"] = json!(guards.1);
        report["planned_bytes"] = json!(4 << 20);
        report["held_bytes"] = json!(held);
        report["station"] = json!("svalbard<b>");
        Pass::new(report, pass.ground)
    };
    let text = drawn(&[
        planned(pass(890, 990, Some((900, 950)), "cut", 0.25), 900, 1_000, (0.0, 20.0), 1 << 20),
        planned(pass(0, 100, Some((10, 100)), "ended_by_plan", 0.5), 0, 100, (10.0, 30.0), 2 << 20),
    ])
    .into_string();
    let named = |name: &str, x: f64, width: f64, height: f64| (name.to_owned(), x, width, height);
    assert_eq!(
        rects(&text),
        [
            named("plan", 900.0, 100.0, 56.0),
            named("guard", 980.0, 20.0, 56.0),
            named("cutoff", 900.0, 50.0, 14.0),
            named("gained", 900.0, 50.0, 15.0),
            named("plan", 0.0, 100.0, 56.0),
            named("guard", 0.0, 10.0, 56.0),
            named("guard", 70.0, 30.0, 56.0),
            named("fact", 10.0, 90.0, 28.0),
            named("gained", 10.0, 90.0, 30.0),
        ]
    );
    assert!(
        text.contains(
            "<title>svalbard&lt;b&gt;, by plan 00:15:00 to 00:16:40, guard 20 s: 1.0 MiB of 4.0 MiB, cut</title>"
        ),
        "{text}"
    );
    assert!(text.contains("the tallest below: 2.0 MiB"), "{text}");
    // A satellite may say anything.
    let odd = planned(pass(0, 100, None, "cut", 0.5), 0, u64::MAX / S, (1e300, -1e300), u64::MAX);
    for (_, x, width, height) in rects(&drawn(&[odd]).into_string()) {
        assert!(x >= 0.0 && x + width <= 1_003.0 && height <= 56.0, "{x} {width} {height}");
    }
    let backwards = planned(pass(0, 100, None, "cut", 0.5), 9, 8, (0.0, 0.0), 0);
    assert_eq!(backwards.planned(), None);
}
