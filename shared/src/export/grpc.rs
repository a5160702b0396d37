//! OTLP over gRPC; requests and responses stay bytes.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use http_body_util::Full;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::pki_types::ServerName;
use tonic::body::Body;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::Service;

use super::answer::{ENCODING, PREFIX, exchange};
use super::auth::Authorization;
use super::compression::{Negotiated, name, pack};
use super::config::{Compression, OtlpConfig};
use super::endpoint::target;
use super::outcome::{About, Outcome, accepted, cause, short, status};
use super::tls::client_config;
use crate::config::Invalid;
use crate::env::Env;
use crate::signal::Signal;

/// Bytes of the header and trailer fields of an answer: some backends explain themselves at length.
pub(crate) const MOST_HEADER_BYTES: u32 = 1 << 20;

/// An `otlp` exporter's client.
pub struct Grpc {
    channel: Channel,
    headers: HeaderMap,
    authorization: Option<Authorization>,
    compression: Negotiated,
    timeout: Duration,
    max_response: usize,
    place: String,
    env: Env,
}

impl Grpc {
    /// Must be called inside a tokio runtime; it connects when it first sends.
    pub(super) fn try_new(key: &str, config: &OtlpConfig, env: &Env) -> Result<Self, Invalid> {
        config.validate_endpoint(key)?;
        Ok(Self {
            channel: channel(key, config)?,
            headers: headers(key, config)?,
            authorization: config.authorization.clone(),
            compression: Negotiated::new(key, config.compression),
            timeout: config.timeout.0,
            max_response: config.max_response_bytes.as_usize(),
            // A query may hold a key.
            place: config.endpoint.split('?').next().unwrap_or_default().to_owned(),
            env: env.clone(),
        })
    }

    /// Where it sends to.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    pub(super) async fn send(&self, signal: Signal, body: &Bytes) -> Outcome {
        let compression = self.compression.in_use();
        let outcome = self.exchange(signal, body, compression).await;
        let plain = || self.exchange(signal, body, Compression::None);
        self.compression.or_plain(compression, &outcome, plain).await.unwrap_or(outcome)
    }

    async fn exchange(&self, signal: Signal, body: &Bytes, compression: Compression) -> Outcome {
        let message = body.clone();
        let framed = match self.env.cpu(move || framed(&message, compression)).await {
            Ok(framed) => framed,
            Err(error) => return Outcome::retry(format!("compression failed: {error}")),
        };
        let mut request = http::Request::new(Body::new(Full::new(framed)));
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::from_static(signal.grpc_path());
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        if let Some((name, value)) = self.authorization.as_ref().and_then(Authorization::now) {
            headers.insert(name, value);
        }
        if let Some(name) = name(compression) {
            headers.insert(ENCODING, HeaderValue::from_static(name));
        }
        let answer = exchange(self.channel.clone(), request, self.max_response);
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(message)) => accepted(&message),
            Ok(Err(status)) => outcome(&status),
            Err(_) => Outcome::retry(format!("no answer within {:?}", self.timeout)),
        }
    }
}

/// A message behind what says its length and whether it is compressed.
fn framed(message: &[u8], compression: Compression) -> io::Result<Bytes> {
    let mut out = pack(vec![0; PREFIX], compression, |out| out.write_all(message))?;
    let length = (out.len() - PREFIX) as u32;
    out[0] = u8::from(compression != Compression::None);
    out[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    Ok(out.into())
}

/// Whether an answer says that a message is larger than the backend takes. Servers have one code for that and for being busy.
fn is_about_size(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    said.contains("message")
        && ["larger than", "exceeds", "too large", "too big"].iter().any(|w| said.contains(w))
}

fn outcome(s: &Status) -> Outcome {
    let (_, delay) = status(s.details());
    let said = s.message();
    let cause = std::error::Error::source(s).map(cause).filter(|cause| !said.contains(&**cause));
    let cause = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
    let reason = short(&format!("{:?}: {said}{cause}", s.code()));
    match s.code() {
        Code::ResourceExhausted | Code::OutOfRange if delay.is_none() && is_about_size(said) => {
            Outcome::TooLarge { reason, proxy: false }
        }
        // A backend that has enough for now is to have the same later, also when it does not say when.
        Code::ResourceExhausted
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Outcome::Retry { after: delay, reason },
        // A connection that breaks is reported as one of these by tonic, with the transport's error as its source.
        Code::Unknown | Code::Internal if std::error::Error::source(s).is_some() => Outcome::retry(reason),
        Code::InvalidArgument => Outcome::Refused { reason, about: About::Data },
        Code::Unknown | Code::Internal => Outcome::Refused { reason, about: About::Perhaps },
        _ => Outcome::Refused { reason, about: About::Settings },
    }
}

/// The connection, which is made when it is first needed.
fn channel(key: &str, config: &OtlpConfig) -> Result<Channel, Invalid> {
    let wrong = |message: String| Invalid::new(format!("{key}.endpoint"), message);
    let target = target(&config.endpoint, config.tls.as_ref()).map_err(wrong)?;
    let address = target.address.trim_end_matches('/');
    // TLS is the connector's: tonic would add its own to what begins with https.
    let mut endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|e| wrong(format!("is not an address ({e}); write HOST:PORT")))?
        .connect_timeout(config.timeout.0)
        .http2_max_header_list_size(MOST_HEADER_BYTES)
        .user_agent(concat!("perigee/", env!("CARGO_PKG_VERSION")))
        .map_err(|e| wrong(e.to_string()))?;
    if let Some(keepalive) = config.keepalive.filter(|k| !k.time.0.is_zero()) {
        endpoint = endpoint
            .http2_keep_alive_interval(keepalive.time.0)
            .keep_alive_timeout(keepalive.timeout.0)
            .keep_alive_while_idle(keepalive.permit_without_stream);
    }
    if !target.tls {
        return Ok(endpoint.connect_lazy());
    }
    let settings = config.tls.clone().unwrap_or_default();
    let tls = client_config(key, &settings)?;
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_only();
    let connector = match settings.server_name {
        None => builder.enable_http2().build(),
        Some(name) => {
            let name = ServerName::try_from(name)
                .map_err(|_| Invalid::new(format!("{key}.tls.server_name"), "is not a host name"))?;
            builder.with_server_name_resolver(FixedServerNameResolver::new(name)).enable_http2().build()
        }
    };
    let origin =
        format!("https://{address}").parse().map_err(|e| wrong(format!("is not an address ({e})")))?;
    Ok(endpoint.origin(origin).connect_with_connector_lazy(Secured(connector)))
}

/// Connects with TLS to what is called `http`.
#[derive(Clone)]
struct Secured(HttpsConnector<HttpConnector>);

impl Service<Uri> for Secured {
    type Response = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;
    type Error = <HttpsConnector<HttpConnector> as Service<Uri>>::Error;
    type Future = <HttpsConnector<HttpConnector> as Service<Uri>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let mut parts = uri.clone().into_parts();
        parts.scheme = Some(http::uri::Scheme::HTTPS);
        // What was a whole URI stays one with another scheme.
        self.0.call(Uri::from_parts(parts).unwrap_or(uri))
    }
}

/// What goes with every request.
fn headers(key: &str, config: &OtlpConfig) -> Result<HeaderMap, Invalid> {
    let mut out = MetadataMap::new();
    for (name, value) in &config.headers.0 {
        let wrong =
            |what: &str| Invalid::new(format!("{key}.headers.{name}"), format!("is not a header {what}"));
        let name: AsciiMetadataKey = name.to_lowercase().parse().map_err(|_| wrong("name"))?;
        let value: AsciiMetadataValue = value.parse().map_err(|_| wrong("value"))?;
        out.insert(name, value);
    }
    let mut out = out.into_headers();
    out.insert(TE, HeaderValue::from_static("trailers"));
    out.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    // Some answer in the encoding of the request.
    out.insert("grpc-accept-encoding", HeaderValue::from_static("gzip,zstd"));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use http_body_util::combinators::BoxBody;
    use tokio_util::sync::CancellationToken;

    use super::super::outcome::tests::status_with_retry;
    use super::*;
    use crate::serve::{Closed, Endpoint, Limits, Listener, keep};

    #[test]
    fn codes_mean_what_the_specification_says() {
        for code in (0..17).map(Code::from_i32) {
            let retryable = matches!(
                code,
                Code::Cancelled
                    | Code::DeadlineExceeded
                    | Code::Aborted
                    | Code::OutOfRange
                    | Code::Unavailable
                    | Code::DataLoss
                    | Code::ResourceExhausted
            );
            let out = outcome(&Status::new(code, "because"));
            assert_eq!(matches!(out, Outcome::Retry { .. }), retryable, "{code:?}");
            for said in [
                "grpc: received message larger than max (5 vs. 4)",
                "gRPC message exceeds maximum size 4: 5",
                "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes",
            ] {
                let size = matches!(outcome(&Status::new(code, said)), Outcome::TooLarge { .. });
                assert_eq!(
                    size,
                    matches!(code, Code::ResourceExhausted | Code::OutOfRange),
                    "{code:?}: {said}"
                );
            }
        }
    }

    #[test]
    fn exhausted_with_a_delay_is_retried_after_it() {
        let details = Bytes::from(status_with_retry("busy", 9));
        let out = outcome(&Status::with_details(Code::ResourceExhausted, "busy", details));
        assert!(matches!(out, Outcome::Retry { after: Some(d), .. } if d.as_secs() == 9), "{out:?}");
    }

    #[tokio::test]
    async fn an_endpoint_is_checked_before_it_is_used() {
        for (text, ok) in [
            ("localhost:4317", true),
            ("http://127.0.0.1:4317", true),
            ("ftp://x:1", false),
            ("localhost", false),
            ("http://x y:1", false),
            ("ada:secret@x:1", false),
            ("http://x:1/path", false),
            ("x:1?key=secret", false),
        ] {
            let result = Grpc::try_new("exporters.otlp", &OtlpConfig::new(text), &Env::production());
            assert_eq!(result.is_ok(), ok, "{text}");
            if let Err(invalid) = result {
                assert_eq!(invalid.key, "exporters.otlp.endpoint");
                assert!(!invalid.message.contains("secret"), "{}", invalid.message);
            }
        }
    }

    /// What a client makes of a server's answer.
    async fn answered(
        answer: impl Fn() -> http::Response<Scripted> + Clone + Send + Sync + 'static,
    ) -> Outcome {
        let listener = Listener::bind(&Endpoint::Tcp("127.0.0.1:0".into()), "a test", None).await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = hyper::service::service_fn(move |_| {
            let answer = answer();
            async move { Ok::<_, std::convert::Infallible>(answer) }
        });
        let stop = CancellationToken::new();
        let tasks = crate::supervise::Supervisor::new(&Env::production());
        keep(&tasks, "test", listener, (Limits::default(), Closed::default()), service, stop.clone());
        let config = OtlpConfig { compression: Compression::None, ..OtlpConfig::new(address.to_string()) };
        let client = Grpc::try_new("exporters.otlp", &config, &Env::production()).unwrap();
        let out = client.send(Signal::Logs, &Bytes::new()).await;
        stop.cancel();
        out
    }

    /// A body and its trailers.
    type Scripted = BoxBody<Bytes, std::convert::Infallible>;

    fn body(bytes: &'static [u8], trailers: Option<&[(&'static str, &str)]>) -> Scripted {
        let trailers = trailers.map(|fields| {
            let parse =
                |(name, value): &(&'static str, &str)| (name.parse().unwrap(), value.parse().unwrap());
            fields.iter().map(parse).collect::<http::HeaderMap>()
        });
        let full = http_body_util::Full::new(Bytes::from_static(bytes));
        match trailers {
            Some(trailers) => full.with_trailers(async move { Some(Ok(trailers)) }).boxed(),
            None => full.boxed(),
        }
    }

    fn grpc(body: Scripted) -> http::Response<Scripted> {
        http::Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    }

    #[tokio::test]
    async fn a_proxys_answer_is_about_the_way_and_never_about_the_data() {
        for (code, kind) in [
            (200, "text/html"),
            (302, "text/html"),
            (400, "text/plain"),
            (401, "application/json"),
            (403, "text/html"),
            (404, "text/html"),
            (408, "text/plain"),
            (413, "text/html"),
            (429, "text/plain"),
            (500, "application/json"),
            (502, "text/html"),
            (503, ""),
        ] {
            let out = answered(move || {
                let answer = http::Response::builder().status(code).header("content-type", kind);
                answer.body(body(b"<html>a page</html>", None)).unwrap()
            })
            .await;
            let settings = matches!(&out, Outcome::Refused { about: About::Settings, .. });
            assert_eq!(settings, matches!(code, 401 | 403 | 404), "{code}: {out:?}");
            assert!(settings || matches!(&out, Outcome::Retry { .. }), "{code}: {out:?}");
            assert!(format!("{out:?}").contains(&format!("HTTP {code}")), "{out:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_without_a_status_is_tried_again() {
        for trailers in [None, Some(&[("x", "y")][..])] {
            let out = answered(move || grpc(body(&[0; 5], trailers))).await;
            assert!(matches!(&out, Outcome::Retry { .. }), "{out:?}");
        }
    }

    #[tokio::test]
    async fn details_that_are_no_base64_and_long_words_are_understood() {
        for details in ["%%%", "a-_b", "Cg==,Cg=="] {
            let status = [("grpc-status", "3"), ("grpc-message", "no"), ("grpc-status-details-bin", details)];
            let out = answered(move || grpc(body(b"", Some(&status)))).await;
            assert!(matches!(&out, Outcome::Refused { about: About::Data, .. }), "{details}: {out:?}");
        }
        let long = "x".repeat(200_000);
        let out =
            answered(move || grpc(body(b"", Some(&[("grpc-status", "13"), ("grpc-message", &long)])))).await;
        assert!(matches!(&out, Outcome::Refused { about: About::Perhaps, .. }), "{out:?}");
        let ok = answered(|| grpc(body(&[0; 5], Some(&[("grpc-status", "0")])))).await;
        assert_eq!(ok, Outcome::ACCEPTED);
    }

    #[tokio::test]
    async fn words_that_are_wrongly_written_are_read_as_far_as_they_can_be() {
        for (said, read) in [
            ("50%25 late%2C sorry", "50% late, sorry"),
            ("100%zz of %E2%82%AC", "100%zz of \u{20ac}"),
            ("late %FF%fe point 5%", "late \u{fffd}\u{fffd} point 5%"),
        ] {
            let status = [("grpc-status", "3"), ("grpc-message", said)];
            let out = answered(move || grpc(body(b"", Some(&status)))).await;
            let expected =
                Outcome::Refused { reason: format!("InvalidArgument: {read}"), about: About::Data };
            assert_eq!(out, expected, "{said}");
        }
        let raw = || {
            let mut answer = grpc(body(b"", None));
            answer.headers_mut().insert("grpc-status", "3".parse().unwrap());
            let words = http::HeaderValue::from_bytes(b"late \xff point").unwrap();
            answer.headers_mut().insert("grpc-message", words);
            answer
        };
        let out = answered(raw).await;
        let reason = "InvalidArgument: late \u{fffd} point".to_owned();
        assert_eq!(out, Outcome::Refused { reason, about: About::Data });
    }

    #[tokio::test]
    async fn what_a_backend_says_it_took_is_not_sent_again_whatever_its_message_is() {
        const OK: Option<&[(&str, &str)]> = Some(&[("grpc-status", "0")]);
        for bytes in [&b""[..], &[0, 0, 0], &[0, 0, 0, 0, 9, 1], &[1, 0, 0, 0, 2, 7, 7], &[9; 100_000]] {
            for encoding in ["", "gzip", "zstd", "br"] {
                let out = answered(move || {
                    let mut answer = grpc(body(bytes, OK));
                    answer.headers_mut().insert("grpc-encoding", encoding.parse().unwrap());
                    answer
                })
                .await;
                assert_eq!(out, Outcome::ACCEPTED, "{} bytes, {encoding}", bytes.len());
            }
        }
        let in_the_head = || {
            let mut answer = grpc(body(b"", None));
            answer.headers_mut().insert("grpc-status", "0".parse().unwrap());
            answer
        };
        assert_eq!(answered(in_the_head).await, Outcome::ACCEPTED);
    }

    #[tokio::test]
    async fn a_backend_that_is_not_there_is_tried_again() {
        let client = Grpc::try_new("x", &OtlpConfig::new("127.0.0.1:9"), &Env::production()).unwrap();
        let out = client.send(Signal::Traces, &Bytes::new()).await;
        assert!(matches!(out, Outcome::Retry { .. }), "{out:?}");
    }
}
