//! CORS: lets pages of other origins send from a browser, as the Collector's `cors` does.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::config::CorsConfig;

/// Headers that a page may always send.
const ALWAYS: [&str; 3] = ["accept", "content-type", "x-requested-with"];

/// Whether a pattern with at most one `*` takes `text`.
fn takes(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern.eq_ignore_ascii_case(text),
        Some((start, end)) => {
            let (text, start, end) = (text.to_lowercase(), start.to_lowercase(), end.to_lowercase());
            text.len() >= start.len() + end.len() && text.starts_with(&start) && text.ends_with(&end)
        }
    }
}

impl CorsConfig {
    fn takes_origin(&self, origin: &HeaderValue) -> bool {
        let origin = origin.to_str().unwrap_or_default();
        self.allowed_origins.iter().any(|pattern| takes(pattern, origin))
    }

    fn takes_headers(&self, asked: &str) -> bool {
        let allowed = |name: &str| {
            let name = name.trim();
            name.is_empty()
                || ALWAYS.iter().any(|a| a.eq_ignore_ascii_case(name))
                || self.allowed_headers.iter().any(|a| a == "*" || a.eq_ignore_ascii_case(name))
        };
        asked.split(',').all(allowed)
    }

    /// The answer to a browser that asks before it sends.
    fn preflight(&self, headers: &HeaderMap) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let out = response.headers_mut();
        out.insert(
            VARY,
            HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
        );
        let Some(origin) = headers.get(ORIGIN).filter(|o| self.takes_origin(o)) else { return response };
        let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
        let post = headers.get(ACCESS_CONTROL_REQUEST_METHOD).is_some_and(|m| m == "POST");
        if !post || !asked.is_none_or(|a| a.to_str().is_ok_and(|a| self.takes_headers(a))) {
            return response;
        }
        out.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        out.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        out.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
        if let Some(asked) = asked {
            out.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        if self.max_age > 0 {
            out.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.into());
        }
        response
    }
}

/// Answers what a browser asks before it sends, and tells it that it may read the answer.
pub(super) async fn cors(State(config): State<Arc<CorsConfig>>, request: Request, next: Next) -> Response {
    if request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        return config.preflight(request.headers());
    }
    let origin = request.headers().get(ORIGIN).cloned();
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin.filter(|o| config.takes_origin(o)) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        if let Ok(exposed) = HeaderValue::from_str(&config.exposed_headers.join(", "))
            && !exposed.is_empty()
        {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_origins_and_headers_are_let_in() {
        let config = CorsConfig {
            allowed_origins: vec!["https://*.example.com".into(), "http://localhost:3000".into()],
            allowed_headers: vec!["X-Key".into()],
            max_age: 600,
            ..CorsConfig::default()
        };
        let ask = |origin: &'static str, headers: &'static str| {
            let mut map = HeaderMap::new();
            map.insert(ORIGIN, HeaderValue::from_static(origin));
            map.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("POST"));
            map.insert(ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_static(headers));
            let answer = config.preflight(&map);
            assert_eq!(answer.status(), StatusCode::NO_CONTENT);
            answer.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN).map(|o| o.to_str().unwrap().to_owned())
        };
        assert_eq!(
            ask("https://a.example.com", "content-type, x-key").as_deref(),
            Some("https://a.example.com")
        );
        assert_eq!(ask("http://localhost:3000", "").as_deref(), Some("http://localhost:3000"));
        for (origin, headers) in [
            ("https://example.com.evil.org", ""),
            ("https://.example.com.", ""),
            ("http://localhost:30001", ""),
            ("http://localhost:3000", "x-other"),
        ] {
            assert_eq!(ask(origin, headers), None, "{origin} {headers}");
        }
    }
}
