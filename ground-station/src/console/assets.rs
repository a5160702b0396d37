//! What a page needs beside itself, in the program: no address of another machine is in any page.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

/// An asset: its name behind the version, its kind, and what is in it.
struct Asset(&'static str, &'static str, &'static str);

const JS: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// Everything. What is of others is as it is in their packages of npm; each licence is served beside it:
///
/// - htmx 2.0.11, its extension for server-sent events 2.2.4, and idiomorph 0.8.0 with its extension for htmx, by Big Sky Software, 0BSD
/// - uPlot 1.6.32 by Leon Sorokin, MIT
/// - d3-geo 3.1.2 and d3-array 3.2.5 by Mike Bostock, ISC (d3-geo also MIT, of GeographicLib)
/// - topojson-client 3.1.0 by Mike Bostock, ISC
/// - the land of world-atlas 2.0.2 by Mike Bostock, ISC; made from Natural Earth, public domain
const ASSETS: [Asset; 22] = [
    Asset("console.css", CSS, include_str!("assets/console.css")),
    Asset("console.js", JS, include_str!("assets/console.js")),
    Asset("curves.js", JS, include_str!("assets/curves.js")),
    Asset("track.js", JS, include_str!("assets/track.js")),
    Asset("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
    Asset("htmx.js", JS, include_str!("assets/htmx/htmx.min.js")),
    Asset("htmx.txt", TEXT, include_str!("assets/htmx/LICENSE")),
    Asset("htmx-sse.js", JS, include_str!("assets/htmx-sse/sse.min.js")),
    Asset("htmx-sse.txt", TEXT, include_str!("assets/htmx-sse/LICENSE")),
    Asset("idiomorph.js", JS, include_str!("assets/idiomorph/idiomorph-ext.min.js")),
    Asset("idiomorph.txt", TEXT, include_str!("assets/idiomorph/LICENSE")),
    Asset("uplot.js", JS, include_str!("assets/uplot/uPlot.iife.min.js")),
    Asset("uplot.css", CSS, include_str!("assets/uplot/uPlot.min.css")),
    Asset("uplot.txt", TEXT, include_str!("assets/uplot/LICENSE")),
    Asset("d3-array.js", JS, include_str!("assets/d3-array/d3-array.min.js")),
    Asset("d3-array.txt", TEXT, include_str!("assets/d3-array/LICENSE")),
    Asset("d3-geo.js", JS, include_str!("assets/d3-geo/d3-geo.min.js")),
    Asset("d3-geo.txt", TEXT, include_str!("assets/d3-geo/LICENSE")),
    Asset("topojson.js", JS, include_str!("assets/topojson/topojson-client.min.js")),
    Asset("topojson.txt", TEXT, include_str!("assets/topojson/LICENSE")),
    Asset("land.json", "application/json", include_str!("assets/world-atlas/land-110m.json")),
    Asset("land.txt", TEXT, include_str!("assets/world-atlas/LICENSE")),
];

/// Where an asset is: its name with the version of the program, so that a browser may keep it.
macro_rules! at {
    ($name:literal) => {
        concat!("/assets/", env!("CARGO_PKG_VERSION"), "/", $name)
    };
}
pub(super) use at;

pub(super) fn router() -> Router {
    let answer = |Asset(_, kind, text): Asset| {
        get(async move || {
            // A build of the same version may have others.
            let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "max-age=300")];
            (headers, text).into_response()
        })
    };
    ASSETS.into_iter().fold(Router::new(), |router, asset| {
        let path = format!("{}{}", at!(""), asset.0);
        router.route(&path, answer(asset))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn assets_are_small_and_name_no_other_machine() {
        let mut packed = 0;
        for Asset(name, _, text) in ASSETS {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            gzip.write_all(text.as_bytes()).unwrap();
            packed += gzip.finish().unwrap().len();
            // A name of a format, and where what is of others is from.
            let known = [
                "http://www.w3.org/2000/svg",
                "http://www.w3.org/1999/xhtml",
                "https://github.com/leeoniya/uPlot",
                "https://d3js.org/",
                "https://github.com/topojson/topojson-client",
            ];
            let elsewhere = known.iter().fold(text.to_owned(), |text, known| text.replace(known, ""));
            assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"), "{name}");
        }
        assert!(packed <= 150 << 10, "{packed} bytes");
        println!("{packed} bytes with gzip");
        let own = ["console.js", "curves.js", "track.js"];
        for Asset(name, _, text) in ASSETS.into_iter().filter(|asset| own.contains(&asset.0)) {
            assert!(!text.contains("innerHTML") && !text.contains("eval("), "{name}");
        }
    }
}
