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
mod curves;
mod events;
mod openapi;
mod pages;
mod problem;
mod replays;
mod roles;
mod show;
mod track;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use perigee_shared::config::Invalid;
use perigee_shared::env::Env;
use perigee_shared::serve::CertificateEnd;
use perigee_shared::telemetry::{METRICS_CONTENT_TYPE, without_type_suffix};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub use self::acts::{ActAnswer, ActRequest, What};
pub use self::api::CatalogueQuery;
pub use self::audit::{Audit, Deed};
pub use self::problem::Problem;
pub(crate) use self::problem::in_its_kind;
pub use self::replays::{RangeAnswer, RangeRequest};
pub use self::roles::{ConsoleConfig, ConsoleTls};

use self::board::Board;
use self::events::Events;
use self::roles::Roles;
use crate::link::Connected;
use crate::spool::{SpoolError, Status, Store};
use crate::telemetry::{Metrics, Stored};

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
    /// What metrics showed of the store when it answered last.
    last: Arc<Mutex<Option<Arc<Stored>>>>,
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
        let (last, station) = (Arc::default(), station.into());
        Self { store, metrics, connected, board, events, audit, last, station, stop }
    }

    /// Has a listener's certificate watched; `whose` is what it is called.
    pub fn has_certificate(&self, whose: &'static str, end: CertificateEnd) {
        self.board.has_certificate(whose, end);
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
        self.reading(false).fallback(problem::nothing_here).method_not_allowed_fallback(problem::not_this_way)
    }

    fn reading(&self, acting: bool) -> Router {
        Router::new()
            .route("/api/v1/satellites", get(api::satellites))
            .route("/api/v1/satellites/{id}/curves", get(api::curves))
            .route("/api/v1/satellites/{id}/track", get(api::track))
            .route("/api/v1/spool", get(api::spool))
            .route("/api/v1/passes", get(api::passes))
            .route("/api/v1/gaps", get(api::gaps))
            .route("/api/v1/accounting", get(api::accounting))
            .route("/api/v1/dead-letters", get(api::letters))
            .route("/api/v1/catalogue", get(api::catalogue))
            .route("/api/v1/replays", get(replays::list))
            .route("/api/v1/events", get(api::events))
            .route("/api/v1/openapi.json", get(move || openapi::openapi(acting)))
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

    /// All metrics as of now, as text. While the store does not answer, what is known without it, and how it was.
    pub async fn metrics_text(&self) -> String {
        /// Who asks does not wait much longer.
        const PATIENCE: Duration = Duration::from_secs(5);
        let answer = tokio::time::timeout(PATIENCE, self.stored()).await;
        let mut status = self.store.status().borrow().clone();
        if let Ok(Err(error)) = &answer {
            status.failing.get_or_insert_with(|| error.to_string());
        }
        let stored = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if let Ok(Ok(stored)) = answer {
                *last = Some(Arc::new(stored));
            }
            last.clone()
        };
        let (connected, connections) = (self.connected.satellites(), self.connected.count());
        self.metrics.render(stored.as_deref(), &connected, &status, connections)
    }

    async fn stored(&self) -> Result<Stored, SpoolError> {
        let store = &self.store;
        let (spool, accounts) = (store.views().overview().await?, store.views().accounting().await?);
        Ok(Stored {
            spool,
            accounts,
            standings: store.views().standings().await?,
            gaps: store.views().gap_counts().await?,
        })
    }

    /// The pages, with the API, for those who may.
    pub fn pages(&self, config: &ConsoleConfig) -> Result<Router, Invalid> {
        let roles = Arc::new(Roles::try_new(config, "extensions.console")?);
        let inside = self
            .reading(true)
            .merge(pages::router(self, &roles))
            .merge(acts::router(self, &roles))
            .fallback(pages::nothing_here)
            .method_not_allowed_fallback(problem::not_this_way)
            .layer(axum::middleware::from_fn_with_state(Arc::clone(&roles), pages::guard));
        let outside = pages::entrance(&roles).merge(assets::router());
        let all = outside.merge(inside).layer(DefaultBodyLimit::max(MAX_BODY));
        Ok(all.layer(axum::middleware::from_fn(pages::dress)))
    }

    /// What is wrong with the tokens that the console's section names.
    pub fn check(config: &ConsoleConfig) -> Vec<Invalid> {
        Roles::check(config, "extensions.console")
    }

    /// `GET /metrics`; `bare`: with counters as a Collector's default reader calls them.
    pub fn metrics(&self, bare: bool) -> Router {
        let serve = move |State(console): State<Self>| async move {
            let text = console.metrics_text().await;
            let text = if bare { without_type_suffix(&text) } else { text };
            ([(CONTENT_TYPE, METRICS_CONTENT_TYPE)], text)
        };
        Router::new().route("/metrics", get(serve)).with_state(self.clone())
    }

    /// `GET /`
    pub fn health(&self) -> Router {
        Router::new().route("/", get(health)).with_state(self.clone())
    }
}

async fn health(State(console): State<Console>) -> Response {
    let (code, text) = health_of(&console.store.status().borrow(), console.metrics.trouble());
    let mut answer = serde_json::json!({ "status": text });
    let panicked = console.metrics.panicked_lately();
    if !panicked.is_empty() {
        answer["panicked"] = panicked.iter().map(|task| &**task).collect();
    }
    (code, Json(answer)).into_response()
}

/// 200 while the spool can be written where it belongs and every task runs, otherwise 503 with the reason.
fn health_of(status: &Status, trouble: Option<String>) -> (StatusCode, String) {
    match status.gone.clone().or(status.failing.clone()).or(status.moved.clone()).or(trouble) {
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
        None if status.full => (StatusCode::OK, "the spool is full".to_owned()),
        None => (StatusCode::OK, "ok".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use perigee_proto::link::Hello;
    use simdisk::Disk;

    use super::*;
    use crate::spool::{Keep, Settings};

    /// An empty store of one station.
    pub(super) fn store(env: &Env) -> Store {
        let settings = Settings {
            directory: "/virtual".into(),
            max_bytes: 1 << 30,
            satellites: Vec::new(),
            ballast: 1 << 20,
            decoded_bases: 1 << 20,
            decoding: Default::default(),
            ledger_room: Default::default(),
            catalogue: Default::default(),
            keep: Keep::OFF,
            station: "svalbard".to_owned(),
            routes: Default::default(),
        };
        Store::open(env, settings, 0).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn metrics_answer_while_the_store_does_not_and_say_how_it_was() {
        let disk = Disk::new();
        let env = disk.env();
        let store = store(&env);
        let console = || {
            let beside = Beside {
                metrics: Metrics::new("svalbard", &env, store.tasks().clone()),
                connected: Connected::nobody(&env),
                directory: "/virtual".into(),
                station: "svalbard".to_owned(),
            };
            Console::new(store.clone(), &env, beside)
        };
        let (seen, late) = (console(), console());
        assert!(seen.metrics_text().await.contains("perigee_store_failing 0"));
        disk.set_full(true);
        let (other, mut status) = (store.clone(), store.status());
        let waits =
            tokio::spawn(
                async move { other.intake().ledger("sat-1".into(), Arc::new(Hello::default())).await },
            );
        status.wait_for(|status| status.failing.is_some()).await.unwrap();
        assert!(store.views().overview().await.is_err(), "it is closed");
        for (console, known) in [(seen, true), (late, false)] {
            let text = console.metrics_text().await;
            assert!(text.contains("perigee_store_failing 1"), "{text}");
            assert_eq!(text.contains("perigee_spool_max_bytes 1073741824"), known, "{text}");
        }
        disk.set_full(false);
        waits.await.unwrap().unwrap();
    }

    #[test]
    fn a_spool_that_cannot_be_written_or_is_gone_is_not_healthy() {
        let mut status = Status::default();
        assert_eq!(health_of(&status, None).0, StatusCode::OK);
        assert_eq!(health_of(&status, Some("exporter otlp".to_owned())).0, StatusCode::SERVICE_UNAVAILABLE);
        status.full = true;
        assert_eq!(health_of(&status, None), (StatusCode::OK, "the spool is full".to_owned()));
        status.moved = Some("it was moved".to_owned());
        assert_eq!(health_of(&status, None).0, StatusCode::SERVICE_UNAVAILABLE);
        status.failing = Some("the disk is full".to_owned());
        assert_eq!(
            health_of(&status, None),
            (StatusCode::SERVICE_UNAVAILABLE, "the disk is full".to_owned())
        );
        status.gone = Some("it is given up".to_owned());
        assert_eq!(health_of(&status, None), (StatusCode::SERVICE_UNAVAILABLE, "it is given up".to_owned()));
    }
}
