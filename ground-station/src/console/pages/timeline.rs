//! The latest passes of a satellite along time: the plan as an outline with its guard times, filled where this station had the link,
//! as high as it was full, and below it what the ground gained.

use maud::{Markup, html};

use super::passes;
use crate::console::show::bytes;
use crate::spool::Pass;

/// Passes that are drawn.
const DRAWN: usize = 20;

const WIDTH: f64 = 1000.0;

/// The tops and heights of the two bands.
const PASSES: (f64, f64) = (4.0, 56.0);
const BYTES: (f64, f64) = (68.0, 30.0);

/// From when to when, ns since the Unix epoch.
type Times = (u64, u64);

struct Bar {
    plan: Times,
    /// Of the plan, what it does not count on.
    guards: [Times; 2],
    fact: Option<Times>,
    fill: f64,
    is_cut: bool,
    gained: u64,
    title: String,
}

impl Bar {
    fn new(pass: &Pass) -> Self {
        let report = pass.report();
        let time = |name: &str| report[name].as_u64();
        let fact = pass.ground.as_ref().map(|g| (g.start_unix_nano, g.end_unix_nano));
        let opened = time("start_unix_nano").zip(time("end_unix_nano")).or(fact);
        let planned = pass.planned();
        let (plan, guards) = match &planned {
            Some(plan) => {
                let after = plan.start.saturating_add(plan.guard_start).min(plan.end);
                let before = plan.end.saturating_sub(plan.guard_end).max(after);
                ((plan.start, plan.end), [(plan.start, after), (before, plan.end)])
            }
            None => (opened.unwrap_or((pass.start(), pass.start())), [(0, 0); 2]),
        };
        let gained = pass.held_bytes().unwrap_or(0);
        let of = match report["planned_bytes"].as_u64() {
            Some(planned) => format!(" of {}", bytes(planned)),
            None => String::new(),
        };
        let by_plan = passes::by_plan(pass).map(|plan| format!(", {plan}")).unwrap_or_default();
        let station = report["station"].as_str().unwrap_or("");
        Self {
            plan,
            guards,
            fact,
            fill: pass.fill().unwrap_or(1.0),
            is_cut: matches!(report["state"].as_str(), Some("cut" | "unreachable" | "refused")),
            gained,
            title: format!("{station}{by_plan}: {}{of}, {}", bytes(gained), passes::ended(pass)),
        }
    }

    fn ends(&self) -> u64 {
        self.plan.1.max(self.fact.map_or(0, |fact| fact.1))
    }
}

pub(super) fn drawn(all: &[Pass]) -> Markup {
    let bars: Vec<Bar> = all.iter().take(DRAWN).map(Bar::new).collect();
    let begins = |bar: &Bar| bar.plan.0.min(bar.fact.map_or(u64::MAX, |fact| fact.0));
    let begin = bars.iter().map(begins).min().unwrap_or(0);
    let end = bars.iter().map(Bar::ends).max().unwrap_or(1);
    let most = bars.iter().map(|bar| bar.gained).max().unwrap_or(0).max(1) as f64;
    let scale = WIDTH / (end.saturating_sub(begin)).max(1) as f64;
    let rect = |class: &str, (from, to): Times, (top, high): (f64, f64)| {
        let x = from.saturating_sub(begin) as f64 * scale;
        let width = to.saturating_sub(from) as f64 * scale;
        // A guard is as wide as it is; the rest can be seen at any scale.
        let width = if class == "guard" { width } else { width.max(3.0) };
        html! { rect class=(class) x=(format!("{x:.1}")) y=(top) width=(format!("{width:.1}")) height=(high) {} }
    };
    // What stands on the ground of a band.
    let stands = |(top, high): (f64, f64), part: f64| {
        let tall = (part * high).round();
        (top + high - tall, tall)
    };
    html! {
        svg.times viewBox="0 0 1000 118" role="img" aria-label="The latest passes along time. Above: outlined as planned, or as the satellite had them; shaded at the guard times; filled where this station had the link, as high as they were full. Below: what the ground gained" {
            line.axis x1="0" x2="1000" y1="60" y2="60" {}
            line.axis x1="0" x2="1000" y1="98" y2="98" {}
            @for bar in &bars {
                g {
                    title { (bar.title) }
                    (rect("plan", bar.plan, PASSES))
                    @for guard in bar.guards.iter().filter(|(from, to)| from < to) { (rect("guard", *guard, PASSES)) }
                    @if let Some(fact) = bar.fact {
                        (rect(if bar.is_cut { "cutoff" } else { "fact" }, fact, stands(PASSES, bar.fill.clamp(0.05, 1.0))))
                    }
                    @if bar.gained > 0 {
                        (rect("gained", bar.fact.unwrap_or(bar.plan), stands(BYTES, (bar.gained as f64 / most).max(0.04))))
                    }
                }
            }
            text x="2" y="112" { (date_text(begin)) }
            text x="500" y="112" text-anchor="middle" { "the tallest below: " (bytes(most as u64)) }
            text x="998" y="112" text-anchor="end" { (date_text(end)) }
        }
    }
}

fn date_text(nano: u64) -> String {
    perigee_shared::contact::shown_time(nano).replace('T', " ").trim_end_matches('Z').to_owned()
}

#[cfg(test)]
#[path = "timeline_tests.rs"]
mod tests;
