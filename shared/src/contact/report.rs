//! Pass reports and forecasts as JSON, the same on board and on the ground. What is not known is `null`.

use perigee_proto::link::{Forecast, PassReport, PassState};
use serde_json::{Value, json};

/// A forecast as JSON.
pub fn shown_forecast(f: &Forecast) -> Value {
    let time = |nano: u64| (nano != 0).then_some(nano);
    json!({
        "made_unix_nano": f.made_unix_nano,
        "stored_bytes": f.stored_bytes,
        "max_bytes": f.max_bytes,
        "growth_bytes_per_second": (f.growth_bytes_per_second > 0.0).then_some(f.growth_bytes_per_second),
        "planned_bytes": f.planned_bytes,
        "plan_until_unix_nano": time(f.plan_until_unix_nano),
        "full_unix_nano": time(f.full_unix_nano),
        "empty_unix_nano": time(f.empty_unix_nano),
        "backlog_since_unix_nano": time(f.backlog_since_unix_nano),
    })
}

/// A pass report as JSON. What came of a pass is measured by what the ground holds: software that does not say that says no state
/// either, and its reports have no efficiency.
pub fn shown_pass(r: &PassReport) -> Value {
    let known = |n: u64| (n != 0).then_some(n);
    let is_measured = r.state() != PassState::Unspecified;
    let held = is_measured.then_some(r.held_bytes);
    let planned = known(r.planned_bytes);
    let connected = r.connected_nano as f64 / 1e9;
    let is_planned = r.planned_end_unix_nano != 0;
    let by_plan = |value: Value| if is_planned { value } else { Value::Null };
    // It may have been opened before AOS, for the clock's error.
    let early = if is_planned { r.planned_start_unix_nano.saturating_sub(r.start_unix_nano) } else { 0 };
    json!({
        "station": r.station,
        "start_unix_nano": r.start_unix_nano,
        "end_unix_nano": r.end_unix_nano,
        "state": is_measured.then(|| state_name(r.state())),
        "planned_start_unix_nano": by_plan(r.planned_start_unix_nano.into()),
        "planned_end_unix_nano": by_plan(r.planned_end_unix_nano.into()),
        "guard_start_seconds": by_plan((r.guard_start_nano as f64 / 1e9).into()),
        "guard_end_seconds": by_plan((r.guard_end_nano as f64 / 1e9).into()),
        "planned_bytes": planned,
        "held_bytes": held,
        "efficiency": held.zip(planned).map(|(held, planned)| held as f64 / planned as f64),
        "achieved_bytes": r.achieved_bytes,
        "sent_bytes": r.sent_bytes,
        "committed_segments": r.committed_segments,
        "connect_seconds": known(r.connect_nano).map(|nano| nano.saturating_sub(early) as f64 / 1e9),
        "connected_seconds": connected,
        "rate_bits_per_second": held.filter(|_| connected > 0.0).map(|held| held as f64 * 8.0 / connected),
        "loss": known(r.sent_packets).map(|sent| r.lost_packets as f64 / sent as f64),
        "round_trip_seconds": known(r.round_trip_nano).map(|nano| nano as f64 / 1e9),
        "backlog_bytes": r.backlog_bytes,
        "backlog_since_unix_nano": known(r.backlog_since_unix_nano),
    })
}

/// `delivered_all`, `ended_by_plan`, ...
fn state_name(state: PassState) -> String {
    state.as_str_name().trim_start_matches("PASS_STATE_").to_lowercase()
}
