//! Catalogue: what was committed, when, by which pass it came, and which backend has it.

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use maud::{Markup, html};

use super::{Page, Pages, ROWS, message, next, replays, row_id, satellite_link, table};
use crate::console::api::CatalogueQuery;
use crate::console::problem::Asked;
use crate::console::show::{bytes, counted, date, items, seconds, when};
use crate::spool::{CatalogueView, Part, UNDECODABLE};

pub(super) async fn page(
    State(pages): State<Pages>,
    uri: Uri,
    Asked(query): Asked<CatalogueQuery>,
    Asked(done): Asked<replays::Done>,
) -> Response {
    let wanted = match query.wanted() {
        Ok(wanted) => wanted,
        Err(why) => return message(StatusCode::BAD_REQUEST, &format!("{why}.")),
    };
    let access = pages.access;
    pages
        .answer(&uri, async |look| {
            let part = look.glance.catalogue(wanted, ROWS).await?;
            let ranges = look.glance.replays().await?;
            let body = html! {
                (body(&query, &part, look.shown.at))
                h2 #replays { "Replays of a range of time" }
                (replays::section(&ranges, &query, &done, access, &look.shown))
            };
            Ok(Page::new("Catalogue", body))
        })
        .await
}

fn body(query: &CatalogueQuery, part: &Part<CatalogueView>, now: u64) -> Markup {
    let said = |text: &Option<String>| text.clone().unwrap_or_default();
    html! {
        p { "Segments that were committed here, the latest first, also those that have left the spool. " a href="#replays" { "Replays of a range of time" } " are below." }
        form.filter method="get" action="/catalogue" {
            label { "Satellite " input name="satellite" value=(said(&query.satellite)); }
            label { "Service " input name="service" value=(said(&query.service)); }
            label { "Items from (UTC) " input name="from" placeholder="2026-11-26T14:00" value=(said(&query.from)); }
            label { "to (UTC) " input name="until" placeholder="2026-11-26T14:05" value=(said(&query.until)); }
            button { "Show" }
        }
        @if part.rows.is_empty() {
            p {
                @if part.next.is_some() { "Nothing among the segments that were looked at, which are the latest; Older looks further back." }
                @else if query.after.is_some() { "Nothing else of this was committed here, as far as the catalogue reaches back." }
                @else { "Nothing of this was committed here, as far as the catalogue reaches back." }
            }
        } @else {
            (table("Catalogue", true, rows(&part.rows, now, Columns::All)))
        }
        (next(part.next.as_ref().map(|mark| format!("/catalogue{}", query.address(Some(mark))))))
    }
}

/// What a table of segments shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Columns {
    /// Everything.
    All,
    /// Not the times of their items, and not their pass.
    Lately,
    /// Of these, not the satellite either.
    OfOne,
}

/// The head and the lines of a table of segments.
pub(super) fn rows(rows: &[CatalogueView], now: u64, columns: Columns) -> Markup {
    let (whole, of_all) = (columns == Columns::All, columns != Columns::OfOne);
    html! {
        thead { tr {
            th scope="col" { "Committed" }
            @if of_all { th scope="col" { "Satellite" } }
            th scope="col" { "Lane, sequence" }
            th scope="col" { "Items" }
            @if whole {
                th scope="col" { "From (UTC)" }
                th scope="col" { "To (UTC)" }
            }
            th.n scope="col" { "Bytes" }
            th.n scope="col" { "Delay" }
            th scope="col" { "Services" }
            @if whole { th scope="col" { "Pass (UTC)" } }
            th scope="col" { "Backends" }
        } }
        tbody {
            @for row in rows {
                tr id=(row_id("segment", row.number)) {
                    th scope="row" {
                        @if row.committed_unix_nano == 0 { "unknown" } @else { (when(row.committed_unix_nano, now)) }
                    }
                    @if of_all { td data-label="Satellite" { (satellite_link(&row.satellite)) } }
                    td.nowrap data-label="Lane, sequence" { (row.lane) ", " (row.sequence) }
                    td data-label="Items" { (items(row.items)) }
                    @if whole {
                        td data-label="From" { (date(row.start_unix_nano)) }
                        td data-label="To" { (date(row.end_unix_nano)) }
                    }
                    td.n.nowrap data-label="Bytes" { (bytes(row.bytes)) }
                    td.n.nowrap data-label="Delay" { @match row.delay_seconds { Some(s) => (seconds(s)), None => "-" } }
                    td data-label="Services" {
                        @if row.services.is_empty() { "not known" } @else { (row.services.join(", ")) }
                    }
                    @if whole {
                        td data-label="Pass" {
                            @match row.pass_unix_nano { Some(start) => (date(start)), None => "this one or unknown" }
                        }
                    }
                    td data-label="Backends" {
                        @if !row.backends.is_empty() { "In " (row.backends.join(", ")) ". " }
                        @if !row.waits_for.is_empty() { "Waits for " (row.waits_for.join(", ")) ". " }
                        @for (exporter, items) in &row.refused {
                            @if exporter == UNDECODABLE { "It does not decode. " } @else {
                                (exporter) " refused " a href="/data#letters" { (counted(*items, "item", "items")) } ". "
                            }
                        }
                    }
                }
            }
        }
    }
}
