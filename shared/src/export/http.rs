//! OTLP over HTTP, as protobuf.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::client::TlsFiles;
use super::config::{Compression, OtlpHttpConfig, TlsConfig};
use super::outcome::{Outcome, accepted, short, status};
use crate::config::Invalid;
use crate::env::Env;
use crate::signal::Signal;

/// An `otlphttp` exporter's client.
pub struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// By signal, in the order of [`Signal::ALL`].
    urls: [Uri; 3],
    headers: HeaderMap,
    compression: Compression,
    timeout: Duration,
    max_response: usize,
    env: Env,
}

impl Http {
    pub(super) fn try_new(key: &str, config: &OtlpHttpConfig, env: &Env) -> Result<Self, Invalid> {
        let urls = urls(key, config)?;
        let tls = client_config(key, config.tls.as_ref().unwrap_or(&TlsConfig::default()))?;
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
            client: Client::builder(TokioExecutor::new()).build(connector),
            urls,
            headers: headers(key, config)?,
            compression: config.compression,
            timeout: config.timeout.0,
            max_response: config.max_response_bytes.as_usize(),
            env: env.clone(),
        })
    }

    pub(super) async fn send(&self, signal: Signal, body: &Bytes) -> Outcome {
        let (body, compression) = (body.clone(), self.compression);
        let body = match self.env.cpu(move || compress(&body, compression)).await {
            Ok(body) => body,
            Err(e) => return Outcome::retry(format!("compression failed: {e}")),
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.urls[signal as usize - 1].clone();
        *request.headers_mut() = self.headers.clone();
        match tokio::time::timeout(self.timeout, self.exchange(request)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::retry(format!("no answer within {:?}", self.timeout)),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Outcome {
        let response = match self.client.request(request).await {
            Ok(response) => response,
            Err(e) => {
                let mut cause: &dyn std::error::Error = &e;
                while let Some(source) = cause.source() {
                    cause = source;
                }
                return Outcome::retry(short(&cause.to_string()));
            }
        };
        let code = response.status();
        let after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| retry_after(v, self.env.unix_nano()));
        let is_protobuf = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|v| v.as_bytes().starts_with(b"application/x-protobuf"));
        // A success whose body is too large, or not ours, is a success all the same.
        let body = Limited::new(response.into_body(), self.max_response).collect().await;
        let body = body.map(|b| b.to_bytes()).unwrap_or_default();
        outcome(code, after, if is_protobuf { &body } else { &[] })
    }
}

fn outcome(code: StatusCode, after: Option<Duration>, body: &[u8]) -> Outcome {
    if code.is_success() {
        return accepted(body);
    }
    let (message, delay) = status(body);
    let reason = if message.is_empty() { format!("HTTP {code}") } else { format!("HTTP {code}: {message}") };
    match code.as_u16() {
        429 | 502 | 503 | 504 => Outcome::Retry { after: after.or(delay), reason },
        413 => Outcome::TooLarge,
        code => Outcome::Refused { reason, misconfigured: matches!(code, 401 | 403 | 404 | 405) },
    }
}

/// `Retry-After` in seconds or as an HTTP date (RFC 9110, 10.2.3), of which the IMF form is understood.
fn retry_after(value: &str, now_unix_nano: u64) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse::<u32>() {
        return Some(Duration::from_secs(u64::from(seconds)));
    }
    let mut parts = value.trim().split_ascii_whitespace().skip(1);
    let day: i64 = parts.next()?.parse().ok()?;
    let month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let name = parts.next()?;
    let month = month.iter().position(|m| *m == name)? as i64 + 1;
    let year: i64 = parts.next().and_then(|y| y.parse().ok()).filter(|y| (1970..10_000).contains(y))?;
    let mut clock = parts.next()?.split(':').map(|n| n.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    // Days from civil, Howard Hinnant, https://howardhinnant.github.io/date_algorithms.html
    let y = year - i64::from(month <= 2);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let (era, year_of_era) = (y / 400, y % 400);
    let days =
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    let at = u64::try_from(days * 86_400 + hour * 3600 + minute * 60 + second).ok()?;
    Some(Duration::from_secs(at.saturating_sub(now_unix_nano / 1_000_000_000)))
}

fn compress(body: &Bytes, compression: Compression) -> std::io::Result<Bytes> {
    match compression {
        Compression::None => Ok(body.clone()),
        Compression::Zstd => zstd::encode_all(body.as_ref(), 3).map(Bytes::from),
        Compression::Gzip => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(body)?;
            out.finish().map(Bytes::from)
        }
    }
}

fn urls(key: &str, config: &OtlpHttpConfig) -> Result<[Uri; 3], Invalid> {
    let wrong = |message: String| Invalid::new(format!("{key}.endpoint"), message);
    let base = config.endpoint.trim_end_matches('/');
    let mut out = std::array::from_fn(|_| Uri::default());
    for signal in Signal::ALL {
        let uri: Uri = format!("{base}{}", signal.http_path())
            .parse()
            .map_err(|e| wrong(format!("is not a URL ({e}); write http://HOST:PORT or https://HOST:PORT")))?;
        match uri.scheme_str() {
            Some("http") if config.tls.is_some() => {
                return Err(wrong("begins with http:// but tls is set; write https://".to_owned()));
            }
            Some("http" | "https") => {}
            _ => return Err(wrong("must begin with http:// or https://".to_owned())),
        }
        out[signal as usize - 1] = uri;
    }
    Ok(out)
}

fn headers(key: &str, config: &OtlpHttpConfig) -> Result<HeaderMap, Invalid> {
    let mut out = HeaderMap::new();
    out.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    out.insert(USER_AGENT, HeaderValue::from_static(concat!("perigee/", env!("CARGO_PKG_VERSION"))));
    match config.compression {
        Compression::Gzip => drop(out.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"))),
        Compression::Zstd => drop(out.insert(CONTENT_ENCODING, HeaderValue::from_static("zstd"))),
        Compression::None => {}
    }
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

fn client_config(key: &str, config: &TlsConfig) -> Result<rustls::ClientConfig, Invalid> {
    let invalid = |name: &str, message: String| Invalid::new(format!("{key}.tls{name}"), message);
    let files = TlsFiles::read(key, config)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| invalid("", e.to_string()))?;
    let builder = match files.ca {
        None => hyper_rustls::ConfigBuilderExt::with_native_roots(builder)
            .map_err(|e| invalid("", format!("the system's authorities cannot be read: {e}; set ca_file")))?,
        Some(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|e| invalid(".ca_file", format!("is not PEM: {e}")))?;
                roots.add(certificate).map_err(|e| invalid(".ca_file", format!("is no authority: {e}")))?;
            }
            if roots.is_empty() {
                return Err(invalid(".ca_file", "has no certificate in it".to_owned()));
            }
            builder.with_root_certificates(roots)
        }
    };
    let Some((cert, private)) = files.identity else { return Ok(builder.with_no_client_auth()) };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&cert)
        .collect::<Result<_, _>>()
        .map_err(|e| invalid(".cert_file", format!("is not PEM: {e}")))?;
    let private = PrivateKeyDer::from_pem_slice(&private)
        .map_err(|e| invalid(".key_file", format!("has no private key: {e}")))?;
    builder
        .with_client_auth_cert(chain, private)
        .map_err(|e| invalid(".cert_file", format!("does not go with key_file: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_mean_what_the_specification_says() {
        for code in (100..600).filter_map(|c| StatusCode::from_u16(c).ok()) {
            let out = outcome(code, None, &[]);
            let retryable = matches!(code.as_u16(), 429 | 502 | 503 | 504);
            assert_eq!(matches!(out, Outcome::Retry { .. }), retryable, "{code}");
            assert_eq!(matches!(out, Outcome::TooLarge), code.as_u16() == 413);
            assert_eq!(matches!(out, Outcome::Accepted { .. }), code.is_success());
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
        ] {
            let result = Http::try_new("exporters.otlphttp", &OtlpHttpConfig::new(text), &Env::production());
            assert_eq!(result.is_ok(), ok, "{text}");
        }
        let urls = urls("x", &OtlpHttpConfig::new("http://localhost:9090/api/v1/otlp/")).unwrap();
        assert_eq!(urls[1].path(), "/api/v1/otlp/v1/metrics");
    }

    #[tokio::test]
    async fn a_backend_that_is_not_there_is_tried_again() {
        let config = OtlpHttpConfig::new("http://127.0.0.1:9");
        let client = Http::try_new("x", &config, &Env::production()).unwrap();
        let out = client.send(Signal::Traces, &Bytes::new()).await;
        assert!(matches!(out, Outcome::Retry { .. }), "{out:?}");
    }
}
