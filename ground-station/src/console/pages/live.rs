//! Live: what arrives now.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use maud::{Markup, html};

use super::{Page, Pages, fleet, satellite_link, table};
use crate::console::board::{Row, Shown};
use crate::console::show::{bar, bytes, number, span, when};
use crate::spool::{CatalogueView, Wanted};

/// Segments that are shown.
const LATEST: usize = 25;

pub(super) async fn page(State(pages): State<Pages>, uri: Uri) -> Response {
    pages
        .answer(&uri, async |look| {
            let latest = look.glance.catalogue(Wanted::default(), LATEST).await?.rows;
            Ok(Page::new("Live", body(&look.shown, &latest)))
        })
        .await
}

fn body(shown: &Shown, latest: &[CatalogueView]) -> Markup {
    let up: Vec<&Row> = shown.rows.iter().filter(|row| row.digest.connected).collect();
    html! {
        @if up.is_empty() {
            p { "No link is up now." }
            @let next = shown.rows.iter().filter_map(|row| Some((row.digest.standing.next_contact.as_ref()?, row)));
            @if let Some((contact, row)) = next.filter(|(c, _)| c.start_unix_nano > shown.at).min_by_key(|(c, _)| c.start_unix_nano) {
                p { "Next: " (satellite_link(&row.digest.satellite)) " over " (contact.station) " " (when(contact.start_unix_nano, shown.at)) "." }
            }
        }
        @for row in up { (link(row, shown.at)) }
        h2 { "Committed lately" }
        @if latest.is_empty() {
            p { "Nothing yet." }
        } @else {
            (table("Committed lately", true, html! { (super::catalogue::rows(latest, shown.at, false)) }))
        }
    }
}

fn link(row: &Row, now: u64) -> Markup {
    let digest = &row.digest;
    let waits: Option<u64> =
        digest.standing.backlog.as_ref().map(|lanes| lanes.iter().map(|lane| lane.bytes).sum());
    // What is held of parts needs not come again.
    let held: u64 = digest.partials.iter().map(|partial| partial.held_bytes).sum();
    let left = waits.map(|waits| waits.saturating_sub(held));
    let needs = left.filter(|_| row.bytes_per_second >= 1.0).map(|left| left as f64 / row.bytes_per_second);
    // LOS is by the satellite's clock.
    let offset = row.clock.as_ref().map_or(0.0, |clock| clock.offset_seconds * 1e9) as i64;
    let ends =
        row.link.as_ref().and_then(|link| link.ends_unix_nano).map(|end| end.saturating_add_signed(-offset));
    html! {
        section aria-label=(digest.satellite) data-key=(digest.satellite) {
            h2 { (satellite_link(&digest.satellite)) " over " (digest.station) }
            dl.facts {
                div { dt { "Up since" } dd { @match &row.link { Some(link) => (when(link.since_unix_nano, now)), None => "now" } } }
                div { dt { "Arrives" } dd { (bytes(row.bytes_per_second as u64)) "/s" } }
                div { dt { "Waits on board" } dd { (fleet::waits(&digest.standing)) } }
                div { dt { "Round trip" } dd { @match &row.link { Some(link) => { (format!("{:.0} ms", link.round_trip_seconds * 1e3)) }, None => "unknown" } } }
                div { dt { "LOS by its plan" } dd { @match ends { Some(end) => (when(end, now)), None => "it did not say" } } }
                div {
                    dt { "At this rate" }
                    dd { (projection(left, needs, ends, now)) }
                }
            }
            @if !digest.partials.is_empty() {
                (table("Segments on their way", true, html! {
                    caption { "Segments on their way" }
                    thead { tr {
                        th scope="col" { "Lane" }
                        th scope="col" { "Sequence" }
                        th scope="col" { "Held" }
                        th scope="col" { "Of" }
                        th scope="col" { "Progress" }
                    } }
                    tbody {
                        @for partial in &digest.partials {
                            tr data-key=(format!("{}-{}", partial.lane, partial.sequence)) {
                                th scope="row" { "lane " (partial.lane) }
                                td data-label="Sequence" { (number(partial.sequence)) }
                                td data-label="Held" { (bytes(partial.held_bytes)) }
                                td data-label="Of" { (bytes(partial.payload_bytes)) }
                                td data-label="Progress" {
                                    (bar(partial.held_bytes as f64 / partial.payload_bytes.max(1) as f64, "of the segment"))
                                }
                            }
                        }
                    }
                }))
            }
        }
    }
}

/// When everything will be here at the present rate, and whether that is before LOS.
fn projection(left: Option<u64>, needs: Option<f64>, ends: Option<u64>, now: u64) -> String {
    match (left, needs) {
        (None, _) => "its agent does not say what waits".to_owned(),
        (Some(0), _) => "everything is here".to_owned(),
        (Some(_), None) => "nothing arrives now".to_owned(),
        (Some(left), Some(needs)) => {
            let end = span((needs * 1e9) as u64);
            let usable = ends.map(|end| end.saturating_sub(now) as f64 / 1e9);
            match usable {
                Some(usable) if usable < needs => {
                    let part = (left as f64 * (1.0 - usable / needs)) as u64;
                    format!("{} will be left at LOS: it would take {end}", bytes(part))
                }
                Some(_) => format!("everything is here in about {end}, before LOS"),
                None => format!("everything is here in about {end}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_projection_compares_the_rate_with_los_and_does_not_invent_one() {
        const S: u64 = 1_000_000_000;
        let now = 1_000 * S;
        assert_eq!(projection(None, None, None, now), "its agent does not say what waits");
        assert_eq!(projection(Some(0), None, Some(now), now), "everything is here");
        assert_eq!(projection(Some(9), None, Some(now), now), "nothing arrives now");
        let of = |ends| projection(Some(1 << 20), Some(100.0), ends, now);
        assert_eq!(of(None), "everything is here in about 2 min");
        assert_eq!(of(Some(now + 200 * S)), "everything is here in about 2 min, before LOS");
        assert_eq!(of(Some(now + 50 * S)), "512.0 KiB will be left at LOS: it would take 2 min");
    }
}
