//! What people and tools ask the running program: pages in the browser, JSON over HTTP, health and metrics.
//!
//! The console's pages are rendered here and need nothing from elsewhere: every asset is in the program. They show what a look at the
//! spool found (`board`), who may see and do what is in `roles`, and what was done is in `audit`.

mod acts;
mod api;
mod assets;
mod attention;
mod audit;
mod board;
mod events;
mod openapi;
mod pages;
mod problem;
mod replays;
mod roles;
mod show;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use perigee_shared::config::Invalid;
use perigee_shared::env::Env;
use perigee_shared::telemetry::METRICS_CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub use self::acts::{ActAnswer, ActRequest, What};
pub use self::api::CatalogueQuery;
pub use self::audit::{Audit, Deed};
pub use self::problem::Problem;
pub use self::replays::{RangeAnswer, RangeRequest};
pub use self::roles::{ConsoleConfig, ConsoleTls};

use self::board::Board;
use self::events::Events;
use self::roles::Roles;
use crate::link::Connected;
use crate::spool::{SpoolError, Status, Store};
use crate::telemetry::{Metrics, Satellites};

/// The largest body of a request.
const MAX_BODY: usize = 64 << 10;

/// What the answers are made from.
#[derive(Clone)]
pub struct Console {
    store: Store,
    metrics: Metrics,
    connected: Connected,
    board: Board,
    events: Events,
    audit: Audit,
    /// This station's id.
    station: Arc<str>,
    stop: CancellationToken,
}

/// What the console needs beside the store.
pub struct Beside {
    /// What is counted.
    pub metrics: Metrics,
    /// Who is connected.
    pub connected: Connected,
    /// The directory of the audit.
    pub directory: PathBuf,
    /// This station's id.
    pub station: String,
}

/// `POST /api/v1/replay`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayRequest {
    /// These dead letters; absent: all.
    pub ids: Option<Vec<u64>>,
}

/// The answer to `POST /api/v1/replay`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
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

impl Console {
    /// Answers from these.
    pub fn new(store: Store, env: &Env, beside: Beside) -> Self {
        let Beside { metrics, connected, directory, station } = beside;
        let board = Board::new(store.clone(), metrics.clone(), connected.clone(), env.clone());
        let stop = CancellationToken::new();
        let events = Events::new(board.clone(), stop.clone());
        let audit = Audit::new(&directory, env);
        Self { store, metrics, connected, board, events, audit, station: station.into(), stop }
    }

    /// Ends streams of events, which would go on otherwise.
    pub fn end(&self) {
        self.stop.cancel();
    }

    /// Looks whenever something has changed and somebody listens, until the end.
    pub async fn run(&self) {
        self.board.run(self.stop.clone()).await;
    }

    /// The API that only reads.
    pub fn api(&self) -> Router {
        self.reading().fallback(problem::nothing_here).method_not_allowed_fallback(problem::not_this_way)
    }

    fn reading(&self) -> Router {
        Router::new()
            .route("/api/v1/satellites", get(api::satellites))
            .route("/api/v1/spool", get(api::spool))
            .route("/api/v1/passes", get(api::passes))
            .route("/api/v1/gaps", get(api::gaps))
            .route("/api/v1/accounting", get(api::accounting))
            .route("/api/v1/dead-letters", get(api::letters))
            .route("/api/v1/catalogue", get(api::catalogue))
            .route("/api/v1/replays", get(replays::list))
            .route("/api/v1/events", get(api::events))
            .route("/api/v1/openapi.json", get(openapi::openapi))
            .with_state(self.clone())
    }

    /// The API for this program's own commands, which also changes things and
    /// asks for what takes long.
    pub fn control(&self) -> Router {
        let own = Router::new()
            .route("/api/v1/replay", post(api::replay))
            .route("/api/v1/replays", post(replays::begin))
            .route("/api/v1/replays/{id}", delete(replays::cancel))
            .route("/api/v1/verify", get(api::verify))
            .route("/api/v1/backup", post(api::backup))
            .route("/api/v1/columns", get(api::columns));
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

    /// The pages, with the API, for those who may.
    pub fn pages(&self, config: &ConsoleConfig) -> Result<Router, Invalid> {
        let roles = Arc::new(Roles::try_new(config, "extensions.console")?);
        let inside = self
            .reading()
            .merge(pages::router(self, &roles))
            .merge(acts::router(self, &roles))
            .fallback(pages::nothing_here)
            .method_not_allowed_fallback(problem::not_this_way)
            .layer(axum::middleware::from_fn_with_state(Arc::clone(&roles), pages::guard));
        let outside = pages::entrance(&roles).merge(assets::router());
        let all = outside.merge(inside).layer(DefaultBodyLimit::max(MAX_BODY));
        Ok(all.layer(axum::middleware::from_fn(pages::dress)))
    }

    /// Checks the files that the console's section names, without binding anything.
    pub fn check(config: &ConsoleConfig) -> Result<(), Invalid> {
        Roles::try_new(config, "extensions.console").map(drop)
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

async fn metrics(State(console): State<Console>) -> Result<Response, Problem> {
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
