//! Passes: what was planned against what was achieved, and why a pass fell short.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use maud::{Markup, html};
use perigee_shared::contact::shown_time;
use serde::Deserialize;

use super::{Page, Pages, ROWS, fleet, next, no_place, row_id, satellite_link, table, track};
use crate::console::api;
use crate::console::board::{Drawn, Row, Shown};
use crate::console::problem::Asked;
use crate::console::show::{bar, bytes, counted, date, encoded, number, seconds, span, when};
use crate::spool::{NextContact, Part, Pass, PassView};

/// Contacts to come that are shown.
const TO_COME: usize = 20;

/// `?satellite=ID&after=PLACE`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wanted {
    satellite: String,
    after: String,
}

pub(super) async fn page(State(pages): State<Pages>, uri: Uri, Asked(wanted): Asked<Wanted>) -> Response {
    let of = Some(wanted.satellite.clone()).filter(|id| !id.is_empty());
    let Ok(after) = api::place(&wanted.after, 2) else { return no_place() };
    let board = pages.console.board.clone();
    pages
        .answer(&uri, async |look| {
            let part = look.glance.passes(of, after, ROWS).await?;
            let to_come = to_come(&look.shown, &wanted.satellite);
            // The one that is asked for, or the one whose pass comes first.
            let first = to_come.first().map(|(_, row)| row.digest.satellite.clone());
            let satellite = Some(wanted.satellite.clone()).filter(|id| !id.is_empty()).or(first);
            let drawn = match satellite {
                Some(satellite) => {
                    let drawn = board.track(&look, &satellite).await?;
                    Some((satellite, drawn))
                }
                None => None,
            };
            let track = drawn.as_ref().is_some_and(|(_, drawn)| drawn.is_ok());
            let body = body(&look.shown, &to_come, &part, &wanted, drawn.as_ref());
            Ok(Page { track, ..Page::new("Passes", body) })
        })
        .await
}

/// Contacts to come of one satellite, or of all, the first one first.
fn to_come<'a>(shown: &'a Shown, of: &str) -> Vec<(&'a NextContact, &'a Row)> {
    let mut to_come: Vec<_> = shown
        .rows
        .iter()
        .filter(|row| of.is_empty() || row.digest.satellite == of)
        .filter_map(|row| Some((row.digest.standing.next_contact.as_ref()?, row)))
        .filter(|(contact, _)| contact.start_unix_nano.saturating_add(60_000_000_000) > shown.at)
        .collect();
    to_come.sort_by_key(|(contact, _)| contact.start_unix_nano);
    to_come
}

fn body(
    shown: &Shown,
    to_come: &[(&NextContact, &Row)],
    part: &Part<PassView>,
    wanted: &Wanted,
    drawn: Option<&(String, Drawn)>,
) -> Markup {
    html! {
        h2 { "Next contacts" }
        @if to_come.is_empty() {
            p { "No satellite has said when its next contact is. It says so in each contact, by its own plan." }
        } @else {
            (table("Next contacts", true, html! {
                thead { tr {
                    th scope="col" { "When" }
                    th scope="col" { "Station" }
                    th scope="col" { "Satellite" }
                    th scope="col" { "Waits on board" }
                    th scope="col" { "Will it fit" }
                } }
                tbody {
                    @for (contact, row) in to_come.iter().take(TO_COME) {
                        tr id=(row_id("contact", &row.digest.satellite)) {
                            th scope="row" { (when(contact.start_unix_nano, shown.at)) " " span.soft { (date(contact.start_unix_nano)) } }
                            td data-label="Station" { (contact.station) }
                            td data-label="Satellite" { (satellite_link(&row.digest.satellite)) }
                            td data-label="Waits" { (fleet::waits(&row.digest.standing)) }
                            td data-label="Will it fit" { (fleet::forecast(&row.digest.standing, shown.at)) }
                        }
                    }
                }
            }))
            @if let Some(more) = to_come.len().checked_sub(TO_COME).filter(|more| *more > 0) {
                p { "And " (counted(more as u64, "satellite", "satellites")) " with a later one: ask for one below, or see " a href="/" { "Fleet" } "." }
            }
        }
        @if let Some((satellite, drawn)) = drawn {
            h2 { "Ground track of the next pass of " (satellite_link(satellite)) }
            (track::section(satellite, drawn, shown.at))
        }
        h2 { "Passes so far" }
        form.filter method="get" action="/passes" {
            label { "Satellite " input name="satellite" value=(wanted.satellite); }
            button { "Show" }
        }
        @if part.rows.is_empty() {
            p { "No pass is recorded." }
        } @else {
            (table("Passes so far", true, html! {
                (heads(true))
                tbody { @for row in &part.rows { (line(Some(&row.satellite), &row.pass)) } }
            }))
            (next(part.next.as_ref().map(|mark| {
                format!("/passes?satellite={}&after={}", encoded(&wanted.satellite), encoded(mark))
            })))
        }
    }
}

pub(super) fn heads(satellite: bool) -> Markup {
    html! {
        thead { tr {
            th scope="col" { "Began (UTC)" }
            @if satellite { th scope="col" { "Satellite" } }
            th scope="col" { "Station" }
            th scope="col" { "Gained of planned" }
            th scope="col" { "Segments, items" }
            th scope="col" { "Link up" }
            th scope="col" { "Ended" }
            th scope="col" { "Why it fell short" }
        } }
    }
}

pub(super) fn line(satellite: Option<&str>, pass: &Pass) -> Markup {
    let report = pass.report();
    let number_of = |name: &str| report[name].as_u64();
    let held = pass.held_bytes();
    let up = report["connected_seconds"].as_f64().or(pass.ground.as_ref().map(|g| g.connected_seconds));
    let key = format!("{}-{}", satellite.unwrap_or(""), pass.start());
    html! {
        tr id=(row_id("pass", &key)) {
            th scope="row" {
                (date(pass.start()))
                @if let Some(plan) = by_plan(pass) { br; span.soft { (plan) } }
            }
            @if let Some(satellite) = satellite { td data-label="Satellite" { (satellite_link(satellite)) } }
            td data-label="Station" { (report["station"].as_str().unwrap_or("")) }
            td data-label="Gained of planned" {
                span.nowrap { @match held { Some(n) => (bytes(n)), None => "unknown" } }
                " of "
                span.nowrap { @match number_of("planned_bytes") { Some(n) => (bytes(n)), None => "an unknown plan" } }
                @if let Some(fill) = pass.fill() { " " (bar(fill, "of what the plan carries")) }
            }
            td data-label="Segments, items" {
                @match &pass.ground {
                    Some(ground) => { (number(ground.committed_segments)) ", " (number(ground.committed.total())) },
                    None => @match number_of("committed_segments") { Some(n) => (number(n)), None => "-" },
                }
            }
            td data-label="Link up" {
                @match up { Some(up) => (seconds(up)), None => "-" }
                @if pass.planned().is_some() { " of " (span(lasted(pass))) }
            }
            td data-label="Ended" { (ended(pass)) }
            td.wide data-label="Why" { (why(pass)) }
        }
    }
}

/// How a pass ended, in words.
pub(super) fn ended(pass: &Pass) -> String {
    let seen = || pass.ground.as_ref().and_then(|ground| ground.ended).map(|ended| ended.name());
    // The satellite reports how a pass ended in which this program was killed.
    let goes_on = || pass.ground.as_ref().filter(|ground| ground.ended.is_none()).map(|_| "goes_on");
    let word = pass.report()["state"].as_str().or_else(seen).or_else(goes_on).unwrap_or("unknown");
    match word {
        "delivered_all" => "all delivered",
        "ended_by_plan" => "at its end by plan",
        "cut" => "cut",
        "unreachable" => "never up",
        "refused" => "refused",
        "nothing_to_send" => "nothing to send",
        "budget_spent" => "budget spent",
        "closed" => "closed",
        "goodbye" => "in order",
        "lost" => "signal lost",
        "shutdown" => "station ended",
        "goes_on" => "goes on",
        _ => "unknown",
    }
    .to_owned()
}

/// The plan of a pass in words, where it is known: from when to when, and how much of that it does not count on.
pub(super) fn by_plan(pass: &Pass) -> Option<String> {
    let plan = pass.planned()?;
    let (from, to) = (shown_time(plan.start), shown_time(plan.end));
    let time = |text: &str| text.trim_end_matches('Z').split_once('T').map(|(_, time)| time.to_owned());
    let mut text = format!("by plan {} to {}", time(&from)?, time(&to)?);
    match (plan.guard_start, plan.guard_end) {
        (0, 0) => {}
        (0, end) => text.push_str(&format!(", guard {}", span(end))),
        (start, end) => text.push_str(&format!(", guard {} and {}", span(start), span(end))),
    }
    Some(text)
}

/// How long a pass was by plan, or else how long the satellite had it; ns.
fn lasted(pass: &Pass) -> u64 {
    let time = |name: &str| pass.report()[name].as_u64().unwrap_or(0);
    let opened = || time("end_unix_nano").saturating_sub(time("start_unix_nano"));
    pass.planned().map_or_else(opened, |plan| plan.end - plan.start)
}

/// Why a pass brought less than its plan, as far as its record says it.
pub(super) fn why(pass: &Pass) -> String {
    let report = pass.report();
    let said = report["start_unix_nano"].is_u64();
    let left = report["backlog_bytes"].as_u64();
    let state = report["state"].as_str();
    let ended = match state {
        Some("nothing_to_send") => return "there was nothing to send".to_owned(),
        Some("delivered_all") => return "nothing more was on board".to_owned(),
        Some("unreachable") => "the station never answered",
        Some("refused") if report["connect_seconds"].is_null() => {
            "one side refused the other: see the certificates"
        }
        Some("refused") => "the station had no room or closed the link: see its spool and its log",
        Some("budget_spent") => "its byte budget was spent",
        Some("closed") => "an operator or a new plan closed it",
        Some("cut") => "the link was lost before its end by plan",
        None if said => "its software does not say how it ended",
        None if pass.ground.is_some() => return "the satellite has not said more yet".to_owned(),
        None => return String::new(),
        Some(_) => "",
    };
    let waits = left.filter(|left| *left > 0).map(|left| format!("{} left on board", bytes(left)));
    if ended.is_empty() {
        let full = pass.fill().is_some_and(|fill| fill >= FULL * counted_on(pass));
        return match waits {
            _ if left == Some(0) => "nothing more was on board".to_owned(),
            Some(waits) if full => format!("it was full: {waits}"),
            None if full => String::new(),
            waits => by_plan_and_short(pass, waits),
        };
    }
    let mut why = vec![ended.to_owned()];
    why.extend(slower(pass));
    why.extend(waits);
    why.join("; ")
}

/// A pass is full from this part of its plan on.
const FULL: f64 = 0.9;

/// The part of a pass that its plan counts on: without the guards.
fn counted_on(pass: &Pass) -> f64 {
    pass.planned().map_or(1.0, |plan| {
        let guards = plan.guard_start.saturating_add(plan.guard_end) as f64 / (plan.end - plan.start) as f64;
        (1.0 - guards).max(0.0)
    })
}

/// Why one that ended by plan was not full.
fn by_plan_and_short(pass: &Pass, waits: Option<String>) -> String {
    let report = pass.report();
    let time = |name: &str| report[name].as_u64();
    let guard = pass.planned().map_or(0, |plan| plan.guard_end);
    let late = guard + (lasted(pass) / 10).max(10_000_000_000);
    let ends = pass.planned().map(|plan| plan.end).or(time("end_unix_nano"));
    if let (Some(since), Some(end), Some(waits)) = (time("backlog_since_unix_nano"), ends, &waits)
        && since >= end.saturating_sub(late)
    {
        return format!(
            "it kept up: {waits}, none of it older than the last {}",
            span(end.saturating_sub(since))
        );
    }
    let mut why: Vec<String> = slower(pass);
    if why.is_empty() && pass.fill().is_some() {
        why.push("it carried less than its rate by plan; nothing more is recorded".to_owned());
    }
    why.extend(waits);
    why.join("; ")
}

/// What took from a pass.
fn slower(pass: &Pass) -> Vec<String> {
    let report = pass.report();
    let seconds_of = |name: &str| report[name].as_f64();
    let mut why = Vec::new();
    let lasted = lasted(pass) as f64 / 1e9;
    // A contact is opened later than its plan where the agent began late.
    let late = report["start_unix_nano"].as_u64().zip(pass.planned());
    let late = late.map_or(0.0, |(opened, plan)| opened.saturating_sub(plan.start) as f64 / 1e9);
    if let Some(connect) = seconds_of("connect_seconds").map(|connect| late + connect)
        && connect > (lasted * 0.1).max(5.0)
    {
        why.push(format!("the link came up {} after AOS", seconds(connect)));
    }
    if let Some(up) = seconds_of("connected_seconds")
        && up > 0.0
        && up < lasted * 0.8
    {
        why.push(format!("the link was up {} of {}", seconds(up), seconds(lasted)));
    }
    if let Some(loss) = seconds_of("loss")
        && loss > 0.02
    {
        why.push(format!("{:.0} % of packets were lost", loss * 100.0));
    }
    if let Some(connections) = pass.ground.as_ref().map(|ground| ground.connections)
        && connections > 1
    {
        why.push(format!("it took {connections} links"));
    }
    why
}

#[cfg(test)]
#[path = "passes_tests.rs"]
mod tests;
