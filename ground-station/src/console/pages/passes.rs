//! Passes: what was planned against what was achieved, and why a pass fell short.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use super::{Page, Pages, ROWS, fleet, next, no_place, row_id, satellite_link, table, track};
use crate::console::api;
use crate::console::board::{Drawn, Row, Shown};
use crate::console::problem::Asked;
use crate::console::show::{bar, bytes, counted, date, encoded, number, seconds, when};
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
            th scope="row" { (date(pass.start())) }
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
            td data-label="Link up" { @match up { Some(up) => (seconds(up)), None => "-" } }
            td data-label="Ended" { (ended(pass)) }
            td.wide data-label="Why" { (why(pass)) }
        }
    }
}

/// How a pass ended, in words.
pub(super) fn ended(pass: &Pass) -> String {
    let seen = || pass.ground.as_ref().and_then(|ground| ground.ended).map(|ended| ended.name());
    let word = pass.report()["state"].as_str().or_else(seen).unwrap_or("unknown");
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
        _ => "unknown",
    }
    .to_owned()
}

/// Why a pass brought less than its plan, as far as its record says it.
pub(super) fn why(pass: &Pass) -> String {
    let report = pass.report();
    let seconds_of = |name: &str| report[name].as_f64();
    let mut why = Vec::new();
    let lasted = match (report["start_unix_nano"].as_u64(), report["end_unix_nano"].as_u64()) {
        (Some(start), Some(end)) if end > start => (end - start) as f64 / 1e9,
        _ => 0.0,
    };
    let fits = pass.fill().is_some_and(|fill| fill >= 0.9);
    match report["state"].as_str() {
        Some("unreachable") => why.push("the station never answered".to_owned()),
        Some("refused") => why.push("one side refused the other: see the certificates".to_owned()),
        Some("nothing_to_send" | "delivered_all") => return "nothing more was on board".to_owned(),
        Some("budget_spent") => why.push("its byte budget was spent".to_owned()),
        Some("closed") => why.push("an operator or a new plan closed it".to_owned()),
        Some("cut") => why.push("the link was lost before its end by plan".to_owned()),
        None if pass.ground.is_some() => return "the satellite has not said more yet".to_owned(),
        _ => {}
    }
    if fits && why.is_empty() {
        return String::new();
    }
    if let Some(connect) = seconds_of("connect_seconds")
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
    if why.is_empty() && pass.fill().is_some() {
        why.push("it carried less than its rate by plan; nothing more is recorded".to_owned());
    }
    why.join("; ")
}

#[cfg(test)]
#[path = "passes_tests.rs"]
mod tests;
