//! `google.rpc.Status`, the body of every OTLP error, with the delay after which a client may try again.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tonic::Code;

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<ProtoDuration>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
struct ProtoDuration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// An answer other than success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The gRPC code.
    pub code: Code,
    /// For people.
    pub message: String,
    /// After how long the client may try again; `None` with a code that is for good.
    pub retry_after: Option<Duration>,
}

impl Status {
    /// A refusal for good.
    pub fn refuse(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    /// A refusal for now: `UNAVAILABLE` with RetryInfo, 503 with Retry-After.
    pub fn unavailable(message: impl Into<String>, retry_after: Duration) -> Self {
        Self { code: Code::Unavailable, message: message.into(), retry_after: Some(retry_after) }
    }

    /// `google.rpc.Status` as protobuf.
    pub fn to_protobuf(&self) -> Bytes {
        let details = self.retry_after.map(|delay| {
            let retry_delay =
                Some(ProtoDuration { seconds: delay.as_secs() as i64, nanos: delay.subsec_nanos() as i32 });
            Any { type_url: RETRY_INFO.to_owned(), value: RetryInfo { retry_delay }.encode_to_vec() }
        });
        RpcStatus {
            code: self.code as i32,
            message: self.message.clone(),
            details: details.into_iter().collect(),
        }
        .encode_to_vec()
        .into()
    }

    /// `google.rpc.Status` as JSON.
    pub fn to_json(&self) -> Bytes {
        let details: Vec<_> = self
            .retry_after
            .map(|delay| serde_json::json!({"@type": RETRY_INFO, "retryDelay": format!("{}s", delay.as_secs_f64())}))
            .into_iter()
            .collect();
        serde_json::json!({"code": self.code as i32, "message": self.message, "details": details})
            .to_string()
            .into()
    }

    /// For gRPC, the details in it.
    pub fn to_tonic(&self) -> tonic::Status {
        match self.retry_after {
            Some(_) => tonic::Status::with_details(self.code, &self.message, self.to_protobuf()),
            None => tonic::Status::new(self.code, &self.message),
        }
    }
}

/// The retry delay in the `google.rpc.Status` that a backend has sent, if it is there.
pub fn retry_delay(status: &[u8]) -> Option<Duration> {
    let status = RpcStatus::decode(status).ok()?;
    let info = status.details.iter().find(|d| d.type_url == RETRY_INFO)?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay?;
    Some(Duration::new(u64::try_from(delay.seconds).ok()?, u32::try_from(delay.nanos).ok()?.min(999_999_999)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retryable_status_carries_its_delay() {
        let status = Status::unavailable("full", Duration::from_millis(1500));
        assert_eq!(retry_delay(&status.to_protobuf()), Some(Duration::from_millis(1500)));
        assert_eq!(retry_delay(&Status::refuse(Code::InvalidArgument, "no").to_protobuf()), None);
        let json: serde_json::Value = serde_json::from_slice(&status.to_json()).unwrap();
        assert_eq!(
            (json["code"].as_i64(), json["details"][0]["retryDelay"].as_str()),
            (Some(14), Some("1.5s"))
        );
        assert_eq!(retry_delay(b"\xff\xff"), None);
    }
}
