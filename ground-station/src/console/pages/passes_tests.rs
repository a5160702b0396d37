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
        (json!({"state": "refused"}), "one side refused the other: see the certificates"),
        (json!({"state": "nothing_to_send"}), "nothing more was on board"),
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
