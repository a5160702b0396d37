//! Gaps: what is missing, why, how much, and whether it can still come.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use super::{Page, Pages, ROWS, next, no_place, row_id, satellite_link, table};
use crate::console::api;
use crate::console::attention::Level;
use crate::console::board::Shown;
use crate::console::problem::Asked;
use crate::console::show::{bytes, counted, date, encoded, items, number, when};
use crate::spool::{AwayView, BacklogView, GapView, Items, Part};

/// Lanes that are shown of what may still come.
const AWAY: usize = 500;

/// `?satellite=ID&after=PLACE`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wanted {
    satellite: String,
    after: String,
}

pub(super) async fn page(State(pages): State<Pages>, uri: Uri, Asked(wanted): Asked<Wanted>) -> Response {
    let of = Some(wanted.satellite.clone()).filter(|id| !id.is_empty());
    let Ok(after) = api::place(&wanted.after, 4) else { return no_place() };
    pages
        .answer(&uri, async |look| {
            let (away, gaps) =
                (look.glance.away(of.clone()).await?, look.glance.gaps(of, after, ROWS).await?);
            Ok(Page::new("Gaps", body(&look.shown, &away, &gaps, &wanted)))
        })
        .await
}

/// Why something is missing, and what follows.
fn reason(word: &str) -> (&'static str, &'static str) {
    match word {
        "quota_oldest" => (
            "the store on board was full, and the oldest was dropped",
            "plan more contacts or raise the quota",
        ),
        "quota_newest" => (
            "the store on board was full, and the newest was dropped",
            "plan more contacts or raise the quota",
        ),
        "lifetime" => {
            ("it was older than its lane allows", "plan more contacts or raise the lane's lifetime")
        }
        "filter" => ("a filter on board dropped it", ""),
        "corruption" => (
            "bytes on board were damaged, or its log was lost or replaced",
            "look at the satellite's storage, and which directory it has",
        ),
        "backend_refused" => ("a backend on board refused it for good", ""),
        "operator" => ("an operator gave it up", "see Audit"),
        "station_lost" => ("a station had it and lost it", "look at this station's disk"),
        _ => ("nobody knows why", ""),
    }
}

/// What is not here of a lane and may still come.
struct Waits<'a> {
    away: Option<&'a AwayView>,
    backlog: Option<&'a BacklogView>,
}

fn body(shown: &Shown, away: &[AwayView], gaps: &Part<GapView>, wanted: &Wanted) -> Markup {
    let mut lanes = BTreeMap::<(&str, u8), Waits<'_>>::new();
    for row in away {
        lanes.insert((&row.satellite, row.lane), Waits { away: Some(row), backlog: None });
    }
    let rows = shown.rows.iter().map(|row| &row.digest);
    for digest in rows.filter(|d| wanted.satellite.is_empty() || d.satellite == wanted.satellite) {
        for lane in digest.standing.backlog.iter().flatten().filter(|lane| lane.bytes > 0) {
            let waits = lanes.entry((&digest.satellite, lane.lane));
            waits.or_insert(Waits { away: None, backlog: None }).backlog = Some(lane);
        }
    }
    html! {
        form.filter method="get" action="/gaps" {
            label { "Satellite " input name="satellite" value=(wanted.satellite); }
            button { "Show" }
        }
        h2 { "May still come" }
        @if lanes.is_empty() {
            p { "Nothing is known to wait on board or to be elsewhere." }
        } @else {
            (may_come(&lanes, shown.at))
        }
        (lost(gaps, wanted))
    }
}

fn may_come(lanes: &BTreeMap<(&str, u8), Waits<'_>>, now: u64) -> Markup {
    let shown = table(
        "What may still come",
        true,
        html! {
            caption { "As of what each satellite said last" }
            thead { tr {
                th scope="col" { "Satellite" }
                th scope="col" { "Lane" }
                th scope="col" { "Waits on board" }
                th scope="col" { "Oldest" }
                th.n scope="col" { "Segments on board" }
                th.n scope="col" { "Segments held in part" }
                th.n scope="col" { "Segments with another station" }
            } }
            tbody {
                @for ((satellite, lane), waits) in lanes.iter().take(AWAY) {
                    @let count = |of: fn(&AwayView) -> u64| number(waits.away.map_or(0, of));
                    tr id=(row_id("away", format_args!("{satellite}-{lane}"))) {
                        th scope="row" { (satellite_link(satellite)) }
                        td data-label="Lane" { (lane) }
                        td data-label="Waits on board" {
                            @match waits.backlog {
                                Some(backlog) => { (items(backlog.items)) ", " (bytes(backlog.bytes)) },
                                None => "-",
                            }
                        }
                        td data-label="Oldest" {
                            @match waits.backlog.and_then(|backlog| backlog.since_unix_nano) {
                                Some(since) => (when(since, now)),
                                None => "-",
                            }
                        }
                        td.n data-label="Segments on board" { (count(|away| away.on_board)) }
                        td.n data-label="Segments held in part" {
                            (count(|away| away.partial))
                            @if let Some(away) = waits.away.filter(|away| away.partial > 0) {
                                ": " span.nowrap { (bytes(away.held_bytes)) } " of " span.nowrap { (bytes(away.partial_bytes)) }
                            }
                        }
                        td.n data-label="Segments with another station" { (count(|away| away.elsewhere)) }
                    }
                }
            }
        },
    );
    html! {
        (shown)
        @if let Some(more) = lanes.len().checked_sub(AWAY).filter(|more| *more > 0) {
            p { "And " (counted(more as u64, "lane", "lanes")) " more: ask for one satellite." }
        }
    }
}

/// The items of a gap; a number that nobody knows is not 0.
fn missing(gap: &GapView) -> Markup {
    let is_lost_here = gap.reason == "station_lost";
    html! {
        @match gap.unknown {
            true if gap.items == Items::default() => "an unknown number of items",
            true if is_lost_here => { "at most " (items(gap.items)) },
            true => { "at least " (items(gap.items)) },
            false => (items(gap.items)),
        }
    }
}

/// What was dropped or lost.
fn lost(gaps: &Part<GapView>, wanted: &Wanted) -> Markup {
    html! {
        h2 { "Does not come any more" }
        @if gaps.rows.is_empty() {
            p { (Level::Fine.badge()) " Nothing was dropped or lost." }
        } @else {
            (table("What does not come any more", true, html! {
                thead { tr {
                    th scope="col" { "Known since (UTC)" }
                    th scope="col" { "Satellite" }
                    th scope="col" { "Lane" }
                    th scope="col" { "What is missing" }
                    th scope="col" { "From (UTC)" }
                    th scope="col" { "To (UTC)" }
                    th scope="col" { "Why" }
                    th scope="col" { "Sequences" }
                } }
                tbody {
                    @for gap in &gaps.rows {
                        @let (why, remedy) = reason(&gap.reason);
                        tr id=(row_id("gap", format_args!("{}-{}-{}", gap.satellite, gap.epoch, gap.id))) {
                            th scope="row" { (date(gap.recorded_unix_nano)) }
                            td data-label="Satellite" { (satellite_link(&gap.satellite)) }
                            td data-label="Lane" { (gap.lane) }
                            td data-label="Missing" { (missing(gap)) }
                            td data-label="From" { (date(gap.start_unix_nano)) }
                            td data-label="To" { (date(gap.end_unix_nano)) }
                            td.wide data-label="Why" {
                                (why) "."
                                @if !remedy.is_empty() { " " span.remedy { "Remedy: " (remedy) "." } }
                            }
                            td data-label="Sequences" {
                                @match gap.sequences {
                                    Some((first, last)) if first == last => (first),
                                    Some((first, last)) => { (first) " to " (last) },
                                    None => "none yet",
                                }
                            }
                        }
                    }
                }
            }))
            (next(gaps.next.as_ref().map(|mark| {
                format!("/gaps?satellite={}&after={}", encoded(&wanted.satellite), encoded(mark))
            })))
        }
    }
}
