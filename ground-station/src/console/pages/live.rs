//! Live: what arrives now.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use maud::{Markup, html};

use super::catalogue::Columns;
use super::{Page, Pages, fleet, row_id, satellite_link, table};
use crate::console::board::{Row, Shown};
use crate::console::show::{bar, bytes, counted, number, span, when};
use crate::link::LinkView;
use crate::spool::{CatalogueView, PartialDigest, Wanted};

/// Segments that are shown of all satellites, and of one pass.
const LATEST: usize = 25;

/// Segments among which those of a pass are looked for.
const LOOKED_AT: usize = 500;

pub(super) async fn page(State(pages): State<Pages>, uri: Uri) -> Response {
    let board = pages.console.board.clone();
    pages
        .answer(&uri, async |look| {
            let latest = look.glance.catalogue(Wanted::default(), LOOKED_AT).await?.rows;
            Ok(Page::new("Live", body(&look.shown, &board.links().of, &latest)))
        })
        .await
}

fn body(shown: &Shown, links: &BTreeMap<String, LinkView>, latest: &[CatalogueView]) -> Markup {
    let other =
        |row: &&CatalogueView| links.get(&row.satellite).is_none_or(|link| !is_of(row, &row.satellite, link));
    let others: Vec<CatalogueView> = latest.iter().filter(other).take(LATEST).cloned().collect();
    html! {
        @if links.is_empty() {
            p { "No link is up now." }
            @let next = shown.rows.iter().filter_map(|row| Some((row.digest.standing.next_contact.as_ref()?, row)));
            @if let Some((contact, row)) = next.filter(|(c, _)| c.start_unix_nano > shown.at).min_by_key(|(c, _)| c.start_unix_nano) {
                p { "Next: " (satellite_link(&row.digest.satellite)) " over " (contact.station) " " (when(contact.start_unix_nano, shown.at)) "." }
            }
        }
        @for (id, link) in links {
            // One that was never heard before is in the next look.
            @if let Some(row) = shown.rows.iter().find(|row| row.digest.satellite == *id) { (pass(row, link, latest, shown.at)) }
        }
        h2 { @if links.is_empty() { "Committed lately" } @else { "Committed lately in other passes" } }
        @if others.is_empty() {
            p { "Nothing." }
        } @else {
            (table("Committed lately", true, html! { (super::catalogue::rows(&others, shown.at, Columns::Lately)) }))
        }
    }
}

/// Whether a segment was committed in the pass that goes on.
fn is_of(row: &CatalogueView, id: &str, link: &LinkView) -> bool {
    row.satellite == id && row.committed_unix_nano >= link.since_unix_nano
}

/// A segment of which something is here and not all.
struct OnTheWay {
    held: u64,
    payload: u64,
    arrives: bool,
}

/// What is held on disk, with what has come since.
fn on_the_way(partials: &[PartialDigest], link: &LinkView) -> BTreeMap<(u8, u64), OnTheWay> {
    let held = partials.iter().map(|p| {
        ((p.lane, p.sequence), OnTheWay { held: p.held_bytes, payload: p.payload_bytes, arrives: false })
    });
    let mut all: BTreeMap<_, _> = held.collect();
    for arrival in &link.arriving {
        let key = (arrival.lane, arrival.sequence);
        let before = all.get(&key).map_or(0, |segment| segment.held);
        let held = arrival.held_bytes.max(before);
        all.insert(key, OnTheWay { held, payload: arrival.payload_bytes, arrives: true });
    }
    all
}

/// One pass, as it goes.
fn pass(row: &Row, link: &LinkView, latest: &[CatalogueView], now: u64) -> Markup {
    let digest = &row.digest;
    let segments = on_the_way(&digest.partials, link);
    let waits: Option<u64> =
        digest.standing.backlog.as_ref().map(|lanes| lanes.iter().map(|lane| lane.bytes).sum());
    // What is held of parts needs not come again.
    let held: u64 = segments.values().map(|segment| segment.held).sum();
    let left = waits.map(|waits| waits.saturating_sub(held));
    let needs = left.filter(|_| row.bytes_per_second >= 1.0).map(|left| left as f64 / row.bytes_per_second);
    // LOS is by the satellite's clock.
    let offset = row.digest.standing.clock.as_ref().map_or(0.0, |clock| clock.offset_seconds * 1e9) as i64;
    let ends = link.ends_unix_nano.map(|end| end.saturating_add_signed(-offset));
    let came = |row: &&CatalogueView| is_of(row, &digest.satellite, link);
    let came: Vec<CatalogueView> = latest.iter().filter(came).take(LATEST).cloned().collect();
    html! {
        section aria-label=(digest.satellite) id=(row_id("live", &digest.satellite)) {
            h2 { (satellite_link(&digest.satellite)) " over " (digest.station) }
            dl.facts {
                div { dt { "Up since" } dd { (when(link.since_unix_nano, now)) } }
                div { dt { "Came in this pass" } dd { (bytes(link.received_bytes)) } }
                div {
                    dt { "Of it committed" }
                    dd { (counted(link.committed_segments, "segment", "segments")) ", " (counted(link.committed_items, "item", "items")) }
                }
                div { dt { "Arrives" } dd { (bytes(row.bytes_per_second as u64)) "/s" } }
                div { dt { "Waits on board" } dd { (fleet::waits(&digest.standing)) } }
                div { dt { "Round trip" } dd { (format!("{:.0} ms", link.round_trip_seconds * 1e3)) } }
                div { dt { "LOS by its plan" } dd { @match ends { Some(end) => (when(end, now)), None => "it did not say" } } }
                div {
                    dt { "At this rate" }
                    dd { (projection(left, needs, ends, now)) }
                }
            }
            @if !segments.is_empty() {
                (table(&format!("Segments on their way from {}", digest.satellite), true, html! {
                    caption { "Segments on their way" }
                    thead { tr {
                        th scope="col" { "Segment" }
                        th scope="col" { "Held" }
                        th scope="col" { "Of" }
                        th scope="col" { "Progress" }
                        th scope="col" { "State" }
                    } }
                    tbody {
                        @for ((lane, sequence), segment) in &segments {
                            tr id=(row_id("arrives", format_args!("{}-{lane}-{sequence}", digest.satellite))) {
                                th scope="row" { "lane " (lane) ", " (number(*sequence)) }
                                td data-label="Held" { (bytes(segment.held)) }
                                td data-label="Of" { (bytes(segment.payload)) }
                                td data-label="Progress" {
                                    (bar(segment.held as f64 / segment.payload.max(1) as f64, "of the segment"))
                                }
                                td data-label="State" { @if segment.arrives { "arrives" } @else { "waits for the rest" } }
                            }
                        }
                    }
                }))
            }
            @if !came.is_empty() {
                h3 { "Committed in this pass" }
                (table(&format!("Committed in this pass of {}", digest.satellite), true, html! { (super::catalogue::rows(&came, now, Columns::OfOne)) }))
                @if link.committed_segments > came.len() as u64 {
                    p.soft { "These are the latest of " (number(link.committed_segments)) "." }
                }
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
    use crate::link::ArrivalView;

    #[test]
    fn what_is_on_disk_and_what_has_come_since_is_one_row_for_each_segment() {
        let partial =
            |sequence, held_bytes| PartialDigest { lane: 8, sequence, held_bytes, payload_bytes: 100 };
        let arrival =
            |sequence, held_bytes| ArrivalView { lane: 8, sequence, held_bytes, payload_bytes: 100 };
        let link = LinkView {
            contacts: 1,
            since_unix_nano: 0,
            ends_unix_nano: None,
            round_trip_seconds: 0.0,
            received_bytes: 0,
            committed_segments: 0,
            committed_items: 0,
            arriving: vec![arrival(1, 70), arrival(3, 5)],
        };
        let rows = on_the_way(&[partial(1, 40), partial(2, 60)], &link);
        let rows: Vec<_> = rows.into_iter().map(|((_, n), s)| (n, s.held, s.arrives)).collect();
        assert_eq!(rows, [(1, 70, true), (2, 60, false), (3, 5, true)]);
    }

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
