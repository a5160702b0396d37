//! Pass reports and forecasts as JSON, the same on board and on the ground. What is not known is `null`.

use perigee_proto::link::{Forecast, PassReport};
use serde_json::{Value, json};

/// A forecast as JSON.
pub fn shown_forecast(f: &Forecast) -> Value {
    let time = |nano: u64| (nano != 0).then_some(nano);
    json!({
        "made_unix_nano": f.made_unix_nano,
        "stored_bytes": f.stored_bytes,
        "max_bytes": f.max_bytes,
        "growth_bytes_per_second": f.growth_bytes_per_second,
        "planned_bytes": f.planned_bytes,
        "plan_until_unix_nano": time(f.plan_until_unix_nano),
        "full_unix_nano": time(f.full_unix_nano),
        "empty_unix_nano": time(f.empty_unix_nano),
        "backlog_since_unix_nano": time(f.backlog_since_unix_nano),
    })
}

/// A pass report as JSON.
pub fn shown_pass(r: &PassReport) -> Value {
    let efficiency = (r.planned_bytes > 0).then(|| r.achieved_bytes as f64 / r.planned_bytes as f64);
    json!({
        "station": r.station,
        "start_unix_nano": r.start_unix_nano,
        "end_unix_nano": r.end_unix_nano,
        "planned_bytes": (r.planned_bytes > 0).then_some(r.planned_bytes),
        "achieved_bytes": r.achieved_bytes,
        "efficiency": efficiency,
        "sent_bytes": r.sent_bytes,
        "committed_segments": r.committed_segments,
        "connected_seconds": r.connected_nano as f64 / 1e9,
        "backlog_bytes": r.backlog_bytes,
        "backlog_since_unix_nano": (r.backlog_since_unix_nano != 0).then_some(r.backlog_since_unix_nano),
    })
}
