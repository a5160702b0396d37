//! What changes slowly of a satellite, as curves: what waits on board, how late its data came, and the agent itself.
//!
//! Two sources. The store knows passes and committed segments, over restarts. What a satellite says of its agent is kept in memory
//! since this program began (`link::History`).

use serde::Serialize;

use crate::link::Point;
use crate::spool::{Portrait, StandingView};

/// Points of a curve, at most.
const POINTS: usize = 600;

/// What a curve measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unit {
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Per cent of a core.
    Percent,
}

/// One value over time.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(super) struct Curve {
    /// `backlog`, `delay`, `cpu`, `memory`, `store` or `clock`.
    pub(super) id: &'static str,
    /// For people.
    pub(super) name: &'static str,
    /// What `values` are in.
    pub(super) unit: Unit,
    /// When each value was so, s since the Unix epoch, ascending.
    pub(super) at: Vec<f64>,
    /// As many values.
    pub(super) values: Vec<f64>,
}

/// The curves of a satellite; one of which nothing is known has no points. What waits goes on to what is known of it now.
pub(super) fn of(portrait: &Portrait, points: &[Point], now: Option<&StandingView>) -> Vec<Curve> {
    let said = |value: fn(&Point) -> f32| {
        let all = points.iter().map(move |point| (f64::from(point.at), f64::from(value(point))));
        all.filter(|(_, value)| value.is_finite())
    };
    let seconds = |nano: u64| nano as f64 / 1e9;
    let after_passes = portrait.passes.iter().filter_map(|pass| {
        let report = pass.report();
        let seen = pass.ground.as_ref().map(|ground| ground.end_unix_nano);
        let end = seen.or_else(|| report["end_unix_nano"].as_u64())?;
        Some((seconds(end), report["backlog_bytes"].as_f64()?))
    });
    let waits = now.and_then(|standing| {
        let bytes: u64 = standing.backlog.as_ref()?.iter().map(|lane| lane.bytes).sum();
        Some((seconds(standing.last_heard_unix_nano), bytes as f64))
    });
    let backlog = after_passes.chain(said(|p| p.backlog)).chain(waits);
    let delays = portrait.delay_over_time.iter().map(|(at, delay)| (seconds(*at), *delay));
    vec![
        curve("backlog", "Waiting on board", Unit::Bytes, backlog),
        curve("delay", "Delay of delivery", Unit::Seconds, delays),
        curve("cpu", "CPU of the agent", Unit::Percent, said(|p| p.cpu)),
        curve("memory", "Memory of the agent", Unit::Bytes, said(|p| p.memory)),
        curve("store", "Store on board", Unit::Bytes, said(|p| p.store)),
        curve("clock", "Clock ahead of this station's", Unit::Seconds, said(|p| p.clock)),
    ]
}

/// One curve, thinned to [`POINTS`]: of those that stand together the greatest stays, since that is what matters of each of these.
fn curve(
    id: &'static str,
    name: &'static str,
    unit: Unit,
    points: impl Iterator<Item = (f64, f64)>,
) -> Curve {
    let mut all: Vec<(f64, f64)> = points.collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let together = all.len().div_ceil(POINTS).max(1);
    let greatest = |few: &[(f64, f64)]| few.iter().copied().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()));
    let (at, values) = all.chunks(together).filter_map(greatest).unzip();
    Curve { id, name, unit, at, values }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_in_order_and_keeps_its_peaks_when_it_is_thinned() {
        let points = (0..10_000).rev().map(|n| (f64::from(n), if n == 4_321 { 9.0 } else { 1.0 }));
        let curve = curve("delay", "Delay", Unit::Seconds, points);
        assert!(curve.at.len() <= POINTS && curve.at.len() > POINTS / 2, "{}", curve.at.len());
        assert!(curve.at.is_sorted());
        let peak = curve.values.iter().position(|value| *value == 9.0);
        assert_eq!(peak.map(|n| curve.at[n]), Some(4_321.0));
        assert_eq!(super::curve("cpu", "CPU", Unit::Percent, std::iter::empty()).at, [] as [f64; 0]);
    }
}
