//! Fleet: every satellite in a line, those that need a human first.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use super::{Page, Pages, ROWS, row_id, satellite_link, table};
use crate::console::attention::{self, Level};
use crate::console::board::{Row, Shown};
use crate::console::problem::Asked;
use crate::console::show::{bar, bytes, counted, encoded, when};
use crate::spool::StandingView;

/// `?find=TEXT&page=N`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wanted {
    find: String,
    page: usize,
}

pub(super) async fn page(State(pages): State<Pages>, uri: Uri, Asked(wanted): Asked<Wanted>) -> Response {
    pages.answer(&uri, async |look| Ok(Page::new("Fleet", body(&look.shown, &wanted)))).await
}

fn body(shown: &Shown, wanted: &Wanted) -> Markup {
    let found: Vec<&Row> =
        shown.rows.iter().filter(|row| row.digest.satellite.contains(&wanted.find)).collect();
    let rows = found.iter().skip(wanted.page.saturating_mul(ROWS)).take(ROWS);
    let more = found.len() > wanted.page.saturating_add(1).saturating_mul(ROWS);
    html! {
        @if !shown.notes.is_empty() {
            section aria-labelledby="station" {
                h2 #station { "This station" }
                (attention::list(&shown.notes))
            }
        }
        h2 { "Satellites" }
        @if shown.rows.is_empty() {
            p { "No satellite was ever heard here. Its certificate must be in link.satellites, and its contact plan must name this station." }
        } @else {
            form.filter method="get" action="/" {
                label { "Find " input type="search" name="find" value=(wanted.find); }
                button { "Show" }
            }
            (table("Satellites", true, html! {
                caption {
                    (counted(found.len() as u64, "satellite", "satellites")) "; what needs a human comes first"
                }
                thead {
                    tr {
                        th scope="col" { "Satellite" }
                        th scope="col" { "State" }
                        th scope="col" { "Link" }
                        th scope="col" { "Last heard" }
                        th scope="col" { "Waits on board" }
                        th scope="col" { "Oldest" }
                        th scope="col" { "Next contact" }
                        th scope="col" { "If its plan holds" }
                        th scope="col" { "Last pass" }
                        th scope="col" { "Never comes" }
                    }
                }
                tbody { @for row in rows { (line(row, shown.at)) } }
            }))
            @if more {
                p.next {
                    a rel="next" href=(format!("/?find={}&page={}", encoded(&wanted.find), wanted.page + 1)) { "More satellites" }
                }
            }
        }
    }
}

/// Whether there is an open link, and where.
pub(super) fn link(row: &Row) -> Markup {
    let elsewhere = row.linked_at.join(", ");
    html! {
        @match (row.digest.connected, elsewhere.is_empty()) {
            (false, _) => "down",
            (true, true) => a href="/live" { "up" },
            (true, false) => { "up at " (elsewhere) },
        }
    }
}

fn line(row: &Row, now: u64) -> Markup {
    let (digest, standing) = (&row.digest, &row.digest.standing);
    let oldest = standing.backlog.iter().flatten().filter_map(|lane| lane.since_unix_nano).min();
    let gone = digest.account.dropped.total() + digest.account.lost.total();
    html! {
        tr id=(row_id("satellite", &digest.satellite)) {
            th scope="row" { (satellite_link(&digest.satellite)) }
            td.wide data-label="State" {
                (row.level.badge())
                @if let Some(note) = row.notes.first() { " " (note.text) }
                @if row.notes.len() > 1 { " (and " (row.notes.len() - 1) " more)" }
            }
            td data-label="Link" { (link(row)) }
            td.nowrap data-label="Last heard" { (when(standing.last_heard_unix_nano, now)) }
            td.nowrap data-label="Waits on board" { (waits(standing)) }
            td.nowrap data-label="Oldest" { @match oldest { Some(since) => (when(since, now)), None => "-" } }
            td data-label="Next contact" { (next_contact(standing, now)) }
            td data-label="If its plan holds" { (forecast(standing, now)) }
            td data-label="Last pass" { (last_pass(standing)) }
            td data-label="Never comes" {
                @if gone == 0 { "nothing" } @else {
                    a href=(format!("/gaps?satellite={}", encoded(&digest.satellite))) { (counted(gone, "item", "items")) }
                }
            }
        }
    }
}

/// What waits on board, if it was said.
pub(super) fn waits(standing: &StandingView) -> String {
    match &standing.backlog {
        None => "unknown".to_owned(),
        Some(lanes) => bytes(lanes.iter().map(|lane| lane.bytes).sum()),
    }
}

pub(super) fn next_contact(standing: &StandingView, now: u64) -> Markup {
    html! {
        @match &standing.next_contact {
            Some(next) => { (when(next.start_unix_nano, now)) " " (next.station) },
            None => "unknown",
        }
    }
}

/// Whether what waits will fit, by the satellite's own forecast.
pub(super) fn forecast(standing: &StandingView, now: u64) -> Markup {
    let Some(forecast) = &standing.forecast else { return html! { "none" } };
    let time = |name: &str| forecast[name].as_u64();
    html! {
        @if let Some(full) = time("full_unix_nano") {
            (Level::Warning.badge()) " store full " (when(full, now))
        } @else if let Some(empty) = time("empty_unix_nano") {
            @if empty <= now { "all delivered" } @else { "all delivered " (when(empty, now)) }
        } @else if time("planned_bytes").unwrap_or(0) > 0 {
            "more than the plan carries"
        } @else {
            "no plan"
        }
    }
}

fn last_pass(standing: &StandingView) -> Markup {
    let Some(pass) = &standing.last_pass else { return html! { "none" } };
    html! {
        (super::passes::ended(pass))
        @if let Some(fill) = pass.fill() { " " (bar(fill, "of what the plan carries")) }
    }
}
