//! The items of an export request, each with what encloses it, as the bytes that they are.

use super::protobuf::{Field, Fields, Malformed, Value};
use crate::signal::Signal;

/// An item and what encloses it. The fields of an enclosing message are all but those that enclose further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Item<'a> {
    /// The fields of `ResourceSpans`, `ResourceMetrics` or `ResourceLogs`.
    pub resource: &'a [u8],
    /// The fields of `ScopeSpans`, `ScopeMetrics` or `ScopeLogs`.
    pub scope: &'a [u8],
    /// The fields of `Metric`, and of its data; empty for other signals.
    pub metric: &'a [u8],
    /// The field of `Metric` that holds its data, else 0.
    pub data: u32,
    /// The span, log record or data point.
    pub body: &'a [u8],
}

/// Calls `each` with every item of a request of `signal`.
pub fn visit(signal: Signal, request: &[u8], mut each: impl FnMut(Item<'_>)) -> Result<(), Malformed> {
    for resource in inner(request, 1) {
        let resource = resource?;
        let of_resource = others(resource, 2)?;
        for scope in inner(resource, 2) {
            let scope = scope?;
            let of_scope = others(scope, 2)?;
            for body in inner(scope, 2) {
                let body = body?;
                let item = Item { resource: &of_resource, scope: &of_scope, metric: &[], data: 0, body };
                if signal == Signal::Metrics { points(item, &mut each)? } else { each(item) }
            }
        }
    }
    Ok(())
}

fn points(metric: Item<'_>, each: &mut impl FnMut(Item<'_>)) -> Result<(), Malformed> {
    for data in [5, 7, 9, 10, 11] {
        let of_metric = others(metric.body, data)?;
        for kind in inner(metric.body, data) {
            let kind = kind?;
            let mut fields = of_metric.clone();
            fields.extend(others(kind, 1)?);
            for body in inner(kind, 1) {
                each(Item { metric: &fields, data, body: body?, ..metric });
            }
        }
    }
    Ok(())
}

/// The messages in field `number` of `message`.
fn inner(message: &[u8], number: u32) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    Fields::new(message).filter_map(move |field| match field {
        Ok(Field { number: n, value: Value::Bytes(bytes), .. }) if n == number => Some(Ok(bytes)),
        Ok(_) => None,
        Err(e) => Some(Err(e)),
    })
}

/// The fields of `message` but number `number`, as they stand.
fn others(message: &[u8], number: u32) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::new();
    for field in Fields::new(message) {
        let field = field?;
        if field.number != number {
            out.extend_from_slice(field.raw);
        }
    }
    Ok(out)
}
