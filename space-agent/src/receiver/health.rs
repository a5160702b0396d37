//! gRPC health checking (`grpc.health.v1.Health/Check`) on the OTLP listener: who asks is answered, so what is asked about serves.

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use perigee_shared::otlp::protobuf::{Fields, Value};
use perigee_shared::otlp::status::Status;
use perigee_shared::signal::Signal;
use tonic::Code;

/// The method's path.
pub(super) const PATH: &str = "/grpc.health.v1.Health/Check";

/// Bytes of a request: a prefix and the name of a service.
const LARGEST: usize = 1024;

/// A `HealthCheckResponse` that says SERVING (field 1, value 1), with its prefix.
pub(super) const SERVING: Bytes = Bytes::from_static(&[0, 0, 0, 0, 2, 0x08, 1]);

/// Whether the service that the request names is here; one that names none asks about all of them.
pub(super) async fn check(body: Incoming) -> Result<(), Status> {
    let malformed = || Status::refuse(Code::InvalidArgument, "not a HealthCheckRequest");
    let body = Limited::new(body, LARGEST).collect().await.map_err(|_| malformed())?.to_bytes();
    let message = body.strip_prefix(&[0]).and_then(|rest| rest.get(4..)).ok_or_else(malformed)?;
    for field in Fields::new(message) {
        let field = field.map_err(|_| malformed())?;
        if let (1, Value::Bytes(name)) = (field.number, field.value)
            && !name.is_empty()
            && !Signal::ALL.into_iter().any(|signal| service_of(signal).as_bytes() == name)
        {
            return Err(Status::refuse(Code::NotFound, "no such service"));
        }
    }
    Ok(())
}

/// The service whose Export takes a signal.
pub(super) fn service_of(signal: Signal) -> &'static str {
    signal.grpc_path().trim_start_matches('/').trim_end_matches("/Export")
}
