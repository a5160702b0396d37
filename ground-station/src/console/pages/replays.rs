//! Replays of ranges of time: how far each has come, and the forms that begin and end one.

use maud::{Markup, html};
use serde::Deserialize;

use super::{data, row_id, satellite_link, table};
use crate::console::api::CatalogueQuery;
use crate::console::attention::Level;
use crate::console::board::Shown;
use crate::console::roles::Access;
use crate::console::show::{bar, counted, date, items, number, when};
use crate::spool::ReplayView;

/// Replays that are shown.
const SHOWN: usize = 20;

/// What was done on the page before.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Done {
    done: String,
}

/// Replays, and the form for one more, filled in with what the catalogue is asked for.
pub(super) fn section(
    ranges: &[ReplayView],
    query: &CatalogueQuery,
    Done { done }: &Done,
    access: Access,
    shown: &Shown,
) -> Markup {
    html! {
        @if let Some((what, id)) = done.split_once('-') {
            p role="status" {
                (Level::Fine.badge()) " Replay "
                @match id.parse::<u64>() { Ok(id) => (id), Err(_) => "unknown" }
                @if what == "begun" { " has begun" } @else { " has ended" }
                ". It is in the " a href="/audit" { "audit" } "."
            }
        }
        p {
            "What was committed of a range of time is sent to one exporter again, as far as it is kept. "
            "The backend may get items that it has already."
            @if !access.acts {
                " Nobody may begin one here: set extensions.console.act_tokens_file, or use "
                span.code { "ground-station spool replay" } " on the station."
            }
        }
        @if access.acts { (begin(query, access, shown)) }
        @if ranges.is_empty() {
            p { "None was ever asked for, or those that were are no longer listed." }
        } @else {
            (table("Replays", true, html! {
                thead { tr {
                    th scope="col" { "Number" }
                    th scope="col" { "Asked for" }
                    th scope="col" { "Exporter" }
                    th scope="col" { "Satellite" }
                    th scope="col" { "Items from, to (UTC)" }
                    th scope="col" { "Segments" }
                    th scope="col" { "Items taken" }
                    th scope="col" { "State" }
                    @if access.acts { th scope="col" { "Act" } }
                } }
                tbody { @for range in ranges.iter().take(SHOWN) { (line(range, access, shown.at)) } }
            }))
        }
    }
}

fn begin(query: &CatalogueQuery, access: Access, shown: &Shown) -> Markup {
    let said = |text: &Option<String>| text.clone().unwrap_or_default();
    html! {
        details {
            summary { "Send a range again" }
            form.act method="post" action="/catalogue/replay" {
                label {
                    "To exporter "
                    select name="exporter" required {
                        @for backend in &shown.backends { option { (backend.digest.name) } }
                    }
                }
                label { "Of satellite (empty: all) " input name="satellite" value=(said(&query.satellite)); }
                label { "Items from (UTC) " input name="from" required placeholder="2026-11-26T14:00" value=(said(&query.from)); }
                label { "to (UTC) " input name="until" required placeholder="2026-11-26T14:05" value=(said(&query.until)); }
                (data::token(access))
                button { "Send again" }
            }
        }
    }
}

fn line(range: &ReplayView, access: Access, now: u64) -> Markup {
    let id = range.id.to_string();
    let runs = range.ended_unix_nano.is_none();
    let level = if runs { Level::Note } else { Level::Fine };
    let gone = range.missing_segments + range.unusable_segments;
    let part = range.segments as f64 / range.total_segments.max(1) as f64;
    html! {
        tr id=(row_id("replay", &id)) {
            th scope="row" { (id) }
            td data-label="Asked for" { (when(range.asked_unix_nano, now)) }
            td data-label="Exporter" { (range.exporter) }
            td data-label="Satellite" { @match &range.satellite { Some(id) => (satellite_link(id)), None => "all" } }
            td data-label="Items from, to" {
                @match range.from_unix_nano { Some(from) => (date(from)), None => "the first" } ", "
                @match range.until_unix_nano { Some(until) => (date(until)), None => "the last" }
            }
            td data-label="Segments" {
                (number(range.segments)) " of " (number(range.total_segments))
                @if runs { " " (bar(part, "of its segments")) }
                @if gone > 0 { ", " (counted(gone, "is", "are")) " not kept" }
            }
            td data-label="Items taken" {
                (items(range.items))
                @if range.refused.total() > 0 { ", refused: " (items(range.refused)) }
            }
            td data-label="State" {
                span class=(format!("badge {}", level.word())) { (range.state) } " "
                @if let Some(ended) = range.ended_unix_nano { (when(ended, now)) }
            }
            @if access.acts {
                td data-label="Act" {
                    @if runs {
                        details {
                            summary { "End " (id) }
                            form.act method="post" action="/catalogue/replay/end" {
                                input type="hidden" name="id" value=(id);
                                (data::token(access))
                                button { "End this replay" }
                            }
                        }
                    } @else { "-" }
                }
            }
        }
    }
}
