//! What a page needs beside itself, in the program: no address of another machine is in any page.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

const CSS: &str = include_str!("assets/console.css");
const JS: &str = include_str!("assets/console.js");
const CURVES: &str = include_str!("assets/curves.js");
/// uPlot 1.6.32 by Leon Sorokin, as it is in the package of npm; MIT, see `assets/uplot/LICENSE`.
const UPLOT_JS: &str = include_str!("assets/uplot/uPlot.iife.min.js");
/// See [`UPLOT_JS`].
const UPLOT_CSS: &str = include_str!("assets/uplot/uPlot.min.css");
/// Goes with every copy.
const UPLOT_LICENCE: &str = include_str!("assets/uplot/LICENSE");
const ICON: &str = include_str!("assets/icon.svg");

/// Where an asset is: its name with the version of the program, so that a browser may keep it.
pub(super) const CSS_AT: &str = concat!("/assets/", env!("CARGO_PKG_VERSION"), "/console.css");
/// See [`CSS_AT`].
pub(super) const JS_AT: &str = concat!("/assets/", env!("CARGO_PKG_VERSION"), "/console.js");
/// See [`CSS_AT`].
pub(super) const CURVES_AT: &str = concat!("/assets/", env!("CARGO_PKG_VERSION"), "/curves.js");
/// See [`CSS_AT`].
pub(super) const UPLOT_JS_AT: &str = concat!("/assets/", env!("CARGO_PKG_VERSION"), "/uplot.js");
/// See [`CSS_AT`].
pub(super) const UPLOT_CSS_AT: &str = concat!("/assets/", env!("CARGO_PKG_VERSION"), "/uplot.css");
/// See [`CSS_AT`].
pub(super) const UPLOT_LICENCE_AT: &str = concat!("/assets/", env!("CARGO_PKG_VERSION"), "/uplot.txt");
/// See [`CSS_AT`].
pub(super) const ICON_AT: &str = concat!("/assets/", env!("CARGO_PKG_VERSION"), "/icon.svg");

pub(super) fn router() -> Router {
    let asset = |kind: &'static str, text: &'static str| {
        get(async move || {
            // A build of the same version may have others.
            let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "max-age=300")];
            (headers, text).into_response()
        })
    };
    Router::new()
        .route(CSS_AT, asset("text/css; charset=utf-8", CSS))
        .route(JS_AT, asset("text/javascript; charset=utf-8", JS))
        .route(CURVES_AT, asset("text/javascript; charset=utf-8", CURVES))
        .route(UPLOT_JS_AT, asset("text/javascript; charset=utf-8", UPLOT_JS))
        .route(UPLOT_CSS_AT, asset("text/css; charset=utf-8", UPLOT_CSS))
        .route(UPLOT_LICENCE_AT, asset("text/plain; charset=utf-8", UPLOT_LICENCE))
        .route(ICON_AT, asset("image/svg+xml", ICON))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn assets_are_small_and_name_no_other_machine() {
        let mut packed = 0;
        for text in [CSS, JS, CURVES, UPLOT_JS, UPLOT_CSS, UPLOT_LICENCE, ICON] {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            gzip.write_all(text.as_bytes()).unwrap();
            packed += gzip.finish().unwrap().len();
            // A name of a format, and where uPlot is from.
            let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
            let elsewhere = elsewhere.replace("https://github.com/leeoniya/uPlot", "");
            assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"));
        }
        assert!(packed <= 150 << 10, "{packed} bytes");
        for text in [JS, CURVES] {
            assert!(!text.contains("innerHTML") && !text.contains("eval("));
        }
    }
}
