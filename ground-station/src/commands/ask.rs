//! Asking the running process over its control socket.

use std::path::Path;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// The largest answer.
const MAX_ANSWER: usize = 64 << 20;

/// A connection to the running process; `None` when nothing listens there.
pub(super) async fn connect(socket: &Path) -> anyhow::Result<Option<UnixStream>> {
    match UnixStream::connect(socket).await {
        Ok(stream) => Ok(Some(stream)),
        Err(e)
            if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) =>
        {
            Ok(None)
        }
        Err(e) => Err(e).with_context(|| format!("cannot ask the running process at {}", socket.display())),
    }
}

/// Sends one request and reads its JSON answer; a body makes it a POST.
pub(super) async fn request<T: DeserializeOwned>(
    stream: UnixStream,
    path: &str,
    body: Option<String>,
) -> anyhow::Result<T> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let method = if body.is_some() { http::Method::POST } else { http::Method::GET };
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "localhost")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.unwrap_or_default())))?;
    let response = sender.send_request(request).await?;
    let code = response.status();
    let answer = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let answer = answer.map_err(|e| anyhow::anyhow!("the answer cannot be read: {e}"))?.to_bytes();
    connection.abort();
    if !code.is_success() {
        bail!("the running process answers {code}: {}", String::from_utf8_lossy(&answer));
    }
    serde_json::from_slice(&answer).context("the answer cannot be read; is it the same version?")
}
