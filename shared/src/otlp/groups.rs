//! Groups, a way to nest from before proto3: OTLP has none, and a reader skips those that it does not know.
//!
//! Everything behind the receiver reads messages without groups, so a request that has some is written again without them. What
//! stands beside them stays as it came.

use super::protobuf::{Fields, Malformed, Value, put_bytes, varint};
use super::walk::Inner;

/// Groups inside one another.
const MAX_DEPTH: usize = 64;

const START: u64 = 3;
const END: u64 = 4;

/// `message` without its unknown groups, nor those in messages that it knows.
pub(super) fn without(of: Inner, message: &[u8], depth: u32) -> Result<Vec<u8>, Malformed> {
    let deeper = depth.checked_sub(1).ok_or(Malformed("messages are nested too deeply"))?;
    let (mut out, mut rest) = (Vec::with_capacity(message.len()), message);
    while !rest.is_empty() {
        let (tag, length) = varint(rest)?;
        match tag & 7 {
            START if of.is_known(tag >> 3) => return Err(Malformed("a field has the wrong wire type")),
            START => rest = behind(tag >> 3, &rest[length..])?,
            END => return Err(Malformed("a group ends that has not begun")),
            _ => {
                let Some(field) = Fields::new(rest).next().transpose()? else { break };
                rest = &rest[field.raw.len()..];
                match (of.inner(field.number), field.value) {
                    (Some(inner), Value::Bytes(bytes)) => {
                        put_bytes(&mut out, field.number, &without(inner, bytes, deeper)?);
                    }
                    _ => out.extend_from_slice(field.raw),
                }
            }
        }
    }
    Ok(out)
}

/// What follows the group `number`, whose start was read.
fn behind(number: u64, mut rest: &[u8]) -> Result<&[u8], Malformed> {
    let mut open = vec![number];
    while let Some(innermost) = open.last() {
        let (tag, length) = varint(rest)?;
        match (tag & 7, tag >> 3) {
            (_, 0) => return Err(Malformed("field number out of range")),
            (START, _) if open.len() == MAX_DEPTH => return Err(Malformed("groups are nested too deeply")),
            (START, number) => {
                open.push(number);
                rest = &rest[length..];
            }
            (END, number) if number == *innermost => {
                open.pop();
                rest = &rest[length..];
            }
            (END, _) => return Err(Malformed("a group ends that has not begun")),
            _ => {
                let field = Fields::new(rest).next().ok_or(Malformed("a group has no end"))??;
                rest = &rest[field.raw.len()..];
            }
        }
    }
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use prost::Message as _;

    use crate::otlp::protobuf::{Malformed, put_bytes, put_tag, put_varint};
    use crate::otlp::walk::{walk, without_groups};
    use crate::signal::Signal;

    /// A group 30 with a number, a string and a group of its own.
    fn group() -> Vec<u8> {
        let mut out = Vec::new();
        put_tag(&mut out, 30, 3);
        put_tag(&mut out, 1, 0);
        put_varint(&mut out, 7);
        put_bytes(&mut out, 2, b"x");
        put_tag(&mut out, 31, 3);
        put_tag(&mut out, 31, 4);
        put_tag(&mut out, 30, 4);
        out
    }

    fn wrapped(number: u32, parts: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, number, &parts.concat());
        out
    }

    #[test]
    fn an_unknown_group_is_skipped_and_what_stands_beside_it_stays() {
        let record = LogRecord { time_unix_nano: 7, event_name: "a".into(), ..LogRecord::default() };
        let record = record.encode_to_vec();
        let unknown = wrapped(40, &[&group()]);
        // In the record, beside it, and around; also one in a field that nobody knows, which stays.
        let odd = wrapped(2, &[&group(), &record, &group(), &unknown]);
        let odd =
            [group(), wrapped(1, &[&group(), &wrapped(2, &[&odd, &group()]), &group()]), group()].concat();
        assert_eq!(walk(Signal::Logs, &odd), Err(Malformed::GROUP));
        let body = without_groups(Signal::Logs, &odd).unwrap();
        let kept = wrapped(1, &[&wrapped(2, &[&wrapped(2, &[&record, &unknown])])]);
        assert_eq!(body, kept);
        assert_eq!(walk(Signal::Logs, &body).unwrap().items, 1);
        let log_records = vec![LogRecord::decode(&record[..]).unwrap()];
        let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
        let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
        // So does the reference.
        assert_eq!(
            ExportLogsServiceRequest::decode(&odd[..]).unwrap(),
            ExportLogsServiceRequest { resource_logs }
        );
    }

    #[test]
    fn a_group_that_is_not_whole_or_stands_for_a_known_field_is_refused() {
        let whole = group();
        for cut in 1..whole.len() {
            assert!(without_groups(Signal::Logs, &whole[..cut]).is_err(), "{cut}");
        }
        let mut known = Vec::new();
        put_tag(&mut known, 1, 3);
        put_tag(&mut known, 1, 4);
        assert!(without_groups(Signal::Logs, &known).is_err());
        let mut crossed = Vec::new();
        for (number, kind) in [(30, 3), (31, 3), (30, 4), (31, 4)] {
            put_tag(&mut crossed, number, kind);
        }
        assert!(without_groups(Signal::Logs, &crossed).is_err());
        let mut deep = Vec::new();
        (0..100_000).for_each(|_| put_tag(&mut deep, 30, 3));
        (0..100_000).for_each(|_| put_tag(&mut deep, 30, 4));
        assert!(without_groups(Signal::Logs, &deep).is_err());
    }
}
