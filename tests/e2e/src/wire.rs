//! HTTP/1.1 and HTTP/2 as they are on the wire: any method, header and body, over TCP, TLS or a unix socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// An answer must come in time.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where to send to.
#[derive(Clone)]
pub enum Target {
    /// A port of the loopback.
    Tcp(u16),
    /// The same over TLS, to `localhost`.
    Tls(u16, Arc<ClientConfig>),
    /// A unix socket.
    Unix(PathBuf),
}

impl Target {
    /// A port of the loopback.
    pub const fn tcp(port: u16) -> Self {
        Self::Tcp(port)
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, String> {
        let text = |e: std::io::Error| e.to_string();
        Ok(match self {
            Self::Tcp(port) => Box::new(TcpStream::connect(("127.0.0.1", *port)).await.map_err(text)?),
            Self::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(text)?),
            Self::Tls(port, config) => {
                let tcp = TcpStream::connect(("127.0.0.1", *port)).await.map_err(text)?;
                let name = ServerName::try_from("localhost").unwrap();
                let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
                Box::new(connector.connect(name, tcp).await.map_err(text)?)
            }
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// Headers and trailers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// A header's or trailer's text; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

/// An HTTP/1.1 request with these headers.
pub async fn http1(
    target: &Target,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<Answer, String> {
    let stream = target.connect().await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let connection = tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Full::new(body)).unwrap());
    let answer = answer(response).await;
    connection.abort();
    answer
}

/// An HTTP/2 request with these headers; `POST`.
pub async fn http2(
    target: &Target,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<Answer, String> {
    let stream = target.connect().await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
    let connection = tokio::spawn(connection);
    let mut request = Request::builder().method(Method::POST).uri(format!("http://localhost{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Full::new(body)).unwrap());
    let answer = answer(response).await;
    connection.abort();
    answer
}

async fn answer(
    response: impl Future<Output = hyper::Result<http::Response<hyper::body::Incoming>>>,
) -> Result<Answer, String> {
    let all = async {
        let (parts, body) = response.await.map_err(|e| e.to_string())?.into_parts();
        let body = body.collect().await.map_err(|e| e.to_string())?;
        let mut headers = parts.headers;
        headers.extend(body.trailers().cloned().unwrap_or_default());
        Ok(Answer { status: parts.status, headers, body: body.to_bytes() })
    };
    tokio::time::timeout(PATIENCE, all).await.map_err(|_| "no answer in time".to_owned())?
}

/// A gRPC message with its prefix.
pub fn frame(flag: u8, message: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(flag);
    out.put_u32(message.len() as u32);
    out.put_slice(message);
    out.freeze()
}

/// `GET`; the body of a success.
pub async fn get(target: &Target, path: &str) -> String {
    let answer = http1(target, Method::GET, path, &[], Bytes::new()).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{path}");
    String::from_utf8(answer.body.to_vec()).unwrap()
}
