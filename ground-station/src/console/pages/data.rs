//! Data: the spool, the exporters, dead letters, and the latest items.

use std::ops::RangeInclusive;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use super::{Page, Pages, message, next, row_id, satellite_link, table};
use crate::console::api;
use crate::console::attention::{self, Level};
use crate::console::board::{Backend, Shown};
use crate::console::problem::Asked;
use crate::console::roles::Access;
use crate::console::show::{bar, bytes, counted, date, number, severity, span, when};
use crate::spool::{ItemView, LetterView, Part, SpoolView};

/// Dead letters on one page.
const LETTERS: usize = 50;

/// Items on one page.
const ITEMS: usize = 100;

/// What of the latest items is wanted, and which dead letters.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wanted {
    satellite: String,
    service: String,
    signal: String,
    severity: String,
    find: String,
    from: String,
    until: String,
    after: String,
    done: String,
}

impl Wanted {
    /// Which times items may have.
    fn times(&self) -> Result<RangeInclusive<u64>, String> {
        let time = |name: &str, text: &str, none: u64| match text {
            "" => Ok(none),
            text => api::time(name, text),
        };
        Ok(time("from", &self.from, 0)?..=time("until", &self.until, u64::MAX)?)
    }

    /// Behind which dead letter the list goes on.
    fn after(&self) -> Result<Option<u64>, String> {
        let read =
            |text: &str| text.parse().map_err(|_| "`after` is not a number of the part before".to_owned());
        Some(self.after.as_str()).filter(|text| !text.is_empty()).map(read).transpose()
    }
}

pub(super) async fn page(State(pages): State<Pages>, uri: Uri, Asked(wanted): Asked<Wanted>) -> Response {
    let (board, access) = (pages.console.board.clone(), pages.access);
    let (times, after) = match (wanted.times(), wanted.after()) {
        (Ok(times), Ok(after)) => (times, after),
        (Err(why), _) | (_, Err(why)) => return message(StatusCode::BAD_REQUEST, &format!("{why}.")),
    };
    pages
        .answer(&uri, async |look| {
            let letters = look.glance.letters(after, LETTERS).await?;
            let items = board.items(&look).await?;
            let body = html! {
                h2 { "Spool" }
                (spool(&look.shown.spool))
                h2 { "Exporters" }
                (exporters(&look.shown))
                h2 #letters { "Dead letters" }
                (dead_letters(&letters, &wanted, access, &look.shown))
                h2 #certificates { "Certificates" }
                (certificates(&look.shown))
                h2 #items { "Latest items" }
                (latest(&items, &wanted, &times, look.shown.at))
            };
            Ok(Page::new("Data", body))
        })
        .await
}

fn spool(spool: &SpoolView) -> Markup {
    html! {
        dl.facts {
            div {
                dt { "Used" }
                dd {
                    (bytes(spool.used_bytes)) " of " (bytes(spool.max_bytes)) " "
                    (bar(spool.used_bytes as f64 / spool.max_bytes.max(1) as f64, "of the spool"))
                }
            }
            div { dt { "Segments to export" } dd { (number(spool.segments)) } }
            div { dt { "Kept to decode others" } dd { (number(spool.bases)) ", " (bytes(spool.base_bytes)) } }
            div { dt { "File" } dd { (bytes(spool.file_bytes)) } }
            div {
                dt { "Scrub" }
                dd {
                    (number(spool.scrub.checked)) " checked, " (number(spool.scrub.damaged)) " damaged, "
                    (number(spool.scrub.rounds)) " rounds"
                }
            }
            div { dt { "Ledger" } dd.code { (spool.ledger) } }
        }
    }
}

fn exporters(shown: &Shown) -> Markup {
    let state = |backend: &Backend| match &backend.trouble {
        Some(trouble) if trouble.misconfigured => (Level::Alarm, "is refused"),
        Some(_) => (Level::Warning, "does not get through"),
        None if backend.digest.waiting_segments > 0 => (Level::Note, "sends"),
        None => (Level::Fine, "has nothing to send"),
    };
    html! {
        (table("Exporters", true, html! {
            thead { tr {
                th scope="col" { "Exporter" }
                th scope="col" { "State" }
                th scope="col" { "Signals" }
                th.n scope="col" { "Waits" }
                th scope="col" { "Oldest" }
                th.n scope="col" { "Items/s" }
                th.n scope="col" { "Items since the start" }
                th scope="col" { "Last error" }
            } }
            tbody {
                @for backend in &shown.backends {
                    @let digest = &backend.digest;
                    @let (level, word) = state(backend);
                    tr id=(row_id("exporter", &digest.name)) {
                        th scope="row" { (digest.name) }
                        td data-label="State" { span class=(format!("badge {}", level.word())) { (word) } }
                        td data-label="Signals" { (digest.signals.join(", ")) }
                        td.n.nowrap data-label="Waits" {
                            @if digest.and_more { "more than " }
                            (counted(digest.waiting_segments, "segment", "segments")) ", " (bytes(digest.waiting_bytes))
                        }
                        td data-label="Oldest" {
                            @match digest.oldest_unix_nano { Some(oldest) => (when(oldest, shown.at)), None => "-" }
                        }
                        td.n data-label="Items/s" { (number(backend.items_per_second as u64)) }
                        td.n data-label="Items since the start" { (number(backend.sent_items)) }
                        td.wide data-label="Last error" {
                            @match &backend.trouble {
                                Some(trouble) => {
                                    (trouble.reason) " (tried " (when(trouble.last_unix_nano, shown.at)) ", for "
                                    (span(trouble.last_unix_nano.saturating_sub(trouble.since_unix_nano))) ")"
                                },
                                None => "none",
                            }
                        }
                    }
                }
            }
        }))
        @if let Some(note) = shown.notes.iter().find(|note| note.text.starts_with("exporter ")) {
            (attention::list(std::slice::from_ref(note)))
        }
    }
}

/// When certificates end: this station's, and those of satellites that end first.
fn certificates(shown: &Shown) -> Markup {
    /// Satellites that are shown.
    const SATELLITES: usize = 20;
    let own = shown.certificates.iter().map(|(whose, end)| (html! { (whose) }, *whose, *end));
    let mut satellites: Vec<_> = shown
        .rows
        .iter()
        .filter_map(|row| {
            Some((row.digest.standing.agent.as_ref()?.certificate_end_unix_nano?, &row.digest.satellite))
        })
        .collect();
    satellites.sort();
    let more = satellites.len().saturating_sub(SATELLITES);
    let of_satellites = satellites.iter().take(SATELLITES);
    let of_satellites =
        of_satellites.map(|(end, id)| (html! { "that of " (satellite_link(id)) }, id.as_str(), *end));
    let all: Vec<_> = own.chain(of_satellites).collect();
    html! {
        @if all.is_empty() {
            p { "No certificate is known." }
        } @else {
            (table("Certificates", true, html! {
                thead { tr {
                    th scope="col" { "Certificate" }
                    th scope="col" { "Ends (UTC)" }
                    th scope="col" { "In" }
                    th scope="col" { "State" }
                } }
                tbody {
                    @for (whose, key, end) in &all {
                        @let level = attention::certificate("it", *end, shown.at).map_or(Level::Fine, |note| note.level);
                        tr id=(row_id("certificate", key)) {
                            th scope="row" { (whose) }
                            td data-label="Ends" { (date(*end)) }
                            td data-label="In" { (when(*end, shown.at)) }
                            td data-label="State" { (level.badge()) }
                        }
                    }
                }
            }))
            @if more > 0 { p { "And those of " (counted(more as u64, "satellite", "satellites")) " that end later." } }
        }
    }
}

/// The field for a token, where one is needed.
pub(super) fn token(access: Access) -> Markup {
    html! {
        @if access.act_tokens {
            label { "Token to act " input type="password" name="token" autocomplete="current-password"; }
        }
    }
}

/// A button with its fields, which does one thing.
fn act(what: &str, text: &str, fields: &[(&str, &str)], access: Access) -> Markup {
    html! {
        form.act method="post" action="/data/act" {
            input type="hidden" name="what" value=(what);
            @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
            (token(access))
            button { (text) }
        }
    }
}

fn dead_letters(part: &Part<LetterView>, wanted: &Wanted, access: Access, shown: &Shown) -> Markup {
    html! {
        @if let Some((what, done)) = wanted.done.split_once('-') {
            p role="status" {
                (Level::Fine.badge()) " "
                @if what == "discard" { "Discarded: " } @else { "Sent again: " }
                @match done.parse::<u64>() { Ok(done) => (number(done)), Err(_) => "unknown" }
                ". It is in the " a href="/audit" { "audit" } "."
            }
        }
        @if part.rows.is_empty() {
            p { (Level::Fine.badge()) " No backend has refused anything that is still kept." }
        } @else {
            p {
                (counted(shown.spool.dead_letters, "request or segment", "requests or segments")) " that no backend takes. Mend what the backend complains of, "
                "then send them again."
                @if !access.acts {
                    " Nobody may do that here: set extensions.console.act_tokens_file, or use "
                    span.code { "ground-station spool replay" } " on the station."
                }
            }
            @if access.acts {
                details { summary { "Send all of them again" } (act("replay", "Send all again", &[("all", "all")], access)) }
            }
            (table("Dead letters", true, html! {
                thead { tr {
                    th scope="col" { "Number" }
                    th scope="col" { "Since (UTC)" }
                    th scope="col" { "Exporter" }
                    th scope="col" { "Satellite" }
                    th scope="col" { "What" }
                    th scope="col" { "The backend's words" }
                    @if access.acts { th scope="col" { "Act" } }
                } }
                tbody { @for letter in &part.rows { (letter_line(letter, access)) } }
            }))
            (next(part.next.as_ref().map(|mark| format!("/data?after={mark}#letters"))))
        }
    }
}

fn letter_line(letter: &LetterView, access: Access) -> Markup {
    let id = letter.id.to_string();
    let exporter = letter.exporter.as_deref().unwrap_or("");
    let kind = [("exporter", exporter), ("reason", letter.reason.as_str())];
    html! {
        tr id=(row_id("letter", &id)) {
            th scope="row" { (id) }
            td data-label="Since" { (date(letter.unix_nano)) }
            td data-label="Exporter" { @if exporter.is_empty() { "does not decode" } @else { (exporter) } }
            td data-label="Satellite" { (satellite_link(&letter.satellite)) }
            td data-label="What" {
                (counted(letter.items, "item", "items")) " of " (letter.signal.unwrap_or("all signals")) ", " (bytes(letter.bytes))
                @if letter.replay { " (is sent again)" }
            }
            td.wide data-label="The backend's words" { (letter.reason) }
            @if access.acts {
                td data-label="Act" {
                    details {
                        summary { "Act on " (id) }
                        (act("replay", "Send this one again", &[("id", &id)], access))
                        (act("replay", "Send all of this kind again", &kind, access))
                        (act("discard", "Discard this one", &[("id", &id)], access))
                        (act("discard", "Discard all of this kind", &kind, access))
                    }
                }
            }
        }
    }
}

fn latest(items: &[ItemView], wanted: &Wanted, times: &RangeInclusive<u64>, now: u64) -> Markup {
    let least = wanted.severity.parse::<u32>().unwrap_or(0);
    let is = |filter: &String, text: &str| filter.is_empty() || filter == text;
    let found = items.iter().filter(|item| {
        is(&wanted.satellite, &item.satellite)
            && is(&wanted.service, &item.service)
            && is(&wanted.signal, item.signal)
            && item.severity >= least
            && times.contains(&item.unix_nano)
            && (wanted.find.is_empty()
                || item.text.contains(&wanted.find)
                || item.name.contains(&wanted.find))
    });
    let found: Vec<&ItemView> = found.take(ITEMS).collect();
    let choices = [("", "all"), ("9", "info and above"), ("13", "warn and above"), ("17", "error and above")];
    let signals = ["", "traces", "metrics", "logs"];
    html! {
        p {
            "Decoded from the last segments that were committed, the latest first. They are gone from here once newer ones have come; "
            "the backends have all of them."
        }
        form.filter method="get" action="/data#items" {
            label { "Satellite " input name="satellite" value=(wanted.satellite); }
            label { "Service " input name="service" value=(wanted.service); }
            label { "Signal "
                select name="signal" {
                    @for signal in signals {
                        option value=(signal) selected[signal == wanted.signal] { (if signal.is_empty() { "all" } else { signal }) }
                    }
                }
            }
            label { "Severity "
                select name="severity" {
                    @for (value, text) in choices { option value=(value) selected[value == wanted.severity] { (text) } }
                }
            }
            label { "From (UTC) " input name="from" placeholder="2026-11-26T14:00" value=(wanted.from); }
            label { "to (UTC) " input name="until" placeholder="2026-11-26T14:05" value=(wanted.until); }
            label { "Text " input type="search" name="find" value=(wanted.find); }
            button { "Show" }
        }
        @if found.is_empty() {
            p { "None of the latest items is like that." }
        } @else {
            (table("Latest items", true, html! {
                thead { tr {
                    th scope="col" { "Time" }
                    th scope="col" { "Satellite" }
                    th scope="col" { "Service" }
                    th scope="col" { "Signal" }
                    th scope="col" { "Name" }
                    th scope="col" { "What it says" }
                } }
                tbody {
                    @for item in found {
                        tr {
                            th scope="row" { (when(item.unix_nano, now)) }
                            td data-label="Satellite" { (satellite_link(&item.satellite)) }
                            td data-label="Service" { (item.service) }
                            td.nowrap data-label="Signal" { (item.signal) " " (severity(item.severity)) }
                            td.code data-label="Name" { (item.name) }
                            td.wide data-label="What it says" { (item.text) }
                        }
                    }
                }
            }))
        }
    }
}
