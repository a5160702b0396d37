//! What lies between tonic and the backend: answers that are no gRPC, and those that tonic cannot take.
//!
//! A proxy answers in HTTP, with a page as the body, which tonic would read as a message. Its status means what gRPC's
//! `http-grpc-status-mapping` says, except that nothing in it is about the data: what that mapping calls INTERNAL or UNKNOWN is
//! UNAVAILABLE here. An answer whose status is 0 was taken, though its message is missing or cannot be read; tonic would make an error of
//! that, and everything would be sent again. tonic 0.14 panics on a `grpc-status-details-bin` that is not base64, so such a field is taken out.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::BodyExt;
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::{Service, ServiceExt};

use super::outcome::{cause, short};
use crate::compress::{Encoding, decompress_capped};

/// Bytes before a message: whether it is compressed, and its length.
pub(super) const PREFIX: usize = 5;

pub(super) const ENCODING: &str = "grpc-encoding";
const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";
const DETAILS: &str = "grpc-status-details-bin";

/// Sends a request and reads the answer to its end: the message of one that was taken, of so many bytes at most, or else its status.
pub(super) async fn exchange(
    mut channel: Channel,
    request: Request<Body>,
    most: usize,
) -> Result<Bytes, Status> {
    channel.ready().await.map_err(|error| Status::unavailable(cause(&error)))?;
    let answer = channel.call(request).await.map_err(|error| Status::from_error(error.into()))?;
    let (mut parts, body) = answer.into_parts();
    check(parts.status, &parts.headers)?;
    read(body, &mut parts.headers, most).await
}

async fn read(mut body: Body, headers: &mut HeaderMap, most: usize) -> Result<Bytes, Status> {
    let (mut data, mut trailers) = (Some(BytesMut::new()), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(bytes) => match &mut data {
                Some(all) if all.len() + bytes.len() <= most + PREFIX => all.extend_from_slice(&bytes),
                _ => data = None,
            },
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    for name in [STATUS, MESSAGE, DETAILS] {
        // Some say everything in the head.
        if let (Some(value), false) = (headers.remove(name), trailers.contains_key(name)) {
            trailers.insert(name, value);
        }
    }
    mend(&mut trailers);
    match Status::from_header_map(&trailers) {
        // What was taken is taken, whatever the message is.
        Some(status) if status.code() == Code::Ok => {
            Ok(data.and_then(|data| message(&data, headers.get(ENCODING), most)).unwrap_or_default())
        }
        Some(status) => Err(status),
        // Nobody can tell what became of the request.
        None => Err(Status::unavailable("the answer ends without a grpc-status")),
    }
}

/// The first message of an answer, if it can be read.
fn message(data: &[u8], encoding: Option<&HeaderValue>, most: usize) -> Option<Bytes> {
    let (prefix, rest) = data.split_first_chunk::<PREFIX>()?;
    let [compressed, length @ ..] = *prefix;
    let message = rest.get(..u32::from_be_bytes(length) as usize)?;
    if compressed == 0 {
        return Some(Bytes::copy_from_slice(message));
    }
    let encoding = Encoding::from_name(encoding?.to_str().ok()?)?;
    decompress_capped(encoding, message, most).ok().map(Bytes::from)
}

/// That the head of an answer is gRPC's.
fn check(code: StatusCode, headers: &HeaderMap) -> Result<(), Status> {
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], |v| v.as_bytes());
    let is_grpc = kind.starts_with(b"application/grpc") && !kind.starts_with(b"application/grpc-web");
    if code == StatusCode::OK && is_grpc {
        return Ok(());
    }
    let means = match code.as_u16() {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        _ => Code::Unavailable,
    };
    let kind = short(&String::from_utf8_lossy(kind));
    Err(Status::new(
        means,
        format!("the answer is HTTP {code} ({kind}) and not gRPC: is a proxy in the way?"),
    ))
}

/// Takes out details that tonic cannot read, and writes words so that it can: what is not UTF-8 becomes U+FFFD. tonic would take an
/// answer with such words for one of UNKNOWN.
fn mend(headers: &mut HeaderMap) {
    if let Some(said) = headers.get(MESSAGE).map(|value| unescaped(value.as_bytes()))
        && let Err(wrong) = String::from_utf8(said)
    {
        let words = escaped(&String::from_utf8_lossy(wrong.as_bytes()));
        headers.insert(MESSAGE, HeaderValue::from_str(&words).unwrap_or(HeaderValue::from_static("")));
    }
    let readable = |value: &HeaderValue| {
        let bytes = value.as_bytes();
        STANDARD_NO_PAD.decode(bytes).is_ok() || STANDARD.decode(bytes).is_ok()
    };
    if !headers.get_all(DETAILS).iter().all(readable) {
        headers.remove(DETAILS);
    }
}

/// `%XX` as the bytes that it stands for; what is no such thing stays.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let (mut out, mut at) = (Vec::with_capacity(text.len()), 0);
    while at < text.len() {
        match (text[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// Text as `grpc-message` has it.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}
