//! The tree that every export request is: resources hold scopes, scopes hold spans, log records or metrics, metrics hold data
//! points. The numbers of its branches, and how its leaves are counted.

use super::protobuf::{Field, Fields, Malformed, Value};

/// The field of a request that holds its resources.
pub const RESOURCES: u32 = 1;

/// The field of a resource's branch that holds its scopes.
pub const SCOPES: u32 = 2;

/// The field of a scope's branch that holds its spans, log records or metrics.
pub const LEAVES: u32 = 2;

/// The field of a resource's or a scope's branch that says which resource or scope it is.
pub const NAME: u32 = 1;

/// The field numbers of a `Metric` that hold data points: gauge, sum, histogram, exponential histogram, summary.
pub const POINTS: [u32; 5] = [5, 7, 9, 10, 11];

/// The field of a `Metric`'s data that holds its data points.
pub const POINT: u32 = 1;

/// The payload of a field that must be a message.
pub fn message<'a>(field: &Field<'a>) -> Result<&'a [u8], Malformed> {
    match field.value {
        Value::Bytes(bytes) => Ok(bytes),
        _ => Err(Malformed("a message field is not a message")),
    }
}

/// Shows `each` every span, log record or metric of an export request.
pub fn leaves<'a>(
    request: &'a [u8],
    mut each: impl FnMut(&'a [u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    for resource in branches(request, RESOURCES) {
        for scope in branches(resource?, SCOPES) {
            for leaf in branches(scope?, LEAVES) {
                each(leaf?)?;
            }
        }
    }
    Ok(())
}

/// The messages in the fields `number` of a message.
pub fn branches(message_bytes: &[u8], number: u32) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    messages(message_bytes, move |n| n == number)
}

/// What holds the data points of a `Metric`, in their field [`POINT`].
pub fn data(metric: &[u8]) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    messages(metric, |n| POINTS.contains(&n))
}

fn messages(
    message_bytes: &[u8],
    wanted: impl Fn(u32) -> bool,
) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    Fields::new(message_bytes).filter_map(move |field| match field {
        Ok(field) if !wanted(field.number) => None,
        Ok(field) => Some(message(&field)),
        Err(malformed) => Some(Err(malformed)),
    })
}

/// How many data points a `Metric` has.
pub fn points(metric: &[u8]) -> Result<u64, Malformed> {
    let mut n = 0;
    for data in data(metric) {
        for point in branches(data?, POINT) {
            point?;
            n += 1;
        }
    }
    Ok(n)
}
