//! What a page needs beside itself, in the program: no address of another machine is in any page.

use std::io::Write;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

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

/// Whether who asks takes gzip.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let said = headers.get_all(header::ACCEPT_ENCODING).into_iter().filter_map(|value| value.to_str().ok());
    said.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let never = weight.trim().strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
        matches!(name.trim(), "gzip" | "x-gzip" | "*") && !never
    })
}

/// `text` packed; nothing when that does not go.
fn packed(text: &str) -> Option<Bytes> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(text.as_bytes()).ok()?;
    gzip.finish().ok().map(Bytes::from)
}

pub(super) fn router() -> Router {
    let answer = |Asset(_, kind, text): Asset| {
        // Packed when somebody asks for it first.
        let once = Arc::new(OnceLock::new());
        get(async move |headers: HeaderMap| {
            let gzip = takes_gzip(&headers).then(|| once.get_or_init(|| packed(text)).clone()).flatten();
            let coding = gzip.as_ref().map(|_| [(header::CONTENT_ENCODING, "gzip")]);
            // A build of the same version may have others.
            let about = [
                (header::CONTENT_TYPE, kind),
                (header::CACHE_CONTROL, "max-age=300"),
                (header::VARY, "accept-encoding"),
            ];
            (coding, about, gzip.unwrap_or(Bytes::from_static(text.as_bytes()))).into_response()
        })
    };
    ASSETS.into_iter().fold(Router::new(), |router, asset| {
        let path = format!("{}{}", at!(""), asset.0);
        router.route(&path, answer(asset))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_gzip_says_so() {
        for (said, takes) in [
            ("gzip, deflate, br", true),
            ("br;q=1.0, gzip;q=0.5", true),
            ("*", true),
            ("gzip;q=0", false),
            ("br", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, said.parse().unwrap())]);
            assert_eq!(takes_gzip(&headers), takes, "{said}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn assets_are_small_and_name_no_other_machine() {
        let mut bytes = 0;
        for Asset(name, _, text) in ASSETS {
            bytes += packed(text).unwrap().len();
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
        assert!(bytes <= 150_000, "{bytes} bytes");
        let own = ["console.js", "curves.js", "track.js"];
        for Asset(name, _, text) in ASSETS.into_iter().filter(|asset| own.contains(&asset.0)) {
            assert!(!text.contains("innerHTML") && !text.contains("eval("), "{name}");
        }
    }
}
