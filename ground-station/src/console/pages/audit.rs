//! Audit: who did what.

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use maud::html;

use super::{Page, Pages, message, table};
use crate::console::show::date;

/// Lines that are shown.
const SHOWN: usize = 200;

pub(super) async fn page(State(pages): State<Pages>, uri: Uri) -> Response {
    let deeds = match pages.console.audit.latest(SHOWN).await {
        Ok(deeds) => deeds,
        Err(error) => {
            let text = format!("The audit cannot be read: {error}. Look at the disk.");
            return message(StatusCode::SERVICE_UNAVAILABLE, &text);
        }
    };
    let body = html! {
        @if deeds.is_empty() {
            p { "Nobody has acted here yet." }
        } @else {
            (table("Audit", true, html! {
                caption { "The latest " (SHOWN) "; audit.jsonl beside the spool has all of them" }
                thead { tr {
                    th scope="col" { "When (UTC)" }
                    th scope="col" { "Who" }
                    th scope="col" { "From" }
                    th scope="col" { "What" }
                    th scope="col" { "Result" }
                } }
                tbody {
                    @for deed in &deeds {
                        tr {
                            th scope="row" { (date(deed.unix_nano)) }
                            td data-label="Who" { (deed.who) }
                            td data-label="From" { (deed.from) }
                            td.wide data-label="What" { (deed.what) " " (deed.of) }
                            td data-label="Result" { (deed.result) }
                        }
                    }
                }
            }))
        }
    };
    pages.answer(&uri, async |_| Ok(Page::new("Audit", body))).await
}
