//! The backend for log records: it takes OTLP/HTTP in JSON, writes each request as a line of a file, and fails when it is told to.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use bytes::Bytes;
use perigee_shared::env::Env;
use tokio::net::TcpListener;

/// Clones are the same backend.
#[derive(Clone)]
pub(crate) struct LogsBackend(Arc<Mutex<Inner>>);

struct Inner {
    file: File,
    fails: bool,
    /// A text to wait for, and when the first record with it came, ns since the Unix epoch.
    awaited: &'static str,
    came: Option<u64>,
}

impl LogsBackend {
    /// Writes to `path`, and notes when `awaited` comes; also where it listens.
    pub(crate) async fn start(path: &Path, awaited: &'static str) -> io::Result<(Self, String)> {
        let inner = Inner { file: File::create(path)?, fails: false, awaited, came: None };
        let backend = Self(Arc::new(Mutex::new(inner)));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let router = Router::new().route("/v1/logs", post(take)).with_state(backend.clone());
        // It ends with the demo; accepting does not fail for good.
        tokio::spawn(async move { drop(axum::serve(listener, router).await) });
        Ok((backend, url))
    }

    /// From now on it fails, or works again.
    pub(crate) fn fail(&self, fails: bool) {
        self.lock().fails = fails;
    }

    /// When the awaited record came, ns since the Unix epoch.
    pub(crate) fn came(&self) -> Option<u64> {
        self.lock().came
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn take(State(backend): State<LogsBackend>, body: Bytes) -> (StatusCode, &'static str) {
    let mut inner = backend.lock();
    if inner.fails || inner.file.write_all(&[&body[..], b"\n"].concat()).is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "");
    }
    let awaited = inner.awaited.as_bytes();
    if inner.came.is_none() && body.windows(awaited.len()).any(|part| part == awaited) {
        inner.came = Some(Env::production().unix_nano());
    }
    (StatusCode::OK, "{}")
}
