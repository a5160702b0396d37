//! What changes something: dead letters are sent again or discarded, replays begin and end. Each needs a token or a certificate of its own, comes from a page
//! of this console or from a program, and is in the audit before it is done.

use axum::extract::{Form, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{delete, post};
use axum::{Extension, Json, Router};
use perigee_shared::serve::Peer;
use serde::{Deserialize, Serialize};

use super::Console;
use super::audit::Deed;
use super::pages::message;
use super::problem::{Problem, Unreadable};
use super::replays::{RangeAnswer, RangeRequest};
use super::roles::{self, Roles, Shared};
use crate::spool::{LetterView, SpoolError};

/// Letters that are looked at and done with together.
const PART: usize = 10_000;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// They are sent again.
    Replay,
    /// They are deleted, and their items become a gap.
    Discard,
}

impl What {
    const fn name(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Discard => "discard",
        }
    }
}

/// Which dead letters: one, those that one exporter refused for one reason, or all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActRequest {
    /// What is to be done.
    pub what: What,
    /// One of them.
    #[serde(default)]
    pub id: Option<u64>,
    /// Those of this exporter; empty: of segments that do not decode.
    #[serde(default)]
    pub exporter: Option<String>,
    /// Of those, those with this reason.
    #[serde(default)]
    pub reason: Option<String>,
    /// All of them.
    #[serde(default)]
    pub all: bool,
}

/// How many dead letters it was done with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ActAnswer {
    /// The number.
    pub done: u64,
}

/// What the form that begins a replay says.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct FilledRange {
    token: String,
    exporter: String,
    satellite: String,
    from: String,
    until: String,
}

/// What the form that ends one says.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct FilledEnd {
    token: String,
    id: String,
}

/// What a form says; it has only texts.
#[derive(Debug, Clone, Deserialize)]
struct Filled {
    #[serde(default)]
    token: String,
    what: What,
    id: Option<String>,
    exporter: Option<String>,
    reason: Option<String>,
    all: Option<String>,
}

#[derive(Clone)]
pub(super) struct Acts {
    console: Console,
    roles: Shared,
}

pub(super) fn router(console: &Console, roles: &Shared) -> Router {
    let acts = Acts { console: console.clone(), roles: roles.clone() };
    Router::new()
        .route("/api/v1/dead-letters/act", post(by_program))
        .route("/data/act", post(by_form))
        .route("/catalogue/replay", post(begin_by_form))
        .route("/catalogue/replay/end", post(end_by_form))
        .route("/api/v1/replays", post(begin_replay))
        .route("/api/v1/replays/{id}", delete(cancel_replay))
        .with_state(acts)
}

/// Dead letters are sent again or discarded
#[utoipa::path(
    post,
    path = "/api/v1/dead-letters/act",
    request_body = ActRequest,
    responses(
        (status = 200, description = "It was done", body = ActAnswer),
        (status = 400, description = "It is not said of which", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "This is not a token that may act", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "A page of another site asks, or nobody may act here", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such dead letter", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The spool or the audit cannot be written", body = Problem, content_type = "application/problem+json"),
        Unreadable
    )
)]
pub(super) async fn by_program(
    State(acts): State<Acts>,
    headers: HeaderMap,
    Extension(peer): Extension<Peer>,
    Json(request): Json<ActRequest>,
) -> Result<Json<ActAnswer>, Problem> {
    let token = roles::bearer(&headers).map(str::to_owned);
    let done = acts.act(token.as_deref(), &headers, &peer, request).await?;
    Ok(Json(ActAnswer { done }))
}

/// What was committed of a range of time goes to one exporter again
#[utoipa::path(
    post,
    path = "/api/v1/replays",
    request_body = RangeRequest,
    responses(
        (status = 200, description = "It has begun", body = RangeAnswer),
        (status = 400, description = "There is no such exporter or satellite, or a time cannot be read", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "This is not a token that may act", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "A page of another site asks, or nobody may act here", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The spool or the audit cannot be written", body = Problem, content_type = "application/problem+json"),
        Unreadable
    )
)]
pub(super) async fn begin_replay(
    State(acts): State<Acts>,
    headers: HeaderMap,
    Extension(peer): Extension<Peer>,
    Json(request): Json<RangeRequest>,
) -> Result<Json<RangeAnswer>, Problem> {
    let id = acts.begin(roles::bearer(&headers), &headers, &peer, request).await?;
    Ok(Json(RangeAnswer { id }))
}

/// A replay ends before its end
#[utoipa::path(
    delete,
    path = "/api/v1/replays/{id}",
    params(("id" = u64, Path, description = "The replay")),
    responses(
        (status = 200, description = "It has ended", body = RangeAnswer),
        (status = 400, description = "No such replay goes on", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "This is not a token that may act", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "A page of another site asks, or nobody may act here", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The spool or the audit cannot be written", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn cancel_replay(
    State(acts): State<Acts>,
    headers: HeaderMap,
    Extension(peer): Extension<Peer>,
    Path(id): Path<u64>,
) -> Result<Json<RangeAnswer>, Problem> {
    acts.end(roles::bearer(&headers), &headers, &peer, id).await?;
    Ok(Json(RangeAnswer { id }))
}

async fn begin_by_form(
    State(acts): State<Acts>,
    headers: HeaderMap,
    Extension(peer): Extension<Peer>,
    Form(filled): Form<FilledRange>,
) -> Response {
    let FilledRange { token, exporter, satellite, from, until } = filled;
    let request = RangeRequest { exporter, satellite: some(satellite), from: some(from), until: some(until) };
    match acts.begin(some(token).as_deref(), &headers, &peer, request).await {
        Ok(id) => Redirect::to(&format!("/catalogue?done=begun-{id}#replays")).into_response(),
        Err(problem) => refused(&problem),
    }
}

async fn end_by_form(
    State(acts): State<Acts>,
    headers: HeaderMap,
    Extension(peer): Extension<Peer>,
    Form(FilledEnd { token, id }): Form<FilledEnd>,
) -> Response {
    let Ok(id) = id.parse() else {
        return message(StatusCode::BAD_REQUEST, "This is not the number of a replay.");
    };
    match acts.end(some(token).as_deref(), &headers, &peer, id).await {
        Ok(id) => Redirect::to(&format!("/catalogue?done=ended-{id}#replays")).into_response(),
        Err(problem) => refused(&problem),
    }
}

/// A field that was filled in.
fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// A problem as a page.
fn refused(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    message(status, &problem.detail)
}

async fn by_form(
    State(acts): State<Acts>,
    headers: HeaderMap,
    Extension(peer): Extension<Peer>,
    Form(filled): Form<Filled>,
) -> Response {
    let Filled { token, what, id, exporter, reason, all } = filled;
    let id = id.filter(|id| !id.is_empty()).map(|id| id.parse::<u64>());
    let request = match id.transpose() {
        Ok(id) => ActRequest { what, id, exporter, reason, all: all.is_some_and(|all| all == "all") },
        Err(_) => return message(StatusCode::BAD_REQUEST, "This is not the number of a dead letter."),
    };
    match acts.act(some(token).as_deref(), &headers, &peer, request).await {
        Ok(done) => Redirect::to(&format!("/data?done={}-{done}#letters", what.name())).into_response(),
        Err(problem) => refused(&problem),
    }
}

impl Acts {
    async fn act(
        &self,
        token: Option<&str>,
        headers: &HeaderMap,
        peer: &Peer,
        request: ActRequest,
    ) -> Result<u64, Problem> {
        let who = self.permit(token, headers, peer)?;
        let of = match (&request.id, &request.exporter, request.all) {
            (Some(id), None, false) => format!("dead letter {id}"),
            (None, Some(exporter), false) => {
                let exporter = if exporter.is_empty() { "nobody" } else { exporter };
                let reason: String = request.reason.iter().flat_map(|r| r.chars()).take(200).collect();
                format!("dead letters of {exporter}: {reason}")
            }
            (None, None, true) if request.what == What::Replay => "all dead letters".to_owned(),
            _ => {
                let detail = "say one of id, exporter (with a reason) and, to replay, all";
                return Err(Problem::bad(detail));
            }
        };
        let done = self.audited(who, peer, request.what.name(), of, self.carry_out(&request)).await?;
        match request.id {
            Some(id) if done == 0 => {
                Err(Problem::new(StatusCode::NOT_FOUND, format!("there is no dead letter {id}")))
            }
            _ => Ok(done),
        }
    }

    async fn begin(
        &self,
        token: Option<&str>,
        headers: &HeaderMap,
        peer: &Peer,
        request: RangeRequest,
    ) -> Result<u64, Problem> {
        let who = self.permit(token, headers, peer)?;
        let begin = self.console.begin_replay(&request);
        self.audited(who, peer, "replay range", request.words(), begin).await
    }

    async fn end(
        &self,
        token: Option<&str>,
        headers: &HeaderMap,
        peer: &Peer,
        id: u64,
    ) -> Result<u64, Problem> {
        let who = self.permit(token, headers, peer)?;
        let cancel = self.console.cancel_replay(id);
        self.audited(who, peer, "cancel replay", id.to_string(), cancel).await
    }

    /// Who may act; a refusal says why nobody may.
    fn permit(&self, token: Option<&str>, headers: &HeaderMap, peer: &Peer) -> Result<String, Problem> {
        if !roles::is_own(headers) {
            let detail =
                "a page of another site asks for this, or a program without Authorization: Bearer TOKEN";
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        self.roles.actor(token, peer).ok_or_else(|| refusal(&self.roles))
    }

    /// Does something that is in the audit before and after.
    async fn audited(
        &self,
        who: String,
        peer: &Peer,
        what: &str,
        of: String,
        work: impl Future<Output = Result<u64, Problem>>,
    ) -> Result<u64, Problem> {
        let deed = Deed {
            unix_nano: self.console.board.now(),
            who,
            from: peer.address.map_or_else(|| "this machine".to_owned(), |a| a.to_string()),
            what: what.to_owned(),
            of,
            result: "asked".to_owned(),
        };
        self.note(deed.clone()).await?;
        let done = work.await;
        self.console.board.forget().await;
        let result = match &done {
            Ok(done) => format!("done: {done}"),
            Err(problem) => format!("failed: {}", problem.detail.chars().take(200).collect::<String>()),
        };
        tracing::info!(who = deed.who, what = deed.what, of = deed.of, result, "somebody has acted");
        self.note(Deed { unix_nano: self.console.board.now(), result, ..deed }).await?;
        done
    }

    async fn note(&self, deed: Deed) -> Result<(), Problem> {
        self.console.audit.note(deed).await.map_err(|error| {
            let detail =
                format!("the audit cannot be written, so nothing more is done: {error}; look at the disk");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        })
    }

    async fn carry_out(&self, request: &ActRequest) -> Result<u64, Problem> {
        let store = self.console.board.store();
        if request.all {
            return Ok(store.replays().replay(None).await?);
        }
        if let Some(id) = request.id {
            return Ok(self.carry_out_of(request.what, vec![id]).await?);
        }
        let (glance, mut after, mut done) = (store.views().glance().await?, None, 0);
        loop {
            let part = glance.letters(after, PART).await?;
            let meant = part.rows.iter().filter(|letter| request.means(letter));
            let ids: Vec<u64> = meant.map(|letter| letter.id).collect();
            if !ids.is_empty() {
                done += self.carry_out_of(request.what, ids).await?;
            }
            after = part.next.and_then(|next| next.parse().ok());
            if after.is_none() {
                return Ok(done);
            }
        }
    }

    async fn carry_out_of(&self, what: What, ids: Vec<u64>) -> Result<u64, SpoolError> {
        let store = self.console.board.store();
        match what {
            What::Replay => store.replays().replay(Some(ids)).await,
            What::Discard => store.replays().discard(ids).await,
        }
    }
}

impl ActRequest {
    fn means(&self, letter: &LetterView) -> bool {
        self.exporter.as_deref() == Some(letter.exporter.as_deref().unwrap_or(""))
            && self.reason.as_ref().is_none_or(|reason| *reason == letter.reason)
    }
}

fn refusal(roles: &Roles) -> Problem {
    if roles.access().acts {
        let detail = "this is not a token that may act, and the connection has no certificate that may";
        return Problem::new(StatusCode::UNAUTHORIZED, detail);
    }
    let detail = "nobody may act here: set extensions.console.act_tokens_file or act_certificates, or use `ground-station spool \
                  replay` on the station";
    Problem::new(StatusCode::FORBIDDEN, detail)
}
