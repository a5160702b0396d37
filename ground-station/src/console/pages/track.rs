//! The ground track of a pass: its moments as a table, the station's sky as a drawing, and the track on a map that a script draws.

use maud::{Markup, html};

use super::{row_id, table};
use crate::console::assets::at;
use crate::console::board::Drawn;
use crate::console::show::{date, encoded, when};
use crate::console::track::Track;

/// The radius of the sky, and where its middle is.
const RADIUS: f64 = 110.0;
const MIDDLE: f64 = 130.0;

/// The track, or why there is none.
pub(super) fn section(satellite: &str, drawn: &Drawn, now: u64) -> Markup {
    match &**drawn {
        Ok(track) => whole(satellite, track, now),
        Err(why) => html! { p { "There is none: " (why) "." } },
    }
}

fn whole(satellite: &str, track: &Track, now: u64) -> Markup {
    let moments = [("Rise", Some(track.rise)), ("Highest", Some(track.culmination)), ("Set", track.set)];
    let until = track.until() / 1_000_000;
    html! {
        p {
            (track.name) " over " (track.station) ", from elements of " (when(track.epoch_unix_nano, now)) "."
            @if track.set.is_none() { " This station always sees it; a day is drawn." }
        }
        (table("Moments of the pass", true, html! {
            thead { tr {
                th scope="col" { "Moment" }
                th scope="col" { "When" }
                th scope="col" { "UTC" }
                th.n scope="col" { "Azimuth" }
                th.n scope="col" { "Elevation" }
            } }
            tbody {
                @for (name, moment) in moments {
                    @if let Some(moment) = moment {
                        tr id=(row_id("moment", name)) {
                            th scope="row" { (name) }
                            td data-label="When" { (when(moment.unix_nano, now)) }
                            td data-label="UTC" { (date(moment.unix_nano)) }
                            td.n data-label="Azimuth" { (format!("{:.1}°", moment.azimuth)) }
                            td.n data-label="Elevation" { (format!("{:.1}°", moment.elevation)) }
                        }
                    }
                }
            }
        }))
        div.tracks {
            figure id=(row_id("sky", satellite)) {
                figcaption { "The sky over " (track.station) }
                (sky(track))
            }
            figure id=(row_id("map", format_args!("{satellite} {until}"))) data-track=(format!("/api/v1/satellites/{}/track", encoded(satellite)))
                data-land=(at!("land.json")) {
                figcaption { "What lies below, ± 10 min" }
                div.plot {}
                noscript { p { "The map needs scripts. Each point is in " a href=(format!("/api/v1/satellites/{}/track", encoded(satellite))) { "the API" } "." } }
            }
        }
        p.soft {
            "The line around a station is where the satellite stands on the station's mask. Drawn by "
            a href=(at!("d3-geo.txt")) { "d3-geo" } " with the land of " a href=(at!("land.txt")) { "world-atlas" } "."
        }
    }
}

/// A place in the sky on the drawing: the zenith in the middle, north above, east on the right.
fn place([azimuth, elevation]: [f64; 2]) -> (f64, f64) {
    let (sin, cos) = azimuth.to_radians().sin_cos();
    let away = (90.0 - elevation.clamp(0.0, 90.0)) / 90.0 * RADIUS;
    (MIDDLE + away * sin, MIDDLE - away * cos)
}

fn line(places: impl Iterator<Item = [f64; 2]>) -> String {
    let shown = places.map(|at| {
        let (x, y) = place(at);
        format!("{x:.1},{y:.1}")
    });
    shown.collect::<Vec<_>>().join(" ")
}

fn sky(track: &Track) -> Markup {
    let apart = 360.0 / track.mask.len().max(1) as f64;
    let mask = line(track.mask.iter().enumerate().map(|(n, elevation)| [n as f64 * apart, *elevation]));
    let moments =
        [Some(("rise", track.rise)), Some(("highest", track.culmination)), track.set.map(|set| ("set", set))];
    let label = format!(
        "The pass over {}: it rises at azimuth {:.0}°, is highest at {:.0}°, elevation {:.0}°",
        track.station, track.rise.azimuth, track.culmination.azimuth, track.culmination.elevation
    );
    html! {
        svg.sky viewBox="0 0 260 260" role="img" aria-label=(label) {
            @for elevation in [0.0, 30.0, 60.0] {
                circle.axis cx=(MIDDLE) cy=(MIDDLE) r=(format!("{:.1}", (90.0 - elevation) / 90.0 * RADIUS)) {}
            }
            line.axis x1="20" x2="240" y1="130" y2="130" {}
            line.axis x1="130" x2="130" y1="20" y2="240" {}
            polygon.mask points=(mask) {}
            polyline.pass points=(line(track.sky.iter().copied())) {}
            @for (name, moment) in moments.into_iter().flatten() {
                @let (x, y) = place([moment.azimuth, moment.elevation]);
                circle.fact cx=(format!("{x:.1}")) cy=(format!("{y:.1}")) r="3.5" {}
                text x=(format!("{:.1}", x + if x > 190.0 { -6.0 } else { 6.0 })) y=(format!("{:.1}", y - 5.0))
                    text-anchor=(if x > 190.0 { "end" } else { "start" }) { (name) }
            }
            text x="130" y="14" text-anchor="middle" { "N" }
            text x="248" y="134" text-anchor="middle" { "E" }
            text x="130" y="254" text-anchor="middle" { "S" }
            text x="12" y="134" text-anchor="middle" { "W" }
        }
    }
}
