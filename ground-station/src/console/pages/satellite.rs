//! Satellite: how it stands, what is on board, how late its data comes, its passes, and the agent itself.

use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use maud::{Markup, html};

use super::{Page, Pages, fleet, passes, row_id, table, timeline, track};
use crate::console::api::WEEK;
use crate::console::assets::at;
use crate::console::attention;
use crate::console::board::{Drawn, Row, Shown};
use crate::console::curves::{self, Curve, Unit};
use crate::console::show::{bar, bytes, date, encoded, items, number, seconds, span, when};
use crate::spool::{ItemView, Portrait, shown_offset};

/// Log records of this severity and above are shown as errors.
const ERROR: u32 = 17;

/// Errors that are shown.
const ERRORS: usize = 20;

/// The agent's own `service.name`.
const AGENT: &str = "space-agent";

pub(super) async fn page(State(pages): State<Pages>, Path(id): Path<String>, uri: Uri) -> Response {
    let board = pages.console.board.clone();
    pages
        .answer(&uri, async |look| {
            let from = look.shown.at.saturating_sub(WEEK);
            let row = look.shown.rows.iter().find(|row| row.digest.satellite == id);
            let (Some(row), Some(portrait)) = (row, look.glance.portrait(id.clone(), from).await?) else {
                let body = html! { p { "No satellite of this name was ever heard here." } };
                return Ok(Page { status: StatusCode::NOT_FOUND, ..Page::new("Not found", body) });
            };
            let latest = board.items(&look).await?;
            let errors = latest.iter().filter(|item| {
                let is_alarm = item.service == AGENT && !item.name.is_empty();
                item.satellite == id && item.severity >= ERROR && item.signal == "logs" && !is_alarm
            });
            let errors: Vec<&ItemView> = errors.take(ERRORS).collect();
            let curves = curves::of(&portrait, &board.history(&id), Some(&row.digest.standing));
            let drawn = board.track(&look, &id).await?;
            let body = body(&look.shown, row, &portrait, &errors, &curves, &drawn);
            Ok(Page { curves: true, track: drawn.is_ok(), ..Page::new(id.clone(), body) })
        })
        .await
}

fn body(
    shown: &Shown,
    row: &Row,
    portrait: &Portrait,
    errors: &[&ItemView],
    curves: &[Curve],
    drawn: &Drawn,
) -> Markup {
    let (now, digest) = (shown.at, &row.digest);
    let of = encoded(&digest.satellite);
    html! {
        @if row.notes.is_empty() {
            p { (attention::Level::Fine.badge()) " nothing needs a human." }
        } @else {
            (attention::list(&row.notes))
        }
        dl.facts {
            (fact("Link", fleet::link(row)))
            (fact("Last heard", html! { (when(digest.standing.last_heard_unix_nano, now)) " over " (digest.station) }))
            (fact("Next contact", fleet::next_contact(&digest.standing, now)))
            (fact("If its plan holds", fleet::forecast(&digest.standing, now)))
            (fact("Contacts heard", html! { (number(digest.contacts)) }))
            (fact("In the spool here", html! { (bytes(digest.spool_bytes)) }))
        }
        p {
            a href=(format!("/catalogue?satellite={of}")) { "What we have of it" } ", "
            a href=(format!("/gaps?satellite={of}")) { "what is missing" } ", "
            a href=(format!("/data?satellite={of}#items")) { "its latest items" }
        }
        h2 { "On board, by lane" }
        (backlog(row, now))
        h2 { "How late its data came in the last week" }
        (delays(portrait))
        h2 { "Over time" }
        (over_time(&of, curves))
        h2 { "Alarms on board" }
        @if digest.alarms.is_empty() {
            p { "Its agent has raised none that came here." }
        } @else {
            p.soft { "The latest that its agent raised, kept here whatever else arrives." }
            (alarms("Alarms on board", digest.alarms.iter().map(|alarm| Said {
                unix_nano: alarm.unix_nano, service: AGENT, name: &alarm.name, text: &alarm.text,
            }), now))
        }
        @if !errors.is_empty() {
            h3 { "Other errors among the latest items" }
            (alarms("Errors among the latest items", errors.iter().map(|item| Said {
                unix_nano: item.unix_nano, service: &item.service, name: &item.name, text: &item.text,
            }), now))
        }
        h2 { "Ground track of the next pass" }
        (track::section(&digest.satellite, drawn, now))
        h2 { "Passes" }
        @if portrait.passes.is_empty() {
            p { "No pass is recorded." }
        } @else {
            (timeline::drawn(&portrait.passes))
            p.soft { "Above: outlined as planned, the guard shaded, filled while the link was up, as high as the pass was full, red where it was cut. Below: what the ground gained." }
            (table("Passes", true, html! {
                (passes::heads(false))
                tbody { @for pass in portrait.passes.iter().take(10) { (passes::line(None, pass)) } }
            }))
            p.next { a href=(format!("/passes?satellite={of}")) { "All passes" } }
        }
        h2 { "Dropped on board" }
        (drops(row))
        h2 { "The agent" }
        (agent(row, portrait, now))
    }
}

fn fact(name: &str, value: Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

fn backlog(row: &Row, now: u64) -> Markup {
    let Some(lanes) = &row.digest.standing.backlog else {
        return html! { p { "Its agent does not say what waits." } };
    };
    if lanes.is_empty() {
        return html! { p { "It has no lanes with anything in them." } };
    }
    table(
        "On board, by lane",
        true,
        html! {
            thead { tr {
                th scope="col" { "Lane" }
                th scope="col" { "Name" }
                th.n scope="col" { "Bytes" }
                th scope="col" { "Items" }
                th scope="col" { "Oldest" }
            } }
            tbody {
                @for lane in lanes {
                    tr {
                        th scope="row" { (lane.lane) }
                        td data-label="Name" { (lane.name) }
                        td.n data-label="Bytes" { (bytes(lane.bytes)) }
                        td data-label="Items" { (items(lane.items)) }
                        td data-label="Oldest" {
                            @match lane.since_unix_nano { Some(since) => (when(since, now)), None => "-" }
                        }
                    }
                }
            }
        },
    )
}

fn delays(portrait: &Portrait) -> Markup {
    if portrait.delays.is_empty() {
        return html! { p { "Nothing was committed in that time." } };
    }
    table(
        "Delay of delivery by signal",
        true,
        html! {
            caption { "From when the oldest item of a segment was accepted on board to the commit here" }
            thead { tr {
                th scope="col" { "Signal" }
                th.n scope="col" { "Median" }
                th.n scope="col" { "95 of 100 within" }
                th.n scope="col" { "Latest" }
                th.n scope="col" { "Segments" }
            } }
            tbody {
                @for (signal, delay) in &portrait.delays {
                    tr {
                        th scope="row" { (signal) }
                        td.n data-label="Median" { (seconds(delay.median_seconds)) }
                        td.n data-label="95 of 100 within" { (seconds(delay.p95_seconds)) }
                        td.n data-label="Latest" { (seconds(delay.worst_seconds)) }
                        td.n data-label="Segments" { (number(delay.segments)) }
                    }
                }
            }
        },
    )
}

/// Curves; without scripts, their latest values as tables.
fn over_time(of: &str, curves: &[Curve]) -> Markup {
    /// Values in a table.
    const LATEST: usize = 20;
    let shown = |unit: Unit, value: f64| match unit {
        Unit::Bytes => bytes(value as u64),
        Unit::Seconds if value < 0.0 => format!("-{}", seconds(-value)),
        Unit::Seconds => seconds(value),
        Unit::Percent => format!("{value:.1} %"),
    };
    html! {
        p.soft {
            "What waits is as of each contact. The agent's own values are what this program has heard since it began; the rest is of the last week. Drawn by "
            a href=(at!("uplot.txt")) { "uPlot" } "."
        }
        div.curves data-curves=(format!("/api/v1/satellites/{of}/curves")) {
            @for curve in curves {
                figure data-curve=(curve.id) id=(row_id("curve", curve.id)) {
                    figcaption {
                        span { (curve.name) }
                        @match curve.values.last() { Some(last) => span { (shown(curve.unit, *last)) }, None => span.soft { "not heard yet" } }
                    }
                    div.plot {}
                    @if !curve.values.is_empty() {
                        details {
                            summary { "Latest values" }
                            (table(curve.name, false, html! {
                                thead { tr { th scope="col" { "When (UTC)" } th.n scope="col" { "Value" } } }
                                tbody {
                                    @for (at, value) in curve.at.iter().zip(&curve.values).rev().take(LATEST) {
                                        tr { th scope="row" { (date((at * 1e9) as u64)) } td.n { (shown(curve.unit, *value)) } }
                                    }
                                }
                            }))
                        }
                    }
                }
            }
        }
    }
}

/// A log record of severity ERROR or an alarm.
struct Said<'a> {
    unix_nano: u64,
    service: &'a str,
    name: &'a str,
    text: &'a str,
}

fn alarms<'a>(caption: &str, all: impl Iterator<Item = Said<'a>>, now: u64) -> Markup {
    table(
        caption,
        true,
        html! {
            thead { tr {
                th scope="col" { "When" }
                th scope="col" { "Service" }
                th scope="col" { "Event" }
                th scope="col" { "What it says" }
                th scope="col" { "Remedy" }
            } }
            tbody {
                @for said in all {
                    tr {
                        th scope="row" { (when(said.unix_nano, now)) }
                        td data-label="Service" { (said.service) }
                        td.code data-label="Event" { (said.name) }
                        td.wide data-label="What it says" { (said.text) }
                        td data-label="Remedy" {
                            @match attention::remedy(said.name) { "" => "see what raised it", remedy => (remedy) }
                        }
                    }
                }
            }
        },
    )
}

fn drops(row: &Row) -> Markup {
    let dropped = &row.digest.account.dropped_by_reason;
    if dropped.is_empty() {
        return html! { p { "Nothing." } };
    }
    table(
        "Dropped on board",
        true,
        html! {
            thead { tr { th scope="col" { "Reason" } th scope="col" { "Items" } } }
            tbody {
                @for (reason, of) in dropped {
                    tr {
                        th scope="row" { (reason.replace('_', " ")) }
                        td data-label="Items" { (items(*of)) }
                    }
                }
            }
        },
    )
}

fn agent(row: &Row, portrait: &Portrait, now: u64) -> Markup {
    let digest = &row.digest;
    let agent = digest.standing.agent.as_ref();
    let forecast = digest.standing.forecast.as_ref();
    let of_forecast = |name: &str| forecast.and_then(|forecast| forecast[name].as_u64());
    let cpu = agent.and_then(|a| a.cpu_seconds.zip(a.running_seconds));
    html! {
        p.soft { "As it said in its last contact." }
        dl.facts {
            (fact("Software", html! { @if digest.software.is_empty() { "unknown" } @else { (digest.software) } }))
            (fact("Configuration", html! {
                span.code { (agent.and_then(|a| a.configuration.clone()).unwrap_or_else(|| "unknown".to_owned())) }
            }))
            (fact("Running for", html! {
                @match agent.and_then(|a| a.running_seconds) { Some(s) => (span((s * 1e9) as u64)), None => "unknown" }
            }))
            (fact("CPU", html! {
                @match cpu {
                    Some((cpu, running)) if running > 0.0 => {
                        (seconds(cpu)) ", " (format!("{:.1} % of a core", cpu / running * 100.0))
                    },
                    _ => "unknown",
                }
            }))
            (fact("Memory", html! {
                @match agent.and_then(|a| a.resident_bytes.zip(a.memory_limit_bytes)) {
                    Some((resident, most)) => { (bytes(resident)) " of " (bytes(most)) },
                    None => "unknown",
                }
            }))
            (fact("Store", html! {
                @match of_forecast("stored_bytes").zip(of_forecast("max_bytes")) {
                    Some((stored, most)) => {
                        (bytes(stored)) " of " (bytes(most)) " " (bar(stored as f64 / most.max(1) as f64, "of the store"))
                    },
                    None => "unknown",
                }
            }))
            (fact("Clock", html! {
                @match &row.digest.standing.clock {
                    Some(clock) => {
                        (shown_offset(clock.offset_seconds, clock.error_seconds))
                        @if let Some([drift, error]) = clock.drift_ppm { (format!(", {drift:+.1} ± {error:.1} ppm")) }
                        @if !clock.untrusted.is_empty() { ", not trusted" }
                    },
                    None => "unknown",
                }
            }))
            (fact("Certificate ends", html! {
                @match agent.and_then(|a| a.certificate_end_unix_nano) {
                    Some(end) => { (date(end)) " (" (when(end, now)) ")" },
                    None => "unknown",
                }
            }))
            (fact("Plan", html! {
                @match &digest.standing.plan {
                    Some(plan) => {
                        (plan.source)
                        @if let Some(hash) = &plan.hash { ", file " span.code { (hash) } }
                    },
                    None => "unknown",
                }
            }))
            (fact("Lives of its log", html! { (portrait.epochs.len()) }))
        }
    }
}
