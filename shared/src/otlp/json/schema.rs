//! The messages of OTLP 1.x as tables: for each field its JSON key, its number and how it is written.
//!
//! From `opentelemetry/proto/{common,resource,trace,metrics,logs}/v1` as `opentelemetry-proto` 0.33 has them; the tests compare
//! every message with that crate.

use opentelemetry_proto::tonic::logs::v1::SeverityNumber;
use opentelemetry_proto::tonic::metrics::v1::AggregationTemporality;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

use crate::signal::Signal;

/// A message.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) fields: &'static [Field],
}

impl PartialEq for Message {
    /// Tables refer to each other in circles, so only their addresses are compared.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

/// A field of a message.
#[derive(Debug)]
pub(super) struct Field {
    /// In JSON.
    pub(super) key: &'static str,
    /// In protobuf.
    pub(super) number: u32,
    pub(super) kind: Kind,
    pub(super) shape: Shape,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    String,
    /// Bytes that OTLP JSON writes in hex.
    Hex,
    /// Bytes that OTLP JSON writes in base64.
    Base64,
    Bool,
    Enum(Names),
    Int32,
    Sint32,
    Uint32,
    Fixed32,
    Int64,
    Uint64,
    Fixed64,
    Sfixed64,
    Double,
    Message(&'static Message),
}

/// An enum, whose values have names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    SpanKind,
    StatusCode,
    Temporality,
    Severity,
}

impl Names {
    /// The number of the value `name`.
    pub(super) fn number(self, name: &str) -> Option<i32> {
        Some(match self {
            Self::SpanKind => SpanKind::from_str_name(name)? as i32,
            Self::StatusCode => StatusCode::from_str_name(name)? as i32,
            Self::Temporality => AggregationTemporality::from_str_name(name)? as i32,
            Self::Severity => SeverityNumber::from_str_name(name)? as i32,
        })
    }
}

/// How often a field may stand in its message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Shape {
    /// Once; the default value is not written.
    Implicit,
    /// Once, and written even with its default value: `optional`.
    Explicit,
    /// The same, a member of the message's `oneof`: of several the last counts.
    Member,
    /// Any number of times.
    Repeated,
}

/// The export request of `signal`.
pub(super) const fn request(signal: Signal) -> &'static Message {
    match signal {
        Signal::Traces => &TRACES,
        Signal::Metrics => &METRICS,
        Signal::Logs => &LOGS,
    }
}

const fn one(key: &'static str, number: u32, kind: Kind) -> Field {
    Field { key, number, kind, shape: Shape::Implicit }
}

const fn set(key: &'static str, number: u32, kind: Kind) -> Field {
    Field { key, number, kind, shape: Shape::Explicit }
}

const fn member(key: &'static str, number: u32, kind: Kind) -> Field {
    Field { key, number, kind, shape: Shape::Member }
}

const fn many(key: &'static str, number: u32, kind: Kind) -> Field {
    Field { key, number, kind, shape: Shape::Repeated }
}

const fn message(key: &'static str, number: u32, message: &'static Message) -> Field {
    set(key, number, Kind::Message(message))
}

const fn messages(key: &'static str, number: u32, message: &'static Message) -> Field {
    many(key, number, Kind::Message(message))
}

use Kind::{
    Base64, Bool, Double, Fixed32, Fixed64, Hex, Int32, Int64, Sfixed64, Sint32, String, Uint32, Uint64,
};

/// The other signal whose requests begin with `key`, if `message` is a request.
pub(super) fn signal_of(message: &'static Message, key: &[u8]) -> Option<Signal> {
    let is_request = Signal::ALL.into_iter().any(|signal| std::ptr::eq(request(signal), message));
    let begins = |signal: &Signal| request(*signal).fields.iter().any(|field| field.key.as_bytes() == key);
    Signal::ALL.into_iter().find(begins).filter(|_| is_request)
}

static TRACES: Message = Message { fields: &[messages("resourceSpans", 1, &RESOURCE_SPANS)] };

static METRICS: Message = Message { fields: &[messages("resourceMetrics", 1, &RESOURCE_METRICS)] };

static LOGS: Message = Message { fields: &[messages("resourceLogs", 1, &RESOURCE_LOGS)] };

static RESOURCE: Message = Message {
    fields: &[
        messages("attributes", 1, &KEY_VALUE),
        one("droppedAttributesCount", 2, Uint32),
        messages("entityRefs", 3, &ENTITY_REF),
    ],
};

static ENTITY_REF: Message = Message {
    fields: &[
        one("schemaUrl", 1, String),
        one("type", 2, String),
        many("idKeys", 3, String),
        many("descriptionKeys", 4, String),
    ],
};

static SCOPE: Message = Message {
    fields: &[
        one("name", 1, String),
        one("version", 2, String),
        messages("attributes", 3, &KEY_VALUE),
        one("droppedAttributesCount", 4, Uint32),
    ],
};

static KEY_VALUE: Message = Message {
    fields: &[one("key", 1, String), message("value", 2, &ANY_VALUE), one("keyStrindex", 3, Int32)],
};

pub(super) static ANY_VALUE: Message = Message {
    fields: &[
        member("stringValue", 1, String),
        member("boolValue", 2, Bool),
        member("intValue", 3, Int64),
        member("doubleValue", 4, Double),
        member("arrayValue", 5, Kind::Message(&ARRAY_VALUE)),
        member("kvlistValue", 6, Kind::Message(&KEY_VALUE_LIST)),
        member("bytesValue", 7, Base64),
        member("stringValueStrindex", 8, Int32),
    ],
};

static ARRAY_VALUE: Message = Message { fields: &[messages("values", 1, &ANY_VALUE)] };

static KEY_VALUE_LIST: Message = Message { fields: &[messages("values", 1, &KEY_VALUE)] };

static RESOURCE_SPANS: Message = Message {
    fields: &[
        message("resource", 1, &RESOURCE),
        messages("scopeSpans", 2, &SCOPE_SPANS),
        one("schemaUrl", 3, String),
    ],
};

static SCOPE_SPANS: Message = Message {
    fields: &[message("scope", 1, &SCOPE), messages("spans", 2, &SPAN), one("schemaUrl", 3, String)],
};

static SPAN: Message = Message {
    fields: &[
        one("traceId", 1, Hex),
        one("spanId", 2, Hex),
        one("traceState", 3, String),
        one("parentSpanId", 4, Hex),
        one("name", 5, String),
        one("kind", 6, Kind::Enum(Names::SpanKind)),
        one("startTimeUnixNano", 7, Fixed64),
        one("endTimeUnixNano", 8, Fixed64),
        messages("attributes", 9, &KEY_VALUE),
        one("droppedAttributesCount", 10, Uint32),
        messages("events", 11, &SPAN_EVENT),
        one("droppedEventsCount", 12, Uint32),
        messages("links", 13, &SPAN_LINK),
        one("droppedLinksCount", 14, Uint32),
        message("status", 15, &STATUS),
        one("flags", 16, Fixed32),
    ],
};

static SPAN_EVENT: Message = Message {
    fields: &[
        one("timeUnixNano", 1, Fixed64),
        one("name", 2, String),
        messages("attributes", 3, &KEY_VALUE),
        one("droppedAttributesCount", 4, Uint32),
    ],
};

static SPAN_LINK: Message = Message {
    fields: &[
        one("traceId", 1, Hex),
        one("spanId", 2, Hex),
        one("traceState", 3, String),
        messages("attributes", 4, &KEY_VALUE),
        one("droppedAttributesCount", 5, Uint32),
        one("flags", 6, Fixed32),
    ],
};

static STATUS: Message =
    Message { fields: &[one("message", 2, String), one("code", 3, Kind::Enum(Names::StatusCode))] };

static RESOURCE_METRICS: Message = Message {
    fields: &[
        message("resource", 1, &RESOURCE),
        messages("scopeMetrics", 2, &SCOPE_METRICS),
        one("schemaUrl", 3, String),
    ],
};

static SCOPE_METRICS: Message = Message {
    fields: &[message("scope", 1, &SCOPE), messages("metrics", 2, &METRIC), one("schemaUrl", 3, String)],
};

static METRIC: Message = Message {
    fields: &[
        one("name", 1, String),
        one("description", 2, String),
        one("unit", 3, String),
        member("gauge", 5, Kind::Message(&GAUGE)),
        member("sum", 7, Kind::Message(&SUM)),
        member("histogram", 9, Kind::Message(&HISTOGRAM)),
        member("exponentialHistogram", 10, Kind::Message(&EXPONENTIAL_HISTOGRAM)),
        member("summary", 11, Kind::Message(&SUMMARY)),
        messages("metadata", 12, &KEY_VALUE),
    ],
};

static GAUGE: Message = Message { fields: &[messages("dataPoints", 1, &NUMBER_POINT)] };

static SUM: Message = Message {
    fields: &[
        messages("dataPoints", 1, &NUMBER_POINT),
        one("aggregationTemporality", 2, Kind::Enum(Names::Temporality)),
        one("isMonotonic", 3, Bool),
    ],
};

static HISTOGRAM: Message = Message {
    fields: &[
        messages("dataPoints", 1, &HISTOGRAM_POINT),
        one("aggregationTemporality", 2, Kind::Enum(Names::Temporality)),
    ],
};

static EXPONENTIAL_HISTOGRAM: Message = Message {
    fields: &[
        messages("dataPoints", 1, &EXPONENTIAL_POINT),
        one("aggregationTemporality", 2, Kind::Enum(Names::Temporality)),
    ],
};

static SUMMARY: Message = Message { fields: &[messages("dataPoints", 1, &SUMMARY_POINT)] };

static NUMBER_POINT: Message = Message {
    fields: &[
        one("startTimeUnixNano", 2, Fixed64),
        one("timeUnixNano", 3, Fixed64),
        member("asDouble", 4, Double),
        messages("exemplars", 5, &EXEMPLAR),
        member("asInt", 6, Sfixed64),
        messages("attributes", 7, &KEY_VALUE),
        one("flags", 8, Uint32),
    ],
};

static HISTOGRAM_POINT: Message = Message {
    fields: &[
        one("startTimeUnixNano", 2, Fixed64),
        one("timeUnixNano", 3, Fixed64),
        one("count", 4, Fixed64),
        set("sum", 5, Double),
        many("bucketCounts", 6, Fixed64),
        many("explicitBounds", 7, Double),
        messages("exemplars", 8, &EXEMPLAR),
        messages("attributes", 9, &KEY_VALUE),
        one("flags", 10, Uint32),
        set("min", 11, Double),
        set("max", 12, Double),
    ],
};

static EXPONENTIAL_POINT: Message = Message {
    fields: &[
        messages("attributes", 1, &KEY_VALUE),
        one("startTimeUnixNano", 2, Fixed64),
        one("timeUnixNano", 3, Fixed64),
        one("count", 4, Fixed64),
        set("sum", 5, Double),
        one("scale", 6, Sint32),
        one("zeroCount", 7, Fixed64),
        message("positive", 8, &BUCKETS),
        message("negative", 9, &BUCKETS),
        one("flags", 10, Uint32),
        messages("exemplars", 11, &EXEMPLAR),
        set("min", 12, Double),
        set("max", 13, Double),
        one("zeroThreshold", 14, Double),
    ],
};

static BUCKETS: Message = Message { fields: &[one("offset", 1, Sint32), many("bucketCounts", 2, Uint64)] };

static SUMMARY_POINT: Message = Message {
    fields: &[
        one("startTimeUnixNano", 2, Fixed64),
        one("timeUnixNano", 3, Fixed64),
        one("count", 4, Fixed64),
        one("sum", 5, Double),
        messages("quantileValues", 6, &QUANTILE),
        messages("attributes", 7, &KEY_VALUE),
        one("flags", 8, Uint32),
    ],
};

static QUANTILE: Message = Message { fields: &[one("quantile", 1, Double), one("value", 2, Double)] };

static EXEMPLAR: Message = Message {
    fields: &[
        one("timeUnixNano", 2, Fixed64),
        member("asDouble", 3, Double),
        one("spanId", 4, Hex),
        one("traceId", 5, Hex),
        member("asInt", 6, Sfixed64),
        messages("filteredAttributes", 7, &KEY_VALUE),
    ],
};

static RESOURCE_LOGS: Message = Message {
    fields: &[
        message("resource", 1, &RESOURCE),
        messages("scopeLogs", 2, &SCOPE_LOGS),
        one("schemaUrl", 3, String),
    ],
};

static SCOPE_LOGS: Message = Message {
    fields: &[
        message("scope", 1, &SCOPE),
        messages("logRecords", 2, &LOG_RECORD),
        one("schemaUrl", 3, String),
    ],
};

static LOG_RECORD: Message = Message {
    fields: &[
        one("timeUnixNano", 1, Fixed64),
        one("severityNumber", 2, Kind::Enum(Names::Severity)),
        one("severityText", 3, String),
        message("body", 5, &ANY_VALUE),
        messages("attributes", 6, &KEY_VALUE),
        one("droppedAttributesCount", 7, Uint32),
        one("flags", 8, Fixed32),
        one("traceId", 9, Hex),
        one("spanId", 10, Hex),
        one("observedTimeUnixNano", 11, Fixed64),
        one("eventName", 12, String),
    ],
};
