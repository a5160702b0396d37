//! Why a pass fell short, and how it ended.

use serde_json::{Value, json};

use super::*;
use crate::spool::{Ending, HeardView, Items};

const S: u64 = 1_000_000_000;

fn ground(connections: u32, ended: Ending) -> HeardView {
    HeardView {
        start_unix_nano: 1_000 * S,
        end_unix_nano: 1_600 * S,
        connected_seconds: 500.0,
        connections,
        received_bytes: 100,
        held_bytes: 90,
        committed_segments: 3,
        committed: Items::default(),
        handover_twice: 0,
        ended: Some(ended),
    }
}

/// A pass of ten minutes that was full, unless `other` says something else.
fn pass(other: &Value, ground: Option<HeardView>) -> Pass {
    let mut report = json!({
        "start_unix_nano": 1_000 * S, "end_unix_nano": 1_600 * S, "state": "ended_by_plan", "efficiency": 0.95,
        "connect_seconds": 1.0, "connected_seconds": 598.0, "loss": 0.001, "planned_bytes": 100, "held_bytes": 95,
    });
    for (key, value) in other.as_object().unwrap() {
        report[key] = value.clone();
    }
    Pass::new(report, ground)
}

#[test]
fn each_reason_is_said_and_a_full_pass_has_none() {
    let short = |mut other: Value| {
        other["efficiency"] = json!(0.4);
        why(&pass(&other, None))
    };
    assert_eq!(why(&pass(&json!({}), None)), "");
    for (other, said) in [
        (json!({"state": "unreachable"}), "the station never answered"),
        (
            json!({"state": "refused"}),
            "the station had no room or closed the link: see its spool and its log",
        ),
        (
            json!({"state": "refused", "connect_seconds": null}),
            "one side refused the other: see the certificates",
        ),
        (json!({"state": "nothing_to_send"}), "there was nothing to send"),
        (json!({"state": null}), "its software does not say how it ended"),
        (json!({"backlog_bytes": 0}), "nothing more was on board"),
        (json!({"backlog_bytes": 3 << 20, "loss": 0.05}), "5 % of packets were lost; 3.0 MiB left on board"),
        (
            json!({"backlog_bytes": 3 << 20}),
            "it carried less than its rate by plan; nothing more is recorded; 3.0 MiB left on board",
        ),
        (
            json!({"state": "cut", "backlog_bytes": 5 << 10}),
            "the link was lost before its end by plan; 5.0 KiB left on board",
        ),
        (
            json!({"state": "budget_spent", "backlog_bytes": 5 << 10}),
            "its byte budget was spent; 5.0 KiB left on board",
        ),
        (json!({"state": "closed", "backlog_bytes": 0}), "an operator or a new plan closed it"),
        // What is left came in the last minute.
        (
            json!({"backlog_bytes": 5 << 10, "backlog_since_unix_nano": 1_545 * S, "loss": 0.05}),
            "it kept up: 5.0 KiB left on board, none of it older than the last 55 s",
        ),
        (
            json!({"backlog_bytes": 5 << 10, "backlog_since_unix_nano": 1_539 * S, "loss": 0.05}),
            "5 % of packets were lost; 5.0 KiB left on board",
        ),
        (
            json!({"state": "something_new"}),
            "it carried less than its rate by plan; nothing more is recorded",
        ),
        (json!({"state": "delivered_all"}), "nothing more was on board"),
        (json!({"state": "budget_spent"}), "its byte budget was spent"),
        (json!({"state": "closed"}), "an operator or a new plan closed it"),
        (json!({"state": "cut"}), "the link was lost before its end by plan"),
        (json!({"connect_seconds": 61.0}), "the link came up 61 s after AOS"),
        (json!({"connected_seconds": 300.0}), "the link was up 5 min of 10 min"),
        (json!({"loss": 0.05}), "5 % of packets were lost"),
        (json!({}), "it carried less than its rate by plan; nothing more is recorded"),
        (
            json!({"state": "cut", "connected_seconds": 300.0, "loss": 0.05}),
            "the link was lost before its end by plan; the link was up 5 min of 10 min; 5 % of packets were lost",
        ),
    ] {
        assert_eq!(short(other.clone()), said, "{other}");
    }
    // What is small is no reason.
    let small = json!({"connect_seconds": 59.0, "connected_seconds": 481.0, "loss": 0.02});
    assert_eq!(short(small), "it carried less than its rate by plan; nothing more is recorded");
    assert_eq!(why(&pass(&json!({"efficiency": 0.5}), Some(ground(3, Ending::Lost)))), "it took 3 links");
    // One that was cut when it was full says so all the same.
    assert_eq!(why(&pass(&json!({"state": "cut"}), None)), "the link was lost before its end by plan");
    let unsaid = Pass::new(json!({"station": "svalbard"}), Some(ground(1, Ending::Lost)));
    assert_eq!(why(&unsaid), "the satellite has not said more yet");
    assert_eq!(why(&Pass::new(json!({}), None)), "");
    // A full one left something.
    assert_eq!(why(&pass(&json!({"backlog_bytes": 7 << 20}), None)), "it was full: 7.0 MiB left on board");
    assert_eq!(why(&pass(&json!({"backlog_bytes": 0}), None)), "nothing more was on board");
    // Without a rate by plan nobody knows whether it fell short.
    assert_eq!(why(&pass(&json!({"efficiency": null}), None)), "");
}

#[test]
fn a_pass_is_compared_with_the_plan_where_that_is_known() {
    let planned = |start: u64, end: u64, other: &Value| {
        let mut report = json!({
            "efficiency": 0.4, "planned_start_unix_nano": start * S, "planned_end_unix_nano": end * S,
            "guard_start_seconds": 0.0, "guard_end_seconds": 5.0,
        });
        for (key, value) in other.as_object().unwrap() {
            report[key] = value.clone();
        }
        pass(&report, None)
    };
    // The agent had it for ten minutes and the link for nearly all of them; by plan it was twenty, and began ten before.
    let late = planned(400, 1_600, &json!({}));
    assert_eq!(why(&late), "the link came up 10 min after AOS; the link was up 10 min of 20 min");
    assert_eq!(by_plan(&late).unwrap(), "by plan 00:06:40 to 00:26:40, guard 5 s");
    let shown = line(None, &late).into_string();
    assert!(
        shown.contains("by plan 00:06:40 to 00:26:40, guard 5 s") && shown.contains("10 min of 20 min"),
        "{shown}"
    );
    // It was opened before its plan for the clock's error.
    let early = planned(1_060, 1_600, &json!({"connect_seconds": 1.0, "guard_start_seconds": 60.0}));
    assert_eq!(why(&early), "it carried less than its rate by plan; nothing more is recorded");
    assert_eq!(by_plan(&early).unwrap(), "by plan 00:17:40 to 00:26:40, guard 60 s and 5 s");
    // What came of a pass is compared with all of it: it is full when it carried what it counts on.
    let guarded = |efficiency: f64| {
        why(&planned(1_000, 1_600, &json!({"efficiency": efficiency, "guard_end_seconds": 120.0})))
    };
    assert_eq!((guarded(0.73).as_str(), guarded(0.71).is_empty()), ("", false));
    // What came in the guard time could not go.
    let since = |at: u64| {
        let left =
            json!({"backlog_bytes": 5 << 10, "backlog_since_unix_nano": at * S, "guard_end_seconds": 100.0});
        why(&planned(1_000, 1_600, &left))
    };
    assert!(since(1_440).starts_with("it kept up: "), "{}", since(1_440));
    assert!(since(1_439).starts_with("it carried less"), "{}", since(1_439));
    let unplanned = pass(&json!({}), None);
    assert_eq!(by_plan(&unplanned), None);
    let shown = line(None, &unplanned).into_string();
    assert!(!shown.contains("by plan 0") && shown.contains("10 min</td>"), "{shown}");
}

#[test]
fn how_it_ended_is_what_the_satellite_says_or_else_what_the_station_saw() {
    for (state, said) in [
        ("delivered_all", "all delivered"),
        ("ended_by_plan", "at its end by plan"),
        ("cut", "cut"),
        ("unreachable", "never up"),
        ("refused", "refused"),
        ("nothing_to_send", "nothing to send"),
        ("budget_spent", "budget spent"),
        ("closed", "closed"),
        ("something_new", "unknown"),
    ] {
        assert_eq!(ended(&pass(&json!({ "state": state }), Some(ground(1, Ending::Lost)))), said);
    }
    for (ending, said) in [
        (Ending::Goodbye, "in order"),
        (Ending::Lost, "signal lost"),
        (Ending::Closed, "closed"),
        (Ending::Shutdown, "station ended"),
    ] {
        assert_eq!(ended(&Pass::new(json!({}), Some(ground(1, ending)))), said);
    }
    assert_eq!(ended(&Pass::new(json!({}), None)), "unknown");
}

#[test]
fn a_pass_that_is_not_over_goes_on() {
    let of = |ended: Option<Ending>| {
        let ground = HeardView { ended, ..ground(1, Ending::Lost) };
        super::ended(&pass(&json!({"state": null}), Some(ground)))
    };
    assert_eq!(of(None), "goes on");
    assert_eq!(of(Some(Ending::Lost)), "signal lost");
}
