//! What space-agent and ground-station must agree on.
//!
//! In the order in which data passes: a [`signal`] arrives as [`otlp`], is kept in a [`segment`], crosses the [`link`] and
//! leaves by [`export`]. Around them: [`config`] and [`units`], the [`env`](mod@env) that programs take from their machine,
//! [`clock`], [`compress`], [`files`], [`memory`], [`serve`], [`service`] and [`telemetry`]; under the logs of both programs lies the [`store`].

pub mod clock;
pub mod compress;
pub mod config;
pub mod contact;
pub mod control;
pub mod env;
pub mod export;
pub mod files;
pub mod link;
pub mod memory;
pub mod orbit;
pub mod otlp;
pub mod segment;
pub mod serve;
pub mod service;
pub mod signal;
pub mod store;
pub mod supervise;
pub mod telemetry;
pub mod units;

#[cfg(test)]
#[path = "../../tests/security.rs"]
mod security;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_in_security_md_is_what_the_code_has() {
        let http = export::OtlpHttpConfig::new(String::new());
        let code = security::code([
            ("levels of a value", u64::from(otlp::walk::MAX_DEPTH)),
            ("bytes of the window of a zstd stream", 1 << compress::WINDOW_LOG_MAX),
            ("bytes of a segment's payload", segment::MAX_PAYLOAD),
            ("bytes of a segment, decoded", segment::MAX_RAW),
            ("bytes of the header fields of a request", u64::from(serve::MOST_HEADER_BYTES)),
            ("header fields of an HTTP/1.1 request", serve::MOST_HEADERS as u64),
            (
                "seconds from accepting a connection to its first request head",
                serve::HEADER_TIMEOUT.as_secs(),
            ),
            ("seconds between two requests of a connection", serve::IDLE_TIMEOUT.as_secs()),
            ("bytes of a backend's answer, by default", http.max_response_bytes.0),
            (
                "bytes of the header fields of a backend's answer over gRPC",
                u64::from(export::MOST_ANSWER_HEADER_BYTES),
            ),
            ("characters of a backend's words", export::MAX_TEXT as u64),
            ("redirections of a request", export::MOST_REDIRECTIONS as u64),
            (
                "seconds that a backend may ask to wait, by default",
                http.retry_on_failure.max_retry_after.0.as_secs(),
            ),
        ]);
        assert_eq!(security::bounds("shared"), code);
    }
}
