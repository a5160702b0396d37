//! What people and tools ask the running program: JSON over HTTP, health and metrics.

use std::collections::BTreeMap;
use std::path::PathBuf;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use perigee_shared::telemetry::METRICS_CONTENT_TYPE;
use serde::{Deserialize, Serialize};

use crate::link::{ClockView, Connected};
use crate::spool::{
    AccountView, ColumnsView, GapView, LetterView, PassView, SatelliteView, SpoolError, SpoolView, Status,
    Store,
};
use crate::telemetry::{Metrics, Satellites};

/// What the answers are made from.
#[derive(Clone)]
pub struct Console {
    store: Store,
    metrics: Metrics,
    connected: Connected,
}

/// `POST /api/v1/replay`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayRequest {
    /// These dead letters; absent: all.
    pub ids: Option<Vec<u64>>,
}

/// The answer to `POST /api/v1/replay`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReplayAnswer {
    /// How many are sent again.
    pub replayed: u64,
}

/// The answer to `GET /api/v1/verify`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerifyAnswer {
    /// What is wrong, one line each.
    pub wrong: Vec<String>,
}

/// `POST /api/v1/backup`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// The file to make, as this process sees it.
    pub path: PathBuf,
}

/// The answer to `POST /api/v1/backup`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupAnswer {
    /// The length of the file.
    pub bytes: u64,
}

/// `?after=ID&limit=N`
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct Page {
    after: u64,
    limit: usize,
}

impl Default for Page {
    fn default() -> Self {
        Self { after: 0, limit: 1000 }
    }
}

/// Rows in one answer, at most.
const MAX_ROWS: usize = 10_000;

struct Failed(SpoolError);

impl From<SpoolError> for Failed {
    fn from(error: SpoolError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let body = Json(serde_json::json!({ "error": self.0.to_string() }));
        (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
    }
}

type Answer<T> = Result<Json<T>, Failed>;

impl Console {
    /// Answers from these.
    pub fn new(store: Store, metrics: Metrics, connected: Connected) -> Self {
        Self { store, metrics, connected }
    }

    /// The API that only reads.
    pub fn api(&self) -> Router {
        Router::new()
            .route("/api/v1/satellites", get(satellites))
            .route("/api/v1/spool", get(spool))
            .route("/api/v1/passes", get(passes))
            .route("/api/v1/gaps", get(gaps))
            .route("/api/v1/accounting", get(accounting))
            .route("/api/v1/dead-letters", get(letters))
            .with_state(self.clone())
    }

    /// The API for this program's own commands, which also changes things and
    /// asks for what takes long.
    pub fn control(&self) -> Router {
        let own = Router::new()
            .route("/api/v1/replay", post(replay))
            .route("/api/v1/verify", get(verify))
            .route("/api/v1/backup", post(backup))
            .route("/api/v1/columns", get(columns));
        self.api().merge(own.with_state(self.clone()))
    }

    /// All metrics as of now, as text.
    pub async fn metrics_text(&self) -> Result<String, SpoolError> {
        let (spool, accounts) = (self.store.overview().await?, self.store.accounting().await?);
        let status = self.store.status().borrow().clone();
        let satellites = Satellites {
            accounts: &accounts,
            standings: &self.store.standings().await?,
            connected: &self.connected.satellites(),
        };
        let connections = self.connected.count();
        Ok(self.metrics.render(&spool, &satellites, &status, connections, |registry| {
            self.connected.clocks().register(registry);
        }))
    }

    /// `GET /metrics`
    pub fn metrics(&self) -> Router {
        Router::new().route("/metrics", get(metrics)).with_state(self.clone())
    }

    /// `GET /`
    pub fn health(&self) -> Router {
        Router::new().route("/", get(health)).with_state(self.clone())
    }
}

/// A satellite, with what only the links know.
#[derive(Debug, Serialize)]
struct Linked {
    #[serde(flatten)]
    view: SatelliteView,
    clock: Option<ClockView>,
}

async fn satellites(State(console): State<Console>) -> Answer<Vec<Linked>> {
    let all = console.store.satellites().await?;
    let connected = console.connected.satellites();
    let linked = |view: SatelliteView| {
        let mut linked = Linked { clock: console.connected.clocks().of(&view.satellite), view };
        if let Some(heard) = connected.get(&linked.view.satellite) {
            linked.view.connected = true;
            linked.view.standing.last_heard_unix_nano = *heard;
        }
        linked
    };
    Ok(Json(all.into_iter().map(linked).collect()))
}

async fn spool(State(console): State<Console>) -> Answer<SpoolView> {
    Ok(Json(console.store.overview().await?))
}

async fn passes(State(console): State<Console>, Query(page): Query<Page>) -> Answer<Vec<PassView>> {
    let limit = page.limit.min(MAX_ROWS);
    Ok(Json(console.store.passes(limit).await?))
}

async fn gaps(State(console): State<Console>, Query(page): Query<Page>) -> Answer<Vec<GapView>> {
    let limit = page.limit.min(MAX_ROWS);
    Ok(Json(console.store.gaps(limit).await?))
}

async fn accounting(State(console): State<Console>) -> Answer<BTreeMap<String, AccountView>> {
    Ok(Json(console.store.accounting().await?))
}

async fn letters(State(console): State<Console>, Query(page): Query<Page>) -> Answer<Vec<LetterView>> {
    let limit = page.limit.min(MAX_ROWS);
    Ok(Json(console.store.letters(page.after, limit).await?))
}

async fn replay(State(console): State<Console>, Json(request): Json<ReplayRequest>) -> Answer<ReplayAnswer> {
    Ok(Json(ReplayAnswer { replayed: console.store.replay(request.ids).await? }))
}

async fn verify(State(console): State<Console>) -> Answer<VerifyAnswer> {
    Ok(Json(VerifyAnswer { wrong: console.store.verify().await? }))
}

async fn backup(State(console): State<Console>, Json(request): Json<BackupRequest>) -> Answer<BackupAnswer> {
    Ok(Json(BackupAnswer { bytes: console.store.backup(request.path).await? }))
}

/// `?each=true`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Each {
    each: bool,
}

async fn columns(State(console): State<Console>, Query(Each { each }): Query<Each>) -> Answer<ColumnsView> {
    Ok(Json(console.store.columns(each).await?))
}

async fn metrics(State(console): State<Console>) -> Result<Response, Failed> {
    Ok(([(CONTENT_TYPE, METRICS_CONTENT_TYPE)], console.metrics_text().await?).into_response())
}

async fn health(State(console): State<Console>) -> Response {
    let (code, text) = health_of(&console.store.status().borrow(), console.metrics.trouble());
    (code, Json(serde_json::json!({ "status": text }))).into_response()
}

/// 200 while the spool can be written and every task runs, otherwise 503 with the reason.
fn health_of(status: &Status, trouble: Option<String>) -> (StatusCode, String) {
    match status.gone.clone().or(status.failing.clone()).or(trouble) {
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
        None if status.full => (StatusCode::OK, "the spool is full".to_owned()),
        None => (StatusCode::OK, "ok".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_that_cannot_be_written_or_is_gone_is_not_healthy() {
        let mut status = Status::default();
        assert_eq!(health_of(&status, None).0, StatusCode::OK);
        assert_eq!(health_of(&status, Some("exporter otlp".to_owned())).0, StatusCode::SERVICE_UNAVAILABLE);
        status.full = true;
        assert_eq!(health_of(&status, None), (StatusCode::OK, "the spool is full".to_owned()));
        status.failing = Some("the disk is full".to_owned());
        assert_eq!(
            health_of(&status, None),
            (StatusCode::SERVICE_UNAVAILABLE, "the disk is full".to_owned())
        );
        status.gone = Some("it is given up".to_owned());
        assert_eq!(health_of(&status, None), (StatusCode::SERVICE_UNAVAILABLE, "it is given up".to_owned()));
    }
}
