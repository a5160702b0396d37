//! Reads a Prometheus endpoint.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The body of `http://ADDRESS/PATH`, which must answer 200.
pub(crate) async fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = http::Request::get(path).header("host", address.to_string()).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    ensure!(response.status() == 200, "{path} answers {}", response.status());
    let body = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec())?)
}

/// The sum of the samples called `name`, whatever their labels.
pub(crate) fn sum(text: &str, name: &str) -> anyhow::Result<f64> {
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labels) => labels.rsplit_once('}')?.1,
            None => rest.starts_with(' ').then_some(rest)?,
        };
        value.split_whitespace().next()?.parse::<f64>().ok()
    });
    let all: Vec<_> = samples.collect();
    ensure!(!all.is_empty(), "the agent has no metric {name}");
    Ok(all.iter().sum())
}

/// [`get`] of `/metrics`, and the [`sum`] of `name` there.
pub(crate) async fn metric(address: SocketAddr, name: &str) -> anyhow::Result<f64> {
    let text =
        get(address, "/metrics").await.with_context(|| format!("metrics of the agent at {address}"))?;
    sum(&text, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_added_up_over_their_labels() {
        let text = "# TYPE a counter\na_total{x=\"1\"} 2\na_total{x=\"}\"} 3 1700\na 7\na_bytes 5\n";
        assert_eq!(sum(text, "a_total").unwrap(), 5.0);
        assert_eq!(sum(text, "a").unwrap(), 7.0);
        assert!(sum(text, "b").is_err());
    }
}
