//! Asking a running process over its control socket: HTTP with JSON over a unix socket.

use std::io;
use std::path::Path;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// An answer is read up to this size.
const MAX_ANSWER: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nothing listens there.
    #[error("no program answers on {path}: {source}")]
    NotRunning {
        /// The socket.
        path: String,
        /// What connecting said.
        source: io::Error,
    },
    /// The process has refused.
    #[error("{0}")]
    Refused(String),
    /// The conversation broke off.
    #[error("the connection to the control socket broke: {0}")]
    Broken(String),
}

impl ControlError {
    /// What to tell whoever wanted to ask the running `program`.
    pub fn told(&self, program: &str) -> String {
        match self {
            Self::NotRunning { .. } => {
                format!("{self}; is {program} running, and may this user write to the socket?")
            }
            Self::Refused(_) | Self::Broken(_) => self.to_string(),
        }
    }
}

/// Sends a request to the process behind `socket` and hands back the JSON it answers with.
pub async fn request(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, ControlError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| ControlError::NotRunning { path: socket.display().to_string(), source })?;
    let broken = |e: &dyn std::fmt::Display| ControlError::Broken(e.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
    let connection = tokio::spawn(connection);
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "control")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| broken(&e))?;
    let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
    let status = response.status();
    let body =
        Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|e| broken(&e))?.to_bytes();
    connection.abort();
    let answer: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if status == StatusCode::OK {
        return Ok(answer);
    }
    // The ground answers with problem documents.
    let said = answer.get("detail").or_else(|| answer.get("error")).and_then(Value::as_str);
    let said = said.map_or_else(|| status.to_string(), str::to_owned);
    Err(ControlError::Refused(said))
}
