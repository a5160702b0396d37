//! What keeps web pages away from operators' endpoints: a page that somebody looks at on this machine can send requests to
//! loopback, by another name even read the answers.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};

use super::Endpoint;

/// Sent with every answer.
const HEADERS: [(&str, &str); 5] = [
    ("cache-control", "no-store"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
];

/// What is let through.
#[derive(Clone, Copy)]
struct Rules {
    /// A Host header must be loopback.
    by_name: bool,
    /// A page of another site may have a link that somebody follows.
    links: bool,
}

/// `router` at `endpoint`, for programs and people and not for pages of others. On loopback a Host header must be loopback too.
pub fn keep_out(router: Router, endpoint: &Endpoint) -> Router {
    layered(router, endpoint, false)
}

/// The same for pages that people look at: they may come by a link on a page of another site, which does not see the answer.
pub fn keep_out_but_links(router: Router, endpoint: &Endpoint) -> Router {
    layered(router, endpoint, true)
}

fn layered(router: Router, endpoint: &Endpoint, links: bool) -> Router {
    let by_name = matches!(endpoint, Endpoint::Tcp(_)) && endpoint.is_local();
    router.layer(from_fn_with_state(Rules { by_name, links }, check))
}

async fn check(State(Rules { by_name, links }): State<Rules>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let text = |name: &str| headers.get(name).map(|v| v.to_str().unwrap_or("?"));
    let host = request.uri().host().or_else(|| text("host"));
    let followed = links
        && *request.method() == Method::GET
        && text("sec-fetch-mode") == Some("navigate")
        && text("sec-fetch-dest") == Some("document");
    let foreign = text("sec-fetch-site").is_some_and(|site| site == "cross-site" || site == "same-site");
    let foreign_page = foreign && !followed;
    let mut response = if headers.get_all(header::HOST).iter().count() > 1 {
        (StatusCode::BAD_REQUEST, "a request has one Host header\n").into_response()
    } else if by_name && !host.is_none_or(is_loopback) {
        let why = "this endpoint answers to the Host localhost, 127.0.0.1 or [::1] only\n";
        (StatusCode::MISDIRECTED_REQUEST, why).into_response()
    } else if foreign_page {
        (StatusCode::FORBIDDEN, "a page of another site asks\n").into_response()
    } else {
        next.run(request).await
    };
    for (name, value) in HEADERS {
        response
            .headers_mut()
            .entry(header::HeaderName::from_static(name))
            .or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Whether a Host header names this machine's loopback.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use tower::Service;

    use super::*;

    async fn ask(endpoint: &str, headers: &[(&str, &str)]) -> Response {
        let router = Router::new().route("/", get(async || "ok"));
        let mut router = keep_out(router, &Endpoint::parse(endpoint).unwrap());
        let mut request = Request::builder().uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        router.call(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn a_link_on_a_page_of_another_site_leads_to_a_page_and_nowhere_else() {
        let link = [("host", "localhost"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        for (dest, method, status) in
            [("document", Method::GET, 200), ("iframe", Method::GET, 403), ("document", Method::POST, 403)]
        {
            let router = Router::new().route("/", get(async || "ok").post(async || "ok"));
            let mut router = keep_out_but_links(router, &Endpoint::parse("127.0.0.1:1").unwrap());
            let mut request = Request::builder().uri("/").method(&method).header("sec-fetch-dest", dest);
            for (name, value) in link {
                request = request.header(name, value);
            }
            let answer = router.call(request.body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(answer.status(), status, "{method} {dest}");
        }
    }

    #[tokio::test]
    async fn pages_of_others_are_kept_out() {
        const LOCAL: &str = "127.0.0.1:8890";
        for (endpoint, headers, status) in [
            (LOCAL, vec![("host", "127.0.0.1:8890")], 200),
            (LOCAL, vec![("host", "localhost")], 200),
            (LOCAL, vec![("host", "[::1]:8890")], 200),
            (LOCAL, vec![("host", "LOCALHOST:1")], 200),
            (LOCAL, vec![("host", "evil.example")], 421),
            (LOCAL, vec![("host", "localhost"), ("host", "localhost")], 400),
            (LOCAL, vec![("host", "localhost.evil.example:8890")], 421),
            (LOCAL, vec![("host", "198.51.100.7:8890")], 421),
            (LOCAL, vec![("host", "")], 421),
            // No browser leaves it out, and old probes do.
            (LOCAL, vec![], 200),
            (LOCAL, vec![("host", "localhost"), ("sec-fetch-site", "cross-site")], 403),
            (LOCAL, vec![("host", "localhost"), ("sec-fetch-site", "none")], 200),
            ("0.0.0.0:8890", vec![("host", "ground.example:8890")], 200),
            ("unix:///run/x.sock", vec![("host", "x")], 200),
        ] {
            let answer = ask(endpoint, &headers).await;
            assert_eq!(answer.status(), status, "{endpoint} {headers:?}");
            assert_eq!(answer.headers()["cross-origin-resource-policy"], "same-origin");
        }
    }
}
