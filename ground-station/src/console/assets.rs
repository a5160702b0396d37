//! What a page needs beside itself, in the program: no address of another machine is in any page.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

const CSS: &str = include_str!("assets/console.css");
const JS: &str = include_str!("assets/console.js");
const ICON: &str = include_str!("assets/icon.svg");

/// Where an asset is: its name with the version of the program, so that a browser may keep it.
pub(super) const CSS_AT: &str = concat!("/assets/", env!("CARGO_PKG_VERSION"), "/console.css");
/// See [`CSS_AT`].
pub(super) const JS_AT: &str = concat!("/assets/", env!("CARGO_PKG_VERSION"), "/console.js");
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
        .route(ICON_AT, asset("image/svg+xml", ICON))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn assets_are_small_and_name_no_other_machine() {
        let mut packed = 0;
        for text in [CSS, JS, ICON] {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            gzip.write_all(text.as_bytes()).unwrap();
            packed += gzip.finish().unwrap().len();
            let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"));
        }
        assert!(packed <= 150 << 10, "{packed} bytes");
        assert!(!JS.contains("innerHTML") && !JS.contains("eval("));
    }
}
