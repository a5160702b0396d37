//! OTLP over HTTP, as protobuf.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT,
};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout_at};

use super::auth::Authorization;
use super::compression::{Negotiated, name, pack};
use super::config::{Compression, Encoding, OtlpHttpConfig};
use super::endpoint::{target, wrong_in};
use super::outcome::{About, Outcome, accepted, accepted_json, cause, short, status, status_json};
use super::tls::client_config;
use crate::compress::{DecompressError, Encoding as ContentEncoding, decompress_capped};
use crate::config::Invalid;
use crate::env::Env;
use crate::otlp::json::{self, WriteError};
use crate::serve::MOST_HEADERS;
use crate::signal::Signal;
use crate::units::ByteSize;

/// Redirections that are followed.
pub(crate) const MOST_REDIRECTIONS: usize = 4;

/// An `otlphttp` exporter's client.
pub struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// By signal, in the order of [`Signal::ALL`].
    urls: [Uri; 3],
    headers: HeaderMap,
    authorization: Option<Authorization>,
    encoding: Encoding,
    compression: Negotiated,
    timeout: Duration,
    max_response: usize,
    env: Env,
}

impl Http {
    pub(super) fn try_new(key: &str, config: &OtlpHttpConfig, env: &Env) -> Result<Self, Invalid> {
        config.validate_endpoint(key)?;
        let urls = urls(key, config)?;
        let tls = client_config(key, &config.tls.clone().unwrap_or_default())?;
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let connector = match config.tls.as_ref().and_then(|tls| tls.server_name.clone()) {
            None => connector.enable_http1().build(),
            Some(name) => {
                let name = ServerName::try_from(name)
                    .map_err(|_| Invalid::new(format!("{key}.tls.server_name"), "is not a host name"))?;
                connector.with_server_name_resolver(FixedServerNameResolver::new(name)).enable_http1().build()
            }
        };
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).http1_max_headers(MOST_HEADERS).build(connector),
            urls,
            headers: headers(key, config)?,
            authorization: config.authorization.clone(),
            encoding: config.encoding,
            compression: Negotiated::new(key, config.compression),
            timeout: config.timeout.0,
            max_response: config.max_response_bytes.as_usize(),
            env: env.clone(),
        })
    }

    /// Where a signal goes.
    pub(super) fn place(&self, signal: Signal) -> String {
        shown(&self.urls[signal as usize - 1])
    }

    pub(super) async fn send(&self, signal: Signal, body: &Bytes) -> Outcome {
        let compression = self.compression.in_use();
        let outcome = self.send_with(signal, body, compression).await;
        let plain = || self.send_with(signal, body, Compression::None);
        self.compression.or_plain(compression, &outcome, plain).await.unwrap_or(outcome)
    }

    async fn send_with(&self, signal: Signal, body: &Bytes, compression: Compression) -> Outcome {
        let (body, encoding) = (body.clone(), self.encoding);
        let written = self.env.cpu(move || written(signal, body, encoding, compression));
        let body = match written.await {
            Ok(body) => body,
            Err(WriteError::Io(e)) => return Outcome::retry(format!("compression failed: {e}")),
            Err(WriteError::Malformed(_)) => return Outcome::unreadable(),
        };
        self.exchange(self.urls[signal as usize - 1].clone(), &body, compression).await
    }

    /// Sends a request, to where a redirection within the same origin says, and reads the answer.
    async fn exchange(&self, mut url: Uri, body: &Bytes, compression: Compression) -> Outcome {
        let until = Instant::now() + self.timeout;
        for _ in 0..=MOST_REDIRECTIONS {
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = Method::POST;
            *request.uri_mut() = url.clone();
            *request.headers_mut() = self.headers.clone();
            if let Some((name, value)) = self.authorization.as_ref().and_then(Authorization::now) {
                request.headers_mut().insert(name, value);
            }
            if let Some(name) = name(compression) {
                request.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(name));
            }
            let response = match timeout_at(until, self.client.request(request)).await {
                Ok(Ok(response)) => response,
                Err(_) => return Outcome::retry(format!("no answer within {:?}", self.timeout)),
                Ok(Err(error)) => return Outcome::retry(cause(&error)),
            };
            match redirected(&url, &response) {
                Some(next) => url = next,
                None => return at(self.read(response, until).await, &url),
            }
        }
        let reason = format!("it redirects more than {MOST_REDIRECTIONS} times");
        Outcome::Refused { reason, about: About::Settings }
    }

    /// Reads an answer. Its head decides, whatever becomes of its body.
    async fn read(&self, response: Response<hyper::body::Incoming>, until: Instant) -> Outcome {
        let code = response.status();
        let after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| retry_after(v, self.env.unix_nano()));
        let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let (kind, encoding) =
            (header(CONTENT_TYPE).to_owned(), ContentEncoding::from_name(header(CONTENT_ENCODING)));
        let body = Limited::new(response.into_body(), self.max_response).collect();
        let body = match (timeout_at(until, body).await, encoding) {
            (Err(_), _) => Err(format!("the answer did not end within {:?}", self.timeout)),
            (Ok(Err(error)), _) if error.is::<LengthLimitError>() => Err(self.too_long()),
            (Ok(Err(_)), _) => Err("the connection ended inside the answer".to_owned()),
            (Ok(Ok(_)), None) => Err("the answer has a Content-Encoding that is not implemented".to_owned()),
            (Ok(Ok(body)), Some(encoding)) => {
                decompress_capped(encoding, &body.to_bytes(), self.max_response).map_err(
                    |error| match error {
                        DecompressError::TooLarge { .. } => self.too_long(),
                        DecompressError::Corrupt(_) => "the answer cannot be decompressed".to_owned(),
                    },
                )
            }
        };
        outcome(code, after, &kind, body.as_deref().map_err(String::as_str))
    }

    fn too_long(&self) -> String {
        format!("the answer is longer than max_response_bytes, {}", ByteSize(self.max_response as u64))
    }
}

/// A URL for people: a query may hold a key.
fn shown(url: &Uri) -> String {
    let (scheme, place) = (url.scheme_str().unwrap_or("http"), url.authority().map_or("", |a| a.as_str()));
    format!("{scheme}://{place}{}", url.path())
}

/// An answer about the way names the URL: a wrong path is the usual mistake.
fn at(outcome: Outcome, url: &Uri) -> Outcome {
    match outcome {
        Outcome::Refused { reason, about: About::Settings } => {
            let reason = format!("{reason} (POST {})", shown(url));
            Outcome::Refused { reason, about: About::Settings }
        }
        other => other,
    }
}

/// Where a 307 or 308 sends a request, if that is the same origin: headers may hold credentials.
fn redirected<B>(from: &Uri, response: &Response<B>) -> Option<Uri> {
    if ![StatusCode::TEMPORARY_REDIRECT, StatusCode::PERMANENT_REDIRECT].contains(&response.status()) {
        return None;
    }
    let to = resolved(from, response.headers().get(LOCATION)?.to_str().ok()?)?;
    (to.scheme() == from.scheme() && to.authority() == from.authority()).then_some(to)
}

/// A reference as it is meant in an answer from `from` (RFC 3986, 5.2).
fn resolved(from: &Uri, reference: &str) -> Option<Uri> {
    if let Some(rest) = reference.strip_prefix("//") {
        return format!("{}://{rest}", from.scheme_str()?).parse().ok();
    }
    let (path, query) =
        reference.split_once('?').map_or((reference, None), |(path, query)| (path, Some(query)));
    if path.split('/').next()?.contains(':') {
        return reference.parse().ok();
    }
    let base = if path.starts_with('/') { "" } else { from.path().rsplit_once('/')?.0 };
    let path = format!("{base}/{}", path.trim_start_matches('/'));
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    let path = format!("/{}", segments.join("/"));
    let mut parts = from.clone().into_parts();
    parts.path_and_query = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}")).parse().ok();
    Uri::from_parts(parts).ok()
}

/// What an answer means. What it says is kept as the reason, or why its body could not be read.
fn outcome(code: StatusCode, after: Option<Duration>, kind: &str, body: Result<&[u8], &str>) -> Outcome {
    let (body, unread) = (body.unwrap_or_default(), body.err());
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_protobuf = matches!(kind.as_str(), "application/x-protobuf" | "application/protobuf");
    let is_json = kind == "application/json" || kind.ends_with("+json");
    // A page is written by a proxy, which knows nothing of the data.
    let is_page = kind == "text/html";
    if code.is_success() && !is_page {
        return if is_protobuf {
            accepted(body)
        } else if is_json {
            accepted_json(body)
        } else {
            Outcome::ACCEPTED
        };
    }
    let (message, delay) = if is_protobuf {
        status(body)
    } else if is_json {
        status_json(body)
    } else {
        (short(String::from_utf8_lossy(body).trim()), None)
    };
    let message = unread.map_or(message, str::to_owned);
    let reason = if message.is_empty() { format!("HTTP {code}") } else { format!("HTTP {code}: {message}") };
    let about = match code.as_u16() {
        429 | 502 | 503 | 504 => return Outcome::Retry { after: after.or(delay), reason },
        413 => return Outcome::TooLarge { reason, proxy: is_page },
        400 | 422 if !is_page => About::Data,
        500 if !is_page => About::Perhaps,
        _ => About::Settings,
    };
    Outcome::Refused { reason, about }
}

/// `Retry-After` in seconds or as an HTTP date (RFC 9110, 10.2.3).
fn retry_after(value: &str, now_unix_nano: u64) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse::<u32>() {
        return Some(Duration::from_secs(u64::from(seconds)));
    }
    let at = httpdate::parse_http_date(value.trim()).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(at.saturating_sub(Duration::from_nanos(now_unix_nano)))
}

/// A request as it is sent.
fn written(
    signal: Signal,
    body: Bytes,
    encoding: Encoding,
    compression: Compression,
) -> Result<Bytes, WriteError> {
    if (encoding, compression) == (Encoding::Proto, Compression::None) {
        return Ok(body);
    }
    let put = |out: &mut dyn Write| match encoding {
        Encoding::Proto => Ok(out.write_all(&body)?),
        Encoding::Json => json::write_to(signal, &body, out),
    };
    let room = if compression == Compression::None { body.len() } else { 0 };
    pack(Vec::with_capacity(room), compression, put).map(Bytes::from)
}

/// Where each signal goes.
pub(super) fn urls(key: &str, config: &OtlpHttpConfig) -> Result<[Uri; 3], Invalid> {
    let base = config.endpoint.trim_end_matches('/');
    let mut out = std::array::from_fn(|_| Uri::default());
    for signal in Signal::ALL {
        let (name, whole) = config.url_of(signal);
        let (name, url) = match whole {
            Some(url) => (name, url.to_owned()),
            // The signals that an exporter gets are known elsewhere.
            None if base.is_empty() => continue,
            None => ("endpoint", format!("{base}{}", signal.http_path())),
        };
        let wrong = |message: String| Invalid::new(format!("{key}.{name}"), message);
        if let Some(said) = wrong_in(&url) {
            return Err(wrong(said.to_owned()));
        }
        if name == "endpoint" && base.contains('?') {
            let message = "has a query, and the signal's path follows the endpoint; write whole URLs in traces_endpoint, \
                           metrics_endpoint and logs_endpoint";
            return Err(wrong(message.to_owned()));
        }
        let uri: Uri = url
            .parse()
            .map_err(|e| wrong(format!("is not a URL ({e}); write http://HOST:PORT or https://HOST:PORT")))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(wrong("must begin with http:// or https://".to_owned()));
        }
        target(&url, config.tls.as_ref()).map_err(wrong)?;
        out[signal as usize - 1] = uri;
    }
    Ok(out)
}

fn headers(key: &str, config: &OtlpHttpConfig) -> Result<HeaderMap, Invalid> {
    let mut out = HeaderMap::new();
    let kind = match config.encoding {
        Encoding::Proto => "application/x-protobuf",
        Encoding::Json => "application/json",
    };
    out.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    out.insert(USER_AGENT, HeaderValue::from_static(concat!("perigee/", env!("CARGO_PKG_VERSION"))));
    for (name, value) in &config.headers.0 {
        let wrong =
            |what: &str| Invalid::new(format!("{key}.headers.{name}"), format!("is not a header {what}"));
        let name: HeaderName = name.parse().map_err(|_| wrong("name"))?;
        let mut value: HeaderValue = value.parse().map_err(|_| wrong("value"))?;
        value.set_sensitive(true);
        out.insert(name, value);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn only_a_few_codes_are_about_the_data() {
        for code in (100..600).filter_map(|c| StatusCode::from_u16(c).ok()) {
            for kind in ["", "text/plain", "text/html; charset=utf-8", "application/json"] {
                let out = outcome(code, None, kind, Ok(b""));
                let page = kind.starts_with("text/html");
                let right = match (code.as_u16(), &out) {
                    (200..300, Outcome::Accepted { .. }) => !page,
                    (200..300, Outcome::Refused { about: About::Settings, .. }) => page,
                    (429 | 502 | 503 | 504, Outcome::Retry { .. }) => true,
                    (413, Outcome::TooLarge { proxy, .. }) => *proxy == page,
                    (400 | 422, Outcome::Refused { about: About::Data, .. }) => !page,
                    (500, Outcome::Refused { about: About::Perhaps, .. }) => !page,
                    (400 | 422 | 500, Outcome::Refused { about: About::Settings, .. }) => page,
                    (200..300 | 429 | 502..=504 | 413, _) => false,
                    (_, Outcome::Refused { about, .. }) => *about == About::Settings,
                    _ => false,
                };
                assert!(right, "{code} {kind}: {out:?}");
            }
        }
    }

    #[test]
    fn the_backends_own_words_are_the_reason() {
        let reason = |kind: &str, body: &[u8]| match outcome(StatusCode::BAD_REQUEST, None, kind, Ok(body)) {
            Outcome::Refused { reason, .. } => reason,
            other => panic!("{other:?}"),
        };
        let says = "HTTP 400 Bad Request: out of order";
        assert_eq!(reason("text/plain; charset=utf-8", b"out of order\n"), says);
        assert_eq!(reason("application/json", br#"{"code":3,"message":"out of order"}"#), says);
        assert_eq!(reason("application/json", br#"{"status":"error","error":"out of order"}"#), says);
        let mut status = Vec::new();
        crate::otlp::protobuf::put_bytes(&mut status, 2, b"out of order");
        assert_eq!(reason("application/x-protobuf", &status), says);
        assert!(reason("text/plain", &vec![b'x'; 100_000]).len() < 300, "bounded");
    }

    #[test]
    fn rejected_items_are_counted_however_they_are_written() {
        let rejected = |kind: &str, body: &[u8]| outcome(StatusCode::OK, None, kind, Ok(body));
        let expected = Outcome::Accepted { rejected: 3, message: "late".to_owned() };
        for json in [
            &br#"{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"late"}}"#[..],
            br#"{"partialSuccess":{"rejectedDataPoints":3,"errorMessage":"late"}}"#,
        ] {
            assert_eq!(rejected("application/json", json), expected);
        }
        let (mut partial, mut response) = (vec![0x08, 3], Vec::new());
        crate::otlp::protobuf::put_bytes(&mut partial, 2, b"late");
        crate::otlp::protobuf::put_bytes(&mut response, 1, &partial);
        for kind in ["application/x-protobuf", "application/protobuf"] {
            assert_eq!(rejected(kind, &response), expected);
        }
        assert_eq!(rejected("text/plain", b"fine"), Outcome::ACCEPTED);
    }

    #[test]
    fn redirections_stay_within_the_origin() {
        let from: Uri = "http://backend:4318/v1/logs".parse().unwrap();
        let to = |code: u16, location: &str| {
            let response = Response::builder().status(code).header(LOCATION, location).body(()).unwrap();
            redirected(&from, &response).map(|uri| uri.to_string())
        };
        assert_eq!(to(307, "/otlp/v1/logs?x=1").as_deref(), Some("http://backend:4318/otlp/v1/logs?x=1"));
        assert_eq!(to(308, "http://backend:4318/x").as_deref(), Some("http://backend:4318/x"));
        for (location, path) in [
            ("x", "/v1/x"),
            ("x/y?z=/../a", "/v1/x/y?z=/../a"),
            ("../otlp/./v1/logs", "/otlp/v1/logs"),
            ("../../../x", "/x"),
            ("//backend:4318/x", "/x"),
            ("/a/../x", "/x"),
        ] {
            assert_eq!(to(307, location), Some(format!("http://backend:4318{path}")), "{location}");
        }
        for (code, location) in [
            (301, "/x"),
            (302, "/x"),
            (307, "http://other:4318/x"),
            (307, "https://backend:4318/x"),
            (307, "//other/x"),
            (307, "//backend/x"),
            (307, "mailto:x"),
        ] {
            assert_eq!(to(code, location), None, "{code} {location}");
        }
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        assert_eq!(retry_after("120", 0), Some(Duration::from_secs(120)));
        // 1994-11-06 08:49:37 UTC is 784,111,777.
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(retry_after(date, 784_111_770_000_000_000), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(date, u64::MAX), Some(Duration::ZERO));
        for wrong in ["", "-1", "soon", "Sun, 06 Foo 1994 08:49:37 GMT"] {
            assert_eq!(retry_after(wrong, 0), None, "{wrong}");
        }
    }

    #[test]
    fn an_endpoint_is_checked_before_it_is_used() {
        for (text, ok) in [
            ("http://localhost:9090/api/v1/otlp", true),
            ("https://x/", true),
            ("localhost:4318", false),
            ("", false),
            ("http://ada:secret@x:4318", false),
            ("http://x:4318/?key=secret", false),
        ] {
            let result = Http::try_new("exporters.otlphttp", &OtlpHttpConfig::new(text), &Env::production());
            assert_eq!(result.is_ok(), ok, "{text}");
        }
        let urls = urls("x", &OtlpHttpConfig::new("http://localhost:9090/api/v1/otlp/")).unwrap();
        assert_eq!(urls[1].path(), "/api/v1/otlp/v1/metrics");
    }

    #[test]
    fn a_signals_whole_url_keeps_its_query_and_no_message_says_it() {
        let whole = OtlpHttpConfig {
            logs_endpoint: Some("http://x:1/push?key=secret".into()),
            ..OtlpHttpConfig::new("")
        };
        let urls = urls("x", &whole).unwrap();
        assert_eq!(urls[2].query(), Some("key=secret"));
        let refused = Outcome::Refused { reason: "HTTP 404 Not Found".into(), about: About::Settings };
        let Outcome::Refused { reason, .. } = at(refused, &urls[2]) else { panic!() };
        assert_eq!(reason, "HTTP 404 Not Found (POST http://x:1/push)");
    }

    /// What a client that reads 1,000 bytes makes of an answer.
    async fn answered(answer: impl Fn() -> Response<Full<Bytes>> + Clone + Send + Sync + 'static) -> Outcome {
        use crate::serve::{Closed, Endpoint, Limits, Listener, keep};
        let listener = Listener::bind(&Endpoint::Tcp("127.0.0.1:0".into()), "a test", None).await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = hyper::service::service_fn(move |_| {
            let answer = answer();
            async move { Ok::<_, std::convert::Infallible>(answer) }
        });
        let stop = tokio_util::sync::CancellationToken::new();
        let tasks = crate::supervise::Supervisor::new(&Env::production());
        keep(&tasks, "test", listener, (Limits::default(), Closed::default()), service, stop.clone());
        let mut config = OtlpHttpConfig::new(format!("http://{address}"));
        config.max_response_bytes = ByteSize(1_000);
        let client = Http::try_new("exporters.otlphttp", &config, &Env::production()).unwrap();
        let out = client.send(Signal::Logs, &Bytes::new()).await;
        stop.cancel();
        out
    }

    #[tokio::test]
    async fn an_answer_that_cannot_be_read_says_why_and_a_success_stays_one() {
        let zeros = zstd::encode_all(&[0; 10_000][..], 3).unwrap();
        for (encoding, body, says) in [
            ("", vec![b'x'; 1_001], "longer than max_response_bytes"),
            ("zstd", zeros.clone(), "longer than max_response_bytes"),
            ("gzip", b"no gzip".to_vec(), "cannot be decompressed"),
            ("br", b"x".to_vec(), "not implemented"),
        ] {
            let send = |code: u16| {
                let body = Bytes::from(body.clone());
                answered(move || {
                    let mut answer = Response::new(Full::new(body.clone()));
                    *answer.status_mut() = StatusCode::from_u16(code).unwrap();
                    if !encoding.is_empty() {
                        answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
                    }
                    answer
                })
            };
            let Outcome::Refused { reason, about: About::Data } = send(400).await else { panic!("{says}") };
            assert!(reason.starts_with("HTTP 400 Bad Request: ") && reason.contains(says), "{reason}");
            assert_eq!(send(200).await, Outcome::ACCEPTED, "{says}");
        }
    }

    #[tokio::test]
    async fn many_header_fields_and_a_body_that_never_ends_do_not_hide_a_success() {
        let fields: String = (0..1000).map(|n| format!("x-field-{n}: {n}\r\n")).collect();
        for (code, fields, body) in
            [(200, fields.as_str(), "done"), (400, fields.as_str(), "no!!"), (200, "", "d"), (400, "", "n")]
        {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut config = OtlpHttpConfig::new(format!("http://{}", listener.local_addr().unwrap()));
            config.timeout = crate::units::Span::millis(300);
            let client = Http::try_new("x", &config, &Env::production()).unwrap();
            let answer = format!("HTTP/1.1 {code} X\r\ncontent-length: 4\r\n{fields}\r\n{body}");
            let backend = async {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    // A small request comes at once.
                    assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    tokio::spawn(async move { stream.read_to_end(&mut Vec::new()).await });
                }
            };
            let body = Bytes::new();
            let outcome = tokio::select! {
                outcome = client.send(Signal::Traces, &body) => outcome,
                () = backend => unreachable!("it serves for ever"),
            };
            match code {
                200 => assert_eq!(outcome, Outcome::ACCEPTED),
                _ => assert!(matches!(outcome, Outcome::Refused { about: About::Data, .. }), "{outcome:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_backend_that_is_not_there_is_tried_again() {
        let config = OtlpHttpConfig::new("http://127.0.0.1:9");
        let client = Http::try_new("x", &config, &Env::production()).unwrap();
        let out = client.send(Signal::Traces, &Bytes::new()).await;
        assert!(matches!(out, Outcome::Retry { .. }), "{out:?}");
    }
}
