//! What a backend said to a request.

use std::time::Duration;

use crate::otlp::protobuf::{Fields, Value};

/// The longest text of a backend that is kept, in characters.
pub(crate) const MAX_TEXT: usize = 200;

/// What came of sending one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The backend has it.
    Accepted {
        /// Items that it refused for good all the same (`partial_success`).
        rejected: u64,
        /// What it said about them, cut short.
        message: String,
    },
    /// Not now: send the same again.
    Retry {
        /// How long the backend asks to wait.
        after: Option<Duration>,
        /// Why, without payload.
        reason: String,
    },
    /// Too large for the backend: send it in pieces.
    TooLarge {
        /// What it said.
        reason: String,
        /// A proxy said so, whose limit somebody can raise: what cannot be cut any more waits for that.
        proxy: bool,
    },
    /// Refused for good.
    Refused {
        /// Why, without payload.
        reason: String,
        /// What the answer is about.
        about: About,
    },
}

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// The data: something in it is refused.
    Data,
    /// The data or the backend, which does not say which.
    Perhaps,
    /// The way to the backend or this exporter's settings (credentials, address, method): every request would be refused, so it
    /// is held until somebody has mended them.
    Settings,
}

impl Outcome {
    /// Everything was accepted.
    pub const ACCEPTED: Self = Self::Accepted { rejected: 0, message: String::new() };

    /// These bytes are no OTLP request.
    pub(super) fn unreadable() -> Self {
        Self::Refused { reason: "the request cannot be read".to_owned(), about: About::Data }
    }

    pub(super) fn retry(reason: impl Into<String>) -> Self {
        Self::Retry { after: None, reason: reason.into() }
    }
}

/// A backend's text, cut short and without control characters.
pub(super) fn short(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The innermost cause of an error: what an operator can act on.
pub(super) fn cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    short(&error.to_string())
}

/// Reads an `Export*ServiceResponse`, which has one shape for all signals. A response that cannot be read says nothing, and
/// the request was accepted.
pub(super) fn accepted(response: &[u8]) -> Outcome {
    let (mut rejected, mut message) = (0, String::new());
    for field in Fields::new(response).map_while(Result::ok) {
        let (1, Value::Bytes(partial)) = (field.number, field.value) else { continue };
        for field in Fields::new(partial).map_while(Result::ok) {
            match (field.number, field.value) {
                // An int64: a negative number makes no sense and is none.
                (1, Value::Varint(n)) => rejected = i64::try_from(n).unwrap_or(0) as u64,
                (2, Value::Bytes(text)) => message = short(&String::from_utf8_lossy(text)),
                _ => {}
            }
        }
    }
    Outcome::Accepted { rejected, message }
}

/// The same in OTLP JSON.
pub(super) fn accepted_json(response: &[u8]) -> Outcome {
    let response: serde_json::Value = serde_json::from_slice(response).unwrap_or_default();
    let partial = &response["partialSuccess"];
    let number = |v: &serde_json::Value| v.as_u64().or_else(|| v.as_str()?.parse().ok());
    let rejected = ["rejectedSpans", "rejectedDataPoints", "rejectedLogRecords"];
    let rejected = rejected.iter().find_map(|name| number(&partial[name])).unwrap_or(0);
    Outcome::Accepted { rejected, message: short(partial["errorMessage"].as_str().unwrap_or_default()) }
}

/// What an answer in JSON says, as OTLP has it or as others write it, and the delay of a `RetryInfo`.
pub(super) fn status_json(body: &[u8]) -> (String, Option<Duration>) {
    let Ok(said) = serde_json::from_slice::<serde_json::Value>(body) else {
        return (short(&String::from_utf8_lossy(body)), None);
    };
    let words = ["message", "error", "errorMessage"].iter().find_map(|name| said[name].as_str());
    let delays = said["details"].as_array().into_iter().flatten();
    let mut delays = delays.filter_map(|d| d["retryDelay"].as_str()?.strip_suffix('s')?.parse::<f64>().ok());
    let delay = delays.find(|d| d.is_finite() && *d >= 0.0).map(|d| Duration::from_secs_f64(d.min(4e9)));
    (words.map_or_else(|| short(&String::from_utf8_lossy(body)), short), delay)
}

/// What a `google.rpc.Status` says: its message, and the delay of a `RetryInfo` in its details.
pub(super) fn status(body: &[u8]) -> (String, Option<Duration>) {
    let (mut message, mut delay) = (String::new(), None);
    for field in Fields::new(body).map_while(Result::ok) {
        match (field.number, field.value) {
            (2, Value::Bytes(text)) => message = short(&String::from_utf8_lossy(text)),
            (3, Value::Bytes(any)) => delay = retry_info(any).or(delay),
            _ => {}
        }
    }
    (message, delay)
}

/// The delay in a `google.protobuf.Any` that holds a `google.rpc.RetryInfo`.
fn retry_info(any: &[u8]) -> Option<Duration> {
    let (mut is_retry_info, mut value) = (false, &[][..]);
    for field in Fields::new(any).map_while(Result::ok) {
        match (field.number, field.value) {
            (1, Value::Bytes(url)) => is_retry_info = url.ends_with(b"/google.rpc.RetryInfo"),
            (2, Value::Bytes(bytes)) => value = bytes,
            _ => {}
        }
    }
    if !is_retry_info {
        return None;
    }
    let mut delay = Duration::ZERO;
    for field in Fields::new(value).map_while(Result::ok) {
        let (1, Value::Bytes(duration)) = (field.number, field.value) else { continue };
        for field in Fields::new(duration).map_while(Result::ok) {
            match (field.number, field.value) {
                (1, Value::Varint(seconds)) => {
                    delay += Duration::from_secs(u64::from(u32::try_from(seconds).unwrap_or(0)));
                }
                (2, Value::Varint(nanos)) => delay += Duration::from_nanos(nanos.min(999_999_999)),
                _ => {}
            }
        }
    }
    Some(delay)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::otlp::protobuf::{put_bytes, put_tag, put_varint};

    /// A `google.rpc.Status` with a `RetryInfo` of so many seconds.
    pub(in crate::export) fn status_with_retry(message: &str, seconds: u64) -> Vec<u8> {
        let (mut duration, mut info, mut any, mut out) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        put_tag(&mut duration, 1, 0);
        put_varint(&mut duration, seconds);
        put_bytes(&mut info, 1, &duration);
        put_bytes(&mut any, 1, b"type.googleapis.com/google.rpc.RetryInfo");
        put_bytes(&mut any, 2, &info);
        put_bytes(&mut out, 2, message.as_bytes());
        put_bytes(&mut out, 3, &any);
        out
    }

    #[test]
    fn a_status_gives_its_delay() {
        assert_eq!(status(&status_with_retry("busy", 7)), ("busy".to_owned(), Some(Duration::from_secs(7))));
        assert_eq!(status(b"\xff"), (String::new(), None));
    }

    #[test]
    fn rejected_items_are_counted_and_nonsense_is_none() {
        let mut partial = Vec::new();
        put_tag(&mut partial, 1, 0);
        put_varint(&mut partial, 3);
        put_bytes(&mut partial, 2, "out of\nrange".as_bytes());
        let mut response = Vec::new();
        put_bytes(&mut response, 1, &partial);
        assert_eq!(
            accepted(&response),
            Outcome::Accepted { rejected: 3, message: "out of range".to_owned() }
        );
        assert_eq!(accepted(&[]), Outcome::ACCEPTED);
        assert_eq!(accepted(&[0xff; 20]), Outcome::ACCEPTED);
    }
}
