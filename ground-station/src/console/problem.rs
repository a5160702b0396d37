//! What the API says when it cannot answer: problem documents (RFC 9457).

use axum::extract::{FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::pages::message;
use crate::spool::SpoolError;

/// The content type of a problem document.
const CONTENT_TYPE: &str = "application/problem+json";

/// A problem document. Its type is `about:blank`: the status says what kind of problem it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// The kind of problem, an address.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of problem in words: the name of the status.
    pub title: String,
    /// The status.
    pub status: u16,
    /// What is wrong, and what to do.
    pub detail: String,
}

impl Problem {
    /// A problem of this status.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
        }
    }

    /// A request that makes no sense.
    pub(super) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }
}

impl From<SpoolError> for Problem {
    fn from(error: SpoolError) -> Self {
        let status = match error {
            SpoolError::Unknown(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Whatever refuses a request (a library, a layer before or behind): programs get a problem document, people a page.
pub(crate) async fn in_its_kind(request: Request, next: Next) -> Response {
    /// A longer explanation is cut off.
    const DETAIL: usize = 16 << 10;
    let for_programs = request.uri().path().starts_with("/api/");
    let response = next.run(request).await;
    let status = response.status();
    let is_problem = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes() == CONTENT_TYPE.as_bytes());
    if !(status.is_client_error() || status.is_server_error()) || is_problem == for_programs {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, DETAIL).await.unwrap_or_default();
    let other = if for_programs {
        Problem::new(status, String::from_utf8_lossy(&body).trim()).into_response()
    } else {
        let problem = serde_json::from_slice::<Problem>(&body);
        message(status, &problem.map(|problem| problem.detail).unwrap_or_default())
    };
    let (kind, body) = other.into_parts();
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        parts.headers.remove(name);
    }
    parts.headers.extend(kind.headers);
    Response::from_parts(parts, body)
}

/// How acting is refused, for the OpenAPI document, beside what [`Refusals`] has.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "only what it is described by is used")]
pub(super) enum Unreadable {
    /// The body is larger than 64 KiB
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(Problem),
    /// The body is not sent as application/json
    #[response(status = 415, content_type = "application/problem+json")]
    Kind(Problem),
    /// The body is JSON and not of this form
    #[response(status = 422, content_type = "application/problem+json")]
    Form(Problem),
}

/// How reading is refused, for the OpenAPI document.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "only what it is described by is used")]
pub(super) enum Refusals {
    /// The request makes no sense
    #[response(status = 400, content_type = "application/problem+json")]
    Bad(Problem),
    /// Reading needs a token
    #[response(status = 401, content_type = "application/problem+json")]
    Token(Problem),
    /// The spool cannot be read
    #[response(status = 503, content_type = "application/problem+json")]
    Spool(Problem),
}

/// `?name=value`; what cannot be read is a problem document.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(asked)| Self(asked))
            .map_err(|e| Problem::bad(e.body_text()))
    }
}

/// Nothing is at this address.
pub(super) async fn nothing_here() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "nothing is at this address; /api/v1/openapi.json says what there is")
}

/// This cannot be done at this address.
pub(super) async fn not_this_way() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this address is not asked this way; see /api/v1/openapi.json",
    )
}
