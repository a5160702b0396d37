//! Clients that send requests over OTLP/HTTP and note what was said to each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::history::{Event, History};
use crate::telemetry::{Request, Source};

/// A history that several tasks write.
pub type Shared = Arc<Mutex<History>>;

/// The history, to write in.
pub fn noted(history: &Shared) -> MutexGuard<'_, History> {
    history.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a client waits after a refusal: others would only be refused too.
const REFUSED: Duration = Duration::from_millis(50);

/// Sends one request; whether it was accepted.
pub async fn send(port: u16, request: Request, history: &Shared) -> bool {
    let Request { signal, body, items, .. } = request;
    let headers = [("content-type", "application/x-protobuf")];
    let target = e2e::wire::Target::tcp(port);
    let answer = e2e::wire::http1(&target, Method::POST, signal.http_path(), &headers, body).await;
    let signal = signal as u8;
    let (event, accepted) = match answer {
        Ok(answer) if answer.status == StatusCode::OK => (Event::Accepted { signal, items }, true),
        Ok(_) => (Event::Refused { signal, items }, false),
        Err(_) => (Event::Undecided { signal, items }, false),
    };
    noted(history).note(event);
    accepted
}

/// Clients that send without end.
pub struct Load {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Load {
    /// Starts `clients`, each with one request of about `bytes` after the other.
    pub fn start(
        port: u16,
        clients: usize,
        bytes: usize,
        source: &Arc<Mutex<Source>>,
        history: &Shared,
    ) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let (stop, source, history) = (stop.clone(), Arc::clone(source), Arc::clone(history));
            tasks.spawn(async move {
                while !stop.is_cancelled() {
                    let request = source.lock().unwrap_or_else(PoisonError::into_inner).make(bytes);
                    if !send(port, request, &history).await {
                        // The pace of a client, not a wait for anything.
                        stop.run_until_cancelled(tokio::time::sleep(REFUSED)).await;
                    }
                }
            });
        }
        Self { tasks, stop }
    }

    /// Lets the requests that are under way end.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}
