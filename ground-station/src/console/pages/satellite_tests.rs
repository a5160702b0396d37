//! The timeline of passes.

use serde_json::json;

use super::*;
use crate::spool::{HeardView, Items};

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
        rects(&timeline(&passes).into_string()),
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
    let drawn = rects(&timeline(&[pass(0, 100, None, "unreachable", 0.0), unsaid]).into_string());
    assert_eq!(
        drawn[1..],
        [("plan".to_owned(), 500.0, 500.0, 56.0), ("fact".to_owned(), 500.0, 500.0, 56.0)]
    );
    assert!(timeline(&[]).into_string().contains("<svg"), "none at all");
}
